"""From a model to a chip of spiking cores."""

import math
from collections.abc import Mapping
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, fx, nn

from devices.base import SpikingCore
from devices.spiking import NeuromorphicChip
from simulator.batches import Batch
from simulator.capture import Capture, capture
from simulator.chip import Chip
from simulator.coverage import CoverageRow
from simulator.folding import FoldingReport, fold_batch_norm
from simulator.spiking.coding import CODINGS, Coding
from simulator.spiking.cores import place_on_cores
from simulator.spiking.network import SpikingNetwork, check_neurons, neuron_of
from simulator.spiking.neurons import reset_states
from simulator.spiking.recipes import Recipe, recipe_of
from simulator.spiking.steps import Population
from simulator.spiking.synapses import Synapses
from simulator.spiking.tracing import INPUT, NotConvertibleError, Shape, Traced, every_kind, trace
from simulator.weight_layers import is_weight_layer

NAME = "spiking"
"""What the network is called among the layers of its chip."""


def compile_spiking(
    model: nn.Module,
    core: SpikingCore,
    examples: Batch | None,
    calibration: Any,
    *,
    timesteps: int | None,
    method: str | Recipe,
    coding: Coding,
    seed: int,
) -> Chip:
    """Convert a whole model and put it on spiking cores; see `simulator.compile`.

    Parameters
    ----------
    model
        The compiler's own copy, in eval mode.
    core
        The chip's design.
    examples
        One call's arguments.
    calibration
        What the caller passed; None where there are no calibration data.
    timesteps, method, coding, seed
        As for `simulator.compile`.

    Raises
    ------
    ValueError
        If the model cannot be converted, or does not fit on the cores; the line names the layer and the reason.
    """
    if is_weight_layer(model):
        raise NotConvertibleError(
            "Argument `model` must have a ReLU or spiking neurons, but is one layer with weights; add neurons after it"
        )
    if coding not in CODINGS:
        raise ValueError(f"Argument `coding` must be one of {', '.join(CODINGS)}, but got {coding!r}; name one of them")
    sample = _sample(examples)
    steps = _timesteps(timesteps, sample, coding)
    recipe = recipe_of(method)
    one_step = sample[:, 0].float() if coding == "events" else sample
    before = _first_call(model, one_step)
    folding = fold_batch_norm(model, before.dimensions, before)
    maximum = isinstance(core, NeuromorphicChip) and core.max_pooling
    traced = trace(
        model, neuron_of(core), shapes=lambda module: _shapes(module, one_step), max_pooling=maximum, unfolded=dict(folding.kept)
    )
    kinds = every_kind(traced)
    check_neurons(core, traced)
    warnings = _check_populations(core, traced, coding)
    network = SpikingNetwork(NAME, seed, core, traced, kinds, timesteps=steps, coding=coding, recipe=recipe, sample=sample)
    placement = place_on_cores(network, one_step[:1])
    chip = Chip(network, [], [], [*placement.warnings, *warnings], seed)
    chip.eval()
    network.cores, network.utilization = placement.taken()
    chip._rows = _rows(network, core, before, folding, placement.cores_of(), placement.utilization_of())
    if calibration is not None:
        chip.calibrate(calibration)
    else:
        if not network.is_trained:
            chip.warnings.append("No `calibration` was given: thresholds were chosen on the example inputs alone")
        chip._observe(iter((Batch((sample,)),)), "example inputs")
    return chip


def _sample(examples: Batch | None) -> Tensor:
    if examples is None or len(examples.inputs) != 1 or examples.keywords or not isinstance(examples.inputs[0], Tensor):
        raise ValueError(
            "Argument `example_inputs` must be one tensor for a spiking core, or `calibration` must hold such inputs; pass one of them"
        )
    sample = examples.inputs[0]
    if sample.dim() < 2 or len(sample) < 1:
        raise ValueError(f"Argument `example_inputs` must have a batch axis, but has shape {tuple(sample.shape)}; add one")
    return sample


def _timesteps(timesteps: int | None, sample: Tensor, coding: Coding) -> int:
    if coding == "events":
        if sample.dim() < 3 or timesteps not in (None, sample.shape[1]):
            raise ValueError(
                f"Argument `timesteps` must be that of the events (batch, timesteps, ...), but inputs are {tuple(sample.shape)} and "
                f"timesteps {timesteps!r}; leave it out"
            )
        return int(sample.shape[1])
    if not isinstance(timesteps, Integral) or isinstance(timesteps, bool) or timesteps < 1:
        raise ValueError(f"Argument `timesteps` must be an integer of at least 1 for a spiking core, but got {timesteps!r}; use 32 or so")
    return int(timesteps)


def _check_populations(core: SpikingCore, traced: Traced, coding: Coding) -> list[str]:
    """Refuse populations that cannot work together or with a coding, and return warnings of those that work badly."""
    populations = {name: stage.step for name, stage in traced.stages.items() if isinstance(stage.step, Population)}
    trained = [name for name, population in populations.items() if population.trained]
    converted = [name for name in populations if name not in trained]
    if trained and converted:
        raise NotConvertibleError(
            f"Argument `model` must have ReLUs or trained neurons, but has both: `{converted[0]}` is a ReLU and `{trained[0]}` a LIF; "
            "the rate of one is not what the other was trained with; train all as LIF, or none"
        )
    if converted and coding == "latency":
        raise ValueError(
            f'Argument `coding`: "latency" sends one spike whatever the value, but `{converted[0]}` is a ReLU, which becomes a rate; use '
            '"direct" or "rate", or train LIF neurons with latency-coded inputs'
        )
    if converted and isinstance(core, NeuromorphicChip):
        for what, off in ((f"decay {core.neuron.decay:g}", core.neuron.decay < 1), ("a hard reset", core.neuron.reset == "hard")):
            if off:
                return [
                    f"Neurons with {what} do not fire at the rate of a ReLU: the conversion of {', '.join(converted)} is not exact at any T"
                ]
    if not isinstance(core, NeuromorphicChip) or core.arithmetic is None:
        return []
    found = []
    for name, population in populations.items():
        decay = population.neuron.decay
        used = core.arithmetic.kept(decay)
        if 0 < decay < 1 and abs(math.log(used) / math.log(decay) - 1) > 0.01:
            found.append(
                f"Layer `{name}`: {core.arithmetic.decay_bits} bits hold no decay of {decay:g}; it is {used:g}, a time constant of "
                f"{math.log(decay) / math.log(used):.3g} times what was asked for"
            )
    return found


def _first_call(model: nn.Module, inputs: Tensor) -> Capture:
    try:
        reset_states(model)
        found = capture(model, Batch((inputs,)))
        reset_states(model)
    except Exception as error:  # the model's own code may raise anything
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"Argument `example_inputs` must be what the model takes, but its call failed: {line}") from error
    return found


def _shapes(module: fx.GraphModule, inputs: Tensor) -> Mapping[str, Shape]:
    with torch.no_grad():
        from torch.fx.passes.shape_prop import ShapeProp  # here: it loads torch's decompositions, which takes half a second

        ShapeProp(module).propagate(inputs)
    reset_states(module)
    found = {}
    for node in module.graph.nodes:
        known = node.meta.get("tensor_meta")
        if hasattr(known, "shape"):
            found[node.name] = tuple(known.shape)
    return found


def _rows(
    network: SpikingNetwork,
    core: SpikingCore,
    before: Capture,
    folding: FoldingReport,
    cores: Mapping[str, int],
    utilization: Mapping[str, float],
) -> list[CoverageRow]:
    """Return the coverage table: synapses with their products, populations with their cores, and what was folded."""
    macs: dict[str, int] = {}
    for one in before.contractions:
        macs[one.module] = macs.get(one.module, 0) + (one.macs or 0)
    rows = [CoverageRow(name, "batch norm", f"folded into {layer}", 0, None, None, "") for name, layer in folding.folded.items()]
    hardware = type(core).__name__
    for name, inputs in zip(network.layout.names, network.layout.inputs, strict=True):
        step = network.named_steps()[name]
        kind, count = type(step).__name__, macs.get(name, 0)
        if isinstance(step, Synapses):
            kind = step.kind
            if network.layout.kinds[inputs[0]] == INPUT and network.coding == "direct":
                reason = "direct coding: the current of the constant input is computed once, digitally"
                rows.append(CoverageRow(name, kind, "host", count, None, None, reason))
                continue
        rows.append(CoverageRow(name, kind, hardware, count, cores.get(name), utilization.get(name), ""))
    return rows
