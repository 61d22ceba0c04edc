"""A layer on crossbars of cells without errors, for the tests of what else is on the way."""

from typing import Any

from torch import Tensor, nn

import simulator as sim
from devices import IdealCell, RRAMCrossbar
from simulator.lowering import CrossbarLayer

LOW, HIGH = 1e-6, 40e-6
IDEAL = IdealCell(g_min_siemens=LOW, g_max_siemens=HIGH)


def compiled(layer: nn.Module, x: Tensor, **fields: Any) -> tuple[sim.Chip, CrossbarLayer]:
    chip = sim.compile(layer, RRAMCrossbar(**{"cell": IDEAL, **fields}), example_inputs=(x,)).program(seed=0)
    (found,) = chip.layers.values()
    assert isinstance(found, CrossbarLayer)
    return chip, found
