"""The steps of a spiking network that have no weights: populations of neurons, and what lies between them and synapses."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from devices.spiking import SpikingNeuron
from kernels.event_synapses import add_spikes
from simulator.spiking.signals import Part, Signal, lasting, merged


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

    @property
    def worth(self) -> Tensor:
        """Value of a spike in units of the float network: the threshold where it stands for a ReLU, 1 of a trained neuron."""
        return torch.ones_like(self.threshold) if self.trained else self.threshold

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
            return Signal(torch.cat([lasting(one.current, times) for one in inputs if one.current is not None], 2))
        if any(len(one.parts) != 1 for one in inputs):
            raise ValueError(f"Layer `{self.name}`: what is concatenated must be spikes of one origin each, but is not; concatenate first")
        counts = [lasting(one.parts[0].counts, times) for one in inputs]
        worths = [one.parts[0].worth for one in inputs]
        by_channel = all(size == 1 for worth in worths for size in worth.shape[1:])
        rest = [1] * (counts[0].dim() - 3) if by_channel else counts[0].shape[3:]
        worth = torch.cat([one.expand(part.shape[2], *rest) for one, part in zip(worths, counts, strict=True)])
        return Signal(parts=(Part(torch.cat(counts, 2), worth),))
