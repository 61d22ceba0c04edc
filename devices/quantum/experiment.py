"""What calibration experiments share: measuring a set of schedules, a fit that can be looked at, and fits of oscillations."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import scipy  # its parts are loaded at their first use

from devices.quantum.readout import bit_probabilities, draw_counts, marginal
from devices.quantum.schedule import Schedule
from kernels.random import Key

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from devices.quantum.backend import TransmonBackend

Curve = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Experiment:
    """One calibration experiment: what was measured, what was fitted, and what follows.

    Attributes
    ----------
    name
        What was calibrated, for titles and tables.
    transmons
        On which transmons.
    abscissa, ordinate
        What the axes of the figure are, with units.
    x
        Where it was measured, ``(points,)``.
    measured
        Curves by name, each ``(points,)``.
    fitted
        The fit on a grid: x, and curves by the names of `measured`.
    parameters
        What the fit found, by name with unit.
    errors
        One standard deviation of a parameter, as far as the fit tells.

    Examples
    --------
    >>> x = np.arange(3.0)
    >>> print(Experiment("Rabi", (0,), "amplitude", "P(1)", x, {"P(1)": x}, (x, {"P(1)": x}), {"period": 0.4}, {"period": 0.002}))
    Rabi of q0: period 0.4 ± 0.002
    """

    name: str
    transmons: tuple[int, ...]
    abscissa: str
    ordinate: str
    x: Curve
    measured: dict[str, Curve]
    fitted: tuple[Curve, dict[str, Curve]]
    parameters: dict[str, float]
    errors: dict[str, float] = field(default_factory=dict)

    def figure(self) -> "Figure":
        """Return a figure of what was measured and what was fitted."""
        from devices.quantum.figures import draw_experiment

        return draw_experiment(self)

    def __str__(self) -> str:
        found = ", ".join(
            f"{name} {value:.6g}" + (f" ± {self.errors[name]:.2g}" if name in self.errors else "")
            for name, value in self.parameters.items()
        )
        return f"{self.name} of {', '.join(f'q{q}' for q in self.transmons)}: {found}"


@dataclass(frozen=True)
class Bench:
    """A chip on which experiments run.

    Attributes
    ----------
    backend
        The chip.
    shots
        Of each point; None for exact probabilities of the chip without relaxation and errors of readout, what endless shots and
        mitigation come to.
    seed
        Of the shots.

    Examples
    --------
    >>> from devices import Constant, TransmonBackend
    >>> bench = Bench(TransmonBackend.preset("jakarta_like").ideal(), shots=100, seed=1)
    >>> bench.ones([Schedule().play("d0", Constant(duration_samples=64, amplitude=1e-9))], 0, "nothing")
    array([0.])
    """

    backend: "TransmonBackend"
    shots: int | None = None
    seed: int = 0

    def ones(self, schedules: Sequence[Schedule], transmon: int, name: str) -> Curve:
        """Return the probability, or the share of the shots, that a transmon is read as 1 after each schedule."""
        chip = self.backend.closed() if self.shots is None else self.backend
        found = []
        for index, schedule in enumerate(schedules):
            if self.shots is None:
                bits = bit_probabilities(chip, chip.populations(schedule))
                found.append(float(marginal(bits, [transmon], chip.count)[1]))
            else:
                read = marginal(chip.probabilities(schedule), [transmon], chip.count).numpy()
                counts = draw_counts(read, self.shots, Key.of(seed=self.seed, layer=name, tile=index, purpose="calibration"))
                found.append(counts[1] / self.shots)
        return np.array(found)


def fit_curve(
    function: Callable[..., Any], x: Curve, y: Curve, guess: Sequence[float], names: Sequence[str]
) -> tuple[dict[str, float], dict[str, float]]:
    """Fit a function of x and parameters by least squares; returns the parameters and their standard deviations.

    Examples
    --------
    >>> x = np.linspace(0, 1, 5)
    >>> found, _ = fit_curve(lambda x, slope: slope * x, x, 3 * x, [1.0], ["slope"])
    >>> round(found["slope"], 6)
    3.0
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.optimize.OptimizeWarning)  # an exact fit has no covariance: its parameters are exact
        best, covariance = scipy.optimize.curve_fit(function, x, y, p0=list(guess), maxfev=20_000)
    variances = np.nan_to_num(np.diag(np.atleast_2d(covariance)), nan=0.0, posinf=0.0)
    deviations = np.sqrt(np.clip(variances, 0.0, None))
    return dict(zip(names, map(float, best), strict=True)), dict(zip(names, map(float, deviations), strict=True))


def dominant_frequency(x: Curve, y: Curve) -> float:
    """Return the frequency of the strongest oscillation of evenly spaced points, to start a fit with.

    Examples
    --------
    >>> x = np.linspace(0, 1, 64, endpoint=False)
    >>> round(dominant_frequency(x, np.cos(2 * np.pi * 5 * x)), 1)
    5.0
    """
    spectrum = np.abs(np.fft.rfft(y - y.mean(), 8 * len(y)))
    frequencies = np.fft.rfftfreq(8 * len(y), float(x[1] - x[0]))
    return float(frequencies[1 + int(np.argmax(spectrum[1:]))])
