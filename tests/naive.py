"""The slow, obvious twin of every kernel: plain Python, one element at a time."""

import math
from collections.abc import Callable

import numpy as np
import scipy.sparse
import scipy.sparse.linalg

MASK = 0xFFFFFFFF


def philox4x32(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c0, 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c2, 2**32)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c0, c1, c2, c3


def word(word0: int, word1: int, read: int, element: int) -> int:
    """Return word `element` of a stream."""
    chunk, lane = divmod(element, 1024)
    plane, offset = divmod(lane, 256)
    block = chunk * 256 + offset
    return philox4x32((block & MASK, block >> 32, read & MASK, read >> 32), (word0, word1))[plane]


def words(word0: int, word1: int, read: int, count: int) -> list[int]:
    return [word(word0, word1, read, element) for element in range(count)]


def unit(bits: int) -> np.float32:
    """Return the number in (0, 1] of a word: the middle of its cell of the 31-bit grid, rounded to float32."""
    return np.float32((np.float32(bits >> 1) + np.float32(0.5)) * np.float32(2.0**-31))


def uniform(word0: int, word1: int, read: int, count: int) -> np.ndarray:
    return np.array([min(unit(bits), np.float32(1 - 2**-24)) for bits in words(word0, word1, read, count)], np.float32)


def gaussian_pair(radius_bits: int, angle_bits: int) -> tuple[float, float]:
    """Return two normals by the textbook formula; a word goes once around the circle from -pi/4."""
    radius = math.sqrt(-2.0 * math.log(unit(radius_bits)))
    angle = 2.0 * math.pi * angle_bits / 2**32 - math.pi / 4
    return radius * math.cos(angle), radius * math.sin(angle)


def normal_element(word0: int, word1: int, read: int, element: int) -> float:
    second = element % 512 // 256
    partner = element - 256 if second else element + 256
    first, last = min(element, partner), max(element, partner)
    return gaussian_pair(word(word0, word1, read, first), word(word0, word1, read, last))[second]


def normal(word0: int, word1: int, read: int, count: int) -> np.ndarray:
    return np.array([normal_element(word0, word1, read, element) for element in range(count)], np.float64)


def quantize(values: np.ndarray, step: float, low: int, high: int) -> np.ndarray:
    size = np.float32(step)
    codes = [min(max(round(float(value / size)), low), high) for value in values.reshape(-1)]
    return np.array([np.float32(code) * size for code in codes], np.float32).reshape(values.shape)


def convert(
    values: np.ndarray,
    noise: np.ndarray,
    variance: np.ndarray | None = None,
    step: float = 0.0,
    limit: int = 0,
    scale: float = 1.0,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Return the fused epilogue of float32 `values` with standard normals `noise`; added to `out` if it is given."""
    result = np.zeros(values.shape, np.float32)
    for index in np.ndindex(values.shape):
        y = values[index]
        if variance is not None:
            y = y + np.sqrt(variance[index]) * noise[index]
        if step > 0:
            y = quantize(np.array([y], np.float32), step, -limit, limit)[0]
        y = y * np.float32(scale)
        result[index] = y if out is None else out[index] + y
    return result


Resistors = list[tuple[str, str, float]]


def crossbar_netlist(
    conductance: np.ndarray, row_ohm: float, column_ohm: float, source_ohm: float = 0.0, sense_ohm: float = 0.0
) -> tuple[Resistors, list[list[str]], list[list[str]]]:
    """Return (node, node, siemens) of each resistor, and the node of each cell on its row wire and on its column wire.

    Row i is driven at node "driver i", column j is sensed at node "sense j"; what a segment without resistance joins is one node.
    """
    resistors: Resistors = []

    def wire(start: str, name: str, length: int, first_ohm: float, ohm: float) -> list[str]:
        nodes, last = [], start
        for position in range(length):
            resistance = ohm + (first_ohm if position == 0 else 0.0)
            if resistance > 0:
                resistors.append((last, f"{name} {position}", 1.0 / resistance))
                last = f"{name} {position}"
            nodes.append(last)
        return nodes

    rows, columns = conductance.shape
    row_nodes = [wire(f"driver {i}", f"row {i}", columns, source_ohm, row_ohm) for i in range(rows)]
    upward = [wire(f"sense {j}", f"column {j}", rows, sense_ohm, column_ohm) for j in range(columns)]
    column_nodes = [[upward[j][rows - 1 - i] for j in range(columns)] for i in range(rows)]
    for i in range(rows):
        for j in range(columns):
            resistors.append((row_nodes[i][j], column_nodes[i][j], float(conductance[i, j])))
    return resistors, row_nodes, column_nodes


def kirchhoff(resistors: Resistors, held: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the voltage of each node, and the current that flows out of the network at each held one.

    `held` gives the voltages of some nodes, one entry for each right-hand side.
    """
    names = sorted({name for resistor in resistors for name in resistor[:2]} | set(held))
    free = {name: index for index, name in enumerate(name for name in names if name not in held)}
    count = len(next(iter(held.values())))
    matrix = scipy.sparse.lil_matrix((len(free), len(free)))
    right = np.zeros((len(free), count))
    for first, second, siemens in resistors:
        for node, other in ((first, second), (second, first)):
            if node in free:
                matrix[free[node], free[node]] += siemens
                if other in free:
                    matrix[free[node], free[other]] -= siemens
                else:
                    right[free[node]] += siemens * held[other]
    solved = scipy.sparse.linalg.splu(matrix.tocsc()).solve(right) if free else right
    volts = {name: solved[free[name]] if name in free else held[name] for name in names}
    out = {name: np.zeros(count) for name in held}
    for first, second, siemens in resistors:
        for node, other in ((first, second), (second, first)):
            if node in out:
                out[node] = out[node] + siemens * (volts[other] - volts[node])
    return volts, out


def crossbar_currents(conductance: np.ndarray, inputs: np.ndarray, *ohms: float) -> tuple[np.ndarray, np.ndarray]:
    """Return column currents (batch, columns) and cell voltages (batch, rows, columns) for row voltages (batch, rows)."""
    resistors, row_nodes, column_nodes = crossbar_netlist(conductance, *ohms)
    rows, columns = conductance.shape
    held = {f"driver {i}": inputs[:, i] for i in range(rows)} | {f"sense {j}": np.zeros(len(inputs)) for j in range(columns)}
    volts, out = kirchhoff(resistors, held)
    cells = [[volts[row_nodes[i][j]] - volts[column_nodes[i][j]] for j in range(columns)] for i in range(rows)]
    return np.stack([out[f"sense {j}"] for j in range(columns)], 1), np.moveaxis(np.array(cells), 2, 0)


def crossbar_adjoint(conductance: np.ndarray, *ohms: float) -> np.ndarray:
    """Return minus the cell voltages (columns, rows, columns) while one sense node is at 1 V and everything else that is held at 0."""
    resistors, row_nodes, column_nodes = crossbar_netlist(conductance, *ohms)
    rows, columns = conductance.shape
    held = {f"driver {i}": np.zeros(columns) for i in range(rows)} | {f"sense {j}": np.eye(columns)[j] for j in range(columns)}
    volts, _ = kirchhoff(resistors, held)
    cells = [[volts[column_nodes[i][j]] - volts[row_nodes[i][j]] for j in range(columns)] for i in range(rows)]
    return np.moveaxis(np.array(cells), 2, 0)


def bit_lines(
    positive: float,
    negative: float,
    *,
    above: list[float] | None = None,
    below: list[float] | None = None,
    half: float = 0.0,
    ramp: bool = False,
    most: float = math.inf,
    decide: Callable[[int, float], bool] = lambda comparison, difference: difference >= 0,
) -> float:
    """Return the code of two lines that were discharged by so many readout steps, one comparison after the other.

    `above` and `below` are the steps taken off the negative and the positive line, `most` the largest discharge of a line, `decide`
    says which line a comparison finds higher; `half` makes a mid-tread code.
    """
    lines = [min(positive, most), min(negative, most)]
    above = above or [2.0**k for k in range(7, -1, -1)]
    below = below or above
    count = len(above)
    signs = []
    for k in range(count + 1):
        signs.append(1 if decide(k, lines[0] - lines[1] + half) else -1)
        if ramp and signs[-1] != signs[0]:
            break
        if k < count:
            side, step = (1, above[k]) if (signs[0] if ramp else signs[-1]) > 0 else (0, below[k])
            lines[side] += min(step, most - lines[side])
    if ramp:
        code = signs[0] * (len(signs) - 1.5 if signs[-1] != signs[0] else count + 0.5)
        return max(code - 0.5, -count) if half else code
    code = sum(sign * 2.0 ** (count - 1 - k) for k, sign in enumerate(signs))
    return max(code - 0.5, 1.0 - 2.0**count) if half else code
