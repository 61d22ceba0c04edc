"""Weights that custom modules use through functions: found with example inputs, and read on hardware when the chip runs."""

from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from simulator.hardware import HardwareLayer, is_inside_hardware
from simulator.operations import adding
from simulator.operators import TRANSPOSED, LinearOperator, overlap_weight, zero_padding
from simulator.weight_layers import WeightLayer, WeightView, data_address, is_weight_layer

Place = tuple[int, tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Product:
    """A product with weights: what `function(*arguments)` computes, in terms of one linear map for each weight.

    Attributes
    ----------
    weights
        The weight tensors as (outputs, inputs, ...): one, or one for each expert.
    operator
        The linear map.
    apply
        Computes the product from a list of readers, one for each weight: inputs to outputs without bias.
    """

    weights: list[Tensor]
    operator: LinearOperator
    apply: Callable[[list[Callable[[Tensor], Tensor]]], Tensor]


@dataclass(frozen=True, eq=False)
class Site:
    """A parameter that functions use as weights.

    Attributes
    ----------
    name
        Qualified name of the parameter, with the index of the expert where it holds several matrices.
    layer
        The weights and their linear map.
    """

    name: str
    layer: WeightLayer


class Finder(TorchFunctionMode):
    """Finds the parameters that a call of a model uses as weights outside of torch's own layers.

    Parameters
    ----------
    model
        The model; weights of linear layers and convolutions of torch are left to those.
    called
        Names of the modules whose forward ran; the others' weights may be used by functions. None takes all as called.

    Examples
    --------
    >>> class Custom(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.matrix = nn.Parameter(torch.ones(3, 2))
    ...     def forward(self, x):
    ...         return x @ self.matrix
    >>> model = Custom()
    >>> finder = Finder(model)
    >>> with finder:
    ...     _ = model(torch.ones(5, 3))
    >>> [(site.name, site.layer.weight.size) for site in finder.sites()]
    [('matrix', (2, 3))]
    """

    def __init__(self, model: nn.Module, called: Container[str] | None = None) -> None:
        super().__init__()
        own = {
            id(parameter)
            for name, module in model.named_modules()
            if is_weight_layer(module) and (called is None or (name or "model") in called)
            for parameter in module.parameters()  # those of parametrizations, too, whose products only make the weight
        }
        self._spans = [
            (data_address(parameter), parameter.numel() * parameter.element_size(), name, parameter)
            for name, parameter in model.named_parameters()
            if id(parameter) not in own
        ]
        self._sites: dict[Place, Site] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        product = None if is_inside_hardware() else parse(func, args, kwargs or {}, self._owned)
        if product is not None:
            for weight in product.weights:
                self._add(weight, func, product.operator)
        return func(*args, **(kwargs or {}))

    def sites(self) -> list[Site]:
        """Return what was found; a parameter with an array of matrices counts as all of its matrices, used or not yet."""
        return sorted(self._sites.values(), key=lambda site: site.name)

    def _owned(self, tensor: Tensor) -> bool:
        return self._span(tensor) is not None

    def _span(self, tensor: Tensor) -> tuple[int, int, str, nn.Parameter] | None:
        if tensor.is_meta or tensor.layout is not torch.strided:
            return None
        address = data_address(tensor)
        return next((span for span in self._spans if span[0] <= address < span[0] + span[1]), None)

    def _add(self, weight: Tensor, func: Any, operator: LinearOperator) -> None:
        span = self._span(weight)
        assert span is not None
        start, _, name, parameter = span
        offset = (data_address(weight) - start) // parameter.element_size()
        kind = getattr(func, "__name__", "product").strip("_")
        name = name.removesuffix(".weight")
        several = parameter.dim() == 3 and weight.dim() == 2 and weight.numel() == parameter[0].numel()
        count, jump = (parameter.shape[0], parameter.stride(0)) if several else (1, 0)
        for index in range(count):
            view = WeightView(parameter, tuple(weight.shape), tuple(weight.stride()), (index * jump + offset % jump) if several else offset)
            # A part of a matrix that is on hardware already is not stored twice.
            if view.place not in self._sites:
                self._sites[view.place] = Site(f"{name}.{index}" if several else name, WeightLayer(kind, operator, view))


class Router(TorchFunctionMode):
    """Reads products with weights on hardware while a chip runs.

    Parameters
    ----------
    layers
        Layers whose weights are parts of parameters.
    """

    def __init__(self, layers: Iterable[HardwareLayer]) -> None:
        super().__init__()
        self._layers: dict[Place, HardwareLayer] = {layer.view.place: layer for layer in layers if layer.view is not None}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in PARSERS:
            product = parse(func, args, kwargs or {}, lambda tensor: True)
            if product is not None:
                readers = [self._layers.get(_place(weight)) for weight in product.weights]
                # A layer reads with the stride, padding and dilation that it was mapped for; others stay digital.
                found = [reader for reader in readers if reader is not None and reader.operator == product.operator]
                if found and len(found) == len(readers):
                    return product.apply(list(found))
        return func(*args, **(kwargs or {}))


def _place(tensor: Tensor) -> Place:
    return (data_address(tensor), tuple(tensor.shape), tuple(tensor.stride()))


def parse(func: Any, args: Any, kwargs: dict[str, Any], owned: Callable[[Tensor], bool]) -> Product | None:
    """Return a call as a product with weights for which `owned` holds, or None if it is none."""
    parser = PARSERS.get(func)
    return None if parser is None else next(iter(parser(owned, *args, **kwargs)), None)


def _is(owned: Callable[[Tensor], bool], tensor: Any, dimensions: int) -> bool:
    return isinstance(tensor, Tensor) and tensor.dim() == dimensions and tensor.is_floating_point() and owned(tensor)


MATRIX = LinearOperator(0)


def _linear(owned: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Iterator[Product]:
    if _is(owned, weight, 2):
        yield Product([weight], MATRIX, lambda read: _plus(read[0](input), bias))


def _matmul(owned: Any, input: Tensor, other: Tensor, **rest: Any) -> Iterator[Product]:
    if rest:
        return
    if _is(owned, other, 2) and isinstance(input, Tensor) and input.dim() >= 1:
        yield Product([other.t()], MATRIX, lambda read: read[0](input))
    elif _is(owned, input, 2) and isinstance(other, Tensor) and other.dim() == 1:
        yield Product([input], MATRIX, lambda read: read[0](other))
    elif _is(owned, input, 2) and isinstance(other, Tensor) and other.dim() >= 2:
        yield Product([input], MATRIX, lambda read: read[0](other.transpose(-1, -2)).transpose(-1, -2))
    elif _is(owned, other, 3) and isinstance(input, Tensor) and input.dim() == 3 and input.shape[0] == other.shape[0]:
        yield Product(
            [part.t() for part in other], MATRIX, lambda read: torch.stack([one(part) for one, part in zip(read, input, strict=True)])
        )


def _addmm(owned: Any, input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: float = 1, alpha: float = 1, **rest: Any) -> Iterator[Product]:
    if not rest and beta == 1 and alpha == 1 and _is(owned, mat2, 2):
        yield Product([mat2.t()], MATRIX, lambda read: _plus(read[0](mat1), input))


def _einsum(owned: Any, equation: Any, *operands: Any) -> Iterator[Product]:
    """Yield a sum over the last index of the first operand and one of the two of a matrix: ``bi,ij->bj``, ``...i,ji->...j``."""
    given = list(operands[0]) if len(operands) == 1 and isinstance(operands[0], list | tuple) else list(operands)
    if not isinstance(equation, str) or len(given) != 2 or "->" not in equation or not _is(owned, given[1], 2):
        return
    sources, _, result = equation.replace(" ", "").partition("->")
    first, _, second = sources.partition(",")
    if len(second) != 2 or second[0] == second[1] or not first or first[-1] not in second or first.count(first[-1]) > 1:
        return
    place = second.index(first[-1])
    other = second[1 - place]
    if other not in first and result == first[:-1] + other:
        yield Product([given[1].t() if place == 0 else given[1]], MATRIX, lambda read: read[0](given[0]))


def _grouped_mm(owned: Any, input: Tensor, other: Tensor, offs: Tensor | None = None, **rest: Any) -> Iterator[Product]:
    if any(value is not None for value in rest.values()) or offs is None or not _is(owned, other, 3) or input.dim() != 2:
        return
    ends = offs

    def apply(read: list[Callable[[Tensor], Tensor]]) -> Tensor:
        stops = ends.tolist()
        parts = [one(input[start:stop]) for one, start, stop in zip(read, [0, *stops[:-1]], stops, strict=True) if stop > start]
        result = torch.cat(parts) if parts else input.new_zeros(0, other.shape[-1])
        return result if len(result) == len(input) else torch.cat((result, result.new_zeros(len(input) - len(result), result.shape[1])))

    yield Product([part.t() for part in other], MATRIX, apply)


def _convolution(dimensions: int) -> Any:
    def parse_convolution(
        owned: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Iterator[Product]:
        if not _is(owned, weight, dimensions + 2):
            return

        def several(value: Any) -> tuple[int, ...]:
            return (int(value),) * dimensions if isinstance(value, int) else tuple(int(part) for part in value) * (dimensions // len(value))

        gaps = several(dilation)
        zeros, border = zero_padding(padding if isinstance(padding, str) else several(padding), gaps, tuple(weight.shape[2:]))
        operator = LinearOperator(dimensions, several(stride), zeros, gaps, groups, border=border)
        shaped = None if bias is None else bias.reshape(-1, *[1] * dimensions)
        yield Product([weight], operator, lambda read: _plus(read[0](input), shaped))

    return parse_convolution


def _transposed_convolution(dimensions: int) -> Any:
    def parse_transposed_convolution(
        owned: Any,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Iterator[Product]:
        # The taps of several groups are no matrix within the parameter.
        if groups != 1 or not _is(owned, weight, dimensions + 2) or not weight.is_contiguous():
            return
        outputs, kernel = weight.shape[1], tuple(weight.shape[2:])

        def apply(read: list[Callable[[Tensor], Tensor]]) -> Tensor:
            channels = input.dim() - dimensions - 1
            products = read[0](input.movedim(channels, -1)).movedim(-1, channels)
            overlap = overlap_weight(outputs, kernel).to(products)
            with adding():
                result: Tensor = TRANSPOSED[dimensions](products, overlap, bias, stride, padding, output_padding, outputs, dilation)
            return result

        yield Product([weight.flatten(1).t()], MATRIX, apply)

    return parse_transposed_convolution


def _plus(outputs: Tensor, bias: Tensor | None) -> Tensor:
    return outputs if bias is None else outputs + bias


PARSERS: dict[Any, Any] = {
    functional.linear: _linear,
    torch.ops.aten.linear.default: _linear,  # what exported programs call
    torch.matmul: _matmul,
    torch.ops.aten.matmul.default: _matmul,
    torch.mm: _matmul,
    torch.mv: _matmul,
    torch.bmm: _matmul,
    Tensor.matmul: _matmul,
    Tensor.mm: _matmul,
    Tensor.mv: _matmul,
    Tensor.bmm: _matmul,
    Tensor.__matmul__: _matmul,
    torch.einsum: _einsum,
    torch.addmm: _addmm,
    torch.ops.aten.addmm.default: _addmm,
    Tensor.addmm: _addmm,
    torch._grouped_mm: _grouped_mm,
    functional.grouped_mm: _grouped_mm,
    functional.conv1d: _convolution(1),
    functional.conv2d: _convolution(2),
    functional.conv3d: _convolution(3),
    **{getattr(getattr(torch.ops.aten, f"conv{n}d"), form): _convolution(n) for n in (1, 2, 3) for form in ("default", "padding")},
    **{function: _transposed_convolution(dimensions) for dimensions, function in TRANSPOSED.items()},
}
"""Functions that multiply by weights. What is not here shows as a digital row in the coverage table."""
