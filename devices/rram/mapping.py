"""How the weights of a layer become conductances, and how currents become weights again: what all mappings have in common."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from devices.base import ResistiveCell
from devices.design import Design


@dataclass(frozen=True)
class MappedWeights:
    """The conductance targets of a layer's weights.

    Attributes
    ----------
    codes
        Shape (slices, *weight.shape): the signed digit of each slice; where weights are analog, their share of the largest (one slice).
    targets_siemens
        Shape (slices, crosspoints, outputs + references, *weight.shape[1:]): the cells of each weight (plus and minus of a pair), and
        after the last output the cells of reference columns, where the mapping has any.
    radix
        Weight of each slice: a weight is ``unit * sum_s radix[s] * codes[s]``.
    unit
        Weight of one code step: a number, or a tensor that broadcasts over the weight for column scaling.
    codes_per_siemens
        Shape (slices,): change of a slice's code for a change of one siemens in its cell.
    present
        Of the targets' shape, or None for everywhere: where there is a cell at all.
    pedestal
        Shape (slices,), or None: what the digital side takes from a slice's code for each unit of the inputs' sum.
    """

    codes: Tensor
    targets_siemens: Tensor
    radix: tuple[float, ...]
    unit: float | Tensor
    codes_per_siemens: Tensor
    present: Tensor | None = None
    pedestal: Tensor | None = None


@dataclass(frozen=True)
class ScaledWeights:
    """Weights in units of one code.

    Attributes
    ----------
    integers
        Signed whole codes, of the weight's shape; 0 where weights are analog.
    remainder
        What lies between the code and the weight: zero where weights are rounded.
    full
        The largest code.
    unit
        Weight of one code, broadcasting over the weight.
    """

    integers: Tensor
    remainder: Tensor
    full: int
    unit: Tensor


class WeightMapping(Design):
    """How weights lie in cells; `DifferentialMapping`, `OffsetMapping` and `SignMagnitudeMapping` are the ways there are.

    Parameters
    ----------
    scaling
        What uses the whole conductance range: the largest weight of the ``layer``, or of each ``column`` (output).
    clip_percentile
        The largest weight is the one below which this share of the magnitudes lies, in percent, and weights beyond it are clipped to it.
        None clips nothing.
    weight_bits
        Bits of a signed weight, its magnitude in 2^(weight_bits - 1) - 1 steps; None stores analog weights in one slice.
    bits_per_cell
        Bits of one cell where weights are quantized: one number for all slices, or one for each slice, the lowest first. None puts all
        bits into one cell.
    rounded
        False stores what lies between a weight and its code in the cells of the lowest slice: what quantization costs can be told apart.
    """

    crosspoints: ClassVar[int]
    """Columns that a weight takes in each slice."""
    cells_per_weight: ClassVar[int]
    """Cells that hold a weight in each slice."""
    sign_bits: ClassVar[int]
    """Bits of a weight that its cells do not hold, because two lines tell the sign: 1, or 0 where the weight is shifted."""

    scaling: Literal["layer", "column"] = "layer"
    clip_percentile: float | None = Field(default=None, gt=50, le=100)
    weight_bits: int | None = Field(default=None, ge=2, le=16)
    bits_per_cell: int | tuple[int, ...] | None = None
    rounded: bool = True

    @model_validator(mode="after")
    def _slices_are_consistent(self) -> Self:
        bits = self.bits_per_cell
        if bits is None:
            return self
        if self.weight_bits is None:
            raise ValueError(f"`bits_per_cell` must be absent where `weight_bits` is None, but got {bits}; give weight_bits")
        each = (bits,) if isinstance(bits, int) else bits
        if not each or not all(1 <= one <= 8 for one in each):
            raise ValueError(f"`bits_per_cell` must be from 1 to 8, but got {bits}; choose bits in that range")
        if not isinstance(bits, int) and sum(bits) != self.code_bits:
            raise ValueError(
                f"`bits_per_cell` must add up to the {self.code_bits} bits that the cells hold, but got {bits}; change the last"
            )
        return self

    @property
    @abstractmethod
    def reference_columns(self) -> int:
        """Reference columns of each array and slice."""

    @property
    @abstractmethod
    def separate(self) -> bool:
        """Whether what is subtracted is converted on its own, so that the subtraction is digital."""

    @abstractmethod
    def map(self, weight: Tensor, cell: ResistiveCell, references: int = 0) -> MappedWeights:
        """Return codes and conductance targets for a weight of shape (outputs, ...) with a number of reference columns."""

    @property
    def code_bits(self) -> int:
        """Bits of a weight that the cells hold."""
        return (self.weight_bits or self.sign_bits) - self.sign_bits

    @property
    def digit_bits(self) -> tuple[int, ...]:
        """Bits of each slice, the lowest first; one slice without a number of bits where weights are analog."""
        if self.weight_bits is None:
            return (0,)
        if self.bits_per_cell is None:
            return (self.code_bits,)
        if isinstance(self.bits_per_cell, int):
            # The highest slice has cells like the others, of which it may not use every level.
            return (self.bits_per_cell,) * -(-self.code_bits // self.bits_per_cell)
        return self.bits_per_cell

    @property
    def slices(self) -> int:
        """Slices that a weight is cut into."""
        return len(self.digit_bits)

    @property
    def conversions_per_slice(self) -> int:
        """Conversions that an output takes in each slice."""
        return self.crosspoints if self.separate else 1

    def ideal(self) -> Self:
        """Return the mapping itself without finite weight levels and clipping."""
        return self.replace(weight_bits=None, bits_per_cell=None, clip_percentile=None, rounded=True)

    def scaled(self, weight: Tensor) -> ScaledWeights:
        """Return the weight in units of one code, clipped and rounded as the mapping says."""
        rows = weight.abs().reshape(1 if self.scaling == "layer" else weight.shape[0], -1)
        if self.clip_percentile is None:
            largest = rows.amax(1)
        else:
            rank = min(max(1, -int(-rows.shape[1] * self.clip_percentile // 100)), rows.shape[1])
            largest = rows.kthvalue(rank, dim=1).values
        largest = torch.where(largest > 0, largest, torch.ones_like(largest)).reshape(-1, *[1] * (weight.dim() - 1))
        if self.scaling == "layer":
            largest = largest.reshape(())
        full = 1 if self.weight_bits is None else 2 ** (self.weight_bits - 1) - 1
        unit = largest / full
        # In units of the largest, so that squares of tiny or huge weights stay within float32.
        codes = weight / unit
        if self.clip_percentile is not None:
            codes = codes.clamp(-full, full)
        if self.weight_bits is None:
            return ScaledWeights(torch.zeros_like(codes), codes, full, unit)
        integers = torch.round(codes)
        return ScaledWeights(integers, torch.zeros_like(codes) if self.rounded else codes - integers, full, unit)

    def digits(self, integers: Tensor) -> tuple[Tensor, tuple[float, ...], tuple[int, ...]]:
        """Return the digits of whole numbers of at least 0, (slices, ...), the weight of each slice, and the largest digit of each."""
        rest, found, radix, weight = integers, [], [], 1.0
        for bits in self.digit_bits:
            found.append(torch.remainder(rest, 2.0**bits))
            rest = torch.floor(rest / 2.0**bits)
            radix.append(weight)
            weight *= 2.0**bits
        top = tuple(2**bits - 1 for bits in self.digit_bits)
        return torch.stack(found), tuple(radix), top


def per_code(cell: ResistiveCell, top: tuple[int, ...], like: Tensor) -> Tensor:
    """Return the codes of a change of one siemens for slices whose largest digits are `top`, where the whole range holds the digits."""
    span = cell.g_max_siemens - cell.g_min_siemens
    return torch.tensor([digit / span for digit in top], dtype=like.dtype, device=like.device)


def along_slices(values: Tensor, dimensions: int) -> Tensor:
    """Return values of shape (slices,) with further axes of length 1, to meet a tensor of `dimensions` axes."""
    return values.reshape(-1, *[1] * (dimensions - 1))


def number_or_tensor(value: Tensor) -> float | Tensor:
    """Return a tensor without axes as a number."""
    return float(value) if value.dim() == 0 else value
