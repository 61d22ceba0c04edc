"""The loops of `kernels.event_synapses`: only inputs that spiked are looked up, and their rows of weights added in a fixed order."""

from typing import Any

import numpy as np
from numba import njit

from kernels.lanes import LANES, TOGETHER, any_above, append, fire, list_spikes, sum_rows

Array = Any
"""A NumPy array; spikes are uint8, weights float32 or integers, sums float32 or int32."""


@njit(cache=True, nogil=True, error_model="numpy")
def add_spiking_rows(spikes: Array, weights: Array, out: Array) -> None:
    """Add to each row of `out` (vectors, outputs) the rows of `weights` (inputs, outputs) whose input spiked, in ascending order.

    A value above 1 counts that many spikes. Four rows at a time, one after the other: a sum is loaded and stored once for four weights.
    """
    vectors, inputs = spikes.shape
    outputs = weights.shape[1]
    places = np.empty(inputs, np.int64)
    kind = out.dtype.type
    for n in range(vectors):
        found = 0
        largest = 0
        for j in range(inputs):
            places[found] = j
            value = spikes[n, j]
            largest = max(largest, value)
            found += 1 if value else 0
        sums = out[n]
        if largest > 1:
            for k in range(found):
                times = kind(spikes[n, places[k]])
                row = weights[places[k]]
                for i in range(outputs):
                    sums[i] = sums[i] + row[i] * times
            continue
        whole = found - found % 4
        for k in range(0, whole, 4):
            row0, row1 = weights[places[k]], weights[places[k + 1]]
            row2, row3 = weights[places[k + 2]], weights[places[k + 3]]
            for i in range(outputs):
                sums[i] = (((sums[i] + row0[i]) + row1[i]) + row2[i]) + row3[i]
        for k in range(whole, found):
            row = weights[places[k]]
            for i in range(outputs):
                sums[i] = sums[i] + row[i]


@njit(cache=True, nogil=True, error_model="numpy")
def add_counts(current: Array, counts: Array, worth: Array, out: Array) -> None:
    """Write ``current + counts worth``, all flat; `worth` is one number of the type of `current`."""
    each = worth[0]
    kind = out.dtype.type
    for i in range(current.shape[0]):
        out[i] = current[i] + kind(counts[i]) * each


@njit(cache=True, nogil=True, error_model="numpy")
def _list_image(spikes: Array, begin: int, channels: int, apart: int, firsts: Array, places: Array, counts: Array) -> bool:
    """List the spikes of an image, row by row, each as its place in its row times `apart`; return whether a count is above 1.

    ``firsts[y, x]`` becomes the number in the list of the first spike of a position; `counts` are written only where one is above 1.
    `spikes` is flat and the image begins at `begin`.
    """
    height, width = firsts.shape[0], firsts.shape[1] - 1
    whole = channels - channels % LANES
    found = 0
    several = False
    for y in range(height):
        for x in range(width):
            firsts[y, x] = found
            at = begin + (y * width + x) * channels
            first = x * channels * apart
            for c in range(0, whole, LANES):
                found = list_spikes(spikes, at + c, places, found, first + c * apart, apart)
                several |= any_above(spikes, at + c, 1)
            for c in range(whole, channels):
                places[found] = first + c * apart
                found += 1 if spikes[at + c] else 0
                several |= spikes[at + c] > 1
        firsts[y, width] = found
    if several:
        found = 0
        for i in range(begin, begin + height * width * channels):
            counts[found] = spikes[i]
            found += 1 if spikes[i] else 0
    return several


@njit(cache=True, nogil=True, error_model="numpy")
def _lists(height: int, width: int, channels: int, tall: int, wide: int) -> tuple[Array, Array, Array, Array, Array]:
    """Return memory for the spikes of an image and of a window: where positions begin, places and counts; places and counts."""
    many, seen = height * width * channels + 2 * LANES, tall * wide * channels + 2 * LANES
    image = np.empty((height, width + 1), np.int64), np.empty(many, np.int32), np.empty(many, np.int32)
    return (*image, np.empty(seen, np.int32), np.zeros(seen, np.int32))


@njit(cache=True, nogil=True, error_model="numpy")
def _gather_row(y: int, several: bool, lists: Any, weights: Array, start: Array, sums: Array, begin: int, shape: Any, window: Any) -> None:
    """Write the sums of one row of outputs of an image whose spikes are listed, to `sums` from `begin` on.

    `shape` is (height, width, channels, columns, outputs), `window` the size, stride and padding of the kernel, each a pair.
    """
    height, width, channels, columns, outputs = shape
    (tall, wide), (down, across), (above, before) = window
    firsts, places, counts, near, times = lists
    apart = weights.shape[1]
    row, nothing, blocks = weights.reshape(-1), (weights.shape[0] - 1) * apart, apart // LANES
    bounds, span = firsts.reshape(-1), width + 1
    top = y * down - above
    low, high = max(0, -top), min(tall, height - top)
    for x in range(columns):
        left = x * across - before
        first, last = min(max(left, 0), width), max(min(left + wide, width), 0)
        found = 0
        if first < last:
            for ky in range(low, high):
                line, plus = (top + ky) * span, (ky * wide - left) * channels * apart
                if several:
                    append(times, found, counts, bounds, line + first, line + last, 0)
                found = append(near, found, places, bounds, line + first, line + last, plus)
        for k in range(TOGETHER):
            near[found + k] = nothing
        at = begin + x * outputs
        if several:
            for o in range(0, apart, LANES):
                sum_rows(sums, at + o, start, o, row, near, times, found, 1, 1)
            continue
        o = 0
        for _block in range(blocks // 4):
            sum_rows(sums, at + o, start, o, row, near, times, found, 4, 0)
            o += 4 * LANES
        if blocks & 2:
            sum_rows(sums, at + o, start, o, row, near, times, found, 2, 0)
            o += 2 * LANES
        if blocks & 1:
            sum_rows(sums, at + o, start, o, row, near, times, found, 1, 0)


@njit(cache=True, nogil=True, error_model="numpy")
def gather(spikes: Array, weights: Array, start: Array, sums: Array, shape: Any, window: Any) -> None:
    """Convolve output by output: no dilation, one group, channels last.

    `spikes` (vectors, height, width, channels); `weights` (kernel height * kernel width * channels + 1, outputs), the last row of
    negative zeros, to which adding changes nothing; `start` (outputs,), where sums begin; both with outputs filled up to a multiple of
    `LANES`. `sums` is flat, for outputs of `shape` (out height, out width, outputs) of each vector and `LANES` numbers after them. `window`
    is the size, stride and padding of the kernel, each a pair.

    What a row of the kernel looks at is one piece of the list of spikes, so a window's spikes are one piece for each row of the kernel;
    their rows of weights are added in registers, and no sum waits for the one stored before it.
    """
    vectors, height, width, channels = spikes.shape
    rows, columns, outputs = shape
    lists = _lists(height, width, channels, window[0][0], window[0][1])
    flat = spikes.reshape(-1)
    for n in range(vectors):
        several = _list_image(flat, n * height * width * channels, channels, weights.shape[1], lists[0], lists[1], lists[2])
        for y in range(rows):
            begin = (n * rows + y) * columns * outputs
            _gather_row(y, several, lists, weights, start, sums, begin, (height, width, channels, columns, outputs), window)


@njit(cache=True, nogil=True, error_model="numpy")
def gather_and_fire(
    spikes: Array, weights: Array, start: Array, added: Array, counts: Array, worth: Array, neurons: Any, out: Array, window: Any
) -> None:
    """Convolve as `gather` does and fire the neurons that the sums reach, row by row: no current is ever stored.

    `spikes` (steps, batch, height, width, channels) and `out` (steps, batch, out height, out width, outputs); `added` and `counts` of the
    shape of `out`, or without elements, are a current and spikes of `worth` that reach the same neurons. `neurons` are mark, taken, each
    for the neurons of a row, membranes before the first step (out height, neurons of a row), decay and keep: see `fire_blocks`.
    """
    steps, batch, height, width, channels = spikes.shape
    rows, columns, outputs = out.shape[2:]
    mark, taken, initial, decay, keep = neurons
    lists = _lists(height, width, channels, window[0][0], window[0][1])
    flat, row = spikes.reshape(-1), columns * outputs
    fired, more, other = out.reshape(-1, row), added.reshape(-1, row), counts.reshape(-1, row)
    sums, each = np.empty(row + LANES, weights.dtype), worth[0]
    whole = row - row % LANES
    one, zero = out.dtype.type(1), out.dtype.type(0)
    for b in range(batch):
        membranes = initial.copy()
        for t in range(steps):
            n = t * batch + b
            several = _list_image(flat, n * height * width * channels, channels, weights.shape[1], lists[0], lists[1], lists[2])
            for y in range(rows):
                _gather_row(y, several, lists, weights, start, sums, 0, (height, width, channels, columns, outputs), window)
                place = n * rows + y
                if other.shape[0]:
                    line = other[place]
                    for i in range(row):
                        sums[i] = sums[i] + sums.dtype.type(line[i]) * each
                if more.shape[0]:
                    current = more[place]
                    for i in range(row):
                        sums[i] = sums[i] + current[i]
                membrane, target = membranes[y], fired[place]
                for i in range(0, whole, LANES):
                    fire(sums, target, i, 0, membrane, mark, taken, i, decay, keep, 1, 0)
                for i in range(whole, row):
                    v = membrane[i] * decay + sums[i]
                    target[i] = one if v >= mark[i] else zero
                    membrane[i] = v * keep - taken[i] if v >= mark[i] else v


@njit(cache=True, nogil=True, error_model="numpy")
def scatter(spikes: Array, weights: Array, start: Array, out: Array, stride: Array, padding: Array, dilation: Array, groups: int) -> None:
    """Convolve by scattering, whatever the stride, padding, dilation and groups; channels last.

    `weights` (kernel height, kernel width, channels, outputs of the channel's group), as they are; `spikes` and `start` as for `gather`;
    `out` (vectors, out height, out width, outputs).
    """
    vectors, height, width, channels = spikes.shape
    tall, wide, share = weights.shape[0], weights.shape[1], weights.shape[3]
    rows, columns = out.shape[1], out.shape[2]
    each = channels // groups
    kind = out.dtype.type
    for n in range(vectors):
        for y in range(rows):
            for x in range(columns):
                for o in range(start.shape[0]):
                    out[n, y, x, o] = start[o]
        for y in range(height):
            for x in range(width):
                for c in range(channels):
                    value = spikes[n, y, x, c]
                    if value == 0:
                        continue
                    times = kind(value)
                    first = c // each * share
                    for ky in range(tall):
                        top = y + padding[0] - ky * dilation[0]
                        if top < 0 or top % stride[0] or top // stride[0] >= rows:
                            continue
                        for kx in range(wide):
                            left = x + padding[1] - kx * dilation[1]
                            if left < 0 or left % stride[1] or left // stride[1] >= columns:
                                continue
                            row = weights[ky, kx, c]
                            target = out[n, top // stride[0], left // stride[1], first : first + share]
                            for i in range(share):
                                target[i] = target[i] + row[i] * times
