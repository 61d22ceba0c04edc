"""Fitting the weights of a layer to the spikes that reach it."""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kernels.random import Key, bits
from simulator.progress import track
from simulator.spiking.network import SpikingNetwork
from simulator.spiking.signals import Signal
from simulator.spiking.steps import Population, Sum
from simulator.spiking.synapses import Synapses
from simulator.spiking.tracing import INPUT

if TYPE_CHECKING:
    from simulator.spiking.recipes import AdvancedCalibration, Held


def fit_weights(
    network: SpikingNetwork, name: str, population: Population, wanted: Tensor, held: "Held", recipe: "AdvancedCalibration"
) -> bool:
    """Fit the weights and biases before a population so that the rates of constant mean currents are the activations wanted.

    Returns
    -------
    bool
        False where the layers before it cannot be fitted: pooled currents, or none with weights of its own.
    """
    layers, rest = _means(network, name, held)
    if not layers or rest is None or not recipe.iterations:
        return False
    steps = [network.synapses[one] for one in layers]
    weights = [step.total_weight().clone().requires_grad_() for step in steps]
    biases = [_bias(step).requires_grad_() for step in steps]
    means = list(layers.values())
    optimizer = torch.optim.Adam([*weights, *biases], lr=recipe.learning_rate)
    order = _batches(len(wanted), recipe, Key.of(seed=network.seed, layer=name, purpose="weight calibration"))
    strict = population.neuron.comparator == ">"
    with torch.enable_grad():
        for iteration, rows in enumerate(track(order, recipe.iterations, f"fitting {name}")):
            optimizer.param_groups[0]["lr"] = recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * iteration / recipe.iterations))
            parts = [step.dense(mean[rows], w, b) for step, mean, w, b in zip(steps, means, weights, biases, strict=True)]
            current = torch.stack(parts).sum(0) if len(parts) > 1 else parts[0]
            if rest.numel() > 1:
                current = current + rest[rows]
            rates: Tensor = _Rate.apply(current, population.threshold, network.timesteps, strict)  # type: ignore[no-untyped-call]
            optimizer.zero_grad()
            (rates - wanted[rows]).square().mean().backward()
            optimizer.step()
    for step, weight, bias in zip(steps, weights, biases, strict=True):
        step.weight_change = weight.detach() - step.weight.detach()
        step.bias_change = bias.detach() - (0.0 if step.bias is None else step.bias.detach())
        step.forget()
    return True


def _bias(step: Synapses) -> Tensor:
    bias = step.total_bias()
    return torch.zeros(step.weight.shape[0]) if bias is None else bias.clone()


def _means(network: SpikingNetwork, name: str, held: "Held") -> tuple[dict[str, Tensor], Tensor | None]:
    """Return the mean input of each layer that reaches a population through sums alone, and the mean of what else reaches it."""
    layout = network.layout
    found: dict[str, Tensor] = {}
    rest: Tensor = torch.zeros(1)
    pending = [layout.inputs[layout.names.index(name)][0]]
    while pending:
        source = pending.pop()
        if source == INPUT or layout.kinds[source] != "current":
            return {}, None
        step = network.named_steps()[source]
        arguments = held.arguments[source]
        if isinstance(step, Synapses):
            found[source] = arguments[0].mean()
        elif isinstance(step, Sum):
            for one, signal in zip(layout.inputs[layout.names.index(source)], arguments, strict=True):
                if one != INPUT and layout.kinds[one] == "current":
                    pending.append(one)
                else:
                    rest = rest + Signal(signal.current, signal.parts).mean()
        else:
            return {}, None
    return found, rest


def _batches(count: int, recipe: "AdvancedCalibration", key: Key) -> list[Tensor]:
    drawn = torch.from_numpy(bits(key, recipe.iterations * recipe.batch_size).astype("int64")) % count
    return list(drawn.reshape(recipe.iterations, recipe.batch_size))


class _Rate(torch.autograd.Function):
    """Clip and floor, with the gradient of the clipping alone."""

    @staticmethod
    def forward(ctx: Any, current: Tensor, threshold: Tensor, timesteps: int, strict: bool) -> Tensor:
        from simulator.spiking.recipes import clip_floor

        ctx.save_for_backward((current >= 0) & (current <= threshold))
        return clip_floor(current, threshold, timesteps, strict)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (inside,) = ctx.saved_tensors
        return upstream[0] * inside, None, None, None
