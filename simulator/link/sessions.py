"""Who talks to a server: what each client was answered, which one holds the device, and what memory is shared with whom."""

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from simulator.link.messages import Frame, MessageError
from simulator.link.pipes import MessagePipes
from simulator.link.protocol import Hello
from simulator.link.shared_memory import SharedMemory

logger = logging.getLogger("inloop.link")

SESSIONS = 256
"""Clients that are remembered; the one that was silent longest is forgotten first."""
SHARING = 16
"""Clients that memory and pipes are shared with at a time; others send everything over the socket."""


@dataclass
class Session:
    """One client's.

    Attributes
    ----------
    client
        What it calls itself.
    seen
        When it asked last.
    holder
        What it shares a lease by.
    done
        Up to which number it has got its answers.
    answers
        Those that it may still ask for, by number, each with the kind of its request.
    memory, pipes
        What is shared with it, or offered.
    found
        Whether it has shown that it found them.
    """

    client: str
    seen: float
    holder: bytes = b""
    done: int = -1
    answers: OrderedDict[int, tuple[str, list[Frame]]] = field(default_factory=OrderedDict)
    memory: SharedMemory | None = None
    pipes: MessagePipes | None = None
    found: bool = False

    @property
    def shared(self) -> SharedMemory | None:
        """The memory by which long arrays pass; None where they are sent."""
        return self.memory if self.found else None

    def settle(self, done: int) -> None:
        """Forget the answers that the client has got."""
        self.done = max(self.done, done)
        while self.answers and next(iter(self.answers)) <= self.done:
            number, _ = self.answers.popitem(last=False)
            if self.memory is not None:
                self.memory.free(number)

    def share(self) -> dict[str, Any]:
        """Offer memory and pipes; returns where they are, or nothing where the system gives none."""
        if self.pipes is None and SharedMemory.is_supported():
            try:
                self.memory = SharedMemory.make()
                self.pipes = MessagePipes.make()
            except OSError as error:
                logger.info("shares nothing with %s: %s", self.client, error.strerror)
                self.close()
        return {} if self.memory is None or self.pipes is None else {**self.memory.place, **self.pipes.place}

    def prove(self, token: bytes) -> bool:
        """Return whether the client found what was offered; what it did not find is let go of."""
        if not self.found:
            self.found = self.memory is not None and self.memory.holds(token)
            if not self.found:
                self.close()
        return self.found

    def close(self) -> None:
        """Let go of what is shared."""
        for one in (self.memory, self.pipes):
            if one is not None:
                one.close()
        self.memory, self.pipes, self.found = None, None, False


class Sessions:
    """The sessions of a server, and the lease on its device.

    Parameters
    ----------
    lease_seconds
        How long a client that fell silent keeps the device from others.
    clock
        Tells seconds.
    left
        Called with a session that has been forgotten.
    """

    def __init__(self, lease_seconds: float, clock: Callable[[], float], left: Callable[[bytes], None]) -> None:
        self.lease_seconds, self._clock, self._left = lease_seconds, clock, left
        self._known: OrderedDict[bytes, Session] = OrderedDict()
        self._ended: list[bytes] = []
        self._holder: bytes | None = None
        self._until = 0.0

    def __getitem__(self, session: bytes) -> Session:
        return self._known[session]

    def memory_of(self, session: bytes) -> SharedMemory | None:
        """Return the memory that is shared with a session, if any is."""
        return self._known[session].shared if session in self._known else None

    def pipes_of(self, session: bytes) -> MessagePipes | None:
        """Return the pipes that are shared with a session, if any are."""
        return self._known[session].pipes if session in self._known and self._known[session].found else None

    def by_pipe(self) -> dict[int, bytes]:
        """Return the sessions that may ask through a pipe, by the descriptor to wait for."""
        return {
            one.pipes.reads: session
            for session, one in self._known.items()
            if one.found and one.pipes is not None and session not in self._ended
        }

    def seen(self, session: bytes) -> Session:
        """Return a session that asks for something.

        Raises
        ------
        MessageError
            With code "no_session" where it is not remembered.
        """
        found = self._known.get(session)
        if found is None:
            raise MessageError(
                "no_session",
                "the session must begin with `hello` and be one that the server remembers, but is not: what it held is gone; program again",
            )
        found.seen = self._clock()
        self._known.move_to_end(session)
        return found

    def greet(self, session: bytes, hello: Hello) -> None:
        """Begin a session, or go on with it; and end the one that it takes the place of."""
        found = self._known.setdefault(session, Session("", 0.0))
        found.client, found.seen, found.holder = hello.client, self._clock(), hello.holder or session
        self._known.move_to_end(session)
        if hello.replaces is not None:
            self.end(hello.replaces)
        while len(self._known) - len(self._ended) > SESSIONS:
            self.end(next(one for one, it in self._known.items() if it.holder != self._holder and one not in self._ended))

    def end(self, session: bytes) -> None:
        """Have a session forgotten as soon as the device is not at work."""
        if session in self._known and session not in self._ended:
            self._ended.append(session)

    def forget_ended(self) -> None:
        """Forget the sessions that have ended."""
        while self._ended:
            self.forget(self._ended.pop())

    def forget(self, session: bytes) -> None:
        """Forget a session, and its lease where nobody shares it."""
        found = self._known.pop(session, None)
        if found is None:
            return
        found.close()
        self._left(session)
        if self._holder == found.holder and all(other.holder != found.holder for other in self._known.values()):
            self._holder = None

    def silent(self) -> bytes | None:
        """Return the session that has asked nothing for longest, and for longer than a lease; None where there is none."""
        found = next(iter(self._known), None)
        return found if found is not None and self._clock() - self._known[found].seen > self.lease_seconds else None

    def may_have_lease(self, session: bytes) -> bool:
        """Return whether the device is free, or held by what a session shares a lease by."""
        return self._holder is None or (session in self._known and self._known[session].holder == self._holder)

    def take_lease(self, session: Session, busy: str | None) -> None:
        """Let a session have the device; `busy` is what the device is at work on.

        Raises
        ------
        MessageError
            With code "lease" where another one holds it.
        """
        lease = self.lease(busy)
        if lease["holder"] is not None and self._holder != session.holder:
            at_work = "" if busy is None else f", and has it at work on `{busy}`"
            raise MessageError(
                "lease", f"the chip must be free, but {lease['holder']} holds it for up to {lease['seconds']:.0f} s more{at_work}; wait"
            )
        if self._holder != session.holder:
            logger.info("%s holds the chip", session.client)
        self._holder = session.holder
        self.renew(session)

    def renew(self, session: Session) -> None:
        """Count the lease anew, if it is this session's."""
        if self._holder == session.holder:
            self._until = self._clock() + self.lease_seconds

    def release(self, session: Session) -> None:
        """Give a session's lease back."""
        if self._holder == session.holder:
            self._holder = None

    def lease(self, busy: str | None) -> dict[str, Any]:
        """Return who holds the device, and for how long if nothing more is asked; it is counted anew when the device is done."""
        left = self.lease_seconds if busy is not None else self._until - self._clock()
        names = [one.client for one in self._known.values() if one.holder == self._holder]
        if self._holder is None or left <= 0 or not names:
            return {"holder": None, "seconds": 0.0}
        return {"holder": names[-1], "seconds": left}

    def share(self, session: Session) -> dict[str, Any]:
        """Offer memory and pipes to a session; returns where they are, or nothing where enough is shared already."""
        others = sum(one.memory is not None for one in self._known.values() if one is not session)
        return session.share() if others < SHARING else {}

    def close(self) -> None:
        """Let go of all that is shared."""
        for session in self._known.values():
            session.close()
