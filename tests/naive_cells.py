"""The slow, obvious twins of the loops over cells, and an independent solver of the incremental one."""

import math

import numpy as np


def write_verify(
    target: list[np.float32], step: float, sigma: float, tolerance: float, noise: list[np.ndarray], start: list[float], most: int
) -> tuple[list[np.float32], list[int]]:
    """Return values and pulses, cell by cell; `noise` holds one array of standard normals for each pulse."""
    values, counts = [], []
    size, spread, limit = np.float32(step), np.float32(sigma), np.float32(tolerance)
    for cell, goal in enumerate(target):
        value, pulses = np.float32(start[cell]), 0
        while abs(goal - value) > limit and pulses < most:
            value = value + (size if goal > value else -size)
            value = value + spread * noise[pulses][cell]
            pulses += 1
        values.append(value)
        counts.append(pulses)
    return values, counts


def redraw(
    target: list[np.float32], sigma: float, tolerance: float, noise: list[np.ndarray], most: int
) -> tuple[list[np.float32], list[int]]:
    values, counts = [], []
    for cell, goal in enumerate(target):
        for write in range(most):
            value = goal + np.float32(sigma) * noise[write][cell]
            if abs(goal - value) <= np.float32(tolerance):
                break
        values.append(value)
        counts.append(write + 1)
    return values, counts


def expected_course(step: float, sigma: float, tolerance: float, grid: int = 4000) -> tuple[float, float]:
    """Return mean pulses and residual deviation of incremental write-verify from 0 to a target that is uniform in 0..1.

    The error of a cell is a Markov chain on the line: e -> e - sign(e) step + N(0, sigma^2) until abs(e) <= tolerance. Its density is
    propagated on a grid of cells, exactly but for the grid; nothing is drawn.
    """
    low, high = -0.6, 1.1
    width = (high - low) / grid
    errors = low + width * (np.arange(grid) + 0.5)
    density = ((errors > 0) & (errors < 1)).astype(float) * width
    density /= density.sum()
    inside = np.abs(errors) <= tolerance
    reach = math.ceil(6 * sigma / width)
    offsets = np.arange(-reach, reach + 1)
    upper = (offsets + 0.5) * width / sigma / math.sqrt(2)
    lower = (offsets - 0.5) * width / sigma / math.sqrt(2)
    kernel = np.array([0.5 * (math.erf(b) - math.erf(a)) for a, b in zip(lower, upper, strict=True)])
    kernel /= kernel.sum()
    shift = round(step / width)
    settled = np.where(inside, density, 0.0)
    moving = np.where(inside, 0.0, density)
    pulses = 0.0
    while moving.sum() > 1e-9:
        pulses += moving.sum()
        down = np.where(errors > 0, moving, 0.0)
        up = np.where(errors <= 0, moving, 0.0)
        stepped = np.roll(down, -shift) + np.roll(up, shift)
        spread = np.convolve(stepped, kernel, mode="same")
        settled += np.where(inside, spread, 0.0)
        moving = np.where(inside, 0.0, spread)
    return pulses, math.sqrt(float((settled * errors**2).sum() / settled.sum()))
