"""Resistive networks of crossbars as multiports: eliminated block by block, every merge a few matrix products.

A block of cells is seen through the ends of its wires. Row wires are driven by voltages on the left and fed currents on the right; column
wires are held at voltages at the bottom (the side of the sense nodes) and fed currents at the top. With the voltages of the fed ends and
the currents that leave at the driven ends as outputs, a block is one symmetric matrix, which exists for every resistance and conductance
of zero or more: a resistance is added to a diagonal element, and a cell is an update of rank one. Two neighbors merge by eliminating the
wires between them, until the element from the drivers to the sense nodes is the matrix of the array. The work grows with
(rows * columns)^1.5, most of it matrix products.

Row index 0 lies at the sense nodes here: callers flip.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from numba import njit
from torch import Tensor

Doubles = npt.NDArray[np.float64]
Ports = dict[str, Tensor]
"""What flows in at each side of the blocks: (tiles, block rows, block columns, wires, right-hand sides)."""
Blocks = dict[tuple[str, str], Tensor]
"""The upper half of the symmetric matrices, side by side: (tiles, block rows, block columns, wires, wires)."""

SIDES: Final = ("left", "right", "bottom", "top")
PAIRS: Final = tuple((side, other) for index, side in enumerate(SIDES) for other in SIDES[index:])
ROWS: Final = 1
"""Dimension of block rows, which merge bottom to top."""
COLUMNS: Final = 2
"""Dimension of block columns, which merge left to right."""
LARGEST_LEAF: Final = 20
"""Rows or columns of the blocks that are built cell by cell: 11 to 20 are fastest, from there on matrix products are."""


@dataclass(frozen=True, slots=True)
class Merge:
    """What a merge of neighbors leaves behind to find the state of the wires between them.

    With `inputs` of the first block and of the second, the current through these wires is
    ``sum(current_second[s] @ second[s]) - sum(current_first[s] @ first[s])``, their voltage
    ``sum(voltage_first[s] @ first[s]) + impedance @ current``.
    """

    dimension: int
    current_first: Ports
    current_second: Ports
    voltage_first: Ports
    impedance: Tensor


@dataclass(frozen=True, slots=True)
class Network:
    """An eliminated crossbar: cells padded to whole blocks, resistances of the wire segments before each cell, and the merges.

    The merges are in the order in which they were made; the matrix, (tiles, rows, columns), is from driver voltages to sense currents.
    """

    conductance: Tensor
    row_segments: Tensor
    column_segments: Tensor
    leaf: tuple[int, int]
    merges: tuple[Merge, ...]
    matrix: Tensor


def eliminate(conductance: Tensor, row_segments: Tensor, column_segments: Tensor, *, compiled: bool, keep: bool) -> Network:
    """Eliminate every node of crossbars of one size.

    Parameters
    ----------
    conductance
        Cells in siemens, float64 (tiles, rows, columns), row 0 next to the sense nodes.
    row_segments, column_segments
        Resistance in ohm of the segment before each cell of a row, (columns,), and of a column, (rows,).
    compiled
        Build the smallest blocks by Numba (CPU) or by torch (any device).
    keep
        Keep the merges, for `voltages` and `own_row_voltages`.

    Returns
    -------
    Network
        Its `matrix` is that of the array; `merges` is empty without `keep`.
    """
    tiles, rows, columns = conductance.shape
    (height, block_rows), (width, block_columns) = _leaf(rows), _leaf(columns)
    # A cell without conductance at the open end of a wire changes nothing.
    padded = conductance.new_zeros(tiles, height * block_rows, width * block_columns)
    padded[:, :rows, :columns] = conductance
    row_segments = _padded(row_segments, padded.shape[2])
    column_segments = _padded(column_segments, padded.shape[1])

    ports = 2 * (height + width)
    matrices = padded.new_empty(tiles, block_rows, block_columns, ports, ports)
    if compiled:
        _build_leaves(padded.numpy(), row_segments.numpy(), column_segments.numpy(), height, width, matrices.numpy())
    else:
        _leaves_by_torch(_cells(padded, height, width), row_segments, column_segments, matrices, None)
    places = _places(height, width)
    blocks = {pair: matrices[..., places[pair[0]], places[pair[1]]].contiguous() for pair in PAIRS}
    leaf = height, width
    merges = []
    # The array's wires end open at the right and at the top: nothing is fed in there.
    blocks = _without(blocks, "right") if block_columns == 1 else blocks
    blocks = _without(blocks, "top") if block_rows == 1 else blocks
    while block_rows * block_columns > 1:
        if block_rows == 1 or (block_columns > 1 and width <= height):
            width, block_columns, dimension = 2 * width, block_columns // 2, COLUMNS
        else:
            height, block_rows, dimension = 2 * height, block_rows // 2, ROWS
        blocks, merge = _merge(blocks, dimension, PAIRS if block_rows * block_columns > 1 else (("left", "bottom"),))
        if keep:
            merges.append(merge)
    matrix = blocks["left", "bottom"][:, 0, 0, :rows, :columns]
    return Network(padded, row_segments, column_segments, leaf, tuple(merges), matrix)


def voltages(network: Network, drivers: Tensor, *, compiled: bool) -> Tensor:
    """Return the voltage across each cell for given driver voltages, sense nodes at 0 V.

    Parameters
    ----------
    network
        Made with ``keep=True``.
    drivers
        Float64 (tiles, rows, right-hand sides), in volts.
    compiled
        As in `eliminate`.

    Returns
    -------
    Tensor
        Float64 (tiles, rows, columns, right-hand sides), in volts, from the row wire to the column wire.
    """
    count, rows = drivers.shape[-1], drivers.shape[1]
    inputs = _driven(network, count)
    inputs["left"][:, 0, 0, :rows] = drivers
    for merge in reversed(network.merges):
        inputs = _divide(merge, inputs, own_rows=False)
    found = _leaf_voltages(network, inputs, compiled)
    whole = found.permute(0, 1, 3, 2, 4, 5).reshape(*network.conductance.shape, count)
    return whole[:, :rows, : network.matrix.shape[-1]]


def own_row_voltages(network: Network, *, compiled: bool) -> Tensor:
    """Return the voltage across each cell while its own row, and no other, is driven by 1 V.

    Each half of a merge needs the right-hand sides of its own rows only, so that this costs about as much as the elimination.

    Parameters
    ----------
    network
        Made with ``keep=True``.
    compiled
        As in `eliminate`.

    Returns
    -------
    Tensor
        Float64 (tiles, rows, columns), in volts.
    """
    rows = network.conductance.shape[1]
    inputs = _driven(network, rows)
    inputs["left"][:, 0, 0].diagonal(dim1=-2, dim2=-1).fill_(1.0)
    for merge in reversed(network.merges):
        inputs = _divide(merge, inputs, own_rows=True)
    found = _leaf_voltages(network, inputs, compiled).diagonal(dim1=-3, dim2=-1)
    whole = found.permute(0, 1, 4, 2, 3).reshape(network.conductance.shape)
    return whole[:, : network.matrix.shape[1], : network.matrix.shape[2]]


def _leaf(length: int) -> tuple[int, int]:
    blocks = 1
    while -(-length // blocks) > LARGEST_LEAF:
        blocks *= 2
    return -(-length // blocks), blocks


def _padded(segments: Tensor, length: int) -> Tensor:
    result = segments.new_zeros(length)
    result[: segments.numel()] = segments
    return result


def _cells(conductance: Tensor, height: int, width: int) -> Tensor:
    tiles, rows, columns = conductance.shape
    return conductance.view(tiles, rows // height, height, columns // width, width).permute(0, 1, 3, 2, 4)


def _places(height: int, width: int) -> dict[str, slice]:
    # Row by row, so that the ports that cells have reached so far come first.
    first = 2 * width
    last = first + 2 * height
    return {"left": slice(first, last, 2), "right": slice(first + 1, last, 2), "bottom": slice(0, width), "top": slice(width, first)}


def _of(blocks: Blocks, side: str, other: str) -> Tensor:
    return blocks[side, other] if (side, other) in blocks else blocks[other, side].mT


def _without(blocks: Blocks, side: str) -> Blocks:
    return {pair: matrix[..., : 0 if pair[0] == side else None, : 0 if pair[1] == side else None] for pair, matrix in blocks.items()}


def _merge(blocks: Blocks, dimension: int, wanted: tuple[tuple[str, str], ...]) -> tuple[Blocks, Merge]:
    """Join each even block along `dimension` to the odd one after it."""
    feeding, driven = ("right", "left") if dimension == COLUMNS else ("top", "bottom")
    every = (slice(None),) * dimension
    first = {pair: matrix[(*every, slice(0, None, 2))] for pair, matrix in blocks.items()}
    second = {pair: matrix[(*every, slice(1, None, 2))] for pair, matrix in blocks.items()}
    if first["left", "left"].shape[dimension] == 1:
        second = _without(second, feeding)
    impedance, admittance = first[feeding, feeding], -second[driven, driven]
    between = admittance @ impedance
    between.diagonal(dim1=-2, dim2=-1).add_(1.0)
    solved = torch.linalg.inv_ex(between)[0]
    none = impedance[..., :0]
    voltage_first = {side: none if side == feeding else _of(first, feeding, side) for side in SIDES}
    current_second = {side: none if side == driven else _of(second, driven, side) for side in SIDES}
    to_current, to_voltage = solved @ admittance, impedance @ solved
    merge = Merge(
        dimension=dimension,
        current_first={side: to_current @ matrix for side, matrix in voltage_first.items()},
        current_second={side: solved @ matrix for side, matrix in current_second.items()},
        voltage_first=voltage_first,
        impedance=impedance,
    )
    voltage_second = {side: to_voltage @ matrix for side, matrix in current_second.items()}

    joined = {}
    for side, other in wanted:
        top, left = voltage_first[side].shape[-1], voltage_first[other].shape[-1]
        result = impedance.new_empty(*impedance.shape[:-2], top + current_second[side].shape[-1], left + current_second[other].shape[-1])
        rows_first, rows_second = voltage_first[side].mT, current_second[side].mT
        if top and left:
            torch.sub(_of(first, side, other), rows_first @ merge.current_first[other], out=result[..., :top, :left])
        if rows_second.shape[-2] and left:
            result[..., top:, :left] = merge.current_second[side].mT @ voltage_first[other]
        if top and current_second[other].shape[-1]:
            result[..., :top, left:] = result[..., top:, :left].mT if side == other else rows_first @ merge.current_second[other]
        if rows_second.shape[-2] and current_second[other].shape[-1]:
            torch.add(_of(second, side, other), rows_second @ voltage_second[other], out=result[..., top:, left:])
        joined[side, other] = result
    return joined, merge


def _driven(network: Network, count: int) -> Ports:
    tiles, rows, columns = network.conductance.shape
    lengths = {"left": rows, "right": 0, "bottom": columns, "top": 0}
    return {side: network.conductance.new_zeros(tiles, 1, 1, length, count) for side, length in lengths.items()}


def _divide(merge: Merge, inputs: Ports, *, own_rows: bool) -> Ports:
    """Return the inputs of the blocks that were merged, from those of the merged ones."""
    feeding, driven = ("right", "left") if merge.dimension == COLUMNS else ("top", "bottom")
    shared = ("left", "right") if merge.dimension == ROWS else ("bottom", "top")
    first, second = dict(inputs), dict(inputs)
    for side in shared:
        cut = merge.voltage_first[side].shape[-1]
        first[side], second[side] = inputs[side][..., :cut, :], inputs[side][..., cut:, :]
    current = _sum_of(merge.current_second, second, driven) - _sum_of(merge.current_first, first, feeding)
    first[feeding] = current
    second[driven] = _sum_of(merge.voltage_first, first, feeding) + merge.impedance @ current
    if not second[feeding].shape[-2]:
        second[feeding] = torch.zeros_like(current)
    if own_rows and merge.dimension == ROWS:
        half = inputs["left"].shape[-1] // 2
        first = {side: matrix[..., :half] for side, matrix in first.items()}
        second = {side: matrix[..., half:] for side, matrix in second.items()}
    return {
        side: torch.stack([first[side], second[side]], merge.dimension + 1).flatten(merge.dimension, merge.dimension + 1) for side in SIDES
    }


def _sum_of(matrices: Mapping[str, Tensor], inputs: Ports, without: str) -> Tensor:
    sides = [side for side in SIDES if side != without and matrices[side].shape[-1]]
    result = matrices[sides[0]] @ inputs[sides[0]]
    for side in sides[1:]:
        result += matrices[side] @ inputs[side]
    return result


def _leaf_voltages(network: Network, inputs: Ports, compiled: bool) -> Tensor:
    height, width = network.leaf
    tiles, block_rows, block_columns, _, count = inputs["left"].shape
    places = _places(height, width)
    ports = network.conductance.new_empty(tiles, block_rows, block_columns, 2 * (height + width), count)
    for side, place in places.items():
        ports[..., place, :] = inputs[side] if inputs[side].shape[-2] else 0.0
    found = network.conductance.new_empty(tiles, block_rows, block_columns, height, width, count)
    if compiled:
        _solve_leaves(
            network.conductance.numpy(), network.row_segments.numpy(), network.column_segments.numpy(), ports.numpy(), found.numpy()
        )
    else:
        cells = _cells(network.conductance, height, width)
        scratch = ports.new_empty(*ports.shape[:-1], ports.shape[-2])
        steps: list[tuple[Tensor, Tensor]] = []
        _leaves_by_torch(cells, network.row_segments, network.column_segments, scratch, steps)
        for cell in range(height * width - 1, -1, -1):
            row, column = divmod(cell, width)
            response, divisor = steps[cell]
            voltage = (response.unsqueeze(-2) @ ports[..., : response.shape[-1], :]).squeeze(-2) / divisor.unsqueeze(-1)
            current = cells[..., row, column].unsqueeze(-1) * voltage
            ports[..., 2 * (width + row) + 1, :] -= current
            ports[..., width + column, :] += current
            found[..., row, column, :] = voltage
    return found


def _leaves_by_torch(
    cells: Tensor, row_segments: Tensor, column_segments: Tensor, matrices: Tensor, steps: list[tuple[Tensor, Tensor]] | None
) -> None:
    height, width = cells.shape[-2:]
    matrices.zero_()
    for port in range(width):
        matrices[..., port, width + port] = matrices[..., width + port, port] = 1.0
    for cell in range(height * width):
        row, column = divmod(cell, width)
        left, top = 2 * (width + row), width + column
        right, count = left + 1, left + 2
        if column == 0:
            matrices[..., left, right] = matrices[..., right, left] = 1.0
        matrices[..., right, right] += row_segments[column::width]
        matrices[..., top, top] += column_segments[row::height, None]
        response = matrices[..., right, :count] - matrices[..., top, :count]
        divisor = 1.0 + cells[..., row, column] * (response[..., right] - response[..., top])
        factor = (cells[..., row, column] / divisor)[..., None, None]
        matrices[..., :count, :count] -= factor * response.unsqueeze(-1) * response.unsqueeze(-2)
        if steps is not None:
            steps.append((response, divisor))


@njit(cache=True, nogil=True, error_model="numpy")
def _build_leaf(
    cells: Doubles, row_segments: Doubles, column_segments: Doubles, matrix: Doubles, responses: Doubles, divisors: Doubles
) -> None:
    """Build the matrix of one block cell by cell; `responses` and `divisors`, unless empty, keep what each cell saw."""
    height, width = cells.shape
    keep = divisors.size > 0
    response = np.empty(2 * (height + width))
    matrix[:, :] = 0.0
    for port in range(width):
        matrix[port, width + port] = 1.0
        matrix[width + port, port] = 1.0
    for row in range(height):
        left = 2 * (width + row)
        right = left + 1
        count = left + 2
        matrix[left, right] = 1.0
        matrix[right, left] = 1.0
        for column in range(width):
            top = width + column
            matrix[right, right] += row_segments[column]
            matrix[top, top] += column_segments[row]
            seen = response[:count]
            from_row = matrix[right, :count]
            from_column = matrix[top, :count]
            for port in range(count):
                seen[port] = from_row[port] - from_column[port]
            divisor = 1.0 + cells[row, column] * (seen[right] - seen[top])
            if keep:
                responses[row * width + column, :count] = seen
                divisors[row * width + column] = divisor
            factor = cells[row, column] / divisor
            for port in range(count):
                scaled = factor * seen[port]
                line = matrix[port, :count]
                for other in range(count):
                    line[other] -= scaled * seen[other]


@njit(cache=True, nogil=True, error_model="numpy")
def _build_leaves(
    conductance: Doubles, row_segments: Doubles, column_segments: Doubles, height: int, width: int, matrices: Doubles
) -> None:
    nothing = np.empty((0, 0))
    none = np.empty(0)
    for tile in range(matrices.shape[0]):
        for block_row in range(matrices.shape[1]):
            for block_column in range(matrices.shape[2]):
                row, column = block_row * height, block_column * width
                _build_leaf(
                    conductance[tile, row : row + height, column : column + width],
                    row_segments[column : column + width],
                    column_segments[row : row + height],
                    matrices[tile, block_row, block_column],
                    nothing,
                    none,
                )


@njit(cache=True, nogil=True, error_model="numpy")
def _solve_leaves(conductance: Doubles, row_segments: Doubles, column_segments: Doubles, ports: Doubles, found: Doubles) -> None:
    """Fill the voltages of all cells, block by block: cells are taken off in the reverse order of building; `ports` is overwritten."""
    tiles, block_rows, block_columns, height, width, count = found.shape
    size = 2 * (height + width)
    matrix = np.empty((size, size))
    responses = np.empty((height * width, size))
    divisors = np.empty(height * width)
    for tile in range(tiles):
        for block_row in range(block_rows):
            for block_column in range(block_columns):
                first_row, first_column = block_row * height, block_column * width
                cells = conductance[tile, first_row : first_row + height, first_column : first_column + width]
                _build_leaf(
                    cells,
                    row_segments[first_column : first_column + width],
                    column_segments[first_row : first_row + height],
                    matrix,
                    responses,
                    divisors,
                )
                inputs = ports[tile, block_row, block_column]
                for row in range(height - 1, -1, -1):
                    for column in range(width - 1, -1, -1):
                        cell = row * width + column
                        voltage = found[tile, block_row, block_column, row, column]
                        voltage[:] = 0.0
                        # Two ports at a time, because the loads and stores of `voltage` are what takes the time.
                        for pair in range(width + row + 1):
                            weight = responses[cell, 2 * pair] / divisors[cell]
                            second_weight = responses[cell, 2 * pair + 1] / divisors[cell]
                            line = inputs[2 * pair]
                            second_line = inputs[2 * pair + 1]
                            for side in range(count):
                                voltage[side] += weight * line[side] + second_weight * second_line[side]
                        from_row = inputs[2 * (width + row) + 1]
                        to_column = inputs[width + column]
                        for side in range(count):
                            current = cells[row, column] * voltage[side]
                            from_row[side] -= current
                            to_column[side] += current
