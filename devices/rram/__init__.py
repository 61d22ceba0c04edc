"""Resistive crossbars: cells, mapping, arrays and their cost, one model a file; published cells in ``presets``."""

from devices.rram.cost import CrossbarActivity, crossbar_cost
from devices.rram.crossbar import RRAMCrossbar
from devices.rram.ideal import IdealCell
from devices.rram.mapping import DifferentialMapping, MappedWeights
from devices.rram.polynomial import PolynomialCell

__all__ = ["CrossbarActivity", "DifferentialMapping", "IdealCell", "MappedWeights", "PolynomialCell", "RRAMCrossbar", "crossbar_cost"]
