"""Mitigation of errors: inversion of the readout matrix, and extrapolation to no noise by stretched pulses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from devices.quantum import Instruction, Play, Sampled, Schedule, Waveform

Matrix = npt.NDArray[np.float64]


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
        If the matrix does not fit the bit strings, its columns do not add up to 1, or there are no counts.

    References
    ----------
    S. Bravyi et al., Phys. Rev. A 103, 042605 (2021).

    Examples
    --------
    >>> found = invert_readout({"0": 90, "1": 10}, np.array([[0.9, 0.2], [0.1, 0.8]]))
    >>> {state: round(share, 9) for state, share in found.items()}
    {'0': 1.0, '1': 0.0}
    """
    total = sum(counts.values())
    bits = len(next(iter(counts), ""))
    size = 2**bits
    if total < 1 or any(len(string) != bits for string in counts):
        raise ValueError(f"Argument `counts` must hold counts of bit strings of one length, but got {dict(counts)!r:.80}")
    if matrix.shape != (size, size) or float(np.abs(matrix.sum(0) - 1).max()) > 1e-3:
        raise ValueError(
            f"Argument `matrix` must be {size} x {size} with columns that add up to 1, but got shape {matrix.shape}; calibrate the readout"
        )
    read = np.array([counts.get(format(index, f"0{bits}b"), 0) for index in range(size)]) / total
    found, _ = nnls(matrix, read)
    found = found / found.sum()
    return {format(index, f"0{bits}b"): float(value) for index, value in enumerate(found)}


def stretch(schedule: Schedule, factor: float, granularity_samples: int = 16) -> Schedule:
    """Return a schedule in which every pulse lasts longer by a factor and is weaker by it: the same turns, more noise.

    Turns of single transmons keep their angle; a cross-resonance pulse does so as far as its rate is linear in its amplitude.

    Parameters
    ----------
    schedule
        What to stretch; its times and lengths are multiples of the granularity.
    factor
        At least 1; what it makes of the granularity must be a whole number of samples that the backend can play.
    granularity_samples
        What lengths are multiples of.

    Returns
    -------
    Schedule
        With recordings as they were, after the pulses.

    Raises
    ------
    ValueError
        If the factor is below 1, or a stretched length is no multiple of the granularity.

    Examples
    --------
    >>> from devices import Gaussian
    >>> pulse = Gaussian(duration_samples=160, sigma_samples=40, amplitude=0.2)
    >>> stretch(Schedule().play("d0", pulse), 1.5).duration
    240
    """
    if not factor >= 1:
        raise ValueError(f"Argument `factor` must be at least 1, but got {factor}; stretch, do not compress")
    changed: list[Instruction] = []
    for one in schedule.instructions:
        start = _whole(one.start * factor, granularity_samples if isinstance(one, Play) else 1, factor)
        if isinstance(one, Play):
            changed.append(one.replace(start=start, waveform=_stretched(one.waveform, factor, granularity_samples)))
        elif hasattr(one, "duration_samples") and not one.channel.startswith("a"):
            changed.append(one.replace(start=start, duration_samples=_whole(one.duration * factor, 1, factor)))
        else:
            changed.append(one.replace(start=start))
    return Schedule(name=f"{schedule.name} x {factor:g}".strip(), instructions=tuple(changed))


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


def extrapolate(measure: Callable[[float], float], factors: Sequence[float] = (1.0, 1.5, 2.0), degree: int = 1) -> Extrapolation:
    """Measure an expectation at stretched noise and extrapolate it to none by a polynomial.

    Parameters
    ----------
    measure
        Returns the expectation with pulses stretched by a factor.
    factors
        At least ``degree + 1`` different ones, at least 1.
    degree
        Of the polynomial; ``len(factors) - 1`` is Richardson's extrapolation.

    Raises
    ------
    ValueError
        If there are too few factors.

    References
    ----------
    K. Temme, S. Bravyi, J. M. Gambetta, Phys. Rev. Lett. 119, 180509 (2017).

    Examples
    --------
    >>> round(extrapolate(lambda factor: 1.0 - 0.1 * factor).value, 9)
    1.0
    """
    if degree < 1 or len(set(factors)) <= degree or min(factors) < 1:
        raise ValueError(f"Argument `factors` must have at least {degree + 1} different numbers from 1 on, but got {tuple(factors)}")
    found = [float(measure(factor)) for factor in factors]
    value = float(np.polynomial.Polynomial.fit(list(factors), found, degree)(0.0))
    return Extrapolation(value, tuple(factors), tuple(found))


def _whole(samples: float, step: int, factor: float) -> int:
    whole = round(samples)
    if abs(whole - samples) > 1e-6 or whole % step:
        raise ValueError(f"Argument `factor` must make whole multiples of {step} samples, but {factor} makes {samples:g}; take another one")
    return whole


def _stretched(waveform: Waveform, factor: float, granularity: int) -> Waveform:
    length = _whole(waveform.duration_samples * factor, granularity, factor)
    if isinstance(waveform, Sampled):
        samples = waveform.samples() / factor
        places = (np.arange(length) + 0.5) / factor - 0.5
        known = np.arange(len(samples))
        return Sampled.of(np.interp(places, known, samples.real) + 1j * np.interp(places, known, samples.imag))
    changes = {"duration_samples": length, "amplitude": waveform.amplitude / factor}
    for name in ("sigma_samples", "width_samples"):
        if hasattr(waveform, name):
            changes[name] = getattr(waveform, name) * factor
    longer = waveform.replace(**changes)
    # An envelope ends one sample outside of the pulse whatever its length, so that its area is not quite in proportion.
    areas = [float(one.envelope().real.sum()) for one in (waveform, longer)]
    return longer.replace(amplitude=waveform.amplitude * areas[0] / areas[1])
