"""What a model can be compiled onto (`Hardware`), what it costs (`Cost`), and the classes that new hardware derives from.

To add hardware, derive from one extension point in one file: `ResistiveCell`, `ComputeMacro`, `SpikingCore`, `PulseBackend`
or `DigitalArray`. Nothing is registered: a design is given as an instance, and a TOML file names its class.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator
from torch import Tensor

from devices.design import Design

if TYPE_CHECKING:
    from kernels.random import Key


class Hardware(Design):
    """A design that a model can be compiled onto, rather than a part of one."""

    @abstractmethod
    def ideal(self) -> Self:
        """Return the same design with every non-ideality off and ideal converters."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One row of a cost table: what one term of one layer takes on its hardware.

    None says that the number was not given, which is never the same as zero.

    Parameters
    ----------
    layer, hardware, term
        The layer's name in the model, the name of its hardware, and what is costed (``"adc"``, ``"cell reads"``).
    energy_j, latency_s, area_m2
        Energy in joule, time in seconds, area in square meters.
    bytes, operations
        Bytes moved and operations done.
    static
        True for what is spent whether or not the hardware is used.
    once
        True for what is spent when weights are written, not at each call.
    note
        Where a number comes from, or why it is not given.

    Raises
    ------
    ValueError
        Where a number is negative or not finite.

    Examples
    --------
    >>> Cost(layer="head", hardware="RRAMCrossbar", term="adc", energy_j=1.6e-12).latency_s is None
    True
    """

    layer: str
    hardware: str
    term: str
    energy_j: float | None = None
    latency_s: float | None = None
    area_m2: float | None = None
    bytes: int | None = None
    operations: int | None = None
    static: bool = False
    once: bool = False
    note: str = ""

    def __post_init__(self) -> None:
        for name in ("energy_j", "latency_s", "area_m2", "bytes", "operations"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"Argument `{name}` must be finite and at least 0, but got {value}; give None where it is not known")


@dataclass(frozen=True, eq=False)
class ProgrammedCells:
    """What programming leaves in an array of cells.

    Parameters
    ----------
    conductance
        Conductance of each cell right after programming, siemens, of the targets' shape.
    memory
        What a cell's drift needs of its own past, by name: tensors of that same shape.

    Examples
    --------
    >>> import torch
    >>> ProgrammedCells(torch.full((2,), 2e-5)).memory
    {}
    """

    conductance: Tensor
    memory: dict[str, Tensor] = field(default_factory=dict)


class ResistiveCell(Design):
    """Extension point: a cell that stores a weight as a conductance.

    Parameters
    ----------
    g_min_siemens, g_max_siemens
        The range of conductances that weights are mapped to.

    Examples
    --------
    >>> import torch
    >>> class ExactCell(ResistiveCell):
    ...     def program(self, target, key):
    ...         return ProgrammedCells(target)
    ...     def read_sigma(self, conductance, seconds):
    ...         return None
    ...     def drift(self, programmed, seconds, key):
    ...         return programmed.conductance
    >>> ExactCell(g_min_siemens="1 uS", g_max_siemens="40 uS").g_max_siemens
    4e-05
    """

    g_min_siemens: float = Field(ge=0)
    g_max_siemens: float = Field(gt=0)

    @model_validator(mode="after")
    def _range_is_upright(self) -> Self:
        if self.g_min_siemens >= self.g_max_siemens:
            raise ValueError(
                f"`g_min_siemens` must be below `g_max_siemens`, but got {self.g_min_siemens} and {self.g_max_siemens}; "
                "swap them or widen the range"
            )
        return self

    @abstractmethod
    def program(self, target: Tensor, key: "Key") -> ProgrammedCells:
        """Return the conductances reached, and what `drift` needs, when cells are programmed to `target` once.

        The targets are in siemens, float32 of any shape, and are not changed in place. The same key gives the same instance, with
        its device-to-device and programming errors.
        """

    @abstractmethod
    def read_sigma(self, conductance: Tensor, seconds: float) -> Tensor | None:
        """Return the standard deviation of one read of each cell, siemens; None where reads are exact.

        `conductance` holds the cells' conductances at the time of the read, siemens, of any shape; `seconds` is the time since
        programming.
        """

    @abstractmethod
    def drift(self, programmed: ProgrammedCells, seconds: float, key: "Key") -> Tensor:
        """Return the conductances, siemens, at a time after programming; at 0 seconds those that `program` reached.

        Drift always starts from `programmed`, what `program` returned: the state at a time does not depend on the times asked for
        before, and the same key gives a cell the same random course at each call.
        """


class ComputeMacro(Hardware):
    """Extension point: a memory macro that multiplies integer inputs by the integer weights it holds."""

    @abstractmethod
    def mac(self, inputs: Tensor, weights: Tensor, key: "Key | None" = None) -> tuple[Tensor, float]:
        """Return the converter's output codes, and the value of one code in units of one input code times one weight code.

        Shapes: integer codes `inputs` (batch, rows) and `weights` (rows, columns) give codes (batch, columns), whose product with the
        value estimates ``inputs @ weights``. `key` is that of the errors' draws; None where there are none.
        """


class SpikingCore(Hardware):
    """Extension point: a core that updates spiking neurons in discrete time steps."""

    @abstractmethod
    def step(self, state: dict[str, Tensor], current: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Advance every neuron by one time step: return the next state, and the spikes of this step as 0 or 1.

        All tensors have the shape (batch, neurons): the state's variables by name (none before the first step; they are never
        changed in place), the synaptic `current` of this step, and the spikes.
        """

    @abstractmethod
    def limits(self) -> dict[str, int]:
        """Return how much of each resource one core has (``"neurons"``, ``"synapses"``, ...), by its name."""


class PulseBackend(Hardware):
    """Extension point: coupled quantum systems that control pulses drive."""

    @abstractmethod
    def hamiltonian(self) -> Tensor:
        """Return the Hamiltonian without pulses over the reduced Planck constant, rad/s: complex, shape (states, states)."""

    @abstractmethod
    def run(self, schedule: Any) -> Tensor:
        """Return the propagator of a schedule of pulses: complex, shape (states, states)."""


class DigitalArray(Hardware):
    """Extension point: an array of digital multiply-accumulate units for matrix products (m, k) @ (k, n)."""

    @abstractmethod
    def cycles(self, m: int, k: int, n: int) -> int:
        """Return the clock cycles that the product takes when no memory stalls it."""

    @abstractmethod
    def traffic(self, m: int, k: int, n: int) -> dict[str, int]:
        """Return the bytes that the product moves, by the name of the memory."""
