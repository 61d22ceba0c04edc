"""What can be said of a network before it is trained, and costs that a gradient can lower."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

STAGE_WEIGHTS = (1.0, 1.0, 1.0, 1.0, 8.0)
"""Weights of the stages' scores, the last stage's last (DeepMAD, arXiv 2303.02165)."""
DEPTH_PENALTY = 10.0
"""Weight of uneven depths (DeepMAD)."""
GREATEST_EFFECTIVENESS = 0.3
"""Depth over width above which a network is hard to train (DeepMAD)."""


def deepmad_score(stages: Sequence[Sequence[Mapping[str, int]]], *, stems: int = 0) -> float:
    """Return DeepMAD's score of a convolutional network, a proxy of its accuracy that needs no data.

    For each stage (log C + log r^2) times the sum of log sqrt(c k^2) over the layers up to its end, with C and r the channels and the
    side of its output, c the inputs and k the kernel of a layer; weighted 1, 1, 1, 1, 8 from the end, minus 10 exp(standard
    deviation of the stages' depths), as in the authors' code (alibaba/lightweight-neural-architecture-search on GitHub).

    Parameters
    ----------
    stages
        For each stage its layers: ``inputs``, ``outputs``, ``kernel`` and ``size``.
    stems
        First stages that are no choice, whose depth the unevenness leaves out: 1 for the stages of a `NetworkFamily`.

    Returns
    -------
    float
        Larger is better; -infinity where depth over width is above 0.3.

    Examples
    --------
    >>> layer = {"inputs": 16, "outputs": 16, "kernel": 3, "size": 8}
    >>> round(deepmad_score([[layer]]), 3)
    127.792
    """
    if not stages or not all(stages):
        raise ValueError("Argument `stages` must have layers in every stage, but one is empty; leave it out")
    if effectiveness(stages) > GREATEST_EFFECTIVENESS:
        return -math.inf
    weights = STAGE_WEIGHTS[-len(stages) :] if len(stages) <= len(STAGE_WEIGHTS) else (1.0,) * (len(stages) - 1) + (8.0,)
    total, entropy = 0.0, 0.0
    for weight, stage in zip(weights, stages, strict=True):
        entropy += sum(0.5 * math.log(layer["inputs"] * layer["kernel"] ** 2) for layer in stage)
        last = stage[-1]
        total += weight * (math.log(last["outputs"]) + 2 * math.log(last["size"])) * entropy
    depths = [len(stage) for stage in stages[stems:]] or [0]
    mean = sum(depths) / len(depths)
    spread = math.sqrt(sum((depth - mean) ** 2 for depth in depths) / len(depths))
    return total - DEPTH_PENALTY * math.exp(spread)


def effectiveness(stages: Sequence[Sequence[Mapping[str, int]]]) -> float:
    """Return depth over the geometric mean of the layers' widths c k^2 (DeepMAD's rho).

    Examples
    --------
    >>> layer = {"inputs": 4, "outputs": 4, "kernel": 1, "size": 8}
    >>> round(effectiveness([[layer, layer]]), 6)
    0.5
    """
    layers = [layer for stage in stages for layer in stage]
    return len(layers) / math.exp(sum(math.log(layer["inputs"] * layer["kernel"] ** 2) for layer in layers) / len(layers))


def expected_cost(probabilities: Sequence[Tensor], costs: Sequence[Tensor]) -> Tensor:
    """Return the expected cost of a network whose layers are chosen at random: a function that a gradient can lower.

    E = sum over layers of sum over choices of p cost (ProxylessNAS, arXiv 1812.00332, equation 2), latency or any other cost that
    adds over layers.

    Parameters
    ----------
    probabilities
        For each layer those of its choices, (choices,); usually a softmax of what is learned.
    costs
        For each layer the cost of each choice, (choices,), measured or modeled.

    Returns
    -------
    torch.Tensor
        A scalar with a gradient to the probabilities.

    Examples
    --------
    >>> logits = torch.zeros(2, requires_grad=True)
    >>> cost = expected_cost([logits.softmax(0)], [torch.tensor([1.0, 3.0])])
    >>> cost.backward()
    >>> cost.item(), logits.grad.tolist()
    (2.0, [-0.5, 0.5])
    """
    if len(probabilities) != len(costs) or not probabilities:
        raise ValueError(
            f"Arguments `probabilities` and `costs` must have one entry per layer, but have {len(probabilities)} and {len(costs)}"
        )
    return torch.stack([(p * c).sum() for p, c in zip(probabilities, costs, strict=True)]).sum()
