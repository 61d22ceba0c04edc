"""Talking to a chip elsewhere: requests that are done once, errors within a stated time, one connection for all layers."""

import atexit
import contextlib
import getpass
import os
import secrets
import socket as sockets
import threading
import time
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from devices.remote import RemoteChip
from simulator.link.addresses import CLIENTS, SERVER, InputError, LinkError, check_address, load_key, process_holder
from simulator.link.device import Description
from simulator.link.messages import MESSAGE_BYTES, Array, Frame, Message, MessageError, decode, encode
from simulator.link.recording import SCHEME, Recorder, Replay, anonymous
from simulator.link.server import BUFFER_BYTES, HEARTBEAT_MS, SILENCE_MS

RESEND_SECONDS = 5.0
"""After so long without an answer a request is sent again: the server does it once, however often it arrives."""
DAMAGED = 5
"""So many damaged messages in a row end a request."""


class Connection:
    """A session with a device.

    Parameters
    ----------
    chip
        Address, keys, how long to wait, and whether to record.
    holder
        16 bytes that connections which share a lease have in common; by default those of this process and its workers.

    Raises
    ------
    LinkError
        Where the chip does not answer in time, refuses, went away, or is held by another client.

    Examples
    --------
    >>> from devices import RRAMCrossbar
    >>> from simulator.link.server import Server
    >>> from simulator.link.simulated import SimulatedDevice
    >>> with Server(SimulatedDevice(RRAMCrossbar.preset("wan_nature_2022")), "tcp://127.0.0.1:0") as server:
    ...     connection = Connection(RemoteChip(address=server.address))
    ...     print(connection.describe().name)
    ...     connection.close()
    simulated RRAMCrossbar
    """

    def __init__(self, chip: RemoteChip, holder: bytes | None = None) -> None:
        self.chip = chip
        self._holder = holder
        self._lock = threading.RLock()
        self._handles = 0
        self._closing: list[tuple[bytes, str]] = []
        self._failed: bytes | None = None
        self._recorder = None if chip.record is None else Recorder(Path(chip.record))
        self._exchanges = 0
        self._replay = Replay(Path(chip.address.removeprefix(SCHEME))) if chip.address.startswith(SCHEME) else None
        self._wire: Wire | None = None

    def describe(self) -> Description:
        """Return what the device says of itself."""
        body = self.request("describe").body
        try:
            return Description.model_validate(body)
        except ValidationError:
            raise LinkError(f"the chip at {self.chip.address} must describe itself as the protocol says, but does not") from None

    def request(self, kind: str, body: dict[str, Any] | None = None, arrays: dict[str, Array] | None = None) -> Message:
        """Return the answer to one request.

        Raises
        ------
        LinkError
            With the server's code and words where it refused.
        """
        body, arrays = body or {}, arrays or {}
        with self._lock:
            while self._closing:
                self._close_layer(*self._closing.pop())
            answer = self._exchange(kind, body, arrays)
            if answer.kind == "error":
                text, code = str(answer.body.get("text", "")), str(answer.body.get("code", ""))
                if code == "no_session":
                    self._end_session()
                raise (InputError if code == "input" else LinkError)(f"the chip at {self.chip.address}: {text}", code)
        return answer

    @property
    def session(self) -> bytes | None:
        """What tells this session from those before and after it: layers that were opened in another one are gone."""
        if self._replay is not None:
            return SCHEME.encode()
        return None if self._wire is None else self._wire.session

    def _close_layer(self, session: bytes, handle: str) -> None:
        # When garbage is collected is not the session's: a recording neither holds nor expects it.
        if self._wire is not None and session == self.session:
            self._exchange("close_layer", {"layer": handle}, {}, recorded=False)

    def _end_session(self) -> None:
        """Let go of a session that failed; the next request begins another, which takes its place at the server."""
        if self._wire is not None:
            self._failed = self._wire.session
            self._wire.close()
            self._wire = None

    def _exchange(self, kind: str, body: dict[str, Any], arrays: dict[str, Array], *, recorded: bool = True) -> Message:
        if self._replay is not None:
            return self._replay.request(kind, body, arrays)
        if self._wire is None:
            self._wire = Wire(self.chip, self._holder, replaces=self._failed)
        try:
            answer = self._wire.exchange(kind, body, arrays)
        except LinkError:
            self._end_session()
            raise
        if self._recorder is not None and recorded:
            asked = Message(kind, bytes(16), 0, body=body, arrays=arrays)
            self._recorder.add(anonymous(asked, self._exchanges), anonymous(answer, self._exchanges))
            self._exchanges += 1
        return answer

    def new_handle(self, name: str) -> str:
        """Return a handle for a layer that this session has not used yet."""
        with self._lock:
            self._handles += 1
            return f"{self._handles}:{name}"[:256]

    def close_later(self, session: bytes, handle: str) -> None:
        """Have the device forget a layer of a session before the next request; for a layer that is garbage already."""
        self._closing.append((session, handle))

    def close(self) -> None:
        """Give the lease back and end the session."""
        with self._lock:
            if self._wire is not None:
                self._wire.close(polite=True)
                self._wire = None
            if self._recorder is not None:
                self._recorder.close()


class Wire:
    """A socket with the requests that are under way on it.

    Parameters
    ----------
    chip
        Address, keys, and how long to wait.
    holder
        16 bytes that sessions which share a lease have in common; by default those of this process and its workers.
    replaces
        A session of this client that failed: the server ends it when this one begins.
    """

    def __init__(self, chip: RemoteChip, holder: bytes | None = None, *, replaces: bytes | None = None) -> None:
        import zmq

        keys = None if chip.keys is None else Path(chip.keys)
        check_address(chip.address, keys)
        certificates = None
        if keys is not None:
            own = load_key(_own_key(keys), "Field `keys`: the client's key", secret=True)
            certificates = own, load_key(keys / f"{SERVER}.key", "Field `keys`: the server's key", secret=False)
        self.chip = chip
        self.session = secrets.token_bytes(16)
        self.instance: str | None = None
        self._holder = holder or process_holder()
        self._replaces = replaces
        self._message_bytes = MESSAGE_BYTES
        self._number = -1
        self._under_way: dict[int, list[Frame]] = {}
        self._answers: dict[int, Message] = {}
        self._damaged = 0
        self._lost_at: float | None = time.monotonic()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        for option, value in (
            (zmq.LINGER, 200), (zmq.IDENTITY, self.session), (zmq.SNDHWM, 0), (zmq.RCVHWM, 0), (zmq.RECONNECT_IVL, 50),
            (zmq.RECONNECT_IVL_MAX, 500), (zmq.HEARTBEAT_IVL, HEARTBEAT_MS), (zmq.HEARTBEAT_TIMEOUT, SILENCE_MS),
            (zmq.IPV6, int("[" in chip.address)), (zmq.SNDBUF, BUFFER_BYTES), (zmq.RCVBUF, BUFFER_BYTES), (zmq.MAXMSGSIZE, MESSAGE_BYTES),
        ):  # fmt: skip
            self._socket.setsockopt(option, value)
        self._socket.copy_threshold = BUFFER_BYTES
        if certificates is not None:
            own, server = certificates
            self._socket.curve_secretkey, self._socket.curve_publickey = own.secret, own.public
            self._socket.curve_serverkey = server.public
        self._monitor = self._socket.get_monitor_socket()
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        try:
            self._socket.connect(chip.address)
        except zmq.ZMQError as error:
            self.close()
            raise ValueError(f"Field `address` must be one that can be reached, but got {chip.address!r} ({error.strerror})") from None

    def exchange(self, kind: str, body: dict[str, Any], arrays: dict[str, Array]) -> Message:
        """Send a request and return its answer."""
        if self.instance is None:
            self._meet()
        return self.result(self.submit(kind, body, arrays))

    def submit(self, kind: str, body: dict[str, Any], arrays: dict[str, Array]) -> int:
        """Send a request without waiting; returns its number, for `result`."""
        self._number += 1
        done = min(self._under_way, default=self._number) - 1
        try:
            frames = encode(Message(kind, self.session, self._number, done, body, arrays))
        except MessageError as error:
            raise ValueError(f"the request to {self.chip.address} must be one that can be sent, but {error}") from None
        if sum(map(len, frames)) > self._message_bytes:
            raise ValueError(
                f"the request `{kind}` to {self.chip.address} must have at most {self._message_bytes} bytes, but has "
                f"{sum(map(len, frames))}; read in smaller batches"
            )
        self._under_way[self._number] = frames
        self._send(frames)
        return self._number

    def result(self, number: int) -> Message:
        """Wait for the answer to a request.

        Raises
        ------
        LinkError
            Where none comes in `timeout_seconds`, or the connection is gone for longer than `reconnect_seconds`.
        """
        try:
            return self._awaited(number)
        except BaseException:
            self._under_way.pop(number, None)  # nobody will ask for it again, whatever interrupted
            raise

    def _awaited(self, number: int) -> Message:
        deadline = time.monotonic() + self.chip.timeout_seconds
        again = time.monotonic() + RESEND_SECONDS
        while number not in self._answers:
            now = time.monotonic()
            if now > again and self._lost_at is None:
                self._send(self._under_way[number])
                again = now + RESEND_SECONDS
            if not self._wait(min(deadline, again) - now):  # what has arrived counts, however late it is looked at
                self._require_time(deadline)
        return self._answers.pop(number)

    def _require_time(self, deadline: float) -> None:
        """Refuse to wait any longer than was stated."""
        chip, now = self.chip, time.monotonic()
        if self._lost_at is not None and now - self._lost_at > chip.reconnect_seconds:
            state = "does not answer" if self.instance is None else "went away"
            raise LinkError(
                f"the chip at {chip.address} {state}, and could not be reached for {chip.reconnect_seconds:g} s; "
                "see that it is served (inloop serve), then program it again",
                "lost",
            )
        if now > deadline:
            raise LinkError(
                f"the chip at {chip.address} must answer within {chip.timeout_seconds:g} s (timeout_seconds), but did not; "
                f"see whether it is at work (inloop link {chip.address}), then program it again",
                "timeout",
            )

    def _meet(self) -> None:
        hello = self.result(self.submit("hello", {"client": _own_name(), "holder": self._holder, "replaces": self._replaces}, {}))
        if hello.kind == "error":
            raise LinkError(f"the chip at {self.chip.address}: {hello.body.get('text', '')}", str(hello.body.get("code", "")))
        instance = str(hello.body.get("instance", ""))
        if self.instance is not None and instance != self.instance:
            raise LinkError(
                f"the chip at {self.chip.address} must be the one that was programmed, but was restarted: what it held is gone; "
                "calibrate and program it again",
                "restarted",
            )
        self.instance = instance
        given = hello.body.get("message_bytes")
        self._message_bytes = given if isinstance(given, int) else MESSAGE_BYTES

    def _wait(self, seconds: float) -> bool:
        """Take what arrives, events of the connection and answers; returns whether anything did."""
        import zmq

        ready = dict(self._poller.poll(max(1, min(100, int(seconds * 1000)))))
        # Events first, all of them: an answer may be that of a server that took the place of the one before, and they tell.
        while self._monitor in ready and self._monitor.poll(0):
            self._see_event()
        if self._socket in ready:
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:  # taken while an event was answered
                return True
            self._take([frame.buffer for frame in frames])
        return bool(ready)

    def _see_event(self) -> None:
        import zmq
        from zmq.utils.monitor import recv_monitor_message

        event = recv_monitor_message(self._monitor)["event"]
        if event in (zmq.EVENT_HANDSHAKE_FAILED_AUTH, zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL):
            raise LinkError(
                f"the chip at {self.chip.address} must know this client's key and have the server's key given here, but refused; "
                "check `keys` on both sides",
                "keys",
            )
        if event == zmq.EVENT_DISCONNECTED and self._lost_at is None:
            self._lost_at = time.monotonic()
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            back = self._lost_at is not None and self.instance is not None
            self._lost_at = None
            if back:
                waiting = list(self._under_way.values())
                self._meet()  # is it still the same, with what was programmed?
                for frames in waiting:
                    self._send(frames)

    def _take(self, frames: list[Frame]) -> None:
        try:
            message = decode(frames)
        except MessageError as error:
            if error.code == "version":
                raise LinkError(f"the chip at {self.chip.address}: {error}", error.code) from None
            self._send_again(str(error))
            return
        if message.kind == "error" and message.number == -1:
            if message.body.get("code") not in ("corrupt", "malformed"):
                raise LinkError(f"the chip at {self.chip.address}: {message.body.get('text', '')}", str(message.body.get("code", "")))
            self._send_again(str(message.body.get("text", "")))
        elif message.session == self.session and self._under_way.pop(message.number, None) is not None:
            self._damaged = 0
            self._answers[message.number] = message

    def _send_again(self, why: str) -> None:
        """Ask again for everything that is under way: a message was damaged, on its way here or there."""
        self._damaged += 1
        if self._damaged > DAMAGED:
            raise LinkError(
                f"the connection to {self.chip.address} must carry messages whole, but damaged {DAMAGED} in a row ({why})", "corrupt"
            )
        for frames in list(self._under_way.values()):
            self._send(frames)

    def _send(self, frames: list[Frame]) -> None:
        self._socket.send_multipart(frames, copy=False)

    def close(self, polite: bool = False) -> None:
        """End the session; a polite one says so, and waits until the server has forgotten it, unless that one is gone itself."""
        if self._context.closed:
            return
        if polite and self._lost_at is None and self.instance is not None:
            with contextlib.suppress(LinkError):
                number, deadline = self.submit("goodbye", {}, {}), time.monotonic() + self.chip.reconnect_seconds
                while number in self._under_way and self._lost_at is None and time.monotonic() < deadline:
                    self._wait(deadline - time.monotonic())
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close()
        self._context.term()


def _own_key(folder: Path) -> Path:
    """Return the only secret key of a client in a folder."""
    found = sorted([*folder.glob("*.key_secret"), *(folder / CLIENTS).glob("*.key_secret")])
    found = [path for path in found if path.name != f"{SERVER}.key_secret"]
    if len(found) != 1:
        raise ValueError(f"Field `keys` must be a folder with the secret key of one client, but {str(folder)!r} has {len(found)}")
    return found[0]


def _own_name() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "somebody"
    return f"{user}@{sockets.gethostname()}, process {os.getpid()}"[:256]


_connections: dict[RemoteChip, Connection] = {}
_owner = os.getpid()


def connect(chip: RemoteChip) -> Connection:
    """Return this process's connection to a chip: all layers and copies share one session, and so one lease.

    Examples
    --------
    >>> chip = RemoteChip(address="tcp://127.0.0.1:9")
    >>> connect(chip) is connect(chip)
    True
    """
    global _owner  # noqa: PLW0603  # a socket must not be used by a child that was forked
    if _owner != os.getpid():
        _connections.clear()
        _owner = os.getpid()
    if chip not in _connections:
        _connections[chip] = Connection(chip)
    return _connections[chip]


def forget(chip: RemoteChip, opened: dict[str, bytes]) -> None:
    """Have a chip forget a layer that is garbage here, if there still is a connection; `opened` has its handle and session.

    Examples
    --------
    >>> forget(RemoteChip(address="tcp://127.0.0.1:9"), {"1:head": bytes(16)})
    """
    connection = _connections.get(chip)
    if connection is not None and _owner == os.getpid():
        for handle, session in opened.items():
            connection.close_later(session, handle)


def disconnect(chip: RemoteChip | str) -> None:
    """Give a chip's lease back and end this process's sessions with it; the next read begins another.

    Layers that were programmed on it are gone there: ``program`` sends them again. A process that ends disconnects by itself.

    Parameters
    ----------
    chip
        The `devices.RemoteChip`; or an address, for all that this process has connected to there.

    Raises
    ------
    ValueError
        Where `chip` is neither; one that this process is not connected to is left as it is.

    Examples
    --------
    >>> disconnect("tcp://127.0.0.1:9")
    """
    if not isinstance(chip, RemoteChip) and not (isinstance(chip, str) and chip.startswith(("tcp://", "ipc://", SCHEME))):
        raise ValueError(f"Argument `chip` must be a RemoteChip, or an address as tcp://127.0.0.1:5555, but got {chip!r}; give one")
    for known in [one for one in _connections if chip in (one, one.address)]:
        _connections.pop(known).close()


@atexit.register
def _disconnect_all() -> None:
    if _owner == os.getpid():
        for chip in list(_connections):
            disconnect(chip)
