"""A model compiled onto hardware: an `nn.Module` that is called like the model."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Self

import pandas as pd
import torch
from torch import Tensor, nn

from devices.base import Cost
from simulator._isolation import one_thread
from simulator.batches import Batch, RepeatableBatches
from simulator.calibration import range_frame
from simulator.capture import without_fast_path
from simulator.costing import cost_frame
from simulator.coverage import CoverageRow
from simulator.hardware import HardwareLayer, Mode, in_mode
from simulator.routing import Router

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from simulator.diagnosis import Probe


class Chip(nn.Module):
    """A model on hardware. Call it like the model.

    ``chip.eval()`` reads the programmed instance; ``chip.train()`` draws programming and read noise afresh at every forward
    pass and lets gradients through to the master weights, so an ordinary training loop is noise-aware training.
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
    """

    def __init__(self, model: nn.Module, routed: list[HardwareLayer], rows: list[CoverageRow], warnings: list[str], seed: int) -> None:
        super().__init__()
        self.model = model
        self.routed = nn.ModuleList(routed)
        self.seed = seed
        self.register_load_state_dict_post_hook(_settle)  # type: ignore[no-untyped-call]
        self._rows = rows
        self.warnings = warnings

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
        with without_fast_path():
            if not self.routed:
                return self.model(*inputs, **keywords)
            with Router(layer for layer in self.routed if isinstance(layer, HardwareLayer)):
                return self.model(*inputs, **keywords)

    @property
    def layers(self) -> dict[str, HardwareLayer]:
        """The layers on hardware by their qualified names."""
        return {module.name: module for module in self.modules() if isinstance(module, HardwareLayer)}

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the example inputs, on hardware and off it."""
        return sum(row.macs or 0 for row in self._rows)

    @property
    def coverage(self) -> pd.DataFrame:
        """A row per layer: hardware, MACs, arrays, utilization, and why a layer stayed digital."""
        layers = self.layers
        # What calibration and training choose belongs to the mapping: ask the layers as they are now.
        rows = [replace(row, reason=layers[row.layer].placement.note) if row.arrays is not None else row for row in self._rows]
        frame = pd.DataFrame([asdict(row) for row in rows])
        frame["macs"] = frame["macs"].astype("Int64")
        frame["arrays"] = frame["arrays"].astype("Int64")
        frame["utilization"] = frame["utilization"].astype("float64")
        return frame

    @property
    def ranges(self) -> pd.DataFrame:
        """What calibration chose: ``layer``, ``converter``, ``policy``, ``full_scale``, ``clipped_share``, ``observations``."""
        return range_frame(one for layer in self.layers.values() for one in layer.ranges)

    def floorplan(self) -> "Figure":
        """Return a picture of every array with its filled part, colored and numbered by layer."""
        from simulator.floorplan import floorplan

        return floorplan(self)

    def graph_figure(self) -> "Figure":
        """Return a picture of where each layer runs, in the order of the modules."""
        from simulator.floorplan import graph_figure

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
            layer.program(seed, trial)
        return self

    def age(self, seconds: float) -> Self:
        """Let time pass: conductances drift from what was programmed; age(a) then age(b) is age(a + b).

        Parameters
        ----------
        seconds
            Time to add, in seconds.
        """
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
            raise ValueError(f"Argument `seconds` must be a finite number of at least 0, but got {seconds!r}")
        for layer in self.layers.values():
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
            for batch in batches:
                self._call(batch.inputs, batch.keywords)
        found = [warning for layer in layers for warning in layer.finish_calibration(source)]
        self.warnings = [warning for warning in self.warnings if "range policy" not in warning] + found

    @contextmanager
    def reference(self) -> Iterator[Self]:
        """Inside a ``with`` block the chip computes in float with its master weights: what the hardware should equal."""
        with in_mode(self, Mode.FLOAT), _evaluating(self):
            yield self

    def probe(self, data: Any, *, seed: int = 0, seconds: float = 0.0) -> "Probe":
        """Compare every layer of one programmed instance with float, and look at its column currents: see `simulator.probe`."""
        from simulator.diagnosis import probe  # here, because that package imports this module

        return probe(self, data, seed=seed, seconds=seconds)

    def cost(self, *inputs: Any, **keywords: Any) -> pd.DataFrame:
        """Return the cost of one call: energy_j, latency_s, area_m2 per layer and term; a constant that was not given is NaN."""
        rows: list[Cost] = []
        names = {id(module): name or "model" for name, module in self.model.named_modules()}

        def record(module: nn.Module, arguments: tuple[Any, ...], outputs: Any) -> None:
            if isinstance(module, HardwareLayer):
                rows.extend(module.cost(arguments[0], outputs))
            elif not isinstance(module, nn.Identity | nn.ModuleList):
                elements = outputs.numel() if isinstance(outputs, Tensor) else None
                note = "not given: the host's constants; operations counts output elements"
                rows.append(Cost(layer=names[id(module)], hardware="host", term=type(module).__name__, operations=elements, note=note))

        leaves = [module for module in self.modules() if isinstance(module, HardwareLayer) or not any(module.children())]
        hooks = [module.register_forward_hook(record) for module in leaves]
        try:
            with self.reference(), torch.no_grad(), one_thread():
                self._call(inputs, keywords)
        finally:
            for hook in hooks:
                hook.remove()
        return cost_frame(rows)


def _settle(chip: nn.Module, incompatible: Any) -> None:
    """After all of a state is loaded: parameters that two modules share were written after the first of them was done."""
    for module in chip.modules():
        if isinstance(module, HardwareLayer):
            module.settle()


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
