"""How the weights of a layer become conductances, and how currents become weights again."""

from dataclasses import dataclass
from typing import Literal, Self

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
        Shape (slices, 2, *weight.shape): plus and minus cell of each pair.
    radix
        Weight of each slice: a weight is ``unit * sum_s radix[s] * codes[s]``.
    unit
        Weight of one code step: a number, or a tensor that broadcasts over the weight for column scaling.
    codes_per_siemens
        Change of a slice's code for a change of one siemens in its plus cell: a number, or a tensor over the weight.
    """

    codes: Tensor
    targets_siemens: Tensor
    radix: tuple[float, ...]
    unit: float | Tensor
    codes_per_siemens: float | Tensor


class DifferentialMapping(Design):
    """A weight is the difference of two cells: w is proportional to G+ - G-.

    Parameters
    ----------
    sides
        ``one``: the cell of the other sign rests at g_min. ``two``: both move symmetrically around the middle of the range.
    scaling
        What uses the whole conductance range: the largest weight of the ``layer``, or of each ``column`` (output).
    weight_bits
        Bits of a signed weight, its magnitude in 2^(weight_bits - 1) - 1 steps; None stores analog weights in one pair.
    bits_per_cell
        Bits of one cell where weights are quantized; the magnitude is cut into ceil((weight_bits - 1) / bits_per_cell) slices.
        None puts the whole magnitude into one cell.

    Examples
    --------
    >>> import torch
    >>> from devices.rram.ideal import IdealCell
    >>> mapping = DifferentialMapping(weight_bits=5, bits_per_cell=2)
    >>> mapping.slices
    2
    >>> mapped = mapping.map(torch.tensor([[15.0, -6.0]]), IdealCell(g_min_siemens=0.0, g_max_siemens=3e-5))
    >>> mapped.codes.tolist(), mapped.radix, mapped.unit
    ([[[3.0, -2.0]], [[3.0, -1.0]]], (1.0, 4.0), 1.0)
    """

    sides: Literal["one", "two"] = "one"
    scaling: Literal["layer", "column"] = "layer"
    weight_bits: int | None = Field(default=None, ge=2, le=16)
    bits_per_cell: int | None = Field(default=None, ge=1, le=8)

    @model_validator(mode="after")
    def _slices_are_consistent(self) -> Self:
        if self.weight_bits is None and self.bits_per_cell is not None:
            raise ValueError(f"`bits_per_cell` must be absent where `weight_bits` is None, but got {self.bits_per_cell}; give weight_bits")
        if self.sides == "two" and self.slices > 1:
            raise ValueError(f"`sides` must be 'one' where weights are cut into slices, but got 'two' with {self.slices} slices")
        return self

    @property
    def slices(self) -> int:
        """Pairs of cells that hold one weight."""
        if self.weight_bits is None or self.bits_per_cell is None:
            return 1
        return -(-(self.weight_bits - 1) // self.bits_per_cell)

    def ideal(self) -> Self:
        """Return the mapping itself without finite weight levels.

        Examples
        --------
        >>> DifferentialMapping(weight_bits=4, bits_per_cell=1).ideal().slices
        1
        """
        return self.replace(weight_bits=None, bits_per_cell=None)

    def map(self, weight: Tensor, cell: ResistiveCell) -> MappedWeights:
        """Return codes and conductance targets for a weight of shape (outputs, ...)."""
        span = cell.g_max_siemens - cell.g_min_siemens
        if self.scaling == "layer":
            largest = weight.abs().amax()
        else:
            largest = weight.abs().reshape(weight.shape[0], -1).amax(1).reshape(-1, *[1] * (weight.dim() - 1))
        largest = torch.where(largest > 0, largest, torch.ones_like(largest))
        radix: tuple[float, ...] = (1.0,)
        if self.weight_bits is None:
            # In units of the largest, so that squares of tiny or huge weights stay within float32.
            unit: Tensor = largest
            codes = (weight / largest).unsqueeze(0)
            full_code: Tensor = torch.ones_like(largest)
        else:
            steps = 2 ** (self.weight_bits - 1) - 1
            unit = largest / steps
            integers = torch.round(weight / unit)
            base = 2 ** (self.bits_per_cell or self.weight_bits - 1)
            magnitude, sign = integers.abs(), integers.sign()
            digits = [torch.remainder(torch.floor(magnitude / float(base) ** s), base) * sign for s in range(self.slices)]
            codes, radix = torch.stack(digits), tuple(float(base) ** s for s in range(self.slices))
            full_code = torch.full_like(largest, base - 1 if self.slices > 1 else steps)
        fraction = codes / full_code
        if self.sides == "one":
            plus, minus = fraction.clamp(min=0), (-fraction).clamp(min=0)
        else:
            plus, minus = 0.5 + 0.5 * fraction, 0.5 - 0.5 * fraction
        targets = cell.g_min_siemens + span * torch.stack((plus, minus), dim=1)
        return MappedWeights(codes, targets, radix, _scalar(unit), _scalar(full_code / span))


def _scalar(value: Tensor) -> float | Tensor:
    return float(value) if value.dim() == 0 else value
