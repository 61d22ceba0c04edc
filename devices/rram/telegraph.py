"""Random telegraph noise: a trap in the cell that captures and releases a charge, and holds the conductance at one of two levels."""

import math

import torch
from pydantic import Field
from torch import Tensor

from devices.design import Design
from devices.rram.retention import checked_seconds
from kernels.random import Key, uniform

_WINDOW = 8
"""Relaxation times in a window of events; a window without any event (0.03 %) passes the question on to the one before."""


class TelegraphNoise(Design):
    """Two levels of conductance, a relative amplitude apart, between which each cell switches at random times of its own.

    A cell is captured with the probability `occupancy` at any time, and its state at two times is correlated as exp(-dt / tau): it
    captures at the rate occupancy / tau and releases at (1 - occupancy) / tau. The levels are G (1 + amplitude occupancy) and, when
    captured, G (1 - amplitude (1 - occupancy)), so that their mean over time is the conductance G of programming and drift.

    Parameters
    ----------
    amplitude
        Distance of the two levels over the conductance.
    occupancy
        Share of the time that a trap is captured.
    relaxation_seconds
        tau.
    share
        Share of the cells that have a trap.

    Examples
    --------
    >>> import torch
    >>> noise = TelegraphNoise(amplitude=0.1, occupancy=0.5, relaxation_seconds=1.0)
    >>> levels = noise.apply(torch.ones(1000), 3600.0, Key.of(seed=0)).unique()
    >>> [round(level, 2) for level in levels.tolist()]
    [0.95, 1.05]
    """

    amplitude: float = Field(gt=0, lt=1)
    occupancy: float = Field(gt=0, lt=1)
    relaxation_seconds: float = Field(gt=0)
    share: float = Field(default=1.0, gt=0, le=1)

    def apply(self, conductance: Tensor, seconds: float, key: Key) -> Tensor:
        """Return the conductances, siemens, with each trap as it stands `seconds` after programming.

        The same key gives a cell the same course at all times.
        """
        captured = self.captured(conductance.numel(), seconds, key, conductance.device).reshape(conductance.shape)
        relative = torch.where(captured, 1 - self.amplitude * (1 - self.occupancy), 1 + self.amplitude * self.occupancy)
        if self.share < 1:
            trapped = uniform(key.fold("trap"), conductance.shape, conductance.device) < self.share
            relative = torch.where(trapped, relative, 1.0)
        return conductance * relative

    def captured(self, count: int, seconds: float, key: Key, device: torch.device | None = None) -> Tensor:
        """Return which of `count` traps are captured at a time: shape (count,), bool.

        At the events of a Poisson process of rate 1 / tau a trap's state is drawn anew; the state at a time is that of the last event.
        """
        time = checked_seconds(seconds) / self.relaxation_seconds
        state = torch.zeros(count, dtype=torch.bool, device=device)
        pending = torch.ones(count, dtype=torch.bool, device=device)
        window = math.floor(time / _WINDOW)
        until = time - window * _WINDOW
        while window >= 0 and bool(pending.any()):
            found, drawn = self._last_event(count, until, key.fold(window), device)
            state = torch.where(pending & found, drawn, state)
            pending &= ~found
            window, until = window - 1, float(_WINDOW)
        if bool(pending.any()):
            initial = uniform(key.fold("start"), count, device) < self.occupancy
            state = torch.where(pending, initial, state)
        return state

    def _last_event(self, count: int, until: float, key: Key, device: torch.device | None) -> tuple[Tensor, Tensor]:
        """Return whether a window has an event before `until`, in relaxation times from its start, and the last one's state."""
        elapsed = torch.zeros(count, device=device)
        found = torch.zeros(count, dtype=torch.bool, device=device)
        state = torch.zeros(count, dtype=torch.bool, device=device)
        event = 0
        while True:
            elapsed -= torch.log(uniform(key.fold(event, "wait"), count, device))
            before = elapsed < until
            if not bool(before.any()):
                return found, state
            found |= before
            state = torch.where(before, uniform(key.fold(event, "state"), count, device) < self.occupancy, state)
            event += 1
