"""NIR: the paper's single neuron, round trips, and what cannot be said."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import simulator as sim
from devices import SpikingCore
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


class TestRefused:
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
