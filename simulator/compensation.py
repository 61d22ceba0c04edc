"""What is done about errors after fabrication: outputs moved away from stuck cells, and statistics of batch norm restored."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from simulator._isolation import one_thread
from simulator.batches import Batch
from simulator.chip import Chip
from simulator.diagnosis.probing import calls_heard, inputs_of
from simulator.folding import NORMS
from simulator.hardware import HardwareLayer, Mode, in_mode
from simulator.lowering import CrossbarLayer
from simulator.lowering.remapping import ColumnRemapping
from simulator.measuring import require_chip

_FOLDED = "folded into "


def remap(chip: Chip, data: Any = None, *, batch_size: int = 256) -> pd.DataFrame:
    """Let outputs of crossbar layers change places at each programming, so that stuck cells hit the weights that they harm least.

    A test of each fabricated chip is taken to tell which cells are stuck (`StuckCells` of the design). The order of the outputs of a layer
    that gives the least sum of squared errors is found exactly; with `data` each row counts by the mean square of its inputs in the float
    network. All row tiles of a layer take one order, groups keep their outputs, reference columns stay. Programs the chip again, with the
    seed and trial that it has.

    Parameters
    ----------
    chip
        From `simulator.compile`; changed in place: `evaluate` and the others then remap every chip that they program.
    data
        A loader, data set, batches or a tensor of inputs; targets are ignored. None counts all rows alike.
    batch_size
        Batch size for data that are not batched yet.

    Returns
    -------
    pandas.DataFrame
        A row per layer, for the instance that is programmed: ``layer``, ``stuck`` (cells of weights), and the error of the outputs that
        stuck cells cause, over the outputs, before and after: ``error_before``, ``error_after``.

    Raises
    ------
    ValueError
        If no layer lies on a crossbar with stuck cells, or a layer's cells were treated one by one.

    Examples
    --------
    >>> import simulator as sim
    >>> from devices import RRAMCrossbar, StuckCells
    >>> design = RRAMCrossbar.preset("wan_nature_2022", stuck=StuckCells(stuck_on_rate=0.02))
    >>> chip = sim.compile(torch.nn.Linear(32, 16), design, example_inputs=torch.rand(2, 32))
    >>> table = remap(chip)
    >>> bool((table["error_after"] < table["error_before"]).all())
    True
    """
    require_chip(chip)
    layers = {name: layer for name, layer in chip.layers.items() if isinstance(layer, CrossbarLayer) and layer.design.stuck is not None}
    if not layers:
        raise ValueError("Argument `chip` must have crossbars with stuck cells, but has none; give the design stuck=StuckCells(...)")
    for name, layer in layers.items():
        if layer.treatment is not None:
            raise ValueError(
                f"Layer `{name}`: outputs must be remapped before single cells are treated, but some were; compile again, remap, then treat"
            )
    squares = {} if data is None else _mean_squares(chip, inputs_of(data, batch_size))
    rows = []
    for name, layer in layers.items():
        layer.remapping = ColumnRemapping(squares.get(name))
        seed, trial = layer.instance
        layer.program(seed, trial)
        rows.append({"layer": name, **_gain(layer, layer.remapping, seed, trial)})
    return pd.DataFrame(rows)


def _gain(layer: CrossbarLayer, remapping: ColumnRemapping, seed: int, trial: int) -> dict[str, float]:
    costs = remapping.costs(layer, seed, trial)
    groups = layer.operator.groups
    power = layer.weight.detach().double().reshape(groups, -1, layer.weight[0].numel()).square()
    weights = torch.ones_like(power[:, 0]) if remapping.importance is None else remapping.importance.to(power)
    total = float((power * weights.unsqueeze(1)).sum()) or math.inf
    if costs is None:
        return {"stuck": 0, "error_before": 0.0, "error_after": 0.0}
    each = costs.shape[1]
    order = torch.arange(groups * each, device=costs.device) if layer.order is None else layer.order
    places = torch.arange(each, device=costs.device)
    after = sum(float(costs[group][order[group * each : (group + 1) * each] - group * each, places].sum()) for group in range(groups))
    before = float(costs.diagonal(dim1=1, dim2=2).sum())
    assert layer.design.stuck is not None
    shape = tuple(layer.conductance.shape)
    faults = layer.design.stuck.draw(shape, layer.standing_key(seed, trial).fold("stuck"))
    return {
        "stuck": int((faults[:, :, : layer.weight.shape[0]] != 0).sum()),
        "error_before": math.sqrt(before / total),
        "error_after": math.sqrt(after / total),
    }


def _mean_squares(chip: Chip, batches: Iterable[Batch]) -> dict[str, Tensor]:
    """Return the mean square of the input of each row in the float network, (groups, rows), by layer; border effects left out."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def hear(layer: HardwareLayer, inputs: Tensor, outputs: Tensor) -> None:
        axis = inputs.dim() - 1 - layer.operator.dimensions
        squares = inputs.double().square().movedim(axis, 0).flatten(1)
        sums[layer.name] = sums.get(layer.name, torch.zeros_like(squares[:, 0])) + squares.sum(1)
        counts[layer.name] = counts.get(layer.name, 0) + squares.shape[1]

    _pass_through(chip, batches, hear, Mode.FLOAT)
    found = {}
    for name, total in sums.items():
        layer = chip.layers[name]
        by_group = (total / max(1, counts[name])).reshape(layer.operator.groups, -1)
        found[name] = by_group.repeat_interleave(layer.weight[0, 0].numel(), dim=1)
    return found


def recalibrate_batch_norm(chip: Chip, data: Any, *, batch_size: int = 256) -> pd.DataFrame:
    """Give the outputs of the programmed chip the statistics again that batch norm was trained with.

    A batch norm that was folded into its layer becomes scale and shift of each output on the digital side: chosen so that mean and
    standard deviation over the data are those of the float network, layer after layer, each with the layers before it corrected. One that
    was not folded takes the chip's own mean and variance. The correction belongs to the instance: programming drops it. For every chip of
    an evaluation: ``sim.evaluate(..., prepare=lambda chip: sim.recalibrate_batch_norm(chip, data))``.

    Parameters
    ----------
    chip
        From `simulator.compile`; changed in place; its first instance is programmed where there is none.
    data
        A loader, data set, batches or a tensor of inputs, at least two samples; targets are ignored.
    batch_size
        Batch size for data that are not batched yet.

    Returns
    -------
    pandas.DataFrame
        A row per layer: ``layer``, ``outputs``, ``scale_min``, ``scale_max``, and ``shift_rms``, the root mean square shift over the
        standard deviations of the outputs.

    Raises
    ------
    ValueError
        If the model has no batch norm.

    Examples
    --------
    >>> import simulator as sim
    >>> from devices import RRAMCrossbar
    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    >>> x = torch.rand(16, 1, 8, 8)
    >>> chip = sim.compile(model, RRAMCrossbar.preset("pcm_nandakumar_2019"), example_inputs=x, calibration=x).program(0).age(1e6)
    >>> recalibrate_batch_norm(chip, x)["layer"].tolist()
    ['0']
    """
    require_chip(chip)
    batches = list(inputs_of(data, batch_size))
    folded = _layers_with_batch_norm(chip)
    kept = [module for module in chip.model.modules() if isinstance(module, NORMS)]
    if not folded and not kept:
        raise ValueError("Argument `chip` must have batch norm, folded or not, but has none; there is nothing to recalibrate")
    was_training = chip.training
    chip.eval()
    ideal = _Statistics(folded)
    _pass_through(chip, batches, ideal.hear, Mode.FLOAT)
    rows = []
    for name in ideal.order:
        layer = chip.layers[name]
        layer.correct(None)
        actual = _Statistics({name})
        _pass_through(chip, batches, actual.hear, Mode.HARDWARE)
        (mean, deviation), (own_mean, own_deviation) = ideal.of(name), actual.of(name)
        usable = own_deviation > 1e-12 * own_deviation.max().clamp(min=1e-300)
        scale = torch.where(usable, deviation / own_deviation.where(usable, torch.ones_like(own_deviation)), torch.ones_like(deviation))
        shift = mean - scale * own_mean
        layer.correct(torch.stack((scale, shift)).to(layer.weight))
        relative = shift / deviation.clamp(min=1e-30)
        rows.append(
            {
                "layer": name,
                "outputs": len(scale),
                "scale_min": float(scale.min()),
                "scale_max": float(scale.max()),
                "shift_rms": float(relative.square().mean().sqrt()),
            }
        )
    if kept:
        _restart(chip, kept, batches)
    chip.train(was_training)
    return pd.DataFrame(rows, columns=["layer", "outputs", "scale_min", "scale_max", "shift_rms"])


def _layers_with_batch_norm(chip: Chip) -> set[str]:
    table = chip.coverage
    named = table.loc[table["kind"] == "batch norm", "hardware"].astype(str)
    return {text.removeprefix(_FOLDED) for text in named if text.startswith(_FOLDED)} & set(chip.layers)


def _pass_through(chip: Chip, batches: Iterable[Batch], hear: Any, mode: Mode) -> None:
    device = next(chip.parameters()).device
    with in_mode(chip, mode), calls_heard(chip, hear), torch.no_grad(), one_thread():
        for batch in batches:
            there = batch.to(device)
            chip(*there.inputs, **there.keywords)


def _restart(chip: Chip, norms: Sequence[nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d], batches: Iterable[Batch]) -> None:
    """Take mean and variance of batch norms anew from the chip's own outputs."""
    before = []
    for module in norms:
        before.append(module.momentum)
        # A buffer may still be that of the caller's model: the chip gets its own.
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            buffer = getattr(module, name)
            setattr(module, name, None if buffer is None else buffer.clone())
        module.reset_running_stats()
        module.momentum = None  # the plain mean over all batches
        module.train()
    try:
        _pass_through(chip, batches, lambda layer, inputs, outputs: None, Mode.HARDWARE)
    finally:
        for module, momentum in zip(norms, before, strict=True):
            module.momentum = momentum
            module.eval()


class _Statistics:
    """Mean and standard deviation of each output of some layers, in double precision; in the order in which they are called."""

    def __init__(self, names: set[str]) -> None:
        self.names = names
        self.order: list[str] = []
        self.sums: dict[str, tuple[int, Tensor, Tensor]] = {}

    def hear(self, layer: HardwareLayer, inputs: Tensor, outputs: Tensor) -> None:
        """Take note of what a layer gave."""
        if layer.name not in self.names:
            return
        axis = outputs.dim() - 1 - layer.operator.dimensions
        values = outputs.double().movedim(axis, 0).flatten(1)
        if layer.name not in self.sums:
            self.order.append(layer.name)
            self.sums[layer.name] = (0, torch.zeros_like(values[:, 0]), torch.zeros_like(values[:, 0]))
        count, total, squares = self.sums[layer.name]
        self.sums[layer.name] = (count + values.shape[1], total + values.sum(1), squares + values.square().sum(1))

    def of(self, name: str) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of each output."""
        count, total, squares = self.sums[name]
        mean = total / count
        return mean, (squares / count - mean.square()).clamp(min=0.0).sqrt()
