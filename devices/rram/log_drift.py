"""Relaxation by a shift that grows with the logarithm of time, as in conductive-metal-oxide cells."""

import math

from pydantic import Field
from torch import Tensor

from devices.base import ProgrammedCells
from devices.rram.interpolation import above_zero
from devices.rram.retention import RetentionLaw, checked_seconds
from kernels.random import Key, normal

SHIFT = "relaxation"


class LogDrift(RetentionLaw):
    """Conductance that shifts by N(mean(t), sigma(t)^2): both linear in ln(t / start), whatever the conductance.

    Each cell has one standard normal number, drawn at programming, so that it keeps its place in the distribution at all times.
    Until `start_seconds`, the first time that the law was measured for, cells stand as programmed. Negative conductances do not
    occur: the shift's law is conditioned on it.

    Parameters
    ----------
    mean_slope_siemens
        Shift of the mean in a unit of ln t.
    sigma_intercept_siemens, sigma_slope_siemens
        Standard deviation of the shift at the start, and its growth in a unit of ln t.
    start_seconds
        The start.

    Examples
    --------
    >>> import torch
    >>> law = LogDrift(mean_slope_siemens="-1 uS", sigma_intercept_siemens=0.0, sigma_slope_siemens=0.0, start_seconds=1.0)
    >>> target = torch.full((1,), 9e-5)
    >>> cells = ProgrammedCells(target, law.memory(target, Key.of(seed=0)))
    >>> round(float(target - law.conductance(cells, math.e)) * 1e6, 3)
    1.0
    """

    mean_slope_siemens: float
    sigma_intercept_siemens: float = Field(ge=0)
    sigma_slope_siemens: float = Field(ge=0)
    start_seconds: float = Field(gt=0)

    def memory(self, target: Tensor, key: Key) -> dict[str, Tensor]:
        """Draw each cell's place in the distribution, a standard normal number."""
        return {SHIFT: normal(key, target.shape, target.device)}

    def conductance(self, programmed: ProgrammedCells, seconds: float) -> Tensor:
        """Return the conductances, siemens, `seconds` after programming."""
        if checked_seconds(seconds) < self.start_seconds:
            return programmed.conductance
        growth = math.log(seconds / self.start_seconds)
        place = programmed.memory[SHIFT]
        sigma = place.new_tensor(self.sigma_intercept_siemens + self.sigma_slope_siemens * growth)
        return above_zero(programmed.conductance + self.mean_slope_siemens * growth, sigma, place)
