"""Counter-based random streams: a key in, the same bits out, on any device and for any number of threads.

Element `i` of a draw depends on the key and on `i` only, so the first `n` elements of a longer draw are the draw of `n` elements.
"""

import hashlib
import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kernels.philox import CHUNK, NORMAL, UNIFORM, WORDS, fill_chunks, fill_chunks_parallel, torch_draws
from kernels.threads import get_threads

Backend = Literal["numba", "torch"]

_MASK: Final = 0xFFFFFFFF
_PARALLEL_CHUNKS: Final = 64
"""Chunks from which threads are used: below, starting them costs more than they save."""
_REDRAW_ATTEMPTS: Final = 1000


@dataclass(frozen=True, slots=True)
class Key:
    """The name of a random stream: 64 bits that say which stream, and a counter that says which read of it.

    Equal keys give equal draws; different words or reads give independent ones. A key is hashable and picklable, and holds no state.

    Parameters
    ----------
    word0, word1
        Key of the generator, 0 to 2^32 - 1 each. Usually made by `Key.of` and `fold`.
    read
        Which access to the same hardware, 0 to 2^64 - 1.

    Raises
    ------
    ValueError
        If a word or the counter is outside its range.

    Examples
    --------
    >>> key = Key.of(seed=0, layer="conv1", purpose="read")
    >>> key == Key.of(seed=0, layer="conv1", purpose="read")
    True
    >>> key.at(3)
    Key(word0=320303119, word1=2717306241, read=3)
    """

    word0: int
    word1: int
    read: int = 0

    def __post_init__(self) -> None:
        for name, bits in (("word0", 32), ("word1", 32), ("read", 64)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 0 or value >> bits:
                raise ValueError(
                    f"Argument `{name}` must be an integer from 0 to 2**{bits} - 1, but got {value!r}; "
                    "do make keys by `Key.of(seed=...)`, `fold` and `at`."
                )

    @classmethod
    def of(cls, *, seed: int, trial: int = 0, layer: str = "", tile: int = 0, purpose: str = "", read: int = 0) -> "Key":
        """Make the key of one purpose of one tile of one layer of one programmed instance.

        Parameters
        ----------
        seed
            Any integer: the user's seed.
        trial
            Which programmed instance.
        layer
            Qualified name of the layer.
        tile
            Which tile of the layer.
        purpose
            What is drawn, as ``"program"`` or ``"read"``.
        read
            Which read, 0 to 2^64 - 1; kept beside the hash of the others.

        Returns
        -------
        Key
            The same on every platform: the words are a BLAKE2b hash of all arguments but `read`.

        Raises
        ------
        ValueError
            If an argument is not an integer or string, or `read` is out of range.

        Examples
        --------
        >>> Key.of(seed=0)
        Key(word0=2197039889, word1=3168791611, read=0)
        """
        return cls(*_hash(seed, trial, layer, tile, purpose), _integer("read", read))

    def fold(self, *parts: int | str) -> "Key":
        """Derive the key of a substream from this key and `parts`; `read` is kept.

        Parameters
        ----------
        *parts
            One or more integers or strings; their order, number and type matter.

        Returns
        -------
        Key
            A key whose draws are independent of this one's and of those of other parts.

        Raises
        ------
        ValueError
            If no part is given, or one is neither an integer nor a string.

        Examples
        --------
        >>> key = Key.of(seed=0)
        >>> key.fold("stuck") == key.fold("stuck", 1)
        False
        """
        if not parts:
            raise ValueError("Argument `parts` must have at least one integer or string, but got none; do name the substream.")
        return Key(*_hash(self.word0, self.word1, *parts), self.read)

    def at(self, read: int) -> "Key":
        """Return the key of the same stream at another read.

        Parameters
        ----------
        read
            Which read, 0 to 2^64 - 1.

        Returns
        -------
        Key
            Same words, other counter.

        Raises
        ------
        ValueError
            If `read` is out of range.

        Examples
        --------
        >>> Key(1, 2).at(7)
        Key(word0=1, word1=2, read=7)
        """
        return Key(self.word0, self.word1, _integer("read", read))

    def words(self) -> tuple[int, int, int, int]:
        """Return ``(word0, word1, read low, read high)``, 32 bits each: the leading arguments of the kernels.

        Examples
        --------
        >>> Key(1, 2, read=2**32 + 5).words()
        (1, 2, 5, 1)
        """
        return self.word0, self.word1, self.read & _MASK, self.read >> 32


def bits(key: Key, n: int, *, backend: Backend | None = None) -> npt.NDArray[np.uint32]:
    """Draw `n` uniform 32-bit words.

    Parameters
    ----------
    key
        The stream.
    n
        How many, at least 0.
    backend
        ``"numba"`` (default) or ``"torch"``; the bits are the same.

    Returns
    -------
    numpy.ndarray
        ``(n,)`` uint32. Word `w` of counter block `b` is element ``1024 (b // 256) + 256 w + b % 256``.

    Raises
    ------
    ValueError
        If `n` is not an integer or negative, or `backend` is unknown.

    Examples
    --------
    >>> bits(Key(0, 0), 2)
    array([1713891541, 4175744164], dtype=uint32)
    """
    count = _integer("n", n)
    if count < 0:
        raise ValueError(f"Argument `n` must be at least 0, but got {count}; do check how it is computed.")
    device = torch.device("cpu")
    if use_numba(device, backend):
        return _numba_draws(WORDS, key, count).view(np.uint32)
    return np.asarray(torch_draws(WORDS, *key.words(), count, device).numpy(), np.uint32)


def uniform(key: Key, shape: int | Sequence[int], device: torch.device | str | None = None, *, backend: Backend | None = None) -> Tensor:
    """Draw uniform numbers strictly between 0 and 1.

    Parameters
    ----------
    key
        The stream.
    shape
        Shape of the result.
    device
        Where the result lives; the CPU by default.
    backend
        ``"numba"`` (the default on the CPU) or ``"torch"`` (elsewhere); the bits are the same.

    Returns
    -------
    Tensor
        Float32 of `shape`, from 2^-32 to 1 - 2^-24. Below 2^-8 the grid is 2^-31, so that small rates are met.

    Raises
    ------
    ValueError
        If a length is negative, or `backend` is unknown or cannot serve `device`.

    Examples
    --------
    >>> uniform(Key.of(seed=0), (2, 2)).shape
    torch.Size([2, 2])
    """
    return _draw(UNIFORM, key, shape, device, backend)


def normal(key: Key, shape: int | Sequence[int], device: torch.device | str | None = None, *, backend: Backend | None = None) -> Tensor:
    """Draw standard normal numbers.

    Parameters
    ----------
    key
        The stream.
    shape
        Shape of the result.
    device
        Where the result lives; the CPU by default.
    backend
        ``"numba"`` (the default on the CPU) or ``"torch"`` (elsewhere); the bits are the same.

    Returns
    -------
    Tensor
        Float32 of `shape`, independent N(0, 1), at most 6.66 in magnitude.

    Raises
    ------
    ValueError
        If a length is negative, or `backend` is unknown or cannot serve `device`.

    Examples
    --------
    >>> key = Key.of(seed=0)
    >>> bool((normal(key, 5) == normal(key, 1000)[:5]).all())
    True
    """
    return _draw(NORMAL, key, shape, device, backend)


def truncated_normal(key: Key, mean: Tensor, sigma: Tensor, low: float = 0.0) -> Tensor:
    """Draw normal numbers conditioned on being at least `low`, exactly: what falls below is drawn again, nothing is clipped.

    Attempt `a` draws from ``key.fold("redraw", a)`` one number for each element still below, in the order of their index.

    Parameters
    ----------
    key
        The stream.
    mean
        Mean before truncation, float32 of any shape.
    sigma
        Standard deviation before truncation, at least 0, float32; broadcast with `mean`. The unit is that of `mean`.
    low
        Lower bound, in the unit of `mean`.

    Returns
    -------
    Tensor
        Float32 of the broadcast shape on the device of `mean`: N(mean, sigma^2) given that it is at least `low`.

    Raises
    ------
    ValueError
        If a dtype is not float32, `mean`, `sigma` or `low` is not finite, `sigma` is negative, or elements are still below `low` after 1000
        attempts.

    Examples
    --------
    >>> import torch
    >>> draws = truncated_normal(Key.of(seed=0), torch.zeros(1000), torch.tensor(1.0))
    >>> bool((draws >= 0).all())
    True
    """
    for name, tensor in (("mean", mean), ("sigma", sigma)):
        if tensor.dtype != torch.float32:
            raise ValueError(f"Argument `{name}` must have dtype torch.float32, but got {tensor.dtype}; do convert it by `.float()`.")
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"Argument `{name}` must be finite, but got nan or inf; do check what it is computed from.")
    if not math.isfinite(low):
        raise ValueError(f"Argument `low` must be finite, but got {low}; do use `mean + sigma * normal(...)` for draws without a bound.")
    if bool((sigma < 0).any()):
        raise ValueError(f"Argument `sigma` must be at least 0, but got {sigma.min().item():g}; do pass a standard deviation.")
    with torch.no_grad():
        shape = np.broadcast_shapes(mean.shape, sigma.shape)
        means, sigmas = mean.expand(shape).reshape(-1), sigma.expand(shape).reshape(-1)
        values = means + sigmas * normal(key, means.numel(), means.device)
        below = torch.nonzero(values < low).reshape(-1)
        for attempt in range(1, _REDRAW_ATTEMPTS + 1):
            if not below.numel():
                break
            redrawn = means[below] + sigmas[below] * normal(key.fold("redraw", attempt), below.numel(), means.device)
            values[below] = redrawn
            below = below[redrawn < low]
    if not below.numel():
        return values.reshape(shape)
    worst = below[torch.argmin(means[below])]
    raise ValueError(
        f"Argument `low` must be within reach of `mean` and `sigma`, but got low = {low:g}, with {below.numel()} of {means.numel()} "
        f"draws below after {_REDRAW_ATTEMPTS} attempts (one has mean {means[worst].item():g}, sigma {sigmas[worst].item():g}); "
        "do raise `mean` or `sigma`, or lower `low`."
    )


def worker_count(chunks: int) -> int:
    """Return how many threads a loop over `chunks` chunks uses: 1 below 64 chunks, else at most `kernels.threads.get_threads()`.

    Examples
    --------
    >>> worker_count(63)
    1
    """
    return min(get_threads(), chunks) if chunks >= _PARALLEL_CHUNKS else 1


def use_numba(device: torch.device, backend: Backend | None) -> bool:
    """Return whether Numba serves `device`: by default on the CPU; `backend` forces ``"numba"`` or ``"torch"``.

    Raises
    ------
    ValueError
        If `backend` is unknown, or ``"numba"`` with a device other than the CPU.

    Examples
    --------
    >>> import torch
    >>> use_numba(torch.device("cpu"), None)
    True
    """
    if backend is None:
        return device.type == "cpu"
    if backend not in ("numba", "torch"):
        raise ValueError(f'Argument `backend` must be "numba", "torch" or None, but got {backend!r}; do leave it out.')
    if backend == "numba" and device.type != "cpu":
        raise ValueError(f'Argument `backend` must be "torch" or None on device {device}, but got "numba"; do leave it out.')
    return backend == "numba"


def _draw(kind: int, key: Key, shape: int | Sequence[int], device: torch.device | str | None, backend: Backend | None) -> Tensor:
    lengths, count = _count(shape)
    place = torch.device("cpu" if device is None else device)
    if use_numba(place, backend):
        return torch.from_numpy(_numba_draws(kind, key, count)).view(lengths)
    return torch_draws(kind, *key.words(), count, place).view(lengths)


def _numba_draws(kind: int, key: Key, count: int) -> npt.NDArray[np.float32]:
    out = np.empty(count, np.float32)
    chunks = -(-count // CHUNK)
    workers = worker_count(chunks)
    if workers > 1:
        fill_chunks_parallel(kind, *key.words(), out, chunks, workers)
    else:
        fill_chunks(kind, *key.words(), out, 0, chunks)
    return out


def _count(shape: int | Sequence[int]) -> tuple[tuple[int, ...], int]:
    lengths = tuple(shape) if isinstance(shape, Sequence) else (operator.index(shape),)
    if any(length < 0 for length in lengths):
        raise ValueError(f"Argument `shape` must have lengths of at least 0, but got {lengths}; do check the sizes it is made of.")
    return lengths, math.prod(lengths)


def _integer(name: str, value: int) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"Argument `{name}` must be an integer, but got {value!r}; do convert it by `int`.") from None


@lru_cache(maxsize=8192, typed=True)  # the streams of a layer are named again at each of its reads
def _hash(*parts: int | str) -> tuple[int, int]:
    digest = hashlib.blake2b(digest_size=8, person=b"inloop-key")
    for part in parts:
        if isinstance(part, str):
            tag, data = b"s", part.encode()
        else:
            tag, data = b"i", b"%d" % _integer("parts", part)
        digest.update(tag + len(data).to_bytes(8, "little") + data)
    value = int.from_bytes(digest.digest(), "little")
    return value & _MASK, value >> 32
