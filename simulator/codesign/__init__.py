"""Network and hardware chosen together."""

from simulator.codesign.fair_pruning import FairPruning, fair_prune, fair_scores
from simulator.codesign.group_fairness import Fairness, fairness

__all__ = ["FairPruning", "Fairness", "fair_prune", "fair_scores", "fairness"]
