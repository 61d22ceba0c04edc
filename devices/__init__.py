"""What a part is and does: its design, its physics, its cost."""

from devices.base import ComputeMacro, Cost, DigitalArray, Hardware, ProgrammedCells, PulseBackend, ResistiveCell, SpikingCore
from devices.catalog import PresetInfo, Source, bibliography, presets, sources_of
from devices.converters import ADC, DAC
from devices.design import Design, DesignError
from devices.digital import MemoryTier, SystolicArray, TieredSocket, all_to_all_seconds
from devices.rram import (
    ComposedCell,
    CurrentVoltage,
    DifferentialMapping,
    IdealCell,
    MeasuredCell,
    PolynomialCell,
    PulseUpdate,
    RandomCell,
    RRAMCrossbar,
    StuckCells,
    Temperature,
    Wires,
    from_measurements,
)
from devices.sram import BitLines, Corner, SRAMMacro

__all__ = [
    "ADC",
    "DAC",
    "BitLines",
    "ComposedCell",
    "ComputeMacro",
    "Corner",
    "Cost",
    "CurrentVoltage",
    "Design",
    "DesignError",
    "DifferentialMapping",
    "DigitalArray",
    "Hardware",
    "IdealCell",
    "MeasuredCell",
    "MemoryTier",
    "PolynomialCell",
    "PresetInfo",
    "ProgrammedCells",
    "PulseBackend",
    "PulseUpdate",
    "RRAMCrossbar",
    "RandomCell",
    "ResistiveCell",
    "SRAMMacro",
    "Source",
    "SpikingCore",
    "StuckCells",
    "SystolicArray",
    "Temperature",
    "TieredSocket",
    "Wires",
    "all_to_all_seconds",
    "bibliography",
    "from_measurements",
    "presets",
    "sources_of",
]
