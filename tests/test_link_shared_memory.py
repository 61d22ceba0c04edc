"""Memory that a server and a client share: the same numbers as through the socket, never another's, and none left behind."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.link.addresses import LinkError, make_keys
from simulator.link.client import Connection
from simulator.link.messages import Message, MessageError, decode, encode
from simulator.link.server import Server
from simulator.link.shared_memory import ALIGNMENT, HALF_BYTES, SMALLEST_BYTES, SharedMemory, address_of
from simulator.link.wire import Wire
from tests.link_cable import Cable
from tests.link_devices import CountingCells, chip_at
from tests.link_proxy import Frames, Proxy
from tests.test_link_messages import SESSION, sealed

pytestmark = pytest.mark.skipif(not SharedMemory.is_supported(), reason="this system has no memory to share so")
TARGETS = np.linspace(1e-6, 1e-4, 12, dtype=np.float32).reshape(4, 3)
VOLTS = np.linspace(-1, 1, 4 * 4096, dtype=np.float32).reshape(4096, 4)
"""Long enough to be shared, and so are the currents."""
LONG = np.arange(SMALLEST_BYTES // 4, dtype=np.float32)


@pytest.fixture
def ends() -> Iterator[tuple[SharedMemory, SharedMemory]]:
    """A client's and a server's end of the same memory."""
    server = SharedMemory.make()
    client = SharedMemory.attach(**server.place)
    yield client, server
    client.close()
    server.close()


def read(connection: Connection, number: int = 1) -> np.ndarray:  # type: ignore[type-arg]
    return connection.request("read_cells", {"tile": 0, "read": number}, {"volts": VOLTS}).arrays["amperes"]


def program(connection: Connection) -> None:
    connection.request("program_cells", {"tile": 0, "seed": 0, "trial": 0}, {"targets": TARGETS})


def memory_of(connection: Connection) -> SharedMemory | None:
    assert connection._wire is not None
    return connection._wire._memory


def open_memories() -> int:
    """How many descriptors of this process are memory without a name."""
    found = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            found += os.readlink(f"/proc/self/fd/{name}").startswith("/memfd:inloop")
        except OSError:  # closed meanwhile, as that of the listing is
            continue
    return found


# the memory


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(0, 5), st.integers(SMALLEST_BYTES, 4 * SMALLEST_BYTES)),
            st.tuples(st.just("free"), st.integers(0, 5), st.just(0)),
        ),
        max_size=30,
    )
)
@settings(max_examples=50, deadline=None)
def test_what_is_under_way_stays_what_it_was_whatever_comes_and_goes(steps: list[tuple[str, int, int]]) -> None:
    server = SharedMemory.make()
    client = SharedMemory.attach(**server.place)
    under_way: list[tuple[int, int, np.ndarray]] = []  # type: ignore[type-arg]
    for count, (step, number, length) in enumerate(steps):
        if step == "put":
            values = np.full(length, count, np.uint8)
            offset = client.put(number, values)
            assert offset is not None
            under_way.append((number, offset, values))
        else:
            client.free(number)
            under_way = [one for one in under_way if one[0] != number]
        for _, offset, values in under_way:
            assert np.array_equal(server.take(offset, values.dtype, values.shape), values)
    client.close()
    server.close()


@pytest.mark.parametrize("dtype", ["<f4", "<f8", "|i1", "<i8", "|b1"])
def test_an_array_of_any_layout_passes_by_value(ends: tuple[SharedMemory, SharedMemory], dtype: str) -> None:
    client, server = ends
    values = (np.arange(3 * SMALLEST_BYTES) % 2).astype(dtype).reshape(3, -1).T[::2]
    for one, other in ((client, server), (server, client)):  # each way has its own half
        offset = one.put(0, values)
        assert offset is not None
        found = other.take(offset, values.dtype, values.shape)
        assert np.array_equal(found, values) and found.ctypes.data % ALIGNMENT == 0 and found.flags.writeable


def test_what_was_taken_does_not_change_with_the_memory(ends: tuple[SharedMemory, SharedMemory]) -> None:
    client, server = ends
    offset = client.put(0, LONG)
    assert offset is not None
    found = server.take(offset, LONG.dtype, LONG.shape)
    client.free(0)
    assert client.put(1, -LONG) == offset
    assert np.array_equal(found, LONG)


def test_short_arrays_and_those_without_room_are_not_put(ends: tuple[SharedMemory, SharedMemory]) -> None:
    client, _ = ends
    assert client.put(0, LONG[:-1]) is None
    assert client.put(0, np.zeros(HALF_BYTES + 1, np.uint8)) is None
    half = np.zeros(HALF_BYTES // 2, np.uint8)
    assert [client.put(n, half) for n in range(3)] == [0, HALF_BYTES // 2, None]
    client.free(0)
    assert client.put(3, half) == 0


def test_memory_that_the_system_does_not_give_is_not_written_to(
    ends: tuple[SharedMemory, SharedMemory], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: int) -> None:
        raise OSError("no memory left")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    assert ends[0].put(0, LONG) is None


@given(st.integers(0, 1 << 39) | st.integers(HALF_BYTES - 256, HALF_BYTES), st.lists(st.integers(0, 1 << 39), max_size=3))
@settings(max_examples=50, deadline=None)
def test_a_layout_beyond_the_memory_is_refused(offset: int, shape: list[int]) -> None:
    server = SharedMemory.make()
    layout = {"name": "v", "dtype": "<f8", "shape": shape, "offset": offset}
    frames = sealed({"kind": "x", "session": SESSION, "number": 0, "body": {}, "arrays": [layout]})
    length = 8 * int(np.prod(shape, dtype=object))
    try:
        found = decode(frames, 1 << 20, lambda session: server)
    except MessageError as error:
        assert error.code in ("malformed", "too_long")
        assert offset % ALIGNMENT or offset + length > HALF_BYTES or length > (1 << 20) - 500
    else:
        assert offset + length <= HALF_BYTES and not found.arrays["v"].any()
    server.close()


def test_a_layout_without_a_frame_is_refused_where_nothing_is_shared() -> None:
    layout = {"name": "v", "dtype": "<f4", "shape": [2], "offset": 0}
    with pytest.raises(MessageError, match="must have a frame, as no memory is shared") as refusal:
        decode(sealed({"kind": "x", "session": SESSION, "number": 0, "body": {}, "arrays": [layout]}))
    assert refusal.value.code == "no_session"


def test_what_is_lent_is_the_memory_itself_and_anything_else_a_copy(ends: tuple[SharedMemory, SharedMemory]) -> None:
    client, server = ends
    frames = encode(Message("read_layer", SESSION, 7, arrays={"inputs": LONG}), client)
    lent, copied = (decode(frames, memory_of=lambda _: server, lent=kinds).arrays["inputs"] for kinds in ({"read_layer"}, {"ping"}))
    assert np.array_equal(lent, LONG) and np.array_equal(copied, LONG) and address_of(lent) % ALIGNMENT == 0
    client.free(7)
    encode(Message("read_layer", SESSION, 8, arrays={"inputs": -LONG}), client)
    assert np.array_equal(lent, -LONG) and np.array_equal(copied, LONG)
    server.close()
    assert np.array_equal(lent, -LONG)  # it stays as long as somebody reads it


def test_only_a_trusted_device_gets_inputs_lent_and_may_answer_what_it_likes() -> None:
    class Careless(CountingCells):
        def read_layer(self, layer: str, state: str, read: int, inputs: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
            self.inputs = inputs
            return np.full((2, 3), np.nan, np.float32)

        def program_cells(self, tile: int, targets: np.ndarray, seed: int, trial: int) -> None:  # type: ignore[type-arg]
            self.kept = targets

    for trusted in (False, True):
        device = Careless()
        device.is_trusted = trusted
        with Server(device, "tcp://127.0.0.1:0") as server:
            connection = Connection(chip_at(server.address))
            body = {"layer": "1:head", "state": "s", "read": 1}
            if trusted:
                assert np.isnan(connection.request("read_layer", body, {"inputs": LONG}).arrays["outputs"]).all()
            else:
                with pytest.raises(LinkError, match="finite numbers"):
                    connection.request("read_layer", body, {"inputs": LONG})
            assert np.array_equal(device.inputs, LONG)
            connection.request("ping", arrays={"other": -LONG})  # takes the place of what has been answered
            assert np.array_equal(device.inputs, -LONG if trusted else LONG)
            connection.request("program_cells", {"tile": 0, "seed": 0, "trial": 0}, {"targets": LONG})
            connection.request("ping", arrays={"other": -LONG})
            assert np.array_equal(device.kept, LONG)  # which a device may keep
            del device.inputs  # it would keep the memory open
            connection.close()


def test_truth_values_in_memory_are_checked_too(ends: tuple[SharedMemory, SharedMemory]) -> None:
    client, server = ends
    frames = encode(Message("x", SESSION, 0, arrays={"v": np.ones(SMALLEST_BYTES, np.bool_)}), client)
    assert len(frames) == 1 and decode(frames, memory_of=lambda session: server).arrays["v"].all()
    client.free(0)
    client.put(0, np.full(SMALLEST_BYTES, 2, np.uint8))
    with pytest.raises(MessageError, match="must hold 0 and 1 only"):
        decode(frames, memory_of=lambda session: server)


def test_another_thing_at_the_place_is_refused(ends: tuple[SharedMemory, SharedMemory], tmp_path: Path) -> None:
    place = ends[1].place
    with (tmp_path / "file").open("w") as file, pytest.raises(OSError, match="is not 'inloop link"):
        SharedMemory.attach(**{**place, "descriptor": file.fileno()})
    with pytest.raises(OSError, match="is not 'inloop link of others'"):
        SharedMemory.attach(**{**place, "name": "inloop link of others"})


# over a link


@pytest.mark.parametrize("shared_memory", [True, False])
def test_long_arrays_pass_by_the_memory_with_the_same_numbers(shared_memory: bool) -> None:
    before = open_memories()
    with Server(CountingCells(), "tcp://127.0.0.1:0") as server:
        connection = Connection(chip_at(server.address, shared_memory=shared_memory))
        program(connection)
        for number in range(3):
            assert np.array_equal(read(connection, number), VOLTS @ TARGETS)
        assert (memory_of(connection) is not None) == shared_memory
        connection.close()
    assert open_memories() == before


def test_a_recording_is_the_same_with_and_without_shared_memory(tmp_path: Path) -> None:
    with Server(CountingCells(), "tcp://127.0.0.1:0") as server:
        for name in ("with", "without"):
            connection = Connection(chip_at(server.address, record=str(tmp_path / name), shared_memory=name == "with"))
            program(connection)
            read(connection)
            connection.close()
    assert (tmp_path / "with").read_bytes() == (tmp_path / "without").read_bytes()
    replay = Connection(chip_at(f"replay:{tmp_path / 'with'}"))
    program(replay)
    assert np.array_equal(read(replay), VOLTS @ TARGETS)


def test_with_keys_everything_passes_the_socket(tmp_path: Path) -> None:
    make_keys(tmp_path, ["alice"])
    with Server(CountingCells(), "tcp://127.0.0.1:0", keys=tmp_path) as server:
        connection = Connection(chip_at(server.address, keys=str(tmp_path)))
        program(connection)
        assert np.array_equal(read(connection), VOLTS @ TARGETS) and memory_of(connection) is None
        assert connection.request("share").body == {}  # not for a client that asks for it either
        connection.close()


def elsewhere(*_: Any, **__: Any) -> SharedMemory:
    raise FileNotFoundError("on another machine")


@pytest.mark.parametrize("why", ["another machine", "wrong secret", "enough clients", "older server"])
def test_where_memory_cannot_be_shared_arrays_pass_the_socket(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_memories()
    with Server(CountingCells(), "tcp://127.0.0.1:0") as server:
        if why == "another machine":
            monkeypatch.setattr(SharedMemory, "attach", elsewhere)
        elif why == "wrong secret":
            monkeypatch.setattr(SharedMemory, "holds", lambda self, token: False)
        elif why == "enough clients":
            monkeypatch.setattr("simulator.link.sessions.SHARING", 0)
        else:
            del server._handlers["share"]
        connection = Connection(chip_at(server.address))
        program(connection)
        assert np.array_equal(read(connection), VOLTS @ TARGETS) and memory_of(connection) is None
        assert open_memories() == before
        connection.close()


@pytest.mark.parametrize("direction", ["request", "answer"])
@pytest.mark.parametrize("fault", ["repeated", "damaged"])
def test_a_fault_on_the_way_of_what_tells_the_place_changes_no_numbers(direction: str, fault: str) -> None:
    def tamper(which: str, count: int, frames: Frames) -> list[Frames]:
        if which != direction:
            return [frames]
        if fault == "repeated":
            return [frames, frames]
        damaged = bytearray(frames[0])
        damaged[(7 * count + 3) % len(damaged)] ^= 0x10
        return [[bytes(damaged), *frames[1:]]] if count % 2 else [frames]

    device = CountingCells()
    with Server(device, "tcp://127.0.0.1:0") as server, Proxy(server.address, tamper) as proxy:
        connection = Connection(chip_at(proxy.address))
        program(connection)
        for number in range(3):
            assert np.array_equal(read(connection, number), VOLTS @ TARGETS)
        assert memory_of(connection) is not None and (device.programmed, device.reads) == (1, 3)
        connection.close()


def test_memory_is_shared_anew_with_a_server_that_took_the_place() -> None:
    with Server(CountingCells(), "tcp://127.0.0.1:0") as first, Cable(first.address) as cable:
        connection = Connection(chip_at(cable.address))
        program(connection)
        read(connection)
        cable.cut()
        kept = memory_of(connection)
        assert np.array_equal(read(connection, 2), VOLTS @ TARGETS) and memory_of(connection) is kept is not None
        with Server(CountingCells(), "tcp://127.0.0.1:0") as second:
            cable.lead_to(second.address)
            first.close()
            cable.cut()
            with pytest.raises(LinkError, match="restarted: what it held is gone"):
                read(connection, 3)
            program(connection)
            assert np.array_equal(read(connection), VOLTS @ TARGETS)
            assert memory_of(connection) not in (None, kept)
            connection.close()


def test_the_place_of_a_request_that_was_given_up_is_kept_until_it_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(CountingCells(), "tcp://127.0.0.1:0") as server:
        wire = Wire(chip_at(server.address))
        assert np.array_equal(wire.exchange("ping", {}, {"n": LONG}).arrays["n"], LONG)
        with monkeypatch.context() as patch:
            patch.setattr(wire, "_wait", lambda seconds: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                wire.exchange("ping", {}, {"n": LONG})
        assert wire._memory is not None and len(wire._memory._used) == 1
        number = wire.submit("ping", {}, {"n": 2 * LONG})
        assert {place[0] for place in wire._memory._used} == {0, SMALLEST_BYTES}  # beside what nobody waits for
        assert np.array_equal(wire.result(number).arrays["n"], 2 * LONG)
        assert not wire._memory._used
        with pytest.raises(ValueError, match="dtype"):
            wire.exchange("ping", {}, {"n": LONG, "m": LONG.astype(">f4")})
        assert not wire._memory._used
        wire.close()


def test_more_than_there_is_room_for_passes_the_socket_beside_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    values = [np.full(HALF_BYTES // 12, n, np.float32) for n in range(4)]  # three of them fill a half
    with Server(CountingCells(), "tcp://127.0.0.1:0") as server:
        wire = Wire(chip_at(server.address))
        wire.exchange("ping", {}, {"n": LONG})
        sent: list[int] = []
        send = wire._send
        monkeypatch.setattr(wire, "_send", lambda frames: (sent.append(len(frames)), send(frames)))
        numbers = [wire.submit("ping", {}, {"n": value}) for value in values]
        for number, value in zip(numbers, values, strict=True):
            assert np.array_equal(wire.result(number).arrays["n"], value)
        assert 1 in sent and 2 in sent
        wire.close()
