"""A sweep's store as studies of Optuna's in memory, kept up with the journal while it is written, for optuna-dashboard."""

import json
import socketserver
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from simulator.search.optuna_search import _quiet
from simulator.search.store import JOURNAL, SweepError, check_header

UPDATE_SECONDS = 0.5
"""The journal is read for a request where that was not done so recently."""
Parts = list[dict[str, Any]]


def dashboard_server(folder: Path, host: str, port: int) -> WSGIServer:
    """Return a server of the dashboard that has its port and waits for ``serve_forever``; it shows a sweep as it goes on.

    Parameters
    ----------
    folder
        Store of one or several sweeps, finished or not.
    host, port
        Where to listen; port 0 takes a free one.

    Raises
    ------
    SweepError
        Where the folder holds no sweep, optuna-dashboard is not installed, or the port is taken; one line.
    """
    following = Following(folder)
    try:
        dashboard = import_module("optuna_dashboard")
    except ImportError as error:
        raise SweepError("`inloop dashboard` needs optuna-dashboard, which is not installed; do pip install 'inloop[dashboard]'") from error
    shown = dashboard.wsgi(following.storage)

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            start_response("403 Forbidden", [("Content-Type", "application/json")])
            return [json.dumps({"reason": "A sweep's results are only shown here: its store is written by the sweep"}).encode()]
        following.update(UPDATE_SECONDS)
        answer: Iterable[bytes] = shown(environ, start_response)
        return answer

    try:
        return make_server(host, port, application, server_class=_Server, handler_class=_QuietHandler)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SweepError(
            f"Arguments `host` and `port` must be free to listen at, but {host}:{port} is not: {reason}; choose another"
        ) from error


@dataclass
class _Study:
    """A sweep as Optuna holds it: its number, what it is for, and the trial of each design."""

    number: int
    about: dict[str, Any]
    trials: dict[str, int] = field(default_factory=dict)
    parts: dict[str, Parts] = field(default_factory=dict)


class Following:
    """Studies of Optuna's that hold what a journal holds: one for each sweep, with the means over chips of every design.

    A design is a running trial until all its chips are measured, a pruned one where it was dropped after a few.

    Parameters
    ----------
    folder
        The store.

    Attributes
    ----------
    storage
        Where the studies are.

    Raises
    ------
    SweepError
        If the folder holds no sweep, or a later inloop wrote it.
    """

    def __init__(self, folder: Path) -> None:
        self._journal = folder / JOURNAL
        if not self._journal.is_file():
            raise SweepError(
                f"Argument `folder` must be the store of a sweep, but {str(folder)!r} has no {JOURNAL}; name the folder of one"
            )
        self._name = folder.resolve().name
        self._offset, self._time = 0, -np.inf
        self._rows: list[dict[str, Any]] = []
        self._studies: dict[str, _Study] = {}
        self._lock = threading.Lock()
        self.storage = optuna.storages.InMemoryStorage()
        self.update()

    def update(self, after_seconds: float = 0.0) -> None:
        """Take in what was written since the last time, unless that is no longer ago than `after_seconds`."""
        with self._lock, _quiet():
            if time.monotonic() - self._time < after_seconds:
                return
            with self._journal.open("rb") as file:
                file.seek(self._offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # it is being written
                    self._take(line)
                    self._offset += len(line)
            self._time = time.monotonic()

    def _take(self, line: bytes) -> None:
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if self._offset == 0:
            check_header(row, self._journal.parent)
        elif not isinstance(row, dict):
            return
        elif "about" in row:
            study = self._studies[row["sweep"]] = _Study(self._new_study(row["about"]["goals"]), row["about"])
            for known in self._rows:
                self._add(study, known)
        elif "dropped" in row:
            study = self._studies[row["of"]]
            for key in row["dropped"]:
                self._end(study, key, TrialState.PRUNED)
        elif "key" in row:
            self._rows.append({name: value for name, value in row.items() if name != "trace"})
            for study in self._studies.values():
                self._add(study, row)

    def _new_study(self, goals: dict[str, str]) -> int:
        name = f"{self._name} {len(self._studies) + 1}" if self._studies else self._name
        directions: Any = list(goals.values())
        study = optuna.create_study(storage=self.storage, study_name=name, directions=directions)
        study.set_metric_names(list(goals))
        return self.storage.get_study_id_from_name(name)

    def _add(self, study: _Study, row: dict[str, Any]) -> None:
        """Add an evaluation to the trial of its design, if that is one of the study's."""
        key, about = row["key"], study.about
        if row.get("setting") != about["setting"] or not _inside(row["configuration"], about["space"]):
            return
        if key in study.trials and self.storage.get_trial(study.trials[key]).state is not TrialState.RUNNING:
            del study.trials[key], study.parts[key]  # what had failed was tried again
        if key not in study.trials:
            study.trials[key], study.parts[key] = self.storage.create_new_trial(study.number, _running(row["configuration"], about)), []
        if row["values"] is None or any(goal not in row["values"] for goal in about["goals"]):
            self.storage.set_trial_user_attr(study.trials[key], "error", row.get("error", ""))
            self._end(study, key, TrialState.FAIL)
            return
        study.parts[key].append(row)
        chips, means = _means(study.parts[key], about["chips"])
        for name, value in {**means, "chips": chips}.items():
            self.storage.set_trial_user_attr(study.trials[key], name, value)
        if chips >= about["chips"]:
            self._end(study, key, TrialState.COMPLETE, [means[goal] for goal in about["goals"]])

    def _end(self, study: _Study, key: str, state: TrialState, values: list[float] | None = None) -> None:
        if key in study.trials and self.storage.get_trial(study.trials[key]).state is TrialState.RUNNING:
            self.storage.set_trial_state_values(study.trials[key], state, values)


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of requests that are served."""


def _running(configuration: dict[str, Any], about: dict[str, Any]) -> FrozenTrial:
    """Return a trial of a design that is not done."""
    return FrozenTrial(
        number=-1, trial_id=-1, state=TrialState.RUNNING, value=None, datetime_start=datetime.now(), datetime_complete=None,
        params={name: _param(value) for name, value in configuration.items()},
        distributions={name: _distribution(about["space"][name]) for name in configuration},
        user_attrs={}, system_attrs={}, intermediate_values={},
    )  # fmt: skip


def _means(parts: Parts, most: int) -> tuple[int, dict[str, float]]:
    """Return how many chips, from the first on, were measured, and the mean of each value over them; rows may overlap."""
    by_chip: dict[str, dict[int, float]] = {}
    plain: dict[str, float] = {}
    covered: set[int] = set()
    for part in parts:
        chips = range(*part["chips"])
        covered.update(chips)
        for name, value in part["values"].items():
            if isinstance(value, list):
                by_chip.setdefault(name, {}).update(zip(chips, value, strict=True))
            else:
                plain[name] = value
    count = next(chip for chip in range(most + 1) if chip == most or chip not in covered)
    return count, plain | {name: float(np.mean([found[chip] for chip in sorted(found) if chip < most])) for name, found in by_chip.items()}


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
