"""Search by prediction: fit regressors on what was measured, vary the best designs, and measure what they promise most of."""

import warnings
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.search.front import improvement, non_dominated
from simulator.search.objective import Goals
from simulator.search.space import Configuration, Space
from simulator.search.strategies import Predictor, Proposal, QuasiRandom, Searching, Told

Array = npt.NDArray[np.float64]
FIT_AT_MOST = 400
"""Designs that a model is fitted on: the best ones, as its cost grows with their cube."""
DECADES = 30.0
"""Positive goals that span more than this ratio are learned in their logarithm."""
ELITE = 40
LEAST = 4
"""Designs that must have been measured before anything is fitted."""


class PredictorSearch(Searching):
    """A search by prediction.

    Parameters
    ----------
    plan
        Model and sizes.
    space, goals, seed
        What is searched.
    """

    def __init__(self, plan: Predictor, space: Space, goals: Goals, seed: int) -> None:
        self._plan, self._space, self._goals, self._seed = plan, space, goals, seed
        self._tried: set[bytes] = set()
        self._found: list[tuple[Configuration, Array, Array]] = []
        listed = list(islice(space, plan.candidates + 1)) if all(kind.size is not None for kind in space.parameters.values()) else []
        self._whole = listed if 0 < len(listed) <= plan.candidates else None
        self._encoded = np.array([space.encode(configuration) for configuration in self._whole or ()])

    def ask(self, batch: int) -> list[Proposal]:
        """Return the next batch: an opening of quasi-random designs, then what the predictions recommend."""
        random = np.random.default_rng([self._seed, batch])
        count, opened = self._plan.batch, batch * self._plan.batch
        if opened < self._plan.startup or len(self._found) < LEAST:
            opening = islice(QuasiRandom().proposals(self._space, self._seed), opened, opened + count)
            return [Proposal(configuration, {}) for configuration in self._new(opening, count, random)]
        pool, encoded = self._pool(random)
        chosen = self._choose(pool, encoded, random) if pool else []
        return [Proposal(configuration, {}) for configuration in self._new(chosen, count, random)]

    def tell(self, batch: int, told: Sequence[Told]) -> None:
        """Take in a batch."""
        for one in told:
            self._tried.add(self._name(one.proposal.configuration))
            if one.values is not None:
                costs, violations = np.array(self._goals.costs(one.values)), np.array(self._goals.violations(one.values))
                self._found.append((one.proposal.configuration, costs, violations))

    def _new(self, proposed: Iterable[Configuration], count: int, random: np.random.Generator) -> list[Configuration]:
        """Return designs that were not tried: those proposed, and draws in place of the others until the space has no more."""
        draws = (self._space.at(random.random(len(self._space.parameters))) for _ in range(50 * count))
        found: dict[bytes, Configuration] = {}
        for configuration in (*proposed, *draws):
            if len(found) < count and self._name(configuration) not in self._tried:
                found.setdefault(self._name(configuration), configuration)
        return list(found.values())

    def _pool(self, random: np.random.Generator) -> tuple[list[Configuration], Array]:
        """Return designs that were not tried, and what a regressor sees of them."""
        if self._whole is not None:
            left = [place for place, row in enumerate(self._encoded) if row.tobytes() not in self._tried]
            return [self._whole[place] for place in left], self._encoded[left]
        parents = np.array([self._shares(self._found[index][0], random) for index in self._best()[:ELITE]])
        sides, count = parents.shape[1], self._plan.candidates
        first, second = (parents[random.integers(len(parents), size=count)] for _ in range(2))
        shares = np.where(random.random((count, sides)) < 0.5, first, second)
        moved = random.random((count, sides)) < max(1.0 / sides, 0.15)
        near = np.clip(shares + 0.15 * random.standard_normal((count, sides)), 0.0, 1.0 - 1e-9)
        far = random.random((count, sides))
        shares = np.where(moved, np.where(random.random((count, sides)) < 0.5, near, far), shares)
        found: dict[bytes, Configuration] = {}
        for point in shares:
            configuration = self._space.at(point)
            found.setdefault(self._name(configuration), configuration)
        kept = {name: configuration for name, configuration in found.items() if name not in self._tried}
        return list(kept.values()), np.array([np.frombuffer(name) for name in kept])

    def _name(self, configuration: Configuration) -> bytes:
        return self._space.encode(configuration).tobytes()

    def _shares(self, configuration: Configuration, random: np.random.Generator) -> Array:
        shares = []
        for name, kind in self._space.parameters.items():
            share = kind.share(configuration[name]) if name in configuration else random.random()
            # The middle of a value's own part of the side, so that the way back gives the value again.
            exact = kind.size is None or (hasattr(kind, "log") and kind.log)
            shares.append(share if exact else (share * (kind.size - 1) + 0.5) / kind.size)  # type: ignore[operator]
        found: Array = np.clip(np.array(shares), 0.0, 1.0 - 1e-9)
        return found

    def _best(self) -> list[int]:
        """Return the measured designs, best first: by how far they miss limits, then front by front."""
        costs, missed = self._measured()
        order: list[int] = []
        for violated in (False, True):
            left = np.flatnonzero((missed > 0) == violated)
            if violated:
                order += [int(index) for index in left[np.argsort(missed[left], kind="stable")]]
                break
            while len(left):
                front = non_dominated(costs[left])
                order += [int(index) for index in left[front]]
                left = left[~front]
        return order

    def _measured(self) -> tuple[Array, Array]:
        costs = np.array([costs for _, costs, _ in self._found])
        missed = np.array([max([0.0, *violations]) for _, _, violations in self._found])
        return costs, missed

    def _choose(self, pool: list[Configuration], candidates: Array, random: np.random.Generator) -> list[Configuration]:
        """Return the batch that promises most: optimistic predictions, less each time for what is already chosen."""
        best = self._best()[:FIT_AT_MOST]
        known = np.array([self._space.encode(self._found[index][0]) for index in best])
        costs, missed = self._measured()
        middle, spread, measured = [], [], []
        for column in range(costs.shape[1]):
            target = costs[best, column]
            logarithmic = _spans_decades(target)
            scaled = np.log(np.abs(target)) * np.sign(target[0]) if logarithmic else target
            mean, deviation = self._fit(known, scaled, candidates)
            middle.append(mean)
            spread.append(deviation)
            measured.append(scaled)
        allowed = self._allowed(known, best, candidates)
        mean, deviation = np.array(middle).T, np.array(spread).T
        have = np.array(measured).T[missed[best] <= 0]
        if not len(have):
            have = np.array(measured).T[:1]
        chosen: list[int] = []
        for _ in range(min(self._plan.batch, len(pool))):
            gain = _gain(mean - deviation, np.vstack([have, *([mean[chosen]] if chosen else [])]), random)
            gain = np.where(allowed, gain, gain - 1e12)
            gain[chosen] = -np.inf
            chosen.append(int(np.argmax(gain)))
        return [pool[index] for index in chosen]

    def _allowed(self, known: Array, best: list[int], candidates: Array) -> npt.NDArray[np.bool_]:
        """Return which candidates the predictions put within the limits."""
        allowed = np.ones(len(candidates), dtype=bool)
        for column in range(len(self._goals.limits)):
            target = np.array([self._found[index][2][column] for index in best])
            mean, deviation = self._fit(known, target, candidates)
            allowed &= mean - deviation <= 0
        return allowed if allowed.any() else np.ones(len(candidates), dtype=bool)

    def _fit(self, known: Array, target: Array, candidates: Array) -> tuple[Array, Array]:
        """Return a regressor's predictions, and their standard deviations where it has any."""
        center, scale = target.mean(), target.std() or 1.0
        model = _regressor(self._plan.model, known.shape[1])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an optimizer at the end of its range: the fit serves all the same
            model.fit(known, (target - center) / scale)
            if self._plan.model == "gaussian_process":
                mean, deviation = model.predict(candidates, return_std=True)
            else:
                mean, deviation = model.predict(candidates), np.zeros(len(candidates))
        return np.asarray(mean) * scale + center, np.asarray(deviation) * scale


def _gain(optimistic: Array, have: Array, random: np.random.Generator) -> Array:
    """Return what each candidate adds: less cost, more hypervolume of two goals, or a better scalar of many."""
    low, high = have.min(axis=0), have.max(axis=0)
    width = np.where(high > low, high - low, 1.0)
    scaled, front = (optimistic - low) / width, (have - low) / width
    if scaled.shape[1] == 1:
        return np.asarray(-scaled[:, 0])
    if scaled.shape[1] == 2:
        gain = improvement(scaled, front, np.array([1.1, 1.1]))
        # Where nothing promises to add, the nearest to the front is next.
        return np.asarray(gain + 1e-9 / (1.0 + np.abs(scaled).sum(axis=1)))
    weights = random.dirichlet(np.ones(scaled.shape[1]))
    return np.asarray(-((weights * scaled).max(axis=1) + 0.05 * (weights * scaled).sum(axis=1)))


def _spans_decades(target: Array) -> bool:
    same_sign = bool((target > 0).all() or (target < 0).all())
    return same_sign and np.abs(target).max() / np.abs(target).min() > DECADES


def _regressor(model: Any, features: int) -> Any:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import Matern, WhiteKernel
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures, StandardScaler
    from sklearn.svm import SVR

    if model == "ridge":
        return make_pipeline(PolynomialFeatures(2), StandardScaler(), Ridge(alpha=1.0))
    if model == "svr":
        return make_pipeline(StandardScaler(), SVR(C=100.0, epsilon=0.01))
    if model == "gaussian_process":
        kernel = Matern(np.ones(features), (0.05, 50.0), nu=2.5) + WhiteKernel(1e-3, (1e-6, 1.0))
        return GaussianProcessRegressor(kernel, random_state=0)
    if callable(model):
        return model()
    raise ValueError(f'Argument `model` must be "ridge", "svr", "gaussian_process" or a function that makes a regressor, but got {model!r}')
