"""Quantum circuits as layers of a network: gates (`VariationalCircuit`), and pulses themselves (`PulseCircuit`)."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from devices.quantum import TransmonBackend
from devices.quantum.readout import bit_probabilities
from kernels.random import Key, uniform
from simulator.hardware import inside_hardware
from simulator.operators import LinearOperator
from simulator.quantum.circuits import Circuit, z_expectations
from simulator.quantum.programs import CircuitProgram, PulseProgram, TrainedPulses
from simulator.weight_layers import WeightLayer

Readout = Literal["z", "probabilities"]


class QuantumModule(nn.Module, ABC):
    """A layer that is a quantum circuit: inputs and trained angles make a state, and what is read of it is the output.

    Parameters
    ----------
    inputs
        Numbers that a sample brings, at least 1.
    qubits
        How many.
    weights
        Trained numbers.
    reads
        Qubits whose expectation of Z is an output; all of them by default.
    readout
        ``z`` for expectations of Z, ``probabilities`` for those of all bit strings.
    """

    def __init__(self, inputs: int, qubits: int, weights: Tensor, reads: Sequence[int] | None, readout: Readout) -> None:
        super().__init__()
        chosen = tuple(range(qubits)) if reads is None else tuple(reads)
        if inputs < 1 or not chosen or not all(0 <= q < qubits for q in chosen):
            raise ValueError(
                f"Arguments `inputs` and `reads` must be at least 1 and name some of {qubits} qubits, but got {inputs} and {reads}"
            )
        if readout not in ("z", "probabilities"):
            raise ValueError(f'Argument `readout` must be "z" or "probabilities", but got {readout!r}')
        self.inputs, self.qubits, self.reads, self.readout = inputs, qubits, chosen, readout
        self.weight = nn.Parameter(weights.float())

    @property
    def outputs(self) -> int:
        """Numbers that come out."""
        return len(self.reads) if self.readout == "z" else 2**self.qubits

    def parameter_rows(self, inputs: Tensor, weight: Tensor) -> Tensor:
        """Return the circuit's parameters for each sample: its inputs, then the weights; ``(batch, inputs + weights)`` float64."""
        if inputs.dim() != 2 or inputs.shape[1] != self.inputs:
            raise ValueError(f"The input of {type(self).__name__} must have shape (batch, {self.inputs}), but has {tuple(inputs.shape)}")
        return torch.cat([inputs.double(), weight.double().expand(len(inputs), -1)], 1)

    def decode(self, probabilities: Tensor) -> Tensor:
        """Return the outputs, float32, from the probabilities of bit strings ``(batch, 2^qubits)``."""
        found = z_expectations(probabilities, self.reads, self.qubits) if self.readout == "z" else probabilities
        return found.float()

    def circuit_layer(self) -> WeightLayer:
        """Return what a lowering gets: the trained angles, and this module as their circuit."""
        return WeightLayer(type(self).__name__, LinearOperator(0), self.weight, None, "", self)

    @abstractmethod
    def probabilities(self, inputs: Tensor, weight: Tensor) -> Tensor:
        """Return the probabilities of bit strings without any error: ``(batch, 2^qubits)`` float64."""

    @abstractmethod
    def program(self, backend: TransmonBackend) -> PulseProgram:
        """Return the layer as pulses on a chip with calibrated gates."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute the layer without any error, for inputs ``(batch, inputs)``; returns ``(batch, outputs)`` float32."""
        with inside_hardware():  # the host that simulates is not the digital unit that the model's operations are counted for
            return self.decode(self.probabilities(inputs, self.weight))


class VariationalCircuit(QuantumModule):
    """A circuit of gates with trained angles, simulated exactly; `simulator.compile` puts it onto a pulse backend.

    By default inputs are encoded as rotations about x and z in turn, qubit by qubit; then each layer rotates every qubit about x and z by
    trained angles and entangles neighbors by controlled nots.

    Parameters
    ----------
    inputs
        Numbers that a sample brings, angles in rad.
    qubits
        How many.
    layers
        Trained layers.
    circuit
        A circuit of one's own instead; its parameters are the inputs, then the weights.
    reads, readout
        See `QuantumModule`.
    seed
        Of the angles to start from, uniform from -pi to pi.

    Examples
    --------
    >>> layer = VariationalCircuit(inputs=4, qubits=2, layers=2)
    >>> layer(torch.zeros(3, 4)).shape, layer.weight.shape
    (torch.Size([3, 2]), torch.Size([8]))
    """

    def __init__(
        self,
        inputs: int,
        qubits: int,
        layers: int = 1,
        *,
        circuit: Circuit | None = None,
        reads: Sequence[int] | None = None,
        readout: Readout = "z",
        seed: int = 0,
    ) -> None:
        _require_layers(layers)
        built = layered_circuit(inputs, qubits, layers) if circuit is None else circuit
        count = max(0, built.parameters - inputs)
        start = math.pi * (2 * uniform(Key.of(seed=seed, purpose="variational circuit"), count) - 1)
        super().__init__(inputs, built.qubits, start, reads, readout)
        self.circuit = built

    def probabilities(self, inputs: Tensor, weight: Tensor) -> Tensor:
        """Return the probabilities of bit strings without any error: ``(batch, 2^qubits)`` float64."""
        return self.circuit.state(self.parameter_rows(inputs, weight)).abs() ** 2

    def program(self, backend: TransmonBackend) -> PulseProgram:
        """Return the circuit as calibrated pulses with virtual Z."""
        return CircuitProgram(self.circuit, backend)

    def extra_repr(self) -> str:
        """Return the line that ``print(model)`` shows."""
        return f"{self.inputs} inputs, {self.qubits} qubits, {len(self.circuit.gates)} gates, {self.weight.numel()} angles"


class PulseCircuit(QuantumModule):
    """A circuit of pulses whose amplitudes, phases and widths are trained: variational quantum pulses.

    Inputs turn the transmons by pulses of an amplitude in proportion, about x and y in turn. Each layer then plays a pulse of trained
    amplitude and phase on every transmon and, on every coupling, a cross-resonance pulse of trained amplitude, phase and width. Amplitudes
    and widths are kept in range by a tanh and a sigmoid, and start near the calibrated gates.

    Parameters
    ----------
    backend
        The chip; calibrated first where it is not. The layer computes without its relaxation, drift and errors of readout;
        `simulator.compile` brings them in.
    inputs
        Numbers that a sample brings, angles in rad.
    layers
        Trained layers.
    reads, readout
        See `QuantumModule`.
    seed
        Of the numbers to start from.

    References
    ----------
    Z. Liang et al., arXiv:2203.17267.

    Examples
    --------
    >>> layer = PulseCircuit(TransmonBackend.preset("jakarta_like"), inputs=4, layers=1)
    >>> layer(torch.zeros(2, 4)).shape, layer.weight.shape
    (torch.Size([2, 2]), torch.Size([7]))
    """

    def __init__(
        self,
        backend: TransmonBackend,
        inputs: int,
        layers: int = 1,
        *,
        reads: Sequence[int] | None = None,
        readout: Readout = "z",
        seed: int = 0,
    ) -> None:
        _require_layers(layers)
        self_backend = backend.calibrated
        pulses = TrainedPulses(self_backend.ideal(), inputs, layers)
        start = uniform(Key.of(seed=seed, purpose="pulse circuit"), pulses.weights) * 2 - 1
        super().__init__(inputs, backend.count, start, reads, readout)
        self.layers, self.backend, self._pulses = layers, self_backend, pulses

    def probabilities(self, inputs: Tensor, weight: Tensor) -> Tensor:
        """Return the probabilities of bit strings without any error: ``(batch, 2^qubits)`` float64."""
        rows = self.parameter_rows(inputs, weight)
        return bit_probabilities(self._pulses.backend, self._pulses.populations(rows))

    def program(self, backend: TransmonBackend) -> PulseProgram:
        """Return the same pulses on a chip."""
        return TrainedPulses(backend, self.inputs, self.layers)

    def extra_repr(self) -> str:
        """Return the line that ``print(model)`` shows."""
        return f"{self.inputs} inputs, {self.qubits} transmons, {self.layers} layers, {self.weight.numel()} numbers of pulses"


def _require_layers(layers: int) -> None:
    if not isinstance(layers, int) or isinstance(layers, bool) or layers < 1:
        raise ValueError(f"Argument `layers` must be an integer of at least 1, but got {layers!r}; a layer without trained numbers is none")


def layered_circuit(inputs: int, qubits: int, layers: int) -> Circuit:
    """Return the default circuit of `VariationalCircuit`.

    Examples
    --------
    >>> layered_circuit(2, 2, 1).parameters
    6
    """
    circuit = Circuit(qubits)
    for index in range(inputs):
        circuit = circuit.rotate(("rx", "rz")[index // qubits % 2], index % qubits, index)
    at = inputs
    for _ in range(layers):
        for q in range(qubits):
            circuit = circuit.rotate("rx", q, at).rotate("rz", q, at + 1)
            at += 2
        for q in range(qubits - 1):
            circuit = circuit.add("cx", q, q + 1)
    return circuit
