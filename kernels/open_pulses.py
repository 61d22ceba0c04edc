"""Density matrices under sampled drives and relaxation: the propagator of a few samples, then the exact channel of each part.

A step is half a channel, the propagator, half a channel (Strang); what the steps of one sample leave out is of the order of rate times
time times the square of the angle that a sample turns, 1e-7 in trace distance for transmons.
"""

from typing import Any, Final

import numba
import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Complex128
from torch import Tensor
from torch.autograd.function import once_differentiable

from kernels.pulse_steps import ORDER, Sparse, _jit, apply_adjoint, apply_exponential, fill_entries, mix_drives
from kernels.pulses import DrivenSystem, pulse_series

LANES: Final = 2 if getattr(numba.config, "DISABLE_JIT", False) else 16
"""Steps whose propagators are made side by side, so that the innermost loop runs over neighbors in memory; few where it is Python's."""


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
def apply_to_lanes(
    sparse: Sparse, series: Any, active: Any, diagonal: Any, entries: Any, column: Any, now: Any, after: Any, sums: Any
) -> None:
    """Replace a vector of every lane, ``(states, 2, LANES)``, by ``exp(-i H)`` of it, each lane with a Hamiltonian of its own.

    Lanes that are not active (0 instead of 1) keep their vectors.
    """
    states = column.shape[0]
    starts, columns = sparse.starts, sparse.columns
    for i in range(states):
        for part in range(2):
            for lane in range(LANES):
                value = column[i, part, lane]
                now[i, part, lane] = active[lane] * series[0] * value
                column[i, part, lane] = now[i, part, lane] + (1.0 - active[lane]) * value
    for k in range(ORDER):
        factor = series[k + 1]
        for i in range(states):
            for lane in range(LANES):
                sums[0, lane] = diagonal[i, lane] * now[i, 0, lane]
                sums[1, lane] = diagonal[i, lane] * now[i, 1, lane]
            for e in range(starts[i], starts[i + 1]):
                j = columns[e]
                for lane in range(LANES):
                    sums[0, lane] += entries[e, 0, lane] * now[j, 0, lane] - entries[e, 1, lane] * now[j, 1, lane]
                    sums[1, lane] += entries[e, 0, lane] * now[j, 1, lane] + entries[e, 1, lane] * now[j, 0, lane]
            for lane in range(LANES):
                after[i, 0, lane] = factor * sums[1, lane]
                after[i, 1, lane] = -factor * sums[0, lane]
                column[i, 0, lane] += factor * sums[1, lane]
                column[i, 1, lane] -= factor * sums[0, lane]
        now, after = after, now


@_jit
def build_propagators(
    sparse: Sparse,
    played: Any,
    carriers: Any,
    mixing: Any,
    series: Any,
    repeats: int,
    stride: int,
    first_step: int,
    vectors: Any,
    propagators: Any,
) -> None:
    """Write the propagators of the next LANES steps, ``(LANES, states, states)``; past the last sample nothing moves."""
    states, count = propagators.shape[1], played.shape[0]
    entry_count = sparse.columns.shape[0]
    drives = np.empty(mixing.shape[0], np.complex128)
    real, imaginary = np.empty(entry_count), np.empty(entry_count)
    entries, diagonal, active = np.empty((entry_count, 2, LANES)), np.empty((states, LANES)), np.empty(LANES)
    now, after, sums = np.empty((states, 2, LANES)), np.empty((states, 2, LANES)), np.empty((2, LANES))
    vectors[:] = 0.0
    for c in range(states):
        vectors[c, c, 0] = 1.0
    for n in range(stride):
        for half in range(2):
            for lane in range(LANES):
                sample = (first_step + lane) * stride + n
                active[lane] = 1.0 if sample < count else 0.0
                scale = active[lane] / repeats
                if sample < count:
                    mix_drives(played[sample], carriers[sample, half], mixing, drives)
                fill_entries(sparse, drives, scale, real, imaginary)
                for e in range(entry_count):
                    entries[e, 0, lane] = real[e]
                    entries[e, 1, lane] = imaginary[e]
                for i in range(states):
                    diagonal[i, lane] = scale * sparse.energies[i]
            for _ in range(repeats):
                for c in range(states):
                    apply_to_lanes(sparse, series, active, diagonal, entries, vectors[c], now, after, sums)
    for lane in range(LANES):
        for c in range(states):
            for i in range(states):
                propagators[lane, i, c] = complex(vectors[c, i, 0, lane], vectors[c, i, 1, lane])


@_jit
def build_propagator(
    sparse: Sparse, played: Any, carriers: Any, mixing: Any, series: Any, repeats: int, terms: Any, columns: Any, propagator: Any
) -> None:
    """Write the propagator of some samples; its series' terms stay in ``terms[exponential, column]`` for the way back."""
    scale = 1.0 / repeats
    states = propagator.shape[0]
    drives = np.empty(mixing.shape[0], np.complex128)
    entries_re = np.empty(sparse.columns.shape[0])
    entries_im = np.empty(sparse.columns.shape[0])
    for c in range(states):
        for i in range(states):
            columns[c, i, 0] = 1.0 if i == c else 0.0
            columns[c, i, 1] = 0.0
    position = 0
    for n in range(played.shape[0]):
        for half in range(2):
            mix_drives(played[n], carriers[n, half], mixing, drives)
            fill_entries(sparse, drives, scale, entries_re, entries_im)
            for _ in range(repeats):
                for c in range(states):
                    apply_exponential(sparse, series, scale, entries_re, entries_im, terms[position, c], columns[c])
                position += 1
    for c in range(states):
        for i in range(states):
            propagator[i, c] = complex(columns[c, i, 0], columns[c, i, 1])


@_jit
def evolve_matrices(
    sparse: Sparse,
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
    vectors, propagators = np.empty((states, states, 2, LANES)), np.empty((LANES, states, states), np.complex128)
    moved = np.empty((states, states), np.complex128)
    for p in range(pulses):
        # One pulse for all matrices: its propagators are made once.
        first, last = (p, p + 1) if pulses > 1 else (0, densities.shape[0])
        for b in range(first, last):
            apply_channels(densities[b], channels[3 if steps == 1 else 0], digits)
        for start in range(0, steps, LANES):
            build_propagators(sparse, samples[p], carriers, mixing, series, repeats, stride, start, vectors, propagators)
            for step in range(start, min(steps, start + LANES)):
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
    sparse: Sparse,
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
    scale = 1.0 / repeats
    states = cotangents.shape[1]
    operators, lines = mixing.shape
    columns = np.empty((states, states, 2))
    propagator, moved = np.empty((states, states), np.complex128), np.empty((states, states), np.complex128)
    terms = np.empty((2 * repeats * stride, states, ORDER + 1, states, 2))
    drives = np.empty(operators, np.complex128)
    by_drive = np.empty(operators, np.complex128)
    entries_re, entries_im = np.empty(sparse.columns.shape[0]), np.empty(sparse.columns.shape[0])
    back = np.empty((ORDER, states, 2))
    count = samples.shape[1]
    steps = (count + stride - 1) // stride
    channels, digits = step_channels(factors, count % stride == 0), digits_of(states, factors.shape[1], factors.shape[2])
    for b in range(cotangents.shape[0]):
        chosen = b if samples.shape[0] > 1 else 0
        played = samples[chosen]
        cotangent = cotangents[b]
        for step in range(steps - 1, -1, -1):
            first, last = step * stride, min(count, (step + 1) * stride)
            apply_channels_adjoint(cotangent, channels[3 if step == steps - 1 else 2 if step == steps - 2 else 1], digits)
            build_propagator(sparse, played[first:last], carriers[first:last], mixing, series, repeats, terms, columns, propagator)
            # L(U rho U^dagger): the cotangent of U is 2 Lambda U rho, that of rho is U^dagger Lambda U.
            np.dot(cotangent, propagator, moved)
            adjoint = np.dot(moved, kept[b, step])
            for c in range(states):
                for i in range(states):
                    columns[c, i, 0] = 2.0 * adjoint[i, c].real
                    columns[c, i, 1] = 2.0 * adjoint[i, c].imag
            np.dot(np.conj(propagator.T), moved, cotangent)
            position = 2 * repeats * (last - first)
            for n in range(last - 1, first - 1, -1):
                for half in range(1, -1, -1):
                    mix_drives(played[n], carriers[n, half], mixing, drives)
                    fill_entries(sparse, drives, scale, entries_re, entries_im)
                    for q in range(operators):
                        by_drive[q] = 0.0
                    for _ in range(repeats):
                        position -= 1
                        for c in range(states):
                            apply_adjoint(sparse, series, scale, entries_re, entries_im, terms[position, c], back, columns[c], by_drive)
                    for c in range(lines):
                        total = 0.0j
                        for q in range(operators):
                            total += mixing[q, c].conjugate() * by_drive[q]
                        gradient[chosen, n, c] += carriers[n, half, c].conjugate() * total
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
    series, repeats = pulse_series(system, samples, mixing)
    settings = (system, carriers, mixing, series, repeats, stride, np.ascontiguousarray(factors, np.float64))
    result: Tensor = _EvolveOpen.apply(samples, densities, settings)  # type: ignore[no-untyped-call]
    return result


class _EvolveOpen(torch.autograd.Function):
    """Evolution whose backward pass is the discrete adjoint."""

    @staticmethod
    def forward(ctx: Any, samples: Tensor, densities: Tensor, settings: Any) -> Tensor:
        system, carriers, mixing, series, repeats, stride, factors = settings
        out = np.array(densities.detach().resolve_conj().numpy(), order="C")
        played = np.ascontiguousarray(samples.detach().resolve_conj().numpy())
        keep = any(ctx.needs_input_grad)
        steps = -(-len(carriers) // stride)
        kept = np.empty((len(out) if keep else 1, steps if keep else 1, system.dimension, system.dimension), np.complex128)
        evolve_matrices(system.sparse, played, carriers, mixing, series, repeats, stride, factors, out, kept, keep)
        ctx.settings, ctx.kept = settings, kept
        ctx.save_for_backward(samples)
        return torch.from_numpy(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, None]:
        (samples,) = ctx.saved_tensors
        system, carriers, mixing, series, repeats, stride, factors = ctx.settings
        given = upstream[0].resolve_conj().numpy()
        # Density matrices are Hermitian: only that part of a cotangent tells them apart.
        cotangents = np.ascontiguousarray(0.5 * (given + given.conj().swapaxes(1, 2)))
        played = np.ascontiguousarray(samples.detach().resolve_conj().numpy())
        gradient = np.zeros_like(played)
        pull_back_matrices(system.sparse, played, carriers, mixing, series, repeats, stride, factors, ctx.kept, cotangents, gradient)
        return torch.from_numpy(gradient), torch.from_numpy(cotangents), None
