"""Spiking kernels and a converted network beside SpikingJelly and torch: CPU time on one thread, interleaved in one process.

``inloop bench speed/spikes`` prints the table and writes it to ``benchmarks/results/speed_spikes.json``. SpikingJelly is timed where it
is installed (a virtual environment of its own, with inloop's packages in it); without it the rows that need it are left out.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

import simulator as sim
from benchmarks.networks import ResidualBlock
from benchmarks.timing import cpu_times, save
from devices import SpikingCore
from kernels.event_synapses import EventKernel, event_convolution, event_linear
from kernels.spikes import integrate_and_fire

COMMAND = "inloop bench speed/spikes"
TIMESTEPS, BATCH = 32, 64


def spikingjelly() -> Any:
    """Return SpikingJelly's package of neurons, or None where it is not installed."""
    try:
        for part in ("functional", "neuron", "ann2snn"):
            import_module(f"spikingjelly.activation_based.{part}")
    except ImportError:
        return None
    return import_module("spikingjelly.activation_based")


def neuron_cases() -> dict[str, Callable[[], object]]:
    """Return LIF neurons, 32 steps of 64 x 4096, into arrays that are there already; the first is what the others are compared to."""
    current = torch.rand(TIMESTEPS, BATCH, 4096, generator=torch.Generator().manual_seed(0))
    integers = (current * 100).to(torch.int32)
    floats, bytes_, copied = torch.empty_like(current), torch.empty(current.shape, dtype=torch.uint8), torch.empty_like(current)
    cases: dict[str, Callable[[], object]] = {}
    package = spikingjelly()
    if package is not None:
        node = package.neuron.LIFNode(tau=2.0, v_reset=None, step_mode="m").eval()

        def multi_step() -> Tensor:
            package.functional.reset_net(node)
            with torch.no_grad():
                found: Tensor = node(current)
            return found

        cases["SpikingJelly multi-step LIF, torch"] = multi_step
    cases["torch, in place"] = lambda: _torch_lif(current, floats, 0.5)
    cases["inloop float32 -> float32"] = lambda: integrate_and_fire(current, 1.0, 0.0, 0.5, out=floats)
    cases["inloop float32 -> uint8"] = lambda: integrate_and_fire(current, 1.0, 0.0, 0.5, out=bytes_)
    cases["inloop int32 -> uint8 (no leak)"] = lambda: integrate_and_fire(integers, 100, out=bytes_)
    cases["a copy into an array"] = lambda: copied.copy_(current)
    return cases


def _torch_lif(current: Tensor, out: Tensor, decay: float) -> Tensor:
    v = torch.zeros_like(current[0])
    for t in range(len(current)):
        v.mul_(decay).add_(current[t])
        torch.ge(v, 1.0, out=out[t])
        v.sub_(out[t])
    return out


def layer_cases(rate: float = 0.05) -> dict[str, Callable[[], object]]:
    """Return 784-1000-10 with 5 % of the inputs spiking: all steps in one dense product with LIF in place, against events."""
    generator = torch.Generator().manual_seed(1)
    spikes = (torch.rand(TIMESTEPS, BATCH, 784, generator=generator) < rate).to(torch.uint8)
    first, second = torch.randn(1000, 784, generator=generator) * 0.12, torch.randn(10, 1000, generator=generator) * 0.05
    floats = spikes.float()
    hidden_float, out_float = torch.empty(TIMESTEPS, BATCH, 1000), torch.empty(TIMESTEPS, BATCH, 10)
    hidden, out = hidden_float.to(torch.uint8), out_float.to(torch.uint8)
    rows = first.t().contiguous(), second.t().contiguous()
    scale = 127 / float(first.abs().max())
    narrow = tuple((weight * scale).round().to(torch.int8).contiguous() for weight in rows)
    level = round(scale)
    sums = torch.empty(TIMESTEPS * BATCH, 1000), torch.empty(TIMESTEPS * BATCH, 10)
    whole = tuple(one.to(torch.int32) for one in sums)

    def dense() -> Tensor:
        a = functional.linear(floats.flatten(0, 1), first).unflatten(0, (TIMESTEPS, BATCH))
        _torch_lif(a, hidden_float, 1.0)
        b = functional.linear(hidden_float.flatten(0, 1), second).unflatten(0, (TIMESTEPS, BATCH))
        return _torch_lif(b, out_float, 1.0)

    def events(weights: Any, results: Any, threshold: Any) -> Callable[[], Tensor]:
        def run() -> Tensor:
            a = event_linear(spikes.flatten(0, 1), weights[0], out=results[0]).unflatten(0, (TIMESTEPS, BATCH))
            integrate_and_fire(a, threshold, out=hidden)
            b = event_linear(hidden.flatten(0, 1), weights[1], out=results[1]).unflatten(0, (TIMESTEPS, BATCH))
            integrate_and_fire(b, threshold, out=out)
            return out

        return run

    return {"dense, torch": dense, "events, float32": events(rows, sums, 1.0), "events, int8": events(narrow, whole, level)}


RATES = (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75)
CONVOLUTIONS = ((16, 16, 32, 1, 1), (32, 32, 16, 1, 1), (64, 64, 8, 1, 1), (16, 32, 32, 2, 1), (32, 64, 16, 2, 1), (32, 32, 16, 1, 2))
"""Input and output channels, height and width, stride and dilation of the convolutions: those of ResNet-20, and one with dilation."""


def _dense(spikes: Tensor, weight: Tensor) -> Tensor:
    return functional.linear(spikes.float(), weight)


def _dense_maps(maps: Tensor, kernel: Tensor, stride: int, dilation: int) -> Tensor:
    return functional.conv2d(maps.float(), kernel, None, stride, dilation, dilation)


def crossover() -> pd.DataFrame:
    """Return the CPU time of events over a dense product by the share of inputs that spike: what `events_are_faster` is made of."""
    generator = torch.Generator().manual_seed(2)
    rows = []

    def measured(case: str, rate: float, cases: dict[str, Callable[[], object]]) -> None:
        found = cpu_times(cases, repetitions=5).set_index("name")["ratio"]
        rows.append({"case": case, "rate": rate, "float32": found["events"], "int8": found["events, int8"]})

    weight = torch.randn(1000, 784, generator=generator)
    laid, narrow = weight.t().contiguous(), (weight.t() * 20).round().to(torch.int8).contiguous()
    for rate in RATES:
        spikes = (torch.rand(1024, 784, generator=generator) < rate).to(torch.uint8)
        cases: dict[str, Callable[[], object]] = {
            "dense": partial(_dense, spikes, weight),
            "events": partial(event_linear, spikes, laid),
            "events, int8": partial(event_linear, spikes, narrow),
        }
        measured("linear 784 -> 1000", rate, cases)
        for inputs, outputs, size, stride, dilation in CONVOLUTIONS:
            kernel = torch.randn(outputs, inputs, 3, 3, generator=generator)
            options: dict[str, Any] = {"stride": (stride, stride), "padding": (dilation, dilation), "dilation": (dilation, dilation)}
            # Spikes lie as neurons leave them, channels side by side, for events and for the dense product.
            maps = (torch.rand(64, inputs, size, size, generator=generator) < rate).to(torch.uint8)
            maps = maps.contiguous(memory_format=torch.channels_last)
            whole = EventKernel.of((kernel * 20).round().to(torch.int8), **options)
            cases = {
                "dense": partial(_dense_maps, maps, kernel, stride, dilation),
                "events": partial(event_convolution, maps, EventKernel.of(kernel, **options)),
                "events, int8": partial(event_convolution, maps, whole),
            }
            measured(f"conv 3x3, {inputs} -> {outputs}, {size}x{size}, stride {stride}, dilation {dilation}", rate, cases)
    return pd.DataFrame(rows)


def crossings(rates: pd.DataFrame) -> pd.DataFrame:
    """Return the share of inputs that spike at which events take as long as a dense product, interpolated.

    0 where events were slower from the lowest share on, NaN where they were faster up to the highest.
    """
    rows = []
    for case, part in rates.groupby("case", sort=False):
        row: dict[str, Any] = {"case": case}
        for kind in ("float32", "int8"):
            ratio, rate = part[kind].to_numpy(), part["rate"].to_numpy()
            above = np.flatnonzero(ratio >= 1)
            first = int(above[0]) if len(above) else len(ratio)
            between = slice(first - 1, first + 1)
            row[kind] = np.nan if first == len(ratio) else np.interp(1.0, ratio[between], rate[between]) if first else 0.0
        rows.append(row)
    return pd.DataFrame(rows)


class ReluBlock(ResidualBlock):
    """The same block with its activations as modules, which SpikingJelly's converter needs."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__(inputs, outputs, stride)
        self.first_relu, self.second_relu = nn.ReLU(), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        y = self.first_relu(self.first_norm(self.first(x)))
        result: Tensor = self.second_relu(self.second_norm(self.second(y)) + self.shortcut(x))
        return result


def resnet20(classes: int = 10) -> nn.Sequential:
    """Return ResNet-20 for 32 x 32 images: three stages of three blocks with 16, 32 and 64 channels."""
    torch_layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    channels = 16
    for stage, outputs in enumerate((16, 32, 64)):
        for block in range(3):
            torch_layers.append(ReluBlock(channels, outputs, 2 if stage and not block else 1))
            channels = outputs
    model = nn.Sequential(*torch_layers, nn.AvgPool2d(8), nn.Flatten(), nn.Linear(64, classes))
    generator = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = torch.randn(module.weight.shape, generator=generator) * (2 / module.weight[0].numel()) ** 0.5
    images = torch.rand(64, 3, 32, 32, generator=generator)
    with torch.no_grad():
        model.train()
        for _ in range(30):  # so that batch norm has the statistics of its inputs
            model(images)
    return model.eval()


def network_cases(batch: int = 16) -> dict[str, Callable[[], object]]:
    """Return a converted ResNet-20 on 32 x 32 images for 32 steps."""
    model = resnet20()
    images = torch.rand(batch, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    cases: dict[str, Callable[[], object]] = {}
    package = spikingjelly()
    if package is not None:
        loader = [(images, torch.zeros(batch))]
        converted = package.ann2snn.Converter(package.ann2snn.RateCodingRecipe(loader, mode="max")).convert(model).eval()

        def simulate() -> Tensor:
            package.functional.reset_net(converted)
            total = torch.zeros(())
            with torch.no_grad():
                for _ in range(TIMESTEPS):
                    total = total + converted(images)
            return total / TIMESTEPS

        cases["SpikingJelly, converted"] = simulate
    chip = sim.compile(model, SpikingCore.preset("ideal"), calibration=[(images,)], timesteps=TIMESTEPS, method="none")
    cases["inloop, ideal core"] = lambda: chip(images)
    return cases


def measure() -> pd.DataFrame:
    """Return a row per case and variant; `ratio` is CPU time over that of the first variant, `times_faster` its inverse."""
    frames = []
    for case, cases, repetitions in (
        ("LIF, T = 32, batch 64, 4096 neurons", neuron_cases(), 20),
        ("784-1000-10, T = 32, batch 64, 5 % input spikes", layer_cases(), 20),
        ("ResNet-20, 32 x 32, T = 32, batch 16", network_cases(), 5),
    ):
        frame = cpu_times(cases, repetitions=repetitions)
        frame.insert(0, "case", case)
        frames.append(frame)
    frame = pd.concat(frames, ignore_index=True)
    frame["times_faster"] = 1 / frame["ratio"]
    return frame


def main() -> None:
    """Measure, print and save."""
    frame = measure()
    print(frame[["case", "name", "seconds", "ratio", "times_faster"]].round(4).to_string(index=False))
    copy = frame.set_index("name")["seconds"]
    print(f"float32 over a copy into an array: {copy['inloop float32 -> float32'] / copy['a copy into an array']:.2f}")
    print(f"written to {save('speed_spikes', COMMAND, frame)}")
    rates = crossover()
    print(rates.round(2).to_string(index=False))
    print("share of inputs that spike at which both take as long:")
    print(crossings(rates).round(3).to_string(index=False))
    print(
        "CPU time of events over a dense product, by the share of inputs that spike; "
        f"written to {save('speed_spikes_rates', COMMAND, rates)}"
    )


if __name__ == "__main__":
    np.seterr(all="raise")
    main()
