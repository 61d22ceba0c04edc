"""What a Dask scheduler is given to count the workers that die over a sweep's jobs as the sweep counts them; needs `distributed`."""

from typing import Any

from distributed import SchedulerPlugin


class AllowedDeaths(SchedulerPlugin):
    """Lets a number of workers die over each of a sweep's jobs, and leaves other tasks alone.

    The scheduler gives a task up when workers died over it more often than it allows for all tasks; ours begin with a count that makes
    up for the difference.

    Parameters
    ----------
    prefix
        What the keys of the sweep's jobs begin with; also the name under which it is registered.
    retries
        Workers that may die over one job and it is still tried again.
    owner
        Identifier of the client; with it this goes.
    carried
        Name of what the workers carry for it, which goes too.
    """

    def __init__(self, prefix: str, retries: int, owner: str, carried: str) -> None:
        self.prefix, self.retries, self.owner, self.carried = prefix, retries, owner, carried
        self._begun: set[str] = set()

    async def start(self, scheduler: Any) -> None:
        """Begin on a scheduler."""
        self._scheduler = scheduler

    def transition(self, key: Any, start: str, finish: str, *args: Any, stimulus_id: str = "", **kwargs: Any) -> None:
        """Set the count of a job that begins."""
        if not isinstance(key, str) or not key.startswith(self.prefix):
            return
        if finish == "processing" and key not in self._begun:
            self._begun.add(key)
            self._scheduler.tasks[key].suspicious = self._scheduler.allowed_failures - self.retries
        elif finish == "forgotten":
            self._begun.discard(key)

    def remove_client(self, scheduler: Any, client: str) -> None:
        """Go where the sweep's driver went without a word."""
        if client == self.owner:
            scheduler.plugins.pop(self.prefix, None)
            scheduler.worker_plugins.pop(self.carried, None)
