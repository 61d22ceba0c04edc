"""Running a study: training what is not trained, measuring what is not measured, from where the last run stopped."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from simulator.batches import Batch, RepeatableBatches
from simulator.chip import Chip
from simulator.evaluation import Evaluation, Trial, collect, compare, measure_reference, measure_trials
from simulator.fingerprints import digest, digest_batches, digest_tensors, versions
from simulator.metrics import Metric
from simulator.preparing import Prepared, build_chip, masters_of
from simulator.progress import track
from simulator.results import ResultsFolder
from simulator.statistics import Comparison
from simulator.study import Point, Study, StudyError
from simulator.training import Progress, fit
from simulator.workers import work_through

FORMAT = 1
PLAIN, NOISE_AWARE = "plain", "noise_aware"
Masters = dict[str, Tensor]


@dataclass(frozen=True)
class StudyResult:
    """What a study found.

    Attributes
    ----------
    study, points
        The study, and its base point and varied points.
    evaluations
        Evaluation of each arm at each point, by the arm's name and the point's place in `points`.
    coverage, cost
        Tables of the chip at the base point; costs are those of one sample.
    warnings
        What a reader has to know before believing the numbers.
    losses
        Training loss of each epoch, by arm.
    data
        One line on the data.
    computed, reused
        Trials measured by this run, and trials found in the journal.
    """

    study: Study
    points: list[Point]
    evaluations: dict[tuple[str, int], Evaluation]
    coverage: pd.DataFrame
    cost: pd.DataFrame
    warnings: list[str]
    losses: dict[str, tuple[float, ...]]
    data: str
    computed: int = 0
    reused: int = 0

    @property
    def arms(self) -> list[str]:
        """Names of the arms, ``plain`` first."""
        return list(dict.fromkeys(arm for arm, _ in self.evaluations))

    def comparison(self, metric: str | None = None, point: int = 0) -> Comparison | None:
        """Compare the noise-aware chip with the plain one on common random numbers; None without noise-aware training."""
        if NOISE_AWARE not in self.arms:
            return None
        first, second = self.evaluations[NOISE_AWARE, point], self.evaluations[PLAIN, point]
        return compare(first, second, name=metric, names=("noise-aware", "plain"))

    def varied(self) -> dict[str, list[int]]:
        """Return the places in `points` of each varied field's values."""
        found: dict[str, list[int]] = {}
        for index, point in enumerate(self.points):
            if point.varied:
                found.setdefault(point.varied, []).append(index)
        return found


def run(prepared: Prepared, folder: ResultsFolder, *, workers: int = 1, shown: bool | None = None) -> StudyResult:
    """Run a study in its results folder, going on from what is there.

    Results are the same bits for any number of workers, and whether or not earlier runs were interrupted.

    Parameters
    ----------
    prepared
        The study with its parts.
    folder
        Where trained weights and finished trials are kept.
    workers
        Processes.
    shown
        Show progress bars on the error stream; None shows them on a terminal.
    """
    study = prepared.study
    losses, identities, masters = {}, {}, {}
    model, losses[PLAIN], identities[PLAIN] = _float_model(prepared, folder, shown)
    masters[PLAIN] = None
    base = {PLAIN: build_chip(model, prepared.points[0], prepared.example, study.seed, None, prepared.calibration)}
    if study.training.noise_aware is not None:
        masters[NOISE_AWARE], losses[NOISE_AWARE], identities[NOISE_AWARE] = _noise_aware(
            prepared, folder, model, identities[PLAIN], shown
        )
        base[NOISE_AWARE] = build_chip(
            model, prepared.points[0], prepared.example, study.seed, masters[NOISE_AWARE], prepared.calibration
        )
    references = {arm: measure_reference(chip, prepared.passes, prepared.metrics) for arm, chip in base.items()}
    bench = _Bench(model, masters, prepared.points, prepared.example, prepared.calibration, prepared.passes, prepared.metrics, study.seed)
    keys = _keys(prepared, identities)
    rows, computed = _measure(bench, keys, study.trials, folder, workers, shown)
    evaluations = {}
    for place, key in keys.items():
        found = [Trial(trial, rows[key][trial]["values"], rows[key][trial]["test_errors"]) for trial in range(study.trials)]
        evaluations[place] = collect(found, references[place[0]], prepared.metrics, seed=study.seed, confidence=0.95)
    cost = base[PLAIN].cost(*prepared.example.inputs, **prepared.example.keywords)
    warnings = list(dict.fromkeys(warning for chip in base.values() for warning in chip.warnings)) + _warnings(base[PLAIN], study)
    reused = study.trials * len(set(keys.values())) - computed
    data = f"{prepared.split.name}: {_count(prepared)}"
    return StudyResult(
        study, prepared.points, evaluations, base[PLAIN].coverage, cost, warnings, losses, data, computed=computed, reused=reused
    )


@dataclass
class _Bench:
    """Measures one trial of one arm at one point; sent to each worker, which compiles a chip when its turn comes."""

    model: nn.Module
    masters: dict[str, Masters | None]
    points: list[Point]
    example: Batch
    calibration: list[Batch]
    passes: RepeatableBatches
    metrics: dict[str, Metric]
    seed: int
    _place: tuple[str, int] | None = field(default=None, init=False)
    _chip: Chip | None = field(default=None, init=False)

    def __call__(self, item: tuple[str, int, int]) -> Trial:
        arm, index, trial = item
        point = self.points[index]
        if self._chip is None or self._place != (arm, index):
            self._chip = build_chip(self.model, point, self.example, self.seed, self.masters[arm], self.calibration)
            self._place = (arm, index)
        one = measure_trials(self._chip, self.passes, self.metrics, [trial], seed=self.seed, seconds=point.seconds, workers=1)
        return next(one)


def _measure(
    bench: _Bench, keys: dict[tuple[str, int], str], trials: int, folder: ResultsFolder, workers: int, shown: bool | None
) -> tuple[dict[str, dict[int, dict[str, Any]]], int]:
    """Measure every trial that the journal does not hold; points of one key are measured once."""
    rows = folder.finished()
    places = {key: place for place, key in reversed(keys.items())}
    missing = [
        (*place, trial) for place, key in keys.items() if places[key] == place for trial in range(trials) if trial not in rows.get(key, {})
    ]
    found = work_through(bench, missing, min(workers, max(1, len(missing))))
    for (arm, index, _), one in zip(missing, track(found, len(missing), "chips", shown), strict=True):
        row = {"values": one.values, "test_errors": one.test_errors}
        folder.append(keys[arm, index], one.trial, row)
        rows.setdefault(keys[arm, index], {})[one.trial] = row
    return rows, len(missing)


def _keys(prepared: Prepared, identities: dict[str, str]) -> dict[tuple[str, int], str]:
    """Return the journal's key of each arm at each point: a digest of all that decides its numbers."""
    study = prepared.study
    common = {
        "format": FORMAT, "versions": versions(), "sources": prepared.sources, "model": study.model.model_dump(mode="json"),
        "data": digest_batches(prepared.passes), "calibration": digest_batches(prepared.calibration), "seed": study.seed,
        "metrics": study.metrics.names,
    }  # fmt: skip
    return {
        (arm, index): digest({**common, "weights": weights, "design": point.design.fingerprint(), "seconds": point.seconds})
        for index, point in enumerate(prepared.points)
        for arm, weights in identities.items()
    }


def _float_model(prepared: Prepared, folder: ResultsFolder, shown: bool | None) -> tuple[nn.Module, tuple[float, ...], str]:
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


def _noise_aware(
    prepared: Prepared, folder: ResultsFolder, model: nn.Module, start: str, shown: bool | None
) -> tuple[Masters, tuple[float, ...], str]:
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


def _warnings(chip: Chip, study: Study) -> list[str]:
    coverage = chip.coverage
    found = []
    digital = coverage[(coverage["hardware"] == "host") & (coverage["macs"].isna())]
    if len(digital):
        found.append(f"Layers with weights that stay digital: {', '.join(digital['layer'])}")
    if study.trials < 5:
        found.append(f"Only {study.trials} chips were measured: intervals over chips are wide or absent")
    return found


def _count(prepared: Prepared) -> str:
    tested = sum(len(batch.targets) for batch in prepared.passes)
    train = prepared.split.train_batches(prepared.study.batch_size, seed=None)
    trained = sum(len(batch.targets) for batch in RepeatableBatches(train, seed=0) if batch.targets is not None)
    return f"{trained} samples to train on, {tested} held out to test on"


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


def default_folder(study: Study) -> Path:
    """Return where a study's results go unless the command line says otherwise.

    Examples
    --------
    >>> default_folder(Study(name="s", model="digits_mlp", data="digits", design="wan_nature_2022")).as_posix()
    'results/s'
    """
    return Path("results") / study.name
