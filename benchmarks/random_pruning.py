"""Edge pruning of networks on random resistive cells that are never tuned, against the same random networks unpruned.

``inloop bench random_pruning`` prunes a classifier of digits, the published convolutional classifier, a recurrent one and a small U-Net,
reads each array anew for every trial, prints published and measured numbers apart, and writes
``benchmarks/results/random_pruning.json`` and ``random_pruning.png``. FashionMNIST, spoken digits and DRIVE are used where the folder
that INLOOP_DATA names has them; the stand-ins are scikit-learn's digits, their rows as a sequence, and generated vessel-like images.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import pandas as pd
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import simulator as sim
from benchmarks.paper_networks import SmallUNet, enlarged_digits, present, random_classifier
from benchmarks.stand_ins import vessels
from benchmarks.timing import RESULTS, save
from devices import RRAMCrossbar
from kernels import Key, normal
from simulator._isolation import private_generator
from simulator.data import DataSplit, digits
from simulator.figures import STYLE
from simulator.progress import track
from simulator.statistics import mean_interval

COMMAND = "inloop bench random_pruning"
TRIALS = 4
TREATMENTS = (("dense random", 1.0, 0.0), ("pruned", 0.5, 0.0), ("pruned, hysteresis", 0.5, 0.5))
"""What is done to a random network: its name, the share of the edges that is kept, the hysteresis."""
PUBLISHED = {
    "classifier": "+17.3 points on FashionMNIST over the same random network unpruned",
    "recurrent": "+19.9 points on spoken digits",
    "U-Net": "+9.8 % PR-AUC, +2 % ROC-AUC on DRIVE",
}
"""arXiv:2311.07164, abstract. Energy differs between its two versions and is not compared here."""


REFERENCE = {0.02: 97.0, 0.05: 96.9, 0.1: 96.8, 0.2: 95.8}
"""Read noise and accuracy in % of an independent reference run on digits, noise in proportion to each weight (not published)."""


class RowReader(nn.Module):
    """Reads an image row by row with a recurrent layer of rectified units: the stand-in's counterpart of the spoken-digit network."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.RNN(8, 64, nonlinearity="relu", batch_first=True)
        self.head = nn.Linear(64, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Return class scores of images (batch, 1, rows, 8)."""
        states, _ = self.rows(images.squeeze(1))
        scores: Tensor = self.head(states[:, -1])
        return scores


@dataclass(frozen=True)
class Case:
    """One network on one data set."""

    name: str
    published: str
    network: Callable[[], nn.Module]
    data: Callable[[], DataSplit]
    metrics: tuple[Any, ...]
    epochs: int
    batch_size: int
    activation_bits: int | None
    learning_rate: float = 0.1
    seeds: int = 1


def digits_network() -> nn.Sequential:
    """Return the fully connected network 64-128-64-10."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def pr_auc(outputs: Tensor, targets: Tensor) -> float:
    """Return the area under the precision-recall curve of pixels, scores (n, 2, height, width)."""
    return float(average_precision_score(targets.flatten(), (outputs[:, 1] - outputs[:, 0]).flatten()))


def roc_auc(outputs: Tensor, targets: Tensor) -> float:
    """Return the area under the ROC curve of pixels, scores (n, 2, height, width)."""
    return float(roc_auc_score(targets.flatten(), (outputs[:, 1] - outputs[:, 0]).flatten()))


def vessel_split() -> DataSplit:
    """Return generated vessel-like patches, 128 to train on and 32 to test on, each of mean 0 and deviation 1.

    An array adds noise in proportion to its inputs: what all pixels share would be noise without a signal.
    """
    images, labels = vessels(160, size=32, seed=1)
    images = (images - images.mean((1, 2, 3), keepdim=True)) / images.std((1, 2, 3), keepdim=True)
    return DataSplit(TensorDataset(images[:128], labels[:128]), TensorDataset(images[128:], labels[128:]), 2, "generated vessels")


CASES = (
    Case("MLP 64-128-64-10", "classifier", digits_network, digits, ("accuracy",), 60, 64, None, seeds=3),
    Case(
        "conv 64-16, fc 400-128-10", "classifier", random_classifier, lambda: present("fashion_mnist", enlarged_digits(28)), ("accuracy",),
        8, 60, 4,
    ),
    Case("recurrent, row by row", "recurrent", RowReader, lambda: present("spoken_digits", digits()), ("accuracy",), 60, 30, None, 0.03, 2),
    Case("U-Net, base 16", "U-Net", lambda: SmallUNet(16), lambda: present("drive", vessel_split()), (pr_auc, roc_auc), 40, 16, 6, 0.3),
)  # fmt: skip


def run(case: Case) -> pd.DataFrame:
    """Return a row per seed and treatment: the metric over reads of the array, flips and kept share; and what training in float reaches."""
    split = case.data()
    design = RRAMCrossbar.preset("taox_40nm_random")
    rows: list[dict[str, Any]] = []
    for seed in range(case.seeds):
        known = {"case": case.name, "published": PUBLISHED[case.published], "data": split.name, "seed": seed}
        for treatment, keep, hysteresis in TREATMENTS:
            found = sim.edge_pruning(
                case.network(), design, split.train, keep=keep, hysteresis=hysteresis, epochs=case.epochs, batch_size=case.batch_size,
                activation_bits=case.activation_bits, learning_rate=case.learning_rate, metric=case.metrics[0], seed=seed, progress=False,
            )  # fmt: skip
            result = sim.evaluate(found.chip, split.test, metrics=case.metrics, trials=TRIALS, seed=seed, progress=False)
            for metric in result.reference:
                mean = result.mean(metric)
                rows.append(
                    {
                        **known, "treatment": treatment, "metric": metric, "value": mean.value, "half_width": mean.half_width,
                        "without_read_noise": result.reference[metric], "flips": found.flips, "kept": found.kept, "trials": TRIALS,
                    }
                )  # fmt: skip
        for metric, value in _trained(case, split, seed).items():
            rows.append({**known, "treatment": "trained in float", "metric": metric, "value": value})
    return pd.DataFrame(rows)


def _trained(case: Case, split: DataSplit, seed: int) -> dict[str, float]:
    """Return what the same network reaches when all of its weights are trained, on no array: what the data allow."""
    with private_generator(Key.of(seed=seed, purpose="random pruning")):
        model = case.network()
    sim.fit(model, split.train_batches(case.batch_size, seed=seed), epochs=max(6, case.epochs // 3), seed=seed)
    with torch.no_grad():
        parts = [(model(inputs), targets) for inputs, targets in split.test_batches()]
    outputs, targets = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    accuracy = float((outputs.argmax(1) == targets).float().mean())
    return {one if isinstance(one, str) else one.__name__: accuracy if one == "accuracy" else one(outputs, targets) for one in case.metrics}


def read_noise(levels: tuple[float, ...] = (0.0, 0.02, 0.05, 0.1, 0.2)) -> pd.DataFrame:
    """Return accuracy of the pruned network on digits against read noise, in proportion to each cell's conductance and to each weight.

    A weight is the difference of two cells that are several times as large: the same percentage of a cell is far more of the weight.
    """
    split = digits()
    rows: list[dict[str, Any]] = []
    for level in levels:
        noise = {"type": "devices.rram.spread:ProportionalSpread", "fraction": level} if level else None
        design = RRAMCrossbar.preset("taox_40nm_random", cell={"read_noise": noise})
        found = sim.edge_pruning(digits_network(), design, split.train, epochs=40, progress=False)
        mean = sim.evaluate(found.chip, split.test, trials=TRIALS, progress=False).mean()
        rows.append({"of": "cell", "read_noise": level, "accuracy": mean.value, "half_width": mean.half_width})
        if not level:
            rows += [_noisy_weights(found.chip, split, each) for each in levels]
    return pd.DataFrame(rows)


def _noisy_weights(chip: sim.Chip, split: DataSplit, level: float) -> dict[str, Any]:
    """Return the accuracy of the network that a chip stands for, each weight read with a noise in proportion to it."""
    values = []
    for trial in range(TRIALS):
        noisy = digits_network()
        with torch.no_grad():
            for name, layer in chip.layers.items():
                key = Key.of(seed=0, trial=trial, layer=name, purpose="noise of weights")
                module = noisy.get_submodule(name)
                assert isinstance(module, nn.Linear)
                module.weight.copy_(layer.weight * (1 + level * normal(key, layer.weight.shape)))
                module.bias.zero_()
            hits = torch.cat([noisy(inputs).argmax(1) == targets for inputs, targets in split.test_batches()])
        values.append(float(hits.float().mean()))
    interval = mean_interval(values)
    return {"of": "weight", "read_noise": level, "accuracy": interval.value, "half_width": interval.half_width}


def figure(frame: pd.DataFrame, noise: pd.DataFrame) -> Figure:
    """Draw the metric of each network before and after pruning, and the accuracy against read noise."""
    colors = {"dense random": "#999999", "pruned": "#0072B2", "pruned, hysteresis": "#56B4E9", "trained in float": "#D55E00"}
    with mpl.rc_context(STYLE):
        made = Figure(figsize=(10.0, 3.4), layout="constrained")
        FigureCanvasAgg(made)
        left, right = made.subplots(1, 2, width_ratios=(3, 1.3))
        labels = list(dict.fromkeys(f"{row.case}\n{row.metric}" for row in frame.itertuples()))
        for place, treatment in enumerate(colors):
            part = frame[frame["treatment"] == treatment]
            for row in part.to_dict("records"):
                at = labels.index(f"{row['case']}\n{row['metric']}") + 0.2 * (place - 1.5) + 0.03 * row["seed"]
                left.errorbar(
                    at, row["value"], yerr=row["half_width"], marker="o", markersize=3, capsize=2, color=colors[treatment]
                )  # fmt: skip
            left.plot([], [], "o", markersize=3, color=colors[treatment], label=treatment)
        left.set_xticks(range(len(labels)), [label.replace(", ", "\n") for label in labels])
        left.set_ylim(0, 1)
        left.set_ylabel("metric on the array, 95 % interval over reads")
        left.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(colors))
        for of, lines in noise.groupby("of"):
            spread = 100 * lines["half_width"].fillna(0)
            right.errorbar(
                100 * lines["read_noise"], 100 * lines["accuracy"], yerr=spread, marker="o", markersize=3, capsize=2, label=f"of a {of}"
            )
        right.plot([100 * level for level in REFERENCE], list(REFERENCE.values()), "k+", label="reference run")
        right.legend(loc="lower left")
        right.set_xlabel("read noise (%)")
        right.set_ylabel("accuracy on digits (%)")
    return made


def main() -> None:
    """Measure, print and save."""
    torch.set_num_threads(1)
    frame = pd.concat([run(case) for case in track(CASES, len(CASES), "networks")], ignore_index=True)
    noise = read_noise()
    keys = ["case", "data", "published", "metric", "treatment"]
    table = frame.groupby(keys, sort=False)[["value", "without_read_noise", "flips"]].mean()
    print("measured beside published (arXiv:2311.07164, other data where a stand-in is named)")
    print(table.round(3).to_string())
    print("a point is one network and the interval over reads of its array; networks of one case differ in their random cells")
    print("\nread noise in proportion to a cell's conductance and to a weight, accuracy on digits")
    print(noise.round(3).to_string(index=False))
    path = RESULTS / "random_pruning.png"
    figure(frame, noise).savefig(path.with_suffix(".part"), format="png", dpi=150)
    path.with_suffix(".part").replace(path)
    save("random_pruning_noise", COMMAND, noise)
    print(f"written to {save('random_pruning', COMMAND, frame)} and {path.name}")


if __name__ == "__main__":
    main()
