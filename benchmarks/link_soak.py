"""A served chip for a long time: a million reads with memory and sockets watched, and a hundred thousand messages that are none.

``inloop bench link_soak`` prints the table and writes it to ``benchmarks/results/link_soak.json``; ``inloop bench link_soak 1000`` does so
many reads instead.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.speed.link import served
from benchmarks.timing import save
from devices import RemoteChip
from simulator.link.client import Connection
from simulator.link.messages import Frame, Message, MessageError, decode, encode
from simulator.link.shared_memory import SharedMemory
from simulator.progress import track

COMMAND = "inloop bench link_soak"
READS, MESSAGES = 1_000_000, 100_000
LONG_EVERY, LONG_BATCH = 10, 64
"""Every tenth read has a batch whose voltages and currents pass by shared memory."""
CHECKS = 20
"""How often memory and open files are looked at; the first fifth warms up."""


def main() -> None:
    """Measure, print and save."""
    reads = int(sys.argv[1]) if len(sys.argv) > 1 and sys.argv[1].isdigit() else READS
    frame = pd.DataFrame([*_soak(reads), *_fuzz(MESSAGES)], columns=["figure", "measured", "unit"])
    print(frame.round(3).to_string(index=False))
    print(f"written to {save('link_soak', COMMAND, frame)}")


def _soak(reads: int) -> list[tuple[str, float, str]]:
    """Read one tile again and again, and say how memory and open files grew on both sides."""
    short, long = (np.full((batch, 256), 0.1, np.float32) for batch in (1, LONG_BATCH))
    targets = np.full((256, 256), 2e-5, np.float32)
    looks: list[tuple[int, int, int, int]] = []
    with served() as (address, process):
        connection = Connection(RemoteChip(address=address))
        connection.request("program_cells", {"tile": 0, "seed": 0, "trial": 0}, {"targets": targets})
        started = time.perf_counter()
        for read in track(range(reads), reads, "reads"):
            connection.request("read_cells", {"tile": 0, "read": read}, {"volts": short if read % LONG_EVERY else long})
            if read % max(1, reads // CHECKS) == 0:
                looks.append((*_watched(os.getpid()), *_watched(process)))
        seconds = time.perf_counter() - started
        looks.append((*_watched(os.getpid()), *_watched(process)))
        connection.close()
    warm, last = looks[len(looks) // 5], looks[-1]
    return [
        ("reads", reads, ""),
        ("clock time of a read", 1e6 * seconds / reads, "us"),
        ("growth of the client's memory", (last[0] - warm[0]) / 1e6, "MB"),
        ("growth of the client's open files", last[1] - warm[1], ""),
        ("growth of the server's memory", (last[2] - warm[2]) / 1e6, "MB"),
        ("growth of the server's open files", last[3] - warm[3], ""),
    ]


def _watched(process: int) -> tuple[int, int]:
    """Return bytes in memory and open files of a process, on Linux."""
    place = Path(f"/proc/{process}")
    pages = int((place / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), len(list((place / "fd").iterdir()))


def _fuzz(messages: int) -> list[tuple[str, float, str]]:
    """Decode damaged and invented messages: each must be refused, or be the message that was sent."""
    generator = np.random.default_rng(0)
    base = [
        encode(Message("read_cells", bytes(16), 7, 6, {"tile": 0, "read": 1}, {"volts": np.ones((2, 4), np.float32)})),
        encode(Message("program_layer", bytes(16), 1, 0, {"layer": "1:head", "seed": 3, "trial": 0})),
    ]
    memory = SharedMemory.make() if SharedMemory.is_supported() else None
    if memory is not None:  # a header that says where its array lies
        client = SharedMemory.attach(**memory.place)
        base.append(
            encode(Message("read_cells", bytes(16), 7, 6, {"tile": 0, "read": 1}, {"volts": np.ones((64, 256), np.float32)}), client)
        )
    whole = [[bytes(frame) for frame in frames] for frames in base]
    refused, grown = 0, _watched(os.getpid())[0]
    for _ in track(range(messages), messages, "messages"):
        frames = _damaged(generator, whole[generator.integers(len(whole))])
        try:
            decode(frames, memory_of=lambda session: memory)
        except MessageError:
            refused += 1
        else:
            if frames not in whole:
                raise AssertionError(f"a message that nobody sent was taken: {frames!r}")
    growth = (_watched(os.getpid())[0] - grown) / 1e6
    return [("damaged messages", messages, ""), ("refused", refused, ""), ("growth of memory", growth, "MB")]


def _damaged(generator: np.random.Generator, frames: list[bytes]) -> list[Frame]:
    kind = generator.integers(5)
    changed: list[bytearray] = [bytearray(frame) for frame in frames]
    place = generator.integers(len(changed))
    if kind == 0 and changed[place]:
        changed[place][generator.integers(len(changed[place]))] ^= 1 << int(generator.integers(8))
    elif kind == 1:
        del changed[place][generator.integers(len(changed[place]) + 1) :]
        changed[place] += generator.bytes(int(generator.integers(1, 9)))
    elif kind == 2:
        changed = [bytearray(generator.bytes(int(generator.integers(64)))) for _ in range(generator.integers(1, 4))]
    elif kind == 3:
        changed.append(bytearray(generator.bytes(8)))
    else:
        changed = changed[:-1] if len(changed) > 1 else [changed[0] + changed[0]]
    return [bytes(frame) for frame in changed]


if __name__ == "__main__":
    main()
