"""Every way to put weights into cells: exact where nothing errs, and the law of each one's read noise."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import simulator as sim
from devices import ADC, DAC, DesignError, DifferentialMapping, IdealCell, OffsetMapping, PolynomialCell, RRAMCrossbar, SignMagnitudeMapping
from devices.rram import StuckCells, WeightMapping, Wires
from tests import naive
from tests.crossbars import HIGH, IDEAL, LOW, compiled
from tests.naive_crossbar import sliced_read
from tests.networks import drawn, generator

FROM_ZERO = IdealCell(g_min_siemens=0.0, g_max_siemens=HIGH)
NOISY = PolynomialCell(g_min_siemens=LOW, g_max_siemens=HIGH, sigma_coefficients_microsiemens=(0.0,), read_noise_fraction=0.05)
MAPPINGS: dict[str, WeightMapping] = {
    "one-sided": DifferentialMapping(),
    "two-sided": DifferentialMapping(sides="two"),
    "pairs converted": DifferentialMapping(subtraction="digital"),
    "offset": OffsetMapping(),
    "offset converted": OffsetMapping(reference="converted"),
    "offset digital": OffsetMapping(reference="digital"),
    "sign-magnitude": SignMagnitudeMapping(),
}
each = pytest.mark.parametrize("name", MAPPINGS)


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().abs().max() / expected.detach().abs().max())


@each
@pytest.mark.parametrize("scaling", ["layer", "column"])
def test_without_errors_a_layer_equals_float(name: str, scaling: str) -> None:
    mapping = MAPPINGS[name].replace(scaling=scaling)
    cell = FROM_ZERO if name == "sign-magnitude" else IDEAL
    for layer, x in (
        (drawn(nn.Linear(37, 11)), torch.randn(5, 37, generator=generator(1))),
        (drawn(nn.Conv2d(4, 6, 3, padding=1, stride=2, groups=2)), torch.randn(3, 4, 7, 6, generator=generator(1))),
    ):
        chip, _ = compiled(layer, x, cell=cell, mapping=mapping, rows=10, columns=5)
        assert relative(chip(x), layer(x)) < 1e-5
        assert relative(sim.compile(layer, RRAMCrossbar(cell=NOISY, mapping=mapping).ideal(), example_inputs=(x,))(x), layer(x)) < 1e-5


@each
def test_an_array_rounds_each_conversion_by_half_a_step_at_most(name: str) -> None:
    layer, x = drawn(nn.Linear(30, 8, bias=False)), torch.randn(20, 30, generator=generator(1))
    chip, found = compiled(layer, x, cell=FROM_ZERO, mapping=MAPPINGS[name], rows=10, columns=12, adc=ADC(bits=9))
    conversions = 3 * (2 if MAPPINGS[name].separate else 1)
    top = float(layer.weight.detach().abs().max())
    error = float((chip(x) - layer(x)).detach().abs().max())
    step = float(found.output_ranges[0]) / 255 * top
    assert error <= 0.5 * step * conversions * 1.001 + 1e-5
    assert error > 0.1 * step


@settings(max_examples=60, deadline=None)
@example("one-sided", 7, None, 25, 2, 8, None, True, 0)
@given(
    name=st.sampled_from([name for name in MAPPINGS if name != "two-sided"]),
    weight_bits=st.integers(2, 8),
    bits_per_cell=st.none() | st.integers(1, 4),
    rows=st.integers(1, 60),
    columns=st.integers(1, 9),
    input_bits=st.integers(2, 8),
    slice_bits=st.none() | st.integers(1, 4),
    converted=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_slices_of_weights_and_inputs_are_integer_matmul_exactly(
    name: str,
    weight_bits: int,
    bits_per_cell: int | None,
    rows: int,
    columns: int,
    input_bits: int,
    slice_bits: int | None,
    converted: bool,
    seed: int,
) -> None:
    source = np.random.default_rng(seed)
    top, peak = 2 ** (weight_bits - 1) - 1, 2 ** (input_bits - 1) - 1
    weight = source.integers(-top, top + 1, (columns, rows))
    weight[0, 0] = top
    inputs = source.integers(-peak, peak + 1, (6, rows))
    layer = nn.Linear(rows, columns, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
    x = torch.from_numpy(inputs).float()
    # Sums of exact digits: where an ADC follows, its step is one product of digits, and arrays have no more rows than its range holds.
    adc = ADC(bits=16, range_policy="fixed", fixed_range=32767.0) if converted else None
    per_array = max(1, 32767 // (2 * top * peak))
    # A conductance unit that float32 holds exactly keeps digits whole.
    cell = IdealCell(g_min_siemens=0.0, g_max_siemens=1.0)
    mapping = MAPPINGS[name].replace(weight_bits=weight_bits, bits_per_cell=bits_per_cell)
    dac = DAC(bits=input_bits, range_policy="fixed", fixed_range=float(peak), slice_bits=slice_bits)
    chip = sim.compile(layer, RRAMCrossbar(cell=cell, mapping=mapping, dac=dac, adc=adc, rows=per_array), example_inputs=x)
    found = chip(x).detach().double().numpy()
    expected = inputs @ weight.T
    # 1 / 7 is no float32: sums of rounded digits are off by less than the ADC's rounding takes away.
    error = np.abs(found - expected).max()
    assert error <= (1e-5 * max(1, np.abs(expected).max()) if not converted or slice_bits is None else 1e-3)


@pytest.mark.parametrize(("cell_bits", "slices"), [(1, 4), (2, 2), (4, 1)])
@pytest.mark.parametrize(("input_bits", "input_slices"), [(1, 4), (2, 2)])
@pytest.mark.parametrize("digital", [False, True])
def test_each_slice_has_a_conversion_of_its_own(cell_bits: int, slices: int, input_bits: int, input_slices: int, digital: bool) -> None:
    source = np.random.default_rng(0)
    weight, inputs = source.integers(-15, 16, (5, 23)), source.integers(-15, 16, (7, 23))
    weight[0, 0] = 15
    layer = nn.Linear(23, 5, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
    x = torch.from_numpy(inputs).float()
    design = RRAMCrossbar(
        cell=IdealCell(g_min_siemens=0.0, g_max_siemens=1.0),
        rows=8,
        mapping={"weight_bits": 5, "bits_per_cell": cell_bits, "subtraction": "digital" if digital else "analog"},
        dac=DAC(bits=5, range_policy="fixed", fixed_range=15.0, slice_bits=input_bits),
        adc=ADC(bits=4, range_policy="fixed", fixed_range=8.75),
    )
    wanted = sliced_read(
        weight,
        inputs,
        cell_bits=cell_bits,
        slices=slices,
        input_bits=input_bits,
        input_slices=input_slices,
        adc_step=8.75 / 7,
        adc_limit=7,
        rows=8,
        digital_pairs=digital,
    )
    assert np.allclose(sim.compile(layer, design, example_inputs=x)(x).detach().numpy(), wanted, atol=1e-3)


def test_analog_accumulation_converts_the_sum_of_slices_once() -> None:
    layer, x = drawn(nn.Linear(20, 6, bias=False)), torch.randn(50, 20, generator=generator(1))
    fields = {"mapping": {"weight_bits": 7, "bits_per_cell": 2}, "dac": DAC(bits=7, slice_bits=2)}
    exact = compiled(layer, x, **fields)[0](x).detach()
    for switches in ({"analog_weight_slices": True, "analog_input_slices": True}, {"analog_weight_slices": True}, {}):
        chip, found = compiled(layer, x, **fields, **switches, adc=ADC(bits=8))
        error = (chip(x) - exact).detach()
        unit = float(layer.weight.detach().abs().max()) / 63 * float(found.input_range) / 63
        conversions = 1
        if switches == {"analog_weight_slices": True, "analog_input_slices": True}:
            bound = 0.5 * float(found.output_ranges[0]) / 127 * float(layer.weight.detach().abs().max()) / 63
        elif switches:
            bound = sum(4.0**i for i in range(3)) * 0.5 * float(found.output_ranges[0]) / 127 * unit
        else:
            conversions = 9
            bound = sum(4.0 ** (i + s) * 0.5 * float(found.output_ranges[s]) / 127 for i in range(3) for s in range(3)) * unit
        assert len(found.output_ranges) == (3 if not switches else 1)
        assert float(error.abs().max()) <= bound * 1.001 + 1e-5
        assert float(error.abs().max()) > 0.1 * bound / conversions


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 12), st.data())
def test_digits_add_up_to_the_weight_whatever_the_bits_of_each_slice(weight_bits: int, data: st.DataObject) -> None:
    weight = torch.randn(4, 5, generator=generator(1))
    for kind in (DifferentialMapping, OffsetMapping, SignMagnitudeMapping):
        held = weight_bits if kind is OffsetMapping else weight_bits - 1
        parts = []
        while sum(parts) < held:
            parts.append(data.draw(st.integers(1, min(8, held - sum(parts)))))
        mapped = kind(weight_bits=weight_bits, bits_per_cell=tuple(parts)).map(weight, FROM_ZERO, references=int(kind is OffsetMapping))
        total = sum(radix * code for radix, code in zip(mapped.radix, mapped.codes, strict=True)) * mapped.unit
        assert mapped.codes.shape[0] == len(parts)
        assert float((total - weight).abs().max()) <= 0.5001 * float(mapped.unit)
        assert float(mapped.targets_siemens.min()) >= 0.0 and float(mapped.targets_siemens.max()) <= HIGH * 1.000001


def test_clipping_by_percentile_gives_up_the_largest_weights() -> None:
    weight = torch.linspace(-1.0, 1.0, 1001).reshape(7, 143)
    mapped = DifferentialMapping(clip_percentile=90.0).map(weight, IDEAL)
    # 90 % of evenly spread magnitudes lie below 0.9; what lies beyond rests at the end of the range.
    assert float(mapped.unit) == pytest.approx(0.9, abs=2e-3)
    assert torch.allclose(mapped.codes[0] * mapped.unit, weight.clamp(-float(mapped.unit), float(mapped.unit)), atol=1e-6)
    assert float(mapped.targets_siemens.max()) == pytest.approx(HIGH)
    by_column = DifferentialMapping(clip_percentile=100.0, scaling="column").map(weight, IDEAL)
    assert torch.allclose(by_column.unit.flatten(), weight.abs().amax(1))


@pytest.mark.parametrize("reference", ["column", "converted"])
def test_the_noise_of_an_offset_column_is_common_to_all_outputs(reference: str) -> None:
    # Weights near zero: the cells of outputs and reference are alike, so half of each output's variance is the reference's.
    draws, rows = 8000, 40
    layer = drawn(nn.Linear(rows, 5, bias=False))
    x = torch.randn(rows, generator=generator(5))
    # No draw may clip: the range is far beyond what these sums reach.
    adc = ADC(bits=16, range_policy="fixed", fixed_range=500.0) if reference == "converted" else None
    chip, found = compiled(layer, x.expand(3, -1), cell=NOISY, mapping=OffsetMapping(reference=reference), columns=4, adc=adc)
    assert found.references == 2  # three outputs and a reference in the first array, two and a reference in the second
    reads = chip(x.expand(draws, rows).contiguous()).detach().double()
    conductance = found.cells.conductance[0, 0].double()
    scale = 2 / (HIGH - LOW) * float(layer.weight.detach().abs().max())
    own = (0.05 * conductance * scale) ** 2 @ x.double() ** 2
    expected = torch.diag(own[:5])
    for block, outputs in ((0, slice(0, 3)), (1, slice(3, 5))):
        expected[outputs, outputs] += own[5 + block]
    covariance = torch.cov(reads.T)
    spread = torch.sqrt(torch.outer(expected.diag(), expected.diag()))
    assert float(((covariance - expected) / spread).abs().max()) < 0.06
    correlation = torch.corrcoef(reads.T)
    assert 0.4 < float(correlation[0, 1]) < 0.6 and abs(float(correlation[0, 4])) < 0.06


@each
def test_read_noise_is_that_of_every_cell(name: str) -> None:
    draws, rows, outputs = 6000, 30, 3
    layer = drawn(nn.Linear(rows, outputs, bias=False))
    with torch.no_grad():
        layer.weight[:, :5] = 0.0
    x = torch.randn(rows, generator=generator(5))
    mapping = MAPPINGS[name]
    chip, found = compiled(layer, x.expand(2, -1), cell=NOISY, mapping=mapping)
    reads = chip(x.expand(draws, rows).contiguous()).detach().double().numpy()
    cells = found.cells.conductance[0].double()
    top = float(layer.weight.detach().abs().max())
    if name == "sign-magnitude":
        cells, scale = cells * found._map().present[0], top / HIGH
        assert bool((cells[:, :, :5] == 0).all())
    else:
        scale = top * {1: 2.0, 2: 1.0}[cells.shape[0]] / (HIGH - LOW) / (2.0 if name == "two-sided" else 1.0)
        scale *= 2.0 if name == "two-sided" else 1.0
    variance = (0.05 * cells) ** 2 @ x.double() ** 2
    total = variance[:, :outputs].sum(0) + (variance[0, outputs] if found.references else 0.0)
    assert np.allclose(reads.std(0), total.sqrt().numpy() * scale, rtol=0.04)


def test_bit_serial_reads_have_the_noise_of_each_plane() -> None:
    draws, rows = 8000, 30
    layer, x = drawn(nn.Linear(rows, 2, bias=False)), torch.rand(rows, generator=generator(5))
    for bits, analog in ((1, False), (1, True), (2, False), (None, False)):
        dac = DAC(bits=4, signed=False, range_policy="fixed", fixed_range=1.0, slice_bits=bits)
        chip, found = compiled(
            layer, x, cell=NOISY, dac=dac, adc=ADC(bits=16, range_policy="fixed", fixed_range=500.0), analog_input_slices=analog
        )
        reads = chip(x.expand(draws, rows).contiguous()).detach().double()
        codes = torch.round(x.double() * 15)
        base = 2 ** (bits or 4)
        planes = [(codes // base**i % base) for i in range(4 // (bits or 4))]
        power = sum(float(base) ** (2 * i) * plane**2 for i, plane in enumerate(planes)) / 15**2
        scale = float(layer.weight.detach().abs().max()) / (HIGH - LOW)
        expected = (((0.05 * found.cells.conductance[0].double()) ** 2).sum(0) @ power).sqrt() * scale
        assert torch.allclose(reads.std(0), expected, rtol=0.04)


@pytest.mark.parametrize("name", ["offset", "offset converted", "sign-magnitude", "pairs converted"])
def test_wires_are_those_of_the_columns_that_there_are(name: str) -> None:
    ohms = (120.0, 90.0, 40.0, 30.0)
    wires = Wires(row_ohm=ohms[0], column_ohm=ohms[1], source_ohm=ohms[2], sense_ohm=ohms[3])
    layer, x = drawn(nn.Linear(7, 5, bias=False)), torch.randn(4, 7, generator=generator(1))
    chip, _ = compiled(layer, x, cell=FROM_ZERO, mapping=MAPPINGS[name], wires=wires, columns=6)
    weight = layer.weight.detach().double().numpy()
    top, expected = np.abs(weight).max(), []
    per_array = {"offset": 5, "offset converted": 5}.get(name, 3)
    for first in range(0, 5, per_array):
        block = weight[first : first + per_array] / top
        if "offset" in name:
            cells = np.concatenate([(1 + block) / 2, np.full((1, 7), 0.5)]).T * HIGH
            currents, _ = naive.crossbar_currents(cells, x.double().numpy(), *ohms)
            expected.append((currents[:, :-1] - currents[:, -1:]) * 2 * top / HIGH)
        else:
            cells = np.stack([np.maximum(block, 0), np.maximum(-block, 0)], 1).reshape(-1, 7).T * HIGH
            currents, _ = naive.crossbar_currents(cells, x.double().numpy(), *ohms)
            expected.append((currents[:, 0::2] - currents[:, 1::2]) * top / HIGH)
    wanted = np.concatenate(expected, axis=1)
    assert np.abs(chip(x).detach().numpy() - wanted).max() < 5e-6 * np.abs(wanted).max()
    assert relative(chip(x), layer(x)) > 0.02


@each
def test_a_chip_trains_is_saved_and_costs(name: str, tmp_path: Any) -> None:
    layer, x = nn.Sequential(drawn(nn.Linear(12, 6))), torch.rand(9, 12, generator=generator(1))
    design = RRAMCrossbar.preset(
        "wan_nature_2022",
        cell=NOISY,
        mapping=MAPPINGS[name].replace(weight_bits=None if name == "two-sided" else 5),
        dac=DAC(bits=5, slice_bits=2),
        adc=ADC(bits=6, joule_per_step=1e-15),
        stuck=StuckCells(stuck_on_rate=0.01),
    )
    chip = sim.compile(layer, design, example_inputs=x).train()
    chip(x).sum().backward()
    gradient = chip.layers["0"].weight.grad
    assert torch.isfinite(gradient).all() and float((gradient / x.sum(0) - 1).abs().max()) < 0.1
    chip.eval().program(seed=3).age(10.0)
    sim.evaluate(chip, (x, layer(x)), metrics="mae", trials=2)
    other = sim.compile(layer, design, example_inputs=x)
    torch.save(chip.state_dict(), tmp_path / "chip.pt")
    other.load_state_dict(torch.load(tmp_path / "chip.pt", weights_only=True))
    assert torch.equal(other(x), chip(x))
    cost = chip.cost(x).set_index("term")
    slices, planes, width = design.mapping.slices, 2, 2 if design.mapping.separate and name != "offset converted" else 1
    expected = 9 * planes * slices * (6 * width + (name == "offset converted"))
    assert cost.loc["ADC", "energy_j"] == pytest.approx(expected * 64e-15)
    assert cost.loc["cell read", "operations"] == 2 * 9 * 12 * 6


def test_refuses_mappings_that_do_not_fit() -> None:
    for fields, message in (
        ({"columns": 1, "mapping": OffsetMapping()}, "`columns`.*greater|`columns` must be at least 2"),
        (
            {"columns": 3, "mapping": {"weight_bits": 3, "bits_per_cell": 1}},
            "`columns` must be at least 4, a pair for each slice, but got 3",
        ),
        ({"columns": 3, "mapping": OffsetMapping(weight_bits=2, bits_per_cell=1)}, "at least 4, a column and its reference for each slice"),
        ({"mapping": {"bits_per_cell": 2}}, "bits_per_cell` must be absent where `.*weight_bits` is None"),
        ({"mapping": {"weight_bits": 6, "bits_per_cell": (2, 2)}}, r"must add up to the 5 bits that the cells hold, but got \(2, 2\)"),
        ({"mapping": {"weight_bits": 6, "bits_per_cell": 9}}, "from 1 to 8, but got 9"),
        ({"mapping": {"sides": "two", "weight_bits": 6, "bits_per_cell": 1}}, "`.*sides` must be 'one'"),
        ({"analog_weight_slices": True}, "`analog_weight_slices` must be False where weights have one slice"),
        ({"analog_input_slices": True}, "`analog_input_slices` must be False where inputs have no slices"),
    ):
        with pytest.raises(DesignError, match=message):
            RRAMCrossbar(cell=IDEAL, **fields)
