"""One read of programmed crossbars: inputs to voltages, products, noise, conversions, and the digital sum, block by block of the batch."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from math import prod

import torch
from torch import Tensor

from devices.rram import RRAMCrossbar
from kernels.crossbar import convert
from kernels.random import Key
from kernels.slices import shift_add
from simulator.lowering.arrays import Arrays, Line, Terms
from simulator.lowering.converting import ConverterTables
from simulator.lowering.layout import channels_first, codes_of, in_memory, laid_out
from simulator.lowering.products import multiply, vectors_at_once
from simulator.lowering.shared_inputs import SharedInputs
from simulator.operators import LinearOperator, RowTile

Hear = Callable[[Tensor, int, int], None]
"""Told the currents of conversions in steps of their ADC, its lowest and its largest code."""
Range = float | Tensor
"""Full scale of an ADC: one number, or one for each output."""


@dataclass(frozen=True)
class Drive:
    """What the rows carry: the slices of the inputs, each with its weight, and the codes that they add up to."""

    slices: list[tuple[float, Tensor]]
    codes: Tensor
    full: float = 0.0

    def power(self, n: int) -> Tensor:
        """Return the sum of the slices' n-th powers over the full scale's (n - 1)-th, weighted."""
        values = [radix * self.full * (values / self.full) ** n for radix, values in self.slices]
        return sum(values[1:], values[0])

    def part(self, operator: LinearOperator, tile: RowTile) -> "Drive":
        """Return what the rows of one tile carry."""
        return Drive(
            [(radix, laid_out(operator, operator.tile_inputs(values, tile))) for radix, values in self.slices], self.codes, self.full
        )

    def total(self) -> Tensor:
        """Return the sum of the slices, weighted."""
        (first, values), *others = self.slices
        result = values if first == 1.0 else values * first
        for radix, more in others:
            result = result + radix * more
        return result


@dataclass(frozen=True)
class Reading:
    """Everything that a read of a layer depends on, but inputs and the stream of its noise.

    Attributes
    ----------
    design, operator
        The crossbar, and the linear map of the layer.
    arrays
        What is multiplied by.
    tables
        Converters with errors of their own, or None where all are uniform.
    input_range
        Full scale of the DAC, or None for each batch's own.
    output_ranges
        Full scale of the ADC for each slice, in inputs times weight codes (of inputs whose slices are converted one by one, in digits times
        weight codes); None for each batch's own.
    hear
        Told of every conversion, or None.
    shared
        Where what the rows carry is kept for inputs that come again, or None.
    """

    design: RRAMCrossbar
    operator: LinearOperator
    arrays: Arrays
    tables: ConverterTables | None = None
    input_range: float | None = None
    output_ranges: list[Range] | None = None
    hear: Hear | None = None
    shared: SharedInputs[Drive] | None = None
    _stacks: dict[bool, list[Terms]] = field(default_factory=dict)

    def __call__(self, inputs: Tensor, key: Key, *, bias: Tensor | None = None, keep: bool = False) -> tuple[Tensor, Tensor | None, float]:
        """Read once.

        Parameters
        ----------
        inputs
            As the linear map takes them, with or without a batch.
        key
            Stream of the noise.
        bias
            Added digitally, or None.
        keep
            Whether to return what the rows carried.

        Returns
        -------
        tuple
            The outputs; what the rows carried, in DAC codes (or None); and the value of one code.
        """
        dimensions = self.operator.dimensions
        shape, given = inputs.shape, inputs
        inputs = inputs.reshape(-1, shape[-1]) if dimensions == 0 else inputs if inputs.dim() == dimensions + 2 else inputs.unsqueeze(0)
        # Images are answered in the layout that they come in, and read with their channels last.
        last = inputs.dim() == 4 and not inputs.is_contiguous() and inputs.is_contiguous(memory_format=torch.channels_last)
        layout = torch.channels_last if last else torch.contiguous_format
        inputs = inputs.contiguous(memory_format=layout)
        unit = self._input_unit(inputs)
        full = self._full_drive(inputs, unit)
        outputs = self.arrays.lines[0].terms[0].weight.shape[0]
        spatial = self._spatial(inputs)
        result = torch.empty(len(inputs), outputs, *spatial, dtype=inputs.dtype, device=inputs.device, memory_format=layout)
        carried = torch.empty_like(inputs) if keep else None
        size = self._vectors_at_once(inputs, outputs, prod(spatial))
        kept = None if self.shared is None else self.shared.of(given, (unit, full, size))
        for number, start in enumerate(range(0, len(inputs), size)):
            part = slice(start, start + size)
            drive = SharedInputs.block(kept, number, partial(self._drive, inputs[part], unit, full))
            if carried is not None:
                carried[part] = drive.total()
            self._block(drive, unit, key if number == 0 else key.fold("block", number), bias, result[part])
        if dimensions == 0:
            return result.reshape(*shape[:-1], outputs), None if carried is None else carried.reshape(shape), unit
        if len(shape) == dimensions + 1:
            return result.squeeze(0), None if carried is None else carried.squeeze(0), unit
        return result, carried, unit

    # sizes

    def _spatial(self, inputs: Tensor) -> tuple[int, ...]:
        operator = self.operator
        kernel = self.arrays.lines[0].terms[0].weight.shape[2:]
        return tuple(
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(inputs.shape[2:], operator.padding, operator.dilation, kernel, operator.stride, strict=True)
        )

    def _vectors_at_once(self, inputs: Tensor, outputs: int, positions: int) -> int:
        if self.design.adc is not None and self.output_ranges is None and len(inputs):
            return len(inputs)  # the range is the whole batch's
        slices = self._stacked_slices
        return vectors_at_once(inputs[:1].numel() * slices, outputs * positions * slices * len(self.arrays.lines), positions * slices)

    @property
    def _stacked_slices(self) -> int:
        """Input slices that have conversions of their own."""
        return self.design.input_slices if self.design.adc is not None and not self.design.analog_input_slices else 1

    # inputs

    def drive(self, inputs: Tensor) -> tuple[Drive, float]:
        """Return what the rows carry for inputs with a batch, and the value of one DAC code."""
        unit = self._input_unit(inputs)
        return self._drive(laid_out(self.operator, inputs), unit, self._full_drive(inputs, unit)), unit

    def _input_unit(self, inputs: Tensor) -> float:
        dac = self.design.dac
        if dac is None:
            return 1.0
        scale = self.input_range if self.input_range is not None else _largest(inputs)
        return dac.step(scale) if scale > 0 else 1.0

    def _full_drive(self, inputs: Tensor, unit: float) -> float:
        """Return what the rows carry at full scale, where a nonlinear current needs to know it."""
        dac = self.design.dac
        if self.design.current_voltage is None:
            return 0.0
        if dac is not None and dac.slice_bits is not None:
            return float(2**dac.level_bits - 1)
        return self.input_range / unit if self.input_range else _largest(inputs) / unit

    def _drive(self, inputs: Tensor, unit: float, full: float) -> Drive:
        design, dac = self.design, self.design.dac
        if dac is None:
            codes = laid_out(self.operator, inputs)
        else:
            codes = codes_of(self.operator, inputs, unit, dac.lowest, dac.limit)
        slices = [(1.0, codes)]
        if dac is not None and dac.slice_bits is not None:
            slices = digits_of(codes, dac.slice_bits, dac.slices)
        law = design.current_voltage
        if law is not None and full > 0:
            slices = [(radix, law.relative_current(values / full) * full) for radix, values in slices]
        return Drive(slices, codes, full)

    def _of_tile(self, drive: Drive, t: int, tile: RowTile) -> Drive:
        """Return what the rows of one tile carry, through the levels of its DAC."""
        part, tables = drive.part(self.operator, tile), self.tables
        if tables is None or tables.levels is None:
            return part
        return Drive([(radix, tables.driven(values, t)) for radix, values in part.slices], part.codes, part.full)

    # one block

    def _block(self, drive: Drive, unit: float, key: Key, bias: Tensor | None, result: Tensor) -> None:
        """Write the outputs of some samples into `result`."""
        arrays, along = self.arrays, self._along_outputs
        worth = unit * (arrays.unit if isinstance(arrays.unit, float) else 1.0)
        line = arrays.lines[0]
        turned = self._fused and self.operator.dimensions == 2 and not result.is_contiguous(memory_format=torch.channels_last)
        out = None if turned else result
        if self._fused:
            for t, tile in enumerate(arrays.tiles):
                out = self._read(self._of_tile(drive, t, tile), line, line.terms[t], key.fold(0, t), (unit, worth), out, t > 0)
        else:
            out = result if result.is_contiguous() else torch.empty_like(result, memory_format=torch.contiguous_format)
            self._stacked(drive, unit, key, out)
            if worth != 1.0:
                out.mul_(worth)
        assert out is not None
        if arrays.pedestal:
            ones = torch.ones_like(line.terms[0].weight[: self.operator.groups, :1])
            channels = drive.codes.shape[1] // self.operator.groups
            sums = self.operator(drive.codes, ones.expand(-1, channels, *ones.shape[2:]).contiguous())
            out.sub_(sums.repeat_interleave(out.shape[1] // self.operator.groups, 1), alpha=arrays.pedestal * worth)
        if isinstance(arrays.unit, Tensor):
            out.mul_(along(arrays.unit))
        if turned:
            channels_first(out, result, bias)
            return
        if bias is not None:
            out.add_(along(bias))
        if out is not result:
            result.copy_(out)

    @property
    def _fused(self) -> bool:
        """Whether each output takes one uniform conversion, so that everything after the products is one pass."""
        arrays, ranges = self.arrays, None if self.output_ranges is None else self.output_ranges[0]
        line, uniform = arrays.lines[0], self.tables is None or self.tables.thresholds is None
        alone = len(arrays.lines) * self._stacked_slices == 1 and line.terms[0].reference is None and line.factor > 0
        return alone and uniform and not isinstance(ranges, Tensor)

    def _read(
        self, drive: Drive, line: Line, terms: Terms, key: Key, units: tuple[float, float], out: Tensor | None, accumulate: bool
    ) -> Tensor:
        """Read one array whose outputs take one uniform conversion each; without `out` they take the place of the currents."""
        operator = self.operator
        currents = laid_out(operator, self.products(drive, terms))
        out = currents if out is None else out
        variance = self._variance(drive, terms)
        variance = None if variance is None else in_memory(operator, laid_out(operator, variance))
        adc = self.design.adc
        scale = units[1] * line.factor
        if adc is None and variance is None:
            return out.add_(currents, alpha=scale) if accumulate else torch.mul(currents, scale, out=out)
        step, limit, low = 0.0, 0, 0
        if adc is not None:
            full = _largest(currents) if self.output_ranges is None else float(self._range(line, units[0]))
            step, limit, low = (adc.step(full), adc.limit, adc.lowest) if full > 0 else (0.0, 0, 0)
        values = in_memory(operator, currents)
        if self.hear is not None and step:
            if variance is not None:
                convert(values, variance=variance, key=key, out=values)
                variance = None
            self.hear(currents / step, low, limit)
        convert(
            values,
            variance=variance,
            key=key if variance is not None else None,
            step=step,
            limit=limit,
            low=low if step else None,
            scale=scale,
            out=in_memory(operator, out),
            accumulate=accumulate,
        )
        return out

    def products(self, drive: Drive, terms: Terms) -> Tensor:
        """Return the currents of an array without noise."""
        currents = multiply(self.operator, drive.total(), terms.weight)
        for n, weight in enumerate(terms.bends if drive.full > 0 else (), 2):
            currents = currents + multiply(self.operator, drive.power(n), weight)
        return currents

    def _variance(self, drive: Drive, terms: Terms) -> Tensor | None:
        """Return the variance of currents whose inputs' slices are added in analog: each slice is a read of its own."""
        if terms.square is None:
            return None
        if len(drive.slices) == 1:
            radix, values = drive.slices[0]
            found = terms.variance(self.operator, values)
            return found if found is None or radix == 1.0 else found * radix**2
        if terms.cross is None:
            power = sum((radix**2 * values.square() for radix, values in drive.slices), torch.zeros(()))
            return terms.power(self.operator, power)
        parts = [(radix, terms.variance(self.operator, values)) for radix, values in drive.slices]
        return sum((radix**2 * part for radix, part in parts if part is not None), torch.zeros(()))

    def _stacked(self, drive: Drive, unit: float, key: Key, out: Tensor) -> None:
        """Read lines and input slices as one product an array, and convert and add them in one pass; in codes of weights and inputs."""
        arrays, operator = self.arrays, self.operator
        for references in (False, True):
            lines = [line for line in arrays.lines if line.references == references]
            if not lines:
                continue
            columns = lines[0].terms[0].weight.shape[0] // operator.groups
            sizes = len(out), operator.groups, columns, prod(out.shape[2:])
            into = torch.zeros(sizes, device=out.device) if references else out.view(sizes)
            stack = self._stack(references)
            for t, tile in enumerate(arrays.tiles):
                part = self._of_tile(drive, t, tile)
                stream = key.fold("references", t) if references else key.fold(0, t)
                currents, radices = self._currents(part, stack[t], stream)
                values = currents.view(len(radices), len(out), operator.groups, len(lines), columns, sizes[-1])
                self._convert(values, lines, radices, (t, unit), into, references or t > 0)
            if references:
                assert arrays.reference_of is not None
                spread = into.flatten(1, 2).index_select(1, arrays.reference_of)
                out.add_(spread.view(out.shape))

    def _stack(self, references: bool) -> list[Terms]:
        if references not in self._stacks:
            lines = [line for line in self.arrays.lines if line.references == references]
            self._stacks[references] = [
                _stacked_terms([line.terms[t] for line in lines], self.operator.groups) for t in range(len(self.arrays.tiles))
            ]
        return self._stacks[references]

    def _currents(self, drive: Drive, terms: Terms, key: Key) -> tuple[Tensor, list[float]]:
        """Return the noisy currents of all lines, input slices one after the other along the batch, and these slices' weights."""
        operator = self.operator
        if self._stacked_slices > 1:
            radices = [radix for radix, _ in drive.slices]
            drive = Drive([(1.0, torch.cat([values for _, values in drive.slices]))], drive.codes, drive.full)
        else:
            radices = [1.0]
        currents = laid_out(operator, self.products(drive, terms))
        variance = self._variance(drive, terms)
        if variance is not None:
            values = in_memory(operator, currents)
            convert(values, variance=in_memory(operator, laid_out(operator, variance)), key=key, out=values)
        currents = currents.contiguous()
        if terms.reference is not None:
            # The reference columns' noise, drawn once a read, is taken from all outputs of their block.
            common = self._variance(drive, terms.reference)
            if common is not None:
                noise = convert(torch.zeros_like(common), variance=common.contiguous(), key=key.fold("reference"))
                lines = terms.weight.shape[0] // len(self.arrays.lines[0].terms[0].weight)
                groups = operator.groups
                assert self.arrays.reference_of is not None
                spread = noise.view(len(noise), groups, lines, -1, *noise.shape[2:]).transpose(1, 2).flatten(2, 3)
                spread = spread.index_select(2, self.arrays.reference_of).unflatten(2, (groups, -1)).transpose(1, 2)
                currents.sub_(spread.reshape(currents.shape))
        return currents, radices

    def _convert(
        self, values: Tensor, lines: list[Line], radices: list[float], place: tuple[int, float], into: Tensor, accumulate: bool
    ) -> None:
        """Digitize (input slices, samples, groups, lines, columns, positions) and add up; `place` is the tile and an input's unit."""
        adc, (t, unit) = self.design.adc, place
        groups, columns = values.shape[2], values.shape[4]
        factors = torch.tensor([[radix * line.factor for line in lines] for radix in radices], device=values.device)
        steps = torch.zeros(len(lines), 1, device=values.device)
        low, high = -1, 1
        thresholds = converter = None
        if adc is not None:
            low, high = adc.lowest, adc.limit
            fulls = [self._full(values[:, :, :, index], line, unit) for index, line in enumerate(lines)]
            width = 1 if all(full.numel() == 1 for full in fulls) else groups * columns
            steps = torch.stack([full.expand(width) for full in fulls]).contiguous() / adc.limit
            if self.tables is not None and self.tables.thresholds is not None:
                thresholds = self.tables.thresholds[t]
                converter = self.tables.index(lines, lines[0].references)
            if self.hear is not None:
                sizes = torch.where(steps > 0, steps, torch.ones_like(steps)).expand(-1, groups * columns)
                self.hear(values / sizes.reshape(len(lines), groups, columns, 1).transpose(0, 1), low, high)
        shift_add(values, steps, factors, low, high, thresholds=thresholds, converter=converter, out=into, accumulate=accumulate)

    def _range(self, line: Line, unit: float) -> Range:
        """Return the full scale of a line's conversions in codes of what the rows carry times weight codes."""
        assert self.output_ranges is not None
        found = self.output_ranges[line.slice]
        return found if self._stacked_slices > 1 else found / unit

    def _full(self, values: Tensor, line: Line, unit: float) -> Tensor:
        """Return that of a line, one number or one a column, on the device of its values."""
        if self.output_ranges is None:
            return torch.full((1,), _largest(values), device=values.device)
        found = torch.as_tensor(self._range(line, unit), dtype=torch.float32, device=values.device).reshape(-1)
        # The reference column is converted like the outputs that it is taken from: by the largest of their ranges.
        return found.amax().reshape(1) if line.references else found

    def _along_outputs(self, values: Tensor) -> Tensor:
        return values if self.operator.dimensions == 0 else values.reshape(-1, *[1] * self.operator.dimensions)


def digits_of(codes: Tensor, bits: int, slices: int) -> list[tuple[float, Tensor]]:
    """Return the digits of the codes' magnitudes, lowest first, each with the code's sign, and the weight of each.

    Examples
    --------
    >>> [(radix, digit.tolist()) for radix, digit in digits_of(torch.tensor([5.0, -6.0]), 2, 2)]
    [(1.0, [1.0, -2.0]), (4.0, [1.0, -1.0])]
    """
    magnitude, sign = codes.abs().int(), codes.sign()
    mask = (1 << bits) - 1
    return [(float(2 ** (bits * s)), ((magnitude >> (bits * s)) & mask).float().mul_(sign)) for s in range(slices)]


def _stacked_terms(terms: list[Terms], groups: int) -> Terms:
    """Return the terms of several lines as those of one, in each group line after line."""

    def stack(parts: list[Tensor | None]) -> Tensor | None:
        if any(part is None for part in parts):
            return None
        found = torch.stack([part.unflatten(0, (groups, -1)) for part in parts if part is not None], dim=1)
        flat = found.flatten(0, 2)
        return flat.contiguous(memory_format=torch.channels_last) if flat.dim() == 4 else flat.contiguous()

    weight = stack([one.weight for one in terms])
    assert weight is not None
    inner = [one.reference for one in terms]
    return Terms(
        weight,
        stack([one.square for one in terms]),
        stack([one.cross for one in terms]),
        stack([one.constant for one in terms]),
        terms[0].mean,
        None if any(one is None for one in inner) else _stacked_terms([one for one in inner if one is not None], groups),
        tuple(one for one in (stack(list(parts)) for parts in zip(*(one.bends for one in terms), strict=True)) if one is not None),
    )


def _largest(values: Tensor) -> float:
    """Return the largest magnitude, in one pass that writes nothing."""
    if not values.numel():
        return 0.0
    low, high = values.aminmax()
    return max(-float(low), float(high))
