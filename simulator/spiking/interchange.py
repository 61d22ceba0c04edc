"""NIR, the exchange format of neuromorphic tools: networks of others run here, ours go out where NIR can say what they do."""

import math
from collections import Counter
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from devices.spiking import SpikingNeuron
from simulator.chip import Chip
from simulator.environment import inloop_version
from simulator.spiking.activity import network_of
from simulator.spiking.network import SpikingNetwork
from simulator.spiking.neurons import LIF
from simulator.spiking.signals import Part, Signal
from simulator.spiking.steps import Flatten, Pool, Population, Step, Sum
from simulator.spiking.synapses import Synapses
from simulator.spiking.tracing import INPUT, NotConvertibleError, Traced, every_kind, trace

Discretization = Literal["exact", "euler"]
"""How a step of time dt turns ``tau dv/dt = -v + R I``: ``exact`` has the decay exp(-dt / tau), ``euler`` 1 - dt / tau."""


def _nir() -> Any:
    try:
        import nir
    except ImportError:
        raise ImportError("NIR graphs need the package nir, which is not installed; pip install 'inloop[spiking]'") from None
    return nir


class ImportedGraph(nn.Module):
    """A NIR graph as a model of single-step neurons: call it once a time step, or through `unroll`.

    Parameters
    ----------
    modules
        A module for each node but inputs and outputs, in the order in which they run.
    edges
        Names of what each node gets; several are added up. ``input`` is the graph's.
    output
        Name of the node whose output is the graph's.
    """

    def __init__(self, modules: Mapping[str, nn.Module], edges: Mapping[str, tuple[str, ...]], output: str) -> None:
        super().__init__()
        self.nodes = nn.ModuleDict({_safe(name): module for name, module in modules.items()})
        self.edges = {name: tuple(edges[name]) for name in modules}
        self.output = output

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the output of one time step for an input of shape (batch, ...)."""
        values = {INPUT: inputs}
        for name, sources in self.edges.items():
            total = values[sources[0]]
            for source in sources[1:]:
                total = total + values[source]
            values[name] = self.nodes[_safe(name)](total)
        return values[self.output]


def from_nir(source: Any, dt: float, *, discretization: Discretization = "exact") -> ImportedGraph:
    """Return a NIR graph as a model that can be unrolled, trained and compiled onto spiking cores.

    Membranes are counted from the reset potential; resistance, leak and step are folded into the weights before the neurons. NIR does not
    say where a membrane starts: here a leaky neuron starts at its leak potential, which is its rest, and one without a leak at 0.

    Parameters
    ----------
    source
        A ``nir.NIRGraph``, or the path of a file.
    dt
        Length of a time step, seconds (the unit of the graph's time constants).
    discretization
        ``"exact"`` or ``"euler"``; NIR is in continuous time, and tools differ.

    Returns
    -------
    ImportedGraph
        In eval mode.

    Raises
    ------
    ValueError
        If the graph has a node without an equivalent here, a loop, or populations whose neurons leak differently; the line names it.
    ImportError
        If nir is not installed.

    Examples
    --------
    >>> import nir
    >>> lif = nir.LIF(tau=np.array([2.5e-3]), r=np.ones(1), v_leak=np.zeros(1), v_threshold=np.array([0.1]), v_reset=np.zeros(1))
    >>> graph = nir.NIRGraph.from_list(nir.Affine(weight=np.eye(1), bias=np.zeros(1)), lif)
    >>> from_nir(graph, 1e-4).nodes["lif"].convention.comparator
    '>'
    """
    nir = _nir()
    _check_time(dt, discretization)
    graph = _read(nir, source) if isinstance(source, str | Path) else source
    if not isinstance(graph, nir.NIRGraph):
        raise ValueError(f"Argument `source` must be a nir.NIRGraph or the path of one, but got {type(graph).__name__}; pass one of them")
    inputs = [name for name, node in graph.nodes.items() if isinstance(node, nir.Input)]
    outputs = [name for name, node in graph.nodes.items() if isinstance(node, nir.Output)]
    if len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(f"Argument `source` must have one input and one output, but has {len(inputs)} and {len(outputs)}; split the graph")
    before: dict[str, list[str]] = {name: [] for name in graph.nodes}
    for start, stop in graph.edges:
        before[stop].append(start)
    order = _order(before)
    modules: dict[str, nn.Module] = {}
    edges: dict[str, tuple[str, ...]] = {}
    for name in order:
        node = graph.nodes[name]
        if name in (*inputs, *outputs):
            continue
        sources = tuple(INPUT if one == inputs[0] else one for one in before[name])
        if isinstance(node, nir.LIF | nir.IF):
            neurons, gain, offset = _neurons(nir, name, node, dt, discretization)
            single = float(gain.flatten()[0])
            users = [one for one in graph.nodes if set(before[one]) & set(before[name])]
            weighted = all(one in modules and isinstance(modules[one], nn.Linear | nn.Conv1d | nn.Conv2d) for one in sources)
            if weighted and users == [name]:
                for index, one in enumerate(sources):
                    modules[one] = _scaled(modules[one], gain, offset if index == 0 else torch.zeros_like(offset))
            elif single > 0 and not bool(offset.any()) and bool((gain == single).all()):
                # A current times a number is a threshold, and a start, divided by it.
                neurons.threshold, neurons.initial = neurons.threshold / single, neurons.initial / single
            else:
                scale = f"{name}.gain"
                modules[scale], edges[scale] = _diagonal(name, gain, offset), sources
                sources = (scale,)
            modules[name] = neurons
        else:
            modules[name] = _layer(nir, name, node)
        edges[name] = sources
    last = before[outputs[0]]
    if len(last) != 1:
        raise ValueError(f"Argument `source`: its output must come from one node, but comes from {len(last)}; add a layer that joins them")
    return ImportedGraph(modules, edges, last[0]).eval()


def to_nir(
    model: nn.Module | Chip, example: Tensor, dt: float, *, discretization: Discretization = "exact", approximate: bool = False
) -> Any:
    """Return a network as a NIR graph that another tool can run.

    NIR's neurons reset to a potential and fire above the threshold. A comparator ``>=`` becomes ``>`` at the next smaller float32, exactly;
    what calibration adds to a current goes into the bias before it, through sums and average pooling; a soft reset, an initial potential
    and integer arithmetic cannot be said.

    Parameters
    ----------
    model
        A model of `LIF` neurons, or a chip on spiking cores.
    example
        One input of one time step, shape (batch, ...): shows shapes.
    dt
        Length of a time step, seconds.
    discretization
        How the other tool will discretize; the time constants are chosen so that its decay is ours.
    approximate
        Export what cannot be said as what comes nearest: a hard reset, neurons at rest, float weights. Each is listed in the graph's
        ``metadata["approximations"]``.

    Returns
    -------
    nir.NIRGraph
        With the versions of inloop and nir, `dt` and the discretization in its metadata.

    Raises
    ------
    ValueError
        If something cannot be said and `approximate` is False, or has nothing that comes near.
    ImportError
        If nir is not installed.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(2, 3), LIF(), nn.Linear(3, 2))
    >>> sorted(to_nir(model, torch.zeros(1, 2), 1e-3).nodes)
    ['0', '1', '2', 'input', 'output']
    """
    nir = _nir()
    _check_time(dt, discretization)
    network = network_of(model) if isinstance(model, Chip) else None
    traced = trace(model.eval(), SpikingNeuron()) if network is None else network.traced
    worths = {} if network is None else _worths(network)
    shifts, left = ({}, []) if network is None else _shifts(network)
    found = _losses(network, traced)
    losses = [*found, *(f"`{name}` gets a current beside its layers' biases, NIR has no place for it" for name in left)]
    if losses and not approximate:
        raise ValueError(f"NIR cannot say this network exactly: {'; '.join(losses)}; pass approximate=True to export what comes nearest")
    shapes = _shapes(traced, example)
    nodes: dict[str, Any] = {"input": nir.Input(np.array(shapes[INPUT]))}
    edges: list[tuple[str, str]] = []
    kinds = every_kind(traced)
    joined: dict[str, tuple[str, ...]] = {INPUT: ("input",)}
    for name, stage in traced.stages.items():
        sources = [one for source in stage.inputs for one in joined[source]]
        if isinstance(stage.step, Sum):
            joined[name] = tuple(sources)
            continue
        nodes[name] = _node(nir, name, stage.step, shapes[stage.inputs[0]], dt, discretization, worths.get(name), shifts.get(name))
        edges += [(source, name) for source in sources]
        joined[name] = (name,)
        if isinstance(stage.step, Population) and kinds[stage.inputs[0]] == "spikes":
            raise NotConvertibleError(f"Layer `{name}` gets spikes without weights, which NIR has no node for; put a layer before it")
    nodes["output"] = nir.Output(np.array(shapes[traced.output]))
    edges += [(one, "output") for one in joined[traced.output]]
    metadata = {
        "inloop": inloop_version(), "nir": str(nir.version), "dt": dt, "discretization": discretization,
        "approximations": losses,
    }  # fmt: skip
    # nir's check takes the channels of a group for all channels; shapes were checked by running the network.
    return nir.NIRGraph(nodes=nodes, edges=edges, metadata=metadata, type_check=False)


def _safe(name: str) -> str:
    return name.replace(".", "_")


def _order(before: Mapping[str, list[str]]) -> list[str]:
    done: list[str] = []
    left = dict(before)
    while left:
        ready = [name for name, sources in left.items() if all(source in done for source in sources)]
        if not ready:
            raise ValueError(f"Argument `source` must be a graph without loops, but {', '.join(map(repr, left))} form one; unroll it")
        done += ready
        left = {name: sources for name, sources in left.items() if name not in ready}
    return done


def _check_time(dt: Any, discretization: Any) -> None:
    if not isinstance(dt, Real) or not (float(dt) > 0 and math.isfinite(dt)):
        raise ValueError(f"Argument `dt` must be a time step above 0, but got {dt!r}; pass seconds, as 1e-4")
    if discretization not in ("exact", "euler"):
        raise ValueError(f'Argument `discretization` must be "exact" or "euler", but got {discretization!r}; name one of them')


def _read(nir: Any, path: str | Path) -> Any:
    try:
        return nir.read(str(path), type_check=False)
    except Exception as error:  # h5py raises several kinds, and its lines do not name the file
        reason = "is no file" if not Path(path).is_file() else f"cannot be read ({type(error).__name__})"
        raise ValueError(
            f"Argument `source` must be the path of a NIR graph, but {str(path)!r} {reason}; write one with nir.write"
        ) from None


def _neurons(nir: Any, name: str, node: Any, dt: float, discretization: Discretization) -> tuple[LIF, Tensor, Tensor]:
    """Return neurons counted from their reset potential, the factor of their current, and what is added to it at each step."""
    reset = np.asarray(getattr(node, "v_reset", None) if getattr(node, "v_reset", None) is not None else 0.0, np.float64)
    threshold = np.asarray(node.v_threshold, np.float64) - reset
    if isinstance(node, nir.IF):
        decay, gain, offset = np.ones(1), np.asarray(node.r) * dt, np.zeros(1)
        start = -reset
    else:
        tau = np.asarray(node.tau, np.float64)
        decay = np.exp(-dt / tau) if discretization == "exact" else 1 - dt / tau
        gain = np.asarray(node.r) * (1 - decay)
        start = np.asarray(node.v_leak, np.float64) - reset
        offset = start * (1 - decay)
    if np.ptp(decay) > 1e-12:
        raise ValueError(f"Node `{name}`: neurons of one population must have one time constant, but have several; split the population")
    if float(decay.flat[0]) <= 0 or (threshold <= 0).any():
        raise ValueError(
            f"Node `{name}`: dt must be below tau, and the threshold above the reset potential, but are not; choose a smaller dt"
        )
    level = float(threshold.flat[0])
    if np.ptp(threshold) > 0:  # each neuron in units of its own threshold
        gain, offset, start, level = gain / threshold, offset / threshold, start / threshold, 1.0
    shape = np.broadcast_shapes(np.shape(gain), np.shape(threshold), np.shape(offset))
    gains, offsets = (torch.as_tensor(np.broadcast_to(one, shape).copy(), dtype=torch.float32) for one in (gain, offset))
    initial: Any = float(start.flat[0]) if np.ptp(start) == 0 else torch.as_tensor(start, dtype=torch.float32)
    return LIF(level, float(decay.flat[0]), comparator=">", reset="hard", initial=initial), gains, offsets


def _layer(nir: Any, name: str, node: Any) -> nn.Module:
    def pair(value: Any) -> Any:
        if isinstance(value, str):
            return value
        numbers = [int(one) for one in np.asarray(value).reshape(-1)]
        return numbers[0] if len(numbers) == 1 else tuple(numbers)

    if isinstance(node, nir.Affine | nir.Linear):
        return _with_weights(nn.Linear(node.weight.shape[-1], node.weight.shape[-2]), node.weight, getattr(node, "bias", None))
    if isinstance(node, nir.Conv1d | nir.Conv2d):
        kind = nn.Conv2d if isinstance(node, nir.Conv2d) else nn.Conv1d
        shape = node.weight.shape
        made = kind(
            shape[1] * node.groups, shape[0], tuple(shape[2:]), pair(node.stride), pair(node.padding), pair(node.dilation), node.groups
        )
        return _with_weights(made, node.weight, node.bias)
    if isinstance(node, nir.SumPool2d | nir.AvgPool2d):
        divisor = 1 if isinstance(node, nir.SumPool2d) else None
        return nn.AvgPool2d(pair(node.kernel_size), pair(node.stride), pair(node.padding), divisor_override=divisor)
    if isinstance(node, nir.Flatten):
        # NIR counts the axes of a sample, torch those of a batch.
        first, last = int(node.start_dim), int(node.end_dim)
        return nn.Flatten(first + (first >= 0), last + (last >= 0))
    raise ValueError(
        f"Node `{name}` ({type(node).__name__}) has no equivalent here; use Affine, Linear, Conv1d, Conv2d, LIF, IF, AvgPool2d, SumPool2d "
        "and Flatten"
    )


def _with_weights(module: nn.Module, weight: Any, bias: Any) -> nn.Module:
    module.weight = nn.Parameter(torch.as_tensor(np.asarray(weight), dtype=torch.float32))
    held = np.zeros(weight.shape[0]) if bias is None else np.asarray(bias)
    module.bias = nn.Parameter(torch.as_tensor(held, dtype=torch.float32).reshape(-1))
    return module


@torch.no_grad()
def _scaled(module: nn.Module, gain: Tensor, offset: Tensor) -> nn.Module:
    """Fold a factor and a constant of each neuron into the layer before it."""
    assert isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d)
    assert module.bias is not None
    outputs = module.weight.shape[0]
    each, added = _by_channel(gain, outputs), _by_channel(offset, outputs)
    module.weight.mul_(each.reshape(-1, *[1] * (module.weight.dim() - 1)))
    module.bias.mul_(each).add_(added)
    return module


def _by_channel(values: Tensor, channels: int) -> Tensor:
    if values.numel() == 1:
        return values.reshape(1).expand(channels)
    rows = values.reshape(channels, -1)
    if float((rows - rows[:, :1]).abs().max()) > 0:
        raise ValueError("Neurons of one channel must have one resistance and leak, but have several; use a population of vectors")
    return rows[:, 0]


def _diagonal(name: str, gain: Tensor, offset: Tensor) -> nn.Module:
    """Return a layer that scales each input: what a neuron without weights before it has of its own."""
    if gain.dim() > 1:
        raise ValueError(
            f"Node `{name}`: a population of shape {tuple(gain.shape)} must follow a layer with weights, but does not; add one"
        )
    layer = nn.Linear(gain.numel(), gain.numel())
    return _with_weights(layer, torch.diag(gain.reshape(-1)).numpy(), offset.reshape(-1).numpy())


def _losses(network: SpikingNetwork | None, traced: Traced) -> list[str]:
    """Return what NIR cannot say."""
    found = []
    for name, stage in traced.stages.items():
        step = stage.step
        if not isinstance(step, Population):
            continue
        if step.neuron.reset == "soft":
            found.append(f"`{name}` has a soft reset, NIR resets to a potential")
        if step.neuron.reset_moment != "same_step":
            found.append(f"`{name}` resets in the next step, NIR in the same")
        if bool(step.initial.any()):
            found.append(f"`{name}` starts from an initial potential, NIR from rest")
        if not step.trained and network is None:
            raise NotConvertibleError(
                f"Layer `{name}` is a ReLU, not a neuron; compile the model onto a spiking core first, and export the chip"
            )
    if network is not None and network.arithmetic is not None:
        found.append("the core computes in integers, NIR in real numbers")
    return found


def _shifts(network: SpikingNetwork) -> tuple[dict[str, Tensor], list[str]]:
    """Return what to add to biases beside those that hold a population's shift already, and the populations whose shift has no place.

    Average pooling without padding leaves a constant what it is, up to its divisor: a shift after it is a bias before it.
    """
    uses = Counter(source for inputs in network.layout.inputs for source in inputs)
    steps = network.named_steps()
    found: dict[str, Tensor] = {}
    left = []
    for name, population in network.populations.items():
        if not population.shifted or network._folded(name):
            continue
        factor, pending = 1.0, [network.layout.inputs[network.layout.names.index(name)][0]]
        while pending:
            source = pending.pop()
            step = steps.get(source)
            if step is None or uses[source] > 1 or source in found:
                continue
            if isinstance(step, Synapses) and step.extra is None and (factor == 1 or step.operator.dimensions):
                found[source] = (population.shift * factor).reshape(-1).expand(step.weight.shape[0])
                break
            whole = isinstance(step, Pool) and not any(step.padding) and not population.features_last and not pending
            if isinstance(step, Pool) and whole:
                factor *= step.divisor / step.places
            if isinstance(step, Sum) or whole:
                pending.extend(network.layout.inputs[network.layout.names.index(source)])
        else:
            left.append(name)
    return found, left


def _worths(network: SpikingNetwork) -> dict[str, tuple[Part, ...]]:
    found: dict[str, tuple[Part, ...]] = {}

    def visit(name: str, step: Step, arguments: tuple[Signal, ...], output: Signal) -> None:
        if isinstance(step, Synapses) and arguments[0].spikes:
            found[name] = arguments[0].parts

    network._prepare()
    with torch.no_grad():
        network._run(torch.zeros(1, *network.shape), visit)
    return found


@torch.no_grad()
def _shapes(traced: Traced, example: Tensor) -> dict[str, tuple[int, ...]]:
    values, shapes = {INPUT: example}, {INPUT: tuple(example.shape[1:])}
    for name, stage in traced.stages.items():
        values[name] = stage.step.reference(*(values[source] for source in stage.inputs))
        shapes[name] = tuple(values[name].shape[1:])
    return shapes


def _node(
    nir: Any,
    name: str,
    step: Step,
    shape: tuple[int, ...],
    dt: float,
    discretization: Discretization,
    parts: tuple[Part, ...] | None,
    shift: Tensor | None,
) -> Any:
    if isinstance(step, Population):
        if step.threshold.numel() == 1:
            level = np.full(shape, float(step.threshold), np.float32)
        else:
            level = step.threshold.expand(shape).numpy().astype(np.float32)
        if step.neuron.comparator == ">=":
            level = np.nextafter(level, np.float32(-np.inf))
        ones, zeros = np.ones(shape), np.zeros(shape)
        decay = step.neuron.decay
        if decay == 1:
            return nir.IF(r=ones / dt, v_threshold=level, v_reset=zeros)
        if decay == 0 and discretization == "exact":
            raise NotConvertibleError(f'Layer `{name}` has a decay of 0, which no time constant has; use discretization="euler"')
        tau = -dt / math.log(decay) if discretization == "exact" else dt / (1 - decay)
        return nir.LIF(tau=ones * tau, r=ones / (1 - decay), v_leak=zeros, v_threshold=level, v_reset=zeros)
    if isinstance(step, Synapses):
        if parts is not None and len(parts) > 1:
            raise NotConvertibleError(f"Layer `{name}` gets spikes of different worth, which NIR cannot add up; use one threshold")
        weight = (step.total_weight() if parts is None else step.scaled(parts[0].worth)).numpy()
        held = step.total_bias()
        bias = np.zeros(weight.shape[0], np.float32) if held is None else held.numpy()
        bias = bias if shift is None else bias + shift.numpy()
        if step.operator.dimensions == 0:
            return nir.Affine(weight=weight, bias=bias)
        if any(step.operator.border) or step.operator.dimensions > 2:
            raise NotConvertibleError(f"Layer `{name}`: NIR has no such padding or dimension; use zeros around one or two dimensions")
        options = {
            "stride": step.operator.stride, "padding": step.operator.padding, "dilation": step.operator.dilation,
            "groups": step.operator.groups, "bias": bias, "weight": weight,
        }  # fmt: skip
        if step.operator.dimensions == 1:
            return nir.Conv1d(input_shape=shape[-1], **{k: v[0] if isinstance(v, tuple) else v for k, v in options.items()})
        return nir.Conv2d(input_shape=tuple(shape[-2:]), **options)
    if isinstance(step, Pool) and len(step.kernel) == 2:
        kind = nir.SumPool2d if step.divisor == 1 and step.places > 1 else nir.AvgPool2d
        if step.divisor not in (1, step.places):
            raise NotConvertibleError(f"Layer `{name}`: NIR pools by sum or average, not with a divisor of {step.divisor}; remove it")
        return kind(kernel_size=np.array(step.kernel), stride=np.array(step.stride), padding=np.array(step.padding))
    if isinstance(step, Flatten):
        return nir.Flatten(input_type={"input": np.array(shape)}, start_dim=0, end_dim=-1)
    raise NotConvertibleError(f"Layer `{name}` ({type(step).__name__}) has no node in NIR; leave it out")
