"""Statistics against scipy, closed forms and simulated coverage."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from simulator.metrics import metric
from simulator.statistics import (
    Interval,
    bootstrap_error,
    components,
    mean_interval,
    paired_comparison,
    percentile,
    wilson_interval,
    worst,
    yield_fraction,
)

values = st.lists(st.floats(-10, 10), min_size=2, max_size=30).filter(lambda chips: np.std(chips) > 1e-3)


class TestMeanInterval:
    @given(chips=values, confidence=st.floats(0.5, 0.999))
    def test_equals_scipy(self, chips: list[float], confidence: float) -> None:
        interval = mean_interval(chips, confidence)
        expected = stats.ttest_1samp(chips, 0).confidence_interval(confidence)
        assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-9)
        assert interval.value == pytest.approx(np.mean(chips), abs=1e-12)

    @pytest.mark.parametrize(("n", "confidence"), [(2, 0.95), (5, 0.95), (25, 0.95), (5, 0.8)])
    def test_covers_as_often_as_it_says(self, n: int, confidence: float) -> None:
        experiments = np.random.default_rng(1).normal(0.9, 0.02, (2000, n))
        intervals = [mean_interval(chips, confidence) for chips in experiments]
        covered = np.mean([interval.low <= 0.9 <= interval.high for interval in intervals])
        assert abs(covered - confidence) < 3.1 * math.sqrt(confidence * (1 - confidence) / 2000)

    def test_one_chip_has_no_interval(self) -> None:
        interval = mean_interval([0.95])
        assert interval.value == 0.95
        assert math.isnan(interval.low) and math.isnan(interval.high) and math.isnan(interval.half_width)
        assert str(interval) == "0.95 ± n/a (1 chip)"

    def test_equal_chips_have_a_point(self) -> None:
        interval = mean_interval([0.1] * 7)
        assert (interval.low, interval.value, interval.high) == (0.1, 0.1, 0.1)
        assert str(interval) == "0.1 ± 0 (95 %)"

    @pytest.mark.parametrize("broken", [math.nan, math.inf])
    def test_broken_chips_are_not_hidden(self, broken: float) -> None:
        interval = mean_interval([0.9, broken, 0.8])
        assert not math.isfinite(interval.value)
        assert math.isnan(interval.half_width)
        assert str(interval) == f"{broken} ± n/a (3 chips)"

    @pytest.mark.parametrize(
        ("half", "text"),
        [
            (0.0061, "0.953 ± 0.006 (95 %)"),
            (0.0131, "0.953 ± 0.013 (95 %)"),
            (0.02, "0.95 ± 0.02 (95 %)"),
            (0.00001, "0.953200 ± 0.000010 (95 %)"),
            (12.0, "1 ± 12 (95 %)"),
        ],
    )
    def test_prints_digits_that_mean_something(self, half: float, text: str) -> None:
        assert str(Interval(0.9532, 0.9532 - half, 0.9532 + half, 0.95, 25)) == text

    def test_refuses_in_one_line(self) -> None:
        for chips in ([], [[0.9, 0.8]], 0.9):
            with pytest.raises(ValueError, match=r"^Argument `values` must hold one value per chip, .*; measure a chip first\.$"):
                mean_interval(chips)
        for confidence in (0.0, 1.0, 95, math.nan):
            with pytest.raises(ValueError, match=rf"^Argument `confidence` must lie between 0 and 1, but got {confidence};"):
                mean_interval([0.9, 0.8], confidence)


class TestWilson:
    @given(n=st.integers(1, 500), fraction=st.floats(0, 1), confidence=st.floats(0.5, 0.999))
    def test_equals_scipy(self, n: int, fraction: float, confidence: float) -> None:
        successes = round(fraction * n)
        interval = wilson_interval(successes, n, confidence)
        expected = stats.binomtest(successes, n).proportion_ci(confidence, method="wilson")
        assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
        assert 0 <= interval.low <= interval.value <= interval.high <= 1

    def test_coverage_is_exact_on_average(self) -> None:
        n = 25
        intervals = [wilson_interval(successes, n) for successes in range(n + 1)]
        low, high = np.array([x.low for x in intervals]), np.array([x.high for x in intervals])
        fractions = np.linspace(0.01, 0.99, 981)[:, None]
        covered = (stats.binom.pmf(np.arange(n + 1), n, fractions) * ((low <= fractions) & (fractions <= high))).sum(1)
        assert covered.mean() == pytest.approx(0.95, abs=0.01)
        assert covered.min() > 0.82

    @pytest.mark.parametrize(("successes", "n"), [(-1, 5), (6, 5), (0, 0)])
    def test_refuses_in_one_line(self, successes: int, n: int) -> None:
        with pytest.raises(ValueError, match=rf"^Arguments `successes` and `n` must satisfy .* got {successes} and {n};"):
            wilson_interval(successes, n)


class TestDirection:
    chips = (0.91, 0.95, 0.97, 0.99)

    def test_yield_counts_the_specification_itself(self) -> None:
        assert yield_fraction(self.chips, 0.95).value == 0.75
        assert yield_fraction(self.chips, 0.95, higher_is_better=False).value == 0.5
        assert yield_fraction(self.chips, 0.95).low == wilson_interval(3, 4).low

    @pytest.mark.parametrize("higher", [True, False])
    def test_a_broken_chip_is_waste(self, higher: bool) -> None:
        assert yield_fraction([math.nan, math.nan], 0.5, higher_is_better=higher).value == 0
        assert math.isnan(worst([0.9, math.nan], higher_is_better=higher))
        assert math.isnan(percentile([0.9, math.nan], higher_is_better=higher))

    def test_bad_is_high_for_errors(self) -> None:
        assert worst(self.chips) == 0.91
        assert worst(self.chips, higher_is_better=False) == 0.99
        assert percentile(range(101)) == 5
        assert percentile(range(101), higher_is_better=False) == 95

    @given(chips=values, percent=st.floats(0, 100))
    def test_percentile_mirrors(self, chips: list[float], percent: float) -> None:
        mirrored = -percentile([-chip for chip in chips], percent, higher_is_better=False)
        assert percentile(chips, percent) == pytest.approx(mirrored, abs=1e-9)
        assert worst(chips) <= percentile(chips, percent)

    def test_refuses_in_one_line(self) -> None:
        with pytest.raises(ValueError, match=r"^Argument `spec` must be a number, but got nan;.*\.$"):
            yield_fraction(self.chips, math.nan)
        with pytest.raises(ValueError, match=r"^Argument `percent` must lie in 0..100, but got 101;.*\.$"):
            percentile(self.chips, 101)


class TestComparison:
    @given(chips=st.integers(2, 40), seed=st.integers(0, 100))
    def test_equals_scipy(self, chips: int, seed: int) -> None:
        draw = np.random.default_rng(seed)
        first, second = draw.normal(0.9, 0.1, (2, chips))
        found = paired_comparison(first, second, confidence=0.9)
        expected = stats.ttest_rel(first, second)
        interval = expected.confidence_interval(0.9)
        assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)
        assert (found.difference.low, found.difference.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
        assert found.n == chips
        assert found.wins == np.mean(first > second)

    def test_common_random_numbers_narrow_it(self) -> None:
        draw = np.random.default_rng(0)
        shared = draw.normal(0.9, 0.05, 25)
        first = shared + 0.01 + draw.normal(0, 0.002, 25)
        found = paired_comparison(first, shared)
        assert found.difference.half_width < 0.1 * mean_interval(shared).half_width
        assert found.better == "first"
        assert found.p_value < 1e-6

    def test_p_values_are_uniform_without_a_difference(self) -> None:
        draw = np.random.default_rng(2).normal(size=(1000, 2, 6))
        p_values = [paired_comparison(first, second).p_value for first, second in draw]
        assert stats.kstest(p_values, "uniform").pvalue > 0.01

    def test_lower_is_better(self) -> None:
        found = paired_comparison([1.0, 2.0, 3.0], [1.5, 2.0, 4.0], higher_is_better=False)
        assert found.difference.value == -0.5
        assert found.wins == pytest.approx(2 / 3)
        assert found.ties == pytest.approx(1 / 3)
        assert paired_comparison([1, 2, 3], [5, 6.1, 7], higher_is_better=False).better == "first"
        assert paired_comparison([1, 2, 3], [5, 6.1, 7]).better == "second"

    def test_prints_one_line(self) -> None:
        found = paired_comparison([0.95, 0.96, 0.94], [0.91, 0.93, 0.92], names=("trained", "plain"))
        assert str(found) == "trained - plain = 0.03 ± 0.02 (95 %), p = 0.035, trained better in 100 % of 3 pairs"
        assert "p < 0.001" in str(paired_comparison(np.arange(9) + 1, np.arange(9) * 1.001))

    def test_edge_cases(self) -> None:
        one = paired_comparison([0.9], [0.8])
        assert math.isnan(one.p_value) and one.better is None
        assert str(one) == "first - second = 0.1 ± n/a (1 chip), p = n/a, first better in 100 % of 1 pair"
        same = paired_comparison([0.9, 0.8], [0.9, 0.8])
        assert (same.p_value, same.wins, same.ties, same.better) == (1.0, 0.0, 1.0, None)
        assert str(same).endswith("first better in 0 % of 2 pairs, equal in 100 %")
        shifted = paired_comparison([2.0, 3.0], [1.0, 2.0])
        assert (shifted.p_value, shifted.better) == (0.0, "first")
        broken = paired_comparison([math.nan, 0.9], [0.8, 0.8])
        assert math.isnan(broken.p_value) and broken.better is None and broken.wins == 0.5
        assert math.isnan(paired_comparison([math.inf, 0.9], [math.inf, 0.8]).p_value)

    def test_refuses_in_one_line(self) -> None:
        with pytest.raises(ValueError, match=r"^Arguments `first` and `second` must have one value per trial each, but got 2 and 1;"):
            paired_comparison([0.9, 0.8], [0.9])


class TestBootstrap:
    @pytest.mark.parametrize("fraction", [0.5, 0.9, 0.97])
    def test_accuracy_equals_the_binomial_formula(self, fraction: float) -> None:
        samples = 1000
        rows = torch.stack([(torch.arange(samples) < fraction * samples).double(), torch.ones(samples)], 1)
        expected = math.sqrt(fraction * (1 - fraction) / samples)
        assert bootstrap_error(rows, metric("accuracy").compute) == pytest.approx(expected, rel=0.1)
        assert bootstrap_error(rows, metric("accuracy").compute, resamples=4000) == pytest.approx(expected, rel=0.04)

    def test_correlation_equals_its_large_sample_formula(self) -> None:
        draw = torch.Generator().manual_seed(0)
        x = torch.randn(2000, generator=draw)
        y = 0.6 * x + 0.8 * torch.randn(2000, generator=draw)
        measure = metric("pearson")
        assert bootstrap_error(measure.rows(x, y), measure.compute, 400) == pytest.approx((1 - 0.6**2) / math.sqrt(2000), rel=0.15)

    def test_draws_whole_samples(self) -> None:
        # Ten tokens that agree within a sequence count as one observation, not as ten.
        right = torch.arange(400) % 2 == 0
        outputs = torch.where(right[:, None, None], torch.tensor([1.0, 0.0])[None, :, None], torch.tensor([0.0, 1.0])[None, :, None])
        measure = metric("accuracy")
        rows = measure.rows(outputs.expand(400, 2, 10), torch.zeros(400, 10))
        assert bootstrap_error(rows, measure.compute, 1000) == pytest.approx(0.5 / 20, rel=0.1)

    def test_seed(self) -> None:
        rows = torch.rand(50, 1, generator=torch.Generator().manual_seed(0))
        state, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()
        first = bootstrap_error(rows, lambda drawn: float(drawn.mean()))
        assert first == bootstrap_error(rows, lambda drawn: float(drawn.mean()))
        assert first != bootstrap_error(rows, lambda drawn: float(drawn.mean()), seed=1)
        assert torch.equal(state, torch.get_rng_state())
        assert (legacy == np.random.get_state()[1]).all()

    def test_edge_cases(self) -> None:
        mean = metric("mae").compute
        assert math.isnan(bootstrap_error(torch.ones(1, 2).double(), mean))
        assert bootstrap_error(torch.ones(20, 2).double(), mean) == 0
        assert math.isnan(bootstrap_error(torch.tensor([[math.nan, 1.0]]).double().repeat(20, 1), mean))
        with pytest.raises(ValueError, match=r"^Argument `rows` must hold at least one sample, but got shape \(0, 2\);.*\.$"):
            bootstrap_error(torch.ones(0, 2), mean)
        with pytest.raises(ValueError, match=r"^Argument `resamples` must be at least 2, but got 1;.*\.$"):
            bootstrap_error(torch.ones(5, 2).double(), mean, resamples=1)


class TestComponents:
    def test_tells_chips_from_samples(self) -> None:
        # A sample of difficulty d is right on a chip of quality c with probability 0.8 + c + d; both spreads are known.
        draw = np.random.default_rng(3)
        chips, samples, spread = 400, 2000, 0.02
        quality = draw.normal(0, spread, (chips, 1))
        difficulty = draw.choice([-0.1, 0.1], (1, samples))
        right = torch.from_numpy(draw.random((chips, samples)) < 0.8 + quality + difficulty).double()
        accuracy = right.mean(1).numpy()
        rows = torch.stack([right, torch.ones_like(right)], 2)
        errors = [bootstrap_error(rows[k], metric("accuracy").compute, 100, seed=k) for k in range(20)]
        split = components(accuracy, errors)
        within = (0.8 * 0.2 - 0.1**2) / samples  # what samples add to a chip's value when difficulties are fixed
        assert split.chip_std == pytest.approx(math.sqrt(spread**2 + within), rel=0.1)
        assert split.mean_error == pytest.approx(split.chip_std / 20)
        assert split.test_error == pytest.approx(math.sqrt(0.8 * 0.2 / samples), rel=0.1)
        assert split.total_error == pytest.approx(math.hypot(split.mean_error, split.test_error))

    def test_prints_one_line(self) -> None:
        text = "mean 0.950; chip to chip 0.008 (standard deviation); standard errors: mean over 4 chips 0.004, test set 0.011"
        assert str(components([0.95, 0.96, 0.94, 0.95], 0.011)) == text

    def test_edge_cases(self) -> None:
        one = components([0.95], 0.01)
        assert math.isnan(one.chip_std) and math.isnan(one.mean_error) and math.isnan(one.total_error)
        assert str(one) == "mean 0.950; chip to chip n/a (1 chip); standard errors: mean over 1 chip n/a, test set 0.010"
        equal = components([0.1] * 3, 0.0)
        assert (equal.mean, equal.chip_std, equal.mean_error, equal.total_error) == (0.1, 0.0, 0.0, 0.0)
        assert "test set n/a" in str(components([0.9, 0.8], math.nan))
        assert components([0.9, 0.8], [0.03, 0.04]).test_error == pytest.approx(math.sqrt((0.03**2 + 0.04**2) / 2))
        with pytest.raises(ValueError, match=r"^Argument `test_error` must not be negative, but got -0\.1;.*\.$"):
            components([0.9], -0.1)
