"""The Hamiltonian of coupled transmons in a rotating frame, its dressed states, and evolution under the samples of a schedule."""

import math
import os
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import scipy  # its parts are loaded at their first use
import torch
from torch import Tensor

from devices.design import DesignError
from devices.quantum.decoherence import lindbladian, step_factors
from kernels.open_pulses import evolve_open
from kernels.pulses import LARGEST_EXPONENT, DrivenSystem, carrier_averages, driven_system, evolve

if TYPE_CHECKING:
    from devices.quantum.backend import TransmonBackend

TWO_PI = 2 * math.pi
BYTES_PER_NUMBER = 16


@dataclass(frozen=True)
class Line:
    """What a channel does: the transmon that it drives, and the frequency that its frame starts with, rad/s."""

    transmon: int
    frequency: float


@dataclass(frozen=True, eq=False)
class Played:
    """The samples of a schedule as the transmons see them.

    Attributes
    ----------
    channels
        Names of the channels that play.
    samples
        ``(samples, channels)`` complex128, with the phases of their frames.
    carriers
        What a sample sees of the channels' carriers, ``(samples, 2, channels)``; see `carrier_averages`.
    """

    channels: tuple[str, ...]
    samples: npt.NDArray[np.complex128]
    carriers: npt.NDArray[np.complex128]

    @property
    def duration(self) -> int:
        """Samples."""
        return len(self.samples)


class TransmonModel:
    """A backend made ready to evolve states.

    State i has transmon q in level ``(i // levels^q) % levels``. The frame rotates at one frequency for all transmons, in which couplings
    stand still and drives turn: the middle of the drives, or the one in which the energies spread least.

    Parameters
    ----------
    backend
        The design.
    """

    def __init__(self, backend: "TransmonBackend") -> None:
        self.levels, self.count = backend.levels, len(backend.transmons)
        self.dimension = self.levels**self.count
        self.backend = backend
        require_memory(backend, 4 * self.dimension**2, "unitary evolution")
        index = np.arange(self.dimension)
        self.occupations = np.stack([index // self.levels**q % self.levels for q in range(self.count)])
        frequencies = TWO_PI * np.array([one.frequency_hertz for one in backend.transmons])
        bending = sum(
            TWO_PI * one.anharmonicity_hertz / 2 * n * (n - 1) for one, n in zip(backend.transmons, self.occupations, strict=True)
        )
        self.frame = self._choose_frame(frequencies, np.asarray(bending))
        self.diagonal = (frequencies - self.frame) @ self.occupations + bending
        for one in backend.couplings:
            self.diagonal = self.diagonal + TWO_PI * one.zz_hertz * self.occupations[one.transmons[0]] * self.occupations[one.transmons[1]]
        self.system = self._system()
        self.lines = self._lines()
        self._factors: dict[tuple[int, int], npt.NDArray[np.float64]] = {}
        self._waits: dict[int, npt.NDArray[np.complex128]] = {}

    def _choose_frame(self, frequencies: npt.NDArray[np.float64], bending: npt.NDArray[np.float64]) -> float:
        """Return the frequency of the frame, rad/s: between the drives, or else where the energies spread least.

        Where the drives turn slowly the steps of a sample err least: 5e-7 in the state after 160 samples of two transmons 222 MHz apart,
        against 4e-6 in the frame of one of them.
        """
        total, excitations = frequencies @ self.occupations + bending, self.occupations.sum(0)

        def spread(frame: float) -> float:
            return float(np.ptp(total - frame * excitations))

        drives = [TWO_PI * hertz for hertz in self.backend.frame_hertz]
        middle = (min(drives) + max(drives)) / 2
        # Half the spread times half a sample is the norm of an exponent: below this one, no exponential is taken in parts.
        if spread(middle) / 2 * self.backend.sample_seconds / 2 <= 0.75 * LARGEST_EXPONENT:
            return middle
        margin = max(float(np.abs(bending).max()), 1.0)
        bounds = (float(frequencies.min()) - margin, float(frequencies.max()) + margin)
        return float(scipy.optimize.minimize_scalar(spread, bounds=bounds, method="bounded", options={"xatol": 1e3}).x)

    def _system(self) -> DrivenSystem:
        size = self.dimension
        rows, columns, values = [np.arange(size)], [np.arange(size)], [self.diagonal]
        for one in self.backend.couplings:
            a, b = one.transmons
            # a^dagger b: raises a, lowers b.
            start = np.nonzero((self.occupations[a] < self.levels - 1) & (self.occupations[b] > 0))[0]
            end = start + self.levels**a - self.levels**b
            weight = TWO_PI * one.exchange_hertz * np.sqrt((self.occupations[a][start] + 1) * self.occupations[b][start])
            rows += [end, start]
            columns += [start, end]
            values += [weight, weight]
        static = _sparse([np.concatenate(rows), np.concatenate(columns)], np.concatenate(values), (size, size))
        numbers, lower, upper, weights = [], [], [], []
        for q in range(self.count):
            excited = np.nonzero(self.occupations[q] > 0)[0]
            numbers.append(np.full(len(excited), q))
            lower.append(excited - self.levels**q)
            upper.append(excited)
            weights.append(np.sqrt(self.occupations[q][excited]))
        parts = [np.concatenate(numbers), np.concatenate(lower), np.concatenate(upper)]
        operators = _sparse(parts, np.concatenate(weights), (self.count, size, size))
        return driven_system(static, operators, self.backend.sample_seconds)

    def _lines(self) -> dict[str, Line]:
        own = [TWO_PI * hertz for hertz in self.backend.frame_hertz]
        lines = {f"d{q}": Line(q, own[q]) for q in range(self.count)}
        lines |= {f"u{k}": Line(one.driven, own[one.frame_of]) for k, one in enumerate(self.backend.control_channels)}
        return lines

    @cached_property
    def frame_rates(self) -> npt.NDArray[np.float64]:
        """How fast each dressed state turns in the frame of the transmons' own drives, against this model's frame, rad/s."""
        own = np.array([self.lines[f"d{q}"].frequency for q in range(self.count)]) - self.frame
        rates: npt.NDArray[np.float64] = own @ self.occupations
        return rates

    @cached_property
    def dressing(self) -> tuple[npt.NDArray[np.float64], Tensor]:
        """Energies of the dressed states, rad/s in this frame, and the states as columns, each under the label it is nearest to.

        The exchange keeps the number of excitations, so each number is a block of its own.
        """
        dense = self.system.static.to_dense().numpy()
        energies = np.zeros(self.dimension)
        states = np.zeros((self.dimension, self.dimension), np.complex128)
        excitations = self.occupations.sum(0)
        for total in range(int(excitations.max()) + 1):
            block = np.nonzero(excitations == total)[0]
            found, vectors = np.linalg.eigh(dense[np.ix_(block, block)])
            labels, chosen = scipy.optimize.linear_sum_assignment(-np.abs(vectors))
            vectors = vectors[:, chosen]
            vectors = vectors * np.exp(-1j * np.angle(vectors[labels, labels]))
            energies[block] = found[chosen]
            states[np.ix_(block, block)] = vectors
        return energies, torch.from_numpy(states)

    def mixing(self, channels: tuple[str, ...]) -> npt.NDArray[np.complex128]:
        """Return what each channel at amplitude 1 adds to the drive of each transmon, rad/s, crosstalk included."""
        matrix = np.zeros((self.count, len(channels)), np.complex128)
        leakage = self.backend.crosstalk
        for c, name in enumerate(channels):
            source = self.lines[name].transmon
            for q, one in enumerate(self.backend.transmons):
                share = 1.0 if q == source else (0.0 if leakage is None else leakage[q][source])
                matrix[q, c] = math.pi * one.drive_hertz * share
        return matrix

    def carriers(
        self, channels: tuple[str, ...], frequencies: npt.NDArray[np.float64], phases: npt.NDArray[np.float64] | None = None
    ) -> npt.NDArray[np.complex128]:
        """Return the averages of carriers of these frequencies, ``(samples, channels)`` rad/s, over each exponential."""
        return carrier_averages(frequencies - self.frame, self.backend.sample_seconds, phases)

    def steady_carriers(self, channels: tuple[str, ...], duration: int) -> npt.NDArray[np.complex128]:
        """Return the averages of the carriers of channels whose frequencies stay as they start."""
        frequencies = np.array([self.lines[name].frequency for name in channels])
        return self.carriers(channels, np.broadcast_to(frequencies, (duration, len(channels))))

    # states

    def to_bare(self, states: Tensor) -> Tensor:
        """Return rows of amplitudes of dressed states as amplitudes of bare ones."""
        return states @ self.dressing[1].T

    def to_dressed(self, states: Tensor, samples: int) -> Tensor:
        """Return rows of bare amplitudes after so many samples as dressed ones, in the frame of the transmons' own drives."""
        turned = torch.from_numpy(np.exp(1j * np.remainder(self.frame_rates * (samples * self.backend.sample_seconds), TWO_PI)))
        return (states @ self.dressing[1].conj()) * turned

    def evolve(self, samples: Tensor, channels: tuple[str, ...], carriers: npt.NDArray[np.complex128], states: Tensor) -> Tensor:
        """Evolve rows of bare amplitudes under samples ``(1 or batch, samples, channels)``; stretches without a pulse go by at once."""
        mixing = self.mixing(channels)
        busy = _busy(samples)
        for first, last, driven in _stretches(busy):
            if driven:
                states = evolve(self.system, samples[:, first:last], carriers[first:last], mixing, states)
            else:
                states = self.wait(states, last - first)
        return states

    def wait(self, states: Tensor, samples: int) -> Tensor:
        """Evolve rows of bare amplitudes for so many samples without pulses, exactly."""
        energies, vectors = self.dressing
        turned = torch.from_numpy(np.exp(-1j * np.remainder(energies * (samples * self.backend.sample_seconds), TWO_PI)))
        return ((states @ vectors.conj()) * turned) @ vectors.T

    # open evolution

    def open_evolution(self, samples: Tensor, channels: tuple[str, ...], carriers: npt.NDArray[np.complex128], densities: Tensor) -> Tensor:
        """Evolve density matrices of dressed states, ``(batch, dimension, dimension)``, under samples ``(1 or batch, samples, channels)``.

        Returns dressed states in the frame of the transmons' own drives, as `to_dressed` does.
        """
        vectors = self.dressing[1]
        bare = self.open_bare(samples, channels, carriers, vectors @ densities @ vectors.mH)
        return self.density_to_dressed(bare, samples.shape[1])

    def open_bare(self, samples: Tensor, channels: tuple[str, ...], carriers: npt.NDArray[np.complex128], densities: Tensor) -> Tensor:
        """Evolve density matrices of bare states."""
        mixing = self.mixing(channels)
        busy = _busy(samples)
        for first, last, driven in _stretches(busy):
            if driven:
                stride = SAMPLES_PER_CHANNEL
                factors = self._relaxation(stride, (last - first) % stride or stride)
                densities = evolve_open(
                    self.system, samples[:, first:last], carriers[first:last], mixing, densities, factors, stride=stride
                )
            else:
                densities = self.wait_open(densities, last - first)
        return densities

    def density_to_dressed(self, densities: Tensor, samples: int) -> Tensor:
        """Return density matrices of bare states after so many samples as those of dressed ones, in the frame of the drives."""
        vectors = self.dressing[1]
        turned = torch.from_numpy(np.exp(1j * np.remainder(self.frame_rates * (samples * self.backend.sample_seconds), TWO_PI)))
        return (vectors.mH @ densities @ vectors) * turned[:, None] * turned.conj()[None, :]

    def wait_open(self, densities: Tensor, samples: int) -> Tensor:
        """Evolve density matrices for so many samples without pulses.

        Where the generator fits, its exponential is taken; else steps of one sample of the propagator and the channels.
        """
        if self.dimension <= LARGEST_GENERATOR:
            exponential = torch.from_numpy(self._waiting(samples))
            return (densities.flatten(1) @ exponential.T).reshape(densities.shape)
        idle = torch.zeros(1, samples, 0, dtype=torch.complex128)
        none = np.zeros((samples, 2, 0), np.complex128)
        stride = SAMPLES_PER_CHANNEL
        factors = self._relaxation(stride, samples % stride or stride)
        return evolve_open(self.system, idle, none, self.mixing(()), densities, factors, stride=stride)

    def _relaxation(self, stride: int, left: int) -> npt.NDArray[np.float64]:
        if (stride, left) not in self._factors:
            self._factors[stride, left] = step_factors(self.backend, stride, left)
        return self._factors[stride, left]

    def _waiting(self, samples: int) -> npt.NDArray[np.complex128]:
        if samples not in self._waits:
            if len(self._waits) > 64:
                self._waits.clear()
            generator = lindbladian(self.backend)
            self._waits[samples] = scipy.linalg.expm(generator * (samples * self.backend.sample_seconds))
        return self._waits[samples]


SAMPLES_PER_CHANNEL = 2
"""Samples between two channels of relaxation: what that splits wrongly stays under 1e-7 in trace distance for transmons."""
LARGEST_GENERATOR = 16
"""States up to which the exponential of the whole generator is taken to wait."""


@lru_cache(maxsize=64)
def model_of(backend: "TransmonBackend") -> TransmonModel:
    """Return the model of a backend; equal designs share one.

    Examples
    --------
    >>> from devices import TransmonBackend
    >>> model_of(TransmonBackend.preset("jakarta_like")).dimension
    9
    """
    return TransmonModel(backend)


SHORTEST_WAIT = 32
"""Samples without a pulse from which on it pays to take them at once."""


def _busy(samples: Tensor) -> npt.NDArray[np.bool_]:
    """Return at which samples any pulse plays on any channel."""
    played = samples.detach().cpu().numpy()
    found: npt.NDArray[np.bool_] = (played[0] if len(played) == 1 else np.abs(played).max(0)).any(1)
    return found


def _stretches(busy: npt.NDArray[np.bool_]) -> list[tuple[int, int, bool]]:
    """Return (first, last, whether driven) of stretches of samples; short gaps belong to the pulses around them."""
    if not len(busy):
        return []
    edges = [0, *(np.nonzero(np.diff(busy))[0] + 1).tolist(), len(busy)]
    found: list[tuple[int, int, bool]] = []
    for first, last in pairwise(edges):
        driven = bool(busy[first]) or last - first < SHORTEST_WAIT
        if found and found[-1][2] == driven:
            found[-1] = (found[-1][0], last, driven)
        else:
            found.append((first, last, driven))
    return found


def require_memory(backend: "TransmonBackend", numbers: int, what: str) -> None:
    """Raise DesignError where so many complex numbers do not fit into this machine's memory.

    Examples
    --------
    >>> from devices import TransmonBackend
    >>> require_memory(TransmonBackend.preset("jakarta_like"), 81, "unitary evolution")
    """
    needed, there = numbers * BYTES_PER_NUMBER, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        raise DesignError(
            f"TransmonBackend: `transmons` and `levels` must fit into memory, but {what} of {len(backend.transmons)} transmons of "
            f"{backend.levels} levels needs {needed:.3g} bytes of the {there:.3g} that there are; take fewer of either"
        )


def _sparse(indices: Any, values: npt.NDArray[np.float64], shape: tuple[int, ...]) -> Tensor:
    return torch.sparse_coo_tensor(
        torch.from_numpy(np.stack(indices)), torch.from_numpy(values.astype(np.complex128)), shape, check_invariants=False
    ).coalesce()
