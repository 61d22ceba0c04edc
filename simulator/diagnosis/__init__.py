"""Why a chip gives what it gives: effects one by one, layers one by one, and time."""

from simulator.diagnosis.aging import Retention, retention
from simulator.diagnosis.attribution import Attribution, attribute
from simulator.diagnosis.effects import EFFECTS, effects_of, with_effects
from simulator.diagnosis.noise import NoiseMatrix, noise_matrix
from simulator.diagnosis.probing import Probe, probe

__all__ = [
    "EFFECTS",
    "Attribution",
    "NoiseMatrix",
    "Probe",
    "Retention",
    "attribute",
    "effects_of",
    "noise_matrix",
    "probe",
    "retention",
    "with_effects",
]
