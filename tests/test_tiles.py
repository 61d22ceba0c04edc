"""Arrays taken from a chip: together they compute what the layer does, and their circuit has the same currents elsewhere."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import simulator as sim
from devices import (
    ADC,
    CurrentVoltage,
    IdealCell,
    OffsetMapping,
    PolynomialCell,
    RRAMCrossbar,
    SignMagnitudeMapping,
    StuckCells,
    Temperature,
    Wires,
)
from devices.rram.netlist import spice_netlist
from tests import naive

LOW, HIGH = 1e-6, 40e-6
CELL = PolynomialCell(g_min_siemens=LOW, g_max_siemens=HIGH, sigma_coefficients_microsiemens=(2.0,))
WIRES = Wires(row_ohm=120.0, column_ohm=90.0, source_ohm=40.0, sense_ohm=30.0)
needs_ngspice = pytest.mark.skipif(shutil.which("ngspice") is None, reason="ngspice is not installed")


def chip_of(layer: nn.Module, x: Tensor, **fields: object) -> sim.Chip:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return sim.compile(layer, RRAMCrossbar(**{"cell": CELL, "wires": WIRES, **fields}), example_inputs=(x,)).program(seed=3)


def solved_by_hand(netlist: str) -> list[float]:
    """Read a netlist of resistors and voltage sources and solve Kirchhoff's laws; currents into the sense nodes."""
    resistors, held, senses = [], {"0": np.zeros(1)}, []
    for line in netlist.splitlines():
        if match := re.fullmatch(r"R(\S+) (\S+) (\S+) (\S+)", line):
            resistors.append((match[2], match[3], 1 / float(match[4])))
        elif match := re.fullmatch(r"V(\S+) (\S+) 0 (\S+)", line):
            held[match[2]] = np.array([float(match[3])])
            if match[1].startswith("sense"):
                senses.append(match[2])
        else:
            assert line[0] in "*.spoq" and not line.startswith("B"), line
    _, currents = naive.kirchhoff(resistors, held)
    return [float(currents[name][0]) if name in currents else 0.0 for name in senses]


def solved_by_ngspice(netlist: str, folder: Path) -> list[float]:
    (folder / "tile.cir").write_text(netlist)
    done = subprocess.run(["ngspice", "-b", "tile.cir"], cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    found = {int(m[1]): float(m[2]) for m in re.finditer(r"i\(vsense(\d+)\) = (\S+)", done.stdout)}
    assert found, done.stdout + done.stderr
    return [found[j] for j in range(len(found))]


@pytest.fixture(scope="module")
def tile() -> sim.Tile:
    x = torch.randn(2, 20, generator=torch.Generator().manual_seed(1))
    return chip_of(nn.Linear(20, 6), x, rows=32, columns=16).tile("model")


class TestCircuit:
    def test_kirchhoff_on_the_netlist_gives_the_tiles_currents(self, tile: sim.Tile) -> None:
        volts = torch.linspace(-0.3, 0.5, 20, dtype=torch.float64)
        expected = tile.currents(volts)
        found = solved_by_hand(tile.to_spice(volts))
        assert len(found) == 12
        assert np.abs(np.array(found) - expected.numpy()).max() < 1e-9 * float(expected.abs().max())

    @settings(max_examples=40, deadline=None)
    @given(
        rows=st.integers(1, 5),
        columns=st.integers(1, 5),
        ohms=st.tuples(*[st.sampled_from([0.0, 7.0, 300.0])] * 4),
        seed=st.integers(0, 1000),
    )
    def test_wires_without_resistance_are_one_node(self, rows: int, columns: int, ohms: tuple[float, ...], seed: int) -> None:
        generator = np.random.default_rng(seed)
        cells = generator.uniform(LOW, HIGH, (rows, columns)) * (generator.random((rows, columns)) > 0.2)
        volts = generator.normal(size=rows)
        wires = Wires(row_ohm=ohms[0], column_ohm=ohms[1], source_ohm=ohms[2], sense_ohm=ohms[3])
        expected, _ = naive.crossbar_currents(cells, volts[None], *ohms)
        found = solved_by_hand(spice_netlist(torch.from_numpy(cells), volts.tolist(), wires=wires))
        assert np.abs(np.array(found) - expected[0]).max() <= 1e-9 * max(1e-12, np.abs(expected).max())

    @needs_ngspice
    def test_ngspice_solves_the_netlist_to_the_same_currents(self, tile: sim.Tile, tmp_path: Path) -> None:
        volts = torch.linspace(-0.3, 0.5, 20, dtype=torch.float64)
        expected = tile.currents(volts).numpy()
        found = np.array(solved_by_ngspice(tile.to_spice(volts), tmp_path))
        assert np.abs(found - expected).max() < 1e-6 * np.abs(expected).max()

    @needs_ngspice
    def test_ngspice_solves_nonlinear_cells_to_the_same_currents(self, tmp_path: Path) -> None:
        law = CurrentVoltage(sinh_per_volt=5.0, full_scale_volt=0.5)
        x = torch.randn(1, 12, generator=torch.Generator().manual_seed(1))
        nonlinear = chip_of(nn.Linear(12, 4), x, current_voltage=law, read_voltage_volt=0.5).tile("model")
        expected = nonlinear.currents().numpy()
        linear = (torch.full((12,), 0.5, dtype=torch.float64) @ WIRES.effective(nonlinear.conductance.double())).numpy()
        assert np.abs(expected - linear).min() > 0.2 * np.abs(linear).max()
        found = np.array(solved_by_ngspice(nonlinear.to_spice(), tmp_path))
        assert np.abs(found - expected).max() < 1e-6 * np.abs(expected).max()

    def test_one_cell_by_hand(self) -> None:
        wires = Wires(row_ohm=2.0, column_ohm=3.0, source_ohm=10.0, sense_ohm=20.0)
        (current,) = solved_by_hand(spice_netlist(torch.tensor([[1e-3]], dtype=torch.float64), [0.5], wires=wires))
        assert current == pytest.approx(0.5 / (1000 + 2 + 3 + 10 + 20), rel=1e-12)

    def test_refuses_what_is_no_array_or_no_input(self, tile: sim.Tile) -> None:
        for cells in (torch.ones(3), -torch.ones(2, 2), torch.full((2, 2), torch.nan)):
            with pytest.raises(ValueError, match="Argument `conductance` must be a matrix of finite numbers"):
                spice_netlist(cells, [1.0, 1.0])
        with pytest.raises(ValueError, match="`voltages` must hold 2 finite numbers, one for each row, but got 1"):
            spice_netlist(torch.ones(2, 2), [1.0])
        with pytest.raises(ValueError, match="must be given where the design has no `read_voltage_volt`"):
            tile.to_spice()
        with pytest.raises(ValueError, match="must hold 20 finite numbers"):
            tile.currents(torch.ones(3))


@pytest.mark.parametrize(
    ("layer", "shape", "fields"),
    [
        (nn.Linear(50, 9, bias=False), (4, 50), {"rows": 16, "columns": 8}),
        (nn.Linear(20, 5, bias=False), (3, 20), {"rows": 16, "columns": 12, "mapping": {"weight_bits": 5, "bits_per_cell": 2}}),
        (nn.Conv2d(6, 8, 3, groups=2, bias=False), (2, 6, 5, 5), {"rows": 16, "columns": 6}),
        (nn.Conv2d(2, 3, 5, bias=False), (1, 2, 6, 6), {"rows": 9, "columns": 4, "mapping": {"sides": "two", "scaling": "column"}}),
        (nn.Linear(20, 7, bias=False), (3, 20), {"rows": 16, "columns": 4, "mapping": OffsetMapping()}),
        (nn.Linear(20, 7, bias=False), (3, 20), {"rows": 16, "columns": 4, "mapping": SignMagnitudeMapping()}),
    ],
    ids=["linear", "slices", "groups", "kernel cut", "offset", "sign and magnitude"],
)
def test_the_tiles_together_compute_what_the_layer_does(layer: nn.Module, shape: tuple[int, ...], fields: dict[str, object]) -> None:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(1))
    low = 0.0 if isinstance(fields.get("mapping"), SignMagnitudeMapping) else LOW
    chip = chip_of(layer, x, cell=IdealCell(g_min_siemens=low, g_max_siemens=HIGH), **fields)
    mapping, weight = chip.layers["model"].design.mapping, layer.weight.detach()
    patches = x[:, :, None]
    if isinstance(layer, nn.Conv2d):
        patches = functional.unfold(x, layer.kernel_size).transpose(1, 2).reshape(-1, x.shape[1], weight[0, 0].numel())
    largest = weight.abs().flatten(1).amax(1) if mapping.scaling == "column" else weight.abs().amax().expand(len(weight))
    # A digit spans the range; an analog weight does so in a cell of its sign, in the sum of two sides, or from minus to plus in one cell.
    per_siemens = 1 / (HIGH - low)
    if isinstance(mapping, OffsetMapping):
        per_siemens *= 2
    if mapping.weight_bits is not None:
        per_siemens *= (2**mapping.bits_per_cell - 1) / (2 ** (mapping.weight_bits - 1) - 1)
    total = torch.zeros(len(patches), len(weight), dtype=torch.float64)
    for tile in chip.tiles():
        assert tile.conductance.shape == (len(tile.rows), len(tile.columns))
        assert len(tile.rows) <= fields["rows"] and len(tile.columns) <= fields["columns"]
        outputs = sorted({column.output for column in tile.columns if column.output is not None})
        for n, patch in enumerate(patches):
            volts = torch.tensor([float(patch[row.channel, row.position]) for row in tile.rows], dtype=torch.float64)
            for column, current in zip(tile.columns, tile.currents(volts), strict=True):
                code = column.sign * current * per_siemens * 2 ** (column.bit_slice * (mapping.bits_per_cell or 0))
                for output in outputs if column.output is None else [column.output]:
                    total[n, output] += code * largest[output]
    outputs = chip(x).detach().double()
    expected = outputs.flatten(2).transpose(1, 2).reshape(len(patches), -1) if isinstance(layer, nn.Conv2d) else outputs
    assert float((total - expected).abs().max()) < 1e-5 * float(expected.abs().max())


def test_a_tile_shows_the_cells_as_they_stand() -> None:
    x = torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
    hot = Temperature(temperature_kelvin=350.0, reference_kelvin=300.0, fraction_per_kelvin=-0.004)
    chip = chip_of(nn.Linear(8, 4), x, stuck=StuckCells(stuck_on_rate=0.2, on_siemens=9e-5), temperature=hot, adc=ADC(bits=6))
    conductance = chip.tile("model").conductance
    assert int(torch.isclose(conductance, torch.tensor(9e-5 * 0.8)).sum()) > 0
    assert bool(chip.tile("model").figure().axes[0].get_xlabel() == "column")
    aged = RRAMCrossbar.preset("pcm_nandakumar_2019")
    chip = sim.compile(nn.Linear(8, 4), aged, example_inputs=(x,)).program(seed=0)
    young = chip.tile("model").conductance
    chip.age(1e6)
    assert float((chip.tile("model").conductance / young).median()) == pytest.approx((1 + 1e6 / 20) ** -0.05, rel=0.15)


def test_wrong_names_and_numbers_are_refused() -> None:
    chip = chip_of(nn.Linear(8, 4), torch.randn(2, 8, generator=torch.Generator().manual_seed(1)))
    with pytest.raises(ValueError, match="Argument `layer` must be a layer on crossbars, model, but got 'head'"):
        chip.tile("head")
    with pytest.raises(ValueError, match="Argument `index` must be from 0 to 0"):
        chip.tile("model", 1)
