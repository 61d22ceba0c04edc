"""Number formats of digital operations: what rounding to one does to a tensor."""

from typing import Literal, get_args

import torch
from torch import Tensor

Precision = Literal["float32", "bfloat16", "float16", "float8_e4m3", "float8_e5m2", "int16", "int8"]
"""Formats. Beyond its largest number a floating-point format saturates. An integer format has one step for each tensor, its largest
magnitude over ``2^(bits-1) - 1``; magnitudes above 1e30, with which masks stand for minus infinity, pass as they are."""

PRECISIONS: tuple[str, ...] = get_args(Precision)
FLOATING = {
    "bfloat16": torch.bfloat16, "float16": torch.float16, "float8_e4m3": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2,
}  # fmt: skip
INTEGER = {"int16": 16, "int8": 8}
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3": 1, "float8_e5m2": 1, "int16": 2, "int8": 1}
MASK = 1e30


def rounded(values: Tensor, precision: str) -> Tensor:
    """Return values as a format holds them, in their own dtype; others than float32 tensors as they are.

    Examples
    --------
    >>> rounded(torch.tensor([1.0, 1.001, 300000.0]), "float16").tolist()
    [1.0, 1.0009765625, 65504.0]
    >>> rounded(torch.tensor([-1.0, 0.5, 0.003]), "int8").mul(127).tolist()
    [-127.0, 64.0, 0.0]
    """
    if precision == "float32" or values.dtype is not torch.float32 or values.numel() == 0:
        return values
    dtype = FLOATING.get(precision)
    if dtype is not None:
        largest = torch.finfo(dtype).max
        return torch.where(values.isinf(), values, values.clamp(-largest, largest).to(dtype).to(torch.float32))
    magnitudes = values.abs()
    inside = magnitudes <= MASK
    step = torch.where(inside, magnitudes, 0.0).amax() / ((1 << (INTEGER[precision] - 1)) - 1)
    step = torch.where(step > 0, step, 1.0)
    return torch.where(inside, torch.round(values / step) * step, values)
