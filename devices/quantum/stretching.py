"""Pulses that last longer and do the same: what extrapolation to no noise compares."""

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import scipy  # its parts are loaded at their first use

from devices.quantum.cross_resonance import echo_unitary
from devices.quantum.experiment import Bench
from devices.quantum.fidelity import computational_states
from devices.quantum.gates import CrossResonance, GateSet
from devices.quantum.waveforms import Sampled, Waveform

if TYPE_CHECKING:
    from devices.quantum.backend import TransmonBackend

Numbers = npt.NDArray[np.float64]
Block = npt.NDArray[np.complex128]
ROUNDS: Final = 12
"""Steps of the fit; it settles within eight for factors of up to 3."""


def whole_samples(samples: float, step: int, factor: float) -> int:
    """Return a stretched length or time, or raise ValueError where it is off the grid.

    Examples
    --------
    >>> whole_samples(240.0, 16, 1.5)
    240
    """
    whole = round(samples)
    if abs(whole - samples) > 1e-6 or whole % step:
        raise ValueError(f"Argument `factor` must make whole multiples of {step} samples, but {factor} makes {samples:g}; take another one")
    return whole


def stretched_waveform(waveform: Waveform, factor: float, granularity_samples: int) -> Waveform:
    """Return a pulse that lasts longer by a factor and has the same area: the same turn of a transmon that it drives resonantly.

    Examples
    --------
    >>> from devices.quantum.waveforms import Constant
    >>> stretched_waveform(Constant(duration_samples=64, amplitude=0.5), 2.0, 16)
    Constant(duration_samples=128, amplitude=0.25, angle_rad=0.0)
    """
    length = whole_samples(waveform.duration_samples * factor, granularity_samples, factor)
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


@lru_cache(maxsize=32)
def stretched_gates(backend: "TransmonBackend", factor: float) -> GateSet:
    """Return the gates of a chip with pulses that last longer by a factor and turn the transmons as before.

    Pulses of one transmon keep their area. Those of a cross-resonance gate would turn the target by another angle then, because its rate
    is not linear in the amplitude: amplitude and phase of the drive, the rotary and the virtual Z are fitted on the chip without
    relaxation, so that the gate comes nearest to what it does unstretched. ``gate_fidelities(backend.replace(gates=...))`` says what error
    is left: for ``jakarta_like`` the gate changes by an average infidelity of 1.0e-4 at a factor of 2 and 1.3e-4 at 3, where amplitudes
    in proportion leave 2.0e-2 and 3.9e-2.

    Parameters
    ----------
    backend
        With gates.
    factor
        At least 1; all lengths that it makes must be multiples of the chip's granularity.

    Raises
    ------
    ValueError
        Where a length is not.

    Examples
    --------
    >>> from devices import TransmonBackend
    >>> backend = TransmonBackend.preset("jakarta_like")
    >>> stretched_gates(backend, 1.0) == backend.gates
    True
    """
    gates = backend.gates
    assert gates is not None
    if factor == 1:
        return gates
    step = backend.granularity_samples
    longer = gates.replace(
        x=tuple(stretched_waveform(one, factor, step) for one in gates.x),
        sx=tuple(stretched_waveform(one, factor, step) for one in gates.sx),
    )
    closed = backend.closed()
    crossed = tuple(_stretched_cross_resonance(closed, gates, longer, one, factor) for one in gates.cross_resonance)
    return longer.replace(cross_resonance=crossed)


def _stretched_cross_resonance(
    closed: "TransmonBackend", gates: GateSet, longer: GateSet, one: CrossResonance, factor: float
) -> CrossResonance:
    """Fit drive, rotary and virtual Z of a stretched echo by least squares to the matrix of the echo as it is."""
    step, bench = closed.granularity_samples, Bench(closed)
    drive = stretched_waveform(one.drive, factor, step)
    rotary = None if one.rotary is None else stretched_waveform(one.rotary, factor, step)
    states = computational_states(closed.levels, [one.control, one.target])

    def turned(values: Numbers, block: Block) -> Block:
        control, target = values
        return np.asarray(np.exp(1j * np.array([0.0, control, target, control + target]))[:, None] * block)

    def block(chosen: GateSet, pulse: CrossResonance) -> Block:
        return np.asarray(echo_unitary(bench, chosen, pulse)[states][:, states].numpy())

    known = turned(np.array([one.control_phase_rad, one.target_phase_rad]), block(gates, one))
    # What leaves the lowest two levels cannot be asked for: the nearest unitary matrix is.
    left, _, right = np.linalg.svd(known)
    wanted = left @ right

    def pulse(values: Numbers) -> CrossResonance:
        played = drive.replace(amplitude=_in_range(values[0]), angle_rad=float(values[1]))
        turning = None if rotary is None else rotary.replace(amplitude=_in_range(values[2]))
        return one.replace(drive=played, rotary=turning, control_phase_rad=float(values[3]), target_phase_rad=float(values[4]))

    blocks: dict[tuple[float, ...], Block] = {}

    def residual(values: Numbers) -> Numbers:
        # Only the first three numbers are of pulses; the others, and the common phase, cost no evolution.
        key = tuple(values[:3].tolist())
        if key not in blocks:
            blocks[key] = block(longer, pulse(values))
        error = (np.exp(1j * values[5]) * turned(values[3:5], blocks[key]) - wanted).reshape(-1)
        return np.concatenate([error.real, error.imag])

    amplitudes = [drive.amplitude, drive.angle_rad, 0.0 if rotary is None else rotary.amplitude]
    start = np.array([*amplitudes, one.control_phase_rad, one.target_phase_rad, 0.0])
    residual(start)
    overlap = np.trace(wanted.conj().T @ turned(start[3:5], blocks[tuple(start[:3].tolist())]))
    start[5] = -math.atan2(overlap.imag, overlap.real)
    scale = [0.1, 0.1, 0.1, 1.0, 1.0, 1.0]
    found: Any = scipy.optimize.least_squares(residual, start, x_scale=scale, max_nfev=ROUNDS, xtol=1e-7, ftol=1e-8)
    return pulse(found.x)


def _in_range(amplitude: float) -> float:
    return float(np.clip(amplitude, -1.0, 1.0))
