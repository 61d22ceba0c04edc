"""Which sources a block of neurons needs: boxes of neurons, followed back through synapses and pooling."""

import math
from collections.abc import Mapping

from simulator.spiking.network import SpikingNetwork
from simulator.spiking.steps import Concatenation, Flatten, MaxPool, Pool, Population, Synapses
from simulator.spiking.tracing import INPUT

Box = tuple[tuple[int, int], ...]
"""First and one past the last index along each axis of a sample: channels, height, width; or neurons of a vector."""
Shape = tuple[int, ...]


def volume(box: Box) -> int:
    """Return how many neurons a box holds.

    Examples
    --------
    >>> volume(((0, 4), (2, 5)))
    12
    """
    return math.prod(max(0, stop - start) for start, stop in box)


def overlap(first: Box, second: Box) -> Box:
    """Return what two boxes have in common.

    Examples
    --------
    >>> overlap(((0, 4),), ((2, 9),))
    ((2, 4),)
    """
    return tuple((max(a, c), max(a, c, min(b, d))) for (a, b), (c, d) in zip(first, second, strict=True))


def whole(shape: Shape) -> Box:
    """Return the box of all neurons."""
    return tuple((0, size) for size in shape)


def sources(network: SpikingNetwork, shapes: Mapping[str, Shape], name: str, box: Box) -> dict[str, Box]:
    """Return the box of each population (or of the input's spikes) that neurons of a stage get something from.

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
    dict
        By name of the population; the smallest box that holds all that is needed. An input that is not spikes is left out.
    """
    found: dict[str, Box] = {}
    steps = network.named_steps()

    def collect(source: str, needed: Box) -> None:
        if source == INPUT:
            if network.coding != "direct":
                join(source, needed)
            return
        if isinstance(steps[source], Population):
            join(source, needed)
            return
        go(source, needed)

    def join(source: str, needed: Box) -> None:
        before = found.get(source)
        pairs = zip(before or needed, needed, strict=True)
        found[source] = tuple((min(a, c), max(b, d)) for (a, b), (c, d) in pairs)

    def go(stage: str, wanted: Box) -> None:
        step = steps[stage]
        inputs = network.layout.inputs[network.layout.names.index(stage)]
        if isinstance(step, Concatenation):
            start = 0
            for one in inputs:
                channels = shapes[one][0]
                part = (max(0, wanted[0][0] - start), min(channels, wanted[0][1] - start))
                if part[0] < part[1]:
                    collect(one, (part, *wanted[1:]))
                start += channels
            return
        for one in inputs:
            collect(one, _back(step, shapes[one], wanted))

    go(name, box)
    return found


def _back(step: object, shape: Shape, box: Box) -> Box:
    """Return which inputs of a step its outputs in a box need."""
    if isinstance(step, Flatten):
        places = math.prod(shape[1:])
        start, stop = box[0]
        return ((start // places, -(-stop // places)), *whole(shape)[1:])
    if isinstance(step, Synapses):
        operator = step.operator
        if operator.dimensions == 0:
            return (*box[:-1], (0, shape[-1]))
        share_out, share_in = step.weight.shape[0] // operator.groups, step.weight.shape[1]
        first, last = box[0][0] // share_out, (box[0][1] - 1) // share_out
        if operator.border:
            return ((first * share_in, (last + 1) * share_in), *whole(shape)[1:])
        kernel = tuple(step.weight.shape[2:])
        spans = _windows(shape[1:], box[1:], kernel, operator.stride, operator.padding, operator.dilation)
        return ((first * share_in, (last + 1) * share_in), *spans)
    if isinstance(step, Pool):
        return (box[0], *_windows(shape[1:], box[1:], step.kernel, step.stride, step.padding, (1,) * len(step.kernel)))
    if isinstance(step, MaxPool):
        kernel, stride, padding = ((v, v) if isinstance(v, int) else tuple(v) for v in step.options)
        return (box[0], *_windows(shape[1:], box[1:], kernel, stride, padding, (1, 1)))
    return box


def _windows(shape: Shape, spans: Box, kernel: Shape, stride: Shape, padding: Shape, dilation: Shape) -> Box:
    return tuple(
        (max(0, start * s - p), min(size, (stop - 1) * s - p + d * (k - 1) + 1))
        for size, (start, stop), k, s, p, d in zip(shape, spans, kernel, stride, padding, dilation, strict=True)
    )
