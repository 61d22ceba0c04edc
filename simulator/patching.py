"""Patch-by-patch inference: the first part of a network runs on one patch of its output after the other, with the same result.

The scheme is that of MCUNetV2 (arXiv 2110.15352): of everything before the stage's output, only what one patch needs is there at a time,
grown backwards by the kernels; what patches share is computed again.
"""

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from simulator._isolation import one_thread
from simulator.hardware import HardwareLayer
from simulator.memory import grid_and_stage, patch_edges

POINTWISE_MODULES: Final = (
    nn.BatchNorm2d, nn.Dropout, nn.ELU, nn.GELU, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.Identity, nn.LeakyReLU, nn.Mish, nn.ReLU,
    nn.SELU, nn.Sigmoid, nn.SiLU, nn.Softplus, nn.Tanh,
)  # fmt: skip
POINTWISE_FUNCTIONS: Final = frozenset(
    (
        operator.add, operator.iadd, operator.mul, operator.sub, operator.truediv, torch.add, torch.mul, torch.sub, torch.relu,
        torch.sigmoid, torch.tanh, functional.relu, functional.relu6, functional.silu, functional.hardswish, functional.hardtanh,
        functional.gelu, functional.sigmoid, functional.tanh, functional.leaky_relu,
    )
)  # fmt: skip
POINTWISE_METHODS: Final = frozenset(("add", "mul", "sub", "relu", "sigmoid", "tanh"))

Span = tuple[int, int]
"""First row or column, and one past the last."""
Region = tuple[Span, Span]
WHOLE: Final = ((1, 1), (1, 1), (0, 0), (1, 1))


@dataclass(frozen=True)
class _Value:
    """What a step takes from another one, by its name."""

    name: str


@dataclass(frozen=True)
class _Step:
    """One call of the network: what is called, on what, and how far around a position it looks (kernel, stride, padding, dilation)."""

    name: str
    kind: str
    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    window: tuple[tuple[int, int], ...] = WHOLE

    @property
    def sources(self) -> list[str]:
        return [value.name for value in _values((self.args, self.kwargs))]


class PatchedModel(nn.Module):
    """A model whose first stage runs patch by patch; made by `patch_by_patch`.

    Parameters
    ----------
    model
        The model: it stays a part, so its state and its layers are those of the original.
    steps
        Its calls in order.
    end
        Name of the step that makes the stage's output.
    shapes
        Height and width of every image in the stage, by step.
    output_shape
        Shape of the stage's output without the batch.
    grid
        Patches along height and width.
    """

    def __init__(
        self, model: nn.Module, steps: list[_Step], end: str, shapes: dict[str, Span], output_shape: tuple[int, ...], grid: Span
    ) -> None:
        super().__init__()
        self.model = model
        place = next(index for index, step in enumerate(steps) if step.name == end)
        self._stage, self._rest = steps[: place + 1], steps[place + 1 :]
        self._end, self._shapes, self._output_shape, self.grid = end, shapes, output_shape, grid

    @property
    def patches(self) -> int:
        """How many patches the stage's output is cut into."""
        return self.grid[0] * self.grid[1]

    def forward(self, *inputs: Tensor) -> Any:
        """Call the model with inputs of the shape that it was cut for, except for the batch."""
        whole = {}
        given = [step for step in self._stage if step.kind == "placeholder"]
        for step, value in zip(given, inputs, strict=True):
            if tuple(value.shape[2:]) != self._shapes[step.name]:
                height, width = self._shapes[step.name]
                raise ValueError(
                    f"A model cut into patches must be called with images of {height} x {width}, but got {tuple(value.shape[2:])}; "
                    "cut it again for that size"
                )
            whole[step.name] = value
        batch = inputs[0].shape[0]
        output: Tensor | None = None
        for rows in patch_edges(self._output_shape[1], self.grid[0]):
            for columns in patch_edges(self._output_shape[2], self.grid[1]):
                part = self._patch(whole, (rows, columns))
                if output is None:
                    output = part.new_empty((batch, *self._output_shape))
                output = output.index_put(_at(rows, columns, output), part) if part.requires_grad else _written(output, rows, columns, part)
        assert output is not None
        values: dict[str, Any] = {self._end: output}
        for step in self._rest:
            if step.kind == "output":
                return _filled(step.args[0], values)
            values[step.name] = self._call(step, values)
        raise AssertionError("a traced network has an output")

    def _patch(self, whole: dict[str, Tensor], wanted: Region) -> Tensor:
        """Return the stage's output on a region."""
        regions = self._regions(wanted)
        held: dict[str, tuple[Tensor, Region]] = {}
        last_use = {source: step.name for step in self._stage for source in step.sources}
        for step in self._stage:
            region = regions.get(step.name)
            if region is None:
                continue
            if step.kind == "placeholder":
                held[step.name] = (_cut(whole[step.name], region, (0, 0)), region)
                continue
            values = {}
            start = (0, 0)
            for source in set(step.sources):
                tensor, there = held[source]
                needed = self._needed(step, region, source)
                values[source] = _cut(tensor, needed, (there[0][0], there[1][0]))
                stride = step.window[1]
                start = (needed[0][0] // stride[0], needed[1][0] // stride[1])
            made = self._call(step, values)
            held[step.name] = (_cut(made, region, start), region)
            for source in set(step.sources):
                if last_use[source] == step.name:
                    del held[source]
        return held[self._end][0]

    def _regions(self, wanted: Region) -> dict[str, Region]:
        """Grow a region of the stage's output backwards: what is needed of every step."""
        found = {self._end: wanted}
        for step in reversed(self._stage):
            if step.name in found:
                for source in step.sources:
                    new = self._needed(step, found[step.name], source)
                    old = found.get(source, new)
                    found[source] = tuple((min(a[0], b[0]), max(a[1], b[1])) for a, b in zip(old, new, strict=True))  # type: ignore[assignment]
        return found

    def _needed(self, step: _Step, region: Region, source: str) -> Region:
        """Return the part of a source that a part of a step's output needs, from a position that its stride divides.

        The step pads its part on all sides; what padding inside the image spoils lies before or behind the region and is cut off.
        """
        found: list[Span] = []
        for axis, (first, last) in enumerate(region):
            kernel, stride, padding, dilation = (one[axis] for one in step.window)
            low = max(0, first * stride - padding) // stride * stride
            high = (last - 1) * stride - padding + dilation * (kernel - 1) + 1
            found.append((low, min(self._shapes[source][axis], max(high, low + 1))))
        return found[0], found[1]

    def _call(self, step: _Step, values: dict[str, Any]) -> Any:
        args, kwargs = _filled(step.args, values), _filled(step.kwargs, values)
        if step.kind == "call_module":
            return self.model.get_submodule(step.target)(*args, **kwargs)
        if step.kind == "call_method":
            return getattr(args[0], step.target)(*args[1:], **kwargs)
        if step.kind == "get_attr":
            return operator.attrgetter(step.target)(self.model)
        return step.target(*args, **kwargs)


def patch_by_patch(model: nn.Module, example_inputs: Any, patches: tuple[int | tuple[int, int], str]) -> PatchedModel:
    """Cut the first stage of a network into patches: the result is that of the model, the peak of its activations is lower.

    `peak_activation_memory` says what is saved and how much is computed again. The result is an ordinary module, which `compile` puts on
    hardware as it does the model: a layer then runs once for each patch, and its cost has what is computed again.

    Parameters
    ----------
    model
        A network that torch.fx can trace. It runs in eval mode.
    example_inputs
        Arguments of its call, images (batch, channels, height, width): one tensor or a tuple.
    patches
        ``(grid, name)``: the stage ends with the module `name`, its output is cut into grid x grid (or rows x columns) patches.

    Returns
    -------
    PatchedModel
        Shares its parameters with the model.

    Raises
    ------
    ValueError
        If the network cannot be traced, the module is unknown, its output is no image or is not all that the rest needs, or a step of
        the stage looks at more than a window of its input.

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8 * 64, 4)).eval()
    >>> x = torch.rand(2, 3, 16, 16)
    >>> patched = patch_by_patch(model, x, (2, "2"))
    >>> bool(torch.allclose(patched(x), model(x), atol=1e-6)), patched.patches
    (True, 4)
    """
    cut, name = grid_and_stage(patches)
    inputs = tuple(example_inputs) if isinstance(example_inputs, tuple | list) else (example_inputs,)
    if name not in dict(model.named_modules()):
        raise ValueError(f"Argument `patches` must name a module of the model, but got {name!r}; do take a name of named_modules()")
    tracer = _Tracer()
    try:
        graph = tracer.trace(model)
    except Exception as error:
        raise ValueError(f"Argument `model` must be traceable by torch.fx to be cut into patches, but is not: {error}") from error
    nodes = list(graph.nodes)
    end = _last_inside(nodes, name)
    if end is None:
        raise ValueError(f"Argument `patches` must name a module that the model calls, but {name!r} was not called; do name another one")
    training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), one_thread():
            shapes = _shapes(model, graph, inputs)
    finally:
        for module, before in training:
            module.training = before
    if len(shapes.get(end.name, ())) != 4:
        raise ValueError(f"Argument `patches` must name a module whose output is an image, but got {name!r}; do name another one")
    stage = nodes[: nodes.index(end) + 1]
    outside = set(nodes[nodes.index(end) + 1 :])
    for node in stage:
        if node is not end and any(user in outside for user in node.users):
            raise ValueError(
                f"Argument `patches`: the rest of the network must need nothing of the stage but its output, but needs `{node.name}`; "
                "end before it or behind its use"
            )
    steps = [_step(model, node, node in stage) for node in nodes]
    size = shapes[end.name]
    if not (1 <= cut[0] <= size[2] and 1 <= cut[1] <= size[3]):
        raise ValueError(f"Argument `patches` must cut {size[2]} x {size[3]} positions, but got {cut[0]} x {cut[1]}; do use fewer patches")
    images = {node.name: tuple(shapes[node.name][2:]) for node in stage if len(shapes.get(node.name, ())) == 4}
    patched = PatchedModel(model, steps, end.name, images, tuple(size[1:]), cut)  # type: ignore[arg-type]
    return patched.eval()


class _Tracer(fx.Tracer):
    """Leaves whole what has no modules inside, and layers on hardware."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, HardwareLayer) or not any(m.children())


def _last_inside(nodes: list[fx.Node], name: str) -> fx.Node | None:
    found = None
    for node in nodes:
        inside = [str(path) for path, _ in node.meta.get("nn_module_stack", {}).values()]
        if node.op != "output" and (name in inside or (node.op == "call_module" and node.target == name)):
            found = node
    return found


def _shapes(model: nn.Module, graph: fx.Graph, inputs: tuple[Any, ...]) -> dict[str, tuple[int, ...]]:
    """Return the shape of every tensor of a call."""
    found: dict[str, tuple[int, ...]] = {}

    class Recorder(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if isinstance(value, Tensor):
                found[n.name] = tuple(value.shape)
            return value

    Recorder(model, graph=graph).run(*inputs)
    return found


def _step(model: nn.Module, node: fx.Node, in_stage: bool) -> _Step:
    args, kwargs = _by_name(node.args), _by_name(node.kwargs)
    window = _window(model, node) if in_stage and node.op != "placeholder" else WHOLE
    return _Step(node.name, node.op, node.target, tuple(args), dict(kwargs), window)


def _by_name(part: Any) -> Any:
    """Return arguments with the nodes in them as names."""
    if isinstance(part, fx.Node):
        return _Value(part.name)
    if isinstance(part, dict):
        return {key: _by_name(one) for key, one in part.items()}
    if isinstance(part, tuple | list):
        return tuple(_by_name(one) for one in part)
    return part


def _window(model: nn.Module, node: fx.Node) -> tuple[tuple[int, int], ...]:
    """Return how far a step looks around a position, or refuse one that looks at more than a window."""
    if node.op == "call_module":
        module = model.get_submodule(str(node.target))
        if isinstance(module, HardwareLayer) and module.operator.dimensions == 2:
            return (
                _pair(tuple(module.weight.shape[2:])),
                _pair(module.operator.stride),
                _pair(module.operator.padding),
                _pair(module.operator.dilation),
            )
        if isinstance(module, nn.Conv2d) and module.padding_mode == "zeros" and not isinstance(module.padding, str):
            return _pair(module.kernel_size), _pair(module.stride), _pair(module.padding), _pair(module.dilation)
        if isinstance(module, nn.MaxPool2d) and not module.ceil_mode:
            return _pair(module.kernel_size), _pair(module.stride), _pair(module.padding), _pair(module.dilation)
        if isinstance(module, nn.AvgPool2d) and not module.ceil_mode:
            return _pair(module.kernel_size), _pair(module.stride), _pair(module.padding), (1, 1)
        if isinstance(module, POINTWISE_MODULES):
            return WHOLE
        what = f"{type(module).__name__} `{node.target}`"
    else:
        joins = node.target in (torch.cat, torch.concat) and 1 in (*node.args[1:], node.kwargs.get("dim"))
        if joins or (node.op == "call_function" and node.target in POINTWISE_FUNCTIONS):
            return WHOLE
        if node.op == "call_method" and node.target in POINTWISE_METHODS:
            return WHOLE
        what = f"`{getattr(node.target, '__name__', node.target)}`"
    raise ValueError(f"Argument `patches`: {what} must look at a window of its input to be cut into patches, but may not; end before it")


def _pair(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[-1]))


def _values(part: Any) -> Iterator[_Value]:
    if isinstance(part, _Value):
        yield part
    elif isinstance(part, dict):
        for one in part.values():
            yield from _values(one)
    elif isinstance(part, tuple | list):
        for one in part:
            yield from _values(one)


def _filled(part: Any, values: dict[str, Any]) -> Any:
    if isinstance(part, _Value):
        return values[part.name]
    if isinstance(part, dict):
        return {key: _filled(one, values) for key, one in part.items()}
    if isinstance(part, tuple | list):
        return type(part)(_filled(one, values) for one in part)
    return part


def _cut(tensor: Tensor, region: Region, start: Span) -> Tensor:
    """Return a region of an image whose first row and column are `start`."""
    (top, bottom), (left, right) = region
    return tensor[:, :, top - start[0] : bottom - start[0], left - start[1] : right - start[1]]


def _at(rows: Span, columns: Span, like: Tensor) -> tuple[Tensor, ...]:
    batch, channels = torch.arange(like.shape[0], device=like.device), torch.arange(like.shape[1], device=like.device)
    down, right = torch.arange(*rows, device=like.device), torch.arange(*columns, device=like.device)
    return batch[:, None, None, None], channels[None, :, None, None], down[None, None, :, None], right[None, None, None, :]


def _written(output: Tensor, rows: Span, columns: Span, part: Tensor) -> Tensor:
    output[:, :, rows[0] : rows[1], columns[0] : columns[1]] = part
    return output
