"""A picture of where each layer runs, and how numbers flow between layers."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from simulator.chip import Chip
from simulator.conversions import hardware_of, owner
from simulator.dataflow import INPUT, OUTPUT, Node
from simulator.drawing import LETTER_INCHES, LINE_INCHES, MARGIN_INCHES, NARROW_INCHES, canvas, shortened
from simulator.figures import STYLE, TERMS
from simulator.words import cautious, counted, percent, plural

HOST, LINE, WORDS, MINOR_WORDS = "#999999", "#AAAAAA", "#333333", "#777777"
ROWS_A_COLUMN = 52
NODE_INCHES, BOX_INCHES, LANE_INCHES = 0.19, 1.1, 0.055
MOST_LANES = 16


@dataclass(frozen=True)
class _Row:
    """A line of the picture: a box with multiply-accumulates, or a dot for operations between two of them."""

    name: str
    words: str
    hardware: str
    macs: int | None
    minor: bool


@dataclass(frozen=True)
class _Link:
    """A flow of numbers from one line to another, and whether it passes from one hardware to another."""

    source: int
    target: int
    crosses: bool


@dataclass(frozen=True)
class _Column:
    """Where a column of the picture lies, inches."""

    left: float
    names: float
    words: float
    lanes: float

    @property
    def middle(self) -> float:
        return self.left + self.names + 0.08 + BOX_INCHES / 2

    @property
    def gutter(self) -> float:
        return self.middle + BOX_INCHES / 2 + 0.05

    @property
    def text(self) -> float:
        return self.gutter + self.lanes + 0.05


def graph_figure(chip: Chip) -> Figure:
    """Draw where each layer runs: boxes in the order of the call, as wide as their multiply-accumulates, colored by hardware.

    Lines show where numbers flow: straight ones from a box to the next, those in the margin past others, as around a residual block.
    Operations without multiply-accumulates are dots, by name; a diamond marks a passage from one hardware to another. Without example
    inputs the flow is not known, and the boxes stand in the order of the modules.

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
    rows, links = _flow(chip) if chip._edges else (_listed(chip), [])
    trunks = _trunks(links)
    columns = max(1, -(-len(rows) // ROWS_A_COLUMN))
    a_column = -(-len(rows) // columns)
    lanes = LANE_INCHES * (1 + max(trunks.values(), default=-1))
    names = min(2.6, LETTER_INCHES * max((len(row.name) for row in rows), default=1))
    words = min(2.0, LETTER_INCHES * max((len(row.words) for row in rows), default=1))
    wide = max(names + BOX_INCHES + lanes + words + 0.4, (NARROW_INCHES - 2 * MARGIN_INCHES) / columns)
    hardware = sorted(dict.fromkeys(row.hardware for row in rows if not row.minor), key=lambda name: name == "host")
    palette = dict(zip([name for name in hardware if name != "host"], TERMS * len(hardware), strict=False)) | {"host": HOST}
    head = 0.24 + LINE_INCHES * (len(hardware) + 0.5)
    figure, axes = canvas(columns * wide + 2 * MARGIN_INCHES, head + a_column * NODE_INCHES + 2 * MARGIN_INCHES)
    with mpl.rc_context(STYLE):
        _draw_head(axes, rows, hardware, palette)
        top = MARGIN_INCHES + head
        places = [
            (_Column(MARGIN_INCHES + index // a_column * wide, names, words, lanes), top + (index % a_column + 0.5) * NODE_INCHES)
            for index in range(len(rows))
        ]
        bottom = top + a_column * NODE_INCHES
        for link in links:
            _draw_link(axes, link, places, trunks, (top, bottom))
        largest = max((row.macs or 0 for row in rows), default=0) or 1
        for row, (column, y) in zip(rows, places, strict=True):
            _draw_row(axes, row, column, y, largest, palette)
    return figure


def _flow(chip: Chip) -> tuple[list[_Row], list[_Link]]:
    """Return the lines of the picture in the order of the call, and the flows between them."""
    layers, products, labels = chip.layers, chip._products(), _labels(chip)
    read = {node for edge in chip._edges for node in (edge.source, edge.target)}
    nodes = [node for node in (*chip._nodes, OUTPUT) if node in read]
    by_name = {row.layer: row for row in chip._rows if row.layer in layers}
    vias = {(edge.source, edge.target): edge.via for edge in chip._edges}
    macs: Counter[tuple[str, str]] = Counter()
    for row in chip._rows:
        macs[row.layer, row.kind] += row.macs or 0
    rows: list[_Row] = []
    place: dict[Node, int] = {}  # where a node begins, and where it ends if it takes several lines
    last: dict[Node, int] = {}
    where: dict[Node, str] = {}
    straight: set[tuple[Node, Node]] = set()
    links: list[_Link] = []
    for before, node in zip((None, *nodes), nodes, strict=False):
        via = vias.get((before, node), ()) if before is not None else ()
        hardware = hardware_of(node, layers, chip.digital, products)
        crosses = before is not None and where[before] != hardware and INPUT not in (before, node) and OUTPUT not in (before, node)
        if before is not None and via:
            rows.append(_Row("", ", ".join(via), "host", 0, True))
            links += [_Link(last.get(before, place[before]), len(rows) - 1, False), _Link(len(rows) - 1, len(rows), crosses)]
            straight.add((before, node))
        place[node], where[node] = len(rows), hardware
        if not node.kind and node.layer not in by_name:
            inside = [row for row in chip._rows if row.layer.startswith(f"{node.layer}.") and row.arrays is None and row.macs]
            beside = sum(row.macs or 0 for row in inside if row.hardware == "host")
            if beside:  # what is computed before the spikes
                rows.append(_Row(node.layer, f"input current, {_macs(beside)}", "host", beside, False))
                links.append(_Link(len(rows) - 1, len(rows), True))
            done = sum(row.macs or 0 for row in inside) - beside
            taken = plural(layers[node.layer].placement.arrays, layers[node.layer].occupies[0])
            rows.append(_Row(node.layer, f"{layers[node.layer].kind}, {_macs(done)}, {taken}", labels[node.layer], done, False))
            last[node] = len(rows) - 1
        elif not node.kind:
            row = by_name[node.layer]
            words = f"{row.kind}, {_macs(row.macs)}, {plural(row.arrays or 0, 'array')}"
            rows.append(_Row(node.layer, words, labels.get(node.layer, row.hardware), row.macs, False))
        elif node.product:
            done = macs[owner(node), node.kind]
            rows.append(_Row(owner(node), f"{node.kind}, {_macs(done)}", hardware, done, False))
        else:
            rows.append(_Row("", node.kind, hardware, 0, True))
    for edge in chip._edges:
        if (edge.source, edge.target) in straight or edge.source == edge.target:
            continue
        ends = INPUT in (edge.source, edge.target) or OUTPUT in (edge.source, edge.target)
        links.append(
            _Link(last.get(edge.source, place[edge.source]), place[edge.target], not ends and where[edge.source] != where[edge.target])
        )
    for name, row in by_name.items():
        if Node(name) not in place:
            rows.append(_Row(name, f"{row.kind}, not called, {plural(row.arrays or 0, 'array')}", labels[name], 0, False))
    return rows, links


def _listed(chip: Chip) -> list[_Row]:
    """Return the lines of the picture in the order of the modules, where no call was seen."""
    rows: list[_Row] = []
    between: Counter[str] = Counter()
    labels = _labels(chip)

    def close() -> None:
        if between:
            rows.append(_Row("", ", ".join(f"{kind} x{count}" if count > 1 else kind for kind, count in between.items()), "host", 0, True))
            between.clear()

    for row in chip._rows:
        if row.arrays is None and row.macs == 0:
            if row.kind not in ("Identity", "Dropout") and not row.hardware.startswith("folded"):
                between[row.kind] += 1
            continue
        close()
        arrays = "" if row.arrays is None else f", {plural(row.arrays, 'array')}"
        rows.append(_Row(row.layer, f"{row.kind}, {_macs(row.macs)}{arrays}", labels.get(row.layer, row.hardware), row.macs, False))
    close()
    return rows


def _macs(number: int | None) -> str:
    if number is None:
        return "MACs unknown"
    return f"{counted(number)}MAC" if number >= 1000 else plural(number, "MAC")


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


def _trunks(links: Sequence[_Link]) -> dict[int, int]:
    """Return a lane in the margin for each line from which numbers flow past others; flows from one line share it."""
    spans: dict[int, tuple[int, int]] = {}
    for link in links:
        if abs(link.target - link.source) > 1:
            first, last = spans.get(link.source, (link.source, link.source))
            spans[link.source] = (min(first, link.target), max(last, link.target))
    lanes: dict[int, int] = {}
    ends: list[list[tuple[int, int]]] = []
    for source, (first, last) in sorted(spans.items(), key=lambda item: item[1][1] - item[1][0]):
        lane = next((i for i, taken in enumerate(ends) if all(last < a or b < first for a, b in taken)), len(ends))
        if lane == len(ends):
            ends.append([])
        ends[lane].append((first, last))
        lanes[source] = min(lane, MOST_LANES - 1)
    return lanes


def _draw_head(axes: Axes, rows: Sequence[_Row], hardware: Sequence[str], palette: dict[str, str]) -> None:
    total = sum(row.macs or 0 for row in rows)
    on = sum(row.macs or 0 for row in rows if row.hardware != "host")
    title = "Multiply-accumulates are not known"
    if total:
        title = f"{cautious(on / total)} of {counted(total)} multiply-accumulates on hardware"
    axes.text(MARGIN_INCHES, MARGIN_INCHES + 0.09, title, fontsize=8, va="center")
    for index, name in enumerate(hardware):
        members = [row for row in rows if row.hardware == name and not row.minor]
        y = MARGIN_INCHES + 0.24 + (index + 0.5) * LINE_INCHES
        axes.add_patch(Rectangle((MARGIN_INCHES, y - 0.045), 0.16, 0.09, facecolor=palette[name], edgecolor="none"))
        share = f", {percent(sum(row.macs or 0 for row in members) / total)} of the MACs" if total else ""
        label = "host (digital)" if name == "host" else name
        axes.text(MARGIN_INCHES + 0.22, y, f"{label}: {plural(len(members), 'layer')}{share}", fontsize=7, va="center")


def _segments(
    link: _Link, places: Sequence[tuple[_Column, float]], lane: int | None, span: tuple[float, float]
) -> Iterator[tuple[list[float], list[float]]]:
    """Yield the lines of a flow: straight to the next line, or out to its lane, along it through the columns, and back in."""
    (start, y0), (stop, y1) = places[link.source], places[link.target]
    if lane is None:
        if start == stop:
            yield [start.middle, start.middle], [y0, y1]
        else:  # over the edge of a column
            yield [start.middle, start.middle], [y0, span[1]]
            yield [stop.middle, stop.middle], [span[0], y1]
        return
    shift = (lane + 0.5) * LANE_INCHES
    yield [start.middle, start.gutter + shift], [y0, y0]
    yield [stop.middle, stop.gutter + shift], [y1, y1]
    if start == stop:
        yield [start.gutter + shift] * 2, [y0, y1]
        return
    passed = dict.fromkeys(column for column, _ in places if start.left <= column.left <= stop.left)
    for column in passed:
        yield [column.gutter + shift] * 2, [y0 if column == start else span[0], y1 if column == stop else span[1]]


def _draw_link(axes: Axes, link: _Link, places: Sequence[tuple[_Column, float]], trunks: dict[int, int], span: tuple[float, float]) -> None:
    near = abs(link.target - link.source) == 1
    lane = None if near else trunks[link.source]
    for xs, ys in _segments(link, places, lane, span):
        axes.plot(xs, ys, color=LINE, linewidth=0.8, zorder=0, solid_capstyle="round")
    if link.crosses:
        column, y = places[link.target]
        x = column.middle if lane is None else column.gutter + (lane + 0.5) * LANE_INCHES
        axes.plot([x], [y - (NODE_INCHES / 2 if lane is None else 0.0)], "D", color="black", markersize=2.6, zorder=3)


def _draw_row(axes: Axes, row: _Row, column: _Column, y: float, largest: int, palette: dict[str, str]) -> None:
    words = shortened(row.words, int(column.words / LETTER_INCHES))
    axes.text(column.text, y, words, fontsize=5.5, va="center", color=MINOR_WORDS if row.minor else WORDS)
    if row.minor:
        axes.plot([column.middle], [y], "o", color=LINE, markersize=2.5, zorder=1)
        return
    wide, tall = max(0.03, BOX_INCHES * (row.macs or 0) / largest), 0.62 * NODE_INCHES
    color = palette[row.hardware]
    axes.add_patch(Rectangle((column.middle - wide / 2, y - tall / 2), wide, tall, facecolor=color, edgecolor="none", zorder=2))
    axes.text(column.left + column.names, y, shortened(row.name, int(column.names / LETTER_INCHES)), fontsize=6, va="center", ha="right")
