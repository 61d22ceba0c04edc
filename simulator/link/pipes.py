"""Short messages between two processes of one machine: a pipe each way.

What a socket of ZeroMQ carries wakes three threads, of which two do nothing but hand it on; a pipe wakes the one that waits for it. Of a
read of a few milliseconds that is a tenth. A client opens the pipes that a server made through ``/proc``, as
`simulator.link.shared_memory` does with memory. A client whose server has closed the pipes finds that out when it writes; otherwise the
connection tells, which stays beside them, when the other end is gone.
"""

import math
import os
import select
import struct
import time
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Self

from simulator.link.messages import Frame

PIECE_BYTES = 4096
"""Pipes take so many bytes whole or not at all (``PIPE_BUF``), and give them back as they were written (``O_DIRECT``)."""
_COUNT = struct.Struct("<H")
"""Frames of a message: their lengths follow, two bytes each, and then they themselves."""


SPIN_SECONDS = 0.004
"""For so long at most an end looks for a message again and again: to be woken takes a tenth of a millisecond, and whoever slept goes on
with cold caches."""
SHORT_SECONDS = 0.02
"""What takes longer to come is awaited asleep."""
TOPICS = 1024
"""So many times of answers are remembered."""


class BrokenPipeMessageError(ValueError):
    """What came through a pipe was no message."""


class MessagePipes:
    """One end of two pipes; `make` and `attach` return ends.

    Parameters
    ----------
    reads, writes
        Open files of this end, which closes them.
    others
        Further open files that it closes.

    Examples
    --------
    >>> from simulator.link.shared_memory import SharedMemory
    >>> if SharedMemory.is_supported():
    ...     server = MessagePipes.make()
    ...     client = MessagePipes.attach(os.getpid(), **server.place)
    ...     assert client.send([b"how", b"are you"]) and server.receive() == [b"how", b"are you"] and server.receive() is None
    ...     client.close()
    ...     server.close()
    """

    def __init__(self, reads: int, writes: int, others: tuple[int, ...] = ()) -> None:
        self.reads, self._writes, self._others = reads, writes, others
        self._ready = select.poll()
        self._ready.register(reads, select.POLLIN)
        self._may_spin = len(os.sched_getaffinity(0)) > 1
        self._took: dict[str, float] = {}
        self._expected: tuple[str, float] | None = None
        self._spins = False

    @classmethod
    def make(cls) -> Self:
        """Make pipes; the server's end.

        Raises
        ------
        OSError
            Where the system has none to give.
        """
        requests, ours = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC | os.O_DIRECT)
        try:
            theirs, answers = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC | os.O_DIRECT)
        except BaseException:
            os.close(requests)
            os.close(ours)
            raise
        return cls(requests, answers, (ours, theirs))

    @classmethod
    def attach(cls, process: int, requests: Sequence[int], answers: Sequence[int]) -> Self:
        """Find pipes that a server made; the client's end.

        Parameters
        ----------
        process
            The server's, as its machine numbers it.
        requests, answers
            Each pipe's descriptor there, and its own number, which no other has.

        Raises
        ------
        OSError
            Where they are not on this machine, or another user's.
        """
        import fcntl  # here, because other systems have none

        writes = _opened(os.O_WRONLY, process, *requests)
        try:
            fcntl.fcntl(writes, fcntl.F_SETFL, os.O_NONBLOCK | os.O_DIRECT)
            return cls(_opened(os.O_RDWR, process, *answers), writes)
        except BaseException:
            os.close(writes)
            raise

    @property
    def place(self) -> dict[str, list[int]]:
        """Where a client finds them: what `attach` takes beside the process."""
        return {name: [one, os.fstat(one).st_ino] for name, one in (("requests", self.reads), ("answers", self._writes))}

    def send(self, frames: Sequence[Frame], topic: str = "") -> bool:
        """Send a message; returns whether it was short enough, there was room, and the other end is still there to read it.

        What comes back on a `topic` is expected as soon as it was the last time.
        """
        lengths = [len(frame) for frame in frames]
        if _COUNT.size * (1 + len(frames)) + sum(lengths) > PIECE_BYTES:
            return False
        try:
            os.write(self._writes, b"".join([struct.pack(f"<{1 + len(frames)}H", len(frames), *lengths), *frames]))
        except (BlockingIOError, BrokenPipeError):
            return False
        self._expected, self._spins = (topic, time.perf_counter()), self._may_spin
        return True

    def receive(self) -> list[Frame] | None:
        """Return the frames of the next message, or None where none has come.

        Raises
        ------
        BrokenPipeMessageError
            Where something came that is no message.
        """
        try:
            piece = os.read(self.reads, PIECE_BYTES)
        except BlockingIOError:
            return None
        self._take_time()
        count = _COUNT.unpack_from(piece)[0] if len(piece) >= _COUNT.size else 0
        start = _COUNT.size * (1 + count)
        if not 0 < count or len(piece) < start:
            raise BrokenPipeMessageError("a message must come through a pipe whole, but did not")
        lengths = struct.unpack_from(f"<{count}H", piece, _COUNT.size)
        if sum(lengths) != len(piece) - start:
            raise BrokenPipeMessageError(
                f"the frames of a message must have {len(piece) - start} bytes, but are said to have {sum(lengths)}"
            )
        return [piece[first:end] for first, end in pairwise(accumulate(lengths, initial=start))]

    @property
    def due(self) -> float:
        """Seconds that what is expected took to come the last time; infinite where nothing is, or it is to be awaited asleep."""
        took = math.inf if self._expected is None or not self._spins else self._took.get(self._expected[0], math.inf)
        return took if took < SHORT_SECONDS else math.inf

    def comes_now(self) -> bool:
        """Wait awake for what is due, once for each message; returns whether something has come.

        What else wants to run on this processor goes first, and where there is only one this is not waited for.
        """
        end = time.perf_counter() + min(2 * self.due, SPIN_SECONDS)
        self._spins = False
        while not self._ready.poll(0):
            if time.perf_counter() >= end:
                return False
            os.sched_yield()
        return True

    def _take_time(self) -> None:
        if self._expected is not None:
            if len(self._took) >= TOPICS:
                self._took.clear()
            topic, since = self._expected
            self._took[topic] = time.perf_counter() - since
            self._expected = None

    def close(self) -> None:
        """Let go of the pipes; a second time does nothing."""
        if self.reads >= 0:
            for one in (self.reads, self._writes, *self._others):
                os.close(one)
            self.reads = self._writes = -1
            self._others = ()


def _opened(how: int, process: int, descriptor: int, number: int) -> int:
    path = f"/proc/{process}/fd/{descriptor}"
    if os.readlink(path) != f"pipe:[{number}]":  # opening another thing may wait, or do something
        raise OSError(f"{path} is not pipe {number}")
    return os.open(path, how | os.O_NONBLOCK | os.O_CLOEXEC)
