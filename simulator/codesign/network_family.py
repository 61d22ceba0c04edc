"""A family of small networks for digits with shared weights: widths, depths, kernel sizes and precisions are chosen after one training."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.random import Key, normal
from simulator._isolation import one_thread
from simulator.search.space import Choice, Space

KERNELS = (1, 3, 5)
STAGES = ("stage1", "stage2")
BATCHES_TO_SETTLE = 4
"""Batches on which a network's batch norm is set: its statistics are no network's but its own (Yu et al. 2019, arXiv 1903.05134)."""


class NetworkFamily(nn.Module):
    """Weights that many networks share: each takes the first channels and the middle of the kernels of the largest.

    A network is a stem, two stages of convolutions with batch norm and a pooling after each, and a linear head, for 8 x 8 pictures.
    Its configuration holds ``stem.width``, and ``width``, ``depth`` and ``kernel`` of ``stage1`` and ``stage2``; with `precisions` also
    ``bits`` of stem, stages and head, to which weights are rounded (symmetric, evenly spaced, the largest weight of an output channel
    at the end of the range).

    Parameters
    ----------
    widths
        Channels to choose from, of stem, first and second stage.
    depths
        Convolutions of a stage to choose from.
    precisions
        Bits of weights to choose from; empty for float weights.
    classes
        Outputs.
    seed
        Of the initial weights.

    Examples
    --------
    >>> family = NetworkFamily(precisions=(4, 8))
    >>> configuration = family.space.at([0.0] * len(family.space.parameters))
    >>> family.extract(configuration)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        *,
        widths: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] = ((4, 8), (4, 8, 16), (8, 16, 32)),
        depths: tuple[int, ...] = (1, 2),
        precisions: tuple[int, ...] = (),
        classes: int = 10,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.widths, self.depths, self.precisions, self.classes = widths, depths, precisions, classes
        self.weights = nn.ParameterDict({"stem": _initial(seed, "stem", max(widths[0]), 1, 3)})
        self.scales = nn.ParameterDict({"stem": torch.ones(max(widths[0]))})
        self.shifts = nn.ParameterDict({"stem": torch.zeros(max(widths[0]))})
        before = max(widths[0])
        for stage, choices in zip(STAGES, widths[1:], strict=True):
            for block in range(max(depths)):
                name, inputs = f"{stage}_{block}", before if block == 0 else max(choices)
                self.weights[name] = _initial(seed, name, max(choices), inputs, max(KERNELS))
                self.scales[name] = torch.ones(max(choices))
                self.shifts[name] = torch.zeros(max(choices))
            before = max(choices)
        self.head = nn.Parameter(_initial(seed, "head", classes, before, 2))
        self.bias = nn.Parameter(torch.zeros(classes))

    @property
    def space(self) -> Space:
        """Every network of the family."""
        named: dict[str, Any] = {"stem.width": Choice(list(self.widths[0]))}
        for stage, choices in zip(STAGES, self.widths[1:], strict=True):
            named |= {f"{stage}.width": Choice(list(choices)), f"{stage}.depth": Choice(list(self.depths))}
            named[f"{stage}.kernel"] = Choice(list(KERNELS))
        if self.precisions:
            named |= {f"{part}.bits": Choice(list(self.precisions)) for part in ("stem", *STAGES, "head")}
        return Space(named)

    def layers(self, configuration: Mapping[str, Any]) -> list[dict[str, int]]:
        """Return each layer of a network: inputs, outputs, kernel, height and width of its output (size), and bits of weights if any."""

        def layer(part: str, inputs: int, outputs: int, kernel: int, size: int) -> dict[str, int]:
            precision = {"bits": configuration[f"{part}.bits"]} if self.precisions else {}
            return {"inputs": inputs, "outputs": outputs, "kernel": kernel, "size": size, **precision}

        found = [layer("stem", 1, configuration["stem.width"], 3, 8)]
        for stage, size in zip(STAGES, (8, 4), strict=True):
            for _ in range(configuration[f"{stage}.depth"]):
                width, kernel = configuration[f"{stage}.width"], configuration[f"{stage}.kernel"]
                found.append(layer(stage, found[-1]["outputs"], width, kernel, size))
        return [*found, layer("head", 4 * found[-1]["outputs"], self.classes, 1, 1)]

    def stages(self, configuration: Mapping[str, Any]) -> list[list[dict[str, int]]]:
        """Return the convolutions of a network by stage, as `deepmad_score` takes them."""
        layers = self.layers(configuration)
        first = 1 + configuration["stage1.depth"]
        return [layers[:1], layers[1:first], layers[first:-1]]

    def weight_and_norm(self, name: str, inputs: int, outputs: int, kernel: int, bits: int | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the part of a layer's shared weights that a network takes, and scale and shift of its batch norm."""
        whole = self.weights[name]
        edge = (whole.shape[-1] - kernel) // 2
        taken = whole[:outputs, :inputs, edge : edge + kernel, edge : edge + kernel]
        return rounded(taken, bits), self.scales[name][:outputs], self.shifts[name][:outputs]

    def forward(self, x: Tensor, configuration: Mapping[str, Any]) -> Tensor:
        """Run a network on shared weights with the statistics of the batch, as in training: (N, 1, 8, 8) -> (N, classes)."""
        channels = 1
        for name, outputs, kernel, bits, last in self._plan(configuration):
            weight, scale, shift = self.weight_and_norm(name, channels, outputs, kernel, bits)
            x = F.conv2d(x, weight, padding=kernel // 2)
            x = F.relu(F.batch_norm(x, None, None, scale, shift, training=True))
            x = F.max_pool2d(x, 2) if last else x
            channels = outputs
        head = rounded(self.head[:, :channels], configuration.get("head.bits"))
        return F.linear(x.flatten(1), head.flatten(1), self.bias)

    def extract(self, configuration: Mapping[str, Any], batches: Iterable[Any] = ()) -> nn.Sequential:
        """Return a network of its own, which can be compiled, trained on, or sent away.

        Parameters
        ----------
        configuration
            Of `space`.
        batches
            Batches of (inputs, targets) on which batch norm is set; the first four are used.
        """
        self.space.check(configuration)
        parts: OrderedDict[str, nn.Module] = OrderedDict()
        channels = 1
        with torch.device("meta"):
            for name, outputs, kernel, _, last in self._plan(configuration):
                parts[name] = nn.Conv2d(channels, outputs, kernel, padding=kernel // 2, bias=False)
                parts[f"{name}_norm"], parts[f"{name}_relu"] = nn.BatchNorm2d(outputs), nn.ReLU()
                if last:
                    parts[f"{name}_pool"] = nn.MaxPool2d(2)
                channels = outputs
            parts["flatten"], parts["head"] = nn.Flatten(), nn.Linear(4 * channels, self.classes)
        network = nn.Sequential(parts).to_empty(device="cpu")
        channels = 1
        with torch.no_grad():
            for name, outputs, kernel, bits, _ in self._plan(configuration):
                weight, scale, shift = self.weight_and_norm(name, channels, outputs, kernel, bits)
                convolution, norm = parts[name], parts[f"{name}_norm"]
                assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
                convolution.weight.copy_(weight)
                norm.weight.copy_(scale)
                norm.bias.copy_(shift)
                norm.reset_running_stats()
                norm.momentum = None  # the plain mean over the batches that settle it
                channels = outputs
            head = parts["head"]
            assert isinstance(head, nn.Linear)
            head.weight.copy_(rounded(self.head[:, :channels], configuration.get("head.bits")).flatten(1))
            head.bias.copy_(self.bias)
            network.train()
            for batch, _ in zip(batches, range(BATCHES_TO_SETTLE), strict=False):
                network(batch[0])
        return network.eval()

    def _plan(self, configuration: Mapping[str, Any]) -> list[tuple[str, int, int, int | None, bool]]:
        """Return name, outputs, kernel, bits, and whether pooling follows, of each convolution."""
        found: list[tuple[str, int, int, int | None, bool]] = [
            ("stem", configuration["stem.width"], 3, configuration.get("stem.bits"), False)
        ]
        for stage in STAGES:
            depth = configuration[f"{stage}.depth"]
            for block in range(depth):
                width, kernel = configuration[f"{stage}.width"], configuration[f"{stage}.kernel"]
                found.append((f"{stage}_{block}", width, kernel, configuration.get(f"{stage}.bits"), block == depth - 1))
        return found


def fit_family(
    family: NetworkFamily,
    data: tuple[Tensor, Tensor],
    *,
    epochs: int = 30,
    batch_size: int = 64,
    learning_rate: float = 4e-3,
    seed: int = 0,
) -> list[float]:
    """Train the shared weights: at each step the largest network, the smallest, and two at random (the sandwich rule).

    All but the largest learn from the largest one's outputs (Yu and Huang 2019, arXiv 1903.05134).

    Parameters
    ----------
    family
        Trained in place.
    data
        Inputs (N, 1, 8, 8) and targets (N,).
    epochs, batch_size, learning_rate
        Of Adam with a cosine schedule.
    seed
        Of the order of samples and of the networks drawn.

    Returns
    -------
    list of float
        Mean loss of the largest network, by epoch.

    Examples
    --------
    >>> len(fit_family(NetworkFamily(), (torch.rand(64, 1, 8, 8), torch.arange(64) % 10), epochs=2))
    2
    """
    inputs, targets = data
    space, random = family.space, np.random.default_rng(seed)
    sides = len(space.parameters)
    optimizer = torch.optim.Adam(family.parameters(), lr=learning_rate)
    steps = epochs * -(-len(inputs) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    with one_thread():
        for _ in range(epochs):
            total = 0.0
            for places in np.array_split(random.permutation(len(inputs)), -(-len(inputs) // batch_size)):
                x, y = inputs[torch.from_numpy(places)], targets[torch.from_numpy(places)]
                optimizer.zero_grad(set_to_none=True)
                largest = family(x, space.at([1.0] * sides))
                loss = F.cross_entropy(largest, y)
                loss.backward()
                total += float(loss.detach()) * len(x)
                taught = largest.detach().softmax(1)
                for shares in ([0.0] * sides, random.random(sides), random.random(sides)):
                    F.cross_entropy(family(x, space.at(shares)), taught).backward()
                optimizer.step()
                schedule.step()
            losses.append(total / len(inputs))
    return losses


def rounded(weight: Tensor, bits: int | None) -> Tensor:
    """Return weights on 2**bits - 1 even levels, with the gradient passed straight through; None leaves them.

    Examples
    --------
    >>> rounded(torch.tensor([[1.0, 0.4, -0.1]]), 2)
    tensor([[1., 0., 0.]])
    """
    if bits is None:
        return weight
    levels = max(1, 2 ** (bits - 1) - 1)
    step = weight.detach().flatten(1).abs().amax(1).clamp(min=1e-12).reshape(-1, *[1] * (weight.dim() - 1)) / levels
    found: Tensor = weight + ((weight / step).round() * step - weight).detach()
    return found


def _initial(seed: int, name: str, outputs: int, inputs: int, kernel: int) -> Tensor:
    shape = (outputs, inputs, kernel, kernel)
    found: Tensor = normal(Key.of(seed=seed, layer=name, purpose="network family"), shape) * (2.0 / (inputs * min(kernel, 3) ** 2)) ** 0.5
    return found
