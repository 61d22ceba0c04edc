"""Edge pruning: a network of random conductances that are never tuned learns which of them to reset."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, get_args

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from devices import RRAMCrossbar
from kernels.random import Key, uniform
from simulator._isolation import one_thread
from simulator.batches import Batch, RepeatableBatches
from simulator.chip import Chip
from simulator.compiler import compile as compile_chip
from simulator.forming import (
    FormedPairs,
    MinMaxQuantizer,
    Off,
    check_random_design,
    fixed_read,
    form_pairs,
    formed_layers,
    he_scale,
    with_digital_norms,
)
from simulator.hardware import Mode, in_mode
from simulator.lowering.crossbar import CrossbarLayer
from simulator.lowering.treatment import FormedCells
from simulator.measuring import MetricLike, resolve_metrics
from simulator.progress import track

Scope = Literal["layer", "global"]
HYSTERESIS_STEPS = 10
"""Times that the best accuracy has to improve until the hysteresis is gone."""


@dataclass(frozen=True)
class EdgePruning:
    """What `edge_pruning` made.

    Attributes
    ----------
    chip
        The pruned network on its random cells. Each trial of `evaluate` reads this one array anew.
    masks
        Which pairs are on, by layer.
    history
        A row per epoch: ``epoch``, ``loss`` and ``metric`` on the batches as they were trained on, ``flips`` of mask bits, and the
        ``limit`` of the hysteresis.
    not_formed
        Parameters that lie on no random cells and stayed as they were.
    """

    chip: Chip
    masks: dict[str, Tensor]
    history: pd.DataFrame
    not_formed: tuple[str, ...] = ()

    @property
    def flips(self) -> int:
        """Mask bits that changed after the first mask: programming operations."""
        return int(self.history["flips"].sum())

    @property
    def kept(self) -> float:
        """Share of the pairs that are on."""
        return sum(int(mask.sum()) for mask in self.masks.values()) / sum(mask.numel() for mask in self.masks.values())

    def __str__(self) -> str:
        last = self.history.iloc[-1]
        return f"{self.kept:.1%} of the pairs kept, {self.flips} flips in {len(self.history)} epochs, last loss {last['loss']:.3g}"


def edge_pruning(
    net: nn.Module,
    design: RRAMCrossbar,
    loader: Any,
    *,
    keep: float = 0.5,
    hysteresis: float = 0.0,
    epochs: int = 60,
    scope: Scope = "layer",
    off: Off = "both_reset",
    activation_bits: int | None = None,
    loss: Callable[[Any, Any], Tensor] = functional.cross_entropy,
    metric: MetricLike = "accuracy",
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    seed: int = 0,
    batch_size: int = 64,
    progress: bool | None = None,
) -> EdgePruning:
    """Put a network on random cells and learn which of its edges to keep; no conductance is ever tuned.

    Every edge has a score, and the edges with the largest magnitudes of it are on; the gradient passes straight through the mask to the
    scores. Weights are the differences of random pairs, scaled for each layer to a mean magnitude of sqrt(2 / (keep fan_in)). Training
    sees one fixed read of the cells; the chip that comes out reads them anew each time. Biases are zero, and batch norms have neither
    scale nor shift and stay digital.

    Parameters
    ----------
    net
        Any network that compiles: its structure counts, its weights do not. It is not changed.
    design
        The crossbar; its cell sets the law of the conductances and the read noise.
    loader
        Batches of (inputs, targets) to train on, a data set or a pair of tensors.
    keep
        Share of the edges that are on, above 0 and at most 1; at 1 nothing is learned but the running statistics of batch norms.
    hysteresis
        An edge keeps its bit while its score's magnitude has changed by less than this share since the bit was last set. The limit
        shrinks by a tenth of it each time the best metric improves. 0 is none.
    epochs
        How often the data are gone through.
    scope
        The largest scores of each ``layer``, or over the whole network (``global``), there relative to their initial range.
    off
        What a pruned pair is: see `simulator.forming.form_pairs`.
    activation_bits
        Bits that inputs of layers are rounded to, between the least and the largest of a tensor; None leaves that to the DAC.
    loss
        Of outputs and targets.
    metric
        What has to improve for the hysteresis to shrink, measured on the training batches.
    learning_rate, momentum, weight_decay
        Of stochastic gradient descent on the scores; the rate falls along half a cosine.
    seed
        Of conductances, scores and the order of the data.
    batch_size
        Batch size for a data set or a pair of tensors.
    progress
        Show a progress bar; by default on a terminal.

    Returns
    -------
    EdgePruning
        The chip, the masks and what was flipped.

    Raises
    ------
    ValueError
        If an argument is out of range, the data are empty, or the network has no layer that can lie on pairs of cells.

    References
    ----------
    li2023pruning in the bibliography. Since when a score's change counts was not published: here since the bit was last set.

    Examples
    --------
    >>> x = torch.rand(64, 8)
    >>> net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
    >>> pruned = edge_pruning(net, RRAMCrossbar.preset("taox_40nm_random"), (x, (x[:, 0] > 0.5).long()), epochs=2)
    >>> pruned.kept
    0.5
    """
    if not isinstance(net, nn.Module):
        raise ValueError(f"Argument `net` must be a network, but got {type(net).__name__}")
    _check_arguments(keep, hysteresis, epochs, scope, off, activation_bits)
    _check_descent(learning_rate, momentum, weight_decay)
    check_random_design(design)
    data = _shuffled(loader, batch_size, seed)
    examples = next(iter(data))
    if examples.targets is None:
        raise ValueError("Argument `loader` must yield (inputs, targets), but its batches have no targets")
    chip = compile_chip(with_digital_norms(net), design, example_inputs=examples.inputs, example_kwargs=examples.keywords, seed=seed)
    layers = formed_layers(chip)
    edges = {name: _Edges.of(layer, keep, off, seed) for name, layer in layers.items()}
    if activation_bits is not None:
        for layer in layers.values():
            layer.register_forward_pre_hook(MinMaxQuantizer(activation_bits))
    chosen = next(iter(resolve_metrics(metric).values()))
    names = {id(parameter): name for name, parameter in chip.named_parameters()}
    optimizer = torch.optim.SGD([one.scores for one in edges.values()], lr=learning_rate, momentum=momentum, weight_decay=weight_decay)
    limit, best, rows = hysteresis, -math.inf, []
    total_epochs = epochs if keep < 1 else 1
    with in_mode(chip, Mode.FLOAT), one_thread():
        chip.train()
        for epoch in track(range(total_epochs), total_epochs, "epochs", progress):
            flips, losses, found, count = 0, 0.0, [], 0
            batches = list(data)
            for place, batch in enumerate(batches):
                for group in optimizer.param_groups:
                    group["lr"] = 0.5 * learning_rate * (1 + math.cos(math.pi * (epoch + place / len(batches)) / total_epochs))
                weights = {names[id(layer.master)]: edges[name].weight() for name, layer in layers.items()}
                outputs = torch.func.functional_call(chip, weights, batch.inputs, batch.keywords, tie_weights=False)
                value = loss(outputs, batch.targets)
                if not math.isfinite(float(value.detach())):
                    raise ValueError(f"Argument `learning_rate` must keep the loss finite, but with {learning_rate} it is not; lower it")
                optimizer.zero_grad()
                if keep < 1:
                    value.backward()
                    optimizer.step()
                    flips += _update(edges, keep, scope, limit)
                losses, count = losses + float(value.detach()) * len(batch.targets), count + len(batch.targets)
                found.append(chosen.rows(_detached(outputs), batch.targets))
            reached = chosen.compute(chosen.join(found))
            rows.append({"epoch": epoch, "loss": losses / count, "metric": reached, "flips": flips, "limit": limit})
            signed = reached if chosen.higher_is_better else -reached
            if signed > best:
                best, limit = signed, max(0.0, limit - hysteresis / HYSTERESIS_STEPS)
    _settle(chip, layers, edges, seed)
    formed = {id(layer.master) for layer in layers.values()}
    left = tuple(name for name, parameter in chip.named_parameters() if id(parameter) not in formed and bool((parameter != 0).any()))
    chip.calibrate(data)
    return EdgePruning(chip, {name: one.mask for name, one in edges.items()}, pd.DataFrame(rows), left)


@dataclass(eq=False)
class _Edges:
    """The pairs of a layer, their scores and their mask."""

    pairs: FormedPairs
    on: Tensor
    off: Tensor
    scale: float
    scores: Tensor
    mask: Tensor
    set_at: Tensor

    @classmethod
    def of(cls, layer: CrossbarLayer, keep: float, off: Off, seed: int) -> "_Edges":
        key = Key.of(seed=seed, layer=layer.name, purpose="edge pruning")
        shape, cell, device = tuple(layer.weight.shape), layer.design.cell, layer.weight.device
        drawn = form_pairs(cell, shape, key.fold("form"), off)
        pairs = FormedPairs(drawn.on.to(device), drawn.off.to(device))
        scale = he_scale(pairs.on[0] - pairs.on[1], keep)
        # Kaiming's uniform law with a = sqrt(5), as torch initializes its layers: 1 / sqrt(fan_in) at most.
        scores = (2 * uniform(key.fold("scores"), shape, device) - 1) / math.sqrt(layer.weight[0].numel())
        on, away = (fixed_read(cell, part.cpu(), key.fold("read", side)).to(device) for side, part in enumerate((pairs.on, pairs.off)))
        mask = _largest(scores.abs(), round(keep * scores.numel()))
        return cls(pairs, on, away, scale, scores.requires_grad_(), mask, scores.detach().abs().clone())

    def weight(self) -> Tensor:
        """Return the weight as the fixed read sees it; its gradient reaches the scores' magnitudes."""
        magnitude = self.scores.abs()
        kept = self.mask.to(magnitude.dtype) + (magnitude - magnitude.detach())
        return self.scale * (self.off + kept * (self.on - self.off))


def _update(edges: Mapping[str, _Edges], keep: float, scope: Scope, limit: float) -> int:
    """Set the masks anew; returns how many bits changed."""
    with torch.no_grad():
        if scope == "global":
            ranged = [one.scores.abs() * math.sqrt(one.scores[0].numel()) for one in edges.values()]
            flat = torch.cat([part.flatten() for part in ranged])
            wanted = _largest(flat, round(keep * flat.numel()))
            parts = wanted.split([part.numel() for part in ranged])
            masks = [part.reshape(one.scores.shape) for part, one in zip(parts, edges.values(), strict=True)]
        else:
            masks = [_largest(one.scores.abs(), round(keep * one.scores.numel())) for one in edges.values()]
        flips = 0
        for one, mask in zip(edges.values(), masks, strict=True):
            magnitude = one.scores.abs()
            changed = mask != one.mask
            if limit > 0:
                changed &= (magnitude - one.set_at).abs() >= limit * one.set_at
            one.mask = one.mask ^ changed
            one.set_at = torch.where(changed, magnitude, one.set_at)
            flips += int(changed.sum())
    return flips


def _largest(values: Tensor, count: int) -> Tensor:
    """Return a mask of the `count` largest elements, at least one; ties go to the first."""
    flat = values.detach().flatten()
    chosen = torch.zeros_like(flat, dtype=torch.bool)
    chosen[torch.topk(flat, max(1, min(count, flat.numel()))).indices] = True
    return chosen.reshape(values.shape)


def _settle(chip: Chip, layers: Mapping[str, CrossbarLayer], edges: Mapping[str, _Edges], seed: int) -> None:
    """Leave the chip with its cells as they are: on or off."""
    with torch.no_grad():
        for name, layer in layers.items():
            one = edges[name]
            standing = one.pairs.standing(one.mask)
            layer.treatment = FormedCells(standing)
            assert layer.master is not None
            layer.master.copy_(one.scale * (standing[0, 0] - standing[0, 1]))
    chip.eval()
    chip.program(seed)


def _detached(outputs: Any) -> Any:
    return outputs.detach() if isinstance(outputs, Tensor) else outputs


def _shuffled(loader: Any, batch_size: int, seed: int) -> "RepeatableBatches | _Epochs":
    """Return data in a new order each epoch where they are tensors; a loader keeps its own."""
    from torch.utils.data import TensorDataset

    from simulator.data import Batches

    pair = loader.tensors if isinstance(loader, TensorDataset) else loader
    if isinstance(pair, tuple | list) and len(pair) == 2 and all(isinstance(part, Tensor) for part in pair) and len(pair[0]):
        return _Epochs(Batches(pair[0], pair[1], batch_size, seed=seed))
    return RepeatableBatches(loader, batch_size=batch_size, seed=seed, name="loader")


class _Epochs:
    """`Batches` as `Batch`, in a new order each time they are gone through."""

    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def __iter__(self) -> Any:
        return (Batch((inputs,), {}, targets) for inputs, targets in self.batches)


def _number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _check_descent(learning_rate: Any, momentum: Any, weight_decay: Any) -> None:
    if not _number(learning_rate) or not 0 < learning_rate < math.inf:
        raise ValueError(f"Argument `learning_rate` must be positive and finite, but got {learning_rate!r}; 0.1 is usual")
    for name, value, highest in (("momentum", momentum, 1.0), ("weight_decay", weight_decay, math.inf)):
        if not _number(value) or not 0 <= value < highest:
            raise ValueError(f"Argument `{name}` must be at least 0 and below {highest:g}, but got {value!r}")


def _check_arguments(keep: Any, hysteresis: Any, epochs: Any, scope: Any, off: Any, bits: Any) -> None:
    if not _number(keep) or not 0 < keep <= 1:
        raise ValueError(f"Argument `keep` must be above 0 and at most 1, but got {keep!r}; 0.5 keeps every other edge")
    if not _number(hysteresis) or not 0 <= hysteresis < math.inf:
        raise ValueError(f"Argument `hysteresis` must be a finite number of at least 0, but got {hysteresis!r}; 0 is none")
    if not isinstance(epochs, int) or isinstance(epochs, bool) or epochs < 1:
        raise ValueError(f"Argument `epochs` must be an integer of at least 1, but got {epochs!r}")
    for name, value, allowed in (("scope", scope, get_args(Scope)), ("off", off, get_args(Off))):
        if value not in allowed:
            raise ValueError(f"Argument `{name}` must be one of {', '.join(allowed)}, but got {value!r}")
    if bits is not None and (not isinstance(bits, int) or isinstance(bits, bool) or not 1 <= bits <= 16):
        raise ValueError(f"Argument `activation_bits` must be an integer from 1 to 16 or None, but got {bits!r}")
