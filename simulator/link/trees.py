"""States as trees without arrays, and the arrays beside them: what travels in a message."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from simulator.link.messages import ARRAYS, Array, MessageError
from simulator.link.shared_memory import ALIGNMENT, address_of

MARK = "__array__"


def tensor_of(array: Array) -> Tensor:
    """Return a tensor of an array's numbers, in memory of torch's own: products of numbers that lie elsewhere have other last bits.

    Examples
    --------
    >>> tensor_of(np.frombuffer(bytes(8), np.float32))
    tensor([0., 0.])
    """
    found = torch.empty(array.shape, dtype=getattr(torch, array.dtype.name))
    found.numpy()[...] = array
    return found


def borrowed(array: Array) -> Tensor:
    """Return a tensor of an array's numbers that may share its memory, where that is as torch's own.

    Examples
    --------
    >>> borrowed(torch.ones(2).numpy())
    tensor([1., 1.])
    """
    fits = array.flags.writeable and array.flags.c_contiguous and address_of(array) % ALIGNMENT == 0
    return torch.from_numpy(array) if fits else tensor_of(array)


def split(state: Any) -> tuple[Any, dict[str, Array]]:
    """Return a state with a mark in the place of each tensor, and the tensors as arrays by the mark's text.

    Examples
    --------
    >>> tree, arrays = split({"cells": torch.zeros(2), "age": "0"})
    >>> tree, list(arrays)
    ({'cells': {'__array__': 'a0'}, 'age': '0'}, ['a0'])
    """
    arrays: dict[str, Array] = {}

    def walk(value: Any) -> Any:
        if isinstance(value, Tensor):
            name = f"a{len(arrays)}"
            arrays[name] = value.detach().cpu().numpy()
            return {MARK: name}
        if isinstance(value, dict):
            return {str(key): walk(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [walk(item) for item in value]
        return value.item() if isinstance(value, np.generic) else value

    tree = walk(state)
    if len(arrays) > ARRAYS:
        raise MessageError("too_long", f"a state must hold at most {ARRAYS} arrays, but got {len(arrays)}")
    return tree, arrays


def join(tree: Any, arrays: dict[str, Array]) -> Any:
    """Return the state that `split` took apart; its tensors are copies.

    Examples
    --------
    >>> join(*split({"cells": torch.ones(2)}))
    {'cells': tensor([1., 1.])}
    """
    if isinstance(tree, dict):
        if set(tree) == {MARK}:
            if tree[MARK] not in arrays:
                raise MessageError("malformed", f"the tree must name arrays that came with it, but names {tree[MARK]!r}")
            return tensor_of(arrays[tree[MARK]])
        return {key: join(value, arrays) for key, value in tree.items()}
    return [join(value, arrays) for value in tree] if isinstance(tree, list) else tree
