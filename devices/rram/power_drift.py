"""Drift by a power law whose exponent is the cell's own, as in phase-change memory."""

import math
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from devices.base import ProgrammedCells
from devices.rram.retention import RetentionLaw, checked_seconds
from kernels.random import Key, normal

EXPONENT = "drift_exponent"
_SMALLEST = 1e-30


class PowerDrift(RetentionLaw):
    """Conductance that falls as ((t + t0) / t0)^-nu, t the time since programming and nu drawn once for each cell.

    At programming nu is drawn from a normal law whose mean and standard deviation depend on the target:
    clamp(slope ln r + intercept, low, high), r = target / reference. With slopes of zero all targets share one law.

    Parameters
    ----------
    start_seconds
        t0: when the first read after programming was done.
    mean_intercept, mean_slope, mean_low, mean_high
        Mean of nu; None for a bound that is not there.
    sigma_intercept, sigma_slope, sigma_low, sigma_high
        Standard deviation of nu.
    reference_siemens
        What the target is divided by; needed where a slope is not zero.

    Examples
    --------
    >>> import torch
    >>> law = PowerDrift(start_seconds=20.0, mean_intercept=0.05, sigma_intercept=0.0)
    >>> target = torch.full((1,), 1e-5)
    >>> cells = ProgrammedCells(target, law.memory(target, Key.of(seed=0)))
    >>> round(float(law.conductance(cells, 20.0) / target), 4) == round(2**-0.05, 4)
    True
    """

    start_seconds: float = Field(gt=0)
    mean_intercept: float
    mean_slope: float = 0.0
    mean_low: float | None = None
    mean_high: float | None = None
    sigma_intercept: float
    sigma_slope: float = 0.0
    sigma_low: float | None = None
    sigma_high: float | None = None
    reference_siemens: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.reference_siemens is None and (self.mean_slope or self.sigma_slope):
            raise ValueError("`reference_siemens` must be given where a slope is not zero, but got None; give the conductance of r = 1")
        for name in ("mean", "sigma"):
            low, high = getattr(self, f"{name}_low"), getattr(self, f"{name}_high")
            if low is not None and high is not None and low > high:
                raise ValueError(f"`{name}_low` must be at most `{name}_high`, but got {low} and {high}; swap them")
        if (self.sigma_low is None and self.sigma_slope) or (self.sigma_low or 0.0) < 0 or self._sigma_of_one() < 0:
            raise ValueError(
                f"`sigma_low` must be at least 0 where the standard deviation could fall below zero, but got {self.sigma_low}; give a bound"
            )
        return self

    def _sigma_of_one(self) -> float:
        return float(self.exponent_sigma(torch.ones(1)))

    def exponent_mean(self, target: Tensor) -> Tensor:
        """Return the mean of nu for targets in siemens."""
        return self._law(target, self.mean_slope, self.mean_intercept, self.mean_low, self.mean_high)

    def exponent_sigma(self, target: Tensor) -> Tensor:
        """Return the standard deviation of nu for targets in siemens."""
        return self._law(target, self.sigma_slope, self.sigma_intercept, self.sigma_low, self.sigma_high)

    def _law(self, target: Tensor, slope: float, intercept: float, low: float | None, high: float | None) -> Tensor:
        value = torch.full_like(target, intercept)
        if slope:
            value += slope * torch.log((target / (self.reference_siemens or 1.0)).clamp(min=_SMALLEST))
        return value if low is None and high is None else value.clamp(low, high)

    def memory(self, target: Tensor, key: Key) -> dict[str, Tensor]:
        """Draw nu of each cell, without unit."""
        drawn = normal(key, target.shape, target.device)
        return {EXPONENT: self.exponent_mean(target) + self.exponent_sigma(target) * drawn}

    def conductance(self, programmed: ProgrammedCells, seconds: float) -> Tensor:
        """Return the conductances, siemens, `seconds` after programming."""
        if not checked_seconds(seconds):
            return programmed.conductance
        decades = math.log1p(seconds / self.start_seconds)
        return programmed.conductance * torch.exp(programmed.memory[EXPONENT] * -decades)
