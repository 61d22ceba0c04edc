"""Three ways to put a network on one served chip: as it is, trained for chips of its kind, and tuned with the chip in the loop.

``inloop bench chip_in_the_loop`` prints the table and writes it, with a figure, to ``benchmarks/results``. The chip is that of the preset
wan_nature_2022 with some of its cells stuck, served by another process; data are scikit-learn's digits, a substitute for those of the
paper.
"""

from pathlib import Path

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import simulator as sim
from benchmarks.timing import RESULTS, save
from devices import RemoteChip, RRAMCrossbar, StuckCells
from simulator.data import load_data
from simulator.link.client import disconnect
from simulator.models import digits_cnn
from simulator.progress import track
from simulator.statistics import mean_interval
from simulator.training import fit

COMMAND = "inloop bench chip_in_the_loop"
CHIPS = 10
TEST_IMAGES = 360
"""All that scikit-learn's digits leave for testing."""
STUCK = StuckCells(stuck_on_rate=0.01, stuck_off_rate=0.01)
"""Faults of 2 % of the cells: a choice, between none and the 9.8 to 13.5 % measured on the arrays of IEDM 2022."""
PLAIN_EPOCHS = 8
AWARE_EPOCHS, AWARE_RATE = 15, 1e-2
"""Of noise-aware training: a slower rate leaves the few large weights of the folded batch norm where a stuck cell does most harm."""
EPOCHS, LEARNING_RATE = 4, 1e-3
"""Of progressive tuning, which begins at the weights of noise-aware training, as the paper does."""
PUBLISHED = (
    "published (wan2022compute, abstract): 85.7 % on CIFAR-10, measured on the chip after noise-resilient training and progressive "
    "fine-tuning; other data and another network than here, so only the direction can be compared"
)


def main() -> None:
    """Measure, print and save."""
    split = load_data("digits", {}, seed=0, folder=Path())
    train = split.train_batches(64, seed=0)
    inputs, labels = next(iter(split.test_batches(TEST_IMAGES)))
    model = digits_cnn(seed=0)
    fit(model, train, epochs=PLAIN_EPOCHS)
    design = RRAMCrossbar.preset("wan_nature_2022", stuck=STUCK)
    calibration = [next(iter(split.train_batches(256, seed=1)))[0]]
    aware = sim.compile(model, design, example_inputs=inputs[:1], calibration=calibration)
    fit(aware, train, epochs=AWARE_EPOCHS, learning_rate=AWARE_RATE)

    def accuracy(chip: nn.Module) -> float:
        with torch.no_grad():
            output: Tensor = chip(inputs)
        return float((output.argmax(1) == labels).float().mean())

    rows = []
    with sim.serve(design, "tcp://127.0.0.1:0", block=False) as server:
        remote = RemoteChip(address=server.address)
        for number in track(range(CHIPS), CHIPS, "chips"):
            chip = sim.compile(model, remote, example_inputs=inputs[:1], calibration=calibration)
            rows.append(("plain mapping", number, accuracy(chip.program(seed=0, trial=number))))
            trained = sim.compile(model, remote, example_inputs=inputs[:1], calibration=calibration)
            trained.load_state_dict(_masters(aware), strict=False)
            trained.calibrate(calibration)
            rows.append(("noise-aware training", number, accuracy(trained.program(seed=0, trial=number))))
            sim.fine_tune_progressively(trained, train, epochs=EPOCHS, learning_rate=LEARNING_RATE, seed=0, trial=number)
            rows.append(("progressive, chip in the loop", number, accuracy(trained)))
        disconnect(remote)
    frame = pd.DataFrame(rows, columns=["method", "chip", "accuracy"])
    table = _table(frame)
    print(f"float {accuracy(model):.3f}; digits in place of the paper's data; {CHIPS} chips, mean with its 95 % interval")
    print(table.round(4).to_string(index=False))
    print(PUBLISHED)
    _figure(frame, accuracy(model)).savefig(RESULTS / "chip_in_the_loop.png", dpi=150)
    print(f"written to {save('chip_in_the_loop', COMMAND, frame)}")


def _masters(chip: sim.Chip) -> dict[str, Tensor]:
    """Return the trained weights and biases, without what was programmed."""
    return {name: parameter.detach() for name, parameter in chip.named_parameters()}


def _table(frame: pd.DataFrame) -> pd.DataFrame:
    rows = []
    for method, group in frame.groupby("method", sort=False):
        interval = mean_interval(group["accuracy"].tolist())
        rows.append(
            {"method": method, "mean": interval.value, "low": interval.low, "high": interval.high, "worst": group["accuracy"].min()}
        )
    return pd.DataFrame(rows)


def _figure(frame: pd.DataFrame, ideal: float) -> Figure:
    figure = Figure(figsize=(6.0, 3.4), layout="constrained")
    axes = figure.subplots()
    methods = list(dict.fromkeys(frame["method"]))
    for place, method in enumerate(methods):
        values = frame.loc[frame["method"] == method, "accuracy"].to_numpy()
        spread = 0.25 * (torch.arange(len(values)).numpy() / max(1, len(values) - 1) - 0.5)
        axes.plot(place + spread, 100 * values, "o", ms=4)
        axes.hlines(100 * values.mean(), place - 0.3, place + 0.3, color="black")
    axes.axhline(100 * ideal, ls="--", color="gray", label="float")
    axes.set_xticks(range(len(methods)), methods)
    axes.set(
        ylabel="accuracy on held-out digits (%)", title=f"one served chip each, 2 % of its cells stuck ({frame['chip'].nunique()} chips)"
    )
    axes.legend(loc="lower right")
    return figure


if __name__ == "__main__":
    main()
