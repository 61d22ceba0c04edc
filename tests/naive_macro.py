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


def law(difference: float, steps: list[list[float]], sigma: float) -> dict[float, float]:
    """Return the probability of every code of a binary search, lowest first: that of each comparison on its way, multiplied."""
    count = len(steps[0])
    found: dict[float, float] = {}

    def follow(rest: float, comparison: int, code: float, probability: float) -> None:
        if comparison > count:
            found[code] = probability
            return
        weight = 2.0 ** (count - 1 - comparison)
        up = 0.5 * math.erfc(-rest / sigma / math.sqrt(2.0))
        below, above = (steps[1][comparison], steps[0][comparison]) if comparison < count else (0.0, 0.0)
        follow(rest + below, comparison + 1, code - weight, probability * (1.0 - up))
        follow(rest - above, comparison + 1, code + weight, probability * up)

    follow(difference, 0, 0.0, 1.0)
    return found


class Comparator:
    """Decides the comparisons of one conversion, one after the other.

    `kind` is "each" (a draw for every comparison), "ranks" (a draw for every close one) or "shared" (one draw for two close ones).
    """

    def __init__(
        self, kind: str, key: Key, element: int, sigma: float, comparisons: int, chosen: dict[tuple[int, int], dict[int, float]]
    ) -> None:
        self.kind, self.words = kind, (key.word0, key.word1, key.read)
        self.element, self.sigma, self.comparisons, self.chosen = element, sigma, comparisons, chosen
        self.rank, self.first, self.turned = 0, 0.0, False

    def draw(self, plane: int) -> float:
        return self.sigma * float(naive.normal_element(*self.words, plane * PLANE + self.element))

    def __call__(self, comparison: int, difference: float) -> bool:
        up = difference >= 0
        if self.kind == "each":
            return difference + self.draw(comparison) >= 0
        if abs(np.float32(difference)) > np.float32(NEAR * self.sigma):
            level = self.chosen.get((self.element // 1024, comparison), {}).get(self.element % 1024, 1.0)
            return up != (error_probability(difference / self.sigma) > level)
        rank = self.rank
        self.rank += 1
        if self.kind == "ranks":
            return difference + self.draw(rank) >= 0
        if rank == 0:
            self.first, self.turned = difference, (difference + self.draw(0) >= 0) != up
            return up != self.turned
        if rank == 1 and comparison == self.comparisons - 1 and not self.turned:
            other_side = math.copysign(1.0, self.first) * self.draw(0)
            together = error_probability(self.first / self.sigma) * error_probability(difference / self.sigma)
            return up != (other_side > abs(difference) and error_probability(other_side / self.sigma) >= together)
        word = naive.word(*self.words, rank * PLANE + self.element)
        return up != ((word + 0.5) * 2.0**-32 < error_probability(difference / self.sigma))
