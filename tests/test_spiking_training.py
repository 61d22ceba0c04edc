"""Direct training: the surrogate, the loss, unrolled time, event data, and trained networks on cores."""

import copy
import math
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import simulator as sim
from devices import NeuromorphicChip, SpikingCore
from kernels.spikes import integrate_and_fire
from simulator import spiking
from simulator.data import Batches
from simulator.spiking import LIF, NotConvertibleError, mean_loss, moving_shapes, tet_loss, tonic_events, train_spiking, unroll

IDEAL = SpikingCore.preset("ideal")


@pytest.mark.parametrize("reset", ["soft", "hard"])
@pytest.mark.parametrize("comparator", [">", ">="])
def test_a_neuron_is_the_kernel_step_by_step(reset: str, comparator: str) -> None:
    current = (torch.rand(12, 3, 5, generator=torch.Generator().manual_seed(0)) * 12).round() / 8
    neurons = LIF(1.0, 0.5, comparator=comparator, reset=reset)
    spikes = torch.stack([neurons(step) for step in current])
    expected, membrane = integrate_and_fire(current, 1.0, 0.0, 0.5, reset, comparator)
    assert torch.equal(spikes, expected) and torch.equal(neurons.membrane, membrane)


def test_the_gradient_of_a_spike_is_a_triangle() -> None:
    v = torch.tensor([-0.5, 0.0, 0.5, 1.0, 1.25, 2.5], requires_grad=True)
    LIF(1.0, width=1.0)(v).sum().backward()
    assert v.grad.tolist() == [0.0, 0.0, 0.5, 1.0, 0.75, 0.0]
    wide = torch.tensor([1.0, 2.0], requires_grad=True)
    LIF(1.0, width=2.0)(wide).sum().backward()
    assert wide.grad.tolist() == [0.5, 0.25]


def test_gradients_flow_back_through_time() -> None:
    # v_2 = decay v_1 (1 - s_1) + I_2 with v_1 = I_1 below the threshold: d v_2 / d I_1 = decay (1 - v_1 ds_1/dv_1).
    current = torch.tensor([[0.4], [0.4]], requires_grad=True)
    neurons = LIF(1.0, 0.5)
    neurons(current[0])
    neurons(current[1]).sum().backward()
    assert current.grad.flatten().tolist() == pytest.approx([0.6 * 0.5 * (1 - 0.4 * 0.4), 0.6])


def test_the_loss_of_tet_by_hand() -> None:
    outputs = torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]]])
    targets = torch.tensor([0])
    entropies = [math.log(1 + math.exp(-2.0)), math.log(1 + math.exp(1.0))]
    square = ((2 - 1) ** 2 + 1 + 1 + 0) / 4
    assert float(tet_loss(outputs, targets, weight=0.05)) == pytest.approx(0.95 * sum(entropies) / 2 + 0.05 * square, rel=1e-6)
    assert float(mean_loss(outputs, targets)) == pytest.approx(math.log(1 + math.exp(-0.5)), rel=1e-6)


def test_events_are_the_contrast_that_moved() -> None:
    data = moving_shapes(train=64, test=16, timesteps=8, noise=0.0)
    inputs, targets = data.train.tensors
    assert inputs.shape == (64, 8, 2, 16, 16) and set(inputs.unique().tolist()) <= {0.0, 1.0}
    assert targets.bincount().tolist() == [8] * 8
    columns = torch.arange(16.0)
    for sample, target in zip(inputs, targets.tolist(), strict=True):
        bright, dark = (sample[:, polarity].sum((0, 1)) for polarity in (0, 1))
        first, last = (sample[part].sum((0, 1, 2)) for part in (slice(0, 3), slice(5, 8)))
        moved = float((columns * last).sum() / last.sum() - (columns * first).sum() / first.sum())
        assert moved > 0 if target % 2 else moved < 0  # to the right is the odd class
        assert bright.sum() > 0 and dark.sum() > 0
    again = moving_shapes(train=64, test=16, timesteps=8, noise=0.0).train.tensors[0]
    assert torch.equal(inputs, again)
    noisy = moving_shapes(train=64, test=16, timesteps=8, noise=0.02).train.tensors[0]
    added = (noisy - inputs).clamp(min=0).mean()
    assert float(added) == pytest.approx(0.02 * float((inputs == 0).float().mean()), rel=0.1)


class Recorded:
    """A data set as tonic has them: two samples of three events each."""

    sensor_size = (4, 3, 2)

    def __init__(self, save_to: str, train: bool, transform) -> None:
        self.transform = transform
        self.first = 0 if train else 1

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int):
        if index >= 2:
            raise IndexError(index)
        return self.transform([(0, 1, 2, self.first), (1, 1, 2, self.first), (1, 0, 0, 1)]), index


class Frames:
    """Counts of events (time bin, row, column, polarity), shape (bins, polarities, height, width)."""

    def __init__(self, sensor_size, n_time_bins: int) -> None:
        self.shape = (n_time_bins, sensor_size[2], sensor_size[1], sensor_size[0])

    def __call__(self, events):
        frames = np.zeros(self.shape, np.int16)
        for time, row, column, polarity in events:
            frames[time, polarity, row, column] += 300
        return frames


def test_a_data_set_of_tonic_becomes_counts_in_time_bins(monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("tonic")
    package.datasets, package.transforms = SimpleNamespace(Recorded=Recorded), SimpleNamespace(ToFrame=Frames)
    monkeypatch.setitem(sys.modules, "tonic", package)
    data = tonic_events("Recorded", "anywhere", timesteps=2)
    (inputs, targets), (other, _) = data.train.tensors, data.test.tensors
    assert inputs.shape == (2, 2, 2, 3, 4) and inputs.dtype == torch.float32 and targets.tolist() == [0, 1] and data.classes == 2
    assert inputs[0].nonzero().tolist() == [[0, 0, 1, 2], [1, 0, 1, 2], [1, 1, 0, 0]] and other[0, 0, 1, 1, 2] == inputs.max() == 255
    with pytest.raises(ValueError, match="`name` must be a data set of tonic, but there is no 'NMNOST'"):
        tonic_events("NMNOST", "anywhere")


def test_missing_tonic_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tonic", None)
    with pytest.raises(ImportError, match=r"pip install 'inloop\[data\]'"):
        tonic_events("NMNIST", "anywhere")


def spiking_net(seed: int = 0) -> nn.Sequential:
    torch_layers = nn.Sequential(nn.Conv2d(2, 6, 3, 2, 1), LIF(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(96, 24), LIF(), nn.Linear(24, 8))
    generator = torch.Generator().manual_seed(seed)
    for parameter in torch_layers.parameters():
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 100
        parameter.data = torch.randn(parameter.shape, generator=generator) * (2 / fan_in) ** 0.5
    return torch_layers


class TestOnCores:
    data = moving_shapes(train=64, test=64, timesteps=6)

    def test_the_ideal_core_computes_what_was_trained(self) -> None:
        model, (events, _) = spiking_net().eval(), self.data.test.tensors
        chip = sim.compile(model, IDEAL, example_inputs=events[:4], coding="events")
        with torch.no_grad():
            steps = unroll(model, events)
        torch.testing.assert_close(chip.model.over_time(events), steps, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(chip(events), steps.mean(0), atol=1e-4, rtol=1e-4)

    def test_an_integer_core_is_its_integers(self) -> None:
        model, (events, _) = spiking_net().eval(), self.data.test.tensors
        chip = sim.compile(model, SpikingCore.preset("loihi1"), example_inputs=events[:4], coding="events")
        with torch.no_grad():
            exact = unroll(model, events).mean(0)
        # 8-bit weights move some spikes; most decisions stay.
        assert float((chip(events).argmax(1) == exact.argmax(1)).float().mean()) > 0.8
        # Thresholds are within half a step of 64 units of the trained ones, and the leak of 1/2 is exact in 12 bits.
        for name, population in chip.model.populations.items():
            held = chip.model._integers
            assert abs(int(held.thresholds[name]) - float(population.threshold) * held.gain[name]) <= 32
        assert spiking.roundings(chip).set_index("layer")["decay"].dropna().tolist() == [0.5, 0.5]

    def test_a_core_refuses_neurons_that_it_lacks(self) -> None:
        (events, _) = self.data.test.tensors
        for core, line in (
            (SpikingCore.preset("truenorth"), "`decay` must be 1"),
            (NeuromorphicChip(resets=("soft",)), "its reset must be one of"),
        ):
            with pytest.raises(NotConvertibleError, match=line):
                sim.compile(spiking_net(), core, example_inputs=events[:4], coding="events")


def test_training_learns_and_time_is_inherited() -> None:
    data = moving_shapes(train=128, test=64, timesteps=6, noise=0.0)
    batches = Batches(*data.train.tensors, 32, seed=0)
    model = spiking_net()
    short, full = train_spiking(model, batches, epochs=8, inherit=3, inherit_epochs=8, learning_rate=0.01)
    assert len(short.losses) == 8 and len(full.losses) == 8
    assert full.losses[-1] < short.losses[0]
    events, targets = data.train.tensors
    with torch.no_grad():
        accuracy = float((unroll(model, events).mean(0).argmax(1) == targets).float().mean())
    assert accuracy > 0.3  # chance is 0.125 with a standard error of 0.03


@pytest.mark.parametrize("trains", [True, False])
def test_inherited_epochs_run_at_fewer_steps(trains: bool) -> None:
    inputs = torch.rand(8, 6, 3, generator=torch.Generator().manual_seed(0)) if trains else torch.rand(8, 3)
    model, calls = nn.Sequential(nn.Linear(3, 4), LIF(), nn.Linear(4, 2)), []
    model[1].register_forward_hook(lambda *_: calls.append(1))
    batches = Batches(inputs, torch.arange(8) % 2, 8, seed=0)
    train_spiking(model, batches, timesteps=None if trains else 6, epochs=3, inherit=2, inherit_epochs=5)
    assert len(calls) == 5 * 2 + 3 * 6


@pytest.mark.parametrize("coding", ["rate", "latency"])
def test_coded_inputs_have_their_rate_or_moment(coding: str) -> None:
    neurons = nn.ReLU() if coding == "rate" else LIF()
    model = nn.Sequential(nn.Linear(3, 4, bias=False), neurons, nn.Linear(4, 2))
    x = torch.tensor([[0.0, 0.25, 1.0]]).expand(64, 3)
    chip = sim.compile(model, IDEAL, example_inputs=x, timesteps=64, coding=coding)
    seen = []
    chip.program(seed=3)
    chip.model.over_time(x, lambda name, step, arguments, output: seen.append(arguments[0].parts) if name == "0" else None)
    counts = seen[0][0].counts.float()
    if coding == "rate":
        assert counts[:, :, 0].sum() == 0 and counts[:, :, 2].mean() == 1
        # 4096 draws of probability 1/4: 5 sigma are 0.034.
        assert float(counts[:, :, 1].mean()) == pytest.approx(0.25, abs=0.034)
        again = sim.compile(model, IDEAL, example_inputs=x, timesteps=64, coding=coding).program(seed=3)
        second = []
        again.model.over_time(x, lambda name, step, arguments, output: second.append(arguments[0].parts) if name == "0" else None)
        assert torch.equal(second[0][0].counts, seen[0][0].counts)
    else:
        moments = [counts[:, 0, i].nonzero().flatten().tolist() for i in range(3)]
        assert moments == [[], [round(0.75 * 63)], [0]]


def test_a_network_trained_for_moments_computes_with_them() -> None:
    generator = torch.Generator().manual_seed(2)
    model, x = nn.Sequential(nn.Linear(3, 6), LIF(0.6, 0.9), nn.Linear(6, 2)), torch.rand(5, 3, generator=generator)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    trains = torch.zeros(5, 8, 3)
    for sample in range(5):
        for i in range(3):
            trains[sample, round((1 - float(x[sample, i])) * 7), i] = 1
    with torch.no_grad():
        expected = unroll(model, trains)
    chip = sim.compile(model.eval(), IDEAL, example_inputs=x, timesteps=8, coding="latency")
    torch.testing.assert_close(chip.model.over_time(x), expected, atol=1e-5, rtol=1e-5)
    assert expected.std(1).max() > 0.1  # the moments matter


def test_latency_of_a_converted_network_is_refused() -> None:
    model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.rand(5, 3)
    with pytest.raises(ValueError, match=r"^Argument `coding`: \"latency\" sends one spike whatever the value, but `1` is a ReLU"):
        sim.compile(model, IDEAL, example_inputs=x, timesteps=8, coding="latency")


def test_data_that_are_no_numbers_are_refused() -> None:
    model = spiking_net()
    with pytest.raises(ValueError, match="`inputs` must be finite"):
        unroll(model, torch.full((2, 3, 2, 16, 16), torch.nan))
    with pytest.raises(ValueError, match="`inputs` must be finite"):
        train_spiking(model, [(torch.full((2, 3, 2, 16, 16), torch.nan), torch.zeros(2, dtype=torch.int64))], epochs=1)


def test_neurons_in_the_middle_of_a_train_are_copied_without_its_gradients() -> None:
    neurons = LIF()
    neurons(torch.full((2, 3), 0.7, requires_grad=True))
    other = copy.deepcopy(neurons)
    assert torch.equal(other.membrane, neurons.membrane) and not other.membrane.requires_grad and neurons.membrane.requires_grad


def test_another_batch_without_a_reset_is_refused() -> None:
    neurons = LIF()
    neurons(torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"must have the shape of the step before, \(2, 3\), but has \(4, 3\); call reset_states"):
        neurons(torch.ones(4, 3))


@pytest.mark.parametrize("reset", ["soft", "hard"])
def test_a_membrane_starts_where_it_is_told(reset: str) -> None:
    start, current = torch.tensor([-0.5, 0.0, 1.5]), torch.rand(6, 2, 3, generator=torch.Generator().manual_seed(3))
    neurons = LIF(1.0, 0.5, reset=reset, initial=start)
    spikes = torch.stack([neurons(step) for step in current])
    expected, membrane = integrate_and_fire(current, 1.0, start.expand(2, 3).contiguous(), 0.5, reset, ">")
    assert torch.equal(spikes, expected) and torch.equal(neurons.membrane, membrane)
    model = nn.Sequential(nn.Linear(3, 3, bias=False), neurons, nn.Linear(3, 2))
    x = torch.rand(4, 6, 3, generator=torch.Generator().manual_seed(4)).round()
    chip = sim.compile(model.eval(), IDEAL, example_inputs=x, coding="events")
    with torch.no_grad():
        torch.testing.assert_close(chip.model.over_time(x), unroll(model, x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: LIF(threshold=-1.0), "`threshold` must be a finite number above 0"),
        (lambda: LIF(width=0.0), "`width` must be"),
        (lambda: unroll(nn.Identity(), torch.ones(2, 3), timesteps=0), "`timesteps` must be at least 1"),
        (lambda: tet_loss(torch.ones(2, 3), torch.zeros(3)), "must have shapes"),
        (lambda: tet_loss(torch.ones(2, 3, 4), torch.zeros(3, dtype=torch.int64), weight=2), "`weight` must be"),
        (lambda: train_spiking(nn.Identity(), [], epochs=1, inherit=2), "must be given together"),
        (lambda: moving_shapes(pixels=4), "`pixels` must be"),
        (lambda: moving_shapes(seed=-1), "`seed` must be an integer of at least 0"),
        (lambda: moving_shapes(seed="a"), "`seed` must be an integer of at least 0"),
        (lambda: LIF(threshold="a"), "`threshold` must be a finite number above 0, but got 'a'"),
        (lambda: LIF(torch.ones(3)), "but got a tensor of shape (3,)"),
        (lambda: LIF(initial=math.nan), "`initial` must be finite"),
        (lambda: LIF(initial="a"), "`initial` must be a number, or a tensor with one for each neuron of a sample, but got 'a'"),
        (lambda: LIF(initial=None), "`initial` must be a number, or a tensor"),
        (lambda: unroll(nn.Linear(6, 8), torch.ones(16, 6)), "pass `timesteps` for a constant input"),
        (lambda: unroll(nn.Identity(), torch.ones(6)), "`timesteps` must be at least 1"),
        (lambda: tet_loss(torch.ones(2, 3, 3), torch.tensor([0, 1, 9])), "`targets` must be whole classes from 0 to 2, but got 0..9"),
        (lambda: mean_loss(torch.ones(2, 3, 3), torch.zeros(3)), "`targets` must be whole classes from 0 to 2, but got torch.float32"),
        (lambda: train_spiking(LIF(), [], epochs=1, timesteps=4, inherit=9, inherit_epochs=1), "`inherit` must be below `timesteps`, 4"),
        (lambda: train_spiking(LIF(), [], epochs=1, timesteps=4, loss="tet"), "`loss` must be a function"),
        (lambda: train_spiking(nn.Linear(2, 2), [], epochs=1, timesteps=4), "`model` must have LIF neurons, but Linear has none"),
        (lambda: moving_shapes(noise=1.5), "`noise` must be"),
    ],
)
def test_bad_arguments_are_refused_in_a_line(call, line: str) -> None:
    with pytest.raises(ValueError, match=r"^Arguments? [^\n]*$") as error:
        call()
    assert line in str(error.value)


def test_coding_out_of_range_is_refused() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    trained = nn.Sequential(nn.Linear(3, 4), LIF(), nn.Linear(4, 2))
    for coding in ("rate", "latency"):
        with pytest.raises(ValueError, match="needs inputs in 0..1"):
            sim.compile(trained, IDEAL, example_inputs=torch.full((2, 3), 2.0), timesteps=4, coding=coding)
    with pytest.raises(ValueError, match="whole numbers of events"):
        sim.compile(model, IDEAL, example_inputs=torch.full((2, 4, 3), 0.5), coding="events")
    with pytest.raises(ValueError, match="`coding` must be one of"):
        sim.compile(model, IDEAL, example_inputs=torch.ones(2, 3), timesteps=4, coding="phase")
