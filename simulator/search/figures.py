"""Figures of a sweep, in the style of a study's: the front, parallel coordinates, heat maps and importances."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from devices.quantities import unit_of
from simulator.figures import COLUMN_INCHES, _figure, _styled, text_of
from simulator.search.found import Sweep
from simulator.search.importance import importances

FRONT, OTHERS, DROPPED = "#0072B2", "#999999", "#CC79A7"
SCALE = "viridis"
WIDE_INCHES = 7.0
LOGARITHMIC = 30.0
PREFIXES = ((1e-15, "f"), (1e-12, "p"), (1e-9, "n"), (1e-6, "µ"), (1e-3, "m"), (1.0, ""), (1e3, "k"), (1e6, "M"))
UNITS = {"joule": "J", "second": "s", "square meter": "m²", "watt": "W", "meter": "m"}


def draw_sweep(sweep: Sweep) -> dict[str, Figure]:
    """Return the figures of a sweep by name: ``front``, ``parallel``, ``importance`` and ``heat_GOAL`` where they exist."""
    found: dict[str, Figure] = {}
    frame = sweep.frame
    if not (frame["state"] != "failed").any():
        return found
    with _styled():
        if len(sweep.goals.directions) > 1:
            found["front"] = draw_front(sweep)
        found["parallel"] = draw_parallel(sweep)
        table = importances(sweep)
        if len(table):
            found["importance"] = draw_importances(table)
        pair = _two_parameters(sweep, table)
        if pair is not None:
            for goal in sweep.goals.directions:
                found[f"heat_{goal}"] = draw_heat(sweep, *pair, goal)
        for figure in found.values():
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
    return found


def draw_front(sweep: Sweep, first: str | None = None, second: str | None = None) -> Figure:
    """Draw every design by two goals, the front with 95 % intervals over chips.

    Parameters
    ----------
    sweep
        The sweep.
    first, second
        Goals on the axes; by default the second goal lies on x and the first on y.
    """
    goals = list(sweep.goals.directions)
    y, x = first or goals[0], second or goals[1]
    with _styled():
        figure, axes = _figure(2.7)
        frame, front = sweep.frame, sweep.front()
        scales = {name: _scale(name, frame[name]) for name in (x, y)}
        for state, color, words in (("complete", OTHERS, "beaten"), ("dropped", DROPPED, "dropped after few chips")):
            rows = frame[(frame["state"] == state) & ~frame["front"] & frame["feasible"].astype(bool)]
            if len(rows):
                axes.plot(rows[x] / scales[x][0], rows[y] / scales[y][0], ".", color=color, markersize=4, alpha=0.6, label=words)
        rows = frame[(frame["state"] != "failed") & ~frame["feasible"].astype(bool)]
        if len(rows):
            axes.plot(rows[x] / scales[x][0], rows[y] / scales[y][0], "x", color=OTHERS, markersize=3, label="outside a limit")
        errors: dict[str, Any] = {}
        for name, side in ((x, "xerr"), (y, "yerr")):
            if f"{name}_low" in front:
                ends = np.array([front[name] - front[f"{name}_low"], front[f"{name}_high"] - front[name]], dtype=float) / scales[name][0]
                errors[side] = np.nan_to_num(ends)
        front_x, front_y = front[x].to_numpy(dtype=float) / scales[x][0], front[y].to_numpy(dtype=float) / scales[y][0]
        axes.errorbar(front_x, front_y, **errors, color=FRONT, marker="o", markersize=4, linestyle="none", capsize=2, label="front")
        order = np.argsort(front_x)
        if len(goals) == 2 and len(front):
            step = "steps-post" if sweep.goals.directions[x] == "minimize" else "steps-pre"
            axes.plot(front_x[order], front_y[order], color=FRONT, drawstyle=step, linewidth=0.8, alpha=0.6)
        for name, set_scale, set_label in ((x, axes.set_xscale, axes.set_xlabel), (y, axes.set_yscale, axes.set_ylabel)):
            shown = frame.loc[frame["state"] != "failed", name] / scales[name][0]
            if _spans(shown):
                set_scale("log")
                axis = axes.xaxis if name == x else axes.yaxis
                decades = np.log10(float(shown.max()) / float(shown.min()))
                axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)))
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                axis.set_minor_locator(NullLocator())
            set_label(scales[name][1] + (", mean over chips" if f"{name}_low" in frame else ""))
        axes.legend(loc="best")
    return figure


def draw_parallel(sweep: Sweep) -> Figure:
    """Draw each design as a line over its parameters and goals, the front strong and colored by the first goal."""
    frame = sweep.frame
    frame = frame[frame["state"] != "failed"]
    names = [*sweep.space.parameters, *sweep.goals.directions]
    with _styled():
        figure = Figure(figsize=(max(COLUMN_INCHES, min(WIDE_INCHES, 0.95 * len(names) + 1)), 2.9), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        places, ticks = {}, {}
        for name in names:
            places[name], ticks[name] = _axis(sweep, name, frame[name])
        table = np.array([places[name] for name in names]).T
        on_front = frame["front"].to_numpy(dtype=bool)
        first = next(iter(sweep.goals.directions))
        values = frame[first].to_numpy(dtype=float)
        low, high = (float(values[on_front].min()), float(values[on_front].max())) if on_front.any() else (0.0, 1.0)
        import matplotlib as mpl
        from matplotlib.colors import Normalize

        norm = Normalize(low, high if high > low else low + 1e-12)
        colors = mpl.colormaps[SCALE]
        for row, chosen, value in sorted(zip(table, on_front, values, strict=True), key=lambda item: bool(item[1])):
            style: dict[str, Any] = {"color": colors(norm(value)), "linewidth": 1.1} if chosen else {"color": "#dddddd", "linewidth": 0.4}
            axes.plot(range(len(names)), row, **style)
        for place, name in enumerate(names):
            axes.axvline(place, color="#333333", linewidth=0.6)
            for height, text in ticks[name]:
                axes.annotate(text, (place, height), xytext=(2, 0), textcoords="offset points", fontsize=5.5, va="center")
        axes.set_xticks(range(len(names)), [label_of_parameter(name) for name in names], rotation=25, ha="right")
        axes.set_xlim(-0.1, len(names) - 0.6)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        if on_front.any():
            scale, label = _scale(first, frame[first])
            bar = figure.colorbar(mpl.cm.ScalarMappable(Normalize(norm.vmin / scale, norm.vmax / scale), colors), ax=axes)  # type: ignore[operator]
            bar.set_label(f"{label} (front)")
    return figure


def draw_importances(table: pd.DataFrame) -> Figure:
    """Draw the importance of each parameter for each goal, with the standard deviation over shuffles."""
    goals, parameters = list(dict.fromkeys(table["goal"])), list(dict.fromkeys(table["parameter"]))
    with _styled():
        figure, axes = _figure(0.9 + 0.3 * len(parameters) * max(1, len(goals) / 2))
        height = 0.8 / len(goals)
        for index, goal in enumerate(goals):
            rows = table[table["goal"] == goal].set_index("parameter").loc[parameters]
            places = np.arange(len(parameters)) + (index - (len(goals) - 1) / 2) * height
            explained = float(rows["oob_r2"].iloc[0])
            axes.barh(
                places, rows["importance"], height, xerr=rows["std"], color=f"C{index}", error_kw={"elinewidth": 0.8},
                label=f"{goal} (forest explains {max(0.0, explained):.0%})",
            )  # fmt: skip
        axes.set_yticks(range(len(parameters)), [label_of_parameter(name) for name in parameters])
        axes.invert_yaxis()
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("loss of explained variance when shuffled")
        figure.legend(loc="outside upper center", fontsize=6)
    return figure


def draw_heat(sweep: Sweep, x: str, y: str, value: str) -> Figure:
    """Draw the mean of a value over all designs that share the values of two parameters.

    Parameters
    ----------
    sweep
        The sweep.
    x, y
        Parameters; numbers with more than 12 values are put in 8 bins.
    value
        A goal or any other value of the frame.
    """
    frame = sweep.frame
    frame = frame[(frame["state"] != "failed") & frame[x].notna() & frame[y].notna()]
    with _styled():
        figure, axes = _figure(2.6)
        rows, columns = _bins(y, frame[y]), _bins(x, frame[x])
        table = pd.DataFrame({"x": columns[0], "y": rows[0], "value": frame[value].to_numpy(dtype=float)})
        grid = table.pivot_table(index="y", columns="x", values="value", aggfunc="mean")
        grid = grid.reindex(index=range(len(rows[1])), columns=range(len(columns[1])))
        scale, label = _scale(value, frame[value])
        image = axes.imshow(grid.to_numpy(dtype=float) / scale, origin="lower", aspect="auto", cmap=SCALE)
        axes.set_xticks(range(len(columns[1])), columns[1], rotation=30 if max(map(len, columns[1])) > 4 else 0)
        axes.set_yticks(range(len(rows[1])), rows[1])
        axes.set_xlabel(label_of_parameter(x))
        axes.set_ylabel(label_of_parameter(y))
        axes.spines[["top", "right"]].set_visible(True)
        figure.colorbar(image, ax=axes).set_label(f"{label}, mean over the other parameters", fontsize=6)
    return figure


def label_of_parameter(name: str) -> str:
    """Return an axis label: the words of a path without the word for the whole, its unit in the values.

    Examples
    --------
    >>> label_of_parameter("design.adc.bits"), label_of_parameter("hardware")
    ('ADC bits', 'hardware')
    """
    words = name.removeprefix("design.").replace(".", " ").replace("_", " ")
    unit = unit_of(name.rsplit(".", 1)[-1])
    if unit is not None:
        words = words.rsplit(" ", 1)[0]
    return " ".join(word.upper() if word in ("adc", "dac") else word for word in words.split())


def _scale(name: str, values: pd.Series) -> tuple[float, str]:
    """Return what values are divided by, and the label with the unit that they then have."""
    unit = unit_of(name)
    if unit is None:
        return 1.0, label_of_parameter(name)
    symbol = UNITS.get(unit, unit)
    largest = float(np.nanmax(np.abs(values.to_numpy(dtype=float)))) if values.notna().any() else 1.0
    if unit == "square meter":
        return 1e-6, f"{label_of_parameter(name)} (mm²)"
    step, prefix = next(((step, prefix) for step, prefix in reversed(PREFIXES) if largest >= step), PREFIXES[0])
    return step, f"{label_of_parameter(name)} ({prefix}{symbol})"


def _spans(values: pd.Series) -> bool:
    numbers = values.dropna().to_numpy(dtype=float)
    return bool(len(numbers) and numbers.min() > 0 and numbers.max() / numbers.min() > LOGARITHMIC)


def _axis(sweep: Sweep, name: str, values: pd.Series) -> tuple[list[float], list[tuple[float, str]]]:
    """Return the heights of values on an axis of parallel coordinates, below it where there is none, and its ticks."""
    numbers = pd.to_numeric(values, errors="coerce")
    kind = sweep.space.parameters.get(name)
    if (numbers.isna() & values.notna()).any() or values.dtype == bool:
        texts = [str(value) for value in values]
        order = list(dict.fromkeys(text for text, value in zip(texts, values, strict=True) if pd.notna(value)))
        height = {text: place / max(1, len(order) - 1) for place, text in enumerate(order)}
        return [height.get(text, -0.12) for text in texts], [(height[text], text) for text in order]
    logarithmic = (kind is not None and getattr(kind, "log", False)) or (kind is None and _spans(numbers))
    scaled = np.log(numbers) if logarithmic else numbers
    low, high = float(scaled.min()), float(scaled.max())
    heights = ((scaled - low) / (high - low)) if high > low else scaled * 0 + 0.5
    ends = (0.0, 1.0) if high > low else (0.5, 0.5)
    ticks = [(ends[0], _short(name, float(numbers.min()))), (ends[1], _short(name, float(numbers.max())))]
    return [float(height) for height in heights.fillna(-0.12)], ticks


def _short(name: str, value: float) -> str:
    if unit_of(name.rsplit(".", 1)[-1]) == "square meter":
        return f"{value * 1e6:.3g} mm²"
    text = text_of(name, float(f"{value:.3g}"))
    return f"{value:.3g}" if len(text) > 9 else text


def _bins(name: str, values: pd.Series) -> tuple[list[int], Sequence[str]]:
    """Return the bin of each value and the bins' labels."""
    numbers = pd.to_numeric(values, errors="coerce")
    if numbers.isna().any() or values.nunique() <= 12:
        order = sorted(set(values), key=lambda value: (str(type(value)), value)) if numbers.notna().all() else list(dict.fromkeys(values))
        whole = numbers.notna().all() and bool((numbers % 1 == 0).all())
        place = {value: index for index, value in enumerate(order)}
        return [place[value] for value in values], [text_of(name, int(value) if whole else value) for value in order]
    edges = np.linspace(float(numbers.min()), float(numbers.max()), 9)
    if numbers.min() > 0 and numbers.max() / numbers.min() > LOGARITHMIC:
        edges = np.geomspace(float(numbers.min()), float(numbers.max()), 9)
    found = np.clip(np.searchsorted(edges, numbers.to_numpy(dtype=float), side="right") - 1, 0, 7)
    return [int(one) for one in found], [
        _short(name, float((edges[i] * edges[i + 1]) ** 0.5 if edges[0] > 0 else edges[i])) for i in range(8)
    ]


def _two_parameters(sweep: Sweep, table: pd.DataFrame) -> tuple[str, str] | None:
    """Return the two parameters that matter most and exist in most designs, None where there are not two."""
    frame = sweep.frame
    usable = [name for name in sweep.space.parameters if frame[name].notna().mean() > 0.3 and frame[name].nunique() > 1]
    if len(usable) < 2:
        return None
    if len(table):
        weight = table.groupby("parameter")["importance"].sum()
        usable.sort(key=lambda name: -float(weight.get(name, 0.0)))
    return usable[0], usable[1]
