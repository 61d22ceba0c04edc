"""Linear layers and convolutions on resistive crossbars."""

from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from devices.base import Cost, ProgrammedCells
from devices.rram import IdealCell, MappedWeights, RRAMCrossbar
from kernels.random import Key
from simulator.calibration import ConverterRange
from simulator.hardware import HardwareLayer, Mode, Placement
from simulator.lowering.activity import layer_cost
from simulator.lowering.arrays import build_arrays, output_blocks
from simulator.lowering.converting import ConverterTables, converter_tables
from simulator.lowering.ranging import CrossbarRanges
from simulator.lowering.reading import Drive, Hear, Range, Reading
from simulator.lowering.remapping import ColumnRemapping, remapping_of
from simulator.lowering.shared_inputs import SharedInputs
from simulator.lowering.straight_through import StraightThroughRead
from simulator.lowering.treatment import CellTreatment, treatment_of
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
        self.treatment: CellTreatment | None = None
        self.remapping: ColumnRemapping | None = None
        self.order: Tensor | None = None  # which output lies at each place; None where every one lies at its own
        self.trial = 0
        self._age = Fraction(0)
        self.input_range: float | None = None
        self.output_ranges: list[Range] | None = None
        self.hear: Hear | None = None
        self._programming_seed = seed
        self._mark: WeightMark | None = None
        self._loaded_mark: Tensor | None = None
        self._arrays: Reading | None = None
        self.sharing = False
        self._shared: SharedMapping | None = None
        self._shared_inputs: SharedInputs[Drive] | None = None
        self._calibration = CrossbarRanges(design)

    # what and where

    @property
    def placement(self) -> Placement:
        """Arrays, cells used and multiply-accumulates of the layer."""
        columns = -(-self.weight.shape[0] // self.operator.groups // self.design.weights_per_row)
        arrays = -(-self.operator.groups // self.groups_per_array) * len(self.tiles) * columns
        cells = self.weight.numel() * self.design.mapping.crosspoints * self.design.mapping.slices
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

    @property
    def references(self) -> int:
        """Reference columns of the layer in each slice: one for each array's outputs, where the mapping has any."""
        blocks = len(output_blocks(self.design, self.operator, self.weight.shape[0]))
        return self.operator.groups * blocks * self.design.mapping.reference_columns

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
        if self.remapping is not None and self.treatment is not None and not self.treatment.movable:
            raise ValueError(
                f"Layer `{self.name}`: single cells must not be treated where outputs are remapped, but were formed for good; compile again"
            )
        self.order = None if self.remapping is None else self.remapping.order(self, seed, trial)
        mapped = self._map()
        self.cells = self._draw(mapped, self.programming_key(seed, trial))
        self._programming_seed, self.trial, self._age, self.reads = seed, trial, Fraction(0), 0
        self._mark = WeightMark.of(self.weight)
        self._arrays = None

    @property
    def instance(self) -> tuple[int, int]:
        """Seed and trial of the programmed instance, or of the one that the first read programs."""
        return self._programming_seed, self.trial

    def programming_key(self, seed: int, trial: int) -> Key:
        """Return the stream that programming an instance draws from."""
        return Key.of(seed=seed, trial=trial, layer=self.name, purpose="program")

    @property
    def ages(self) -> bool:
        """Whether time since programming changes what is read: as its cells say."""
        return self.design.cell.ages

    def age(self, seconds: float) -> None:
        """Recompute the conductances for a time further from programming."""
        self._require_current_masters()
        # Exact, so that many steps add up to the same bits as one.
        self._age += Fraction(seconds)
        self._arrays = None

    def _map(self) -> MappedWeights:
        if self._shared is not None and self._shared.holds(self.weight, self.design, self.order, self.treatment):
            return self._shared.mapped
        weight = self.weight.detach() if self.order is None else self.weight.detach()[self.order]
        mapped = self.design.mapping.map(weight, self.design.cell, self.references)
        mapped = mapped if self.treatment is None else self.treatment.map(mapped, weight, self.order)
        if self.sharing:
            self._shared = SharedMapping(mapped, WeightMark.of(self.weight), self.design, self.order, self.treatment)
        return mapped

    def share_between_trials(self) -> None:
        """Keep what programmings have in common: targets while the masters stay, and DAC codes of batches that come again; same bits."""
        self.sharing, self._shared_inputs = True, SharedInputs()

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
        return cells if self.treatment is None else self.treatment.program(mapped, cells, self.design.cell, key, self.order)

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

    def _effective(self, mapped: MappedWeights, conductance: Tensor, seconds: float, key: Key) -> Reading:
        arrays = build_arrays(self.design, mapped, conductance, seconds, self.operator, self.tiles)
        ranges = self._ranges_by_place
        return Reading(self.design, self.operator, arrays, self._converters(key), self.input_range, ranges, self.hear, self._shared_inputs)

    @property
    def _ranges_by_place(self) -> list[Range] | None:
        """The ADC's ranges: where each output has its own, it moves with the output."""
        if self.order is None or self.output_ranges is None:
            return self.output_ranges
        return [one[self.order] if isinstance(one, Tensor) and one.numel() > 1 else one for one in self.output_ranges]

    def _converters(self, key: Key) -> ConverterTables | None:
        outputs, device = self.weight.shape[0], self.weight.device
        return converter_tables(self.design, self.operator, self.tiles, outputs, self.groups_per_array, key, device)

    @torch.inference_mode(False)
    @torch.no_grad()
    def _instance(self) -> Reading:
        """Return what the next eval read multiplies by, programming the first instance if there is none."""
        if self.cells is None:
            self.program(self._programming_seed, self.trial)
        self._require_current_masters()
        if self._arrays is None:
            key = Key.of(seed=self._programming_seed, trial=self.trial, layer=self.name, purpose="converters")
            self._arrays = self._effective(self._map(), self.conductance, self.seconds, key)
        reading, ranges = self._arrays, self._ranges_by_place
        if reading.input_range is not self.input_range or reading.output_ranges is not ranges or reading.hear is not self.hear:
            self._arrays = replace(reading, input_range=self.input_range, output_ranges=ranges, hear=self.hear)
        return self._arrays

    @property
    @torch.no_grad()
    def conductance(self) -> Tensor:
        """Conductances as the cells stand, siemens, of the targets' shape: drifted, faults included, at temperature."""
        if self.cells is None:
            self.program(self._programming_seed, self.trial)
        assert self.cells is not None
        standing = self._stand(self.cells, self.seconds, self.standing_key(self._programming_seed, self.trial))
        mapping = self.design.mapping
        if mapping.cells_per_weight == mapping.crosspoints:
            return standing
        present = self._map().present
        return standing if present is None else standing * present

    def standing_key(self, seed: int, trial: int) -> Key:
        """Return the stream of what happens to an instance after programming, its faults included."""
        return Key.of(seed=seed, trial=trial, layer=self.name, purpose="drift")

    @torch.inference_mode(False)
    @torch.no_grad()
    def adopt(self, conductance: Tensor, seed: int, trial: int) -> None:
        """Take conductances, of the shape of `conductance`, for those of cells just programmed; what drift needs is drawn as ever."""
        reached = conductance
        if self.design.stuck is not None:
            faulty = self.design.stuck.apply(conductance, self.standing_key(seed, trial).fold("stuck"), self.design.cell)
            scale = 1.0 if self.design.temperature is None else self.design.temperature.factor
            if not torch.allclose(torch.where(faulty == conductance, conductance, faulty * scale), conductance, rtol=1e-5, atol=0.0):
                raise ValueError(
                    f"Layer `{self.name}`: the design must not draw stuck cells of its own where conductances are given, but does; "
                    "compile onto design.replace(stuck=None)"
                )
        self.program(seed, trial)
        assert self.cells is not None
        drawn = self.cells
        reached = reached.to(drawn.conductance)
        if self.design.temperature is not None:
            reached = reached / self.design.temperature.factor
        self.cells = ProgrammedCells(reached.contiguous(), drawn.memory)

    @torch.inference_mode(False)
    @torch.no_grad()
    def pulse(self, pulses: Tensor, step: int) -> None:
        """Send each cell pulses, of the shape of its conductances; `step` keys their noise."""
        self._require_current_masters()
        assert self.cells is not None
        key = self.programming_key(self._programming_seed, self.trial).fold("pulses", step)
        self.cells = ProgrammedCells(self.design.cell.update(self.cells.conductance, pulses, key), self.cells.memory)
        self._arrays = None

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
        self.require_finite(surrounded)
        if self.training:
            number = self.training_read(surrounded)
            key = Key.of(seed=self.seed, layer=self.name, purpose="training")
            with torch.no_grad():
                mapped = self._map()
                # Fabricated once, programmed anew at each forward: what is keyed by the read counter changes, the devices stay.
                cells = self._draw(mapped, key.fold("program").at(number))
                stand = self._stand(cells, 0.0, key.fold("drift").at(number))
                reading = self._effective(mapped, stand, 0.0, key.fold("converters"))
            key = key.fold("read").at(number)
        else:
            reading = self._instance()
            self.reads += 1
            key = Key.of(seed=self._programming_seed, trial=self.trial, layer=self.name, purpose="read", read=self.reads)
        if torch.is_grad_enabled() and (surrounded.requires_grad or self.weight.requires_grad):
            weight = self.weight if self.order is None else self.weight[self.order]
            read: Tensor = StraightThroughRead.apply(surrounded, weight, self, reading, key)  # type: ignore[no-untyped-call]
            return self._with_bias(self._in_order(read))
        with torch.no_grad():
            if self.order is None:
                return reading(surrounded, key, bias=self.bias)[0]
            return self._with_bias(self._in_order(reading(surrounded, key)[0]))

    def _in_order(self, outputs: Tensor) -> Tensor:
        """Return outputs from their places in the order of the layer."""
        if self.order is None:
            return outputs
        return outputs.index_select(outputs.dim() - 1 - self.operator.dimensions, self.order.argsort())

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

    @property
    def calibration_passes(self) -> int:
        """Two where converters see digits of the inputs, which are known only once the DAC's range is."""
        return self._calibration.passes

    def start_calibration(self) -> None:
        """Forget what was observed."""
        self._calibration = CrossbarRanges(self.design)

    def next_calibration_pass(self, number: int) -> None:
        """Choose the DAC's range before the second pass."""
        self._calibration.start_pass(number)

    def finish_calibration(self, source: str) -> list[str]:
        """Set the full scales of DAC and ADC; returns what fell back to each batch's own maximum."""
        self.input_range, self.output_ranges = self._calibration.input_range(), self._calibration.output_ranges()
        self.ranges = tuple(self._calibration.describe(self.name))
        warnings = self._calibration.warnings(self.name, source)
        # The observations are of no use any more, and many with a range for each column.
        self._calibration = CrossbarRanges(self.design)
        return warnings

    @torch.no_grad()
    def _observe(self, inputs: Tensor) -> Tensor:
        self._calibration.add(inputs, self._nominal)
        return self._with_bias(self.operator(inputs, self.weight))

    def _nominal(self) -> Reading:
        """Return the layer with cells exactly at their targets."""
        mapped = self._map()
        cell = IdealCell(g_min_siemens=self.design.cell.g_min_siemens, g_max_siemens=self.design.cell.g_max_siemens)
        design = self.design.replace(cell=cell, wires=None)
        return Reading(design, self.operator, build_arrays(design, mapped, mapped.targets_siemens, 0.0, self.operator, self.tiles))

    @torch.no_grad()
    def cost(self, inputs: Tensor, outputs: Tensor) -> list[Cost]:
        """Return the cost rows of one read of these inputs, from the target conductances and the inputs' own voltages."""
        return layer_cost(self, inputs, outputs)

    # state

    def get_extra_state(self) -> dict[str, Any]:
        """Return everything but the parameters: programmed cells, ranges, seed, trial, age and counters."""
        return {
            "design": self.design.fingerprint(),
            "cells": None if self.cells is None else {"conductance": self.cells.conductance, "memory": dict(self.cells.memory)},
            "treatment": None if self.treatment is None else self.treatment.state(),
            "remapping": None if self.remapping is None else self.remapping.state(),
            "order": self.order,
            "mark": self._mark.elements if self._mark is not None and self._masters_are_current() else None,
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
        self.require_design(state, self.design.fingerprint())
        cells = state["cells"]
        if cells is not None:
            mapping, (outputs, *rest) = self.design.mapping, self.weight.shape
            expected = (mapping.slices, mapping.crosspoints, outputs + self.references, *rest)
            if tuple(cells["conductance"].shape) != expected:
                got = tuple(cells["conductance"].shape)
                raise ValueError(f"Layer `{self.name}`: the stored conductances must have shape {expected}, but got {got}")
            cells = ProgrammedCells(
                cells["conductance"].to(self.weight.device), {name: value.to(self.weight.device) for name, value in cells["memory"].items()}
            )
        self.cells = cells
        self.treatment = treatment_of(state["treatment"], self.weight.device)
        self.remapping = remapping_of(state["remapping"], self.weight.device)
        self.order = None if state["order"] is None else state["order"].to(self.weight.device)
        self._programming_seed, self.trial, self._age = state["programming_seed"], state["trial"], Fraction(state["age"])
        self.reads, self.training_reads = state["reads"], state["training_reads"]
        self.input_range, self.output_ranges = state["input_range"], state["output_ranges"]
        self.ranges = tuple(ConverterRange(**one) for one in state["ranges"])
        self._loaded_mark = state["mark"]
        self._arrays = None
        self.settle()

    def settle(self) -> None:
        """Look whether the master weights of a state just loaded are those that it was programmed from."""
        self._mark = WeightMark.stored(self.weight, self._loaded_mark)

    def _masters_are_current(self) -> bool:
        return self.cells is not None and self._mark is not None and self._mark.holds(self.weight)

    def _apply(self, fn: Any, recurse: bool = True) -> "CrossbarLayer":
        current = self._masters_are_current()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.cells is not None:
            self.cells = ProgrammedCells(fn(self.cells.conductance), {name: fn(value) for name, value in self.cells.memory.items()})
        self.treatment = None if self.treatment is None else self.treatment.to(fn)
        self.remapping = None if self.remapping is None else self.remapping.to(fn)
        self.order = None if self.order is None else fn(self.order)
        self._arrays = self._shared = None
        self._mark = WeightMark.of(self.weight) if current else None
        return self

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        state["_arrays"] = state["_shared"] = state["_shared_inputs"] = None
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


@dataclass(frozen=True, eq=False)
class SharedMapping:
    """Targets that several programmed instances have in common, and what they depend on."""

    mapped: MappedWeights
    mark: WeightMark
    design: RRAMCrossbar
    order: Tensor | None
    treatment: CellTreatment | None

    def holds(self, weight: Tensor, design: RRAMCrossbar, order: Tensor | None, treatment: CellTreatment | None) -> bool:
        """Return whether they are still those of these weights on this design."""
        return design is self.design and order is self.order and treatment is self.treatment and self.mark.holds(weight)
