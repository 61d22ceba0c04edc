"""Configurations of other simulators as designs: aihwkit and CrossSim."""

from simulator.importing.conversion import Imported, import_design

__all__ = ["Imported", "import_design"]
