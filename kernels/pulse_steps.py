"""The inner loops of `kernels.pulses`: exponentials of a driven Hamiltonian on vectors, forward and backward, eight numbers at a time.

The vectors of a stack follow each other in one flat array, each as a `Plan` describes it; `at` is where one begins.
"""

import math
from typing import Any, Final

import numba
import numpy as np

from kernels.eights import EIGHT, ask, load, minus, plus, spread, store, total
from kernels.pulse_plans import Plan

ORDER: Final = 7
"""Degree of the series of an exponential."""

_njit: Any = numba.njit
_jit = _njit(cache=True, fastmath={"contract"}, error_model="numpy", nogil=True)
# Nothing is allocated there: without counts of references it compiles in less time.
_lean = _njit(cache=True, fastmath={"contract"}, error_model="numpy", nogil=True, _nrt=False)
# A call would copy the descriptors of all arrays, which takes longer than what some of these functions do.
_inlined = _njit(cache=True, fastmath={"contract"}, error_model="numpy", nogil=True, inline="always")


@_jit
def zeros(numbers: int) -> Any:
    """Return so many zeros from the beginning of a line of the cache on: loads across two lines take half as long again."""
    memory = np.zeros(numbers + EIGHT)
    first = -(memory.ctypes.data // 8) % EIGHT
    return memory[first : first + numbers]


@_lean
def exponent_bound(norms: Any, mixing: Any, samples: Any) -> float:
    """Return a bound on the norm of the Hamiltonian times half a sample's time; it is finite only if all samples are."""
    largest, unfit = 0.0, 0.0
    for value in samples.flat:
        square = value.real**2 + value.imag**2
        largest = max(largest, square)
        unfit += 0.0 * square
    bound = norms[0] + unfit
    for q in range(mixing.shape[0]):
        reach = 0.0
        for c in range(mixing.shape[1]):
            reach += abs(mixing[q, c])
        bound += norms[1 + q] * reach * math.sqrt(largest) / 2
    return float(bound)


@_inlined
def fill_entries(plan: Plan, drives: Any, scale: float, entries: Any) -> None:
    """Write what drives change of the Hamiltonian times `scale`; drives are eights, real and imaginary parts of each."""
    apart, further, other = plan.static.shape[0] // 3, plan.weights.shape[0] // 2, drives.shape[0] // 2
    none, factor = spread(0.0), spread(scale)
    for d in range(plan.driven.shape[0]):
        place = plan.driven[d]
        x, y = load(plan.static, place), load(plan.static, apart + place)
        for t in range(plan.driven_starts[d], plan.driven_starts[d + 1]):
            q = plan.operators[t]
            drive_re, drive_im = load(drives, q), load(drives, other + q)
            weight_re, weight_im = load(plan.weights, t * EIGHT), load(plan.weights, further + t * EIGHT)
            x = minus(plus(x, drive_re, weight_re), drive_im, weight_im)
            y = plus(plus(y, drive_re, weight_im), drive_im, weight_re)
        store(entries, place, plus(none, factor, x))
        store(entries, apart + place, plus(none, factor, y))
        store(entries, 2 * apart + place, minus(none, factor, y))


@_inlined
def multiply(plan: Plan, energies: Any, entries: Any, share: float, stack: Any, at: int, out_at: int) -> None:
    """Write ``share * first + i H v`` for the first vector and one more of the stack; the result may take the place of the first."""
    half = plan.half
    part, none, one = spread(share), spread(0.0), spread(1.0)
    for eight in range(plan.starts.shape[0] - 1):
        t = (eight + 1) * EIGHT
        energy = load(energies, t - EIGHT)
        x, y = minus(none, energy, load(stack, at + half + t)), plus(none, energy, load(stack, at + t))
        # Two sums for each part: one would wait for itself.
        more_x, more_y = plus(none, part, load(stack, t)), plus(none, part, load(stack, half + t))
        for p in range(np.uintp(plan.starts[eight]), np.uintp(plan.starts[eight + 1])):
            # A place without a sign: to look for negative ones takes longer than to read.
            column = at + plan.columns[p]
            entry_re, entry_im = load(entries, plan.real[p]), load(entries, plan.imaginary[p])
            v_re, v_im = load(stack, column), load(stack, half + column)
            x, more_x = minus(x, entry_re, v_im), minus(more_x, entry_im, v_re)
            y, more_y = plus(y, entry_re, v_re), minus(more_y, entry_im, v_im)
        store(stack, out_at + t, plus(x, one, more_x))
        store(stack, out_at + half + t, plus(y, one, more_y))


@_inlined
def multiply_both(plan: Plan, energies: Any, entries: Any, share: float, sums: Any, at: int, powers: Any, powers_at: int) -> None:
    """Write what `multiply` does before v in the stack `sums`, and ``i H u`` behind u in the stack `powers`: entries are read once."""
    half = plan.half
    size = 2 * half
    part, none, one = spread(share), spread(0.0), spread(1.0)
    for eight in range(plan.starts.shape[0] - 1):
        t = (eight + 1) * EIGHT
        energy = load(energies, t - EIGHT)
        x, y = minus(none, energy, load(sums, at + half + t)), plus(none, energy, load(sums, at + t))
        more_x, more_y = plus(none, part, load(sums, t)), plus(none, part, load(sums, half + t))
        z, w = minus(none, energy, load(powers, powers_at + half + t)), plus(none, energy, load(powers, powers_at + t))
        more_z, more_w = none, none
        for p in range(np.uintp(plan.starts[eight]), np.uintp(plan.starts[eight + 1])):
            column, other = at + plan.columns[p], powers_at + plan.columns[p]
            entry_re, entry_im = load(entries, plan.real[p]), load(entries, plan.imaginary[p])
            v_re, v_im = load(sums, column), load(sums, half + column)
            x, more_x = minus(x, entry_re, v_im), minus(more_x, entry_im, v_re)
            y, more_y = plus(y, entry_re, v_re), minus(more_y, entry_im, v_im)
            u_re, u_im = load(powers, other), load(powers, half + other)
            z, more_z = minus(z, entry_re, u_im), minus(more_z, entry_im, u_re)
            w, more_w = plus(w, entry_re, u_re), minus(more_w, entry_im, u_im)
        store(sums, at - size + t, plus(x, one, more_x))
        store(sums, at - half + t, plus(y, one, more_y))
        store(powers, powers_at + size + t, plus(z, one, more_z))
        store(powers, powers_at + size + half + t, plus(w, one, more_w))


@_inlined
def scale_last(plan: Plan, factor: float, stack: Any) -> None:
    """Write the first vector of the stack times a number to the last."""
    none, much, last = spread(0.0), spread(factor), ORDER * 2 * plan.half
    for t in range(EIGHT, 2 * plan.half - EIGHT, EIGHT):
        store(stack, last + t, plus(none, much, load(stack, t)))


@_lean
def sum_series(plan: Plan, energies: Any, entries: Any, series: Any, stack: Any) -> None:
    """Replace the first vector of a stack by ``exp(i H)`` of it, the sum of a series by Horner's rule.

    Vector k, from 1 to `ORDER`, becomes ``sum_a series[a + k] (i H)^a`` of it.
    """
    size = 2 * plan.half
    scale_last(plan, series[ORDER], stack)
    for k in range(ORDER - 1, -1, -1):
        multiply(plan, energies, entries, series[k], stack, (k + 1) * size, k * size)


@_inlined
def keep_vector(plan: Plan, stack: Any, kept: Any, place: int, back: bool) -> None:
    """Write the first vector of a stack to `kept` without its margins, or with `back` take it from there."""
    numbers = plan.energies.shape[0]
    for t in range(0, numbers, EIGHT):
        own, other = EIGHT + t, plan.half + EIGHT + t
        if back:
            store(stack, own, load(kept, place + t))
            store(stack, other, load(kept, place + numbers + t))
        else:
            store(kept, place + t, load(stack, own))
            store(kept, place + numbers + t, load(stack, other))


@_inlined
def ask_kept(plan: Plan, kept: Any, place: int, write: int) -> None:
    """Have a kept vector brought into the caches while there is work to do: waiting for it takes a third of the time of an exponential."""
    for t in range(0, 2 * plan.energies.shape[0], EIGHT):
        ask(kept, place + t, write)


@_lean
def sum_both(plan: Plan, energies: Any, entries: Any, series: Any, sums: Any, powers: Any) -> None:
    """Do what `sum_series` does with `sums`, and fill `powers` with ``(i H)^k u`` of its first vector u up to ``ORDER - 1``."""
    size = 2 * plan.half
    scale_last(plan, series[ORDER], sums)
    for k in range(ORDER - 1, 0, -1):
        multiply_both(plan, energies, entries, series[k], sums, (k + 1) * size, powers, (ORDER - 1 - k) * size)
    multiply(plan, energies, entries, series[0], sums, size, 0)


@_lean
def pull_back_drives(plan: Plan, sums: Any, powers: Any, by_drive: Any) -> None:
    """Add to the cotangents of the drives what ``exp(-i H) u`` makes of its own, from the stacks that `sum_both` fills."""
    half, further, other = plan.half, plan.weights.shape[0] // 2, by_drive.shape[0] // 2
    size, one = 2 * half, spread(1.0)
    for t in range(plan.operators.shape[0]):
        x, y = spread(0.0), spread(0.0)
        for side in range(2):
            i, j = (plan.rows[t], plan.opposite[t]) if side == 0 else (plan.opposite[t], plan.rows[t])
            # Four sums: fewer would wait for themselves.
            a, b, c, d = spread(0.0), spread(0.0), spread(0.0), spread(0.0)
            for k in range(ORDER):
                w, v = (k + 1) * size + i, k * size + j
                w_re, w_im, v_re, v_im = load(sums, w), load(sums, w + half), load(powers, v), load(powers, v + half)
                if k % 2 == 0:
                    a, b, c, d = plus(a, w_re, v_im), minus(b, w_im, v_re), plus(c, w_re, v_re), plus(d, w_im, v_im)
                else:
                    # The vector's series is that of exp(-i H).
                    a, b, c, d = minus(a, w_re, v_im), plus(b, w_im, v_re), minus(c, w_re, v_re), minus(d, w_im, v_im)
            a, c = plus(a, one, b), plus(c, one, d)
            x, y = plus(x, one, a), plus(y, one, c) if side == 0 else minus(y, one, c)
        weight_re, weight_im = load(plan.weights, t * EIGHT), load(plan.weights, further + t * EIGHT)
        q = plan.operators[t]
        store(by_drive, q, plus(plus(load(by_drive, q), x, weight_re), y, weight_im))
        store(by_drive, other + q, minus(plus(load(by_drive, other + q), y, weight_re), x, weight_im))


@_inlined
def take_samples(plan: Plan, samples: Any, first: int, count: int, n: int, played: Any) -> None:
    """Write sample n of each channel for so many vectors, as eights of real parts and then of imaginary ones."""
    other = played.shape[0] // 2
    for c in range(samples.shape[2]):
        if plan.lanes == 1 or samples.shape[0] == 1:
            value = samples[first if samples.shape[0] > 1 else 0, n, c]
            store(played, c * EIGHT, spread(value.real))
            store(played, other + c * EIGHT, spread(value.imag))
        else:
            for lane in range(count):
                value = samples[first + lane, n, c]
                played[c * EIGHT + lane] = value.real
                played[other + c * EIGHT + lane] = value.imag


@_inlined
def mix_drives(played: Any, carriers: Any, mixing: Any, drives: Any) -> None:
    """Write the values of the drives: channels' samples times their carriers, mixed."""
    for q in range(mixing.shape[0]):
        x, y = spread(0.0), spread(0.0)
        for c in range(mixing.shape[1]):
            factor = mixing[q, c] * carriers[c]
            real, imaginary = spread(factor.real), spread(factor.imag)
            played_re, played_im = load(played, c * EIGHT), load(played, played.shape[0] // 2 + c * EIGHT)
            x, y = minus(plus(x, real, played_re), imaginary, played_im), plus(plus(y, real, played_im), imaginary, played_re)
        store(drives, q * EIGHT, x)
        store(drives, drives.shape[0] // 2 + q * EIGHT, y)


@_inlined
def unmix_drives(by_drive: Any, carriers: Any, mixing: Any, scale: float, by_played: Any) -> None:
    """Add to the cotangents of samples what those of the drives make of them."""
    for c in range(mixing.shape[1]):
        own, other = c * EIGHT, by_played.shape[0] // 2 + c * EIGHT
        x, y = load(by_played, own), load(by_played, other)
        for q in range(mixing.shape[0]):
            factor = scale * (mixing[q, c] * carriers[c])
            real, imaginary = spread(factor.real), spread(factor.imag)
            drive_re, drive_im = load(by_drive, q * EIGHT), load(by_drive, by_drive.shape[0] // 2 + q * EIGHT)
            x, y = plus(plus(x, real, drive_re), imaginary, drive_im), minus(plus(y, real, drive_im), imaginary, drive_re)
        store(by_played, own, x)
        store(by_played, other, y)


@_inlined
def give_samples(plan: Plan, by_played: Any, first: int, count: int, n: int, gradient: Any) -> None:
    """Add the cotangents of sample n to the gradient."""
    other = by_played.shape[0] // 2
    for c in range(gradient.shape[2]):
        if plan.lanes == 1 or gradient.shape[0] == 1:
            found = complex(total(load(by_played, c * EIGHT)), total(load(by_played, other + c * EIGHT)))
            gradient[first if gradient.shape[0] > 1 else 0, n, c] += found
        else:
            for lane in range(count):
                gradient[first + lane, n, c] = complex(by_played[c * EIGHT + lane], by_played[other + c * EIGHT + lane])


@_inlined
def mix_lane(samples: Any, which: int, n: int, carriers: Any, half: int, mixing: Any, lane: int, drives: Any) -> None:
    """Write the values of the drives of one lane, where each has a sample of its own."""
    for q in range(mixing.shape[0]):
        value = 0.0j
        for c in range(mixing.shape[1]):
            value += mixing[q, c] * (samples[which, n, c] * carriers[n, half, c])
        drives[q * EIGHT + lane] = value.real
        drives[drives.shape[0] // 2 + q * EIGHT + lane] = value.imag


@_inlined
def unmix_lane(by_drive: Any, which: int, n: int, carriers: Any, half: int, mixing: Any, lane: int, scale: float, gradient: Any) -> None:
    """Add to the gradient of a sample what the cotangents of the drives of one lane make of it."""
    other = by_drive.shape[0] // 2
    for c in range(mixing.shape[1]):
        value = 0.0j
        for q in range(mixing.shape[0]):
            value += mixing[q, c].conjugate() * complex(by_drive[q * EIGHT + lane], by_drive[other + q * EIGHT + lane])
        gradient[which, n, c] += scale * (carriers[n, half, c].conjugate() * value)


@_lean
def scale_energies(plan: Plan, scale: float, energies: Any, entries: Any) -> None:
    """Write the Hamiltonian without drives times `scale`."""
    for t in range(energies.shape[0]):
        energies[t] = scale * plan.energies[t]
    for t in range(entries.shape[0]):
        entries[t] = scale * plan.static[t]


@_lean
def take_vectors(plan: Plan, rows: Any, first: int, count: int, stack: Any, back: bool) -> None:
    """Copy rows of complex numbers into the lanes of the first vector of a stack, zeros into others, or with `back` out of them."""
    if not back:
        stack[: 2 * plan.half] = 0.0
    for lane in range(count):
        for i in range(plan.states):
            place = EIGHT + i * plan.lanes + lane
            if back:
                rows[first + lane, i] = complex(stack[place], stack[plan.half + place])
            else:
                stack[place] = rows[first + lane, i].real
                stack[plan.half + place] = rows[first + lane, i].imag


@_jit
def evolve_vectors(
    plan: Plan, samples: Any, carriers: Any, mixing: Any, series: Any, repeats: int, states: Any, kept: Any, keeping: bool
) -> None:
    """Evolve each vector in place; with `keeping`, those before each exponential stay in `kept`.

    Shapes: samples (batch or 1, samples, channels), carriers (samples, 2, channels), mixing (operators, channels), states
    (batch, states), kept (batch / lanes rounded up, exponentials * 2 * numbers of the diagonal).
    """
    taken, batch, scale = 2 * plan.energies.shape[0], states.shape[0], -1.0 / repeats
    drives, played = zeros(2 * mixing.shape[0] * EIGHT), zeros(2 * mixing.shape[1] * EIGHT)
    energies, entries = zeros(plan.energies.shape[0]), zeros(plan.static.shape[0])
    stack = zeros((ORDER + 1) * 2 * plan.half)
    scale_energies(plan, scale, energies, entries)
    for first in range(0, batch, plan.lanes):
        count, position = min(plan.lanes, batch - first), 0
        take_vectors(plan, states, first, count, stack, False)
        for n in range(samples.shape[1]):
            take_samples(plan, samples, first, count, n, played)
            for half in range(2):
                mix_drives(played, carriers[n, half], mixing, drives)
                fill_entries(plan, drives, scale, entries)
                for _ in range(repeats):
                    if keeping:
                        keep_vector(plan, stack, kept[first // plan.lanes], position, False)
                        position += taken
                        ask_kept(plan, kept[first // plan.lanes], position, 1)
                    sum_series(plan, energies, entries, series, stack)
        take_vectors(plan, states, first, count, stack, True)


@_jit
def pull_back_vectors(
    plan: Plan, samples: Any, carriers: Any, mixing: Any, series: Any, repeats: int, kept: Any, cotangents: Any, gradient: Any
) -> None:
    """Pull cotangents of the evolved vectors back to the vectors in place, and add those of the samples to `gradient`.

    `kept` is what `evolve_vectors` left; `gradient` has the shape of `samples`.
    """
    taken, batch, scale = 2 * plan.energies.shape[0], cotangents.shape[0], 1.0 / repeats
    drives, played = zeros(2 * mixing.shape[0] * EIGHT), zeros(2 * mixing.shape[1] * EIGHT)
    by_drive, by_played = zeros(drives.shape[0]), zeros(played.shape[0])
    energies, entries = zeros(plan.energies.shape[0]), zeros(plan.static.shape[0])
    sums, powers = zeros((ORDER + 1) * 2 * plan.half), zeros(ORDER * 2 * plan.half)
    scale_energies(plan, scale, energies, entries)
    # What was kept last is the most likely to be in the caches still.
    for first in range((batch - 1) // plan.lanes * plan.lanes, -1, -plan.lanes):
        count, position = min(plan.lanes, batch - first), 2 * repeats * samples.shape[1] * taken
        take_vectors(plan, cotangents, first, count, sums, False)
        for n in range(samples.shape[1] - 1, -1, -1):
            take_samples(plan, samples, first, count, n, played)
            by_played[:] = 0.0
            for half in range(1, -1, -1):
                mix_drives(played, carriers[n, half], mixing, drives)
                fill_entries(plan, drives, scale, entries)
                by_drive[:] = 0.0
                for _ in range(repeats):
                    position -= taken
                    keep_vector(plan, powers, kept[first // plan.lanes], position, True)
                    ask_kept(plan, kept[first // plan.lanes], position - taken, 0)
                    sum_both(plan, energies, entries, series, sums, powers)
                    pull_back_drives(plan, sums, powers, by_drive)
                unmix_drives(by_drive, carriers[n, half], mixing, scale, by_played)
            give_samples(plan, by_played, first, count, n, gradient)
        take_vectors(plan, cotangents, first, count, sums, True)
