"""What is counted on cores: sources, synapses, operations and energies, against counts by gradients and by hand."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import simulator as sim
from devices import NeuromorphicChip, SpikingCore
from simulator import spiking

KEYS = torch.Generator().manual_seed(0)
LOIHI = SpikingCore.preset("loihi1")


class Shortcut(nn.Module):
    """A residual whose shortcut has no weights."""

    def __init__(self, neurons: int = 6) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(neurons, neurons), nn.Linear(neurons, neurons), nn.Linear(neurons, 2)
        for parameter in self.parameters():
            parameter.data = torch.rand(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())) + 0.1

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.a(x))
        return self.c(torch.relu(self.b(y) + y))


def ones(*layers: nn.Module, shape: tuple[int, ...]) -> nn.Sequential:
    """A convolution of one place, these layers, ReLU, and a matrix, all weights 1."""
    model = nn.Sequential(nn.Conv2d(shape[0], shape[0], 1), nn.ReLU(), *layers, nn.ReLU(), nn.Flatten(), nn.LazyLinear(1))
    model(torch.ones(1, *shape))
    for parameter in model.parameters():
        parameter.data = torch.ones_like(parameter)
    return model.eval()


class TestSources:
    @settings(max_examples=8, deadline=None)
    @given(
        kernel=st.integers(1, 3), stride=st.integers(1, 3), dilation=st.integers(1, 3), padding=st.integers(0, 2),
        groups=st.sampled_from([1, 2]), pool=st.sampled_from([None, (2, 2, 0), (3, 1, 1), (1, 2, 0)]), neurons=st.integers(9, 40),
    )  # fmt: skip
    def test_axons_are_the_inputs_whose_gradient_is_not_zero(
        self, kernel: int, stride: int, dilation: int, padding: int, groups: int, pool: tuple[int, int, int] | None, neurons: int
    ) -> None:
        pools = [] if pool is None else [nn.AvgPool2d(pool[0], pool[1], pool[2] if pool[2] * 2 <= pool[0] else 0)]
        layers = [*pools, nn.Conv2d(2, 2, kernel, stride, padding, dilation, groups)]
        side = 8
        pooled = side if not pools else (side + 2 * pools[0].padding - pools[0].kernel_size) // pools[0].stride + 1
        assume(pooled + 2 * padding > dilation * (kernel - 1))
        model = ones(*layers, shape=(2, side, side))
        x = torch.ones(1, 2, side, side)
        chip = sim.compile(model, NeuromorphicChip(neurons=neurons, one_population=True), calibration=[(x,)], timesteps=1, method="none")
        name = str(1 + len(layers) + 1)
        placed = spiking.cores(chip).tiles
        tiles = [tile for tile in placed if tile.layer == name]
        assert tiles
        spikes = torch.ones(1, 2, side, side, requires_grad=True)
        outputs = nn.Sequential(*layers)(spikes)[0]
        needed = torch.zeros(2, side, side, dtype=torch.int64)
        for tile in tiles:
            box = tuple(slice(start, stop) for start, stop in tile.box)
            (gradient,) = torch.autograd.grad(outputs[box].sum(), spikes, retain_graph=True)
            assert tile.used["axons_in"] == int(gradient.count_nonzero())
            needed += gradient[0] != 0
        for tile in placed:
            if tile.layer == "1":
                assert tile.used["axons_out"] == int(needed[tuple(slice(start, stop) for start, stop in tile.box)].sum())

    def test_dilation_and_stride_leave_holes(self) -> None:
        model = ones(nn.Conv2d(20, 2, 3, dilation=4), shape=(20, 16, 16))
        chip = sim.compile(model, NeuromorphicChip(axons_in=1000), example_inputs=torch.ones(1, 20, 16, 16), timesteps=1, method="none")
        assert spiking.cores(chip).layer_frame.set_index("layer").loc["3", "fan_in"] == 9 * 20
        strided = ones(nn.Conv2d(4, 2, 1, stride=4), shape=(4, 16, 16))
        chip = sim.compile(strided, LOIHI, example_inputs=torch.ones(1, 4, 16, 16), timesteps=1, method="none")
        (tile,) = [tile for tile in spiking.cores(chip).tiles if tile.layer == "3"]
        (source,) = [tile for tile in spiking.cores(chip).tiles if tile.layer == "1"]
        assert tile.used["axons_in"] == source.used["axons_out"] == 4 * 4 * 4

    def test_a_shortcut_takes_memory_of_its_own_but_no_second_axon(self) -> None:
        chip = sim.compile(Shortcut().eval(), LOIHI, example_inputs=torch.rand(8, 6, generator=KEYS), timesteps=4)
        tiles = {tile.layer: tile.used for tile in spiking.cores(chip).tiles}
        assert tiles["relu_1"]["synapse_bits"] == (36 + 6) * 8 and tiles["relu_1"]["axons_in"] == 6
        assert tiles["c"]["synapse_bits"] == 12 * 8 and tiles["c"]["axons_out"] == 0
        # Each neuron sends once to each tile that needs it: to its own layer's successor, and nowhere else.
        assert tiles["relu"]["axons_out"] == 6 and tiles["relu_1"]["axons_out"] == 6

    def test_a_sparse_matrix_names_its_targets(self) -> None:
        model = nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 32))
        model[2].weight.data = torch.eye(32, 64)
        chip = sim.compile(model.eval(), LOIHI, example_inputs=torch.rand(8, 4, generator=KEYS), timesteps=2)
        used = {tile.layer: tile.used for tile in spiking.cores(chip).tiles}
        assert used["2"]["synapse_bits"] == 32 * (8 + 10)  # a weight and one of 1024 targets


class TestOperations:
    @pytest.mark.parametrize("core", [SpikingCore.preset("ideal"), LOIHI])
    def test_spikes_on_a_shortcut_are_operations(self, core: SpikingCore) -> None:
        x = torch.rand(16, 6, generator=KEYS)
        chip = sim.compile(Shortcut().eval(), core, calibration=[(x,)], timesteps=4)
        found = spiking.activity(chip, x)
        sent = found.counts["relu"].sum((1, 2), dtype=torch.int64)
        assert found.synops["add"].tolist() == sent.tolist() and found.synops["b"].tolist() == (6 * sent).tolist()
        assert found.layers.set_index("layer").loc["add"].to_dict()["synops_per_sample"] == int(sent.sum()) / 16
        cost = chip.cost(x).set_index(["layer", "term"])
        assert cost.loc[("add", "synapse"), "operations"] == int(sent.sum())

    def test_spikes_that_reach_neurons_without_weights_are_operations(self) -> None:
        model = ones(nn.AvgPool2d(2), shape=(1, 4, 4))
        x = torch.rand(4, 1, 4, 4, generator=KEYS)
        chip = sim.compile(model, LOIHI, calibration=[(x,)], timesteps=3, method="none")
        found = spiking.activity(chip, x)
        assert found.synops["3"].tolist() == found.counts["1"].sum((1, 2, 3, 4), dtype=torch.int64).tolist()
        assert (spiking.cores(chip).layer_frame.set_index("layer").loc["3", "fan_in"]) == 4

    def test_weights_that_are_rounded_to_zero_are_not_used(self) -> None:
        model = nn.Sequential(nn.Linear(5, 30), nn.ReLU(), nn.Linear(30, 1))
        for parameter in model.parameters():
            parameter.data = torch.full(parameter.shape, 0.5)
        model[2].weight.data = torch.full((1, 30), 1e-4)
        model[2].weight.data[0, 7] = 1.0
        x = torch.rand(8, 5, generator=KEYS)
        for core, each in ((SpikingCore.preset("ideal"), slice(None)), (LOIHI, slice(7, 8))):
            found = spiking.activity(sim.compile(model.eval(), core, calibration=[(x,)], timesteps=6), x)
            assert found.synops["2"].sum() == found.counts["1"][:, :, each].sum(dtype=torch.int64) > 0

    def test_weights_that_calibration_adds_are_used(self) -> None:
        model, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)), torch.rand(64, 6, generator=KEYS)
        for parameter in model.parameters():
            parameter.data = torch.rand(parameter.shape, generator=KEYS)
        model[2].weight.data *= torch.eye(8)
        recipe = spiking.AdvancedCalibration(iterations=3, learning_rate=1e-3)
        chip = sim.compile(model.eval(), SpikingCore.preset("ideal"), calibration=[(x,)], timesteps=4, method=recipe)
        found, weight = spiking.activity(chip, x), chip.model.synapses["2"].total_weight()
        by_hand = found.counts["1"].sum((0, 1), dtype=torch.int64) @ (weight != 0).sum(0)
        assert int(found.synops["2"].sum()) == int(by_hand) > 8 * 8


class TestEnergy:
    def test_each_event_costs_what_it_costs(self) -> None:
        core = NeuromorphicChip(energy={"spike_j": "7 pJ", "update_j": "5 pJ", "synapse_j": 0})
        x = torch.rand(16, 6, generator=KEYS)
        chip = sim.compile(Shortcut().eval(), core, calibration=[(x,)], timesteps=4)
        cost = chip.cost(x).set_index(["layer", "term"])
        spikes = int(spiking.activity(chip, x).counts["relu"].sum(dtype=torch.int64))
        assert cost.loc[("relu", "spike"), "energy_j"] == pytest.approx(spikes * 7e-12)
        assert cost.loc[("relu_1", "update"), "energy_j"] == pytest.approx(6 * 4 * 16 * 5e-12)
        assert cost.loc[("b", "synapse"), "energy_j"] == 0 and cost.loc[("b", "synapse"), "note"] == ""

    def test_copies_of_a_neuron_are_updated_and_spike_too(self) -> None:
        core = NeuromorphicChip(
            neurons=40, fan_out=1, replication=True, one_population=True, energy={"update_j": "5 pJ", "spike_j": "7 pJ"}
        )
        model = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 100))
        for parameter in model.parameters():
            parameter.data = torch.rand(parameter.shape, generator=KEYS)
        x = torch.rand(4, 6, generator=KEYS)
        chip = sim.compile(model.eval(), core, calibration=[(x,)], timesteps=3)
        cost = chip.cost(x).set_index(["layer", "term"])["energy_j"]
        spikes = int(spiking.activity(chip, x).counts["1"].sum(dtype=torch.int64))
        assert cost["1", "update"] == pytest.approx(3 * 10 * 3 * 4 * 5e-12) and cost["1", "spike"] == pytest.approx(3 * spikes * 7e-12)

    def test_convolutions_have_an_energy_of_their_own(self) -> None:
        x = torch.rand(4, 1, 6, 6, generator=KEYS)
        chip = sim.compile(ones(nn.Conv2d(1, 2, 3), shape=(1, 6, 6)), LOIHI, calibration=[(x,)], timesteps=3, method="none")
        found, cost = spiking.activity(chip, x).synops, chip.cost(x).set_index(["layer", "term"])["energy_j"]
        assert cost["2", "convolution synapse"] == pytest.approx(int(found["2"].sum()) * 24e-12)
        assert cost["5", "synapse"] == pytest.approx(int(found["5"].sum()) * 35.5e-12)

    def test_the_published_power_of_a_running_chip_is_told_beside_that_at_rest(self) -> None:
        speck, x = SpikingCore.preset("speck"), torch.rand(4, 1, 6, 6, generator=KEYS)
        frame = sim.compile(ones(shape=(1, 6, 6)), speck, calibration=[(x,)], timesteps=3, method="none").cost(x)
        rest = frame[frame["static"]].iloc[0]
        assert rest["power_watt"] == pytest.approx(0.42e-3) and "published while running, with that at rest: 0.7 mW" in rest["note"]


def test_spikes_past_a_shortcut_wait_for_the_others() -> None:
    class Long(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers, self.head = nn.ModuleList(nn.Linear(4, 4) for _ in range(4)), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            first = torch.relu(self.layers[0](x))
            second = torch.relu(self.layers[1](first))
            third = torch.relu(self.layers[2](second))
            return self.head(torch.relu(self.layers[3](third) + first))

    chip = sim.compile(Long().eval(), LOIHI, example_inputs=torch.rand(4, 4, generator=KEYS), timesteps=2)
    assert spiking.cores(chip).layer_frame["delay"].tolist() == [0, 0, 0, 2, 0]


def test_a_picture_shows_every_layer_of_a_core() -> None:
    model = nn.Sequential(nn.Linear(3, 40), nn.ReLU(), nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 20))
    core = NeuromorphicChip(cores=4, neurons=100)
    figure = spiking.cores(sim.compile(model.eval(), core, example_inputs=torch.rand(4, 3, generator=KEYS), timesteps=2)).figure()
    filled = [patch for patch in figure.axes[0].patches if patch.get_fill() and patch.get_height() > 0]
    assert sorted(round(patch.get_height() / 0.9, 6) for patch in filled) == [0.2, 0.3, 0.4]
    assert len({patch.get_facecolor() for patch in filled}) == 3


def test_every_layer_that_does_not_fit_is_refused_by_name() -> None:
    model = nn.Sequential(nn.Linear(6, 300), nn.ReLU(), nn.Linear(300, 280), nn.ReLU(), nn.Linear(280, 4))
    with pytest.raises(
        ValueError, match=r"^Layer `3` does not fit: a neuron has 300 inputs[^\n]*; and: Layer `4` [^\n]* 280 inputs[^\n]*$"
    ):
        sim.compile(model.eval(), SpikingCore.preset("truenorth"), example_inputs=torch.rand(4, 6, generator=KEYS), timesteps=2)


def test_a_rest_of_zero_watt_is_not_an_unknown_one() -> None:
    chip = sim.compile(
        Shortcut().eval(),
        NeuromorphicChip(tick_s=1e-3, energy={"static_watt": 0}),
        example_inputs=torch.rand(4, 6, generator=KEYS),
        timesteps=2,
    )
    rest = chip.cost(torch.rand(2, 6, generator=KEYS))
    assert rest[rest["static"]].iloc[0]["energy_j"] == 0


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (
            lambda chip, x: spiking.activity(chip, x[:0]),
            "`inputs` must be a tensor of at least one sample, but got a tensor of shape (0, 6)",
        ),
        (lambda chip, x: chip.cost(x[:0]), "`inputs` must be a tensor of at least one sample"),
        (lambda chip, x: spiking.activity(chip, x.numpy()), "`inputs` must be a tensor of at least one sample, but got ndarray"),
        (lambda chip, x: spiking.cores(Shortcut()), "`chip` must be a chip, but got Shortcut"),
        (lambda chip, x: spiking.roundings(Shortcut()), "`chip` must be a chip"),
        (lambda chip, x: spiking.early_exit(chip, (x, torch.zeros(8)), batch_size=0), "`batch_size` must be"),
        (lambda chip, x: spiking.early_exit(chip, (x, torch.zeros(8)), confidence="a"), "`confidence` must be above 0"),
        (lambda chip, x: spiking.accuracy_over_time(chip, (x, torch.zeros(8, 2))), "targets of shape (8,), but got (8, 2)"),
        (lambda chip, x: spiking.conversion_error(chip, x * torch.nan), "`data` must have finite samples, but they hold NaN"),
        (lambda chip, x: spiking.conversion_error(chip, x[:0]), "`data` must have finite samples, but they have none"),
        (lambda chip, x: spiking.conversion_error(chip, x, samples=0), "`samples` must be an integer of at least 1"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_line(call, line: str) -> None:
    x = torch.rand(8, 6, generator=KEYS)
    chip = sim.compile(Shortcut().eval(), SpikingCore.preset("ideal"), example_inputs=x, timesteps=4)
    with pytest.raises(ValueError, match=r"^Argument [^\n]*$") as error:
        call(chip, x)
    assert line in str(error.value)
