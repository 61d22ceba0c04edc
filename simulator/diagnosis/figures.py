"""Figures of the diagnosis, in the style of a study's."""

import math
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from simulator.figures import COLORS, TERMS, _figure, _styled

if TYPE_CHECKING:
    from simulator.diagnosis.aging import Retention
    from simulator.diagnosis.attribution import Attribution
    from simulator.diagnosis.noise import NoiseMatrix
    from simulator.diagnosis.probing import Probe
    from simulator.tiles import Tile

ON, OFF = "#D55E00", "#0072B2"
WORDS = {
    "all": "all effects", "programming": "programming error", "drift": "drift", "read_noise": "read noise",
    "weight_levels": "weight levels", "stuck": "stuck cells", "wires": "wires", "temperature": "temperature",
    "current_voltage": "nonlinear cells", "dac": "DAC", "adc": "ADC",
}  # fmt: skip


def draw_attribution(result: "Attribution", layer: str, metric: str) -> Figure:
    """Draw what each effect costs alone, and what its absence brings back.

    Parameters
    ----------
    result
        The attribution.
    layer, metric
        Whose rows to draw.

    Raises
    ------
    ValueError
        If the attribution has no such layer or metric.
    """
    frame = result.frame
    for name, value, column in (("layer", layer, "layer"), ("metric", metric, "metric")):
        if value not in set(frame[column]):
            raise ValueError(f"Argument `{name}` must be one of {', '.join(dict.fromkeys(frame[column]))}, but got {value!r}")
    rows = frame[(frame["layer"] == layer) & (frame["metric"] == metric)].to_dict(orient="records")
    with _styled():
        figure, axes = _figure(1.1 + 0.32 * len(rows))
        for state, shift, color, words in (("on", -0.19, ON, "alone on (from float)"), ("off", 0.19, OFF, "alone off (from design)")):
            places = np.arange(len(rows)) + shift
            values = np.array([row[state] for row in rows])
            halves = np.array([(row[f"{state}_high"] - row[f"{state}_low"]) / 2 for row in rows])
            axes.barh(places, values, height=0.36, color=color, label=words)
            shown = np.isfinite(halves)
            axes.errorbar(values[shown], places[shown], xerr=halves[shown], fmt="none", ecolor="#333333", elinewidth=0.8, capsize=1.8)
        axes.axvline(0, color="#333333", linewidth=0.7)
        axes.set_yticks(range(len(rows)), [WORDS[str(row["effect"])] for row in rows])
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(f"change of {metric}" + ("" if layer == "all" else f", layer {layer}"))
        figure.legend(loc="outside upper center", ncols=2)
        figure.draw_without_rendering()
    return figure


def draw_probe(result: "Probe") -> Figure:
    """Draw the signal-to-noise ratio of each layer, and its currents over the ADC's full scale."""
    from simulator.diagnosis.probing import EDGES, STAGES  # that module imports this one

    layers = result.frame["layer"].tolist()
    words = {"alone": "on ideal inputs", "local": "on its own inputs", "total": "against the float network"}
    with _styled():
        figure, axes = _figure(1.5 + 0.26 * len(layers))
        figure.set_figwidth(2 * figure.get_figwidth())
        axes.set_subplotspec(figure.add_gridspec(1, 2)[0])
        for stage, color, marker in zip(STAGES, TERMS, ("o", "s", "D"), strict=False):
            ratios = [value if math.isfinite(value) else math.nan for value in result.frame[f"{stage}_snr_db"]]
            axes.plot(ratios, range(len(layers)), marker, color=color, markersize=4, label=words[stage])
        axes.set_yticks(range(len(layers)), layers)
        axes.set_ylim(len(layers) - 0.5, -0.5)
        axes.grid(axis="y", color="#dddddd", linewidth=0.5)
        axes.set_xlabel("signal-to-noise ratio (dB)")
        right = figure.add_subplot(figure.axes[0].get_gridspec()[1], sharey=axes)  # type: ignore[index]
        table = result.currents.pivot_table(index="layer", columns="low", values="share", sort=False, dropna=False).reindex(layers)
        shares = np.log10(np.maximum(table.to_numpy(dtype=float), 1e-6))
        mesh = right.pcolormesh(EDGES, np.arange(len(layers) + 1) - 0.5, shares, cmap="viridis", vmin=-6, vmax=0, rasterized=True)
        for edge in (-1.0, 1.0):
            right.axvline(edge, color="#D55E00", linewidth=0.8, linestyle="--")
        right.tick_params(axis="y", labelleft=False, length=0)
        right.set_xlabel("column current / ADC full scale")
        figure.colorbar(mesh, ax=right, label="log$_{10}$ of share")
        figure.legend(loc="outside upper center", ncols=3)
        figure.draw_without_rendering()
    return figure


def draw_retention(result: "Retention", metric: str) -> Figure:
    """Draw the mean of a metric with its interval over the logarithm of time, for each compensation."""
    table = result.summary(metric)
    words = {"none": "no compensation", "global": "one factor a layer", "column": "one factor a column"}
    with _styled():
        figure, axes = _figure(2.3)
        for kind, color, marker in zip(dict.fromkeys(table["compensation"]), (ON, OFF, TERMS[2]), ("o", "s", "D"), strict=False):
            part = table[table["compensation"] == kind].sort_values("seconds")
            part = part[part["seconds"] > 0]
            halves = np.nan_to_num((part["high"] - part["low"]).to_numpy(dtype=float) / 2)
            axes.errorbar(
                part["seconds"], part["mean"], yerr=halves, color=color, marker=marker, markersize=4, capsize=2.5, label=words[str(kind)]
            )
        axes.axhline(result.reference[metric], color=COLORS["float"], linestyle="--", linewidth=1, label="float model")
        axes.set_xscale("log")
        axes.set_xlabel("time since programming (s)")
        axes.set_ylabel(f"{metric}, mean over chips")
        axes.legend(loc="best")
        figure.draw_without_rendering()
    return figure


def draw_matrix(result: "NoiseMatrix", metric: str) -> Figure:
    """Draw a metric of every trained design on every tested one, best in each column in bold."""
    means = result.matrix(metric)
    halves = result.half_widths(metric).to_numpy(dtype=float)
    values = means.to_numpy(dtype=float)
    best = values.argmax(0) if result.metrics[metric].higher_is_better else values.argmin(0)
    with _styled():
        figure, axes = _figure(1.2 + 0.36 * len(means))
        image = axes.imshow(values, cmap="viridis", aspect="auto")
        middle = (values.min() + values.max()) / 2
        for (row, column), value in np.ndenumerate(values):
            half = halves[row, column]
            text = f"{value:.3g}" + (f"\n± {half:.2g}" if math.isfinite(half) else "")
            weight = "bold" if best[column] == row else "normal"
            axes.text(column, row, text, ha="center", va="center", fontsize=6, color="white" if value < middle else "black", weight=weight)
        axes.set_xticks(range(len(means.columns)), means.columns)
        axes.set_yticks(range(len(means)), means.index)
        axes.tick_params(length=0)
        axes.set_xlabel("tested with")
        axes.set_ylabel("trained with")
        figure.colorbar(image, ax=axes, label=metric)
        figure.draw_without_rendering()
    return figure


def draw_tile(tile: "Tile") -> Figure:
    """Draw the conductances of an array as a picture, in microsiemens."""
    with _styled():
        figure, axes = _figure(2.6)
        image = axes.imshow(tile.conductance.cpu().numpy() * 1e6, cmap="viridis", aspect="auto", interpolation="none", vmin=0)
        axes.set_xlabel("column")
        axes.set_ylabel("row")
        axes.set_title(f"{tile.layer}, tile {tile.index}")
        figure.colorbar(image, ax=axes, label="conductance (µS)")
        figure.draw_without_rendering()
    return figure
