"""Training in the array by pulses: gradients from what the cells give, and a budget of pulses that move them."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from devices.rram import PulseUpdate
from simulator._isolation import one_thread
from simulator.batches import RepeatableBatches
from simulator.chip import Chip
from simulator.hardware import HardwareLayer
from simulator.lowering.crossbar import CrossbarLayer
from simulator.lowering.remote import RemoteLayer
from simulator.measuring import require_chip
from simulator.progress import track
from simulator.training import Loss

_MOST = 2**53
"""Largest count that every number on the way holds exactly."""


@dataclass(frozen=True)
class PulseTraining:
    """What `train_with_pulses` did.

    Attributes
    ----------
    losses
        Mean loss of each epoch, read from the cells before each step.
    pulses
        Pulses that were sent, by layer.
    exhausted
        Whether the budget ended before the epochs did.
    """

    losses: tuple[float, ...]
    pulses: dict[str, int]
    exhausted: bool


def train_with_pulses(
    chip: Chip,
    loader: Any,
    *,
    epochs: int,
    pulses: int | None = None,
    learning_rate: float = 0.05,
    seed: int = 0,
    trial: int = 0,
    batch_size: int = 64,
    loss: Loss = F.cross_entropy,
    progress: bool | None = None,
) -> PulseTraining:
    """Train the cells of one programmed instance where they are: no cell is programmed anew, each is moved by pulses.

    Outputs come from the programmed instance, and so do gradients in this process. What a served chip's cells became is not known
    here: gradients are then those of its model, the masters and what the pulses since should have changed. What plain stochastic
    gradient descent would change is added up digitally for each weight, and sent as whole pulses as soon as it is worth one, so that a
    change smaller than a pulse is kept and not lost; this is the mixed-precision scheme of nandakumar2020mixed in the bibliography.
    Biases are digital and follow the gradient at once. The law of a pulse, with its nonlinearity, asymmetry, saturation and noise, is
    the cell's `pulse_law`; faults do not move.

    Parameters
    ----------
    chip
        A chip of crossbars with analog cells, in this process or served by another. What is learned is in its cells, which ``state_dict``
        keeps; the masters stay as they were, and programming anew starts from them.
    loader
        Batches of inputs and targets.
    epochs
        How often the data is gone through; a loader with a method ``set_epoch`` is told the epoch.
    pulses
        Most pulses in all, up to 2**53; None sets no limit. In one step a cell gets no more than cross its range. Where a step would
        take more than are left, the largest changes go first.
    learning_rate
        Of the descent.
    seed, trial
        Name the programmed instance and the noise of the pulses.
    batch_size
        Of a data set or a pair of tensors.
    loss
        Of outputs and targets of a batch, a scalar.
    progress
        Show a progress bar; by default on a terminal.

    Returns
    -------
    PulseTraining
        Losses and pulses.

    Raises
    ------
    ValueError
        Where an argument is out of range, a layer's weights lie in slices or on hardware without pulses, a cell has no `pulse_law`, or
        the loss or a gradient stops being finite.

    Examples
    --------
    >>> import simulator as sim
    >>> from devices import RRAMCrossbar
    >>> law = {"type": "devices.rram.pulse_update:PulseUpdate", "potentiation_pulses": 200, "depression_pulses": 200}
    >>> design = RRAMCrossbar.preset("wan_nature_2022", cell={"pulse_law": law})
    >>> x = torch.rand(64, 16)
    >>> chip = sim.compile(torch.nn.Linear(16, 4), design, example_inputs=x)
    >>> training = train_with_pulses(chip, (x, torch.zeros(64, dtype=torch.long)), epochs=4, pulses=5000)
    >>> training.losses[-1] < training.losses[0], training.pulses["model"] <= 5000
    (True, True)
    """
    for name, value in (("epochs", epochs), *(() if pulses is None else (("pulses", pulses),))):
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MOST:
            raise ValueError(f"Argument `{name}` must be an integer from 1 to 2**53, but got {value!r}")
    if not (isinstance(learning_rate, int | float) and 0 < learning_rate < math.inf):
        raise ValueError(f"Argument `learning_rate` must be positive and finite, but got {learning_rate!r}")
    require_chip(chip)
    layers = chip.layers
    for layer in layers.values():
        require_pulses(layer)
    data = RepeatableBatches(loader, batch_size=batch_size, seed=seed, name="loader")
    weights = {name: layer.weight for name, layer in layers.items()}
    owed = {name: torch.zeros_like(weight, requires_grad=False) for name, weight in weights.items()}
    sent = dict.fromkeys(layers, 0)
    masters = {id(weight) for weight in weights.values()}
    others = [parameter for parameter in chip.parameters() if parameter.requires_grad and id(parameter) not in masters]
    losses: list[float] = []
    step, exhausted = 0, False
    chip.eval()
    with one_thread():
        chip.program(seed, trial)
        for epoch in track(range(epochs), epochs, "epochs", progress):
            total, samples = 0.0, 0
            data.set_epoch(epoch)
            for batch in _batches(data, next(iter(weights.values())).device):
                step += 1
                value = loss(chip(*batch.inputs, **batch.keywords), batch.targets)
                number = float(value.detach())
                if not math.isfinite(number):
                    raise ValueError(
                        f"Argument `learning_rate` must keep the loss finite, but with {learning_rate} it is {number}; lower it"
                    )
                gradients = torch.autograd.grad(value, [*weights.values(), *others], allow_unused=True)
                count = 0 if batch.targets is None else len(batch.targets)
                total, samples = total + number * count, samples + count
                with torch.no_grad():
                    for (name, layer), gradient in zip(layers.items(), gradients, strict=False):
                        if gradient is None:
                            continue
                        owed[name] -= learning_rate * gradient
                        if not bool(owed[name].isfinite().all()):
                            raise ValueError(
                                f"Argument `learning_rate` must keep every change finite, but with {learning_rate} one of layer "
                                f"`{name}` is not; lower it"
                            )
                        left = None if pulses is None else pulses - sum(sent.values())
                        spent, owed[name] = nudge(layer, owed[name], left, step)
                        sent[name] += spent
                    for parameter, gradient in zip(others, gradients[len(weights) :], strict=True):
                        if gradient is not None:
                            parameter.sub_(learning_rate * gradient)
                exhausted = pulses is not None and sum(sent.values()) >= pulses
                if exhausted:
                    break
            losses.append(total / max(1, samples))
            if exhausted:
                break
    return PulseTraining(tuple(losses), sent, exhausted)


def _batches(data: RepeatableBatches, device: torch.device) -> Iterable[Any]:
    for batch in data:
        there = batch.to(device)
        if there.targets is None:
            raise ValueError("Argument `loader` must yield (inputs, targets), but its batches have no targets")
        yield there


def require_pulses(layer: HardwareLayer) -> None:
    """Refuse a layer whose cells pulses cannot move.

    Examples
    --------
    >>> import simulator as sim
    >>> from devices import RRAMCrossbar
    >>> chip = sim.compile(torch.nn.Linear(4, 2), RRAMCrossbar.preset("milo_irps_2021"), example_inputs=torch.rand(1, 4))
    >>> require_pulses(chip.layers["model"])
    Traceback (most recent call last):
    ValueError: Layer `model`: its cell must have a `pulse_law` to be moved by pulses, but has none; ...
    """
    if isinstance(layer, RemoteLayer):
        return  # what it is made of is known there, and refused there
    if not isinstance(layer, CrossbarLayer):
        raise ValueError(f"Layer `{layer.name}`: it must lie on a crossbar to be moved by pulses, but lies on {layer.placement.hardware}")
    if layer.design.mapping.weight_bits is not None or layer.design.mapping.crosspoints != 2:
        raise ValueError(f"Layer `{layer.name}`: its weights must lie in analog pairs of cells to be moved by pulses, but lie otherwise")
    if layer.remapping is not None or layer.treatment is not None:
        raise ValueError(f"Layer `{layer.name}`: it must be mapped plainly to be moved by pulses, but is remapped or treated")
    if not isinstance(layer.design.cell.pulse_law, PulseUpdate):
        raise ValueError(
            f"Layer `{layer.name}`: its cell must have a `pulse_law` to be moved by pulses, but has none; "
            "give one: design.replace(cell={'pulse_law': PulseUpdate(...)})"
        )


@singledispatch
def nudge(layer: HardwareLayer, change: Tensor, most: int | None, step: int) -> tuple[int, Tensor]:
    """Move a layer's cells by the whole pulses that a change of its weights is worth.

    Parameters
    ----------
    layer
        A programmed layer.
    change
        What the weights should change by, of their shape.
    most
        Most pulses to send, the largest changes first; None sets no limit.
    step
        Number of the update, which keys the noise of the pulses.

    Returns
    -------
    tuple of int and Tensor
        Pulses sent, and what is left of the change.
    """
    require_pulses(layer)
    raise TypeError(f"Argument `layer` must be a layer that pulses can move, but got {type(layer).__name__}")


@nudge.register
def _(layer: CrossbarLayer, change: Tensor, most: int | None, step: int) -> tuple[int, Tensor]:
    require_pulses(layer)
    if layer.cells is None:
        raise ValueError(f"Layer `{layer.name}`: it must be programmed before pulses move it, but is not; call program()")
    cell = layer.design.cell
    law = cell.pulse_law
    assert isinstance(law, PulseUpdate)
    mapped = layer.design.mapping.map(layer.weight.detach(), cell, layer.references)
    unit = mapped.unit if isinstance(mapped.unit, Tensor) else torch.tensor(mapped.unit)
    per_siemens = float(mapped.codes_per_siemens[0])
    wanted = (change / unit / per_siemens).unsqueeze(0)
    cells = layer.cells.conductance
    span = cell.g_max_siemens - cell.g_min_siemens
    steps = torch.tensor([span / law.potentiation_pulses, span / law.depression_pulses], device=cells.device)
    # A pair's conducting cell carries the change; the other one takes over when a weight changes its sign.
    plus_carries = cells[:, 0] - cells[:, 1] + wanted >= 0
    for_cells = torch.stack([torch.where(plus_carries, wanted, 0.0), torch.where(plus_carries, 0.0, -wanted)], dim=1)
    # More pulses than cross the range would find the cell at its end; what is left is still owed.
    pulses = torch.where(
        for_cells > 0,
        (for_cells / steps[0]).clamp(max=law.potentiation_pulses),
        (for_cells / steps[1]).clamp(min=-law.depression_pulses),
    )
    pulses = pulses.trunc().to(torch.int32)
    if most is not None and int(pulses.abs().sum()) > most:
        pulses = _largest(pulses, most)
    layer.pulse(pulses, step)
    nominal = torch.where(pulses > 0, pulses * steps[0], pulses * steps[1])
    moved = (nominal[:, 0] - nominal[:, 1]).squeeze(0) * per_siemens * unit
    return int(pulses.abs().sum()), change - moved


@nudge.register
def _(layer: RemoteLayer, change: Tensor, most: int | None, step: int) -> tuple[int, Tensor]:
    return layer.nudge(change, most, step)


def _largest(pulses: Tensor, most: int) -> Tensor:
    """Return the pulses of the cells that get most of them, as many as may be sent; the last of them gets what is left."""
    flat = pulses.flatten()
    order = flat.abs().argsort(descending=True, stable=True)
    wanted = flat[order].abs()
    given = torch.minimum(wanted, (most - (wanted.cumsum(0) - wanted)).clamp(min=0))
    kept = torch.zeros_like(flat)
    kept[order] = (flat[order].sign() * given).to(flat.dtype)
    return kept.reshape(pulses.shape)
