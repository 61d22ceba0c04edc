"""What a chip computes beside its layers: in the formats of its digital unit, with a cost row for each operation."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import simulator as sim
from devices import MemoryTier, RRAMCrossbar, SystolicArray, TieredSocket, VectorUnit
from devices.digital import rounded
from simulator.batches import Batch
from simulator.capture import capture
from simulator.digital_arithmetic import DigitalArithmetic, integer_product
from tests.networks import generator

IDEAL = RRAMCrossbar.preset("wan_nature_2022").ideal()
ARRAY = SystolicArray(rows=8, columns=8, frequency_hertz="1 GHz", joule_per_mac=1e-12)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.q, self.k, self.v, self.out = (nn.Linear(6, 6) for _ in range(4))
            self.norm = nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        scores = torch.softmax(q @ k.transpose(1, 2), -1)
        return self.norm(x + self.out(scores @ v))


X = torch.randn(2, 5, 6, generator=generator(1))


def to_bfloat16(values: Tensor) -> Tensor:
    """Round to nearest even on the upper 16 bits, bit by bit."""
    words = values.detach().contiguous().numpy().view(np.uint32).astype(np.uint64)
    nearest = (words + 0x7FFF + ((words >> 16) & 1)) & 0xFFFF0000
    return torch.from_numpy(nearest.astype(np.uint32).view(np.float32).reshape(tuple(values.shape)).copy())


def test_bfloat16_is_that_of_a_model_rounded_by_hand() -> None:
    model = Attention().eval()
    chip = sim.compile(model, IDEAL, example_inputs=(X,), digital=VectorUnit(precision="bfloat16")).requires_grad_(False)
    r = to_bfloat16
    q, k, v = (r(layer(X)) for layer in (model.q, model.k, model.v))
    scores = r(torch.softmax(r(q @ k.transpose(1, 2)), -1))
    total = r(r(X) + r(model.out(r(scores @ v))))
    expected = r(F.layer_norm(total, (6,), r(model.norm.weight), r(model.norm.bias)))
    found = chip(X)
    assert torch.allclose(found, expected, rtol=1e-2, atol=1e-3)
    assert torch.equal(found, to_bfloat16(found))
    plain = sim.compile(model, IDEAL, example_inputs=(X,))(X)
    # As far from float32 as the format says, and much nearer to the twin.
    assert float((found - plain).abs().max()) > 1e-3
    assert float((found - expected).abs().mean()) < 0.2 * float((found - plain).abs().mean())
    with chip.reference():
        assert torch.allclose(chip(X), model(X), atol=1e-5)


def naive_integer_product(a: Tensor, b: Tensor, bits: int, accumulator_bits: int) -> list[list[float]]:
    left, right = a.double().tolist(), b.double().tolist()
    top_left = (1 << bits) - 1 if min(min(row) for row in left) >= 0 else (1 << (bits - 1)) - 1
    step = max(abs(value) for row in left for value in row) / top_left
    columns = len(right[0])
    steps = [max(abs(row[j]) for row in right) / ((1 << (bits - 1)) - 1) or 1.0 for j in range(columns)]
    result = []
    for row in left:
        codes = [round(value / step) for value in row]
        line = []
        for j in range(columns):
            total = sum(code * round(other[j] / steps[j]) for code, other in zip(codes, right, strict=True))
            half = 1 << (accumulator_bits - 1)
            line.append(((total + half) % (2 * half) - half) * step * steps[j])
        result.append(line)
    return result


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 4), st.integers(2, 8), st.booleans(), st.integers(0, 1000))
def test_an_integer_product_is_that_of_whole_numbers(m: int, k: int, n: int, bits: int, positive: bool, seed: int) -> None:
    a, b = torch.randn(m, k, generator=generator(seed)), torch.randn(k, n, generator=generator(seed + 1))
    a = a.abs() + 0.1 if positive else a
    array = ARRAY.replace(input_bits=bits, weight_bits=bits, accumulator_bits=8)
    found = integer_product(array, "mm", (a, b), {})
    assert torch.allclose(found, torch.tensor(naive_integer_product(a, b, bits, 8)), rtol=1e-5, atol=1e-6)
    wide = array.replace(accumulator_bits=32)
    several = integer_product(wide, "bmm", (a.expand(2, m, k), torch.stack((b, 2 * b))), {})
    assert torch.allclose(several[0], integer_product(wide, "mm", (a, b), {}), rtol=1e-6)
    assert torch.allclose(several[1], 2 * several[0], rtol=1e-6)
    bias = torch.randn(n, generator=generator(seed + 2))
    assert torch.allclose(integer_product(wide, "addmm", (bias, a, b), {}), several[0] + bias, rtol=1e-5, atol=1e-6)


def test_a_convolution_of_two_activations_has_a_step_for_each_output() -> None:
    x, weight = torch.rand(1, 2, 5, 5, generator=generator(0)), torch.randn(3, 2, 3, 3, generator=generator(1))
    scaled = weight * torch.tensor([1.0, 100.0, 0.01]).reshape(3, 1, 1, 1)
    with DigitalArithmetic(ARRAY):
        found = F.conv2d(x, scaled, torch.ones(3), padding=1)
    error = (found - F.conv2d(x, scaled, torch.ones(3), padding=1)).abs().amax((0, 2, 3))
    assert (error < 0.02 * torch.tensor([1.0, 100.0, 0.01]) * weight.abs().sum((1, 2, 3))).all()
    with DigitalArithmetic(ARRAY):
        up = F.conv_transpose2d(x, torch.randn(2, 3, 3, 3, generator=generator(2)))
    exact = F.conv_transpose2d(x, torch.randn(2, 3, 3, 3, generator=generator(2)))
    assert 1e-5 < float((up - exact).abs().max()) < 0.1


def test_attention_runs_on_the_array_and_everything_is_in_the_tables() -> None:
    model = Attention().eval()
    chip = sim.compile(model, IDEAL, example_inputs=(X,), digital=ARRAY, strict=True)
    error = (chip(X) - model(X)).abs().max()
    assert 1e-5 < float(error) < 0.1
    table = chip.coverage
    assert table["macs"].sum() == chip.macs == 2 * (4 * 5 * 36 + 2 * 5 * 5 * 6)
    assert table.loc[table["kind"] == "bmm", "hardware"].tolist() == ["SystolicArray"]
    assert table.loc[table["layer"] == "norm", "hardware"].tolist() == ["host"]  # the array has no vector unit
    frame = chip.cost(X)
    attention = frame[frame["term"] == "bmm: multiply-accumulate"].iloc[0]
    assert attention["macs"] == 2 * 2 * 5 * 5 * 6 and attention["operations"] == 2 * attention["macs"]
    assert attention["energy_j"] == pytest.approx(1e-12 * attention["macs"])
    cycles = 2 * (ARRAY.cycles(5, 6, 5, drain=True) + ARRAY.cycles(5, 5, 6, drain=True))
    assert attention["latency_s"] == pytest.approx(cycles * 1e-9)
    assert int(frame["macs"].sum()) == chip.macs
    rows = frame.set_index(["layer", "term"])
    assert rows.loc[("model", "softmax"), "operations"] == 5 * 2 * 5 * 5
    assert rows.loc[("model", "add"), "operations"] == 60 and rows.loc[("norm", "layer_norm"), "operations"] == 7 * 60
    assert "not given" in rows.loc[("norm", "layer_norm"), "note"]


def test_an_array_with_a_vector_unit_takes_the_rest() -> None:
    unit = VectorUnit(lanes=4, frequency_hertz="1 GHz", joule_per_operation=3e-12, precision="float16")
    chip = sim.compile(Attention().eval(), IDEAL, example_inputs=(X,), digital=ARRAY.replace(vector=unit))
    table = chip.coverage.set_index("layer")
    assert table.loc["norm", "hardware"] == "SystolicArray"
    row = chip.cost(X).set_index(["layer", "term"]).loc[("norm", "layer_norm")]
    assert row["energy_j"] == pytest.approx(420 * 3e-12) and row["latency_s"] == pytest.approx(105e-9)
    assert row["bytes"] == 2 * (60 + 60 + 12) + 2 * (row["bytes"] - 264) // 2  # statistics beside results
    out = chip(X)
    assert torch.equal(out, out.half().float())


def test_the_area_of_the_unit_is_there_once() -> None:
    unit = VectorUnit(area_m2=1e-8)
    chip = sim.compile(
        nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.Tanh()), IDEAL, example_inputs=torch.rand(2, 4), digital=unit
    )
    assert sim.totals(chip.cost(torch.rand(2, 4)))["area_m2"].value == pytest.approx(1e-8)


def test_gradients_pass_straight_through_the_rounding_of_digital_operations() -> None:
    model = Attention()
    plain, rough = (sim.compile(model, IDEAL, example_inputs=(X,), digital=unit) for unit in (None, VectorUnit(precision="bfloat16")))
    grads = []
    for chip in (plain, rough):
        chip.train()
        chip(X).square().sum().backward()
        grads.append(torch.cat([parameter.grad.flatten() for parameter in chip.parameters()]))
    assert not torch.equal(grads[0], grads[1])
    assert float((grads[0] - grads[1]).norm() / grads[0].norm()) < 0.05


def test_a_unit_in_float32_changes_no_bit_and_copies_keep_their_unit() -> None:
    model = Attention().eval()
    plain = sim.compile(model, IDEAL, example_inputs=(X,))
    assert torch.equal(sim.compile(model, IDEAL, example_inputs=(X,), digital=VectorUnit(lanes=2))(X), plain(X))
    rough = sim.compile(model, IDEAL, example_inputs=(X,), digital=ARRAY)
    for copied in (copy.deepcopy(rough), pickle.loads(pickle.dumps(rough))):
        assert torch.equal(copied(X), rough(X)) and not torch.equal(copied(X), plain(X))


def test_what_an_array_has_no_integer_form_for_is_said() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.bilinear = nn.Linear(3, 3), nn.Bilinear(3, 3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.bilinear(self.fc(x), x)

    chip = sim.compile(Both(), IDEAL, example_inputs=torch.rand(4, 3), digital=ARRAY)
    assert [warning for warning in chip.warnings if "_trilinear has no integer form on the SystolicArray" in warning]


def test_an_overlap_of_a_transposed_convolution_is_addition_not_a_product() -> None:
    model = nn.ConvTranspose2d(2, 3, 3, stride=2).eval()
    x = torch.rand(1, 2, 4, 4, generator=generator(3))
    chip = sim.compile(model, IDEAL, example_inputs=(x,), digital=ARRAY)
    assert torch.allclose(chip(x), model(x), atol=1e-5)  # integers would show
    frame = chip.cost(x).set_index("term")
    assert frame.loc["overlap add", "operations"] == 16 * 3 * 9
    assert int(chip.cost(x)["macs"].sum()) == chip.macs == 16 * 2 * 3 * 9


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20),
    st.sampled_from(["bfloat16", "float16", "float8_e4m3", "int16", "int8"]),
)
def test_rounding_twice_is_rounding_once_and_no_farther_than_half_a_step(numbers: list[float], precision: str) -> None:
    values = torch.tensor(numbers, dtype=torch.float32)
    once = rounded(values, precision)
    assert torch.allclose(rounded(once, precision), once, rtol=1e-6)
    if precision == "bfloat16":
        assert torch.equal(once, to_bfloat16(values))
    if precision.startswith("int"):
        step = float(values.abs().max()) / (2 ** (int(precision[3:]) - 1) - 1)
        assert float((once - values).abs().max()) <= step * 0.5000001


def test_masks_survive_every_format() -> None:
    scores = torch.tensor([1.0, 2.0, torch.finfo(torch.float32).min, -torch.inf])
    for precision in ("bfloat16", "float16", "float8_e5m2", "int8"):
        weights = torch.softmax(rounded(scores, precision), -1)
        assert weights[2:].sum() == 0 and torch.isfinite(weights).all()


@pytest.mark.parametrize("unit", ["tpu_v1_like", RRAMCrossbar.preset("wan_nature_2022"), 8])
def test_a_digital_unit_that_is_none_is_refused(unit: Any) -> None:
    with pytest.raises(ValueError, match=r"^Argument `digital` must be a digital array, a VectorUnit or None [^\n]*$"):
        sim.compile(nn.Linear(2, 2), IDEAL, digital=unit)


def test_a_socket_in_floating_point_computes_as_torch_does_and_has_its_cost() -> None:
    socket = TieredSocket(peak_operations_per_s=1e9, input_bits=None, weight_bits=None, memories=(MemoryTier(name="HBM"),))
    model = Attention().eval()
    chip = sim.compile(model, IDEAL, example_inputs=(X,), digital=socket)
    assert torch.allclose(chip(X), model(X), atol=1e-5)
    row = chip.cost(X).set_index("term").loc["bmm: multiply-accumulate"]
    assert row["latency_s"] == pytest.approx(2 * 600 / 1e9)
    assert capture(model, Batch((X,))).macs == chip.macs
