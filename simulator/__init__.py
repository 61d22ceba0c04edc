"""Compile PyTorch models onto accelerators, measure what is left of them, and put a chip in the loop."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulator.chip import Chip
    from simulator.compiler import compile
    from simulator.conductances import load_conductances, save_conductances
    from simulator.costing import Efficiency, Total, efficiency, totals
    from simulator.curvature import Curvature, second_derivative
    from simulator.diagnosis import Attribution, NoiseMatrix, Probe, Retention, attribute, noise_matrix, probe, retention
    from simulator.evaluation import Evaluation, compare, evaluate
    from simulator.importing import Imported, import_design
    from simulator.in_situ import InSituTraining, in_situ_training
    from simulator.link.characterising import Budget, Characterization, characterise
    from simulator.link.serving import serve
    from simulator.lowering import lower
    from simulator.memory import PeakMemory, peak_activation_memory
    from simulator.metrics import Metric, metric
    from simulator.placement import Auto
    from simulator.search import Choice, Fidelity, HardwareObjective, Real, Space, Sweep, Whole
    from simulator.selective_write_verify import WriteVerify, write_verify
    from simulator.statistics import Comparison, Interval
    from simulator.sweeping import sweep
    from simulator.tiles import Tile
    from simulator.training import fit
    from simulator.weight_ranking import weight_scores

__all__ = [
    "Attribution",
    "Auto",
    "Budget",
    "Characterization",
    "Chip",
    "Choice",
    "Comparison",
    "Curvature",
    "Efficiency",
    "Evaluation",
    "Fidelity",
    "HardwareObjective",
    "InSituTraining",
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
    "WriteVerify",
    "attribute",
    "characterise",
    "compare",
    "compile",
    "efficiency",
    "evaluate",
    "fit",
    "import_design",
    "in_situ_training",
    "load_conductances",
    "lower",
    "metric",
    "noise_matrix",
    "peak_activation_memory",
    "probe",
    "retention",
    "save_conductances",
    "second_derivative",
    "serve",
    "sweep",
    "totals",
    "weight_scores",
    "write_verify",
]

# Torch takes seconds to import: the command line's help must not wait for it, so names are fetched when they are used.
_MODULES = {
    "Attribution": "diagnosis",
    "Auto": "placement",
    "Budget": "link.characterising",
    "Characterization": "link.characterising",
    "Chip": "chip",
    "Choice": "search",
    "Comparison": "statistics",
    "Curvature": "curvature",
    "Efficiency": "costing",
    "Evaluation": "evaluation",
    "Fidelity": "search",
    "HardwareObjective": "search",
    "Imported": "importing",
    "InSituTraining": "in_situ",
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
    "WriteVerify": "selective_write_verify",
    "attribute": "diagnosis",
    "characterise": "link.characterising",
    "compare": "evaluation",
    "compile": "compiler",
    "efficiency": "costing",
    "evaluate": "evaluation",
    "fit": "training",
    "import_design": "importing",
    "in_situ_training": "in_situ",
    "load_conductances": "conductances",
    "lower": "lowering",
    "metric": "metrics",
    "noise_matrix": "diagnosis",
    "peak_activation_memory": "memory",
    "probe": "diagnosis",
    "retention": "diagnosis",
    "save_conductances": "conductances",
    "second_derivative": "curvature",
    "serve": "link.serving",
    "sweep": "sweeping",
    "totals": "costing",
    "weight_scores": "weight_ranking",
    "write_verify": "selective_write_verify",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
