"""What a sweep found: a table of all designs, and the front of those that no other beats, with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from simulator.search.fidelity import Fidelity
from simulator.search.front import hypervolume, non_dominated
from simulator.search.objective import Goals
from simulator.search.space import Space, written_value
from simulator.search.trials import Trial
from simulator.statistics import mean_interval

CONFIDENCE = 0.95
OWN_COLUMNS = ("trial", "chips", "state", "feasible", "front", "sure", "elapsed_s", "failure")
"""Columns that every frame has: no parameter and no value may be called so."""


@dataclass(frozen=True)
class Sweep:
    """Result of `simulator.sweep`.

    Attributes
    ----------
    space, goals
        What was searched, and for what.
    trials
        Every design with its values, in the order of the sweep.
    traces
        Tracebacks of the failed ones, by number.
    seed, chips
        As the sweep was called.

    Examples
    --------
    >>> import simulator as sim
    >>> def square(configuration, context):
    ...     return configuration["x"] ** 2
    >>> found = sim.sweep(square, {"x": [-1, 0, 2]}, goals={"y": "minimize"}, strategy="grid")
    >>> int(found.best()["x"]), found.frame["y"].to_list()
    (0, [1.0, 0.0, 4.0])
    """

    space: Space
    goals: Goals
    trials: Sequence[Trial]
    traces: Mapping[int, str]
    seed: int = 0
    chips: int = 1

    @property
    def frame(self) -> pd.DataFrame:
        """A row per design.

        ``trial``, its parameters, each value with ``_low`` and ``_high`` of its 95 % t-interval over chips where it has one per chip,
        ``chips``, ``state`` ("complete", "dropped" after few chips, or "failed"), ``feasible``, ``front``, ``elapsed_s`` of its
        evaluations and ``failure``.
        """
        rows = [self._row(trial) for trial in self.trials]
        values = list(dict.fromkeys(name for trial in self.trials for name in trial.values or ()))
        noisy = {name for trial in self.trials for name, value in (trial.values or {}).items() if isinstance(value, list)}
        columns = ["trial", *self.space.parameters]
        for name in dict.fromkeys([*self.goals.names, *values]):
            columns += [name, f"{name}_low", f"{name}_high"] if name in noisy else [name]
        frame = pd.DataFrame(rows, columns=[*columns, "chips", "state", "feasible", "elapsed_s", "failure"])
        frame.insert(len(columns) + 3, "front", self._on_front(frame))
        return frame

    def front(self) -> pd.DataFrame:
        """Return the rows of `frame` that no other design beats, one for each design, best in the first goal first.

        ``sure`` says whether a row stays on the front wherever within their intervals the designs are: whether no other could beat it.
        """
        frame = self.frame
        rows = frame[frame["front"]]
        places = [place for place, trial in enumerate(self.trials) if bool(frame["front"].iloc[place])]
        seen: dict[str, int] = {}
        for place in places:
            seen.setdefault(self.trials[place].key, place)
        rows = frame.loc[sorted(seen.values())]
        first, direction = next(iter(self.goals.directions.items()))
        rows = rows.assign(sure=[self._sure(place) for place in rows.index])
        return rows.sort_values(first, ascending=direction == "minimize", kind="stable").reset_index(drop=True)

    def best(self) -> dict[str, Any]:
        """Return the row of the best feasible design by the first goal.

        Raises
        ------
        ValueError
            If every design failed or is outside a limit.
        """
        front = self.front()
        if not len(front):
            raise ValueError("A sweep must have a design that keeps all limits to have a best one, but none does; widen limits or space")
        return {str(name): value for name, value in front.iloc[0].items()}

    def hypervolume(self, reference: Mapping[str, float]) -> float:
        """Return the volume that the feasible designs dominate up to a reference: the worst value of each goal that counts."""
        frame = self.frame
        kept = frame[frame["feasible"].astype(bool)]
        signs = [1.0 if direction == "minimize" else -1.0 for direction in self.goals.directions.values()]
        costs = kept[list(self.goals.directions)].to_numpy(dtype=np.float64) * np.array(signs)
        return hypervolume(costs, [sign * reference[name] for sign, name in zip(signs, self.goals.directions, strict=True)])

    def traceback(self, number: int) -> str:
        """Return the traceback of a failed trial, empty where there is none."""
        return self.traces.get(number, "")

    def write_report(self, folder: str | Path, *, title: str = "Design sweep", command: str = "") -> Path:
        """Write tables, figures and ``report.html`` to a folder, and return the path of the report."""
        from simulator.search.reporting import write_sweep_report

        return write_sweep_report(self, Path(folder), title=title, command=command)

    def __str__(self) -> str:
        failed = sum(bool(trial.error) for trial in self.trials)
        dropped = sum(trial.dropped for trial in self.trials)
        measured = sum(trial.chips for trial in self.trials)
        parts = [f"{len(self.trials)} designs", f"{measured} chips" if self.chips > 1 else "", f"{len(self.front())} on the front"]
        parts += [f"{dropped} dropped early" if dropped else "", f"{failed} failed" if failed else ""]
        return ", ".join(part for part in parts if part)

    def _row(self, trial: Trial) -> dict[str, Any]:
        row: dict[str, Any] = {"trial": trial.number}
        row |= {name: _shown(value) for name, value in trial.configuration.items()}
        for name, value in (trial.values or {}).items():
            if isinstance(value, list):
                interval = mean_interval(value, CONFIDENCE)
                row |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
            else:
                row[name] = value
        means = trial.means()
        state = "failed" if trial.error else "dropped" if trial.dropped else "complete"
        feasible = means is not None and self.goals.feasible(means)
        return row | {"chips": trial.chips, "state": state, "feasible": feasible, "elapsed_s": trial.seconds, "failure": trial.error}

    def _on_front(self, frame: pd.DataFrame) -> list[bool]:
        eligible = (frame["feasible"].astype(bool) & (frame["state"] == "complete")).to_numpy()
        found = np.zeros(len(frame), dtype=bool)
        if eligible.any():
            costs = np.array([self.goals.costs(self._means(int(place))) for place in np.flatnonzero(eligible)])
            found[eligible] = non_dominated(costs)
        return [bool(value) for value in found]

    def _means(self, place: int) -> dict[str, float]:
        means = self.trials[place].means()
        assert means is not None
        return means

    def _sure(self, place: int) -> bool:
        """Return whether every other design is worse for certain, or cannot beat this one in all goals."""
        own = self.trials[place]
        assert own.values is not None
        for other in self.trials:
            if (
                other is own
                or other.key == own.key
                or other.values is None
                or other.dropped
                or not self.goals.feasible(other.means() or {})
            ):
                continue
            if not self._cannot_beat(other, own):
                return False
        return True

    def _cannot_beat(self, other: Trial, own: Trial) -> bool:
        """Return whether the other is worse in some goal for certain, on paired differences."""
        assert own.values is not None and other.values is not None
        chips = min(own.chips, other.chips)
        for name in self.goals.directions:
            alone = Goals({name: self.goals.directions[name]})
            if Fidelity(confidence=CONFIDENCE).beaten(other.values, [own.values], alone, chips):
                return True
        return False


def _shown(value: Any) -> Any:
    written = written_value(value)
    return str(written) if isinstance(written, list | dict) else value
