"""What keeps a computation to itself: torch's threads and torch's global generator, borrowed and given back."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from kernels.random import Key, bits
from kernels.threads import one_thread

__all__ = ["one_thread", "private_generator"]


@contextmanager
def private_generator(key: Key) -> Iterator[None]:
    """Seed torch's global generators from `key` inside the block, and put back what they held after it.

    Dropout, data loaders and the constructors of torch's layers take no generator as an argument, so code of a user that has
    them is repeatable only in this way. Nothing of inloop's own draws from these generators.

    Parameters
    ----------
    key
        Names the draws; equal keys give equal draws.

    Examples
    --------
    >>> with private_generator(Key.of(seed=0, purpose="example")):
    ...     first = torch.nn.Linear(2, 2).weight
    >>> with private_generator(Key.of(seed=0, purpose="example")):
    ...     second = torch.nn.Linear(2, 2).weight
    >>> torch.equal(first, second)
    True
    """
    low, high = (int(word) for word in bits(key, 2))
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(low | high << 32)
        yield
