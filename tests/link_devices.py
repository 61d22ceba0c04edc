"""Devices for tests of the link: one that counts what it did, and one that takes its time."""

import time
from typing import Any

import numpy as np

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


class SlowCells(CountingCells):
    """The same, but programming and reading take ten seconds."""

    def program_cells(self, tile: int, targets: Floats, seed: int, trial: int) -> None:
        time.sleep(10)
        super().program_cells(tile, targets, seed, trial)

    def read_cells(self, tile: int, volts: Floats, read: int) -> Floats:
        time.sleep(10)
        return super().read_cells(tile, volts, read)
