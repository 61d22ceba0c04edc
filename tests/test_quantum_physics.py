"""A chip of transmons against closed forms: what drives, couplings, relaxation and readout do."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.optimize import minimize_scalar

from devices import (
    Constant,
    ControlChannel,
    Coupling,
    DesignError,
    Drag,
    Gaussian,
    GaussianSquare,
    Sampled,
    Schedule,
    Transmon,
    TransmonBackend,
)
from devices.quantum import GateSet, SetPhase
from devices.quantum import model as models
from devices.quantum.cross_resonance import cr_tomography
from devices.quantum.decoherence import channel_factors, collapse_operators, lindbladian
from devices.quantum.experiment import Bench
from devices.quantum.fidelity import GATES, average_gate_fidelity, computational_states
from devices.quantum.model import model_of
from devices.quantum.playing import play
from devices.quantum.readout import multinomial_counts
from devices.quantum.sequences import PulseBuilder
from devices.quantum.trajectory import Trajectory
from kernels import Key
from kernels.random import normal
from tests import naive_pulses

JAKARTA = TransmonBackend.preset("jakarta_like")
DT = JAKARTA.sample_seconds
TWO_PI = 2 * math.pi


def alone(levels: int = 3, detuning_hertz: float = 0.0, **fields: float) -> TransmonBackend:
    """Return one transmon as jakarta's first, driven off its frequency by `detuning_hertz`."""
    one = {"frequency_hertz": 5.2366e9, "anharmonicity_hertz": -339.9e6, "drive_hertz": 155.1e6} | fields
    gates = GateSet(frequencies_hertz=(one["frequency_hertz"] + detuning_hertz,))
    return TransmonBackend(transmons=(Transmon(**one),), levels=levels, gates=gates)


@pytest.mark.parametrize("detuning", [0.0, 7e6, -23e6])
def test_detuned_rabi_oscillation(detuning: float) -> None:
    amplitude = 0.1
    rabi = TWO_PI * 155.1e6 * amplitude
    turning = math.hypot(rabi, TWO_PI * detuning)
    backend = alone(2, detuning)
    for count in (64, 160, 640):
        found = backend.populations(Schedule().play("d0", Constant(duration_samples=count, amplitude=amplitude)))[1].item()
        assert found == pytest.approx((rabi / turning) ** 2 * math.sin(turning * count * DT / 2) ** 2, abs=1e-12)


def test_landau_zener_transition() -> None:
    """A drive whose frequency passes the transmon's leaves it in its ground state with probability exp(-2 pi g^2 / v)."""
    coupling, span, count = TWO_PI * 3e6, TWO_PI * 120e6, 2400
    speed = 2 * span / (count * DT)
    times = (np.arange(count) + 0.5 - count / 2) * DT
    edge = np.clip((1 - np.abs(times) / (count * DT / 2)) / 0.15, 0, 1)
    smooth = np.sin(0.5 * np.pi * edge) ** 2
    samples = 2 * coupling / (TWO_PI * 155.1e6) * smooth * np.exp(0.5j * speed * times**2)
    stays = alone(2).populations(Schedule().play("d0", Sampled.of(samples)))[0].item()
    assert stays == pytest.approx(math.exp(-TWO_PI * coupling**2 / speed), abs=2e-3)
    assert 0.2 < stays < 0.8


def pi_pulse(beta: float) -> tuple[float, float]:
    """Return 1 - P1 and leakage of a half turn of 160 samples with the best amplitude."""
    backend = alone(3)

    shape = Gaussian(duration_samples=160, sigma_samples=40).samples().real
    times = np.arange(160) + 0.5 - 80
    # The derivative of the lifted Gaussian itself; pulse libraries scale the lifted one by -t / sigma^2.
    edge = math.exp(-0.5 * (81 / 40) ** 2)
    derivative = -times / 40**2 * (shape + edge / (1 - edge))

    def populations(amplitude: float) -> torch.Tensor:
        return backend.populations(Schedule().play("d0", Sampled.of(amplitude * (shape + 1j * beta * derivative))))

    best = minimize_scalar(lambda one: 1 - populations(one)[1].item(), bounds=(0.15, 0.19), method="bounded", options={"xatol": 1e-9})
    found = populations(best.x)
    return 1 - found[1].item(), found[2].item()


def test_drag_takes_out_the_phase_error_or_the_leakage() -> None:
    bending = TWO_PI * -339.9e6 * DT
    plain, half, whole, opposite = (pi_pulse(beta) for beta in (0.0, 0.5 / bending, 1 / bending, -0.5 / bending))
    assert plain[0] == pytest.approx(1.1e-3, rel=0.05) and plain[1] == pytest.approx(8.7e-7, rel=0.05)
    assert half[0] == pytest.approx(3.9e-7, rel=0.05) and half[1] == pytest.approx(3.3e-7, rel=0.05)
    assert whole[0] == pytest.approx(1.06e-3, rel=0.05) and whole[1] == pytest.approx(1.7e-7, rel=0.05)
    assert opposite[0] == pytest.approx(4.3e-3, rel=0.05)


def test_exchange_makes_an_always_on_zz() -> None:
    """ZZ = 2 J^2 (a0 + a1) / ((D + a0) (D - a1)), 78.4 kHz for these two."""
    energies = model_of(JAKARTA).dressing[0]
    shift = (energies[4] - energies[1] - energies[3] + energies[0]) / TWO_PI
    j, gap, a0, a1 = 1.955e6, 222.2e6, -339.9e6, -343.2e6
    formula = 2 * j**2 * (a0 + a1) / ((gap + a0) * (gap - a1))
    assert formula == pytest.approx(78.4e3, rel=1e-3)
    assert shift == pytest.approx(formula, rel=1e-3)
    extra = JAKARTA.replace(couplings=(Coupling(transmons=(0, 1), exchange_hertz=0.0, zz_hertz=5e4),))
    energies = model_of(extra).dressing[0]
    assert (energies[4] - energies[1] - energies[3] + energies[0]) / TWO_PI == pytest.approx(5e4, rel=1e-6)


@pytest.mark.parametrize(("megahertz", "tolerance"), [(5.0, 0.004), (40.0, 0.09)])
def test_cross_resonance_rate(megahertz: float, tolerance: float) -> None:
    """The coefficient of ZX / 2 is -(J Omega / D) a / (a + D) for a weak drive, and falls behind it by 7 % at 40 MHz."""
    width = 8000 if megahertz < 10 else 1600
    drive = GaussianSquare(duration_samples=512 + width, sigma_samples=64, width_samples=width, amplitude=megahertz / 155.1)
    builder = PulseBuilder(JAKARTA.ideal())
    found = cr_tomography(Bench(JAKARTA.ideal()), builder, 0, 1, drive, points=12).parameters
    j, gap, bending = 1.955e6, 222.2e6, -339.9e6
    formula = -(j * megahertz * 1e6 / gap) * bending / (bending + gap)
    assert found["ZX"] == pytest.approx(formula, rel=tolerance)
    if megahertz > 10:
        assert abs(found["ZX"] / formula - 1) > 0.04
    assert abs(found["ZY"]) < 0.05 * abs(found["ZX"])


def test_relaxation_and_ramsey_decay() -> None:
    t1, t2 = 30e-6, 22e-6
    backend = alone(3, t1_seconds=t1, t2_seconds=t2)
    excited = torch.tensor([0, 1, 0], dtype=torch.complex128)
    even = torch.tensor([1, 1, 0], dtype=torch.complex128) / 2**0.5
    for count in (10, 1000, 100_000):
        idle = Schedule().delay("d0", count)
        assert backend.populations(idle, excited)[1].item() == pytest.approx(math.exp(-count * DT / t1), abs=1e-9)
        coherence = backend.evolve(idle, even)[0, 1]
        assert abs(coherence) == pytest.approx(0.5 * math.exp(-count * DT / t2), abs=1e-9)


def test_channels_of_a_transmon_are_the_exponential_of_its_lindbladian() -> None:
    one = Transmon(frequency_hertz=5e9, anharmonicity_hertz=-3e8, drive_hertz=1e8, t1_seconds=20e-6, t2_seconds=15e-6)
    assert one.dephasing_hertz == pytest.approx(1 / 15e-6 - 1 / 40e-6)
    relaxing, dephasing = collapse_operators(one, 3)
    np.testing.assert_allclose(relaxing, math.sqrt(1 / 20e-6) * np.diag(np.sqrt([1, 2]), 1))
    np.testing.assert_allclose(dephasing, math.sqrt(2 * one.dephasing_hertz) * np.diag([0, 1, 2]))
    factors = channel_factors(one, 3, 7e-6)
    for n in range(3):  # the trace is kept: what leaves a level arrives below
        assert sum(factors[k, n - k, n - k] for k in range(n + 1)) == pytest.approx(1.0, abs=1e-14)
    np.testing.assert_allclose(factors[0, 0, 1], math.exp(-7 / 15), rtol=1e-12)
    np.testing.assert_allclose(factors[0, 2, 2], math.exp(-2 * 7 / 20), rtol=1e-12)


def test_a_driven_chip_follows_the_full_lindbladian() -> None:
    schedule = Schedule().play("d0", Drag(duration_samples=64, sigma_samples=16, beta_samples=-1, amplitude=0.42)).delay("d0", 64)
    model = model_of(JAKARTA)
    played = play(model, schedule)
    frequencies = np.array([model.lines[name].frequency - model.frame for name in played.channels])
    collapses = []
    for q, one in enumerate(JAKARTA.transmons):
        for own in collapse_operators(one, 3):
            collapses.append(np.kron(np.eye(3), own) if q == 0 else np.kron(own, np.eye(3)))
    start = torch.zeros(9, 9, dtype=torch.complex128)
    start[3, 3] = 1.0
    found = JAKARTA.evolve(schedule, start)
    vectors = model.dressing[1].numpy()
    exact = naive_pulses.lindblad(
        JAKARTA.hamiltonian().numpy(),
        model.system.operators.to_dense().numpy(),
        played.samples,
        frequencies,
        model.mixing(played.channels),
        DT,
        vectors @ start.numpy() @ vectors.conj().T,
        collapses,
    )
    turned = np.exp(1j * model.frame_rates * played.duration * DT)
    exact = (vectors.conj().T @ exact @ vectors) * turned[:, None] * turned.conj()
    assert 0.5 * np.abs(np.linalg.eigvalsh(exact - found.numpy())).sum() < 1e-7
    assert found.diagonal().sum().item() == pytest.approx(1.0, abs=1e-7)
    assert torch.linalg.eigvalsh(found).min().item() > -1e-12


def test_waiting_equals_stepping_through_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = PulseBuilder(JAKARTA).sx(0).sx(1).wait(0, 320).sx(0).schedule()
    states = [(JAKARTA.unitary(schedule), JAKARTA.evolve(schedule))]
    monkeypatch.setattr(models, "SHORTEST_WAIT", 10**9)
    states.append((JAKARTA.unitary(schedule), JAKARTA.evolve(schedule)))
    torch.testing.assert_close(states[0], states[1], rtol=0, atol=2e-7)
    monkeypatch.setattr(models, "SHORTEST_WAIT", 32)
    monkeypatch.setattr(models, "LARGEST_GENERATOR", 1)
    torch.testing.assert_close(JAKARTA.evolve(schedule), states[0][1], rtol=0, atol=2e-7)


def test_lindbladian_keeps_the_trace_and_matches_the_hamiltonian() -> None:
    generator = lindbladian(JAKARTA)
    trace = np.eye(9).reshape(-1)
    assert np.abs(trace @ generator).max() < 1e-6 * np.abs(generator).max()
    closed = lindbladian(JAKARTA.closed())
    hamiltonian = JAKARTA.hamiltonian().numpy()
    matrix = np.arange(81).reshape(9, 9) + 1j
    np.testing.assert_allclose(
        (closed @ matrix.reshape(-1)).reshape(9, 9), -1j * (hamiltonian @ matrix - matrix @ hamiltonian), rtol=1e-12, atol=1e-3
    )


def test_crosstalk_drives_in_proportion() -> None:
    """A drive on one of two equal, uncoupled transmons turns the other one by the share that reaches it."""
    same = Transmon(frequency_hertz=5e9, anharmonicity_hertz=-3e8, drive_hertz=100e6)
    backend = TransmonBackend(transmons=(same, same), levels=2, crosstalk=((1.0, 0.25), (0.0, 1.0)))
    found = backend.populations(Schedule().play("d1", Constant(duration_samples=160, amplitude=0.1)))
    angle = TWO_PI * 10e6 * 160 * DT
    ones = [math.sin(angle * share / 2) ** 2 for share in (0.25, 1.0)]
    expected = [(1 - ones[0]) * (1 - ones[1]), ones[0] * (1 - ones[1]), (1 - ones[0]) * ones[1], ones[0] * ones[1]]
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-10)


def test_virtual_z_turns_the_next_pulse() -> None:
    for angle in (0.0, 0.7, math.pi, -2.0):
        schedule = PulseBuilder(JAKARTA.ideal()).sx(0).rz(0, angle).sx(0).schedule()
        assert JAKARTA.ideal().populations(schedule)[1].item() == pytest.approx(math.cos(angle / 2) ** 2, abs=2e-3)


def test_a_trajectory_passes_through_the_states_of_shorter_schedules() -> None:
    samples = GaussianSquare(duration_samples=320, sigma_samples=32, width_samples=192, amplitude=0.15).samples()
    whole, half = (Schedule().play("d0", Sampled.of(samples[:count])).delay("d1", count) for count in (320, 160))
    path = JAKARTA.follow(whole, points=4)
    np.testing.assert_allclose(path.seconds, np.arange(5) * 80 * DT, rtol=1e-12)
    for place, schedule in ((2, half), (4, whole)):
        np.testing.assert_allclose(path.densities[place], JAKARTA.evolve(schedule).numpy(), atol=1e-9)
    np.testing.assert_allclose(path.populations.sum(1), 1.0, atol=1e-8)
    np.testing.assert_allclose(path.populations[0], np.eye(9)[0], atol=1e-12)
    assert len(path.population_figure().axes[0].lines) == 2, "states that stay empty are left out"
    assert path.bloch_figure(0).axes[0].get_title() == "q0"


def test_bloch_vectors_of_known_states() -> None:
    plus, turned = np.array([1, 1, 0]) / 2**0.5, np.array([1, 1j, 0]) / 2**0.5
    product = np.kron(turned, plus)  # transmon 0 is the lowest digit
    path = Trajectory(np.zeros(1), np.outer(product, product.conj())[None], levels=3, count=2)
    np.testing.assert_allclose(path.bloch(0), [[1, 0, 0]], atol=1e-12)
    np.testing.assert_allclose(path.bloch(1), [[0, 1, 0]], atol=1e-12)


def test_drift_has_its_standard_deviation_and_repeats_by_trial() -> None:
    backend = alone(2, frequency_drift_hertz=30e3)
    moved = [backend.drifted(3, trial).transmons[0].frequency_hertz - 5.2366e9 for trial in range(400)]
    draws = np.array(moved) / 30e3
    assert scipy.stats.kstest(draws, "norm").pvalue > 1e-3
    assert backend.drifted(3, 7) == backend.drifted(3, 7) != backend.drifted(4, 7)
    drawn = normal(Key.of(seed=3, trial=7, purpose="frequency drift"), 1).double().item()
    assert draws[7] == pytest.approx(drawn, abs=1e-6)
    assert backend.drifted(3, 7).frame_hertz == backend.frame_hertz


def test_shots_scatter_as_a_binomial() -> None:
    backend = alone(2)
    schedule = Schedule().play("d0", Constant(duration_samples=64, amplitude=0.1)).acquire([0], 1600)
    p = backend.probabilities(schedule)[1].item()
    ones = np.array([backend.run(schedule, shots=200, seed=seed).get("1", 0) for seed in range(400)])
    assert abs(ones.mean() / 200 - p) < 4 * math.sqrt(p * (1 - p) / 200 / 400)
    assert ones.var(ddof=1) == pytest.approx(200 * p * (1 - p), rel=0.25)
    assert backend.run(schedule, shots=200, seed=5) == backend.run(schedule, shots=200, seed=5)


@pytest.mark.parametrize("shots", [7, 1000, 10**12])
def test_counts_drawn_at_once_are_multinomial(shots: int) -> None:
    """Means, variances and covariances of 3000 draws, each within five of its own standard errors."""
    shares, draws = np.array([0.1, 0.0, 0.2, 0.05, 0.65]), 3000
    counts = multinomial_counts(np.tile(shares, (draws, 1)), shots, Key.of(seed=3))
    assert (counts.sum(1) == shots).all() and (counts[:, 1] == 0).all() and (counts >= 0).all()
    open_ = shares > 0
    scaled = (counts - shots * shares)[:, open_] / math.sqrt(shots)
    covariance = np.diag(shares) - np.outer(shares, shares)
    deviations = np.sqrt(np.diag(covariance)[open_])
    assert (np.abs(scaled.mean(0)) < 5 * deviations / math.sqrt(draws)).all()
    # An estimated covariance has the standard error sqrt((s_ab^2 + s_aa s_bb) / n), and a bit more where few shots make tails heavy.
    expected = covariance[np.ix_(open_, open_)]
    error = np.sqrt((expected**2 + np.outer(deviations, deviations) ** 2) / draws) * math.sqrt(1 + 3 / shots)
    assert (np.abs(np.cov(scaled.T) - expected) < 5 * error).all()


def test_any_number_of_shots_is_counted_at_once() -> None:
    schedule = PulseBuilder(JAKARTA).sx(0).measure([0]).schedule()
    shots = 10**12
    found = JAKARTA.run(schedule, shots=shots, seed=1)
    share = float(JAKARTA.probabilities(schedule)[1])
    assert found.shots == shots
    assert abs(found["1"] / shots - share) < 5 * math.sqrt(share * (1 - share) / shots)


def test_a_list_of_schedules_is_run_one_after_the_other() -> None:
    schedules = [PulseBuilder(JAKARTA).sx(0).measure([0]).schedule()] * 2
    counts = JAKARTA.run(schedules, shots=500, seed=4)
    assert counts[0] == JAKARTA.run(schedules[0], shots=500, seed=4) and counts[0] != counts[1]
    assert JAKARTA.run([], shots=500) == []


def test_the_propagator_with_frames_is_the_gate() -> None:
    ideal = JAKARTA.ideal()
    states = computational_states(3, [0, 1])
    for name, control, target in (("cx", 0, 1), ("cx", 1, 0), ("ecr", 0, 1)):
        schedule = getattr(PulseBuilder(ideal), name)(control, target).schedule()
        order = computational_states(3, [control, target])
        block = ideal.unitary(schedule, frames=True)[order][:, order]
        assert average_gate_fidelity(block, GATES[name])[0] > 0.999
    turned = Schedule().shift_phase("d1", 0.3).add(SetPhase(channel="d1", start=0, phase_rad=0.7)).shift_phase("d1", 0.1)
    expected = torch.diag(torch.exp(0.8j * torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64)))
    torch.testing.assert_close(ideal.unitary(turned, frames=True)[states][:, states], expected, rtol=0, atol=1e-12)


def test_readout_of_a_product_state_is_not_correlated() -> None:
    schedule = PulseBuilder(JAKARTA).sx(0).sx(1).measure().schedule()
    counts = JAKARTA.run(schedule, shots=40_000, seed=1)
    table = np.array([[counts.get("00", 0), counts.get("01", 0)], [counts.get("10", 0), counts.get("11", 0)]])
    assert scipy.stats.chi2_contingency(table).pvalue > 1e-3


def test_given_assignments_correlate() -> None:
    matrix = np.array([[0.9, 0.1, 0.1, 0.0], [0.0, 0.8, 0.0, 0.1], [0.0, 0.1, 0.8, 0.0], [0.1, 0.0, 0.1, 0.9]])
    backend = JAKARTA.ideal().replace(assignment=tuple(map(tuple, matrix.tolist())))
    idle = Schedule().acquire([0, 1], 1600)
    np.testing.assert_allclose(backend.probabilities(idle).numpy(), matrix[:, 0], atol=1e-12)
    assert set(backend.run(idle, shots=2000)) == {"00", "11"}
    swapped = Schedule().acquire([1], 1600)
    np.testing.assert_allclose(backend.probabilities(swapped).numpy(), [0.9, 0.1], atol=1e-12)


def test_error_rates_of_readout_and_levels_above_one() -> None:
    states = torch.eye(9, dtype=torch.complex128)
    read = [JAKARTA.probabilities(Schedule(), states[index]).numpy() for index in (0, 1, 3, 8)]
    one = [[[1 - 0.0064, 0.0356], [0.0064, 1 - 0.0356]], [[1 - 0.0150, 0.0260], [0.0150, 1 - 0.0260]]]
    both = np.kron(one[1], one[0])
    np.testing.assert_allclose(np.stack(read), both.T, atol=1e-9)


def test_a_density_matrix_evolves_as_its_vectors_do() -> None:
    backend = JAKARTA.ideal()
    schedule = PulseBuilder(backend).sx(0).rz(0, 0.3).sx(1).schedule()
    first, second = torch.eye(9, dtype=torch.complex128)[[1, 4]]
    mixed = 0.25 * torch.outer(first, first) + 0.75 * torch.outer(second, second)
    ends = [backend.evolve(schedule, one) for one in (first, second)]
    expected = 0.25 * torch.outer(ends[0], ends[0].conj()) + 0.75 * torch.outer(ends[1], ends[1].conj())
    found = backend.evolve(schedule, mixed)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert not found.is_conj()  # which NumPy would refuse
    unitary = backend.unitary(schedule)
    torch.testing.assert_close(unitary @ first, ends[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(unitary @ unitary.mH, torch.eye(9, dtype=torch.complex128), rtol=0, atol=1e-7)


@pytest.mark.parametrize("levels", [2, 3, 4])
def test_any_graph_of_transmons_keeps_its_norm(levels: int) -> None:
    parts = tuple(Transmon(frequency_hertz=f * 1e9, anharmonicity_hertz=-330e6, drive_hertz=100e6) for f in (5.0, 5.13, 4.91))
    ring = tuple(Coupling(transmons=pair, exchange_hertz=2e6) for pair in ((0, 1), (1, 2), (2, 0)))
    backend = TransmonBackend(transmons=parts, couplings=ring, levels=levels)
    assert backend.dimension == levels**3 and len(backend.control_channels) == 6
    assert backend.control_channel(2, 0) == "u4"
    end = backend.evolve(Schedule().play("u4", Constant(duration_samples=64, amplitude=0.3)).play("d1", Constant(duration_samples=64)))
    assert end.norm().item() == pytest.approx(1.0, abs=1e-6)
    total = backend.hamiltonian()
    torch.testing.assert_close(total, total.mH)


def test_a_part_of_a_chip_is_that_part() -> None:
    seven = TransmonBackend.preset("jakarta_seven_like")
    assert seven.count == 7 and len(seven.couplings) == 6
    assert seven.control_channel(3, 5) == "u6", "numbered as the device's coupling map does"
    first = seven.part([0, 1])
    assert first.replace(controls=None) == JAKARTA.replace(gates=None) and first.control_channels == JAKARTA.control_channels
    crossed = JAKARTA.replace(crosstalk=((0.0, 0.1), (0.2, 0.0)))
    turned = crossed.part([1, 0])
    assert turned.control_channel(0, 1) == "u1"
    own, other = (
        chip.populations(
            Schedule()
            .play(f"d{q}", Constant(duration_samples=64, amplitude=0.2))
            .play(chip.control_channel(1 - q, q), Constant(duration_samples=64, amplitude=0.5))
        )
        for chip, q in ((crossed, 0), (turned, 1))
    )
    torch.testing.assert_close(other.reshape(3, 3).T.flatten(), own, rtol=0, atol=1e-9)
    assert JAKARTA.part([1]).gates.cross_resonance == () and JAKARTA.part([1]).gates.x == JAKARTA.gates.x[1:]


def test_hamiltonian_of_two_transmons_element_by_element() -> None:
    frame = JAKARTA.model.frame
    total = JAKARTA.hamiltonian().numpy()
    w0, w1 = TWO_PI * 5.2366e9 - frame, TWO_PI * 5.0144e9 - frame
    assert total[1, 1] == pytest.approx(w0) and total[3, 3] == pytest.approx(w1)
    assert total[2, 2] == pytest.approx(2 * w0 - TWO_PI * 339.9e6)
    assert total[1, 3] == pytest.approx(TWO_PI * 1.955e6) and total[4, 2] == pytest.approx(TWO_PI * 1.955e6 * 2**0.5)
    assert total[5, 7] == pytest.approx(TWO_PI * 1.955e6 * 2)
    assert np.count_nonzero(total - np.diag(total.diagonal())) == 8


def chain(count: int, levels: int = 4) -> TransmonBackend:
    one = Transmon(frequency_hertz=5e9, anharmonicity_hertz=-3e8, drive_hertz=1e8, t1_seconds=1e-4)
    return TransmonBackend(transmons=(one,) * count, levels=levels)


@pytest.mark.parametrize(
    ("build", "line"),
    [
        (lambda: Transmon(frequency_hertz=5e9, anharmonicity_hertz=0, drive_hertz=1, t1_seconds=1e-5, t2_seconds=3e-5), "at most twice"),
        (lambda: Coupling(transmons=(1, 1), exchange_hertz=1), "two different"),
        (lambda: JAKARTA.replace(couplings=(Coupling(transmons=(0, 2), exchange_hertz=1),)), "`couplings` must join"),
        (lambda: JAKARTA.replace(controls=(ControlChannel(driven=0, frame_of=5),)), "`controls` must name"),
        (lambda: JAKARTA.replace(levels=5), "`levels`"),
        (lambda: JAKARTA.replace(crosstalk=((1.0, 0.0),)), "`crosstalk` must have 2 rows"),
        (lambda: JAKARTA.replace(assignment=((1.0, 0.0), (0.0, 1.0))), "`assignment` must have 4 rows"),
        (lambda: JAKARTA.replace(assignment=((0.5,) * 4,) * 4), "add up to 1"),
        (lambda: chain(3).replace(gates=JAKARTA.gates), "`gates` must be those of 3"),
        (lambda: JAKARTA.control_channel(1, 1), "`controls` must have a channel"),
        (lambda: JAKARTA.evolve(Schedule(), torch.zeros(4)), "`state` must be a complex128"),
        (lambda: JAKARTA.evolve(Schedule(), [1, 0]), "but got a list"),
        (lambda: JAKARTA.evolve(Schedule(), torch.ones(9).to(torch.complex128)), "they add up to 9"),
        (
            lambda: JAKARTA.evolve(Schedule(), torch.eye(9).to(torch.complex128).roll(1, 0) + torch.eye(9) / 9),
            "differs from its adjoint by 1",
        ),
        (lambda: JAKARTA.follow(Schedule()).bloch(2), "`transmon` must be 0 to 1"),
        (lambda: PulseBuilder(JAKARTA).rz(-1, 0.5), "`transmon` must be 0 to 1"),
        (lambda: JAKARTA.part([0, 0]), "`transmons` must be different ones of 0 to 1"),
        (lambda: JAKARTA.replace(assignment=np.eye(4).tolist()).part([0]), "`assignment` must be None for a part"),
        (lambda: JAKARTA.run(Schedule()), "must record at least one"),
        (lambda: JAKARTA.run(Schedule().acquire([0], 1600), shots=0), "`shots` must be"),
        (lambda: JAKARTA.run(Schedule().acquire([0], 1600), shots=10**16), "at least 1 and at most 1e+15"),
        (lambda: JAKARTA.run(Schedule().acquire([0], 1600), seed=1.5), "`seed` must be an integer, but got 1.5"),
        (lambda: JAKARTA.drifted(0, trial=0.5), "`trial` must be an integer, but got 0.5"),
        (lambda: JAKARTA.run([Schedule().acquire([0], 1600), None]), "`schedule` must be a Schedule, but got a NoneType"),
        (lambda: JAKARTA.run([Schedule()]), "must record at least one"),
        (lambda: JAKARTA.follow(Schedule(), points=0), "`points` must be an integer of at least 1, but got 0"),
        (lambda: Schedule().acquire(0, 1024), "`transmons` must be a list of numbers from 0, but got 0; write [0]"),
        (lambda: Schedule.from_json(None), "`text` must be a text, but got a NoneType"),
        (lambda: PulseBuilder(JAKARTA).measure(0), "`transmons` must be a list of numbers from 0, but got 0"),
        (lambda: PulseBuilder(JAKARTA).measure([2]), "`transmon` must be 0 to 1, but got 2"),
        (lambda: PulseBuilder(JAKARTA).barrier(9), "`transmon` must be 0 to 1, but got 9"),
        (lambda: PulseBuilder(JAKARTA).x(5), "`transmon` must be 0 to 1, but got 5"),
        (lambda: PulseBuilder(JAKARTA).rz(0, "a"), "`angle_rad` must be a finite number, but got 'a'"),
        (lambda: PulseBuilder(JAKARTA).cx(0, 0), "`target` must be another transmon than `control`"),
        (lambda: JAKARTA.unitary(Schedule(), frames="x"), "`frames` must be True or False, but got 'x'"),
        (lambda: JAKARTA.unitary(Schedule(), frames=1), "`frames` must be True or False, but got 1"),
        (lambda: JAKARTA.unitary(Schedule().to_json()), "`schedule` must be a Schedule, but got a str"),
        (lambda: JAKARTA.part(0), "`transmons` must be a list"),
        (lambda: JAKARTA.unitary(Schedule().play("a0", Constant(duration_samples=64, amplitude=0.1))), "is for recordings"),
        (lambda: PulseBuilder(alone()).sx(0), "`sx` must have a pulse"),
        (lambda: PulseBuilder(JAKARTA.replace(gates=None)), "`gates` must be calibrated"),
        (lambda: PulseBuilder(JAKARTA).zx(1, 0), "must have the pair (1, 0)"),
    ],
)
def test_a_chip_refuses_what_it_cannot_be_or_do(build, line: str) -> None:
    with pytest.raises(DesignError, match=r"^[^\n]*$") as error:
        build()
    assert line in str(error.value)


def test_more_transmons_than_memory_allows_are_refused_with_the_bytes() -> None:
    backend = chain(14)
    with pytest.raises(DesignError, match=r"unitary evolution of 14 transmons of 4 levels needs 4\.61e\+18 bytes of the"):
        backend.unitary(Schedule())


def test_a_long_open_evolution_is_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it begins: seven transmons of three levels take an hour for what two take a millisecond."""
    monkeypatch.setattr("devices.quantum.backend.FLOPS", 1.0)  # 16 * 9**3 * 32 of them
    short = Schedule().play("d0", Constant(duration_samples=64, amplitude=0.1))
    with pytest.warns(UserWarning, match=r"open evolution of 2 transmons of 3 levels over 64 samples takes some 6221 minutes"):
        JAKARTA.evolve(short)
