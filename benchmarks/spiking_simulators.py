"""Spikes of inloop's neurons beside those of SpikingJelly and snnTorch, with comparator, reset and its moment set alike.

``inloop bench spiking_simulators`` counts spikes that differ, on random currents that meet the threshold exactly now and then, and writes
``benchmarks/results/spiking_simulators.json``. It needs both packages, in a virtual environment of their own with inloop's packages.
"""

from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from benchmarks.timing import save
from kernels.spikes import integrate_and_fire

COMMAND = "inloop bench spiking_simulators"
STEPS, NEURONS = 100, 4096


def currents() -> dict[str, Tensor]:
    """Return random currents: on a grid of 1/16, where ties are frequent, and continuous ones; shape (steps, 1, neurons)."""
    generator = torch.Generator().manual_seed(0)
    grid = torch.randint(-8, 16, (STEPS, 1, NEURONS), generator=generator) / 16
    return {"multiples of 1/16": grid, "continuous": torch.rand(STEPS, 1, NEURONS, generator=generator) * 1.2 - 0.3}


def spikingjelly_cases() -> Iterator[tuple[str, Callable[[Tensor], Tensor], dict[str, Any]]]:
    """Yield SpikingJelly's neurons with the conventions that are theirs: ``>=``, reset in the same step."""
    try:
        functional, neuron = (import_module(f"spikingjelly.activation_based.{part}") for part in ("functional", "neuron"))
    except ImportError:
        return

    def run(node: Any) -> Callable[[Tensor], Tensor]:
        def call(current: Tensor) -> Tensor:
            functional.reset_net(node)
            with torch.no_grad():
                found: Tensor = node(current)
            return found

        return call

    for reset, v_reset in (("soft", None), ("hard", 0.0)):
        options = {"reset": reset, "comparator": ">=", "reset_moment": "same_step"}
        yield "SpikingJelly IFNode", run(neuron.IFNode(v_reset=v_reset, step_mode="m").eval()), {**options, "decay": 1.0}
        lif = neuron.LIFNode(tau=2.0, decay_input=False, v_reset=v_reset, step_mode="m").eval()
        yield "SpikingJelly LIFNode", run(lif), {**options, "decay": 0.5}


def snntorch_cases() -> Iterator[tuple[str, Callable[[Tensor], Tensor], dict[str, Any]]]:
    """Yield snnTorch's neuron with the conventions that are its: ``>``, reset in the next step or, on request, in the same."""
    try:
        snntorch = import_module("snntorch")
    except ImportError:
        return

    def run(beta: float, mechanism: str, delay: bool) -> Callable[[Tensor], Tensor]:
        def call(current: Tensor) -> Tensor:
            node = snntorch.Leaky(beta=beta, threshold=1.0, reset_mechanism=mechanism, reset_delay=delay)
            membrane = torch.zeros_like(current[0])
            found = []
            with torch.no_grad():
                for step in current:
                    spikes, membrane = node(step, membrane)
                    found.append(spikes)
            return torch.stack(found)

        return call

    for beta in (1.0, 0.5, 0.9):
        for mechanism, reset in (("subtract", "soft"), ("zero", "hard")):
            for delay, moment in ((True, "next_step"), (False, "same_step")):
                options = {"reset": reset, "comparator": ">", "reset_moment": moment, "decay": beta}
                yield "snnTorch Leaky", run(beta, mechanism, delay), options


def measure() -> pd.DataFrame:
    """Return a row for each simulator, convention and input: spikes that differ when alike, and when comparator and moment are not."""
    rows = []
    inputs = currents()
    for name, call, options in (*spikingjelly_cases(), *snntorch_cases()):
        other = {**options, "comparator": ">" if options["comparator"] == ">=" else ">=", "reset_moment": "same_step"}
        for kind, current in inputs.items():
            theirs = call(current)
            ours, _ = integrate_and_fire(current, 1.0, **options)
            unlike, _ = integrate_and_fire(current, 1.0, **other)
            rows.append(
                {
                    "simulator": name, **options, "input": kind, "spikes": int(theirs.sum()),
                    "mismatched": int((theirs != ours).sum()), "mismatched_unlike": int((theirs != unlike).sum()),
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def main() -> None:
    """Compare, print and save."""
    frame = measure()
    if frame.empty:
        print("neither spikingjelly nor snntorch is installed: nothing to compare with")
        return
    for package in ("spikingjelly", "snntorch"):
        try:
            print(package, version(package))
        except PackageNotFoundError:
            print(package, "is not installed")
    print(frame.to_string(index=False))
    print(f"mismatched spikes with conventions alike: {frame['mismatched'].sum()} of {STEPS * NEURONS * len(frame)} neuron steps")
    print(f"written to {save('spiking_simulators', COMMAND, frame)}")


if __name__ == "__main__":
    main()
