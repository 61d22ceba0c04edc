"""Weights as the magnitude in one cell and the sign in the line that it hangs on."""

from typing import ClassVar

import torch
from torch import Tensor

from devices.base import ResistiveCell
from devices.rram.mapping import MappedWeights, WeightMapping, along_slices, number_or_tensor


class SignMagnitudeMapping(WeightMapping):
    """A weight is one cell: its magnitude the conductance, its sign the one of two lines, plus or minus, that the cell is switched to.

    The sign is held beside the cell (a latch that steers a second transistor); a digit of zero is switched to neither line, so that zeros
    carry neither current nor noise. Conductance is proportional to the magnitude, G = g_max |w| / w_max, because no resting cell is there
    whose g_min would cancel: magnitudes below g_min rest at g_min, or at zero if that is nearer.

    Parameters
    ----------
    scaling, clip_percentile, weight_bits, bits_per_cell, rounded
        See `WeightMapping`; a weight's magnitude has weight_bits - 1 bits in its cells.

    Examples
    --------
    >>> from devices.rram.ideal import IdealCell
    >>> mapped = SignMagnitudeMapping(weight_bits=3).map(torch.tensor([[3.0, -1.0, 0.0]]), IdealCell(g_min_siemens=0.0, g_max_siemens=3e-6))
    >>> mapped.codes.tolist(), mapped.present[0, 1].tolist()
    ([[[3.0, -1.0, 0.0]]], [[False, True, False]])
    """

    crosspoints: ClassVar[int] = 2
    cells_per_weight: ClassVar[int] = 1
    sign_bits: ClassVar[int] = 1

    @property
    def reference_columns(self) -> int:
        """None."""
        return 0

    @property
    def separate(self) -> bool:
        """The lines are subtracted before the ADC."""
        return False

    def map(self, weight: Tensor, cell: ResistiveCell, references: int = 0) -> MappedWeights:
        """Return codes and conductance targets, (slices, 2, *weight.shape); where no cell is `present` the target is g_min."""
        scaled = self.scaled(weight)
        radix: tuple[float, ...]
        top: tuple[int, ...]
        if self.weight_bits is None:
            wanted, radix, top = scaled.remainder.unsqueeze(0), (1.0,), (1,)
        else:
            found, radix, top = self.digits(scaled.integers.abs())
            wanted = found * scaled.integers.sign()
            wanted[0] += scaled.remainder
        top = (scaled.full,) if self.slices == 1 else top
        scale = torch.tensor([digit / cell.g_max_siemens for digit in top], dtype=wanted.dtype, device=wanted.device)
        siemens = wanted / along_slices(scale, wanted.dim())
        magnitude = siemens.abs()
        held = torch.where(magnitude < cell.g_min_siemens / 2, torch.zeros_like(magnitude), magnitude.clamp(min=cell.g_min_siemens))
        sign = torch.where(held > 0, siemens.sign(), torch.zeros_like(held))
        codes = torch.where(held == magnitude, wanted, held * sign * along_slices(scale, wanted.dim()))
        present = torch.stack((sign > 0, sign < 0), dim=1)
        targets = torch.where(present, held.unsqueeze(1), torch.full_like(held, cell.g_min_siemens).unsqueeze(1))
        return MappedWeights(codes, targets, radix, number_or_tensor(scaled.unit), scale, present=present)
