"""From readings of cells to parameters with intervals: spreads, read noise, faults, drift, converters."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from devices.rram import ComposedCell, LogDrift, PowerDrift
from devices.rram.fitting import fit_laws
from devices.rram.measurements import Measurements
from simulator.link.drifting import Aging, Changes, Course, Kind, best_course, changes, moments, resampled, sought, worth_of

Array = npt.NDArray[np.float64]

RESAMPLES = 400
"""Bootstrap resamples: the ends of a 95 % interval are then known to about a tenth of its length."""
FEWEST_GAPS, MOST_PARTS, MOST_CODES, LATTICE_TOLERANCE = 5, 256, 1 << 16, 1e-2
"""When values count as multiples of a step: five gaps that fit by chance to a hundredth have odds of 1e-8, times the steps tried."""
START = "drift start"
STUCK_SLOPE = 0.5
"""A cell whose reading follows less than half of what it is asked for counts as stuck."""


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval.

    Attributes
    ----------
    quantity
        What it is.
    value, low, high
        The estimate and the ends of its interval.
    unit
        Unit of the three.
    count
        Cells that it was measured on.
    target_siemens, seconds
        At which programmed conductance and time; None where it is for all.
    """

    quantity: str
    value: float
    low: float
    high: float
    unit: str
    count: int
    target_siemens: float | None = None
    seconds: float | None = None


@dataclass(frozen=True, eq=False)
class Readings:
    """What was read of each cell.

    Attributes
    ----------
    levels
        Targets, siemens, rising.
    level
        Index of each cell's target in each programming, shape (programmings, cells).
    mean, variance
        Mean and unbiased variance over the reads of each cell right after each programming, siemens, of that shape.
    reads
        How many reads a mean is of.
    times, aged, aged_variance
        Times after the last programming, seconds, and mean and variance of each cell's reads then, shape (times, cells).
    """

    levels: Array
    level: npt.NDArray[np.int64]
    mean: Array
    variance: Array
    reads: int
    times: tuple[float, ...]
    aged: Array
    aged_variance: Array

    @property
    def stuck(self) -> npt.NDArray[np.int64]:
        """1 for cells stuck on, -1 for off, 0 for those that follow their targets."""
        target = self.levels[self.level]
        centered = target - target.mean(0)
        slope = (centered * self.mean).sum(0) / np.maximum((centered**2).sum(0), 1e-300)
        high = self.mean.mean(0) > (self.levels[0] + self.levels[-1]) / 2
        stuck = slope < STUCK_SLOPE
        return np.where(stuck & high, 1, np.where(stuck, -1, 0))


def estimates(readings: Readings) -> Iterator[Estimate]:
    """Return programming bias and spread, read noise and faults.

    Spread is of the conductance: what reads scatter about it is taken off. Where cells were programmed to each level more than once, its
    parts are told apart: what a cell keeps from one programming to the next, and what is drawn anew.
    """
    stuck = readings.stuck
    cells = len(stuck)
    for name, sign in (("stuck on share", 1), ("stuck off share", -1)):
        count = int((stuck == sign).sum())
        interval = stats.binomtest(count, cells).proportion_ci(method="wilson")
        yield Estimate(name, count / cells, float(interval.low), float(interval.high), "", cells)
    working = np.flatnonzero(stuck == 0)
    for index, target in enumerate(readings.levels):
        errors, noise = _at_level(readings, index, working)
        at = float(target)
        count = errors.shape[1]
        yield _bootstrapped("programming bias", count, lambda chosen, e=errors: float(e[:, chosen].mean()), at)  # type: ignore[misc]
        if errors.shape[0] == 1:
            yield _bootstrapped("programming spread", count, lambda c, e=errors, n=noise: _spread(e[:, c], n[:, c], readings.reads)[0], at)  # type: ignore[misc]
        else:
            for part, name in ((1, "device spread"), (2, "cycle spread")):
                yield _bootstrapped(name, count, lambda c, e=errors, n=noise, p=part: _spread(e[:, c], n[:, c], readings.reads)[p], at)  # type: ignore[misc]
        yield _bootstrapped("read noise", count, lambda c, n=noise: float(np.sqrt(n[:, c].mean())), at)  # type: ignore[misc]


def _at_level(readings: Readings, index: int, working: npt.NDArray[np.int64]) -> tuple[Array, Array]:
    """Return errors and read variances at one level, shape (times programmed to it, cells), of the cells that have it."""
    here = readings.level[:, working] == index
    rounds = int(here.sum(0).min())
    if rounds == 0:  # each cell saw some of the levels only: those that saw this one, once
        cells = np.flatnonzero(here.any(0))
        first = here[:, cells].argmax(0)
        chosen = working[cells]
        return (readings.mean[first, chosen] - readings.levels[index])[None], readings.variance[first, chosen][None]
    order = np.argsort(~here, axis=0, kind="stable")[:rounds]
    return readings.mean[order, working] - readings.levels[index], readings.variance[order, working]


def _spread(errors: Array, noise: Array, reads: int) -> tuple[float, float, float]:
    """Return standard deviations: of all errors, of what a cell keeps, and of what each programming draws."""
    rounds = len(errors)
    of_reads = noise.mean() / reads
    if rounds == 1:
        return float(np.sqrt(max(0.0, errors.var(ddof=1) - of_reads))), 0.0, 0.0
    within = errors.var(axis=0, ddof=1).mean()
    between = errors.mean(0).var(ddof=1) - within / rounds
    total = errors.var(ddof=1) - of_reads
    parts = (total, between, within - of_reads)
    whole, device, cycle = (float(np.sqrt(max(0.0, part))) for part in parts)
    return whole, device, cycle


def _bootstrapped(quantity: str, cells: int, statistic: Callable[[npt.NDArray[np.int64]], float], target: float) -> Estimate:
    value = statistic(np.arange(cells))
    generator = np.random.default_rng(0)
    drawn = [statistic(generator.integers(cells, size=cells)) for _ in range(RESAMPLES)]
    low, high = _interval(value, drawn)
    return Estimate(quantity, value, low, high, "S", cells, target)


def _interval(value: float, drawn: list[float]) -> tuple[float, float]:
    """Return the 95 % interval of a bootstrap, widened to hold the estimate.

    The ends are the percentiles that correct for how far the estimate lies from the median of what was drawn: a spread of cells drawn from
    cells comes out too small as often as that of cells drawn from all does.
    """
    found = np.array(drawn)
    below = ((found < value).mean() + (found <= value).mean()) / 2
    shift = 2 * stats.norm.ppf(np.clip(below, 1 / len(found), 1 - 1 / len(found)))
    low, high = np.quantile(found, stats.norm.cdf(shift + stats.norm.ppf([0.025, 0.975])))
    return float(min(low, value)), float(max(high, value))


def fitted_cell(readings: Readings) -> tuple[ComposedCell, list[Estimate]]:
    """Return a cell with bias, spread and drift by law, and the drift's parameters with their intervals.

    The intervals are bootstraps of cells within each level.
    """
    working = np.flatnonzero(readings.stuck == 0)
    cell = fit_laws(_programmed(readings, working), drift="none")
    law, found = fitted_drift(readings, working)
    return cell.replace(retention=law), found


def fitted_drift(readings: Readings, working: npt.NDArray[np.int64]) -> tuple[PowerDrift | LogDrift | None, list[Estimate]]:
    """Return the law that some cells drift by, None where they stand still as far as can be seen, and its parameters."""
    times = np.array(readings.times)
    noise = np.concatenate([readings.variance[-1:], readings.aged_variance])[:, working] / readings.reads
    aged = np.concatenate([readings.mean[-1:], readings.aged])[:, working]
    aging = Aging(readings.level[-1, working], times, aged, noise)
    best: tuple[float, Changes, Course] | None = None
    kinds: tuple[Kind, ...] = ("power", "log") if len(times) > 1 else ("power",) if len(times) else ()
    for kind in kinds:
        changed = changes(aging, kind)
        if changed is None:
            continue
        whole = moments(changed)
        course = best_course(times, whole)
        drifts, left = worth_of(course, whole)
        if drifts and (best is None or left < best[0]):
            best = left, changed, course
    if best is None:
        return None, []
    _, changed, course = best
    drawn = [best_course(times, one) for one in resampled(changed, RESAMPLES, np.random.default_rng(0))]
    return _law(course), list(_of_drift(course, drawn, times, changed.cells))


def _law(course: Course) -> PowerDrift | LogDrift:
    start = course.start_seconds
    if course.kind == "power":
        return PowerDrift(start_seconds=start, mean_intercept=course.rate, sigma_intercept=course.spread)
    return LogDrift(
        start_seconds=start,
        mean_slope_siemens=course.rate,
        sigma_slope_siemens=course.spread,
        sigma_intercept_siemens=course.jump,
    )


def _of_drift(course: Course, drawn: list[Course], times: Array, cells: int) -> Iterator[Estimate]:
    """Return the parameters with their intervals.

    An end is 0 or infinite where the measured times do not bound the start: rate and start then grow or fall together.
    """
    name, unit = ("drift exponent", "") if course.kind == "power" else ("drift per ln t", "S")
    parts = {f"{name}, mean": ("rate", unit), f"{name}, spread": ("spread", unit), START: ("start_seconds", "s")}
    if course.kind == "log":
        parts["drift at its start, spread"] = ("jump", "S")
    earliest, latest = sought(course.kind, times) if len(times) > 1 else (0.0, math.inf)
    starts = _interval(course.start_seconds, [one.start_seconds for one in drawn])
    early, late = starts[0] < earliest * 1.01, starts[1] > latest / 1.01
    for quantity, (field, of_unit) in parts.items():
        value = getattr(course, field)
        low, high = _interval(value, [getattr(one, field) for one in drawn])
        if field == "start_seconds":
            if len(times) == 1:
                continue  # it is assumed, not measured
            low, high = 0.0 if early else low, (math.inf if course.kind == "power" else float(times[-1])) if late else high
        elif field != "jump":
            low, high = (min(low, 0.0), max(high, 0.0)) if early else (low, high)
            if late:
                low, high = (low, math.inf) if value > 0 else (-math.inf, high)
        yield Estimate(quantity, value, low, high, of_unit, cells)


def _programmed(readings: Readings, cells: npt.NDArray[np.int64]) -> Measurements:
    """Return what all programmings left of some cells, with the reads' own scatter taken out of each group's variance."""
    groups = []
    for index in range(len(readings.levels)):
        here = readings.level[:, cells] == index
        values, noise = readings.mean[:, cells][here], readings.variance[:, cells][here] / readings.reads
        center, total = values.mean(), max(values.var(ddof=1), 1e-300)
        kept = np.sqrt(max(0.0, 1 - noise.mean() / total))
        groups.append(np.sort(center + (values - center) * kept))
    return Measurements(tuple(readings.levels.tolist()), (0.0,), (tuple(groups),))


def lattice_step(values: Array) -> float | None:
    """Return the largest step of which all values are multiples, to a hundredth of it; None where there is none that shows.

    Examples
    --------
    >>> round(lattice_step(np.array([0.0, 1.0, 2.5, -2.0, 3.5, 5.0])), 9)
    0.5
    """
    largest = float(np.abs(values).max(initial=0.0))
    distinct = np.unique(values)
    gaps = np.diff(distinct)
    gaps = gaps[gaps > 1e-5 * largest]  # float32 rounds the same code differently within one batch
    if len(gaps) < FEWEST_GAPS:
        return None
    for parts in range(1, MOST_PARTS + 1):
        step = float(gaps.min()) / parts
        for _ in range(3):  # the smallest gap knows the step least: let all values say it
            codes = np.round(distinct / step)
            step = float((distinct * codes).sum() / (codes**2).sum())
        if largest / step > MOST_CODES:
            return None
        if np.abs(distinct / step - np.round(distinct / step)).max() < LATTICE_TOLERANCE:
            return step
    return None
