"""Transmons driven by pulses: schedules, the chip with all its errors, calibration, gates."""

from devices.quantum.backend import TransmonBackend
from devices.quantum.gates import CrossResonance, GateSet
from devices.quantum.schedule import Acquire, Delay, Instruction, Play, Schedule, SetFrequency, SetPhase, ShiftFrequency, ShiftPhase
from devices.quantum.transmon import ControlChannel, Coupling, Transmon, WaveformGenerator
from devices.quantum.waveforms import Constant, Drag, Gaussian, GaussianSquare, Sampled, Waveform

__all__ = [
    "Acquire",
    "Constant",
    "ControlChannel",
    "Coupling",
    "CrossResonance",
    "Delay",
    "Drag",
    "GateSet",
    "Gaussian",
    "GaussianSquare",
    "Instruction",
    "Play",
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
]
