"""The loops of `kernels.event_synapses`: only inputs that spiked are looked up, and their rows of weights added in a fixed order."""

from typing import Any

import numpy as np
from numba import njit

Array = Any
"""A NumPy array; spikes are uint8, weights float32 or integers, sums float32 or int32."""


@njit(cache=True, nogil=True, error_model="numpy")
def add_rows(spikes: Array, weights: Array, out: Array) -> None:
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
def scatter_plain(spikes: Array, weights: Array, start: Array, out: Array, wide: int, top: int, left: int) -> None:
    """Convolve by scattering: stride 1, no dilation, one group, channels last.

    `spikes` (vectors, height, width, channels); `weights` (channels, kernel height * kernel width * outputs), turned by half a turn, so
    that what a position adds to one row of sums is one contiguous piece; `start` (outputs,), where sums begin; `out` (vectors,
    out height, out width, outputs), cut from the full convolution at `top` and `left`.
    """
    vectors, height, width, channels = spikes.shape
    rows, columns, outputs = out.shape[1], out.shape[2], out.shape[3]
    piece = wide * outputs
    tall = weights.shape[1] // piece
    sums = np.empty((height + tall - 1, (width + wide - 1) * outputs), out.dtype)
    places = np.empty(width * channels, np.int64)
    kind = out.dtype.type
    for n in range(vectors):
        for y in range(height + tall - 1):
            for x in range(width + wide - 1):
                for o in range(outputs):
                    sums[y, x * outputs + o] = start[o]
        for y in range(height):
            line = spikes[n, y].reshape(width * channels)
            found = 0
            for i in range(width * channels):
                places[found] = i
                found += 1 if line[i] else 0
            for k in range(found):
                place = places[k]
                value = line[place]
                x = place // channels
                row = weights[place - x * channels]
                for ky in range(tall):
                    target = sums[y + ky, x * outputs : x * outputs + piece]
                    part = row[ky * piece : (ky + 1) * piece]
                    if value == 1:
                        for i in range(piece):
                            target[i] = target[i] + part[i]
                    else:
                        times = kind(value)
                        for i in range(piece):
                            target[i] = target[i] + part[i] * times
        for y in range(rows):
            source = sums[y + top, left * outputs : (left + columns) * outputs]
            drain = out[n, y].reshape(columns * outputs)
            for i in range(columns * outputs):
                drain[i] = source[i]


@njit(cache=True, nogil=True, error_model="numpy")
def scatter(spikes: Array, weights: Array, start: Array, out: Array, stride: Array, padding: Array, dilation: Array, groups: int) -> None:
    """Convolve by scattering, whatever the stride, padding, dilation and groups; channels last.

    `weights` (kernel height, kernel width, channels, outputs of the channel's group), as they are; the rest as for `scatter_plain`.
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
