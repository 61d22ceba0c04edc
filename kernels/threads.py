"""How many threads the kernels use: set here and nowhere else."""

import numba

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
