"""Search of a network family by gradient: which width and kernel is a softmax that learns from accuracy and from expected cost."""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from simulator._isolation import one_thread
from simulator.codesign.network_family import KERNELS, STAGES, NetworkFamily
from simulator.codesign.network_scores import expected_cost


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
        Expected cost after each step, in units of the largest network's.
    """

    configuration: dict[str, Any]
    probabilities: dict[str, list[float]]
    expected: list[float]


def gradient_search(
    family: NetworkFamily,
    data: tuple[Tensor, Tensor],
    layer_cost: Callable[[Mapping[str, int]], float],
    *,
    weight: float = 1.0,
    steps: int = 120,
    batch_size: int = 128,
    learning_rate: float = 0.1,
) -> GradientSearch:
    """Choose widths and kernels of a trained family by gradient descent on cross-entropy + weight x expected cost.

    The expected cost is that of ProxylessNAS (arXiv 1812.00332). In place of its sampled paths, channels and the rims of kernels are
    multiplied by the probability that the network has them, as shared weights allow (channel masks of FBNetV2, arXiv 2004.05565).
    Depths are the largest, and weights stay as they are.

    Parameters
    ----------
    family
        Trained by `fit_family`.
    data
        Inputs and targets to choose on: not those that the result is judged by.
    layer_cost
        Cost of a layer ``{"inputs", "outputs", "kernel", "size"}`` that adds over layers: latency, energy, or any other.
    weight
        Of the expected cost, in units of the largest network's cost.
    steps, batch_size, learning_rate
        Of Adam on the logits.

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
    names = {name: list(kind.values()) for name, kind in family.space.parameters.items() if name.endswith(("width", "kernel"))}
    logits = {name: torch.zeros(len(values), requires_grad=True) for name, values in names.items()}
    tables = _tables(family, names, layer_cost)
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
                chosen = {name: value.softmax(0) for name, value in logits.items()}
                joint = [_joint([chosen[name] for name in used]) for used, _ in tables]
                cost = expected_cost(joint, [table.flatten() for _, table in tables]) / largest
                loss = F.cross_entropy(_masked(family, names, chosen, x), y) + weight * cost
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                history.append(float(cost.detach()))
    finally:
        for name, parameter in family.named_parameters():
            parameter.requires_grad_(frozen[name])
    likely = {name: [float(p) for p in value.detach().softmax(0)] for name, value in logits.items()}
    configuration: dict[str, Any] = {}
    for name, kind in family.space.parameters.items():
        found = likely.get(name)
        configuration[name] = kind.values()[-1] if found is None else names[name][found.index(max(found))]
    return GradientSearch(configuration, likely, history)


def _tables(
    family: NetworkFamily, names: Mapping[str, list[int]], layer_cost: Callable[[Mapping[str, int]], float]
) -> list[tuple[list[str], Tensor]]:
    """Return for each layer the parameters that its cost depends on, and the cost of each combination of their values."""
    found = [(["stem.width"], torch.tensor([layer_cost({"inputs": 1, "outputs": w, "kernel": 3, "size": 8}) for w in names["stem.width"]]))]
    before = "stem.width"
    for stage, size in zip(STAGES, (8, 4), strict=True):
        own, kernel = f"{stage}.width", f"{stage}.kernel"
        combinations = list(itertools.product(names[before], names[own], names[kernel]))
        first = torch.tensor([layer_cost({"inputs": i, "outputs": o, "kernel": k, "size": size}) for i, o, k in combinations])
        found.append(([before, own, kernel], first))
        pairs = list(itertools.product(names[own], names[kernel]))
        later = torch.tensor([layer_cost({"inputs": w, "outputs": w, "kernel": k, "size": size}) for w, k in pairs])
        found += [([own, kernel], later)] * (max(family.depths) - 1)
        before = own
    return found


def _joint(parts: list[Tensor]) -> Tensor:
    """Return the probability of each combination of independent choices, the last fastest."""
    found = parts[0]
    for part in parts[1:]:
        found = (found[:, None] * part).flatten()
    return found


def _masked(family: NetworkFamily, names: Mapping[str, list[int]], chosen: Mapping[str, Tensor], x: Tensor) -> Tensor:
    x = _block(family, "stem", x, _channels(names["stem.width"], chosen["stem.width"]), None)
    for stage in STAGES:
        kernels, channels = chosen[f"{stage}.kernel"], _channels(names[f"{stage}.width"], chosen[f"{stage}.width"])
        for block in range(max(family.depths)):
            x = _block(family, f"{stage}_{block}", x, channels, kernels)
        x = F.max_pool2d(x, 2)
    return F.linear(x.flatten(1), family.head.flatten(1), family.bias)


def _block(family: NetworkFamily, name: str, x: Tensor, channels: Tensor, kernels: Tensor | None) -> Tensor:
    weight = family.weights[name]
    if kernels is not None:
        side = weight.shape[-1]
        masks = torch.zeros(len(KERNELS), side, side)
        for place, kernel in enumerate(KERNELS):
            edge = (side - kernel) // 2
            masks[place, edge : edge + kernel, edge : edge + kernel] = 1.0
        weight = weight * (kernels[:, None, None] * masks).sum(0)
    x = F.conv2d(x, weight, padding=weight.shape[-1] // 2)
    x = F.relu(F.batch_norm(x, None, None, family.scales[name], family.shifts[name], training=True))
    return x * channels[None, :, None, None]


def _channels(widths: list[int], probabilities: Tensor) -> Tensor:
    """Return the probability that each channel exists."""
    exists = torch.zeros(len(widths), max(widths))
    for place, width in enumerate(widths):
        exists[place, :width] = 1.0
    return (probabilities[:, None] * exists).sum(0)
