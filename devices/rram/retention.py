"""What a cell's conductance does in the time after programming: the extension point, and checks that its laws share."""

import math
from abc import abstractmethod

from torch import Tensor

from devices.base import ProgrammedCells
from devices.design import Design
from kernels.random import Key


class RetentionLaw(Design):
    """Extension point: how programmed conductances move with time.

    Examples
    --------
    >>> class Kept(RetentionLaw):
    ...     def memory(self, target, key):
    ...         return {}
    ...     def conductance(self, programmed, seconds):
    ...         return programmed.conductance
    >>> Kept()
    Kept()
    """

    @abstractmethod
    def memory(self, target: Tensor, key: Key) -> dict[str, Tensor]:
        """Draw at programming what each cell's course depends on, by name; tensors of the targets' shape."""

    @abstractmethod
    def conductance(self, programmed: ProgrammedCells, seconds: float) -> Tensor:
        """Return the conductances, siemens, `seconds` after programming; at 0 seconds those programmed."""


def checked_seconds(seconds: float) -> float:
    """Return `seconds`; a ValueError of one line where it is no time after programming.

    Examples
    --------
    >>> checked_seconds(-1.0)
    Traceback (most recent call last):
    ValueError: Argument `seconds` must be finite and at least 0, but got -1.0; give the time since programming
    """
    if not (math.isfinite(seconds) and seconds >= 0):
        raise ValueError(f"Argument `seconds` must be finite and at least 0, but got {seconds}; give the time since programming")
    return seconds
