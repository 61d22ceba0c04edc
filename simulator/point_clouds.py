"""Images, events and 3-D points as one thing: clouds of points with three coordinates."""

import torch
from torch import Tensor

from kernels.random import Key, uniform

EVENT_POINTS = 1024


def points_from_images(images: Tensor) -> Tensor:
    """Turn each pixel into a point (intensity, x / width - 1/2, y / height - 1/2).

    Parameters
    ----------
    images
        (batch, 1, height, width) float32.

    Returns
    -------
    Tensor
        (batch, height x width, 3) float32.

    Raises
    ------
    ValueError
        If the images have another shape.

    Examples
    --------
    >>> points_from_images(torch.tensor([[[[0.0, 1.0], [0.5, 0.2]]]]))[0, 1].tolist()
    [1.0, 0.0, -0.5]
    """
    if not isinstance(images, Tensor) or images.dim() != 4 or images.shape[1] != 1 or not images.is_floating_point():
        got = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"Argument `images` must be floating point of shape (batch, 1, height, width), but got {got}; average the colors")
    batch, _, height, width = images.shape
    y, x = torch.meshgrid(torch.arange(height) / height - 0.5, torch.arange(width) / width - 0.5, indexing="ij")
    place = torch.stack((x, y), -1).reshape(1, -1, 2).to(images).expand(batch, -1, -1)
    return torch.cat((images.reshape(batch, -1, 1), place), -1)


def points_from_events(events: list[Tensor], *, size: int = 128, count: int = EVENT_POINTS, seed: int = 0) -> Tensor:
    """Turn streams of events into clouds of equally many points (t, x / (size - 1), y / (size - 1)), times from 0 to 1.

    Parameters
    ----------
    events
        One tensor (events, 3) for each sample: time in any unit, x and y in pixels; at least one event each.
    size
        Pixels along an axis of the sensor.
    count
        Points of a cloud: chosen at random without repeats where there are more events, repeated in order where there are fewer.
    seed
        Of the choice.

    Returns
    -------
    Tensor
        (batch, count, 3) float32, in the order of time.

    Raises
    ------
    ValueError
        If a stream is empty or has another shape.

    Examples
    --------
    >>> points_from_events([torch.tensor([[10.0, 0.0, 127.0], [20.0, 127.0, 0.0]])], count=2).tolist()
    [[[0.0, 0.0, 1.0], [1.0, 1.0, 0.0]]]
    """
    clouds = []
    for index, stream in enumerate(events):
        if stream.dim() != 2 or stream.shape[1] != 3 or not len(stream):
            raise ValueError(
                f"Argument `events` must hold tensors (events, 3) of at least one event, but number {index} has {tuple(stream.shape)}"
            )
        if len(stream) >= count:
            chosen = torch.argsort(uniform(Key.of(seed=seed, tile=index, purpose="events"), len(stream)))[:count].sort().values
        else:
            chosen = (torch.arange(count) % len(stream)).sort().values
        time = stream[:, 0].double()
        span = float(time.max() - time.min()) or 1.0
        scaled = torch.stack(((time - time.min()) / span, stream[:, 1].double() / (size - 1), stream[:, 2].double() / (size - 1)), 1)
        clouds.append(scaled[chosen].float())
    return torch.stack(clouds)


def centered_points(points: Tensor) -> Tensor:
    """Shift each cloud to its mean and scale it into the unit ball: (batch, points, 3).

    Examples
    --------
    >>> centered_points(torch.tensor([[[0.0, 0.0, 0.0], [4.0, 0.0, 0.0]]]))[0, :, 0].tolist()
    [-1.0, 1.0]
    """
    around = points - points.mean(1, keepdim=True)
    reach = around.square().sum(2).sqrt().amax(1).clamp(min=1e-12)
    return around / reach[:, None, None]
