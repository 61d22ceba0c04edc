"""Weights made at run time: written into arrays that may be, with what writing takes; refused on those that may not."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import simulator as sim
from devices import RRAMCrossbar, SRAMMacro, SystolicArray
from tests.networks import DynamicConvolution, Hyper

RRAM = RRAMCrossbar.preset("wan_nature_2022")
WRITABLE = SRAMMacro(rows=16, columns=8, input_bits=8, weight_bits=8, output_bits=12, run_time_weights=True)
ARRAY = SystolicArray(rows=8, columns=8, input_bits=8, weight_bits=8)


def made(model: nn.Module, seed: int = 0) -> nn.Module:
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=source) * 0.5)
    return model.eval()


def inputs(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


NETWORKS = {
    "hypernetwork": (lambda: made(Hyper()), inputs(5, 4), 5 * 4 * 3),
    "dynamic convolution": (lambda: made(DynamicConvolution()), inputs(3, 2, 6, 6), 3 * 36 * 6 * 2 * 9),
    "attention": (lambda: nn.MultiheadAttention(8, 2, batch_first=True).eval(), inputs(2, 5, 8), 2 * 2 * 2 * 5 * 5 * 4),
}


def call(model: nn.Module, x: Tensor) -> Tensor:
    result = model(x, x, x) if isinstance(getattr(model, "model", model), nn.Module) and takes_three(model) else model(x)
    return result[0] if isinstance(result, tuple) else result


def takes_three(model: nn.Module) -> bool:
    return any("q_proj" in name or isinstance(module, nn.MultiheadAttention) for name, module in model.named_modules())


def compiled(name: str, design: object, **options: object) -> tuple[nn.Module, sim.Chip, Tensor]:
    make, x, _ = NETWORKS[name]
    model = make()
    examples = (x, x, x) if name == "attention" else (x,)
    return model, sim.compile(model, design, example_inputs=examples, **options), x


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("design", [WRITABLE, ARRAY], ids=["macro", "array"])
def test_products_of_activations_lie_on_hardware_that_may_be_written(name: str, design: SRAMMacro | SystolicArray) -> None:
    model, chip, x = compiled(name, design, strict=True)
    table = chip.coverage
    assert not ((table["hardware"] == "host") & (table["macs"] > 0)).any()
    rows = table[table["reason"].str.contains("made at run time")]
    assert int(rows["macs"].sum()) == NETWORKS[name][2]
    expected, found = call(model, x), call(chip.program(seed=1), x)
    error = float((found - expected).detach().abs().max() / expected.detach().abs().max())
    assert 1e-5 < error < 0.15
    with chip.reference():
        assert torch.allclose(call(chip, x), expected, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_rram_leaves_them_digital_with_the_reason_and_strict_refuses(name: str) -> None:
    _, chip, _ = compiled(name, RRAM)
    assert not chip.products_on_hardware
    table = chip.coverage
    rows = table[(table["hardware"] == "host") & (table["macs"] > 0)]
    assert int(rows["macs"].sum()) == NETWORKS[name][2]
    assert rows["reason"].str.contains("RRAM cells endure few writes, of 8.5 pulses each").all()
    with pytest.raises(ValueError, match=r"^Argument `strict`: [^\n]*endure few writes[^\n]*$"):
        compiled(name, RRAM, strict=True)


def test_rram_that_says_so_is_written_anew_at_every_call() -> None:
    model, chip, x = compiled("hypernetwork", RRAM.replace(run_time_weights=True))
    chip.requires_grad_(False)
    first, second = chip.program(seed=3)(x), chip(x)
    assert not torch.equal(first, second)
    assert torch.equal(chip.program(seed=3)(x), first)
    expected = model(x).detach()
    assert 1e-4 < float((first - expected).abs().max() / expected.abs().max()) < 0.5
    ideal = compiled("hypernetwork", RRAM.replace(run_time_weights=True).ideal())[1]
    assert torch.allclose(ideal(x), model(x), atol=1e-5)


def test_writing_is_paid_at_every_call() -> None:
    design = WRITABLE.replace(joule_per_written_cell=1e-15, row_write_s=1e-9)
    _, chip, x = compiled("hypernetwork", design)
    frame = chip.cost(x)
    rows = frame[(frame["layer"] == "model") & (frame["term"] == "writing weights")]
    # a 4 x 3 matrix, seven bits of magnitude in three digits, sixteen rows one after the other
    assert rows["operations"].tolist() == [4 * 3 * 3] and not rows["once"].any()
    assert rows["energy_j"].iloc[0] == pytest.approx(36e-15) and rows["latency_s"].iloc[0] == pytest.approx(16e-9)
    kept = frame[(frame["layer"] == "maker") & (frame["term"] == "writing weights")]
    assert kept["once"].all()
    assert int(frame["macs"].sum()) == chip.macs
    pulses = compiled("hypernetwork", RRAM.replace(run_time_weights=True))[1].cost(x)
    written = pulses[(pulses["layer"] == "model") & (pulses["term"] == "programming")].iloc[0]
    assert written["energy_j"] == pytest.approx(12 * 2 * 8.5 * 61e-12) and not written["once"]


def test_a_pattern_places_them_apart_from_the_layers() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = inputs(2, 4, 8)
    chip = sim.compile(model, {"self_attn.*_proj": RRAM, "*.scaled_dot_product_attention": WRITABLE}, example_inputs=(x,))
    assert [one.site.name for one in chip.products_on_hardware] == ["self_attn.scaled_dot_product_attention"]
    table = chip.coverage.set_index("layer")
    row = chip.coverage[chip.coverage["kind"] == "scaled_dot_product_attention"].iloc[0]
    # two products of 4 x 4 x 4, in two heads of two sequences; three digits of four outputs are more than eight columns
    assert row["hardware"] == "SRAMMacro" and row["arrays"] == 2 * 2 * 2 * 2 and row["macs"] == 2 * 2 * 2 * 4 * 4 * 4
    assert table.loc["linear1", "hardware"] == "host"
    flows = chip.conversions.set_index(["source", "target"])
    flow = flows.loc[("self_attn.v_proj", "self_attn: scaled_dot_product_attention")]
    assert flow["target_hardware"] == "SRAMMacro" and flow["target_format"] == "codes of the SRAMMacro"
    # A pattern that names layers, too, leaves them digital where its design may not be written.
    broad = sim.compile(model, {"self_attn.*": RRAM}, example_inputs=(x,))
    assert not broad.products_on_hardware
    assert "endure few writes" in broad.coverage[broad.coverage["kind"] == "scaled_dot_product_attention"]["reason"].iloc[0]


def test_hardware_asked_for_that_may_not_be_written_is_refused() -> None:
    x = inputs(2, 4, 8)
    with pytest.raises(
        ValueError, match=r"^Argument `design`: products `self_attn\.scaled[^\n]*RRAMCrossbar cannot: [^\n]*SystolicArray[^\n]*$"
    ):
        sim.compile(nn.TransformerEncoderLayer(8, 2, 16), {"linear1": RRAM, "*.scaled_dot*": RRAM}, example_inputs=(x,))
    with pytest.raises(ValueError, match=r"^Argument `design`: pattern '\*\.bmm' must match a layer[^\n]*$"):
        sim.compile(nn.TransformerEncoderLayer(8, 2, 16), {"linear1": RRAM, "*.bmm": ARRAY}, example_inputs=(x,))


def test_state_and_copies_continue_with_the_same_writes() -> None:
    _, chip, x = compiled("hypernetwork", RRAM.replace(run_time_weights=True))
    chip.program(seed=5)(x)
    other = compiled("hypernetwork", RRAM.replace(run_time_weights=True))[1]
    other.load_state_dict(chip.state_dict())
    assert torch.equal(other(x), chip(x))


def test_gradients_are_those_of_the_exact_product() -> None:
    model, chip, x = compiled("hypernetwork", ARRAY)
    chip.train()
    chip(x).square().sum().backward()
    model(x).square().sum().backward()
    found, expected = chip.layers["maker"].weight.grad, model.maker.weight.grad
    assert float((found - expected).norm() / expected.norm()) < 0.05


def test_a_product_with_a_parameter_is_none_of_them() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.matrix = nn.Linear(4, 4), nn.Parameter(torch.eye(4) * 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.fc(x)
            return torch.einsum("bi,ij->bj", y, self.matrix) + torch.einsum("bi,ci->bc", y, y) @ x

    x = inputs(4, 4)
    chip = sim.compile(made(Mixed()), WRITABLE, example_inputs=(x,))
    assert set(chip.layers) == {"fc", "matrix"}
    assert {one.site.function for one in chip.products_on_hardware} == {"einsum", "mm"}
    assert chip.coverage["macs"].sum() == 4 * 4 * 4 * 4 == chip.macs


def test_a_transposed_convolution_with_made_kernels_stays_digital() -> None:
    class Up(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.maker = nn.Linear(4, 4 * 2 * 3)

        def forward(self, x: Tensor) -> Tensor:
            return F.conv_transpose1d(x, self.maker(x[..., 0]).mean(0).reshape(4, 2, 3))

    chip = sim.compile(made(Up()), WRITABLE, example_inputs=(inputs(2, 4, 5),))
    reason = chip.coverage.set_index("kind").loc["transposed_convolution", "reason"]
    assert "transposed_convolution has no form" in reason
