"""The coverage table: where every layer and every multiply-accumulate of a model lies, and why some stayed digital."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from devices.base import Hardware
from simulator.capture import Capture, Contraction, Operation
from simulator.digital_costs import unit_name
from simulator.folding import FoldingReport
from simulator.hardware import HardwareLayer
from simulator.run_time import RunTimePlace, RunTimeProducts

MOST_TERMS = 6
"""Operations that the row of a module names."""


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
        The design's class, that of the digital unit or ``host`` for digital layers, or the layer that took this one in.
    macs
        Multiply-accumulates of the example inputs, or None where there were none to see shapes with.
    arrays, utilization
        Arrays taken and the share of their cells that hold weights; None on the host.
    reason
        Why the layer stayed digital, or what a reader should know of the mapping.
    vectors
        Input vectors that the arrays saw in the call with the example inputs: of routed experts their share of the tokens. None off
        hardware, or where there were no examples.
    """

    layer: str
    kind: str
    hardware: str
    macs: int | None
    arrays: int | None
    utilization: float | None
    reason: str
    vectors: int | None = None


def coverage_rows(
    chip: nn.Module,
    before: Capture | None,
    after: Capture | None,
    folding: FoldingReport,
    reasons: Mapping[str, str],
    digital: Hardware | None = None,
    run_time: Sequence[RunTimeProducts] = (),
    run_time_reasons: Mapping[tuple[str, str], str] | None = None,
    parts: Mapping[str, Sequence[CoverageRow]] | None = None,
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
    digital
        What computes beside the layers on hardware; None is the host.
    run_time, run_time_reasons
        Products whose weights are made at run time that lie on hardware, and why others do not, by module and function.
    parts
        Rows of layers on hardware that hold several layers of the model, by their name.

    Examples
    --------
    >>> coverage_rows(nn.Sequential(nn.ReLU()), None, None, FoldingReport({}, {}), {})[0].kind
    'ReLU'
    """
    model = chip.get_submodule("model") if hasattr(chip, "routed") else chip
    layers = {module.name: module for module in chip.modules() if isinstance(module, HardwareLayer)}
    counted: dict[str, list[Contraction]] = defaultdict(list)
    operations: dict[str, list[Operation]] = defaultdict(list)
    on_hardware: dict[str, int] = defaultdict(int)
    names = names_in_model(model)
    hardware = {name or "model": module.name for name, module in chip.named_modules() if isinstance(module, HardwareLayer)}
    for one in () if after is None else after.contractions:
        if one.module in hardware:
            on_hardware[hardware[one.module]] += one.macs or 0
        elif one.inside_hardware:
            continue  # inside a layer whose own rows have it
        else:
            counted[names.get(one.module, one.module)].append(one)
    for done in () if after is None else after.operations:
        operations[names.get(done.module, done.module)].append(done)
    rows = []
    for name, module in model.named_modules():
        label = name or "model"
        if isinstance(module, HardwareLayer) or any(label.startswith(f"{part}.") for part in parts or ()):
            continue
        if label in folding.folded:
            rows.append(
                CoverageRow(label, "batch norm", f"folded into {folding.folded[label]}", 0, None, None, folding.notes.get(label, ""))
            )
            continue
        placed = {one.site.function: one.place for one in run_time if one.site.layer == label}
        products, done_here = counted.pop(label, []), operations.pop(label, [])
        leaf = not any(module.children())
        if not leaf and not products and not done_here:
            continue
        reason = reasons.get(label) or folding.kept.get(label, "")
        rows.extend(
            _digital(
                label,
                type(module).__name__,
                products,
                reason,
                leaf,
                before is not None,
                module,
                unit_name(digital, True),
                unit_name(digital, False),
                placed,
                run_time_reasons or {},
            )
        )
        if done_here and (products or not leaf):
            terms = [one.term for one in done_here]
            kind = ", ".join(terms[:MOST_TERMS]) + (f" and {len(terms) - MOST_TERMS} more" if len(terms) > MOST_TERMS else "")
            rows.append(CoverageRow(label, kind, unit_name(digital, False), 0, None, None, "no weights: digital"))
    for name, several in (parts or {}).items():
        gone = [CoverageRow(norm, "batch norm", f"folded into {layer}", 0, None, None, "") for norm, layer in folding.folded.items()]
        rows += [*several, *(row for row in gone if row.layer.startswith(f"{name}."))]
    for name, layer in layers.items():
        if name in (parts or {}):
            continue
        placement = layer.placement
        macs = None if after is None else on_hardware[name]
        vectors = None if after is None else after.vectors.get(name, 0)
        shares = placement.arrays, placement.utilization, placement.note, vectors
        rows.append(CoverageRow(name, layer.kind, placement.hardware, macs, *shares))
    order = {name or "model": index for index, (name, _) in enumerate(model.named_modules())}
    order |= {module.name: index for index, module in enumerate(model.modules()) if isinstance(module, HardwareLayer)}

    def place(row: CoverageRow) -> int:
        # What lies in a layer that holds several stands where that one does.
        above = next((part for part in parts or () if row.layer.startswith(f"{part}.")), row.layer)
        return order.get(above, len(order))

    return sorted(rows, key=place)


def names_in_model(model: nn.Module) -> dict[str, str]:
    """Return the names of modules as the model calls them, by what a chip around it calls them.

    Examples
    --------
    >>> names_in_model(nn.Sequential(nn.ReLU()))["model.0"]
    '0'
    """
    names = {f"model.{name}": name for name, _ in model.named_modules()}
    names["model"] = "model"
    return names


def _digital(
    name: str,
    kind: str,
    products: list[Contraction],
    reason: str,
    leaf: bool,
    counted: bool,
    module: nn.Module,
    unit: str,
    vector: str,
    placed: Mapping[str, RunTimePlace],
    reasons: Mapping[tuple[str, str], str],
) -> list[CoverageRow]:
    """Return the rows of a module on the host: one for each kind of product in it, or one that says that there are none."""
    rows = []
    groups: dict[tuple[str, bool], list[Contraction]] = defaultdict(list)
    for one in products:
        groups[one.function, one.parameters].append(one)
    for (function, weighted), several in groups.items():
        unknown = any(one.macs is None for one in several)
        macs = None if unknown else sum(one.macs or 0 for one in several)
        if not weighted and function in placed:
            place = placed[function]
            rows.append(CoverageRow(name, function, place.hardware, macs, place.arrays, place.utilization, place.note))
            continue
        made = reasons.get((name, function), "both factors are made at run time: digital")
        why = (reason or "weights in a form that is not mapped") if weighted else made
        rows.append(CoverageRow(name, function, unit, macs, None, None, f"{why}; no formula for its operations" if unknown else why))
    if leaf and not rows:
        holds = any(parameter.dim() > 1 for parameter in module.parameters(recurse=False))
        seen = 0 if counted or not holds else None
        why = reason or ("weights that no product uses, or that need example_inputs to be seen" if holds else "no weights: digital")
        if isinstance(module, nn.Embedding | nn.EmbeddingBag):
            seen, why = 0, "a look-up, not a product: digital"
        rows.append(CoverageRow(name, kind, "host" if seen is None else vector, seen, None, None, why))
    return rows
