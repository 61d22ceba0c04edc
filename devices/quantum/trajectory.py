"""What a chip goes through while a schedule plays: populations and Bloch vectors over time."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
import torch
from matplotlib.figure import Figure

from devices.design import DesignError
from devices.quantum.checks import require_integer
from devices.quantum.figures import COLORS, STYLE, new_figure
from devices.quantum.playing import play
from devices.quantum.schedule import Schedule

if TYPE_CHECKING:
    from devices.quantum.backend import TransmonBackend


@dataclass(frozen=True, eq=False)
class Trajectory:
    """States of a chip at evenly spaced samples of a schedule.

    Attributes
    ----------
    seconds
        Times, ``(points,)``.
    densities
        Density matrices of dressed states, each in the frame of the transmons' own drives, ``(points, dimension, dimension)``.
    levels, count
        Of the chip.
    """

    seconds: npt.NDArray[np.float64]
    densities: npt.NDArray[np.complex128]
    levels: int
    count: int

    @property
    def populations(self) -> npt.NDArray[np.float64]:
        """Population of each state, ``(points, dimension)``."""
        found: npt.NDArray[np.float64] = np.diagonal(self.densities, axis1=1, axis2=2).real
        return found

    def bloch(self, transmon: int) -> npt.NDArray[np.float64]:
        """Return the Bloch vector of the lowest two levels of a transmon, ``(points, 3)``."""
        if not 0 <= transmon < self.count:
            raise DesignError(f"Trajectory: `transmon` must be 0 to {self.count - 1}, but got {transmon}; name one of the chip")
        shape = (len(self.densities), self.levels ** (self.count - 1 - transmon), self.levels, self.levels**transmon)
        cube = self.densities.reshape(*shape, *shape[1:])
        block = np.einsum("pxiyxjy->pij", cube)
        return np.stack([2 * block[:, 1, 0].real, 2 * block[:, 1, 0].imag, (block[:, 0, 0] - block[:, 1, 1]).real], 1)

    def population_figure(self, smallest: float = 0.01) -> Figure:
        """Return a figure of the populations over time; states that never reach `smallest` are left out."""
        names = [
            "|" + "".join(str(index // self.levels**q % self.levels) for q in reversed(range(self.count))) + ">"
            for index in range(self.populations.shape[1])
        ]
        with mpl.rc_context(STYLE):
            figure = new_figure(4.5, 2.6)
            axes = figure.subplots()
            shown = [index for index in range(len(names)) if self.populations[:, index].max() >= smallest]
            for place, index in enumerate(shown):
                style = ("-", "--", ":")[place // len(COLORS) % 3]
                axes.plot(self.seconds * 1e9, self.populations[:, index], style, color=COLORS[place % len(COLORS)], label=names[index])
            axes.set_xlabel("time, ns")
            axes.set_ylabel("population")
            axes.set_ylim(-0.02, 1.02)
            axes.legend(ncols=2)
        return figure

    def bloch_figure(self, transmon: int) -> Figure:
        """Return a figure of the path of a transmon's Bloch vector on its sphere, from the light point to the dark one."""
        path = self.bloch(transmon)
        with mpl.rc_context(STYLE):
            figure = new_figure(3.5, 3.4)
            axes = figure.add_subplot(projection="3d")
            around, down = np.mgrid[0 : 2 * np.pi : 25j, 0 : np.pi : 13j]
            axes.plot_wireframe(np.cos(around) * np.sin(down), np.sin(around) * np.sin(down), np.cos(down), color="#BBBBBB", linewidth=0.3)
            axes.plot(*path.T, color=COLORS[0])
            axes.scatter(*path[:1].T, color=COLORS[5], s=15)
            axes.scatter(*path[-1:].T, color=COLORS[1], s=15)
            axes.set_box_aspect((1, 1, 1), zoom=0.85)
            for name, label in (("x", "<X>"), ("y", "<Y>"), ("z", "<Z>")):
                getattr(axes, f"set_{name}lim")(-1, 1)
                getattr(axes, f"set_{name}ticks")([-1, 0, 1])
                getattr(axes, f"set_{name}label")(label, labelpad=2)
            axes.set_title(f"q{transmon}")
        return figure


def follow(backend: "TransmonBackend", schedule: Schedule, points: int = 100) -> Trajectory:
    """Return what a chip goes through while a schedule plays, from its ground state.

    Parameters
    ----------
    backend
        The chip.
    schedule
        What it plays.
    points
        About how many states to keep beside the first one, at least 1. Off-resonant pulses make a state shake within a few samples: too few
        points alias that into slow waves.

    Examples
    --------
    >>> from devices import Drag, TransmonBackend
    >>> x = Drag(duration_samples=160, sigma_samples=40, beta_samples=-1.56, amplitude=0.168)
    >>> found = follow(TransmonBackend.preset("jakarta_like"), Schedule().play("d0", x), points=8)
    >>> found.populations[[0, -1], 1].round(2).tolist()
    [0.0, 1.0]
    """
    require_integer("TransmonBackend", "points", points, 1)
    model = backend.model
    played = play(model, schedule)
    step = max(1, played.duration // points)
    edges = [*range(0, played.duration, step), played.duration]
    vectors = model.dressing[1]
    bare = torch.outer(vectors[:, 0], vectors[:, 0].conj())[None]
    found = []
    samples, at = torch.from_numpy(played.samples)[None], 0
    for edge in edges:
        if edge > at:
            part = samples[:, at:edge]
            bare = model.open_bare(part, played.channels, played.carriers[at:edge], bare)
            at = edge
        found.append(model.density_to_dressed(bare, at)[0].numpy())
    return Trajectory(np.array(edges) * backend.sample_seconds, np.stack(found), backend.levels, backend.count)
