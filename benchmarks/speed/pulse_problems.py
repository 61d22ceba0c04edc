"""The problems of pulses that are timed, and their states by exact exponentials."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from devices import GaussianSquare, TransmonBackend
from kernels.pulses import carrier_averages
from kernels.random import Key, uniform

TWO_PI = 2 * np.pi


@dataclass(frozen=True, eq=False)
class Problem:
    """Two transmons under random smooth pulses, one set for each member of the batch.

    Attributes
    ----------
    backend
        The chip.
    samples
        ``(batch, samples, 2)`` complex128.
    detunings
        Of the two drives in the frame of the Hamiltonian, rad/s.
    """

    backend: TransmonBackend
    samples: np.ndarray
    detunings: np.ndarray

    @classmethod
    def of(cls, count: int, batch: int) -> "Problem":
        """Make a problem: Gaussian pulses of random amplitudes and phases."""
        backend = TransmonBackend.preset("jakarta_like").replace(gates=None)
        model = backend.model
        draws = uniform(Key.of(seed=0, tile=count, purpose="pulses"), (batch, 2, 2)).double().numpy()
        amplitudes = 0.25 * draws[:, 0] * np.exp(2j * np.pi * draws[:, 1])
        edge = max(16, count // 10)
        shape = GaussianSquare(duration_samples=count, sigma_samples=edge / 2, width_samples=count - 2 * edge).samples()
        samples = amplitudes[:, None, :] * shape[None, :, None]
        detunings = TWO_PI * np.array(backend.frame_hertz) - model.frame
        return cls(backend, samples, detunings)

    @property
    def large(self) -> bool:
        """Whether slow peers take minutes for it."""
        return self.samples[..., 0].size > 20_000

    @property
    def seconds(self) -> float:
        """Duration of a sample."""
        return self.backend.sample_seconds

    @property
    def static(self) -> np.ndarray:
        """Hamiltonian without drives, rad/s."""
        found: np.ndarray = self.backend.hamiltonian().numpy()
        return found

    @property
    def operators(self) -> np.ndarray:
        """What the two drives multiply, rad/s at amplitude 1."""
        lowering = self.backend.model.system.operators.to_dense().numpy()
        rates = np.pi * np.array([one.drive_hertz for one in self.backend.transmons])
        found: np.ndarray = lowering * rates[:, None, None]
        return found


def torch_states(problem: Problem, samples: Tensor) -> Tensor:
    """Return the states by torch's matrix_exp of all exponentials at once, multiplied as a tree."""
    count = samples.shape[1]
    carriers = torch.from_numpy(carrier_averages(np.broadcast_to(problem.detunings, (count, 2)), problem.seconds))
    operators = torch.from_numpy(problem.operators)
    static = torch.from_numpy(problem.static)
    drives = samples[:, :, None, :] * carriers
    driven = torch.einsum("bnhq,qij->bnhij", drives, operators)
    steps = torch.matrix_exp(-1j * problem.seconds * (0.5 * static + driven + driven.mH)).flatten(1, 2)
    while steps.shape[1] > 1:
        even = steps.shape[1] // 2 * 2
        product = steps[:, 1:even:2] @ steps[:, 0:even:2]
        steps = torch.cat([product, steps[:, even:]], 1)
    return steps[:, 0, :, 0]


def exact(problem: Problem, parts: int = 4) -> np.ndarray:
    """Return the states by exact exponentials of parts of samples."""
    fine = Problem(problem.backend.replace(sample_seconds=problem.seconds / parts), np.repeat(problem.samples, parts, 1), problem.detunings)
    found = [torch_states(fine, torch.from_numpy(fine.samples[b : b + 1])).numpy() for b in range(len(fine.samples))]
    return np.concatenate(found)


def infidelity(states: np.ndarray, reference: np.ndarray) -> float:
    """Return the largest infidelity of a batch."""
    overlap = np.abs((states.conj() * reference).sum(1)) ** 2
    return float((1 - overlap / (np.abs(states) ** 2).sum(1) / (np.abs(reference) ** 2).sum(1)).max())


def lindblad_reference(problem: Problem, collapses: list[np.ndarray]) -> np.ndarray:
    """Return the density matrix by exponentials of the whole generator on the fourth-order averages."""
    identity = np.eye(9)
    dissipation = np.zeros((81, 81), complex)
    for one in collapses:
        square = one.conj().T @ one
        dissipation += np.kron(one, one.conj()) - 0.5 * (np.kron(square, identity) + np.kron(identity, square.T))
    parts = 4
    count = problem.samples.shape[1] * parts
    seconds = problem.seconds / parts
    carriers = carrier_averages(np.broadcast_to(problem.detunings, (count, 2)), seconds)
    drives = np.repeat(problem.samples[0], parts, 0)[:, None] * carriers
    vector = np.zeros(81, complex)
    vector[0] = 1.0
    for exponential in drives.reshape(-1, 2):
        driven = np.tensordot(exponential, problem.operators, 1)
        total = 0.5 * problem.static + driven + driven.conj().T
        generator = -1j * (np.kron(total, identity) - np.kron(identity, total.T)) + 0.5 * dissipation
        vector = torch.matrix_exp(torch.from_numpy(generator * seconds)).numpy() @ vector
    return vector.reshape(9, 9)
