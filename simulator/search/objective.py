"""What a sweep asks of a design: pure functions, what is better, what is allowed, and what became of an evaluation."""

import math
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

DIRECTIONS = ("minimize", "maximize")


@dataclass(frozen=True)
class Context:
    """What an objective is told beside the configuration.

    Attributes
    ----------
    seed
        Of every draw; the same for all designs, so that they are compared on common random numbers.
    chips
        Which programmed instances to measure: chip k of any design has the same random numbers.
    """

    seed: int
    chips: range


class Objective(Protocol):
    """A pure function: the same configuration and context always give the same values.

    It returns a number, or numbers by name; a list in place of a number holds one value for each chip of the context.
    """

    def __call__(self, configuration: dict[str, Any], context: Context, /) -> float | Mapping[str, float | Sequence[float]]:
        """Evaluate a design."""


@dataclass(frozen=True)
class Limit:
    """A bound that a design must keep.

    Attributes
    ----------
    name
        The value it is on.
    low, high
        Least and greatest allowed value; None: no bound on that side.
    """

    name: str
    low: float | None
    high: float | None

    def violation(self, value: float) -> float:
        """Return how far a value is outside, 0 or below where it is allowed."""
        below = -math.inf if self.low is None else self.low - value
        above = -math.inf if self.high is None else value - self.high
        return max(below, above)


@dataclass(frozen=True)
class Goals:
    """What is optimized, and within which limits.

    Attributes
    ----------
    directions
        "minimize" or "maximize", by the name of the value.
    limits
        Bounds on values, which need not be goals.

    Examples
    --------
    >>> goals = Goals.read({"accuracy": "maximize"}, {"energy_j": (None, 1e-6)})
    >>> goals.costs({"accuracy": 0.9, "energy_j": 1e-7}), goals.feasible({"accuracy": 0.9, "energy_j": 1e-3})
    ((-0.9,), False)
    """

    directions: Mapping[str, str]
    limits: tuple[Limit, ...] = ()

    @classmethod
    def read(cls, directions: Mapping[str, str], limits: Mapping[str, tuple[float | None, float | None]] | None = None) -> "Goals":
        """Check what a user gave; raises ValueError."""
        if not isinstance(directions, Mapping) or not directions:
            raise ValueError(
                f'Argument `goals` must be a dict such as {{"accuracy": "maximize", "energy_j": "minimize"}}, but got {directions!r}'
            )
        for name, direction in directions.items():
            if direction not in DIRECTIONS:
                raise ValueError(f'Argument `goals` must have "minimize" or "maximize" for `{name}`, but got {direction!r}')
        found = []
        for name, ends in (limits or {}).items():
            good = isinstance(ends, tuple | list) and len(ends) == 2 and any(end is not None for end in ends)
            if not good or any(end is not None and (isinstance(end, bool) or not isinstance(end, int | float)) for end in ends):
                raise ValueError(f"Argument `limits` must have (least, greatest) for `{name}`, None where free, but got {ends!r}")
            found.append(Limit(name, ends[0], ends[1]))
        return cls(dict(directions), tuple(found))

    @property
    def names(self) -> list[str]:
        """Values that every evaluation must return."""
        return list(dict.fromkeys([*self.directions, *(limit.name for limit in self.limits)]))

    def costs(self, values: Mapping[str, float]) -> tuple[float, ...]:
        """Return the goals so that less is better."""
        return tuple(values[name] if direction == "minimize" else -values[name] for name, direction in self.directions.items())

    def violations(self, values: Mapping[str, float]) -> tuple[float, ...]:
        """Return how far each limit is missed."""
        return tuple(limit.violation(values[limit.name]) for limit in self.limits)

    def feasible(self, values: Mapping[str, float]) -> bool:
        """Return whether all limits are kept."""
        return all(violation <= 0 for violation in self.violations(values))


@dataclass(frozen=True)
class Outcome:
    """What became of one evaluation.

    Attributes
    ----------
    values
        Numbers by name, or a list with a number per chip; None where it failed.
    error, trace
        The failure in one line, and its traceback.
    lost
        Whether the machine failed and not the objective: such a failure is tried again when the sweep is resumed.
    seconds
        How long it took.
    worker
        Who computed it.
    """

    values: dict[str, float | list[float]] | None
    error: str = ""
    trace: str = ""
    lost: bool = False
    seconds: float = 0.0
    worker: str = ""


@dataclass(frozen=True)
class Evaluator:
    """Calls an objective and turns whatever it does into an `Outcome`; this is what travels to the workers."""

    objective: Objective
    goals: Goals

    def __call__(self, configuration: dict[str, Any], context: Context) -> Outcome:
        """Evaluate one configuration."""
        start = time.perf_counter()
        try:
            values = read_values(self.objective(dict(configuration), context), self.goals, len(context.chips))
        except (Exception, SystemExit) as error:
            line = f"{type(error).__name__}: {' '.join(str(error).split())}"
            return Outcome(None, line, traceback.format_exc(), seconds=time.perf_counter() - start)
        return Outcome(values, seconds=time.perf_counter() - start)


def read_values(returned: Any, goals: Goals, chips: int) -> dict[str, float | list[float]]:
    """Return what an objective returned as plain finite numbers.

    Parameters
    ----------
    returned
        A number, or a mapping of numbers and of lists with a number per chip.
    goals
        Whose values must be there and finite; other values that are not finite are left out.
    chips
        Length of a list.

    Raises
    ------
    ValueError
        If a value is missing, not a number, NaN or infinite, or a list has another length.

    Examples
    --------
    >>> read_values({"loss": [1, 2]}, Goals.read({"loss": "minimize"}), 2)
    {'loss': [1.0, 2.0]}
    """
    if not isinstance(returned, Mapping):
        if len(goals.directions) > 1:
            raise ValueError(f"An objective with several goals must return a dict with {', '.join(goals.names)}, but returned {returned!r}")
        returned = {next(iter(goals.directions)): returned}
    for name in goals.names:
        if name not in returned:
            raise ValueError(f"An objective must return `{name}`, but returned {', '.join(map(str, returned)) or 'nothing'}")
    found: dict[str, float | list[float]] = {}
    for name, value in returned.items():
        number = _numbers(str(name), value, chips)
        finite = all(math.isfinite(one) for one in (number if isinstance(number, list) else [number]))
        if finite:
            found[str(name)] = number
        elif name in goals.names:
            raise ValueError(f"An objective must return finite numbers, but `{name}` is {number!r}: a failure, not a best value")
    return found


def _numbers(name: str, value: Any, chips: int) -> float | list[float]:
    try:
        if hasattr(value, "tolist"):  # arrays and tensors of numpy and torch
            value = value.tolist()
        if isinstance(value, Sequence) and not isinstance(value, str | bytes):
            numbers = [float(one) for one in value]
            if len(numbers) != chips:
                raise ValueError(f"An objective must return one `{name}` per chip, {chips}, but returned {len(numbers)}")
            return numbers
        if isinstance(value, str | bytes):
            raise TypeError("it is a text")
        return float(value)
    except TypeError as error:
        raise ValueError(f"An objective must return numbers, but `{name}` is {value!r}: {error}") from error
