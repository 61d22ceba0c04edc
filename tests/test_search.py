"""Spaces, fronts, fidelity and strategies: against enumeration, closed forms and known fronts."""

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import simulator as sim
from devices import RRAMCrossbar
from simulator.search import NSGA2, NSGA3, TPE, Choice, Fidelity, Goals, Predictor, Real, Space, Whole, hypervolume, non_dominated
from simulator.search.front import improvement
from simulator.search.identity import identify
from simulator.search.objective import read_values
from simulator.search.strategies import BY_NAME

MIXED = Space(
    {
        "hardware": ["rram", "digital"],
        "bits": Whole(3, 6, when={"hardware": ["rram"]}),
        "sigma": Real(1e-3, 1e-1, log=True, points=3, when={"bits": [3, 4]}),
        "rows": [64, 128, 256],
        "design": Choice([RRAMCrossbar.preset("wan_nature_2022"), None]),
    }
)


def test_a_grid_has_every_configuration_once_and_only_active_parameters() -> None:
    found = list(MIXED)
    assert len(found) == MIXED.size == 3 * 2 * (2 * 3 + 2 + 1)
    assert len({str(configuration) for configuration in found}) == len(found)
    for configuration in found:
        MIXED.check(configuration)
        assert ("bits" in configuration) == (configuration["hardware"] == "rram")
        assert ("sigma" in configuration) == (configuration.get("bits") in (3, 4))


def test_the_size_of_a_large_space_is_counted_and_not_gone_through() -> None:
    large: dict[str, Any] = {f"p{place}": list(range(10)) for place in range(12)}
    space = Space({**large, "more": Whole(1, 3, when={"p0": [0]})})
    assert space.size == 10**11 * (9 + 3)
    found = sim.sweep(lambda c, _: float(c["p0"]), space, goals={"y": "minimize"}, trials=24, strategy=Predictor("ridge", candidates=200))
    assert len(found.frame) == 24


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=5, max_size=5))
def test_every_point_of_the_cube_is_a_configuration(shares: list[float]) -> None:
    configuration = MIXED.at(shares)
    MIXED.check(configuration)
    assert len(MIXED.encode(configuration)) == 5  # the two unordered choices have two values each


def test_numpy_scalars_of_a_table_are_values_too() -> None:
    Space({"a": Whole(1, 3), "b": [64, 128], "c": Real(0, 1)}).check({"a": np.int64(2), "b": np.int64(64), "c": np.float64(0.5)})


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.booleans())
def test_whole_numbers_cover_their_range_evenly(low: int, count: int, log: bool) -> None:
    kind = Whole(low, low + count, log=log)
    found = [kind.at(share) for share in np.linspace(0, 1, 801)]
    assert set(found) == set(kind.values()) and found == sorted(found)
    if not log:
        shares = np.bincount(np.array(found) - low)
        assert shares.max() - shares.min() <= 801 // (count + 1) * 0.05 + 2


def test_random_designs_are_even_over_values_and_in_the_logarithm() -> None:
    space = Space({"k": Whole(1, 4), "x": Real(1e-4, 1.0, log=True), "c": ["a", "b"]})
    found = list(itertools.islice(BY_NAME["random"]().proposals(space, 3) or (), 4000))
    counts = np.bincount([configuration["k"] for configuration in found])[1:]
    assert (np.abs(counts - 1000) < 4 * np.sqrt(750)).all()
    exponents = np.log10([configuration["x"] for configuration in found])
    from scipy.stats import kstest

    assert kstest((exponents + 4) / 4, "uniform").pvalue > 1e-3


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Real(2, 1), "`low` of Real must be below `high`"),
        (lambda: Real(0, 1, log=True), "above 0"),
        (lambda: Whole(1, 4, step=2), "`step` must lead from 1 to 4"),
        (lambda: Whole(1.5, 4), "must be an integer"),  # type: ignore[arg-type]
        (lambda: Choice([]), "at least one value"),
        (lambda: Choice([1, 1]), "remove the repeated one"),
        (lambda: Choice([object()]), "must be a number, text"),
        (lambda: Space({"a": Whole(1, 2, when={"b": [1]}), "b": [1]}), "put it first"),
        (lambda: Space({"b": [1], "a": Whole(1, 2, when={"b": [2]})}), "never 2"),
        (lambda: Space({"a": "rram"}), "a list of values"),
        (lambda: list(Space({"a": Real(0, 1)})), "points=5"),
        (lambda: Space({"a": [1, 2]}).check({"a": 3}), "one of its values"),
        (lambda: Space({"a": [1, 2]}).check({"b": 3}), "did you mean|must be one of the space"),
        (lambda: Fidelity(first=1), "at least 2"),
        (lambda: Goals.read({"a": "max"}), '"minimize" or "maximize"'),
        (lambda: Goals.read({}), "must be a dict"),
        (lambda: Goals.read({"a": "minimize"}, {"b": (None, None)}), "least, greatest"),
    ],
)
def test_refuses_what_is_no_space_and_no_goal(make: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        (float("nan"), "failure, not a best value"),
        ({"a": float("inf")}, "failure, not a best value"),
        ({"b": 1.0}, "must return `a`"),
        ({"a": [1.0, 2.0, 3.0]}, "one `a` per chip, 2"),
        ({"a": "0.5"}, "must return numbers"),
        ({"a": None}, "must return numbers"),
        (None, "must return numbers"),
    ],
)
def test_refuses_what_is_no_value(returned: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_values(returned, Goals.read({"a": "minimize"}), 2)


def slow_front(costs: np.ndarray) -> list[bool]:
    return [not any((other <= point).all() and (other < point).any() for other in costs) for point in costs]


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 25), st.integers(0, 10**6))
def test_the_front_is_what_comparing_all_pairs_finds(goals: int, designs: int, seed: int) -> None:
    costs = np.random.default_rng(seed).integers(0, 4, (designs, goals)).astype(float)
    assert non_dominated(costs).tolist() == slow_front(costs)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 8), st.integers(0, 10**6))
def test_the_hypervolume_is_the_share_of_a_lattice_that_is_dominated(goals: int, designs: int, seed: int) -> None:
    costs = np.random.default_rng(seed).integers(0, 5, (designs, goals)).astype(float)
    cells = np.array(list(itertools.product(range(4), repeat=goals))) + 0.5  # unit cells below the reference 4
    dominated = (costs[None] <= cells[:, None]).all(axis=2).any(axis=1)
    assert hypervolume(costs, [4.0] * goals) == pytest.approx(dominated.sum())


@settings(deadline=None)
@given(st.integers(0, 10**6))
def test_the_improvement_is_the_difference_of_two_hypervolumes(seed: int) -> None:
    random = np.random.default_rng(seed)
    front, candidates, worst = random.random((6, 2)), random.random((9, 2)) * 1.2, np.array([1.0, 1.0])
    before = hypervolume(front, worst)
    expected = [hypervolume(np.vstack([front, one]), worst) - before for one in candidates]
    assert improvement(candidates, front, worst) == pytest.approx(expected, abs=1e-12)


def zdt1(configuration: dict[str, float], context: Any) -> dict[str, float]:
    """Zitzler, Deb and Thiele 2000: the front is f2 = 1 - sqrt(f1), reached where all but the first variable are 0."""
    x = list(configuration.values())
    g = 1 + 9 * sum(x[1:]) / (len(x) - 1)
    return {"f1": x[0], "f2": g * (1 - (x[0] / g) ** 0.5)}


ZDT1 = {f"x{place}": Real(0, 1) for place in range(3)}
BOTH = {"f1": "minimize", "f2": "minimize"}


def test_the_known_hypervolume_of_the_test_problem() -> None:
    f1 = np.linspace(0, 1, 20001)
    exact = 0.1 * 1.0 + 2 / 3 + 0.1 * 1.1
    assert hypervolume(np.column_stack([f1, 1 - np.sqrt(f1)]), [1.1, 1.1]) == pytest.approx(exact, abs=1e-4)


@pytest.mark.parametrize(
    ("strategy", "trials", "share"),
    [(NSGA2(population=24), 480, 0.9), (NSGA3(population=24), 480, 0.85), (TPE(batch=10, startup=20), 240, 0.8), (Predictor(), 64, 0.93)],
    ids=lambda value: type(value).__name__ if not isinstance(value, int | float) else str(value),
)
def test_strategies_find_the_known_front(strategy: Any, trials: int, share: float) -> None:
    exact = 0.1 + 2 / 3 + 0.11
    found = sim.sweep(zdt1, ZDT1, goals=BOTH, trials=trials, strategy=strategy, progress=False)
    random = sim.sweep(zdt1, ZDT1, goals=BOTH, trials=trials, progress=False)
    reached = found.hypervolume({"f1": 1.1, "f2": 1.1}) / exact
    assert share < reached <= 1.0
    assert random.hypervolume({"f1": 1.1, "f2": 1.1}) / exact < 0.6


@pytest.mark.parametrize("name", ["nsga2", "nsga3"])
def test_a_genetic_search_asks_for_new_designs_while_there_are_some(name: str) -> None:
    space = Space({"x": Whole(0, 7), "kind": ["a", "b"], "y": Whole(0, 3, when={"kind": ["b"]})})

    def objective(configuration: dict[str, Any], context: Any) -> dict[str, float]:
        return {"f1": configuration["x"], "f2": (7 - configuration["x"]) ** 2 + configuration.get("y", 0.5)}

    assert space.size == 40
    found = sim.sweep(objective, space, goals=BOTH, trials=40, strategy=name, progress=False)
    assert len({trial.key for trial in found.trials}) >= 38
    more = sim.sweep(objective, space, goals=BOTH, trials=72, strategy=name, progress=False)
    assert len({trial.key for trial in more.trials}) == 40 and len(more.frame) == 72


@pytest.mark.parametrize("model", ["ridge", "svr", "gaussian_process"])
def test_a_predictor_finds_the_optimum_of_a_bowl_within_limits(model: str) -> None:
    def bowl(configuration: dict[str, Any], context: Any) -> dict[str, float]:
        x, y = configuration["x"], configuration["y"]
        return {"depth": (x - 7) ** 2 + (y - 3) ** 2, "sum": float(x + y)}

    space = {"x": Whole(0, 20), "y": Whole(0, 20)}
    found = sim.sweep(bowl, space, goals={"depth": "minimize"}, limits={"sum": (12, None)}, trials=48, strategy=Predictor(model=model))
    assert found.best()["depth"] == 2.0  # (8, 4) is the nearest with a sum of at least 12
    assert found.frame.loc[found.frame["front"], "sum"].min() >= 12


@pytest.mark.parametrize("name", ["tpe", "nsga2", "predictor"])
def test_limits_are_kept_and_conditional_parameters_searched(name: str) -> None:
    def objective(configuration: dict[str, Any], context: Any) -> dict[str, float]:
        rram = configuration["hardware"] == "rram"
        return {"error": (configuration["bits"] - 5) ** 2 + 1.0 if rram else 5.0, "area": float(configuration["rows"])}

    space = {"hardware": ["rram", "digital"], "bits": Whole(2, 12, when={"hardware": ["rram"]}), "rows": [64, 128, 256]}
    found = sim.sweep(objective, space, goals={"error": "minimize"}, limits={"area": (None, 128)}, trials=72, strategy=name)
    assert found.best()["error"] == 1.0 and found.best()["area"] <= 128
    assert found.frame.loc[found.frame["area"] > 128, "feasible"].sum() == 0


@pytest.mark.parametrize(("designs", "spread", "share"), [(10, 1.0, 0.3), (30, 0.2, 0.9)], ids=["ten apart", "thirty close together"])
def test_racing_rarely_drops_the_best_design_and_saves_chips_where_they_differ(designs: int, spread: float, share: float) -> None:
    random = np.random.default_rng(0)
    chips, kept, spent, total, repeats = 32, 0, 0, 0, 300 // designs
    goals, fidelity = Goals.read({"error": "minimize"}), Fidelity(first=2, factor=2, confidence=0.95)
    for _ in range(repeats):
        means = random.normal(0, spread, designs)
        common = random.normal(0, 1, chips)
        measured = [mean + common + random.normal(0, 0.5, chips) for mean in means]
        alive = list(range(designs))
        for rung in fidelity.rungs(chips):
            values = {index: {"error": list(measured[index][:rung])} for index in alive}
            alive = [i for i in alive if not fidelity.beaten(values[i], [values[j] for j in alive if j != i], goals, rung)]
            spent += len(alive) * (rung // 2 if rung > 2 else rung)
        total += designs * chips
        kept += int(np.argmin(means)) in alive
    assert kept >= 0.8 * repeats  # each of five rungs may err in a twentieth; without the share of each rival half were lost
    assert spent < share * total


def test_racing_needs_a_difference_and_common_chips() -> None:
    goals, fidelity = Goals.read({"error": "minimize", "energy": "minimize"}), Fidelity()
    good, bad = {"error": [1.0, 1.1, 0.9, 1.0], "energy": 1.0}, {"error": [2.0, 2.2, 1.9, 2.1], "energy": 1.0}
    assert fidelity.beaten(bad, [good], goals, 4) and not fidelity.beaten(good, [bad], goals, 4)
    assert not fidelity.beaten(good, [good], goals, 4), "an equal design beats nobody"
    assert not fidelity.beaten(bad | {"energy": 0.5}, [good], goals, 4), "it is better in the other goal"
    steps = {"error": [1.5, 1.6], "energy": 1.0}
    assert not fidelity.beaten(steps, [{"error": [1.4, 1.5], "energy": 1.0}], goals, 2), "two chips may agree by chance"


SCALE = 2.0


def helper(x: float) -> float:
    return SCALE * x


def uses_helper(configuration: dict[str, float], context: Any) -> float:
    """Say what."""
    return helper(configuration["x"])


def test_an_objective_is_identified_by_all_that_it_computes_with(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(offset: float, seen: Any) -> Any:
        return lambda configuration, context: configuration["x"] + offset + len(seen)

    first = identify(uses_helper)
    assert identify(uses_helper) == first
    assert identify(closed(1.0, np.zeros(3))) == identify(closed(1.0, np.zeros(3)))
    assert identify(closed(1.0, np.zeros(3))) != identify(closed(2.0, np.zeros(3)))
    assert identify(closed(1.0, np.zeros(3))) != identify(closed(1.0, np.ones(3)))
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    assert identify(uses_helper) != first
    monkeypatch.setitem(globals(), "SCALE", 2.0)
    assert identify(uses_helper) == first
    monkeypatch.setitem(globals(), "helper", lambda x: SCALE - x)
    assert identify(uses_helper) != first
