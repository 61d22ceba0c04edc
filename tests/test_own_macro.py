"""A macro of a user, in one class and without registration: compiled, measured, trained, costed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import simulator as sim
from devices import ComputeMacro, Surroundings, TiledSystem
from kernels import Key, normal
from tests.test_crossbar_layer import convolutions, generator, random_layer, relative_error


class OwnMacro(ComputeMacro):
    """An exact product with static errors of its columns and noise of each read."""

    gain_sigma: float = 0.0
    noise: float = 0.0

    def ideal(self) -> "OwnMacro":
        return self.replace(gain_sigma=0.0, noise=0.0)

    def mac(self, inputs: Tensor, weights: Tensor, key: Key | None = None) -> tuple[Tensor, float]:
        assert not inputs.is_floating_point() and not weights.is_floating_point()
        assert inputs.shape[1] <= self.rows and weights.shape[1] <= self.columns
        assert int(inputs.min()) >= (-(2 ** (self.input_bits - 1)) if self.signed_inputs else 0)
        product = (inputs @ weights).float() / 4
        if key is not None and self.gain_sigma:
            product = product * (1 + self.gain_sigma * normal(key.at(0).fold("gain"), product.shape[1]))
        if key is not None and self.noise:
            product = product + self.noise * normal(key.fold("noise"), product.shape)
        return product, 4.0


@settings(max_examples=20, deadline=None)
@given(convolutions(), st.integers(4, 40), st.integers(1, 5), st.booleans())
def test_an_exact_macro_gives_the_integer_layer(case: tuple[nn.Module, Tensor], rows: int, columns: int, positive: bool) -> None:
    layer, x = case
    x = x.abs() if positive else x
    chip = sim.compile(layer, OwnMacro(rows=rows, columns=columns, input_bits=8, weight_bits=6), example_inputs=(x,))
    compiled = next(iter(chip.layers.values()))
    weights, unit = compiled.weight_codes()
    codes, step = compiled.input_codes(compiled.operator.surround(x))
    shape = (-1, *[1] * compiled.operator.dimensions)
    expected = compiled.operator(codes.double(), weights.double()) * unit.double().reshape(shape) * step
    bias = 0 if layer.bias is None else layer.bias.detach().double().reshape(shape)
    assert relative_error(chip(x).detach().double() - bias, expected) < 1e-5
    assert compiled.placement.arrays == compiled.operator.groups * len(compiled.tiles) * -(
        -(len(weights) // compiled.operator.groups) // columns
    )


def test_static_errors_belong_to_a_trial_and_noise_to_a_read() -> None:
    layer, x = random_layer(nn.Linear(100, 6)), torch.rand(40, 100, generator=generator(1))
    static = sim.compile(layer, OwnMacro(gain_sigma=0.1), example_inputs=x).program(seed=1)
    first = static(x)
    assert torch.equal(first, static(x)) and not torch.equal(first, static.program(seed=1, trial=1)(x))
    noisy = sim.compile(layer, OwnMacro(noise=1.0), example_inputs=x).program(seed=1)
    one, two = noisy(x), noisy(x)
    assert not torch.equal(one, two) and torch.equal(one, noisy.program(seed=1)(x))
    quiet = sim.compile(layer, OwnMacro(), example_inputs=x)
    expected = 2**0.5 * 4.0 * next(iter(quiet.layers.values())).input_step  # two groups of rows, noise of one code each
    spread = torch.stack([noisy(x) for _ in range(100)]) - quiet(x)
    units = next(iter(quiet.layers.values())).weight_codes()[1]
    assert (spread.std((0, 1)) / (expected * units)).tolist() == pytest.approx([1.0] * 6, rel=0.1)
    result = sim.evaluate(noisy, (x, layer(x).argmax(1)), trials=3, seed=0)
    assert len(result.frame) == 3


def test_training_reaches_the_masters() -> None:
    layer, x = random_layer(nn.Linear(30, 4)), torch.rand(9, 30, generator=generator(1))
    chip = sim.compile(layer, OwnMacro(input_bits=8, weight_bits=8, noise=0.01), example_inputs=x).train()
    chip(x).square().sum().backward()
    layer(x).square().sum().backward()
    assert relative_error(next(iter(chip.layers.values())).weight.grad, layer.weight.grad) < 0.05


def test_cost_counts_and_tiles_price_it() -> None:
    layer, x = nn.Linear(100, 6), torch.rand(8, 100, generator=generator(1))
    frame = sim.compile(layer, OwnMacro(), example_inputs=x).cost(x).set_index("term")
    assert frame.loc["product", "macs"] == 8 * 600 and "not given" in frame.loc["product", "note"]
    system = TiledSystem(arrays=OwnMacro(), surroundings=Surroundings.preset("horowitz_45nm"))
    priced = sim.compile(layer, system, example_inputs=x).cost(x).set_index("term")
    assert priced.loc["input codes", "energy_j"] == pytest.approx(8 * 100 // 2 * 1.25e-12)
    assert priced.loc["addition", "energy_j"] == pytest.approx(8 * 6 * 2 * 0.1e-12)


def test_a_product_of_another_shape_is_refused() -> None:
    class Wrong(OwnMacro):
        def mac(self, inputs: Tensor, weights: Tensor, key: Key | None = None) -> tuple[Tensor, float]:
            return torch.zeros(1), 1.0

    chip = sim.compile(nn.Linear(4, 2), Wrong(), example_inputs=torch.rand(3, 4))
    with pytest.raises(ValueError, match=r"^Method `Wrong.mac` must return codes of shape \(3, 2\), but returned \(1,\); do check it$"):
        chip(torch.rand(3, 4))
