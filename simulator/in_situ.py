"""Training in the array: gradients from what was programmed, and a new programming of every cell after each step."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from kernels.random import Key, bits
from simulator._isolation import one_thread
from simulator.batches import RepeatableBatches
from simulator.chip import Chip
from simulator.progress import track
from simulator.weight_ranking import resistive_layers

UPDATES_PER_VERIFICATION = 10
"""Updates of the whole array that take the write cycles of verifying every weight once."""


@dataclass(frozen=True)
class InSituTraining:
    """What `in_situ_training` did.

    Attributes
    ----------
    losses
        Loss of each step's batch, read from the array before the step.
    nwc
        Normalized write cycles: updates over 10.
    """

    losses: tuple[float, ...]
    nwc: float


def in_situ_training(
    chip: Chip,
    loader: Any,
    *,
    updates: int,
    learning_rate: float = 0.1,
    seed: int = 0,
    trial: int = 0,
    batch_size: int = 256,
    after: Callable[[int], None] | None = None,
    progress: bool | None = None,
) -> InSituTraining:
    """Train a chip in its arrays by stochastic gradient descent, each step writing every cell once more, without verifying.

    The outputs and the gradient come from the programmed instance; the step moves the master weights, and the whole array is
    programmed to them with noise drawn anew. One such write counts as a tenth of a full write-verify: the fifth baseline of yan2022swim
    in the bibliography. The chip is left programmed, with the masters it was trained to.

    Parameters
    ----------
    chip
        A chip with resistive cells; trained in place.
    loader
        Batches of (inputs, targets); gone through again and again. The loss is the cross entropy.
    updates
        Steps, at least 1.
    learning_rate
        Of plain stochastic gradient descent.
    seed, trial
        Of the instance: step n is programmed from a seed of its own, made of these and n.
    batch_size
        Batch size for a data set or a pair of tensors.
    after
        Called after each step, with the number of steps done; the chip is in eval mode then, and may be read.
    progress
        Show a progress bar; by default on a terminal.

    Raises
    ------
    ValueError
        If an argument is out of range, the data are empty or the loss stops being finite.

    Examples
    --------
    >>> import simulator as sim
    >>> from devices import RRAMCrossbar
    >>> model, x = torch.nn.Linear(16, 4), torch.rand(64, 16, generator=torch.Generator().manual_seed(0))
    >>> _ = torch.nn.init.zeros_(model.weight)
    >>> chip = sim.compile(model, RRAMCrossbar.preset("wan_nature_2022"), example_inputs=x)
    >>> training = in_situ_training(chip, (x, torch.zeros(64, dtype=torch.long)), updates=5)
    >>> training.losses[-1] < training.losses[0], training.nwc
    (True, 0.5)
    """
    resistive_layers(chip)
    if not isinstance(updates, int) or isinstance(updates, bool) or updates < 1:
        raise ValueError(f"Argument `updates` must be an integer of at least 1, but got {updates!r}")
    if not (isinstance(learning_rate, int | float) and 0 < learning_rate < math.inf):
        raise ValueError(f"Argument `learning_rate` must be positive and finite, but got {learning_rate!r}")
    data = RepeatableBatches(loader, batch_size=batch_size, seed=seed, name="loader")
    parameters = [parameter for parameter in chip.parameters() if parameter.requires_grad]
    device = parameters[0].device
    losses: list[float] = []
    batches = iter(data)
    training = chip.training
    chip.eval()
    try:
        with one_thread():
            chip.program(_seed_of(seed, trial, 0), trial)
            for step in track(range(updates), updates, "updates", progress):
                batch = next(batches, None)
                if batch is None:
                    batches = iter(data)
                    batch = next(batches)
                there = batch.to(device)
                if there.targets is None:
                    raise ValueError("Argument `loader` must yield (inputs, targets), but its batches have no targets")
                value = functional.cross_entropy(chip(*there.inputs, **there.keywords), there.targets)
                number = float(value.detach())
                if not math.isfinite(number):
                    raise ValueError(
                        f"Argument `learning_rate` must keep the loss finite, but with {learning_rate} it is {number}; lower it"
                    )
                losses.append(number)
                gradients = torch.autograd.grad(value, parameters, allow_unused=True)
                with torch.no_grad():
                    for parameter, gradient in zip(parameters, gradients, strict=True):
                        if gradient is not None:
                            parameter.sub_(learning_rate * gradient)
                chip.program(_seed_of(seed, trial, step + 1), trial)
                if after is not None:
                    after(step + 1)
    finally:
        chip.train(training)
    return InSituTraining(tuple(losses), updates / UPDATES_PER_VERIFICATION)


def _seed_of(seed: int, trial: int, step: int) -> int:
    """Return the seed of a step's programming."""
    return int(bits(Key.of(seed=seed, trial=trial, tile=step, purpose="in-situ training"), 1)[0])
