"""Vectors of `LANES` numbers in the loops of spikes, which LLVM turns into the processor's own.

Its loop vectorizer asks at the start of each loop whether arrays overlap, which for pieces of some dozen numbers takes longer than to add
them, and it cannot write past the caches. Without the JIT the plain functions run, which say what the vectors do.
"""

from collections.abc import Callable
from typing import Any, Final

import numba
from numba import types
from numba.core import cgutils as _untyped
from numba.extending import intrinsic

cgutils: Any = _untyped
ir: Any = cgutils.ir
"""LLVM's types and instructions, as numba builds them."""

config: Any = numba.config

LANES: Final = 16
"""Numbers of a vector: one register of 512 bits of float32, two or four of narrower processors."""

TOGETHER: Final = 4
"""Rows that `sum_rows` adds between two looks at their number: a list is filled up to a multiple of it."""

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
    _: Any, current: Any, out: Any, at: Any, apart: Any, membrane: Any, mark: Any, taken: Any, i: Any, decay: Any, keep: Any, steps: Any,
    past: Any,
) -> Any:  # fmt: skip
    if not isinstance(steps, types.IntegerLiteral) or not isinstance(past, types.IntegerLiteral):
        return None
    floating = isinstance(current.dtype, types.Float)

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        of = signature.args
        flow, spikes, at, apart, membrane, mark, taken, i, decay, keep = arguments[:10]
        v, level, less = (_load(context, builder, of[k], one, i) for k, one in ((4, membrane), (5, mark), (6, taken)))
        factor, kept = _spread(builder, decay), _spread(builder, keep)
        add, subtract, multiply = (builder.fadd, builder.fsub, builder.fmul) if floating else (builder.add, builder.sub, builder.mul)
        ordered = builder.fcmp_ordered if floating else builder.icmp_signed
        spike = ir.VectorType(context.get_value_type(of[1].dtype), LANES)
        one, none = (ir.Constant(spike, [number] * LANES) for number in ((1.0, 0.0) if isinstance(of[1].dtype, types.Float) else (1, 0)))
        place, size = at, of[1].dtype.bitwidth // 8
        for _step in range(steps.literal_value):
            v = add(multiply(v, factor), _load(context, builder, of[0], flow, place))
            fired = ordered(">=", v, level)
            target = _lanes(context, builder, of[1], spikes, place)
            if past.literal_value:
                stored = builder.store(builder.select(fired, one, none), target, align=min(LANES * size, LINE_BYTES))
                stored.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(_NUMBER, 1)]))
            else:
                builder.store(builder.select(fired, one, none), target, align=size)
            v = builder.select(fired, subtract(multiply(v, kept), less), v)
            place = builder.add(place, apart)
        builder.store(v, _lanes(context, builder, of[4], membrane, i), align=of[4].dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(
        current, out, types.intp, types.intp, membrane, mark, taken, types.intp, current.dtype, current.dtype, steps, past
    ), build


@_compiled(_fire_vectors)
def fire(
    current: Any, out: Any, at: int, apart: int, membrane: Any, mark: Any, taken: Any, i: int, decay: Any, keep: Any, steps: int, past: int
) -> None:
    """Advance the neurons ``i : i + LANES`` of a block by `steps` steps, whose currents and spikes lie at `at` and every `apart` after it.

    A neuron fires at `mark` or above, and then goes to ``v keep - taken``. With `past` spikes are written past the caches, for which they
    must lie at multiples of 64 bytes. `steps` and `past` are literals.
    """
    for lane in range(LANES):
        v = membrane[i + lane]
        for step in range(steps):
            place = at + step * apart + lane
            v = v * decay + current[place]
            fired = v >= mark[i + lane]
            out[place] = fired
            v = v * keep - taken[i + lane] if fired else v
        membrane[i + lane] = v


def _list_vectors(_: Any, values: Any, at: Any, places: Any, found: Any, first: Any, apart: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        of = signature.args
        values, at, places, found, first, apart = arguments
        number = ir.VectorType(_NUMBER, LANES)
        read = _load(context, builder, of[0], values, at)
        mask = builder.icmp_unsigned("!=", read, ir.Constant(read.type, [0] * LANES))
        steps = builder.mul(ir.Constant(number, list(range(LANES))), _spread(builder, builder.trunc(apart, _NUMBER)))
        place = builder.add(_spread(builder, builder.trunc(first, _NUMBER)), steps)
        compress = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(number, [number, mask.type, number]), f"llvm.experimental.vector.compress.v{LANES}i32"
        )
        packed = builder.call(compress, [place, mask, ir.Constant(number, ir.Undefined)])
        builder.store(packed, _lanes(context, builder, of[2], places, found), align=4)
        return builder.add(found, builder.zext(builder.ctpop(builder.bitcast(mask, ir.IntType(LANES))), found.type))

    return types.intp(values, types.intp, places, types.intp, types.intp, types.intp), build


@_compiled(_list_vectors)
def list_spikes(values: Any, at: int, places: Any, found: int, first: int, apart: int) -> int:
    """Write from `found` on which of ``values[at : at + LANES]``, uint8, are not zero, as ``first + lane apart``.

    Returns how many there are then; what lies up to `LANES` beyond is overwritten. `places` is int32.
    """
    for lane in range(LANES):
        if values[at + lane]:
            places[found] = first + lane * apart
            found += 1
    return found


def _append_vectors(_: Any, target: Any, at: Any, source: Any, bounds: Any, first: Any, last: Any, plus: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        of = signature.args
        target, at, source, bounds, first, last, plus = arguments
        start, stop = (_one(context, builder, of[3], bounds, place) for place in (first, last))
        more = _spread(builder, builder.trunc(plus, _NUMBER))

        def move(k: Any) -> None:
            moved = builder.add(_load(context, builder, of[2], source, builder.add(start, k)), more)
            builder.store(moved, _lanes(context, builder, of[0], target, builder.add(at, k)), align=4)

        length, step = builder.sub(stop, start), at.type(LANES)
        move(at.type(0))  # most pieces are no longer than one vector, and to ask takes as long as to move it
        with cgutils.for_range_slice(builder, step, length, step, at.type) as (k, _count):
            move(k)
        return builder.add(at, length)

    place = types.intp
    return types.intp(target, place, source, bounds, place, place, place), build


@_compiled(_append_vectors)
def append(target: Any, at: int, source: Any, bounds: Any, first: int, last: int, plus: int) -> int:
    """Write ``source[bounds[first] : bounds[last]] + plus`` to `target` from `at` on, and return where it ends.

    What lies up to `LANES` beyond is overwritten, and as much is read. `target` and `source` are int32, `bounds` int64.
    """
    length = bounds[last] - bounds[first]
    for k in range(length):
        target[at + k] = source[bounds[first] + k] + plus
    return int(at + length)


def _sum_vectors(
    _: Any, out: Any, at: Any, start: Any, column: Any, rows: Any, places: Any, counts: Any, length: Any, vectors: Any, counted: Any
) -> Any:
    if not isinstance(vectors, types.IntegerLiteral) or not isinstance(counted, types.IntegerLiteral):
        return None
    floating = isinstance(out.dtype, types.Float)

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        of = signature.args
        out, at, start, column, rows, places, counts, length = arguments[:8]
        add, multiply = (builder.fadd, builder.fmul) if floating else (builder.add, builder.mul)
        shifts = [ir.Constant(length.type, LANES * block) for block in range(vectors.literal_value)]
        sums = [cgutils.alloca_once_value(builder, _load(context, builder, of[2], start, builder.add(column, shift))) for shift in shifts]
        with cgutils.for_range_slice(builder, length.type(0), length, length.type(TOGETHER), length.type) as (index, _count):
            for k in range(TOGETHER):
                each = builder.add(index, length.type(k))
                first = builder.add(builder.sext(_one(context, builder, of[5], places, each), length.type), column)
                for total, shift in zip(sums, shifts, strict=True):
                    row = _load(context, builder, of[4], rows, builder.add(first, shift))
                    kind = builder.load(total).type
                    if not floating and row.type != kind:
                        row = builder.sext(row, kind)
                    if counted.literal_value:
                        times = _one(context, builder, of[6], counts, each)
                        row = multiply(row, _spread(builder, builder.sitofp(times, kind.element) if floating else times))
                    builder.store(add(builder.load(total), row), total)
        for total, shift in zip(sums, shifts, strict=True):
            place = _lanes(context, builder, of[0], out, builder.add(at, shift))
            builder.store(builder.load(total), place, align=of[0].dtype.bitwidth // 8)
        return context.get_dummy_value()

    place = types.intp
    return types.void(out, place, start, place, rows, places, counts, place, vectors, counted), build


@_compiled(_sum_vectors)
def sum_rows(
    out: Any, at: int, start: Any, column: int, rows: Any, places: Any, counts: Any, length: int, vectors: int, counted: int
) -> None:
    """Write to `out` from `at` on ``start + the sum of rows``: of those that begin at `places`, one after the other, from `column` on.

    The sums of `vectors` times `LANES` outputs stay in registers. `length` is rounded up to a multiple of `TOGETHER`; with `counted` each
    row is taken `counts` times. `vectors` and `counted` are literals.
    """
    for lane in range(vectors * LANES):
        total = start[column + lane]
        for k in range(-(-length // TOGETHER) * TOGETHER):
            row = total.dtype.type(rows[places[k] + column + lane])
            total = total + (row * total.dtype.type(counts[k]) if counted else row)
        out[at + lane] = total


def _above_vectors(_: Any, values: Any, at: Any, level: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        found = _load(context, builder, signature.args[0], arguments[0], arguments[1])
        level = ir.Constant(found.type, [signature.args[2].literal_value] * LANES)
        mask = builder.bitcast(builder.icmp_unsigned(">", found, level), ir.IntType(LANES))
        return builder.icmp_unsigned("!=", mask, mask.type(0))

    return (types.boolean(values, types.intp, level), build) if isinstance(level, types.IntegerLiteral) else None


@_compiled(_above_vectors)
def any_above(values: Any, at: int, level: int) -> bool:
    """Return whether any of ``values[at : at + LANES]``, uint8, is above `level`, a literal."""
    return any(values[at + lane] > level for lane in range(LANES))
