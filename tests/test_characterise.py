"""Measuring a chip whose truth is known: what is found lies within the stated intervals, as often as they claim."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import simulator as sim
from devices import ADC, DAC, BareTiles, ComposedCell, IdealCell, ResistiveCell, RRAMCrossbar, StuckCells, from_measurements
from devices.rram import ConstantSpread, PowerDrift, ProportionalSpread
from devices.rram.measurements import Measurements
from simulator.cli import main
from simulator.link.drifting import drift_course
from simulator.link.estimating import lattice_step
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
    drift = {"drift exponent, mean": EXPONENT, "drift exponent, spread": EXPONENT_SPREAD, "transfer gain": 1.0}
    for quantity, value in {"stuck on share": 0.03, "stuck off share": 0.01, **drift}.items():
        row = rows(found, quantity).iloc[0]
        assert row["low"] <= value <= row["high"], row
    assert rows(found, "drift start").iloc[0]["value"] == pytest.approx(START, rel=0.05)
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


@pytest.mark.parametrize("start", [0.1, 3.0])
def test_the_law_of_drift_and_its_start_are_found_whenever_cells_were_measured(start: float) -> None:
    times = (0.0, 30.0, 1e3, 1e5)
    place = np.random.default_rng(0).normal(scale=1e-7, size=(3, 400))
    levels = (1e-5, 3e-5, 5e-5)
    shifted, shrunk = (
        Measurements(levels, times, tuple(tuple(np.sort(law(g + p, t)) for g, p in zip(levels, place, strict=True)) for t in times))
        for law in (
            lambda g, t: g - 2e-7 * np.log(max(t, start) / start),
            lambda g, t: g * (1 + t / start) ** -0.04,
        )
    )
    for measured, kind in ((shifted, "log"), (shrunk, "power")):
        found = drift_course(measured)
        assert found is not None and found.kind == kind
        assert found.start_seconds == pytest.approx(start, rel=1e-2)
    assert drift_course(Measurements(levels, times, (shifted.groups[0],) * 4)) is None


def test_the_step_of_a_lattice_is_found_and_noise_is_none() -> None:
    codes = np.array([-7, -3, 0, 2, 3, 11, 12])
    assert lattice_step(codes * 0.013) == pytest.approx(0.013)
    assert lattice_step(np.linspace(0, 1, 50) ** 1.7) is None
    assert lattice_step(np.zeros(4)) is None


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
