"""Search of a network family by gradient: each choice is a softmax that learns from the accuracy of sampled networks and expected cost."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.random import Key, uniform
from simulator._isolation import one_thread
from simulator.codesign.network_family import KERNELS, STAGES, NetworkFamily, rounded
from simulator.codesign.network_scores import expected_cost

LayerCost = Callable[[Mapping[str, int]], float]


@dataclass(frozen=True)
class GradientSearch:
    """Result of `gradient_search`.

    Attributes
    ----------
    configuration
        The most probable network.
    probabilities
        Of each choice, by parameter.
    expected
        Expected cost at each step, in units of the largest network's.
    """

    configuration: dict[str, Any]
    probabilities: dict[str, list[float]]
    expected: list[float]


def gradient_search(
    family: NetworkFamily,
    data: tuple[Tensor, Tensor],
    layer_cost: LayerCost,
    *,
    weight: float = 1.0,
    steps: int = 120,
    batch_size: int = 128,
    learning_rate: float = 0.1,
    seed: int = 0,
) -> GradientSearch:
    """Choose a network of a trained family by gradient descent on cross-entropy + weight x expected cost.

    As in ProxylessNAS (arXiv 1812.00332), each step runs one network, drawn from the softmax of every parameter; its choices are gates
    of 0 and 1 whose gradients pass to the probabilities (equations 3 and 4 there), and the expected cost is exact. Since the networks
    share weights, one pass gives the gradients of all gates: there is no need to sample two paths at a time. Weights stay as they are.

    Parameters
    ----------
    family
        Trained by `fit_family`.
    data
        Inputs and targets to choose on: not those that the result is judged by.
    layer_cost
        Cost of a layer ``{"inputs", "outputs", "kernel", "size"}``, with ``"bits"`` where the family has precisions, that adds over
        layers: latency, energy, or any other.
    weight
        Of the expected cost, in units of the largest network's cost.
    steps, batch_size, learning_rate
        Of Adam on the logits.
    seed
        Of the networks that are drawn.

    Returns
    -------
    GradientSearch
        A network of the family.

    Examples
    --------
    >>> family, data = NetworkFamily(), (torch.rand(64, 1, 8, 8), torch.arange(64) % 10)
    >>> found = gradient_search(family, data, lambda layer: float(layer["outputs"] * layer["kernel"] ** 2), weight=100.0, steps=20)
    >>> found.configuration["stage1.kernel"]
    1
    """
    choices = {name: list(kind.values()) for name, kind in family.space.parameters.items()}
    logits = {name: torch.zeros(len(values), requires_grad=True) for name, values in choices.items()}
    tables = layer_tables(family, layer_cost)
    largest = sum(float(table.flatten()[-1]) for _, table in tables)
    optimizer = torch.optim.Adam(logits.values(), lr=learning_rate)
    frozen = {name: parameter.requires_grad for name, parameter in family.named_parameters()}
    history = []
    try:
        family.requires_grad_(False)
        with one_thread():
            for step in range(steps):
                start = step * batch_size % max(1, len(data[0]) - batch_size + 1)
                x, y = data[0][start : start + batch_size], data[1][start : start + batch_size]
                chances = {name: value.softmax(0) for name, value in logits.items()}
                gates = {name: _gate(chance, Key.of(seed=seed, trial=step, layer=name, purpose="path")) for name, chance in chances.items()}
                cost = family_cost(chances, tables) / largest
                loss = F.cross_entropy(gated(family, gates, x), y) + weight * cost
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                history.append(float(cost.detach()))
    finally:
        for name, parameter in family.named_parameters():
            parameter.requires_grad_(frozen[name])
    likely = {name: [float(p) for p in value.detach().softmax(0)] for name, value in logits.items()}
    configuration = {name: choices[name][chance.index(max(chance))] for name, chance in likely.items()}
    return GradientSearch(configuration, likely, history)


def layer_tables(family: NetworkFamily, layer_cost: LayerCost) -> list[tuple[list[str], Tensor]]:
    """Return for each layer of the largest network the parameters that decide its cost, and the cost of all combinations of their values.

    Where a depth leaves the layer out, it costs nothing.
    """
    space = family.space
    largest = space.at([1.0] * len(space.parameters))
    found = []
    for place, (part, block, names) in enumerate(_layers(family)):
        depth = f"{part}.depth"
        costs = []
        for values in itertools.product(*(space.parameters[name].values() for name in names)):
            changes = dict(zip(names, values, strict=True))
            present = depth not in changes or block < changes[depth]
            costs.append(layer_cost(family.layers({**largest, **changes, depth: largest.get(depth)})[place]) if present else 0.0)
        sizes = [len(space.parameters[name].values()) for name in names]
        found.append((names, torch.tensor(costs, dtype=torch.float32).reshape(sizes)))
    return found


def family_cost(chances: Mapping[str, Tensor], tables: list[tuple[list[str], Tensor]]) -> Tensor:
    """Return the expected cost of a network whose parameters are drawn independently with these probabilities."""
    joint = [_joint([chances[name] for name in names]) for names, _ in tables]
    return expected_cost(joint, [table.flatten() for _, table in tables])


def gated(family: NetworkFamily, gates: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Run the largest network with a factor on every choice; factors of 0 and 1 make it the network that they choose.

    Parameters
    ----------
    family
        The networks.
    gates
        (choices,) factors, by parameter.
    x
        (N, 1, 8, 8).

    Returns
    -------
    torch.Tensor
        (N, classes).
    """
    known = torch.ones(1)
    for part, widths in zip(("stem", *STAGES), family.widths, strict=True):
        channels, bits = _channels(list(widths), gates[f"{part}.width"]), gates.get(f"{part}.bits")
        if part == "stem":
            x = _block(family, "stem", x, family.weights["stem"], bits, channels)
        else:
            shape, ends = _rims(gates[f"{part}.kernel"], max(KERNELS)), []
            for block in range(max(family.depths)):
                name = f"{part}_{block}"
                x = _block(family, name, x, family.weights[name] * known[None, :, None, None] * shape, bits, channels)
                ends.append(x)
                known = channels
            x = sum((gate * ends[depth - 1] for depth, gate in zip(family.depths, gates[f"{part}.depth"], strict=True)), torch.zeros(()))
            x = F.max_pool2d(x, 2)
        known = channels
    head = _at_precision(family, family.head * known[None, :, None, None], gates.get("head.bits"))
    return F.linear(x.flatten(1), head.flatten(1), family.bias)


def _gate(chances: Tensor, key: Key) -> Tensor:
    """Return 1 for a choice drawn with these probabilities and 0 for the others; the gradient goes to the probabilities."""
    drawn = int(torch.searchsorted(chances.detach().cumsum(0), uniform(key, 1)).clamp(max=len(chances) - 1))
    return F.one_hot(torch.tensor(drawn), len(chances)) + (chances - chances.detach())


def _layers(family: NetworkFamily) -> list[tuple[str, int, list[str]]]:
    """Return part, place in it, and the parameters that decide the cost, of each layer of the largest network."""

    def named(part: str, *names: str) -> list[str]:
        return [*names, *([f"{part}.bits"] if family.precisions else [])]

    found, before = [("stem", 0, named("stem", "stem.width"))], "stem.width"
    for stage in STAGES:
        own, kernel, depth = (f"{stage}.{name}" for name in ("width", "kernel", "depth"))
        found.append((stage, 0, named(stage, before, own, kernel)))
        found += [(stage, block, named(stage, own, kernel, depth)) for block in range(1, max(family.depths))]
        before = own
    return [*found, ("head", 0, named("head", before))]


def _joint(parts: list[Tensor]) -> Tensor:
    """Return the probability of each combination of independent choices, the last fastest."""
    found = parts[0]
    for part in parts[1:]:
        found = (found[:, None] * part).flatten()
    return found


def _block(family: NetworkFamily, name: str, x: Tensor, weight: Tensor, bits: Tensor | None, channels: Tensor) -> Tensor:
    x = F.conv2d(x, _at_precision(family, weight, bits), padding=weight.shape[-1] // 2)
    x = F.relu(F.batch_norm(x, None, None, family.scales[name], family.shifts[name], training=True))
    return x * channels[None, :, None, None]


def _at_precision(family: NetworkFamily, weight: Tensor, gates: Tensor | None) -> Tensor:
    """Return weights rounded to the bits that the gates choose."""
    if gates is None:
        return weight
    return torch.stack([gate * rounded(weight, bits) for bits, gate in zip(family.precisions, gates, strict=True)]).sum(0)


def _rims(gates: Tensor, side: int) -> Tensor:
    """Return a factor for each place of the largest kernel: the sum of the gates of the kernels that reach it."""
    reaches = torch.zeros(len(KERNELS), side, side)
    for place, kernel in enumerate(KERNELS):
        edge = (side - kernel) // 2
        reaches[place, edge : edge + kernel, edge : edge + kernel] = 1.0
    return (gates[:, None, None] * reaches).sum(0)


def _channels(widths: list[int], gates: Tensor) -> Tensor:
    """Return a factor for each channel: the sum of the gates of the widths that have it."""
    exists = torch.zeros(len(widths), max(widths))
    for place, width in enumerate(widths):
        exists[place, :width] = 1.0
    return (gates[:, None] * exists).sum(0)
