"""What a model does when it is called: every contraction and operation, who did it, with which weights, and where numbers flow."""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from devices.digital import Product
from simulator._dispatch import DispatchMode
from simulator._isolation import one_thread
from simulator.batches import Batch
from simulator.dataflow import OUTPUT, Edge, Flow, Node, storage_key
from simulator.hardware import HardwareLayer
from simulator.operations import (
    MOVEMENT,
    PRODUCTS,
    WITHOUT_FORMULA,
    arithmetic,
    base_name,
    is_adding,
    is_free,
    moved_bytes,
    tensors,
    term_name,
)
from simulator.weight_layers import data_address

NAMED_FUNCTIONS = {
    functional.scaled_dot_product_attention: "scaled_dot_product_attention",
    functional.multi_head_attention_forward: "multi_head_attention_forward",
    torch.einsum: "einsum",
}
"""Functions whose name says more than that of the products inside them."""

LOOKS = frozenset({"_local_scalar_dense", "is_nonzero", "equal"})
LOOKING_METHODS = (Tensor.tolist, Tensor.numpy, Tensor.__array__)
"""What hands numbers to Python, which may then take another path for other inputs."""


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
    operator
        Name of torch's operator.
    products
        The matrix products that it is.
    inside_hardware
        Whether a layer on hardware did it.
    """

    module: str
    function: str
    macs: int | None
    parameters: bool
    operator: str = ""
    products: tuple[Product, ...] = ()
    inside_hardware: bool = False


@dataclass(frozen=True)
class Operation:
    """What one operator that is no product did in a module, all of its calls together.

    Attributes
    ----------
    module
        Qualified name of the innermost module whose forward ran.
    term
        What the operator is called in tables: ``relu``, ``layer_norm``, ``cat``.
    operations
        Arithmetic operations, or None where there is no formula.
    floats, others
        Numbers in floating point that were read and written, and bytes of all others.
    calls
        How often it was called.
    """

    module: str
    term: str
    operations: int | None
    floats: int
    others: int
    calls: int = 1


@dataclass
class Watch:
    """What became of the output of a layer, to know whether one module alone read it.

    Attributes
    ----------
    calls
        How often the layer was called.
    readers
        Modules that read its output, and modules that read its parameters.
    given_to
        Modules that got the very tensor as their first argument.
    kept
        Whether somebody still held it after the call.
    """

    calls: int = 0
    readers: set[str] = field(default_factory=set)
    given_to: list[str] = field(default_factory=list)
    kept: bool = False


@dataclass(frozen=True)
class Capture:
    """A call of the model, seen from outside.

    Attributes
    ----------
    contractions
        In the order in which they ran.
    called
        Names of the modules whose forward ran, with how often.
    dimensions
        Dimensions of the output of each module that returned one tensor.
    operations
        What is no product, outside of layers on hardware.
    nodes, edges
        Layers on hardware, products and joins in the order in which they first ran, and where numbers flow between them.
    watched
        What became of the outputs of layers with weights, by their name.
    looks
        Modules that handed numbers to Python.
    vectors
        Input vectors of each layer on hardware, by its name.
    passed
        Numbers that went into each layer on hardware and came out of it.
    """

    contractions: tuple[Contraction, ...]
    called: dict[str, int]
    dimensions: dict[str, int]
    operations: tuple[Operation, ...] = ()
    nodes: tuple[Node, ...] = ()
    edges: tuple[Edge, ...] = ()
    watched: dict[str, Watch] = field(default_factory=dict)
    looks: frozenset[str] = frozenset()
    vectors: dict[str, int] = field(default_factory=dict)
    passed: dict[str, tuple[int, int]] = field(default_factory=dict)

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
    >>> [(one.term, one.operations) for one in capture(nn.ReLU(), Batch((torch.ones(2, 3),))).operations]
    [('relu', 6)]
    """
    recorder = _Recorder(model)
    recorder.flow.begin([examples.inputs, examples.keywords])
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(one_thread())
        stack.enter_context(plain_kernels())
        stack.enter_context(recorder.watching_modules())
        stack.enter_context(recorder.functions)
        stack.enter_context(_Operators(recorder))
        outputs = model(*examples.inputs, **examples.keywords)
    recorder.flow.read(OUTPUT, outputs)
    return recorder.finish()


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
        self.called: dict[str, int] = {}
        self.dimensions: dict[str, int] = {}
        self.operations: dict[tuple[str, str], Operation] = {}
        self.modules: list[str] = []
        self.functions = FunctionNames(lambda: self.looks.add(self.innermost()))
        self.inside_hardware = 0
        self.vectors: dict[str, int] = {}
        self.passed: dict[str, tuple[int, int]] = {}
        self.looks: set[str] = set()
        self.flow = Flow()
        self.watched: dict[str, Watch] = {}
        self.outputs: dict[int, tuple[str, weakref.ref[Tensor], StorageWeakRef]] = {}
        self.owners: dict[int, str] = {}
        for name, module in model.named_modules():
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                key = storage_key(tensor)
                if key is not None:
                    self.owners.setdefault(key, name or "model")
        addresses = {data_address(p): p for p in model.parameters() if not p.is_meta and p.layout is torch.strided}
        self.spans = sorted((address, address + p.numel() * p.element_size()) for address, p in addresses.items())

    @contextmanager
    def watching_modules(self) -> Iterator[None]:
        names = {module: name or "model" for name, module in self.model.named_modules()}

        def enter(module: nn.Module, arguments: Any) -> None:
            name = names[module]
            self.modules.append(name)
            self.called[name] = self.called.get(name, 0) + 1
            if arguments and isinstance(arguments[0], Tensor):
                found = self.outputs.get(storage_key(arguments[0]) or 0)
                if found is not None and found[1]() is arguments[0]:
                    self.watched[found[0]].given_to.append(name)
            if isinstance(module, HardwareLayer):
                if not self.inside_hardware:
                    self.flow.read(Node(module.name), arguments)
                self.inside_hardware += 1

        def leave(module: nn.Module, arguments: Any, outputs: Any) -> None:
            name = self.modules.pop()
            if isinstance(outputs, Tensor):
                self.dimensions[name] = outputs.dim()
            if isinstance(module, HardwareLayer):
                self.inside_hardware -= 1
                if not self.inside_hardware:
                    self.flow.made(Node(module.name), outputs)
                    if isinstance(outputs, Tensor):
                        self.vectors[module.name] = self.vectors.get(module.name, 0) + module.vectors(outputs)
                        into, out = self.passed.get(module.name, (0, 0))
                        given = arguments[0].numel() if arguments and isinstance(arguments[0], Tensor) else 0
                        self.passed[module.name] = (into + given, out + outputs.numel())
            elif isinstance(outputs, Tensor) and any(True for _ in module.parameters(recurse=False)):
                self.watch(name, outputs)

        handles = [hook for module in names for hook in (module.register_forward_pre_hook(enter), module.register_forward_hook(leave))]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def watch(self, name: str, outputs: Tensor) -> None:
        self.watched.setdefault(name, Watch()).calls += 1
        key = storage_key(outputs)
        if key is not None:
            self.outputs[key] = (name, weakref.ref(outputs), StorageWeakRef(outputs.untyped_storage()))

    def holds_parameter(self, tensor: Any) -> bool:
        if not isinstance(tensor, Tensor) or tensor.is_meta or tensor.layout is not torch.strided:
            return False
        address = data_address(tensor)
        return any(start <= address < stop for start, stop in self.spans)

    def innermost(self) -> str:
        return self.modules[-1] if self.modules else "model"

    def add_product(self, name: str, products: list[Product] | None, operands: Sequence[Any], results: Any) -> None:
        module = self.innermost()
        function = self.functions.running[-1] if self.functions.running else name
        macs = None if products is None else sum(product.macs for product in products)
        weighted = any(self.holds_parameter(operand) for operand in operands)
        self.contractions.append(Contraction(module, function, macs, weighted, name, tuple(products or ()), bool(self.inside_hardware)))
        if not self.inside_hardware:
            node = Node(module, function, product=True)
            self.flow.read(node, list(operands))
            self.flow.made(node, results)

    def add_operation(self, func: Any, args: Any, results: Any) -> None:
        if self.inside_hardware:
            return
        module, name = self.innermost(), base_name(func)
        term = "overlap add" if name in PRODUCTS else term_name(name)
        count = arithmetic(func, args, results)
        with_floats = moved_bytes(func, args, results, 1.0)
        others = moved_bytes(func, args, results, 0.0)
        floats = with_floats - others
        before = self.operations.get((module, term))
        if before is not None:
            count = None if count is None or before.operations is None else count + before.operations
            floats, others = floats + before.floats, others + before.others
        self.operations[module, term] = Operation(module, term, count, floats, others, 1 if before is None else before.calls + 1)
        self.flow.passed(module, term, args, results, moves=name in MOVEMENT)

    def note_reads(self, name: str, args: Any) -> None:
        module = self.innermost()
        if name in LOOKS:
            self.looks.add(module)
        for tensor in tensors(args):
            key = storage_key(tensor)
            if key is None:
                continue
            if key in self.outputs:
                self.watched[self.outputs[key][0]].readers.add(module)
            if key in self.owners and self.owners[key] != module:
                self.watched.setdefault(self.owners[key], Watch()).readers.add(f"parameters: {module}")

    def finish(self) -> Capture:
        for name, _, storage in self.outputs.values():
            if not storage.expired():
                self.watched[name].kept = True
        return Capture(
            tuple(self.contractions),
            self.called,
            self.dimensions,
            tuple(self.operations.values()),
            self.flow.nodes(),
            self.flow.edges(),
            self.watched,
            frozenset(self.looks),
            self.vectors,
            self.passed,
        )


class FunctionNames(TorchFunctionMode):
    """Inside a ``with`` block, knows which named function is running.

    Parameters
    ----------
    looked
        Called when a method hands numbers to Python.

    Attributes
    ----------
    running
        Names of the functions that run, the innermost last.
    """

    def __init__(self, looked: Callable[[], object] = lambda: None) -> None:
        super().__init__()
        self.running: list[str] = []
        self.looked = looked

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = NAMED_FUNCTIONS.get(func)
        if name is not None:
            self.running.append(name)
        if func in LOOKING_METHODS:
            self.looked()
        try:
            return func(*args, **(kwargs or {}))
        finally:
            if name is not None:
                self.running.pop()


class _Operators(DispatchMode):
    """Counts what torch really computes."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.recorder = recorder

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        recorder, name = self.recorder, base_name(func)
        recorder.note_reads(name, args)
        results = func(*args, **(kwargs or {}))
        if name in PRODUCTS and not is_adding():
            operands, formula = PRODUCTS[name]
            name = "transposed_convolution" if name == "convolution" and args[6] else name
            recorder.add_product(name, formula(args), [args[i] for i in operands], results)
        elif name in WITHOUT_FORMULA:
            recorder.add_product(name, None, args, results)
        elif not is_free(func):
            recorder.add_operation(func, args, results)
        return results
