"""Design sweeps: which hardware should be built? The driver owns the study; workers evaluate pure functions."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import count, islice
from pathlib import Path
from typing import Any

from simulator.fingerprints import digest, versions
from simulator.progress import track
from simulator.search.dispatch import dispatch
from simulator.search.fidelity import Fidelity, Values
from simulator.search.found import OWN_COLUMNS, Sweep
from simulator.search.identity import identify
from simulator.search.jobs import Executor, InProcess, Job
from simulator.search.objective import Context, Evaluator, Goals, Objective
from simulator.search.space import Choice, Configuration, Parameter, Space, written_value
from simulator.search.store import FORMAT, Store, SweepError, opened_store
from simulator.search.strategies import Proposal, Strategy, Told, read_strategy
from simulator.search.trials import Trial, evaluation_key, record


def sweep(
    objective: Objective | Callable[[dict[str, Any], Context], Any],
    space: Space | Mapping[str, Parameter | Sequence[Any]],
    *,
    goals: Mapping[str, str] | None = None,
    limits: Mapping[str, tuple[float | None, float | None]] | None = None,
    trials: int | None = None,
    strategy: str | Strategy = "random",
    chips: int = 1,
    fidelity: Fidelity | None = None,
    seed: int = 0,
    workers: int = 1,
    cluster: str | None = None,
    store: str | Path | None = None,
    retries: int = 2,
    retry_failed: bool = False,
    progress: bool | None = None,
) -> Sweep:
    """Evaluate designs of a space and find the ones that no other beats.

    With one seed, trials and results are the same for any number of workers, of processes or of a cluster, and whether or not the
    sweep was interrupted. Results are kept under the content of their configuration: a sweep that is run again, extended, or
    followed by another one over the same store never computes a design twice.

    Parameters
    ----------
    objective
        A pure function of a configuration and a `Context`; returns a number, or numbers by name, where a list has one per chip.
        `HardwareObjective` compiles and measures chips. It travels to workers by cloudpickle.
    space
        What to vary: a `Space`, or parameters by name.
    goals
        "minimize" or "maximize" by the name of a value; None: what the objective has as its attribute `goals`.
    limits
        (least, greatest) allowed value by name, None where free.
    trials
        Designs; None goes through a whole grid.
    strategy
        "grid", "random", "quasi_random", "tpe", "nsga2", "nsga3", "predictor", or one of these with its settings, such as
        ``TPE(batch=16)``.
    chips
        Programmed instances measured of each design, on common random numbers.
    fidelity
        Measure few chips first and more of those that may be on the front; None measures all of each.
    seed
        Of the strategy and of all chips.
    workers
        Processes on this machine; 1 works in this one.
    cluster
        Address of a Dask scheduler, or "local" to start one here with `workers` workers.
    store
        Folder that keeps every evaluation; the same call goes on from there. None keeps nothing.
    retries
        Workers that may die over one design before it counts as failed.
    retry_failed
        Evaluate again what failed in an earlier run.
    progress
        Show a progress bar; by default on a terminal.

    Returns
    -------
    Sweep
        ``frame`` has a row per design; `Sweep.front` those that no other beats.

    Raises
    ------
    SweepError
        If the store or the cluster cannot be used; a ValueError.
    ValueError
        If an argument is not allowed. An objective that raises is a failed row, and the sweep goes on.

    Examples
    --------
    >>> from simulator.search import Whole
    >>> def objective(configuration, context):
    ...     bits = configuration["bits"]
    ...     return {"error": 2.0**-bits, "energy": 4.0**bits}
    >>> goals = {"error": "minimize", "energy": "minimize"}
    >>> found = sweep(objective, {"bits": Whole(2, 5)}, goals=goals, strategy="grid")
    >>> found.frame[["bits", "error", "energy"]].iloc[-1].to_list(), len(found.front())
    ([5.0, 0.03125, 1024.0], 4)
    """
    given = goals if goals is not None else getattr(objective, "goals", None)
    if given is None:
        raise ValueError('Argument `goals` must say what is better, such as {"accuracy": "maximize"}, but is not given')
    if not callable(objective):
        raise ValueError(f"Argument `objective` must be a function of a configuration and a context, but got {type(objective).__name__}")
    chosen = read_strategy(strategy)
    searched = space if isinstance(space, Space) else Space(space)
    for name, value, least in (("chips", chips, 1), ("workers", workers, 1), ("seed", seed, 0), ("retries", retries, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"Argument `{name}` must be an integer of at least {least}, but got {value!r}")
    if trials is None and not (chosen.proposals(searched, seed) is not None and type(chosen).__name__ == "Grid"):
        raise ValueError('Argument `trials` must say how many designs to try, but is None, which only a "grid" takes')
    if trials is not None and (isinstance(trials, bool) or not isinstance(trials, int) or trials < 1):
        raise ValueError(f"Argument `trials` must be an integer of at least 1, but got {trials!r}")
    if chosen.partition is not None and chosen.partition not in searched.parameters:
        raise ValueError(f"Argument `strategy` must be partitioned by a parameter of the space, but got {chosen.partition!r}")
    evaluator = Evaluator(objective, Goals.read(given, limits))
    clash = (set(searched.parameters) & {*OWN_COLUMNS, *evaluator.goals.names}) | (set(evaluator.goals.names) & set(OWN_COLUMNS))
    if clash:
        raise ValueError(f"Parameters, values and columns of the frame must have different names, but {min(clash)!r} is two; rename one")
    with opened_store(store) as opened:
        driver = _Driver(evaluator, searched, chosen, trials, chips, fidelity, seed, opened, retry_failed)
        executor = _LazyExecutor(lambda: _executor(evaluator, workers, cluster, retries))
        try:
            total = trials if trials is not None else searched.size or 0
            bar: Any = track(driver.run(executor), total, "designs", progress)
            with closing(bar) as finished:
                found = sorted(finished, key=lambda trial: trial.number)
        finally:
            executor.close()
        traces = {trial.number: opened.line(trial.failure).get("trace", "") for trial in found if trial.failure is not None}
    return Sweep(searched, evaluator.goals, found, traces, seed=seed, chips=chips)


class _LazyExecutor:
    """Workers that are started when the first job comes: a sweep that the store has whole needs none."""

    def __init__(self, start: Callable[[], Executor]) -> None:
        self._start = start
        self._executor: Executor | None = None

    def get(self) -> Executor:
        if self._executor is None:
            self._executor = self._start()
        return self._executor

    def close(self) -> None:
        if self._executor is not None:
            self._executor.close()


def _executor(evaluator: Evaluator, workers: int, cluster: str | None, retries: int) -> Executor:
    if cluster is not None:
        from simulator.search.cluster import DaskCluster

        return DaskCluster(evaluator, cluster, workers, retries)
    if workers == 1:
        return InProcess(evaluator)
    from simulator.search.processes import Processes

    return Processes(evaluator, workers, retries)


class _Driver:
    """Owns the study: asks the strategy, gives jobs out, keeps what comes back, and tells the strategy in the order of trials."""

    def __init__(
        self, evaluator: Evaluator, space: Space, strategy: Strategy, trials: int | None, chips: int, fidelity: Fidelity | None,
        seed: int, store: Store, retry_failed: bool,
    ) -> None:  # fmt: skip
        self._evaluator, self._space, self._strategy, self._trials = evaluator, space, strategy, trials
        self._chips, self._fidelity, self._seed, self._store = chips, fidelity, seed, store
        self._common = {"objective": identify(evaluator.objective), "seed": seed, "versions": versions(), "format": FORMAT}
        self._setting = digest(self._common)
        self._tickets = count()
        self._numbers = count()
        self._rivals: list[Values] = []
        self._parts: dict[str, int] = {}
        self._sweep = ""
        self._old_failures = retry_failed

    def run(self, executor: _LazyExecutor) -> Iterator[Trial]:
        """Yield each trial when nothing more is to be measured of it."""
        goals = self._evaluator.goals
        limits = {limit.name: [limit.low, limit.high] for limit in goals.limits}
        about = {"goals": dict(goals.directions), "limits": limits, "space": self._space.written(), "chips": self._chips}
        about |= {"setting": self._setting}
        self._sweep = digest(about)
        self._store.about(self._sweep, about)
        proposals = self._strategy.proposals(self._space, self._seed)
        if proposals is None:
            yield from self._adaptive(executor)
            return
        fixed = islice(proposals, self._trials)
        if self._fidelity is None:
            yield from self._measure(map(self._trial, fixed), self._chips, executor)
            return
        while block := list(islice(fixed, self._fidelity.batch)):
            yield from self._race([self._trial(configuration) for configuration in block], executor)

    def _adaptive(self, executor: _LazyExecutor) -> Iterator[Trial]:
        """Ask for a batch, measure it, tell the results in order, and so on."""
        assert self._trials is not None
        searching = self._strategy.start(self._space, self._evaluator.goals, self._seed)
        name, remaining = self._identity(), self._trials
        for batch in count():
            proposals = self._proposed(self._store.asked(name, batch))
            if proposals is None:
                proposals = searching.ask(batch)
                self._store.ask(name, batch, [self._written(proposal) for proposal in proposals])
            if not proposals:
                return  # the space has no more
            taken = [self._trial(proposal.configuration) for proposal in proposals[:remaining]]
            yield from self._race(taken, executor) if self._fidelity else self._measure(taken, self._chips, executor)
            remaining -= len(taken)
            if remaining <= 0:
                return
            searching.tell(batch, [Told(*pair) for pair in zip(proposals, (trial.means() for trial in taken), strict=True)])

    def _race(self, trials: list[Trial], executor: _LazyExecutor) -> Iterator[Trial]:
        """Measure rung by rung, and drop after each what is beaten for certain."""
        assert self._fidelity is not None
        goals, alive = self._evaluator.goals, trials
        for chips in self._fidelity.rungs(self._chips):
            for _ in self._measure(alive, chips, executor):
                pass
            finished = [trial for trial in alive if trial.error]
            alive = [trial for trial in alive if not trial.error]
            # Rivals of earlier batches were never dropped, so they have all the chips.
            rivals = self._rivals + [trial.values for trial in alive if trial.values is not None]
            if chips < self._chips:
                for trial in alive:
                    assert trial.values is not None
                    others = [values for values in rivals if values is not trial.values]
                    trial.dropped = self._fidelity.beaten(trial.values, others, goals, chips)
                dropped = [trial for trial in alive if trial.dropped]
                self._store.drop(self._sweep, [trial.key for trial in dropped])
                finished += dropped
                alive = [trial for trial in alive if not trial.dropped]
            yield from finished
        self._rivals += [trial.values for trial in alive if trial.values is not None]
        yield from alive

    def _measure(self, trials: Iterable[Trial], chips: int, executor: _LazyExecutor) -> Iterator[Trial]:
        """Bring trials up to a number of chips, from the store where it has them; trials of one design are measured once."""
        jobs: dict[int, list[Trial]] = {}
        tickets: dict[str, int] = {}
        known: list[Trial] = []

        def missing() -> Iterator[Job]:
            for trial in trials:
                trial.complete_from(self._usable(trial.key), chips)
                if trial.chips >= chips or trial.error:
                    known.append(trial)
                elif trial.key in tickets:
                    jobs[tickets[trial.key]].append(trial)
                else:
                    ticket = next(self._tickets)
                    tickets[trial.key], jobs[ticket] = ticket, [trial]
                    yield Job(ticket, trial.configuration, Context(self._seed, range(trial.chips, chips)), self._part(trial))

        needed = missing()
        first = next(needed, None)
        if first is not None:
            for job, outcome in dispatch(executor.get(), _chain(first, needed)):
                waiting = jobs.pop(job.ticket)
                del tickets[waiting[0].key]
                row = record(self._store, waiting[0], job.context.chips, outcome, self._setting)
                for trial in waiting:
                    trial.take(row, chips)
                    trial.computed = True
                    yield trial
                while known:
                    yield known.pop()
        yield from known

    def _usable(self, key: str) -> list[Any]:
        rows = self._store.rows(key)
        return [row for row in rows if row.values is not None] if self._old_failures else rows

    def _trial(self, configuration: Configuration) -> Trial:
        return Trial(next(self._numbers), configuration, evaluation_key(configuration, self._common))

    def _part(self, trial: Trial) -> int | None:
        name = self._strategy.partition
        if name is None:
            return None
        return self._parts.setdefault(digest(written_value(trial.configuration.get(name))), len(self._parts))

    def _identity(self) -> str:
        """Return the digest of all that decides which designs are asked for."""
        goals, fidelity = self._evaluator.goals, self._fidelity
        limits = [[limit.name, limit.low, limit.high] for limit in goals.limits]
        rungs = None if fidelity is None else [fidelity.first, fidelity.factor, fidelity.confidence, fidelity.batch]
        return digest(
            {
                **self._common, "space": self._space.written(), "goals": dict(goals.directions), "limits": limits, "chips": self._chips,
                "strategy": self._strategy.describe(), "fidelity": rungs, "optuna": versions(["optuna", "scikit-learn", "scipy"]),
            }
        )  # fmt: skip

    def _written(self, proposal: Proposal) -> dict[str, Any]:
        """Write a proposal as JSON holds it: a choice by the place of its value, which may be a design."""
        places = {}
        for name, value in proposal.configuration.items():
            kind = self._space.parameters[name]
            places[name] = kind.index(value) if isinstance(kind, Choice) else value
        return {"configuration": places, "notes": dict(proposal.notes)}

    def _proposed(self, written: list[dict[str, Any]] | None) -> list[Proposal] | None:
        if written is None:
            return None
        found = []
        for one in written:
            read = {}
            for name, value in one["configuration"].items():
                kind = self._space.parameters[name]
                read[name] = kind.options[value] if isinstance(kind, Choice) else value
            found.append(Proposal(read, one["notes"]))
        return found


def _chain(first: Job, rest: Iterator[Job]) -> Iterator[Job]:
    yield first
    yield from rest


__all__ = ["SweepError", "sweep"]
