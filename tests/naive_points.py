"""The slow, obvious twins of the kernels on clouds of points: one cloud, plain Python lists."""

import numpy as np

Point = list[float]


def squared_distance(a: Point, b: Point) -> np.float32:
    total = np.float32(0)
    for x, y in zip(a, b, strict=True):
        total = total + (np.float32(x) - np.float32(y)) ** 2
    return total


def farthest_points(points: list[Point], count: int) -> list[int]:
    chosen = [0]
    while len(chosen) < count:
        nearest = [min(squared_distance(point, points[one]) for one in chosen) for point in points]
        chosen.append(nearest.index(max(nearest)))
    return chosen


def ball_query(points: list[Point], center: Point, radius: float, neighbors: int) -> list[int]:
    distances = [squared_distance(center, point) for point in points]
    within = [index for index, distance in enumerate(distances) if distance <= np.float32(radius) * np.float32(radius)]
    found = within[:neighbors] or [distances.index(min(distances))]
    return found + [found[0]] * (neighbors - len(found))


def interpolate_features(point: Point, centers: list[Point], features: list[list[float]]) -> list[float]:
    distances = [float(squared_distance(point, center)) for center in centers]
    nearest = sorted(range(len(centers)), key=lambda index: (distances[index], index))[:3]
    weights = [1 / (distances[index] + 1e-8) for index in nearest]
    return [
        sum(weight * features[index][column] for weight, index in zip(weights, nearest, strict=True)) / sum(weights)
        for column in range(len(features[0]))
    ]
