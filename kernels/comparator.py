"""Which comparisons a comparator's noise decides: draws only where they can matter, with the law of a fresh draw at every comparison.

A comparison of a difference r with noise sigma comes out wrong with probability Phi(-abs(r) / sigma), independently of all others. Within
`NEAR` sigma that is decided by a normal draw. Beyond, it happens with a probability below 2^-15: of all comparisons a share of 2^-15 is
chosen beforehand, as candidates, and a candidate beyond `NEAR` flips with the rest of its probability, 2^15 Phi(-abs(r) / sigma).
"""

import math
from functools import cache
from statistics import NormalDist
from typing import Final

import numpy as np
import numpy.typing as npt
from numba import njit

from kernels.philox import CHUNK, fill_word_chunk
from kernels.random import Key

_SHARE: Final = 2.0**-15
NEAR: Final = -NormalDist().inv_cdf(_SHARE)
"""Margin in sigma beyond which a comparison is decided by candidates: 4.01."""

SHARED_NEAR: Final = np.float32(1.0)
"""Margin of `NEAR` sigma, in readout steps, up to which one draw serves a whole binary search; beyond, each comparison has its own."""

PLANE_CHUNKS: Final = 2**20
"""Chunks of the stream between the draws of conversions' first close comparisons, of their second ones, ...: more than any tensor has."""
_CHOICE: Final = 2**40
_PLACES: Final = 2**41
"""Where in the stream the words for candidates and for their places start: behind all draws."""

_MOST: Final = 8
"""Candidates of one comparison of a chunk: more have a probability below 1e-15."""


@cache
def _counts() -> npt.NDArray[np.int64]:
    """Return the words from which on a chunk has more than 0, 1, ... candidates: the binomial law in steps of 2^-32."""
    chances = [math.comb(CHUNK, k) * _SHARE**k * (1.0 - _SHARE) ** (CHUNK - k) for k in range(_MOST)]
    return np.array([min(round(2.0**32 * sum(chances[: k + 1])), 2**32) for k in range(_MOST)], np.int64)


def candidates(key: Key, chunks: int, comparisons: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Choose the comparisons that may flip beyond `NEAR` sigma.

    Parameters
    ----------
    key
        Stream of the comparisons' draws: the choice takes chunks of it that no draw takes.
    chunks
        Chunks of 1024 conversions.
    comparisons
        Comparisons of a conversion.

    Returns
    -------
    starts : numpy.ndarray
        Where the candidates of comparison k of chunk c start, at index ``c * comparisons + k``; one entry more than there are pairs.
    lanes : numpy.ndarray
        Conversion of each candidate within its chunk; different ones for one comparison.
    levels : numpy.ndarray
        A candidate flips if its error probability is above this number, uniform from 0 to 2^-15.

    Examples
    --------
    >>> starts, lanes, levels = candidates(Key.of(seed=0), 1000, 9)
    >>> starts.size, 200 < lanes.size < 360, bool((levels < 2.0**-15).all())
    (9001, True, True)
    """
    starts = np.zeros(chunks * comparisons + 1, np.int64)
    _count(*key.words(), _counts(), starts)
    lanes, levels = np.empty(int(starts[-1]), np.int64), np.empty(int(starts[-1]), np.float64)
    _place(*key.words(), starts, lanes, levels)
    return starts, lanes, levels


@njit(cache=True, nogil=True, error_model="numpy")
def _count(word0: int, word1: int, read_low: int, read_high: int, bounds: npt.NDArray[np.int64], starts: npt.NDArray[np.int64]) -> None:
    """Write how many candidates come before each comparison: one word decides for each."""
    words = np.empty(CHUNK, np.uint32)
    for pair in range(starts.size - 1):
        if pair % CHUNK == 0:
            fill_word_chunk(word0, word1, read_low, read_high, _CHOICE + pair // CHUNK, words)
        found = 0
        while found < bounds.size and np.int64(words[pair % CHUNK]) >= bounds[found]:
            found += 1
        starts[pair + 1] = starts[pair] + found


@njit(cache=True, nogil=True, error_model="numpy")
def _place(
    word0: int,
    word1: int,
    read_low: int,
    read_high: int,
    starts: npt.NDArray[np.int64],
    lanes: npt.NDArray[np.int64],
    levels: npt.NDArray[np.float64],
) -> None:
    """Choose different lanes for the candidates of each comparison (Floyd's sampling), and the level of each."""
    words = np.empty(CHUNK, np.uint32)
    per_chunk = CHUNK // (2 * _MOST)
    ready = -1
    for pair in range(starts.size - 1):
        first = starts[pair]
        count = starts[pair + 1] - first
        if count == 0:
            continue
        if pair // per_chunk != ready:
            ready = pair // per_chunk
            fill_word_chunk(word0, word1, read_low, read_high, _PLACES + ready, words)
        offset = pair % per_chunk * 2 * _MOST
        for place in range(count):
            last = CHUNK - count + place
            lane = (np.int64(words[offset + 2 * place]) * (last + 1)) >> 32
            for other in range(place):
                if lanes[first + other] == lane:
                    lane = last
                    break
            lanes[first + place] = lane
            levels[first + place] = (np.float64(words[offset + 2 * place + 1]) + 0.5) * 2.0**-47


@njit(cache=True, nogil=True, error_model="numpy")
def error_probability(margin: float) -> float:
    """Return the probability that noise of one sigma turns around a comparison of a difference of so many sigma.

    Examples
    --------
    >>> round(error_probability(4.0) * 1e5, 3)
    3.167
    """
    return 0.5 * math.erfc(abs(margin) * math.sqrt(0.5))


_CELLS: Final = 16
"""Cells of the table for one sigma."""
_TAIL: Final = np.array([0.5 * math.erfc(cell / _CELLS * math.sqrt(0.5)) for cell in range(round(5 * _CELLS))])
"""Error probability at the cells' lower ends, beyond `NEAR` too."""


@njit(cache=True, nogil=True, error_model="numpy")
def errs(word: int, margin: float) -> bool:
    """Return whether a comparison of a difference of so many sigma, within `NEAR`, is turned around: by one uniform word of 32 bits.

    Most words lie below or above the whole cell of the margin, so that its probability need not be computed.

    Examples
    --------
    >>> errs(2**31 - 1, 0.0), errs(2**31, 0.0), errs(0, 4.0)
    (True, False, True)
    """
    drawn = (np.float64(word) + 0.5) * 2.0**-32
    cell = int(abs(margin) * _CELLS)
    if drawn >= _TAIL[cell]:
        return False
    if drawn < _TAIL[cell + 1]:
        return True
    return bool(drawn < error_probability(margin))
