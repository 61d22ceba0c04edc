"""The readout of a compute-in-memory macro that discharges two bit lines until they cross: comparison by comparison.

Numba for the CPU (zero-copy from torch) and torch for any device, with the same bits.
"""

import math
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float32
from torch import Tensor

from kernels.bit_lines import read_chunks, read_parallel, round_chunks
from kernels.comparator import NEAR, SHARED_NEAR, candidates
from kernels.comparator_torch import Ranks, plane, search_shared
from kernels.philox import CHUNK
from kernels.random import Backend, Key, normal, use_numba, worker_count

Readout = Literal["binary_search", "ramp"]

_NO_KEY: Final = Key(0, 0)
_EMPTY: Final = np.empty(0, np.float32)
_EMPTY_2: Final = np.empty((0, 0), np.float32)
_NO_CANDIDATES: Final = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float64))


def read_bit_lines(
    values: Float32[Tensor, "vectors columns"],
    steps: Float32[Tensor, "2 steps columns"],
    *,
    gain: float = 1.0,
    readout: Readout = "binary_search",
    tread: bool = False,
    offset: Float32[Tensor, " columns"] | None = None,
    jitter: Float32[Tensor, "vectors steps"] | None = None,
    rooms: tuple[Float32[Tensor, "vectors columns"], Float32[Tensor, "vectors columns"]] | None = None,
    sampling_sigma: float = 0.0,
    comparator_sigma: float = 0.0,
    key: Key | None = None,
    scale: float = 1.0,
    out: Float32[Tensor, "vectors columns"] | None = None,
    accumulate: bool = False,
    backend: Backend | None = None,
) -> Float32[Tensor, "vectors columns"]:
    """Digitize the difference of two bit lines by discharging the higher one and comparing again.

    With ``r = values * gain + offset``, in steps of the readout, `binary_search` compares r with zero (equal counts as above), takes a
    step of 2^k off its magnitude, k = S - 1 .. 0, and compares once more: nominal steps give ``floor(r) + 1/2``, clipped to
    ``+-(2^S - 1/2)``. `ramp` takes equal steps until the sign flips, with the same result. With `tread`, half a step is added first
    and taken from the code: ``floor(r + 1/2)``, clipped to ``+-(2^S - 1)``.

    Parameters
    ----------
    values
        Difference of the discharges of the two lines, in any unit, contiguous.
    steps
        What each step takes off the difference, in readout steps (nominally 2^(S-1) .. 1 in a search, 1 in a ramp): the first half
        where the difference is positive, the second where it is negative.
    gain
        Readout steps for one unit of `values`.
    readout
        ``"binary_search"``, or ``"ramp"`` with 2^S - 1 steps.
    tread
        A level at zero (mid-tread) instead of a threshold (mid-rise).
    offset
        Offset of each column's comparator, in readout steps.
    jitter
        What each step is longer in each vector, the same in all columns, in readout steps.
    rooms
        How far the positive and the negative line can still be discharged, in readout steps; None where nothing limits them.
    sampling_sigma
        Standard deviation of what is added to each difference once, in readout steps.
    comparator_sigma
        Standard deviation of what is added at each comparison anew, in readout steps. Draws are made only where they can matter, with the
        law of a draw for every comparison (`kernels.comparator`).
    key
        Stream of both; needed with either.
    scale
        Factor of the codes.
    out
        Where the result goes; None for a new tensor.
    accumulate
        Add to `out` instead of replacing it.
    backend
        ``"numba"`` (the default on the CPU) or ``"torch"`` (elsewhere); the bits are the same.

    Returns
    -------
    Tensor
        Codes times `scale`, as `values`.

    Raises
    ------
    ValueError
        If a tensor is not float32, not contiguous or of another shape or device, `key` or `out` is missing, a number is out of range, or
        `backend` is unknown or cannot serve the device.

    Examples
    --------
    >>> import torch
    >>> steps = torch.tensor([2.0, 1.0]).reshape(1, 2, 1).expand(2, 2, 3).contiguous()
    >>> values = torch.tensor([[0.3, -1.5, 9.0]])
    >>> read_bit_lines(values, steps), read_bit_lines(values, steps, tread=True)
    (tensor([[ 0.5000, -1.5000,  3.5000]]), tensor([[ 0., -1.,  3.]]))
    """
    if values.dim() != 2:
        raise ValueError(f"Argument `values` must have shape (vectors, columns), but got {tuple(values.shape)}; do reshape it.")
    vectors, columns = values.shape
    count = steps.shape[1] if steps.dim() == 3 else 0
    if not count or (readout == "ramp" and (count + 1) & count):
        raise ValueError(
            f"Argument `steps` must have shape (2, steps, columns), with 2^S - 1 steps in a ramp, but got {tuple(steps.shape)}; "
            "do pass what each step takes off the difference."
        )
    if readout not in ("binary_search", "ramp"):
        raise ValueError(f'Argument `readout` must be "binary_search" or "ramp", but got {readout!r}; do name one of them.')
    _check("values", values, (vectors, columns), values)
    _check("steps", steps, (2, count, columns), values)
    named = {"offset": (offset, (columns,)), "jitter": (jitter, (vectors, count)), "out": (out, (vectors, columns))}
    for side, room in zip(("rooms[0]", "rooms[1]"), rooms or (), strict=False):
        named[side] = (room, (vectors, columns))
    for name, (tensor, shape) in named.items():
        if tensor is not None:
            _check(name, tensor, shape, values)
    _check_noise(key, sampling_sigma=sampling_sigma, comparator_sigma=comparator_sigma)
    if not (math.isfinite(gain) and math.isfinite(scale)):
        raise ValueError(f"Arguments `gain` and `scale` must be finite, but got {gain} and {scale}; do pass finite factors.")
    result = _target(values, out, accumulate)
    numbers = (gain, 0.5 if tread else 0.0, sampling_sigma, comparator_sigma, NEAR * comparator_sigma, scale)
    stream = key or _NO_KEY
    if not use_numba(values.device, backend):
        codes = _read_torch(values, steps, offset, jitter, rooms, stream, numbers, readout)
        return result.add_(codes) if accumulate else result.copy_(codes)
    chunks = -(-values.numel() // CHUNK)
    if chunks:
        flat = (
            _numpy(values).reshape(-1),
            _numpy(steps),
            _EMPTY if offset is None else _numpy(offset),
            _EMPTY_2 if jitter is None else _numpy(jitter),
            _EMPTY if rooms is None else _numpy(rooms[0]).reshape(-1),
            _EMPTY if rooms is None else _numpy(rooms[1]).reshape(-1),
        )
        keys = _streams(stream, sampling_sigma, comparator_sigma)
        streams = np.array([one.words() for one in keys], np.int64)
        chosen = comparator_sigma and (readout == "ramp" or NEAR * comparator_sigma <= SHARED_NEAR)
        found = candidates(keys[1], chunks, count + 1) if chosen else _NO_CANDIDATES
        factors = tuple(np.float32(number) for number in numbers)
        target = _numpy(result).reshape(-1)
        workers = worker_count(chunks)
        if workers > 1:
            read_parallel(*flat, streams, *found, factors, readout == "ramp", target, accumulate, chunks, workers)
        else:
            read_chunks(*flat, streams, *found, factors, readout == "ramp", target, accumulate, 0, chunks)
    return result


def _check(name: str, tensor: Tensor, shape: tuple[int, ...], like: Tensor) -> None:
    if tensor.dtype != torch.float32 or tuple(tensor.shape) != shape or tensor.device != like.device or not tensor.is_contiguous():
        got = f"{str(tensor.dtype).removeprefix('torch.')} of shape {tuple(tensor.shape)}, strides {tensor.stride()}, on {tensor.device}"
        raise ValueError(f"Argument `{name}` must be contiguous float32 of shape {shape} on {like.device}, but got {got}; do convert it.")


def _check_noise(key: Key | None, **sigmas: float) -> None:
    for name, number in sigmas.items():
        if not 0 <= number < math.inf:
            raise ValueError(f"Argument `{name}` must be finite and at least 0, but got {number}; do pass a standard deviation.")
        if number and key is None:
            raise ValueError(f"Argument `key` must be given with `{name}`, but got None; do pass the key of this read.")


def _target(values: Tensor, out: Tensor | None, accumulate: bool) -> Tensor:
    """Return where the codes go."""
    if accumulate and out is None:
        raise ValueError("Argument `out` must be given with `accumulate=True`, but got None; do pass the tensor to add to.")
    return torch.empty_like(values, requires_grad=False) if out is None else out


def _numpy(tensor: Tensor) -> npt.NDArray[np.float32]:
    array: npt.NDArray[np.float32] = tensor.detach().numpy()
    return array


def _streams(key: Key, sampling_sigma: float, comparator_sigma: float) -> tuple[Key, Key]:
    """Return the streams of the sampled noise and of that of comparisons; an unused one is no stream."""
    return key.fold("sampling") if sampling_sigma else _NO_KEY, key.fold("comparison") if comparator_sigma else _NO_KEY


@torch.no_grad()
def _read_torch(
    values: Tensor,
    steps: Tensor,
    offset: Tensor | None,
    jitter: Tensor | None,
    rooms: tuple[Tensor, Tensor] | None,
    key: Key,
    numbers: tuple[float, ...],
    readout: Readout,
) -> Tensor:
    gain, half, sampling, comparator, near, scale = (float(np.float32(number)) for number in numbers)
    sampled, compared = _streams(key, sampling, comparator)
    r = values * gain
    if offset is not None:
        r = r + offset
    r = r + half
    if sampling > 0:
        r = r + normal(sampled, r.shape, r.device, backend="torch") * sampling
    count = steps.shape[1]
    if readout == "binary_search" and 0 < near <= SHARED_NEAR and jitter is None and rooms is None:
        code = search_shared(r, steps, comparator, near, compared)
        return (torch.clamp(code - half, min=1.0 - 2.0**count) if half > 0 else code) * scale
    room_positive, room_negative = rooms if rooms is not None else (None, None)
    ranks = Ranks(compared, r, count + 1, comparator, near) if comparator > 0 and readout == "ramp" else None

    def above(comparison: int) -> Tensor:
        if ranks is not None:
            return ranks.above(r, comparison)
        if comparator > 0:
            return r + plane(compared, comparison, r) * comparator >= 0
        return r >= 0

    def step(k: int, up: Tensor) -> Tensor:
        nonlocal room_positive, room_negative
        taken = torch.where(up, steps[0, k], steps[1, k])
        if jitter is not None:
            taken = taken + jitter[:, k : k + 1]
        if room_positive is not None and room_negative is not None:
            taken = torch.minimum(taken, torch.where(up, room_negative, room_positive))
            room_negative = torch.where(up, room_negative - taken, room_negative)
            room_positive = torch.where(up, room_positive, room_positive - taken)
        return torch.where(up, r - taken, r + taken)

    code = torch.zeros_like(r)
    if readout == "binary_search":
        for k in range(count + 1):
            up = above(k)
            weight = 2.0 ** (count - 1 - k)
            code = code + torch.where(up, weight, -weight)
            if k < count:
                r = step(k, up)
        lowest = 1.0 - 2.0**count
    else:
        first = above(0)
        magnitude = torch.full_like(r, count + 0.5)
        active = torch.ones_like(first)
        for k in range(count):
            r = step(k, first)
            flipped = active & (above(k + 1) != first)
            magnitude = torch.where(flipped, k + 0.5, magnitude)
            active = active & ~flipped
            if not bool(active.any()):
                break
        code = torch.where(first, magnitude, -magnitude)
        lowest = -float(count)
    if half > 0:
        code = torch.clamp(code - half, min=lowest)
    return code * scale


def round_bit_lines(
    values: Float32[Tensor, "vectors columns"],
    unit: float,
    limit: int,
    *,
    gain: float = 1.0,
    tread: bool = False,
    sampling_sigma: float = 0.0,
    key: Key | None = None,
    scale: float = 1.0,
    out: Float32[Tensor, "vectors columns"] | None = None,
    accumulate: bool = False,
    backend: Backend | None = None,
) -> Float32[Tensor, "vectors columns"]:
    """Return what `read_bit_lines` gives with nominal steps, in one rounding: exact for integer values.

    With ``r = values * gain / unit`` (float64, so that a quotient of integers is exact) the code is ``floor(r) + 1/2`` clipped to
    ``+-(limit + 1/2)``, or with `tread` ``floor(r + 1/2)`` clipped to ``+-limit``.

    Parameters
    ----------
    values
        Difference of the discharges of the two lines, contiguous.
    unit
        Size of `gain` codes in the unit of `values`, above 0.
    limit
        Largest code of a mid-tread readout, at least 1.
    gain
        Codes for one `unit`.
    tread
        A level at zero (mid-tread) instead of a threshold (mid-rise).
    sampling_sigma
        Standard deviation of what is added to each difference once, in codes.
    key
        Its stream.
    scale
        Factor of the codes.
    out
        Where the result goes; None for a new tensor.
    accumulate
        Add to `out` instead of replacing it.
    backend
        ``"numba"`` (the default on the CPU) or ``"torch"`` (elsewhere); the bits are the same.

    Returns
    -------
    Tensor
        Codes times `scale`, as `values`.

    Raises
    ------
    ValueError
        As `read_bit_lines` does.

    Examples
    --------
    >>> import torch
    >>> round_bit_lines(torch.tensor([[3.0, -12.0, 900.0]]), 2.0, 255)
    tensor([[  1.5000,  -5.5000, 255.5000]])
    """
    shape = tuple(values.shape)
    _check("values", values, shape, values)
    if out is not None:
        _check("out", out, shape, values)
    if not 0 < unit < math.inf or not math.isfinite(gain) or limit < 1:
        raise ValueError(
            f"Arguments `unit`, `gain` and `limit` must be above 0, finite and at least 1, but got {unit}, {gain} and {limit}; "
            "do pass numbers in those ranges."
        )
    _check_noise(key, sampling_sigma=sampling_sigma)
    result = _target(values, out, accumulate)
    half = 0.5 if tread else 0.0
    stream = (key or _NO_KEY).fold("sampling") if sampling_sigma else _NO_KEY
    ends = (-float(limit), float(limit)) if tread else (-limit - 0.5, limit + 0.5)
    if not use_numba(values.device, backend):
        with torch.no_grad():
            # A tensor on the device, because CUDA divides by a Python number as a product with its reciprocal, which rounds differently.
            r = values.double() * gain / torch.full((), unit, dtype=torch.float64, device=values.device) + half
            if sampling_sigma:
                r = r + normal(stream, values.shape, values.device, backend="torch").double() * sampling_sigma
            codes = (torch.floor(r) + (0.5 - half)).clamp(*ends).float() * float(np.float32(scale))
        return result.add_(codes) if accumulate else result.copy_(codes)
    chunks = -(-values.numel() // CHUNK)
    if chunks:
        flat, target = _numpy(values).reshape(-1), _numpy(result).reshape(-1)
        round_chunks(flat, *stream.words(), gain, unit, half, sampling_sigma, *ends, np.float32(scale), target, accumulate, 0, chunks)
    return result
