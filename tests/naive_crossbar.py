"""The slow, obvious twins of what crossbars do with slices and converters: one cell, one comparison, one addition at a time."""

import math

import numpy as np


def digit(number: int, base: int, place: int) -> int:
    for _ in range(place):
        number //= base
    return number % base


def shift_add(
    values: np.ndarray,
    steps: np.ndarray,
    factors: np.ndarray,
    low: int,
    high: int,
    tables: np.ndarray | None = None,
    converter: np.ndarray | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Return the digitized and weighted sum over the slices of float32 `values` (inputs, vectors, groups, lines, columns, positions)."""
    inputs, vectors, groups, lines, columns, positions = values.shape
    result = np.zeros((vectors, groups, columns, positions), np.float32) if out is None else out.copy()
    for i in range(inputs):
        for line in range(lines):
            for v, g, c, p in np.ndindex(result.shape):
                column = g * columns + c
                step = steps[line, column if steps.shape[1] > 1 else 0]
                value = values[i, v, g, line, c, p]
                if step == 0:
                    result[v, g, c, p] += value * factors[i, line]
                    continue
                quotient = np.float32(value / step)
                if tables is None or converter is None:
                    code = min(max(round(float(quotient)), low), high)
                else:
                    code = low + sum(bool(edge <= quotient) for edge in tables[converter[line, column]])
                result[v, g, c, p] += np.float32(code) * np.float32(step * factors[i, line])
    return result


def sar_code(value: float, capacitors: list[float], total: float) -> int:
    """Return the code of a successive approximation, bit by bit; `capacitors` from the lightest, `value` in LSB from the lowest code."""
    bits = len(capacitors)
    kept: list[int] = []
    for bit in reversed(range(bits)):
        trial = sum(capacitors[k] for k in [*kept, bit]) * 2**bits / total
        if value >= trial - 0.5:
            kept.append(bit)
    return sum(2**k for k in kept)


def ramp_code(value: float, steps: list[float]) -> int:
    """Return how far the counter runs until the ramp has passed the value; where it never has, to the end."""
    level, code = 0.0, 0
    for count, step in enumerate(steps, 1):
        level += step
        if level - 0.5 <= value:
            code = count
        else:
            break
    return code


def flash_code(value: float, thresholds: list[float]) -> int:
    return sum(value >= threshold for threshold in thresholds)


def sliced_read(
    weight: np.ndarray,
    inputs: np.ndarray,
    *,
    cell_bits: int,
    slices: int,
    input_bits: int,
    input_slices: int,
    adc_step: float,
    adc_limit: int,
    rows: int,
    digital_pairs: bool = False,
) -> np.ndarray:
    """Return what differential slices of cells give for whole inputs: each array, slice of cells and slice of inputs converted apart.

    `weight` (outputs, rows) and `inputs` (batch, rows) are whole numbers; the step is in input digits times weight digits.
    """

    def converted(current: float) -> float:
        return adc_step * min(max(round(current / adc_step), -adc_limit), adc_limit) if adc_step else current

    result = np.zeros((len(inputs), len(weight)))
    for b, o in np.ndindex(result.shape):
        for first in range(0, weight.shape[1], rows):
            for s in range(slices):
                for i in range(input_slices):
                    plus = minus = 0.0
                    for r in range(first, min(first + rows, weight.shape[1])):
                        x, w = int(inputs[b, r]), int(weight[o, r])
                        volt = math.copysign(digit(abs(x), 2**input_bits, i), x)
                        level = digit(abs(w), 2**cell_bits, s)
                        plus += volt * (level if w > 0 else 0)
                        minus += volt * (level if w < 0 else 0)
                    code = converted(plus) - converted(minus) if digital_pairs else converted(plus - minus)
                    result[b, o] += 2.0 ** (cell_bits * s + input_bits * i) * code
    return result
