"""The frequency of a transmon, and how long it stays coherent: two quarter turns with a wait between them."""

import math
from typing import Final

import numpy as np

from devices.quantum.experiment import Bench, Curve, Experiment, dominant_frequency, fit_curve
from devices.quantum.sequences import PulseBuilder

POINTS: Final = 48


def ramsey_fringes(
    bench: Bench, transmon: int, builder: PulseBuilder, longest_seconds: float = 2e-6, turning_hertz: float = 2e6
) -> Experiment:
    """Wait between two quarter turns, the second one turned with time so that P(1) oscillates.

    ``parameters["detuning_hertz"]`` is what the transmon's frequency is above that of its drive, ``parameters["t2_seconds"]`` the decay
    (infinite where none is seen).

    Parameters
    ----------
    bench
        The chip.
    transmon
        Which one.
    builder
        Of the chip with the gates as they are now; not changed.
    longest_seconds
        Longest wait.
    turning_hertz
        How fast the second pulse's phase turns with the wait.

    Examples
    --------
    >>> from devices import TransmonBackend
    >>> backend = TransmonBackend.preset("jakarta_like").calibrated
    >>> abs(ramsey_fringes(Bench(backend), 0, PulseBuilder(backend)).parameters["detuning_hertz"]) < 200
    True
    """
    backend = builder.backend
    step = backend.granularity_samples
    waits = np.unique(np.linspace(0, longest_seconds / backend.sample_seconds, POINTS).round().astype(int) // step * step)
    seconds = waits * backend.sample_seconds
    schedules = [
        PulseBuilder(backend, builder.gates)
        .sx(transmon)
        .wait(transmon, int(wait))
        .rz(transmon, 2 * math.pi * turning_hertz * wait * backend.sample_seconds)
        .sx(transmon)
        .schedule()
        for wait in waits
    ]
    ones = bench.ones(schedules, transmon, f"ramsey {transmon}")
    decays = bench.shots is not None and backend.transmons[transmon].t2_seconds is not None

    def model(x: Curve, frequency: float, contrast: float, phase: float, offset: float, rate: float = 0.0) -> Curve:
        return np.asarray(offset + 0.5 * contrast * np.exp(-x * rate * 1e6) * np.cos(2e6 * math.pi * frequency * x + phase))

    guess = [dominant_frequency(seconds, ones) / 1e6, float(np.ptp(ones)), 0.0, float(ones.mean())] + ([0.05] if decays else [])
    names = ["megahertz", "contrast", "phase_rad", "offset", "per_microsecond"][: len(guess)]
    found, errors = fit_curve(model, seconds, ones, guess, names)
    grid = np.linspace(0.0, float(seconds[-1]), 600)
    fitted = grid * 1e6, {"P(1)": model(grid, *(found[name] for name in names))}
    rate = found.pop("per_microsecond", 0.0)
    errors.pop("per_microsecond", None)
    parameters = {
        "detuning_hertz": turning_hertz - abs(found["megahertz"]) * 1e6,
        "t2_seconds": 1e-6 / rate if rate > 0 else math.inf,
        **found,
    }
    return Experiment(
        "Ramsey", (transmon,), "wait, us", "P(1)", seconds * 1e6, {"P(1)": ones}, fitted, parameters,
        {"detuning_hertz": errors["megahertz"] * 1e6},
    )  # fmt: skip
