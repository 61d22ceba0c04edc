"""Where the numbers of a call come from: which layer made what another one reads, seen from the storage of tensors."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from simulator.operations import tensors

MOST_JOINS = 8
"""Joins of one kind that a module shows apart in one call; further ones, as those of a loop over time, are one node."""
MOST_VIA = 6
"""Operations that an edge names."""


class Node(NamedTuple):
    """A place where numbers are made: a layer on hardware, a product, or digital operations that join several flows.

    Attributes
    ----------
    layer
        Qualified name of the layer, or of the module that did it.
    kind
        Empty for a layer on hardware; the function of a product; what joins; ``input`` and ``output`` of the model.
    number
        Which of several joins of a kind in a module, from 0.
    product
        Whether it is a product of matrices beside the layers on hardware.
    """

    layer: str
    kind: str = ""
    number: int = 0
    product: bool = False


INPUT, OUTPUT = Node("input", "input"), Node("output", "output")


@dataclass(frozen=True)
class Edge:
    """Numbers that one node made and another one reads.

    Attributes
    ----------
    source, target
        The nodes.
    via
        Digital operations on the way that join nothing, in the order of their first appearance.
    values
        Numbers that the target reads of this flow, all calls together.
    """

    source: Node
    target: Node
    via: tuple[str, ...]
    values: int


Origins = dict[Node, tuple[str, ...]]
"""The nodes that a tensor comes from, and the operations since."""


class Flow:
    """Follows tensors through a call by their storage, without keeping their numbers alive.

    Examples
    --------
    >>> import torch
    >>> flow, x = Flow(), torch.ones(2)
    >>> flow.begin([x])
    >>> y = x + 1
    >>> flow.passed("model", "add", [x], [y])
    >>> flow.read(Node("head"), [y])
    >>> flow.edges()[0].source.kind, flow.edges()[0].via
    ('input', ('add',))
    """

    def __init__(self) -> None:
        self._origins: dict[int, tuple[StorageWeakRef, Origins]] = {}
        self._edges: dict[tuple[Node, Node], tuple[tuple[str, ...], int]] = {}
        self._joins: dict[tuple[str, str], int] = {}
        self._nodes: dict[Node, None] = {}

    def begin(self, inputs: Any) -> None:
        """Mark the model's inputs."""
        self.made(INPUT, inputs)

    def made(self, node: Node, results: Any) -> None:
        """Say that a node made tensors."""
        self._nodes[node] = None
        for tensor in tensors(results):
            self._put(tensor, {node: ()})

    def read(self, node: Node, operands: Any) -> None:
        """Say that a node reads tensors."""
        for tensor in tensors(operands):
            for source, via in self._of(tensor).items():
                before, values = self._edges.get((source, node), ((), 0))
                self._edges[source, node] = (_merged(before, via), values + tensor.numel())

    def passed(self, module: str, term: str, operands: Any, results: Any, *, moves: bool = False) -> None:
        """Say that digital operations turned tensors into others; where flows meet they become a node of their own."""
        origins: Origins = {}
        several = [self._of(tensor) for tensor in tensors(operands)]
        for one in several:
            for node, via in one.items():
                origins[node] = _merged(origins.get(node, ()), via)
        if len(origins) > 1 and len([one for one in several if one]) > 1 and any(one.keys() != origins.keys() for one in several if one):
            count = self._joins.get((module, term), 0)
            self._joins[module, term] = count + 1
            node = Node(module, term, min(count, MOST_JOINS - 1))
            self._nodes[node] = None
            self.read(node, operands)
            origins = {node: ()}
        elif not moves:
            origins = {node: _merged(via, (term,)) for node, via in origins.items()}
        for tensor in tensors(results):
            self._put(tensor, origins)

    def edges(self) -> tuple[Edge, ...]:
        """Return what was seen, in the order in which it was first read."""
        return tuple(Edge(source, target, via, values) for (source, target), (via, values) in self._edges.items())

    def nodes(self) -> tuple[Node, ...]:
        """Return the nodes in the order in which they first made something."""
        return tuple(self._nodes)

    def _of(self, tensor: Tensor) -> Origins:
        key = storage_key(tensor)
        found = self._origins.get(key) if key is not None else None
        return {} if found is None else found[1]

    def _put(self, tensor: Tensor, origins: Origins) -> None:
        key = storage_key(tensor)
        if key is not None:
            # The weak reference keeps the address from being given to another storage, but frees the numbers.
            self._origins[key] = (StorageWeakRef(tensor.untyped_storage()), origins)


def storage_key(tensor: Tensor) -> int | None:
    """Return what tells a tensor's storage from others, or None where it has none (sparse tensors).

    Examples
    --------
    >>> import torch
    >>> x = torch.ones(4)
    >>> storage_key(x) == storage_key(x[2:]), storage_key(x) == storage_key(x.clone())
    (True, False)
    """
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):
        return None


def _merged(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *second)))[:MOST_VIA]
