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

_VOLTAGES_AT_ONCE: Final = 2**20
_LANES: Final = 8
"""Inputs that conjugate gradients take together: one vector register of float64."""
_INNER_TOLERANCE: Final = 1e-9
_INNER_STEPS: Final = 5000
_HALVINGS: Final = 40
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

    Newton's method with step halving, from the voltages without wires. It runs on the CPU, wherever the arrays are.

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
    column_segments = column_segments[::-1].copy()  # from the top to the sense node
    tiles, rows, columns = cells.shape
    batch = drivers.shape[1]
    currents, iterations = cells.new_empty(tiles, batch, columns), np.empty((tiles, batch), np.int64)
    step = _LANES * max(1, _VOLTAGES_AT_ONCE // (_LANES * rows * columns))
    for tile in range(tiles):
        conductances = cells[tile].cpu().numpy()
        for start in range(0, batch, step):
            part = slice(start, start + step)
            solver = _Solver(conductances, drivers[tile, part].cpu().numpy(), row_segments, column_segments, law)
            found, iterations[tile, part] = solver.run(tolerance, max_iterations)
            currents[tile, part] = cells.new_tensor(found)
    lead = tuple(conductance.shape[:-2])
    return NonlinearSolution(_like(currents.reshape(*lead, batch, columns), conductance), iterations.reshape(*lead, batch))


class _Solver:
    """One chunk of inputs on one array; everything is (rows, columns, inputs), so that inputs share vector registers."""

    def __init__(self, conductance: Doubles, inputs: Doubles, row_segments: Doubles, column_segments: Doubles, law: Law) -> None:
        self.ideal = np.ascontiguousarray(np.broadcast_to(inputs.T[:, None, :], (*conductance.shape, len(inputs))))
        self.conductance = np.ascontiguousarray(np.broadcast_to(conductance[:, :, None], self.ideal.shape))
        self.row_segments, self.column_segments, self.law = row_segments, column_segments, law

    def evaluated(self, voltage: Doubles, chosen: npt.NDArray[np.intp]) -> tuple[Doubles, Doubles, Doubles]:
        """Return currents, slopes and the residual in volts of the chosen inputs."""
        # A step that is too long overflows an exponential law: its residual is then infinite, and the step is halved.
        with np.errstate(over="ignore", invalid="ignore"):
            current, slope = self.law(voltage, self.conductance[:, :, chosen])
        if current.shape != voltage.shape or slope.shape != voltage.shape:
            raise ValueError(
                f"Argument `law` must return arrays of the shape {voltage.shape} it gets, but got {current.shape} and {slope.shape}; "
                "do compute both elementwise."
            )
        finite = np.isfinite(current).all((0, 1)) & np.isfinite(slope).all((0, 1))
        if (slope < 0).any():
            raise ValueError(f"Argument `law` must return slopes of at least 0, but got {np.nanmin(slope):g}; do pass an increasing law.")
        drop = np.zeros_like(voltage)
        _drops(np.where(finite, current, 0.0), self.row_segments, self.column_segments, drop)
        residual = voltage - self.ideal[:, :, chosen] + drop
        residual[:, :, ~finite] = np.inf
        return current, slope, residual

    def run(self, tolerance: float, max_iterations: int) -> tuple[Doubles, npt.NDArray[np.int64]]:
        """Return the column currents and Newton steps of each input."""
        rows, columns, count = self.ideal.shape
        scale = np.abs(self.ideal).max((0, 1), initial=0.0)
        active = np.arange(count)
        voltage = self.ideal.copy()
        current, slope, residual = self.evaluated(voltage, active)
        if not np.isfinite(residual).all():
            raise ValueError(
                f"Argument `law` must be finite at the inputs, up to {scale.max():g} V, but got inf or nan; do check its range and theirs."
            )
        result, steps = np.empty((columns, count)), np.zeros(count, np.int64)
        for _ in range(max_iterations + 1):
            done = np.abs(residual).max((0, 1)) <= tolerance * scale[active]
            result[:, active[done]] = current[:, :, done].sum(0)
            if done.all():
                return result.T, steps
            active, voltage, current, slope, residual = active[~done], *(x[:, :, ~done] for x in (voltage, current, slope, residual))
            if steps[active].max() >= max_iterations:
                break
            step = self.newton_step(slope, residual)
            steps[active] += 1
            voltage, current, slope, residual = self.shortened(voltage, step, slope, current, residual, active)
        worst = np.abs(residual).max((0, 1)) / scale[active]
        raise RuntimeError(
            f"Newton's method must converge within `max_iterations` = {max_iterations} steps, but {active.size} of {count} inputs are left with a "
            f"relative error of up to {worst.max():.1e}; do raise `max_iterations`, or lower the input voltages or the resistances."
        )

    def newton_step(self, slope: Doubles, residual: Doubles) -> Doubles:
        """Solve (1 + Z D) step = -residual for all inputs, by conjugate gradients on the symmetric form."""
        step = np.empty_like(residual)
        for start in range(0, residual.shape[2], _LANES):
            part = slice(start, start + _LANES)
            root = np.sqrt(slope[:, :, part])
            wanted = np.ascontiguousarray(residual[:, :, part])
            solved = np.zeros_like(root)
            if not _conjugate_gradients(
                root, -root * wanted, self.row_segments, self.column_segments, _INNER_TOLERANCE, _INNER_STEPS, solved
            ):
                raise RuntimeError(
                    f"The linear system of a Newton step must converge within {_INNER_STEPS} steps, but did not for slopes up to "
                    f"{slope.max():g} S; do lower the resistances or the conductances."
                )
            drop = np.zeros_like(root)
            _drops(root * solved, self.row_segments, self.column_segments, drop)
            step[:, :, part] = -wanted - drop
        return step

    def shortened(
        self, voltage: Doubles, step: Doubles, slope: Doubles, current: Doubles, residual: Doubles, active: npt.NDArray[np.intp]
    ) -> tuple[Doubles, Doubles, Doubles, Doubles]:
        """Halve the step of each input until its residual shrinks."""
        before = np.square(residual).sum((0, 1))
        length = np.ones(active.size)
        pending = np.arange(active.size)
        tried, current, slope, residual = voltage.copy(), current.copy(), slope.copy(), residual.copy()
        for _ in range(_HALVINGS):
            tried[:, :, pending] = voltage[:, :, pending] + length[pending] * step[:, :, pending]
            found = self.evaluated(tried[:, :, pending], active[pending])
            current[:, :, pending], slope[:, :, pending], residual[:, :, pending] = found
            after = np.square(found[2]).sum((0, 1))
            pending = pending[~(after < before[pending])]
            if not pending.size:
                break
            length[pending] /= 2.0
        return tried, current, slope, residual


@njit(cache=True, nogil=True, error_model="numpy")
def _drops(current: Doubles, row_segments: Doubles, column_segments: Doubles, drop: Doubles) -> None:
    """Add to `drop` the voltage that the wires lose on the way to and from each cell, (rows, columns, lanes)."""
    rows, columns, lanes = current.shape
    flowing = np.empty((columns, lanes))
    lost = np.empty(lanes)
    for row in range(rows):
        lost[:] = 0.0
        for column in range(columns - 1, -1, -1):
            for lane in range(lanes):
                lost[lane] += current[row, column, lane]
                flowing[column, lane] = lost[lane]
        lost[:] = 0.0
        for column in range(columns):
            for lane in range(lanes):
                lost[lane] += row_segments[column] * flowing[column, lane]
                drop[row, column, lane] += lost[lane]
    gathered = np.empty((rows, lanes))
    for column in range(columns):
        lost[:] = 0.0
        for row in range(rows):
            for lane in range(lanes):
                lost[lane] += current[row, column, lane]
                gathered[row, lane] = lost[lane]
        lost[:] = 0.0
        for row in range(rows - 1, -1, -1):
            for lane in range(lanes):
                lost[lane] += column_segments[row] * gathered[row, lane]
                drop[row, column, lane] += lost[lane]


@njit(cache=True, nogil=True, error_model="numpy")
def _conjugate_gradients(
    root: Doubles, wanted: Doubles, row_segments: Doubles, column_segments: Doubles, tolerance: float, steps: int, solved: Doubles
) -> bool:
    """Solve (1 + root Z root) solved = wanted from zero; `wanted` becomes the residual. Returns whether all lanes converged."""
    rows, columns, lanes = root.shape
    direction = wanted.copy()
    current = np.empty_like(root)
    product = np.empty_like(root)
    square = np.zeros(lanes)
    curvature = np.zeros(lanes)
    length = np.zeros(lanes)
    for row in range(rows):
        for column in range(columns):
            for lane in range(lanes):
                square[lane] += wanted[row, column, lane] ** 2
    goal = square * tolerance**2
    for _ in range(steps):
        if np.all(square <= goal):
            return True
        for row in range(rows):
            for column in range(columns):
                for lane in range(lanes):
                    current[row, column, lane] = root[row, column, lane] * direction[row, column, lane]
        product[:, :, :] = 0.0
        _drops(current, row_segments, column_segments, product)
        curvature[:] = 0.0
        for row in range(rows):
            for column in range(columns):
                for lane in range(lanes):
                    along = direction[row, column, lane]
                    applied = along + root[row, column, lane] * product[row, column, lane]
                    product[row, column, lane] = applied
                    curvature[lane] += along * applied
        for lane in range(lanes):
            # A lane that has converged stays where it is.
            length[lane] = square[lane] / curvature[lane] if square[lane] > goal[lane] else 0.0
        before = square.copy()
        square[:] = 0.0
        for row in range(rows):
            for column in range(columns):
                for lane in range(lanes):
                    solved[row, column, lane] += length[lane] * direction[row, column, lane]
                    left = wanted[row, column, lane] - length[lane] * product[row, column, lane]
                    wanted[row, column, lane] = left
                    square[lane] += left * left
        for lane in range(lanes):
            length[lane] = square[lane] / before[lane] if before[lane] > 0.0 else 0.0
        for row in range(rows):
            for column in range(columns):
                for lane in range(lanes):
                    direction[row, column, lane] = wanted[row, column, lane] + length[lane] * direction[row, column, lane]
    return bool(np.all(square <= goal))
