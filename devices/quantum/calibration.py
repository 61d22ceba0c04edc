"""All calibrations of a chip in their order, and how good the gates are that come out."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pandas as pd
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from devices.design import DesignError
from devices.quantum.confusion import readout_matrix
from devices.quantum.cross_resonance import calibrate_cross_resonance
from devices.quantum.drag import drag_scan
from devices.quantum.experiment import Bench, Experiment
from devices.quantum.fidelity import GATES, gate_fidelity
from devices.quantum.gates import GateSet
from devices.quantum.rabi import fine_amplitude, rabi_scan
from devices.quantum.ramsey import ramsey_fringes
from devices.quantum.sequences import PulseBuilder
from devices.quantum.waveforms import Drag, GaussianSquare

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from devices.quantum.backend import TransmonBackend

SINGLE = Drag(duration_samples=160, sigma_samples=40.0, beta_samples=0.0, amplitude=0.1)
"""Shape of the pulses of one transmon: that of ibmq_jakarta's X."""
CROSS = GaussianSquare(duration_samples=368, sigma_samples=64.0, width_samples=112.0, amplitude=0.5)
"""Shape of one half of the echo: that of ibmq_jakarta's CX of qubits 0 and 1."""
LARGEST_UNASKED = 243
"""States of the largest chip that is calibrated where its gates are needed; a larger one waits for a call of `calibrate`."""
ROUNDS = 3


@dataclass(frozen=True)
class CalibrationReport:
    """What a calibration found.

    Attributes
    ----------
    backend
        The chip with its calibrated gates.
    experiments
        In the order in which they ran; each has `parameters` and `figure()`.
    fidelities
        A row per gate: ``gate``, ``transmons``, ``duration_seconds``, ``fidelity`` and ``leakage`` without relaxation, and
        ``fidelity_with_relaxation``.
    """

    backend: "TransmonBackend"
    experiments: tuple[Experiment, ...]
    fidelities: pd.DataFrame

    @property
    def gates(self) -> GateSet:
        """The calibrated gates."""
        assert self.backend.gates is not None
        return self.backend.gates

    def figures(self) -> dict[str, "Figure"]:
        """Return the figure of the last run of each experiment, by name."""
        return {f"{one.name} {'-'.join(map(str, one.transmons))}": one.figure() for one in self.experiments}

    def __str__(self) -> str:
        return self.fidelities.to_string(index=False)


def calibrate(
    backend: "TransmonBackend",
    *,
    shots: int | None = None,
    seed: int = 0,
    single: Drag = SINGLE,
    cross: GaussianSquare = CROSS,
    progress: bool | None = None,
) -> CalibrationReport:
    """Calibrate frequency, pulses and cross-resonance gates of a chip by experiments on it, then its readout.

    For each transmon: Rabi, Ramsey, DRAG, and repeated pulses, in rounds; for each coupling the echoed cross-resonance pulse with the
    higher frequency as control, with its rotary.

    Parameters
    ----------
    backend
        The chip; gates that it has are calibrated anew.
    shots
        Of each point; None for exact probabilities without relaxation and errors of readout.
    seed
        Of the shots.
    single, cross
        Shapes of the pulses to start from.
    progress
        Show a progress bar; by default on a terminal.

    Returns
    -------
    CalibrationReport
        ``report.backend`` is the chip with its gates.

    Raises
    ------
    DesignError
        Where a fit fails or a gate cannot be made: transmons that are hardly coupled, a drive that is too weak.

    Warns
    -----
    UserWarning
        Of transmons whose worst gate has an average fidelity below 0.99 without relaxation.

    Examples
    --------
    >>> from devices import TransmonBackend
    >>> pair = TransmonBackend.preset("jakarta_like")
    >>> one = pair.replace(transmons=pair.transmons[:1], couplings=(), gates=None)
    >>> report = calibrate(one)
    >>> bool((report.fidelities["fidelity"] > 0.99999).all())
    True
    """
    if shots is not None and (not isinstance(shots, int) or isinstance(shots, bool) or shots < 1):
        raise DesignError(f"TransmonBackend: `shots` must be None or an integer of at least 1, but got {shots!r}; ask for more")
    if not isinstance(single, Drag) or not isinstance(cross, GaussianSquare):
        raise DesignError(
            f"TransmonBackend: `single` and `cross` must be a Drag and a GaussianSquare, but got a {type(single).__name__} and a "
            f"{type(cross).__name__}; give shapes of these kinds"
        )
    area = float(single.replace(amplitude=1.0, beta_samples=0.0).samples().real.sum()) * backend.sample_seconds
    for q, transmon in enumerate(backend.transmons):
        if 2 * transmon.drive_hertz * area <= 1:
            raise DesignError(
                f"TransmonBackend: `drive_hertz` of transmon {q} must be above {0.5 / area:.4g} for a half turn within "
                f"{single.duration_samples} samples, but is {transmon.drive_hertz:g}; raise it, or give a longer `single`"
            )
        if backend.levels > 2 and not transmon.anharmonicity_hertz:
            raise DesignError(
                f"TransmonBackend: `anharmonicity_hertz` of transmon {q} must not be 0 to calibrate it: no pulse spares level 2"
            )
    for coupling in backend.couplings:
        a, b = coupling.transmons
        apart = abs(backend.transmons[a].frequency_hertz - backend.transmons[b].frequency_hertz)
        if apart <= 2 * abs(coupling.exchange_hertz):
            raise DesignError(
                f"TransmonBackend: `frequency_hertz` of transmons {a} and {b} must differ by more than twice their exchange to calibrate "
                f"them, but differ by {apart:g} with {coupling.exchange_hertz:g}; detune one"
            )
    steps = backend.count + len(backend.couplings) + 1
    found: list[Experiment] = []
    with _progress(steps, progress) as advance:
        pulses: list[tuple[float, Drag, Drag]] = []
        for q in range(backend.count):
            with _naming(f"transmon {q}"):
                pulses.append(_calibrate_single(backend, q, single, shots, seed, found))
            advance(f"transmon {q}")
        gates = GateSet(
            frequencies_hertz=tuple(one[0] for one in pulses), x=tuple(one[1] for one in pulses), sx=tuple(one[2] for one in pulses)
        )
        crossed = []
        for coupling in backend.couplings:
            chip = backend.replace(gates=gates)
            control, target = sorted(coupling.transmons, key=lambda q: -gates.frequencies_hertz[q])
            with _naming(f"the pair ({control}, {target})"):
                one, ran = calibrate_cross_resonance(Bench(chip.closed()), gates, control, target, cross)
            crossed.append(one)
            found += ran
            advance(f"pair {control}, {target}")
        gates = gates.replace(cross_resonance=tuple(crossed))
        chip = backend.replace(gates=gates)
        if 2**chip.count <= LARGEST_READOUT:
            found.append(readout_matrix(Bench(chip, shots, seed), PulseBuilder(chip)))
        advance("readout")
    fidelities = gate_fidelities(chip)
    worst = fidelities.loc[fidelities.groupby("transmons")["fidelity"].idxmin()]
    for gate in worst[worst["fidelity"] < POOR].itertuples():
        warnings.warn(
            f"TransmonBackend: gate `{gate.gate}` of transmons {gate.transmons} came out with an average fidelity of {gate.fidelity:.3f} "
            f"without relaxation (leakage {gate.leakage:.2g}): shapes, couplings or frequencies do not suit it; see `report.experiments`",
            stacklevel=2,
        )
    return CalibrationReport(chip, tuple(found), fidelities)


POOR: Final = 0.99
"""Average gate fidelity without relaxation below which a calibrated gate is pointed out: a choice of ours, no published bound."""

LARGEST_READOUT = 32
"""Bit strings up to which every one is prepared."""


def _calibrate_single(
    backend: "TransmonBackend", q: int, shape: Drag, shots: int | None, seed: int, found: list[Experiment]
) -> tuple[float, Drag, Drag]:
    """Calibrate one transmon in rounds; returns its frequency, half turn and quarter turn."""
    chosen = [one.frequency_hertz for one in backend.transmons]
    frequency = chosen[q]

    def bench() -> tuple[Bench, "TransmonBackend"]:
        frequencies = tuple(frequency if k == q else one for k, one in enumerate(chosen))
        chip = backend.replace(gates=GateSet(frequencies_hertz=frequencies))
        return Bench(chip, shots, seed), chip

    def builder(chip: "TransmonBackend", half: Drag, quarter: Drag) -> PulseBuilder:
        gates = GateSet(
            frequencies_hertz=chip.frame_hertz,
            x=tuple(half for _ in range(chip.count)),
            sx=tuple(quarter for _ in range(chip.count)),
        )
        return PulseBuilder(chip, gates)

    scan = rabi_scan(bench()[0], q, shape)
    found.append(scan)
    half = shape.replace(amplitude=scan.parameters["pi_amplitude"])
    quarter = half.replace(amplitude=half.amplitude / 2)
    for turn in range(ROUNDS):
        here, chip = bench()
        turned = ramsey_fringes(here, q, builder(chip, half, quarter), longest_seconds=2e-6 if turn else 1e-6)
        frequency += turned.parameters["detuning_hertz"]
        here, chip = bench()
        shaped = drag_scan(here, q, half)
        half = half.replace(beta_samples=shaped.parameters["beta_samples"])
        quarter = quarter.replace(beta_samples=shaped.parameters["beta_samples"])
        fine = fine_amplitude(here, q, builder(chip, half, quarter), True)
        quarter = quarter.replace(amplitude=quarter.amplitude / (1 + 2 * fine.parameters["error_rad"] / np.pi))
        whole = fine_amplitude(here, q, builder(chip, half, quarter), False)
        half = half.replace(amplitude=half.amplitude / (1 + whole.parameters["error_rad"] / np.pi))
        if turn == ROUNDS - 1:
            found += [turned, shaped, fine, whole]
    return frequency, half, quarter


def gate_fidelities(backend: "TransmonBackend") -> pd.DataFrame:
    """Return average gate fidelity and leakage of every calibrated gate of a chip, without and with relaxation.

    Parameters
    ----------
    backend
        With gates.

    Examples
    --------
    >>> from devices import TransmonBackend
    >>> gate_fidelities(TransmonBackend.preset("jakarta_like").calibrated)["gate"].tolist()
    ['sx', 'x', 'sx', 'x', 'zx', 'ecr', 'cx']
    """
    assert backend.gates is not None
    wanted: list[tuple[str, tuple[int, ...]]] = [(name, (q,)) for q in range(backend.count) for name in ("sx", "x")]
    pairs = [(one.control, one.target) for one in backend.gates.cross_resonance]
    wanted += [(name, pair) for pair in pairs for name in ("zx", "ecr", "cx")]
    rows = []
    for name, transmons in wanted:
        schedule = getattr(PulseBuilder(backend), name)(*transmons).schedule()
        closed = _virtual_z_fidelity(backend.closed(), schedule, transmons, name)
        relaxed = _virtual_z_fidelity(backend, schedule, transmons, name) if backend.is_open else closed
        rows.append(
            {
                "gate": name,
                "transmons": transmons,
                "duration_seconds": schedule.duration * backend.sample_seconds,
                "fidelity": closed[0],
                "leakage": closed[1],
                "fidelity_with_relaxation": relaxed[0],
            }
        )
    return pd.DataFrame(rows)


def _virtual_z_fidelity(backend: "TransmonBackend", schedule: Any, transmons: tuple[int, ...], name: str) -> tuple[float, float]:
    """Return the fidelity of pulses whose frames turned: the gate is what the pulses do, followed by the turn that is still to come."""
    from devices.quantum.sequences import frame_turns

    turns = frame_turns(backend, schedule)
    angles = np.array([sum(turns[q] for bit, q in enumerate(transmons) if index >> bit & 1) for index in range(2 ** len(transmons))])
    target = GATES[name] * torch.from_numpy(np.exp(-1j * angles))[:, None]
    return gate_fidelity(backend, schedule, transmons, target)


@lru_cache(maxsize=16)
def calibrated(backend: "TransmonBackend") -> "TransmonBackend":
    """Return a chip with the gates that `calibrate` finds; equal chips are calibrated once, whatever they relax and drift like.

    Examples
    --------
    >>> from devices import TransmonBackend
    >>> preset = TransmonBackend.preset("jakarta_like")  # a chip that has gates keeps them
    >>> preset.calibrated is preset
    True
    """
    if backend.dimension > LARGEST_UNASKED:
        raise DesignError(
            f"TransmonBackend: `gates` must be given or found by calibrating at most {LARGEST_UNASKED} states of a chip, but it has "
            f"{backend.dimension}; calibrate parts, as backend.part([0, 1]).calibrate(), "
            "or all of it, in its own time, by backend.calibrate()"
        )
    closed = backend.closed().replace(gates=None)
    if closed != backend:
        return backend.replace(gates=calibrated(closed).gates)
    return calibrate(backend).backend


@contextmanager
def _naming(part: str) -> Iterator[None]:
    """Say which part of the chip could not be calibrated where a fit fails or asks for a pulse that cannot be."""
    try:
        yield
    except (DesignError, RuntimeError) as error:
        raise DesignError(f"TransmonBackend: {part} could not be calibrated ({error}); check frequencies, drives and couplings") from None


@contextmanager
def _progress(total: int, shown: bool | None) -> Iterator[Any]:
    """Yield a function that advances a progress bar on the error stream, or does nothing."""
    if not (sys.stderr.isatty() if shown is None else shown):
        yield lambda words: None
        return
    columns = (TextColumn("calibration"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=total)
        yield lambda words: bar.update(task, advance=1, description=words)
