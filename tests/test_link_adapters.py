"""What adapters answer wrongly and clients ask wrongly: said in one line that names it, and nothing is taken for numbers."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import simulator as sim
from devices import BareTiles, Hardware, IdealCell, PolynomialCell, RemoteChip, RRAMCrossbar
from simulator.link.addresses import LinkError
from simulator.link.client import Connection, disconnect
from simulator.link.device import Description, Device, Floats
from simulator.link.protocol import OpenLayer
from simulator.link.server import Server
from simulator.link.wire import Wire
from tests.link_devices import CountingCells, chip_at

PLACEMENT = {"hardware": "Bench", "macs_per_vector": 24, "arrays": 1, "utilization": 1.0}
VOLTS = np.eye(4, dtype=np.float32)
X = torch.linspace(-1, 1, 48).reshape(6, 8)


class Bench(Device):
    """An instrument that holds layers, and answers what a test says."""

    def __init__(self, outputs: Any = None, placement: Any = PLACEMENT) -> None:
        self.outputs, self.placement = outputs, placement

    def describe(self) -> Description:
        return Description(name="bench", identity="3", ranges_given=True)

    def open_layer(self, request: OpenLayer, weight: Floats) -> dict[str, Any]:
        return self.placement  # type: ignore[no-any-return]

    def program_layer(self, layer: str, seed: int, trial: int) -> str:
        return "programmed"

    def read_layer(self, layer: str, state: str, read: int, inputs: Floats) -> Floats:
        return self.outputs  # type: ignore[no-any-return]


class AnsweringCells(CountingCells):
    """Cells whose currents are what a test says."""

    def __init__(self, amperes: Any) -> None:
        super().__init__()
        self.amperes = amperes

    def read_cells(self, tile: int, volts: Floats, read: int) -> Floats:
        if isinstance(self.amperes, Exception):
            raise self.amperes
        return self.amperes  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("outputs", "said"),
    [
        (np.full((6, 3), np.nan, np.float32), "must answer `read_layer` with finite numbers, but some are not"),
        (np.ones((6, 3), np.int32), "must answer `read_layer` with float32, but did with int32"),
        (None, "must answer `read_layer` with float32, but did with object"),
        (np.ones((6, 4), np.float32), r"must answer with shape \(6, 3\), but did with \(6, 4\)"),
    ],
)
def test_outputs_that_are_no_outputs_are_refused(outputs: Any, said: str) -> None:
    with Server(Bench(outputs), "tcp://127.0.0.1:0") as server:
        remote = chip_at(server.address)
        chip = sim.compile(nn.Linear(8, 3), remote, example_inputs=X).program(seed=0)
        with pytest.raises(LinkError, match=said) as refusal:
            chip(X)
        assert "\n" not in str(refusal.value)
        disconnect(remote)


def test_double_precision_of_an_adapter_is_rounded() -> None:
    outputs = np.linspace(0, 1, 18).reshape(6, 3)
    with Server(Bench(outputs), "tcp://127.0.0.1:0") as server:
        remote = chip_at(server.address)
        chip = sim.compile(nn.Linear(8, 3, bias=False), remote, example_inputs=X).program(seed=0)
        assert np.array_equal(chip(X).detach().numpy(), outputs.astype(np.float32))
        chip.age(0.0)  # asks no time to pass of an instrument, which cannot let it
        disconnect(remote)


def test_a_place_that_is_none_is_refused() -> None:
    with Server(Bench(placement={}), "tcp://127.0.0.1:0") as server:
        remote = chip_at(server.address)
        with pytest.raises(LinkError, match="the device `bench` must answer `open_layer` with arrays, hardware"):
            sim.compile(nn.Linear(8, 3), remote, example_inputs=X)
        disconnect(remote)


@pytest.mark.parametrize(
    ("amperes", "said"),
    [
        (np.full((4, 3), np.inf), "finite numbers"),
        (np.ones((4, 2)), r"with shape \(4, 3\), but did with \(4, 2\)"),
        (RuntimeError("cable\nfell\nout"), "RuntimeError: cable fell out"),
    ],
)
def test_currents_that_are_none_are_refused(amperes: Any, said: str) -> None:
    with Server(AnsweringCells(amperes), "tcp://127.0.0.1:0") as server:
        connection = Connection(chip_at(server.address))
        with pytest.raises(LinkError, match=said):
            connection.request("read_cells", {"tile": 0, "read": 1}, {"volts": VOLTS})
        connection.close()


@pytest.mark.parametrize("target", [0.0, 5e-5, 1.0])
def test_targets_that_no_cell_can_take_are_refused(target: float) -> None:
    cell = IdealCell(g_min_siemens=1e-6, g_max_siemens=4e-5)
    with sim.serve(BareTiles(cell=cell, rows=2, columns=2), "tcp://127.0.0.1:0", block=False) as server:
        connection = Connection(chip_at(server.address))
        body = {"tile": 0, "seed": 0, "trial": 0}
        with pytest.raises(LinkError, match=r"must be from 1e-06 to 4e-05 S"):
            connection.request("program_cells", body, {"targets": np.full((2, 2), target, np.float32)})
        connection.request("program_cells", body, {"targets": np.array([[1e-6, 4e-5], [2e-5, 4e-5]], np.float32)})
        connection.close()


LINEAR = {"dimensions": 0}


@pytest.mark.parametrize(
    ("operator", "shape", "said"),
    [
        ({}, (3, 8), "`operator.dimensions`: Field required"),
        ({**LINEAR, "groups": 0}, (3, 8), "`operator.groups`"),
        ({**LINEAR, "stride": None}, (3, 8), "`operator.stride`"),
        ({"dimensions": 2, "stride": [1], "padding": [0, 0], "dilation": [1, 1]}, (3, 8, 1, 1), "must have 2 numbers each"),
        (LINEAR, (0, 3), "must be finite float32 of 2 axes"),
        (LINEAR, (3, 8, 1), "must be finite float32 of 2 axes"),
        ({"dimensions": 1, "stride": [1], "padding": [0], "dilation": [1], "groups": 2}, (3, 8, 1), "in 2 equal groups"),
    ],
)
def test_a_layer_that_is_none_is_refused_and_not_open(operator: dict[str, Any], shape: tuple[int, ...], said: str) -> None:
    with sim.serve(RRAMCrossbar.preset("wan_nature_2022"), "tcp://127.0.0.1:0", block=False) as server:
        connection = Connection(chip_at(server.address))
        body = {"layer": "mine", "name": "head", "seed": 0, "kind": "Linear", "note": ""}
        with pytest.raises(LinkError, match=said):
            connection.request("open_layer", {**body, "operator": operator}, {"weight": np.ones(shape, np.float32)})
        assert connection.request("status").body["device"]["open_layers"] == 0
        connection.request("open_layer", {**body, "operator": LINEAR}, {"weight": np.ones((3, 8), np.float32)})
        connection.close()


def test_a_number_that_another_request_had_is_refused() -> None:
    with Server(CountingCells(), "tcp://127.0.0.1:0") as server:
        wire = Wire(chip_at(server.address))
        wire.exchange("ping", {}, {})
        wire._number -= 1
        answer = wire.exchange("status", {}, {})
        assert answer.kind == "error" and answer.body["code"] == "reused"
        wire.close()


def test_each_programming_of_training_has_errors_of_its_own() -> None:
    # Far from zero, where conductances are cut off and errors lean the same way each time.
    cell = PolynomialCell(g_min_siemens=1e-5, g_max_siemens=4e-5, sigma_coefficients_microsiemens=(0.5,))
    design = RRAMCrossbar(cell=cell, rows=64, columns=64)
    with sim.serve(design, "tcp://127.0.0.1:0", block=False) as server:
        remote = chip_at(server.address)
        chip = sim.compile(nn.Linear(32, 32, bias=False), remote, example_inputs=torch.eye(32))
        master = next(chip.parameters())
        chip.program(seed=0).train()
        errors = []
        for _ in range(3):
            with torch.no_grad():
                master.mul_(1.0001)
                errors.append((chip(torch.eye(32)).T - master).flatten())
        correlation = np.corrcoef(torch.stack(errors).numpy())
        assert np.abs(correlation[np.triu_indices(3, 1)]).max() < 0.15  # 1024 weights: 0.03 is one standard deviation
        again = sim.compile(nn.Linear(32, 32, bias=False), remote, example_inputs=torch.eye(32))
        again.load_state_dict(chip.state_dict())
        assert (chip.layers["model"].trial, again.layers["model"].trial) == (0, 0)  # type: ignore[union-attr]
        disconnect(remote)


@pytest.mark.parametrize(
    ("served", "said"),
    [
        (Hardware.preset("loihi1"), "must take single layers, but"),
        (RemoteChip(address="tcp://127.0.0.1:9"), "must take single layers, but RemoteChip"),
        (CountingCells, "but got the class CountingCells; make one"),
        ("nope", r"a preset \(inloop presets\)"),
        ("simulator.link.source_measure_unit:SourceMeasureUnit", r"needs no arguments.*write adapter = SourceMeasureUnit\(...\)"),
    ],
)
def test_what_cannot_hold_layers_is_refused_when_it_is_served(served: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        sim.serve(served, "tcp://127.0.0.1:0", block=False)


def test_a_server_that_was_closed_is_refused() -> None:
    server = sim.serve(BareTiles(cell=IdealCell(g_min_siemens=1e-6, g_max_siemens=4e-5)), "tcp://127.0.0.1:0", block=False)
    server.close()
    with pytest.raises(ValueError, match="was closed; make another"):
        server.start()
    for wrong in ({"address": None}, {"lease_seconds": "x"}):
        with pytest.raises(ValueError, match="Argument `"):
            sim.serve("wan_nature_2022", **{"address": "tcp://127.0.0.1:0", "block": False, **wrong})  # type: ignore[arg-type]
