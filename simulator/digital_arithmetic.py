"""What a chip computes beside its layers on hardware, in the number formats of its digital unit."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from devices.base import DigitalArray, Hardware
from devices.digital import TieredArray, VectorUnit, rounded
from simulator._dispatch import DispatchMode
from simulator.capture import Capture
from simulator.hardware import is_inside_hardware
from simulator.lowering.integer import limits
from simulator.operations import MOVEMENT, PRODUCTS, base_name, is_adding, is_free

ProductRunner = Callable[[str, Any, Any], Tensor | None]
"""From an operator's name and its arguments to the product, or None where it is none of its own."""

INTEGER_PRODUCTS = frozenset({"mm", "addmm", "bmm", "baddbmm", "mv", "dot", "convolution", "transposed_convolution"})
"""Operators that integer arrays compute; others are computed as torch does, and a warning of the chip says so."""


def vector_precision(digital: Hardware | None) -> str:
    """Return the number format of operations that are no products.

    Examples
    --------
    >>> vector_precision(None), vector_precision(VectorUnit(precision="bfloat16"))
    ('float32', 'bfloat16')
    """
    if isinstance(digital, VectorUnit):
        return digital.precision
    vector = digital.vector if isinstance(digital, TieredArray) else None
    return "float32" if vector is None else vector.precision


def rounds(digital: Hardware | None) -> bool:
    """Return whether a digital unit computes otherwise than torch does in float32."""
    integers = isinstance(digital, TieredArray) and digital.input_bits is not None
    return integers or vector_precision(digital) != "float32"


def check_digital(digital: object) -> None:
    """Raise ValueError where `digital` is no unit that can compute beside layers on hardware."""
    if digital is not None and not isinstance(digital, DigitalArray | VectorUnit):
        raise ValueError(
            f"Argument `digital` must be a digital array, a VectorUnit or None for the host, but got {type(digital).__name__}; "
            "as SystolicArray.preset('tpu_v1_like')"
        )


def digital_warnings(found: Capture, digital: Hardware | None) -> list[str]:
    """Return what a digital unit does not do as its formats say.

    Examples
    --------
    >>> digital_warnings(Capture((), {}, {}), None)
    []
    """
    if not (isinstance(digital, TieredArray) and digital.input_bits is not None):
        return []
    left = [one for one in found.contractions if one.operator not in INTEGER_PRODUCTS and not one.inside_hardware]
    return [
        f"Module `{module}`: {operator} has no integer form on the {type(digital).__name__}; it is computed in float32"
        for module, operator in dict.fromkeys((one.module, one.operator) for one in left)
    ]


class DigitalArithmetic(DispatchMode):
    """Inside a ``with`` block, operators compute in the formats of a digital unit; layers on hardware are left alone.

    Autograd does not see the rounding: gradients are those of the exact operators at the rounded values.

    Parameters
    ----------
    digital
        The unit; None computes as torch does.
    run_time
        Computes products on hardware whose weights are made at run time; asked first.

    Examples
    --------
    >>> with DigitalArithmetic(VectorUnit(precision="bfloat16")):
    ...     (torch.tensor([1.0]) + torch.tensor([0.001])).item()
    1.0
    """

    def __init__(self, digital: Hardware | None, run_time: ProductRunner | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.digital, self.run_time = digital, run_time
        self.precision = vector_precision(digital)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if is_inside_hardware() or is_free(func):
            return func(*args, **kwargs)
        name = base_name(func)
        if name in PRODUCTS and not is_adding():
            return self._product(name, func, args, kwargs)
        if self.precision == "float32" or name in MOVEMENT:
            return func(*args, **kwargs)
        return self._rounded(func, args, kwargs)

    def _rounded(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operator on rounded operands and round its results; what it writes into is rounded in place."""
        written = [
            argument for argument, given in zip(func._schema.arguments, args, strict=False) if _is_write(argument) for argument in [given]
        ]
        for tensor in written:
            if isinstance(tensor, Tensor) and tensor.dtype is torch.float32:
                tensor.copy_(rounded(tensor, self.precision))
        places = {id(tensor) for tensor in written}
        results = func(*_map(args, self._round, places), **_map(kwargs, self._round, places))
        for tensor in written:
            if isinstance(tensor, Tensor) and tensor.dtype is torch.float32:
                tensor.copy_(rounded(tensor, self.precision))
        return results if written else _map(results, self._round, places)

    def _round(self, tensor: Tensor) -> Tensor:
        return rounded(tensor, self.precision)

    def _product(self, name: str, func: Any, args: Any, kwargs: Any) -> Any:
        if self.run_time is not None:
            found = self.run_time(name, args, kwargs)
            if found is not None:
                return found
        if isinstance(self.digital, TieredArray) and self.digital.input_bits is not None and name in INTEGER_PRODUCTS:
            return integer_product(self.digital, name, args, kwargs)
        if isinstance(self.digital, DigitalArray) or self.digital is None or self.precision == "float32":
            return func(*args, **kwargs)
        return self._rounded(func, args, kwargs)


def integer_product(array: TieredArray, name: str, args: Any, kwargs: Any) -> Tensor:
    """Return a product of tensors made at run time on an array of integers, exact but for the rounding of its operands.

    The left operand has one step, the right one a step for each column (each output of a convolution), by their largest magnitudes in
    this very product; a left operand without negative numbers takes unsigned codes. Sums wrap around at the accumulator's width.

    Parameters
    ----------
    array
        The array, of integer formats.
    name, args, kwargs
        One of `INTEGER_PRODUCTS` with its arguments.

    Examples
    --------
    >>> from devices import SystolicArray
    >>> array = SystolicArray(rows=8, columns=8)
    >>> a, b = torch.tensor([[1.0, 0.25]]), torch.tensor([[1.0], [-1.0]])
    >>> round(integer_product(array, "mm", (a, b), {}).item() * 255, 3)  # 255 and 64 of 255
    191.0
    """
    assert array.input_bits is not None
    assert array.weight_bits is not None
    first, second = (args[place] for place in PRODUCTS[name][0])
    if first.dtype is not torch.float32 or second.dtype is not torch.float32:
        return _torch_product(name, args, kwargs)
    transposed = name == "convolution" and args[6]
    left, step = _codes(first, limits(array.input_bits, bool((first < 0).any()))[1], ())
    axes: tuple[int, ...] = ()
    if name in ("mm", "addmm", "bmm", "baddbmm"):
        axes = (-2,)
    elif name == "convolution" and not transposed:
        axes = tuple(range(1, second.dim()))
    right, steps = _codes(second, limits(array.weight_bits, True)[1], axes)
    half = float(1 << (array.accumulator_bits - 1))
    bias: Tensor | None = None
    if name == "convolution":
        # Below 2^53 sums of integers are exact in float64.
        sums = torch.ops.aten.convolution.default(left, right, None, *args[3:])
        bias = None if args[2] is None else args[2].reshape(-1, *[1] * (second.dim() - 2))
        if axes:
            steps = steps.reshape(-1, *[1] * (second.dim() - 2))
    else:
        sums = torch.matmul(left, right)
        bias = args[0] if name in ("addmm", "baddbmm") else None
    result: Tensor = ((torch.remainder(sums + half, 2 * half) - half) * (step * steps)).to(torch.float32)
    if bias is None:
        return result
    with_bias: Tensor = result * float(kwargs.get("alpha", 1)) + bias * float(kwargs.get("beta", 1))
    return with_bias


def _codes(values: Tensor, largest: int, axes: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Return integers as float64, and their steps: one, or one for each position along the axes that are left."""
    exact = values.double()
    if exact.numel() == 0:
        return exact, exact.new_ones(())
    top = exact.abs().amax(axes, keepdim=True) if axes else exact.abs().amax()
    step = torch.where(top > 0, top / largest, 1.0)
    return torch.round(exact / step), step


def _torch_product(name: str, args: Any, kwargs: Any) -> Tensor:
    result: Tensor = getattr(torch.ops.aten, name)(*args, **kwargs)
    return result


def _is_write(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _map(value: Any, function: Callable[[Tensor], Tensor], untouched: set[int]) -> Any:
    if isinstance(value, Tensor):
        return value if id(value) in untouched else function(value)
    if isinstance(value, list | tuple):
        return type(value)(_map(part, function, untouched) for part in value)
    if isinstance(value, dict):
        return {key: _map(part, function, untouched) for key, part in value.items()}
    return value
