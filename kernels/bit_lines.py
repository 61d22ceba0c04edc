"""The loops of `kernels.macro`: two bit lines, a chunk of 1024 conversions at a time."""

from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit, prange

from kernels.philox import CHUNK, fill_normal_chunk

Line = npt.NDArray[np.float32]
"""One number for each conversion."""

_LARGEST_NORMAL: Final = np.float32(6.7)
"""No Gaussian of `kernels.random` is larger, so a comparison further away than this many sigma needs no draw."""


@njit(cache=True, nogil=True, error_model="numpy")
def _discharge(
    r: Line,
    side: Line,
    taken: Line,
    steps: npt.NDArray[np.float32],
    jitter: npt.NDArray[np.float32],
    rooms_p: Line,
    rooms_n: Line,
    limited: bool,
    k: int,
    start: int,
    count: int,
) -> None:
    """Take step `k` off the higher line of `count` conversions from conversion `start` on; `side` is 1 where the difference is positive.

    Short loops over few arrays, each of which becomes SIMD code; `taken` is scratch.
    """
    columns = steps.shape[2]
    position = 0
    while position < count:
        vector = (start + position) // columns
        column = (start + position) % columns
        length = min(columns - column, count - position)
        above = steps[0, k, column : column + length]
        below = steps[1, k, column : column + length]
        part = taken[position : position + length]
        sides = side[position : position + length]
        longer = np.float32(0.0)
        if jitter.size:
            longer = jitter[vector, k]
        if limited:
            for lane in range(length):
                up = above[lane]
                down = below[lane]
                part[lane] = (up if sides[lane] > 0 else down) + longer
        else:
            rest = r[position : position + length]
            for lane in range(length):
                up = above[lane]
                down = below[lane]
                rest[lane] -= sides[lane] * ((up if sides[lane] > 0 else down) + longer)
        position += length
    if limited:
        for lane in range(count):
            room_p = rooms_p[lane]
            room_n = rooms_n[lane]
            step = taken[lane]
            room = room_n if side[lane] > 0 else room_p
            taken[lane] = room if room < step else step
        for lane in range(count):
            step = taken[lane]
            rooms_n[lane] -= step if side[lane] > 0 else np.float32(0.0)
        for lane in range(count):
            step = taken[lane]
            rooms_p[lane] -= np.float32(0.0) if side[lane] > 0 else step
        for lane in range(count):
            r[lane] -= side[lane] * taken[lane]


@njit(cache=True, nogil=True, error_model="numpy")
def read_chunks(
    values: Line,
    steps: Line,
    offset: Line,
    jitter: Line,
    room_positive: Line,
    room_negative: Line,
    streams: npt.NDArray[np.int64],
    factors: tuple[np.float32, ...],
    ramp: bool,
    out: Line,
    accumulate: bool,
    first: int,
    last: int,
) -> None:
    """Digitize chunks `first` to `last - 1`; the arguments are those of `kernels.macro.read_bit_lines`, flat."""
    gain, half, sampling, comparator, scale = factors
    columns = steps.shape[2]
    count_steps = steps.shape[1]
    limited = room_positive.size > 0
    r = np.empty(CHUNK, np.float32)
    noise = np.zeros(CHUNK, np.float32)
    code = np.empty(CHUNK, np.float32)
    side = np.empty(CHUNK, np.float32)
    taken = np.empty(CHUNK, np.float32)
    rooms_p = np.empty(CHUNK, np.float32)
    rooms_n = np.empty(CHUNK, np.float32)
    lowest = np.float32(1.0 - 2.0**count_steps)
    if ramp:
        lowest = np.float32(-count_steps)
    for chunk in range(first, last):
        start = chunk * CHUNK
        count = min(CHUNK, values.size - start)
        x = values[start : start + count]
        for lane in range(count):
            r[lane] = x[lane] * gain
        if offset.size:
            position = 0
            while position < count:
                column = (start + position) % columns
                length = min(columns - column, count - position)
                part = r[position : position + length]
                shift = offset[column : column + length]
                for lane in range(length):
                    part[lane] += shift[lane]
                position += length
        for lane in range(count):
            r[lane] += half
        if sampling > 0:
            fill_normal_chunk(streams[0, 0], streams[0, 1], streams[0, 2], streams[0, 3], chunk, noise)
            for lane in range(count):
                r[lane] += noise[lane] * sampling
        if limited:
            rooms_p[:count] = room_positive[start : start + count]
            rooms_n[:count] = room_negative[start : start + count]
        if ramp:
            _ramp_chunk(r, noise, code, side, steps, jitter, rooms_p, rooms_n, limited, streams, comparator, chunk, start, count)
        else:
            code[:count] = np.float32(0.0)
            for k in range(count_steps + 1):
                weight = np.float32(2.0 ** (count_steps - 1 - k))
                if comparator > 0:
                    fill_normal_chunk(streams[1 + k, 0], streams[1 + k, 1], streams[1 + k, 2], streams[1 + k, 3], chunk, noise)
                    for lane in range(count):
                        side[lane] = np.float32(1.0) if r[lane] + noise[lane] * comparator >= 0 else np.float32(-1.0)
                        code[lane] += weight * side[lane]
                else:
                    for lane in range(count):
                        side[lane] = np.float32(1.0) if r[lane] >= 0 else np.float32(-1.0)
                        code[lane] += weight * side[lane]
                if k < count_steps:
                    _discharge(r, side, taken, steps, jitter, rooms_p, rooms_n, limited, k, start, count)
        if half > 0:
            for lane in range(count):
                shifted = code[lane] - half
                code[lane] = lowest if shifted < lowest else shifted
        result = out[start : start + count]
        if accumulate:
            for lane in range(count):
                result[lane] += code[lane] * scale
        else:
            for lane in range(count):
                result[lane] = code[lane] * scale


@njit(cache=True, nogil=True, error_model="numpy")
def _ramp_chunk(
    r: Line,
    noise: Line,
    code: Line,
    side: Line,
    steps: Line,
    jitter: Line,
    rooms_p: Line,
    rooms_n: Line,
    limited: bool,
    streams: npt.NDArray[np.int64],
    comparator: np.float32,
    chunk: int,
    start: int,
    count: int,
) -> None:
    """Discharge each conversion's higher line step by step until the comparator flips; `code` is the result."""
    count_steps = steps.shape[1]
    active = np.ones(count, np.uint8)
    unused = np.zeros(count, np.float32)
    remaining = count
    for k in range(count_steps + 1):
        noisy = False
        if comparator > 0:
            for lane in range(count):
                if active[lane] != 0 and abs(r[lane]) <= _LARGEST_NORMAL * comparator:
                    noisy = True
                    break
        if noisy:
            fill_normal_chunk(streams[1 + k, 0], streams[1 + k, 1], streams[1 + k, 2], streams[1 + k, 3], chunk, noise)
        for lane in range(count):
            above = r[lane] >= 0
            if noisy:
                above = r[lane] + noise[lane] * comparator >= 0
            if k == 0:
                side[lane] = np.float32(1.0 if above else -1.0)
                code[lane] = np.float32(count_steps + 0.5)
            elif active[lane] != 0 and above != (side[lane] > 0):
                code[lane] = np.float32(k - 0.5)
                active[lane] = 0
                remaining -= 1
        if remaining == 0 or k == count_steps:
            break
        _discharge(r, side, unused, steps, jitter, rooms_p, rooms_n, limited, k, start, count)
    for lane in range(count):
        code[lane] *= side[lane]


@njit(cache=True, nogil=True, parallel=True)
def read_parallel(
    values: Line,
    steps: Line,
    offset: Line,
    jitter: Line,
    room_positive: Line,
    room_negative: Line,
    streams: npt.NDArray[np.int64],
    factors: tuple[np.float32, ...],
    ramp: bool,
    out: Line,
    accumulate: bool,
    chunks: int,
    workers: int,
) -> None:
    """Do `read_chunks` over all `chunks` with one contiguous range for each of `workers` threads."""
    for worker in prange(workers):
        read_chunks(
            values, steps, offset, jitter, room_positive, room_negative, streams, factors, ramp, out,
            accumulate, worker * chunks // workers, (worker + 1) * chunks // workers,
        )  # fmt: skip


@njit(cache=True, nogil=True, error_model="numpy")
def round_chunks(
    values: Line,
    word0: int,
    word1: int,
    read_low: int,
    read_high: int,
    gain: float,
    unit: float,
    half: float,
    sampling: float,
    low: float,
    high: float,
    scale: np.float32,
    out: Line,
    accumulate: bool,
    first: int,
    last: int,
) -> None:
    """Round chunks `first` to `last - 1` as `kernels.macro.round_bit_lines` says."""
    noise = np.empty(CHUNK, np.float32)
    code = np.empty(CHUNK, np.float32)
    for chunk in range(first, last):
        start = chunk * CHUNK
        count = min(CHUNK, values.size - start)
        x = values[start : start + count]
        result = out[start : start + count]
        if sampling > 0:
            fill_normal_chunk(word0, word1, read_low, read_high, chunk, noise)
            for lane in range(count):
                r = np.floor(np.float64(x[lane]) * gain / unit + half + np.float64(noise[lane]) * sampling) + (0.5 - half)
                code[lane] = np.float32(min(max(r, low), high))
        else:
            for lane in range(count):
                r = np.floor(np.float64(x[lane]) * gain / unit + half) + (0.5 - half)
                code[lane] = np.float32(min(max(r, low), high))
        if accumulate:
            for lane in range(count):
                result[lane] += code[lane] * scale
        else:
            for lane in range(count):
                result[lane] = code[lane] * scale
