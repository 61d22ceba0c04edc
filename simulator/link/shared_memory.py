"""Memory that a server and a client on one machine share: large arrays lie in it, and messages say where.

The server makes it without a name in the file system, so that it is gone with the two processes however they end, and of a size that
nobody can change. A client opens it through ``/proc``, which the system allows to the same user on the same machine only, and shows that
it has found the right one by a secret that lies in it. Half of it is written by the client, half by the server; a place is not used
again before its reader has answered, and a reader copies what it takes before it looks at it, unless it may as well be lent.
"""

import contextlib
import hmac
import math
import mmap
import os
import secrets
import sys
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

HALF_BYTES = 32 << 20
"""Bytes for the arrays of one direction that are under way; none is taken from the machine before it is written to."""
SMALLEST_BYTES = 1 << 10
"""Shorter arrays go with their message through a pipe (`simulator.link.pipes`)."""
ALIGNMENT = 64
"""Arrays begin at multiples of so many bytes, there and where they are copied to, as those of torch do."""
_HEAD_BYTES, _TOKEN_BYTES = 4096, 32
_NAME = "inloop link"


class SharedMemory:
    """One end of memory that two processes share; `make` and `attach` return ends.

    Parameters
    ----------
    descriptor
        An open file that can be mapped; the end closes it.
    name
        What the memory is called.
    writes_first
        Whether this end writes the first half, as a client does.

    Examples
    --------
    >>> if SharedMemory.is_supported():
    ...     server = SharedMemory.make()
    ...     client = SharedMemory.attach(**server.place)
    ...     values = np.arange(16384, dtype=np.float32)
    ...     offset = client.put(7, values)
    ...     assert server.holds(client.token) and (server.take(offset, values.dtype, values.shape) == values).all()
    ...     client.free(7)
    ...     client.close()
    ...     server.close()
    """

    def __init__(self, descriptor: int, name: str, *, writes_first: bool) -> None:
        self._descriptor, self._name = descriptor, name
        self._map = mmap.mmap(descriptor, _HEAD_BYTES + 2 * HALF_BYTES)
        halves = [memoryview(self._map)[_HEAD_BYTES + n * HALF_BYTES :][:HALF_BYTES] for n in range(2)]
        self._out, self._in = halves if writes_first else reversed(halves)
        self._start = _HEAD_BYTES + (0 if writes_first else HALF_BYTES)
        self._backed = 0
        self._used: list[tuple[int, int, int]] = []

    @staticmethod
    def is_supported() -> bool:
        """Return whether this system can share memory so: Linux."""
        return sys.platform == "linux"

    @classmethod
    def make(cls) -> Self:
        """Make memory; the server's end.

        Raises
        ------
        OSError
            Where the system has none to give.
        """
        import fcntl  # here, because other systems have none

        name = f"{_NAME} {secrets.token_hex(8)}"
        descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(descriptor, _HEAD_BYTES + 2 * HALF_BYTES)
            fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
            os.posix_fallocate(descriptor, 0, _HEAD_BYTES)
            made = cls(descriptor, name, writes_first=False)
        except BaseException:
            os.close(descriptor)
            raise
        made._map[:_TOKEN_BYTES] = secrets.token_bytes(_TOKEN_BYTES)
        return made

    @classmethod
    def attach(cls, process: int, descriptor: int, name: str) -> Self:
        """Find memory that a server made; the client's end.

        Parameters
        ----------
        process, descriptor
            The server's, as its machine numbers them.
        name
            What the memory is called; no other has that name.

        Raises
        ------
        OSError
            Where it is not on this machine, or another user's.
        """
        path = f"/proc/{process}/fd/{descriptor}"
        if not os.readlink(path).startswith(f"/memfd:{name}"):  # opening another thing may wait, or do something
            raise OSError(f"{path} is not {name!r}")
        own = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if os.fstat(own).st_size != _HEAD_BYTES + 2 * HALF_BYTES:
                raise OSError(f"{path} is of another size")
            return cls(own, name, writes_first=True)
        except BaseException:
            os.close(own)
            raise

    @property
    def place(self) -> dict[str, Any]:
        """Where a client finds it: what `attach` takes."""
        return {"process": os.getpid(), "descriptor": self._descriptor, "name": self._name}

    @property
    def token(self) -> bytes:
        """The secret that lies in it."""
        return self._map[:_TOKEN_BYTES]

    def holds(self, token: bytes) -> bool:
        """Return whether whoever knows this secret has found this memory."""
        return hmac.compare_digest(token, self.token)

    def put(self, number: int, array: Array) -> int | None:
        """Copy an array of a message to where the other end can take it.

        Parameters
        ----------
        number
            The message's, by which `free` knows the place.
        array
            Of any layout.

        Returns
        -------
        int or None
            Where it lies; None where it is short or there is no room, and it is to be sent.
        """
        length = array.nbytes
        if not SMALLEST_BYTES <= length <= HALF_BYTES:
            return None
        index, offset = self._room(length)
        end = offset + length
        if end > HALF_BYTES or not self._back(end):
            return None
        np.frombuffer(self._out[offset:end], array.dtype).reshape(array.shape)[...] = array
        self._used.insert(index, (offset, -(-end // ALIGNMENT) * ALIGNMENT, number))
        return offset

    def take(self, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...], *, lent: bool = False) -> Array:
        """Return a copy of what the other end put somewhere: it could change it at any time.

        With `lent`, return what lies there itself, for a reader that has done with it before it answers, and that no number can harm.

        Raises
        ------
        ValueError
            Where that is not within what the other end writes.
        """
        length = math.prod(shape) * dtype.itemsize
        if offset < 0 or offset % ALIGNMENT or offset + length > HALF_BYTES:
            raise ValueError(f"must lie within the {HALF_BYTES} bytes that are shared, at a multiple of {ALIGNMENT}, but lies at {offset}")
        shared = np.frombuffer(self._in[offset : offset + length], np.uint8)
        if lent:
            return shared.view(dtype).reshape(shape)
        memory = np.empty(length + ALIGNMENT, np.uint8)
        first = -address_of(memory) % ALIGNMENT
        memory = memory[first : first + length]
        memory[...] = shared
        return memory.view(dtype).reshape(shape)

    def free(self, number: int) -> None:
        """Let go of the places of a message: the other end has read it."""
        self._used = [one for one in self._used if one[2] != number]

    def close(self) -> None:
        """Let go of the memory; the other end keeps what it has."""
        if self._descriptor >= 0:
            # What was lent keeps the memory until it is let go of itself.
            with contextlib.suppress(BufferError):
                self._out.release()
                self._in.release()
                self._map.close()
            os.close(self._descriptor)
            self._descriptor = -1

    def _room(self, length: int) -> tuple[int, int]:
        """Return the first place that is free and long enough, as its index among those in use and its offset."""
        offset = 0
        for index, (start, end, _) in enumerate(self._used):
            if start - offset >= length:
                return index, offset
            offset = end
        return len(self._used), offset

    def _back(self, end: int) -> bool:
        """Have the system give memory up to here; writing to what it does not give would end the process."""
        if end > self._backed:
            try:
                os.posix_fallocate(self._descriptor, self._start + self._backed, end - self._backed)
            except OSError:
                return False
            self._backed = end
        return True


def address_of(array: Array) -> int:
    """Return where the numbers of an array begin; ``array.ctypes.data`` takes ten times as long to tell.

    Examples
    --------
    >>> numbers = np.zeros(3)
    >>> address_of(numbers[1:]) - address_of(numbers)
    8
    """
    return int(array.__array_interface__["data"][0])
