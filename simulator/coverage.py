"""The coverage table: where every layer and every multiply-accumulate of a model lies, and why some stayed digital."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from simulator.capture import Capture, Contraction
from simulator.folding import FoldingReport
from simulator.hardware import HardwareLayer
from simulator.lowering.transposed import TransposedConvolution


@dataclass(frozen=True)
class CoverageRow:
    """Where one layer of the model lies.

    Attributes
    ----------
    layer
        Qualified name in the model.
    kind
        Class of the layer.
    hardware
        The design's class, ``host`` for digital layers, or the layer that took this one in.
    macs
        Multiply-accumulates of the example inputs, or None where there were none to see shapes with.
    arrays, utilization
        Arrays taken and the share of their cells that hold weights; None on the host.
    reason
        Why the layer stayed digital, or what a reader should know of the mapping.
    """

    layer: str
    kind: str
    hardware: str
    macs: int | None
    arrays: int | None
    utilization: float | None
    reason: str


def coverage_rows(
    chip: nn.Module, before: Capture | None, after: Capture | None, folding: FoldingReport, reasons: Mapping[str, str]
) -> list[CoverageRow]:
    """Return the rows of the coverage table; their multiply-accumulates add up to those of the model's call.

    Parameters
    ----------
    chip
        The compiled model, with its layers on hardware.
    before, after
        Calls of the model and of the chip with the example inputs, or None where there were none.
    folding
        What became of each batch norm.
    reasons
        Why a layer stayed digital, by its name.

    Examples
    --------
    >>> coverage_rows(nn.Sequential(nn.ReLU()), None, None, FoldingReport({}, {}), {})[0].kind
    'ReLU'
    """
    model = chip.get_submodule("model") if hasattr(chip, "routed") else chip
    layers = {module.name: module for module in chip.modules() if isinstance(module, HardwareLayer)}
    overlaps = {name or "model" for name, module in model.named_modules() if isinstance(module, TransposedConvolution)}
    counted: dict[str, list[Contraction]] = defaultdict(list)
    on_hardware: dict[str, int] = defaultdict(int)
    names = {f"model.{name}": name for name, _ in model.named_modules()}
    names["model"] = "model"
    hardware = {name or "model": module.name for name, module in chip.named_modules() if isinstance(module, HardwareLayer)}
    for one in () if after is None else after.contractions:
        owner = names.get(one.module, one.module)
        if one.module in hardware:
            on_hardware[hardware[one.module]] += one.macs or 0
        elif owner not in overlaps:
            counted[owner].append(one)
    rows = []
    for name, module in model.named_modules():
        label = name or "model"
        if isinstance(module, HardwareLayer):
            continue
        if label in folding.folded:
            rows.append(CoverageRow(label, "batch norm", f"folded into {folding.folded[label]}", 0, None, None, ""))
            continue
        products = counted.pop(label, [])
        leaf = not any(module.children())
        if not leaf and not products:
            continue
        reason = reasons.get(label) or folding.kept.get(label, "")
        rows.extend(_digital(label, type(module).__name__, products, reason, leaf, before is not None, module))
    for name, layer in layers.items():
        placement = layer.placement
        macs = None if after is None else on_hardware[name]
        rows.append(CoverageRow(name, layer.kind, placement.hardware, macs, placement.arrays, placement.utilization, placement.note))
    order = {name or "model": index for index, (name, _) in enumerate(model.named_modules())}
    order |= {module.name: index for index, module in enumerate(model.modules()) if isinstance(module, HardwareLayer)}
    return sorted(rows, key=lambda row: order.get(row.layer, len(order)))


def _digital(
    name: str, kind: str, products: list[Contraction], reason: str, leaf: bool, counted: bool, module: nn.Module
) -> list[CoverageRow]:
    """Return the rows of a module on the host: one for each kind of product in it, or one that says that there are none."""
    rows = []
    groups: dict[tuple[str, bool], list[Contraction]] = defaultdict(list)
    for one in products:
        groups[one.function, one.parameters].append(one)
    for (function, weighted), several in groups.items():
        unknown = any(one.macs is None for one in several)
        why = reason or ("weights in a form that is not mapped" if weighted else "both factors are made at run time: digital")
        macs = None if unknown else sum(one.macs or 0 for one in several)
        rows.append(CoverageRow(name, function, "host", macs, None, None, f"{why}; no formula for its operations" if unknown else why))
    if leaf and not rows:
        holds = any(parameter.dim() > 1 for parameter in module.parameters(recurse=False))
        seen = 0 if counted or not holds else None
        why = reason or ("weights that no product uses, or that need example_inputs to be seen" if holds else "no weights: digital")
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            seen, why = 0, "a look-up, not a product: digital"
        rows.append(CoverageRow(name, kind, "host", seen, None, None, why))
    return rows
