"""Who a served chip works for, and what is left when a session ends: leases, room, restarts, interrupts."""

import copy
import gc
import multiprocessing
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import simulator as sim
from devices import RemoteChip, RRAMCrossbar
from simulator.link.addresses import LinkError, process_holder
from simulator.link.client import Connection, disconnect
from simulator.link.device import Floats
from simulator.link.server import Server
from simulator.link.serving import _terminated_as_interrupted
from simulator.link.simulated import SimulatedDevice
from simulator.link.wire import Wire
from tests.link_cable import Cable
from tests.link_devices import Clock, CountingCells, HastyClock, chip_at

DESIGN = RRAMCrossbar.preset("wan_nature_2022", rows=32, columns=32)
VOLTS = np.eye(4, dtype=np.float32)
OTHER = bytes(range(16))
X = torch.randn(6, 8, generator=torch.Generator().manual_seed(1))


def layer() -> nn.Linear:
    model = nn.Linear(8, 3)
    with torch.no_grad():
        model.weight.copy_(torch.linspace(-1, 1, 24).reshape(3, 8))
        model.bias.copy_(torch.tensor([0.5, -1.0, 2.0]))
    return model


class HeldCells(CountingCells):
    """Cells whose reads end when a test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.began, self.may_end = threading.Event(), threading.Event()

    def read_cells(self, tile: int, volts: Floats, read: int) -> Floats:
        self.began.set()
        assert self.may_end.wait(600)
        return super().read_cells(tile, volts, read)


def ask_to_read(connection: Connection, **body: int) -> np.ndarray:  # type: ignore[type-arg]
    return connection.request("read_cells", {"tile": 0, "read": 1, **body}, {"volts": VOLTS}).arrays["amperes"]


def test_others_are_told_who_a_chip_works_for_while_it_is_at_work() -> None:
    device, clock = HeldCells(), Clock()
    with Server(device, "tcp://127.0.0.1:0", lease_seconds=60.0, clock=clock) as server:
        first, second = Connection(chip_at(server.address)), Connection(chip_at(server.address), OTHER)
        found: list[np.ndarray] = []  # type: ignore[type-arg]
        reader = threading.Thread(target=lambda: found.append(ask_to_read(first)))
        reader.start()
        assert device.began.wait(600)
        clock.now += 1000.0  # longer than the lease, which cannot end while the device works for its holder
        assert second.describe().name == "counting cells"
        status = second.request("status").body
        assert status["device"] == {"at_work_on": "read_cells"} and "process" in status["lease"]["holder"]
        with pytest.raises(LinkError, match=r"process \d+ holds it for up to 60 s more, and has it at work on `read_cells`; wait"):
            second.request("reset")
        assert not found
        device.may_end.set()
        reader.join()
        assert np.array_equal(found[0], VOLTS @ device.targets) and device.reads == 1
        first.close()
        second.close()


def test_the_connections_of_a_process_share_its_lease(tmp_path: Path) -> None:
    device = HeldCells()
    with Server(device, "tcp://127.0.0.1:0") as server:
        one, another = Connection(chip_at(server.address)), Connection(chip_at(server.address, record=str(tmp_path / "session")))
        other = Connection(chip_at(server.address), OTHER)
        found: list[np.ndarray] = []  # type: ignore[type-arg]
        readers = [threading.Thread(target=lambda it=it: found.append(ask_to_read(it))) for it in (one, another)]
        readers[0].start()
        assert device.began.wait(600)
        readers[1].start()  # waits, and is not refused
        device.may_end.set()
        for reader in readers:
            reader.join()
        assert len(found) == device.reads == 2
        one.close()
        with pytest.raises(LinkError, match="holds it"):
            other.request("acquire")
        another.close()
        other.request("acquire")
        other.close()


def test_a_worker_shares_the_lease_of_the_process_that_started_it() -> None:
    with multiprocessing.get_context("spawn").Pool(1) as workers:
        assert workers.apply(process_holder) == process_holder()


def test_a_client_whose_request_timed_out_is_not_kept_out_by_its_own_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = HastyClock()
    monkeypatch.setattr("simulator.link.wire.time", clock)

    class HastenedCells(HeldCells):
        def read_cells(self, tile: int, volts: Floats, read: int) -> Floats:
            clock.hurry()
            return super().read_cells(tile, volts, read)

    device = HastenedCells()
    with Server(device, "tcp://127.0.0.1:0", lease_seconds=1e6) as server:
        connection = Connection(chip_at(server.address, timeout_seconds=100.0))
        with pytest.raises(LinkError, match=r"within 100 s .*\(inloop link tcp://127.0.0.1:\d+\)"):
            ask_to_read(connection)
        clock.rest()
        device.may_end.set()
        assert connection.request("acquire").body["holder"] is not None
        assert connection.request("status").body["device"]["reads"] == 1
        connection.close()


def test_an_interrupted_request_leaves_the_session_usable(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(CountingCells(), "tcp://127.0.0.1:0") as server:
        wire = Wire(chip_at(server.address))
        wire.exchange("ping", {}, {})
        with monkeypatch.context() as patch:
            patch.setattr(wire, "_wait", lambda seconds: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                wire.exchange("ping", {}, {"n": np.array([1])})
        assert wire.exchange("ping", {}, {"n": np.array([2])}).arrays["n"][0] == 2
        assert not wire._under_way and not wire._answers
        wire.close()


def test_the_layers_of_a_client_that_left_are_forgotten() -> None:
    device = SimulatedDevice(DESIGN)
    with Server(device, "tcp://127.0.0.1:0") as server:
        remote = chip_at(server.address)
        chip = sim.compile(layer(), remote, example_inputs=X).program(seed=0)
        assert device.status() == {"open_layers": 1, "programmed_layers": 1}
        twin = copy.deepcopy(chip)
        twin(X)
        assert device.status()["open_layers"] == 2
        del twin
        gc.collect()
        chip(X)
        assert device.status()["open_layers"] == 1
        disconnect(remote)
        connection = Connection(remote)
        assert connection.request("status").body["device"] == {"open_layers": 0, "programmed_layers": 0}
        connection.close()


def test_layers_of_a_silent_client_make_room_for_others() -> None:
    clock = Clock()
    with Server(SimulatedDevice(DESIGN, layers_max=1), "tcp://127.0.0.1:0", lease_seconds=60.0, clock=clock) as server:
        first, second = (chip_at(server.address, timeout_seconds=60.0 + n) for n in range(2))
        lost = sim.compile(layer(), first, example_inputs=X).program(seed=0)
        with pytest.raises(LinkError, match="the layers that are open must be at most 1"):
            sim.compile(layer(), second, example_inputs=X)
        clock.now += 100.0
        sim.compile(layer(), second, example_inputs=X).program(seed=0)(X)
        with pytest.raises(LinkError, match="be one that the server remembers, but is not: what it held is gone"):
            lost(X)
        sim.disconnect(server.address)


def test_a_request_longer_than_the_server_takes_is_refused_before_it_is_sent() -> None:
    with Server(CountingCells(), "tcp://127.0.0.1:0", message_bytes=10_000) as server:
        connection = Connection(chip_at(server.address))
        connection.describe()
        with pytest.raises(ValueError, match="must have at most 10000 bytes, but has 20"):
            connection.request("ping", arrays={"numbers": np.zeros(20_000, np.int8)})
        with pytest.raises(ValueError, match="must be one that can be sent, but .* 64 arrays"):
            connection.request("ping", arrays={f"a{n}": np.zeros(1) for n in range(65)})
        assert connection.describe().name == "counting cells"
        connection.close()


def test_what_a_restarted_server_lost_is_not_programmed_behind_ones_back() -> None:
    calibration = 3 * torch.randn(64, 8, generator=torch.Generator().manual_seed(2))
    here = sim.compile(layer(), DESIGN, example_inputs=X, calibration=calibration).program(seed=7, trial=1)
    with sim.serve(DESIGN, "tcp://127.0.0.1:0", block=False) as server, Cable(server.address) as cable:
        remote = chip_at(cable.address)
        chip = sim.compile(layer(), remote, example_inputs=X, calibration=calibration).program(seed=7, trial=1)
        assert torch.equal(chip(X), here(X))
        with sim.serve(DESIGN, "tcp://127.0.0.1:0", block=False) as another:
            cable.lead_to(another.address)
            server.close()
            cable.cut()
            with pytest.raises(LinkError, match="restarted: what it held is gone"):
                chip(X)
            for _ in range(2):
                with pytest.raises(LinkError, match="no longer holds what was programmed; call program"):
                    chip(X)
            chip.program(seed=7, trial=1)
            assert torch.equal(chip(X), here.program(seed=7, trial=1)(X))  # with the converter ranges of before
            disconnect(remote)


def test_a_restart_is_told_even_where_the_new_server_answered_first() -> None:
    with Server(CountingCells(), "tcp://127.0.0.1:0") as first, Cable(first.address) as cable:
        wire = Wire(chip_at(cable.address, shared_memory=False))
        wire.exchange("ping", {}, {})
        with Server(CountingCells(), "tcp://127.0.0.1:0") as second:
            cable.lead_to(second.address)
            cable.cut()
            number = wire.submit("ping", {}, {})
            while not wire._socket.poll(200):  # what was sent into the cut was lost
                wire._send(wire._under_way[number])
            # The events of the connection and the answer have all arrived when they are looked at.
            with pytest.raises(LinkError, match="restarted: what it held is gone"):
                wire.result(number)
            wire.close()


def test_training_programs_what_each_step_changed() -> None:
    generator = torch.Generator().manual_seed(3)
    targets = X @ torch.randn(8, 3, generator=generator)
    with sim.serve(DESIGN.ideal(), "tcp://127.0.0.1:0", block=False) as server:
        remote = chip_at(server.address)
        ends = []
        for model in (layer(), sim.compile(layer(), remote, example_inputs=X)):
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
            model.train()
            for _ in range(5):
                optimizer.zero_grad()
                loss = (model(X) - targets).square().mean()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            ends.append((float(loss.detach()), [parameter.detach() for parameter in model.parameters()]))
        assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-3)
        assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(ends[0][1], ends[1][1], strict=True))
        disconnect(remote)


def test_states_that_no_layer_saved_are_refused() -> None:
    with sim.serve(DESIGN, "tcp://127.0.0.1:0", block=False) as server:
        remote = chip_at(server.address)
        chip = sim.compile(layer(), remote, example_inputs=X).program(seed=0)
        state = chip.state_dict()
        fresh = sim.compile(layer(), remote, example_inputs=X)
        key = next(name for name, value in state.items() if isinstance(value, dict) and "saved" in value)
        state[key]["saved"]["extra"]["cells"]["conductance"] = torch.zeros(2, 2)
        fresh.load_state_dict(state)
        with pytest.raises(LinkError, match="must be one that this device saved, but is not"):
            fresh(X)
        assert torch.isfinite(chip(X)).all()
        disconnect(remote)


def test_a_recording_that_exists_is_refused_and_not_lost(tmp_path: Path) -> None:
    path = tmp_path / "session"
    path.write_text("measured with great pains")
    with pytest.raises(ValueError, match="`record` must be a file that can be written and does not exist yet"):
        Connection(RemoteChip(address="tcp://127.0.0.1:9", record=str(path)))
    assert path.read_text() == "measured with great pains"


def test_a_recording_does_not_depend_on_when_garbage_is_collected(tmp_path: Path) -> None:
    with sim.serve(DESIGN, "tcp://127.0.0.1:0", block=False) as server:
        remote = RemoteChip(address=server.address, record=str(tmp_path / "session"))
        chip = sim.compile(layer(), remote, example_inputs=X).program(seed=7)
        twin = copy.deepcopy(chip)
        expected = [twin(X)]
        del twin  # the server forgets it at the next request
        expected.append(chip(X))
        disconnect(remote)
    replay = RemoteChip(address=f"replay:{tmp_path / 'session'}")
    again = sim.compile(layer(), replay, example_inputs=X).program(seed=7)
    kept = copy.deepcopy(again)
    assert torch.equal(kept(X), expected[0]) and torch.equal(again(X), expected[1])
    disconnect(replay)


@pytest.mark.parametrize("chip", ["nonsense", "", 5, None])
def test_what_is_no_chip_elsewhere_is_refused_by_disconnect(chip: object) -> None:
    with pytest.raises(ValueError, match=r"`chip` must be a RemoteChip, or an address"):
        sim.disconnect(chip)  # type: ignore[arg-type]


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:99999", "tcp://127.0.0.1:*", "tcp://127.0.0.1:0"])
def test_an_address_that_cannot_be_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match="`address` must"):
        Connection(RemoteChip(address=address)).describe()


def test_a_server_that_is_told_to_end_lets_go_as_after_ctrl_c() -> None:
    with pytest.raises(KeyboardInterrupt), _terminated_as_interrupted():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
