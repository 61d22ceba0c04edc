"""Converters between digital codes and analog lines, shared by every family that has them.

Both converters are mid-tread with symmetric codes: a signed converter of b bits has the codes -(2^(b-1) - 1) .. 2^(b-1) - 1, so zero is a
code and the step is range / (2^(b-1) - 1); an unsigned one has 0 .. 2^b - 1. They are uniform, with rounding half to even, unless
`architecture` says how their parts mismatch.
"""

from typing import Literal, Self

import torch
from pydantic import Field, SerializeAsAny, model_validator

from devices.architectures import Architecture, Flash, Transfer
from devices.design import Design
from kernels.random import Key

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
        Resolution.
    signed
        Whether codes are signed and symmetric; without a sign, what is below zero clips to zero.
    architecture
        What the converter is built of, with its mismatch: `SAR`, `Ramp`, `Flash` or `Tabulated`; None is uniform.
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
    static_watt
        Power that one converter draws whether or not it converts. None: not published.
    """

    bits: int = Field(default=8, ge=2, le=16)
    signed: bool = True
    architecture: SerializeAsAny[Architecture] | None = None
    range_policy: RangePolicy = "maximum"
    fixed_range: float | None = Field(default=None, gt=0)
    percentile: float = Field(default=99.9, gt=50, le=100)
    joule_per_step: float | None = Field(default=None, gt=0)
    sample_rate_hertz: float | None = Field(default=None, gt=0)
    area_m2: float | None = Field(default=None, gt=0)
    published_bits: int | None = Field(default=None, ge=2, le=16)
    static_watt: float | None = Field(default=None, ge=0)

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
        """Largest code: 2^(bits - 1) - 1, or 2^bits - 1 without a sign."""
        return (1 << (self.bits - self.signed)) - 1

    @property
    def lowest(self) -> int:
        """Smallest code: minus the largest, or 0 without a sign."""
        return -self.limit if self.signed else 0

    def step(self, full_scale: float) -> float:
        """Distance between neighboring codes for a full scale, in the full scale's unit."""
        return full_scale / self.limit

    @property
    def conversion_energy_j(self) -> float | None:
        """Energy of one conversion in joule by the Walden figure of merit, or None where none is given."""
        return None if self.joule_per_step is None else self.joule_per_step * 2**self.bits

    @property
    def conversion_latency_s(self) -> float | None:
        """Time of one conversion in seconds: from the sample rate, else from the architecture's clock; None where neither is given."""
        if self.sample_rate_hertz is not None:
            return 1.0 / self.sample_rate_hertz
        built = self.architecture
        return None if built is None or built.clock_hertz is None else built.cycles(self.bits) / built.clock_hertz

    @property
    def converter_area_m2(self) -> float | None:
        """Area of one converter in square meters, or None where it was not published at this resolution."""
        return self.area_m2 if self.bits == self.published_bits else None


class DAC(Converter):
    """Digital-to-analog converter on the rows: rounds a layer's inputs to codes.

    Parameters
    ----------
    slice_bits
        Bits of a code's magnitude that the rows carry at a time, 1 for bit-serial inputs: the magnitude is cut into
        ceil(magnitude bits / slice_bits) slices that are read one after the other, each with the sign as the polarity of its voltage.
        None drives the whole code at once.

    Examples
    --------
    >>> DAC(bits=8).limit
    127
    >>> DAC(bits=3, range_policy="fixed", fixed_range=1.5).step(1.5)
    0.5
    >>> DAC(bits=8, signed=False, slice_bits=1).slices, DAC(bits=8, slice_bits=2).slices
    (8, 4)
    """

    slice_bits: int | None = Field(default=None, ge=1, le=16)

    @model_validator(mode="after")
    def _drives_levels(self) -> Self:
        if isinstance(self.architecture, Flash):
            raise ValueError(
                "`architecture` must be SAR (capacitors), Ramp (resistor string) or Tabulated in a DAC, but got Flash; choose one"
            )
        return self

    @property
    def magnitude_bits(self) -> int:
        """Bits of a code without its sign."""
        return self.bits - self.signed

    @property
    def slices(self) -> int:
        """Slices of an input that are read one after the other."""
        return 1 if self.slice_bits is None else -(-self.magnitude_bits // self.slice_bits)

    @property
    def drive_energy_j(self) -> float | None:
        """Energy of driving a row with one slice in joule, by the figure of merit; None where none is given."""
        if self.slice_bits is None or self.joule_per_step is None:
            return self.conversion_energy_j
        return float(self.joule_per_step * 2**self.level_bits)

    @property
    def level_bits(self) -> int:
        """Bits of the levels that the rows are driven with: of one slice, or of the whole magnitude."""
        return self.magnitude_bits if self.slice_bits is None else min(self.slice_bits, self.magnitude_bits)

    def transfer(self, key: Key, converters: int = 1) -> Transfer:
        """Return the levels of magnitudes 0 .. 2^level_bits - 1 of the converters of one array, in LSB.

        A negative code drives minus the level of its magnitude, a code of zero nothing.

        Parameters
        ----------
        key
            Stream of the fabrication.
        converters
            How many.

        Examples
        --------
        >>> DAC(bits=3).transfer(Key.of(seed=0)).edges
        tensor([[0., 1., 2., 3.]])
        """
        if self.architecture is None:
            return Transfer(torch.arange(2.0**self.level_bits).expand(converters, -1).contiguous(), 0)
        own = 1 if self.architecture.common else converters
        levels = self.architecture.levels(self.level_bits, own, key) + self.architecture.offsets(converters, key)
        return Transfer(levels.float(), 0)


class ADC(Converter):
    """Analog-to-digital converter on the columns: rounds each tile's column sums to codes.

    Parameters
    ----------
    columns_per_adc
        Columns of cells that share one converter; its pairs are converted one after the other.
    range_scope
        What has a full scale of its own: the ``layer`` (each slice of its weights), or each ``column`` (output) of it.

    Examples
    --------
    >>> ADC(bits=8, joule_per_step=6.1e-15).conversion_energy_j
    1.5616e-12
    """

    columns_per_adc: int = Field(default=1, ge=1)
    range_scope: Literal["layer", "column"] = "layer"

    def transfer(self, key: Key, converters: int = 1) -> Transfer:
        """Return the thresholds of the converters of one array, in LSB: a code is given from its threshold on.

        Offset binary: code zero of a signed converter is 2^(bits - 1) of its architecture, whose lowest code is not used.

        Parameters
        ----------
        key
            Stream of the fabrication.
        converters
            How many.

        Examples
        --------
        >>> ADC(bits=2).transfer(Key.of(seed=0)).edges
        tensor([[-0.5000,  0.5000]])
        >>> from devices.architectures import SAR
        >>> uneven = ADC(bits=8, architecture=SAR(unit_sigma=0.05)).transfer(Key.of(seed=0))
        >>> uneven.edges.shape, bool(uneven.dnl().abs().max() > 0.05), bool(uneven.inl().abs().max() > 0.05)
        (torch.Size([1, 254]), True, True)
        """
        if self.architecture is None:
            return Transfer((torch.arange(self.lowest, self.limit) + 0.5).expand(converters, -1).contiguous(), self.lowest)
        own = 1 if self.architecture.common else converters
        edges = self.architecture.thresholds(self.bits, own, key) + self.architecture.offsets(converters, key)
        if self.signed:
            edges = edges[:, 1:] - 2.0 ** (self.bits - 1)
        return Transfer(edges.float(), self.lowest)
