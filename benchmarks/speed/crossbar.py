"""A chip's forward pass against plain torch of the same shape: CPU time on one thread.

``inloop bench speed/crossbar`` prints the table and writes it to ``benchmarks/results/speed_crossbar.json``.
"""

from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

import simulator as sim
from benchmarks.timing import cpu_times, save
from devices import ADC, DAC, RRAMCrossbar
from simulator.models import digits_cnn

COMMAND = "inloop bench speed/crossbar"


def variants(rows: int, columns: int) -> dict[str, RRAMCrossbar]:
    """Return the designs that are timed: one array a layer, or arrays of 256 rows."""
    wan = RRAMCrossbar.preset("wan_nature_2022", dac=DAC(bits=8), adc=ADC(bits=8))
    one = wan.replace(rows=rows, columns=columns)
    quiet = {"read_noise_fraction": None}
    return {
        "programming + DAC/ADC": one.replace(cell=quiet),
        "+ read noise": one,
        "programming + DAC/ADC, 256-row arrays": wan.replace(cell=quiet),
        "+ read noise, 256-row arrays": wan,
    }


def cases() -> dict[str, tuple[nn.Module, Tensor, Any]]:
    """Return what is timed: the module, its input, and plain torch on the same weights."""
    generator = torch.Generator().manual_seed(0)

    def linear(inputs: int, outputs: int, batch: int) -> tuple[nn.Module, Tensor, Any]:
        layer = nn.Linear(inputs, outputs, bias=False)
        weight, x = layer.weight.detach(), torch.randn(batch, inputs, generator=generator)
        return layer, x, lambda: functional.linear(x, weight)

    convolution = nn.Conv2d(64, 64, 3, padding=1, bias=False)
    kernel, image = convolution.weight.detach(), torch.randn(16, 64, 32, 32, generator=generator)
    network, digits = digits_cnn(seed=0).eval(), torch.rand(256, 1, 8, 8, generator=generator)
    return {
        "512x512, batch 256": linear(512, 512, 256),
        "1152->256, batch 1024": linear(1152, 256, 1024),
        "conv 64->64 3x3 on 32x32, batch 16": (convolution, image, lambda: functional.conv2d(image, kernel, padding=1)),
        "quickstart CNN, batch 256": (network, digits, lambda: network(digits)),
    }


def measure(repetitions: int = 40) -> pd.DataFrame:
    """Return a row per case and variant with its CPU-time ratio to plain torch."""
    rows = []
    for case, (module, x, plain) in cases().items():
        candidates = {"plain torch": plain}
        for name, design in variants(8192, 8192).items():
            chip = sim.compile(module, design, example_inputs=(x,)).program(seed=0)
            candidates[name] = lambda chip=chip, x=x: chip(x)
        with torch.no_grad():
            frame = cpu_times(candidates, repetitions=repetitions)
        frame.insert(0, "case", case)
        rows.append(frame)
    return pd.concat(rows, ignore_index=True)


def main() -> None:
    """Measure, print and save."""
    frame = measure()
    table = frame.pivot(index="case", columns="name", values="ratio")[list(dict.fromkeys(frame["name"]))]
    print(table.round(2).to_string())
    print("CPU time over plain torch of the same shape, one thread, median of 40 interleaved rounds")
    print(f"written to {save('speed_crossbar', COMMAND, frame)}")


if __name__ == "__main__":
    main()
