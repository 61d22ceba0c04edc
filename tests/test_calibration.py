"""Converter ranges: the histogram against the data, the least error against brute force and closed forms, and what the chip shows."""

import copy
import gc
import io
import math
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import minimize_scalar
from scipy.stats import norm
from torch import Tensor, nn

import simulator as sim
from devices import ADC, DAC, IdealCell, RRAMCrossbar
from simulator.calibration import BINS, RangeObserver, full_scale
from simulator.lowering import ranging
from simulator.lowering.reading import Reading

CELL = IdealCell(g_min_siemens=1e-6, g_max_siemens=40e-6)


def draws(kind: str, count: int, seed: int = 0) -> Tensor:
    source = np.random.default_rng(seed)
    values = {
        "gaussian": source.standard_normal,
        "uniform": lambda n: source.uniform(-1, 1, n),
        "sparse": lambda n: np.maximum(source.standard_normal(n) - 1.5, 0) * 3,
        "heavy": lambda n: source.standard_t(3, n),
    }[kind](count)
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def observed(values: Tensor, pieces: int = 1) -> RangeObserver:
    observer = RangeObserver()
    for part in values.chunk(pieces):
        observer.add(part)
    return observer


def error_of(values: Tensor, scale: float, limit: int) -> float:
    """Round and clip every value, one formula, no histogram."""
    step = scale / limit
    return float((values.double() - (values.double() / step).round().clamp(-limit, limit) * step).square().mean())


@pytest.mark.long
@pytest.mark.parametrize("kind", ["gaussian", "uniform", "sparse", "heavy"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_least_error_is_that_of_brute_force_on_the_data(kind: str, bits: int) -> None:
    values, limit = draws(kind, 60_000), 2 ** (bits - 1) - 1
    observer = observed(values, pieces=7)
    found = observer.least_error(limit)
    assert 0 < found <= observer.maximum
    grid = np.linspace(observer.maximum / 400, observer.maximum, 400)
    best = min(error_of(values, scale, limit) for scale in grid)
    assert error_of(values, found, limit) <= best * 1.002
    # The histogram's error is that of the data to a bin: half a width either way at most in each value, and far less in the mean.
    assert float(observer.squared_error(torch.tensor([found]), limit)[0]) == pytest.approx(error_of(values, found, limit), rel=0.02)


def gaussian_optimum(limit: int) -> float:
    """Full scale in standard deviations with the least error for a Gaussian, by integration of the density over every code's cell."""

    def error(scale: float) -> float:
        step = scale / limit
        edges = [0.0, *((k + 0.5) * step for k in range(limit)), math.inf]
        return 2 * sum(quad(lambda x, k=k: (x - k * step) ** 2 * norm.pdf(x), edges[k], edges[k + 1])[0] for k in range(limit + 1))

    return float(minimize_scalar(error, bounds=(0.5, 8), method="bounded", options={"xatol": 1e-6}).x)


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_a_gaussian_is_clipped_where_theory_says(bits: int) -> None:
    limit = 2 ** (bits - 1) - 1
    theory = gaussian_optimum(limit)
    # The same distribution as a comb of quantiles: no sampling error.
    values = torch.from_numpy(norm.ppf((np.arange(400_000) + 0.5) / 400_000)).float()
    assert observed(values).least_error(limit) == pytest.approx(theory, rel=0.005)
    if bits == 4:
        assert 2.4 < theory < 3.0


@pytest.mark.parametrize("bits", [2, 4, 6, 8])
def test_even_values_leave_half_a_step_beyond_the_last_code(bits: int) -> None:
    limit = 2 ** (bits - 1) - 1
    observer = observed(torch.linspace(-3, 3, 300_001))
    assert observer.least_error(limit) == pytest.approx(3 * limit / (limit + 0.5), abs=2 * 3 / BINS)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=40), st.integers(2, 16), st.integers(1, 5))
def test_the_error_of_a_histogram_is_never_negative_and_zeros_cost_nothing(numbers: list[float], bits: int, pieces: int) -> None:
    values, limit = torch.tensor(numbers), 2 ** (bits - 1) - 1
    observer = observed(values, pieces)
    if observer.maximum < 1e-30:
        return
    scale = observer.least_error(limit)
    assert 0 < scale <= observer.maximum
    error = float(observer.squared_error(torch.tensor([scale], dtype=torch.float64), limit)[0])
    assert error >= -1e-9 * observer.maximum**2
    before = error * observer.observations
    observer.add(torch.zeros(1000))
    after = float(observer.squared_error(torch.tensor([scale], dtype=torch.float64), limit)[0]) * observer.observations
    assert after == pytest.approx(before, abs=1e-9 * observer.maximum**2)


@pytest.mark.parametrize("largest", [1e-45, 4.8e-41, 1e-30, 3e38])
def test_any_float_can_be_counted(largest: float) -> None:
    observer = observed(torch.tensor([largest, 0.0, -largest]))
    observer.add(torch.tensor([largest]))
    assert (observer.observations, observer.zeros) == (4, 1)
    assert observer.percentile(100.0) == observer.maximum == float(torch.tensor(largest))
    assert 0 < observer.least_error(7) <= observer.maximum


def test_many_codes_take_no_long_search() -> None:
    observer = observed(draws("gaussian", 100_000))
    assert observer.least_error(2**15 - 1) > 0.95 * observer.maximum


def test_memory_is_the_counts_whatever_comes_by() -> None:
    observer = RangeObserver()
    for power in range(60):
        observer.add(draws("gaussian", 1000, power) * 1.5**power)
    kept = [value for value in vars(observer).values() if isinstance(value, Tensor)]
    assert [tuple(value.shape) for value in kept] == [(BINS,)]
    assert all(isinstance(value, int | float) for value in vars(observer).values() if not isinstance(value, Tensor))
    assert observer.observations == 60_000


@pytest.mark.parametrize("scale", [0.2, 1.0, 2.5])
def test_the_clipped_share_is_that_of_the_data(scale: float) -> None:
    values = draws("gaussian", 50_000)
    assert observed(values, 5).share_above(scale) == pytest.approx(float((values.abs() > scale).float().mean()), abs=1e-3)


def compiled(**converters: object) -> sim.Chip:
    design = RRAMCrossbar(cell=CELL, **converters)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 5))
    return sim.compile(model, design, calibration=draws("gaussian", 4000).reshape(200, 20))


def test_the_table_shows_what_was_chosen() -> None:
    chip = compiled(dac=DAC(bits=4, range_policy="mse"), adc=ADC(bits=6, range_policy="percentile", percentile=95.0))
    table = chip.ranges
    assert list(table.columns) == ["layer", "converter", "policy", "full_scale", "clipped_share", "observations", "stale"]
    assert list(zip(table["layer"], table["converter"], table["policy"], strict=True)) == [
        ("0", "DAC", "mse"), ("0", "ADC", "percentile"), ("2", "DAC", "mse"), ("2", "ADC", "percentile"),
    ]  # fmt: skip
    first = chip.layers["0"]
    assert table.loc[0, "full_scale"] == first.input_range
    assert table.loc[1, "full_scale"] == first.output_ranges[0]
    assert table["observations"].tolist() == [200 * 20, 200 * 30, 200 * 30, 200 * 5]
    inputs = draws("gaussian", 4000)
    assert table.loc[0, "clipped_share"] == pytest.approx(float((inputs.abs() > first.input_range).float().mean()), abs=2e-3)
    assert table.loc[1, "clipped_share"] == pytest.approx(0.05, abs=2e-3)


def test_mse_ranges_round_better_than_the_maximum() -> None:
    x = draws("heavy", 4000).reshape(200, 20)
    errors = {}
    for policy in ("mse", "maximum"):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layer = nn.Linear(20, 30)
        chip = sim.compile(layer, RRAMCrossbar(cell=CELL, dac=DAC(bits=4, range_policy=policy)), calibration=x)
        errors[policy] = float((chip(x) - layer(x)).detach().square().mean())
    assert errors["mse"] < 0.7 * errors["maximum"]


def test_slices_have_rows_of_their_own() -> None:
    table = compiled(adc=ADC(bits=8), mapping={"weight_bits": 7, "bits_per_cell": 3}).ranges
    assert table["converter"].tolist() == ["ADC of slice 0", "ADC of slice 1"] * 2


def test_ideal_converters_have_no_row_and_ranges_of_each_batch_no_number() -> None:
    assert len(compiled().ranges) == 0
    table = compiled(dac=DAC(range_policy="per_batch")).ranges
    assert table["policy"].unique().tolist() == ["per_batch"]
    assert table["full_scale"].isna().all() and (table["clipped_share"] == 0).all()
    blind = sim.compile(nn.Linear(3, 2), RRAMCrossbar(cell=CELL, dac=DAC(range_policy="mse"))).ranges
    assert blind["policy"].tolist() == ["per_batch"]
    assert blind["full_scale"].isna().all() and blind["clipped_share"].isna().all() and blind["observations"].tolist() == [0]


def test_a_fixed_range_is_told_how_much_of_the_data_it_clips() -> None:
    chip = compiled(dac=DAC(range_policy="fixed", fixed_range=1.0))
    assert chip.ranges.loc[0, "clipped_share"] == pytest.approx(2 * norm.sf(1.0), abs=0.02)


def test_the_table_is_part_of_the_state_and_of_copies() -> None:
    chip = compiled(dac=DAC(bits=4, range_policy="mse"), adc=ADC(bits=6))
    assert copy.deepcopy(chip).ranges.equals(chip.ranges)
    stored = io.BytesIO()
    torch.save(chip.state_dict(), stored)
    stored.seek(0)
    other = compiled(dac=DAC(bits=4, range_policy="mse"), adc=ADC(bits=6))
    other.calibrate(torch.rand(5, 20))
    assert not other.ranges.equals(chip.ranges)
    other.load_state_dict(torch.load(stored, weights_only=True))
    assert other.ranges.equals(chip.ranges)


def test_ranges_are_stale_once_a_parameter_moves_and_until_they_are_chosen_again() -> None:
    chip = compiled(dac=DAC(bits=4), adc=ADC(bits=6, range_policy="fixed", fixed_range=1.0))
    assert chip.ranges_are_current and not chip.ranges["stale"].any()
    with torch.no_grad():
        chip.layers["0"].bias.add_(1.0)  # of the first layer alone: it moves what the second gets
    line = "converter ranges were chosen before the weights changed"
    for one in (chip, copy.deepcopy(chip), pickle.loads(pickle.dumps(chip))):
        assert not one.ranges_are_current and line in repr(one)
        assert one.ranges.set_index(["layer", "converter"])["stale"].to_dict() == {
            ("0", "DAC"): True, ("0", "ADC"): False, ("2", "DAC"): True, ("2", "ADC"): False,
        }  # fmt: skip
    other = compiled(dac=DAC(bits=4), adc=ADC(bits=6, range_policy="fixed", fixed_range=1.0))
    other.load_state_dict(chip.state_dict())
    assert not other.ranges_are_current
    chip.calibrate(torch.rand(5, 20))
    assert chip.ranges_are_current and line not in repr(chip)
    other.load_state_dict(chip.state_dict())
    assert other.ranges_are_current and copy.deepcopy(other).ranges_are_current


def test_ranges_that_no_data_chose_are_never_stale() -> None:
    chip = compiled(dac=DAC(range_policy="per_batch"))
    with torch.no_grad():
        chip.layers["0"].weight.add_(1.0)
    assert chip.ranges_are_current and compiled().ranges_are_current


def test_an_epoch_of_training_makes_ranges_stale() -> None:
    chip = compiled(dac=DAC(bits=8))
    sim.fit(chip.train(), [(torch.rand(4, 20), torch.zeros(4, dtype=torch.long))], epochs=1)
    assert not chip.ranges_are_current


@pytest.mark.parametrize("kept", [0, 4 * 30 * 20, 1 << 28])
def test_arrays_kept_for_calibration_are_bounded_and_change_no_range(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = compiled(dac=DAC(bits=4), adc=ADC(bits=6)).ranges
    most, inner = 0, ranging.CrossbarRanges.add

    def watched(self: ranging.CrossbarRanges, inputs: Tensor, nominal: Callable[[], Reading]) -> None:
        nonlocal most
        inner(self, inputs, nominal)
        gc.collect()
        most = max(most, sum(one._kept_bytes for one in ranging._KEEPING))

    monkeypatch.setattr(ranging, "KEPT_BYTES", kept)
    monkeypatch.setattr(ranging.CrossbarRanges, "add", watched)
    chip = compiled(dac=DAC(bits=4), adc=ADC(bits=6))
    assert chip.ranges.equals(expected)
    assert most == min(kept, 4 * (30 * 20 + 5 * 30))


def test_full_scale_follows_the_policy() -> None:
    observer = observed(torch.linspace(-2, 2, 10_001))
    assert full_scale(DAC(range_policy="maximum"), observer) == 2.0
    assert full_scale(DAC(range_policy="percentile", percentile=75.0), observer) == pytest.approx(1.5, abs=2e-3)
    assert full_scale(DAC(range_policy="mse", bits=3), observer) == pytest.approx(2 * 3 / 3.5, abs=2e-3)
    assert full_scale(DAC(range_policy="mse"), None) is None
    assert full_scale(DAC(range_policy="per_batch"), observer) is None
