"""Propagators of driven quantum systems and their adjoints: a fourth-order Magnus step for each sample of a control pulse.

The Hamiltonian is ``H(t) = S + sum_q (f_q(t) O_q + h.c.)`` with ``f_q(t) = sum_c M_qc s_c(t) w_c(t)``: samples s that are constant for
one sample time, and carriers w that turn within it. Each sample is the commutator-free step of order 4 with two exponentials, whose edges
lie on the edges of the sample; each exponential is a Chebyshev series of degree 7. Numba for the CPU and torch for any device.
"""

import math
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Complex128
from numpy.polynomial.chebyshev import cheb2poly, chebinterpolate
from torch import Tensor

from kernels.eights import EIGHT
from kernels.once import once_differentiable
from kernels.pulse_plans import Plan, plan
from kernels.pulse_steps import ORDER, evolve_vectors, exponent_bound, pull_back_vectors
from kernels.random import Backend, use_numba

NODES: Final = (0.5 - math.sqrt(3) / 6, 0.5 + math.sqrt(3) / 6)
"""Gauss-Legendre points of a sample, in samples."""
WEIGHTS: Final = ((0.25 + math.sqrt(3) / 6, 0.25 - math.sqrt(3) / 6), (0.25 - math.sqrt(3) / 6, 0.25 + math.sqrt(3) / 6))
"""Weights of the points in the first and the second exponential (Blanes and Moan, Appl. Numer. Math. 56, 1519 (2006))."""
LARGEST_EXPONENT: Final = 0.4
"""Norm of a Hamiltonian times its time from which an exponential is taken in several parts: the series then errs by 1.3e-10 at most."""
LARGEST_TURN: Final = 1000.0
"""Norm of a Hamiltonian times half a sample's time that is refused: units are wrong then, and steps would be thousands a sample."""
TAYLOR_RADIUS: Final = 0.02
"""Norm up to which the Taylor series is taken: it errs by rounding only, and the Chebyshev coefficients would drown in that."""
REUSED_BYTES: Final = 1 << 25
"""Memory of a forward pass that is not given back to the system."""
KEPT_BYTES: Final = 1 << 28
"""Memory for what the adjoint needs of the forward pass; beyond it the forward pass is repeated vector by vector."""


@dataclass(frozen=True, eq=False)
class DrivenSystem:
    """A Hamiltonian with drives, made ready for the propagators by `driven_system`.

    Attributes
    ----------
    static
        The Hamiltonian without drives over the reduced Planck constant, ``(states, states)`` complex128, rad/s, dense or sparse.
    operators
        What the drives multiply, ``(operators, states, states)`` complex128, strictly upper triangular, dense or sparse.
    sample_seconds
        Duration of a sample.
    single, side_by_side
        The same in units of half a sample, as the loops need it: for one vector, and for eight with Hamiltonians of their own.
    shift
        Energy that was taken off the diagonal there, rad/s.
    norms
        Bound on the norm of the static part, and of each operator plus its conjugate, in units of half a sample: ``(1 + operators,)``.
    """

    static: Tensor
    operators: Tensor
    sample_seconds: float
    single: Plan
    side_by_side: Plan
    shift: float
    norms: npt.NDArray[np.float64]

    @property
    def dimension(self) -> int:
        """Number of states."""
        return int(self.static.shape[0])


def driven_system(static: Tensor, operators: Tensor, sample_seconds: float) -> DrivenSystem:
    """Make a Hamiltonian ready for the propagators.

    Parameters
    ----------
    static
        The Hamiltonian without drives over the reduced Planck constant, rad/s: ``(states, states)`` complex128, Hermitian, dense or
        sparse (COO).
    operators
        What the drives multiply, as lowering operators: ``(operators, states, states)`` complex128, strictly upper triangular, dense or
        sparse (COO); their conjugates are added.
    sample_seconds
        Duration of a sample, above 0.

    Raises
    ------
    ValueError
        If a matrix has another shape, `static` is not Hermitian, an operator has an entry on or below its diagonal, a number is not
        finite, or `sample_seconds` is not above 0.

    Examples
    --------
    >>> lowering = torch.tensor([[0, 1], [0, 0]], dtype=torch.complex128)
    >>> driven_system(torch.zeros(2, 2, dtype=torch.complex128), lowering[None], 1e-9).dimension
    2
    """
    states = static.shape[0] if static.dim() == 2 else 0
    if not states or tuple(static.shape) != (states, states):
        raise ValueError(f"Argument `static` must be a square matrix, but has shape {tuple(static.shape)}; do pass a Hamiltonian.")
    if operators.dim() != 3 or tuple(operators.shape[1:]) != (states, states):
        raise ValueError(f"Argument `operators` must have shape (operators, {states}, {states}), but got {tuple(operators.shape)}.")
    if not 0 < sample_seconds < math.inf:
        raise ValueError(f"Argument `sample_seconds` must be above 0, but got {sample_seconds}; do pass a duration in seconds.")
    (rows, columns), values = _entries("static", static)
    (numbers, term_rows, term_columns), weights = _entries("operators", operators)
    if bool((term_rows >= term_columns).any()):
        raise ValueError("Argument `operators` must be strictly upper triangular, but one has other entries; do give lowering operators.")
    given = {(int(i), int(j)): complex(value) for i, j, value in zip(rows, columns, values, strict=True)}
    scale = max((abs(value) for value in given.values()), default=0.0)
    skew = max((abs(value - given.get((j, i), 0.0).conjugate()) for (i, j), value in given.items()), default=0.0)
    if skew > 1e-12 * scale:
        raise ValueError(f"Argument `static` must be Hermitian, but differs from its adjoint by {skew:.3g} rad/s; do symmetrize it.")
    half = 0.5 * sample_seconds
    energies = np.array([given.get((i, i), 0.0) for i in range(states)]).real
    shift = float(energies.max() + energies.min()) / 2
    terms = {
        (int(q), int(i), int(j)): complex(sample_seconds * weight)
        for q, i, j, weight in zip(numbers, term_rows, term_columns, weights, strict=True)
    }
    upper = sorted({(i, j) for i, j in given if i < j} | {(i, j) for _, i, j in terms})
    above = {(i, j): half * given.get((i, j), given.get((j, i), 0.0 + 0.0j).conjugate()) for i, j in upper}
    single, side_by_side = (plan(half * (energies - shift), above, terms, lanes) for lanes in (1, EIGHT))
    norms = np.zeros(1 + operators.shape[0])
    norms[0] = _largest_row(half * np.abs(energies - shift), upper, np.abs([above[pair] for pair in upper]))
    for q in range(operators.shape[0]):
        own = numbers == q
        listed = list(zip(term_rows[own].tolist(), term_columns[own].tolist(), strict=True))
        norms[1 + q] = _largest_row(np.zeros(states), listed, np.abs(sample_seconds * weights[own]))
    return DrivenSystem(static, operators, sample_seconds, single, side_by_side, shift, norms)


def _entries(name: str, matrix: Tensor) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.complex128]]:
    if matrix.dtype != torch.complex128:
        raise ValueError(f"Argument `{name}` must be complex128, but got {matrix.dtype}; do convert it.")
    listed = (matrix if matrix.is_sparse else matrix.to_sparse()).coalesce().cpu()
    values = listed.values().numpy()
    if not bool(np.isfinite(values).all()):
        raise ValueError(f"Argument `{name}` must be finite, but got nan or inf; do check what it is made of.")
    return listed.indices().numpy(), values


def _largest_row(diagonal: Any, pairs: Any, magnitudes: Any) -> float:
    """Return the largest sum of magnitudes in a row of a Hermitian matrix: no eigenvalue is larger."""
    sums = np.array(diagonal, np.float64)
    for (i, j), magnitude in zip(pairs, magnitudes, strict=True):
        sums[i] += magnitude
        sums[j] += magnitude
    return float(sums.max())


def carrier_averages(
    detunings: npt.NDArray[np.float64], sample_seconds: float, phases: npt.NDArray[np.float64] | None = None, start: int = 0
) -> npt.NDArray[np.complex128]:
    """Return what the two exponentials of each sample see of carriers ``exp(i (detuning t + phase))``.

    Parameters
    ----------
    detunings
        Angular frequency of each channel in the frame of the Hamiltonian, at each sample: ``(samples, channels)``, rad/s.
    sample_seconds
        Duration of a sample.
    phases
        Phase of each channel at each sample, ``(samples, channels)``, rad; none by default.
    start
        Number of the first sample: time 0 is the start of sample 0.

    Returns
    -------
    numpy.ndarray
        ``(samples, 2, channels)`` complex128.

    Examples
    --------
    >>> carrier_averages(np.zeros((3, 1)), 1e-9)[0, :, 0].real.tolist()
    [0.5, 0.5]
    """
    times = (start + np.arange(len(detunings)))[:, None] * sample_seconds
    base = detunings * times if phases is None else detunings * times + phases
    first, second = (np.exp(1j * (base + detunings * (node * sample_seconds))) for node in NODES)
    return np.stack([WEIGHTS[0][0] * first + WEIGHTS[0][1] * second, WEIGHTS[1][0] * first + WEIGHTS[1][1] * second], 1)


def evolve(
    system: DrivenSystem,
    samples: Complex128[Tensor, "pulses samples channels"],
    carriers: npt.NDArray[np.complex128],
    mixing: npt.NDArray[np.complex128],
    states: Complex128[Tensor, "batch states"],
    *,
    backend: Backend | None = None,
) -> Complex128[Tensor, "batch states"]:
    """Evolve state vectors under sampled drives; differentiable with respect to samples and states.

    Parameters
    ----------
    system
        From `driven_system`.
    samples
        Amplitudes of the channels, one set for each vector or one set for all (``pulses`` = 1).
    carriers
        From `carrier_averages`, ``(samples, 2, channels)``.
    mixing
        What a channel at amplitude 1 adds to the drive of each operator, ``(operators, channels)``, rad/s.
    states
        The vectors; rows.
    backend
        ``"numba"`` (the default on the CPU) or ``"torch"`` (elsewhere).

    Returns
    -------
    Tensor
        The vectors after the last sample, in the frame of the Hamiltonian.

    Raises
    ------
    ValueError
        If shapes or dtypes do not fit, or `backend` is unknown or cannot serve the device.

    Examples
    --------
    A resonant drive of 1e8 rad/s turns a two-level system over in pi / 2e8 seconds:

    >>> lowering = torch.tensor([[[0, 1], [0, 0]]], dtype=torch.complex128)
    >>> system = driven_system(torch.zeros(2, 2, dtype=torch.complex128), lowering, math.pi / 2e10)
    >>> samples = torch.ones(1, 100, 1, dtype=torch.complex128)
    >>> ground = torch.tensor([[1, 0]], dtype=torch.complex128)
    >>> end = evolve(system, samples, carrier_averages(np.zeros((100, 1)), system.sample_seconds), np.full((1, 1), 1e8 + 0j), ground)
    >>> round(float(end.abs()[0, 1]), 9)
    1.0
    """
    _check(system, samples, carriers, mixing, states)
    if samples.shape[0] == 1 and states.shape[0] > system.dimension:
        # One pulse for many vectors: its propagator is computed once.
        identity = torch.eye(system.dimension, dtype=states.dtype, device=states.device)
        return states @ evolve(system, samples, carriers, mixing, identity, backend=backend)
    if not use_numba(states.device, backend):
        return _evolve_torch(system, samples, carriers, mixing, states)
    radius, repeats = pulse_series(system, samples, mixing)
    phase = math.remainder(system.shift * system.sample_seconds * len(carriers), 2 * math.pi)
    made = system.side_by_side if len(states) >= SIDE_BY_SIDE else system.single
    turned = complex(math.cos(phase), -math.sin(phase))
    settings = Settings(made, carriers, mixing, series_coefficients(radius), repeats, turned)
    if torch.is_grad_enabled() and (samples.requires_grad or states.requires_grad):
        result: Tensor = _Evolve.apply(samples, states, settings)  # type: ignore[no-untyped-call]
        return result
    out = to_numpy(states).copy()
    _forward(settings, to_numpy(samples), out)
    out *= turned
    return torch.from_numpy(out)


class Settings(NamedTuple):
    """What one evolution is made of besides samples and states.

    Attributes
    ----------
    plan, carriers, mixing
        The Hamiltonian and its drives.
    series, repeats
        Coefficients of the series, and in how many parts an exponential is taken.
    phase
        Of the energy that was taken off the diagonal.
    """

    plan: Plan
    carriers: npt.NDArray[np.complex128]
    mixing: npt.NDArray[np.complex128]
    series: npt.NDArray[np.float64]
    repeats: int
    phase: complex


SIDE_BY_SIDE: Final = 3
"""Vectors from which on they are evolved side by side."""
NOTHING_KEPT: Final = np.empty((1, 1))


def _forward(settings: Settings, samples: Any, states: Any, kept: Any = None) -> None:
    made, carriers, mixing, series, repeats, _ = settings
    evolve_vectors(made, samples, carriers, mixing, series, repeats, states, NOTHING_KEPT if kept is None else kept, kept is not None)


def _backward(settings: Settings, samples: Any, kept: Any, cotangents: Any, gradient: Any) -> None:
    made, carriers, mixing, series, repeats, _ = settings
    pull_back_vectors(made, samples, carriers, mixing, series, repeats, kept, cotangents, gradient)


def _kept_shape(settings: Settings, batch: int, samples: int) -> tuple[int, int]:
    """Return the shape of what the adjoint needs: the vectors before each exponential."""
    made = settings.plan
    return -(-batch // made.lanes), 2 * settings.repeats * samples * 2 * len(made.energies)


def to_numpy(tensor: Tensor) -> npt.NDArray[np.complex128]:
    """Return the numbers of a tensor, row by row."""
    return np.ascontiguousarray(tensor.detach().resolve_conj().numpy())


def pulse_series(system: DrivenSystem, samples: Tensor, mixing: npt.NDArray[np.complex128]) -> tuple[float, int]:
    """Return the radius of the series for amplitudes as these, and in how many parts an exponential is taken."""
    bound = exponent_bound(system.norms, mixing, to_numpy(samples.cpu()))
    if not math.isfinite(bound):
        raise ValueError("Argument `samples` must be finite, but holds nan or inf; do check what they are made of.")
    if bound > LARGEST_TURN:
        raise ValueError(
            f"Argument `system` must turn states by at most {LARGEST_TURN:g} rad in half a sample, but may by {bound:.3g}; do check units "
            "of frequencies, amplitudes and `sample_seconds`"
        )
    repeats = max(1, math.ceil(bound / LARGEST_EXPONENT))
    return math.ceil(bound / repeats * 50) / 50, repeats


@cache
def series_coefficients(radius: float) -> npt.NDArray[np.float64]:
    """Return the coefficients of the polynomial of `exponential_series`, without the powers of -i."""
    return np.cumprod(exponential_series(radius)).astype(np.float64)


def _scaled(function: Any, radius: float, x: Any) -> Any:
    return function(radius * x)


@cache
def exponential_series(radius: float) -> npt.NDArray[np.float64]:
    """Return the factors of the polynomial of degree 7 that comes nearest to ``exp(-i x)`` for ``|x| <= radius``.

    With ``t_0 = f_0 v`` and ``t_k = f_k (-i H) t_(k-1)`` the sum of the terms is the exponential applied to v. The polynomial is the
    Chebyshev series; it errs by ``2 (radius / 2)^8 / 8!``, 128 times less than the Taylor series that it becomes for a small radius.

    Examples
    --------
    >>> [round(float(1 / factor), 3) for factor in exponential_series(0.02)]
    [1.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    """
    if radius <= TAYLOR_RADIUS:
        return np.concatenate([[1.0], 1.0 / np.arange(1, ORDER + 1)])
    powers = np.zeros(ORDER + 1)
    for part, function in enumerate((np.cos, np.sin)):
        scaled: Any = partial(_scaled, function, radius)
        chosen: Any = chebinterpolate(scaled, 24)
        chosen = chosen[: ORDER + 1].copy()
        chosen[1 - part :: 2] = 0.0
        powers += np.abs(np.pad(cheb2poly(chosen), (0, ORDER + 1))[: ORDER + 1]) / radius ** np.arange(ORDER + 1)
    return np.concatenate([powers[:1], powers[1:] / powers[:-1]])


class _Kept:
    """What the adjoint needs of one forward pass, in memory that the next pass takes over when this one's graph is gone.

    Fresh memory of the size costs as much to touch for the first time as half of the pass itself.
    """

    _free: ClassVar[list[npt.NDArray[np.float64]]] = []

    def __init__(self, shape: tuple[int, ...]) -> None:
        numbers = math.prod(shape)
        try:
            memory = self._free.pop()
        except IndexError:
            memory = np.empty(0)
        self._memory = memory if memory.size >= numbers else np.empty(numbers)
        self.numbers = self._memory[:numbers].reshape(shape)

    def __del__(self) -> None:
        if self._memory.nbytes <= REUSED_BYTES and len(self._free) < 1:
            self._free.append(self._memory)


class _Evolve(torch.autograd.Function):
    """Evolution whose backward pass is the discrete adjoint: exact for the numbers that the forward pass computed."""

    @staticmethod
    def forward(ctx: Any, samples: Tensor, states: Tensor, settings: Settings) -> Tensor:
        out = to_numpy(states).copy()
        shape = _kept_shape(settings, len(out), samples.shape[1])
        kept = _Kept(shape) if math.prod(shape) * 8 <= KEPT_BYTES else None
        _forward(settings, to_numpy(samples), out, None if kept is None else kept.numbers)
        ctx.kept, ctx.settings = kept, settings
        ctx.save_for_backward(samples, states)
        out *= settings.phase
        return torch.from_numpy(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, None]:
        samples, states = ctx.saved_tensors
        played = to_numpy(samples)
        # The adjoint of a phase is its conjugate.
        cotangents = to_numpy(upstream[0]) * ctx.settings.phase.conjugate()
        gradient = np.zeros_like(played)
        if ctx.kept is not None:
            _backward(ctx.settings, played, ctx.kept.numbers, cotangents, gradient)
        else:
            _pull_back_in_segments(ctx.settings, played, to_numpy(states), cotangents, gradient)
        return torch.from_numpy(gradient), torch.from_numpy(cotangents), None


def _pull_back_in_segments(
    settings: Settings,
    played: npt.NDArray[np.complex128],
    states: npt.NDArray[np.complex128],
    cotangents: npt.NDArray[np.complex128],
    gradient: npt.NDArray[np.complex128],
) -> None:
    """Repeat the forward pass in segments of samples that fit into the memory, last segment first."""
    count, lanes = len(settings.carriers), settings.plan.lanes
    each = math.prod(_kept_shape(settings, lanes, 1)) * 8
    length = max(1, min(KEPT_BYTES // each, math.isqrt(count * 12 * settings.repeats) + 1))
    edges = [*range(0, count, length), count]
    kept = np.empty(_kept_shape(settings, lanes, length))
    for b in range(0, len(states), lanes):
        which = slice(b, b + lanes) if len(played) > 1 else slice(0, 1)
        starts, vectors = [], states[b : b + lanes].copy()
        for first, last in pairwise(edges):
            starts.append(vectors.copy())
            part = settings._replace(carriers=settings.carriers[first:last])
            _forward(part, played[which, first:last], vectors)
        for (first, last), vectors in zip(reversed(list(pairwise(edges))), reversed(starts), strict=True):
            part = settings._replace(carriers=settings.carriers[first:last])
            _forward(part, played[which, first:last], vectors, kept)
            _backward(part, played[which, first:last], kept, cotangents[b : b + lanes], gradient[which, first:last])


def _evolve_torch(
    system: DrivenSystem, samples: Tensor, carriers: npt.NDArray[np.complex128], mixing: npt.NDArray[np.complex128], states: Tensor
) -> Tensor:
    """Evolve with dense matrices on any device; torch differentiates it."""
    device, dimension = states.device, system.dimension
    identity = torch.eye(dimension, dtype=torch.complex128, device=device)
    static = (system.static.to_dense().to(device) - system.shift * identity) * (0.5 * system.sample_seconds)
    operators = system.operators.to_dense().to(device) * system.sample_seconds
    weights, mixer = torch.from_numpy(carriers).to(device), torch.from_numpy(mixing).to(device)
    radius, repeats = pulse_series(system, samples, mixing)
    series = exponential_series(radius)
    vectors = states.unsqueeze(-1)
    for n in range(len(carriers)):
        for half in range(2):
            drives = (samples[:, n] * weights[n, half]) @ mixer.T
            driven = torch.einsum("bq,qij->bij", drives, operators)
            exponent = (static + driven + driven.mH) * (-1j / repeats)
            for _ in range(repeats):
                term = vectors = vectors * float(series[0])
                for k in range(ORDER):
                    term = exponent @ term * float(series[k + 1])
                    vectors = vectors + term
    phase = math.remainder(system.shift * system.sample_seconds * len(carriers), 2 * math.pi)
    return vectors.squeeze(-1) * complex(math.cos(phase), -math.sin(phase))


def _check(
    system: DrivenSystem, samples: Tensor, carriers: npt.NDArray[np.complex128], mixing: npt.NDArray[np.complex128], states: Tensor
) -> None:
    if states.dim() != 2 or states.shape[1] != system.dimension or states.dtype != torch.complex128:
        raise ValueError(
            f"Argument `states` must be complex128 of shape (batch, {system.dimension}), but got {states.dtype} of shape "
            f"{tuple(states.shape)}; do pass a row for each vector."
        )
    count, channels = len(carriers), mixing.shape[-1]
    fits = samples.dim() == 3 and samples.shape[0] in (1, states.shape[0]) and tuple(samples.shape[1:]) == (count, channels)
    if not fits or samples.dtype != torch.complex128 or samples.device != states.device:
        raise ValueError(
            f"Argument `samples` must be complex128 of shape (1 or {states.shape[0]}, {count}, {channels}) on {states.device}, but got "
            f"{samples.dtype} of shape {tuple(samples.shape)} on {samples.device}; do pass one set for each vector, or one for all."
        )
    operators = system.operators.shape[0]
    if mixing.shape != (operators, channels) or mixing.dtype != np.complex128 or carriers.shape != (count, 2, channels):
        raise ValueError(
            f"Arguments `mixing` and `carriers` must be complex128 of shapes ({operators}, channels) and (samples, 2, channels), but got "
            f"{mixing.shape} and {carriers.shape}; do take carriers from `carrier_averages`."
        )
