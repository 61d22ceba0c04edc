"""Measuring instances of a chip: what every measurement shares, from the metrics asked for to the loop over instances."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from simulator._isolation import one_thread
from simulator.batches import RepeatableBatches
from simulator.chip import Chip
from simulator.metrics import Metric, metric
from simulator.progress import track
from simulator.workers import work_through

MetricLike = str | Metric | Callable[[Tensor, Tensor], float]
Prepare = Callable[[Chip], object]
"""What is done to each instance of a chip before it is measured."""
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Bench:
    """What a worker needs to measure any instance of a chip.

    Attributes
    ----------
    chip
        A copy of its own, in eval mode.
    passes
        The data.
    metrics
        By name.
    seed
        Of all instances.
    prepare
        Called with each instance before it is measured; None for nothing.
    """

    chip: Chip
    passes: RepeatableBatches
    metrics: dict[str, Metric]
    seed: int
    prepare: Prepare | None = None

    @classmethod
    def of(
        cls,
        chip: Chip,
        data: Any,
        metrics: MetricLike | Sequence[MetricLike],
        *,
        trials: int,
        seed: int,
        batch_size: int,
        prepare: Prepare | None = None,
    ) -> "tuple[Bench, dict[str, float]]":
        """Check what a measurement was asked for; return the bench, and each metric's value for the float model."""
        chosen = resolve_metrics(metrics)
        for name, value, lowest in (("trials", trials, 1), ("seed", seed, 0), ("batch_size", batch_size, 1)):
            whole_number(name, value, lowest)
        if prepare is not None and not callable(prepare):
            raise ValueError(f"Argument `prepare` must be a function of a chip, but got {prepare!r:.80}")
        passes = RepeatableBatches(data, batch_size=batch_size, seed=seed)
        require_chip(chip)
        private = private_copy(chip)  # the reference too: a chip that another thread copies must not stand in float for a while
        return cls(private, passes, chosen, seed, prepare), measure_reference(private, passes, chosen)

    def instance(self, trial: int, seconds: float = 0.0) -> Chip:
        """Program the chip for a trial and let it grow old."""
        self.chip.program(self.seed, trial)
        if seconds:
            self.chip.age(seconds)
        if self.prepare is not None:
            self.prepare(self.chip)
            self.chip.eval()
        return self.chip

    def rows(self) -> dict[str, Tensor]:
        """Pass the data through the chip as it is; return what each metric keeps of every sample."""
        return metric_rows(self.chip, self.passes, self.metrics)

    def values(self) -> dict[str, float]:
        """Pass the data through the chip as it is; return each metric's value."""
        return {name: self.metrics[name].compute(part) for name, part in self.rows().items()}


def work_off(
    task: Callable[[Item], Result], items: Sequence[Item], workers: int, progress: bool | None, what: str = "chips"
) -> dict[Item, Result]:
    """Return the result of a task for every item, in this process or several, with a progress bar."""
    return dict(zip(items, track(work_through(task, items, workers), len(items), what, progress), strict=True))


def private_copy(chip: Chip) -> Chip:
    """Return a copy of a chip in eval mode that shares its parameters, without what was corrected for one instance."""
    copied = copy.deepcopy(chip, {id(parameter): parameter for parameter in chip.parameters()}).eval()
    for layer in copied.layers.values():
        layer.correct(None)
        layer.share_between_trials()
    return copied


def resolve_metrics(metrics: MetricLike | Sequence[MetricLike]) -> dict[str, Metric]:
    """Return metrics by name, in the order given; raises ValueError on two of one name."""
    several = [metrics] if isinstance(metrics, str | Metric) or not isinstance(metrics, Sequence) else metrics
    found = [metric(spec) for spec in several]
    if not found or len({one.name for one in found}) < len(found):
        raise ValueError(f"Argument `metrics` must hold metrics of different names, but got {[one.name for one in found]}")
    return {one.name: one for one in found}


def measure_reference(chip: Chip, passes: RepeatableBatches, metrics: dict[str, Metric]) -> dict[str, float]:
    """Return each metric's value for the float model with the chip's master weights."""
    require_chip(chip)
    with chip.reference():
        return {name: metrics[name].compute(rows) for name, rows in metric_rows(chip, passes, metrics).items()}


def metric_rows(model: nn.Module, passes: RepeatableBatches, metrics: dict[str, Metric]) -> dict[str, Tensor]:
    """Pass data through a model; return what each metric keeps of every sample."""
    device = next(model.parameters()).device
    found: dict[str, list[Tensor]] = {name: [] for name in metrics}
    with torch.no_grad(), one_thread():
        for batch in passes:
            if batch.targets is None:
                raise ValueError("Argument `data` must yield (inputs, targets), but its batches have no targets")
            there = batch.to(device)
            output = model(*there.inputs, **there.keywords)
            for name, one in metrics.items():
                found[name].append(one.rows(output, there.targets))
    return {name: metrics[name].join(part) for name, part in found.items()}


def require_chip(chip: Any) -> None:
    """Raise ValueError where an argument is no compiled chip."""
    if not isinstance(chip, Chip):
        raise ValueError(f"Argument `chip` must be a compiled chip, but got {type(chip).__name__}; call sim.compile(model, design) first")


def whole_number(name: str, value: Any, lowest: int) -> int:
    """Return an argument as an integer; ValueError where it is none of at least `lowest`."""
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < lowest:
        raise ValueError(f"Argument `{name}` must be an integer of at least {lowest}, but got {value!r}")
    return int(value)


def checked_age(seconds: Any) -> float:
    """Return an age in seconds as a float; ValueError where it is none."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < float("inf"):
        raise ValueError(f"Argument `seconds` must be finite and at least 0, but got {seconds!r}; give the time since programming")
    return float(seconds)
