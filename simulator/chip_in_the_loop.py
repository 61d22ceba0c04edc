"""Training with a chip in the loop: layer after layer is programmed, and those that follow learn what it does."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simulator._isolation import one_thread
from simulator.batches import split
from simulator.chip import Chip
from simulator.hardware import HardwareLayer, Mode
from simulator.measuring import require_chip
from simulator.training import Loss, fit


@dataclass(frozen=True)
class ProgressiveTuning:
    """What `fine_tune_progressively` did.

    Attributes
    ----------
    order
        The layers in the order in which they were programmed.
    losses
        Mean training loss of each epoch after each programming but the last.
    """

    order: tuple[str, ...]
    losses: tuple[tuple[float, ...], ...]


def fine_tune_progressively(
    chip: Chip,
    loader: Iterable[Any],
    *,
    epochs: int = 1,
    learning_rate: float = 1e-3,
    seed: int = 0,
    trial: int = 0,
    weight_decay: float = 0.01,
    loss: Loss = F.cross_entropy,
    after_layer: Callable[[str], object] | None = None,
) -> ProgressiveTuning:
    """Program a chip layer by layer, and train the layers that are not programmed yet on what the programmed ones really give.

    The first layer that the model calls is programmed and stays as it is; the others, still in float, are trained with the chip's
    own outputs as their inputs; then the second is programmed, and so on. Errors of programming, faults and converters of each
    layer are so learned by those behind it. Biases are digital and go on learning after their layer is programmed. It is the chip-in-the-
    loop progressive fine-tuning of wan2022compute in the bibliography, and works on a chip in this process and elsewhere; gradients pass
    the programmed layers by their model, which elsewhere is the masters, so the two learn alike but not the same bits.

    Parameters
    ----------
    chip
        The chip; its masters are trained in place, and it is left programmed, in eval mode.
    loader
        As for `fit`.
    epochs
        How often the data is gone through after each layer's programming.
    learning_rate, weight_decay, loss
        As for `fit`, anew for each layer.
    seed, trial
        Name the programmed instance, and seed what `fit` seeds.
    after_layer
        Called with the layer's name when it is programmed and the others are trained.

    Returns
    -------
    ProgressiveTuning
        Order and losses.

    Raises
    ------
    ValueError
        As `fit` raises it, or where the chip calls no layer on hardware.

    Examples
    --------
    >>> import simulator as sim
    >>> from devices import RRAMCrossbar
    >>> from simulator.data import Batches
    >>> inputs = torch.linspace(-1, 1, 64)[:, None]
    >>> model = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))
    >>> chip = sim.compile(model, RRAMCrossbar.preset("wan_nature_2022"), example_inputs=inputs)
    >>> tuning = fine_tune_progressively(chip, Batches(inputs, inputs**2, 16, seed=0), epochs=2, loss=F.mse_loss)
    >>> tuning.order, len(tuning.losses)
    (('0', '2'), 1)
    """
    require_chip(chip)
    order = _call_order(chip, loader)
    layers = chip.layers
    trained = {name: parameter.requires_grad for name, parameter in chip.named_parameters()}
    losses = []
    try:
        for count, name in enumerate(order):
            layer = layers[name]
            layer.program(seed, trial)
            layer.weight.requires_grad_(False) if isinstance(layer.weight, nn.Parameter) else None
            behind = [layers[other] for other in order[count + 1 :]]
            if behind:
                with _in_float(behind):
                    programmed = [layers[other] for other in order[: count + 1]]
                    tuning = fit(
                        _PartlyProgrammed(chip, programmed),
                        loader,
                        epochs=epochs,
                        learning_rate=learning_rate,
                        seed=seed + count,
                        weight_decay=weight_decay,
                        loss=loss,
                    )
                losses.append(tuning.losses)
            if after_layer is not None:
                after_layer(name)
    finally:
        for name, parameter in chip.named_parameters():
            parameter.requires_grad_(trained[name])
        chip.eval()
    return ProgressiveTuning(tuple(order), tuple(losses))


class _PartlyProgrammed(nn.Module):
    """A chip in training whose programmed layers read what was programmed."""

    def __init__(self, chip: Chip, programmed: list[HardwareLayer]) -> None:
        super().__init__()
        self.chip = chip
        self._programmed = programmed

    def train(self, mode: bool = True) -> "_PartlyProgrammed":
        super().train(mode)
        for layer in self._programmed:
            layer.eval()
        return self

    def forward(self, *inputs: Any, **keywords: Any) -> Any:
        return self.chip(*inputs, **keywords)


@contextmanager
def _in_float(layers: Iterable[HardwareLayer]) -> Iterator[None]:
    chosen = list(layers)
    for layer in chosen:
        layer.mode = Mode.FLOAT
    try:
        yield
    finally:
        for layer in chosen:
            layer.mode = Mode.HARDWARE


def _call_order(chip: Chip, loader: Iterable[Any]) -> list[str]:
    """Return the layers in the order in which the model calls them for the first batch."""
    batch = split(next(iter(loader))).to(next(chip.parameters()).device)
    order: dict[str, None] = {}

    def note(module: nn.Module, inputs: tuple[Any, ...], outputs: Tensor) -> None:
        assert isinstance(module, HardwareLayer)
        order.setdefault(module.name)

    handles = [layer.register_forward_hook(note) for layer in chip.layers.values()]
    try:
        with chip.reference(), torch.no_grad(), one_thread():
            chip(*batch.inputs, **batch.keywords)
    finally:
        for handle in handles:
            handle.remove()
    if not order:
        raise ValueError("Argument `chip` must call layers on hardware for the first batch of `loader`, but called none")
    return list(order)
