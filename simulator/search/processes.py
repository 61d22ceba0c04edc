"""Worker processes on this machine: spawned, one thread each, replaced when they die."""

import os
import tempfile
import threading
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing import connection as connections
from multiprocessing import get_context
from multiprocessing.context import SpawnProcess
from typing import Any

import cloudpickle

from simulator.search.jobs import Executor, Job, died
from simulator.search.objective import Evaluator, Outcome
from simulator.search.worker import ONE_THREAD, serve

STILLBORN = 3
"""Workers in a row that may die before they are ready."""


class _Worker:
    """A process, the line to it, and the job that it does."""

    def __init__(self, place: int, path: str) -> None:
        from simulator.workers import _interrupts_held

        context = get_context("spawn")
        self.place = place
        self.line, other = context.Pipe()
        self.process: SpawnProcess = context.Process(target=serve, args=(other, path), daemon=True, name=f"inloop-worker-{place}")
        with _environment(), _interrupts_held():
            self.process.start()
        other.close()
        self.ready = False
        self.job: Job | None = None

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.line.close()


class Processes(Executor):
    """Processes on this machine.

    Parameters
    ----------
    evaluator
        What each of them calls; travels by cloudpickle.
    workers
        How many.
    retries
        Workers that may die over one job before it counts as failed.
    """

    def __init__(self, evaluator: Evaluator, workers: int, retries: int) -> None:
        with tempfile.NamedTemporaryFile(prefix="inloop-", delete=False) as file:
            file.write(cloudpickle.dumps(evaluator))
        self._path, self._retries = file.name, retries
        self._waiting: deque[Job] = deque()
        self._deaths: Counter[int] = Counter()
        self._stillborn = 0
        self._count = workers
        self._workers: list[_Worker] = []
        try:
            for place in range(workers):
                self._workers.append(_Worker(place, self._path))
        except BaseException:
            self.close()
            raise

    @property
    def slots(self) -> int:
        """Number of processes."""
        return self._count

    @property
    def pids(self) -> list[int]:
        """Identifiers of the living processes."""
        return [worker.process.pid for worker in self._workers if worker.process.pid is not None and worker.process.is_alive()]

    def submit(self, job: Job, *, backup: bool = False) -> None:
        """Put a job in line."""
        self._waiting.append(job)
        self._hand_out()

    def answers(self, timeout: float) -> list[tuple[int, Outcome]]:
        """Return the jobs that ended."""
        watched: list[Any] = [thing for worker in self._workers for thing in (worker.line, worker.process.sentinel)]
        woken: Sequence[Any] = connections.wait(watched, timeout)
        found: list[tuple[int, Outcome]] = []
        for worker in list(self._workers):
            if worker.line in woken or worker.process.sentinel in woken:
                found += self._listen(worker)
        self._hand_out()
        return found

    def discard(self, ticket: int) -> None:
        """End the worker that still does a job which has its answer; another takes its place."""
        self._waiting = deque(job for job in self._waiting if job.ticket != ticket)
        for worker in list(self._workers):
            if worker.job is not None and worker.job.ticket == ticket:
                self._replace(worker)
        self._deaths.pop(ticket, None)
        self._hand_out()

    def close(self) -> None:
        """End all processes."""
        for worker in self._workers:
            worker.end()
        self._workers.clear()
        with suppress(FileNotFoundError):
            os.unlink(self._path)

    def _listen(self, worker: _Worker) -> list[tuple[int, Outcome]]:
        try:
            if not worker.line.poll():
                raise EOFError  # dead, with nothing left to say
            ticket, outcome = worker.line.recv()
        except (EOFError, OSError):
            return self._bury(worker)
        self._stillborn = 0
        if ticket is None:
            worker.ready = True
            return []
        worker.job = None
        self._deaths.pop(ticket, None)
        return [(ticket, replace(outcome, worker=worker.process.name))]

    def _bury(self, worker: _Worker) -> list[tuple[int, Outcome]]:
        """Replace a dead worker, and give its job to the next or give the job up."""
        job, ready = worker.job, worker.ready
        worker.process.join()
        code = worker.process.exitcode
        self._stillborn += not ready
        if self._stillborn >= STILLBORN * self._count:
            raise RuntimeError(
                f"A worker process died at its start (exit code {code}). Where a script starts workers, its own code must stand under "
                '`if __name__ == "__main__":`; otherwise the machine may have run out of memory: use fewer workers'
            )
        self._replace(worker)
        if job is None:
            return []
        self._deaths[job.ticket] += 1
        if self._deaths[job.ticket] <= self._retries:
            self._waiting.appendleft(job)
            return []
        outcome = died(self._deaths.pop(job.ticket), f"with exit code {code}")
        return [(job.ticket, replace(outcome, worker=worker.process.name))]

    def _replace(self, worker: _Worker) -> None:
        worker.end()
        self._workers[self._workers.index(worker)] = _Worker(worker.place, self._path)

    def _hand_out(self) -> None:
        """Give waiting jobs to idle workers: those of a worker's own part of the space first."""
        for worker in self._workers:
            if worker.job is None and worker.ready and self._waiting:
                busy = {other.job.ticket for other in self._workers if other.job is not None}
                own = (job for job in self._waiting if job.part is not None and job.part % self._count == worker.place)
                # With none of its own left it takes the last, which the worker it belongs to would do last.
                job = next(own, self._waiting[0] if self._waiting[0].part is None else self._waiting[-1])
                if job.ticket in busy and len(self._waiting) > 1:
                    job = next((other for other in self._waiting if other.ticket not in busy), job)
                self._waiting.remove(job)
                worker.job = job
                with suppress(BrokenPipeError, OSError):  # it is dead: `answers` finds that, and the job goes to the next
                    worker.line.send((job.ticket, job.configuration, job.context))


_spawning = threading.Lock()


class _environment:  # noqa: N801 - a context manager that reads as a word
    """Set the environment that children inherit, and put this process's own back."""

    def __enter__(self) -> None:
        _spawning.acquire()
        self._before = {name: os.environ.get(name) for name in ONE_THREAD}
        os.environ.update(ONE_THREAD)

    def __exit__(self, *_: object) -> None:
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        _spawning.release()
