"""Something between a client and its chip that loses, damages, repeats and delays what passes."""

import threading
from collections.abc import Callable
from typing import Self

import zmq

Frames = list[bytes]
Tamper = Callable[[str, int, Frames], list[Frames]]


def honest(direction: str, count: int, frames: Frames) -> list[Frames]:
    return [frames]


class Proxy:
    """Forwards one client's messages; `tamper(direction, count, frames)` returns what is sent on instead."""

    def __init__(self, address: str, tamper: Tamper = honest) -> None:
        self.tamper = tamper
        self._context = zmq.Context()
        self._front = self._context.socket(zmq.ROUTER)
        self._front.linger = 0
        self._front.bind("tcp://127.0.0.1:0")
        self.address: str = self._front.getsockopt_string(zmq.LAST_ENDPOINT)
        self._behind = address
        self._back: zmq.Socket[bytes] | None = None
        self._client = b""
        self._counts = {"request": 0, "answer": 0}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.is_set():
            if self._front.poll(5):
                self._client, *frames = self._front.recv_multipart()
                if self._back is None:
                    self._back = self._context.socket(zmq.DEALER)
                    self._back.linger = 0
                    self._back.identity = self._client
                    self._back.connect(self._behind)
                for message in self._pass("request", frames):
                    self._back.send_multipart(message)
            if self._back is not None and self._back.poll(1):
                for message in self._pass("answer", self._back.recv_multipart()):
                    self._front.send_multipart([self._client, *message])

    def _pass(self, direction: str, frames: Frames) -> list[Frames]:
        count = self._counts[direction]
        self._counts[direction] += 1
        return self.tamper(direction, count, frames)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self._front.close()
        if self._back is not None:
            self._back.close()
        self._context.term()
