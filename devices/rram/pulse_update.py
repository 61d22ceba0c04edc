"""Potentiation and depression by pulses, for training in the array."""

import math
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from devices.base import PulseLaw, ResistiveCell
from kernels.random import Key, normal

_STEEPEST = 80.0
"""Pulses across the range over the constant from which the curve is a step, and its exponential leaves float32."""


class PulseUpdate(PulseLaw):
    """Steps that shrink from pulse to pulse: the exponential law of behavioral simulators, with separate constants up and down.

    As the `pulse_law` of a cell it is what ``cell.update(conductance, pulses, key)`` follows.

    From the lower end, n potentiating pulses reach G = g_min + B (1 - exp(-n / A)) with B = (g_max - g_min) / (1 - exp(-N / A)), so
    that N pulses cross the range; depression is the same law from the upper end, with constants of its own. From any state the
    pulses go on along that curve, and at an end of the range the cell saturates. Large A is linear; A below 0 bends the other way.
    Each pulse adds write noise, so n pulses add sqrt(n) times that of one. The law is that of chen2018neurosim in the bibliography.

    Parameters
    ----------
    potentiation_pulses, depression_pulses
        N: pulses that cross the range upwards and downwards.
    potentiation_constant, depression_constant
        A, in pulses; None is linear.
    cycle_fraction
        Standard deviation of one pulse over the conductance range; None where none is known.

    Examples
    --------
    >>> from devices.rram.ideal import IdealCell
    >>> law = PulseUpdate(potentiation_pulses=10, depression_pulses=5)
    >>> cell = IdealCell(g_min_siemens=0.0, g_max_siemens=10.0)
    >>> law.apply(torch.tensor([0.0, 5.0, 9.0]), torch.tensor([3, -1, 4]), Key.of(seed=0), cell)
    tensor([ 3.,  3., 10.])
    """

    potentiation_pulses: int = Field(ge=1)
    depression_pulses: int = Field(ge=1)
    potentiation_constant: float | None = None
    depression_constant: float | None = None
    cycle_fraction: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _curves_are_finite(self) -> Self:
        for name in ("potentiation", "depression"):
            constant, pulses = getattr(self, f"{name}_constant"), getattr(self, f"{name}_pulses")
            if constant is not None and abs(constant) < pulses / _STEEPEST:
                raise ValueError(
                    f"`{name}_constant` must be at least {pulses / _STEEPEST:g} in magnitude, {pulses} pulses over {_STEEPEST:g}, "
                    f"but got {constant}; give None for a linear law"
                )
        return self

    def apply(self, conductance: Tensor, pulses: Tensor, key: Key, cell: ResistiveCell) -> Tensor:
        """Return the conductances after pulses.

        Parameters
        ----------
        conductance
            Conductances before, siemens, any shape; not changed in place.
        pulses
            How many pulses each cell gets, of an integer dtype and that shape: above zero they potentiate, below zero they depress.
        key
            Stream of the write noise; another for each update, as by ``key.at(step)``.
        cell
            Whose range g_min to g_max the pulses cross.

        Returns
        -------
        Tensor
            Conductances from g_min to g_max. A cell without pulses keeps its conductance, also one outside the range.

        Raises
        ------
        ValueError
            Where `pulses` is not of an integer dtype or of another shape.
        """
        if pulses.dtype.is_floating_point or pulses.dtype.is_complex or pulses.dtype == torch.bool:
            raise ValueError(f"Argument `pulses` must have an integer dtype, but got {pulses.dtype}; round to whole pulses and convert it")
        if pulses.shape != conductance.shape:
            raise ValueError(
                f"Argument `pulses` must have the shape of `conductance`, {tuple(conductance.shape)}, but got {tuple(pulses.shape)}; "
                "give each cell its number"
            )
        span = cell.g_max_siemens - cell.g_min_siemens
        height = ((conductance - cell.g_min_siemens) / span).clamp(0, 1)
        up = _climb(height, pulses.clamp(min=0), self.potentiation_pulses, self.potentiation_constant)
        down = 1 - _climb(1 - height, (-pulses).clamp(min=0), self.depression_pulses, self.depression_constant)
        moved = torch.where(pulses > 0, up, down)
        if self.cycle_fraction:
            drawn = normal(key, conductance.shape, conductance.device)
            moved = moved + self.cycle_fraction * torch.sqrt(pulses.abs().to(moved.dtype)) * drawn
        return torch.where(pulses == 0, conductance, cell.g_min_siemens + span * moved.clamp(0, 1))


def _climb(height: Tensor, pulses: Tensor, crossing: int, constant: float | None) -> Tensor:
    """Return heights in the range, 0 to 1, after pulses along the curve that starts at 0."""
    steps = pulses.clamp(max=crossing).to(height.dtype)
    if constant is None:
        return (height + steps / crossing).clamp(max=1)
    asymptote = -1 / math.expm1(-crossing / constant)
    return (height + (height - asymptote) * torch.expm1(steps / -constant)).clamp(max=1)
