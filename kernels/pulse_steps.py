"""The inner loops of `kernels.pulses` for few vectors: exponentials of a driven Hamiltonian on one after the other, forward and backward.

Index arrays are unsigned, because Numba then leaves out the branch for indices that count from the end.
"""

from typing import Any, Final, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

ORDER: Final = 7
"""Degree of the series of an exponential."""

_jit = numba.njit(cache=True, fastmath={"contract"}, error_model="numpy", nogil=True)
# A call would copy the descriptors of all arrays, which takes longer than what some of these functions do.
_inlined = numba.njit(cache=True, fastmath={"contract"}, error_model="numpy", nogil=True, inline="always")


class Sparse(NamedTuple):
    """A driven Hamiltonian times half a sample's time, as arrays.

    Attributes
    ----------
    energies
        Diagonal, ``(states,)`` float64, shifted so that its range is symmetric about zero.
    starts
        First entry of each row, ``(states + 1,)`` uint64.
    columns
        Column of each entry off the diagonal, ``(entries,)`` uint64.
    static_re, static_im
        Value of each entry without drives, ``(entries,)`` float64.
    term_upper, term_lower
        Entry of each matrix element of a drive, and that of its conjugate, ``(terms,)`` uint64.
    term_operators
        The operator that it belongs to, ``(terms,)`` uint64.
    term_rows, term_columns
        Row and column of that matrix element, ``(terms,)`` uint64.
    term_weights
        Its value, ``(terms,)`` complex128.
    """

    energies: npt.NDArray[np.float64]
    starts: npt.NDArray[np.uint64]
    columns: npt.NDArray[np.uint64]
    static_re: npt.NDArray[np.float64]
    static_im: npt.NDArray[np.float64]
    term_upper: npt.NDArray[np.uint64]
    term_lower: npt.NDArray[np.uint64]
    term_operators: npt.NDArray[np.uint64]
    term_rows: npt.NDArray[np.uint64]
    term_columns: npt.NDArray[np.uint64]
    term_weights: npt.NDArray[np.complex128]


@_inlined
def fill_entries(sparse: Sparse, drives: Any, scale: float, entries_re: Any, entries_im: Any) -> None:
    """Write the Hamiltonian's entries off the diagonal for these values of the drives, times `scale`."""
    static_re, static_im = sparse.static_re, sparse.static_im
    for e in range(static_re.shape[0]):
        entries_re[e] = scale * static_re[e]
        entries_im[e] = scale * static_im[e]
    for t in range(sparse.term_upper.shape[0]):
        drive, weight = drives[sparse.term_operators[t]], sparse.term_weights[t]
        x = scale * (drive.real * weight.real - drive.imag * weight.imag)
        y = scale * (drive.real * weight.imag + drive.imag * weight.real)
        upper, lower = sparse.term_upper[t], sparse.term_lower[t]
        entries_re[upper] += x
        entries_im[upper] += y
        entries_re[lower] += x
        entries_im[lower] -= y


@_inlined
def mix_drives(samples: Any, carriers: Any, mixing: Any, drives: Any) -> None:
    """Write the value of each operator's drive: channels' samples times their carriers, mixed."""
    for q in range(mixing.shape[0]):
        total = 0.0j
        for c in range(mixing.shape[1]):
            total += mixing[q, c] * (samples[c] * carriers[c])
        drives[q] = total


@_inlined
def apply_exponential(sparse: Sparse, series: Any, scale: float, entries_re: Any, entries_im: Any, terms: Any, v: Any) -> None:
    """Replace v by ``exp(-i H) v`` and leave the terms ``c_k (-i H)^k v`` behind; a vector is ``(states, 2)``, real and imaginary."""
    states = v.shape[0]
    energies, starts, columns = sparse.energies, sparse.starts, sparse.columns
    first = terms[0]
    for i in range(states):
        first[i, 0] = series[0] * v[i, 0]
        first[i, 1] = series[0] * v[i, 1]
        v[i, 0] = first[i, 0]
        v[i, 1] = first[i, 1]
    for k in range(ORDER):
        factor = series[k + 1]
        now, after = terms[k], terms[k + 1]
        for i in range(states):
            energy = scale * energies[i]
            x = energy * now[i, 0]
            y = energy * now[i, 1]
            for e in range(starts[i], starts[i + 1]):
                j = columns[e]
                x += entries_re[e] * now[j, 0] - entries_im[e] * now[j, 1]
                y += entries_re[e] * now[j, 1] + entries_im[e] * now[j, 0]
            after[i, 0] = y * factor
            after[i, 1] = -x * factor
            v[i, 0] += y * factor
            v[i, 1] -= x * factor


@_inlined
def apply_adjoint(
    sparse: Sparse, series: Any, scale: float, entries_re: Any, entries_im: Any, terms: Any, back: Any, w: Any, gradient: Any
) -> None:
    """Pull a cotangent w of ``exp(-i H) v`` back to v in place, and add that of the drives' values to `gradient`.

    The terms are those that `apply_exponential` left behind; those of the way back go to ``back[k]``, times the series' factor.
    """
    states = w.shape[0]
    energies, starts, columns = sparse.energies, sparse.starts, sparse.columns
    last = back[ORDER - 1]
    for i in range(states):
        last[i, 0] = series[ORDER] * w[i, 0]
        last[i, 1] = series[ORDER] * w[i, 1]
    for k in range(ORDER - 1, 0, -1):
        now, before = back[k], back[k - 1]
        factor = series[k]
        for i in range(states):
            energy = scale * energies[i]
            x = energy * now[i, 0]
            y = energy * now[i, 1]
            for e in range(starts[i], starts[i + 1]):
                j = columns[e]
                x += entries_re[e] * now[j, 0] - entries_im[e] * now[j, 1]
                y += entries_re[e] * now[j, 1] + entries_im[e] * now[j, 0]
            # The adjoint of -i H is i H.
            before[i, 0] = factor * (w[i, 0] - y)
            before[i, 1] = factor * (w[i, 1] + x)
    now = back[0]
    for i in range(states):
        energy = scale * energies[i]
        x = energy * now[i, 0]
        y = energy * now[i, 1]
        for e in range(starts[i], starts[i + 1]):
            j = columns[e]
            x += entries_re[e] * now[j, 0] - entries_im[e] * now[j, 1]
            y += entries_re[e] * now[j, 1] + entries_im[e] * now[j, 0]
        w[i, 0] = series[0] * (w[i, 0] - y)
        w[i, 1] = series[0] * (w[i, 1] + x)
    rows, uppers = sparse.term_rows, sparse.term_columns
    for t in range(rows.shape[0]):
        i, j = rows[t], uppers[t]
        x, y = 0.0, 0.0
        for k in range(ORDER):
            a_re, a_im, b_re, b_im = back[k, i, 0], back[k, i, 1], back[k, j, 0], back[k, j, 1]
            c_re, c_im, d_re, d_im = terms[k, i, 0], terms[k, i, 1], terms[k, j, 0], terms[k, j, 1]
            x += (a_re * d_im - a_im * d_re) + (b_re * c_im - b_im * c_re)
            y += (a_re * d_re + a_im * d_im) - (b_re * c_re + b_im * c_im)
        weight = sparse.term_weights[t]
        x, y = scale * x, scale * y
        gradient[sparse.term_operators[t]] += complex(x * weight.real + y * weight.imag, y * weight.real - x * weight.imag)


@_jit
def evolve_vectors(
    sparse: Sparse, samples: Any, carriers: Any, mixing: Any, series: Any, repeats: int, states: Any, terms: Any, keep: bool
) -> None:
    """Evolve each vector in place; with `keep` the series' terms of every exponential stay in `terms`.

    Shapes: samples (batch or 1, samples, channels), carriers (samples, 2, channels), mixing (operators, channels), states
    (batch, states), terms (batch or 1, exponentials or 1, ORDER + 1, states, 2).
    """
    scale = 1.0 / repeats
    drives = np.empty(mixing.shape[0], np.complex128)
    entries_re = np.empty(sparse.columns.shape[0])
    entries_im = np.empty(sparse.columns.shape[0])
    v = np.empty((states.shape[1], 2))
    for b in range(states.shape[0]):
        for i in range(v.shape[0]):
            v[i, 0] = states[b, i].real
            v[i, 1] = states[b, i].imag
        played = samples[b if samples.shape[0] > 1 else 0]
        position = 0
        for n in range(played.shape[0]):
            for half in range(2):
                mix_drives(played[n], carriers[n, half], mixing, drives)
                fill_entries(sparse, drives, scale, entries_re, entries_im)
                for _ in range(repeats):
                    place = terms[b, position] if keep else terms[0, 0]
                    apply_exponential(sparse, series, scale, entries_re, entries_im, place, v)
                    position += 1
        for i in range(v.shape[0]):
            states[b, i] = complex(v[i, 0], v[i, 1])


@_jit
def pull_back_vectors(
    sparse: Sparse,
    samples: Any,
    carriers: Any,
    mixing: Any,
    series: Any,
    repeats: int,
    terms: Any,
    cotangents: Any,
    gradient: Any,
) -> None:
    """Pull cotangents of the evolved vectors back to the vectors in place, and add those of the samples to `gradient`.

    `terms` holds what `evolve_vectors` kept; `gradient` has the shape of `samples`.
    """
    scale = 1.0 / repeats
    operators, channels = mixing.shape
    drives = np.empty(operators, np.complex128)
    by_drive = np.empty(operators, np.complex128)
    entries_re = np.empty(sparse.columns.shape[0])
    entries_im = np.empty(sparse.columns.shape[0])
    back = np.empty((ORDER, cotangents.shape[1], 2))
    w = np.empty((cotangents.shape[1], 2))
    for b in range(cotangents.shape[0]):
        for i in range(w.shape[0]):
            w[i, 0] = cotangents[b, i].real
            w[i, 1] = cotangents[b, i].imag
        which = b if samples.shape[0] > 1 else 0
        played = samples[which]
        position = 2 * repeats * played.shape[0]
        for n in range(played.shape[0] - 1, -1, -1):
            for half in range(1, -1, -1):
                mix_drives(played[n], carriers[n, half], mixing, drives)
                fill_entries(sparse, drives, scale, entries_re, entries_im)
                for q in range(operators):
                    by_drive[q] = 0.0
                for _ in range(repeats):
                    position -= 1
                    apply_adjoint(sparse, series, scale, entries_re, entries_im, terms[b, position], back, w, by_drive)
                for c in range(channels):
                    total = 0.0j
                    for q in range(operators):
                        total += mixing[q, c].conjugate() * by_drive[q]
                    gradient[which, n, c] += carriers[n, half, c].conjugate() * total
        for i in range(w.shape[0]):
            cotangents[b, i] = complex(w[i, 0], w[i, 1])
