"""Figures of spiking networks: rasters, rates, accuracy over time, and where neurons lie on a chip."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from simulator.figures import TERMS, _styled

if TYPE_CHECKING:
    from simulator.spiking.activity import Activity, TimeAccuracy
    from simulator.spiking.cores import CorePlacement

WIDTH_INCHES = 3.5


def raster(activity: "Activity", sample: int, neurons: int) -> Figure:
    """Draw a dot for each spike of one sample, evenly chosen neurons of each population above each other."""
    with _styled():
        figure = _figure(0.7 + 0.75 * len(activity.counts))
        axes = figure.add_subplot()
        base, ticks = 0, []
        for index, (name, counts) in enumerate(activity.counts.items()):
            flat = counts[:, sample].flatten(1)
            chosen = torch.linspace(0, flat.shape[1] - 1, min(neurons, flat.shape[1])).round().long()
            times, places = (flat[:, chosen] > 0).nonzero(as_tuple=True)
            axes.plot(times + 1, places + base, ".", color=TERMS[index % len(TERMS)], markersize=2)
            ticks.append((base + len(chosen) / 2, f"{name}\n{len(chosen)} of {flat.shape[1]}"))
            base += len(chosen)
            axes.axhline(base - 0.5, color="0.8", linewidth=0.5)
        axes.set_yticks([place for place, _ in ticks], [label for _, label in ticks])
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(0.5, activity.timesteps + 0.5)
        axes.set_ylim(-0.5, base - 0.5)
        axes.set_xlabel("time step")
        return _done(figure)


def rate_histogram(activity: "Activity") -> Figure:
    """Draw how many neurons of each population have which rate, averaged over the batch."""
    with _styled():
        figure = _figure(2.3)
        axes = figure.add_subplot()
        edges = np.linspace(0, 1, 41)
        for index, (name, counts) in enumerate(activity.counts.items()):
            rates = counts.float().mean((0, 1)).flatten().numpy()
            shares = np.histogram(rates, edges)[0] / max(1, rates.size)
            axes.stairs(shares, edges, color=TERMS[index % len(TERMS)], label=f"{name}, mean {rates.mean():.3f}", linewidth=1.2)
        axes.set_xlabel("spikes a step")
        axes.set_ylabel("share of the neurons")
        axes.set_yscale("log")
        axes.legend(loc="best")
        return _done(figure)


def accuracy_figure(result: "TimeAccuracy") -> Figure:
    """Draw accuracy over time steps with its 95 % interval."""
    with _styled():
        figure = _figure(2.3)
        axes = figure.add_subplot()
        frame = result.frame
        axes.fill_between(frame["timesteps"], frame["low"], frame["high"], color=TERMS[0], alpha=0.2, linewidth=0, label="95 % interval")
        axes.plot(frame["timesteps"], frame["accuracy"], color=TERMS[0])
        axes.set_xscale("log", base=2)
        ticks = [step for step in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512) if step <= frame["timesteps"].max()]
        axes.set_xticks(ticks, [str(step) for step in ticks])
        axes.set_xlabel("time steps")
        axes.set_ylabel(f"accuracy ({result.samples} samples)")
        axes.legend(loc="lower right")
        return _done(figure)


def placement_figure(placement: "CorePlacement") -> Figure:
    """Draw the cores that are used on their mesh, each filled to the share of its fullest resource, colored by layer."""
    frame = placement.frame
    layers = list(dict.fromkeys(tile.layer for tile in placement.tiles))
    color = {layer: TERMS[index % len(TERMS)] for index, layer in enumerate(layers)}
    used = sorted({tile.core for tile in placement.tiles})
    share = frame.groupby("core")["share"].max()
    columns = max(1, int(np.ceil(np.sqrt(len(used)))))
    places = {core: divmod(index, columns) for index, core in enumerate(used)}
    if len(set(placement.routes.values())) > 1:
        routers = sorted(set(placement.routes.values()))
        side = int(np.ceil(np.sqrt(max(sum(1 for one in placement.routes.values() if one == router) for router in routers))))
        seen: dict[tuple[int, int], int] = {}
        for core in used:
            row, column = placement.routes[core]
            index = seen.get((row, column), 0)
            seen[row, column] = index + 1
            places[core] = (row * side + index // side, column * side + index % side)
    rows = 1 + max(row for row, _ in places.values())
    wide = 1 + max(column for _, column in places.values())
    with _styled():
        figure = _figure(min(6.0, 1.1 + WIDTH_INCHES * rows / wide * 0.8))
        axes = figure.add_subplot()
        for core, (row, column) in places.items():
            fill = float(share.get(core, np.nan))
            bottom = row + 0.9
            for layer, part in _filled(placement, core):
                bottom -= 0.9 * part
                axes.add_patch(Rectangle((column, bottom), 0.9, 0.9 * part, color=color[layer], linewidth=0))
            axes.add_patch(Rectangle((column, row), 0.9, 0.9, fill=False, edgecolor="0.5", linewidth=0.5))
            if wide <= 12:
                text = str(core) if np.isnan(fill) else f"{core}\n{fill:.0%}"
                label = axes.text(column + 0.45, row + 0.45, text, ha="center", va="center", fontsize=6)
                label.set_path_effects([withStroke(linewidth=1.5, foreground="white")])
        for layer in layers:
            axes.add_patch(Rectangle((0, 0), 0, 0, color=color[layer], label=layer))
        axes.set_xlim(-0.2, max(wide, 3) + 0.1)
        axes.set_ylim(rows + 0.1, -0.2)
        axes.set_aspect("equal")
        axes.axis("off")
        axes.set_title(f"{len(used)} cores; filled: share of the fullest resource", fontsize=7)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=min(4, len(layers)), handlelength=1)
        return _done(figure)


def _filled(placement: "CorePlacement", core: int) -> list[tuple[str, float]]:
    """Return the layers on a core with the share that each takes of the fullest resource; equal shares where nothing limits."""
    limits, mine = placement.limits_of(core), [tile for tile in placement.tiles if tile.core == core]
    used = {name: sum(tile.used.get(name, 0) for tile in mine) / limits[name] for name in limits if any(name in tile.used for tile in mine)}
    if not used:
        return [(tile.layer, 1 / len(mine)) for tile in mine]
    most = max(used, key=lambda name: used[name])
    return [(tile.layer, tile.used.get(most, 0) / limits[most]) for tile in mine]


def _figure(height: float) -> Figure:
    figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _done(figure: Figure) -> Figure:
    figure.draw_without_rendering()
    return figure
