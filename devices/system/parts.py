"""Digital parts of a tile: what each takes for its work, and at rest."""

from dataclasses import dataclass
from typing import Self

from pydantic import Field, model_validator

from devices.base import missing
from devices.design import Design


@dataclass(frozen=True)
class Price:
    """What work takes on a part: None where a constant is absent, which `note` names."""

    energy_j: float | None
    latency_s: float | None
    note: str


class Part(Design):
    """What digital parts of a tile have in common.

    Parameters
    ----------
    busy_watt
        Power of one part while its layer works, where its energy is published as such. None: not given.
    area_m2
        Area of one part. None: not given.
    leakage_watt
        Power of one part at rest. None: not given.
    """

    busy_watt: float | None = Field(default=None, gt=0)
    area_m2: float | None = Field(default=None, gt=0)
    leakage_watt: float | None = Field(default=None, ge=0)

    def _price(
        self, units: float, joule: float | None, rate: float | None, parts: float, busy_s: float | None, names: tuple[str, str]
    ) -> Price:
        """Return the price of `units` on so many parts beside arrays that are busy for `busy_s`: moving overlaps with their work."""
        time = None if rate is None else units / (rate * parts)
        added = None if time is None else max(0.0, time - (busy_s or 0.0))
        energy: float | None = None
        absent: dict[str, object] = {}
        if joule is not None:
            energy = units * joule
        elif self.busy_watt is not None:
            whole = None if busy_s is None else busy_s + (added or 0.0)
            energy = None if whole is None else self.busy_watt * parts * whole
            absent["the arrays' latency, which busy_watt needs"] = whole
        else:
            absent[names[0]] = None
        return Price(energy, added, missing(**absent, **{names[1]: rate, "area_m2": self.area_m2}))


class Buffer(Part):
    """A memory of a tile through which input and output codes go.

    Parameters
    ----------
    capacity_bytes
        Bytes that it holds. None: not given.
    joule_per_byte
        Energy of a byte read or written. None: not given.
    bandwidth_bytes_per_s
        Bytes a second. None: not given.
    busy_watt, area_m2, leakage_watt
        See `Part`.

    Examples
    --------
    >>> Buffer(joule_per_byte="1.25 pJ").price(8, 1, None).energy_j
    1e-11
    """

    capacity_bytes: int | None = Field(default=None, ge=1)
    joule_per_byte: float | None = Field(default=None, gt=0)
    bandwidth_bytes_per_s: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one_energy(self) -> Self:
        _refuse_two(self.joule_per_byte, self.busy_watt, "joule_per_byte")
        return self

    def price(self, moved_bytes: float, tiles: int, busy_s: float | None) -> Price:
        """Return what moving bytes takes, over all tiles, beside arrays that are busy for a time."""
        names = ("joule_per_byte", "bandwidth_bytes_per_s")
        return self._price(moved_bytes, self.joule_per_byte, self.bandwidth_bytes_per_s, tiles, busy_s, names)


class Accumulator(Part):
    """The adders of a tile that shift, add and restore what arrays give.

    Parameters
    ----------
    joule_per_addition
        Energy of one addition. None: not given.
    additions_per_s
        Additions a second. None: not given.
    busy_watt, area_m2, leakage_watt
        See `Part`.

    Examples
    --------
    >>> Accumulator(joule_per_addition="0.1 pJ", additions_per_s=1e9).price(1000, 2, 1e-7).latency_s
    4e-07
    """

    joule_per_addition: float | None = Field(default=None, gt=0)
    additions_per_s: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one_energy(self) -> Self:
        _refuse_two(self.joule_per_addition, self.busy_watt, "joule_per_addition")
        return self

    def price(self, additions: float, tiles: int, busy_s: float | None) -> Price:
        """Return what additions take, over all tiles, beside arrays that are busy for a time."""
        return self._price(
            additions, self.joule_per_addition, self.additions_per_s, tiles, busy_s, ("joule_per_addition", "additions_per_s")
        )


class Router(Part):
    """The way between tiles: input and output codes of a layer cross it.

    Parameters
    ----------
    tiles
        Tiles that share one router.
    hops
        Routers that a byte passes on its way, on average.
    joule_per_byte
        Energy of a byte through one router and its link. None: not given.
    bandwidth_bytes_per_s
        Bytes a second through one router. None: not given.
    busy_watt, area_m2, leakage_watt
        See `Part`.

    Examples
    --------
    >>> Router(tiles=4, busy_watt="42 mW").price(100, 8, 1e-6).energy_j
    8.4e-08
    """

    tiles: int = Field(default=1, ge=1)
    hops: float = Field(default=1.0, gt=0)
    joule_per_byte: float | None = Field(default=None, gt=0)
    bandwidth_bytes_per_s: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one_energy(self) -> Self:
        _refuse_two(self.joule_per_byte, self.busy_watt, "joule_per_byte")
        return self

    def price(self, moved_bytes: float, tiles: int, busy_s: float | None) -> Price:
        """Return what moving bytes takes, over all tiles, beside arrays that are busy for a time; tiles pay for their share of a router."""
        names = ("joule_per_byte", "bandwidth_bytes_per_s")
        return self._price(moved_bytes * self.hops, self.joule_per_byte, self.bandwidth_bytes_per_s, tiles / self.tiles, busy_s, names)


def _refuse_two(joule: float | None, busy_watt: float | None, name: str) -> None:
    if joule is not None and busy_watt is not None:
        raise ValueError(f"`{name}` must be absent where `busy_watt` gives the energy, but got {joule} and {busy_watt}; give one of them")
