"""What every resistive cell can be asked for: to move by pulses, and to be made of measurements."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from devices import (
    DesignError,
    IdealCell,
    MeasuredCell,
    PolynomialCell,
    PulseUpdate,
    ResistiveCell,
    RRAMCrossbar,
    from_measurements,
    presets,
)
from kernels import Key

KEY = Key.of(seed=5, purpose="test")
LAW = PulseUpdate(potentiation_pulses=64, depression_pulses=32, potentiation_constant=20.0, depression_constant=15.0, cycle_fraction=0.01)
CELLS = [info.name for info in presets() if info.type.endswith("RRAMCrossbar")]


@pytest.mark.parametrize("name", CELLS)
def test_every_published_cell_refuses_pulses_until_a_law_is_given(name: str) -> None:
    cell = RRAMCrossbar.preset(name).cell
    middle = torch.full((1000,), (cell.g_min_siemens + cell.g_max_siemens) / 2)
    pulses = torch.arange(-500, 500) % 7 - 3
    with pytest.raises(DesignError, match=r"`pulse_law` must be given for an update by pulses, but got None.*replace\(pulse_law="):
        cell.update(middle, pulses, KEY)
    moved = cell.replace(pulse_law=LAW).update(middle, pulses, KEY)
    assert torch.equal(moved[pulses == 0], middle[pulses == 0])
    span = cell.g_max_siemens - cell.g_min_siemens
    # From the middle of the range the closed form of the law: the distance to its asymptote shrinks by exp(-n / A).
    for count in (-3, 3):
        crossing, constant = (64, 20.0) if count > 0 else (32, 15.0)
        asymptote = 1 / (1 - np.exp(-crossing / constant))
        step = (asymptote - 0.5) * (1 - np.exp(-abs(count) / constant)) * np.sign(count)
        found = ((moved - middle) / span)[pulses == count].double()
        assert float(found.mean()) == pytest.approx(step, abs=5 * 0.01 * np.sqrt(3) / np.sqrt(len(found)))
        assert float(found.std()) == pytest.approx(0.01 * np.sqrt(3), rel=0.3)


def test_training_in_the_array_finds_the_conductances_that_give_the_targets() -> None:
    generator = torch.Generator().manual_seed(0)
    cell = IdealCell(g_min_siemens=1e-6, g_max_siemens=41e-6, pulse_law=LAW.replace(cycle_fraction=0.002))
    inputs, wanted = torch.randn(256, 8, generator=generator), torch.rand(8, 4, generator=generator) * 2e-5 + 1e-5
    state = torch.full((8, 4), 2e-5)
    start = float((state - wanted).abs().mean())
    for step in range(200):
        gradient = inputs.T @ (inputs @ (state - wanted)) / len(inputs)
        pulses = (-gradient / 2e-6).round().clamp(-5, 5).to(torch.int64)
        state = cell.update(state, pulses, KEY.at(step))
    # What is left is half the smallest step that the rule asks a pulse for, and the noise of the last pulses.
    assert float((state - wanted).abs().mean()) < min(1.2e-6, start / 4)


def test_the_law_is_part_of_the_design() -> None:
    design = RRAMCrossbar.preset("wan_nature_2022", cell={"pulse_law": LAW})
    again = RRAMCrossbar.from_dict(design.to_toml_dict())
    assert again == design
    assert again.cell.pulse_law == LAW
    assert again.fingerprint() != RRAMCrossbar.preset("wan_nature_2022").fingerprint()


def table(path: Path) -> Path:
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({"target_uS": np.repeat([5.0, 20.0, 40.0], 60), "seconds": 1.0})
    frame["measured_uS"] = frame["target_uS"] + generator.normal(size=len(frame))
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame[["target_uS", "seconds", "measured_uS"]].apply(lambda column: write_column(path, column))
    return path


def write_column(path: Path, column: pd.Series) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "a") as file:
        file[str(column.name)] = column.to_numpy()


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".h5"])
@pytest.mark.parametrize("method", ["quantiles", "law"])
def test_a_cell_of_measurements_is_made_by_the_class_as_by_the_function(tmp_path: Path, suffix: str, method: str) -> None:
    path = table(tmp_path / f"cells{suffix}")
    options = {"degree": 1} if method == "law" else {}
    cell = ResistiveCell.from_measurements(path, method=method, **options)
    assert cell == MeasuredCell.from_measurements(path, method=method, **options) == from_measurements(path, method=method, **options)
    assert (cell.law is None) == (method == "quantiles")
    assert cell.fit_figure().axes[0].get_xlabel() == "target (µS)"


def test_what_a_class_of_another_law_would_return_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DesignError, match="must be called on ResistiveCell, but was on PolynomialCell"):
        PolynomialCell.from_measurements(table(tmp_path / "cells.csv"))
    with pytest.raises(DesignError, match="must be a file that exists"):
        ResistiveCell.from_measurements(tmp_path / "nothing.csv")
