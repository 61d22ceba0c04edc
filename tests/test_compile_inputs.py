"""What people bring and do: odd models, weights that are none, edits after compiling, autocast, and graphs that cannot be captured."""

import copy
import dataclasses
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import simulator as sim
from devices import DAC, RRAMCrossbar, SRAMMacro, SystolicArray

DESIGN = RRAMCrossbar.preset("wan_nature_2022")
IDEAL = DESIGN.ideal()
FAMILIES = {"crossbar": DESIGN, "macro": SRAMMacro.preset("asscc_2023"), "array": SystolicArray(rows=8, columns=8)}


def inputs(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def quantized() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), {nn.Linear}, dtype=torch.qint8)


def sparse() -> nn.Module:
    layer = nn.Linear(4, 3)
    layer.weight = nn.Parameter(layer.weight.detach().to_sparse())
    return layer


def meta_buffer() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 3))
    model.register_buffer("table", torch.zeros(2, device="meta"))
    return model


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Linear(4, 3, device="meta"), "parameter `weight` must hold numbers, but lies on the meta device; load weights first"),
        (meta_buffer, "buffer `table` must hold numbers, but lies on the meta device"),
        (sparse, "parameter `weight` must be dense, but got torch.sparse_coo; call to_dense"),
        (quantized, "`0` must hold float32 weights, but Linear is quantized; compile the float model"),
        (lambda: nn.Linear(4, 3).to(torch.bfloat16), "parameter `weight` must be float32, but got torch.bfloat16"),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_weights_that_are_no_float32_numbers_are_refused(make: Any, message: str, family: str) -> None:
    with pytest.raises(ValueError, match=rf"^Argument `model`: [^\n]*{message}[^\n]*$"):
        sim.compile(make(), FAMILIES[family])


def scripted() -> nn.Module:
    return torch.jit.script(nn.Sequential(nn.Linear(4, 3)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Linear(4, 3, dtype=torch.complex64), "parameter `weight` must be float32, but got torch.complex64"),
        (scripted, r"`RecursiveScriptModule` must be a module in Python[^\n]*compile the module that it was made of"),
    ],
)
def test_models_of_another_kind_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^Argument `model`:? ?[^\n]*{message}[^\n]*$"):
        sim.compile(make(), DESIGN)


def test_a_model_that_cannot_be_copied_is_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    model.lock = threading.Lock()
    with pytest.raises(ValueError, match=r"^Argument `model` must be a module that copy\.deepcopy can copy[^\n]*lock[^\n]*$"):
        sim.compile(model, DESIGN)


@pytest.mark.parametrize("option", [{"timesteps": 8}, {"method": "light"}, {"coding": "rate"}])
def test_options_that_no_layer_reads_are_refused(option: dict[str, Any]) -> None:
    name = next(iter(option))
    with pytest.raises(ValueError, match=rf"^Argument `{name}` must be left out where no layer lies on spiking cores[^\n]*$"):
        sim.compile(nn.Linear(4, 3), DESIGN, **option)


def test_the_module_inside_of_torch_compile_is_what_is_compiled() -> None:
    model, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval(), inputs(5, 4)
    chip = sim.compile(torch.compile(model), IDEAL, example_inputs=x)
    assert list(chip.layers) == ["0"] and torch.allclose(chip(x), model(x), atol=1e-5)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_an_exported_program_is_a_model_too() -> None:
    model, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU()).eval(), inputs(5, 4)
    chip = sim.compile(torch.export.export(model, (x,)).module(), IDEAL, example_inputs=x)
    assert chip.macs == 60 and torch.allclose(chip(x), model(x), atol=1e-5)
    table = chip.coverage
    assert table.loc[table["macs"] > 0, "hardware"].tolist() == ["RRAMCrossbar"]


def test_calibration_data_may_be_an_iterator() -> None:
    batches = [inputs(5, 4), 2 * inputs(3, 4), inputs(1, 4)]
    layer = nn.Linear(4, 3)
    frame = sim.compile(layer, DESIGN, calibration=iter(batches)).ranges
    assert frame["observations"].tolist() == [36, 27]
    assert frame.equals(sim.compile(layer, DESIGN, calibration=batches).ranges)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_edit_in_place_after_compiling_is_noticed(family: str) -> None:
    x = inputs(5, 4)
    for edit in (
        lambda weight: weight.mul_(2.0),
        lambda weight: weight[0, 1].fill_(7.0),
        lambda weight: weight.data.zero_(),
        lambda weight: weight.copy_(torch.ones(3, 4)),
    ):
        chip = sim.compile(nn.Sequential(nn.Linear(4, 3)), FAMILIES[family], example_inputs=x).program(seed=0)
        before = chip(x)
        with torch.no_grad():
            edit(chip.layers["0"].weight)
        with pytest.raises(RuntimeError, match=r"^Layer `0`: the master weights changed after programming; call program\(\)[^\n]*$"):
            chip(x)
        assert not torch.equal(chip.program(seed=0)(x), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_autocast_is_refused_and_no_grad_is_not(family: str) -> None:
    x = inputs(5, 4)
    chip = sim.compile(nn.Linear(4, 3), FAMILIES[family], example_inputs=x).program(seed=0)
    with torch.autocast("cpu"), pytest.raises(RuntimeError, match=r"^A chip must be called outside of torch\.autocast[^\n]*$"):
        chip(x)
    with torch.autocast("cpu"), pytest.raises(RuntimeError, match=r"autocast"):
        sim.compile(nn.Linear(4, 3), FAMILIES[family], example_inputs=x)
    first = chip.program(seed=0)(x)
    with torch.no_grad():
        assert torch.equal(chip.program(seed=0)(x), first)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_chip_moves_to_the_gpu_and_back(family: str) -> None:
    x = inputs(5, 4)
    chip = sim.compile(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), FAMILIES[family], example_inputs=x).program(seed=0)
    here = chip(x)
    there = copy.deepcopy(chip).to("cuda")
    assert torch.allclose(there.program(seed=0)(x.cuda()).cpu(), here, atol=0.1)
    assert torch.equal(there.to("cpu").program(seed=0)(x), chip.program(seed=0)(x))


def test_hardware_that_cannot_run_a_layer_is_refused_with_the_nearest_that_can() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    with pytest.raises(
        ValueError,
        match=r"^Argument `design`: layer `0` \(Linear\) must lie on hardware[^\n]*DAC cannot: [^\n]*the nearest that can is [^\n]*$",
    ):
        sim.compile(model, {"0": DAC()})


@dataclasses.dataclass
class Detection:
    boxes: Tensor
    scores: list[Tensor]
    names: tuple[str, ...] = ("cat",)


class Odd(nn.Module):
    """Control flow on values, a module under two names, weights by einsum and from a generator, a data class of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.again = nn.Linear(6, 6)
        self.matrices = nn.ParameterList(nn.Parameter(torch.eye(6) + 0.1 * i) for i in range(3))
        self.maker = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 36))
        self.blocks = nn.ModuleDict({"ring": nn.Conv1d(6, 6, 3, padding="same", padding_mode="circular")})

    def layers(self) -> Iterator[Tensor]:
        yield from self.matrices

    def forward(self, x: Tensor, *, deep: bool = True) -> Detection:
        z = self.first(input=x)
        z = self.again(z.relu()) if float(z.detach().sum()) > 0 else self.again(-z)
        z = z @ self.maker(torch.tensor([[0.1, 0.2]])).view(6, 6)
        z = self.blocks["ring"](z[:, :, None].expand(-1, -1, 4)).mean(-1)
        for matrix in self.layers():
            z = torch.einsum("bi,ji->bj", z, matrix) if deep else z
        return Detection(z, [z.softmax(-1), z.argmax(-1)])


def test_an_odd_network_maps_and_equals_float() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Odd().eval()
    x = inputs(5, 6)
    chip = sim.compile(model, IDEAL, example_inputs=(x,))
    found, expected = chip(x), model(x)
    assert isinstance(found, Detection) and found.names == ("cat",)
    assert torch.allclose(found.boxes, expected.boxes, atol=1e-4) and torch.equal(found.scores[1], expected.scores[1])
    assert torch.allclose(chip(x[:2], deep=False).boxes, model(x[:2], deep=False).boxes, atol=1e-4)
    assert set(chip.layers) == {"first", "maker.0", "maker.2", "blocks.ring", "matrices.0", "matrices.1", "matrices.2"}
    table = chip.coverage.set_index("layer")
    assert table.loc["first", "vectors"] == 10  # twice for each of five
    assert table["macs"].sum() == chip.macs == 2 * 180 + 16 + 288 + 180 + 5 * 4 * 6 * 18 + 3 * 180
    words = repr(chip)
    assert words.startswith("Chip of Odd\n  RRAMCrossbar: 7 layers on 7 arrays, ")
    assert "of 3.54 k multiply-accumulates on hardware" in words and "(matrices.1): einsum 6 x 6 on RRAMCrossbar" in words


@pytest.mark.parametrize("equation", ["bi,ij->bj", "bi,ji->bj", "bti,ij->btj", "...i,ij->...j", "bi, ij -> bj"])
def test_an_einsum_with_a_parameter_lies_on_hardware(equation: str) -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = nn.Parameter(inputs(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum(equation, x, self.matrix)

    x = inputs(3, 2, 4) if "t" in equation or "." in equation else inputs(3, 4)
    chip = sim.compile(Sum(), IDEAL, example_inputs=x, strict=True)
    assert torch.allclose(chip(x), Sum()(x), atol=1e-5)
    assert chip.coverage["macs"].sum() == x.numel() * 4


def test_other_sums_with_a_parameter_stay_digital_and_are_counted() -> None:
    class Trace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.matrix = nn.Linear(4, 4), nn.Parameter(inputs(4, 4))

        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("bi,ij,bj->b", self.fc(x), self.matrix, x)

    x, model = inputs(3, 4), Trace()
    chip = sim.compile(model, IDEAL, example_inputs=x)
    assert torch.allclose(chip(x), model(x), atol=1e-5) and set(chip.layers) == {"fc"}
    rows = chip.coverage[chip.coverage["kind"] == "einsum"]
    # One product with the parameter, one of two activations: vectors of four for each of three.
    assert rows["hardware"].eq("host").all() and rows["macs"].tolist() == [3 * 16, 3 * 4]
    assert rows["reason"].iloc[0] == "weights in a form that is not mapped" and "made at run time" in rows["reason"].iloc[1]


def test_strict_refuses_a_contraction_without_a_formula_and_a_digital_product() -> None:
    class Distance(nn.Module):
        def __init__(self, function: Any) -> None:
            super().__init__()
            self.fc, self.function = nn.Linear(4, 4), function

        def forward(self, x: Tensor) -> Tensor:
            return self.function(self.fc(x))

    x = inputs(40, 4)
    for function, word in (
        (lambda y: torch.cdist(y, y), "euclidean_dist"),
        (lambda y: torch.fft.rfft(y).real, "fft"),
        (lambda y: y @ y.t(), "mm"),
    ):
        model = Distance(function)
        row = sim.compile(model, IDEAL, example_inputs=x).coverage
        assert row["kind"].str.contains(word).any()
        with pytest.raises(ValueError, match=rf"^Argument `strict`: every multiply-accumulate must lie on hardware[^\n]*{word}[^\n]*$"):
            sim.compile(model, IDEAL, example_inputs=x, strict=True)


def test_a_model_that_cannot_be_captured_says_which_pass_did_not_run_in_table_and_warnings() -> None:
    class Values(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.norm = nn.Conv1d(2, 2, 1), nn.BatchNorm1d(2)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.convolution(x)) if bool(x.sum() > -1e9) else F.relu(x)

    chip = sim.compile(Values().eval(), IDEAL, example_inputs=(inputs(2, 2, 5),))
    reason = chip.coverage.set_index("layer").loc["norm", "reason"]
    assert "batch-norm folding did not run" in reason and "looks at values in Python" in reason
    assert reason in chip.warnings and reason in repr(chip)
