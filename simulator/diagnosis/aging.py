"""What is left of a metric as time passes, with and without compensation of drift."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from simulator._isolation import one_thread
from simulator.batches import Batch
from simulator.chip import Chip
from simulator.diagnosis.probing import calls_heard, inputs_of, read_in, without_bias
from simulator.hardware import HardwareLayer, Mode, in_mode
from simulator.measuring import Bench, MetricLike, checked_age, work_off
from simulator.metrics import Metric
from simulator.statistics import mean_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

AGES = (1.0, 60.0, 3600.0, 86400.0, 2.6e6, 3.15e7, 3.15e8)
"""A second, a minute, an hour, a day, a month, a year and ten years."""
NONE = "none"
COMPENSATIONS = (NONE, "global", "column")


@dataclass(frozen=True)
class Retention:
    """Result of `retention`.

    Attributes
    ----------
    frame
        A row per age, compensation and trial: ``seconds``, ``compensation``, ``trial`` and a column per metric.
    factors
        The digital factor of each layer: ``seconds``, ``compensation``, ``trial``, ``layer`` and ``factor`` (the mean over columns for
        compensation by column).
    reference
        Each metric's value for the float model.
    metrics
        The metrics, by name.
    seed
        As given.
    confidence
        Of the intervals.
    """

    frame: pd.DataFrame
    factors: pd.DataFrame
    reference: dict[str, float]
    metrics: dict[str, Metric]
    seed: int
    confidence: float = 0.95

    def summary(self, name: str | None = None) -> pd.DataFrame:
        """Return the mean of a metric (the first by default) and its interval for each age and compensation."""
        metric = name or next(iter(self.metrics))
        rows = []
        for (kind, seconds), part in self.frame.groupby(["compensation", "seconds"], sort=False):
            mean = mean_interval([float(value) for value in part[metric]], self.confidence)
            rows.append(
                {"compensation": kind, "seconds": seconds, "mean": mean.value, "low": mean.low, "high": mean.high, "trials": mean.n}
            )
        return pd.DataFrame(rows)

    def __str__(self) -> str:
        lines = []
        for name in self.metrics:
            table = self.summary(name)
            kinds = list(dict.fromkeys(table["compensation"]))
            lines.append(f"{name}, float {self.reference[name]:.4g}")
            lines.append(f"  {'seconds':>10}" + "".join(f"  {kind:>20}" for kind in kinds))
            for seconds in dict.fromkeys(table["seconds"]):
                rows = {row["compensation"]: row for row in table[table["seconds"] == seconds].to_dict(orient="records")}
                lines.append(f"  {seconds:>10.3g}" + "".join(f"  {_with_error(rows[kind]):>20}" for kind in kinds))
        return "\n".join(lines)

    def figure(self, *, metric: str | None = None) -> "Figure":
        """Return a figure of a metric (the first by default) over the logarithm of time."""
        from simulator.diagnosis.figures import draw_retention  # matplotlib takes a second to import

        return draw_retention(self, metric or next(iter(self.metrics)))


def retention(
    chip: Chip,
    data: Any,
    *,
    metrics: MetricLike | Sequence[MetricLike] = "accuracy",
    seconds: Sequence[float] = AGES,
    compensation: Sequence[str | None] = (None, "global"),
    calibration: Any = None,
    trials: int = 5,
    seed: int = 0,
    workers: int = 1,
    batch_size: int = 256,
    confidence: float = 0.95,
    progress: bool | None = None,
) -> Retention:
    """Measure a chip at several ages, with and without compensation of drift.

    Compensation multiplies what each layer reads, before its bias, by a digital factor that the chip measures on itself: every layer
    reads the same calibration inputs right after programming, y(0), and at its age, y(t), and the factor is
    ``<y(0), e> / <y(t), e>`` with e, the outputs that float gives for these inputs: noise of single reads does not bias it. It
    makes up for what all cells of a layer lose alike, neither for differences between cells nor for resolution of the converters, whose
    ranges stay. Where ``<y(t), e>`` is not positive nothing is left to scale, and the factor is 1. The chip given stays as it is.

    Parameters
    ----------
    chip
        From `simulator.compile`.
    data
        A loader, data set, batches of (inputs, targets), or a pair of tensors.
    metrics
        As in `evaluate`.
    seconds
        Ages, in seconds since programming.
    compensation
        Any of None, ``"global"`` (one factor a layer) and ``"column"`` (one factor an output). Quantum layers have none: what they give
        are expectations.
    calibration
        Inputs that factors are measured on, one batch of it: batches or a tensor; by default the first batch of `data`, without targets.
    trials
        Programmed instances, at least 1.
    seed
        Seed of all draws; trial k without compensation is trial k of ``evaluate(..., seconds=...)``.
    workers
        Processes; results are the same bits for any number.
    batch_size
        Batch size for data that are not batched yet.
    confidence
        Of the intervals.
    progress
        Show a progress bar; by default on a terminal.

    Returns
    -------
    Retention
        Print it for a table; ``.figure()`` draws it.

    Raises
    ------
    ValueError
        If the data are empty, an argument is out of range, or outputs and targets do not fit the metric.

    Examples
    --------
    >>> import simulator as sim
    >>> from devices import RRAMCrossbar
    >>> model, x = torch.nn.Linear(16, 4), torch.rand(64, 16)
    >>> chip = sim.compile(model, RRAMCrossbar.preset("wan_nature_2022"), example_inputs=x)
    >>> result = retention(chip, (x, model(x).argmax(1)), seconds=(1, 3600), trials=2)
    >>> result.summary()["compensation"].tolist()
    ['none', 'none', 'global', 'global']
    """
    ages = [checked_age(age) for age in ([seconds] if isinstance(seconds, int | float) else seconds)]
    given = [compensation] if compensation is None or isinstance(compensation, str) else compensation
    kinds = [NONE if kind is None else kind for kind in given]
    if not ages or len(set(ages)) < len(ages):
        raise ValueError(f"Argument `seconds` must hold different ages, but got {ages}")
    if not kinds or len(set(kinds)) < len(kinds) or not set(kinds) <= set(COMPENSATIONS):
        raise ValueError(f"Argument `compensation` must hold different ones of None, 'global' and 'column', but got {list(given)}")
    bench, reference = Bench.of(chip, data, metrics, trials=trials, seed=seed, batch_size=batch_size)
    examples = next(iter(bench.passes if calibration is None else inputs_of(calibration, batch_size, seed)))
    items = [(age, trial) for age in ages for trial in range(trials)]
    task = _Measurement(bench, Batch(examples.inputs, examples.keywords), tuple(kinds))
    found = work_off(task, items, workers, progress)
    frame, factors = [], []
    for kind in kinds:
        for age, trial in items:
            values, scales = found[age, trial][kind]
            frame.append({"seconds": age, "compensation": kind, "trial": trial, **values})
            factors += [
                {"seconds": age, "compensation": kind, "trial": trial, "layer": name, "factor": scale} for name, scale in scales.items()
            ]
    columns = ["seconds", "compensation", "trial", "layer", "factor"]
    return Retention(pd.DataFrame(frame), pd.DataFrame(factors, columns=columns), reference, bench.metrics, seed, confidence)


@dataclass(frozen=True)
class _Measurement:
    """Measure a trial at an age on a bench, with each compensation."""

    bench: Bench
    examples: Batch
    kinds: tuple[str, ...]

    def __call__(self, item: tuple[float, int]) -> dict[str, tuple[dict[str, float], dict[str, float]]]:
        age, trial = item
        found = {}
        for kind in self.kinds:
            factors = {} if kind == NONE else self._factors(age, trial, by_column=kind == "column")
            chip = self.bench.instance(trial, age)
            for name, factor in factors.items():
                rescale(chip.layers[name], factor)
            found[kind] = self.bench.values(), {name: float(factor.mean()) for name, factor in factors.items()}
        return found

    def _factors(self, age: float, trial: int, by_column: bool) -> dict[str, Tensor]:
        chip = self.bench.instance(trial)
        young = measure_overlaps(chip, self.examples, by_column)
        chip.age(age)
        old = measure_overlaps(chip, self.examples, by_column)
        return {
            name: torch.where((old[name] > 0) & (young[name] > 0), young[name] / old[name], 1.0).float() for name in young if name in old
        }


def measure_overlaps(chip: Chip, examples: Batch, by_column: bool) -> dict[str, Tensor]:
    """Return, for each layer, the product of what it reads and what float gives, for the inputs that it has in the float network.

    Of shape (1,), or (outputs,) by column; the layers' own state decides their age. Read counters move on.
    """
    found: dict[str, Tensor] = {}

    def hear(layer: HardwareLayer, inputs: Tensor, outputs: Tensor) -> None:
        if layer.takes_circuits:
            return  # its outputs are expectations, not currents that a column's cells add up to
        ideal = without_bias(layer, outputs)
        product = (without_bias(layer, read_in(layer, Mode.HARDWARE, inputs)) * ideal).double()
        axis = product.dim() - 1 - layer.operator.dimensions
        total = product.movedim(axis, 0).flatten(1).sum(1) if by_column else product.sum().reshape(1)
        found[layer.name] = found[layer.name] + total if layer.name in found else total

    batch = examples.to(next(chip.parameters()).device)
    with in_mode(chip, Mode.FLOAT), calls_heard(chip, hear), torch.no_grad(), one_thread():
        chip(*batch.inputs, **batch.keywords)
    return found


def rescale(layer: HardwareLayer, factor: Tensor) -> None:
    """Let the digital side multiply what a layer reads, without its bias, by one factor or one an output."""
    outputs = layer.weight.shape[0]
    scale = factor.to(layer.weight).expand(outputs)
    bias: Tensor | None = layer.bias
    shift = torch.zeros_like(scale) if bias is None else (1 - scale) * bias.detach()
    layer.correct(torch.stack((scale, shift)))


def _with_error(row: Any) -> str:
    half = (row["high"] - row["low"]) / 2
    return f"{row['mean']:.4f} ± {half:.4f}" if math.isfinite(half) else f"{row['mean']:.4f}"
