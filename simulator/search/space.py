"""What a sweep may vary: typed parameters of network, precision and hardware in one space, some of them on a condition."""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from devices.design import Design
from devices.quantities import nearest, shown

Configuration: TypeAlias = dict[str, Any]
"""One point of a space: the value of each parameter that is active there, by its name."""
Condition: TypeAlias = Mapping[str, Sequence[Any]]


@dataclass(frozen=True)
class Real:
    """A number between two ends.

    Parameters
    ----------
    low, high
        Smallest and largest value.
    log
        Search evenly in the logarithm; `low` must then be above 0.
    points
        Values that a grid takes between the ends; None: the parameter has no grid.
    when
        Values that other parameters, named before this one, must have for this one to exist.

    Examples
    --------
    >>> Real(1e-3, 1.0, log=True).at(0.5)
    0.0316...
    """

    low: float
    high: float
    log: bool = False
    points: int | None = None
    when: Condition = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_ends(self, self.low, self.high, self.log)
        if self.points is not None and (isinstance(self.points, bool) or not isinstance(self.points, int) or self.points < 2):
            raise ValueError(f"Argument `points` must be an integer of at least 2, but got {self.points!r}; leave it out for no grid")

    @property
    def size(self) -> int | None:
        """Number of values on a grid, None without one."""
        return self.points

    def at(self, share: float) -> float:
        """Return the value at a share of the way, 0 to 1."""
        if not self.log:
            return float(self.low + share * (self.high - self.low))
        value = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        return float(min(max(value, self.low), self.high))

    def share(self, value: Any) -> float:
        """Return how far along a value is, 0 to 1."""
        scale: Callable[[float], float] = math.log if self.log else float
        return float((scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low)))

    def values(self) -> Sequence[Any]:
        """Return the grid's values.

        Raises
        ------
        ValueError
            Without `points`.
        """
        if self.points is None:
            raise ValueError("Argument `points` must say how many values a grid takes of a Real, but is None; give Real(..., points=5)")
        return [self.at(place / (self.points - 1)) for place in range(self.points)]

    def holds(self, value: Any) -> bool:
        """Return whether a value is one of this parameter's."""
        value = _scalar(value)
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high


@dataclass(frozen=True)
class Whole:
    """An integer between two ends, both included.

    Parameters
    ----------
    low, high
        Smallest and largest value.
    step
        Distance of neighbors; `high` must be reached from `low`.
    log
        Search evenly in the logarithm.
    when
        As for `Real`.

    Examples
    --------
    >>> list(Whole(3, 8).values())
    [3, 4, 5, 6, 7, 8]
    """

    low: int
    high: int
    step: int = 1
    log: bool = False
    when: Condition = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("low", "high", "step"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise ValueError(f"Argument `{name}` of Whole must be an integer, but got {shown(value)}; use Real for other numbers")
        _check_ends(self, self.low, self.high, self.log)
        if self.step < 1 or (self.high - self.low) % self.step:
            raise ValueError(f"Argument `step` must lead from {self.low} to {self.high}, but got {self.step}; change `high` or `step`")
        if self.log and self.step != 1:
            raise ValueError(f"Argument `step` must be 1 on a logarithmic Whole, but got {self.step}; list the values in a Choice")

    @property
    def size(self) -> int:
        """Number of values."""
        return (self.high - self.low) // self.step + 1

    def at(self, share: float) -> int:
        """Return the value at a share of the way, 0 to 1: each has an equal part of it, or of the logarithm."""
        if self.log:
            low, high = math.log(self.low - 0.5), math.log(self.high + 0.5)
            return int(min(max(round(math.exp(low + share * (high - low))), self.low), self.high))
        return self.low + self.step * min(int(share * self.size), self.size - 1)

    def share(self, value: Any) -> float:
        """Return how far along a value is, 0 to 1."""
        if self.size == 1:
            return 0.0
        scale: Callable[[float], float] = math.log if self.log else float
        return float((scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low)))

    def values(self) -> Sequence[Any]:
        """Return the values, in order."""
        return range(self.low, self.high + 1, self.step)

    def holds(self, value: Any) -> bool:
        """Return whether a value is one of this parameter's."""
        value = _scalar(value)
        return isinstance(value, int) and not isinstance(value, bool) and value in self.values()


@dataclass(frozen=True)
class Choice:
    """One of several values.

    Parameters
    ----------
    options
        Numbers, texts, booleans, None, lists and dicts of these, or designs.
    ordered
        Whether neighbors resemble each other; None: where all are numbers.
    when
        As for `Real`.

    Examples
    --------
    >>> Choice([64, 128, 256]).at(0.5)
    128
    """

    options: Sequence[Any]
    ordered: bool | None = None
    when: Condition = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.options, str) or not isinstance(self.options, Sequence) or not len(self.options):
            raise ValueError(f"Argument `options` must be a list with at least one value, but got {shown(self.options)}")
        written = [written_value(option) for option in self.options]
        if any(one == other for one, other in itertools.combinations([(type(w), w) for w in written], 2)):
            raise ValueError(f"Argument `options` must hold different values, but got {shown(list(self.options))}; remove the repeated one")
        if self.ordered is None:
            numbers = all(isinstance(option, int | float) and not isinstance(option, bool) for option in self.options)
            object.__setattr__(self, "ordered", numbers)

    @property
    def size(self) -> int:
        """Number of values."""
        return len(self.options)

    def at(self, share: float) -> Any:
        """Return the value at a share of the way, 0 to 1: each has an equal part of it."""
        return self.options[min(int(share * self.size), self.size - 1)]

    def index(self, value: Any) -> int:
        """Return a value's place."""
        written = written_value(value)
        return next(place for place, option in enumerate(self.options) if written_value(option) == written)

    def share(self, value: Any) -> float:
        """Return how far along a value is, 0 to 1."""
        return self.index(value) / max(1, self.size - 1)

    def values(self) -> Sequence[Any]:
        """Return the values, in order."""
        return self.options

    def holds(self, value: Any) -> bool:
        """Return whether a value is one of this parameter's."""
        value = _scalar(value)
        try:
            written = written_value(value)
        except ValueError:
            return False
        return any(type(option) is type(value) and written_value(option) == written for option in self.options)


Parameter: TypeAlias = Real | Whole | Choice


class Space:
    """Parameters by name; a configuration holds the value of each that is active.

    Parameters
    ----------
    parameters
        `Real`, `Whole` or `Choice` by name; a list of values stands for a `Choice`. A name that begins with ``design.`` is the path of
        a field of the hardware for `simulator.HardwareObjective`; any other names what the objective makes of it.

    Raises
    ------
    ValueError
        Where a parameter is none of these, or stands on a condition that cannot be decided before it.

    Examples
    --------
    >>> space = Space({"hardware": ["rram", "digital"], "design.adc.bits": Whole(4, 6, when={"hardware": ["rram"]})})
    >>> list(space)[-2:], space.size
    ([{'hardware': 'rram', 'design.adc.bits': 6}, {'hardware': 'digital'}], 4)
    """

    def __init__(self, parameters: Mapping[str, Parameter | Sequence[Any]]) -> None:
        if not isinstance(parameters, Mapping) or not parameters:
            raise ValueError(f"Argument `parameters` must be a dict of at least one parameter, but got {shown(parameters)}")
        self.parameters: dict[str, Parameter] = {}
        for name, given in parameters.items():
            kind = given if isinstance(given, Real | Whole | Choice) else Choice(_listed(name, given))
            for other, values in kind.when.items():
                if other not in self.parameters:
                    raise ValueError(
                        f"Parameter `{name}` must stand after those of its condition, but `{other}` is not before it; put it first, or "
                        f"{nearest(other, self.parameters)}"
                    )
                for value in values:
                    if not self.parameters[other].holds(value):
                        raise ValueError(f"Parameter `{name}` must have a condition that can hold, but `{other}` is never {shown(value)}")
            self.parameters[name] = kind

    def __repr__(self) -> str:
        return f"Space({self.parameters!r})"

    def active(self, name: str, configuration: Mapping[str, Any]) -> bool:
        """Return whether a parameter exists beside the values of those before it."""
        conditions = self.parameters[name].when.items()
        return all(other in configuration and configuration[other] in values for other, values in conditions)

    def build(self, pick: Callable[[str, Parameter], Any]) -> Configuration:
        """Return the configuration whose active parameters have the values that `pick` returns for them."""
        found: Configuration = {}
        for name, kind in self.parameters.items():
            if self.active(name, found):
                found[name] = pick(name, kind)
        return found

    def at(self, shares: Sequence[float] | npt.NDArray[np.float64]) -> Configuration:
        """Return the configuration at a point of the unit cube that has a side for each parameter."""
        places = dict(zip(self.parameters, shares, strict=True))
        return self.build(lambda name, kind: kind.at(float(places[name])))

    def encode(self, configuration: Mapping[str, Any]) -> npt.NDArray[np.float64]:
        """Return numbers that a predictor can learn from: shares, one number per value of an unordered choice, -1 where inactive."""
        parts: list[float] = []
        for name, kind in self.parameters.items():
            present = name in configuration
            if isinstance(kind, Choice) and not kind.ordered and kind.size > 2:
                parts += [float(present and kind.index(configuration[name]) == place) for place in range(kind.size)]
            else:
                parts.append(kind.share(configuration[name]) if present else -1.0)
        return np.array(parts)

    @property
    def size(self) -> int | None:
        """Number of configurations; None where a `Real` without points makes it infinite."""
        if any(kind.size is None for kind in self.parameters.values()):
            return None
        bound = {name for name, kind in self.parameters.items() if kind.when}
        bound |= {other for name in bound for other in self.parameters[name].when}
        free = math.prod(kind.size or 1 for name, kind in self.parameters.items() if name not in bound)
        return free * sum(1 for _ in self._below({}, [name for name in self.parameters if name in bound]))

    def __iter__(self) -> Iterator[Configuration]:
        """Go through every configuration, the last parameter fastest."""
        for name, kind in self.parameters.items():
            if kind.size is None:
                raise ValueError(f"Parameter `{name}` must have `points` for a grid, but is Real without; give Real(..., points=5)")
        yield from self._below({}, list(self.parameters))

    def _below(self, above: Configuration, names: list[str]) -> Iterator[Configuration]:
        if not names:
            yield above
        elif not self.active(names[0], above):
            yield from self._below(above, names[1:])
        else:
            for value in self.parameters[names[0]].values():
                yield from self._below(above | {names[0]: value}, names[1:])

    def check(self, configuration: Mapping[str, Any]) -> None:
        """Raise ValueError where a configuration is not one of this space."""
        for name in configuration:
            if name not in self.parameters:
                raise ValueError(f"Parameter `{name}` must be one of the space, but is not; {nearest(name, self.parameters)}")
        for name, kind in self.parameters.items():
            if self.active(name, configuration) != (name in configuration):
                raise ValueError(f"Parameter `{name}` must be given exactly where its condition {dict(kind.when)} holds")
            if name in configuration and not kind.holds(configuration[name]):
                raise ValueError(f"Parameter `{name}` must be one of its values, but got {shown(configuration[name])}")

    def written(self) -> dict[str, Any]:
        """Return the space as JSON can hold it: what a digest of it is made of."""
        found: dict[str, Any] = {}
        for name, kind in self.parameters.items():
            fields: dict[str, Any]
            if isinstance(kind, Choice):
                fields = {"options": [written_value(option) for option in kind.options], "ordered": kind.ordered}
            elif isinstance(kind, Real):
                fields = {"low": kind.low, "high": kind.high, "log": kind.log, "points": kind.points}
            else:
                fields = {"low": kind.low, "high": kind.high, "log": kind.log, "step": kind.step}
            when = {other: [written_value(value) for value in values] for other, values in kind.when.items()}
            found[name] = {"kind": type(kind).__name__, **fields, "when": when}
        return found


def _scalar(value: Any) -> Any:
    """Return the plain number in a scalar of NumPy's, as a row of a table holds it."""
    return value.item() if isinstance(value, np.generic) else value


def written_value(value: Any) -> Any:
    """Return a parameter's value as JSON holds it: equal values have equal forms.

    Raises
    ------
    ValueError
        If it is not made of numbers, texts, booleans, None, lists, dicts and designs.

    Examples
    --------
    >>> written_value((1, None))
    [1, None]
    """
    if isinstance(value, Design):
        return {"design": type(value).__name__, "fingerprint": value.fingerprint()}
    if isinstance(value, Mapping):
        return {str(key): written_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [written_value(item) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ValueError(f"A parameter's value must be a number, text, boolean, None, list, dict or design, but got {shown(value)}; name it")


def _listed(name: str, given: Any) -> Sequence[Any]:
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ValueError(f"Parameter `{name}` must be Real, Whole, Choice or a list of values, but got {shown(given)}")
    return given


def _check_ends(kind: Any, low: float, high: float, log: bool) -> None:
    name = type(kind).__name__
    for end, value in (("low", low), ("high", high)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError(f"Argument `{end}` of {name} must be a finite number, but got {shown(value)}")
    if low > high or (low == high and name == "Real"):
        raise ValueError(f"Argument `low` of {name} must be below `high`, but got {low} and {high}; swap them")
    if log and low <= 0:
        raise ValueError(f"Argument `low` of {name} must be above 0 on a logarithmic scale, but got {low}; use log=False")
