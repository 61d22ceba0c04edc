"""Figures of cost: designs as stacked bars of their terms, and as points with their Pareto front."""

from collections.abc import Mapping
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from simulator.figures import COLUMN_INCHES, STEPS, STYLE, TERMS

LABELS = {
    "energy_j": ("energy of one call", "J"),
    "latency_s": ("latency of one call", "s"),
    "interval_s": ("time between calls", "s"),
    "area_m2": ("area", "mm²"),
    "tops_per_watt": ("TOPS/W", ""),
    "tops_per_mm2": ("TOPS/mm²", ""),
}
FACTORS = {"area_m2": 1e6}
MOST_TERMS = 9
LEAST_SHARE = 1e-3
"""Share of the longest bar below which a term cannot be seen."""


def cost_figure(frames: Mapping[str, pd.DataFrame], quantity: str = "energy_j") -> Figure:
    """Draw one quantity of several designs, each a bar stacked by term.

    Parameters
    ----------
    frames
        A cost table for each design, by the name to show.
    quantity
        ``energy_j``, ``latency_s`` or ``area_m2``.

    Returns
    -------
    matplotlib.figure.Figure
        At column width. Under the axis it says which terms have no number; a design without any has no bar, but says so.

    Raises
    ------
    ValueError
        If the quantity is another one, or no design has a number.

    Examples
    --------
    >>> from devices import Cost
    >>> from simulator.costing import cost_frame
    >>> rows = [Cost(layer="fc", hardware="A", term=term, energy_j=1e-12) for term in ("MAC", "ADC")]
    >>> cost_figure({"A": cost_frame(rows)}).axes[0].get_xlabel()
    'energy of one call (pJ)'
    """
    if quantity not in ("energy_j", "latency_s", "area_m2"):
        raise ValueError(f"Argument `quantity` must be energy_j, latency_s or area_m2, but got {quantity!r}; do name one of them")
    parts, absent = {}, dict[str, list[str]]()
    for name, frame in frames.items():
        used = frame[~frame["once"]]
        shared = used["resource"].where(used["resource"] != "", used["layer"])
        known = used.groupby([shared, "term"])[quantity].max().groupby("term").sum(min_count=1) if quantity == "area_m2" else None
        parts[name] = used.groupby("term", sort=False)[quantity].sum(min_count=1) if known is None else known
        absent[name] = list(dict.fromkeys(used.loc[used[quantity].isna(), "term"]))
    table = pd.DataFrame(parts).T.fillna(0.0) * FACTORS.get(quantity, 1.0)
    table = table.loc[:, (table > 0).any()]
    if table.empty:
        raise ValueError(f"Argument `frames` must hold a number for {quantity}, but no row has one; do set the designs' constants")
    largest = table.max().sort_values(ascending=False)
    order = largest.index
    seen = int((largest >= LEAST_SHARE * table.sum(axis=1).max()).sum())
    named = len(order) if len(order) - seen < 2 else seen
    if named > MOST_TERMS - (named < len(order)):
        named = MOST_TERMS - 1
    if named < len(order):
        table = pd.concat([table[order[:named]], table[order[named:]].sum(axis=1).rename("other terms")], axis=1)
        order = table.columns
    words, unit = LABELS[quantity]
    step, prefix = _step(float(table.sum(axis=1).max())) if unit != "mm²" else (1.0, "")
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2 * COLUMN_INCHES, 1.3 + 0.34 * len(table)), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        left = np.zeros(len(table))
        for place, term in enumerate(order):
            values = table[term].to_numpy() / step
            hatch = "" if place < len(TERMS) else "///"
            axes.barh(range(len(table)), values, left=left, color=TERMS[place % len(TERMS)], hatch=hatch, label=term, height=0.62)
            left += values
        for index, name in enumerate(table.index):
            count = len(absent[name])
            if count:
                text = "not given" if not left[index] else f"+ {count} term{'s' if count > 1 else ''} not given"
                axes.annotate(text, (left[index], index), xytext=(3, 0), textcoords="offset points", va="center", fontsize=7)
        axes.set_yticks(range(len(table)), table.index)
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(0, 1.3 * float(left.max()))
        axes.set_xlabel(f"{words} ({prefix}{unit})")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), title="term", title_fontsize=7)
    return figure


def pareto_front(points: npt.ArrayLike, higher: tuple[bool, bool] = (False, False)) -> npt.NDArray[np.bool_]:
    """Return which points no other one is at least as good as in both coordinates and better in one.

    Parameters
    ----------
    points
        Shape (points, 2); a point with NaN is on no front.
    higher
        Whether more is better, for each coordinate.

    Examples
    --------
    >>> pareto_front([[1, 5], [2, 2], [3, 3], [5, 1]]).tolist()
    [True, True, False, True]
    """
    values = np.asarray(points, float) * np.where(higher, -1.0, 1.0)
    known = ~np.isnan(values).any(1)
    no_worse = (values[None] <= values[:, None]).all(2)
    better = (values[None] < values[:, None]).any(2)
    found: npt.NDArray[np.bool_] = known & ~(no_worse & better & known[None]).any(1)
    return found


def pareto_figure(table: pd.DataFrame, x: str, y: str, *, name: str = "design", higher: tuple[bool, bool] | None = None) -> Figure:
    """Draw designs as points of two quantities, and the front of those that no other one beats in both.

    Parameters
    ----------
    table
        A row a design, as of `compare_costs`, with columns of your own beside: accuracies, for example.
    x, y
        Columns to draw.
    name
        Column with the words at a point.
    higher
        Whether more is better, for each; by default for accuracies and TOPS.

    Returns
    -------
    matplotlib.figure.Figure
        A point whose number leaves terms out (its column ``..._without`` is not empty) is hollow: it is a bound. Designs without a
        number are named under the axis.

    Raises
    ------
    ValueError
        If a column is missing, or no design has both numbers.

    Examples
    --------
    >>> table = pd.DataFrame({"design": ["A", "B"], "energy_j": [1e-9, 2e-9], "accuracy": [0.9, 0.95]})
    >>> pareto_figure(table, "energy_j", "accuracy").axes[0].get_ylabel()
    'accuracy'
    """
    for column in (x, y, name):
        if column not in table.columns:
            raise ValueError(
                f"Argument `table` must have a column {column!r}, but has {', '.join(map(str, table.columns))}; do name one of them"
            )
    higher = higher or (_more_is_better(x), _more_is_better(y))
    values = table[[x, y]].to_numpy(float) * [FACTORS.get(x, 1.0), FACTORS.get(y, 1.0)]
    known = ~np.isnan(values).any(1)
    if not known.any():
        raise ValueError(f"Argument `table` must hold a design with both {x} and {y}, but none has; do set the designs' constants")
    front = pareto_front(values, higher)
    partial = np.array([any(bool(row.get(f"{column}_without")) for column in (x, y)) for row in table.to_dict("records")])
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(COLUMN_INCHES, 2.7), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        labels = []
        for axis, column in enumerate((x, y)):
            words, unit = LABELS.get(column, (column.replace("_", " "), ""))
            step, prefix = _step(float(np.nanmax(values[:, axis]))) if unit in ("J", "s") else (1.0, "")
            values[:, axis] /= step
            labels.append(f"{words} ({prefix}{unit})" if unit else words)
        ordered = values[front][np.argsort(values[front][:, 0])]
        axes.step(
            ordered[:, 0], ordered[:, 1], where="post" if higher[0] == higher[1] or not higher[0] else "pre", color="#999999", zorder=1
        )
        for index in np.flatnonzero(known):
            color = TERMS[0] if front[index] else "#999999"
            fill: Any = "white" if partial[index] else color
            axes.plot(*values[index], "o", markersize=5, markeredgecolor=color, markerfacecolor=fill, zorder=2)
            axes.annotate(str(table[name].iloc[index]), values[index], xytext=(4, 4), textcoords="offset points", fontsize=7)
        for axis, column in enumerate((x, y)):
            positive = values[known, axis] > 0
            if column in LABELS and positive.all() and values[known, axis].max() > 20 * values[known, axis].min():
                (axes.set_xscale if axis == 0 else axes.set_yscale)("log")
        axes.margins(0.18)
        left = [str(one) for one in table.loc[~known, name]]
        below = [
            *(["hollow: a bound, terms are not given"] if partial[known].any() else []),
            *([f"without {', '.join(left)}"] if left else []),
        ]
        axes.set_xlabel("\n".join([labels[0], *below]))
        axes.set_ylabel(labels[1])
    return figure


def _more_is_better(column: str) -> bool:
    return column.startswith("tops") or "accuracy" in column


def _step(largest: float) -> tuple[float, str]:
    """Return the step of a unit and its prefix, for numbers up to the largest."""
    return next(((step, prefix) for step, prefix in reversed(STEPS) if largest >= step), STEPS[0])
