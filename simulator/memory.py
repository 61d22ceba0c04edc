"""Peak memory of activations: whole layers, or patch by patch through the first part of a network.

The accounting is that of MCUNetV2 (arXiv 2110.15352): an operator needs its inputs and outputs; depthwise convolutions and elementwise
operators write over their input. What waits for a later operator, as the shortcut of a residual block, counts on request.
Patch by patch, the stage's whole output is held, and one patch of everything before it, grown backwards by the kernels.
"""

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from simulator._dispatch import DispatchMode
from simulator._isolation import one_thread
from simulator.capture import plain_kernels

Region = tuple[int, int, int, int]
"""First and one past the last row, first and one past the last column."""


class PeakMemory(int):
    """Bytes of the peak; an integer that knows how it came about.

    Attributes
    ----------
    operator
        What ran at the peak, with the module that it was in.
    macs
        Multiply-accumulates of the call, patches recomputed.
    macs_whole
        Multiply-accumulates without patches.
    """

    operator: str
    macs: int
    macs_whole: int

    @property
    def extra_macs(self) -> float:
        """Share of multiply-accumulates that recomputing the patches' borders adds."""
        return self.macs / self.macs_whole - 1.0 if self.macs_whole else 0.0

    @property
    def kibibytes(self) -> float:
        """The peak in KiB."""
        return self / 1024


def peak_activation_memory(
    model: nn.Module,
    example_inputs: Any,
    bits: int = 8,
    patches: tuple[int | tuple[int, int], str] | None = None,
    *,
    shortcuts: bool = False,
) -> PeakMemory:
    """Return the largest memory that activations take at once in a call of the model.

    Parameters
    ----------
    model
        Any module; it is called once.
    example_inputs
        Arguments of the call, a tuple or one tensor.
    bits
        Bits of an activation.
    patches
        None runs every operator on whole activations. ``(grid, name)`` runs the operators up to the end of the module `name` patch by
        patch, its output cut into grid x grid (or rows x columns) patches.
    shortcuts
        Also count what waits for a later operator. The published numbers do not.

    Returns
    -------
    PeakMemory
        Bytes, with the operator at the peak and the multiply-accumulates.

    Raises
    ------
    ValueError
        If `bits` is out of range, the module is unknown, its output is no image, or an operator before it cannot be cut into patches.

    Examples
    --------
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
    >>> x = torch.zeros(1, 3, 32, 32)
    >>> peak_activation_memory(model, x), peak_activation_memory(model, x, patches=(2, "2")).operator
    (12288, 'convolution in 0')
    """
    if not isinstance(bits, int) or isinstance(bits, bool) or not 1 <= bits <= 64:
        raise ValueError(f"Argument `bits` must be an integer from 1 to 64, but got {bits!r}; do pass the bits of an activation")
    grid, until = (None, None) if patches is None else grid_and_stage(patches)
    operators, end = _record(model, example_inputs, until)
    whole_macs = sum(operator.macs for operator in operators)
    if grid is None:
        return _result(_peak(operators, bits, shortcuts), whole_macs, whole_macs)
    stage, rest = operators[:end], operators[end:]
    if not stage or stage[-1].output.dim() != 4:
        raise ValueError(f"Argument `patches` must name a module whose output is an image, but got {until!r}; do name another one")
    target = stage[-1].output
    height, width = target.shape[2:]
    if not (1 <= grid[0] <= height and 1 <= grid[1] <= width):
        raise ValueError(f"Argument `patches` must cut {height} x {width} positions, but got {grid[0]} x {grid[1]}; do use fewer patches")
    held = _bytes(target.numel(), bits)
    best, macs = (0, ""), sum(operator.macs for operator in rest)
    for top, bottom in patch_edges(height, grid[0]):
        for left, right in patch_edges(width, grid[1]):
            regions = _regions(stage, (top, bottom, left, right))
            peak = _peak(stage, bits, shortcuts, regions, skip=id(target))
            best = max(best, (peak[0] + held, peak[1]))
            macs += sum(operator.patch_macs(regions[id(operator.output)]) for operator in stage if id(operator.output) in regions)
    return _result(max(best, _peak(rest, bits, shortcuts)), macs, whole_macs)


def grid_and_stage(patches: tuple[int | tuple[int, int], str]) -> tuple[tuple[int, int], str]:
    """Return the rows and columns of patches, and the module that ends the stage.

    Raises
    ------
    ValueError
        If the argument is anything else than a grid and a name.

    Examples
    --------
    >>> grid_and_stage((4, "features.4"))
    ((4, 4), 'features.4')
    """
    grid, name = patches if isinstance(patches, tuple | list) and len(patches) == 2 else (None, None)
    sides = (grid, grid) if isinstance(grid, int) else tuple(grid) if isinstance(grid, tuple | list) else ()
    if not isinstance(name, str) or len(sides) != 2 or any(not isinstance(side, int) or isinstance(side, bool) for side in sides):
        raise ValueError(
            f'Argument `patches` must be a grid and the name of a module, as (4, "features.4"), but got {patches!r}; do name the stage'
        )
    return (sides[0], sides[1]), name


def _result(peak: tuple[int, str], macs: int, whole: int) -> PeakMemory:
    found = PeakMemory(peak[0])
    found.operator, found.macs, found.macs_whole = peak[1], macs, whole
    return found


@dataclass(eq=False)
class _Operator:
    """One operation of the call: what it read, what it made, and how far around a position it looks."""

    name: str
    inputs: list[Tensor]
    output: Tensor
    macs: int = 0
    in_place: bool = False
    kernel: tuple[int, ...] = (1, 1)
    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0)
    dilation: tuple[int, ...] = (1, 1)
    local: bool = True

    def needed(self, region: Region, source: Tensor) -> Region:
        """Return the part of an input that a part of the output needs."""
        found: list[int] = []
        for axis in range(2):
            first, last = region[2 * axis], region[2 * axis + 1]
            low = first * self.stride[axis] - self.padding[axis]
            high = (last - 1) * self.stride[axis] - self.padding[axis] + self.dilation[axis] * (self.kernel[axis] - 1) + 1
            found += [max(0, low), min(source.shape[2 + axis], high)]
        return found[0], found[1], found[2], found[3]

    def patch_macs(self, region: Region) -> int:
        """Return the multiply-accumulates of a part of the output."""
        area = self.output.shape[2] * self.output.shape[3] if self.output.dim() == 4 else 1
        return self.macs * (region[1] - region[0]) * (region[3] - region[2]) // area


def _regions(stage: list[_Operator], wanted: Region) -> dict[int, Region]:
    """Grow a part of the stage's output backwards: the part that is needed of every activation, by its id."""
    regions = {id(stage[-1].output): wanted}
    for operator in reversed(stage):
        region = regions.get(id(operator.output))
        if region is None:
            continue
        for source in operator.inputs:
            if not operator.local or source.dim() != 4:
                raise ValueError(f"Argument `patches`: `{operator.name}` must be local to be cut into patches, but is not; end before it")
            grown = operator.needed(region, source)
            old = regions.get(id(source), grown)
            regions[id(source)] = (min(old[0], grown[0]), max(old[1], grown[1]), min(old[2], grown[2]), max(old[3], grown[3]))
    return regions


def _peak(
    operators: list[_Operator], bits: int, shortcuts: bool, regions: dict[int, Region] | None = None, skip: int | None = None
) -> tuple[int, str]:
    """Return the largest memory and the operator that takes it; `skip` is an activation that is counted elsewhere."""
    last_use = {id(source): place for place, operator in enumerate(operators) for source in operator.inputs}
    made = {id(operator.output): place for place, operator in enumerate(operators)}
    if operators:
        last_use[id(operators[-1].output)] = len(operators)
    tensors = {id(tensor): tensor for operator in operators for tensor in (*operator.inputs, operator.output)}

    def size(identity: int) -> int:
        tensor = tensors[identity]
        if identity == skip:
            return 0
        if regions is None:
            return _bytes(tensor.numel(), bits)
        if identity not in regions:
            return 0
        top, bottom, left, right = regions[identity]
        return _bytes(tensor.shape[0] * tensor.shape[1] * (bottom - top) * (right - left), bits)

    best = (0, "")
    alive = {identity for identity in tensors if identity not in made}
    for place, operator in enumerate(operators):
        output = id(operator.output)
        counted = {output} | {id(source) for source in operator.inputs} | (alive if shortcuts else set())
        total = sum(size(identity) for identity in counted)
        over = [id(source) for source in operator.inputs if operator.in_place and last_use[id(source)] == place and id(source) != output]
        if over:
            # The output lies where an input was that nobody reads again.
            total -= min(size(output), max(size(identity) for identity in over))
        best = max(best, (total, operator.name), key=lambda one: one[0])
        alive.add(output)
        alive = {identity for identity in alive if last_use.get(identity, -1) > place}
    return best


def _bytes(elements: int, bits: int) -> int:
    return -(-elements * bits // 8)


def patch_edges(length: int, pieces: int) -> list[tuple[int, int]]:
    """Return where patches start and end along one side.

    Examples
    --------
    >>> patch_edges(7, 2)
    [(0, 3), (3, 7)]
    """
    edges = [length * piece // pieces for piece in range(pieces + 1)]
    return list(itertools.pairwise(edges))


class _Recorder(DispatchMode):
    """Notes every operation on activations; a view is the activation that it shows."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operators: list[_Operator] = []
        self.module: list[str] = ["model"]
        self.fixed = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
        self.activations: dict[int, Tensor] = {}
        self.kept: list[Any] = []
        self.end: int | None = None

    def root(self, tensor: Tensor) -> Tensor:
        return self.activations.setdefault(tensor.untyped_storage()._cdata, tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        outputs = [one for one in _tensors(result) if one.is_floating_point()][:1]
        given = [one for one in _tensors(args) if one.is_floating_point() and one.untyped_storage()._cdata not in self.fixed]
        self.kept.append((args, kwargs, result))
        name = func.overloadpacket.__name__
        if not outputs or not given:
            return result
        shared = {one.untyped_storage()._cdata for one in given}
        if outputs[0].untyped_storage()._cdata in shared:
            return result
        output = outputs[0]
        self.activations[output.untyped_storage()._cdata] = output
        inputs = list({id(root): root for root in map(self.root, given)}.values())
        self.operators.append(_operator(f"{name} in {self.module[-1]}", name, args, given, inputs, output))
        return result

    @contextmanager
    def watching(self, model: nn.Module, until: str | None) -> Iterator[None]:
        names = {module: name or "model" for name, module in model.named_modules()}

        def enter(module: nn.Module, arguments: Any) -> None:
            self.module.append(names[module])

        def leave(module: nn.Module, arguments: Any, outputs: Any) -> None:
            self.module.pop()
            if names[module] == until:
                self.end = len(self.operators)

        handles = [hook for module in names for hook in (module.register_forward_pre_hook(enter), module.register_forward_hook(leave))]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _record(model: nn.Module, example_inputs: Any, until: str | None) -> tuple[list[_Operator], int]:
    if until is not None and until not in dict(model.named_modules()):
        raise ValueError(f"Argument `patches` must name a module of the model, but got {until!r}; do take a name of named_modules()")
    inputs = tuple(example_inputs) if isinstance(example_inputs, tuple | list) else (example_inputs,)
    recorder = _Recorder(model)
    training = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad(), one_thread(), plain_kernels(), recorder.watching(model, until), recorder:
            model(*inputs)
    finally:
        for module, before in training:
            module.training = before
    if until is not None and recorder.end is None:
        raise ValueError(f"Argument `patches` must name a module that the model calls, but {until!r} was not called; do name another one")
    return recorder.operators, recorder.end or 0


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, tuple | list):
        return [tensor for part in value for tensor in _tensors(part)]
    return []


def _operator(label: str, name: str, args: Any, given: list[Tensor], inputs: list[Tensor], output: Tensor) -> _Operator:
    if name == "convolution":
        source, weight, transposed, groups = args[0], args[1], args[6], args[8]
        macs = (source if transposed else output).numel() * weight[0].numel()
        depthwise = groups == source.shape[1] == output.shape[1]
        return _Operator(
            label,
            inputs,
            output,
            macs,
            depthwise,
            tuple(weight.shape[2:]),
            tuple(args[3]),
            tuple(args[4]),
            tuple(args[5]),
            local=not transposed and weight.dim() == 4,
        )
    if name in ("max_pool2d_with_indices", "avg_pool2d"):
        kernel, stride = _pair(args[1]), _pair(args[2]) if len(args) > 2 and args[2] else _pair(args[1])
        padding = _pair(args[3]) if len(args) > 3 else (0, 0)
        return _Operator(label, inputs, output, 0, False, kernel, stride, padding)
    if name in ("mm", "addmm", "bmm", "baddbmm"):
        left = args[1] if name in ("addmm", "baddbmm") else args[0]
        return _Operator(label, inputs, output, left.numel() * output.shape[-1], local=False)
    same = any(one.shape == output.shape for one in given)
    elementwise = same and name not in ("_softmax", "_log_softmax", "native_layer_norm", "native_group_norm")
    joined = name == "cat" and output.dim() == 4
    return _Operator(label, inputs, output, 0, elementwise, local=elementwise or joined)


def _pair(value: Any) -> tuple[int, int]:
    sizes = [value] if isinstance(value, int) else list(value)
    return (int(sizes[0]), int(sizes[-1])) if math.prod(sizes) else (1, 1)
