"""The loops of `kernels.spikes`: membranes of a block of neurons stay in the cache while all time steps go by."""

from typing import Any, Final

import numpy as np
from numba import njit, prange

from kernels.lanes import LANES, fire

Array = Any
"""A NumPy array; the loops are compiled for float32, float64, int32 and int64 currents."""

STEPS: Final = 8
"""Steps between loading and storing a membrane: with fewer it is moved more often, with more the rows compete for the caches' places."""

BLOCK: Final = 8192
"""Neurons whose membranes and levels stay in the second cache; long enough that reading ahead pays."""

FIXED_BLOCK: Final = 2048
"""The same for membranes of 64 bits, which are exact before they are cut to the core's width."""


@njit(cache=True, nogil=True, error_model="numpy")
def _block(
    current: Array, mark: Array, taken: Array, membrane: Array, out: Array, start: int, decay: Array, keep: Array, late: bool, past: bool
) -> None:
    """Advance the neurons ``start : start + len(membrane)`` by all steps.

    A neuron fires at `mark` or above, and then goes to ``v keep - taken``: both resets and both comparators in one arithmetic without a
    branch. `STEPS` steps at a time, so that a membrane is loaded and stored once for as many currents.
    """
    count = membrane.shape[0]
    steps = out.shape[0]
    lasts = current.shape[0] < steps
    factor = decay[0]
    kept = keep[0]
    one = out.dtype.type(1)
    zero = out.dtype.type(0)
    if late:
        soft = kept == keep.dtype.type(1)
        waiting = np.zeros(count, np.bool_)
        for t in range(steps):
            flow, spikes = current[0 if lasts else t, start : start + count], out[t, start : start + count]
            for i in range(count):
                # A soft reset comes after the decay, a hard one is what decays.
                before = membrane[i] if soft or not waiting[i] else -taken[i]
                v = before * factor + flow[i]
                v = v - taken[i] if soft and waiting[i] else v
                membrane[i] = v
                waiting[i] = v >= mark[i]
                spikes[i] = one if v >= mark[i] else zero
        return
    # Whole vectors, several steps at a time; then what is left of the neurons.
    flat, spikes, neurons = current.reshape(-1), out.reshape(-1), current.shape[1]
    whole, last = count - count % LANES, steps - steps % STEPS
    further = 0 if lasts else neurons
    for t in range(0, last, STEPS):
        for i in range(0, whole, LANES):
            begin, at = t * further + start + i, t * neurons + start + i
            if past:
                fire(flat, begin, further, spikes, at, neurons, membrane, i, mark, taken, i, factor, kept, STEPS, 1)
            else:
                fire(flat, begin, further, spikes, at, neurons, membrane, i, mark, taken, i, factor, kept, STEPS, 0)
    for t in range(last, steps):
        for i in range(0, whole, LANES):
            begin, at = t * further + start + i, t * neurons + start + i
            fire(flat, begin, further, spikes, at, neurons, membrane, i, mark, taken, i, factor, kept, 1, 0)
    for i in range(whole, count):
        v = membrane[i]
        for t in range(steps):
            v = v * factor + current[0 if lasts else t, start + i]
            fired = v >= mark[i]
            out[t, start + i] = one if fired else zero
            v = v * kept - taken[i] if fired else v
        membrane[i] = v


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
    past: bool,
    first: int,
    last: int,
) -> None:
    """Run the blocks `first` to `last` of the neurons of a flattened population.

    `current` and `out` have shape (steps, neurons), or `current` one step that lasts, `membrane` (neurons,); `mark` and `taken` have one
    number, or one for each neuron of a sample, and repeat. With `past` spikes are written past the caches, for which each row of `out` must
    begin at a multiple of 64 bytes.
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
        _block(current, marks[:count], less[:count], membrane[start : start + count], out, start, decay, keep, late, past)


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
    past: bool,
    blocks: int,
    workers: int,
) -> None:
    """Share all blocks of `fire_blocks` among threads; a neuron's arithmetic does not depend on who does it."""
    each = -(-blocks // workers)
    for worker in prange(workers):
        fire_blocks(current, mark, taken, membrane, out, decay, keep, late, past, worker * each, min(blocks, (worker + 1) * each))


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
        for t in range(out.shape[0]):
            flow, spikes = current[t if current.shape[0] > 1 else 0, start : start + length], out[t, start : start + length]
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
