"""Parts of cells: spreads, drift laws, stuck cells, temperature, current and voltage, update pulses."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from devices import Design, DesignError, ProgrammedCells
from devices.rram import (
    ConstantSpread,
    CurrentVoltage,
    IdealCell,
    LogDrift,
    PolynomialSpread,
    PowerDrift,
    PulseUpdate,
    StuckCells,
    TabulatedRelaxation,
    TabulatedSpread,
    Temperature,
)  # fmt: skip
from kernels.random import Key

CELLS = 100_000
KEY = Key.of(seed=7, purpose="test")
CELL = IdealCell(g_min_siemens="2 uS", g_max_siemens="22 uS")


def error_of(build: Callable[[], object]) -> str:
    with pytest.raises(ValueError) as error:
        build()
    text = str(error.value)
    assert "\n" not in text
    return text


def binomial_bound(rate: float) -> float:
    return 4.5 * math.sqrt(rate * (1 - rate) / CELLS)


class TestSpreads:
    @settings(max_examples=50, deadline=None)
    @given(at=st.floats(0, 60))
    def test_a_table_is_numpy_interpolation(self, at: float) -> None:
        points, values = (5.0, 10.0, 20.0, 50.0), (1.0, 3.0, 2.0, 4.0)
        law = TabulatedSpread(at_siemens=points, sigma_siemens=values)
        assert float(law.sigma(torch.tensor([at]))) == pytest.approx(np.interp(at, points, values), rel=1e-5)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"at_siemens": (2.0, 1.0), "sigma_siemens": (1.0, 1.0)}, "`at_siemens` must rise"),
            ({"at_siemens": (1.0, 2.0), "sigma_siemens": (1.0, 1.0, 1.0)}, "one number for each of the 2"),
            ({"at_siemens": (1.0, 2.0), "sigma_siemens": (1.0, -1.0)}, "`sigma_siemens` must be at least 0, but got -1"),
        ],
    )
    def test_a_wrong_table_is_refused(self, fields: dict, message: str) -> None:
        assert message in error_of(lambda: TabulatedSpread(**fields))

    def test_a_polynomial_in_other_units_is_the_same_law(self) -> None:
        at = torch.linspace(0, 4e-5, 101)
        plain = PolynomialSpread(coefficients_microsiemens=(1.0, 0.5, 0.01)).sigma(at)
        scaled = PolynomialSpread(coefficients_microsiemens=(1.0, 20.0, 16.0), reference_siemens="40 uS").sigma(at)
        assert torch.allclose(plain, scaled, rtol=1e-5, atol=0)

    def test_designs_round_trip_and_hash(self) -> None:
        law = TabulatedRelaxation(
            times_seconds=(1.0, 10.0), spreads=(ConstantSpread(sigma_siemens=1e-6), PolynomialSpread(coefficients_microsiemens=(2.0,)))
        )
        assert Design.from_dict(law.to_toml_dict()) == law
        assert hash(Design.from_dict(law.to_toml_dict())) == hash(law)


class TestDrift:
    def test_exponents_without_slopes_are_one_law_for_all_targets(self) -> None:
        law = PowerDrift(start_seconds=1.0, mean_intercept=0.05, sigma_intercept=0.01)
        drawn = law.memory(torch.linspace(0, 1e-4, CELLS), KEY)["drift_exponent"]
        assert float(drawn.mean()) == pytest.approx(0.05, abs=5 * 0.01 / math.sqrt(CELLS))
        assert float(drawn.std()) == pytest.approx(0.01, rel=0.012)

    def test_a_target_of_zero_takes_the_bound(self) -> None:
        law = PowerDrift(start_seconds=1.0, mean_slope=-0.1, mean_intercept=0.0, mean_high=0.3, sigma_intercept=0.0, reference_siemens=1e-5)
        assert float(law.memory(torch.zeros(1), KEY)["drift_exponent"]) == pytest.approx(0.3)

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"mean_slope": 1.0}, "`reference_siemens` must be given"),
            ({"mean_low": 0.2, "mean_high": 0.1}, "`mean_low` must be at most `mean_high`"),
            ({"sigma_intercept": -0.1}, "`sigma_low` must be at least 0"),
            ({"sigma_slope": -0.1, "reference_siemens": 1.0}, "`sigma_low` must be at least 0"),
        ],
    )
    def test_inconsistent_exponents_are_refused(self, fields: dict, message: str) -> None:
        assert message in error_of(lambda: PowerDrift(**{"start_seconds": 1.0, "mean_intercept": 0.1, "sigma_intercept": 0.1} | fields))

    def test_a_shift_below_zero_stays_a_conductance(self) -> None:
        law = LogDrift(mean_slope_siemens="-1 uS", sigma_intercept_siemens="0.1 uS", sigma_slope_siemens=0.0, start_seconds=1.0)
        target = torch.full((1000,), 2e-6)
        drifted = law.conductance(ProgrammedCells(target, law.memory(target, KEY)), 1e3)
        assert bool((drifted >= 0).all() and torch.isfinite(drifted).all())

    def test_relaxation_between_the_measured_times_is_linear_in_the_logarithm(self) -> None:
        law = TabulatedRelaxation(
            times_seconds=(1.0, 1e4), spreads=(ConstantSpread(sigma_siemens="1 uS"), ConstantSpread(sigma_siemens="3 uS"))
        )
        sigma = [float(law.sigma(torch.tensor(5e-5), seconds)) * 1e6 for seconds in (0.0, 0.5, 1.0, 1e2, 1e4, 1e9)]
        assert sigma == pytest.approx([1, 1, 1, 2, 3, 3], rel=1e-5)
        target = torch.full((CELLS,), 5e-5)
        moved = law.conductance(ProgrammedCells(target, law.memory(target, KEY)), 100.0) - target
        assert float(moved.std()) * 1e6 == pytest.approx(math.sqrt(3), rel=0.012)


class TestStuckCells:
    @pytest.mark.parametrize(("on", "off"), [(0.05, 0.05), (0.001, 0.098), (0.3, 0.0), (0.0, 0.0004), (0.5, 0.5)])
    def test_each_polarity_has_the_rate_that_was_asked_for(self, on: float, off: float) -> None:
        faults = StuckCells(stuck_on_rate=on, stuck_off_rate=off)
        stuck = faults.apply(torch.full((CELLS,), 1e-5), KEY, CELL)
        shares = [float((stuck == torch.tensor(value)).double().mean()) for value in (22e-6, 2e-6)]
        assert abs(shares[0] - on) <= binomial_bound(on)
        assert abs(shares[1] - off) <= binomial_bound(off)
        assert float((stuck == 1e-5).double().mean()) == pytest.approx(1 - sum(shares), abs=1e-12)

    def test_the_same_cells_are_stuck_at_each_programming_and_others_on_another_chip(self) -> None:
        faults = StuckCells(stuck_on_rate=0.1, stuck_off_rate=0.1)
        first = faults.draw((CELLS,), KEY)
        assert torch.equal(first, faults.draw((CELLS,), KEY.at(4)))
        other = faults.draw((CELLS,), KEY.fold("other chip"))
        assert float(((first != 0) & (other != 0)).double().mean()) == pytest.approx(0.04, abs=binomial_bound(0.04))

    def test_the_conductances_can_be_given(self) -> None:
        faults = StuckCells(stuck_on_rate=0.5, stuck_off_rate=0.5, on_siemens="50 uS", off_siemens="0 S")
        assert set(faults.apply(torch.ones(100), KEY).tolist()) == {0.0, torch.tensor(5e-5).item()}

    def test_off_by_default_without_a_copy(self) -> None:
        conductance = torch.ones(4)
        assert StuckCells().apply(conductance, KEY) is conductance

    def test_the_array_is_not_changed_in_place(self) -> None:
        conductance = torch.full((1000,), 1e-5)
        StuckCells(stuck_on_rate=1.0).apply(conductance, KEY, CELL)
        assert bool((conductance == 1e-5).all())

    def test_wrong_rates_are_refused(self) -> None:
        assert "must sum to at most 1, but got 0.6 and 0.5" in error_of(lambda: StuckCells(stuck_on_rate=0.6, stuck_off_rate=0.5))
        assert "`stuck_on_rate` must be at least 0 and at most 1" in error_of(lambda: StuckCells(stuck_on_rate=5))
        assert "`off_siemens` must be given" in error_of(lambda: StuckCells(stuck_off_rate=0.1).apply(torch.ones(2), KEY))


class TestTemperature:
    def test_linear(self) -> None:
        part = Temperature(temperature_kelvin=358.0, reference_kelvin=298.0, fraction_per_kelvin=1e-3)
        assert part.apply(torch.tensor(1e-5)).item() == pytest.approx(1.06e-5)

    def test_arrhenius(self) -> None:
        part = Temperature(temperature_kelvin=400.0, reference_kelvin=300.0, activation_electronvolt=0.1)
        # 0.1 eV is 1160.45 K.
        assert part.factor == pytest.approx(math.exp(1160.4518 * (1 / 300 - 1 / 400)), rel=1e-6)

    def test_nothing_changes_at_the_reference(self) -> None:
        for law in ({"fraction_per_kelvin": 0.01}, {"activation_electronvolt": 0.5}):
            assert Temperature(temperature_kelvin=300.0, reference_kelvin=300.0, **law).factor == 1

    @pytest.mark.parametrize(
        ("law", "message"),
        [
            ({}, "must be given, and not both, but got None and None"),
            ({"fraction_per_kelvin": 0.1, "activation_electronvolt": 0.1}, "not both, but got 0.1 and 0.1"),
            ({"fraction_per_kelvin": -0.02}, "must leave conductances above 0"),
        ],
    )
    def test_no_coefficient_is_assumed_and_wrong_ones_are_refused(self, law: dict, message: str) -> None:
        assert message in error_of(lambda: Temperature(temperature_kelvin=360.0, reference_kelvin=300.0, **law))


class TestCurrentVoltage:
    LAW = CurrentVoltage(sinh_per_volt=3.0, full_scale_volt=0.5)

    def test_closed_form(self) -> None:
        fraction = torch.linspace(-1, 1, 21)
        expected = [math.sinh(1.5 * value) / 1.5 for value in fraction.tolist()]
        assert self.LAW.relative_current(fraction).tolist() == pytest.approx(expected, rel=1e-6)

    def test_small_voltages_see_the_conductance(self) -> None:
        assert float(self.LAW.relative_current(torch.tensor(1e-3))) == pytest.approx(1e-3, rel=1e-6)

    def test_slope_and_inverse_belong_to_it(self) -> None:
        fraction = torch.linspace(-1, 1, 21, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(self.LAW.relative_current(fraction).sum(), fraction)
        assert torch.allclose(slope, self.LAW.relative_slope(fraction))
        assert torch.allclose(self.LAW.voltage_fraction(self.LAW.relative_current(fraction)), fraction)


class TestPulseUpdate:
    LAW = PulseUpdate(potentiation_pulses=64, depression_pulses=32, potentiation_constant=20.0, depression_constant=15.0)

    def after(self, start: float, pulses: int, law: PulseUpdate = LAW) -> float:
        state, count = torch.tensor([start * 1e-6]), torch.tensor([pulses])
        return law.apply(state, count, KEY, CELL).item() * 1e6

    @pytest.mark.parametrize("pulses", [1, 7, 30, 63, 64, 65, 1000])
    def test_closed_forms_from_the_ends(self, pulses: int) -> None:
        scale = 20 / (1 - math.exp(-64 / 20))
        assert self.after(2, pulses) == pytest.approx(2 + scale * (1 - math.exp(-min(pulses, 64) / 20)), rel=1e-5)
        scale = 20 / (1 - math.exp(-32 / 15))
        assert self.after(22, -pulses) == pytest.approx(22 - scale * (1 - math.exp(-min(pulses, 32) / 15)), rel=1e-5)

    @settings(max_examples=100, deadline=None)
    @given(start=st.floats(2, 22), pulses=st.integers(-200, 200), constant=st.one_of(st.none(), st.floats(2, 500), st.floats(-500, -2)))
    def test_monotone_and_within_the_range(self, start: float, pulses: int, constant: float | None) -> None:
        law = self.LAW.replace(potentiation_constant=constant, depression_constant=constant)
        end, more = self.after(start, pulses, law), self.after(start, pulses + 1, law)
        assert 2 - 1e-4 <= end <= 22 + 1e-4
        assert more >= end - 1e-4
        assert (end - start) * pulses >= -1e-3

    @settings(max_examples=50, deadline=None)
    @given(start=st.floats(2, 22), first=st.integers(0, 40), second=st.integers(0, 40), sign=st.sampled_from([-1, 1]))
    def test_pulses_add_up(self, start: float, first: int, second: int, sign: int) -> None:
        assert self.after(self.after(start, sign * first), sign * second) == pytest.approx(
            self.after(start, sign * (first + second)), abs=2e-4
        )

    def test_up_and_down_are_not_the_same_step(self) -> None:
        assert abs(self.after(12, 1) - 12) != pytest.approx(abs(self.after(12, -1) - 12), rel=0.1)

    def test_a_large_constant_is_linear(self) -> None:
        linear = PulseUpdate(potentiation_pulses=40, depression_pulses=40)
        nearly = linear.replace(potentiation_constant=1e5)
        assert self.after(2, 10, linear) == pytest.approx(7)
        assert self.after(2, 10, nearly) == pytest.approx(7, rel=1e-3)

    def test_a_negative_constant_bends_the_other_way(self) -> None:
        bent = self.LAW.replace(potentiation_constant=-20.0)
        assert self.after(2, 32, bent) < 12 < self.after(2, 32)
        assert self.after(2, 64, bent) == pytest.approx(22)

    @pytest.mark.parametrize("pulses", [1, 4, -9])
    def test_write_noise_grows_with_the_root_of_the_pulses(self, pulses: int) -> None:
        law = PulseUpdate(potentiation_pulses=1000, depression_pulses=1000, cycle_fraction=0.005)
        moved = law.apply(torch.full((CELLS,), 12e-6), torch.full((CELLS,), pulses), KEY, CELL).double() * 1e6
        assert float(moved.mean()) == pytest.approx(12 + 20 * pulses / 1000, abs=5 * 0.3 / math.sqrt(CELLS) + 1e-4)
        assert float(moved.std()) == pytest.approx(0.005 * 20 * math.sqrt(abs(pulses)), rel=0.012)

    def test_noise_saturates_too_and_idle_cells_keep_their_bits(self) -> None:
        law = self.LAW.replace(cycle_fraction=0.3)
        state = torch.full((CELLS,), 21.5e-6)
        moved = law.apply(state, torch.ones(CELLS, dtype=torch.int8), KEY, CELL)
        assert float(moved.max()) <= 22.0001e-6
        assert float(moved.min()) >= 1.9999e-6
        assert torch.equal(law.apply(state, torch.zeros(CELLS, dtype=torch.int32), KEY, CELL), state)

    def test_wrong_pulses_and_constants_are_refused(self) -> None:
        assert "integer dtype, but got torch.float32" in error_of(lambda: self.LAW.apply(torch.ones(2), torch.ones(2), KEY, CELL))
        assert "shape of `conductance`, (2,)" in error_of(
            lambda: self.LAW.apply(torch.ones(2), torch.ones(3, dtype=torch.int64), KEY, CELL)
        )
        assert "`potentiation_constant` must be at least 0.8 in magnitude" in error_of(lambda: self.LAW.replace(potentiation_constant=0.0))
        assert isinstance(self.LAW, Design)
        with pytest.raises(DesignError, match="at least 1"):
            PulseUpdate(potentiation_pulses=0, depression_pulses=1)
