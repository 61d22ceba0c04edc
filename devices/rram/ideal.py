"""A cell without any error: the reference that a crossbar's ``ideal()`` uses."""

from torch import Tensor

from devices.base import ProgrammedCells, ResistiveCell
from kernels.random import Key


class IdealCell(ResistiveCell):
    """A cell that takes every target exactly, reads without noise and keeps what it was given.

    Examples
    --------
    >>> import torch
    >>> from kernels.random import Key
    >>> cell = IdealCell(g_min_siemens=1e-6, g_max_siemens=4e-5)
    >>> target = torch.tensor([1e-6, 2e-5])
    >>> bool((cell.program(target, Key.of(seed=0)).conductance == target).all())
    True
    """

    def program(self, target: Tensor, key: Key) -> ProgrammedCells:
        """Return the target itself."""
        return ProgrammedCells(target)

    def read_sigma(self, conductance: Tensor, seconds: float) -> None:
        """Return None: reads are exact."""
        return

    @property
    def ages(self) -> bool:
        """Whether time changes a cell: no."""
        return False

    def drift(self, programmed: ProgrammedCells, seconds: float, key: Key) -> Tensor:
        """Return the programmed conductance at any time."""
        return programmed.conductance
