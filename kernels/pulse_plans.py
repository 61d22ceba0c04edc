"""Driven Hamiltonians as the loops of pulses read them: by pieces of eight numbers.

One vector is a row of numbers, and eight of its rows are handled at once: a Hamiltonian lies there along its diagonals, because entry
``(i, i + d)`` takes row ``i + d`` of the vector to row i. Eight vectors side by side, each with a Hamiltonian of its own, are handled row
by row: numbers of the eight lanes of one row are neighbors. The loops are the same for both.
"""

from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from kernels.eights import EIGHT

LARGEST_GAP: Final = 2 * EIGHT
"""Rows without an entry that a piece of a diagonal may hold."""


class Plan(NamedTuple):
    """A driven Hamiltonian times half a sample's time, where each of its pieces lies.

    A vector is ``[margin, real parts, margin, margin, imaginary parts, margin]``, margins of eight zeros; with eight lanes the part of row
    i begins at ``8 i``. Entries above the diagonal are all real parts, then all imaginary ones, then those of the conjugates below it.

    Attributes
    ----------
    lanes
        Vectors side by side: 1 or 8.
    states
        Rows.
    half
        Numbers of the real part of a vector with its margins.
    energies
        Diagonal, eights without margins.
    static
        Entries without drives, ``(3 * entries,)``.
    starts
        Where the pieces that act on an eight of rows begin, ``(eights + 1,)``.
    real, imaginary, columns
        Place of the parts of each piece among the entries, and of the rows of a vector that it takes.
    driven, driven_starts
        Place of each eight of entries that drives change, and where its terms begin.
    operators, rows, opposite
        Of each term: place of its drive, and of the rows and columns that it couples.
    weights
        Matrix elements of each term, ``(2 * terms * 8,)``, real parts and then imaginary ones.
    """

    lanes: int
    states: int
    half: int
    energies: npt.NDArray[np.float64]
    static: npt.NDArray[np.float64]
    starts: npt.NDArray[np.int64]
    real: npt.NDArray[np.int64]
    imaginary: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    driven: npt.NDArray[np.int64]
    driven_starts: npt.NDArray[np.int64]
    operators: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    opposite: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]


class _Run(NamedTuple):
    """Entries along one diagonal, `offset` columns beyond their rows: that of row `first` lies at `place`, zeros around."""

    offset: int
    first: int
    place: int


def plan(energies: Any, above: dict[tuple[int, int], complex], terms: dict[tuple[int, int, int], complex], lanes: int) -> Plan:
    """Lay out a Hamiltonian.

    Parameters
    ----------
    energies
        Diagonal, ``(states,)``.
    above
        Entries above it without drives, by row and column; all that drives change are among them.
    terms
        What each drive adds there, by operator, row and column.
    lanes
        Vectors side by side: 1 or 8.

    Examples
    --------
    >>> made = plan([0.0, 1.0, 3.0], {(0, 1): 0, (1, 2): 0}, {(0, 0, 1): 1.0, (0, 1, 2): 1.4}, 1)
    >>> made.starts.tolist(), (made.columns - EIGHT).tolist(), made.weights[:3].tolist()
    ([0, 2], [1, -1], [1.0, 1.4, 0.0])
    """
    states = len(energies)
    across = EIGHT // lanes
    """Rows of an eight."""
    around = EIGHT if across > 1 else 0
    """Zeros before and after a piece of a diagonal, of which an eight may hold a part."""
    eights = -(-states // across)
    lane = np.arange(lanes)
    place, held = 0, {}
    acting: list[list[tuple[int, int, int]]] = [[] for _ in range(eights)]
    for offset, rows in _stretches(sorted((j - i, i) for i, j in above), across):
        run = _Run(offset, rows[0], place + around)
        held.update({(i, i + offset): run for i in rows})
        place += 2 * around + -(-(rows[-1] - rows[0] + 1) // across) * EIGHT
        for side, shift in enumerate((0, offset)):
            for eight in range((rows[0] + shift) // across, (rows[-1] + shift) // across + 1):
                row = eight * across
                # Below the diagonal an entry lies at the row of its column.
                acting[eight].append((side, run.place + (row - shift - run.first) * lanes, EIGHT + (row + offset - 2 * shift) * lanes))
    static = np.zeros((3, place))
    for (i, j), value in above.items():
        run = held[i, j]
        static[:, run.place + (i - run.first) * lanes + lane] = [[value.real], [value.imag], [-value.imag]]
    pieces = [piece for one in acting for piece in one]
    found: dict[tuple[int, int], tuple[int, int, npt.NDArray[np.complex128]]] = {}
    for (q, i, j), weight in terms.items():
        run = held[i, j]
        block, within = divmod(i - run.first, across)
        first = EIGHT + (run.first + block * across) * lanes
        key = run.place + block * EIGHT, q
        found.setdefault(key, (first, first + run.offset * lanes, np.zeros(EIGHT, np.complex128)))[2][within * lanes + lane] = weight
    keys = sorted(found)
    driven = sorted({key[0] for key in keys})
    weights = np.array([found[key][2] for key in keys], np.complex128).reshape(-1)
    diagonal = np.zeros(eights * EIGHT)
    diagonal[: states * lanes] = np.repeat(np.asarray(energies, np.float64), lanes)

    def listed(numbers: Any) -> npt.NDArray[np.int64]:
        return np.array(numbers, np.int64)

    return Plan(
        lanes=lanes,
        states=states,
        half=(eights + 2) * EIGHT,
        energies=diagonal,
        static=static.reshape(-1),
        starts=listed(np.cumsum([0, *map(len, acting)])),
        real=listed([at for _, at, _ in pieces]),
        imaginary=listed([(1 + side) * place + at for side, at, _ in pieces]),
        columns=listed([column for _, _, column in pieces]),
        driven=listed(driven),
        driven_starts=np.searchsorted(listed([key[0] for key in keys]), listed([*driven, place])).astype(np.int64),
        operators=listed([key[1] * EIGHT for key in keys]),
        rows=listed([found[key][0] for key in keys]),
        opposite=listed([found[key][1] for key in keys]),
        weights=np.concatenate([weights.real, weights.imag]),
    )


def _stretches(entries: list[tuple[int, int]], across: int) -> list[tuple[int, list[int]]]:
    """Return offset and rows of the stretches of entries along diagonals; single entries where an eight is a row."""
    found: list[tuple[int, list[int]]] = []
    for offset, row in entries:
        if found and across > 1 and found[-1][0] == offset and row - found[-1][1][-1] <= LARGEST_GAP:
            found[-1][1].append(row)
        else:
            found.append((offset, [row]))
    return found
