"""What pictures of a chip share: a canvas measured in inches, and words that fit."""

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from simulator.figures import STYLE

NARROW_INCHES = 4.0
MARGIN_INCHES = 0.1
LINE_INCHES = 0.145
LETTER_INCHES = 0.0465  # mean width of a letter at 6 points


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure whose one axes are measured in inches from its upper left corner.

    Examples
    --------
    >>> figure, axes = canvas(4.0, 2.0)
    >>> float(axes.get_xlim()[1]), float(axes.get_ylim()[0])
    (4.0, 2.0)
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height))
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_axis_off()
    return figure, axes


def shortened(text: str, room: int) -> str:
    """Return a text with its middle left out where it is longer than there is room.

    Examples
    --------
    >>> shortened("encoder.layers.0.linear1", 12)
    'enc….linear1'
    """
    if len(text) <= room:
        return text
    head = max(1, (room - 1) // 3)
    return f"{text[:head]}…{text[len(text) - (room - 1 - head) :]}"
