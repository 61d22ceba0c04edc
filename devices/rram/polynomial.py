"""A cell whose programming error is a polynomial of the target conductance, as measured arrays are usually fitted."""

from typing import Annotated, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from devices.base import ProgrammedCells, ResistiveCell
from kernels.random import Key, truncated_normal

MICROSIEMENS = 1e-6


class PolynomialCell(ResistiveCell):
    """Resistive cell with a Gaussian programming error whose standard deviation depends on the target.

    A programmed conductance follows N(target, sigma(target)^2), redrawn where it falls below zero (the truncated law);
    nothing is clipped to the conductance range. Every cell draws its own error.

    Parameters
    ----------
    sigma_coefficients_microsiemens
        c_0, c_1, ... of sigma = sum_k c_k G^k with G and sigma in microsiemens.
    read_noise_fraction
        Standard deviation of one read over the cell's conductance, white from read to read; None where none was published.

    Examples
    --------
    >>> import torch
    >>> from kernels.random import Key
    >>> cell = PolynomialCell(g_min_siemens=1e-6, g_max_siemens=4e-5, sigma_coefficients_microsiemens=(2.0,))
    >>> drawn = cell.program(torch.full((10_000,), 2e-5), Key.of(seed=0)).conductance
    >>> round(float(drawn.std()) * 1e6, 1)
    2.0
    """

    sigma_coefficients_microsiemens: tuple[float, ...] = Field(min_length=1)
    read_noise_fraction: Annotated[float, Field(ge=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _sigma_is_positive(self) -> Self:
        grid = np.linspace(self.g_min_siemens, self.g_max_siemens, 257) / MICROSIEMENS
        sigma = np.polynomial.polynomial.polyval(grid, self.sigma_coefficients_microsiemens)
        if sigma.min() < 0:
            worst = grid[int(sigma.argmin())]
            raise ValueError(
                f"`sigma_coefficients_microsiemens` must give a sigma of at least 0 over the conductance range, but got "
                f"{list(self.sigma_coefficients_microsiemens)}, which gives {sigma.min():.4g} uS at {worst:.4g} uS; check signs and units"
            )
        return self

    def program_sigma(self, target: Tensor) -> Tensor:
        """Return the standard deviation of the programming error, siemens, for targets in siemens of any shape."""
        microsiemens = target / MICROSIEMENS
        sigma = torch.zeros_like(microsiemens)
        for coefficient in reversed(self.sigma_coefficients_microsiemens):
            sigma = sigma * microsiemens + coefficient
        return sigma * MICROSIEMENS

    def program(self, target: Tensor, key: Key) -> ProgrammedCells:
        """Draw the programmed conductances, siemens, for targets in siemens of any shape."""
        return ProgrammedCells(truncated_normal(key, target, self.program_sigma(target)))

    def read_sigma(self, conductance: Tensor, seconds: float) -> Tensor | None:
        """Return the standard deviation of one read, siemens, or None where the cell's reads are exact."""
        return None if not self.read_noise_fraction else self.read_noise_fraction * conductance

    @property
    def ages(self) -> bool:
        """Whether time changes a cell: no, as no drift was published for cells of this kind."""
        return False

    def drift(self, programmed: ProgrammedCells, seconds: float, key: Key) -> Tensor:
        """Return the programmed conductance: no drift was published for cells of this kind."""
        return programmed.conductance
