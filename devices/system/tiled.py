"""Arrays of any family in tiles, with what surrounds them."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Self

from pydantic import Field, SerializeAsAny, model_validator

from devices.base import Cost, Hardware, missing
from devices.design import Design
from devices.system.parts import Accumulator, Buffer, Part, Price, Router
from devices.system.scaling import ScalingRule


class Surroundings(Design):
    """What a tile has besides its arrays.

    Parameters
    ----------
    arrays_per_tile
        Arrays that share the parts of one tile; a tile serves one layer.
    buffer, accumulator, router
        The parts of a tile; a router may serve several. None: none is there, or none was published.
    leakage_watt
        Power of one tile at rest besides that of its parts. None: not given.
    node_m
        Technology node of all constants. None: not given.

    Examples
    --------
    >>> Surroundings.preset("horowitz_45nm").buffer.capacity_bytes
    8192
    """

    arrays_per_tile: int = Field(default=1, ge=1)
    buffer: Buffer | None = None
    accumulator: Accumulator | None = None
    router: Router | None = None
    leakage_watt: float | None = Field(default=None, ge=0)
    node_m: float | None = Field(default=None, gt=0)


class TiledSystem(Hardware):
    """A chip of tiles: arrays of one design with buffers, accumulators and routers around them.

    A model compiled onto it computes what it computes on the arrays. Its cost has the arrays' own rows; the work that they leave to
    digital parts gets those parts' prices, and the tiles' routers, areas and leakage get rows of their own. Parts work while the arrays
    do, so their latency is what they take longer. Digital arrays bring memories and accumulators of their own and leave no such work.

    Parameters
    ----------
    arrays
        What computes: any hardware that layers can be compiled onto.
    surroundings
        The parts of a tile, and their node.
    scaling
        The rule that brings the surroundings to the node of the arrays. None: both must have one node, or state none.
    node_m
        Technology node; that of the arrays where it is not given.

    Examples
    --------
    >>> from devices import SRAMMacro
    >>> system = TiledSystem(arrays=SRAMMacro(rows=64), surroundings=Surroundings.preset("horowitz_45nm"))
    >>> system.ideal().arrays.rows
    64
    """

    arrays: SerializeAsAny[Hardware]
    surroundings: Surroundings
    scaling: SerializeAsAny[ScalingRule] | None = None

    @model_validator(mode="after")
    def _one_node(self) -> Self:
        if isinstance(self.arrays, TiledSystem):
            raise ValueError("`arrays` must be arrays, but is a TiledSystem; give the arrays in it")
        ours, theirs = self.arrays.node_m, self.surroundings.node_m
        if self.scaling is None and ours is not None and theirs is not None and not math.isclose(ours, theirs):
            raise ValueError(
                f"`scaling` must be given where arrays and surroundings are of different nodes, {ours} m and {theirs} m, but is None; "
                "name a rule, as ConstantField(), or take parts of the arrays' node"
            )
        if self.scaling is not None and ours is not None and theirs is not None:
            self.scaling.factors(theirs, ours)
        return self

    def ideal(self) -> Self:
        """Return the same system with ideal arrays."""
        return self.replace(arrays=self.arrays.ideal())

    def price(self, rows: Sequence[Cost], arrays: int) -> list[Cost]:
        """Return the cost rows of one layer's call with those of the tiles around its arrays.

        Parameters
        ----------
        rows
            What the arrays' own cost model gave.
        arrays
            Arrays that the layer takes.
        """
        around = self.surroundings
        tiles = -(-arrays // around.arrays_per_tile)
        times = [row.latency_s for row in rows if not (row.static or row.once or row.work)]
        busy = None if not times or None in times else sum(time for time in times if time is not None)
        first = rows[0]
        priced: list[Cost] = []
        moved = 0
        for row in rows:
            part: Buffer | Accumulator | None = None
            if row.work:
                part = around.buffer if row.work == "buffer" else around.accumulator
            if row.work == "buffer":
                moved += row.bytes or 0
            if part is None:
                priced.append(row)
                continue
            price = part.price(float((row.bytes if row.work == "buffer" else row.operations) or 0), tiles, busy)
            busy = None if busy is None else busy + (price.latency_s or 0.0)
            priced.append(self._row(first, row.term, price, part, tiles, bytes=row.bytes, operations=row.operations))
        if around.router is not None and moved:
            router = around.router
            priced.append(self._row(first, "router", router.price(moved, tiles, busy), router, tiles / router.tiles, bytes=moved))
        return [*priced, *self._at_rest(first, tiles)]

    def _row(self, like: Cost, term: str, price: Price, part: Part, parts: float, **values: Any) -> Cost:
        row = Cost(
            layer=like.layer,
            hardware=like.hardware,
            term=term,
            energy_j=price.energy_j,
            latency_s=price.latency_s,
            area_m2=None if part.area_m2 is None else part.area_m2 * parts,
            note=price.note,
            node_m=self.surroundings.node_m,
            **values,
        )
        return self._scaled(row)

    def _at_rest(self, like: Cost, tiles: int) -> list[Cost]:
        """Return the power at rest of the tiles and their parts."""
        around = self.surroundings
        found: dict[str, tuple[float | None, float]] = {"tile": (around.leakage_watt, tiles)}
        for name, part in (("buffer", around.buffer), ("accumulator", around.accumulator), ("router", around.router)):
            if part is not None:
                found[name] = (part.leakage_watt, tiles / part.tiles if isinstance(part, Router) else tiles)
        rows = []
        for name, (watt, count) in found.items():
            row = Cost(
                layer=like.layer,
                hardware=like.hardware,
                term=f"{name} leakage",
                latency_s=0.0,
                area_m2=0.0,
                static=True,
                power_watt=None if watt is None else watt * count,
                node_m=around.node_m,
                note=missing(leakage_watt=watt),
            )
            rows.append(self._scaled(row))
        return rows

    def _scaled(self, row: Cost) -> Cost:
        """Bring a row of the surroundings to the node of the arrays."""
        start, end = self.surroundings.node_m, self.arrays.node_m
        if self.scaling is None or start is None or end is None:
            return row
        factors = self.scaling.factors(start, end)

        def times(value: float | None, factor: float) -> float | None:
            return None if value is None else value * factor

        note = "; ".join(part for part in (row.note, f"from {start:g} m by {type(self.scaling).__name__}") if part)
        return dataclasses.replace(
            row,
            energy_j=times(row.energy_j, factors.energy),
            latency_s=times(row.latency_s, factors.delay),
            area_m2=times(row.area_m2, factors.area),
            power_watt=times(row.power_watt, factors.power),
            node_m=end,
            note=note,
        )
