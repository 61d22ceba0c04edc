"""Conductance maps: what is written comes back, measured maps become the state of a chip, and bad ones leave it alone."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from scipy.io import loadmat, savemat
from torch import Tensor, nn

import simulator as sim
from devices import IdealCell, OffsetMapping, RRAMCrossbar, StuckCells, Temperature

FORMATS = ("maps", "maps.h5", "maps.mat")


def network() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 6, 3, groups=2), nn.Flatten(), nn.Linear(96, 5))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def inputs() -> Tensor:
    return torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(1))


def compiled(**changes: object) -> sim.Chip:
    design = RRAMCrossbar.preset("wan_nature_2022", rows=32, columns=16, dac=None, adc=None, cell={"read_noise_fraction": 0.0}, **changes)
    return sim.compile(network(), design, example_inputs=(inputs(),))


@pytest.mark.parametrize("name", FORMATS)
def test_maps_come_back_into_a_fresh_chip(tmp_path: Path, name: str) -> None:
    chip = compiled().program(seed=5, trial=2)
    written = sim.save_conductances(chip, tmp_path / name)
    assert all(path.is_file() for path in written)
    fresh = compiled()
    assert sim.load_conductances(fresh, tmp_path / name) == ["0", "2"]
    for one, other in zip(chip.tiles(), fresh.tiles(), strict=True):
        assert torch.equal(one.conductance, other.conductance)
    assert torch.equal(chip(inputs()), fresh(inputs()))
    assert [path for path in tmp_path.rglob("*.tmp")] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"mapping": OffsetMapping()},
        {"stuck": StuckCells(stuck_on_rate=0.1, stuck_off_rate=0.1)},
        {"temperature": Temperature(temperature_kelvin=340.0, reference_kelvin=300.0, fraction_per_kelvin=-0.002)},
        {"mapping": {"weight_bits": 5, "bits_per_cell": 2}},
    ],
    ids=["offset", "stuck", "temperature", "slices"],
)
def test_what_stands_is_what_is_written_whatever_the_design(tmp_path: Path, changes: dict[str, object]) -> None:
    chip = compiled(**changes).program(seed=1)
    sim.save_conductances(chip, tmp_path / "maps.h5")
    fresh = compiled(**changes)
    sim.load_conductances(fresh, tmp_path / "maps.h5")
    for one, other in zip(chip.tiles(), fresh.tiles(), strict=True):
        assert torch.allclose(one.conductance, other.conductance, rtol=3e-7)


def test_other_programs_can_read_the_files(tmp_path: Path) -> None:
    chip = compiled().program(seed=5)
    tiles = list(chip.tiles())
    sim.save_conductances(chip, tmp_path / "maps")
    index = json.loads((tmp_path / "maps" / "index.json").read_text())
    first = np.load(tmp_path / "maps" / "0.0000.npy")
    about = index["0.0000.npy"]
    assert first.shape == (len(about["rows"]), len(about["columns"])) == tuple(tiles[0].conductance.shape)
    assert about["unit"] == "S" and about["seed"] == 5
    sim.save_conductances(chip, tmp_path / "maps.mat")
    table = loadmat(tmp_path / "maps.mat", simplify_cells=True)["tiles"]
    assert [row["layer"] for row in table] == [tile.layer for tile in tiles]
    assert np.array_equal(table[1]["conductance_siemens"], tiles[1].conductance.numpy())
    sim.save_conductances(chip, tmp_path / "maps.h5", layer="2")
    with h5py.File(tmp_path / "maps.h5") as file:
        assert list(file) == ["2"]
        assert file["2/0000"].attrs["row_fields"].tolist() == ["input channel", "kernel position"]


def test_a_measured_map_gives_the_currents_of_its_conductances(tmp_path: Path) -> None:
    """Weights are what the map says, whatever the model's were: the output is the map's difference times the inputs."""
    model = nn.Linear(6, 2, bias=False)
    design = RRAMCrossbar(cell=IdealCell(g_min_siemens=1e-6, g_max_siemens=40e-6), rows=8, columns=8)
    x = torch.rand(4, 6, generator=torch.Generator().manual_seed(2))
    chip = sim.compile(model, design, example_inputs=(x,))
    measured = np.random.default_rng(0).uniform(1, 40, (8, 8))  # the whole array, in microsiemens
    np.save(tmp_path / "model.0000.npy", measured)
    sim.load_conductances(chip, tmp_path, unit="uS")
    pairs = measured[:6, :4]
    expected = x.double().numpy() @ (pairs[:, 0::2] - pairs[:, 1::2]) / 39 * float(model.weight.detach().abs().max())
    assert np.allclose(chip(x).detach().numpy(), expected, rtol=1e-5)


def test_drift_goes_on_from_the_map(tmp_path: Path) -> None:
    chip = sim.compile(nn.Linear(8, 4), RRAMCrossbar.preset("pcm_nandakumar_2019", cell={"flicker": None}), example_inputs=torch.rand(2, 8))
    np.save(tmp_path / "model.0000.npy", np.full((8, 8), 12.5))
    sim.load_conductances(chip, tmp_path, unit="uS")
    chip.age(1e5)
    left = chip.tile("model").conductance / 12.5e-6
    exponents = -torch.log(left) / np.log((1e5 + 20) / 20)
    assert 0.0 < float(exponents.min()) and float(exponents.max()) < 0.3
    assert float(exponents.std()) > 0.005


class TestRefusals:
    def refused(self, chip: sim.Chip, path: Path, message: str, **options: object) -> None:
        before = [tile.conductance for tile in chip.tiles()]
        with pytest.raises(ValueError, match=message) as error:
            sim.load_conductances(chip, path, **options)
        assert "\n" not in str(error.value)
        assert all(torch.equal(one, tile.conductance) for one, tile in zip(before, chip.tiles(), strict=True))

    def test_bad_files_are_refused_and_leave_the_chip_alone(self, tmp_path: Path) -> None:
        chip = compiled().program(seed=0)
        self.refused(chip, tmp_path / "nothing.h5", "must exist, but do not")
        self.refused(chip, tmp_path, "must hold tiles, but hold none")
        self.refused(chip, tmp_path, "`unit` must be a unit of conductance, but got 'V'", unit="V")
        (tmp_path / "text.h5").write_text("no")
        self.refused(chip, tmp_path / "text.h5", "must be an HDF5 file that can be read")
        (tmp_path / "text.mat").write_text("no")
        self.refused(chip, tmp_path / "text.mat", "must be a MATLAB file")
        savemat(tmp_path / "bare.mat", {"tiles": {"layer": "0"}})
        self.refused(chip, tmp_path / "bare.mat", "lacks index")
        np.save(tmp_path / "map.npy", np.ones(3))
        self.refused(chip, tmp_path, "must be named LAYER.INDEX.npy")
        with pytest.raises(ValueError, match="must be a folder, or end in"):
            sim.save_conductances(chip, tmp_path / "map.npy")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda values: values[:, :-1], "must be numbers of shape"),
            (lambda values: values.astype(str), "must be numbers of shape"),
            (lambda values: -values, "must be finite and at least 0, but has -"),
            (lambda values: values * np.nan, "must be finite and at least 0, but has nan"),
            (lambda values: values * 1e6, "give unit='uS'"),
        ],
        ids=["shape", "texts", "negative", "not a number", "microsiemens"],
    )
    def test_bad_values_are_refused(self, tmp_path: Path, change: object, message: str) -> None:
        chip = compiled().program(seed=0)
        sim.save_conductances(chip, tmp_path / "maps", layer="2")
        file = tmp_path / "maps" / "2.0001.npy"
        np.save(file, change(np.load(file)))
        self.refused(chip, tmp_path / "maps", message)

    def test_unknown_layers_and_missing_tiles_are_refused(self, tmp_path: Path) -> None:
        chip = compiled().program(seed=0)
        sim.save_conductances(chip, tmp_path / "maps", layer="2")
        (tmp_path / "maps" / "2.0002.npy").rename(tmp_path / "maps" / "2.0009.npy")
        self.refused(chip, tmp_path / "maps", "must have tiles 0 to .* of layer `2`, but differ in")
        (tmp_path / "maps" / "2.0009.npy").rename(tmp_path / "maps" / "head.0000.npy")
        self.refused(chip, tmp_path / "maps", "must be of layers on crossbars, 0, 2, but have 'head'")

    @pytest.mark.parametrize("name", FORMATS)
    def test_a_unit_that_a_file_contradicts_is_refused(self, tmp_path: Path, name: str) -> None:
        chip = compiled().program(seed=0)
        sim.save_conductances(chip, tmp_path / name)
        with pytest.raises(ValueError, match=r"tile 0 of layer `0` .* must be in the unit that its file says, but that is 'S'"):
            sim.load_conductances(chip, tmp_path / name, unit="uS")
        assert sim.load_conductances(chip, tmp_path / name, unit="S") == ["0", "2"]

    def test_a_folder_without_a_layer_of_its_index_is_refused(self, tmp_path: Path) -> None:
        chip = compiled().program(seed=0)
        written = sim.save_conductances(chip, tmp_path)
        for lost in [path for path in written if path.name.startswith("0.")]:
            lost.unlink()
        with pytest.raises(ValueError, match="must have 0.0000.npy, which index.json names"):
            sim.load_conductances(chip, tmp_path)
        (tmp_path / "index.json").write_text('{"x": 3')
        with pytest.raises(ValueError, match=r"index.json` must be as it was saved, but is not"):
            sim.load_conductances(chip, tmp_path)

    def test_faults_of_the_design_in_a_measured_map_are_refused(self, tmp_path: Path) -> None:
        sim.save_conductances(compiled().program(seed=0), tmp_path / "maps.h5")
        self.refused(compiled(stuck=StuckCells(stuck_on_rate=0.2)).program(seed=0), tmp_path / "maps.h5", "must not draw stuck cells")
