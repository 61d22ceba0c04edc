"""A sweep's store as a study of Optuna's in memory, for optuna-dashboard."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from simulator.search.optuna_search import _quiet
from simulator.search.store import JOURNAL, SweepError


def serve_dashboard(folder: Path, host: str, port: int) -> None:
    """Serve the dashboard until Ctrl-C.

    Parameters
    ----------
    folder
        Store of one or several sweeps.
    host, port
        Where to listen.

    Raises
    ------
    SweepError
        Where the folder holds no sweep, or optuna-dashboard is not installed.
    """
    storage = study_storage(folder)
    try:
        dashboard = import_module("optuna_dashboard")
    except ImportError as error:
        raise SweepError("`inloop dashboard` needs optuna-dashboard, which is not installed; do pip install 'inloop[dashboard]'") from error
    dashboard.run_server(storage, host=host, port=port)


def study_storage(folder: Path) -> optuna.storages.BaseStorage:
    """Return what a store holds as a storage of Optuna's: a study for each sweep, with the mean over chips of every design.

    Parameters
    ----------
    folder
        The store.
    """
    if not (folder / JOURNAL).is_file():
        raise SweepError(f"Argument `folder` must be the store of a sweep, but {str(folder)!r} has no {JOURNAL}; name the folder of one")
    sweeps: list[dict[str, Any]] = []
    rows: dict[str, list[dict[str, Any]]] = {}
    for line in (folder / JOURNAL).read_text(encoding="utf-8").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue  # a line that is being written
        if "about" in row:
            sweeps.append(row["about"])
        elif "key" in row and not row.get("lost"):
            rows.setdefault(row["key"], []).append(row)
    storage = optuna.storages.InMemoryStorage()
    with _quiet():
        for number, about in enumerate(sweeps):
            _add_study(storage, f"{folder.name} {number}" if len(sweeps) > 1 else folder.name, about, rows)
    return storage


def _add_study(storage: Any, name: str, about: dict[str, Any], rows: dict[str, list[dict[str, Any]]]) -> None:
    goals: dict[str, str] = about["goals"]
    directions: Any = list(goals.values())
    study = optuna.create_study(storage=storage, study_name=name, directions=directions)
    study.set_metric_names(list(goals))
    for parts in rows.values():
        first = parts[0]
        if first.get("setting") != about["setting"] or not _inside(first["configuration"], about["space"]):
            continue
        distributions = {parameter: _distribution(about["space"][parameter]) for parameter in first["configuration"]}
        params = {parameter: _param(value) for parameter, value in first["configuration"].items()}
        whole = [part["values"] for part in sorted(parts, key=lambda part: int(part["chips"][0])) if part["values"] is not None]
        if len(whole) < len(parts) or any(goal not in whole[0] for goal in goals):
            notes = {"error": first.get("error", "")}
            study.add_trial(create_trial(state=TrialState.FAIL, params=params, distributions=distributions, user_attrs=notes))
            continue
        means = {value: float(np.mean(np.concatenate([np.atleast_1d(part[value]) for part in whole]))) for value in whole[0]}
        values = [means[goal] for goal in goals]
        study.add_trial(create_trial(values=values, params=params, distributions=distributions, user_attrs=means))


def _inside(configuration: dict[str, Any], space: dict[str, Any]) -> bool:
    for parameter, value in configuration.items():
        kind = space.get(parameter)
        if kind is None or (value not in kind["options"] if "options" in kind else not kind["low"] <= value <= kind["high"]):
            return False
    return True


def _distribution(kind: dict[str, Any]) -> BaseDistribution:
    if kind["kind"] == "Choice":
        return CategoricalDistribution([_param(option) for option in kind["options"]])
    if kind["kind"] == "Whole":
        return IntDistribution(kind["low"], kind["high"], log=kind["log"], step=kind["step"])
    return FloatDistribution(kind["low"], kind["high"], log=kind["log"])


def _param(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value
