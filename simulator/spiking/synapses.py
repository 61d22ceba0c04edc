"""Layers with weights in a spiking network: by events or as dense products, in floating point or exact integers."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from kernels.event_synapses import EventKernel, event_convolution, event_linear, events_are_faster
from simulator.operators import CONVOLUTIONS
from simulator.spiking.signals import Signal, merged, unmerged
from simulator.spiking.steps import Step
from simulator.weight_layers import WeightLayer, weight_layer

EXACT_IN_FLOAT32 = 1 << 24
"""Sums of integers below it are exact in float32, in any order."""

SUMMED_IN_32_BITS = 1 << 29
"""Sums below it are int32: several of them may still reach the same neurons."""


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

        `weight` is float32, or integers; `slot` tells the layouts of several weights apart. Sums that 32 bits may not hold are int64.
        """
        flat = counts.flatten(0, 1)
        integer = not weight.is_floating_point()
        reach = self._reach(weight, bias, counts, slot) if integer else 0
        if self.event_driven and reach < SUMMED_IN_32_BITS and flat.device.type == "cpu" and flat.dtype == torch.uint8:
            laid = self._for_events(weight, slot)
            if isinstance(laid, EventKernel):
                return unmerged(event_convolution(flat, laid, bias), counts)
            rows = event_linear(flat.reshape(-1, flat.shape[-1]).contiguous(), laid, bias)
            return rows.reshape(*counts.shape[:-1], rows.shape[-1])
        if not integer:
            return unmerged(self.dense(_channels_last(flat.float()), weight, bias), counts)
        exact = torch.float32 if reach < EXACT_IN_FLOAT32 else torch.float64
        sums = self.dense(flat.to(exact), weight.to(exact), None).to(torch.int32 if reach < SUMMED_IN_32_BITS else torch.int64)
        if bias is not None:
            sums = sums + bias.reshape(-1, *[1] * self.operator.dimensions)
        return unmerged(sums, counts)

    def _reach(self, weight: Tensor, bias: Tensor | None, counts: Tensor, slot: int) -> int:
        """Return a bound of the magnitude of integer sums of these spikes."""
        if (slot, "reach") not in self._laid_out:
            self._laid_out[slot, "reach"] = int(weight.long().abs().flatten(1).sum(1).max()) if weight.numel() else 0
        found: int = self._laid_out[slot, "reach"]
        added = 0 if bias is None else int(bias.abs().max())
        return found * max(1, int(counts.max()) if counts.numel() else 0) + added

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
