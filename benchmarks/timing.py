"""Timing two or more things against each other on a machine that is never quiet."""

import json
import platform
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from kernels.threads import get_threads, set_threads

RESULTS = Path(__file__).parent / "results"
WARMED_SECONDS = 1.0
"""CPU time of a call from which on what the caches hold before it makes no difference."""
WARM_UP_SECONDS = 0.3
"""For how long such a call is repeated before it counts: a processor that was idle needs so long to reach its speed."""
REST_SECONDS = 0.01
"""For how long all threads must be at rest."""


def cpu_times(
    candidates: Mapping[str, Callable[[], object]], *, repetitions: int = 40, seconds: float = 0.02, warm: bool = False
) -> pd.DataFrame:
    """Return the CPU time of each candidate and its ratio to the first, interleaved in one process on one thread.

    Each repetition runs every candidate in turn, each for about `seconds`; the ratio is the median over repetitions of the
    ratio within one repetition, so that a machine that changes its speed changes both sides.

    Parameters
    ----------
    candidates
        Name to a call without arguments; the first is what the others are compared to.
    repetitions
        Rounds through all candidates.
    seconds
        CPU time of one candidate in one round.
    warm
        Whether each candidate finds the machine as if it were alone. Threads that the one before left at work (XLA's free memory for
        0.1 s after a gradient) are waited for, because the time of a process is that of all its threads. Then a call that takes less
        than `WARMED_SECONDS` is repeated for `WARM_UP_SECONDS`, uncounted: the caches are another's, and the processor was idle; longer
        calls make up for both themselves.

    Returns
    -------
    pandas.DataFrame
        A row per candidate: ``name``, ``seconds`` (minimum of one call), ``ratio`` (median), ``ratio_low``, ``ratio_high`` (quartiles).
    """
    threads = torch.get_num_threads(), get_threads()
    torch.set_num_threads(1)
    set_threads(1)
    try:
        calls, warmed = {}, set()
        for name, call in candidates.items():
            call()
            start = time.process_time()
            call()
            taken = max(time.process_time() - start, 1e-6)
            calls[name] = max(1, int(seconds / taken))
            if warm and taken < WARMED_SECONDS:
                warmed.add(name)
        rounds: dict[str, list[float]] = {name: [] for name in candidates}
        for _ in range(repetitions):
            for name, call in candidates.items():
                if warm:
                    wait_for_rest()
                if name in warmed:
                    _warm_up(call)
                start = time.process_time()
                for _ in range(calls[name]):
                    call()
                rounds[name].append((time.process_time() - start) / calls[name])
    finally:
        torch.set_num_threads(threads[0])
        set_threads(threads[1])
    base = np.array(next(iter(rounds.values())))
    rows = []
    for name, found in rounds.items():
        ratios = np.array(found) / base
        low, middle, high = np.percentile(ratios, [25, 50, 75])
        rows.append({"name": name, "seconds": min(found), "ratio": middle, "ratio_low": low, "ratio_high": high})
    return pd.DataFrame(rows)


def _warm_up(call: Callable[[], object]) -> None:
    start = time.process_time()
    call()
    while time.process_time() - start < WARM_UP_SECONDS:
        call()


def wait_for_rest(longest: float = 2.0) -> None:
    """Return when no thread of this process computes, or after so many seconds."""
    end = time.monotonic() + longest
    while time.monotonic() < end:
        start = time.process_time()
        time.sleep(REST_SECONDS)
        if time.process_time() - start < 0.1 * REST_SECONDS:
            return


def environment() -> dict[str, Any]:
    """Return what a timing depends on: processor, threads, versions."""
    processor = platform.processor() or platform.machine()
    information = Path("/proc/cpuinfo")
    if information.exists():
        named = [line.split(":", 1)[1].strip() for line in information.read_text().splitlines() if line.startswith("model name")]
        processor = named[0] if named else processor
    packages = {name: version(name) for name in ("torch", "numpy", "numba")}
    return {"processor": processor, "threads": 1, "python": platform.python_version(), "platform": platform.platform(), **packages}


def save(name: str, command: str, frame: pd.DataFrame, folder: Path = RESULTS, *, method: str | None = None) -> Path:
    """Write a result with the command and the environment that made it, to a temporary name first; returns its path.

    `method` says in a sentence how it was measured, where that is not the same for all results.
    """
    path = folder / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    how = {} if method is None else {"method": method}
    content = {
        "command": command,
        **how,
        "environment": environment(),
        "rows": json.loads(frame.to_json(orient="records", double_precision=15)),
    }
    temporary = path.with_suffix(".json.part")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(path)
    return path
