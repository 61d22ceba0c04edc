"""A layer on a digital array: integers to the bit, floating point as torch, and the cost of a whole network."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import simulator as sim
from devices import DigitalArray, MemoryTier, SystolicArray, TieredSocket
from simulator.lowering.digital import DigitalLayer
from tests.test_crossbar_layer import convolutions, generator, random_layer, relative_error

ARRAY = SystolicArray(rows=16, columns=16, frequency_hertz="1 GHz", joule_per_mac=1e-13)


def only(chip: sim.Chip) -> DigitalLayer:
    layer = next(iter(chip.layers.values()))
    assert isinstance(layer, DigitalLayer)
    return layer


@settings(max_examples=25, deadline=None)
@given(convolutions(), st.integers(2, 16), st.integers(2, 16), st.booleans())
def test_sums_are_integers_to_the_bit(case: tuple[nn.Module, Tensor], input_bits: int, weight_bits: int, positive: bool) -> None:
    layer, x = case
    x = x.abs() if positive else x
    compiled = only(sim.compile(layer, ARRAY.replace(input_bits=input_bits, weight_bits=weight_bits), example_inputs=(x,)))
    surrounded = compiled.operator.surround(x)
    weights, _ = compiled.weight_codes()
    codes, _ = compiled.input_codes(surrounded)
    unfolded = compiled.sums(codes, weights)
    # int64 has no fast convolution in torch: unfold by hand.
    padded = nn.functional.pad(codes, [w for p in reversed(compiled.operator.padding) for w in (p, p)]).long().numpy()
    expected = np.zeros(tuple(unfolded.shape), np.int64)
    groups, outputs = compiled.operator.groups, weights.shape[0] // compiled.operator.groups
    integers = weights.long().numpy()
    for place in np.ndindex(tuple(unfolded.shape[2:])):
        window = tuple(
            slice(p * s, p * s + d * (k - 1) + 1, d)
            for p, s, d, k in zip(place, compiled.operator.stride, compiled.operator.dilation, weights.shape[2:], strict=True)
        )
        part = padded[(slice(None), slice(None), *window)].reshape(len(x), groups, -1)
        for g in range(groups):
            rows = integers[g * outputs : (g + 1) * outputs].reshape(outputs, -1)
            expected[(slice(None), slice(g * outputs, (g + 1) * outputs), *place)] = part[:, g] @ rows.T
    half = 2 ** (compiled.accumulator_bits - 1)
    assert np.array_equal(unfolded.numpy().astype(np.int64), (expected + half) % (2 * half) - half)


def test_the_accumulator_wraps_around() -> None:
    layer = nn.Linear(40, 1, bias=False)
    nn.init.constant_(layer.weight, 1.0)
    x = torch.ones(1, 40)
    compiled = only(sim.compile(layer, ARRAY.replace(accumulator_bits=16), example_inputs=x))
    codes, _ = compiled.input_codes(x)
    exact = int((codes @ compiled.weight_codes()[0].T).item())
    assert exact > 2**15
    assert compiled.sums(codes, compiled.weight_codes()[0]).item() == (exact + 2**15) % 2**16 - 2**15


def test_floating_point_is_torch_and_eight_bits_are_close() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 5))
    random_layer(model)
    x = torch.rand(20, 3, 8, 8, generator=generator(2))
    floating = sim.compile(model, ARRAY.replace(input_bits=None, weight_bits=None), example_inputs=(x,))
    assert relative_error(floating(x), model(x)) < 1e-6
    assert relative_error(sim.compile(model, ARRAY, example_inputs=(x,))(x), model(x)) < 0.03


def test_ideal_changes_nothing_and_neither_do_trials() -> None:
    layer, x = random_layer(nn.Linear(30, 4)), torch.randn(9, 30, generator=generator(1))
    chip = sim.compile(layer, ARRAY, example_inputs=x)
    expected = chip.program(seed=0)(x)
    assert torch.equal(chip.program(seed=5, trial=3)(x), expected)
    assert torch.equal(sim.compile(layer, ARRAY.ideal(), example_inputs=x)(x), expected)
    fresh = sim.compile(layer, ARRAY, example_inputs=torch.randn(2, 30))
    fresh.load_state_dict(chip.state_dict())
    assert torch.equal(fresh(x), expected)


def test_training_is_quantization_aware() -> None:
    layer, x = random_layer(nn.Linear(30, 4)), torch.rand(9, 30, generator=generator(1))
    chip = sim.compile(layer, ARRAY, example_inputs=x).train()
    chip(x).square().sum().backward()
    layer(x).square().sum().backward()
    assert relative_error(only(chip).weight.grad, layer.weight.grad) < 0.05


def test_cost_of_a_chip_adds_up_and_counts_every_multiply() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    x = torch.rand(2, 4, 8, 8, generator=generator(2))
    chip = sim.compile(
        model, ARRAY.replace(memories=(MemoryTier(name="DRAM", bandwidth_bytes_per_s=1e9, joule_per_byte=1e-11),)), example_inputs=(x,)
    )
    frame = chip.cost(x)
    on_array = frame[frame["term"] == "multiply-accumulate"]
    assert int(on_array["operations"].sum()) == 2 * chip.macs
    assert on_array["energy_j"].sum() == pytest.approx(1e-13 * chip.macs)
    convolution = on_array[on_array["layer"] == "0"].iloc[0]
    assert convolution["latency_s"] == pytest.approx(2 * ARRAY.cycles(72, 18, 4, drain=True) * 1e-9)
    total = sim.totals(frame)["energy_j"]
    assert total.partial and "relu" in total.missing


def test_a_layer_that_no_memory_can_hold_stays_digital_and_says_why() -> None:
    small = ARRAY.replace(memories=({"name": "SRAM", "capacity_bytes": 500},))
    model = nn.Sequential(nn.Linear(100, 10), nn.Linear(10, 10))
    chip = sim.compile(model, small, example_inputs=torch.rand(1, 100))
    reason = chip.coverage.set_index("layer").loc["0", "reason"]
    assert reason.startswith("Memory `SRAM` must hold the weights of layer `0`, 1000 bytes, but has 500")
    assert list(chip.layers) == ["1"]


def test_a_socket_takes_layers_in_floating_point() -> None:
    layer, x = nn.Linear(30, 4), torch.rand(9, 30, generator=generator(1))
    chip = sim.compile(layer, TieredSocket.preset("sn40l_socket"), example_inputs=x)
    assert relative_error(chip(x), layer(x)) < 1e-6
    frame = chip.cost(x).set_index("term")
    assert frame.loc["multiply-accumulate", "latency_s"] == pytest.approx(2 * 9 * 120 / 638e12)
    assert frame.loc["HBM", "bytes"] == 9 * 30 * 2 + 240 + 9 * 4 * 4


class OwnArray(DigitalArray):
    """An array of a user, in one class: it computes in floating point and says what it counts."""

    def ideal(self) -> "OwnArray":
        return self

    def cycles(self, m: int, k: int, n: int) -> int:
        return m * k * n

    def traffic(self, m: int, k: int, n: int) -> dict[str, int]:
        return {"everything": m * k + k * n + m * n}


def test_an_array_of_a_user_needs_no_registration() -> None:
    layer, x = nn.Linear(30, 4), torch.rand(9, 30, generator=generator(1))
    chip = sim.compile(layer, OwnArray(), example_inputs=x)
    assert relative_error(chip(x), layer(x)) < 1e-6
    frame = chip.cost(x).set_index("term")
    assert frame.loc["everything", "bytes"] == 270 + 120 + 36
    assert frame["energy_j"].isna().all() and frame.loc[~frame["static"], "latency_s"].isna().all()


def test_evaluating_reads_the_array_and_ranges_say_what_was_chosen() -> None:
    layer, x = random_layer(nn.Linear(30, 4)), torch.rand(64, 30, generator=generator(1))
    chip = sim.compile(layer, ARRAY, example_inputs=x)
    assert sim.evaluate(chip, (x, layer(x).argmax(1)), trials=2).reference == {"accuracy": 1.0}
    row = chip.ranges.iloc[0]
    assert row["converter"] == "inputs" and row["observations"] == 64 * 30
    assert row["full_scale"] == pytest.approx(255 * only(chip).input_step)


def test_a_state_of_another_design_is_refused() -> None:
    layer = nn.Linear(30, 4)
    chip = sim.compile(layer, ARRAY)
    with pytest.raises(ValueError, match="must be of the same design"):
        chip.load_state_dict(sim.compile(layer, ARRAY.replace(rows=8)).state_dict())
