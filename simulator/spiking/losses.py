"""Losses of directly trained spiking networks, and a training loop that gives them the output of each step."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from simulator.batches import split
from simulator.spiking.neurons import LIF, unroll
from simulator.training import Training, fit

TimeLoss = Callable[[Tensor, Tensor], Tensor]
"""From outputs of shape (timesteps, batch, classes) and targets (batch,) to a scalar."""


def tet_loss(outputs: Tensor, targets: Tensor, *, weight: float = 0.05, level: float = 1.0) -> Tensor:
    """Return the loss of temporal efficient training: every step is taught, and kept near a level.

    ``(1 - weight) mean_t CE(O_t, y) + weight MSE(O, level)``.

    Parameters
    ----------
    outputs
        Unfired outputs of each step, shape (timesteps, batch, classes).
    targets
        Classes, shape (batch,).
    weight
        0 to 1: 0.05 for CIFAR, 1e-3 for ImageNet and event data in the paper.
    level
        The threshold of the neurons.

    Raises
    ------
    ValueError
        If a shape or the weight does not fit.

    References
    ----------
    S. Deng et al., Temporal efficient training of spiking neural network via gradient re-weighting, ICLR 2022, arXiv:2202.11946.

    Examples
    --------
    >>> import torch
    >>> round(float(tet_loss(torch.zeros(3, 2, 10), torch.tensor([1, 2]), weight=0.0)), 4)  # ln 10
    2.3026
    """
    _check(outputs, targets)
    if not 0 <= weight <= 1:
        raise ValueError(f"Argument `weight` must be from 0 to 1, but got {weight}; use 0.05")
    each = functional.cross_entropy(outputs.flatten(0, 1), targets.repeat(len(outputs)))
    return (1 - weight) * each + weight * (outputs - level).square().mean()


def mean_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the cross-entropy of the output averaged over time: the plain loss that TET is compared with.

    Parameters
    ----------
    outputs, targets
        As for `tet_loss`.

    Examples
    --------
    >>> import torch
    >>> round(float(mean_loss(torch.zeros(3, 2, 10), torch.tensor([1, 2]))), 4)
    2.3026
    """
    _check(outputs, targets)
    return functional.cross_entropy(outputs.mean(0), targets)


class Unrolled(nn.Module):
    """A model of single-step neurons as a module from inputs to the outputs of all steps, for any training loop.

    Parameters
    ----------
    model
        With `LIF` neurons.
    timesteps
        Steps of a constant input; None for trains of shape (batch, timesteps, ...).

    Examples
    --------
    >>> import torch
    >>> from simulator.spiking.neurons import LIF
    >>> Unrolled(nn.Sequential(nn.Linear(2, 3), LIF(), nn.Linear(3, 2)), 4)(torch.ones(5, 2)).shape
    torch.Size([4, 5, 2])
    """

    def __init__(self, model: nn.Module, timesteps: int | None = None) -> None:
        super().__init__()
        self.model = model
        self.timesteps = timesteps

    def forward(self, inputs: Tensor) -> Tensor:
        """Return outputs of shape (timesteps, batch, ...)."""
        return unroll(self.model, inputs, self.timesteps)


def train_spiking(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    timesteps: int | None = None,
    epochs: int,
    loss: TimeLoss = tet_loss,
    inherit: int | None = None,
    inherit_epochs: int = 0,
    learning_rate: float = 4e-3,
    seed: int = 0,
    progress: Any = None,
) -> tuple[Training, ...]:
    """Train a network of `LIF` neurons in place by back-propagation through time, first at few time steps if asked to.

    Time inheritance: most epochs run at `inherit` time steps, which is cheap, and the last ones at all of them.

    Parameters
    ----------
    model
        Called once a step.
    loader
        Batches (inputs, targets): inputs (batch, timesteps, ...) of whole trains, or (batch, ...) shown for `timesteps`.
    timesteps
        Steps of a constant input; None where inputs are trains.
    epochs
        Epochs at all time steps.
    loss
        Of outputs (timesteps, batch, classes) and targets: `tet_loss`, `mean_loss` or your own.
    inherit, inherit_epochs
        Time steps and epochs of the training before; of trains the first steps are shown.
    learning_rate, seed, progress
        As in `simulator.fit`.

    Returns
    -------
    tuple of Training
        Losses of each phase.

    Raises
    ------
    ValueError
        If `inherit` and `inherit_epochs` are not given together, a number is out of range, or the model has no `LIF` neurons.

    Examples
    --------
    >>> import torch
    >>> from simulator.data import Batches
    >>> from simulator.spiking.neurons import LIF
    >>> model = nn.Sequential(nn.Linear(2, 8), LIF(), nn.Linear(8, 2))
    >>> data = Batches(torch.eye(2).repeat(8, 1), torch.tensor([0, 1]).repeat(8), 8, seed=0)
    >>> (training,) = train_spiking(model, data, timesteps=4, epochs=30, learning_rate=0.05)
    >>> training.losses[-1] < training.losses[0]
    True
    """
    if (inherit is None) != (inherit_epochs == 0) or (inherit is not None and inherit < 1):
        raise ValueError(
            f"Arguments `inherit` and `inherit_epochs` must be given together and at least 1, but got {inherit} and {inherit_epochs}; "
            "give both or none"
        )
    if inherit is not None and timesteps is not None and inherit >= timesteps:
        raise ValueError(f"Argument `inherit` must be below `timesteps`, {timesteps}, but got {inherit}; inherit from fewer steps")
    if not callable(loss):
        raise ValueError(f"Argument `loss` must be a function of outputs and targets, but got {loss!r}; pass tet_loss or mean_loss itself")
    if not any(isinstance(module, LIF) for module in model.modules()):
        raise ValueError(f"Argument `model` must have LIF neurons, but {type(model).__name__} has none; put them in, or use simulator.fit")
    phases: list[Training] = []

    def phase(count: int, steps: int | None) -> None:
        cut = _First(loader, steps) if timesteps is None and steps is not None else loader
        shown = timesteps if timesteps is None or steps is None else steps
        options: dict[str, Any] = {"learning_rate": learning_rate, "seed": seed, "loss": loss, "progress": progress}
        phases.append(fit(Unrolled(model, shown), cut, epochs=count, **options))

    if inherit is not None:
        phase(inherit_epochs, inherit)
    phase(epochs, timesteps)
    return tuple(phases)


class _First:
    """The first steps of the trains of a loader."""

    def __init__(self, loader: Iterable[Any], steps: int) -> None:
        self.loader, self.steps = loader, steps

    def __iter__(self) -> Any:
        for item in self.loader:
            batch = split(item)
            yield batch.inputs[0][:, : self.steps], batch.targets

    def __len__(self) -> int:
        return len(self.loader)  # type: ignore[arg-type]

    def set_epoch(self, epoch: int) -> None:
        if hasattr(self.loader, "set_epoch"):
            self.loader.set_epoch(epoch)


def _check(outputs: Tensor, targets: Tensor) -> None:
    if outputs.dim() != 3 or targets.shape != outputs.shape[1:2]:
        raise ValueError(
            f"Arguments `outputs` and `targets` must have shapes (timesteps, batch, classes) and (batch,), but got {tuple(outputs.shape)} "
            f"and {tuple(targets.shape)}; pass what unroll returns"
        )
    classes = outputs.shape[2]
    if targets.is_floating_point() or (targets.numel() and not (0 <= int(targets.min()) and int(targets.max()) < classes)):
        given = f"{targets.dtype}" if targets.is_floating_point() else f"{int(targets.min())}..{int(targets.max())}"
        raise ValueError(f"Argument `targets` must be whole classes from 0 to {classes - 1}, but got {given}; pass their indices")
