"""Workers of a Dask cluster: a scheduler's at an address, or one started here."""

import queue
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from typing import Any

import cloudpickle

from simulator.search.jobs import Executor, Job, died
from simulator.search.objective import Evaluator, Outcome
from simulator.search.store import SweepError

CONNECT_SECONDS = 10.0
"""How long a scheduler may take to answer, and then to have a worker."""
LOCAL = "local"


class DaskCluster(Executor):
    """Workers that a Dask scheduler knows.

    Parameters
    ----------
    evaluator
        What they call; it reaches each worker once, those that join later too.
    address
        Address of the scheduler, ``tcp://host:port``; ``"local"`` starts a scheduler and workers here.
    workers
        How many to start with ``"local"``.
    retries
        Workers that may die over one job before it counts as failed, whatever the scheduler allows other tasks
        (``distributed.scheduler.allowed-failures``).

    Raises
    ------
    SweepError
        Where `distributed` is not installed, or no scheduler or worker is there; one line.
    """

    def __init__(self, evaluator: Evaluator, address: str, workers: int, retries: int) -> None:
        try:
            distributed = import_module("distributed")
        except ImportError as error:
            raise SweepError("Argument `cluster` needs Dask, which is not installed; do pip install 'inloop[cluster]'") from error
        self._own: Any = None
        if address == LOCAL:
            self._own = distributed.LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None)
        try:
            self._client: Any = distributed.Client(self._own or address, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            self._end_own()
            raise SweepError(
                f"Argument `cluster` must be the address of a Dask scheduler that runs, but none answers at {address!r} within "
                f"{CONNECT_SECONDS:g} s; start one with `dask scheduler`, or check host and port"
            ) from error
        try:
            self._client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except TimeoutError as error:
            self.close()
            raise SweepError(
                f"Argument `cluster` must be a scheduler with workers, but {address!r} has none; start some with `dask worker {address}`"
            ) from error
        self._futures: dict[str, tuple[int, Any]] = {}
        self._done: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._counter, self._retries, self._prefix = 0, retries, f"inloop-{time.time_ns()}-"
        self._carried = f"{self._prefix}evaluator"
        from simulator.search.allowed_deaths import AllowedDeaths
        from simulator.search.carried import Carried

        self._client.register_plugin(AllowedDeaths(self._prefix, retries, self._client.id, self._carried), name=self._prefix)
        self._client.register_plugin(Carried(cloudpickle.dumps(evaluator)), name=self._carried)
        self._seen: tuple[float, dict[str, int]] = (0.0, {})
        self._lock = threading.Lock()

    @property
    def slots(self) -> int:
        """Threads of all workers, as of the last second; at least one, as workers may come back."""
        return max(1, sum(self._threads().values()))

    def submit(self, job: Job, *, backup: bool = False) -> None:
        """Hand a job to the scheduler."""
        self._counter += 1
        key = f"{self._prefix}{self._counter}"
        near = sorted(self._threads())
        place = {} if job.part is None or not near else {"workers": [near[job.part % len(near)]], "allow_other_workers": True}
        future = self._client.submit(
            _call, self._carried, job.configuration, job.context, key=key, pure=False, retries=0, priority=int(backup), **place
        )
        with self._lock:
            self._futures[key] = (job.ticket, future)
        future.add_done_callback(lambda _, key=key: self._done.put(key))

    def answers(self, timeout: float) -> list[tuple[int, Outcome]]:
        """Return the jobs that ended."""
        found = []
        try:
            keys = [self._done.get(timeout=timeout)]
            while not self._done.empty():
                keys.append(self._done.get())
        except queue.Empty:
            self._require_scheduler()
            return []
        for key in keys:
            entry = self._futures.pop(key, None)
            if entry is not None and entry[1].status != "cancelled":
                found.append((entry[0], self._outcome(entry[1])))
            elif entry is not None:
                self._require_scheduler()
                found.append((entry[0], Outcome(None, "the scheduler dropped this evaluation", lost=True)))
        return found

    def discard(self, ticket: int) -> None:
        """Cancel what is still done for a job that has its answer."""
        for key, (number, future) in list(self._futures.items()):
            if number == ticket:
                del self._futures[key]
                with suppress(Exception):  # it may have ended in this moment
                    future.cancel()

    def close(self) -> None:
        """Cancel what is under way, and leave the cluster; one started here is ended."""
        futures, self._futures = getattr(self, "_futures", {}), {}
        with suppress(Exception):
            self._client.cancel([future for _, future in futures.values()], force=True)
        with suppress(Exception):
            self._client.unregister_scheduler_plugin(name=self._prefix)
        with suppress(Exception):
            self._client.unregister_worker_plugin(name=self._carried)
        with suppress(Exception):
            self._client.close()
        self._end_own()

    def _outcome(self, future: Any) -> Outcome:
        from distributed import KilledWorker

        try:
            outcome: Outcome
            outcome, worker = future.result(timeout=CONNECT_SECONDS)
            return replace(outcome, worker=worker)
        except KilledWorker as error:
            return died(self._retries + 1, f"at {getattr(error.last_worker, 'address', 'an unknown address')}")
        except Exception as error:  # the objective's own failures are outcomes: what arrives here is the cluster's
            self._require_scheduler()
            return Outcome(None, f"the cluster failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}", lost=True)

    def _threads(self) -> dict[str, int]:
        now = time.monotonic()
        if now - self._seen[0] > 1.0:
            workers = self._client.scheduler_info(n_workers=-1).get("workers")
            if workers is None:
                self._require_scheduler()
                return self._seen[1]
            self._seen = (now, {address: int(worker["nthreads"]) for address, worker in workers.items()})
        return self._seen[1]

    def _require_scheduler(self) -> None:
        if self._client.status not in ("running", "connecting"):
            raise SweepError(
                "The scheduler of argument `cluster` must run until the sweep ends, but the connection to it is lost; "
                "start it and run the same sweep again: it goes on with what was finished"
            )

    def _end_own(self) -> None:
        if self._own is not None:
            with suppress(Exception):
                self._own.close()


def _call(carried: str, configuration: dict[str, Any], context: Any) -> tuple[Outcome, str]:
    """Evaluate on a worker; says which one it was."""
    from distributed import get_worker

    plugin: Any = get_worker().plugins[carried]
    evaluate: Evaluator = plugin.evaluator()
    if "torch" in sys.modules:
        return _on_one_thread(evaluate, configuration, context), str(get_worker().name)
    outcome = evaluate(configuration, context)
    if "torch" in sys.modules:  # the objective imported it, on as many threads as there are: its bits are those of one
        outcome = _on_one_thread(evaluate, configuration, context)
    return outcome, str(get_worker().name)


def _on_one_thread(evaluate: Evaluator, configuration: dict[str, Any], context: Any) -> Outcome:
    from simulator._isolation import one_thread

    with one_thread():
        return evaluate(configuration, context)
