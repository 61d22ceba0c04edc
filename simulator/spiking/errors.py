"""The error of a conversion, split by layer: clipping, flooring, unevenness, calibration, and what earlier layers pass on."""

from collections.abc import Mapping
from numbers import Integral
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from simulator._isolation import one_thread
from simulator.batches import Batch, RepeatableBatches
from simulator.chip import Chip
from simulator.spiking.activity import network_of
from simulator.spiking.network import SpikingNetwork
from simulator.spiking.recipes import reference_values
from simulator.spiking.signals import Signal
from simulator.spiking.steps import Population, Step
from simulator.spiking.synapses import Synapses

PARTS = ("inherited", "calibration", "clipping", "flooring", "unevenness")


def conversion_error(chip: Chip, data: Any, *, samples: int = 256) -> pd.DataFrame:
    """Return the error of each population's mean output, and the five parts that it is the sum of.

    With the activation ``a`` of the float network, the activation ``z`` that the mean current of the spiking network would give, the
    activation ``y`` that it would give without what calibration added to this layer's weights and biases, and the threshold V:
    *inherited* is y - a, of the spikes that arrive; *calibration* is z - y; *clipping* is min(z, V) - z; *flooring* is what a constant
    current of the same mean would give, less min(z, V), with the initial potential in it; *unevenness* is what the current that changes
    over time really gives, less that.

    Parameters
    ----------
    chip
        With a converted network on spiking cores.
    data
        A loader, data set, batches, a pair of tensors, or a tensor of inputs.
    samples
        Samples to look at, at most.

    Returns
    -------
    pandas.DataFrame
        A row for each population: ``layer``, ``threshold`` (mean), then for ``total`` and each part its mean and its mean square, in units
        of the activation and its square: ``total_mean``, ``total_square``, ``inherited_mean``, ...; the means add up.

    Raises
    ------
    ValueError
        If the network was trained with spikes: there is no activation to compare with; or if data hold no sample, NaN or infinity.

    Examples
    --------
    >>> import simulator as sim
    >>> from devices import SpikingCore
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> x = torch.rand(64, 4)
    >>> chip = sim.compile(net, SpikingCore.preset("ideal"), example_inputs=x, timesteps=8)
    >>> conversion_error(chip, x)["layer"].tolist()
    ['1']
    """
    network = network_of(chip)
    if not isinstance(samples, Integral) or samples < 1:
        raise ValueError(f"Argument `samples` must be an integer of at least 1, but got {samples!r}; use 256 or so")
    if network.is_trained:
        raise ValueError(
            "Argument `chip` must hold a converted network, but this one was trained with spikes; there is no float activation"
        )
    batches = [Batch((data,))] if isinstance(data, Tensor) else RepeatableBatches(data)
    collected: list[Tensor] = []
    for batch in batches:
        collected.append(batch.inputs[0])
        if sum(map(len, collected)) >= samples:
            break
    inputs = torch.cat(collected)[:samples] if collected else torch.empty(0)
    if not len(inputs) or not bool(inputs.isfinite().all()):
        what = "hold NaN or infinity" if len(inputs) else "have none"
        raise ValueError(f"Argument `data` must have finite samples, but they {what}; clean the data")
    with torch.no_grad(), one_thread():
        return _split(network, inputs)


def _split(network: SpikingNetwork, inputs: Tensor) -> pd.DataFrame:
    activations = reference_values(network, inputs)
    rows: list[dict[str, Any]] = []
    start = 0

    found: dict[str, list[dict[str, Tensor]]] = {}
    added: dict[str, Tensor | float] = {}
    before = {name: inputs[0] for name, inputs in zip(network.layout.names, network.layout.inputs, strict=True)}

    def visit(name: str, step: Step, arguments: tuple[Signal, ...], output: Signal) -> None:
        if not isinstance(step, Population):
            added[name] = _added(network, name, step, arguments, added)
            return
        mean = _mean_current(network, name, step, arguments[0])
        fired = output.mean()
        exact = activations[name][start : start + len(fired)]
        z = step.reference(mean)
        plain = step.reference(mean - step.shift * (not network._folded(name)) - added.get(before[name], 0.0))
        clipped = torch.minimum(z, step.threshold.expand_as(z))
        constant = network.fire(name, step, _constant(network, name, arguments[0]), network._integers).mean()
        parts = {
            "inherited": plain - exact, "calibration": z - plain, "clipping": clipped - z, "flooring": constant - clipped,
            "unevenness": fired - constant,
        }  # fmt: skip
        found.setdefault(name, []).append({"total": fired - exact, **parts})

    if not network.programmed:
        network._prepare()
    for part in inputs.split(network._chunk()):
        network.over_time(part, visit)
        start += len(part)
    for name, several in found.items():
        row: dict[str, Any] = {"layer": name, "threshold": float(network.populations[name].threshold.mean())}
        for kind in ("total", *PARTS):
            values = torch.cat([one[kind] for one in several])
            row[f"{kind}_mean"], row[f"{kind}_square"] = float(values.mean()), float(values.square().mean())
        rows.append(row)
    return pd.DataFrame(rows)


def _added(
    network: SpikingNetwork, name: str, step: Step, arguments: tuple[Signal, ...], before: Mapping[str, Tensor | float]
) -> Tensor | float:
    """Return the mean current that calibration adds at a stage: that of its weights and biases, or what stages before it pass on."""
    if isinstance(step, Synapses):
        if not step.weight_change.numel() and not step.bias_change.numel() and step.extra is None:
            return 0.0
        bias = step.total_bias()
        change = bias if bias is None or step.bias is None else bias - step.bias
        return step.dense(arguments[0].mean(), step.total_weight() - step.weight, change)
    inputs = [before.get(source, 0.0) for source in network.layout.inputs[network.layout.names.index(name)]]
    if not any(isinstance(one, Tensor) for one in inputs):
        return 0.0
    # Sums, pools and the like are linear, and add nothing of their own.
    shapes = [signal.mean() for signal in arguments]
    return step.reference(*(one if isinstance(one, Tensor) else torch.zeros_like(like) for one, like in zip(inputs, shapes, strict=True)))


def _mean_current(network: SpikingNetwork, name: str, step: Population, signal: Signal) -> Tensor:
    """Return the mean current of a population in units of the activation, with what calibration adds to it."""
    shift = 0.0 if network._folded(name) else step.shift
    if network._integers is not None and signal.current is not None and not signal.current.is_floating_point():
        return signal.current.double().mean(0).float() / network._integers.gain[name] + shift
    return signal.mean() + shift


def _constant(network: SpikingNetwork, name: str, signal: Signal) -> Signal:
    """Return the same current without its changes over time; an integer one keeps its sum by spreading it as evenly as integers can."""
    if signal.current is None:
        mean = signal.mean()
        integers = network._integers
        return Signal(mean[None]) if integers is None else Signal((mean[None].double() * integers.gain[name]).round().to(torch.int32))
    current = signal.current
    if current.is_floating_point():
        return Signal(current.mean(0, keepdim=True))
    times = len(current)
    total = current.long().sum(0)
    steps = torch.arange(1, times + 1).reshape(-1, *[1] * total.dim())
    running = torch.div(total * steps, times, rounding_mode="floor")
    return Signal(torch.diff(running, dim=0, prepend=torch.zeros_like(running[:1])).to(torch.int32))
