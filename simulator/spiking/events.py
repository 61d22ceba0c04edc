"""Event data: a generated set of moving shapes as an event camera sees them, and tonic's data sets where tonic is installed."""

import math
from numbers import Integral
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from kernels.random import Key, uniform
from simulator.data import DataSplit

SHAPES: Final = ("disc", "square", "cross", "ring")
CONTRAST: Final = 0.25
"""Change of the logarithm of brightness at which a pixel sends an event; event cameras are set to 0.1 to 0.5."""
DARK: Final = 0.1
"""Brightness of the background, that of a shape being 1."""
SUBSTEPS: Final = 4
"""Pictures between two time steps, in which a pixel may send several events."""


def moving_shapes(
    *, train: int = 1024, test: int = 256, timesteps: int = 10, pixels: int = 16, noise: float = 0.005, seed: int = 0
) -> DataSplit:
    """Generate what an event camera sees of moving shapes: eight classes, four shapes that move to the left or to the right.

    A pixel sends an event of positive or negative polarity each time the logarithm of its brightness has changed by 0.25; noise events come
    at random. The shapes differ in size, height, speed and slope.

    Parameters
    ----------
    train, test
        Samples, at least 8 each.
    timesteps
        Steps of a sample.
    pixels
        Height and width, at least 8.
    noise
        Probability of a noise event of a pixel, polarity and step.
    seed
        Of the set; equal seeds give equal events.

    Returns
    -------
    DataSplit
        Inputs (N, timesteps, 2, pixels, pixels) float32 counts of events, polarity positive first; targets (N,) int64, 0..7: twice the
        place of the shape among disc, square, cross and ring, plus 1 for a motion to the right.

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> data = moving_shapes(train=16, test=8, timesteps=6)
    >>> data.train.tensors[0].shape, data.classes
    (torch.Size([16, 6, 2, 16, 16]), 8)
    """
    for name, value, low in (("train", train, 8), ("test", test, 8), ("timesteps", timesteps, 1), ("pixels", pixels, 8)):
        if not isinstance(value, Integral) or value < low:
            raise ValueError(f"Argument `{name}` must be an integer of at least {low}, but got {value!r}; choose more")
    if not isinstance(seed, Integral) or seed < 0:
        raise ValueError(f"Argument `seed` must be an integer of at least 0, but got {seed!r}; use 0 or so")
    if not 0 <= noise < 1:
        raise ValueError(f"Argument `noise` must be a probability below 1, but got {noise}; use 0.005 or so")
    parts = []
    for which, count in (("train", train), ("test", test)):
        key = Key.of(seed=int(seed), purpose=f"moving shapes {which}")
        targets = torch.arange(count) % (2 * len(SHAPES))
        parts.append(TensorDataset(_events(key, targets, timesteps, pixels, noise), targets))
    return DataSplit(parts[0], parts[1], 2 * len(SHAPES), "moving shapes")


def _events(key: Key, targets: Tensor, timesteps: int, pixels: int, noise: float) -> Tensor:
    draws = uniform(key, (len(targets), 5))
    direction = (targets % 2) * 2.0 - 1
    size = 0.14 + 0.08 * draws[:, 0]
    speed = (0.3 + 0.3 * draws[:, 1]) * direction
    # Motion is centered on the picture: where a shape is says nothing about where it goes.
    middle = torch.stack((0.4 + 0.2 * draws[:, 2], 0.35 + 0.3 * draws[:, 3]), 1)
    slope = 0.4 * (draws[:, 4] - 0.5)
    moments = torch.linspace(-0.5, 0.5, timesteps * SUBSTEPS + 1)
    reference: Tensor | None = None
    counts = torch.zeros(len(targets), timesteps, 2, pixels, pixels)
    for index, moment in enumerate(moments.tolist()):
        x, y = middle[:, 0] + speed * moment, middle[:, 1] + slope * moment
        level = torch.log(DARK + (1 - DARK) * _picture(targets // 2, x, y, size, pixels))
        if reference is None:
            reference = level
            continue
        crossed = torch.trunc((level - reference) / CONTRAST)
        reference = reference + crossed * CONTRAST
        step = (index - 1) // SUBSTEPS
        counts[:, step, 0] += crossed.clamp(min=0)
        counts[:, step, 1] += (-crossed).clamp(min=0)
    if noise:
        counts += uniform(key.fold("noise"), counts.shape) < noise
    return counts.clamp(max=1)


def _picture(shape: Tensor, x: Tensor, y: Tensor, size: Tensor, pixels: int) -> Tensor:
    """Return brightness 0..1 of each pixel: soft edges a pixel wide."""
    axis = (torch.arange(pixels) + 0.5) / pixels
    dx = (axis[None, None, :] - x[:, None, None]).abs()
    dy = (axis[None, :, None] - y[:, None, None]).abs()
    radius = torch.sqrt(dx**2 + dy**2)
    size = size[:, None, None]
    disc = size - radius
    square = size * math.sqrt(math.pi) / 2 - torch.maximum(dx, dy)
    cross = torch.maximum(torch.minimum(size * 0.4 - dx, size * 1.2 - dy), torch.minimum(size * 1.2 - dx, size * 0.4 - dy))
    ring = size * 0.3 - (radius - size * 0.9).abs()
    distance = torch.stack(torch.broadcast_tensors(disc, square, cross, ring), 1)
    chosen = distance.gather(1, shape[:, None, None, None].expand(-1, 1, pixels, pixels)).squeeze(1)
    return (chosen * pixels + 0.5).clamp(0, 1)


def tonic_events(name: str, folder: str | Path, *, timesteps: int = 10) -> DataSplit:
    """Load a data set of tonic's as counts of events in equal time bins.

    Parameters
    ----------
    name
        Name of a class in ``tonic.datasets`` with a training and a test part, as ``"NMNIST"`` or ``"DVSGesture"``.
    folder
        Where tonic finds or puts the files.
    timesteps
        Time bins of a sample.

    Returns
    -------
    DataSplit
        Inputs (N, timesteps, polarities, height, width) float32, targets (N,) int64.

    Raises
    ------
    ImportError
        If tonic is not installed.
    ValueError
        If tonic has no such data set.

    Examples
    --------
    >>> tonic_events("NMNIST", "data", timesteps=10)  # doctest: +SKIP
    DataSplit(...)
    """
    try:
        import tonic
    except ImportError:
        raise ImportError("tonic_events needs tonic, which is not installed; pip install 'inloop[data]'") from None
    kind = getattr(tonic.datasets, name, None)
    if kind is None:
        raise ValueError(f"Argument `name` must be a data set of tonic, but there is no {name!r}; see tonic.datasets")
    frames = tonic.transforms.ToFrame(sensor_size=kind.sensor_size, n_time_bins=timesteps)
    parts = []
    for training in (True, False):
        samples = kind(save_to=str(folder), train=training, transform=frames)
        pairs = [samples[index] for index in range(len(samples))]
        inputs = torch.stack([torch.as_tensor(events).clamp(max=255).float() for events, _ in pairs])
        parts.append(TensorDataset(inputs, torch.tensor([int(target) for _, target in pairs])))
    return DataSplit(parts[0], parts[1], int(parts[0].tensors[1].max()) + 1, name)
