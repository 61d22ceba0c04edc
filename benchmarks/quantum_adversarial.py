"""Attacks on a quantum classifier of ten qubits and training against them, on digits, without noise and with a calibrated chip's.

``inloop bench quantum_adversarial`` takes the published circuit (260 trained angles in 13 pairs of layers of rotations, controlled nots
between them), scikit-learn's digits 0 and 1, and projected gradient ascent of the loss as the attack: `ATTACK_STEPS` steps of 2.5 epsilon /
`ATTACK_STEPS`, every pixel at most epsilon away from what it was and between 0 and 1. After training on clean images a classifier goes on
for as many epochs on clean ones or on attacked ones, from the same angles; both are then attacked at several epsilons by one who knows
their gradients without noise.

What differs from the publication: 8 x 8 images in place of magnetic-resonance ones, so a pixel is one angle of every second rotation about
x and enters as its value in rad, not twice it; all angles train at once, and start at small turns about the mean image. Noise is that of
the gates as calibrated on the chip of two transmons, its infidelity taken as random Pauli errors, with its errors of readout and 1024
shots: a state of ten transmons under pulses is not simulated here.
"""

import copy
import math

import matplotlib as mpl
import pandas as pd
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

from benchmarks.reporting import parse_counts, report
from devices import TransmonBackend
from devices.quantum.calibration import gate_fidelities
from devices.quantum.figures import COLORS, STYLE
from devices.quantum.readout import assignment_matrix
from kernels import Key, uniform
from simulator.progress import track
from simulator.quantum import Angle, Circuit, Gate, VariationalCircuit
from simulator.statistics import mean_interval

COMMAND = "inloop bench quantum_adversarial"
QUBITS, READ, PIXELS = 10, 5, 64
BLOCKS = (4, 3, 3, 3)
"""Pairs of layers of rotations before each two layers of controlled nots."""
SEEDS, EPOCHS, BATCH = 12, 7, 20
RATES = (0.05, 0.02)
"""Of Adam: before and after the two ways of training part."""
TRAIN, TEST = 240, 100
SPREAD = 0.3
"""Largest angle, rad, by which what a classifier starts from differs from no turn at the mean image."""
EPSILONS = (0.0, 0.05, 0.1, 0.15, 0.2)
CHOSEN = 0.15
"""Epsilon of training and of the numbers that are compared: 15 % of a pixel's range."""
ATTACK_STEPS, TRAINED_STEPS = 10, 3
"""Steps of the attack on test images, and on those that are trained on."""
TRAJECTORIES, SHOTS = 32, 1024
TRAININGS = ("clean", "adversarial")
PUBLISHED = {
    ("clean", "clean"): "0.99 (500 to train on, 100 to test on, magnetic-resonance images)",
    ("clean", "attacked"): "P0 of one sample 0.709 -> 0.379",
    ("adversarial", "attacked"): "P0 of that sample 0.692",
}
"""Arxiv 2204.01738, by how the classifier was trained and what it was tested on."""


def published_circuit(qubits: int = QUBITS, pixels: int = PIXELS, blocks: tuple[int, ...] = BLOCKS) -> Circuit:
    """Return the published circuit; every second rotation about x has a pixel, as long as there are pixels."""
    circuit, weight, encoded = Circuit(qubits), pixels, 0
    for pairs in blocks:
        for _ in range(pairs):
            for name in ("rx", "rz"):
                for q in range(qubits):
                    terms: tuple[tuple[int, float], ...] = ((weight, 1.0),)
                    if name == "rx" and q % 2 == 0 and encoded < pixels:
                        terms = ((encoded, 1.0), *terms)
                        encoded += 1
                    circuit = circuit.add(name, q, angle=Angle(0.0, terms))
                    weight += 1
        for start in (0, 1):
            for q in range(start, qubits - 1, 2):
                circuit = circuit.add("cx", q, q + 1)
    return circuit


class Classifier(nn.Module):
    """The circuit whose one qubit is read as the class."""

    def __init__(self, seed: int, mean_image: Tensor, circuit: Circuit | None = None, read: int = READ) -> None:
        super().__init__()
        built = published_circuit() if circuit is None else circuit
        pixels = len(mean_image)
        self.layer = VariationalCircuit(pixels, built.qubits, circuit=built, reads=[read], seed=seed)
        with torch.no_grad():
            self.layer.weight.mul_(SPREAD / math.pi)
            for gate in built.gates:
                if gate.angle and len(gate.angle.terms) == 2:
                    (pixel, _), (weight, _) = gate.angle.terms
                    self.layer.weight[weight - pixels] -= mean_image[pixel]

    def forward(self, inputs: Tensor) -> Tensor:
        """Return log-probabilities of two classes, ``(batch, 2)``: those to read the qubit as 0 and as 1."""
        return log_probabilities(self.layer(inputs))


def log_probabilities(expectation: Tensor) -> Tensor:
    """Return the logarithms of the probabilities to read 0 and 1 for expectations of Z, ``(batch, 1)``; none is below 1e-6."""
    return torch.cat([1 + expectation, 1 - expectation], 1).div(2).clamp(min=1e-6).log()


def load(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return images of the digits 0 and 1 and their classes to train on, then those to test on; pixels go from 0 to 1."""
    images, labels = load_digits(n_class=2, return_X_y=True)
    parts = train_test_split(images / 16.0, labels, train_size=TRAIN, test_size=TEST, random_state=seed, stratify=labels)
    first, second = (torch.tensor(part, dtype=torch.float32) for part in parts[:2])
    return first, torch.tensor(parts[2]), second, torch.tensor(parts[3])


def attack(model: nn.Module, inputs: Tensor, classes: Tensor, epsilon: float, steps: int = ATTACK_STEPS) -> Tensor:
    """Return images that raise the loss by projected gradient ascent (Madry et al., arXiv:1706.06083), from the images themselves."""
    moved = inputs.clone()
    if not epsilon:
        return moved
    for _ in range(steps):
        moved.requires_grad_(True)
        (slope,) = torch.autograd.grad(nn.functional.nll_loss(model(moved), classes), moved)
        moved = moved.detach() + 2.5 * epsilon / steps * slope.sign()
        moved = torch.maximum(torch.minimum(moved, inputs + epsilon), inputs - epsilon).clamp(0, 1)
    return moved


def train(model: nn.Module, data: tuple[Tensor, ...], seed: int, *, epochs: int, rate: float, epsilon: float = 0.0) -> None:
    """Train by Adam on the cross-entropy of attacked images; epsilon grows over the first two thirds, or training would stay at chance."""
    optimizer = torch.optim.Adam(model.parameters(), rate)
    count = len(data[0])
    updates = max(1, epochs * -(-count // BATCH) * 2 // 3)
    update = 0
    for epoch in range(epochs):
        order = torch.argsort(uniform(Key.of(seed=seed, tile=epoch, purpose=f"order {rate}"), count))
        for rows in order.split(BATCH):
            update += 1
            inputs, classes = data[0][rows], data[1][rows]
            if epsilon:
                inputs = attack(model, inputs, classes, epsilon * min(1.0, update / updates), TRAINED_STEPS)
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
    """Return a row per seed, way of training, epsilon and noise with accuracy and mean probability of the right class."""
    noise = PauliNoise(TransmonBackend.preset("jakarta_like").calibrated)
    rows = []
    for seed in track(range(seeds), seeds, "classifiers", progress):
        data = load(seed)
        start = Classifier(seed, data[0].mean(0))
        train(start, data, seed, epochs=epochs, rate=RATES[0])
        for kind in TRAININGS:
            model = copy.deepcopy(start)
            train(model, data, seed, epochs=epochs, rate=RATES[1], epsilon=CHOSEN if kind == "adversarial" else 0.0)
            for epsilon in EPSILONS:
                inputs = attack(model, data[2], data[3], epsilon)
                with torch.no_grad():
                    found = {"none": model(inputs), "calibrated chip": noise.read(model, inputs, seed)}
                for noisy, logarithms in found.items():
                    right = float((logarithms.argmax(1) == data[3]).double().mean())
                    probability = float(logarithms.exp().gather(1, data[3][:, None]).mean())
                    row = {"seed": seed, "training": kind, "epsilon": epsilon, "noise": noisy}
                    rows.append({**row, "accuracy": right, "P(right)": probability})
    return pd.DataFrame(rows)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Return means over seeds with their 95 % t-intervals, a row per noise and epsilon.

    The share of the margin lost is ``(clean - attacked) / (clean - 0.5)`` of the accuracy of classifiers trained on clean images; what is
    recovered is the accuracy of adversarially trained ones minus theirs, seed by seed.
    """
    rows = []
    for (noise, epsilon), part in frame.groupby(["noise", "epsilon"], sort=False):
        wide = part.pivot(index="seed", columns="training", values="accuracy")
        chosen = frame[(frame["noise"] == noise) & (frame["epsilon"] == 0) & (frame["training"] == "clean")]
        clean = chosen.set_index("seed")["accuracy"]
        row = {"noise": noise, "epsilon": epsilon}
        for kind in TRAININGS:
            row[f"accuracy, {kind} training"] = str(mean_interval(wide[kind].tolist()))
        row["share of the margin lost"] = str(mean_interval(((clean - wide["clean"]) / (clean - 0.5)).tolist()))
        row["recovered"] = str(mean_interval((wide["adversarial"] - wide["clean"]).tolist()))
        rows.append(row)
    return pd.DataFrame(rows)


def figure(frame: pd.DataFrame) -> Figure:
    """Draw accuracy over the strength of the attack, a panel without noise and one with the chip's."""
    with mpl.rc_context(STYLE):
        made = Figure(figsize=(6.0, 2.6), layout="constrained")
        FigureCanvasAgg(made)
        panels = made.subplots(1, 2, sharey=True)
        for axes, noise in zip(panels, ("none", "calibrated chip"), strict=True):
            for shift, kind, color in ((-0.001, "clean", COLORS[0]), (0.001, "adversarial", COLORS[1])):
                chosen = frame[(frame["noise"] == noise) & (frame["training"] == kind)]
                found = {one: mean_interval((100 * chosen[chosen["epsilon"] == one]["accuracy"]).tolist()) for one in EPSILONS}
                axes.errorbar(
                    [one + shift for one in found], [one.value for one in found.values()], [one.half_width for one in found.values()],
                    fmt="o-", color=color, markersize=3, capsize=2, label=f"{kind} training",
                )  # fmt: skip
            axes.axhline(50, color="#888888", linewidth=0.8, linestyle=":")
            axes.set_xticks(EPSILONS)
            axes.set_xlabel("epsilon of the attack, of a pixel's range")
            axes.set_title("without noise" if noise == "none" else "with the calibrated chip's noise")
        panels[0].set_ylabel("accuracy (%), 95 % interval over seeds")
        panels[0].legend(loc="lower left")
    return made


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and save."""
    chosen = parse_counts(
        COMMAND, __doc__, arguments,
        seeds=(SEEDS, 2, "splits of the data and angles to start from"), epochs=(EPOCHS, 1, "before and after the ways of training part"),
    )  # fmt: skip
    frame = measure(chosen.seeds, chosen.epochs)
    notes = [
        f"accuracy on {TEST} held-out images, mean over {chosen.seeds} seeds with its 95 % interval; attacks of {ATTACK_STEPS} steps of "
        f"projected gradient ascent; adversarial training at epsilon {CHOSEN}, {TRAINED_STEPS} steps"
    ]
    for (kind, samples), text in PUBLISHED.items():
        notes.append(f"published (arXiv:2204.01738, other images), {kind} training, {samples}: {text}")
    report("quantum_adversarial", COMMAND, frame, summary(frame), figure(frame), notes, json=chosen.json)


if __name__ == "__main__":
    main()
