"""Quantum circuits in networks: exact states and gradients, the same circuits as pulses, and chips that hold them."""

import copy
import functools
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import simulator as sim
from devices import DesignError, RRAMCrossbar, TransmonBackend
from devices.quantum.playing import play
from devices.quantum.readout import bit_probabilities
from devices.quantum.sequences import PulseBuilder
from simulator.lowering import PulseLayer
from simulator.quantum import Circuit, Gate, PulseCircuit, VariationalCircuit
from simulator.quantum.circuits import FIXED, basis_angles
from simulator.quantum.programs import CircuitProgram, TrainedPulses

JAKARTA = TransmonBackend.preset("jakarta_like")
IDEAL = JAKARTA.ideal()
X = torch.tensor([[0.3, -1.1, 0.8, 0.1], [1.2, 0.4, -0.5, -0.9], [0.0, 0.2, 0.6, 1.4]])

one_qubit = st.tuples(st.sampled_from([*FIXED, "rx", "ry", "rz"]), st.integers(0, 2), st.floats(-4, 4))
two_qubits = st.tuples(st.sampled_from(["cx", "cz", "ecr"]), st.permutations([0, 1, 2]), st.just(0.0))


PAULIS = {"x": np.array([[0, 1], [1, 0]]), "y": np.array([[0, -1j], [1j, 0]]), "z": np.diag([1, -1])}
NAMED = {
    **PAULIS, "h": (PAULIS["x"] + PAULIS["z"]) / 2**0.5, "s": np.diag([1, 1j]), "sdg": np.diag([1, -1j]),
    "sx": scipy.linalg.sqrtm(PAULIS["x"]),
}  # fmt: skip


def single(gate: Gate, parameters: torch.Tensor) -> np.ndarray:
    """Return the matrix of a gate of one qubit: a rotation is the exponential of its Pauli matrix."""
    if gate.angle is None:
        return NAMED[gate.name]
    angle = gate.angle.offset + sum(factor * float(parameters[0, index]) for index, factor in gate.angle.terms)
    return scipy.linalg.expm(-0.5j * angle * PAULIS[gate.name[1]])


def dense(circuit: Circuit, parameters: torch.Tensor) -> np.ndarray:
    """Return the circuit's matrix by Kronecker products, qubit 0 the last factor."""
    total = np.eye(2**circuit.qubits, dtype=complex)
    projectors = [np.diag([1, 0]), np.diag([0, 1])]
    for gate in circuit.gates:
        if gate.name == "ecr":
            # X on the control after exp(-i pi / 4 Z X).
            turning = [np.eye(2)] * circuit.qubits
            turning[gate.qubits[0]], turning[gate.qubits[1]] = PAULIS["z"], PAULIS["x"]
            flipping = [np.eye(2)] * circuit.qubits
            flipping[gate.qubits[0]] = PAULIS["x"]
            step = functools.reduce(np.kron, flipping[::-1]) @ scipy.linalg.expm(-0.25j * np.pi * functools.reduce(np.kron, turning[::-1]))
        elif gate.name in ("cx", "cz"):
            flip = PAULIS["x" if gate.name == "cx" else "z"]
            control, target = gate.qubits
            step = sum(
                functools.reduce(
                    np.kron,
                    [
                        projectors[b] if q == control else (flip if b and q == target else np.eye(2))
                        for q in reversed(range(circuit.qubits))
                    ],
                )
                for b in (0, 1)
            )
        else:
            own = single(gate, parameters)
            step = functools.reduce(np.kron, [own if q == gate.qubits[0] else np.eye(2) for q in reversed(range(circuit.qubits))])
        total = step @ total
    return total


@settings(max_examples=40, deadline=None)
@given(st.lists(st.one_of(one_qubit, two_qubits), max_size=12))
def test_states_equal_products_of_dense_matrices(gates: list) -> None:
    circuit, values = Circuit(3), []
    for name, where, angle in gates:
        if isinstance(where, list):
            circuit = circuit.add(name, *where[:2])
        elif name in FIXED:
            circuit = circuit.add(name, where)
        else:
            circuit = circuit.rotate(name, where, len(values), factor=0.5, offset=0.25)
            values.append(angle)
    parameters = torch.tensor([values], dtype=torch.float64)
    np.testing.assert_allclose(circuit.state(parameters)[0].numpy(), dense(circuit, parameters)[:, 0], atol=1e-12)


@pytest.mark.parametrize("name", ["rx", "ry"])
def test_rotations_are_quarter_turns_between_virtual_z(name: str) -> None:
    for angle in (0.3, -2.0, math.pi):
        circuit, plain = Circuit(1), Circuit(1).add(name, 0, angle=angle)
        for part, turn in basis_angles(name, plain.gates[0].angle):
            circuit = circuit.add(part, 0, angle=turn if part == "rz" else None)
        none = torch.zeros(1, 0, dtype=torch.float64)
        overlap = np.trace(dense(plain, none).conj().T @ dense(circuit, none)) / 2
        assert abs(overlap) == pytest.approx(1.0, abs=1e-12)


def test_an_empty_batch_stays_empty() -> None:
    for layer in (VariationalCircuit(inputs=2, qubits=2), PulseCircuit(JAKARTA, inputs=2)):
        inputs = torch.zeros(0, 2, requires_grad=True)
        found = layer(inputs)
        assert found.shape == (0, 2)
        found.sum().backward()
        assert inputs.grad is not None and inputs.grad.shape == (0, 2) and bool((layer.weight.grad == 0).all())


def test_an_empty_batch_passes_a_compiled_hybrid() -> None:
    chip = sim.compile(hybrid(), IDEAL, example_inputs=X)
    assert chip.eval()(torch.zeros(0, 4)).shape == (0, 3)


def test_coverage_says_where_a_chip_scales_the_pulses_by_gates_of_its_own() -> None:
    """Weights are turns in proportion to a chip's own half turn: with a drive half as strong, twice the amplitude makes the same state."""
    alone = JAKARTA.part([0]).ideal()
    gates = alone.gates.replace(x=(alone.gates.x[0].replace(amplitude=2 * alone.gates.x[0].amplitude),))
    weaker = alone.replace(gates=gates, transmons=(alone.transmons[0].replace(drive_hertz=alone.transmons[0].drive_hertz / 2),))
    model = nn.Sequential(PulseCircuit(alone, inputs=1))
    outputs = []
    for backend, said in ((alone, False), (weaker, True)):
        chip = sim.compile(model, backend, example_inputs=X[:, :1])
        assert ("not those that the layer was made with" in chip.coverage.set_index("layer").loc["0"]["reason"]) == said
        chip.layers["0"].shots = None
        outputs.append(chip(X[:, :1]))
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=1e-5)


def test_many_shots_come_as_near_as_they_should() -> None:
    """With a billion shots the deviations are those of binomials, 1.6e-5 at most, and take no longer than a few."""
    chip = sim.compile(nn.Sequential(VariationalCircuit(inputs=4, qubits=2, seed=4, readout="probabilities")), IDEAL, example_inputs=X)
    layer = chip.layers["0"]
    layer.shots = None
    exact = chip(X).double()
    layer.shots = 10**9
    deviation = (exact * (1 - exact) / 1e9).sqrt()
    assert bool(((chip(X).double() - exact).abs() < 5 * deviation + 1e-6).all())
    with pytest.raises(ValueError, match="`shots` must be None or an integer of at least 1, but got 0"):
        layer.shots = 0


def test_gradients_of_gates_equal_finite_differences() -> None:
    layer = VariationalCircuit(inputs=4, qubits=2, layers=2, seed=1)
    weight = layer.weight.detach().double().requires_grad_(True)
    inputs = X[:2].double().requires_grad_(True)
    assert torch.autograd.gradcheck(layer.probabilities, (inputs, weight), eps=1e-6, atol=1e-8)


def test_gradients_of_pulses_equal_finite_differences() -> None:
    layer = PulseCircuit(JAKARTA, inputs=2, layers=1, seed=2)
    weight = layer.weight.detach().double().requires_grad_(True)
    inputs = X[:2, :2].double().requires_grad_(True)
    assert torch.autograd.gradcheck(layer.probabilities, (inputs, weight), eps=1e-5, atol=1e-7, rtol=1e-5)


def test_gradients_with_relaxation_equal_finite_differences() -> None:
    program = TrainedPulses(JAKARTA, inputs=2, layers=1)
    rows = torch.cat([X[:1, :2].double(), torch.full((1, program.weights), 0.3, dtype=torch.float64)], 1)
    direction = torch.linspace(-1, 1, rows.shape[1], dtype=torch.float64)
    leaf = rows.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(program.populations(leaf)[0, 1], leaf)
    step = 1e-5
    values = [program.populations(rows + sign * step * direction)[0, 1].item() for sign in (1, -1)]
    assert float(gradient[0] @ direction) == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5, abs=1e-8)


def test_a_circuit_as_pulses_is_the_schedule_of_its_gates() -> None:
    angles = (0.4, -1.3)
    circuit = Circuit(2).rotate("rx", 0, 0).rotate("rz", 0, 1, factor=2.0).add("h", 1).add("cx", 1, 0).add("sdg", 0).add("y", 1)
    program = CircuitProgram(circuit, IDEAL)
    builder = PulseBuilder(IDEAL)
    builder.rz(0, math.pi / 2).sx(0).rz(0, angles[0] + math.pi).sx(0).rz(0, math.pi / 2).rz(0, 2 * angles[1])
    builder.rz(1, math.pi / 2).sx(1).rz(1, math.pi / 2).cx(1, 0).rz(0, -math.pi / 2).rz(1, math.pi).x(1)
    schedule = builder.schedule()
    played = play(IDEAL.model, schedule)
    parameters = torch.tensor([angles], dtype=torch.float64)
    assert program.channels == played.channels and program.duration == played.duration
    np.testing.assert_allclose(program.stages(parameters)[0][0].numpy(), played.samples, atol=1e-12)
    np.testing.assert_allclose(program.populations(parameters)[0].numpy(), IDEAL.populations(schedule).numpy(), atol=1e-9)


def test_pulses_make_what_gates_should() -> None:
    """What is left between gates and their pulses is the error of the calibrated gates, 1e-3 of a controlled not."""
    layer = VariationalCircuit(inputs=4, qubits=2, layers=2, seed=3)
    rows = layer.parameter_rows(X, layer.weight)
    found = bit_probabilities(IDEAL, layer.program(IDEAL).populations(rows))
    assert float((found - layer.probabilities(X, layer.weight)).abs().max()) < 0.03
    assert float((found - layer.probabilities(X, layer.weight)).abs().mean()) < 0.01


def hybrid() -> nn.Sequential:
    torch_layer = nn.Linear(2, 3)
    with torch.no_grad():
        torch_layer.weight.copy_(torch.arange(6.0).reshape(3, 2) / 6)
        torch_layer.bias.zero_()
    return nn.Sequential(VariationalCircuit(inputs=4, qubits=2, seed=4), torch_layer)


def test_a_hybrid_network_compiles_onto_the_chip() -> None:
    model = hybrid()
    chip = sim.compile(model, JAKARTA, example_inputs=X)
    layer = chip.layers["0"]
    assert isinstance(layer, PulseLayer) and isinstance(chip.model[1], nn.Linear)
    row = chip.coverage.set_index("layer").loc["0"]
    assert row["hardware"] == "TransmonBackend" and "1024 shots" in row["reason"]
    with chip.reference():
        torch.testing.assert_close(chip(X), model(X))
    exact = sim.compile(model, IDEAL, example_inputs=X)
    exact.layers["0"].shots = None
    assert float((exact(X) - model(X)).abs().max()) < 0.05
    table = chip.cost(X)
    pulses = table[(table["layer"] == "0") & (table["term"] == "pulses")].iloc[0]
    assert pulses["latency_s"] == pytest.approx(3 * 1024 * layer._program.duration * JAKARTA.sample_seconds)
    assert math.isnan(pulses["energy_j"])


def test_trials_draw_drift_and_shots_and_can_be_replayed() -> None:
    drifting = JAKARTA.replace(transmons=tuple(one.replace(frequency_drift_hertz=1e6) for one in JAKARTA.transmons))
    chip = sim.compile(hybrid(), drifting, example_inputs=X[:1])
    first, second = (chip.program(seed=1, trial=trial)(X) for trial in (0, 1))
    assert not torch.equal(first, second)
    torch.testing.assert_close(chip.program(seed=1, trial=0)(X), first, rtol=0, atol=0)
    assert not torch.equal(chip(X), first), "the next read draws new shots"
    chip.program(seed=1, trial=1)
    expected = drifting.drifted(1, 1)
    chip(X)
    assert chip.layers["0"]._chip == expected
    other = copy.deepcopy(chip)
    assert torch.equal(other(X), chip(X))
    fresh = sim.compile(hybrid(), drifting, example_inputs=X[:1])
    fresh.load_state_dict(chip.state_dict())
    assert torch.equal(fresh(X), chip(X))


def test_shots_scatter_as_binomials_about_the_probabilities() -> None:
    chip = sim.compile(nn.Sequential(VariationalCircuit(inputs=4, qubits=2, seed=4, readout="probabilities")), IDEAL, example_inputs=X)
    layer = chip.layers["0"]
    layer.shots = None
    exact = chip(X[:1])[0].double()
    layer.shots = 500
    drawn = torch.cat([chip(X[:1]) for _ in range(120)]).double()
    deviation = (exact * (1 - exact) / 500).sqrt()
    assert bool(((drawn.mean(0) - exact).abs() < 4.5 * deviation / 120**0.5 + 1e-4).all())
    assert float((drawn.std(0) / deviation)[exact > 0.02].mean()) == pytest.approx(1.0, abs=0.15)


def test_training_on_the_chip_moves_the_angles_by_the_exact_gradient() -> None:
    chip = sim.compile(nn.Sequential(VariationalCircuit(inputs=4, qubits=2, seed=5)), IDEAL, example_inputs=X)
    layer = chip.layers["0"]
    chip.train()
    chip(X).sum().backward()
    rows = layer.circuit.parameter_rows(X, layer.weight.detach()).requires_grad_(True)
    probabilities = bit_probabilities(IDEAL, layer._program.populations(rows))
    (exact,) = torch.autograd.grad(layer.circuit.decode(probabilities).sum(), rows)
    torch.testing.assert_close(layer.weight.grad.double(), exact[:, 4:].sum(0), rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        layer.weight.sub_(0.1 * layer.weight.grad)
    chip.eval().program(seed=0)
    with torch.no_grad():
        layer.weight.add_(0.1)
    with pytest.raises(RuntimeError, match=r"call program\(\)"):
        chip(X)


def test_evaluation_over_chips() -> None:
    model = nn.Sequential(VariationalCircuit(inputs=4, qubits=2, seed=4))
    chip = sim.compile(model, JAKARTA, example_inputs=X[:1])
    result = sim.evaluate(chip, (X, model(X).detach()), metrics="mae", trials=3, seed=2)
    assert result.reference["mae"] == 0.0
    assert all(0.0 < value < 0.2 for value in result.values())


def test_mixed_hardware_takes_both_kinds_of_layers() -> None:
    crossbar = RRAMCrossbar.preset("wan_nature_2022").ideal()
    chip = sim.compile(hybrid(), {"0": JAKARTA, "1": crossbar}, example_inputs=X)
    assert [type(layer).__name__ for layer in chip.layers.values()] == ["PulseLayer", "CrossbarLayer"]


@pytest.mark.parametrize(
    ("build", "line"),
    [
        (lambda: VariationalCircuit(inputs=0, qubits=2), "`inputs` must be an integer of at least 1, but got 0"),
        (lambda: VariationalCircuit(inputs=2, qubits=2, reads=[3]), "`reads` must be a list of different qubits of 0 to 1, but got [3]"),
        (lambda: VariationalCircuit(inputs=2, qubits=2, reads=[0, 0]), "`reads` must be a list of different qubits"),
        (lambda: VariationalCircuit(inputs=2, qubits=2, reads=[0], readout="probabilities"), "`reads` must be None for probabilities"),
        (lambda: VariationalCircuit(inputs=2, qubits=0), "`qubits` must be an integer of at least 1, but got 0"),
        (lambda: VariationalCircuit(inputs=2, qubits=2.0), "`qubits` must be an integer of at least 1, but got 2.0"),
        (lambda: VariationalCircuit(inputs=2, qubits=2, seed=1.5), "`seed` must be an integer, but got 1.5"),
        (lambda: VariationalCircuit(inputs=1, qubits=3, circuit=Circuit(2).rotate("rx", 0, 0)), "`qubits` must be that of `circuit`, 2"),
        (lambda: VariationalCircuit(inputs=3, qubits=1, circuit=Circuit(1).rotate("rx", 0, 0)), "but takes none of [1, 2]"),
        (lambda: PulseCircuit(None, inputs=2), "`backend` must be a TransmonBackend, but got a NoneType"),
        (lambda: Circuit(1).rotate("rx", 0, -1), "by their number from 0 on, but takes [-1]"),
        (lambda: Circuit(1).add("rx", 0, angle=math.nan), "rx must have a finite angle"),
        (lambda: Circuit(0), "`qubits` must be an integer of at least 1, but got 0"),
        (
            lambda: sim.compile(nn.Sequential(PulseCircuit(JAKARTA, inputs=2)), JAKARTA.part([0]), example_inputs=torch.zeros(1, 2)),
            "must be laid out as the chip that the pulses were made for, 2 transmons and gates of ((0, 1),), but has 1 and ()",
        ),
        (
            lambda: sim.compile(nn.Sequential(PulseCircuit(JAKARTA, inputs=2)), JAKARTA.part([1, 0]), example_inputs=torch.zeros(1, 2)),
            "but has 2 and ((1, 0),)",
        ),
        (lambda: VariationalCircuit(inputs=2, qubits=2, readout="x"), "`readout` must be"),
        (lambda: VariationalCircuit(inputs=2, qubits=2, layers=-1), "`layers` must be an integer of at least 1"),
        (lambda: PulseCircuit(JAKARTA, inputs=2, layers=0), "`layers` must be an integer of at least 1"),
        (lambda: PulseCircuit(JAKARTA, inputs=1)(torch.tensor([[math.nan]])), "The input of PulseCircuit must be finite"),
        (lambda: VariationalCircuit(1, 1)(torch.tensor([[math.inf]])), "The input of VariationalCircuit must be finite"),
        (lambda: VariationalCircuit(1, 1).probabilities(torch.ones(1, 1), torch.full((2,), math.nan)), "The weights of VariationalCircuit"),
        (lambda: VariationalCircuit(1, 1)(np.ones((1, 1))), "must be a real tensor of shape (batch, 1), but got ndarray"),
        (
            lambda: PulseCircuit(JAKARTA, inputs=1)(torch.ones(1, 1) * 1j),
            "a real tensor of shape (batch, 1), but got torch.complex64",
        ),
        (lambda: VariationalCircuit(2, 40)(torch.zeros(1, 2)), "needs 1.76e+13 bytes"),
        (lambda: VariationalCircuit(inputs=2, qubits=2)(torch.zeros(3)), "must have shape (batch, 2)"),
        (lambda: Circuit(2).add("cx", 0, 0), "must act on 2 of the 2 qubits"),
        (
            lambda: Circuit(1).rotate("rx", 0, 2).state(torch.zeros(1, 2).double()),
            "`parameters` must be float64 of shape (batch, 3 or more)",
        ),
        (lambda: Circuit(2).add("swap", 0, 1), "write it in these gates"),
        (lambda: Circuit(2).add("rx", 0), "rotations with an angle"),
        (lambda: CircuitProgram(Circuit(3), JAKARTA), "must have 3 transmons"),
        (lambda: sim.compile(nn.Sequential(VariationalCircuit(1, 3)), JAKARTA, example_inputs=torch.zeros(1, 1)), "must have 3 transmons"),
        (
            lambda: sim.compile(
                nn.Sequential(VariationalCircuit(1, 3)), TransmonBackend.preset("jakarta_seven_like"), example_inputs=torch.zeros(1, 1)
            ),
            "calibrating at most 243 states",
        ),
        (lambda: sim.compile(nn.Linear(2, 2), JAKARTA, example_inputs=torch.zeros(1, 2)), "takes quantum circuits"),
        (
            lambda: sim.compile(VariationalCircuit(2, 2), RRAMCrossbar.preset("wan_nature_2022"), example_inputs=torch.zeros(1, 2)),
            "lies on a pulse backend only",
        ),
    ],
)
def test_layers_refuse_what_they_cannot_be(build, line: str) -> None:
    with pytest.raises((ValueError, DesignError)) as error:
        build()
    assert line in str(error.value)


def test_a_pulse_layer_refuses_inputs_and_states_of_others() -> None:
    chip = sim.compile(hybrid(), JAKARTA, example_inputs=X)
    with pytest.raises(ValueError, match="the input must be float32 of shape"):
        chip.layers["0"](X.double())
    other = sim.compile(hybrid(), IDEAL, example_inputs=X)
    with pytest.raises(ValueError, match="must be of the same design"):
        other.load_state_dict(chip.state_dict())
