"""Into which boxes a layer is cut, so that as few as its core's limits allow cover it."""

import math
from collections.abc import Callable, Iterator, Mapping

from simulator.spiking.boxes import Box, Shape

UNLIMITED = 1 << 62


def tile_size(shape: Shape, demand: Callable[[Box], Mapping[str, int]], limits: Mapping[str, int]) -> Shape:
    """Return the size of tiles of which the fewest cover a layer."""

    def fits(size: Shape) -> bool:
        # The tile in the middle needs most sources.
        box: Box = tuple(
            (min(full - part, max(0, full // 2 - part // 2)), min(full - part, max(0, full // 2 - part // 2)) + part)
            for full, part in zip(shape, size, strict=True)
        )
        return all(need <= limits.get(resource, UNLIMITED) for resource, need in demand(box).items())

    if fits(shape):
        return shape
    best: tuple[int, Shape] | None = None
    for rest in _spans(shape[1:]):
        if not fits((1, *rest)):
            continue
        low, high = 1, shape[0]
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits((middle, *rest)) else (low, middle - 1)
        count = math.prod(math.ceil(full / part) for full, part in zip(shape, (low, *rest), strict=True))
        if best is None or count < best[0]:
            best = count, (low, *rest)
    assert best is not None, "one neuron fits"
    return best[1]


def _spans(shape: Shape) -> Iterator[Shape]:
    """Yield heights and widths to try: whole rows, then parts of one row, then squares."""
    if len(shape) == 2:
        yield from ((height, shape[1]) for height in range(shape[0], 0, -1))
        yield from ((size, size) for size in range(min(shape) - 1, 1, -1))
        yield from ((1, width) for width in range(shape[1] - 1, 0, -1))
    elif len(shape) == 1:
        yield from ((length,) for length in range(shape[0], 0, -1))
    else:
        yield (1,) * len(shape)


def boxes_of(shape: Shape, size: Shape) -> list[Box]:
    """Return boxes of about a size that cover a shape, as equal as can be."""
    boxes: list[Box] = [()]
    for full, part in zip(shape, size, strict=True):
        pieces = math.ceil(full / part)
        even = math.ceil(full / pieces)
        edges = [(start, min(full, start + even)) for start in range(0, full, even)]
        boxes = [(*box, edge) for box in boxes for edge in edges]
    return boxes
