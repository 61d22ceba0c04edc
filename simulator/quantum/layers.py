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

    On a compiled chip, ``chip.layers[name].shots = 200`` sets how often each circuit is repeated (1024 unless set), None gives exact
    probabilities.

    Parameters
    ----------
    inputs
        Numbers that a sample brings, at least 1.
    qubits
        How many.
    weights
        Trained numbers.
    reads
        Different qubits whose expectation of Z is an output; all of them by default. Not with ``probabilities``.
    readout
        ``z`` for expectations of Z, ``probabilities`` for those of all bit strings.
    """

    def __init__(self, inputs: int, qubits: int, weights: Tensor, reads: Sequence[int] | None, readout: Readout) -> None:
        super().__init__()
        _require_count("inputs", inputs)
        if readout not in ("z", "probabilities"):
            raise ValueError(f'Argument `readout` must be "z" or "probabilities", but got {readout!r}')
        if reads is not None and readout == "probabilities":
            raise ValueError(
                f"Argument `reads` must be None for probabilities, which are those of all qubits, but got {reads}; leave it out"
            )
        chosen = tuple(range(qubits)) if reads is None else _distinct(reads, qubits)
        self.inputs, self.qubits, self.reads, self.readout = inputs, qubits, chosen, readout
        self.weight = nn.Parameter(weights.float())

    @property
    def outputs(self) -> int:
        """Numbers that come out."""
        return len(self.reads) if self.readout == "z" else 2**self.qubits

    def parameter_rows(self, inputs: Tensor, weight: Tensor) -> Tensor:
        """Return the circuit's parameters for each sample: its inputs, then the weights; ``(batch, inputs + weights)`` float64."""
        name = type(self).__name__
        if not isinstance(inputs, Tensor) or inputs.is_complex():
            given = str(inputs.dtype) if isinstance(inputs, Tensor) else type(inputs).__name__
            raise ValueError(f"The input of {name} must be a real tensor of shape (batch, {self.inputs}), but got {given}")
        if inputs.dim() != 2 or inputs.shape[1] != self.inputs:
            raise ValueError(f"The input of {name} must have shape (batch, {self.inputs}), but has {tuple(inputs.shape)}")
        for what, values in (("input", inputs), ("weights", weight)):
            if not bool(torch.isfinite(values.detach()).all()):
                raise ValueError(f"The {what} of {name} must be finite, but got NaN or infinity; check the data or the training")
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

    def remark(self, backend: TransmonBackend) -> str:
        """Return what a reader of the coverage should know of the layer on this chip; empty for nothing."""
        return ""

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
        A circuit of one's own instead, of as many qubits; its parameters are the inputs, each of which it takes, then the weights.
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
        for name, value in (("inputs", inputs), ("qubits", qubits), ("layers", layers)):
            _require_count(name, value)
        _require_seed(seed)
        built = layered_circuit(inputs, qubits, layers) if circuit is None else circuit
        _require_circuit(built, inputs, qubits)
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
        `simulator.compile` brings them in, on this chip or on one of the same layout, whose own gates then scale the pulses.
    inputs
        Numbers that a sample brings, angles in rad.
    layers
        Trained layers.
    reads, readout
        See `QuantumModule`.
    seed
        Of the numbers to start from.

    Notes
    -----
    Exponentials are series for the largest amplitude of a batch: what else is in it moves a sample's probabilities by 1e-8.

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
        if not isinstance(backend, TransmonBackend):
            raise ValueError(f"Argument `backend` must be a TransmonBackend, but got a {type(backend).__name__}; give the chip")
        for name, value in (("inputs", inputs), ("layers", layers)):
            _require_count(name, value)
        _require_seed(seed)
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
        """Return the same pulses on a chip, in proportion to its own calibrated ones.

        Raises
        ------
        ValueError
            Where the chip has other transmons or other cross-resonance gates than the one that the layer was made for.
        """
        made, chip = self.backend, backend.calibrated
        known, there = _layout(made), _layout(chip)
        if known != there:
            raise ValueError(
                f"Argument `backend` must be laid out as the chip that the pulses were made for, {known[0]} transmons and gates of "
                f"{known[1]}, but has {there[0]} and {there[1]}; make the PulseCircuit with this chip"
            )
        return TrainedPulses(chip, self.inputs, self.layers)

    def remark(self, backend: TransmonBackend) -> str:
        """Return that a chip scales the pulses by gates of its own, where these differ from those that the layer was made with."""
        made, chip = self.backend, backend.calibrated
        if (made.gates, made.sample_seconds) == (chip.gates, chip.sample_seconds):
            return ""
        return "amplitudes in proportion to this chip's gates, which are not those that the layer was made with"

    def extra_repr(self) -> str:
        """Return the line that ``print(model)`` shows."""
        return f"{self.inputs} inputs, {self.qubits} transmons, {self.layers} layers, {self.weight.numel()} numbers of pulses"


def _require_count(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"Argument `{name}` must be an integer of at least 1, but got {value!r}; a layer without {name} is none")


def _require_seed(seed: int) -> None:
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise ValueError(f"Argument `seed` must be an integer, but got {seed!r}; give a whole number")


def _distinct(reads: Sequence[int], qubits: int) -> tuple[int, ...]:
    """Return the qubits to read: some of them, each once."""
    chosen = tuple(reads) if isinstance(reads, Sequence) else (reads,)
    if not chosen or len(set(chosen)) < len(chosen) or not all(isinstance(q, int) and 0 <= q < qubits for q in chosen):
        raise ValueError(f"Argument `reads` must be a list of different qubits of 0 to {qubits - 1}, but got {reads!r}; name each once")
    return chosen


def _require_circuit(circuit: Circuit, inputs: int, qubits: int) -> None:
    """Raise ValueError where a circuit is of other qubits, or does not use every input."""
    if not isinstance(circuit, Circuit):
        raise ValueError(
            f"Argument `circuit` must be a Circuit, but got a {type(circuit).__name__}; build one by Circuit({qubits}).add(...)"
        )
    if circuit.qubits != qubits:
        raise ValueError(f"Argument `qubits` must be that of `circuit`, {circuit.qubits}, but got {qubits}; give the same")
    used = {index for gate in circuit.gates if gate.angle for index, factor in gate.angle.terms if factor}
    unused = [index for index in range(inputs) if index not in used]
    if unused:
        raise ValueError(
            f"Argument `circuit` must take every input as a parameter, 0 to {inputs - 1}, but takes none of {unused[:8]}; rotate by them, "
            "or lower `inputs`"
        )


def _layout(chip: TransmonBackend) -> tuple[int, tuple[tuple[int, int], ...]]:
    """Return how many transmons a chip has, and which pairs a calibrated gate."""
    pairs = () if chip.gates is None else chip.gates.cross_resonance
    return chip.count, tuple((one.control, one.target) for one in pairs)


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
