"""Fairness across groups: its measures by hand, pruning by group, and write-verify that no group pays for."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix
from torch import Tensor, nn

import simulator as sim
from devices import DifferentialMapping, RRAMCrossbar, WeightErrorCell


def test_gaps_are_those_of_the_confusion_matrices() -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, targets, groups = (torch.randint(0, n, (400,), generator=generator) for n in (3, 3, 2))
    found = sim.codesign.fairness(predicted, targets, groups)
    rates = []
    for one in (0, 1):
        matrix = confusion_matrix(targets[groups == one], predicted[groups == one]).astype(float)
        hits = np.diag(matrix)
        positive, alarms = matrix.sum(1), matrix.sum(0) - hits
        negative = matrix.sum() - positive
        rates.append((hits / positive, alarms / negative))
    (tpr0, fpr0), (tpr1, fpr1) = rates
    assert found.equal_opportunity_1 == pytest.approx(np.abs(tpr0 - tpr1).sum())
    assert found.equal_opportunity_0 == pytest.approx(np.abs((1 - fpr0) - (1 - fpr1)).sum())
    assert found.equalized_odds == pytest.approx(np.abs(tpr0 + fpr0 - tpr1 - fpr1).sum())
    each = [float((predicted == targets)[groups == one].double().mean()) for one in (0, 1)]
    assert found.unfairness == pytest.approx(sum(abs(value - found.accuracy) for value in each))
    assert found.worst == pytest.approx(min(each))


def test_a_perfect_classifier_is_fair() -> None:
    targets = torch.arange(30) % 3
    found = sim.codesign.fairness(nn.functional.one_hot(targets, 3).float(), targets, torch.arange(30) % 2)
    assert (found.equal_opportunity_0, found.equal_opportunity_1, found.equalized_odds, found.unfairness) == (0, 0, 0, 0)


def groups(samples: int = 600, seed: int = 0) -> dict[str, tuple[Tensor, Tensor]]:
    """A large group whose classes lie along some features and a small one whose classes lie along others."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, count, start in (("many", samples, 0), ("few", samples // 8, 8)):
        x = 0.4 * torch.randn(count, 16, generator=generator)
        y = torch.randint(0, 4, (count,), generator=generator)
        signs = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])[y]
        x[:, start : start + 8] += signs.repeat_interleave(4, 1) * (1.0 if name == "many" else 0.8)
        x[:, 8 - start : 16 - start] *= 0.3
        made[name] = (x, y)
    return made


def trained() -> nn.Sequential:
    data = groups()
    x, y = (torch.cat([data[name][part] for name in data]) for part in (0, 1))
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    sim.fit(model, [(x, y)], epochs=150, learning_rate=0.02)
    return model


def rates(model: nn.Module, seed: int = 9) -> dict[str, float]:
    with torch.no_grad():
        return {name: float((model(x).argmax(1) == y).float().mean()) for name, (x, y) in groups(2000, seed).items()}


def test_pruning_takes_the_smallest_saliency_of_the_protected_group() -> None:
    model, data = trained(), groups()
    found = sim.codesign.fair_prune(model, data, protect="few", ratio=0.4, beta=0.3)
    assert found.ratio == pytest.approx(0.4, abs=0.01)
    h = {name: sim.second_derivative(model, one) for name, one in data.items()}
    saliency = {n: 0.5 * p.detach() ** 2 * (h["few"][n] - 0.3 * h["many"][n]) for n, p in model.named_parameters() if p.dim() == 2}
    kept = torch.cat([saliency[n][found.masks[n]] for n in saliency])
    pruned = torch.cat([saliency[n][~found.masks[n]] for n in saliency])
    assert float(pruned.max()) <= float(kept.min())
    parameters = dict(found.model.named_parameters())
    assert all(bool((parameters[n][~mask] == 0).all()) for n, mask in found.masks.items())
    assert all(torch.equal(parameters[n][mask], dict(model.named_parameters())[n][mask]) for n, mask in found.masks.items())


def test_protecting_a_group_keeps_its_accuracy() -> None:
    model, data = trained(), groups()
    protected = rates(sim.codesign.fair_prune(model, data, protect="few", ratio=0.5).model)
    reverse = rates(sim.codesign.fair_prune(model, data, protect="many", ratio=0.5).model)
    assert protected["few"] > reverse["few"] + 0.02
    assert reverse["many"] > protected["many"]


def test_write_verify_by_the_worst_group_keeps_accuracy_fair_under_noise() -> None:
    model, data = trained(), groups()
    cell = WeightErrorCell(g_min_siemens=40e-6, g_max_siemens=60e-6, sigma=0.3, weight_bits=4, device_bits=4)
    chip = sim.compile(model, RRAMCrossbar(cell=cell, mapping=DifferentialMapping(weight_bits=5)), example_inputs=data["many"][0])
    pooled = [(torch.cat([data[name][0] for name in data]), torch.cat([data[name][1] for name in data]))]
    test = groups(800, 9)["few"]
    found = {}
    for name, ranking in (("pooled", "second_derivative"), ("fair", sim.codesign.fair_scores(chip, data))):
        sim.write_verify(chip, pooled, fraction=0.3, ranking=ranking)
        found[name] = sim.evaluate(chip, test, trials=40, progress=False)
    assert sim.compare(found["fair"], found["pooled"], names=("fair", "pooled")).difference.value > 0


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"protect": "nobody"}, "`groups` must map at least two names to data"),
        ({"groups": {"few": []}}, "`groups` must map at least two names to data"),
        ({"ratio": 1.0}, "`ratio` must be at least 0 and below 1"),
        ({"beta": -0.1}, "`beta` must be at least 0"),
        ({"beta": math.nan}, "`beta` must be at least 0"),
        ({"model": nn.LayerNorm(16)}, "must have linear layers or convolutions"),
    ],
)
def test_bad_arguments_are_refused_in_a_line(change: dict, line: str) -> None:
    arguments = {"model": nn.Linear(16, 4), "groups": groups(64), "protect": "few", **change}
    with pytest.raises(ValueError, match=r"^[^\n]*$") as error:
        sim.codesign.fair_prune(**arguments)
    assert line in str(error.value)


def test_one_group_or_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="`groups` must hold at least two groups"):
        sim.codesign.fairness(torch.zeros(4, dtype=torch.long), torch.zeros(4, dtype=torch.long), torch.zeros(4))
    with pytest.raises(ValueError, match="must have one entry a sample"):
        sim.codesign.fairness(torch.zeros(4, dtype=torch.long), torch.zeros(3, dtype=torch.long), torch.zeros(4))
