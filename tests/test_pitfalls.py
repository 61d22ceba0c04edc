"""Mistakes that crossbar simulators are known to make, each tried on a compiled chip: every test here fails where it is made."""

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn

import simulator as sim
from devices import ComposedCell, IdealCell, PolynomialCell, RRAMCrossbar, StuckCells
from devices.rram import ConstantSpread
from simulator.lowering import CrossbarLayer

LOW, HIGH = 1e-6, 40e-6
IDEAL = IdealCell(g_min_siemens=LOW, g_max_siemens=HIGH)
DRIFTING = ("pcm_nandakumar_2019", "cmo_hfox_2025_acceptance_2", "wan_nature_2022_aihwkit")


def compiled(layer: nn.Module, x: torch.Tensor, design: RRAMCrossbar) -> tuple[sim.Chip, CrossbarLayer]:
    chip = sim.compile(layer, design, example_inputs=(x,)).program(seed=0)
    found = next(iter(chip.layers.values()))
    assert isinstance(found, CrossbarLayer)
    return chip, found


def constant(outputs: int, inputs: int) -> nn.Linear:
    """Return a layer whose weights are all the same but one, which sets the scale."""
    layer = nn.Linear(inputs, outputs, bias=False)
    with torch.no_grad():
        layer.weight.fill_(0.5)[0, 0] = 1.0
    return layer


@pytest.mark.parametrize(("on", "off"), [(0.05, 0.0), (0.0, 0.05), (0.02, 0.08)])
def test_a_fault_rate_is_not_applied_twice(on: float, off: float) -> None:
    """5 % asked for, 0.25 % injected: a rate multiplied by itself."""
    design = RRAMCrossbar(cell=IDEAL, stuck=StuckCells(stuck_on_rate=on, stuck_off_rate=off, on_siemens=50e-6, off_siemens=0.5e-6))
    _, layer = compiled(constant(128, 128), torch.ones(1, 128), design)
    cells = layer.conductance
    for rate, value in ((on, 50e-6), (off, 0.5e-6)):
        found = float((cells == value).float().mean())
        assert abs(found - rate) <= 4.5 * np.sqrt(rate * (1 - rate) / cells.numel())


@pytest.mark.parametrize("part", ["cycle_spread", "device_spread"])
def test_cells_of_one_level_do_not_share_a_draw(part: str) -> None:
    """65,536 cells of one level with one noise draw: their spread around the level would be zero."""
    cell = ComposedCell(g_min_siemens=LOW, g_max_siemens=HIGH, **{part: ConstantSpread(sigma_siemens=2e-6)})
    _, layer = compiled(constant(256, 256), torch.ones(1, 256), RRAMCrossbar(cell=cell))
    level = layer.conductance[0, 0].flatten()[1:].numpy()
    assert len(np.unique(level)) >= 0.95 * len(level)
    target = LOW + 0.5 * (HIGH - LOW)
    assert scipy.stats.kstest((level - target) / 2e-6, "norm").pvalue > 1e-3


@pytest.mark.parametrize(
    "change",
    [
        {"rowz": 64},
        {"cell": {"read_noise_fracton": 0.1}},
        {"adc": {"range_polcy": "maximum"}},
        {"mapping": {"weight_bit": 4}},
        {"wires": {"row_ohms": 1.0}},
    ],
)
def test_refuses_a_misspelt_field_wherever_it_stands(change: dict[str, object]) -> None:
    """An attribute that is quietly added leaves what was meant undone."""
    name = next(iter(change)) if not isinstance(next(iter(change.values())), dict) else next(iter(next(iter(change.values()))))
    with pytest.raises(ValueError, match=name):
        RRAMCrossbar.preset("wan_nature_2022", **change)
    with pytest.raises(ValueError, match=name):
        RRAMCrossbar.preset("wan_nature_2022").replace(**change)


@pytest.mark.parametrize("name", DRIFTING)
def test_drift_is_there_at_any_time(name: str) -> None:
    """A model that knows three times only: here any is allowed, and the mean moves little between times that lie close."""
    chip, layer = compiled(nn.Linear(16, 16, bias=False), torch.ones(1, 16), RRAMCrossbar.preset(name))
    begun = layer.conductance.clone()
    for seconds in (7.0, 12_345.6, 1e5, 3.3e7, 3.2e8):
        there, later = (chip.program(seed=0).age(t) and layer.conductance.clone() for t in (seconds, 1.0001 * seconds))
        assert bool(torch.isfinite(there).all()) and not torch.equal(there, begun)
        assert abs(float(later.mean() - there.mean())) < 0.02 * float(begun.mean())


def test_attention_is_not_left_digital_without_a_word() -> None:
    """Its four projections lie on arrays; what the host does has a row with a reason."""
    x = torch.randn(2, 5, 8)
    chip = sim.compile(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval(), RRAMCrossbar(cell=IDEAL), example_inputs=(x,))
    table = chip.coverage
    on_arrays = table[table["hardware"] == "RRAMCrossbar"]
    assert int(on_arrays["macs"].sum()) == 2 * 5 * (4 * 8 * 8 + 2 * 8 * 16)
    elsewhere = table[(table["hardware"] != "RRAMCrossbar") & (table["macs"].fillna(0) > 0)]
    assert len(elsewhere) and (elsewhere["reason"].str.len() > 0).all()


def test_a_module_under_two_names_is_hardware_under_both() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = self.second = nn.Linear(6, 6, bias=False)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.first(x), self.second(x)

    x, noisy = torch.randn(3, 6), PolynomialCell(g_min_siemens=LOW, g_max_siemens=HIGH, sigma_coefficients_microsiemens=(2.0,))
    model = Twice()
    one, other = sim.compile(model, RRAMCrossbar(cell=noisy), example_inputs=(x,)).program(seed=0)(x)
    # One set of cells, seen under both names.
    assert torch.equal(one, other)
    assert not torch.allclose(one, model(x)[0], rtol=1e-3)


def test_read_noise_has_the_law_of_drawing_every_cell() -> None:
    """Not only another output at each read: the distribution, against cells drawn one by one with numpy."""
    cell = PolynomialCell(g_min_siemens=LOW, g_max_siemens=HIGH, sigma_coefficients_microsiemens=(0.0,), read_noise_fraction=0.1)
    layer, x = nn.Linear(24, 2, bias=False), torch.randn(1, 24)
    chip, found = compiled(layer, x, RRAMCrossbar(cell=cell))
    reads = np.array([chip(x)[0].detach().numpy() for _ in range(500)])
    conductance = found.conductance[0].double().numpy()
    generator = np.random.default_rng(0)
    drawn = conductance * (1 + 0.1 * generator.standard_normal((500, *conductance.shape)))
    unit = float(layer.weight.detach().abs().max()) / (HIGH - LOW)
    expected = (drawn[:, 0] - drawn[:, 1]) @ x[0].double().numpy() * unit
    for output in range(2):
        assert scipy.stats.ks_2samp(reads[:, output], expected[:, output]).pvalue > 1e-3
        assert reads[:, output].std() == pytest.approx(expected[:, output].std(), rel=0.15)
