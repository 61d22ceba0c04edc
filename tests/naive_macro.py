"""The slow, obvious twin of a comparator that draws noise only where it can matter."""

import math

import numpy as np

from kernels import Key
from tests import naive

SHARE = 2.0**-15
NEAR = 4.0087726  # where the error probability is that share
PLANE = 2**20 * 1024
CHOICE, PLACES = 2**40 * 1024, 2**41 * 1024


def error_probability(margin: float) -> float:
    return 0.5 * math.erfc(abs(margin) / math.sqrt(2.0))


def candidates(key: Key, chunks: int, comparisons: int) -> dict[tuple[int, int], dict[int, float]]:
    """Return the level of each candidate by (chunk, comparison) and lane: the binomial law, and Floyd's sampling."""
    words = (key.word0, key.word1, key.read)
    chance = [math.comb(1024, k) * SHARE**k * (1 - SHARE) ** (1024 - k) for k in range(8)]
    found: dict[tuple[int, int], dict[int, float]] = {}
    for pair in range(chunks * comparisons):
        draw = naive.word(*words, CHOICE + pair)
        count = sum(draw >= round(2**32 * sum(chance[: k + 1])) for k in range(8))
        chosen: dict[int, float] = {}
        for place in range(count):
            last = 1024 - count + place
            at = PLACES + pair * 16 + 2 * place
            lane = naive.word(*words, at) * (last + 1) // 2**32
            chosen[last if lane in chosen else lane] = (naive.word(*words, at + 1) + 0.5) * 2.0**-47
        if chosen:
            found[divmod(pair, comparisons)] = chosen
    return found


class Comparator:
    """Decides the comparisons of one conversion, one after the other."""

    def __init__(self, key: Key, element: int, sigma: float, chosen: dict[tuple[int, int], dict[int, float]]) -> None:
        self.words = (key.word0, key.word1, key.read)
        self.element, self.sigma, self.chosen, self.rank = element, sigma, chosen, 0

    def __call__(self, comparison: int, difference: float) -> bool:
        if abs(np.float32(difference)) <= np.float32(NEAR * self.sigma):
            noise = naive.normal_element(*self.words, self.rank * PLANE + self.element)
            self.rank += 1
            return difference + self.sigma * noise >= 0
        level = self.chosen.get((self.element // 1024, comparison), {}).get(self.element % 1024, 1.0)
        return (difference >= 0) != (error_probability(difference / self.sigma) > level)
