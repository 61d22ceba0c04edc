"""Wire resistance of crossbars with nonlinear cells: Newton's method on the voltages of the cells.

The wires are linear, so the voltages across the cells are ``v = v0 - Z i``: v0 those without wires, i the currents of the cells, and Z the
wires' resistance, which two sums along each wire apply without a matrix. With the law ``i = f(v)`` that leaves ``v - v0 + Z f(v) = 0``.
Each Newton step is a linear system ``1 + D^(1/2) Z D^(1/2)`` with D the slopes of the law, symmetric with eigenvalues from 1, that
conjugate gradients solve in the few steps that weak wires need; ideal wires need none.
"""

import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from kernels.wires import Array, _checked_cells, _checked_inputs, _like, _Wires

Doubles = npt.NDArray[np.float64]
Law = Callable[[Doubles, Doubles], tuple[Doubles, Doubles]]
"""From voltages in volts and conductances in siemens, arrays of one shape, to currents in ampere and their slopes in siemens."""

_INNER_TOLERANCE: Final = 1e-8
_INNER_STEPS: Final = 5000
_HALVINGS: Final = 40
_STRIP: Final = 8
"""Rows that are transposed together: a cache line of float64."""
_LINEAR_BELOW: Final = 1e-9


class NonlinearSolution(NamedTuple):
    """Column currents of a crossbar with nonlinear cells, and how they were found.

    Attributes
    ----------
    currents
        In ampere, (batch, columns) or (tiles, batch, columns).
    iterations
        Newton steps of each input, int64 (batch,) or (tiles, batch): the network is solved in full at each.
    """

    currents: Any
    iterations: npt.NDArray[np.int64]


def sinh_law(per_volt: float) -> Law:
    """Return the law ``i = g sinh(k v) / k`` of a cell with small-signal conductance g, for `solve_nonlinear`.

    Parameters
    ----------
    per_volt
        k in 1/volt, at least 0; 0 for a linear cell.

    Returns
    -------
    Callable
        From voltages and conductances to currents and slopes, ``g cosh(k v)``.

    Raises
    ------
    ValueError
        If `per_volt` is negative or not finite.

    Examples
    --------
    >>> import numpy as np
    >>> current, slope = sinh_law(2.0)(np.array([0.5]), np.array([1e-6]))
    >>> print(current, slope)
    [5.87600597e-07] [1.54308063e-06]
    """
    if not 0.0 <= per_volt < math.inf:
        raise ValueError(f"Argument `per_volt` must be finite and at least 0, but got {per_volt}; do pass 0 for a linear cell.")

    def law(voltage: Doubles, conductance: Doubles) -> tuple[Doubles, Doubles]:
        if per_volt < _LINEAR_BELOW:
            return conductance * voltage, conductance + np.zeros_like(voltage)
        bent = per_volt * voltage
        return conductance * (np.sinh(bent) / per_volt), conductance * np.cosh(bent)

    return law


def solve_nonlinear(
    conductance: Array,
    inputs: Array,
    row_ohm: float,
    column_ohm: float,
    source_ohm: float = 0.0,
    sense_ohm: float = 0.0,
    *,
    law: Law,
    tolerance: float = 1e-10,
    max_iterations: int = 100,
) -> NonlinearSolution:
    """Return the column currents of a crossbar with resistive wires and nonlinear cells, solved anew for each input.

    Newton's method with step halving, from zero. It runs on the CPU, wherever the arrays are.

    Parameters
    ----------
    conductance
        Conductances that the law scales with, in siemens, at least 0, (rows, columns) or (tiles, rows, columns).
    inputs
        Row voltages, (batch, rows), or (tiles, batch, rows) with tiles.
    row_ohm, column_ohm, source_ohm, sense_ohm
        As in `effective_matrix`.
    law
        ``law(voltage, conductance)`` returns current and slope of each cell, for float64 arrays of one shape. The slope must be finite and
        at least 0. `sinh_law` makes one.
    tolerance
        Largest error of Kirchhoff's laws that is left, in volts across a cell over the largest input voltage.
    max_iterations
        Newton steps after which an input counts as not converged.

    Returns
    -------
    NonlinearSolution
        `currents`, of the kind of `conductance`, and `iterations`.

    Raises
    ------
    ValueError
        If an array, a resistance, `tolerance` or `max_iterations` is out of range, or the law returns another shape or a slope that is
        negative or not finite.
    RuntimeError
        If an input does not converge.

    Examples
    --------
    >>> import numpy as np
    >>> found = solve_nonlinear(np.full((2, 1), 1e-3), np.array([[0.5, 1.0]]), 0.0, 0.0, law=sinh_law(1.0))
    >>> found.currents
    array([[0.0016963]])
    """
    wires = _Wires(row_ohm, column_ohm, source_ohm, sense_ohm)
    if not 0.0 < tolerance < 1.0:
        raise ValueError(f"Argument `tolerance` must be above 0 and below 1, but got {tolerance}; do leave it at 1e-10.")
    if max_iterations < 1:
        raise ValueError(f"Argument `max_iterations` must be at least 1, but got {max_iterations}; do leave it at 100.")
    cells = _checked_cells(conductance)
    drivers = _checked_inputs(inputs, conductance, cells)
    row_segments, column_segments = (segments.cpu().numpy() for segments in wires.segments(cells))
    tiles, _, columns = cells.shape
    batch = drivers.shape[1]
    currents, iterations = np.empty((tiles, batch, columns)), np.empty((tiles, batch), np.int64)
    for tile in range(tiles):
        solver = _Solver(cells[tile].cpu().contiguous().numpy(), row_segments, column_segments, law)
        for index, one in enumerate(drivers[tile].cpu().numpy()):
            currents[tile, index], iterations[tile, index] = solver.run(one, tolerance, max_iterations)
    lead = tuple(conductance.shape[:-2])
    return NonlinearSolution(
        _like(cells.new_tensor(currents).reshape(*lead, batch, columns), conductance), iterations.reshape(*lead, batch)
    )


class _Solver:
    """One array, one input at a time: inputs do not depend on what else is in the batch."""

    def __init__(self, conductance: Doubles, row_segments: Doubles, column_segments: Doubles, law: Law) -> None:
        self.conductance, self.law = conductance, law
        self.row_segments, self.column_segments = row_segments, column_segments

    def run(self, inputs: Doubles, tolerance: float, max_iterations: int) -> tuple[Doubles, int]:
        """Return the column currents of one input, (rows,), and the Newton steps that it took."""
        ideal = np.ascontiguousarray(np.broadcast_to(inputs[:, None], self.conductance.shape))
        goal = tolerance * float(np.abs(inputs).max())
        # From below, because the slopes of a steep law at the full voltage would hide the wires in rounding.
        voltage = np.zeros_like(ideal)
        current, slope, residual = self.evaluated(voltage, ideal)
        for iteration in range(max_iterations):
            if np.abs(residual).max() <= goal:
                return current.sum(0), iteration
            step = self.newton_step(slope, residual)
            before = float(np.square(residual).sum())
            for _ in range(_HALVINGS):
                current, slope, residual = self.evaluated(voltage + step, ideal)
                if np.square(residual).sum() < before or np.abs(residual).max() <= goal:
                    break
                step *= 0.5
            else:
                raise RuntimeError(
                    f"A Newton step must reduce the error, but none of {_HALVINGS} lengths does, from {math.sqrt(before):.1e} V "
                    f"for inputs up to {np.abs(inputs).max():g} V; do check that the slopes of `law` are its derivative."
                )
            voltage = voltage + step
        if np.abs(residual).max() <= goal:
            return current.sum(0), max_iterations
        raise RuntimeError(
            f"Newton's method must converge within `max_iterations` = {max_iterations}, but left an error of "
            f"{np.abs(residual).max():.1e} V for inputs up to {np.abs(inputs).max():g} V; "
            "do raise `max_iterations` or `tolerance`, or lower the inputs or the resistances."
        )

    def evaluated(self, voltage: Doubles, ideal: Doubles) -> tuple[Doubles, Doubles, Doubles]:
        """Return currents, slopes and the residual in volts, infinite where the law overflows."""
        # A step that is too long overflows an exponential law: it is then halved, as any that increases the residual.
        with np.errstate(over="ignore", invalid="ignore"):
            current, slope = self.law(voltage, self.conductance)
        if np.shape(current) != voltage.shape or np.shape(slope) != voltage.shape:
            raise ValueError(
                f"Argument `law` must return two arrays of the shape {voltage.shape} it gets, but got {np.shape(current)} and "
                f"{np.shape(slope)}; do compute both for each cell."
            )
        if (slope < 0).any():
            raise ValueError(f"Argument `law` must return slopes of at least 0, but got {np.nanmin(slope):g}; do pass an increasing law.")
        if not (np.isfinite(current).all() and np.isfinite(slope).all()):
            return current, slope, np.full_like(voltage, np.inf)
        residual = voltage - ideal
        _add_drops(np.ascontiguousarray(current), self.row_segments, self.column_segments, residual)
        return current, slope, residual

    def newton_step(self, slope: Doubles, residual: Doubles) -> Doubles:
        """Solve (1 + Z D) step = -residual."""
        root = np.sqrt(slope)
        solved = np.zeros_like(root)
        if not _conjugate_gradients(
            root, -root * residual, self.row_segments, self.column_segments, _INNER_TOLERANCE, _INNER_STEPS, solved
        ):
            raise RuntimeError(
                f"The linear system of a Newton step must converge within {_INNER_STEPS} steps of conjugate gradients, but did not for "
                f"slopes up to {slope.max():g} S; do lower the inputs or the resistances."
            )
        step = residual.copy()
        _add_drops(root * solved, self.row_segments, self.column_segments, step)
        return np.negative(step, out=step)


@njit(cache=True, nogil=True, error_model="numpy")
def _add_drops(current: Doubles, row_segments: Doubles, column_segments: Doubles, drop: Doubles) -> None:
    """Add to `drop` the voltage that the wires lose on the way to and from each cell."""
    rows, columns = current.shape
    # A wire is a sum from its far end for the currents of its segments, and one back for the voltages: all wires side by side, in SIMD.
    flowing = np.empty((columns, rows))
    for first in range(0, rows, _STRIP):
        last = min(first + _STRIP, rows)
        for column in range(columns):
            for row in range(first, last):
                flowing[column, row] = current[row, column]
    _sum_along(flowing, row_segments)
    for first in range(0, rows, _STRIP):
        last = min(first + _STRIP, rows)
        for column in range(columns):
            for row in range(first, last):
                drop[row, column] += flowing[column, row]
    gathered = current[::-1].copy()
    _sum_along(gathered, column_segments)
    for row in range(rows):
        back = gathered[rows - 1 - row]
        for column in range(columns):
            drop[row, column] += back[column]


@njit(cache=True, nogil=True, error_model="numpy")
def _sum_along(wires: Doubles, segments: Doubles) -> None:
    """Replace the currents into cells, (position from the end that is driven, wire), by the voltages lost on the way there."""
    length, count = wires.shape
    for position in range(length - 2, -1, -1):
        line, further = wires[position], wires[position + 1]
        for wire in range(count):
            line[wire] += further[wire]
    for position in range(length):
        line = wires[position]
        for wire in range(count):
            line[wire] *= segments[position]
        if position > 0:
            nearer = wires[position - 1]
            for wire in range(count):
                line[wire] += nearer[wire]


@njit(cache=True, nogil=True, error_model="numpy")
def _conjugate_gradients(
    root: Doubles, wanted: Doubles, row_segments: Doubles, column_segments: Doubles, tolerance: float, steps: int, solved: Doubles
) -> bool:
    """Solve (1 + root Z root) solved = wanted from zero; `wanted` becomes the residual. Returns whether it converged."""
    rows, columns = root.shape
    direction = wanted.copy()
    current = np.empty_like(root)
    product = np.empty_like(root)
    partial = np.zeros(columns)  # sums by column, because the terms of one sum cannot be added in SIMD
    for row in range(rows):
        residuals = wanted[row]
        for column in range(columns):
            partial[column] += residuals[column] * residuals[column]
    square = partial.sum()
    goal = square * tolerance * tolerance
    for _ in range(steps):
        if square <= goal:
            return True
        for row in range(rows):
            roots, along, flow = root[row], direction[row], current[row]
            for column in range(columns):
                flow[column] = roots[column] * along[column]
        product[:, :] = 0.0
        _add_drops(current, row_segments, column_segments, product)
        partial[:] = 0.0
        for row in range(rows):
            roots, along, applied = root[row], direction[row], product[row]
            for column in range(columns):
                applied[column] = along[column] + roots[column] * applied[column]
                partial[column] += along[column] * applied[column]
        length = square / partial.sum()
        partial[:] = 0.0
        for row in range(rows):
            along, applied, residuals, sums = direction[row], product[row], wanted[row], solved[row]
            for column in range(columns):
                sums[column] += length * along[column]
                residuals[column] -= length * applied[column]
                partial[column] += residuals[column] * residuals[column]
        before = square
        square = partial.sum()
        ratio = square / before
        for row in range(rows):
            along, residuals = direction[row], wanted[row]
            for column in range(columns):
                along[column] = residuals[column] + ratio * along[column]
    return bool(square <= goal)
