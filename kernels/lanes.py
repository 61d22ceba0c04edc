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

from kernels.eights import prefetch

cgutils: Any = _untyped
ir: Any = cgutils.ir
"""LLVM's types and instructions, as numba builds them."""

config: Any = numba.config

LANES: Final = 16
"""Numbers of a vector: one register of 512 bits of float32, two or four of narrower processors."""

WORD: Final = 64
"""Bits of a word that says which of as many inputs spiked."""

PARTS: Final = 8
"""Parts of a word that `part` writes at once."""

LINE_BYTES: Final = 64
"""Of a cache; what is written past the caches goes there in whole lines."""

AHEAD: Final = 256
"""Numbers of a row of currents between what is read and what is asked for: the processor sees no stream in rows that are read in turn, a
piece of each, so without asking for them a third of the time is waiting for memory."""

_NUMBER: Final = ir.IntType(32)


def _lanes(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    """Return a pointer to `LANES` numbers of a flat array."""
    data = context.make_array(kind)(context, builder, value=array).data
    vector = ir.VectorType(context.get_value_type(kind.dtype), LANES)
    return builder.bitcast(builder.gep(data, [at]), vector.as_pointer())


def _load(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    return builder.load(_lanes(context, builder, kind, array, at), align=kind.dtype.bitwidth // 8)


def _ask(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> None:
    """Have the lines of a vector brought into the cache; beyond the end of an array this does nothing."""
    data, each = context.make_array(kind)(context, builder, value=array).data, LINE_BYTES * 8 // kind.dtype.bitwidth
    for line in range(0, LANES, each):
        prefetch(builder, builder.gep(data, [builder.add(at, at.type(line))]), 0)


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
    _: Any, current: Any, begin: Any, further: Any, out: Any, at: Any, apart: Any, membrane: Any, place: Any, mark: Any, taken: Any, i: Any,
    decay: Any, keep: Any, steps: Any, past: Any,
) -> Any:  # fmt: skip
    if not isinstance(steps, types.IntegerLiteral) or not isinstance(past, types.IntegerLiteral):
        return None
    floating = isinstance(current.dtype, types.Float)

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        of = signature.args
        flow, begin, further, spikes, at, apart, membrane, neuron, mark, taken, i, decay, keep = arguments[:13]
        v = _load(context, builder, of[6], membrane, neuron)
        level, less = _load(context, builder, of[8], mark, i), _load(context, builder, of[9], taken, i)
        factor, kept = _spread(builder, decay), _spread(builder, keep)
        add, subtract, multiply = (builder.fadd, builder.fsub, builder.fmul) if floating else (builder.add, builder.sub, builder.mul)
        ordered = builder.fcmp_ordered if floating else builder.icmp_signed
        spike = ir.VectorType(context.get_value_type(of[3].dtype), LANES)
        one, none = (ir.Constant(spike, [number] * LANES) for number in ((1.0, 0.0) if isinstance(of[3].dtype, types.Float) else (1, 0)))
        source, place, size = begin, at, of[3].dtype.bitwidth // 8
        for _step in range(steps.literal_value):
            if steps.literal_value > 1:
                _ask(context, builder, of[0], flow, builder.add(source, source.type(AHEAD)))
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
        builder.store(v, _lanes(context, builder, of[6], membrane, neuron), align=of[6].dtype.bitwidth // 8)
        return context.get_dummy_value()

    far = types.intp
    return types.void(current, far, far, out, far, far, membrane, far, mark, taken, far, current.dtype, current.dtype, steps, past), build


@_compiled(_fire_vectors)
def fire(
    current: Any, begin: int, further: int, out: Any, at: int, apart: int, membrane: Any, place: int, mark: Any, taken: Any, i: int,
    decay: Any, keep: Any, steps: int, past: int,
) -> None:  # fmt: skip
    """Advance the neurons ``i : i + LANES`` of a block by `steps` steps.

    Their currents lie at `begin` and every `further` after it, their spikes at `at` and every `apart` after it. A neuron fires at `mark` or
    above, and then goes to ``v keep - taken``. With `past` spikes are written past the caches, for which they must lie at multiples of 64
    bytes. `steps` and `past` are literals.
    """
    for lane in range(LANES):
        v = membrane[place + lane]
        for step in range(steps):
            v = v * decay + current[begin + step * further + lane]
            fired = v >= mark[i + lane]
            out[at + step * apart + lane] = fired
            v = v * keep - taken[i + lane] if fired else v
        membrane[place + lane] = v


def _copy_vector(_: Any, out: Any, at: Any, source: Any, begin: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        of, (out, at, source, begin) = signature.args, arguments
        numbers = _load(context, builder, of[2], source, begin)
        builder.store(numbers, _lanes(context, builder, of[0], out, at), align=of[0].dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(out, types.intp, source, types.intp), build


@_compiled(_copy_vector)
def copy(out: Any, at: int, source: Any, begin: int) -> None:
    """Write `LANES` numbers of `source`, from `begin` on, to `out`, from `at` on."""
    out[at : at + LANES] = source[begin : begin + LANES]


def _add_vector(_: Any, sums: Any, at: Any, added: Any, begin: Any, worth: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        of, (sums, at, added, begin, worth) = signature.args, arguments
        numbers = _load(context, builder, of[2], added, begin)
        if not isinstance(of[2].dtype, types.Float):
            numbers = builder.fmul(builder.uitofp(numbers, ir.VectorType(worth.type, LANES)), _spread(builder, worth))
        total = builder.fadd(_load(context, builder, of[0], sums, at), numbers)
        builder.store(total, _lanes(context, builder, of[0], sums, at), align=of[0].dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(sums, types.intp, added, types.intp, sums.dtype), build


@_compiled(_add_vector)
def add(sums: Any, at: int, added: Any, begin: int, worth: Any) -> None:
    """Add to `LANES` sums as many currents, or as many counts, uint8, of something of a `worth`."""
    numbers = added[begin : begin + LANES]
    sums[at : at + LANES] += numbers if numbers.dtype == sums.dtype else numbers.astype(sums.dtype) * worth


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


def _part_vectors(_: Any, out: Any, at: Any, word: Any, bits: Any) -> Any:
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        out, at, word, bits = arguments
        vector = ir.VectorType(ir.IntType(WORD), PARTS)
        first = builder.insert_element(ir.Constant(vector, ir.Undefined), word, _NUMBER(0))
        spread = builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(_NUMBER, PARTS), [0] * PARTS))
        zero, shifts = ir.Constant(ir.IntType(WORD), 0), ir.Constant(vector, ir.Undefined)
        for k in range(PARTS):
            shift = builder.and_(builder.mul(bits, bits.type(k)), bits.type(WORD - 1))
            shifts = builder.insert_element(shifts, shift, _NUMBER(k))
        mask = builder.lshr(builder.not_(zero), builder.sub(bits.type(WORD), bits))
        masks = builder.shuffle_vector(
            builder.insert_element(ir.Constant(vector, ir.Undefined), mask, _NUMBER(0)),
            ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(_NUMBER, PARTS), [0] * PARTS),
        )  # fmt: skip
        target = builder.gep(context.make_array(signature.args[0])(context, builder, value=out).data, [at])
        builder.store(builder.and_(builder.lshr(spread, shifts), masks), builder.bitcast(target, vector.as_pointer()), align=8)
        return context.get_dummy_value()

    return types.void(out, types.intp, types.uint64, types.intp), build


@_compiled(_part_vectors)
def part(out: Any, at: int, word: Any, bits: int) -> None:
    """Write the `PARTS` lowest parts of a word, of as many `bits` each, to `out`, from `at` on; parts beyond the word are undefined."""
    for k in range(PARTS):
        out[at + k] = (int(word) >> (k * bits % WORD)) & ((1 << bits) - 1)


def _sum_vectors(
    _: Any, start: Any, sums: Any, at: Any, step: Any, rows: Any, firsts: Any, o: Any, apart: Any, words: Any, first: Any, width: Any,
    each: Any, count: Any, vectors: Any, sliding: Any,
) -> Any:  # fmt: skip
    if not isinstance(vectors, types.IntegerLiteral) or not isinstance(sliding, types.IntegerLiteral):
        return None
    floating, many = isinstance(sums.dtype, types.Float), vectors.literal_value
    done = many // 3 if sliding.literal_value else many

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        of = signature.args
        start, sums, at, step, rows, firsts, o, apart, words, first, width, each, count = arguments[:13]
        plus = builder.fadd if floating else builder.add
        shifts = [ir.Constant(at.type, LANES * block) for block in range(many)]
        wide = ir.VectorType(context.get_value_type(of[1].dtype), LANES)
        totals = [cgutils.alloca_once(builder, wide) for _ in shifts]
        left = cgutils.alloca_once(builder, ir.IntType(WORD))

        def begun(k: int) -> Any:
            return _load(context, builder, of[0], start, shifts[k])

        def keep(place: Any, k: int, total: Any) -> None:
            target = _lanes(context, builder, of[1], sums, builder.add(place, shifts[k]))
            builder.store(builder.load(total), target, align=of[1].dtype.bitwidth // 8)

        if done < many:
            for k, total in enumerate(totals):
                builder.store(begun(k), total)
        with cgutils.for_range(builder, count) as column:
            place = builder.add(at, builder.mul(column.index, step))
            if done == many:
                for total, shift in zip(totals, shifts, strict=True):
                    builder.store(_load(context, builder, of[1], sums, builder.add(place, shift)), total)
            with cgutils.for_range(builder, each) as part:
                spot = builder.add(builder.add(first, column.index), builder.mul(part.index, width))
                builder.store(_one(context, builder, of[8], words, spot), left)
                begin = builder.add(builder.mul(_one(context, builder, of[5], firsts, part.index), apart), o)
                ask, work, end = (builder.append_basic_block(name) for name in ("ask", "work", "end"))
                builder.branch(ask)
                builder.position_at_end(ask)
                bits = builder.load(left)
                builder.cbranch(builder.icmp_unsigned("!=", bits, bits.type(0)), work, end)
                builder.position_at_end(work)
                bit = builder.cttz(bits, ir.Constant(ir.IntType(1), 1))  # there is one
                row = builder.add(begin, builder.mul(bit, apart))
                for total, shift in zip(totals, shifts, strict=True):
                    weights = _load(context, builder, of[4], rows, builder.add(row, shift))
                    if weights.type != wide:
                        weights = builder.sext(weights, wide)
                    builder.store(plus(builder.load(total), weights), total)
                builder.store(builder.and_(bits, builder.sub(bits, bits.type(1))), left)
                builder.branch(ask)
                builder.position_at_end(end)
            for k in range(done):
                keep(place, k, totals[k])
            if done < many:
                for k in range(many):
                    builder.store(builder.load(totals[k + done]) if k + done < many else begun(k), totals[k])
        if done < many:
            for k in range(many - done):
                keep(builder.add(at, builder.mul(count, step)), k, totals[k])
        return context.get_dummy_value()

    far = types.intp
    return types.void(start, sums, far, far, rows, firsts, far, far, words, far, far, far, far, vectors, sliding), build


@_compiled(_sum_vectors)
def add_marked_rows(
    start: Any, sums: Any, at: int, step: int, rows: Any, firsts: Any, o: int, apart: int, words: Any, first: int, width: int, each: int,
    count: int, vectors: int, sliding: int,
) -> None:  # fmt: skip
    """Add to the sums that `count` columns reach the rows of the bits that are set in their words, in ascending order.

    The sums of a column, `vectors` times `LANES`, which stay in registers, begin at `at` and every `step` after it. Its words, `each` of
    them, lie at `first` and every `width` after it; those of the next column beside them. The row of a bit of word ``k`` begins in `rows`
    at ``o + (firsts[k] + bit) apart``. With `sliding` a `step` is a third of the vectors; the sums, which are those of `start` before, all
    positions alike, leave the registers when no further column reaches them. `vectors` and `sliding` are literals.
    """
    if sliding:
        end = at + (count - 1) * step + vectors * LANES
        sums[at:end] = np.resize(start[:step], end - at)
    for column in range(count):
        place = at + column * step
        total = sums[place : place + vectors * LANES]
        for k in range(each):
            left = int(words[first + column + k * width])
            while left:
                bit = (left & -left).bit_length() - 1
                total[:] = total + rows[o + (firsts[k] + bit) * apart :][: len(total)].astype(total.dtype)
                left &= left - 1
