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
        places = spread_places(weight.numel(), weight.device)
        return cls(weight._version, places, torch.take(weight.detach(), places))

    @classmethod
    def stored(cls, weight: Tensor, elements: Tensor | None) -> "WeightMark | None":
        """Take up a mark whose elements a state holds: it holds where the weight that was loaded has them; None where there is none.

        Examples
        --------
        >>> mark = WeightMark.stored(torch.zeros(2), torch.tensor([0.0, 1.0]))
        >>> mark.holds(torch.zeros(2)), mark.holds(torch.tensor([0.0, 1.0]))
        (False, True)
        """
        if elements is None:
            return None
        return cls(weight._version, spread_places(weight.numel(), weight.device), elements.to(weight.device))

    def holds(self, weight: Tensor) -> bool:
        """Return whether nothing is seen to have changed."""
        return weight._version == self.version and torch.equal(torch.take(weight.detach(), self.places), self.elements)


def spread_places(count: int, device: torch.device) -> Tensor:
    """Return up to 64 places that are spread evenly over a number of elements.

    Multiples of the golden ratio do so for any length and do not fall into step with rows or columns.

    Examples
    --------
    >>> spread_places(3, torch.device("cpu"))
    tensor([0, 1, 2])
    """
    if count <= SAMPLES:
        return torch.arange(count, device=device)
    return (torch.arange(SAMPLES, dtype=torch.float64) * GOLDEN_RATIO % 1 * count).long().to(device)
