"""What the co-design benchmarks share: a trained network family on digits, and hardware of three families with published constants."""

from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from devices import MemoryTier, RRAMCrossbar, SRAMMacro, SystolicArray
from devices.base import Hardware
from simulator.codesign import NetworkFamily, fit_family
from simulator.data import load_data

HOROWITZ_MAC_J = 0.3e-12
"""8-bit multiply, 0.2 pJ, and 32-bit add, 0.1 pJ, at 45 nm (Horowitz, ISSCC 2014, figure 1.1.9)."""
HOROWITZ_BUFFER_J_PER_BYTE = 2.5e-12
"""64 bits from a 32 KiB cache, 20 pJ, at 45 nm (the same figure)."""
CLOCK_HERTZ = 1e9
"""A choice: latencies of one array scale with it, and rankings do not depend on it."""
MACRO_READ_S = 10e-9
"""A choice too: the macro's cycle was not published, and rankings do not depend on it."""
SUBSTITUTE = "data: scikit-learn's 8 x 8 digits, in place of CIFAR-10 and ImageNet"
WIDTHS = ((4, 8), (4, 8, 16), (8, 16, 32))

Pair = tuple[Tensor, Tensor]


@cache
def digits() -> tuple[Pair, Pair]:
    """Return inputs and targets to train on and to test on."""
    split = load_data("digits")
    train, test = (list(part) for part in (split.train_batches(256, seed=None), split.test_batches(256)))
    return _joined(train), _joined(test)


@cache
def trained_family(epochs: int = 40) -> NetworkFamily:
    """Return the family with its shared weights trained, about 20 s of CPU."""
    family = NetworkFamily(widths=WIDTHS)
    fit_family(family, digits()[0], epochs=epochs)
    return family


def network_of(family: NetworkFamily) -> Any:
    """Return the function of a configuration that makes its network."""
    inputs = digits()[0][0]
    return partial(family.extract, batches=[(inputs[start : start + 256],) for start in range(0, 1024, 256)])


def accuracy_of(network: nn.Module) -> float:
    """Return the accuracy on the test digits."""
    inputs, targets = digits()[1]
    with torch.no_grad():
        return float((network(inputs).argmax(1) == targets).double().mean())


def digital(side: int, dataflow: Any = "weight_stationary") -> SystolicArray:
    """Return a systolic array with an on-chip buffer that holds these networks, at 45 nm."""
    buffer = MemoryTier(
        name="buffer", capacity_bytes=32 * 1024 * 1024, bandwidth_bytes_per_s=64e9, joule_per_byte=HOROWITZ_BUFFER_J_PER_BYTE
    )
    return SystolicArray(
        rows=side, columns=side, dataflow=dataflow, memories=(buffer,), frequency_hertz=CLOCK_HERTZ, joule_per_mac=HOROWITZ_MAC_J,
        node_m=45e-9,
    )  # fmt: skip


def crossbar(rows: int = 128, bits: int = 8) -> RRAMCrossbar:
    """Return a crossbar whose cells read and converters cost as published (NeuroSim, ISAAC), with the errors of NeuRRAM's cells."""
    cell = RRAMCrossbar.preset("wan_nature_2022").cell
    published = RRAMCrossbar.preset("rram_22nm_neurosim", rows=rows, adc={"bits": bits})
    return published.replace(cell=cell)


def macro(rows: int = 64) -> SRAMMacro:
    """Return the 9-bit SRAM macro of ASSCC 2023 with a nominal cycle and the demonstrator's errors, as its own were not published."""
    return SRAMMacro.preset("demonstrator", rows=rows, read_s=MACRO_READ_S)


def accelerators() -> dict[str, Hardware]:
    """Return six digital arrays, two SRAM macros and two crossbars, by name."""
    found: dict[str, Hardware] = {}
    for short, dataflow in (("WS", "weight_stationary"), ("OS", "output_stationary"), ("IS", "input_stationary")):
        found |= {f"digital {short} {side}x{side}": digital(side, dataflow) for side in (8, 16)}
    found |= {f"SRAM macro {rows} rows": macro(rows) for rows in (64, 128)}
    return found | {f"crossbar {rows} rows": crossbar(rows) for rows in (64, 128)}


def _joined(batches: list[Any]) -> Pair:
    return torch.cat([batch[0] for batch in batches]), torch.cat([batch[1] for batch in batches])
