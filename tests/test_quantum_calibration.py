"""Calibration inside the simulator, mitigation, and the bridge to qiskit with qiskit-dynamics as the oracle."""

import math
import sys
import warnings

import numpy as np
import pytest
import torch

from devices import Constant, DesignError, Drag, Gaussian, GaussianSquare, Sampled, Schedule, TransmonBackend
from devices.quantum import SetFrequency
from devices.quantum.calibration import calibrate, gate_fidelities
from devices.quantum.confusion import confusion, readout_matrix
from devices.quantum.cross_resonance import cr_tomography
from devices.quantum.drag import drag_scan
from devices.quantum.experiment import Bench
from devices.quantum.fidelity import GATES, average_gate_fidelity, computational_states, gate_fidelity
from devices.quantum.rabi import fine_amplitude, rabi_scan
from devices.quantum.ramsey import ramsey_fringes
from devices.quantum.readout import assignment_matrix, bit_probabilities
from devices.quantum.sequences import PulseBuilder, frame_turns
from devices.quantum.stretching import stretched_gates
from simulator.quantum.mitigation import extrapolate, invert_readout, stretch

JAKARTA = TransmonBackend.preset("jakarta_like")
BARE = JAKARTA.replace(gates=None)
X = Drag(duration_samples=160, sigma_samples=40, beta_samples=-1.56, amplitude=0.168)


def detuned(hertz: float) -> TransmonBackend:
    """Return the chip with the drive of transmon 0 off its calibrated frequency."""
    gates = JAKARTA.gates
    return JAKARTA.replace(gates=gates.replace(frequencies_hertz=(gates.frequencies_hertz[0] + hertz, gates.frequencies_hertz[1])))


def test_rabi_finds_the_pi_amplitudes() -> None:
    for transmon, amplitude in ((0, 0.168), (1, 0.203)):
        found = rabi_scan(Bench(BARE), transmon, X)
        assert found.parameters["pi_amplitude"] == pytest.approx(amplitude, abs=1e-3)
    noisy = rabi_scan(Bench(BARE, shots=2000, seed=1), 0, X)
    error = noisy.errors["pi_amplitude"]
    assert 0 < error < 2e-3 and abs(noisy.parameters["pi_amplitude"] - 0.1685) < 5 * error


@pytest.mark.parametrize("hertz", [0.0, 250e3, -400e3])
def test_ramsey_finds_the_detuning(hertz: float) -> None:
    backend = detuned(hertz)
    found = ramsey_fringes(Bench(backend), 0, PulseBuilder(backend)).parameters
    assert found["detuning_hertz"] == pytest.approx(-hertz, abs=0.01 * abs(hertz) + 300)
    assert math.isinf(found["t2_seconds"])


def test_ramsey_with_shots_finds_t2() -> None:
    fast = JAKARTA.replace(transmons=tuple(one.replace(t1_seconds=40e-6, t2_seconds=5e-6) for one in JAKARTA.transmons))
    found = ramsey_fringes(Bench(fast, shots=4000, seed=3), 0, PulseBuilder(fast), longest_seconds=8e-6, turning_hertz=1e6)
    assert found.parameters["t2_seconds"] == pytest.approx(5e-6, rel=0.1)


def test_drag_and_repeated_pulses_find_what_was_put_off() -> None:
    found = drag_scan(Bench(JAKARTA), 0, JAKARTA.gates.x[0])
    assert found.parameters["beta_samples"] == pytest.approx(JAKARTA.gates.x[0].beta_samples, abs=0.02)
    for quarter, name in ((True, "sx"), (False, "x")):
        pulses = list(getattr(JAKARTA.gates, name))
        pulses[0] = pulses[0].replace(amplitude=pulses[0].amplitude * 1.01)
        gates = JAKARTA.gates.replace(**{name: tuple(pulses)})
        error = fine_amplitude(Bench(JAKARTA), 0, PulseBuilder(JAKARTA, gates), quarter).parameters["error_rad"]
        assert error == pytest.approx(0.01 * math.pi / (2 if quarter else 1), rel=0.05)


def test_readout_calibration_finds_the_matrix() -> None:
    found = confusion(readout_matrix(Bench(JAKARTA, shots=20_000, seed=0), PulseBuilder(JAKARTA)))
    np.testing.assert_allclose(found.sum(0), 1.0)
    np.testing.assert_allclose(found, assignment_matrix(JAKARTA), atol=0.012)


def test_calibration_of_everything_finds_the_gates_of_the_preset() -> None:
    report = calibrate(BARE)
    gates, stored = report.gates, JAKARTA.gates
    np.testing.assert_allclose(gates.frequencies_hertz, stored.frequencies_hertz, atol=500.0)
    for ours, theirs in zip((*gates.x, *gates.sx), (*stored.x, *stored.sx), strict=True):
        assert ours.amplitude == pytest.approx(theirs.amplitude, rel=1e-3)
    table = report.fidelities.set_index(["gate", "transmons"])
    assert (table.loc[["x", "sx"], "fidelity"] > 0.99999).all()
    assert (table.loc[["zx", "cx"], "fidelity"] > 0.999).all()
    assert (table["leakage"] < 1e-3).all() and (table["leakage"] > 0).all()
    assert table.loc[("cx", (0, 1)), "fidelity_with_relaxation"] == pytest.approx(0.9907, abs=1e-3)
    names = [one.name for one in report.experiments]
    assert names.count("Rabi") == 2 and {"Ramsey", "DRAG", "Cross resonance", "Rotary", "Readout"} <= set(names)
    assert all(figure.axes[0].get_xlabel() for figure in report.figures().values())
    assert report.backend.calibrated is report.backend
    assert "Rabi of q0: pi_amplitude" in report.experiments[0].figure().axes[0].get_title()


def test_the_echo_without_its_closing_half_turn_is_a_gate_in_both_directions() -> None:
    closed = JAKARTA.closed()
    for pair in ((0, 1), (1, 0)):
        builder = PulseBuilder(closed).ecr(*pair)
        schedule = builder.schedule()
        assert (schedule.duration == 896) == (pair == (0, 1)), "shorter by a half turn than the whole echo"
        turns = frame_turns(closed, schedule)
        angles = np.array([sum(turns[q] for bit, q in enumerate(pair) if index >> bit & 1) for index in range(4)])
        fidelity, leakage = gate_fidelity(closed, schedule, pair, torch.from_numpy(np.exp(-1j * angles))[:, None] * GATES["ecr"])
        assert fidelity > 0.999 and leakage < 1e-3


def test_fidelity_of_known_gates() -> None:
    identity = torch.eye(2, dtype=torch.complex128)
    turn = torch.diag(torch.exp(0.1j * torch.tensor([-1.0, 1.0], dtype=torch.float64)))
    # Average fidelity of a rotation by 0.2 rad against none: (2 + |2 cos 0.1|^2) / 6.
    assert average_gate_fidelity(turn, identity)[0] == pytest.approx((2 + 4 * math.cos(0.1) ** 2) / 6, abs=1e-12)
    damped = torch.diag(torch.tensor([1.0, 0.9], dtype=torch.complex128))
    fidelity, leakage = average_gate_fidelity(damped, identity)
    assert leakage == pytest.approx((1 - 0.81) / 2) and fidelity == pytest.approx((2 * (1 - leakage) + 1.9**2) / 6)
    assert computational_states(3, [1, 0]) == [0, 3, 1, 4]
    product = GATES["zx"] @ GATES["zx"].mH
    torch.testing.assert_close(product, torch.eye(4, dtype=torch.complex128))


def test_fidelity_with_relaxation_alone() -> None:
    """Waiting a time t under T1 and T2 has average fidelity 1/2 + e^(-t/T1)/6 + e^(-t/T2)/3."""
    one = JAKARTA.transmons[0]
    alone = TransmonBackend(transmons=(one,))
    count = 40_000
    seconds = count * alone.sample_seconds
    fidelity, leakage = gate_fidelity(alone, Schedule().delay("d0", count), [0], torch.eye(2, dtype=torch.complex128))
    expected = 0.5 + math.exp(-seconds / one.t1_seconds) / 6 + math.exp(-seconds / one.t2_seconds) / 3
    assert fidelity == pytest.approx(expected, abs=1e-9) and leakage == pytest.approx(0.0, abs=1e-9)


def test_a_gate_that_came_out_poor_is_pointed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = TransmonBackend.preset("jakarta_like")
    one = pair.replace(transmons=pair.transmons[:1], couplings=(), gates=None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = one.calibrate()
    low, high = sorted(report.fidelities["fidelity"])
    monkeypatch.setattr("devices.quantum.calibration.POOR", (low + high) / 2)
    with pytest.warns(UserWarning, match=r"gate `(sx|x)` of transmons \(0,\) came out with an average fidelity of 1.000") as said:
        one.calibrate()
    assert len(said) == 1


def test_calibration_refuses_what_it_cannot_do() -> None:
    with pytest.raises(DesignError, match="`shots` must be None"):
        calibrate(JAKARTA, shots=0)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"frequency_hertz": 5.0144e9 + 3e6}, "must differ by more than twice their exchange"),
        ({"drive_hertz": 1e6}, "`drive_hertz` of transmon 0 must be above 2.6"),
        ({"anharmonicity_hertz": 0.0}, "`anharmonicity_hertz` of transmon 0 must not be 0"),
    ],
)
def test_calibration_refuses_a_chip_without_gates_and_says_why(change: dict, line: str) -> None:
    chip = BARE.replace(transmons=(BARE.transmons[0].replace(**change), BARE.transmons[1]))
    with pytest.raises(DesignError) as error:
        calibrate(chip)
    assert line in str(error.value)


@pytest.mark.parametrize("shapes", [{"single": Gaussian(duration_samples=160, sigma_samples=40)}, {"cross": X}])
def test_calibration_refuses_shapes_of_another_kind(shapes: dict) -> None:
    with pytest.raises(DesignError, match="`single` and `cross` must be a Drag and a GaussianSquare"):
        calibrate(BARE, **shapes)


# mitigation


def test_inverted_readout_is_the_state_that_was_there() -> None:
    matrix = assignment_matrix(JAKARTA)
    there = np.array([0.5, 0.1, 0.0, 0.4])
    counts = {format(i, "02b"): round(1e8 * value) for i, value in enumerate(matrix @ there)}
    found = invert_readout(counts, matrix)
    np.testing.assert_allclose([found[format(i, "02b")] for i in range(4)], there, atol=1e-6)


def test_stretched_pulses_make_the_same_turn_with_more_noise() -> None:
    schedule = PulseBuilder(JAKARTA).x(0).sx(1).rz(1, 0.4).sx(1).x(0).schedule()
    clean = JAKARTA.ideal()
    plain, slow = clean.populations(schedule), clean.populations(stretch(schedule, 1.5))
    assert float((plain - slow).abs().max()) < 5e-3
    noise = [1 - float(JAKARTA.populations(stretch(schedule, factor))[0]) for factor in (1.0, 1.5, 2.0)]
    assert noise[0] < noise[1] < noise[2]


@pytest.mark.parametrize("factor", [2, 3])
def test_a_stretched_controlled_not_reads_as_before(factor: int) -> None:
    """The fit leaves an infidelity of 1e-4; amplitudes in proportion move 1e-2 per factor to where the pair disagrees."""
    ideal = JAKARTA.ideal()
    schedule = PulseBuilder(JAKARTA).sx(0).rz(0, 0.4).cx(0, 1).measure().schedule()
    slow = stretch(schedule, factor, backend=JAKARTA)
    assert slow.acquisitions[0].start == factor * schedule.acquisitions[0].start
    assert float((ideal.probabilities(slow) - ideal.probabilities(schedule)).abs().max()) < 0.01
    with pytest.warns(UserWarning, match="give `backend`"):
        proportional = stretch(schedule, factor)
    apart = [float(ideal.probabilities(one)[1:3].sum()) for one in (slow, proportional)]
    assert apart[0] < 1e-3 and apart[1] > 0.02


@pytest.mark.parametrize(("name", "control"), [("zx", 0), ("ecr", 0), ("ecr", 1), ("cx", 0), ("cx", 1)])
def test_a_stretched_schedule_is_that_of_the_stretched_gates(name: str, control: int) -> None:
    """Frames included: what the gate's virtual Z changes by is made up for before the pulses that follow, in the other order with the half
    turn that closes an echo. On the lowest two levels that is the same up to the common phase; a wrong sign would be 4e-4.
    """
    slow = JAKARTA.replace(gates=stretched_gates(JAKARTA, 2.0))

    def played(chip: TransmonBackend) -> Schedule:
        builder = getattr(PulseBuilder(chip).sx(0).rz(0, 0.4), name)(control, 1 - control)
        return builder.sx(1).rz(1, 0.3).sx(0).schedule()

    states = computational_states(JAKARTA.levels, [0, 1])
    found = JAKARTA.unitary(stretch(played(JAKARTA), 2, backend=JAKARTA), frames=True)[states][:, states]
    expected = slow.unitary(played(slow), frames=True)[states][:, states]
    overlap = (found.conj() * expected).sum()
    torch.testing.assert_close(found * overlap / overlap.abs(), expected, rtol=0, atol=1e-5)


def test_stretched_gates_are_the_gates_that_were_calibrated() -> None:
    """Average infidelity to what each gate does unstretched; that of single turns is the ZZ beside them, acting twice as long."""
    closed = JAKARTA.closed()
    slow = closed.replace(gates=stretched_gates(JAKARTA, 2.0))
    states = computational_states(closed.levels, [0, 1])
    for name, where in (("x", (0,)), ("sx", (1,)), ("zx", (0, 1))):
        blocks = [
            chip.unitary(getattr(PulseBuilder(chip), name)(*where).schedule(), frames=True)[states][:, states] for chip in (closed, slow)
        ]
        left, _, right = torch.linalg.svd(blocks[0])
        assert 1 - average_gate_fidelity(blocks[1], left @ right)[0] < 2e-4
    assert stretched_gates(JAKARTA, 1.0) == JAKARTA.gates


def test_extrapolation_of_an_entangled_pair_sees_noise_alone() -> None:
    schedule = PulseBuilder(JAKARTA).rz(0, math.pi / 2).sx(0).rz(0, math.pi / 2).cx(0, 1).schedule()

    def parity(chip: TransmonBackend, factor: float) -> float:
        found = bit_probabilities(chip, chip.populations(stretch(schedule, factor, backend=JAKARTA)))
        return float(found[0] - found[1] - found[2] + found[3])

    result = extrapolate(lambda factor: parity(JAKARTA, factor))
    assert result.factors == (1.0, 2.0, 3.0)
    clean = parity(JAKARTA.ideal(), 1.0)
    assert abs(result.value - clean) < 0.25 * abs(result.measured[0] - clean)


def test_extrapolation_brings_an_expectation_back() -> None:
    builder = PulseBuilder(JAKARTA)
    for _ in range(10):
        builder.x(0)
    schedule = builder.schedule()

    def measure(factor: float) -> float:
        found = JAKARTA.populations(stretch(schedule, factor))
        return float(found[0] - found[1])

    result = extrapolate(measure)
    found = JAKARTA.ideal().populations(schedule)
    clean = float(found[0] - found[1])
    assert abs(result.value - clean) < 0.15 * abs(result.measured[0] - clean)


@pytest.mark.parametrize(
    ("build", "line"),
    [
        (lambda: invert_readout({}, np.eye(1)), "`counts` must hold"),
        (lambda: invert_readout({"00": 1, "1": 2}, np.eye(4)), "`counts` must hold"),
        (lambda: invert_readout({"ab": 3}, np.eye(4)), "but got 'ab'; write strings of 0 and 1"),
        (lambda: invert_readout({"0x0": 3}, np.eye(8)), "but got '0x0'; write strings of 0 and 1"),
        (lambda: invert_readout({"00": -3, "11": 10}, np.eye(4)), "numbers from 0 on, not all 0"),
        (lambda: invert_readout({"0": math.nan}, np.eye(2)), "numbers from 0 on, not all 0"),
        (lambda: invert_readout({"0": 1}, np.eye(4)), "`matrix` must be 2 x 2"),
        (lambda: invert_readout({"0": 1}, np.array([[1.2, 0.1], [-0.2, 0.9]])), "but column 0 is [ 1.2 -0.2], of sum 1"),
        (lambda: invert_readout({"0": 1}, np.array([[0.9, 0.3], [0.1, 0.9]])), "but column 1 is [0.3 0.9], of sum 1.2"),
        (lambda: invert_readout({"0": 1}, np.array([[0.9, math.nan], [0.1, 0.9]])), "but column 1 is"),
        (lambda: invert_readout({"00": 1}, np.full((4, 4), 0.25)), "must tell the bit strings apart"),
        (lambda: invert_readout(["0"], np.eye(2)), "`counts` must be a dictionary of bit strings and counts, but got ['0']"),
        (lambda: invert_readout({0: 3}, np.eye(2)), "but got 0; write strings of 0 and 1"),
        (lambda: invert_readout({"": 3}, np.eye(1)), "but got ''; write strings of 0 and 1"),
        (lambda: invert_readout({"0": True}, np.eye(2)), "numbers from 0 on, not all 0"),
        (lambda: invert_readout({"0": "3"}, np.eye(2)), "numbers from 0 on, not all 0"),
        (lambda: invert_readout({"0": 0, "1": 0}, np.eye(2)), "numbers from 0 on, not all 0"),
        (lambda: invert_readout({"0": 1}, "ab"), "`matrix` must be 2 x 2 real numbers, but got 'ab'"),
        (lambda: invert_readout({"0": 1}, [[1], [1, 2]]), "`matrix` must be 2 x 2 real numbers"),
        (lambda: invert_readout({"0": 1}, np.eye(2) * (1 + 0j)), "`matrix` must be 2 x 2 real numbers"),
        (lambda: stretch(Schedule(), True), "`factor` must be at least 1 and at most 10000, but got True"),
        (lambda: stretch(Schedule(), math.nan), "`factor` must be at least 1 and at most 10000, but got nan"),
        (lambda: stretch(Schedule().play("d0", X), 1e9), "at least 1 and at most 10000, but got 1000000000.0"),
        (lambda: stretch(Schedule().play("d0", X), 2, 0), "`granularity_samples` must be an integer of at least 1, but got 0"),
        (lambda: stretch(Schedule().play("d0", X), 2, "16"), "`granularity_samples` must be an integer of at least 1, but got '16'"),
        (lambda: extrapolate(None), "`measure` must be a function of the factor, but got None"),
        (lambda: extrapolate(lambda factor: factor, 1.0), "at least 2 different numbers from 1 on, but got 1.0"),
        (lambda: extrapolate(lambda factor: factor, ("1", "2")), "at least 2 different numbers from 1 on, but got ('1', '2')"),
        (lambda: extrapolate(lambda factor: factor, (True, 2)), "at least 2 different numbers from 1 on, but got (True, 2)"),
        (lambda: stretch(Schedule(), 0.5), "`factor` must be at least 1"),
        (lambda: stretch(Schedule().play("d0", X), 1.03), "whole multiples of 16"),
        (lambda: stretch(Schedule().play("d0", X), 1.03), "a multiple of 0.1, as 1 or 1.1"),
        (lambda: stretch(PulseBuilder(JAKARTA).cx(0, 1).schedule(), 1.5, backend=JAKARTA), "a multiple of 1, as 1 or 2"),
        (lambda: stretch(None, 2), "`schedule` must be a Schedule, but got a NoneType"),
        (lambda: stretch(Schedule(), 2, backend="jakarta"), "`backend` must be a TransmonBackend or None, but got a str"),
        (lambda: extrapolate(lambda factor: factor, degree=0), "`degree` must be an integer of at least 1, but got 0"),
        (lambda: extrapolate(lambda factor: factor, degree=1.5), "`degree` must be an integer of at least 1, but got 1.5"),
        (lambda: extrapolate(lambda factor: np.ones(2)), "`measure` must return a finite number, but at 1 returned array"),
        (lambda: extrapolate(lambda factor: math.nan), "`measure` must return a finite number, but at 1 returned nan"),
        (lambda: extrapolate(lambda factor: factor, (1.0, 1.0)), "at least 2 different"),
    ],
)
def test_mitigation_refuses_what_it_cannot_use(build, line: str) -> None:
    with pytest.raises(ValueError) as error:
        build()
    assert line in str(error.value) and "\n" not in str(error.value)


def test_extrapolation_does_not_depend_on_the_order_or_type_of_factors() -> None:
    factors = (3.0, 1.0, 2.0)
    found = [extrapolate(lambda factor: 2.0 - 0.25 * factor, kind(factors)).value for kind in (tuple, list, sorted, np.array, torch.tensor)]
    np.testing.assert_allclose(found, 2.0, rtol=1e-12)


# qiskit


def test_schedules_go_to_qiskit_and_back() -> None:
    pytest.importorskip("qiskit")
    from simulator.quantum.qiskit_bridge import from_qiskit, to_qiskit

    schedule = PulseBuilder(JAKARTA).sx(0).rz(0, 0.3).cx(0, 1).measure().schedule()
    schedule = Schedule(instructions=(*schedule.instructions, SetFrequency(channel="u1", start=0, frequency_hertz=5e9)))
    shapes = (Constant(duration_samples=64, amplitude=0.1), Gaussian(duration_samples=64, sigma_samples=9), Sampled.of([0.1, 0.2j]))
    for shape in shapes:
        schedule = schedule.play("m0", shape)
    again = from_qiskit(to_qiskit(schedule))
    assert again.instructions == schedule.instructions


def test_states_equal_those_of_qiskit_dynamics() -> None:
    """The oracle integrates the laboratory Hamiltonian with an adaptive solver, its rotating-wave cutoff between 0.3 and 9 GHz."""
    qiskit_dynamics = pytest.importorskip("qiskit_dynamics")
    from simulator.quantum.qiskit_bridge import to_qiskit

    backend = JAKARTA.ideal()
    schedule = (
        Schedule()
        .play("d0", Drag(duration_samples=64, sigma_samples=16, beta_samples=-1.5, amplitude=0.4))
        .shift_phase("d0", 0.7)
        .play("u0", GaussianSquare(duration_samples=64, sigma_samples=8, width_samples=32, amplitude=0.6))
        .play("d1", Constant(duration_samples=64, amplitude=0.3, angle_rad=0.4))
    )
    lowering = np.diag(np.sqrt([1.0, 2.0]), 1)
    parts = [np.kron(np.eye(3), lowering), np.kron(lowering, np.eye(3))]
    numbers = [part.T @ part for part in parts]
    total = 2 * np.pi * 1.955e-3 * (parts[0].T @ parts[1] + parts[1].T @ parts[0])
    for one, number in zip(backend.transmons, numbers, strict=True):
        total = total + 2 * np.pi * (one.frequency_hertz / 1e9 * number + one.anharmonicity_hertz / 2e9 * (number @ number - number))
    operators = [2 * np.pi * one.drive_hertz / 1e9 * (part + part.T) for one, part in zip(backend.transmons, parts, strict=True)]
    drives = np.array(backend.frame_hertz) / 1e9
    solver = qiskit_dynamics.Solver(
        static_hamiltonian=total,
        hamiltonian_operators=[operators[0], operators[1], operators[0]],
        hamiltonian_channels=["d0", "d1", "u0"],
        channel_carrier_freqs={"d0": drives[0], "d1": drives[1], "u0": drives[1]},
        dt=backend.sample_seconds * 1e9,
        rotating_frame=2 * np.pi * drives.mean() * (numbers[0] + numbers[1]),
        rwa_cutoff_freq=9.0,
        array_library="numpy",
    )
    nanoseconds = 64 * backend.sample_seconds * 1e9
    vectors = backend.model.dressing[1].numpy()
    solved = solver.solve(
        t_span=[0, nanoseconds], y0=vectors[:, 0], signals=to_qiskit(schedule), method="DOP853", atol=1e-8, rtol=1e-8, max_step=0.25
    )
    turned = np.exp(2j * np.pi * ((drives - drives.mean()) @ backend.model.occupations) * nanoseconds)
    oracle = (vectors.conj().T @ solved.y[-1]) * turned
    found = backend.evolve(schedule).numpy()
    overlap = abs(np.vdot(oracle, found)) ** 2 / np.vdot(oracle, oracle).real / np.vdot(found, found).real
    assert 1 - overlap < 2e-9
    assert np.abs(oracle - found).max() < 2e-5


def test_qiskit_runs_circuits_on_the_chip() -> None:
    qiskit = pytest.importorskip("qiskit")
    from qiskit.quantum_info import Statevector

    from simulator.quantum.qiskit_bridge import lower_circuit, qiskit_backend

    backend = JAKARTA.ideal()
    circuit = qiskit.QuantumCircuit(2, 2)
    circuit.h(1)
    circuit.cx(1, 0)
    circuit.ry(0.7, 0)
    circuit.rzz(0.4, 0, 1)
    circuit.ecr(0, 1)
    exact = Statevector(circuit).probabilities([1, 0])
    circuit.measure([0, 1], [1, 0])
    found = backend.probabilities(lower_circuit(circuit, backend)).numpy()
    np.testing.assert_allclose(found, exact, atol=0.03)
    device = qiskit_backend(backend)
    counts = device.run(qiskit.transpile(circuit, device), shots=4000, seed=1).result().get_counts()
    shares = np.array([counts.get(format(i, "02b"), 0) for i in range(4)]) / 4000
    np.testing.assert_allclose(shares, found, atol=0.04)
    assert device.target["cx"][0, 1].duration == pytest.approx(1216 * 2e-9 / 9)
    assert device.target["ecr"][0, 1].duration == pytest.approx(896 * 2e-9 / 9)
    np.testing.assert_allclose(GATES["ecr"].numpy(), qiskit.circuit.library.ECRGate().to_matrix(), atol=1e-15)


def test_the_bridge_refuses_what_it_has_no_form_of(monkeypatch: pytest.MonkeyPatch) -> None:
    qiskit = pytest.importorskip("qiskit")
    from simulator.quantum import qiskit_bridge

    circuit = qiskit.QuantumCircuit(3)
    with pytest.raises(ValueError, match="at most 2 qubits"):
        qiskit_bridge.lower_circuit(circuit, JAKARTA)
    circuit = qiskit.QuantumCircuit(1, 1)
    circuit.measure(0, 0)
    circuit.x(0)
    with pytest.raises(ValueError, match="must measure last"):
        qiskit_bridge.lower_circuit(circuit, JAKARTA)
    monkeypatch.setattr(qiskit, "__version__", "2.1.0")
    with pytest.raises(ImportError, match=r"needs qiskit 1\.x \(1\.3\.0 is tested\), but 2\.1\.0"):
        qiskit_bridge.to_qiskit(Schedule())
    monkeypatch.setitem(sys.modules, "qiskit", None)
    with pytest.raises(ImportError, match=r"inloop\[quantum\]"):
        qiskit_bridge.to_qiskit(Schedule())


def test_tomography_sees_all_six_rates() -> None:
    pulse = GaussianSquare(duration_samples=1536, sigma_samples=64, width_samples=1280, amplitude=0.3, angle_rad=0.8)
    found = cr_tomography(Bench(JAKARTA), PulseBuilder(JAKARTA), 0, 1, pulse, points=12)
    x, y = found.parameters["ZX"], found.parameters["ZY"]
    # A drive exp(i p) turns about the axis at -p.
    assert math.atan2(y, x) % math.pi == pytest.approx(-0.8 % math.pi, abs=0.1)
    assert len(found.measured) == 6 and found.figure().axes[0].get_legend() is not None
    assert gate_fidelities(JAKARTA.closed())["fidelity"].equals(gate_fidelities(JAKARTA.closed())["fidelity_with_relaxation"])
