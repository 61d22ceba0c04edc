"""The deep extreme point learning machine: random point networks with a trained readout, on images, events and 3-D points.

``inloop bench deplm`` trains readouts in closed form and reads the networks from arrays with 2 % read noise: with the readout that was
trained in float, and with one that was trained on what the arrays read. It prints published and measured numbers apart, and writes
``benchmarks/results/deplm.json`` and ``deplm.png``. The data are scikit-learn's digits as points (for FashionMNIST), generated events
(for DVS Gesture) and generated solids with labelled parts (for ShapeNet); in the latter, batch norms' scale and shift and the scale of
inputs are trained too, as was published.
"""

from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import pandas as pd
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.data import TensorDataset

import simulator as sim
from benchmarks.stand_ins import PARTS, gestures, solids
from benchmarks.timing import RESULTS, save
from devices import RRAMCrossbar
from simulator.data import Batches, digits
from simulator.figures import STYLE
from simulator.point_layers import PointStage
from simulator.point_networks import PointNetwork, fit_readout, point_chip
from simulator.progress import track

COMMAND = "inloop bench deplm"
SEEDS = 1
TRIALS = 5
PUBLISHED = {
    "digits as points": "FashionMNIST: energy 15.79 x less, training cost -85.61 %",
    "events": "DVS Gesture: energy 21.04 x less, training cost -89.46 %",
    "solids, parts": "ShapeNet: energy 5.90 x less (6.78 x in the journal), training cost -70.12 %",
}
"""arXiv:2312.09262, abstract: energy and cost against GPUs. Accuracies were not read."""


@dataclass(frozen=True)
class Task:
    """Clouds with targets to train and to test on, and the network for them."""

    name: str
    data: str
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    stages: tuple[PointStage, ...]
    classes: int
    propagations: tuple[int, ...] = ()
    epochs: int = 0
    """Of training what is digital beside the readout."""


def tasks() -> list[Task]:
    """Return what is measured: networks of the published widths, on smaller clouds where the stand-in is smaller."""
    split = digits()
    assert isinstance(split.train, TensorDataset) and isinstance(split.test, TensorDataset)
    (x, y), (tx, ty) = split.train.tensors, split.test.tensors
    streams, motions = gestures(320, seed=1)
    clouds = sim.points_from_events(streams, count=512)
    points, parts, _ = solids(180, points=256, seed=1)
    return [
        Task(
            "digits as points", "digits, 64 points", (sim.points_from_images(x), y), (sim.points_from_images(tx), ty),
            (PointStage(48, 12, 0.35, 51), PointStage(24, 12, 0.5, 102), PointStage(None, 1, 0.0, 819)), 10,
        ),
        Task(
            "events", "generated gestures, 512 events", (clouds[:240], motions[:240]), (clouds[240:], motions[240:]),
            (PointStage(96, 16, 0.18, 53), PointStage(48, 24, 0.45, 107), PointStage(None, 1, 0.0, 512)), 8,
        ),
        Task(
            "solids, parts", "generated solids, 256 points", (points[:135], parts[:135]), (points[135:], parts[135:]),
            (PointStage(128, 24, 0.2, 117), PointStage(48, 32, 0.45, 80), PointStage(None, 1, 0.0, 234)), PARTS, (80, 117, 117), 12,
        ),
    ]  # fmt: skip


def run(task: Task, zero_probability: float = 0.5) -> pd.DataFrame:
    """Return a row per seed: accuracy in float and from the arrays with either readout, and the share of the weights that were trained."""
    return pd.DataFrame([_of_seed(task, zero_probability, seed) for seed in range(SEEDS)])


def _of_seed(task: Task, zero_probability: float, seed: int) -> dict[str, Any]:
    design = RRAMCrossbar.preset("taox_40nm_random")
    net = PointNetwork(
        design, task.stages, task.classes, propagations=task.propagations, zero_probability=zero_probability, seed=seed
    )  # fmt: skip
    fit_readout(net, task.train)
    if task.epochs:
        sim.fit(net, Batches(*task.train, 32, seed=seed), epochs=task.epochs, learning_rate=0.01, weight_decay=0.0, seed=seed)
        fit_readout(net, task.train)
    chip = point_chip(net, task.train[0][:128])
    first = sim.evaluate(chip, task.test, trials=TRIALS, batch_size=64, progress=False)
    fit_readout(chip, task.train)
    second = sim.evaluate(chip, task.test, trials=TRIALS, batch_size=64, progress=False)
    trained = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
    return {
        "task": task.name, "data": task.data, "published": PUBLISHED[task.name], "zero_probability": zero_probability, "seed": seed,
        "float": first.reference["accuracy"], "on_arrays": first.mean().value, "half_width": first.mean().half_width,
        "fitted_on_arrays": second.mean().value, "fitted_half_width": second.mean().half_width, "random_weights": net.random_weights,
        "trained_weights": trained, "trained_share": trained / (trained + net.random_weights),
    }  # fmt: skip


def figure(frame: pd.DataFrame) -> Figure:
    """Draw accuracy in float and on arrays for each task."""
    with mpl.rc_context(STYLE):
        made = Figure(figsize=(5.6, 3.0), layout="constrained")
        FigureCanvasAgg(made)
        axes = made.add_subplot()
        groups = list(frame.groupby(["data", "zero_probability"], sort=False))
        labels = [f"{str(data).replace(', ', chr(10))}\np(zero) = {zero:g}" for (data, zero), _ in groups]
        places = range(len(labels))
        bars = (
            ("float", "#999999", "float"),
            ("on_arrays", "#56B4E9", "arrays, readout trained in float"),
            ("fitted_on_arrays", "#0072B2", "arrays, readout trained on their reads"),
        )
        for place, (column, color, label) in enumerate(bars):
            at = [one + 0.27 * (place - 1) for one in places]
            axes.bar(at, [100 * part[column].mean() for _, part in groups], 0.25, color=color, label=label)
            for x, (_, part) in zip(at, groups, strict=True):
                axes.plot([x] * len(part), 100 * part[column], "o", color="black", markersize=2)
        axes.set_xticks(list(places), labels)
        axes.tick_params(axis="x", labelsize=7)
        axes.set_ylabel("accuracy (%); a dot is a network")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    return made


def main() -> None:
    """Measure, print and save."""
    torch.set_num_threads(1)
    every = tasks()
    cases = [(task, 0.5) for task in every] + [(every[0], 0.0)]
    frame = pd.concat([run(*case) for case in track(cases, len(cases), "tasks")], ignore_index=True)
    columns = ["float", "on_arrays", "fitted_on_arrays", "random_weights", "trained_weights", "trained_share"]
    print(f"measured (stand-in data), accuracy, mean of {SEEDS} networks with {TRIALS} reads each")
    print(frame.groupby(["task", "zero_probability"], sort=False)[columns].mean().round(4).to_string())
    print("published (arXiv:2312.09262, abstract; energy and cost against GPUs, not compared here)")
    for name, text in PUBLISHED.items():
        print(f"  {name}: {text}")
    path = RESULTS / "deplm.png"
    figure(frame).savefig(path.with_suffix(".part"), format="png", dpi=150)
    path.with_suffix(".part").replace(path)
    print(f"written to {save('deplm', COMMAND, frame)} and {path.name}")


if __name__ == "__main__":
    main()
