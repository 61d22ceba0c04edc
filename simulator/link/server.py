"""Serving a device: one request at a time, each done once, for the client that holds the lease."""

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Self

from simulator.link.addresses import CLIENTS, SERVER, check_address, load_key, require_free
from simulator.link.device import Device, DeviceError, NoRoomError, NotTakenError
from simulator.link.handlers import Answer, Handler, handlers
from simulator.link.messages import MESSAGE_BYTES, Frame, Message, MessageError, as_plain, decode, encode, one_line
from simulator.link.pipes import SPIN_SECONDS, BrokenPipeMessageError
from simulator.link.protocol import KINDS, Hello, Request, needs_lease, read_request
from simulator.link.sessions import Session, Sessions, logger
from simulator.link.sockets import BUFFER_BYTES, HEARTBEAT_MS, SILENCE_MS, require_packages
from simulator.link.watch import Watch

KEPT_ANSWERS = 64
"""Answers kept for a client that has not said that it got them; more requests than that may not be under way."""
WITHOUT_DEVICE = frozenset({"hello", "goodbye", "share", "shared", "ping", "describe", "status", "acquire", "release"})
"""Requests that the server answers itself, between or during those that the device works on."""
TURN_SECONDS = 0.005
"""For so long at most requests of one client are taken without a look at what others ask."""
LENT = frozenset({"read_layer"})
"""Requests whose arrays a trusted device reads where the client has put them."""
Arrived = tuple[Callable[[list[Frame]], None], list[Frame]]
"""How an answer is sent to where some frames came from, and the frames."""


class Server:
    """A device on a ZeroMQ address.

    The device works in the thread that serves, one request at a time. While it does, another thread tells others who it works for.

    Parameters
    ----------
    device
        What does the work.
    address
        ``tcp://127.0.0.1:5555``; port 0 takes a free one, which `address` then tells. Other machines can reach any address that is
        not loopback: it needs keys.
    keys
        Folder that `simulator.link.make_keys` made: clients whose public keys lie in ``clients`` are let in, no others.
    lease_seconds
        How long a client that fell silent keeps the device from others.
    message_bytes
        Longest message that is taken.
    clock
        Tells seconds: when a client fell silent.

    Examples
    --------
    >>> from devices import RRAMCrossbar
    >>> from simulator.link.simulated import SimulatedDevice
    >>> with Server(SimulatedDevice(RRAMCrossbar.preset("wan_nature_2022")), "tcp://127.0.0.1:0") as server:
    ...     server.address.startswith("tcp://127.0.0.1:")
    True
    """

    def __init__(
        self,
        device: Device,
        address: str = "tcp://127.0.0.1:5555",
        *,
        keys: Path | None = None,
        lease_seconds: float = 60.0,
        message_bytes: int = MESSAGE_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        require_packages()
        import zmq
        from zmq.auth.thread import ThreadAuthenticator

        check_address(address, keys)
        self.device = device
        self._description = device.describe().model_dump()
        self._handlers = handlers(device) | self._own_handlers()
        self._own = threading.Lock()
        """Held by the thread that has the socket and the sessions: the serving one, but while the device works."""
        self._watch = Watch(self._look_around)
        self._busy: tuple[bytes, Message] | None = None
        self._waiting: deque[Arrived] = deque()
        self.instance = secrets.token_hex(8)
        self.message_bytes = message_bytes
        self._sessions = Sessions(lease_seconds, clock, lambda session: device.close_client(session.hex()))
        self._shares = keys is None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._context = zmq.Context()
        self._authenticator: ThreadAuthenticator | None = None
        self._socket = self._context.socket(zmq.ROUTER)
        for option, value in (
            (zmq.LINGER, 1000), (zmq.MAXMSGSIZE, message_bytes), (zmq.ROUTER_HANDOVER, 1), (zmq.SNDHWM, 0), (zmq.RCVHWM, 64),
            (zmq.HEARTBEAT_IVL, HEARTBEAT_MS), (zmq.HEARTBEAT_TIMEOUT, SILENCE_MS), (zmq.IPV6, int("[" in address)),
            (zmq.SNDBUF, BUFFER_BYTES), (zmq.RCVBUF, BUFFER_BYTES),
        ):  # fmt: skip
            self._socket.setsockopt(option, value)
        self._socket.copy_threshold = BUFFER_BYTES
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | _refused_handshakes())
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        self._listened: set[int] = set()
        self._latest: bytes | None = None
        """The session that was answered last, if that was through its pipe."""
        self._looked = 0.0
        try:
            if keys is not None:
                self._require_keys(Path(keys), ThreadAuthenticator(self._context))
            require_free(address)
            self._socket.bind(address)
        except zmq.ZMQError as error:
            self.close()
            raise ValueError(f"Argument `address` must be free and of this machine, but {address!r} is not ({error.strerror})") from None
        except ValueError:
            self.close()
            raise
        self.address: str = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    def _require_keys(self, folder: Path, authenticator: Any) -> None:
        certificate = load_key(folder / f"{SERVER}.key_secret", "Argument `keys`: the server's key", secret=True)
        self._authenticator = authenticator
        authenticator.start()
        authenticator.configure_curve(domain="*", location=str(folder / CLIENTS))
        self._socket.curve_secretkey, self._socket.curve_publickey = certificate.secret, certificate.public
        self._socket.curve_server = True

    def run(self) -> None:
        """Serve until `stop` is called; a message that cannot be taken is answered and logged, and the next one is served."""
        import zmq

        with self._own, self._watch:
            while not self._stop.is_set():
                if self._waiting:
                    self._reply(*self._waiting.popleft())
                    continue
                try:
                    self._waiting += self._arrived(100)
                except zmq.ZMQError:
                    if self._stop.is_set():  # whoever stops this did not wait for it
                        return
                    raise

    def _log_event(self) -> None:
        import zmq
        from zmq.utils.monitor import recv_monitor_message

        if recv_monitor_message(self._monitor)["event"] == zmq.EVENT_DISCONNECTED:
            logger.info("a connection ended: its client left, or sent a message of more than %d bytes", self.message_bytes)
        else:
            logger.warning("refused a client: its keys, or what it speaks, are not those of this server")

    def _arrived(self, milliseconds: int) -> list[Arrived]:
        """Wait so long for messages; returns one from each place where some have come."""
        import zmq

        latest, self._latest = self._latest, None
        if milliseconds and latest is not None:
            # Whoever asks again and again is not let before others.
            if time.monotonic() > self._looked + TURN_SECONDS and (others := self._arrived(0)):
                return others
            if self._asks_soon(latest):
                return self._piped(latest)
        self._looked = time.monotonic()
        sessions = self._sessions.by_pipe()
        for gone in self._listened - sessions.keys():
            self._poller.unregister(gone)
        for new in sessions.keys() - self._listened:
            self._poller.register(new, zmq.POLLIN)
        self._listened = set(sessions)
        found: list[Arrived] = []
        for place, _ in self._poller.poll(milliseconds):
            if place is self._monitor:
                self._log_event()
            elif place is self._socket:
                identity, *frames = self._socket.recv_multipart(copy=False)
                found.append((partial(self._send, identity.bytes), [frame.buffer for frame in frames]))
            elif place in sessions:  # of a socket that whoever stops this has closed, another number is told
                found += self._piped(sessions[place])
        return found

    def _asks_soon(self, session: bytes) -> bool:
        """Wait awake for a client that asked soon after the answer before."""
        pipes = self._sessions.pipes_of(session)
        return pipes is not None and pipes.due < SPIN_SECONDS and pipes.comes_now()

    def _piped(self, session: bytes) -> list[Arrived]:
        pipes = self._sessions.pipes_of(session)
        try:
            frames = None if pipes is None else pipes.receive()
        except BrokenPipeMessageError as error:
            logger.warning("ended the session of %s: %s", self._sessions[session].client, error)
            self._sessions.end(session)
            if self._busy is None:
                self._sessions.forget_ended()
            frames = None
        return [] if frames is None else [(partial(self._send_by_pipe, session), frames)]

    def _send(self, identity: bytes, answer: list[Frame]) -> None:
        self._socket.send_multipart([identity, *answer], copy=False)

    def _send_by_pipe(self, session: bytes, answer: list[Frame]) -> None:
        """Send an answer through the pipe that its request came by; over the socket where it is long, or the pipe gone or full."""
        pipes = self._sessions.pipes_of(session)
        if pipes is not None and pipes.send(answer):
            self._latest = session
        else:
            self._send(session, answer)

    def _reply(self, send: Callable[[list[Frame]], None], frames: list[Frame]) -> None:
        try:
            answer = self._answer(frames)
        except Exception:  # whatever it is, the next message must be served
            logger.exception("could not answer a message")
            return
        if answer is not None:
            send(answer)

    def start(self) -> Self:
        """Serve in a thread of this process; one that serves already goes on."""
        if self._thread is not None:
            return self
        if self._context.closed:
            raise ValueError(f"a server must be open to serve, but that of {self.address} was closed; make another")
        self._thread = threading.Thread(target=self.run, name="inloop server", daemon=True)
        self._thread.start()
        return self

    def wait(self) -> None:
        """Wait until the thread that `start` began ends."""
        if self._thread is not None:
            self._thread.join()

    def stop(self) -> None:
        """End `run` after the request that is under way."""
        self._stop.set()
        if self._thread is not None:
            if self._busy is not None:
                logger.info("finishing what the device is at work on; Ctrl-C again leaves it half done")
            self._thread.join()
            self._thread = None

    def close(self) -> None:
        """Stop, and let go of the address and of the device, once it has done what is under way."""
        self.stop()
        if self._authenticator is not None:
            self._authenticator.stop()
            self._authenticator = None
        if not self._context.closed:
            self._socket.disable_monitor()
            self._monitor.close()
            self._socket.close()
            self._context.term()
            self._sessions.close()
            self.device.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *error: object) -> None:
        self.close()

    def _answer(self, frames: list[Frame]) -> list[Frame] | None:
        """Return the frames that answer some frames, or None where nothing needs to be said."""
        try:
            message = decode(frames, self.message_bytes, self._sessions.memory_of, LENT if self.device.is_trusted else frozenset())
        except MessageError as error:
            logger.warning("refused a message: %s", error)
            return _refusal(error.session, error.number, error.code, str(error))
        try:
            return self._answer_once(message)
        except MessageError as error:
            logger.warning("refused `%s`: %s", message.kind, error)
            return _refusal(message.session, message.number, error.code, str(error))
        finally:
            if self._busy is None:
                self._sessions.forget_ended()

    def _answer_once(self, message: Message) -> list[Frame] | None:
        if message.kind in ("hello", "goodbye"):
            return self._greet(message)
        session = self._sessions.seen(message.session)
        session.settle(message.done)
        if message.number <= session.done:
            return None  # a copy that came late: its answer has arrived long ago
        if message.number not in session.answers:
            if len(session.answers) >= KEPT_ANSWERS:
                raise MessageError("too_many", f"at most {KEPT_ANSWERS} requests may be under way, but there are more; wait for answers")
            session.answers[message.number] = message.kind, self._do(message, session)
        kind, answer = session.answers[message.number]
        if kind != message.kind:
            raise MessageError("reused", f"number {message.number} must be that of one request, but was that of `{kind}`; count on")
        return answer

    def _greet(self, message: Message) -> list[Frame]:
        """Begin a session, and end the one that it takes the place of; or end one."""
        fields = read_request(message)
        if isinstance(fields, Hello):
            self._sessions.greet(message.session, fields)
        else:
            self._sessions.end(message.session)
        body = {"instance": self.instance, "message_bytes": self.message_bytes}
        return encode(Message("answer", message.session, message.number, body=body))

    def _do(self, message: Message, session: Session) -> list[Frame]:
        """Do a request once; what it raises is its answer."""
        try:
            request = read_request(message)
            if needs_lease(message.kind):
                self._sessions.take_lease(session, self._at_work_on)
            body, arrays = self._carry_out(request, message)
            self._sessions.renew(session)
            return encode(Message("answer", message.session, message.number, body=as_plain(body), arrays=arrays), session.shared)
        except MessageError as error:
            logger.warning("refused `%s` of %s: %s", message.kind, session.client, error)
            return _refusal(message.session, message.number, error.code, str(error))
        except NotTakenError as error:
            return _refusal(message.session, message.number, "not_mapped", str(error))
        except Exception as error:  # an adapter may raise anything, and the next client must still be served
            logger.warning(
                "`%s` of %s failed: %s", message.kind, session.client, error, exc_info=not isinstance(error, DeviceError | ValueError)
            )
            text = str(error) if isinstance(error, DeviceError | ValueError) else f"{type(error).__name__}: {error}"
            return _refusal(message.session, message.number, "input" if isinstance(error, ValueError) else "device", text)

    def _carry_out(self, request: Request, message: Message) -> Answer:
        """Return what a request is answered; where the device is needed, with an eye on what others ask meanwhile."""
        handler = self._handlers[message.kind]
        if message.kind in WITHOUT_DEVICE:
            return handler(request, message)
        while True:
            try:
                with self._at_work(message):
                    return handler(request, message)
            except NoRoomError:
                silent = self._sessions.silent()
                if silent is None:
                    raise
                logger.info("forgot the layers of %s, which fell silent: others need their room", self._sessions[silent].client)
                self._sessions.forget(silent)

    @contextmanager
    def _at_work(self, message: Message) -> Iterator[None]:
        """Leave the socket and the sessions to the thread that watches while the device works."""
        self._busy = (message.session, message)
        self._own.release()
        try:
            yield
        finally:
            self._own.acquire()
            self._busy = None

    def _look_around(self) -> None:
        """Answer others while the device is at work; from the thread that watches."""
        if self._busy is not None and self._own.acquire(blocking=False):
            try:
                while self._busy is not None and len(self._waiting) < KEPT_ANSWERS and (arrived := self._arrived(0)):
                    for send, frames in arrived:
                        self._meanwhile(send, frames)
            finally:
                self._own.release()

    def _meanwhile(self, send: Callable[[list[Frame]], None], frames: list[Frame]) -> None:
        """Answer others than the client that the device works for, unless they need it too; put off the rest."""
        assert self._busy is not None
        session, busy = self._busy
        try:
            message = decode(frames, self.message_bytes, self._sessions.memory_of)
        except Exception:  # which `_reply` tells
            self._reply(send, frames)
            return
        if message.session == session:
            if message.number != busy.number:  # else it is a copy of what is under way
                self._waiting.append((send, frames))
        elif message.kind in WITHOUT_DEVICE or message.kind not in KINDS or not self._sessions.may_have_lease(message.session):
            self._reply(send, frames)
        else:
            self._waiting.append((send, frames))

    @property
    def _at_work_on(self) -> str | None:
        return None if self._busy is None else self._busy[1].kind

    def _own_handlers(self) -> dict[str, Handler]:
        """Return what answers the requests that need no device."""

        def lease() -> dict[str, Any]:
            return self._sessions.lease(self._at_work_on)

        def status(request: Any, message: Message) -> Answer:
            device = self.device.status() if self._busy is None else {"at_work_on": self._at_work_on}
            return {"device": device, "lease": lease(), "instance": self.instance}, {}

        def release(request: Any, message: Message) -> Answer:
            self._sessions.release(self._sessions[message.session])
            return lease(), {}

        def share(request: Any, message: Message) -> Answer:
            return self._sessions.share(self._sessions[message.session]) if self._shares else {}, {}

        return {
            "ping": lambda _, m: ({}, m.arrays),
            "describe": lambda _, m: (self._description, {}),
            "status": status,
            "acquire": lambda _, m: (lease(), {}),
            "release": release,
            "share": share,
            "shared": lambda r, m: ({"shared": self._sessions[m.session].prove(r.token)}, {}),
        }


def _refused_handshakes() -> int:
    import zmq

    return zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL


def _refusal(session: bytes, number: int, code: str, text: str) -> list[Frame]:
    return encode(Message("error", session, number, body={"code": code, "text": one_line(text)}))
