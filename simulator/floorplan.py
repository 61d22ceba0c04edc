"""A picture of a chip's arrays: which each layer takes, and how far it fills them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import singledispatch

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from devices.base import DigitalArray
from simulator.chip import Chip
from simulator.drawing import LETTER_INCHES, LINE_INCHES, MARGIN_INCHES, NARROW_INCHES, canvas, shortened
from simulator.figures import STYLE, TERMS
from simulator.hardware import HardwareLayer
from simulator.lowering.crossbar import CrossbarLayer
from simulator.lowering.macro import MacroLayer
from simulator.operators import RowTile
from simulator.words import percent, plural

Share = tuple[float, float, float, float]
"""First and last row and first and last column of a filled block, as shares of the array's rows and columns."""

WIDTH_INCHES = 7.16  # two columns of a paper
LARGEST_INCHES, SMALLEST_INCHES = 0.6, 0.11
THINNEST_INCHES = 0.012  # so that a filled part of a percent is seen
MOST_RECTANGLES = 1500
MOST_NAMES = 90
EMPTY, EDGE = "#EEEEEE", "#555555"


@singledispatch
def filled(layer: HardwareLayer) -> list[list[Share]]:
    """Return the filled blocks of every array of a layer; where they are not known, as many rows as the mean utilization says.

    Examples
    --------
    >>> from torch import nn
    >>> from devices import RRAMCrossbar
    >>> from simulator.lowering import lower, weight_layer
    >>> filled(lower(RRAMCrossbar.preset("wan_nature_2022"), weight_layer(nn.Linear(320, 32)), "head", 0))
    [[(0.0, 0.625, 0.0, 0.25)], [(0.0, 0.625, 0.0, 0.25)]]
    """
    placement = layer.placement
    return [[(0.0, placement.utilization, 0.0, 1.0)]] * placement.arrays


@filled.register
def _(layer: CrossbarLayer) -> list[list[Share]]:
    cells = layer.design.mapping.crosspoints * layer.design.mapping.slices
    return _blocks(layer, layer.tiles, (layer.design.rows, layer.design.weights_per_row * cells, layer.design.columns), cells)


@filled.register
def _(layer: MacroLayer) -> list[list[Share]]:
    return _blocks(layer, layer.tiles, (layer.design.rows, layer.design.columns, layer.design.columns), layer.design.weight_places)


def _blocks(layer: HardwareLayer, tiles: Sequence[RowTile], size: tuple[int, int, int], cells: int) -> list[list[Share]]:
    """Return the blocks of arrays of so many rows, usable and all columns; a weight takes `cells` side by side.

    Groups that fit into one array lie on its diagonal.
    """
    rows, usable, columns = size
    groups = layer.operator.groups
    wide = layer.weight.shape[0] // groups * cells
    together = 1
    if len(tiles) == 1 and wide <= usable:
        together = max(1, min(groups, rows // tiles[0].rows, usable // wide))
    arrays = []
    for first in range(0, groups, together):
        for start in range(0, wide, usable):
            right = (min(start + usable, wide) - start) / columns
            for tile in tiles:
                down = tile.rows / rows
                count = min(together, groups - first)
                arrays.append([(g * down, (g + 1) * down, g * right, (g + 1) * right) for g in range(count)])
    return arrays


def floorplan(chip: Chip) -> Figure:
    """Draw every array of a chip with its filled part, colored and numbered by layer, design by design.

    A chip of thousands of arrays shows several as one, which its title says.

    Parameters
    ----------
    chip
        From `simulator.compile`.

    Examples
    --------
    >>> import torch
    >>> from devices import RRAMCrossbar
    >>> from simulator.compiler import compile
    >>> chip = compile(torch.nn.Linear(300, 10), RRAMCrossbar.preset("wan_nature_2022"))
    >>> print(floorplan(chip).axes[0].texts[0].get_text())
    RRAMCrossbar, 256 x 256 cells: 2 arrays, 4.6% of their cells used
    """
    panels = _panels(chip)
    heights = [panel.height for panel in panels]
    figure, axes = canvas(max(panel.width for panel in panels), sum(heights) + 0.14 * (len(panels) - 1) + 2 * MARGIN_INCHES)
    with mpl.rc_context(STYLE):
        top = MARGIN_INCHES
        for panel, height in zip(panels, heights, strict=True):
            panel.draw(axes, top)
            top += height + 0.14
    return figure


@dataclass
class _Panel:
    """The arrays of one design: a title, a grid of arrays, and the names of the layers."""

    title: str
    aspect: float
    numbers: list[int] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    arrays: list[tuple[int, list[Share]]] = field(default_factory=list)

    @property
    def width(self) -> float:
        return NARROW_INCHES if len(self.arrays) <= 5 else WIDTH_INCHES

    @property
    def _cell(self) -> tuple[float, float, int]:
        """Width and height of an array with its gap, inches, and how many lie side by side."""
        width = min(max(math.sqrt(7 * 3.2 / len(self.arrays)), SMALLEST_INCHES), LARGEST_INCHES)
        per_line = max(1, int((self.width - 2 * MARGIN_INCHES) / width))
        return width, width / self.aspect, per_line

    @property
    def _legend(self) -> tuple[int, int]:
        """Columns and lines of the list of layers."""
        shown = min(len(self.names), MOST_NAMES) + (len(self.names) > MOST_NAMES)
        columns = 1 if self.width < WIDTH_INCHES else 2 if shown <= 24 else 3
        return columns, -(-shown // columns)

    @property
    def height(self) -> float:
        _, tall, per_line = self._cell
        return 0.24 + -(-len(self.arrays) // per_line) * tall + 0.08 + self._legend[1] * LINE_INCHES

    def draw(self, axes: Axes, top: float) -> None:
        axes.text(MARGIN_INCHES, top + 0.09, self.title, fontsize=8, va="center")
        wide, tall, per_line = self._cell
        gap = 0.08 * wide
        empty, full, colors, seen = [], [], [], set()
        for index, (number, shares) in enumerate(self.arrays):
            x = MARGIN_INCHES + index % per_line * wide
            y = top + 0.24 + index // per_line * tall
            inner_wide, inner_tall = wide - gap, tall - gap
            empty.append(Rectangle((x, y), inner_wide, inner_tall))
            for r0, r1, c0, c1 in shares:
                sides = max((c1 - c0) * inner_wide, THINNEST_INCHES), max((r1 - r0) * inner_tall, THINNEST_INCHES)
                full.append(Rectangle((x + c0 * inner_wide, y + r0 * inner_tall), *sides))
                colors.append(_color(number))
            if wide >= 0.17 or number not in seen:
                size = min(7.0, max(4.0, 30 * wide))
                place = (x + inner_wide / 2, y + inner_tall / 2)
                outline = [withStroke(linewidth=1.2, foreground="white")]
                axes.text(*place, str(number), fontsize=size, ha="center", va="center", path_effects=outline)
            seen.add(number)
        line = 0.5 if wide > 0.2 else 0.3
        axes.add_collection(PatchCollection(empty, facecolor=EMPTY, edgecolor="none"))
        axes.add_collection(PatchCollection(full, facecolor=colors, edgecolor="none"))
        axes.add_collection(PatchCollection(empty, facecolor="none", edgecolor=EDGE, linewidth=line))
        self._draw_names(axes, top + self.height - self._legend[1] * LINE_INCHES)

    def _draw_names(self, axes: Axes, top: float) -> None:
        columns, lines = self._legend
        pitch = (self.width - 2 * MARGIN_INCHES) / columns
        words = self.names[:MOST_NAMES]
        for index, (number, name) in enumerate(zip(self.numbers, words, strict=False)):
            x, y = MARGIN_INCHES + index // lines * pitch, top + (index % lines + 0.5) * LINE_INCHES
            axes.add_patch(Rectangle((x, y - 0.045), 0.09, 0.09, facecolor=_color(number), edgecolor="none"))
            axes.text(x + 0.13, y, str(number), fontsize=6, fontweight="bold", va="center")
            axes.text(x + 0.33, y, shortened(name, int((pitch - 0.4) / LETTER_INCHES)), fontsize=6, va="center")
        if len(self.names) > MOST_NAMES:
            x, y = MARGIN_INCHES + MOST_NAMES // lines * pitch, top + (MOST_NAMES % lines + 0.5) * LINE_INCHES
            axes.text(x + 0.13, y, f"and {len(self.names) - MOST_NAMES} more layers", fontsize=6, va="center")


def _panels(chip: Chip) -> list[_Panel]:
    layers = list(chip.layers.values())
    designs: dict[object, list[tuple[int, HardwareLayer]]] = {}
    order: dict[str, int] = {}
    for index, row in enumerate(chip._rows):
        parts_of = row.layer.split(".")  # a layer that holds others stands where the first of them does
        for count in range(len(parts_of)):
            order.setdefault(".".join(parts_of[: count + 1]), index)
    for number, layer in enumerate(sorted(layers, key=lambda layer: order.get(layer.name, len(chip._rows))), 1):
        designs.setdefault(getattr(layer, "design", layer.placement.hardware), []).append((number, layer))
    panels = []
    for design, members in designs.items():
        placements = [layer.placement for _, layer in members]
        total = sum(placement.arrays for placement in placements)
        used = sum(placement.arrays * placement.utilization for placement in placements) / max(1, total)
        rows, columns = getattr(design, "rows", None), getattr(design, "columns", None)
        sized = isinstance(rows, int) and isinstance(columns, int)
        each = -(-total // MOST_RECTANGLES)
        in_turn = isinstance(design, DigitalArray)  # a layer's square is the one array while the layer runs
        unit, parts = members[0][1].occupies
        what = f"{plural(len(members), 'layer')} in turn" if in_turn else plural(total, unit)
        title = f"{placements[0].hardware}{f', {rows} x {columns} cells' if sized else ''}: {what}, {percent(used)} of "
        title += ("its" if total == 1 or in_turn else "their") + f" {parts} used" + (f" (a square stands for {each})" if each > 1 else "")
        panel = _Panel(title, min(max(columns / rows, 0.5), 2.0) if isinstance(rows, int) and isinstance(columns, int) else 1.0)
        for (number, layer), placement in zip(members, placements, strict=True):
            panel.numbers.append(number)
            panel.names.append(f"{layer.name} ({layer.kind}), {plural(placement.arrays, unit)}, {percent(placement.utilization)}")
            panel.arrays += [(number, shares) for shares in _thinned(layer, placement.arrays, placement.utilization, each)]
        panels.append(panel)
    return panels


def _thinned(layer: HardwareLayer, arrays: int, utilization: float, each: int) -> list[list[Share]]:
    return filled(layer) if each == 1 else [[(0.0, utilization, 0.0, 1.0)]] * -(-arrays // each)


def _color(number: int) -> str:
    return TERMS[(number - 1) % len(TERMS)]
