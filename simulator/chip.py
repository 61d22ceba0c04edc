"""A model compiled onto hardware: an `nn.Module` that is called like the model."""

import math
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Self

import pandas as pd
import torch
from torch import Tensor, nn

from devices.base import Cost, DigitalArray, Hardware
from simulator._isolation import one_thread
from simulator.batches import Batch, RepeatableBatches
from simulator.calibration import range_frame
from simulator.capture import Contraction, capture, plain_kernels, without_fast_path
from simulator.conversions import conversion_costs, conversion_frame, conversions
from simulator.costing import cost_frame
from simulator.coverage import CoverageRow, names_in_model
from simulator.dataflow import Edge, Node
from simulator.digital_arithmetic import DigitalArithmetic, rounds, vector_precision
from simulator.digital_costs import digital_costs
from simulator.folding import FoldedNorm
from simulator.hardware import HardwareLayer, Mode, in_mode
from simulator.masters import WeightMark
from simulator.routing import Router
from simulator.run_time import RunTimeProducts, RunTimeRouter
from simulator.words import cautious, counted, percent, plural

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from simulator.diagnosis import Probe
    from simulator.tiles import Tile


class Chip(nn.Module):
    """A model on hardware. Call it like the model.

    ``chip.eval()`` reads the programmed instance; ``chip.train()`` draws programming and read noise afresh at every forward
    pass and lets gradients through to the master weights, so an ordinary training loop is noise-aware training. What activation
    checkpointing computes again sees the noise of its first computation; only products written at run time are written anew.
    Made by `simulator.compile`.

    Parameters
    ----------
    model
        The compiler's copy of the model with hardware layers in it.
    routed
        Layers whose weights are used by functions of custom modules.
    rows
        The coverage table's rows.
    warnings
        What the compiler could not do as asked.
    seed
        Seed of training noise and of the first programming.
    digital
        What computes beside the layers on hardware; None is the host in float32.
    """

    def __init__(
        self,
        model: nn.Module,
        routed: list[HardwareLayer],
        rows: list[CoverageRow],
        warnings: list[str],
        seed: int,
        digital: Hardware | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.routed = nn.ModuleList(routed)
        self.seed = seed
        self.register_load_state_dict_post_hook(_settle)  # type: ignore[no-untyped-call]
        self._rows = rows
        self.warnings = warnings
        self.digital = digital
        self.run_time = nn.ModuleList()
        self._nodes: tuple[Node, ...] = ()
        self._edges: tuple[Edge, ...] = ()
        self._costs: list[Cost] | None = None
        self._folded = [module for module in model.modules() if isinstance(module, FoldedNorm)]
        self._range_marks: list[WeightMark] | None = None
        self._loaded_marks: list[Tensor] | None = None

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        """Call the model; in eval mode on one torch thread, so that bits do not depend on the number of threads."""
        if self.training:
            return self._call(inputs, keywords)
        with one_thread():
            return self._call(inputs, keywords)

    def _call(self, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        device = next(self.parameters()).device.type
        if torch.is_autocast_enabled(device):
            raise RuntimeError(f"A chip must be called outside of torch.autocast, but autocast is on for {device}: codes need float32")
        with ExitStack() as stack:
            stack.enter_context(without_fast_path())
            if self.routed:
                stack.enter_context(Router(layer for layer in self.routed if isinstance(layer, HardwareLayer)))
            reads = all(layer.mode is Mode.HARDWARE for layer in self.layers.values())
            if self._costs is not None or (reads and (rounds(self.digital) or self.run_time)):
                stack.enter_context(plain_kernels())
                router: RunTimeRouter | None = None
                if self.run_time:
                    router = RunTimeRouter(self.model, self.products_on_hardware, self._costs)
                    stack.enter_context(router.following())
                stack.enter_context(DigitalArithmetic(self.digital if self._costs is None else None, router))
            for norm in self._folded:
                norm.begin()
            outputs = self.model(*inputs, **keywords)
            for norm in self._folded:
                norm.finish()
            return outputs

    def __repr__(self) -> str:
        """Return what ``print(chip)`` shows: what lies where, what is left, and the modules."""
        lines = []
        members: dict[str, list[HardwareLayer]] = {}
        for layer in self.layers.values():
            members.setdefault(layer.placement.hardware, []).append(layer)
        for hardware, layers in members.items():
            places = [layer.placement for layer in layers]
            arrays = sum(place.arrays for place in places)
            used = percent(sum(place.arrays * place.utilization for place in places) / max(1, arrays))
            shared = {design for layer in layers if isinstance(design := getattr(layer, "design", None), DigitalArray)}
            what, parts = layers[0].occupies
            where = f"in turn on {plural(len(shared), what)}" if shared else f"on {plural(arrays, what)}"
            lines.append(f"  {hardware}: {plural(len(places), 'layer')} {where}, {used} of their {parts} used")
        for one in self.products_on_hardware:
            lines.append(f"  {one.place.hardware}: products {one.site.name}, written at every call")
        if self.digital is not None:
            lines.append(f"  {type(self.digital).__name__}: digital operations in {vector_precision(self.digital)}")
        if self.macs:
            on = sum(row.macs or 0 for row in self._rows if row.hardware != "host")
            lines.append(f"  {cautious(on / self.macs)} of {counted(self.macs)} multiply-accumulates on hardware; see chip.coverage")
        if not self.ranges_are_current:
            lines.append("  converter ranges were chosen before the weights changed: chip.calibrate(data) chooses them again")
        lines += [f"  warning: {warning}" for warning in self.warnings]
        functions = [f"  ({layer.name}): {layer.extra_repr()}" for layer in self.layers.values() if layer.view is not None]
        return "\n".join([f"Chip of {type(self.model).__name__}", *lines, repr(self.model), *functions])

    @property
    def layers(self) -> dict[str, HardwareLayer]:
        """The layers on hardware by their qualified names."""
        return {module.name: module for module in self.modules() if isinstance(module, HardwareLayer)}

    @property
    def products_on_hardware(self) -> list[RunTimeProducts]:
        """Products on hardware whose weights are made at run time, as in attention: written at every call."""
        return [module for module in self.run_time if isinstance(module, RunTimeProducts)]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the example inputs, on hardware and off it."""
        return sum(row.macs or 0 for row in self._rows)

    @property
    def coverage(self) -> pd.DataFrame:
        """A row per layer: hardware, MACs, arrays, utilization, and why a layer stayed digital."""
        layers = self.layers
        # What calibration and training choose belongs to the mapping: ask the layers as they are now.
        rows = [
            replace(row, reason=layers[row.layer].placement.note) if row.arrays is not None and row.layer in layers else row
            for row in self._rows
        ]
        frame = pd.DataFrame([asdict(row) for row in rows])
        frame["macs"] = frame["macs"].astype("Int64")
        frame["arrays"] = frame["arrays"].astype("Int64")
        frame["vectors"] = frame["vectors"].astype("Int64")
        frame["utilization"] = frame["utilization"].astype("float64")
        return frame

    @property
    def ranges(self) -> pd.DataFrame:
        """What calibration chose: ``layer``, ``converter``, ``policy``, ``full_scale``, ``clipped_share``, ``observations``, ``stale``.

        A range is ``stale`` once any parameter of the model is another than when it was chosen, as after training: `calibrate` again.
        """
        frame = range_frame(one for layer in self.layers.values() for one in layer.ranges)
        frame["stale"] = ~frame["policy"].isin(("fixed", "per_batch")) & (not self._marks_hold())
        return frame

    @property
    def ranges_are_current(self) -> bool:
        """Whether no range of a converter that calibration chose is stale: see `ranges`."""
        return self._marks_hold() or not bool(self.ranges["stale"].any())

    def _marks_hold(self) -> bool:
        marks, parameters = self._range_marks, list(self.parameters())
        if marks is None or len(marks) != len(parameters):
            return False
        return all(mark.holds(one) for mark, one in zip(marks, parameters, strict=True))

    def _mark_ranges(self, current: bool) -> None:
        self._range_marks = [WeightMark.of(parameter) for parameter in self.parameters()] if current else None

    def get_extra_state(self) -> dict[str, Any]:
        """Return marks of the parameters that converter ranges were chosen on, None where they changed; all else is in the layers."""
        marks = self._range_marks
        return {"marks": [mark.elements for mark in marks] if marks is not None and self._marks_hold() else None}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over what `get_extra_state` returned; parameters come after it."""
        self._loaded_marks = state["marks"]

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        current = self._marks_hold()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._mark_ranges(current)
        return self

    def _take_up_marks(self) -> None:
        """Look whether the parameters of a state just loaded are those that its ranges were chosen on."""
        stored, parameters = self._loaded_marks, list(self.parameters())
        if stored is None or len(stored) != len(parameters):
            self._range_marks = None
            return
        marks = [WeightMark.stored(parameter, elements) for parameter, elements in zip(parameters, stored, strict=True)]
        self._range_marks = [mark for mark in marks if mark is not None]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_range_marks": self._marks_hold()}  # type: ignore[no-untyped-call]

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._mark_ranges(bool(state["_range_marks"]))

    @property
    def conversions(self) -> pd.DataFrame:
        """Where numbers pass from one hardware to another with the example inputs, and what they become there.

        A row for each flow: ``source``, ``target``, ``source_hardware``, ``target_hardware``, ``values``, ``source_format``,
        ``target_format``, and the digital operations on the way (``via``).
        """
        return conversion_frame(conversions(self._edges, self.layers, self.digital, self._products()))

    def _products(self) -> dict[tuple[str, str], str]:
        """Return the hardware of products that are made at run time, by module and function."""
        return {(one.site.layer, one.site.function): one.place.hardware for one in self.products_on_hardware}

    def floorplan(self) -> "Figure":
        """Return a picture of every array with its filled part, colored and numbered by layer."""
        from simulator.floorplan import floorplan

        return floorplan(self)

    def graph_figure(self) -> "Figure":
        """Return a picture of where each layer runs and how numbers flow between them."""
        from simulator.flow_figure import graph_figure

        return graph_figure(self)

    def require_reads(self) -> None:
        """Raise RuntimeError if no layer on hardware was read since it was programmed: the model then computes in float.

        That happens where a model keeps a reference to a layer, or to its forward, from before it was compiled.
        """
        if not any(layer.was_read for layer in self.layers.values()):
            raise RuntimeError(
                "A chip must read its layers when it is called, but none was read: the model calls others than those compiled"
            )

    def program(self, seed: int, trial: int = 0) -> Self:
        """Draw one fabricated and programmed instance of every layer; resets age and read counters.

        Parameters
        ----------
        seed, trial
            Equal numbers give equal bits; draws of other trials are independent.
        """
        for name, value in (("seed", seed), ("trial", trial)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(f"Argument `{name}` must be an integer of at least 0, but got {value!r}")
        for layer in self.layers.values():
            layer.correct(None)
        for layer in self.layers.values():
            layer.program(seed, trial)
        for products in self.products_on_hardware:
            products.program(seed, trial)
        return self

    def age(self, seconds: float) -> Self:
        """Let time pass: conductances drift from what was programmed; age(a) then age(b) is age(a + b).

        A chip of cells without a published drift stays as it is, with a warning.

        Parameters
        ----------
        seconds
            Time to add, in seconds.
        """
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
            raise ValueError(f"Argument `seconds` must be a finite number of at least 0, but got {seconds!r}")
        layers = self.layers.values()
        if seconds > 0 and not any(layer.ages for layer in layers):
            hardware = ", ".join(sorted({layer.placement.hardware for layer in layers}))
            warnings.warn(f"Time changes nothing on this chip ({hardware}): no source of its cells gives a drift", stacklevel=2)
        for layer in layers:
            if not layer.programmed:
                layer.program(self.seed, 0)
            layer.age(float(seconds))
        return self

    def calibrate(self, data: Any, *, source: str = "calibration data") -> Self:
        """Choose converter ranges on data (their targets are ignored); needed again after training moved the weights.

        Parameters
        ----------
        data
            A loader, data set, batches or a tensor of inputs.
        source
            What the data are, for warnings.
        """
        device = next(self.parameters()).device
        batches = [Batch((data,))] if isinstance(data, Tensor) else RepeatableBatches(data, name="calibration")
        self._observe((batch.to(device) for batch in batches), source)
        return self

    def _observe(self, batches: Iterator[Batch], source: str) -> None:
        layers = self.layers.values()
        for layer in layers:
            layer.start_calibration()
        with in_mode(self, Mode.CALIBRATE), _evaluating(self), torch.no_grad(), one_thread():
            passes = max((layer.calibration_passes for layer in layers), default=1)
            kept = list(batches) if passes > 1 else batches
            for number in range(passes):
                for layer in layers:
                    layer.next_calibration_pass(number)
                for batch in kept:
                    self._call(batch.inputs, batch.keywords)
        found = [warning for layer in layers for warning in layer.finish_calibration(source)]
        self._mark_ranges(True)
        self.warnings = [warning for warning in self.warnings if "range policy" not in warning] + found

    @contextmanager
    def reference(self) -> Iterator[Self]:
        """Inside a ``with`` block the chip computes in float with its master weights: what the hardware should equal."""
        with in_mode(self, Mode.FLOAT), _evaluating(self):
            yield self

    def probe(self, data: Any, *, seed: int = 0, trial: int = 0, seconds: float = 0.0, batch_size: int = 256) -> "Probe":
        """Compare every layer of one programmed instance with float, and look at its column currents: see `simulator.probe`."""
        from simulator.diagnosis import probe  # here, because that package imports this module

        return probe(self, data, seed=seed, trial=trial, seconds=seconds, batch_size=batch_size)

    def tiles(self, layer: str | None = None) -> Iterator["Tile"]:
        """Yield the arrays of the crossbars as their cells stand, of one layer or of all: see `simulator.Tile`."""
        from simulator.tiles import tiles_of  # here, because that module imports the families

        return tiles_of(self, layer)

    def tile(self, layer: str, index: int = 0) -> "Tile":
        """Return one array of a layer on crossbars, as its cells stand: conductances, currents, and its circuit for SPICE."""
        from simulator.tiles import tile_of

        return tile_of(self, layer, index)

    def cost(self, *inputs: Any, **keywords: Any) -> pd.DataFrame:
        """Return the cost of one call: energy_j, latency_s, area_m2 per layer and term; a constant that was not given is NaN."""
        on_hardware: dict[str, list[Cost]] = {}

        def record(module: nn.Module, arguments: tuple[Any, ...], outputs: Any) -> None:
            assert isinstance(module, HardwareLayer)
            on_hardware.setdefault(module.name, []).extend(module.priced(arguments[0], outputs))

        layers = self.layers
        hooks = [layer.register_forward_hook(record) for layer in layers.values()]
        try:
            self._costs = []
            with self.reference():
                found = capture(self, Batch(inputs, dict(keywords)))
            written = self._costs
        finally:
            self._costs = None
            for hook in hooks:
                hook.remove()
        for name in layers.keys() - on_hardware.keys():
            note = "not called with these inputs: neither its area nor what it takes at rest is counted"
            on_hardware[name] = [Cost(layer=name, hardware=layers[name].placement.hardware, term="not called", note=note)]
        names = names_in_model(self.model)
        placed = {(one.site.layer, one.site.function) for one in self.products_on_hardware}

        def is_elsewhere(one: Contraction) -> bool:
            return one.inside_hardware or (not one.parameters and (names.get(one.module, one.module), one.function) in placed)

        rows = [*written, *conversion_costs(layers, found, self.digital), *digital_costs(found, names, self.digital, is_elsewhere)]
        by_layer: dict[str, list[Cost]] = {}
        for row in rows:
            by_layer.setdefault(row.layer, []).append(row)
        for name, several in on_hardware.items():
            by_layer[name] = [*several, *by_layer.get(name, [])]
        order = {name or "model": index for index, (name, _) in enumerate(self.model.named_modules())}
        order |= {module.name: index for index, module in enumerate(self.model.modules()) if isinstance(module, HardwareLayer)}
        ordered = sorted(by_layer, key=lambda name: order.get(name, len(order)))
        return cost_frame(row for name in ordered for row in by_layer[name])


def _settle(chip: nn.Module, incompatible: Any) -> None:
    """After all of a state is loaded: parameters that two modules share were written after the first of them was done."""
    assert isinstance(chip, Chip)
    for module in chip.modules():
        if isinstance(module, HardwareLayer):
            module.settle()
    chip._take_up_marks()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode for the length of a ``with`` block, each module back into its own mode afterwards."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
