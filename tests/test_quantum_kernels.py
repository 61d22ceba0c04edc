"""Propagators of pulses: the same states as dense exponentials, the orders they claim, and gradients that are exact."""

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import eights, open_pulses, pulses
from kernels.eights import EIGHT
from kernels.open_pulses import evolve_open
from kernels.pulses import carrier_averages, driven_system, evolve, exponential_series
from tests import naive_pulses

pytestmark = pytest.mark.kernels

COMPILED = not numba.config.DISABLE_JIT
"""Finite differences as plain Python are those along random directions; compiled, those of every number."""
DT = 2e-9 / 9
MEGAHERTZ = 2e6 * np.pi
LOWERING = np.diag(np.sqrt([1.0, 2.0]), 1)
PARTS = (np.kron(np.eye(3), LOWERING), np.kron(LOWERING, np.eye(3)))


def two_transmons() -> tuple[np.ndarray, np.ndarray]:
    """Return the Hamiltonian of two coupled qutrits in a common frame, rad/s, and their lowering operators."""
    total = np.zeros((9, 9), complex)
    for part, detuning, anharmonicity in zip(PARTS, (226, 4), (-340, -343), strict=True):
        number = part.T @ part
        total += MEGAHERTZ * (detuning * number + anharmonicity / 2 * (number @ number - number))
    total += 1.955 * MEGAHERTZ * (PARTS[0].T @ PARTS[1] + PARTS[1].T @ PARTS[0])
    return total, np.stack(PARTS).astype(complex)


STATIC, OPERATORS = two_transmons()
SYSTEM = driven_system(torch.from_numpy(STATIC), torch.from_numpy(OPERATORS), DT)
LEVELS = 3 if COMPILED else 2
"""Of each transmon where gradients are compared with differences: without the JIT two take a tenth of the time."""
CHOSEN = [i for i in range(9) if max(divmod(i, 3)) < LEVELS]
SMALLER = driven_system(torch.from_numpy(STATIC[np.ix_(CHOSEN, CHOSEN)]), torch.from_numpy(OPERATORS[:, CHOSEN][:, :, CHOSEN]), DT)
DETUNINGS = MEGAHERTZ * np.array([226.0, 4.0, 4.0])
MIXING = MEGAHERTZ / 2 * np.array([[155, 0, 150], [3, 129, 0]]).astype(complex)


def random_problem(seed: int, pulses: int, count: int, batch: int) -> tuple[torch.Tensor, np.ndarray, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    samples = 0.3 * torch.randn(pulses, count, 3, generator=generator, dtype=torch.complex128)
    states = torch.randn(batch, 9, generator=generator, dtype=torch.complex128)
    carriers = carrier_averages(np.broadcast_to(DETUNINGS, (count, 3)), DT)
    return samples, carriers, states / states.norm(dim=1, keepdim=True)


@settings(max_examples=15 if COMPILED else 3, deadline=None)
@given(seed=st.integers(0, 99), count=st.integers(0, 6), batch=st.integers(1, 20 if COMPILED else 5), shared=st.booleans())
def test_states_equal_exact_exponentials_in_both_backends(seed: int, count: int, batch: int, shared: bool) -> None:
    samples, carriers, states = random_problem(seed, 1 if shared else batch, count, batch)
    found = [evolve(SYSTEM, samples, carriers, MIXING, states, backend=backend) for backend in ("numba", "torch")]
    torch.testing.assert_close(*found, rtol=0, atol=1e-13)
    for b in range(batch):
        single = naive_pulses.magnus(STATIC, OPERATORS, samples[0 if shared else b].numpy(), DETUNINGS, MIXING, DT)
        assert np.abs(single @ states[b].numpy() - found[0][b].numpy()).max() < 3e-8


@settings(max_examples=12 if COMPILED else 3, deadline=None)
@given(seed=st.integers(0, 999), dimension=st.integers(1, 40 if COMPILED else 20), batch=st.sampled_from([1, 4]))
def test_any_sparse_hamiltonian_evolves_as_a_dense_one_does(seed: int, dimension: int, batch: int) -> None:
    """Long diagonals with gaps, entries that several drives share, and drives without any, forward and backward."""
    generator = np.random.default_rng(seed)

    def numbers(*shape: int) -> np.ndarray:
        return generator.standard_normal(shape) + 1j * generator.standard_normal(shape)

    static = np.triu(numbers(dimension, dimension), 1) * (generator.random((dimension, dimension)) < 0.1)
    static = static + static.conj().T + np.diag(generator.standard_normal(dimension))
    there = generator.random((3, dimension, dimension)) < [[[0.2]], [[0.05]], [[0]]]
    operators = np.triu(numbers(3, dimension, dimension), 1) * there
    system = driven_system(torch.from_numpy(0.05 * static), torch.from_numpy(0.05 * operators), 1.0)
    samples, states = (torch.from_numpy(0.1 * numbers(batch, *shape)) for shape in ((2, 2), (dimension,)))
    carriers, mixing = numbers(2, 2, 2), numbers(3, 2)
    found = []
    for backend in ("numba", "torch"):
        leaf, start = samples.clone().requires_grad_(True), states.clone().requires_grad_(True)
        end = evolve(system, leaf, carriers, mixing, start, backend=backend)
        (end[:, dimension // 2].abs() ** 2 + end.real.sum(1)).sum().backward()
        found.append((end.detach(), leaf.grad, start.grad))
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)


def test_eights_do_what_arrays_do() -> None:
    @numba.njit
    def work(numbers: np.ndarray, out: np.ndarray, scale: float) -> float:
        one, other = eights.load(numbers, 3), eights.load(numbers, 9)
        eights.store(out, 1, eights.plus(one, other, eights.spread(scale)))
        eights.store(out, 10, eights.minus(one, other, eights.spread(scale)))
        return float(eights.total(one))

    numbers, out = np.arange(20.0) ** 2, np.zeros(20)
    assert work(numbers, out, 0.5) == numbers[3:11].sum()
    expected = np.zeros(20)
    expected[1:9], expected[10:18] = numbers[3:11] + 0.5 * numbers[9:17], numbers[3:11] - 0.5 * numbers[9:17]
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("radius", [0.0, 0.02, 0.04, 0.2, 0.4])
def test_series_of_an_exponential_errs_as_chebyshev(radius: float) -> None:
    factors = exponential_series(radius)
    x = np.linspace(-radius, radius, 101)
    term = np.full(x.shape, factors[0], complex)
    total = term.copy()
    for factor in factors[1:]:
        term = factor * -1j * x * term
        total += term
    bound = 2 * (radius / 2) ** 8 / 40320
    assert np.abs(total - np.exp(-1j * x)).max() < 1.2 * bound + 1e-15
    if radius >= 0.2:
        assert np.abs(total - np.exp(-1j * x)).max() > 0.5 * bound


def test_large_hamiltonians_are_taken_in_parts() -> None:
    strong = driven_system(torch.from_numpy(12 * STATIC), torch.from_numpy(OPERATORS), DT)
    samples, carriers, states = random_problem(3, 1, 4, 2)
    exact = naive_pulses.magnus(12 * STATIC, OPERATORS, samples[0].numpy(), DETUNINGS, MIXING, DT)
    found = evolve(strong, samples, carriers, MIXING, states)
    assert pulses.pulse_series(strong, samples, MIXING)[1] > 4
    assert np.abs(states.numpy() @ exact.T - found.numpy()).max() < 1e-6


@pytest.mark.skipif(not COMPILED, reason="too long without the JIT")
def test_orders_of_convergence() -> None:
    """In infidelity the midpoint rule falls as the fourth power of the parts of a sample, the Magnus step as the eighth."""
    count = 24
    shape = np.sin(np.pi * (np.arange(count) + 0.5) / count)[:, None] * np.array([0.4, 0.3j, 0.5])
    # Slow samples, so that errors are seen above rounding.
    dt = 10 * DT
    ground = np.eye(9)[0]

    def state(parts: int, rule: str) -> np.ndarray:
        fine = np.repeat(shape, parts, 0)
        call = naive_pulses.magnus if rule == "magnus" else naive_pulses.midpoint
        return call(STATIC, OPERATORS, fine, DETUNINGS, MIXING, dt / parts) @ ground

    exact = state(16, "magnus")

    def infidelity(vector: np.ndarray) -> float:
        return float(np.linalg.norm(vector - exact * np.vdot(exact, vector)) ** 2)

    errors = {rule: [infidelity(state(parts, rule)) for parts in (1, 2, 4)] for rule in ("midpoint", "magnus")}
    orders = {rule: np.log2(found[1] / found[2]) for rule, found in errors.items()}
    assert 3.7 < orders["midpoint"] < 4.3
    assert 7.5 < orders["magnus"] < 8.5


@pytest.mark.parametrize(("pulses_", "batch"), [(1, 1), (3, 3), (1, 4), (9, 9), (1, 12)] if COMPILED else [(1, 1), (3, 3), (1, 5)])
def test_gradients_equal_finite_differences(pulses_: int, batch: int) -> None:
    samples, carriers, states = random_problem(5, pulses_, 4 if COMPILED else 2, batch)
    weights = torch.randn(batch, len(CHOSEN), generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def loss(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return (weights * evolve(SMALLER, one, carriers, MIXING, other).abs() ** 2).sum()

    leaves = samples.requires_grad_(True), states[:, CHOSEN].requires_grad_(True)
    assert torch.autograd.gradcheck(loss, leaves, eps=1e-5, atol=1e-8, rtol=1e-6, fast_mode=not COMPILED)


@pytest.mark.parametrize("batch", [2, EIGHT + 3] if COMPILED else [3])
def test_the_adjoint_without_memory_equals_the_one_with(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    samples, carriers, states = random_problem(7, batch, 11 if COMPILED else 3, batch)
    found = []
    for limit in (pulses.KEPT_BYTES, 1, 9000 if COMPILED else 5000):
        monkeypatch.setattr(pulses, "KEPT_BYTES", limit)
        leaf, start = samples.clone().requires_grad_(True), states.clone().requires_grad_(True)
        (evolve(SYSTEM, leaf, carriers, MIXING, start).abs()[:, 3] ** 2).sum().backward()
        found.append((leaf.grad, start.grad))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=1e-15)


@pytest.mark.parametrize(("scale", "parts"), [(0.5, 1), (3, 3)] if COMPILED else [(4, 3)])
@pytest.mark.parametrize(("pulses_", "batch"), [(2, 2), (1, 2), (EIGHT + 1,) * 2] if COMPILED else [(2, 2)])
def test_torch_differentiates_its_own_backend_to_the_same_gradient(pulses_: int, batch: int, scale: float, parts: int) -> None:
    """Few vectors one after the other, and more of them side by side, the last ones with lanes to spare; whole exponentials and parts."""
    system = driven_system(torch.from_numpy(scale * STATIC), torch.from_numpy(OPERATORS), DT)
    samples, carriers, states = random_problem(9, pulses_, 5 if COMPILED else 2, batch)
    assert pulses.pulse_series(system, samples, MIXING)[1] == parts
    found = []
    for backend in ("numba", "torch"):
        leaf, start = samples.clone().requires_grad_(True), states.clone().requires_grad_(True)
        (evolve(system, leaf, carriers, MIXING, start, backend=backend).abs()[:, 4] ** 2).sum().backward()
        found.append((leaf.grad, start.grad))
    torch.testing.assert_close(*found, rtol=0, atol=1e-13)


def channels(seed: int, levels: int = 3) -> np.ndarray:
    """Return channels of two transmons that keep the trace: random weights of each fall by k levels."""
    generator = np.random.default_rng(seed)
    factors = np.zeros((2, levels, levels, levels))
    for q in range(2):
        kraus = [np.diag(generator.uniform(0.1, 1.0, levels - k), k) for k in range(levels)]
        weight = sum(part.T @ part for part in kraus)
        kraus = [part / np.sqrt(np.diag(weight)) for part in kraus]
        for k, part in enumerate(kraus):
            for m, n in np.ndindex(levels - k, levels - k):
                factors[q, k, m, n] = part[m, m + k] * part[n, n + k]
    return factors


@settings(max_examples=10 if COMPILED else 2, deadline=None)
@given(seed=st.integers(0, 99), count=st.integers(1, 4), batch=st.integers(1, 3), stride=st.integers(1, 3))
def test_open_evolution_equals_its_twin(seed: int, count: int, batch: int, stride: int) -> None:
    samples, carriers, states = random_problem(seed, batch, count, batch)
    densities = states.unsqueeze(2) @ states.unsqueeze(1).conj()
    factors = channels(seed)
    if stride == 1:
        found = evolve_open(SYSTEM, samples, carriers, MIXING, densities, np.stack([factors, factors]))
        for b in range(batch):
            expected = naive_pulses.open_magnus(STATIC, OPERATORS, samples[b].numpy(), DETUNINGS, MIXING, DT, densities[b].numpy(), factors)
            assert np.abs(expected - found[b].numpy()).max() < 3e-8
            assert abs(found[b].diagonal().sum().item() - 1) < 1e-7
        return
    none = np.zeros_like(factors)
    none[:, 0] = 1.0
    found = evolve_open(SYSTEM, samples, carriers, MIXING, densities, np.stack([none, none]), stride=stride)
    pure = evolve(SYSTEM, samples, carriers, MIXING, states)
    torch.testing.assert_close(found, pure.unsqueeze(2) @ pure.unsqueeze(1).conj(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shared", [False, True])
def test_open_gradients_equal_finite_differences(stride: int, shared: bool) -> None:
    # A step of two samples, and one that is left over.
    samples, carriers, states = random_problem(5, 1 if shared else 2, 3, 2)
    factors = np.stack([channels(1, LEVELS), channels(2, LEVELS)])
    weights = torch.randn(2, len(CHOSEN), len(CHOSEN), generator=torch.Generator().manual_seed(1), dtype=torch.complex128)
    weights = weights + weights.mH

    def loss(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        densities = other.unsqueeze(2) @ other.unsqueeze(1).conj()
        return (weights * evolve_open(SMALLER, one, carriers, MIXING, densities, factors, stride=stride)).sum().real

    leaves = samples.requires_grad_(True), states[:, CHOSEN].requires_grad_(True)
    assert torch.autograd.gradcheck(loss, leaves, eps=1e-5, atol=1e-8, rtol=1e-6, fast_mode=not COMPILED)


@pytest.mark.skipif(not COMPILED, reason="too long without the JIT")
def test_splitting_relaxation_from_the_drive_is_exact_to_a_part_in_ten_millions() -> None:
    count = 48
    samples = torch.from_numpy(np.broadcast_to(np.array([0.3, 0.2j, 0.1]), (1, count, 3)).astype(complex).copy())
    carriers = carrier_averages(np.broadcast_to(DETUNINGS, (count, 3)), DT)
    rates = (1 / 30e-6, 1 / 20e-6)
    collapses = [np.sqrt(rate) * part for rate, part in zip(rates, PARTS, strict=True)]
    factors = np.zeros((2, 3, 3, 3))
    for q, rate in enumerate(rates):
        stay = np.exp(-0.5 * rate * 0.5 * DT)
        lost = 1 - stay**2
        factors[q, 0] = stay ** np.add.outer(np.arange(3), np.arange(3))
        for m, n in np.ndindex(2, 2):
            factors[q, 1, m, n] = np.sqrt((m + 1) * (n + 1)) * lost * stay ** (m + n)
        factors[q, 2, 0, 0] = lost**2
    density = torch.zeros(1, 9, 9, dtype=torch.complex128)
    density[0, 4, 4] = 1.0
    found = evolve_open(SYSTEM, samples, carriers, MIXING, density, np.stack([factors, factors]))[0].numpy()
    exact = naive_pulses.lindblad(STATIC, OPERATORS, samples[0].numpy(), DETUNINGS, MIXING, DT, density[0].numpy(), collapses)
    assert 0.5 * np.abs(np.linalg.eigvalsh(exact - found)).sum() < 1e-7


def good() -> dict:
    samples, carriers, states = random_problem(0, 1, 2, 2)
    return {"system": SYSTEM, "samples": samples, "carriers": carriers, "mixing": MIXING, "states": states}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"states": torch.zeros(2, 8, dtype=torch.complex128)}, "`states` must be complex128 of shape"),
        ({"states": torch.zeros(2, 9)}, "`states` must be complex128"),
        ({"samples": torch.zeros(3, 2, 3, dtype=torch.complex128)}, "`samples` must be complex128 of shape"),
        ({"samples": torch.zeros(1, 2, 3)}, "`samples` must be complex128"),
        ({"mixing": MIXING[:1]}, "`mixing` and `carriers`"),
        ({"backend": "cuda"}, "`backend` must be"),
        ({"samples": torch.full((1, 2, 3), np.nan, dtype=torch.complex128)}, "must be finite"),
        ({"samples": torch.full((1, 2, 3), 1e9, dtype=torch.complex128)}, "may by"),
    ],
)
def test_evolution_refuses_what_does_not_fit(change: dict, line: str) -> None:
    with pytest.raises(ValueError, match=r"^Arguments? [^\n]*$") as error:
        evolve(**{**good(), **change})
    assert line in str(error.value)


@pytest.mark.parametrize(
    ("static", "operators", "seconds", "line"),
    [
        (STATIC + np.triu(np.ones((9, 9))), OPERATORS, DT, "must be Hermitian"),
        (STATIC, OPERATORS.swapaxes(1, 2), DT, "strictly upper triangular"),
        (STATIC, OPERATORS, 0.0, "`sample_seconds` must be above 0"),
        (STATIC[:3], OPERATORS, DT, "square matrix"),
        (STATIC, OPERATORS[0], DT, "`operators` must have shape"),
        (STATIC * np.nan, OPERATORS, DT, "must be finite"),
        (STATIC.real, OPERATORS, DT, "must be complex128"),
    ],
)
def test_a_system_refuses_what_is_no_hamiltonian(static: np.ndarray, operators: np.ndarray, seconds: float, line: str) -> None:
    with pytest.raises(ValueError, match=line):
        driven_system(torch.from_numpy(static), torch.from_numpy(operators), seconds)


def test_open_evolution_refuses_what_does_not_fit() -> None:
    samples, carriers, _ = random_problem(0, 1, 2, 2)
    density = torch.zeros(2, 9, 9, dtype=torch.complex128)
    factors = np.zeros((2, 2, 3, 3, 3))
    for change, line in (
        ({"densities": density[:, :8]}, "`densities` and `factors`"),
        ({"factors": factors[:, :1]}, "`densities` and `factors`"),
        ({"samples": samples[:, :1]}, "`samples` must have shape"),
    ):
        arguments = {"samples": samples, "densities": density, "factors": factors, **change}
        with pytest.raises(ValueError, match=line):
            open_pulses.evolve_open(system=SYSTEM, carriers=carriers, mixing=MIXING, **arguments)
