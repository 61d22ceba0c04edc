"""How good a gate is: average gate fidelity and leakage, from a propagator or with relaxation."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from devices.quantum.playing import play
from devices.quantum.schedule import Schedule

if TYPE_CHECKING:
    from devices.quantum.backend import TransmonBackend

GATES: dict[str, Tensor] = {
    "x": torch.tensor([[0, 1], [1, 0]], dtype=torch.complex128),
    "sx": 0.5 * torch.tensor([[1 + 1j, 1 - 1j], [1 - 1j, 1 + 1j]], dtype=torch.complex128),
    # Little-endian: the control is the lower digit.
    "zx": (
        torch.eye(4, dtype=torch.complex128)
        - 1j * torch.kron(torch.tensor([[0, 1], [1, 0]], dtype=torch.complex128), torch.diag(torch.tensor([1, -1], dtype=torch.complex128)))
    )
    / 2**0.5,
    # As qiskit has it: X on the control after exp(-i pi / 4 Z X).
    "ecr": torch.tensor([[0, 1, 0, 1j], [1, 0, -1j, 0], [0, 1j, 0, 1], [-1j, 0, 1, 0]], dtype=torch.complex128) / 2**0.5,
    "cx": torch.tensor([[1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 0], [0, 1, 0, 0]], dtype=torch.complex128),
}
"""What the native gates should be; of two transmons the first is the control."""


def computational_states(levels: int, transmons: Sequence[int]) -> list[int]:
    """Return the numbers of the states in which these transmons are 0 or 1 and all others 0; the first transmon is the lowest bit.

    Examples
    --------
    >>> computational_states(3, [0, 1])
    [0, 1, 3, 4]
    """
    return [sum(levels**q for bit, q in enumerate(transmons) if index >> bit & 1) for index in range(2 ** len(transmons))]


def average_gate_fidelity(block: Tensor, target: Tensor) -> tuple[float, float]:
    """Return the average gate fidelity and the leakage of a gate from the computational block of its propagator.

    Parameters
    ----------
    block, target
        ``(d, d)`` complex128; a global phase does not matter.

    Returns
    -------
    tuple
        ``(d (1 - L) + |tr(target^dagger block)|^2) / (d (d + 1))`` with the leakage ``L = 1 - tr(block^dagger block) / d``, and L.

    References
    ----------
    L. H. Pedersen, N. M. Moller, K. Molmer, Phys. Lett. A 367, 47 (2007); C. J. Wood, J. M. Gambetta, Phys. Rev. A 97, 032306 (2018).

    Examples
    --------
    >>> average_gate_fidelity(torch.eye(2, dtype=torch.complex128), GATES["x"])
    (0.3333333333333333, 0.0)
    """
    d = len(target)
    leakage = 1.0 - float((block.abs() ** 2).sum()) / d
    overlap = float((target.conj() * block).sum().abs() ** 2)
    return (d * (1.0 - leakage) + overlap) / (d * (d + 1)), leakage


def gate_fidelity(backend: "TransmonBackend", schedule: Schedule, transmons: Sequence[int], target: Tensor) -> tuple[float, float]:
    """Return average gate fidelity and leakage of a schedule on some transmons, all others in their ground states.

    With relaxation or dephasing the fidelity is that of the channel; see `average_gate_fidelity`.

    Examples
    --------
    >>> from devices import TransmonBackend
    >>> backend = TransmonBackend.preset("jakarta_like")
    >>> gate_fidelity(backend.ideal(), Schedule(), [0], torch.eye(2, dtype=torch.complex128))
    (1.0, 0.0)
    """
    states = computational_states(backend.levels, transmons)
    d = len(states)
    if not backend.is_open:
        return average_gate_fidelity(backend.unitary(schedule)[states][:, states], target)
    model = backend.model
    played = play(model, schedule)
    basis = torch.zeros(d * d, backend.dimension, backend.dimension, dtype=torch.complex128)
    for i in range(d):
        for j in range(d):
            basis[i * d + j, states[i], states[j]] = 1.0
    end = model.open_evolution(torch.from_numpy(played.samples)[None], played.channels, played.carriers, basis)
    blocks = end[:, states][:, :, states].reshape(d, d, d, d)
    kept = float(sum(blocks[i, i].diagonal().sum().real for i in range(d)))
    overlap = torch.einsum("ai,ijab,bj->", target.conj(), blocks, target).real
    process = float(overlap) / d**2
    leakage = 1.0 - kept / d
    return (d * process + 1.0 - leakage) / (d + 1), leakage


def zx_error(unitary: Tensor, levels: int, control: int, target: int, phases: Sequence[float]) -> float:
    """Return the infidelity of a propagator, followed by virtual Z by `phases` of control and target, to ``exp(-i pi / 4 Z X)``.

    Examples
    --------
    >>> round(zx_error(torch.eye(9, dtype=torch.complex128), 3, 0, 1, (0.0, 0.0)), 9)
    0.4
    """
    states = computational_states(levels, [control, target])
    turned = torch.from_numpy(np.exp(1j * np.array([0.0, phases[0], phases[1], phases[0] + phases[1]])))
    return 1.0 - average_gate_fidelity(turned[:, None] * unitary[states][:, states], GATES["zx"])[0]
