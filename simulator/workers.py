"""Processes that work through trials: spawned, one thread each, fed by cloudpickle."""

import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, get_start_method, parent_process, set_start_method
from pathlib import Path
from typing import Any, TypeVar

import cloudpickle
import torch

from kernels.threads import set_threads

Item = TypeVar("Item")
Result = TypeVar("Result")

_task: Callable[[Any], Any] | None = None


def work_through(task: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Iterator[Result]:
    """Yield ``task(item)`` for each item in the items' order, in this process or in several.

    Parameters
    ----------
    task
        A function of one item; sent to each worker once.
    items
        What to work through.
    workers
        Processes; 1 works in this process.

    Examples
    --------
    >>> list(work_through(abs, [-1, 2], workers=1))
    [1, 2]
    """
    if not isinstance(workers, int) or isinstance(workers, bool) or workers < 1:
        raise ValueError(f"Argument `workers` must be an integer of at least 1, but got {workers!r}")
    if workers == 1:
        yield from map(task, items)
        return
    # Forking after a parallel kernel has run kills the child; a spawned process starts clean.
    # The task travels by file: a child that dies at its start would leave a pipe that nobody reads, and this process waiting.
    with tempfile.NamedTemporaryFile(prefix="inloop-", delete=False) as file:
        file.write(cloudpickle.dumps(task))
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start, initargs=(file.name, get_start_method()))
    try:
        with _interrupts_held():
            results = pool.map(_run, items)
        yield from results
    except BrokenProcessPool as error:
        raise RuntimeError(
            'A worker process died. Where a script starts workers, its own code must stand under `if __name__ == "__main__":`; '
            "otherwise the machine may have run out of memory: use fewer workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        os.unlink(file.name)


def _start(path: str, start_method: str) -> None:
    global _task  # noqa: PLW0603 - a worker process has one task
    # What a task starts by itself, as a loader with workers does, starts as it would in the process that this one works for: spawned
    # processes could not be given the classes of its script, which are here by value.
    set_start_method(start_method, force=True)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    set_threads(1)
    _task = cloudpickle.loads(Path(path).read_bytes())


def _run(item: Any) -> Any:
    assert _task is not None
    return _task(item)


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold Ctrl-C back inside the block: processes started there inherit that, and leave it to this one to stop them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    """Wait for the process that started this one, which may be killed without a word, and end too."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
