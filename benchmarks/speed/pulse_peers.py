"""What users would pick instead for pulses: torch's matrix_exp, qiskit-dynamics and dynamiqs, each as its documentation sets it up."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.speed.pulse_problems import TWO_PI, Problem, torch_states


def qiskit_numpy(problem: Problem, method: str = "RK45") -> Callable[[], Any]:
    """Return qiskit-dynamics' NumPy solver as its tutorials set it up: laboratory frame, GHz and ns, with a rotating-wave cutoff.

    The result is turned back from the frame of the whole static Hamiltonian into that of the reference.
    """
    from qiskit_dynamics import Solver
    from qiskit_dynamics.signals import DiscreteSignal

    nanoseconds = problem.seconds * 1e9
    model = problem.backend.model
    excitations = np.diag(model.occupations.sum(0)).astype(complex)
    total = problem.static / 1e9 + model.frame / 1e9 * excitations
    operators = [(one + one.conj().T) * 2 / 1e9 for one in problem.operators]
    drives = np.array(problem.backend.frame_hertz) / 1e9
    solver = Solver(
        static_hamiltonian=total, hamiltonian_operators=operators, rotating_frame=total, rwa_cutoff_freq=9.0, array_library="numpy"
    )
    ground = np.eye(9, dtype=complex)[0]

    def call() -> np.ndarray:
        found = []
        for samples in problem.samples:
            signals = [DiscreteSignal(nanoseconds, samples[:, q], carrier_freq=drives[q]) for q in range(2)]
            end = nanoseconds * samples.shape[0]
            state = solver.solve(t_span=[0, end], y0=ground, signals=signals, method=method, atol=1e-6, rtol=1e-6).y[-1]
            state = solver.model.rotating_frame.state_out_of_frame(end, state)
            found.append(np.exp(1j * model.frame / 1e9 * end * excitations.diagonal()) * state)
        return np.array(found)

    return call


def quadratures(problem: Problem) -> list[np.ndarray]:
    """Return the Hermitian operators that qiskit-dynamics drives, two for each drive, in GHz."""
    return [part for one in problem.operators / 1e9 for part in (one + one.conj().T, 1j * (one - one.conj().T))]


def quadrature_signals(problem: Problem, samples: Any) -> list[Any]:
    """Return what drives `quadratures`: samples of one member, ``(samples, 2)``, on their carriers, each with a copy a quarter behind."""
    from qiskit_dynamics.signals import DiscreteSignal

    signals = []
    for q, detuning in enumerate(problem.detunings / 1e9 / TWO_PI):
        for phase in (0.0, -np.pi / 2):
            signals.append(DiscreteSignal(dt=problem.seconds * 1e9, samples=samples[:, q], carrier_freq=detuning, phase=phase))
    return signals


def qiskit_jax(problem: Problem, method: str, steps: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return qiskit-dynamics' fixed-step JAX solver, compiled and mapped over the batch, and its gradient of every sample."""
    import jax
    import jax.numpy as jnp
    from qiskit_dynamics import Solver

    jax.config.update("jax_enable_x64", True)
    nanoseconds = problem.seconds * 1e9
    solver = Solver(static_hamiltonian=problem.static / 1e9, hamiltonian_operators=quadratures(problem), array_library="jax")
    ground = jnp.eye(9, dtype=complex)[0]
    count = problem.samples.shape[1]

    def one(real: Any, imaginary: Any) -> Any:
        signals = quadrature_signals(problem, real + 1j * imaginary)
        end = nanoseconds * count
        options = {"magnus_order": 2} if method == "jax_expm" else {}
        return solver.solve(t_span=[0, end], y0=ground, signals=signals, method=method, max_dt=nanoseconds / steps, **options).y[-1]

    batched = jax.jit(jax.vmap(one))
    parts = jnp.asarray(problem.samples.real), jnp.asarray(problem.samples.imag)
    gradient = jax.jit(jax.grad(lambda real, imaginary: (jnp.abs(jax.vmap(one)(real, imaginary)[:, 1]) ** 2).sum(), argnums=(0, 1)))
    return lambda: np.asarray(batched(*parts)), lambda: jax.block_until_ready(gradient(*parts))


def dynamiqs_states(problem: Problem, method: str) -> Callable[[], Any]:
    """Return dynamiqs' solver with piecewise-constant drives; a carrier inside a sample is sampled eight times."""
    import dynamiqs as dq
    import jax.numpy as jnp

    dq.set_precision("double")
    dq.set_progress_meter(False)
    parts = 8 if method == "expm" else 4
    count = problem.samples.shape[1]
    nanoseconds = problem.seconds * 1e9
    times = jnp.linspace(0.0, nanoseconds * count, count * parts + 1)
    middles = (np.arange(count * parts) + 0.5) * nanoseconds / parts
    carriers = np.exp(1j * problem.detunings[None] / 1e9 * middles[:, None])
    values = jnp.asarray(np.repeat(problem.samples, parts, 1) * carriers)
    operators = problem.operators / 1e9
    total = dq.constant(problem.static / 1e9)
    for q in range(2):
        total = total + dq.pwc(times, values[:, :, q], operators[q]) + dq.pwc(times, values[:, :, q].conj(), operators[q].conj().T)
    ground = dq.basis(9, 0)
    chosen = dq.method.Expm() if method == "expm" else dq.method.Tsit5(rtol=1e-6, atol=1e-6, max_steps=10_000_000)

    def call() -> np.ndarray:
        result = dq.sesolve(total, ground, jnp.array([0.0, nanoseconds * count]), method=chosen, save_states=False)
        return np.asarray(result.final_state.to_jax())[..., 0].reshape(-1, 9)

    return call


def peers(problem: Problem) -> dict[str, Callable[[], Callable[[], Any]]]:
    """Return what builds each peer's call, by name; absent packages are left out."""
    samples = torch.from_numpy(problem.samples)
    found: dict[str, Callable[[], Callable[[], Any]]] = {"torch matrix_exp": lambda: lambda: torch_states(problem, samples).numpy()}
    if find_spec("qiskit_dynamics"):
        if len(problem.samples) == 1:
            found["qiskit-dynamics NumPy RK45"] = lambda: qiskit_numpy(problem)
        if find_spec("jax"):
            found["qiskit-dynamics JAX expm"] = lambda: qiskit_jax(problem, "jax_expm", 1)[0]
            found["qiskit-dynamics JAX RK4"] = lambda: qiskit_jax(problem, "jax_RK4", 1)[0]
            found["qiskit-dynamics JAX RK4, 2 steps"] = lambda: qiskit_jax(problem, "jax_RK4", 2)[0]
    if find_spec("dynamiqs") and problem.samples.shape[1] * len(problem.samples) <= 12_000:
        if len(problem.samples) == 1:
            found["dynamiqs expm"] = lambda: dynamiqs_states(problem, "expm")
        found["dynamiqs Tsit5"] = lambda: dynamiqs_states(problem, "tsit5")
    return found


def torch_gradient(problem: Problem) -> Callable[[], Any]:
    """Return the torch peer's gradient of every sample, by autograd."""
    samples = torch.from_numpy(problem.samples).requires_grad_(True)

    def call() -> Tensor:
        return torch.autograd.grad((torch_states(problem, samples)[:, 1].abs() ** 2).sum(), samples)[0]

    return call


def open_peers(problem: Problem, collapses: list[np.ndarray]) -> dict[str, Callable[[], Callable[[], Any]]]:
    """Return what builds each peer's call of open evolution."""
    found: dict[str, Callable[[], Callable[[], Any]]] = {}
    if find_spec("jax") and find_spec("qiskit_dynamics"):
        found["qiskit-dynamics JAX RK4"] = lambda: qiskit_jax_open(problem, collapses)
    if find_spec("dynamiqs"):
        found["dynamiqs Tsit5"] = lambda: dynamiqs_open(problem, collapses)
    return found


def qiskit_jax_open(problem: Problem, collapses: list[np.ndarray]) -> Callable[[], Any]:
    """Return qiskit-dynamics' Lindblad solver, fixed steps of RK4 in JAX."""
    import jax
    import jax.numpy as jnp
    from qiskit_dynamics import Solver

    jax.config.update("jax_enable_x64", True)
    nanoseconds, count = problem.seconds * 1e9, problem.samples.shape[1]
    solver = Solver(
        static_hamiltonian=problem.static / 1e9,
        hamiltonian_operators=quadratures(problem),
        static_dissipators=[one / np.sqrt(1e9) for one in collapses],
        array_library="jax",
    )
    start = jnp.zeros((9, 9), complex).at[0, 0].set(1.0)

    def one(real: Any, imaginary: Any) -> Any:
        signals = quadrature_signals(problem, real + 1j * imaginary)
        return solver.solve(t_span=[0, nanoseconds * count], y0=start, signals=signals, method="jax_RK4", max_dt=nanoseconds).y[-1]

    call = jax.jit(one)
    parts = jnp.asarray(problem.samples[0].real), jnp.asarray(problem.samples[0].imag)
    return lambda: np.asarray(call(*parts))


def dynamiqs_open(problem: Problem, collapses: list[np.ndarray]) -> Callable[[], Any]:
    """Return dynamiqs' Lindblad solver."""
    import dynamiqs as dq
    import jax.numpy as jnp

    dq.set_precision("double")
    dq.set_progress_meter(False)
    parts, count, nanoseconds = 4, problem.samples.shape[1], problem.seconds * 1e9
    times = jnp.linspace(0.0, nanoseconds * count, count * parts + 1)
    middles = (np.arange(count * parts) + 0.5) * nanoseconds / parts
    values = jnp.asarray(np.repeat(problem.samples[0], parts, 0) * np.exp(1j * problem.detunings[None] / 1e9 * middles[:, None]))
    operators = problem.operators / 1e9
    total = dq.constant(problem.static / 1e9)
    for q in range(2):
        total = total + dq.pwc(times, values[:, q], operators[q]) + dq.pwc(times, values[:, q].conj(), operators[q].conj().T)
    jumps = [dq.asqarray(one / np.sqrt(1e9)) for one in collapses]
    chosen = dq.method.Tsit5(rtol=1e-6, atol=1e-6, max_steps=10_000_000)
    span = jnp.array([0.0, nanoseconds * count])

    def call() -> np.ndarray:
        result = dq.mesolve(total, jumps, dq.basis(9, 0), span, method=chosen, save_states=False)
        return np.asarray(result.final_state.to_jax())

    return call
