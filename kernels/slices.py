"""Digitizing stacked slices and adding them up: every slice of inputs and weights through an ADC, in one pass over their products.

Numba for the CPU (zero-copy from torch) and torch for any device, with the same bits.
"""

import math
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float32, Int64
from numba import njit, prange
from torch import Tensor

from kernels.random import Backend, use_numba, worker_count

_LARGEST_CODE: Final = 2**24
"""Integers up to here are exact in float32."""
_CHUNK: Final = 1024
_NO_TABLE: Final = np.empty((0, 0), np.float32)
_NO_INDEX: Final = np.empty((0, 0), np.int64)


def shift_add(
    values: Float32[Tensor, "inputs vectors groups lines columns positions"],
    steps: Float32[Tensor, "lines one_or_all"],
    factors: Float32[Tensor, "inputs lines"],
    low: int,
    high: int,
    *,
    thresholds: Float32[Tensor, "converters edges"] | None = None,
    converter: Int64[Tensor, "lines all_columns"] | None = None,
    out: Float32[Tensor, "vectors groups columns positions"] | None = None,
    accumulate: bool = False,
    backend: Backend | None = None,
) -> Float32[Tensor, "vectors groups columns positions"]:
    """Digitize the analog outputs of all slices, weight each code, and add them up.

    ``out[v, g, c, p] = sum_il factors[i, l] * steps[l, gc] * code(values[i, v, g, l, c, p] / steps[l, gc])``, in float32, input slices
    outermost, where the code is rounded (ties to even) and clipped to ``[low, high]``. With `thresholds` it is ``low`` plus the number of
    its converter's thresholds that are not above the quotient. Where a step is 0 the value itself is taken.

    Parameters
    ----------
    values
        Products of every input slice (first axis) with every line of the weights (fourth axis), contiguous; a vector's outputs are groups
        of columns at one or more positions.
    steps
        Size of one code for each line and column of all groups, in the unit of `values`, at least 0; one column stands for all.
    factors
        Weight of each pair of slices; negative where it is subtracted.
    low, high
        Smallest and largest code, -2^24 to 2^24.
    thresholds
        Transfer of each converter, in steps: ``high - low`` inputs, not decreasing, from which on the next code is given.
    converter
        Which row of `thresholds` each line and column has; needed with `thresholds`.
    out
        Where the result goes; None for a new tensor.
    accumulate
        Add the result to `out` instead of replacing it.
    backend
        ``"numba"`` (the default on the CPU) or ``"torch"`` (elsewhere); the bits are the same.

    Returns
    -------
    Tensor
        `out`, or the new tensor.

    Raises
    ------
    ValueError
        If a tensor is not contiguous or has another shape, device or dtype than it should; if codes or steps are out of range, or
        `backend` is unknown or cannot serve the device.

    Examples
    --------
    >>> import torch
    >>> bits = torch.tensor([0.9, 2.2]).reshape(2, 1, 1, 1, 1, 1)  # two input slices of one vector, one line, one column
    >>> shift_add(bits, torch.tensor([[1.0]]), torch.tensor([[1.0], [2.0]]), -3, 3).item()
    5.0
    """
    inputs, vectors, groups, lines, columns, positions = values.shape
    shape = (vectors, groups, columns, positions)
    _check("values", values, tuple(values.shape), values)
    _check("steps", steps, (lines, 1 if steps.shape[-1] == 1 else groups * columns), values)
    _check("factors", factors, (inputs, lines), values)
    if not -_LARGEST_CODE <= low < high <= _LARGEST_CODE:
        raise ValueError(
            f"Arguments `low` and `high` must satisfy -2**24 <= low < high <= 2**24, but got low = {low}, high = {high}; "
            "do pass the smallest and the largest code."
        )
    if steps.numel() and not bool(((steps >= 0) & (steps < math.inf)).all()):
        raise ValueError("Argument `steps` must be finite and at least 0, but got other numbers; do pass the size of one code.")
    if (thresholds is None) != (converter is None):
        given = "`converter`" if thresholds is None else "`thresholds`"
        raise ValueError(f"Arguments `thresholds` and `converter` must come together, but got only {given}; do pass both.")
    if thresholds is not None and converter is not None:
        _check("thresholds", thresholds, (thresholds.shape[0], high - low), values)
        _check("converter", converter, (lines, groups * columns), values, torch.int64)
        if converter.numel() and not 0 <= int(converter.min()) <= int(converter.max()) < len(thresholds):
            raise ValueError(f"Argument `converter` must be from 0 to {len(thresholds) - 1}, but got others; do index `thresholds`.")
    if out is not None:
        _check("out", out, shape, values)
    elif accumulate:
        raise ValueError("Argument `out` must be given with `accumulate=True`, but got None; do pass the tensor to add to.")
    result = torch.empty(shape, device=values.device) if out is None else out
    if not accumulate:
        result.zero_()
    if not use_numba(values.device, backend):
        return _shift_add_torch(values, steps, factors, low, high, thresholds, converter, result)
    units = vectors * groups
    if values.numel():
        arguments = (
            _numpy(values),
            np.ascontiguousarray(np.broadcast_to(_numpy(steps), (lines, groups * columns))),
            _numpy(factors),
            np.float32(low),
            np.float32(high),
            _NO_TABLE if thresholds is None else _numpy(thresholds),
            _NO_INDEX if converter is None else converter.numpy(),
            _numpy(result),
        )
        workers = min(worker_count(-(-values.numel() // _CHUNK)), units)
        if workers > 1:
            _parallel(*arguments, units, workers)
        else:
            _range(*arguments, 0, units)
    return result


def _check(name: str, tensor: Tensor, shape: tuple[int, ...], like: Tensor, dtype: torch.dtype = torch.float32) -> None:
    if tensor.dtype != dtype or tuple(tensor.shape) != shape or tensor.device != like.device or not tensor.is_contiguous():
        got = f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}, strides {tensor.stride()}, on {tensor.device}"
        kind = str(dtype).removeprefix("torch.")
        raise ValueError(f"Argument `{name}` must be contiguous {kind} of shape {shape} on {like.device}, but got {got}; do convert it.")


def _numpy(tensor: Tensor) -> npt.NDArray[np.float32]:
    array: npt.NDArray[np.float32] = tensor.detach().numpy()
    return array


@torch.no_grad()
def _shift_add_torch(
    values: Tensor,
    steps: Tensor,
    factors: Tensor,
    low: int,
    high: int,
    thresholds: Tensor | None,
    converter: Tensor | None,
    out: Tensor,
) -> Tensor:
    inputs, _, groups, lines, columns, positions = values.shape
    sizes = steps.expand(lines, groups * columns).reshape(lines, groups, columns, 1)
    for i in range(inputs):
        for line in range(lines):
            value, size = values[i, :, :, line], sizes[line]
            quotient = value / torch.where(size > 0, size, torch.ones_like(size))
            if thresholds is None or converter is None:
                code = quotient.round().clamp(low, high)
            else:
                table = thresholds[converter[line]].reshape(groups * columns, -1)
                flat = quotient.permute(1, 2, 0, 3).reshape(groups * columns, -1).contiguous()
                # Beyond the largest float32 nothing is above: a value that is no number gets the lowest code, as in the loop.
                found = torch.searchsorted(table, flat, right=True).float() + low
                found = torch.where(flat.isnan(), flat, found)
                code = found.reshape(groups, columns, -1, positions).permute(2, 0, 1, 3)
            factor = factors[i, line]
            out += torch.where(size > 0, code * (size * factor), value * factor)
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def _range(
    values: npt.NDArray[np.float32],
    steps: npt.NDArray[np.float32],
    factors: npt.NDArray[np.float32],
    low: np.float32,
    high: np.float32,
    thresholds: npt.NDArray[np.float32],
    converter: npt.NDArray[np.int64],
    out: npt.NDArray[np.float32],
    first: int,
    last: int,
) -> None:
    inputs, _, groups, lines, columns, positions = values.shape
    one = np.float32(1.0)
    base = np.int64(low)
    top = np.int64(high) - base
    for unit in range(first, last):
        v, g = unit // groups, unit % groups
        for i in range(inputs):
            for line in range(lines):
                factor = factors[i, line]
                if thresholds.shape[0] > 0:
                    for c in range(columns):
                        step = steps[line, g * columns + c]
                        table = thresholds[converter[line, g * columns + c]]
                        worth = step * factor
                        for p in range(positions):
                            value = values[i, v, g, line, c, p]
                            if not step > 0:
                                out[v, g, c, p] += value * factor
                                continue
                            quotient = value / step
                            if np.isnan(quotient):
                                out[v, g, c, p] += quotient
                                continue
                            # The nonlinearity is small: begin at the ideal code.
                            guess = np.rint(quotient)
                            guess = low if guess < low else guess
                            guess = high if guess > high else guess
                            index = np.int64(guess) - base
                            while index < top and table[index] <= quotient:
                                index += 1
                            while index > 0 and table[index - 1] > quotient:
                                index -= 1
                            out[v, g, c, p] += np.float32(index + base) * worth
                elif positions == 1:
                    # Columns lie side by side: one SIMD loop over them. Views, because Numba checks the sign of every other index.
                    run = values[i, v, g, line].reshape(columns)
                    into = out[v, g].reshape(columns)
                    sizes = steps[line, g * columns : (g + 1) * columns]
                    for c in range(columns):
                        code = np.rint(run[c] / (sizes[c] if sizes[c] > 0 else one))
                        code = low if code < low else code
                        code = high if code > high else code
                        into[c] += code * (sizes[c] * factor) if sizes[c] > 0 else run[c] * factor
                else:
                    for c in range(columns):
                        step = steps[line, g * columns + c]
                        worth = step * factor
                        run = values[i, v, g, line, c]
                        into = out[v, g, c]
                        if step > 0:
                            for p in range(positions):
                                code = np.rint(run[p] / step)
                                code = low if code < low else code
                                code = high if code > high else code
                                into[p] += code * worth
                        else:
                            for p in range(positions):
                                into[p] += run[p] * factor


@njit(cache=True, nogil=True, parallel=True)
def _parallel(
    values: npt.NDArray[np.float32],
    steps: npt.NDArray[np.float32],
    factors: npt.NDArray[np.float32],
    low: np.float32,
    high: np.float32,
    thresholds: npt.NDArray[np.float32],
    converter: npt.NDArray[np.int64],
    out: npt.NDArray[np.float32],
    units: int,
    workers: int,
) -> None:
    for worker in prange(workers):
        first = worker * units // workers
        last = (worker + 1) * units // workers
        _range(values, steps, factors, low, high, thresholds, converter, out, first, last)
