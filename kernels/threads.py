"""How many threads the kernels and torch use: set here and nowhere else."""

from collections.abc import Iterator
from contextlib import contextmanager

import numba
import torch

_LIMIT = 1


def set_threads(count: int) -> None:
    """Let the Numba loops of this process use up to `count` threads; the bits of every result stay the same.

    One is the default: cores are better used by processes (``workers=``), and threads that wait for a busy core can be many
    times slower than one thread.

    Parameters
    ----------
    count
        At least 1; more than the machine's cores counts as its cores.

    Raises
    ------
    ValueError
        If `count` is not an integer of at least 1.

    Examples
    --------
    >>> set_threads(2)
    >>> set_threads(1)
    >>> get_threads()
    1
    """
    global _LIMIT  # noqa: PLW0603 - the one place where threads are set
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"Argument `count` must be an integer of at least 1, but got {count!r}; do pass how many threads to use.")
    _LIMIT = count


def get_threads() -> int:
    """Return how many threads the Numba loops may use.

    Examples
    --------
    >>> get_threads() >= 1
    True
    """
    return min(_LIMIT, int(numba.get_num_threads()))


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one intra-op thread inside the block, and on as many as before after it.

    Several of torch's own operations differ in their last bits between one thread and two.

    Examples
    --------
    >>> with one_thread():
    ...     torch.get_num_threads()
    1
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
