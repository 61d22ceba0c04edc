"""Designs that no other beats: the Pareto front, what it encloses, and how sure it is."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Costs = npt.NDArray[np.float64]
"""A row per design, a column per goal; less is better."""


def non_dominated(costs: Costs) -> npt.NDArray[np.bool_]:
    """Return which designs no other beats: none is at least as good in every goal and better in one.

    Parameters
    ----------
    costs
        (designs, goals), less is better.

    Returns
    -------
    numpy.ndarray
        True for the front; equal designs are on it together.

    Examples
    --------
    >>> non_dominated(np.array([[1.0, 2.0], [2.0, 1.0], [2.0, 2.0]])).tolist()
    [True, True, False]
    """
    found = np.zeros(len(costs), dtype=bool)
    order = np.lexsort(costs.T[::-1])
    if costs.shape[1] == 2 and len(costs):
        first, second = costs[order].T
        best = np.minimum.accumulate(second)
        # In this order a design is beaten by one before it alone: by a smaller second cost, or an equal one at a smaller first.
        before = np.concatenate([[np.inf], best[:-1]])
        leader = np.maximum.accumulate(np.where(second < before, np.arange(len(order)), 0))
        found[order] = (second < before) | ((second == best) & (first == first[leader]))
        return found
    front, kept = np.empty_like(costs), 0
    for index in order:
        point = costs[index]
        beaten = (front[:kept] <= point).all(axis=1) & (front[:kept] < point).any(axis=1)
        if not beaten.any():
            found[index] = True
            front[kept] = point
            kept += 1
    return found


def hypervolume(costs: Costs, reference: Sequence[float] | Costs) -> float:
    """Return the volume that designs dominate, up to a reference.

    Parameters
    ----------
    costs
        (designs, goals), less is better.
    reference
        The worst that counts, one value per goal; designs beyond it add nothing.

    Returns
    -------
    float
        The volume, by slicing along the last goal (exact for any number of goals).

    Examples
    --------
    >>> hypervolume(np.array([[1.0, 2.0], [2.0, 1.0]]), [3.0, 3.0])
    3.0
    """
    worst = np.asarray(reference, dtype=np.float64)
    if costs.ndim != 2 or worst.shape != (costs.shape[1],):
        raise ValueError(f"Argument `reference` must have one value per goal, but got {worst.shape} for costs of shape {costs.shape}")
    inside = costs[(costs < worst).all(axis=1)]
    return _volume(inside[non_dominated(inside)], worst) if len(inside) else 0.0


def _volume(front: Costs, worst: Costs) -> float:
    if front.shape[1] == 1:
        return float(worst[0] - front[:, 0].min())
    if front.shape[1] == 2:
        order = np.argsort(front[:, 0])
        xs, ys = front[order, 0], np.minimum.accumulate(front[order, 1])
        return float(((np.append(xs[1:], worst[0]) - xs) * (worst[1] - ys)).sum())
    order = np.argsort(front[:, -1])
    heights = np.append(front[order, -1], worst[-1])
    total = 0.0
    for count in range(1, len(front) + 1):
        height = heights[count] - heights[count - 1]
        if height > 0:
            below = front[order[:count], :-1]
            total += height * _volume(below[non_dominated(below)], worst[:-1])
    return total


def improvement(candidates: Costs, front: Costs, worst: Costs) -> npt.NDArray[np.float64]:
    """Return how much hypervolume each candidate would add to a front of two goals.

    Parameters
    ----------
    candidates
        (candidates, 2).
    front
        (designs, 2).
    worst
        (2,) reference.

    Examples
    --------
    >>> improvement(np.array([[0.0, 0.0], [2.0, 2.0]]), np.array([[1.0, 1.0]]), np.array([2.0, 2.0])).tolist()
    [3.0, 0.0]
    """
    kept = front[(front < worst).all(axis=1)]
    kept = kept[non_dominated(kept)] if len(kept) else kept
    order = np.argsort(kept[:, 0])
    lefts = np.concatenate([[-np.inf], kept[order, 0]])
    rights = np.concatenate([kept[order, 0], [worst[0]]])
    tops = np.concatenate([[worst[1]], kept[order, 1]])
    widths = np.clip(rights[None] - np.maximum(lefts[None], candidates[:, :1]), 0, None)
    heights = np.clip(tops[None] - candidates[:, 1:], 0, None)
    return np.asarray((widths * heights).sum(axis=1), dtype=np.float64)
