"""What a sweep carries to each worker of a Dask cluster, those that join later included; needs `distributed`."""

import threading
from typing import Any

from distributed import WorkerPlugin

from simulator.search.objective import Evaluator
from simulator.search.worker import load


class Carried(WorkerPlugin):
    """An evaluator that each worker has of its own.

    As a result that jobs depend on, it would draw all of them to the worker that has it: they would wait there for each other, and each
    would be blamed when that worker died.

    Parameters
    ----------
    content
        The evaluator, as cloudpickle wrote it.
    """

    def __init__(self, content: bytes) -> None:
        self.content = content

    def setup(self, worker: Any) -> None:
        """Begin on a worker; what the evaluator needs is imported by the first job, whose error that may be."""
        self._lock = threading.Lock()
        self._evaluator: Evaluator | None = None

    def evaluator(self) -> Evaluator:
        """Return the evaluator."""
        with self._lock:
            if self._evaluator is None:
                self._evaluator = load(self.content)
            return self._evaluator
