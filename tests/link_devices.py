"""Devices for tests of the link: one that counts what it did, and one that never ends; and clocks that tests hold."""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from devices import RemoteChip
from simulator.link.device import Cells, Description, Device, Floats


class CountingCells(Device):
    """A tile that keeps what it was programmed to, and counts how often it was."""

    def __init__(self) -> None:
        self.programmed = 0
        self.reads = 0
        self.targets = np.zeros((4, 3), np.float32)

    def describe(self) -> Description:
        cells = Cells(tiles=1, rows=4, columns=3, g_min_siemens=1e-6, g_max_siemens=1e-4, volts_max=1.0)
        return Description(name="counting cells", identity="test", cells=cells)

    def status(self) -> dict[str, Any]:
        return {"programmed": self.programmed, "reads": self.reads}

    def program_cells(self, tile: int, targets: Floats, seed: int, trial: int) -> None:
        self.programmed += 1
        self.targets = np.array(targets)

    def read_cells(self, tile: int, volts: Floats, read: int) -> Floats:
        self.reads += 1
        return volts @ self.targets


class EndlessCells(CountingCells):
    """The same, but programming and reading say that they began, and never end."""

    def program_cells(self, tile: int, targets: Floats, seed: int, trial: int) -> None:
        print("at work", flush=True)
        threading.Event().wait()

    def read_cells(self, tile: int, volts: Floats, read: int) -> Floats:
        print("at work", flush=True)
        threading.Event().wait()
        return volts


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class HastyClock:
    """Seconds that pass as they do until a test is in a hurry: then a thousand times as fast."""

    def __init__(self) -> None:
        self._ahead = 0.0
        self._hurried: float | None = None

    def hurry(self) -> None:
        """Let time fly."""
        self._hurried = self._hurried or time.monotonic()

    def monotonic(self) -> float:
        now = time.monotonic()
        return now + self._ahead + (0.0 if self._hurried is None else 1000 * (now - self._hurried))

    def rest(self) -> None:
        """Let time pass as it does, from where it is."""
        now = time.monotonic()
        if self._hurried is not None:
            self._ahead, self._hurried = self._ahead + 1000 * (now - self._hurried), None


def chip_at(address: str, **fields: Any) -> RemoteChip:
    """A chip that is waited for as long as a machine under load may take to answer at all."""
    return RemoteChip(address=address, **{"reconnect_seconds": 60.0, **fields})


def eventually(holds: Callable[[], bool]) -> bool:
    """Whether something holds at last; it may take a minute on a machine under load."""
    end = time.monotonic() + 60.0
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    return holds()
