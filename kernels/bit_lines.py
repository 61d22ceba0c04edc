"""The loops of `kernels.macro`: two bit lines, a chunk of 1024 conversions at a time."""

from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit, prange

from kernels.comparator import PLANE_CHUNKS, SHARED_NEAR, error_probability
from kernels.philox import CHUNK, fill_normal_chunk
from kernels.search_levels import (
    LEVELS,
    finish_search,
    search_four,
    search_four_noisy,
    search_one,
    search_one_noisy,
    search_undecided,
)

Line = npt.NDArray[np.float32]
"""One number for each conversion."""

_HALF: Final = np.float32(0.5)


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
def _compare(
    r: Line,
    side: Line,
    planes: npt.NDArray[np.float32],
    rank: npt.NDArray[np.int32],
    ready: int,
    sigma: np.float32,
    near: np.float32,
    stream: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
    lanes: npt.NDArray[np.int64],
    levels: npt.NDArray[np.float64],
    pair: int,
    chunk: int,
    count: int,
) -> int:
    """Write the sign of each difference as the comparator sees it to `side`, 1 or -1; a difference of zero is positive.

    A conversion's j-th comparison within `near` takes its draw from plane j, which is drawn when the first conversion needs it; `rank`
    counts them. Beyond, the candidates of comparison `pair` flip with the rest of their probability. Returns how many planes are drawn.
    """
    highest = np.int32(0)
    for lane in range(count):
        highest = max(highest, rank[lane] if abs(r[lane]) <= near else np.int32(0))
    while ready <= highest:
        fill_normal_chunk(stream[0], stream[1], stream[2], stream[3], ready * PLANE_CHUNKS + chunk, planes[ready])
        ready += 1
    first = planes[0]
    second = planes[1]
    if highest <= 1:
        for lane in range(count):
            value = r[lane]
            noise = second[lane] if rank[lane] != 0 else first[lane]
            decided = value + noise * sigma if abs(value) <= near else value
            side[lane] = np.float32(1.0) if decided >= 0 else np.float32(-1.0)
    else:
        for lane in range(count):
            value = r[lane]
            decided = value + planes[rank[lane], lane] * sigma if abs(value) <= near else value
            side[lane] = np.float32(1.0) if decided >= 0 else np.float32(-1.0)
    for lane in range(count):
        rank[lane] += np.int32(1) if abs(r[lane]) <= near else np.int32(0)
    for place in range(starts[pair], starts[pair + 1]):
        lane = lanes[place]
        if lane < count and abs(r[lane]) > near and error_probability(np.float64(r[lane]) / np.float64(sigma)) > levels[place]:
            side[lane] = -side[lane]
    return ready


@njit(cache=True, nogil=True, error_model="numpy")
def _compare_each(
    r: Line, side: Line, noise: Line, sigma: np.float32, stream: npt.NDArray[np.int64], comparison: int, chunk: int, count: int
) -> None:
    """Write the sign of each difference to `side`, 1 or -1, with a draw for every one: where many comparisons are close."""
    fill_normal_chunk(stream[0], stream[1], stream[2], stream[3], comparison * PLANE_CHUNKS + chunk, noise)
    for lane in range(count):
        side[lane] = np.float32(1.0) if r[lane] + noise[lane] * sigma >= 0 else np.float32(-1.0)


@njit(cache=True, nogil=True, error_model="numpy")
def _search_chunk(
    r: Line,
    shift: Line,
    close_sum: Line,
    close_count: npt.NDArray[np.int32],
    code: Line,
    origin: Line,
    flat: Line,
    columns: int,
    count_steps: int,
    undecided: npt.NDArray[np.uint8],
    notes: npt.NDArray[np.int32],
    sigma: np.float32,
    near: np.float32,
    stream: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
    lanes: npt.NDArray[np.int64],
    levels: npt.NDArray[np.float64],
    chunk: int,
    count: int,
) -> None:
    """Write the code of a binary search whose steps are the same for all vectors, a few levels a pass.

    A comparator's noise is that of `kernels.search_levels`; what stands between `r` and `code`, `origin`, `undecided`, `notes` is scratch.
    """
    noisy = sigma > 0
    for lane in range(count):
        code[lane] = np.float32(0.0)
    if noisy:
        fill_normal_chunk(stream[0], stream[1], stream[2], stream[3], chunk, shift)
        for lane in range(count):
            shift[lane] *= sigma
            origin[lane] = r[lane]
            r[lane] += shift[lane]
            close_sum[lane] = np.float32(0.0)
            close_count[lane] = np.int32(0)
    position = 0
    while position < count:
        column = (chunk * CHUNK + position) % columns
        length = min(columns - column, count - position)
        last = position + length
        values, codes, shifts = r[position:last], code[position:last], shift[position:last]
        sums, counts = close_sum[position:last], close_count[position:last]
        k = 0
        while k < count_steps:
            weight = np.float32(2.0 ** (count_steps - 1 - k))
            above = flat[k * columns + column :]
            below = flat[(count_steps + k) * columns + column :]
            if count_steps - k >= LEVELS:
                if noisy:
                    search_four_noisy(values, codes, shifts, sums, counts, above, below, columns, weight, near)
                else:
                    search_four(values, codes, shifts, sums, counts, above, below, columns, weight, near)
                k += LEVELS
            else:
                if noisy:
                    search_one_noisy(values, codes, shifts, sums, counts, above, below, columns, weight, near)
                else:
                    search_one(values, codes, shifts, sums, counts, above, below, columns, weight, near)
                k += 1
        position = last
    if noisy:
        finish_search(r[:count], code[:count], shift[:count], close_sum[:count], close_count[:count], near, undecided)
        undecided[count:] = np.uint8(0)
        pair = chunk * (count_steps + 1)
        for place in range(starts[pair], starts[pair + count_steps + 1]):
            undecided[lanes[place]] = np.uint8(1 if lanes[place] < count else 0)
        search_undecided(
            origin, code, shift, undecided, r, close_sum, close_count, notes, flat, columns, count_steps, sigma, near, stream, chunk,
            starts, lanes, levels,
        )  # fmt: skip
    else:
        for lane in range(count):
            code[lane] += _HALF if r[lane] >= 0 else -_HALF


@njit(cache=True, nogil=True, error_model="numpy")
def read_chunks(
    values: Line,
    steps: Line,
    offset: Line,
    jitter: Line,
    room_positive: Line,
    room_negative: Line,
    streams: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
    lanes: npt.NDArray[np.int64],
    levels: npt.NDArray[np.float64],
    factors: tuple[np.float32, ...],
    ramp: bool,
    out: Line,
    accumulate: bool,
    first: int,
    last: int,
) -> None:
    """Digitize chunks `first` to `last - 1`; the arguments are those of `kernels.macro.read_bit_lines`, flat."""
    gain, half, sampling, comparator, near, scale = factors
    columns = steps.shape[2]
    count_steps = steps.shape[1]
    limited = room_positive.size > 0
    r = np.empty(CHUNK, np.float32)
    noise = np.zeros(CHUNK, np.float32)
    flat = steps.reshape(-1)
    shared = not (ramp or limited or jitter.size) and (comparator == 0 or near <= SHARED_NEAR)
    planes = np.zeros((count_steps + 1, CHUNK) if ramp and comparator > 0 else (2, CHUNK), np.float32)
    undecided = np.zeros(CHUNK, np.uint8)
    notes = np.empty((5, CHUNK), np.int32)
    rank = np.zeros(CHUNK, np.int32)
    code = np.empty(CHUNK, np.float32)
    side = np.empty(CHUNK, np.float32)
    start_side = np.empty(CHUNK, np.float32)
    taken = np.empty(CHUNK, np.float32)
    origin = np.empty(CHUNK, np.float32)
    rooms_p = np.empty(CHUNK, np.float32)
    rooms_n = np.empty(CHUNK, np.float32)
    lowest = np.float32(1.0 - 2.0**count_steps)
    if ramp:
        lowest = np.float32(-count_steps)
    for chunk in range(first, last):
        start = chunk * CHUNK
        count = min(CHUNK, values.size - start)
        x = values[start : start + count]
        if offset.size == 0:
            for lane in range(count):
                r[lane] = x[lane] * gain + half
        else:
            for lane in range(count):
                r[lane] = x[lane] * gain
            position = 0
            while position < count:
                column = (start + position) % columns
                length = min(columns - column, count - position)
                part = r[position : position + length]
                shift = offset[column : column + length]
                for lane in range(length):
                    part[lane] = (part[lane] + shift[lane]) + half
                position += length
        if sampling > 0:
            fill_normal_chunk(streams[0, 0], streams[0, 1], streams[0, 2], streams[0, 3], chunk, noise)
            for lane in range(count):
                r[lane] += noise[lane] * sampling
        if limited:
            rooms_p[:count] = room_positive[start : start + count]
            rooms_n[:count] = room_negative[start : start + count]
        if shared:
            _search_chunk(
                r, planes[0], planes[1], rank, code, origin, flat, columns, count_steps, undecided, notes, comparator, near, streams[1],
                starts, lanes, levels, chunk, count,
            )  # fmt: skip
        else:
            rank[:count] = np.int32(0)
        remaining = count
        ready = 0
        for k in range(0 if shared else count_steps + 1):
            if comparator > 0 and not ramp:
                _compare_each(r, side, noise, comparator, streams[1], k, chunk, count)
            elif comparator > 0:
                pair = chunk * (count_steps + 1) + k
                ready = _compare(r, side, planes, rank, ready, comparator, near, streams[1], starts, lanes, levels, pair, chunk, count)
            else:
                for lane in range(count):
                    side[lane] = np.float32(1.0) if r[lane] >= 0 else np.float32(-1.0)
            if ramp:
                if k == 0:
                    for lane in range(count):
                        start_side[lane] = side[lane]
                        code[lane] = np.float32(0.0)
                else:
                    for lane in range(count):
                        if code[lane] == 0 and side[lane] != start_side[lane]:
                            code[lane] = start_side[lane] * np.float32(k - 0.5)
                            remaining -= 1
                if remaining == 0:
                    break
            else:
                weight = np.float32(2.0 ** (count_steps - 1 - k))
                if k == 0:
                    for lane in range(count):
                        code[lane] = weight * side[lane]
                else:
                    for lane in range(count):
                        code[lane] += weight * side[lane]
            if k < count_steps:
                _discharge(r, start_side if ramp else side, taken, steps, jitter, rooms_p, rooms_n, limited, k, start, count)
        if ramp:
            for lane in range(count):
                if code[lane] == 0:
                    code[lane] = start_side[lane] * np.float32(count_steps + 0.5)
        _deliver(code, half, lowest, scale, out[start : start + count], accumulate)


@njit(cache=True, nogil=True, error_model="numpy")
def _deliver(code: Line, half: np.float32, lowest: np.float32, scale: np.float32, result: Line, accumulate: bool) -> None:
    """Write the codes, or add them; those of a mid-tread readout are half a step lower, but not below the lowest."""
    if half == 0:
        lowest = np.float32(-np.inf)
    if accumulate:
        for lane in range(result.size):
            shifted = code[lane] - half
            result[lane] += (lowest if shifted < lowest else shifted) * scale
    else:
        for lane in range(result.size):
            shifted = code[lane] - half
            result[lane] = (lowest if shifted < lowest else shifted) * scale


@njit(cache=True, nogil=True, parallel=True)
def read_parallel(
    values: Line,
    steps: Line,
    offset: Line,
    jitter: Line,
    room_positive: Line,
    room_negative: Line,
    streams: npt.NDArray[np.int64],
    starts: npt.NDArray[np.int64],
    lanes: npt.NDArray[np.int64],
    levels: npt.NDArray[np.float64],
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
            values, steps, offset, jitter, room_positive, room_negative, streams, starts, lanes, levels, factors, ramp, out,
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
        if sampling > 0:
            fill_normal_chunk(word0, word1, read_low, read_high, chunk, noise)
            for lane in range(count):
                r = np.floor(np.float64(x[lane]) * gain / unit + half + np.float64(noise[lane]) * sampling) + (0.5 - half)
                code[lane] = np.float32(min(max(r, low), high))
        else:
            for lane in range(count):
                r = np.floor(np.float64(x[lane]) * gain / unit + half) + (0.5 - half)
                code[lane] = np.float32(min(max(r, low), high))
        _deliver(code, np.float32(0.0), np.float32(0.0), scale, out[start : start + count], accumulate)
