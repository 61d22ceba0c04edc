"""Inputs that come again in every trial of an evaluation: what the rows carry for them is found once."""

import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from torch import Tensor

Block = TypeVar("Block")

KEPT_BYTES: Final = 1 << 28
"""Inputs of a layer for which blocks are kept, in bytes: a data set beyond is prepared anew in each trial."""


@dataclass
class _Entry(Generic[Block]):
    """What is known of a tensor: whether it is still the same, and its blocks, once it was seen twice."""

    of: "weakref.ref[Tensor]"
    mark: Hashable
    blocks: list[Block] | None = field(default=None)


class SharedInputs(Generic[Block]):
    """Blocks made of a tensor, kept from its second coming on for as long as it lives and stays as it is.

    A layer's own inputs come once and are gone; batches of a data set, which the first layer sees, come again in each trial.

    Examples
    --------
    >>> import torch
    >>> shared, batch, made = SharedInputs(), torch.ones(4), []
    >>> for trial in range(3):
    ...     doubled = shared.block(shared.of(batch, "double"), 0, lambda: made.append(trial) or batch * 2)
    >>> made, doubled.tolist()
    ([0, 1], [2.0, 2.0, 2.0, 2.0])
    """

    def __init__(self) -> None:
        self._entries: dict[int, _Entry[Block]] = {}

    def of(self, inputs: Tensor, settings: Hashable) -> list[Block] | None:
        """Return the blocks kept of a tensor under some settings, perhaps none yet; None where nothing is to be kept of it."""
        if inputs.is_inference():
            return None  # has no version to tell a change by
        place, mark = id(inputs), (inputs._version, settings)
        entry = self._entries.get(place)
        if entry is None or entry.of() is not inputs or entry.mark != mark:
            self._entries[place] = _Entry(weakref.ref(inputs, lambda _: self._entries.pop(place, None)), mark)
            return None
        if entry.blocks is None and self._bytes() + inputs.nbytes <= KEPT_BYTES:
            entry.blocks = []
        return entry.blocks

    @staticmethod
    def block(blocks: list[Block] | None, number: int, make: Callable[[], Block]) -> Block:
        """Return a block that is kept, or make it, and keep it where blocks are kept; they come in order."""
        if blocks is None:
            return make()
        if number == len(blocks):
            blocks.append(make())
        return blocks[number]

    def _bytes(self) -> int:
        kept = [entry.of() for entry in self._entries.values() if entry.blocks is not None]
        return sum(tensor.nbytes for tensor in kept if tensor is not None)
