"""Resistive crossbars: cells, mapping, arrays and their cost, one model a file; published cells in ``presets``."""

from devices.rram.composed import ComposedCell
from devices.rram.cost import CrossbarActivity, crossbar_cost
from devices.rram.crossbar import RRAMCrossbar
from devices.rram.current_voltage import CurrentVoltage
from devices.rram.flicker import FlickerNoise
from devices.rram.ideal import IdealCell
from devices.rram.log_drift import LogDrift
from devices.rram.mapping import DifferentialMapping, MappedWeights
from devices.rram.measured import MeasuredCell, from_measurements
from devices.rram.polynomial import PolynomialCell
from devices.rram.power_drift import PowerDrift
from devices.rram.pulse_update import PulseUpdate
from devices.rram.random_cell import RandomCell
from devices.rram.relaxation import TabulatedRelaxation
from devices.rram.retention import RetentionLaw
from devices.rram.spread import (
    ConstantSpread,
    LogarithmicSpread,
    PolynomialSpread,
    PowerSpread,
    ProportionalSpread,
    SaturatingSpread,
    SpreadLaw,
    SpreadToBeGiven,
    TabulatedSpread,
)
from devices.rram.stuck import StuckCells
from devices.rram.telegraph import TelegraphNoise
from devices.rram.temperature import Temperature
from devices.rram.wires import Wires

__all__ = [
    "ComposedCell",
    "ConstantSpread",
    "CrossbarActivity",
    "CurrentVoltage",
    "DifferentialMapping",
    "FlickerNoise",
    "IdealCell",
    "LogDrift",
    "LogarithmicSpread",
    "MappedWeights",
    "MeasuredCell",
    "PolynomialCell",
    "PolynomialSpread",
    "PowerDrift",
    "PowerSpread",
    "ProportionalSpread",
    "PulseUpdate",
    "RRAMCrossbar",
    "RandomCell",
    "RetentionLaw",
    "SaturatingSpread",
    "SpreadLaw",
    "SpreadToBeGiven",
    "StuckCells",
    "TabulatedRelaxation",
    "TabulatedSpread",
    "TelegraphNoise",
    "Temperature",
    "Wires",
    "crossbar_cost",
    "from_measurements",
]
