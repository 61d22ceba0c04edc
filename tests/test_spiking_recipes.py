"""Recipes of conversion number by number: thresholds over batches, schedules, potentials, the split of the error, and their warnings."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import simulator as sim
from devices import IntegerArithmetic, NeuromorphicChip, SpikingCore, SpikingNeuron
from simulator import spiking
from simulator.spiking import recipes
from simulator.spiking.recipes import clip_floor, least_error_threshold
from tests import naive_spikes

IDEAL, LOIHI = SpikingCore.preset("ideal"), SpikingCore.preset("loihi1")


def keys(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mlp(*sizes: int, seed: int = 0) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=keys(seed + parameter.numel())) * (2 / parameter.shape[-1]) ** 0.5
    return model.eval()


def best_level(values: Tensor, steps: int) -> float:
    """The candidate with the least mean squared error, tried one by one in double precision."""
    exact, peak = values.double(), float(values.max())
    errors = []
    for i in range(95):
        level = peak * (1 - 0.01 * i)
        errors.append(float((exact - (exact * steps / level).floor().clamp(0, steps) * level / steps).square().mean()))
    return peak * (1 - 0.01 * errors.index(min(errors)))


class TestThresholds:
    def test_batches_are_averaged_with_a_momentum(self) -> None:
        values = torch.rand(40, 30, generator=keys()) ** 2 * torch.linspace(1, 2, 40)[:, None]
        recipe = spiking.LightCalibration(batch=10, batches=3, momentum=0.9)
        levels = [best_level(part, 6) for part in values.split(10)]
        expected = 0.9 * (0.9 * levels[0] + 0.1 * levels[1]) + 0.1 * levels[2]
        assert float(recipe.threshold([values], 6, False)) == pytest.approx(expected, rel=1e-5)
        assert abs(expected - levels[0]) > 1e-3 * expected
        assert recipes.LeastErrorThreshold().model_dump() == {
            "per_channel": False, "samples": 256, "batch": 128, "batches": 7, "momentum": 0.9,
        }  # fmt: skip

    def test_each_channel_is_searched_on_values_of_its_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(recipes, "VALUES", 400)
        values = torch.rand(20, 12, 20, generator=keys(1)) ** 4  # 400 of each channel, all of which are looked at
        found = least_error_threshold(values, 8, per_channel=True).flatten()
        for channel in range(12):
            assert float(found[channel]) == pytest.approx(best_level(values[:, channel], 8), rel=1e-5)

    def test_half_a_threshold_removes_the_bias_on_a_chip(self) -> None:
        # In units of V / T floor is off by -1/2 on average with a mean square of 1/3, rounding by 0 and 1/12.
        model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False))
        for parameter in model.parameters():
            parameter.data = torch.ones_like(parameter)
        x, steps = torch.linspace(0.00003, 1, 16_001)[:, None], 16
        for method, mean, square in (("none", -0.5, 1 / 3), ("optimal", 0.0, 1 / 12)):
            error = (sim.compile(model.eval(), IDEAL, calibration=[(x[-8:],)], timesteps=steps, method=method)(x) - x).double() * steps
            assert float(error.mean()) == pytest.approx(mean, abs=0.003)
            assert float(error.square().mean()) == pytest.approx(square, abs=0.003)


class TestAdvanced:
    def test_the_rate_follows_a_cosine_and_batches_have_their_size(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rates: list[float] = []

        class Spy(torch.optim.Adam):
            def step(self, closure=None):
                rates.append(self.param_groups[0]["lr"])
                return super().step(closure)

        sizes: list[int] = []
        rate = recipes.clip_floor

        def counted(values: Tensor, *rest: object) -> Tensor:
            sizes.append(len(values))
            return rate(values, *rest)

        monkeypatch.setattr(torch.optim, "Adam", Spy)
        monkeypatch.setattr(recipes, "clip_floor", counted)
        recipe = spiking.AdvancedCalibration(iterations=8, learning_rate=1e-3)
        sim.compile(mlp(6, 9, 4), IDEAL, calibration=[(torch.rand(64, 6, generator=keys()),)], timesteps=4, method=recipe)
        assert rates == pytest.approx([1e-3 * 0.5 * (1 + math.cos(math.pi * i / 8)) for i in range(8)])
        assert sizes[-8:] == [32] * 8
        default = spiking.AdvancedCalibration()
        assert (default.samples, default.iterations, default.learning_rate, default.batch_size) == (1024, 5000, 1e-5, 32)

    def test_potentials_beyond_the_threshold_are_simulated(self) -> None:
        model, x = mlp(6, 9, 4), torch.rand(32, 6, generator=keys())
        chip = sim.compile(model, IDEAL, calibration=[(x,)], timesteps=6, method="none")
        population = chip.model.populations["1"]
        population.initial = torch.linspace(-2, 3, 9) * population.threshold
        chip.model.settle()
        counts = spiking.activity(chip, x).counts["1"]
        with torch.no_grad():
            currents = model[0](x)
        level = float(population.threshold)
        for sample in range(4):
            for neuron in range(9):
                start = float(population.initial[neuron])
                expected, _ = naive_spikes.neuron(
                    [float(currents[sample, neuron])] * 6, level, start, number=lambda v: float(torch.tensor(v))
                )
                assert counts[:, sample, neuron].tolist() == expected


class TestErrorSplit:
    @pytest.mark.parametrize("method", ["light", spiking.AdvancedCalibration(iterations=20, learning_rate=1e-2)])
    def test_what_calibration_adds_is_not_inherited(self, method: object) -> None:
        model, x = mlp(6, 9, 7, 4), torch.rand(64, 6, generator=keys())
        chip = sim.compile(model, IDEAL, calibration=[(x,)], timesteps=4, method=method)
        frame = spiking.conversion_error(chip, x).set_index("layer")
        parts = [f"{part}_mean" for part in ("inherited", "calibration", "clipping", "flooring", "unevenness")]
        assert frame[parts].sum(axis=1).tolist() == pytest.approx(frame["total_mean"].tolist(), abs=1e-6)
        layer = chip.model.synapses["0"]
        with torch.no_grad():
            plain = torch.relu(model[0](x))
            changed = torch.relu(nn.functional.linear(x, layer.total_weight(), layer.total_bias()))
        assert frame.loc["1", "inherited_square"] == pytest.approx(0, abs=1e-12)
        assert frame.loc["1", "calibration_mean"] == pytest.approx(float((changed - plain).mean()), abs=1e-6)
        assert frame.loc["1", "calibration_square"] == pytest.approx(float((changed - plain).square().mean()), abs=1e-7)
        assert abs(frame.loc["1", "calibration_mean"]) > 1e-3
        # What the second layer inherits is what the spikes of the first are off, through the weights of the float network.
        fired = spiking.activity(chip, x).counts["1"].float().mean(0) * chip.model.populations["1"].threshold
        with torch.no_grad():
            inherited = torch.relu(model[2](fired)) - torch.relu(model[2](plain))
        assert frame.loc["3", "inherited_mean"] == pytest.approx(float(inherited.mean()), abs=1e-5)
        assert frame.loc["3", "inherited_square"] == pytest.approx(float(inherited.square().mean()), abs=1e-5)

    def test_a_shift_after_pooling_is_calibration_too(self) -> None:
        model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.AvgPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(27, 4)).eval()
        x = torch.rand(64, 1, 8, 8, generator=keys())
        for core in (IDEAL, LOIHI):
            frame = spiking.conversion_error(sim.compile(model, core, calibration=[(x,)], timesteps=8), x).set_index("layer")
            assert frame.loc["2", "inherited_square"] < 1e-8
            assert frame.loc["2", "calibration_square"] > 1e-6


class TestIntegers:
    def test_potentials_and_shifts_have_the_scale_of_thresholds(self) -> None:
        x = torch.rand(64, 1, 8, 8, generator=keys())
        model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 3), nn.AvgPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4))
        for parameter in model.parameters():
            parameter.data = torch.randn(parameter.shape, generator=keys(parameter.numel())) * 0.4
        for method in ("light", spiking.AdvancedCalibration(iterations=0), "optimal"):
            chip = sim.compile(model.eval(), LOIHI, calibration=[(x,)], timesteps=8, method=method)
            held = chip.model._integers
            for name, population in chip.model.populations.items():
                unit = held.thresholds[name] / population.threshold
                for found, exact in ((held.initial[name], population.initial), (held.shift[name], population.shift)):
                    # A threshold is rounded to 64 units, of which there are some thousands.
                    assert float((found - exact * unit).abs().max()) <= 1 + 0.02 * float((exact * unit).abs().max())
        # A shift behind a pool is not in a bias, and counts in the pooled unit: sums of 2 x 2 instead of means.
        assert sim.compile(model, LOIHI, calibration=[(x,)], timesteps=8).model._integers.gain["4"] > 0

    def test_roundings_of_biases_and_potentials_are_reported(self) -> None:
        x = torch.rand(64, 6, generator=keys())
        recipe = spiking.AdvancedCalibration(iterations=0)
        chip = sim.compile(mlp(6, 9, 7, 4), LOIHI, calibration=[(x,)], timesteps=4, method=recipe)
        held, frame = chip.model._integers, spiking.roundings(chip).set_index("layer")
        bias = chip.model.synapses["2"].total_bias()
        error = held.bias["2"].double() / held.gain["2"] - bias
        assert frame.loc["2", "largest_bias"] == int(held.bias["2"].abs().max())
        assert frame.loc["2", "bias_error"] == pytest.approx(float(error.square().mean().sqrt() / bias.double().square().mean().sqrt()))
        assert frame.loc["2", "bias_error"] > 0
        assert 0 < frame.loc["1", "initial_error"] < 0.01 and frame.loc["1", "decay"] == 1

    def test_potentials_beyond_the_membrane_are_reported(self) -> None:
        chip = sim.compile(mlp(6, 9, 4), LOIHI, example_inputs=torch.rand(8, 6, generator=keys()), timesteps=4)
        population = chip.model.populations["1"]
        population.initial = 1000 * population.threshold
        assert spiking.roundings(chip).set_index("layer").loc["1", "initial_error"] > 0.5

    def test_a_slow_leak_stays_a_leak_and_is_reported(self) -> None:
        model = nn.Sequential(nn.Linear(1, 1, bias=False), spiking.LIF(1.0, 0.9999), nn.Linear(1, 1))
        model[0].weight.data.fill_(9e-5)  # the membrane ends at 0.9 of the threshold; without a leak it fires after 11,112 steps
        chip = sim.compile(model.eval(), LOIHI, example_inputs=torch.ones(1, 1), timesteps=12_000)
        assert spiking.activity(chip, torch.ones(1, 1)).counts["1"].sum() == 0
        (warning,) = [one for one in chip.warnings if "decay" in one]
        assert "`1`: 12 bits hold no decay of 0.9999; it is 0.999756, a time constant of 0.41 times" in warning
        assert spiking.roundings(chip).set_index("layer").loc["1", "decay"] == 4095 / 4096
        arithmetic = IntegerArithmetic(weight_bits=8, threshold_bits=8, state_bits=16, decay_bits=4)
        assert [arithmetic.keep(decay) for decay in (0.0, 0.5, 0.99, 1.0)] == [0, 8, 15, 16]
        fast = nn.Sequential(nn.Linear(1, 1), spiking.LIF(1.0, 0.5), nn.Linear(1, 1))
        assert not [one for one in sim.compile(fast, LOIHI, example_inputs=torch.ones(1, 1), timesteps=2).warnings if "decay" in one]


class TestSaid:
    """What a user has to know is a warning or a refusal."""

    def test_fewer_samples_than_asked_for_are_said(self, monkeypatch: pytest.MonkeyPatch) -> None:
        model, x = mlp(6, 40, 4), torch.rand(64, 6, generator=keys())
        monkeypatch.setattr(recipes, "HELD_BYTES", 4 * 8 * 40 * 20)
        said = {}
        for method in ("none", "threshold", "optimal", "light", "advanced"):
            recipe = spiking.AdvancedCalibration(iterations=1) if method == "advanced" else method
            chip = sim.compile(model, IDEAL, calibration=[(x,)], timesteps=8, method=recipe)
            said[method] = [one for one in chip.warnings if "samples" in one]
        assert not any(said[name] for name in ("none", "threshold", "optimal"))
        for name in ("light", "advanced"):
            assert len(said[name]) == 1 and "the spikes of 20 samples, not of 64" in said[name][0]
        enough = sim.compile(model, IDEAL, calibration=[(x[:20],)], timesteps=8, method="light")
        assert not [one for one in enough.warnings if "samples" in one]

    @pytest.mark.parametrize("neuron", [SpikingNeuron(decay=0.5), SpikingNeuron(reset="hard")])
    def test_neurons_that_are_no_relu_are_said(self, neuron: SpikingNeuron) -> None:
        chip = sim.compile(mlp(6, 9, 4), NeuromorphicChip(neuron=neuron), calibration=[(torch.rand(8, 6, generator=keys()),)], timesteps=4)
        assert len(chip.warnings) == 1 and "do not fire at the rate of a ReLU: the conversion of 1 is not exact" in chip.warnings[0]

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_calibration_data_without_numbers_are_refused(self, bad: float) -> None:
        x = torch.rand(8, 6, generator=keys())
        x[3, 2] = bad
        with pytest.raises(ValueError, match="`calibration` must be finite"):
            sim.compile(mlp(6, 9, 4), IDEAL, calibration=[(x,)], timesteps=4)

    def test_relus_beside_trained_neurons_are_refused(self) -> None:
        model = nn.Sequential(nn.Linear(6, 5), spiking.LIF(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
        with pytest.raises(ValueError, match="has both: `3` is a ReLU and `1` a LIF"):
            sim.compile(model, LOIHI, example_inputs=torch.rand(8, 6, generator=keys()), timesteps=4)

    def test_one_layer_is_refused_as_what_it_is(self) -> None:
        with pytest.raises(ValueError, match="but is one layer with weights"):
            sim.compile(nn.Linear(6, 2), LOIHI, example_inputs=torch.rand(8, 6, generator=keys()), timesteps=4)


def test_early_exit_stops_each_sample_at_its_first_sure_step() -> None:
    x, y = torch.rand(50, 6, generator=keys()), torch.arange(50) % 4
    chip = sim.compile(mlp(6, 16, 4), IDEAL, calibration=[(x,)], timesteps=12)
    outputs = chip.model.over_time(x).double()
    # Of the first step: which samples stop at once, and which wait.
    sureness = sorted(float(one) for one in outputs[0].softmax(1).amax(1))
    for share in (0.3, 0.6, 0.9):
        near = range(int(50 * share) - 4, int(50 * share) + 4)
        place = max(near, key=lambda one: sureness[one + 1] - sureness[one])  # so that rounding moves no sample across it
        confidence = (sureness[place] + sureness[place + 1]) / 2
        steps = right = 0
        for n in range(50):
            for t in range(12):
                chances = outputs[: t + 1, n].mean(0).softmax(0)
                if float(chances.max()) >= confidence or t == 11:
                    steps, right = steps + t + 1, right + int(int(chances.argmax()) == int(y[n]))
                    break
        found = spiking.early_exit(chip, (x, y), confidence=confidence)
        assert found.mean_timesteps == steps / 50 and found.accuracy.value == right / 50
        assert 1 < steps / 50 < 12


def test_rates_are_clipped_and_floored_above_only() -> None:
    values = torch.tensor([0.0, 0.5, 0.50001, 2.0])
    assert clip_floor(values, torch.tensor(1.0), 4, strict=True).tolist() == [0.0, 0.25, 0.5, 1.0]
