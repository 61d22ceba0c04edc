"""Sweeps in one process: what is computed once, kept, resumed, refused, and what a failure leaves."""

import json
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import simulator as sim
from devices import RRAMCrossbar, SpikingCore, SRAMMacro, SystolicArray
from simulator.search import NSGA2, TPE, Choice, Context, Fidelity, HardwareObjective, Predictor, Real, Space, SweepError, Whole
from simulator.search.store import FORMAT, JOURNAL

SPACE = {"bits": Whole(2, 9), "rows": [64, 128, 256], "kind": ["a", "b"], "sigma": Real(0.1, 1.0, when={"kind": ["b"]})}
GOALS = {"miss": "minimize", "energy": "minimize"}


class Counting:
    """A test function that writes down what it is asked; the log is no part of what it is."""

    def __init__(self, log: Path, fail: Any = None) -> None:
        self.log, self.fail = log, fail

    def fingerprint(self) -> str:
        return "counting"

    def __call__(self, configuration: dict[str, Any], context: Context) -> dict[str, Any]:
        with self.log.open("a") as file:
            file.write(json.dumps([configuration, [context.chips.start, context.chips.stop]]) + "\n")
        if self.fail is not None and self.fail(configuration):
            raise ArithmeticError("a wire\nis broken")
        noise = [np.random.default_rng([context.seed, chip]).normal() for chip in context.chips]
        miss = 2.0 ** -configuration["bits"] + configuration.get("sigma", 0.0)
        energy = configuration["bits"] * configuration["rows"] / 100
        return {"miss": [miss + 0.01 * one for one in noise], "energy": energy, "rows": float(configuration["rows"])}

    @property
    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


def same(first: sim.Sweep, second: sim.Sweep) -> bool:
    columns = [name for name in first.frame if name != "elapsed_s"]
    pd.testing.assert_frame_equal(first.frame[columns], second.frame[columns], check_exact=True)
    return True


@pytest.fixture
def counting(tmp_path: Path) -> Counting:
    return Counting(tmp_path / "calls")


STRATEGIES = [
    "random",
    "quasi_random",
    TPE(batch=5, startup=5),
    NSGA2(population=6),
    "nsga3",
    Predictor(model="ridge", batch=5, startup=10, candidates=200),
]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=str)
def test_a_sweep_that_is_extended_bit_by_bit_is_the_same_as_one_run(strategy: Any, counting: Counting, tmp_path: Path) -> None:
    def run(trials: int, store: Path | None) -> sim.Sweep:
        return sim.sweep(
            counting, SPACE, goals=GOALS, limits={"energy": (None, 20)}, trials=trials, strategy=strategy, chips=2, store=store
        )

    whole = run(32, None)
    before = len(counting.calls)
    for trials in (3, 11, 19, 32):
        last = run(trials, tmp_path / "store")
    assert same(whole, last)
    new = counting.calls[before:]
    assert len(set(new)) == len(new), "a point was computed twice"
    assert same(whole, run(32, tmp_path / "store")) and len(counting.calls) == before + len(new)


def test_more_chips_reuse_those_that_were_measured(counting: Counting, tmp_path: Path) -> None:
    grid = {"bits": Whole(2, 5), "rows": [64]}
    few = sim.sweep(counting, grid, goals=GOALS, strategy="grid", chips=3, store=tmp_path / "store")
    many = sim.sweep(counting, grid, goals=GOALS, strategy="grid", chips=8, store=tmp_path / "store")
    again = sim.sweep(counting, grid, goals=GOALS, strategy="grid", chips=2, store=tmp_path / "store")
    assert [json.loads(call)[1] for call in counting.calls] == [[0, 3]] * 4 + [[3, 8]] * 4
    assert same(many, sim.sweep(counting, grid, goals=GOALS, strategy="grid", chips=8))
    assert (few.frame["chips"] == 3).all() and (again.frame["chips"] == 2).all()
    first = few.trials[0].values
    assert first is not None and many.trials[0].values is not None
    assert many.trials[0].values["miss"][:3] == first["miss"]  # type: ignore[index]


def test_order_and_strategy_do_not_matter_to_what_is_known(counting: Counting, tmp_path: Path) -> None:
    sim.sweep(counting, {"rows": [64, 128], "bits": Whole(2, 4)}, goals=GOALS, strategy="grid", store=tmp_path / "store")
    other = {"bits": Choice([4, 2, 3]), "rows": [128, 64]}
    sim.sweep(counting, other, goals={"energy": "minimize"}, strategy="random", trials=40, store=tmp_path / "store")
    assert len(counting.calls) == 6
    sim.sweep(counting, other, goals=GOALS, strategy="grid", seed=1, store=tmp_path / "store")
    assert len(counting.calls) == 12, "another seed is another measurement"


def test_random_repeats_of_a_design_are_measured_once(counting: Counting) -> None:
    found = sim.sweep(counting, {"bits": [3, 4], "rows": [64]}, goals=GOALS, trials=50)
    assert len(counting.calls) == 2 and len(found.frame) == 50 and found.frame["front"].all()
    assert len(found.front()) == 2


def test_racing_gives_the_front_of_a_full_sweep_for_fewer_chips(counting: Counting, tmp_path: Path) -> None:
    space = {"bits": Whole(2, 9), "rows": [64, 128, 256], "kind": ["a", "b"], "sigma": Real(0.05, 1.0, points=4, when={"kind": ["b"]})}
    full = sim.sweep(counting, space, goals=GOALS, strategy="grid", chips=16)
    assert len(counting.calls) == len(full.frame) == 120
    raced = sim.sweep(counting, space, goals=GOALS, strategy="grid", chips=16, fidelity=Fidelity(batch=40), store=tmp_path / "store")
    columns = ["bits", "rows", "kind", "miss", "miss_low", "miss_high", "energy"]
    pd.testing.assert_frame_equal(raced.front()[columns], full.front()[columns])
    assert raced.frame["chips"].sum() < 0.5 * full.frame["chips"].sum()
    assert (raced.frame.loc[raced.frame["state"] == "dropped", "chips"] < 16).all()
    adaptive = sim.sweep(counting, space, goals=GOALS, strategy=NSGA2(population=8), trials=40, chips=16, fidelity=Fidelity())
    stored = [
        sim.sweep(counting, space, goals=GOALS, strategy=NSGA2(population=8), trials=n, chips=16, fidelity=Fidelity(), store=tmp_path / "s")
        for n in (7, 25, 40)
    ]
    assert same(adaptive, stored[-1])


def test_intervals_and_sureness_of_the_front() -> None:
    def objective(configuration: dict[str, Any], context: Context) -> dict[str, Any]:
        noise = [np.random.default_rng([context.seed, chip, configuration["x"]]).normal() for chip in context.chips]
        return {"y": [configuration["x"] // 2 + 0.05 * one for one in noise]}

    found = sim.sweep(objective, {"x": [0, 1, 4]}, goals={"y": "minimize"}, strategy="grid", chips=10)
    row = found.frame.iloc[2]
    values = np.array(found.trials[2].values["y"])  # type: ignore[index]
    from scipy.stats import t

    half = t.ppf(0.975, 9) * values.std(ddof=1) / 10**0.5
    assert (row["y_low"], row["y_high"]) == pytest.approx((values.mean() - half, values.mean() + half))
    assert not found.front()["sure"].any(), "the first two have the same mean"
    apart = sim.sweep(objective, {"x": [0, 4]}, goals={"y": "minimize"}, strategy="grid", chips=10)
    assert apart.front()["sure"].all() and len(apart.front()) == 1


def test_a_failure_is_one_row_with_its_traceback_and_is_not_repeated(tmp_path: Path) -> None:
    failing = Counting(tmp_path / "calls", fail=lambda configuration: configuration["bits"] == 3)
    for strategy, trials in (("grid", None), (TPE(batch=2, startup=2), 8)):
        found = sim.sweep(failing, {"bits": Whole(2, 5), "rows": [64]}, goals=GOALS, strategy=strategy, trials=trials, store=tmp_path / "s")
        rows = found.frame[found.frame["bits"] == 3]
        assert len(rows) and (rows["state"] == "failed").all() and rows["miss"].isna().all()
        assert (rows["failure"] == "ArithmeticError: a wire is broken").all()
        assert "in __call__" in found.traceback(int(rows["trial"].iloc[0])) and "is broken" in found.traceback(int(rows["trial"].iloc[0]))
        assert found.best()["bits"] == 5 and not rows["front"].any()
    assert len(failing.calls) == 4
    mended = Counting(tmp_path / "calls")
    again = sim.sweep(mended, {"bits": Whole(2, 5), "rows": [64]}, goals=GOALS, strategy="grid", store=tmp_path / "s", retry_failed=True)
    assert len(mended.calls) == 5 and (again.frame["state"] == "complete").all()
    later = sim.sweep(mended, {"bits": Whole(2, 5), "rows": [64]}, goals=GOALS, strategy="grid", store=tmp_path / "s")
    assert len(mended.calls) == 5 and (later.frame["state"] == "complete").all()


def test_nan_is_a_failure_and_never_the_best() -> None:
    def objective(configuration: dict[str, Any], context: Context) -> float:
        return float("nan") if configuration["x"] == 1 else float(configuration["x"])

    for direction, best in (("minimize", 0), ("maximize", 2)):
        for strategy in ("grid", "tpe", "nsga2", "predictor"):
            found = sim.sweep(
                objective, {"x": [0, 1, 2]}, goals={"y": direction}, strategy=strategy, trials=None if strategy == "grid" else 12
            )
            assert found.best()["x"] == best
            failed = found.frame[found.frame["x"] == 1]
            assert (failed["state"] == "failed").all() and failed["failure"].str.contains("not a best value").all()


def test_an_objective_that_ends_the_program_is_a_failed_row_too() -> None:
    def objective(configuration: dict[str, Any], context: Context) -> float:
        return float(configuration["x"]) if configuration["x"] else sys.exit("enough")

    found = sim.sweep(objective, {"x": [0, 1]}, goals={"y": "minimize"}, strategy="grid")
    assert found.frame["failure"].to_list() == ["SystemExit: enough", ""]


def test_a_sweep_in_which_everything_fails_says_so() -> None:
    def objective(configuration: dict[str, Any], context: Context) -> float:
        raise RuntimeError("no")

    found = sim.sweep(objective, {"x": [0, 1, 2]}, goals={"y": "minimize"}, strategy="predictor", trials=30)
    assert len(found.front()) == 0 and "failed" in str(found)
    with pytest.raises(ValueError, match="none does"):
        found.best()


def test_a_torn_line_is_as_if_it_were_not_there(counting: Counting, tmp_path: Path) -> None:
    space = {"bits": Whole(2, 5), "rows": [64]}
    whole = sim.sweep(counting, space, goals=GOALS, strategy="grid", store=tmp_path / "s")
    journal = tmp_path / "s" / JOURNAL
    journal.write_bytes(journal.read_bytes()[:-20])
    again = sim.sweep(counting, space, goals=GOALS, strategy="grid", store=tmp_path / "s")
    assert same(whole, again) and len(counting.calls) == 5
    assert all(json.loads(line) for line in journal.read_text().splitlines())


def test_refuses_a_full_disk_and_goes_on_when_there_is_room(counting: Counting, tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
    try:
        with pytest.raises(SweepError, match="disk with room.*File too large"):
            sim.sweep(counting, SPACE, goals=GOALS, trials=60, store=tmp_path / "s")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    done = len(counting.calls)
    assert 3 < done < 60
    whole = sim.sweep(counting, SPACE, goals=GOALS, trials=60, store=tmp_path / "s")
    assert len(counting.calls) == len(set(counting.calls)) + 1, "all but the one whose line found no room were kept"
    assert (whole.frame["state"] == "complete").all()


def test_refuses_stores_that_are_not_ours_newer_or_in_use(counting: Counting, tmp_path: Path) -> None:
    from simulator.search.store import opened_store

    def run(store: Path) -> sim.Sweep:
        return sim.sweep(counting, SPACE, goals=GOALS, trials=2, store=store)

    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / JOURNAL).write_text(json.dumps({"kind": "inloop sweep", "format": FORMAT + 1}) + "\n")
    with pytest.raises(SweepError, match="later inloop.*update inloop"):
        run(tmp_path / "newer")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / JOURNAL).write_text("a,b\n1,2\n")
    with pytest.raises(SweepError, match="another kind"):
        run(tmp_path / "other")
    (tmp_path / "file").write_text("")
    with pytest.raises(SweepError, match="is a file"):
        run(tmp_path / "file")
    with opened_store(tmp_path / "used"), pytest.raises(SweepError, match="one sweep at a time, but process"):
        run(tmp_path / "used")
    assert counting.calls == []
    run(tmp_path / "used")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"goals": None}, "`goals` must say what is better"),
        ({"trials": 0}, "`trials` must be an integer of at least 1"),
        ({"trials": None}, 'only a "grid" takes'),
        ({"strategy": "annealing"}, "`strategy` must be one of grid"),
        ({"strategy": TPE(partition="column")}, "partitioned by a parameter"),
        ({"workers": 0}, "`workers` must be"),
        ({"chips": 1.5}, "`chips` must be"),
        ({"objective": 3}, "`objective` must be a function"),
        ({"space": {"bits": 3}}, "list of values"),
        ({"space": {"energy": [3]}}, "different names"),
        ({"space": {"chips": [3]}}, "different names"),
        ({"space": {"x": Real(0, 1)}, "strategy": "grid", "trials": 3}, "points=5"),
    ],
)
def test_refuses_arguments(options: dict[str, Any], says: str, counting: Counting) -> None:
    given: dict[str, Any] = {"objective": counting, "space": SPACE, "goals": GOALS, "trials": 3} | options
    with pytest.raises(ValueError, match=says):
        sim.sweep(given.pop("objective"), given.pop("space"), **given)


def small_model() -> tuple[torch.nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    model = torch.nn.Linear(16, 4)
    with torch.no_grad():
        model.weight.copy_(torch.randn(4, 16, generator=generator))
        model.bias.zero_()
    x = torch.randn(128, 16, generator=generator)
    return model, (x, model(x).argmax(1))


def test_hardware_is_swept_by_field_path_and_measured_as_evaluate_does() -> None:
    model, data = small_model()
    crossbar = RRAMCrossbar.preset("wan_nature_2022")
    digital = SystolicArray.preset("tpu_v1_like")
    objective = HardwareObjective(model, {"rram": crossbar, "digital": digital}, data, costs=())
    space = Space({"hardware": ["rram", "digital"], "design.adc.bits": Whole(3, 6, step=3, when={"hardware": ["rram"]})})
    found = sim.sweep(objective, space, strategy="grid", chips=3, seed=5)
    for trial, bits in zip(found.trials, (3, 6), strict=False):
        chip = sim.compile(model, crossbar.replace(adc={"bits": bits}), example_inputs=data[0][:1], seed=5)
        assert trial.values is not None
        assert trial.values["accuracy"] == sim.evaluate(chip, data, trials=3, seed=5).values()
    assert found.goals.directions == {"accuracy": "maximize"}


def test_refuses_a_cost_whose_constants_are_not_given_and_takes_lower_bounds_when_told() -> None:
    model, data = small_model()
    crossbar = RRAMCrossbar.preset("wan_nature_2022")
    missing = sim.totals(sim.compile(model, crossbar, example_inputs=data[0][:1]).cost(data[0][:1]))["energy_j"].missing
    assert missing
    strict = sim.sweep(HardwareObjective(model, crossbar, data), {"design.adc.bits": [6]}, strategy="grid")
    assert strict.frame["failure"].str.contains(f"has none for {missing[0]}", regex=False).all()
    taken = sim.sweep(HardwareObjective(model, crossbar, data, partial=True), {"design.adc.bits": [6]}, strategy="grid")
    assert (taken.frame["energy_j"] > 0).all()
    wrong = sim.sweep(HardwareObjective(model, crossbar, data, costs=()), {"design.adc.bit": [6], "width": [1]}, strategy="grid")
    assert wrong.frame["failure"].str.contains("`adc.bit`").all()


def test_the_budget_of_write_verify_is_swept_as_the_function_spends_it() -> None:
    model, data = small_model()
    crossbar = RRAMCrossbar.preset("wan_nature_2022")
    space = {"write_verify.fraction": [0.0, 0.3], "write_verify.ranking": ["magnitude"]}
    found = sim.sweep(HardwareObjective(model, crossbar, data, costs=()), space, strategy="grid", chips=2)
    chip = sim.compile(model, crossbar, example_inputs=data[0][:1])
    spent = sim.write_verify(chip, data, fraction=0.3, ranking="magnitude")
    assert found.frame["verify_pulses"].to_list() == [0.0, spent.pulses] and spent.pulses > 0
    assert found.trials[1].values is not None
    assert found.trials[1].values["accuracy"] == sim.evaluate(chip, data, trials=2).values()


def test_timesteps_are_swept_and_other_names_of_compile_refused() -> None:
    model, data = small_model()
    relu, x = torch.nn.Sequential(model, torch.nn.ReLU()), data[0].abs()
    objective = HardwareObjective(relu, SpikingCore.preset("loihi1"), (x, relu(x)), metrics="mae", costs=(), calibration=[x])
    found = sim.sweep(objective, {"compile.timesteps": [4, 64]}, strategy="grid")
    chips = [sim.compile(relu, SpikingCore.preset("loihi1"), example_inputs=x[:1], calibration=[x], timesteps=n) for n in (4, 64)]
    assert found.frame["mae"].to_list() == [sim.evaluate(chip, (x, relu(x)), metrics="mae", trials=1).mean().value for chip in chips]
    assert found.frame["mae"].iloc[1] < found.frame["mae"].iloc[0]
    wrong = sim.sweep(objective, {"compile.timestep": [4]}, strategy="grid")
    assert "did you mean `compile.timesteps`" in wrong.frame["failure"].iloc[0]


def test_programming_time_is_that_of_the_rows_written() -> None:
    model, data = small_model()
    objective = HardwareObjective(model, SRAMMacro.preset("asscc_2023", row_write_s=3e-9), data, costs=("programming_s",))
    found = sim.sweep(objective, {"design.rows": [16, 32]}, strategy="grid")
    assert found.frame["programming_s"].to_list() == pytest.approx([16 * 3e-9, 32 * 3e-9])
    silent = sim.sweep(HardwareObjective(model, RRAMCrossbar.preset("wan_nature_2022"), data, costs=("programming_s",)),
                       {"design.rows": [64]}, strategy="grid")  # fmt: skip
    assert "every constant of `programming_s`, but has none for programming" in silent.frame["failure"].iloc[0]
