"""Attacks on quantum classifiers and training against them: a bounded attack in closed form, and what is lost and recovered."""

import copy
import json

import pandas as pd
import pytest
import torch
from torch import nn

from benchmarks.quantum_adversarial import CHOSEN, TRAININGS, attack, log_probabilities, published_circuit, summary, train
from benchmarks.reporting import parse_counts
from benchmarks.timing import RESULTS
from kernels import Key, uniform
from simulator.quantum import Circuit, VariationalCircuit
from simulator.statistics import mean_interval


class TwoFeatures(nn.Module):
    """Two qubits, one turned by a large feature and one by what makes a small one as large, and trained turns that choose between them."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        circuit = Circuit(2).rotate("rx", 0, 0, factor=2.0, offset=-1.0).rotate("rx", 1, 1, factor=50.0, offset=-25.0)
        for weight in range(2, 10, 4):
            for q in range(2):
                circuit = circuit.rotate("rx", q, weight + 2 * q).rotate("ry", q, weight + 2 * q + 1)
            circuit = circuit.add("cx", 0, 1)
        self.layer = VariationalCircuit(2, 2, circuit=circuit, reads=[1], seed=seed)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return log-probabilities of two classes."""
        return log_probabilities(self.layer(inputs))


def two_features(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a feature that is right in 85 of 100 samples and one that is always right, but twenty times smaller; and the classes."""
    draws = uniform(Key.of(seed=seed, purpose="features"), (count, 2))
    classes = (draws[:, 0] < 0.5).long()
    sign = 2.0 * classes - 1
    large = torch.where(draws[:, 1] < 0.85, sign, -sign)
    # From 0 to 1 as pixels are: the middle is no turn.
    return torch.stack([0.5 + 0.4 * large, 0.5 + 0.02 * sign], 1), classes


@pytest.mark.long
def test_training_against_attacks_recovers_what_they_take() -> None:
    """A clean classifier leans on the small feature, and an attack of twice its size takes all; the large one is then still right."""
    for seed in range(2):
        data = two_features(160, seed)
        start = TwoFeatures(seed)
        accuracy = {}
        for kind in TRAININGS:
            model = copy.deepcopy(start)
            train(model, data, seed, epochs=8, rate=0.1, epsilon=0.04 if kind == "adversarial" else 0.0)
            for epsilon in (0.0, 0.04):
                found = model(attack(model, *data, epsilon)).argmax(1) == data[1]
                accuracy[kind, epsilon] = float(found.double().mean())
        margin = accuracy["clean", 0.0] - 0.5
        assert margin > 0.25
        assert accuracy["clean", 0.0] - accuracy["clean", 0.04] > 0.5 * margin
        # The large feature alone is right in 85 of 100 samples.
        assert accuracy["adversarial", 0.04] > 0.65


def test_an_attack_on_a_linear_classifier_is_its_closed_form() -> None:
    model = nn.Sequential(nn.Linear(5, 2), nn.LogSoftmax(1))
    weight = torch.tensor([[1.0, -2.0, 0.5, -0.1, 3.0], [0.0, 1.0, 1.0, 0.2, -1.0]])
    with torch.no_grad():
        model[0].weight.copy_(weight)
    inputs, classes = torch.tensor([[0.5, 0.4, 0.6, 0.05, 0.95], [0.3, 0.5, 0.5, 0.5, 0.5]]), torch.tensor([0, 1])
    # The loss of class 0 rises along the difference of the rows, and pixels stay between 0 and 1.
    slope = torch.sign(weight[1] - weight[0])
    expected = (inputs + 0.1 * torch.stack([slope, -slope])).clamp(0, 1)
    torch.testing.assert_close(attack(model, inputs, classes, 0.1), expected, rtol=0, atol=1e-6)
    assert torch.equal(attack(model, inputs, classes, 0.0), inputs)


def test_the_published_circuit_has_its_angles_and_every_pixel_once() -> None:
    circuit = published_circuit()
    angles = [gate.angle for gate in circuit.gates if gate.angle]
    assert len(angles) == 260
    pixels = [term[0] for angle in angles for term in angle.terms if term[0] < 64]
    assert sorted(pixels) == list(range(64))
    assert circuit.parameters == 64 + 260


def test_the_committed_result_shows_the_fall_and_the_recovery() -> None:
    """Half of the margin over chance is lost or more, and what training gets back is above zero with its interval."""
    frame = pd.DataFrame(json.loads((RESULTS / "quantum_adversarial.json").read_text())["rows"])
    assert set(frame["noise"]) == set(summary(frame)["noise"]) == {"none", "calibrated chip"}
    for _, part in frame.groupby("noise"):
        wide = part.pivot(index="seed", columns=["training", "epsilon"], values="accuracy")
        assert len(wide) >= 5
        lost = (wide["clean", 0.0] - wide["clean", CHOSEN]) / (wide["clean", 0.0] - 0.5)
        assert lost.mean() >= 0.5
        assert mean_interval((wide["adversarial", CHOSEN] - wide["clean", CHOSEN]).tolist()).low > 0


def test_options_refuse_what_is_too_little(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_counts("inloop bench vqp", "Train.", ["--seeds", "1"], seeds=(5, 2, "splits"))
    assert "argument --seeds: must be at least 2, but got 1" in capsys.readouterr().err
