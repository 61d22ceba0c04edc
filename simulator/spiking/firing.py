"""How neurons fire for a current: in floating point, in the integers of a core, or by a core's own rule."""

import torch
from torch import Tensor

from devices.base import SpikingCore
from devices.spiking import IntegerArithmetic, NeuromorphicChip
from kernels.event_synapses import add_spikes
from kernels.spikes import integrate_and_fire, integrate_and_fire_fixed
from simulator.spiking.quantizing import Integers
from simulator.spiking.signals import Signal, lasting
from simulator.spiking.steps import Pool, Population, Step, Sum
from simulator.spiking.synapses import Synapses


def fire_floats(core: SpikingCore, population: Population, current: Tensor) -> Tensor:
    """Return the spikes of a population, uint8, for a float32 current of each time step."""
    if not isinstance(core, NeuromorphicChip):
        return _with_steps(core, current, population)
    images, neuron = current.dim() == 5, population.neuron
    flow = _last(current, images)
    out = torch.empty(flow.shape, dtype=torch.uint8, device=current.device)
    integrate_and_fire(
        flow, _last(population.threshold, images), _last(population.initial, images), neuron.decay, neuron.reset, neuron.comparator, out,
        reset_moment=neuron.reset_moment,
    )  # fmt: skip
    return _first(out)


def fire_integers(
    name: str, population: Population, signal: Signal, integers: Integers, arithmetic: IntegerArithmetic, times: int, *, shifted: bool
) -> tuple[Tensor, int]:
    """Return the spikes of a population on an integer core, uint8, and how often a membrane overflowed.

    Parameters
    ----------
    name, population
        Which neurons.
    signal
        Their input: an integer current, the input's own in float32, or spikes that reach them directly.
    integers, arithmetic
        The network's numbers and the core's widths.
    times
        Time steps.
    shifted
        Whether what calibration adds to the current is not in a bias already.
    """
    neuron = population.neuron
    if signal.current is None:
        weighed = [p.counts.to(torch.int32) * w for p, w in zip(signal.parts, integers.worths[name][0], strict=True)]
        current = torch.stack(weighed).sum(0, dtype=torch.int32) if len(weighed) > 1 else weighed[0]
    elif signal.current.is_floating_point():  # the input itself
        current = (signal.current.double() * integers.gain[name]).round().to(torch.int32)
    else:
        current = signal.current
    if shifted and bool(integers.shift[name].any()):
        current = current + integers.shift[name]
    keep, shift = (1, 0) if neuron.decay == 1 else (arithmetic.keep(neuron.decay), arithmetic.decay_bits)
    images = current.dim() == 5
    spikes, _, beyond = integrate_and_fire_fixed(
        _last(lasting(current, times), images), _last(integers.thresholds[name], images), _last(integers.initial[name], images),
        keep=keep, shift=shift,
        bits=arithmetic.state_bits, overflow=arithmetic.overflow, reset=neuron.reset, comparator=neuron.comparator,
    )  # fmt: skip
    return _first(spikes), int(beyond.sum())


def integer_current(name: str, step: Step, arguments: tuple[Signal, ...], integers: Integers) -> Signal:
    """Run a stage whose output is an integer current."""
    if isinstance(step, Synapses):
        total = None
        for index, (part, weight) in enumerate(zip(arguments[0].parts, integers.weights[name], strict=True)):
            found = step.apply_spikes(part.counts, weight, integers.bias.get(name) if index == 0 else None, index)
            total = found if total is None else total + found
        return Signal(total)
    if isinstance(step, Sum):
        sums = None
        for index, signal in enumerate(arguments):
            if signal.current is not None:
                current = signal.current
                if current.is_floating_point():
                    current = (current.double() * integers.gain[name]).round().to(torch.int32)
                sums = current if sums is None else sums + current
            for part, worth in zip(signal.parts, integers.worths[name][index], strict=True):
                fits = worth.numel() == 1 and part.counts.dtype == torch.uint8
                if sums is not None and fits and sums.shape == part.counts.shape and sums.dtype == torch.int32:
                    sums = add_spikes(sums, part.counts, int(worth))
                    continue
                found = part.counts.to(torch.int32) * worth
                sums = found if sums is None else sums + found
        return Signal(sums)
    if isinstance(step, Pool):
        assert arguments[0].current is not None
        return Signal(step.sums(arguments[0].current))
    return step.spiking(*arguments)


def _last(values: Tensor, images: bool) -> Tensor:
    """Move the channels of images to the end, where they lie in memory; numbers stay as they are."""
    return values.movedim(-3, -1) if images and values.dim() >= 3 else values


def _first(values: Tensor) -> Tensor:
    return values.movedim(-1, -3) if values.dim() == 5 else values


def _with_steps(core: SpikingCore, current: Tensor, step: Population) -> Tensor:
    """Fire a population by a core's own rule, one step after the other."""
    flat = current.flatten(2)
    sample = current.shape[2:]

    def spread(values: Tensor) -> Tensor:
        return values.expand(sample).reshape(1, -1)

    state = {"membrane": spread(step.initial).expand(flat.shape[1:]).clone()} if bool(step.initial.any()) else {}
    spikes = torch.empty(flat.shape, dtype=torch.uint8, device=flat.device)
    for t in range(len(flat)):
        state, fired = core.step(state, flat[t], spread(step.threshold))
        spikes[t] = fired
    return spikes.reshape(current.shape)
