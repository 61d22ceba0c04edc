"""Cells that do not switch: stuck at a high or a low conductance from the fabrication on."""

from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from devices.base import ResistiveCell
from devices.design import Design
from kernels.random import Key, uniform


class StuckCells(Design):
    """Cells stuck on and stuck off, each at its own rate and independent of each other.

    Parameters
    ----------
    stuck_on_rate, stuck_off_rate
        Share of all cells that is stuck at the high, and at the low conductance. Measured arrays had 9.8 to 13.5 % of corrupt
        devices in all (IEDM 2022); the default is none.
    on_siemens, off_siemens
        The two conductances; None takes g_max and g_min of the cell.

    Examples
    --------
    >>> faults = StuckCells(stuck_on_rate=0.05, on_siemens="40 uS")
    >>> stuck = faults.apply(torch.zeros(100_000), Key.of(seed=0))
    >>> round(float((stuck > 0).float().mean()), 2)
    0.05
    """

    stuck_on_rate: float = Field(default=0.0, ge=0, le=1)
    stuck_off_rate: float = Field(default=0.0, ge=0, le=1)
    on_siemens: float | None = Field(default=None, gt=0)
    off_siemens: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _rates_fit(self) -> Self:
        if self.stuck_on_rate + self.stuck_off_rate > 1:
            raise ValueError(
                "`stuck_on_rate` and `stuck_off_rate` must sum to at most 1, "
                f"but got {self.stuck_on_rate} and {self.stuck_off_rate}; lower one"
            )
        return self

    def draw(self, shape: tuple[int, ...], key: Key, device: torch.device | None = None) -> Tensor:
        """Return which cells are stuck: int8 of the shape, 1 for on, -1 for off, 0 for a cell that works.

        The faults are the chip's: the same for ``key.at(n)`` of every n.
        """
        drawn = uniform(key.at(0).fold("stuck"), shape, device)
        faults = torch.zeros(shape, dtype=torch.int8, device=device)
        faults[drawn < self.stuck_on_rate + self.stuck_off_rate] = -1
        faults[drawn < self.stuck_on_rate] = 1
        return faults

    def apply(self, conductance: Tensor, key: Key, cell: ResistiveCell | None = None) -> Tensor:
        """Return the conductances, siemens, with the stuck cells at theirs.

        Parameters
        ----------
        conductance
            Conductances of the array, any shape; not changed in place.
        key
            The stream of the chip's programming.
        cell
            Whose g_max and g_min a stuck cell has where `on_siemens` or `off_siemens` is None.

        Raises
        ------
        ValueError
            Where a conductance of stuck cells is neither given nor known from `cell`.
        """
        if not (self.stuck_on_rate or self.stuck_off_rate):
            return conductance
        faults = self.draw(tuple(conductance.shape), key, conductance.device)
        stuck = conductance
        for sign, rate, name, default in (
            (1, self.stuck_on_rate, "on_siemens", "g_max_siemens"),
            (-1, self.stuck_off_rate, "off_siemens", "g_min_siemens"),
        ):
            if rate:
                value = getattr(self, name)
                if value is None:
                    value = getattr(cell, default, None)
                if value is None:
                    raise ValueError(f"StuckCells: `{name}` must be given where no cell is, but got None; give it or the cell")
                stuck = torch.where(faults == sign, value, stuck)
        return stuck
