"""Many programmed instances of a ResNet-18, each read over the same images, against as many passes of plain torch.

``inloop bench speed/trials`` prints the table and writes it to ``benchmarks/results/speed_trials.json``. Weights are random and the images
noise: the time of neither depends on their values, and no accuracy is reported. A few instances and a part of the images are timed; the
time of all of them is that of one pass of the float model, which an evaluation makes once, and of every trial's programming and reads.
"""

import time
from collections.abc import Callable
from statistics import median

import pandas as pd
import torch
from torch import Tensor

import simulator as sim
from benchmarks.networks import resnet18
from benchmarks.speed.crossbar import NOISE, QUIET, ROUNDED, SMALL, variants
from benchmarks.timing import save
from kernels.threads import get_threads, set_threads
from simulator.progress import track

COMMAND = "inloop bench speed/trials"
IMAGES, TRIALS, BATCH = 1000, 25, 50
TIMED_IMAGES, TIMED_TRIALS = 200, 6
BAR = 1.6
"""Times as many plain passes, for programming errors and converters."""
DESIGNS = (QUIET, NOISE, ROUNDED, QUIET + SMALL)


def measure(images: int = TIMED_IMAGES, trials: int = TIMED_TRIALS, batch: int = BATCH) -> pd.DataFrame:
    """Return a row for each design: CPU time of 25 trials over 1,000 images, over that of as many plain passes, and programming's share.

    Each trial of each design is timed in turn with a plain pass, so that a machine that changes its speed changes both sides.

    Parameters
    ----------
    images, trials, batch
        How many images and instances are timed, and how many images at a time.
    """
    x = torch.randn(images, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    data = list(x.split(batch))
    network = resnet18()
    chips = {name: sim.compile(network, variants()[name], example_inputs=(data[0],)) for name in DESIGNS}
    folded = sim.compile(network, variants()[QUIET].ideal(), example_inputs=(data[0],))
    for chip in chips.values():
        for layer in chip.layers.values():
            layer.share_between_trials()  # as an evaluation does
    plain: list[float] = []
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in DESIGNS}

    def passes() -> None:
        with folded.reference(), torch.no_grad():
            for part in data:
                folded.model(part)

    threads = torch.get_num_threads(), get_threads()
    torch.set_num_threads(1)
    set_threads(1)
    try:
        passes()
        for name in DESIGNS:
            _trial(chips[name], data, 0)  # compiles the kernels
        for trial in track(range(trials), trials, "trials", None):
            plain.append(_spent(passes))
            for name in DESIGNS:
                times[name].append(_trial(chips[name], data, trial))
    finally:
        torch.set_num_threads(threads[0])
        set_threads(threads[1])
    whole = IMAGES / images
    rows: list[dict[str, object]] = [{"name": "plain torch", "ratio": 1.0, "reading": 1.0, "seconds_a_trial": median(plain) * whole}]
    for name in DESIGNS:
        reading = median(read / base for (_, read), base in zip(times[name], plain, strict=True))
        programming = median(once / base for (once, _), base in zip(times[name], plain, strict=True)) / whole
        rows.append(
            {
                "name": name,
                "ratio": 1 / TRIALS + programming + reading,
                "reading": reading,
                "programming": programming,
                "seconds_a_trial": median(once + read * whole for once, read in times[name]),
            }
        )
    frame = pd.DataFrame(rows)
    frame["bar"] = [BAR if name == QUIET else None for name in frame["name"]]
    return frame.assign(images=IMAGES, trials=TRIALS, batch=batch, timed_images=images, timed_trials=trials)


def _trial(chip: sim.Chip, data: list[Tensor], number: int) -> tuple[float, float]:
    """Return the CPU time of programming an instance, and of reading it over the data."""
    start = time.process_time()
    chip.program(seed=0, trial=number)
    with torch.no_grad():
        chip(data[0][:1])  # what is derived from the cells before the first read
    programmed = time.process_time()
    with torch.no_grad():
        for part in data:
            chip(part)
    return programmed - start, time.process_time() - programmed


def _spent(call: Callable[[], None]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def main() -> None:
    """Measure, print and save."""
    frame = measure()
    print(frame.round(3).to_string(index=False, na_rep="-"))
    print(f"CPU time of {TRIALS} trials over {IMAGES} images, one thread, over {TRIALS} plain passes; a pass of the float model included")
    print(f"from medians of {TIMED_TRIALS} trials over {TIMED_IMAGES} images; `programming` is drawing and mapping an instance")
    print(f"written to {save('speed_trials', COMMAND, frame)}")


if __name__ == "__main__":
    main()
