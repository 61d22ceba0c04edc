"""Talking to a chip elsewhere: one connection for all layers of a process, recorded or replayed."""

import atexit
import os
import threading
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from devices.remote import RemoteChip
from simulator.link.addresses import InputError, LinkError
from simulator.link.device import Description
from simulator.link.messages import Array, Message
from simulator.link.recording import SCHEME, Recorder, Replay, anonymous
from simulator.link.sockets import require_packages
from simulator.link.wire import Wire


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
    ImportError
        Where the extra ``link`` is not installed.
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
        require_packages()
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


_connections: dict[RemoteChip, Connection] = {}
_latest: list[tuple[RemoteChip, Connection]] = []
"""The one that was asked for last, if any was: to look a chip up takes longer than most of what a read does beside the chip."""
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
        _latest.clear()
        _owner = os.getpid()
    if not _latest or _latest[0][0] is not chip:
        if chip not in _connections:
            _connections[chip] = Connection(chip)
        _latest[:] = [(chip, _connections[chip])]
    return _latest[0][1]


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
        shown = repr(chip) if chip is None or isinstance(chip, str | int | float) else f"a {type(chip).__name__}"
        raise ValueError(f"Argument `chip` must be a RemoteChip, or an address as tcp://127.0.0.1:5555, but got {shown}; give one")
    _latest.clear()
    for known in [one for one in _connections if chip in (one, one.address)]:
        _connections.pop(known).close()


@atexit.register
def _disconnect_all() -> None:
    if _owner == os.getpid():
        for chip in list(_connections):
            disconnect(chip)
