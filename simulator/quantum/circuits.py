"""Circuits of gates whose angles are linear in a vector of parameters, and their exact simulation without hardware."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

ROTATIONS: Final = ("rx", "ry", "rz")
FIXED: Final = {
    "x": ((0, 1), (1, 0)),
    "y": ((0, -1j), (1j, 0)),
    "z": ((1, 0), (0, -1)),
    "h": ((2**-0.5, 2**-0.5), (2**-0.5, -(2**-0.5))),
    "s": ((1, 0), (0, 1j)),
    "sdg": ((1, 0), (0, -1j)),
    "sx": ((0.5 + 0.5j, 0.5 - 0.5j), (0.5 - 0.5j, 0.5 + 0.5j)),
}
"""Gates of one qubit without an angle."""
PAIRS: Final = ("cx", "cz")


@dataclass(frozen=True)
class Angle:
    """An angle that is linear in the parameters: ``offset + sum factor * parameter[index]``.

    Attributes
    ----------
    offset
        Its value where all parameters are zero, rad.
    terms
        Pairs of a parameter's index and its factor.
    """

    offset: float = 0.0
    terms: tuple[tuple[int, float], ...] = ()

    def of(self, parameters: Tensor) -> Tensor:
        """Return the angle for parameters ``(batch, parameters)``: ``(batch,)``, or ``(1,)`` where no parameter matters."""
        if not self.terms:
            return torch.full((1,), self.offset, dtype=parameters.dtype, device=parameters.device)
        total = torch.full((), self.offset, dtype=parameters.dtype, device=parameters.device)
        for index, factor in self.terms:
            total = total + factor * parameters[:, index]
        return total

    def plus(self, offset: float) -> "Angle":
        """Return the angle and a constant."""
        return Angle(self.offset + offset, self.terms)


@dataclass(frozen=True)
class Gate:
    """One gate.

    Attributes
    ----------
    name
        ``rx``, ``ry``, ``rz``, a gate without an angle, or ``cx``, ``cz``.
    qubits
        Where; of ``cx`` the control first.
    angle
        Of a rotation; None otherwise.
    """

    name: str
    qubits: tuple[int, ...]
    angle: Angle | None = None


@dataclass(frozen=True)
class Circuit:
    """Gates on qubits, in order. Immutable: `add` returns another circuit.

    Attributes
    ----------
    qubits
        How many.
    gates
        In the order in which they act.

    Examples
    --------
    >>> bell = Circuit(2).add("h", 0).add("cx", 0, 1)
    >>> bell.state(torch.zeros(1, 0, dtype=torch.float64)).abs().square()[0].tolist()
    [0.5000..., 0.0, 0.0, 0.5000...]
    """

    qubits: int
    gates: tuple[Gate, ...] = ()

    def __post_init__(self) -> None:
        for gate in self.gates:
            wanted = 2 if gate.name in PAIRS else 1
            known = gate.name in PAIRS or gate.name in FIXED or gate.name in ROTATIONS
            if not known or (gate.angle is not None) != (gate.name in ROTATIONS):
                raise ValueError(
                    f"Argument `gates` must hold {', '.join((*ROTATIONS, *FIXED, *PAIRS))}, rotations with an angle, but got {gate.name!r} "
                    f"{'with' if gate.angle else 'without'} one; write it in these gates"
                )
            if len(gate.qubits) != wanted or len(set(gate.qubits)) != wanted or not all(0 <= q < self.qubits for q in gate.qubits):
                raise ValueError(f"Argument `gates`: {gate.name} must act on {wanted} of the {self.qubits} qubits, but got {gate.qubits}")

    @property
    def parameters(self) -> int:
        """Length of the vector of parameters that the angles need."""
        return 1 + max((index for gate in self.gates if gate.angle for index, _ in gate.angle.terms), default=-1)

    def add(self, name: str, *qubits: int, angle: Angle | float | None = None) -> "Circuit":
        """Return the circuit with one more gate."""
        given = Angle(float(angle)) if isinstance(angle, int | float) else angle
        return Circuit(self.qubits, (*self.gates, Gate(name, qubits, given)))

    def rotate(self, name: str, qubit: int, parameter: int, factor: float = 1.0, offset: float = 0.0) -> "Circuit":
        """Return the circuit with a rotation by ``offset + factor * parameter``."""
        return self.add(name, qubit, angle=Angle(offset, ((parameter, factor),)))

    def state(self, parameters: Tensor) -> Tensor:
        """Return the state that the circuit makes of all zeros.

        Parameters
        ----------
        parameters
            ``(batch, parameters)`` float64.

        Returns
        -------
        Tensor
            ``(batch, 2^qubits)`` complex128, qubit 0 the lowest bit.
        """
        state = torch.zeros(len(parameters), 2**self.qubits, dtype=torch.complex128, device=parameters.device)
        state[:, 0] = 1.0
        pending: dict[int, Tensor] = {}
        order: Tensor | None = None
        index = torch.arange(2**self.qubits, device=parameters.device)
        for gate in self.gates:
            if gate.name == "cx":
                for q in gate.qubits:
                    if q in pending:
                        state, order = _shuffle(state, order), None
                        state = _apply(state, pending.pop(q), q)
                control, target = gate.qubits
                step = torch.where(index >> control & 1 == 1, index ^ (1 << target), index)
                order = step if order is None else order[step]
            elif gate.name == "cz":
                state, order = _shuffle(state, order), None
                for q in gate.qubits:
                    if q in pending:
                        state = _apply(state, pending.pop(q), q)
                both = (index >> gate.qubits[0] & index >> gate.qubits[1] & 1) == 1
                state = torch.where(both, -state, state)
            else:
                q = gate.qubits[0]
                matrix = gate_matrix(gate, parameters)
                pending[q] = matrix @ pending[q] if q in pending else matrix
        state = _shuffle(state, order)
        for q, matrix in pending.items():
            state = _apply(state, matrix, q)
        return state


def gate_matrix(gate: Gate, parameters: Tensor) -> Tensor:
    """Return the matrix of a gate of one qubit: ``(batch or 1, 2, 2)`` complex128.

    Examples
    --------
    >>> gate_matrix(Gate("x", (0,)), torch.zeros(1, 0)).real.tolist()
    [[[0.0, 1.0], [1.0, 0.0]]]
    """
    if gate.angle is None:
        return torch.tensor(FIXED[gate.name], dtype=torch.complex128, device=parameters.device)[None]
    half = gate.angle.of(parameters) / 2
    cosine, sine = torch.cos(half), torch.sin(half)
    zero = torch.zeros_like(half)
    if gate.name == "rx":
        parts = [[(cosine, zero), (zero, -sine)], [(zero, -sine), (cosine, zero)]]
    elif gate.name == "ry":
        parts = [[(cosine, zero), (-sine, zero)], [(sine, zero), (cosine, zero)]]
    else:
        parts = [[(cosine, -sine), (zero, zero)], [(zero, zero), (cosine, sine)]]
    return torch.stack([torch.stack([torch.complex(*part) for part in row], -1) for row in parts], -2)


def _shuffle(state: Tensor, order: Tensor | None) -> Tensor:
    return state if order is None else state[:, order]


def _apply(state: Tensor, matrix: Tensor, qubit: int) -> Tensor:
    batch, size = state.shape
    parts = state.reshape(batch, size >> (qubit + 1), 2, 1 << qubit)
    m = matrix[:, :, :, None, None]
    zero, one = parts[:, :, 0], parts[:, :, 1]
    rows = [m[:, i, 0] * zero + m[:, i, 1] * one for i in (0, 1)]
    return torch.stack(rows, 2).reshape(batch, size)


def z_expectations(probabilities: Tensor, qubits: Sequence[int], count: int) -> Tensor:
    """Return the expectation of Z of some qubits from the probabilities of bit strings ``(batch, 2^count)``.

    Examples
    --------
    >>> z_expectations(torch.tensor([[0.0, 1.0, 0.0, 0.0]]), [0, 1], 2)
    tensor([[-1.,  1.]])
    """
    index = torch.arange(2**count, device=probabilities.device)
    signs = torch.stack([1.0 - 2.0 * (index >> q & 1) for q in qubits], 1).to(probabilities.dtype)
    return probabilities @ signs


def basis_angles(name: str, angle: Angle) -> tuple[tuple[str, Angle], ...]:
    """Return a rotation about x or y as rotations about z around two quarter turns, in the order in which they act.

    Examples
    --------
    >>> [name for name, _ in basis_angles("rx", Angle(0.3))]
    ['rz', 'sx', 'rz', 'sx', 'rz']
    """
    first, last = (math.pi / 2, math.pi / 2) if name == "rx" else (0.0, math.pi)
    none = Angle()
    return (("rz", Angle(first)), ("sx", none), ("rz", angle.plus(math.pi)), ("sx", none), ("rz", Angle(last)))
