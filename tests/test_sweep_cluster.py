"""Sweeps over a real Dask scheduler and workers on loopback, which are removed while they work."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import Client

import simulator as sim
from simulator.search import SweepError
from simulator.search.store import JOURNAL
from tests.sweep_tasks import ENVIRONMENT, GOALS, ROOT, Task, Where, run, same, starts, until

TRIALS, WORKERS = 12, 3


START_SECONDS = 120.0
"""How long a busy machine may take to start a worker or to connect."""


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["Cluster"]:
    monkeypatch.setattr("simulator.search.cluster.CONNECT_SECONDS", START_SECONDS)
    made = Cluster(tmp_path)
    try:
        for _ in range(WORKERS):
            made.start_worker()
        with Client(made.address, timeout=START_SECONDS, set_as_default=False) as client:
            client.wait_for_workers(WORKERS, timeout=START_SECONDS)
        yield made
    finally:
        made.close()


class Cluster:
    """A Dask scheduler and workers in processes of their own, on loopback."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        file = folder / "scheduler.json"
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file))
        until(lambda: file.exists() and file.read_text().strip().endswith("}"))
        self.address = json.loads(file.read_text())["address"]
        self.workers: list[subprocess.Popen[bytes]] = []

    def start_worker(self) -> None:
        place = str(self.folder / "space")
        options = ("--no-nanny", "--nthreads", "1", "--no-dashboard", "--local-directory", place)
        self.workers.append(self._start("worker", self.address, *options))

    def _start(self, *command: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-m", "dask", *command], cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def close(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> sim.Sweep:
    return run(tmp_path_factory.mktemp("alone"), None, trials=TRIALS)


def test_a_dask_cluster_that_loses_workers_finds_the_same(
    alone: sim.Sweep, cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One scheduler goes through it all: of three workers a design kills one, and a signal one; at last the scheduler goes."""
    (tmp_path / "deadly").mkdir()
    deadly = sim.sweep(
        Task(tmp_path / "deadly", once="always"), {"bits": [2, 3, 4], "rows": [64], "x": [0.5]}, goals=GOALS, strategy="grid",
        cluster=cluster.address, retries=0, progress=False,
    )  # fmt: skip
    assert deadly.frame["state"].to_list() == ["complete", "failed", "complete"]
    assert "worker died once" in deadly.frame["failure"].iloc[1] and starts(tmp_path / "deadly")["3-64-0.500000-0"] == 1

    notes, store = tmp_path / "notes", tmp_path / "store"
    living = [worker for worker in cluster.workers if worker.poll() is None]
    assert len(living) == WORKERS - 1

    def remove() -> None:
        until(lambda: len(list(notes.glob("*.ended"))) >= 6)
        os.kill(living[0].pid, signal.SIGKILL)

    thread = threading.Thread(target=remove)
    thread.start()
    found = run(notes, store, trials=TRIALS, cluster=cluster.address, seconds=0.05)
    thread.join()
    assert living[0].wait() == -signal.SIGKILL and same(found, alone)
    keys = [(row["key"], *row["chips"]) for row in map(json.loads, (store / JOURNAL).read_text().splitlines()) if "key" in row]
    assert len(set(keys)) == len(keys)
    # The scheduler goes, and with it the last worker: an error that says how to go on, and going on repeats nothing.
    monkeypatch.setattr("simulator.search.cluster.CONNECT_SECONDS", 10.0)  # as it is for users
    thread = threading.Thread(target=lambda: (until(lambda: len(list((tmp_path / "more").glob("*.ended"))) >= 3), cluster.scheduler.kill()))
    thread.start()
    with pytest.raises(SweepError, match=r"scheduler of argument `cluster` must run.*goes on"):
        run(tmp_path / "more", tmp_path / "second", trials=TRIALS, cluster=cluster.address, seconds=0.2)
    thread.join()
    before = len(list((tmp_path / "more").glob("*.ended")))
    assert same(run(tmp_path / "more", tmp_path / "second", trials=TRIALS), alone)
    assert sum(starts(tmp_path / "more").values()) <= len(starts(tmp_path / "more")) + 2 and before >= 3


def test_refuses_a_scheduler_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulator.search.cluster.CONNECT_SECONDS", 0.5)
    with pytest.raises(SweepError, match=r"none answers at 'tcp://127.0.0.1:9'.*check host and port"):
        sim.sweep(Where(), {"x": [1, 2]}, goals={"y": "minimize"}, trials=2, cluster="tcp://127.0.0.1:9")
    with pytest.raises(SweepError, match="must be the address of a Dask scheduler"):
        sim.sweep(Where(), {"x": [1, 2]}, goals={"y": "minimize"}, trials=2, cluster="nonsense://x")
