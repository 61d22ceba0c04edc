"""Propagation of pulses against what users would pick instead: two transmons of three levels, CPU time on one core.

``inloop bench speed/pulses`` times state evolution, the gradient of every sample, and open evolution, and prints each peer's time over
ours with its infidelity; peers that are not installed (qiskit-dynamics, jax, dynamiqs) are named and left out. Reference states come
from exact exponentials of a four times finer grid. It writes ``benchmarks/results/speed_pulses.json``.
"""

import tracemalloc
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from benchmarks.timing import cpu_times, save
from devices import Coupling, GaussianSquare, Transmon, TransmonBackend
from devices.quantum.decoherence import collapse_operators
from kernels.pulses import carrier_averages, evolve
from kernels.random import Key, uniform

COMMAND = "inloop bench speed/pulses"
TWO_PI = 2 * np.pi
SIZES = ((160, 1), (160, 64), (1600, 1), (1600, 64))
PART = 8
"""Of the largest batch, how many members a peer's gradient is timed with; its time goes as their number, and is given for all."""


@dataclass(frozen=True, eq=False)
class Problem:
    """Two transmons under random smooth pulses, one set for each member of the batch.

    Attributes
    ----------
    backend
        The chip.
    samples
        ``(batch, samples, 2)`` complex128.
    detunings
        Of the two drives in the frame of the Hamiltonian, rad/s.
    """

    backend: TransmonBackend
    samples: np.ndarray
    detunings: np.ndarray

    @classmethod
    def of(cls, count: int, batch: int) -> "Problem":
        """Make a problem: Gaussian pulses of random amplitudes and phases."""
        backend = TransmonBackend.preset("jakarta_like").replace(gates=None)
        model = backend.model
        draws = uniform(Key.of(seed=0, tile=count, purpose="pulses"), (batch, 2, 2)).double().numpy()
        amplitudes = 0.25 * draws[:, 0] * np.exp(2j * np.pi * draws[:, 1])
        edge = max(16, count // 10)
        shape = GaussianSquare(duration_samples=count, sigma_samples=edge / 2, width_samples=count - 2 * edge).samples()
        samples = amplitudes[:, None, :] * shape[None, :, None]
        detunings = TWO_PI * np.array(backend.frame_hertz) - model.frame
        return cls(backend, samples, detunings)

    @property
    def large(self) -> bool:
        """Whether slow peers take minutes for it."""
        return self.samples[..., 0].size > 20_000

    @property
    def seconds(self) -> float:
        """Duration of a sample."""
        return self.backend.sample_seconds

    @property
    def static(self) -> np.ndarray:
        """Hamiltonian without drives, rad/s."""
        found: np.ndarray = self.backend.hamiltonian().numpy()
        return found

    @property
    def operators(self) -> np.ndarray:
        """What the two drives multiply, rad/s at amplitude 1."""
        lowering = self.backend.model.system.operators.to_dense().numpy()
        rates = np.pi * np.array([one.drive_hertz for one in self.backend.transmons])
        found: np.ndarray = lowering * rates[:, None, None]
        return found


def ours(problem: Problem) -> Callable[[], Tensor]:
    """Return the call that is timed: states of the whole batch."""
    model = problem.backend.model
    count = problem.samples.shape[1]
    carriers = carrier_averages(np.broadcast_to(problem.detunings, (count, 2)), problem.seconds)
    mixing = model.mixing(("d0", "d1"))
    samples = torch.from_numpy(problem.samples)
    ground = torch.zeros(len(samples), 9, dtype=torch.complex128)
    ground[:, 0] = 1.0
    return lambda: evolve(model.system, samples, carriers, mixing, ground)


def our_gradient(problem: Problem) -> Callable[[], Tensor]:
    """Return the call that computes the gradient of a population with respect to every sample."""
    model = problem.backend.model
    count = problem.samples.shape[1]
    carriers = carrier_averages(np.broadcast_to(problem.detunings, (count, 2)), problem.seconds)
    mixing = model.mixing(("d0", "d1"))
    samples = torch.from_numpy(problem.samples).requires_grad_(True)
    ground = torch.zeros(len(samples), 9, dtype=torch.complex128)
    ground[:, 0] = 1.0

    def call() -> Tensor:
        loss = (evolve(model.system, samples, carriers, mixing, ground)[:, 1].abs() ** 2).sum()
        return torch.autograd.grad(loss, samples)[0]

    return call


def torch_states(problem: Problem, samples: Tensor) -> Tensor:
    """Return the states by torch's matrix_exp of all exponentials at once, multiplied as a tree."""
    count = samples.shape[1]
    carriers = torch.from_numpy(carrier_averages(np.broadcast_to(problem.detunings, (count, 2)), problem.seconds))
    operators = torch.from_numpy(problem.operators)
    static = torch.from_numpy(problem.static)
    drives = samples[:, :, None, :] * carriers
    driven = torch.einsum("bnhq,qij->bnhij", drives, operators)
    steps = torch.matrix_exp(-1j * problem.seconds * (0.5 * static + driven + driven.mH)).flatten(1, 2)
    while steps.shape[1] > 1:
        even = steps.shape[1] // 2 * 2
        product = steps[:, 1:even:2] @ steps[:, 0:even:2]
        steps = torch.cat([product, steps[:, even:]], 1)
    return steps[:, 0, :, 0]


def exact(problem: Problem, parts: int = 4) -> np.ndarray:
    """Return the states by exact exponentials of parts of samples."""
    fine = Problem(problem.backend.replace(sample_seconds=problem.seconds / parts), np.repeat(problem.samples, parts, 1), problem.detunings)
    found = [torch_states(fine, torch.from_numpy(fine.samples[b : b + 1])).numpy() for b in range(len(fine.samples))]
    return np.concatenate(found)


def infidelity(states: np.ndarray, reference: np.ndarray) -> float:
    """Return the largest infidelity of a batch."""
    overlap = np.abs((states.conj() * reference).sum(1)) ** 2
    return float((1 - overlap / (np.abs(states) ** 2).sum(1) / (np.abs(reference) ** 2).sum(1)).max())


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


def qiskit_jax(problem: Problem, method: str, steps: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return qiskit-dynamics' fixed-step JAX solver, compiled and mapped over the batch, and its gradient of every sample."""
    import jax
    import jax.numpy as jnp
    from qiskit_dynamics import Solver
    from qiskit_dynamics.signals import DiscreteSignal

    jax.config.update("jax_enable_x64", True)
    nanoseconds = problem.seconds * 1e9
    operators = problem.operators / 1e9
    pairs = [part for one in operators for part in (one + one.conj().T, 1j * (one - one.conj().T))]
    solver = Solver(static_hamiltonian=problem.static / 1e9, hamiltonian_operators=pairs, array_library="jax")
    detunings = problem.detunings / 1e9 / TWO_PI
    ground = jnp.eye(9, dtype=complex)[0]
    count = problem.samples.shape[1]

    def one(real: Any, imaginary: Any) -> Any:
        samples = real + 1j * imaginary
        signals = []
        for q, detuning in enumerate(detunings):
            signals.append(DiscreteSignal(dt=nanoseconds, samples=samples[:, q], carrier_freq=detuning))
            signals.append(DiscreteSignal(dt=nanoseconds, samples=samples[:, q], carrier_freq=detuning, phase=-np.pi / 2))
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


def closed(problem: Problem) -> pd.DataFrame:
    """Return state evolution of ours and of the peers."""
    reference = exact(problem)
    own = ours(problem)
    calls: dict[str, Callable[[], Any]] = {"inloop": lambda: own().numpy()}
    errors = {"inloop": infidelity(calls["inloop"](), reference)}
    for name, build in peers(problem).items():
        try:
            calls[name] = build()
            errors[name] = infidelity(calls[name](), reference)
        except Exception as error:  # a peer that fails is named and left out
            print(f"{name} left out: {type(error).__name__}: {str(error).splitlines()[0]:.100}")
            calls.pop(name, None)
    frame = cpu_times(calls, repetitions=2 if problem.large else 4)
    frame["infidelity"] = frame["name"].map(errors)
    return frame


def gradients(problem: Problem) -> pd.DataFrame:
    """Return the gradient of a population by every sample of ours and of the peers, and our pass that computes the population alone."""
    evolved = ours(problem)

    def population() -> Tensor:
        return (evolved()[:, 1].abs() ** 2).sum()

    batch = len(problem.samples)
    share = PART / batch if problem.large else 1.0
    part = replace(problem, samples=problem.samples[: round(share * batch)])
    calls: dict[str, Callable[[], Any]] = {"inloop gradient": our_gradient(problem), "inloop forward": population}
    calls["torch autograd, matrix_exp"] = torch_gradient(part)
    if find_spec("jax") and find_spec("qiskit_dynamics"):
        calls["qiskit-dynamics JAX expm gradient"] = qiskit_jax(part, "jax_expm", 1)[1]
    frame = cpu_times(calls, repetitions=4)
    theirs = ~frame["name"].str.startswith("inloop")
    frame.loc[theirs, ["seconds", "ratio", "ratio_low", "ratio_high"]] /= share
    if share < 1:
        frame.loc[theirs, "name"] += f", {PART} of {batch} members timed"
    return frame


def open_evolution() -> pd.DataFrame:
    """Return open evolution of 160 samples: time over ours, and trace distance to exponentials of the whole generator."""
    problem = Problem.of(160, 1)
    backend, model = problem.backend, problem.backend.model
    carriers = carrier_averages(np.broadcast_to(problem.detunings, (160, 2)), problem.seconds)
    start = torch.zeros(1, 9, 9, dtype=torch.complex128)
    start[0, 0, 0] = 1.0
    samples = torch.from_numpy(problem.samples)
    collapses = []
    for q, one in enumerate(backend.transmons):
        for operator in collapse_operators(one, 3):
            collapses.append(np.kron(np.eye(3), operator) if q == 0 else np.kron(operator, np.eye(3)))
    reference = lindblad_reference(problem, collapses)
    vectors, rates = model.dressing[1].numpy(), model.frame_rates

    def distance(found: np.ndarray) -> float:
        return float(0.5 * np.abs(np.linalg.eigvalsh(found - reference)).sum())

    def own() -> Tensor:
        return model.open_evolution(samples, ("d0", "d1"), carriers, start)[0]

    # Peers return bare states in the common frame; ours are dressed ones in the frame of the drives.
    turned = np.exp(-1j * rates * 160 * problem.seconds)
    bare = vectors @ (own().numpy() * turned[:, None] * turned.conj()) @ vectors.conj().T
    calls: dict[str, Callable[[], Any]] = {"inloop": own}
    errors = {"inloop": distance(bare)}
    for name, build in open_peers(problem, collapses).items():
        try:
            calls[name] = build()
            errors[name] = distance(calls[name]())
        except Exception as error:  # a peer that fails is named and left out
            print(f"{name} left out: {type(error).__name__}: {str(error).splitlines()[0]:.100}")
            calls.pop(name, None)
    frame = cpu_times(calls, repetitions=5)
    frame["trace distance"] = frame["name"].map(errors)
    return frame


def lindblad_reference(problem: Problem, collapses: list[np.ndarray]) -> np.ndarray:
    """Return the density matrix by exponentials of the whole generator on the fourth-order averages."""
    identity = np.eye(9)
    dissipation = np.zeros((81, 81), complex)
    for one in collapses:
        square = one.conj().T @ one
        dissipation += np.kron(one, one.conj()) - 0.5 * (np.kron(square, identity) + np.kron(identity, square.T))
    parts = 4
    count = problem.samples.shape[1] * parts
    seconds = problem.seconds / parts
    carriers = carrier_averages(np.broadcast_to(problem.detunings, (count, 2)), seconds)
    drives = np.repeat(problem.samples[0], parts, 0)[:, None] * carriers
    vector = np.zeros(81, complex)
    vector[0] = 1.0
    for exponential in drives.reshape(-1, 2):
        driven = np.tensordot(exponential, problem.operators, 1)
        total = 0.5 * problem.static + driven + driven.conj().T
        generator = -1j * (np.kron(total, identity) - np.kron(identity, total.T)) + 0.5 * dissipation
        vector = torch.matrix_exp(torch.from_numpy(generator * seconds)).numpy() @ vector
    return vector.reshape(9, 9)


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
    from qiskit_dynamics.signals import DiscreteSignal

    jax.config.update("jax_enable_x64", True)
    nanoseconds, count = problem.seconds * 1e9, problem.samples.shape[1]
    operators = problem.operators / 1e9
    pairs = [part for one in operators for part in (one + one.conj().T, 1j * (one - one.conj().T))]
    solver = Solver(
        static_hamiltonian=problem.static / 1e9,
        hamiltonian_operators=pairs,
        static_dissipators=[one / np.sqrt(1e9) for one in collapses],
        array_library="jax",
    )
    detunings = problem.detunings / 1e9 / TWO_PI
    start = jnp.zeros((9, 9), complex).at[0, 0].set(1.0)

    def one(real: Any, imaginary: Any) -> Any:
        samples = real + 1j * imaginary
        signals = []
        for q, detuning in enumerate(detunings):
            signals.append(DiscreteSignal(dt=nanoseconds, samples=samples[:, q], carrier_freq=detuning))
            signals.append(DiscreteSignal(dt=nanoseconds, samples=samples[:, q], carrier_freq=detuning, phase=-np.pi / 2))
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


def five_transmons() -> pd.DataFrame:
    """Return time and memory of a chain of five transmons of three levels, 1600 samples, state and gradient."""
    parts = tuple(
        Transmon(frequency_hertz=(5.0 + 0.11 * (q % 2) + 0.02 * q) * 1e9, anharmonicity_hertz=-340e6, drive_hertz=150e6) for q in range(5)
    )
    chain = tuple(Coupling(transmons=(q, q + 1), exchange_hertz=2e6) for q in range(4))
    backend = TransmonBackend(transmons=parts, couplings=chain)
    model = backend.model
    channels = tuple(f"d{q}" for q in range(5))
    samples = (0.1 * uniform(Key.of(seed=0, purpose="five"), (1, 1600, 5)).double()).to(torch.complex128)
    carriers, mixing = model.steady_carriers(channels, 1600), model.mixing(channels)
    ground = torch.zeros(1, 243, dtype=torch.complex128)
    ground[:, 0] = 1.0
    leaf = samples.clone().requires_grad_(True)

    def gradient() -> Tensor:
        return torch.autograd.grad((evolve(model.system, leaf, carriers, mixing, ground)[:, 1].abs() ** 2).sum(), leaf)[0]

    calls: dict[str, Callable[[], Any]] = {
        "five transmons, 1600 samples": lambda: evolve(model.system, samples, carriers, mixing, ground),
        "its gradient": gradient,
    }
    frame = cpu_times(calls, repetitions=2)
    frame["megabytes"] = [peak_megabytes(call) for call in calls.values()]
    return frame


def peak_megabytes(call: Callable[[], Any]) -> float:
    """Return the most memory that the arrays of a call take at one time."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


def measure() -> pd.DataFrame:
    """Return all measurements, a row per case and candidate."""
    frames = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for count, batch in SIZES:
            problem = Problem.of(count, batch)
            for what, frame in (("states", closed(problem)), ("gradients", gradients(problem))):
                frame.insert(0, "case", f"{what}, {count} samples, batch {batch}")
                print(frame.to_string(index=False), flush=True)
                frames.append(frame)
        for what, frame in (("open, 160 samples, batch 1", open_evolution()), ("five transmons of three levels", five_transmons())):
            frame.insert(0, "case", what)
            print(frame.to_string(index=False), flush=True)
            frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def main() -> None:
    """Measure, print and save."""
    frame = measure()
    print("CPU time over ours, one core, median of interleaved rounds")
    print(f"written to {save('speed_pulses', COMMAND, frame)}")


if __name__ == "__main__":
    main()
