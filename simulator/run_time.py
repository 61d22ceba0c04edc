"""Products whose weights are made at run time: attention, hypernetworks, dynamic convolutions, on arrays written at every call."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import singledispatch
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from devices.base import Cost, DigitalArray
from devices.design import Design
from devices.digital import Product, TieredArray, product_cost
from devices.rram import RRAMCrossbar
from kernels.random import Key, bits
from simulator.capture import Contraction, FunctionNames
from simulator.dataflow import storage_key
from simulator.digital_arithmetic import INTEGER_PRODUCTS, integer_product
from simulator.hardware import HardwareLayer
from simulator.lowering import lower
from simulator.lowering.integer import IntegerLayer
from simulator.operations import PRODUCTS
from simulator.operators import LinearOperator
from simulator.weight_layers import NotMappedError, WeightLayer

WRITABLE = frozenset({"mm", "addmm", "bmm", "baddbmm", "convolution"})
"""Operators whose right operand can be written into arrays."""


@dataclass(frozen=True)
class RunTimeSite:
    """The products of one function in one module whose operands are both made at run time.

    Attributes
    ----------
    layer
        Qualified name of the module.
    function
        What was called, as in the coverage table.
    kind
        Class of the module.
    operators
        Torch's operators that do them.
    products
        Their shapes in the call with the example inputs.
    """

    layer: str
    function: str
    kind: type[nn.Module]
    operators: frozenset[str]
    products: tuple[Product, ...]

    @property
    def name(self) -> str:
        """What patterns match: the module's name and the function's."""
        return f"{self.layer}.{self.function}"


@dataclass(frozen=True)
class RunTimePlace:
    """Where the products of a site lie, for the coverage table.

    Attributes
    ----------
    hardware
        The design's class.
    arrays, utilization
        Arrays that are written in a call and the share of their cells that hold a weight.
    note
        What a reader should know.
    """

    hardware: str
    arrays: int
    utilization: float
    note: str


def run_time_sites(contractions: Iterable[Contraction], model: nn.Module, names: dict[str, str]) -> list[RunTimeSite]:
    """Return the sites of a call: digital products without a parameter among their operands.

    Parameters
    ----------
    contractions
        What the chip did.
    model
        The model inside the chip.
    names
        Names of modules in the model, by those in the chip.
    """
    found: dict[tuple[str, str], list[Contraction]] = {}
    for one in contractions:
        if one.macs and not one.parameters and not one.inside_hardware:
            found.setdefault((names.get(one.module, one.module), one.function), []).append(one)
    modules = {name or "model": module for name, module in model.named_modules()}
    return [
        RunTimeSite(
            layer,
            function,
            type(modules[layer]),
            frozenset(one.operator for one in several),
            tuple(p for one in several for p in one.products),
        )
        for (layer, function), several in found.items()
    ]


@singledispatch
def run_time_refusal(design: Design) -> str:
    """Return why a design cannot take weights that are made at run time; empty where it can.

    Examples
    --------
    >>> run_time_refusal(RRAMCrossbar.preset("wan_nature_2022"))[:47]
    'its weights would be written at every call, and'
    """
    if getattr(design, "run_time_weights", False):
        return ""
    if not hasattr(design, "run_time_weights"):
        return f"{type(design).__name__} does not say that its weights may be written at every call"
    return (
        f"its weights would be written at every call, and {type(design).__name__} does not say that they may be; "
        "set run_time_weights=True if they may"
    )


@run_time_refusal.register
def _(design: DigitalArray) -> str:
    return ""


@run_time_refusal.register
def _(design: RRAMCrossbar) -> str:
    if design.run_time_weights:
        return ""
    pulses = "" if design.pulses_per_write is None else f", of {design.pulses_per_write:g} pulses each,"
    return (
        f"its weights would be written at every call, and RRAM cells endure few writes{pulses} unless the design says otherwise; "
        "set run_time_weights=True if they may be written"
    )


class RunTimeProducts(nn.Module):
    """Hardware that does the products of a site: the right operand is written, the left one is read in.

    Ranges of converters are those of each product itself. Every write draws anew what programming draws; on crossbars the devices stay.
    Gradients are those of the exact product.

    Parameters
    ----------
    site
        The products.
    design
        The hardware.
    seed
        Seed of the chip.

    Raises
    ------
    NotMappedError
        If the design cannot do them; the message is the reason.
    """

    def __init__(self, site: RunTimeSite, design: Design, seed: int) -> None:
        super().__init__()
        reason = run_time_refusal(design)
        unknown = site.operators - (INTEGER_PRODUCTS if isinstance(design, DigitalArray) else WRITABLE)
        if not reason and unknown:
            reason = f"{', '.join(sorted(unknown))} has no form on arrays that are written"
        if reason:
            raise NotMappedError(reason)
        self.site, self.design = site, design
        self.programming_seed, self.trial, self.calls = seed, 0, 0
        self.place = _place(site, design, seed)

    def program(self, seed: int, trial: int) -> None:
        """Begin again: the fabricated instance of a (seed, trial), nothing written yet."""
        self.programming_seed, self.trial, self.calls = seed, trial, 0

    def get_extra_state(self) -> dict[str, Any]:
        """Return seed, trial and how often the arrays were written."""
        return {"seed": self.programming_seed, "trial": self.trial, "calls": self.calls}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over what `get_extra_state` returned."""
        self.programming_seed, self.trial, self.calls = state["seed"], state["trial"], state["calls"]

    def compute(self, name: str, args: Any, kwargs: Any) -> Tensor | None:
        """Return a product, or None where a float array computes it as torch does."""
        if isinstance(self.design, DigitalArray):
            integers = isinstance(self.design, TieredArray) and self.design.input_bits is not None
            return integer_product(self.design, name, args, kwargs) if integers and isinstance(self.design, TieredArray) else None
        return _with_bias(name, args, kwargs, self._written)

    def cost(self, name: str, args: Any, kwargs: Any, products: list[Product]) -> list[Cost]:
        """Return the cost rows of one product, with that of writing its weights; nothing is written or counted as read."""
        if isinstance(self.design, DigitalArray):
            return [row for product in products for row in product_cost(self.design, self.site.layer, product)]
        rows: list[Cost] = []

        def record(index: int, a: Tensor, b: Tensor, operator: LinearOperator) -> Tensor:
            layer = self._layer(index, b, operator)
            outputs = operator(a, b)
            rows.extend(layer.cost(a, outputs))
            return outputs

        _with_bias(name, args, kwargs, record)
        return [Cost(**{**vars(row), "layer": self.site.layer, "once": False}) for row in rows]

    def _layer(self, index: int, weight: Tensor, operator: LinearOperator) -> HardwareLayer:
        weights = WeightLayer(self.site.function, operator, nn.Parameter(weight.detach().contiguous(), requires_grad=False))
        return lower(self.design, weights, f"{self.site.name}[{index}]", self.programming_seed)

    @torch.no_grad()
    def _written(self, index: int, inputs: Tensor, weight: Tensor, operator: LinearOperator) -> Tensor:
        layer = self._layer(index, weight, operator)
        self.calls += 1
        if isinstance(layer, IntegerLayer):
            layer.signed = bool((inputs < 0).any())
        if isinstance(self.design, RRAMCrossbar):
            # As in training: fabricated once for a (seed, trial), programmed anew at each write.
            layer.seed = int(bits(Key.of(seed=self.programming_seed, trial=self.trial, purpose="run time"), 1)[0])
            layer.training_reads = self.calls
            layer.train()
        else:
            layer.eval()
            layer.program(self.programming_seed, self.trial)
            layer.reads = self.calls
        outputs: Tensor = layer(inputs.contiguous())
        return outputs


def place_run_time(
    design: Any, sites: Iterable[RunTimeSite], claimed: Callable[[str], bool], seed: int
) -> tuple[list[RunTimeProducts], dict[tuple[str, str], str]]:
    """Put products of activations onto designs that may be written at every call.

    One design for the whole model takes them if it may be written. A pattern or type that names layers with weights too leaves them
    digital where its design may not; one that names nothing else must be able to run them.

    Parameters
    ----------
    design
        What the caller of the compiler gave.
    sites
        The products.
    claimed
        Whether a pattern matches a layer with weights.
    seed
        Seed of the chip.

    Returns
    -------
    list of RunTimeProducts, dict
        What lies on hardware; and why the others stay digital, by module and function.

    Raises
    ------
    ValueError
        If hardware that they were asked for cannot run them.
    """
    placed: list[RunTimeProducts] = []
    reasons: dict[tuple[str, str], str] = {}
    for site in sites:
        for key, part in _asked(design, site):
            try:
                placed.append(RunTimeProducts(site, part, seed))
                reasons.pop((site.layer, site.function), None)
                break
            except NotMappedError as refusal:
                if isinstance(key, str) and not claimed(key):
                    raise ValueError(
                        f"Argument `design`: products `{site.name}` must lie on hardware that can run them, but {type(part).__name__} "
                        f"cannot: {refusal}; a digital array can, as SystolicArray, or leave them out"
                    ) from None
                reasons[site.layer, site.function] = f"both factors are made at run time: {refusal}"
    return placed, reasons


def _asked(design: Any, site: RunTimeSite) -> list[tuple[object, Design]]:
    """Return the keys and designs of a placement that name a site."""
    if isinstance(design, dict):
        named = [(key, part) for key, part in design.items() if isinstance(key, str) and fnmatchcase(site.name, key)]
        typed = [(key, part) for key, part in design.items() if isinstance(key, type) and issubclass(site.kind, key)]
        return [*named, *typed]
    return [(None, design)] if isinstance(design, Design) and not hasattr(design, "budget_arrays") else []


def _place(site: RunTimeSite, design: Design, seed: int) -> RunTimePlace:
    """Count the arrays of a site by the shapes of its products; a convolution counts as its matrix."""
    hardware = type(design).__name__
    if isinstance(design, DigitalArray):
        return RunTimePlace(hardware, 1, 1.0, "both factors are made at run time and stream through the array")
    arrays, used = 0, 0.0
    for product in site.products:
        weights = WeightLayer(site.function, LinearOperator(0), nn.Parameter(torch.zeros(product.n, product.k), requires_grad=False))
        one = lower(design, weights, site.name, seed).placement
        arrays += one.arrays * product.times
        used += one.arrays * product.times * one.utilization
    matrices = sum(product.times for product in site.products)
    return RunTimePlace(hardware, arrays, used / max(1, arrays), f"made at run time: {matrices} matrices are written at every call")


Writer = Callable[[int, Tensor, Tensor, LinearOperator], Tensor]
"""From the index of a matrix in its product, inputs (..., k), a weight (n, k) and the linear map to the outputs."""


def _with_bias(name: str, args: Any, kwargs: Any, write: Writer) -> Tensor | None:
    """Take a product apart into linear maps of weights, and put its bias on."""
    matrix = LinearOperator(0)
    if name == "mm":
        return write(0, args[0], args[1].t(), matrix)
    if name == "bmm":
        return torch.stack([write(i, a, b.t(), matrix) for i, (a, b) in enumerate(zip(args[0], args[1], strict=True))])
    if name == "addmm":
        return _biased(write(0, args[1], args[2].t(), matrix), args[0], kwargs)
    if name == "baddbmm":
        product = torch.stack([write(i, a, b.t(), matrix) for i, (a, b) in enumerate(zip(args[1], args[2], strict=True))])
        return _biased(product, args[0], kwargs)
    if name == "convolution" and not args[6]:
        inputs, weight, bias, stride, padding, dilation, _, _, groups = args
        dimensions = weight.dim() - 2
        steps, borders, gaps = (tuple(part) * (dimensions // len(part)) for part in (stride, padding, dilation))
        result = write(0, inputs, weight, LinearOperator(dimensions, steps, borders, gaps, groups))
        return result if bias is None else result + bias.reshape(-1, *[1] * dimensions)
    return None


def _biased(product: Tensor, bias: Tensor, kwargs: Any) -> Tensor:
    alpha, beta = float(kwargs.get("alpha", 1)), float(kwargs.get("beta", 1))
    return product * alpha + bias * beta


class RunTimeRouter:
    """Finds, while a chip runs, the products that lie on hardware.

    Parameters
    ----------
    model
        The model inside the chip.
    placed
        What lies on hardware.
    costs
        Where to put cost rows instead of computing; None computes.
    """

    def __init__(self, model: nn.Module, placed: Iterable[RunTimeProducts], costs: list[Cost] | None = None) -> None:
        self.model, self.costs = model, costs
        self.placed = {(one.site.layer, one.site.function): one for one in placed}
        self.functions = FunctionNames()
        self._modules: list[str] = []
        self._weights = {storage_key(parameter) for parameter in model.parameters()}

    @contextmanager
    def following(self) -> Iterator[None]:
        """Know which module of the model runs, and which named function, inside the block."""
        names = {module: name or "model" for name, module in self.model.named_modules()}

        def enter(module: nn.Module, arguments: Any) -> None:
            self._modules.append(names[module])

        def leave(module: nn.Module, arguments: Any, outputs: Any) -> None:
            self._modules.pop()

        handles = [hook for module in names for hook in (module.register_forward_pre_hook(enter), module.register_forward_hook(leave))]
        try:
            with self.functions:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def __call__(self, name: str, args: Any, kwargs: Any) -> Tensor | None:
        """Compute a product, or put down its cost; None leaves it to torch."""
        module = self._modules[-1] if self._modules else "model"
        found = self.placed.get((module, self.functions.running[-1] if self.functions.running else name))
        operands, formula = PRODUCTS[name]
        if found is None or any(storage_key(args[place]) in self._weights for place in operands):
            return None
        if self.costs is None:
            return found.compute(name, args, kwargs)
        with _disable_current_modes():  # what it takes to find a cost is not part of the call
            self.costs.extend(found.cost(name, args, kwargs, formula(args)))
        return None
