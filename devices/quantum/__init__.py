"""Transmons driven by pulses: schedules, the chip with all its errors, calibration, gates."""

from devices.quantum.backend import TransmonBackend
from devices.quantum.confusion import readout_matrix
from devices.quantum.cross_resonance import cr_tomography
from devices.quantum.drag import drag_scan
from devices.quantum.experiment import Bench, Experiment
from devices.quantum.gates import CrossResonance, GateSet
from devices.quantum.rabi import fine_amplitude, rabi_scan
from devices.quantum.ramsey import ramsey_fringes
from devices.quantum.schedule import Acquire, Delay, Instruction, Play, Schedule, SetFrequency, SetPhase, ShiftFrequency, ShiftPhase
from devices.quantum.sequences import PulseBuilder
from devices.quantum.transmon import ControlChannel, Coupling, Transmon, WaveformGenerator
from devices.quantum.waveforms import Constant, Drag, Gaussian, GaussianSquare, Sampled, Waveform

__all__ = [
    "Acquire",
    "Bench",
    "Constant",
    "ControlChannel",
    "Coupling",
    "CrossResonance",
    "Delay",
    "Drag",
    "Experiment",
    "GateSet",
    "Gaussian",
    "GaussianSquare",
    "Instruction",
    "Play",
    "PulseBuilder",
    "Sampled",
    "Schedule",
    "SetFrequency",
    "SetPhase",
    "ShiftFrequency",
    "ShiftPhase",
    "Transmon",
    "TransmonBackend",
    "Waveform",
    "WaveformGenerator",
    "cr_tomography",
    "drag_scan",
    "fine_amplitude",
    "rabi_scan",
    "ramsey_fringes",
    "readout_matrix",
]
