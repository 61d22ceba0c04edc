"""Currents that only one population gets are computed where it fires, row by row, and never stored."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch

from devices.spiking import SpikingNeuron
from kernels.event_synapses import EventKernel, convolve_and_fire
from simulator.spiking.signals import Part, Signal
from simulator.spiking.steps import Population, Step, Sum
from simulator.spiking.synapses import Synapses


@dataclass(frozen=True, eq=False)
class Pending(Signal):
    """A current that is not computed yet: a convolution of spikes, and what is added to it.

    Attributes
    ----------
    synapses, kernel, part
        The convolution, its weights and the spikes it gets.
    added
        A current, or spikes of one worth; None for nothing.
    """

    synapses: Synapses | None = None
    kernel: EventKernel | None = None
    part: Part | None = None
    added: Signal | None = None


def joined(stages: Mapping[str, tuple[Step, tuple[str, ...]]], output: str) -> frozenset[str]:
    """Return the names of the synapses and sums whose output reaches one population alone, through sums at most.

    Parameters
    ----------
    stages
        Steps and the names of their inputs, in the order in which they run.
    output
        Name of the stage whose output is the network's.
    """
    users: dict[str, list[str]] = {}
    for name, (_, inputs) in stages.items():
        for source in inputs:
            users.setdefault(source, []).append(name)
    found: set[str] = set()
    for name, (step, _) in reversed(list(stages.items())):
        after = users.get(name, [])
        if isinstance(step, Synapses | Sum) and len(after) == 1 and name != output:
            if isinstance(stages[after[0]][0], Population) or (after[0] in found and isinstance(stages[after[0]][0], Sum)):
                found.add(name)
    return frozenset(found)


def postpone(step: Step, arguments: tuple[Signal, ...]) -> Pending | None:
    """Return what a stage is to compute later; None where it has to be computed now."""
    if isinstance(step, Synapses):
        kernel = step.event_kernel(arguments[0])
        return None if kernel is None else Pending(synapses=step, kernel=kernel, part=arguments[0].parts[0])
    held = [one for one in arguments if isinstance(one, Pending) and one.added is None]
    if not isinstance(step, Sum) or not held or arguments[0] is arguments[1]:
        return None
    pending = held[-1]
    assert pending.part is not None
    (other,) = computed(one for one in arguments if one is not pending)
    if other.current is not None:
        fits = other.current.dtype == torch.float32 and len(other.current) == len(pending.part.counts)
    else:
        fits = len(other.parts) == 1 and other.parts[0].worth.numel() == 1 and other.parts[0].counts.dtype == torch.uint8
    return replace(pending, added=other) if fits else None


def computed(signals: Iterable[Signal]) -> tuple[Signal, ...]:
    """Return signals with what was postponed computed now."""
    return tuple(_compute(one) if isinstance(one, Pending) else one for one in signals)


def _compute(pending: Pending) -> Signal:
    assert pending.synapses is not None and pending.part is not None
    current = pending.synapses.spiking(Signal(parts=(pending.part,)))
    return current if pending.added is None else Sum("").spiking(current, pending.added)


def fire(pending: Pending, population: Population, neuron: SpikingNeuron, times: int) -> torch.Tensor | None:
    """Return the spikes of a population for a pending current; None where the kernel does not know its conventions."""
    level = population.threshold
    by_channel = level.numel() == 1 or (level.dim() == 3 and level.shape[1:] == (1, 1))
    if pending.kernel is None or pending.part is None or not by_channel or neuron.reset_moment != "same_step":
        return None
    if len(pending.part.counts) != times:
        return None
    added = pending.added
    spikes = added.parts[0] if added is not None and added.spikes else None
    assert pending.synapses is not None
    return convolve_and_fire(
        pending.part.counts, pending.kernel, level, population.initial, neuron.decay, neuron.reset, neuron.comparator,
        bias=pending.synapses.total_bias(), added=None if added is None else added.current,
        counts=None if spikes is None else spikes.counts, worth=0.0 if spikes is None else float(spikes.worth),
    )  # fmt: skip
