"""Quantum circuits in networks: layers of gates and of pulses, mitigation of their errors, and the bridge to qiskit."""

from simulator.quantum.circuits import Angle, Circuit, Gate
from simulator.quantum.layers import PulseCircuit, QuantumModule, VariationalCircuit, layered_circuit
from simulator.quantum.mitigation import Extrapolation, extrapolate, invert_readout, stretch

__all__ = [
    "Angle",
    "Circuit",
    "Extrapolation",
    "Gate",
    "PulseCircuit",
    "QuantumModule",
    "VariationalCircuit",
    "extrapolate",
    "invert_readout",
    "layered_circuit",
    "stretch",
]
