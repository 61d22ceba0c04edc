"""The arrays of a chip one by one: their cells as they stand, their currents, and their circuit."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from devices.rram import RRAMCrossbar, Wires
from devices.rram.netlist import spice_netlist
from kernels.wires_nonlinear import solve_nonlinear
from simulator.lowering import CrossbarLayer
from simulator.lowering.arrays import output_blocks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from simulator.chip import Chip


class Column(NamedTuple):
    """What a column of cells holds: its share of one output of the layer, or the reference of its array.

    Attributes
    ----------
    output
        Output of the layer; None for a reference column.
    bit_slice
        Slice of the weight, 0 the least significant.
    sign
        1 where the column's current is added to the output, -1 where it is subtracted.
    """

    output: int | None
    bit_slice: int
    sign: int


class Row(NamedTuple):
    """What drives a row of cells.

    Attributes
    ----------
    channel
        Input channel of the layer.
    position
        Flattened position in the kernel; 0 for a linear layer.
    """

    channel: int
    position: int


@dataclass(frozen=True, eq=False)
class Tile:
    """The used part of one array: what is driven and sensed together.

    Attributes
    ----------
    layer, index
        The layer's name, and which of its tiles this is.
    conductance
        Siemens, shape (rows, columns), float32: the cells as they stood when the tile was taken from the chip.
    rows, columns
        What drives each row, and what each column holds.
    design
        The crossbar.
    seconds
        Time since programming.
    """

    layer: str
    index: int
    conductance: Tensor
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    design: RRAMCrossbar
    seconds: float

    def currents(self, voltages: Tensor | Sequence[float] | None = None) -> Tensor:
        """Return the current of each column in ampere, float64, through wires and nonlinear cells, without noise of reads.

        Parameters
        ----------
        voltages
            Volts, shape (rows,); by default the design's `read_voltage_volt` on every row.

        Raises
        ------
        ValueError
            Where neither voltages nor the design's read voltage are given, or their number is wrong.
        """
        volts = self._volts(voltages)
        cells, wires = self.conductance.double(), self.design.wires or Wires()
        law = self.design.current_voltage
        if law is None:
            return volts @ wires.effective(cells)
        solved = solve_nonlinear(
            cells, volts.unsqueeze(0), wires.row_ohm, wires.column_ohm, wires.source_ohm, wires.sense_ohm, law=law.current
        )
        currents: Tensor = solved.currents[0]
        return currents

    def to_spice(self, voltages: Tensor | Sequence[float] | None = None) -> str:
        """Return the tile's netlist: drivers, wires, cells and sense nodes; ``ngspice -b FILE`` prints every column's current.

        Parameters
        ----------
        voltages
            Volts, shape (rows,); by default the design's `read_voltage_volt` on every row.

        Raises
        ------
        ValueError
            Where neither voltages nor the design's read voltage are given, or their number is wrong.
        """
        title = f"layer {self.layer}, tile {self.index}, {self.seconds:g} s after programming"
        law, volts = self.design.current_voltage, self._volts(voltages)
        return spice_netlist(self.conductance, volts, wires=self.design.wires, current_voltage=law, title=title)

    def _volts(self, voltages: Tensor | Sequence[float] | None) -> Tensor:
        if voltages is None:
            if self.design.read_voltage_volt is None:
                raise ValueError(
                    "Argument `voltages` must be given where the design has no `read_voltage_volt`, but got None; give volts, one a row"
                )
            return torch.full((len(self.rows),), self.design.read_voltage_volt, dtype=torch.float64)
        volts = torch.as_tensor(voltages, dtype=torch.float64)
        if volts.shape != (len(self.rows),) or not bool(torch.isfinite(volts).all()):
            raise ValueError(
                f"Argument `voltages` must hold {len(self.rows)} finite numbers, one for each row, but got shape {tuple(volts.shape)}"
            )
        return volts

    def figure(self) -> "Figure":
        """Return a picture of the conductances, in microsiemens, rows driven from the left and columns sensed at the bottom."""
        from simulator.diagnosis.figures import draw_tile  # matplotlib takes a second to import

        return draw_tile(self)


def tiles_of(chip: "Chip", layer: str | None = None) -> Iterator[Tile]:
    """Yield the tiles of a chip's crossbars as their cells stand, programming the first instance where there is none.

    Parameters
    ----------
    chip
        From `simulator.compile`.
    layer
        Name of one layer; by default all layers on crossbars.

    Raises
    ------
    ValueError
        Where the chip has no such layer, or the layer lies on other hardware.
    """
    for name in crossbars(chip, layer):
        yield from _tiles(chip.layers[name])  # type: ignore[arg-type]


def tile_of(chip: "Chip", layer: str, index: int = 0) -> Tile:
    """Return one tile of a layer; ValueError where there is none of that name or number."""
    found = list(tiles_of(chip, layer))
    if not isinstance(index, int) or not 0 <= index < len(found):
        raise ValueError(f"Argument `index` must be from 0 to {len(found) - 1} for layer `{layer}`, but got {index!r}")
    return found[index]


def crossbars(chip: "Chip", layer: str | None = None) -> list[str]:
    """Return the names of the layers on crossbars, or of the one asked for."""
    names = [name for name, one in chip.layers.items() if isinstance(one, CrossbarLayer)]
    if layer is not None and layer not in names:
        raise ValueError(
            f"Argument `layer` must be a layer on crossbars, {', '.join(names) or 'of which the chip has none'}, but got {layer!r}"
        )
    return names if layer is None else [layer]


class Place(NamedTuple):
    """Where the cells of a tile lie in a layer's conductances: outputs and reference column, channels and kernel positions."""

    group: int
    outputs: tuple[int, ...]
    reference: int | None
    channels: range
    positions: range

    @property
    def columns(self) -> list[int]:
        """Indices of outputs, and of the reference after them, along the axis of the outputs."""
        return [*self.outputs, *([] if self.reference is None else [self.reference])]


def places(layer: CrossbarLayer) -> list[Place]:
    """Return the places of a layer's tiles in their order: by rows, then by columns, then by group."""
    groups, outputs = layer.operator.groups, layer.weight.shape[0]
    each, blocks = outputs // groups, output_blocks(layer.design, layer.operator, outputs)
    referred = layer.design.mapping.reference_columns > 0
    return [
        Place(
            group,
            tuple(range(group * each + start, group * each + stop)),
            outputs + group * len(blocks) + block if referred else None,
            range(*tile.channels),
            range(*tile.kernel),
        )
        for tile in layer.tiles
        for block, (start, stop) in enumerate(blocks)
        for group in range(groups)
    ]


def cut(layer: CrossbarLayer, cells: Tensor, place: Place) -> Tensor:
    """Return the cells of a tile, (rows, columns), from the layer's: column by column, each slice, each crosspoint."""
    part = cells.flatten(4)[..., _span(place.positions)] if cells.dim() > 4 else cells.unsqueeze(-1)
    part = part[:, :, place.columns][:, :, :, _span(place.channels)]
    return part.permute(3, 4, 2, 0, 1).flatten(2).flatten(0, 1)


def put(layer: CrossbarLayer, cells: Tensor, place: Place, tile: Tensor) -> None:
    """Write the cells of a tile, (rows, columns), to where `cut` takes them from; `cells` must be contiguous."""
    flat = cells.view(*cells.shape[:4], -1)
    sizes = (len(place.channels), len(place.positions), len(place.columns), *cells.shape[:2])
    flat[:, :, place.columns, _span(place.channels), _span(place.positions)] = tile.reshape(sizes).permute(3, 4, 2, 0, 1)


def _span(part: range) -> slice:
    return slice(part.start, part.stop)


def _tiles(layer: CrossbarLayer) -> Iterator[Tile]:
    cells, mapping = layer.conductance, layer.design.mapping
    channels, order = layer.weight.shape[1], layer.order
    for index, place in enumerate(places(layer)):
        held = [output if order is None else int(order[output]) for output in place.outputs]
        yield Tile(
            layer.name,
            index,
            cut(layer, cells, place).clone(),
            tuple(Row(place.group * channels + channel, position) for channel in place.channels for position in place.positions),
            tuple(
                Column(output, bit_slice, -1 if output is None or crosspoint else 1)
                for output in [*held, *([] if place.reference is None else [None])]
                for bit_slice in range(mapping.slices)
                for crosspoint in range(mapping.crosspoints)
            ),
            layer.design,
            layer.seconds,
        )
