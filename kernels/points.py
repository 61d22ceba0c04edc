"""Clouds of points: farthest-point sampling, ball query, grouping and interpolation, each for the CPU (Numba) and for any device (torch).

A cloud is ``(batch, points, axes)``; every result of one cloud depends on that cloud only. Distances are squared Euclidean ones, added
axis by axis in float32, so that both implementations compare the same bits.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float32, Int64
from numba import njit, prange
from torch import Tensor

from kernels.random import Backend, use_numba
from kernels.threads import get_threads

Clouds = Float32[Tensor, "batch points axes"]
Centers = Float32[Tensor, "batch centers axes"]
Features = Float32[Tensor, "batch points features"]
Chosen = Int64[Tensor, "batch centers"]
Neighbors = Int64[Tensor, "batch centers neighbors"]

_INFINITE: Final = np.float32(np.inf)
_NEAREST: Final = 3
_SMALLEST: Final = np.float32(1e-8)
"""Added to squared distances before they are inverted, so that a point on a center takes its features."""


def farthest_points(points: Clouds, count: int, *, backend: Backend | None = None) -> Chosen:
    """Choose points one by one, each the farthest from those chosen before it; the first is point 0, ties go to the lower index.

    Parameters
    ----------
    points
        ``(batch, points, axes)`` float32.
    count
        How many, 1 to `points`.
    backend
        ``"numba"`` (the default on the CPU) or ``"torch"`` (elsewhere); the result is the same.

    Returns
    -------
    Tensor
        Indices ``(batch, count)`` int64, in the order chosen.

    Raises
    ------
    ValueError
        If `points` is not such a tensor or not finite, or `count` is out of range.

    Examples
    --------
    >>> farthest_points(torch.tensor([[[0.0], [1.0], [10.0], [4.0]]]), 3)
    tensor([[0, 2, 3]])
    """
    _check_clouds("points", points)
    batch, total, _ = points.shape
    _check_whole("count", count, total, "points")
    if not use_numba(points.device, backend):
        return _farthest_torch(points, count)
    chosen = torch.empty(batch, count, dtype=torch.int64)
    if batch:
        workers = min(get_threads(), batch)
        clouds = points.detach().transpose(1, 2).contiguous().numpy()
        if workers > 1:
            _farthest_parallel(clouds, chosen.numpy(), workers)
        else:
            _farthest(clouds, chosen.numpy(), 0, batch)
    return chosen


def ball_query(points: Clouds, centers: Centers, radius: float, neighbors: int, *, backend: Backend | None = None) -> Neighbors:
    """Find the first points, by index, within a radius of each center: ``d^2 <= r^2``.

    Where fewer are within it, the first one found fills the rest; where none is, the nearest point does.

    Parameters
    ----------
    points
        ``(batch, points, axes)`` float32.
    centers
        ``(batch, centers, axes)`` float32.
    radius
        At least 0, in the unit of the axes; ``math.inf`` takes any point.
    neighbors
        How many, 1 to `points`.
    backend
        ``"numba"`` (the default on the CPU) or ``"torch"`` (elsewhere); the result is the same.

    Returns
    -------
    Tensor
        Indices ``(batch, centers, neighbors)`` int64.

    Raises
    ------
    ValueError
        If a tensor does not fit or is not finite, or a number is out of range.

    Examples
    --------
    >>> ball_query(torch.tensor([[[0.0], [1.0], [10.0], [0.5]]]), torch.tensor([[[0.0]]]), 1.0, 4)
    tensor([[[0, 1, 3, 0]]])
    """
    _check_clouds("points", points)
    _check_clouds("centers", centers)
    _check_fits("centers", centers, points)
    _check_whole("neighbors", neighbors, points.shape[1], "points")
    if not radius >= 0:
        raise ValueError(f"Argument `radius` must be at least 0, but got {radius}; do give it in the unit of the axes.")
    limit = np.float32(radius) * np.float32(radius)
    if not use_numba(points.device, backend):
        return _ball_torch(points, centers, float(limit), neighbors)
    batch = points.shape[0]
    found = torch.empty(batch, centers.shape[1], neighbors, dtype=torch.int64)
    if batch and centers.shape[1]:
        workers = min(get_threads(), batch)
        clouds = points.detach().transpose(1, 2).contiguous().numpy()
        around = centers.detach().contiguous().numpy()
        if workers > 1:
            _ball_parallel(clouds, around, limit, found.numpy(), workers)
        else:
            _ball(clouds, around, limit, found.numpy(), 0, batch)
    return found


def group(values: Features, indices: Int64[Tensor, "batch *places"]) -> Float32[Tensor, "batch *places features"]:
    """Gather rows of each cloud by index; gradients flow back to them.

    Parameters
    ----------
    values
        ``(batch, points, features)`` float32.
    indices
        ``(batch, ...)`` int64, 0 to points - 1.

    Returns
    -------
    Tensor
        ``(batch, ..., features)``.

    Raises
    ------
    ValueError
        If the batches differ.

    Examples
    --------
    >>> group(torch.tensor([[[5.0], [6.0], [7.0]]]), torch.tensor([[[2, 0]]])).tolist()
    [[[[7.0], [5.0]]]]
    """
    if values.dim() != 3 or len(values) != len(indices):
        raise ValueError(
            f"Argument `indices` must have one row for each of the clouds, but got {len(indices)} rows for values of shape "
            f"{tuple(values.shape)}; do pass (batch, points, features) and (batch, ...)."
        )
    flat = indices.reshape(len(indices), -1, 1).expand(-1, -1, values.shape[2])
    return values.gather(1, flat).reshape(*indices.shape, values.shape[2])


def interpolate_features(
    points: Clouds, centers: Centers, features: Float32[Tensor, "batch centers features"], *, backend: Backend | None = None
) -> Features:
    """Carry features from centers to points: the mean of the 3 nearest centers, weighted by the inverse squared distance.

    Parameters
    ----------
    points
        Where features are wanted, ``(batch, points, axes)`` float32.
    centers
        Where they are known, ``(batch, centers, axes)`` float32; with fewer than 3, all of them count.
    features
        ``(batch, centers, features)`` float32; gradients flow back to them.
    backend
        ``"numba"`` (the default on the CPU) or ``"torch"`` (elsewhere); the neighbors are the same.

    Returns
    -------
    Tensor
        ``(batch, points, features)``.

    Raises
    ------
    ValueError
        If a tensor does not fit or is not finite, or there is no center.

    Examples
    --------
    >>> centers = torch.tensor([[[0.0], [1.0]]])
    >>> interpolate_features(torch.tensor([[[0.5], [0.0]]]), centers, torch.tensor([[[2.0], [4.0]]])).flatten().round().tolist()
    [3.0, 2.0]
    """
    _check_clouds("points", points)
    _check_clouds("centers", centers)
    _check_fits("centers", centers, points)
    if centers.shape[1] == 0 or features.shape[:2] != centers.shape[:2]:
        raise ValueError(
            f"Argument `features` must have one row for each of at least 1 center, but got {tuple(features.shape)} for centers of shape "
            f"{tuple(centers.shape)}; do pass (batch, centers, features)."
        )
    nearest, squared = _nearest(points, centers, backend)
    weights = 1.0 / (squared + float(_SMALLEST))
    weights = weights / weights.sum(2, keepdim=True)
    return (group(features, nearest) * weights.unsqueeze(3)).sum(2)


def _nearest(points: Tensor, centers: Tensor, backend: Backend | None) -> tuple[Tensor, Tensor]:
    count = min(_NEAREST, centers.shape[1])
    if not use_numba(points.device, backend):
        squared = _squared_distances(points, centers)
        order = torch.sort(squared, dim=2, stable=True)
        return order.indices[..., :count], order.values[..., :count]
    found = torch.empty(*points.shape[:2], count, dtype=torch.int64)
    distances = torch.empty(*points.shape[:2], count, dtype=torch.float32)
    _nearest_loop(points.detach().contiguous().numpy(), centers.detach().contiguous().numpy(), found.numpy(), distances.numpy())
    return found, distances


@njit(cache=True, nogil=True, error_model="numpy")
def _farthest(clouds: npt.NDArray[np.float32], chosen: npt.NDArray[np.int64], first: int, last: int) -> None:
    """Clouds are (batch, axes, points), so that each axis is one run of numbers."""
    axes = clouds.shape[1]
    total = clouds.shape[2]
    nearest = np.empty(total, np.float32)
    # Bits of floats that are not negative are in the order of the numbers, and integers may be compared in any order: SIMD code.
    ranks = nearest.view(np.int32)
    squared = np.empty(total, np.float32)
    for cloud in range(first, last):
        for point in range(total):
            nearest[point] = _INFINITE
        latest = 0
        for place in range(chosen.shape[1]):
            chosen[cloud, place] = latest
            for axis in range(axes):
                line = clouds[cloud, axis]
                middle = line[latest]
                if axis == 0:
                    for point in range(total):
                        away = line[point] - middle
                        squared[point] = away * away
                else:
                    for point in range(total):
                        away = line[point] - middle
                        squared[point] += away * away
            for point in range(total):
                nearest[point] = min(nearest[point], squared[point])
            largest = np.int32(-1)
            for point in range(total):
                largest = max(largest, ranks[point])
            latest = 0
            while ranks[latest] != largest:
                latest += 1


@njit(cache=True, nogil=True, parallel=True)
def _farthest_parallel(clouds: npt.NDArray[np.float32], chosen: npt.NDArray[np.int64], workers: int) -> None:
    batch = clouds.shape[0]
    for worker in prange(workers):
        _farthest(clouds, chosen, worker * batch // workers, (worker + 1) * batch // workers)


@njit(cache=True, nogil=True, error_model="numpy")
def _ball(
    clouds: npt.NDArray[np.float32],
    centers: npt.NDArray[np.float32],
    limit: np.float32,
    found: npt.NDArray[np.int64],
    first: int,
    last: int,
) -> None:
    axes = clouds.shape[1]
    total = clouds.shape[2]
    wanted = found.shape[2]
    squared = np.empty(total, np.float32)
    for cloud in range(first, last):
        for center in range(centers.shape[1]):
            for axis in range(axes):
                line = clouds[cloud, axis]
                middle = centers[cloud, center, axis]
                if axis == 0:
                    for point in range(total):
                        away = line[point] - middle
                        squared[point] = away * away
                else:
                    for point in range(total):
                        away = line[point] - middle
                        squared[point] += away * away
            place = found[cloud, center]
            count = 0
            for point in range(total):
                if squared[point] <= limit:
                    place[count] = point
                    count += 1
                    if count == wanted:
                        break
            if count == 0:
                nearest = 0
                for point in range(total):
                    if squared[point] < squared[nearest]:
                        nearest = point
                place[0] = nearest
                count = 1
            for rest in range(count, wanted):
                place[rest] = place[0]


@njit(cache=True, nogil=True, parallel=True)
def _ball_parallel(
    clouds: npt.NDArray[np.float32], centers: npt.NDArray[np.float32], limit: np.float32, found: npt.NDArray[np.int64], workers: int
) -> None:
    batch = clouds.shape[0]
    for worker in prange(workers):
        _ball(clouds, centers, limit, found, worker * batch // workers, (worker + 1) * batch // workers)


@njit(cache=True, nogil=True, error_model="numpy")
def _nearest_loop(
    points: npt.NDArray[np.float32],
    centers: npt.NDArray[np.float32],
    found: npt.NDArray[np.int64],
    distances: npt.NDArray[np.float32],
) -> None:
    count = found.shape[2]
    for cloud in range(points.shape[0]):
        for point in range(points.shape[1]):
            place = found[cloud, point]
            best = distances[cloud, point]
            for k in range(count):
                best[k] = _INFINITE
                place[k] = 0
            for center in range(centers.shape[1]):
                squared = np.float32(0.0)
                for axis in range(points.shape[2]):
                    away = points[cloud, point, axis] - centers[cloud, center, axis]
                    squared += away * away
                if squared < best[count - 1]:
                    k = count - 1
                    while k > 0 and squared < best[k - 1]:
                        best[k] = best[k - 1]
                        place[k] = place[k - 1]
                        k -= 1
                    best[k] = squared
                    place[k] = center


@torch.no_grad()
def _squared_distances(points: Tensor, centers: Tensor) -> Tensor:
    """Return ``(batch, points, centers)``, added axis by axis."""
    total: Tensor | None = None
    for axis in range(points.shape[2]):
        away = (points[:, :, None, axis] - centers[:, None, :, axis]).square()
        total = away if total is None else total + away
    assert total is not None
    return total


@torch.no_grad()
def _farthest_torch(points: Tensor, count: int) -> Tensor:
    batch, total, _ = points.shape
    chosen = torch.empty(batch, count, dtype=torch.int64, device=points.device)
    nearest = torch.full((batch, total), torch.inf, device=points.device)
    latest = torch.zeros(batch, dtype=torch.int64, device=points.device)
    rows = torch.arange(batch, device=points.device)
    places = torch.arange(total, device=points.device)
    for place in range(count):
        chosen[:, place] = latest
        squared = _squared_distances(points, points[rows, latest].unsqueeze(1)).squeeze(2)
        nearest = torch.minimum(nearest, squared)
        ties = nearest == nearest.amax(1, keepdim=True)
        latest = torch.where(ties, places, total).amin(1)
    return chosen


@torch.no_grad()
def _ball_torch(points: Tensor, centers: Tensor, limit: float, neighbors: int) -> Tensor:
    squared = _squared_distances(centers, points)
    total = points.shape[1]
    places = torch.arange(total, device=points.device).expand(squared.shape)
    within = torch.where(squared <= limit, places, total)
    first = torch.topk(within, neighbors, dim=2, largest=False, sorted=True).values
    lowest = first[..., :1]
    nearest = torch.where(squared == squared.amin(2, keepdim=True), places, total).amin(2, keepdim=True)
    lowest = torch.where(lowest == total, nearest, lowest)
    return torch.where(first == total, lowest, first)


def _check_clouds(name: str, points: Tensor) -> None:
    if not isinstance(points, Tensor) or points.dtype != torch.float32 or points.dim() != 3 or points.shape[1] == 0 or points.shape[2] == 0:
        got = f"{points.dtype} of shape {tuple(points.shape)}" if isinstance(points, Tensor) else type(points).__name__
        raise ValueError(f"Argument `{name}` must be float32 of shape (batch, points, axes), but got {got}; do reshape or convert it.")
    if not bool(torch.isfinite(points).all()):
        raise ValueError(f"Argument `{name}` must be finite, but got nan or inf; do check what it is made from.")


def _check_fits(name: str, centers: Tensor, points: Tensor) -> None:
    if (len(centers), centers.shape[2], centers.device) != (len(points), points.shape[2], points.device):
        raise ValueError(
            f"Argument `{name}` must have the batch, axes and device of `points`, {tuple(points.shape)} on {points.device}, "
            f"but got {tuple(centers.shape)} on {centers.device}; do move or reshape it."
        )


def _check_whole(name: str, value: int, most: int, what: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise ValueError(f"Argument `{name}` must be an integer from 1 to the number of {what}, {most}, but got {value!r}; do lower it.")
