"""Where numbers pass from one hardware to another, what they become there, and what that takes."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import singledispatch

import pandas as pd

from devices.base import Cost, DigitalArray, Hardware
from devices.digital import TieredArray, VectorUnit
from simulator.capture import Capture
from simulator.dataflow import Edge, Node
from simulator.digital_arithmetic import vector_precision
from simulator.digital_costs import HOST, unit_name, vector_of
from simulator.hardware import HardwareLayer
from simulator.lowering.crossbar import CrossbarLayer
from simulator.lowering.digital import DigitalLayer
from simulator.lowering.integer import IntegerLayer
from simulator.lowering.macro import MacroLayer


@dataclass(frozen=True)
class Formats:
    """What numbers look like at the edges of a layer on hardware.

    Attributes
    ----------
    inputs, outputs
        In words.
    input_bits, output_bits
        Bits of a code; None where nothing is converted.
    input_operations, output_operations
        Digital operations that turn a number into a code, and a code into a number.
    """

    inputs: str
    outputs: str
    input_bits: int | None = None
    output_bits: int | None = None
    input_operations: int = 2
    output_operations: int = 1


@singledispatch
def formats_of(layer: HardwareLayer) -> Formats:
    """Return the formats at the edges of a layer; register a family's own with ``formats_of.register``.

    Examples
    --------
    >>> from torch import nn
    >>> from devices import RRAMCrossbar
    >>> from simulator.lowering import lower, weight_layer
    >>> formats_of(lower(RRAMCrossbar.preset("wan_nature_2022"), weight_layer(nn.Linear(3, 2)), "fc", 0)).outputs
    '8-bit ADC codes'
    """
    return Formats("as the hardware takes them", "as the hardware gives them")


@formats_of.register
def _(layer: CrossbarLayer) -> Formats:
    dac, adc = layer.design.dac, layer.design.adc
    return Formats(
        "analog, ideal DAC" if dac is None else f"{dac.bits}-bit DAC codes",
        "analog, ideal ADC" if adc is None else f"{adc.bits}-bit ADC codes",
        None if dac is None else dac.bits,
        None if adc is None else adc.bits,
    )


@formats_of.register
def _(layer: MacroLayer) -> Formats:
    return Formats(_inputs(layer), f"{layer.design.output_bits}-bit readout codes", layer.input_bits, layer.design.output_bits)


@formats_of.register
def _(layer: DigitalLayer) -> Formats:
    if layer.floating:
        return Formats("floating point", "floating point")
    bits = layer.accumulator_bits
    return Formats(_inputs(layer), f"{bits}-bit accumulators", layer.input_bits, bits)


def _inputs(layer: IntegerLayer) -> str:
    return f"{layer.input_bits}-bit {'signed' if layer.signed else 'unsigned'} codes"


@dataclass(frozen=True)
class Conversion:
    """A flow of numbers between two kinds of hardware.

    Attributes
    ----------
    source, target
        Layers, products or joins.
    source_hardware, target_hardware
        Where they run.
    values
        Numbers that pass in the call with the example inputs.
    source_format, target_format
        What a number is before and after.
    via
        Digital operations on the way.
    """

    source: str
    target: str
    source_hardware: str
    target_hardware: str
    values: int
    source_format: str
    target_format: str
    via: str


Products = Mapping[tuple[str, str], str]


def conversions(
    edges: Iterable[Edge], layers: Mapping[str, HardwareLayer], digital: Hardware | None, products: Products
) -> list[Conversion]:
    """Return the flows between different hardware, or through other number formats, in the order in which they were first read.

    Parameters
    ----------
    edges
        The flow of numbers in a call.
    layers
        Layers on hardware by name.
    digital
        What computes beside them; None is the host in float32.
    products
        Hardware of products whose weights are made at run time, by module and function.
    """
    found = []
    for edge in edges:
        hardware = [hardware_of(node, layers, digital, products) for node in (edge.source, edge.target)]
        before, after = (
            _format(node, layers, digital, products, side) for node, side in ((edge.source, "outputs"), (edge.target, "inputs"))
        )
        if hardware[0] == hardware[1] and before == after:
            continue
        source, target = node_name(edge.source), node_name(edge.target)
        found.append(Conversion(source, target, hardware[0], hardware[1], edge.values, before, after, ", ".join(edge.via)))
    return found


def conversion_frame(rows: Iterable[Conversion]) -> pd.DataFrame:
    """Return conversions as a table.

    Examples
    --------
    >>> conversion_frame([]).columns.tolist()[:2]
    ['source', 'target']
    """
    return pd.DataFrame([asdict(row) for row in rows], columns=[field.name for field in fields(Conversion)])


def node_name(node: Node) -> str:
    """Return what tables call a node of the data flow.

    Examples
    --------
    >>> node_name(Node("model.blocks.0", "add", 1)), node_name(Node("head")), node_name(Node("input", "input"))
    ('blocks.0: add 2', 'head', 'input')
    """
    if not node.kind or node.kind in ("input", "output"):
        return node.layer
    return f"{owner(node)}: {node.kind}" + (f" {node.number + 1}" if node.number else "")


def owner(node: Node) -> str:
    """Return the name in the model of the module that a node of a chip's data flow belongs to.

    Examples
    --------
    >>> owner(Node("model.encoder.0", "add")), owner(Node("model", "add"))
    ('encoder.0', 'model')
    """
    return node.layer.removeprefix("model.")


def conversion_costs(layers: Mapping[str, HardwareLayer], found: Capture, digital: Hardware | None) -> list[Cost]:
    """Return the cost rows of turning numbers of the digital unit into codes for a layer, and its codes into numbers.

    Each number is scaled and rounded on the way in (2 operations), and scaled on the way out (1); coded as spikes, and their mean taken,
    with one operation for each time step. What converters take is in the layer's own rows.

    Parameters
    ----------
    layers
        Layers on hardware by name.
    found
        The call.
    digital
        What computes beside them; None is the host in float32.
    """
    rows = []
    for name, layer in layers.items():
        formats, (values_in, values_out) = formats_of(layer), found.passed.get(name, (0, 0))
        for label, values, each, bits in (
            (f"conversion to {formats.inputs}", values_in, formats.input_operations, formats.input_bits),
            (f"conversion from {formats.outputs}", values_out, formats.output_operations, formats.output_bits),
        ):
            if bits is not None and values:
                rows.append(_row(name, label, values, each * values, bits, digital))
    return rows


def _row(name: str, label: str, values: int, operations: int, bits: int, digital: Hardware | None) -> Cost:
    vector = vector_of(digital)
    codes = -(-values * bits // 8)
    if vector is None:
        return Cost(layer=name, hardware="host", term=label, operations=operations, bytes=4 * values + codes, area_m2=0.0, note=HOST)
    owner = "" if isinstance(digital, VectorUnit) else type(digital).__name__
    return vector.cost(name, label, operations=operations, moved_bytes=vector.number_bytes * values + codes, owner=owner)


def hardware_of(node: Node, layers: Mapping[str, HardwareLayer], digital: Hardware | None, products: Products) -> str:
    """Return where a node of the data flow runs: a design's class, or ``host``.

    Examples
    --------
    >>> hardware_of(Node("input", "input"), {}, None, {})
    'host'
    """
    layer = layers.get(node.layer) if not node.kind else None
    if layer is not None:
        return layer.placement.hardware
    if node.product and (owner(node), node.kind) in products:
        return products[owner(node), node.kind]
    if node.kind in ("input", "output"):
        return "host"
    return unit_name(digital, node.product)


def _format(node: Node, layers: Mapping[str, HardwareLayer], digital: Hardware | None, products: Products, side: str) -> str:
    layer = layers.get(node.layer) if not node.kind else None
    if layer is not None:
        return str(getattr(formats_of(layer), side))
    if node.kind in ("input", "output"):
        return "float32"
    if node.product and (owner(node), node.kind) in products:
        return f"codes of the {products[owner(node), node.kind]}"
    if node.product and isinstance(digital, DigitalArray):
        if not isinstance(digital, TieredArray) or digital.input_bits is None:
            return "floating point"
        return f"{digital.input_bits}-bit codes" if side == "inputs" else f"{digital.accumulator_bits}-bit accumulators"
    return vector_precision(digital)
