"""The loops of `kernels.event_synapses`: only inputs that spiked are looked up, and their rows of weights added in a fixed order."""

from typing import Any, Final

import numpy as np
from numba import njit

from kernels.lanes import LANES, WORD, add_marked_rows, fire, mark

Array = Any
"""A NumPy array; spikes are uint8, weights float32 or integers, sums float32 or int32."""

WIDEST: Final = 12
"""Vectors of sums that are in registers together, at most."""


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
def _mark_image(spikes: Array, begin: int, channels: int, bits: Array, pixels: Array) -> bool:
    """Write which channels of each pixel of an image spiked to `pixels` (words of a pixel, pixels); return whether a count is above 1.

    `spikes` is flat and the image begins at `begin`; `bits` is memory for those of the image, one after the other, and a word more.
    """
    one, last = np.uint64(1), np.uint64(WORD - 1)
    many, each = pixels.shape[1] * channels, pixels.shape[0]
    words = many // WORD
    above = np.uint64(0)
    for k in range(words):
        bits[k] = mark(spikes, begin + k * WORD, 0)
        above |= mark(spikes, begin + k * WORD, 1)
    bits[words] = np.uint64(0)
    bits[words + 1] = np.uint64(0)
    for k in range(many - words * WORD):
        value = spikes[begin + words * WORD + k]
        if value:
            bits[words] |= one << np.uint64(k)
        if value > 1:
            above = one
    for e in range(each):
        size = min(WORD, channels - e * WORD)
        mask = ~np.uint64(0) >> np.uint64(WORD - size)
        line = pixels[e]
        at = e * WORD
        for p in range(pixels.shape[1]):
            k, shift = at >> 6, np.uint64(at & (WORD - 1))  # a division takes longer than all the rest
            # Of two neighboring words; a shift by a whole word is two shifts.
            line[p] = ((bits[k] >> shift) | ((bits[k + 1] << one) << (last - shift))) & mask
            at += channels
    return bool(above != np.uint64(0))


@njit(cache=True, nogil=True, error_model="numpy")
def _memory(height: int, width: int, channels: int, tall: int) -> tuple[Array, Array, Array]:
    """Return memory for the bits of an image, for the words of its pixels, and for those of what a row of outputs looks at."""
    each = -(-channels // WORD)
    bits = np.empty(height * width * channels // WORD + 2, np.uint64)
    return bits, np.empty((each, height * width), np.uint64), np.empty((tall * each, width), np.uint64)


@njit(cache=True, nogil=True, error_model="numpy")
def _taps(channels: int, filled: int, window: Any) -> tuple[Array, Array]:
    """Return, for each place of an input column within a stride, how many outputs of a row it reaches, and where its weights begin."""
    (tall, wide), (_, across), _ = window
    reached, tables = np.empty(across, np.int64), np.empty(across, np.int64)
    begin = 0
    for r in range(across):
        reached[r] = max(0, (wide - r + across - 1) // across)
        tables[r] = begin
        begin += tall * channels * reached[r] * filled
    return reached, tables


@njit(cache=True, nogil=True, error_model="numpy")
def _add_row(
    top: int, several: bool, pixels: Array, words: Array, taps: Any, weights: Array, sums: Array, spikes: Array, begin: int, shape: Any,
    window: Any,
) -> None:  # fmt: skip
    """Add to the sums of a row of outputs what the input rows from `top` on cause, column after column.

    `shape` is (height, width, channels, filled outputs) of an image that begins at `begin` and whose `pixels` are marked; `taps` are from
    `_taps`.
    """
    height, width, channels, filled = shape
    (tall, _), (_, across), (_, before) = window
    reached, tables = taps
    each = pixels.shape[0]
    # Pixels one above the other share a word where their channels fit into it; where counts are looked up, each has its own.
    group = 1 if several or channels > WORD else WORD // channels
    groups = 0
    for first in range(0, tall, group):
        for e in range(each):
            line = words[groups * each + e]
            for x in range(width):
                line[x] = np.uint64(0)
            for ky in range(max(first, -top), min(first + group, tall, height - top)):
                shift, row = np.uint64((ky - first) * channels), (top + ky) * width
                seen = pixels[e, row : row + width]
                for x in range(width):
                    line[x] = line[x] | (seen[x] << shift)
        groups += 1
    nothing = weights.shape[0] - WIDEST * LANES
    r, at = before % across, (before // across) * filled
    for x in range(width):
        apart = reached[r] * filled
        place = at + reached[0] * filled - apart
        for g in range(groups):
            for e in range(each):
                word = words[g * each + e, x]
                if word == np.uint64(0):
                    continue
                begins = tables[r] + (g * group * channels + e * WORD) * apart
                if several:
                    spot = begin + ((top + g) * width + x) * channels + e * WORD
                    for o in range(0, apart, LANES):
                        add_marked_rows(sums, place + o, weights, begins + o, apart, nothing, word, spikes, spot, 1, 1)
                    continue
                o = 0
                while apart - o >= 12 * LANES:
                    add_marked_rows(sums, place + o, weights, begins + o, apart, nothing, word, spikes, 0, 12, 0)
                    o += 12 * LANES
                if apart - o >= 6 * LANES:
                    add_marked_rows(sums, place + o, weights, begins + o, apart, nothing, word, spikes, 0, 6, 0)
                    o += 6 * LANES
                if apart - o >= 3 * LANES:
                    add_marked_rows(sums, place + o, weights, begins + o, apart, nothing, word, spikes, 0, 3, 0)
                    o += 3 * LANES
                if apart - o >= 2 * LANES:
                    add_marked_rows(sums, place + o, weights, begins + o, apart, nothing, word, spikes, 0, 2, 0)
                    o += 2 * LANES
                if apart - o >= LANES:
                    add_marked_rows(sums, place + o, weights, begins + o, apart, nothing, word, spikes, 0, 1, 0)
        r += 1
        if r == across:
            r = 0
            at += filled


@njit(cache=True, nogil=True, error_model="numpy")
def gather(spikes: Array, weights: Array, start: Array, sums: Array, out: Array, window: Any) -> None:
    """Convolve row by row of the outputs: no dilation, one group, channels last.

    `spikes` (vectors, height, width, channels) and `out` (vectors, out height, out width, outputs). `weights` are flat, as
    `event_synapses.EventKernel` lays them out, and end with `WIDEST` vectors of negative zeros, to which adding changes nothing. `start` is
    what the sums of a row begin with, outputs filled up to a multiple of `LANES`, with room at both ends for outputs beyond the image;
    `sums` is memory for as many. `window` is the size, stride and padding of the kernel, each a pair.

    A spike reaches outputs side by side, whose sums and weights lie side by side: one piece of a row of weights is added for it. Which
    inputs of a column of the kernel's height spiked are the bits of a word or a few.
    """
    vectors, height, width, channels = spikes.shape
    rows, outputs = out.shape[1], out.shape[3]
    tall, down, above = window[0][0], window[1][0], window[2][0]
    filled = -(-outputs // LANES) * LANES
    bits, pixels, words = _memory(height, width, channels, tall)
    taps = _taps(channels, filled, window)
    flat, left = spikes.reshape(-1), (taps[0][0] - 1) * filled
    for n in range(vectors):
        begin = n * height * width * channels
        several = _mark_image(flat, begin, channels, bits, pixels)
        for y in range(rows):
            for i in range(sums.shape[0]):  # an assignment of arrays takes several times as long
                sums[i] = start[i]
            shape = height, width, channels, filled
            _add_row(y * down - above, several, pixels, words, taps, weights, sums, flat, begin, shape, window)
            _take(sums, left, filled, out[n, y].reshape(-1), outputs)


@njit(cache=True, nogil=True, error_model="numpy")
def _take(sums: Array, at: int, filled: int, out: Array, outputs: int) -> None:
    """Write the sums of a row, which begin at `at` and have `filled` numbers for the outputs of a position."""
    if filled == outputs:
        for i in range(out.shape[0]):
            out[i] = sums[at + i]
        return
    for x in range(out.shape[0] // outputs):
        for o in range(outputs):
            out[x * outputs + o] = sums[at + x * filled + o]


@njit(cache=True, nogil=True, error_model="numpy")
def gather_and_fire(
    spikes: Array, weights: Array, start: Array, memory: Any, added: Array, counts: Array, worth: Array, neurons: Any, out: Array,
    window: Any,
) -> None:  # fmt: skip
    """Convolve as `gather` does and fire the neurons that the sums reach, row by row: no current is ever stored.

    `spikes` (steps, batch, height, width, channels) and `out` (steps, batch, out height, out width, outputs); `added` and `counts` of the
    shape of `out`, or without elements, are a current and spikes of `worth` that reach the same neurons. `neurons` are mark, taken, each
    for the neurons of a row, membranes before the first step (out height, neurons of a row), decay and keep: see `fire_blocks`. `memory` is
    for the sums of a row, as `start`, and for the membranes of an image.
    """
    steps, batch, height, width, channels = spikes.shape
    rows, columns, outputs = out.shape[2:]
    tall, down, above = window[0][0], window[1][0], window[2][0]
    level, taken, initial, decay, keep = neurons
    sums, membranes = memory
    filled = -(-outputs // LANES) * LANES
    bits, pixels, words = _memory(height, width, channels, tall)
    taps = _taps(channels, filled, window)
    flat, row, left = spikes.reshape(-1), columns * outputs, (taps[0][0] - 1) * filled
    fired, more, other = out.reshape(-1, row), added.reshape(-1, row), counts.reshape(-1, row)
    each = worth[0]
    whole = row - row % LANES
    one, zero = out.dtype.type(1), out.dtype.type(0)
    flow = sums[left:]
    for b in range(batch):
        membranes[:] = initial
        for t in range(steps):
            n = t * batch + b
            begin = n * height * width * channels
            several = _mark_image(flat, begin, channels, bits, pixels)
            for y in range(rows):
                for i in range(sums.shape[0]):
                    sums[i] = start[i]
                shape = height, width, channels, filled
                _add_row(y * down - above, several, pixels, words, taps, weights, sums, flat, begin, shape, window)
                if filled != outputs:
                    _take(sums, left, filled, flow[:row], outputs)
                place = n * rows + y
                if other.shape[0]:
                    line = other[place]
                    for i in range(row):
                        flow[i] = flow[i] + sums.dtype.type(line[i]) * each
                if more.shape[0]:
                    current = more[place]
                    for i in range(row):
                        flow[i] = flow[i] + current[i]
                membrane, target = membranes[y], fired[place]
                for i in range(0, whole, LANES):
                    fire(flow, i, 0, target, i, 0, membrane, level, taken, i, decay, keep, 1, 0)
                for i in range(whole, row):
                    v = membrane[i] * decay + flow[i]
                    target[i] = one if v >= level[i] else zero
                    membrane[i] = v * keep - taken[i] if v >= level[i] else v


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
        for x in range(width):
            for y in range(height):
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
