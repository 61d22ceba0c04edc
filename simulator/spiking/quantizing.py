"""The integers of a core: one scale for all synapses that reach the same neurons, chosen within the core's widths."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from devices.spiking import IntegerArithmetic
from simulator.spiking.signals import Signal
from simulator.spiking.steps import Pool, Population, Sum
from simulator.spiking.synapses import Synapses
from simulator.spiking.tracing import INPUT, NotConvertibleError, Traced

HEADROOM = 4
"""A membrane holds at least this many thresholds, so that currents of a few thresholds do not overflow."""


@dataclass(frozen=True)
class Rounding:
    """How one layer became integers.

    Attributes
    ----------
    layer
        Name of the synapses or of the population.
    gain
        Units of the membrane for one unit of the float network.
    exponent
        Binary places of a weight in the membrane.
    largest_mantissa
        Largest mantissa of a weight that is used; None for a population.
    relative_error
        Root mean square rounding error of the weights over that of the weights; of a population that of its thresholds.
    threshold
        Smallest threshold in units of the membrane; None for synapses.
    worst_case
        Largest membrane that one step can lead to, were all inputs with one sign of weight to spike; None for synapses.
    capacity
        Largest membrane that the core holds.
    largest_bias
        Largest bias in units of the membrane, for which no core's width was published; None for a population, or without biases.
    bias_error, initial_error
        As `relative_error`, of the biases of synapses, and of the initial potentials of a population, those beyond the membrane cut off.
    decay
        Factor of a population's membrane at each step as the core has it; None for synapses.
    """

    layer: str
    gain: float
    exponent: int
    largest_mantissa: int | None
    relative_error: float
    threshold: int | None
    worst_case: int | None
    capacity: int
    largest_bias: int | None = None
    bias_error: float | None = None
    initial_error: float | None = None
    decay: float | None = None


@dataclass(frozen=True, eq=False)
class Integers:
    """A network's numbers as a core holds them; membranes are in the unit of each group's gain.

    Attributes
    ----------
    gain
        Units of the membrane for one unit of the float network, by name of a stage whose output is a current, or of a population.
    weights
        Integers for the spikes of each part, by name of the synapses; already shifted.
    bias
        Integers by name of the synapses that spikes reach.
    worths
        What a spike adds where it reaches neurons directly, by name of the stage: for each input, for each part.
    thresholds, initial, shift
        Integers by name of the population.
    roundings
        What became of each layer.
    """

    gain: dict[str, float] = field(default_factory=dict)
    weights: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)
    bias: dict[str, Tensor] = field(default_factory=dict)
    worths: dict[str, tuple[tuple[Tensor, ...], ...]] = field(default_factory=dict)
    thresholds: dict[str, Tensor] = field(default_factory=dict)
    initial: dict[str, Tensor] = field(default_factory=dict)
    shift: dict[str, Tensor] = field(default_factory=dict)
    roundings: list[Rounding] = field(default_factory=list)


def quantize(
    traced: Traced, kinds: Mapping[str, str], inputs: Mapping[str, tuple[Signal, ...]], arithmetic: IntegerArithmetic, read_out: float
) -> Integers:
    """Round a network to the integers of a core.

    Parameters
    ----------
    traced
        The network with its thresholds.
    kinds
        ``current``, ``spikes`` or ``input`` for the output of each stage.
    inputs
        What each stage gets, as any run shows it: the worth of its spikes.
    arithmetic
        The core's widths.
    read_out
        Largest sum over all steps of the unfired output layer that is to be expected, in units of the float network.

    Raises
    ------
    NotConvertibleError
        If numbers do not fit, with the layer's name.
    """
    found = Integers()
    groups, units = _groups(traced, kinds)
    for members in groups.values():
        _round_group(traced, kinds, inputs, arithmetic, members, units, found, read_out)
    return found


def _groups(traced: Traced, kinds: Mapping[str, str]) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Return the stages that share a gain, and how many sums each output stands for one average."""
    leader: dict[str, str] = {}
    units: dict[str, int] = {}

    def lead(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    for name, stage in traced.stages.items():
        currents = [source for source in stage.inputs if kinds[source] == "current"]
        if kinds[name] != "current" and not isinstance(stage.step, Population):
            continue
        leader[name] = name
        known = {units[source] for source in currents}
        if len(known) > 1:
            raise NotConvertibleError(
                f"Layer `{name}` cannot become integers: it joins currents that were pooled over different areas; pool after the sum"
            )
        units[name] = known.pop() if known else 1
        if isinstance(stage.step, Pool) and currents:
            units[name] *= stage.step.divisor
        for source in currents:
            leader[lead(source)] = lead(name)
    found: dict[str, list[str]] = {}
    for name in leader:
        found.setdefault(lead(name), []).append(name)
    return found, units


def _round_group(
    traced: Traced,
    kinds: Mapping[str, str],
    inputs: Mapping[str, tuple[Signal, ...]],
    arithmetic: IntegerArithmetic,
    members: list[str],
    units: Mapping[str, int],
    found: Integers,
    read_out: float,
) -> None:
    weights: dict[str, list[Tensor]] = {}
    direct: dict[str, list[list[Tensor]]] = {}
    levels: dict[str, Tensor] = {}
    for name in members:
        step = traced.stages[name].step
        signals = inputs[name]
        if isinstance(step, Synapses) and signals[0].spikes:
            weights[name] = [step.scaled(part.worth) for part in signals[0].parts]
        if isinstance(step, Sum | Population):
            direct[name] = [[part.worth * units[name] for part in signal.parts] for signal in signals]
        if isinstance(step, Population):
            levels[name] = step.threshold.detach() * units[name]
    peak = max([float(w.abs().max()) for several in weights.values() for w in several]
               + [float(w.abs().max()) for several in direct.values() for parts in several for w in parts] + [0.0])  # fmt: skip
    # The membranes of an output layer add up all steps, and have to hold the sum instead of a threshold.
    level = max([float(one.max()) for one in levels.values()] + [read_out * units[traced.output] if traced.output in members else 0.0])
    gain, shift = _choose(arithmetic, peak, level, members[0])
    found.gain.update({name: gain * units[name] for name in members})
    step_of = float(1 << shift)
    limit = arithmetic.largest_weight

    def rounded(values: Tensor) -> Tensor:
        return (values.double() * (gain / step_of)).round().clamp(-limit, limit).to(torch.int32) << shift

    for name, several in weights.items():
        step = traced.stages[name].step
        assert isinstance(step, Synapses)
        found.weights[name] = tuple(rounded(one) for one in several)
        bias = step.total_bias()
        largest_bias: int | None = None
        bias_error: float | None = None
        if bias is not None:
            found.bias[name] = (bias.double() * gain).round().to(torch.int32)
            largest_bias, bias_error = int(found.bias[name].abs().max()), _error(found.bias[name], bias, gain)
        largest = max(int(one.abs().max()) >> shift for one in found.weights[name])
        error = _error(torch.cat([one.flatten() for one in found.weights[name]]), torch.cat([one.flatten() for one in several]), gain)
        found.roundings.append(
            Rounding(
                name, gain, shift, largest, error, None, None, arithmetic.largest_state, largest_bias=largest_bias, bias_error=bias_error
            )
        )
    for name, origins in direct.items():
        found.worths[name] = tuple(tuple(rounded(part) for part in parts) for parts in origins)
    for name, one in levels.items():
        step = traced.stages[name].step
        assert isinstance(step, Population)
        own = gain * units[name]
        coarse = float(1 << arithmetic.threshold_shift)
        whole = ((one.double() * gain / coarse).round().clamp(min=1) * coarse).to(torch.int32)
        found.thresholds[name] = whole
        ends = -arithmetic.largest_state - 1, arithmetic.largest_state
        found.initial[name] = (step.initial.double() * own).round().clamp(*ends).to(torch.int32)
        found.shift[name] = (step.shift.double() * own).round().to(torch.int32)
        worst = int(whole.max()) + _worst(traced, kinds, found, name, units[name])
        found.roundings.append(
            Rounding(
                name,
                own,
                shift,
                None,
                _error(whole.flatten(), one.flatten(), gain),
                int(whole.min()),
                worst,
                arithmetic.largest_state,
                initial_error=_error(found.initial[name], step.initial, own),
                decay=arithmetic.kept(step.neuron.decay),
            )
        )


def _choose(arithmetic: IntegerArithmetic, peak: float, level: float, name: str) -> tuple[float, int]:
    """Return the gain and the binary places of weights: all of the mantissa, and the membrane as fine as it can be."""
    top = min(arithmetic.largest_threshold, arithmetic.largest_state // HEADROOM)
    if peak == 0.0:
        return (top / level if level else 1.0), arithmetic.shifts[0]
    fits = [shift for shift in arithmetic.shifts if level * arithmetic.largest_weight * 2**shift / peak <= top]
    if fits:
        return arithmetic.largest_weight * 2.0 ** fits[-1] / peak, fits[-1]
    shift = arithmetic.shifts[0]
    gain = top / level
    if gain * peak < 0.5 * 2**shift:
        raise NotConvertibleError(
            f"Layer `{name}` cannot become integers: thresholds of {level:g} are so far above weights of {peak:g} at most that a membrane "
            f"of {arithmetic.state_bits} bits holds no weight; use a core with wider membranes"
        )
    return gain, shift


def _error(integers: Tensor, exact: Tensor, gain: float) -> float:
    scale = float(exact.double().square().mean().sqrt())
    return float((integers.double() / gain - exact.double()).square().mean().sqrt()) / scale if scale else 0.0


def _worst(traced: Traced, kinds: Mapping[str, str], found: Integers, name: str, unit: int) -> int:
    """Return the largest current of one step of a population: all inputs with one sign of weight spike."""
    total = 0
    pending = list(traced.stages[name].inputs)
    for origins in found.worths.get(name, ()):
        total += sum(int(part.abs().max()) for part in origins)
    seen: set[str] = set()
    while pending:
        source = pending.pop()
        if source in seen or source == INPUT or kinds[source] != "current":
            continue
        seen.add(source)
        step = traced.stages[source].step
        if isinstance(step, Synapses):
            for one in found.weights.get(source, ()):
                flat = one.flatten(1).double()
                total += unit * int(max(flat.clamp(min=0).sum(1).max(), (-flat.clamp(max=0)).sum(1).max()))
            if source in found.bias:
                total += unit * int(found.bias[source].abs().max())
            continue
        for origins in found.worths.get(source, ()):
            total += sum(int(part.abs().max()) for part in origins)
        pending.extend(traced.stages[source].inputs)
    return total if math.isfinite(total) else 0
