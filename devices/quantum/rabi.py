"""The amplitude of a pulse: a Rabi scan for where to start, and repeated pulses for the last digits."""

import math
from typing import Final

import numpy as np

from devices.quantum.experiment import Bench, Curve, Experiment, dominant_frequency, fit_curve
from devices.quantum.schedule import Schedule
from devices.quantum.sequences import PulseBuilder
from devices.quantum.waveforms import Drag

POINTS: Final = 41
LARGEST_AREA: Final = 3.2
"""Turns, in half turns, that the strongest pulse of a scan is expected to make."""
REPETITIONS: Final = (1, 5, 9, 13)
"""Quarter turns played to see the error of one; half turns after a quarter turn."""


def rabi_scan(bench: Bench, transmon: int, pulse: Drag) -> Experiment:
    """Scan the amplitude of a pulse; ``parameters["pi_amplitude"]`` is where it makes a half turn.

    Parameters
    ----------
    bench
        The chip.
    transmon
        Which one.
    pulse
        Its shape; the amplitude does not matter.

    Examples
    --------
    >>> from devices import TransmonBackend
    >>> pulse = Drag(duration_samples=160, sigma_samples=40, beta_samples=0.0)
    >>> found = rabi_scan(Bench(TransmonBackend.preset("jakarta_like")), 0, pulse).parameters["pi_amplitude"]
    >>> abs(found - 0.168) < 0.001
    True
    """
    backend = bench.backend
    area = float(pulse.replace(amplitude=1.0, beta_samples=0.0).samples().real.sum()) * backend.sample_seconds
    largest = min(1.0, LARGEST_AREA / (2 * backend.transmons[transmon].drive_hertz * area))
    amplitudes = np.linspace(0.0, _highest(pulse, largest), POINTS)
    schedules = [Schedule().play(f"d{transmon}", pulse.replace(amplitude=float(one))) for one in amplitudes]
    ones = bench.ones(schedules, transmon, f"rabi {transmon}")

    def model(x: Curve, period: float, contrast: float, offset: float) -> Curve:
        return np.asarray(offset - 0.5 * contrast * np.cos(2 * math.pi * x / period))

    period = 1 / dominant_frequency(amplitudes, ones)
    found, errors = fit_curve(model, amplitudes, ones, (period, float(np.ptp(ones)), float(ones.mean())), ("period", "contrast", "offset"))
    found["pi_amplitude"], errors["pi_amplitude"] = abs(found["period"]) / 2, errors["period"] / 2
    grid = np.linspace(amplitudes[0], amplitudes[-1], 400)
    fitted = grid, {"P(1)": model(grid, found["period"], found["contrast"], found["offset"])}
    return Experiment("Rabi", (transmon,), "amplitude", "P(1)", amplitudes, {"P(1)": ones}, fitted, found, errors)


def fine_amplitude(bench: Bench, transmon: int, builder: PulseBuilder, quarter: bool) -> Experiment:
    """Play a calibrated pulse many times; ``parameters["error_rad"]`` is what one turns too far.

    Parameters
    ----------
    bench
        The chip.
    transmon
        Which one.
    builder
        Of the chip with the gates as they are now; not changed.
    quarter
        True for the quarter turn; False for half turns, which follow a quarter turn.

    Examples
    --------
    >>> from devices import TransmonBackend
    >>> backend = TransmonBackend.preset("jakarta_like").calibrated
    >>> abs(fine_amplitude(Bench(backend), 0, PulseBuilder(backend), True).parameters["error_rad"]) < 1e-3
    True
    """
    counts = np.array(REPETITIONS if quarter else tuple(range(0, 9, 2)))
    schedules = []
    for count in counts:
        sequence = PulseBuilder(builder.backend, builder.gates)
        if not quarter:
            sequence.sx(transmon)
        for _ in range(count):
            if quarter:
                sequence.sx(transmon)
            else:
                sequence.x(transmon)
        schedules.append(sequence.schedule())
    ones = bench.ones(schedules, transmon, f"fine {transmon} {quarter}")

    def model(x: Curve, error: float, offset: float) -> Curve:
        return np.asarray(0.5 + 0.5 * np.sin(x * error + offset))

    found, errors = fit_curve(model, counts.astype(float), ones, (0.0, 0.0), ("error_rad", "offset_rad"))
    grid = np.linspace(0.0, float(counts[-1]), 200)
    fitted = grid, {"P(1)": model(grid, found["error_rad"], found["offset_rad"])}
    name = "Quarter turns" if quarter else "Half turns"
    return Experiment(name, (transmon,), "repetitions", "P(1)", counts.astype(float), {"P(1)": ones}, fitted, found, errors)


def _highest(pulse: Drag, wanted: float) -> float:
    """Return an amplitude at which no sample exceeds 1."""
    top = float(np.abs(pulse.replace(amplitude=1.0, beta_samples=0.0).envelope().numpy()).max())
    slope = abs(pulse.beta_samples) / pulse.sigma_samples
    return min(wanted, 1.0 / (top * math.hypot(1.0, slope)))
