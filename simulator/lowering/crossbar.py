"""Linear layers and convolutions on resistive crossbars."""

from collections.abc import Iterator
from dataclasses import asdict
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from devices.base import Cost, ProgrammedCells
from devices.rram import CrossbarActivity, MappedWeights, RRAMCrossbar, crossbar_cost
from kernels.crossbar import convert, quantize
from kernels.random import Key
from simulator.calibration import ConverterRange, RangeObserver, full_scale
from simulator.hardware import HardwareLayer, Mode, Placement
from simulator.lowering.arrays import Arrays, build_arrays
from simulator.masters import WeightMark
from simulator.operators import row_tiles
from simulator.weight_layers import WeightLayer


class CrossbarLayer(HardwareLayer):
    """A linear layer or convolution whose weights are conductances of resistive crossbars.

    A read rounds the inputs to DAC codes, multiplies them by the effective weight of each array (one matmul or convolution),
    adds the noise of all cells as one Gaussian an output (its variance is a second matmul with the squared inputs),
    rounds every array's column sums to ADC codes, and adds arrays, slices and the bias digitally.

    Parameters
    ----------
    name, seed
        See `HardwareLayer`.
    design
        The crossbar.
    layer
        The master weights and the linear map that they are in.
    """

    def __init__(self, name: str, seed: int, design: RRAMCrossbar, layer: WeightLayer) -> None:
        super().__init__(name, seed, layer)
        self.design = design
        self.taps = self.weight[0, 0].numel()
        self.tiles = row_tiles(self.weight.shape[1], self.taps, design.rows)
        self.cells: ProgrammedCells | None = None
        self.trial = 0
        self._age = Fraction(0)
        self.training_reads = 0
        self.input_range: float | None = None
        self.output_ranges: list[float] | None = None
        self._programming_seed = seed
        self._mark: WeightMark | None = None
        self._loaded_current = False
        self._arrays: Arrays | None = None
        self._input_observer = RangeObserver()
        self._output_observers: list[RangeObserver] = []

    # what and where

    @property
    def placement(self) -> Placement:
        """Arrays, cells used and multiply-accumulates of the layer."""
        columns = -(-self.weight.shape[0] // self.operator.groups // self.design.weights_per_row)
        arrays = -(-self.operator.groups // self.groups_per_array) * len(self.tiles) * columns
        cells = self.weight.numel() * 2 * self.design.mapping.slices
        notes = [self.note] if self.note else []
        if self.groups_per_array > 1:
            notes.append(f"{self.operator.groups} groups, {self.groups_per_array} to an array as diagonal blocks, read one after the other")
        if self.design.mapping.weight_bits is not None:
            notes.append(f"weights in {self.design.mapping.weight_bits} bits, {self.design.mapping.slices} slices")
        return Placement(
            type(self.design).__name__,
            self.weight.numel() // self.operator.groups,
            arrays,
            cells / (arrays * self.design.rows * self.design.columns),
            "; ".join(notes),
        )

    @property
    def groups_per_array(self) -> int:
        """Groups that share an array as blocks on its diagonal; while one is read, the others' rows rest and their columns float."""
        groups, per_row = self.operator.groups, self.design.weights_per_row
        outputs = self.weight.shape[0] // groups
        if groups == 1 or len(self.tiles) > 1 or outputs > per_row:
            return 1
        return max(1, min(groups, self.design.rows // self.tiles[0].rows, per_row // outputs))

    def vectors(self, outputs: Tensor) -> int:
        """Return how many input vectors a call with these outputs drove: one for each position of each group."""
        return self.operator.positions(outputs) * self.operator.groups

    # programming

    @property
    def programmed(self) -> bool:
        """Whether cells have been programmed."""
        return self.cells is not None

    @property
    def seconds(self) -> float:
        """Time since programming, in seconds."""
        return float(self._age)

    @torch.inference_mode(False)
    @torch.no_grad()
    def program(self, seed: int, trial: int) -> None:
        """Draw the conductances of every cell for this (seed, trial)."""
        mapped = self._map()
        self.cells = self._draw(mapped, Key.of(seed=seed, trial=trial, layer=self.name, purpose="program"))
        self._programming_seed, self.trial, self._age, self.reads = seed, trial, Fraction(0), 0
        self._mark = WeightMark.of(self.weight)
        self._arrays = None

    def age(self, seconds: float) -> None:
        """Recompute the conductances for a time further from programming."""
        self._require_current_masters()
        # Exact, so that many steps add up to the same bits as one.
        self._age += Fraction(seconds)
        self._arrays = None

    def _map(self) -> MappedWeights:
        return self.design.mapping.map(self.weight.detach(), self.design.cell)

    def _draw(self, mapped: MappedWeights, key: Key) -> ProgrammedCells:
        targets = mapped.targets_siemens
        cells = self.design.cell.program(targets, key)
        if not isinstance(cells, ProgrammedCells) or cells.conductance.shape != targets.shape:
            got = tuple(cells.conductance.shape) if isinstance(cells, ProgrammedCells) else type(cells).__name__
            raise ValueError(
                f"`{type(self.design.cell).__name__}.program` must return ProgrammedCells with a conductance of the target's shape "
                f"{tuple(targets.shape)}, but got {got}"
            )
        if not bool(torch.isfinite(cells.conductance).all()):
            name = type(self.design.cell).__name__
            raise ValueError(f"`{name}.program` must return finite conductances, but got NaN or infinity in layer `{self.name}`")
        return cells

    def _stand(self, cells: ProgrammedCells, seconds: float, key: Key) -> Tensor:
        """Return the conductances as they stand some time after programming: drifted, stuck ones at their place, at temperature."""
        conductance = self.design.cell.drift(cells, seconds, key)
        if not isinstance(conductance, Tensor) or conductance.shape != cells.conductance.shape:
            got = tuple(conductance.shape) if isinstance(conductance, Tensor) else type(conductance).__name__
            name, shape = type(self.design.cell).__name__, tuple(cells.conductance.shape)
            raise ValueError(f"`{name}.drift` must return conductances of shape {shape}, but got {got}")
        if self.design.stuck is not None:
            conductance = self.design.stuck.apply(conductance, key.fold("stuck"), self.design.cell)
        return conductance if self.design.temperature is None else self.design.temperature.apply(conductance)

    def _effective(self, mapped: MappedWeights, conductance: Tensor, seconds: float) -> Arrays:
        return build_arrays(self.design, mapped, conductance, seconds, self.operator, self.tiles)

    @torch.inference_mode(False)
    @torch.no_grad()
    def _instance(self) -> Arrays:
        """Return what the next eval read multiplies by, programming the first instance if there is none."""
        if self.cells is None:
            self.program(self._programming_seed, self.trial)
        self._require_current_masters()
        if self._arrays is None:
            cells = self.cells
            assert cells is not None
            key = Key.of(seed=self._programming_seed, trial=self.trial, layer=self.name, purpose="drift")
            self._arrays = self._effective(self._map(), self._stand(cells, self.seconds, key), self.seconds)
        return self._arrays

    def _require_current_masters(self) -> None:
        if self.cells is not None and not self._masters_are_current():
            raise RuntimeError(
                f"Layer `{self.name}`: the master weights changed after programming; call program() before reading in eval mode"
            )

    # reading

    def forward(self, inputs: Tensor) -> Tensor:
        """Read the layer for inputs of the torch layer's shape, float32; returns the torch layer's shape."""
        self._check(inputs)
        surrounded = self.operator.surround(inputs)
        if self.mode is Mode.FLOAT:
            return self._with_bias(self.operator(surrounded, self.weight))
        if self.mode is Mode.CALIBRATE:
            return self._observe(surrounded)
        if self.training:
            self.training_reads += 1
            key = Key.of(seed=self.seed, layer=self.name, purpose="training")
            with torch.no_grad():
                mapped = self._map()
                # Fabricated once, programmed anew at each forward: what is keyed by the read counter changes, the devices stay.
                cells = self._draw(mapped, key.fold("program").at(self.training_reads))
                arrays = self._effective(mapped, self._stand(cells, 0.0, key.fold("drift").at(self.training_reads)), 0.0)
            key = key.fold("read").at(self.training_reads)
        else:
            arrays = self._instance()
            self.reads += 1
            key = Key.of(seed=self._programming_seed, trial=self.trial, layer=self.name, purpose="read", read=self.reads)
        if torch.is_grad_enabled() and (surrounded.requires_grad or self.weight.requires_grad):
            read: Tensor = _Read.apply(surrounded, self.weight, self, arrays, key)  # type: ignore[no-untyped-call]
        else:
            read, _, _ = self._read(surrounded, arrays, key)
        return self._with_bias(read)

    def _read(self, inputs: Tensor, arrays: Arrays, key: Key) -> tuple[Tensor, Tensor, float]:
        """Return the outputs without bias, the inputs as the rows see them (in DAC codes), and the value of one code."""
        design = self.design
        inputs = inputs.contiguous()
        input_unit = 1.0
        if design.dac is not None:
            scale = self.input_range if self.input_range is not None else float(inputs.abs().amax()) if inputs.numel() else 0.0
            if scale > 0:
                input_unit = design.dac.step(scale)
                inputs = quantize(inputs, input_unit, -design.dac.limit, design.dac.limit, unit=1.0)
        if design.current_voltage is not None:
            full = (self.input_range or 0.0) / input_unit if self.input_range else float(inputs.abs().amax()) if inputs.numel() else 0.0
            if full > 0:
                inputs = design.current_voltage.relative_current(inputs / full) * full
        single_unit = arrays.unit if isinstance(arrays.unit, float) else 1.0
        output: Tensor | None = None
        for s, radix in enumerate(arrays.radix):
            for t, (tile, terms) in enumerate(zip(arrays.tiles, arrays.terms[s], strict=True)):
                part = self.operator.tile_inputs(inputs, tile)
                currents = self.operator(part, terms.weight)
                variance = terms.variance(self.operator, part)
                output = self._convert(currents, variance, key.fold(s, t), output, s, input_unit, radix * single_unit * input_unit)
        assert output is not None
        if isinstance(arrays.unit, Tensor):
            output = output * self._along_outputs(arrays.unit)
        return output, inputs, input_unit

    def _convert(
        self, currents: Tensor, variance: Tensor | None, key: Key, output: Tensor | None, s: int, input_unit: float, scale: float
    ) -> Tensor:
        """Add read noise to one array's column sums, round them to ADC codes, and add them to the output."""
        adc = self.design.adc
        if adc is None and variance is None:
            return currents if scale == 1.0 else currents * scale
        step, limit = 0.0, 0
        if adc is not None:
            fixed = None if self.output_ranges is None else self.output_ranges[s] / input_unit
            full = fixed if fixed is not None else float(currents.abs().amax()) if currents.numel() else 0.0
            step, limit = (adc.step(full), adc.limit) if full > 0 else (0.0, 0)
        return convert(
            currents.contiguous(),
            variance=None if variance is None else variance.contiguous(),
            key=key if variance is not None else None,
            step=step,
            limit=limit,
            scale=scale,
            out=currents if output is None and currents.is_contiguous() else output,
            accumulate=output is not None,
        )

    def _along_outputs(self, values: Tensor) -> Tensor:
        return values if self.operator.dimensions == 0 else values.reshape(-1, *[1] * self.operator.dimensions)

    def _with_bias(self, outputs: Tensor) -> Tensor:
        bias: Tensor | None = self.bias
        return outputs if bias is None else outputs + self._along_outputs(bias)

    def _check(self, inputs: Any) -> None:
        dimensions, groups = self.operator.dimensions, self.operator.groups
        channels = self.weight.shape[1] * groups
        if dimensions == 0:
            if not isinstance(inputs, Tensor) or inputs.dtype != torch.float32 or inputs.dim() == 0 or inputs.shape[-1] != channels:
                self._refuse(inputs, f"float32 of shape (..., {channels})")
            return
        allowed = f"float32 of shape (batch, {channels}{', length' * dimensions}) or without the batch"
        if not isinstance(inputs, Tensor) or inputs.dtype != torch.float32 or inputs.dim() not in (dimensions + 1, dimensions + 2):
            self._refuse(inputs, allowed)
        elif inputs.shape[inputs.dim() - dimensions - 1] != channels:
            self._refuse(inputs, allowed)

    # calibration

    def start_calibration(self) -> None:
        """Forget what was observed."""
        self._input_observer = RangeObserver()
        self._output_observers = [RangeObserver() for _ in range(self.design.mapping.slices)]

    def finish_calibration(self, source: str) -> list[str]:
        """Set the full scales of DAC and ADC; returns what fell back to each batch's own maximum."""
        warnings = []
        design = self.design
        self.input_range = None if design.dac is None else full_scale(design.dac, self._input_observer)
        self.output_ranges = None
        if design.adc is not None:
            ranges = [full_scale(design.adc, observer) for observer in self._output_observers] or [None]
            given = [r for r in ranges if r is not None]
            # A slice that no weight reaches was never seen to carry a current: any range fits it.
            self.output_ranges = [r if r is not None else max(given) for r in ranges] if given else None
        self.ranges = tuple(self._describe_ranges())
        for converter, found, label in ((design.dac, self.input_range, "DAC"), (design.adc, self.output_ranges, "ADC")):
            if converter is not None and found is None and converter.range_policy != "per_batch":
                warnings.append(
                    f"Layer `{self.name}`: {label} range policy '{converter.range_policy}' had no {source}; "
                    "the range is each batch's own maximum"
                )
        return warnings

    def _describe_ranges(self) -> Iterator[ConverterRange]:
        dac, adc, chosen = self.design.dac, self.design.adc, self.output_ranges
        if dac is not None:
            yield ConverterRange.of(self.name, "DAC", dac, self.input_range, self._input_observer)
        for s, observer in enumerate(self._output_observers if adc is not None else ()):
            assert adc is not None
            name = "ADC" if len(self._output_observers) == 1 else f"ADC of slice {s}"
            yield ConverterRange.of(self.name, name, adc, None if chosen is None else chosen[s], observer)

    @torch.no_grad()
    def _observe(self, inputs: Tensor) -> Tensor:
        self._input_observer.add(inputs)
        mapped = self._map()
        if self.design.adc is not None:
            for s, codes in enumerate(mapped.codes):
                for tile in self.tiles:
                    currents = self.operator(self.operator.tile_inputs(inputs, tile), self.operator.tile_weight(codes, tile))
                    self._output_observers[s].add(currents)
        return self._with_bias(self.operator(inputs, self.weight))

    @torch.no_grad()
    def cost(self, inputs: Tensor, outputs: Tensor) -> list[Cost]:
        """Return the cost rows of one read of these inputs, from the target conductances and the inputs' own voltages."""
        design, groups = self.design, self.operator.groups
        surrounded = self.operator.surround(inputs)
        targets = self._map().targets_siemens
        # All cells of a row see the same voltage: sum their conductances first, and one output a group carries sum V^2 G.
        row_siemens = targets.sum(dim=(0, 1)).unflatten(0, (groups, -1)).sum(1)
        scale = self.input_range if self.input_range is not None else float(surrounded.abs().amax())
        squared = (surrounded / scale).clamp(-1, 1) ** 2 if scale > 0 else surrounded
        siemens = float(self.operator(squared, row_siemens).double().sum())
        vectors, slices = self.vectors(outputs), design.mapping.slices
        columns = self.weight.shape[0] // groups
        rows = self.weight[0].numel()
        conversions = vectors * columns * slices * len(self.tiles)
        activity = CrossbarActivity(
            arrays=self.placement.arrays,
            cells=self.weight.numel() * 2 * slices,
            vectors=self.operator.positions(outputs) * self.groups_per_array,
            row_conversions=vectors * rows * -(-columns // design.weights_per_row),
            column_conversions=conversions,
            columns_used=min(columns, design.weights_per_row) * slices,
            relative_siemens=siemens,
            macs=vectors * rows * columns,
            bytes_in=-(-vectors * rows * (design.dac.bits if design.dac else 32) // 8),
            bytes_out=-(-conversions * (design.adc.bits if design.adc else 32) // 8),
        )
        return crossbar_cost(design, self.name, activity)

    # state

    def get_extra_state(self) -> dict[str, Any]:
        """Return everything but the parameters: programmed cells, ranges, seed, trial, age and counters."""
        return {
            "design": self.design.fingerprint(),
            "cells": None if self.cells is None else {"conductance": self.cells.conductance, "memory": dict(self.cells.memory)},
            "current": self._masters_are_current(),
            "programming_seed": self._programming_seed,
            "trial": self.trial,
            "age": str(self._age),
            "reads": self.reads,
            "training_reads": self.training_reads,
            "input_range": self.input_range,
            "output_ranges": self.output_ranges,
            "ranges": [asdict(one) for one in self.ranges],
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over what `get_extra_state` returned, onto the device of the weights."""
        if state["design"] != self.design.fingerprint():
            raise ValueError(
                f"Layer `{self.name}`: the stored state must be of the same design, {self.design.fingerprint()}, "
                f"but is of {state['design']}; compile the model onto that design"
            )
        cells = state["cells"]
        if cells is not None:
            expected = (self.design.mapping.slices, 2, *self.weight.shape)
            if tuple(cells["conductance"].shape) != expected:
                got = tuple(cells["conductance"].shape)
                raise ValueError(f"Layer `{self.name}`: the stored conductances must have shape {expected}, but got {got}")
            cells = ProgrammedCells(
                cells["conductance"].to(self.weight.device), {name: value.to(self.weight.device) for name, value in cells["memory"].items()}
            )
        self.cells = cells
        self._programming_seed, self.trial, self._age = state["programming_seed"], state["trial"], Fraction(state["age"])
        self.reads, self.training_reads = state["reads"], state["training_reads"]
        self.input_range, self.output_ranges = state["input_range"], state["output_ranges"]
        self.ranges = tuple(ConverterRange(**one) for one in state["ranges"])
        self._loaded_current = bool(state["current"])
        self._arrays = None
        self.settle()

    def settle(self) -> None:
        """Take the master weights as they are now for those that a state just loaded was programmed from."""
        self._mark = WeightMark.of(self.weight) if self._loaded_current else None

    def _masters_are_current(self) -> bool:
        return self.cells is not None and self._mark is not None and self._mark.holds(self.weight)

    def _apply(self, fn: Any, recurse: bool = True) -> "CrossbarLayer":
        current = self._masters_are_current()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.cells is not None:
            self.cells = ProgrammedCells(fn(self.cells.conductance), {name: fn(value) for name, value in self.cells.memory.items()})
        self._arrays = None
        self._mark = WeightMark.of(self.weight) if current else None
        return self

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        state["_arrays"] = None
        state["_mark"] = self._masters_are_current()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._mark = WeightMark.of(self.weight) if state["_mark"] else None

    def extra_repr(self) -> str:
        """Return the line that ``print(chip)`` shows."""
        placement = self.placement
        shape = " x ".join(str(size) for size in self.weight.shape)
        return f"{self.kind} {shape} on {placement.hardware}, {placement.arrays} arrays, utilization {placement.utilization:.0%}"


class _Read(torch.autograd.Function):
    """A read whose gradient passes straight through noise and rounding; inputs beyond the DAC's range get none."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, layer: CrossbarLayer, arrays: Arrays, key: Key) -> Tensor:
        output, codes, unit = layer._read(inputs, arrays, key)
        ctx.layer, ctx.arrays, ctx.unit = layer, arrays, unit
        limit = layer.input_range
        ctx.save_for_backward(codes, None if limit is None or layer.design.dac is None else inputs.abs() <= limit)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        codes, inside = ctx.saved_tensors
        weight = ctx.arrays.collapsed(ctx.layer.weight)
        needs = (ctx.needs_input_grad[0], ctx.needs_input_grad[1])
        for_inputs, for_weight = ctx.layer.operator.gradients(upstream[0].contiguous(), codes, weight, needs)
        if for_inputs is not None and inside is not None:
            for_inputs = for_inputs * inside
        return for_inputs, for_weight if for_weight is None else for_weight * ctx.unit, None, None, None
