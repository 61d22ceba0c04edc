"""Building everything that a study names, and trying it on one batch, before anything is computed or written."""

import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels.random import Key
from simulator._functions import FUNCTION, import_function
from simulator._isolation import one_thread, private_generator
from simulator.batches import Batch, RepeatableBatches
from simulator.chip import Chip
from simulator.compiler import compile as compile_chip
from simulator.data import DataSplit, load_data
from simulator.fingerprints import digest_sources
from simulator.measuring import resolve_metrics
from simulator.metrics import Metric
from simulator.models import load_model
from simulator.study import Point, Study, StudyError
from simulator.training import Loss

CALIBRATION_BATCHES = 4
"""Batches of training data that converter ranges are chosen on."""
LOSSES: dict[str, Loss] = {
    "cross_entropy": F.cross_entropy,
    "mse_loss": F.mse_loss,
    "l1_loss": F.l1_loss,
    "smooth_l1_loss": F.smooth_l1_loss,
    "nll_loss": F.nll_loss,
    "binary_cross_entropy_with_logits": F.binary_cross_entropy_with_logits,
}


@dataclass(frozen=True)
class Prepared:
    """A study whose parts exist and fit together.

    Attributes
    ----------
    study
        The study.
    points
        The base, then every varied point.
    model
        The float model, not trained yet.
    split
        Training and test data.
    passes, calibration
        Test batches, and the batches that converter ranges are chosen on.
    example
        One sample, as a batch.
    metrics, loss
        What is measured, and what training minimizes.
    sources
        Digests of the user's own files.
    """

    study: Study
    points: list[Point]
    model: nn.Module
    split: DataSplit
    passes: RepeatableBatches
    calibration: list[Batch]
    example: Batch
    metrics: dict[str, Metric]
    loss: Loss
    sources: dict[str, str]

    def train_batches(self) -> Iterable[Any]:
        """Return the batches to train on, in an order that depends on the seed and the epoch."""
        return self.split.train_batches(self.study.training.batch_size, seed=self.study.seed)


def prepare(study: Study, folder: Path) -> Prepared:
    """Build what a study names and try it: the model on one batch, each metric, the loss, and the base design.

    Parameters
    ----------
    study
        From `simulator.study.load_study`.
    folder
        Where the user's own modules and data are looked for first.

    Raises
    ------
    ValueError
        Where a part is not there or does not fit another; one line that names it.

    Examples
    --------
    >>> study = Study(name="s", model="digits_mlp", data="digits", design="wan_nature_2022")
    >>> prepare(study, Path()).example.inputs[0].shape
    torch.Size([1, 1, 8, 8])
    """
    _make_importable(folder)
    points = study.points()
    metrics = resolve_metrics([_metric(name, folder) for name in study.metrics.names])
    loss = _loss(study.training.loss, folder)
    model = load_model(study.model.name, study.model.arguments, seed=study.seed, folder=folder).eval()
    split = load_data(study.data.name, study.data.arguments, seed=study.seed, folder=folder)
    passes = RepeatableBatches(split.test_batches(study.batch_size), batch_size=study.batch_size, seed=study.seed, name="data")
    first = next(iter(passes))
    example = first_sample(first)
    calibration = _calibration(split, study)
    _try(study, model, first, metrics, loss)
    build_chip(model, points[0], example, study.seed)
    names = [study.model.name, study.data.name, study.training.loss, *study.metrics.names]
    sources = digest_sources(names, [point.design for point in points])
    return Prepared(study, points, model, split, passes, calibration, example, metrics, loss, sources)


def build_chip(
    model: nn.Module,
    point: Point,
    example: Batch,
    seed: int,
    masters: Mapping[str, Tensor] | None = None,
    calibration: list[Batch] | None = None,
) -> Chip:
    """Compile a model onto the design of a point.

    Parameters
    ----------
    model, point, example, seed
        What is compiled, onto what, with which sample to see shapes, and the seed of training noise.
    masters
        Parameters and buffers of a trained chip of this model, to replace the chip's own.
    calibration
        Batches that converter ranges are chosen on, after `masters` are in place.
    """
    chip = compile_chip(model, point.design, example_inputs=example.inputs, example_kwargs=example.keywords, seed=seed)
    if masters is not None:
        with torch.no_grad():
            for name, tensor in masters_of(chip).items():
                tensor.copy_(masters[name])
    if calibration is not None:
        chip.calibrate(calibration)
    return chip


def masters_of(chip: Chip) -> dict[str, Tensor]:
    """Return the parameters and buffers of a chip by name; they are the chip's own, not copies."""
    return {**dict(chip.named_parameters()), **dict(chip.named_buffers())}


def first_sample(batch: Batch) -> Batch:
    """Return the first sample of a batch, as a batch of one.

    Examples
    --------
    >>> first_sample(Batch((torch.zeros(5, 2),), {}, torch.zeros(5))).inputs[0].shape
    torch.Size([1, 2])
    """

    def cut(value: Any) -> Any:
        return value[:1] if isinstance(value, Tensor) and value.dim() else value

    return Batch(tuple(cut(value) for value in batch.inputs), {k: cut(v) for k, v in batch.keywords.items()}, cut(batch.targets))


def _make_importable(folder: Path) -> None:
    # Left on the path: worker processes get it from here.
    for place in (str(Path.cwd()), str(folder.resolve())):
        if place not in sys.path:
            sys.path.insert(0, place)


def _metric(name: str, folder: Path) -> Any:
    return import_function(name, argument="metrics", folder=folder) if FUNCTION.fullmatch(name) else name


def _loss(name: str, folder: Path) -> Loss:
    if FUNCTION.fullmatch(name):
        return import_function(name, argument="training.loss", folder=folder)
    if name not in LOSSES:
        near = get_close_matches(name, LOSSES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "name one of these"
        allowed = f'{", ".join(LOSSES)} or "package.module:function"'
        raise StudyError(f"Study: `training.loss` must be one of {allowed}, but got {name!r}; {hint}")
    return LOSSES[name]


def _calibration(split: DataSplit, study: Study) -> list[Batch]:
    batches = RepeatableBatches(split.train_batches(study.batch_size, seed=None), seed=study.seed, name="data")
    return [batch for batch, _ in zip(batches, range(CALIBRATION_BATCHES), strict=False)]


def _try(study: Study, model: nn.Module, batch: Batch, metrics: dict[str, Metric], loss: Callable[[Any, Any], Tensor]) -> None:
    """Call the model, each metric and the loss once, so that what does not fit is told before training."""
    if batch.targets is None:
        raise StudyError("Study: `data` must have inputs and targets, but has inputs alone; return (inputs, targets) batches")
    shapes = ", ".join(_shown(value) for value in (*batch.inputs, *batch.keywords.values()))
    with (
        torch.no_grad(),
        one_thread(),
        private_generator(Key.of(seed=study.seed, purpose="trial run")),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("error", UserWarning)  # torch's loss functions warn where shapes broadcast, and mean an error
        output = _called(f"`model` must take the data's batches ({shapes})", lambda: model(*batch.inputs, **batch.keywords))
        for one in metrics.values():
            _called(f"`metrics` must fit outputs and targets ({_shown(batch.targets)})", partial(one.rows, output, batch.targets))
        if study.training.epochs or study.training.noise_aware:
            _called(
                f"`training.loss` {study.training.loss!r} must fit outputs and targets ({_shown(batch.targets)})",
                lambda: float(loss(output, batch.targets)),
            )


def _called(what: str, function: Callable[[], Any]) -> Any:
    try:
        return function()
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, UserWarning) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise StudyError(f"Study: {what}, but: {line}") from error


def _shown(value: Any) -> str:
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
