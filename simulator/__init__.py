"""Compile PyTorch models onto accelerators, measure what is left of them, and put a chip in the loop."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulator import codesign
    from simulator.chip import Chip
    from simulator.chip_in_the_loop import ProgressiveTuning, fine_tune_progressively
    from simulator.compensation import recalibrate_batch_norm, remap
    from simulator.compiler import compile
    from simulator.conductances import load_conductances, save_conductances
    from simulator.cost_comparison import compare_costs, load_cost, save_cost, scale_cost
    from simulator.cost_figures import cost_figure, pareto_figure
    from simulator.costing import Efficiency, Total, efficiency, totals
    from simulator.curvature import Curvature, second_derivative
    from simulator.diagnosis import Attribution, NoiseMatrix, Probe, Retention, attribute, noise_matrix, probe, retention
    from simulator.evaluation import Evaluation, compare, evaluate
    from simulator.importing import Imported, import_design
    from simulator.in_situ import InSituTraining, in_situ_training
    from simulator.link.characterising import Budget, Characterization, characterise
    from simulator.link.client import disconnect
    from simulator.link.remote_cells import RemoteCells
    from simulator.link.serving import serve
    from simulator.lowering import lower
    from simulator.memory import PeakMemory, peak_activation_memory
    from simulator.metrics import Metric, metric
    from simulator.patching import PatchedModel, patch_by_patch
    from simulator.placement import Auto
    from simulator.point_clouds import centered_points, points_from_events, points_from_images
    from simulator.point_layers import PointStage
    from simulator.point_networks import PointNetwork, fit_readout, point_chip
    from simulator.pruning import EdgePruning, edge_pruning
    from simulator.pulse_training import PulseTraining, train_with_pulses
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
    "EdgePruning",
    "Efficiency",
    "Evaluation",
    "Fidelity",
    "HardwareObjective",
    "Imported",
    "InSituTraining",
    "Interval",
    "Metric",
    "NoiseMatrix",
    "PatchedModel",
    "PeakMemory",
    "PointNetwork",
    "PointStage",
    "Probe",
    "ProgressiveTuning",
    "PulseTraining",
    "Real",
    "RemoteCells",
    "Retention",
    "Space",
    "Sweep",
    "Tile",
    "Total",
    "Whole",
    "WriteVerify",
    "attribute",
    "centered_points",
    "characterise",
    "codesign",
    "compare",
    "compare_costs",
    "compile",
    "cost_figure",
    "disconnect",
    "edge_pruning",
    "efficiency",
    "evaluate",
    "fine_tune_progressively",
    "fit",
    "fit_readout",
    "import_design",
    "in_situ_training",
    "load_conductances",
    "load_cost",
    "lower",
    "metric",
    "noise_matrix",
    "pareto_figure",
    "patch_by_patch",
    "peak_activation_memory",
    "point_chip",
    "points_from_events",
    "points_from_images",
    "probe",
    "recalibrate_batch_norm",
    "remap",
    "retention",
    "save_conductances",
    "save_cost",
    "scale_cost",
    "second_derivative",
    "serve",
    "sweep",
    "totals",
    "train_with_pulses",
    "weight_scores",
    "write_verify",
]

# Torch takes seconds to import: the command line's help must not wait for it, so names are fetched when they are used.
_MODULES = {
    "PulseTraining": "pulse_training",
    "train_with_pulses": "pulse_training",
    "ProgressiveTuning": "chip_in_the_loop",
    "fine_tune_progressively": "chip_in_the_loop",
    "Attribution": "diagnosis",
    "Auto": "placement",
    "Budget": "link.characterising",
    "Characterization": "link.characterising",
    "Chip": "chip",
    "Choice": "search",
    "Comparison": "statistics",
    "Curvature": "curvature",
    "EdgePruning": "pruning",
    "Efficiency": "costing",
    "Evaluation": "evaluation",
    "Fidelity": "search",
    "HardwareObjective": "search",
    "Imported": "importing",
    "InSituTraining": "in_situ",
    "Interval": "statistics",
    "Metric": "metrics",
    "NoiseMatrix": "diagnosis",
    "PatchedModel": "patching",
    "PeakMemory": "memory",
    "PointNetwork": "point_networks",
    "PointStage": "point_layers",
    "Probe": "diagnosis",
    "Real": "search",
    "RemoteCells": "link.remote_cells",
    "Retention": "diagnosis",
    "Space": "search",
    "Sweep": "search",
    "Tile": "tiles",
    "Total": "costing",
    "Whole": "search",
    "WriteVerify": "selective_write_verify",
    "attribute": "diagnosis",
    "centered_points": "point_clouds",
    "characterise": "link.characterising",
    "compare": "evaluation",
    "compare_costs": "cost_comparison",
    "compile": "compiler",
    "cost_figure": "cost_figures",
    "disconnect": "link.client",
    "edge_pruning": "pruning",
    "efficiency": "costing",
    "evaluate": "evaluation",
    "fit": "training",
    "fit_readout": "point_networks",
    "import_design": "importing",
    "in_situ_training": "in_situ",
    "load_conductances": "conductances",
    "load_cost": "cost_comparison",
    "lower": "lowering",
    "metric": "metrics",
    "noise_matrix": "diagnosis",
    "pareto_figure": "cost_figures",
    "patch_by_patch": "patching",
    "peak_activation_memory": "memory",
    "point_chip": "point_networks",
    "points_from_events": "point_clouds",
    "points_from_images": "point_clouds",
    "probe": "diagnosis",
    "recalibrate_batch_norm": "compensation",
    "remap": "compensation",
    "retention": "diagnosis",
    "save_conductances": "conductances",
    "save_cost": "cost_comparison",
    "scale_cost": "cost_comparison",
    "second_derivative": "curvature",
    "serve": "link.serving",
    "sweep": "sweeping",
    "totals": "costing",
    "weight_scores": "weight_ranking",
    "write_verify": "selective_write_verify",
}

_PACKAGES = ("codesign",)


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"{__name__}.{name}")
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
