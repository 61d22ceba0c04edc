"""Philox4x32-10 words, uniforms and Gaussians, a chunk of 1024 at a time: Numba for the CPU, torch for any device, the same bits.

Only ``+ - * /``, square roots, rounding conversions and bit operations are used, in one order, because IEEE 754 fixes the result of each
of them: library logarithms and cosines differ between machines. The generator is that of Salmon et al., "Parallel random numbers: as easy
as 1, 2, 3" (SC 2011); the Gaussians are Box and Muller's (1958).
"""

import math
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from numba import njit, prange
from torch import Tensor

CHUNK: Final = 1024
"""Draws in a chunk: four planes of `PLANE` lanes, one plane for each word of a counter block."""
PLANE: Final = 256

WORDS: Final = 0
UNIFORM: Final = 1
NORMAL: Final = 2

_MASK: Final = np.uint64(0xFFFFFFFF)
_SHIFT_32: Final = np.uint64(32)
_ROUNDS: Final = 10
# Salmon et al. 2011, section 3.3 (multipliers; the increments are the golden ratio and sqrt(3) - 1 in 32 bits).
_MULTIPLIER_0: Final = np.uint64(0xD2511F53)
_MULTIPLIER_1: Final = np.uint64(0xCD9E8D57)
_INCREMENT_0: Final = np.uint64(0x9E3779B9)
_INCREMENT_1: Final = np.uint64(0xBB67AE85)

_SHIFT_1: Final = np.uint32(1)
_SHIFT_30: Final = np.uint32(30)
_SHIFT_23: Final = np.int32(23)
_LOW_30: Final = np.uint32(0x3FFFFFFF)
_HALF_QUADRANT: Final = np.int32(0x20000000)
_MANTISSA: Final = np.int32(0x007FFFFF)
_ROOT_HALF_BITS: Final = np.int32(0x3F3504F3)
_BIT_0: Final = np.int32(1)
_BIT_1: Final = np.int32(2)

_HALF: Final = np.float32(0.5)
_ONE: Final = np.float32(1.0)
_MINUS_TWO: Final = np.float32(-2.0)
_TINY: Final = np.float32(2.0**-31)
_BELOW_ONE: Final = np.float32(1.0 - 2.0**-24)
_LN_2: Final = np.float32(math.log(2.0))
_ANGLE: Final = np.float32(2.0 * math.pi / 2.0**32)
_LOG_3, _LOG_5, _LOG_7, _LOG_9 = (np.float32(1.0 / n) for n in (3, 5, 7, 9))
_SIN_3, _SIN_5, _SIN_7, _SIN_9 = (np.float32(sign / math.factorial(n)) for sign, n in ((-1, 3), (1, 5), (-1, 7), (1, 9)))
_COS_2, _COS_4, _COS_6, _COS_8 = (np.float32(sign / math.factorial(n)) for sign, n in ((-1, 2), (1, 4), (-1, 6), (1, 8)))

_TORCH_BLOCK: Final = 1024
"""Chunks the torch backend holds at once: bounds its 64-bit temporaries to about 50 MB."""


@njit(cache=True, nogil=True, error_model="numpy")
def fill_word_chunk(word0: int, word1: int, read_low: int, read_high: int, chunk_index: int, words: npt.NDArray[np.uint32]) -> None:
    """Write the 1024 Philox words of one chunk: word `w` of counter block ``256 chunk_index + j`` to lane ``256 w + j``.

    Parameters
    ----------
    word0, word1
        The key, 32 bits each.
    read_low, read_high
        The upper half of the counter, 32 bits each.
    chunk_index
        Which chunk of the stream.
    words
        Output, ``(1024,)`` uint32.
    """
    first_block = np.uint64(chunk_index) * np.uint64(PLANE)
    for lane in range(PLANE):
        block = first_block + np.uint64(lane)
        # 32-bit words zero-extended to 64 bits: LLVM turns the products into one vpmuludq for eight lanes.
        c0 = block & _MASK
        c1 = block >> _SHIFT_32
        c2 = np.uint64(read_low)
        c3 = np.uint64(read_high)
        k0 = np.uint64(word0)
        k1 = np.uint64(word1)
        for _ in range(_ROUNDS):
            product_0 = c0 * _MULTIPLIER_0
            product_1 = c2 * _MULTIPLIER_1
            c0 = (product_1 >> _SHIFT_32) ^ c1 ^ k0
            c1 = product_1 & _MASK
            c2 = (product_0 >> _SHIFT_32) ^ c3 ^ k1
            c3 = product_0 & _MASK
            k0 = (k0 + _INCREMENT_0) & _MASK
            k1 = (k1 + _INCREMENT_1) & _MASK
        words[lane] = c0
        words[PLANE + lane] = c1
        words[2 * PLANE + lane] = c2
        words[3 * PLANE + lane] = c3


@njit(cache=True, nogil=True, error_model="numpy")
def _box_muller(
    radius_words: npt.NDArray[np.uint32],
    angle_words: npt.NDArray[np.uint32],
    first: npt.NDArray[np.float32],
    second: npt.NDArray[np.float32],
) -> None:
    """Turn words into as many pairs of normals; `radius_words` is overwritten."""
    # Four short loops with disjoint inputs and outputs (the outputs double as scratch), so that each becomes SIMD code.
    first_bits = first.view(np.int32)
    second_bits = second.view(np.int32)
    exponents = radius_words.view(np.int32)
    for lane in range(first.size):
        first[lane] = (np.float32(np.int32(radius_words[lane] >> _SHIFT_1)) + _HALF) * _TINY
    for lane in range(first.size):
        shifted = np.int32(first_bits[lane] - _ROOT_HALF_BITS)
        exponents[lane] = np.int32(shifted >> _SHIFT_23)
        second_bits[lane] = np.int32(np.int32(shifted & _MANTISSA) + _ROOT_HALF_BITS)
    for lane in range(first.size):
        mantissa = second[lane]
        s = (mantissa - _ONE) / (mantissa + _ONE)
        z = s * s
        series = _ONE + z * (_LOG_3 + z * (_LOG_5 + z * (_LOG_7 + z * _LOG_9)))
        logarithm = np.float32(exponents[lane]) * _LN_2 + (s + s) * series
        first[lane] = np.sqrt(_MINUS_TWO * logarithm)
    for lane in range(first.size):
        word = angle_words[lane]
        quadrant = np.int32(word >> _SHIFT_30)
        angle = np.float32(np.int32(np.int32(word & _LOW_30) - _HALF_QUADRANT)) * _ANGLE
        z = angle * angle
        sine = angle + angle * z * (_SIN_3 + z * (_SIN_5 + z * (_SIN_7 + z * _SIN_9)))
        cosine = _ONE + z * (_COS_2 + z * (_COS_4 + z * (_COS_6 + z * _COS_8)))
        odd = (quadrant & _BIT_0) != 0
        x = sine if odd else cosine
        y = cosine if odd else sine
        x = -x if ((quadrant + _BIT_0) & _BIT_1) != 0 else x
        y = -y if (quadrant & _BIT_1) != 0 else y
        radius = first[lane]
        first[lane] = radius * x
        second[lane] = radius * y


@njit(cache=True, nogil=True, error_model="numpy")
def fill_normal_chunk(word0: int, word1: int, read_low: int, read_high: int, chunk_index: int, out: npt.NDArray[np.float32]) -> None:
    """Write the 1024 standard normals of one chunk of a stream; callable from other Numba kernels.

    Parameters
    ----------
    word0, word1
        The key, 32 bits each.
    read_low, read_high
        The read counter, 32 bits each.
    chunk_index
        Which chunk of the stream: elements ``1024 chunk_index`` to ``1024 chunk_index + 1023``.
    out
        Output, ``(1024,)`` float32, C-contiguous.

    Examples
    --------
    >>> import numpy as np
    >>> out = np.empty(1024, np.float32)
    >>> fill_normal_chunk(1, 2, 0, 0, 0, out)
    >>> bool(abs(out.mean()) < 0.15)
    True
    """
    words = np.empty(CHUNK, np.uint32)
    fill_word_chunk(word0, word1, read_low, read_high, chunk_index, words)
    for pair in range(2):
        start = 2 * PLANE * pair
        middle = start + PLANE
        stop = middle + PLANE
        _box_muller(words[start:middle], words[middle:stop], out[start:middle], out[middle:stop])


@njit(cache=True, nogil=True, error_model="numpy")
def word_at(word0: int, word1: int, read_low: int, read_high: int, chunk_index: int, lane: int) -> int:
    """Return one of the words that `fill_word_chunk` writes, for the few that are needed alone; the other parameters are as there.

    Examples
    --------
    >>> import numpy as np
    >>> out = np.empty(1024, np.uint32)
    >>> fill_word_chunk(1, 2, 0, 0, 3, out)
    >>> all(word_at(1, 2, 0, 0, 3, lane) == out[lane] for lane in (0, 300, 700, 1023))
    True
    """
    block = np.uint64(chunk_index) * np.uint64(PLANE) + np.uint64(lane % PLANE)
    c0 = block & _MASK
    c1 = block >> _SHIFT_32
    c2 = np.uint64(read_low)
    c3 = np.uint64(read_high)
    k0 = np.uint64(word0)
    k1 = np.uint64(word1)
    for _ in range(_ROUNDS):
        product_0 = c0 * _MULTIPLIER_0
        product_1 = c2 * _MULTIPLIER_1
        c0 = (product_1 >> _SHIFT_32) ^ c1 ^ k0
        c1 = product_1 & _MASK
        c2 = (product_0 >> _SHIFT_32) ^ c3 ^ k1
        c3 = product_0 & _MASK
        k0 = (k0 + _INCREMENT_0) & _MASK
        k1 = (k1 + _INCREMENT_1) & _MASK
    lower = c1 if lane >= PLANE else c0
    upper = c3 if lane >= 3 * PLANE else c2
    return int(upper if lane >= 2 * PLANE else lower)


@njit(cache=True, nogil=True, error_model="numpy")
def fill_uniform_chunk(word0: int, word1: int, read_low: int, read_high: int, chunk_index: int, out: npt.NDArray[np.float32]) -> None:
    """Write the 1024 uniforms of one chunk of a stream; parameters as for `fill_normal_chunk`."""
    words = np.empty(CHUNK, np.uint32)
    fill_word_chunk(word0, word1, read_low, read_high, chunk_index, words)
    for lane in range(CHUNK):
        value = (np.float32(np.int32(words[lane] >> _SHIFT_1)) + _HALF) * _TINY
        out[lane] = value if value < _BELOW_ONE else _BELOW_ONE


@njit(cache=True, nogil=True, error_model="numpy")
def fill_chunks(
    kind: int, word0: int, word1: int, read_low: int, read_high: int, out: npt.NDArray[np.float32], first: int, last: int
) -> None:
    """Write chunks `first` to `last - 1` of a stream into their places in `out` ``(n,)``; the last chunk may be partial.

    `kind` is `WORDS`, `UNIFORM` or `NORMAL`; words are stored as the bits of the float32 array.
    """
    partial = np.empty(CHUNK, np.float32)
    for chunk in range(first, last):
        start = chunk * CHUNK
        count = min(CHUNK, out.size - start)
        target = out[start : start + CHUNK] if count == CHUNK else partial
        if kind == NORMAL:
            fill_normal_chunk(word0, word1, read_low, read_high, chunk, target)
        elif kind == UNIFORM:
            fill_uniform_chunk(word0, word1, read_low, read_high, chunk, target)
        else:
            fill_word_chunk(word0, word1, read_low, read_high, chunk, target.view(np.uint32))
        if count < CHUNK:
            for lane in range(count):
                out[start + lane] = partial[lane]


@njit(cache=True, nogil=True, parallel=True)
def fill_chunks_parallel(
    kind: int, word0: int, word1: int, read_low: int, read_high: int, out: npt.NDArray[np.float32], chunks: int, workers: int
) -> None:
    """Do `fill_chunks` over all `chunks` with one contiguous range for each of `workers` threads."""
    for worker in prange(workers):
        fill_chunks(kind, word0, word1, read_low, read_high, out, worker * chunks // workers, (worker + 1) * chunks // workers)


def torch_draws(
    kind: int, word0: int, word1: int, read_low: int, read_high: int, count: int, device: torch.device, first_chunk: int = 0
) -> Tensor:
    """Return `count` draws of a stream as a 1-D tensor on `device`: the bits of `fill_chunks`, in torch operations.

    `kind` is `UNIFORM` or `NORMAL` (float32), or `WORDS` (int64); draws start at chunk `first_chunk`.
    """
    chunks = -(-count // CHUNK)
    pieces = []
    for first in range(0, chunks, _TORCH_BLOCK):
        words = _torch_words(word0, word1, read_low, read_high, first_chunk + first, min(_TORCH_BLOCK, chunks - first), device)
        if kind == WORDS:
            pieces.append(words.reshape(-1))
        elif kind == UNIFORM:
            pieces.append(_torch_unit(words).clamp(max=float(_BELOW_ONE)).reshape(-1))
        else:
            pieces.append(_torch_box_muller(words).reshape(-1))
    if not pieces:
        return torch.empty(0, dtype=torch.int64 if kind == WORDS else torch.float32, device=device)
    return torch.cat(pieces)[:count]


def exact_sqrt(values: Tensor) -> Tensor:
    """Return the correctly rounded square root of float32 `values`, which `torch.sqrt` is not on a CPU with MKL (16 % are one unit off).

    The square root of a float32 is at least 2^-51 (relative) away from any point halfway between two float32, so rounding a float64 root
    with an error below one of its units gives the correct result.
    """
    return values.to(torch.float64).sqrt().to(torch.float32)


def _torch_words(word0: int, word1: int, read_low: int, read_high: int, first: int, chunks: int, device: torch.device) -> Tensor:
    """Return words ``(chunks, 4, 256)`` int64, each in ``[0, 2^32)``."""
    mask = 0xFFFFFFFF
    block = torch.arange(first * PLANE, (first + chunks) * PLANE, dtype=torch.int64, device=device)
    c0, c1 = block & mask, block >> 32
    c2, c3 = torch.full_like(block, read_low), torch.full_like(block, read_high)
    k0, k1 = word0, word1
    for _ in range(_ROUNDS):
        # The signed 64-bit product wraps, and its bits are those of the unsigned one.
        product_0, product_1 = c0 * int(_MULTIPLIER_0), c2 * int(_MULTIPLIER_1)
        c0, c1 = ((product_1 >> 32) & mask) ^ c1 ^ k0, product_1 & mask
        c2, c3 = ((product_0 >> 32) & mask) ^ c3 ^ k1, product_0 & mask
        k0, k1 = (k0 + int(_INCREMENT_0)) & mask, (k1 + int(_INCREMENT_1)) & mask
    return torch.stack([c.view(chunks, PLANE) for c in (c0, c1, c2, c3)], dim=1)


def _torch_unit(words: Tensor) -> Tensor:
    return ((words >> 1).to(torch.int32).to(torch.float32) + float(_HALF)) * float(_TINY)


def _torch_box_muller(words: Tensor) -> Tensor:
    """Return normals ``(chunks, 4, 256)`` float32 of `words`, step by step as `_box_muller` does."""
    shifted = _torch_unit(words[:, 0::2]).view(torch.int32) - int(_ROOT_HALF_BITS)
    exponent = shifted >> int(_SHIFT_23)
    mantissa = ((shifted & int(_MANTISSA)) + int(_ROOT_HALF_BITS)).view(torch.float32)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    z = s * s
    series = z * _horner(z, _LOG_3, _LOG_5, _LOG_7, _LOG_9) + 1.0
    logarithm = exponent.to(torch.float32) * float(_LN_2) + (s + s) * series
    radius = exact_sqrt(logarithm * float(_MINUS_TWO))

    angle_words = words[:, 1::2]
    quadrant = angle_words >> int(_SHIFT_30)
    angle = ((angle_words & int(_LOW_30)) - int(_HALF_QUADRANT)).to(torch.int32).to(torch.float32) * float(_ANGLE)
    z = angle * angle
    sine = angle + angle * z * _horner(z, _SIN_3, _SIN_5, _SIN_7, _SIN_9)
    cosine = z * _horner(z, _COS_2, _COS_4, _COS_6, _COS_8) + 1.0
    odd = (quadrant & 1) != 0
    x, y = torch.where(odd, sine, cosine), torch.where(odd, cosine, sine)
    x = torch.where(((quadrant + 1) & 2) != 0, -x, x)
    y = torch.where((quadrant & 2) != 0, -y, y)
    return torch.stack((radius * x, radius * y), dim=2).reshape(words.shape)


def _horner(z: Tensor, c0: np.float32, c1: np.float32, c2: np.float32, c3: np.float32) -> Tensor:
    return ((z * float(c3) + float(c2)) * z + float(c1)) * z + float(c0)
