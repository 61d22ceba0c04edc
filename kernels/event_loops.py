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
def scatter_plain(spikes: Array, weights: Array, start: Array, out: Array, top: int, left: int) -> None:
    """Convolve by scattering: stride 1, no dilation, one group.

    `spikes` (vectors, channels, height, width); `weights` (channels, kernel height, kernel width, outputs), turned by half a turn, so that
    an event's row of the kernel is one contiguous piece of the sums; `start` (outputs,), where sums begin; `out` (vectors, outputs,
    out height, out width), cut from the full convolution at `top` and `left`.
    """
    vectors, channels, height, width = spikes.shape
    tall, wide, outputs = weights.shape[1], weights.shape[2], weights.shape[3]
    rows, columns = out.shape[2], out.shape[3]
    pitch = (width + wide - 1) * outputs
    length = wide * outputs
    kind = out.dtype.type
    sums = np.empty((height + tall - 1, pitch), out.dtype)
    flat = weights.reshape(channels, tall, length)
    places = np.empty(width, np.int64)
    for n in range(vectors):
        for y in range(height + tall - 1):
            for x in range(width + wide - 1):
                for o in range(outputs):
                    sums[y, x * outputs + o] = start[o]
        for c in range(channels):
            for y in range(height):
                found = 0
                line = spikes[n, c, y]
                for x in range(width):
                    places[found] = x
                    found += 1 if line[x] else 0
                for k in range(found):
                    x = places[k]
                    value = line[x]
                    for ky in range(tall):
                        target = sums[y + ky, x * outputs : x * outputs + length]
                        row = flat[c, ky]
                        if value == 1:
                            for i in range(length):
                                target[i] = target[i] + row[i]
                        else:
                            times = kind(value)
                            for i in range(length):
                                target[i] = target[i] + row[i] * times
        for o in range(outputs):
            for y in range(rows):
                line = sums[y + top]
                drain = out[n, o, y]
                for x in range(columns):
                    drain[x] = line[(x + left) * outputs + o]


@njit(cache=True, nogil=True, error_model="numpy")
def scatter(spikes: Array, weights: Array, start: Array, out: Array, stride: Array, padding: Array, dilation: Array, groups: int) -> None:
    """Convolve by scattering, whatever the stride, padding, dilation and groups.

    `weights` (channels, kernel height, kernel width, outputs of the channel's group), as they are; the rest as for `scatter_plain`.
    """
    vectors, channels, height, width = spikes.shape
    tall, wide, share = weights.shape[1], weights.shape[2], weights.shape[3]
    rows, columns = out.shape[2], out.shape[3]
    outputs = share * groups
    each = channels // groups
    kind = out.dtype.type
    sums = np.empty((rows, columns, outputs), out.dtype)
    for n in range(vectors):
        for y in range(rows):
            for x in range(columns):
                for o in range(outputs):
                    sums[y, x, o] = start[o]
        for c in range(channels):
            first = c // each * share
            for y in range(height):
                for x in range(width):
                    value = spikes[n, c, y, x]
                    if value == 0:
                        continue
                    times = kind(value)
                    for ky in range(tall):
                        top = y + padding[0] - ky * dilation[0]
                        if top < 0 or top % stride[0] or top // stride[0] >= rows:
                            continue
                        for kx in range(wide):
                            left = x + padding[1] - kx * dilation[1]
                            if left < 0 or left % stride[1] or left // stride[1] >= columns:
                                continue
                            target = sums[top // stride[0], left // stride[1], first : first + share]
                            row = weights[c, ky, kx]
                            for i in range(share):
                                target[i] = target[i] + row[i] * times
        for o in range(outputs):
            for y in range(rows):
                for x in range(columns):
                    out[n, o, y, x] = sums[y, x, o]
