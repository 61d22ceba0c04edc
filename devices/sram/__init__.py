"""SRAM compute-in-memory macros with a readout embedded in their memory cells."""

from devices.sram.bit_lines import BitLines, Corner
from devices.sram.cost import MacroActivity, macro_cost
from devices.sram.macro import SRAMMacro
from devices.sram.operands import input_digits, weight_digits
from devices.sram.reading import MacroInstance, fabricate, read

__all__ = [
    "BitLines",
    "Corner",
    "MacroActivity",
    "MacroInstance",
    "SRAMMacro",
    "fabricate",
    "input_digits",
    "macro_cost",
    "read",
    "weight_digits",
]
