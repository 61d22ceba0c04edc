"""Energy, latency and area of matrix products on digital arrays."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from devices.base import Cost, DigitalArray, missing
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
    # One array works for all layers that lie on it.
    shared = _name(design)

    def row(term: str, **values: Any) -> Cost:
        return Cost(layer=layer, hardware=hardware, term=term, resource=shared, node_m=design.node_m, **values)

    widths = (16, 16) if tiered.input_bits is None else (tiered.input_bits, tiered.weight_bits)
    rows = [
        row(
            "multiply-accumulate",
            energy_j=None if tiered.joule_per_mac is None else tiered.joule_per_mac * product.macs,
            latency_s=seconds,
            area_m2=tiered.area_m2,
            operations=2 * product.macs,
            macs=product.macs,
            input_bits=None if isinstance(tiered, _Unknown) else widths[0],
            weight_bits=None if isinstance(tiered, _Unknown) else widths[1],
            note=missing(joule_per_mac=tiered.joule_per_mac, frequency_hertz=seconds, area_m2=tiered.area_m2),
        )
    ]
    slowest = seconds
    for name, once in design.traffic(m, k, n).items():
        tier, moved = tiered.memory(name), once * product.times
        time = tier.seconds(moved)
        added = None if time is None or slowest is None else max(0.0, time - slowest)
        slowest = slowest if added is None or slowest is None else slowest + added
        rows.append(
            row(
                name,
                energy_j=None if tier.joule_per_byte is None else tier.joule_per_byte * moved,
                latency_s=added,
                area_m2=0.0,
                bytes=moved,
                note=missing(joule_per_byte=tier.joule_per_byte, bandwidth_bytes_per_s=tier.bandwidth_bytes_per_s),
            )
        )
    power = tiered.leakage_watt
    rows.append(row("leakage", power_watt=power, static=True, latency_s=0.0, area_m2=0.0, note=missing(leakage_watt=power)))
    return rows


@lru_cache(maxsize=64)
def _name(design: DigitalArray) -> str:
    """Return a name of an array that no other one has."""
    return f"{type(design).__name__} {design.fingerprint()[:8]}"


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

    joule_per_mac = area_m2 = leakage_watt = input_bits = weight_bits = None

    def memory(self, name: str) -> MemoryTier:
        return MemoryTier(name=name)
