"""A chip in another process against the same chip in this one: reads, empty calls, throughput.

``inloop bench speed/link`` prints the table and writes it to ``benchmarks/results/speed_link.json``. Times are of the clock, not of the
processor: two processes work in turn. A read takes up to a half longer when the caches have forgotten it, so remote and in-process reads
are compared in the same condition: a number of them in a row, in turns, and each after a rest.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

import simulator as sim
from benchmarks.timing import save
from devices import RemoteChip, RRAMCrossbar
from simulator.link.client import Connection, disconnect
from simulator.link.wire import Wire

COMMAND = "inloop bench speed/link"
PRESET = "wan_nature_2022"
REPETITIONS, BLOCKS, IN_A_ROW = 200, 20, 25
REST_SECONDS = 0.01
THROUGHPUT_BYTES = 16 << 20


@contextmanager
def served(preset: str = PRESET) -> Iterator[tuple[str, int]]:
    """Serve a preset in a process of its own; yields its address and the number of the process."""
    command = [sys.executable, "-m", "simulator.cli", "serve", preset, "--address", "tcp://127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            address = next(word.rstrip(";") for line in process.stderr for word in line.split() if word.startswith("tcp://"))
            yield address, process.pid
        finally:
            process.terminate()


def clock(function: Callable[[], object]) -> float:
    """Return the seconds that one call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _processor_seconds(process: int) -> float:
    """Return the processor time that this process and another one have taken, on Linux; 0 of the other elsewhere."""
    path = Path(f"/proc/{process}/stat")
    other = (
        sum(int(ticks) for ticks in path.read_text().rsplit(")", 1)[1].split()[11:13]) / os.sysconf("SC_CLK_TCK") if path.exists() else 0.0
    )
    return time.process_time() + other


def measure() -> pd.DataFrame:
    """Return a row per figure: what, measured, unit, bar."""
    x = torch.randn(256, 512, generator=torch.Generator().manual_seed(0))
    layer = nn.Linear(512, 512, bias=False)
    rows: list[tuple[str, float, str, float | None]] = []
    with served() as (address, process), torch.no_grad():
        remote, by_socket = (RemoteChip(address=address, shared_memory=shared) for shared in (True, False))
        here = sim.compile(layer, RRAMCrossbar.preset(PRESET), example_inputs=x).program(seed=0)
        ways = [sim.compile(layer, one, example_inputs=x).program(seed=0) for one in (remote, by_socket)]
        reads = {name: partial(chip, x) for name, chip in (("here", here), ("there", ways[0]), ("there, through the socket", ways[1]))}
        row = {name: np.zeros(BLOCKS) for name in reads}
        spent = dict.fromkeys(reads, 0.0)
        for read in reads.values():
            read()
        for block in range(BLOCKS):
            for name, read in reads.items():
                before = _processor_seconds(process)
                row[name][block] = statistics.median(clock(read) for _ in range(IN_A_ROW))
                spent[name] += _processor_seconds(process) - before
        for name in reads:
            rows.append((f"read 512x512, batch 256, with read noise: {name}", float(np.median(row[name])) * 1e3, "ms", None))
        for name, bar in (("there", 1.5), ("there, through the socket", None)):
            turns = [(clock(reads["here"]), clock(reads[name])) for _ in range(REPETITIONS)]
            rested = [(_rested(reads["here"]), _rested(reads[name])) for _ in range(REPETITIONS)]
            what = "remote over in-process read"
            rows.append((f"{what}, each {IN_A_ROW} times in a row: {name}", float(np.median(row[name] / row["here"])), "", bar))
            rows.append((f"{what}, in turns: {name}", _ratio(turns), "", bar))
            rows.append((f"{what}, each after {REST_SECONDS * 1e3:.0f} ms of rest: {name}", _ratio(rested), "", bar))
            cold = statistics.median(seconds for _, seconds in rested) / float(np.median(row["here"]))
            rows.append((f"the one after a rest over in-process reads in a row, which caches hold: {name}", cold, "", None))
            rows.append((f"{what}, in a row, processor time of both sides: {name}", spent[name] / spent["here"], "", None))
        disconnect(by_socket)
        disconnect(remote)
        connection = Connection(remote)
        connection.request("ping")
        empty = [clock(lambda: connection.request("ping")) for _ in range(20 * REPETITIONS)]
        rows.append(("empty call, median", statistics.median(empty) * 1e6, "us", 300.0))
        connection.close()
        rows.append(("throughput, there and back, pipelined", _throughput(remote), "MB/s", 500.0))
    return pd.DataFrame(rows, columns=["figure", "measured", "unit", "bar"])


def _rested(read: Callable[[], object]) -> float:
    """Return the seconds of a read before which neither side has done anything for a while."""
    time.sleep(REST_SECONDS)
    return clock(read)


def _ratio(pairs: list[tuple[float, float]]) -> float:
    return statistics.median(second / first for first, second in pairs)


def _throughput(remote: RemoteChip) -> float:
    """Return megabytes a second, each way counted, with four messages under way."""
    wire = Wire(remote)
    payload = {"numbers": np.arange(THROUGHPUT_BYTES // 8, dtype=np.int64)}
    wire.exchange("ping", {}, payload)
    count, under_way = 40, 4
    start = time.perf_counter()
    numbers = [wire.submit("ping", {}, payload) for _ in range(under_way)]
    for turn in range(count):
        wire.result(numbers[turn])
        if turn + under_way < count:
            numbers.append(wire.submit("ping", {}, payload))
    seconds = time.perf_counter() - start
    wire.close()
    return 2 * count * THROUGHPUT_BYTES / seconds / 1e6


def main() -> None:
    """Measure, print and save."""
    frame = measure()
    print(frame.round(2).to_string(index=False))
    print("clock time, one torch thread on each side, client and server in processes of their own on this machine")
    print(f"written to {save('speed_link', COMMAND, frame)}")


if __name__ == "__main__":
    main()
