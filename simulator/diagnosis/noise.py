"""Which noise to train with for which noise to expect: a matrix of trained against tested designs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from devices.base import Hardware
from simulator.batches import RepeatableBatches
from simulator.chip import Chip
from simulator.compiler import compile as compile_chip
from simulator.data import Batches
from simulator.evaluation import evaluate
from simulator.measuring import MetricLike, resolve_metrics
from simulator.metrics import Metric
from simulator.progress import track
from simulator.statistics import mean_interval
from simulator.training import fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Change = Hardware | Mapping[str, Any] | None
"""A design, changes of the design as `Design.replace` takes them, or None for the ideal one."""


@dataclass(frozen=True)
class NoiseMatrix:
    """Result of `noise_matrix`.

    Attributes
    ----------
    frame
        A row per trained design, tested design and trial: ``train``, ``test``, ``trial`` and a column per metric.
    losses
        Training loss of each epoch, by trained design.
    metrics
        The metrics, by name.
    seed
        As given.
    confidence
        Of the intervals.
    """

    frame: pd.DataFrame
    losses: dict[str, tuple[float, ...]]
    metrics: dict[str, Metric]
    seed: int
    confidence: float = 0.95

    def matrix(self, name: str | None = None) -> pd.DataFrame:
        """Return the mean of a metric (the first by default) over chips: a row per trained design, a column per tested one."""
        means = self.frame.groupby(["train", "test"], sort=False)[name or next(iter(self.metrics))].mean()
        return means.unstack("test").reindex(index=self._labels("train"), columns=self._labels("test"))

    def half_widths(self, name: str | None = None) -> pd.DataFrame:
        """Return half the width of each mean's interval, in the matrix' shape; NaN for one trial."""
        metric = name or next(iter(self.metrics))
        groups = self.frame.groupby(["train", "test"], sort=False)[metric]
        halves = groups.apply(lambda values: mean_interval([float(value) for value in values], self.confidence).half_width)
        return halves.unstack("test").reindex(index=self._labels("train"), columns=self._labels("test"))

    def _labels(self, column: str) -> list[str]:
        return list(dict.fromkeys(self.frame[column]))

    def __str__(self) -> str:
        return "\n\n".join(f"{name}, trained (rows) against tested (columns)\n{self.matrix(name).round(4)}" for name in self.metrics)

    def figure(self, *, metric: str | None = None) -> "Figure":
        """Return the matrix of a metric (the first by default) as a picture with its numbers."""
        from simulator.diagnosis.figures import draw_matrix  # matplotlib takes a second to import

        return draw_matrix(self, metric or next(iter(self.metrics)))


def noise_matrix(
    model: nn.Module,
    design: Hardware,
    data_train: Any,
    data_test: Any,
    *,
    train: Mapping[str, Change],
    test: Mapping[str, Change] | None = None,
    epochs: int = 5,
    learning_rate: float = 4e-3,
    weight_decay: float = 0.01,
    loss: Callable[[Any, Any], Tensor] = F.cross_entropy,
    metrics: MetricLike | Sequence[MetricLike] = "accuracy",
    trials: int = 5,
    seed: int = 0,
    workers: int = 1,
    batch_size: int = 64,
    confidence: float = 0.95,
    progress: bool | None = None,
) -> NoiseMatrix:
    """Train a model with each of several designs, and measure what comes out on each of several designs.

    Every training starts from the model's weights as they are (batch norm folded) and sees its batches in one order; every measurement
    programs the same trials, so that differences within a column are paired. Converters are calibrated on `data_train`, for a test
    with the trained weights. The model given stays as it is.

    Parameters
    ----------
    model
        As in `compile`; its weights are where training starts, so a trained model is fine-tuned.
    design
        What the entries of `train` and `test` change.
    data_train, data_test
        Loaders or batches of (inputs, targets), or pairs of tensors; a pair of tensors is trained on in batches of `batch_size`.
    train, test
        By label: a dict of changes as in ``design.replace(**changes)``, a design in its place, or None for ``design.ideal()``, which is
        float. Without `test` the same as `train`.
    epochs, learning_rate, weight_decay, loss
        As in `fit`.
    metrics, trials, seed, workers, confidence, progress
        As in `evaluate`; `seed` is that of training, too.
    batch_size
        Batch size for pairs of tensors.

    Returns
    -------
    NoiseMatrix
        Print it; ``.figure()`` draws it.

    Raises
    ------
    ValueError
        If a mapping is empty or holds something else, or as `compile`, `fit` and `evaluate` say.

    Examples
    --------
    >>> from devices import RRAMCrossbar
    >>> x = torch.rand(64, 4)
    >>> data = (x, x[:, :2].argmax(1))
    >>> levels = {"float": None, "5 %": {"cell": {"read_noise_fraction": 0.05}}}
    >>> design = RRAMCrossbar.preset("wan_nature_2022")
    >>> noise_matrix(nn.Linear(4, 2), design, data, data, train=levels, epochs=1, trials=1).matrix().shape
    (2, 2)
    """
    chosen = resolve_metrics(metrics)
    training, testing = _designs("train", design, train), _designs("test", design, train if test is None else test)
    pair = isinstance(data_train, tuple | list) and len(data_train) == 2 and all(isinstance(part, Tensor) for part in data_train)
    loader = Batches(data_train[0], data_train[1], batch_size, seed=seed) if pair else data_train
    calibration = RepeatableBatches(data_train, batch_size=batch_size, seed=seed, name="data_train")
    rows: list[dict[str, Any]] = []
    losses: dict[str, tuple[float, ...]] = {}
    cells = track(((trained, tested) for trained in training for tested in testing), len(training) * len(testing), "designs", progress)
    chip: Chip | None = None
    for trained, tested in cells:
        if trained not in losses:
            chip = compile_chip(model, training[trained], calibration=calibration, seed=seed).train()
            options = {"epochs": epochs, "learning_rate": learning_rate, "weight_decay": weight_decay}
            losses[trained] = fit(chip, loader, seed=seed, loss=loss, **options).losses  # type: ignore[arg-type]
        assert chip is not None
        other = compile_chip(model, testing[tested], calibration=calibration, seed=seed)
        _take_masters(other, chip)
        other.calibrate(calibration)
        found = evaluate(
            other,
            data_test,
            metrics=list(chosen.values()),
            trials=trials,
            seed=seed,
            workers=workers,
            batch_size=batch_size,
            confidence=confidence,
            progress=False,
        )
        rows += [
            {"train": trained, "test": tested, "trial": trial, **{name: found.values(name)[trial] for name in chosen}}
            for trial in range(trials)
        ]
    return NoiseMatrix(pd.DataFrame(rows), losses, chosen, seed, confidence)


def _designs(name: str, design: Hardware, changes: Mapping[str, Change]) -> dict[str, Hardware]:
    if not isinstance(design, Hardware):
        raise ValueError(f"Argument `design` must be a design that models compile onto, as RRAMCrossbar, but got {type(design).__name__}")
    if not isinstance(changes, Mapping) or not changes:
        raise ValueError(f"Argument `{name}` must be a mapping of labels to changes of the design, but got {changes!r:.80}")
    found = {}
    for label, change in changes.items():
        if change is not None and not isinstance(change, Hardware | Mapping):
            raise ValueError(f"Argument `{name}` must map {label!r} to a dict of changes, a design or None, but got {change!r:.80}")
        found[label] = design.ideal() if change is None else change if isinstance(change, Hardware) else design.replace(**change)
    return found


def _take_masters(chip: Chip, source: Chip) -> None:
    """Copy the master weights and buffers of another chip of the same model."""
    with torch.no_grad():
        for mine, theirs in (
            (dict(chip.named_parameters()), source.named_parameters()),
            (dict(chip.named_buffers()), source.named_buffers()),
        ):
            for name, tensor in theirs:
                mine[name].copy_(tensor)
