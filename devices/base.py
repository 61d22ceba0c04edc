"""What every description of hardware is (`Design`), what it costs (`Cost`), and the classes that new hardware derives from.

To add hardware, derive from one extension point in one file: `ResistiveCell`, `ComputeMacro`, `SpikingCore`, `PulseBackend`
or `DigitalArray`. Nothing is registered: a design is given as an instance, and a TOML file names its class.
"""

import hashlib
import inspect
import json
import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_serializer, model_validator
from torch import Tensor

from devices.quantities import kinds_of, load_class, models_in, one_line, read_value, shown, type_path, unit_of

if TYPE_CHECKING:
    from kernels.random import Key


class DesignError(ValueError):
    """A design that cannot be built, or a preset that cannot be read; the message is one line."""


class Design(BaseModel):
    """A frozen, validated description of hardware: plain data without state.

    A subclass lists its fields with their ranges, in SI units that the names say (``pitch_m``, ``g_min_siemens``). Fields are given
    by keyword; an unknown field, a value out of range, NaN and infinity are errors of one line. A field whose name ends in a unit
    also takes a text such as ``"20 uS"``, and a field that allows None takes ``"none"``. A field of another design's class takes
    that design or a dict of its fields; the key ``type = "package.module:Class"`` in the dict names a subclass. Designs can be
    compared, hashed, copied and pickled.

    A check of a subclass over several fields raises ``ValueError("`low` must be below `high`, but got 2 and 1; swap them")``: where
    the design sits inside another one, the names in backticks are reported with their whole path.

    Raises
    ------
    DesignError
        Where a value is missing, unknown or not allowed; the line names the class, the field, the value, and what is allowed.

    Examples
    --------
    >>> from pydantic import Field
    >>> class Resistor(Design):
    ...     resistance_ohm: float = Field(gt=0)
    >>> Resistor(resistance_ohm="1.8 kohm")
    Resistor(resistance_ohm=1800.0)
    >>> Resistor(resistance_ohm=0)
    Traceback (most recent call last):
    devices.base.DesignError: Resistor: `resistance_ohm` must be above 0, but got 0; choose a value in that range
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True, polymorphic_serialization=True, protected_namespaces=()
    )

    def __init__(self, /, **values: Any) -> None:
        try:
            if "type" in values and not _names(values["type"], type(self)):
                own = type_path(type(self))
                raise DesignError(f"{type(self).__name__}: `type` must be {own!r} or absent, but got {shown(values['type'])}; leave it out")
            self.__pydantic_validator__.validate_python(values, self_instance=self)
        except ValidationError as error:
            raise DesignError(one_line(type(self), error, values)) from None

    # With this mark pydantic validates nested designs without calling __init__, so that the outermost design reports the whole path.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a field that would hide the key which names a design's class."""
        super().__pydantic_init_subclass__(**kwargs)
        if "type" in cls.model_fields:
            raise TypeError(f"{cls.__name__}: a field must not be called `type`, the key that names a design's class; rename it")

    @classmethod
    def model_validate(cls, obj: Any, **options: Any) -> Self:
        """Build a design as pydantic's method of this name does, with errors of one line; see `from_dict`."""
        try:
            return super().model_validate(obj, **options)
        except ValidationError as error:
            raise DesignError(one_line(cls, error, obj)) from None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Build a design from the dict of its fields, as ``model_dump`` and `to_toml_dict` write it.

        Parameters
        ----------
        data
            Fields by name; ``type = "package.module:Class"`` names a subclass of this class, and is needed where this class is abstract.

        Returns
        -------
        Design
            An instance of this class or of the subclass that `data` names.

        Raises
        ------
        DesignError
            Where a value is not allowed, or `type` does not name a subclass of this class.

        Examples
        --------
        >>> from devices.converters import ADC
        >>> Design.from_dict({"type": "devices.converters:ADC", "bits": 6}) == ADC(bits=6)
        True
        """
        return cls.model_validate(data)

    @classmethod
    def preset(cls, name: str | Path, **overrides: Any) -> Self:
        """Build a published design from its preset.

        Parameters
        ----------
        name
            Name of a preset (``inloop presets`` lists them), or the path of a file that ends in ``.toml``; a name goes before a path.
        **overrides
            Fields to change, as in `replace`.

        Returns
        -------
        Design
            An instance of the class that the preset names.

        Raises
        ------
        DesignError
            Where no such preset exists, it describes another class, or a value is not allowed.

        Examples
        --------
        >>> from devices.rram.crossbar import RRAMCrossbar
        >>> RRAMCrossbar.preset("wan_nature_2022", adc={"bits": 6}).adc.bits
        6
        """
        from devices.catalog import build_preset  # here, because that module imports this one

        return build_preset(cls, name, overrides)

    def replace(self, **changes: Any) -> Self:
        """Return the same design with some fields changed, fully validated.

        Parameters
        ----------
        **changes
            New values. A dict for a field that holds a design changes only the fields in the dict, at any depth, unless its key
            `type` names another class: then it replaces the design, as an instance does. None turns off what may be off.

        Returns
        -------
        Design
            A new design; this one stays as it is.

        Raises
        ------
        DesignError
            Where a field is unknown or a value not allowed.

        Examples
        --------
        >>> from devices.converters import ADC
        >>> ADC(bits=6).replace(bits=4).bits
        4
        """
        return type(self).from_dict(_merge(self, changes))

    def to_toml_dict(self) -> dict[str, Any]:
        """Return the design as a dict that TOML can hold and `from_dict` reads back: with `type`, and "none" for None.

        Examples
        --------
        >>> from devices.converters import ADC
        >>> ADC(bits=6).to_toml_dict()["type"]
        'devices.converters:ADC'
        """
        written: dict[str, Any] = _map_leaves(self._content(), lambda leaf: "none" if leaf is None else leaf)
        return written

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that identify the design's class and values: equal designs have equal ones, on any machine.

        Examples
        --------
        >>> from devices.converters import ADC
        >>> ADC(bits=6).fingerprint() == ADC(bits=8).replace(bits=6).fingerprint()
        True
        """
        text = json.dumps(_map_leaves(self._content(), _one_form), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _content(self) -> dict[str, Any]:
        return {"type": type_path(type(self)), **self.model_dump(mode="json")}

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy the design; changes are validated, as in `replace`."""
        return self.replace(**update) if update else super().model_copy(deep=deep)

    def __hash__(self) -> int:
        return hash((type(self), *(_hashable(getattr(self, name)) for name in type(self).model_fields)))

    if not TYPE_CHECKING:

        def __setattr__(self, name: str, value: Any) -> None:
            if name.startswith("_"):
                return super().__setattr__(name, value)
            raise DesignError(
                f"{type(self).__name__}: `{name}` must keep its value, but got {shown(value)}; designs are frozen: use replace({name}=...)"
            )

    @model_validator(mode="wrap")
    @classmethod
    def _build_named_class(cls, data: Any, handler: Callable[[Any], Self]) -> Self:
        if not isinstance(data, Mapping):
            if isinstance(data, cls):
                return handler(data)
            raise ValueError(f"must be of class {cls.__name__} or a dict of its fields, but got {shown(data)}; give one of these")
        values = dict(data)
        chosen = load_class(values.pop("type"), cls) if "type" in values else cls
        if inspect.isabstract(chosen):
            if "type" not in data:
                raise ValueError(f'`type` must name a subclass of {cls.__name__}, but is missing; add type = "package.module:Class"')
            missing = ", ".join(sorted(chosen.__abstractmethods__))
            raise ValueError(f"`type` must name a class with all its methods, but got {type_path(chosen)}; define {missing}")
        if chosen is cls:
            return handler(values)
        built: Self = chosen.__pydantic_validator__.validate_python(values)
        return built

    @field_validator("*", mode="before")
    @classmethod
    def _read_value(cls, value: Any, info: ValidationInfo) -> Any:
        name = info.field_name or ""
        return read_value(value, kinds_of(cls, name), unit_of(name))

    @model_serializer(mode="wrap")
    def _write(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        written = handler(self)
        for name, info in type(self).model_fields.items():
            if name in written:
                written[name] = _with_types(getattr(self, name), written[name], models_in(info.annotation))
        return written


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


def _merge(base: object, change: object) -> Any:
    if not isinstance(change, Mapping):
        return change
    if isinstance(base, Design):
        if "type" in change and not _names(change["type"], type(base)):
            return change
        old = {"type": type(base), **{name: getattr(base, name) for name in type(base).model_fields}}
    elif isinstance(base, Mapping):
        old = dict(base)
    else:
        return change
    return old | {name: _merge(old.get(name), value) for name, value in change.items()}


def _names(path: Any, cls: type[Design]) -> bool:
    try:
        return load_class(path, Design) is cls
    except ValueError:
        return False


def _with_types(value: object, written: Any, expected: list[type[BaseModel]]) -> Any:
    """Add `type` to what was written for each design whose class the field's annotation leaves open."""
    if isinstance(value, Design):
        return written if expected == [type(value)] else {"type": type_path(type(value)), **written}
    if isinstance(value, list | tuple):
        return type(written)(_with_types(*pair, expected) for pair in zip(value, written, strict=True))
    if isinstance(value, Mapping):
        return {key: _with_types(item, written[key], expected) for key, item in zip(written, value.values(), strict=True)}
    if isinstance(value, set | frozenset) and isinstance(written, list):
        return sorted(written, key=json.dumps)  # a set's order is not the same in every process
    return written


def _map_leaves(written: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(written, dict):
        return {key: _map_leaves(value, change) for key, value in written.items()}
    if isinstance(written, list):
        return [_map_leaves(value, change) for value in written]
    return change(written)


def _one_form(number: Any) -> Any:
    """Give numbers that compare equal one JSON form, as equal designs may hold -0.0 and 0.0."""
    return int(number) if isinstance(number, bool) or (isinstance(number, float) and number.is_integer()) else number


def _hashable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return frozenset((key, _hashable(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return tuple(_hashable(item) for item in value)
    return frozenset(value) if isinstance(value, set) else value
