"""A cell composed of laws: what programming leaves, what time does to it, and what a read adds."""

from typing import Self

import torch
from pydantic import SerializeAsAny, model_validator
from torch import Tensor

from devices.base import ProgrammedCells, ResistiveCell
from devices.rram.flicker import FlickerNoise
from devices.rram.interpolation import above_zero
from devices.rram.retention import RetentionLaw, checked_seconds
from devices.rram.spread import MICROSIEMENS, SpreadLaw, SpreadToBeGiven
from devices.rram.telegraph import TelegraphNoise
from kernels.random import Key, normal, truncated_normal


class ComposedCell(ResistiveCell):
    """Resistive cell whose every effect is a law of its own, given or absent.

    A programmed conductance is target + bias + device error + cycle error, each Gaussian part conditioned on a conductance that is
    not negative; nothing is clipped to the conductance range. With ``key.at(n)`` for the n-th programming of a chip the cycle errors
    are drawn anew, while the device errors, drawn from ``key.at(0)``, stay.

    Parameters
    ----------
    cycle_spread
        Error of one programming, drawn anew at each; the whole error where a source does not tell the two apart.
    device_spread
        Error of the cell itself, the same at each programming of a chip.
    bias_coefficients_microsiemens
        c_0, c_1, ... of a systematic error sum_k c_k G^k, with the error and the target G in microsiemens.
    retention
        What time does to the conductance.
    read_noise
        White noise: the standard deviation of one read, drawn anew at each.
    flicker, telegraph
        Noise that persists from read to read.

    Examples
    --------
    >>> import torch
    >>> from devices.rram.spread import ConstantSpread
    >>> cell = ComposedCell(
    ...     g_min_siemens="1 uS", g_max_siemens="40 uS",
    ...     device_spread=ConstantSpread(sigma_siemens="1 uS"), cycle_spread=ConstantSpread(sigma_siemens="1 uS"),
    ... )
    >>> target, key = torch.full((100_000,), 2e-5), Key.of(seed=0)
    >>> first, second = (cell.program(target, key.at(cycle)).conductance for cycle in (0, 1))
    >>> round(float(torch.corrcoef(torch.stack((first, second)))[0, 1]), 1)
    0.5
    """

    cycle_spread: SerializeAsAny[SpreadLaw] | None = None
    device_spread: SerializeAsAny[SpreadLaw] | None = None
    bias_coefficients_microsiemens: tuple[float, ...] = ()
    retention: SerializeAsAny[RetentionLaw] | None = None
    read_noise: SerializeAsAny[SpreadLaw] | None = None
    flicker: FlickerNoise | None = None
    telegraph: TelegraphNoise | None = None

    @model_validator(mode="after")
    def _spreads_are_positive(self) -> Self:
        grid = torch.linspace(self.g_min_siemens, self.g_max_siemens, 257)
        for name in ("cycle_spread", "device_spread", "read_noise"):
            law = getattr(self, name)
            if law is None or isinstance(law, SpreadToBeGiven):
                continue
            sigma = law.sigma(grid)
            if float(sigma.min()) < 0:
                place = float(grid[sigma.argmin()]) / MICROSIEMENS
                raise ValueError(
                    f"`{name}` must give a standard deviation of at least 0 over the conductance range, but got "
                    f"{float(sigma.min()) / MICROSIEMENS:.4g} uS at {place:.4g} uS; check signs and units"
                )
        return self

    def program(self, target: Tensor, key: Key) -> ProgrammedCells:
        """Draw the programmed conductances, siemens, and what the retention law keeps of each cell, for targets in siemens."""
        reached = self._biased(target)
        if self.device_spread is not None:
            drawn = normal(key.at(0).fold("device"), target.shape, target.device)
            reached = above_zero(reached, self.device_spread.sigma(target), drawn)
        if self.cycle_spread is not None:
            reached = truncated_normal(key.fold("cycle"), reached, self.cycle_spread.sigma(target))
        memory = {} if self.retention is None else self.retention.memory(target, key.fold("retention"))
        return ProgrammedCells(reached, memory)

    def _biased(self, target: Tensor) -> Tensor:
        if not self.bias_coefficients_microsiemens:
            return target
        microsiemens = target / MICROSIEMENS
        bias = torch.zeros_like(target)
        for coefficient in reversed(self.bias_coefficients_microsiemens):
            bias = bias * microsiemens + coefficient
        return (target + bias * MICROSIEMENS).clamp(min=0)

    def read_sigma(self, conductance: Tensor, seconds: float) -> Tensor | None:
        """Return the standard deviation of one read, siemens, or None where reads are exact."""
        return None if self.read_noise is None else self.read_noise.sigma(conductance)

    @property
    def ages(self) -> bool:
        """Whether time changes a cell: where it has a retention, 1/f noise or telegraph noise."""
        return any(part is not None for part in (self.retention, self.flicker, self.telegraph))

    def drift(self, programmed: ProgrammedCells, seconds: float, key: Key) -> Tensor:
        """Return the conductances, siemens, `seconds` after programming, with the noise that persists as it stands then."""
        checked_seconds(seconds)
        conductance = programmed.conductance
        if self.retention is not None:
            conductance = self.retention.conductance(programmed, seconds)
        if self.flicker is not None:
            conductance = self.flicker.apply(conductance, programmed, seconds, key.fold("flicker"))
        if self.telegraph is not None:
            conductance = self.telegraph.apply(conductance, seconds, key.fold("telegraph"))
        return conductance
