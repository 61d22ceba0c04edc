"""What a sweep leaves for a reader: report, figures, importances, the command line, and the dashboard."""

import json
import threading
import time
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import pandas as pd
import pytest

import simulator as sim
from simulator.cli import main
from simulator.search import Context, Fidelity, Real, Space, SweepError, Whole
from simulator.search.dashboard import study_storage
from simulator.search.figures import draw_sweep
from simulator.search.importance import importances
from simulator.search.plans import load_sweep
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


def test_the_dashboard_has_every_design_and_answers(found: sim.Sweep, store: Path) -> None:
    import optuna

    storage = study_storage(store)
    study = optuna.load_study(study_name=store.name, storage=storage)
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"] and len(study.trials) == len(found.frame)
    means = {(t.params["hardware"], t.params["bits"], t.params["rows"], t.params.get("sigma")): t.values for t in study.trials}
    for trial in found.trials:
        values, c = trial.means(), trial.configuration
        stored = means[c["hardware"], c["bits"], c["rows"], c.get("sigma")]
        assert (stored is None) == (values is None)
        if values is not None:
            assert stored == pytest.approx([values["accuracy"], values["energy_j"]])
    dashboard = pytest.importorskip("optuna_dashboard")
    from wsgiref.simple_server import make_server

    server = make_server("127.0.0.1", 0, dashboard.wsgi(storage))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        studies = json.loads(urlopen(f"http://127.0.0.1:{server.server_port}/api/studies").read())
        assert studies["study_summaries"][0]["study_name"] == store.name
    finally:
        server.shutdown()
        thread.join()


def test_refuses_a_dashboard_of_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SweepError, match="name the folder of one"):
        study_storage(tmp_path)
    assert main(["dashboard", str(tmp_path)]) == 2 and "has no evaluations.jsonl" in capfd.readouterr().err


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
