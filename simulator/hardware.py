"""What a compiled layer is, whatever hardware it lies on."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

from torch import Tensor, nn

from devices.base import Cost
from simulator.calibration import ConverterRange
from simulator.weight_layers import WeightLayer, WeightView


class Mode(Enum):
    """What a forward pass of a compiled layer does."""

    HARDWARE = "hardware"
    FLOAT = "float"
    CALIBRATE = "calibrate"


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
        The master weights and the linear map that they are in.

    Attributes
    ----------
    ranges
        What calibration chose for each converter; `finish_calibration` sets it.
    """

    def __init__(self, name: str, seed: int, layer: WeightLayer) -> None:
        super().__init__()
        self.name = name
        self.seed = seed
        self.kind = layer.kind
        self.note = layer.note
        self.operator = layer.operator
        self.mode = Mode.HARDWARE
        self.reads = 0
        self.view = layer.weight if isinstance(layer.weight, WeightView) else None
        self.master = layer.weight if isinstance(layer.weight, nn.Parameter) else None
        self.bias = layer.bias
        self.ranges: tuple[ConverterRange, ...] = ()

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

    @abstractmethod
    def age(self, seconds: float) -> None:
        """Let a time pass since the instance was programmed."""

    @property
    def was_read(self) -> bool:
        """Whether the instance was read since it was programmed."""
        return self.reads > 0

    @abstractmethod
    def settle(self) -> None:
        """Take the master weights as they are now for those that a state just loaded was programmed from."""

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
        """Return the cost rows of one call with these inputs and outputs."""

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
