"""Relaxation and dephasing of transmons: exact channels of each, waiting, and the full Lindbladian they are checked against."""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import scipy.linalg

from devices.quantum.transmon import Transmon

if TYPE_CHECKING:
    from devices.quantum.backend import TransmonBackend


def collapse_operators(one: Transmon, levels: int) -> list[npt.NDArray[np.float64]]:
    """Return ``sqrt(1 / T1) a`` and ``sqrt(2 / Tphi) n`` of a transmon, as far as they are not zero.

    Examples
    --------
    >>> from devices import TransmonBackend
    >>> len(collapse_operators(TransmonBackend.preset("jakarta_like").transmons[0], 3))
    2
    """
    lowering = np.diag(np.sqrt(np.arange(1.0, levels)), 1)
    found = [np.sqrt(one.relaxation_hertz) * lowering, np.sqrt(2 * one.dephasing_hertz) * np.diag(np.arange(float(levels)))]
    return [operator for operator in found if operator.any()]


def channel_factors(one: Transmon, levels: int, seconds: float) -> npt.NDArray[np.float64]:
    """Return the exact channel of a transmon for some time: ``new[m, n] = sum_k factors[k, m, n] old[m + k, n + k]``.

    Both processes keep the difference of the levels m and n, so that the Lindbladian's exponential has no other elements.

    Examples
    --------
    >>> transmon = Transmon(frequency_hertz=5e9, anharmonicity_hertz=-3e8, drive_hertz=1e8, t1_seconds=1e-4)
    >>> round(float(channel_factors(transmon, 2, 1e-4)[0, 1, 1]), 6)
    0.367879
    """
    identity = np.eye(levels)
    generator = np.zeros((levels**2, levels**2))
    for operator in collapse_operators(one, levels):
        square = operator.T @ operator
        generator += np.kron(operator, operator) - 0.5 * (np.kron(square, identity) + np.kron(identity, square))
    # Row-major: element (m, n) of the matrix is number m * levels + n of the vector.
    exponential = scipy.linalg.expm(generator * seconds).reshape(levels, levels, levels, levels)
    factors = np.zeros((levels, levels, levels))
    for k in range(levels):
        for m in range(levels - k):
            for n in range(levels - k):
                factors[k, m, n] = exponential[m, n, m + k, n + k]
    return factors


def step_factors(backend: "TransmonBackend", stride: int, left: int) -> npt.NDArray[np.float64]:
    """Return the channels of all transmons for half a step of `stride` samples, and for half a step of the `left` ones at the end.

    Examples
    --------
    >>> from devices import TransmonBackend
    >>> step_factors(TransmonBackend.preset("jakarta_like"), 1, 1).shape
    (2, 2, 3, 3, 3)
    """
    return np.stack(
        [
            np.stack([channel_factors(one, backend.levels, 0.5 * samples * backend.sample_seconds) for one in backend.transmons])
            for samples in (stride, left)
        ]
    )


def lindbladian(backend: "TransmonBackend") -> npt.NDArray[np.complex128]:
    """Return the generator of a chip without pulses, for matrices flattened row by row: ``(dimension^2, dimension^2)``, 1/s.

    Examples
    --------
    >>> from devices import TransmonBackend
    >>> lindbladian(TransmonBackend.preset("jakarta_like")).shape
    (81, 81)
    """
    size, levels = backend.dimension, backend.levels
    identity = np.eye(size)
    hamiltonian = backend.hamiltonian().numpy()
    generator = -1j * (np.kron(hamiltonian, identity) - np.kron(identity, hamiltonian.T))
    for q, one in enumerate(backend.transmons):
        for operator in collapse_operators(one, levels):
            full = np.kron(np.kron(np.eye(levels ** (backend.count - 1 - q)), operator), np.eye(levels**q))
            square = full.T @ full
            generator += np.kron(full, full) - 0.5 * (np.kron(square, identity) + np.kron(identity, square.T))
    return generator
