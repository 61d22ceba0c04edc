"""Energy, latency and area of matrix products on digital arrays."""

from dataclasses import dataclass

from devices.base import Cost, DigitalArray
from devices.digital.socket import TieredSocket
from devices.digital.systolic import SystolicArray
from devices.digital.tiers import MemoryTier, TieredArray


@dataclass(frozen=True)
class Product:
    """A matrix product (m, k) @ (k, n), done several times with other operands, as by the groups of a convolution.

    Attributes
    ----------
    m, k, n
        Its shape.
    times
        How often.
    """

    m: int
    k: int
    n: int
    times: int = 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates of all of them."""
        return self.m * self.k * self.n * self.times


def product_cost(design: DigitalArray, layer: str, product: Product) -> list[Cost]:
    """Return the cost rows of a product; a term whose constants were not given carries None and says which.

    Computing and moving overlap. The latency of a memory is what it adds to that of computing and of the memories before it, so that the
    rows add up to the slowest of them.

    Examples
    --------
    >>> array = SystolicArray(rows=8, columns=8, frequency_hertz="1 GHz")
    >>> [row.term for row in product_cost(array, "fc", Product(4, 16, 16))]
    ['multiply-accumulate', 'leakage']
    """
    hardware, m, k, n = type(design).__name__, product.m, product.k, product.n
    seconds = _compute_seconds(design, product)
    tiered = design if isinstance(design, TieredArray) else _Unknown()
    energy = None if tiered.joule_per_mac is None else tiered.joule_per_mac * product.macs
    rows = [
        Cost(
            layer=layer,
            hardware=hardware,
            term="multiply-accumulate",
            energy_j=energy,
            latency_s=seconds,
            area_m2=tiered.area_m2,
            operations=2 * product.macs,
            note=_missing(joule_per_mac=tiered.joule_per_mac, frequency_hertz=seconds, area_m2=tiered.area_m2),
        )
    ]
    slowest = seconds
    for name, once in design.traffic(m, k, n).items():
        tier, moved = tiered.memory(name), once * product.times
        time = tier.seconds(moved)
        added = None if time is None or slowest is None else max(0.0, time - slowest)
        slowest = slowest if added is None or slowest is None else slowest + added
        rows.append(
            Cost(
                layer=layer,
                hardware=hardware,
                term=name,
                energy_j=None if tier.joule_per_byte is None else tier.joule_per_byte * moved,
                latency_s=added,
                bytes=moved,
                note=_missing(joule_per_byte=tier.joule_per_byte, bandwidth_bytes_per_s=tier.bandwidth_bytes_per_s),
            )
        )
    idle = None if tiered.leakage_watt is None or slowest is None else tiered.leakage_watt * slowest
    rows.append(
        Cost(layer=layer, hardware=hardware, term="leakage", energy_j=idle, static=True, note=_missing(leakage_watt=tiered.leakage_watt))
    )
    return rows


def _compute_seconds(design: DigitalArray, product: Product) -> float | None:
    if isinstance(design, TieredSocket):
        return design.seconds(product.m, product.k, product.n) * product.times
    if not isinstance(design, TieredArray) or design.frequency_hertz is None:
        return None
    if isinstance(design, SystolicArray):
        return design.cycles(product.m, product.k, product.n, drain=True) * product.times / design.frequency_hertz
    return design.cycles(product.m, product.k, product.n) * product.times / design.frequency_hertz


class _Unknown:
    """The constants of an array that states none."""

    joule_per_mac = area_m2 = leakage_watt = None

    def memory(self, name: str) -> MemoryTier:
        return MemoryTier(name=name)


def _missing(**constants: float | None) -> str:
    absent = [name for name, value in constants.items() if value is None]
    return f"not given: {', '.join(absent)}" if absent else ""
