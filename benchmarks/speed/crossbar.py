"""A chip's forward pass against plain torch of the same shape: CPU time on one thread.

``inloop bench speed/crossbar`` prints the table and writes it to ``benchmarks/results/speed_crossbar.json``.
"""

from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

import simulator as sim
from benchmarks.networks import resnet18
from benchmarks.timing import cpu_times, save
from devices import ADC, DAC, RRAMCrossbar, Wires
from simulator.models import digits_cnn

COMMAND = "inloop bench speed/crossbar"
WIRES = Wires(row_ohm=1.86, column_ohm=1.86)
WHOLE = {"rows": 8192, "columns": 16384}
"""One array a layer."""


def variants() -> dict[str, RRAMCrossbar]:
    """Return the designs that are timed: one array a layer, or arrays of 256 rows; wires only on arrays of 256 rows."""
    noisy = RRAMCrossbar.preset("wan_nature_2022", dac=DAC(bits=8), adc=ADC(bits=8))
    quiet = noisy.replace(cell={"read_noise_fraction": None})
    return {
        "programming + DAC/ADC": quiet.replace(**WHOLE),
        "+ read noise": noisy.replace(**WHOLE),
        "+ wires": noisy.replace(**WHOLE, wires=WIRES),
        "programming + DAC/ADC, 256-row arrays": quiet,
        "+ read noise, 256-row arrays": noisy,
        "+ wires, 256-row arrays": noisy.replace(wires=WIRES),
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
    """Return a row per case and variant with its CPU-time ratio to plain torch."""
    rows = []
    for case, (module, x, plain) in cases().items():
        candidates = {"plain torch": plain}
        for name, design in variants().items():
            # The whole network's wires on one array a layer would take minutes to solve and is no design that anyone builds.
            if "ResNet" in case and name == "+ wires":
                continue
            chip = sim.compile(module, design, example_inputs=(x,)).program(seed=0)
            candidates[name] = lambda chip=chip, x=x: chip(x)
        with torch.no_grad():
            frame = cpu_times(candidates, repetitions=8 if "ResNet" in case else 40)
        frame.insert(0, "case", case)
        rows.append(frame)
    return pd.concat(rows, ignore_index=True)


def main() -> None:
    """Measure, print and save."""
    frame = measure()
    table = frame.pivot(index="case", columns="name", values="ratio")[list(dict.fromkeys(frame["name"]))]
    print(table.loc[list(dict.fromkeys(frame["case"]))].round(2).to_string())
    print("CPU time over plain torch of the same shape (batch norm folded), one thread, median of interleaved rounds")
    print(f"written to {save('speed_crossbar', COMMAND, frame)}")


if __name__ == "__main__":
    main()
