"""Short messages through pipes: whole or not at all, the same answers as over the socket, and nothing left behind."""

import gc
import math
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.link import pipes
from simulator.link.client import Connection
from simulator.link.messages import Message, encode
from simulator.link.pipes import PIECE_BYTES, BrokenPipeMessageError, MessagePipes
from simulator.link.server import Server
from simulator.link.shared_memory import SharedMemory
from simulator.link.wire import Wire
from tests.link_devices import CountingCells, chip_at, eventually

pytestmark = pytest.mark.skipif(not SharedMemory.is_supported(), reason="this system has no pipes to share so")
NUMBERS = np.arange(4)


@pytest.fixture
def ends() -> Iterator[tuple[MessagePipes, MessagePipes]]:
    """A client's and a server's end of the same pipes."""
    server = MessagePipes.make()
    client = MessagePipes.attach(os.getpid(), **server.place)
    yield client, server
    client.close()
    server.close()


def pipes_of(wire: Wire) -> MessagePipes:
    assert wire._pipes is not None
    return wire._pipes


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


# the pipes


@given(st.lists(st.lists(st.binary(max_size=600), min_size=1, max_size=9), max_size=12))
@settings(max_examples=50, deadline=None)
def test_messages_arrive_in_their_order_with_their_frames(messages: list[list[bytes]]) -> None:
    server = MessagePipes.make()
    client = MessagePipes.attach(os.getpid(), **server.place)
    for one, other in ((client, server), (server, client)):
        sent = [frames for frames in messages if one.send(frames)]
        short = [frames for frames in messages if 2 + sum(2 + len(frame) for frame in frames) <= PIECE_BYTES]
        assert sent == short  # at most 12 of 4096 bytes: a pipe has room for 16
        assert [other.receive() for _ in sent] == sent and other.receive() is None
    client.close()
    server.close()


def test_what_is_too_long_or_finds_no_room_is_not_sent(ends: tuple[MessagePipes, MessagePipes]) -> None:
    client, server = ends
    longest = [bytes(PIECE_BYTES - 4)]
    assert not client.send([bytes(PIECE_BYTES - 3)]) and not client.send([b""] * PIECE_BYTES)
    count = 0
    while client.send(longest):
        count += 1
    assert count >= 1
    assert [server.receive() for _ in range(count)] == [longest] * count and server.receive() is None
    assert client.send(longest)


def test_nothing_is_sent_to_an_end_that_was_closed(ends: tuple[MessagePipes, MessagePipes]) -> None:
    client, server = ends
    assert client.send([b"heard"])
    server.close()
    assert not client.send([b"unheard"])


@given(st.binary(min_size=1, max_size=64))
@settings(max_examples=200, deadline=None)
def test_bytes_that_are_no_message_are_refused(data: bytes) -> None:
    server = MessagePipes.make()
    client = MessagePipes.attach(os.getpid(), **server.place)
    os.write(client._writes, data)
    try:
        frames = server.receive()
    except BrokenPipeMessageError:
        pass
    else:  # it happens to be one
        assert frames is not None
        head = np.array([len(frames), *map(len, frames)], "<u2")
        assert data == head.tobytes() + b"".join(bytes(frame) for frame in frames)
    client.close()
    server.close()


def test_another_thing_at_the_place_of_a_pipe_is_refused(ends: tuple[MessagePipes, MessagePipes], tmp_path: Path) -> None:
    place = ends[1].place
    with (tmp_path / "file").open("w") as file, pytest.raises(OSError, match="is not pipe"):
        MessagePipes.attach(os.getpid(), **{**place, "answers": [file.fileno(), place["answers"][1]]})
    before = open_files()
    with pytest.raises(OSError, match="is not pipe"):
        MessagePipes.attach(os.getpid(), **{**place, "answers": place["requests"][:1] + place["answers"][1:]})
    assert open_files() == before  # the pipe that was found is let go of


# over a link


def test_short_requests_pass_the_pipe_and_long_ones_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(CountingCells(), "tcp://127.0.0.1:0") as server:
        wire = Wire(chip_at(server.address))
        wire.exchange("ping", {}, {})
        by_socket: list[list[bytes]] = []
        send = wire._send
        monkeypatch.setattr(wire, "_send", lambda frames: (by_socket.append(frames), send(frames)))
        for arrays in ({}, {"n": NUMBERS}, {"n": np.arange(4 * PIECE_BYTES)}):
            found = wire.exchange("ping", {}, arrays).arrays
            assert all(np.array_equal(found[name], array) for name, array in arrays.items())
        assert not by_socket  # the long array lies in shared memory
        short = {f"a{n}": np.arange(100) + n for n in range(8)}  # each too short for the memory, together too long for a pipe
        found = wire.exchange("ping", {}, short).arrays
        assert all(np.array_equal(found[name], array) for name, array in short.items()) and len(by_socket) == 1
        wire.close()


def test_requests_behind_others_keep_to_the_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(CountingCells(), "tcp://127.0.0.1:0") as server:
        wire = Wire(chip_at(server.address))
        wire.exchange("ping", {}, {})
        sent: list[str] = []
        through, over = pipes_of(wire).send, wire._send
        monkeypatch.setattr(pipes_of(wire), "send", lambda *message: (sent.append("pipe"), through(*message))[1])
        monkeypatch.setattr(wire, "_send", lambda frames: (sent.append("socket"), over(frames)))
        numbers = [wire.submit("ping", {}, {"n": NUMBERS + n}) for n in range(5)]
        assert sent == ["pipe"] + ["socket"] * 4
        assert all(np.array_equal(wire.result(number).arrays["n"], NUMBERS + n) for n, number in enumerate(numbers))
        wire.close()


@pytest.mark.parametrize("end", ["client", "server"])
def test_where_a_pipe_has_no_room_the_socket_carries_the_message(end: str) -> None:
    with Server(CountingCells(), "tcp://127.0.0.1:0") as server:
        wire = Wire(chip_at(server.address))
        wire.exchange("ping", {}, {})
        own = pipes_of(wire) if end == "client" else server._sessions.pipes_of(wire.session)
        assert own is not None
        own.send = lambda *message: False  # type: ignore[method-assign]
        assert np.array_equal(wire.exchange("ping", {}, {"n": NUMBERS}).arrays["n"], NUMBERS)
        wire.close()


def test_a_damaged_request_through_a_pipe_is_asked_for_again() -> None:
    device = CountingCells()
    with Server(device, "tcp://127.0.0.1:0") as server:
        wire = Wire(chip_at(server.address))
        wire.exchange("ping", {}, {})
        send = pipes_of(wire).send

        def damaging(frames: list[bytes], topic: str) -> bool:
            damaged = bytearray(frames[0])
            damaged[-1] ^= 0x10
            return send([bytes(damaged), *frames[1:]], topic)

        pipes_of(wire).send = damaging  # type: ignore[method-assign,assignment]
        targets = np.full((4, 3), 5e-5, np.float32)
        assert wire.exchange("program_cells", {"tile": 0, "seed": 0, "trial": 0}, {"targets": targets}).kind == "answer"
        assert device.programmed == 1
        wire.close()


def test_a_client_whose_pipe_breaks_is_let_go_of_and_others_are_served(caplog: pytest.LogCaptureFixture) -> None:
    with Server(CountingCells(), "tcp://127.0.0.1:0") as server:
        wire, other = Wire(chip_at(server.address)), Connection(chip_at(server.address))
        wire.exchange("ping", {}, {})
        other.request("ping")
        os.write(pipes_of(wire)._writes, b"\xff\xff\x01")
        assert eventually(lambda: server._sessions.pipes_of(wire.session) is None)
        assert "must come through a pipe whole" in caplog.text
        assert np.array_equal(other.request("ping", arrays={"n": NUMBERS}).arrays["n"], NUMBERS)
        answer = wire.exchange("ping", {}, {"n": np.arange(40 * PIECE_BYTES)})
        assert (answer.kind, answer.body["code"]) == ("error", "no_session")
        other.close()
        wire.close()


def test_others_are_answered_through_their_pipes_while_the_device_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    class Asking(CountingCells):
        def read_cells(self, tile: int, volts: np.ndarray, read: int) -> np.ndarray:  # type: ignore[type-arg]
            told.append(str(other.exchange("status", {}, {}).body["device"]["at_work_on"]))
            return super().read_cells(tile, volts, read)

    with Server(Asking(), "tcp://127.0.0.1:0") as server:
        other = Wire(chip_at(server.address))
        other.exchange("ping", {}, {})
        assert pipes_of(other)
        monkeypatch.setattr(other, "_send", lambda frames: pytest.fail("went over the socket"))
        connection = Connection(chip_at(server.address))
        connection.request("read_cells", {"tile": 0, "read": 1}, {"volts": np.zeros((1, 4), np.float32)})
        assert told == ["read_cells"]
        connection.close()
        monkeypatch.undo()
        other.close()


def test_pipes_are_closed_with_their_session() -> None:
    before = open_files()
    with Server(CountingCells(), "tcp://127.0.0.1:0") as server:
        served = open_files()
        for _ in range(3):
            connection = Connection(chip_at(server.address))
            connection.request("ping")
            connection.close()
            assert eventually(lambda: open_files() == served)
    assert open_files() == before


def test_a_wire_that_nobody_closed_is_let_go_of_as_garbage() -> None:
    before = open_files()
    with Server(CountingCells(), "tcp://127.0.0.1:0") as server:
        wire = Wire(chip_at(server.address))
        wire.exchange("ping", {}, {})
        context = wire._context
        wire.itself = wire  # type: ignore[attr-defined]  # so that only the collector finds it
        del wire
        gc.collect()
        assert context.closed
    assert open_files() == before


# waiting awake


class SteppingClock:
    """Tells a time that passes by `step` at every look."""

    def __init__(self, step: float) -> None:
        self.now, self.step = 0.0, step

    def perf_counter(self) -> float:
        self.now += self.step
        return self.now


def test_what_came_soon_before_is_awaited_awake_once(ends: tuple[MessagePipes, MessagePipes], monkeypatch: pytest.MonkeyPatch) -> None:
    client, server = ends
    clock = SteppingClock(1e-4)
    monkeypatch.setattr(pipes, "time", clock)
    monkeypatch.setattr(client, "_may_spin", True)

    def asked(topic: str) -> float:
        client.send([b"asked"], topic)
        server.receive()
        return client.due

    assert asked("short") == math.inf  # nobody knows yet
    server.send([b"answered"])
    assert client.due == math.inf and client.receive() == [b"answered"]
    assert asked("short") == pytest.approx(2e-4)  # the clock was looked at twice: as the server and the client got a message
    yields: list[None] = []
    monkeypatch.setattr(os, "sched_yield", lambda: yields.append(None))
    assert not client.comes_now()  # it gives up, or this would never end
    assert yields  # others go first
    assert client.due == math.inf  # and goes on asleep
    server.send([b"answered"])
    assert client.receive() == [b"answered"]
    assert asked("short") < pipes.SPIN_SECONDS
    server.send([b"answered"])
    assert client.comes_now() and client.receive() == [b"answered"]
    assert asked("another") == math.inf
    server.send([b"answered"])
    clock.step = pipes.SHORT_SECONDS
    client.receive()
    assert asked("another") == math.inf  # that one took long


def test_where_there_is_one_processor_nothing_is_awaited_awake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
    server = MessagePipes.make()
    client = MessagePipes.attach(os.getpid(), **server.place)
    for _ in range(3):
        client.send([b"asked"])
        assert client.due == math.inf
        server.receive()
        server.send([b"answered"])
        assert client.receive() == [b"answered"]
    client.close()
    server.close()


def test_times_of_so_many_topics_are_remembered(ends: tuple[MessagePipes, MessagePipes]) -> None:
    client, server = ends
    for number in range(pipes.TOPICS + 5):
        client.send([b"asked"], str(number))
        server.receive()
        server.send([b"answered"])
        client.receive()
    assert len(client._took) == 5


def test_both_ends_of_a_link_wait_awake_for_requests_that_follow_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[MessagePipes] = []
    wait = MessagePipes.comes_now
    monkeypatch.setattr(MessagePipes, "comes_now", lambda end: (waited.append(end), wait(end))[1])
    # However slow the machine is.
    for where in ("pipes.SHORT_SECONDS", "pipes.SPIN_SECONDS", "server.SPIN_SECONDS"):
        monkeypatch.setattr(f"simulator.link.{where}", 60.0)
    with Server(CountingCells(), "tcp://127.0.0.1:0") as server:
        wire = Wire(chip_at(server.address))
        wire.exchange("ping", {}, {})
        theirs = server._sessions.pipes_of(wire.session)
        assert theirs is not None
        pipes_of(wire)._may_spin = theirs._may_spin = True

        def both_waited() -> bool:
            for _ in range(50):
                wire.exchange("ping", {}, {"n": NUMBERS})
            return {*waited} == {pipes_of(wire), theirs}

        assert eventually(both_waited)
        # An answer that is late is awaited asleep, and found.
        monkeypatch.setattr(pipes, "SHORT_SECONDS", 0.0)
        waited.clear()
        assert np.array_equal(wire.exchange("ping", {}, {"n": NUMBERS}).arrays["n"], NUMBERS) and pipes_of(wire) not in waited
        wire.close()


def test_what_nobody_asked_for_tells_no_time(ends: tuple[MessagePipes, MessagePipes]) -> None:
    client, server = ends
    client.send([b"asked"], "topic")
    for said in (b"answered", b"unasked"):
        took = dict(client._took)
        server.send([said])
        assert client.receive() == [said]
    assert client._took == took and set(took) == {"topic"}


def test_each_kind_of_request_has_a_time_of_its_own() -> None:
    with Server(CountingCells(), "tcp://127.0.0.1:0") as server:
        wire = Wire(chip_at(server.address))
        for kind in ("ping", "status"):
            wire.exchange(kind, {}, {})
        assert {"ping None", "status None"} <= set(pipes_of(wire)._took)
        wire.close()


def test_most_of_a_wait_is_slept(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(CountingCells(), "tcp://127.0.0.1:0") as server:
        wire = Wire(chip_at(server.address))
        wire.exchange("ping", {}, {})
        slept: list[int] = []
        with monkeypatch.context() as context:
            context.setattr(wire, "_poller", SimpleNamespace(poll=lambda milliseconds: slept.append(milliseconds) or []))
            for due, seconds in ((0.0042, 1.0), (0.0003, 1.0), (math.inf, 1.0), (0.0042, 0.002)):
                end = SimpleNamespace(due=due, comes_now=lambda: True, reads=5)
                context.setattr(wire, "_pipes", end)
                assert (5 in wire._ready(seconds)) == (due < seconds)
        assert slept == [3, 0, 100, 2]
        wire.close()


def test_a_server_sleeps_until_a_slow_client_asks_again() -> None:
    with Server(CountingCells(), "tcp://127.0.0.1:0") as server:
        wire = Wire(chip_at(server.address))
        wire.exchange("ping", {}, {})
        own = server._sessions.pipes_of(wire.session)
        assert own is not None
        own.comes_now = lambda: True  # type: ignore[method-assign]
        own._may_spin = True
        for seconds, awake in ((0.5 * pipes.SPIN_SECONDS, True), (1.5 * pipes.SPIN_SECONDS, False)):
            own._took[""], own._expected, own._spins = seconds, ("", 0.0), True
            assert own.due == seconds and server._asks_soon(wire.session) == awake
        wire.close()


def test_others_are_answered_while_one_client_asks_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for where in ("pipes.SHORT_SECONDS", "pipes.SPIN_SECONDS", "server.SPIN_SECONDS"):  # the server would wait for that one for ever
        monkeypatch.setattr(f"simulator.link.{where}", 60.0)
    with Server(CountingCells(), "tcp://127.0.0.1:0") as server:
        busy, other = Wire(chip_at(server.address)), Wire(chip_at(server.address, shared_memory=False))
        busy.exchange("ping", {}, {})
        pipe = server._sessions.pipes_of(busy.session)
        assert pipe is not None
        pipe._may_spin = True
        answered = threading.Event()

        def ask() -> None:
            other.exchange("status", {}, {})
            answered.set()

        thread = threading.Thread(target=ask)
        thread.start()
        assert eventually(lambda: (busy.exchange("ping", {}, {}), answered.is_set())[1])
        thread.join()
        busy.close()
        other.close()


def test_an_encoded_message_passes_as_it_is(ends: tuple[MessagePipes, MessagePipes]) -> None:
    frames = encode(Message("ping", bytes(16), 3, arrays={"n": NUMBERS, "empty": np.zeros(0)}))
    assert ends[0].send(frames) and ends[1].receive() == [bytes(frame) for frame in frames]
