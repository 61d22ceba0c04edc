"""Cost rows of everything that a chip computes beside its layers on hardware."""

from collections.abc import Callable, Mapping

from devices.base import Cost, DigitalArray, Hardware
from devices.digital import TieredArray, VectorUnit, product_cost
from simulator.capture import Capture, Contraction, Operation

FLOAT32_BYTES = 4
HOST = "not given: the host's constants"  # its area is none of the chip's


def unit_name(digital: Hardware | None, product: bool) -> str:
    """Return what tables call the unit that does a digital operation.

    Parameters
    ----------
    digital
        What computes beside the layers on hardware; None is the host.
    product
        Whether it is a product of matrices.

    Examples
    --------
    >>> from devices import SystolicArray
    >>> array = SystolicArray(rows=8, columns=8)
    >>> unit_name(None, True), unit_name(array, True), unit_name(array, False)
    ('host', 'SystolicArray', 'host')
    """
    if isinstance(digital, VectorUnit) or (digital is not None and (product or vector_of(digital) is not None)):
        return type(digital).__name__
    return "host"


def vector_of(digital: Hardware | None) -> VectorUnit | None:
    """Return the unit that does the operations which are no products, or None for the host.

    Examples
    --------
    >>> vector_of(VectorUnit(lanes=4)).lanes
    4
    """
    if isinstance(digital, VectorUnit):
        return digital
    return digital.vector if isinstance(digital, TieredArray) else None


def digital_costs(
    found: Capture, names: Mapping[str, str], digital: Hardware | None, is_elsewhere: Callable[[Contraction], bool]
) -> list[Cost]:
    """Return the cost rows of digital products and operations of a call, in the order in which they first ran.

    Parameters
    ----------
    found
        The call.
    names
        Names of modules as tables show them, by those in the call.
    digital
        What computes beside the layers on hardware; None is the host, whose constants are not given.
    is_elsewhere
        Whether a product has cost rows of its own: those of layers on hardware.

    Examples
    --------
    >>> import torch
    >>> from simulator.batches import Batch
    >>> from simulator.capture import capture
    >>> found = capture(torch.nn.Softmax(-1), Batch((torch.ones(2, 3),)))
    >>> [(row.term, row.operations, row.bytes) for row in digital_costs(found, {}, None, lambda one: False)]
    [('softmax', 30, 48)]
    """
    rows: list[Cost] = []
    products: dict[tuple[str, str], list[Contraction]] = {}
    for one in found.contractions:
        if not is_elsewhere(one):
            products.setdefault((names.get(one.module, one.module), one.function), []).append(one)
    for (layer, function), several in products.items():
        rows.extend(_product_rows(layer, function, several, digital))
    rows.extend(_operation_row(names.get(one.module, one.module), one, digital) for one in found.operations)
    vector = vector_of(digital)
    if vector is not None:
        rows.append(vector.area("" if isinstance(digital, VectorUnit) else type(digital).__name__))
    return rows


def _product_rows(layer: str, function: str, several: list[Contraction], digital: Hardware | None) -> list[Cost]:
    unknown = any(one.macs is None for one in several)
    macs = sum(one.macs or 0 for one in several)
    shapes = [shape for one in several for shape in one.products if shape.macs]
    operands = [(s.m * s.k + s.k * s.n + s.m * s.n) * s.times for s in shapes]
    if unknown:
        note = "no formula for its operations"
        return [Cost(layer=layer, hardware=unit_name(None, True), term=function, note=note)]
    if isinstance(digital, DigitalArray):
        counts = {shape: shapes.count(shape) for shape in dict.fromkeys(shapes)}
        found = [row for shape, count in counts.items() for row in _repeated(product_cost(digital, layer, shape), count)]
        return _added(found, function)
    vector = vector_of(digital)
    if vector is not None:
        return [vector.cost(layer, function, operations=2 * macs, moved_bytes=sum(operands) * vector.number_bytes, macs=macs)]
    moved = sum(operands) * FLOAT32_BYTES
    return [Cost(layer=layer, hardware="host", term=function, operations=2 * macs, macs=macs, bytes=moved, area_m2=0.0, note=HOST)]


def _repeated(rows: list[Cost], count: int) -> list[Cost]:
    """Return rows for a product that is done several times."""
    several = [
        _changed(
            row,
            energy_j=None if row.energy_j is None else row.energy_j * count,
            latency_s=None if row.latency_s is None else row.latency_s * count,
            bytes=None if row.bytes is None else row.bytes * count,
            operations=None if row.operations is None else row.operations * count,
            macs=None if row.macs is None else row.macs * count,
        )
        for row in rows
    ]
    return several


def _added(rows: list[Cost], function: str) -> list[Cost]:
    """Add up the rows of one term, and name the function in it."""
    totals: dict[str, Cost] = {}
    for row in rows:
        before = totals.get(row.term)
        if before is None:
            totals[row.term] = row
            continue
        sums = {
            name: None if getattr(row, name) is None or getattr(before, name) is None else getattr(row, name) + getattr(before, name)
            for name in ("energy_j", "latency_s", "bytes", "operations", "macs")
        }
        totals[row.term] = _changed(before, **sums)
    return [_changed(row, term=f"{function}: {row.term}") if row.term == "multiply-accumulate" else row for row in totals.values()]


def _changed(row: Cost, **values: object) -> Cost:
    return Cost(**{**vars(row), **values})


def _operation_row(layer: str, one: Operation, digital: Hardware | None) -> Cost:
    vector = vector_of(digital)
    if vector is None:
        note = HOST if one.operations is not None else f"no formula for its operations; {HOST}"
        moved = one.floats * FLOAT32_BYTES + one.others
        return Cost(layer=layer, hardware="host", term=one.term, operations=one.operations, bytes=moved, area_m2=0.0, note=note)
    moved = one.floats * vector.number_bytes + one.others
    owner = "" if isinstance(digital, VectorUnit) else type(digital).__name__
    return vector.cost(layer, one.term, operations=one.operations, moved_bytes=moved, owner=owner)
