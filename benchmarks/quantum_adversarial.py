"""Attacks on a quantum classifier of ten qubits and training against them, on digits, without noise and with a calibrated chip's.

``inloop bench quantum_adversarial`` follows the published circuit: 260 angles ``2 x + pi + theta``, pixels repeated to fill them. Images
are scikit-learn's digits 0 and 1 (8 x 8, each pixel four times, four angles left at 0) in place of the magnetic-resonance images that
were published. Noise is that of the gates as calibrated on the chip of two transmons, its infidelity taken as random Pauli errors, with
1024 shots and its errors of readout: a state of ten transmons under pulses is not simulated here.
"""

import math

import pandas as pd
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from benchmarks.timing import save
from devices import TransmonBackend
from devices.quantum.calibration import gate_fidelities
from devices.quantum.readout import assignment_matrix
from kernels import Key, uniform
from simulator.progress import track
from simulator.quantum import Angle, Circuit, Gate, VariationalCircuit
from simulator.statistics import mean_interval

COMMAND = "inloop bench quantum_adversarial"
QUBITS, ANGLES, READ = 10, 260, 5
SEEDS, EPOCHS, BATCH, RATE = 3, 4, 20, 0.05
TRAIN, TEST = 160, 100
ATTACK_STEPS, ATTACK_RATE, REACH = 10, 0.01, 0.05
GAIN = 4.0
"""Logit of an expectation of 1."""
TRAJECTORIES, SHOTS = 8, 1024
PUBLISHED = {
    ("clean", "clean"): "0.99 (500 to train on, 100 to test on, magnetic-resonance images)",
    ("clean", "attacked"): "P0 of one sample 0.709 -> 0.379",
    ("adversarial", "attacked"): "P0 of that sample 0.692",
}
"""Arxiv 2204.01738, by how the classifier was trained and what it was tested on."""


def published_circuit() -> Circuit:
    """Return the published circuit: blocks of 4, 3, 3 and 3 pairs of rotations, each followed by two layers of controlled nots."""
    circuit, at = Circuit(QUBITS), 0
    for pairs in (4, 3, 3, 3):
        for _ in range(pairs):
            for name in ("rx", "rz"):
                for q in range(QUBITS):
                    circuit = circuit.add(name, q, angle=Angle(math.pi, ((at + q, 2.0), (ANGLES + at + q, 1.0))))
                at += QUBITS
        for start in (0, 1):
            for q in range(start, QUBITS - 1, 2):
                circuit = circuit.add("cx", q, q + 1)
    return circuit


class Classifier(nn.Module):
    """The circuit with the expectation of one qubit as the logit of two classes."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.layer = VariationalCircuit(ANGLES, QUBITS, circuit=published_circuit(), reads=[READ], seed=seed)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``(batch, 2)``."""
        logit = GAIN * self.layer(inputs)
        return torch.cat([logit, -logit], 1)


def load(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return digits 0 and 1 with every pixel four times, from 0 to 1, padded by zeros to 260."""
    images, labels = load_digits(n_class=2, return_X_y=True)
    parts = train_test_split(images / 16.0, labels, train_size=TRAIN, test_size=TEST, random_state=seed, stratify=labels)
    angles = [nn.functional.pad(torch.tensor(part, dtype=torch.float32).repeat_interleave(4, 1), (0, 4)) for part in parts[:2]]
    return angles[0], torch.tensor(parts[2]), angles[1], torch.tensor(parts[3])


def attack(model: nn.Module, inputs: Tensor, classes: Tensor, steps: int = ATTACK_STEPS) -> Tensor:
    """Raise the loss by so many steps of Adam on the pixels that are not dark."""
    mask = (inputs > REACH).float()
    moved = inputs.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([moved], ATTACK_RATE)
    for _ in range(steps):
        loss = -nn.functional.cross_entropy(model(moved), classes)
        (moved.grad,) = torch.autograd.grad(loss, moved)
        moved.grad *= mask
        optimizer.step()
    return moved.detach()


def train(model: Classifier, data: tuple[Tensor, ...], seed: int, adversarial: bool) -> None:
    """Train by Adam on the cross-entropy, of clean and of attacked samples where asked to."""
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    for epoch in range(EPOCHS):
        order = torch.argsort(uniform(Key.of(seed=seed, tile=epoch, purpose="order"), TRAIN))
        for rows in order.split(BATCH):
            inputs, classes = data[0][rows], data[1][rows]
            if adversarial:
                inputs = torch.cat([inputs, attack(model, inputs, classes, 7)])
                classes = classes.repeat(2)
            loss = nn.functional.cross_entropy(model(inputs), classes)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


class PauliNoise:
    """Random Pauli errors after each gate with the infidelity of the calibrated gates, averaged over trajectories.

    Parameters
    ----------
    backend
        The chip with calibrated gates; the means over its transmons and pairs are taken for all qubits.
    """

    def __init__(self, backend: TransmonBackend) -> None:
        table = gate_fidelities(backend).groupby("gate")["fidelity_with_relaxation"].mean()
        # Average infidelity is p d / (d + 1) for random Paulis; two quarter turns make any gate of one qubit.
        self.single = 2 * (1 - float(table["sx"])) * 3 / 2
        self.pair = (1 - float(table["cx"])) * 5 / 4
        one = assignment_matrix(backend).reshape(2, 2, 2, 2).sum(0).mean(1)
        self.assignment = torch.from_numpy(one)

    def __call__(self, circuit: Circuit, seed: int) -> Circuit:
        """Return the circuit with errors drawn: before each controlled not on both its qubits, after it on the pair."""
        gates: list[Gate] = []
        draws = iter(uniform(Key.of(seed=seed, purpose="pauli"), 8 * len(circuit.gates)).tolist())
        touched: set[int] = set()
        for gate in circuit.gates:
            if gate.name == "cx":
                for q in sorted(touched & set(gate.qubits)):
                    if next(draws) < self.single:
                        gates.append(Gate("xyz"[int(3 * next(draws))], (q,)))
                touched -= set(gate.qubits)
                gates.append(gate)
                if next(draws) < self.pair:
                    which = 1 + int(15 * next(draws))
                    for q, pauli in zip(gate.qubits, (which % 4, which // 4), strict=True):
                        if pauli:
                            gates.append(Gate("xyz"[pauli - 1], (q,)))
            else:
                touched.add(gate.qubits[0])
                gates.append(gate)
        return Circuit(circuit.qubits, tuple(gates))

    def logits(self, model: Classifier, inputs: Tensor, seed: int) -> Tensor:
        """Return the logits of shots read with errors: ``(batch, 2)``."""
        layer = model.layer
        rows = layer.parameter_rows(inputs, layer.weight)
        ones = torch.zeros(len(inputs), dtype=torch.float64)
        index = torch.arange(2**QUBITS)
        for trajectory in range(TRAJECTORIES):
            state = self(layer.circuit, 1000 * seed + trajectory).state(rows)
            ones += (state.abs() ** 2)[:, (index >> READ & 1) == 1].sum(1) / TRAJECTORIES
        read = self.assignment[1, 0] * (1 - ones) + self.assignment[1, 1] * ones
        drawn = uniform(Key.of(seed=seed, purpose="shots"), (len(inputs), SHOTS)).double()
        logit = GAIN * (1 - 2 * (drawn < read[:, None]).double().mean(1, keepdim=True))
        return torch.cat([logit, -logit], 1)


def measure(seeds: int = SEEDS, progress: bool | None = None) -> pd.DataFrame:
    """Return a row per seed, way of training, test samples and noise with accuracy and mean probability of the right class."""
    noise = PauliNoise(TransmonBackend.preset("jakarta_like").calibrated)
    rows = []
    cases = [(seed, kind) for seed in range(seeds) for kind in ("clean", "adversarial")]
    for seed, kind in track(cases, len(cases), "classifiers", progress):
        data = load(seed)
        model = Classifier(seed)
        train(model, data, seed, kind == "adversarial")
        samples = {"clean": data[2], "attacked": attack(model, data[2], data[3])}
        for name, inputs in samples.items():
            with torch.no_grad():
                found = {"no": model(inputs), "calibrated chip": noise.logits(model, inputs, seed)}
            for noisy, logits in found.items():
                right = float((logits.argmax(1) == data[3]).double().mean())
                probability = float((0.5 + logits.gather(1, data[3][:, None]) / (2 * GAIN)).mean())
                rows.append(
                    {"seed": seed, "training": kind, "samples": name, "noise": noisy, "accuracy": right, "probability": probability}
                )
    return pd.DataFrame(rows)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over seeds with its 95 % interval."""
    rows = []
    for (training, samples, noise), part in frame.groupby(["training", "samples", "noise"], sort=False):
        rows.append(
            {
                "training": training, "samples": samples, "noise": noise,
                "measured accuracy": str(mean_interval(part["accuracy"].tolist())),
                "measured P(right)": str(mean_interval(part["probability"].tolist())),
                "published": PUBLISHED.get((str(training), str(samples)), "-") if noise != "no" else "-",
            }
        )  # fmt: skip
    return pd.DataFrame(rows)


def main() -> None:
    """Measure, print and save."""
    frame = measure()
    with pd.option_context("display.max_colwidth", 90, "display.width", 240):
        print(summary(frame).to_string(index=False))
    print(f"written to {save('quantum_adversarial', COMMAND, frame)}")


if __name__ == "__main__":
    main()
