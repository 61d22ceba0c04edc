"""Which designs a sweep tries: all, some at random, or those that the results so far recommend."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import count
from typing import Any

import numpy as np

from simulator.search.objective import Goals
from simulator.search.space import Configuration, Space


@dataclass(frozen=True)
class Proposal:
    """A design that a strategy wants to know about.

    Attributes
    ----------
    configuration
        The design.
    notes
        What the strategy has to remember with it, as JSON holds it.
    """

    configuration: Configuration
    notes: Mapping[str, Any]


@dataclass(frozen=True)
class Told:
    """What a strategy learns of a proposal.

    Attributes
    ----------
    proposal
        The proposal.
    values
        Its values, means over chips; None where it failed.
    """

    proposal: Proposal
    values: Mapping[str, float] | None


class Searching(ABC):
    """A strategy at work: asked and told batch by batch, always in the order of the trials."""

    @abstractmethod
    def ask(self, batch: int) -> list[Proposal]:
        """Return the next batch; depends on the seed, the batch's number and what was told, and on nothing else."""

    @abstractmethod
    def tell(self, batch: int, told: Sequence[Told]) -> None:
        """Take in what became of a batch, asked by this object or by one in an earlier run."""


@dataclass(frozen=True, kw_only=True)
class Strategy(ABC):  # noqa: B024 - either method may be the one that a strategy has
    """How a space is searched.

    Parameters
    ----------
    partition
        A parameter by whose value designs are divided among the workers: those that share a value go to one worker where it is
        free, so that what the worker prepared for one of them serves the others. None: any worker takes any design.
    """

    partition: str | None = None

    def proposals(self, space: Space, seed: int) -> Iterator[Configuration] | None:
        """Return the designs in their order where they do not depend on any result, else None."""
        return None

    def start(self, space: Space, goals: Goals, seed: int) -> Searching:
        """Begin a search whose designs depend on the results."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Return name and settings, as JSON holds them."""
        settings = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "partition"}
        return {"name": type(self).__name__, **{name: str(value) for name, value in settings.items()}}


@dataclass(frozen=True)
class Grid(Strategy):
    """Every configuration, the last parameter of the space fastest.

    Examples
    --------
    >>> next(Grid().proposals(Space({"bits": [4, 6]}), seed=0))
    {'bits': 4}
    """

    def proposals(self, space: Space, seed: int) -> Iterator[Configuration]:
        """Return all of the space."""
        return iter(space)


@dataclass(frozen=True)
class Random(Strategy):
    """Configurations drawn independently, each parameter evenly over its values.

    Examples
    --------
    >>> next(Random().proposals(Space({"bits": [4, 6]}), seed=0))
    {'bits': 4}
    """

    def proposals(self, space: Space, seed: int) -> Iterator[Configuration]:
        """Return draws without end; draw i depends on the seed and i only."""
        for trial in count():
            stream = np.random.Generator(np.random.Philox(key=seed, counter=trial << 64))  # counter-based, as all of inloop's
            yield space.at(stream.random(len(space.parameters)))


@dataclass(frozen=True)
class QuasiRandom(Strategy):
    """Configurations along a scrambled Sobol sequence: more even than `Random`, at any length.

    Examples
    --------
    >>> len({str(next(QuasiRandom().proposals(Space({"bits": [4, 6]}), seed=seed))) for seed in range(20)})
    2
    """

    def proposals(self, space: Space, seed: int) -> Iterator[Configuration]:
        """Return the sequence, 2**30 points of it."""
        from scipy.stats import qmc

        sequence = qmc.Sobol(len(space.parameters), scramble=True, rng=np.random.default_rng(seed), bits=30)
        while True:
            for point in sequence.random(64):
                yield space.at(point)


class _OfOptuna(Strategy):
    """A strategy that is a sampler of Optuna's: it says which, with what settings, and how many designs make a batch."""

    @abstractmethod
    def _sampler(self) -> tuple[str, dict[str, Any], int]:
        """Return the sampler's name, its arguments, and the designs of a batch."""

    def start(self, space: Space, goals: Goals, seed: int) -> Searching:
        """Begin a search."""
        from simulator.search.optuna_search import OptunaSearch

        return OptunaSearch(*self._sampler(), space, goals, seed)


@dataclass(frozen=True)
class TPE(_OfOptuna):
    """Tree-structured Parzen estimator of Optuna: one or several goals, constraints, conditional parameters.

    It models the parameters together (those that exist together: Falkner et al. 2018, as Optuna's ``multivariate`` and ``group``).

    Parameters
    ----------
    batch
        Designs that are asked for at once, on equal knowledge.
    startup
        Random designs at first.
    """

    batch: int = 8
    startup: int = 16

    def _sampler(self) -> tuple[str, dict[str, Any], int]:
        return "TPESampler", {"n_startup_trials": self.startup, "multivariate": True, "group": True, "constant_liar": True}, self.batch


@dataclass(frozen=True)
class NSGA2(_OfOptuna):
    """Genetic algorithm with sorting by non-domination and crowding (Deb et al. 2002), of Optuna.

    Parameters
    ----------
    population
        Designs of a generation, which is a batch.
    """

    population: int = 24

    def _sampler(self) -> tuple[str, dict[str, Any], int]:
        return "NSGAIISampler", {"population_size": self.population}, self.population


@dataclass(frozen=True)
class NSGA3(_OfOptuna):
    """Genetic algorithm with sorting by non-domination and reference directions (Deb and Jain 2014), of Optuna: for many goals.

    Parameters
    ----------
    population
        Designs of a generation, which is a batch.
    """

    population: int = 24

    def _sampler(self) -> tuple[str, dict[str, Any], int]:
        return "NSGAIIISampler", {"population_size": self.population}, self.population


@dataclass(frozen=True)
class Predictor(Strategy):
    """Learn each goal from the designs measured so far, and measure next those that the predictions recommend.

    A round proposes designs by mutating and crossing over the best so far (all designs where the space is small), rejects those that
    the predictions put outside a limit, and keeps the ones whose predictions add most to the front.

    Parameters
    ----------
    model
        "ridge" (with squares and products), "svr" (radial basis functions), "gaussian_process", or a function that returns a
        regressor with ``fit`` and ``predict`` in the manner of scikit-learn.
    batch
        Designs measured before the model is fitted again.
    startup
        Quasi-random designs at first.
    candidates
        Designs whose values are predicted in a round; a space that is not larger is predicted whole.
    """

    model: Any = "gaussian_process"
    batch: int = 8
    startup: int = 16
    candidates: int = 4096

    def start(self, space: Space, goals: Goals, seed: int) -> Searching:
        """Begin a search."""
        from simulator.search.predicting import PredictorSearch

        return PredictorSearch(self, space, goals, seed)

    def describe(self) -> dict[str, Any]:
        """Return name and settings; a user's own model by what it is."""
        from simulator.search.identity import identify

        return super().describe() | {"model": self.model if isinstance(self.model, str) else identify(self.model)}


BY_NAME: dict[str, type[Strategy]] = {
    "grid": Grid, "random": Random, "quasi_random": QuasiRandom, "tpe": TPE, "nsga2": NSGA2, "nsga3": NSGA3, "predictor": Predictor,
}  # fmt: skip


def read_strategy(given: Any) -> Strategy:
    """Return a strategy from itself or from its name; raises ValueError.

    Examples
    --------
    >>> read_strategy("tpe")
    TPE(partition=None, batch=8, startup=16)
    """
    if isinstance(given, Strategy):
        return given
    if isinstance(given, str) and given in BY_NAME:
        return BY_NAME[given]()
    raise ValueError(f"Argument `strategy` must be one of {', '.join(BY_NAME)}, or a strategy such as TPE(batch=16), but got {given!r}")
