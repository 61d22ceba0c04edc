"""The trials of a sweep: each design with what was measured of it, from the store or anew, and how jobs come out of that."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from simulator.fingerprints import digest
from simulator.search.fidelity import Values
from simulator.search.objective import Goals, Outcome
from simulator.search.space import Configuration, written_value
from simulator.search.store import Row, Store


@dataclass(slots=True)
class Trial:
    """One design of a sweep.

    Attributes
    ----------
    number
        Its place in the sweep.
    configuration, key
        The design, and what its evaluations have in the store.
    chips
        Programmed instances that were measured.
    values
        A number or a list with one per chip, by name; None before anything was measured, and where it failed.
    error
        The failure in one line; empty where there is none.
    dropped
        Whether another design was better for certain before all chips were measured.
    seconds
        Time that its evaluations took.
    failure
        Where the store has the traceback; None where there is none.
    computed
        Whether this run computed any of it.
    """

    number: int
    configuration: Configuration
    key: str
    chips: int = 0
    values: dict[str, float | list[float]] | None = None
    error: str = ""
    dropped: bool = False
    seconds: float = 0.0
    failure: int | None = None
    computed: bool = field(default=False)

    def means(self) -> dict[str, float] | None:
        """Return the mean over chips of each value, None where the trial failed or was not measured."""
        if self.values is None or self.error:
            return None
        return {name: float(np.mean(value)) for name, value in self.values.items()}

    def take(self, row: Row, until: int) -> None:
        """Add the chips of a stored evaluation from the ones that this trial has on, up to `until`."""
        self.seconds += row.seconds
        if row.values is None:
            self.error, self.failure, self.values = row.error, row.offset, None
            return
        start, stop = self.chips - row.start, min(row.stop, until) - row.start
        before: Values = self.values or {}
        self.values = {
            name: [*_listed(before.get(name)), *value[start:stop]] if isinstance(value, list) else value
            for name, value in row.values.items()
        }
        self.chips = row.start + stop

    def complete_from(self, rows: Sequence[Row], chips: int) -> None:
        """Take what the store has of the chips that are missing."""
        while self.chips < chips and not self.error:
            fitting = [row for row in rows if row.start <= self.chips < row.stop]
            if not fitting:
                return
            self.take(max(fitting, key=lambda row: (row.values is not None, row.stop)), chips)


def _listed(value: Any) -> list[float]:
    return value if isinstance(value, list) else []


def evaluation_key(configuration: Configuration, common: dict[str, Any]) -> str:
    """Return the key of a design's evaluations: a digest of the design and of all else that decides its values.

    Examples
    --------
    >>> evaluation_key({"a": 1, "b": 2}, {}) == evaluation_key({"b": 2, "a": 1}, {})
    True
    """
    return digest({"configuration": {name: written_value(value) for name, value in configuration.items()}, **common})


def record(store: Store, trial: Trial, chips: range, outcome: Outcome, setting: str = "") -> Row:
    """Write an outcome to the store, with the digest of all that is not its configuration; returns its row."""
    row: dict[str, Any] = {
        "configuration": {name: written_value(value) for name, value in trial.configuration.items()},
        "chips": [chips.start, chips.stop],
        "values": outcome.values,
        "seconds": round(outcome.seconds, 6),
        "worker": outcome.worker,
        "setting": setting,
    }
    if outcome.values is None:
        row |= {"error": outcome.error, "trace": outcome.trace, "lost": outcome.lost}
    return store.add(trial.key, row)


def feasible_values(trials: Sequence[Trial], goals: Goals) -> list[Values]:
    """Return the values of trials that keep every limit."""
    found: list[Values] = []
    for trial in trials:
        means = trial.means()
        if means is not None and trial.values is not None and goals.feasible(means):
            found.append(trial.values)
    return found
