"""Reading transmons: what is read when a state is there, and how shots scatter."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import scipy  # its parts are loaded at their first use
import torch
from torch import Tensor

from kernels.random import Key, uniform

if TYPE_CHECKING:
    from devices.quantum.backend import TransmonBackend

SHOTS_AT_ONCE = 1 << 20
"""Shots up to which each is drawn by itself."""


def assignment_matrix(backend: "TransmonBackend") -> npt.NDArray[np.float64]:
    """Return the probability to read each bit string, given the one that is there: ``(read, there)``, transmon 0 the lowest bit.

    Where a backend gives no matrix of its own, transmons are read independently.

    Examples
    --------
    >>> from devices import TransmonBackend
    >>> assignment_matrix(TransmonBackend.preset("jakarta_like"))[:, 0].round(4).tolist()
    [0.9787, 0.0063, 0.0149, 0.0001]
    """
    if backend.assignment is not None:
        return np.array(backend.assignment)
    matrix = np.ones((1, 1))
    for one in backend.transmons:
        own = np.array([[1 - one.read_1_given_0, one.read_0_given_1], [one.read_1_given_0, 1 - one.read_0_given_1]])
        matrix = np.kron(own, matrix)
    return matrix


def bit_probabilities(backend: "TransmonBackend", populations: Tensor) -> Tensor:
    """Return the probability of each bit string of states ``(..., dimension)`` before errors of assignment: levels above 1 are a 1.

    Examples
    --------
    >>> from devices import TransmonBackend
    >>> bit_probabilities(TransmonBackend.preset("jakarta_like"), torch.eye(9)[8])
    tensor([0., 0., 0., 1.])
    """
    levels, count = backend.levels, len(backend.transmons)
    found = populations.reshape(*populations.shape[:-1], *[levels] * count)
    first = populations.dim() - 1
    for axis in range(first, first + count):
        found = torch.cat([found.narrow(axis, 0, 1), found.narrow(axis, 1, levels - 1).sum(axis, keepdim=True)], axis)
    return found.reshape(*populations.shape[:-1], 2**count)


def read_probabilities(backend: "TransmonBackend", populations: Tensor) -> Tensor:
    """Return the probability to read each bit string of states ``(..., dimension)``: ``(..., 2^transmons)``.

    Examples
    --------
    >>> from devices import TransmonBackend
    >>> read_probabilities(TransmonBackend.preset("jakarta_like").ideal(), torch.eye(9)[1])
    tensor([0., 1., 0., 0.])
    """
    matrix = torch.from_numpy(assignment_matrix(backend)).to(populations)
    return bit_probabilities(backend, populations) @ matrix.T


def draw_counts(probabilities: npt.NDArray[np.float64], shots: int, key: Key) -> npt.NDArray[np.int64]:
    """Return how often each outcome occurs in so many shots: a multinomial draw.

    Up to `SHOTS_AT_ONCE`, each shot is drawn, which is quickest for the numbers that circuits are repeated; more are drawn as counts, whose
    time does not grow with the shots.

    Parameters
    ----------
    probabilities
        Of each outcome, ``(outcomes,)``; they are scaled to add up to 1.
    shots
        How many, at least 0.
    key
        The stream.

    Examples
    --------
    >>> draw_counts(np.array([0.0, 1.0]), 100, Key.of(seed=0)).tolist()
    [0, 100]
    """
    if shots > SHOTS_AT_ONCE:
        return multinomial_counts(probabilities, shots, key)
    edges = np.cumsum(np.clip(probabilities, 0.0, None))
    edges /= edges[-1]
    drawn = uniform(key.fold("shots", 0), shots).numpy().astype(np.float64)
    return np.bincount(np.minimum(np.searchsorted(edges, drawn, side="right"), len(edges) - 1), minlength=len(edges))


def multinomial_counts(probabilities: npt.NDArray[np.float64], shots: int, key: Key) -> npt.NDArray[np.int64]:
    """Return multinomial counts, of each row, drawn as counts: the shots are parted in two by a binomial draw, and each part again.

    Parameters
    ----------
    probabilities
        ``(..., outcomes)``; they are scaled to add up to 1.
    shots
        How many for each row.
    key
        The stream.

    Examples
    --------
    >>> multinomial_counts(np.array([[0.0, 1.0, 0.0]]), 10**15, Key.of(seed=0)).tolist()
    [[0, 1000000000000000, 0]]
    """
    outcomes = probabilities.shape[-1]
    padding = [(0, 0)] * (probabilities.ndim - 1) + [(0, (1 << (outcomes - 1).bit_length()) - outcomes)]
    sums = [np.pad(np.clip(probabilities, 0.0, None), padding)]
    while sums[-1].shape[-1] > 1:
        sums.append(sums[-1].reshape(*sums[-1].shape[:-1], -1, 2).sum(-1))
    counts = np.full(sums[-1].shape, shots, np.int64)
    for level, (both, parts) in enumerate(zip(sums[:0:-1], sums[-2::-1], strict=True)):
        share = parts[..., ::2] / np.where(both > 0, both, 1.0)
        coarse, fine = (uniform(key.fold("counts", level, half), share.shape).numpy().astype(np.float64) for half in (0, 1))
        first = _binomial(counts, share, (np.floor(coarse * FINEST) + fine) / FINEST)
        counts = np.stack([first, counts - first], -1).reshape(parts.shape)
    return counts[..., :outcomes]


FINEST = 2.0**24
"""Steps of a uniform number; the draw of a second one parts each of them."""


def _binomial(trials: npt.NDArray[np.int64], share: npt.NDArray[np.float64], drawn: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return the binomial quantiles at uniform numbers."""
    found = np.where(share >= 1.0, trials, 0)
    open_ = (trials > 0) & (share > 0.0) & (share < 1.0)
    if open_.any():
        found[open_] = np.asarray(scipy.stats.binom.ppf(drawn[open_], trials[open_], share[open_]), np.int64)
    return found


def marginal(probabilities: Tensor, bits: Sequence[int], count: int) -> Tensor:
    """Return the probabilities of some of `count` bits, the first of `bits` the lowest of the result.

    Examples
    --------
    >>> marginal(torch.tensor([0.5, 0.0, 0.0, 0.5]), [1], 2)
    tensor([0.5000, 0.5000])
    """
    shape = probabilities.shape[:-1]
    cube = probabilities.reshape(*shape, *[2] * count)
    axes = [len(shape) + count - 1 - bit for bit in bits]
    others = [axis for axis in range(len(shape), len(shape) + count) if axis not in axes]
    moved = cube.permute(*range(len(shape)), *others, *reversed(axes))
    return moved.reshape(*shape, 2 ** len(others), 2 ** len(bits)).sum(-2)


class Counts(dict[str, int]):
    """How often each bit string was read, only those that were. Bits are the recorded slots, the lowest one rightmost.

    Examples
    --------
    >>> Counts.of(np.array([3, 0, 0, 5]), 2)
    {'00': 3, '11': 5}
    """

    @classmethod
    def of(cls, counts: Any, bits: int) -> "Counts":
        """Name the outcomes of an array."""
        return cls({format(index, f"0{bits}b"): int(count) for index, count in enumerate(counts) if count})

    @property
    def shots(self) -> int:
        """All of them."""
        return sum(self.values())
