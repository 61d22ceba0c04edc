"""The bridge to qiskit 1.x: schedules in and out, circuits as schedules, and a chip that qiskit runs circuits on.

qiskit is imported when a function here is called; nothing else of inloop needs it.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from devices.quantum import (
    Acquire,
    Constant,
    Delay,
    Drag,
    Gaussian,
    GaussianSquare,
    Instruction,
    Play,
    Sampled,
    Schedule,
    SetFrequency,
    SetPhase,
    ShiftFrequency,
    ShiftPhase,
    TransmonBackend,
    Waveform,
)
from devices.quantum.sequences import PulseBuilder

if TYPE_CHECKING:
    from qiskit import QuantumCircuit
    from qiskit import pulse as qiskit_pulse

BASIS = ("rz", "sx", "x", "cx", "ecr")
"""Gates that circuits are translated to."""


def require_qiskit() -> Any:
    """Return the module `qiskit`, or raise ImportError that says which version works.

    Examples
    --------
    >>> require_qiskit().__name__  # doctest: +SKIP
    'qiskit'
    """
    try:
        import qiskit
    except ImportError:
        raise ImportError("The bridge needs qiskit 1.x, but it is not installed; run pip install 'inloop[quantum]'") from None
    if int(qiskit.__version__.split(".")[0]) != 1:
        raise ImportError(
            f"The bridge needs qiskit 1.x (1.3.0 is tested), but {qiskit.__version__} is installed and has no pulses; "
            "run pip install 'inloop[quantum]'"
        )
    return qiskit


def to_qiskit(schedule: Schedule) -> qiskit_pulse.Schedule:
    """Return a schedule as one of qiskit's.

    Parameters
    ----------
    schedule
        Ours.

    Raises
    ------
    ImportError
        Where qiskit is absent, or too new to have pulses.

    Examples
    --------
    >>> from devices import Gaussian, Schedule
    >>> to_qiskit(Schedule().play("d0", Gaussian(duration_samples=64, sigma_samples=16))).duration  # doctest: +SKIP
    64
    """
    require_qiskit()
    if not isinstance(schedule, Schedule):
        raise ValueError(f"Argument `schedule` must be a Schedule of inloop, but got a {type(schedule).__name__}; build one")
    with _pulses() as pulse:
        parts = [(one.start, _instruction_out(pulse, one)) for one in schedule.instructions]
        return pulse.Schedule(*parts, name=schedule.name or None)


def from_qiskit(schedule: Any) -> Schedule:
    """Return one of qiskit's schedules or schedule blocks as ours.

    Parameters
    ----------
    schedule
        Without free parameters.

    Raises
    ------
    ImportError
        Where qiskit is absent, or too new to have pulses.
    ValueError
        Where it holds an instruction that ours has no form of.

    Examples
    --------
    >>> from devices import Gaussian, Schedule
    >>> ours = Schedule().play("d0", Gaussian(duration_samples=64, sigma_samples=16))
    >>> from_qiskit(to_qiskit(ours)).instructions == ours.instructions  # doctest: +SKIP
    True
    """
    require_qiskit()
    with _pulses() as pulse:
        if isinstance(schedule, pulse.ScheduleBlock):
            schedule = pulse.transforms.block_to_schedule(schedule)
        if not isinstance(schedule, pulse.Schedule):
            raise ValueError(f"Argument `schedule` must be a schedule of qiskit, but got a {type(schedule).__name__}; give what it builds")
        found = [one for start, part in schedule.instructions for one in _instruction_in(pulse, int(start), part)]
        return Schedule(name=str(schedule.name or ""), instructions=tuple(found))


def lower_circuit(circuit: QuantumCircuit, backend: TransmonBackend) -> Schedule:
    """Return a qiskit circuit as calibrated pulses with virtual Z.

    Parameters
    ----------
    circuit
        With measurements at its end, if any; translated to rz, sx, x, cx and ecr, and routed to the chip's couplings first. Classical bit k
        is slot k; `TransmonBackend.run` counts the slots that are recorded, the lowest one rightmost. A reset of a qubit that no gate
        has turned yet, as ``initialize`` brings, takes no pulse.
    backend
        The chip; calibrated first where it has no gates.

    Raises
    ------
    ImportError
        Where qiskit is absent.
    ValueError
        Where the circuit measures and goes on, measures a qubit twice, resets one that was used, depends on classical bits, has parameters
        without values, or has more qubits than the chip.

    Examples
    --------
    >>> from qiskit import QuantumCircuit  # doctest: +SKIP
    >>> lower_circuit(QuantumCircuit(1, 1), TransmonBackend.preset("jakarta_like")).duration  # doctest: +SKIP
    0
    """
    qiskit = require_qiskit()
    if not isinstance(backend, TransmonBackend):
        raise ValueError(f"Argument `backend` must be a TransmonBackend, but got a {type(backend).__name__}; give the chip")
    chip = backend.calibrated
    with _no_deprecations():
        _check_circuit(qiskit, circuit, chip)
        translated = _translated(qiskit, circuit, chip)
    builder = PulseBuilder(chip, name=circuit.name)
    used: set[int] = set()
    slots: dict[int, int] = {}
    for one in translated.data:
        qubits = [translated.find_bit(bit).index for bit in one.qubits]
        name = one.operation.name
        if slots and name not in ("measure", "barrier"):
            raise ValueError(f"Argument `circuit` must measure last, but {name} comes after a measurement; move it before")
        if name == "measure":
            _measure(slots, translated.find_bit(one.clbits[0]).index, qubits[0])
        elif name == "barrier":
            builder.barrier(*qubits)
        elif name == "delay":
            step = chip.granularity_samples
            builder.wait(qubits[0], -(-round(_delay_samples(one.operation, chip)) // step) * step)
        elif name == "rz":
            builder.rz(qubits[0], float(one.operation.params[0]))
        elif name in ("sx", "x", "cx", "ecr"):
            used.update(qubits)
            getattr(builder, name)(*qubits)
        elif name == "reset" and qubits[0] in used:
            raise ValueError(
                f"Argument `circuit` must not reset qubit {qubits[0]} after gates (`initialize` resets as well); start with it"
            )
        elif name not in ("id", "reset"):
            raise ValueError(f"Argument `circuit` must consist of gates and measurements, but has {name}; remove it")
    if slots:
        builder.barrier()
        at = max(builder.clock)
        length = chip.readout_samples
        for slot, qubit in slots.items():
            builder.instructions.append(Acquire(channel=f"a{qubit}", start=at, duration_samples=length, slot=slot))
    return builder.schedule()


def _check_circuit(qiskit: Any, circuit: Any, chip: TransmonBackend) -> None:
    """Raise ValueError where a circuit is none, or could not be played whatever it is translated to."""
    if not isinstance(circuit, qiskit.QuantumCircuit):
        raise ValueError(f"Argument `circuit` must be a QuantumCircuit of qiskit, but got a {type(circuit).__name__}; give one circuit")
    if circuit.num_qubits > chip.count:
        raise ValueError(f"Argument `circuit` must have at most {chip.count} qubits, but has {circuit.num_qubits}; take a larger chip")
    if circuit.parameters:
        names = ", ".join(one.name for one in circuit.parameters)
        raise ValueError(f"Argument `circuit` must have a value for every parameter, but {names} have none; call assign_parameters first")
    _refuse_conditions(circuit)


def _refuse_conditions(circuit: Any) -> None:
    for one in circuit.data:
        if getattr(one.operation, "condition", None) is not None:
            raise ValueError(
                f"Argument `circuit` must not depend on classical bits, but {one.operation.name} has a condition; all pulses are fixed "
                "before the first measurement"
            )


def _translated(qiskit: Any, circuit: Any, chip: TransmonBackend) -> Any:
    pairs = [edge for one in chip.couplings for edge in (one.transmons, one.transmons[::-1])]
    translated = qiskit.transpile(
        circuit,
        basis_gates=list(BASIS),
        coupling_map=[list(pair) for pair in pairs] or None,
        initial_layout=list(range(circuit.num_qubits)),
        optimization_level=1,
        seed_transpiler=0,
    )
    _refuse_conditions(translated)  # those inside of composite gates come to light here
    return translated


def _measure(slots: dict[int, int], slot: int, qubit: int) -> None:
    """Note that a qubit goes to a classical bit; a bit that is written twice keeps what was written last."""
    before = next((other for other, known in slots.items() if known == qubit and other != slot), None)
    if before is not None:
        raise ValueError(
            f"Argument `circuit` must measure each qubit once, but measures {qubit} into the classical bits {before} and {slot}; copy "
            "the result"
        )
    slots[slot] = qubit


def qiskit_backend(backend: TransmonBackend, name: str = "inloop") -> Any:
    """Return a chip as a qiskit ``BackendV2`` for `transpile`, samplers and estimators; it runs circuits by itself as well.

    ``it.run(circuit, shots=..., seed=..., memory=...)``; see `PulseSimulatorBackend.run`.

    Parameters
    ----------
    backend
        The chip; calibrated first where it has no gates.
    name
        What qiskit calls it.

    Raises
    ------
    ImportError
        Where qiskit is absent.

    Examples
    --------
    >>> qiskit_backend(TransmonBackend.preset("jakarta_like")).num_qubits  # doctest: +SKIP
    2
    """
    require_qiskit()
    from simulator.quantum.qiskit_provider import PulseSimulatorBackend  # which derives from a class of qiskit

    return PulseSimulatorBackend(backend.calibrated, name)


@contextmanager
def _no_deprecations() -> Iterator[None]:
    """Keep qiskit's warnings about itself, which a caller can do nothing about, from the caller."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


@contextmanager
def _pulses() -> Iterator[Any]:
    """Yield the module `qiskit.pulse` without its warnings that it will be gone."""
    with _no_deprecations():
        from qiskit import pulse

        yield pulse


def _delay_samples(operation: Any, chip: TransmonBackend) -> float:
    scale = {"dt": None, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "ps": 1e-12}[operation.unit]
    return float(operation.duration) if scale is None else float(operation.duration) * scale / chip.sample_seconds


def _channel_out(pulse: Any, name: str) -> Any:
    kinds = {"d": pulse.DriveChannel, "u": pulse.ControlChannel, "m": pulse.MeasureChannel, "a": pulse.AcquireChannel}
    return kinds[name[0]](int(name[1:]))


def _instruction_out(pulse: Any, one: Instruction) -> Any:
    channel = _channel_out(pulse, one.channel)
    if isinstance(one, Play):
        return pulse.Play(_waveform_out(pulse, one.waveform), channel)
    if isinstance(one, Delay):
        return pulse.Delay(one.duration_samples, channel)
    if isinstance(one, Acquire):
        return pulse.Acquire(one.duration_samples, channel, pulse.MemorySlot(one.slot))
    if isinstance(one, ShiftPhase):
        return pulse.ShiftPhase(one.phase_rad, channel)
    if isinstance(one, SetPhase):
        return pulse.SetPhase(one.phase_rad, channel)
    if isinstance(one, ShiftFrequency):
        return pulse.ShiftFrequency(one.frequency_hertz, channel)
    if isinstance(one, SetFrequency):
        return pulse.SetFrequency(one.frequency_hertz, channel)
    raise ValueError(f"Argument `schedule` must hold instructions that qiskit has, but got {type(one).__name__}")


def _waveform_out(pulse: Any, one: Waveform) -> Any:
    length, amplitude, angle = one.duration_samples, one.amplitude, one.angle_rad
    if isinstance(one, Constant):
        return pulse.Constant(length, amplitude, angle=angle)
    if isinstance(one, Gaussian):
        return pulse.Gaussian(length, amplitude, one.sigma_samples, angle=angle)
    if isinstance(one, GaussianSquare):
        return pulse.GaussianSquare(length, amplitude, one.sigma_samples, width=one.width_samples, angle=angle)
    if isinstance(one, Drag):
        return pulse.Drag(length, amplitude, one.sigma_samples, one.beta_samples, angle=angle)
    return pulse.Waveform(one.samples())


def _waveform_in(shape: Any) -> Waveform:
    if not hasattr(shape, "parameters") or not shape.parameters:
        return Sampled.of(shape.samples)
    given = {name: float(value) for name, value in shape.parameters.items() if name != "duration"}
    common: dict[str, Any] = {"duration_samples": int(shape.duration), "amplitude": given["amp"], "angle_rad": given.get("angle", 0.0)}
    kind = shape.pulse_type
    if kind == "Constant":
        return Constant(**common)
    if kind == "Gaussian":
        return Gaussian(**common, sigma_samples=given["sigma"])
    if kind == "GaussianSquare":
        return GaussianSquare(**common, sigma_samples=given["sigma"], width_samples=given["width"])
    if kind == "Drag":
        return Drag(**common, sigma_samples=given["sigma"], beta_samples=given["beta"])
    return Sampled.of(shape.get_waveform().samples)


def _instruction_in(pulse: Any, start: int, part: Any) -> list[Instruction]:
    kinds = {pulse.DriveChannel: "d", pulse.ControlChannel: "u", pulse.MeasureChannel: "m", pulse.AcquireChannel: "a"}
    if isinstance(part, pulse.Acquire):
        slot = part.mem_slot.index if part.mem_slot is not None else part.channel.index
        return [Acquire(channel=f"a{part.channel.index}", start=start, duration_samples=int(part.duration), slot=slot)]
    kind = next((letter for cls, letter in kinds.items() if isinstance(part.channels[0], cls)), None)
    if kind is None:
        raise ValueError(f"Argument `schedule` must use drive, control, measure and acquire channels, but got {part.channels[0]}")
    common: dict[str, Any] = {"channel": f"{kind}{part.channels[0].index}", "start": start}
    if isinstance(part, pulse.Play):
        return [Play(**common, waveform=_waveform_in(part.pulse))]
    if isinstance(part, pulse.Delay):
        return [Delay(**common, duration_samples=int(part.duration))]
    if isinstance(part, pulse.ShiftPhase):
        return [ShiftPhase(**common, phase_rad=float(part.phase))]
    if isinstance(part, pulse.SetPhase):
        return [SetPhase(**common, phase_rad=float(part.phase))]
    if isinstance(part, pulse.ShiftFrequency):
        return [ShiftFrequency(**common, frequency_hertz=float(part.frequency))]
    if isinstance(part, pulse.SetFrequency):
        return [SetFrequency(**common, frequency_hertz=float(part.frequency))]
    raise ValueError(f"Argument `schedule` must hold pulses, delays, frames and recordings, but got {type(part).__name__}; remove it")


__all__ = ["from_qiskit", "lower_circuit", "qiskit_backend", "require_qiskit", "to_qiskit"]
