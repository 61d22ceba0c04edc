"""Noise that persists: variance, distribution and memory of 1/f and telegraph noise; device errors against cycle errors."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from devices import DesignError, ProgrammedCells
from devices.rram import ComposedCell, ConstantSpread, FlickerNoise, ProportionalSpread, TelegraphNoise
from devices.rram.interpolation import above_zero
from kernels.random import Key, normal

CELLS = 100_000
KEY = Key.of(seed=5, purpose="test")
LEVEL = torch.full((CELLS,), 1e-5)


def flicker(seconds: float, **fields) -> np.ndarray:
    noise = FlickerNoise(**{"amplitude": ProportionalSpread(fraction=0.005), "read_seconds": 1e-6} | fields)
    return noise.apply(LEVEL, ProgrammedCells(LEVEL), seconds, KEY).double().numpy() * 1e6 - 10


class TestFlicker:
    @pytest.mark.parametrize("seconds", [1e-5, 1.0, 86_400.0, 3.2e8])
    def test_variance_is_that_of_the_formula(self, seconds: float) -> None:
        sigma = 10 * 0.005 * math.sqrt(math.log((seconds + 1e-6) / 2e-6))
        noise = flicker(seconds)
        assert stats.kstest(noise, stats.norm(0, sigma).cdf).pvalue > 1e-3
        assert noise.std() == pytest.approx(sigma, rel=0.012)
        assert len(np.unique(noise)) >= (0.9 if sigma > 0.1 else 0.8) * CELLS

    @pytest.mark.parametrize("seconds", [0.0, 1e-9, 1e-6])
    def test_nothing_until_one_read_is_over(self, seconds: float) -> None:
        assert not flicker(seconds).any() or abs(flicker(seconds)).max() < 1e-5

    def test_a_constant_amplitude_does_not_depend_on_the_conductance(self) -> None:
        noise = flicker(1.0, amplitude=ConstantSpread(sigma_siemens="0.1 uS"))
        assert noise.std() == pytest.approx(0.1 * math.sqrt(math.log(1e6 / 2)), rel=0.012)

    def test_it_is_the_same_however_often_it_is_asked_for(self) -> None:
        assert np.array_equal(flicker(3600.0), flicker(3600.0))

    def test_memory_fades_with_the_time_between_as_for_a_1_over_f_spectrum(self) -> None:
        now = flicker(1e4)
        correlation = [float(np.corrcoef(now, flicker(1e4 + lag))[0, 1]) for lag in (1e-3, 1.0, 1e3, 1e7)]
        # Processes faster than the lag are forgotten: their share is ln(lag / 2 us) / ln(1e4 s / 2 us), within a decade.
        for lag, found in zip((1e-3, 1.0, 1e3), correlation, strict=False):
            share = 1 - math.log(lag / 2e-6) / math.log(1e4 / 2e-6)
            assert found == pytest.approx(share, abs=math.log(10) / math.log(1e4 / 2e-6))
        assert correlation[0] > correlation[1] > correlation[2] > correlation[3]
        assert abs(correlation[3]) < 0.02

    def test_it_does_not_jump(self) -> None:
        # 2 us times 10^9 is a turn of a process; a switch there would change its share of the variance at once.
        before, after = flicker(2e3 * (1 - 1e-7)), flicker(2e3 * (1 + 1e-7))
        assert np.corrcoef(before, after)[0, 1] > 0.7
        assert np.corrcoef(flicker(5e3), flicker(5e3 + 1e-7))[0, 1] > 0.99

    def test_a_relative_amplitude_of_the_programmed_state(self) -> None:
        noise = FlickerNoise(amplitude=ConstantSpread(sigma_siemens="0.01 uS"), read_seconds=1e-6, amplitude_at="programmed")
        sigma = noise.sigma(LEVEL[:1] / 2, ProgrammedCells(LEVEL[:1]), 1.0)
        assert float(sigma) == pytest.approx(0.005e-6 * noise.growth(1.0), rel=1e-5)


class TestAboveZero:
    @pytest.mark.parametrize("mean", [-3.0, -0.5, 0.0, 0.5, 2.0, 5.0, 8.0])
    def test_it_has_the_law_of_redrawing(self, mean: float) -> None:
        drawn = above_zero(torch.full((CELLS,), mean), torch.tensor(1.0), normal(KEY, CELLS)).double().numpy()
        assert stats.kstest(drawn, stats.truncnorm(-mean, np.inf, loc=mean).cdf).pvalue > 1e-3
        assert drawn.min() >= 0

    @settings(max_examples=50, deadline=None)
    @given(mean=st.floats(-50, 50), sigma=st.floats(0, 20))
    def test_finite_positive_and_in_the_order_of_the_draws(self, mean: float, sigma: float) -> None:
        standard = torch.linspace(-6.66, 6.66, 201)
        drawn = above_zero(torch.tensor(mean), torch.tensor(sigma), standard)
        assert bool(torch.isfinite(drawn).all())
        assert bool((drawn >= 0).all())
        assert bool((drawn.diff() >= -1e-5 * max(1.0, sigma)).all())

    def test_far_from_zero_it_is_the_plain_gaussian(self) -> None:
        standard = normal(KEY, 1000)
        assert torch.equal(above_zero(torch.tensor(10.0), torch.tensor(1.0), standard), 10.0 + standard)


class TestTelegraph:
    CELLS = 20_000
    LEVEL = torch.full((CELLS,), 1e-5)
    NOISE = TelegraphNoise(amplitude=0.2, occupancy=0.3, relaxation_seconds=10.0)

    def captured(self, seconds: float) -> np.ndarray:
        return self.NOISE.captured(self.CELLS, seconds, KEY).double().numpy()

    @pytest.mark.parametrize("seconds", [0.0, 3.0, 79.0, 81.0, 1e7])
    def test_occupancy_is_the_same_at_all_times(self, seconds: float) -> None:
        assert abs(self.captured(seconds).mean() - 0.3) < 4.5 * math.sqrt(0.3 * 0.7 / self.CELLS)

    @pytest.mark.parametrize("start", [0.0, 75.0, 12_345.0])
    @pytest.mark.parametrize("lag", [1.0, 5.0, 10.0, 20.0, 60.0])
    def test_autocorrelation_is_exponential(self, start: float, lag: float) -> None:
        found = np.corrcoef(self.captured(start), self.captured(start + lag))[0, 1]
        assert found == pytest.approx(math.exp(-lag / 10), abs=5 / math.sqrt(self.CELLS))

    def test_the_process_is_markovian(self) -> None:
        # Of the cells captured at both 0 and 5 s, the later course must not depend on the state at 0.
        first, second, third = (self.captured(seconds) for seconds in (0.0, 5.0, 10.0))
        among = second == 1
        later = [third[among & (first == value)].mean() for value in (0, 1)]
        expected = 0.3 + 0.7 * math.exp(-0.5)
        assert later == pytest.approx([expected, expected], abs=0.04)

    def test_two_levels_whose_mean_is_the_conductance(self) -> None:
        noisy = self.NOISE.apply(self.LEVEL, 500.0, KEY)
        assert (noisy.unique() * 1e6).tolist() == pytest.approx([10 * (1 - 0.2 * 0.7), 10 * (1 + 0.2 * 0.3)])
        assert float(noisy.double().mean() * 1e6) == pytest.approx(10, abs=5 * 2 * math.sqrt(0.21 / self.CELLS))

    def test_only_a_share_of_the_cells_has_a_trap_and_it_keeps_it(self) -> None:
        noise = self.NOISE.replace(share=0.1)
        moved = [noise.apply(self.LEVEL, seconds, KEY) != self.LEVEL for seconds in (0.0, 1e6)]
        assert torch.equal(*moved)
        assert abs(float(moved[0].double().mean()) - 0.1) < 4.5 * math.sqrt(0.09 / self.CELLS)

    def test_the_shape_is_kept(self) -> None:
        assert self.NOISE.apply(torch.ones(3, 4), 1.0, KEY).shape == (3, 4)


class TestComposition:
    CELL = ComposedCell(
        g_min_siemens="1 uS", g_max_siemens="40 uS", device_spread=ConstantSpread(sigma_siemens="2 uS"),
        cycle_spread=ConstantSpread(sigma_siemens="1 uS"),
    )  # fmt: skip

    def error(self, key: Key, target: float = 2e-5) -> np.ndarray:
        return self.CELL.program(torch.full((CELLS,), target), key).conductance.double().numpy() * 1e6 - target * 1e6

    def test_device_errors_stay_and_cycle_errors_do_not(self) -> None:
        first, second = self.error(KEY.at(0)), self.error(KEY.at(1))
        assert first.std() == pytest.approx(math.sqrt(5), rel=0.012)
        assert np.corrcoef(first, second)[0, 1] == pytest.approx(4 / 5, abs=0.01)
        assert (first - second).std() == pytest.approx(math.sqrt(2), rel=0.012)

    def test_device_errors_belong_to_the_cell_not_to_the_target(self) -> None:
        assert np.corrcoef(self.error(KEY.at(0)), self.error(KEY.at(1), target=3e-5))[0, 1] == pytest.approx(4 / 5, abs=0.01)

    def test_another_chip_has_other_devices(self) -> None:
        assert abs(np.corrcoef(self.error(KEY), self.error(KEY.fold("other")))[0, 1]) < 0.02

    def test_cells_are_not_clipped_to_the_range(self) -> None:
        assert (self.error(KEY, target=40e-6) > 0).mean() == pytest.approx(0.5, abs=0.01)

    def test_near_zero_both_parts_are_conditioned_on_a_positive_conductance(self) -> None:
        drawn = self.CELL.program(torch.full((CELLS,), 1e-6), KEY).conductance
        assert float(drawn.min()) > 0
        assert drawn.unique().numel() >= 0.95 * CELLS

    def test_the_bias_is_a_polynomial_in_microsiemens(self) -> None:
        cell = ComposedCell(g_min_siemens=0.0, g_max_siemens="40 uS", bias_coefficients_microsiemens=(1.0, -0.1, 0.01))
        reached = cell.program(torch.tensor([0.0, 10e-6]), KEY).conductance * 1e6
        assert reached.tolist() == pytest.approx([1.0, 11.0])

    def test_without_laws_the_cell_is_ideal(self) -> None:
        cell = ComposedCell(g_min_siemens=0.0, g_max_siemens="40 uS")
        cells = cell.program(LEVEL, KEY)
        assert torch.equal(cells.conductance, LEVEL)
        assert torch.equal(cell.drift(cells, 1e9, KEY), LEVEL)
        assert cell.read_sigma(LEVEL, 0.0) is None

    def test_noise_persists_through_drift_and_composes(self) -> None:
        cell = self.CELL.replace(
            flicker={"amplitude": ProportionalSpread(fraction=0.01), "read_seconds": 1e-6},
            telegraph={"amplitude": 0.1, "occupancy": 0.5, "relaxation_seconds": 1.0},
        )
        cells = cell.program(LEVEL, KEY)
        drifted = cell.drift(cells, 100.0, KEY)
        assert torch.equal(drifted, cell.drift(cells, 100.0, KEY))
        relative = (drifted.double() / cells.conductance.double()).numpy()
        assert relative.var() == pytest.approx(0.01**2 * math.log(1e8 / 2) + 0.05**2, rel=0.03)

    def test_a_spread_that_goes_negative_is_refused_with_the_place(self) -> None:
        law = {"type": "devices.rram.spread:PolynomialSpread", "coefficients_microsiemens": (1.0, -0.1)}
        with pytest.raises(DesignError, match=r"^[^\n]*`cycle_spread` must give[^\n]*at least 0[^\n]*at 40 uS[^\n]*$"):
            ComposedCell(g_min_siemens="1 uS", g_max_siemens="40 uS", cycle_spread=law)

    def test_a_negative_time_is_refused(self) -> None:
        with pytest.raises(ValueError, match="must be finite and at least 0, but got -1"):
            self.CELL.drift(ProgrammedCells(LEVEL), -1.0, KEY)
