"""Converted networks: thresholds by hand, rates in closed form, the error's parts, accuracy on digits, and refusals by name."""

import copy
import functools

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import simulator as sim
from benchmarks.snn_calibration import network
from devices import NeuromorphicChip, SpikingCore
from simulator import spiking
from simulator.data import digits
from simulator.models import digits_mlp
from simulator.spiking.recipes import clip_floor, least_error_threshold
from simulator.statistics import mean_interval

IDEAL = SpikingCore.preset("ideal")
KEYS = torch.Generator().manual_seed(0)


@functools.cache
def trained() -> nn.Module:
    model = digits_mlp(seed=0)
    sim.fit(model, digits().train_batches(), epochs=15)
    return model


def draw(model: nn.Module, scale: float = 1.0) -> nn.Module:
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 50
        parameter.data = torch.randn(parameter.shape, generator=generator) * scale * (2 / fan_in) ** 0.5
    return model.eval()


class Residual(nn.Module):
    """Shortcuts with and without weights, batch norm, both kinds of pooling, a concatenation and a functional ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.first, self.second = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 6, 3, 2, 1)
        self.shortcut = nn.Conv2d(4, 6, 1, 2)
        self.pool, self.head = nn.AdaptiveAvgPool2d(2), nn.Linear(40, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.relu(self.first(x) + x)
        z = torch.relu(self.second(y) + self.shortcut(x))
        joined = torch.cat((self.pool(z), F.avg_pool2d(y, 4)), 1)
        return self.head(joined.flatten(1))


def pictures(count: int = 16) -> Tensor:
    return torch.rand(count, 2, 8, 8, generator=torch.Generator().manual_seed(3))


class TestThresholds:
    def test_least_error_is_the_best_of_the_candidates(self) -> None:
        values = torch.rand(40, 3, 5, generator=KEYS) ** 3
        found = least_error_threshold(values, 6)
        errors = [float((values - clip_floor(values, values.max() * (1 - 0.01 * i), 6)).square().mean()) for i in range(95)]
        assert float(found) == pytest.approx(float(values.max()) * (1 - 0.01 * errors.index(min(errors))), rel=1e-6)
        each = least_error_threshold(values, 6, per_channel=True)
        assert each.shape == (3, 1)
        for channel in range(3):
            assert float(each[channel]) == pytest.approx(float(least_error_threshold(values[:, channel : channel + 1], 6)), rel=1e-6)

    def test_half_a_threshold_removes_the_bias_of_flooring(self) -> None:
        # In units of V / T the error of floor is -1/2 on average with a mean square of 1/3, that of rounding 0 and 1/12.
        values = torch.rand(200_000, generator=KEYS, dtype=torch.float64)
        steps = 16
        floored = clip_floor(values, torch.tensor(1.0, dtype=torch.float64), steps) - values
        shifted = clip_floor(values + 0.5 / steps, torch.tensor(1.0, dtype=torch.float64), steps) - values
        assert float(floored.mean()) * steps == pytest.approx(-0.5, abs=0.005)
        assert float(floored.square().mean()) * steps**2 == pytest.approx(0.333, abs=0.005)
        assert float(shifted.mean()) * steps == pytest.approx(0.0, abs=0.005)
        assert float(shifted.square().mean()) * steps**2 == pytest.approx(0.083, abs=0.002)

    def test_the_recipes_set_what_they_say(self) -> None:
        model, x = draw(digits_mlp(hidden=12)), torch.rand(64, 1, 8, 8, generator=KEYS)
        chips = {name: sim.compile(model, IDEAL, calibration=[(x,)], timesteps=8, method=name) for name in ("none", "optimal", "threshold")}
        with torch.no_grad():
            activation = model.features[:3](x)
        for name in ("none", "optimal"):
            assert float(chips[name].model.populations["features.2"].threshold) == pytest.approx(float(activation.max()), rel=1e-6)
        optimal = chips["optimal"].model.populations["features.2"]
        assert float(optimal.initial) == pytest.approx(float(optimal.threshold) / 2)
        best = least_error_threshold(activation, 8)
        assert float(chips["threshold"].model.populations["features.2"].threshold) == pytest.approx(float(best), rel=1e-5)


class TestRates:
    def test_a_constant_current_gives_the_closed_form(self) -> None:
        model, x = draw(nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4))), torch.rand(32, 6, generator=KEYS)
        for steps in (1, 4, 32):
            chip = sim.compile(model, IDEAL, calibration=[(x,)], timesteps=steps, method="none")
            level = chip.model.populations["1"].threshold
            with torch.no_grad():
                rates = clip_floor(model[0](x), level, steps)
                torch.testing.assert_close(chip(x), model[2](rates), atol=2e-5, rtol=1e-5)

    def test_long_runs_come_near_the_float_network(self) -> None:
        model = draw(Residual())
        x = pictures()
        chip = sim.compile(model, IDEAL, calibration=[(x,)], timesteps=1024, method="none")
        with torch.no_grad():
            exact = model(x)
        assert float((chip(x) - exact).abs().max() / exact.abs().max()) < 0.03
        with chip.reference():
            torch.testing.assert_close(chip(x), exact, atol=1e-5, rtol=1e-5)

    def test_spiking_is_what_torch_computes_step_by_step(self) -> None:
        model = draw(Residual())
        x = pictures(6)
        chip = sim.compile(model, IDEAL, calibration=[(x,)], timesteps=7, method="light")
        with torch.no_grad():
            torch.testing.assert_close(chip.model.over_time(x), step_by_step(model, chip, x), atol=1e-4, rtol=1e-4)

    def test_currents_that_are_never_stored_fire_the_same_spikes(self) -> None:
        # Looking at the stages makes the network compute each of them; all goes by events, which a rate of 0 chooses.
        x = pictures(6)
        chip = sim.compile(draw(Residual()), IDEAL, calibration=[(x,)], timesteps=7, method="light")
        assert {"first", "add", "second", "shortcut", "add_1"} <= chip.model.layout.joined
        for synapses in chip.model.synapses.values():
            synapses.rate = torch.tensor(0.0)
        seen: list[str] = []
        stored = chip.model.over_time(x, lambda name, *_: seen.append(name))
        assert seen == list(chip.model.layout.names)
        assert torch.equal(chip.model.over_time(x), stored)

    def test_light_makes_means_equal(self) -> None:
        model, x = (
            draw(nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))),
            pictures(64),
        )
        gaps = {}
        for method in ("threshold", "light"):
            frame = spiking.conversion_error(sim.compile(model, IDEAL, calibration=[(x,)], timesteps=16, method=method), x)
            gaps[method] = frame["total_mean"].abs()
        assert (gaps["light"] < 0.5 * gaps["threshold"]).all()

    def test_advanced_starts_each_neuron_where_its_mean_error_was(self) -> None:
        model, x = draw(nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4))), torch.rand(64, 6, generator=KEYS)
        recipe = spiking.AdvancedCalibration(iterations=0)
        chip = sim.compile(model, IDEAL, calibration=[(x,)], timesteps=8, method=recipe)
        population = chip.model.populations["1"]
        with torch.no_grad():
            current = model[0](x)
            expected = 8 * (torch.relu(current) - clip_floor(current, population.threshold, 8)).mean(0)
        torch.testing.assert_close(population.initial, expected, atol=1e-4, rtol=1e-4)

    def test_fitting_weights_lowers_the_error(self) -> None:
        model, x = draw(digits_mlp(hidden=16)), torch.rand(256, 1, 8, 8, generator=KEYS)
        recipe = spiking.AdvancedCalibration(iterations=300, learning_rate=1e-3)
        chip = sim.compile(model, IDEAL, calibration=[(x,)], timesteps=4, method=recipe)
        layer, level = chip.model.synapses["features.1"], chip.model.populations["features.2"].threshold
        with torch.no_grad():
            flat = x.flatten(1)
            currents = layer.reference(flat), layer.dense(flat, layer.total_weight(), layer.total_bias())
            errors = [float((clip_floor(z, level, 4) - torch.relu(currents[0])).square().mean()) for z in currents]
        assert errors[1] < 0.6 * errors[0]
        assert torch.equal(layer.weight, model.features[1].weight)  # the float network stays what it was


def step_by_step(model: Residual, chip: sim.Chip, x: Tensor) -> Tensor:
    """The same network in plain torch, one step after the other, with the thresholds and shifts of the chip."""
    membranes: list[Tensor | float] = [0.0, 0.0, 0.0]
    outputs = []

    def fire(place: int, current: Tensor) -> Tensor:
        population = list(chip.model.populations.values())[place]
        v = membranes[place] + current + population.shift
        spikes = (v >= population.threshold).float()
        membranes[place] = v - spikes * population.threshold
        return spikes * population.threshold

    for _ in range(chip.model.timesteps):
        a = fire(0, model.stem[1](model.stem[0](x)))
        y = fire(1, model.first(a) + a)
        z = fire(2, model.second(y) + model.shortcut(a))
        joined = torch.cat((model.pool(z), F.avg_pool2d(y, 4)), 1)
        outputs.append(model.head(joined.flatten(1)))
    return torch.stack(outputs)


class TestErrorSplit:
    def test_the_parts_add_up_and_mean_what_they_say(self) -> None:
        model, x = (
            draw(nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 4))),
            torch.rand(64, 6, generator=KEYS),
        )
        chip = sim.compile(model, IDEAL, calibration=[(x[:8],)], timesteps=6, method="threshold")
        frame = spiking.conversion_error(chip, x).set_index("layer")
        total = frame[["inherited_mean", "clipping_mean", "flooring_mean", "unevenness_mean"]].sum(axis=1)
        assert total.tolist() == pytest.approx(frame["total_mean"].tolist(), abs=1e-6)
        first = frame.loc["1"]
        with torch.no_grad():
            a = torch.relu(model[0](x))
        level = chip.model.populations["1"].threshold
        assert first["inherited_square"] == pytest.approx(0, abs=1e-10) and first["unevenness_square"] == pytest.approx(0, abs=1e-10)
        assert first["clipping_mean"] == pytest.approx(float((a.clamp(max=level) - a).mean()), abs=1e-6)
        assert first["flooring_mean"] == pytest.approx(float((clip_floor(a, level, 6) - a.clamp(max=level)).mean()), abs=1e-5)
        assert frame.loc["3", "inherited_square"] > 0

    def test_unevenness_is_seen(self) -> None:
        # Two inputs that fire at different times: the neuron sees +2, then -2, and fires although the mean is 0.
        model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False), nn.ReLU(), nn.Linear(1, 1))
        with torch.no_grad():
            model[0].weight.copy_(torch.eye(2))
            model[2].weight.copy_(torch.tensor([[2.0, -2.0]]))
        x = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
        chip = sim.compile(model, IDEAL, calibration=[(x,)], timesteps=2, method="none")
        chip.model.populations["1"].initial = torch.tensor([0.5, 0.0])
        chip.model.settle()
        frame = spiking.conversion_error(chip, x[1:]).set_index("layer")
        assert frame.loc["3", "inherited_mean"] == 0 and frame.loc["3", "unevenness_mean"] > 0

    def test_trained_networks_are_refused(self) -> None:
        chip = sim.compile(nn.Sequential(nn.Linear(2, 2), spiking.LIF()), IDEAL, example_inputs=torch.ones(1, 2), timesteps=2)
        with pytest.raises(ValueError, match="trained with spikes"):
            spiking.conversion_error(chip, torch.ones(1, 2))


class TestShapes:
    """Where the channels lie: first after convolutions in one to three dimensions, last after linear layers of tokens."""

    @pytest.mark.parametrize(
        "method", [spiking.LightCalibration(per_channel=True), spiking.AdvancedCalibration(per_channel=True, iterations=2)]
    )
    @pytest.mark.parametrize(
        ("layers", "shape"),
        [
            ([nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 4)], (3, 6)),
            ([nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 5), nn.ReLU(), nn.Flatten(), nn.Linear(15, 4)], (3, 6)),
            ([nn.Conv1d(2, 4, 3), nn.ReLU(), nn.Conv1d(4, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4)], (2, 8)),
            ([nn.Conv3d(1, 3, 3), nn.ReLU(), nn.Conv3d(3, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(2, 4)], (1, 4, 4, 4)),
        ],
    )  # fmt: skip
    def test_thresholds_by_channel_come_near_the_float_network(
        self, layers: list[nn.Module], shape: tuple[int, ...], method: object
    ) -> None:
        model, x = draw(nn.Sequential(*layers)), torch.rand(24, *shape, generator=KEYS)
        chip = sim.compile(model, IDEAL, calibration=[(x,)], timesteps=256, method=method)
        channels = [layer.weight.shape[0] for layer in layers if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv3d)]
        found = [population.threshold.numel() for population in chip.model.populations.values()]
        assert found == channels[: len(found)]
        with torch.no_grad():
            exact = model(x)
            assert float((chip(x) - exact).abs().max() / exact.abs().max()) < 0.03
        integer = sim.compile(model, SpikingCore.preset("loihi1"), calibration=[(x,)], timesteps=256, method=method)
        assert float((integer(x) - exact).abs().max() / exact.abs().max()) < 0.2

    def test_pools_after_pools_count_beyond_eight_bits(self) -> None:
        # Every neuron spikes at every step: 16 x 16 places in two pools, and in one, are 256 spikes a step.
        x = torch.ones(2, 1, 16, 16)
        for pools in ([nn.AvgPool2d(4), nn.AvgPool2d(4)], [nn.AvgPool2d(16)], [nn.AdaptiveAvgPool2d(1)]):
            model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), *pools, nn.Flatten(), nn.Linear(1, 1))
            for parameter in model.parameters():
                parameter.data = torch.ones_like(parameter)
            for core in (IDEAL, SpikingCore.preset("loihi1")):
                chip = sim.compile(model.eval(), core, calibration=[(x,)], timesteps=4, method="none")
                assert float(chip(x)[0, 0]) == pytest.approx(float(model(x)[0, 0].detach()), rel=0.3 if core is not IDEAL else 1e-5)

    def test_a_matrix_along_the_width_of_images_takes_one_threshold(self) -> None:
        layers = [nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2)]
        x = torch.rand(8, 1, 8, 8, generator=KEYS)
        chip = sim.compile(draw(nn.Sequential(*layers)), IDEAL, calibration=[(x,)], timesteps=8, method="light")
        assert chip(x).shape == (8, 2)
        with pytest.raises(ValueError, match="spikes of one input must be worth the same everywhere"):
            sim.compile(nn.Sequential(*layers), IDEAL, calibration=[(x,)], timesteps=8, method=spiking.LightCalibration(per_channel=True))


@pytest.mark.long
class TestDigits:
    def test_calibrated_is_within_half_a_point_at_32_steps(self) -> None:
        split = digits()
        chip = sim.compile(trained(), IDEAL, calibration=split.train_batches(), timesteps=32, method="calibrated")
        result = sim.evaluate(chip, split.test_batches(), trials=1, progress=False)
        assert abs(result.mean().value - result.reference["accuracy"]) <= 0.005

    def test_light_beats_none_and_advanced_is_not_worse_at_eight_steps(self) -> None:
        # The convolutional network of the benchmark: in networks of one or two hidden layers there is little to calibrate.
        split = digits()
        x, y = split.test.tensors
        seen = split.train.tensors[0][:128]
        methods = ("none", spiking.LightCalibration(samples=128), spiking.AdvancedCalibration(iterations=5, samples=128))
        points: list[list[float]] = []
        for seed in range(5):
            model = network(seed)
            sim.fit(model, split.train_batches(seed=seed), epochs=2, seed=seed)
            chips = [sim.compile(model, IDEAL, calibration=[(seen,)], timesteps=8, method=one) for one in methods]
            points.append([100 * float((chip(x).argmax(1) == y).float().mean()) for chip in chips])
        none, light, advanced = zip(*points, strict=True)
        # Network by network, with 95 % t-intervals of the mean difference.
        assert mean_interval([after - before for after, before in zip(light, none, strict=True)]).low > 0
        assert mean_interval([after - before for after, before in zip(advanced, none, strict=True)]).low > 0
        # Two points are what five networks of 360 test images can tell apart: a wide interval fails, as does a worse recipe.
        assert mean_interval([after - before for after, before in zip(advanced, light, strict=True)]).low > -2

    def test_all_steps_in_one_pass_are_the_single_evaluations(self) -> None:
        split = digits()
        chip = sim.compile(trained(), IDEAL, calibration=split.train_batches(), timesteps=16, method="light")
        over = spiking.accuracy_over_time(chip, split.test_batches())
        x, y = split.test.tensors
        outputs = chip.model.over_time(x)
        for steps in (1, 5, 16):
            assert over.at(steps).value == pytest.approx(float((outputs[:steps].mean(0).argmax(1) == y).float().mean()))
        leave = spiking.early_exit(chip, split.test_batches(), confidence=0.9)
        assert leave.full_accuracy == pytest.approx(over.at(16).value) and 1 < leave.mean_timesteps < 16

    @pytest.mark.parametrize("core", ["ideal", "loihi1", "speck"])
    def test_a_chip_is_a_module(self, core: str) -> None:
        split = digits()
        x = split.test.tensors[0][:32]
        chip = sim.compile(
            trained(),
            SpikingCore.preset(core),
            calibration=split.train_batches(),
            timesteps=8,
            method=spiking.AdvancedCalibration(iterations=5),
        )
        first = chip(x)
        assert torch.equal(first, chip(x)) and torch.equal(copy.deepcopy(chip)(x), first)
        fresh = sim.compile(trained(), SpikingCore.preset(core), example_inputs=x[:2], timesteps=8, method="light")
        fresh.load_state_dict(chip.state_dict())
        assert torch.equal(fresh(x), first)
        assert set(chip.coverage["hardware"]) == {"host", "NeuromorphicChip"}
        assert chip.coverage["macs"].sum() == 64 * (64 * 128 + 128 * 128 + 128 * 10)  # of a batch of 64


class MaxPooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.pool = nn.Conv2d(2, 2, 3), nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(torch.relu(self.convolution(x)))


class UnfoldableNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.convolution = nn.BatchNorm2d(2), nn.Conv2d(2, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.convolution(self.norm(x)))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layer(torch.relu(self.layer(x))))


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layer(x)) if x.sum() > 0 else x


@pytest.mark.parametrize(
    ("model", "shape", "line"),
    [
        (MaxPooled(), (2, 8, 8), "Layer `pool` (MaxPool2d) cannot become spiking: the maximum of rates is not that of spikes"),
        (UnfoldableNorm(), (2, 8, 8), "Layer `norm` (BatchNorm2d) cannot become spiking: batch norm does not"),
        (nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 2)), (4,), "Layer `1` (GELU) cannot become spiking"),
        (nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.ReLU()), (4,), "Layer `1` (Linear) cannot become spiking: it follows `0` with"),
        (nn.Sequential(nn.Linear(4, 4), nn.LeakyReLU()), (4,), "Layer `1` (LeakyReLU) cannot become spiking"),
        (nn.Sequential(nn.Linear(4, 4)), (4,), "must have a ReLU or spiking neurons"),
        (nn.Sequential(nn.Conv2d(2, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4)), (2, 8, 8), "windows of several sizes"),
        (Twice(), (4,), "Layer `layer_1` (Linear) cannot become spiking: it is called twice (as `layer` before)"),
        (Branches(), (4,), "torch.fx can capture"),
    ],
)  # fmt: skip
def test_what_cannot_be_converted_is_refused_by_name(model: nn.Module, shape: tuple[int, ...], line: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        sim.compile(model.eval(), IDEAL, example_inputs=torch.rand(2, *shape), timesteps=4)
    assert line in str(error.value)


@pytest.mark.parametrize("steps", [0, -3, 2.5, None, True, np.int64(0), np.float64(4)])
def test_time_steps_are_refused(steps) -> None:
    with pytest.raises(ValueError, match="`timesteps` must be an integer of at least 1"):
        sim.compile(trained(), IDEAL, example_inputs=torch.rand(2, 1, 8, 8), timesteps=steps)


def test_numbers_of_numpy_are_time_steps() -> None:
    chip = sim.compile(trained(), IDEAL, example_inputs=torch.rand(2, 1, 8, 8), timesteps=np.int64(4))
    assert chip.model.timesteps == 4 and type(chip.model.timesteps) is int


def test_other_arguments_are_refused() -> None:
    x = torch.rand(2, 1, 8, 8)
    with pytest.raises(ValueError, match="`method` must be one of none, threshold.*did you mean 'light'"):
        sim.compile(trained(), IDEAL, example_inputs=x, timesteps=4, method="ligth")
    with pytest.raises(ValueError, match="`example_inputs` must be one tensor"):
        sim.compile(trained(), IDEAL, timesteps=4)
    chip = sim.compile(trained(), IDEAL, example_inputs=x, timesteps=4)
    with pytest.raises(ValueError, match="input must have shape"):
        chip(torch.rand(2, 64))
    with pytest.raises(ValueError, match=r"^Layer `.*`: the input must be a tensor of shape \(batch, 1, 8, 8\), but got list; make it"):
        chip([1, 2])
    chip.train()
    with pytest.raises(RuntimeError, match="cannot be trained there"):
        chip(x)
    chip.eval().model.populations["features.2"].threshold = torch.tensor(-1.0)
    chip.model.settle()
    with pytest.raises(ValueError, match="`features.2`: a threshold must be above 0, but got -1"):
        chip(x)


def test_maximum_pooling_runs_on_a_core_that_has_it() -> None:
    model, x = draw(MaxPooled()), pictures(4)
    chip = sim.compile(model, NeuromorphicChip(max_pooling=True), calibration=[(x,)], timesteps=256, method="none")
    with torch.no_grad():
        exact = model(x)
    # The maximum of spikes fires at least as often as the most active input.
    assert bool((chip(x) > exact - 0.02 * exact.max()).all())


def test_a_core_of_ones_own_fires_by_its_own_rule() -> None:
    class TwiceAsHard(SpikingCore):
        """Neurons that need twice the threshold, and give it all up."""

        def step(self, state, current, threshold):
            v = state.get("membrane", torch.zeros_like(current)) + current
            fired = (v >= 2 * threshold).float()
            return {"membrane": v - 2 * threshold * fired}, fired

        def limits(self, core: int = 0) -> dict[str, int]:
            return {"neurons": 8}

        def ideal(self):
            return self

    model, x = draw(nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4))), torch.rand(32, 6, generator=KEYS)
    chip = sim.compile(model, TwiceAsHard(), calibration=[(x,)], timesteps=16, method="none")
    level = chip.model.populations["1"].threshold
    with torch.no_grad():
        torch.testing.assert_close(chip(x), model[2](clip_floor(model[0](x), 2 * level, 16) / 2), atol=1e-4, rtol=1e-4)
    assert spiking.cores(chip).cores_of() == {"1": 2, "2": 1}
