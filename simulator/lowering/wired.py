"""The arrays of a layer with the resistance of their wires, solved one by one."""

from dataclasses import dataclass

import torch
from torch import Tensor

from devices.rram import RRAMCrossbar
from simulator.operators import LinearOperator, RowTile


@dataclass(frozen=True)
class Wired:
    """Conductances as they act through wires, and the variances of their currents.

    Attributes
    ----------
    conductance
        Siemens, of the cells' shape.
    square, cross
        Siemens^2, of that shape: terms of `kernels.wires.mean_field`; without wires `square` is the variance of the cells, `cross` None.
    constants
        Siemens^2, (slices, crosspoints, outputs + references) for each tile, or None without wires.
    """

    conductance: Tensor
    square: Tensor | None
    cross: Tensor | None
    constants: list[Tensor] | None


def through_wires(
    design: RRAMCrossbar,
    conductance: Tensor,
    sigma: Tensor | None,
    operator: LinearOperator,
    tiles: tuple[RowTile, ...],
    blocks: list[tuple[int, int]],
    outputs: int,
) -> Wired:
    """Solve every array: the rows of a tile, and side by side the columns of a block of outputs, slice by slice, reference columns last.

    Parameters
    ----------
    design
        The crossbar; it has wires.
    conductance, sigma
        Siemens, (slices, crosspoints, outputs + references, inputs, ...): cells, and the scatter of their reads or None.
    operator, tiles
        The linear map and its rows cut into arrays.
    blocks
        Outputs within a group that lie in one array.
    outputs
        How many outputs the layer has; what follows are reference columns, one for each block of each group.
    """
    wires = design.wires
    assert wires is not None
    slices, crosspoints = conductance.shape[:2]
    groups, shape = operator.groups, conductance.shape
    spread = conductance.reshape(*shape[:4], -1)
    scatter = None if sigma is None else sigma.reshape(spread.shape)
    solved = torch.zeros_like(spread)
    square, cross = (None, None) if sigma is None else (torch.zeros_like(spread), torch.zeros_like(spread))
    constants: list[Tensor] = []
    for tile in tiles:
        constant = torch.zeros(slices, crosspoints, shape[2], dtype=conductance.dtype, device=conductance.device)
        rows = slice(*tile.channels), slice(*tile.kernel)
        for block in range(len(blocks)):
            where = _columns(block, blocks, groups, outputs, shape[2] > outputs).to(conductance.device)
            sizes = (groups, tile.channels[1] - tile.channels[0], tile.kernel[1] - tile.kernel[0], -1, slices, crosspoints)

            def matrix(cells: Tensor, where: Tensor = where, rows: tuple[slice, slice] = rows) -> Tensor:
                # (slices, crosspoints, columns, channels, kernel) to (groups, rows, columns x slices x crosspoints)
                part = cells[:, :, :, rows[0], rows[1]].index_select(2, where)
                arrays: Tensor = part.unflatten(2, (groups, -1)).permute(2, 4, 5, 3, 0, 1).flatten(3).flatten(1, 2)
                return arrays

            def put(into: Tensor, array: Tensor, where: Tensor = where, sizes: tuple[int, ...] = sizes) -> None:
                part = array.reshape(sizes).permute(4, 5, 0, 3, 1, 2).flatten(2, 3)
                into[:, :, where, rows[0], rows[1]] = part  # noqa: B023 - called in this turn

            array = matrix(spread)
            put(solved, wires.effective(array))
            if scatter is not None and square is not None and cross is not None:
                noise = [wires.noise(one, its) for one, its in zip(array, matrix(scatter), strict=True)]
                put(square, torch.stack([one.square for one in noise]))
                put(cross, torch.stack([one.cross for one in noise]))
                found = torch.stack([one.constant for one in noise]).reshape(groups, -1, slices, crosspoints)
                constant[:, :, where] = found.permute(2, 3, 0, 1).flatten(2)
        constants.append(constant)
    if square is None or cross is None:
        return Wired(solved.reshape(shape), None, None, None)
    return Wired(solved.reshape(shape), square.reshape(shape), cross.reshape(shape), constants)


def _columns(block: int, blocks: list[tuple[int, int]], groups: int, outputs: int, references: bool) -> Tensor:
    """Return the outputs of one block of every group, each group's reference column after its own."""
    start, stop = blocks[block]
    each = outputs // groups
    found = torch.arange(groups).unsqueeze(1) * each + torch.arange(start, stop)
    if references:
        found = torch.cat((found, outputs + torch.arange(groups).unsqueeze(1) * len(blocks) + block), dim=1)
    return found.flatten()
