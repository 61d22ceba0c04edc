"""A study: a model, data, hardware and what to vary, in one TOML file that is checked before anything is computed."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from devices.base import Hardware
from devices.design import Design
from devices.quantities import kinds_of, parse_quantity, read_value, shown, unit_of

MARK = "# A study as inloop ran it"
"""First words of the resolved study in a results folder: what tells such a folder from any other."""
NAME = re.compile(r"[A-Za-z0-9_][\w.-]*")
FUNCTION_OR_NAME = r"[A-Za-z_][\w.]*(:[A-Za-z_]\w*)?"


class StudyError(ValueError):
    """A study that cannot be run; the message is one line."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @field_validator("*", mode="before")
    @classmethod
    def _read_value(cls, value: Any, info: ValidationInfo) -> Any:
        name = info.field_name or ""
        return read_value(value, kinds_of(cls, name), "second" if name == "seconds" else unit_of(name))


class Named(_Section):
    """Something built in, or a user's own ``package.module:function``, and the arguments it is called with."""

    name: str = Field(min_length=1)
    arguments: dict[str, Any] = {}


class NoiseAware(_Section):
    """Training of the chip itself, from the float-trained weights on."""

    epochs: int = Field(ge=1)
    learning_rate: float = Field(default=4e-3, gt=0)


class TrainingPlan(_Section):
    """Training of the float model, and of the chip where `noise_aware` is given; 0 epochs take the model as it is."""

    epochs: int = Field(default=0, ge=0)
    learning_rate: float = Field(default=4e-3, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    batch_size: int = Field(default=64, ge=1)
    loss: str = Field(default="cross_entropy", pattern=FUNCTION_OR_NAME)
    noise_aware: NoiseAware | None = None


class Measures(_Section):
    """Metrics, the first of which is what figures show, and the value of it that a chip has to reach."""

    names: Annotated[list[str], Field(min_length=1)] = ["accuracy"]
    spec: float | None = None


class Study(_Section):
    """Everything that decides the numbers of a study, and how many processes compute them.

    Parameters
    ----------
    name
        Letters, digits, ``_``, ``-`` and dots; the results go to ``results/NAME``.
    description
        One sentence for the report.
    seed
        Seed of initial weights, of the order of training data, and of all chips.
    trials
        Chips: programmed instances of each design.
    workers
        Processes; results are the same bits for any number.
    seconds
        Age of a chip when it is read, in seconds since programming; a text such as ``"1 day"`` too.
    batch_size
        Samples a batch in evaluation.
    model, data, training, design, metrics, vary
        Sections of the file. `design` holds ``preset = "NAME"`` or ``type = "package.module:Class"`` beside fields; `vary` maps
        ``"design.FIELD.FIELD"`` or ``"seconds"`` to lists of values, each varied alone.

    Examples
    --------
    >>> study = Study(name="s", model="digits_mlp", data="digits", design={"preset": "wan_nature_2022"}, vary={"seconds": ["1 h"]})
    >>> [point.seconds for point in study.points()]
    [0.0, 3600.0]
    """

    name: str
    description: str = ""
    seed: int = Field(default=0, ge=0, lt=2**63)
    trials: int = Field(default=25, ge=1)
    workers: int = Field(default=1, ge=1)
    seconds: float = Field(default=0.0, ge=0)
    batch_size: int = Field(default=256, ge=1)
    model: Named
    data: Named
    training: TrainingPlan = TrainingPlan()
    metrics: Measures = Measures()
    design: dict[str, Any]
    vary: dict[str, list[Any]] = {}

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, data: Any) -> Any:
        """Take the short forms: a name for a section that has one, a list of metrics, and dotted keys in `vary`."""
        if not isinstance(data, Mapping):
            return data
        expanded = dict(data)
        for section in ("model", "data"):
            if isinstance(expanded.get(section), str):
                expanded[section] = {"name": expanded[section]}
        if isinstance(expanded.get("design"), str):
            expanded["design"] = {"preset": expanded["design"]}
        if isinstance(expanded.get("metrics"), list):
            expanded["metrics"] = {"names": expanded["metrics"]}
        if isinstance(expanded.get("vary"), Mapping):
            expanded["vary"] = dict(_flat(expanded["vary"]))
        return expanded

    @field_validator("name")
    @classmethod
    def _is_a_folder_name(cls, value: str) -> str:
        if not NAME.fullmatch(value):
            raise ValueError(f"must be made of letters, digits, _, - and dots, but got {shown(value)}; it names the results folder")
        return value

    @model_validator(mode="after")
    def _varies_something(self) -> Self:
        for path, values in self.vary.items():
            if path != "seconds" and not path.startswith("design."):
                raise ValueError(f'`vary` must name fields of the design or `seconds`, but got {path!r}; write "design.{path}" or so')
            if not values:
                raise ValueError(f"`vary` must give each field at least one value, but {path!r} has none; give a list")
        return self

    def base(self) -> "Point":
        """Return the design and age that nothing is varied of.

        Raises
        ------
        DesignError
            Where a preset, a class, a field or a value is not allowed; one line.
        """
        fields = dict(self.design)
        if "preset" in fields:
            preset = fields.pop("preset")
            if not isinstance(preset, str):
                raise StudyError(f"Study: `design.preset` must be the name of a preset, but got {shown(preset)}; see `inloop presets`")
            return Point("", None, Hardware.preset(preset, **fields), self.seconds)
        if "type" not in fields:
            raise StudyError(
                'Study: `design` must have `preset = "NAME"` or `type = "package.module:Class"`, but has neither; see `inloop presets`'
            )
        return Point("", None, Hardware.from_dict(fields), self.seconds)

    def points(self) -> list["Point"]:
        """Return the base, then each varied value around it.

        Raises
        ------
        DesignError
            Where a design or a varied value is not allowed; one line.
        StudyError
            Where a field is varied over one value twice.
        """
        base = self.base()
        found = [base]
        for path, values in self.vary.items():
            several = [_moved(base, path, value) for value in values]
            if len({(point.design.fingerprint(), point.seconds) for point in several}) < len(several):
                raise StudyError(
                    f"Study: `vary` must give a field different values, but {path!r} has {shown(values)}; remove the repeated one"
                )
            found += several
        return found

    def resolved(self) -> str:
        """Return the study as TOML with every default and every number of the design written out."""
        written = self.model_dump(mode="json", exclude_none=True)
        design = self.base().design.to_toml_dict()
        if "preset" in self.design:
            design = {"preset": self.design["preset"], **{key: value for key, value in design.items() if key != "type"}}
        return f"{MARK}; run it again with: inloop run study.toml\n" + tomli_w.dumps(written | {"design": design})


@dataclass(frozen=True)
class Point:
    """One design at one age.

    Attributes
    ----------
    varied
        Path of the field that differs from the base; empty for the base itself.
    value
        What that field has: the number that was validated, in SI units.
    design, seconds
        The hardware, and its age in seconds.
    """

    varied: str
    value: Any
    design: Hardware
    seconds: float

    def at(self, path: str) -> Any:
        """Return the value of a field that a study can vary, None where what holds it is off."""
        if path == "seconds":
            return self.seconds
        found: Any = self.design
        for part in path.split(".")[1:]:
            found = getattr(found, part, None)
        return found


def _moved(base: Point, path: str, value: Any) -> Point:
    if path == "seconds":
        seconds = parse_quantity(value, "second") if isinstance(value, str) else value
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < float("inf"):
            raise StudyError(f'Study: `vary.seconds` must hold times of at least 0, but got {shown(value)}; write 3600 or "1 h"')
        return Point(path, float(seconds), base.design, float(seconds))
    change: Any = value
    for part in reversed(path.split(".")[1:]):
        change = {part: change}
    point = Point(path, None, base.design.replace(**change), base.seconds)
    found = point.at(path)
    return Point(path, type(found).__name__ if isinstance(found, Design) else found, point.design, point.seconds)


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
