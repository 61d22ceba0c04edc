"""What a part is and does: its design, its physics, its cost."""

from devices.base import (
    ComputeMacro,
    Cost,
    Design,
    DesignError,
    DigitalArray,
    Hardware,
    ProgrammedCells,
    PulseBackend,
    ResistiveCell,
    SpikingCore,
)
from devices.converters import ADC, DAC
from devices.catalog import PresetInfo, Source, bibliography, presets, sources_of
from devices.rram import DifferentialMapping, IdealCell, PolynomialCell, RRAMCrossbar

__all__ = [
    "ADC",
    "DAC",
    "ComputeMacro",
    "Cost",
    "Design",
    "DesignError",
    "DifferentialMapping",
    "DigitalArray",
    "Hardware",
    "IdealCell",
    "PolynomialCell",
    "PresetInfo",
    "ProgrammedCells",
    "PulseBackend",
    "RRAMCrossbar",
    "ResistiveCell",
    "Source",
    "SpikingCore",
    "bibliography",
    "presets",
    "sources_of",
]
