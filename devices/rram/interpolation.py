"""Tables and bounded draws that several cells share."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

_SURELY_POSITIVE = 7.0
"""Standard deviations above zero from which no draw of `kernels.random.normal` (at most 6.66) falls below zero."""
_LOWEST = -30.0
"""Standard deviations below zero up to which a conditional draw stays representable in float64."""


def interpolate(at: Tensor, points: Sequence[float], values: Sequence[float]) -> Tensor:
    """Interpolate a table linearly; beyond its ends the nearest value holds.

    Parameters
    ----------
    at
        Where to read the table, any shape.
    points, values
        The table, points rising, at least two.

    Returns
    -------
    Tensor
        The values, of the shape and dtype of `at`.

    Examples
    --------
    >>> interpolate(torch.tensor([0.0, 1.5]), (1.0, 2.0), (10.0, 20.0))
    tensor([10., 15.])
    """
    table = at.new_tensor(values)
    index, share = locate(at, points)
    return table[index] * (1 - share) + table[index + 1] * share


def locate(at: Tensor, points: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Return the interval of a rising table that each element lies in, and its place in it from 0 to 1; the ends hold outside.

    Examples
    --------
    >>> locate(torch.tensor([2.5]), (1.0, 2.0, 4.0))
    (tensor([1]), tensor([0.2500]))
    """
    grid = at.new_tensor(points)
    index = torch.bucketize(at, grid[1:-1], right=True)
    share = ((at - grid[index]) / (grid[index + 1] - grid[index])).clamp(0, 1)
    return index, share


def above_zero(mean: Tensor, sigma: Tensor, standard: Tensor) -> Tensor:
    """Turn standard normal numbers into draws of N(mean, sigma^2) given that they are not negative.

    The law is that of redrawing what falls below zero, but each number stays a continuous, rising function of its own standard
    normal one, so that a fluctuation which persists in time keeps its course where the mean comes near zero.

    Parameters
    ----------
    mean, sigma
        Mean and standard deviation before the condition, one unit; sigma at least 0.
    standard
        Standard normal numbers.

    Returns
    -------
    Tensor
        Numbers of at least 0, in the unit of `mean`: mean + sigma standard wherever the mean is seven sigma above zero.

    Examples
    --------
    >>> above_zero(torch.tensor([9.0, 0.0]), torch.tensor([1.0, 1.0]), torch.tensor([-1.0, 0.0]))
    tensor([8.0000, 0.6745])
    """
    mean, sigma, standard = torch.broadcast_tensors(mean, sigma, standard)
    drawn = mean + sigma * standard
    near = mean < _SURELY_POSITIVE * sigma
    if bool(near.any()):
        center, width = mean[near].double(), sigma[near].double()
        share = _below((center / width).clamp(min=_LOWEST))
        conditional = center - width * torch.special.ndtri(_below(-standard[near].double()) * share)
        drawn[near] = conditional.to(drawn.dtype)
    return drawn.clamp(min=0)


def _below(standard: Tensor) -> Tensor:
    """Return the normal distribution function; `torch.special.ndtr` is zero from nine standard deviations below."""
    return torch.erfc(standard * -math.sqrt(0.5)) / 2


def must_rise(name: str, values: Sequence[float]) -> None:
    """Raise a one-line ValueError about the field `name` unless its values rise strictly.

    Examples
    --------
    >>> must_rise("at_siemens", (1.0, 1.0))
    Traceback (most recent call last):
    ValueError: `at_siemens` must rise from value to value, but got 1.0 after 1.0; sort it and drop repetitions
    """
    for low, high in pairwise(values):
        if high <= low:
            raise ValueError(f"`{name}` must rise from value to value, but got {high} after {low}; sort it and drop repetitions")
