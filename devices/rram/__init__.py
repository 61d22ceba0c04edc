"""Resistive crossbars: cells, mapping, arrays and their cost, one model a file; published cells in ``presets``."""

from devices.rram.bare_tiles import BareTiles
from devices.rram.composed import ComposedCell
from devices.rram.cost import CrossbarActivity, crossbar_cost
from devices.rram.crossbar import RRAMCrossbar
from devices.rram.current_voltage import CurrentLaw, CurrentVoltage
from devices.rram.differential_mapping import DifferentialMapping
from devices.rram.flicker import FlickerNoise
from devices.rram.ideal import IdealCell
from devices.rram.log_drift import LogDrift
from devices.rram.mapping import MappedWeights, WeightMapping
from devices.rram.measured import MeasuredCell, from_measurements
from devices.rram.offset_mapping import OffsetMapping
from devices.rram.polynomial import PolynomialCell
from devices.rram.polynomial_current import PolynomialCurrent
from devices.rram.power_drift import PowerDrift
from devices.rram.pulse_update import PulseUpdate
from devices.rram.random_cell import RandomCell
from devices.rram.relaxation import TabulatedRelaxation
from devices.rram.retention import RetentionLaw
from devices.rram.sign_magnitude_mapping import SignMagnitudeMapping
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
from devices.rram.verification import PulseVerification, RedrawVerification, Verification, VerificationProfile, verification_profile
from devices.rram.weight_error import WeightErrorCell, weight_error_std
from devices.rram.wires import Wires

__all__ = [
    "BareTiles",
    "ComposedCell",
    "ConstantSpread",
    "CrossbarActivity",
    "CurrentLaw",
    "CurrentVoltage",
    "DifferentialMapping",
    "FlickerNoise",
    "IdealCell",
    "LogDrift",
    "LogarithmicSpread",
    "MappedWeights",
    "MeasuredCell",
    "OffsetMapping",
    "PolynomialCell",
    "PolynomialCurrent",
    "PolynomialSpread",
    "PowerDrift",
    "PowerSpread",
    "ProportionalSpread",
    "PulseUpdate",
    "PulseVerification",
    "RRAMCrossbar",
    "RandomCell",
    "RedrawVerification",
    "RetentionLaw",
    "SaturatingSpread",
    "SignMagnitudeMapping",
    "SpreadLaw",
    "SpreadToBeGiven",
    "StuckCells",
    "TabulatedRelaxation",
    "TabulatedSpread",
    "TelegraphNoise",
    "Temperature",
    "Verification",
    "VerificationProfile",
    "WeightErrorCell",
    "WeightMapping",
    "Wires",
    "crossbar_cost",
    "from_measurements",
    "verification_profile",
    "weight_error_std",
]
