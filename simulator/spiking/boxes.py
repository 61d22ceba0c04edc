"""Which sources a block of neurons needs: places followed back through synapses and pooling, axis by axis and one by one."""

import math
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

from simulator.spiking.network import SpikingNetwork
from simulator.spiking.steps import Concatenation, Flatten, MaxPool, Pool, Population
from simulator.spiking.synapses import Synapses
from simulator.spiking.tracing import INPUT

Box = tuple[tuple[int, int], ...]
"""First and one past the last index along each axis of a sample: channels, height, width; or neurons of a vector."""
Shape = tuple[int, ...]
Block = tuple[int, ...]
"""Which indices along each axis, one bit for each index: neurons whose every index is among them. Strides and dilation leave holes."""


def volume(box: Box) -> int:
    """Return how many neurons a box holds.

    Examples
    --------
    >>> volume(((0, 4), (2, 5)))
    12
    """
    return math.prod(max(0, stop - start) for start, stop in box)


def block(box: Box) -> Block:
    """Return the neurons of a box.

    Examples
    --------
    >>> block(((1, 3),))
    (6,)
    """
    return tuple(_span(start, stop) for start, stop in box)


def indices(mask: int) -> list[int]:
    """Return the indices whose bits are set.

    Examples
    --------
    >>> indices(0b1010)
    [1, 3]
    """
    return [place for place, bit in enumerate(reversed(f"{mask:b}")) if bit == "1"]


class Region:
    """Neurons of one population: the union of blocks.

    Parameters
    ----------
    blocks
        Each may overlap others.

    Examples
    --------
    >>> Region([block(((0, 2), (0, 3))), block(((1, 3), (0, 3)))]).volume()
    9
    """

    def __init__(self, blocks: Iterable[Block]) -> None:
        kept: list[Block] = []
        for one in blocks:
            if all(one) and not any(_within(one, other) for other in kept):
                kept = [*(other for other in kept if not _within(other, one)), one]
        self.blocks = tuple(kept)

    def volume(self) -> int:
        """Return how many neurons it holds, each counted once."""
        return sum(_count(one) for one in (self.blocks if len(self.blocks) < 2 else self.apart()))

    def inside(self, limits: Block) -> int:
        """Return how many of its neurons are in a block."""
        if len(self.blocks) == 1:  # as nearly always
            return _count(tuple(map(int.__and__, self.blocks[0], limits)))
        return sum(_count(tuple(map(int.__and__, one, limits))) for one in self.apart())

    def overlap(self, box: Box) -> "Region":
        """Return what it has in common with a box."""
        limits = block(box)
        return Region(tuple(a & b for a, b in zip(one, limits, strict=True)) for one in self.blocks)

    def apart(self) -> Iterator[Block]:
        """Yield blocks that do not overlap and have the same neurons."""
        for index, one in enumerate(self.blocks):
            pieces = [one]
            for other in self.blocks[:index]:
                pieces = [left for piece in pieces for left in _without(piece, other)]
            yield from pieces


def paths(network: SpikingNetwork, shapes: Mapping[str, Shape], name: str, box: Box) -> list[tuple[str, Block]]:
    """Return what neurons of a stage get something from, path by path: each layer with weights, and each shortcut, has synapses of its own.

    Parameters
    ----------
    network
        The network.
    shapes
        Shape of a sample of each stage's output.
    name, box
        A stage, and which of its outputs.

    Returns
    -------
    list
        Names of populations (or of the input's spikes) with which of their neurons are needed. An input that is not spikes is left out.
    """
    steps = network.named_steps()

    def collect(source: str, needed: Block) -> Iterator[tuple[str, Block]]:
        if source == INPUT:
            if network.coding != "direct":
                yield source, needed
        elif isinstance(steps[source], Population):
            yield source, needed
        else:
            yield from go(source, needed)

    def go(stage: str, wanted: Block) -> Iterator[tuple[str, Block]]:
        step = steps[stage]
        inputs = network.layout.inputs[network.layout.names.index(stage)]
        if isinstance(step, Concatenation):
            start = 0
            for one in inputs:
                channels = shapes[one][0]
                part = wanted[0] >> start & _span(0, channels)
                if part:
                    yield from collect(one, (part, *wanted[1:]))
                start += channels
            return
        for one in inputs:
            yield from collect(one, _back(step, shapes[one], wanted))

    return list(go(name, block(box)))


def sources(network: SpikingNetwork, shapes: Mapping[str, Shape], name: str, box: Box) -> dict[str, Region]:
    """Return the neurons of each population (or of the input's spikes) that neurons of a stage get something from.

    Parameters
    ----------
    network, shapes, name, box
        As for `paths`.

    Returns
    -------
    dict
        By name of the population; exactly those that are needed, whatever the stride and dilation. After flattening, whole channels are.
    """
    found: dict[str, list[Block]] = {}
    for source, needed in paths(network, shapes, name, box):
        found.setdefault(source, []).append(needed)
    return {source: Region(blocks) for source, blocks in found.items()}


def _count(one: Block) -> int:
    return math.prod(axis.bit_count() for axis in one)


def _span(start: int, stop: int) -> int:
    return (1 << stop) - (1 << start) if stop > start else 0


def _within(one: Block, other: Block) -> bool:
    return all(not a & ~b for a, b in zip(one, other, strict=True))


def _without(one: Block, other: Block) -> Iterator[Block]:
    """Yield what is left of a block without another, in blocks that do not overlap."""
    if not all(a & b for a, b in zip(one, other, strict=True)):
        yield one
        return
    for axis, (a, b) in enumerate(zip(one, other, strict=True)):
        if a & ~b:
            yield (*one[:axis], a & ~b, *one[axis + 1 :])
        one = (*one[:axis], a & b, *one[axis + 1 :])


def _whole(shape: Shape) -> Block:
    return tuple(_span(0, size) for size in shape)


def _back(step: object, shape: Shape, wanted: Block) -> Block:
    """Return which inputs of a step its outputs in a block need."""
    if isinstance(step, Flatten):
        return (_shared(wanted[0], math.prod(shape[1:]), 1), *_whole(shape)[1:])
    if isinstance(step, Synapses):
        operator = step.operator
        if operator.dimensions == 0:
            return (*wanted[:-1], _span(0, shape[-1]))
        channels = _shared(wanted[0], step.weight.shape[0] // operator.groups, step.weight.shape[1])
        if operator.border:
            return (channels, *_whole(shape)[1:])
        kernel = tuple(step.weight.shape[2:])
        return (channels, *_windows(shape[1:], wanted[1:], kernel, operator.stride, operator.padding, operator.dilation))
    if isinstance(step, Pool):
        return (wanted[0], *_windows(shape[1:], wanted[1:], step.kernel, step.stride, step.padding, (1,) * len(step.kernel)))
    if isinstance(step, MaxPool):
        kernel, stride, padding = ((v, v) if isinstance(v, int) else tuple(v) for v in step.options)
        return (wanted[0], *_windows(shape[1:], wanted[1:], kernel, stride, padding, (1, 1)))
    return wanted


@lru_cache(1 << 12)
def _shared(wanted: int, outputs: int, inputs: int) -> int:
    """Return the inputs of groups of which some outputs are wanted."""
    found = 0
    for group in range(-(-wanted.bit_length() // outputs)):
        if wanted >> group * outputs & _span(0, outputs):
            found |= _span(group * inputs, (group + 1) * inputs)
    return found


def _windows(shape: Shape, wanted: Block, kernel: Shape, stride: Shape, padding: Shape, dilation: Shape) -> Block:
    return tuple(map(_window, shape, wanted, kernel, stride, padding, dilation))


@lru_cache(1 << 12)
def _window(size: int, wanted: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Return the places along an axis that the windows of some outputs look at."""
    found = 0
    for output in indices(wanted):
        for tap in range(kernel):
            place = output * stride - padding + tap * dilation
            if 0 <= place < size:
                found |= 1 << place
    return found
