"""The cross-resonance gate: its Hamiltonian by tomography of the target, then amplitude, phase and rotary of the echoed pulse."""

import math
from typing import Any, Final

import numpy as np
import scipy  # its parts are loaded at their first use
import torch

from devices.design import DesignError
from devices.quantum.experiment import Bench, Curve, Experiment, fit_curve
from devices.quantum.fidelity import computational_states, zx_error
from devices.quantum.gates import CrossResonance, GateSet
from devices.quantum.schedule import Schedule
from devices.quantum.sequences import PulseBuilder
from devices.quantum.waveforms import GaussianSquare

PAULIS: Final = ("IX", "IY", "IZ", "ZX", "ZY", "ZZ")
LARGEST_AMPLITUDE: Final = 0.95


def cr_tomography(bench: Bench, builder: PulseBuilder, control: int, target: int, pulse: GaussianSquare, points: int = 16) -> Experiment:
    """Drive the control at the target's frequency for a growing time and watch the target turn, with the control in 0 and in 1.

    The rates of ``H / (2 pi) = sum rate / 2 P`` over ``P = IX, IY, IZ, ZX, ZY, ZZ`` are fitted, hertz; the control is written first.

    Parameters
    ----------
    bench
        The chip.
    builder
        Of the chip with calibrated gates of single transmons; not changed.
    control, target
        The transmons.
    pulse
        What the control channel plays; its flat top grows from nothing to that of the pulse.
    points
        Lengths.

    References
    ----------
    S. Sheldon, E. Magesan, J. M. Chow, J. M. Gambetta, Phys. Rev. A 93, 060302 (2016).

    Examples
    --------
    >>> from devices import TransmonBackend
    >>> backend = TransmonBackend.preset("jakarta_like").calibrated
    >>> pulse = GaussianSquare(duration_samples=1280, sigma_samples=32, width_samples=1152, amplitude=0.2)
    >>> found = cr_tomography(Bench(backend), PulseBuilder(backend), 0, 1, pulse)
    >>> abs(found.parameters["ZX"]) > 5 * abs(found.parameters["IZ"])
    True
    """
    backend = builder.backend
    channel = backend.control_channel(control, target)
    edges = pulse.duration_samples - round(pulse.width_samples)
    step = backend.granularity_samples
    widths = np.unique(np.linspace(0, pulse.width_samples, points).round().astype(int) // step * step)
    seconds = widths * backend.sample_seconds
    measured: dict[str, Curve] = {}
    for excited in (0, 1):
        for axis in "XYZ":
            schedules = []
            for width in widths:
                drive = pulse.replace(duration_samples=edges + int(width), width_samples=float(width))
                sequence = PulseBuilder(backend, builder.gates)
                if excited:
                    sequence.x(control)
                sequence.barrier()
                at = sequence.clock[control]
                sequence._play(channel, at, drive)
                sequence.clock = [at + drive.duration_samples] * backend.count
                schedules.append(_read_axis(sequence, target, axis))
            measured[f"{axis}{excited}"] = 1 - 2 * bench.ones(schedules, target, f"cr {control} {target} {excited}{axis}")
    rates: dict[int, Curve] = {}
    fitted: dict[str, Curve] = {}
    grid = np.linspace(0.0, float(seconds[-1]), 200)
    for excited in (0, 1):
        curves = np.stack([measured[f"{axis}{excited}"] for axis in "XYZ"])
        rates[excited], start = _fit_turning(seconds, curves)
        turned = _turning(grid, rates[excited], start)
        fitted |= {f"{axis}{excited}": turned[index] for index, axis in enumerate("XYZ")}
    mean, half = (rates[0] + rates[1]) / 2, (rates[0] - rates[1]) / 2
    found = dict(zip(PAULIS, [*mean.tolist(), *half.tolist()], strict=True))
    parameters = {"ZX": found["ZX"], **found}
    return Experiment(
        "Cross resonance", (control, target), "flat top, us", "target", seconds * 1e6, measured, (grid * 1e6, fitted), parameters
    )


def _read_axis(sequence: PulseBuilder, target: int, axis: str) -> Schedule:
    """Turn an axis of the target onto z: what P(1) then says is the component along it."""
    if axis == "X":
        sequence.rz(target, math.pi / 2)
    if axis != "Z":
        sequence.sx(target)
    return sequence.schedule()


def _turning(seconds: Curve, rates: Curve, start: Curve) -> Curve:
    """Return the Bloch vector that turns about `rates`, hertz, from `start`: ``(3, points)``."""
    speed = float(np.linalg.norm(rates)) or 1e-30
    axis = rates / speed
    angle = 2 * math.pi * speed * seconds
    along = np.outer(axis, np.full(len(seconds), axis @ start))
    across = np.outer(start - axis * (axis @ start), np.cos(angle)) + np.outer(np.cross(axis, start), np.sin(angle))
    return np.asarray(along + across)


def _fit_turning(seconds: Curve, curves: Curve) -> tuple[Curve, Curve]:
    """Fit the axis and speed at which a Bloch vector turns, and where it starts."""
    first = curves[:, 0] / np.linalg.norm(curves[:, 0])
    polar = (math.acos(float(np.clip(first[2], -1, 1))), math.atan2(float(first[1]), float(first[0])))

    def start_of(theta: float, phi: float) -> Curve:
        return np.array([math.sin(theta) * math.cos(phi), math.sin(theta) * math.sin(phi), math.cos(theta)])

    def model(x: Curve, a: float, b: float, c: float, theta: float, phi: float) -> Curve:
        return _turning(seconds, np.array([a, b, c]) * 1e6, start_of(theta, phi)).reshape(-1)

    derivative = np.gradient(curves, seconds, axis=1)
    # v' = 2 pi w x v is linear in w: least squares over all points gives where to start.
    rows, values = [], []
    for point in range(1, len(seconds) - 1):
        x, y, z = curves[:, point]
        rows += [[0, z, -y], [-z, 0, x], [y, -x, 0]]
        values += derivative[:, point].tolist()
    guess = np.linalg.lstsq(2 * math.pi * np.array(rows), np.array(values), rcond=None)[0] / 1e6
    best = None
    for scale in (1.0, 1.1, 1.3, 1.6):
        try:
            found, _ = fit_curve(model, seconds, curves.reshape(-1), (*(guess * scale), *polar), ("a", "b", "c", "theta", "phi"))
        except RuntimeError:
            continue
        error = float(((model(seconds, *found.values()) - curves.reshape(-1)) ** 2).sum())
        if best is None or error < best[0]:
            best = error, found
    if best is None:
        raise DesignError("TransmonBackend: the target must turn about one axis under a cross-resonance drive, but no fit was found")
    result = best[1]
    return np.array([result["a"], result["b"], result["c"]]) * 1e6, start_of(result["theta"], result["phi"])


def echo_unitary(bench: Bench, gates: GateSet, one: CrossResonance) -> torch.Tensor:
    """Return the propagator of an echoed pulse without its virtual Z.

    Examples
    --------
    >>> from devices import TransmonBackend
    >>> backend = TransmonBackend.preset("jakarta_like").calibrated
    >>> echo_unitary(Bench(backend), backend.gates, backend.gates.cross_resonance[0]).shape
    torch.Size([9, 9])
    """
    return bench.backend.unitary(PulseBuilder(bench.backend, gates).echo(one).schedule())


def calibrate_cross_resonance(
    bench: Bench, gates: GateSet, control: int, target: int, drive: GaussianSquare
) -> tuple[CrossResonance, list[Experiment]]:
    """Calibrate the echoed pulse: its angle over the amplitude, its rotary, and a last refinement of all by process tomography.

    Parameters
    ----------
    bench
        The chip.
    gates
        With calibrated pulses of the single transmons.
    control, target
        The transmons.
    drive
        Shape of one half of the echo; its flat top is lengthened where even the largest amplitude turns too little.

    Returns
    -------
    tuple
        The pulse, and the experiments: scan of the amplitude and scan of the rotary.

    References
    ----------
    N. Sundaresan et al., PRX Quantum 1, 020318 (2020): rotary echoes.

    Examples
    --------
    >>> from devices import TransmonBackend
    >>> backend = TransmonBackend.preset("jakarta_like").calibrated
    >>> backend.gates.cross_resonance[0].rotary is not None
    True
    """
    levels, step = bench.backend.levels, bench.backend.granularity_samples
    drive = drive.replace(amplitude=1.0, angle_rad=0.0)
    for _ in range(24):
        scan, amplitude, angle = _scan_amplitude(bench, gates, control, target, drive)
        if amplitude is not None and amplitude < LARGEST_AMPLITUDE:
            break
        longer = step * max(1, round(0.25 * drive.duration_samples / step))
        drive = drive.replace(duration_samples=drive.duration_samples + longer, width_samples=drive.width_samples + longer)
    if amplitude is None:
        raise DesignError(
            f"TransmonBackend: transmons {control} and {target} must be coupled for a gate, but hardly turn; check the coupling"
        )
    drive = drive.replace(amplitude=amplitude, angle_rad=angle)

    def pulse(values: Curve) -> CrossResonance:
        strength, phase, turning, control_phase, target_phase = values
        rotary = drive.replace(amplitude=float(np.clip(turning, -1, 1)), angle_rad=0.0)
        played = drive.replace(amplitude=float(np.clip(strength, -1, 1)), angle_rad=float(phase))
        return CrossResonance(
            control=control, target=target, drive=played, rotary=rotary, control_phase_rad=float(control_phase),
            target_phase_rad=float(target_phase),
        )  # fmt: skip

    def error(values: Curve) -> float:
        return zx_error(echo_unitary(bench, gates, pulse(values)), levels, control, target, values[3:].tolist())

    def phases(values: Curve) -> Curve:
        unitary = echo_unitary(bench, gates, pulse(values))

        def remaining(two: Any) -> float:
            return zx_error(unitary, levels, control, target, two.tolist())

        best: Any = scipy.optimize.minimize(remaining, values[3:], method="Nelder-Mead")
        return np.concatenate([values[:3], best.x])

    turnings = np.linspace(0.0, 0.25, 11)
    trials = [phases(np.array([amplitude, angle, turning, 0.0, 0.0])) for turning in turnings]
    errors = np.array([error(one) for one in trials])
    chosen = int(np.argmin(errors))
    start = trials[chosen]
    simplex = start + np.concatenate([np.zeros((1, 5)), np.diag([0.01, 0.02, 0.01, 0.02, 0.02])])
    best: Any = scipy.optimize.minimize(
        error, start, method="Nelder-Mead", options={"initial_simplex": simplex, "maxfev": 250, "xatol": 1e-6, "fatol": 1e-9}
    )
    found = pulse(best.x)
    rotary = Experiment(
        "Rotary", (control, target), "rotary amplitude", "gate error", turnings, {"error": errors}, (turnings, {"error": errors}),
        {"amplitude": float(best.x[2]), "error": float(best.fun)},
    )  # fmt: skip
    return found, [scan, rotary]


def _scan_amplitude(
    bench: Bench, gates: GateSet, control: int, target: int, drive: GaussianSquare
) -> tuple[Experiment, float | None, float]:
    """Return the scan of the angle that the echo turns the target by, the amplitude of a quarter turn, and the drive's phase for x."""
    amplitudes = np.linspace(0.0, 1.0, 21)
    states = computational_states(bench.backend.levels, [control, target])
    sines, cosines = [], []
    for amplitude in amplitudes:
        one = CrossResonance(control=control, target=target, drive=drive.replace(amplitude=float(amplitude)))
        unitary = echo_unitary(bench, gates, one)[states][:, states].numpy()
        # Control in 0: the two-by-two block of the target, freed of its phase, is cos - i sin (n . sigma).
        block = unitary[np.ix_([0, 2], [0, 2])]
        block = block / np.sqrt(np.linalg.det(block))
        block = block * np.sign(block[0, 0].real + 1e-300)
        cosines.append(float(np.clip((block[0, 0] + block[1, 1]).real / 2, -1, 1)))
        sines.append(complex(1j * block[1, 0]))
    turned = 2 * np.arctan2(np.abs(sines), cosines)
    # What the echo turns is twice the angle over the Rabi-like dependence of each half; the first crossing is taken.
    beyond = np.nonzero(turned >= math.pi / 2)[0]
    if len(beyond):
        index = int(beyond[0])
        low, high = turned[index - 1], turned[index]
        share = (math.pi / 2 - low) / (high - low)
        amplitude = float(amplitudes[index - 1] + share * (amplitudes[index] - amplitudes[index - 1]))
        # A drive s = exp(i p) turns about the axis at -p, so the phase is that of the axis found.
        phase = float(np.angle(sines[index]))
    else:
        amplitude, phase = None, 0.0
    scan = Experiment(
        "Cross resonance", (control, target), "amplitude", "angle of the target, rad", amplitudes, {"angle": turned},
        (amplitudes, {"angle": turned}), {"amplitude": math.nan if amplitude is None else amplitude, "phase_rad": phase},
    )  # fmt: skip
    return scan, amplitude, phase
