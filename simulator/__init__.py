"""Compile PyTorch models onto accelerators, measure what is left of them, and put a chip in the loop."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulator.chip import Chip
    from simulator.compiler import compile
    from simulator.costing import Efficiency, Total, efficiency, totals
    from simulator.diagnosis import Attribution, NoiseMatrix, Probe, Retention, attribute, noise_matrix, probe, retention
    from simulator.evaluation import Evaluation, compare, evaluate
    from simulator.link.characterising import Budget, Characterization, characterise
    from simulator.link.serving import serve
    from simulator.importing import Imported, import_design
    from simulator.lowering import lower
    from simulator.memory import PeakMemory, peak_activation_memory
    from simulator.metrics import Metric, metric
    from simulator.placement import Auto
    from simulator.search import Choice, Fidelity, HardwareObjective, Real, Space, Sweep, Whole
    from simulator.statistics import Comparison, Interval
    from simulator.sweeping import sweep
    from simulator.tiles import Tile
    from simulator.training import fit

__all__ = [
    "Attribution",
    "Auto",
    "Budget",
    "Characterization",
    "Chip",
    "Choice",
    "Comparison",
    "Efficiency",
    "Evaluation",
    "Fidelity",
    "HardwareObjective",
    "Interval",
    "Metric",
    "NoiseMatrix",
    "PeakMemory",
    "Probe",
    "Real",
    "Retention",
    "Space",
    "Sweep",
    "Tile",
    "Total",
    "Whole",
    "attribute",
    "characterise",
    "compare",
    "compile",
    "efficiency",
    "evaluate",
    "fit",
    "import_design",
    "lower",
    "metric",
    "noise_matrix",
    "peak_activation_memory",
    "probe",
    "retention",
    "serve",
    "sweep",
    "totals",
]

# Torch takes seconds to import: the command line's help must not wait for it, so names are fetched when they are used.
_MODULES = {
    "Characterization": "link.characterising",
    "Budget": "link.characterising",
    "characterise": "link.characterising",
    "serve": "link.serving",
    "Attribution": "diagnosis",
    "Auto": "placement",
    "Chip": "chip",
    "Choice": "search",
    "Comparison": "statistics",
    "Efficiency": "costing",
    "Evaluation": "evaluation",
    "Imported": "importing",
    "Fidelity": "search",
    "HardwareObjective": "search",
    "Interval": "statistics",
    "Metric": "metrics",
    "NoiseMatrix": "diagnosis",
    "PeakMemory": "memory",
    "Probe": "diagnosis",
    "Real": "search",
    "Retention": "diagnosis",
    "Space": "search",
    "Sweep": "search",
    "Tile": "tiles",
    "Total": "costing",
    "Whole": "search",
    "attribute": "diagnosis",
    "compare": "evaluation",
    "compile": "compiler",
    "efficiency": "costing",
    "evaluate": "evaluation",
    "fit": "training",
    "import_design": "importing",
    "lower": "lowering",
    "metric": "metrics",
    "noise_matrix": "diagnosis",
    "peak_activation_memory": "memory",
    "probe": "diagnosis",
    "retention": "diagnosis",
    "sweep": "sweeping",
    "totals": "costing",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
