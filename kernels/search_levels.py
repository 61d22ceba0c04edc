"""Several levels of a binary search in one pass over the lanes, so that the difference stays in a register."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import njit

from kernels.comparator import error_probability
from kernels.philox import normal_at

Line = npt.NDArray[np.float32]
Marks = npt.NDArray[np.int32]

LEVELS: Final = 4
"""Levels of one pass."""
ONE: Final = np.int32(1)
USED: Final = np.int32(1)
"""Mark of a conversion that has used its first draw."""
AGAIN: Final = np.int32(2)
"""Mark of a conversion that would have needed another one in a pass."""


def _pass_over(levels: int, noisy: bool) -> Callable[..., None]:
    """Return the loop over so many levels, which the compiler unrolls."""

    @njit(cache=True, nogil=True, error_model="numpy")
    def search(
        r: Line,
        code: Line,
        first: Line,
        marks: Marks,
        above: Line,
        below: Line,
        columns: int,
        weight: np.float32,
        sigma: np.float32,
        near: np.float32,
    ) -> None:
        stride = np.uint64(columns)
        for lane in range(r.size):
            value = r[lane]
            total = code[lane]
            worth = weight
            if noisy:
                draw = first[lane] * sigma
                mark = marks[lane]
            for k in range(levels):
                decided = value
                if noisy:
                    close = np.int32(1) if abs(value) <= near else np.int32(0)
                    decided = value + draw if close != 0 else value
                    mark |= ((mark & close) << ONE) | close
                up = above[np.uint64(k) * stride + np.uint64(lane)]
                down = below[np.uint64(k) * stride + np.uint64(lane)]
                value -= up if decided >= 0 else -down
                total += worth if decided >= 0 else -worth
                worth *= np.float32(0.5)
            r[lane] = value
            code[lane] = total
            if noisy:
                marks[lane] = mark

    return search


search_four: Any = _pass_over(LEVELS, False)
search_one: Any = _pass_over(1, False)
search_four_noisy: Any = _pass_over(LEVELS, True)
search_one_noisy: Any = _pass_over(1, True)


@njit(cache=True, nogil=True, error_model="numpy")
def search_alone(
    value: np.float32,
    first: np.float32,
    second: np.float32,
    steps: npt.NDArray[np.float32],
    column: int,
    sigma: np.float32,
    near: np.float32,
    stream: npt.NDArray[np.int64],
    planes: int,
    chunk: int,
    lane: int,
    starts: npt.NDArray[np.int64],
    lanes: npt.NDArray[np.int64],
    levels: npt.NDArray[np.float64],
    words: npt.NDArray[np.uint32],
    pair: Line,
) -> float:
    """Return the code of one conversion that the passes could not finish: one with two close comparisons, or a candidate."""
    count = steps.shape[1]
    rank = 0
    code = np.float32(0.0)
    weight = np.float32(2.0 ** (count - 1))
    for k in range(count + 1):
        up = bool(value >= 0)
        if abs(value) <= near:
            noise = first if rank == 0 else second
            if rank > 1:
                noise = np.float32(normal_at(stream[0], stream[1], stream[2], stream[3], rank * planes + chunk, lane, words, pair))
            up = bool(value + noise * sigma >= 0)
            rank += 1
        else:
            begin = chunk * (count + 1) + k
            for place in range(starts[begin], starts[begin + 1]):
                if lanes[place] == lane and error_probability(np.float64(value) / np.float64(sigma)) > levels[place]:
                    up = not up
        code += weight if up else -weight
        weight *= np.float32(0.5)
        if k < count:
            value -= steps[0, k, column] if up else -steps[1, k, column]
    return float(code)
