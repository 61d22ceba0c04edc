"""Figures of a study at column width, drawn without any global state of matplotlib's."""

import io
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from devices.quantities import format_quantity, unit_of
from simulator.running import PLAIN, StudyResult
from simulator.trained import NOISE_AWARE
from simulator.words import percent

COLUMN_INCHES = 3.5
FORMATS = ("png", "pdf", "svg")
# Okabe and Ito's palette, told apart by readers with any color vision.
COLORS = {PLAIN: "#D55E00", NOISE_AWARE: "#0072B2", "float": "#000000"}
TERMS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#F0E442", "#D55E00")
MARKERS = {PLAIN: "o", NOISE_AWARE: "s"}
LABELS = {PLAIN: "plain", NOISE_AWARE: "noise-aware"}
STYLE: Any = {
    "font.family": "DejaVu Sans", "font.size": 8, "axes.labelsize": 8, "axes.titlesize": 8, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "legend.fontsize": 7, "legend.frameon": False, "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.7,
    "xtick.major.width": 0.7, "ytick.major.width": 0.7, "lines.linewidth": 1.2, "svg.hashsalt": "inloop", "svg.fonttype": "path",
    "pdf.fonttype": 42, "axes.formatter.useoffset": False,
}  # fmt: skip
STEPS = ((1e-15, "f"), (1e-12, "p"), (1e-9, "n"), (1e-6, "µ"), (1e-3, "m"), (1.0, ""))


def draw(result: StudyResult) -> dict[str, Figure]:
    """Return the figures of a study by name.

    Parameters
    ----------
    result
        A study's result.

    Returns
    -------
    dict
        ``distribution``, ``varied_FIELD`` for each varied field, ``coverage``, and ``energy`` and ``latency`` where at least one
        constant of the hardware was given.
    """
    with _styled():
        found = {"distribution": distribution(result)}
        for path in result.varied():
            found[f"varied_{path.replace('.', '_')}"] = varied(result, path)
        found["coverage"] = coverage(result.coverage)
        for column, name in (("energy_j", "energy"), ("latency_s", "latency")):
            figure = cost(result.cost, column)
            if figure is not None:
                found[name] = figure
        for figure in found.values():
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # laid out once, not again for each file
    return found


def encode(figure: Figure, kind: str) -> bytes:
    """Return a figure as a file: ``png`` at 300 dots an inch, ``pdf`` or ``svg``; equal figures give equal bytes."""
    metadata = {"png": {"Software": None}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}[kind]
    with _styled():
        stream = io.BytesIO()
        figure.savefig(stream, format=kind, dpi=300, metadata=metadata)
    return stream.getvalue()


def distribution(result: StudyResult) -> Figure:
    """Draw every chip as a dot, the mean of each arm with its interval, and the float model."""
    name = next(iter(result.evaluations[PLAIN, 0].metrics))
    arms = result.arms
    figure, axes = _figure(0.75 + 0.75 * len(arms))
    float_value = result.evaluations[PLAIN, 0].reference[name]
    every = [value for arm in arms for value in result.evaluations[arm, 0].values(name) if math.isfinite(value)] + [float_value]
    span = max(every) - min(every) or abs(max(every)) or 1.0
    width = span / 60
    for row, arm in enumerate(arms):
        evaluation = result.evaluations[arm, 0]
        bins = Counter(round(value / width) for value in evaluation.values(name) if math.isfinite(value))
        tallest = max(bins.values(), default=1)
        pitch = min(0.085, 0.55 / tallest)
        for place, count in bins.items():
            axes.plot([place * width] * count, -row + 0.14 + pitch * np.arange(count), ".", color=COLORS[arm], markersize=5, alpha=0.85)
        mean = evaluation.mean(name)
        error = [[mean.half_width], [mean.half_width]] if math.isfinite(mean.half_width) else None
        axes.errorbar(mean.value, -row - 0.02, xerr=error, color=COLORS[arm], marker="D", markersize=4, capsize=2.5, linewidth=1.4)
    axes.axvline(float_value, color=COLORS["float"], linestyle="--", linewidth=1)
    axes.annotate(
        "float model", (float_value, 1), xycoords=("data", "axes fraction"), xytext=(-3, 1), textcoords="offset points",
        ha="right", va="bottom", fontsize=7,
    )  # fmt: skip
    axes.set_yticks([-row for row in range(len(arms))], [LABELS[arm] for arm in arms])
    axes.set_ylim(-len(arms) + 0.72, 0.85)
    axes.set_xlim(min(every) - 0.06 * span, max(every) + 0.06 * span)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(f"{name}: each chip, mean with 95 % interval")
    return figure


def varied(result: StudyResult, path: str) -> Figure:
    """Draw the mean with its 95 % interval over the values of a varied field, for each arm, and the float model."""
    name = next(iter(result.evaluations[PLAIN, 0].metrics))
    places = result.varied()[path]
    values = [result.points[place].value for place in places]
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    positions = np.asarray(values if numeric else range(len(values)), dtype=float)
    order = np.argsort(positions, kind="stable")
    figure, axes = _figure(2.3)
    logarithmic = numeric and positions.min() > 0 and positions.max() / positions.min() > 30
    offset = 0.0 if logarithmic else 0.004 * (np.ptp(positions) or 1.0)
    for side, arm in zip((-1, 1), result.arms, strict=False):
        means = [result.evaluations[arm, places[index]].mean(name) for index in order]
        errors = np.array([mean.half_width if math.isfinite(mean.half_width) else 0.0 for mean in means])
        axes.errorbar(
            positions[order] + side * offset, [mean.value for mean in means], yerr=errors, color=COLORS[arm], marker=MARKERS[arm],
            markersize=4, capsize=2.5, label=LABELS[arm],
        )  # fmt: skip
    axes.axhline(result.evaluations[PLAIN, 0].reference[name], color=COLORS["float"], linestyle="--", linewidth=1, label="float model")
    if logarithmic:
        axes.set_xscale("log")
        axes.minorticks_off()
    axes.set_xticks(positions[order], [text_of(path, values[index]) for index in order])
    if max(len(text_of(path, value)) for value in values) * len(values) > 45:
        axes.tick_params(axis="x", rotation=30)
    axes.set_xlabel(label_of(path))
    axes.set_ylabel(f"{name}, mean over chips")
    axes.legend(loc="best")
    return figure


def coverage(frame: pd.DataFrame) -> Figure:
    """Draw the multiply-accumulates of each layer that has any, on hardware or on the host, and how full its arrays are."""
    rows = frame[frame["macs"].isna() | (frame["macs"] > 0)].iloc[::-1].reset_index(drop=True)
    figure, axes = _figure(0.8 + 0.24 * max(1, len(rows)))
    counts = rows["macs"].fillna(0).astype(float)
    scale, prefix = next(((s, p) for s, p in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if counts.max() >= s), (1.0, ""))
    for index, row in enumerate(rows.to_dict("records")):
        on_host = row["hardware"] == "host"
        axes.barh(index, counts.iloc[index] / scale, color="#999999" if on_host else COLORS[NOISE_AWARE], height=0.65)
        words = "digital" if on_host else f"{row['arrays']} array{'s' if row['arrays'] != 1 else ''}, {percent(row['utilization'])} used"
        words += ", MACs unknown" if pd.isna(row["macs"]) else ""
        axes.annotate(words, (counts.iloc[index] / scale, index), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7)
    axes.set_yticks(range(len(rows)), rows["layer"])
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, 1.55 * (counts.max() or 1.0) / scale)
    axes.set_xlabel(f"multiply-accumulates a sample ({prefix}MAC)" if prefix else "multiply-accumulates a sample")
    return figure


def cost(frame: pd.DataFrame, column: str) -> Figure | None:
    """Draw energy or latency of one sample by layer, stacked by term; None where no term has a number."""
    rows = frame[~frame["once"].astype(bool)]
    known = rows[rows[column].notna()]
    if not len(known):
        return None
    layers = list(dict.fromkeys(known["layer"]))
    terms = list(dict.fromkeys(known["term"]))
    table = known.pivot_table(index="layer", columns="term", values=column, aggfunc="sum").reindex(index=layers, columns=terms).fillna(0.0)
    step, prefix = next(((s, p) for s, p in reversed(STEPS) if table.to_numpy().sum(1).max() >= s), STEPS[0])
    missing = [term for term in dict.fromkeys(rows.loc[(rows["hardware"] != "host") & rows[column].isna(), "term"]) if term not in terms]
    figure, axes = _figure(1.0 + 0.26 * len(layers) + (0.15 if missing else 0))
    left = np.zeros(len(layers))
    for color, term in zip(TERMS * (len(terms) // len(TERMS) + 1), terms, strict=False):
        axes.barh(range(len(layers)), table[term] / step, left=left, color=color, label=term, height=0.65)
        left += table[term].to_numpy() / step
    axes.set_yticks(range(len(layers)), layers)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    quantity, symbol = ("energy", "J") if column == "energy_j" else ("latency", "s")
    axes.set_xlabel(f"{quantity} of one sample ({prefix}{symbol})" + (f"\nwithout: {', '.join(missing)}" if missing else ""))
    axes.legend(loc="best", title="term", title_fontsize=7)
    return figure


def label_of(path: str) -> str:
    """Return an axis label for a field: its words, with its unit where values carry none.

    Examples
    --------
    >>> label_of("design.adc.bits"), label_of("seconds"), label_of("design.cell.g_max_siemens")
    ('ADC bits', 'age of the chip', 'cell g max')
    """
    if path == "seconds":
        return "age of the chip"
    parts = path.split(".")[1:]
    unit = unit_of(parts[-1])
    words = " ".join(part.replace("_", " ") for part in parts)
    if unit is not None:
        words = words.removesuffix(" " + parts[-1].rsplit("_", 1)[-1])
    return " ".join(word.upper() if word in ("adc", "dac") else word for word in words.split())


def text_of(path: str, value: Any) -> str:
    """Return a varied value as a tick label: with its unit, a prefix, and no more digits than it has.

    Examples
    --------
    >>> text_of("design.cell.g_max_siemens", 4e-5), text_of("seconds", 86400.0), text_of("design.adc.bits", 4), text_of("design.adc", None)
    ('40 µS', '1 day', '4', 'off')
    """
    if value is None:
        return "off"
    unit = unit_of(path.rsplit(".", 1)[-1])
    if path == "seconds":
        for seconds, word in ((86400, "day"), (3600, "h"), (60, "min")):
            if value >= seconds and value % seconds == 0:
                count = int(value // seconds)
                return f"{count} {word}{'s' if word == 'day' and count > 1 else ''}"
        return f"{value:g} s"
    if unit is not None and isinstance(value, int | float):
        return format_quantity(float(value), unit).replace(" u", " µ")
    return f"{value:g}" if isinstance(value, float) else str(value)


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(COLUMN_INCHES, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


@contextmanager
def _styled() -> Iterator[None]:
    """Apply the style inside the block: matplotlib reads its settings both when artists are made and when they are drawn."""
    with mpl.rc_context(STYLE):
        yield
