"""What a model can be compiled onto (`Hardware`), what it costs (`Cost`), and the classes that new hardware derives from.

To add hardware, derive from one extension point in one file: `ResistiveCell`, `ComputeMacro`, `SpikingCore`, `PulseBackend`
or `DigitalArray`. Nothing is registered: a design is given as an instance, and a TOML file names its class.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, SerializeAsAny, model_validator
from torch import Tensor

from devices.design import Design, DesignError

if TYPE_CHECKING:
    from devices.rram.measured import MeasuredCell
    from kernels.random import Key


class Hardware(Design):
    """A design that a model can be compiled onto, rather than a part of one.

    Parameters
    ----------
    node_m
        Technology node that the constants are given for, as costs are compared at one node only. None: not given.
    """

    node_m: float | None = Field(default=None, gt=0)

    @abstractmethod
    def ideal(self) -> Self:
        """Return the same design with every non-ideality off and ideal converters."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """One row of a cost table: what one term of one layer takes on its hardware.

    None says that the number was not given, which is never the same as zero; zero says that the term takes none of it.

    Parameters
    ----------
    layer, hardware, term
        The layer's name in the model, the name of its hardware, and what is costed (``"adc"``, ``"cell reads"``).
    energy_j, latency_s, area_m2
        Energy in joule, time in seconds, area in square meters.
    bytes, operations
        Bytes moved and operations done, whatever the term calls one.
    static
        True for what is spent whether or not the hardware is used; its `power_watt` becomes energy where the time of the whole call is
        known.
    once
        True for what is spent when weights are written, not at each call.
    note
        Where a number comes from, or why it is not given.
    macs
        Multiply-accumulates of the model that the row does; None where it does none. TOPS count two operations for each.
    input_bits, weight_bits
        Width of the operands of those, for figures normalized to 1 x 1 bit. None: not given.
    power_watt
        Power of a static row.
    node_m
        Technology node that the constants are of. None: not given.
    resource
        What layers share: rows with one resource and term have their area and their power at rest once, and work one after the other.
        Empty: the layer has its own.
    work
        What digital parts around the arrays have to do for the row, which they give a price where the arrays have none: move its `bytes`
        through a ``buffer``, or do its `operations` as an ``addition``.

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
    macs: int | None = None
    input_bits: int | None = None
    weight_bits: int | None = None
    power_watt: float | None = None
    node_m: float | None = None
    resource: str = ""
    work: Literal["", "buffer", "addition"] = ""

    def __post_init__(self) -> None:
        for name in ("energy_j", "latency_s", "area_m2", "bytes", "operations", "macs", "power_watt", "node_m"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"Argument `{name}` must be finite and at least 0, but got {value}; give None where it is not known")


def missing(**constants: object) -> str:
    """Return a note that names the constants that are None; empty where all are given.

    Examples
    --------
    >>> missing(read_s=1e-9, area_m2=None)
    'not given: area_m2'
    """
    absent = [name for name, value in constants.items() if value is None]
    return f"not given: {', '.join(absent)}" if absent else ""


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


class PulseLaw(Design):
    """Extension point: how pulses move a conductance, for training in the array."""

    @abstractmethod
    def apply(self, conductance: Tensor, pulses: Tensor, key: "Key", cell: "ResistiveCell") -> Tensor:
        """Return the conductances of a cell's array after pulses: see `ResistiveCell.update`."""


class ResistiveCell(Design):
    """Extension point: a cell that stores a weight as a conductance.

    Parameters
    ----------
    g_min_siemens, g_max_siemens
        The range of conductances that weights are mapped to.
    pulse_law
        How single pulses move the conductance, for `update`; None where none was published.

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
    pulse_law: SerializeAsAny[PulseLaw] | None = None

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

    @property
    def ages(self) -> bool:
        """Whether time after programming changes a cell: False for cells whose sources give neither drift nor noise that persists."""
        return True

    def update(self, conductance: Tensor, pulses: Tensor, key: "Key") -> Tensor:
        """Return the conductances after potentiating and depressing pulses, by the cell's `pulse_law`.

        Parameters
        ----------
        conductance
            Conductances before, siemens, any shape; not changed in place.
        pulses
            How many pulses each cell gets, of an integer dtype and that shape: above zero they potentiate, below zero they depress.
        key
            Stream of the write noise; another for each update, as by ``key.at(step)``.

        Returns
        -------
        Tensor
            Conductances after the pulses, siemens.

        Raises
        ------
        DesignError
            Where the cell has no `pulse_law`.
        ValueError
            Where `pulses` is not of an integer dtype or of another shape.

        Examples
        --------
        >>> import torch
        >>> from devices import IdealCell, PulseUpdate
        >>> from kernels import Key
        >>> law = PulseUpdate(potentiation_pulses=10, depression_pulses=5)
        >>> cell = IdealCell(g_min_siemens=0.0, g_max_siemens=10.0, pulse_law=law)
        >>> cell.update(torch.tensor([0.0, 5.0, 9.0]), torch.tensor([3, -1, 4]), Key.of(seed=0))
        tensor([ 3.,  3., 10.])
        """
        if self.pulse_law is None:
            raise DesignError(
                f"{type(self).__name__}: `pulse_law` must be given for an update by pulses, but got None: no law is published with this "
                "cell; give one, as replace(pulse_law=PulseUpdate(potentiation_pulses=..., depression_pulses=...))"
            )
        return self.pulse_law.apply(conductance, pulses, key, self)

    @classmethod
    def from_measurements(cls, path: str | Path, **options: Any) -> "MeasuredCell":
        r"""Make a cell of measurements: a table of (target, time since programming, measured conductance).

        Parameters
        ----------
        path
            A CSV, Parquet or HDF5 file with the columns ``target_uS``, ``seconds`` and ``measured_uS``, or other units in their names.
        **options
            As in `devices.from_measurements`: ``method="law"`` fits laws where quantiles are drawn from otherwise.

        Returns
        -------
        MeasuredCell
            The cell; ``fit_figure()`` draws it against the measurements.

        Raises
        ------
        DesignError
            Where columns, units or measurements are missing, or the method is called on a class that the result is not of.

        Examples
        --------
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "cells.csv"
        ...     rows = "".join(f"{target},1,{target + n / 100}\n" for target in (10, 20) for n in range(100))
        ...     _ = path.write_text("target_uS,seconds,measured_uS\n" + rows)
        ...     cell = ResistiveCell.from_measurements(path)
        >>> cell.counts
        ((100, 100),)
        """
        from devices.rram.measured import MeasuredCell, from_measurements  # a family: it imports this module

        if not issubclass(MeasuredCell, cls):
            raise DesignError(
                f"`from_measurements` must be called on ResistiveCell, but was on {cls.__name__}: measurements are a law of their own"
            )
        return from_measurements(path, **options)


class ComputeMacro(Hardware):
    """Extension point: a memory macro that multiplies integer inputs by the integer weights it holds.

    A layer is cut into macros of these sizes, and its operands are rounded to these widths.

    Parameters
    ----------
    rows, columns
        Weights of one macro.
    input_bits, signed_inputs
        Bits of an input, and whether it has a sign; a compiled layer takes the sign from its calibration.
    weight_bits
        Bits of a weight with its sign; its magnitude is at most ``2^(weight_bits-1) - 1``.

    Examples
    --------
    >>> import torch
    >>> class ExactMacro(ComputeMacro):
    ...     def ideal(self):
    ...         return self
    ...     def mac(self, inputs, weights, key=None):
    ...         return (inputs @ weights).float(), 1.0
    >>> ExactMacro(rows=4).mac(torch.tensor([[3, 1]]), torch.tensor([[2], [-1]]))
    (tensor([[5.]]), 1.0)
    """

    rows: int = Field(default=64, ge=1, le=65536)
    columns: int = Field(default=256, ge=1, le=65536)
    input_bits: int = Field(default=4, ge=1, le=16)
    signed_inputs: bool = False
    weight_bits: int = Field(default=4, ge=2, le=16)

    @abstractmethod
    def mac(self, inputs: Tensor, weights: Tensor, key: "Key | None" = None) -> tuple[Tensor, float]:
        """Return the converter's output codes, and the value of one code in units of one input code times one weight code.

        Shapes: integer codes `inputs` (batch, rows) and `weights` (rows, columns) give codes (batch, columns), whose product with the
        value estimates ``inputs @ weights``. `key` is that of the errors' draws: keys that differ only in their read counter read the
        same fabricated macro. None where there are none.
        """


class SpikingCore(Hardware):
    """Extension point: cores that update spiking neurons in discrete time steps."""

    @abstractmethod
    def step(self, state: dict[str, Tensor], current: Tensor, threshold: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Advance every neuron by one time step: return the next state, and the spikes of this step as 0 or 1.

        All tensors have the shape (batch, neurons): the state's variables by name, which are never changed in place (before the first
        step only ``membrane``, where the network starts neurons from another potential than 0), the synaptic `current` of this step, the
        `threshold` in the same unit (it may have batch 1), and the spikes.
        """

    @abstractmethod
    def limits(self, core: int = 0) -> dict[str, int]:
        """Return how much of each resource a core has, by its name: ``neurons``, ``axons_in``, ``axons_out``, ``synapse_bits``, ...

        What is left out does not bind.
        """


class PulseBackend(Hardware):
    """Extension point: coupled quantum systems that control pulses drive."""

    @abstractmethod
    def hamiltonian(self) -> Tensor:
        """Return the Hamiltonian without pulses over the reduced Planck constant, rad/s: complex, shape (states, states)."""

    @abstractmethod
    def run(self, schedule: Any, *, shots: int = 1024, seed: int = 0) -> dict[str, int]:
        """Play a schedule of pulses so many times; return how often each bit string was read."""


class DigitalArray(Hardware):
    """Extension point: an array of digital multiply-accumulate units for matrix products (m, k) @ (k, n)."""

    @abstractmethod
    def cycles(self, m: int, k: int, n: int) -> int:
        """Return the clock cycles that the product takes when no memory stalls it."""

    @abstractmethod
    def traffic(self, m: int, k: int, n: int) -> dict[str, int]:
        """Return the bytes that the product moves, by the name of the memory."""
