"""The deep extreme point learning machine: random layers over clouds of points, on cells that are never tuned, and a trained readout."""

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from devices import RRAMCrossbar
from kernels.random import Key
from simulator._isolation import one_thread
from simulator.batches import RepeatableBatches
from simulator.chip import Chip
from simulator.compiler import compile as compile_chip
from simulator.forming import DigitalNorm, check_random_design, formed_layers, sparse_pairs
from simulator.lowering.treatment import FormedCells
from simulator.point_layers import FeaturePropagation, PointStage, RandomLayer, SetAbstraction

MICROSIEMENS = 1e-6
PointModel = TypeVar("PointModel", "PointNetwork", Chip)


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

    Notes
    -----
    `fit_readout` trains the readout alone. In a network that labels points, scale and shift of batch norms and the scale of each random
    layer's inputs are parameters too, as was published: `simulator.fit` trains all of them.

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
        _check(stages, classes, propagations, zero_probability, input_bits)
        self.design = design
        self.axes = axes
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
                elif isinstance(module, RandomLayer):
                    for parameter in (module.scale, module.norm.weight, module.norm.bias):
                        assert parameter is not None
                        parameter.requires_grad_(bool(propagations))
        self.eval()

    @property
    def random_weights(self) -> int:
        """Weights that are pairs of random cells."""
        return sum(pairs[0, 0].numel() for pairs in self.pairs.values())

    def features(self, points: Tensor) -> Tensor:
        """Return what the readout reads: (batch, features), or (batch, points, features) of a network that labels points."""
        if points.dim() != 3 or points.shape[2] != self.axes:
            raise ValueError(
                f"Argument `points` must have shape (batch, points, {self.axes}), but got {tuple(points.shape)}; "
                "the network was made for so many axes"
            )
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


def fit_readout(net: PointModel, loader: Any, *, ridge: float = 0.03, batch_size: int = 256) -> PointModel:
    """Train a point network: batch norms take the statistics of the data, and the readout is solved in closed form.

    The readout is the ridge regression of the classes, coded as 1 and 0 less their mean, on the features: the only weights that are
    trained. What was published trained it by Adam. Given a chip, statistics and features are what its arrays read, noise included: the
    largest of many noisy neighbors lies above the largest without noise, and a readout that was fitted without it is off.

    Parameters
    ----------
    net
        The network, or the chip that `point_chip` made of it; changed in place.
    loader
        Batches of (points, targets), a data set or a pair of tensors; targets are classes, one a cloud or one a point.
    ridge
        Penalty over the mean square of the features, above 0.
    batch_size
        Batch size for a data set or a pair of tensors.

    Returns
    -------
    PointNetwork or Chip
        `net`.

    Raises
    ------
    ValueError
        If `net` is neither, the data are empty, targets do not fit, or `ridge` is not positive.

    Examples
    --------
    >>> design = RRAMCrossbar.preset("taox_40nm_random")
    >>> net = PointNetwork(design, [PointStage(8, 8, 0.5, 32), PointStage(None, 8, 0.0, 64)], classes=2)
    >>> clouds = torch.rand(64, 32, 3, generator=torch.Generator().manual_seed(0))
    >>> clouds[1::2] *= 0.2
    >>> targets = torch.arange(64) % 2
    >>> float((fit_readout(net, (clouds, targets))(clouds).argmax(1) == targets).float().mean())
    1.0
    """
    network = net.model if isinstance(net, Chip) else net
    if not isinstance(network, PointNetwork):
        raise ValueError(f"Argument `net` must be a PointNetwork or the chip of one, but got {type(network).__name__}")
    if not (isinstance(ridge, int | float) and 0 < ridge < math.inf):
        raise ValueError(f"Argument `ridge` must be positive and finite, but got {ridge!r}; 0.03 is usual")
    data = RepeatableBatches(loader, batch_size=batch_size, name="loader")
    classes, width = network.readout.weight.shape
    square = torch.zeros(width + 1, width + 1, dtype=torch.float64)
    product = torch.zeros(width + 1, classes, dtype=torch.float64)
    read: list[Tensor] = []
    norms = {module: module.momentum for module in network.modules() if isinstance(module, DigitalNorm)}

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        read[:] = inputs[:1]

    hook = network.readout.register_forward_pre_hook(keep)
    net.eval()
    try:
        with torch.no_grad(), one_thread():
            for norm in norms:
                norm.reset()
                norm.momentum = None  # an average over all batches
                norm.train()
            for batch in data:
                net(batch.inputs[0])
            net.eval()
            for batch in data:
                net(batch.inputs[0])
                features = read[0].flatten(0, -2).double()
                _check_targets(batch.targets, len(features), classes)
                wanted = nn.functional.one_hot(batch.targets.flatten(), classes).double()
                with_one = torch.cat((features, features.new_ones(len(features), 1)), 1)
                square += with_one.t() @ with_one
                product += with_one.t() @ wanted
            penalty = torch.full((width + 1,), ridge * float(square.diagonal()[:-1].mean()), dtype=torch.float64)
            penalty[-1] = 0.0
            solved = torch.linalg.solve(square + torch.diag(penalty), product)
            network.readout.weight.copy_(solved[:-1].t())
            network.readout.bias.copy_(solved[-1])
    finally:
        hook.remove()
        for norm, momentum in norms.items():
            norm.momentum = momentum
        net.eval()
    return net


def point_chip(net: PointNetwork, points: Tensor, *, seed: int = 0) -> Chip:
    """Put a point network on the cells it was drawn from; the readout stays digital.

    Batch norms stay digital; `fit_readout` on the chip trains its readout on what the arrays read. A chip reads multilevel inputs at
    once: what was built applied them bit by bit, whose read noise is less; the difference is that of sum(4^b) of the bits that are set
    and of the code squared.

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
        If `net` is no point network, or does not compile.

    Examples
    --------
    >>> design = RRAMCrossbar.preset("taox_40nm_random")
    >>> net = PointNetwork(design, [PointStage(8, 8, 0.5, 32), PointStage(None, 8, 0.0, 64)], classes=2)
    >>> sorted(point_chip(net, torch.rand(4, 32, 3)).layers)
    ['stages.0.random.weights', 'stages.1.random.weights']
    """
    if not isinstance(net, PointNetwork):
        raise ValueError(f"Argument `net` must be a PointNetwork, but got {type(net).__name__}; sim.compile puts other networks on chips")
    patterns: dict[str, Any] = {"stages.*": net.design}
    if len(net.propagations):
        patterns["propagations.*"] = net.design
    chip = compile_chip(net, patterns, example_inputs=(points[:2],), seed=seed)
    for name, layer in formed_layers(chip).items():
        layer.treatment = FormedCells(net.pairs[name].to(layer.weight.device))
    chip.program(seed)
    return chip.calibrate(points)


def _check_targets(targets: Any, count: int, classes: int) -> None:
    if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.numel() != count:
        got = f"{targets.dtype} of shape {tuple(targets.shape)}" if isinstance(targets, Tensor) else type(targets).__name__
        raise ValueError(f"Argument `loader` must yield {count} targets with this batch, classes as integers, but got {got}")
    if bool(((targets < 0) | (targets >= classes)).any()):
        raise ValueError(
            f"Argument `loader` must yield classes from 0 to {classes - 1}, but got {int(targets.min())} to {int(targets.max())}"
        )


def _check(
    stages: Sequence[PointStage], classes: int, propagations: Sequence[int], zero_probability: float, input_bits: int | None
) -> None:
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
    if input_bits is not None and (not isinstance(input_bits, int) or isinstance(input_bits, bool) or not 1 <= input_bits <= 16):
        raise ValueError(f"Argument `input_bits` must be an integer from 1 to 16 or None, but got {input_bits!r}; 6 was published")
    if not 0 <= zero_probability < 1:
        raise ValueError(f"Argument `zero_probability` must be at least 0 and below 1, but got {zero_probability}; 0.5 was published")
