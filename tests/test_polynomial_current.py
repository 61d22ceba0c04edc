"""Cells whose current bends each in its own way: published coefficients, whole layers against cell-by-cell sums, and SPICE."""

import numpy as np
import pytest
import torch
from torch import nn

import simulator as sim
from devices import ADC, DAC, DesignError, IdealCell, OffsetMapping, PolynomialCurrent, RRAMCrossbar, Wires
from kernels.wires_nonlinear import solve_nonlinear
from tests.test_tiles import needs_ngspice, solved_by_ngspice

LAW = PolynomialCurrent(coefficients=((2e-6, 1e-7), (2e-5, 1e-6, -2e-7)), low_siemens=1e-6, high_siemens=35e-6, full_scale_volt=0.4)
FINE = ADC(bits=16, range_policy="per_batch")


def milo(siemens: np.ndarray, volts: np.ndarray) -> np.ndarray:
    """The published fit, written out: coefficients of the highest power first, conductances between 50 and 225 microsiemens."""
    logarithm = np.log10(siemens)
    second = np.polyval([0.0001388, 0.001541, 0.005711, 0.007063], logarithm)
    third = np.polyval([8.8710e-05, 6.7919e-04, 1.2968e-03], logarithm)
    return siemens * volts + second * volts**2 + third * volts**3


def test_the_preset_has_the_published_curves() -> None:
    law = RRAMCrossbar.preset("milo_irps_2021_nonlinear").current_voltage
    siemens, volts = np.meshgrid([50e-6, 62.5e-6, 93.9e-6, 110e-6, 225e-6], np.linspace(-0.5, 0.5, 11))
    current, slope = law.current(volts, siemens)
    assert np.allclose(current, milo(siemens, volts), rtol=1e-9, atol=1e-15)
    step = 1e-6
    assert np.allclose(slope, (milo(siemens, volts + step) - milo(siemens, volts - step)) / (2 * step), rtol=1e-5)
    # Less bent the more they conduct, and nearly straight at the upper end, as the paper shows.
    excess = np.abs(milo(siemens[0], np.array(-0.5)) / (siemens[0] * -0.5) - 1)
    assert (np.diff(excess) < 0).all() and excess[-1] < 0.05 < excess[0]


def test_cells_beyond_the_fit_bend_as_at_its_end_and_absent_ones_carry_nothing() -> None:
    inside, beyond = (LAW.bends(torch.tensor([value], dtype=torch.float64)) for value in (35e-6, 80e-6))
    assert all(torch.equal(one, other) for one, other in zip(inside, beyond, strict=True))
    assert all(float(bend) == 0.0 for bend in LAW.bends(torch.zeros(1)))


@pytest.mark.parametrize(
    ("layer", "shape", "fields"),
    [
        (nn.Linear(40, 6, bias=False), (5, 40), {"rows": 16}),
        (
            nn.Linear(12, 5, bias=False),
            (5, 12),
            {"mapping": {"weight_bits": 5, "bits_per_cell": 2}, "adc": FINE},
        ),
        (nn.Linear(12, 5, bias=False), (5, 12), {"mapping": {"subtraction": "digital"}, "adc": FINE}),
        (
            nn.Linear(12, 5, bias=False),
            (5, 12),
            {"mapping": OffsetMapping(reference="converted"), "adc": FINE},
        ),
        (nn.Linear(12, 5, bias=False), (5, 12), {"dac": DAC(bits=5, slice_bits=2)}),
    ],
    ids=["tiles", "weight slices", "digital subtraction", "reference column", "input slices"],
)
def test_a_layer_is_the_sum_of_the_currents_of_its_cells(layer: nn.Module, shape: tuple[int, ...], fields: dict[str, object]) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
    x = torch.rand(*shape, generator=generator) * 2 - 1
    cell = IdealCell(g_min_siemens=1e-6, g_max_siemens=40e-6)
    chip = sim.compile(layer, RRAMCrossbar(cell=cell, current_voltage=LAW, **fields), example_inputs=(x,), calibration=x).program(seed=0)
    design, largest = chip.layers["model"].design, float(x.abs().max())
    steps = 2 ** (design.mapping.weight_bits - 1) - 1 if design.mapping.weight_bits else 1
    top = 2**design.mapping.bits_per_cell - 1 if design.mapping.bits_per_cell else steps
    per_siemens = top / steps / 39e-6 * (2 if isinstance(design.mapping, OffsetMapping) else 1)
    codes = torch.round(x / largest * design.dac.limit).int() if design.dac else None
    drives = [(1.0, x / largest)]
    if codes is not None:  # two digits of two bits, each at full scale
        drives = [(4.0**s / 15 * 3, ((codes.abs() >> 2 * s) & 3) * codes.sign() / 3) for s in range(2)]
    total = torch.zeros(len(x), len(layer.weight), dtype=torch.float64)
    for tile in chip.tiles():
        outputs = sorted({column.output for column in tile.columns if column.output is not None})
        for n in range(len(x)):
            for weight, share in drives:
                volts = torch.tensor([float(share[n, row.channel]) for row in tile.rows], dtype=torch.float64) * LAW.full_scale_volt
                for column, current in zip(tile.columns, tile.currents(volts), strict=True):
                    radix = 2 ** (column.bit_slice * (design.mapping.bits_per_cell or 0))
                    code = column.sign * current / LAW.full_scale_volt * per_siemens * radix
                    for output in outputs if column.output is None else [column.output]:
                        total[n, output] += weight * code
    expected = total * float(layer.weight.detach().abs().max()) * largest
    found = chip(x).detach().double()
    straight = sim.compile(layer, RRAMCrossbar(cell=cell, **fields), example_inputs=(x,), calibration=x)(x).detach().double()
    assert float((found - expected).abs().max()) < 3e-4 * float(expected.abs().max())
    assert float((found - straight).abs().max()) > 0.01 * float(expected.abs().max())


def test_a_tile_is_solved_with_its_law_and_gradients_pass() -> None:
    x = torch.rand(4, 8, generator=torch.Generator().manual_seed(0))
    chip = sim.compile(nn.Linear(8, 3), RRAMCrossbar.preset("milo_irps_2021_nonlinear"), example_inputs=x, calibration=x)
    tile = chip.tile("model")
    volts = torch.linspace(-0.5, 0.5, 8, dtype=torch.float64)
    cells = tile.conductance.double().numpy().clip(50e-6, 225e-6)
    expected = (milo(cells, volts.numpy()[:, None]) + (tile.conductance.double().numpy() - cells) * volts.numpy()[:, None]).sum(0)
    assert np.allclose(tile.currents(volts).numpy(), expected, rtol=1e-8)
    chip.train()
    chip(x).square().sum().backward()
    assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in chip.parameters())


@needs_ngspice
def test_ngspice_solves_bent_cells_behind_wires_as_the_solver_does(tmp_path: object) -> None:
    from devices.rram.netlist import spice_netlist

    cells = torch.rand(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 30e-6 + 3e-6
    volts, wires = torch.linspace(-0.3, 0.4, 5, dtype=torch.float64), Wires(row_ohm=200.0, column_ohm=150.0, source_ohm=90.0)
    solved = solve_nonlinear(cells, volts[None], 200.0, 150.0, 90.0, 0.0, law=LAW.current).currents[0].numpy()
    found = np.array(solved_by_ngspice(spice_netlist(cells, volts, wires=wires, current_voltage=LAW), tmp_path))
    assert np.abs(found - solved).max() < 1e-6 * np.abs(solved).max()


def test_wrong_laws_are_refused() -> None:
    with pytest.raises(DesignError, match="`low_siemens` must be below `high_siemens`"):
        LAW.replace(low_siemens=1.0)
    with pytest.raises(DesignError, match="must give a current that rises with the voltage, but it falls at 1 uS"):
        LAW.replace(coefficients=((1e-5,),))
    with pytest.raises(DesignError, match="`coefficients` must have at least one number for each power"):
        LAW.replace(coefficients=((1.0,), ()))
    with pytest.raises(DesignError, match="`wires` must be None where cells bend each in its own way"):
        RRAMCrossbar.preset("milo_irps_2021_nonlinear", wires=Wires(row_ohm=1.0))
