"""Pictures of a chip: which arrays each layer takes and how far it fills them, and where every layer runs."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import singledispatch

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from simulator.chip import Chip
from simulator.coverage import CoverageRow
from simulator.figures import STYLE, TERMS, percent
from simulator.hardware import HardwareLayer
from simulator.lowering.crossbar import CrossbarLayer
from simulator.lowering.macro import MacroLayer
from simulator.operators import RowTile

Share = tuple[float, float, float, float]
"""First and last row and first and last column of a filled block, as shares of the array's rows and columns."""

WIDTH_INCHES = 7.16  # two columns of a paper
NARROW_INCHES = 4.0
MARGIN_INCHES = 0.1
LINE_INCHES = 0.145
LARGEST_INCHES, SMALLEST_INCHES = 0.6, 0.11
THINNEST_INCHES = 0.012  # so that a filled part of a percent is seen
LETTER_INCHES = 0.0465  # mean width of a letter at 6 points
MOST_RECTANGLES = 1500
MOST_NAMES = 90
EMPTY, EDGE, HOST = "#EEEEEE", "#555555", "#999999"
ROWS_A_COLUMN = 52
NODE_INCHES, BOX_INCHES = 0.19, 1.1


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
    cells = 2 * layer.design.mapping.slices
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
    figure, axes = _canvas(max(panel.width for panel in panels), sum(heights) + 0.14 * (len(panels) - 1) + 2 * MARGIN_INCHES)
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
            axes.text(x + 0.33, y, _shortened(name, int((pitch - 0.4) / LETTER_INCHES)), fontsize=6, va="center")
        if len(self.names) > MOST_NAMES:
            x, y = MARGIN_INCHES + MOST_NAMES // lines * pitch, top + (MOST_NAMES % lines + 0.5) * LINE_INCHES
            axes.text(x + 0.13, y, f"and {len(self.names) - MOST_NAMES} more layers", fontsize=6, va="center")


def _panels(chip: Chip) -> list[_Panel]:
    layers = list(chip.layers.values())
    designs: dict[object, list[tuple[int, HardwareLayer]]] = {}
    order = {row.layer: index for index, row in enumerate(chip._rows)}
    for number, layer in enumerate(sorted(layers, key=lambda layer: order.get(layer.name, len(order))), 1):
        designs.setdefault(getattr(layer, "design", layer.placement.hardware), []).append((number, layer))
    panels = []
    for design, members in designs.items():
        placements = [layer.placement for _, layer in members]
        total = sum(placement.arrays for placement in placements)
        used = sum(placement.arrays * placement.utilization for placement in placements) / max(1, total)
        rows, columns = getattr(design, "rows", None), getattr(design, "columns", None)
        sized = isinstance(rows, int) and isinstance(columns, int)
        each = -(-total // MOST_RECTANGLES)
        title = f"{placements[0].hardware}{f', {rows} x {columns} cells' if sized else ''}: {_plural(total, 'array')}, {percent(used)} of "
        title += ("its" if total == 1 else "their") + " cells used" + (f" (a square stands for {each})" if each > 1 else "")
        panel = _Panel(title, min(max(columns / rows, 0.5), 2.0) if isinstance(rows, int) and isinstance(columns, int) else 1.0)
        for (number, layer), placement in zip(members, placements, strict=True):
            panel.numbers.append(number)
            panel.names.append(f"{layer.name} ({layer.kind}), {_plural(placement.arrays, 'array')}, {percent(placement.utilization)}")
            panel.arrays += [(number, shares) for shares in _thinned(layer, placement.arrays, placement.utilization, each)]
        panels.append(panel)
    return panels


def _thinned(layer: HardwareLayer, arrays: int, utilization: float, each: int) -> list[list[Share]]:
    return filled(layer) if each == 1 else [[(0.0, utilization, 0.0, 1.0)]] * -(-arrays // each)


@dataclass(frozen=True)
class _Node:
    """A box of the graph: a layer with multiply-accumulates, or the operations between two of them."""

    name: str
    words: str
    hardware: str
    macs: int | None
    minor: bool


def graph_figure(chip: Chip) -> Figure:
    """Draw where each layer runs: boxes in the order of the modules, as wide as their multiply-accumulates, colored by hardware.

    The products of a module itself stand behind the layers inside it. Operations without multiply-accumulates are named between the
    boxes; a diamond marks a passage from one hardware to another.

    Parameters
    ----------
    chip
        From `simulator.compile`, with example inputs to see shapes with.

    Examples
    --------
    >>> import torch
    >>> from devices import RRAMCrossbar
    >>> from simulator.compiler import compile
    >>> model = torch.nn.Sequential(torch.nn.Linear(30, 10), torch.nn.ReLU())
    >>> chip = compile(model, RRAMCrossbar.preset("wan_nature_2022"), example_inputs=torch.rand(1, 30))
    >>> print(graph_figure(chip).axes[0].texts[0].get_text())
    100% of 300 multiply-accumulates on hardware
    """
    nodes = _nodes(chip)
    columns = max(1, -(-len(nodes) // ROWS_A_COLUMN))
    per_column = -(-len(nodes) // columns)
    names, words = (min(most, LETTER_INCHES * max((len(text) for text in texts), default=1)) for most, texts in _texts(nodes))
    column_inches = max(names + BOX_INCHES + words + 0.35, (NARROW_INCHES - 2 * MARGIN_INCHES) / columns)
    hardware = sorted(dict.fromkeys(node.hardware for node in nodes if not node.minor), key=lambda name: name == "host")
    palette = dict(zip([name for name in hardware if name != "host"], TERMS * len(hardware), strict=False)) | {"host": HOST}
    head = 0.24 + LINE_INCHES * (len(hardware) + 0.5)
    figure, axes = _canvas(columns * column_inches + 2 * MARGIN_INCHES, head + per_column * NODE_INCHES + 2 * MARGIN_INCHES)
    with mpl.rc_context(STYLE):
        total = sum(node.macs or 0 for node in nodes)
        on = sum(node.macs or 0 for node in nodes if node.hardware != "host")
        title = "Multiply-accumulates are not known"
        if total:
            title = f"{_cautious(on / total)} of {_count(total)} multiply-accumulates on hardware"
        axes.text(MARGIN_INCHES, MARGIN_INCHES + 0.09, title, fontsize=8, va="center")
        for index, name in enumerate(hardware):
            members = [node for node in nodes if node.hardware == name and not node.minor]
            y = MARGIN_INCHES + 0.24 + (index + 0.5) * LINE_INCHES
            axes.add_patch(Rectangle((MARGIN_INCHES, y - 0.045), 0.16, 0.09, facecolor=palette[name], edgecolor="none"))
            share = f", {percent(sum(node.macs or 0 for node in members) / total)} of the MACs" if total else ""
            label = "host (digital)" if name == "host" else name
            axes.text(MARGIN_INCHES + 0.22, y, f"{label}: {_plural(len(members), 'layer')}{share}", fontsize=7, va="center")
        largest = max((node.macs or 0 for node in nodes), default=0) or 1
        for column in range(columns):
            part = nodes[column * per_column : (column + 1) * per_column]
            left = MARGIN_INCHES + column * column_inches
            before = next((node.hardware for node in reversed(nodes[: column * per_column]) if not node.minor), None)
            _draw_nodes(axes, part, before, (left, MARGIN_INCHES + head), names, words, largest, palette)
    return figure


def _texts(nodes: Sequence[_Node]) -> tuple[tuple[float, list[str]], tuple[float, list[str]]]:
    """Return the widest that names and words may be, inches, and all that there are of each."""
    return (2.6, [node.name for node in nodes]), (2.0, [node.words for node in nodes])


def _nodes(chip: Chip) -> list[_Node]:
    nodes: list[_Node] = []
    between: list[str] = []
    labels = _labels(chip)

    def close() -> None:
        if between:
            counts = {kind: between.count(kind) for kind in between}
            words = ", ".join(f"{kind} x{count}" if count > 1 else kind for kind, count in counts.items())
            nodes.append(_Node("", words, "host", 0, True))
            between.clear()

    for row in _children_first(chip._rows):
        if row.hardware == "host" and row.macs == 0:
            if row.kind not in ("Identity", "Dropout"):
                between.append(row.kind)
        elif not row.hardware.startswith("folded"):
            close()
            arrays = "" if row.arrays is None else f", {_plural(row.arrays, 'array')}"
            macs = "MACs unknown" if row.macs is None else f"{_count(row.macs)}MAC" if row.macs >= 1000 else _plural(row.macs, "MAC")
            nodes.append(_Node(row.layer, f"{row.kind}, {macs}{arrays}", labels.get(row.layer, row.hardware), row.macs, False))
    close()
    return nodes


def _children_first(rows: Sequence[CoverageRow]) -> list[CoverageRow]:
    """Return the rows with products of a module behind those of the layers inside it: attention after queries, keys and values."""
    parents = {row.layer[:place] for row in rows for place, letter in enumerate(row.layer) if letter == "."} | {"model"}
    waiting: list[CoverageRow] = []
    ordered: list[CoverageRow] = []
    for row in rows:
        while waiting and not _inside(row.layer, waiting[-1].layer):
            ordered.append(waiting.pop())
        if row.layer in parents:
            waiting.append(row)
        else:
            ordered.append(row)
    return ordered + waiting[::-1]


def _inside(name: str, above: str) -> bool:
    return above in ("model", name) or name.startswith(f"{above}.")


def _labels(chip: Chip) -> dict[str, str]:
    """Return what the hardware of each layer is called: with its size where a chip has several of one class."""
    designs = {layer.name: getattr(layer, "design", None) for layer in chip.layers.values()}
    several = Counter(type(design) for design in dict.fromkeys(designs.values()))
    labels: dict[object, str] = {}
    for name, layer in chip.layers.items():
        design = designs[name]
        if design not in labels:
            rows, columns = getattr(design, "rows", None), getattr(design, "columns", None)
            size = f" {rows} x {columns}" if rows and columns else ""
            label = layer.placement.hardware + (size if several[type(design)] > 1 else "")
            alike = sum(other == label or other.startswith(f"{label} (") for other in labels.values())
            labels[design] = f"{label} ({alike + 1})" if alike else label
    return {name: labels[design] for name, design in designs.items()}


def _draw_nodes(
    axes: Axes,
    nodes: Sequence[_Node],
    before: str | None,
    corner: tuple[float, float],
    names: float,
    words: float,
    largest: int,
    palette: dict[str, str],
) -> None:
    left, top = corner
    middle = left + names + 0.08 + BOX_INCHES / 2
    text = middle + BOX_INCHES / 2 + 0.08
    for index, node in enumerate(nodes):
        y = top + (index + 0.5) * NODE_INCHES
        axes.plot([middle, middle], [y - (NODE_INCHES if index else NODE_INCHES / 2), y], color="#BBBBBB", linewidth=0.8, zorder=0)
        color = "#777777" if node.minor else "#333333"
        axes.text(text, y, _shortened(node.words, int(words / LETTER_INCHES)), fontsize=5.5, va="center", color=color)
        if node.minor:
            axes.plot([middle], [y], "o", color="#BBBBBB", markersize=2.5, zorder=1)
            continue
        if before is not None and before != node.hardware:
            axes.plot([middle], [y - NODE_INCHES / 2], "D", color="black", markersize=2.6, zorder=3)
        before = node.hardware
        wide, tall = max(0.03, BOX_INCHES * (node.macs or 0) / largest), 0.62 * NODE_INCHES
        axes.add_patch(
            Rectangle((middle - wide / 2, y - tall / 2), wide, tall, facecolor=palette[node.hardware], edgecolor="none", zorder=2)
        )
        axes.text(left + names, y, _shortened(node.name, int(names / LETTER_INCHES)), fontsize=6, va="center", ha="right")


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure whose one axes are measured in inches from its upper left corner."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_axis_off()
    return figure, axes


def _color(number: int) -> str:
    return TERMS[(number - 1) % len(TERMS)]


def _plural(count: int, word: str) -> str:
    return f"{count:,} {word}{'s' if count != 1 else ''}".replace(",", " ")


def _count(number: int) -> str:
    """Return a number with three digits and a prefix."""
    for scale, prefix in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= scale:
            return f"{number / scale:.3g} {prefix}"
    return str(number)


def _cautious(share: float) -> str:
    """Return a share in percent that is 100% only where nothing is left out."""
    return f"{math.floor(1000 * share) / 10}%" if 0.99 < share < 1 else percent(share)


def _shortened(text: str, room: int) -> str:
    """Return a text with its middle left out where it is longer than there is room."""
    if len(text) <= room:
        return text
    head = max(1, (room - 1) // 3)
    return f"{text[:head]}…{text[len(text) - (room - 1 - head) :]}"
