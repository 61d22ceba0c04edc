"""Converters between digital codes and analog lines, shared by every family that has them.

Both converters are uniform and mid-tread with symmetric codes: a signed converter of b bits has the codes
-(2^(b-1) - 1) .. 2^(b-1) - 1, so zero is a code and the step is range / (2^(b-1) - 1). Rounding is half to even.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from devices.design import Design

RangePolicy = Literal["fixed", "maximum", "percentile", "mse", "per_batch"]
"""Where a converter's full scale comes from.

``fixed`` is the number in `fixed_range`; ``maximum``, ``percentile`` and ``mse`` are read off calibration data once and kept, ``mse``
being the full scale at which rounding and clipping together have the least mean squared error; ``per_batch`` is the largest
magnitude of each batch at the moment it is converted.
"""


class Converter(Design):
    """What a DAC and an ADC have in common: resolution, full scale, energy and time.

    Parameters
    ----------
    bits
        Resolution; codes are signed and symmetric.
    range_policy
        Where the full scale comes from; see `RangePolicy`.
    fixed_range
        Full scale for the policy ``fixed``: of a DAC in units of the layer's input; of an ADC, which sees currents, in units of input times
        weight code, where the largest weight of an analog layer counts as 1.
    percentile
        Share of calibration magnitudes, in percent, that the policy ``percentile`` covers.
    joule_per_step
        Walden figure of merit: a conversion costs ``joule_per_step * 2**bits``. None: not published.
    sample_rate_hertz
        Conversions a second of one converter. None: not published.
    area_m2
        Area of one converter at `published_bits`. None: not published.
    published_bits
        Resolution at which `area_m2` was published; at any other resolution the area counts as not given.
    """

    bits: int = Field(default=8, ge=2, le=16)
    range_policy: RangePolicy = "maximum"
    fixed_range: float | None = Field(default=None, gt=0)
    percentile: float = Field(default=99.9, gt=50, le=100)
    joule_per_step: float | None = Field(default=None, gt=0)
    sample_rate_hertz: float | None = Field(default=None, gt=0)
    area_m2: float | None = Field(default=None, gt=0)
    published_bits: int | None = Field(default=None, ge=2, le=16)

    @model_validator(mode="after")
    def _range_is_stated(self) -> Self:
        if (self.range_policy == "fixed") != (self.fixed_range is not None):
            raise ValueError(
                f"`fixed_range` must be a number with range_policy 'fixed' and absent otherwise, but got {self.fixed_range} "
                f"with range_policy {self.range_policy!r}; set both or neither"
            )
        return self

    @property
    def limit(self) -> int:
        """Largest code, 2^(bits - 1) - 1."""
        return (1 << (self.bits - 1)) - 1

    def step(self, full_scale: float) -> float:
        """Distance between neighboring codes for a full scale, in the full scale's unit."""
        return full_scale / self.limit

    @property
    def conversion_energy_j(self) -> float | None:
        """Energy of one conversion in joule by the Walden figure of merit, or None where none is given."""
        return None if self.joule_per_step is None else self.joule_per_step * 2**self.bits

    @property
    def conversion_latency_s(self) -> float | None:
        """Time of one conversion in seconds, or None where no sample rate is given."""
        return None if self.sample_rate_hertz is None else 1.0 / self.sample_rate_hertz

    @property
    def converter_area_m2(self) -> float | None:
        """Area of one converter in square meters, or None where it was not published at this resolution."""
        return self.area_m2 if self.bits == self.published_bits else None


class DAC(Converter):
    """Digital-to-analog converter on the rows: rounds a layer's inputs to codes.

    Examples
    --------
    >>> DAC(bits=8).limit
    127
    >>> DAC(bits=3, range_policy="fixed", fixed_range=1.5).step(1.5)
    0.5
    """


class ADC(Converter):
    """Analog-to-digital converter on the columns: rounds each tile's column sums to codes.

    Parameters
    ----------
    columns_per_adc
        Columns of cells that share one converter; its pairs are converted one after the other.

    Examples
    --------
    >>> ADC(bits=8, joule_per_step=6.1e-15).conversion_energy_j
    1.5616e-12
    """

    columns_per_adc: int = Field(default=1, ge=1)
