"""Fitting laws to measured cells: a polynomial bias and spread, and a drift by a power law or a logarithm of time."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from devices.rram.composed import ComposedCell
from devices.rram.log_drift import LogDrift
from devices.rram.measurements import Floats, Measurements
from devices.rram.power_drift import PowerDrift
from devices.rram.retention import RetentionLaw
from devices.rram.spread import MICROSIEMENS, PolynomialSpread

Drift = Literal["auto", "none", "power", "log"]

_WORTH = 9.0
"""How much smaller than without drift the sum of squared, normalized residuals must be for a drift: three standard deviations."""
_REWEIGHTINGS = 3


@dataclass(frozen=True)
class _Course:
    """Mean and variance right after programming, microsiemens, the drift between, and the residuals of the means."""

    mean: Floats
    variance: Floats
    slope: float
    slope_sigma: float
    residual: float


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
        t0 of ((t + t0) / t0)^-nu, and of ln(t / t0) from t0 on; by default the first time above 0.

    Returns
    -------
    ComposedCell
        A cell with a bias, a cycle spread, and a retention law or none.

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
    start = start_seconds or float(times[times > 0].min(initial=math.inf))
    kind: Drift = "none" if len(times) == 1 or not math.isfinite(start) else drift
    courses = {"none": _course("none", mean, variance, count, times, start)}
    for name in ("power", "log"):
        if kind in (name, "auto"):
            courses[name] = _course(name, mean, variance, count, times, start)
    best = kind if kind != "auto" else min(courses, key=lambda name: courses[name].residual + (0 if name == "none" else _WORTH))
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
        retention=_retention(best, course, start),
    )


def _course(kind: str, mean: Floats, variance: Floats, count: Floats, times: Floats, start: float) -> _Course:
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
    expected = spread
    for _ in range(_REWEIGHTINGS):
        # A variance of n measurements scatters by sqrt(2 / n) of itself.
        trust = np.where(used, count / np.maximum(expected, 1e-12) ** 2, 0.0)
        slope_variance, first_spread = _common_slope(along**2, spread, trust)
        expected = np.maximum(first_spread + slope_variance * along[:, None] ** 2, spread / 4)
    if slope_variance < 0:
        slope_variance = 0.0
        first_spread = (spread * count).sum(0) / count.sum(0)
    residual = float((weight * (value - first - slope * along[:, None]) ** 2).sum())
    if kind == "power":
        reached = np.exp(first)
        return _Course(reached, first_spread * reached**2, slope, math.sqrt(slope_variance), residual)
    return _Course(first, first_spread, slope, math.sqrt(slope_variance), residual)


def _common_slope(along: Floats, value: Floats, weight: Floats) -> tuple[float, Floats]:
    """Return the slope that all levels share and each level's value at 0, by weighted least squares."""
    total = np.maximum(weight.sum(0), 1e-300)
    center = (weight * along[:, None]).sum(0) / total
    middle = (weight * value).sum(0) / total
    from_center = along[:, None] - center
    square = float((weight * from_center**2).sum())
    slope = float((weight * from_center * (value - middle)).sum()) / square if square > 0 else 0.0
    return slope, middle - slope * center


def _retention(kind: str, course: _Course, start: float) -> RetentionLaw | None:
    if kind == "power":
        return PowerDrift(start_seconds=start, mean_intercept=-course.slope, sigma_intercept=course.slope_sigma)
    if kind == "log":
        return LogDrift(
            mean_slope_siemens=course.slope * MICROSIEMENS,
            sigma_intercept_siemens=0.0,
            sigma_slope_siemens=course.slope_sigma * MICROSIEMENS,
            start_seconds=start,
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
