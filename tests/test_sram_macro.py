"""The SRAM macro: exact without errors, the right law with each of them, and the circuit that it stands for."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from devices import BitLines, Corner, Design, DesignError, SRAMMacro, sources_of
from devices.sram import fabricate, input_digits, weight_digits
from kernels.random import Key
from tests import naive
from tests.bit_lines import Circuit

KEY = Key.of(seed=5, purpose="macro")
LINES = BitLines(branch_current_ampere="2 uA", bit_line_farad="100 fF", lsb_pulse_s="50 ps")


def integers(shape: tuple[int, ...], low: int, high: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(low, high + 1, shape))


def expected_code(product: int, full_scale: int, boost: int, readout: str, bits: int = 9) -> float:
    """Round one product in integer arithmetic: one code is full_scale / 2^(bits - 1) / boost."""
    half = 2 ** (bits - 1)
    numerator, denominator = product * half * boost, full_scale
    if readout == "mid_rise":
        return min(max(numerator // denominator, -half), half - 1) + 0.5
    return float(min(max((2 * numerator + denominator) // (2 * denominator), 1 - half), half - 1))


@pytest.mark.parametrize("readout", ["mid_rise", "mid_tread"])
@pytest.mark.parametrize("search", ["binary_search", "ramp"])
@pytest.mark.parametrize("folding", [False, True])
@pytest.mark.parametrize("rows", [1, 2])
def test_a_column_of_four_by_four_bits_is_integer_arithmetic_for_all_inputs(readout: str, search: str, folding: bool, rows: int) -> None:
    macro = SRAMMacro(rows=64, readout=readout, search=search, mac_folding=folding, boost=24)
    values = list(itertools.product(range(16), repeat=rows))
    columns = list(itertools.product(range(-7, 8), repeat=rows))
    inputs, weights = torch.tensor(values), torch.tensor(columns).T.contiguous()
    codes, scale = macro.mac(inputs, weights)
    fold = 8 if folding else 0
    products = (inputs - fold) @ weights
    table = {product: expected_code(product, macro.full_scale, 24, readout) for product in products.unique().tolist()}
    expected = torch.tensor([[table[product] for product in row] for row in products.tolist()])
    assert torch.equal(codes, expected + weights.sum(0).float() * (fold / scale))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 130),
    columns=st.integers(1, 20),
    batch=st.integers(1, 9),
    bits=st.integers(2, 12),
    boost=st.integers(1, 64),
    readout=st.sampled_from(["mid_rise", "mid_tread"]),
    folding=st.booleans(),
    signed=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_large_macros_without_errors_are_integer_arithmetic(rows, columns, batch, bits, boost, readout, folding, signed, seed) -> None:
    macro = SRAMMacro(rows=rows, output_bits=bits, readout=readout, mac_folding=folding, boost=boost, signed_inputs=signed)
    low = -8 if signed else 0
    inputs, weights = integers((batch, rows), low, low + 15, seed), integers((rows, columns), -7, 7, seed + 1)
    codes, scale = macro.mac(inputs, weights)
    driven = inputs - low - (8 if folding else 0)
    raw = codes - weights.sum(0).float() * (macro.restoration / scale)
    expected = [[expected_code(p, macro.full_scale, boost, readout, bits) for p in row] for row in (driven @ weights).tolist()]
    assert torch.allclose(raw, torch.tensor(expected), atol=1e-3 * max(1.0, 1.0 / scale))
    assert macro.restoration == (8 if folding else 0) - (8 if signed else 0)


@settings(max_examples=25, deadline=None)
@given(
    input_bits=st.integers(1, 12),
    weight_bits=st.integers(2, 12),
    folding=st.booleans(),
    signed=st.booleans(),
    seed=st.integers(0, 2**20),
)
def test_wide_operands_are_digits_shifted_and_added(input_bits, weight_bits, folding, signed, seed) -> None:
    # One row and enough output bits: a product of two digits is off by half a step, and by one where it clips at full scale.
    full = 56 if folding else 105
    macro = SRAMMacro(
        rows=1,
        output_bits=12,
        input_bits=input_bits,
        weight_bits=weight_bits,
        mac_folding=folding,
        signed_inputs=signed,
        readout="mid_tread",
    )
    low = -(2 ** (input_bits - 1)) if signed else 0
    top = 2 ** (weight_bits - 1) - 1
    inputs, weights = integers((20, 1), low, low + 2**input_bits - 1, seed), integers((1, 30), -top, top, seed + 1)
    codes, scale = macro.mac(inputs, weights)
    assert scale == full / 2048
    digits = macro.input_places * macro.weight_places
    bound = 1.01 * scale * sum(16.0**i * 8.0**j for i in range(macro.input_places) for j in range(macro.weight_places))
    assert digits == -(-input_bits // 4) * -(-(weight_bits - 1) // 3)
    assert float((codes.double() * scale - (inputs @ weights)).abs().max()) <= bound + 2e-6 * float((inputs @ weights).abs().max())


@given(st.integers(1, 16), st.booleans(), st.integers(0, 2**20))
def test_digits_are_put_together_again(bits: int, signed: bool, seed: int) -> None:
    low = -(2 ** (bits - 1)) if signed else 0
    codes = integers((50,), low, low + 2**bits - 1, seed)
    digits = input_digits(codes, bits, signed)
    assert torch.equal(sum(digit * 16.0**i for i, digit in enumerate(digits)) + low, codes.float())
    if bits >= 2:
        top = 2 ** (bits - 1) - 1
        weights = integers((50,), -top, top, seed)
        parts = weight_digits(weights, bits)
        assert torch.equal(sum(digit * 8.0**i for i, digit in enumerate(parts)), weights.float())
        assert all(int(digit.abs().max()) <= 7 for digit in parts)


@pytest.mark.parametrize(("readout", "search"), [("mid_rise", "binary_search"), ("mid_tread", "binary_search"), ("mid_rise", "ramp")])
@pytest.mark.parametrize("conductance", [0.0, 4e-7])
def test_the_circuit_gives_the_same_codes(readout: str, search: str, conductance: float) -> None:
    # What a line does depends on the product of branches and time alone, so a finite output resistance moves no code.
    bits, rows, boost = (6, 12, 2) if search == "ramp" else (9, 12, 3)
    macro = SRAMMacro(rows=rows, output_bits=bits, readout=readout, search=search, boost=boost)
    inputs, weights = integers((8, rows), 0, 15, 1), integers((rows, 2), -7, 7, 2)
    codes, scale = macro.mac(inputs, weights)
    circuit, lsb = Circuit(conductance=conductance), 2e-12
    position = (inputs @ weights) / scale + (0.5 if readout == "mid_tread" else 0.0)
    compared = 0
    for vector, column in itertools.product(range(8), range(2)):
        if abs(position[vector, column] - round(float(position[vector, column]))) < 1e-3:
            continue
        found = circuit.code(inputs[vector].numpy(), weights[:, column].numpy(), lsb / scale, lsb, bits, readout, search)
        assert found == float(codes[vector, column])
        compared += 1
    assert compared >= 12


NORMAL_INPUTS = [float(2 * (stats.norm.cdf((a + 0.5) / 4) - max(stats.norm.cdf((a - 0.5) / 4), 0.5))) for a in range(15)]
NORMAL_WEIGHTS = [float(stats.norm.cdf((w + 0.5) / 2.3) - stats.norm.cdf((w - 0.5) / 2.3)) for w in range(-6, 7)]
LAWS = {
    "normal": ([*NORMAL_INPUTS, 1 - sum(NORMAL_INPUTS)], [(1 - sum(NORMAL_WEIGHTS)) / 2, *NORMAL_WEIGHTS, (1 - sum(NORMAL_WEIGHTS)) / 2]),
    "uniform": ([1 / 16] * 16, [1 / 15] * 15),
}


def law_of_sums(inputs: list[float], weights: list[float], offset: int = 0) -> np.ndarray:
    """Return the probability of each sum -6720 .. 6720 of 64 independent products; `offset` is taken from the inputs."""
    one = np.zeros(211)
    for (a, p), (w, q) in itertools.product(enumerate(inputs), zip(range(-7, 8), weights, strict=True)):
        one[105 + (a - offset) * w] += p * q
    for _ in range(6):
        one = np.convolve(one, one)
    return one


@pytest.mark.parametrize(("name", "decibel"), [("normal", (19.8, 25.8, 31.8, 37.8)), ("uniform", (32.1, 38.1, 44.1, 30.2))])
@pytest.mark.parametrize("readout", ["mid_rise", "mid_tread"])
def test_signal_to_quantization_noise(name: str, decibel: tuple[float, ...], readout: str) -> None:
    # Operands for each sum: 63 weights of 7 and one of 1, with both signs.
    sums = np.arange(6616)
    sevens = np.minimum(np.maximum(np.minimum(sums // 7, 945) - np.arange(63)[:, None] * 15, 0), 15)
    inputs = torch.from_numpy(np.concatenate((sevens, (sums - 7 * sevens.sum(0))[None]))).T.contiguous()
    weights = torch.tensor([[7, -7]] * 63 + [[1, -1]])
    assert np.array_equal((inputs @ weights)[:, 0].numpy(), sums)
    law = law_of_sums(*LAWS[name])
    power = float((law * np.arange(-6720, 6721) ** 2).sum())
    for boost, expected in zip((1, 2, 4, 8), decibel, strict=True):
        codes, scale = SRAMMacro(rows=64, boost=boost, readout=readout).mac(inputs, weights)
        error = (codes.double() * scale - inputs @ weights).numpy() ** 2
        noise = float((law[6720 : 6720 + 6616] * error[:, 0]).sum() + (law[6719 : 6719 - 6615 : -1] * error[1:, 1]).sum())
        assert 10 * math.log10(power / noise) == pytest.approx(expected, abs=0.5)


def test_folding_raises_the_margin_in_the_worst_case_and_the_signal_on_real_operands() -> None:
    assert SRAMMacro().full_scale / SRAMMacro(mac_folding=True).full_scale == 1.875
    spread = [math.sqrt(float((law_of_sums(*LAWS["normal"], offset) * np.arange(-6720, 6721) ** 2).sum())) for offset in (0, 8)]
    assert spread == pytest.approx([74, 99.5], rel=0.02)


@pytest.mark.parametrize(("field", "variance"), [("branch_sigma", lambda a, w: a**2 * w.abs()), ("cell_sigma", lambda a, w: (a * w) ** 2)])
def test_mismatch_leaves_the_variance_of_its_model(field: str, variance) -> None:
    macro = SRAMMacro(rows=64, columns=65536, output_bits=12, boost=4, **{field: 0.1})
    inputs, column = integers((1, 64), 0, 15, 3), integers((64, 1), -7, 7, 4)
    codes, scale = macro.mac(inputs, column.expand(64, 20000).contiguous(), KEY)
    error = codes.double() * scale - (inputs @ column)
    expected = 0.01 * float(variance(inputs[0].double(), column[:, 0].double()).sum()) + scale**2 / 12
    assert float(error.var()) == pytest.approx(expected, rel=0.05)
    assert abs(float(error.mean())) < 5 * math.sqrt(expected / 20000)


def test_mismatch_is_static_and_belongs_to_the_branches() -> None:
    macro = SRAMMacro(branch_sigma=0.1, output_bits=12, boost=4)
    inputs, weights = integers((4, 64), 0, 15), integers((64, 8), -7, 7)
    first, second = macro.mac(inputs, weights, KEY.at(1)), macro.mac(inputs, weights, KEY.at(2))
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[0], macro.mac(inputs, weights, KEY.fold("other"))[0])
    # A cell's error with w + 1 branches is that with w and one branch more; the other line has the same branches.
    ones = torch.ones(1, 64, 8)
    errors = [fabricate(macro, ones * w, KEY).weights - ones * w for w in (3.0, 4.0, -4.0)]
    assert float((errors[1] - errors[0]).std()) == pytest.approx(0.1, rel=0.15)
    assert torch.allclose(errors[2], -errors[1], atol=1e-6)


def noise_of(macro: SRAMMacro, draws: int = 20000) -> torch.Tensor:
    """Return the codes of one product, 0.5 above a threshold, over many reads."""
    inputs, weights = torch.ones(draws, 1, dtype=torch.int64), torch.ones(1, 1, dtype=torch.int64)
    return macro.mac(inputs, weights, KEY)[0][:, 0].double()


def test_thermal_noise_is_that_of_two_capacitors() -> None:
    macro = SRAMMacro(rows=1, lines=LINES, thermal_noise=True, output_bits=12, boost=1, readout="mid_tread")
    lines = LINES.replace(bit_line_farad="1 fF", branch_current_ampere="20 nA")
    sigma = math.sqrt(2 * 1.380649e-23 * 300 / 1e-15) / lines.lsb_volt
    found = noise_of(macro.replace(lines=lines))
    assert float(found.var()) == pytest.approx(sigma**2 + 1 / 12, rel=0.05)


def test_comparator_noise_is_drawn_at_each_comparison() -> None:
    macro = SRAMMacro(rows=1, lines=LINES, comparator_noise_volt="0.6 mV", readout="mid_rise", boost=1)
    step = macro.step()
    found = noise_of(macro) - 0.5
    # The twin: nine comparisons, each with a draw of its own.
    source = np.random.default_rng(3)
    rest = np.full(20000, 1 / step)
    code = np.zeros(20000)
    for k in range(7, -2, -1):
        up = rest + 0.6 * source.standard_normal(20000) >= 0
        code += np.where(up, 2.0**k, -(2.0**k))
        rest -= np.where(up, 2.0**k, -(2.0**k)) if k >= 0 else 0.0
    values, counts = np.unique(code - 0.5, return_counts=True)
    for value, count in zip(values, counts, strict=True):
        share = float((found == value).double().mean())
        assert share == pytest.approx(count / 20000, abs=5 * math.sqrt(max(count, 9)) / 20000 * 1.5)
    once = noise_of(macro.replace(comparator_noise_per="conversion")) - 0.5
    assert float(once.mean()) == pytest.approx(1 / step - 0.5, abs=0.03)


def test_jitter_of_pulses_is_shared_by_columns() -> None:
    macro = SRAMMacro(rows=16, lines=LINES, jitter_s="20 ps", output_bits=12, boost=1)
    weights = integers((16, 2), 1, 7)
    inputs = integers((1, 16), 1, 15).expand(4000, 16).contiguous()
    codes, scale = macro.mac(inputs, weights, KEY)
    error = (codes.double() * scale - (inputs @ weights)).numpy()
    step = 20 / 50 * macro.step()
    search = 11 * step**2  # each step of the readout moves the later ones
    assert np.corrcoef(error.T)[0, 1] > 0.8
    assert error.var(0) == pytest.approx(step**2 * (weights**2).sum(0).double().numpy() + search, rel=0.1)


def test_readout_mismatch_bends_the_transfer_and_keeps_it_static() -> None:
    macro = SRAMMacro(rows=64, readout_sigma=0.02, boost=8)
    inputs = torch.arange(16).repeat_interleave(1).reshape(16, 1).expand(16, 64).contiguous()
    weights = integers((64, 16), -7, 7)
    codes, _ = macro.mac(inputs, weights, KEY)
    clean, _ = macro.ideal().mac(inputs, weights)
    assert not torch.equal(codes, clean)
    assert torch.equal(codes, macro.mac(inputs, weights, KEY.at(3))[0])
    ramp = macro.replace(search="ramp").mac(inputs, weights, KEY)[0]
    # Equal steps add up as a random walk; the steps of a search are in error by their own size.
    assert float((ramp - clean).std()) < float((codes - clean).std())


def test_offsets_shift_columns_for_good() -> None:
    macro = SRAMMacro(rows=64, lines=LINES, comparator_offset_volt="3 mV", boost=1, readout="mid_tread")
    zeros = torch.zeros(3, 64, dtype=torch.int64)
    codes, _ = macro.mac(zeros, torch.zeros(64, 256, dtype=torch.int64), KEY)
    assert torch.equal(codes[0], codes[2])
    assert float(codes[0].std()) == pytest.approx(3.0, rel=0.15)


def test_headroom_stops_each_line_where_it_is() -> None:
    macro = SRAMMacro(rows=2, lines=LINES, headroom_volt="100 mV", boost=1, readout="mid_tread")
    step = macro.step()
    inputs, weights = torch.tensor([[15, 0], [0, 15], [15, 12], [12, 15], [5, 0], [0, 5]]), torch.tensor([[7], [-7]])
    codes, _ = macro.mac(inputs, weights)
    for vector, code in zip(inputs.tolist(), codes[:, 0].tolist(), strict=True):
        # The half step that makes a level at zero is taken off the negative line's side of the comparison.
        assert code == naive.bit_lines(7 * vector[0] / step, 7 * vector[1] / step, half=0.5, most=100.0)
    # Lines that rest at the end of their swing are equal, whatever the product was.
    assert codes[:2, 0].tolist() == [255.0, -1.0]
    wide = macro.replace(headroom_volt=10.0)
    assert torch.equal(wide.mac(inputs, weights)[0], macro.ideal().mac(inputs, weights)[0])


def test_charge_injection_takes_from_every_pulse() -> None:
    macro = SRAMMacro(rows=64, lines=LINES, charge_injection_volt="0.3 mV", output_bits=12, boost=1)
    inputs, weights = torch.full((1, 64), 4), torch.full((64, 1), 5)
    codes, scale = macro.mac(inputs, weights)
    # 64 rows of 5 branches lose 0.3 steps each; eleven readout steps give 0.3 back, with their own signs.
    lost = 1280 / scale - 320 * 0.3
    assert float(codes[0, 0]) == pytest.approx(lost, abs=11 * 0.3 + 1)


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_a_corner_moves_no_code_but_what_a_volt_is_worth(scale: float) -> None:
    inputs, weights = integers((6, 64), 0, 15), integers((64, 8), -7, 7)
    macro = SRAMMacro(lines=LINES, branch_sigma=0.05, boost=4)
    corner = macro.replace(lines={"corner": Corner(process_scale=scale)})
    assert torch.equal(macro.mac(inputs, weights, KEY)[0], corner.mac(inputs, weights, KEY)[0])
    noisy = SRAMMacro(rows=1, lines=LINES, comparator_noise_volt="2 mV", comparator_noise_per="conversion", boost=1)
    spread = noise_of(noisy.replace(lines={"corner": Corner(process_scale=scale)})).var() - 1 / 12
    assert float(spread) == pytest.approx((2.0 / scale) ** 2, rel=0.05)


def test_temperature_and_supply_scale_the_current() -> None:
    assert Corner(temperature_kelvin=360.0, temperature_exponent=1.5).current_scale == pytest.approx((360 / 300) ** -1.5)
    cold = Corner(supply_volt=0.7, nominal_supply_volt=0.9, threshold_volt=0.3, alpha=1.3)
    assert cold.current_scale == pytest.approx((4 / 6) ** 1.3)
    assert LINES.replace(corner={"temperature_kelvin": 400.0}).thermal_noise_volt == pytest.approx(
        LINES.thermal_noise_volt * math.sqrt(400 / 300)
    )


def test_presets_hold_what_is_published_and_what_is_assumed() -> None:
    published = SRAMMacro.preset("asscc_2023")
    assert published == SRAMMacro(mac_folding=True, joule_per_operation=7.2727e-15)
    assert 2 * published.joule_per_operation == pytest.approx(14.5e-15, rel=0.01)
    assert not published.random
    assert SRAMMacro.preset("demonstrator").random
    assumed = [source for path, source in sources_of("demonstrator").items() if not source.cite]
    assert assumed and all(source.where.startswith("assumption") for source in assumed)
    assert Design.preset("demonstrator").ideal() == SRAMMacro(
        rows=64, columns=64, mac_folding=True, joule_per_operation=7.2727e-15, comparator_noise_per="conversion"
    )


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"input_bits": 17}, "`input_bits` must be"),
        ({"weight_bits": 1}, "`weight_bits` must be"),
        ({"output_bits": 40}, "`output_bits` must be"),
        ({"boost": 1.5}, "`boost` must be"),
        ({"boost": 0}, "`boost` must be"),
        ({"jitter_s": "1 ps"}, "`lines` must be given with `jitter_s`"),
        ({"lines": LINES, "charge_injection_volt": "2 mV"}, "`charge_injection_volt` must be below one readout step"),
        ({"branch_sigma": -0.1}, "`branch_sigma` must be"),
    ],
)
def test_a_wrong_design_is_refused_in_a_line(change: dict, line: str) -> None:
    with pytest.raises(DesignError) as error:
        SRAMMacro(**change)
    assert line in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("inputs", "weights", "line"),
    [
        (torch.full((1, 4), 16), torch.ones(4, 1, dtype=torch.int64), "`inputs` must hold 0 to 15, but got 16 to 16"),
        (torch.full((1, 4), -1), torch.ones(4, 1, dtype=torch.int64), "`inputs` must hold 0 to 15, but got -1 to -1"),
        (torch.ones(1, 4, dtype=torch.int64), torch.full((4, 1), -8), "`weights` must hold -7 to 7, but got -8 to -8"),
        (torch.ones(1, 4), torch.ones(4, 1, dtype=torch.int64), "`inputs` must be an integer tensor"),
        (torch.ones(1, 4, dtype=torch.int64), torch.ones(5, 1, dtype=torch.int64), "`weights` must have the 4 rows"),
        (torch.ones(1, 65, dtype=torch.int64), torch.ones(65, 1, dtype=torch.int64), "`weights` must fit 64 rows and 256 columns"),
    ],
)
def test_operands_that_do_not_fit_are_refused_in_a_line(inputs: torch.Tensor, weights: torch.Tensor, line: str) -> None:
    with pytest.raises(ValueError, match=r"^Argument [^\n]*$") as error:
        SRAMMacro().mac(inputs, weights)
    assert line in str(error.value)


def test_signed_activations_of_eight_bits_do_not_wrap_around() -> None:
    inputs, weights = torch.tensor([[100, -100, 127, -128]], dtype=torch.int8), torch.tensor([[3], [-2], [1], [7]], dtype=torch.int8)
    macro = SRAMMacro(rows=4, input_bits=8, signed_inputs=True, output_bits=12)
    codes, scale = macro.mac(inputs, weights)
    wide, _ = macro.mac(inputs.long(), weights.long())
    assert torch.equal(codes, wide)
    assert codes.item() * scale == pytest.approx(300 + 200 + 127 - 896, abs=17 * scale)


def test_a_gain_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="`boost` must be at least 1"):
        SRAMMacro().step(0)


@pytest.mark.parametrize("key", [None, 3])
def test_noise_without_a_key_is_refused(key: object) -> None:
    with pytest.raises(ValueError, match="`key` must be a Key"):
        SRAMMacro(branch_sigma=0.1).mac(torch.ones(1, 1, dtype=torch.int64), torch.ones(1, 1, dtype=torch.int64), key)
