"""Observing magnitudes on calibration data in bounded memory, to choose the full scale of converters."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

import pandas as pd
import torch
from torch import Tensor

from devices.converters import Converter

BINS = 4096
SMALLEST = 1e-30
"""Smallest range of a histogram: below it a bin's inverse width is no float32."""
LOOKUPS = 1 << 22
"""Look-ups in a histogram that a search for the least error may take: its candidates get fewer where codes get more."""


class RangeObserver:
    """A histogram of magnitudes whose range doubles when a larger one comes by.

    Doubling merges neighboring bins, so nothing is kept but the counts, and the quantile is exact to one bin
    (1/2048 of the largest magnitude seen, or finer). Zeros are counted apart, too: every converter has a code for them.

    Examples
    --------
    >>> observer = RangeObserver()
    >>> observer.add(torch.linspace(-1.0, 1.0, 1001))
    >>> observer.maximum, abs(observer.percentile(50.0) - 0.5) < 1e-3
    (1.0, True)
    """

    def __init__(self) -> None:
        self.maximum = 0.0
        self.zeros = 0
        self._limit = 0.0
        self._counts = torch.zeros(BINS, dtype=torch.int64)

    @property
    def observations(self) -> int:
        """How many values were counted."""
        return int(self._counts.sum())

    def add(self, values: Tensor) -> None:
        """Count the magnitudes of a tensor of any shape."""
        magnitudes = values.detach().abs().flatten().to("cpu", torch.float32)
        if magnitudes.numel() == 0:
            return
        largest = float(magnitudes.max())
        if not math.isfinite(largest):
            raise ValueError("Argument `calibration` must lead to finite inputs and outputs of every layer, but NaN or infinity was seen")
        self.maximum = max(self.maximum, largest)
        self.zeros += magnitudes.numel() - int(magnitudes.count_nonzero())
        if largest == 0.0:
            self._counts[0] += magnitudes.numel()
            return
        if self._limit == 0.0:
            self._limit = max(largest, SMALLEST)
        while self._limit < largest:
            self._counts = torch.cat((self._counts.reshape(-1, 2).sum(1), torch.zeros(BINS // 2, dtype=torch.int64)))
            self._limit *= 2
        bins = (magnitudes * (BINS / self._limit)).long().clamp_(max=BINS - 1)
        self._counts += torch.bincount(bins, minlength=BINS)

    def percentile(self, percent: float) -> float:
        """Return the magnitude below which a share of the observations lies, in the unit of the observations."""
        total = int(self._counts.sum())
        if total == 0:
            return 0.0
        cumulative = torch.cumsum(self._counts, 0)
        position = int(torch.searchsorted(cumulative, torch.tensor(percent / 100 * total)))
        return min(self._limit * (min(position, BINS - 1) + 1) / BINS, self.maximum)

    def share_above(self, full_scale: float) -> float:
        """Return the share of the observations beyond a full scale, exact to the share of one bin.

        Examples
        --------
        >>> observer = RangeObserver()
        >>> observer.add(torch.arange(1000.0))
        >>> round(observer.share_above(899.5), 3), observer.share_above(999.0)
        (0.1, 0.0)
        """
        if full_scale >= self.maximum or not self.observations:
            return 0.0
        return float(self._tails(torch.tensor([full_scale], dtype=torch.float64))[0][0]) / self.observations

    def squared_error(self, scales: Tensor, limit: int) -> Tensor:
        """Return the mean squared error of rounding and clipping for each of several full scales, float64.

        It is exact for the histogram, whose observations lie evenly within each bin and at zero: with steps ``D``, codes k and tails
        T0(t), T1(t), the sums of 1 and of x over the observations above t, it is
        ``sum x^2 - 2 D sum_k T1((k - 1/2) D) + D^2 sum_k (2k - 1) T0((k - 1/2) D)``.

        Parameters
        ----------
        scales
            Shape (candidates,), in the unit of the observations, above zero.
        limit
            Largest code.

        Examples
        --------
        >>> observer = RangeObserver()
        >>> observer.add(torch.linspace(-1.0, 1.0, 100001))
        >>> round(float(observer.squared_error(torch.tensor([1.0]), 127)) * 12 * 127**2, 3)  # a step squared over 12
        1.0
        """
        steps = scales.double() / limit
        codes = torch.arange(1, limit + 1, dtype=torch.float64)
        total = torch.zeros_like(steps)
        for part in torch.arange(len(steps)).split(max(1, (1 << 18) // limit)):
            step = steps[part].unsqueeze(1)
            count, first_moment = self._tails((codes - 0.5) * step)
            total[part] = ((2 * codes - 1) * step**2 * count - 2 * step * first_moment).sum(1)
        return (total + self._square()) / max(1, self.observations)

    def least_error(self, limit: int) -> float:
        """Return the full scale with the least mean squared error, the best of all edges of the histogram's bins.

        Where codes are so many that this would take long, of every 2nd, 4th, ... edge, which then lies closer than the error changes.

        Examples
        --------
        >>> observer = RangeObserver()
        >>> observer.add(torch.linspace(-1.0, 1.0, 100001))
        >>> round(observer.least_error(7), 3)  # 7 / 7.5: the last code, too, serves values up to half a step beyond it
        0.933
        """
        width = self._limit / BINS
        last = min(BINS, int(self.maximum / width) + 1)
        stride = max(1, -(-last * limit // LOOKUPS))
        edges = torch.arange(last, 0, -stride, dtype=torch.float64).flip(0) * width
        scales = edges.clamp(max=self.maximum)
        return float(scales[int(self.squared_error(scales, limit).argmin())])

    def _spread(self) -> Tensor:
        """Return the counts without zeros."""
        counts = self._counts.double()
        counts[0] -= self.zeros
        return counts

    def _tails(self, thresholds: Tensor) -> tuple[Tensor, Tensor]:
        """Return how many observations lie above each threshold, which is above zero, and the sum of their magnitudes."""
        counts, width = self._spread(), self._limit / BINS
        nothing = torch.zeros(1, dtype=torch.float64)
        sums = counts * (torch.arange(BINS, dtype=torch.float64) + 0.5) * width
        count_behind, sum_behind = (torch.cat((part.flip(0).cumsum(0).flip(0), nothing, nothing)) for part in (counts, sums))
        counts = torch.cat((counts, nothing))
        bins = (thresholds / width).long().clamp_(max=BINS)
        edges = ((bins + 1) * width).maximum(thresholds)
        here = counts[bins] / width
        return count_behind[bins + 1] + here * (edges - thresholds), sum_behind[bins + 1] + here * (edges**2 - thresholds**2) / 2

    def _square(self) -> float:
        """Return the sum of the squared observations."""
        places = torch.arange(BINS, dtype=torch.float64)
        return float((self._spread() * (places**2 + places + 1 / 3)).sum()) * (self._limit / BINS) ** 2


def full_scale(converter: Converter, observer: RangeObserver | None) -> float | None:
    """Return a converter's static full scale, or None where it is taken from each batch.

    A policy that needs data falls back to each batch's own maximum when there were none; the caller reports that.
    """
    if converter.range_policy == "fixed":
        return converter.fixed_range
    if converter.range_policy == "per_batch" or observer is None or observer.maximum == 0.0:
        return None
    if converter.range_policy == "mse":
        return observer.least_error(converter.limit)
    return observer.maximum if converter.range_policy == "maximum" else observer.percentile(converter.percentile)


class ColumnObserver:
    """A `RangeObserver` for each column.

    Examples
    --------
    >>> from devices import ADC
    >>> observer = ColumnObserver()
    >>> observer.add(torch.tensor([[0.5, -2.0], [0.1, 0.2]]))
    >>> observer.full_scales(ADC())
    tensor([2.0000, 0.2000])
    """

    def __init__(self) -> None:
        self.columns: list[RangeObserver] = []

    def add(self, values: Tensor) -> None:
        """Count the magnitudes of a tensor of shape (columns, ...)."""
        if not self.columns:
            self.columns = [RangeObserver() for _ in values]
        for observer, column in zip(self.columns, values, strict=True):
            observer.add(column)

    def full_scales(self, converter: Converter) -> Tensor | None:
        """Return each column's full scale, or None where all are taken from each batch; a column without currents gets the largest."""
        found = [full_scale(converter, observer) for observer in self.columns]
        given = [one for one in found if one is not None]
        if not given:
            return torch.tensor([converter.fixed_range]) if converter.range_policy == "fixed" else None
        return torch.tensor([max(given) if one is None else one for one in found])

    def describe(self, layer: str, name: str, converter: Converter, chosen: "float | Tensor | None") -> "ConverterRange":
        """Return a row for all columns: the largest full scale, and the share clipped of all observations."""
        count = sum(observer.observations for observer in self.columns)
        if chosen is None or not count:
            return ConverterRange(layer, name, "per_batch" if chosen is None else converter.range_policy, None, None, count)
        scales = torch.as_tensor(chosen).expand(len(self.columns)).tolist()
        clipped = sum(observer.share_above(full) * observer.observations for observer, full in zip(self.columns, scales, strict=True))
        return ConverterRange(layer, name, converter.range_policy, max(scales), clipped / count, count)


@dataclass(frozen=True)
class ConverterRange:
    """What calibration chose for one converter of a layer.

    Attributes
    ----------
    layer
        Qualified name of the layer.
    converter
        ``DAC`` or ``ADC``, with the number of the slice where weights have several; ``by column`` where each column has its own.
    policy
        Where the full scale comes from; ``per_batch`` also where there were no data for another policy.
    full_scale
        In units of the layer's input (DAC), or of input times weight code (ADC; of input digit times weight code where inputs have slices
        that are converted one by one); None where each batch has its own. Of columns the largest.
    clipped_share
        Share of the observations beyond the full scale; None where there were none.
    observations
        How many values calibration saw.
    """

    layer: str
    converter: str
    policy: str
    full_scale: float | None
    clipped_share: float | None
    observations: int

    @classmethod
    def of(cls, layer: str, name: str, converter: Converter, chosen: float | None, observer: RangeObserver | None) -> "ConverterRange":
        """Describe a full scale that was chosen.

        Examples
        --------
        >>> from devices import DAC
        >>> observer = RangeObserver()
        >>> observer.add(torch.tensor([0.5, 1.5, -2.5, 1.0]))
        >>> ConverterRange.of("fc", "DAC", DAC(range_policy="fixed", fixed_range=2.0), 2.0, observer).clipped_share
        0.25
        """
        count = 0 if observer is None else observer.observations
        share = None if observer is None or not count else 0.0 if chosen is None else observer.share_above(chosen)
        return cls(layer, name, "per_batch" if chosen is None else converter.range_policy, chosen, share, count)


def range_frame(ranges: Iterable[ConverterRange]) -> pd.DataFrame:
    """Return ranges as a table, a row for each converter; what is not known is NaN.

    Examples
    --------
    >>> range_frame([ConverterRange("fc", "DAC", "maximum", 2.5, 0.0, 100)])[["layer", "policy", "full_scale"]]
      layer   policy  full_scale
    0    fc  maximum         2.5
    """
    frame = pd.DataFrame([asdict(one) for one in ranges], columns=[field.name for field in fields(ConverterRange)])
    for column in ("full_scale", "clipped_share"):
        frame[column] = frame[column].astype("float64")
    frame["observations"] = frame["observations"].astype("int64")
    return frame
