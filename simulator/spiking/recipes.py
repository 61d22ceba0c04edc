"""How a ReLU network becomes spiking: thresholds, then biases, weights and initial potentials, layer by layer in order."""

from abc import abstractmethod
from difflib import get_close_matches
from typing import Any, ClassVar, Final

import torch
from pydantic import Field
from torch import Tensor

from devices.design import Design
from simulator.spiking.network import CALIBRATION_SAMPLES, SpikingNetwork
from simulator.spiking.signals import Signal
from simulator.spiking.steps import Population, Step
from simulator.spiking.synapses import Synapses
from simulator.spiking.tracing import INPUT

CANDIDATES: Final = 95
"""Thresholds that the search for the least error tries: from the largest activation down to 6 % of it."""
VALUES: Final = 1 << 15
"""Activations of a batch that the search for each threshold looks at: evenly spaced ones where there are more, an odd number apart, so
that not the same columns of all images are taken."""
HELD_BYTES: Final = 1 << 28
"""Currents of all steps of the widest layer that calibration holds at once; it takes fewer samples where they are more."""


class Recipe(Design):
    """A way to choose what a converted network needs.

    Parameters
    ----------
    per_channel
        A threshold for each channel instead of one for a layer.
    samples
        Calibration samples whose spikes are looked at, at most.
    """

    looks_at_spikes: ClassVar[bool] = True
    """Whether `adjust` depends on the samples, so that fewer of them than asked for matter."""

    per_channel: bool = False
    samples: int = Field(default=256, ge=1)

    @abstractmethod
    def threshold(self, activations: list[Tensor], timesteps: int, strict: bool) -> Tensor:
        """Return the threshold of a layer from batches of its activations, a number or one for each channel (channels, 1, ...)."""

    def adjust(self, network: SpikingNetwork, name: str, population: Population, signal: Signal, wanted: Tensor, held: "Held") -> Signal:
        """Return the spikes of a population after adjusting it to the activations that are wanted, given the spikes before it."""
        return network.fire(name, population, signal)


class MaximumThreshold(Recipe):
    """The largest activation seen, and nothing else: a conversion without calibration.

    Examples
    --------
    >>> MaximumThreshold().threshold([torch.tensor([[0.5, 2.0]])], 8, False)
    tensor(2.)
    """

    looks_at_spikes = False

    def threshold(self, activations: list[Tensor], timesteps: int, strict: bool) -> Tensor:
        """Return the largest activation."""
        return torch.stack([_peak(one, self.per_channel) for one in activations]).amax(0)


class OptimalConversion(MaximumThreshold):
    """The largest activation as threshold, and half of it as initial potential, which adds V / 2T to the current of every step.

    References
    ----------
    S. Deng and S. Gu, Optimal conversion of conventional artificial neural networks to spiking neural networks, ICLR 2021,
    arXiv:2103.00476.
    """

    def adjust(self, network: SpikingNetwork, name: str, population: Population, signal: Signal, wanted: Tensor, held: "Held") -> Signal:
        """Start at half of the threshold."""
        population.initial = population.threshold / 2
        return network.fire(name, population, signal)


class LeastErrorThreshold(Recipe):
    """The threshold with the least mean squared error of clipping and flooring, averaged over batches with a momentum.

    Parameters
    ----------
    batch, batches, momentum
        Samples of a batch, how many batches, and the weight of the average so far.

    References
    ----------
    Y. Li et al., A free lunch from ANN: towards efficient, accurate spiking neural networks calibration, ICML 2021, arXiv:2106.06984.
    """

    looks_at_spikes = False

    batch: int = Field(default=128, ge=1)
    batches: int = Field(default=7, ge=1)
    momentum: float = Field(default=0.9, ge=0, lt=1)

    def threshold(self, activations: list[Tensor], timesteps: int, strict: bool) -> Tensor:
        """Return the running average of each batch's best threshold."""
        average: Tensor | None = None
        for one in torch.cat(activations).split(self.batch)[: self.batches]:
            best = least_error_threshold(one, timesteps, per_channel=self.per_channel, strict=strict)
            average = best if average is None else self.momentum * average + (1 - self.momentum) * best
        assert average is not None
        return average


class LightCalibration(LeastErrorThreshold):
    """That threshold, and each channel's bias corrected so that its mean rate is its mean activation, layer by layer in order."""

    looks_at_spikes = True

    def adjust(self, network: SpikingNetwork, name: str, population: Population, signal: Signal, wanted: Tensor, held: "Held") -> Signal:
        """Shift the current by the mean difference of each channel."""
        error = population.channels_first(network.fire(name, population, signal).mean() - wanted)
        each = error.transpose(0, 1).flatten(1).mean(1).reshape(-1, *[1] * (error.dim() - 2))
        population.shift = population.shift - population.for_sample(each)
        return network.fire(name, population, signal)


class AdvancedCalibration(LeastErrorThreshold):
    """That threshold, the weights of each layer fitted to the spikes they get, and an initial potential for each neuron.

    Parameters
    ----------
    iterations, learning_rate, batch_size
        Of Adam with a cosine schedule, for each layer.
    samples
        Calibration samples that it fits to.
    """

    looks_at_spikes = True

    samples: int = Field(default=1024, ge=1)
    iterations: int = Field(default=5000, ge=0)
    learning_rate: float = Field(default=1e-5, gt=0)
    batch_size: int = Field(default=32, ge=1)

    def adjust(self, network: SpikingNetwork, name: str, population: Population, signal: Signal, wanted: Tensor, held: "Held") -> Signal:
        """Fit weights, then start each neuron where its mean error is none."""
        from simulator.spiking.advanced import fit_weights

        if fit_weights(network, name, population, wanted, held, self):
            signal = held.again(network, name)
        found = network.fire(name, population, signal).mean()
        population.initial = network.timesteps * (wanted - found).mean(0)
        return network.fire(name, population, signal)


RECIPES: Final[dict[str, type[Recipe]]] = {
    "none": MaximumThreshold,
    "threshold": LeastErrorThreshold,
    "optimal": OptimalConversion,
    "light": LightCalibration,
    "calibrated": LightCalibration,
    "advanced": AdvancedCalibration,
}


def recipe_of(method: str | Recipe) -> Recipe:
    """Return a recipe by its name, or as it is.

    Examples
    --------
    >>> type(recipe_of("calibrated")).__name__
    'LightCalibration'
    """
    if isinstance(method, Recipe):
        return method
    if method not in RECIPES:
        near = get_close_matches(str(method), RECIPES, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "name one of them"
        raise ValueError(f"Argument `method` must be one of {', '.join(RECIPES)}, or a Recipe, but got {method!r}; {hint}")
    return RECIPES[method]()


class Held:
    """What reached the layers before a population, so that it can be computed again with other weights."""

    def __init__(self) -> None:
        self.arguments: dict[str, tuple[Signal, ...]] = {}

    def again(self, network: SpikingNetwork, name: str) -> Signal:
        """Return the input of a population, from its currents computed anew."""
        layout, steps = network.layout, network.named_steps()

        def compute(source: str) -> Signal:
            inputs = layout.inputs[layout.names.index(source)]
            fresh = zip(inputs, self.arguments[source], strict=True)
            arguments = tuple(compute(one) if one != INPUT and layout.kinds[one] == "current" else given for one, given in fresh)
            step = steps[source]
            if isinstance(step, Synapses):
                step.forget()
            return network.run_step(source, step, arguments, None)

        return compute(layout.inputs[layout.names.index(name)][0])


def calibrate(network: SpikingNetwork, samples: Tensor, source: str) -> list[str]:
    """Choose everything that a network needs, by its recipe; returns warnings."""
    warnings: list[str] = []
    if samples.is_floating_point() and not bool(samples.isfinite().all()):
        raise ValueError(f"Argument `calibration` must be finite, but the {source} hold NaN or infinity; clean the data")
    if not network.is_trained:
        activations = _activations(network, samples)
        for name, population in network.populations.items():
            population.initial, population.shift = torch.tensor(0.0), torch.tensor(0.0)
            for step in network.synapses.values():
                step.weight_change, step.bias_change = torch.empty(0), torch.empty(0)
            seen = [population.channels_first(one) for one in activations[name]]
            chosen = population.for_sample(network.recipe.threshold(seen, network.timesteps, population.neuron.comparator == ">"))
            if not bool((chosen > 0).all()):
                warnings.append(f"Layer `{name}` was never active on the {source}: its threshold is 1 where that is so")
                chosen = torch.where(chosen > 0, chosen, torch.ones_like(chosen))
            population.threshold = chosen
    _measure_width(network, samples)
    if not network.is_trained:
        warnings += _adjust(network, samples)
    _measure_rates(network, samples)
    return warnings


@torch.no_grad()
def _activations(network: SpikingNetwork, samples: Tensor) -> dict[str, list[Tensor]]:
    """Return the activations of each population, in batches."""
    found: dict[str, list[Tensor]] = {name: [] for name in network.populations}
    for part in samples.split(128):
        for name, value in reference_values(network, part).items():
            if name in found:
                found[name].append(value)
    return found


def reference_values(network: SpikingNetwork, inputs: Tensor) -> dict[str, Tensor]:
    """Return the output of every stage of the float network."""
    values = {INPUT: inputs if network.coding != "events" else inputs.float().mean(1)}
    for (name, step), sources in zip(network.named_steps().items(), network.layout.inputs, strict=True):
        values[name] = step.reference(*(values[source] for source in sources))
    return values


@torch.no_grad()
def _measure_width(network: SpikingNetwork, samples: Tensor) -> None:
    widest = 1

    def visit(name: str, step: Step, arguments: tuple[Signal, ...], output: Signal) -> None:
        nonlocal widest
        values = output.current if output.current is not None else output.parts[0].counts
        widest = max(widest, values[0, 0].numel())

    network.fold_shifts(only=())
    network._run(samples[:1], visit)
    network.widest = widest
    network.peak = network.reference(samples).abs().max().clamp(min=1e-6)


@torch.no_grad()
def _adjust(network: SpikingNetwork, samples: Tensor) -> list[str]:
    """Go through the populations in order, each with the spikes that those before it really fire; returns warnings."""
    room = max(16, HELD_BYTES // (4 * network.timesteps * network.widest))
    asked = network.recipe.samples if len(samples) == CALIBRATION_SAMPLES else min(network.recipe.samples, len(samples))
    chosen = samples[: min(asked, room)]
    warnings = []
    if len(chosen) < asked and network.recipe.looks_at_spikes:
        warnings.append(
            f"Calibration looked at the spikes of {len(chosen)} samples, not of {asked}: at most {CALIBRATION_SAMPLES} are kept, and "
            f"the currents of {network.timesteps} steps of the widest layer ({network.widest} neurons) may come to {HELD_BYTES >> 20} MiB; "
            "use fewer time steps, or a smaller input"
        )
    wanted = {name: value for name, value in reference_values(network, chosen).items() if name in network.populations}
    held = Held()

    def visit(name: str, step: Step, arguments: tuple[Signal, ...], output: Signal) -> Signal | None:
        if not isinstance(step, Population):
            held.arguments[name] = arguments
            return None
        adjusted = network.recipe.adjust(network, name, step, arguments[0], wanted.pop(name), held)
        kept = _still_needed(network, name)
        held.arguments = {one: signals for one, signals in held.arguments.items() if one in kept}
        return adjusted

    network.fold_shifts(only=())
    network._run(chosen, visit)
    return warnings


def _still_needed(network: SpikingNetwork, name: str) -> set[str]:
    """Return the currents that populations after this one get."""
    place = network.layout.names.index(name)
    return {
        source
        for later in network.layout.names[place + 1 :]
        for source in network.layout.inputs[network.layout.names.index(later)]
        if source != INPUT and network.layout.kinds[source] == "current"
    }


@torch.no_grad()
def _measure_rates(network: SpikingNetwork, samples: Tensor) -> None:
    """Measure how many inputs of each layer spike, by which events or a dense product are chosen."""

    def visit(name: str, step: Step, arguments: tuple[Signal, ...], output: Signal) -> None:
        if isinstance(step, Synapses) and arguments[0].spikes:
            shares = [part.counts.count_nonzero().item() / max(1, part.counts.numel()) for part in arguments[0].parts]
            step.rate = torch.tensor(max(shares))

    for step in network.synapses.values():
        step.rate = torch.tensor(float("nan"))
    network.fold_shifts()
    network._run(samples[: min(64, network._chunk())], visit)


def clip_floor(values: Tensor, threshold: Tensor, timesteps: int, strict: bool = False) -> Tensor:
    """Return the rate that a constant current causes, times the threshold: ``V / T clip(floor(T a / V), 0, T)``.

    Parameters
    ----------
    values
        Currents of any shape.
    threshold
        A number, or of a shape that broadcasts.
    timesteps
        T.
    strict
        Whether neurons fire above the threshold only: then ``ceil(T a / V) - 1``.

    Examples
    --------
    >>> clip_floor(torch.tensor([-1.0, 0.3, 0.5, 9.0]), torch.tensor(1.0), 4)
    tensor([0.0000, 0.2500, 0.5000, 1.0000])
    """
    scaled = timesteps * values / threshold
    spikes = torch.ceil(scaled) - 1 if strict else torch.floor(scaled)
    return spikes.clamp(0, timesteps) * (threshold / timesteps)


def least_error_threshold(activations: Tensor, timesteps: int, *, per_channel: bool = False, strict: bool = False) -> Tensor:
    """Return the threshold among ``max(a) (1 - 0.01 i)``, i = 0 .. 94, with the least mean squared error of `clip_floor`.

    Parameters
    ----------
    activations
        Shape (batch, channels, ...), at least 0.
    timesteps, strict
        See `clip_floor`.
    per_channel
        One threshold for each channel, of shape (channels, 1, ...).

    Examples
    --------
    >>> round(float(least_error_threshold(torch.cat((torch.linspace(0, 1, 1000), torch.tensor([3.0])))[None], 4)), 2)
    0.81
    """
    peak = _peak(activations, per_channel)
    rows = activations.transpose(0, 1).flatten(1) if per_channel else activations.reshape(1, -1)
    rows = rows[:, :: (rows.shape[1] // VALUES) | 1]
    best, least = peak.reshape(-1).clone(), torch.full((len(rows),), float("inf"))
    for i in range(CANDIDATES):
        level = peak.reshape(-1) * (1 - 0.01 * i)
        safe = torch.where(level > 0, level, torch.ones_like(level))
        error = (rows - clip_floor(rows, safe[:, None], timesteps, strict)).square().mean(1)
        better = error < least
        best, least = torch.where(better, level, best), torch.where(better, error, least)
    return best.reshape(peak.shape)


def _peak(values: Tensor, per_channel: bool) -> Tensor:
    if not per_channel:
        return values.amax()
    axes: Any = [0, *range(2, values.dim())]
    return values.amax(axes).reshape(-1, *[1] * (values.dim() - 2))
