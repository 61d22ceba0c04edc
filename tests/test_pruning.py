"""Networks on cells that are never tuned: the law of their pairs, and learning which edges to keep."""

import copy
import io

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn

import simulator as sim
from devices import DifferentialMapping, RRAMCrossbar, SRAMMacro
from kernels import Key
from simulator.data import digits
from simulator.forming import form_pairs, sparse_pairs

DESIGN = RRAMCrossbar.preset("taox_40nm_random")
MEAN, SIGMA = 34.055e-6, 5.323e-6
PUBLISHED = DESIGN.replace(cell={"mean_siemens": MEAN, "sigma_siemens": SIGMA})


def labelled(samples: int = 160) -> tuple[Tensor, Tensor]:
    x = torch.rand(samples, 8, generator=torch.Generator().manual_seed(1))
    return x, (x[:, 0] + x[:, 1] > x[:, 2] + x[:, 3]).long()


def small() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 2))


def test_half_unformed_cells_make_the_published_mixture() -> None:
    pairs = sparse_pairs(PUBLISHED.cell, (700, 700), Key.of(seed=2)).double()
    weight = (pairs[0, 0] - pairs[0, 1]).flatten() * 1e6
    plus, minus = pairs[0, 0].flatten() > 0, pairs[0, 1].flatten() > 0
    tolerance = 4 * np.sqrt(0.25 * 0.75 / weight.numel())
    for kind in (~plus & ~minus, plus & ~minus, ~plus & minus, plus & minus):
        assert float(kind.double().mean()) == pytest.approx(0.25, abs=tolerance)
    assert bool((weight[~plus & ~minus] == 0).all())
    for kind, law in (
        (plus & ~minus, scipy.stats.norm(34.055, 5.323)),
        (~plus & minus, scipy.stats.norm(-34.055, 5.323)),
        (plus & minus, scipy.stats.norm(0, 7.53)),
    ):
        assert scipy.stats.kstest(weight[kind][:20_000], law.cdf).pvalue > 1e-3
    assert float(weight.std()) == pytest.approx(24.66, rel=5e-3)


@pytest.mark.parametrize(("zero_probability", "published"), [(0.0, 0.1295), (0.5, 0.028)])
def test_sparsity_lowers_the_error_of_reads(zero_probability: float, published: float) -> None:
    """Relative error of a matrix-vector product at read noise of 2 %, read from an array."""
    design = PUBLISHED.replace(adc=None, dac=None)
    pairs = sparse_pairs(design.cell, (256, 256), Key.of(seed=3), zero_probability)
    sigma = design.cell.read_sigma(pairs, 0.0)
    weight = (pairs[0, 0] - pairs[0, 1]).double()
    keep, mean = 1 - zero_probability, MEAN**2 + SIGMA**2
    analytic = 0.02 * np.sqrt(2 * keep * mean / (2 * (keep * mean - (keep * MEAN) ** 2)))
    assert analytic == pytest.approx(published, rel=0.01)
    x = torch.rand(64, 256, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.5
    noise = torch.randn(64, 256, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    error = (x.square() @ sigma[0].square().sum(0).double().t()).sqrt() * noise
    assert float(error.norm() / (x @ weight.t()).norm()) == pytest.approx(analytic, rel=0.05)


def test_pairs_that_are_pruned_by_one_reset_cell_would_outweigh_those_kept() -> None:
    pairs = form_pairs(DESIGN.cell, (300, 300), Key.of(seed=0), "one_reset")
    on, off = pairs.on[0] - pairs.on[1], pairs.off[0] - pairs.off[1]
    assert float(on.abs().mean()) * 1e6 == pytest.approx(2 / np.sqrt(np.pi) * 5.32, rel=0.01)  # of |N(0, 2 s^2)|: the 6.0 of the paper
    assert float(off.abs().mean()) * 1e6 == pytest.approx(34.06, rel=0.01)
    assert bool((torch.sign(on) == torch.sign(off)).all())


@pytest.mark.long
def test_a_pruned_network_learns_what_a_dense_random_one_does_not_know() -> None:
    data, net = digits(), nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    found = {
        (keep, hysteresis): sim.edge_pruning(net, DESIGN, data.train, keep=keep, hysteresis=hysteresis, epochs=45, batch_size=96)
        for keep, hysteresis in ((1.0, 0.0), (0.5, 0.0), (0.5, 0.5))
    }
    dense, plain, lazy = (sim.evaluate(one.chip, data.test, trials=6) for one in found.values())
    assert dense.mean().value < 0.25
    assert plain.mean().value >= 0.95
    assert len(set(plain.values())) > 1  # fresh read noise at each trial
    assert found[0.5, 0.5].flips < found[0.5, 0.0].flips
    error = np.hypot(plain.components().test_error, lazy.components().test_error)
    assert lazy.mean().value > plain.mean().value - 2 * error


def test_the_chip_holds_one_array_with_the_pruned_pairs_reset() -> None:
    found = sim.edge_pruning(small(), DESIGN, labelled(), keep=0.3, epochs=3, seed=4)
    for name, layer in found.chip.layers.items():
        mask = found.masks[name]
        assert int(mask.sum()) == round(0.3 * mask.numel())
        cells = layer.cells.conductance[0]
        assert bool((cells[:, ~mask] == 0).all()) and bool((cells[:, mask] > 0).all())
        pairs = form_pairs(DESIGN.cell, tuple(mask.shape), Key.of(seed=4, layer=name, purpose="edge pruning").fold("form"))
        assert torch.equal(cells[:, mask], pairs.on[:, mask])
        kept = layer.weight.detach()[mask].abs()
        assert float((layer.weight.detach()[~mask] == 0).float().mean()) == 1
        assert float(kept.mean()) == pytest.approx(np.sqrt(2 / (0.3 * mask.shape[1])), rel=0.25)
    assert found.kept == pytest.approx(0.3, abs=0.01) and found.not_formed == ()
    before = [layer.cells.conductance.clone() for layer in found.chip.layers.values()]
    found.chip.program(99, 7)
    assert all(torch.equal(a, layer.cells.conductance) for a, layer in zip(before, found.chip.layers.values(), strict=True))


def test_a_read_without_noise_and_converters_equals_the_float_network() -> None:
    design = DESIGN.replace(adc=None, dac=None, cell={"read_noise": None})
    chip = sim.edge_pruning(small(), design, labelled(), epochs=2).chip
    x = labelled()[0]
    with chip.reference():
        expected = chip(x)
    torch.testing.assert_close(chip(x), expected, rtol=1e-4, atol=1e-4)


def test_a_saved_chip_keeps_its_array() -> None:
    found = sim.edge_pruning(small(), DESIGN, labelled(), epochs=2)
    stream = io.BytesIO()
    torch.save(found.chip.state_dict(), stream)
    stream.seek(0)
    other = sim.edge_pruning(small(), DESIGN, labelled(), epochs=1, seed=9).chip
    other.load_state_dict(torch.load(stream, weights_only=True))
    x = labelled()[0]
    assert torch.equal(copy.deepcopy(found.chip)(x), other(x))


def test_cells_that_are_formed_cannot_be_tuned() -> None:
    chip = sim.edge_pruning(small(), DESIGN, labelled(), epochs=1).chip
    layer = next(iter(chip.layers.values()))
    with torch.no_grad():
        layer.weight.mul_(torch.linspace(1, 2, layer.weight.shape[0])[:, None])
    chip.program(0)  # one factor for each output is digital
    with torch.no_grad():
        layer.weight[0, 0] += 1.0
    with pytest.raises(ValueError, match="must be their difference times a factor for each output"):
        chip.program(0)


class Forked(nn.Module):
    """Convolutions with batch norm and a skip, a recurrent layer, an upsampling: one of each."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, stride=2), nn.BatchNorm2d(4), nn.ReLU())
        self.rnn = nn.RNN(8, 6, nonlinearity="relu", batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.down(x)
        joined = torch.cat((y, nn.functional.interpolate(self.deep(y), scale_factor=2.0)), 1)
        return self.head(self.rnn(joined.mean(2).transpose(1, 2))[0][:, -1])


def test_convolutions_skips_and_recurrent_layers_are_pruned() -> None:
    x = torch.rand(24, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = sim.edge_pruning(
        Forked(), DESIGN, (x, torch.arange(24) % 3), epochs=2, activation_bits=6, scope="global", hysteresis=0.1, batch_size=8
    )
    assert len(found.masks) == 5 and {mask.dim() for mask in found.masks.values()} == {2, 4}
    assert found.kept == pytest.approx(0.5, abs=0.05) and found.flips > 0
    assert found.chip(x).shape == (24, 3) and bool(torch.isfinite(found.chip(x)).all())
    assert set(found.history) == {"epoch", "loss", "metric", "flips", "limit"}


def test_equal_seeds_give_equal_bits() -> None:
    first, again, other = (sim.edge_pruning(small(), DESIGN, labelled(), epochs=2, seed=seed) for seed in (3, 3, 4))
    name = next(iter(first.masks))
    assert torch.equal(first.masks[name], again.masks[name]) and not torch.equal(first.masks[name], other.masks[name])
    assert torch.equal(first.chip(labelled()[0]), again.chip(labelled()[0]))


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"keep": 0.0}, "`keep` must be above 0 and at most 1"),
        ({"keep": 1.2}, "`keep` must be above 0 and at most 1"),
        ({"hysteresis": -1.0}, "`hysteresis` must be"),
        ({"epochs": 0}, "`epochs` must be"),
        ({"scope": "row"}, "`scope` must be one of"),
        ({"off": "none"}, "`off` must be one of"),
        ({"activation_bits": 0}, "`activation_bits` must be"),
        ({"learning_rate": float("nan")}, "`learning_rate` must be positive and finite"),
        ({"momentum": 1.0}, "`momentum` must be at least 0 and below 1"),
        ({"weight_decay": -1e-3}, "`weight_decay` must be at least 0"),
        ({"net": "digits"}, "`net` must be a network"),
        ({"loader": [torch.zeros(4, 8)]}, "`loader` must yield (inputs, targets)"),
        ({"loader": []}, "`loader` must hold at least one batch"),
        ({"design": SRAMMacro.preset("asscc_2023")}, "`design` must be an RRAMCrossbar"),
        ({"design": DESIGN.replace(mapping=DifferentialMapping(weight_bits=4))}, "`design` must map a weight to the difference"),
    ],
)
def test_bad_arguments_are_refused_in_a_line(change: dict, line: str) -> None:
    arguments = {"net": small(), "design": DESIGN, "loader": labelled(), "epochs": 1, **change}
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        sim.edge_pruning(**arguments)
    assert line in str(error.value)
