"""What a model does when it is called: every contraction, who did it, with which weights, and its multiply-accumulates."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from simulator._isolation import one_thread
from simulator.batches import Batch
from simulator.weight_layers import data_address

NAMED_FUNCTIONS = {
    functional.scaled_dot_product_attention: "scaled_dot_product_attention",
    functional.multi_head_attention_forward: "multi_head_attention_forward",
    torch.einsum: "einsum",
}
"""Functions whose name says more than that of the products inside them."""

WITHOUT_FORMULA = ("_cdist_forward", "_fft_r2c", "_fft_c2r", "_fft_c2c", "linalg_solve_ex", "_linalg_det", "linalg_inv_ex", "_linalg_svd")
"""Contractions that are not counted in multiply-accumulates; they are named where they occur."""


@dataclass(frozen=True)
class Contraction:
    """One product of tensors in a call of the model.

    Attributes
    ----------
    module
        Qualified name of the innermost module whose forward ran.
    function
        What was called: ``linear``, ``convolution``, ``bmm``, ``scaled_dot_product_attention`` and so on.
    macs
        Multiply-accumulates, or None where there is no formula.
    parameters
        Whether an operand is a parameter of the model, or a part of one.
    """

    module: str
    function: str
    macs: int | None
    parameters: bool


@dataclass(frozen=True)
class Capture:
    """A call of the model, seen from outside.

    Attributes
    ----------
    contractions
        In the order in which they ran.
    called
        Names of the modules whose forward ran.
    dimensions
        Dimensions of the output of each module that returned one tensor.
    """

    contractions: tuple[Contraction, ...]
    called: frozenset[str]
    dimensions: dict[str, int]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the whole call that have a formula."""
        return sum(one.macs or 0 for one in self.contractions)


def capture(model: nn.Module, examples: Batch) -> Capture:
    """Call a model once and return what it did.

    Fused kernels hide their products, so attention runs decomposed, without the fast path of `nn.MultiheadAttention`, and LSTMs
    without oneDNN; what is then seen are plain products.

    Parameters
    ----------
    model
        In eval mode; its buffers stay as they are.
    examples
        Arguments of the call.

    Examples
    --------
    >>> found = capture(nn.LSTM(3, 4), Batch((torch.zeros(2, 5, 3),)))
    >>> found.macs == 2 * 5 * (3 * 16 + 4 * 16)
    True
    """
    recorder = _Recorder(model)
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(one_thread())
        stack.enter_context(plain_kernels())
        stack.enter_context(recorder.watching_modules())
        stack.enter_context(_Names(recorder))
        stack.enter_context(_Products(recorder))
        model(*examples.inputs, **examples.keywords)
    return Capture(tuple(recorder.contractions), frozenset(recorder.called), recorder.dimensions)


@contextmanager
def without_fast_path() -> Iterator[None]:
    """Keep torch's transformer layers from reading the weights of the layers inside them instead of calling those layers."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def plain_kernels() -> Iterator[None]:
    """Run attention and recurrent layers as plain products."""
    enabled = torch._C._get_mkldnn_enabled()
    with without_fast_path(), sdpa_kernel(SDPBackend.MATH):
        torch._C._set_mkldnn_enabled(False)
        try:
            yield
        finally:
            torch._C._set_mkldnn_enabled(enabled)


class _Recorder:
    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.contractions: list[Contraction] = []
        self.called: set[str] = set()
        self.dimensions: dict[str, int] = {}
        self.modules: list[str] = []
        self.functions: list[str] = []
        self.addresses = {data_address(parameter): parameter for parameter in model.parameters()}
        self.spans = sorted((address, address + p.numel() * p.element_size()) for address, p in self.addresses.items())

    @contextmanager
    def watching_modules(self) -> Iterator[None]:
        names = {module: name or "model" for name, module in self.model.named_modules()}

        def enter(module: nn.Module, arguments: Any) -> None:
            self.modules.append(names[module])
            self.called.add(names[module])

        def leave(module: nn.Module, arguments: Any, outputs: Any) -> None:
            self.modules.pop()
            if isinstance(outputs, Tensor):
                self.dimensions[names[module]] = outputs.dim()

        handles = [hook for module in names for hook in (module.register_forward_pre_hook(enter), module.register_forward_hook(leave))]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def holds_parameter(self, tensor: Any) -> bool:
        if not isinstance(tensor, Tensor) or tensor.is_meta:
            return False
        address = data_address(tensor)
        return any(start <= address < stop for start, stop in self.spans)

    def add(self, name: str, macs: int | None, operands: Sequence[Any]) -> None:
        module = self.modules[-1] if self.modules else "model"
        weighted = any(self.holds_parameter(operand) for operand in operands)
        self.contractions.append(Contraction(module, self.functions[-1] if self.functions else name, macs, weighted))


class _Names(TorchFunctionMode):
    """Remembers which named function is running."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = NAMED_FUNCTIONS.get(func)
        if name is not None:
            self.recorder.functions.append(name)
        try:
            return func(*args, **(kwargs or {}))
        finally:
            if name is not None:
                self.recorder.functions.pop()


class _Products(TorchDispatchMode):
    """Counts the products that torch really computes."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recorder = recorder

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in _FORMULAS:
            operands, formula = _FORMULAS[name]
            self.recorder.add(name, formula(args), [args[i] for i in operands])
        elif name in WITHOUT_FORMULA:
            self.recorder.add(name, None, args)
        return func(*args, **(kwargs or {}))


def _matrix(a: Tensor, b: Tensor) -> int:
    return int(a.numel() * b.shape[-1])


def _convolution(args: Any) -> int:
    inputs, weight, transposed = args[0], args[1], args[6]
    per_channel = weight[0].numel()
    if transposed:
        return int(inputs.numel() * per_channel)
    spatial = 1
    for size, kernel, stride, padding, dilation in zip(inputs.shape[2:], weight.shape[2:], args[3], args[4], args[5], strict=True):
        spatial *= (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    return int(inputs.shape[0] * weight.shape[0] * spatial * per_channel)


def _grouped(args: Any) -> int:
    a, b = args[0], args[1]
    if a.dim() == 2 and b.dim() == 3:
        return int(a.numel() * b.shape[-1])
    if a.dim() == 3 and b.dim() == 2:
        return int(a.shape[1] * a.shape[2] * b.shape[1])
    return _matrix(a, b)


# Operands by position, and multiply-accumulates from the arguments.
_FORMULAS: dict[str, tuple[tuple[int, ...], Any]] = {
    "mm": ((0, 1), lambda args: _matrix(args[0], args[1])),
    "addmm": ((1, 2), lambda args: _matrix(args[1], args[2])),
    "bmm": ((0, 1), lambda args: _matrix(args[0], args[1])),
    "baddbmm": ((1, 2), lambda args: _matrix(args[1], args[2])),
    "linear": ((0, 1), lambda args: args[0].numel() * args[1].shape[0]),
    "mv": ((0, 1), lambda args: args[0].numel()),
    "addmv": ((1, 2), lambda args: args[1].numel()),
    "dot": ((0, 1), lambda args: args[0].numel()),
    "vdot": ((0, 1), lambda args: args[0].numel()),
    "convolution": ((0, 1), _convolution),
    "_grouped_mm": ((0, 1), _grouped),
    # x W y for every output: the weight with one operand, then with the other.
    "_trilinear": ((1,), lambda args: args[0].shape[0] * args[1].numel() + args[0].shape[0] * args[1].shape[0] * args[2].shape[-1]),
}
