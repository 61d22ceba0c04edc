"""What spiked when: counts and synaptic operations by layer and time, accuracy over time, and when to stop early."""

from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from simulator._isolation import one_thread
from simulator.batches import RepeatableBatches
from simulator.chip import Chip
from simulator.spiking.network import SpikingNetwork
from simulator.spiking.signals import Part, Signal
from simulator.spiking.steps import Population, Step, Sum
from simulator.spiking.synapses import Synapses
from simulator.statistics import Interval, wilson_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Activity:
    """The spikes of one call.

    Attributes
    ----------
    counts
        Spikes by name of the population: uint8 of shape (timesteps, batch, ...).
    synops
        Synaptic operations by name of the layer with weights, shape (timesteps,), of the whole batch: a weight that the chip has, which is
        not zero, is used each time its input spikes. A shortcut that adds spikes to a current, and spikes that reach neurons without a
        layer, use one synapse each, by name of the sum or population.
    events
        Whether each layer with weights was computed by events (True) or as a dense product; others have no entry.
    rates
        Spikes an input and step, by name of the layer with weights; NaN where its input is no spikes.
    """

    counts: dict[str, Tensor]
    synops: dict[str, Tensor]
    events: dict[str, bool]
    rates: dict[str, float]

    @property
    def timesteps(self) -> int:
        """Time steps of the call."""
        return len(next(iter(self.counts.values())))

    @property
    def frame(self) -> pd.DataFrame:
        """A row for each layer and time step: ``layer``, ``time``, ``spikes``, ``synops``, totals of the batch."""
        rows = []
        for name, counts in self.counts.items():
            totals = counts.flatten(1).sum(1, dtype=torch.int64).tolist()
            rows += [{"layer": name, "time": t, "spikes": count, "synops": None} for t, count in enumerate(totals)]
        for name, operations in self.synops.items():
            rows += [{"layer": name, "time": t, "spikes": None, "synops": int(count)} for t, count in enumerate(operations.tolist())]
        return pd.DataFrame(rows).astype({"spikes": "Int64", "synops": "Int64"})

    @property
    def layers(self) -> pd.DataFrame:
        """A row for each layer: ``spikes_per_sample``, ``rate`` (spikes a neuron and step), ``synops_per_sample``, ``computed``."""
        rows = []
        for name, counts in self.counts.items():
            batch = counts.shape[1]
            total = int(counts.sum(dtype=torch.int64))
            rows.append({"layer": name, "spikes_per_sample": total / batch, "rate": total / counts.numel(), "synops_per_sample": None,
                         "computed": ""})  # fmt: skip
        for name, operations in self.synops.items():
            computed = {True: "events", False: "dense", None: ""}[self.events.get(name)]
            each = float(operations.sum()) / self._batch
            counted = {"spikes_per_sample": None, "rate": self.rates[name], "synops_per_sample": each, "computed": computed}
            rows.append({"layer": name, **counted})
        frame = pd.DataFrame(rows)
        return frame.astype({"spikes_per_sample": "float64", "rate": "float64", "synops_per_sample": "float64"})

    @property
    def _batch(self) -> int:
        return int(next(iter(self.counts.values())).shape[1])

    def raster(self, sample: int = 0, neurons: int = 60) -> "Figure":
        """Return a raster of one sample: a dot for each spike, time to the right, up to `neurons` neurons of each population."""
        from simulator.spiking.figures import raster

        return raster(self, sample, neurons)

    def histogram(self) -> "Figure":
        """Return how the rates of the neurons of each population are distributed."""
        from simulator.spiking.figures import rate_histogram

        return rate_histogram(self)


def network_of(chip: Chip) -> SpikingNetwork:
    """Return the spiking network of a chip.

    Raises
    ------
    ValueError
        If it is no chip, or has no spiking part, or several.
    """
    if not isinstance(chip, Chip):
        raise ValueError(f"Argument `chip` must be a chip, but got {type(chip).__name__}; call simulator.compile onto a SpikingCore first")
    found = [layer for layer in chip.layers.values() if isinstance(layer, SpikingNetwork)]
    if len(found) != 1:
        raise ValueError(f"Argument `chip` must have one part on spiking cores, but has {len(found)}; compile onto a SpikingCore")
    return found[0]


def record(network: SpikingNetwork, inputs: Tensor) -> Activity:
    """Run a network and count every spike.

    Parameters
    ----------
    network
        The network.
    inputs
        Of one call.
    """
    if not isinstance(inputs, Tensor) or not len(inputs):
        given = f"a tensor of shape {tuple(inputs.shape)}" if isinstance(inputs, Tensor) else type(inputs).__name__
        raise ValueError(f"Argument `inputs` must be a tensor of at least one sample, but got {given}; pass a batch")
    counts: dict[str, list[Tensor]] = {name: [] for name in network.populations}
    synops: dict[str, Tensor] = {}
    rates: dict[str, list[float]] = {}

    def count(name: str, part: Part, fan_out: Tensor | None) -> None:
        reached = part.counts.flatten(2).double()
        done = reached.sum((1, 2)) if fan_out is None else (reached @ fan_out.flatten().double()).sum(1)
        synops[name] = synops.get(name, torch.zeros_like(done)) + done
        rates.setdefault(name, []).append(part.counts.count_nonzero().item() / max(1, part.counts.numel()))

    def visit(name: str, step: Step, arguments: tuple[Signal, ...], output: Signal) -> None:
        if isinstance(step, Population):
            counts[name].append(output.parts[0].counts)
        if isinstance(step, Synapses) and arguments[0].spikes:
            for index, part in enumerate(arguments[0].parts):
                weight = step.total_weight() if network._integers is None else network._integers.weights[name][index]
                count(name, part, _fan_out(step, weight, part.counts.flatten(0, 1)[:1].float()))
        if isinstance(step, Population) or (isinstance(step, Sum) and output.current is not None):
            for place, signal in enumerate(arguments):
                for index, part in enumerate(signal.parts):
                    worth = part.worth if network._integers is None else network._integers.worths[name][place][index]
                    count(name, part, (worth != 0).expand(part.counts.shape[2:]))

    network.over_time(inputs, visit)
    measured = {name: sum(found) / len(found) for name, found in rates.items() if found}
    return Activity(
        {name: torch.cat(parts, 1) for name, parts in counts.items()},
        {name: total.round().long() for name, total in synops.items()},
        {name: step.event_driven for name, step in network.synapses.items() if name in synops},
        measured,
    )


def _fan_out(step: Synapses, weight: Tensor, like: Tensor) -> Tensor:
    """Return how many weights other than zero a spike of each input uses, of a sample's shape: the gradient of the sum over ones."""
    probe = torch.zeros_like(like, requires_grad=True)
    with torch.enable_grad():
        step.dense(probe, (weight.detach() != 0).to(probe.dtype), None).sum().backward()
    assert probe.grad is not None
    return probe.grad[0]


def activity(chip: Chip, inputs: Tensor) -> Activity:
    """Run a chip once and return what spiked when.

    Parameters
    ----------
    chip
        With one part on spiking cores, which is the whole model.
    inputs
        Of one call.

    Raises
    ------
    ValueError
        If the chip has no spiking part, or inputs are no tensor of at least one sample.

    Examples
    --------
    >>> import simulator as sim
    >>> from devices import SpikingCore
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> chip = sim.compile(net, SpikingCore.preset("ideal"), example_inputs=torch.rand(8, 4), timesteps=4)
    >>> list(activity(chip, torch.rand(5, 4)).frame.columns)
    ['layer', 'time', 'spikes', 'synops']
    """
    network = network_of(chip)
    with one_thread():
        return record(network, inputs)


@dataclass(frozen=True, eq=False)
class TimeAccuracy:
    """Accuracy after each time step, all from one run.

    Attributes
    ----------
    frame
        A row for each number of time steps: ``timesteps``, ``accuracy`` and its 95 % Wilson interval, ``low`` and ``high``.
    samples
        Samples that were run.
    """

    frame: pd.DataFrame
    samples: int

    def at(self, timesteps: int) -> Interval:
        """Return the accuracy after a number of steps, with its 95 % Wilson interval."""
        share = self.frame.loc[self.frame["timesteps"] == timesteps, "accuracy"].to_numpy(float)
        if len(share) != 1:
            raise ValueError(
                f"Argument `timesteps` must be one of {self.frame['timesteps'].tolist()}, but got {timesteps!r}; choose one of them"
            )
        return wilson_interval(round(share[0] * self.samples), self.samples)

    def figure(self) -> "Figure":
        """Return accuracy over time with its interval."""
        from simulator.spiking.figures import accuracy_figure

        return accuracy_figure(self)


def accuracy_over_time(chip: Chip, data: Any, *, batch_size: int = 256) -> TimeAccuracy:
    """Return the accuracy after 1, 2, ... T time steps from one run of T steps.

    Thresholds and potentials stay those chosen for T.

    Parameters
    ----------
    chip
        Whose whole model lies on spiking cores.
    data
        A loader, data set, batches of (inputs, targets), or a pair of tensors.
    batch_size
        For data that are not batched.

    Examples
    --------
    >>> import simulator as sim
    >>> from devices import SpikingCore
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> x = torch.rand(64, 4)
    >>> chip = sim.compile(net, SpikingCore.preset("ideal"), example_inputs=x, timesteps=8)
    >>> len(accuracy_over_time(chip, (x, net(x).argmax(1))).frame)
    8
    """
    right, total = None, 0
    for outputs, targets in _outputs(chip, data, batch_size):
        hits = (outputs.cumsum(0).argmax(2) == targets).sum(1)
        right = hits if right is None else right + hits
        total += len(targets)
    assert right is not None
    rows = []
    for index, count in enumerate(right.tolist()):
        interval = wilson_interval(count, total)
        rows.append({"timesteps": index + 1, "accuracy": count / total, "low": interval.low, "high": interval.high})
    return TimeAccuracy(pd.DataFrame(rows), total)


@dataclass(frozen=True)
class EarlyExit:
    """What stopping early gains and costs.

    Attributes
    ----------
    confidence
        The softmax probability at which a sample stops.
    accuracy
        With stopping, and its 95 % interval.
    full_accuracy
        After all steps.
    mean_timesteps
        Steps that a sample takes on average.
    timesteps
        Steps of a sample that never stops early.
    """

    confidence: float
    accuracy: Interval
    full_accuracy: float
    mean_timesteps: float
    timesteps: int

    def __str__(self) -> str:
        return (
            f"accuracy {self.accuracy.value:.3f} ({self.accuracy.low:.3f} to {self.accuracy.high:.3f}) after {self.mean_timesteps:.1f} "
            f"steps on average, {self.full_accuracy:.3f} after all {self.timesteps}"
        )


def early_exit(chip: Chip, data: Any, *, confidence: float = 0.9, batch_size: int = 256) -> EarlyExit:
    """Stop each sample when the softmax of its mean output is sure enough.

    Parameters
    ----------
    chip, data, batch_size
        As for `accuracy_over_time`.
    confidence
        Probability of the most probable class at which a sample stops, above 0 and below 1.

    Raises
    ------
    ValueError
        If `confidence` is out of range.

    Examples
    --------
    >>> import simulator as sim
    >>> from devices import SpikingCore
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> x = torch.rand(64, 4)
    >>> chip = sim.compile(net, SpikingCore.preset("ideal"), example_inputs=x, timesteps=8)
    >>> early_exit(chip, (x, net(x).argmax(1)), confidence=0.5).mean_timesteps
    1.0
    """
    if not isinstance(confidence, Real) or not 0 < confidence < 1:
        raise ValueError(f"Argument `confidence` must be above 0 and below 1, but got {confidence!r}; use 0.9 or so")
    right = full = total = steps = 0
    length = 1
    for outputs, targets in _outputs(chip, data, batch_size):
        length = len(outputs)
        times = torch.arange(1, length + 1, dtype=outputs.dtype).reshape(-1, 1, 1)
        means = outputs.cumsum(0) / times
        sure = means.softmax(2).amax(2) >= confidence
        sure[-1] = True
        moment = sure.to(torch.uint8).argmax(0)
        answers = means.argmax(2)
        right += int((answers[moment, torch.arange(len(targets))] == targets).sum())
        full += int((answers[-1] == targets).sum())
        steps += int((moment + 1).sum())
        total += len(targets)
    return EarlyExit(confidence, wilson_interval(right, total), full / total, steps / total, length)


def _outputs(chip: Chip, data: Any, batch_size: int) -> Iterable[tuple[Tensor, Tensor]]:
    network = network_of(chip)
    if chip.model is not network:
        raise ValueError("Argument `chip` must have its whole model on spiking cores, but has other parts; evaluate it as a whole instead")
    if not isinstance(batch_size, Integral) or batch_size < 1:
        raise ValueError(f"Argument `batch_size` must be an integer of at least 1, but got {batch_size!r}; use 256 or so")
    with torch.no_grad(), one_thread():
        for batch in RepeatableBatches(data, batch_size=batch_size):
            if batch.targets is None:
                raise ValueError("Argument `data` must yield (inputs, targets), but its batches have no targets")
            outputs = network.over_time(batch.inputs[0])
            if outputs.dim() != 3 or batch.targets.shape != outputs.shape[1:2]:
                raise ValueError(
                    f"Argument `data` must have a class for each sample, targets of shape ({outputs.shape[1]},), but got "
                    f"{tuple(batch.targets.shape)}; pass argmax(1) of one-hot targets"
                )
            yield outputs, batch.targets
