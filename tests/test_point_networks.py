"""The extreme point learning machine, and images, events and points as clouds."""

import pytest
import torch
from torch import Tensor

import simulator as sim
from devices import RRAMCrossbar
from simulator.data import digits
from simulator.point_layers import PointStage
from simulator.point_networks import PointNetwork

DESIGN = RRAMCrossbar.preset("taox_40nm_random")


def net(**changes) -> PointNetwork:
    return PointNetwork(DESIGN, [PointStage(8, 8, 0.5, 24), PointStage(None, 1, 0.0, 48)], 3, **changes)


def shapes(samples: int = 96) -> tuple[Tensor, Tensor]:
    """Clouds that are flat, thin or round."""
    generator, kinds = torch.Generator().manual_seed(0), torch.arange(samples) % 3
    widths = torch.tensor([[1.0, 1.0, 0.1], [1.0, 0.1, 0.1], [1.0, 1.0, 1.0]])[kinds]
    return (torch.rand(samples, 48, 3, generator=generator) - 0.5) * widths[:, None], kinds


def test_published_networks_have_the_published_weights() -> None:
    fashion = PointNetwork(DESIGN, [PointStage(512, 32, 0.15, 51), PointStage(128, 64, 0.2, 102), PointStage(None, 1, 0, 819)], 10)
    assert fashion.random_weights == 91_809 and fashion.readout.weight.numel() == 8_190
    stages = [PointStage(256, 32, 0.18, 53), PointStage(128, 64, 0.45, 107), PointStage(None, 1, 0, 512)]
    gestures = PointNetwork(DESIGN, stages, 10, features_of_points=False)
    assert gestures.random_weights == 62_471 and gestures.readout.weight.numel() == 5_120


def test_digits_as_points_are_recognized_by_a_readout_alone() -> None:
    data = digits()
    (x, y), (tx, ty) = data.train.tensors, data.test.tensors
    stages = [PointStage(48, 12, 0.35, 51), PointStage(24, 12, 0.5, 102), PointStage(None, 1, 0.0, 819)]
    found = PointNetwork(DESIGN, stages, 10)
    before = {name: pairs.clone() for name, pairs in found.pairs.items()}
    sim.fit_readout(found, (sim.points_from_images(x), y))
    with torch.no_grad():
        accuracy = float((found(sim.points_from_images(tx)).argmax(1) == ty).float().mean())
    assert accuracy > 0.83
    assert all(torch.equal(before[name], found.pairs[name]) for name in before)


def test_the_readout_is_the_ridge_regression_of_the_features() -> None:
    x, y = shapes()
    found = sim.fit_readout(net(), (x, y), ridge=0.1)
    with torch.no_grad():
        features = found.features(x).double()
    targets = torch.nn.functional.one_hot(y, 3).double()
    centered, wanted = features - features.mean(0), targets - targets.mean(0)
    penalty = 0.1 * float(features.square().sum(0).mean())
    expected = torch.linalg.solve(centered.t() @ centered + penalty * torch.eye(48, dtype=torch.float64), centered.t() @ wanted)
    torch.testing.assert_close(found.readout.weight.detach().double(), expected.t(), rtol=1e-3, atol=1e-6)


def test_order_of_points_does_not_matter_but_for_the_first() -> None:
    x, _ = shapes(4)
    wide = PointNetwork(DESIGN, [PointStage(48, 48, 9.0, 16), PointStage(None, 1, 0.0, 32)], 3)
    order = torch.cat((torch.tensor([0]), 1 + torch.randperm(47, generator=torch.Generator().manual_seed(0))))
    torch.testing.assert_close(wide.features(x), wide.features(x[:, order]))


def test_a_chip_reads_the_same_cells_with_noise() -> None:
    x, y = shapes()
    quiet = DESIGN.replace(adc=None, dac=None, cell={"read_noise": None})
    made = PointNetwork(quiet, [PointStage(8, 8, 0.5, 24), PointStage(None, 1, 0.0, 48)], 3)
    sim.fit_readout(made, (x, y))
    chip = sim.point_chip(made, x)
    torch.testing.assert_close(chip(x), made(x), rtol=1e-4, atol=1e-4)
    noisy = sim.point_chip(sim.fit_readout(net(), (x, y)), x)
    result = sim.evaluate(noisy, (x, y), trials=4)
    assert result.mean().value > 0.9 and float((noisy(x) - noisy(x)).detach().abs().max()) > 0


def test_a_readout_that_is_fitted_on_reads_makes_up_for_their_noise() -> None:
    """The largest of many noisy neighbors lies above the largest without noise: norms and readout of the float network are off."""
    x, y = shapes(240)
    noisy = DESIGN.replace(cell={"read_noise": {"fraction": 0.08}})
    made = PointNetwork(noisy, [PointStage(16, 8, 0.5, 24), PointStage(None, 1, 0.0, 48)], 3)
    chip = sim.point_chip(sim.fit_readout(made, (x[:120], y[:120])), x[:120])
    before = sim.evaluate(chip, (x[120:], y[120:]), trials=4, progress=False).mean().value
    cells = [layer.cells.conductance.clone() for layer in chip.layers.values()]
    assert sim.fit_readout(chip, (x[:120], y[:120])) is chip
    assert sim.evaluate(chip, (x[120:], y[120:]), trials=4, progress=False).mean().value > before
    assert all(torch.equal(one, layer.cells.conductance) for one, layer in zip(cells, chip.layers.values(), strict=True))


def test_rounded_inputs_let_gradients_through_to_the_scales_that_segmentation_trains() -> None:
    x, _ = shapes(8)
    labels, made = (x[..., 0] > 0).long(), net(propagations=(16, 16))
    with torch.no_grad():
        made.readout.weight.copy_(torch.randn(made.readout.weight.shape, generator=torch.Generator().manual_seed(0)))
    torch.nn.functional.cross_entropy(made.train()(x), labels).backward()
    trainable = {name: parameter.grad for name, parameter in made.named_parameters() if parameter.requires_grad}
    assert {name.rpartition("random.")[2] for name in trainable} == {"scale", "norm.weight", "norm.bias", "readout.weight", "readout.bias"}
    assert {name for name, parameter in net().named_parameters() if parameter.requires_grad} == {"readout.weight", "readout.bias"}
    assert all(float(gradient.abs().max()) > 0 for gradient in trainable.values())


def test_every_point_gets_a_label() -> None:
    x, _ = shapes()
    labels = (x[..., 0] > 0).long() + (x[..., 0].abs() < 0.15)
    made = net(propagations=(48, 64))
    sim.fit_readout(made, (x, labels))
    scores = made(x)
    assert scores.shape == (96, 3, 48)
    assert float((scores.argmax(1) == labels).float().mean()) > 0.7  # the largest class has 0.52
    assert made.random_weights == 6 * 24 + 27 * 48 + (48 + 24) * 48 + (48 + 3) * 64


def test_events_and_points_become_clouds_in_the_unit_cube() -> None:
    stream = torch.tensor([[5.0, 0.0, 127.0], [9.0, 127.0, 0.0], [7.0, 63.5, 63.5]])
    few = sim.points_from_events([stream], count=4)
    assert few.shape == (1, 4, 3) and few.amin() == 0 and few.amax() == 1
    many = torch.rand(500, 3, generator=torch.Generator().manual_seed(0)) * 100
    chosen = sim.points_from_events([many, many], count=64)
    assert len({tuple(row) for row in chosen[0].tolist()}) == 64 and not torch.equal(chosen[0], chosen[1])
    moved = sim.centered_points(3 * torch.rand(5, 30, 3, generator=torch.Generator().manual_seed(0)) + 7)
    assert float(moved.mean(1).abs().max()) < 1e-5
    torch.testing.assert_close(moved.norm(dim=2).amax(1), torch.ones(5))


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: PointNetwork(DESIGN, [], 3), "`stages` must hold at least one stage"),
        (lambda: PointNetwork(DESIGN, [PointStage(0, 1, 0.1, 4)], 3), "`stages` must have groups"),
        (lambda: net(propagations=(3,)), "`propagations` must have one width for each of the 2 stages"),
        (lambda: net(zero_probability=1.0), "`zero_probability` must be"),
        (lambda: PointNetwork(DESIGN, [PointStage(4, 4, 0.1, 4)], 1), "`classes` must be at least 2"),
        (lambda: sim.fit_readout(net(), shapes(), ridge=0.0), "`ridge` must be positive"),
        (lambda: sim.fit_readout(net(), []), "`loader` must hold at least one batch"),
        (lambda: sim.fit_readout(net(), (shapes()[0], torch.arange(96))), "`loader` must yield classes from 0 to 2, but got 0 to 95"),
        (lambda: sim.fit_readout(net(), [(shapes()[0], torch.zeros(5, dtype=torch.long))]), "must yield 96 targets with this batch"),
        (lambda: sim.fit_readout(torch.nn.ReLU(), shapes()), "`net` must be a PointNetwork or the chip of one"),
        (lambda: sim.point_chip(torch.nn.ReLU(), shapes()[0]), "`net` must be a PointNetwork"),
        (lambda: net()(torch.rand(2, 9, 5)), "`points` must have shape (batch, points, 3)"),
        (lambda: net(input_bits=0), "`input_bits` must be an integer from 1 to 16 or None"),
        (lambda: sim.points_from_images(torch.rand(2, 3, 8, 8)), "`images` must be"),
        (lambda: sim.points_from_events([torch.zeros(0, 3)]), "`events` must hold tensors"),
    ],
)
def test_bad_arguments_are_refused_in_a_line(call, line: str) -> None:
    with pytest.raises(ValueError, match=r"^Argument [^\n]*$") as error:
        call()
    assert line in str(error.value)
