"""What flows between the steps of a spiking network: currents and spikes over time."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Part:
    """Spikes of one origin: counts of shape (time, batch, ...), and what one spike is worth.

    Attributes
    ----------
    counts
        uint8, or int32 where pooling added up more than 255; time is 1 where nothing changes.
    worth
        A spike's value in units of the float network: a number, or one that broadcasts with a sample.
    """

    counts: Tensor
    worth: Tensor


@dataclass(frozen=True, eq=False)
class Signal:
    """What flows between two steps: a current, or spikes of one or several origins.

    Attributes
    ----------
    current
        Shape (time, batch, ...), float32, or int32 on integer cores; time is 1 where it is constant. None for spikes.
    parts
        Spikes; their values add up. Empty for a current.
    """

    current: Tensor | None = None
    parts: tuple[Part, ...] = ()

    @property
    def spikes(self) -> bool:
        """Whether this is spikes."""
        return bool(self.parts)

    def value(self) -> Tensor:
        """Return the value of each time step in units of the float network; not for currents of integer cores."""
        if self.current is not None:
            return self.current
        total: Tensor = sum(part.counts * part.worth for part in self.parts)  # type: ignore[assignment]
        return total

    def mean(self) -> Tensor:
        """Return the value averaged over time, shape (batch, ...)."""
        if self.current is not None:
            return self.current.float().mean(0)
        total: Tensor = sum(part.counts.float().mean(0) * part.worth for part in self.parts)  # type: ignore[assignment]
        return total


def merged(function: Any, values: Tensor) -> Tensor:
    """Apply a function of a batch to values of shape (time, batch, ...), all times at once."""
    return unmerged(function(values.flatten(0, 1)), values)


def unmerged(flat: Tensor, like: Tensor) -> Tensor:
    """Return values of a batch in which all times were, as (time, batch, ...)."""
    result: Tensor = flat.unflatten(0, like.shape[:2])
    return result


def lasting(values: Tensor, times: int) -> Tensor:
    """Return values for each time step where they were given for one that stands for all; their memory is not copied."""
    return values if values.shape[0] == times else values.expand(times, *values.shape[1:])
