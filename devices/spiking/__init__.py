"""Neuromorphic cores: neurons, their arithmetic, limits and energy."""

from devices.spiking.arithmetic import IntegerArithmetic
from devices.spiking.chip import NeuromorphicChip
from devices.spiking.energy import EventEnergy
from devices.spiking.neuron import SpikingNeuron

__all__ = ["EventEnergy", "IntegerArithmetic", "NeuromorphicChip", "SpikingNeuron"]
