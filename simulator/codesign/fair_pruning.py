"""Pruning and write-verify that look at groups of people one by one: the same second derivatives, group by group."""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from devices.rram import Verification
from simulator.chip import Chip
from simulator.curvature import LossName, Method, second_derivative
from simulator.weight_ranking import DEFAULT_LOOP, RankingName, Weighting, WeightScores, weight_scores


@dataclass(frozen=True)
class FairPruning:
    """What `fair_prune` made.

    Attributes
    ----------
    model
        A copy of the model with the pruned weights at zero.
    masks
        Which weights are kept, by parameter name.
    report
        A row per pruned parameter: ``parameter``, ``weights``, ``pruned``, and the ``method`` that found its second derivatives.
    """

    model: nn.Module
    masks: dict[str, Tensor]
    report: pd.DataFrame

    @property
    def ratio(self) -> float:
        """Share of the weights that were pruned."""
        return float(self.report["pruned"].sum() / self.report["weights"].sum())


def fair_prune(
    model: nn.Module,
    groups: Mapping[Any, Any],
    *,
    protect: Any,
    ratio: float = 0.35,
    beta: float = 0.33,
    loss: LossName = "cross_entropy",
    method: Method = "second_derivative",
    seed: int = 0,
    progress: bool | None = None,
) -> FairPruning:
    """Prune the weights that matter least to the group to protect, and most to the others.

    The saliency of a weight is (w^2 / 2) (h0 - beta h1): h0 is the second derivative of the loss on the group to protect, h1 that on the
    others. The smallest are pruned: removing them costs the protected group little, and takes the others' advantage away.

    Parameters
    ----------
    model
        A trained classifier; not changed.
    groups
        Data of each group, by its name: loaders, data sets or pairs of tensors.
    protect
        Name of the group to protect.
    ratio
        Share of the weights of linear layers and convolutions that is pruned, from 0 to below 1.
    beta
        Weight of the others' loss, at least 0; .2 to .33 was published. 0 prunes by the protected group alone.
    loss, method, seed, progress
        See `second_derivative`.

    Returns
    -------
    FairPruning
        The pruned copy, masks and a report.

    Raises
    ------
    ValueError
        If there are fewer than two groups, the protected one is not among them, or a number is out of range.

    References
    ----------
    wu2022fairprune in the bibliography.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> data = {name: (torch.rand(16, 4), torch.arange(16) % 2) for name in ("light", "dark")}
    >>> fair_prune(model, data, protect="dark", ratio=0.25).ratio
    0.25
    """
    if not isinstance(groups, Mapping) or len(groups) < 2 or protect not in groups:
        got = list(groups) if isinstance(groups, Mapping) else type(groups).__name__
        raise ValueError(f"Argument `groups` must map at least two names to data, one of them {protect!r}, but got {got}")
    for name, value, highest in (("ratio", ratio, 1.0), ("beta", beta, math.inf)):
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < highest:
            below = f" and below {highest:g}" if math.isfinite(highest) else ""
            raise ValueError(f"Argument `{name}` must be at least 0{below}, but got {value!r}")
    found = {name: second_derivative(model, data, loss, method=method, seed=seed, progress=progress) for name, data in groups.items()}
    others = [one for name, one in found.items() if name != protect]
    weights = _prunable(model)
    saliency = {
        name: 0.5 * weight.detach().square() * (found[protect][name] - beta * sum(one[name] for one in others) / len(others))
        for name, weight in weights.items()
    }
    flat = torch.cat([part.flatten() for part in saliency.values()])
    kept = torch.ones_like(flat, dtype=torch.bool)
    kept[torch.argsort(flat, stable=True)[: round(ratio * flat.numel())]] = False
    parts = kept.split([part.numel() for part in saliency.values()])
    masks = {name: part.reshape(saliency[name].shape) for name, part in zip(saliency, parts, strict=True)}
    pruned = copy.deepcopy(model)
    named = dict(pruned.named_parameters())
    with torch.no_grad():
        for name, mask in masks.items():
            named[name].mul_(mask)
    methods = found[protect].report.set_index("parameter")["method"]
    rows = [
        {"parameter": name, "weights": mask.numel(), "pruned": int((~mask).sum()), "method": methods[name]} for name, mask in masks.items()
    ]
    return FairPruning(pruned, masks, pd.DataFrame(rows))


def fair_scores(
    chip: Chip,
    groups: Mapping[Any, Any],
    ranking: RankingName = "second_derivative",
    *,
    weighting: Weighting = "gain_per_pulse",
    verification: Verification = DEFAULT_LOOP,
    loss: LossName = "cross_entropy",
    seed: int = 0,
    progress: bool | None = None,
) -> WeightScores:
    """Score weights by the group that each of them matters most to: a ranking for `write_verify` that keeps accuracy fair under noise.

    Scores by pooled data follow the largest group: a weight that only a small group needs ranks low, and its errors stay. Here the score
    of a weight is the largest of its scores on each group alone.

    Parameters
    ----------
    chip
        A chip with resistive cells.
    groups
        Data of each group, by its name.
    ranking, weighting, verification, loss, seed, progress
        See `weight_scores`.

    Returns
    -------
    WeightScores
        ``write_verify(chip, data, fraction=0.1, ranking=fair_scores(chip, groups))`` uses them.

    Raises
    ------
    ValueError
        If there are fewer than two groups.

    Examples
    --------
    >>> import simulator as sim
    >>> from devices import RRAMCrossbar
    >>> chip = sim.compile(nn.Linear(4, 2), RRAMCrossbar.preset("wan_nature_2022"), example_inputs=torch.rand(1, 4))
    >>> data = {name: (torch.rand(16, 4), torch.arange(16) % 2) for name in ("light", "dark")}
    >>> fair_scores(chip, data)["model"].shape
    torch.Size([2, 4])
    """
    if not isinstance(groups, Mapping) or len(groups) < 2:
        got = list(groups) if isinstance(groups, Mapping) else type(groups).__name__
        raise ValueError(f"Argument `groups` must map at least two names to data, but got {got}")
    found = [
        weight_scores(chip, data, ranking, weighting=weighting, verification=verification, loss=loss, seed=seed, progress=progress)
        for data in groups.values()
    ]
    return WeightScores({name: torch.stack([one[name] for one in found]).amax(0) for name in found[0]})


def _prunable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights of linear layers and convolutions by parameter name; raises ValueError where there are none."""
    kinds = (nn.Linear, nn.modules.conv._ConvNd)
    owned = {id(module.weight) for module in model.modules() if isinstance(module, kinds)}
    weights = {name: parameter for name, parameter in model.named_parameters() if id(parameter) in owned}
    if not weights:
        raise ValueError("Argument `model` must have linear layers or convolutions to prune, but has none")
    return weights
