"""Measuring a chip whose truth is known: what is found lies within the stated intervals, as often as they claim."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import simulator as sim
from devices import ADC, DAC, BareTiles, ComposedCell, IdealCell, ResistiveCell, RRAMCrossbar, StuckCells, from_measurements
from devices.rram import ConstantSpread, LogDrift, PowerDrift, ProportionalSpread
from simulator.cli import main
from simulator.link.cells import CellArray
from simulator.link.estimating import Estimate, Readings, fitted_drift, lattice_step
from simulator.link.journal import Journal
from simulator.link.serving import serve

DEVICE, CYCLE, READ, EXPONENT, EXPONENT_SPREAD = 0.8e-6, 0.5e-6, 0.02, 0.05, 0.01
START = 4.0  # not one of the times that are measured
CELL = ComposedCell(
    g_min_siemens=1e-5,
    g_max_siemens=5e-5,
    device_spread=ConstantSpread(sigma_siemens=DEVICE),
    cycle_spread=ConstantSpread(sigma_siemens=CYCLE),
    read_noise=ProportionalSpread(fraction=READ),
    retention=PowerDrift(start_seconds=START, mean_intercept=EXPONENT, sigma_intercept=EXPONENT_SPREAD),
)
TILES = BareTiles(cell=CELL, rows=64, columns=64, stuck=StuckCells(stuck_on_rate=0.03, stuck_off_rate=0.01))
TIMES = (10.0, 1e3, 1e5)


@pytest.fixture(scope="module")
def found() -> sim.Characterization:
    with serve(TILES, "tcp://127.0.0.1:0", block=False) as server:
        return sim.characterise(server.address, budget=sim.Budget(levels=5, programs=3, reads=12, seconds=TIMES), seed=4)


def rows(found: sim.Characterization, quantity: str) -> pd.DataFrame:
    return found.frame[found.frame["quantity"] == quantity]


def covered(table: pd.DataFrame, truth: np.ndarray | float) -> float:  # type: ignore[type-arg]
    return float(((table["low"] <= truth) & (truth <= table["high"])).mean())


def test_the_parts_of_the_spread_are_found_within_their_intervals(found: sim.Characterization) -> None:
    for quantity, truth in (("device spread", DEVICE), ("cycle spread", CYCLE), ("programming bias", 0.0)):
        table = rows(found, quantity)
        assert len(table) == 5
        assert covered(table, truth) >= 0.8, table  # 95 % intervals, five of them that share cells
        if truth:
            assert np.allclose(table["value"], truth, rtol=0.1)
            assert (table["high"] - table["low"] < 0.2 * truth).all()


def test_read_noise_faults_and_drift_are_found_within_their_intervals(found: sim.Characterization) -> None:
    noise = rows(found, "read noise")
    # Cells scatter about their target, and the noise follows the cell: its root mean square is that of the cells' conductances.
    truth = READ * np.sqrt(noise["target_siemens"].to_numpy() ** 2 + DEVICE**2 + CYCLE**2)
    assert covered(noise, truth) >= 0.8
    drift = {"drift exponent, mean": EXPONENT, "drift exponent, spread": EXPONENT_SPREAD, "drift start": START}
    for quantity, value in {"stuck on share": 0.03, "stuck off share": 0.01, "transfer gain": 1.0, **drift}.items():
        row = rows(found, quantity).iloc[0]
        assert row["low"] <= value <= row["high"], row
    assert rows(found, "drift start").iloc[0]["value"] == pytest.approx(START, rel=0.05)
    assert rows(found, "drift start").iloc[0]["high"] - rows(found, "drift start").iloc[0]["low"] < 0.05 * START
    assert rows(found, "drift exponent, mean").iloc[0]["high"] - rows(found, "drift exponent, mean").iloc[0]["low"] < 0.005


def test_what_was_found_is_a_cell_that_behaves_as_the_one_measured(found: sim.Characterization, tmp_path: Path) -> None:
    paths = {path.name: path for path in found.save(tmp_path / "new" / "cell")}
    again = ResistiveCell.preset(paths["cell.toml"])
    assert again == found.cell
    design = RRAMCrossbar(cell=again, rows=64, columns=64)
    chip = sim.compile(torch.nn.Linear(64, 8), design, example_inputs=torch.rand(2, 64)).program(seed=0)
    assert torch.isfinite(chip(torch.rand(2, 64))).all()
    table = from_measurements(paths["measurements.csv"])
    assert len(table.levels_siemens) == 5 and table.times_seconds == (0.0, *TIMES)
    saved = json.loads(paths["estimates.json"].read_text())
    assert saved["identity"] == TILES.fingerprint() and len(saved["estimates"]) == len(found.frame)
    assert paths["characterization.png"].stat().st_size > 10_000


def test_the_converters_of_a_chip_are_found() -> None:
    cell = IdealCell(g_min_siemens=1e-5, g_max_siemens=5e-5)
    tiles = BareTiles(cell=cell, rows=16, columns=16, dac=DAC(bits=5), adc=ADC(bits=12), full_scale_ampere=1.2e-5)
    with serve(tiles, "tcp://127.0.0.1:0", block=False) as server:
        found = sim.characterise(server.address, budget=sim.Budget(levels=3, reads=2))
    step = rows(found, "ADC step").iloc[0]
    assert step["value"] == pytest.approx(1.2e-5 / 2047, rel=1e-3)
    gain, nonlinear = (rows(found, name).iloc[0]["value"] for name in ("transfer gain", "integral nonlinearity over full scale"))
    assert gain == pytest.approx(1.0, abs=0.01)
    assert nonlinear == pytest.approx(0.5 / 15, abs=0.004)  # half a step of the 5-bit DAC


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals of fewer resamples, whose ends are known less well."""
    monkeypatch.setattr("simulator.link.estimating.RESAMPLES", 80)


LEVELS = np.array([1e-5, 3e-5, 5e-5])


def aged(law: PowerDrift | LogDrift | None, times: tuple[float, ...], *, cells: int = 900, noise: float = 0.02, seed: int = 0) -> Readings:
    """What would be read of cells that drift so, drawn with NumPy: the law itself and relative noise in each of four reads."""
    generator = np.random.default_rng(seed)
    level = np.arange(cells) % len(LEVELS)
    programmed = LEVELS[level] + generator.normal(scale=4e-7, size=cells)
    place = generator.standard_normal(cells)
    means, variances = [], []
    for time in (0.0, *times):
        if isinstance(law, PowerDrift):
            now = programmed * (1 + time / law.start_seconds) ** -(law.mean_intercept + law.sigma_intercept * place)
        elif law is not None and time >= law.start_seconds:
            rate = law.mean_slope_siemens + law.sigma_slope_siemens * place
            now = programmed + law.sigma_intercept_siemens * place + rate * np.log(time / law.start_seconds)
        else:
            now = programmed
        reads = now * (1 + noise * generator.standard_normal((4, cells)))
        means.append(reads.mean(0))
        variances.append(reads.var(0, ddof=1))
    first = level[None], means[0][None], variances[0][None]
    return Readings(LEVELS, *first, 4, times, np.array(means[1:]), np.array(variances[1:]))


def drift_of(readings: Readings) -> tuple[PowerDrift | LogDrift | None, dict[str, Estimate]]:
    law, found = fitted_drift(readings, np.arange(readings.level.shape[1]))
    return law, {one.quantity: one for one in found}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("start", [0.1, 3.0, 200.0])
def test_the_law_of_drift_and_its_start_are_found_whenever_cells_were_measured(start: float) -> None:
    times = (30.0, 1e3, 1e5)
    for law in (
        LogDrift(start_seconds=start, mean_slope_siemens=-2e-7, sigma_slope_siemens=5e-8, sigma_intercept_siemens=0.0),
        PowerDrift(start_seconds=start, mean_intercept=0.04, sigma_intercept=0.01),
    ):
        for noise in (0.0, 1e-4):
            found, _ = drift_of(aged(law, times, noise=noise))
            assert type(found) is type(law)
            assert found.start_seconds == pytest.approx(start, rel=1e-5 if noise == 0.0 else 5e-3)
    assert drift_of(aged(None, times)) == (None, {})


@pytest.mark.usefixtures("quick")
def test_the_intervals_of_drift_hold_the_truth_as_often_as_they_claim() -> None:
    power = PowerDrift(start_seconds=4.0, mean_intercept=0.05, sigma_intercept=0.01)
    log = LogDrift(start_seconds=5.0, mean_slope_siemens=-2e-7, sigma_slope_siemens=1e-7, sigma_intercept_siemens=4e-7)
    truths = {
        power: {"drift exponent, mean": 0.05, "drift exponent, spread": 0.01, "drift start": 4.0},
        log: {
            "drift per ln t, mean": -2e-7,
            "drift per ln t, spread": 1e-7,
            "drift start": 5.0,
            "drift at its start, spread": 4e-7,
        },
    }
    for law, truth in truths.items():
        held = [
            found[name].low <= value <= found[name].high
            for seed in range(10)
            for found in [drift_of(aged(law, (10.0, 1e3, 1e5), cells=600, seed=seed))[1]]
            for name, value in truth.items()
        ]
        # Intervals of half the width would hold two thirds of the truths.
        assert sum(held) >= 0.85 * len(held), (law, sum(held), len(held))


@pytest.mark.usefixtures("quick")
def test_an_end_that_the_times_do_not_bound_is_open() -> None:
    late = PowerDrift(start_seconds=1e5, mean_intercept=2.0, sigma_intercept=0.0)  # nothing but a straight line has been seen of it
    _, found = drift_of(aged(late, (10.0, 100.0, 1000.0), noise=1e-3))
    assert found["drift start"].high == found["drift exponent, mean"].high == np.inf
    assert found["drift start"].low < 1e5 and found["drift exponent, mean"].low < 2.0
    _, single = drift_of(aged(late, (1000.0,), noise=1e-3))
    assert "drift start" not in single  # it is assumed, not measured


def test_the_step_of_a_lattice_is_found_and_noise_is_none() -> None:
    codes = np.array([-7, -3, 0, 2, 3, 11, 12])
    assert lattice_step(codes * 0.013) == pytest.approx(0.013)
    assert lattice_step(np.linspace(0, 1, 50) ** 1.7) is None
    assert lattice_step(np.zeros(4)) is None


@pytest.mark.parametrize("done", [1, 4, 6])
def test_a_run_that_was_ended_goes_on_with_the_same_bits(done: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    budget, programmed = sim.Budget(levels=3, programs=2, reads=4, seconds=(10.0, 100.0)), []
    tiles = TILES.replace(rows=16, columns=16)
    program = CellArray.program_cells
    monkeypatch.setattr(CellArray, "program_cells", lambda *call: (programmed.append(call[-1]), program(*call)))

    def measured(folder: Path | None) -> sim.Characterization:
        # Each in a server of its own: what the one before left in the cells is gone.
        with serve(tiles, "tcp://127.0.0.1:0", block=False) as server:
            return sim.characterise(server.address, budget=budget, folder=folder, seed=4)

    whole = measured(None)
    assert programmed == [0, 1, 2, 3, 4, 5]
    add = Journal.add

    def ended(journal: Journal, *turn: np.ndarray) -> None:  # type: ignore[type-arg]
        add(journal, *turn)
        if len(journal.turns) == done:
            raise KeyboardInterrupt

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(Journal, "add", ended)
        measured(tmp_path)
    programmed.clear()
    found = measured(tmp_path)
    assert programmed == [0, 1, 2, 3, 4, 5][min(done, 5) :]
    pd.testing.assert_frame_equal(found.measurements, whole.measurements, check_exact=True)
    pd.testing.assert_frame_equal(found.frame, whole.frame, check_exact=True)
    assert not list(tmp_path.iterdir())


def test_readings_of_another_run_are_refused_and_left(tmp_path: Path) -> None:
    tiles = TILES.replace(rows=16, columns=16)
    with serve(tiles, "tcp://127.0.0.1:0", block=False) as server:
        Journal(tmp_path, {"tile": 7}).add(np.zeros(256), np.ones(256))
        kept = (tmp_path / "unfinished.npz").read_bytes()
        for content in (kept, kept[:100], b"", b"other"):
            (tmp_path / "unfinished.npz").write_bytes(content)
            with pytest.raises(ValueError, match="Argument `folder` must be empty or have readings of the same chip"):
                sim.characterise(server.address, budget=sim.Budget(levels=3, reads=2), folder=tmp_path)
            assert (tmp_path / "unfinished.npz").read_bytes() == content
        (tmp_path / "file").touch()
        with pytest.raises(ValueError, match="must be one that can be written"):
            sim.characterise(server.address, budget=sim.Budget(levels=3, reads=2), folder=tmp_path / "file" / "below")


def test_a_budget_or_a_chip_that_does_not_fit_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in ({"levels": 2}, {"reads": 1}, {"programs": 0}, {"seconds": (5.0, 1.0)}, {"seconds": (0.0,)}):
        with pytest.raises(ValueError, match="Argument `budget`"):
            sim.Budget(**wrong)  # type: ignore[arg-type]
    with serve(BareTiles(cell=CELL, rows=4, columns=4), "tcp://127.0.0.1:0", block=False) as server:
        with pytest.raises(ValueError, match="at least 20 cells for each of 9 levels, but has 16"):
            sim.characterise(server.address)
        with pytest.raises(ValueError, match="must be below 1, the chip's tiles, but got 3"):
            sim.characterise(server.address, tile=3)
    with serve("eyeriss_like", "tcp://127.0.0.1:0", block=False) as server:
        assert main(["characterise", server.address]) == 2
    assert "must give access to its cells, but simulated SystolicArray" in capsys.readouterr().err
