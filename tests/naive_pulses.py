"""The slow, obvious twins of the kernels of pulses: dense matrices and exact exponentials."""

import math

import numpy as np
import scipy.linalg


def drives(samples: np.ndarray, detunings: np.ndarray, mixing: np.ndarray, seconds: float, sample: int) -> np.ndarray:
    """Return the value of each operator's drive at a time within a sample."""
    carriers = np.array([np.exp(1j * detunings[c] * seconds) for c in range(len(detunings))])
    return np.array([sum(mixing[q, c] * samples[sample, c] * carriers[c] for c in range(len(carriers))) for q in range(len(mixing))])


def hamiltonian(static: np.ndarray, operators: np.ndarray, values: np.ndarray) -> np.ndarray:
    driven = sum((value * operator for value, operator in zip(values, operators, strict=True)), np.zeros_like(static))
    return static + driven + driven.conj().T


def magnus(static, operators, samples, detunings, mixing, dt) -> np.ndarray:
    """Return the propagator by the commutator-free step of order 4 with exact exponentials."""
    total = np.eye(len(static), dtype=complex)
    near, far = 0.25 + math.sqrt(3) / 6, 0.25 - math.sqrt(3) / 6
    for n in range(len(samples)):
        first, second = (
            hamiltonian(static, operators, drives(samples, detunings, mixing, (n + 0.5 + side * math.sqrt(3) / 6) * dt, n))
            for side in (-1, 1)
        )
        total = scipy.linalg.expm(-1j * dt * (far * second + near * first)) @ total
        total = scipy.linalg.expm(-1j * dt * (near * second + far * first)) @ total
    return total


def midpoint(static, operators, samples, detunings, mixing, dt, parts=1) -> np.ndarray:
    """Return the propagator with the Hamiltonian held at the middle of each of so many parts of a sample."""
    total = np.eye(len(static), dtype=complex)
    for n in range(len(samples)):
        for part in range(parts):
            middle = (n + (part + 0.5) / parts) * dt
            total = (
                scipy.linalg.expm(-1j * dt / parts * hamiltonian(static, operators, drives(samples, detunings, mixing, middle, n))) @ total
            )
    return total


def channel(density: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Return a density matrix behind the channels of its parts, element by element."""
    parts, levels = factors.shape[0], factors.shape[-1]
    for q in range(parts):
        new = np.zeros_like(density)
        stride = levels**q
        for i, j in np.ndindex(density.shape):
            m, n = i // stride % levels, j // stride % levels
            for k in range(levels - max(m, n)):
                new[i, j] += factors[q, k, m, n] * density[i + k * stride, j + k * stride]
        density = new
    return density


def open_magnus(static, operators, samples, detunings, mixing, dt, density, factors) -> np.ndarray:
    """Return a density matrix after half a channel, the propagator and half a channel for each sample."""
    for n in range(len(samples)):
        single = magnus(static, operators, samples[n : n + 1] * np.exp(1j * detunings * n * dt), detunings, mixing, dt)
        density = channel(density, factors)
        density = channel(single @ density @ single.conj().T, factors)
    return density


def lindblad(static, operators, samples, detunings, mixing, dt, density, collapses) -> np.ndarray:
    """Return a density matrix by exponentials of the whole generator, two to a sample."""
    size = len(static)
    identity = np.eye(size)
    dissipation = np.zeros((size**2, size**2), complex)
    for collapse in collapses:
        square = collapse.conj().T @ collapse
        dissipation += np.kron(collapse, collapse.conj()) - 0.5 * (np.kron(square, identity) + np.kron(identity, square.T))
    vector = density.reshape(-1)
    near, far = 0.25 + math.sqrt(3) / 6, 0.25 - math.sqrt(3) / 6
    for n in range(len(samples)):
        points = [
            hamiltonian(static, operators, drives(samples, detunings, mixing, (n + 0.5 + side * math.sqrt(3) / 6) * dt, n))
            for side in (-1, 1)
        ]
        for weights in ((near, far), (far, near)):
            mean = weights[0] * points[0] + weights[1] * points[1]
            generator = -1j * (np.kron(mean, identity) - np.kron(identity, mean.T)) + 0.5 * dissipation
            vector = scipy.linalg.expm(dt * generator) @ vector
    return vector.reshape(size, size)
