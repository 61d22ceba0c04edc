"""Selective write-verify: accuracy against normalized write cycles, for five ways to spend them.

``inloop bench swim`` ranks the weights of trained networks by second derivatives, by magnitude and at random, verifies growing shares of
them, and trains in the array instead; each point is the mean over networks of the mean over fabricated chips. It prints published and
measured numbers apart and writes ``benchmarks/results/swim.json`` and ``swim.png``. MNIST and CIFAR-10 are used where the folder
that INLOOP_DATA names has them; the stand-ins are scikit-learn's digits, as they are and enlarged.
"""

from collections.abc import Callable
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import nn

import simulator as sim
from benchmarks.networks import resnet18
from benchmarks.paper_networks import convnet, digits_mlp, enlarged_digits, lenet, present
from benchmarks.timing import RESULTS, save
from devices import DifferentialMapping, RRAMCrossbar, WeightErrorCell
from kernels import Key
from simulator._isolation import private_generator
from simulator.data import DataSplit, digits
from simulator.figures import STYLE
from simulator.progress import track
from simulator.statistics import mean_interval
from simulator.weight_ranking import Weighting

COMMAND = "inloop bench swim"
FRACTIONS = (0.0, 0.05, 0.1, 0.3, 0.5, 0.7, 1.0)
UPDATES = (1, 3, 5, 7, 10)
"""Steps of training in the array; ten cost as much as verifying every weight."""
RULES = ("second_derivative", "magnitude", "random")
NAMES = {
    "second_derivative": "second derivative", "magnitude": "magnitude", "random": "random", "in_situ": "in-situ training",
    "gain": "second derivative, gain per pulse",
}  # fmt: skip
COLORS = {"second_derivative": "#0072B2", "magnitude": "#D55E00", "random": "#009E73", "in_situ": "#CC79A7", "gain": "#56B4E9"}
PUBLISHED = (
    "published (arXiv:2202.08395, abstract): up to 10 times fewer programming cycles than verifying every weight, at comparable accuracy"
)
REFERENCE = {
    "second_derivative": (75.7, 85.8, 88.0, 93.3, 96.0, 97.0, 97.1),
    "magnitude": (76.5, 76.9, 79.3, 84.8, 89.3, 93.4, 97.1),
    "random": (75.8, 77.3, 78.4, 82.9, 87.4, 91.6, 97.0),
}
"""Accuracy in % of an independent reference run on digits at sigma 0.3 (mean of 3 networks), at `FRACTIONS`."""


@dataclass(frozen=True)
class Case:
    """One network on one data set at one sigma."""

    name: str
    network: Callable[[], nn.Module]
    data: Callable[[], DataSplit]
    sigma: float
    weight_bits: int
    epochs: int
    seeds: int
    trials: int


CASES = (
    Case("MLP 64-64-32-10, digits", digits_mlp, digits, 0.3, 4, 70, 3, 15),
    Case("MLP 64-64-32-10, digits", digits_mlp, digits, 0.2, 4, 70, 2, 10),
    Case("MLP 64-64-32-10, digits", digits_mlp, digits, 0.1, 4, 70, 2, 10),
    Case("LeNet", lenet, lambda: present("mnist", enlarged_digits(28)), 0.3, 4, 6, 1, 8),
    Case("ConvNet, widths / 16", lambda: convnet(16), lambda: present("cifar10", enlarged_digits(32, 3)), 0.3, 6, 6, 1, 5),
    Case("ResNet-18, widths / 8", lambda: resnet18(width=8), lambda: present("cifar10", enlarged_digits(32, 3)), 0.2, 6, 3, 1, 4),
)


def crossbar(sigma: float, weight_bits: int) -> RRAMCrossbar:
    """Return an array whose weights have the error of the convention ``per_bit``, and nothing else."""
    cell = WeightErrorCell(g_min_siemens=30e-6, g_max_siemens=50e-6, sigma=sigma, convention="per_bit", weight_bits=8, device_bits=1)
    # A signed weight of so many bits of magnitude.
    return RRAMCrossbar(cell=cell, mapping=DifferentialMapping(weight_bits=weight_bits + 1))


def trained(case: Case, split: DataSplit, seed: int) -> nn.Module:
    """Return a network trained from a seed."""
    with private_generator(Key.of(seed=seed, purpose="swim")):
        model = case.network()
    sim.fit(model, split.train_batches(64, seed=seed), epochs=case.epochs, seed=seed, weight_decay=0.0)
    return model


def run(case: Case) -> pd.DataFrame:
    """Return a row for each network, method and share: accuracy over chips, and normalized write cycles."""
    split = case.data()
    rows = []
    train = split.train_batches(256, seed=None)
    for seed in range(case.seeds):
        model = trained(case, split, seed)
        design = crossbar(case.sigma, case.weight_bits)
        examples = next(iter(split.test_batches(2)))[0]
        chip = sim.compile(model, design, example_inputs=(examples,))

        def add(method: str, fraction: float, nwc: float, values: list[float], reference: float, seed: int = seed) -> None:
            interval = mean_interval(values)
            rows.append(
                {
                    "case": case.name, "data": split.name, "sigma": case.sigma, "seed": seed, "method": method, "fraction": fraction,
                    "nwc": nwc, "accuracy": interval.value, "half_width": interval.half_width, "float": reference, "trials": len(values),
                }
            )  # fmt: skip

        weightings: tuple[tuple[str, Weighting], ...] = (*((rule, "sensitivity") for rule in RULES), ("gain", "gain_per_pulse"))
        for method, weighting in weightings:
            ranking = method if method in RULES else "second_derivative"
            scores = sim.weight_scores(chip, train, ranking, weighting=weighting, seed=seed)  # type: ignore[arg-type]
            for fraction in FRACTIONS:
                spent = sim.write_verify(chip, train, fraction=fraction, ranking=scores)
                found = sim.evaluate(chip, split.test, trials=case.trials, seed=seed, progress=False)
                add(method, fraction, spent.nwc, found.values(), found.reference["accuracy"])
        for updates in UPDATES:
            values = []
            for trial in range(min(case.trials, 4)):
                fresh = sim.compile(model, design, example_inputs=(examples,))
                training = sim.in_situ_training(
                    fresh, split.train_batches(64, seed=trial), updates=updates, learning_rate=0.02, seed=seed, trial=trial, progress=False
                )
                values.append(_accuracy(fresh, split))
            add("in_situ", float("nan"), training.nwc, values, float("nan"))
    return pd.DataFrame(rows)


def _accuracy(chip: sim.Chip, split: DataSplit) -> float:
    right = total = 0
    for inputs, targets in split.test_batches():
        right += int((chip(inputs).argmax(1) == targets).sum())
        total += len(targets)
    return right / total


def averaged(frame: pd.DataFrame) -> pd.DataFrame:
    """Return means over networks, with the standard error of the mean over networks where there are several."""
    keys = ["case", "sigma", "method", "nwc_place"]
    place = frame.groupby(["case", "sigma", "method", "seed"]).cumcount()
    grouped = frame.assign(nwc_place=place).groupby(keys, sort=False)
    mean = grouped[["fraction", "nwc", "accuracy", "half_width", "float"]].mean()
    count = grouped["accuracy"].count()
    deviation = grouped["accuracy"].std(ddof=1)
    return mean.assign(networks=count, error=deviation.div(np.sqrt(count))).reset_index()


def figure(frame: pd.DataFrame) -> Figure:
    """Draw accuracy against normalized write cycles, a panel for each network and sigma."""
    panels = list(frame[["case", "sigma"]].drop_duplicates().itertuples(index=False, name=None))
    with mpl.rc_context(STYLE):
        made = Figure(figsize=(10.5, 6.2), layout="constrained")
        FigureCanvasAgg(made)
        for index, (case, sigma) in enumerate(panels):
            axes = made.add_subplot(2, -(-len(panels) // 2), index + 1)
            part = frame[(frame["case"] == case) & (frame["sigma"] == sigma)]
            for method, lines in part.groupby("method", sort=False):
                error = 100 * lines["error"].fillna(lines["half_width"])
                axes.errorbar(
                    lines["nwc"], 100 * lines["accuracy"], yerr=error, color=COLORS[str(method)], marker="o", markersize=3, capsize=2,
                    label=NAMES[str(method)],
                )  # fmt: skip
            axes.axhline(100 * part["float"].dropna().iloc[0], color="black", linestyle="--", linewidth=0.8, label="float")
            axes.set_title(f"{case}, σ = {sigma}")
            axes.set_xlabel("normalized write cycles")
            axes.set_ylabel("accuracy (%)")
        made.axes[0].legend(loc="lower right")
    return made


def main() -> None:
    """Measure, print and save."""
    parts: list[pd.DataFrame] = []
    path = RESULTS / "swim.png"
    print(PUBLISHED)
    for one in track(CASES, len(CASES), "networks"):
        parts.append(run(one))
        mean = averaged(pd.concat(parts, ignore_index=True))
        # Minutes a network: what is done is kept.
        saved = save("swim", COMMAND, mean)
        figure(mean).savefig(path.with_suffix(".part"), format="png", dpi=150)
        path.with_suffix(".part").replace(path)
    for (case, sigma), part in mean.groupby(["case", "sigma"], sort=False):
        rules = part[part["fraction"].notna()]
        table = rules.pivot(index="method", columns="fraction", values="accuracy").mul(100).round(1)
        cycles = rules.pivot(index="method", columns="fraction", values="nwc").round(2)
        in_float = 100 * part["float"].dropna().iloc[0]
        print(f"\n{case}, sigma {sigma} (per_bit), float {in_float:.1f} %: measured accuracy in % at the share verified")
        print(table.to_string())
        print("normalized write cycles spent")
        print(cycles.to_string())
        if sigma == 0.3 and "digits" in str(case):
            print("reference run on the same data (not published), accuracy in %")
            print(pd.DataFrame(REFERENCE, index=FRACTIONS).T.to_string())
    print(f"written to {saved} and {path.name}")


if __name__ == "__main__":
    main()
