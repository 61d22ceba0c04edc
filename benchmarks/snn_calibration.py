"""Conversion with and without calibration over time steps, on the embedded digits, beside the published figures.

``inloop bench snn_calibration`` prints the table and writes it, with a figure, to ``benchmarks/results/snn_calibration.*``. The published
figures are of CIFAR, which is not downloaded: digits is a substitute, and much easier. With ``--data cifar10`` the set ``cifar10`` in the
folder that INLOOP_DATA names is taken instead.
"""

import argparse
import sys

import numpy as np
import pandas as pd
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import nn

import simulator as sim
from benchmarks.paper_networks import present
from benchmarks.reporting import report
from devices import SpikingCore
from kernels.random import Key
from simulator._isolation import private_generator
from simulator.data import DataSplit, digits
from simulator.progress import track
from simulator.spiking import AdvancedCalibration, Recipe, accuracy_over_time
from simulator.statistics import mean_interval

COMMAND = "inloop bench snn_calibration"
TIMESTEPS = (4, 8, 16, 32, 64, 128, 256)
SEEDS = 5
ITERATIONS = 50
"""Of the advanced recipe, for each layer; the paper takes 5000 on networks a hundred times as large, and 200 changed nothing here."""
EPOCHS = 12
SAME_FOR_ALL_TIMESTEPS = ("none", "optimal")
"""Recipes whose thresholds and potentials do not depend on the number of steps."""

PUBLISHED = pd.DataFrame(
    [
        ("CIFAR-10, VGG-16", 95.72, "optimal conversion", 76.24, 90.64, 95.73),
        ("CIFAR-10, VGG-16", 95.72, "SNN calibration", 93.71, 95.14, 95.79),
        ("CIFAR-100, VGG-16", 77.89, "optimal conversion", 7.64, 21.84, 77.71),
        ("CIFAR-100, VGG-16", 77.89, "SNN calibration", 73.55, 76.64, 77.87),
        ("CIFAR-10, ResNet-18 (modified)", 95.46, "optimal conversion", 84.06, 92.48, 94.42),
        ("CIFAR-10, ResNet-18 (modified)", 95.46, "SNN calibration", 94.78, 95.30, 95.45),
        ("ImageNet, ResNet-34", 75.66, "SNN calibration", 64.54, np.nan, np.nan),
    ],
    columns=["set, network", "float", "method", "T = 32", "T = 64", "T >= 512"],
)
"""Li et al., ICML 2021, arXiv:2106.06984; top-1 accuracy in percent."""


def network(seed: int, channels: int = 1, features: int = 96, classes: int = 10) -> nn.Sequential:
    """Return a small residual-free convolutional network with batch norm and average pooling: five layers with weights."""
    with private_generator(Key.of(seed=seed, purpose="snn calibration")):
        return nn.Sequential(
            nn.Conv2d(channels, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
            nn.Conv2d(12, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(), nn.AvgPool2d(2),
            nn.Conv2d(12, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU(), nn.AvgPool2d(2),
            nn.Flatten(), nn.Linear(features, 48), nn.ReLU(), nn.Linear(48, classes),
        )  # fmt: skip


def recipes() -> dict[str, str | Recipe]:
    """Return the recipes that are compared, by name."""
    return {
        "none": "none",
        "threshold": "threshold",
        "optimal": "optimal",
        "light": "light",
        "advanced": AdvancedCalibration(iterations=ITERATIONS),
    }


def measure(split: DataSplit, seeds: int = SEEDS, timesteps: tuple[int, ...] = TIMESTEPS) -> pd.DataFrame:
    """Return a row for each network, recipe and number of steps: ``seed``, ``method``, ``timesteps``, ``accuracy``, ``float``."""
    inputs, targets = split.test.tensors  # type: ignore[union-attr]
    core = SpikingCore.preset("ideal")
    rows = []
    for seed in track(range(seeds), seeds, "networks"):
        model = network(seed, inputs.shape[1], 24 * (inputs.shape[2] // 4) * (inputs.shape[3] // 4), int(targets.max()) + 1)
        sim.fit(model, split.train_batches(seed=seed), epochs=EPOCHS, seed=seed)
        model.eval()
        with torch.no_grad():
            exact = float((model(inputs).argmax(1) == targets).float().mean())
        for name, recipe in recipes().items():
            # What does not depend on T has its spikes of few steps as the first ones of many: all T are read from one run.
            runs = (timesteps,) if name in SAME_FOR_ALL_TIMESTEPS else tuple((steps,) for steps in timesteps)
            for read in runs:
                data, longest = split.train_batches(seed=seed), max(read)
                chip = sim.compile(model, core, calibration=data, timesteps=longest, method=recipe, seed=seed)
                over = accuracy_over_time(chip, (inputs, targets))
                rows += [{"seed": seed, "method": name, "timesteps": at, "accuracy": over.at(at).value, "float": exact} for at in read]
    return pd.DataFrame(rows)


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """Return mean accuracy in percent with its 95 % t-interval over networks, a row for each recipe and number of steps."""
    rows = []
    for (method, steps), part in frame.groupby(["method", "timesteps"], sort=False):
        interval = mean_interval([100 * value for value in part["accuracy"]])
        difference = mean_interval([100 * value for value in part["accuracy"] - part["float"]])
        rows.append({"method": method, "timesteps": steps, "accuracy": interval.value, "low": interval.low, "high": interval.high,
                     "below_float": -difference.value, "below_low": -difference.high, "below_high": -difference.low})  # fmt: skip
    return pd.DataFrame(rows)


def claims(frame: pd.DataFrame) -> pd.DataFrame:
    """Return differences in percentage points, network by network, with their 95 % t-interval: what the recipes are held to."""
    accuracy = frame.pivot(index="seed", columns=["method", "timesteps"], values="accuracy")
    exact = frame.groupby("seed")["float"].first()
    pairs = {
        "light at T = 32 less float": (("light", 32), None),
        "light less none at T = 8": (("light", 8), ("none", 8)),
        "light less threshold at T = 8": (("light", 8), ("threshold", 8)),
        "advanced less light at T = 8": (("advanced", 8), ("light", 8)),
    }
    rows = []
    for name, (first, second) in pairs.items():
        if first in accuracy and (second is None or second in accuracy):
            interval = mean_interval(list(100 * (accuracy[first] - (exact if second is None else accuracy[second]))))
            rows.append({"difference, points": name, "mean": interval.value, "low": interval.low, "high": interval.high})
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame, exact: float, name: str) -> Figure:
    """Draw the error over time steps for each recipe with its interval, and that of the float networks."""
    figure = Figure(figsize=(3.5, 2.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    colors = ("#000000", "#E69F00", "#009E73", "#0072B2", "#D55E00")
    for index, (method, part) in enumerate(table.groupby("method", sort=False)):
        places = part["timesteps"].to_numpy() * 1.06 ** (index - 2)
        error = 100 - part["accuracy"].to_numpy()
        bars = np.abs(part[["high", "low"]].to_numpy().T - part["accuracy"].to_numpy())
        axes.errorbar(places, error, yerr=bars, color=colors[index], marker="o", markersize=2.5, capsize=1.5, linewidth=1, label=method)
    axes.axhline(100 - 100 * exact, color="0.5", linestyle="--", linewidth=1, label="float")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")  # an interval that reaches an error of 0 goes to the lower edge
    steps = sorted(table["timesteps"].unique())
    axes.set_xticks(steps, [str(one) for one in steps])
    axes.set_yticks((0.3, 1, 3, 10, 30, 100), ("0.3", "1", "3", "10", "30", "100"))
    axes.minorticks_off()
    axes.set_ylim(0.2, 110)
    axes.set_xlabel("time steps", fontsize=8)
    axes.set_ylabel(f"error on {name}, %, with 95 % interval", fontsize=8)
    axes.legend(fontsize=6, frameon=False)
    axes.tick_params(labelsize=7)
    return figure


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="networks")
    parser.add_argument("--data", choices=("digits", "cifar10"), default="digits", help="cifar10 needs the folder that INLOOP_DATA names")
    parser.add_argument("--timesteps", type=int, nargs="+", default=list(TIMESTEPS))
    parser.add_argument("--json", action="store_true", help="print the rows as JSON and nothing else")
    options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    if options.seeds < 2 or min(options.timesteps) < 1:
        parser.error(f"--seeds must be at least 2 and --timesteps at least 1, but got {options.seeds} and {options.timesteps}")
    split = digits() if options.data == "digits" else present(options.data, digits())
    frame = measure(split, options.seeds, tuple(options.timesteps))
    table = summary(frame)
    exact = float(frame["float"].mean())
    which = "" if split.name == options.data and options.data != "digits" else " (substitute)"
    notes = [
        claims(frame).round(2).to_string(index=False),
        f"measured: {split.name}{which}, 5-layer convolutional network, ideal core, {options.seeds} networks, float {100 * exact:.2f} %",
        "published (Li et al. 2021; other data and networks; -: not taken over):",
        PUBLISHED.to_string(index=False, na_rep="-"),
    ]
    report("snn_calibration", COMMAND, frame, table.round(2), draw(table, exact, split.name), notes, json=options.json)


if __name__ == "__main__":
    main()
