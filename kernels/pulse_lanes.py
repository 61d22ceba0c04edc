"""The inner loops of `kernels.pulses` on many vectors side by side, each with a Hamiltonian of its own.

A lane is one of `LANES` vectors: numbers of the lanes of one state are neighbors in memory, and states that follow each other are handled
in one loop, so that processors work on several numbers at once. A vector of all lanes is ``(2, states * LANES)``, real and imaginary
parts, and a Hamiltonian's entries are ``(2, entries * LANES)``.
"""

from typing import Any, Final, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from kernels.pulse_steps import ORDER, Sparse, _inlined, _jit

LANES: Final = 2 if getattr(numba.config, "DISABLE_JIT", False) else 16
"""Vectors side by side; few where the innermost loop is Python's."""
WIDTH: Final = np.uint64(LANES)
"""The same for indices: unsigned ones have no branch for those that count from the end, which would keep loops from being vectorized."""


class Runs(NamedTuple):
    """A driven Hamiltonian times half a sample's time, by runs of entries one below the other on a diagonal above the main one.

    Places are those of the first lane: numbers of a row, column, entry or operator times `LANES`.

    Attributes
    ----------
    energies
        Diagonal, ``(states,)`` float64.
    runs
        First row, first column, first entry and length of each run, ``(runs, 4)`` uint64.
    static_re, static_im
        Value of each entry without drives, ``(entries,)`` float64, in the order of the runs.
    term_entries
        Entry of each matrix element of a drive, ``(terms,)`` uint64.
    term_operators
        The operator that it belongs to, ``(terms,)`` uint64.
    term_runs
        First row, first column, first element and length of each run of matrix elements, ``(term runs, 4)`` uint64.
    term_weights
        Value of each matrix element, ``(terms,)`` complex128.
    """

    energies: npt.NDArray[np.float64]
    runs: npt.NDArray[np.uint64]
    static_re: npt.NDArray[np.float64]
    static_im: npt.NDArray[np.float64]
    term_entries: npt.NDArray[np.uint64]
    term_operators: npt.NDArray[np.uint64]
    term_runs: npt.NDArray[np.uint64]
    term_weights: npt.NDArray[np.complex128]


def sort_into_runs(sparse: Sparse) -> Runs:
    """Return the same Hamiltonian by runs.

    Examples
    --------
    >>> import torch
    >>> from kernels.pulses import driven_system
    >>> lowering = torch.diag(torch.tensor([1.0, 1.4], dtype=torch.complex128), 1)
    >>> system = driven_system(torch.zeros(3, 3, dtype=torch.complex128), lowering[None], 1e-9)
    >>> (sort_into_runs(system.sparse).runs // LANES).tolist()
    [[0, 1, 0, 2]]
    """
    columns = sparse.columns.astype(np.int64)
    lengths = sparse.starts[1:].astype(np.int64) - sparse.starts[:-1].astype(np.int64)
    rows = np.repeat(np.arange(len(sparse.energies)), lengths)
    order = np.lexsort((rows, columns - rows))
    order = order[rows[order] < columns[order]]
    place = np.zeros(len(rows), np.uint64)
    place[order] = np.arange(len(order))
    term_rows, term_columns = sparse.term_rows.astype(np.int64), sparse.term_columns.astype(np.int64)
    terms = np.lexsort((term_rows, term_columns - term_rows, sparse.term_operators))
    return Runs(
        energies=sparse.energies,
        runs=_runs(rows[order], columns[order], np.zeros(len(order))),
        static_re=sparse.static_re[order],
        static_im=sparse.static_im[order],
        term_entries=place[sparse.term_upper.astype(np.int64)[terms]] * WIDTH,
        term_operators=sparse.term_operators[terms] * WIDTH,
        term_runs=_runs(term_rows[terms], term_columns[terms], sparse.term_operators[terms].astype(float)),
        term_weights=sparse.term_weights[terms],
    )


def _runs(rows: Any, columns: Any, groups: Any) -> npt.NDArray[np.uint64]:
    """Return first row, first column, first number and length of stretches in which rows and columns go up by one."""
    if not len(rows):
        return np.zeros((0, 4), np.uint64)
    breaks = (np.diff(rows) != 1) | (np.diff(columns) != 1) | (np.diff(groups) != 0)
    firsts = np.concatenate([[0], np.nonzero(breaks)[0] + 1])
    lengths = np.diff(np.concatenate([firsts, [len(rows)]]))
    return np.stack([rows[firsts], columns[firsts], firsts, lengths], 1).astype(np.uint64) * WIDTH


@_jit
def aligned(numbers: int) -> Any:
    """Return memory for so many float64 that begins with a line of the cache: loads across two lines take half as long again."""
    memory = np.empty(numbers + 8)
    first = -(memory.ctypes.data // 8) % 8
    return memory[first : first + numbers]


@_jit
def aligned_vectors(count: int, states: int) -> Any:
    """Return memory for so many vectors of all lanes, ``(count, 2, states * LANES)``."""
    return aligned(count * 2 * states * LANES).reshape(count, 2, states * LANES)


@_jit
def fill_lanes(runs: Runs, drives: Any, scale: float, energies: Any, entries: Any) -> None:
    """Write the Hamiltonians of all lanes times `scale`, for drives ``(2, operators * LANES)``: diagonals and entries above."""
    place = np.uint64(0)
    for i in range(runs.energies.shape[0]):
        energy = scale * runs.energies[i]
        for lane in range(WIDTH):
            energies[place + lane] = energy
        place += WIDTH
    place = np.uint64(0)
    for e in range(runs.static_re.shape[0]):
        real, imaginary = scale * runs.static_re[e], scale * runs.static_im[e]
        for lane in range(WIDTH):
            entries[0, place + lane] = real
            entries[1, place + lane] = imaginary
        place += WIDTH
    for t in range(runs.term_entries.shape[0]):
        real, imaginary = scale * runs.term_weights[t].real, scale * runs.term_weights[t].imag
        entry, drive = runs.term_entries[t], runs.term_operators[t]
        for lane in range(WIDTH):
            entries[0, entry + lane] += drives[0, drive + lane] * real - drives[1, drive + lane] * imaginary
            entries[1, entry + lane] += drives[0, drive + lane] * imaginary + drives[1, drive + lane] * real


@_inlined
def multiply_lanes(runs: Any, energies: Any, entries: Any, share: float, start: Any, vector: Any, out: Any) -> None:
    """Write ``share * start + i H vector``."""
    for t in range(energies.shape[0]):
        out[0, t] = share * start[0, t] - energies[t] * vector[1, t]
        out[1, t] = share * start[1, t] + energies[t] * vector[0, t]
    for r in range(runs.shape[0]):
        row, column, entry = runs[r, 0], runs[r, 1], runs[r, 2]
        for t in range(runs[r, 3]):
            out[0, row + t] -= entries[0, entry + t] * vector[1, column + t] + entries[1, entry + t] * vector[0, column + t]
            out[1, row + t] += entries[0, entry + t] * vector[0, column + t] - entries[1, entry + t] * vector[1, column + t]
        # Below the diagonal stand the conjugates.
        for t in range(runs[r, 3]):
            out[0, column + t] -= entries[0, entry + t] * vector[1, row + t] - entries[1, entry + t] * vector[0, row + t]
            out[1, column + t] += entries[0, entry + t] * vector[0, row + t] + entries[1, entry + t] * vector[1, row + t]


@_jit
def sum_series(runs: Runs, energies: Any, entries: Any, series: Any, vector: Any, sums: Any) -> None:
    """Write the sums of the series of ``exp(i H)`` on a vector of all lanes, by Horner's rule.

    ``sums[k]`` is ``sum_a series[a + k] (i H)^a vector``, ``(ORDER + 1, 2, states * LANES)``: the first is the exponential.
    """
    last = sums[ORDER]
    for part in range(2):
        for t in range(vector.shape[1]):
            last[part, t] = series[ORDER] * vector[part, t]
    for k in range(ORDER - 1, -1, -1):
        multiply_lanes(runs.runs, energies, entries, series[k], vector, sums[k + 1], sums[k])


@_jit
def add_gradient(runs: Runs, energies: Any, entries: Any, sums: Any, powers: Any, by_term: Any, by_drive: Any) -> None:
    """Write the cotangents of the drives, ``(2, operators * LANES)``, of ``exp(-i H)`` on the vector ``powers[0]``.

    `sums` are those of `sum_series` on the cotangent, and `powers` is filled with ``(i H)^k`` on the vector.
    """
    by_term[:] = 0.0
    sign = 1.0
    for k in range(ORDER):
        w, v = sums[k + 1], powers[k]
        if k:
            multiply_lanes(runs.runs, energies, entries, 0.0, powers[k - 1], powers[k - 1], v)
        for r in range(runs.term_runs.shape[0]):
            row, column, term = runs.term_runs[r, 0], runs.term_runs[r, 1], runs.term_runs[r, 2]
            for t in range(runs.term_runs[r, 3]):
                by_term[0, term + t] += sign * (
                    (w[0, row + t] * v[1, column + t] - w[1, row + t] * v[0, column + t])
                    + (w[0, column + t] * v[1, row + t] - w[1, column + t] * v[0, row + t])
                )
                by_term[1, term + t] += sign * (
                    (w[0, row + t] * v[0, column + t] + w[1, row + t] * v[1, column + t])
                    - (w[0, column + t] * v[0, row + t] + w[1, column + t] * v[1, row + t])
                )
        # The vector's series is that of exp(-i H).
        sign = -sign
    term = np.uint64(0)
    for t in range(runs.term_operators.shape[0]):
        drive, real, imaginary = runs.term_operators[t], runs.term_weights[t].real, runs.term_weights[t].imag
        for lane in range(WIDTH):
            x, y = by_term[0, term + lane], by_term[1, term + lane]
            by_drive[0, drive + lane] += x * real + y * imaginary
            by_drive[1, drive + lane] += y * real - x * imaginary
        term += WIDTH


@_inlined
def mix_lane(samples: Any, which: int, n: int, carriers: Any, half: int, mixing: Any, lane: int, drives: Any) -> None:
    """Write the values of the drives of one lane into ``(2, operators * LANES)``."""
    for q in range(mixing.shape[0]):
        total = 0.0j
        for c in range(mixing.shape[1]):
            total += mixing[q, c] * (samples[which, n, c] * carriers[n, half, c])
        drives[0, q * LANES + lane] = total.real
        drives[1, q * LANES + lane] = total.imag


@_inlined
def unmix_lane(by_drive: Any, which: int, n: int, carriers: Any, half: int, mixing: Any, lane: int, scale: float, gradient: Any) -> None:
    """Add to the gradient of a sample what the cotangents of the drives of one lane make of it."""
    for c in range(mixing.shape[1]):
        total = 0.0j
        for q in range(mixing.shape[0]):
            total += mixing[q, c].conjugate() * complex(by_drive[0, q * LANES + lane], by_drive[1, q * LANES + lane])
        gradient[which, n, c] += scale * (carriers[n, half, c].conjugate() * total)


@_inlined
def copy_vector(source: Any, target: Any) -> None:
    """Copy a vector of all lanes; an assignment of slices takes longer."""
    for part in range(2):
        for t in range(target.shape[1]):
            target[part, t] = source[part, t]


@_jit
def evolve_lanes(
    runs: Runs, samples: Any, carriers: Any, mixing: Any, series: Any, repeats: int, states: Any, kept: Any, keep: bool
) -> None:
    """Evolve each vector in place; with `keep` the vectors before every exponential stay in `kept`.

    Shapes: samples (batch or 1, samples, channels), carriers (samples, 2, channels), mixing (operators, channels), states
    (batch, states), kept (batch / LANES rounded up, exponentials, 2, states * LANES).
    """
    size, batch = states.shape[1], states.shape[0]
    drives, energies = np.zeros((2, mixing.shape[0] * LANES)), aligned(size * LANES)
    entries = aligned(2 * runs.static_re.shape[0] * LANES).reshape(2, -1)
    vector, sums = aligned_vectors(1, size)[0], aligned_vectors(ORDER + 1, size)
    for group in range((batch + LANES - 1) // LANES):
        first = group * LANES
        count = min(LANES, batch - first)
        vector[:] = 0.0
        for lane in range(count):
            for i in range(size):
                vector[0, i * LANES + lane] = states[first + lane, i].real
                vector[1, i * LANES + lane] = states[first + lane, i].imag
        position = 0
        for n in range(samples.shape[1]):
            for half in range(2):
                for lane in range(count):
                    mix_lane(samples, first + lane if samples.shape[0] > 1 else 0, n, carriers, half, mixing, lane, drives)
                fill_lanes(runs, drives, -1.0 / repeats, energies, entries)
                for _ in range(repeats):
                    if keep:
                        copy_vector(vector, kept[group, position])
                    sum_series(runs, energies, entries, series, vector, sums)
                    copy_vector(sums[0], vector)
                    position += 1
        for lane in range(count):
            for i in range(size):
                states[first + lane, i] = complex(vector[0, i * LANES + lane], vector[1, i * LANES + lane])


@_jit
def pull_back_lanes(
    runs: Runs, samples: Any, carriers: Any, mixing: Any, series: Any, repeats: int, kept: Any, cotangents: Any, gradient: Any
) -> None:
    """Pull cotangents of the evolved vectors back to the vectors in place, and add those of the samples to `gradient`.

    `kept` is what `evolve_lanes` left; `gradient` has the shape of `samples`.
    """
    size, batch = cotangents.shape[1], cotangents.shape[0]
    drives, energies = np.zeros((2, mixing.shape[0] * LANES)), aligned(size * LANES)
    entries = aligned(2 * runs.static_re.shape[0] * LANES).reshape(2, -1)
    by_term, by_drive = aligned(2 * runs.term_entries.shape[0] * LANES).reshape(2, -1), np.empty((2, mixing.shape[0] * LANES))
    vector, sums, powers = aligned_vectors(1, size)[0], aligned_vectors(ORDER + 1, size), aligned_vectors(ORDER, size)
    for group in range((batch + LANES - 1) // LANES):
        first = group * LANES
        count = min(LANES, batch - first)
        vector[:] = 0.0
        for lane in range(count):
            for i in range(size):
                vector[0, i * LANES + lane] = cotangents[first + lane, i].real
                vector[1, i * LANES + lane] = cotangents[first + lane, i].imag
        position = 2 * repeats * samples.shape[1]
        for n in range(samples.shape[1] - 1, -1, -1):
            for half in range(1, -1, -1):
                for lane in range(count):
                    mix_lane(samples, first + lane if samples.shape[0] > 1 else 0, n, carriers, half, mixing, lane, drives)
                fill_lanes(runs, drives, 1.0 / repeats, energies, entries)
                by_drive[:] = 0.0
                for _ in range(repeats):
                    position -= 1
                    sum_series(runs, energies, entries, series, vector, sums)
                    copy_vector(kept[group, position], powers[0])
                    add_gradient(runs, energies, entries, sums, powers, by_term, by_drive)
                    copy_vector(sums[0], vector)
                for lane in range(count):
                    which = first + lane if samples.shape[0] > 1 else 0
                    unmix_lane(by_drive, which, n, carriers, half, mixing, lane, 1.0 / repeats, gradient)
        for lane in range(count):
            for i in range(size):
                cotangents[first + lane, i] = complex(vector[0, i * LANES + lane], vector[1, i * LANES + lane])
