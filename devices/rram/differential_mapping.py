"""Weights as the difference of two cells."""

from typing import ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from devices.base import ResistiveCell
from devices.rram.mapping import MappedWeights, WeightMapping, along_slices, number_or_tensor, per_code


class DifferentialMapping(WeightMapping):
    """A weight is the difference of two cells: w is proportional to G+ - G-.

    Parameters
    ----------
    sides
        ``one``: the cell of the other sign rests at g_min. ``two``: both move symmetrically around the middle of the range.
    subtraction
        ``analog``: the currents of a pair are subtracted before the ADC. ``digital``: each column has a conversion of its own.
    scaling, clip_percentile, weight_bits, bits_per_cell, rounded
        See `WeightMapping`; a weight's magnitude has weight_bits - 1 bits in its cells.

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

    crosspoints: ClassVar[int] = 2
    cells_per_weight: ClassVar[int] = 2
    sign_bits: ClassVar[int] = 1

    sides: Literal["one", "two"] = "one"
    subtraction: Literal["analog", "digital"] = "analog"

    @model_validator(mode="after")
    def _sides_fit_the_slices(self) -> Self:
        if self.sides == "two" and self.slices > 1:
            raise ValueError(f"`sides` must be 'one' where weights are cut into slices, but got 'two' with {self.slices} slices")
        return self

    @property
    def reference_columns(self) -> int:
        """None: a pair needs no reference."""
        return 0

    @property
    def separate(self) -> bool:
        """Whether both columns of a pair are converted."""
        return self.subtraction == "digital"

    def map(self, weight: Tensor, cell: ResistiveCell, references: int = 0) -> MappedWeights:
        """Return codes and conductance targets, (slices, 2, *weight.shape): plus cells, then minus cells."""
        scaled = self.scaled(weight)
        radix: tuple[float, ...]
        top: tuple[int, ...]
        if self.weight_bits is None:
            codes, radix, top = scaled.remainder.unsqueeze(0), (1.0,), (1,)
        else:
            found, radix, top = self.digits(scaled.integers.abs())
            codes = found * scaled.integers.sign()
            codes[0] += scaled.remainder
        # One slice uses the whole range for its largest code, whatever its bits.
        top = (scaled.full,) if self.slices == 1 else top
        fraction = codes / along_slices(torch.tensor(top, dtype=codes.dtype, device=codes.device), codes.dim())
        if self.sides == "one":
            shares = torch.stack((fraction.clamp(min=0), (-fraction).clamp(min=0)), dim=1)
        else:
            shares = torch.stack((0.5 + 0.5 * fraction, 0.5 - 0.5 * fraction), dim=1)
        targets = cell.g_min_siemens + (cell.g_max_siemens - cell.g_min_siemens) * shares
        return MappedWeights(codes, targets, radix, number_or_tensor(scaled.unit), per_code(cell, top, codes))
