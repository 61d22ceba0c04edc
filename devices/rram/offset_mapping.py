"""Weights as one cell each, shifted so that none is negative, and a reference column for the shift."""

from typing import ClassVar, Literal

import torch
from torch import Tensor

from devices.base import ResistiveCell
from devices.rram.mapping import MappedWeights, WeightMapping, along_slices, number_or_tensor, per_code


class OffsetMapping(WeightMapping):
    """A weight is one cell: w is proportional to G - G_reference, with the reference at the conductance of a weight of zero.

    Half the cells of a differential pair; but the reference's errors and read noise are common to all outputs of an array, and the ADC
    or the subtraction before it must take the large current of the shift.

    Parameters
    ----------
    reference
        ``column``: a reference column in each array and slice, whose current is subtracted before the ADC. ``converted``: the same
        column, converted on its own and subtracted digitally. ``digital``: no column; the inputs' sum, times the nominal shift, is
        subtracted digitally.
    scaling, clip_percentile, weight_bits, bits_per_cell, rounded
        See `WeightMapping`; the shifted weight has weight_bits bits in its cells.

    Examples
    --------
    >>> from devices.rram.ideal import IdealCell
    >>> mapping = OffsetMapping(weight_bits=3)
    >>> mapped = mapping.map(torch.tensor([[3.0, -3.0, 0.0]]), IdealCell(g_min_siemens=0.0, g_max_siemens=7e-6), references=1)
    >>> (mapped.targets_siemens * 1e6).round().tolist()  # the reference column last
    [[[[6.0, 0.0, 3.0], [3.0, 3.0, 3.0]]]]
    """

    crosspoints: ClassVar[int] = 1
    cells_per_weight: ClassVar[int] = 1
    sign_bits: ClassVar[int] = 0

    reference: Literal["column", "converted", "digital"] = "column"

    @property
    def reference_columns(self) -> int:
        """One, but for the digital reference."""
        return 0 if self.reference == "digital" else 1

    @property
    def separate(self) -> bool:
        """Whether the reference column is converted."""
        return self.reference == "converted"

    def map(self, weight: Tensor, cell: ResistiveCell, references: int = 0) -> MappedWeights:
        """Return codes and conductance targets, (slices, 1, outputs + references, ...)."""
        scaled = self.scaled(weight)
        shift = torch.full_like(weight[:1], float(scaled.full))
        radix: tuple[float, ...]
        top: tuple[int, ...]
        if self.weight_bits is None:
            shifted, zero, radix, top = (scaled.remainder + shift).unsqueeze(0), shift.unsqueeze(0), (1.0,), (2 * scaled.full,)
        else:
            # The shift is a whole code, so that a weight of zero and its reference are the same level.
            shifted, radix, top = self.digits(scaled.integers + shift)
            zero = self.digits(shift)[0]
            if not self.rounded:
                # A cell cannot go below the lowest level: what is missing there stays rounded.
                shifted[0] = (shifted[0] + scaled.remainder).clamp(min=0.0)
        held = torch.cat((shifted, zero.expand(-1, references, *zero.shape[2:])), dim=1).unsqueeze(1)
        share = held / along_slices(torch.tensor(top, dtype=held.dtype, device=held.device), held.dim())
        targets = cell.g_min_siemens + (cell.g_max_siemens - cell.g_min_siemens) * share
        scale = per_code(cell, top, held)
        pedestal = None
        if self.reference == "digital":
            pedestal = zero.flatten(1)[:, 0] + cell.g_min_siemens * scale
        return MappedWeights(shifted - zero, targets, radix, number_or_tensor(scaled.unit), scale, pedestal=pedestal)
