"""What wires, stuck cells, temperature and nonlinear cells do to a whole layer, against array-by-array twins."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import simulator as sim
from devices import ADC, DAC, PolynomialCell, RRAMCrossbar
from devices.rram import CurrentLaw, CurrentVoltage, PolynomialCurrent, StuckCells, Temperature, Wires
from kernels.random import Key
from kernels.wires import output_variance
from simulator.lowering import CrossbarLayer
from tests import naive
from tests.crossbars import HIGH, IDEAL, LOW, compiled
from tests.networks import drawn, generator

NOISY = PolynomialCell(g_min_siemens=LOW, g_max_siemens=HIGH, sigma_coefficients_microsiemens=(1.0,), read_noise_fraction=0.05)
# Large enough that every effect of a small array shows.
OHMS = (120.0, 90.0, 40.0, 30.0)
WIRES = Wires(row_ohm=OHMS[0], column_ohm=OHMS[1], source_ohm=OHMS[2], sense_ohm=OHMS[3])


def pair_of_columns(weight: np.ndarray, largest: float) -> np.ndarray:
    """Return the cells of one array, (rows, 2 x outputs), written out once more: plus and minus side by side."""
    cells = np.full((weight.shape[1], 2 * weight.shape[0]), LOW)
    for output, row in np.ndindex(*weight.shape):
        value = weight[output, row] / largest * (HIGH - LOW)
        cells[row, 2 * output + (value < 0)] += abs(value)
    return cells


def through_arrays(
    weight: np.ndarray, x: np.ndarray, rows: list[tuple[int, int]], outputs: list[tuple[int, int]], largest: float | None = None
) -> np.ndarray:
    """Solve Kirchhoff's laws array by array and add up what the arrays give."""
    top = np.abs(weight).max() if largest is None else largest
    total = np.zeros((len(x), len(weight)))
    for start, stop in rows:
        for first, last in outputs:
            cells = pair_of_columns(weight[first:last, start:stop], top)
            currents, _ = naive.crossbar_currents(cells, x[:, start:stop], *OHMS)
            total[:, first:last] += (currents[:, 0::2] - currents[:, 1::2]) * top / (HIGH - LOW)
    return total


def test_wires_of_one_array_follow_kirchhoff() -> None:
    layer, x = drawn(nn.Linear(7, 3, bias=False)), torch.randn(5, 7, generator=generator(1))
    chip, _ = compiled(layer, x, wires=WIRES)
    expected = through_arrays(layer.weight.detach().double().numpy(), x.double().numpy(), [(0, 7)], [(0, 3)])
    assert np.abs(chip(x).detach().numpy() - expected).max() < 2e-6 * np.abs(expected).max()
    # The wires matter here: without them the outputs are others.
    assert float((chip(x) - layer(x)).detach().abs().max() / layer(x).detach().abs().max()) > 0.02


def test_each_array_has_wires_of_its_own() -> None:
    layer, x = drawn(nn.Linear(7, 3, bias=False)), torch.randn(5, 7, generator=generator(1))
    chip, found = compiled(layer, x, wires=WIRES, rows=4, columns=4, adc=ADC(bits=16))
    assert [tile.channels for tile in found.tiles] == [(0, 4), (4, 7)]
    expected = through_arrays(layer.weight.detach().double().numpy(), x.double().numpy(), [(0, 4), (4, 7)], [(0, 2), (2, 3)])
    step = found.output_ranges[0] / 32767 * float(layer.weight.detach().abs().max())
    assert np.abs(chip(x).detach().numpy() - expected).max() < 1.01 * step + 2e-6 * np.abs(expected).max()


@pytest.mark.parametrize("groups", [1, 2])
def test_wires_of_a_convolution_are_those_of_its_matrix(groups: int) -> None:
    layer = drawn(nn.Conv2d(4, 6, (2, 3), padding=1, stride=2, groups=groups, bias=False))
    x = torch.randn(2, 4, 6, 5, generator=generator(1))
    chip, _ = compiled(layer, x, wires=WIRES)
    patches = functional.unfold(x, (2, 3), padding=1, stride=2).transpose(1, 2).double().numpy()
    weight = layer.weight.detach().flatten(1).double().numpy()
    expected = []
    for group in range(groups):
        rows, outputs = 4 // groups * 6, 6 // groups
        part, inputs = weight[group * outputs : (group + 1) * outputs], patches[..., group * rows : (group + 1) * rows].reshape(-1, rows)
        # The range belongs to the layer: its largest weight, not the group's.
        solved = through_arrays(part, inputs, [(0, rows)], [(0, outputs)], np.abs(weight).max())
        expected.append(solved.reshape(2, -1, outputs))
    together = np.concatenate(expected, axis=2).transpose(0, 2, 1).reshape(chip(x).shape)
    assert np.abs(chip(x).detach().numpy() - together).max() < 3e-6 * np.abs(together).max()


@pytest.mark.parametrize("slices", [1, 3])
def test_read_noise_through_wires_has_the_exact_variance_within_the_stated_error(slices: int) -> None:
    wires = Wires(row_ohm=1.86, column_ohm=1.86)
    mapping = {} if slices == 1 else {"weight_bits": 7, "bits_per_cell": 2}
    layer, x = drawn(nn.Linear(96, 6, bias=False)), torch.rand(96, generator=generator(1))
    chip, found = compiled(layer, x, cell=NOISY, wires=wires, mapping=mapping)
    reads = chip(x.expand(4000, 96).contiguous()).detach().double()
    cells = found.cells.conductance.double()
    matrix = cells.permute(3, 2, 0, 1).reshape(96, -1)
    exact = output_variance(matrix, 0.05 * matrix, x[None].double(), 1.86, 1.86).reshape(6, slices, 2).sum(-1)
    top = float(layer.weight.detach().abs().max())
    per_siemens = top / 39e-6 if slices == 1 else top / 63 * 3 / 39e-6
    expected = (exact * torch.tensor([16.0**s for s in range(slices)])).sum(1).sqrt() * per_siemens
    assert torch.allclose(reads.std(0), expected, rtol=0.05)


def test_a_convolutions_noise_through_wires_is_that_of_its_patches() -> None:
    wires = Wires(row_ohm=30.0, column_ohm=30.0)
    layer = drawn(nn.Conv2d(2, 3, 2, padding=1, bias=False))
    x = torch.randn(1, 2, 3, 3, generator=generator(1))
    _, found = compiled(layer, x, cell=NOISY, wires=wires, rows=5, adc=ADC(bits=12))
    found(x)
    patches = functional.unfold(x, 2, padding=1)[0].t()
    arrays = found._instance().arrays
    for tile, terms in zip(arrays.tiles, arrays.terms[0], strict=True):
        part = terms.variance(found.operator, found.operator.tile_inputs(x, tile))
        rows = range(tile.channels[0] * 4 + tile.kernel[0], (tile.channels[1] - 1) * 4 + tile.kernel[1])
        inputs = patches[:, rows]
        square, cross = (w.flatten(1)[:, [r - tile.channels[0] * 4 for r in rows]] for w in (terms.square, terms.cross))
        mean = inputs.mean(1, keepdim=True)
        expected = inputs**2 @ square.t() + mean * (inputs @ cross.t()) + mean**2 * terms.constant
        assert torch.allclose(part[0].flatten(1).t(), expected.clamp(min=0), rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv1d(4, 6, 3, padding=1, groups=2, bias=False), (2, 4, 9)),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2, bias=False), (2, 4, 7, 5)),
        (nn.Conv3d(2, 3, 2, bias=False), (2, 2, 3, 4, 3)),
    ],
)
def test_every_convolutions_noise_through_wires_has_the_mean_of_its_own_group(layer: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.rand(shape, generator=generator(1))
    _, found = compiled(drawn(layer), x, cell=NOISY, wires=Wires(row_ohm=30.0, column_ohm=30.0))
    found(x)
    (terms,) = found._instance().arrays.terms[0]
    operator, x = found.operator, x.double()
    mean = operator(x, torch.ones_like(layer.weight).double()) / layer.weight[0].numel()
    constant = terms.constant.double().reshape(-1, *[1] * operator.dimensions)
    expected = operator(x**2, terms.square.double()) + mean * operator(x, terms.cross.double()) + mean**2 * constant
    assert torch.allclose(terms.variance(operator, x.float()).double(), expected.clamp(min=0), rtol=1e-4, atol=1e-12)


def test_stuck_cells_come_at_the_rates_asked_and_do_not_drift() -> None:
    layer = drawn(nn.Linear(400, 250, bias=False))
    x = torch.zeros(1, 400)
    _, found = compiled(layer, x, stuck=StuckCells(stuck_on_rate=0.03, stuck_off_rate=0.08))
    stand = found._stand(found.cells, 0.0, sim_key(found))
    targets = found._map().targets_siemens
    # Targets of exactly g_min or g_max are rare but for the resting cells of each pair: count what moved to an end.
    resting = targets == np.float32(LOW)
    on = ((stand == np.float32(HIGH)) & (targets != np.float32(HIGH))).double().mean()
    off = ((stand == np.float32(LOW)) & ~resting).double().sum() / (~resting).double().sum()
    assert float(on) == pytest.approx(0.03, abs=5 * np.sqrt(0.03 * 0.97 / targets.numel()))
    assert float(off) == pytest.approx(0.08, abs=5 * np.sqrt(0.08 * 0.92 / (targets.numel() / 2)))
    assert torch.equal(stand, found._stand(found.cells, 1e6, sim_key(found)))


def sim_key(layer: CrossbarLayer) -> Key:
    return Key.of(seed=0, layer=layer.name, purpose="drift")


def test_temperature_scales_every_conductance() -> None:
    layer, x = drawn(nn.Linear(9, 4, bias=False)), torch.randn(3, 9, generator=generator(1))
    warm = Temperature(temperature_kelvin=350.0, reference_kelvin=300.0, fraction_per_kelvin=-2e-3)
    chip, _ = compiled(layer, x, temperature=warm)
    assert torch.allclose(chip(x), 0.9 * layer(x), atol=1e-5)


def test_a_nonlinear_cell_bends_the_input_before_the_sum() -> None:
    layer, x = drawn(nn.Linear(9, 4, bias=False)), torch.randn(3, 9, generator=generator(1)).clamp(-2, 2)
    law = CurrentVoltage(sinh_per_volt=4.0, full_scale_volt=0.5)
    chip, _ = compiled(layer, x, current_voltage=law)
    top = float(x.abs().max())
    expected = functional.linear(torch.sinh(2.0 * x / top) / 2.0 * top, layer.weight)
    assert torch.allclose(chip(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("slice_bits", [None, 1])
@pytest.mark.parametrize(
    "law",
    [
        CurrentVoltage(sinh_per_volt=8.0, full_scale_volt=0.5),
        PolynomialCurrent(coefficients=((0.0,), (4e-4,)), low_siemens=LOW, high_siemens=HIGH, full_scale_volt=0.5),
    ],
)
def test_the_adc_is_calibrated_on_the_currents_of_bent_cells(law: CurrentLaw, slice_bits: int | None) -> None:
    """Cells that carry up to several times the linear current: a range of linear currents would clip most of it."""
    layer, x = drawn(nn.Linear(9, 4, bias=False)), torch.randn(300, 9, generator=generator(1)).clamp(-2, 2)
    fields = {"cell": IDEAL, "current_voltage": law, "dac": DAC(bits=8, slice_bits=slice_bits)}
    chips = [
        sim.compile(layer, RRAMCrossbar(adc=adc, **fields), example_inputs=(x,), calibration=[x]).program(seed=0)
        for adc in (ADC(bits=12, range_policy="maximum"), None)
    ]
    digitized, exact = (chip(x).detach() for chip in chips)
    assert float((digitized - exact).abs().max() / exact.abs().max()) < 2e-3
    full = float(chips[0].ranges.set_index("converter").loc["ADC", "full_scale"])
    largest = float(exact.abs().max() / layer.weight.detach().abs().max())  # in inputs times weight codes
    assert slice_bits is not None or full == pytest.approx(largest, rel=1e-3)


def test_ideal_turns_every_effect_off() -> None:
    layer, x = drawn(nn.Linear(9, 4)), torch.randn(3, 9, generator=generator(1))
    design = RRAMCrossbar(
        cell=NOISY,
        wires=WIRES,
        stuck=StuckCells(stuck_on_rate=0.2),
        temperature=Temperature(temperature_kelvin=350.0, reference_kelvin=300.0, fraction_per_kelvin=-2e-3),
        current_voltage=CurrentVoltage(sinh_per_volt=4.0, full_scale_volt=0.5),
    )
    assert torch.allclose(sim.compile(layer, design.ideal(), example_inputs=(x,))(x), layer(x), atol=1e-6)
