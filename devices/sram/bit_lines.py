"""A discharge branch and its bit line in volts, and what process, supply and temperature do to the branch current."""

import math
from typing import Self

from pydantic import Field, model_validator

from devices.design import Design

BOLTZMANN_JOULE_PER_KELVIN = 1.380649e-23
"""Exact in the SI since 2019."""


class Corner(Design):
    """What scales the current of every branch alike: process, supply and temperature.

    The current is that of the alpha-power law, ``process_scale * ((V - Vt) / (V0 - Vt))^alpha * (T / T0)^-temperature_exponent`` times
    the nominal one. MAC and readout share it, so it moves no code by itself; it changes what an error in volts is worth in codes.

    Parameters
    ----------
    process_scale
        Current over that of the typical process at nominal supply and temperature.
    supply_volt, nominal_supply_volt
        Supply, and the one that the branch current is given for; both or neither.
    threshold_volt
        Threshold of the transistor that sets the current.
    alpha
        Exponent of the overdrive: 2 for a long channel, towards 1 with velocity saturation.
    temperature_kelvin, nominal_temperature_kelvin
        Temperature, and the one that the branch current is given for.
    temperature_exponent
        Power with which the current falls with temperature.

    Examples
    --------
    >>> Corner(process_scale=1.5, supply_volt=0.75, nominal_supply_volt=1.0, threshold_volt=0.5).current_scale
    0.75
    """

    process_scale: float = Field(default=1.0, gt=0)
    supply_volt: float | None = Field(default=None, gt=0)
    nominal_supply_volt: float | None = Field(default=None, gt=0)
    threshold_volt: float = Field(default=0.0, ge=0)
    alpha: float = Field(default=1.0, ge=0, le=2)
    temperature_kelvin: float = Field(default=300.0, gt=0)
    nominal_temperature_kelvin: float = Field(default=300.0, gt=0)
    temperature_exponent: float = Field(default=0.0, ge=-4, le=4)

    @model_validator(mode="after")
    def _supplies_are_above_threshold(self) -> Self:
        if (self.supply_volt is None) != (self.nominal_supply_volt is None):
            raise ValueError(
                f"`supply_volt` must be given together with `nominal_supply_volt`, but got {self.supply_volt} and "
                f"{self.nominal_supply_volt}; give both or neither"
            )
        lowest = min(self.supply_volt or math.inf, self.nominal_supply_volt or math.inf)
        if lowest <= self.threshold_volt:
            raise ValueError(f"`threshold_volt` must be below both supplies, but got {self.threshold_volt} and {lowest}; lower it")
        return self

    @property
    def current_scale(self) -> float:
        """Branch current over its nominal value."""
        scale = self.process_scale * (self.temperature_kelvin / self.nominal_temperature_kelvin) ** -self.temperature_exponent
        if self.supply_volt is not None and self.nominal_supply_volt is not None:
            overdrive = (self.supply_volt - self.threshold_volt) / (self.nominal_supply_volt - self.threshold_volt)
            scale *= overdrive**self.alpha
        return float(scale)


class BitLines(Design):
    """Two bit lines and the branches that discharge them: what turns volts and seconds into readout steps.

    Parameters
    ----------
    branch_current_ampere
        Current of one branch at the nominal corner.
    bit_line_farad
        Capacitance of one bit line.
    lsb_pulse_s
        Duration of the readout's smallest step, T_lsb: it discharges a line by ``lsb_volt``.
    corner
        Process, supply and temperature.

    Examples
    --------
    >>> lines = BitLines(branch_current_ampere="2 uA", bit_line_farad="100 fF", lsb_pulse_s="50 ps")
    >>> round(lines.lsb_volt * 1e3, 9)
    1.0
    """

    branch_current_ampere: float = Field(gt=0)
    bit_line_farad: float = Field(gt=0)
    lsb_pulse_s: float = Field(gt=0)
    corner: Corner = Corner()

    @property
    def lsb_volt(self) -> float:
        """Discharge of a line by the smallest step of the readout, volt."""
        return self.branch_current_ampere * self.corner.current_scale * self.lsb_pulse_s / self.bit_line_farad

    @property
    def thermal_noise_volt(self) -> float:
        """Standard deviation of the difference of the two lines by kT/C noise, volt: sqrt(2 k T / C)."""
        return math.sqrt(2 * BOLTZMANN_JOULE_PER_KELVIN * self.corner.temperature_kelvin / self.bit_line_farad)
