"""Conventions of a weight's programming error: their formulas, and the cell that has them."""

import math

import pytest
import torch
from torch import nn

import simulator as sim
from devices import DesignError, DifferentialMapping, RRAMCrossbar, WeightErrorCell, weight_error_std
from kernels import Key, normal


@pytest.mark.parametrize(
    ("convention", "weight_bits", "device_bits", "expected"),
    [
        ("paper", 4, 4, 0.0625),
        ("device_range", 4, 4, 1.0),
        ("device_range", 8, 4, 0.94),
        ("per_bit", 8, 1, 0.577),
        ("device_range", 8, 1, 0.577),
    ],
)
def test_conventions_give_the_published_factors(convention: str, weight_bits: int, device_bits: int, expected: float) -> None:
    assert weight_error_std(1.0, convention, weight_bits=weight_bits, device_bits=device_bits) == pytest.approx(expected, rel=6e-3)


@pytest.mark.parametrize("device_bits", [1, 2, 4])
def test_the_formulas_are_those_of_summed_devices(device_bits: int) -> None:
    """Draw every device of a weight and add up what the convention says."""
    bits, draws = 8, 200_000
    devices = bits // device_bits
    errors = normal(Key.of(seed=3), (devices, draws)).double()
    place = torch.arange(devices, dtype=torch.float64)[:, None]
    summed = {
        "paper": (2 ** (place * device_bits) * errors).sum(0) / 2**bits,
        "device_range": (2 ** (place * device_bits) * (2**device_bits - 1) * errors).sum(0) / (2**bits - 1),
        "per_bit": (2 ** (-(place + 1) * device_bits) * errors).sum(0),
    }
    for convention, drawn in summed.items():
        expected = weight_error_std(1.0, convention, weight_bits=bits, device_bits=device_bits)
        assert float(drawn.std()) == pytest.approx(expected, rel=4 / math.sqrt(2 * draws))


@pytest.mark.parametrize("convention", ["device_range", "per_bit", "paper"])
def test_a_chip_has_the_error_of_the_convention(convention: str) -> None:
    cell = WeightErrorCell(g_min_siemens=30e-6, g_max_siemens=50e-6, sigma=0.1, convention=convention)
    layer = nn.Linear(300, 300, bias=False)
    chip = sim.compile(layer, RRAMCrossbar(cell=cell, mapping=DifferentialMapping(weight_bits=5)), example_inputs=torch.rand(2, 300))
    chip.program(seed=1)
    found = chip(torch.eye(300)).t()
    largest = layer.weight.detach().abs().amax()
    rounded = torch.round(layer.weight.detach() / largest * 15) / 15 * largest
    expected = weight_error_std(0.1, convention) * float(largest)
    assert float((found - rounded).std()) == pytest.approx(expected, rel=4 / math.sqrt(2 * 90_000))


def test_a_range_so_low_that_draws_are_cut_off_is_refused() -> None:
    with pytest.raises(DesignError, match="`g_min_siemens` must be at least 6.67 standard deviations"):
        WeightErrorCell(g_min_siemens=1e-6, g_max_siemens=50e-6, sigma=0.3)


@pytest.mark.parametrize("change", [{"sigma": -1.0}, {"convention": "lsb"}, {"weight_bits": 0}, {"device_bits": 99}])
def test_bad_arguments_are_refused_in_a_line(change: dict) -> None:
    with pytest.raises(ValueError, match=r"^Argument [^\n]*$"):
        weight_error_std(**{"sigma": 0.1, **change})
