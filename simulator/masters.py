"""Whether master weights are still those that an instance was programmed from."""

from dataclasses import dataclass

import torch
from torch import Tensor

SAMPLES = 64
GOLDEN_RATIO = 0.6180339887498949


@dataclass(frozen=True, eq=False)
class WeightMark:
    """What a weight was when it was programmed: its version counter, and up to 64 of its elements.

    The counter sees every edit but those through ``.data``; the elements see those that touch one of them, as scaling, loading and
    pruning of a layer do. An edit of a few elements through ``.data`` can stay unseen.

    Examples
    --------
    >>> weight = torch.ones(8, 8)
    >>> mark = WeightMark.of(weight)
    >>> mark.holds(weight)
    True
    >>> weight.data.mul_(2)[0, 0], mark.holds(weight)
    (tensor(2.), False)
    """

    version: int
    places: Tensor
    elements: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> "WeightMark":
        """Take a mark of a weight as it is now."""
        count = weight.numel()
        # Multiples of the golden ratio spread evenly over any length and do not fall into step with rows or columns.
        spread = (torch.arange(SAMPLES, dtype=torch.float64) * GOLDEN_RATIO % 1 * count).long()
        places = (torch.arange(count) if count <= SAMPLES else spread).to(weight.device)
        return cls(weight._version, places, torch.take(weight.detach(), places))

    def holds(self, weight: Tensor) -> bool:
        """Return whether nothing is seen to have changed."""
        return weight._version == self.version and torch.equal(torch.take(weight.detach(), self.places), self.elements)
