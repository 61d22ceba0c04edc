"""A chip as a backend of qiskit; import it through `qiskit_backend`, which checks that qiskit is there."""

from typing import Any

import numpy as np
from qiskit.circuit import Delay, Measure, Parameter
from qiskit.circuit.library import CXGate, ECRGate, RZGate, SXGate, XGate
from qiskit.providers import BackendV2, JobStatus, JobV1, Options
from qiskit.result import Result
from qiskit.transpiler import InstructionProperties, Target

from devices.quantum import Schedule, TransmonBackend
from devices.quantum.calibration import gate_fidelities
from devices.quantum.sequences import PulseBuilder
from kernels.random import Key, uniform
from simulator.quantum.qiskit_bridge import lower_circuit


class FinishedJob(JobV1):  # type: ignore[misc]
    """A job that was done when it was made."""

    def __init__(self, backend: Any, job_id: str, result: Result) -> None:
        super().__init__(backend, job_id)
        self._result = result

    def submit(self) -> None:
        """Do nothing: the circuits have run."""

    def result(self) -> Result:
        """Return the counts."""
        return self._result

    def status(self) -> Any:
        """Return that the job is done."""
        return JobStatus.DONE


class PulseSimulatorBackend(BackendV2):  # type: ignore[misc]
    """Circuits become calibrated pulses, the chip plays them, and counts come back.

    Parameters
    ----------
    chip
        With gates.
    name
        What qiskit calls it.
    """

    def __init__(self, chip: TransmonBackend, name: str = "inloop") -> None:
        super().__init__(name=name, description="transmons simulated pulse by pulse")
        self.chip = chip
        self._target = _target(chip)
        self._jobs = 0

    @property
    def target(self) -> Target:
        """Gates with their durations and errors."""
        return self._target

    @property
    def max_circuits(self) -> None:
        """Any number."""
        return

    @classmethod
    def _default_options(cls) -> Options:
        return Options(shots=1024, seed=0, memory=False)

    def run(self, run_input: Any, **options: Any) -> FinishedJob:
        """Run one circuit or several.

        Parameters
        ----------
        run_input
            A circuit, or a list of them; each is a trial of its own.
        **options
            ``shots``, ``seed`` (or ``seed_simulator``, as samplers and estimators call it; None leaves the seed as it is), and ``memory``
            for the outcome of every shot.
        """
        unknown = set(options) - {"shots", "seed", "seed_simulator", "memory"}
        if unknown:
            raise ValueError(
                f"Argument `options` must be some of shots, seed, seed_simulator and memory, but got {', '.join(sorted(unknown))}; "
                "leave it out"
            )
        circuits = list(run_input) if isinstance(run_input, list | tuple) else [run_input]
        shots = self.options.shots if options.get("shots") is None else options["shots"]
        seeds = [options[name] for name in ("seed", "seed_simulator") if options.get(name) is not None]
        seed = seeds[0] if seeds else self.options.seed
        results = []
        for index, circuit in enumerate(circuits):
            schedule = lower_circuit(circuit, self.chip)
            if not schedule.acquisitions:
                raise ValueError(f"Argument `run_input` must measure, but circuit {circuit.name} measures no qubit; add measure_all()")
            counts = self.chip.run(schedule, shots=shots, seed=seed, trial=index)
            hexadecimal = {_classical(bits, schedule): count for bits, count in counts.items()}
            data: dict[str, Any] = {"counts": hexadecimal}
            if options.get("memory", self.options.memory):
                data["memory"] = _each_shot(hexadecimal, Key.of(seed=seed, trial=index, purpose="order of shots"))
            registers = [[register.name, register.size] for register in circuit.cregs]
            header = {"name": circuit.name, "memory_slots": circuit.num_clbits, "creg_sizes": registers}
            results.append({"shots": int(shots), "success": True, "meas_level": 2, "data": data, "header": header})
        self._jobs += 1
        job_id = f"{self.name}-{self._jobs}"
        content = {"backend_name": self.name, "backend_version": "1", "qobj_id": job_id, "job_id": job_id, "success": True}
        return FinishedJob(self, job_id, Result.from_dict({**content, "results": results}))


def _classical(bits: str, schedule: Schedule) -> str:
    """Return the register of classical bits, hexadecimal, in which the recorded slots hold these bits and all others are 0."""
    return hex(sum(int(bit) << one.slot for bit, one in zip(reversed(bits), schedule.acquisitions, strict=True)))


def _each_shot(counts: dict[str, int], key: Key) -> list[str]:
    """Return the outcome of every shot: as many of each as were counted, in an order that is drawn."""
    outcomes = np.repeat(np.array(list(counts), dtype=object), list(counts.values()))
    shuffled: list[str] = outcomes[np.argsort(uniform(key, len(outcomes)).numpy(), kind="stable")].tolist()
    return shuffled


def _target(chip: TransmonBackend) -> Target:
    table: dict[Any, Any] = {(row.gate, row.transmons): row for row in gate_fidelities(chip).itertuples()}
    target = Target(num_qubits=chip.count, dt=chip.sample_seconds, granularity=chip.granularity_samples)
    qubits = range(chip.count)
    target.add_instruction(RZGate(Parameter("angle")), {(q,): InstructionProperties(0.0, 0.0) for q in qubits})
    for gate, name in ((SXGate(), "sx"), (XGate(), "x")):
        rows = {(q,): table[name, (q,)] for q in qubits}
        properties = {key: InstructionProperties(row.duration_seconds, 1 - row.fidelity_with_relaxation) for key, row in rows.items()}
        target.add_instruction(gate, properties)
    for gate, name in ((CXGate(), "cx"), (ECRGate(), "ecr")):
        pairs = {}
        for one in chip.couplings:
            for control, other in (one.transmons, one.transmons[::-1]):
                known = table.get((name, (control, other))) or table.get((name, (other, control)))
                if known is not None:
                    seconds = getattr(PulseBuilder(chip), name)(control, other).schedule().duration * chip.sample_seconds
                    pairs[control, other] = InstructionProperties(seconds, 1 - known.fidelity_with_relaxation)
        if pairs:
            target.add_instruction(gate, pairs)
    target.add_instruction(Measure(), {(q,): InstructionProperties(chip.readout_seconds) for q in qubits})
    target.add_instruction(Delay(Parameter("t")), {(q,): None for q in qubits})
    return target
