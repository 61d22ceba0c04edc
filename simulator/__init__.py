"""Compile PyTorch models onto accelerators, measure what is left of them, and put a chip in the loop."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulator.chip import Chip
    from simulator.compiler import compile
    from simulator.costing import Total, totals
    from simulator.evaluation import Evaluation, compare, evaluate
    from simulator.lowering import lower
    from simulator.metrics import Metric, metric
    from simulator.statistics import Comparison, Interval
    from simulator.training import fit

__all__ = [
    "Chip",
    "Comparison",
    "Evaluation",
    "Interval",
    "Metric",
    "Total",
    "compare",
    "compile",
    "evaluate",
    "fit",
    "lower",
    "metric",
    "totals",
]

# Torch takes seconds to import: the command line's help must not wait for it, so names are fetched when they are used.
_MODULES = {
    "Chip": "chip",
    "Comparison": "statistics",
    "Evaluation": "evaluation",
    "Interval": "statistics",
    "Metric": "metrics",
    "Total": "costing",
    "compare": "evaluation",
    "compile": "compiler",
    "evaluate": "evaluation",
    "fit": "training",
    "lower": "lowering",
    "metric": "metrics",
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
