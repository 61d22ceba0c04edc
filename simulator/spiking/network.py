"""A spiking network on its cores: all time steps of a step at once, in floating point or in the integers of the core."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from devices.base import Cost, SpikingCore
from devices.spiking import IntegerArithmetic, NeuromorphicChip, SpikingNeuron
from kernels.random import Key
from simulator.hardware import HardwareLayer, Mode, Placement
from simulator.spiking.coding import Coding, encode
from simulator.spiking.firing import fire_floats, fire_integers, integer_current
from simulator.spiking.postponing import Pending, computed, fire, joined, postpone
from simulator.spiking.quantizing import Integers, quantize
from simulator.spiking.signals import Part, Signal, lasting
from simulator.spiking.steps import Population, Step, Sum
from simulator.spiking.synapses import Synapses
from simulator.spiking.tracing import INPUT, NotConvertibleError, Stage, Traced

if TYPE_CHECKING:
    from simulator.spiking.recipes import Recipe

Visit = Callable[[str, Step, tuple[Signal, ...], Signal], Signal | None]
"""Called after each stage with its name, step, inputs and output; what it returns replaces the output."""

CHUNK_BYTES = 1 << 24
"""Currents of the widest stage that a chunk of the batch may come to: with less, the calls take longer than the work; with more, what one
stage writes is no longer in the cache when the next one reads it."""
CALIBRATION_SAMPLES = 1024


@dataclass(frozen=True, eq=False)
class Layout:
    """What runs after what; plain data beside the steps, which are modules.

    Attributes
    ----------
    names
        Of the stages, in order.
    inputs
        Names of what each gets.
    output
        Name of the stage whose output is the network's.
    kinds
        ``current``, ``spikes`` or ``input`` for each, and for the input.
    done
        For each place, whose outputs no later stage needs.
    joined
        Stages whose output only one population gets.
    """

    names: tuple[str, ...]
    inputs: tuple[tuple[str, ...], ...]
    output: str
    kinds: Mapping[str, str]
    done: tuple[tuple[str, ...], ...]
    joined: frozenset[str]

    @classmethod
    def of(cls, traced: Traced, kinds: Mapping[str, str]) -> "Layout":
        """Describe a traced model."""
        names = tuple(traced.stages)
        last = {source: place for place, stage in enumerate(traced.stages.values()) for source in stage.inputs}
        done = tuple(tuple(one for one, at in last.items() if at == place and one != traced.output) for place in range(len(names)))
        alone = joined({name: (stage.step, stage.inputs) for name, stage in traced.stages.items()}, traced.output)
        return cls(names, tuple(stage.inputs for stage in traced.stages.values()), traced.output, dict(kinds), done, alone)


class SpikingNetwork(HardwareLayer):
    """A whole network, or a part of one, on the cores of one chip.

    Parameters
    ----------
    name, seed
        See `HardwareLayer`.
    core
        The chip's design.
    traced
        The network's stages.
    kinds
        What each stage puts out.
    timesteps
        Time steps of a call.
    coding
        How the input becomes a current or spikes.
    recipe
        How thresholds and initial potentials are chosen.
    sample
        One sample's input, batch of one.

    Attributes
    ----------
    peak
        Largest output of the calibration data, for the width of the output layer's membranes.
    """

    occupies = ("core", "neurons")
    peak: Tensor

    def __init__(
        self,
        name: str,
        seed: int,
        core: SpikingCore,
        traced: Traced,
        kinds: Mapping[str, str],
        *,
        timesteps: int,
        coding: Coding,
        recipe: "Recipe",
        sample: Tensor,
    ) -> None:
        super().__init__(name, seed, None)
        self.core = core
        self.prefix = ""  # of its layers' names in tables, where it is a part of a model
        self.cores, self.utilization = 1, 1.0
        self.layout = Layout.of(traced, kinds)
        self.steps = nn.ModuleList(stage.step for stage in traced.stages.values())
        self.timesteps = timesteps
        self.coding = coding
        self.recipe = recipe
        self.shape = tuple(sample.shape[1:])
        self.trial = 0
        self.overflows: Counter[str] = Counter()
        self.register_buffer("peak", torch.tensor(1.0))
        self._programmed = False
        self._integers: Integers | None = None
        self._marks: tuple[int, ...] = ()
        self._in_bias: set[str] = set()
        self._observed: list[Tensor] = []
        self.widest = 1

    @property
    def traced(self) -> Traced:
        """The network's stages by name."""
        pairs = zip(self.layout.names, self.steps, self.layout.inputs, strict=True)
        return Traced({name: Stage(step, inputs) for name, step, inputs in pairs if isinstance(step, Step)}, self.layout.output)

    def named_steps(self) -> dict[str, Step]:
        """Return the steps by name."""
        return {name: step for name, step in zip(self.layout.names, self.steps, strict=True) if isinstance(step, Step)}

    @property
    def populations(self) -> dict[str, Population]:
        """The populations of neurons by name."""
        return {name: step for name, step in self.named_steps().items() if isinstance(step, Population)}

    @property
    def synapses(self) -> dict[str, Synapses]:
        """The layers with weights by name."""
        return {name: step for name, step in self.named_steps().items() if isinstance(step, Synapses)}

    @property
    def arithmetic(self) -> IntegerArithmetic | None:
        """The core's integers; None for float32."""
        return self.core.arithmetic if isinstance(self.core, NeuromorphicChip) else None

    @property
    def is_trained(self) -> bool:
        """Whether the network was trained with spiking neurons instead of being converted."""
        return any(population.trained for population in self.populations.values())

    @property
    def placement(self) -> Placement:
        """Where the network lies."""
        note = f"{len(self.populations)} populations, {self.timesteps} time steps"
        return Placement(type(self.core).__name__, 0, self.cores, self.utilization, note)

    @property
    def programmed(self) -> bool:
        """Whether weights were written."""
        return self._programmed

    def program(self, seed: int, trial: int) -> None:
        """Write the weights; only random coding of the input differs between trials."""
        self.seed, self.trial, self.reads = seed, trial, 0
        self._prepare()

    @property
    def ages(self) -> bool:
        """Whether time since programming changes what is read: no."""
        return False

    def age(self, seconds: float) -> None:
        """Let time pass, which changes nothing in a digital memory."""

    def settle(self) -> None:
        """Use what a state just loaded holds."""
        self._programmed = False

    def vectors(self, outputs: Tensor) -> int:
        """Return how many samples a call ran."""
        return len(outputs)

    def start_calibration(self) -> None:
        """Forget the calibration data."""
        self._observed = []

    def finish_calibration(self, source: str) -> list[str]:
        """Choose thresholds, biases, weights and initial potentials by the recipe."""
        from simulator.spiking.recipes import calibrate

        observed = torch.cat(self._observed)[:CALIBRATION_SAMPLES] if self._observed else torch.zeros(1, *self.shape)
        self._observed = []
        warnings = calibrate(self, observed, source)
        self._prepare()
        return warnings

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the output averaged over the time steps, in units of the float network."""
        if not isinstance(inputs, Tensor):
            raise ValueError(f"Layer `{self.name}`: the input must be a tensor of shape (batch, {', '.join(map(str, self.shape))}), "
                             f"but got {type(inputs).__name__}; make it one with torch.as_tensor")  # fmt: skip
        if inputs.dim() != len(self.shape) + 1 or tuple(inputs.shape[1:]) != self.shape:
            raise ValueError(f"Layer `{self.name}`: the input must have shape (batch, {', '.join(map(str, self.shape))}), "
                             f"but got {tuple(inputs.shape)}")  # fmt: skip
        if self.mode is Mode.CALIBRATE:
            if sum(map(len, self._observed)) < CALIBRATION_SAMPLES:
                self._observed.append(inputs.detach().clone())
            return self.reference(inputs)
        if self.mode is Mode.FLOAT:
            return self.reference(inputs)
        return self.over_time(inputs).mean(0)

    def reference(self, inputs: Tensor) -> Tensor:
        """Compute what the network computed before it was put on cores, in float."""
        if self.is_trained:
            found = [self._run(part, None).value() for part in inputs.split(self._chunk())]
            return torch.cat([one.mean(0) for one in found])
        values = {INPUT: inputs if self.coding != "events" else inputs.float().mean(1)}
        for place, (name, step) in enumerate(self.named_steps().items()):
            values[name] = step.reference(*(values[source] for source in self.layout.inputs[place]))
            for source in self.layout.done[place]:
                del values[source]
        return values[self.layout.output]

    def over_time(self, inputs: Tensor, visit: Visit | None = None) -> Tensor:
        """Return the output of each time step, shape (timesteps, batch, ...), in units of the float network; one read of the chip."""
        if self.training:
            raise RuntimeError(
                f"Layer `{self.name}`: a network on spiking cores cannot be trained there; train LIF neurons before compiling it, "
                "and call eval()"
            )
        if inputs.is_floating_point() and not bool(inputs.isfinite().all()):
            raise ValueError(
                f"Layer `{self.name}`: the input must be finite, but holds NaN or infinity, for which no neuron would fire; clean the data"
            )
        if not self._programmed or self._marks != self._versions():
            self._prepare()
        self.overflows.clear()
        key = Key.of(seed=self.seed, trial=self.trial, layer=self.name, purpose="coding", read=self.reads)
        self.reads += 1
        integers = self._integers
        outputs = []
        with torch.no_grad():
            for index, part in enumerate(inputs.split(self._chunk())):
                signal = self._run(part, visit, key.fold(index), integers)
                outputs.append(self._read_out(signal, integers))
        return torch.cat(outputs, 1)

    def _read_out(self, signal: Signal, integers: Integers | None) -> Tensor:
        """Return what the unfired output layer adds at each step, or the worth of the spikes that are the output."""
        times = self.timesteps if self.coding != "events" else self.shape[0]
        if signal.current is None:
            return lasting(signal.value(), times)
        current = lasting(signal.current, times)
        if integers is None or self.arithmetic is None:
            return current
        # A membrane that never fires adds up; where it overflows, what is read out is wrong from then on.
        membrane, total = torch.zeros_like(current[0]), []
        low, high = -self.arithmetic.largest_state - 1, self.arithmetic.largest_state
        for step in current.long():
            raw = membrane + step
            self.overflows[self.layout.output] += int(((raw < low) | (raw > high)).sum())
            after = raw.clamp(low, high) if self.arithmetic.overflow == "saturate" else torch.remainder(raw - low, high - low + 1) + low
            total.append(after - membrane)
            membrane = after
        return torch.stack(total).float() / integers.gain[self.layout.output]

    def _run(self, inputs: Tensor, visit: Visit | None = None, key: Key | None = None, integers: Integers | None = None) -> Signal:
        """Run the stages in order on one chunk of samples; outputs that nobody needs any more are dropped."""
        signals: dict[str, Signal] = {INPUT: encode(inputs, self.coding, self.timesteps, key or Key.of(seed=self.seed))}
        whole = visit is None and integers is None and isinstance(self.core, NeuromorphicChip)
        for place, (name, step) in enumerate(zip(self.layout.names, self.steps, strict=True)):
            assert isinstance(step, Step)
            arguments = tuple(signals[source] for source in self.layout.inputs[place])
            later = postpone(step, arguments) if whole and name in self.layout.joined else None
            output = self.run_step(name, step, arguments, integers) if later is None else later
            if visit is not None:
                output = visit(name, step, arguments, output) or output
            signals[name] = output
            for source in self.layout.done[place]:
                del signals[source]
        return signals[self.layout.output]

    def run_step(self, name: str, step: Step, arguments: tuple[Signal, ...], integers: Integers | None) -> Signal:
        """Run one stage on its inputs."""
        if integers is not None and self.layout.kinds[name] == "current" and not (isinstance(step, Synapses) and not arguments[0].spikes):
            return integer_current(name, step, arguments, integers)
        if isinstance(step, Population):
            return self.fire(name, step, arguments[0], integers)
        found = step.spiking(*computed(arguments))
        if integers is not None and isinstance(step, Synapses) and found.current is not None:
            # The input's current is computed beside the cores, once, and given to the neurons as a bias.
            return Signal((found.current.double() * integers.gain[name]).round().to(torch.int32))
        return found

    def fire(self, name: str, step: Population, signal: Signal, integers: Integers | None = None) -> Signal:
        """Return the spikes of a population for its input."""
        times = self.timesteps if self.coding != "events" else self.shape[0]
        folded = self._folded(name)
        if integers is not None:
            assert self.arithmetic is not None
            spikes, beyond = fire_integers(name, step, signal, integers, self.arithmetic, times, shifted=not folded)
            self.overflows[name] += beyond
            return Signal(parts=(Part(spikes, step.worth),))
        apart = not folded and step.shifted
        if isinstance(signal, Pending):
            quick = None if apart else fire(signal, step, step.neuron, times)
            if quick is not None:
                return Signal(parts=(Part(quick, step.worth),))
            (signal,) = computed((signal,))
        current = signal.value()
        if apart:
            current = current + step.shift
        return Signal(parts=(Part(fire_floats(self.core, step, lasting(current, times)), step.worth),))

    def _folded(self, name: str) -> bool:
        return name in self._in_bias

    def _prepare(self) -> None:
        """Lay out weights for the thresholds as they are, and round them for an integer core."""
        for name, population in self.populations.items():
            if not bool((population.threshold > 0).all()):
                raise NotConvertibleError(
                    f"Layer `{name}`: a threshold must be above 0, but got {float(population.threshold.min())}; compile with calibration "
                    "data on which the layer is active"
                )
        self.fold_shifts()
        self._integers = None
        with torch.no_grad():
            if self.arithmetic is not None:
                seen: dict[str, tuple[Signal, ...]] = {}
                self._run(torch.zeros(1, *self.shape, device=next(self.parameters()).device), _recorder(seen))
                times = self.timesteps if self.coding != "events" else self.shape[0]
                self._integers = quantize(self.traced, self.layout.kinds, seen, self.arithmetic, times * float(self.peak))
                self.fold_shifts()
        self._programmed = True
        self._marks = self._versions()

    def fold_shifts(self, only: Sequence[str] | None = None) -> None:
        """Put what calibration adds to currents into the biases before them, where one layer's bias reaches no other neurons."""
        for synapses in self.synapses.values():
            synapses.extra = None
            synapses.forget()
        self._in_bias = set()
        uses = Counter(source for inputs in self.layout.inputs for source in inputs)
        steps = self.named_steps()
        for name, population in self.populations.items():
            if (only is not None and name not in only) or not bool(population.shift.any()):
                continue
            pending = [self.layout.inputs[self.layout.names.index(name)][0]]
            while pending:
                source = pending.pop()
                if source == INPUT or uses[source] > 1:
                    continue
                step: Step = steps[source]
                if isinstance(step, Synapses):
                    step.extra = population.shift.reshape(-1).expand(step.weight.shape[0]).contiguous()
                    self._in_bias.add(name)
                    break
                if isinstance(step, Sum):
                    pending.extend(self.layout.inputs[self.layout.names.index(source)])

    def _versions(self) -> tuple[int, ...]:
        return tuple(parameter._version for parameter in self.parameters())

    def _chunk(self) -> int:
        times = self.timesteps if self.coding != "events" else self.shape[0]
        return max(1, CHUNK_BYTES // (4 * times * self.widest))

    def cost(self, inputs: Tensor, outputs: Tensor) -> list[Cost]:
        """Return the cost rows of one call: the events that these inputs cause, and what is spent at rest."""
        from simulator.spiking.costs import network_costs

        return network_costs(self, inputs)


def _recorder(seen: dict[str, tuple[Signal, ...]]) -> Visit:
    def visit(name: str, step: Step, arguments: tuple[Signal, ...], output: Signal) -> None:
        seen[name] = arguments

    return visit


def neuron_of(core: SpikingCore) -> SpikingNeuron:
    """Return the conventions of a core's neurons; a core with a step of its own has them inside it."""
    return core.neuron if isinstance(core, NeuromorphicChip) else SpikingNeuron()


def check_neurons(core: SpikingCore, traced: Traced) -> None:
    """Refuse neurons that a core cannot compute, by name."""
    if not isinstance(core, NeuromorphicChip):
        return
    for name, stage in traced.stages.items():
        if not isinstance(stage.step, Population):
            continue
        neuron = stage.step.neuron
        if neuron.reset not in core.resets:
            raise NotConvertibleError(
                f"Layer `{name}`: its reset must be one of {core.resets}, but is {neuron.reset!r}; train with that reset"
            )
        if core.arithmetic is not None:
            if neuron.reset_moment != "same_step":
                raise NotConvertibleError(
                    f"Layer `{name}`: an integer core resets in the same step, but `reset_moment` is the next; change it"
                )
            try:
                core.arithmetic.keep(neuron.decay)
            except ValueError as error:
                raise NotConvertibleError(f"Layer `{name}`: {error}") from None
