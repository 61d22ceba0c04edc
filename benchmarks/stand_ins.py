"""Generated data sets that stand in for those that are not embedded; each says what it stands in for."""

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Floats = npt.NDArray[np.float64]
PARTS = 6
"""Parts of the generated solids: side and base of a cone, side and caps of a cylinder, sides and ends of a box."""


def vessels(count: int, *, size: int = 64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw vessel-like trees on an uneven background: the stand-in for patches of the DRIVE retina images.

    Parameters
    ----------
    count
        Patches.
    size
        Pixels along an edge.
    seed
        Of everything drawn.

    Returns
    -------
    tuple
        Images (count, 1, size, size) float32 from 0 to 1, and labels (count, size, size) int64, 1 on vessels.

    Examples
    --------
    >>> images, labels = vessels(4)
    >>> images.shape, 0.02 < float(labels.float().mean()) < 0.3
    (torch.Size([4, 1, 64, 64]), True)
    """
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size].astype(float)
    images, labels = np.empty((count, 1, size, size), np.float32), np.empty((count, size, size), np.int64)
    for index in range(count):
        distance = np.full((size, size), np.inf)
        for _ in range(generator.integers(2, 4)):
            _grow(generator, distance, x, y, size, generator.uniform(0, size, 2), generator.uniform(0, 2 * math.pi), 2.4, 3)
        background = 0.6 + 0.15 * np.sin(x / size * generator.uniform(1, 5) + generator.uniform(0, 6)) * np.cos(
            y / size * generator.uniform(1, 5)
        )
        contrast = generator.uniform(0.15, 0.3)
        image = background - contrast / (1 + np.exp(2 * distance)) + 0.06 * generator.standard_normal((size, size))
        # Blobs that are dark but no vessel.
        for _ in range(3):
            cx, cy, r = generator.uniform(0, size), generator.uniform(0, size), generator.uniform(1.5, 4)
            image -= 0.2 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / r**2)
        images[index, 0] = np.clip(image, 0, 1)
        labels[index] = distance <= 0
    return torch.from_numpy(images), torch.from_numpy(labels)


def _grow(
    generator: np.random.Generator, distance: Floats, x: Floats, y: Floats, size: int, at: Floats, angle: float, width: float, depth: int
) -> None:
    """Draw a winding branch into the distance from the nearest vessel's edge, and its own branches."""
    for _ in range(int(generator.integers(10, 24))):
        distance[:] = np.minimum(distance, np.hypot(x - at[0], y - at[1]) - width / 2)
        angle += 0.3 * generator.standard_normal()
        at = at + 1.5 * np.array([math.cos(angle), math.sin(angle)])
        if depth and generator.random() < 0.08:
            _grow(generator, distance, x, y, size, at.copy(), angle + generator.choice([-0.8, 0.8]), 0.75 * width, depth - 1)
        if not (0 <= at[0] < size and 0 <= at[1] < size):
            return


def solids(count: int, *, points: int = 512, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Sample the surfaces of cones, cylinders and boxes with labelled parts: the stand-in for ShapeNet's part segmentation.

    Parameters
    ----------
    count
        Solids, a third of each kind.
    points
        Of each.
    seed
        Of everything drawn.

    Returns
    -------
    tuple
        Points (count, points, 3) float32 in the unit ball, parts (count, points) int64, kinds (count,) int64.

    Examples
    --------
    >>> clouds, parts, kinds = solids(6)
    >>> clouds.shape, sorted(parts.unique().tolist()), kinds.tolist()
    (torch.Size([6, 512, 3]), [0, 1, 2, 3, 4, 5], [0, 1, 2, 0, 1, 2])
    """
    generator = np.random.default_rng(seed)
    clouds, parts = np.empty((count, points, 3), np.float32), np.empty((count, points), np.int64)
    for index in range(count):
        kind = index % 3
        height, radius = generator.uniform(0.8, 1.6), generator.uniform(0.3, 0.7)
        turn, u = generator.uniform(0, 2 * math.pi, points), generator.uniform(0, 1, points)
        if kind < 2:
            slant = math.hypot(radius, height) * radius if kind == 0 else 2 * radius * height
            flat = radius**2 if kind == 0 else 2 * radius**2
            side = generator.random(points) < slant / (slant + flat)
            along = np.sqrt(u) if kind == 0 else u
            reach = radius * (along if kind == 0 else 1.0)
            rim = np.where(side, reach, radius * np.sqrt(u))
            level = np.where(side, height * (1 - along), 0.0 if kind == 0 else height * (generator.random(points) < 0.5))
            cloud = np.stack((rim * np.cos(turn), rim * np.sin(turn), level), 1)
            parts[index] = 2 * kind + (~side)
        else:
            width, depth = generator.uniform(0.4, 1.0, 2)
            areas = np.array([depth * height, width * height, width * depth])
            face = generator.choice(3, points, p=areas / areas.sum())
            cloud = generator.uniform(0, 1, (points, 3)) * [width, depth, height]
            cloud[np.arange(points), face] = (generator.random(points) < 0.5) * np.array([width, depth, height])[face]
            parts[index] = 4 + (face == 2)
        turn_about = generator.uniform(0, 2 * math.pi)
        rotation = np.array([[math.cos(turn_about), -math.sin(turn_about), 0], [math.sin(turn_about), math.cos(turn_about), 0], [0, 0, 1]])
        cloud = (cloud - cloud.mean(0)) @ rotation.T + 0.01 * generator.standard_normal((points, 3))
        clouds[index] = cloud / np.linalg.norm(cloud, axis=1).max()
    return torch.from_numpy(clouds), torch.from_numpy(parts), torch.arange(count) % 3


MOTIONS = ("clockwise", "counterclockwise", "left to right", "right to left", "up", "down", "waving", "growing")


def gestures(count: int, *, size: int = 128, seed: int = 0) -> tuple[list[Tensor], Tensor]:
    """Draw events of a disc's edge that moves in one of eight ways: the stand-in for the DVS Gesture data.

    Parameters
    ----------
    count
        Streams, an eighth of each motion.
    size
        Pixels along an axis of the sensor.
    seed
        Of everything drawn.

    Returns
    -------
    tuple
        A tensor (events, 3) of time in microseconds, x and y for each stream, and motions (count,) int64.

    Examples
    --------
    >>> streams, motions = gestures(8)
    >>> len(streams), streams[0].shape[1], motions.tolist()
    (8, 3, [0, 1, 2, 3, 4, 5, 6, 7])
    """
    generator = np.random.default_rng(seed)
    streams, motions = [], np.arange(count) % len(MOTIONS)
    for motion in motions:
        events = int(generator.integers(1200, 2400))
        time = np.sort(generator.uniform(0, 1, events))
        phase, swing = generator.uniform(0, 2 * math.pi), generator.uniform(0.2, 0.3)
        center = 0.5 + generator.uniform(-0.08, 0.08, 2)
        turn = 2 * math.pi * generator.uniform(0.8, 1.4) * time + phase
        sweep = swing * (2 * time - 1)
        still = np.zeros(events)
        path = (
            (swing * np.cos(turn), swing * np.sin(turn)), (swing * np.cos(-turn), swing * np.sin(-turn)), (sweep, still), (-sweep, still),
            (still, -sweep), (still, sweep), (swing * np.sin(3 * turn), still), (still, still),
        )[motion]  # fmt: skip
        radius = 0.08 * (1 + 2 * time * (motion == 7))
        edge = generator.uniform(0, 2 * math.pi, events)
        x = center[0] + path[0] + radius * np.cos(edge)
        y = center[1] + path[1] + radius * np.sin(edge)
        noise = generator.random(events) < 0.1
        x, y = np.where(noise, generator.random(events), x), np.where(noise, generator.random(events), y)
        pixels = np.clip(np.round(np.stack((x, y), 1) * (size - 1)), 0, size - 1)
        streams.append(torch.from_numpy(np.column_stack((np.round(1e6 * time), pixels)).astype(np.float32)))
    return streams, torch.from_numpy(motions.astype(np.int64))
