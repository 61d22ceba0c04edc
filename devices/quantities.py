"""Values as people write them: quantities such as ``"20 uS"`` read into SI numbers, and the one line that refuses a wrong value.

The unit that a field expects is the one its name ends in: ``g_min_siemens`` takes siemens, ``pitch_m`` meters,
``area_m2`` square meters. A text in any other unit is refused, so a wrong unit cannot pass for a number.
"""

import difflib
import importlib
import inspect
import math
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal
from functools import lru_cache
from types import MappingProxyType, NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin

import numpy as np
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

Model = TypeVar("Model", bound=BaseModel)

PREFIXES = MappingProxyType(
    {"a": -18, "f": -15, "p": -12, "n": -9, "u": -6, "\u00b5": -6, "\u03bc": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12}
)
"""SI prefixes and their powers of ten; micro is ``u``, the micro sign or the Greek letter."""

_SYMBOLS = {
    "siemens": ("S",),
    "second": ("s",),
    "ohm": ("ohm", "Ohm", "\u03a9", "\u2126"),
    "volt": ("V",),
    "ampere": ("A",),
    "farad": ("F",),
    "watt": ("W",),
    "joule": ("J",),
    "kelvin": ("K",),
    "hertz": ("Hz",),
    "meter": ("m",),
    "square meter": ("m2", "m^2", "m\u00b2"),
}
"""Each unit's symbols; the first one is written, all are read."""

_WORDS = {
    "siemens": "siemens", "second": "second", "seconds": "second", "s": "second", "ohm": "ohm", "ohms": "ohm",
    "volt": "volt", "volts": "volt", "ampere": "ampere", "amperes": "ampere", "farad": "farad", "farads": "farad",
    "watt": "watt", "watts": "watt", "joule": "joule", "joules": "joule", "j": "joule", "kelvin": "kelvin", "hertz": "hertz",
    "m": "meter", "meter": "meter", "meters": "meter", "m2": "square meter",
}  # fmt: skip
"""The words that a field's name ends in, and their units."""

_TIMES = {"min": Decimal(60), "h": Decimal(3600), "hours": Decimal(3600), "day": Decimal(86400), "days": Decimal(86400)}
"""Other units of time, which take no prefix."""

_EXAMPLES = {
    "siemens": "20 uS", "second": "5 ns", "ohm": "1.8 ohm", "volt": "0.2 V", "ampere": "3 uA", "farad": "2 fF", "watt": "1 mW",
    "joule": "6.1 fJ", "kelvin": "300 K", "hertz": "5 GHz", "meter": "40 nm", "square meter": "2 um2",
}  # fmt: skip

_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,4})?)\s*(.*?)\s*", re.ASCII | re.DOTALL)
_WRITTEN_PREFIXES = ("a", "f", "p", "n", "u", "m", "", "k", "M", "G", "T")


def _factors(unit: str) -> dict[str, Decimal]:
    power = 2 if unit == "square meter" else 1
    prefixed = {prefix + symbol: Decimal(10) ** (power * ten) for symbol in _SYMBOLS[unit] for prefix, ten in PREFIXES.items()}
    return (
        prefixed
        | {word: Decimal(1) for word, named in _WORDS.items() if named == unit and len(word) > 2}
        | (_TIMES if unit == "second" else {})
    )


_FACTORS = {unit: _factors(unit) for unit in _SYMBOLS}


def unit_of(name: str) -> str | None:
    """Return the unit that a field's name ends in, or None where it names none.

    Parameters
    ----------
    name
        Name of a field. ``_per_`` and a word that is no unit may follow the unit (``joule_per_step``).

    Returns
    -------
    str or None
        "siemens", "second", "ohm", "volt", "ampere", "farad", "watt", "joule", "kelvin", "hertz", "meter" or "square meter".
        None also for a compound of two units (``ohm_per_m``), which only takes plain numbers.

    Examples
    --------
    >>> unit_of("g_min_siemens"), unit_of("joule_per_step"), unit_of("rows"), unit_of("ohm_per_m")
    ('siemens', 'joule', None, None)
    """
    head, per, tail = name.partition("_per_")
    if per and any(word in _WORDS for word in tail.split("_")):
        return None
    return _WORDS.get(head.rsplit("_", 1)[-1]) if "_" in name else None


def parse_quantity(text: str, unit: str) -> float:
    """Read a number with its unit into the SI unit.

    Parameters
    ----------
    text
        A decimal number and a symbol of the unit, with or without an SI prefix: ``"20 uS"``, ``"5ns"``, ``"1.8 kohm"``, ``"2 um2"``.
        Seconds are also read from min, h and day.
    unit
        The unit to return, a value of `unit_of`.

    Returns
    -------
    float
        The float64 nearest to the decimal value, in `unit`: "20 uS" is exactly ``20e-6``.

    Raises
    ------
    ValueError
        Where the text is no number with a symbol of the unit, or is too large for a float.

    Examples
    --------
    >>> parse_quantity("20 uS", "siemens")
    2e-05
    >>> parse_quantity("20 uV", "siemens")
    Traceback (most recent call last):
    ValueError: must be a quantity in siemens such as '20 uS', but got '20 uV'; write a number and S, with a prefix if you like
    """
    match = _NUMBER.fullmatch(text)
    factor = _FACTORS[unit].get(match[2]) if match else None
    value = math.inf if match is None or factor is None else float(Decimal(match[1]) * factor)
    if not math.isfinite(value):
        raise ValueError(
            f"must be a quantity in {unit} such as {_EXAMPLES[unit]!r}, but got {text!r}; "
            f"write a number and {_SYMBOLS[unit][0]}, with a prefix if you like"
        )
    return value


def format_quantity(value: float, unit: str) -> str:
    """Write an SI number with the prefix that leaves one to three digits before the point.

    Parameters
    ----------
    value
        Finite number in `unit`.
    unit
        A value of `unit_of`.

    Returns
    -------
    str
        Text that `parse_quantity` reads back into the same float, with as many digits as that takes.

    Raises
    ------
    ValueError
        Where `value` is not finite.

    Examples
    --------
    >>> format_quantity(2e-5, "siemens"), format_quantity(2.5e-15, "square meter"), format_quantity(0.0, "volt")
    ('20 uS', '2500 nm2', '0 V')
    """
    if not math.isfinite(value):
        raise ValueError(f"Argument `value` must be finite, but got {value}; give a finite number")
    symbol = _SYMBOLS[unit][0]
    power = 2 if unit == "square meter" else 1
    exact = Decimal(repr(value))
    fitting = [prefix for prefix in _WRITTEN_PREFIXES if Decimal(10) ** (power * PREFIXES[prefix]) <= abs(exact)]
    prefix = "" if exact == 0 else (fitting or _WRITTEN_PREFIXES)[-1 if fitting else 0]
    mantissa = exact.scaleb(-power * PREFIXES[prefix]).normalize()
    digits = f"{mantissa:f}" if -7 < mantissa.adjusted() < 16 else f"{mantissa:e}"
    return f"{digits if exact else '0'} {symbol if not prefix else prefix + symbol}"


def read_value(value: object, kinds: frozenset[str], unit: str | None) -> object:
    """Prepare what a user gave for a field: read quantities and "none", refuse what would pass for a number by accident.

    Parameters
    ----------
    value
        What was given. Lists and tuples, and dicts where no design is expected, are read element by element.
    kinds
        What the field holds: any of "none", "bool", "int", "float", "design" and "other" (which is left to pydantic).
    unit
        Unit of the field, a value of `unit_of`, or None.

    Returns
    -------
    object
        The value, a quantity as its number in `unit`, "none" as None, a NumPy scalar as the Python one.

    Raises
    ------
    ValueError
        For a bool or a text given for a number, and for anything but True and False given for a bool.

    Examples
    --------
    >>> read_value(["20 uS", 3e-5], frozenset({"float"}), "siemens")
    [2e-05, 3e-05]
    >>> read_value("None", frozenset({"int", "none"}), None) is None
    True
    """
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str) and "none" in kinds and value.strip().lower() == "none":
        return None
    if isinstance(value, list):
        return [read_value(element, kinds, unit) for element in value]
    if type(value) is tuple:
        return tuple(read_value(element, kinds, unit) for element in value)
    if isinstance(value, Mapping) and "design" not in kinds:
        return {key: read_value(element, kinds, unit) for key, element in value.items()}
    if value is None or "other" in kinds:
        return value
    numeric = "float" in kinds or "int" in kinds
    if isinstance(value, str) and "float" in kinds and unit:
        return parse_quantity(value, unit)
    if numeric and (isinstance(value, str | bytes) or (isinstance(value, bool) and "bool" not in kinds)):
        must = "a number" if "float" in kinds else "a whole number"
        raise ValueError(f"must be {must}, but got {value!r}; write it as a plain number")
    if "bool" in kinds and not numeric and not isinstance(value, bool):
        raise ValueError(f"must be true or false, but got {value!r}; write it without quotes")
    return value


def shown(value: object) -> str:
    """Return a value as an error line shows it: at most 100 characters without line breaks.

    Examples
    --------
    >>> shown("a" * 200)[-5:]
    'aa...'
    """
    text = " ".join(repr(value).split())
    return text if len(text) <= 100 else text[:97] + "..."


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of an error line about an unknown name: the nearest known one, or all of them.

    Examples
    --------
    >>> nearest("bitz", ["bits", "percentile"]), nearest("area", ["bits", "percentile"])
    ('did you mean `bits`?', 'choose from bits, percentile')
    """
    choices = list(known)
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    if close:
        return f"did you mean `{close[0]}`?"
    return f"choose from {', '.join(choices)}" if choices else "there is nothing to choose from"


def _leaves(annotation: Any) -> list[Any]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal or not arguments:
        return [annotation]
    if hasattr(annotation, "__metadata__"):
        arguments = arguments[:1]
    elif inspect.isclass(origin) and issubclass(origin, Mapping):
        arguments = arguments[1:]
    return [leaf for argument in arguments if argument is not Ellipsis for leaf in _leaves(argument)]


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the model classes at the leaves of an annotation, through unions, Annotated and containers.

    Examples
    --------
    >>> models_in(dict[str, BaseModel] | None)
    [<class 'pydantic.main.BaseModel'>]
    """
    return [leaf for leaf in _leaves(annotation) if inspect.isclass(leaf) and issubclass(leaf, BaseModel)]


@lru_cache(maxsize=4096)
def kinds_of(cls: type[BaseModel], name: str) -> frozenset[str]:
    """Return what a field of a model holds, in the words that `read_value` takes.

    Examples
    --------
    >>> class Point(BaseModel):
    ...     x_m: float | None
    >>> sorted(kinds_of(Point, "x_m"))
    ['float', 'none']
    """
    words: dict[Any, str] = {bool: "bool", int: "int", float: "float", NoneType: "none", None: "none"}
    annotation = cls.model_fields[name].annotation
    designs = {"design"} if models_in(annotation) else set()
    return frozenset(designs | {words.get(leaf, "other") for leaf in _leaves(annotation) if leaf not in models_in(annotation)})


def type_path(cls: type) -> str:
    """Return the name by which TOML and JSON refer to a class, ``"package.module:Class"``.

    Examples
    --------
    >>> type_path(Decimal)
    'decimal:Decimal'
    """
    return f"{cls.__module__}:{cls.__qualname__}"


def load_class(path: object, base: type[Model]) -> type[Model]:
    """Return the class that a text ``"package.module:Class"`` names; a class is returned as it is.

    Parameters
    ----------
    path
        The text. Its module is imported.
    base
        The class that it must be or derive from.

    Returns
    -------
    type
        The class named.

    Raises
    ------
    ValueError
        Where the text has another form, the module cannot be imported, or it has no such subclass of `base`.

    Examples
    --------
    >>> load_class("pydantic:RootModel", BaseModel).__name__
    'RootModel'
    """
    found: Any = path
    module: Any = None
    if not inspect.isclass(path):
        module_name, _, class_name = path.partition(":") if isinstance(path, str) else ("", "", "")
        if not (module_name and class_name) or module_name.startswith("."):
            raise ValueError(f"`type` must have the form 'package.module:Class', but got {shown(path)}; write module, colon, class")
        try:
            found = module = importlib.import_module(module_name)
        except ImportError as error:
            raise ValueError(f"`type` must name a module that can be imported, but got {shown(path)} ({error}); check the name") from None
        for part in class_name.split("."):
            found = getattr(found, part, None)
    if not (inspect.isclass(found) and issubclass(found, base)):
        known = [name for name, value in vars(module).items() if inspect.isclass(value) and issubclass(value, base)] if module else []
        hint = nearest(str(path).split(":")[-1], known) if known else "name another class"
        raise ValueError(f"`type` must name a subclass of {base.__name__}, but got {shown(path)}; {hint}")
    return found


_BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}
_KINDS = {
    "int_type": "a whole number", "int_from_float": "a whole number", "int_parsing": "a whole number", "float_type": "a number",
    "finite_number": "a finite number", "bool_type": "true or false", "string_type": "a text",
}  # fmt: skip


def one_line(cls: type[BaseModel], error: ValidationError, data: object) -> str:
    """Return what a model's validation found wrong as one line.

    Parameters
    ----------
    cls
        The outermost class that was to be built.
    error
        What its validation raised.
    data
        What it was to be built from.

    Returns
    -------
    str
        The class, the field with its whole path, what is allowed, what was given, what to do; further fields that are wrong by name.

    Examples
    --------
    >>> class Point(BaseModel):
    ...     x_m: float
    >>> try:
    ...     Point(x_m=None)
    ... except ValidationError as error:
    ...     one_line(Point, error, {"x_m": None})
    'Point: `x_m` must be a number, but got None; correct it'
    """
    top = _named(cls, data)
    lines: dict[str, str] = {}
    for details in sorted(error.errors(include_url=False), key=lambda details: details["type"] != "extra_forbidden"):
        path, line = _explain(top, details, data)
        lines.setdefault(path, line)
    first, *rest = lines
    more = f" (also wrong: {', '.join(f'`{path}`' for path in rest)})" if rest else ""
    return " ".join(f"{top.__name__}: {lines[first]}{more}".split())


def _named(cls: type[BaseModel], data: object) -> type[BaseModel]:
    try:
        return load_class(data["type"], cls) if isinstance(data, Mapping) and "type" in data else cls
    except ValueError:
        return cls


def _locate(cls: type[BaseModel], location: tuple[int | str, ...], data: object) -> tuple[type[BaseModel], str, str]:
    """Return the innermost model on the way to an error, its own path, and the error's path without pydantic's names of union members."""
    owner, prefix, path = cls, "", ""
    for part in location:
        is_item = isinstance(part, int) and isinstance(data, list | tuple) and part < len(data)
        if not is_item and not (isinstance(data, Mapping) and (part in data or part in owner.model_fields)):
            continue
        path = f"{path}[{part}]" if isinstance(part, int) else f"{path}.{part}".lstrip(".")
        annotation = None if is_item or part not in owner.model_fields else owner.model_fields[str(part)].annotation
        data = data[part] if is_item else data.get(part)  # type: ignore[index, attr-defined]
        inner = models_in(annotation)
        if isinstance(data, Mapping) and (inner or annotation is None):
            owner, prefix = _named(inner[0] if inner else owner, data), path + "."
        elif inner and isinstance(data, list | tuple):
            owner, prefix = inner[0], path + "."
    return owner, prefix, path


def _explain(cls: type[BaseModel], details: ErrorDetails, data: object) -> tuple[str, str]:
    owner, prefix, path = _locate(cls, details["loc"], data)
    kind, context, got = details["type"], details.get("ctx", {}), shown(details["input"])
    name = str(details["loc"][-1]) if details["loc"] else ""
    if kind == "extra_forbidden":
        return path, f"`{path}` must be a field of {owner.__name__}, but is unknown; {nearest(name, owner.model_fields)}"
    if kind == "missing":
        return path, f"`{path}` must be given, but is missing; add it, it has no default"
    if kind in ("value_error", "assertion_error"):
        return path, _place(str(context.get("error", details["msg"])), owner, prefix, path, got)
    if set(context) & set(_BOUNDS):
        must, remedy = f"be {_range(owner.model_fields.get(name), context)}", "choose a value in that range"
    elif kind in _KINDS:
        must, remedy = f"be {_KINDS[kind]}", "correct it"
    else:
        must, remedy = re.sub(r"^\w+ should ", "", details["msg"]), "correct it"
    if kind in ("literal_error", "enum"):
        remedy = nearest(str(details["input"]), re.findall(r"'([^']*)'", str(context.get("expected", ""))))
    return path, f"`{path}` must {must}, but got {got}; {remedy}"


def _range(info: FieldInfo | None, context: Mapping[str, Any]) -> str:
    stated = {bound: getattr(rule, bound) for rule in (info.metadata if info else []) for bound in _BOUNDS if hasattr(rule, bound)}
    bounds = stated | {bound: context[bound] for bound in _BOUNDS if bound in context}
    return " and ".join(f"{words} {bounds[bound]:.12g}" for bound, words in _BOUNDS.items() if bounds.get(bound) is not None)


def _place(message: str, owner: type[BaseModel], prefix: str, path: str, got: str) -> str:
    """Give a check's own message the whole path of the fields that it names, or of the one that it is about."""
    if message.startswith("must ") and not path:
        return message
    if message.startswith("must "):
        return f"`{path}` {message}" if "but got" in message else f"`{path}` {message}, but got {got}; correct it"
    own = {"type", *owner.model_fields}
    return re.sub(r"`(\w+)([^`\s]*)`", lambda match: f"`{prefix if match[1] in own else ''}{match[1]}{match[2]}`", message)
