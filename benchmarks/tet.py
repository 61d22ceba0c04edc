"""TET against the plain averaged loss, over time steps, on generated events of moving shapes, beside the published figures.

``inloop bench tet`` prints the table and writes it, with a figure, to ``benchmarks/results/tet.*``. The published figures are of CIFAR and
DVS-CIFAR10, which are not downloaded; the generated events are a substitute.
"""

from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import nn

import simulator as sim
from benchmarks.reporting import parse_counts, report
from devices import SpikingCore
from kernels.random import Key
from simulator._isolation import private_generator
from simulator.data import Batches
from simulator.progress import track
from simulator.spiking import LIF, mean_loss, moving_shapes, tet_loss, train_spiking, unroll
from simulator.statistics import mean_interval

COMMAND = "inloop bench tet"
TIMESTEPS = (2, 4, 6, 10)
SEEDS = 3
EPOCHS = 12
BATCH = 32
LEARNING_RATE = 5e-3
GAIN = 3.0
"""Of torch's first weights: without batch norm, events this rare would else leave most neurons far below their threshold."""
WEIGHT = 1e-3
"""Weight of the mean-square term: that of the paper for event data."""

PUBLISHED = pd.DataFrame(
    [
        ("CIFAR-10, ResNet-19, T = 4", 94.97, "tdBN 92.92", 94.44),
        ("CIFAR-100, ResNet-19, T = 4", 75.35, "tdBN 70.86", 74.47),
        ("DVS-CIFAR10, VGGSNN, T = 10", None, "77.4", 83.17),
    ],
    columns=["set, network", "float", "baseline", "TET"],
)
"""Deng et al., ICLR 2022, arXiv:2202.11946; top-1 accuracy in percent."""


def network(seed: int) -> nn.Sequential:
    """Return two convolutions and two linear layers with LIF neurons as in the paper: decay 0.5, threshold 1, hard reset."""
    with private_generator(Key.of(seed=seed, purpose="tet")):
        model = nn.Sequential(
            nn.Conv2d(2, 12, 3, padding=1), LIF(), nn.AvgPool2d(2), nn.Conv2d(12, 16, 3, padding=1), LIF(), nn.AvgPool2d(2),
            nn.Flatten(), nn.Linear(256, 48), LIF(), nn.Linear(48, 8),
        )  # fmt: skip
    with torch.no_grad():
        for layer in list(model)[:-1]:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.weight.mul_(GAIN)
    return model


def measure(seeds: int, epochs: int) -> pd.DataFrame:
    """Return a row for each network, loss and number of steps, and what time inheritance and an integer core make of TET."""
    data = moving_shapes(train=512, test=512, timesteps=max(TIMESTEPS))
    inputs, targets = data.train.tensors  # type: ignore[union-attr]
    events, classes = data.test.tensors  # type: ignore[union-attr]
    rows = []

    def accuracy(outputs: torch.Tensor) -> float:
        return float((outputs.mean(0).argmax(1) == classes).float().mean())

    losses = {"TET": lambda o, y: tet_loss(o, y, weight=WEIGHT), "averaged": mean_loss}
    for seed in track(range(seeds), seeds, "networks"):
        for name, loss in losses.items():
            model = network(seed)
            batches = Batches(inputs, targets, BATCH, seed=seed)
            train_spiking(model, batches, epochs=epochs, loss=loss, learning_rate=LEARNING_RATE, seed=seed)
            with torch.no_grad():
                outputs = unroll(model, events)
            rows += [{"seed": seed, "method": name, "timesteps": steps, "accuracy": accuracy(outputs[:steps])} for steps in TIMESTEPS]
            if name == "TET":
                chip = sim.compile(model, SpikingCore.preset("loihi1"), example_inputs=events[:4], coding="events")
                over_time: Any = chip.model.over_time
                found = accuracy(over_time(events))
                rows.append({"seed": seed, "method": "TET on loihi1", "timesteps": max(TIMESTEPS), "accuracy": found})
        model = network(seed)
        short = max(TIMESTEPS) // 2
        train_spiking(
            model, Batches(inputs, targets, BATCH, seed=seed), epochs=max(1, epochs // 3), inherit=short,
            inherit_epochs=epochs - epochs // 3, loss=losses["TET"], learning_rate=LEARNING_RATE, seed=seed,
        )  # fmt: skip
        with torch.no_grad():
            found = accuracy(unroll(model, events))
        rows.append({"seed": seed, "method": f"TET, inherited from T = {short}", "timesteps": max(TIMESTEPS), "accuracy": found})
    return pd.DataFrame(rows)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Return mean accuracy in percent with its 95 % t-interval over networks."""
    rows = []
    for (method, steps), part in frame.groupby(["method", "timesteps"], sort=False):
        interval = mean_interval([100 * value for value in part["accuracy"]])
        rows.append({"method": method, "timesteps": steps, "accuracy": interval.value, "low": interval.low, "high": interval.high})
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame) -> Figure:
    """Draw accuracy over the time steps that are read, for each way of training, with its interval."""
    figure = Figure(figsize=(3.5, 2.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colors = ("#0072B2", "#56B4E9", "#D55E00", "#009E73")
    for index, (method, part) in enumerate(table.groupby("method", sort=False)):
        places = part["timesteps"].to_numpy() + 0.12 * (index - 1.5)
        error = np.abs(part[["low", "high"]].to_numpy().T - part["accuracy"].to_numpy())
        axes.errorbar(
            places, part["accuracy"], yerr=error, color=colors[index], marker="o", markersize=3, capsize=1.5, linewidth=1, label=method
        )
    axes.axhline(12.5, color="0.5", linestyle="--", linewidth=1, label="chance")
    axes.set_xticks(list(TIMESTEPS), [str(steps) for steps in TIMESTEPS])
    axes.set_ylim(0, 101)
    axes.set_xlabel("time steps that are read, of 10 trained", fontsize=8)
    axes.set_ylabel("moving shapes: accuracy, %, with interval", fontsize=7)
    axes.legend(fontsize=6, frameon=False)
    axes.tick_params(labelsize=7)
    return figure


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and save."""
    counts = {"seeds": (SEEDS, 2, "networks for each loss"), "epochs": (EPOCHS, 1, "epochs of training")}
    options = parse_counts(COMMAND, __doc__, arguments, **counts)
    frame = measure(options.seeds, options.epochs)
    table = summary(frame)
    notes = [
        f"measured: moving shapes (generated events, substitute), 8 classes, {options.seeds} networks, trained at T = {max(TIMESTEPS)}",
        "published (Deng et al. 2022; other data and networks):",
        PUBLISHED.to_string(index=False),
    ]
    report("tet", COMMAND, frame, table.round(2), draw(table), notes, json=options.json)


if __name__ == "__main__":
    main()
