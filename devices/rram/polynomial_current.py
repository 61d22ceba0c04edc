"""Current of a cell as a polynomial of the voltage whose coefficients depend on the conductance."""

from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from torch import Tensor

from devices.rram.current_voltage import CurrentLaw

Doubles = npt.NDArray[np.float64]


class PolynomialCurrent(CurrentLaw):
    """Current of a cell at a voltage: I = G V + c_2(G) V^2 + c_3(G) V^3 + ..., each c_n a polynomial of log10 G.

    G is the conductance at small voltages. Cells of different conductance bend differently, so that a column is no more a product of one
    bent input with one matrix: each power of the voltage has a matrix of its own, and the sum of the products is exact for ideal wires.

    Parameters
    ----------
    coefficients
        For n = 2, 3, ...: the coefficients of c_n in powers of log10(G / siemens), lowest power first; c_n in A / V^n.
    low_siemens, high_siemens
        Conductances between which the fit holds; beyond, c_n is that of the nearest one.
    full_scale_volt
        Voltage of the largest input, within which the fit holds.

    Examples
    --------
    >>> law = PolynomialCurrent(coefficients=((1e-5,), (4e-5,)), low_siemens=1e-6, high_siemens=1e-4, full_scale_volt=0.5)
    >>> [round(float(bend) * 1e6, 3) for bend in law.bends(torch.tensor(2e-5))]  # c_2 V and c_3 V^2 at full scale, microsiemens
    [5.0, 10.0]
    """

    coefficients: tuple[tuple[float, ...], ...] = Field(min_length=1)
    low_siemens: float = Field(gt=0)
    high_siemens: float = Field(gt=0)

    @model_validator(mode="after")
    def _holds_somewhere(self) -> Self:
        if self.low_siemens >= self.high_siemens:
            raise ValueError(f"`low_siemens` must be below `high_siemens`, but got {self.low_siemens} and {self.high_siemens}; swap them")
        if not all(self.coefficients):
            raise ValueError("`coefficients` must have at least one number for each power, but one has none; give 0.0 to leave it out")
        siemens, volts = np.meshgrid(
            np.geomspace(self.low_siemens, self.high_siemens, 33), np.linspace(-self.full_scale_volt, self.full_scale_volt, 65)
        )
        slopes = self.current(volts, siemens)[1]
        if slopes.min() < 0:
            worst = np.unravel_index(slopes.argmin(), slopes.shape)
            raise ValueError(
                f"`coefficients` must give a current that rises with the voltage, but it falls at {siemens[worst] * 1e6:.3g} uS and "
                f"{volts[worst]:.3g} V; check units and the order of powers"
            )
        return self

    def bends(self, conductance: Tensor) -> list[Tensor]:
        """Return c_n(G) V_full^(n - 1) for n = 2, 3, ..., siemens, each of the conductances' shape; 0 for a cell that is not there."""
        place = conductance.double().clamp(self.low_siemens, self.high_siemens).log10()
        found = []
        for n, terms in enumerate(self.coefficients, 2):
            value = torch.zeros_like(place)
            for coefficient in reversed(terms):
                value = value * place + coefficient
            found.append((value * self.full_scale_volt ** (n - 1) * (conductance > 0)).to(conductance.dtype))
        return found

    def relative_current(self, voltage_fraction: Tensor) -> Tensor:
        """Return the voltage itself: what is bent alike in all cells is nothing."""
        return voltage_fraction

    def current(self, voltage: Doubles, conductance: Doubles) -> tuple[Doubles, Doubles]:
        """Return current in ampere and slope in siemens for voltages in volts, as `kernels.solve_nonlinear` asks for them."""
        current, slope = conductance * voltage, conductance + np.zeros_like(voltage)
        for n, bend in enumerate(self.bends(torch.from_numpy(np.ascontiguousarray(conductance))), 2):
            coefficient = bend.numpy() / self.full_scale_volt ** (n - 1)
            current = current + coefficient * voltage**n
            slope = slope + n * coefficient * voltage ** (n - 1)
        return current, slope

    def spice(self, siemens: float, across: str) -> str:
        """Return the current of a cell as an expression of the voltage `across` it."""
        terms = [f"{siemens!r}*{across}"]
        for n, bend in enumerate(self.bends(torch.tensor(siemens, dtype=torch.float64)), 2):
            power = "*".join([across] * n)
            terms.append(f"({float(bend) / self.full_scale_volt ** (n - 1)!r})*{power}")
        return "+".join(terms)
