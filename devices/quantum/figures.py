"""Figures of experiments: what was measured, what was fitted, and readout matrices."""

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from devices.quantum.experiment import Experiment

STYLE: Any = {
    "font.size": 8, "axes.titlesize": 8, "legend.fontsize": 7, "legend.frameon": False, "axes.spines.top": False,
    "axes.spines.right": False, "lines.linewidth": 1.2,
}  # fmt: skip
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
FLAT = 1e-4
"""Span of probabilities that counts as none."""


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure that any backend can draw.

    Examples
    --------
    >>> float(new_figure(3.0, 2.0).get_figwidth())
    3.0
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw_experiment(experiment: "Experiment") -> Figure:
    """Return a figure of one experiment: points as measured, lines as fitted, the result in the title.

    Parameters
    ----------
    experiment
        What `devices.quantum` calibrations return.

    Examples
    --------
    >>> import numpy as np
    >>> from devices.quantum.experiment import Experiment
    >>> x = np.arange(3.0)
    >>> one = Experiment("Rabi", (0,), "amplitude", "P(1)", x, {"P(1)": x}, (x, {"P(1)": x}), {"pi_amplitude": 0.2})
    >>> draw_experiment(one).axes[0].get_title()
    'Rabi of q0: pi_amplitude 0.2'
    """
    with mpl.rc_context(STYLE):
        figure = new_figure(3.6, 2.5)
        axes = figure.subplots()
        if "there" in experiment.abscissa:
            _draw_matrix(axes, experiment)
            return figure
        grid, curves = experiment.fitted
        for color, (name, values) in zip(COLORS, experiment.measured.items(), strict=False):
            axes.plot(experiment.x, values, "o", markersize=3, color=color, label=name)
            if name in curves:
                axes.plot(grid, curves[name], color=color)
        axes.ticklabel_format(axis="y", useOffset=False)
        low, high = axes.get_ylim()
        if high - low < FLAT:
            # What hardly changes is shown as a flat line, and not as its rounding.
            axes.set_ylim((low + high) / 2 - 50 * FLAT, (low + high) / 2 + 50 * FLAT)
        axes.set_xlabel(experiment.abscissa)
        axes.set_ylabel(experiment.ordinate)
        if len(experiment.measured) > 1:
            axes.legend()
        first = next(iter(experiment.parameters))
        where = " and ".join(f"q{q}" for q in experiment.transmons)
        main = max(experiment.parameters, key=lambda name: name in ("pi_amplitude", "amplitude", "beta_samples", "detuning_hertz"))
        shown = main if main in experiment.parameters else first
        axes.set_title(f"{experiment.name} of {where}: {shown} {experiment.parameters[shown]:.4g}")
    return figure


def _draw_matrix(axes: Any, experiment: "Experiment") -> None:
    matrix = np.stack(list(experiment.measured.values()), 1)
    axes.imshow(matrix, cmap="Blues", vmin=0, vmax=1)
    names = list(experiment.measured)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel(experiment.abscissa)
    axes.set_ylabel(experiment.ordinate)
    for (i, j), value in np.ndenumerate(matrix):
        axes.text(j, i, f"{value:.3f}", ha="center", va="center", color="white" if value > 0.5 else "black")
    axes.set_title(f"Readout, assignment fidelity {experiment.parameters['assignment_fidelity']:.4f}")
