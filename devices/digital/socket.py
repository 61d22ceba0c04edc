"""A processor of which the peak and the memories are known, but not the array inside."""

from pydantic import Field

from devices.digital.tiers import TieredArray


class TieredSocket(TieredArray):
    """A processor that reaches its peak where no memory holds it back.

    Parameters
    ----------
    peak_operations_per_s
        Operations a second at peak, two for each multiply-accumulate.
    memories, frequency_hertz, input_bits, weight_bits, accumulator_bits, joule_per_mac, area_m2, leakage_watt, node_m
        See `TieredArray`.

    Examples
    --------
    >>> TieredSocket(peak_operations_per_s=2e12, frequency_hertz="1 GHz").cycles(100, 100, 100)
    1000
    """

    peak_operations_per_s: float = Field(gt=0)

    def cycles(self, m: int, k: int, n: int) -> int:
        """Return the clock cycles of a product at peak.

        Raises
        ------
        ValueError
            If no clock is given: the time is then known, but not the cycles.
        """
        if self.frequency_hertz is None:
            raise ValueError("`frequency_hertz` must be given to count cycles, but is None; use seconds(m, k, n) or set the clock")
        return max(1, round(self.seconds(m, k, n) * self.frequency_hertz))

    def seconds(self, m: int, k: int, n: int) -> float:
        """Return the time of a product at peak, seconds."""
        return 2 * m * k * n / self.peak_operations_per_s

    def traffic(self, m: int, k: int, n: int) -> dict[str, int]:
        """Return the bytes of the operands for every memory: each is read or written once.

        Raises
        ------
        ValueError
            If the last memory cannot hold the operands.
        """
        width = self.operand_bytes
        moved = round(m * k * width[0] + k * n * width[1] + m * n * width[2])
        self.require_capacity(moved, f"the operands of a ({m}, {k}) x ({k}, {n}) product")
        return {tier.name: moved for tier in self.memories}
