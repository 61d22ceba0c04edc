"""Current that grows faster than the voltage."""

import torch
from pydantic import Field
from torch import Tensor

from devices.design import Design


class CurrentVoltage(Design):
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
    full_scale_volt: float = Field(gt=0)

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
