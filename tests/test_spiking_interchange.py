"""NIR: the paper's single neuron, round trips, and what cannot be said."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import simulator as sim
from devices import NeuromorphicChip, SpikingCore, SpikingNeuron
from simulator.spiking import LIF, from_nir, to_nir, unroll

nir = pytest.importorskip("nir")

# The single neuron of the NIR paper: inputs and spikes, in steps of 0.1 ms.
ON = [60, 220, 270, 310, 320, 350, 370, 400, 410, *range(430, 531, 10), *range(670, 781, 10), 840, 850]
SPIKES = [460, 510, 710, 760]
DT, TAU, THRESHOLD = 1e-4, 2.5e-3, 0.1


def single_neuron() -> object:
    one, zero = np.ones(1), np.zeros(1)
    lif = nir.LIF(tau=TAU * one, r=one, v_leak=zero, v_threshold=THRESHOLD * one, v_reset=zero)
    return nir.NIRGraph.from_list(nir.Affine(weight=np.eye(1), bias=zero), lif)


def train() -> torch.Tensor:
    inputs = torch.zeros(1, 1000, 1)
    inputs[0, ON, 0] = 1
    return inputs


class TestSingleNeuron:
    @pytest.mark.parametrize("discretization", ["exact", "euler"])
    def test_it_spikes_when_the_paper_says(self, discretization: str) -> None:
        model = from_nir(single_neuron(), DT, discretization=discretization)
        assert unroll(model, train())[:, 0, 0].nonzero().flatten().tolist() == SPIKES

    def test_its_voltage_is_the_closed_form(self) -> None:
        model = from_nir(single_neuron(), DT)
        neurons, inputs = model.nodes["lif"], train()
        voltage = []
        with torch.no_grad():
            for t in range(1000):
                model(inputs[:, t])
                voltage.append(float(neurons.membrane))
        # Between resets each input of one step adds 1 - exp(-dt / tau), which decays from then on.
        last = -1
        for t in range(1000):
            since = [s for s in ON if last < s <= t]
            closed = sum((1 - np.exp(-DT / TAU)) * np.exp(-(t - s) * DT / TAU) for s in since)
            if t in SPIKES:
                assert closed > THRESHOLD and voltage[t] == 0
                last = t
            else:
                assert voltage[t] == pytest.approx(closed, abs=1e-6)

    @pytest.mark.parametrize("core", ["ideal", "loihi1"])
    def test_it_runs_on_cores(self, core: str) -> None:
        chip = sim.compile(from_nir(single_neuron(), DT), SpikingCore.preset(core), example_inputs=train(), coding="events")
        assert chip.model.over_time(train())[:, 0, 0].nonzero().flatten().tolist() == SPIKES


def network() -> nn.Sequential:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), LIF(1.0, 0.9), nn.AvgPool2d(2), nn.Conv2d(4, 6, 3, 2, groups=2), LIF(0.8, 1.0), nn.Flatten(),
        nn.Linear(6, 5), LIF(1.0, 0.5), nn.Linear(5, 3),
    )  # fmt: skip
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.6
    return model.eval()


@pytest.mark.parametrize("discretization", ["exact", "euler"])
def test_a_round_trip_through_a_file_is_the_same_network(tmp_path: Path, discretization: str) -> None:
    model = network()
    graph = to_nir(model, torch.zeros(1, 2, 8, 8), 1e-3, discretization=discretization)
    path = tmp_path / "network.nir"
    nir.write(str(path), graph)
    back = from_nir(path, 1e-3, discretization=discretization)
    inputs = (torch.rand(5, 12, 2, 8, 8, generator=torch.Generator().manual_seed(1)) < 0.4).float()
    with torch.no_grad():
        first, second = unroll(model, inputs), unroll(back, inputs)
    assert first.abs().sum() > 0
    # Time constants are float32 in the file: a membrane that ends within rounding of the threshold may fire one step off.
    close = ((first - second).abs() < 1e-4).float().mean()
    assert float(close) > 0.99
    assert graph.metadata["approximations"] == [] and {"inloop", "nir", "dt"} <= set(graph.metadata)


def test_sums_of_a_residual_are_edges() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.first = nn.Linear(4, 4), LIF()
            self.left, self.right, self.second = nn.Linear(4, 4), nn.Linear(4, 4), LIF()
            self.head = nn.Linear(4, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(self.stem(x))
            return self.head(self.second(self.left(x) + self.right(x)))

    model = Residual().eval()
    for parameter in model.parameters():
        parameter.data = torch.rand(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())) * 0.8
    back = from_nir(to_nir(model, torch.zeros(1, 4), 1e-3), 1e-3)
    inputs = torch.rand(3, 9, 4, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(unroll(model, inputs), unroll(back, inputs))


def test_at_or_above_is_above_the_next_smaller_number() -> None:
    model = nn.Sequential(nn.Linear(1, 1), LIF(1.0, 0.5, comparator=">=")).eval()
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.zero_()
    back = from_nir(to_nir(model, torch.zeros(1, 1), 1e-3, discretization="euler"), 1e-3, discretization="euler")
    assert unroll(back, torch.ones(1, 1, 1)).item() == 1.0  # exactly at the threshold


class TestPotentials:
    @pytest.mark.parametrize(("leak", "reset"), [(0.0, -0.5), (0.05, 0.02), (0.05, 0.0), (-0.1, -0.1)])
    @pytest.mark.parametrize("discretization", ["exact", "euler"])
    def test_leaky_neurons_start_at_rest_and_reset_where_they_are_told(self, leak: float, reset: float, discretization: str) -> None:
        one, current = np.ones(1), 0.25
        lif = nir.LIF(tau=TAU * one, r=one, v_leak=leak * one, v_threshold=THRESHOLD * one, v_reset=reset * one)
        graph = nir.NIRGraph.from_list(nir.Affine(weight=np.eye(1), bias=0 * one), lif)
        decay = np.exp(-DT / TAU) if discretization == "exact" else 1 - DT / TAU
        v, expected = leak, []
        for t in range(200):
            v = leak + decay * (v - leak) + (1 - decay) * current
            if v > THRESHOLD:
                v = reset
                expected.append(t)
        found = unroll(from_nir(graph, DT, discretization=discretization), torch.full((1, 1), current), 200)
        assert found.flatten().nonzero().flatten().tolist() == expected and expected

    @pytest.mark.parametrize("weighted", [True, False])
    def test_neurons_without_a_leak_start_at_zero(self, weighted: bool) -> None:
        graph_of = {"r": np.full(2, 2.0), "v_threshold": np.array([1.03, 0.72]), "v_reset": np.array([0.25, -0.25])}
        nodes = [nir.Affine(weight=np.eye(2), bias=np.zeros(2))] * weighted + [nir.IF(**graph_of)]
        if not weighted:
            nodes = [nir.Input(np.array([2])), *nodes, nir.Output(np.array([2]))]
        found = unroll(from_nir(nir.NIRGraph.from_list(*nodes), 0.0625), torch.ones(1, 2), 30)
        for neuron, (level, reset) in enumerate(zip(graph_of["v_threshold"], graph_of["v_reset"], strict=True)):
            v, spikes = 0.0, []
            for _ in range(30):
                v += 0.125  # exact in binary, as all numbers here
                spikes.append(float(v > level))
                v = reset if v > level else v
            assert found[:, 0, neuron].tolist() == spikes

    @pytest.mark.parametrize(("dims", "shape"), [((1, -1), (5, 2, 12)), ((0, 1), (5, 6, 4)), ((0, -1), (5, 24)), ((-2, -1), (5, 2, 12))])
    def test_flattening_keeps_the_axes_that_the_graph_keeps(self, dims: tuple[int, int], shape: tuple[int, ...]) -> None:
        flat = nir.Flatten(input_type={"input": np.array([2, 3, 4])}, start_dim=dims[0], end_dim=dims[1])
        graph = nir.NIRGraph.from_list(nir.Input(np.array([2, 3, 4])), flat, nir.Output(flat.output_type["output"]))
        assert from_nir(graph, DT)(torch.rand(5, 2, 3, 4)).shape == shape


class TestShifts:
    """What light calibration adds to a current is in the graph, or said to be lost."""

    core = NeuromorphicChip(neuron=SpikingNeuron(reset="hard", comparator=">"))

    def chip(self, *pools: nn.Module) -> tuple[sim.Chip, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 3, 3), *pools, nn.ReLU(), nn.Flatten(), nn.LazyLinear(4))
        x = torch.rand(64, 1, 8, 8, generator=generator)
        net(x)
        for parameter in net.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.4
        return sim.compile(net.eval(), self.core, calibration=[(x,)], timesteps=8, method="light"), x

    @pytest.mark.parametrize("divisor", [None, 1])
    def test_a_shift_goes_back_through_pooling(self, divisor: int | None) -> None:
        chip, x = self.chip(nn.AvgPool2d(2, divisor_override=divisor), nn.AvgPool2d(3, 1))
        assert float(chip.model.populations["3"].shift.abs().max()) > 0.01
        graph = to_nir(chip, torch.zeros(1, 1, 8, 8), 1e-3)
        assert graph.metadata["approximations"] == []
        nodes = {name: graph.nodes[name] for name in ("0", "3", "5")}
        weights = [torch.as_tensor(np.asarray(one), dtype=torch.float32) for one in (nodes["0"].weight, nodes["0"].bias)]
        current = nn.functional.avg_pool2d(nn.functional.conv2d(x, *weights), 2) * (1 if divisor is None else 4)
        current = nn.functional.avg_pool2d(current, 3, 1)
        v, total = torch.zeros_like(current), torch.zeros(64, 4)
        for _ in range(8):  # IF by Euler's rule: r dt of the graph is 1
            v = v + torch.as_tensor(nodes["3"].r, dtype=torch.float32) * 1e-3 * current
            spikes = (v > torch.as_tensor(nodes["3"].v_threshold)).float()
            v = v * (1 - spikes)
            total += spikes.flatten(1) @ torch.as_tensor(nodes["5"].weight).T + torch.as_tensor(nodes["5"].bias)
        # A membrane within rounding of the threshold may fire one step off: nearly all outputs agree to the last digits.
        with torch.no_grad():
            assert float(((chip(x) - total / 8).abs() < 1e-4).float().mean()) > 0.98
            back = unroll(from_nir(graph, 1e-3), x, 8).mean(0)
        assert float(((back - total / 8).abs() < 1e-4).float().mean()) > 0.98

    def test_a_shift_without_a_place_is_refused_or_reported(self) -> None:
        chip, _ = self.chip(nn.AvgPool2d(3, 1, 1))  # at the border a constant is pooled with zeros
        with pytest.raises(ValueError, match="`2` gets a current beside its layers' biases.*approximate=True"):
            to_nir(chip, torch.zeros(1, 1, 8, 8), 1e-3)
        graph = to_nir(chip, torch.zeros(1, 1, 8, 8), 1e-3, approximate=True)
        assert graph.metadata["approximations"] == ["`2` gets a current beside its layers' biases, NIR has no place for it"]


class TestRefused:
    def test_arguments_out_of_range_are_refused_in_a_line(self, tmp_path: Path) -> None:
        model, x = nn.Sequential(nn.Linear(2, 2), LIF()), torch.zeros(1, 2)
        (tmp_path / "other.nir").write_text("no graph")
        for call, line in (
            (lambda: to_nir(model, x, 1e-3, discretization="x"), "`discretization` must be"),
            (lambda: to_nir(model, x, "1ms"), "`dt` must be a time step above 0, but got '1ms'"),
            (lambda: from_nir(single_neuron(), "1ms"), "`dt` must be a time step above 0, but got '1ms'"),
            (lambda: from_nir(tmp_path / "none.nir", 1e-3), "none.nir' is no file"),
            (lambda: from_nir(tmp_path / "other.nir", 1e-3), "other.nir' cannot be read"),
            (lambda: to_nir(nn.Sequential(nn.Linear(2, 2), LIF(decay=0.0)), x, 1e-3), "a decay of 0, which no time constant has"),
        ):
            with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
                call()
            assert line in str(error.value)

    def test_a_soft_reset_is_refused_or_reported(self) -> None:
        model = nn.Sequential(nn.Linear(2, 2), LIF(reset="soft"))
        with pytest.raises(ValueError, match="`1` has a soft reset.*approximate=True"):
            to_nir(model, torch.zeros(1, 2), 1e-3)
        graph = to_nir(model, torch.zeros(1, 2), 1e-3, approximate=True)
        assert graph.metadata["approximations"] == ["`1` has a soft reset, NIR resets to a potential"]

    def test_a_converted_chip_is_refused_or_reported(self) -> None:
        net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
        chip = sim.compile(net, SpikingCore.preset("loihi1"), example_inputs=torch.rand(8, 4), timesteps=4, method="optimal")
        with pytest.raises(ValueError, match="soft reset.*initial potential.*integers"):
            to_nir(chip, torch.zeros(1, 4), 1e-3)
        graph = to_nir(chip, torch.zeros(1, 4), 1e-3, approximate=True)
        level = float(chip.model.populations["1"].threshold)
        np.testing.assert_allclose(graph.nodes["2"].weight, net[2].weight.detach().numpy() * level, rtol=1e-6)

    def test_a_relu_is_refused(self) -> None:
        with pytest.raises(ValueError, match="`1` is a ReLU"):
            to_nir(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), torch.zeros(1, 2), 1e-3)

    def test_unknown_nodes_loops_and_mixed_time_constants_are_refused(self) -> None:
        one, zero = np.ones(1), np.zeros(1)
        leaky = nir.NIRGraph.from_list(nir.Affine(weight=np.eye(1), bias=zero), nir.LI(tau=one, r=one, v_leak=zero))
        with pytest.raises(ValueError, match=r"Node `li` \(LI\) has no equivalent"):
            from_nir(leaky, 1e-3)
        mixed = nir.LIF(tau=np.array([1.0, 2.0]), r=np.ones(2), v_leak=np.zeros(2), v_threshold=np.ones(2), v_reset=np.zeros(2))
        with pytest.raises(ValueError, match="one time constant"):
            from_nir(nir.NIRGraph.from_list(nir.Affine(weight=np.eye(2), bias=np.zeros(2)), mixed), 1e-3)
        graph = single_neuron()
        graph.edges.append(("lif", "affine"))
        with pytest.raises(ValueError, match="without loops"):
            from_nir(graph, DT)
        with pytest.raises(ValueError, match="`dt` must be"):
            from_nir(single_neuron(), 0.0)
        with pytest.raises(ValueError, match="`discretization` must be"):
            from_nir(single_neuron(), DT, discretization="heun")
