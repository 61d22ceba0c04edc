"""What counts as data: loaders, data sets, pairs of tensors, and how one batch splits into inputs and targets."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

TARGET_NAMES = ("labels", "label", "targets", "target")


@dataclass(frozen=True)
class Batch:
    """One batch: what the model is called with, and what its outputs are compared to.

    Attributes
    ----------
    inputs
        Positional arguments of the model.
    keywords
        Keyword arguments of the model.
    targets
        Targets, or None where the batch has none.
    """

    inputs: tuple[Any, ...]
    keywords: dict[str, Any] = field(default_factory=dict)
    targets: Any = None

    def to(self, device: torch.device) -> "Batch":
        """Return the batch with its tensors on a device."""

        def moved(value: Any) -> Any:
            return value.to(device) if isinstance(value, Tensor) else value

        return Batch(tuple(moved(value) for value in self.inputs), {k: moved(v) for k, v in self.keywords.items()}, moved(self.targets))


def split(item: Any) -> Batch:
    """Split what a loader yields: the last of a tuple, or the entry ``labels`` or ``targets`` of a mapping, is the target.

    Examples
    --------
    >>> split((torch.zeros(2, 3), torch.zeros(2))).inputs[0].shape
    torch.Size([2, 3])
    """
    if isinstance(item, Batch):
        return item
    if isinstance(item, Tensor):
        return Batch((item,))
    if isinstance(item, Mapping):
        name = next((name for name in TARGET_NAMES if name in item), None)
        return Batch((), {key: value for key, value in item.items() if key != name}, None if name is None else item[name])
    if isinstance(item, Sequence) and len(item) == 1:
        return Batch((item[0],))
    if isinstance(item, Sequence) and len(item) > 1 and not isinstance(item, str):
        return Batch(tuple(item[:-1]), {}, item[-1])
    raise ValueError(f"Argument `data` must yield (inputs, targets), a mapping with 'labels' or a tensor, but got a {type(item).__name__}")


class RepeatableBatches:
    """Any data as batches that can be gone through again and again, in the same order each time.

    Going through a loader draws from torch's global generator; here it is put back afterwards, and every pass starts from
    `seed`, so that a shuffling loader gives every trial the same order and no state outside is read or changed. A loader with a method
    ``set_epoch``, as `Batches` has, is told the first epoch for each pass, or the one that `set_epoch` chose.

    Parameters
    ----------
    data
        A loader, a torch data set, an iterable of batches, or a pair of tensors (inputs, targets).
    batch_size
        Batch size for data that are not batched yet.
    seed
        Start of the generator for each pass.
    name
        The caller's argument, for error messages.

    Examples
    --------
    >>> [len(batch.inputs[0]) for batch in RepeatableBatches((torch.zeros(5, 2), torch.zeros(5)), batch_size=3)]
    [3, 2]
    """

    def __init__(self, data: Any, *, batch_size: int = 256, seed: int = 0, name: str = "data") -> None:
        self.seed = seed
        self.name = name
        self._epoch = 0
        if isinstance(data, tuple | list) and len(data) == 2 and all(isinstance(part, Tensor) for part in data):
            inputs, targets = data
            if len(inputs) != len(targets):
                raise ValueError(
                    f"Argument `{name}` must be two tensors of one length, but got {len(inputs)} inputs and {len(targets)} targets"
                )
            self._source: Iterable[Any] = [
                (inputs[start : start + batch_size], targets[start : start + batch_size]) for start in range(0, len(inputs), batch_size)
            ]
        elif isinstance(data, Dataset) and not isinstance(data, DataLoader):
            self._source = DataLoader(data, batch_size=batch_size)
        elif isinstance(data, Tensor) or not isinstance(data, Iterable):
            raise ValueError(
                f"Argument `{name}` must be a loader, a data set, batches of (inputs, targets) or a pair of tensors, "
                f"but got {type(data).__name__}"
            )
        else:
            # An iterator can be gone through once only: keep what it yields.
            self._source = list(data) if isinstance(data, Iterator) else data

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the passes from now on."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches; raises ValueError if there are none."""
        borrowed = torch.Generator().manual_seed(self.seed).get_state()
        iterator: Iterator[Any] | None = None
        empty = True
        with _told(self._source, self._epoch):
            while True:
                outside = torch.random.get_rng_state()
                torch.random.set_rng_state(borrowed)
                try:
                    iterator = iter(self._source) if iterator is None else iterator
                    item = next(iterator)
                except StopIteration:
                    break
                finally:
                    borrowed = torch.random.get_rng_state()
                    torch.random.set_rng_state(outside)
                empty = False
                yield split(item)
        if empty:
            raise ValueError(f"Argument `{self.name}` must hold at least one batch, but got none; check the data set and its split")


@contextmanager
def _told(source: Any, epoch: int) -> Iterator[None]:
    """Tell a loader its epoch where it wants to know, and afterwards the one that it was at."""
    if not hasattr(source, "set_epoch"):
        yield
        return
    before = getattr(source, "epoch", None)
    source.set_epoch(epoch)
    try:
        yield
    finally:
        if before is not None:
            source.set_epoch(before)
