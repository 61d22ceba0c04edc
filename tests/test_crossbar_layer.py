"""One layer on crossbars: exact where it must be, the right distribution where it is noisy."""

import gc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

import simulator as sim
from devices import ADC, DAC, IdealCell, PolynomialCell, RRAMCrossbar, SRAMMacro, SystolicArray
from simulator.lowering import products, reading
from simulator.operators import row_tiles
from tests.networks import generator

IDEAL = IdealCell(g_min_siemens=1e-6, g_max_siemens=40e-6)
NOISY = PolynomialCell(g_min_siemens=1e-6, g_max_siemens=40e-6, sigma_coefficients_microsiemens=(0.0,), read_noise_fraction=0.05)


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


def random_layer(layer: nn.Module, seed: int = 0) -> nn.Module:
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator(seed)))
    return layer


CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, Tensor]:
    dimensions = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 3))
    inputs, outputs = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    kernel = tuple(draw(st.integers(1, 3)) for _ in range(dimensions))
    dilation = draw(st.integers(1, 2))
    same = draw(st.booleans())
    stride = 1 if same else draw(st.integers(1, 2))
    padding = "same" if same else draw(st.integers(0, 1))
    # Circular padding may not wrap around more than once, and reflection needs a border narrower than the input.
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    layer = CONVOLUTIONS[dimensions](
        inputs,
        outputs,
        kernel,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        padding_mode=mode,
        bias=draw(st.booleans()),
    )
    size = (draw(st.integers(1, 3)), inputs, *[draw(st.integers(6, 8)) for _ in range(dimensions)])
    seed = draw(st.integers(0, 99))
    return random_layer(layer, seed), torch.randn(size, generator=generator(seed + 1))


@settings(max_examples=60, deadline=None)
@given(convolutions(), st.integers(4, 64))
def test_an_ideal_array_equals_float_for_every_convolution(case: tuple[nn.Module, Tensor], rows: int) -> None:
    layer, x = case
    chip = sim.compile(layer, RRAMCrossbar(cell=IDEAL, rows=rows), example_inputs=(x,))
    assert relative_error(chip(x), layer(x)) < 1e-5


@settings(max_examples=30, deadline=None)
@given(convolutions(), st.integers(4, 24))
def test_tiles_add_up_within_half_a_step_each(case: tuple[nn.Module, Tensor], rows: int) -> None:
    layer, x = case
    chip = sim.compile(layer, RRAMCrossbar(cell=IDEAL, rows=rows, adc=ADC(bits=12)), calibration=[(x, None)])
    compiled = next(iter(chip.layers.values()))
    step = compiled.output_ranges[0] / 2047 * float(compiled.weight.detach().abs().max())
    bound = 0.5 * step * len(compiled.tiles) * 1.001 + 1e-5 * float(layer(x).detach().abs().max())
    assert float((chip(x) - layer(x)).detach().abs().max()) <= bound


@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 3, 7)])
def test_a_linear_layer_takes_any_leading_dimensions(shape: tuple[int, ...]) -> None:
    layer = random_layer(nn.Linear(7, 4))
    x = torch.randn(shape, generator=generator(1))
    chip = sim.compile(layer, RRAMCrossbar(cell=IDEAL), example_inputs=(x,))
    assert relative_error(chip(x), layer(x)) < 1e-6


@settings(max_examples=40, deadline=None)
@given(
    st.integers(2, 8),
    st.one_of(st.none(), st.integers(1, 4)),
    st.integers(1, 300),
    st.integers(1, 20),
    st.integers(2, 8),
    st.integers(0, 2**20),
)
def test_bit_slices_with_an_ideal_adc_are_integer_matmul_exactly(
    weight_bits: int, bits_per_cell: int | None, rows: int, columns: int, input_bits: int, seed: int
) -> None:
    source = np.random.default_rng(seed)
    top, peak = 2 ** (weight_bits - 1) - 1, 2 ** (input_bits - 1) - 1
    weight = source.integers(-top, top + 1, (columns, rows))
    weight[0, 0] = top
    inputs = source.integers(-peak, peak + 1, (6, rows))
    layer = nn.Linear(rows, columns, bias=False)
    unit = 0.1
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight * unit))
    mapping = {"weight_bits": weight_bits, "bits_per_cell": bits_per_cell}
    dac = DAC(bits=input_bits, range_policy="fixed", fixed_range=float(peak))
    chip = sim.compile(layer, RRAMCrossbar(cell=IDEAL, mapping=mapping, dac=dac), example_inputs=torch.from_numpy(inputs).float())
    found = chip(torch.from_numpy(inputs).float()).detach().numpy()
    scale = np.float32(layer.weight.detach().abs().max() / top)
    assert np.array_equal(found, (inputs @ weight.T).astype(np.float32) * scale)


def test_slices_hold_the_digits_of_the_magnitude() -> None:
    weight = torch.tensor([[-127.0, 90.0, 0.0, 1.0]])
    mapped = RRAMCrossbar(cell=IDEAL, mapping={"weight_bits": 8, "bits_per_cell": 3}).mapping.map(weight, IDEAL)
    assert mapped.radix == (1.0, 8.0, 64.0)
    assert mapped.codes[:, 0].tolist() == [[-7.0, 2.0, 0.0, 1.0], [-7.0, 3.0, 0.0, 0.0], [-1.0, 1.0, 0.0, 0.0]]
    # -127: every digit in the minus cell, the plus cell at rest.
    assert torch.allclose(mapped.targets_siemens[0, :, 0, 0], torch.tensor([1e-6, 40e-6]))


@pytest.mark.parametrize("sides", ["one", "two"])
@pytest.mark.parametrize("scaling", ["layer", "column"])
def test_a_conductance_error_moves_the_weight_by_its_share_of_the_range(sides: str, scaling: str) -> None:
    weight = torch.tensor([[0.5, -1.0], [0.25, 0.1]])
    mapped = RRAMCrossbar(cell=IDEAL, mapping={"sides": sides, "scaling": scaling}).mapping.map(weight, IDEAL)
    difference = mapped.targets_siemens[0, 0] - mapped.targets_siemens[0, 1]
    assert torch.allclose(difference * mapped.codes_per_siemens, mapped.codes[0], rtol=1e-5)
    assert torch.allclose(mapped.codes[0] * torch.as_tensor(mapped.unit), weight)
    assert float(mapped.targets_siemens.max()) == pytest.approx(40e-6)
    assert float(mapped.targets_siemens.min()) == pytest.approx(1e-6)


def test_read_noise_has_the_law_of_sampling_every_cell() -> None:
    draws, rows = 8000, 40
    layer = random_layer(nn.Linear(rows, 3, bias=False))
    x = torch.randn(rows, generator=generator(5))
    chip = sim.compile(layer, RRAMCrossbar(cell=NOISY), example_inputs=x).program(seed=0)
    found = chip(x.expand(draws, rows).contiguous()).detach().numpy()
    compiled = next(iter(chip.layers.values()))
    # The obvious twin: every cell of every read draws its own Gaussian.
    source = np.random.default_rng(1)
    conductance = compiled.cells.conductance[0].double().numpy()
    weight_per_siemens = float(layer.weight.detach().abs().max()) / 39e-6
    for output in range(3):
        pair = conductance[:, output]
        noise = source.standard_normal((draws, 2, rows)) * 0.05 * pair
        sampled = ((pair[0] + noise[:, 0] - pair[1] - noise[:, 1]) * weight_per_siemens) @ x.double().numpy()
        assert found[:, output].std() / sampled.std() == pytest.approx(1.0, abs=0.03)
        assert stats.ks_2samp(found[:, output], sampled).pvalue > 1e-3
        exact = weight_per_siemens * 0.05 * np.sqrt(((pair**2).sum(0) * x.double().numpy() ** 2).sum())
        assert found[:, output].std() / exact == pytest.approx(1.0, abs=0.03)


def test_noise_of_different_reads_and_outputs_is_independent() -> None:
    layer = random_layer(nn.Linear(16, 2, bias=False))
    x = torch.randn(4000, 16, generator=generator(2))
    chip = sim.compile(layer, RRAMCrossbar(cell=NOISY), example_inputs=x).program(seed=0)
    clean = layer(x)
    first, second = (chip(x) - clean).detach().numpy(), (chip(x) - clean).detach().numpy()
    assert abs(np.corrcoef(first[:, 0], second[:, 0])[0, 1]) < 0.06
    assert abs(np.corrcoef(first[:, 0], first[:, 1])[0, 1]) < 0.06
    assert abs(np.corrcoef(first[:-1, 0], first[1:, 0])[0, 1]) < 0.06


def test_slices_with_noise_collapse_to_the_sum_of_their_variances() -> None:
    layer = random_layer(nn.Linear(30, 2, bias=False))
    design = RRAMCrossbar(cell=NOISY, mapping={"weight_bits": 7, "bits_per_cell": 2})
    x = torch.randn(30, generator=generator(3))
    chip = sim.compile(layer, design, example_inputs=x).program(seed=0)
    compiled = next(iter(chip.layers.values()))
    found = chip(x.expand(6000, 30).contiguous()).detach().double()
    unit = float(layer.weight.detach().abs().max()) / 63
    code = 3 / 39e-6
    conductance = compiled.cells.conductance.double()
    variance = sum(16.0**s * ((0.05 * conductance[s] * code) ** 2).sum(0) for s in range(3)) @ (x.double() ** 2) * unit**2
    assert torch.allclose(found.std(0), variance.sqrt(), rtol=0.04)


def test_the_gradient_of_an_ideal_chip_in_training_is_the_float_gradient() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    x = torch.randn(5, 2, 4, 4, generator=generator(0))
    chip = sim.compile(model, RRAMCrossbar(cell=IDEAL), example_inputs=(x,)).train()
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    model(one).square().sum().backward()
    chip(other).square().sum().backward()
    for expected, found in zip(model.parameters(), chip.parameters(), strict=True):
        assert relative_error(found.grad, expected.grad) < 1e-5
    assert relative_error(other.grad, one.grad) < 1e-5


def test_the_gradient_passes_straight_through_rounding_but_not_beyond_the_range() -> None:
    layer = random_layer(nn.Linear(3, 2, bias=False))
    dac = DAC(bits=3, range_policy="fixed", fixed_range=1.5)
    chip = sim.compile(layer, RRAMCrossbar(cell=IDEAL, dac=dac), example_inputs=torch.zeros(1, 3)).train()
    x = torch.tensor([[0.3, -1.2, 9.0]], requires_grad=True)
    chip(x).sum().backward()
    column_sums = layer.weight.detach().sum(0)
    assert torch.allclose(x.grad, torch.tensor([[float(column_sums[0]), float(column_sums[1]), 0.0]]))
    weight = next(iter(chip.layers.values())).weight
    assert torch.allclose(weight.grad, torch.tensor([[0.5, -1.0, 1.5]]).expand(2, 3))


@pytest.mark.long
def test_training_draws_new_errors_at_every_forward_and_eval_keeps_one_instance() -> None:
    layer = random_layer(nn.Linear(20, 4))
    cell = PolynomialCell(g_min_siemens=1e-6, g_max_siemens=40e-6, sigma_coefficients_microsiemens=(2.0,))
    x = torch.randn(6, 20, generator=generator(1))
    chip = sim.compile(layer, RRAMCrossbar(cell=cell), example_inputs=x)
    assert torch.equal(chip(x), chip(x))
    chip.train()
    errors = torch.stack([chip(x).detach() - layer(x).detach() for _ in range(400)])
    # Two cells of 2 uS each on a range of 39 uS, for every weight.
    expected = 2.0 / 39.0 * np.sqrt(2) * float(layer.weight.detach().abs().max()) * x.norm(dim=1)
    # The truncated law lies a little below at the many cells that rest at 1 uS.
    assert torch.all(errors.std(0).mean(1) < expected)
    assert torch.all(errors.std(0).mean(1) > 0.7 * expected)


@pytest.mark.parametrize(
    ("layer", "bad"),
    [
        (nn.Linear(4, 2), torch.zeros(3, 5)),
        (nn.Linear(4, 2), torch.zeros(3, 4, dtype=torch.float64)),
        (nn.Linear(4, 2), torch.zeros(3, 4, dtype=torch.int64)),
        (nn.Conv2d(3, 2, 1), torch.zeros(1, 4, 5, 5)),
        (nn.Conv2d(3, 2, 1), torch.zeros(3, 5)),
        (nn.Conv2d(3, 2, 1), "picture"),
    ],
)
def test_an_input_that_does_not_fit_is_one_line_with_the_layer_and_what_is_allowed(layer: nn.Module, bad: object) -> None:
    chip = sim.compile(nn.Sequential(layer), RRAMCrossbar(cell=IDEAL))
    with pytest.raises(ValueError, match=r"^Layer `0`: the input must be float32 of shape [^\n]*, but got [^\n]*$"):
        chip(bad)


@given(st.integers(1, 40), st.integers(1, 30), st.integers(1, 50))
def test_row_tiles_cover_every_row_once(channels: int, kernel: int, rows: int) -> None:
    tiles = row_tiles(channels, kernel, rows)
    covered = [(c, k) for tile in tiles for c in range(*tile.channels) for k in range(*tile.kernel)]
    assert sorted(covered) == [(c, k) for c in range(channels) for k in range(kernel)]
    assert all(tile.rows <= rows for tile in tiles)
    assert sum(tile.rows for tile in tiles) == channels * kernel


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("training", [False, True])
def test_refuses_inputs_that_no_converter_has_a_code_for(bad: float, training: bool) -> None:
    layer, x = random_layer(nn.Conv2d(2, 3, 2)), torch.randn(4, 2, 5, 5, generator=generator(1))
    chip = sim.compile(layer, RRAMCrossbar(cell=NOISY, dac=DAC(bits=8), adc=ADC(bits=8)), example_inputs=(x,), calibration=[x])
    chip.train(training)
    x[2, 1, 3, 3] = bad
    with pytest.raises(ValueError, match="Layer `model`: inputs must be finite, but got NaN or infinity"):
        chip(x)


@pytest.mark.parametrize("bad", [float("nan"), float("-inf")])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("design", [SRAMMacro.preset("demonstrator"), SystolicArray.preset("eyeriss_like")], ids=["macro", "digital"])
def test_integers_refuse_them_too(design: SRAMMacro | SystolicArray, bad: float, training: bool) -> None:
    layer, x = random_layer(nn.Conv2d(2, 3, 2)), torch.randn(4, 2, 5, 5, generator=generator(1))
    chip = sim.compile(layer, design, example_inputs=(x,), calibration=[x]).program(seed=0)
    chip.train(training)
    x[2, 1, 3, 3] = bad
    with pytest.raises(ValueError, match="Layer `model`: inputs must be finite, but got NaN or infinity"):
        chip(x)


def test_large_finite_inputs_whose_sum_overflows_are_read() -> None:
    layer, x = random_layer(nn.Linear(4, 3)), torch.full((2, 4), 1.5e38)
    with torch.no_grad():
        layer.weight.mul_(0.1)
    chip = sim.compile(layer, RRAMCrossbar(cell=IDEAL), example_inputs=(torch.ones(2, 4),))
    assert relative_error(chip(x), layer(x)) < 1e-5


def test_images_are_answered_in_the_layout_they_come_in_with_the_same_bits() -> None:
    layer, x = random_layer(nn.Conv2d(6, 8, 3, padding=1)), torch.randn(3, 6, 5, 4, generator=generator(1))
    results = []
    for images in (x, x.to(memory_format=torch.channels_last)):
        chip = sim.compile(layer, RRAMCrossbar(cell=NOISY, rows=30, dac=DAC(bits=8), adc=ADC(bits=8)), example_inputs=(x,)).program(seed=0)
        results.append(chip(images).detach())
        assert results[-1].stride() == layer(images).stride()
    assert torch.equal(*results)


def test_trials_share_the_codes_of_batches_that_come_again_and_keep_their_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = random_layer(nn.Linear(6, 4)), torch.randn(10, 6, generator=generator(1))
    model = nn.Sequential(layer, nn.ReLU(), random_layer(nn.Linear(4, 3)))
    chip = sim.compile(model, RRAMCrossbar(cell=NOISY, dac=DAC(bits=4), adc=ADC(bits=6)), example_inputs=(x,), calibration=[x])
    alone = sim.evaluate(chip, (x, model(x)), metrics="mae", trials=1, batch_size=5)
    rounded: list[int] = []
    codes_of = reading.codes_of
    monkeypatch.setattr(
        reading, "codes_of", lambda operator, values, *rest: (rounded.append(values.shape[1]), codes_of(operator, values, *rest))[1]
    )
    together = sim.evaluate(chip, (x, model(x)), metrics="mae", trials=4, batch_size=5)
    # The first layer's two batches are rounded when they first come and once more to be kept; others are each trial's own.
    assert (rounded.count(6), rounded.count(4)) == (4, 8)
    assert together.frame["mae"][0] == alone.frame["mae"][0]


def test_a_batch_that_changes_in_place_is_rounded_anew() -> None:
    layer, x = random_layer(nn.Linear(6, 4)), torch.randn(5, 6, generator=generator(1))
    chip = sim.compile(layer, RRAMCrossbar(cell=IDEAL, dac=DAC(bits=4)), example_inputs=(x,), calibration=[x])
    (found,) = chip.layers.values()
    for _ in range(3):
        fresh = chip(x)
        found.share_between_trials()
        chip.program(seed=0)
        assert torch.equal(chip(x), fresh) and torch.equal(chip(x), fresh) and torch.equal(chip(x), fresh)
        x.mul_(-0.5)


def test_what_is_kept_beside_a_weight_goes_with_it() -> None:
    layer, x = random_layer(nn.Conv2d(3, 4, 3)), torch.randn(2, 3, 6, 6, generator=generator(1))
    gc.collect()
    before = len(products._PACKED)
    chip = sim.compile(layer, RRAMCrossbar(cell=NOISY, dac=DAC(bits=8), adc=ADC(bits=8)), example_inputs=(x,))
    first = chip(x).detach()
    assert products._PACKED or not products._DNN_IMAGES
    chip.program(seed=chip.seed)
    assert torch.equal(chip(x), first)
    del chip
    gc.collect()
    assert len(products._PACKED) <= before
