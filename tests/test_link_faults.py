"""A chip elsewhere when things go wrong: messages lost, damaged, repeated and late, connections cut, servers killed."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from simulator.link.addresses import LinkError
from simulator.link.client import Connection
from simulator.link.server import Server
from simulator.link.wire import Wire
from tests.link_cable import Cable
from tests.link_devices import CountingCells, HastyClock, chip_at
from tests.link_proxy import Frames, Proxy, Tamper, honest

TARGETS = np.full((4, 3), 5e-5, np.float32)
VOLTS = np.eye(4, dtype=np.float32)
SERVE = """
from simulator.link.server import Server
from tests.link_devices import EndlessCells
server = Server(EndlessCells(), "tcp://127.0.0.1:0")
print(server.address, flush=True)
server.run()
"""


@contextmanager
def through(tamper: Tamper = honest, **fields: float) -> Iterator[tuple[Connection, CountingCells, Proxy]]:
    """A connection whose messages pass a proxy, all of them: between two machines there is nothing else."""
    device = CountingCells()
    with Server(device, "tcp://127.0.0.1:0") as server, Proxy(server.address, tamper) as proxy:
        connection = Connection(chip_at(proxy.address, shared_memory=False, **fields))
        try:
            yield connection, device, proxy
        finally:
            connection.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> HastyClock:
    """The clock by which clients wait."""
    found = HastyClock()
    monkeypatch.setattr("simulator.link.wire.time", found)
    return found


def program_and_read(connection: Connection) -> np.ndarray:  # type: ignore[type-arg]
    connection.request("program_cells", {"tile": 0, "seed": 0, "trial": 0}, {"targets": TARGETS})
    return connection.request("read_cells", {"tile": 0, "read": 1}, {"volts": VOLTS}).arrays["amperes"]


def flipped(frames: Frames, place: int) -> Frames:
    """The frames with one bit changed, counted from the end."""
    last = bytearray(frames[-1])
    last[place % len(last)] ^= 0x10
    return [*frames[:-1], bytes(last)]


@pytest.mark.parametrize("direction", ["request", "answer"])
@pytest.mark.parametrize("fault", ["repeated", "damaged", "late"])
def test_a_fault_on_the_way_changes_neither_numbers_nor_how_often_a_request_is_done(direction: str, fault: str) -> None:
    def tamper(which: str, count: int, frames: Frames) -> list[Frames]:
        if which != direction:
            return [frames]
        if fault == "repeated":
            return [frames, frames]
        if fault == "late":
            time.sleep(0.05)
            return [frames]
        return [flipped(frames, 7 * count + 3)] if count % 2 else [frames]

    with through(tamper) as (connection, device, _):
        assert np.array_equal(program_and_read(connection), VOLTS @ TARGETS)
        assert (device.programmed, device.reads) == (1, 1)


def test_a_copy_that_arrives_long_after_its_answer_is_not_done_again() -> None:
    kept: list[Frames] = []

    def tamper(which: str, count: int, frames: Frames) -> list[Frames]:
        if which == "request":
            kept.append(frames)
            return [frames] if len(kept) < 4 else [kept[1], frames]  # the second request is the programming
        return [frames]

    with through(tamper) as (connection, device, _):
        program_and_read(connection)
        connection.request("ping")
        connection.request("ping")
        assert device.programmed == 1


def test_a_request_that_was_lost_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulator.link.wire.RESEND_SECONDS", 0.2)

    def tamper(which: str, count: int, frames: Frames) -> list[Frames]:
        return [] if which == "request" and count in (1, 3) else [frames]

    with through(tamper) as (connection, device, _):
        assert np.array_equal(program_and_read(connection), VOLTS @ TARGETS)
        assert (device.programmed, device.reads) == (1, 1)


def test_a_lost_answer_does_not_have_the_chip_programmed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulator.link.wire.RESEND_SECONDS", 0.2)

    def tamper(which: str, count: int, frames: Frames) -> list[Frames]:
        return [] if which == "answer" and count == 1 else [frames]

    with through(tamper) as (connection, device, _):
        program_and_read(connection)
        assert device.programmed == 1


@pytest.mark.parametrize("shared_memory", [True, False])
def test_a_connection_that_is_cut_is_taken_up_again(shared_memory: bool) -> None:
    device = CountingCells()
    with Server(device, "tcp://127.0.0.1:0") as server, Cable(server.address) as cable:
        connection = Connection(chip_at(cable.address, shared_memory=shared_memory))
        program_and_read(connection)
        cable.cut()
        found = connection.request("read_cells", {"tile": 0, "read": 2}, {"volts": VOLTS}).arrays["amperes"]
        assert np.array_equal(found, VOLTS @ TARGETS)
        assert (device.programmed, device.reads) == (1, 2)
        connection.close()


def test_a_connection_that_damages_everything_is_an_error() -> None:
    with (
        through(lambda which, count, frames: [flipped(frames, 5)] if count else [frames]) as (connection, _, _),
        pytest.raises(LinkError, match="must carry messages whole"),
    ):
        connection.request("ping", arrays={"numbers": VOLTS})


def test_a_chip_that_does_not_answer_in_the_stated_time_is_an_error(clock: HastyClock) -> None:
    def tamper(which: str, count: int, frames: Frames) -> list[Frames]:
        if which == "request" and count:
            clock.hurry()
            return []
        return [frames]

    with through(tamper, timeout_seconds=100.0, reconnect_seconds=1e6) as (connection, _, _):
        with pytest.raises(LinkError, match=r"must answer within 100 s"):
            connection.request("ping")
        clock.rest()


def test_an_address_where_nobody_serves_is_an_error_in_the_stated_time(clock: HastyClock) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))  # nobody listens there
        connection = Connection(chip_at(f"tcp://127.0.0.1:{reserved.getsockname()[1]}", reconnect_seconds=100.0, timeout_seconds=1e6))
        clock.hurry()
        with pytest.raises(LinkError, match="does not answer, and could not be reached for 100 s; .*inloop serve"):
            connection.describe()


@pytest.mark.parametrize("shared_memory", [True, False])
def test_a_server_that_was_restarted_is_not_taken_for_the_one_that_was_programmed(shared_memory: bool) -> None:
    with Server(CountingCells(), "tcp://127.0.0.1:0") as first, Cable(first.address) as cable:
        connection = Connection(chip_at(cable.address, shared_memory=shared_memory))
        program_and_read(connection)
        with Server(CountingCells(), "tcp://127.0.0.1:0") as second:
            cable.lead_to(second.address)
            first.close()
            cable.cut()
            with pytest.raises(LinkError, match="restarted: what it held is gone"):
                connection.request("read_cells", {"tile": 0, "read": 2}, {"volts": VOLTS})
            assert np.array_equal(program_and_read(connection), VOLTS @ TARGETS)  # a new session, programmed anew
            connection.close()


@pytest.mark.parametrize("kind", ["read_cells", "program_cells"])
def test_a_server_that_is_killed_at_work_is_an_error_in_the_stated_time(kind: str, clock: HastyClock) -> None:
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen([sys.executable, "-c", SERVE], cwd=root, env=environment, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        output = server.stdout
        connection = Connection(chip_at(output.readline().strip(), reconnect_seconds=100.0, timeout_seconds=1e6))
        assert connection.describe().name == "counting cells"

        def kill_at_work() -> None:
            assert output.readline() == "at work\n"
            server.kill()
            clock.hurry()

        killer = threading.Thread(target=kill_at_work)
        killer.start()
        with pytest.raises(LinkError, match="went away, and could not be reached for 100 s"):
            if kind == "read_cells":
                volts = np.zeros((4096, 4), np.float32)  # long enough to lie in shared memory when the server goes
                connection.request(kind, {"tile": 0, "read": 1}, {"volts": volts})
            else:
                connection.request(kind, {"tile": 0, "seed": 0, "trial": 0}, {"targets": TARGETS})
        killer.join()
        connection.close()


def test_requests_may_be_under_way_together() -> None:
    with Server(CountingCells(), "tcp://127.0.0.1:0") as server:
        wire = Wire(chip_at(server.address))
        wire.exchange("ping", {}, {})
        numbers = [wire.submit("ping", {}, {"number": np.array([n])}) for n in range(40)]
        assert [int(wire.result(number).arrays["number"][0]) for number in numbers] == list(range(40))
        wire.close()
