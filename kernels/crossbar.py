"""The crossbar's converters: read noise, ADC and shift-add in one pass over the outputs of a GEMM, and the DAC.

Each has a Numba implementation (CPU, zero-copy) and a torch one (any device) with the same bits.
"""

import math
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float32
from numba import njit, prange
from torch import Tensor

from kernels.philox import CHUNK, exact_sqrt, fill_normal_chunk
from kernels.random import Backend, Key, normal, use_numba, worker_count

Values = Float32[Tensor, "*shape"]

_LARGEST_CODE: Final = 2**24
"""Integers up to here are exact in float32."""
_NO_VARIANCE: Final = np.empty(0, np.float32)
_NO_KEY: Final = Key(0, 0)


def convert(
    values: Values,
    *,
    variance: Values | None = None,
    key: Key | None = None,
    step: float = 0.0,
    limit: int = 0,
    low: int | None = None,
    scale: float = 1.0,
    out: Values | None = None,
    accumulate: bool = False,
    backend: Backend | None = None,
) -> Values:
    """Add read noise to analog outputs, digitize them and scale them, in one pass.

    With ``y = values + sqrt(variance) * normal(key, values.shape)``, the code is ``round(y / step)`` (ties to even) clipped to
    ``[low, limit]``, and the result is ``code * step * scale``; without `step` it is ``y * scale``. Nothing is differentiated: gradients
    belong to the layer.

    Parameters
    ----------
    values
        Analog outputs, float32 of any shape, contiguous.
    variance
        Variance of the noise of each output, of the shape of `values`, in its unit squared; None for no noise. A negative entry gives nan.
    key
        Stream of the noise; needed with `variance`.
    step
        Size of one code in the unit of `values`; 0 for an ideal converter.
    limit
        Largest code, 1 to 2^24; 0 with ``step=0``.
    low
        Smallest code, at most 0; None for ``-limit``.
    scale
        Factor of the result, as ``2**(bits * slice)`` in a shift-add.
    out
        Where the result goes, like `values` (it may be `values`); None for a new tensor.
    accumulate
        Add the result to `out` instead of replacing it.
    backend
        ``"numba"`` (the default on the CPU) or ``"torch"`` (elsewhere); the bits are the same.

    Returns
    -------
    Tensor
        `out`, or the new tensor of the shape of `values`.

    Raises
    ------
    ValueError
        If a tensor is not contiguous, not float32, or differs from `values` in shape or device; if `variance` has no `key`, `accumulate` no
        `out`, or `step`, `limit` or `scale` is out of range; if `backend` is unknown or cannot serve the device.

    Examples
    --------
    >>> import torch
    >>> convert(torch.tensor([0.26, -0.9, 7.0]), step=0.5, limit=3)
    tensor([ 0.5000, -1.0000,  1.5000])
    >>> noisy = convert(torch.zeros(1000), variance=torch.full((1000,), 4.0), key=Key.of(seed=0))
    >>> bool(abs(noisy.std() - 2.0) < 0.2)
    True
    """
    _check_like("values", values, values)
    if variance is not None:
        _check_like("variance", variance, values)
        if key is None:
            raise ValueError("Argument `key` must be given with `variance`, but got None; do pass the key of this read.")
    if accumulate and out is None:
        raise ValueError("Argument `out` must be given with `accumulate=True`, but got None; do pass the tensor to add to.")
    _check_step(step)
    if step and not 1 <= limit <= _LARGEST_CODE:
        raise ValueError(f"Argument `limit` must be from 1 to 2**24 with a `step`, but got {limit}; do pass the largest code of the ADC.")
    if not step and limit:
        raise ValueError(f"Argument `limit` must be 0 without a `step`, but got {limit}; do pass both, or neither for no ADC.")
    if low is not None and not -_LARGEST_CODE <= low <= 0:
        raise ValueError(f"Argument `low` must be from -2**24 to 0, but got {low}; do pass the smallest code of the ADC, or None.")
    if not math.isfinite(scale):
        raise ValueError(f"Argument `scale` must be finite, but got {scale}; do pass the weight of the slice.")
    return _run(values, variance, key or _NO_KEY, (step, step), (-limit if low is None else low, limit), scale, out, accumulate, backend)


def quantize(
    values: Values,
    step: float,
    low: int,
    high: int,
    *,
    unit: float | None = None,
    out: Values | None = None,
    backend: Backend | None = None,
) -> Values:
    """Round inputs to the levels of a DAC: ``clip(round(values / step), low, high) * unit``, ties to even.

    Parameters
    ----------
    values
        Float32 of any shape, contiguous.
    step
        Size of one code in the unit of `values`, above 0.
    low, high
        Smallest and largest code, -2^24 to 2^24.
    unit
        What one code is worth in the result: `step` by default, 1 for the codes themselves.
    out
        Where the result goes, like `values` (it may be `values`); None for a new tensor.
    backend
        ``"numba"`` (the default on the CPU) or ``"torch"`` (elsewhere); the bits are the same.

    Returns
    -------
    Tensor
        `out`, or the new tensor of the shape of `values`.

    Raises
    ------
    ValueError
        If a tensor is not contiguous, not float32, or `out` differs from `values` in shape or device; if `step` is not positive, the codes
        are out of range or order, or `backend` is unknown or cannot serve the device.

    Examples
    --------
    >>> import torch
    >>> quantize(torch.tensor([0.1, 0.5, 2.0]), 0.25, 0, 3)
    tensor([0.0000, 0.5000, 0.7500])
    """
    _check_like("values", values, values)
    if not step:
        raise ValueError("Argument `step` must be above 0, but got 0; do leave out the call for an ideal converter.")
    check_codes(step, low, high)
    return _run(values, None, _NO_KEY, (step, step if unit is None else unit), (low, high), 1.0, out, False, backend)


def check_float32(name: str, tensor: Tensor) -> None:
    """Refuse a tensor that is not float32 or not contiguous."""
    if tensor.dtype != torch.float32:
        raise ValueError(f"Argument `{name}` must have dtype torch.float32, but got {tensor.dtype}; do convert it by `.float()`.")
    if not tensor.is_contiguous():
        raise ValueError(
            f"Argument `{name}` must be contiguous, but got strides {tensor.stride()} for shape {tuple(tensor.shape)}; "
            "do call `.contiguous()`."
        )


def check_codes(step: float, low: int, high: int) -> None:
    """Refuse a step that is negative or no float32, and codes that are out of order or inexact in float32."""
    _check_step(step)
    if not -_LARGEST_CODE <= low <= high <= _LARGEST_CODE:
        raise ValueError(
            f"Arguments `low` and `high` must satisfy -2**24 <= low <= high <= 2**24, but got low = {low}, high = {high}; "
            "do pass the smallest and the largest code."
        )


def _check_like(name: str, tensor: Tensor, values: Tensor) -> None:
    check_float32(name, tensor)
    if tensor.shape != values.shape or tensor.device != values.device:
        raise ValueError(
            f"Argument `{name}` must have the shape and device of `values`, {tuple(values.shape)} on {values.device}, "
            f"but got {tuple(tensor.shape)} on {tensor.device}; do expand or move it."
        )


def _check_step(step: float) -> None:
    if not 0.0 <= step < math.inf or (step > 0 and np.float32(step) == 0):
        raise ValueError(f"Argument `step` must be 0 or a positive float32, but got {step}; do pass the size of one code.")


def _run(
    values: Tensor,
    variance: Tensor | None,
    key: Key,
    sizes: tuple[float, float],
    ends: tuple[int, int],
    scale: float,
    out: Tensor | None,
    accumulate: bool,
    backend: Backend | None,
) -> Tensor:
    if out is None:
        out = torch.empty_like(values, requires_grad=False)
    else:
        _check_like("out", out, values)
    if not use_numba(values.device, backend):
        return _convert_torch(values, variance, key, sizes, ends, scale, out, accumulate)
    chunks = -(-values.numel() // CHUNK)
    if chunks:
        arguments = (
            _flat(values),
            _NO_VARIANCE if variance is None else _flat(variance),
            *key.words(),
            np.float32(sizes[0]),
            np.float32(sizes[1]),
            np.float32(ends[0]),
            np.float32(ends[1]),
            np.float32(scale),
            _flat(out),
            accumulate,
        )
        workers = worker_count(chunks)
        if workers > 1:
            _convert_parallel(*arguments, chunks, workers)
        else:
            _convert_chunks(*arguments, 0, chunks)
    return out


def _flat(tensor: Tensor) -> npt.NDArray[np.float32]:
    flat: npt.NDArray[np.float32] = tensor.detach().view(-1).numpy()
    return flat


def rounded(values: Tensor, step: float, ends: tuple[float, float]) -> Tensor:
    """Return ``clip(round(values / step), *ends)`` in torch, with the bits of the Numba loops on any device."""
    # A tensor on the device, because CUDA divides by a Python number as a product with its reciprocal, which rounds differently.
    size = torch.full((), step, dtype=torch.float32, device=values.device)
    return torch.round(values / size).clamp(*ends)


@torch.no_grad()
def _convert_torch(
    values: Tensor,
    variance: Tensor | None,
    key: Key,
    sizes: tuple[float, float],
    ends: tuple[int, int],
    scale: float,
    out: Tensor,
    accumulate: bool,
) -> Tensor:
    y = values
    if variance is not None:
        y = y + exact_sqrt(variance) * normal(key, values.shape, values.device, backend="torch")
    step, unit = sizes
    if step:
        y = rounded(y, step, ends) * float(np.float32(unit))
    y = y * float(np.float32(scale))
    return out.add_(y) if accumulate else out.copy_(y)


@njit(cache=True, nogil=True, error_model="numpy")
def _convert_chunks(
    values: npt.NDArray[np.float32],
    variance: npt.NDArray[np.float32],
    word0: int,
    word1: int,
    read_low: int,
    read_high: int,
    step: np.float32,
    unit: np.float32,
    low: np.float32,
    high: np.float32,
    scale: np.float32,
    out: npt.NDArray[np.float32],
    accumulate: bool,
    first: int,
    last: int,
) -> None:
    # A chunk stays in the first-level cache between these loops; `y` aliases neither input nor output, so that each becomes SIMD code.
    y = np.empty(CHUNK, np.float32)
    for chunk in range(first, last):
        start = chunk * CHUNK
        count = min(CHUNK, values.size - start)
        # Views, because Numba checks the sign of an index like `start + lane`, and the loop is then scalar.
        x = values[start : start + count]
        result = out[start : start + count]
        if variance.size:
            fill_normal_chunk(word0, word1, read_low, read_high, chunk, y)
            spread = variance[start : start + count]
            for lane in range(count):
                y[lane] = x[lane] + np.sqrt(spread[lane]) * y[lane]
        else:
            for lane in range(count):
                y[lane] = x[lane]
        if step > 0:
            for lane in range(count):
                code = np.rint(y[lane] / step)
                code = low if code < low else code
                code = high if code > high else code
                y[lane] = code * unit
        if accumulate:
            for lane in range(count):
                result[lane] += y[lane] * scale
        else:
            for lane in range(count):
                result[lane] = y[lane] * scale


@njit(cache=True, nogil=True, parallel=True)
def _convert_parallel(
    values: npt.NDArray[np.float32],
    variance: npt.NDArray[np.float32],
    word0: int,
    word1: int,
    read_low: int,
    read_high: int,
    step: np.float32,
    unit: np.float32,
    low: np.float32,
    high: np.float32,
    scale: np.float32,
    out: npt.NDArray[np.float32],
    accumulate: bool,
    chunks: int,
    workers: int,
) -> None:
    for worker in prange(workers):
        first = worker * chunks // workers
        last = (worker + 1) * chunks // workers
        _convert_chunks(values, variance, word0, word1, read_low, read_high, step, unit, low, high, scale, out, accumulate, first, last)
