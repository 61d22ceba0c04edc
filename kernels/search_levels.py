"""A binary search of which one draw decides all comparisons that are close, as long as they are few.

Of a conversion the differences at its comparisons are about a step apart, so with noise well below a step one or two of them are close
enough to be turned around. One draw serves both: added to the difference before the search, it turns the first one around where it is
beyond the margin on one side, and the last one where it is beyond the margin on the other: each with the probability of its own draw.
What belongs to both together is taken off the far end of the second side; `search_undecided` does that, and every case that is not so.
"""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from numba import njit

from kernels.comparator import PLANE_CHUNKS, error_probability, errs
from kernels.philox import CHUNK, word_at

Line = npt.NDArray[np.float32]
Counts = npt.NDArray[np.int32]

LEVELS: Final = 4
"""Levels of one pass."""
_ZERO: Final = np.float32(0.0)


def _pass_over(levels: int, noisy: bool) -> Callable[..., None]:
    """Return the loop over so many levels, which the compiler unrolls; the difference stays in a register."""

    @njit(cache=True, nogil=True, error_model="numpy")
    def search(
        r: Line,
        code: Line,
        shift: Line,
        close_sum: Line,
        close_count: Counts,
        above: Line,
        below: Line,
        columns: int,
        weight: np.float32,
        near: np.float32,
    ) -> None:
        stride = np.uint64(columns)
        for lane in range(r.size):
            value = r[lane]
            total = code[lane]
            worth = weight
            if noisy:
                draw = shift[lane]
                margins = close_sum[lane]
                found = close_count[lane]
            for k in range(levels):
                if noisy:
                    margin = value - draw
                    close = abs(margin) <= near
                    margins += margin if close else _ZERO
                    found += np.int32(1) if close else np.int32(0)
                up = above[np.uint64(k) * stride + np.uint64(lane)]
                down = below[np.uint64(k) * stride + np.uint64(lane)]
                positive = value >= 0
                value -= up if positive else -down
                total += worth if positive else -worth
                worth *= np.float32(0.5)
            r[lane] = value
            code[lane] = total
            if noisy:
                close_sum[lane] = margins
                close_count[lane] = found

    return search


search_four: Any = _pass_over(LEVELS, False)
search_one: Any = _pass_over(1, False)
search_four_noisy: Any = _pass_over(LEVELS, True)
search_one_noisy: Any = _pass_over(1, True)


@njit(cache=True, nogil=True, error_model="numpy")
def finish_search(
    r: Line, code: Line, shift: Line, close_sum: Line, close_count: Counts, near: np.float32, undecided: npt.NDArray[np.uint8]
) -> None:
    """Compare once more, and mark what the passes cannot decide: conversions with more than two close comparisons, and some with two.

    The last comparison takes the side of the draw that the first close one has not taken.
    """
    for lane in range(r.size):
        draw = shift[lane]
        margin = r[lane] - draw
        first = close_sum[lane]
        second = close_count[lane] == 1 and abs(margin) <= near
        turned = (first >= 0) != (first + draw >= 0)
        other_side = draw if first >= 0 else -draw
        # Both together have at most the probability of a draw beyond the root of the margins' squares.
        both = draw * draw >= first * first + margin * margin
        alone = close_count[lane] > 1 or abs(draw) > near or (second and (turned or both))
        undecided[lane] = np.uint8(1) if alone else np.uint8(0)
        own = np.float32(0.5) if margin >= 0 else np.float32(-0.5)
        shared = -own if other_side > abs(margin) else own
        shifted = np.float32(0.5) if r[lane] >= 0 else np.float32(-0.5)
        code[lane] += shared if second else shifted


@njit(cache=True, nogil=True, error_model="numpy")
def _collect(undecided: npt.NDArray[np.uint8], who: Counts) -> int:
    """Write the marked conversions to `who`, and return how many there are."""
    found = 0
    eights = undecided.view(np.uint64)
    for eight in range(eights.size):
        if eights[eight] != 0:
            for lane in range(8 * eight, 8 * eight + 8):
                who[found] = lane
                found += 1 if undecided[lane] != 0 else 0
    return found


@njit(cache=True, nogil=True, error_model="numpy")
def search_undecided(
    origin: Line,
    code: Line,
    shift: Line,
    undecided: npt.NDArray[np.uint8],
    rest: Line,
    first: Line,
    rank: Counts,
    notes: npt.NDArray[np.int32],
    flat: Line,
    columns: int,
    count: int,
    sigma: np.float32,
    near: np.float32,
    stream: npt.NDArray[np.int64],
    chunk: int,
    starts: npt.NDArray[np.int64],
    lanes: npt.NDArray[np.int64],
    levels: npt.NDArray[np.float64],
) -> None:
    """Search the marked conversions of a chunk again, comparison by comparison, from the difference `origin`.

    `flat` has the steps, `count` for each line and as many `columns` for each; `rest`, `first`, `rank` and `notes` are scratch.

    The first close comparison takes the draw. If it was not turned around and the last one is the only other close one, that takes the
    other side of the draw, without what belongs to both together. Any other one takes a word of its own.
    """
    who, up, others, turned, column = notes[0], notes[1], notes[2], notes[3], notes[4]
    size = _collect(undecided, who)
    if size == 0:
        return
    for i in range(size):
        rest[i] = origin[who[i]]
        rank[i] = np.int32(0)
        turned[i] = np.int32(0)
        code[who[i]] = np.float32(0.0)
        column[i] = (chunk * CHUNK + who[i]) % columns
    for k in range(count + 1):
        close_again = 0
        # Without branches, because nothing here can be foreseen.
        for i in range(size):
            value = rest[i]
            positive = np.int32(value >= 0)
            close = np.int32(abs(value) <= near)
            now = close & np.int32(rank[i] == 0)
            first[i] = value if now else first[i]
            flips = now & (positive ^ np.int32(value + shift[who[i]] >= 0))
            turned[i] |= flips
            up[i] = positive ^ flips
            others[close_again] = i
            close_again += 1 if close & np.int32(rank[i] > 0) else 0
            rank[i] += close
        for place in range(close_again):
            one = int(others[place])
            value = rest[one]
            if rank[one] == 2 and k == count and not turned[one]:
                other_side = shift[who[one]] if first[one] >= 0 else -shift[who[one]]
                if other_side > abs(value):
                    together = error_probability(first[one] / np.float64(sigma)) * error_probability(value / np.float64(sigma))
                    up[one] ^= np.int32(error_probability(other_side / np.float64(sigma)) >= together)
            else:
                plane = (rank[one] - 1) * PLANE_CHUNKS + chunk
                word = word_at(stream[0], stream[1], stream[2], stream[3], plane, who[one])
                up[one] ^= np.int32(errs(word, value / np.float64(sigma)))
        pair = chunk * (count + 1) + k
        for place in range(starts[pair], starts[pair + 1]):
            for i in range(size):
                if who[i] == lanes[place] and abs(rest[i]) > near:
                    up[i] ^= np.int32(error_probability(rest[i] / np.float64(sigma)) > levels[place])
        weight = np.float32(2.0 ** (count - 1 - k))
        above = flat[min(k, count - 1) * columns :]
        below = flat[(count + min(k, count - 1)) * columns :]
        for i in range(size):
            # Unsigned, because a signed index is checked for being negative.
            where = np.uint64(column[i])
            down = -below[where]
            taken = above[where]
            rest[i] -= taken if up[i] else down
            code[who[i]] += weight if up[i] else -weight
