"""Cells made of measurements: known laws come back from tables that they generated, and bad tables are refused in one line."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from scipy import stats

from devices import Design, DesignError
from devices.rram import MeasuredCell, RRAMCrossbar, from_measurements
from kernels.random import Key

KEY = Key.of(seed=11, purpose="test")
LEVELS = (5.0, 10.0, 20.0, 30.0, 40.0)
TIMES = (1.0, 100.0, 1e4, 1e6)
POINTS = 1000


def sigma_of(target: np.ndarray | float) -> np.ndarray | float:
    return 0.3 + 0.05 * target - 0.0008 * target**2


def generated(drift: str = "power", points: int = POINTS) -> pd.DataFrame:
    """Measure cells of a known law: bias -0.2 + 0.01 G, sigma as above, and a drift."""
    generator = np.random.default_rng(0)
    rows = []
    for level in LEVELS:
        start = level - 0.2 + 0.01 * level + sigma_of(level) * generator.standard_normal(points)
        exponent = 0.03 + 0.006 * generator.standard_normal(points)
        slope = -0.1 + 0.02 * generator.standard_normal(points)
        for time in TIMES:
            measured = {"power": start * (1 + time) ** -exponent, "log": start + slope * math.log(time), "none": start}[drift]
            rows.append(pd.DataFrame({"target_uS": level, "seconds": time, "measured_uS": measured}))
    return pd.concat(rows, ignore_index=True)


def write(frame: pd.DataFrame, path: Path) -> Path:
    if path.suffix == ".csv":
        frame.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            for name in frame.columns:
                file[f"array/{name}"] = frame[name].to_numpy()
    return path


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return generated()


@pytest.fixture(scope="module")
def sampled(frame: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> MeasuredCell:
    return from_measurements(write(frame, tmp_path_factory.mktemp("measured") / "cells.csv"))


@pytest.fixture(scope="module")
def fitted(frame: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> MeasuredCell:
    return from_measurements(write(frame, tmp_path_factory.mktemp("measured") / "cells.csv"), method="law", degree=2)


def drawn(cell: MeasuredCell, microsiemens: float, seconds: float, count: int = 30_000) -> np.ndarray:
    cells = cell.program(torch.full((count,), microsiemens * 1e-6), KEY)
    return cell.drift(cells, seconds, KEY).double().numpy() * 1e6


def error_of(build: Callable[[], object]) -> str:
    with pytest.raises(DesignError) as error:
        build()
    text = str(error.value)
    assert "\n" not in text
    return text


class TestFitted:
    @pytest.mark.parametrize("suffix", [".csv", ".parquet", ".h5"])
    def test_a_known_law_comes_back_from_every_format(self, frame: pd.DataFrame, tmp_path: Path, suffix: str) -> None:
        cell = from_measurements(
            write(frame, tmp_path / f"cells{suffix}"), method="law", degree=2, group="/array" if suffix == ".h5" else "/"
        )
        law = cell.law
        assert law is not None
        # Four times of the same cells do not measure the start four times: the error is that of one.
        for level in LEVELS:
            sigma = float(law.cycle_spread.sigma(torch.tensor(level * 1e-6))) * 1e6
            assert sigma == pytest.approx(sigma_of(level), rel=4 / math.sqrt(2 * POINTS))
            bias = float(law.program(torch.full((100_000,), level * 1e-6), KEY).conductance.double().mean()) * 1e6 - level
            assert bias == pytest.approx(-0.2 + 0.01 * level, abs=4 * float(sigma_of(level)) / math.sqrt(POINTS))
        assert law.retention.mean_intercept == pytest.approx(0.03, abs=4 * 0.006 / math.sqrt(POINTS))
        assert law.retention.sigma_intercept == pytest.approx(0.006, rel=0.05)
        assert max(max(row) for row in cell.ks_distances) < 0.05

    def test_a_logarithmic_drift_is_told_from_a_power_law(self, tmp_path: Path) -> None:
        cell = from_measurements(write(generated("log"), tmp_path / "cells.csv"), method="law")
        law = cell.law
        assert law is not None
        assert type(law.retention).__name__ == "LogDrift"
        assert law.retention.mean_slope_siemens * 1e6 == pytest.approx(-0.1, abs=4 * 0.02 / math.sqrt(POINTS))
        assert law.retention.sigma_slope_siemens * 1e6 == pytest.approx(0.02, rel=0.1)

    def test_where_nothing_drifts_no_drift_is_fitted(self, tmp_path: Path) -> None:
        path = write(generated("none"), tmp_path / "cells.csv")
        assert from_measurements(path, method="law").law.retention is None
        forced = from_measurements(path, method="law", drift="power").law.retention
        assert forced.mean_intercept == pytest.approx(0, abs=1e-3)

    @pytest.mark.parametrize("start", [0.05, 30.0])
    @pytest.mark.parametrize("law", ["power", "log"])
    def test_a_drift_that_starts_at_another_time_than_the_first_is_found_with_its_start(
        self, tmp_path: Path, law: Literal["power", "log"], start: float
    ) -> None:
        generator = np.random.default_rng(3)
        rows = []
        for level in LEVELS[1:]:
            first = level + sigma_of(level) * generator.standard_normal(POINTS)
            exponent, slope = 0.05 + 0.005 * generator.standard_normal(POINTS), -0.15 + 0.015 * generator.standard_normal(POINTS)
            for time in (0.0, 1.0, 10.0, 100.0, 1e3, 1e4, 1e6):
                shifted = first + slope * math.log(max(time, start) / start)
                measured = first * (1 + time / start) ** -exponent if law == "power" else shifted
                rows.append(pd.DataFrame({"target_uS": level, "seconds": time, "measured_uS": measured}))
        path = write(pd.concat(rows, ignore_index=True), tmp_path / "cells.parquet")
        cell = from_measurements(path, method="law", degree=2)
        found = cell.law.retention
        assert type(found).__name__ == {"power": "PowerDrift", "log": "LogDrift"}[law]
        assert found.start_seconds == pytest.approx(start, rel=0.2)
        rate = found.mean_intercept if law == "power" else found.mean_slope_siemens * 1e6
        assert rate == pytest.approx(0.05 if law == "power" else -0.15, rel=0.05)
        assert max(max(row) for row in cell.ks_distances) < 0.06
        # Where the first time is taken for the start, as is asked here, the law is off at it.
        assert max(from_measurements(path, method="law", degree=2, drift=law, start_seconds=1.0).ks_distances[1]) > 0.06

    @pytest.mark.parametrize("law", ["power", "log"])
    def test_a_start_that_measurements_cannot_tell_is_the_first_time(self, tmp_path: Path, law: Literal["power", "log"]) -> None:
        path = write(generated(law), tmp_path / "cells.parquet")
        assert from_measurements(path, method="law", drift=law).law.retention.start_seconds == 1.0

    def test_the_distance_shows_a_law_that_does_not_fit(self, tmp_path: Path) -> None:
        frame = generated("none")
        generator = np.random.default_rng(1)
        frame["measured_uS"] = frame["target_uS"] + np.where(generator.random(len(frame)) < 0.5, -1.0, 1.0) * (
            0.9 + 0.05 * generator.random(len(frame))
        )
        path = write(frame, tmp_path / "cells.csv")
        assert min(min(row) for row in from_measurements(path, method="law").ks_distances) > 0.2
        assert max(max(row) for row in from_measurements(path).ks_distances) < 0.05


class TestSampled:
    @pytest.mark.parametrize("time", TIMES)
    def test_at_a_measured_level_and_time_the_measured_distribution_is_drawn(
        self, sampled: MeasuredCell, frame: pd.DataFrame, time: float
    ) -> None:
        for level in LEVELS:
            measured = frame.query("target_uS == @level and seconds == @time")["measured_uS"]
            assert stats.ks_2samp(drawn(sampled, level, time), measured).statistic < 0.02

    def test_between_targets_and_times_the_quantiles_are_interpolated(self, sampled: MeasuredCell, frame: pd.DataFrame) -> None:
        def median(level: float, time: float) -> float:
            return float(frame.query("target_uS == @level and seconds == @time")["measured_uS"].median())

        middle = np.mean([median(level, time) for level in (20.0, 30.0) for time in (100.0, 1e4)])
        # 1000 s is halfway from 100 s to 10,000 s in the logarithm.
        assert np.median(drawn(sampled, 25.0, 1000.0)) == pytest.approx(middle, abs=0.03)
        spreads = frame.groupby(["target_uS", "seconds"])["measured_uS"].std()
        corners = [spreads[level, time] for level in (20, 30) for time in (100, 1e4)]
        assert drawn(sampled, 25.0, 1000.0).std() == pytest.approx(np.mean(corners), rel=0.02)

    def test_a_cell_keeps_its_rank_and_every_cell_has_its_own(self, sampled: MeasuredCell) -> None:
        first, last = drawn(sampled, 20.0, 1.0), drawn(sampled, 20.0, 1e6)
        assert stats.spearmanr(first, last).statistic > 0.9999
        assert len(np.unique(first)) >= 0.95 * len(first)

    def test_outside_the_measured_times_the_ends_hold(self, sampled: MeasuredCell) -> None:
        assert np.array_equal(drawn(sampled, 20.0, 0.0), drawn(sampled, 20.0, 1.0))
        assert np.array_equal(drawn(sampled, 20.0, 1e6), drawn(sampled, 20.0, 1e9))

    def test_a_measurement_right_after_programming_counts_as_time_zero(self, tmp_path: Path) -> None:
        frame = generated("power", points=100)
        cell = from_measurements(write(frame.replace({"seconds": {1.0: 0.0}}), tmp_path / "cells.csv"))
        halfway = (drawn(cell, 20.0, 0.0) + drawn(cell, 20.0, 100.0)) / 2
        assert drawn(cell, 20.0, 50.0) == pytest.approx(halfway, rel=1e-4)

    def test_it_programs_an_array(self, sampled: MeasuredCell) -> None:
        cells = sampled.program(torch.full((4, 3, 2), 1e-5), KEY)
        assert sampled.drift(cells, 10.0, KEY).shape == (4, 3, 2)


@pytest.mark.parametrize("name", ["sampled", "fitted"])
def test_the_cell_serializes_hashes_and_fits_a_crossbar(name: str, request: pytest.FixtureRequest) -> None:
    law = {"type": "devices.rram.spread:ProportionalSpread", "fraction": 0.01}
    cell = request.getfixturevalue(name).replace(read_noise=law)
    again = Design.from_dict(json.loads(json.dumps(cell.to_toml_dict())))
    assert again == cell
    assert hash(again) == hash(cell)
    assert float(cell.read_sigma(torch.tensor(1e-5), 0.0)) == pytest.approx(1e-7)
    assert RRAMCrossbar(cell=cell).ideal().cell.g_max_siemens == 4e-5


@pytest.mark.parametrize("name", ["sampled", "fitted"])
def test_the_figure_has_a_panel_for_each_time_and_no_global_state(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    cell = request.getfixturevalue(name)
    loaded = "matplotlib.pyplot" in sys.modules
    figure = cell.fit_figure()
    assert isinstance(figure, Figure)
    assert len(figure.axes) == len(TIMES)
    line = figure.axes[0].get_lines()[0].get_ydata()
    target = np.linspace(5, 40, 41)
    assert line == pytest.approx(-0.2 + 0.01 * target - 0.03 * math.log(2) * target, abs=0.15)
    figure.savefig(tmp_path / "fit.png", dpi=40)
    assert ("matplotlib.pyplot" in sys.modules) == loaded


class TestUnits:
    @pytest.mark.parametrize(
        ("names", "scale"),
        [
            (("target_siemens", "seconds", "measured_siemens"), (1e-6, 1.0, 1e-6)),
            (("target_nS", "time_ms", "measured_nS"), (1e3, 1e3, 1e3)),
            (("target (µS)", "time [h]", "measured (uS)"), (1.0, 1 / 3600, 1.0)),
        ],
    )
    def test_in_the_header(self, frame: pd.DataFrame, tmp_path: Path, names: tuple[str, ...], scale: tuple[float, ...]) -> None:
        scaled = pd.DataFrame({name: frame[old] * by for name, old, by in zip(names, frame.columns, scale, strict=True)})
        cell = from_measurements(write(scaled, tmp_path / "cells.csv"))
        assert cell.levels_siemens == pytest.approx([level * 1e-6 for level in LEVELS], rel=1e-12)
        assert cell.times_seconds == pytest.approx(TIMES, rel=1e-12)

    def test_by_argument_with_other_names(self, frame: pd.DataFrame, tmp_path: Path) -> None:
        path = write(frame.set_axis(["set", "t", "got"], axis=1), tmp_path / "cells.csv")
        columns = {"target": "set", "seconds": "t", "measured": "got"}
        cell = from_measurements(path, columns=columns, units={"target": "uS", "seconds": "s", "measured": "uS"})
        assert cell.levels_siemens == tuple(level * 1e-6 for level in LEVELS) or cell.levels_siemens[1] == 1e-5
        assert "column `set` of cells.csv must say its unit" in error_of(lambda: from_measurements(path, columns=columns))

    def test_a_wrong_or_contradicting_unit_is_refused(self, frame: pd.DataFrame, tmp_path: Path) -> None:
        path = write(frame, tmp_path / "cells.csv")
        for unit in ("ohm", "nS"):
            assert "must have a unit of siemens for `target`" in error_of(lambda unit=unit: from_measurements(path, units={"target": unit}))


class TestRefusals:
    def refused(self, frame: pd.DataFrame, tmp_path: Path, **options) -> str:
        return error_of(lambda: from_measurements(write(frame, tmp_path / "cells.csv"), **options))

    def test_missing_column_is_refused(self, frame: pd.DataFrame, tmp_path: Path) -> None:
        line = self.refused(frame.drop(columns="seconds"), tmp_path)
        assert "must have one column such as `seconds`, but it has ['target_uS', 'measured_uS']" in line
        assert "must have the column `x`" in self.refused(frame, tmp_path, columns={"target": "x"})

    def test_ambiguous_column_is_refused(self, frame: pd.DataFrame, tmp_path: Path) -> None:
        assert "several do: ['target_uS', 'target_nS']" in self.refused(frame.assign(target_nS=1.0), tmp_path)

    def test_missing_unit_is_refused(self, frame: pd.DataFrame, tmp_path: Path) -> None:
        line = self.refused(frame.rename(columns={"target_uS": "target"}), tmp_path)
        assert "column `target` of cells.csv must say its unit" in line

    @pytest.mark.parametrize(
        ("value", "what"), [(-1.0, "at least 0"), (float("nan"), "a finite number"), (float("inf"), "a finite number")]
    )
    def test_bad_value_is_refused_with_its_row(self, frame: pd.DataFrame, tmp_path: Path, value: float, what: str) -> None:
        bad = frame.copy()
        bad.loc[17, "measured_uS"] = value
        assert f"column `measured_uS` of cells.csv must be {what} in every row" in (line := self.refused(bad, tmp_path))
        assert "data row 18 (1 in all)" in line

    def test_text_is_refused(self, frame: pd.DataFrame, tmp_path: Path) -> None:
        bad = frame.astype({"measured_uS": object})
        bad.loc[3, "measured_uS"] = "broken"
        assert "but got 'broken' in data row 4" in self.refused(bad, tmp_path)

    def test_too_few_points_are_refused_with_the_minimum(self, frame: pd.DataFrame, tmp_path: Path) -> None:
        few = frame.drop(frame.query("target_uS == 20 and seconds == 100").index[19:])
        assert "at least 20 points for each target at each time, but have 19 at 20 uS and 100 s" in self.refused(few, tmp_path)

    def test_one_level_is_refused(self, frame: pd.DataFrame, tmp_path: Path) -> None:
        assert "at least 2 targets, but have 1" in self.refused(frame.query("target_uS == 20"), tmp_path)

    def test_a_range_beyond_the_measurements_is_refused(self, frame: pd.DataFrame, tmp_path: Path) -> None:
        assert "`g_min_siemens` must lie within the measured targets" in self.refused(frame, tmp_path, g_min_siemens="1 uS")

    def test_unknown_options_are_refused(self, frame: pd.DataFrame, tmp_path: Path) -> None:
        assert "`method` must be" in self.refused(frame, tmp_path, method="spline")
        assert "`drift` must be" in self.refused(frame, tmp_path, drift="linear")
        assert "`columns` must have keys among" in self.refused(frame, tmp_path, columns={"goal": "x"})

    def test_wrong_options_of_the_law_are_refused(self, frame: pd.DataFrame, tmp_path: Path) -> None:
        path = write(frame.query("seconds == 1"), tmp_path / "cells.parquet")
        for options, text in (
            ({"degree": 2.5}, "`degree` must be a whole number of at least 0, but got 2.5"),
            ({"degree": "3"}, "`degree` must be a whole number of at least 0, but got '3'"),
            ({"start_seconds": "2 uS"}, "`start_seconds` must be a time above 0, but got '2 uS'"),
            ({"start_seconds": -1}, "`start_seconds` must be a time above 0, but got -1"),
            ({"drift": "power"}, "`drift` must be 'auto' or 'none' where there is one time only, but got 'power'"),
        ):
            assert text in error_of(lambda options=options: from_measurements(path, method="law", **options))
        for options in ({"degree": 2}, {"drift": "log"}, {"start_seconds": "1 s"}):
            assert "must be left out without a fitted law" in error_of(lambda options=options: from_measurements(path, **options))

    def test_files_that_cannot_be_read_are_refused(self, tmp_path: Path) -> None:
        assert "must be a file that exists" in error_of(lambda: from_measurements(tmp_path / "none.csv"))
        assert "`path` must be the path of a file, but got 5" in error_of(lambda: from_measurements(5))
        assert "must end in one of .csv" in error_of(lambda: from_measurements(tmp_path / "cells.xlsx"))
        for name in ("bad.parquet", "bad.h5", "bad.csv"):
            (tmp_path / name).write_bytes(b"")
            assert "can be read, but are not" in error_of(lambda name=name: from_measurements(tmp_path / name))

    def test_a_missing_package_is_refused_by_its_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "cells.h5").write_bytes(b"")
        monkeypatch.setitem(sys.modules, "h5py", None)
        assert "need the package h5py, but it is not installed" in error_of(lambda: from_measurements(tmp_path / "cells.h5"))
