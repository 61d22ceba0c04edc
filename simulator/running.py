"""Running a study: training what is not trained, measuring what is not measured, from where the last run stopped."""

from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from simulator.batches import Batch, RepeatableBatches
from simulator.chip import Chip
from simulator.evaluation import Evaluation, Trial, collect, compare, measure_trials
from simulator.fingerprints import digest, digest_batches, versions
from simulator.measuring import measure_reference
from simulator.metrics import Metric
from simulator.preparing import Prepared, build_chip
from simulator.progress import track
from simulator.results import ResultsFolder
from simulator.statistics import Comparison
from simulator.study import Point, Study
from simulator.trained import FORMAT, NOISE_AWARE, Masters, float_model, noise_aware
from simulator.workers import work_through

PLAIN = "plain"


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
    model, float_losses, identity = float_model(prepared, folder, shown)
    losses, identities = {PLAIN: float_losses}, {PLAIN: identity}
    masters: dict[str, Masters | None] = {PLAIN: None}
    base = {PLAIN: build_chip(model, prepared.points[0], prepared.example, study.seed, None, prepared.calibration)}
    if study.training.noise_aware is not None:
        masters[NOISE_AWARE], losses[NOISE_AWARE], identities[NOISE_AWARE] = noise_aware(prepared, folder, model, identity, shown)
        base[NOISE_AWARE] = build_chip(model, prepared.points[0], prepared.example, study.seed, masters[NOISE_AWARE], prepared.calibration)
    references = {arm: measure_reference(chip, prepared.passes, prepared.metrics) for arm, chip in base.items()}
    bench = _Bench(model, masters, prepared.points, prepared.example, prepared.calibration, prepared.passes, prepared.metrics, study.seed)
    keys = _keys(prepared, identities)
    rows, computed = _measure(bench, keys, study.trials, folder, workers, shown)
    evaluations = {}
    for place, key in keys.items():
        found = [Trial(trial, rows[key][trial]["values"], rows[key][trial]["test_errors"]) for trial in range(study.trials)]
        evaluations[place] = collect(found, references[place[0]], prepared.metrics, seed=study.seed, confidence=0.95)
    cost = base[PLAIN].cost(*prepared.example.inputs, **prepared.example.keywords)
    warnings = list(dict.fromkeys(warning for chip in base.values() for warning in chip.warnings)) + _warnings(base[PLAIN], cost, study)
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
    # Closed at once after Ctrl-C or an error, so that worker processes end here and not whenever memory is tidied up.
    if not missing:
        return rows, 0
    trial_by_trial: Any = track(work_through(bench, missing, min(workers, len(missing))), len(missing), "chips", shown)
    with closing(trial_by_trial) as measured:
        for (arm, index, _), one in zip(missing, measured, strict=True):
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


def _warnings(chip: Chip, cost: pd.DataFrame, study: Study) -> list[str]:
    coverage = chip.coverage
    found = []
    digital = coverage[(coverage["hardware"] == "host") & (coverage["macs"].isna())]
    if len(digital):
        found.append(f"Layers with weights that stay digital: {', '.join(digital['layer'])}")
    unknown = cost[(cost["hardware"] != "host") & (cost["energy_j"].isna() | cost["latency_s"].isna()) & ~cost["once"].astype(bool)]
    if len(unknown):
        found.append(f"Costs are partial sums: constants of {', '.join(dict.fromkeys(unknown['term']))} are not given")
    if study.trials < 5:
        found.append(f"Only {study.trials} chips were measured: intervals over chips are wide or absent")
    return found


def _count(prepared: Prepared) -> str:
    tested = sum(len(batch.targets) for batch in prepared.passes)
    train = prepared.split.train_batches(prepared.study.batch_size, seed=None)
    trained = sum(len(batch.targets) for batch in RepeatableBatches(train, seed=0) if batch.targets is not None)
    return f"{trained} samples to train on, {tested} held out to test on"


def default_folder(study: Study) -> Path:
    """Return where a study's results go unless the command line says otherwise.

    Examples
    --------
    >>> default_folder(Study(name="s", model="digits_mlp", data="digits", design="wan_nature_2022")).as_posix()
    'results/s'
    """
    return Path("results") / study.name
