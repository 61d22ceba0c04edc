"""1/f noise: a fluctuation that persists from read to read and whose spread grows with the logarithm of time."""

import math
from typing import Literal

import torch
from pydantic import Field, SerializeAsAny
from torch import Tensor

from devices.base import ProgrammedCells
from devices.design import Design
from devices.rram.interpolation import above_zero
from devices.rram.retention import checked_seconds
from devices.rram.spread import SpreadLaw
from kernels.random import Key, normal

_STEP = math.log(10.0)
_SMALLEST = 1e-15


class FlickerNoise(Design):
    """Fluctuation of a 1/f spectrum, seen since programming: sigma(t) = amplitude(G) sqrt(ln((t + t_read) / (2 t_read))).

    It is a sum of slow processes, one for each decade of relaxation times from 2 t_read to t + t_read. Each takes an equal share of
    the variance and turns smoothly from one normal number to the next in the course of its time, so that a cell's fluctuation at two
    ages agrees in the processes slower than the time between them, and at one age it stays as it is, however often it is read.
    The fluctuation is conditioned on a conductance that is not negative.

    Parameters
    ----------
    amplitude
        Standard deviation of one unit of the logarithm, as a function of the conductance.
    read_seconds
        t_read: how long one read averages. Until then there is no fluctuation.
    amplitude_at
        ``present``: of the conductance at the time of the read. ``programmed``: the relative amplitude stays that of the
        conductance reached at programming.

    Examples
    --------
    >>> import torch
    >>> from devices.rram.spread import ProportionalSpread
    >>> noise = FlickerNoise(amplitude=ProportionalSpread(fraction=0.01), read_seconds="250 ns")
    >>> round(noise.growth(86_400.0), 3)
    5.087
    >>> cells = ProgrammedCells(torch.full((100_000,), 1e-5))
    >>> noisy = noise.apply(cells.conductance, cells, 86_400.0, Key.of(seed=0))
    >>> round(float(noisy.std() / 1e-5), 3)
    0.051
    """

    amplitude: SerializeAsAny[SpreadLaw]
    read_seconds: float = Field(gt=0)
    amplitude_at: Literal["present", "programmed"] = "present"

    def growth(self, seconds: float) -> float:
        """Return sqrt(ln((t + t_read) / (2 t_read))), zero up to t_read."""
        return math.sqrt(max(0.0, math.log((checked_seconds(seconds) + self.read_seconds) / (2 * self.read_seconds))))

    def sigma(self, conductance: Tensor, programmed: ProgrammedCells, seconds: float) -> Tensor:
        """Return the standard deviation, siemens, before the condition on positive conductances."""
        if self.amplitude_at == "present":
            return self.amplitude.sigma(conductance) * self.growth(seconds)
        reached = programmed.conductance.clamp(min=_SMALLEST)
        return conductance * (self.amplitude.sigma(reached) / reached * self.growth(seconds))

    def apply(self, conductance: Tensor, programmed: ProgrammedCells, seconds: float, key: Key) -> Tensor:
        """Return the conductances, siemens, with the fluctuation that stands `seconds` after programming.

        The same key gives a cell the same course at all times.
        """
        variance = self.growth(seconds) ** 2
        if not variance:
            return conductance
        course = torch.zeros_like(conductance)
        for level in range(math.ceil(variance / _STEP)):
            share = min(_STEP, variance - level * _STEP) / variance
            time = 2 * self.read_seconds * 10.0 ** (level + 1)
            turn = math.floor(seconds / time)
            angle = (seconds / time - turn) * math.pi / 2
            for weight, index in ((math.cos(angle), turn), (math.sin(angle), turn + 1)):
                if weight:
                    drawn = normal(key.fold(level, index), conductance.shape, conductance.device)
                    course.add_(drawn, alpha=weight * math.sqrt(share))
        return above_zero(conductance, self.sigma(conductance, programmed, seconds), course)
