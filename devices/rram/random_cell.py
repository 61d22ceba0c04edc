"""A cell that is formed once at random and never tuned."""

import torch
from pydantic import Field, SerializeAsAny
from torch import Tensor

from devices.base import ProgrammedCells, ResistiveCell
from devices.rram.spread import SpreadLaw
from kernels.random import Key, truncated_normal


class RandomCell(ResistiveCell):
    """Resistive cell whose conductance follows N(mean, sigma^2) whatever the target, redrawn where it falls below zero.

    Electroforming sets the law; a network of such cells takes its weights as they come.

    Parameters
    ----------
    mean_siemens, sigma_siemens
        Mean and standard deviation of the conductances.
    read_noise
        White noise: the standard deviation of one read, drawn anew at each.

    Examples
    --------
    >>> cell = RandomCell(g_min_siemens=0.0, g_max_siemens="50 uS", mean_siemens="34.06 uS", sigma_siemens="5.32 uS")
    >>> drawn = cell.program(torch.zeros(100_000), Key.of(seed=0)).conductance
    >>> round(float(drawn.mean()) * 1e6, 1), round(float(drawn.std()) * 1e6, 1)
    (34.1, 5.3)
    """

    mean_siemens: float = Field(gt=0)
    sigma_siemens: float = Field(ge=0)
    read_noise: SerializeAsAny[SpreadLaw] | None = None

    def program(self, target: Tensor, key: Key) -> ProgrammedCells:
        """Draw one conductance, siemens, for each element of `target`, whose values do not matter."""
        mean = torch.full_like(target, self.mean_siemens)
        return ProgrammedCells(truncated_normal(key, mean, torch.full_like(target, self.sigma_siemens)))

    def read_sigma(self, conductance: Tensor, seconds: float) -> Tensor | None:
        """Return the standard deviation of one read, siemens, or None where reads are exact."""
        return None if self.read_noise is None else self.read_noise.sigma(conductance)

    @property
    def ages(self) -> bool:
        """Whether time changes a cell: no, as no drift was published for cells of this kind."""
        return False

    def drift(self, programmed: ProgrammedCells, seconds: float, key: Key) -> Tensor:
        """Return the programmed conductance: no drift was published for cells of this kind."""
        return programmed.conductance
