"""Memories in tiers, and what every array that is fed by them has in common."""

from collections.abc import Mapping
from typing import Self

from pydantic import Field, model_validator

from devices.base import DigitalArray
from devices.design import Design
from devices.digital.vector import VectorUnit


class MemoryTier(Design):
    """A memory beside an array.

    Parameters
    ----------
    name
        What it is called in tables.
    capacity_bytes
        Bytes that it holds. None: not given.
    bandwidth_bytes_per_s
        Bytes a second that it delivers or takes. None: not given.
    joule_per_byte
        Energy of a byte read or written. None: not given.

    Examples
    --------
    >>> MemoryTier(name="HBM", capacity_bytes=64_000_000_000, bandwidth_bytes_per_s=1.6e12).seconds(16e9)
    0.01
    """

    name: str = Field(min_length=1)
    capacity_bytes: int | None = Field(default=None, ge=1)
    bandwidth_bytes_per_s: float | None = Field(default=None, gt=0)
    joule_per_byte: float | None = Field(default=None, gt=0)

    def seconds(self, moved_bytes: float) -> float | None:
        """Return the time to move bytes, or None without a bandwidth."""
        return None if self.bandwidth_bytes_per_s is None else moved_bytes / self.bandwidth_bytes_per_s


class TieredArray(DigitalArray):
    """What digital arrays have in common: number formats, a clock, and memories from the one at the array's edge outwards.

    Parameters
    ----------
    memories
        Tiers, the one nearest to the array first; the last holds everything.
    frequency_hertz
        Clock of the array. None: not given.
    input_bits, weight_bits
        Integer formats of the operands; None computes in floating point, and counts 16 bits.
    accumulator_bits
        Sums wrap around beyond so many bits, as two's complement does.
    joule_per_mac
        Energy of one multiply-accumulate in the formats given. None: not given.
    area_m2
        Area of array and on-chip memories. None: not given.
    leakage_watt
        Power at rest. None: not given.
    vector
        What does the operations that are no products. None: not given, they stay on the host.
    """

    memories: tuple[MemoryTier, ...] = ()
    frequency_hertz: float | None = Field(default=None, gt=0)
    input_bits: int | None = Field(default=8, ge=2, le=16)
    weight_bits: int | None = Field(default=8, ge=2, le=16)
    accumulator_bits: int = Field(default=32, ge=8, le=52)
    joule_per_mac: float | None = Field(default=None, gt=0)
    area_m2: float | None = Field(default=None, gt=0)
    leakage_watt: float | None = Field(default=None, gt=0)
    vector: VectorUnit | None = None

    @model_validator(mode="after")
    def _formats_and_names_are_consistent(self) -> Self:
        if (self.input_bits is None) != (self.weight_bits is None):
            raise ValueError(
                f"`input_bits` must be an integer with `weight_bits`, or None with it, but got {self.input_bits} and {self.weight_bits}; "
                "give both or neither"
            )
        names = [tier.name for tier in self.memories]
        if len(set(names)) < len(names):
            raise ValueError(f"`memories` must have different names, but got {names}; rename one")
        return self

    def ideal(self) -> Self:
        """Return the array itself: digital arithmetic has no errors to turn off."""
        return self

    @property
    def operand_bytes(self) -> tuple[float, float, float]:
        """Bytes of an input, a weight and an accumulated output."""
        if self.input_bits is None or self.weight_bits is None:
            return 2.0, 2.0, 4.0
        return self.input_bits / 8, self.weight_bits / 8, self.accumulator_bits / 8

    def memory(self, name: str) -> MemoryTier:
        """Return a tier by its name.

        Raises
        ------
        ValueError
            If there is none of that name.
        """
        for tier in self.memories:
            if tier.name == name:
                return tier
        known = ", ".join(tier.name for tier in self.memories) or "none"
        raise ValueError(f"Argument `name` must be that of a memory, {known}, but got {name!r}; do choose one of them")

    def require_capacity(self, needed: int, what: str) -> None:
        """Raise ValueError where the outermost memory cannot hold so many bytes."""
        outermost = self.memories[-1] if self.memories else None
        if outermost is not None and outermost.capacity_bytes is not None and needed > outermost.capacity_bytes:
            raise ValueError(
                f"Memory `{outermost.name}` must hold {what}, {needed} bytes, but has {outermost.capacity_bytes}; "
                "add a memory tier or use fewer bits"
            )

    def roofline_seconds(self, compute_seconds: float, traffic: Mapping[str, float]) -> float:
        """Return the time of work whose computing and moving overlap: the largest of compute and of bytes over bandwidth.

        Parameters
        ----------
        compute_seconds
            Time of the arithmetic alone, seconds.
        traffic
            Bytes moved, by the name of the memory; a memory without a bandwidth is an error, since it might be the slowest.

        Raises
        ------
        ValueError
            If a memory is unknown or its bandwidth is not given.

        Examples
        --------
        >>> from devices.digital import SystolicArray
        >>> array = SystolicArray(rows=2, columns=2, memories=({"name": "DRAM", "bandwidth_bytes_per_s": 1e9},))
        >>> array.roofline_seconds(1e-6, {"DRAM": 5000})
        5e-06
        """
        times = [compute_seconds]
        for name, moved in traffic.items():
            seconds = self.memory(name).seconds(moved)
            if seconds is None:
                raise ValueError(f"Memory `{name}` must have a bandwidth to give a time, but it is not given; set bandwidth_bytes_per_s")
            times.append(seconds)
        return max(times)

    def switch_seconds(self, parameters: int, source: str, *, bits: int = 16, sockets: int = 1) -> float:
        """Return the time to bring the parameters of an expert from a memory into the one nearer to the array.

        Parameters
        ----------
        parameters
            Parameters of the expert.
        source
            Memory that holds it; its bandwidth sets the time.
        bits
            Bits of a parameter.
        sockets
            Processors that share the expert, each with its own memories.

        Raises
        ------
        ValueError
            If a count is not above 0, the memory is unknown, is the nearest one or has no bandwidth, or the nearer memory cannot hold the
            expert.

        Examples
        --------
        >>> from devices.digital import TieredSocket
        >>> round(TieredSocket.preset("sn40l_socket").switch_seconds(8_000_000_000, "DDR", sockets=16), 3)
        0.01
        """
        for name, count in (("parameters", parameters), ("bits", bits), ("sockets", sockets)):
            if not count > 0:
                raise ValueError(f"Argument `{name}` must be above 0, but got {count}; do say what is moved, and to how many")
        tier = self.memory(source)
        place = self.memories.index(tier)
        if place == 0:
            raise ValueError(f"Argument `source` must be a memory behind another one, but {source!r} is the nearest; do name an outer one")
        if tier.bandwidth_bytes_per_s is None:
            raise ValueError(f"Memory `{source}` must have a bandwidth to give a time, but it is not given; set bandwidth_bytes_per_s")
        needed = parameters * bits / 8
        nearer = self.memories[place - 1]
        if nearer.capacity_bytes is not None and needed > sockets * nearer.capacity_bytes:
            raise ValueError(
                f"Memory `{nearer.name}` must hold the expert, {needed:.0f} bytes, but has {sockets * nearer.capacity_bytes}; "
                "use fewer bits or more sockets"
            )
        return needed / (sockets * tier.bandwidth_bytes_per_s)
