"""One model on several kinds of hardware: where numbers pass from one to another, what they become, and what that takes."""

import pytest
import torch
from torch import Tensor, nn

import simulator as sim
from devices import RRAMCrossbar, SRAMMacro, SystolicArray, VectorUnit
from simulator.batches import Batch
from simulator.capture import capture
from simulator.dataflow import INPUT, OUTPUT, Flow, Node

RRAM = RRAMCrossbar.preset("wan_nature_2022")
MACRO = SRAMMacro.preset("asscc_2023")
ARRAY = SystolicArray(rows=8, columns=8)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.second, self.third = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        return self.third(y + torch.sigmoid(self.second(y)))


X = torch.rand(5, 6, generator=torch.Generator().manual_seed(1))


def mixed(**options: object) -> sim.Chip:
    return sim.compile(Residual(), {"first": RRAM, "second": MACRO, "third": ARRAY}, example_inputs=X, **options)


def test_every_passage_is_a_row() -> None:
    rows = mixed().conversions.drop(columns="values").to_numpy().tolist()
    assert rows == [
        ["input", "first", "host", "RRAMCrossbar", "float32", "8-bit DAC codes", ""],
        ["first", "second", "RRAMCrossbar", "SRAMMacro", "8-bit ADC codes", "4-bit unsigned codes", "relu"],
        ["first", "model: add", "RRAMCrossbar", "host", "8-bit ADC codes", "float32", "relu"],
        ["second", "model: add", "SRAMMacro", "host", "9-bit readout codes", "float32", "sigmoid"],
        ["model: add", "third", "host", "SystolicArray", "float32", "8-bit unsigned codes", ""],
        ["third", "output", "SystolicArray", "host", "32-bit accumulators", "float32", ""],
    ]
    assert mixed().conversions["values"].tolist() == [30, 30, 30, 30, 30, 10]


def test_a_format_is_a_passage_too() -> None:
    unit = VectorUnit(precision="bfloat16")
    table = mixed(digital=unit).conversions.set_index(["source", "target"])
    row = table.loc[("model: add", "third")]
    assert row["source_hardware"] == "VectorUnit" and row["source_format"] == "bfloat16"
    # Two layers on one design pass codes that are converted and converted again.
    same = sim.compile(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), RRAM, example_inputs=torch.rand(2, 4)).conversions
    assert same[["source", "target", "source_format", "target_format"]].to_numpy().tolist()[1] == [
        "0",
        "1",
        "8-bit ADC codes",
        "8-bit DAC codes",
    ]
    ideal = sim.compile(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), RRAM.ideal(), example_inputs=torch.rand(2, 4))
    assert "analog, ideal DAC" in ideal.conversions["target_format"].tolist()


def test_conversions_are_in_the_cost() -> None:
    unit = VectorUnit(joule_per_operation=1e-12, joule_per_byte=1e-13)
    frame = mixed(digital=unit).cost(X).set_index(["layer", "term"])
    for layer, term, values, each, bits in (
        ("first", "conversion to 8-bit DAC codes", 30, 2, 8),
        ("first", "conversion from 8-bit ADC codes", 30, 1, 8),
        ("second", "conversion to 4-bit unsigned codes", 30, 2, 4),
        ("second", "conversion from 9-bit readout codes", 30, 1, 9),
        ("third", "conversion to 8-bit unsigned codes", 30, 2, 8),
        ("third", "conversion from 32-bit accumulators", 10, 1, 32),
    ):
        row = frame.loc[(layer, term)]
        moved = values * 4 + -(-values * bits // 8)
        assert row["operations"] == each * values and row["bytes"] == moved and row["hardware"] == "VectorUnit"
        assert row["energy_j"] == pytest.approx(each * values * 1e-12 + moved * 1e-13)
    free = sim.compile(Residual(), RRAM.ideal(), example_inputs=X).cost(X)
    assert not free["term"].str.contains("conversion").any()


def test_the_mixed_chip_reads_what_each_layer_reads_alone() -> None:
    chip, model = mixed().program(seed=0), Residual()
    with torch.no_grad():
        found = chip(X)
        chip.program(seed=0)
        y = torch.relu(chip.layers["first"](X))
        expected = chip.layers["third"](y + torch.sigmoid(chip.layers["second"](y)))
    assert torch.equal(found, expected)
    assert 1e-3 < float((found - model(X)).detach().abs().max()) < 0.5


def edges(model: nn.Module, *inputs: Tensor) -> set[tuple[Node, Node]]:
    return {(edge.source, edge.target) for edge in capture(model, Batch(inputs)).edges}


def test_flows_meet_where_the_model_adds_and_pass_through_what_has_one_source() -> None:
    first, second, third = (Node(name, "addmm", product=True) for name in ("first", "second", "third"))
    join = Node("model", "add")
    assert edges(Residual(), X) == {
        (INPUT, first), (first, second), (first, join), (second, join), (join, third), (third, OUTPUT),
    }  # fmt: skip


def test_two_parts_of_one_result_do_not_meet_and_what_is_written_in_place_does() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide, self.other = nn.Linear(4, 8), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            a, b = self.wide(x).chunk(2, -1)
            y = a * torch.sigmoid(b)
            y += self.other(x)
            return y

    wide, other, join = Node("wide", "addmm", product=True), Node("other", "addmm", product=True), Node("model", "add")
    assert edges(Gated(), torch.rand(3, 4)) == {(INPUT, wide), (INPUT, other), (wide, join), (other, join), (join, OUTPUT)}


def test_a_flow_keeps_no_numbers_alive() -> None:
    flow = Flow()
    tensor = torch.ones(1000)
    flow.begin([tensor])
    storage = tensor.untyped_storage()
    weak = flow._origins[storage._cdata][0]
    del tensor, storage
    assert weak.expired()


def test_a_loop_over_time_does_not_grow_without_end() -> None:
    class Loop(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.read = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            state = torch.zeros(3)
            for step in x:
                state = torch.tanh(self.cell(state) + self.read(step))
            return state

    assert len(edges(Loop(), torch.rand(200, 3))) < 60
