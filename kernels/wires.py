"""Wire resistance of crossbars with linear cells: the exact matrix of an array, and the exact variance of its read noise.

The network is solved once; afterwards every read is a matrix product. Nonlinear cells are in `kernels.wires_nonlinear`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kernels.multiport import Network, eliminate, own_row_voltages, voltages
from kernels.random import Backend, use_numba
from kernels.threads import one_thread

Array = TypeVar("Array", npt.NDArray[Any], Tensor)
"""A numpy array or a tensor, float32 or float64; what a function returns is of the same kind, dtype and device. All work is in float64."""

_CELLS_AT_ONCE: Final = 2**18
"""Cells of the tiles that are eliminated together: about 500 bytes each while they are, so 120 MB, or more for a larger tile."""
_VOLTAGES_AT_ONCE: Final = 2**21
"""Voltages across cells, of all inputs, that are held at once."""


def effective_matrix(
    conductance: Array,
    row_ohm: float,
    column_ohm: float,
    source_ohm: float = 0.0,
    sense_ohm: float = 0.0,
    *,
    backend: Backend | None = None,
) -> Array:
    """Return the exact matrix from row voltages to column currents of a crossbar with resistive wires.

    Rows are driven at column 0, and columns end in a virtual ground after the last row. Every segment has its wire's resistance, the one
    from the driver to the first cell and the one from the last cell to the sense node included. A resistance of 0 is the exact limit.

    Blocks of cells are merged as multiports (`kernels.multiport`): no iteration, no tolerance, and work that grows with
    ``(rows * columns)**1.5``: 0.09 s for 256 x 256 and 0.64 s for 512 x 512 on one thread. The error is that of rounding, 1e-12 of the
    largest element for 256 x 256. ``inloop bench speed/wires`` measures both against SciPy's sparse LU (77 to 99 times slower at 256 x 256)
    and against conjugate gradients (17 times).

    Parameters
    ----------
    conductance
        Cells in siemens, at least 0, (rows, columns) or (tiles, rows, columns).
    row_ohm, column_ohm
        Resistance of one segment of a row wire and of a column wire, in ohm, at least 0.
    source_ohm, sense_ohm
        Further resistance in ohm in series with each driver and each sense node.
    backend
        What builds the smallest blocks: ``"numba"`` (the default on the CPU) or ``"torch"`` (elsewhere); they agree to 1e-12.

    Returns
    -------
    Array
        In siemens, of the shape and kind of `conductance`: ``inputs @ matrix`` are the column currents of `inputs` in volts.

    Raises
    ------
    ValueError
        If `conductance` has another shape or dtype, or an entry that is negative or not finite; if a resistance is; if `backend` cannot
        serve the device.

    Examples
    --------
    >>> import numpy as np
    >>> cells = np.full((2, 2), 1e-3)
    >>> effective_matrix(cells, 0.0, 0.0)
    array([[0.001, 0.001],
           [0.001, 0.001]])
    >>> effective_matrix(np.array([[1e-3]]), 100.0, 100.0, source_ohm=300.0, sense_ohm=500.0)
    array([[0.0005]])
    """
    wires = _Wires(row_ohm, column_ohm, source_ohm, sense_ohm)
    cells = _checked_cells(conductance)
    compiled = use_numba(cells.device, backend)
    result = torch.empty_like(cells)
    with one_thread():
        for part in _parts(cells):
            result[part] = _eliminated(cells[part], wires, compiled, keep=False).matrix.flip(-2)
    return _like(result.reshape(tuple(conductance.shape)), conductance)


def output_variance(
    conductance: Array,
    sigma: Array | float,
    inputs: Array,
    row_ohm: float,
    column_ohm: float,
    source_ohm: float = 0.0,
    sense_ohm: float = 0.0,
    *,
    backend: Backend | None = None,
) -> Array:
    """Return the variance of each column current that independent noise of the cells causes, to first order in the noise.

    ``Var I_j = sum_i (sigma_ij a_ij)^2 u_ij^2``, with u the voltage across the cell and a that of the adjoint network, in which the
    output's own column is driven by 1 V at its sense node. What the noise of a column does to others through the row wires is left out:
    at most 0.3 % of the variance for 256 x 256 cells of 1 to 40 microsiemens at 1.86 ohm, 0.8 % at 5.6 ohm, more where the row wires take
    a larger part of the voltage.

    Parameters
    ----------
    conductance
        Cells in siemens, at least 0, (rows, columns) or (tiles, rows, columns).
    sigma
        Standard deviation of each cell in siemens, of the shape of `conductance`, or one number.
    inputs
        Row voltages, (batch, rows), or (tiles, batch, rows) with tiles.
    row_ohm, column_ohm, source_ohm, sense_ohm
        As in `effective_matrix`.
    backend
        As in `effective_matrix`.

    Returns
    -------
    Array
        In ampere^2, (batch, columns) or (tiles, batch, columns), of the kind of `conductance`.

    Raises
    ------
    ValueError
        As `effective_matrix`, and if `sigma` or `inputs` has another shape or dtype or entries that are not finite, or `sigma` is negative.

    Examples
    --------
    >>> import numpy as np
    >>> output_variance(np.full((2, 1), 1e-3), 1e-4, np.array([[1.0, 2.0]]), 0.0, 0.0)
    array([[5.e-08]])
    """
    wires = _Wires(row_ohm, column_ohm, source_ohm, sense_ohm)
    cells = _checked_cells(conductance)
    compiled = use_numba(cells.device, backend)
    spread = _checked_sigma(sigma, conductance, cells)
    drivers = _checked_inputs(inputs, conductance, cells)
    tiles, rows, columns = cells.shape
    batch = drivers.shape[1]
    result = cells.new_empty(tiles, batch, columns)
    step = max(1, _VOLTAGES_AT_ONCE // (rows * columns))
    with one_thread():
        for tile in range(tiles):
            one = cells[tile : tile + 1]
            weights = (spread[tile : tile + 1] * _adjoint_voltages(one, wires, compiled)).square_().flip(-2)
            network = _eliminated(one, wires, compiled, keep=True)
            for start in range(0, batch, step):
                found = voltages(network, drivers[tile : tile + 1, start : start + step].flip(-1).mT, compiled=compiled)
                result[tile, start : start + step] = torch.einsum("rc,rck->kc", weights[0], found[0].square_())
    return _like(result.reshape(*conductance.shape[:-2], batch, columns), conductance)


class MeanField(NamedTuple):
    """Coefficients of the variance of column currents: ``x**2 @ square + (x * m) @ cross + m**2 * constant``, m the mean of the inputs x.

    Attributes
    ----------
    square, cross
        In siemens^2, (rows, columns) or (tiles, rows, columns).
    constant
        In siemens^2, (columns,) or (tiles, columns).
    """

    square: Any
    cross: Any
    constant: Any


def mean_field(
    conductance: Array,
    sigma: Array | float,
    row_ohm: float,
    column_ohm: float,
    source_ohm: float = 0.0,
    sense_ohm: float = 0.0,
    *,
    backend: Backend | None = None,
) -> MeanField:
    """Return an approximation of `output_variance` that costs two matrix products for every batch of inputs.

    The voltage of a cell is taken as ``u_ij = p_ij x_i + q_ij mean(x)``. Of its exact expression, a sum over all rows, the response to the
    cell's own row is kept, and those to the others are replaced by their mean. That is exact if all inputs are equal, the best fit of
    this form for independent inputs of one distribution, and takes two solutions: all rows driven at once, and each row alone.

    Against `output_variance`, for 256 x 256 cells of 1 to 40 microsiemens, 1.86 ohm, sigma of 2 % of the conductance and uniform inputs
    from 0 to 1, the standard deviation is off by 0.4 % on average, 0.5 % at the worst column and 2.2 % at the worst single output (0.2, 0.2
    and 0.8 % for 64 x 64): ``inloop bench speed/wires``. The error grows where inputs differ systematically between near and far rows.

    Parameters
    ----------
    conductance, sigma, row_ohm, column_ohm, source_ohm, sense_ohm, backend
        As in `output_variance`.

    Returns
    -------
    MeanField
        `square`, `cross` and `constant`, of the kind of `conductance`.

    Raises
    ------
    ValueError
        As `output_variance`.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[1.0, 2.0]])
    >>> field = mean_field(np.full((2, 1), 1e-3), 1e-4, 0.0, 0.0)
    >>> mean = x.mean(1, keepdims=True)
    >>> x**2 @ field.square + (x * mean) @ field.cross + mean**2 * field.constant
    array([[5.e-08]])
    """
    wires = _Wires(row_ohm, column_ohm, source_ohm, sense_ohm)
    cells = _checked_cells(conductance)
    compiled = use_numba(cells.device, backend)
    spread = _checked_sigma(sigma, conductance, cells)
    rows = cells.shape[1]
    square, cross, constant = torch.empty_like(cells), torch.empty_like(cells), cells.new_empty(cells.shape[0], cells.shape[2])
    with one_thread():
        for part in _parts(cells):
            network = _eliminated(cells[part], wires, compiled, keep=True)
            together = voltages(network, cells.new_ones(len(cells[part]), rows, 1), compiled=compiled).squeeze(-1).flip(-2)
            own = own_row_voltages(network, compiled=compiled).flip(-2)
            other = (together - own) / max(rows - 1, 1)
            of_row, of_mean = own - other, rows * other
            weights = (spread[part] * _adjoint_voltages(cells[part], wires, compiled)).square_()
            square[part] = weights * of_row.square()
            cross[part] = 2.0 * weights * of_row * of_mean
            constant[part] = (weights * of_mean.square()).sum(-2)
    shape = tuple(conductance.shape)
    return MeanField(
        _like(square.reshape(shape), conductance),
        _like(cross.reshape(shape), conductance),
        _like(constant.reshape(*shape[:-2], shape[-1]), conductance),
    )


@dataclass(frozen=True, slots=True)
class _Wires:
    row_ohm: float
    column_ohm: float
    source_ohm: float
    sense_ohm: float

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if not 0.0 <= value < math.inf:
                raise ValueError(f"Argument `{name}` must be finite and at least 0 ohm, but got {value}; do pass 0 for an ideal wire.")

    def segments(self, cells: Tensor) -> tuple[Tensor, Tensor]:
        """Return the resistance before each cell of a row, from the driver, and of a column, from the sense node."""
        row = cells.new_full((cells.shape[-1],), self.row_ohm)
        column = cells.new_full((cells.shape[-2],), self.column_ohm)
        row[0] += self.source_ohm
        column[0] += self.sense_ohm
        return row, column


def _eliminated(cells: Tensor, wires: _Wires, compiled: bool, *, keep: bool) -> Network:
    return eliminate(cells.flip(-2), *wires.segments(cells), compiled=compiled, keep=keep)


def _adjoint_voltages(cells: Tensor, wires: _Wires, compiled: bool) -> Tensor:
    """Return the voltage across each cell while its column's sense node is driven by 1 V, and all drivers and other sense nodes are at 0.

    Seen from the sense nodes, the array is a crossbar too: its columns are rows.
    """
    mirrored = cells.flip(-2, -1).mT
    seen = _Wires(wires.column_ohm, wires.row_ohm, wires.sense_ohm, wires.source_ohm)
    found = own_row_voltages(_eliminated(mirrored, seen, compiled, keep=True), compiled=compiled)
    return found.flip(-2).flip(-2, -1).mT


def _parts(cells: Tensor) -> Iterator[slice]:
    tiles, rows, columns = cells.shape
    step = max(1, _CELLS_AT_ONCE // (rows * columns))
    return (slice(start, start + step) for start in range(0, tiles, step))


def _checked(name: str, array: npt.NDArray[Any] | Tensor) -> Tensor:
    if not isinstance(array, np.ndarray | Tensor) or str(array.dtype).removeprefix("torch.") not in ("float32", "float64"):
        kind = f"{type(array).__name__} of {array.dtype}" if isinstance(array, np.ndarray | Tensor) else type(array).__name__
        raise ValueError(f"Argument `{name}` must be a float32 or float64 numpy array or tensor, but got {kind}; do convert it.")
    tensor = torch.from_numpy(np.ascontiguousarray(array)) if isinstance(array, np.ndarray) else array.detach()
    tensor = tensor.to(torch.float64)
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"Argument `{name}` must be finite, but got nan or inf; do check what it is computed from.")
    return tensor


def _checked_cells(conductance: npt.NDArray[Any] | Tensor) -> Tensor:
    cells = _checked("conductance", conductance)
    if cells.ndim not in (2, 3) or 0 in cells.shape[-2:]:
        raise ValueError(
            "Argument `conductance` must have shape (rows, columns) or (tiles, rows, columns), "
            f"but got {tuple(cells.shape)}; do reshape it."
        )
    _check_not_negative("conductance", cells)
    return cells if cells.ndim == 3 else cells.unsqueeze(0)


def _checked_sigma(sigma: npt.NDArray[Any] | Tensor | float, conductance: npt.NDArray[Any] | Tensor, cells: Tensor) -> Tensor:
    if isinstance(sigma, float | int):
        if not 0.0 <= sigma < math.inf:
            raise ValueError(f"Argument `sigma` must be finite and at least 0 siemens, but got {sigma}; do pass a standard deviation.")
        return torch.full_like(cells, sigma)
    spread = _checked("sigma", sigma)
    if spread.shape != tuple(conductance.shape):
        raise ValueError(
            f"Argument `sigma` must have the shape of `conductance`, {tuple(conductance.shape)}, "
            f"but got {tuple(spread.shape)}; do expand it."
        )
    _check_not_negative("sigma", spread)
    return spread.to(cells.device).reshape(cells.shape)


def _checked_inputs(inputs: npt.NDArray[Any] | Tensor, conductance: npt.NDArray[Any] | Tensor, cells: Tensor) -> Tensor:
    drivers = _checked("inputs", inputs)
    wanted = (*conductance.shape[:-2], "batch", conductance.shape[-2])
    if drivers.ndim != len(wanted) or drivers.shape[-1] != wanted[-1] or tuple(drivers.shape[:-2]) != wanted[:-2]:
        shape = f"({', '.join(str(length) for length in wanted)})"
        raise ValueError(f"Argument `inputs` must have shape {shape}, but got {tuple(drivers.shape)}; do reshape it.")
    return drivers.to(cells.device).reshape(cells.shape[0], -1, cells.shape[1])


def _check_not_negative(name: str, values: Tensor) -> None:
    if bool((values < 0).any()):
        raise ValueError(f"Argument `{name}` must be at least 0 siemens, but got {values.min().item():g}; do check its sign.")


def _like(result: Tensor, array: Array) -> Array:
    if isinstance(array, np.ndarray):
        converted: npt.NDArray[Any] = result.numpy().astype(array.dtype, copy=False)
        return converted
    return result.to(array.dtype)
