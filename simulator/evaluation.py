"""What accuracy is left on the hardware: a chip measured over many fabricated and programmed instances."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from simulator.batches import RepeatableBatches
from simulator.chip import Chip
from simulator.fingerprints import digest_batches
from simulator.measuring import Bench, MetricLike, Prepare, checked_age, private_copy, work_off
from simulator.metrics import Metric
from simulator.statistics import (
    Comparison,
    Components,
    Interval,
    bootstrap_error,
    components,
    mean_interval,
    paired_comparison,
    percentile,
    worst,
    yield_fraction,
)
from simulator.workers import work_through


@dataclass(frozen=True)
class Trial:
    """One programmed instance measured over the data.

    Attributes
    ----------
    trial
        Which instance; ``chip.program(seed, trial)`` draws it again.
    values
        Value of each metric.
    test_errors
        Standard error of each value over test sets of the same size.
    """

    trial: int
    values: dict[str, float]
    test_errors: dict[str, float]


@dataclass(frozen=True)
class Evaluation:
    """Result of `evaluate`: every trial, and what they say together.

    Attributes
    ----------
    frame
        A row per trial: ``trial``, ``seed``, and a column per metric.
    reference
        Value of each metric for the float model with the chip's master weights.
    test_errors
        Standard error of one chip's value over test sets, by metric.
    metrics
        The metrics, by name.
    seed
        Seed of the trials.
    confidence
        Of the intervals.
    data
        Digest of the data, by which `compare` knows that two evaluations saw the same; empty where it is not known.
    """

    frame: pd.DataFrame
    reference: dict[str, float]
    test_errors: dict[str, float]
    metrics: dict[str, Metric]
    seed: int
    confidence: float = 0.95
    data: str = ""

    def values(self, name: str | None = None) -> list[float]:
        """Return a metric's value of each trial; the first metric where no name is given."""
        return [float(value) for value in self.frame[self._metric(name).name]]

    def mean(self, name: str | None = None) -> Interval:
        """Return the mean over chips with its t-interval."""
        return mean_interval(self.values(name), self.confidence)

    def components(self, name: str | None = None) -> Components:
        """Return the chip-to-chip spread, the error of the mean and the test set's own error, apart."""
        chosen = self._metric(name)
        return components(self.values(name), self.test_errors[chosen.name])

    def worst(self, name: str | None = None) -> float:
        """Return the value of the worst chip."""
        return worst(self.values(name), higher_is_better=self._metric(name).higher_is_better)

    def percentile(self, percent: float = 5.0, name: str | None = None) -> float:
        """Return the value that `percent` of the chips are worse than."""
        return percentile(self.values(name), percent, higher_is_better=self._metric(name).higher_is_better)

    def yield_at(self, spec: float, name: str | None = None) -> Interval:
        """Return the fraction of chips that meet a specification, with its Wilson interval."""
        return yield_fraction(self.values(name), spec, higher_is_better=self._metric(name).higher_is_better, confidence=self.confidence)

    def summary(self) -> pd.DataFrame:
        """Return a row per metric: mean and interval, chip-to-chip deviation, test-set error, worst, 5th percentile, float."""
        rows = []
        for name in self.metrics:
            mean, parts = self.mean(name), self.components(name)
            rows.append(
                {
                    "metric": name,
                    "mean": mean.value,
                    "low": mean.low,
                    "high": mean.high,
                    "chip_std": parts.chip_std,
                    "test_error": parts.test_error,
                    "worst": self.worst(name),
                    "percentile_5": self.percentile(5.0, name),
                    "float": self.reference[name],
                    "trials": mean.n,
                }
            )
        return pd.DataFrame(rows)

    def __str__(self) -> str:
        lines = []
        for name in self.metrics:
            lines.append(f"{name} {self.mean(name)}, worst {self.worst(name):.3f}, float {self.reference[name]:.3f}")
        return "\n".join(lines)

    def _metric(self, name: str | None) -> Metric:
        if name is None:
            return next(iter(self.metrics.values()))
        if name not in self.metrics:
            raise ValueError(f"Argument `name` must be one of {', '.join(self.metrics)}, but got {name!r}")
        return self.metrics[name]


def evaluate(
    chip: Chip,
    data: Any,
    *,
    metrics: MetricLike | Sequence[MetricLike] = "accuracy",
    trials: int = 25,
    seed: int = 0,
    seconds: float = 0.0,
    prepare: Prepare | None = None,
    workers: int = 1,
    batch_size: int = 256,
    confidence: float = 0.95,
    progress: bool | None = None,
) -> Evaluation:
    """Measure a chip over many programmed instances.

    Trial k programs a private copy with ``program(seed, k)`` and reads it over the data; the chip given stays as it is. Two
    chips evaluated with one seed see common random numbers: `compare` uses that.

    Parameters
    ----------
    chip
        From `simulator.compile`.
    data
        A loader, data set, batches of (inputs, targets), or a pair of tensors.
    metrics
        Names of built-in metrics, `Metric` objects, or functions of all outputs and all targets; one or several.
    trials
        Programmed instances, at least 1.
    seed
        Seed of all draws.
    seconds
        Age of each instance when it is read, in seconds since programming.
    prepare
        A function called with each instance, programmed and at its age, before it is measured: recalibration, for example
        ``prepare=lambda chip: sim.recalibrate_batch_norm(chip, loader)``.
    workers
        Processes; results are the same bits for any number.
    batch_size
        Batch size for a data set or a pair of tensors; read noise is drawn batch by batch.
    confidence
        Of the intervals.
    progress
        Show a progress bar; by default on a terminal.

    Returns
    -------
    Evaluation
        Print it for the line that says it all.

    Raises
    ------
    ValueError
        If the data are empty, an argument is out of range, or outputs and targets do not fit the metric.

    Examples
    --------
    >>> import torch
    >>> import simulator as sim
    >>> from devices import RRAMCrossbar
    >>> model = torch.nn.Linear(4, 2)
    >>> x = torch.rand(64, 4)
    >>> chip = sim.compile(model, RRAMCrossbar.preset("wan_nature_2022"), example_inputs=x)
    >>> result = evaluate(chip, (x, model(x).argmax(1)), trials=3, seed=0)
    >>> len(result.frame), result.reference
    (3, {'accuracy': 1.0})
    """
    age = checked_age(seconds)
    bench, reference = Bench.of(chip, data, metrics, trials=trials, seed=seed, batch_size=batch_size, prepare=prepare)
    found = work_off(_Measurement(bench, age), range(trials), workers, progress)
    return collect(list(found.values()), reference, bench.metrics, seed=seed, confidence=confidence, data=digest_batches(bench.passes))


def compare(first: Evaluation, second: Evaluation, *, name: str | None = None, names: tuple[str, str] = ("first", "second")) -> Comparison:
    """Compare two chips trial by trial on common random numbers.

    Parameters
    ----------
    first, second
        Evaluations with the same seed and number of trials, on the same data.
    name
        Metric; the first where none is given.
    names
        What to call the two.

    Raises
    ------
    ValueError
        If seeds or trials differ: the pairs would not share their random numbers.

    Examples
    --------
    >>> import torch
    >>> import simulator as sim
    >>> from devices import RRAMCrossbar
    >>> model, x = torch.nn.Linear(4, 2), torch.rand(64, 4)
    >>> design = RRAMCrossbar.preset("wan_nature_2022")
    >>> fine, coarse = (
    ...     sim.evaluate(sim.compile(model, design.replace(adc={"bits": bits}), example_inputs=x), (x, model(x)), metrics="mae", trials=3)
    ...     for bits in (8, 3)
    ... )
    >>> compare(fine, coarse, names=("8 bits", "3 bits")).better
    '8 bits'
    """
    if first.seed != second.seed or list(first.frame["trial"]) != list(second.frame["trial"]):
        raise ValueError(
            f"Arguments `first` and `second` must have the same seed and trials, but got seeds {first.seed} and {second.seed} "
            f"with {len(first.frame)} and {len(second.frame)} trials; evaluate both alike"
        )
    if name is None and next(iter(first.metrics)) != next(iter(second.metrics)):
        names_of = next(iter(first.metrics)), next(iter(second.metrics))
        raise ValueError(
            f"Arguments `first` and `second` must be of one metric, but got {names_of[0]} and {names_of[1]}; evaluate both alike"
        )
    if first.data and second.data and first.data != second.data:
        raise ValueError("Arguments `first` and `second` must be measured on the same data, but these data differ; evaluate both alike")
    direction = first._metric(name).higher_is_better
    return paired_comparison(first.values(name), second.values(name), higher_is_better=direction, confidence=first.confidence, names=names)


def measure_trials(
    chip: Chip,
    passes: RepeatableBatches,
    metrics: dict[str, Metric],
    trials: Iterable[int],
    *,
    seed: int,
    seconds: float,
    workers: int,
    prepare: Prepare | None = None,
) -> Iterator[Trial]:
    """Yield the trials asked for as they are measured, in their order."""
    return work_through(_Measurement(Bench(private_copy(chip), passes, metrics, seed, prepare), seconds), trials, workers)


@dataclass(frozen=True)
class _Measurement:
    """Measure a trial on a bench."""

    bench: Bench
    seconds: float

    def __call__(self, trial: int) -> Trial:
        bench = self.bench
        chip = bench.instance(trial, self.seconds)
        rows = bench.rows()
        chip.require_reads()
        values = {name: bench.metrics[name].compute(part) for name, part in rows.items()}
        # The test set's own error hardly differs between chips of one design: the first few tell it.
        resampled = rows if trial < ERROR_TRIALS else {}
        errors = {name: bootstrap_error(part, bench.metrics[name].compute, seed=bench.seed) for name, part in resampled.items()}
        return Trial(trial, values, errors)


ERROR_TRIALS = 3
"""Trials that bootstrap the test set's error."""


def collect(
    found: Sequence[Trial], reference: dict[str, float], metrics: dict[str, Metric], *, seed: int, confidence: float, data: str = ""
) -> Evaluation:
    """Put measured trials together."""
    frame = pd.DataFrame([{"trial": one.trial, "seed": seed, **one.values} for one in found])
    errors = {name: [one.test_errors[name] for one in found if name in one.test_errors] for name in metrics}
    pooled = {name: (sum(e**2 for e in part) / len(part)) ** 0.5 if part else float("nan") for name, part in errors.items()}
    return Evaluation(frame, reference, pooled, metrics, seed, confidence, data)
