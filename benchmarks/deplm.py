"""The deep extreme point learning machine: random point networks with a trained readout, on images, events and 3-D points.

``inloop bench deplm`` trains readouts in closed form, in float and read from arrays with 2 % read noise, prints published and measured
numbers apart, and writes ``benchmarks/results/deplm.json`` and ``deplm.png``. The data are scikit-learn's digits as points (for
FashionMNIST), generated events (for DVS Gesture) and generated solids with labelled parts (for ShapeNet).
"""

from dataclasses import dataclass

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
from simulator.data import digits
from simulator.figures import STYLE
from simulator.point_networks import PointNetwork, PointStage, fit_readout, point_chip
from simulator.progress import track

COMMAND = "inloop bench deplm"
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
            (PointStage(128, 24, 0.2, 117), PointStage(48, 32, 0.45, 80), PointStage(None, 1, 0.0, 234)), PARTS, (80, 117, 117),
        ),
    ]  # fmt: skip


def run(task: Task, zero_probability: float = 0.5) -> pd.DataFrame:
    """Return the accuracy in float and from the arrays, and the share of the weights that were trained."""
    rows = []
    design = RRAMCrossbar.preset("taox_40nm_random")
    net = PointNetwork(design, task.stages, task.classes, propagations=task.propagations, zero_probability=zero_probability)
    fit_readout(net, task.train)
    found = sim.evaluate(point_chip(net, task.train[0][:128]), task.test, trials=TRIALS, batch_size=64, progress=False)
    mean = found.mean()
    trained = net.readout.weight.numel()
    rows.append(
        {
            "task": task.name, "data": task.data, "published": PUBLISHED[task.name], "zero_probability": zero_probability,
            "float": found.reference["accuracy"], "on_arrays": mean.value, "half_width": mean.half_width,
            "random_weights": net.random_weights, "trained_weights": trained, "trained_share": trained / (trained + net.random_weights),
        }
    )  # fmt: skip
    return pd.DataFrame(rows)


def figure(frame: pd.DataFrame) -> Figure:
    """Draw accuracy in float and on arrays for each task."""
    with mpl.rc_context(STYLE):
        made = Figure(figsize=(4.6, 2.8), layout="constrained")
        FigureCanvasAgg(made)
        axes = made.add_subplot()
        labels = [f"{str(row.data).replace(', ', chr(10))}\np(zero) = {row.zero_probability:g}" for row in frame.itertuples()]
        places = range(len(labels))
        axes.bar([p - 0.2 for p in places], 100 * frame["float"], 0.38, color="#999999", label="float")
        axes.bar(
            [p + 0.2 for p in places], 100 * frame["on_arrays"], 0.38, yerr=100 * frame["half_width"], color="#0072B2", capsize=2,
            label="arrays, 2 % read noise",
        )  # fmt: skip
        axes.set_xticks(list(places), labels)
        axes.tick_params(axis="x", labelsize=6)
        axes.set_ylabel("accuracy (%), 95 % interval over reads")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return made


def main() -> None:
    """Measure, print and save."""
    torch.set_num_threads(1)
    every = tasks()
    cases = [(task, 0.5) for task in every] + [(every[0], 0.0)]
    frame = pd.concat([run(*case) for case in track(cases, len(cases), "tasks")], ignore_index=True)
    print("measured (stand-in data), accuracy")
    print(frame.drop(columns=["published"]).round(4).to_string(index=False))
    print("published (arXiv:2312.09262, abstract; energy and cost against GPUs, not compared here)")
    for name, text in PUBLISHED.items():
        print(f"  {name}: {text}")
    path = RESULTS / "deplm.png"
    figure(frame).savefig(path.with_suffix(".part"), format="png", dpi=150)
    path.with_suffix(".part").replace(path)
    print(f"written to {save('deplm', COMMAND, frame)} and {path.name}")


if __name__ == "__main__":
    main()
