"""Layers as pulses: which samples each channel plays for given parameters, and the state that they make on a chip."""

import math
from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from devices.quantum import CrossResonance, Drag, GaussianSquare, TransmonBackend
from devices.quantum.playing import generate
from devices.quantum.schedule import Play, ShiftPhase
from devices.quantum.sequences import PulseBuilder
from devices.quantum.waveforms import flat_top_envelope
from simulator.quantum.circuits import Angle, Circuit, basis_angles


class PulseProgram(ABC):
    """Pulses of a fixed length whose samples depend on parameters.

    Parameters
    ----------
    backend
        A chip with calibrated gates.
    """

    def __init__(self, backend: TransmonBackend) -> None:
        self.backend = backend.calibrated

    @property
    @abstractmethod
    def channels(self) -> tuple[str, ...]:
        """Names of the channels that play."""

    @property
    @abstractmethod
    def duration(self) -> int:
        """Samples of the program."""

    @abstractmethod
    def stages(self, parameters: Tensor) -> list[Tensor]:
        """Return the samples one stage after the other: ``(batch, samples, channels)``, or with a batch of 1 where inputs do not matter."""

    def populations(self, parameters: Tensor, backend: TransmonBackend | None = None) -> Tensor:
        """Return the population of each dressed state after the program.

        Parameters
        ----------
        parameters
            ``(batch, parameters)`` float64.
        backend
            The chip as it is now (drifted, say); by default that of the program.

        Returns
        -------
        Tensor
            ``(batch, states)`` float64; gradients flow to the parameters.
        """
        chip = self.backend if backend is None else backend
        if not len(parameters):
            return parameters.new_zeros(0, chip.dimension) + parameters.sum(1, keepdim=True)  # a batch of none has a gradient of none
        model, channels = chip.model, self.channels
        carriers = model.steady_carriers(channels, self.duration)
        played = self.stages(parameters)
        if chip.generator is not None:
            # A low pass remembers: stages are filtered as the one signal that they are.
            joined = torch.cat([one.expand(len(parameters), -1, -1) for one in played], 1)
            played = [generate(chip.generator, joined, chip.sample_seconds)]
        if chip.is_open:
            density = torch.zeros(len(parameters), chip.dimension, chip.dimension, dtype=torch.complex128)
            density[:, 0, 0] = 1.0
            joined = played[0] if len(played) == 1 else torch.cat([one.expand(len(parameters), -1, -1) for one in played], 1)
            end = model.open_evolution(joined, channels, carriers, density)
            return end.diagonal(dim1=1, dim2=2).real
        ground = torch.zeros(len(parameters), chip.dimension, dtype=torch.complex128)
        ground[:, 0] = 1.0
        states, at = model.to_bare(ground), 0
        for samples in played:
            states = model.evolve(samples, channels, carriers[at : at + samples.shape[1]], states)
            at += samples.shape[1]
        return model.to_dressed(states, self.duration).abs() ** 2


class CircuitProgram(PulseProgram):
    """A circuit of gates as calibrated pulses: rotations about z turn the frames of the pulses after them.

    Parameters
    ----------
    circuit
        The circuit; qubit q lies on transmon q.
    backend
        A chip with calibrated gates and at least as many transmons.

    Raises
    ------
    DesignError
        Where the chip has no gate between two qubits that the circuit entangles.
    ValueError
        Where the chip has too few transmons.

    Examples
    --------
    >>> program = CircuitProgram(Circuit(2).add("rx", 0, angle=1.0), TransmonBackend.preset("jakarta_like"))
    >>> round(program.populations(torch.zeros(1, 0, dtype=torch.float64))[0, 1].item(), 2)  # sin^2 of half the angle
    0.23
    """

    def __init__(self, circuit: Circuit, backend: TransmonBackend) -> None:
        super().__init__(backend)
        if circuit.qubits > backend.count:
            raise ValueError(
                f"Argument `backend` must have {circuit.qubits} transmons for the circuit, but has {backend.count}; take a larger one"
            )
        builder = PulseBuilder(self.backend, name="circuit")
        turns = _play_gates(circuit, builder)
        plays = [one for one in builder.instructions if isinstance(one, Play)]
        self._channels = tuple(name for name in self.backend.channels if name in {one.channel for one in plays})
        self._duration = max(builder.clock)
        column = {name: c for c, name in enumerate(self._channels)}
        envelope = np.zeros((self._duration, len(self._channels)), np.complex128)
        which = np.full((self._duration, len(self._channels)), len(plays))
        offsets, factors = np.zeros(len(plays) + 1), np.zeros((len(plays) + 1, circuit.parameters))
        phase = {name: 0.0 for name in self.backend.channels}
        slope = {name: np.zeros(circuit.parameters) for name in self.backend.channels}
        number = 0
        for place, one in enumerate(builder.instructions):
            if isinstance(one, ShiftPhase):
                phase[one.channel] += one.phase_rad
                for index, factor in turns.get(place, ()):
                    slope[one.channel][index] += factor
            elif isinstance(one, Play):
                envelope[one.start : one.stop, column[one.channel]] = one.waveform.samples()
                which[one.start : one.stop, column[one.channel]] = number
                offsets[number], factors[number] = phase[one.channel], slope[one.channel]
                number += 1
        self._envelope, self._which = torch.from_numpy(envelope), torch.from_numpy(which)
        self._offsets, self._factors = torch.from_numpy(offsets), torch.from_numpy(factors)

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels that play."""
        return self._channels

    @property
    def duration(self) -> int:
        """Samples of the program."""
        return self._duration

    def stages(self, parameters: Tensor) -> list[Tensor]:
        """Return the samples as one stage, ``(batch or 1, samples, channels)``: the same envelopes in frames that the parameters turn."""
        used = self._factors.shape[1]
        if not bool(self._factors.any()):
            return [(self._envelope * torch.exp(1j * self._offsets)[self._which])[None]]
        phases = parameters[:, :used] @ self._factors.T + self._offsets
        turned = torch.complex(torch.cos(phases), torch.sin(phases))
        return [self._envelope * turned[:, self._which]]


def _play_gates(circuit: Circuit, builder: PulseBuilder) -> dict[int, tuple[tuple[int, float], ...]]:
    """Play a circuit with its parameters at zero; returns what each parameter adds to a shift of phase, by the instruction's place."""
    turns: dict[int, tuple[tuple[int, float], ...]] = {}

    def rz(qubit: int, angle: Angle) -> None:
        first = len(builder.instructions)
        builder.rz(qubit, angle.offset)
        if angle.terms:
            turns.update(dict.fromkeys(range(first, len(builder.instructions)), angle.terms))

    fixed_turns = {"z": math.pi, "s": math.pi / 2, "sdg": -math.pi / 2}
    for gate in circuit.gates:
        q = gate.qubits[0]
        if gate.name == "rz" and gate.angle is not None:
            rz(q, gate.angle)
        elif gate.angle is not None:
            for name, angle in basis_angles(gate.name, gate.angle):
                if name == "rz":
                    rz(q, angle)
                else:
                    builder.sx(q)
        elif gate.name in fixed_turns:
            builder.rz(q, fixed_turns[gate.name])
        elif gate.name == "sx":
            builder.sx(q)
        elif gate.name == "x":
            builder.x(q)
        elif gate.name == "y":
            builder.rz(q, math.pi).x(q)
        elif gate.name == "h":
            builder.rz(q, math.pi / 2).sx(q).rz(q, math.pi / 2)
        elif gate.name in ("cx", "ecr"):
            getattr(builder, gate.name)(*gate.qubits)
        else:
            target = gate.qubits[1]
            builder.rz(target, math.pi / 2).sx(target).rz(target, math.pi / 2)
            builder.cx(*gate.qubits)
            builder.rz(target, math.pi / 2).sx(target).rz(target, math.pi / 2)
    return turns


AMPLITUDE_PER_WEIGHT = 0.5
"""How far a weight of 1 moves a pulse from the calibrated one, of its reach."""


class TrainedPulses(PulseProgram):
    """Pulses with trained amplitudes, phases and widths behind pulses that inputs turn the transmons by.

    For each layer the weights are, for every transmon: amplitude and phase; then, for every calibrated cross-resonance pair: amplitude,
    phase and width.

    Parameters
    ----------
    backend
        A chip with calibrated gates.
    inputs
        Numbers that a sample brings.
    layers
        Trained layers.

    Examples
    --------
    >>> TrainedPulses(TransmonBackend.preset("jakarta_like"), inputs=4, layers=2).weights
    14
    """

    def __init__(self, backend: TransmonBackend, inputs: int, layers: int) -> None:
        super().__init__(backend)
        gates = self.backend.gates
        assert gates is not None
        self.inputs, self.layers = inputs, layers
        self.half_turns = [one for one in gates.x if isinstance(one, Drag)]
        self.pairs: tuple[CrossResonance, ...] = gates.cross_resonance
        self.length = max((one.duration_samples for one in self.half_turns), default=0)
        self.crossings = [one.drive for one in self.pairs if isinstance(one.drive, GaussianSquare)]
        if len(self.half_turns) != self.backend.count or len(self.crossings) != len(self.pairs):
            raise ValueError("Argument `backend` must have gates of DRAG and GaussianSquare pulses, but has others; calibrate it")

    @property
    def weights(self) -> int:
        """Trained numbers."""
        return self.layers * (2 * self.backend.count + 3 * len(self.pairs))

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels that play."""
        crossed = [self.backend.control_channel(one.control, one.target) for one in self.pairs]
        return (*(f"d{q}" for q in range(self.backend.count)), *crossed)

    @property
    def duration(self) -> int:
        """Samples of the program."""
        encoding = -(-self.inputs // self.backend.count) * self.length
        return encoding + self.layers * (self.length + sum(one.duration_samples for one in self.crossings))

    def stages(self, parameters: Tensor) -> list[Tensor]:
        """Return the pulses of the inputs, and those of the weights, which all samples share."""
        count = self.backend.count
        shapes = [one.replace(amplitude=1.0, beta_samples=0.0).envelope() for one in self.half_turns]
        rows = []
        for first in range(0, self.inputs, count):
            stage = torch.zeros(len(parameters), self.length, len(self.channels), dtype=torch.complex128)
            for q in range(min(count, self.inputs - first)):
                pulse = self.half_turns[q]
                envelope = pulse.replace(amplitude=1.0).envelope() if abs(pulse.beta_samples) < pulse.sigma_samples else shapes[q]
                turn = torch.remainder(parameters[:, first + q] + math.pi, 2 * math.pi) - math.pi
                axis = 1.0 if first // count % 2 == 0 else -1j
                stage[:, : pulse.duration_samples, q] = (pulse.amplitude / math.pi) * turn[:, None] * (axis * envelope)
            rows.append(stage)
        weight = parameters[:1, self.inputs :].reshape(self.layers, -1)
        trained = []
        for layer in range(self.layers):
            stage = torch.zeros(1, self.length, len(self.channels), dtype=torch.complex128)
            for q, pulse in enumerate(self.half_turns):
                amplitude = torch.tanh(AMPLITUDE_PER_WEIGHT * weight[layer, 2 * q]) * min(1.0, 2 * pulse.amplitude)
                stage[0, : pulse.duration_samples, q] = _turned(
                    pulse.replace(amplitude=1.0).envelope(), amplitude, weight[layer, 2 * q + 1]
                )
            trained.append(stage)
            for k, shape in enumerate(self.crossings):
                amplitude, phase, width = weight[layer, 2 * count + 3 * k : 2 * count + 3 * k + 3]
                edges = shape.duration_samples - shape.width_samples
                top = (shape.duration_samples - 0.25 * edges) * torch.sigmoid(width + _logit(shape.width_samples / shape.duration_samples))
                envelope = flat_top_envelope(shape.duration_samples, shape.sigma_samples, top[None])[0]
                stage = torch.zeros(1, shape.duration_samples, len(self.channels), dtype=torch.complex128)
                stage[0, :, count + k] = _turned(envelope, torch.tanh(AMPLITUDE_PER_WEIGHT * amplitude), phase)
                trained.append(stage)
        return [*([torch.cat(rows, 1)] if rows else []), *([torch.cat(trained, 1)] if trained else [])]


def _turned(envelope: Tensor, amplitude: Tensor, phase: Tensor) -> Tensor:
    return amplitude * torch.complex(torch.cos(phase), torch.sin(phase)) * envelope


def _logit(share: float) -> float:
    kept = min(max(share, 0.01), 0.99)
    return math.log(kept / (1 - kept))
