"""Published cells: what is programmed, drifts and is read has the law of the source, formula by formula."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats

from devices import DesignError, RRAMCrossbar
from devices.rram import ConstantSpread
from kernels.random import Key

CELLS = 100_000
DAY = 86_400.0
KEY = Key.of(seed=3, purpose="test")

# The formulas of the sources, in microsiemens, written out once more.
PROGRAMMING: dict[str, Callable[[float], float]] = {
    "wan_nature_2022_aihwkit": lambda g: np.polyval([-16.815, 45.393, -43.853, 16.030, 0.348], g / 40),
    "cmo_hfox_2025_acceptance_0p2": lambda g: 0.00081 + 0.00107 * g,
    "cmo_hfox_2025_acceptance_2": lambda g: 0.0112 + 0.0113 * g,
    "pcm_nandakumar_2019": lambda g: 0.263 + 1.965 * (g / 25) - 1.173 * (g / 25) ** 2,
    "sonos_iedm_2022": lambda g: 19.9 * (1 - math.exp(-200 * g / 176)) / 200,
}
RANGES = {
    "wan_nature_2022_aihwkit": (1, 40),
    "cmo_hfox_2025_acceptance_0p2": (9, 90),
    "cmo_hfox_2025_acceptance_2": (9, 90),
    "pcm_nandakumar_2019": (0, 25),
    "sonos_iedm_2022": (0, 16),
    "rram_22nm_neurosim": (1000 / 102, 1000 / 6),
}


def programmed(name: str, microsiemens: float, key: Key = KEY):
    cell = RRAMCrossbar.preset(name).cell
    return cell, cell.program(torch.full((CELLS,), microsiemens * 1e-6), key)


def in_microsiemens(conductance: torch.Tensor) -> np.ndarray:
    return conductance.double().numpy() * 1e6


@pytest.mark.parametrize("name", RANGES)
def test_the_range_is_the_published_one(name: str) -> None:
    cell = RRAMCrossbar.preset(name).cell
    assert (cell.g_min_siemens * 1e6, cell.g_max_siemens * 1e6) == pytest.approx(RANGES[name])


@pytest.mark.parametrize("name", PROGRAMMING)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 1.0])
def test_programming_error_follows_the_published_law(name: str, share: float) -> None:
    low, high = RANGES[name]
    target = low + share * (high - low)
    _, cells = programmed(name, target)
    drawn, sigma = in_microsiemens(cells.conductance), PROGRAMMING[name](target)
    expected = stats.truncnorm(-target / sigma, np.inf, loc=target, scale=sigma)
    # The published coefficients are rounded to three digits: the deviation is that of sigma, in percent.
    assert stats.kstest(drawn, expected.cdf).statistic < 0.009
    assert drawn.std() == pytest.approx(expected.std(), rel=0.015)
    assert drawn.min() >= 0
    # Where the law is narrow, float32 itself has too few numbers for all cells: as many as independent draws have.
    independent = expected.rvs(CELLS, random_state=np.random.default_rng(0)) * 1e-6
    assert len(np.unique(drawn)) >= 0.98 * len(np.unique(independent.astype(np.float32)))
    assert len(np.unique(drawn)) >= 0.95 * CELLS or sigma < target / 40


def test_wan_at_ten_and_twenty_microsiemens_in_both_digitizations() -> None:
    target = torch.tensor([1e-6, 10e-6, 20e-6])
    aihwkit = RRAMCrossbar.preset("wan_nature_2022_aihwkit").cell.cycle_spread.sigma(target) * 1e6
    crosssim = RRAMCrossbar.preset("wan_nature_2022").cell.program_sigma(target) * 1e6
    assert aihwkit[1:].tolist() == pytest.approx([2.26, 2.02], abs=0.005)
    assert (1 - aihwkit / crosssim)[[0, 2]].tolist() == pytest.approx([0.44, 0.15], abs=0.01)


@pytest.mark.parametrize(("target", "sigma"), [(10.0, 3.72), (20.0, 3.91)])
def test_wan_after_one_day(target: float, sigma: float) -> None:
    cell, cells = programmed("wan_nature_2022_aihwkit", target)
    drifted = in_microsiemens(cell.drift(cells, DAY, KEY))
    expected = stats.truncnorm(-target / sigma, np.inf, loc=target, scale=sigma)
    assert stats.kstest(drifted, expected.cdf).statistic < 0.009
    before = in_microsiemens(cells.conductance)
    # Relaxation adds to the error of programming: what was high stays higher, in part.
    assert np.corrcoef(before, drifted)[0, 1] == pytest.approx(before.std() / drifted.std(), abs=0.015)
    assert torch.equal(cell.drift(cells, 3.0e8, KEY), cell.drift(cells, 2 * DAY, KEY))


@pytest.mark.parametrize("name", ["cmo_hfox_2025_acceptance_0p2", "cmo_hfox_2025_acceptance_2"])
@pytest.mark.parametrize("seconds", [1.0, 3600.0, 3.2e8])
def test_cmo_relaxation_and_read_noise(name: str, seconds: float) -> None:
    cell, cells = programmed(name, 50.0)
    shift = in_microsiemens(cell.drift(cells, seconds, KEY)) - in_microsiemens(cells.conductance)
    mean = -0.089 * math.log(seconds)
    read = 0.0277 * math.log10(50 + mean) * math.sqrt(math.log((seconds + 1e-6) / 2e-6))
    sigma = math.hypot(0.042 * math.log(seconds) + 0.412, read)
    assert stats.kstest((shift - mean) / sigma, "norm").statistic < 0.008
    assert shift.mean() == pytest.approx(mean, abs=5 * sigma / math.sqrt(CELLS) + 0.002)
    assert shift.std() == pytest.approx(sigma, rel=0.01)
    relaxed = in_microsiemens(cell.retention.conductance(cells, seconds)) - in_microsiemens(cells.conductance)
    later = in_microsiemens(cell.retention.conductance(cells, 10 * seconds)) - in_microsiemens(cells.conductance)
    assert np.corrcoef(relaxed, later)[0, 1] > 0.9999


def test_cmo_stands_as_programmed_until_its_law_begins() -> None:
    cell, cells = programmed("cmo_hfox_2025_acceptance_2", 50.0)
    assert torch.equal(cell.drift(cells, 0.0, KEY), cells.conductance)
    assert torch.equal(cell.retention.conductance(cells, 0.99), cells.conductance)


@pytest.mark.parametrize("target", [0.05, 1.0, 5.0, 12.5, 25.0])
def test_pcm_exponents_have_the_published_moments(target: float) -> None:
    _, cells = programmed("pcm_nandakumar_2019", target)
    r = target / 25
    mean = min(max(-0.0155 * math.log(r) + 0.0244, 0.049), 0.1)
    sigma = min(max(-0.0125 * math.log(r) - 0.0059, 0.008), 0.045)
    exponents = cells.memory["drift_exponent"].double().numpy()
    assert stats.kstest(exponents, stats.norm(mean, sigma).cdf).pvalue > 1e-3
    assert exponents.mean() == pytest.approx(mean, abs=5 * sigma / math.sqrt(CELLS))
    assert exponents.std() == pytest.approx(sigma, rel=0.012)


def test_pcm_drift_has_the_closed_form_cell_by_cell() -> None:
    cell, cells = programmed("pcm_nandakumar_2019", 12.5)
    quiet = cell.replace(flicker=None)
    start = cells.conductance.double()
    for seconds in (1e-3, 20.0, DAY, 3.2e8):
        expected = start * ((seconds + 20.0) / 20.0) ** -cells.memory["drift_exponent"].double()
        assert torch.allclose(quiet.drift(cells, seconds, KEY).double(), expected, rtol=1e-6, atol=0)
    assert torch.equal(cell.drift(cells, 0.0, KEY), cells.conductance)


def test_pcm_ages_by_any_steps_to_the_same_bits_and_keeps_its_spread() -> None:
    cell, cells = programmed("pcm_nandakumar_2019", 12.5)
    year = 365 * DAY
    age = 0.0
    for _ in range(20):
        age += year / 20
        stepped = cell.drift(cells, age, KEY)
    assert torch.equal(stepped, cell.drift(cells, age, KEY))
    quiet = cell.replace(flicker=None)
    ratio = quiet.drift(cells, age, KEY).double() / cells.conductance.double()
    spread = float(torch.log(ratio).std()) / math.log1p(age / 20)
    assert spread == pytest.approx(0.008, rel=0.012)


@pytest.mark.parametrize("target", [2.5, 12.5, 25.0])
@pytest.mark.parametrize("seconds", [1.0, DAY])
def test_pcm_flicker_noise_has_the_published_variance(target: float, seconds: float) -> None:
    cell, cells = programmed("pcm_nandakumar_2019", target)
    quiet = cell.replace(flicker=None).drift(cells, seconds, KEY).double()
    start = cells.conductance.double() * 1e6 / 25
    share = (0.0088 / start**0.65).clamp(max=0.2) * math.sqrt(math.log((seconds + 250e-9) / 500e-9))
    reduced = ((cell.drift(cells, seconds, KEY).double() - quiet) / (quiet * share)).numpy()[(share < 0.25).numpy()]
    assert len(reduced) > 0.9 * CELLS
    assert stats.kstest(reduced, "norm").pvalue > 1e-3
    assert reduced.std() == pytest.approx(1, rel=0.012)


def test_pcm_noise_never_makes_a_conductance_negative() -> None:
    cell, cells = programmed("pcm_nandakumar_2019", 0.0)
    noisy = cell.drift(cells, 3.2e8, KEY)
    assert float(noisy.min()) >= 0
    assert noisy.unique().numel() >= 0.95 * CELLS


@pytest.mark.parametrize(("name", "law"), [
    ("sonos_iedm_2022", lambda g: 12.6 * (1 - math.exp(-200 * g / 215)) / 200),
    ("wan_nature_2022_aihwkit", lambda g: 0.01 * g),
    ("taox_40nm_random", lambda g: 0.02 * g),
])  # fmt: skip
def test_white_read_noise(name: str, law: Callable[[float], float]) -> None:
    sigma = RRAMCrossbar.preset(name).cell.read_sigma(torch.tensor([1e-6, 1e-5]), 5.0) * 1e6
    assert sigma.tolist() == pytest.approx([law(1.0), law(10.0)], rel=5e-3)


@pytest.mark.parametrize("name", ["pcm_nandakumar_2019", "cmo_hfox_2025_acceptance_2"])
def test_noise_that_persists_is_not_white_as_well(name: str) -> None:
    assert RRAMCrossbar.preset(name).cell.read_sigma(torch.tensor([1e-5]), 5.0) is None


def test_taox_conductances_are_random_whatever_the_target() -> None:
    cell = RRAMCrossbar.preset("taox_40nm_random").cell
    first, second = (cell.program(torch.full((CELLS,), target), KEY).conductance for target in (0.0, 5e-5))
    assert torch.equal(first, second)
    drawn = in_microsiemens(first)
    assert stats.kstest(drawn, stats.norm(34.06, 5.32).cdf).pvalue > 1e-3
    assert drawn.mean() == pytest.approx(34.06, abs=5 * 5.32 / math.sqrt(CELLS))
    assert drawn.std() == pytest.approx(5.32, rel=0.012)
    assert len(np.unique(drawn)) >= 0.95 * CELLS


def test_differences_of_half_zeroed_taox_cells_have_the_published_moments() -> None:
    cell = RRAMCrossbar.preset("taox_40nm_random").cell
    sides = cell.program(torch.zeros(2, CELLS), KEY).conductance.double() * 1e6
    kept = torch.rand(2, CELLS, generator=torch.Generator().manual_seed(0)) < 0.5
    weight = sides[0] * kept[0] - sides[1] * kept[1]
    assert float(weight.std()) == pytest.approx(24.66, rel=0.01)
    assert float((weight == 0).double().mean()) == pytest.approx(0.25, abs=0.007)
    assert float(weight[kept[0] & kept[1]].std()) == pytest.approx(7.53, rel=0.02)


def test_neurosim_says_what_must_be_given() -> None:
    design = RRAMCrossbar.preset("rram_22nm_neurosim")
    assert (design.read_voltage_volt, design.read_pulse_s) == (0.55, 10e-9)
    with pytest.raises(DesignError, match=r"^[^\n]*must be given before use[^\n]*from_measurements[^\n]*$"):
        design.cell.program(torch.full((2,), 5e-5), KEY)
    given = design.replace(cell={"cycle_spread": ConstantSpread(sigma_siemens="2 uS")}).cell
    assert float(given.program(torch.full((CELLS,), 5e-5), KEY).conductance.std()) == pytest.approx(2e-6, rel=0.012)
