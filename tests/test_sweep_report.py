"""What a sweep leaves for a reader: report, figures, importances, the command line, and the dashboard."""

import json
import resource
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pandas as pd
import pytest

import simulator as sim
from simulator.cli import main
from simulator.search import Context, Fidelity, Real, Space, SweepError, Whole
from simulator.search.dashboard import Following, dashboard_server
from simulator.search.figures import draw_sweep
from simulator.search.importance import importances
from simulator.search.plans import load_sweep
from simulator.search.store import FORMAT
from simulator.study import StudyError

SPACE = Space({
    "hardware": ["rram", "digital"], "bits": Whole(2, 9), "rows": [64, 128, 256],
    "sigma": Real(0.005, 0.1, log=True, points=3, when={"hardware": ["rram"]}),
})  # fmt: skip
GOALS = {"accuracy": "maximize", "energy_j": "minimize"}


def objective(configuration: dict[str, Any], context: Context) -> dict[str, Any]:
    """Say how well a made-up design does; nine bits fail."""
    if configuration["bits"] == 9:
        raise ArithmeticError("nine <bits>")
    noise = [np.random.default_rng([context.seed, chip]).normal() for chip in context.chips]
    accuracy = 1 - 2.0 ** -configuration["bits"] - configuration.get("sigma", 0.02)
    energy = 1e-12 * configuration["bits"] * configuration["rows"] * (2 if configuration["hardware"] == "digital" else 1)
    return {"accuracy": [accuracy + 0.004 * one for one in noise], "energy_j": energy, "area_m2": 1e-7 * configuration["rows"]}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def found(store: Path) -> sim.Sweep:
    limits = {"area_m2": (None, 2e-5)}
    return sim.sweep(
        objective, SPACE, goals=GOALS, limits=limits, strategy="grid", chips=6, fidelity=Fidelity(), store=store, progress=False
    )


def test_the_report_says_what_the_frame_says(found: sim.Sweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulator.search.reporting.FORMATS", ("svg",))
    report = found.write_report(tmp_path, title="Which one?").read_text()
    summary = json.loads((tmp_path / "summary.json").read_text())
    front = found.front()
    assert [row["trial"] for row in summary["front"]] == front["trial"].to_list()
    assert "the table of all designs" in report and report.count("<tr>") > len(found.frame)
    assert summary["failed"] == (found.frame["bits"] == 9).sum() and "nine &lt;bits&gt;" in report and "Which one?" in report
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "designs.csv")[["accuracy", "energy_j"]], found.frame[["accuracy", "energy_j"]])
    assert len(pd.read_parquet(tmp_path / "designs.parquet")) == len(found.frame)
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {"front", "parallel", "importance", "heat_accuracy", "heat_energy_j"}


def test_the_front_in_the_figure_is_the_front_of_the_table(found: sim.Sweep) -> None:
    axes = draw_sweep(found)["front"].axes[0]
    line = next(container.lines[0] for container in axes.containers if container.get_label() == "front")
    front = found.front()
    assert line.get_ydata() == pytest.approx(front["accuracy"].to_numpy())
    ratio = np.asarray(line.get_xdata()) / front["energy_j"].to_numpy(dtype=float)
    assert ratio == pytest.approx(ratio[0]) and "energy (" in axes.get_xlabel()


def test_importance_finds_what_the_values_were_made_of(found: sim.Sweep) -> None:
    table = importances(found).set_index(["goal", "parameter"])["importance"]
    assert table["accuracy"].idxmax() == "bits" and abs(table["accuracy", "rows"]) < 0.05 * table["accuracy", "bits"]
    assert set(table["energy_j"].nlargest(2).index) == {"rows", "bits"}


def test_figures_of_sweeps_with_one_goal_few_designs_or_none() -> None:
    one = sim.sweep(lambda c, _: float(c["x"]), {"x": [1, 2]}, goals={"y": "minimize"}, strategy="grid")
    assert set(draw_sweep(one)) == {"parallel"}
    none = sim.sweep(lambda c, _: float("nan"), {"x": [1, 2]}, goals={"y": "minimize"}, strategy="grid")
    assert draw_sweep(none) == {}


def trials_of(store: Path) -> list[Any]:
    import optuna

    found: list[Any] = optuna.load_study(study_name=store.name, storage=Following(store).storage).trials
    return found


def test_the_dashboard_has_every_design_as_the_frame_has_it(found: sim.Sweep, store: Path) -> None:
    trials = {(t.params["hardware"], t.params["bits"], t.params["rows"], t.params.get("sigma")): t for t in trials_of(store)}
    assert len(trials) == len(found.frame)
    states = {"complete": "COMPLETE", "dropped": "PRUNED", "failed": "FAIL"}
    assert {"complete", "dropped", "failed"} == set(found.frame["state"])
    for trial, row in zip(found.trials, found.frame.to_dict("records"), strict=True):
        values, c = trial.means(), trial.configuration
        shown = trials[c["hardware"], c["bits"], c["rows"], c.get("sigma")]
        assert shown.state.name == states[row["state"]]
        if values is not None:
            assert [shown.user_attrs["accuracy"], shown.user_attrs["chips"]] == pytest.approx([values["accuracy"], row["chips"]])
        if row["state"] == "complete":
            assert shown.values == pytest.approx([row["accuracy"], row["energy_j"]])


def test_the_dashboard_follows_a_sweep_that_is_going_on_over_http(
    found: sim.Sweep, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal grows line by line, as it did; what the browser is told grows with it and only changes what was running."""
    monkeypatch.setattr("simulator.search.dashboard.UPDATE_SECONDS", 0.0)
    # Its own cache holds trials for two seconds.
    monkeypatch.setattr("optuna_dashboard._app.get_trials", lambda cache, storage, study: storage.get_all_trials(study))
    lines = (store / "evaluations.jsonl").read_bytes().splitlines(keepends=True)
    journal = tmp_path / "evaluations.jsonl"
    journal.write_bytes(b"".join(lines[:2]))
    with dashboard_server(tmp_path, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        address = f"http://127.0.0.1:{server.server_port}"

        def asked() -> list[dict[str, Any]]:
            told: list[dict[str, Any]] = json.loads(urlopen(f"{address}/api/studies/0?after=0").read())["trials"]
            return told

        assert b"<html" in urlopen(f"{address}/dashboard/studies/0").read().lower() and asked() == []
        before: dict[int, str] = {}
        seen: list[set[str]] = []
        for count in (12, 60, 110):
            journal.write_bytes(b"".join(lines[:count]) + lines[count][:20])  # a line is being written
            now = {trial["number"]: trial["state"] for trial in asked()}
            assert all(now[number] == state for number, state in before.items() if state != "Running") and len(now) >= len(before)
            before = now
            seen.append(set(now.values()))
        assert "Running" in seen[0] and 0 < len(before) <= len(found.frame)
        journal.write_bytes(b"".join(lines))
        told = [trial["state"] for trial in asked()]
        assert len(told) == len(found.frame) and set(told) == {"Complete", "Pruned", "Fail"}
        with pytest.raises(HTTPError, match="403"):
            urlopen(Request(f"{address}/api/studies/0", method="DELETE"))
        server.shutdown()
        thread.join()


def test_refuses_a_dashboard_of_nothing_of_the_future_and_of_a_taken_port(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["dashboard", str(tmp_path)]) == 2
    error = capfd.readouterr().err
    assert "has no evaluations.jsonl" in error and "http://" not in error and error.count("\n") == 1
    (tmp_path / "evaluations.jsonl").write_text(json.dumps({"kind": "inloop sweep", "format": FORMAT + 1}) + "\n")
    with pytest.raises(SweepError, match="later inloop"):
        Following(tmp_path)
    (tmp_path / "evaluations.jsonl").write_text(json.dumps({"kind": "inloop sweep", "format": FORMAT}) + "\n")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SweepError, match=f"127.0.0.1:{port} is not: Address already in use; choose another"):
            dashboard_server(tmp_path, "127.0.0.1", port)


OWN = """
import time


def objective(configuration, context):
    time.sleep(float(configuration.get("wait", 0)))
    return {"loss": (configuration["x"] - 3) ** 2, "area_m2": 1e-6 * configuration["x"]}
"""
FILE = """
name = "mine"
seed = 1
[sweep]
objective = "own_objective_of_a_sweep:objective"
strategy = "grid"
chips = 1
goals = { loss = "minimize" }
limits.area_m2 = { most = "4 mm2" }
[space]
x = { low = 0, high = 6 }
wait = [0.0]
"""


def test_a_sweep_in_a_file_runs_goes_on_and_prints(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulator.search.reporting.FORMATS", ("svg",))
    (tmp_path / "own_objective_of_a_sweep.py").write_text(OWN)
    (tmp_path / "mine.toml").write_text(FILE)
    assert main(["sweep", str(tmp_path / "mine.toml"), "--out", str(tmp_path / "out"), "--json"]) == 0
    shown = json.loads(capfd.readouterr().out)
    assert shown["front"][0]["x"] == 3 and shown["designs"] == 7 and Path(shown["report"]).is_file()
    assert shown["limits"] == {"area_m2": [None, 4e-6]}
    start = time.perf_counter()
    assert main(["sweep", str(tmp_path / "mine.toml"), "--out", str(tmp_path / "out"), "--trials", "5"]) == 0
    assert "designs that no other beats" in capfd.readouterr().out and time.perf_counter() - start < 60


def test_a_sweep_of_failures_says_so_with_its_exit_code(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own_objective_of_a_sweep.py").write_text(OWN)
    (tmp_path / "mine.toml").write_text(FILE.replace('loss = "minimize"', 'lost = "minimize"'))
    assert main(["sweep", str(tmp_path / "mine.toml"), "--out", str(tmp_path / "out")]) == 1
    shown = capfd.readouterr().out
    assert "7 failed" in shown and "must return `lost`" in shown and "no other beats" not in shown
    assert main(["sweep", "crossbar_sweep", "--show"]) == 0 and "[space]" in capfd.readouterr().out


def test_refuses_a_disk_without_room_for_the_report_and_leaves_no_half(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own_objective_of_a_sweep.py").write_text(OWN)
    (tmp_path / "mine.toml").write_text(FILE)
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, before[1]))
    try:
        assert main(["sweep", str(tmp_path / "mine.toml"), "--out", str(tmp_path / "out")]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert "cannot be written: File too large; make room" in capfd.readouterr().err
    assert not list((tmp_path / "out").rglob("*.tmp")) and not (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('strategy = "grid"', 'strategy = "annealing"', "`sweep.strategy` must be one of grid"),
        ("chips = 1", "chip = 1", "chip"),
        ("most =", "at_most =", "`least`, `most` or both"),
        ("[space]", "[spaces]", "`spaces` must be a section"),
        ("x = {", "x = { step = 4,", "`step` must lead"),
        ('objective = "own_objective_of_a_sweep:objective"', "", "either \\[design\\] or"),
        ('"minimize"', '"smallest"', '"minimize" or "maximize"'),
        ('"4 mm2"', '"4 mm"', "mm"),
        ("chips = 1", "chips = 1\nsettings = { batches = 3 }", "`sweep.settings` must have fields of Grid, but has 'batches'"),
        ("chips = 1", "chips = 4\nfidelity = { frist = 2 }", "but has 'frist'; did you mean `first`"),
        ("chips = 1", "chips = 1\npartial = true", "`sweep.partial` must not stand beside an `objective`"),
        ("[space]", '[model]\nname = "digits_cnn"\n[space]', "`model` must not stand beside"),
        ("x = { low = 0, high = 6 }", "x = { low = 0 }", "`space.x` must have `high`, but has low"),
        ("x = { low = 0, high = 6 }", "x = { low = 0, high = 6, stpe = 2 }", "did you mean `step`"),
        ('name = "mine"', 'name = "../mine"', "names the results folder"),
    ],
)
def test_refuses_files_that_are_no_sweep(old: str, new: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_objective_of_a_sweep.py").write_text(OWN)
    (tmp_path / "mine.toml").write_text(FILE.replace(old, new))
    with pytest.raises((StudyError, ValueError), match=says):
        plan = load_sweep(str(tmp_path / "mine.toml"))
        sim.sweep(plan.objective, plan.space, **plan.options())


def test_the_sweep_that_comes_with_inloop_is_one_of_hardware() -> None:
    plan = load_sweep("crossbar_sweep")
    values = plan.objective({name: kind.values()[-1] for name, kind in plan.space.parameters.items()}, Context(0, range(1)))
    assert isinstance(values, dict) and values["accuracy"][0] > 0.5 and values["energy_j"] > 0
