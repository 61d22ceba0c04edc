"""Which law of drift measured cells follow, and from when on: what the time of the first measurement need not tell."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

from devices.rram.measurements import Measurements

Array = npt.NDArray[np.float64]
Kind = Literal["power", "log"]

WORTH = 11.8
"""How much smaller a law of two parameters must make the sum of squared, normalized residuals: three standard deviations."""
EARLIEST = 1e-6
"""The earliest start that is looked for, in units of the first time after programming."""
GRID = 49


@dataclass(frozen=True)
class Course:
    """A law of drift fitted to means in time.

    Attributes
    ----------
    kind
        ``((t + start) / start)^-nu``, or a shift with ``ln(t / start)`` from the start on.
    start_seconds
        The start.
    rate
        -nu, or the shift in siemens for a unit of ln t: the mean over cells.
    residual
        Sum of squared differences of the means, in standard deviations.
    """

    kind: Kind
    start_seconds: float
    rate: float
    residual: float


def drift_course(measurements: Measurements, kind: Kind | None = None) -> Course | None:
    """Return the law that the levels' means follow, or the start of a given one; None where no drift shows.

    With a single time after programming start and rate cannot be told apart: the law then starts at that time, or for the logarithm, which
    is zero until then, cannot be fitted.

    Parameters
    ----------
    measurements
        Cells by time and level, right after programming first.
    kind
        The law, where it is known already.

    Examples
    --------
    >>> times, place = (0.0, 1e2, 1e4, 1e6), np.linspace(-1e-8, 1e-8, 100)
    >>> groups = tuple(tuple(g - 1e-7 * np.log(max(t, 5.0) / 5.0) + place for g in (2e-5, 4e-5)) for t in times)
    >>> course = drift_course(Measurements((2e-5, 4e-5), times, groups))
    >>> course.kind, round(course.start_seconds, 3)
    ('log', 5.0)
    """
    times = np.array(measurements.times_seconds)
    mean = np.array([[group.mean() for group in row] for row in measurements.groups])
    variance = np.array([[group.var(ddof=1) for group in row] for row in measurements.groups])
    count = np.array([[len(group) for group in row] for row in measurements.groups])
    weight = count / np.maximum(variance, 1e-12 * count * mean.max() ** 2)
    if len(times) < 2:
        return None
    # Of cells whose exponents differ the mean of the logarithms follows the law, not the logarithm of the mean.
    least = 1e-3 * mean.max()
    logarithm = np.array([[np.log(np.maximum(group, least)).mean() for group in row] for row in measurements.groups])
    values = {"power": (logarithm, weight * np.maximum(mean, least) ** 2), "log": (mean, weight)}
    if kind is not None:
        return _best(kind, times, *values[kind])
    still = float((weight * (mean - (weight * mean).sum(0) / weight.sum(0)) ** 2).sum())
    kinds: tuple[Kind, ...] = ("power", "log") if len(times) > 2 else ("power",)
    best = min((_best(one, times, *values[one]) for one in kinds), key=lambda course: course.residual)
    return best if best.residual + WORTH < still else None


def _best(kind: Kind, times: Array, value: Array, weight: Array) -> Course:
    first, last = float(times[1]), float(times[-1])

    def residual(log_start: float) -> float:
        return _fitted(kind, math.exp(log_start), times, value, weight)[1]

    if len(times) == 2:
        return Course(kind, first, *_fitted(kind, first, times, value, weight))
    grid = np.linspace(math.log(first * EARLIEST), math.log(first if kind == "log" else last), GRID)
    place = int(np.argmin([residual(one) for one in grid]))
    low, high = grid[max(0, place - 1)], grid[min(GRID - 1, place + 1)]
    found = minimize_scalar(residual, bounds=(low, high), method="bounded", options={"xatol": 1e-4})
    start = math.exp(min(float(found.x), float(grid[place]), key=residual))
    return Course(kind, start, *_fitted(kind, start, times, value, weight))


def _fitted(kind: Kind, start: float, times: Array, value: Array, weight: Array) -> tuple[float, float]:
    """Return the rate that all levels share, each with its own beginning, and the weighted squares that it leaves."""
    along = np.log(np.maximum(times, start) / start) if kind == "log" else np.log1p(times / start)
    total = weight.sum(0)
    away = along[:, None] - (weight * along[:, None]).sum(0) / total
    middle = value - (weight * value).sum(0) / total
    square = float((weight * away**2).sum())
    rate = float((weight * away * middle).sum()) / square if square > 0 else 0.0
    left = middle - rate * away
    return rate, float((weight * left**2).sum())
