"""Jobs and those who do them: what every executor has in common, and the one that works in this process."""

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass
from typing import Any

from simulator.search.objective import Context, Evaluator, Outcome


@dataclass(frozen=True)
class Job:
    """One evaluation to be done.

    Attributes
    ----------
    ticket
        Its number, by which the answer is recognized.
    configuration, context
        What the objective is called with.
    part
        Which part of the space it lies in: where the strategy divides the space, the jobs of a part go to one worker. None: to any.
    """

    ticket: int
    configuration: dict[str, Any]
    context: Context
    part: int | None = None


class Executor(ABC):
    """Does jobs in any order; a worker that dies is replaced, and its job done again by another."""

    @property
    @abstractmethod
    def slots(self) -> int:
        """Number of jobs that can be under way at once."""

    @abstractmethod
    def submit(self, job: Job, *, backup: bool = False) -> None:
        """Take a job on; `backup` is a second copy of one that is under way and late."""

    @abstractmethod
    def answers(self, timeout: float) -> list[tuple[int, Outcome]]:
        """Return the jobs that ended, by ticket, after waiting for one at most `timeout` seconds."""

    @abstractmethod
    def discard(self, ticket: int) -> None:
        """Stop what is still done for a job that has its answer."""

    @abstractmethod
    def close(self) -> None:
        """Stop all work and end all workers."""


def died(times: int, last: str) -> Outcome:
    """Return what becomes of a job over which so many workers died; it is tried again when the sweep is resumed."""
    often = "once" if times == 1 else f"{times} times, the last time"
    return Outcome(None, f"worker died {often} {last} in this evaluation; it may need more memory than there is", lost=True)


class InProcess(Executor):
    """Works in this process, one job after the other."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self._waiting: deque[Job] = deque()

    @property
    def slots(self) -> int:
        """One."""
        return 1

    def submit(self, job: Job, *, backup: bool = False) -> None:
        """Put a job in line."""
        self._waiting.append(job)

    def answers(self, timeout: float) -> list[tuple[int, Outcome]]:
        """Do the next job."""
        from simulator._isolation import one_thread

        job = self._waiting.popleft()
        with one_thread():
            return [(job.ticket, self._evaluator(job.configuration, job.context))]

    def discard(self, ticket: int) -> None:
        """Nothing is ever late here."""

    def close(self) -> None:
        """Nothing is left to end."""
