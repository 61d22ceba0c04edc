"""Optuna's samplers behind ask and tell: reseeded for each batch, so that a resumed search goes on exactly as an uninterrupted one."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers._ga import BaseGASampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from kernels.random import Key
from simulator.search.objective import Goals
from simulator.search.space import Choice, Configuration, Parameter, Real, Space
from simulator.search.strategies import Proposal, Searching, Told

VIOLATIONS = "violations"
NEW_TRIES = 4
"""Times that a genetic sampler is asked for a design that was not tried; then one is drawn: on few values children often repeat others."""
DRAWS = 50
"""Draws in search of a new design: where none is, the space has hardly any more, and a repeat costs no evaluation."""


class OptunaSearch(Searching):
    """A search by a sampler of Optuna's, on a study in memory.

    Parameters
    ----------
    sampler, options
        Name of the sampler's class in `optuna.samplers`, and its arguments.
    batch
        Designs a batch.
    space, goals, seed
        What is searched.
    """

    def __init__(self, sampler: str, options: dict[str, Any], batch: int, space: Space, goals: Goals, seed: int) -> None:
        self._sampler, self._options, self._batch = getattr(optuna.samplers, sampler), options, batch
        self._space, self._goals, self._seed = space, goals, seed
        with _quiet():
            self._study = optuna.create_study(directions=["minimize"] * len(goals.directions), sampler=self._seeded(0))
        self._running: list[optuna.Trial] = []
        self._tried: set[bytes] = set()
        self._settled = 0

    def ask(self, batch: int) -> list[Proposal]:
        """Return the next batch."""
        found = []
        with _quiet():
            self._study.sampler = self._seeded(batch)
            self._settle_parents()
            random = np.random.default_rng([self._seed, batch])
            for _ in range(self._batch):
                trial, configuration = self._new(random)
                frozen = self._study._storage.get_trial(trial._trial_id)
                found.append(Proposal(configuration, {"system": _plain(frozen.system_attrs)}))
                self._running.append(trial)
        return found

    def tell(self, batch: int, told: Sequence[Told]) -> None:
        """Take in a batch: into the trials that were asked here, or as trials of an earlier run."""
        with _quiet():
            for place, one in enumerate(told):
                self._tried.add(self._name(one.proposal.configuration))
                if self._running:
                    self._tell_running(self._running[place], one)
                else:
                    self._study.add_trial(self._finished(one))
        self._running = []

    def _new(self, random: np.random.Generator) -> tuple[optuna.Trial, Configuration]:
        """Return a trial of a design that was not tried, of a genetic sampler's or else at random.

        TPE keeps its repeats, which cost no evaluation: on 5,832 designs it needed more of them with draws in their place.
        """
        for _ in range(NEW_TRIES):
            trial, configuration, name = self._suggested()
            if name not in self._tried or not issubclass(self._sampler, BaseGASampler):
                break
            self._study.tell(trial, state=TrialState.FAIL)  # samplers pass over these
        else:
            draws = (self._space.at(random.random(len(self._space.parameters))) for _ in range(DRAWS))
            drawn = next((draw for draw in draws if self._name(draw) not in self._tried), configuration)
            self._study.enqueue_trial({name: _param(self._space.parameters[name], value) for name, value in drawn.items()})
            trial, configuration, name = self._suggested()
        self._tried.add(name)
        return trial, configuration

    def _suggested(self) -> tuple[optuna.Trial, Configuration, bytes]:
        trial = self._study.ask()
        configuration = self._space.build(lambda name, kind: _suggest(trial, name, kind))
        return trial, configuration, self._name(configuration)

    def _name(self, configuration: Configuration) -> bytes:
        return self._space.encode(configuration).tobytes()

    def _settle_parents(self) -> None:
        """Let a genetic sampler choose the parents of each generation now, one after the other.

        It keeps them in another order than it first returns them in; when it is first asked would then decide what it proposes, and
        a resumed search asks later.
        """
        sampler = self._study.sampler
        if not isinstance(sampler, BaseGASampler):
            return
        generations = [
            trial.system_attrs.get(sampler._get_generation_key(), -1)
            for trial in self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        ]
        last = max(generations, default=-1)
        current = last + (generations.count(last) >= (sampler.population_size or 1))
        for generation in range(self._settled + 1, current + 1):
            sampler.get_parent_population(self._study, generation)
        self._settled = max(self._settled, current)

    def _tell_running(self, trial: optuna.Trial, one: Told) -> None:
        if one.values is None:
            self._study.tell(trial, state=TrialState.FAIL)
            return
        trial.set_user_attr(VIOLATIONS, list(self._goals.violations(one.values)))
        self._study.tell(trial, list(self._goals.costs(one.values)))

    def _finished(self, one: Told) -> FrozenTrial:
        distributions = {name: _distribution(self._space.parameters[name]) for name in one.proposal.configuration}
        params = {name: _param(self._space.parameters[name], value) for name, value in one.proposal.configuration.items()}
        system = dict(one.proposal.notes["system"])
        if one.values is None:
            return create_trial(state=TrialState.FAIL, params=params, distributions=distributions, system_attrs=system)
        violations = list(self._goals.violations(one.values))
        if self._goals.limits:
            system["constraints"] = tuple(violations)
        return create_trial(
            values=list(self._goals.costs(one.values)), params=params, distributions=distributions, system_attrs=system,
            user_attrs={VIOLATIONS: violations},
        )  # fmt: skip

    def _seeded(self, batch: int) -> Any:
        key = Key.of(seed=self._seed, trial=batch, purpose="sweep batch")
        constraints = (lambda trial: trial.user_attrs[VIOLATIONS]) if self._goals.limits else None
        with _quiet():
            mutation = getattr(optuna.samplers.nsgaii, "PolynomialMutation", None)
            if issubclass(self._sampler, BaseGASampler) and mutation is not None:
                # Steps to neighbors; without it a mutated value is drawn anew, and fronts of numbers are approached slowly.
                return self._sampler(seed=key.word0, constraints_func=constraints, mutation=mutation(), **self._options)
            return self._sampler(seed=key.word0, constraints_func=constraints, **self._options)


def _suggest(trial: optuna.Trial, name: str, kind: Parameter) -> Any:
    return _value(kind, trial._suggest(name, _distribution(kind)))


def _distribution(kind: Parameter) -> BaseDistribution:
    if isinstance(kind, Real):
        return FloatDistribution(kind.low, kind.high, log=kind.log)
    if isinstance(kind, Choice):
        return IntDistribution(0, kind.size - 1) if kind.ordered else CategoricalDistribution(range(kind.size))
    return IntDistribution(kind.low, kind.high, log=kind.log, step=kind.step)


def _value(kind: Parameter, param: Any) -> Any:
    return kind.options[int(param)] if isinstance(kind, Choice) else param


def _param(kind: Parameter, value: Any) -> Any:
    return kind.index(value) if isinstance(kind, Choice) else value


def _plain(attributes: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in attributes.items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna's log of every trial and its notes on experimental arguments off the user's screen."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", category=optuna.exceptions.ExperimentalWarning)
            warnings.simplefilter("ignore", category=FutureWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
