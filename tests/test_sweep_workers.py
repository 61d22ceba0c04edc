"""Sweeps over real worker processes: killed workers, killed drivers, late answers, and answers in any order."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import simulator as sim
from simulator.search import Context, Goals, Grid, Predictor
from simulator.search.dispatch import dispatch
from simulator.search.jobs import Executor, Job
from simulator.search.objective import Evaluator, Outcome
from simulator.search.processes import Processes
from tests.sweep_tasks import ENVIRONMENT, GOALS, ROOT, Task, Where, alive, run, same, starts, until


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> sim.Sweep:
    return run(tmp_path_factory.mktemp("alone"), None)


def test_two_workers_that_are_killed_at_work_change_nothing(alone: sim.Sweep, tmp_path: Path) -> None:
    found = run(tmp_path / "notes", tmp_path / "store", workers=2, once="kill")
    assert same(found, alone)
    tries = starts(tmp_path / "notes")
    assert {count for name, count in tries.items() if name[0] in "36"} == {2}
    assert {count for name, count in tries.items() if name[0] not in "36"} == {1}


def test_a_design_that_kills_every_worker_fails_alone_and_is_tried_again_later(alone: sim.Sweep, tmp_path: Path) -> None:
    options: dict[str, Any] = {"strategy": "random", "fidelity": None, "trials": 12, "workers": 2}
    found = run(tmp_path / "notes", tmp_path / "store", once="always", retries=1, **options)
    deadly = found.frame["bits"].isin([3, 6])
    assert deadly.any() and (found.frame.loc[deadly, "state"] == "failed").all() and (found.frame.loc[~deadly, "state"] == "complete").all()
    assert found.frame.loc[deadly, "failure"].str.contains("worker died 2 times").all()
    later = run(tmp_path / "notes", tmp_path / "store", **options)
    assert (later.frame["state"] == "complete").all()


def test_a_late_job_is_given_to_a_second_worker(tmp_path: Path) -> None:
    evaluator = Evaluator(Task(tmp_path, once="hang"), Goals.read(GOALS))
    executor = Processes(evaluator, workers=2, retries=0)
    try:
        jobs = [Job(number, {"bits": bits, "rows": 64, "x": 0.0}, Context(0, range(1))) for number, bits in enumerate((2, 4, 5, 6))]
        start = time.monotonic()
        found = {job.ticket: outcome for job, outcome in dispatch(executor, jobs, late_factor=3.0, late_seconds=0.3)}
        assert time.monotonic() - start < 60, "the job that hangs was waited for"
        assert found[3].values == evaluator(jobs[3].configuration, jobs[3].context).values
        first, second = (int(pid) for pid in (tmp_path / "6-64-0.000000-0.begun").read_text().split()[:2])
        assert first != second
        until(lambda: not alive(first))
    finally:
        executor.close()
    assert executor.pids == []


class Backwards(Executor):
    """Answers in the reverse of the order of asking."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator, self.waiting = evaluator, []  # type: ignore[var-annotated]

    @property
    def slots(self) -> int:
        return 5

    def submit(self, job: Job, *, backup: bool = False) -> None:
        self.waiting.append(job)

    def answers(self, timeout: float) -> list[tuple[int, Outcome]]:
        job = self.waiting.pop()
        return [(job.ticket, self.evaluator(job.configuration, job.context))]

    def discard(self, ticket: int) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.mark.parametrize("strategy", ["random", "tpe", "nsga2", Predictor(model="ridge", candidates=200)], ids=str)
def test_the_order_of_answers_changes_nothing(strategy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forwards = run(tmp_path / "a", None, strategy=strategy, trials=40)
    monkeypatch.setattr("simulator.sweeping._executor", lambda evaluator, *_: Backwards(evaluator))
    assert same(forwards, run(tmp_path / "b", None, strategy=strategy, trials=40))


def test_designs_that_share_a_part_go_to_one_worker(tmp_path: Path) -> None:
    found = sim.sweep(Where(), {"rows": [64, 128, 256, 512], "x": list(range(6))}, goals={"y": "minimize"}, workers=2,
                      strategy=Grid(partition="rows"), progress=False)  # fmt: skip
    frame = found.frame
    homes = frame.groupby("rows")["pid"].agg(lambda pids: pids.value_counts().max() / len(pids))
    assert homes.mean() > 0.8 and frame["pid"].nunique() == 2


def test_a_driver_killed_and_started_again_loses_and_repeats_nothing(alone: sim.Sweep, tmp_path: Path) -> None:
    notes, store = tmp_path / "notes", tmp_path / "store"
    command = [sys.executable, "-m", "tests.sweep_tasks", str(notes), str(store)]
    workers: set[int] = set()
    for enough in (3, 12):
        driver = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT)
        until(lambda enough=enough: len(list(notes.glob("*.ended"))) >= enough)  # type: ignore[misc]
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        workers |= {int(pid) for path in notes.glob("*.begun") for pid in path.read_text().split()}
        until(lambda started=frozenset(workers): not any(alive(pid) for pid in started))  # type: ignore[misc]
    found = run(notes, store)
    assert same(found, alone)
    repeated = {name for name, count in starts(notes).items() if count > 1}
    assert len(repeated) <= 4, "two kills with two workers: at most four were in flight"
