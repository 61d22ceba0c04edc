"""Mitigation of errors: inversion of the readout matrix, and extrapolation to no noise by stretched pulses."""

import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import nnls

from devices.quantum import Instruction, Play, Schedule, ShiftPhase, TransmonBackend, Waveform
from devices.quantum.sequences import signed
from devices.quantum.stretching import stretched_gates, stretched_waveform, whole_samples

Matrix = npt.NDArray[np.float64]
ROUNDING = 1e-9
"""How far below 0 a probability may lie."""
COLUMN_TOLERANCE = 1e-3
"""How far from 1 the sum of a column may lie: matrices are printed with few digits."""
LARGEST_CONDITION = 1e9
"""Condition number above which a matrix says nothing about what was there."""
LARGEST_FACTOR = 1e4
"""Stretching that is refused: nothing of a state is left long before, and the samples would fill the memory."""


def invert_readout(counts: Mapping[str, int], matrix: Matrix) -> dict[str, float]:
    """Return the probabilities of bit strings that come nearest to counts, given the readout matrix.

    The probabilities are the least-squares solution that is nowhere negative, scaled to add up to 1.

    Parameters
    ----------
    counts
        How often each bit string was read.
    matrix
        Probability of each string read, given the one there, ``[read, there]``, as readout calibration gives it.

    Returns
    -------
    dict
        Probability of each bit string.

    Raises
    ------
    ValueError
        If the matrix does not fit the bit strings, is singular, or has columns that are no probabilities; if counts are no numbers from 0
        on of strings of 0 and 1.

    References
    ----------
    S. Bravyi et al., Phys. Rev. A 103, 042605 (2021).

    Examples
    --------
    >>> found = invert_readout({"0": 90, "1": 10}, np.array([[0.9, 0.2], [0.1, 0.8]]))
    >>> {state: round(share, 9) for state, share in found.items()}
    {'0': 1.0, '1': 0.0}
    """
    if not isinstance(counts, Mapping):
        raise ValueError(f"Argument `counts` must be a dictionary of bit strings and counts, but got {counts!r:.60}; give what was counted")
    bits = max((len(string) for string in counts if isinstance(string, str)), default=0)
    wrong = [string for string in counts if not isinstance(string, str) or len(string) != bits or not re.fullmatch("[01]+", string)]
    if not counts or wrong:
        raise ValueError(
            f"Argument `counts` must hold counts of bit strings of one length, but got {wrong[0] if wrong else dict(counts)!r}; "
            "write strings of 0 and 1"
        )
    total = sum(float(count) if _is_number(count) and count >= 0 else math.nan for count in counts.values())
    if not 0 < total < math.inf:
        raise ValueError(f"Argument `counts` must hold numbers from 0 on, not all 0, but got {dict(counts)!r:.80}; give what was counted")
    size = 2**bits
    matrix = _readout_matrix(matrix, size)
    read = np.array([counts.get(format(index, f"0{bits}b"), 0) for index in range(size)]) / total
    found, _ = nnls(matrix, read)
    found = found / found.sum()
    return {format(index, f"0{bits}b"): float(value) for index, value in enumerate(found)}


def _is_number(value: Any) -> bool:
    """Tell a real number from truth values, text and all else."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _readout_matrix(given: Any, size: int) -> Matrix:
    """Return a matrix of probabilities that can be inverted."""
    try:
        matrix = np.array(given.detach().cpu() if isinstance(given, torch.Tensor) else given)
    except ValueError:
        matrix = np.array(None)
    if matrix.dtype.kind not in "fiub":
        shown = " ".join(repr(given).split())
        raise ValueError(f"Argument `matrix` must be {size} x {size} real numbers, but got {shown:.60}; calibrate the readout")
    matrix = matrix.astype(np.float64)
    if matrix.shape != (size, size):
        raise ValueError(f"Argument `matrix` must be {size} x {size}, but got shape {matrix.shape}; calibrate the readout of these bits")
    if not np.isfinite(matrix).all() or float(matrix.min()) < -ROUNDING or float(np.abs(matrix.sum(0) - 1).max()) > COLUMN_TOLERANCE:
        worst = int(np.argmax(np.where(np.isfinite(matrix.sum(0)), np.abs(matrix.sum(0) - 1) - np.minimum(matrix.min(0), 0), np.inf)))
        raise ValueError(
            f"Argument `matrix` must have columns of probabilities that add up to 1, but column {worst} is "
            f"{np.array2string(matrix[:, worst], precision=4, threshold=4)}, of sum {matrix[:, worst].sum():.6g}; calibrate the readout"
        )
    condition = float(np.linalg.cond(matrix))
    if condition > LARGEST_CONDITION:
        raise ValueError(
            f"Argument `matrix` must tell the bit strings apart, but its condition number is {condition:.3g}; calibrate the readout"
        )
    return matrix


def stretch(
    schedule: Schedule, factor: float, granularity_samples: int | None = None, *, backend: TransmonBackend | None = None
) -> Schedule:
    """Return a schedule in which every pulse lasts longer by a factor and does the same: the same turns, more noise.

    Every pulse keeps its area, so that turns of single transmons keep their angle. A cross-resonance gate does not, because its rate is
    not linear in the amplitude: with `backend`, its calibrated gates become those of `stretched_gates`, which are fitted to what they do
    unstretched. For ``jakarta_like`` the gate then changes by an average infidelity of 1.0e-4 at 2 and 1.3e-4 at 3, in place of 2.0e-2 and
    3.9e-2. What is left is a coherent error, which extrapolation takes for noise. The always-on ZZ of coupled transmons acts for longer as
    well, and is extrapolated away as far as its effect is linear in time.

    Parameters
    ----------
    schedule
        What to stretch; its times and lengths are multiples of the granularity.
    factor
        At least 1; what it makes of the granularity must be a whole number of samples that the backend can play. Whole factors always are.
    granularity_samples
        What lengths are multiples of; by default that of the backend, or 16.
    backend
        The chip whose calibrated gates the schedule is made of; needed where it plays on control channels.

    Returns
    -------
    Schedule
        With recordings as they were, after the pulses.

    Raises
    ------
    ValueError
        If the factor is below 1 or above `LARGEST_FACTOR`, the granularity is no number of samples, or a stretched length is no multiple
        of it.

    Warns
    -----
    UserWarning
        Where the schedule plays on control channels and no backend is given.

    Examples
    --------
    >>> from devices import Gaussian
    >>> pulse = Gaussian(duration_samples=160, sigma_samples=40, amplitude=0.2)
    >>> stretch(Schedule().play("d0", pulse), 1.5).duration
    240
    """
    if not isinstance(schedule, Schedule):
        raise ValueError(f"Argument `schedule` must be a Schedule, but got a {type(schedule).__name__}; give one")
    if backend is not None and not isinstance(backend, TransmonBackend):
        raise ValueError(f"Argument `backend` must be a TransmonBackend or None, but got a {type(backend).__name__}; give the chip")
    if not _is_number(factor) or not 1 <= factor <= LARGEST_FACTOR:
        allowed = f"at least 1 and at most {LARGEST_FACTOR:g}"
        raise ValueError(f"Argument `factor` must be {allowed}, but got {factor!r:.60}; stretch, do not compress")
    factor = float(factor)
    step = (16 if backend is None else backend.granularity_samples) if granularity_samples is None else granularity_samples
    if isinstance(step, bool) or not isinstance(step, int | np.integer) or step < 1:
        raise ValueError(f"Argument `granularity_samples` must be an integer of at least 1, but got {step!r:.60}; 16 is usual")
    _require_grid(schedule, factor, step)
    replaced, turned = ({}, {}) if backend is None else _calibrated(backend, factor)
    if backend is None and factor > 1 and any(isinstance(one, Play) and one.channel[0] == "u" for one in schedule.instructions):
        warnings.warn(
            "stretch: cross-resonance pulses are scaled in proportion, which changes what they do; give `backend` to keep it", stacklevel=2
        )
    changed: list[Instruction] = []
    for one in schedule.instructions:
        start = whole_samples(one.start * factor, step if isinstance(one, Play) else 1, factor)
        if isinstance(one, Play):
            key = one.channel, one.waveform
            waveform = replaced[key] if key in replaced else stretched_waveform(one.waveform, factor, step)
            changed.append(one.replace(start=start, waveform=waveform))
            stop = start + waveform.duration_samples
            changed += [ShiftPhase(channel=channel, start=stop, phase_rad=angle) for channel, angle in turned.get(key, ())]
        elif hasattr(one, "duration_samples") and not one.channel.startswith("a"):
            changed.append(one.replace(start=start, duration_samples=whole_samples(one.duration * factor, 1, factor)))
        else:
            changed.append(one.replace(start=start))
    return Schedule(name=f"{schedule.name} x {factor:g}".strip(), instructions=tuple(changed))


Played = tuple[str, Waveform]
"""A channel and what it plays."""


def _calibrated(backend: TransmonBackend, factor: float) -> tuple[dict[Played, Waveform], dict[Played, list[tuple[str, float]]]]:
    """Return what the pulses of calibrated gates become, and which turns of frames follow them."""
    chip = backend.calibrated
    gates, longer = chip.gates, stretched_gates(chip, factor)
    assert gates is not None
    replaced: dict[Played, Waveform] = {}
    turned: dict[Played, list[tuple[str, float]]] = {}
    for old, new in ((gates.x, longer.x), (gates.sx, longer.sx)):
        replaced |= {(f"d{q}", before): after for q, (before, after) in enumerate(zip(old, new, strict=True))}
    for before, after in zip(gates.cross_resonance, longer.cross_resonance, strict=True):
        channel = chip.control_channel(before.control, before.target)
        for sign in (1, -1):
            replaced[channel, signed(before.drive, sign)] = signed(after.drive, sign)
            if before.rotary is not None and after.rotary is not None:
                replaced[f"d{before.target}", signed(before.rotary, sign)] = signed(after.rotary, sign)
        # The gate's virtual Z changes as well. It is made up for where the second half of the echo ends, before the half turn that may
        # close it: seen from there the turn of the control has the other sign.
        control, target = before.control_phase_rad - after.control_phase_rad, after.target_phase_rad - before.target_phase_rad
        turned[channel, signed(before.drive, -1)] = [
            (name, angle) for q, angle in ((before.control, control), (before.target, target)) for name in chip.framed_channels(q)
        ]
    return replaced, turned


def _require_grid(schedule: Schedule, factor: float, step: int) -> None:
    """Raise ValueError where stretched pulses would start or end off the grid, with the factors that would not."""
    edges = [edge for one in schedule.instructions if isinstance(one, Play) for edge in (one.start, one.duration)]
    unit = math.gcd(*edges)
    if unit and abs(factor * unit / step - round(factor * unit / step)) > 1e-6:
        finest = step / unit
        fits = [round(math.floor(factor / finest) * finest, 6), round(math.ceil(factor / finest) * finest, 6)]
        near = " or ".join(f"{one:g}" for one in fits if one >= 1)
        raise ValueError(
            f"Argument `factor` must make whole multiples of {step} samples of all pulses and their starts, but {factor:g} does not; take "
            f"a multiple of {finest:g}, as {near}"
        )


@dataclass(frozen=True)
class Extrapolation:
    """An expectation without noise, from ones with more of it.

    Attributes
    ----------
    value
        At no noise.
    factors, measured
        Where it was measured, and what.
    """

    value: float
    factors: tuple[float, ...]
    measured: tuple[float, ...]


def extrapolate(measure: Callable[[float], float], factors: Sequence[float] = (1.0, 2.0, 3.0), degree: int = 1) -> Extrapolation:
    """Measure an expectation at stretched noise and extrapolate it to none by a polynomial.

    Parameters
    ----------
    measure
        Returns the expectation with pulses stretched by a factor: of ``stretch(schedule, factor, backend=chip)``, say.
    factors
        At least ``degree + 1`` different ones, at least 1. Whole factors keep every pulse on the grid of its chip.
    degree
        Of the polynomial; ``len(factors) - 1`` is Richardson's extrapolation.

    Raises
    ------
    ValueError
        If there are too few factors, the degree is no integer of at least 1, or what is measured is no finite number.

    References
    ----------
    K. Temme, S. Bravyi, J. M. Gambetta, Phys. Rev. Lett. 119, 180509 (2017).

    Examples
    --------
    >>> round(extrapolate(lambda factor: 1.0 - 0.1 * factor).value, 9)
    1.0
    """
    if isinstance(degree, bool) or not isinstance(degree, int) or degree < 1:
        raise ValueError(f"Argument `degree` must be an integer of at least 1, but got {degree!r}; 1 is a line")
    if not callable(measure):
        raise ValueError(f"Argument `measure` must be a function of the factor, but got {measure!r:.60}; give one that measures")
    given = factors.tolist() if isinstance(factors, np.ndarray | torch.Tensor) else factors
    chosen = tuple(given) if isinstance(given, Sequence) else ()
    if not all(_is_number(factor) and 1 <= factor < math.inf for factor in chosen) or len(set(chosen)) <= degree:
        raise ValueError(f"Argument `factors` must have at least {degree + 1} different numbers from 1 on, but got {factors!r:.60}")
    chosen = tuple(float(factor) for factor in chosen)
    found = [_number(measure(factor), factor) for factor in chosen]
    value = float(np.polynomial.Polynomial.fit(chosen, found, degree)(0.0))
    return Extrapolation(value, chosen, tuple(found))


def _number(found: Any, factor: float) -> float:
    """Return what was measured as a number."""
    array = np.asarray(found.detach().cpu() if isinstance(found, torch.Tensor) else found)
    if array.size != 1 or array.dtype.kind not in "fiu" or not bool(np.isfinite(array).all()):
        raise ValueError(f"Argument `measure` must return a finite number, but at {factor:g} returned {found!r:.60}; give one expectation")
    return float(array.reshape(()))
