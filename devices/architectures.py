"""How converters are built, and the static errors that follow from the mismatch of their parts.

An N-bit converter has the codes u = 0 .. 2^N - 1. `levels` are what a digital-to-analog converter of this architecture puts out, ideally u;
`thresholds` are the inputs at which an analog-to-digital converter passes from code u - 1 to u, ideally u - 1/2; both in LSB.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from devices.design import Design
from kernels.random import Key, normal


@dataclass(frozen=True, eq=False)
class Transfer:
    """The static transfer of several converters of one design.

    Attributes
    ----------
    edges
        Shape (converters, codes - 1) for an ADC's thresholds, (converters, codes) for a DAC's levels; in LSB, relative to code zero.
    lowest
        The code below the first threshold, or of the first level.
    """

    edges: Tensor
    lowest: int

    def dnl(self) -> Tensor:
        """Return the differential nonlinearity in LSB, shape (converters, edges - 1): how far each step is from the average step.

        Examples
        --------
        >>> Transfer(torch.tensor([[-0.5, 0.5, 1.7, 2.5]]), -1).dnl().round(decimals=6)
        tensor([[ 0.0000,  0.2000, -0.2000]])
        """
        steps = self.edges.double().diff(dim=1)
        return (steps / steps.mean(1, keepdim=True) - 1.0).float()

    def inl(self) -> Tensor:
        """Return the integral nonlinearity in LSB, (converters, edges): how far each edge is from the line through first and last.

        Examples
        --------
        >>> Transfer(torch.tensor([[-0.5, 0.5, 1.7, 2.5]]), -1).inl().round(decimals=6)
        tensor([[0.0000, 0.0000, 0.2000, 0.0000]])
        """
        edges = self.edges.double()
        span = (edges[:, -1:] - edges[:, :1]) / (edges.shape[1] - 1)
        line = torch.arange(edges.shape[1], dtype=torch.float64, device=edges.device)
        return ((edges - edges[:, :1]) / span - line).float()


class Architecture(Design):
    """What an ADC or DAC is made of; None in its place is a converter without static errors.

    Parameters
    ----------
    clock_hertz
        Clock of the conversion; with it the time of a conversion is `cycles` / `clock_hertz`. None: not given.
    offset_sigma_lsb
        Standard deviation of each comparator's (of a DAC: each output's) offset, in LSB, drawn for each converter.
    """

    clock_hertz: float | None = Field(default=None, gt=0)
    offset_sigma_lsb: float = Field(default=0.0, ge=0)

    @abstractmethod
    def levels(self, bits: int, converters: int, key: Key) -> Tensor:
        """Return the output of each code, LSB, float64 (converters, 2^bits), without offset."""

    @abstractmethod
    def thresholds(self, bits: int, converters: int, key: Key) -> Tensor:
        """Return the input above which each code but the lowest is given, LSB, not decreasing, float64 (converters, 2^bits - 1)."""

    @abstractmethod
    def cycles(self, bits: int) -> int:
        """Return the clock cycles of a conversion."""

    @property
    @abstractmethod
    def common(self) -> bool:
        """Whether all converters of an array share what makes their errors, and work at the same time."""

    def offsets(self, converters: int, key: Key) -> Tensor:
        """Return the offset of each converter in LSB, float64 (converters, 1)."""
        return self.offset_sigma_lsb * normal(key.fold("offset"), (converters, 1)).double()


class SAR(Architecture):
    """Successive approximation by binary-weighted capacitors.

    A capacitor of 2^k units has the relative mismatch ``unit_sigma / sqrt(2^k)``, as area averages it (Pelgrom); the level of a code is the
    share of its capacitors in the total, a dummy unit included. The search compares the input with half an LSB below the level of each
    trial code, so that where a heavy capacitor is too light or too heavy codes are missing or wide, but the codes never decrease. The
    standard deviation of the DNL at the middle is ``unit_sigma * sqrt(2^bits - 1)`` LSB.

    Parameters
    ----------
    unit_sigma
        Relative standard deviation of a unit capacitor.

    Examples
    --------
    >>> SAR(unit_sigma=0.0).levels(2, 1, Key.of(seed=0)).tolist()
    [[0.0, 1.0, 2.0, 3.0]]
    >>> SAR(unit_sigma=0.01).cycles(8)
    9
    """

    unit_sigma: float = Field(ge=0)

    def levels(self, bits: int, converters: int, key: Key) -> Tensor:
        """Return the share of each code's capacitors in the total, times 2^bits."""
        units = 2.0 ** torch.arange(-1, bits, dtype=torch.float64)
        units[0] = 1.0  # the dummy
        capacitors = units + self.unit_sigma * units.sqrt() * normal(key.fold("capacitors"), (converters, bits + 1)).double()
        codes = torch.arange(2**bits)
        switched = ((codes.unsqueeze(0) >> torch.arange(bits).unsqueeze(1)) & 1).double()
        return capacitors[:, 1:] @ switched * (2.0**bits / capacitors.sum(1, keepdim=True))

    def thresholds(self, bits: int, converters: int, key: Key) -> Tensor:
        """Return where the search takes each branch: a trial level outside of what earlier trials left open decides nothing."""
        levels = self.levels(bits, converters, key) - 0.5
        edges = torch.empty(converters, 2**bits - 1, dtype=torch.float64)
        low = torch.full((converters, 1), -torch.inf, dtype=torch.float64)
        high = -low
        for bit in range(bits - 1, -1, -1):
            # All trial codes of this bit: its own bit set, lower bits clear, any higher bits.
            trial = torch.arange(2**bit, 2**bits, 2 ** (bit + 1))
            edge = levels[:, trial].maximum(low).minimum(high)
            edges[:, trial - 1] = edge
            low = torch.stack((low, edge), dim=2).flatten(1)
            high = torch.stack((edge, high), dim=2).flatten(1)
        return edges

    def cycles(self, bits: int) -> int:
        """Return one cycle a bit, and one to sample."""
        return bits + 1

    @property
    def common(self) -> bool:
        """Each converter has capacitors of its own."""
        return False


class Ramp(Architecture):
    """A ramp that all columns of an array compare with while a counter runs; as a DAC, a string of resistors.

    Each step is ``1 + step_sigma * n``, so that the error of a level is a random walk over the steps below it: the INL's standard deviation
    is largest at the middle, ``step_sigma * sqrt(2^bits) / 2`` LSB, the DNL's is `step_sigma` at every code.

    Parameters
    ----------
    step_sigma
        Relative standard deviation of one step.

    Examples
    --------
    >>> Ramp(step_sigma=0.01).cycles(8)
    256
    """

    step_sigma: float = Field(ge=0)

    def levels(self, bits: int, converters: int, key: Key) -> Tensor:
        """Return the sum of the steps below each code."""
        steps = 1.0 + self.step_sigma * normal(key.fold("steps"), (converters, 2**bits - 1)).double()
        return torch.cat((torch.zeros(converters, 1, dtype=torch.float64), steps.cumsum(1)), dim=1)

    def thresholds(self, bits: int, converters: int, key: Key) -> Tensor:
        """Return where the ramp first passes each level."""
        return self.levels(bits, converters, key)[:, 1:].cummax(1).values - 0.5

    def cycles(self, bits: int) -> int:
        """Return one cycle a step: the counter runs to the end."""
        return int(2**bits)

    @property
    def common(self) -> bool:
        """All columns see one ramp."""
        return True


class Flash(Architecture):
    """A comparator for every threshold, each with an offset of its own; a bubble in their thermometer code is summed, not decoded.

    Parameters
    ----------
    comparator_sigma_lsb
        Standard deviation of each comparator's offset in LSB.

    Examples
    --------
    >>> Flash(comparator_sigma_lsb=0.1).cycles(6)
    1
    """

    comparator_sigma_lsb: float = Field(ge=0)

    def levels(self, bits: int, converters: int, key: Key) -> Tensor:
        """Raise ValueError: a flash converter is no DAC."""
        raise ValueError("`architecture` of a DAC must be SAR (capacitors), Ramp (resistor string) or Tabulated, but got Flash")

    def thresholds(self, bits: int, converters: int, key: Key) -> Tensor:
        """Return the comparators' thresholds in order: the code is how many of them the input exceeds."""
        nominal = torch.arange(1, 2**bits, dtype=torch.float64) - 0.5
        return (nominal + self.comparator_sigma_lsb * normal(key.fold("comparators"), (converters, 2**bits - 1)).double()).sort(1).values

    def cycles(self, bits: int) -> int:
        """Return one cycle."""
        return 1

    @property
    def common(self) -> bool:
        """Each converter has comparators of its own."""
        return False


class Tabulated(Architecture):
    """A converter whose nonlinearity was measured, as in a data sheet; the same for every converter.

    Parameters
    ----------
    inl_lsb
        Integral nonlinearity in LSB at evenly spaced codes from the lowest to the highest, at least two; linear in between.
    dnl_lsb
        Differential nonlinearity in LSB of each code but the lowest, 2^bits - 1 of them, instead of `inl_lsb`.
    conversion_cycles
        Clock cycles of a conversion.

    Examples
    --------
    >>> Tabulated(inl_lsb=(0.0, 0.5, 0.0)).levels(2, 1, Key.of(seed=0)).round(decimals=3).tolist()
    [[0.0, 1.333, 2.333, 3.0]]
    >>> Tabulated(dnl_lsb=(0.5, -0.5, 0.0)).levels(2, 1, Key.of(seed=0)).tolist()
    [[0.0, 1.5, 2.0, 3.0]]
    """

    inl_lsb: tuple[float, ...] | None = Field(default=None, min_length=2)
    dnl_lsb: tuple[float, ...] | None = Field(default=None, min_length=3)
    conversion_cycles: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _one_table_is_given(self) -> Self:
        if (self.inl_lsb is None) == (self.dnl_lsb is None):
            given = "neither" if self.inl_lsb is None else "both"
            raise ValueError(f"`inl_lsb` or `dnl_lsb` must be given, and not both, but got {given}; give one table")
        return self

    def levels(self, bits: int, converters: int, key: Key) -> Tensor:
        """Return code plus table."""
        codes = torch.arange(2**bits, dtype=torch.float64)
        if self.dnl_lsb is not None:
            if len(self.dnl_lsb) != 2**bits - 1:
                raise ValueError(f"`dnl_lsb` must have {2**bits - 1} values for {bits} bits, but got {len(self.dnl_lsb)}")
            error = torch.cat((torch.zeros(1), torch.tensor(self.dnl_lsb))).double().cumsum(0)
        else:
            assert self.inl_lsb is not None
            table = torch.tensor(self.inl_lsb, dtype=torch.float64)
            place = codes * ((len(table) - 1) / (2**bits - 1))
            left = place.long().clamp(max=len(table) - 2)
            error = table[left] + (place - left) * (table[left + 1] - table[left])
        return (codes + error).expand(converters, -1).contiguous()

    def thresholds(self, bits: int, converters: int, key: Key) -> Tensor:
        """Return half an LSB below the levels, where these do not decrease."""
        return self.levels(bits, converters, key)[:, 1:].cummax(1).values - 0.5

    def cycles(self, bits: int) -> int:
        """Return `conversion_cycles`."""
        return self.conversion_cycles

    @property
    def common(self) -> bool:
        """One table holds for all."""
        return True
