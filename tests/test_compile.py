"""Compiling: what is mapped, folded, counted and refused, and that the caller's model stays as it was."""

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import simulator as sim
from devices import ADC, DAC, IdealCell, RRAMCrossbar

IDEAL = RRAMCrossbar(cell=IdealCell(g_min_siemens=1e-6, g_max_siemens=40e-6))
PRESET = RRAMCrossbar.preset("wan_nature_2022")


def shaken(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter and statistic a value of its own, so that a dropped one shows."""
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if tensor.is_floating_point():
                positive = name.endswith("running_var")
                values = torch.rand(tensor.shape, generator=source) + 0.5 if positive else torch.randn(tensor.shape, generator=source) * 0.3
                tensor.copy_(values)
    return model.eval()


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.second = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.branch_norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.first(x)))
        z = self.second(y)
        return self.branch_norm(z) + z


class Wayward(nn.Module):
    """Python control flow on values: no graph can be captured."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(2, 2, 1)
        self.norm = nn.BatchNorm1d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)) if float(x.sum()) > -1e9 else x


@pytest.mark.parametrize(
    ("model", "shape", "folded"),
    [
        (
            nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1, groups=2), nn.BatchNorm2d(4)),
            (2, 2, 6, 6),
            {"1", "4"},
        ),
        (nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4, affine=False), nn.Linear(4, 2)), (3, 5), {"1"}),
        (nn.Sequential(nn.Conv3d(1, 2, 2, bias=False), nn.BatchNorm3d(2)), (2, 1, 3, 3, 3), {"1"}),
        (Residual(), (2, 3, 5, 5), {"norm"}),
    ],
)
def test_batch_norm_folds_where_it_alone_follows(model: nn.Module, shape: tuple[int, ...], folded: set[str]) -> None:
    shaken(model)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    chip = sim.compile(model, IDEAL, example_inputs=(x,))
    assert relative_error(chip(x), model(x)) < 1e-5
    rows = chip.coverage.set_index("layer")
    assert {name for name in rows.index if rows.loc[name, "hardware"].startswith("folded into")} == folded


def test_linear_then_batch_norm_over_another_axis_is_not_folded() -> None:
    model = shaken(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)))
    x = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(1))
    chip = sim.compile(model, IDEAL, example_inputs=(x,))
    assert relative_error(chip(x), model(x)) < 1e-5
    assert chip.coverage.set_index("layer").loc["1", "hardware"] == "host"


def test_a_model_that_cannot_be_captured_maps_by_module_and_says_that_folding_did_not_run() -> None:
    model = shaken(Wayward())
    x = torch.randn(2, 2, 5, generator=torch.Generator().manual_seed(1))
    chip = sim.compile(model, IDEAL, example_inputs=(x,))
    assert relative_error(chip(x), model(x)) < 1e-5
    assert any("folding did not run" in warning for warning in chip.warnings)
    assert "folding did not run" in chip.coverage.set_index("layer").loc["norm", "reason"]


def test_a_shared_module_is_one_array_under_all_its_names() -> None:
    shared = nn.Linear(3, 3)
    model = shaken(nn.Sequential(shared, nn.ReLU(), shared))
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    chip = sim.compile(model, IDEAL, example_inputs=(x,))
    assert relative_error(chip(x), model(x)) < 1e-5
    assert chip.model[0] is chip.model[2]
    assert len(chip.layers) == 1
    # Called twice for each of four rows.
    assert chip.coverage.set_index("layer").loc["0", "macs"] == 2 * 4 * 9


def test_coverage_counts_macs_by_hand() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(96, 10), nn.Embedding(3, 3))
    x = torch.rand(5, 4, 8, 8)
    model[4] = nn.Softmax(dim=1)
    table = sim.compile(model, PRESET, example_inputs=(x,)).coverage.set_index("layer")
    assert table.loc["0", "macs"] == 5 * 6 * 16 * 2 * 9
    assert table.loc["3", "macs"] == 5 * 96 * 10
    assert table.loc["4", "hardware"] == "host"
    assert "digital" in table.loc["4", "reason"]


def test_arrays_and_utilization_by_hand() -> None:
    model = nn.Sequential(nn.Linear(600, 300), nn.Linear(300, 10))
    table = sim.compile(model, PRESET, example_inputs=torch.rand(1, 600)).coverage
    # 600 rows in 3 arrays, 300 pairs of columns in 3 arrays of 128 pairs.
    assert table["arrays"].tolist() == [9, 2]
    assert table["utilization"].tolist() == pytest.approx([600 * 600 / (9 * 65536), 300 * 20 / (2 * 65536)])


def test_patterns_place_layers_and_the_rest_stays_digital() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    chip = sim.compile(model, {"[01]": PRESET}, example_inputs=torch.rand(1, 4))
    assert set(chip.layers) == {"0", "1"}
    assert "no pattern" in chip.coverage.set_index("layer").loc["2", "reason"]


def test_the_callers_model_is_untouched_and_shares_storage_until_the_first_write() -> None:
    model = shaken(nn.Sequential(nn.Linear(300, 200), nn.ReLU(), nn.Linear(200, 2)))
    before = copy.deepcopy(model.state_dict())
    x = torch.rand(8, 300)
    chip = sim.compile(model, PRESET, example_inputs=x)
    chip(x)
    address = torch._C._data_address
    assert address(chip.model[0].weight) == address(model[0].weight)
    chip.train()
    optimizer = torch.optim.SGD(chip.parameters(), lr=0.1)
    chip(x).sum().backward()
    optimizer.step()
    assert not torch.equal(chip.model[0].weight, model[0].weight)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])
    with torch.no_grad():
        model[2].weight.zero_()
    assert float(chip.model[2].weight.detach().abs().sum()) > 0


def test_no_global_generator_is_read_or_changed() -> None:
    model = shaken(nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5)))
    pairs = torch.utils.data.TensorDataset(torch.rand(9, 4), torch.zeros(9, dtype=torch.long))
    data = torch.utils.data.DataLoader(pairs, batch_size=4, shuffle=True)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    chip = sim.compile(model, PRESET, calibration=data)
    first = sim.evaluate(chip, data, trials=2)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert sim.evaluate(chip, data, trials=2).frame.equals(first.frame)


def test_without_calibration_data_each_batch_sets_the_range_and_the_chip_says_so() -> None:
    design = RRAMCrossbar(cell=IDEAL.cell, dac=DAC(bits=8), adc=ADC(bits=8))
    chip = sim.compile(nn.Linear(4, 3), design)
    assert len(chip.warnings) == 2
    assert all("each batch's own maximum" in warning for warning in chip.warnings)
    chip.calibrate(torch.rand(5, 4))
    assert not chip.warnings


class Odd(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


@pytest.mark.parametrize(
    ("model", "design", "options", "message"),
    [
        (nn.ReLU(), PRESET, {}, "at least one layer"),
        ("model", PRESET, {}, "must be an nn.Module, but got str"),
        (nn.Linear(2, 2).double(), PRESET, {}, r"`weight` must be float32, but got torch.float64"),
        (nn.Linear(2, 2, device="meta"), PRESET, {}, "meta device"),
        (nn.LazyLinear(2), PRESET, {}, "must be initialized"),
        (nn.Linear(2, 2), {"fc*": PRESET}, {}, "pattern 'fc\\*' must match a layer"),
        (nn.Sequential(nn.Linear(2, 2)), {"0": PRESET, "*": PRESET}, {}, "must match one pattern"),
        (nn.Linear(2, 2), "wan_nature_2022", {}, "must be a design"),
        (nn.Linear(2, 2), PRESET, {"seed": -1}, "`seed` must be an integer of at least 0"),
        (nn.Sequential(nn.Linear(2, 2), Odd(2, 2)), PRESET, {"strict": True}, "`strict` needs example_inputs"),
        (nn.Linear(2, 2), PRESET, {"calibration": []}, "`calibration` must hold at least one batch"),
    ],
)
def test_bad_input_is_one_line(model: object, design: object, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^[^\n]*{message}[^\n]*$"):
        sim.compile(model, design, **options)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(bad: float) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with torch.no_grad():
        model[1].bias[0] = bad
    with pytest.raises(ValueError, match=r"^Argument `model`: parameter `1.bias` must be finite[^\n]*$"):
        sim.compile(model, PRESET)


def test_hooks_before_and_after_a_layer_stay() -> None:
    model = shaken(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)))
    model[0].register_forward_pre_hook(lambda module, arguments: (arguments[0] * 3,))
    model[2].register_forward_hook(lambda module, arguments, outputs: outputs + 1)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    assert relative_error(sim.compile(model, IDEAL, example_inputs=x)(x), model(x)) < 1e-5


@pytest.mark.parametrize("place", ["norm after", "norm before", "convolution after"])
def test_batch_norm_with_hooks_is_not_folded(place: str) -> None:
    model = shaken(nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3)))
    if place == "norm before":
        model[1].register_forward_pre_hook(lambda module, arguments: (arguments[0] * 2,))
    else:
        model[0 if "convolution" in place else 1].register_forward_hook(lambda module, arguments, outputs: outputs * 2)
    x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    chip = sim.compile(model, IDEAL, example_inputs=(x,))
    assert relative_error(chip(x), model(x)) < 1e-5
    assert "hooks" in chip.coverage.set_index("layer").loc["1", "reason"]


def test_a_forward_hung_on_one_instance_is_its_own() -> None:
    model = shaken(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)))
    own = model[0]
    own.forward = lambda x: nn.functional.linear(x * 2, own.weight, own.bias)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    assert relative_error(sim.compile(model, {"1": IDEAL}, example_inputs=x)(x), model(x)) < 1e-5


class ReadsWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.convolution(x)) + self.convolution.weight.sum()


def test_batch_norm_is_not_folded_into_a_weight_that_the_model_reads() -> None:
    model = shaken(ReadsWeight())
    x = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    assert relative_error(sim.compile(model, IDEAL, example_inputs=(x,))(x), model(x)) < 1e-5


class CallsForward(nn.Module):
    """Keeps the forward of a layer instead of the layer: nothing that is exchanged afterwards is called."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)
        self.kept = [nn.Linear(4, 3)]

    def forward(self, x: Tensor) -> Tensor:
        return self.kept[0](x) + nn.functional.linear(x, self.layer.weight, self.layer.bias)


def test_weights_of_a_layer_that_a_function_uses_are_on_hardware() -> None:
    model = shaken(CallsForward())
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))
    chip = sim.compile(model, PRESET, example_inputs=x).program(seed=0)
    assert relative_error(chip(x), model(x)) > 1e-4
    chip.require_reads()


def test_a_chip_that_reads_nothing_is_an_error_when_it_is_evaluated() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)
            self.kept = [self.layer]

        def forward(self, x: Tensor) -> Tensor:
            return self.kept[0](x)

    chip = sim.compile(Hidden(), PRESET)
    with pytest.raises(RuntimeError, match=r"^A chip must read its layers when it is called, but none was read[^\n]*$"):
        sim.evaluate(chip, (torch.rand(5, 4), torch.zeros(5, dtype=torch.long)), trials=1)


def test_numbers_that_torch_did_not_allocate_are_copied() -> None:
    model = nn.Linear(3, 2)
    model.weight.data = torch.from_numpy(np.ones((2, 3), np.float32))
    chip = sim.compile(model, IDEAL, example_inputs=torch.ones(1, 3))
    assert torch.allclose(chip(torch.ones(1, 3)), model(torch.ones(1, 3)))


def _pickled(model: nn.Module, folder: Path) -> nn.Module:
    return pickle.loads(pickle.dumps(model))


def _loaded(model: nn.Module, folder: Path, mmap: bool = False) -> nn.Module:
    torch.save(model, folder / "model.pt")
    return torch.load(folder / "model.pt", weights_only=False, mmap=mmap)


def _mapped(model: nn.Module, folder: Path) -> nn.Module:
    return _loaded(model, folder, mmap=True)


def _assigned(model: nn.Module, folder: Path) -> nn.Module:
    torch.save(model.state_dict(), folder / "state.pt")
    model.load_state_dict(torch.load(folder / "state.pt"), assign=True)
    return model


def _shared(model: nn.Module, folder: Path) -> nn.Module:
    return model.share_memory()


def _views(model: nn.Module, folder: Path) -> nn.Module:
    """Have all parameters lie in one storage, as optimizers and distributed training lay them."""
    flat = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])
    for parameter, part in zip(model.parameters(), flat.split([p.numel() for p in model.parameters()]), strict=True):
        parameter.data = part.view(parameter.shape)
    return model


@pytest.mark.parametrize("bring", [_pickled, _loaded, _mapped, _assigned, _shared, _views], ids=lambda bring: bring.__name__)
def test_model_and_chip_are_trained_and_saved_apart_wherever_the_numbers_lie(
    bring: Callable[[nn.Module, Path], nn.Module], tmp_path: Path
) -> None:
    model = bring(shaken(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))), tmp_path)
    x, targets = torch.rand(16, 4, generator=torch.Generator().manual_seed(1)), torch.arange(16) % 2
    expected = model(x).detach().clone()
    chip = sim.compile(model, IDEAL, calibration=(x,))

    def numbers(of: nn.Module) -> list[Tensor]:
        return [tensor.detach().clone() for tensor in (*of.parameters(), *of.buffers())]

    kept = numbers(model)
    sim.fit(chip.train(), [(x, targets)], epochs=1)
    assert all(map(torch.equal, kept, numbers(model)))
    assert torch.equal(model(x), expected)
    trained = numbers(chip)
    sim.fit(model.train(), [(x, targets)], epochs=1)
    assert all(map(torch.equal, trained, numbers(chip)))
    assert not torch.equal(model.eval()(x), expected)
    for saved in (model, chip):
        stream = io.BytesIO()
        torch.save(saved.state_dict(), stream)
        again = torch.load(io.BytesIO(stream.getvalue()))
        assert all(torch.equal(again[name], value) for name, value in saved.state_dict().items() if isinstance(value, Tensor))


def test_pruned_and_weight_normed_layers_map_with_the_weight_that_they_have() -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.utils.weight_norm(nn.Linear(5, 2)))
    nn.utils.prune.l1_unstructured(model[0], "weight", 0.5)
    x = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))
    model(x)
    chip = sim.compile(model, IDEAL, example_inputs=x)
    assert relative_error(chip(x), model(x)) < 1e-5
    assert len(chip.layers) == 2
    assert [warning.split(":")[0] for warning in chip.warnings] == ["Layer `0`", "Layer `1`"]
    assert all("training moves the result" in warning and "no mask of pruning is kept" in warning for warning in chip.warnings)


@pytest.mark.parametrize("scale", [1e-25, 1e-15, 1e15, 1e20])
def test_tiny_and_huge_weights_have_their_noise(scale: float) -> None:
    model = nn.Linear(16, 2, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.randn(2, 16, generator=torch.Generator().manual_seed(0)) * scale)
    x = torch.rand(16, generator=torch.Generator().manual_seed(1)).expand(2000, 16).contiguous()
    design = PRESET.replace(dac=None, adc=None)
    spread = sim.compile(model, design, example_inputs=x).program(seed=0)(x).detach().double().std(0) / scale
    with torch.no_grad():
        model.weight.div_(scale)
    assert torch.allclose(spread, sim.compile(model, design, example_inputs=x).program(seed=0)(x).detach().double().std(0), rtol=1e-3)


def test_calibration_data_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^Argument `calibration` must lead to finite inputs and outputs[^\n]*$"):
        sim.compile(nn.Linear(3, 2), PRESET, calibration=torch.tensor([[1.0, float("nan"), 0.0]]))


def test_an_example_that_the_model_does_not_take_is_one_line() -> None:
    with pytest.raises(ValueError, match=r"^Argument `example_inputs` must be what the model takes, but its call failed: [^\n]*$"):
        sim.compile(nn.Linear(3, 2), PRESET, example_inputs=torch.rand(2, 5))


def test_a_chip_is_not_compiled_again() -> None:
    chip = sim.compile(nn.Sequential(nn.Linear(3, 2)), PRESET)
    for model in (chip, nn.Sequential(nn.Linear(3, 3), chip)):
        with pytest.raises(ValueError, match=r"^Argument `model`: `[^\n]*` must not be compiled yet, but is[^\n]*$"):
            sim.compile(model, PRESET)
