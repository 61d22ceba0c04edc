"""Converters built of mismatched parts: the search followed bit by bit, closed forms of INL and DNL, and tables as given."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from devices import ADC, DAC, SAR, DesignError, Flash, Ramp, Tabulated, Transfer
from kernels import Key, normal
from tests import naive_crossbar as naive

KEY = Key.of(seed=5, purpose="converter")
INPUTS = np.random.default_rng(0).uniform(-1.0, 17.0, 400)


def codes(transfer: Transfer, values: np.ndarray) -> list[int]:
    """Return the codes that thresholds give, from the lowest."""
    return [int((transfer.edges[0].double().numpy() <= value).sum()) for value in values]


@pytest.mark.parametrize("sigma", [0.0, 0.05, 0.5])
def test_sar_thresholds_are_those_of_the_search(sigma: float) -> None:
    bits = 4
    drawn = normal(KEY.fold("capacitors"), (1, bits + 1))[0].double().numpy()
    units = np.array([1.0, *[2.0**k for k in range(bits)]])
    capacitors = units + sigma * np.sqrt(units) * drawn
    expected = [naive.sar_code(value, list(capacitors[1:]), capacitors.sum()) for value in INPUTS]
    found = ADC(bits=bits, signed=False, architecture=SAR(unit_sigma=sigma)).transfer(KEY)
    assert codes(found, INPUTS) == expected
    assert bool((found.edges.diff() >= 0).all())


@pytest.mark.parametrize("sigma", [0.0, 0.1, 0.8])
def test_ramp_thresholds_are_where_the_counter_stops(sigma: float) -> None:
    steps = 1.0 + sigma * normal(KEY.fold("steps"), (1, 15))[0].double().numpy()
    expected = [naive.ramp_code(value, list(steps)) for value in INPUTS]
    assert codes(ADC(bits=4, signed=False, architecture=Ramp(step_sigma=sigma)).transfer(KEY), INPUTS) == expected


def test_flash_counts_its_comparators() -> None:
    offsets = 0.7 * normal(KEY.fold("comparators"), (1, 15))[0].double().numpy()
    expected = [naive.flash_code(value, list(np.arange(15) + 0.5 + offsets)) for value in INPUTS]
    assert codes(ADC(bits=4, signed=False, architecture=Flash(comparator_sigma_lsb=0.7)).transfer(KEY), INPUTS) == expected


def test_dnl_of_a_sar_at_the_middle_is_that_of_all_its_capacitors() -> None:
    # Levels 2^(N-1) and 2^(N-1) - 1 differ by one heavy capacitor against all lighter ones: variance unit^2 (2^N - 1).
    bits, sigma, count = 8, 0.01, 20_000
    levels = SAR(unit_sigma=sigma).levels(bits, count, KEY)
    step = levels[:, 128] - levels[:, 127] - 1.0
    # Shares of the total, so that what all capacitors have in common cancels: of first order in sigma.
    assert float(step.std()) == pytest.approx(sigma * math.sqrt(2**bits - 1), rel=0.03)
    assert abs(float(step.mean())) < 5 * float(step.std()) / math.sqrt(count)


def test_inl_of_a_ramp_is_a_random_walk_between_its_ends() -> None:
    bits, sigma, count = 8, 0.01, 20_000
    found = Transfer(Ramp(step_sigma=sigma).levels(bits, count, KEY).float(), 0)
    middle = found.inl()[:, 128].double()
    assert float(middle.std()) == pytest.approx(sigma * math.sqrt(2**bits) / 2, rel=0.03)
    assert float(found.dnl().double().std()) == pytest.approx(sigma, rel=0.01)


@pytest.mark.parametrize("architecture", [SAR(unit_sigma=0.02), Ramp(step_sigma=0.02), Flash(comparator_sigma_lsb=0.2)])
def test_inl_is_the_sum_of_dnl_and_ends_at_zero(architecture: SAR | Ramp | Flash) -> None:
    transfer = ADC(bits=8, architecture=architecture).transfer(KEY, converters=3)
    dnl, inl = transfer.dnl().double(), transfer.inl().double()
    assert torch.allclose(dnl.cumsum(1), inl[:, 1:], atol=1e-3)
    assert float(inl[:, -1].abs().max()) < 1e-3 and float(dnl.min()) >= -1.0 - 1e-6
    assert float(dnl.abs().max()) > 0.01


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 6), st.booleans(), st.integers(0, 99))
def test_a_table_comes_back(bits: int, signed: bool, seed: int) -> None:
    table = np.random.default_rng(seed).uniform(-0.3, 0.3, 2**bits)
    transfer = ADC(bits=bits, signed=signed, architecture=Tabulated(inl_lsb=tuple(table))).transfer(KEY)
    first = 2 if signed else 1
    lowest = -(2 ** (bits - 1) - 1) if signed else 0
    nominal = np.arange(transfer.edges.shape[1]) + lowest + 0.5
    assert transfer.lowest == lowest
    assert np.allclose(transfer.edges[0].numpy() - nominal, table[first:], atol=1e-5)
    steps = np.random.default_rng(seed + 1).uniform(-0.5, 0.5, 2**bits - 1)
    by_steps = Tabulated(dnl_lsb=tuple(steps)).levels(bits, 1, KEY)[0]
    assert np.allclose(by_steps.diff().numpy() - 1.0, steps, atol=1e-6)


def test_converters_of_an_array_share_a_ramp_but_not_capacitors_or_offsets() -> None:
    ramp = ADC(bits=6, architecture=Ramp(step_sigma=0.05, offset_sigma_lsb=0.3)).transfer(KEY, converters=2000).edges
    assert torch.allclose(ramp - ramp[:, :1], (ramp - ramp[:, :1])[:1].expand_as(ramp), atol=1e-4)
    assert float(ramp[:, 0].std()) == pytest.approx(0.3, rel=0.08)
    sar = ADC(bits=6, architecture=SAR(unit_sigma=0.05)).transfer(KEY, converters=2).edges
    assert not torch.allclose(sar[0] - sar[0, 0], sar[1] - sar[1, 0], atol=1e-3)


def test_ideal_parts_make_the_uniform_converter() -> None:
    for bits in (2, 5, 8):
        for architecture in (SAR(unit_sigma=0), Ramp(step_sigma=0), Flash(comparator_sigma_lsb=0), Tabulated(inl_lsb=(0.0, 0.0))):
            for signed in (True, False):
                uniform, built = (ADC(bits=bits, signed=signed, architecture=one).transfer(KEY) for one in (None, architecture))
                assert torch.allclose(uniform.edges, built.edges, atol=1e-5) and uniform.lowest == built.lowest
                assert uniform.edges.shape[1] == (2**bits - 2 if signed else 2**bits - 1)


def test_time_of_a_conversion_follows_the_architecture() -> None:
    # NeuroSim's SAR: (bits + 1) ns at 1 GHz; a ramp takes a count for each level.
    for architecture, cycles in ((SAR(unit_sigma=0, clock_hertz=1e9), 9), (Ramp(step_sigma=0, clock_hertz=1e9), 256)):
        assert ADC(bits=8, architecture=architecture).conversion_latency_s == pytest.approx(cycles * 1e-9)
    assert ADC(bits=8, architecture=SAR(unit_sigma=0.0), sample_rate_hertz=1e8).conversion_latency_s == pytest.approx(1e-8)
    assert ADC(bits=8, architecture=SAR(unit_sigma=0.0)).conversion_latency_s is None


def test_codes_with_and_without_a_sign() -> None:
    assert (ADC(bits=8).lowest, ADC(bits=8).limit) == (-127, 127)
    assert (ADC(bits=8, signed=False).lowest, ADC(bits=8, signed=False).limit) == (0, 255)
    assert DAC(bits=8, signed=False).step(2.55) == pytest.approx(0.01)
    assert [DAC(bits=9, slice_bits=bits).slices for bits in (1, 2, 3, 8)] == [8, 4, 3, 1]


def test_refuses_what_no_converter_is() -> None:
    with pytest.raises(DesignError, match="`architecture` must be SAR .* got Flash"):
        DAC(architecture=Flash(comparator_sigma_lsb=0.1))
    with pytest.raises(DesignError, match="`inl_lsb` or `dnl_lsb` must be given, and not both, but got neither"):
        Tabulated()
    with pytest.raises(DesignError, match="but got both"):
        Tabulated(inl_lsb=(0.0, 0.0), dnl_lsb=(0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="`dnl_lsb` must have 255 values for 8 bits, but got 3"):
        ADC(bits=8, architecture=Tabulated(dnl_lsb=(0.0, 0.0, 0.0))).transfer(KEY)
    with pytest.raises(DesignError, match="unit_sigma"):
        SAR(unit_sigma=-0.1)
