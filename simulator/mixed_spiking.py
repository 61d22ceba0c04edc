"""Modules of a model on spiking cores, beside layers on other hardware."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from devices.base import SpikingCore
from simulator._isolation import one_thread
from simulator.batches import Batch
from simulator.conversions import Formats, formats_of
from simulator.coverage import CoverageRow
from simulator.spiking.coding import Coding
from simulator.spiking.compiling import compile_spiking
from simulator.spiking.network import SpikingNetwork
from simulator.spiking.recipes import Recipe
from simulator.weight_layers import is_weight_layer


@dataclass
class SpikingParts:
    """The modules of a model that were put on spiking cores.

    Attributes
    ----------
    model
        The model with networks of spiking neurons in their place.
    rows
        Rows of the coverage table, by the name of the module.
    warnings
        What a reader should know.
    """

    model: nn.Module
    rows: dict[str, list[CoverageRow]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def split_design(design: Any) -> tuple[Any, dict[str, SpikingCore]]:
    """Return a placement without its spiking cores, and those by their patterns.

    Raises
    ------
    ValueError
        If a spiking core is given by anything else than a pattern.

    Examples
    --------
    >>> from devices import RRAMCrossbar
    >>> split_design({"head": RRAMCrossbar.preset("wan_nature_2022")})[1]
    {}
    """
    if not isinstance(design, Mapping):
        return design, {}
    cores = {key: part for key, part in design.items() if isinstance(part, SpikingCore)}
    wrong = [key for key in cores if not isinstance(key, str)]
    if wrong:
        raise ValueError(f"Argument `design`: spiking cores must be given by the name of a module, but got {wrong[0]!r}; name one")
    return {key: part for key, part in design.items() if key not in cores}, cores


def place_spiking(
    model: nn.Module,
    cores: Mapping[str, SpikingCore],
    others: Mapping[Any, Any],
    examples: Batch | None,
    swap: Callable[[nn.Module, nn.Module, nn.Module], nn.Module],
    *,
    timesteps: int | None,
    method: str | Recipe,
    coding: Coding,
    seed: int,
) -> SpikingParts:
    """Convert modules of a model to networks of spiking neurons, each on cores of its own.

    Parameters
    ----------
    model
        The compiler's own copy, in eval mode, batch norm folded.
    cores
        Cores by patterns of module names; of nested modules the outermost is taken.
    others
        The rest of the placement, which may name nothing inside of those modules.
    examples
        One call of the model, which shows what goes into each module.
    swap
        Puts a module in the place of another.
    timesteps, method, coding, seed
        As for `simulator.compile`.

    Raises
    ------
    ValueError
        If there are no examples, a pattern names no module with layers inside, another names a layer in it, a module is not called once
        with one tensor, or it cannot be converted.
    """
    if examples is None:
        raise ValueError(
            "Argument `example_inputs` must be given where a module lies on spiking cores, but got none; pass one call's inputs"
        )
    chosen: dict[str, tuple[nn.Module, SpikingCore]] = {}
    for pattern, core in cores.items():
        matched = [
            (name, module) for name, module in model.named_modules() if name and fnmatchcase(name, pattern) and any(module.children())
        ]
        if not matched:
            known = ", ".join(name for name, module in model.named_modules() if name and any(module.children()))
            remedy = f"none of {known}; name one" if known else (
                "nothing, as this model has no such module; put layers that shall spike into an nn.Sequential, or pass the core alone as "
                "`design` to take the whole model"
            )  # fmt: skip
            raise ValueError(
                f"Argument `design`: pattern {pattern!r} must match a module with layers and activations inside, as spiking cores take "
                f"those whole, but matches {remedy}"
            )
        names = [name for name, _ in matched]
        for name, module in matched:
            if not any(name.startswith(f"{other}.") for other in names):
                chosen[name] = (module, core)
    _refuse_overlaps(chosen, others)
    samples = _samples(model, {name: module for name, (module, _) in chosen.items()}, examples)
    parts = SpikingParts(model)
    for name, (module, core) in chosen.items():
        inner = compile_spiking(module, core, Batch((samples[name],)), None, timesteps=timesteps, method=method, coding=coding, seed=seed)
        network = inner.model
        assert isinstance(network, SpikingNetwork)
        network.name, network.prefix = name, f"{name}."
        parts.model = swap(parts.model, module, network)
        parts.rows[name] = [replace(row, layer=f"{name}.{row.layer}") for row in inner._rows]
        parts.warnings += [f"`{name}`: {warning}" for warning in inner.warnings if "No `calibration`" not in warning]
    return parts


def _refuse_overlaps(chosen: Mapping[str, tuple[nn.Module, SpikingCore]], others: Mapping[Any, Any]) -> None:
    for name, (module, _) in chosen.items():
        inside = {f"{name}.{inner}": layer for inner, layer in module.named_modules() if inner and is_weight_layer(layer)}
        for key in others:
            found = [one for one, layer in inside.items() if (fnmatchcase(one, key) if isinstance(key, str) else isinstance(layer, key))]
            if found:
                shown = repr(key) if isinstance(key, str) else key.__name__
                raise ValueError(
                    f"Argument `design`: layer `{found[0]}` must match one pattern, but lies in `{name}`, which is on spiking cores, and "
                    f"matches {shown}; name only layers outside"
                )


@torch.no_grad()
def _samples(model: nn.Module, modules: Mapping[str, nn.Module], examples: Batch) -> dict[str, Tensor]:
    """Return what goes into each module in one call."""
    seen: dict[str, list[tuple[Any, ...]]] = {name: [] for name in modules}
    hooks = [
        module.register_forward_pre_hook(lambda module, arguments, name=name: seen[name].append(arguments))
        for name, module in modules.items()
    ]
    try:
        with one_thread():
            model(*examples.inputs, **examples.keywords)
    finally:
        for hook in hooks:
            hook.remove()
    for name, calls in seen.items():
        if len(calls) != 1 or len(calls[0]) != 1 or not isinstance(calls[0][0], Tensor):
            raise ValueError(
                f"Argument `design`: module `{name}` must be called once with one tensor to lie on spiking cores, but was called "
                f"{len(calls)} times{'' if len(calls) != 1 else ' with other arguments'}; name another module"
            )
    return {name: calls[0][0].detach().clone() for name, calls in seen.items()}


@formats_of.register
def _(layer: SpikingNetwork) -> Formats:
    steps = layer.timesteps
    given = {"direct": f"a constant current for {steps} time steps", "rate": f"rate-coded spikes in {steps} time steps"}
    inputs = given.get(layer.coding, f"{layer.coding}-coded spikes in {steps} time steps")
    coded = None if layer.coding == "direct" else steps
    return Formats(inputs, f"a mean over {steps} time steps", coded, steps, input_operations=steps, output_operations=steps)
