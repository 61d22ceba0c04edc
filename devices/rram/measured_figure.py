"""The figure of a measured cell: what it draws against what was measured."""

from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from devices.quantities import format_quantity
from devices.rram.measured import MeasuredCell
from devices.rram.spread import MICROSIEMENS
from kernels.random import Key

_PANELS = 4
_GRID = 41
_DRAWS = 2048
_SHARES = (0.05, 0.5, 0.95)
_STYLE: Any = {
    "font.size": 8, "axes.titlesize": 8, "legend.fontsize": 7, "legend.frameon": False, "axes.spines.top": False,
    "axes.spines.right": False, "lines.linewidth": 1.2,
}  # fmt: skip
_MODEL, _MEASURED = "#0072B2", "#000000"


def draw_fit(cell: MeasuredCell) -> Figure:
    """Return a figure of error against target, a panel for each of up to four times.

    Bars are the measured 5 to 95 %, points the measured medians; the band and the line are those of the cell's draws, between the
    targets too.

    Parameters
    ----------
    cell
        The cell.

    Examples
    --------
    >>> cell = MeasuredCell(
    ...     g_min_siemens="10 uS", g_max_siemens="20 uS", levels_siemens=("10 uS", "20 uS"), times_seconds=(1.0, 60.0),
    ...     quantiles_siemens=(((9e-6, 11e-6), (18e-6, 22e-6)),) * 2, counts=((100, 100),) * 2, ks_distances=((0.05, 0.05),) * 2,
    ... )
    >>> [axes.get_title().split(",")[0] for axes in draw_fit(cell).axes]
    ['after 1 s', 'after 1 min']
    """
    chosen = np.unique(np.linspace(0, len(cell.times_seconds) - 1, _PANELS).round().astype(int)).tolist()
    levels = np.array(cell.levels_siemens) / MICROSIEMENS
    grid = torch.linspace(cell.levels_siemens[0], cell.levels_siemens[-1], _GRID)
    key = Key.of(seed=0, purpose="fit figure")
    programmed = cell.program(grid.unsqueeze(1).expand(-1, _DRAWS).contiguous(), key.fold("program"))
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(2.1 * len(chosen) + 0.7, 2.4), layout="constrained")
        FigureCanvasAgg(figure)
        for panel, (axes, index) in enumerate(zip(figure.subplots(1, len(chosen), sharey=True, squeeze=False)[0], chosen, strict=True)):
            drawn = cell.drift(programmed, cell.times_seconds[index], key.fold("drift")).numpy()
            low, middle, high = np.quantile(drawn, _SHARES, axis=1) / MICROSIEMENS - grid.numpy() / MICROSIEMENS
            at = grid.numpy() / MICROSIEMENS
            axes.fill_between(at, low, high, color=_MODEL, alpha=0.25, linewidth=0, label="cell, 5 to 95 %")
            axes.plot(at, middle, color=_MODEL, label="cell, median")
            table = np.array(cell.quantiles_siemens[index]) / MICROSIEMENS
            marks = np.array([np.interp(_SHARES, np.linspace(0, 1, table.shape[1]), row) for row in table]) - levels[:, None]
            axes.vlines(levels, marks[:, 0], marks[:, 2], color=_MEASURED, linewidth=1)
            axes.plot(levels, marks[:, 1], "o", color=_MEASURED, markersize=3, label="measured, median and 5 to 95 %")
            axes.set_title(f"after {_spoken(cell.times_seconds[index])}, KS up to {max(cell.ks_distances[index]):.2f}")
            axes.set_xlabel("target (µS)")
            if panel == 0:
                axes.set_ylabel("conductance − target (µS)")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3 if len(chosen) > 1 else 1)
    return figure


def _spoken(seconds: float) -> str:
    for unit, length in (("y", 31_557_600.0), ("d", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return format_quantity(float(f"{seconds:.3g}"), "second")
