"""The deep extreme point learning machine: random layers over clouds of points, on cells that are never tuned, and a trained readout."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from devices import RRAMCrossbar
from kernels.points import ball_query, farthest_points, group, interpolate_features
from kernels.random import Key
from simulator._isolation import one_thread
from simulator.batches import RepeatableBatches
from simulator.chip import Chip
from simulator.compiler import compile as compile_chip
from simulator.forming import check_random_design, formed_layers, sparse_pairs
from simulator.lowering.treatment import FormedCells

MICROSIEMENS = 1e-6
INPUT_SCALE = 0.005
"""What inputs of a random layer are multiplied by: its weights are in microsiemens (wang2023random in the bibliography)."""


@dataclass(frozen=True)
class PointStage:
    """A stage of a point network.

    Attributes
    ----------
    groups
        Centers that are chosen; None gathers all points into one group.
    neighbors
        Points around each center.
    radius
        Of the ball around a center, in the unit of the axes.
    width
        Features that come out.
    """

    groups: int | None
    neighbors: int
    radius: float
    width: int


class SetAbstraction(nn.Module):
    """Farthest-point sampling, ball query, one random layer on (relative place, features), batch norm, maximum over neighbors, ReLU.

    Parameters
    ----------
    stage
        Groups, neighbors, radius, width.
    axes, features
        Coordinates of a point, and features it brings along.
    input_bits
        Bits of the layer's inputs, between the least and the largest of each point; None does not round.

    Examples
    --------
    >>> layer = SetAbstraction(PointStage(4, 8, 0.5, 16), axes=3, features=0, input_bits=6)
    >>> centers, features = layer(torch.rand(2, 32, 3), None)
    >>> centers.shape, features.shape
    (torch.Size([2, 4, 3]), torch.Size([2, 4, 16]))
    """

    def __init__(self, stage: PointStage, axes: int, features: int, input_bits: int | None) -> None:
        super().__init__()
        self.stage = stage
        self.input_bits = input_bits
        self.weights = nn.Linear(axes + features, stage.width, bias=False, device="meta").to_empty(device="cpu").requires_grad_(False)
        self.norm = nn.BatchNorm1d(stage.width)

    def forward(self, points: Tensor, features: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return centers (batch, groups, axes) and their features (batch, groups, width)."""
        if self.stage.groups is None:
            centers = points.new_zeros(len(points), 1, points.shape[2])
            parts = [points.unsqueeze(1)] + ([] if features is None else [features.unsqueeze(1)])
        else:
            centers = group(points, farthest_points(points, min(self.stage.groups, points.shape[1])))
            around = ball_query(points, centers, self.stage.radius, min(self.stage.neighbors, points.shape[1]))
            parts = [group(points, around) - centers.unsqueeze(2)] + ([] if features is None else [group(features, around)])
        joined = torch.cat(parts, -1)
        read = random_layer(joined.flatten(0, 2), self.weights, self.norm, self.input_bits)
        return centers, torch.relu(read.unflatten(0, joined.shape[:3]).amax(2))


class FeaturePropagation(nn.Module):
    """Features of centers carried to points (3 nearest, inverse squared distance), joined with the points' own, one random layer.

    Parameters
    ----------
    inputs, width
        Features that come in, of centers and points together, and that come out.
    input_bits
        See `SetAbstraction`.

    Examples
    --------
    >>> layer = FeaturePropagation(5, 7, None)
    >>> layer(torch.rand(2, 9, 3), torch.rand(2, 4, 3), None, torch.rand(2, 4, 5)).shape
    torch.Size([2, 9, 7])
    """

    def __init__(self, inputs: int, width: int, input_bits: int | None) -> None:
        super().__init__()
        self.input_bits = input_bits
        self.weights = nn.Linear(inputs, width, bias=False, device="meta").to_empty(device="cpu").requires_grad_(False)
        self.norm = nn.BatchNorm1d(width)

    def forward(self, points: Tensor, centers: Tensor, own: Tensor | None, features: Tensor) -> Tensor:
        """Return features of the points, (batch, points, width)."""
        carried = interpolate_features(points, centers, features)
        joined = carried if own is None else torch.cat((own, carried), -1)
        read = random_layer(joined.flatten(0, 1), self.weights, self.norm, self.input_bits)
        return torch.relu(read.unflatten(0, joined.shape[:2]))


class PointNetwork(nn.Module):
    """A deep extreme point learning machine: random weights from a design's cells, and a linear readout that `fit_readout` trains.

    Parameters
    ----------
    design
        The crossbar whose cells the random weights are pairs of.
    stages
        Set abstractions, from the input on. A classifier's last stage gathers all points.
    classes
        Of the readout.
    propagations
        Widths of the feature propagations, from the deepest stage back to the points, as many as stages: the network then labels every
        point. Empty classifies clouds.
    axes
        Coordinates of a point.
    features_of_points
        Whether the first stage gets the coordinates a second time, as features.
    zero_probability
        Of each cell of a pair to stay unformed: half of them make a quarter of the weights exactly zero, and reads less noisy.
    input_bits
        Bits of the inputs of random layers, between the least and the largest of each point; None does not round.
    seed
        Of the cells.

    Raises
    ------
    ValueError
        If an argument is out of range, or the design cannot hold random pairs.

    References
    ----------
    wang2023random in the bibliography.

    Examples
    --------
    >>> design = RRAMCrossbar.preset("taox_40nm_random")
    >>> net = PointNetwork(design, [PointStage(16, 8, 0.3, 32), PointStage(None, 16, 0.0, 64)], classes=10)
    >>> net(torch.rand(2, 64, 3)).shape, net.random_weights
    (torch.Size([2, 10]), 2432)
    """

    def __init__(
        self,
        design: RRAMCrossbar,
        stages: Sequence[PointStage],
        classes: int,
        *,
        propagations: Sequence[int] = (),
        axes: int = 3,
        features_of_points: bool = True,
        zero_probability: float = 0.5,
        input_bits: int | None = 6,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_random_design(design)
        _check(stages, classes, propagations, zero_probability)
        self.design = design
        self.features_of_points = features_of_points
        self.stages = nn.ModuleList()
        widths = [axes if features_of_points else 0]
        for stage in stages:
            self.stages.append(SetAbstraction(stage, axes, widths[-1], input_bits))
            widths.append(stage.width)
        self.propagations = nn.ModuleList()
        deep = widths[-1]
        for width, skip in zip(propagations, reversed(widths[:-1]), strict=False):
            self.propagations.append(FeaturePropagation(deep + skip, width, input_bits))
            deep = width
        self.readout = nn.Linear(deep, classes, device="meta").to_empty(device="cpu")
        self.pairs: dict[str, Tensor] = {}
        with torch.no_grad():
            self.readout.weight.zero_()
            self.readout.bias.zero_()
            for name, module in self.named_modules():
                if name.endswith(".weights") and isinstance(module, nn.Linear):
                    key = Key.of(seed=seed, layer=name, purpose="random network")
                    pairs = sparse_pairs(design.cell, tuple(module.weight.shape), key, zero_probability)
                    self.pairs[name] = pairs
                    module.weight.copy_((pairs[0, 0] - pairs[0, 1]) / MICROSIEMENS)
        self.eval()

    @property
    def random_weights(self) -> int:
        """Weights that are pairs of random cells."""
        return sum(pairs[0, 0].numel() for pairs in self.pairs.values())

    def features(self, points: Tensor) -> Tensor:
        """Return what the readout reads: (batch, features), or (batch, points, features) of a network that labels points."""
        features = points if self.features_of_points else None
        places, found = [points], [features]
        for stage in self.stages:
            center, features = stage(places[-1], found[-1])
            places.append(center)
            found.append(features)
        if not len(self.propagations):
            assert features is not None
            return features.amax(1)
        deep = found[-1]
        for propagation, level in zip(self.propagations, range(len(places) - 2, -1, -1), strict=True):
            deep = propagation(places[level], places[level + 1], found[level], deep)
        assert deep is not None
        return deep

    def forward(self, points: Tensor) -> Tensor:
        """Return class scores: (batch, classes), or (batch, classes, points)."""
        scores: Tensor = self.readout(self.features(points))
        return scores if not len(self.propagations) else scores.transpose(1, 2)


def random_layer(inputs: Tensor, weights: nn.Module, norm: nn.Module, bits: int | None) -> Tensor:
    """Return batch norm of a random layer's outputs for rows (n, inputs), each rounded to `bits` between its least and largest.

    Examples
    --------
    >>> random_layer(torch.ones(2, 3), nn.Linear(3, 4, bias=False), nn.Identity(), 6).shape
    torch.Size([2, 4])
    """
    if bits is not None:
        low, high = inputs.amin(1, keepdim=True), inputs.amax(1, keepdim=True)
        step = ((high - low) / (2**bits - 1)).clamp(min=torch.finfo(inputs.dtype).tiny)
        inputs = low + torch.round((inputs - low) / step) * step
    result: Tensor = norm(weights(inputs * INPUT_SCALE))
    return result


def fit_readout(net: PointNetwork, loader: Any, *, ridge: float = 0.03, batch_size: int = 256) -> PointNetwork:
    """Train a point network: batch norms take the statistics of the data, and the readout is solved in closed form.

    The readout is the ridge regression of the classes, coded as 1 and 0 less their mean, on the features: the only weights that are
    trained. What was published trained it by Adam.

    Parameters
    ----------
    net
        Changed in place.
    loader
        Batches of (points, targets), a data set or a pair of tensors; targets are classes, one a cloud or one a point.
    ridge
        Penalty over the mean square of the features, above 0.
    batch_size
        Batch size for a data set or a pair of tensors.

    Returns
    -------
    PointNetwork
        `net`.

    Raises
    ------
    ValueError
        If the data are empty, or `ridge` is not positive.

    Examples
    --------
    >>> design = RRAMCrossbar.preset("taox_40nm_random")
    >>> net = PointNetwork(design, [PointStage(8, 8, 0.5, 32), PointStage(None, 8, 0.0, 64)], classes=2)
    >>> clouds = torch.rand(64, 32, 3) * torch.tensor([1.0, 0.2]).repeat(32)[:, None, None]
    >>> targets = torch.arange(64) % 2
    >>> float((fit_readout(net, (clouds, targets))(clouds).argmax(1) == targets).float().mean())
    1.0
    """
    if not (isinstance(ridge, int | float) and 0 < ridge < math.inf):
        raise ValueError(f"Argument `ridge` must be positive and finite, but got {ridge!r}; 0.03 is usual")
    data = RepeatableBatches(loader, batch_size=batch_size, name="loader")
    classes, width = net.readout.weight.shape
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm1d)]
    square = torch.zeros(width + 1, width + 1, dtype=torch.float64)
    product = torch.zeros(width + 1, classes, dtype=torch.float64)
    count = 0
    with torch.no_grad(), one_thread():
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # an average over all batches
        for batch in data:
            net.train()
            net.features(batch.inputs[0])
        net.eval()
        for batch in data:
            features = net.features(batch.inputs[0]).flatten(0, -2).double()
            wanted = nn.functional.one_hot(batch.targets.flatten(), classes).double()
            with_one = torch.cat((features, features.new_ones(len(features), 1)), 1)
            square += with_one.t() @ with_one
            product += with_one.t() @ wanted
            count += len(features)
        penalty = torch.full((width + 1,), ridge * float(square.diagonal()[:-1].mean()), dtype=torch.float64)
        penalty[-1] = 0.0
        solved = torch.linalg.solve(square + torch.diag(penalty), product)
        net.readout.weight.copy_(solved[:-1].t())
        net.readout.bias.copy_(solved[-1])
    return net


def point_chip(net: PointNetwork, points: Tensor, *, seed: int = 0) -> Chip:
    """Put a point network on the cells it was drawn from; the readout stays digital.

    Batch norms stay digital. A chip reads multilevel inputs at once: what was built
    applied them bit by bit, whose read noise is less; the difference is that of sum(4^b) of the bits that are set and of the code squared.

    Parameters
    ----------
    net
        Trained by `fit_readout`.
    points
        Clouds to calibrate converters on.
    seed
        Of the chip's reads.

    Returns
    -------
    Chip
        Each trial of `evaluate` reads these arrays anew.

    Raises
    ------
    ValueError
        If the network does not compile.

    Examples
    --------
    >>> design = RRAMCrossbar.preset("taox_40nm_random")
    >>> net = PointNetwork(design, [PointStage(8, 8, 0.5, 32), PointStage(None, 8, 0.0, 64)], classes=2)
    >>> sorted(point_chip(net, torch.rand(4, 32, 3)).layers)
    ['stages.0.weights', 'stages.1.weights']
    """
    patterns: dict[str, Any] = {"stages.*": net.design}
    if len(net.propagations):
        patterns["propagations.*"] = net.design
    chip = compile_chip(net, patterns, example_inputs=(points[:2],), seed=seed)
    for name, layer in formed_layers(chip).items():
        layer.treatment = FormedCells(net.pairs[name].to(layer.weight.device))
    chip.program(seed)
    return chip.calibrate(points)


def _check(stages: Sequence[PointStage], classes: int, propagations: Sequence[int], zero_probability: float) -> None:
    if not stages:
        raise ValueError("Argument `stages` must hold at least one stage, but is empty; add PointStage(groups, neighbors, radius, width)")
    for stage in stages:
        if (stage.groups is not None and stage.groups < 1) or stage.neighbors < 1 or stage.width < 1 or not stage.radius >= 0:
            raise ValueError(
                f"Argument `stages` must have groups, neighbors and width of at least 1 and a radius of at least 0, but got {stage}"
            )
    if classes < 2:
        raise ValueError(f"Argument `classes` must be at least 2, but got {classes}")
    if propagations and len(propagations) != len(stages):
        raise ValueError(f"Argument `propagations` must have one width for each of the {len(stages)} stages, but got {list(propagations)}")
    if not 0 <= zero_probability < 1:
        raise ValueError(f"Argument `zero_probability` must be at least 0 and below 1, but got {zero_probability}; 0.5 was published")
