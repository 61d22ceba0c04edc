"""A chip as a backend of qiskit; import it through `qiskit_backend`, which checks that qiskit is there."""

from typing import Any

from qiskit.circuit import Delay, Measure, Parameter
from qiskit.circuit.library import CXGate, ECRGate, RZGate, SXGate, XGate
from qiskit.providers import BackendV2, JobStatus, JobV1, Options
from qiskit.result import Result
from qiskit.transpiler import InstructionProperties, Target

from devices.quantum import TransmonBackend
from devices.quantum.calibration import gate_fidelities
from devices.quantum.sequences import PulseBuilder
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
        return Options(shots=1024, seed=0)

    def run(self, run_input: Any, **options: Any) -> FinishedJob:
        """Run one circuit or several; ``shots`` and ``seed`` are options."""
        circuits = run_input if isinstance(run_input, list) else [run_input]
        shots, seed = options.get("shots", self.options.shots), options.get("seed", self.options.seed)
        results = []
        for index, circuit in enumerate(circuits):
            counts = self.chip.run(lower_circuit(circuit, self.chip), shots=shots, seed=seed, trial=index)
            hexadecimal = {hex(int(bits, 2)): count for bits, count in counts.items()}
            registers = [[register.name, register.size] for register in circuit.cregs]
            header = {"name": circuit.name, "memory_slots": circuit.num_clbits, "creg_sizes": registers}
            results.append({"shots": shots, "success": True, "data": {"counts": hexadecimal}, "header": header})
        self._jobs += 1
        job_id = f"{self.name}-{self._jobs}"
        content = {"backend_name": self.name, "backend_version": "1", "qobj_id": job_id, "job_id": job_id, "success": True}
        return FinishedJob(self, job_id, Result.from_dict({**content, "results": results}))


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
