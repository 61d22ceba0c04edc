"""A thread that looks around while another one is at work."""

import threading
from collections.abc import Callable
from typing import Self

LOOK_SECONDS = 0.02
"""How often it looks."""


class Watch:
    """Calls something every `LOOK_SECONDS` within a ``with`` block, from a thread of its own.

    The device of a server works in the serving thread: what is handed to another thread and back costs a fifth of a short read, and an
    instrument's driver may not take calls from two threads.

    Parameters
    ----------
    look
        What is called; it must not wait.

    Examples
    --------
    >>> seen = threading.Event()
    >>> with Watch(seen.set):
    ...     seen.wait(60.0)
    True
    """

    def __init__(self, look: Callable[[], object]) -> None:
        self._look = look
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="inloop watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(LOOK_SECONDS):
            self._look()
