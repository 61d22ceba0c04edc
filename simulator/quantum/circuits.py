"""Circuits of gates whose angles are linear in a vector of parameters, and their exact simulation without hardware."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from simulator.quantum.states import MATRICES, circuit_state

ROTATIONS: Final = ("rx", "ry", "rz")
FIXED: Final = tuple(name for name in MATRICES if name not in ROTATIONS)
"""Gates of one qubit without an angle."""
PAIRS: Final = ("cx", "cz", "ecr")


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

    def plus(self, offset: float) -> "Angle":
        """Return the angle and a constant."""
        return Angle(self.offset + offset, self.terms)


@dataclass(frozen=True)
class Gate:
    """One gate.

    Attributes
    ----------
    name
        ``rx``, ``ry``, ``rz``, a gate without an angle, or ``cx``, ``cz``, ``ecr`` (X on the control after ``exp(-i pi / 4 Z X)``).
    qubits
        Where; of ``cx`` and ``ecr`` the control first.
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
        if not isinstance(self.qubits, int) or isinstance(self.qubits, bool) or self.qubits < 1:
            raise ValueError(f"Argument `qubits` must be an integer of at least 1, but got {self.qubits!r}; say how many there are")
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
            if gate.angle is not None:
                _check_angle(gate.name, gate.angle)

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
        return circuit_state(self, parameters)


def _check_angle(name: str, angle: Angle) -> None:
    """Raise ValueError where an angle is no finite number, or takes a parameter that cannot be."""
    indices = [index for index, _ in angle.terms]
    if not all(isinstance(index, int) and not isinstance(index, bool) and index >= 0 for index in indices):
        raise ValueError(f"Argument `gates`: {name} must take parameters by their number from 0 on, but takes {indices}; count from 0")
    if not all(math.isfinite(number) for number in (angle.offset, *(factor for _, factor in angle.terms))):
        raise ValueError(f"Argument `gates`: {name} must have a finite angle, but got {angle}; check the numbers")


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
