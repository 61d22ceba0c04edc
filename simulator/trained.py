"""Trained weights of a study: from a checkpoint that fits, or by training, which goes on where it was interrupted."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from simulator.batches import RepeatableBatches
from simulator.fingerprints import digest, digest_batches, digest_tensors, versions
from simulator.preparing import Prepared, build_chip, masters_of
from simulator.progress import track
from simulator.results import ResultsFolder
from simulator.study import StudyError
from simulator.training import Progress, fit

FORMAT = 1
NOISE_AWARE = "noise_aware"
Masters = dict[str, Tensor]


def float_model(prepared: Prepared, folder: ResultsFolder, shown: bool | None) -> tuple[nn.Module, tuple[float, ...], str]:
    """Return the trained float model, its training losses, and the digest of its weights.

    Parameters
    ----------
    prepared
        The study with its parts; its model is trained in place.
    folder
        Where weights are kept.
    shown
        Show a progress bar; None shows it on a terminal.
    """
    model, plan = prepared.model, prepared.study.training
    losses: tuple[float, ...] = ()
    if plan.epochs:
        key = digest(
            {
                "format": FORMAT, "versions": versions(), "sources": prepared.sources, "seed": prepared.study.seed,
                "model": prepared.study.model.model_dump(mode="json"), "initial": digest_tensors(model.state_dict()),
                "data": _training_data(prepared), "plan": plan.model_dump(mode="json", exclude={"noise_aware"}),
            }
        )  # fmt: skip
        saved = _load(folder, "float", key)
        if saved is None:
            losses = _fit(model, prepared, folder, "float", key, plan.epochs, plan.learning_rate, shown)
            _save(folder, "float", key, losses, model.state_dict())
        else:
            losses, weights = saved
            model.load_state_dict(weights)
    return model.eval(), losses, digest_tensors(model.state_dict())


def noise_aware(
    prepared: Prepared, folder: ResultsFolder, model: nn.Module, start: str, shown: bool | None
) -> tuple[Masters, tuple[float, ...], str]:
    """Return the master weights of a chip trained with its own noise, the training losses, and the digest of the weights.

    Parameters
    ----------
    prepared, folder, shown
        As for `float_model`.
    model, start
        The float model that training starts from, and the digest of its weights.
    """
    plan, point = prepared.study.training, prepared.points[0]
    assert plan.noise_aware is not None
    key = digest(
        {
            "format": FORMAT, "versions": versions(), "sources": prepared.sources, "seed": prepared.study.seed, "start": start,
            "data": _training_data(prepared), "calibration": digest_batches(prepared.calibration),
            "plan": plan.model_dump(mode="json"), "design": point.design.fingerprint(),
        }
    )  # fmt: skip
    saved = _load(folder, NOISE_AWARE, key)
    if saved is not None:
        return saved[1], saved[0], digest_tensors(saved[1])
    chip = build_chip(model, point, prepared.example, prepared.study.seed, None, prepared.calibration)
    losses = _fit(chip.train(), prepared, folder, NOISE_AWARE, key, plan.noise_aware.epochs, plan.noise_aware.learning_rate, shown)
    masters = {name: tensor.detach().clone() for name, tensor in masters_of(chip).items()}
    _save(folder, NOISE_AWARE, key, losses, masters)
    return masters, losses, digest_tensors(masters)


def _fit(
    model: nn.Module, prepared: Prepared, folder: ResultsFolder, name: str, key: str, epochs: int, learning_rate: float, shown: bool | None
) -> tuple[float, ...]:
    plan = prepared.study.training
    checkpoint = folder.checkpoints / f"{name}-{key[:16]}.training.pt"
    with _bar(f"training, {name.replace('_', '-')}", shown) as progress:
        done = fit(
            model,
            prepared.train_batches(),
            epochs=epochs,
            learning_rate=learning_rate,
            seed=prepared.study.seed,
            weight_decay=plan.weight_decay,
            loss=prepared.loss,
            checkpoint=checkpoint,
            progress=progress,
        )
    return done.losses


def _save(folder: ResultsFolder, name: str, key: str, losses: tuple[float, ...], weights: Masters) -> None:
    """Keep trained weights, and drop the checkpoint of their training."""
    path = folder.checkpoints / f"{name}-{key[:16]}.pt"
    temporary = path.with_name(f"{path.name}.tmp")
    torch.save({"key": key, "losses": list(losses), "weights": weights}, temporary)
    temporary.replace(path)
    (folder.checkpoints / f"{name}-{key[:16]}.training.pt").unlink(missing_ok=True)


def _load(folder: ResultsFolder, name: str, key: str) -> tuple[tuple[float, ...], Masters] | None:
    path = folder.checkpoints / f"{name}-{key[:16]}.pt"
    if not path.exists():
        return None
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        if saved["key"] == key:
            return tuple(saved["losses"]), saved["weights"]
    except Exception as error:  # what a damaged file raises depends on where it is damaged
        raise StudyError(f"checkpoint {str(path)!r} must be one that inloop wrote, but cannot be read; delete it to train again") from error
    return None


def _training_data(prepared: Prepared) -> str:
    batches = prepared.split.train_batches(prepared.study.training.batch_size, seed=None)
    return digest_batches(RepeatableBatches(batches, seed=prepared.study.seed, name="data"))


@contextmanager
def _bar(description: str, shown: bool | None) -> Iterator[Progress | None]:
    """Yield a function that shows how much of a training is done."""
    steps: dict[str, Any] = {}

    def advance(done: int, total: int, loss: float) -> None:
        if "bar" not in steps:
            steps["bar"] = iter(track(range(total + 1), total, description, shown))
            steps["at"] = 0
            next(steps["bar"])
        while steps["at"] < done:
            next(steps["bar"])
            steps["at"] += 1

    yield advance
    if "bar" in steps:
        steps["bar"].close()
