"""The inner loops of `kernels.pulses`: exponentials of a driven Hamiltonian on one vector after the other, forward and backward.

Index arrays are unsigned, because Numba then leaves out the branch for indices that count from the end.
"""

from typing import Any, Final, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

ORDER: Final = 6
"""Degree of the series of an exponential."""

_jit = numba.njit(cache=True, fastmath={"contract"}, error_model="numpy", nogil=True)


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
    pairs
        The conjugate pair that an entry belongs to, ``(entries,)`` uint64.
    signs
        +1 for the entry above the diagonal, -1 for its conjugate, ``(entries,)`` float64.
    static
        Value of each pair's upper entry without drives, ``(pairs,)`` complex128.
    term_pairs, term_operators
        Pair and operator of each matrix element of a drive, ``(terms,)`` uint64.
    term_rows, term_columns
        Row and column of that matrix element, ``(terms,)`` uint64.
    term_weights
        Its value, ``(terms,)`` complex128.
    """

    energies: npt.NDArray[np.float64]
    starts: npt.NDArray[np.uint64]
    columns: npt.NDArray[np.uint64]
    pairs: npt.NDArray[np.uint64]
    signs: npt.NDArray[np.float64]
    static: npt.NDArray[np.complex128]
    term_pairs: npt.NDArray[np.uint64]
    term_operators: npt.NDArray[np.uint64]
    term_rows: npt.NDArray[np.uint64]
    term_columns: npt.NDArray[np.uint64]
    term_weights: npt.NDArray[np.complex128]


@_jit
def fill_entries(sparse: Sparse, drives: Any, scale: float, pair_values: Any, entries_re: Any, entries_im: Any) -> None:
    """Write the Hamiltonian's entries off the diagonal for these values of the drives, times `scale`."""
    for p in range(sparse.static.shape[0]):
        pair_values[p] = sparse.static[p]
    for t in range(sparse.term_pairs.shape[0]):
        pair_values[sparse.term_pairs[t]] += drives[sparse.term_operators[t]] * sparse.term_weights[t]
    for e in range(sparse.pairs.shape[0]):
        value = pair_values[sparse.pairs[e]]
        entries_re[e] = scale * value.real
        entries_im[e] = scale * sparse.signs[e] * value.imag


@_jit
def mix_drives(samples: Any, carriers: Any, mixing: Any, drives: Any) -> None:
    """Write the value of each operator's drive: channels' samples times their carriers, mixed."""
    for q in range(mixing.shape[0]):
        total = 0.0j
        for c in range(mixing.shape[1]):
            total += mixing[q, c] * (samples[c] * carriers[c])
        drives[q] = total


@_jit
def apply_exponential(
    sparse: Sparse,
    series: Any,
    scale: float,
    entries_re: Any,
    entries_im: Any,
    terms_re: Any,
    terms_im: Any,
    v_re: Any,
    v_im: Any,
) -> None:
    """Replace v by ``exp(-i H) v`` and leave the terms ``c_k (-i H)^k v``, k = 0 to 5, behind."""
    states = v_re.shape[0]
    first_re, first_im = terms_re[0], terms_im[0]
    for i in range(states):
        v_re[i] *= series[0]
        v_im[i] *= series[0]
        first_re[i] = v_re[i]
        first_im[i] = v_im[i]
    for k in range(ORDER):
        factor = series[k + 1]
        a_re, a_im, b_re, b_im = terms_re[k], terms_im[k], terms_re[k + 1], terms_im[k + 1]
        for i in range(states):
            energy = scale * sparse.energies[i]
            x = energy * a_re[i]
            y = energy * a_im[i]
            for e in range(sparse.starts[i], sparse.starts[i + 1]):
                j = sparse.columns[e]
                x += entries_re[e] * a_re[j] - entries_im[e] * a_im[j]
                y += entries_re[e] * a_im[j] + entries_im[e] * a_re[j]
            b_re[i] = y * factor
            b_im[i] = -x * factor
            v_re[i] += y * factor
            v_im[i] -= x * factor


@_jit
def apply_adjoint(
    sparse: Sparse,
    series: Any,
    scale: float,
    entries_re: Any,
    entries_im: Any,
    terms_re: Any,
    terms_im: Any,
    back_re: Any,
    back_im: Any,
    w_re: Any,
    w_im: Any,
    gradient: Any,
) -> None:
    """Pull a cotangent w of ``exp(-i H) v`` back to v in place, and add that of the drives' values to `gradient`.

    The terms are those that `apply_exponential` left behind; those of the way back go to ``back[k]``, times the series' factor.
    """
    states = w_re.shape[0]
    a_re, a_im = back_re[ORDER - 1], back_im[ORDER - 1]
    for i in range(states):
        a_re[i] = series[ORDER] * w_re[i]
        a_im[i] = series[ORDER] * w_im[i]
    for k in range(ORDER - 1, -1, -1):
        a_re, a_im, b_re, b_im = back_re[k], back_im[k], back_re[max(k - 1, 0)], back_im[max(k - 1, 0)]
        factor = series[k]
        for i in range(states):
            energy = scale * sparse.energies[i]
            x = energy * a_re[i]
            y = energy * a_im[i]
            for e in range(sparse.starts[i], sparse.starts[i + 1]):
                j = sparse.columns[e]
                x += entries_re[e] * a_re[j] - entries_im[e] * a_im[j]
                y += entries_re[e] * a_im[j] + entries_im[e] * a_re[j]
            # The adjoint of -i H is i H.
            if k > 0:
                b_re[i] = factor * (w_re[i] - y)
                b_im[i] = factor * (w_im[i] + x)
            else:
                w_re[i] = factor * (w_re[i] - y)
                w_im[i] = factor * (w_im[i] + x)
    for t in range(sparse.term_pairs.shape[0]):
        i, j = sparse.term_rows[t], sparse.term_columns[t]
        by_re = 0.0
        by_im = 0.0
        for k in range(ORDER):
            a_re, a_im, b_re, b_im = back_re[k], back_im[k], terms_re[k], terms_im[k]
            by_re += (a_re[i] * b_im[j] - a_im[i] * b_re[j]) + (a_re[j] * b_im[i] - a_im[j] * b_re[i])
            by_im += (a_re[i] * b_re[j] + a_im[i] * b_im[j]) - (a_re[j] * b_re[i] + a_im[j] * b_im[i])
        gradient[sparse.term_operators[t]] += scale * complex(by_re, by_im) * sparse.term_weights[t].conjugate()


@_jit
def evolve_vectors(
    sparse: Sparse, samples: Any, carriers: Any, mixing: Any, series: Any, repeats: int, states: Any, terms: Any, keep: bool
) -> None:
    """Evolve each vector in place; with `keep` the series' terms of every exponential stay in `terms`.

    Shapes: samples (batch or 1, samples, channels), carriers (samples, 2, channels), mixing (operators, channels), states
    (batch, states), terms (batch or 1, exponentials or 1, 2, 7, states).
    """
    scale = 1.0 / repeats
    drives = np.empty(mixing.shape[0], np.complex128)
    pair_values = np.empty(sparse.static.shape[0], np.complex128)
    entries_re = np.empty(sparse.columns.shape[0])
    entries_im = np.empty(sparse.columns.shape[0])
    v_re = np.empty(states.shape[1])
    v_im = np.empty(states.shape[1])
    for b in range(states.shape[0]):
        for i in range(v_re.shape[0]):
            v_re[i] = states[b, i].real
            v_im[i] = states[b, i].imag
        played = samples[b if samples.shape[0] > 1 else 0]
        position = 0
        for n in range(played.shape[0]):
            for half in range(2):
                mix_drives(played[n], carriers[n, half], mixing, drives)
                fill_entries(sparse, drives, scale, pair_values, entries_re, entries_im)
                for _ in range(repeats):
                    place = terms[b, position] if keep else terms[0, 0]
                    apply_exponential(sparse, series, scale, entries_re, entries_im, place[0], place[1], v_re, v_im)
                    position += 1
        for i in range(v_re.shape[0]):
            states[b, i] = complex(v_re[i], v_im[i])


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
    pair_values = np.empty(sparse.static.shape[0], np.complex128)
    entries_re = np.empty(sparse.columns.shape[0])
    entries_im = np.empty(sparse.columns.shape[0])
    back_re = np.empty((ORDER, cotangents.shape[1]))
    back_im = np.empty((ORDER, cotangents.shape[1]))
    w_re = np.empty(cotangents.shape[1])
    w_im = np.empty(cotangents.shape[1])
    for b in range(cotangents.shape[0]):
        for i in range(w_re.shape[0]):
            w_re[i] = cotangents[b, i].real
            w_im[i] = cotangents[b, i].imag
        which = b if samples.shape[0] > 1 else 0
        played = samples[which]
        position = 2 * repeats * played.shape[0]
        for n in range(played.shape[0] - 1, -1, -1):
            for half in range(1, -1, -1):
                mix_drives(played[n], carriers[n, half], mixing, drives)
                fill_entries(sparse, drives, scale, pair_values, entries_re, entries_im)
                for q in range(operators):
                    by_drive[q] = 0.0
                for _ in range(repeats):
                    position -= 1
                    place = terms[b, position]
                    apply_adjoint(sparse, series, scale, entries_re, entries_im, place[0], place[1], back_re, back_im, w_re, w_im, by_drive)
                for c in range(channels):
                    total = 0.0j
                    for q in range(operators):
                        total += mixing[q, c].conjugate() * by_drive[q]
                    gradient[which, n, c] += carriers[n, half, c].conjugate() * total
        for i in range(w_re.shape[0]):
            cotangents[b, i] = complex(w_re[i], w_im[i])
