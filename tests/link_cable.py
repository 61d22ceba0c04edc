"""A cable between a client and a server: it can be cut, and plugged into another server, while the client's end stays where it is."""

import contextlib
import socket
import threading
from typing import Self


class Cable:
    """Carries bytes from one address, which never changes, to a server's; `cut` breaks what is connected, `lead_to` plugs it elsewhere.

    Nothing binds an address that another program may have taken meanwhile.
    """

    def __init__(self, address: str) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()
        self._ends: list[socket.socket] = []
        self.lead_to(address)
        self._thread = threading.Thread(target=self._accept, daemon=True)

    def lead_to(self, address: str) -> None:
        """Plug the far end in elsewhere; what is connected stays so."""
        host, _, port = address.removeprefix("tcp://").rpartition(":")
        self._far = host, int(port)

    def cut(self) -> None:
        """Break what is connected; a client may connect again."""
        with self._lock:
            for end in self._ends:
                _end(end)
            self._ends.clear()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._far)
            except OSError:  # nobody serves: the client sees that, and tries again
                _end(near)
                continue
            with self._lock:
                self._ends += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=_carry, args=(one, other), daemon=True).start()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        self.cut()


def _carry(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := one.recv(1 << 16):
            other.sendall(data)
    _end(one)
    _end(other)


def _end(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
