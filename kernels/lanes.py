"""Vectors of `LANES` numbers in the loops of spikes, which LLVM turns into the processor's own.

Its loop vectorizer asks at the start of each loop whether arrays overlap, which for pieces of some dozen numbers takes longer than to add
them, and it cannot write past the caches. Without the JIT the plain functions run, which say what the vectors do.
"""

from collections.abc import Callable
from typing import Any, Final

import numba
import numpy as np
from numba import types
from numba.core import cgutils as _untyped
from numba.extending import intrinsic

cgutils: Any = _untyped
ir: Any = cgutils.ir
"""LLVM's types and instructions, as numba builds them."""

config: Any = numba.config

LANES: Final = 16
"""Numbers of a vector: one register of 512 bits of float32, two or four of narrower processors."""

WORD: Final = 64
"""Bits of a word that says which of as many inputs spiked."""

TOGETHER: Final = {1: 4, 2: 4, 3: 8, 6: 4, 12: 2}
"""Rows that `add_marked_rows` adds between two looks at a word, by the vectors of a row: more are added in vain, with fewer its end is
guessed wrong more often. These took the least time for the layers of ResNet-20, in which words have two to six bits."""

LINE_BYTES: Final = 64
"""Of a cache; what is written past the caches goes there in whole lines."""

_NUMBER: Final = ir.IntType(32)


def _lanes(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    """Return a pointer to `LANES` numbers of a flat array."""
    data = context.make_array(kind)(context, builder, value=array).data
    vector = ir.VectorType(context.get_value_type(kind.dtype), LANES)
    return builder.bitcast(builder.gep(data, [at]), vector.as_pointer())


def _load(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    return builder.load(_lanes(context, builder, kind, array, at), align=kind.dtype.bitwidth // 8)


def _one(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    return builder.load(builder.gep(context.make_array(kind)(context, builder, value=array).data, [at]))


def _spread(builder: Any, number: Any) -> Any:
    """Return a vector of one number."""
    vector = ir.VectorType(number.type, LANES)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), number, ir.Constant(_NUMBER, 0))
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(_NUMBER, LANES), [0] * LANES))


def _compiled(typing: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Replace a plain function by vectors where loops are compiled."""
    return lambda plain: plain if config.DISABLE_JIT else intrinsic(prefer_literal=True)(typing)


def _fire_vectors(
    _: Any, current: Any, begin: Any, further: Any, out: Any, at: Any, apart: Any, membrane: Any, mark: Any, taken: Any, i: Any, decay: Any,
    keep: Any, steps: Any, past: Any,
) -> Any:  # fmt: skip
    if not isinstance(steps, types.IntegerLiteral) or not isinstance(past, types.IntegerLiteral):
        return None
    floating = isinstance(current.dtype, types.Float)

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        of = signature.args
        flow, begin, further, spikes, at, apart, membrane, mark, taken, i, decay, keep = arguments[:12]
        v, level, less = (_load(context, builder, of[k], one, i) for k, one in ((6, membrane), (7, mark), (8, taken)))
        factor, kept = _spread(builder, decay), _spread(builder, keep)
        add, subtract, multiply = (builder.fadd, builder.fsub, builder.fmul) if floating else (builder.add, builder.sub, builder.mul)
        ordered = builder.fcmp_ordered if floating else builder.icmp_signed
        spike = ir.VectorType(context.get_value_type(of[3].dtype), LANES)
        one, none = (ir.Constant(spike, [number] * LANES) for number in ((1.0, 0.0) if isinstance(of[3].dtype, types.Float) else (1, 0)))
        source, place, size = begin, at, of[3].dtype.bitwidth // 8
        for _step in range(steps.literal_value):
            v = add(multiply(v, factor), _load(context, builder, of[0], flow, source))
            fired = ordered(">=", v, level)
            target = _lanes(context, builder, of[3], spikes, place)
            if past.literal_value:
                stored = builder.store(builder.select(fired, one, none), target, align=min(LANES * size, LINE_BYTES))
                stored.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(_NUMBER, 1)]))
            else:
                builder.store(builder.select(fired, one, none), target, align=size)
            v = builder.select(fired, subtract(multiply(v, kept), less), v)
            source, place = builder.add(source, further), builder.add(place, apart)
        builder.store(v, _lanes(context, builder, of[6], membrane, i), align=of[6].dtype.bitwidth // 8)
        return context.get_dummy_value()

    far = types.intp
    return types.void(current, far, far, out, far, far, membrane, mark, taken, far, current.dtype, current.dtype, steps, past), build


@_compiled(_fire_vectors)
def fire(
    current: Any, begin: int, further: int, out: Any, at: int, apart: int, membrane: Any, mark: Any, taken: Any, i: int, decay: Any,
    keep: Any, steps: int, past: int,
) -> None:  # fmt: skip
    """Advance the neurons ``i : i + LANES`` of a block by `steps` steps.

    Their currents lie at `begin` and every `further` after it, their spikes at `at` and every `apart` after it. A neuron fires at `mark` or
    above, and then goes to ``v keep - taken``. With `past` spikes are written past the caches, for which they must lie at multiples of 64
    bytes. `steps` and `past` are literals.
    """
    for lane in range(LANES):
        v = membrane[i + lane]
        for step in range(steps):
            v = v * decay + current[begin + step * further + lane]
            fired = v >= mark[i + lane]
            out[at + step * apart + lane] = fired
            v = v * keep - taken[i + lane] if fired else v
        membrane[i + lane] = v


def _mark_vectors(_: Any, values: Any, at: Any, level: Any) -> Any:
    if not isinstance(level, types.IntegerLiteral):
        return None

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, value=arguments[0]).data
        vector = ir.VectorType(ir.IntType(8), WORD)
        read = builder.load(builder.bitcast(builder.gep(data, [arguments[1]]), vector.as_pointer()), align=1)
        mask = builder.icmp_unsigned(">", read, ir.Constant(vector, [level.literal_value] * WORD))
        return builder.bitcast(mask, ir.IntType(WORD))

    return types.uint64(values, types.intp, level), build


@_compiled(_mark_vectors)
def mark(values: Any, at: int, level: int) -> Any:
    """Return the bits of a word, the lowest first: whether each of ``values[at : at + WORD]``, uint8, is above `level`, a literal."""
    return np.packbits(values[at : at + WORD] > level, bitorder="little").view(np.uint64)[0]


def _sum_vectors(
    _: Any, sums: Any, at: Any, rows: Any, first: Any, apart: Any, nothing: Any, word: Any, counts: Any, spot: Any, vectors: Any,
    counted: Any,
) -> Any:  # fmt: skip
    if not isinstance(vectors, types.IntegerLiteral) or not isinstance(counted, types.IntegerLiteral):
        return None
    floating = isinstance(sums.dtype, types.Float)

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        of = signature.args
        sums, at, rows, first, apart, nothing, word, counts, spot = arguments[:9]
        add, multiply = (builder.fadd, builder.fmul) if floating else (builder.add, builder.mul)
        shifts = [ir.Constant(at.type, LANES * block) for block in range(vectors.literal_value)]
        totals = [cgutils.alloca_once_value(builder, _load(context, builder, of[0], sums, builder.add(at, shift))) for shift in shifts]
        left = cgutils.alloca_once_value(builder, word)
        ask, work, end = (builder.append_basic_block(name) for name in ("ask", "work", "end"))
        builder.branch(ask)
        builder.position_at_end(ask)
        bits = builder.load(left)
        builder.cbranch(builder.icmp_unsigned("!=", bits, bits.type(0)), work, end)
        builder.position_at_end(work)
        for k in range(1 if counted.literal_value else TOGETHER[vectors.literal_value]):
            # There is a first bit.
            none = builder.icmp_unsigned("==", bits, bits.type(0)) if k else ir.Constant(ir.IntType(1), 0)
            bit = builder.cttz(bits, ir.Constant(ir.IntType(1), 0 if k else 1))
            row = builder.select(none, nothing, builder.add(first, builder.mul(bit, apart)))
            for total, shift in zip(totals, shifts, strict=True):
                weights, before = _load(context, builder, of[2], rows, builder.add(row, shift)), builder.load(total)
                kind = before.type
                if not floating and weights.type != kind:
                    weights = builder.sext(weights, kind)
                if counted.literal_value:
                    number = _one(context, builder, of[7], counts, builder.select(none, spot, builder.add(spot, bit)))
                    times = builder.uitofp(number, kind.element) if floating else builder.zext(number, kind.element)
                    weights = multiply(weights, _spread(builder, times))
                builder.store(add(before, weights), total)
            bits = builder.and_(bits, builder.sub(bits, bits.type(1)))
        builder.store(bits, left)
        builder.branch(ask)
        builder.position_at_end(end)
        for total, shift in zip(totals, shifts, strict=True):
            place = _lanes(context, builder, of[0], sums, builder.add(at, shift))
            builder.store(builder.load(total), place, align=of[0].dtype.bitwidth // 8)
        return context.get_dummy_value()

    place = types.intp
    return types.void(sums, place, rows, place, place, place, types.uint64, counts, place, vectors, counted), build


@_compiled(_sum_vectors)
def add_marked_rows(
    sums: Any, at: int, rows: Any, first: int, apart: int, nothing: int, word: Any, counts: Any, spot: int, vectors: int, counted: int
) -> None:
    """Add to `sums`, from `at` on, the rows of the bits that are set in `word`, in ascending order.

    The row of a bit begins in `rows` at ``first + bit apart``; `vectors` times `LANES` sums stay in registers. Several rows are added
    between two looks at what is left of the word, since a wrong guess of when it ends takes longer than they do: with nothing left, what
    lies at `nothing` is added, which must change nothing. With `counted` the row of a bit is taken ``counts[spot + bit]`` times. `vectors`
    and `counted` are literals.
    """
    left, total = int(word), sums[at : at + vectors * LANES]
    while left:
        bit = (left & -left).bit_length() - 1
        row = rows[first + bit * apart :][: len(total)].astype(total.dtype)
        total[:] = total + (row * total.dtype.type(counts[spot + bit]) if counted else row)
        left &= left - 1
