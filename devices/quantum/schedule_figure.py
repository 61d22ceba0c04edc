"""The picture of a schedule: what each channel plays over time, with turns of its frame."""

from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from devices.quantum.figures import COLORS, STYLE, new_figure

if TYPE_CHECKING:
    from devices.quantum.schedule import Schedule


def draw_schedule(schedule: "Schedule") -> Figure:
    """Return a picture with a row per channel that plays: both quadratures, frame turns as ticks, recordings as a shade.

    Parameters
    ----------
    schedule
        What to draw.

    Examples
    --------
    >>> from devices.quantum.schedule import Schedule
    >>> from devices.quantum.waveforms import Gaussian
    >>> draw_schedule(Schedule().play("d0", Gaussian(duration_samples=64, sigma_samples=16))).axes[0].get_ylabel()
    'd0'
    """
    from devices.quantum.schedule import Acquire, Play, ShiftPhase

    playing = [one for one in schedule.channels if any(part.channel == one and isinstance(part, Play) for part in schedule.instructions)]
    rows = playing or ["no pulses"]
    recorded = [one for one in schedule.instructions if isinstance(one, Acquire)]
    end = max([one.stop for one in schedule.instructions if not isinstance(one, Acquire)], default=1)
    shown = end + (max(end // 10, 16) if recorded else 0)
    with mpl.rc_context(STYLE):
        figure = new_figure(6.5, 0.7 + 0.9 * len(rows))
        axes = figure.subplots(len(rows), 1, sharex=True, squeeze=False)[:, 0]
        for row, name in zip(axes, rows, strict=True):
            turns: dict[int, float] = {}  # those of one time are one turn
            for one in schedule.instructions:
                if one.channel != name:
                    continue
                if isinstance(one, Play):
                    samples = one.waveform.samples()
                    times = one.start + np.arange(len(samples) + 1)
                    for color, part, label in ((COLORS[0], samples.real, "I"), (COLORS[1], samples.imag, "Q")):
                        row.stairs(part, times, color=color, fill=True, alpha=0.35, label=label)
                        row.stairs(part, times, color=color, linewidth=0.8)
                elif isinstance(one, ShiftPhase):
                    turns[one.start] = turns.get(one.start, 0.0) + one.phase_rad
            for start, angle in turns.items():
                row.axvline(start, color="#888888", linewidth=0.8, linestyle=":")
                row.annotate(f"{np.degrees(angle):.0f}°", (start, 0.9), fontsize=6, color="#555555")
            if recorded:
                row.axvspan(recorded[0].start, shown, color="#DDDDDD", linewidth=0)
            row.set_ylim(-1.1, 1.1)
            row.set_xlim(0, shown)
            row.set_ylabel(name, rotation=0, ha="right", va="center")
            row.axhline(0, color="black", linewidth=0.4)
        handles, labels = axes[0].get_legend_handles_labels()
        if handles:
            axes[0].legend(handles[:2], labels[:2], loc="upper right", ncols=2)
        axes[0].set_title(schedule.name)
        axes[-1].set_xlabel("time, samples")
    return figure
