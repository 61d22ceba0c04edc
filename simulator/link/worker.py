"""The thread in which a device works, so that whoever serves it can still answer others."""

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Job(Generic[Result]):
    """A call that a worker does.

    Parameters
    ----------
    call
        What is done.
    """

    def __init__(self, call: Callable[[], Result]) -> None:
        self._call = call
        self._done = threading.Event()
        self._results: list[Result] = []
        self._error: BaseException | None = None

    def do(self) -> None:
        """Do it, in the thread that calls this."""
        try:
            self._results.append(self._call())
        except BaseException as error:  # whatever it is, it is raised where the result is asked for
            self._error = error
        self._done.set()

    def wait(self, seconds: float) -> bool:
        """Wait so long at most; returns whether it is done."""
        return self._done.wait(seconds)

    @property
    def result(self) -> Result:
        """What the call returned; raises what it raised."""
        if self._error is not None:
            raise self._error
        return self._results[0]


class Worker:
    """One thread that does calls one after the other.

    Attributes
    ----------
    busy
        Whether a call is under way.

    Examples
    --------
    >>> worker = Worker()
    >>> job = worker.begin(lambda: 2 + 3)
    >>> job.wait(5.0), job.result
    (True, 5)
    >>> worker.close()
    """

    def __init__(self) -> None:
        self._jobs: SimpleQueue[Job[object] | None] = SimpleQueue()
        self.busy = False
        self._thread = threading.Thread(target=self._run, name="inloop device", daemon=True)
        self._thread.start()

    def begin(self, call: Callable[[], Result]) -> Job[Result]:
        """Have a call done after those that were begun before."""
        job = Job(call)
        self._jobs.put(job)  # type: ignore[arg-type]
        return job

    def close(self) -> None:
        """End after the calls that were begun."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            self.busy = True
            job.do()
            self.busy = False
