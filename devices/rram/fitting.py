"""Fitting laws to measured cells: a polynomial bias and spread, and a drift by a power law or a logarithm of time."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from devices.design import DesignError
from devices.rram.composed import ComposedCell
from devices.rram.log_drift import LogDrift
from devices.rram.measurements import Floats, Measurements
from devices.rram.power_drift import PowerDrift
from devices.rram.retention import RetentionLaw
from devices.rram.spread import MICROSIEMENS, PolynomialSpread

Drift = Literal["auto", "none", "power", "log"]

_WORTH = 9.0
"""How much smaller the sum of squared, normalized residuals must be for a drift, or a start of its own: three standard deviations."""
_REWEIGHTINGS = 3
_EARLIEST, _LATEST = 1e-6, 1e2
"""Starts that are looked for, from so many first times after programming to so many last ones."""
_GRID, _ZOOM, _ZOOMS = 65, 17, 5


@dataclass(frozen=True)
class _Course:
    """Mean and variance right after programming, microsiemens, the drift from its start on, and what that costs.

    The price is the residuals of the means and `_WORTH` for each number that was fitted to have them so small.
    """

    start: float
    mean: Floats
    variance: Floats
    slope: float
    slope_sigma: float
    price: float


def fit_laws(measurements: Measurements, *, degree: int = 3, drift: Drift = "auto", start_seconds: float | None = None) -> ComposedCell:
    """Fit a composed cell to measurements by least squares on means and variances.

    Parameters
    ----------
    measurements
        The measurements.
    degree
        Largest degree of the polynomials of bias and spread; lower where there are fewer targets, or where the spread's polynomial
        would be negative between them.
    drift
        ``"power"``, ``"log"``, ``"none"``, or ``"auto"``: the better of the two, none where neither is worth it.
    start_seconds
        t0 of ((t + t0) / t0)^-nu, and of ln(t / t0) from t0 on. By default the first time above 0, or the start that fits best, from a
        millionth of the first time to a hundred last ones, where that fits better by three standard deviations. Without measurements
        right after programming, at 0 s, the start of a logarithm cannot be told: the first time it is.

    Returns
    -------
    ComposedCell
        A cell with a bias, a cycle spread, and a retention law or none.

    Raises
    ------
    DesignError
        Where a drift is asked of measurements at a single time.

    Examples
    --------
    >>> from scipy.stats import norm
    >>> sorted_normals = norm.ppf((np.arange(1000) + 0.5) / 1000)
    >>> row = tuple((level + 2 * sorted_normals) * 1e-6 for level in (10.0, 20.0, 30.0))
    >>> cell = fit_laws(Measurements((1e-5, 2e-5, 3e-5), (1.0,), (row,)), degree=0)
    >>> [round(c, 2) for c in cell.cycle_spread.coefficients_microsiemens]
    [2.0]
    """
    mean = np.array([[group.mean() for group in row] for row in measurements.groups]) / MICROSIEMENS
    variance = np.array([[group.var(ddof=1) for group in row] for row in measurements.groups]) / MICROSIEMENS**2
    count = np.array([[len(group) for group in row] for row in measurements.groups], dtype=np.float64)
    times = np.array(measurements.times_seconds)
    moments = mean, variance, count, times
    start = start_seconds or float(times[times > 0].min(initial=math.inf))
    kind: Drift = "none" if len(times) == 1 else drift
    if kind != drift and drift in ("power", "log"):
        raise DesignError(f"Argument `drift` must be 'auto' or 'none' where there is one time only, but got {drift!r}; measure later, too")
    courses = {"none": _course("none", *moments, start)}
    for name in ("power", "log"):
        if kind in (name, "auto"):
            asked = _course(name, *moments, start)
            found = asked if start_seconds is not None else _best_start(name, *moments)
            courses[name] = min(asked, found, key=lambda course: course.price)
    best = kind if kind != "auto" else min(courses, key=lambda name: courses[name].price)
    course = courses[best]
    levels = np.array(measurements.levels_siemens) / MICROSIEMENS
    weight = np.sqrt(count.sum(0) / np.maximum(course.variance, 1e-12))
    sigma = np.sqrt(np.maximum(course.variance, 0))
    order = min(degree, len(levels) - 1)
    return ComposedCell(
        g_min_siemens=measurements.levels_siemens[0],
        g_max_siemens=measurements.levels_siemens[-1],
        cycle_spread=PolynomialSpread(coefficients_microsiemens=_positive_polynomial(levels, sigma, order, weight)),
        bias_coefficients_microsiemens=_polynomial(levels, course.mean - levels, order, weight),
        retention=_retention(best, course),
    )


def _best_start(kind: str, mean: Floats, variance: Floats, count: Floats, times: Floats) -> _Course:
    """Return the course from the start of least residual, on a grid in the logarithm of time that is drawn closer and closer."""
    after = times[times > 0]
    # A logarithm that starts later than the last time but one cannot be told from its rate.
    last = times[-2] if kind == "log" else after[-1] * _LATEST
    edges = math.log(after[0] * _EARLIEST), math.log(max(last, after[0]))
    starts = np.linspace(*edges, _GRID)
    for _ in range(_ZOOMS):
        residuals = [_means(kind, mean, variance, count, times, math.exp(start)).residual for start in starts]
        best, step = starts[int(np.argmin(residuals))], starts[1] - starts[0]
        starts = np.clip(np.linspace(best - step, best + step, _ZOOM), *edges)
    course = _course(kind, mean, variance, count, times, math.exp(best))
    return replace(course, price=course.price + _WORTH)


@dataclass(frozen=True)
class _Means:
    """How the levels' means go on in time: what is fitted, how far the law has gone at each time, and the line through both."""

    along: Floats
    used: npt.NDArray[np.bool_]
    spread: Floats
    slope: float
    first: Floats
    residual: float


def _means(kind: str, mean: Floats, variance: Floats, count: Floats, times: Floats, start: float) -> _Means:
    """Fit level by level: shape (times, levels) of each argument gives the state at the start and one drift for all levels."""
    if kind == "power":
        used, along = mean > 0, np.log1p(times / start)
        safe = np.where(used, mean, 1.0)
        value, spread = np.log(safe), variance / safe**2
    else:
        along = np.log(np.maximum(times, start) / start) if kind == "log" else np.zeros(len(times))
        used, value, spread = np.ones(mean.shape, dtype=bool), mean, variance
    weight = np.where(used, count / np.maximum(spread, 1e-12), 0.0)
    slope, first = _common_slope(along, value, weight)
    residual = float((weight * (value - first - slope * along[:, None]) ** 2).sum())
    return _Means(along, used, spread, slope, first, residual)


def _course(kind: str, mean: Floats, variance: Floats, count: Floats, times: Floats, start: float) -> _Course:
    """Return means and variances at the start, and their drift from there."""
    line = _means(kind, mean, variance, count, times, start)
    along, used, spread = line.along, line.used, line.spread
    expected = spread
    for _ in range(_REWEIGHTINGS):
        # A variance of n measurements scatters by sqrt(2 / n) of itself.
        trust = np.where(used, count / np.maximum(expected, 1e-12) ** 2, 0.0)
        slope_variance, first_spread = _common_slope(along**2, spread, trust)
        expected = np.maximum(first_spread + slope_variance * along[:, None] ** 2, spread / 4)
    if slope_variance < 0:
        slope_variance = 0.0
        first_spread = (spread * count).sum(0) / count.sum(0)
    first, price = line.first, line.residual + (0.0 if kind == "none" else _WORTH)
    if kind == "power":
        first, first_spread = np.exp(first), first_spread * np.exp(first) ** 2
    return _Course(start, first, first_spread, line.slope, math.sqrt(slope_variance), price)


def _common_slope(along: Floats, value: Floats, weight: Floats) -> tuple[float, Floats]:
    """Return the slope that all levels share and each level's value at 0, by weighted least squares."""
    total = np.maximum(weight.sum(0), 1e-300)
    center = (weight * along[:, None]).sum(0) / total
    middle = (weight * value).sum(0) / total
    from_center = along[:, None] - center
    square = float((weight * from_center**2).sum())
    slope = float((weight * from_center * (value - middle)).sum()) / square if square > 0 else 0.0
    return slope, middle - slope * center


def _retention(kind: str, course: _Course) -> RetentionLaw | None:
    if kind == "power":
        return PowerDrift(start_seconds=course.start, mean_intercept=-course.slope, sigma_intercept=course.slope_sigma)
    if kind == "log":
        return LogDrift(
            mean_slope_siemens=course.slope * MICROSIEMENS,
            sigma_intercept_siemens=0.0,
            sigma_slope_siemens=course.slope_sigma * MICROSIEMENS,
            start_seconds=course.start,
        )
    return None


def _polynomial(levels: Floats, values: Floats, degree: int, weight: Floats) -> tuple[float, ...]:
    fitted = np.polynomial.Polynomial.fit(levels, values, degree, w=weight / weight.max()).convert()
    return tuple(fitted.coef.tolist())


def _positive_polynomial(levels: Floats, values: Floats, degree: int, weight: Floats) -> tuple[float, ...]:
    grid = np.linspace(levels[0], levels[-1], 257)
    for order in range(degree, 0, -1):
        coefficients = _polynomial(levels, values, order, weight)
        if np.polynomial.polynomial.polyval(grid, coefficients).min() >= 0:
            return coefficients
    return _polynomial(levels, values, 0, weight)
