"""Jobs to executors and answers back: as many under way as there are workers, and a second copy of those that are late."""

import statistics
import time
from collections import deque
from collections.abc import Iterable, Iterator

from simulator.search.jobs import Executor, Job
from simulator.search.objective import Outcome

LATE_FACTOR = 3.0
"""A job is late after so many times the median time of those that ended."""
LATE_SECONDS = 5.0
"""And after so many seconds: starting another copy costs time too."""
LATE_AFTER = 3
"""Jobs that must have ended before any is late."""
POLL_SECONDS = 0.5
LOOKAHEAD = 16
"""Jobs per worker that are handed over at once where the space is divided among the workers, so that each finds its own."""
REMEMBERED = 200


def dispatch(
    executor: Executor, jobs: Iterable[Job], *, late_factor: float = LATE_FACTOR, late_seconds: float = LATE_SECONDS
) -> Iterator[tuple[Job, Outcome]]:
    """Yield each job with its outcome, as they end.

    Parameters
    ----------
    executor
        Who does them.
    jobs
        What is to do; taken one by one as workers become free.
    late_factor, late_seconds
        When the last jobs are late against the median of the others: an idle worker then does a second copy, and the first answer
        counts. An objective is a pure function, so it does not matter whose answer that is.
    """
    remaining = iter(jobs)
    running: dict[int, tuple[Job, float]] = {}
    copied: set[int] = set()
    times: deque[float] = deque(maxlen=REMEMBERED)
    exhausted = False
    ahead = 1
    while True:
        while not exhausted and len(running) + len(copied) < executor.slots * ahead:
            job = next(remaining, None)
            if job is None:
                exhausted = True
            else:
                ahead = 1 if job.part is None else LOOKAHEAD
                executor.submit(job)
                running[job.ticket] = (job, time.monotonic())
        if not running:
            return
        for ticket, outcome in executor.answers(POLL_SECONDS):
            if ticket not in running:
                continue  # the other copy was first
            job, start = running.pop(ticket)
            times.append(time.monotonic() - start)
            if ticket in copied:
                copied.remove(ticket)
                executor.discard(ticket)
            yield job, outcome
        if exhausted and len(times) >= LATE_AFTER and len(running) + len(copied) < executor.slots:
            limit = max(late_seconds, late_factor * statistics.median(times))
            now = time.monotonic()
            late = [entry for ticket, entry in running.items() if ticket not in copied and now - entry[1] > limit]
            for job, _ in sorted(late, key=lambda entry: entry[1])[: executor.slots - len(running) - len(copied)]:
                executor.submit(job, backup=True)
                copied.add(job.ticket)
