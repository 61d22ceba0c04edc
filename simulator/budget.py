"""Placement under a budget: what every layer would take on every design, and which are chosen."""

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from devices.quantities import format_quantity, unit_of
from simulator._isolation import one_thread
from simulator.capture import without_fast_path
from simulator.hardware import HardwareLayer, Mode
from simulator.placement import Auto, Candidate, Plan, why_not
from simulator.routing import Router


@dataclass
class _Use:
    """What a call of the model takes of one layer on one design; `amount` is None where no constant is given."""

    layer: HardwareLayer
    macs: int = 0
    amount: float | None = None
    missing: set[str] = field(default_factory=set)


def place_under_budget(auto: Auto, candidates: Mapping[str, Candidate], seed: int, call: Callable[[], object] | None) -> Plan:
    """Place layers greedily under a budget; `Auto` states the rule.

    Parameters
    ----------
    auto
        Designs and budget.
    candidates
        What can be placed, by name.
    seed
        Seed of the chip.
    call
        Calls the model with its example inputs.

    Raises
    ------
    ValueError
        If there are no example inputs: without a call nothing can be counted.
    """
    if call is None:
        raise ValueError(
            "Argument `design`: Auto needs example_inputs or calibration data, but got none: without a call nothing can be counted"
        )
    reasons: dict[str, str] = {}
    uses: dict[str, list[_Use]] = {}
    for name, candidate in candidates.items():
        found = [why_not(design, candidate.weights, name, seed) for design in auto.designs]
        uses[name] = [_Use(layer) for layer in found if isinstance(layer, HardwareLayer)]
        if not uses[name]:
            reasons[name] = "; ".join(dict.fromkeys(reason for reason in found if isinstance(reason, str)))
    _measure(auto.quantity, candidates, uses, call)
    cheapest: dict[str, _Use] = {}
    for name, several in uses.items():
        known = [use for use in several if use.amount is not None]
        if several and not several[0].macs:
            reasons[name] = "never called with the example inputs"
        elif known:
            cheapest[name] = min(known, key=_amount)
        elif several:
            reasons[name] = f"under a budget of {auto.quantity}: not given for {_hardware(several[0])}"
    left, missing = auto.budget, set[str]()
    layers: dict[str, HardwareLayer] = {}
    for name, use in sorted(cheapest.items(), key=lambda item: -_density(item[1])):
        if _amount(use) <= left:
            left -= _amount(use)
            layers[name] = use.layer
            missing |= use.missing
        else:
            needed, rest = (_shown(auto.quantity, amount) for amount in (_amount(use), left))
            whole = _shown(auto.quantity, auto.budget)
            reasons[name] = f"budget of {whole}: needs {needed} on {_hardware(use)}, with {rest} left at its turn"
    warnings = []
    if missing:
        warnings.append(f"The budget of {auto.quantity} leaves out terms without a constant: {', '.join(sorted(missing))}")
    if not layers:
        name, reason = next(iter(reasons.items()), ("model", "no layer has weights"))
        raise ValueError(
            f"Argument `design`: Auto must place at least one layer, but none fits: layer `{name}`: {reason}; raise the budget"
        )
    return Plan({name: layers[name] for name in candidates if name in layers}, reasons, warnings)


def _measure(quantity: str, candidates: Mapping[str, Candidate], uses: Mapping[str, list[_Use]], call: Callable[[], object]) -> None:
    """Call the model once and count in every use what its layer does and takes."""
    routed: list[HardwareLayer] = []

    def record(name: str, inputs: Tensor, outputs: Tensor) -> None:
        for use in uses[name]:
            use.macs += use.layer.operator.positions(outputs) * use.layer.weight.numel()
            if quantity == "arrays":
                use.amount = float(use.layer.placement.arrays)
                continue
            rows = [row for row in use.layer.priced(inputs, outputs) if not row.once]
            given = [getattr(row, quantity) for row in rows if getattr(row, quantity) is not None]
            use.missing |= {f"{row.term} ({row.hardware})" for row in rows if getattr(row, quantity) is None}
            if any(given):  # a term that takes none, beside others that are not given, is no reason to call the layer free
                # Energy is spent at each call of a shared layer; its area is there once.
                total = math.fsum(given)
                use.amount = total + (use.amount or 0.0) if quantity == "energy_j" else max(total, use.amount or 0.0)

    with ExitStack() as stack:
        for name, several in uses.items():
            module = candidates[name].module
            if not several:
                continue
            if module is None:
                # Functions use these weights: the first design's layer reads them in float, so that it sees the inputs.
                module = several[0].layer
                several[0].layer.mode = Mode.FLOAT
                routed.append(several[0].layer)
                stack.callback(setattr, several[0].layer, "mode", Mode.HARDWARE)

            def hook(module: Any, arguments: Any, keywords: Any, outputs: Tensor, name: str = name) -> None:
                record(name, arguments[0] if arguments else keywords["input"], outputs)

            stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        for context in (torch.no_grad(), one_thread(), without_fast_path(), Router(routed)):
            stack.enter_context(context)
        call()


def _amount(use: _Use) -> float:
    assert use.amount is not None
    return use.amount


def _density(use: _Use) -> float:
    return use.macs / _amount(use) if _amount(use) else math.inf


def _hardware(use: _Use) -> str:
    return use.layer.placement.hardware


def _shown(quantity: str, amount: float) -> str:
    if quantity == "arrays":
        return f"{amount:.0f} array{'s' if amount != 1 else ''}"
    unit = unit_of(quantity)
    assert unit is not None
    return format_quantity(float(f"{amount:.3g}"), unit)
