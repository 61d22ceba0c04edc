"""Searching for the best design: spaces, strategies, fidelity, and what a sweep finds."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulator.search.fidelity import Fidelity
    from simulator.search.found import Sweep
    from simulator.search.front import hypervolume, non_dominated
    from simulator.search.hardware_objective import HardwareObjective
    from simulator.search.objective import Context, Goals, Objective
    from simulator.search.space import Choice, Real, Space, Whole
    from simulator.search.store import SweepError
    from simulator.search.strategies import NSGA2, NSGA3, TPE, Grid, Predictor, QuasiRandom, Random, Strategy

__all__ = [
    "NSGA2",
    "NSGA3",
    "TPE",
    "Choice",
    "Context",
    "Fidelity",
    "Goals",
    "Grid",
    "HardwareObjective",
    "Objective",
    "Predictor",
    "QuasiRandom",
    "Random",
    "Real",
    "Space",
    "Strategy",
    "Sweep",
    "SweepError",
    "Whole",
    "hypervolume",
    "non_dominated",
]

# A worker process imports this package before it knows whether it needs torch: names are fetched when they are used.
_MODULES = {
    "NSGA2": "strategies", "NSGA3": "strategies", "TPE": "strategies", "Choice": "space", "Context": "objective", "Fidelity": "fidelity",
    "Goals": "objective", "Grid": "strategies", "HardwareObjective": "hardware_objective", "Objective": "objective",
    "Predictor": "strategies", "QuasiRandom": "strategies", "Random": "strategies", "Real": "space", "Space": "space",
    "Strategy": "strategies", "Sweep": "found", "SweepError": "store", "Whole": "space", "hypervolume": "front", "non_dominated": "front",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
