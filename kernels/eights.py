"""Eight float64 numbers as one value in compiled loops, which LLVM keeps in the processor's vector registers.

LLVM's own loop vectorizer asks at the start of each loop whether arrays overlap, and sums through memory; for the pieces of 8 to 16 numbers
of which Hamiltonians consist, that takes several times as long as the sums. Without the JIT an eight is an array of NumPy.
"""

from collections.abc import Callable
from typing import Any, Final

import numba
import numpy as np
from numba import types
from numba.core import cgutils as _untyped
from numba.extending import intrinsic, models, register_model

cgutils: Any = _untyped
ir: Any = cgutils.ir
config: Any = numba.config

EIGHT: Final = 8
"""Numbers of a value: one register of 512 bits, two or four of narrower processors."""

_VECTOR: Final = ir.VectorType(ir.DoubleType(), EIGHT)
_INDEX: Final = ir.IntType(32)


class _Eight(types.Type):
    """The type of the value in compiled code."""

    def __init__(self) -> None:
        initialize: Any = super().__init__
        initialize(name="Eight")


_EIGHT: Final = _Eight()


@register_model(_Eight)
class _EightModel(models.PrimitiveModel):
    """It is one vector of LLVM."""

    def __init__(self, manager: Any, kind: Any) -> None:
        initialize: Any = super().__init__
        initialize(manager, kind, _VECTOR)


def _compiled(typing: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Replace a plain function by instructions where loops are compiled."""
    return lambda plain: plain if config.DISABLE_JIT else intrinsic(prefer_literal=True)(typing)


def _pointer(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    data = context.make_array(kind)(context, builder, value=array).data
    return builder.bitcast(builder.gep(data, [at]), _VECTOR.as_pointer())


def prefetch(builder: Any, pointer: Any, write: int) -> None:
    """Have the line at a pointer brought into all caches as data, to be read or with `write` 1 to be overwritten."""
    byte = ir.IntType(8).as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [byte, _INDEX, _INDEX, _INDEX])
    ask = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(ask, [builder.bitcast(pointer, byte), _INDEX(write), _INDEX(3), _INDEX(1)])


def _spread(builder: Any, number: Any) -> Any:
    first = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), number, ir.Constant(_INDEX, 0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(_INDEX, EIGHT), [0] * EIGHT))


def _load_vector(_: Any, array: Any, at: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_pointer(context, builder, signature.args[0], *arguments), align=8)

    return _EIGHT(array, types.intp), build


@_compiled(_load_vector)
def load(array: Any, at: int) -> Any:
    """Return ``array[at : at + 8]`` of a flat array; use it before those numbers change."""
    return array[at : at + EIGHT]


def _store_vector(_: Any, array: Any, at: Any, value: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array, at, value = arguments
        builder.store(value, _pointer(context, builder, signature.args[0], array, at), align=8)
        return context.get_dummy_value()

    return types.void(array, types.intp, _EIGHT), build


@_compiled(_store_vector)
def store(array: Any, at: int, value: Any) -> None:
    """Write ``array[at : at + 8]`` of a flat array."""
    array[at : at + EIGHT] = value


def _ask_line(_: Any, array: Any, at: Any, write: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, value=arguments[0]).data
        prefetch(builder, builder.gep(data, [arguments[1]]), write.literal_value)
        return context.get_dummy_value()

    return types.void(array, types.intp, write), build


@_compiled(_ask_line)
def ask(array: Any, at: int, write: int) -> None:
    """Have eight numbers of a flat array brought into the caches, with `write` 1 to be overwritten; beyond its end this does nothing."""


def _spread_vector(_: Any, number: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return _spread(builder, arguments[0])

    return _EIGHT(types.float64), build


@_compiled(_spread_vector)
def spread(number: float) -> Any:
    """Return one number eight times."""
    return np.full(EIGHT, number)


def _plus_vector(_: Any, start: Any, one: Any, other: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        start, one, other = arguments
        return builder.fadd(start, builder.fmul(one, other, flags=("contract",)), flags=("contract",))

    return _EIGHT(_EIGHT, _EIGHT, _EIGHT), build


@_compiled(_plus_vector)
def plus(start: Any, one: Any, other: Any) -> Any:
    """Return ``start + one * other``, rounded once where the processor can."""
    return start + one * other


def _minus_vector(_: Any, start: Any, one: Any, other: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        start, one, other = arguments
        return builder.fsub(start, builder.fmul(one, other, flags=("contract",)), flags=("contract",))

    return _EIGHT(_EIGHT, _EIGHT, _EIGHT), build


@_compiled(_minus_vector)
def minus(start: Any, one: Any, other: Any) -> Any:
    """Return ``start - one * other``, rounded once where the processor can."""
    return start - one * other


def _total_vector(_: Any, value: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        parts = [builder.extract_element(arguments[0], ir.Constant(_INDEX, k)) for k in range(EIGHT)]
        while len(parts) > 1:
            parts = [builder.fadd(parts[k], parts[k + len(parts) // 2]) for k in range(len(parts) // 2)]
        return parts[0]

    return types.float64(_EIGHT), build


@_compiled(_total_vector)
def total(value: Any) -> float:
    """Return the sum of the eight, halves added to halves."""
    while len(value) > 1:
        value = value[: len(value) // 2] + value[len(value) // 2 :]
    return float(value[0])
