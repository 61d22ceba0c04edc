"""A chip's forward pass against plain torch of the same shape: CPU time on one thread, and the memory of a convolution.

``inloop bench speed/crossbar`` prints the tables and writes them to ``benchmarks/results/speed_crossbar*.json``.
"""

import ctypes
import re
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

import simulator as sim
from benchmarks.networks import resnet18
from benchmarks.timing import cpu_times, save
from devices import ADC, DAC, RRAMCrossbar, Wires
from kernels.wires import MeanField
from simulator.models import digits_cnn

COMMAND = "inloop bench speed/crossbar"
WIRES = Wires(row_ohm=1.86, column_ohm=1.86)
WHOLE = {"rows": 8192, "columns": 16384}
"""One array a layer."""
SMALL = ", 256-row arrays"
QUIET, NOISE, ROUNDED, WIRED = "programming + DAC/ADC", "+ read noise", "+ read noise, bfloat16 variance", "+ wires"
BARS = {
    "512x512, batch 256": (1.4, 2.5, 3.5),
    "1152->256, batch 1024": (1.4, 2.5, 3.5),
    "conv 64->64 3x3 on 32x32, batch 16": (1.5, 2.8, 3.8),
    "ResNet-18 on 32x32, batch 32": (1.4, 2.2, 3.2),
}
"""What this project aims at, with one array a layer: without and with read noise, and with wires."""
LAST = "plain torch, channels last"
SLICES, INPUT_BITS = 8, 8
IMAGES_OF_MEMORY = 256


class UnsolvedWires(Wires):
    """Wires whose networks are not solved: cells stand in for the matrices, because the time of a read does not depend on their values."""

    def effective(self, conductance: Tensor) -> Tensor:
        """Return the conductances themselves."""
        return conductance

    def noise(self, conductance: Tensor, sigma: Tensor) -> MeanField:
        """Return terms of the right shapes."""
        square = sigma.square()
        return MeanField(square, square / 100, square.sum(-2) / 100)


def variants() -> dict[str, RRAMCrossbar]:
    """Return the designs that are timed: one array a layer, or arrays of 256 rows."""
    noisy = RRAMCrossbar.preset("wan_nature_2022", dac=DAC(bits=8), adc=ADC(bits=8))
    found = {
        QUIET: noisy.replace(cell={"read_noise_fraction": None}),
        NOISE: noisy,
        ROUNDED: noisy.replace(noise_arithmetic="bfloat16"),
        WIRED: noisy.replace(wires=WIRES),
    }
    whole = {name: design.replace(**WHOLE) for name, design in found.items()}
    return whole | {name + SMALL: design for name, design in found.items()}


def cases() -> dict[str, tuple[nn.Module, Tensor, Any]]:
    """Return what is timed: the module, its input, and plain torch on the same weights."""
    generator = torch.Generator().manual_seed(0)

    def linear(inputs: int, outputs: int, batch: int) -> tuple[nn.Module, Tensor, Any]:
        layer = nn.Linear(inputs, outputs, bias=False)
        weight, x = layer.weight.detach(), torch.randn(batch, inputs, generator=generator)
        return layer, x, lambda: functional.linear(x, weight)

    convolution = nn.Conv2d(64, 64, 3, padding=1, bias=False)
    kernel, image = convolution.weight.detach(), torch.randn(16, 64, 32, 32, generator=generator)
    digits_network, digits = digits_cnn(seed=0).eval(), torch.rand(256, 1, 8, 8, generator=generator)
    residual, pictures = resnet18(), torch.randn(32, 3, 32, 32, generator=generator)
    # What torch runs of a network whose batch norm is folded: the same layers as on the chip.
    folded = sim.compile(residual, RRAMCrossbar.preset("wan_nature_2022").ideal(), example_inputs=(pictures,))

    def plain_residual() -> Tensor:
        with folded.reference():
            result: Tensor = folded.model(pictures)
        return result

    return {
        "512x512, batch 256": linear(512, 512, 256),
        "1152->256, batch 1024": linear(1152, 256, 1024),
        "conv 64->64 3x3 on 32x32, batch 16": (convolution, image, lambda: functional.conv2d(image, kernel, padding=1)),
        "quickstart CNN, batch 256": (digits_network, digits, lambda: digits_network(digits)),
        "ResNet-18 on 32x32, batch 32": (residual, pictures, plain_residual),
    }


def measure() -> pd.DataFrame:
    """Return a row per case and variant with its CPU-time ratio to plain torch, and the bar where there is one."""
    rows = []
    for case, (module, x, plain) in cases().items():
        candidates = {"plain torch": plain}
        if isinstance(module, nn.Conv2d):
            image, kernel = (one.detach().contiguous(memory_format=torch.channels_last) for one in (x, module.weight))
            candidates[LAST] = lambda image=image, kernel=kernel: functional.conv2d(image, kernel, padding=1)
        for name, design in variants().items():
            # The wires of arrays of 4608 x 1024 cells would take many minutes to solve, and nobody builds them.
            read = design.replace(wires=UnsolvedWires(**dict(WIRES))) if "ResNet" in case and name == WIRED else design
            chip = sim.compile(module, read, example_inputs=(x,)).program(seed=0)
            candidates[name] = lambda chip=chip, x=x: chip(x)
        with torch.no_grad():
            frame = cpu_times(candidates, repetitions=8 if "ResNet" in case else 40)
        frame.insert(0, "case", case)
        bars = dict(zip((QUIET, NOISE, WIRED), BARS.get(case, ()), strict=False))
        frame["bar"] = [bars.get(name) for name in frame["name"]]
        rows.append(frame)
    return pd.concat(rows, ignore_index=True)


def measure_slices(size: int = 512, batch: int = 256) -> pd.DataFrame:
    """Return the CPU time of 8 weight slices times 8 input bits with an ADC for each pair, over that of the 64 products themselves."""
    layer = nn.Linear(size, size, bias=False)
    x = torch.rand(batch, size, generator=torch.Generator().manual_seed(0))
    weight = layer.weight.detach()
    noisy = RRAMCrossbar.preset(
        "wan_nature_2022",
        **WHOLE,
        mapping={"weight_bits": SLICES + 1, "bits_per_cell": 1},
        dac=DAC(bits=INPUT_BITS, signed=False, slice_bits=1),
        adc=ADC(bits=8),
    )

    def products() -> None:
        for _ in range(SLICES * INPUT_BITS):
            functional.linear(x, weight)

    candidates: dict[str, Any] = {f"{SLICES * INPUT_BITS} products in torch": products}
    designs = {
        f"{SLICES} slices x {INPUT_BITS} input bits": noisy.replace(cell={"read_noise_fraction": None}),
        "+ read noise": noisy,
        "+ read noise, bfloat16 variance": noisy.replace(noise_arithmetic="bfloat16"),
    }
    for name, design in designs.items():
        chip = sim.compile(layer, design, example_inputs=(x,)).program(seed=0)
        candidates[name] = lambda chip=chip: chip(x)
    with torch.no_grad():
        frame = cpu_times(candidates, repetitions=10)
    frame.insert(0, "case", f"{size}x{size}, batch {batch}")
    frame["bar"] = [None, 1.3, None, None]
    return frame


def measure_memory() -> pd.DataFrame:
    """Return the peak of memory that a convolution's read takes on top of what there was, over the float layer's input and output."""
    rows = []
    for name in variants():
        # A process of its own: the peak of a process never goes down.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            extra, both = pool.submit(_peak, name).result()
        rows.append({"name": name, "extra_bytes": extra, "input_and_output_bytes": both, "ratio": extra / both, "bar": 4.0})
    return pd.DataFrame(rows)


def _peak(name: str) -> tuple[int, int]:
    """Return the bytes that a read adds to the process's peak, its output included, and those of the float layer's input and output."""
    torch.set_num_threads(1)
    layer, design = nn.Conv2d(64, 64, 3, padding=1, bias=False), variants()[name]
    small = torch.rand(2, 64, 32, 32, generator=torch.Generator().manual_seed(0))
    chip = sim.compile(layer, design, example_inputs=(small,)).program(seed=0)
    with torch.no_grad():
        chip(small)
        images = small.repeat(IMAGES_OF_MEMORY // 2, 1, 1, 1)
        _forget_peak()
        before = _high_water()
        out = chip(images)
    return _high_water() - before, (images.numel() + out.numel()) * images.element_size()


def _forget_peak() -> None:
    """Hand free memory back and begin a new peak: what compiling and solving wires took before must not hide a read's own."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")


def _high_water() -> int:
    """Return the largest memory that this process had since its peak was forgotten, in bytes."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    if found is None:
        raise OSError("The peak of memory is read from /proc/self/status, which this system does not have")
    return int(found[1]) * 1024


def main() -> None:
    """Measure, print and save."""
    frame = measure()
    names = list(dict.fromkeys(frame["name"]))
    table = frame.pivot(index="case", columns="name", values="ratio")[names].loc[list(dict.fromkeys(frame["case"]))]
    print(table.T.round(2).to_string(na_rep="-"))
    print("CPU time over plain torch of the same shape (batch norm folded), one thread, median of interleaved rounds")
    print("wires: after the solve; with one array a layer those of ResNet-18 are not solved, and matrices of other numbers are read")
    bars = frame.dropna(subset="bar")
    missed = bars[bars["ratio"] > bars["bar"]]
    print(f"bars: {len(bars) - len(missed)} of {len(bars)} met" + "".join(f"; {r.case}, {r.name}" for r in missed.itertuples(index=False)))
    print(f"written to {save('speed_crossbar', COMMAND, frame)}\n")
    for name, part in (("slices", measure_slices()), ("memory", measure_memory())):
        print(part.round(3).to_string(index=False, na_rep="-"))
        print(f"written to {save(f'speed_crossbar_{name}', COMMAND, part)}\n")
    print("memory: peak of a process during a read, its output included, over input and output of the float layer")


if __name__ == "__main__":
    main()
