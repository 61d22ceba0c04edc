"""Which weights are worth verifying: scores of every weight on resistive cells, by sensitivity, magnitude, chance or a user's own."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from devices.rram import PulseVerification, RandomCell, Verification, verification_profile
from kernels.random import Key, uniform
from simulator.chip import Chip
from simulator.curvature import Curvature, LossName, second_derivative
from simulator.lowering.crossbar import CrossbarLayer
from simulator.lowering.treatment import FormedCells

RankingName = Literal["second_derivative", "fisher", "hutchinson", "magnitude", "random"]
Weighting = Literal["gain_per_pulse", "gain", "sensitivity"]
Scores = Mapping[str, Tensor]
"""A number for each weight, by the layer's name and of the weight's shape: higher is verified first."""
Ranking = RankingName | Scores | Callable[[Chip], Scores]

SENSITIVITIES = ("second_derivative", "fisher", "hutchinson")
DEFAULT_LOOP = PulseVerification()


class WeightScores(dict[str, Tensor]):
    """Scores by the layer's name, each of the weight's shape.

    Attributes
    ----------
    curvature
        The second derivatives behind them, with their report; None where there are none.

    Examples
    --------
    >>> WeightScores({"head": torch.ones(2, 3)}).curvature is None
    True
    """

    def __init__(self, values: Mapping[str, Tensor], curvature: Curvature | None = None) -> None:
        super().__init__(values)
        self.curvature = curvature


def resistive_layers(chip: Any) -> dict[str, CrossbarLayer]:
    """Return the layers on resistive cells that can be tuned, by name.

    Raises
    ------
    ValueError
        If there are none, or the cells of one are never tuned.

    Examples
    --------
    >>> import simulator as sim
    >>> from devices import RRAMCrossbar
    >>> chip = sim.compile(torch.nn.Linear(4, 2), RRAMCrossbar.preset("wan_nature_2022"), example_inputs=torch.rand(1, 4))
    >>> list(resistive_layers(chip))
    ['model']
    """
    if not isinstance(chip, Chip):
        raise ValueError(f"Argument `chip` must be a compiled chip, but got {type(chip).__name__}; call sim.compile(model, design) first")
    layers = {name: layer for name, layer in chip.layers.items() if isinstance(layer, CrossbarLayer)}
    if not layers:
        hardware = sorted({layer.placement.hardware for layer in chip.layers.values()})
        raise ValueError(
            f"Argument `chip` must have a layer on resistive cells, but all of its layers lie on {', '.join(hardware)}; "
            "compile onto an RRAMCrossbar"
        )
    for name, layer in layers.items():
        if isinstance(layer.treatment, FormedCells) or isinstance(layer.design.cell, RandomCell):
            raise ValueError(
                f"Argument `chip` must have cells that can be tuned, but those of layer `{name}` are formed at random once; "
                "use edge_pruning on them"
            )
    return layers


def weight_scores(
    chip: Chip,
    loader: Any,
    ranking: Ranking = "second_derivative",
    *,
    weighting: Weighting = "gain_per_pulse",
    verification: Verification = DEFAULT_LOOP,
    loss: LossName = "cross_entropy",
    seed: int = 0,
    progress: bool | None = None,
) -> "WeightScores":
    """Score each weight on resistive cells: what `write_verify` ranks them by, and takes as a ranking.

    With S = d2L/dw2, verifying a weight lowers the expected loss by half of S times what it takes off the mean square error of the
    weight, which depends on the targets of its cells and on the cells themselves (yan2024uswim in the bibliography).

    Parameters
    ----------
    chip
        A chip with resistive cells.
    loader
        Data for the sensitivities.
    ranking
        The name of a rule, scores of the user's own, or a function of the chip that returns them.
    weighting
        Of sensitivities: ``gain_per_pulse``, the expected gain over the expected pulses (at least one a weight); ``gain``, below zero
        where the loop leaves more than programming does; or
        ``sensitivity``, S max(abs(w))^2 of the layer alone, as for uniform devices and targets.
    verification
        The loop.
    loss, seed, progress
        See `second_derivative`.

    Raises
    ------
    ValueError
        If an argument is unknown, or scores of the user's own do not fit.

    Examples
    --------
    >>> import simulator as sim
    >>> from devices import RRAMCrossbar
    >>> chip = sim.compile(torch.nn.Linear(4, 2), RRAMCrossbar.preset("wan_nature_2022"), example_inputs=torch.rand(1, 4))
    >>> scores = weight_scores(chip, (torch.rand(8, 4), torch.zeros(8, dtype=torch.long)), weighting="sensitivity")
    >>> scores["model"].shape, bool((scores["model"] >= 0).all())
    (torch.Size([2, 4]), True)
    """
    layers = resistive_layers(chip)
    if weighting not in get_args(Weighting):
        raise ValueError(f"Argument `weighting` must be one of {', '.join(get_args(Weighting))}, but got {weighting!r}")
    if not isinstance(ranking, str):
        return _own_scores(ranking(chip) if callable(ranking) else ranking, layers)
    if ranking == "magnitude":
        return WeightScores({name: layer.weight.detach().abs() for name, layer in layers.items()})
    if ranking == "random":
        keys = {name: Key.of(seed=seed, layer=name, purpose="random ranking") for name in layers}
        return WeightScores({name: uniform(keys[name], layer.weight.shape, layer.weight.device) for name, layer in layers.items()})
    if ranking not in SENSITIVITIES:
        raise ValueError(f"Argument `ranking` must be one of {', '.join(get_args(RankingName))}, scores or a function, but got {ranking!r}")
    curvature = second_derivative(chip, loader, loss, method=ranking, seed=seed, progress=progress)
    names = {id(parameter): name for name, parameter in chip.named_parameters()}
    scores = {}
    for name, layer in layers.items():
        second = _of_layer(layer, curvature, names)
        if weighting == "sensitivity":
            scores[name] = second * layer.weight.detach().abs().amax().square()
        else:
            gain, pulses = expected_gain(layer, verification)
            scores[name] = 0.5 * second * gain / (pulses.clamp(min=1.0) if weighting == "gain_per_pulse" else 1.0)
    return WeightScores(scores, curvature)


def expected_gain(layer: CrossbarLayer, verification: Verification) -> tuple[Tensor, Tensor]:
    """Return what verifying takes off each weight's mean square error, in the weight's unit squared, and the pulses it is expected to take.

    The gain is negative where programming once leaves less than the loop does: a cell with a target just within the tolerance of its
    start takes no pulse at all, and is off by up to the tolerance.

    Examples
    --------
    >>> import simulator as sim
    >>> from devices import PulseVerification, RRAMCrossbar
    >>> model = torch.nn.Linear(3, 1)
    >>> model.weight.data[:] = torch.tensor([1.0, 0.5, 0.05])
    >>> chip = sim.compile(model, RRAMCrossbar.preset("wan_nature_2022"), example_inputs=torch.rand(1, 3))
    >>> gain, pulses = expected_gain(resistive_layers(chip)["model"], PulseVerification())
    >>> (gain > 0).tolist(), pulses.round().tolist()
    ([[True, True, False]], [[20.0, 10.0, 0.0]])
    """
    mapped = layer._map()
    profile = verification_profile(layer.design.cell, verification)
    targets = mapped.targets_siemens
    gain, pulses = profile.gain(targets), profile.expected_pulses(targets)
    if mapped.present is not None:
        gain, pulses = gain * mapped.present, pulses * mapped.present
    codes = gain.new_tensor(mapped.radix) * mapped.codes_per_siemens
    gain = gain * codes.square().reshape(-1, *[1] * (gain.dim() - 1))
    unit = mapped.unit if isinstance(mapped.unit, Tensor) else gain.new_tensor(mapped.unit)
    at_places = gain[:, :, : len(layer.weight)].sum((0, 1)) * unit.square()
    return of_weights(layer, at_places), of_weights(layer, pulses[:, :, : len(layer.weight)].sum((0, 1)))


def of_weights(layer: CrossbarLayer, at_places: Tensor) -> Tensor:
    """Return numbers of the places of outputs in an array as numbers of the outputs, which may have changed places.

    Examples
    --------
    >>> import simulator as sim
    >>> from devices import RRAMCrossbar
    >>> chip = sim.compile(torch.nn.Linear(3, 2), RRAMCrossbar.preset("wan_nature_2022"), example_inputs=torch.rand(1, 3))
    >>> of_weights(resistive_layers(chip)["model"], torch.tensor([1.0, 2.0]))
    tensor([1., 2.])
    """
    if layer.order is None:
        return at_places
    found = torch.empty_like(at_places)
    found[layer.order] = at_places
    return found


def order_of(scores: Mapping[str, Tensor], layers: Mapping[str, CrossbarLayer]) -> npt.NDArray[np.int64]:
    """Return the places of all weights, layers one after the other, from the first to be verified to the last; ties by magnitude.

    Examples
    --------
    >>> import simulator as sim
    >>> from devices import RRAMCrossbar
    >>> model = torch.nn.Linear(3, 1, bias=False)
    >>> model.weight.data[:] = torch.tensor([0.1, -0.3, 0.2])
    >>> chip = sim.compile(model, RRAMCrossbar.preset("wan_nature_2022"), example_inputs=torch.rand(1, 3))
    >>> order_of({"model": torch.tensor([[1.0, 1.0, 2.0]])}, resistive_layers(chip)).tolist()
    [2, 1, 0]
    """
    flat = [(scores[name].flatten(), layer.weight.detach().abs().flatten()) for name, layer in layers.items()]
    score, magnitude = (torch.cat(parts).cpu().numpy() for parts in zip(*flat, strict=True))
    by_magnitude = np.argsort(-magnitude, kind="stable")
    return by_magnitude[np.argsort(-score[by_magnitude], kind="stable")].astype(np.int64)


def _of_layer(layer: CrossbarLayer, curvature: Curvature, names: Mapping[int, str]) -> Tensor:
    if layer.view is None:
        assert layer.master is not None
        return curvature[names[id(layer.master)]]
    view = layer.view
    return curvature[names[id(view.parameter)]].as_strided(view.size, view.stride, view.offset)


def _own_scores(scores: Any, layers: Mapping[str, CrossbarLayer]) -> WeightScores:
    if not isinstance(scores, Mapping) or set(scores) != set(layers):
        got: Any = sorted(scores) if isinstance(scores, Mapping) else type(scores).__name__
        raise ValueError(f"Argument `ranking` must give scores for the layers {', '.join(layers)}, but got {got}")
    for name, layer in layers.items():
        score = scores[name]
        if not isinstance(score, Tensor) or score.shape != layer.weight.shape or bool(torch.isnan(score).any()):
            got = tuple(score.shape) if isinstance(score, Tensor) else type(score).__name__
            raise ValueError(
                f"Argument `ranking` must give layer `{name}` a tensor of shape {tuple(layer.weight.shape)} without NaN, but got {got}"
            )
    return WeightScores({name: scores[name].to(layer.weight.device) for name, layer in layers.items()})
