"""Reading a model as a graph of steps, or saying by name what spiking neurons cannot do."""

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import fx, nn
from torch.nn import functional

from devices.spiking import SpikingNeuron
from simulator.spiking.neurons import LIF
from simulator.spiking.steps import Concatenation, Flatten, MaxPool, Pool, Population, Step, Sum
from simulator.spiking.synapses import Synapses
from simulator.weight_layers import is_weight_layer

Shape = tuple[int, ...]

DROPPED: Final = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
NORMS: Final = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
INPUT: Final = "input"


class NotConvertibleError(ValueError):
    """Says in one line which layer cannot become spiking, and why."""


@dataclass(frozen=True, eq=False)
class Stage:
    """A step with the names of those it gets its inputs from.

    Attributes
    ----------
    step
        What is done.
    inputs
        Names of other steps, or ``input``.
    """

    step: Step
    inputs: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Traced:
    """A model as stages in the order in which they run.

    Attributes
    ----------
    stages
        By name.
    output
        Name of the stage whose output is the network's.
    """

    stages: dict[str, Stage]
    output: str


class _Tracer(fx.Tracer):
    """Keeps torch's layers and ours whole; a layer with several parts in it is looked into."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, LIF) or is_weight_layer(m) or super().is_leaf_module(m, module_qualified_name)


def trace(
    model: nn.Module,
    neuron: SpikingNeuron,
    *,
    shapes: Callable[[fx.GraphModule], Mapping[str, Shape]] | None = None,
    max_pooling: bool = False,
    unfolded: Mapping[str, str] | None = None,
) -> Traced:
    """Return a model as stages.

    Parameters
    ----------
    model
        In eval mode, with batch norm folded; its layers are shared.
    neuron
        Conventions of the neurons that replace a ReLU.
    shapes
        Returns the shape of each node's output in the captured graph; needed for adaptive pooling.
    max_pooling
        Whether the core can take the maximum of spikes.
    unfolded
        Why a batch norm was not folded, by name.

    Raises
    ------
    NotConvertibleError
        With the layer's name and the reason, where something cannot be converted.

    Examples
    --------
    >>> list(trace(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), SpikingNeuron()).stages)
    ['0', '1', '2']
    """
    try:
        graph = _Tracer().trace(model)
    except NotConvertibleError:
        raise
    except Exception as error:  # tracing runs the user's own code, which may raise anything
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise NotConvertibleError(
            f"Argument `model` must be a graph that torch.fx can capture, but its forward is not: {line}; keep loops and branches on "
            "values out of the part that shall spike"
        ) from None
    module = fx.GraphModule(model, graph)
    found = {} if shapes is None else shapes(module)
    return _Reader(module, neuron, found, max_pooling, unfolded or {}).read()


class _Reader:
    def __init__(
        self, module: fx.GraphModule, neuron: SpikingNeuron, shapes: Mapping[str, Shape], max_pooling: bool, unfolded: Mapping[str, str]
    ) -> None:
        self.module, self.neuron, self.shapes, self.max_pooling, self.unfolded = module, neuron, shapes, max_pooling, unfolded
        self.modules = dict(module.named_modules())
        self.stages: dict[str, Stage] = {}
        self.alias: dict[str, str] = {}
        self.kinds: dict[str, str] = {INPUT: INPUT}
        self.features_last: dict[str, bool] = {INPUT: False}
        self.made: dict[int, str] = {}

    def read(self) -> Traced:
        output = ""
        placeholders = [node for node in self.module.graph.nodes if node.op == "placeholder" and node.users]
        if len(placeholders) != 1:
            raise NotConvertibleError(f"Argument `model` must take one input, but takes {len(placeholders)}; merge them")
        for node in self.module.graph.nodes:
            if node.op == "placeholder":
                self.alias[node.name] = INPUT
            elif node.op == "output":
                if not isinstance(node.args[0], fx.Node):
                    raise NotConvertibleError("Argument `model` must return one tensor, but returns several; choose one")
                output = self.source(node.args[0])
            elif node.op == "get_attr":
                raise NotConvertibleError(f"`{node.target}`: a parameter or constant used directly cannot be converted; put it in a layer")
            else:
                self.step(node)
        if output == INPUT or not any(isinstance(stage.step, Population) for stage in self.stages.values()):
            raise NotConvertibleError("Argument `model` must have a ReLU or spiking neurons, but has none: there is nothing to convert")
        return Traced(self.stages, output)

    def source(self, node: Any) -> str:
        if not isinstance(node, fx.Node):
            raise NotConvertibleError(f"an operand {node!r} that is no layer's output cannot be converted; remove it from the model")
        return self.alias[node.name]

    def name(self, node: fx.Node) -> str:
        if node.op == "call_module":
            name = str(node.target) or "model"
            if name not in self.stages:
                return name
        return node.name

    def add(self, node: fx.Node, step: Step, inputs: tuple[str, ...], kind: str) -> None:
        step.name = self.name(node)
        self.stages[step.name] = Stage(step, inputs)
        self.alias[node.name] = step.name
        self.kinds[step.name] = kind
        last = self.features_last[inputs[0]]
        self.features_last[step.name] = step.operator.dimensions == 0 if isinstance(step, Synapses) else last
        if isinstance(step, Population):
            step.features_last = last

    def same(self, node: fx.Node) -> None:
        self.alias[node.name] = self.source(node.args[0])

    def refuse(self, node: fx.Node, reason: str) -> NotConvertibleError:
        what = self.modules[str(node.target)] if node.op == "call_module" else None
        kind = type(what).__name__ if what is not None else getattr(node.target, "__name__", str(node.target))
        return NotConvertibleError(f"Layer `{self.name(node)}` ({kind}) cannot become spiking: {reason}")

    def step(self, node: fx.Node) -> None:
        if node.op == "call_module":
            self.layer(node, self.modules[str(node.target)])
            return
        function: Any = node.target
        if function in (torch.relu, functional.relu, torch.relu_, "relu", "relu_"):
            self.population(node, None)
        elif function is functional.relu6:
            self.population(node, 6.0)
        elif function in (operator.add, operator.iadd, torch.add, "add", "add_"):
            if len(node.args) != 2 or node.kwargs:
                raise self.refuse(node, "a sum of two tensors alone can be converted")
            self.sum(node)
        elif function in (torch.cat, torch.concat, torch.concatenate):
            self.concatenation(node)
        elif function in (torch.flatten, "flatten"):
            start = node.args[1] if len(node.args) > 1 else node.kwargs.get("start_dim", 0)
            if start != 1 or len(node.args) > 2 or "end_dim" in node.kwargs:
                raise self.refuse(node, "only flattening from axis 1 to the last keeps samples apart")
            self.shaped(node, Flatten(""))
        elif function in ("view", "reshape", torch.reshape):
            if len(node.args) != 3 or node.args[2] != -1:
                raise self.refuse(node, "only a reshape to (batch, -1) can be converted")
            self.shaped(node, Flatten(""))
        elif function == "size":
            self.alias[node.name] = ""
        elif function is operator.getitem and self.alias.get(getattr(node.args[0], "name", "")) == "":
            self.alias[node.name] = ""
        elif function in (functional.dropout, functional.dropout2d, "contiguous"):
            self.same(node)
        elif function in (functional.avg_pool2d, functional.avg_pool1d):
            size, stride, padding = (
                node.args[i] if len(node.args) > i else node.kwargs.get(key)
                for i, key in ((1, "kernel_size"), (2, "stride"), (3, "padding"))
            )
            if len(node.args) > 4 or {"ceil_mode", "count_include_pad", "divisor_override"} & set(node.kwargs):
                raise self.refuse(node, "average pooling with ceil_mode, count_include_pad or divisor_override is not a sum of spikes")
            self.pool(node, 2 if function is functional.avg_pool2d else 1, size, stride, padding or 0)
        elif function in (functional.adaptive_avg_pool2d, functional.adaptive_avg_pool1d):
            self.adaptive(node, 2 if function is functional.adaptive_avg_pool2d else 1, node.args[1])
        elif function in (torch.mean, "mean"):
            self.mean(node)
        elif function in (functional.max_pool2d, functional.max_pool1d, torch.max_pool2d):
            raise self.refuse(node, "the maximum of rates is not that of spikes; use average pooling")
        else:
            raise self.refuse(node, "no spiking equivalent is known; leave it out, or compile the part without it")

    def layer(self, node: fx.Node, module: nn.Module) -> None:
        if isinstance(module, DROPPED):
            self.same(node)
        elif is_weight_layer(module):
            self.synapses(node, module)
        elif isinstance(module, LIF):
            population = Population("", module.convention, None, module.threshold)
            population.initial = module.initial.clone()
            self.add(node, population, (self.source(node.args[0]),), "spikes")
        elif isinstance(module, nn.ReLU):
            self.population(node, None)
        elif isinstance(module, nn.ReLU6):
            self.population(node, 6.0)
        elif isinstance(module, nn.Hardtanh) and module.min_val == 0 and module.max_val > 0:
            self.population(node, float(module.max_val))
        elif isinstance(module, nn.Flatten):
            if module.start_dim != 1 or module.end_dim != -1:
                raise self.refuse(node, "only flattening from axis 1 to the last keeps samples apart")
            self.shaped(node, Flatten(""))
        elif isinstance(module, nn.AvgPool1d | nn.AvgPool2d):
            padded = any(_pair(module.padding, 2))
            if module.ceil_mode or (padded and not module.count_include_pad):
                raise self.refuse(node, "average pooling with ceil_mode or count_include_pad=False is not a sum of spikes")
            divisor = getattr(module, "divisor_override", None)
            self.pool(node, 2 if isinstance(module, nn.AvgPool2d) else 1, module.kernel_size, module.stride, module.padding, divisor)
        elif isinstance(module, nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d):
            self.adaptive(node, 2 if isinstance(module, nn.AdaptiveAvgPool2d) else 1, module.output_size)
        elif isinstance(module, nn.MaxPool2d) and self.max_pooling and module.dilation in (1, (1, 1)) and not module.ceil_mode:
            if self.kinds[self.source(node.args[0])] != "spikes":
                raise self.refuse(node, "maximum pooling must follow a ReLU on this core; swap the two, which commute")
            self.shaped(node, MaxPool("", module.kernel_size, module.stride, module.padding))
        elif isinstance(module, nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d | nn.AdaptiveMaxPool2d):
            raise self.refuse(node, "the maximum of rates is not that of spikes, and the core has no maximum pooling; use average pooling")
        elif isinstance(module, NORMS):
            reason = self.unfolded.get(str(node.target)) or "it was not folded into the layer before it"
            raise self.refuse(node, f"{reason}; neurons have no batch norm")
        else:
            raise self.refuse(node, "no spiking equivalent is known; use ReLU, average pooling and layers with weights")

    def synapses(self, node: fx.Node, module: nn.Module) -> None:
        source = self.source(node.args[0])
        if self.kinds[source] == "current":
            raise self.refuse(
                node, f"it follows `{source}` without a ReLU between them, and only spikes cross synapses; merge the two layers"
            )
        if id(module) in self.made:
            raise self.refuse(node, f"it is called twice (as `{self.made[id(module)]}` before); give each call a layer of its own")
        self.made[id(module)] = self.name(node)
        self.add(node, Synapses("", module), (source,), "current")

    def population(self, node: fx.Node, ceiling: float | None) -> None:
        self.add(node, Population("", self.neuron, ceiling), (self.source(node.args[0]),), "spikes")

    def shaped(self, node: fx.Node, step: Step) -> None:
        source = self.source(node.args[0])
        self.add(node, step, (source,), self.kinds[source])

    def sum(self, node: fx.Node) -> None:
        first, second = (self.source(argument) for argument in node.args)
        kinds = {self.kinds[first], self.kinds[second]}
        if kinds == {INPUT}:
            raise self.refuse(node, "the input added to itself is no layer; change the weights after it")
        self.add(node, Sum(""), (first, second), "spikes" if kinds == {"spikes"} else "current")

    def concatenation(self, node: fx.Node) -> None:
        axis = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", node.kwargs.get("axis", 0))
        tensors: Any = node.args[0]
        sources = tuple(self.source(one) for one in tensors)
        kinds = {self.kinds[source] for source in sources}
        if axis != 1 or len(kinds) != 1:
            raise self.refuse(node, "only channels (axis 1) of spikes with spikes, or currents with currents, can be concatenated")
        self.add(node, Concatenation(""), sources, kinds.pop())

    def pool(self, node: fx.Node, dimensions: int, size: Any, stride: Any, padding: Any, divisor: int | None = None) -> None:
        kernel = _pair(size, dimensions)
        self.shaped(node, Pool("", kernel, _pair(stride, dimensions) if stride else kernel, _pair(padding, dimensions), divisor))

    def adaptive(self, node: fx.Node, dimensions: int, size: Any) -> None:
        wanted = _pair(size, dimensions)
        source: Any = node.args[0]
        shape = self.shapes.get(source.name)
        if shape is None:
            raise self.refuse(node, "adaptive pooling needs example_inputs, which show the shape it pools; pass them")
        given = shape[-dimensions:]
        wanted = tuple(have if want is None else want for want, have in zip(wanted, given, strict=True))
        if any(have % want for want, have in zip(wanted, given, strict=True)):
            raise self.refuse(node, f"pooling {given} to {wanted} has windows of several sizes; choose sizes that divide")
        kernel = tuple(have // want for want, have in zip(wanted, given, strict=True))
        self.shaped(node, Pool("", kernel, kernel, (0,) * dimensions))

    def mean(self, node: fx.Node) -> None:
        axes: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        source: Any = node.args[0]
        shape = self.shapes.get(source.name)
        if shape is None or len(shape) != 4 or sorted(axis % 4 for axis in axes or ()) != [2, 3]:
            raise self.refuse(node, "only the mean over height and width, with example_inputs to show them, is average pooling")
        keep = node.kwargs.get("keepdim", node.args[2] if len(node.args) > 2 else False)
        kernel = tuple(shape[-2:])
        self.shaped(node, Pool("", kernel, kernel, (0, 0)))
        if not keep:
            pooled = self.alias[node.name]
            name = f"{pooled}_flat"
            self.stages[name] = Stage(Flatten(name), (pooled,))
            self.kinds[name] = self.kinds[pooled]
            self.features_last[name] = False
            self.alias[node.name] = name


def _pair(value: Any, dimensions: int) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple | list) else (value,) * dimensions


def every_kind(traced: Traced) -> dict[str, str]:
    """Return whether each stage puts out spikes, a current, or a form of the input.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> every_kind(trace(model, SpikingNeuron()))
    {'input': 'input', '0': 'current', '1': 'spikes', '2': 'current'}
    """
    kinds: dict[str, Any] = {INPUT: INPUT}
    for name, stage in traced.stages.items():
        before = [kinds[source] for source in stage.inputs]
        if isinstance(stage.step, Population):
            kinds[name] = "spikes"
        elif isinstance(stage.step, Synapses):
            kinds[name] = "current"
        elif isinstance(stage.step, Sum):
            kinds[name] = "spikes" if set(before) == {"spikes"} else "current"
        else:
            kinds[name] = before[0]
    return kinds
