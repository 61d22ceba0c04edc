"""Layers over clouds of points: weights that are never tuned behind sampling, grouping and interpolation."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kernels.points import ball_query, farthest_points, group, interpolate_features
from simulator.forming import DigitalNorm

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


class RandomLayer(nn.Module):
    """Inputs rounded and scaled, a layer of weights that are never tuned, batch norm: on rows (n, inputs).

    Parameters
    ----------
    inputs, width
        Features that come in and that come out.
    bits
        Bits of the inputs, between the least and the largest of each row; None does not round. Gradients pass straight through.

    Examples
    --------
    >>> layer = RandomLayer(3, 4, bits=6)
    >>> _ = nn.init.ones_(layer.weights.weight)
    >>> layer.eval()(torch.tensor([[1.0, 2.0, 3.0]])).shape
    torch.Size([1, 4])
    """

    def __init__(self, inputs: int, width: int, bits: int | None) -> None:
        super().__init__()
        self.bits = bits
        self.scale = nn.Parameter(torch.tensor(INPUT_SCALE))
        self.weights = nn.Linear(inputs, width, bias=False, device="meta").to_empty(device="cpu").requires_grad_(False)
        self.norm = DigitalNorm(width, affine=True)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return what is read, normalized, (n, width)."""
        if self.bits is not None:
            values = inputs.detach()
            low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
            step = ((high - low) / (2**self.bits - 1)).clamp(min=torch.finfo(values.dtype).tiny)
            inputs = inputs + (low + torch.round((values - low) / step) * step - values)
        result: Tensor = self.norm(self.weights(inputs * self.scale))
        return result


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
        self.random = RandomLayer(axes + features, stage.width, input_bits)

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
        read = self.random(joined.flatten(0, 2))
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
        self.random = RandomLayer(inputs, width, input_bits)

    def forward(self, points: Tensor, centers: Tensor, own: Tensor | None, features: Tensor) -> Tensor:
        """Return features of the points, (batch, points, width)."""
        carried = interpolate_features(points, centers, features)
        joined = carried if own is None else torch.cat((own, carried), -1)
        read = self.random(joined.flatten(0, 1))
        return torch.relu(read.unflatten(0, joined.shape[:2]))
