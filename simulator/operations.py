"""What torch's operators do, counted: multiply-accumulates of products, arithmetic operations and bytes of everything else.

An addition, multiplication, comparison, rounding or elementary function (exp, log, erf, tanh, square root, division) is one operation.
Views move nothing and are not counted; what has no formula has None, never zero.
"""

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from devices.digital import Product

WITHOUT_FORMULA = frozenset({
    "_cdist_forward", "_euclidean_dist", "_fft_r2c", "_fft_c2r", "_fft_c2c", "linalg_solve_ex", "_linalg_solve_ex", "_linalg_det",
    "linalg_inv_ex", "_linalg_svd", "_linalg_slogdet", "linalg_lu_factor_ex", "linalg_cholesky_ex", "linalg_qr", "_linalg_eigh",
    "linalg_eig", "triangular_solve", "linalg_solve_triangular", "linalg_lstsq", "linalg_matrix_exp",
})  # fmt: skip
"""Contractions that are not counted in multiply-accumulates; they are named where they occur."""

FREE = frozenset({
    "_unsafe_view", "_reshape_alias", "detach", "detach_", "lift_fresh", "empty", "empty_like", "empty_strided", "new_empty", "alias",
    "new_empty_strided", "set_", "_has_same_storage_numel", "is_same_size", "sym_size", "_assert_async", "_assert_tensor_metadata",
    "_local_scalar_dense", "is_nonzero", "resize_", "requires_grad_", "_lazy_clone", "as_strided", "view_as_real", "view_as_complex",
})  # fmt: skip
"""Operators that neither compute nor move numbers (a single number handed to Python is not counted)."""

MOVEMENT = frozenset({
    "_to_copy", "arange", "as_strided_scatter", "cat", "clone", "col2im", "constant_pad_nd", "contiguous", "copy", "diag_embed",
    "embedding", "eye", "fill", "flip", "full", "full_like", "gather", "im2col", "index", "index_copy", "index_put", "index_select",
    "isin", "lift_fresh_copy", "masked_select", "new_full", "new_ones", "new_zeros", "nonzero", "one_hot", "ones", "ones_like",
    "pixel_shuffle", "pixel_unshuffle", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "repeat", "repeat_interleave",
    "replication_pad1d", "replication_pad2d", "replication_pad3d", "roll", "scalar_tensor", "scatter", "select_scatter", "slice_scatter",
    "split_with_sizes_copy", "stack", "tril", "triu", "unfold_copy", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d",
    "_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d", "zero", "zeros", "zeros_like", "linspace",
    "channel_shuffle", "rot90", "slice_backward", "embedding_renorm", "masked_scatter", "_index_put_impl", "unsafe_split", "diagonal_copy",
    "narrow_copy", "tril_indices", "triu_indices",
})  # fmt: skip
"""Operators that move numbers: bytes, and no arithmetic."""

READ_AS_WRITTEN = frozenset({"embedding", "gather", "index", "index_select", "masked_select"})
"""Of the source they read only what they write."""

A_RESULT: dict[str, int] = {
    "celu": 4, "clamp": 2, "elu": 4, "gelu": 5, "hardsigmoid": 4, "hardswish": 5, "hardtanh": 2, "leaky_relu": 2, "lerp": 3,
    "log_sigmoid_forward": 4, "mish": 6, "_prelu_kernel": 2, "selu": 5, "sigmoid": 4, "silu": 5, "softplus": 4, "softshrink": 3,
    "addcmul": 3, "addcdiv": 3, "rsub": 1, "floor_divide": 1, "logaddexp": 5, "glu": 5, "bernoulli": 1, "native_dropout": 2, "rand": 1,
    "randn": 1,
    "rand_like": 1, "randn_like": 1, "normal": 1, "uniform": 1, "random": 1, "exponential": 1,
}  # fmt: skip
"""Operations for each element of the result, of operators that take more than one; others that torch calls pointwise take one.

gelu: x / sqrt(2), erf, + 1, times x, halved. sigmoid: negate, exp, + 1, divide; silu: one more. softplus: scale, exp, + 1, log.
"""

AN_INPUT: dict[str, int] = {
    # compare, subtract, exp, add, divide (for the logarithm subtract)
    "_softmax": 5, "_log_softmax": 5, "_safe_softmax": 5, "logsumexp": 4,
    "adaptive_max_pool1d": 1, "adaptive_max_pool2d": 1, "adaptive_max_pool3d": 1, "_adaptive_avg_pool2d": 1, "_adaptive_avg_pool3d": 1,
    "all": 1, "amax": 1, "amin": 1, "aminmax": 1, "any": 1, "argmax": 1, "argmin": 1, "bincount": 1, "count_nonzero": 1, "cummax": 1,
    "cumprod": 1, "cumsum": 1, "equal": 1, "histc": 2, "logcumsumexp": 4, "max": 1, "mean": 1, "median": 1, "min": 1, "norm": 2,
    "linalg_vector_norm": 2, "nansum": 1, "prod": 1, "std": 4, "std_mean": 4, "sum": 1, "trace": 1, "unique": 1, "_unique2": 1, "var": 4,
    "var_mean": 4, "unique_dim": 1, "mode": 1,
}  # fmt: skip
"""Operations for each element of the first input: reductions, and normalizations over the whole of it."""

TAPS: dict[str, int] = {
    "upsample_linear1d": 2, "upsample_bilinear2d": 4, "_upsample_bilinear2d_aa": 4, "upsample_trilinear3d": 8, "upsample_bicubic2d": 16,
    "_upsample_bicubic2d_aa": 16, "grid_sampler_2d": 4, "grid_sampler_3d": 8,
}  # fmt: skip
"""Neighbors that an interpolation weighs and adds: two operations each."""

SORTS = frozenset({"sort", "argsort", "topk", "kthvalue"})


def base_name(func: Any) -> str:
    """Return an operator's name without what says that it writes in place.

    Examples
    --------
    >>> base_name(torch.ops.aten.relu_.default)
    'relu'
    """
    name = str(func.overloadpacket.__name__)
    return name if name in FREE or name.endswith("__") or not name.endswith("_") else name[:-1]


def term_name(name: str) -> str:
    """Return what an operator is called in tables.

    Examples
    --------
    >>> term_name("native_layer_norm"), term_name("_softmax"), term_name("_to_copy")
    ('layer_norm', 'softmax', 'to_copy')
    """
    return name.lstrip("_").removeprefix("native_").removesuffix("_with_indices").removesuffix("_kernel")


def is_free(func: Any) -> bool:
    """Return whether an operator neither computes nor moves numbers.

    Examples
    --------
    >>> is_free(torch.ops.aten.view.default), is_free(torch.ops.aten.relu.default)
    (True, False)
    """
    return bool(func.is_view) or base_name(func) in FREE


def tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in arguments or results, wherever lists, tuples and mappings hold them.

    Examples
    --------
    >>> len(list(tensors([torch.ones(1), {"a": (torch.ones(2), 3)}])))
    2
    """
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from tensors(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from tensors(part)


def arithmetic(func: Any, args: Sequence[Any], results: Any) -> int | None:
    """Return the operations of an operator that is no product, or None where there is no formula.

    Examples
    --------
    >>> x = torch.ones(3, 4)
    >>> arithmetic(torch.ops.aten._softmax.default, (x, -1, False), x)
    60
    """
    name = base_name(func)
    written = sum(one.numel() for one in tensors(results))
    first = next(tensors(results), None)
    result = 0 if first is None else first.numel()
    source = next(tensors(args), None)
    given = 0 if source is None else source.numel()
    if name in MOVEMENT:
        return 0
    if name in PRODUCTS:  # by ones
        return given
    if name in A_RESULT:
        tanh = name == "gelu" and "tanh" in [part for part in args if isinstance(part, str)]
        return (9 if tanh else A_RESULT[name]) * result
    if name in AN_INPUT:
        return AN_INPUT[name] * (given if len(list(tensors(args))) < 2 or name != "max" else result)
    if name in TAPS:
        return 2 * TAPS[name] * result
    if name in SORTS:
        return given * max(1, math.ceil(math.log2(max(2, given)))) if given else 0
    if name in ("native_layer_norm", "native_group_norm", "_fused_rms_norm"):
        # sum, subtract, square, sum, scale; then weight and bias where there are any
        affine = sum(isinstance(part, Tensor) for part in args[1:])
        return (5 + affine) * given
    if "batch_norm" in name:
        return 2 * given  # statistics are constants: one scale, one shift
    if name in ("max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool1d", "avg_pool2d", "avg_pool3d", "max_pool2d"):
        return result * _window(args[1], int(name[name.index("pool") + 4]))
    if name in ("index_add", "scatter_add", "scatter_reduce", "index_reduce"):
        return max(one.numel() for one in list(tensors(args))[1:])
    if name == "_embedding_bag":
        return int(args[1].numel() * args[0].shape[-1])
    if torch.Tag.pointwise in func.tags:
        return written
    return None


def moved_bytes(func: Any, args: Sequence[Any], results: Any, float_bytes: float = 4.0) -> int:
    """Return the bytes that an operator reads and writes, numbers in floating point with `float_bytes` each.

    Examples
    --------
    >>> x = torch.ones(3, 4)
    >>> moved_bytes(torch.ops.aten.add.Tensor, (x, x), x), moved_bytes(torch.ops.aten.add.Tensor, (x, x), x, 2.0)
    (144, 72)
    """

    def size(tensor: Tensor) -> float:
        # A tensor that was expanded without a copy is read as often as it has numbers of its own.
        own = math.prod(length for length, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride or length == 0)
        return own * (float_bytes if tensor.is_floating_point() else tensor.element_size())

    read = list(tensors(args))
    written = sum(size(one) for one in tensors(results))
    if base_name(func) in READ_AS_WRITTEN:
        return round(2 * written + sum(size(one) for one in read if not one.is_floating_point() and one is not read[0]))
    return round(written + sum(size(one) for one in read))


def _window(kernel: Any, dimensions: int) -> int:
    sizes = [kernel] * dimensions if isinstance(kernel, int) else list(kernel) * (dimensions if len(kernel) == 1 else 1)
    return math.prod(int(size) for size in sizes)


_STATE = threading.local()


@contextmanager
def adding() -> Iterator[None]:
    """Say that a convolution inside the block is one with ones: it adds up what overlaps, and multiplies nothing.

    Examples
    --------
    >>> with adding():
    ...     is_adding()
    True
    """
    before = is_adding()
    _STATE.adding = True
    try:
        yield
    finally:
        _STATE.adding = before


def is_adding() -> bool:
    """Return whether `adding` is on.

    Examples
    --------
    >>> is_adding()
    False
    """
    return bool(getattr(_STATE, "adding", False))


# Products


def _matrices(a: Tensor, b: Tensor) -> list[Product]:
    return [Product(a.shape[-2], a.shape[-1], b.shape[-1], math.prod(a.shape[:-2]))]


def _linear(args: Sequence[Any]) -> list[Product]:
    inputs, weight = args[0], args[1]
    return [Product(inputs.numel() // max(1, inputs.shape[-1]), inputs.shape[-1], weight.shape[0])]


def _convolution(args: Sequence[Any]) -> list[Product]:
    inputs, weight, stride, padding, dilation, transposed, groups = (*args[:2], *args[3:7], args[8])
    if transposed:
        positions = inputs.numel() // max(1, inputs.shape[1])
        return [Product(positions, inputs.shape[1] // groups, weight[0].numel(), groups)]
    positions = inputs.shape[0]
    for axis, (size, kernel) in enumerate(zip(inputs.shape[2:], weight.shape[2:], strict=True)):
        step, border, spread = (part[axis] if len(part) > 1 else part[0] for part in (stride, padding, dilation))
        positions *= (size + 2 * border - spread * (kernel - 1) - 1) // step + 1
    return [Product(positions, weight[0].numel(), weight.shape[0] // groups, groups)]


def _grouped(args: Sequence[Any]) -> list[Product]:
    a, b = args[0], args[1]
    if a.dim() == 2 and b.dim() == 3:
        return [Product(a.shape[0], a.shape[1], b.shape[-1])]  # every row meets one of the matrices
    if a.dim() == 3 and b.dim() == 2:
        return [Product(a.shape[1], a.shape[2], b.shape[1])]
    return [Product(a.shape[0], a.shape[1], b.shape[1])] if a.dim() == 2 else _matrices(a, b)


def _trilinear(args: Sequence[Any]) -> list[Product]:
    # x W y for every output: the weight with one operand, then with the other.
    batch, outputs, wide = args[0].shape[0], args[1].shape[0], args[2].shape[-1]
    return [Product(batch, args[1].shape[1], outputs * wide), Product(outputs, wide, 1, batch)]


PRODUCTS: dict[str, tuple[tuple[int, int], Callable[[Sequence[Any]], list[Product]]]] = {
    "mm": ((0, 1), lambda args: _matrices(args[0], args[1])),
    "addmm": ((1, 2), lambda args: _matrices(args[1], args[2])),
    "bmm": ((0, 1), lambda args: _matrices(args[0], args[1])),
    "baddbmm": ((1, 2), lambda args: _matrices(args[1], args[2])),
    "addbmm": ((1, 2), lambda args: _matrices(args[1], args[2])),
    "linear": ((0, 1), _linear),
    "mv": ((0, 1), lambda args: [Product(args[0].shape[0], args[0].shape[1], 1)]),
    "addmv": ((1, 2), lambda args: [Product(args[1].shape[0], args[1].shape[1], 1)]),
    "addr": ((1, 2), lambda args: [Product(args[1].numel(), 1, args[2].numel())]),
    "dot": ((0, 1), lambda args: [Product(1, args[0].numel(), 1)]),
    "vdot": ((0, 1), lambda args: [Product(1, args[0].numel(), 1)]),
    "convolution": ((0, 1), _convolution),
    "_grouped_mm": ((0, 1), _grouped),
    "_trilinear": ((0, 1), _trilinear),
}
"""Operands by position, and the matrix products that they are."""
