"""How a conductance depends on the temperature."""

import math
from typing import Self

from pydantic import Field, model_validator
from torch import Tensor

from devices.design import Design

BOLTZMANN_ELECTRONVOLT = 8.617333262e-5
"""Boltzmann's constant, eV/K: exact in the SI since 2019, here to ten digits."""


class Temperature(Design):
    """Conductances at a temperature other than the one they were measured at.

    Linear: G (1 + c (T - T0)), as metallic filaments are described. Thermally activated: G exp(-E / k (1 / T - 1 / T0)), as hopping
    through an oxide is. No coefficient has a default: it belongs to the cell, and none was published for the cells of the presets.

    Parameters
    ----------
    temperature_kelvin
        T, the temperature of the array.
    reference_kelvin
        T0, the temperature at which the cell's numbers hold.
    fraction_per_kelvin
        c of the linear law, relative change for one kelvin; None for the other law.
    activation_electronvolt
        E of the activated law; None for the linear one.

    Examples
    --------
    >>> round(Temperature(temperature_kelvin="310 K", reference_kelvin="300 K", fraction_per_kelvin=-0.001).factor, 6)
    0.99
    """

    temperature_kelvin: float = Field(gt=0)
    reference_kelvin: float = Field(gt=0)
    fraction_per_kelvin: float | None = None
    activation_electronvolt: float | None = None

    @model_validator(mode="after")
    def _one_law(self) -> Self:
        given = (self.fraction_per_kelvin, self.activation_electronvolt)
        if (given[0] is None) == (given[1] is None):
            raise ValueError(
                "`fraction_per_kelvin` or `activation_electronvolt` must be given, and not both, "
                f"but got {given[0]} and {given[1]}; give the one that was measured"
            )
        if self.factor <= 0:
            raise ValueError(
                f"`fraction_per_kelvin` must leave conductances above 0, but got {self.fraction_per_kelvin} over "
                f"{self.temperature_kelvin - self.reference_kelvin:g} kelvin; come nearer to the reference"
            )
        return self

    @property
    def factor(self) -> float:
        """Conductance over that at the reference temperature."""
        if self.fraction_per_kelvin is not None:
            return 1 + self.fraction_per_kelvin * (self.temperature_kelvin - self.reference_kelvin)
        energy = self.activation_electronvolt or 0.0
        return math.exp(-energy / BOLTZMANN_ELECTRONVOLT * (1 / self.temperature_kelvin - 1 / self.reference_kelvin))

    def apply(self, conductance: Tensor) -> Tensor:
        """Return the conductances at this temperature, in the unit of `conductance`."""
        return conductance * self.factor
