"""Cells: what is drawn has the law that the preset states, cell by cell."""

import numpy as np
import pytest
import torch
from scipy import stats

from devices import DesignError, PolynomialCell, ProgrammedCells, RRAMCrossbar
from kernels.random import Key

CELLS = 100_000

# The formulas of the sources, in microsiemens, written out once more.
LAWS = {
    "wan_nature_2022": (1.0, 40.0, lambda g: 1.536e-4 * g**3 - 1.167e-2 * g**2 + 0.2374 * g + 1.053),
    "milo_irps_2021": (50.0, 225.0, lambda g: 4.782 - 0.009107 * g),
}


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_programming_error_follows_the_published_law(name: str, share: float) -> None:
    low, high, law = LAWS[name]
    target = low + share * (high - low)
    cell = RRAMCrossbar.preset(name).cell
    drawn = cell.program(torch.full((CELLS,), target * 1e-6), Key.of(seed=1, purpose="test")).conductance.double().numpy() * 1e6
    sigma = law(target)
    expected = stats.truncnorm(-target / sigma, np.inf, loc=target, scale=sigma)
    assert stats.kstest(drawn, expected.cdf).pvalue > 1e-3
    assert drawn.mean() == pytest.approx(expected.mean(), abs=5 * expected.std() / np.sqrt(CELLS))
    assert drawn.std() == pytest.approx(expected.std(), rel=0.012)
    assert drawn.min() >= 0


def test_published_sigma_at_ten_and_twenty_microsiemens() -> None:
    cell = RRAMCrossbar.preset("wan_nature_2022").cell
    sigma = cell.program_sigma(torch.tensor([10e-6, 20e-6])) * 1e6
    assert torch.allclose(sigma, torch.tensor([2.41, 2.36]), atol=0.005)


def test_every_cell_draws_its_own_error() -> None:
    cell = RRAMCrossbar.preset("wan_nature_2022").cell
    # One level for 65,536 cells: a draw shared by the cells of a level would leave one distinct value.
    drawn = cell.program(torch.full((256, 256), 20e-6), Key.of(seed=0)).conductance
    assert drawn.unique().numel() >= 0.95 * drawn.numel()


def test_nothing_is_clipped_to_the_conductance_range() -> None:
    cell = RRAMCrossbar.preset("wan_nature_2022").cell
    drawn = cell.program(torch.full((CELLS,), 40e-6), Key.of(seed=0)).conductance
    assert float((drawn > 40e-6).float().mean()) == pytest.approx(0.5, abs=0.01)


def test_read_noise_is_a_share_of_the_conductance_or_absent() -> None:
    conductance = torch.tensor([1e-6, 2e-5])
    sigma = RRAMCrossbar.preset("wan_nature_2022").cell.read_sigma(conductance, 0.0)
    assert torch.allclose(sigma, 0.01 * conductance)
    assert RRAMCrossbar.preset("milo_irps_2021").cell.read_sigma(conductance, 0.0) is None


def test_a_cell_without_published_drift_keeps_its_conductance() -> None:
    cell = RRAMCrossbar.preset("milo_irps_2021").cell
    cells = ProgrammedCells(torch.tensor([1e-4]))
    assert torch.equal(cell.drift(cells, 1e9, Key.of(seed=0)), cells.conductance)


def test_a_polynomial_that_goes_negative_is_refused_with_the_place() -> None:
    with pytest.raises(DesignError, match=r"^[^\n]*sigma_coefficients_microsiemens[^\n]* at least 0 [^\n]*at 40 uS[^\n]*$"):
        PolynomialCell(g_min_siemens=1e-6, g_max_siemens=40e-6, sigma_coefficients_microsiemens=(1.0, -0.1))


def test_the_ideal_design_keeps_the_conductance_range_and_drops_every_error() -> None:
    design = RRAMCrossbar.preset("wan_nature_2022", mapping={"weight_bits": 4, "bits_per_cell": 1}).ideal()
    target = torch.rand(1000, generator=torch.Generator().manual_seed(0)) * 39e-6 + 1e-6
    assert torch.equal(design.cell.program(target, Key.of(seed=0)).conductance, target)
    assert design.dac is None
    assert design.adc is None
    assert design.mapping.weight_bits is None
    assert (design.cell.g_min_siemens, design.cell.g_max_siemens) == (1e-6, 40e-6)
