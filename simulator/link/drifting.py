"""Which law of drift measured cells follow, and from when on: what the time of the first measurement need not tell."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

Array = npt.NDArray[np.float64]
Kind = Literal["power", "log"]

EARLIEST, LATEST = 1e-6, 1e2
"""Starts that are looked for, from so many first times after programming to so many last ones."""
GRID, ZOOM, ZOOMS = 65, 17, 7
ROUNDING = 2.0**-21
"""Of readings that traveled in single precision, relative."""
CLEAR = 5.0
"""A reading is fit for a logarithm where it is so many of its standard errors above zero."""
LOWEST = 0.005
"""Share of a level's cells that may lie lower than a law can take: they are left out."""
STEPS, CONVERGED = 30, 1e-4
"""Most steps to the likeliest spreads, and the last one's length relative to them."""
WORTH = 0.0027
"""How seldom cells that stand still may be said to drift: three standard deviations."""


@dataclass(frozen=True, eq=False)
class Aging:
    """Readings of cells right after programming, and of the same cells later.

    Attributes
    ----------
    level
        Index of each cell's level, shape (cells,).
    times
        Times after programming, seconds, rising.
    readings
        Each cell's mean reading, siemens, shape (1 + times, cells), the first right after programming.
    noise
        Variance of each of these means by the scatter of the reads alone.
    """

    level: npt.NDArray[np.int64]
    times: Array
    readings: Array
    noise: Array


@dataclass(frozen=True, eq=False)
class Changes:
    """How cells changed since they were programmed, in what a law of drift is linear in.

    Attributes
    ----------
    kind
        The law: of a power law the change of the logarithm, of a logarithm of time that of the conductance.
    changed
        For each level that the law can be found from, the changes, shape (cells, times).
    noise
        The variances of the readings that they come of, (cells, 1 + times).
    rounding
        How well a mean is known where nothing is noisy.
    """

    kind: Kind
    changed: list[Array]
    noise: list[Array]
    rounding: float

    @property
    def cells(self) -> int:
        """How many cells there are."""
        return sum(map(len, self.changed))


@dataclass(frozen=True, eq=False)
class Moments:
    """Means over cells of how they changed, which is all that a law of drift is found from.

    Attributes
    ----------
    kind
        See `Changes`.
    count
        Cells, shape (levels,).
    mean
        Mean change since programming, shape (levels, times).
    covariance
        Covariance of the changes over cells, shape (levels, times, times).
    noise
        Its part that comes of the reads. That of the first reading is in all changes of a cell, so it is no diagonal.
    """

    kind: Kind
    count: Array
    mean: Array
    covariance: Array
    noise: Array


@dataclass(frozen=True)
class Course:
    """A law of drift fitted to how cells changed.

    Attributes
    ----------
    kind
        ``((t + start) / start)^-nu``, or a shift with ``ln(t / start)`` from the start on.
    start_seconds
        The start.
    rate
        nu, or the shift in siemens for a unit of ln t: the mean over cells.
    spread
        Standard deviation of the rate over cells.
    jump
        Standard deviation of the shift at the start, siemens; 0 for a power law.
    residual
        Sum of squared differences of the levels' means from it, in standard deviations.
    """

    kind: Kind
    start_seconds: float
    rate: float
    spread: float
    jump: float
    residual: float


def changes(aging: Aging, kind: Kind) -> Changes | None:
    """Return how cells changed; None where no level's cells let the law be found.

    Each cell is compared with itself, so the error of its programming drops out. A logarithm is taken only where readings stand clear
    of zero, and its mean is freed of what the scatter of the reads adds to it, to first order.
    """
    changed, noise = [], []
    top = aging.readings[:, aging.level == aging.level.max()]
    shift = float((top[1:] - top[0]).std(axis=1).max())
    for level in np.unique(aging.level):
        here = aging.level == level
        readings, variance = aging.readings[:, here], aging.noise[:, here]
        if kind == "log":
            if level != aging.level.max() and not _stands_clear(readings, shift):
                continue
        else:
            fit = _positive(readings, variance)
            if (~fit).mean() > LOWEST:
                continue
            readings, variance = readings[:, fit], variance[:, fit] / readings[:, fit] ** 2
            readings = np.log(readings) + variance.mean(1, keepdims=True) / 2
        changed.append((readings[1:] - readings[0]).T)
        noise.append(variance.T)
    scale = 1.0 if kind == "power" else float(np.abs(aging.readings).max())
    return Changes(kind, changed, noise, ROUNDING * scale) if changed else None


def _positive(readings: Array, variance: Array) -> npt.NDArray[np.bool_]:
    """Return which cells of a level stand far enough from zero for a logarithm."""
    error = np.sqrt(variance.mean(1, keepdims=True))
    return np.asarray((readings > CLEAR * error).all(0) & (readings > 0).all(0))


def _stands_clear(readings: Array, shift: float) -> bool:
    """Return whether a level lies so high that shifts do not end at zero, but for its lowest cells.

    Shifts are those of the highest level, which is always taken: a level that had to be narrow itself to be taken would tell of too
    little spread.
    """
    lowest = readings.mean(1).min() - stats.norm.isf(LOWEST) * np.hypot(readings[0].std(), shift)
    return bool(lowest > 3 * shift)


def moments(of: Changes) -> Moments:
    """Return the moments of the changes."""
    return _moments(of, [np.ones((1, len(one))) for one in of.changed], drawn=0)[0]


def resampled(of: Changes, count: int, generator: np.random.Generator) -> list[Moments]:
    """Return the moments of bootstrap resamples: each level's cells drawn with replacement, each mean off by its rounding."""
    weights = [generator.multinomial(len(one), np.full(len(one), 1 / len(one)), size=count).astype(np.float64) for one in of.changed]
    found = _moments(of, weights, drawn=1)
    return [replace(one, mean=one.mean + of.rounding * generator.standard_normal(one.mean.shape)) for one in found]


def _moments(of: Changes, weights: list[Array], drawn: int) -> list[Moments]:
    """Return the moments for each row of counts of the cells; cells drawn from cells scatter about these, and so by one part less."""
    means, covariances, noises = [], [], []
    unit = of.rounding**2 * np.eye(of.changed[0].shape[1])
    for count, change, variance in zip(weights, of.changed, of.noise, strict=True):
        number = len(change)
        center = change.mean(0)
        away = change - center
        mean = count @ away / number
        products = (away[:, :, None] * away[:, None, :]).reshape(number, -1)
        square = (count @ products).reshape(-1, *unit.shape) - number * mean[:, :, None] * mean[:, None, :]
        of_reads = count @ variance / number
        means.append(center + mean)
        covariances.append(square / (number - 1 - drawn) + number * unit)  # rounding need not average out
        noises.append(of_reads[:, :1, None] + of_reads[:, 1:, None] * np.eye(len(unit)) + (number + 1) * unit)
    cells = np.array([float(len(one)) for one in of.changed])
    stacked = (np.stack(one, axis=1) for one in (means, covariances, noises))
    return [Moments(of.kind, cells, *one) for one in zip(*stacked, strict=True)]


def best_course(times: Array, of: Moments) -> Course:
    """Return the law whose start leaves the least residual; each level has a rate of its own while the start is sought.

    With a single time start and rate cannot be told apart: a power law then starts at that time.

    Examples
    --------
    >>> times, cells = np.array([1e2, 1e4, 1e6]), np.repeat([[2e-5, 4e-5]], 100, axis=0).T.ravel()
    >>> later = [cells - 1e-7 * np.log(t / 5.0) for t in times]
    >>> aging = Aging(np.repeat([0, 1], 100), times, np.array([cells, *later]), np.zeros((4, 200)))
    >>> round(best_course(times, moments(changes(aging, "log"))).start_seconds, 3)
    5.0
    """
    whiten = _whiten(of.covariance)
    start = float(times[0]) if len(times) == 1 else _best_start(times, of, whiten)
    along = _along(of.kind, np.array([start]), times)[0]
    ray = whiten @ along
    rates = (ray * _whitened_mean(of, whiten)).sum(1) / (ray**2).sum(1)
    jump, spread, errors = _spreads(along, of)
    worth = of.count / errors
    rate = float((worth * rates).sum() / worth.sum())
    left = float(_residual(np.array([start]), times, of, whiten, one_rate=True)[0])
    return Course(of.kind, start, -rate if of.kind == "power" else rate, spread, jump, left)


def worth_of(course: Course, of: Moments) -> tuple[bool, float]:
    """Return whether a law with one rate for all levels explains the changes better than that there are none, and what it leaves.

    What it leaves is in units of what chance would leave.
    """
    left = course.residual
    still = float((of.count * (_whitened_mean(of, _whiten(of.covariance)) ** 2).sum(1)).sum())
    return still - left > stats.chi2.isf(WORTH, 2), left / max(of.mean.size - 2, 1)


def sought(kind: Kind, times: Array) -> tuple[float, float]:
    """Return between which starts the best is looked for; later than the last time but one a logarithm's cannot be told from its rate.

    Examples
    --------
    >>> sought("log", np.array([8.0, 1e3, 1e5]))[1]
    1000.0
    """
    return float(times[0]) * EARLIEST, float(times[-2] if kind == "log" else times[-1] * LATEST)


def _best_start(times: Array, of: Moments, whiten: Array) -> float:
    """Return the start of least residual.

    Where cells differ much and reads hardly scatter, the residual is flat but for a needle. In units of the reads' scatter alone it has
    slopes that lead there; in those of the cells' scatter too the start is then found best.
    """
    first, last = np.log(sought(of.kind, times))
    starts = np.linspace(first, last, GRID)
    for metric in (_whiten(of.noise), whiten):
        for _ in range(ZOOMS):
            place = int(np.argmin(_residual(np.exp(starts), times, of, metric)))
            best, step = starts[place], (starts[1] - starts[0])
            starts = np.clip(np.linspace(best - step, best + step, ZOOM), first, last)
        starts = np.clip(np.linspace(best - 1.5, best + 1.5, ZOOM), first, last)
    return float(np.exp(best))


def _whiten(covariance: Array) -> Array:
    """Return for each level the map that makes a covariance one, which its inverse would lose digits of."""
    return np.linalg.inv(np.linalg.cholesky(covariance))


def _whitened_mean(of: Moments, whiten: Array) -> Array:
    found: Array = (whiten @ of.mean[:, :, None])[:, :, 0]
    return found


def _residual(starts: Array, times: Array, of: Moments, whiten: Array, *, one_rate: bool = False) -> Array:
    """Return the weighted squares that the law leaves from each start, with a rate for each level or one for all of them."""
    ray = whiten @ _along(of.kind, starts, times).T
    mean = _whitened_mean(of, whiten)[:, :, None]
    square, product = (of.count[:, None] * (ray * one).sum(1) for one in (ray, mean))
    rate = product.sum(0) / square.sum(0) if one_rate else product / square
    left: Array = (of.count[:, None] * ((mean - rate[..., None, :] * ray) ** 2).sum(1)).sum(0)
    return left


def _along(kind: Kind, starts: Array, times: Array) -> Array:
    """Return how far the law has gone at the times, shape (starts, times)."""
    ratio: Array = times / starts[:, None]
    return np.log(np.maximum(ratio, 1.0)) if kind == "log" else np.log1p(ratio)


def _spreads(along: Array, of: Moments) -> tuple[float, float, Array]:
    """Return the spread over cells at the start and of the rate, and each level's variance of a cell's rate."""
    known = np.linalg.inv(of.noise)
    of_noise = 1 / np.einsum("k,lkj,j->l", along, known, along)
    ray = np.einsum("lkj,j->lk", known, along) * of_noise[:, None]  # the combination of changes that tells a cell's rate best
    seen = np.einsum("lk,lkj,lj->l", ray, of.covariance, ray)
    square = max(0.0, float((of.count * (seen - of_noise)).sum() / of.count.sum()))
    worth = of.count / (square + of_noise) ** 2
    square = max(0.0, float((worth * (seen - of_noise)).sum() / worth.sum()))
    jump, spread = 0.0, float(np.sqrt(square))
    started = along > 0
    if of.kind == "log" and started.sum() > 1:
        # Each cell keeps its place: the standard deviation, not the variance, is a line in ln t.
        own = of.covariance - of.noise
        deviation = np.sqrt(np.maximum((worth[:, None, None] * own).sum(0).diagonal() / worth.sum(), 0.0))[started]
        slope, first = np.polyfit(along[started], deviation, 1)
        if first > 0:
            jump, spread = _likeliest_line(along, of, first, max(slope, 1e-3 * first))
    return jump, spread, square + of_noise


def _likeliest_line(along: Array, of: Moments, jump: float, spread: float) -> tuple[float, float]:
    """Return the line in ln t, near a first guess, that the cells' deviations most likely follow, by Fisher's scoring.

    All covariances of the changes count, each by how well it is known under the line itself: counted by how large they came out, early
    deviations that chance made large would pull the line up there, and its slope down.
    """
    started = along > 0
    rows = np.stack([np.ones(int(started.sum())), along[started]])
    seen, noise = (one[:, started][:, :, started] for one in (of.covariance, of.noise))
    line = np.array([jump, spread])
    for _ in range(STEPS):
        deviation = line @ rows
        expected = np.multiply.outer(deviation, deviation) + noise
        slopes = np.stack([np.multiply.outer(row, deviation) + np.multiply.outer(deviation, row) for row in rows])
        within = np.linalg.solve(expected[None], slopes[:, None])
        off = np.linalg.solve(expected, seen - expected)
        score = np.einsum("l,plik,lki->p", of.count, within, off)
        step = np.linalg.solve(np.einsum("l,plik,qlki->pq", of.count, within, within), score)
        line = np.where(line + step > 0, line + step, line / 2)
        if np.abs(step).max() < CONVERGED * line.max():
            break
    return float(line[0]), float(line[1])
