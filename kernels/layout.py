"""The last two axes of an array exchanged: images whose channels come first become images whose channels come last, and back.

What is done to each element at that time costs nothing: a DAC rounds images on their way in, a bias is added on their way out.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float32
from numba import njit
from torch import Tensor

from kernels.crossbar import check_codes, check_float32, rounded
from kernels.random import Backend, use_numba

_TALL: Final = 16
"""Rows that are turned at a time: 16 float32 fill a line of the cache, so that none is written twice."""
_WIDE: Final = 64
"""Columns that are turned at a time."""
_NOTHING: Final = np.float32(-0.0)
"""Leaves every number as it is, a negative zero included."""
_NO_OFFSET: Final = np.empty(0, np.float32)


def exchange(
    values: Float32[Tensor, "n rows columns"],
    *,
    step: float = 0.0,
    low: int = 0,
    high: int = 0,
    unit: float | None = None,
    offset: Float32[Tensor, " columns"] | None = None,
    out: Float32[Tensor, "n columns rows"] | None = None,
    backend: Backend | None = None,
) -> Float32[Tensor, "n columns rows"]:
    """Return an array with its last two axes exchanged, contiguous; torch's own copy takes up to five times as long.

    Parameters
    ----------
    values
        Float32 of shape (n, rows, columns), contiguous.
    step, low, high, unit
        With a `step` above 0, values are rounded as `kernels.crossbar.quantize` does: ``clip(round(values / step), low, high) * unit``.
    offset
        Added to each column, float32, contiguous, in the unit of the result; None for nothing.
    out
        Where the result goes, contiguous, of shape (n, columns, rows), with no memory in common with `values`; None for a new tensor.
    backend
        ``"numba"`` (the default on the CPU) or ``"torch"`` (elsewhere); the bits are the same.

    Returns
    -------
    Tensor
        `out`, or the new tensor.

    Raises
    ------
    ValueError
        If a tensor is not contiguous or not float32, shapes or devices do not fit, the step is negative or the codes are out of order or
        beyond 2^24, or `backend` is unknown or cannot serve the device.

    Examples
    --------
    >>> exchange(torch.tensor([[[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]]))
    tensor([[[1., 4.],
             [2., 5.],
             [3., 6.]]])
    >>> exchange(torch.tensor([[[0.1, 0.5, 2.0]]]), step=0.25, low=0, high=3, unit=1.0).flatten()
    tensor([0., 2., 3.])
    """
    if values.dim() != 3:
        raise ValueError(f"Argument `values` must have three axes, but got shape {tuple(values.shape)}; do flatten the others.")
    turned = (values.shape[0], values.shape[2], values.shape[1])
    if out is None:
        out = torch.empty(turned, dtype=values.dtype, device=values.device)
    wanted = {"values": (values, tuple(values.shape)), "out": (out, turned)}
    if offset is not None:
        wanted["offset"] = (offset, turned[1:2])
    for name, (tensor, shape) in wanted.items():
        check_float32(name, tensor)
        if tuple(tensor.shape) != shape or tensor.device != values.device:
            raise ValueError(
                f"Argument `{name}` must have shape {shape} on {values.device}, but got {tuple(tensor.shape)} on {tensor.device}; "
                "do match `values`."
            )
    check_codes(step, low, high)
    size, worth = np.float32(step), np.float32(step if unit is None else unit)
    if use_numba(values.device, backend):
        offsets = _NO_OFFSET if offset is None else offset.detach().numpy()
        _exchange(values.detach().numpy(), size, worth, np.float32(low), np.float32(high), offsets, out.detach().numpy())
        return out
    with torch.no_grad():
        result = values.transpose(1, 2)
        if step:
            result = rounded(result, float(size), (float(low), float(high))).mul_(float(worth))
        out.copy_(result if offset is None else result + offset.unsqueeze(1))
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def _exchange(
    values: npt.NDArray[np.float32],
    step: np.float32,
    unit: np.float32,
    low: np.float32,
    high: np.float32,
    offset: npt.NDArray[np.float32],
    out: npt.NDArray[np.float32],
) -> None:
    count, rows, columns = values.shape
    # Loops of constant length and loops over views become SIMD code, and the slab stays in the first-level cache.
    slab = np.empty((_TALL, _WIDE), np.float32)
    for index in range(count):
        source = values[index]
        target = out[index]
        for top in range(0, rows, _TALL):
            height = min(_TALL, rows - top)
            for left in range(0, columns, _WIDE):
                width = min(_WIDE, columns - left)
                for row in range(height):
                    line = source[top + row, left : left + width]
                    into = slab[row]
                    if step > 0:
                        for column in range(width):
                            code = np.rint(line[column] / step)
                            code = low if code < low else code
                            code = high if code > high else code
                            into[column] = code * unit
                    else:
                        for column in range(width):
                            into[column] = line[column]
                for column in range(width):
                    line = target[left + column, top : top + height]
                    added = offset[left + column] if offset.size else _NOTHING
                    if height == _TALL:
                        for row in range(_TALL):
                            line[row] = slab[row, column] + added
                    else:
                        for row in range(height):
                            line[row] = slab[row, column] + added
