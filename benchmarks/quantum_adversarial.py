"""Attacks on a quantum classifier of ten qubits and training against them, on digits, without noise and with a calibrated chip's.

``inloop bench quantum_adversarial`` follows the published circuit: 260 angles ``2 x + pi + theta``, pixels repeated to fill them, the
logarithm of the probability of the right class as the loss, Adam. Images are scikit-learn's digits 0 and 1 (8 x 8, each pixel in four
angles, four angles without one) in place of the magnetic-resonance images that were published; an attack moves the 64 pixels. All angles
train at once and start at small turns about the mean image, where the published work trains those of one qubit at a time. Accuracy is
shown over the number of attack steps for classifiers trained on clean and on attacked images. Noise is that of the gates as calibrated
on the chip of two transmons, its infidelity taken as random Pauli errors, with 1024 shots and its errors of readout: a state of ten
transmons under pulses is not simulated here.
"""

import argparse
import math

import matplotlib as mpl
import pandas as pd
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from benchmarks.timing import RESULTS, save
from devices import TransmonBackend
from devices.quantum.calibration import gate_fidelities
from devices.quantum.figures import COLORS, STYLE
from devices.quantum.readout import assignment_matrix
from kernels import Key, uniform
from simulator.progress import track
from simulator.quantum import Angle, Circuit, Gate, VariationalCircuit
from simulator.statistics import mean_interval

COMMAND = "inloop bench quantum_adversarial"
QUBITS, ANGLES, READ = 10, 260, 5
PIXELS, COPIES = 64, 4
SEEDS, EPOCHS, BATCH, RATE = 4, 10, 20, 0.05
TRAIN, TEST = 240, 100
SPREAD = 0.3
"""Largest angle, rad, by which what a classifier starts from differs from no turn at the mean image."""
ATTACK_STEPS, ATTACK_RATE, REACH = (0, 3, 5, 7, 10), 0.01, 0.05
TRAINED_STEPS = 7
"""Steps of the attack that a classifier is trained against; published are 7 to 10."""
TRAJECTORIES, SHOTS = 8, 1024
TRAININGS = ("clean", "adversarial")
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
                for q in range(at, at + QUBITS):
                    pixel = ((q // COPIES, 2.0),) if q < COPIES * PIXELS else ()
                    circuit = circuit.add(name, q - at, angle=Angle(math.pi, (*pixel, (PIXELS + q, 1.0))))
                at += QUBITS
        for start in (0, 1):
            for q in range(start, QUBITS - 1, 2):
                circuit = circuit.add("cx", q, q + 1)
    return circuit


class Classifier(nn.Module):
    """The circuit whose one qubit is read as the class."""

    def __init__(self, seed: int, mean_image: Tensor) -> None:
        super().__init__()
        self.layer = VariationalCircuit(PIXELS, QUBITS, circuit=published_circuit(), reads=[READ], seed=seed)
        turns = nn.functional.pad(mean_image.repeat_interleave(COPIES), (0, ANGLES - COPIES * PIXELS))
        with torch.no_grad():
            self.layer.weight.mul_(SPREAD / math.pi).sub_(math.pi + 2 * turns)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return log-probabilities of two classes, ``(batch, 2)``: those to read the qubit as 0 and as 1."""
        return log_probabilities(self.layer(inputs))


def log_probabilities(expectation: Tensor) -> Tensor:
    """Return the logarithms of the probabilities to read 0 and 1 for expectations of Z, ``(batch, 1)``; none is below 1e-6."""
    return torch.cat([1 + expectation, 1 - expectation], 1).div(2).clamp(min=1e-6).log()


def load(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return digits 0 and 1 with every pixel four times, from 0 to 1, padded by zeros to 260."""
    images, labels = load_digits(n_class=2, return_X_y=True)
    parts = train_test_split(images / 16.0, labels, train_size=TRAIN, test_size=TEST, random_state=seed, stratify=labels)
    first, second = (torch.tensor(part, dtype=torch.float32) for part in parts[:2])
    return first, torch.tensor(parts[2]), second, torch.tensor(parts[3])


def attack(model: nn.Module, inputs: Tensor, classes: Tensor, steps: int) -> Tensor:
    """Raise the loss by so many steps of Adam on the pixels that are not dark."""
    mask = (inputs > REACH).float()
    moved = inputs.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([moved], ATTACK_RATE)
    for _ in range(steps):
        loss = -nn.functional.nll_loss(model(moved), classes)
        (moved.grad,) = torch.autograd.grad(loss, moved)
        moved.grad *= mask
        optimizer.step()
    return moved.detach()


def train(model: Classifier, data: tuple[Tensor, ...], seed: int, adversarial: bool, epochs: int = EPOCHS) -> None:
    """Train by Adam on the cross-entropy, of clean and of attacked samples where asked to."""
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    for epoch in range(epochs):
        order = torch.argsort(uniform(Key.of(seed=seed, tile=epoch, purpose="order"), TRAIN))
        for rows in order.split(BATCH):
            inputs, classes = data[0][rows], data[1][rows]
            if adversarial:
                inputs = torch.cat([inputs, attack(model, inputs, classes, TRAINED_STEPS)])
                classes = classes.repeat(2)
            loss = nn.functional.nll_loss(model(inputs), classes)
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

    def read(self, model: Classifier, inputs: Tensor, seed: int) -> Tensor:
        """Return the logarithms of the shares of shots read as each class, errors included: ``(batch, 2)``."""
        layer = model.layer
        rows = layer.parameter_rows(inputs, layer.weight)
        ones = torch.zeros(len(inputs), dtype=torch.float64)
        index = torch.arange(2**QUBITS)
        for trajectory in range(TRAJECTORIES):
            state = self(layer.circuit, 1000 * seed + trajectory).state(rows)
            ones += (state.abs() ** 2)[:, (index >> READ & 1) == 1].sum(1) / TRAJECTORIES
        read = self.assignment[1, 0] * (1 - ones) + self.assignment[1, 1] * ones
        drawn = uniform(Key.of(seed=seed, purpose="shots"), (len(inputs), SHOTS)).double()
        return log_probabilities(1 - 2 * (drawn < read[:, None]).double().mean(1, keepdim=True))


def measure(seeds: int = SEEDS, epochs: int = EPOCHS, progress: bool | None = None) -> pd.DataFrame:
    """Return a row per seed, way of training, steps of the attack and noise with accuracy and mean probability of the right class."""
    noise = PauliNoise(TransmonBackend.preset("jakarta_like").calibrated)
    rows = []
    cases = [(seed, kind) for seed in range(seeds) for kind in TRAININGS]
    for seed, kind in track(cases, len(cases), "classifiers", progress):
        data = load(seed)
        model = Classifier(seed, data[0].mean(0))
        train(model, data, seed, kind == "adversarial", epochs)
        for steps in ATTACK_STEPS:
            inputs = attack(model, data[2], data[3], steps)
            with torch.no_grad():
                found = {"none": model(inputs), "calibrated chip": noise.read(model, inputs, seed)}
            for noisy, logarithms in found.items():
                right = float((logarithms.argmax(1) == data[3]).double().mean())
                probability = float(logarithms.exp().gather(1, data[3][:, None]).mean())
                rows.append(
                    {"seed": seed, "training": kind, "attack steps": steps, "noise": noisy, "accuracy": right, "P(right)": probability}
                )
    return pd.DataFrame(rows)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Return means over seeds with their 95 % t-intervals, a row per noise, steps of the attack and quantity.

    The share of the margin lost is ``(clean - attacked) / (clean - 0.5)`` of the accuracy of classifiers trained on clean images; what is
    recovered is the accuracy of adversarially trained ones minus theirs, seed by seed.
    """
    rows = []
    for (noise, steps), part in frame.groupby(["noise", "attack steps"], sort=False):
        wide = part.pivot(index="seed", columns="training", values="accuracy")
        chosen = frame[(frame["noise"] == noise) & (frame["attack steps"] == 0) & (frame["training"] == "clean")]
        clean = chosen.set_index("seed")["accuracy"]
        row = {"noise": noise, "attack steps": steps}
        for kind in TRAININGS:
            row[f"accuracy, {kind} training"] = str(mean_interval(wide[kind].tolist()))
        row["share of the margin lost"] = str(mean_interval(((clean - wide["clean"]) / (clean - 0.5)).tolist()))
        row["recovered"] = str(mean_interval((wide["adversarial"] - wide["clean"]).tolist()))
        rows.append(row)
    return pd.DataFrame(rows)


def figure(frame: pd.DataFrame) -> Figure:
    """Draw accuracy over the steps of the attack, a panel without noise and one with the chip's."""
    with mpl.rc_context(STYLE):
        made = Figure(figsize=(6.0, 2.6), layout="constrained")
        FigureCanvasAgg(made)
        panels = made.subplots(1, 2, sharey=True)
        for axes, noise in zip(panels, ("none", "calibrated chip"), strict=True):
            for shift, kind, color in ((-0.08, "clean", COLORS[0]), (0.08, "adversarial", COLORS[1])):
                chosen = frame[(frame["noise"] == noise) & (frame["training"] == kind)]
                found = {
                    steps: mean_interval((100 * chosen[chosen["attack steps"] == steps]["accuracy"]).tolist()) for steps in ATTACK_STEPS
                }
                axes.errorbar(
                    [steps + shift for steps in found], [one.value for one in found.values()], [one.half_width for one in found.values()],
                    fmt="o-", color=color, markersize=3, capsize=2, label=f"{kind} training",
                )  # fmt: skip
            axes.axhline(50, color="#888888", linewidth=0.8, linestyle=":")
            axes.set_xlabel(f"steps of the attack, {ATTACK_RATE:g} each")
            axes.set_title("without noise" if noise == "none" else "with the calibrated chip's noise")
        panels[0].set_ylabel("accuracy (%), 95 % interval over seeds")
        panels[0].legend(loc="lower left")
    return made


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="splits of the data and angles to start from, at least 2")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args([] if arguments is None else arguments)
    frame = measure(options.seeds, options.epochs)
    with pd.option_context("display.max_colwidth", 90, "display.width", 240):
        print(summary(frame).to_string(index=False))
    for (kind, samples), text in PUBLISHED.items():
        print(f"published (arXiv:2204.01738, other images), {kind} training, {samples}: {text}")
    path = RESULTS / "quantum_adversarial.png"
    figure(frame).savefig(path.with_suffix(".part"), format="png", dpi=150, metadata={"Software": None})
    path.with_suffix(".part").replace(path)
    print(f"written to {save('quantum_adversarial', COMMAND, frame)} and {path.name}")


if __name__ == "__main__":
    main()
