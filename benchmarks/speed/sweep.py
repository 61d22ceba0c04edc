"""How few evaluations a search needs, and what the engine of a sweep costs: beside random search and one worker.

``inloop bench speed/sweep`` prints the tables and writes them to ``benchmarks/results/speed_sweep.json``.
"""

import os
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import simulator as sim
from benchmarks.speed.empty_objective import EmptyObjective
from benchmarks.timing import save
from devices import SystolicArray
from simulator.codesign import NetworkFamily
from simulator.search import NSGA2, TPE, Context, Predictor, Space, hypervolume
from simulator.search.store import opened_store

COMMAND = "inloop bench speed/sweep"
SEEDS = range(5)
WITHIN = 0.02
"""Evaluations are counted until the hypervolume is within 2 % of the true front's."""
HOROWITZ = {"joule_per_mac": 0.3e-12, "frequency_hertz": 1e9}
"""8-bit multiply and 32-bit add, 0.2 + 0.1 pJ at 45 nm (Horowitz, ISSCC 2014, figure 1.1.9); the clock is a choice."""


def space() -> Space:
    """Return networks x arrays: 5,832 designs, whose front is known by exhaustion."""
    dataflows = ["output_stationary", "weight_stationary", "input_stationary"]
    return Space({**NetworkFamily().space.parameters, "side": [4, 8, 16], "dataflow": dataflows})


class Closed:
    """Two goals in closed form, of the kind that a real sweep has: capacity of a network, and latency x energy on a systolic array."""

    goals = {"score": "maximize", "delay_energy": "minimize"}  # noqa: RUF012

    def __init__(self) -> None:
        self._family = NetworkFamily()
        self._arrays: dict[Any, SystolicArray] = {}

    def fingerprint(self) -> str:
        """Return a name: the code is inloop's own."""
        return "closed form 1"

    def __call__(self, configuration: dict[str, Any], context: Context) -> dict[str, float]:
        """Return both goals."""
        key = configuration["side"], configuration["dataflow"]
        if key not in self._arrays:
            self._arrays[key] = SystolicArray(rows=key[0], columns=key[0], dataflow=key[1], **HOROWITZ)
        array = self._arrays[key]
        layers = self._family.layers(configuration)
        latency = energy = 0.0
        for one in layers:
            m, k, n = one["size"] ** 2, one["inputs"] * one["kernel"] ** 2, one["outputs"]
            latency += array.cycles(m, k, n, drain=True) / 1e9
            energy += m * k * n * 0.3e-12
        # Saturating in the logarithm of the multiply-accumulates, with a bonus for width where depth is: smooth, but no product of terms.
        macs = sum(one["size"] ** 2 * one["inputs"] * one["kernel"] ** 2 * one["outputs"] for one in layers)
        widths = [one["outputs"] for one in layers[1:-1]]
        score = 1 - np.exp(-np.log10(macs) + 3) * (1 + 0.3 * float(np.std(np.log2(widths)))) - 0.02 * len(layers)
        return {"score": float(score), "delay_energy": latency * (energy + 1e-9 * configuration["side"])}


def evaluations_needed() -> pd.DataFrame:
    """Return a row per strategy: evaluations until the hypervolume is within 2 % of the true front's, over seeds.

    A design that is asked for again is not evaluated again: designs are counted once.
    """
    objective, searched = Closed(), space()
    exhausted = sim.sweep(objective, searched, strategy="grid", progress=False)
    logs = _costs(exhausted)
    reference = logs.max(axis=0)
    ideal = logs.min(axis=0)
    scaled = (logs - ideal) / (reference - ideal)
    true = hypervolume(scaled, [1.1, 1.1])
    rows = []
    strategies: dict[str, Any] = {
        "random": "random", "quasi_random": "quasi_random", "TPE": TPE(batch=8, startup=16), "NSGA-II": NSGA2(population=24),
        "predictor, ridge": Predictor("ridge", candidates=6_000), "predictor, Gaussian process": Predictor(candidates=6_000),
    }  # fmt: skip
    limits = {"random": 4_000, "quasi_random": 4_000, "TPE": 400, "NSGA-II": 1_200}
    for name, strategy in strategies.items():
        needed = []
        for seed in SEEDS:
            found = sim.sweep(objective, searched, strategy=strategy, trials=limits.get(name, 200), seed=seed, progress=False)
            trials = _first_within((_costs(found) - ideal) / (reference - ideal), true)
            needed.append(float("inf") if trials is None else float(len({trial.key for trial in found.trials[:trials]})))
        print(f"{name}: {needed}", flush=True)
        rows.append(
            {"strategy": name, "designs": len(scaled), "median": statistics.median(needed), "least": min(needed), "most": max(needed)}
        )
    frame = pd.DataFrame(rows)
    frame["share_of_random"] = frame["median"] / float(frame.loc[frame["strategy"] == "random", "median"].iloc[0])
    return frame


def _costs(found: sim.Sweep) -> np.ndarray[Any, Any]:
    frame = found.frame
    return np.column_stack([-frame["score"].to_numpy(dtype=float), np.log10(frame["delay_energy"].to_numpy(dtype=float))])


def _first_within(costs: np.ndarray[Any, Any], true: float) -> int | None:
    """Return after how many trials the front is near enough, None where it never is, by bisection: the hypervolume never falls."""
    if hypervolume(costs, [1.1, 1.1]) < (1 - WITHIN) * true:
        return None
    low, high = 0, len(costs)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if hypervolume(costs[:middle], [1.1, 1.1]) >= (1 - WITHIN) * true else (middle, high)
    return high


def engine() -> pd.DataFrame:
    """Return what the engine costs: per trial, with two workers, at reopening, and in memory."""
    rows: list[tuple[str, float, str, float | None]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for trials in (100, 1000):
            seconds = _timed(lambda trials=trials: _empty(trials, workers=2, store=folder / str(trials)))  # type: ignore[misc]
            rows.append((f"overhead a trial: random, 2 processes, {trials} trials, store and start", 1e3 * seconds / trials, "ms", 20.0))
        start = time.process_time()
        _empty(1000, workers=2, store=folder / "cpu")
        rows.append(("the same, CPU time of the driver, 1000 trials", 1e3 * (time.process_time() - start) / 1000, "ms", 20.0))
        one, two = (_timed(lambda workers=workers: _empty(60, 1.0, workers=workers)) for workers in (1, 2))  # type: ignore[misc]
        rows.append(("two workers over one, 60 trials of a second", one / two, "x", 1.8))
        place = folder / "many"
        _empty(10_000, store=place)
        rows.append(("store of 10,000 results, reopened", min(_timed(lambda: _reopen(place, 10_000)) for _ in range(3)), "s", 2.0))
        rows.append(("the same sweep again, 10,000 designs from the store", _timed(lambda: _empty(10_000, store=place)), "s", None))
    memory = {trials: _peak(lambda trials=trials: _empty(trials)) for trials in (1000, 5000)}  # type: ignore[misc]
    rows.append(("driver's memory, one design more", (memory[5000] - memory[1000]) / 4000 / 1024, "KiB", None))
    return pd.DataFrame(rows, columns=["measure", "value", "unit", "bar"])


def _empty(trials: int, seconds: float = 0.0, **options: Any) -> None:
    sim.sweep(EmptyObjective(seconds), {"x": sim.Real(0, 1)}, goals={"y": "minimize"}, trials=trials, progress=False, **options)


def _reopen(place: Path, expected: int) -> None:
    with opened_store(place) as store:
        assert len(store) == expected


def _timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _peak(call: Callable[[], Any]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def main() -> None:
    """Measure, print and save."""
    search, costs = evaluations_needed(), engine()
    print(f"Evaluations until the hypervolume is within {WITHIN:.0%} of the true front's, {len(SEEDS)} seeds (bar: a fifth of random's)")
    print(search.round(3).to_string(index=False))
    print(costs.round(3).to_string(index=False))
    print(f"load of the machine: {os.getloadavg()[0]:.1f}; times are wall-clock")
    frame = pd.concat([search.assign(table="evaluations"), costs.assign(table="engine")], ignore_index=True)
    print(f"written to {save('speed_sweep', COMMAND, frame)}")


if __name__ == "__main__":
    main()
