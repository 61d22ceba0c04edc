"""Relaxation whose spread was measured at a few times after programming."""

import math
from itertools import pairwise
from typing import Self

import torch
from pydantic import Field, SerializeAsAny, model_validator
from torch import Tensor

from devices.base import ProgrammedCells
from devices.rram.interpolation import above_zero
from devices.rram.retention import RetentionLaw, checked_seconds
from devices.rram.spread import SpreadLaw
from kernels.random import Key, normal

PLACE, TARGET = "relaxation", "relaxation_target"


class TabulatedRelaxation(RetentionLaw):
    """A spread around the target that widens from one measured time to the next, independently of the error of programming.

    The first spread is the one that programming leaves. A cell then moves by sqrt(sigma(t)^2 - sigma(first)^2) times a standard
    normal number of its own, drawn at programming, so that the spread at each measured time is the measured one. Between the times
    sigma is linear in ln t; until the first the cells stand as programmed, and after the last they stay as they are at the last.

    Parameters
    ----------
    times_seconds
        When the spreads were measured, rising, the first above 0.
    spreads
        The spread around the target at each time.

    Examples
    --------
    >>> import torch
    >>> from devices.rram.spread import ConstantSpread
    >>> law = TabulatedRelaxation(
    ...     times_seconds=(1.0, 86400.0), spreads=(ConstantSpread(sigma_siemens="3 uS"), ConstantSpread(sigma_siemens="5 uS"))
    ... )
    >>> target = torch.full((100_000,), 1e-4)
    >>> cells = ProgrammedCells(target, law.memory(target, Key.of(seed=0)))
    >>> round(float(law.conductance(cells, 86400.0).std()) * 1e6, 1)
    4.0
    """

    times_seconds: tuple[float, ...] = Field(min_length=2)
    spreads: tuple[SerializeAsAny[SpreadLaw], ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _is_a_table(self) -> Self:
        if len(self.times_seconds) != len(self.spreads):
            raise ValueError(
                f"`spreads` must have one law for each of the {len(self.times_seconds)} in `times_seconds`, "
                f"but got {len(self.spreads)}; make them as long"
            )
        if self.times_seconds[0] <= 0 or any(b <= a for a, b in pairwise(self.times_seconds)):
            raise ValueError(f"`times_seconds` must rise from above 0, but got {list(self.times_seconds)}; sort them")
        return self

    def memory(self, target: Tensor, key: Key) -> dict[str, Tensor]:
        """Draw each cell's standard normal number, and keep its target, siemens: the spread is one around the target."""
        return {PLACE: normal(key, target.shape, target.device), TARGET: target}

    def sigma(self, target: Tensor, seconds: float) -> Tensor:
        """Return the standard deviation around the target, siemens, at a time; that of programming before the first."""
        times = [math.log(time) for time in self.times_seconds]
        now = min(max(math.log(seconds), times[0]), times[-1]) if seconds > 0 else times[0]
        late = next(index for index in range(1, len(times)) if now <= times[index])
        share = (now - times[late - 1]) / (times[late] - times[late - 1])
        return self.spreads[late - 1].sigma(target) * (1 - share) + self.spreads[late].sigma(target) * share

    def conductance(self, programmed: ProgrammedCells, seconds: float) -> Tensor:
        """Return the conductances, siemens, `seconds` after programming."""
        if checked_seconds(seconds) <= self.times_seconds[0]:
            return programmed.conductance
        target = programmed.memory[TARGET]
        first, now = self.spreads[0].sigma(target), self.sigma(target, seconds)
        moved = torch.sqrt(((now - first) * (now + first)).clamp(min=0))
        return above_zero(programmed.conductance, moved, programmed.memory[PLACE])
