"""What every description of hardware is: frozen, validated plain data (`Design`)."""

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator, model_serializer, model_validator

from devices.quantities import kinds_of, load_class, models_in, one_line, read_value, shown, type_path, unit_of


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
    devices.design.DesignError: Resistor: `resistance_ohm` must be above 0, but got 0; choose a value in that range
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
