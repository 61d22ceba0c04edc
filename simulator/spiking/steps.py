"""The steps of a spiking network: synapses, populations of neurons, and what lies between them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from devices.spiking import SpikingNeuron
from kernels.event_synapses import EventKernel, add_spikes, event_convolution, event_linear, events_are_faster
from simulator.operators import CONVOLUTIONS
from simulator.weight_layers import WeightLayer, weight_layer

EXACT_IN_FLOAT32 = 1 << 24
"""Sums of integers below it are exact in float32, in any order."""


@dataclass(frozen=True, eq=False)
class Part:
    """Spikes of one origin: counts of shape (time, batch, ...), and what one spike is worth.

    Attributes
    ----------
    counts
        uint8, or int32 where pooling added up more than 255; time is 1 where nothing changes.
    worth
        A spike's value in units of the float network: a number, or one that broadcasts with a sample.
    """

    counts: Tensor
    worth: Tensor


@dataclass(frozen=True, eq=False)
class Signal:
    """What flows between two steps: a current, or spikes of one or several origins.

    Attributes
    ----------
    current
        Shape (time, batch, ...), float32, or int32 on integer cores; time is 1 where it is constant. None for spikes.
    parts
        Spikes; their values add up. Empty for a current.
    """

    current: Tensor | None = None
    parts: tuple[Part, ...] = ()

    @property
    def spikes(self) -> bool:
        """Whether this is spikes."""
        return bool(self.parts)

    def value(self) -> Tensor:
        """Return the value of each time step in units of the float network; not for currents of integer cores."""
        if self.current is not None:
            return self.current
        total: Tensor = sum(part.counts * part.worth for part in self.parts)  # type: ignore[assignment]
        return total

    def mean(self) -> Tensor:
        """Return the value averaged over time, shape (batch, ...)."""
        if self.current is not None:
            return self.current.float().mean(0)
        total: Tensor = sum(part.counts.float().mean(0) * part.worth for part in self.parts)  # type: ignore[assignment]
        return total


class Step(nn.Module, ABC):
    """One operation of a spiking network.

    Attributes
    ----------
    name
        Qualified name of the layer in the model.
    """

    chosen: tuple[str, ...] = ()
    """Buffers whose shapes calibration chooses."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        for name in self.chosen:
            saved = state_dict.get(prefix + name)
            if saved is not None and saved.shape != getattr(self, name).shape:
                setattr(self, name, torch.empty_like(saved, device=getattr(self, name).device))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @abstractmethod
    def reference(self, *inputs: Tensor) -> Tensor:
        """Compute in float, as the network that was converted does."""

    @abstractmethod
    def spiking(self, *inputs: Signal) -> Signal:
        """Compute all time steps with floating-point neurons."""


def merged(function: Any, values: Tensor) -> Tensor:
    """Apply a function of a batch to values of shape (time, batch, ...), all times at once."""
    return _unmerged(function(values.flatten(0, 1)), values)


def _unmerged(flat: Tensor, like: Tensor) -> Tensor:
    result: Tensor = flat.unflatten(0, like.shape[:2])
    return result


class Synapses(Step):
    """A linear layer or convolution between spikes (or the input) and neurons.

    Parameters
    ----------
    name
        Of the layer.
    layer
        A torch layer; its weights are the masters.

    Attributes
    ----------
    rate
        Spikes an input and time step, measured at calibration; NaN before. Events or a dense product are chosen by it.
    weight_change, bias_change
        What calibration adds to the masters, which stay those of the float network; without elements for nothing.
    extra
        What populations add to the bias, (outputs,); None for nothing.
    """

    rate: Tensor
    weight_change: Tensor
    bias_change: Tensor
    chosen = ("weight_change", "bias_change")

    def __init__(self, name: str, layer: nn.Module) -> None:
        super().__init__(name)
        held: WeightLayer = weight_layer(layer)
        assert isinstance(held.weight, nn.Parameter)
        self.kind = held.kind
        self.operator = held.operator
        self.weight = held.weight
        self.bias = held.bias
        self.extra: Tensor | None = None
        self.register_buffer("rate", torch.tensor(math.nan))
        self.register_buffer("weight_change", torch.empty(0))
        self.register_buffer("bias_change", torch.empty(0))
        self._laid_out: dict[Any, Any] = {}

    def reference(self, *inputs: Tensor) -> Tensor:
        """Compute the layer in float."""
        return self.dense(inputs[0], self.weight, self.bias)

    def dense(self, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Multiply values of the layer's input shape by weights of its weight's shape."""
        operator = self.operator
        if operator.dimensions == 0:
            return functional.linear(values, weight, bias)
        result: Tensor = CONVOLUTIONS[operator.dimensions](
            operator.surround(values), weight, bias, operator.stride, operator.padding, operator.dilation, operator.groups
        )
        return result

    @property
    def event_driven(self) -> bool:
        """Whether only inputs that spiked are looked at."""
        operator = self.operator
        plain = set(operator.dilation) <= {1} and operator.groups == 1
        known = operator.dimensions in (0, 2) and not any(operator.border)
        return known and events_are_faster(float(self.rate), self.weight, plain=plain)

    def forget(self) -> None:
        """Drop weights that were laid out for spikes; the masters or thresholds changed."""
        self._laid_out = {}

    def total_weight(self) -> Tensor:
        """Return the weight with what calibration adds to it."""
        weight = self.weight.detach()
        return weight + self.weight_change if self.weight_change.numel() else weight

    def total_bias(self) -> Tensor | None:
        """Return the bias with what calibration adds to it, float32 of shape (outputs,); None for none."""
        parts = [self.bias.detach()] if self.bias is not None else []
        parts += [self.bias_change] if self.bias_change.numel() else []
        parts += [self.extra] if self.extra is not None else []
        return None if not parts else parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)

    def scaled(self, worth: Tensor) -> Tensor:
        """Return the weight times the value of one spike of each input."""
        weight = self.total_weight()
        if worth.numel() == 1:
            return weight * worth.reshape(())
        linear = self.operator.dimensions == 0
        if any(size != 1 for size in (worth.shape[:-1] if linear else worth.shape[1:])):
            raise ValueError(
                f"Layer `{self.name}`: spikes of one input must be worth the same everywhere, but are not; use one threshold for each layer"
            )
        if linear:
            return weight * worth.reshape(-1)
        groups, places = self.operator.groups, [1] * self.operator.dimensions
        each = worth.reshape(groups, 1, -1, *places).expand(groups, weight.shape[0] // groups, -1, *places)
        return weight * each.reshape(weight.shape[0], -1, *places)

    def spiking(self, *inputs: Signal) -> Signal:
        """Return the current of each time step."""
        (signal,) = inputs
        if signal.current is not None:
            return Signal(merged(lambda flat: self.dense(_channels_last(flat), self.total_weight(), self.total_bias()), signal.current))
        total: Tensor | None = None
        for index, part in enumerate(signal.parts):
            found = self.apply_spikes(part.counts, self._scaled_once(part.worth, index), self.total_bias() if index == 0 else None, index)
            total = found if total is None else total + found
        return Signal(total)

    def apply_spikes(self, counts: Tensor, weight: Tensor, bias: Tensor | None, slot: int) -> Tensor:
        """Return the sums of the weights of the inputs that spiked: by events or as a dense product, float32 or exact int32.

        `weight` is float32, or integers; `slot` tells the layouts of several weights apart.
        """
        flat = counts.flatten(0, 1)
        integer = not weight.is_floating_point()
        if self.event_driven and flat.device.type == "cpu" and flat.dtype == torch.uint8:
            laid = self._for_events(weight, slot)
            if isinstance(laid, EventKernel):
                return _unmerged(event_convolution(flat, laid, bias), counts)
            rows = event_linear(flat.reshape(-1, flat.shape[-1]).contiguous(), laid, bias)
            return rows.reshape(*counts.shape[:-1], rows.shape[-1])
        if not integer:
            return _unmerged(self.dense(_channels_last(flat.float()), weight, bias), counts)
        largest = int(counts.max()) if counts.numel() else 0
        exact = torch.float32 if int(weight.abs().flatten(1).sum(1).max()) * max(1, largest) < EXACT_IN_FLOAT32 else torch.float64
        sums = self.dense(flat.to(exact), weight.to(exact), None).to(torch.int32)
        if bias is not None:
            sums = sums + bias.reshape(-1, *[1] * self.operator.dimensions)
        return _unmerged(sums, counts)

    def _for_events(self, weight: Tensor, slot: int) -> Any:
        """Return weights as events read them, laid out once."""
        if (slot, "events") not in self._laid_out:
            narrow = weight if weight.is_floating_point() else _narrow(weight)
            laid = narrow.t().contiguous() if weight.dim() == 2 else EventKernel.of(narrow, *self._pairs(), self.operator.groups)
            self._laid_out[slot, "events"] = laid
        return self._laid_out[slot, "events"]

    def event_kernel(self, signal: Signal) -> EventKernel | None:
        """Return the weights of a convolution that goes by events without groups or dilation; None of others, or other spikes."""
        counts = signal.parts[0].counts if len(signal.parts) == 1 else None
        if counts is None or counts.dim() != 5 or counts.dtype != torch.uint8 or counts.device.type != "cpu" or not self.event_driven:
            return None
        laid = self._for_events(self._scaled_once(signal.parts[0].worth, 0), 0)
        return laid if isinstance(laid, EventKernel) and laid.plain else None

    def _scaled_once(self, worth: Tensor, slot: int) -> Tensor:
        if slot not in self._laid_out:
            self._laid_out[slot] = self.scaled(worth)
        found: Tensor = self._laid_out[slot]
        return found

    def _pairs(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        stride, padding, dilation = ((pair[0], pair[1]) for pair in (self.operator.stride, self.operator.padding, self.operator.dilation))
        return stride, padding, dilation


def _channels_last(values: Tensor) -> Tensor:
    """Lay images out with their channels side by side, as events are looked at: all layers after this one keep it."""
    return values.contiguous(memory_format=torch.channels_last) if values.dim() == 4 else values


def _narrow(weight: Tensor) -> Tensor:
    largest = int(weight.abs().max()) if weight.numel() else 0
    return weight.to(torch.int8 if largest < 128 else torch.int16 if largest < 1 << 15 else torch.int32)


class Population(Step):
    """Neurons that stand for a ReLU, or those of a network that was trained with spikes.

    Parameters
    ----------
    name
        Of the activation in the model.
    neuron
        The neuron's conventions.
    ceiling
        Largest activation where the activation clips; None where it does not.
    threshold
        The threshold of a trained population; None where the conversion chooses it.

    Attributes
    ----------
    features_last
        Whether the channels are the last axis of a sample, as after a linear layer of tokens, and not the first, as after a convolution.
    threshold
        Where neurons fire, a number or one for each channel (channels, 1, ...), in units of the activation; (1, ..., channels) where
        features are last.
    initial
        Membrane before the first step, in the same unit: a number, or one for each neuron.
    shift
        What calibration adds to the current, in the same unit: a number, or one for each channel.
    """

    threshold: Tensor
    initial: Tensor
    shift: Tensor
    chosen = ("threshold", "initial", "shift")

    def __init__(self, name: str, neuron: SpikingNeuron, ceiling: float | None = None, threshold: float | None = None) -> None:
        super().__init__(name)
        self.neuron = neuron
        self.ceiling = ceiling
        self.trained = threshold is not None
        self.features_last = False
        self.register_buffer("threshold", torch.tensor(math.nan if threshold is None else float(threshold)))
        self.register_buffer("initial", torch.tensor(0.0))
        self.register_buffer("shift", torch.tensor(0.0))

    @property
    def shifted(self) -> bool:
        """Whether calibration adds anything to the current."""
        return bool(self.shift.any()) if self.shift.numel() > 1 else float(self.shift) != 0

    def channels_first(self, values: Tensor) -> Tensor:
        """Return values of shape (batch, ...) with the channels on axis 1."""
        return values.movedim(-1, 1) if self.features_last else values

    def for_sample(self, each: Tensor) -> Tensor:
        """Return a number, or one for each channel (channels, 1, ...), such that it broadcasts with a sample."""
        return each.movedim(0, -1) if self.features_last and each.dim() else each

    def reference(self, *inputs: Tensor) -> Tensor:
        """Rectify, and clip where the activation clips."""
        return torch.relu(inputs[0]) if self.ceiling is None else inputs[0].clamp(0.0, self.ceiling)

    def spiking(self, *inputs: Signal) -> Signal:
        """Never called: the network fires populations, in the arithmetic of its core."""
        raise NotImplementedError


class Pool(Step):
    """Average pooling: of activations, or as a sum of spikes that are each worth less.

    Parameters
    ----------
    name
        Of the layer.
    kernel, stride, padding
        As in torch, one number a dimension.
    divisor
        What a sum is divided by; None for the number of its places, 1 for sum pooling.
    """

    def __init__(self, name: str, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int], divisor: int | None = None) -> None:
        super().__init__(name)
        self.kernel, self.stride, self.padding = tuple(kernel), tuple(stride), tuple(padding)
        self.places = math.prod(self.kernel)
        self.divisor = divisor or self.places

    def reference(self, *inputs: Tensor) -> Tensor:
        """Average."""
        pooling = functional.avg_pool2d if len(self.kernel) == 2 else functional.avg_pool1d
        found = pooling(inputs[0], self.kernel, self.stride, self.padding)
        return found if self.divisor == self.places else found * (self.places / self.divisor)

    def spiking(self, *inputs: Signal) -> Signal:
        """Add up spikes, or average currents."""
        (signal,) = inputs
        if signal.current is not None:
            return Signal(merged(self.reference, signal.current))
        return Signal(parts=tuple(Part(self.sums(part.counts), self._worth(part.worth)) for part in signal.parts))

    def sums(self, counts: Tensor) -> Tensor:
        """Return sums instead of averages, of spikes or of integer currents."""
        exact = torch.float32 if counts.dtype == torch.uint8 else torch.float64
        summed = merged(lambda flat: (self.reference(flat.to(exact)) * self.divisor).round_(), counts)
        # Sums of sums outgrow eight bits: whole images that spike, or pools after pools.
        wide = counts.dtype == torch.uint8 and summed.numel() > 0 and float(summed.max()) > 255
        return summed.to(torch.int32 if wide else counts.dtype)

    def _worth(self, worth: Tensor) -> Tensor:
        if any(size != 1 for size in worth.shape[1:]):
            raise ValueError(
                f"Layer `{self.name}`: spikes of one channel must be worth the same everywhere, but are not; use one threshold"
            )
        return worth / self.divisor


class MaxPool(Step):
    """Maximum pooling of spikes at each time step, on cores that have it: an output spikes when one of its inputs does.

    That is not the maximum of the rates, which the network was trained with.
    """

    def __init__(self, name: str, kernel: Any, stride: Any, padding: Any) -> None:
        super().__init__(name)
        self.options = (kernel, stride, padding)

    def reference(self, *inputs: Tensor) -> Tensor:
        """Take the maximum."""
        return functional.max_pool2d(inputs[0], *self.options)

    def spiking(self, *inputs: Signal) -> Signal:
        """Take the maximum of the spikes."""
        (part,) = inputs[0].parts
        return Signal(parts=(Part(merged(lambda flat: self.reference(flat.float()).to(part.counts.dtype), part.counts), part.worth),))


class Flatten(Step):
    """Flatten a sample into a vector."""

    def reference(self, *inputs: Tensor) -> Tensor:
        """Flatten all but the batch."""
        return inputs[0].flatten(1)

    def spiking(self, *inputs: Signal) -> Signal:
        """Flatten all but time and batch."""
        (signal,) = inputs
        if signal.current is not None:
            return Signal(signal.current.flatten(2))
        parts = []
        for part in signal.parts:
            worth = part.worth if part.worth.numel() == 1 else part.worth.expand(part.counts.shape[2:]).flatten()
            parts.append(Part(part.counts.flatten(2), worth))
        return Signal(parts=tuple(parts))


class Sum(Step):
    """The sum of a residual: currents add up before neurons fire, spikes reach the same synapses."""

    def reference(self, *inputs: Tensor) -> Tensor:
        """Add."""
        return inputs[0] + inputs[1]

    def spiking(self, *inputs: Signal) -> Signal:
        """Add currents, and spikes as currents of their worth; spikes alone stay spikes."""
        first, second = inputs
        if first.spikes and second.spikes:
            return Signal(parts=first.parts + second.parts)
        if first.spikes:
            first, second = second, first
        assert first.current is not None
        if second.current is not None:
            return Signal(first.current + second.current)
        total = first.current
        for part in second.parts:  # one pass for each where one worth holds for all
            single = part.worth.numel() == 1 and total.shape == part.counts.shape and part.counts.dtype == torch.uint8
            total = add_spikes(total, part.counts, float(part.worth)) if single else total + part.counts * part.worth
        return Signal(total)


class Concatenation(Step):
    """Channels of several origins side by side."""

    def reference(self, *inputs: Tensor) -> Tensor:
        """Concatenate along the channels."""
        return torch.cat(inputs, 1)

    def spiking(self, *inputs: Signal) -> Signal:
        """Concatenate spikes, each with its worth, or currents."""
        times = max((one.current if one.current is not None else one.parts[0].counts).shape[0] for one in inputs)
        if all(one.current is not None for one in inputs):
            return Signal(torch.cat([_lasting(one.current, times) for one in inputs if one.current is not None], 2))
        if any(len(one.parts) != 1 for one in inputs):
            raise ValueError(f"Layer `{self.name}`: what is concatenated must be spikes of one origin each, but is not; concatenate first")
        counts = [_lasting(one.parts[0].counts, times) for one in inputs]
        worths = [one.parts[0].worth for one in inputs]
        by_channel = all(size == 1 for worth in worths for size in worth.shape[1:])
        rest = [1] * (counts[0].dim() - 3) if by_channel else counts[0].shape[3:]
        worth = torch.cat([one.expand(part.shape[2], *rest) for one, part in zip(worths, counts, strict=True)])
        return Signal(parts=(Part(torch.cat(counts, 2), worth),))


def _lasting(values: Tensor, times: int) -> Tensor:
    return values if values.shape[0] == times else values.expand(times, *values.shape[1:])
