"""One session over a socket: requests that are done once, whatever happens on the way, and errors within a stated time."""

import contextlib
import getpass
import math
import os
import secrets
import socket as sockets
import time
import weakref
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from devices.remote import RemoteChip
from simulator.link.addresses import CLIENTS, SERVER, LinkError, check_address, load_key, process_holder
from simulator.link.messages import MESSAGE_BYTES, Array, Frame, Message, MessageError, decode, encode
from simulator.link.pipes import BrokenPipeMessageError, MessagePipes
from simulator.link.protocol import SharedPlace
from simulator.link.shared_memory import SharedMemory
from simulator.link.sockets import BUFFER_BYTES, HEARTBEAT_MS, SILENCE_MS

RESEND_SECONDS = 5.0
"""After so long without an answer a request is sent again: the server does it once, however often it arrives."""
DAMAGED = 5
"""So many damaged messages in a row end a request."""


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
        if chip.address.startswith("tcp:") and chip.address.endswith((":0", ":*")):
            raise ValueError(f"Field `address` must have the port that the server told, but got {chip.address!r}")
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
        self._memory: SharedMemory | None = None
        self._pipes: MessagePipes | None = None
        self._may_share = chip.shared_memory and keys is None and SharedMemory.is_supported()
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
        # Of a wire that became garbage the context would wait for the sockets for ever.
        self._shared: list[SharedMemory | MessagePipes] = []
        self._let_go = weakref.finalize(self, _let_go, self._context, self._socket, self._monitor, self._shared)
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
        if self._may_share:
            self._may_share = False
            self._share()
        return self.result(self.submit(kind, body, arrays))

    def submit(self, kind: str, body: dict[str, Any], arrays: dict[str, Array]) -> int:
        """Send a request without waiting; returns its number, for `result`."""
        self._number += 1
        done = min(self._under_way, default=self._number) - 1
        try:
            frames = self._encoded(Message(kind, self.session, self._number, done, body, arrays))
        except BaseException:
            self._free(self._number)
            raise
        alone = not self._under_way
        self._under_way[self._number] = frames
        # Behind others it could overtake one that goes over the socket; and what begins or ends a session is for whoever serves now.
        by_pipe = alone and self._pipes is not None and self._lost_at is None and kind not in ("hello", "goodbye")
        if not by_pipe or self._pipes is None or not self._pipes.send(frames, f"{kind} {body.get('layer')}"):
            self._send(frames)
        return self._number

    def _encoded(self, message: Message) -> list[Frame]:
        try:
            frames = encode(message, self._memory)
        except MessageError as error:
            raise ValueError(f"the request to {self.chip.address} must be one that can be sent, but {error}") from None
        length = len(frames[0]) + sum(array.nbytes for array in message.arrays.values())
        if length > self._message_bytes:
            raise ValueError(
                f"the request `{message.kind}` to {self.chip.address} must have at most {self._message_bytes} bytes, but has {length}; "
                "read in smaller batches"
            )
        return frames

    def _free(self, number: int) -> None:
        """Let go of what a request has in shared memory; only where nobody will read it any more."""
        if self._memory is not None:
            self._memory.free(number)

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

    def _share(self) -> None:
        """Have long arrays pass through shared memory and short messages through pipes, where both processes are on this machine."""
        import zmq

        offer = self.result(self.submit("share", {}, {}))
        if offer.kind == "error" or not offer.body:
            return
        memory: SharedMemory | None = None
        pipes: MessagePipes | None = None
        try:
            place = SharedPlace.model_validate(offer.body)
            memory = SharedMemory.attach(place.process, place.descriptor, place.name)
            pipes = MessagePipes.attach(place.process, place.requests, place.answers)
        except (OSError, ValidationError):  # another machine, or another user's process
            pass
        token = b"" if memory is None or pipes is None else memory.token
        told = self.result(self.submit("shared", {"token": token}, {}))
        if told.kind == "answer" and told.body.get("shared") is True and pipes is not None:
            self._memory, self._pipes = memory, pipes
            self._shared += [one for one in (memory, pipes) if one is not None]
            self._poller.register(pipes.reads, zmq.POLLIN)
        else:
            for one in (memory, pipes):
                if one is not None:
                    one.close()

    def _wait(self, seconds: float) -> bool:
        """Take what arrives, events of the connection and answers; returns whether anything did."""
        import zmq

        ready = self._ready(seconds)
        # Events first, all of them: an answer may be that of a server that took the place of the one before, and they tell.
        while self._monitor in ready and self._monitor.poll(0):
            self._see_event()
        if self._socket in ready:
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:  # taken while an event was answered
                return True
            self._take([frame.buffer for frame in frames])
        if self._pipes is not None and self._pipes.reads in ready:
            self._take_from(self._pipes)
        return bool(ready)

    def _ready(self, seconds: float) -> dict[Any, int]:
        """Wait so long, or asleep until shortly before an answer is due and then awake; returns what has something to take."""
        import zmq

        due = math.inf if self._pipes is None else self._pipes.due
        if due > seconds or self._pipes is None:
            return dict(self._poller.poll(max(1, min(100, int(seconds * 1000)))))
        ready = dict(self._poller.poll(max(0, int(1000 * due - 0.5))))
        return {self._pipes.reads: zmq.POLLIN} if not ready and self._pipes.comes_now() else ready

    def _take_from(self, pipes: MessagePipes) -> None:
        try:
            frames = pipes.receive()
        except BrokenPipeMessageError as error:
            raise LinkError(f"the chip at {self.chip.address} must send messages whole, but {error}", "corrupt") from None
        if frames is not None:
            self._take(frames)

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
            message = decode(frames, memory_of=lambda session: self._memory)
        except MessageError as error:
            if error.code == "version":
                raise LinkError(f"the chip at {self.chip.address}: {error}", error.code) from None
            self._send_again(str(error))
            return
        if message.kind == "error" and message.number == -1:
            if message.body.get("code") not in ("corrupt", "malformed"):
                raise LinkError(f"the chip at {self.chip.address}: {message.body.get('text', '')}", str(message.body.get("code", "")))
            self._send_again(str(message.body.get("text", "")))
        elif message.session == self.session:
            self._free(message.number)  # also that of a request which was given up: its answer says that it has been read
            if self._under_way.pop(message.number, None) is not None:
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
        self._let_go()
        self._memory = self._pipes = None


def _let_go(context: Any, socket: Any, monitor: Any, shared: list[SharedMemory | MessagePipes]) -> None:
    socket.disable_monitor()
    monitor.close()
    socket.close()
    context.term()
    for one in shared:
        one.close()


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
