"""Short messages between two processes of one machine: a pipe each way.

What a socket of ZeroMQ carries wakes three threads, of which two do nothing but hand it on; a pipe wakes the one that waits for it. Of a
read of a few milliseconds that is a tenth. A client opens the pipes that a server made through ``/proc``, as
`simulator.link.shared_memory` does with memory. A client whose server has closed the pipes finds that out when it writes; otherwise the
connection tells, which stays beside them, when the other end is gone.
"""

import os
import struct
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Self

from simulator.link.messages import Frame

PIECE_BYTES = 4096
"""Pipes take so many bytes whole or not at all (``PIPE_BUF``)."""
_HEAD = struct.Struct("<HH")
"""Bytes behind it, and frames: their lengths follow, two bytes each, and then they themselves."""


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

    @classmethod
    def make(cls) -> Self:
        """Make pipes; the server's end.

        Raises
        ------
        OSError
            Where the system has none to give.
        """
        requests, ours = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            theirs, answers = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
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
        writes = _opened(os.O_WRONLY, process, *requests)
        try:
            return cls(_opened(os.O_RDWR, process, *answers), writes)
        except BaseException:
            os.close(writes)
            raise

    @property
    def place(self) -> dict[str, list[int]]:
        """Where a client finds them: what `attach` takes beside the process."""
        return {name: [one, os.fstat(one).st_ino] for name, one in (("requests", self.reads), ("answers", self._writes))}

    def send(self, frames: Sequence[Frame]) -> bool:
        """Send a message; returns whether it was short enough, there was room, and the other end is still there to read it."""
        lengths = [len(frame) for frame in frames]
        size = 2 * len(frames) + sum(lengths)
        if _HEAD.size + size > PIECE_BYTES:
            return False
        try:
            os.write(self._writes, b"".join([_HEAD.pack(size, len(frames)), struct.pack(f"<{len(frames)}H", *lengths), *frames]))
        except (BlockingIOError, BrokenPipeError):
            return False
        return True

    def receive(self) -> list[Frame] | None:
        """Return the frames of the next message, or None where none has come.

        Raises
        ------
        BrokenPipeMessageError
            Where something came that is no message: nothing behind it can be read either.
        """
        try:
            head = os.read(self.reads, _HEAD.size)
            size, count = _HEAD.unpack(head) if len(head) == _HEAD.size else (0, 0)
        except BlockingIOError:
            return None
        try:
            piece = os.read(self.reads, size) if _HEAD.size + size <= PIECE_BYTES else b""
        except BlockingIOError:
            piece = b""
        if not 0 < 2 * count <= len(piece) == size:
            raise BrokenPipeMessageError("a message must come through a pipe whole, but did not")
        lengths = struct.unpack_from(f"<{count}H", piece)
        if sum(lengths) != size - 2 * count:
            raise BrokenPipeMessageError(f"the frames of a message must have {size - 2 * count} bytes, but are said to have {sum(lengths)}")
        return [piece[first:end] for first, end in pairwise(accumulate(lengths, initial=2 * count))]

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
