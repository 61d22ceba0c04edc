"""What a compiled layer is, whatever hardware it lies on."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn

from devices.base import Cost
from devices.system import TiledSystem
from simulator.calibration import ConverterRange
from simulator.operators import LinearOperator
from simulator.recomputation import ReadLog
from simulator.weight_layers import NotMappedError, WeightLayer, WeightView


class Mode(Enum):
    """What a forward pass of a compiled layer does."""

    HARDWARE = "hardware"
    FLOAT = "float"
    CALIBRATE = "calibrate"


_STATE = threading.local()


@contextmanager
def inside_hardware() -> Iterator[None]:
    """Mark a block as computed by a layer on hardware."""
    _STATE.depth = getattr(_STATE, "depth", 0) + 1
    try:
        yield
    finally:
        _STATE.depth -= 1


def is_inside_hardware() -> bool:
    """Return whether a layer on hardware is computing.

    Examples
    --------
    >>> with inside_hardware():
    ...     is_inside_hardware()
    True
    """
    return bool(getattr(_STATE, "depth", 0))


@dataclass(frozen=True)
class Placement:
    """Where a layer lies, for the coverage table.

    Attributes
    ----------
    hardware
        Name of the design's class.
    macs_per_vector
        Multiply-accumulates for one input vector.
    arrays
        Arrays that the layer takes.
    utilization
        Share of the cells of those arrays that hold a weight.
    note
        What a reader should know: quantization of weights, groups, ranges.
    """

    hardware: str
    macs_per_vector: int
    arrays: int
    utilization: float
    note: str = ""


class HardwareLayer(nn.Module, ABC):
    """A layer on hardware: master weights, one programmed instance, and what reading it does.

    Parameters
    ----------
    name
        Qualified name of the layer in the model; part of every random key, so draws do not depend on the order of layers.
    seed
        Seed of the noise that training sees, and of the first programming if nobody asks for another.
    layer
        The master weights and the linear map that they are in; None for a part that holds layers of its own.

    Attributes
    ----------
    ranges
        What calibration chose for each converter; `finish_calibration` sets it.
    system
        The tiles around the arrays; None where the design is arrays alone. It changes cost, not what is computed.
    correction
        Scale and shift of each output, shape (2, outputs), that the digital side applies to what one instance reads in eval mode; None
        for none. `program` of a chip drops it, as it was measured on the instance before.
    """

    occupies = ("array", "cells")
    """What a layer takes, and what of it holds something, in words."""

    takes_circuits = False
    """Whether a layer's weights are the angles of a quantum circuit."""

    def __init__(self, name: str, seed: int, layer: WeightLayer | None) -> None:
        super().__init__()
        if layer is not None and layer.circuit is not None and not self.takes_circuits:
            raise NotMappedError("a quantum circuit lies on a pulse backend only: digital")
        self.name = name
        self.seed = seed
        held = layer or WeightLayer(type(self).__name__, LinearOperator(0), nn.Parameter(torch.empty(0)))
        self.kind = held.kind
        self.note = held.note
        self.operator = held.operator
        self.mode = Mode.HARDWARE
        self.reads = self.training_reads = 0
        self._read_log = ReadLog()
        self.view = held.weight if isinstance(held.weight, WeightView) else None
        self.master = held.weight if layer is not None and isinstance(held.weight, nn.Parameter) else None
        self.bias = held.bias
        self.ranges: tuple[ConverterRange, ...] = ()
        self.system: TiledSystem | None = None
        self.correction: Tensor | None
        self.register_buffer("correction", None)
        self.register_forward_hook(_corrected)

    def __call__(self, *inputs: Any, **keywords: Any) -> Any:
        """Call the layer; what it computes is its hardware's, not an operation of the digital unit beside it."""
        if "input" in keywords:  # what torch's layers call it
            inputs, keywords = (keywords["input"], *inputs), {name: value for name, value in keywords.items() if name != "input"}
        with inside_hardware():
            return super().__call__(*inputs, **keywords)

    @property
    def weight(self) -> Tensor:
        """Master weight, of shape (outputs, inputs, ...): a parameter, or the part of one that the layer uses."""
        if self.view is not None:
            return self.view.tensor()
        assert self.master is not None
        return self.master

    @property
    @abstractmethod
    def placement(self) -> Placement:
        """Where the layer lies."""

    @property
    @abstractmethod
    def programmed(self) -> bool:
        """Whether a programmed instance exists."""

    @abstractmethod
    def program(self, seed: int, trial: int) -> None:
        """Draw a fabricated and programmed instance; resets age and read counter."""

    @property
    def ages(self) -> bool:
        """Whether time since programming changes what is read."""
        return True

    @abstractmethod
    def age(self, seconds: float) -> None:
        """Let a time pass since the instance was programmed."""

    def training_read(self, inputs: Tensor) -> int:
        """Return the number of a read in training: the next one, or that of the read which activation checkpointing repeats."""
        repeated = self._read_log.find(inputs)
        if repeated is not None:
            return repeated
        self.training_reads += 1
        self._read_log.add(self.training_reads, inputs)
        return self.training_reads

    @property
    def was_read(self) -> bool:
        """Whether the instance was read since it was programmed."""
        return self.reads > 0

    @abstractmethod
    def settle(self) -> None:
        """Look whether the master weights of a state just loaded are those that it was programmed from."""

    def share_between_trials(self) -> None:
        """Keep what programmed instances have in common from one to the next, where there is anything; no bit depends on it."""
        return

    @property
    def calibration_passes(self) -> int:
        """How often the layer has to see the calibration data; once, unless it says otherwise."""
        return 1

    def next_calibration_pass(self, number: int) -> None:
        """Take note that a pass over the calibration data begins, the first of which is number 0."""
        return

    @abstractmethod
    def start_calibration(self) -> None:
        """Forget what was observed and observe from now on, while `mode` is ``CALIBRATE``."""

    @abstractmethod
    def finish_calibration(self, source: str) -> list[str]:
        """Fix what calibration sets from the observations; returns warnings. `source` says what the data were."""

    @abstractmethod
    def vectors(self, outputs: Tensor) -> int:
        """Return how many input vectors a call with these outputs drove."""

    @abstractmethod
    def cost(self, inputs: Tensor, outputs: Tensor) -> list[Cost]:
        """Return the cost rows of one call with these inputs and outputs, those of the arrays alone."""

    def priced(self, inputs: Tensor, outputs: Tensor) -> list[Cost]:
        """Return the cost rows of one call, with those of the tiles around the arrays where the design has some."""
        rows = self.cost(inputs, outputs)
        return rows if self.system is None else self.system.price(rows, self.placement.arrays)

    def correct(self, correction: Tensor | None) -> None:
        """Set scale and shift of the outputs, shape (2, outputs), or drop them."""
        self.correction = None if correction is None else correction.detach().clone()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        # Absent or present, the correction of a state takes the place of the layer's own.
        stored = state_dict.get(f"{prefix}correction")
        self.correction = None if stored is None else torch.zeros_like(stored, device=self.weight.device)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def require_finite(self, inputs: Tensor) -> None:
        """Refuse what no converter has a code for: it would saturate, or spoil the range of a whole batch."""
        # One fast pass; a sum that overflows is looked into.
        with torch.no_grad():
            if not bool(torch.isfinite(inputs.sum())) and not bool(torch.isfinite(inputs).all()):
                raise ValueError(f"Layer `{self.name}`: inputs must be finite, but got NaN or infinity; check the data or the layer before")

    def require_design(self, state: dict[str, Any], design: str) -> None:
        """Refuse a stored state of another design than the one with this fingerprint."""
        stored = state.get("design", "a chip elsewhere")
        if stored != design:
            raise ValueError(
                f"Layer `{self.name}`: the stored state must be of the same design, {design}, but is of {stored}; compile the model onto "
                "that design"
            )

    def _refuse(self, inputs: Any, allowed: str) -> None:
        got = type(inputs).__name__
        if isinstance(inputs, Tensor):
            got = f"{str(inputs.dtype).removeprefix('torch.')} of shape {tuple(inputs.shape)}"
        raise ValueError(f"Layer `{self.name}`: the input must be {allowed}, but got {got}")


@contextmanager
def in_mode(model: nn.Module, mode: Mode) -> Iterator[None]:
    """Put every compiled layer of a model into a mode for the length of a ``with`` block."""
    layers = [module for module in model.modules() if isinstance(module, HardwareLayer)]
    before = [layer.mode for layer in layers]
    for layer in layers:
        layer.mode = mode
    try:
        yield
    finally:
        for layer, old in zip(layers, before, strict=True):
            layer.mode = old


def _corrected(layer: nn.Module, arguments: Any, outputs: Any) -> Any:
    """Apply the digital correction of an instance to what was read from it."""
    assert isinstance(layer, HardwareLayer)
    if layer.correction is None or layer.training or layer.mode is not Mode.HARDWARE:
        return None
    scale, shift = layer.correction.reshape(2, -1, *[1] * layer.operator.dimensions)
    return outputs * scale + shift
