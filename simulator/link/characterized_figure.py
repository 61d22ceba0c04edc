"""The picture of a chip that was measured: its numbers over the target with their intervals, and their course in time."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from simulator.link.characterising import Characterization

PANELS = (
    ("bias", ("programming bias",)),
    ("spread", ("programming spread", "device spread", "cycle spread")),
    ("read noise", ("read noise",)),
)


def draw(found: "Characterization") -> Figure:
    """Return the figure of `Characterization.figure`."""
    aged = bool(found.budget.seconds)
    figure = Figure(figsize=(12.0 if aged else 9.5, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 4 if aged else 3)
    for axes, (title, quantities) in zip(panels, PANELS, strict=False):
        for quantity in quantities:
            rows = found.frame[found.frame["quantity"] == quantity]
            if len(rows):
                value, low, high = (1e6 * rows[name].to_numpy(float) for name in ("value", "low", "high"))
                axes.errorbar(1e6 * rows["target_siemens"], value, (value - low, high - value), marker="o", ms=3, capsize=2, label=quantity)
        axes.set(xlabel="target (µS)", ylabel=f"{title} (µS)", title=f"{title}, 95 % intervals")
        if len(quantities) > 1:
            axes.legend(fontsize=8)
    if aged:
        mean = found.measurements.groupby(["target_siemens", "seconds"])["measured_siemens"].mean().unstack("seconds")
        for target, course in mean.iterrows():
            times = np.maximum(course.index.to_numpy(float), found.budget.seconds[0] / 10)
            panels[-1].plot(times, 1e6 * course.to_numpy(float), marker=".", label=f"{1e6 * float(str(target)):.3g} µS")
        panels[-1].set(xscale="log", xlabel="seconds; first: just programmed", ylabel="mean conductance (µS)", title="drift")
    return figure
