"""Selective write-verify: accuracy against normalized write cycles, for five ways to spend them.

``inloop bench swim`` ranks the weights of trained networks by second derivatives (the published rules, and ``fisher``, which drops no cross
terms), by magnitude and at random, verifies growing shares of them, and trains in the array instead; each point is the mean over networks
of the mean over fabricated chips. It prints published and measured numbers apart and writes ``benchmarks/results/swim.json`` and
``swim.png``. MNIST and CIFAR-10 are used where the folder that INLOOP_DATA names has them; the stand-ins are scikit-learn's digits, as they
are and enlarged. The wide networks are narrowed, and get fewer draws than the 102 (3 networks, 34 chips of each) of the small one, so that
all takes about ten minutes on one core.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import pandas as pd
import torch
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
from simulator.in_situ import UPDATES_PER_VERIFICATION
from simulator.progress import track
from simulator.statistics import mean_interval
from simulator.weight_ranking import Weighting

COMMAND = "inloop bench swim"
FRACTIONS = (0.0, 0.05, 0.1, 0.3, 0.5, 0.7, 1.0)
SHORT = (1, 3, 10)
"""Steps of training in the array; ten cost as much as verifying every weight."""
LONG = (*SHORT, 30, 100, 300)
"""The same where it is followed beyond the cost of verifying everything."""
IN_SITU_TRIALS = 4
RULES = ("second_derivative", "fisher", "magnitude", "random")
NAMES = {
    "second_derivative": "second derivative, rules", "fisher": "second derivative, fisher", "magnitude": "magnitude", "random": "random",
    "in_situ": "in-situ training", "gain": "rules, gain per pulse",
}  # fmt: skip
COLORS = {
    "second_derivative": "#0072B2",
    "fisher": "#E69F00",
    "magnitude": "#D55E00",
    "random": "#009E73",
    "in_situ": "#CC79A7",
    "gain": "#56B4E9",
}
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
    """One network on one data set, at some sigmas."""

    name: str
    network: Callable[[], nn.Module]
    data: Callable[[], DataSplit]
    sigmas: tuple[float, ...]
    weight_bits: int
    epochs: int
    seeds: int
    trials: int
    updates: tuple[int, ...] = SHORT
    learning_rate: float = 0.02
    """Of training in the array."""
    training_rate: float = 4e-3
    """Of training in float."""


CASES = (
    Case("MLP 64-64-32-10", digits_mlp, digits, (0.3, 0.2, 0.1), 4, 70, 3, 34, LONG, 0.05),
    Case("LeNet", lenet, lambda: present("mnist", enlarged_digits(28)), (0.3, 0.2), 4, 6, 1, 20),
    Case(
        "ConvNet, widths / 8", lambda: convnet(8), lambda: present("cifar10", enlarged_digits(32, 3)), (0.3, 0.2), 6, 8, 1, 8,
        training_rate=1.5e-3,
    ),
    Case("ResNet-18, widths / 8", lambda: resnet18(width=8), lambda: present("cifar10", enlarged_digits(16, 3)), (0.2, 0.1), 6, 5, 1, 12),
)  # fmt: skip


def crossbar(sigma: float, weight_bits: int) -> RRAMCrossbar:
    """Return an array whose weights have the error of the convention ``per_bit``, and nothing else."""
    cell = WeightErrorCell(g_min_siemens=30e-6, g_max_siemens=50e-6, sigma=sigma, convention="per_bit", weight_bits=8, device_bits=1)
    # A signed weight of so many bits of magnitude.
    return RRAMCrossbar(cell=cell, mapping=DifferentialMapping(weight_bits=weight_bits + 1))


def trained(case: Case, split: DataSplit, seed: int) -> nn.Module:
    """Return a network trained from a seed."""
    with private_generator(Key.of(seed=seed, purpose="swim")):
        model = case.network()
    sim.fit(model, split.train_batches(64, seed=seed), epochs=case.epochs, learning_rate=case.training_rate, seed=seed, weight_decay=0.0)
    return model


def run(case: Case) -> pd.DataFrame:
    """Return a row for each sigma, network, method and share: accuracy over chips, and normalized write cycles."""
    split = case.data()
    rows: list[dict[str, Any]] = []
    for seed in range(case.seeds):
        model = trained(case, split, seed)
        for sigma in case.sigmas:
            found = [*_verified(case, model, split, sigma, seed), *_in_situ(case, model, split, sigma, seed)]
            rows += [{"case": case.name, "data": split.name, "sigma": sigma, "seed": seed, **row} for row in found]
    return pd.DataFrame(rows)


def _verified(case: Case, model: nn.Module, split: DataSplit, sigma: float, seed: int) -> Iterator[dict[str, Any]]:
    """Yield what each ranking reaches at each share; without any and with every weight verified, all rankings are one."""
    train = split.train_batches(256, seed=None)
    chip = sim.compile(model, crossbar(sigma, case.weight_bits), example_inputs=(next(iter(split.test_batches(2)))[0],))
    weightings: tuple[tuple[str, Weighting], ...] = (*((rule, "sensitivity") for rule in RULES), ("gain", "gain_per_pulse"))
    ends: dict[float, dict[str, Any]] = {}
    for method, weighting in weightings:
        ranking = method if method in RULES else "second_derivative"
        scores = sim.weight_scores(chip, train, ranking, weighting=weighting, seed=seed)  # type: ignore[arg-type]
        for fraction in FRACTIONS:
            row = ends.get(fraction)
            if row is None:
                spent = sim.write_verify(chip, train, fraction=fraction, ranking=scores)
                found = sim.evaluate(chip, split.test, trials=case.trials, seed=seed, progress=False)
                row = {"fraction": fraction, "nwc": spent.nwc, "float": found.reference["accuracy"], **_mean(found.values())}
                if fraction in (0.0, 1.0):
                    ends[fraction] = row
            yield {"method": method, **row}


def _in_situ(case: Case, model: nn.Module, split: DataSplit, sigma: float, seed: int) -> Iterator[dict[str, Any]]:
    """Yield what training in the array reaches after some numbers of steps."""
    values: dict[int, list[float]] = {updates: [] for updates in case.updates}
    examples = (next(iter(split.test_batches(2)))[0],)
    for trial in range(IN_SITU_TRIALS):
        chip = sim.compile(model, crossbar(sigma, case.weight_bits), example_inputs=examples)

        def measure(done: int, chip: sim.Chip = chip) -> None:
            if done in values:
                values[done].append(_accuracy(chip, split))

        sim.in_situ_training(
            chip, split.train_batches(64, seed=trial), updates=case.updates[-1], learning_rate=case.learning_rate, seed=seed, trial=trial,
            after=measure, progress=False,
        )  # fmt: skip
    for updates, found in values.items():
        yield {"method": "in_situ", "nwc": updates / UPDATES_PER_VERIFICATION, **_mean(found)}


def _mean(values: list[float]) -> dict[str, Any]:
    interval = mean_interval(values)
    return {"accuracy": interval.value, "half_width": interval.half_width, "trials": len(values)}


def _accuracy(chip: sim.Chip, split: DataSplit) -> float:
    right = total = 0
    with torch.no_grad():
        for inputs, targets in split.test_batches():
            right += int((chip(inputs).argmax(1) == targets).sum())
            total += len(targets)
    return right / total


def averaged(frame: pd.DataFrame) -> pd.DataFrame:
    """Return means over networks, with the 95 % interval over networks where there are several, else over chips."""
    place = frame.groupby(["case", "sigma", "method", "seed"]).cumcount()
    grouped = frame.assign(place=place).groupby(["case", "data", "sigma", "method", "place"], sort=False)
    mean = grouped[["fraction", "nwc", "accuracy", "half_width", "float", "trials"]].mean()
    over_networks = grouped["accuracy"].agg(lambda values: mean_interval(values.tolist()).half_width if len(values) > 1 else math.nan)
    networks = grouped["accuracy"].count()
    half_width = over_networks.where(networks > 1, mean["half_width"])
    return mean.assign(half_width=half_width, networks=networks).reset_index().drop(columns="place")


def figure(frame: pd.DataFrame) -> Figure:
    """Draw accuracy against normalized write cycles, a panel for each network and sigma, and how training in the array goes on."""
    panels = list(frame[["case", "sigma"]].drop_duplicates().itertuples(index=False, name=None))
    columns = -(-(len(panels) + 1) // 2)
    with mpl.rc_context(STYLE):
        made = Figure(figsize=(2.9 * columns, 5.6), layout="constrained")
        FigureCanvasAgg(made)
        for index, (case, sigma) in enumerate(panels):
            axes = made.add_subplot(2, columns, index + 1)
            part = frame[(frame["case"] == case) & (frame["sigma"] == sigma) & (frame["nwc"] <= 1)]
            for method, lines in part.groupby("method", sort=False):
                axes.errorbar(
                    lines["nwc"], 100 * lines["accuracy"], yerr=100 * lines["half_width"], color=COLORS[str(method)], marker="o",
                    markersize=3, capsize=2, label=NAMES[str(method)],
                )  # fmt: skip
            in_float = 100 * part["float"].dropna().iloc[0]
            axes.axhline(in_float, color="black", linestyle="--", linewidth=0.8, label="float")
            lowest = 100 * part.loc[part["method"] != "in_situ", "accuracy"].min()
            axes.set_ylim(lowest - 0.4 * (in_float - lowest) - 0.5, in_float + 0.1 * (in_float - lowest) + 0.3)
            axes.set_title(f"{case}, σ = {sigma}")
            axes.set_xlabel("normalized write cycles")
            if index % columns == 0:
                axes.set_ylabel("accuracy (%), 95 % interval")
        handles, labels = made.axes[0].get_legend_handles_labels()
        made.legend(handles, labels, loc="outside upper center", ncols=len(labels))
        axes = made.add_subplot(2, columns, len(panels) + 1)
        lasting = frame[(frame["method"] == "in_situ") & (frame["case"] == panels[0][0])]
        for (sigma, lines), shade in zip(lasting.groupby("sigma"), (0.45, 0.7, 1.0), strict=False):
            axes.errorbar(
                lines["nwc"], 100 * lines["accuracy"], yerr=100 * lines["half_width"], color=COLORS["in_situ"], alpha=shade, marker="o",
                markersize=3, capsize=2, label=f"σ = {sigma}",
            )  # fmt: skip
        axes.set_xscale("log")
        axes.set_title(f"in-situ training goes on: {panels[0][0]}")
        axes.set_xlabel("normalized write cycles")
        axes.legend(loc="lower right")
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
        print(f"\n{case} on {part['data'].iloc[0]}, sigma {sigma} (per_bit), float {in_float:.1f} %")
        print("measured accuracy in % at the share verified")
        print(table.to_string())
        print("normalized write cycles spent")
        print(cycles.to_string())
        trained_there = part[part["method"] == "in_situ"]
        print("in-situ training, accuracy in % at normalized write cycles")
        print(trained_there.set_index("nwc")["accuracy"].mul(100).round(1).to_frame().T.to_string())
        if sigma == 0.3 and str(case).startswith("MLP"):
            print("reference run on the same data (not published), accuracy in %")
            print(pd.DataFrame(REFERENCE, index=FRACTIONS).T.to_string())
    print(f"written to {saved} and {path.name}")


if __name__ == "__main__":
    main()
