"""What programmed crossbar arrays multiply by: effective weights, and the variance of a read, array by array."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from devices.rram import MappedWeights, RRAMCrossbar
from kernels.wire_noise import add_coupling
from simulator.lowering.layout import channels_at_end, laid_out
from simulator.lowering.products import multiply
from simulator.lowering.wired import Wired, through_wires
from simulator.operators import LinearOperator, RowTile


@dataclass(frozen=True)
class Terms:
    """One array of one line, in units of weight codes.

    The variance of a read is ``x^2 * square``, and with wires ``+ mean(x) (x * cross) + mean(x)^2 constant``.

    Attributes
    ----------
    weight
        Effective weight codes: what was asked for plus the error of the conductances.
    square, cross
        Of the weight's shape, or None where reads are exact, or wires have no resistance; `square` in the arithmetic of its product.
    constant
        One number an output, or None.
    mean
        Weight that takes the mean over the array's rows of inputs whose channels were added, (groups, 1, ...), or None.
    reference
        The reference columns whose current is subtracted before the ADC, for what their noise adds to all outputs alike; or None.
    bends
        Weights of the squared, cubed, ... inputs over full scale, for cells whose current bends each in its own way; often none.
    """

    weight: Tensor
    square: Tensor | None = None
    cross: Tensor | None = None
    constant: Tensor | None = None
    mean: Tensor | None = None
    reference: "Terms | None" = None
    bends: tuple[Tensor, ...] = ()

    def power(self, operator: LinearOperator, squares: Tensor) -> Tensor:
        """Return the variance without wires' terms for squared inputs, in float32; the product in the arithmetic of `square`."""
        assert self.square is not None
        return multiply(operator, squares.to(self.square.dtype), self.square).float()

    def variance(self, operator: LinearOperator, inputs: Tensor) -> Tensor | None:
        """Return the variance of a read of these inputs, of the outputs' shape, or None where reads are exact."""
        if self.square is None:
            return None
        total = self.power(operator, inputs * inputs)
        if self.cross is None or self.constant is None or self.mean is None:
            return total
        found = channels_at_end(operator, total)
        cross = channels_at_end(operator, multiply(operator, inputs, self.cross))
        mean = channels_at_end(operator, operator(_channel_sums(operator, inputs), self.mean))
        constant = self.constant.reshape(operator.groups, -1)
        columns = constant.shape[1]
        add_coupling(found.view(-1, columns), cross.view(-1, columns), mean.view(-1), constant)
        return found.movedim(-1, total.dim() - 1 - operator.dimensions)


@dataclass(frozen=True)
class Line:
    """What one conversion of each output sees: a slice, or one of the two columns that are subtracted after their conversions.

    Attributes
    ----------
    slice
        Which slice it belongs to: converters have a range for each.
    factor
        What its code is worth in the sum of all lines, in weight codes; negative where it is subtracted.
    terms
        For each tile.
    references
        Whether its columns are reference columns, one for each block of outputs, instead of outputs.
    """

    slice: int
    factor: float
    terms: list[Terms]
    references: bool = False


@dataclass(frozen=True)
class Arrays:
    """All arrays of a layer as one read needs them.

    Attributes
    ----------
    lines
        What is converted.
    tiles
        Which rows each tile has.
    unit
        Weight of one code, a number or a tensor over the outputs.
    reference_of
        Which reference column belongs to each output, (outputs,), or None.
    pedestal
        What the digital side takes from each output, in weight codes, for each unit of the inputs' sum; 0 for nothing.
    """

    lines: list[Line]
    tiles: tuple[RowTile, ...]
    unit: float | Tensor
    reference_of: Tensor | None = None
    pedestal: float = 0.0

    @property
    def terms(self) -> list[list[Terms]]:
        """The terms of each line."""
        return [line.terms for line in self.lines]

    def collapsed(self, like: Tensor) -> Tensor:
        """Return the effective weight of the layer's shape, in the weight's own unit."""
        total = torch.full_like(like, -self.pedestal)
        for line in self.lines:
            for tile, terms in zip(self.tiles, line.terms, strict=True):
                start, stop = tile.channels
                weight = terms.weight
                if line.references and self.reference_of is not None:
                    weight = weight[self.reference_of]
                total[:, start:stop] += line.factor * weight
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
        Siemens, of the targets' shape, as the cells stand.
    seconds
        Time since programming, for the read noise.
    operator, tiles
        The linear map and its rows cut into arrays.
    """
    outputs, dimensions = mapped.codes.shape[1], mapped.codes.dim()
    sigma = design.cell.read_sigma(conductance, seconds)
    if mapped.present is not None:
        conductance = conductance * mapped.present
        sigma = None if sigma is None else sigma * mapped.present
    blocks = output_blocks(design, operator, outputs)
    scale = torch.as_tensor(mapped.codes_per_siemens, dtype=conductance.dtype, device=conductance.device).reshape(-1, *[1] * dimensions)
    wired = Wired(conductance, None if sigma is None else sigma.square(), None, None)
    if design.wires is not None:
        wired = through_wires(design, conductance, sigma, operator, tiles, blocks, outputs)
    radix = torch.tensor(mapped.radix, dtype=conductance.dtype, device=conductance.device)
    targets = mapped.targets_siemens if mapped.present is None else mapped.targets_siemens * mapped.present
    reference_of = None
    if conductance.shape[2] > outputs:
        sizes = torch.tensor([stop - start for start, stop in blocks] * operator.groups)
        reference_of = torch.repeat_interleave(torch.arange(len(sizes)), sizes).to(conductance.device)
    parts = _parts(design, mapped, wired, targets, scale, reference_of)
    for bend in () if design.current_voltage is None else design.current_voltage.bends(conductance):
        # The same sums and differences of cells, of another number of each.
        nothing = replace(mapped, codes=torch.zeros_like(mapped.codes))
        bent = _parts(design, nothing, Wired(bend, None, None, None), torch.zeros_like(targets), scale, reference_of)
        parts = [replace(part, bends=(*part.bends, one.codes)) for part, one in zip(parts, bent, strict=True)]
    collapse = design.adc is None or design.analog_weight_slices
    if collapse:
        # Nothing is rounded between slices: they are one matrix.
        parts = [part.added(radix) for part in parts]
    pedestal = 0.0 if mapped.pedestal is None else float((mapped.pedestal * radix).sum())
    if design.adc is None and wired.cross is None:
        # Arrays are one, too, where their noise does not look at their own mean.
        tiles = (_whole(mapped.codes),)
    arithmetic = torch.bfloat16 if design.noise_arithmetic == "bfloat16" else torch.float32
    lines = [
        Line(
            s,
            part.sign * (1.0 if collapse else mapped.radix[s]),
            [part.terms(s, t, tile, operator, arithmetic) for t, tile in enumerate(tiles)],
            part.references,
        )
        for part in parts
        for s in range(1 if collapse else len(mapped.radix))
    ]
    unit = mapped.unit.flatten() if isinstance(mapped.unit, Tensor) else mapped.unit
    return Arrays(lines, tiles, unit, reference_of, pedestal)


def output_blocks(design: RRAMCrossbar, operator: LinearOperator, outputs: int) -> list[tuple[int, int]]:
    """Return first and one past the last output, within a group, of the arrays that lie side by side."""
    each, per_array = outputs // operator.groups, design.weights_per_row
    return [(start, min(start + per_array, each)) for start in range(0, each, per_array)]


@dataclass(frozen=True)
class _Part:
    """All slices of one kind of line: weight codes (slices, outputs, ...), and the variance's terms of that shape or a tile each."""

    sign: float
    codes: Tensor
    square: Tensor | None
    cross: Tensor | None
    constants: list[Tensor] | None
    references: bool = False
    common: "_Part | None" = None
    bends: tuple[Tensor, ...] = ()

    def added(self, radix: Tensor) -> "_Part":
        """Return the sum of the slices, as one."""

        def total(values: Tensor, weights: Tensor) -> Tensor:
            return (values * weights.reshape(-1, *[1] * (values.dim() - 1))).sum(0, keepdim=True)

        return replace(
            self,
            codes=total(self.codes, radix),
            square=None if self.square is None else total(self.square, radix**2),
            cross=None if self.cross is None else total(self.cross, radix**2),
            constants=None if self.constants is None else [total(one, radix**2) for one in self.constants],
            common=None if self.common is None else self.common.added(radix),
            bends=tuple(total(one, radix) for one in self.bends),
        )

    def terms(self, s: int, t: int, tile: RowTile, operator: LinearOperator, arithmetic: torch.dtype) -> Terms:
        """Return what one slice has in one tile."""

        def cut(values: Tensor, tile: RowTile) -> Tensor:
            return laid_out(operator, operator.tile_weight(values, tile))

        return Terms(
            cut(self.codes[s], tile),
            None if self.square is None else cut(self.square[s], tile).to(arithmetic),
            None if self.cross is None else cut(self.cross[s], tile),
            None if self.constants is None else self.constants[t][s],
            None if self.cross is None else cut(torch.ones_like(self.codes[s][: operator.groups]), tile)[:, :1] / tile.rows,
            None if self.common is None else self.common.terms(s, t, tile, operator, arithmetic),
            tuple(cut(one[s], tile) for one in self.bends),
        )


def _parts(
    design: RRAMCrossbar, mapped: MappedWeights, wired: Wired, targets: Tensor, scale: Tensor, reference_of: Tensor | None
) -> list[_Part]:
    """Return the kinds of lines that a mapping has."""
    mapping, outputs = design.mapping, mapped.codes.shape[1]
    codes = wired.conductance * scale

    def noise(cells: slice, where: slice) -> tuple[Tensor | None, Tensor | None, list[Tensor] | None]:
        square, cross = (None if part is None else (part[:, cells, where] * scale**2).sum(1) for part in (wired.square, wired.cross))
        flat = scale.flatten().reshape(-1, 1, 1) ** 2
        constants = None if wired.constants is None else [(one[:, cells, where] * flat).sum(1) for one in wired.constants]
        return square, cross, constants

    def column(sign: float, cell: int, where: slice, references: bool = False) -> _Part:
        return _Part(sign, codes[:, cell, where], *noise(slice(cell, cell + 1), where), references)

    everything, own, beyond = slice(None), slice(0, outputs), slice(outputs, None)
    if mapping.separate and mapping.crosspoints == 2:
        return [column(1.0, 0, own), column(-1.0, 1, own)]
    if mapping.separate:
        return [column(1.0, 0, own), column(-1.0, 0, beyond, references=True)]
    if mapped.pedestal is not None:
        return [column(1.0, 0, own)]
    # What was asked for, exactly, plus the error of the conductances: whole codes stay whole.
    error = (wired.conductance - targets) * scale
    if mapping.crosspoints == 2:
        return [_Part(1.0, mapped.codes + error[:, 0] - error[:, 1], *noise(everything, own))]
    assert reference_of is not None
    reference = column(1.0, 0, beyond, references=True)
    own_codes = mapped.codes + error[:, 0, own] - error[:, 0, beyond].index_select(1, reference_of)
    return [_Part(1.0, own_codes, *noise(everything, own), common=reference if reference.square is not None else None)]


def _channel_sums(operator: LinearOperator, inputs: Tensor) -> Tensor:
    """Return the sum over the channels of each group."""
    if operator.dimensions == 0:
        return inputs.sum(-1, keepdim=True)
    axis = inputs.dim() - operator.dimensions - 1
    found: Tensor = inputs.unflatten(axis, (operator.groups, -1)).sum(axis + 1)
    return found


def _whole(codes: Tensor) -> RowTile:
    inputs, positions = codes.shape[2], codes[0, 0, 0].numel()
    return RowTile((0, inputs), (0, positions), inputs * positions)
