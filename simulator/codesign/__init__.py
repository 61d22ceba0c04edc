"""Network and hardware chosen together."""

from simulator.codesign.fair_pruning import FairPruning, fair_prune, fair_scores
from simulator.codesign.gradient_search import GradientSearch, gradient_search
from simulator.codesign.group_fairness import Fairness, fairness
from simulator.codesign.layer_costs import LayerCosts
from simulator.codesign.network_family import NetworkFamily, fit_family
from simulator.codesign.network_scores import deepmad_score, effectiveness, expected_cost
from simulator.codesign.semi_decoupling import SemiDecoupled, cost_table, rank_correlations, semi_decoupled

__all__ = [
    "FairPruning",
    "Fairness",
    "GradientSearch",
    "LayerCosts",
    "NetworkFamily",
    "SemiDecoupled",
    "cost_table",
    "deepmad_score",
    "effectiveness",
    "expected_cost",
    "fair_prune",
    "fair_scores",
    "fairness",
    "fit_family",
    "gradient_search",
    "rank_correlations",
    "semi_decoupled",
]
