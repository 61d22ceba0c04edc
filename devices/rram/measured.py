"""A cell made of a user's own measurements: drawn from their quantiles, or from laws fitted to them."""

import bisect
import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, SerializeAsAny, model_validator
from torch import Tensor

from devices.base import ProgrammedCells, ResistiveCell
from devices.design import DesignError
from devices.quantities import parse_quantity
from devices.rram.composed import ComposedCell
from devices.rram.fitting import Drift, fit_laws
from devices.rram.interpolation import locate, must_rise
from devices.rram.measurements import Floats, Measurements, read_measurements
from devices.rram.retention import checked_seconds
from devices.rram.spread import SpreadLaw
from kernels.random import Key, uniform

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RANK, TARGET = "rank", "target"
_QUANTILES = 129
_DRAWS = 8192


class MeasuredCell(ResistiveCell):
    """Resistive cell whose conductances follow measurements; made by `from_measurements`.

    Without a `law` a cell draws its rank once, at programming, and takes the measured quantile of that rank at every time: linear
    between targets and in the logarithm of time; until the first time as then, after the last as then. With a `law` it follows that.

    Parameters
    ----------
    levels_siemens, times_seconds
        Targets and times that were measured, rising.
    quantiles_siemens
        Quantiles of the measured conductances, ``[time][level][quantile]``, at equal steps of probability from 0 to 1.
    counts, ks_distances
        Measurements, and the Kolmogorov-Smirnov distance between them and the cell's draws, ``[time][level]``.
    law
        Fitted laws; None draws from the quantiles.
    read_noise
        White noise, where it is known apart from the measurements: the standard deviation of one read, drawn anew at each.

    Examples
    --------
    >>> cell = MeasuredCell(
    ...     g_min_siemens="10 uS", g_max_siemens="20 uS", levels_siemens=("10 uS", "20 uS"), times_seconds=(1.0,),
    ...     quantiles_siemens=(((9e-6, 11e-6), (18e-6, 22e-6)),), counts=((100, 100),), ks_distances=((0.05, 0.05),),
    ... )
    >>> drawn = cell.program(torch.full((10_000,), 15e-6), Key.of(seed=0)).conductance
    >>> [round(1e6 * float(edge), 1) for edge in (drawn.min(), drawn.max())]
    [13.5, 16.5]
    """

    levels_siemens: tuple[float, ...] = Field(min_length=2)
    times_seconds: tuple[float, ...] = Field(min_length=1)
    quantiles_siemens: tuple[tuple[tuple[float, ...], ...], ...] = Field(min_length=1)
    counts: tuple[tuple[int, ...], ...]
    ks_distances: tuple[tuple[float, ...], ...]
    law: ComposedCell | None = None
    read_noise: SerializeAsAny[SpreadLaw] | None = None

    @model_validator(mode="after")
    def _is_a_table(self) -> Self:
        must_rise("levels_siemens", self.levels_siemens)
        must_rise("times_seconds", self.times_seconds)
        if self.times_seconds[0] < 0:
            raise ValueError(f"`times_seconds` must be at least 0, but got {self.times_seconds[0]}; count from programming")
        shape = (len(self.times_seconds), len(self.levels_siemens))
        for name in ("quantiles_siemens", "counts", "ks_distances"):
            rows = getattr(self, name)
            if len(rows) != shape[0] or any(len(row) != shape[1] for row in rows):
                raise ValueError(f"`{name}` must have {shape[0]} times of {shape[1]} levels, but has another shape; complete the table")
        lengths = {len(quantiles) for row in self.quantiles_siemens for quantiles in row}
        if len(lengths) != 1 or min(lengths) < 2:
            raise ValueError(f"`quantiles_siemens` must have one number of quantiles, at least 2, but got {sorted(lengths)}; even them out")
        for row in self.quantiles_siemens:
            for quantiles in row:
                if quantiles[0] < 0 or any(high < low for low, high in pairwise(quantiles)):
                    raise ValueError("`quantiles_siemens` must not fall and be at least 0, but some are not; sort each level's")
        low, high = self.levels_siemens[0], self.levels_siemens[-1]
        for name in ("g_min_siemens", "g_max_siemens"):
            if not low <= getattr(self, name) <= high:
                raise ValueError(
                    f"`{name}` must lie within the measured targets, {low} to {high}, but got {getattr(self, name)}; choose within them"
                )
        return self

    def program(self, target: Tensor, key: Key) -> ProgrammedCells:
        """Draw the programmed conductances, siemens, for targets in siemens of any shape."""
        if self.law is not None:
            return self.law.program(target, key)
        rank = uniform(key.fold("rank"), target.shape, target.device)
        return ProgrammedCells(self._quantile(target, rank, 0.0), {RANK: rank, TARGET: target})

    def read_sigma(self, conductance: Tensor, seconds: float) -> Tensor | None:
        """Return the standard deviation of one read, siemens, or None where it is not known apart from the measurements."""
        return None if self.read_noise is None else self.read_noise.sigma(conductance)

    @property
    def ages(self) -> bool:
        """Whether time changes a cell: where it was measured at several times, or its law says so."""
        return len(self.times_seconds) > 1 if self.law is None else self.law.ages

    def drift(self, programmed: ProgrammedCells, seconds: float, key: Key) -> Tensor:
        """Return the conductances, siemens, `seconds` after programming."""
        if self.law is not None:
            return self.law.drift(programmed, seconds, key)
        if checked_seconds(seconds) <= self.times_seconds[0]:
            return programmed.conductance
        return self._quantile(programmed.memory[TARGET], programmed.memory[RANK], seconds)

    def _quantile(self, target: Tensor, rank: Tensor, seconds: float) -> Tensor:
        table = self._table(seconds, target)
        steps = table.shape[1] - 1
        place = rank * steps
        low = place.floor().clamp(max=steps - 1)
        between = place - low
        level, share = locate(target, self.levels_siemens)
        index = level * (steps + 1) + low.long()
        flat = table.reshape(-1)
        below = flat[index] * (1 - between) + flat[index + 1] * between
        above = flat[index + steps + 1] * (1 - between) + flat[index + steps + 2] * between
        return below * (1 - share) + above * share

    def _table(self, seconds: float, like: Tensor) -> Tensor:
        """Return the quantiles at a time, shape (levels, quantiles)."""
        times = self.times_seconds
        late = bisect.bisect_left(times, seconds)
        if late in (0, len(times)):
            return like.new_tensor(self.quantiles_siemens[min(late, len(times) - 1)])
        low, high = times[late - 1], times[late]
        share = math.log(seconds / low) / math.log(high / low) if low > 0 else seconds / high
        early, later = (like.new_tensor(self.quantiles_siemens[index]) for index in (late - 1, late))
        return early * (1 - share) + later * share

    def fit_figure(self) -> "Figure":
        """Return a figure of the cell's draws against the measurements: errors by target, a panel for each of up to four times.

        Examples
        --------
        >>> cell = MeasuredCell(
        ...     g_min_siemens="10 uS", g_max_siemens="20 uS", levels_siemens=("10 uS", "20 uS"), times_seconds=(1.0,),
        ...     quantiles_siemens=(((9e-6, 11e-6), (18e-6, 22e-6)),), counts=((100, 100),), ks_distances=((0.05, 0.05),),
        ... )
        >>> len(cell.fit_figure().axes)
        1
        """
        from devices.rram.measured_figure import draw_fit  # here, because that module imports this one

        return draw_fit(self)


def from_measurements(
    path: str | Path,
    *,
    method: Literal["quantiles", "law"] = "quantiles",
    columns: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
    group: str = "/",
    degree: int = 3,
    drift: Drift = "auto",
    start_seconds: float | str | None = None,
    **fields: Any,
) -> MeasuredCell:
    r"""Make a cell of measurements: a table of (target, time since programming, measured conductance).

    Parameters
    ----------
    path
        A CSV (.csv, .txt), Parquet (.parquet, .pq) or HDF5 file (.h5, .hdf5) with the columns ``target_uS``, ``seconds`` and
        ``measured_uS``, or other units in their names. Each target needs at least 20 measurements at each time.
    method
        ``"quantiles"`` draws from the quantiles measured, ``"law"`` from a polynomial bias and spread and a drift fitted to them.
    columns, units, group
        Names of columns, units where the names say none, and the group of an HDF5 file: see `read_measurements`.
    degree, drift, start_seconds
        Of the fitted laws, with ``method="law"`` only: see `fit_laws`. The start in seconds, or as a text with a unit.
    **fields
        Further fields of the cell: `g_min_siemens` and `g_max_siemens` (by default the smallest and the largest target), `read_noise`.

    Returns
    -------
    MeasuredCell
        The cell, with the quantiles, the number of measurements and the Kolmogorov-Smirnov distance of each target and time.

    Raises
    ------
    DesignError
        Where the file cannot be read, columns, units or measurements are missing, or a value is not allowed.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "cells.csv"
    ...     rows = "".join(f"{target},1,{target + n / 100}\n" for target in (10, 20) for n in range(100))
    ...     _ = path.write_text("target_uS,seconds,measured_uS\n" + rows)
    ...     cell = from_measurements(path)
    >>> drawn = cell.program(torch.full((10_000,), 1e-5), Key.of(seed=0)).conductance
    >>> round(float(drawn.mean()) * 1e6, 1)
    10.5
    """
    if method not in ("quantiles", "law"):
        raise DesignError(f"Argument `method` must be 'quantiles' or 'law', but got {method!r}; choose one")
    if drift not in ("auto", "none", "power", "log"):
        raise DesignError(f"Argument `drift` must be 'auto', 'none', 'power' or 'log', but got {drift!r}; choose one")
    if not isinstance(degree, int) or degree < 0:
        raise DesignError(
            f"Argument `degree` must be a whole number of at least 0, but got {degree!r}; give the polynomials' largest degree"
        )
    start = None if start_seconds is None else _start(start_seconds)
    if method == "quantiles" and (degree, drift, start) != (3, "auto", None):
        raise DesignError(
            f"Arguments `degree`, `drift` and `start_seconds` must be left out without a fitted law, but got {degree}, {drift!r} and "
            f"{start_seconds!r}; give method='law' too"
        )
    measured = read_measurements(path, columns=columns, units=units, group=group)
    steps = min(_QUANTILES, *(len(values) for row in measured.groups for values in row))
    probabilities = np.linspace(0, 1, steps)
    counts = tuple(tuple(len(values) for values in row) for row in measured.groups)
    cell = MeasuredCell(
        **{"g_min_siemens": measured.levels_siemens[0], "g_max_siemens": measured.levels_siemens[-1]} | fields,
        levels_siemens=measured.levels_siemens,
        times_seconds=measured.times_seconds,
        quantiles_siemens=tuple(tuple(tuple(np.quantile(values, probabilities).tolist()) for values in row) for row in measured.groups),
        counts=counts,
        ks_distances=tuple(tuple(0.0 for _ in row) for row in counts),
        law=fit_laws(measured, degree=degree, drift=drift, start_seconds=start) if method == "law" else None,
    )
    return cell.replace(ks_distances=_distances(cell, measured))


def _start(given: float | str) -> float:
    try:
        start = parse_quantity(given, "second") if isinstance(given, str) else float(given)
    except (TypeError, ValueError):
        start = math.nan
    if not 0 < start < math.inf:
        raise DesignError(f"Argument `start_seconds` must be a time above 0, but got {given!r}; leave it out for the start that fits")
    return start


def _distances(cell: MeasuredCell, measured: Measurements) -> tuple[tuple[float, ...], ...]:
    key = Key.of(seed=0, purpose="goodness of fit")
    targets = torch.tensor(measured.levels_siemens).unsqueeze(1).expand(-1, _DRAWS).contiguous()
    programmed = cell.program(targets, key.fold("program"))
    rows = []
    for time, groups in zip(measured.times_seconds, measured.groups, strict=True):
        drawn = cell.drift(programmed, time, key.fold("drift")).double().numpy()
        rows.append(tuple(_distance(values, np.sort(draws)) for values, draws in zip(groups, drawn, strict=True)))
    return tuple(rows)


def _distance(first: Floats, second: Floats) -> float:
    """Return the Kolmogorov-Smirnov distance of two sorted samples."""
    both = np.concatenate((first, second))
    steps = [np.searchsorted(sample, both, side="right") / len(sample) for sample in (first, second)]
    return float(np.abs(steps[0] - steps[1]).max())
