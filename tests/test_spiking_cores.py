"""Neuromorphic cores: presets, integers bit by bit, placement counted by hand, refusals, activity and energy."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import simulator as sim
from devices import DesignError, IntegerArithmetic, NeuromorphicChip, SpikingCore, SpikingNeuron
from devices.catalog import unsourced_fields
from kernels.spikes import integrate_and_fire_fixed
from simulator import spiking
from simulator.spiking.synapses import Synapses
from tests import naive_spikes


def mlp(*sizes: int, seed: int = 0) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * (2 / parameter.shape[-1]) ** 0.5
    return model.eval()


def chip_of(model: nn.Module, core: SpikingCore, shape: tuple[int, ...], steps: int = 6, method: str = "light") -> sim.Chip:
    x = torch.rand(32, *shape, generator=torch.Generator().manual_seed(1))
    return sim.compile(model, core, calibration=[(x,)], timesteps=steps, method=method)


class TestPresets:
    @pytest.mark.parametrize(
        ("name", "limits"),
        [
            ("loihi1", {"neurons": 1024, "axons_in": 4096, "axons_out": 4096, "synapse_bits": 16384 * 64}),
            ("truenorth", {"neurons": 256, "axons_in": 256, "axons_out": 256, "fan_out": 1}),
            ("speck", {"neurons": 65536, "kernel_words": 16384, "bias_words": 1024, "fan_out": 2}),
            ("ideal", {}),
        ],
    )
    def test_published_limits(self, name: str, limits: dict[str, int]) -> None:
        assert SpikingCore.preset(name).limits() == limits
        assert unsourced_fields(name) == []

    def test_published_energies_are_there_and_others_are_not(self) -> None:
        loihi, truenorth, speck = (SpikingCore.preset(name) for name in ("loihi1", "truenorth", "speck"))
        assert loihi.energy.synapse_j == pytest.approx(35.5e-12) and loihi.energy.update_j == pytest.approx(72.8e-12)
        assert loihi.energy.spike_j == pytest.approx(69.3e-12) and loihi.energy.message_j == pytest.approx(111e-12)
        assert loihi.energy.static_watt is None and loihi.tick_s is None
        assert truenorth.energy.synapse_j == pytest.approx(2.3e-12) and truenorth.energy.static_watt == pytest.approx(42e-3)
        assert speck.energy.static_watt == pytest.approx(0.42e-3) and speck.energy.synapse_j is None

    def test_a_step_is_the_kernel(self) -> None:
        current = torch.rand(5, 2, 7, generator=torch.Generator().manual_seed(0)) * 2 - 0.5
        for neuron in (
            SpikingNeuron(comparator=">", decay=0.5),
            SpikingNeuron(reset="hard"),
            SpikingNeuron(reset="hard", reset_moment="next_step", decay=0.75),
            SpikingNeuron(decay=0.0),
            SpikingNeuron(reset_moment="next_step", decay=0.75),
        ):
            from kernels.spikes import integrate_and_fire

            core, state, found = NeuromorphicChip(neuron=neuron), {}, []
            for step in current:
                state, spikes = core.step(state, step, torch.ones(1, 7))
                found.append(spikes)
            expected, _ = integrate_and_fire(
                current, 1.0, 0.0, neuron.decay, neuron.reset, neuron.comparator, reset_moment=neuron.reset_moment
            )
            assert torch.equal(torch.stack(found), expected)

    @pytest.mark.parametrize(
        ("change", "line"),
        [
            ({"neurons": (4, 5)}, "`neurons` must be above 0, one number or one for each"),
            ({"resets": ("hard",)}, "`resets` must hold that of `neuron`"),
            ({"cores": 9, "mesh": (2, 2)}, "`mesh` must have a place for each"),
            (
                {"arithmetic": {"weight_bits": 8, "threshold_bits": 8, "state_bits": 16, "weight_exponents": (3, 1)}},
                "`arithmetic.weight_exponents`",
            ),
        ],
    )  # fmt: skip
    def test_bad_designs_are_refused(self, change: dict, line: str) -> None:
        with pytest.raises(DesignError) as error:
            NeuromorphicChip(**change)
        assert line in str(error.value)

    def test_a_decay_that_does_not_fit_is_refused(self) -> None:
        with pytest.raises(ValueError, match="`decay` must be 1"):
            IntegerArithmetic(weight_bits=8, threshold_bits=8, state_bits=16).keep(0.5)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    bits=st.sampled_from([10, 12, 16, 24]),
    overflow=st.sampled_from(["saturate", "wrap"]),
    steps=st.integers(1, 6),
)
def test_an_integer_chip_is_its_naive_twin(seed: int, bits: int, overflow: str, steps: int) -> None:
    """Every spike and every sum of the read-out from Python integers: weights, thresholds and inputs are the chip's."""
    core = NeuromorphicChip(
        arithmetic=IntegerArithmetic(
            weight_bits=6, weight_exponents=(-2, 2), weight_shift=2, threshold_bits=bits - 1, state_bits=bits, overflow=overflow
        )
    )
    chip = chip_of(mlp(5, 6, 4, 3, seed=seed), core, (5,), steps)
    x = torch.rand(2, 5, generator=torch.Generator().manual_seed(seed))
    seen: dict[str, tuple] = {}
    outputs = chip.model.over_time(x, lambda name, step, arguments, output: seen.update({name: (arguments, output)}))
    held = chip.model._integers
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    for sample in range(2):
        currents = {"0": [[int(v) for v in seen["0"][1].current[0, sample]]] * steps}
        spikes: dict[str, list[list[int]]] = {}
        for synapses, population in (("0", "1"), ("2", "3")):
            if synapses != "0":
                weights, bias = held.weights[synapses][0].tolist(), held.bias[synapses].tolist()
                currents[synapses] = [
                    [b + sum(w * s for w, s in zip(row, fired, strict=True)) for row, b in zip(weights, bias, strict=True)]
                    for fired in spikes["1"]
                ]
            shift = held.shift[population].reshape(-1).tolist() if population not in chip.model._in_bias else [0]
            trains = []
            for neuron, flow in enumerate(zip(*currents[synapses], strict=True)):
                extra = shift[neuron % len(shift)]
                start = int(held.initial[population].reshape(-1)[0])
                trains.append(
                    naive_spikes.fixed_neuron(
                        [f + extra for f in flow], int(held.thresholds[population]), start, bits=bits, overflow=overflow
                    )[0]
                )
            spikes[population] = [list(step) for step in zip(*trains, strict=True)]
            assert seen[population][1].parts[0].counts[:, sample].tolist() == spikes[population]
        weights, bias = held.weights["4"][0].tolist(), held.bias["4"].tolist()
        for output, (row, b) in enumerate(zip(weights, bias, strict=True)):
            membrane = 0
            for t, fired in enumerate(spikes["3"]):
                after = membrane + b + sum(w * s for w, s in zip(row, fired, strict=True))
                after = max(low, min(high, after)) if overflow == "saturate" else (after - low) % 2**bits + low
                assert float(outputs[t, sample, output]) == pytest.approx((after - membrane) / held.gain["4"], rel=1e-6, abs=1e-9)
                membrane = after


def test_rounding_is_within_half_a_step_and_reported() -> None:
    chip = chip_of(mlp(5, 6, 4), SpikingCore.preset("loihi1"), (5,))
    held, layer = chip.model._integers, chip.model.synapses["2"]
    exact = layer.scaled(chip.model.populations["1"].threshold) * held.gain["2"]
    frame = spiking.roundings(chip).set_index("layer")
    step = 2 ** int(frame.loc["2", "exponent"])
    assert float((held.weights["2"][0] - exact).abs().max()) <= step / 2 + 1e-3
    assert int(frame.loc["2", "largest_mantissa"]) == 127
    assert int(held.thresholds["1"]) % 64 == 0  # 17 bits shifted by 6


class TestPlacement:
    def test_a_matrix_is_cut_by_its_neurons(self) -> None:
        placement = spiking.cores(chip_of(mlp(8, 2500, 10), NeuromorphicChip(cores=8, neurons=1024, one_population=True), (8,)))
        rows = placement.layer_frame.set_index("layer")
        assert rows.loc["1", "tiles"] == 3 and rows.loc["1", "binds"] == "neurons" and rows.loc["2", "fan_in"] == 2500
        used = placement.frame[placement.frame["resource"] == "neurons"]
        assert used["used"].sum() == 2510 and (used["used"] <= used["available"]).all()
        assert placement.binding == "neurons" and "4 of 8 cores" in str(placement)

    def test_a_convolution_counts_its_rows_of_axons(self) -> None:
        layers = [nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1), nn.ReLU(), nn.AvgPool2d(8), nn.Flatten()]
        core = NeuromorphicChip(axons_in=4 * 8 * 4, one_population=True)
        placement = spiking.cores(chip_of(nn.Sequential(*layers, nn.Linear(2, 3)), core, (1, 8, 8)))
        # 128 axons are four rows of 4 channels and 8 columns: a tile of two rows of outputs in the middle needs just these.
        rows = placement.layer_frame.set_index("layer")
        assert rows.loc["3", "tiles"] == 4 and rows.loc["3", "weight_copies"] == 4 and rows.loc["3", "fan_in"] == 36
        middle = [tile for tile in placement.tiles if tile.layer == "3"][1]
        assert middle.box == ((0, 2), (2, 4), (0, 8)) and middle.used["axons_in"] == 128

    def test_speck_takes_kernels_once_and_cores_by_size(self) -> None:
        first = [nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)]
        second = [nn.Conv2d(32, 64, 5, padding=2), nn.ReLU(), nn.AvgPool2d(4)]
        model = nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(256, 10))
        placement = spiking.cores(chip_of(model, SpikingCore.preset("speck"), (1, 16, 16), 2))
        tiles = {tile.layer: tile for tile in placement.tiles}
        # Addresses are bit fields: 25 places of a kernel take 32, so that 51,200 weights take all of 64 Ki, which two cores have.
        assert tiles["4"].used["kernel_words"] == 32 * 32 * 64 and tiles["4"].core in (5, 6)
        assert tiles["4"].used["neurons"] == 64 * 8 * 8 and tiles["4"].used["bias_words"] == 64
        assert tiles["7"].used["kernel_words"] == 64 * 4 * 16  # a kernel of 2 x 2 with 10 outputs, which take 16

    def test_speck_counts_memory_as_its_manual_does(self) -> None:
        # The example of the manual: 3 x 3 kernels from 16 to 32 channels on 64 x 64 places take 8 Ki words and 128 Ki neurons.
        class Manual(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.second, self.head = nn.Conv2d(1, 16, 1), nn.Conv2d(16, 32, 3, padding=1), nn.Linear(32, 2)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                x = torch.nn.functional.avg_pool2d(torch.relu(self.second(torch.relu(self.first(x)))), 4)
                return self.head(torch.nn.functional.avg_pool2d(torch.nn.functional.avg_pool2d(x, 4), 4).flatten(1))

        core = SpikingCore.preset("speck").replace(neurons=1 << 17, kernel_words=1 << 16)
        x = torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
        placement = spiking.cores(sim.compile(Manual(), core, calibration=[(x,)], timesteps=1, method="none"))
        (tile,) = [tile for tile in placement.tiles if tile.layer == "relu_1"]
        assert tile.used["kernel_words"] == 8 * 1024 and tile.used["neurons"] == 128 * 1024
        odd = NeuromorphicChip(address_fields=True, kernel_words=1 << 20)
        (tile, _) = spiking.cores(
            chip_of(nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(147, 2)), odd, (1, 8, 8))
        ).tiles
        assert tile.used["neurons"] == 3 * 8 * 8  # 7 x 7 places take 8 x 8

    def test_hops_and_messages_by_hand(self) -> None:
        # Four tiles of 4 neurons on a 2 x 2 mesh in a row-wise snake: (0, 0), (0, 1), then (1, 1).
        core = NeuromorphicChip(
            cores=4, neurons=4, mesh=(2, 2), one_population=True,
            energy={
                "message_j": "1 pJ", "hop_east_west_j": "10 pJ", "hop_north_south_j": "100 pJ", "synapse_j": "3 pJ", "update_j": "5 pJ",
            },
        )  # fmt: skip
        chip = chip_of(mlp(3, 8, 2), core, (3,), 5)
        x = torch.rand(7, 3, generator=torch.Generator().manual_seed(2))
        counts = spiking.activity(chip, x).counts["1"].sum((0, 1)).tolist()
        cost = chip.cost(x).set_index(["layer", "term"])["energy_j"]
        first, second = sum(counts[:4]), sum(counts[4:])
        assert cost["1", "message"] == pytest.approx((first + second) * 1e-12)
        assert cost["1", "hop east west"] == pytest.approx(first * 10e-12)
        assert cost["1", "hop north south"] == pytest.approx((first + second) * 100e-12)
        assert cost["2", "synapse"] == pytest.approx(2 * (first + second) * 3e-12)
        assert cost["1", "update"] == pytest.approx(8 * 5 * 7 * 5e-12)

    def test_static_energy_is_apart(self) -> None:
        chip = chip_of(mlp(8, 40, 10), SpikingCore.preset("truenorth"), (8,), 16)
        frame = chip.cost(torch.rand(3, 8))
        rest = frame[frame["static"]].iloc[0]
        assert rest["energy_j"] == pytest.approx(42e-3 * 16 * 3 * 1e-3)
        marginal = frame[~frame["static"] & frame["energy_j"].notna()]
        assert set(marginal["term"]) == {"synapse"} and "not given: update_j" in set(frame["note"])

    def test_a_picture_is_drawn(self) -> None:
        figure = spiking.cores(chip_of(mlp(8, 300, 10), NeuromorphicChip(cores=16, neurons=64, mesh=(4, 4)), (8,))).figure()
        assert len(figure.axes[0].patches) > 5

    @pytest.mark.parametrize(
        ("core", "line"),
        [
            (NeuromorphicChip(axons_in=39), "Layer `2` does not fit: a neuron has 40 inputs (40 axons), but a core takes 39; splitting"),
            (NeuromorphicChip(axons_in=100, axons_per_source=4), "(160 axons), but a core takes 100"),
            (NeuromorphicChip(neurons=8, cores=2), "the network needs 7 cores, most of them for this layer (5), but the chip has 2"),
            (NeuromorphicChip(neurons=5, fan_out=1, cores=90), "its spikes go to 2 cores, but a core sends to 1"),
        ],
    )  # fmt: skip
    def test_what_does_not_fit_is_refused_by_name(self, core: NeuromorphicChip, line: str) -> None:
        with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
            chip_of(mlp(6, 40, 10), core, (6,))
        assert line in str(error.value)

    def test_large_kernels_are_refused(self) -> None:
        model = nn.Sequential(
            nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Conv2d(2, 2, 17, padding=8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 2)
        )
        with pytest.raises(ValueError, match="Layer `2` does not fit: kernels reach 16, but its are"):
            chip_of(model, SpikingCore.preset("speck"), (1, 8, 8))

    @pytest.mark.parametrize(
        ("layers", "line"),
        [
            (
                [nn.Conv2d(1, 2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)],
                "Layer `2` does not fit: strides are 1, 2, 4, 8, but its are (3,",
            ),
            ([nn.AvgPool2d(3, 1), nn.Flatten(), nn.Linear(36, 2)], "Layer `2` does not fit: windows of 1, 2, 4 side by side"),
        ],
    )
    def test_strides_and_windows_that_a_core_lacks_are_refused(self, layers: list[nn.Module], line: str) -> None:
        with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
            chip_of(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU(), *layers), SpikingCore.preset("speck"), (1, 8, 8))
        assert line in str(error.value)

    def test_neurons_are_copied_where_a_core_can(self) -> None:
        placement = spiking.cores(chip_of(mlp(6, 40, 400), SpikingCore.preset("truenorth"), (6,)))
        rows = placement.layer_frame.set_index("layer")
        assert rows.loc["2", "tiles"] == 2 and rows.loc["1", "neuron_copies"] == 2


def test_activity_counts_every_spike_and_weight() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4)
    )
    chip = chip_of(model, SpikingCore.preset("ideal"), (1, 8, 8), 5)
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(4))
    found = spiking.activity(chip, x)
    counts = found.counts["1"].float()
    pooled = counts.unflatten(3, (4, 2)).unflatten(5, (4, 2)).sum((4, 6))
    # A pooled position in a corner reaches one of the 2 x 2 outputs, on an edge two, in the middle four; each with 3 channels.
    reach = torch.tensor([1.0, 2.0, 2.0, 1.0])
    expected = (pooled * (3 * reach[:, None] * reach[None, :])).sum((1, 2, 3, 4))
    assert found.synops["3"].tolist() == expected.tolist()
    assert found.synops["6"].tolist() == (4 * found.counts["4"].sum((1, 2, 3, 4), dtype=torch.int64)).tolist()
    frame = found.frame
    assert frame[frame["layer"] == "1"]["spikes"].tolist() == counts.sum((1, 2, 3, 4)).tolist()
    how = {True: "events", False: "dense"}
    expected = {"1": "", "4": "", **{name: how[chip.model.synapses[name].event_driven] for name in ("3", "6")}}
    assert found.layers.set_index("layer")["computed"].to_dict() == expected
    for figure in (found.raster(), found.histogram()):
        assert figure.axes[0].get_xlabel()


@pytest.mark.parametrize("kind", ["ideal", "loihi1"])
def test_events_and_dense_products_give_the_same_network(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, 2, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(54, 5)
    )
    chip = chip_of(model, SpikingCore.preset(kind), (1, 8, 8), 9)
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(5))
    found = []
    for events in (True, False):
        monkeypatch.setattr("simulator.spiking.synapses.events_are_faster", lambda rate, weight, plain=True, events=events: events)
        chip.model._prepare()
        found.append(chip.model.over_time(x))
    if kind == "loihi1":
        assert torch.equal(*found)
    else:
        torch.testing.assert_close(*found, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_sums_beyond_32_bits_do_not_go_around(rate: float) -> None:
    layer = Synapses("wide", nn.Linear(40, 2))
    layer.rate.fill_(rate)  # by events, and as a dense product
    weight = torch.tensor([[1], [-1]], dtype=torch.int32).expand(2, 40) << 26
    counts = (torch.arange(40).expand(3, 1, 40) < torch.tensor([40, 4, 0]).reshape(3, 1, 1)).to(torch.uint8)
    found = layer.apply_spikes(counts, weight, torch.tensor([5, 5], dtype=torch.int32), 0)
    assert found.flatten().tolist() == [(40 << 26) + 5, -(40 << 26) + 5, (4 << 26) + 5, -(4 << 26) + 5, 5, 5]
    spikes, membrane, beyond = integrate_and_fire_fixed(found[:, 0], 1000, bits=24)
    # By hand: the first neuron saturates at 2^23 - 1 twice and fires both times; the second one stays at the lowest membrane.
    assert spikes[:, 0].tolist() == [1, 1, 1] and beyond.tolist() == [2, 2]
    assert membrane.tolist() == [(1 << 23) - 1 - 1000 + 5 - 1000, -(1 << 23) + 5]


@pytest.mark.parametrize("kind", ["ideal", "loihi1"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_inputs_that_are_not_finite_are_refused(kind: str, bad: float) -> None:
    x = torch.rand(4, 3, generator=torch.Generator().manual_seed(6))
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    chip = sim.compile(net, SpikingCore.preset(kind), calibration=[(x,)], timesteps=2)
    x[1, 1] = bad
    with pytest.raises(ValueError, match="the input must be finite, but holds NaN or infinity"):
        chip(x)
