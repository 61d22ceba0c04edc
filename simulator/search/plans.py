"""Sweeps in a TOML file: a study's sections, a space, and what to search it for; checked before anything is computed."""

from dataclasses import MISSING, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import Field, ValidationError
from torch import nn

from devices.base import Hardware
from devices.quantities import nearest, one_line, parse_quantity, shown, unit_of
from simulator._functions import import_function
from simulator.batches import RepeatableBatches
from simulator.models import load_model
from simulator.preparing import Prepared, prepare
from simulator.search.fidelity import Fidelity
from simulator.search.hardware_objective import HardwareObjective
from simulator.search.objective import Objective
from simulator.search.space import Choice, Parameter, Real, Space, Whole
from simulator.search.strategies import BY_NAME, Strategy
from simulator.study import NAME, Study, StudyError, _Section
from simulator.study_files import read_toml
from simulator.training import fit

STUDY_SECTIONS = ("model", "data", "training", "metrics", "seconds", "batch_size")
MODEL = "model."


class Search(_Section):
    """The section ``[sweep]``.

    Parameters
    ----------
    strategy, settings
        Name of a strategy and its settings.
    trials, chips
        Designs, and programmed instances of each.
    goals
        "minimize" or "maximize" by the name of a value.
    limits
        ``{ most = ... }`` or ``{ least = ... }`` by the name of a value; quantities such as ``"2 mm2"`` are read.
    fidelity
        Settings of `Fidelity`; an empty table takes its defaults, none measures all chips of every design.
    objective
        A function of your own, ``package.module:function``, in place of the sections of a study.
    costs, partial
        As for `HardwareObjective`.
    """

    strategy: str = "random"
    settings: dict[str, Any] = Field(default_factory=dict)
    trials: int | None = Field(default=None, ge=1)
    chips: int = Field(default=8, ge=1)
    goals: dict[str, str]
    limits: dict[str, dict[str, Any]] = Field(default_factory=dict)
    fidelity: dict[str, Any] | None = None
    objective: str | None = None
    costs: list[str] = Field(default_factory=lambda: ["energy_j"])
    partial: bool = False


@dataclass(frozen=True)
class SweepPlan:
    """A sweep as a file describes it: the arguments of `simulator.sweep`.

    Attributes
    ----------
    name, description, seed, workers
        Of the file.
    objective, space, strategy, fidelity, search
        What is searched, how, and for what.
    text
        The file, for the results folder.
    """

    name: str
    description: str
    seed: int
    workers: int
    objective: Objective
    space: Space
    strategy: Strategy
    fidelity: Fidelity | None
    search: Search
    text: str

    def options(self) -> dict[str, Any]:
        """Return the keyword arguments of `simulator.sweep`."""
        limits = {name: _limit(name, ends) for name, ends in self.search.limits.items()}
        return {
            "goals": self.search.goals, "limits": limits, "trials": self.search.trials, "chips": self.search.chips,
            "strategy": self.strategy, "fidelity": self.fidelity, "seed": self.seed,
        }  # fmt: skip


@dataclass(frozen=True)
class StudyNetwork:
    """The trained network of a study, for values of the parameters that begin with ``model.``."""

    prepared: Prepared

    def __call__(self, parameters: dict[str, Any]) -> nn.Module:
        """Build and train; the same parameters give the same weights."""
        study = self.prepared.study
        for name in parameters:
            if not name.startswith(MODEL):
                raise ValueError(
                    f"Parameter `{name}` must begin with `design.`, `{MODEL}`, `compile.` or `write_verify.`, or be `hardware` or `seconds`"
                )
        arguments = {**study.model.arguments, **{name.removeprefix(MODEL): value for name, value in parameters.items()}}
        model = load_model(study.model.name, arguments, seed=study.seed)
        plan = study.training
        if plan.epochs:
            fit(
                model, self.prepared.train_batches(), epochs=plan.epochs, learning_rate=plan.learning_rate, seed=study.seed,
                weight_decay=plan.weight_decay, loss=self.prepared.loss, progress=None,
            )  # fmt: skip
        return model.eval()

    def fingerprint(self) -> str:
        """Return a digest of what decides the weights."""
        from simulator.fingerprints import digest, digest_batches

        study = self.prepared.study
        train = RepeatableBatches(self.prepared.split.train_batches(study.training.batch_size, seed=None), seed=study.seed, name="data")
        described = {"model": study.model.model_dump(mode="json"), "plan": study.training.model_dump(mode="json"), "seed": study.seed}
        return digest(described | {"data": digest_batches(train), "sources": self.prepared.sources})


def load_sweep(source: str) -> SweepPlan:
    """Read a sweep.

    Parameters
    ----------
    source
        Path of a TOML file, or the name of a sweep that comes with inloop.

    Raises
    ------
    StudyError
        Where the file is not there, is not TOML, or has a field or value that is not allowed; one line.

    Examples
    --------
    >>> plan = load_sweep("crossbar_sweep")
    >>> plan.search.goals["accuracy"], plan.space.size
    ('maximize', 216)
    """
    path = sweep_file(source)
    data = read_toml(path, source)
    folder = Path.cwd() if source in packaged_sweeps() else path.resolve().parent
    try:
        return _plan(data, folder, path.stem)
    except ValidationError as error:
        raise StudyError(f"sweep {source!r}: {one_line(Search, error, data.get('sweep', {}))}") from error
    except (ValueError, TypeError) as error:
        raise StudyError(f"sweep {source!r}: {error}") from error


def sweep_file(source: str) -> Path:
    """Return the file of a sweep: its path, or the name of one that comes with inloop; StudyError where there is none.

    Examples
    --------
    >>> sweep_file("crossbar_sweep").name
    'crossbar_sweep.toml'
    """
    packaged = packaged_sweeps()
    path = packaged.get(source, Path(source).expanduser())
    if not path.is_file():
        raise StudyError(f"sweep {source!r} must be a TOML file, but there is none; check the path, or run {', '.join(packaged)}")
    return path


def packaged_sweeps() -> dict[str, Path]:
    """Return the sweeps that come with inloop, by name.

    Examples
    --------
    >>> "crossbar_sweep" in packaged_sweeps()
    True
    """
    folder = Path(str(resources.files("simulator"))) / "search" / "studies"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def _plan(data: dict[str, Any], folder: Path, stem: str) -> SweepPlan:
    known = {"name", "description", "seed", "workers", "sweep", "space", "design", "designs", *STUDY_SECTIONS}
    for name in data:
        if name not in known:
            raise StudyError(f"`{name}` must be a section of a sweep, but is not; {nearest(name, known)}")
    for name in ("sweep", "space"):
        if not isinstance(data.get(name), dict):
            raise StudyError(f"a sweep must have a section [{name}], but has none; see `inloop sweep --help`")
    search = Search.model_validate(data["sweep"])
    space = Space({name: _parameter(name, given) for name, given in _flat(data["space"]).items()})
    if search.strategy not in BY_NAME:
        raise StudyError(f"`sweep.strategy` must be one of {', '.join(BY_NAME)}, but got {search.strategy!r}")
    strategy = _made(BY_NAME[search.strategy], search.settings, "sweep.settings")
    objective: Any
    if search.objective is not None:
        unread = [name for name in ("design", "designs", *STUDY_SECTIONS) if name in data]
        unread += [f"sweep.{name}" for name in ("costs", "partial") if name in search.model_fields_set]
        if unread:
            raise StudyError(
                f"`{unread[0]}` must not stand beside an `objective` of your own, which does not read it; leave one of them out"
            )
        objective = import_function(search.objective, argument="objective", folder=folder)
    else:
        objective = _study_objective(data, folder, search, stem)
    name, description = str(data.get("name", stem)), str(data.get("description", ""))
    if not NAME.fullmatch(name):
        raise StudyError(f"`name` must be made of letters, digits, _, - and dots, but got {shown(name)}; it names the results folder")
    seed, workers = data.get("seed", 0), data.get("workers", 1)
    fidelity = None if search.fidelity is None else _made(Fidelity, search.fidelity, "sweep.fidelity")
    return SweepPlan(name, description, seed, workers, objective, space, strategy, fidelity, search, tomli_w.dumps(data))


def _study_objective(data: dict[str, Any], folder: Path, search: Search, stem: str) -> HardwareObjective:
    several = data.get("designs", {})
    if bool(several) == ("design" in data):
        raise StudyError("a sweep must have either [design] or [designs.NAME] for each of several, but has both or neither")
    sections = {name: data[name] for name in STUDY_SECTIONS if name in data}
    given = several or {"": data["design"]}
    studies = {
        name: Study.model_validate({"name": stem, "seed": data.get("seed", 0), **sections, "design": one}) for name, one in given.items()
    }
    designs: dict[str, Hardware] = {name: study.base().design for name, study in studies.items()}
    prepared = prepare(next(iter(studies.values())), folder)
    model = StudyNetwork(prepared)
    return HardwareObjective(
        model, designs if several else designs[""], prepared.passes, metrics=list(prepared.metrics.values()), costs=search.costs,
        partial=search.partial, calibration=prepared.calibration, training=prepared.split.train_batches(256, seed=None),
    )  # fmt: skip


def _flat(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Join the keys of nested tables by dots, down to what describes a parameter."""
    found: dict[str, Any] = {}
    for name, value in section.items():
        described = isinstance(value, list) or (isinstance(value, dict) and ({"low", "options"} & value.keys()))
        found |= {prefix + name: value} if described or not isinstance(value, dict) else _flat(value, f"{prefix}{name}.")
    return found


def _parameter(name: str, given: Any) -> Parameter:
    unit = unit_of(name.rsplit(".", 1)[-1])

    def number(value: Any) -> Any:
        return parse_quantity(value, unit) if isinstance(value, str) and unit and value != "none" else value

    if isinstance(given, list):
        return Choice([number(value) for value in given])
    if not isinstance(given, dict):
        raise StudyError(f"`space.{name}` must be a list of values or a table with low and high, but got {shown(given)}")
    table = {key: number(value) if key in ("low", "high") else value for key, value in given.items()}
    if isinstance(table.get("options"), list):
        table["options"] = [number(value) for value in table["options"]]
    whole = isinstance(table.get("low"), int) and isinstance(table.get("high"), int) and "points" not in table
    kind: type[Parameter] = Choice if "options" in table else Whole if whole else Real
    made: Parameter = _made(kind, table, f"space.{name}")
    return made


def _made(kind: Any, given: dict[str, Any], where: str) -> Any:
    """Call a data class with what a table of the file gives; StudyError where a name is unknown or missing."""
    known = {one.name: one for one in fields(kind)}
    for name in given:
        if name not in known:
            raise StudyError(f"`{where}` must have fields of {kind.__name__}, but has {shown(name)}; {nearest(name, known)}")
    for name, one in known.items():
        if name not in given and one.default is MISSING and one.default_factory is MISSING:
            raise StudyError(f"`{where}` must have `{name}`, but has {', '.join(given) or 'nothing'}; add it")
    return kind(**given)


def _limit(name: str, ends: dict[str, Any]) -> tuple[float | None, float | None]:
    unit = unit_of(name)
    if not ends or ends.keys() - {"least", "most"}:
        raise StudyError(f"`sweep.limits.{name}` must have `least`, `most` or both, but got {shown(ends)}")
    read = {side: parse_quantity(value, unit) if isinstance(value, str) and unit else value for side, value in ends.items()}
    return read.get("least"), read.get("most")
