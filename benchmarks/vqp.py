"""Trained pulses (VQP) against trained gates (VQC) and logistic regression on two classes, without noise and on a noisy chip.

``inloop bench vqp`` trains both with exact gradients, measures them without noise and on the calibrated chip with relaxation, errors of
readout and 1024 shots, prints published and measured numbers apart, and writes them to ``benchmarks/results/vqp.json``. The published
experiments' data sets could not be read; these are scikit-learn's digits and breast cancer data.
"""

import copy

import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

import simulator as sim
from benchmarks.quantum_data import DATA_SETS, Split, load
from benchmarks.timing import save
from devices import TransmonBackend
from kernels import Key, uniform
from simulator.progress import track
from simulator.quantum import PulseCircuit, VariationalCircuit
from simulator.statistics import mean_interval

COMMAND = "inloop bench vqp"
SEEDS = 5
EPOCHS, BATCH, RATE = 10, 32, 0.1
GAIN = 4.0
"""Logit of an expectation of 1; fixed, so that nothing classical is trained."""
PUBLISHED = {
    "VQP": "11 points above VQC on noisy simulators, 9 on ibmq_jakarta (arXiv:2203.17267, latest abstract; an earlier one says 30 and 40 %)"
}


class TwoClasses(nn.Module):
    """A quantum layer whose first expectation is the logit of two classes."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, inputs: Tensor) -> Tensor:
        """Return logits ``(batch, 2)``."""
        logit = GAIN * self.layer(inputs)[:, :1]
        return torch.cat([logit, -logit], 1)


def train(model: nn.Module, data: Split, seed: int) -> None:
    """Train by Adam on the cross-entropy."""
    inputs, classes = data[:2]
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    for epoch in range(EPOCHS):
        order = torch.argsort(uniform(Key.of(seed=seed, tile=epoch, purpose="order"), len(inputs)))
        for rows in order.split(BATCH):
            loss = nn.functional.cross_entropy(model(inputs[rows]), classes[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def accuracy(model: nn.Module, data: Split) -> float:
    """Return the share of the test data that is classified right."""
    with torch.no_grad():
        return float((model(data[2]).argmax(1) == data[3]).double().mean())


def measure(seeds: int = SEEDS, data_sets: tuple[str, ...] = DATA_SETS, progress: bool | None = None) -> pd.DataFrame:
    """Return a row per data set, model and seed with accuracies without and with noise."""
    backend = TransmonBackend.preset("jakarta_like").calibrated
    cases = [(name, seed) for name in data_sets for seed in range(seeds)]
    rows = []
    for name, seed in track(cases, len(cases), "data sets and seeds", progress):
        data = load(name, seed)
        plain = LogisticRegression(max_iter=1000).fit(data[0].numpy(), data[1].numpy())
        rows.append({"data": name, "model": "logistic regression", "seed": seed, "ideal": plain.score(data[2].numpy(), data[3].numpy())})
        layers = {
            "VQP": PulseCircuit(backend, inputs=4, layers=2, reads=[1], seed=seed),
            "VQC": VariationalCircuit(inputs=4, qubits=2, layers=2, reads=[1], seed=seed),
        }
        for kind, layer in layers.items():
            model = TwoClasses(layer)
            train(model, data, seed)
            chip = sim.compile(copy.deepcopy(model), backend, example_inputs=data[0][:2], seed=seed)
            noisy = accuracy(chip.program(seed=seed).eval(), data)
            rows.append({"data": name, "model": kind, "seed": seed, "ideal": accuracy(model, data), "noisy": noisy})
    return pd.DataFrame(rows)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over seeds with its 95 % interval, a row per data set and model."""
    rows = []
    for (name, model), part in frame.groupby(["data", "model"], sort=False):
        row = {"data": name, "model": model}
        for column in ("ideal", "noisy"):
            values = part[column].dropna().tolist()
            row[f"measured, {column}"] = str(mean_interval(values)) if len(values) > 1 else "-"
        rows.append(row | {"published": PUBLISHED.get(str(model), "-")})
    return pd.DataFrame(rows)


def main() -> None:
    """Measure, print and save."""
    frame = measure()
    with pd.option_context("display.max_colwidth", 120, "display.width", 240):
        print(summary(frame).to_string(index=False))
    print(f"accuracy on 100 held-out samples, mean over {SEEDS} seeds with its 95 % interval; noisy: relaxation, readout, 1024 shots")
    print(f"written to {save('vqp', COMMAND, frame)}")


if __name__ == "__main__":
    main()
