"""Circuits of qiskit on a chip: classical bits, the outcome of every shot, samplers, and what is refused."""

import warnings
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from devices import TransmonBackend

qiskit = pytest.importorskip("qiskit")

from qiskit.primitives import BackendEstimatorV2, BackendSamplerV2  # noqa: E402
from qiskit.quantum_info import SparsePauliOp  # noqa: E402

from simulator.quantum.qiskit_bridge import from_qiskit, lower_circuit, qiskit_backend, to_qiskit  # noqa: E402

IDEAL = TransmonBackend.preset("jakarta_like").ideal()


@pytest.fixture(scope="module")
def device() -> Any:
    """Return the chip without errors as a backend of qiskit."""
    return qiskit_backend(IDEAL)


def flipped(*wires: tuple[int, int], bits: int = 3) -> Any:
    """Return a circuit that flips qubit 0 and measures qubits into classical bits."""
    circuit = qiskit.QuantumCircuit(2, bits)
    circuit.x(0)
    for qubit, bit in wires:
        circuit.measure(qubit, bit)
    return circuit


@pytest.mark.parametrize(("wires", "read"), [([(0, 2)], "100"), ([(0, 0), (1, 2)], "001"), ([(1, 0), (0, 1)], "010")])
def test_counts_name_the_classical_bit_that_was_measured_into(device: Any, wires: list, read: str) -> None:
    counts = device.run(flipped(*wires), shots=50).result().get_counts()
    assert counts == {read: 50}


def test_classical_registers_are_kept_apart(device: Any) -> None:
    first, second = qiskit.ClassicalRegister(1, "first"), qiskit.ClassicalRegister(2, "second")
    circuit = qiskit.QuantumCircuit(qiskit.QuantumRegister(2), first, second)
    circuit.x(1)
    circuit.measure(1, second[1])
    assert device.run(circuit, shots=7).result().get_counts() == {"10 0": 7}


def test_the_memory_holds_every_shot_in_an_order_of_chance(device: Any) -> None:
    circuit = qiskit.QuantumCircuit(2)
    circuit.sx(0)
    circuit.measure_all()
    result = device.run(circuit, shots=400, memory=True).result()
    memory = result.get_memory()
    assert dict(Counter(memory)) == result.get_counts() and len(memory) == 400
    # As many runs of equal outcomes as coins make: 200 on average with a standard deviation of 10, not the handful of a sorted list.
    assert 150 < sum(a != b for a, b in pairwise(memory)) < 260


def test_a_sampler_and_an_estimator_see_the_state_that_was_made(device: Any) -> None:
    bell = qiskit.QuantumCircuit(2)
    bell.h(0)
    bell.cx(0, 1)
    measured = bell.copy()
    measured.measure_all()
    ready = qiskit.transpile(measured, device)
    both = BackendSamplerV2(backend=device).run([ready], shots=1000).result()[0].data.meas.get_counts()
    assert sum(both.values()) == 1000
    # Binomials: 4.5 standard deviations are 71 shots; the gates leave under 1 % elsewhere.
    assert abs(both["00"] - 500) < 80 and abs(both["11"] - 500) < 80
    one = BackendSamplerV2(backend=device).run([qiskit.transpile(flipped((0, 0), (1, 1), bits=2), device)], shots=30)
    assert one.result()[0].data.c.get_counts() == {"01": 30}
    wanted = SparsePauliOp(["ZZ", "XX", "ZI"], [1.0, 1.0, 1.0])
    found = BackendEstimatorV2(backend=device).run([(qiskit.transpile(bell, device, initial_layout=[0, 1]), wanted)], precision=0.02)
    assert float(found.result()[0].data.evs) == pytest.approx(2.0, abs=0.2)


def test_a_state_to_start_from_needs_no_reset(device: Any) -> None:
    circuit = qiskit.QuantumCircuit(1, 1)
    circuit.initialize([0, 1])
    circuit.measure(0, 0)
    assert device.run(circuit, shots=20).result().get_counts() == {"1": 20}


def test_translation_shows_no_warnings_of_qiskit_about_itself() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lower_circuit(flipped((0, 0)), IDEAL)


def conditional(inside: bool) -> Any:
    """Return a circuit that flips a qubit where a classical bit is 1, which it never is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        circuit = qiskit.QuantumCircuit(1, 2)
        circuit.x(0).c_if(0, 1)
        if inside:
            outer = qiskit.QuantumCircuit(1, 2)
            outer.append(circuit.to_instruction(), [0], [0, 1])
            circuit = outer
    circuit.measure(0, 1)
    return circuit


def parametric() -> Any:
    """Return a circuit whose angle has no value."""
    circuit = qiskit.QuantumCircuit(1, 1)
    circuit.rx(qiskit.circuit.Parameter("theta"), 0)
    return circuit


def reset_late() -> Any:
    """Return a circuit that resets a qubit after a gate."""
    circuit = qiskit.QuantumCircuit(1, 1)
    circuit.x(0)
    circuit.reset(0)
    return circuit


def branching() -> Any:
    """Return a circuit that branches on a classical bit."""
    circuit = qiskit.QuantumCircuit(1, 1)
    with circuit.if_test((0, 1)):
        circuit.x(0)
    return circuit


@pytest.mark.parametrize(
    ("build", "line"),
    [
        (lambda: lower_circuit(conditional(inside=False), IDEAL), "must not depend on classical bits, but x has a condition"),
        (lambda: lower_circuit(conditional(inside=True), IDEAL), "must not depend on classical bits, but x has a condition"),
        (lambda: lower_circuit(branching(), IDEAL), "must not depend on classical bits, but if_else has a condition"),
        (lambda: lower_circuit(parametric(), IDEAL), "but theta have none; call assign_parameters"),
        (lambda: lower_circuit(reset_late(), IDEAL), "must not reset qubit 0 after gates"),
        (lambda: lower_circuit(flipped((0, 0), (0, 1)), IDEAL), "measures 0 into the classical bits 0 and 1"),
        (lambda: lower_circuit("x", IDEAL), "`circuit` must be a QuantumCircuit of qiskit, but got a str"),
        (lambda: lower_circuit(flipped((0, 0)), None), "`backend` must be a TransmonBackend, but got a NoneType"),
        (lambda: from_qiskit(None), "`schedule` must be a schedule of qiskit, but got a NoneType"),
        (lambda: to_qiskit(None), "`schedule` must be a Schedule of inloop, but got a NoneType"),
        (lambda: qiskit_backend(IDEAL).run(flipped((0, 0)), foo=3), "shots, seed, seed_simulator and memory, but got foo"),
        (lambda: qiskit_backend(IDEAL).run(flipped()), "measures no qubit; add measure_all()"),
        (lambda: qiskit_backend(IDEAL).run(flipped((0, 0)), shots=0), "`shots` must be an integer"),
    ],
)
def test_the_bridge_refuses_circuits_that_it_cannot_play(build, line: str) -> None:
    with pytest.raises(ValueError) as error:
        build()
    assert line in str(error.value)
