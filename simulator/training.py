"""An ordinary training loop that can be killed and taken up again, for a plain model and for a chip alike."""

import hashlib
import math
import os
import pickle
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.random import Key
from simulator._isolation import one_thread, private_generator
from simulator.batches import split

Loss = Callable[[Any, Any], Tensor]
"""Outputs and targets of a batch -> its mean loss, a scalar."""
Progress = Callable[[int, int, float], object]
"""Called after each batch: batches done, batches in all, loss of this batch."""

FORMAT = 1
WARM_UP = 0.1
"""Share of the steps over which the learning rate rises; then it falls along half a cosine."""


@dataclass(frozen=True)
class Training:
    """What a call of `fit` did.

    Attributes
    ----------
    losses
        Mean training loss of each epoch, in the unit of the loss.
    resumed_at
        Epochs that a checkpoint already held when the call began; 0 without one.
    """

    losses: tuple[float, ...]
    resumed_at: int


def fit(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    epochs: int,
    learning_rate: float = 4e-3,
    seed: int = 0,
    weight_decay: float = 0.01,
    loss: Loss = F.cross_entropy,
    checkpoint: Path | str | None = None,
    progress: Progress | None = None,
) -> Training:
    """Train a model, or a chip, in place: AdamW with a warm-up and a cosine schedule, on one thread.

    Equal arguments give equal bits. Randomness of the model's own (dropout) and of the loader's (a shuffling ``DataLoader``) is
    drawn from torch's global generators, which are seeded from `seed` and the epoch for the time of the call and restored after it.

    Parameters
    ----------
    model
        Any module with parameters to train. It is in evaluation mode afterwards.
    loader
        Batches ``(inputs, targets)``, ``(input, input, ..., targets)`` or mappings with ``labels`` or ``targets``, iterated over
        once an epoch; they are moved to the device of the model. A loader with a method ``set_epoch``, as `Batches` has, is
        told the epoch.
    epochs
        How often the data is gone through.
    learning_rate
        The largest of the schedule.
    seed
        Of the global generators, as above.
    weight_decay
        Of AdamW.
    loss
        Of outputs and targets of a batch, a scalar.
    checkpoint
        File to write after each epoch, and to go on from if it is there: the result is that of an unbroken run, bit for bit. It is
        written under a temporary name and renamed.
    progress
        Called after each batch with the batches done, the batches in all and the loss.

    Returns
    -------
    Training
        The loss of each epoch.

    Raises
    ------
    ValueError
        When an argument is out of range, the loader is empty or cannot be iterated over again, the loss stops being finite, or
        the checkpoint is of another run.

    References
    ----------
    I. Loshchilov and F. Hutter, Decoupled Weight Decay Regularization, ICLR 2019.

    Examples
    --------
    >>> from simulator.data import Batches
    >>> inputs = torch.linspace(-1, 1, 64)[:, None]
    >>> model = nn.Linear(1, 1)
    >>> training = fit(model, Batches(inputs, 3 * inputs, 16, seed=0), epochs=50, learning_rate=0.3, loss=F.mse_loss)
    >>> len(training.losses), training.losses[-1] < 0.01
    (50, True)
    """
    _check_positive("epochs", epochs)
    _check_positive("learning_rate", learning_rate)
    batches = _count(loader)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError("Argument `model` must have parameters to train, but none requires a gradient; call requires_grad_() on some")
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay)
    settings = {
        "epochs": epochs, "learning_rate": learning_rate, "seed": seed, "weight_decay": weight_decay, "batches": batches,
        "initial weights": _fingerprint(model),
    }  # fmt: skip
    path = None if checkpoint is None else Path(checkpoint)
    losses = _resume(path, settings, model, optimizer) if path is not None and path.exists() else []
    resumed_at = len(losses)
    with one_thread():
        for epoch in range(resumed_at, epochs):
            with private_generator(Key.of(seed=seed, purpose="training", read=epoch)):
                losses.append(_train_epoch(model, loader, optimizer, loss, learning_rate, (epoch, epochs, batches), progress))
            if path is not None:
                _save(
                    path,
                    {
                        "format": FORMAT,
                        "settings": settings,
                        "losses": losses,
                        "model": model.state_dict(),
                        "optimizer": optimizer.state_dict(),
                    },
                )
    model.eval()
    return Training(tuple(losses), resumed_at)


def _train_epoch(
    model: nn.Module,
    loader: Iterable[Any],
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    learning_rate: float,
    place: tuple[int, int, int],
    progress: Progress | None,
) -> float:
    epoch, epochs, batches = place
    model.train()
    device = next(model.parameters()).device
    if hasattr(loader, "set_epoch"):
        loader.set_epoch(epoch)
    total, samples = 0.0, 0
    for index, item in enumerate(loader):
        batch, step = split(item).to(device), epoch * batches + index
        if batch.targets is None:
            raise ValueError("Argument `loader` must yield inputs and targets, but got inputs alone; yield (inputs, targets)")
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * _schedule(step / (epochs * batches))
        optimizer.zero_grad()
        value = loss(model(*batch.inputs, **batch.keywords), batch.targets)
        number = float(value.detach())
        if not math.isfinite(number):
            raise ValueError(
                f"Argument `learning_rate` must keep the loss finite, but with {learning_rate} it is {number} in epoch {epoch + 1}; "
                "lower it, or look for inputs or weights that are not finite"
            )
        value.backward()
        optimizer.step()
        total, samples = total + number * len(batch.targets), samples + len(batch.targets)
        if progress is not None:
            progress(step + 1, epochs * batches, number)
    return total / samples


def _schedule(share: float) -> float:
    """Learning rate, relative to the largest, when this `share` of the steps is done."""
    if share < WARM_UP:
        return 0.1 + 0.9 * share / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * (share - WARM_UP) / (1 - WARM_UP)))


def _count(loader: Iterable[Any]) -> int:
    if iter(loader) is loader:
        raise ValueError(
            f"Argument `loader` must be something to iterate over in every epoch, but got a {type(loader).__name__}, which ends after one; "
            "pass a list, `Batches` or a DataLoader"
        )
    batches = len(loader) if isinstance(loader, Sized) else sum(1 for _ in loader)
    if batches == 0:
        raise ValueError("Argument `loader` must have at least one batch, but it is empty; check the data set and the batch size")
    return batches


def _fingerprint(model: nn.Module) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, parameter in model.named_parameters():
        digest.update(f"{name} {parameter.dtype} {tuple(parameter.shape)}".encode())
        digest.update(parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _resume(path: Path, settings: dict[str, Any], model: nn.Module, optimizer: torch.optim.Optimizer) -> list[float]:
    """Put the state of the last finished epoch into `model` and `optimizer`, and return the losses so far."""
    remedy = "delete the file to start over, or name another"
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        found = dict(saved["settings"]) if saved["format"] == FORMAT else {}
        losses = [float(value) for value in saved["losses"]]
    except (OSError, EOFError, KeyError, TypeError, ValueError, RuntimeError, pickle.UnpicklingError) as error:
        raise ValueError(f"Argument `checkpoint` must be a file that `fit` wrote, but {str(path)!r} is not; {remedy}") from error
    for name, value in settings.items():
        if found.get(name) != value:
            raise ValueError(
                f"Argument `checkpoint` must be of the same run, but {str(path)!r} has {name} {found.get(name)} "
                f"and this run has {value}; {remedy}"
            )
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    return losses


def _save(path: Path, state: dict[str, Any]) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _check_positive(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"Argument `{name}` must be positive, but got {value}; use the default or a small positive number")
