"""Objectives for worker processes of the tests, and a driver that can be killed: imported and run by other processes.

What a worker imports to unpickle an objective is light here, so that one that was killed is back soon.
"""

import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from simulator.search.objective import Context

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
GOALS = {"miss": "minimize", "energy": "minimize"}


class Task:
    """A pure function that also notes in a folder when it begins and ends, and can misbehave once per design.

    Parameters
    ----------
    folder
        Where it takes notes.
    seconds
        How long it takes.
    once
        "kill" ends its process with kill -9 at the first try of some designs, "always" at every try; "hang" waits for minutes.
    """

    def __init__(self, folder: Path, seconds: float = 0.0, once: str = "") -> None:
        self.folder, self.seconds, self.once = folder, seconds, once

    def fingerprint(self) -> str:
        return "task"

    def __call__(self, configuration: dict[str, Any], context: Context) -> dict[str, Any]:
        name = f"{configuration['bits']}-{configuration['rows']}-{configuration['x']:.6f}-{context.chips.start}"
        first = not (self.folder / f"{name}.begun").exists()
        with (self.folder / f"{name}.begun").open("a") as file:
            file.write(f"{os.getpid()}\n")
        if self.once and configuration["bits"] in (3, 6):
            if (first and self.once == "kill") or self.once == "always":
                os.kill(os.getpid(), signal.SIGKILL)
            if first and self.once == "hang":
                time.sleep(300)
        time.sleep(self.seconds)
        noise = [np.random.default_rng([context.seed, chip]).normal() for chip in context.chips]
        with (self.folder / f"{name}.ended").open("a") as file:
            file.write(f"{os.getpid()}\n")
        return {
            "miss": [(configuration["bits"] - 5) ** 2 + configuration["x"] + 0.1 * n for n in noise],
            "energy": configuration["rows"] * 1.0,
        }


def run(folder: Path, store: Path | None, **options: Any) -> Any:
    """Run the sweep of the tests."""
    import simulator as sim
    from simulator.search import TPE, Fidelity, Real, Whole

    folder.mkdir(exist_ok=True)
    task = Task(folder, options.pop("seconds", 0.0), options.pop("once", ""))
    defaults = {"goals": GOALS, "trials": 24, "strategy": TPE(batch=6, startup=6), "chips": 4, "fidelity": Fidelity(), "store": store}
    space = {"bits": Whole(2, 9), "rows": [64, 128, 256], "x": Real(0, 1)}
    return sim.sweep(task, space, **{**defaults, "progress": False, **options})


def starts(folder: Path) -> Counter[str]:
    return Counter({path.stem: len(path.read_text().split()) for path in folder.glob("*.begun")})


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(condition: Any, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def same(first: Any, second: Any) -> bool:
    import pandas as pd

    columns = [name for name in first.frame if name != "elapsed_s"]
    pd.testing.assert_frame_equal(first.frame[columns], second.frame[columns], check_exact=True)
    return True


class Where:
    """Tells which process it runs in."""

    def __call__(self, configuration: dict[str, Any], context: Context) -> dict[str, float]:
        time.sleep(0.02)
        return {"y": 0.0, "pid": float(os.getpid())}


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[2]), seconds=0.08, workers=2)
