"""Converters of compiled layers: each output through its own, ranges by column, codes without a sign, and the noise's arithmetic."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import simulator as sim
from devices import ADC, DAC, SAR, OffsetMapping, PolynomialCell, Ramp, RRAMCrossbar, Tabulated
from kernels import Key, set_threads
from tests.crossbars import HIGH, IDEAL, LOW, compiled
from tests.networks import drawn, generator

NOISY = PolynomialCell(g_min_siemens=LOW, g_max_siemens=HIGH, sigma_coefficients_microsiemens=(1.0,), read_noise_fraction=0.05)


@pytest.mark.parametrize("architecture", [SAR(unit_sigma=0.1), Ramp(step_sigma=0.1), Ramp(step_sigma=0.05, offset_sigma_lsb=0.5)])
@pytest.mark.parametrize("layer", [nn.Linear(20, 6, bias=False), nn.Conv2d(2, 6, 3, bias=False)], ids=["linear", "convolution"])
def test_each_output_goes_through_the_converter_of_its_columns(layer: nn.Module, architecture: SAR | Ramp) -> None:
    layer = drawn(layer)
    shape = (9, 20) if isinstance(layer, nn.Linear) else (2, 2, 5, 5)
    x = torch.randn(shape, generator=generator(1))
    # Pairs of columns; four outputs to an array, two outputs to a converter.
    adc = ADC(bits=5, columns_per_adc=4, architecture=architecture)
    chip, found = compiled(layer, x, columns=8, rows=10, adc=adc)
    key = Key.of(seed=0, trial=0, layer=found.name, purpose="converters")
    top = float(layer.weight.detach().abs().max())
    step = float(found.output_ranges[0]) / 15
    total = torch.zeros_like(layer(x).detach())
    for t, tile in enumerate(found.tiles):
        weight = found.operator.tile_weight(layer.weight.detach(), tile) / top
        currents = found.operator(found.operator.tile_inputs(x, tile), weight)
        for output in range(6):
            array, place = divmod(output, 4)
            edges = adc.transfer(key.fold("ADC", t, array), 2).edges[place // 2].double().numpy()
            values = currents.select(1, output).double().numpy() / step
            codes = np.searchsorted(edges, values, side="right") - 15
            total.select(1, output).add_(torch.from_numpy(codes * step * top).float())
    # A current within rounding of a threshold may fall on either side of it.
    wrong = (chip(x).detach() - total).abs() > 1e-3
    assert float(wrong.double().mean()) < 0.02
    uniform = compiled(layer, x, columns=8, rows=10, adc=ADC(bits=5))[0](x)
    assert float((chip(x) - uniform).detach().abs().max()) > 0.9 * step * top


def test_converters_belong_to_the_instance() -> None:
    layer, x = drawn(nn.Linear(20, 6)), torch.randn(9, 20, generator=generator(1))
    chip, _ = compiled(layer, x, adc=ADC(bits=5, architecture=SAR(unit_sigma=0.3)))
    first = chip(x)
    assert torch.equal(chip(x), first)
    assert not torch.equal(chip.program(seed=0, trial=1)(x), first)
    assert torch.equal(chip.program(seed=0, trial=0)(x), first)


@pytest.mark.parametrize("slice_bits", [None, 2])
def test_rows_carry_the_levels_of_their_dac(slice_bits: int | None) -> None:
    layer, x = drawn(nn.Linear(20, 6, bias=False)), torch.randn(9, 20, generator=generator(1))
    bits = slice_bits or 4
    table = tuple(np.random.default_rng(0).uniform(-0.4, 0.4, 2**bits))
    dac = DAC(bits=5, range_policy="fixed", fixed_range=2.0, slice_bits=slice_bits, architecture=Tabulated(inl_lsb=table))
    chip, _ = compiled(layer, x, dac=dac)
    codes = (x / (2.0 / 15)).round().clamp(-15, 15)
    digits = [(codes.abs() // 2 ** (bits * i)) % 2**bits for i in range(4 // bits)]
    # A digit of zero drives nothing.
    levels = [2.0 ** (bits * i) * (digit + torch.tensor(table)[digit.long()] * (digit > 0)) for i, digit in enumerate(digits)]
    driven = sum(levels) * codes.sign() * (2.0 / 15)
    assert torch.allclose(chip(x), functional.linear(driven.float(), layer.weight), atol=1e-4)


@pytest.mark.parametrize("layer", [nn.Linear(20, 6), nn.Conv2d(2, 6, 3, padding=1)], ids=["linear", "convolution"])
def test_a_range_for_each_column_follows_its_currents(layer: nn.Module) -> None:
    layer = drawn(layer)
    with torch.no_grad():
        layer.weight[0] *= 1e-3
    x = torch.randn((50, 20) if isinstance(layer, nn.Linear) else (5, 2, 6, 6), generator=generator(1))
    exact = layer(x).detach()
    errors = {}
    for scope in ("layer", "column"):
        chip, found = compiled(layer, x, adc=ADC(bits=6, range_scope=scope))
        errors[scope] = (chip(x).detach() - exact).transpose(0, 1).flatten(1).abs().amax(1)
        ranges = torch.as_tensor(found.output_ranges[0]).expand(6)
        assert torch.all(errors[scope] <= 0.5 * ranges / 31 * float(layer.weight.detach().abs().max()) * 1.001 + 1e-6)
    assert float(errors["layer"][0] / errors["column"][0]) > 30
    table = chip.ranges
    assert table.loc[0, "converter"] == "ADC, by column" and table.loc[0, "clipped_share"] == 0.0
    assert table.loc[0, "full_scale"] == pytest.approx(float(ranges.max()))


@pytest.mark.parametrize("policy", ["percentile", "mse"])
def test_policies_hold_for_each_column_and_each_slice(policy: str) -> None:
    layer, x = drawn(nn.Linear(20, 3, bias=False)), torch.randn(2000, 20, generator=generator(1))
    dac = DAC(bits=5, slice_bits=2)
    whole, found = compiled(layer, x, dac=dac, adc=ADC(bits=4, range_policy=policy, percentile=90.0, range_scope="column"))
    widest, _ = compiled(layer, x, dac=dac, adc=ADC(bits=4, range_scope="column"))
    codes = (x / (found.input_range / 15)).round()
    top = float(layer.weight.detach().abs().max())
    planes = torch.cat([codes.sign() * (codes.abs() // 4**i % 4) for i in range(2)])
    currents = functional.linear(planes, layer.weight.detach() / top).abs()
    if policy == "percentile":
        assert torch.allclose(torch.as_tensor(found.output_ranges[0]), torch.quantile(currents, 0.9, dim=0), rtol=5e-3)
    exact = compiled(layer, x, dac=dac)[0](x)
    if policy == "mse":
        assert float((whole(x) - exact).detach().square().mean()) < float((widest(x) - exact).detach().square().mean())


def test_codes_without_a_sign_use_every_level_and_say_what_they_clip() -> None:
    layer, x = drawn(nn.Linear(20, 6, bias=False)), torch.rand(50, 20, generator=generator(1))
    errors = []
    for signed in (True, False):
        chip, _ = compiled(layer, x, dac=DAC(bits=4, signed=signed))
        errors.append(float((chip(x) - layer(x)).detach().square().mean()))
        assert chip.warnings == []
    assert errors[1] == pytest.approx(errors[0] * (7 / 15) ** 2, rel=0.15)
    x[:, :5] *= -1
    chip, _ = compiled(layer, x, dac=DAC(bits=4, signed=False))
    assert any("25.0% of its inputs below zero" in warning for warning in chip.warnings)
    assert torch.allclose(chip(x), layer(x.clamp(min=0)), atol=0.3)
    design = RRAMCrossbar(cell=IDEAL, mapping=OffsetMapping(reference="converted"), adc=ADC(bits=12, signed=False))
    positive = x.abs()
    chip = sim.compile(layer, design, example_inputs=(positive,))
    assert torch.allclose(chip(positive), layer(positive), atol=0.02)


def test_ranges_of_each_batch_hold_for_slices_too() -> None:
    layer, x = drawn(nn.Conv2d(3, 4, 3)), torch.randn(40, 3, 9, 9, generator=generator(1))
    fields = {"dac": DAC(bits=9, range_policy="per_batch", slice_bits=4), "mapping": {"weight_bits": 9, "bits_per_cell": 4}}
    chip, _ = compiled(layer, x, **fields, adc=ADC(bits=12, range_policy="per_batch"))
    exact = layer(x).detach()
    assert float((chip(x) - exact).detach().abs().max() / exact.abs().max()) < 0.02
    assert float((chip(100 * x) - layer(100 * x)).detach().abs().max() / exact.abs().max()) < 2.0


def test_bfloat16_variance_keeps_every_deviation_within_what_is_stated() -> None:
    worst = []
    for layer, x in (
        (drawn(nn.Linear(300, 200, bias=False)), torch.randn(64, 300, generator=generator(1))),
        (drawn(nn.Linear(3, 200, bias=False)), torch.randn(64, 3, generator=generator(1))),
        (drawn(nn.Conv2d(8, 16, 3, padding=1, bias=False)), torch.randn(4, 8, 10, 10, generator=generator(1))),
    ):
        found = []
        for arithmetic in ("float32", "bfloat16"):
            _, one = compiled(layer, x, cell=NOISY, noise_arithmetic=arithmetic)
            found.append(one._instance().arrays.terms[0][0].variance(one.operator, x).double())
        ratio = (found[1] / found[0]).sqrt() - 1
        worst.append(float(ratio.abs().max()))
        assert float(ratio.square().mean().sqrt()) < 0.0013
    assert max(worst) < 0.006
    assert min(worst) > 1e-5


@pytest.mark.parametrize(
    "fields", [{}, {"mapping": {"weight_bits": 5, "bits_per_cell": 2}, "dac": DAC(bits=5, slice_bits=1)}], ids=["whole", "sliced"]
)
def test_the_bits_of_a_noisy_read_are_those_of_one_thread(fields: dict[str, Any]) -> None:
    layer, x = drawn(nn.Conv2d(4, 40, 3, padding=1)), torch.randn(33, 4, 16, 16, generator=generator(1))
    chip, _ = compiled(layer, x, cell=NOISY, **fields, adc=ADC(bits=6))
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            set_threads(count)
            found.append(chip.program(seed=1)(x))
    finally:
        torch.set_num_threads(threads)
        set_threads(1)
    assert torch.equal(*found)


def test_a_batch_cut_into_blocks_is_the_same_layer_with_independent_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = drawn(nn.Linear(16, 4, bias=False)), torch.randn(16, generator=generator(1))
    chip, _ = compiled(layer, x, cell=NOISY)
    many = x.expand(6000, 16).contiguous()
    monkeypatch.setattr("simulator.lowering.products.BLOCK", 1000 * 20)
    reads = (chip(many) - layer(many)).detach().double().reshape(6, 1000, 4)
    spread = reads.std(1)
    assert torch.allclose(spread, spread.mean(0).expand_as(spread), rtol=0.1)
    for later in range(1, 6):
        assert abs(float(torch.corrcoef(torch.stack((reads[0, :, 0], reads[later, :, 0])))[0, 1])) < 0.15
    exact, _ = compiled(layer, x, dac=DAC(bits=6), adc=ADC(bits=6))
    cut = exact(many[:2000])
    monkeypatch.undo()
    assert torch.allclose(cut, exact(many[:2000]), atol=1e-5)


@pytest.mark.parametrize(
    "fields", [{}, {"mapping": OffsetMapping(weight_bits=5, bits_per_cell=2), "adc": ADC(bits=6)}], ids=["pairs", "offset"]
)
def test_sharing_between_trials_changes_no_bit(fields: dict[str, Any]) -> None:
    layer, x = drawn(nn.Linear(20, 6)), torch.randn(9, 20, generator=generator(1))
    chip, found = compiled(layer, x, cell=NOISY, **fields)
    shared, keeps = compiled(layer, x, cell=NOISY, **fields)
    keeps.share_between_trials()
    for trial in range(3):
        assert torch.equal(chip.program(seed=2, trial=trial)(x), shared.program(seed=2, trial=trial)(x))
    assert keeps._map() is keeps._map() and found._map() is not found._map()
    with torch.no_grad():
        for one in (found, keeps):
            one.weight.mul_(0.5)
    assert torch.equal(chip.program(seed=2)(x), shared.program(seed=2)(x))


def test_every_cell_has_a_draw_of_its_own() -> None:
    # One draw for each level would leave 15 values a side.
    layer = drawn(nn.Linear(256, 128, bias=False))
    for mapping in ({"weight_bits": 5}, OffsetMapping(weight_bits=5)):
        _, found = compiled(layer, torch.zeros(1, 256), cell=NOISY, mapping=mapping)
        reached = found.cells.conductance
        assert reached.unique().numel() >= 0.95 * reached.numel()
