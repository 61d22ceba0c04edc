"""Quantum circuits in networks: layers of gates and of pulses, mitigation of their errors, and the bridge to qiskit."""

from simulator.quantum.circuits import Angle, Circuit, Gate
from simulator.quantum.layers import PulseCircuit, QuantumModule, VariationalCircuit, layered_circuit

__all__ = ["Angle", "Circuit", "Gate", "PulseCircuit", "QuantumModule", "VariationalCircuit", "layered_circuit"]
