"""The derivative of a pulse in the other quadrature: pairs of pulses that undo each other but for their phase error."""

import math
from typing import Final

import numpy as np

from devices.quantum.experiment import Bench, Curve, Experiment, fit_curve
from devices.quantum.schedule import Schedule
from devices.quantum.waveforms import Drag

POINTS: Final = 21
PAIRS: Final = 4
REACH: Final = 3.0
"""Samples on both sides of the expected factor."""


def drag_scan(bench: Bench, transmon: int, pulse: Drag) -> Experiment:
    """Scan the factor of the derivative; ``parameters["beta_samples"]`` is where a half turn and its opposite cancel.

    Parameters
    ----------
    bench
        The chip.
    transmon
        Which one.
    pulse
        A half turn.

    Examples
    --------
    The phase error goes at 1.5 / (2 alpha dt) for this shape (see `drag_envelope`), with alpha the anharmonicity in rad/s:

    >>> from devices import TransmonBackend
    >>> backend = TransmonBackend.preset("jakarta_like")
    >>> pulse = Drag(duration_samples=160, sigma_samples=40, beta_samples=0.0, amplitude=0.1684)
    >>> bending = 2 * math.pi * backend.transmons[0].anharmonicity_hertz * backend.sample_seconds
    >>> abs(drag_scan(Bench(backend), 0, pulse).parameters["beta_samples"] / (1.5 / (2 * bending)) - 1) < 0.05
    True
    """
    backend = bench.backend
    bending = 2 * math.pi * backend.transmons[transmon].anharmonicity_hertz * backend.sample_seconds
    expected = 0.0 if backend.levels == 2 else 0.5 / bending
    betas = expected + np.linspace(-REACH, REACH, POINTS)
    schedules = []
    for beta in betas:
        there = pulse.replace(beta_samples=float(beta))
        back = there.replace(amplitude=-there.amplitude)
        schedule = Schedule()
        for _ in range(PAIRS):
            schedule = schedule.play(f"d{transmon}", there).play(f"d{transmon}", back)
        schedules.append(schedule)
    ones = bench.ones(schedules, transmon, f"drag {transmon}")

    def model(x: Curve, best: float, slope: float, height: float, floor: float) -> Curve:
        return np.asarray(floor + height * np.sin(slope * (x - best)) ** 2)

    lowest = float(betas[int(np.argmin(ones))])
    start = (lowest, math.asin(min(1.0, math.sqrt(max(float(np.ptp(ones)), 1e-9)))) / REACH, 1.0, float(ones.min()))
    found, errors = fit_curve(model, betas, ones, start, ("beta_samples", "slope", "height", "floor"))
    grid = np.linspace(betas[0], betas[-1], 300)
    fitted = grid, {"P(1)": model(grid, *(found[name] for name in ("beta_samples", "slope", "height", "floor")))}
    return Experiment(
        "DRAG", (transmon,), "factor of the derivative, samples", f"P(1) after {PAIRS} pairs", betas, {"P(1)": ones}, fitted, found, errors
    )
