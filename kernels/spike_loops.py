"""The loops of `kernels.spikes`: membranes of a block of neurons stay in the cache while all time steps go by."""

from typing import Any, Final

import numpy as np
from numba import njit, prange

Array = Any
"""A NumPy array; the loops are compiled for float32, float64, int32 and int64 currents."""

BLOCK: Final = 8192
"""Neurons whose membranes and levels stay in the second cache; long enough that reading ahead pays."""

FIXED_BLOCK: Final = 2048
"""The same for membranes of 64 bits, which are exact before they are cut to the core's width."""


@njit(cache=True, nogil=True, error_model="numpy")
def _block(
    current: Array, mark: Array, taken: Array, membrane: Array, out: Array, start: int, decay: Array, keep: Array, late: bool
) -> None:
    """Advance the neurons ``start : start + len(membrane)`` by all steps.

    A neuron fires at `mark` or above, and then goes to ``v keep - taken``: both resets and both comparators in one arithmetic without a
    branch, which becomes SIMD code. Four steps at a time, so that a membrane is loaded and stored once for four currents.
    """
    count = membrane.shape[0]
    steps = current.shape[0]
    factor = decay[0]
    kept = keep[0]
    one = out.dtype.type(1)
    zero = out.dtype.type(0)
    if late:
        soft = kept == keep.dtype.type(1)
        waiting = np.zeros(count, np.bool_)
        for t in range(steps):
            flow, spikes = current[t, start : start + count], out[t, start : start + count]
            for i in range(count):
                # A soft reset comes after the decay, a hard one is what decays.
                before = membrane[i] if soft or not waiting[i] else -taken[i]
                v = before * factor + flow[i]
                v = v - taken[i] if soft and waiting[i] else v
                membrane[i] = v
                waiting[i] = v >= mark[i]
                spikes[i] = one if v >= mark[i] else zero
        return
    whole = steps - steps % 4
    for t in range(0, whole, 4):
        flow0, spikes0 = current[t, start : start + count], out[t, start : start + count]
        flow1, spikes1 = current[t + 1, start : start + count], out[t + 1, start : start + count]
        flow2, spikes2 = current[t + 2, start : start + count], out[t + 2, start : start + count]
        flow3, spikes3 = current[t + 3, start : start + count], out[t + 3, start : start + count]
        for i in range(count):
            level = mark[i]
            less = taken[i]
            v = membrane[i] * factor + flow0[i]
            after = v * kept - less
            spikes0[i] = one if v >= level else zero
            v = (after if v >= level else v) * factor + flow1[i]
            after = v * kept - less
            spikes1[i] = one if v >= level else zero
            v = (after if v >= level else v) * factor + flow2[i]
            after = v * kept - less
            spikes2[i] = one if v >= level else zero
            v = (after if v >= level else v) * factor + flow3[i]
            after = v * kept - less
            spikes3[i] = one if v >= level else zero
            membrane[i] = after if v >= level else v
    for t in range(whole, steps):
        flow, spikes = current[t, start : start + count], out[t, start : start + count]
        for i in range(count):
            v = membrane[i] * factor + flow[i]
            after = v * kept - taken[i]
            spikes[i] = one if v >= mark[i] else zero
            membrane[i] = after if v >= mark[i] else v


@njit(cache=True, nogil=True, error_model="numpy")
def fire_blocks(
    current: Array,
    mark: Array,
    taken: Array,
    membrane: Array,
    out: Array,
    decay: Array,
    keep: Array,
    late: bool,
    first: int,
    last: int,
) -> None:
    """Run the blocks `first` to `last` of the neurons of a flattened population.

    `current` and `out` have shape (steps, neurons), `membrane` (neurons,); `mark` and `taken` have one number, or one for each neuron of a
    sample, and repeat.
    """
    neurons = membrane.shape[0]
    period = mark.shape[0]
    marks = np.empty(BLOCK, current.dtype)
    less = np.empty(BLOCK, current.dtype)
    for block in range(first, last):
        start = block * BLOCK
        count = min(BLOCK, neurons - start)
        place = start % period
        for i in range(count):
            marks[i] = mark[place]
            less[i] = taken[place]
            place += 1
            if place == period:
                place = 0
        _block(current, marks[:count], less[:count], membrane[start : start + count], out, start, decay, keep, late)


@njit(cache=True, nogil=True, parallel=True, error_model="numpy")
def fire_parallel(
    current: Array,
    mark: Array,
    taken: Array,
    membrane: Array,
    out: Array,
    decay: Array,
    keep: Array,
    late: bool,
    blocks: int,
    workers: int,
) -> None:
    """Share all blocks of `fire_blocks` among threads; a neuron's arithmetic does not depend on who does it."""
    each = -(-blocks // workers)
    for worker in prange(workers):
        fire_blocks(current, mark, taken, membrane, out, decay, keep, late, worker * each, min(blocks, (worker + 1) * each))


@njit(cache=True, nogil=True, error_model="numpy")
def fire_fixed(
    current: Array,
    threshold: Array,
    membrane: Array,
    out: Array,
    keep: int,
    shift: int,
    low: int,
    high: int,
    wrap: bool,
    soft: bool,
    strict: bool,
    reset: int,
    overflows: Array,
    first: int,
    last: int,
) -> None:
    """Integer neurons `first` to `last`: ``v = trunc(v keep / 2^shift) + current`` in 64 bits, brought into ``low .. high``, then compared.

    `overflows` counts, for each neuron, the sums that lay outside.
    """
    period = threshold.shape[0]
    span = high - low + 1
    one = out.dtype.type(1)
    zero = out.dtype.type(0)
    state = np.empty(FIXED_BLOCK, np.int64)
    level = np.empty(FIXED_BLOCK, np.int64)
    beyond = np.empty(FIXED_BLOCK, np.int32)
    count = np.int32(1)
    for start in range(first, last, FIXED_BLOCK):
        length = min(FIXED_BLOCK, last - start)
        for i in range(length):
            state[i] = membrane[start + i]
            level[i] = threshold[(start + i) % period] + (1 if strict else 0)
            beyond[i] = 0
        for t in range(current.shape[0]):
            flow, spikes = current[t, start : start + length], out[t, start : start + length]
            if shift:
                for i in range(length):
                    product = state[i] * keep
                    # Toward zero: a negative product is raised by what the shift would round down.
                    state[i] = (product + ((product >> 63) & ((1 << shift) - 1))) >> shift
            for i in range(length):
                v = state[i] + flow[i]
                if wrap:
                    beyond[i] += count if (v < low) | (v > high) else np.int32(0)
                    v = (v - low) % span + low
                else:
                    bounded = min(max(v, low), high)
                    beyond[i] += count if bounded != v else np.int32(0)
                    v = bounded
                fired = v >= level[i]
                spikes[i] = one if fired else zero
                after = v - level[i] + (1 if strict else 0) if soft else reset
                v = after if fired else v
                state[i] = v
        for i in range(length):
            membrane[start + i] = state[i]
            overflows[start + i] += beyond[i]
