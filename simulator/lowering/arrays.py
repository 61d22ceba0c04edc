"""What programmed crossbar arrays multiply by: effective weights, and the variance of a read, array by array."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from devices.rram import MappedWeights, RRAMCrossbar
from simulator.operators import LinearOperator, RowTile


@dataclass(frozen=True)
class Terms:
    """One array of one slice, in units of weight codes.

    The variance of a read is ``x^2 * square``, and with wires ``+ mean(x) (x * cross) + mean(x)^2 constant``.

    Attributes
    ----------
    weight
        Effective weight codes: what was asked for plus the error of the conductances.
    square, cross
        Of the weight's shape, or None where reads are exact, or wires have no resistance.
    constant
        One number an output, or None.
    mean
        Weight that takes the mean of the inputs over the array's rows, or None.
    """

    weight: Tensor
    square: Tensor | None = None
    cross: Tensor | None = None
    constant: Tensor | None = None
    mean: Tensor | None = None

    def variance(self, operator: LinearOperator, inputs: Tensor) -> Tensor | None:
        """Return the variance of a read of these inputs, of the outputs' shape, or None where reads are exact."""
        if self.square is None:
            return None
        total = operator(inputs * inputs, self.square)
        if self.cross is None or self.constant is None or self.mean is None:
            return total
        mean = operator(inputs, self.mean)
        if operator.groups > 1:
            axis = mean.dim() - operator.dimensions - 1
            mean = mean.repeat_interleave(self.weight.shape[0] // operator.groups, axis)
        constant = self.constant.reshape(-1, *[1] * operator.dimensions)
        return total.addcmul_(mean, operator(inputs, self.cross)).addcmul_(mean.square(), constant).clamp_(min=0.0)


@dataclass(frozen=True)
class Arrays:
    """All arrays of a layer as one read needs them.

    Attributes
    ----------
    terms
        For each slice and tile.
    tiles
        Which rows each tile has.
    radix
        Weight of each slice; one slice of weight 1 where an ideal ADC lets the slices collapse into one matrix.
    unit
        Weight of one code, a number or a tensor over the outputs.
    """

    terms: list[list[Terms]]
    tiles: tuple[RowTile, ...]
    radix: tuple[float, ...]
    unit: float | Tensor

    def collapsed(self, like: Tensor) -> Tensor:
        """Return the effective weight of the layer's shape, in the weight's own unit."""
        total = torch.zeros_like(like)
        for radix, slice_terms in zip(self.radix, self.terms, strict=True):
            for tile, terms in zip(self.tiles, slice_terms, strict=True):
                start, stop = tile.channels
                total[:, start:stop] += radix * terms.weight
        unit = self.unit
        return total * (unit.reshape(-1, *[1] * (total.dim() - 1)) if isinstance(unit, Tensor) else unit)


def build_arrays(
    design: RRAMCrossbar, mapped: MappedWeights, conductance: Tensor, seconds: float, operator: LinearOperator, tiles: tuple[RowTile, ...]
) -> Arrays:
    """Turn conductances into what a read multiplies by.

    Parameters
    ----------
    design
        The crossbar.
    mapped
        Codes and targets of the weights.
    conductance
        Siemens, shape (slices, 2, *weight.shape), as the cells stand.
    seconds
        Time since programming, for the read noise.
    operator, tiles
        The linear map and its rows cut into arrays.
    """
    sigma = design.cell.read_sigma(conductance, seconds)
    scale = mapped.codes_per_siemens
    square = None if sigma is None else (sigma[:, 0] ** 2 + sigma[:, 1] ** 2) * scale**2
    cross: Tensor | None = None
    constants: list[Tensor] | None = None
    if design.wires is not None:
        wired = _through_wires(design, conductance, sigma, operator, tiles)
        conductance = wired.conductance
        if wired.square is not None and wired.cross is not None and wired.constants is not None:
            square, cross = wired.square.sum(1) * scale**2, wired.cross.sum(1) * scale**2
            along = scale.flatten() if isinstance(scale, Tensor) else scale
            constants = [one.sum(1) * along**2 for one in wired.constants]
    error = conductance - mapped.targets_siemens
    codes = mapped.codes + (error[:, 0] - error[:, 1]) * scale
    radix: tuple[float, ...] = mapped.radix
    if design.adc is None:
        # Nothing is rounded between slices: they are one matrix. Arrays are, too, where their noise does not look at their own mean.
        weights = torch.tensor(radix, dtype=codes.dtype, device=codes.device)
        codes, radix = _add_slices(codes, weights), (1.0,)
        square, cross = (None if part is None else _add_slices(part, weights**2) for part in (square, cross))
        constants = None if constants is None else [_add_slices(one, weights**2) for one in constants]
        if cross is None:
            inputs, positions = codes.shape[2], codes[0, 0, 0].numel()
            tiles = (RowTile((0, inputs), (0, positions), inputs * positions),)
    unit = mapped.unit.flatten() if isinstance(mapped.unit, Tensor) else mapped.unit
    cut = operator.tile_weight
    terms = [
        [
            Terms(
                cut(codes[s], tile),
                None if square is None else cut(square[s], tile),
                None if cross is None else cut(cross[s], tile),
                None if constants is None else constants[t][s],
                None if constants is None else cut(torch.ones_like(codes[s][: operator.groups]), tile) / tile.rows,
            )
            for t, tile in enumerate(tiles)
        ]
        for s in range(len(radix))
    ]
    return Arrays(terms, tiles, radix, unit)


def _add_slices(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights.reshape(-1, *[1] * (values.dim() - 1))).sum(0, keepdim=True)


@dataclass(frozen=True)
class _Wired:
    """Conductances as they act through wires, of the conductances' shape; variances likewise, constants (slices, 2, outputs) a tile."""

    conductance: Tensor
    square: Tensor | None
    cross: Tensor | None
    constants: list[Tensor] | None


def _through_wires(
    design: RRAMCrossbar, conductance: Tensor, sigma: Tensor | None, operator: LinearOperator, tiles: tuple[RowTile, ...]
) -> _Wired:
    """Solve every array: rows of a tile, and pairs of columns side by side, slice by slice, as many outputs as fit."""
    wires = design.wires
    assert wires is not None
    slices, groups, outputs = conductance.shape[0], operator.groups, conductance.shape[2] // operator.groups
    spread = conductance.reshape(slices, 2, groups, outputs, conductance.shape[3], -1)
    scatter = None if sigma is None else sigma.reshape(spread.shape)
    solved = torch.empty_like(spread)
    square, cross = (None, None) if sigma is None else (torch.empty_like(spread), torch.empty_like(spread))
    constants: list[Tensor] = []
    for tile in tiles:
        constant = torch.zeros(slices, 2, groups, outputs, dtype=conductance.dtype, device=conductance.device)
        for start in range(0, outputs, design.weights_per_row):
            block = slice(start, min(start + design.weights_per_row, outputs))
            where = (slice(None), slice(None), slice(None), block, slice(*tile.channels), slice(*tile.kernel))
            columns: tuple[int, ...] = spread[where].shape

            def matrix(cells: Tensor, where: tuple[slice, ...] = where) -> Tensor:
                # (slices, 2, groups, outputs, channels, kernel) to (groups, rows, outputs x slices x 2)
                return cells[where].permute(2, 4, 5, 3, 0, 1).flatten(3).flatten(1, 2)

            def cells(matrix: Tensor, shape: tuple[int, ...] = columns) -> Tensor:
                return matrix.reshape(shape[2], shape[4], shape[5], shape[3], shape[0], 2).permute(4, 5, 0, 3, 1, 2)

            array = matrix(spread)
            solved[where] = cells(wires.effective(array))
            if scatter is not None and square is not None and cross is not None:
                noise = _each(array, matrix(scatter), wires.noise)
                square[where], cross[where] = cells(noise[0]), cells(noise[1])
                constant[..., block] = noise[2].reshape(columns[2], columns[3], columns[0], 2).permute(2, 3, 0, 1)
        constants.append(constant.flatten(2))
    shape = conductance.shape
    if square is None or cross is None:
        return _Wired(solved.reshape(shape), None, None, None)
    return _Wired(solved.reshape(shape), square.reshape(shape), cross.reshape(shape), constants)


def _each(arrays: Tensor, sigma: Tensor, noise: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Return the noise terms of arrays (groups, rows, columns), one after the other."""
    parts = [noise(array, one) for array, one in zip(arrays, sigma, strict=True)]
    return torch.stack([p[0] for p in parts]), torch.stack([p[1] for p in parts]), torch.stack([p[2] for p in parts])
