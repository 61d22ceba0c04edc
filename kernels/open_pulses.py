"""Density matrices under sampled drives and relaxation: the propagator of a few samples, then the exact channel of each part.

A step is half a channel, the propagator, half a channel (Strang); what the steps of one sample leave out is of the order of rate times
time times the square of the angle that a sample turns, 1e-7 in trace distance for transmons.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Complex128
from torch import Tensor

from kernels.eights import EIGHT
from kernels.once import once_differentiable
from kernels.pulse_plans import Plan
from kernels.pulse_steps import (
    ORDER,
    _jit,
    fill_entries,
    keep_vector,
    mix_lane,
    pull_back_drives,
    scale_energies,
    sum_both,
    sum_series,
    unmix_lane,
    zeros,
)
from kernels.pulses import DrivenSystem, pulse_series, series_coefficients, to_numpy


@_jit
def digits_of(states: int, parts: int, levels: int) -> Any:
    """Return the level of each part in each state, ``(parts, states)``, part 0 the lowest digit."""
    digits = np.empty((parts, states), np.int64)
    for i in range(states):
        rest = i
        for q in range(parts):
            digits[q, i] = rest % levels
            rest //= levels
    return digits


@_jit
def compose_channels(first: Any, second: Any, both: Any) -> None:
    """Write the channel of each part that two channels are together: ``(parts, levels, levels, levels)`` each."""
    parts, levels = first.shape[0], first.shape[1]
    for q in range(parts):
        for k in range(levels):
            for m in range(levels):
                for n in range(levels):
                    value = 0.0
                    for j in range(k + 1):
                        if m + k < levels and n + k < levels:
                            value += second[q, j, m, n] * first[q, k - j, m + j, n + j]
                    both[q, k, m, n] = value


@_jit
def apply_channels(density: Any, factors: Any, digits: Any) -> None:
    """Relax every part of a density matrix in place: ``new[m, n] = sum_k factors[q, k, m, n] old[m + k, n + k]``."""
    states, levels = density.shape[0], factors.shape[1]
    stride = 1
    for q in range(factors.shape[0]):
        for i in range(states):
            m = digits[q, i]
            for j in range(states):
                n = digits[q, j]
                value = factors[q, 0, m, n] * density[i, j]
                for k in range(1, levels - max(m, n)):
                    value += factors[q, k, m, n] * density[i + k * stride, j + k * stride]
                density[i, j] = value
        stride *= levels


@_jit
def apply_channels_adjoint(cotangent: Any, factors: Any, digits: Any) -> None:
    """Pull a cotangent back through `apply_channels` in place."""
    states, levels = cotangent.shape[0], factors.shape[1]
    stride = 1
    for _ in range(factors.shape[0] - 1):
        stride *= levels
    for q in range(factors.shape[0] - 1, -1, -1):
        for i in range(states - 1, -1, -1):
            m = digits[q, i]
            for j in range(states - 1, -1, -1):
                n = digits[q, j]
                value = factors[q, 0, m, n] * cotangent[i, j]
                for k in range(1, min(m, n) + 1):
                    value += factors[q, k, m - k, n - k] * cotangent[i - k * stride, j - k * stride]
                cotangent[i, j] = value
        stride //= levels


@_jit
def step_channels(factors: Any, whole: bool) -> Any:
    """Return the channels around and between steps: before the first, between two, before the last one, after it.

    `factors` is for half a step of the stride and for half of the last step, which is shorter unless `whole`.
    """
    found = np.empty((4, *factors.shape[1:]))
    found[0] = factors[0]
    compose_channels(factors[0], factors[0], found[1])
    if whole:
        found[2] = found[1]
        found[3] = factors[0]
    else:
        compose_channels(factors[0], factors[1], found[2])
        found[3] = factors[1]
    return found


@_jit
def lanes_with_a_sample(count: int, stride: int, first_step: int, place: int) -> int:
    """Return how many of the eight steps from this one on have a sample at this place of theirs: the first ones."""
    return min(EIGHT, max(0, (count - place + stride - 1) // stride - first_step))


@_jit
def keep_lanes(plan: Plan, stack: Any, lanes: int, vectors: Any, place: int) -> None:
    """Write the first lanes of the first vector of a stack to `vectors`; in others nothing moves."""
    if lanes == EIGHT:
        keep_vector(plan, stack, vectors, place, False)
        return
    numbers = plan.energies.shape[0]
    for t in range(0, numbers, EIGHT):
        for lane in range(t, t + lanes):
            vectors[place + lane] = stack[EIGHT + lane]
            vectors[place + numbers + lane] = stack[plan.half + EIGHT + lane]


@_jit
def build_propagators(
    plan: Plan,
    samples: Any,
    chosen: int,
    carriers: Any,
    mixing: Any,
    series: Any,
    repeats: int,
    stride: int,
    first_step: int,
    columns: Any,
    stack: Any,
    propagators: Any,
    kept: Any,
    keep: bool,
) -> None:
    """Write the propagators of the next eight steps, ``(8, states, states)``; past the last sample nothing moves.

    Vectors of eight lanes without margins: `columns` are those of the propagators, and with `keep` those before each exponential of a step
    stay in `kept`.
    """
    states, count, numbers, scale = plan.states, samples.shape[1], plan.energies.shape[0], -1.0 / repeats
    drives, energies, entries = zeros(2 * mixing.shape[0] * EIGHT), zeros(numbers), zeros(plan.static.shape[0])
    scale_energies(plan, scale, energies, entries)
    columns[:] = 0.0
    for c in range(states):
        columns[(2 * c * states + c) * EIGHT : (2 * c * states + c + 1) * EIGHT] = 1.0
    place = 0
    for n in range(stride):
        lanes = lanes_with_a_sample(count, stride, first_step, n)
        for half in range(2):
            for lane in range(lanes):
                mix_lane(samples, chosen, (first_step + lane) * stride + n, carriers, half, mixing, lane, drives)
            fill_entries(plan, drives, scale, entries)
            for _ in range(repeats):
                for c in range(states):
                    keep_vector(plan, stack, columns, 2 * c * numbers, True)
                    if keep:
                        keep_vector(plan, stack, kept, place, False)
                        place += 2 * numbers
                    sum_series(plan, energies, entries, series, stack)
                    keep_lanes(plan, stack, lanes, columns, 2 * c * numbers)
    for c in range(states):
        for i in range(states):
            for lane in range(EIGHT):
                at = (2 * c * states + i) * EIGHT + lane
                propagators[lane, i, c] = complex(columns[at], columns[numbers + at])


@_jit
def evolve_matrices(
    plan: Plan,
    samples: Any,
    carriers: Any,
    mixing: Any,
    series: Any,
    repeats: int,
    stride: int,
    factors: Any,
    densities: Any,
    kept: Any,
    keep: bool,
) -> None:
    """Evolve density matrices in place; with `keep` the matrix before each step's propagator stays in ``kept[b, step]``."""
    states, count, pulses = densities.shape[1], samples.shape[1], samples.shape[0]
    steps = (count + stride - 1) // stride
    if steps == 0:
        return
    channels, digits = step_channels(factors, count % stride == 0), digits_of(states, factors.shape[1], factors.shape[2])
    columns, propagators = zeros(2 * states * states * EIGHT), np.empty((EIGHT, states, states), np.complex128)
    stack, moved, none = zeros((ORDER + 1) * 2 * plan.half), np.empty((states, states), np.complex128), np.empty(1)
    for p in range(pulses):
        # One pulse for all matrices: its propagators are made once.
        first, last = (p, p + 1) if pulses > 1 else (0, densities.shape[0])
        for b in range(first, last):
            apply_channels(densities[b], channels[3 if steps == 1 else 0], digits)
        for start in range(0, steps, EIGHT):
            build_propagators(plan, samples, p, carriers, mixing, series, repeats, stride, start, columns, stack, propagators, none, False)
            for step in range(start, min(steps, start + EIGHT)):
                propagator = propagators[step - start]
                adjoint = np.conj(propagator.T)
                after = channels[3 if step == steps - 1 else 2 if step == steps - 2 else 1]
                for b in range(first, last):
                    if keep:
                        kept[b, step] = densities[b]
                    np.dot(propagator, densities[b], moved)
                    np.dot(moved, adjoint, densities[b])
                    apply_channels(densities[b], after, digits)


@_jit
def pull_back_matrices(
    plan: Plan,
    samples: Any,
    carriers: Any,
    mixing: Any,
    series: Any,
    repeats: int,
    stride: int,
    factors: Any,
    kept: Any,
    cotangents: Any,
    gradient: Any,
) -> None:
    """Pull Hermitian cotangents of the evolved matrices back in place, and add those of the samples to `gradient`."""
    states, count = cotangents.shape[1], samples.shape[1]
    numbers, scale, size = plan.energies.shape[0], 1.0 / repeats, 2 * plan.half
    columns, propagators = zeros(2 * states * numbers), np.empty((EIGHT, states, states), np.complex128)
    before, sums, powers = zeros(2 * repeats * stride * 2 * states * numbers), zeros((ORDER + 1) * size), zeros(ORDER * size)
    moved = np.empty((states, states), np.complex128)
    drives, energies, entries = zeros(2 * mixing.shape[0] * EIGHT), zeros(numbers), zeros(plan.static.shape[0])
    by_drive = zeros(drives.shape[0])
    scale_energies(plan, scale, energies, entries)
    steps = (count + stride - 1) // stride
    channels, digits = step_channels(factors, count % stride == 0), digits_of(states, factors.shape[1], factors.shape[2])
    for b in range(cotangents.shape[0]):
        chosen = b if samples.shape[0] > 1 else 0
        cotangent = cotangents[b]
        for start in range((steps - 1) // EIGHT * EIGHT, -1, -EIGHT):
            build_propagators(
                plan, samples, chosen, carriers, mixing, series, repeats, stride, start, columns, sums, propagators, before, True
            )
            columns[:] = 0.0
            for step in range(min(steps, start + EIGHT) - 1, start - 1, -1):
                propagator, lane = propagators[step - start], step - start
                apply_channels_adjoint(cotangent, channels[3 if step == steps - 1 else 2 if step == steps - 2 else 1], digits)
                # L(U rho U^dagger): the cotangent of U is 2 Lambda U rho, that of rho is U^dagger Lambda U.
                np.dot(cotangent, propagator, moved)
                adjoint = np.dot(moved, kept[b, step])
                for c in range(states):
                    for i in range(states):
                        at = (2 * c * states + i) * EIGHT + lane
                        columns[at], columns[numbers + at] = 2.0 * adjoint[i, c].real, 2.0 * adjoint[i, c].imag
                np.dot(np.conj(propagator.T), moved, cotangent)
            place = before.shape[0]
            for n in range(stride - 1, -1, -1):
                lanes = lanes_with_a_sample(count, stride, start, n)
                for half in range(1, -1, -1):
                    for lane in range(lanes):
                        mix_lane(samples, chosen, (start + lane) * stride + n, carriers, half, mixing, lane, drives)
                    fill_entries(plan, drives, scale, entries)
                    by_drive[:] = 0.0
                    for _ in range(repeats):
                        for c in range(states - 1, -1, -1):
                            place -= 2 * numbers
                            keep_vector(plan, powers, before, place, True)
                            keep_vector(plan, sums, columns, 2 * c * numbers, True)
                            sum_both(plan, energies, entries, series, sums, powers)
                            pull_back_drives(plan, sums, powers, by_drive)
                            keep_lanes(plan, sums, lanes, columns, 2 * c * numbers)
                    for lane in range(lanes):
                        unmix_lane(by_drive, chosen, (start + lane) * stride + n, carriers, half, mixing, lane, scale, gradient)
        if steps:
            apply_channels_adjoint(cotangent, channels[3 if steps == 1 else 0], digits)


def evolve_open(
    system: DrivenSystem,
    samples: Complex128[Tensor, "pulses samples channels"],
    carriers: npt.NDArray[np.complex128],
    mixing: npt.NDArray[np.complex128],
    densities: Complex128[Tensor, "batch states states"],
    factors: npt.NDArray[np.float64],
    *,
    stride: int = 1,
) -> Complex128[Tensor, "batch states states"]:
    """Evolve density matrices under sampled drives and the relaxation of each part; differentiable with respect to samples and states.

    Parameters
    ----------
    system, samples, carriers, mixing
        As `kernels.pulses.evolve` takes them.
    densities
        Hermitian matrices.
    factors
        For half a step of `stride` samples, and for half a step of the samples that are left over: the channel of each part,
        ``new[m, n] = sum_k factors[., q, k, m, n] old[m + k, n + k]``, of shape ``(2, parts, levels, levels, levels)``. Part 0 is the
        lowest digit of a state's number.
    stride
        Samples of a step, at least 1.

    Returns
    -------
    Tensor
        The matrices after the last sample, in the frame of the Hamiltonian.

    Raises
    ------
    ValueError
        If shapes or dtypes do not fit, or a tensor is not on the CPU.

    Examples
    --------
    A two-level system that nothing drives loses half its excitation:

    >>> from kernels.pulses import carrier_averages, driven_system
    >>> lowering = torch.tensor([[[0, 1], [0, 0]]], dtype=torch.complex128)
    >>> system = driven_system(torch.zeros(2, 2, dtype=torch.complex128), lowering, 1e-9)
    >>> half = np.zeros((2, 1, 2, 2, 2))
    >>> half[:, 0, 0] = [[1, 0.5**0.25], [0.5**0.25, 0.5**0.5]]
    >>> half[:, 0, 1, 0, 0] = 1 - 0.5**0.5
    >>> excited = torch.tensor([[[0, 0], [0, 1]]], dtype=torch.complex128)
    >>> idle = torch.zeros(1, 1, 1, dtype=torch.complex128)
    >>> end = evolve_open(system, idle, carrier_averages(np.zeros((1, 1)), 1e-9), np.ones((1, 1), complex), excited, half)
    >>> round(end[0, 1, 1].real.item(), 12)
    0.5
    """
    levels = factors.shape[-1]
    fits = densities.dim() == 3 and tuple(densities.shape[1:]) == (system.dimension,) * 2 and densities.dtype == torch.complex128
    if not fits or factors.ndim != 5 or levels ** factors.shape[1] != system.dimension:
        raise ValueError(
            f"Arguments `densities` and `factors` must be complex128 matrices of {system.dimension} states and channels of parts with that "
            f"many states together, but got shapes {tuple(densities.shape)} and {factors.shape}; do take both of one system."
        )
    if samples.dim() != 3 or samples.shape[0] not in (1, densities.shape[0]) or samples.shape[1] != len(carriers):
        raise ValueError(f"Argument `samples` must have shape (1 or {len(densities)}, {len(carriers)}, channels), but got {samples.shape}.")
    if densities.device.type != "cpu" or samples.device.type != "cpu":
        raise ValueError(f"Argument `densities` must be on the CPU, but is on {densities.device}; do move it there by `.cpu()`.")
    radius, repeats = pulse_series(system, samples, mixing)
    settings = (system, carriers, mixing, series_coefficients(radius), repeats, stride, np.ascontiguousarray(factors, np.float64))
    result: Tensor = _EvolveOpen.apply(samples, densities, settings)  # type: ignore[no-untyped-call]
    return result


class _EvolveOpen(torch.autograd.Function):
    """Evolution whose backward pass is the discrete adjoint."""

    @staticmethod
    def forward(ctx: Any, samples: Tensor, densities: Tensor, settings: Any) -> Tensor:
        system, carriers, mixing, series, repeats, stride, factors = settings
        out = to_numpy(densities).copy()
        played = to_numpy(samples)
        keep = any(ctx.needs_input_grad)
        steps = -(-len(carriers) // stride)
        kept = np.empty((len(out) if keep else 1, steps if keep else 1, system.dimension, system.dimension), np.complex128)
        evolve_matrices(system.side_by_side, played, carriers, mixing, series, repeats, stride, factors, out, kept, keep)
        ctx.settings, ctx.kept = settings, kept
        ctx.save_for_backward(samples)
        return torch.from_numpy(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, None]:
        (samples,) = ctx.saved_tensors
        system, carriers, mixing, series, repeats, stride, factors = ctx.settings
        given = to_numpy(upstream[0])
        # Density matrices are Hermitian: only that part of a cotangent tells them apart.
        cotangents = np.ascontiguousarray(0.5 * (given + given.conj().swapaxes(1, 2)))
        played = to_numpy(samples)
        gradient = np.zeros_like(played)
        pull_back_matrices(system.side_by_side, played, carriers, mixing, series, repeats, stride, factors, ctx.kept, cotangents, gradient)
        return torch.from_numpy(gradient), torch.from_numpy(cotangents), None
