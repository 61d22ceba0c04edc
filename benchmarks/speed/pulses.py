"""Propagation of pulses against what users would pick instead: two transmons of three levels, CPU time on one core.

``inloop bench speed/pulses`` times state evolution, the gradient of every sample, and open evolution, and prints each peer's time over
ours with its infidelity; peers that are not installed (qiskit-dynamics, jax, dynamiqs) are named and left out. Reference states come
from exact exponentials of a four times finer grid. It writes ``benchmarks/results/speed_pulses.json``.

All take turns: in each round every contestant repeats its call until 0.1 s have passed, one call at least. It begins when threads of the
contestant before it have come to rest, and a call of less than a second is repeated for 0.3 s before, uncounted: the caches were emptied,
and the processor idle. Ratios are taken within a round; their median is given, with quartiles.
"""

import tracemalloc
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from benchmarks.speed.pulse_peers import open_peers, peers, qiskit_jax, torch_gradient
from benchmarks.speed.pulse_problems import Problem, exact, infidelity, lindblad_reference
from benchmarks.timing import cpu_times, save
from devices import Coupling, Transmon, TransmonBackend
from devices.quantum.decoherence import collapse_operators
from kernels.pulses import carrier_averages, evolve
from kernels.random import Key, uniform

COMMAND = "inloop bench speed/pulses"
SIZES = ((160, 1), (160, 64), (1600, 1), (1600, 64))
PART = 8
"""Of the largest batch, how many members a peer's gradient is timed with; its time goes as their number, and is given for all."""
ROUND_SECONDS = 0.1
"""That a contestant repeats its call for in each round."""
METHOD = "CPU time over ours on one core; every contestant repeats its call for 0.1 s in each of the interleaved rounds, median of rounds"


def timed(calls: Mapping[str, Callable[[], Any]], rounds: int) -> pd.DataFrame:
    """Return the times of contestants who take turns."""
    return cpu_times(calls, repetitions=rounds, seconds=ROUND_SECONDS, warm=True)


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
    frame = timed(calls, 3 if problem.large else 5)
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
    frame = timed(calls, 5)
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
    frame = timed(calls, 7)
    frame["trace distance"] = frame["name"].map(errors)
    return frame


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
    frame = timed(calls, 3)
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
    print(METHOD)
    print(f"written to {save('speed_pulses', COMMAND, frame, method=METHOD)}")


if __name__ == "__main__":
    main()
