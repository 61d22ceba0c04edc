"""Exact states of circuits: what consecutive gates of one qubit come to, for all qubits at once, then one pass over the state for each."""

import os
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from simulator.quantum.circuits import Circuit

BYTES = 16
"""Of an amplitude."""
_S = 2**-0.5
MATRICES: dict[str, tuple[tuple[tuple[complex, complex], tuple[complex, complex]], ...]] = {
    # A gate is the first matrix times the cosine of half its angle plus the second times the sine; gates without an angle have one of 0.
    "rx": (((1, 0), (0, 1)), ((0, -1j), (-1j, 0))),
    "ry": (((1, 0), (0, 1)), ((0, -1), (1, 0))),
    "rz": (((1, 0), (0, 1)), ((-1j, 0), (0, 1j))),
    "x": (((0, 1), (1, 0)),),
    "y": (((0, -1j), (1j, 0)),),
    "z": (((1, 0), (0, -1)),),
    "h": (((_S, _S), (_S, -_S)),),
    "s": (((1, 0), (0, 1j)),),
    "sdg": (((1, 0), (0, -1j)),),
    "sx": (((0.5 + 0.5j, 0.5 - 0.5j), (0.5 - 0.5j, 0.5 + 0.5j)),),
}
"""Gates of one qubit, little-endian."""


@dataclass(frozen=True, eq=False)
class Plan:
    """A circuit made ready: its gates of one qubit as tables, and the order in which the state is passed over.

    Attributes
    ----------
    cosines, sines
        Matrices of each gate of one qubit, ``(gates, 2, 2)`` complex128.
    offsets, factors
        Of their angles, ``(gates,)`` and ``(gates, parameters)`` float64.
    runs
        Gates of one qubit without another gate between them, by how many there are: ``(runs, length)`` each.
    steps
        Name, qubits, and for ``run`` which one: number in `runs` and row there.
    """

    cosines: Tensor
    sines: Tensor
    offsets: Tensor
    factors: Tensor
    runs: tuple[Tensor, ...]
    steps: tuple[tuple[str, tuple[int, ...], tuple[int, int]], ...]

    def products(self, parameters: Tensor) -> list[Tensor]:
        """Return what each run comes to, ``(batch or 1, runs, 2, 2)`` for each length."""
        device = parameters.device
        half = 0.5 * self.offsets[None].to(device)
        if self.factors.shape[1]:
            half = half + 0.5 * parameters[:, : self.factors.shape[1]] @ self.factors.T.to(device)
        cosines, sines = torch.cos(half)[..., None, None], torch.sin(half)[..., None, None]
        matrices = cosines * self.cosines.to(device) + sines * self.sines.to(device)
        found = []
        for run in self.runs:
            total = matrices[:, run[:, 0]]
            for place in range(1, run.shape[1]):
                total = matrices[:, run[:, place]] @ total
            found.append(total)
        return found


@lru_cache(maxsize=64)
def plan_of(circuit: "Circuit") -> Plan:
    """Return the plan of a circuit; equal circuits share one.

    Examples
    --------
    >>> from simulator.quantum.circuits import Circuit
    >>> [step[0] for step in plan_of(Circuit(2).add("h", 0).add("s", 0).add("cx", 0, 1)).steps]
    ['run', 'cx']
    """
    singles = [gate for gate in circuit.gates if gate.name in MATRICES]
    tables = [MATRICES[gate.name] for gate in singles]
    offsets = torch.zeros(len(singles), dtype=torch.float64)
    factors = torch.zeros(len(singles), circuit.parameters, dtype=torch.float64)
    open_runs: dict[int, list[int]] = {}
    by_length: dict[int, list[list[int]]] = {}
    steps: list[tuple[str, tuple[int, ...], tuple[int, int]]] = []

    def close(qubit: int) -> None:
        run = open_runs.pop(qubit, None)
        if run is not None:
            listed = by_length.setdefault(len(run), [])
            listed.append(run)
            steps.append(("run", (qubit,), (len(run), len(listed) - 1)))

    number = 0
    for gate in circuit.gates:
        if gate.name not in MATRICES:
            for qubit in gate.qubits:
                close(qubit)
            steps.append((gate.name, gate.qubits, (0, 0)))
            continue
        if gate.angle is not None:
            offsets[number] = gate.angle.offset
            for index, factor in gate.angle.terms:
                factors[number, index] += factor
        open_runs.setdefault(gate.qubits[0], []).append(number)
        number += 1
    for qubit in sorted(open_runs):
        close(qubit)
    lengths = sorted(by_length)
    return Plan(
        torch.tensor([table[0] for table in tables], dtype=torch.complex128).reshape(-1, 2, 2),
        torch.tensor([table[1] if len(table) > 1 else ((0, 0), (0, 0)) for table in tables], dtype=torch.complex128).reshape(-1, 2, 2),
        offsets,
        factors,
        tuple(torch.tensor(by_length[length]) for length in lengths),
        tuple((name, qubits, (lengths.index(where[0]), where[1]) if name == "run" else where) for name, qubits, where in steps),
    )


def circuit_state(circuit: "Circuit", parameters: Tensor) -> Tensor:
    """Return the state that a circuit makes of all zeros: ``(batch, 2^qubits)`` complex128, for parameters ``(batch, parameters)`` float64.

    Controlled nots only rename the amplitudes; they are gathered and done at once.

    Examples
    --------
    >>> from simulator.quantum.circuits import Circuit
    >>> circuit_state(Circuit(1).rotate("rx", 0, 0), torch.tensor([[torch.pi]], dtype=torch.float64)).abs()[0].round(decimals=9).tolist()
    [0.0, 1.0]
    """
    if parameters.dim() != 2 or parameters.shape[1] < circuit.parameters or parameters.dtype != torch.float64:
        raise ValueError(
            f"Argument `parameters` must be float64 of shape (batch, {circuit.parameters} or more), but got {parameters.dtype} of shape "
            f"{tuple(parameters.shape)}; give a row for each sample"
        )
    needed, there = BYTES * len(parameters) * 2**circuit.qubits, os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        raise ValueError(
            f"Argument `circuit` must have a state that fits into memory, but one of {circuit.qubits} qubits for {len(parameters)} samples "
            f"needs {needed:.3g} bytes of the {there:.3g} that there are; take fewer of either"
        )
    plan = plan_of(circuit)
    products = plan.products(parameters)
    state = torch.zeros(len(parameters), 2**circuit.qubits, dtype=torch.complex128, device=parameters.device)
    state[:, 0] = 1.0
    order: Tensor | None = None
    index = torch.arange(2**circuit.qubits, device=parameters.device)
    for name, qubits, (group, row) in plan.steps:
        if name == "cx":
            control, target = qubits
            step = torch.where(index >> control & 1 == 1, index ^ (1 << target), index)
            order = step if order is None else order[step]
            continue
        state, order = state if order is None else state[:, order], None
        if name == "run":
            state = _apply(state, products[group][:, row], qubits[0])
        elif name == "ecr":
            control, target = qubits
            signs = 1.0 - 2.0 * (index >> control & 1)
            state, order = (state - 1j * signs * state[:, index ^ (1 << target)]) * 2**-0.5, index ^ (1 << control)
        else:
            both = (index >> qubits[0] & index >> qubits[1] & 1) == 1
            state = torch.where(both, -state, state)
    return state if order is None else state[:, order]


def _apply(state: Tensor, matrix: Tensor, qubit: int) -> Tensor:
    batch, size = state.shape
    parts = state.reshape(batch, size >> (qubit + 1), 2, 1 << qubit)
    m = matrix[:, :, :, None, None]
    zero, one = parts[:, :, 0], parts[:, :, 1]
    rows = [m[:, i, 0] * zero + m[:, i, 1] * one for i in (0, 1)]
    return torch.stack(rows, 2).reshape(batch, size)
