"""One layer on SRAM macros: exact integers where there are no errors, one chip a trial, and a gradient that passes through."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import simulator as sim
from devices import BitLines, SRAMMacro
from simulator.lowering.integer import least_squares_step, limits, tile_matrix, tile_rows, untile_matrix
from simulator.lowering.macro import MacroLayer
from simulator.operators import LinearOperator, row_tiles
from tests.test_crossbar_layer import convolutions, generator, random_layer, relative_error

LINES = BitLines(branch_current_ampere="2 uA", bit_line_farad="100 fF", lsb_pulse_s="50 ps")
NOISY = SRAMMacro(branch_sigma=0.05, lines=LINES, thermal_noise=True)


def only(chip: sim.Chip) -> MacroLayer:
    layer = next(iter(chip.layers.values()))
    assert isinstance(layer, MacroLayer)
    return layer


@settings(max_examples=60, deadline=None)
@given(convolutions(), st.integers(4, 40))
def test_rows_of_tiles_times_their_matrices_are_the_convolution(case: tuple[nn.Module, Tensor], rows: int) -> None:
    layer, x = case
    operator = LinearOperator.of(layer)
    padded = nn.functional.pad(operator.surround(x), [w for p in reversed(operator.padding) for w in (p, p)])
    total, weight = 0, torch.zeros_like(layer.weight)
    for tile in row_tiles(layer.weight.shape[1], layer.weight[0, 0].numel(), rows):
        matrix = tile_matrix(layer.weight.detach(), operator.groups, tile)
        untile_matrix(matrix, weight, tile)
        total = total + torch.bmm(tile_rows(operator, padded, tuple(layer.weight.shape[2:]), tile), matrix)
    expected = operator(operator.surround(x), layer.weight.detach())
    found = total.transpose(0, 1).flatten(1).reshape(len(x), *expected.shape[2:], -1).movedim(-1, 1)
    assert relative_error(found, expected) < 1e-5
    assert torch.equal(weight, layer.weight.detach())


@settings(max_examples=25, deadline=None)
@given(convolutions(), st.booleans(), st.booleans(), st.sampled_from(["mid_tread", "mid_rise"]), st.sampled_from([4, 6, 8]))
def test_a_layer_without_errors_is_integers_within_half_a_step_a_conversion(
    case: tuple[nn.Module, Tensor], folding: bool, positive: bool, readout: str, bits: int
) -> None:
    layer, x = case
    x = x.abs() if positive else x
    design = SRAMMacro(rows=27, mac_folding=folding, readout=readout, input_bits=bits, weight_bits=bits, output_bits=12, boost=1)
    chip = sim.compile(layer, design, example_inputs=(x,))
    compiled = only(chip)
    weights, unit = compiled.weight_codes()
    codes, step = compiled.input_codes(compiled.operator.surround(x))
    assert compiled.signed == (float(x.min()) < 0)
    exact = compiled.operator(codes.double(), weights.double())
    shape = (-1, *[1] * compiled.operator.dimensions)
    bias = 0 if layer.bias is None else layer.bias.detach().double().reshape(shape)
    found = (chip(x).detach().double() - bias) / (unit.double().reshape(shape) * step)
    places = sum(16**i * 8**j for i in range(design.input_places) for j in range(design.weight_places))
    bound = 1.001 * design.step() * places * len(compiled.tiles) * (0.5 if readout == "mid_tread" else 1.0)
    assert float((found - exact).abs().max()) <= bound + 1e-5 * float(exact.abs().max())


def test_one_row_group_equals_mac() -> None:
    layer = random_layer(nn.Linear(40, 5, bias=False))
    x = torch.rand(30, 40, generator=generator(1))
    design = SRAMMacro(boost=4, mac_folding=True)
    compiled = only(chip := sim.compile(layer, design, example_inputs=x))
    weights, unit = compiled.weight_codes()
    codes, step = compiled.input_codes(x)
    expected, scale = design.mac(codes.long(), weights.T.contiguous().long())
    assert torch.allclose(chip(x), expected * scale * unit * step, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(7,), (5, 7), (2, 3, 7)])
def test_a_linear_layer_takes_any_leading_dimensions(shape: tuple[int, ...]) -> None:
    layer, x = random_layer(nn.Linear(7, 4)), torch.randn(shape, generator=generator(1))
    chip = sim.compile(layer, SRAMMacro(rows=7, output_bits=12, input_bits=12, weight_bits=12), example_inputs=(x,))
    assert chip(x).shape == layer(x).shape
    assert relative_error(chip(x), layer(x)) < 0.02


def test_eight_bits_come_close_to_float_and_four_to_eight() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=4), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5)
    )
    random_layer(model)
    x = torch.rand(20, 3, 8, 8, generator=generator(2))
    errors = [
        relative_error(sim.compile(model, SRAMMacro(input_bits=bits, weight_bits=bits), calibration=[(x, None)])(x), model(x))
        for bits in (4, 8)
    ]
    assert errors[1] < 0.06 and errors[1] < 0.5 * errors[0] < 0.2


def test_calibration_chooses_the_gain_with_the_least_error_and_reports_what_clips() -> None:
    layer, x = random_layer(nn.Linear(256, 32, bias=False)), torch.rand(200, 256, generator=generator(3)).relu() ** 3
    chosen = only(chip := sim.compile(layer, SRAMMacro(), example_inputs=x))
    weights, unit = chosen.weight_codes()
    codes, step = chosen.input_codes(x)
    exact = codes @ weights.T * unit * step
    errors = {}
    for boost in (1, 2, 4, 8, 16, 32, 64, 128, 256, chosen.boost):
        fixed = sim.compile(layer, SRAMMacro(boost=boost), example_inputs=x)
        errors[boost] = float(((fixed(x) - exact) ** 2).mean().detach())
    assert errors[chosen.boost] <= 1.05 * min(errors.values())
    assert 1 < chosen.boost < 256
    assert chosen.clipped is not None and chosen.clipped < 0.05
    strong = only(sim.compile(layer, SRAMMacro(boost=128), example_inputs=x))
    assert strong.clipped is not None and 0.05 < strong.clipped < 1
    assert "boost 128" in strong.placement.note
    readout = chip.ranges.set_index("converter").loc["readout"]
    assert (readout["policy"], readout["clipped_share"]) == ("least squares", chosen.clipped)
    assert f"boost {chosen.boost}, {chosen.clipped:.2%} of calibration's conversions clip" in chosen.placement.note
    assert float(((chip(x) - exact) ** 2).mean().detach()) == pytest.approx(errors[chosen.boost])


def test_the_step_of_inputs_has_the_least_error() -> None:
    from simulator.calibration import RangeObserver

    values = torch.randn(20000, generator=generator(0)).abs()
    values[0] = 40.0
    observer = RangeObserver()
    observer.add(values)
    step = least_squares_step(observer, 15)

    def error(size: float) -> float:
        return float(((torch.round(values / size).clamp(max=15) * size - values) ** 2).mean())

    assert error(step) < 1.1 * min(error(size) for size in np.linspace(0.05, 2.7, 200))
    assert limits(8, True) == (-127, 127)


def test_mismatch_belongs_to_a_trial_and_noise_to_a_read() -> None:
    layer, x = random_layer(nn.Linear(100, 6)), torch.rand(40, 100, generator=generator(1))
    static = sim.compile(layer, SRAMMacro(branch_sigma=0.1), example_inputs=x).program(seed=1)
    first = static(x)
    assert torch.equal(first, static(x))
    assert not torch.equal(first, static.program(seed=1, trial=1)(x))
    assert torch.equal(first, static.program(seed=1)(x))
    noisy = sim.compile(layer, NOISY, example_inputs=x).program(seed=1)
    one, two = noisy(x), noisy(x)
    assert not torch.equal(one, two)
    assert torch.equal(one, noisy.program(seed=1)(x))
    noisy.age(3600.0)


def test_evaluate_and_copies_give_the_same_bits() -> None:
    layer, x = random_layer(nn.Linear(100, 6)), torch.rand(40, 100, generator=generator(1))
    chip = sim.compile(layer, NOISY, example_inputs=x).program(seed=3, trial=2)
    other = copy.deepcopy(chip)
    fresh = sim.compile(layer, NOISY, example_inputs=torch.rand(3, 100))
    fresh.load_state_dict(chip.state_dict())
    expected = chip(x)
    assert torch.equal(other(x), expected)
    assert torch.equal(fresh(x), expected)
    result = sim.evaluate(chip, (x, layer(x).argmax(1)), trials=3, seed=0)
    assert len(result.frame) == 3 and result.reference == {"accuracy": 1.0}


def test_changed_masters_ask_for_programming() -> None:
    layer, x = random_layer(nn.Linear(4, 2)), torch.rand(3, 4, generator=generator(1))
    chip = sim.compile(layer, SRAMMacro(), example_inputs=x)
    chip(x)
    with torch.no_grad():
        only(chip).weight.mul_(2.0)
    with pytest.raises(RuntimeError, match=r"call program\(\)"):
        chip(x)
    chip.program(seed=0)(x)


def test_the_gradient_passes_straight_through_rounding_but_not_beyond_the_range() -> None:
    torch_layer = random_layer(nn.Conv2d(2, 3, 3, padding=1))
    x = torch.rand(2, 2, 5, 5, generator=generator(3))
    chip = sim.compile(torch_layer, SRAMMacro(input_bits=8, weight_bits=8, output_bits=12), example_inputs=x).train()
    compiled = only(chip)
    probe = x.clone()
    probe[0, 0, 0, 0], probe[0, 0, 0, 1] = 9.0, -1.0
    probe.requires_grad_()
    chip(probe).square().sum().backward()
    twin = probe.detach().clone().requires_grad_()
    torch_layer(twin.clamp(0, 255 * compiled.input_step)).square().sum().backward()
    assert probe.grad[0, 0, 0, 0] == 0 and probe.grad[0, 0, 0, 1] == 0
    assert relative_error(probe.grad, twin.grad) < 0.05
    assert relative_error(compiled.weight.grad, torch_layer.weight.grad) < 0.05


def test_training_draws_new_mismatch_at_every_forward() -> None:
    layer, x = random_layer(nn.Linear(20, 4)), torch.rand(6, 20, generator=generator(1))
    chip = sim.compile(layer, SRAMMacro(cell_sigma=0.1, output_bits=12, input_bits=8, weight_bits=8), example_inputs=x).train()
    errors = torch.stack([chip(x).detach() - layer(x).detach() for _ in range(100)])
    expected = 0.1 * ((x**2) @ (layer.weight.detach() ** 2).T).sqrt()
    # A weight is three digits here, each in a cell of its own.
    assert torch.all(errors.std(0) < 1.3 * expected) and torch.all(errors.std(0) > 0.6 * expected)


def test_cost_counts_what_is_given_and_names_what_is_not() -> None:
    layer, x = nn.Linear(100, 10), torch.rand(8, 100, generator=generator(1))
    chip = sim.compile(layer, SRAMMacro.preset("asscc_2023"), example_inputs=x)
    frame = chip.cost(x).set_index("term")
    assert frame.loc["MAC and readout", "energy_j"] == pytest.approx(8 * 1000 * 14.5e-15, rel=0.01)
    assert frame.loc["MAC and readout", "operations"] == 2 * chip.macs == 16000
    assert frame.loc[~frame["static"], "latency_s"].isna().all() and "not given" in frame.loc["MAC and readout", "note"]
    wide = sim.compile(layer, SRAMMacro.preset("asscc_2023", input_bits=8, weight_bits=8, read_s=1e-8, area_m2=1e-8), example_inputs=x)
    rows = wide.cost(x).set_index("term")
    assert rows.loc["MAC and readout", "energy_j"] == pytest.approx(6 * frame.loc["MAC and readout", "energy_j"])
    assert rows.loc["MAC and readout", "latency_s"] == pytest.approx(8 * 2 * 1e-8)
    assert rows.loc["MAC and readout", "area_m2"] == pytest.approx(2e-8)
    total = sim.totals(wide.cost(x))["energy_j"]
    assert total.partial and "leakage" in total.missing


def test_macros_are_counted() -> None:
    layer = nn.Conv2d(8, 8, 3, groups=8)
    placement = only(sim.compile(layer, SRAMMacro(rows=64, columns=64), example_inputs=torch.rand(1, 8, 5, 5))).placement
    assert placement.arrays == 2 and placement.utilization == pytest.approx(72 / (2 * 64 * 64))
    linear = only(sim.compile(nn.Linear(130, 100), SRAMMacro(rows=64, columns=64, weight_bits=8), example_inputs=torch.rand(1, 130)))
    assert linear.placement.arrays == 3 * 5


def test_without_data_the_range_is_each_batch_own_and_a_warning_says_so() -> None:
    chip = sim.compile(nn.Linear(4, 2), SRAMMacro())
    assert any("range policy" in warning for warning in chip.warnings)
    assert chip(torch.randn(3, 4)).shape == (3, 2)


@pytest.mark.parametrize(
    ("layer", "bad"), [(nn.Linear(4, 2), torch.zeros(3, 5)), (nn.Linear(4, 2), torch.zeros(3, 4).long()), (nn.Conv2d(3, 2, 1), "picture")]
)
def test_an_input_that_does_not_fit_is_refused_in_a_line(layer: nn.Module, bad: object) -> None:
    chip = sim.compile(nn.Sequential(layer), SRAMMacro())
    with pytest.raises(ValueError, match=r"^Layer `0`: the input must be float32 of shape [^\n]*, but got [^\n]*$"):
        chip(bad)
