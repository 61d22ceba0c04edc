"""Many programmed instances of a ResNet-18, each read over the same images, against as many passes of plain torch.

``inloop bench speed/trials`` prints the table and writes it to ``benchmarks/results/speed_trials.json``. Weights are random and the images
noise: the time of neither depends on their values, and no accuracy is reported.
"""

import time
from collections.abc import Callable

import pandas as pd
import torch
from torch import Tensor

import simulator as sim
from benchmarks.networks import resnet18
from benchmarks.speed.crossbar import NOISE, QUIET, ROUNDED, SMALL, variants
from benchmarks.timing import save
from kernels.threads import set_threads
from simulator.progress import track

COMMAND = "inloop bench speed/trials"
IMAGES, TRIALS, BATCH = 1000, 25, 50
BAR = 1.6
"""Times as many plain passes, for programming errors and converters."""
DESIGNS = (QUIET, NOISE, ROUNDED, QUIET + SMALL)


def measure(images: int = IMAGES, trials: int = TRIALS, batch: int = BATCH) -> pd.DataFrame:
    """Return a row for each design: CPU time of `evaluate` over that of as many plain passes, and what programming alone takes.

    Each trial of each design is timed apart, in turn with a plain pass, so that a machine that changes its speed changes both sides.

    Parameters
    ----------
    images, trials, batch
        How many images, how many instances, and how many images at a time.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(images, 3, 32, 32, generator=generator)
    data = [(part, torch.zeros(len(part), dtype=torch.int64)) for part in x.split(batch)]
    network = resnet18()
    chips = {name: sim.compile(network, variants()[name], example_inputs=(x[:batch],)) for name in DESIGNS}
    folded = sim.compile(network, variants()[QUIET].ideal(), example_inputs=(x[:batch],))
    spent: dict[str, list[float]] = {name: [] for name in ("plain", *DESIGNS)}
    programming: dict[str, list[float]] = {name: [] for name in DESIGNS}

    def plain() -> None:
        with folded.reference(), torch.no_grad():
            for part, _ in data:
                folded.model(part)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    set_threads(1)
    try:
        plain()
        for name in DESIGNS:
            _trials(chips[name], data[:1], 1)
        for _ in track(range(trials), trials, "trials", None):
            spent["plain"].append(_spent(plain))
            for name in DESIGNS:
                # One instance at a time: `evaluate` adds a pass of the float model, which is left out by timing its trials only.
                seconds, once = _trials(chips[name], data, 1)
                spent[name].append(seconds)
                programming[name].append(once)
    finally:
        torch.set_num_threads(threads)
    base = sum(spent["plain"])
    rows: list[dict[str, object]] = [{"name": "plain torch", "seconds": base, "ratio": 1.0}]
    for name in DESIGNS:
        seconds = sum(spent[name])
        rows.append({"name": name, "seconds": seconds, "ratio": seconds / base, "programming": sum(programming[name]) / base})
    frame = pd.DataFrame(rows)
    frame["bar"] = [BAR if name == QUIET else None for name in frame["name"]]
    return frame.assign(images=images, trials=trials, batch=batch)


def _trials(chip: sim.Chip, data: list[tuple[Tensor, Tensor]], count: int) -> tuple[float, float]:
    """Return the CPU time of programming and reading some instances, and of programming alone."""
    start = time.process_time()
    chip.program(seed=0, trial=count)
    with torch.no_grad():
        chip(data[0][0][:1])
    programmed = time.process_time() - start
    with torch.no_grad():
        for part, _ in data:
            chip(part)
    return time.process_time() - start, programmed


def _spent(call: Callable[[], None]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def main() -> None:
    """Measure, print and save."""
    frame = measure()
    print(frame.round(3).to_string(index=False, na_rep="-"))
    print("CPU time on one thread, all trials together; `programming` is drawing and mapping an instance, as a share of the plain passes")
    print(f"written to {save('speed_trials', COMMAND, frame)}")


if __name__ == "__main__":
    main()
