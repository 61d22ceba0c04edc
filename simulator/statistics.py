"""What a set of chips says: intervals, yield, paired comparisons, and which error comes from where.

Two things vary when a chip is measured. Another chip of the same design gives another value: values differ by the chip-to-chip standard
deviation, and their mean is known to that over the square root of their number. Another test set would give another value for all chips
alike: that is the test set's standard error, which no number of chips makes smaller. They are kept apart here.

Direction: where `higher_is_better` is an argument, bad is low when it is True and high when it is False. NaN is worse than any number.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy import special
from torch import Tensor

__all__ = [
    "Comparison",
    "Components",
    "Interval",
    "bootstrap_error",
    "components",
    "mean_interval",
    "paired_comparison",
    "percentile",
    "wilson_interval",
    "worst",
    "yield_fraction",
]

Values = Sequence[float] | npt.NDArray[np.float64]
"""One value per chip."""


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate and the interval that covers the truth with probability `confidence`.

    Parameters
    ----------
    value
        The estimate.
    low, high
        Ends of the interval; NaN where `n` is too small for one.
    confidence
        Probability of coverage, between 0 and 1.
    n
        Number of chips behind it.

    Examples
    --------
    >>> print(Interval(0.953, 0.947, 0.959, 0.95, 25))
    0.953 ± 0.006 (95 %)
    >>> print(Interval(0.92, 0.75, 0.98, 0.95, 25))
    0.92 [0.75, 0.98] (95 %)
    """

    value: float
    low: float
    high: float
    confidence: float
    n: int

    @property
    def half_width(self) -> float:
        """Half the length of the interval."""
        return (self.high - self.low) / 2

    def __str__(self) -> str:
        half = self.half_width
        if not math.isfinite(half):
            return f"{self.value:.4g} ± n/a ({self.n} {'chip' if self.n == 1 else 'chips'})"
        confidence = f"({100 * self.confidence:g} %)"
        digits = _digits(half)
        if math.isclose(self.value - self.low, self.high - self.value, rel_tol=1e-6, abs_tol=1e-12):
            center = f"{self.value:.{digits}f}" if half else f"{self.value:.4g}"
            return f"{center} ± {half:.{digits}f} {confidence}"
        return f"{self.value:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}] {confidence}"


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two chips on common random numbers: trial k of the first against trial k of the second.

    The interval and the p-value speak of further chips on the same test set.

    Parameters
    ----------
    difference
        Mean of first minus second, with its paired t interval.
    p_value
        Two-sided, of no mean difference; NaN for one pair.
    wins, ties
        Fractions of pairs in which the first is better, and in which both are equal.
    higher_is_better
        Direction of the metric.
    first, second
        Names to print.

    Examples
    --------
    >>> print(paired_comparison([0.95, 0.96, 0.94], [0.91, 0.93, 0.92], names=("trained", "plain")))
    trained - plain = 0.03 ± 0.02 (95 %), p = 0.035, trained better in 100 % of 3 pairs
    """

    difference: Interval
    p_value: float
    wins: float
    ties: float
    higher_is_better: bool = True
    first: str = "first"
    second: str = "second"

    @property
    def n(self) -> int:
        """Number of pairs."""
        return self.difference.n

    @property
    def better(self) -> str | None:
        """Name of the better one where the interval excludes zero, else None.

        Examples
        --------
        >>> paired_comparison([0.95, 0.96, 0.94], [0.91, 0.93, 0.92], higher_is_better=False).better
        'second'
        """
        if self.difference.low > 0:
            return self.first if self.higher_is_better else self.second
        if self.difference.high < 0:
            return self.second if self.higher_is_better else self.first
        return None

    def __str__(self) -> str:
        smallest = 0.001
        p_value = "p = n/a" if math.isnan(self.p_value) else "p < 0.001" if self.p_value < smallest else f"p = {self.p_value:.2g}"
        tied = f", equal in {100 * self.ties:.0f} %" if self.ties else ""
        pairs = f"{self.n} {'pair' if self.n == 1 else 'pairs'}"
        won = f"{self.first} better in {100 * self.wins:.0f} % of {pairs}{tied}"
        return f"{self.first} - {self.second} = {self.difference}, {p_value}, {won}"


@dataclasses.dataclass(frozen=True)
class Components:
    """Where the uncertainty of a chip's value comes from.

    Parameters
    ----------
    mean
        Mean over the chips.
    chip_std
        Standard deviation from chip to chip on this test set; NaN for one chip.
    mean_error
        Standard error of the mean over further chips on this test set, ``chip_std / sqrt(n)``.
    test_error
        Standard error of one chip's value over further test sets of the same size. All chips of a study share it, and more chips do not
        make it smaller.
    n
        Number of chips.

    Examples
    --------
    >>> print(components([0.95, 0.96, 0.94, 0.95], test_error=0.011))
    mean 0.950; chip to chip 0.008 (standard deviation); standard errors: mean over 4 chips 0.004, test set 0.011
    """

    mean: float
    chip_std: float
    mean_error: float
    test_error: float
    n: int

    @property
    def total_error(self) -> float:
        """Standard error of the mean for further chips on a further test set."""
        return math.hypot(self.mean_error, self.test_error)

    def __str__(self) -> str:
        errors = [error for error in (self.chip_std, self.mean_error, self.test_error) if error > 0 and math.isfinite(error)]
        digits = max([_digits(error) for error in errors], default=4)
        over = f"{self.n} {'chip' if self.n == 1 else 'chips'}"

        def text(number: float) -> str:
            return f"{number:.{digits}f}" if math.isfinite(number) else "n/a"

        spread = f"chip to chip {text(self.chip_std)} (standard deviation)" if self.n > 1 else "chip to chip n/a (1 chip)"
        known = f"standard errors: mean over {over} {text(self.mean_error)}, test set {text(self.test_error)}"
        return f"mean {text(self.mean)}; {spread}; {known}"


def mean_interval(values: Values, confidence: float = 0.95) -> Interval:
    """Mean over chips with its t interval.

    Parameters
    ----------
    values
        One value per chip, shape (n,).
    confidence
        Probability of coverage, between 0 and 1.

    Returns
    -------
    Interval
        With NaN for its ends where there is one chip, or a value is not finite.

    Raises
    ------
    ValueError
        If there is no value, or `confidence` is out of range.

    Examples
    --------
    >>> print(mean_interval([0.95, 0.96, 0.94, 0.95]))
    0.950 ± 0.013 (95 %)
    >>> print(mean_interval([0.95]))
    0.95 ± n/a (1 chip)
    """
    chips = _checked("values", values)
    _check_confidence(confidence)
    mean, _, error = _moments(chips)
    half = error * float(special.stdtrit(chips.size - 1, (1 + confidence) / 2)) if chips.size > 1 else math.nan
    return Interval(mean, mean - half, mean + half, confidence, chips.size)


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> Interval:
    """Fraction of successes with its Wilson score interval [1]_.

    Parameters
    ----------
    successes
        Number of successes, 0..n.
    n
        Number of trials.
    confidence
        Probability of coverage, between 0 and 1; reached on average over fractions, not for each.

    Raises
    ------
    ValueError
        If a number is out of range.

    References
    ----------
    .. [1] E. B. Wilson, "Probable inference, the law of succession, and statistical inference", J. Am. Stat. Assoc. 22, 209 (1927).

    Examples
    --------
    >>> print(wilson_interval(23, 25))
    0.92 [0.75, 0.98] (95 %)
    """
    if n < 1 or not 0 <= successes <= n:
        problem = f"must satisfy 0 <= successes <= n and n >= 1, but got {successes} and {n}"
        raise ValueError(f"Arguments `successes` and `n` {problem}; count again.")
    _check_confidence(confidence)
    fraction = successes / n
    z = float(special.ndtri((1 + confidence) / 2))
    center = (fraction + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(fraction * (1 - fraction) / n + z**2 / (4 * n**2))
    # The ends are exactly 0 and 1 at no and at n successes; the sums above miss that by a rounding error.
    low = center - half if successes else 0.0
    high = center + half if successes < n else 1.0
    return Interval(fraction, low, high, confidence, n)


def yield_fraction(values: Values, spec: float, *, higher_is_better: bool = True, confidence: float = 0.95) -> Interval:
    """Fraction of chips within the specification, with its Wilson interval.

    A chip passes with a value >= `spec`, or <= `spec` if lower is better; a chip with NaN does not.

    Raises
    ------
    ValueError
        If there is no value, `spec` is NaN, or `confidence` is out of range.

    Examples
    --------
    >>> yield_fraction([0.95, 0.91, 0.97, float("nan")], spec=0.95).value
    0.5
    """
    chips = _checked("values", values)
    if math.isnan(spec):
        raise ValueError("Argument `spec` must be a number, but got nan; give the value that a chip has to reach.")
    passed = chips >= spec if higher_is_better else chips <= spec
    return wilson_interval(int(passed.sum()), chips.size, confidence)


def percentile(values: Values, percent: float = 5.0, *, higher_is_better: bool = True) -> float:
    """Value that `percent` of the chips are worse than, with linear interpolation between chips.

    With few chips it says little: the 5th percentile of 25 chips lies between the second worst and the third worst.

    Raises
    ------
    ValueError
        If there is no value, or `percent` is out of 0..100.

    Examples
    --------
    >>> percentile([1.0, 2.0, 3.0, 4.0, 5.0], 25)
    2.0
    >>> percentile([1.0, 2.0, 3.0, 4.0, 5.0], 25, higher_is_better=False)
    4.0
    """
    if not 0 <= percent <= 100:
        raise ValueError(f"Argument `percent` must lie in 0..100, but got {percent}; 5 is the value that 5 % of the chips are worse than.")
    return float(np.percentile(_checked("values", values), percent if higher_is_better else 100 - percent))


def worst(values: Values, *, higher_is_better: bool = True) -> float:
    """Value of the worst chip; NaN if a chip has NaN.

    Examples
    --------
    >>> worst([0.95, 0.91, 0.97])
    0.91
    """
    chips = _checked("values", values)
    return float(chips.min() if higher_is_better else chips.max())


def paired_comparison(
    first: Values,
    second: Values,
    *,
    higher_is_better: bool = True,
    confidence: float = 0.95,
    names: tuple[str, str] = ("first", "second"),
) -> Comparison:
    """Compare two chips trial by trial.

    Parameters
    ----------
    first, second
        One value per trial, shape (n,); trial k of both with the same seed and trial number.
    higher_is_better
        Direction of the metric.
    confidence
        Probability of coverage of the interval.
    names
        What to call them.

    Raises
    ------
    ValueError
        If the numbers of trials differ or are zero.

    Examples
    --------
    >>> paired_comparison([0.95, 0.96, 0.94], [0.91, 0.93, 0.92]).wins
    1.0
    """
    one, other = _checked("first", first), _checked("second", second)
    if one.size != other.size:
        problem = f"must have one value per trial each, but got {one.size} and {other.size}"
        raise ValueError(f"Arguments `first` and `second` {problem}; pair the trials.")
    with np.errstate(invalid="ignore"):
        differences = one - other
    difference = mean_interval(differences, confidence)
    _, _, error = _moments(differences)
    if error > 0:
        p_value = 2 * float(special.stdtr(one.size - 1, -abs(difference.value) / error))
    elif error == 0:
        p_value = float(difference.value == 0)
    else:
        p_value = math.nan
    won = differences > 0 if higher_is_better else differences < 0
    return Comparison(difference, p_value, float(won.mean()), float((one == other).mean()), higher_is_better, *names)


def components(values: Values, test_error: float | Values) -> Components:
    """Tell the chip-to-chip spread, the error of the mean and the test set's error apart.

    Parameters
    ----------
    values
        One value per chip, shape (n,), all on the same test set.
    test_error
        Standard error of a chip's value over test sets, from `bootstrap_error`: of a typical chip, or one per chip (their root mean square
        counts).

    Raises
    ------
    ValueError
        If there is no value, or an error is negative.

    Examples
    --------
    >>> round(components([0.9, 0.8], test_error=0.03).mean_error, 6)
    0.05
    """
    chips = _checked("values", values)
    errors = _checked("test_error", np.atleast_1d(np.asarray(test_error, dtype=np.float64)))
    if (errors < 0).any():
        raise ValueError(f"Argument `test_error` must not be negative, but got {errors.min():g}; give a standard error.")
    mean, spread, error = _moments(chips)
    return Components(mean, spread, error, float(np.sqrt(np.mean(errors**2))), chips.size)


def bootstrap_error(rows: Tensor, compute: Callable[[Tensor], float], resamples: int = 200, seed: int = 0) -> float:
    """Bootstrap standard error of a metric over test sets [1]_.

    Parameters
    ----------
    rows
        Per-sample statistics, shape (n, k), of `Metric.rows`.
    compute
        Rows to value, `Metric.compute`.
    resamples
        Number of test sets that are drawn with replacement; the result scatters by ``1 / sqrt(2 * resamples)`` of itself, 5 % for 200.
    seed
        Of a generator of its own.

    Returns
    -------
    float
        NaN for one sample, and where the metric does not exist on a drawn test set.

    Raises
    ------
    ValueError
        If there is no sample, or fewer than two resamples.

    References
    ----------
    .. [1] B. Efron and R. J. Tibshirani, "An introduction to the bootstrap", Chapman and Hall (1993), chapter 6.

    Examples
    --------
    >>> rows = torch.tensor([[1.0], [0.0]]).repeat(50, 1)
    >>> round(bootstrap_error(rows, lambda drawn: float(drawn.mean())), 2)
    0.05
    """
    samples = rows.shape[0] if rows.ndim else 0
    if samples == 0:
        raise ValueError(f"Argument `rows` must hold at least one sample, but got shape {tuple(rows.shape)}; measure something first.")
    if resamples < 2:
        raise ValueError(f"Argument `resamples` must be at least 2, but got {resamples}; 200 is usual.")
    if samples == 1:
        return math.nan
    generator = np.random.default_rng(seed)
    values = [compute(rows[torch.from_numpy(generator.integers(0, samples, samples))]) for _ in range(resamples)]
    return _moments(np.asarray(values, dtype=np.float64))[1]


def _moments(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean, standard deviation and standard error of the mean; the last two NaN for one value, and exactly 0 for equal ones."""
    if values.size > 1 and (values == values[0]).all() and np.isfinite(values[0]):
        return float(values[0]), 0.0, 0.0
    with np.errstate(invalid="ignore"):
        spread = float(values.std(ddof=1)) if values.size > 1 else math.nan
        return float(values.mean()), spread, spread / math.sqrt(values.size)


def _checked(name: str, values: Values) -> npt.NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        problem = f"must hold one value per chip, shape (n,) with n >= 1, but got shape {array.shape}"
        raise ValueError(f"Argument `{name}` {problem}; measure a chip first.")
    return array


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"Argument `confidence` must lie between 0 and 1, but got {confidence}; 0.95 is usual.")


def _digits(error: float) -> int:
    """Decimals that show an error with one significant digit, or two below 20: 0.006, 0.013."""
    if error == 0:
        return 0
    exponent = math.floor(math.log10(error))
    leading = error / 10.0**exponent
    return min(12, max(0, -exponent + (leading < 2)))
