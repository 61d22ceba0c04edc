"""A chip elsewhere is the chip: the same bits, one client at a time, keys beyond this machine, recordings."""

import copy
import hashlib
import logging
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import simulator as sim
from devices import ADC, DAC, BareTiles, Hardware, IdealCell, PolynomialCell, RemoteChip, RRAMCrossbar, SRAMMacro, StuckCells, SystolicArray
from simulator.cli import main
from simulator.link.addresses import LinkError, make_keys
from simulator.link.client import Connection, disconnect
from simulator.link.server import Server
from simulator.link.simulated import SimulatedDevice
from tests.link_devices import Clock, CountingCells, chip_at, eventually

DESIGNS = {
    "crossbar": RRAMCrossbar.preset("wan_nature_2022", rows=32, columns=32),
    "macro": SRAMMacro.preset("demonstrator"),
    "digital": SystolicArray.preset("eyeriss_like"),
}


def network() -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular"), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
    return layers


OTHER = bytes(range(16))
X = torch.randn(6, 1, 4, 4, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=DESIGNS)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[sim.Chip, sim.Chip]]:
    """The same chip in this process and served."""
    design: Hardware = DESIGNS[request.param]
    with sim.serve(design, "tcp://127.0.0.1:0", block=False) as server:
        remote = chip_at(server.address)
        yield sim.compile(network(), design, example_inputs=X), sim.compile(network(), remote, example_inputs=X)
        disconnect(remote)


def test_a_served_chip_gives_the_same_bits(pair: tuple[sim.Chip, sim.Chip]) -> None:
    here, there = (chip.program(seed=7, trial=2) for chip in pair)
    for _ in range(3):
        assert torch.equal(here(X), there(X))
    assert torch.equal(here.age(3600.0)(X), there.age(3600.0)(X))
    rows = [cost[cost["hardware"] != "host"].reset_index(drop=True) for cost in (here.cost(X), there.cost(X))]
    assert len(rows[0]) and rows[0].equals(rows[1])
    assert here.ranges.equals(there.ranges)


def test_copies_pickles_and_states_of_a_served_chip_go_on_with_the_same_bits(pair: tuple[sim.Chip, sim.Chip]) -> None:
    here, there = (chip.program(seed=7) for chip in pair)
    there(X)
    others = [copy.deepcopy(there), pickle.loads(pickle.dumps(there))]
    fresh = sim.compile(network(), next(iter(there.layers.values())).design, example_inputs=X)  # type: ignore[arg-type]
    fresh.load_state_dict(there.state_dict())
    here(X)
    expected = here(X)
    assert all(torch.equal(chip(X), expected) for chip in (*others, fresh, there))


def test_an_evaluation_of_a_served_chip_is_that_of_the_chip(pair: tuple[sim.Chip, sim.Chip]) -> None:
    data = [(X, torch.arange(6) % 5)]
    here, there = (sim.evaluate(chip, data, trials=3, seed=1).frame for chip in pair)
    assert here.drop(columns=[c for c in here if "time" in c]).equals(there.drop(columns=[c for c in there if "time" in c]))


def test_a_compiled_chip_that_is_served_keeps_its_own_ranges() -> None:
    calibration = 3 * torch.randn(64, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    here = sim.compile(network(), DESIGNS["crossbar"], example_inputs=X, calibration=calibration)
    with sim.serve(here, "tcp://127.0.0.1:0", block=False) as server:
        there = sim.compile(network(), chip_at(server.address), example_inputs=X)
        assert torch.equal(here.program(seed=3)(X), there.program(seed=3)(X))
        other = nn.Sequential(nn.Linear(3, 3))
        with pytest.raises(ValueError, match="the served chip has no layer `0` of this kind and shape"):
            sim.compile(other, chip_at(server.address), example_inputs=torch.zeros(1, 3))
        disconnect(chip_at(server.address))


def test_one_layer_may_be_elsewhere() -> None:
    design = DESIGNS["crossbar"]
    with sim.serve(design, "tcp://127.0.0.1:0", block=False) as server:
        remote = chip_at(server.address)
        mixed = sim.compile(network(), {"0": design, "3": remote}, example_inputs=X)
        whole = sim.compile(network(), design, example_inputs=X)
        assert torch.equal(mixed.program(seed=5)(X), whole.program(seed=5)(X))
        disconnect(remote)


def test_gradients_pass_through_a_chip_elsewhere_as_through_its_model() -> None:
    design = DESIGNS["crossbar"].ideal()
    with sim.serve(design, "tcp://127.0.0.1:0", block=False) as server:
        remote = chip_at(server.address)
        model, chip = network(), sim.compile(network(), remote, example_inputs=X)
        for one in (model, chip.program(seed=0).train()):
            one(X).square().sum().backward()
        for expected, found in zip(model.parameters(), chip.parameters(), strict=True):
            assert expected.grad is not None and found.grad is not None
            assert torch.allclose(expected.grad, found.grad, rtol=1e-4, atol=1e-4)
        disconnect(remote)


def test_inputs_that_a_chip_refuses_are_refused_elsewhere_with_the_same_words() -> None:
    with sim.serve(DESIGNS["crossbar"], "tcp://127.0.0.1:0", block=False) as server:
        layer = nn.Linear(8, 3)
        here, there = (sim.compile(layer, one, example_inputs=torch.zeros(1, 8)) for one in (DESIGNS["crossbar"], chip_at(server.address)))
        for wrong in (torch.zeros(2, 7), torch.full((2, 8), torch.nan), torch.zeros(())):
            said = []
            for chip in (here, there):
                with pytest.raises(ValueError) as refusal:
                    chip(wrong)
                said.append(str(refusal.value).removeprefix(f"the chip at {server.address}: "))
            assert said[0] == said[1]
        # A read that was refused is none: the next one has the noise that it has here.
        right = torch.rand(4, 8, generator=torch.Generator().manual_seed(0))
        assert torch.equal(here.program(seed=3)(right), there.program(seed=3)(right))
        for chip in (here, there):
            with pytest.raises(ValueError):
                chip(torch.full((2, 8), torch.inf))
        assert torch.equal(here(right), there(right))
        sim.disconnect(server.address)


def test_masters_that_changed_are_refused_until_they_are_programmed() -> None:
    with sim.serve(DESIGNS["crossbar"], "tcp://127.0.0.1:0", block=False) as server:
        remote = chip_at(server.address)
        chip = sim.compile(network(), remote, example_inputs=X).program(seed=0)
        with torch.no_grad():
            chip.layers["3"].weight.mul_(2.0)
        with pytest.raises(RuntimeError, match="master weights changed after programming"):
            chip(X)
        before = chip.program(seed=0)(X)
        assert torch.isfinite(before).all()
        disconnect(remote)


# clients


def test_a_second_client_is_told_who_holds_the_chip_and_gets_it_when_it_is_free() -> None:
    with Server(CountingCells(), "tcp://127.0.0.1:0", lease_seconds=1e6) as server:
        first, second = Connection(chip_at(server.address)), Connection(chip_at(server.address), OTHER)
        first.request("acquire")
        with pytest.raises(LinkError, match=r"process \d+ holds it for up to \d+ s more; wait") as refusal:
            second.request("acquire")
        assert refusal.value.code == "lease"
        assert second.describe().name == "counting cells"
        assert second.request("status").body["lease"]["holder"] == first.request("status").body["lease"]["holder"]
        first.close()  # the lease is given back when this returns
        second.request("acquire")
        second.close()


def test_the_lease_of_a_client_that_fell_silent_ends() -> None:
    clock = Clock()
    with Server(CountingCells(), "tcp://127.0.0.1:0", lease_seconds=60.0, clock=clock) as server:
        first, second = Connection(chip_at(server.address)), Connection(chip_at(server.address), OTHER)
        first.request("acquire")
        clock.now += 59.0
        assert second.request("status").body["lease"]["seconds"] == pytest.approx(1.0)
        with pytest.raises(LinkError, match="holds it for up to 1 s more"):
            second.request("acquire")
        clock.now += 2.0
        second.request("acquire")
        with pytest.raises(LinkError, match="holds it"):
            first.request("reset")
        first.close()
        second.close()


# keys


def test_a_client_with_a_key_is_let_in_and_others_are_refused_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_keys(tmp_path, ["alice"])
    stranger = tmp_path / "stranger"
    make_keys(stranger, ["mallory"])
    (stranger / "server.key").write_bytes((tmp_path / "server.key").read_bytes())
    other_server = tmp_path / "other"
    make_keys(other_server, [])
    (other_server / "clients").mkdir()
    (other_server / "clients" / "alice.key_secret").write_bytes((tmp_path / "clients" / "alice.key_secret").read_bytes())
    with Server(CountingCells(), "tcp://127.0.0.1:0", keys=tmp_path) as server, caplog.at_level(logging.WARNING, logger="inloop.link"):
        friend = Connection(chip_at(server.address, keys=str(tmp_path)))
        assert friend.describe().name == "counting cells"
        for keys in (None, str(stranger), str(other_server)):
            connection = Connection(chip_at(server.address, keys=keys, reconnect_seconds=0.5, timeout_seconds=1.0))
            with pytest.raises(LinkError, match="refused; check `keys`|does not answer|must answer within"):
                connection.describe()
            connection.close()
        assert friend.request("status").body["device"] == {"programmed": 0, "reads": 0}
        friend.close()
        assert eventually(lambda: any("refused a client: its keys" in line for line in caplog.messages))


@pytest.mark.parametrize("address", ["tcp://0.0.0.0:5555", "tcp://*:5555", "tcp://192.168.1.4:5555", "tcp://[::]:5555"])
def test_an_address_that_others_reach_is_refused_without_keys(address: str) -> None:
    with pytest.raises(ValueError, match="must be on this machine unless there are keys|must be tcp://HOST:PORT"):
        Server(CountingCells(), address)
    with pytest.raises(ValueError, match="must be on this machine unless there are keys|must be tcp://HOST:PORT"):
        Connection(RemoteChip(address=address)).describe()


def test_an_address_that_is_taken_is_refused() -> None:
    with (
        Server(CountingCells(), "tcp://127.0.0.1:0") as server,
        pytest.raises(ValueError, match="must be free and of this machine"),
    ):
        Server(CountingCells(), server.address)


# what a server does with what it cannot take


@pytest.mark.parametrize("design", ["crossbar", "macro"])
def test_the_state_of_a_trained_chip_is_read_by_one_that_was_compiled_anew(design: str) -> None:
    with sim.serve(DESIGNS[design], "tcp://127.0.0.1:0", block=False) as server:
        first, again = (sim.compile(network(), chip_at(server.address), calibration=[X]) for _ in range(2))
        with torch.no_grad():
            for parameter in first.parameters():
                parameter.mul_(1.25)
        first.program(seed=6)
        first(X)
        again.load_state_dict(first.state_dict())
        assert torch.equal(again(X), first(X))
        here = sim.compile(network(), DESIGNS[design], calibration=[X]).program(seed=6)
        with pytest.raises(ValueError, match="must be of the same design, .* but is of a chip elsewhere; compile"):
            here.load_state_dict(first.state_dict())
        with pytest.raises(ValueError, match="must be of the chip at .* but is of a design in this process; connect"):
            again.load_state_dict(here.state_dict())
        sim.disconnect(server.address)


def test_a_read_after_a_program_that_failed_programs_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with sim.serve(DESIGNS["crossbar"], "tcp://127.0.0.1:0", block=False) as server:
        layer = nn.Linear(8, 3)
        chips = [sim.compile(layer, chip_at(server.address), example_inputs=torch.zeros(1, 8)) for _ in range(2)]
        program = SimulatedDevice.program_layer
        with monkeypatch.context() as context:
            context.setattr(SimulatedDevice, "program_layer", lambda *call: 1 / 0)
            with pytest.raises(LinkError, match="ZeroDivisionError"):
                chips[0].program(seed=5, trial=2)
        asked: list[tuple[int, int]] = []
        monkeypatch.setattr(SimulatedDevice, "program_layer", lambda *call: (asked.append(call[-2:]), program(*call))[1])
        x = torch.rand(4, 8, generator=torch.Generator().manual_seed(0))
        assert torch.equal(chips[0](x), chips[1].program(seed=5, trial=2)(x)) and asked == [(5, 2)] * 2
        sim.disconnect(server.address)


def test_a_path_that_is_served_is_not_taken_away(tmp_path: Path) -> None:
    address = f"ipc://{tmp_path}/chip"
    with Server(CountingCells(), address) as server:
        with pytest.raises(ValueError, match="must be free, but somebody serves at"):
            Server(CountingCells(), address)
        connection = Connection(chip_at(server.address))
        assert connection.describe().identity == "test"
        connection.close()
    (tmp_path / "chip").touch()  # as a server leaves it that was killed
    with Server(CountingCells(), address) as server:
        connection = Connection(chip_at(server.address))
        assert connection.describe().identity == "test"
        connection.close()


def test_a_server_goes_on_whatever_is_raised(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    class Cursing(CountingCells):
        def status(self) -> dict[str, Any]:
            raise RuntimeError("half a \ud800 character")

    with Server(Cursing(), "tcp://127.0.0.1:0") as server:
        connection = Connection(chip_at(server.address))
        connection.request("ping")
        with monkeypatch.context() as context:
            context.setattr("simulator.link.server.logger.warning", lambda *said, **fields: None)  # no log of a test can hold it
            with pytest.raises(LinkError, match=r"RuntimeError: half a \? character"):
                connection.request("status")
        with monkeypatch.context() as context:

            def failing(*call: object) -> None:
                context.undo()
                raise MemoryError("of another kind")

            context.setattr("simulator.link.server.decode", failing)
            with pytest.raises(LinkError, match="must answer within"):
                Connection(chip_at(server.address, timeout_seconds=0.5)).request("ping")
        assert "could not answer a message" in caplog.text and "of another kind" in caplog.text
        connection.request("ping")
        connection.close()


def test_what_is_to_be_installed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulator.link.sockets.find_spec", lambda name: None if name == "xxhash" else name)
    for start in (lambda: Connection(chip_at("tcp://127.0.0.1:9")), lambda: Server(CountingCells())):
        with pytest.raises(ImportError, match=r"needs xxhash, which is not installed; run pip install 'inloop\[link\]'"):
            start()


def test_a_server_goes_on_after_messages_that_it_refuses(caplog: pytest.LogCaptureFixture) -> None:
    import zmq

    with Server(CountingCells(), "tcp://127.0.0.1:0", message_bytes=10_000) as server:
        context = zmq.Context()
        rude = context.socket(zmq.DEALER)
        rude.linger = 0
        rude.connect(server.address)
        with caplog.at_level(logging.WARNING, logger="inloop.link"):
            for frames in ([b""], [b"hello"], [b"\x93\x02\x00\xc4\x00"], [b"\x93\x01\x00\xc4\x00"], [b"x"] * 90):
                rude.send_multipart(frames)
                assert rude.poll(60_000)
                rude.recv_multipart()
            rude.send_multipart([bytes(20_000)])  # longer than the server takes: it ends that connection
            connection = Connection(chip_at(server.address))
            with pytest.raises(LinkError, match="`speed`|must have its own fields"):
                connection.request("read_cells", {"tile": 0, "read": 0, "speed": 1}, {"volts": np.zeros((1, 4), np.float32)})
            assert connection.describe().identity == "test"
            connection.close()
        assert len(caplog.records) >= 6
        rude.close()
        context.term()


# recording


def test_a_recording_answers_in_the_place_of_the_chip_byte_for_byte(tmp_path: Path) -> None:
    design = DESIGNS["crossbar"]

    def run(remote: RemoteChip) -> Tensor:
        chip = sim.compile(network(), remote, example_inputs=X).program(seed=7)
        found = torch.stack([chip(X), chip(X), chip.age(60.0)(X)])
        disconnect(remote)
        return found

    digests = []
    with sim.serve(design, "tcp://127.0.0.1:0", block=False) as server:
        for name in ("first", "second"):
            expected = run(chip_at(server.address, record=str(tmp_path / name)))
            digests.append(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert digests[0] == digests[1]
    assert torch.equal(run(RemoteChip(address=f"replay:{tmp_path / 'first'}")), expected)
    with pytest.raises(LinkError, match="request .* must be the one of the recording"):
        sim.compile(network(), RemoteChip(address=f"replay:{tmp_path / 'first'}"), example_inputs=X).program(seed=8)


def test_a_recording_that_breaks_off_or_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "session"
    with Server(CountingCells(), "tcp://127.0.0.1:0") as server:
        connection = Connection(chip_at(server.address, record=str(path)))
        connection.describe()
        connection.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    with pytest.raises(LinkError, match="breaks off"):
        Connection(RemoteChip(address=f"replay:{path}")).describe()
    path.write_bytes(b"something else")
    with pytest.raises(LinkError, match="must begin with 'inloop recording 1'"):
        Connection(RemoteChip(address=f"replay:{path}")).describe()
    with pytest.raises(LinkError, match="must be a file that can be read"):
        Connection(RemoteChip(address="replay:/nowhere/at/all")).describe()


# bare cells


def test_bare_cells_read_what_ohms_law_says_of_what_was_programmed() -> None:
    cell = IdealCell(g_min_siemens=1e-6, g_max_siemens=4e-5)
    with sim.serve(BareTiles(cell=cell, tiles=2, rows=3, columns=2), "tcp://127.0.0.1:0", block=False) as server:
        connection = Connection(chip_at(server.address))
        targets = np.linspace(1e-6, 4e-5, 6, dtype=np.float32).reshape(3, 2)
        volts = np.array([[0.1, 0.0, -0.2], [0.2, 0.2, 0.2]], np.float32)
        connection.request("program_cells", {"tile": 1, "seed": 0, "trial": 0}, {"targets": targets})
        found = connection.request("read_cells", {"tile": 1, "read": 1}, {"volts": volts}).arrays["amperes"]
        assert np.allclose(found, volts.astype(np.float64) @ targets, rtol=1e-6)
        for body, arrays, said in (
            ({"tile": 0, "read": 1}, {"volts": volts}, "tile 0 must be programmed"),
            ({"tile": 2, "read": 1}, {"volts": volts}, "the tile must be below 2"),
            ({"tile": 1, "read": 1}, {"volts": volts[:, :2]}, r"of shape \(batch, 3\)"),
            ({"tile": 1, "read": 1}, {"volts": 9 * volts}, "at most 0.2 V"),
        ):
            with pytest.raises(LinkError, match=said):
                connection.request("read_cells", body, arrays)
        connection.close()


def test_two_programmings_of_bare_cells_share_their_faults_and_draw_their_errors_anew() -> None:
    cell = PolynomialCell(g_min_siemens=1e-6, g_max_siemens=4e-5, sigma_coefficients_microsiemens=(1.0,))
    tiles = BareTiles(cell=cell, rows=64, columns=64, stuck=StuckCells(stuck_on_rate=0.2), adc=ADC(bits=16), dac=DAC(bits=16))
    with sim.serve(tiles, "tcp://127.0.0.1:0", block=False) as server:
        connection = Connection(chip_at(server.address))
        volts = (np.eye(64) * 0.2).astype(np.float32)
        seen = []
        for trial in (0, 1):
            targets = np.full((64, 64), 2e-5, np.float32)
            connection.request("program_cells", {"tile": 0, "seed": 0, "trial": trial}, {"targets": targets})
            seen.append(connection.request("read_cells", {"tile": 0, "read": 1}, {"volts": volts}).arrays["amperes"] / 0.2)
        connection.close()
    stuck = [np.abs(one - 4e-5) < 1e-8 for one in seen]
    assert np.array_equal(*stuck) and 0.17 < stuck[0].mean() < 0.23
    first, second = (one[~stuck[0]] for one in seen)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.08
    assert 0.9e-6 < first.std() < 1.1e-6


# what cannot be served


@pytest.mark.parametrize("served", [3, "no_such_preset.toml", "no.such.module:Class", nn.Linear(2, 2)])
def test_what_is_no_chip_is_refused(served: object) -> None:
    with pytest.raises(ValueError):
        sim.serve(served, "tcp://127.0.0.1:0", block=False)


def test_a_device_refuses_what_it_cannot_do() -> None:
    with Server(CountingCells(), "tcp://127.0.0.1:0") as server:
        connection = Connection(chip_at(server.address))
        with pytest.raises(LinkError, match="the device `counting cells` cannot let time pass: wait instead"):
            connection.request("age_cells", {"seconds": 1.0})
        connection.request("release")
        with pytest.raises(LinkError, match="cannot hold layers"):
            sim.compile(nn.Linear(2, 2), chip_at(server.address), example_inputs=torch.zeros(1, 2))
        connection.close()


def test_layers_beyond_the_room_of_a_server_are_refused() -> None:
    with Server(SimulatedDevice(DESIGNS["crossbar"], bytes_max=300), "tcp://127.0.0.1:0") as server:
        with pytest.raises(LinkError, match=r"must be at most 10000 with 300 bytes of weights"):
            sim.compile(network(), chip_at(server.address), example_inputs=X)
        disconnect(chip_at(server.address))


def test_the_commands_refuse_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "wan_nature_2022", "--address", "tcp://0.0.0.0:5555"]) == 2
    assert main(["keys", str(tmp_path), "not a name"]) == 2
    assert main(["keys", str(tmp_path), "alice"]) == 0
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2 and all(line.startswith("inloop: ") for line in lines)


def test_the_same_study_drives_a_chip_here_and_one_elsewhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulator.report.FORMATS", ("svg",))
    network = '[model]\nname = "digits_mlp"\narguments = { hidden = 8 }\n[training]\nepochs = 1\n'
    study = f'name = "same"\ntrials = 2\n{network}[data]\nname = "digits"\n[design]\n'
    design = DESIGNS["crossbar"]
    with sim.serve(design, "tcp://127.0.0.1:0", block=False) as server:
        address = server.address
        designs = {
            "here": 'preset = "wan_nature_2022"\nrows = 32\ncolumns = 32\n',
            "there": f'type = "devices.remote:RemoteChip"\naddress = "{address}"\n',
        }
        found = []
        for name, table in designs.items():
            file = tmp_path / f"{name}.toml"
            file.write_text(study + table)
            assert main(["run", str(file), "--out", str(tmp_path / name), "--json"]) == 0, capsys.readouterr().err
            capsys.readouterr()
            trials = pd.read_csv(tmp_path / name / "trials.csv")
            found.append(trials["accuracy"].tolist())
        disconnect(RemoteChip(address=address))
    assert found[0] == found[1] and len(found[0]) >= 2
