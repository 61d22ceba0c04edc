"""Systolic arrays: cycles and traffic of a matrix product in closed form."""

from numbers import Integral
from typing import Literal

from pydantic import Field

from devices.digital.tiers import TieredArray

Dataflow = Literal["output_stationary", "weight_stationary", "input_stationary"]


class SystolicArray(TieredArray):
    """A grid of multiply-accumulate units through which operands move from neighbor to neighbor.

    A product (m, k) @ (k, n) is cut into folds of the grid. ``output_stationary``: a fold holds rows x columns outputs and takes
    k steps. ``weight_stationary``: it holds rows (of k) x columns (of n) weights and takes m steps. ``input_stationary``: it holds
    rows (of k) x columns (of m) inputs and takes n steps.

    Parameters
    ----------
    rows, columns
        Units of the grid.
    dataflow
        Which operand stays.
    memories, frequency_hertz, input_bits, weight_bits, accumulator_bits, joule_per_mac, area_m2, leakage_watt, node_m
        See `TieredArray`. The first memory feeds the array's edge.

    Examples
    --------
    >>> array = SystolicArray(rows=4, columns=8, dataflow="output_stationary")
    >>> array.cycles(10, 20, 30), array.cycles(10, 20, 30, drain=True)
    (359, 408)
    """

    rows: int = Field(ge=1, le=65536)
    columns: int = Field(ge=1, le=65536)
    dataflow: Dataflow = "output_stationary"

    def folds(self, m: int, k: int, n: int) -> int:
        """Return how often the grid is filled."""
        along = {"output_stationary": (m, n), "weight_stationary": (k, n), "input_stationary": (k, m)}[self.dataflow]
        return -(-along[0] // self.rows) * -(-along[1] // self.columns)

    def cycles(self, m: int, k: int, n: int, drain: bool = False) -> int:
        """Return the clock cycles of a product when no memory stalls it.

        Parameters
        ----------
        m, k, n
            Shape of the product, (m, k) @ (k, n).
        drain
            Count every cycle, with the `rows` cycles in which an output-stationary fold shifts its outputs out. Else the convention
            of SCALE-Sim: the index of the last cycle, which is one less, with the outputs leaving during the next fold.

        Raises
        ------
        ValueError
            If a size is not an integer of at least 1.
        """
        m, k, n = _sizes(m, k, n)
        steps = {"output_stationary": k, "weight_stationary": m, "input_stationary": n}[self.dataflow]
        # Stationary operands take a cycle a row to load; outputs that stay take as long to leave.
        fill = self.rows if drain or self.dataflow != "output_stationary" else 0
        return (fill + self.rows + self.columns + steps - 2) * self.folds(m, k, n) - (0 if drain else 1)

    def utilization(self, m: int, k: int, n: int) -> float:
        """Return the share of units and cycles that do a multiply-accumulate of the product."""
        return m * k * n / (self.cycles(m, k, n, drain=True) * self.rows * self.columns)

    def passes(self, m: int, k: int, n: int) -> tuple[int, int, int, int]:
        """Return how often each input, each weight and each output crosses the array's edge: (inputs, weights, writes, reads)."""
        if self.dataflow == "output_stationary":
            return -(-n // self.columns), -(-m // self.rows), 1, 0
        slices = -(-k // self.rows)
        if self.dataflow == "weight_stationary":
            return -(-n // self.columns), 1, slices, slices - 1
        return 1, -(-m // self.columns), slices, slices - 1

    def traffic(self, m: int, k: int, n: int) -> dict[str, int]:
        """Return the bytes that the product moves, by the name of the memory.

        The first memory sees what crosses the array's edge, partial sums included. A memory behind another one delivers each operand
        once where all three fit together into that one; where they do not, an operand that alone does not fit comes again at
        every pass, and partial sums travel with it if they do not fit.

        Raises
        ------
        ValueError
            If a size is not an integer of at least 1, or the last memory cannot hold the operands.
        """
        m, k, n = _sizes(m, k, n)
        width = self.operand_bytes
        sizes = (m * k * width[0], k * n * width[1], m * n * width[2])
        self.require_capacity(round(sum(sizes)), f"the operands of a ({m}, {k}) x ({k}, {n}) product")
        inputs, weights, writes, reads = self.passes(m, k, n)
        passes = (inputs, weights, writes + reads)
        found = {}
        nearer: int | None = None
        for place, tier in enumerate(self.memories):
            if place == 0:
                moved = sum(size * times for size, times in zip(sizes, passes, strict=True))
            elif nearer is None or sum(sizes) <= nearer:
                moved = sum(sizes)
            else:
                moved = sum(size * (times if size > nearer else 1) for size, times in zip(sizes, passes, strict=True))
            found[tier.name] = round(moved)
            nearer = tier.capacity_bytes
        return found


def _sizes(*sizes: int) -> list[int]:
    if any(not isinstance(size, Integral) or isinstance(size, bool) or size < 1 for size in sizes):
        raise ValueError(f"Arguments `m`, `k` and `n` must be integers of at least 1, but got {sizes}; do pass the shape of the product")
    return [int(size) for size in sizes]
