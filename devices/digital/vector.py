"""Units for what is no matrix product: activations, normalizations, softmax, pooling, additions, gathers."""

from typing import Self

from pydantic import Field

from devices.base import Cost, Hardware
from devices.digital.formats import BYTES, Precision


class VectorUnit(Hardware):
    """Lanes that do one arithmetic operation a cycle each, in one number format.

    A compiled chip rounds the operands and results of every digital operation to the format; inside one operation (the exponentials
    and the sum of a softmax, the sums of a normalization or of a product) it computes in float32.

    Parameters
    ----------
    precision
        Number format: ``float32``, ``bfloat16``, ``float16``, ``float8_e4m3``, ``float8_e5m2``, ``int16`` or ``int8``.
    lanes
        Operations a cycle. None: not given.
    frequency_hertz
        Clock. None: not given.
    joule_per_operation
        Energy of one operation in the format. None: not given.
    joule_per_byte
        Energy of a byte read or written. None: not given.
    bandwidth_bytes_per_s
        Bytes a second that its memory delivers or takes; moving overlaps with computing. None: not given.
    area_m2
        Area of the unit. None: not given.
    node_m
        Technology node that the constants are given for. None: not given.

    Examples
    --------
    >>> unit = VectorUnit(lanes=256, frequency_hertz="700 MHz", precision="bfloat16")
    >>> row = unit.cost("norm", "layer_norm", operations=7000, moved_bytes=2048)
    >>> round(row.latency_s * 700e6), row.energy_j, row.note
    (28, None, 'not given: joule_per_operation, joule_per_byte, bandwidth_bytes_per_s')
    """

    precision: Precision = "float32"
    lanes: int | None = Field(default=None, ge=1)
    frequency_hertz: float | None = Field(default=None, gt=0)
    joule_per_operation: float | None = Field(default=None, gt=0)
    joule_per_byte: float | None = Field(default=None, gt=0)
    bandwidth_bytes_per_s: float | None = Field(default=None, gt=0)
    area_m2: float | None = Field(default=None, gt=0)

    def ideal(self) -> Self:
        """Return the unit itself: its format is a choice, not an error."""
        return self

    @property
    def number_bytes(self) -> int:
        """Bytes of a number in the format."""
        return BYTES[self.precision]

    def cost(self, layer: str, term: str, *, operations: int | None, moved_bytes: int, macs: int | None = None, owner: str = "") -> Cost:
        """Return the cost row of digital operations.

        Energy is that of the operations and of the bytes, each where its constant is given and the other takes nothing; latency is the
        longer of computing and moving, as far as they are given.

        Parameters
        ----------
        layer, term
            See `Cost`.
        operations
            Arithmetic operations; None where there is no formula.
        moved_bytes
            Bytes read and written.
        macs
            Multiply-accumulates of the model among the operations; None where there are none.
        owner
            Name of the array that the unit belongs to; empty: it is on its own.
        """
        absent = []
        energies: list[float] = []
        for name, constant, count in (
            ("joule_per_operation", self.joule_per_operation, operations),
            ("joule_per_byte", self.joule_per_byte, moved_bytes),
        ):
            if count and constant is None:
                absent.append(name)
            elif count and constant is not None:
                energies.append(constant * count)
        seconds: list[float] = []
        if operations and (self.lanes is None or self.frequency_hertz is None):
            absent += [name for name in ("lanes", "frequency_hertz") if getattr(self, name) is None]
        elif operations and self.lanes is not None and self.frequency_hertz is not None:
            seconds.append(-(-operations // self.lanes) / self.frequency_hertz)
        if moved_bytes and self.bandwidth_bytes_per_s is None:
            absent.append("bandwidth_bytes_per_s")
        elif moved_bytes and self.bandwidth_bytes_per_s is not None:
            seconds.append(moved_bytes / self.bandwidth_bytes_per_s)
        notes = ["no formula for its operations"] if operations is None else []
        if absent:
            notes.append(f"not given: {', '.join(absent)}")
        unknown = operations is None
        bits = 8 * self.number_bytes
        return Cost(
            layer=layer,
            hardware=owner or type(self).__name__,
            term=term,
            area_m2=0.0,  # `area` has it
            energy_j=None if unknown or not energies else sum(energies),
            latency_s=None if unknown or not seconds else max(seconds),
            bytes=moved_bytes,
            operations=operations,
            note="; ".join(notes),
            macs=macs,
            input_bits=None if macs is None else bits,
            weight_bits=None if macs is None else bits,
            node_m=self.node_m,
            resource=self._resource,
        )

    def area(self, owner: str = "") -> Cost:
        """Return the cost row of the unit's area, which is there once for all layers.

        Parameters
        ----------
        owner
            Name of the array that the unit belongs to; empty: it is on its own.
        """
        name = owner or type(self).__name__
        return Cost(
            layer=name,
            hardware=name,
            term="vector unit",
            energy_j=0.0,
            latency_s=0.0,
            area_m2=self.area_m2,
            static=True,
            node_m=self.node_m,
            note="" if self.area_m2 is not None else "not given: area_m2",
            resource=self._resource,
        )

    @property
    def _resource(self) -> str:
        # All layers take turns on one unit.
        return f"{type(self).__name__} {self.fingerprint()[:8]}"
