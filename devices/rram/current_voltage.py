"""Current that grows faster than the voltage."""

from abc import abstractmethod

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from devices.design import Design

Doubles = npt.NDArray[np.float64]


class CurrentLaw(Design):
    """Extension point: how the current of a cell grows with its voltage; `CurrentVoltage` and `PolynomialCurrent` are the laws there are.

    Parameters
    ----------
    full_scale_volt
        Voltage of the largest input.
    """

    full_scale_volt: float = Field(gt=0)

    @abstractmethod
    def relative_current(self, voltage_fraction: Tensor) -> Tensor:
        """Return I / (G V_full) for voltages over V_full, -1 to 1, of any shape, as far as all cells bend alike."""

    def bends(self, conductance: Tensor) -> list[Tensor]:
        """Return what the squared, cubed, ... share of full scale is multiplied by, siemens; none where all cells bend alike."""
        return []

    @abstractmethod
    def current(self, voltage: Doubles, conductance: Doubles) -> tuple[Doubles, Doubles]:
        """Return current in ampere and slope in siemens for voltages in volts and conductances in siemens, as solvers ask for them."""

    @abstractmethod
    def spice(self, siemens: float, across: str) -> str:
        """Return the current of a cell as an expression of the voltage `across` it."""


class CurrentVoltage(CurrentLaw):
    """Current of a cell at a voltage: I = G sinh(k V) / k, with G the conductance at small voltages.

    Parameters
    ----------
    sinh_per_volt
        k, one over volt: the larger, the less linear.
    full_scale_volt
        Voltage of the largest input, as `relative_current` is given shares of it.

    Examples
    --------
    >>> import math
    >>> law = CurrentVoltage(sinh_per_volt=4.0, full_scale_volt=0.5)
    >>> round(float(law.relative_current(torch.tensor(1.0))), 4) == round(math.sinh(2) / 2, 4)
    True
    """

    sinh_per_volt: float = Field(gt=0)

    @property
    def _reach(self) -> float:
        return self.sinh_per_volt * self.full_scale_volt

    def relative_current(self, voltage_fraction: Tensor) -> Tensor:
        """Return I / (G V_full) for voltages over V_full, -1 to 1, of any shape: the voltage itself where the cell is linear."""
        return torch.sinh(voltage_fraction * self._reach) / self._reach

    def relative_slope(self, voltage_fraction: Tensor) -> Tensor:
        """Return dI / dV over G for voltages over V_full: what a solver of networks linearizes with."""
        return torch.cosh(voltage_fraction * self._reach)

    def voltage_fraction(self, relative_current: Tensor) -> Tensor:
        """Return the voltage over V_full whose `relative_current` this is: what a driver applies to undo the nonlinearity."""
        return torch.asinh(relative_current * self._reach) / self._reach

    def current(self, voltage: Doubles, conductance: Doubles) -> tuple[Doubles, Doubles]:
        """Return G sinh(k V) / k and its slope G cosh(k V)."""
        k = self.sinh_per_volt
        return conductance * np.sinh(k * voltage) / k, conductance * np.cosh(k * voltage)

    def spice(self, siemens: float, across: str) -> str:
        """Return the current of a cell as an expression of the voltage `across` it."""
        return f"{siemens / self.sinh_per_volt!r}*sinh({self.sinh_per_volt!r}*{across})"
