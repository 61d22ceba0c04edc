"""One model on crossbars, a macro, spiking cores and a digital array at once."""

import copy

import pytest
import torch
from torch import Tensor, nn

import simulator as sim
from devices import RRAMCrossbar, SpikingCore, SRAMMacro, SystolicArray

CORE = SpikingCore.preset("ideal")
RRAM = RRAMCrossbar.preset("wan_nature_2022")


class Four(nn.Module):
    """A stem, a body of ReLUs, a middle and a head."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.stem = nn.Conv2d(1, 4, 3)
            self.body = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 1), nn.ReLU())
            self.middle, self.head = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(torch.relu(self.stem(x)))
        return self.head(torch.relu(self.middle(x.mean((2, 3)))))


X = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(1))
PLACEMENT = {"stem": RRAM, "body": CORE, "middle": SRAMMacro.preset("asscc_2023"), "head": SystolicArray(rows=8, columns=8)}


def four(**options: object) -> tuple[nn.Module, sim.Chip]:
    model = Four().eval()
    return model, sim.compile(model, PLACEMENT, example_inputs=(X,), **{"calibration": X, "timesteps": 256, **options})


def test_every_part_lies_where_it_was_put_and_no_multiply_is_lost() -> None:
    model, chip = four()
    table = chip.coverage
    where = table.set_index("layer")["hardware"].to_dict()
    assert (where["stem"], where["middle"], where["head"]) == ("RRAMCrossbar", "SRAMMacro", "SystolicArray")
    assert where["body.3"] == "NeuromorphicChip" and where["body.1"] == "folded into body.0"
    assert table["macs"].sum() == chip.macs == 6 * (36 * 4 * 9 + 16 * 6 * 36 + 16 * 4 * 6 + 4 * 8 + 8 * 3)
    assert not [warning for warning in chip.warnings if "MACs" in warning]
    with chip.reference():
        assert torch.allclose(chip(X), model(X), atol=1e-4)


def test_nothing_is_said_to_be_unused_and_every_row_has_the_name_of_its_layer() -> None:
    _, chip = four()
    assert not [warning for warning in chip.warnings if "never called" in warning]
    frame = chip.cost(X)
    assert set(frame["layer"]) <= {"model", *(name for name, _ in Four().named_modules()), *chip.coverage["layer"]}
    assert {"body.2", "body.4", "body"} <= set(frame.loc[frame["hardware"] == "NeuromorphicChip", "layer"])
    cores = chip.coverage.set_index("layer")["arrays"]
    assert chip.layers["body"].placement.arrays == 1 == cores["body.2"] == cores["body.4"]  # both on the one core without limits


def test_the_picture_of_the_graph_shows_the_spiking_part_and_what_is_computed_before_it() -> None:
    _, chip = four()
    words = [text.get_text() for text in chip.graph_figure().axes[0].texts]
    inside, beside = 6 * 16 * 4 * 6, 6 * 16 * 6 * 36
    assert f"SpikingNetwork, {inside / 1000:.3g} kMAC, 1 core" in words and f"input current, {beside / 1000:.3g} kMAC" in words
    assert words[0] == f"{1 - beside / chip.macs:.0%} of {chip.macs / 1000:.3g} k multiply-accumulates on hardware"


def test_spiking_rates_come_near_the_float_body() -> None:
    model = Four().eval()
    chip = sim.compile(model, {"body": CORE}, example_inputs=(X,), calibration=X, timesteps=512)
    expected = model(X).detach()
    assert float((chip(X).detach() - expected).abs().max() / expected.abs().max()) < 0.05
    few = sim.compile(model, {"body": CORE}, example_inputs=(X,), calibration=X, timesteps=4)
    assert float((few(X).detach() - expected).abs().max()) > float((chip(X).detach() - expected).abs().max())


def test_conversions_into_spikes_and_back_are_in_table_and_cost() -> None:
    _, chip = four(coding="rate")
    flows = chip.conversions.set_index(["source", "target"])
    into, back = flows.loc[("stem", "body")], flows.loc[("body", "middle")]
    assert into["target_format"] == "rate-coded spikes in 256 time steps" and into["via"] == "relu"
    assert into["source_hardware"] == "RRAMCrossbar" and into["target_hardware"] == "NeuromorphicChip"
    assert back["source_format"] == "a mean over 256 time steps" and back["target_format"] == "4-bit unsigned codes"
    frame = chip.cost(X).set_index(["layer", "term"])
    row = frame.loc[("body", "conversion to rate-coded spikes in 256 time steps")]
    assert row["operations"] == 6 * 4 * 36 * 256
    assert frame.loc[("body", "conversion from a mean over 256 time steps"), "operations"] == 6 * 4 * 16 * 256


def test_a_mixed_chip_is_saved_copied_and_trained_around() -> None:
    _, chip = four()
    first = chip.program(seed=2)(X)
    assert torch.equal(copy.deepcopy(chip).program(seed=2)(X), first)
    other = four()[1]
    other.load_state_dict(chip.state_dict())
    assert torch.equal(other.program(seed=2)(X), first)


@pytest.mark.parametrize(
    ("design", "options", "message"),
    [
        ({"stem": CORE}, {}, "pattern 'stem' must match a module with layers and activations inside"),
        ({nn.Conv2d: CORE}, {}, "spiking cores must be given by the name of a module"),
        ({"body": CORE, "body.0": RRAM}, {}, "layer `body.0` must match one pattern, but lies in `body`, which is on spiking cores, and"),
        ({"body": CORE, "*": RRAM}, {}, r"layer `body.0` must match one pattern, but lies in `body`[^\n]*matches '\*'"),
        ({"body": CORE, nn.Conv2d: RRAM}, {}, r"layer `body.0` must match one pattern[^\n]*matches Conv2d"),
        ({"body": CORE}, {"timesteps": None}, "`timesteps` must be an integer of at least 1"),
        ({"body": CORE}, {"example_inputs": ()}, "`example_inputs` must be given where a module lies on spiking cores"),
    ],
)
def test_a_part_that_cannot_spike_is_refused(design: dict[object, SpikingCore], options: dict[str, object], message: str) -> None:
    given = {"example_inputs": (X,), "timesteps": 8, **options}
    with pytest.raises(ValueError, match=rf"^Argument [^\n]*{message}[^\n]*$"):
        sim.compile(Four().eval(), design, **given)


def test_a_model_without_modules_inside_is_refused_with_what_to_do() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with pytest.raises(ValueError, match=r"^Argument `design`: pattern '\*' must match [^\n]* pass the core alone as `design`"):
        sim.compile(model, {"*": CORE}, example_inputs=(torch.rand(2, 4),), timesteps=4)


def test_linear_layers_of_tokens_spike_beside_other_hardware() -> None:
    generator = torch.Generator().manual_seed(0)
    body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU())
    model = nn.Sequential(nn.Linear(6, 6), body, nn.Linear(6, 3)).eval()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.5
    x = torch.rand(16, 5, 6, generator=generator)
    chip = sim.compile(model, {"0": RRAM.ideal(), "1": CORE}, example_inputs=(x,), calibration=[(x,)], timesteps=256)
    with torch.no_grad():
        exact = model(x)
        assert float((chip(x) - exact).abs().max() / exact.abs().max()) < 0.03
