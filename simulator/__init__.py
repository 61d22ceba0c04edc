"""Compile PyTorch models onto accelerators, measure what is left of them, and put a chip in the loop."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulator.chip import Chip
    from simulator.compiler import compile
    from simulator.costing import Total, totals
    from simulator.diagnosis import Attribution, NoiseMatrix, Probe, Retention, attribute, noise_matrix, probe, retention
    from simulator.evaluation import Evaluation, compare, evaluate
    from simulator.lowering import lower
    from simulator.memory import PeakMemory, peak_activation_memory
    from simulator.metrics import Metric, metric
    from simulator.placement import Auto
    from simulator.statistics import Comparison, Interval
    from simulator.training import fit

__all__ = [
    "Attribution",
    "Auto",
    "Chip",
    "Comparison",
    "Evaluation",
    "Interval",
    "Metric",
    "NoiseMatrix",
    "PeakMemory",
    "Probe",
    "Retention",
    "Total",
    "attribute",
    "compare",
    "compile",
    "evaluate",
    "fit",
    "lower",
    "metric",
    "noise_matrix",
    "peak_activation_memory",
    "probe",
    "retention",
    "totals",
]

# Torch takes seconds to import: the command line's help must not wait for it, so names are fetched when they are used.
_MODULES = {
    "Attribution": "diagnosis",
    "Auto": "placement",
    "Chip": "chip",
    "Comparison": "statistics",
    "Evaluation": "evaluation",
    "Interval": "statistics",
    "Metric": "metrics",
    "NoiseMatrix": "diagnosis",
    "PeakMemory": "memory",
    "Probe": "diagnosis",
    "Retention": "diagnosis",
    "Total": "costing",
    "attribute": "diagnosis",
    "compare": "evaluation",
    "compile": "compiler",
    "evaluate": "evaluation",
    "fit": "training",
    "lower": "lowering",
    "metric": "metrics",
    "noise_matrix": "diagnosis",
    "peak_activation_memory": "memory",
    "probe": "diagnosis",
    "retention": "diagnosis",
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
