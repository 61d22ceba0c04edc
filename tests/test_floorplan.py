"""Pictures of a chip: what they show is what the coverage table says, and every word of them can be read."""

import itertools
import sys

import matplotlib as mpl
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import nn

import simulator as sim
from devices import Hardware, RRAMCrossbar, SRAMMacro
from simulator.figures import encode
from simulator.floorplan import MOST_NAMES, MOST_RECTANGLES, filled
from simulator.flow_figure import BOX_INCHES, NODE_INCHES
from simulator.lowering import lower, weight_layer
from tests import networks
from tests.test_mixed_spiking import four

LARGE = RRAMCrossbar.preset("wan_nature_2022")
SMALL = LARGE.replace(rows=32, columns=16)
SLICED = LARGE.replace(rows=64, columns=64, mapping={"weight_bits": 8, "bits_per_cell": 2})


MACRO = SRAMMacro.preset("asscc_2023")


@pytest.mark.parametrize("design", [LARGE, SMALL, SLICED, MACRO, MACRO.replace(weight_bits=8)])
@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(600, 300), nn.Linear(3, 2), nn.Conv2d(40, 20, 3), nn.Conv2d(24, 24, 3, groups=24), nn.Conv2d(24, 48, 1, groups=4),
        nn.Conv1d(2, 3, 77), nn.Conv3d(6, 4, 3, groups=2),
    ],
)  # fmt: skip
def test_every_array_is_filled_as_far_as_the_utilization_says(design: Hardware, layer: nn.Module) -> None:
    placed = lower(design, weight_layer(layer), "layer", 0)
    arrays = filled(placed)
    assert len(arrays) == placed.placement.arrays
    area = sum((r1 - r0) * (c1 - c0) for shares in arrays for r0, r1, c0, c1 in shares)
    assert area / len(arrays) == pytest.approx(placed.placement.utilization)
    for shares in arrays:
        assert all(0 <= r0 < r1 <= 1 + 1e-9 and 0 <= c0 < c1 <= 1 + 1e-9 for r0, r1, c0, c1 in shares)
        # Blocks of one array share neither rows nor columns.
        for (_, r1, _, c1), (r0, _, c0, _) in itertools.pairwise(shares):
            assert r0 == pytest.approx(r1) and c0 == pytest.approx(c1)


def chip(name: str) -> sim.Chip:
    if name == "one array":
        return sim.compile(nn.Linear(100, 10), LARGE, example_inputs=torch.rand(1, 100))
    if name == "convolutions":
        return sim.compile(networks.plain((16, 32, 64), 3), SMALL, example_inputs=torch.rand(1, 3, 16, 16))
    if name == "no examples":
        return sim.compile(nn.Sequential(nn.Linear(100, 10), nn.ReLU()), LARGE)
    if name == "many layers":
        return sim.compile(nn.Sequential(*(nn.Linear(30, 30) for _ in range(MOST_NAMES + 5))), LARGE, example_inputs=torch.rand(1, 30))
    if name == "four kinds":
        return four()[1]
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 2, 128, batch_first=True), 2)
    return sim.compile(encoder, {"*_proj": SMALL, "*linear1": LARGE}, example_inputs=torch.rand(1, 4, 64))


CHIPS = ("one array", "convolutions", "no examples", "many layers", "transformer", "four kinds")


def check_words(figure: Figure) -> None:
    """Every text lies inside the figure, and no two lie on each other."""
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.axes[0].texts]
    assert boxes
    for box in boxes:
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
    for index, box in enumerate(boxes):
        for other in boxes[index + 1 :]:
            assert not (box.x0 < other.x1 and other.x0 < box.x1 and box.y0 + 1 < other.y1 and other.y0 + 1 < box.y1)


@pytest.mark.parametrize("name", CHIPS)
def test_all_words_can_be_read(name: str) -> None:
    settings = dict(mpl.rcParams)
    compiled = chip(name)
    for figure in (compiled.floorplan(), compiled.graph_figure()):
        check_words(figure)
        assert encode(figure, "png")[:4] == b"\x89PNG"
    assert dict(mpl.rcParams) == settings


def test_no_window_system_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    chip("one array").floorplan()
    assert "matplotlib.pyplot" not in sys.modules


def collections(axes: Axes) -> list[PatchCollection]:
    return [part for part in axes.collections if isinstance(part, PatchCollection)]


def test_a_floorplan_has_a_panel_for_each_design_and_a_square_for_each_array() -> None:
    compiled = chip("transformer")
    axes = compiled.floorplan().axes[0]
    titles = [text.get_text() for text in axes.texts if "of their cells used" in text.get_text()]
    arrays = {name: layer.placement.arrays for name, layer in compiled.layers.items()}
    large = sum(count for name, count in arrays.items() if name.endswith("linear1"))
    assert [title.split("%")[0].rpartition(",")[0] for title in titles] == [
        f"RRAMCrossbar, 32 x 16 cells: {sum(arrays.values()) - large} arrays",
        f"RRAMCrossbar, 256 x 256 cells: {large} arrays",
    ]
    outlines = collections(axes)[0::3]
    assert [len(part.get_paths()) for part in outlines] == [sum(arrays.values()) - large, large]
    for name, layer in compiled.layers.items():
        assert any(text.get_text().startswith(f"{name} ({layer.kind}), {arrays[name]} array") for text in axes.texts)


def test_thousands_of_arrays_are_thinned_and_the_title_says_so() -> None:
    tiny = LARGE.replace(rows=4, columns=4)
    compiled = sim.compile(nn.Sequential(nn.Linear(200, 200), nn.Linear(200, 3)), tiny, example_inputs=torch.rand(1, 200))
    axes = compiled.floorplan().axes[0]
    assert "5 100 arrays" in axes.texts[0].get_text() and "a square stands for 4" in axes.texts[0].get_text()
    assert len(collections(axes)[0].get_paths()) <= MOST_RECTANGLES


def test_the_graph_is_as_wide_as_the_macs_and_colored_by_hardware() -> None:
    compiled = chip("transformer")
    axes = compiled.graph_figure().axes[0]
    boxes = [patch for patch in axes.patches if isinstance(patch, Rectangle) and patch.get_height() == pytest.approx(0.62 * NODE_INCHES)]
    table = compiled.coverage[compiled.coverage["macs"] > 0]
    assert len(boxes) == len(table)
    widths = sorted(box.get_width() for box in boxes)
    assert widths == pytest.approx(sorted(max(0.03, BOX_INCHES * macs / table["macs"].max()) for macs in table["macs"]))
    colors = [box.get_facecolor() for box in sorted(boxes, key=lambda box: box.get_y())]
    assert len(set(colors)) == 3
    # Wherever numbers pass from one hardware to another there is a diamond.
    flows = compiled.conversions
    inside = ~flows["source"].eq("input") & ~flows["target"].eq("output") & flows["source_hardware"].ne(flows["target_hardware"])
    assert sum(line.get_marker() == "D" for line in axes.lines) == inside.sum() > 4
    on = table.loc[table["hardware"] != "host", "macs"].sum() / table["macs"].sum()
    assert axes.texts[0].get_text().startswith(f"{on:.0%} of ")


def test_a_little_that_is_left_out_is_not_rounded_away() -> None:
    model = nn.Sequential(nn.Linear(300, 300), nn.Linear(300, 1))
    figure = sim.compile(model, {"0": LARGE}, example_inputs=torch.rand(1, 300)).graph_figure()
    assert figure.axes[0].texts[0].get_text().startswith("99.6% of 90.3 k ")


def test_products_of_a_module_stand_behind_the_layers_inside_it() -> None:
    axes = chip("transformer").graph_figure().axes[0]
    place = {text.get_text(): text.get_position()[1] for text in axes.texts}
    assert place["layers.0.self_attn"] > place["layers.0.self_attn.v_proj"]
    assert place["layers.0.self_attn"] < place["layers.0.linear1"] < place["layers.1.self_attn.q_proj"]


def test_macs_that_are_not_known_are_not_zero_percent() -> None:
    axes = chip("no examples").graph_figure().axes[0]
    assert axes.texts[0].get_text() == "Multiply-accumulates are not known"
    assert any("MACs unknown" in text.get_text() for text in axes.texts)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.side = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.first(x))) + self.side(x)


def test_lines_follow_the_numbers_and_not_the_order_of_the_modules() -> None:
    compiled = sim.compile(Block(), LARGE, example_inputs=torch.rand(2, 8))
    axes = compiled.graph_figure().axes[0]
    place = {text.get_text(): round(text.get_position()[1], 3) for text in axes.texts}
    words = ["input", "first", "relu", "second", "side", "add", "output"]
    assert sorted(words, key=lambda word: place[word]) == words
    straight = {
        tuple(round(float(y), 3) for y in line.get_ydata())
        for line in axes.lines
        if len(line.get_xdata()) == 2 and line.get_xdata()[0] == line.get_xdata()[1] and line.get_marker() != "D"
    }
    flows = {
        ("input", "first"),
        ("first", "relu"),
        ("relu", "second"),
        ("second", "add"),
        ("side", "add"),
        ("input", "side"),
        ("add", "output"),
    }
    assert straight == {(place[source], place[target]) for source, target in flows}


def test_a_layer_that_is_not_called_is_in_the_picture() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    figure = sim.compile(Half(), LARGE, example_inputs=torch.rand(1, 4)).graph_figure()
    assert "Linear, not called, 1 array" in [text.get_text() for text in figure.axes[0].texts]
    check_words(figure)


def test_four_kinds_of_hardware_have_their_own_words_and_numbers_in_the_order_of_the_model() -> None:
    _, chip = four()
    words = [text.get_text() for text in chip.floorplan().axes[0].texts]
    assert {"NeuromorphicChip: 1 core, 100% of its neurons used", "body (SpikingNetwork), 1 core, 100%"} <= set(words)
    assert any(word.startswith("SystolicArray, 8 x 8 cells: 1 layer in turn, ") for word in words)
    names = [word.partition(" ")[0] for word in words if word.endswith("%") and "(" in word]
    assert names == ["stem", "body", "middle", "head"]
    assert "  NeuromorphicChip: 1 layer on 1 core, 100% of their neurons used" in repr(chip).splitlines()
    assert "  SystolicArray: 1 layer in turn on 1 array, " in repr(chip)
