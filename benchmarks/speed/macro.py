"""An SRAM macro against plain torch of the same shape, and the cost of a ResNet-50 on a systolic array: CPU time on one thread.

``inloop bench speed/macro`` prints both tables and writes them to ``benchmarks/results/speed_macro.json``.
"""

import time

import pandas as pd
import torch
from torch import nn
from torch.nn import functional

import simulator as sim
from benchmarks.timing import cpu_times, save
from devices import BitLines, SRAMMacro, SystolicArray
from devices.digital import Product, product_cost
from simulator.costing import cost_frame

COMMAND = "inloop bench speed/macro"
LINES = BitLines(branch_current_ampere="2 uA", bit_line_farad="100 fF", lsb_pulse_s="50 ps")
REPETITIONS = 40
ALLOWED_RATIO, ALLOWED_SECONDS = 6.0, 0.02


def variants() -> dict[str, SRAMMacro]:
    """Return the macros that are timed: 4 x 4 bit in groups of 64 rows, with one error more each."""
    plain = SRAMMacro(rows=64, columns=256)
    mismatch = plain.replace(branch_sigma=0.03, lines=LINES, thermal_noise=True)
    readout = mismatch.replace(readout_sigma=0.01)
    return {
        "no errors": plain,
        "mismatch + kT/C": mismatch,
        "+ readout mismatch": readout,
        "+ comparator noise, one draw a conversion": readout.replace(comparator_noise_volt="0.2 mV", comparator_noise_per="conversion"),
        "+ comparator noise at each comparison": readout.replace(comparator_noise_volt="0.2 mV"),
    }


def macros() -> pd.DataFrame:
    """Return a row per macro with its CPU-time ratio to the float product 1024 -> 256, batch 256; 16 groups convert separately."""
    layer, x = nn.Linear(1024, 256, bias=False), torch.rand(256, 1024, generator=torch.Generator().manual_seed(0))
    weight = layer.weight.detach()
    candidates = {"plain torch": lambda: functional.linear(x, weight)}
    for name, design in variants().items():
        chip = sim.compile(layer, design, example_inputs=(x,)).program(seed=0)
        candidates[name] = lambda chip=chip: chip(x)  # type: ignore[misc]
    with torch.no_grad():
        frame = cpu_times(candidates, repetitions=REPETITIONS)
    frame["allowed ratio"] = ALLOWED_RATIO
    return frame


def resnet50_products() -> dict[str, Product]:
    """Return the 54 matrix products of ResNet-50 on an image of 224 x 224 (He et al. 2015, Table 1).

    Examples
    --------
    >>> products = resnet50_products()
    >>> len(products), round(sum(product.macs for product in products.values()) / 1e9, 2)
    (54, 4.09)
    """
    found = {"stem": Product(112 * 112, 3 * 49, 64)}
    inputs = 64
    for stage, (width, blocks, size) in enumerate(((64, 3, 56), (128, 4, 28), (256, 6, 14), (512, 3, 7))):
        for block in range(blocks):
            before = size * 2 if stage and not block else size
            name = f"stage {stage + 2} block {block + 1}"
            found[f"{name} reduce"] = Product(before * before, inputs, width)
            found[f"{name} 3x3"] = Product(size * size, 9 * width, width)
            found[f"{name} expand"] = Product(size * size, width, 4 * width)
            if not block:
                found[f"{name} shortcut"] = Product(size * size, inputs, 4 * width)
            inputs = 4 * width
    return found | {"classifier": Product(1, 2048, 1000)}


def digital() -> pd.DataFrame:
    """Return the CPU time of costing a ResNet-50 on a TPU-like array, rows and totals, with what it adds up to."""
    array, products = SystolicArray.preset("tpu_v1_like"), resnet50_products()

    def cost() -> pd.DataFrame:
        frame = cost_frame(row for name, product in products.items() for row in product_cost(array, name, product))
        sim.totals(frame)
        return frame

    cost()
    times = []
    for _ in range(REPETITIONS):
        start = time.process_time()
        frame = cost()
        times.append(time.process_time() - start)
    macs = int(frame["macs"].sum())
    median = float(pd.Series(times).median())
    return pd.DataFrame(
        [
            {
                "name": "cost of ResNet-50, 54 products",
                "seconds": median,
                "allowed seconds": ALLOWED_SECONDS,
                "macs": macs,
                "latency_s": sim.totals(frame)["latency_s"].value,
            }
        ]
    )


def main() -> None:
    """Measure, print and save."""
    speed, cost = macros(), digital()
    print(speed[["name", "ratio", "ratio_low", "ratio_high", "allowed ratio"]].round(2).to_string(index=False))
    print("CPU time over plain torch of the same shape, one thread, median of interleaved rounds; 1024 -> 256, batch 256")
    print(cost.to_string(index=False, float_format=lambda value: f"{value:.3g}"))
    print(f"written to {save('speed_macro', COMMAND, pd.concat([speed, cost], ignore_index=True))}")


if __name__ == "__main__":
    main()
