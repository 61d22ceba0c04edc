"""Second derivatives carried from the loss to the input: autograd with each operation's Jacobian squared, element by element.

The gradient that flows back is S = d2L/dz2 of each tensor, by the rules of LeCun, Denker and Solla (Optimal Brain Damage, 1990) that
yan2022swim in the bibliography uses: S_x = S_z (dz/dx)^2, summed over the outputs z. Cross terms between different z, and z's own
curvature, are dropped. Operations that only move, copy, mask or add numbers have Jacobians of zeros and ones, whose squares they are:
torch's own backward is the rule. Operations that scale get a backward of their own. Behind any other operation the rules end, and
what flows is NaN.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from kernels.once import once_differentiable

# Names of functions and methods whose Jacobian holds zeros and ones only.
ROUTES = frozenset(
    "relu relu_ relu6 hardtanh hardtanh_ threshold threshold_ clamp clamp_ clamp_min clip dropout dropout1d dropout2d dropout3d "
    "alpha_dropout feature_dropout max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d "
    "flatten reshape view view_as reshape_as unflatten permute transpose swapaxes t movedim moveaxis squeeze squeeze_ unsqueeze unsqueeze_ "
    "expand expand_as contiguous clone cat concat concatenate stack hstack vstack split split_with_sizes tensor_split chunk unbind "
    "__getitem__ narrow select index_select gather take_along_dim roll flip pad add add_ __add__ __iadd__ __radd__ sum embedding where "
    "masked_fill masked_fill_ repeat repeat_interleave pixel_shuffle pixel_unshuffle channel_shuffle broadcast_to to float type_as max "
    "amax maximum minimum as_strided".split()
)
CONVOLUTIONS = frozenset(("conv1d", "conv2d", "conv3d"))
SUBTRACTIONS = frozenset(("sub", "sub_", "subtract", "__sub__", "__isub__"))
REVERSED = frozenset(("rsub", "__rsub__"))
PRODUCTS = frozenset(("mul", "multiply", "__mul__", "__rmul__", "matmul", "mm", "bmm", "__matmul__"))
QUOTIENTS = frozenset(("div", "divide", "true_divide", "__truediv__"))
SLOPES = frozenset(("leaky_relu", "abs", "absolute", "__abs__", "neg", "negative", "__neg__"))
AVERAGES = frozenset(("avg_pool1d", "avg_pool2d", "avg_pool3d"))
ADAPTIVE = frozenset(("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"))
GETTERS = frozenset(("T", "mT", "H", "mH"))


class SquaredRules(TorchFunctionMode):
    """Inside a ``with`` block every differentiable operation is recorded so that its backward carries second derivatives.

    Attributes
    ----------
    ended
        Names of the operations at which the rules ended, in the order in which they ran.

    Examples
    --------
    >>> weight = torch.tensor([[2.0, 3.0]], requires_grad=True)
    >>> with SquaredRules() as rules:
    ...     z = functional.linear(torch.tensor([[1.0, 4.0]]), weight)
    >>> torch.autograd.grad(z, weight, torch.ones_like(z))[0], rules.ended
    (tensor([[ 1., 16.]]), {})
    """

    def __init__(self) -> None:
        super().__init__()
        self.ended: dict[str, None] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation by its rule."""
        keywords = kwargs or {}
        name = getattr(func, "__name__", str(func))
        rule = _RULES.get(name)
        if rule is not None:
            found = rule(func, *args, **keywords)
            if found is not None:
                return found
        result = func(*args, **keywords)
        if rule is None and _routes(func, name, args, keywords):
            return result
        return self._end(name, result)

    def _end(self, name: str, result: Any) -> Any:
        parts = result if isinstance(result, tuple | list) else (result,)
        for part in parts:
            if isinstance(part, tuple | list):
                self._end(name, part)
            elif isinstance(part, Tensor) and part.requires_grad and not part.is_leaf:
                self.ended[name] = None
                part.register_hook(lambda gradient: torch.full_like(gradient, math.nan))
        return result


def _routes(func: Any, name: str, args: Any, keywords: dict[str, Any]) -> bool:
    if name == "__get__":
        return str(getattr(getattr(func, "__self__", None), "__name__", "")) in GETTERS
    if name == "interpolate":
        return (args[3] if len(args) > 3 else keywords.get("mode", "nearest")) in ("nearest", "nearest-exact")
    if name in ("add", "add_"):
        return bool(keywords.get("alpha", 1) == 1)
    if name.endswith("dropout") or name.startswith("dropout"):
        return not keywords.get("training", args[2] if len(args) > 2 else False)
    return name in ROUTES


class _Linear(Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        return functional.linear(inputs, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        second = upstream[0]
        flat = second.reshape(-1, second.shape[-1])
        for_inputs = second @ weight.square() if ctx.needs_input_grad[0] else None
        for_weight = flat.t() @ inputs.reshape(-1, inputs.shape[-1]).square() if ctx.needs_input_grad[1] else None
        return for_inputs, for_weight, flat.sum(0) if ctx.needs_input_grad[2] else None


class _Convolution(Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None, function: Any, settings: tuple[Any, ...]) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        ctx.settings = settings
        ctx.bias_sizes = None if bias is None else list(bias.shape)
        result: Tensor = function(inputs, weight, bias, *settings)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.settings
        dimensions = weight.dim() - 2
        single = inputs.dim() == dimensions + 1
        second, squared = upstream[0], inputs.square()
        if single:
            second, squared = second.unsqueeze(0), squared.unsqueeze(0)
        needs = list(ctx.needs_input_grad[:3])
        for_inputs, for_weight, for_bias = torch.ops.aten.convolution_backward(
            second.contiguous(), squared, weight.square(), ctx.bias_sizes, stride, padding, dilation, False, [0] * dimensions, groups, needs
        )
        return for_inputs.squeeze(0) if single and for_inputs is not None else for_inputs, for_weight, for_bias, None, None


class _BatchNorm(Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        shape = (1, -1, *[1] * (inputs.dim() - 2))
        ctx.save_for_backward(inputs, scale, mean, deviation)
        ctx.shape = shape
        return (inputs - mean.reshape(shape)) * (scale / deviation).reshape(shape) + shift.reshape(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        inputs, scale, mean, deviation = ctx.saved_tensors
        second, shape = upstream[0], ctx.shape
        others = [axis for axis in range(inputs.dim()) if axis != 1]
        for_inputs = second * (scale / deviation).square().reshape(shape) if ctx.needs_input_grad[0] else None
        for_scale = None
        if ctx.needs_input_grad[1]:
            for_scale = (second * ((inputs - mean.reshape(shape)) / deviation.reshape(shape)).square()).sum(others)
        return for_inputs, for_scale, second.sum(others) if ctx.needs_input_grad[2] else None, None, None


class _Product(Function):
    """A function that is linear in each of two tensors, with coefficients that are sums of single products."""

    @staticmethod
    def forward(ctx: Any, function: Callable[[Tensor, Tensor], Tensor], first: Tensor, second: Tensor) -> Tensor:
        ctx.save_for_backward(first, second)
        ctx.function = function
        return function(first, second)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        first, second = (part.detach() for part in ctx.saved_tensors)
        found: list[Tensor | None] = [None, None]
        for place, pair in enumerate(((first, second.square()), (first.square(), second))):
            if ctx.needs_input_grad[place + 1]:
                with torch.enable_grad():
                    asked = pair[place].requires_grad_()
                    result = ctx.function(*pair)
                (found[place],) = torch.autograd.grad(result, asked, upstream[0])
        return None, found[0], found[1]


class _Scaled(Function):
    """A function of one tensor whose backward is torch's, times a factor: the slope once more."""

    @staticmethod
    def forward(ctx: Any, function: Callable[[Tensor], Tensor], inputs: Tensor, factor: float | None) -> Tensor:
        ctx.save_for_backward(inputs)
        ctx.function, ctx.factor = function, factor
        return function(inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (inputs,) = ctx.saved_tensors
        with torch.enable_grad():
            asked = inputs.detach().requires_grad_()
            result = ctx.function(asked)
        if ctx.factor is not None:
            (back,) = torch.autograd.grad(result, asked, upstream[0])
            return None, back * ctx.factor, None
        (slope,) = torch.autograd.grad(result, asked, torch.ones_like(result))
        return None, upstream[0] * slope.square(), None


def _linear(func: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    return _Linear.apply(input, weight, bias)  # type: ignore[no-untyped-call]


def _convolution(
    func: Any,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    dimensions = weight.dim() - 2

    def each(value: Any) -> list[int]:
        return [int(value)] * dimensions if isinstance(value, int) else [int(one) for one in value]

    if isinstance(padding, str):
        total = [d * (k - 1) for d, k in zip(each(dilation), weight.shape[2:], strict=True)]
        if padding == "same" and any(t % 2 for t in total):
            return None
        padding = [t // 2 for t in total] if padding == "same" else 0
    settings = (each(stride), each(padding), each(dilation), groups)
    return _Convolution.apply(input, weight, bias, func, settings)  # type: ignore[no-untyped-call]


def _batch_norm(
    func: Any,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    if training or running_mean is None or running_var is None:
        return None
    scale = torch.ones_like(running_mean) if weight is None else weight
    shift = torch.zeros_like(running_mean) if bias is None else bias
    return _BatchNorm.apply(input, scale, shift, running_mean, torch.sqrt(running_var + eps))  # type: ignore[no-untyped-call]


def _product(func: Any, first: Any, second: Any, **keywords: Any) -> Any:
    if keywords:
        return None
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return _Product.apply(func, first, second)  # type: ignore[no-untyped-call]
    tensor, number = (first, second) if isinstance(first, Tensor) else (second, first)
    return _Scaled.apply(lambda x: x * number, tensor, None)  # type: ignore[no-untyped-call]


def _quotient(func: Any, first: Any, second: Any, **keywords: Any) -> Any:
    if keywords or not isinstance(first, Tensor) or (isinstance(second, Tensor) and second.requires_grad):
        return None
    inverse = 1.0 / second
    return _product(torch.mul, first, inverse)


def _difference(func: Any, first: Any, second: Any, **keywords: Any) -> Any:
    if keywords:
        return None
    negative = _Scaled.apply(torch.neg, second, -1.0) if isinstance(second, Tensor) else -second  # type: ignore[no-untyped-call]
    return first + negative


def _slope(func: Any, input: Tensor, *args: Any, **keywords: Any) -> Any:
    if keywords.get("inplace") or not input.requires_grad:
        return None if input.requires_grad else func(input, *args, **keywords)
    return _Scaled.apply(lambda x: func(x, *args, **keywords), input, None)  # type: ignore[no-untyped-call]


def _average(func: Any, input: Tensor, *args: Any, **keywords: Any) -> Any:
    names = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")
    given = {**dict(zip(names, args, strict=False)), **keywords}
    if given.get("ceil_mode") or given.get("divisor_override"):
        return None
    padding = given.get("padding", 0)
    if not given.get("count_include_pad", True) and padding not in (0, (0,), (0, 0), (0, 0, 0)):
        return None
    dimensions = int(func.__name__[-2])
    size = given["kernel_size"]
    window = int(size) ** dimensions if isinstance(size, int) else math.prod(size) if len(size) > 1 else int(size[0]) ** dimensions
    return _Scaled.apply(lambda x: func(x, *args, **keywords), input, 1.0 / window)  # type: ignore[no-untyped-call]


def _adaptive(func: Any, input: Tensor, output_size: Any) -> Any:
    dimensions = int(func.__name__[-2])
    sizes = [output_size] * dimensions if isinstance(output_size, int) or output_size is None else list(output_size)
    whole = [size if wanted is None else wanted for size, wanted in zip(input.shape[-dimensions:], sizes, strict=True)]
    if any(size % wanted for size, wanted in zip(input.shape[-dimensions:], whole, strict=True)):
        return None
    window = math.prod(input.shape[-dimensions:]) // math.prod(whole)
    return _Scaled.apply(lambda x: func(x, output_size), input, 1.0 / window)  # type: ignore[no-untyped-call]


def _mean(func: Any, input: Tensor, *args: Any, **keywords: Any) -> Any:
    if not input.requires_grad:
        return func(input, *args, **keywords)
    with torch.no_grad():
        outputs = func(input, *args, **keywords).numel()
    return _Scaled.apply(lambda x: func(x, *args, **keywords), input, outputs / input.numel())  # type: ignore[no-untyped-call]


_RULES: dict[str, Callable[..., Any]] = {
    "linear": _linear,
    "batch_norm": _batch_norm,
    "mean": _mean,
    **dict.fromkeys(CONVOLUTIONS, _convolution),
    **dict.fromkeys(PRODUCTS, _product),
    **dict.fromkeys(QUOTIENTS, _quotient),
    **dict.fromkeys(SUBTRACTIONS, _difference),
    **dict.fromkeys(REVERSED, lambda func, first, second, **keywords: _difference(func, second, first, **keywords)),
    **dict.fromkeys(SLOPES, _slope),
    **dict.fromkeys(AVERAGES, _average),
    **dict.fromkeys(ADAPTIVE, _adaptive),
}
