"""How many chips each design gets: few first, more for those that may be on the front."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from simulator.search.objective import Goals

AGREEING = 4
"""Chips that must differ by the same amount before that is believed."""
Values = Mapping[str, float | Sequence[float]]


@dataclass(frozen=True)
class Fidelity:
    """Rungs of chips: every design is measured on the first few, and goes on while nothing beats it for certain.

    After each rung a design is dropped when another one is better on paired differences, chip by chip on common random numbers,
    in every goal that differs. One-sided t-tests share what `confidence` leaves over all rivals (Bonferroni): the chance that a rung
    drops a design which no rival beats is at most 1 - `confidence`, however many there are.

    Parameters
    ----------
    first
        Chips of the first rung, at least 2.
    factor
        How many times as many the next rung has.
    confidence
        Of dropping a design, against all its rivals together.
    batch
        Designs that compete at once where the strategy has no batches of its own.

    Examples
    --------
    >>> Fidelity(first=2, factor=2).rungs(12)
    [2, 4, 8, 12]
    """

    first: int = 2
    factor: int = 2
    confidence: float = 0.95
    batch: int = 32

    def __post_init__(self) -> None:
        for name in ("first", "factor"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 2:
                raise ValueError(f"Argument `{name}` of Fidelity must be an integer of at least 2, but got {value!r}")
        if not 0.5 <= self.confidence < 1:
            raise ValueError(f"Argument `confidence` of Fidelity must be from 0.5 to below 1, but got {self.confidence!r}")
        if isinstance(self.batch, bool) or not isinstance(self.batch, int) or self.batch < 1:
            raise ValueError(f"Argument `batch` of Fidelity must be an integer of at least 1, but got {self.batch!r}")

    def rungs(self, chips: int) -> list[int]:
        """Return the numbers of chips at which designs are compared, up to `chips`."""
        found = [min(self.first, chips)]
        while found[-1] < chips:
            found.append(min(found[-1] * self.factor, chips))
        return found

    def beaten(self, values: Values, others: Sequence[Values], goals: Goals, chips: int) -> bool:
        """Return whether one of the others is better for certain.

        Parameters
        ----------
        values
            Of the design in question, on `chips` chips.
        others
            Of designs measured on at least as many.
        goals
            What is better.
        chips
            How many.
        """
        confidence = 1 - (1 - self.confidence) / max(1, len(others))
        return any(self._beats(other, values, goals, chips, confidence) for other in others)

    def _beats(self, better: Values, worse: Values, goals: Goals, chips: int, confidence: float) -> bool:
        if not _feasible(better, goals):
            return False
        strictly = False
        for name, direction in goals.directions.items():
            sign = 1.0 if direction == "minimize" else -1.0
            first, second = _chips(better[name], chips), _chips(worse[name], chips)
            difference = sign * (second - first)  # above 0 where `better` is better
            mean, error = float(difference.mean()), float(difference.std(ddof=1)) / math.sqrt(chips) if chips > 1 else 0.0
            noisy = not (isinstance(better[name], int | float) and isinstance(worse[name], int | float))
            if error == 0.0:
                # Few chips may agree by chance where a metric has steps, as accuracy on a small test set does.
                if mean < 0 or (mean > 0 and noisy and chips < AGREEING):
                    return False
                strictly |= mean > 0
            elif special.stdtr(chips - 1, mean / error) >= confidence:
                strictly = True
            else:
                return False
        return strictly


def _chips(value: float | Sequence[float], chips: int) -> npt.NDArray[np.float64]:
    """Return a value per chip; a number is the same on all of them."""
    return np.full(chips, value) if isinstance(value, int | float) else np.asarray(value[:chips], dtype=np.float64)


def _feasible(values: Values, goals: Goals) -> bool:
    return goals.feasible({name: float(np.mean(values[name])) for name in goals.names})
