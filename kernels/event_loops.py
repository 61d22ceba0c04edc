"""The loops of `kernels.event_synapses`: only inputs that spiked are looked up, and their rows of weights added in a fixed order."""

from typing import Any, Final

import numpy as np
from numba import njit

from kernels.lanes import LANES, PARTS, WORD, add, add_marked_rows, copy, fire, mark, part

Array = Any
"""A NumPy array; spikes are uint8, weights float32 or integers, sums float32 or int32."""

WIDEST: Final = 12
"""Vectors of sums that are in registers together, at most."""

BORROWING: Final[dict[str, Any]] = {"cache": True, "nogil": True, "error_model": "numpy", "_nrt": False}
"""How functions are compiled that are called for each image or some rows of it, and make no array: to count the references to those they
get took a tenth of all time."""

# Where a loop is to become vectors, an index that is not its counter from 0 is made unsigned: a signed one is compared to zero first, as it
# may count from the end. An assignment of arrays takes several times as long as its loop.


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


@njit(**BORROWING)
def _mark_image(spikes: Array, begin: int, channels: int, area: int, bits: Array, pixels: Array) -> bool:
    """Write which channels of each pixel of an image spiked to `pixels` (words of a pixel, pixels); return whether a count is above 1.

    All arrays are flat. The image, of `area` pixels, begins at `begin` of `spikes`; `bits` is memory for those of the image, one after the
    other, and a word more.
    """
    one, last = np.uint64(1), np.uint64(WORD - 1)
    many, each = area * channels, -(-channels // WORD)
    words = many // WORD
    above = np.uint64(0)
    share = WORD // channels if channels <= WORD and WORD % channels == 0 else 0
    for k in range(words):
        word = mark(spikes, begin + k * WORD, 0)
        above |= mark(spikes, begin + k * WORD, 1)
        bits[k] = word
        for p in range(0, share, PARTS):
            part(pixels, k * share + p, word >> np.uint64(p * channels), channels)
    bits[words] = np.uint64(0)
    bits[words + 1] = np.uint64(0)
    for k in range(many - words * WORD):
        value = spikes[begin + words * WORD + k]
        if value:
            bits[words] |= one << np.uint64(k)
        if value > 1:
            above = one
    if share:  # pixels do not straddle words
        for p in range(0, share, PARTS):
            part(pixels, words * share + p, bits[words] >> np.uint64(p * channels), channels)
        return bool(above != np.uint64(0))
    for e in range(each):
        size = min(WORD, channels - e * WORD)
        mask = ~np.uint64(0) >> np.uint64(WORD - size)
        at = e * WORD
        for p in range(area):
            k, shift = at >> 6, np.uint64(at & (WORD - 1))  # a division takes longer than all the rest
            # Of two neighboring words.
            word = (bits[np.uintp(k)] >> shift) | ((bits[np.uintp(k + 1)] << one) << (last - shift))
            pixels[np.uintp(e * area + p)] = word & mask
            at += channels
    return bool(above != np.uint64(0))


@njit(cache=True, nogil=True, error_model="numpy")
def _memory(area: int, width: int, channels: int, tall: int) -> tuple[Array, Array, Array, Array]:
    """Return memory for the bits of an image, the words of its pixels, those that a row of outputs looks at, and their first inputs."""
    each = -(-channels // WORD)
    bits, pixels = np.empty(area * channels // WORD + 2, np.uint64), np.empty(each * area + WORD + PARTS, np.uint64)
    return bits, pixels, np.empty(tall * each * width, np.uint64), np.empty(tall * each, np.int64)


@njit(cache=True, nogil=True, error_model="numpy")
def _taps(channels: int, position: int, window: Any) -> tuple[Array, Array]:
    """Return, for each place of an input column within a stride, how many numbers of a row it reaches, and where its weights begin."""
    (tall, wide), (_, across), _ = window
    reached, tables = np.empty(across, np.int64), np.empty(across, np.int64)
    begin = 0
    for r in range(across):
        reached[r] = max(0, (wide - r + across - 1) // across) * position
        tables[r] = begin
        begin += tall * channels * reached[r]
    return reached, tables


@njit(**BORROWING)
def _count_row(top: int, taps: Any, weights: Array, start: Array, sums: Array, spikes: Array, shape: Any, window: Any) -> None:
    """Write what a row of outputs gets from the rows from `top` on of an image whose inputs may have spiked several times."""
    height, width, channels, position = shape
    (tall, _), _, (_, before) = window
    reached, tables = taps
    across = reached.shape[0]
    for i in range(start.shape[0]):
        sums[i] = start[i]
    for x in range(width):
        r = (x + before) % across
        apart = reached[r]
        at = (x + before) // across * position + reached[0] - apart
        for ky in range(max(0, -top), min(tall, height - top)):
            for c in range(channels):
                count = spikes[((top + ky) * width + x) * channels + c]
                if count:
                    row = tables[r] + (ky * channels + c) * apart
                    for i in range(apart):
                        sums[at + i] = sums[at + i] + weights[row + i] * sums.dtype.type(count)


@njit(**BORROWING)
def _add_rows(
    first: int, last: int, several: bool, pixels: Array, words: Array, firsts: Array, taps: Any, weights: Array, start: Array, sums: Array,
    spikes: Array, begin: int, shape: Any, window: Any,
) -> None:  # fmt: skip
    """Write what rows `first` to `last` of outputs get, each after the other, column after column of the inputs.

    `shape` is height, width and channels of an image whose `pixels` are marked, and how many numbers lie in `sums` for a position; `words`
    and `firsts` are memory for what is looked at and for its first inputs; `taps` are from `_taps`.
    """
    height, width, channels, position = shape
    (tall, _), (down, _), (above, before) = window
    reached, tables = taps
    each = -(-channels // WORD)
    across = reached.shape[0]
    # Pixels one above the other share a word where their channels fit into it.
    group = 1 if channels > WORD else WORD // channels
    # Where all columns reach as many outputs and no output is left out, those stay in registers while the kernel slides over them.
    slides = across == 1 and reached[0] == 3 * position and before < 3 and position in (LANES, 2 * LANES, 4 * LANES)
    for y in range(first, last):
        top, to = y * down - above, (y - first) * start.shape[0]
        if several:
            _count_row(top, taps, weights, start, sums[to:], spikes[begin:], shape, window)
            continue
        many = 0
        for upper in range(0, tall, group):
            for e in range(each):
                line, kept = many * width, np.uint64(0)
                for ky in range(max(upper, -top), min(upper + group, tall, height - top)):
                    shift, row = np.uint64((ky - upper) * channels), (e * height + top + ky) * width
                    for x in range(width):
                        words[np.uintp(line + x)] = (words[np.uintp(line + x)] & kept) | (pixels[np.uintp(row + x)] << shift)
                    kept = ~np.uint64(0)
                if not kept:
                    for x in range(width):
                        words[np.uintp(line + x)] = kept
                firsts[many] = upper * channels + e * WORD
                many += 1
        if slides:
            at, apart = to + before * position, reached[0]
            if position == LANES:
                add_marked_rows(start, sums, at, position, weights, firsts, tables[0], apart, words, 0, width, many, width, 3, 1)
            elif position == 2 * LANES:
                add_marked_rows(start, sums, at, position, weights, firsts, tables[0], apart, words, 0, width, many, width, 6, 1)
            else:
                add_marked_rows(start, sums, at, position, weights, firsts, tables[0], apart, words, 0, width, many, width, 12, 1)
        else:
            for i in range(start.shape[0]):
                sums[np.uintp(to + i)] = start[i]
            r, at = before % across, to + (before // across) * position
            for x in range(width):
                apart = reached[r]
                place, o = at + reached[0] - apart, 0
                while apart - o >= 8 * LANES:
                    add_marked_rows(start, sums, place + o, 0, weights, firsts, tables[r] + o, apart, words, x, width, many, 1, 8, 0)
                    o += 8 * LANES
                if apart - o >= 4 * LANES:
                    add_marked_rows(start, sums, place + o, 0, weights, firsts, tables[r] + o, apart, words, x, width, many, 1, 4, 0)
                    o += 4 * LANES
                if apart - o >= 2 * LANES:
                    add_marked_rows(start, sums, place + o, 0, weights, firsts, tables[r] + o, apart, words, x, width, many, 1, 2, 0)
                    o += 2 * LANES
                if apart - o >= LANES:
                    add_marked_rows(start, sums, place + o, 0, weights, firsts, tables[r] + o, apart, words, x, width, many, 1, 1, 0)
                r += 1
                if r == across:
                    r = 0
                    at += position


@njit(**BORROWING)
def _take(sums: Array, at: int, position: int, out: Array, begin: int, columns: int, outputs: int) -> None:
    """Write the sums of a row of outputs to `out`, from `begin` on; those of a position begin at `at` and every `position` after it."""
    whole = outputs - outputs % LANES
    for x in range(columns):
        for o in range(0, whole, LANES):
            copy(out, begin + x * outputs + o, sums, at + x * position + o)
        for o in range(whole, outputs):
            out[begin + x * outputs + o] = sums[at + x * position + o]


@njit(cache=True, nogil=True, error_model="numpy")
def gather(spikes: Array, weights: Array, start: Array, sums: Array, out: Array, window: Any, together: int) -> None:
    """Convolve row by row of the outputs: no dilation, one group, channels last.

    `spikes` (vectors, height, width, channels) and `out` (vectors, out height, out width, outputs). `weights` are flat, as
    `event_synapses.EventKernel` lays them out. `start` is what the sums of a row begin with, outputs filled up to a multiple of `LANES`,
    with room at both ends for outputs beyond the image, all positions alike; `sums` is memory for some rows of them. `window` is the size,
    stride and padding of the kernel, each a pair, and `together` how many rows of outputs it computes.

    A spike reaches outputs side by side, whose sums and weights lie side by side: one piece of a row of weights is added for it. Which
    inputs of a column of the kernel's height spiked are the bits of a word or a few.
    """
    vectors, height, width, channels = spikes.shape
    rows, columns, outputs = out.shape[1:]
    filled = -(-outputs // LANES) * LANES
    shape = height, width, channels, together * filled
    bits, pixels, words, firsts = _memory(height * width, width, channels, window[0][0])
    taps = _taps(channels, together * filled, window)
    flat, results, left = spikes.reshape(-1), out.reshape(-1), taps[0][0] - together * filled
    block = sums.shape[0] // start.shape[0] * together
    for n in range(vectors):
        begin = n * height * width * channels
        several = _mark_image(flat, begin, channels, height * width, bits, pixels)
        for upper in range(0, rows, block):
            lower = min(rows, upper + block)
            end = -(-lower // together)
            _add_rows(upper // together, end, several, pixels, words, firsts, taps, weights, start, sums, flat, begin, shape, window)
            for y in range(upper, lower):
                at = (y - upper) // together * start.shape[0] + left + y % together * filled
                _take(sums, at, together * filled, results, (n * rows + y) * columns * outputs, columns, outputs)


@njit(cache=True, nogil=True, error_model="numpy")
def gather_and_fire(
    spikes: Array, weights: Array, start: Array, memory: Any, added: Array, counts: Array, worth: Array, neurons: Any, out: Array,
    window: Any, together: int,
) -> None:  # fmt: skip
    """Convolve as `gather` does and fire the neurons that the sums reach, row by row: no current is ever stored.

    `spikes` (steps, batch, height, width, channels) and `out` (steps, batch, out height, out width, outputs); `added` and `counts` of the
    shape of `out`, or without elements, are a current and spikes of `worth` that reach the same neurons. `neurons` are mark, taken, each
    for the neurons of a row, membranes before the first step (out height, neurons of a row), decay and keep: see `fire_blocks`. `memory` is
    for the sums of some rows, each as `start`, and the currents of the neurons of one, and for the membranes of an image.
    """
    steps, batch, height, width, channels = spikes.shape
    rows, columns, outputs = out.shape[2:]
    level, taken, initial, decay, keep = neurons
    sums, membranes = memory
    filled = -(-outputs // LANES) * LANES
    position = together * filled
    shape = height, width, channels, position
    bits, pixels, words, firsts = _memory(height * width, width, channels, window[0][0])
    taps = _taps(channels, position, window)
    flat, row, left = spikes.reshape(-1), columns * outputs, taps[0][0] - position
    fired, more, other = out.reshape(-1), added.reshape(-1), counts.reshape(-1)
    first, membrane = initial.reshape(-1), membranes.reshape(-1)
    block = (sums.shape[0] - row) // start.shape[0] * together
    each = worth[0]
    whole = row - row % LANES
    kind, one, zero = sums.dtype.type, out.dtype.type(1), out.dtype.type(0)
    for b in range(batch):
        for i in range(membrane.shape[0]):
            membrane[i] = first[i]
        for t in range(steps):
            n = t * batch + b
            begin = n * height * width * channels
            several = _mark_image(flat, begin, channels, height * width, bits, pixels)
            for upper in range(0, rows, block):
                lower = min(rows, upper + block)
                end = -(-lower // together)
                _add_rows(upper // together, end, several, pixels, words, firsts, taps, weights, start, sums, flat, begin, shape, window)
                for y in range(upper, lower):
                    place, neuron, o = (n * rows + y) * row, y * row, 0
                    at = (y - upper) // together * start.shape[0] + left + y % together * filled
                    if filled != outputs:
                        _take(sums, at, position, sums, sums.shape[0] - row, columns, outputs)
                        at = sums.shape[0] - row
                    for i in range(0, whole, LANES):
                        if other.shape[0]:
                            add(sums, at, other, place + i, each)
                        if more.shape[0]:
                            add(sums, at, more, place + i, each)
                        fire(sums, at, 0, fired, place + i, 0, membrane, neuron + i, level, taken, i, decay, keep, 1, 0)
                        at += LANES
                        o += LANES
                        if o == outputs:  # on to the next position
                            at += position - outputs
                            o = 0
                    for i in range(whole, row):
                        current = sums[at + i - whole]
                        if other.shape[0]:
                            current = current + kind(other[place + i]) * each
                        if more.shape[0]:
                            current = current + more[place + i]
                        v = membrane[neuron + i] * decay + current
                        fired[place + i] = one if v >= level[i] else zero
                        membrane[neuron + i] = v * keep - taken[i] if v >= level[i] else v


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
