"""Observing magnitudes on calibration data in bounded memory, to choose the full scale of converters."""

import torch
from torch import Tensor

from devices.converters import Converter

BINS = 4096


class RangeObserver:
    """A histogram of magnitudes whose range doubles when a larger one comes by.

    Doubling merges neighboring bins, so nothing is kept but the counts, and the quantile is exact to one bin
    (1/2048 of the largest magnitude seen, or finer).

    Examples
    --------
    >>> observer = RangeObserver()
    >>> observer.add(torch.linspace(-1.0, 1.0, 1001))
    >>> observer.maximum, abs(observer.percentile(50.0) - 0.5) < 1e-3
    (1.0, True)
    """

    def __init__(self) -> None:
        self.maximum = 0.0
        self._limit = 0.0
        self._counts = torch.zeros(BINS, dtype=torch.int64)

    def add(self, values: Tensor) -> None:
        """Count the magnitudes of a tensor of any shape."""
        magnitudes = values.detach().abs().flatten().to("cpu", torch.float32)
        if magnitudes.numel() == 0:
            return
        largest = float(magnitudes.max())
        self.maximum = max(self.maximum, largest)
        if largest == 0.0:
            self._counts[0] += magnitudes.numel()
            return
        if self._limit == 0.0:
            self._limit = largest
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


def full_scale(converter: Converter, observer: RangeObserver | None) -> float | None:
    """Return a converter's static full scale, or None where it is taken from each batch.

    A policy that needs data falls back to each batch's own maximum when there were none; the caller reports that.
    """
    if converter.range_policy == "fixed":
        return converter.fixed_range
    if converter.range_policy == "per_batch" or observer is None or observer.maximum == 0.0:
        return None
    return observer.maximum if converter.range_policy == "maximum" else observer.percentile(converter.percentile)
