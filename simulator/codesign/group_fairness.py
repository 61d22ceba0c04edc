"""How differently a classifier treats groups of people."""

import math
from dataclasses import dataclass
from itertools import combinations

import pandas as pd
import torch
from torch import Tensor


@dataclass(frozen=True)
class Fairness:
    """Rates of each group and the gaps between them; with more than two groups a gap is the largest between any two.

    Attributes
    ----------
    accuracy
        Of all samples.
    groups
        A row per group: ``group``, ``samples``, ``accuracy``.
    equal_opportunity_0
        Sum over classes of the gap in true-negative rates.
    equal_opportunity_1
        Sum over classes of the gap in true-positive rates.
    equalized_odds
        Sum over classes of the gap in the sum of true-positive and false-positive rates.
    unfairness
        Sum over groups of abs(accuracy of the group - accuracy of all).
    """

    accuracy: float
    groups: pd.DataFrame
    equal_opportunity_0: float
    equal_opportunity_1: float
    equalized_odds: float
    unfairness: float

    @property
    def worst(self) -> float:
        """Accuracy of the group that is treated worst."""
        return float(self.groups["accuracy"].min())

    def __str__(self) -> str:
        each = ", ".join(f"{row['group']} {row['accuracy']:.3f}" for row in self.groups.to_dict("records"))
        return (
            f"accuracy {self.accuracy:.3f} ({each}), equal opportunity {self.equal_opportunity_0:.3f} / {self.equal_opportunity_1:.3f}, "
            f"equalized odds {self.equalized_odds:.3f}, unfairness {self.unfairness:.3f}"
        )


def fairness(outputs: Tensor, targets: Tensor, groups: Tensor) -> Fairness:
    """Measure a classifier's fairness across groups.

    Parameters
    ----------
    outputs
        Class scores (samples, classes), or predicted classes (samples,).
    targets
        Classes, (samples,).
    groups
        Number of each sample's group, (samples,).

    Returns
    -------
    Fairness
        Gaps from 0 (the same for all) up to the number of classes.

    Raises
    ------
    ValueError
        If lengths differ, or there are fewer than two groups.

    References
    ----------
    Equal opportunity and equalized odds for several classes as in wu2022fairprune in the bibliography; the sum of deviations of the
    accuracy is the unfairness of Sheng et al., "The larger the fairer?" (DAC 2022), arXiv 2202.11317.

    Examples
    --------
    >>> found = fairness(torch.tensor([0, 1, 1, 1]), torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 1]))
    >>> found.accuracy, found.worst, found.unfairness
    (0.75, 0.5, 0.5)
    """
    predicted = outputs.argmax(1) if outputs.dim() == 2 else outputs
    if not (predicted.shape == targets.shape == groups.shape) or targets.dim() != 1:
        shapes = tuple(outputs.shape), tuple(targets.shape), tuple(groups.shape)
        raise ValueError(f"Arguments `outputs`, `targets` and `groups` must have one entry a sample, but got shapes {shapes}")
    present = groups.unique().tolist()
    if len(present) < 2:
        raise ValueError(f"Argument `groups` must hold at least two groups, but got {present}; fairness compares groups")
    correct = predicted == targets
    accuracy = float(correct.double().mean())
    rows = [
        {"group": one, "samples": int((groups == one).sum()), "accuracy": float(correct[groups == one].double().mean())} for one in present
    ]
    gaps = [0.0, 0.0, 0.0]
    for label in targets.unique().tolist():
        rates = [_rates(predicted[groups == one] == label, targets[groups == one] == label) for one in present]
        for place, value in enumerate(((0.0, -1.0), (1.0, 0.0), (1.0, 1.0))):
            # In this order: 1 - false-positive rate, true-positive rate, their sum; a rate that does not exist in a group has no gap.
            numbers = [value[0] * hit + value[1] * alarm for hit, alarm in rates]
            known = [abs(a - b) for a, b in combinations(numbers, 2) if not math.isnan(a + b)]
            gaps[place] += max(known, default=0.0)
    frame = pd.DataFrame(rows)
    return Fairness(accuracy, frame, gaps[0], gaps[1], gaps[2], float((frame["accuracy"] - accuracy).abs().sum()))


def _rates(predicted: Tensor, true: Tensor) -> tuple[float, float]:
    """Return true-positive and false-positive rate; NaN where no sample is of the kind."""
    hit = predicted[true].double().mean() if bool(true.any()) else torch.tensor(torch.nan)
    alarm = predicted[~true].double().mean() if bool((~true).any()) else torch.tensor(torch.nan)
    return float(hit), float(alarm)
