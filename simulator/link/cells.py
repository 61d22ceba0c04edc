"""Bare cells, simulated: what a client programs and reads where a device gives access to its tiles."""

from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from devices.base import Hardware, ProgrammedCells
from devices.rram import BareTiles, RRAMCrossbar
from kernels.crossbar import convert, quantize
from kernels.random import Key
from simulator._isolation import one_thread
from simulator.environment import inloop_version
from simulator.link.device import Cells, Description, Device, DeviceError, Floats, Integers

DEFAULT_VOLTS = 0.2
"""Read voltage where a crossbar's design states none: a choice, which no result in siemens depends on."""
ROUNDING = 2.0**-20
"""Of targets that travel in single precision, relative."""


class CellArray(Device):
    """Tiles of simulated cells behind a link.

    The seed of a programming names the fabricated array, with its faults and the errors of its devices, and the trial one programming
    of it. A read multiplies row voltages by the conductances as they stand,
    with the noise of every cell, one draw a column and read.

    Parameters
    ----------
    design
        The tiles.

    Examples
    --------
    >>> from devices import IdealCell
    >>> tiles = CellArray(BareTiles(cell=IdealCell(g_min_siemens=1e-6, g_max_siemens=4e-5), rows=1, columns=2))
    >>> tiles.program_cells(0, np.array([[1e-5, 2e-5]]), seed=0, trial=0)
    >>> [round(1e6 * float(one), 3) for one in tiles.read_cells(0, np.array([[0.1]]), read=1)[0]]
    [1.0, 2.0]
    """

    def __init__(self, design: BareTiles) -> None:
        if not isinstance(design, BareTiles):
            raise ValueError(f"Argument `design` must be BareTiles, but got {type(design).__name__}")
        self.design = design
        self._cells: dict[int, tuple[ProgrammedCells, Key]] = {}
        self._standing: dict[int, tuple[Tensor, Tensor | None]] = {}
        self._ages: dict[int, Fraction] = {}

    @property
    def limits(self) -> Cells:
        """What a client must keep to."""
        design = self.design
        return Cells(
            tiles=design.tiles,
            rows=design.rows,
            columns=design.columns,
            g_min_siemens=design.cell.g_min_siemens,
            g_max_siemens=design.cell.g_max_siemens,
            volts_max=design.volts_max,
        )

    def describe(self) -> Description:
        """Return identity and limits; the cell itself is not told, as no laboratory's array would."""
        firmware = f"inloop {inloop_version()}"
        return Description(name="simulated cells", identity=self.design.fingerprint(), firmware=firmware, simulated=True, cells=self.limits)

    def status(self) -> dict[str, object]:
        """Return how many tiles are programmed."""
        return {"programmed_tiles": len(self._cells)}

    def program_cells(self, tile: int, targets: Floats, seed: int, trial: int) -> None:
        """Program a tile; the seed names the fabricated instance, the trial one programming of it."""
        shape = (self.design.rows, self.design.columns)
        values = torch.from_numpy(np.array(targets, dtype=np.float32))
        if tuple(values.shape) != shape or not bool(torch.isfinite(values).all()):
            raise DeviceError(f"the targets of tile {tile} must be finite, of shape {shape}, but are not: {tuple(values.shape)}")
        low, high = self.design.cell.g_min_siemens, self.design.cell.g_max_siemens
        least, most = float(values.min()), float(values.max())
        if least < low * (1 - ROUNDING) or most > high * (1 + ROUNDING):
            raise DeviceError(f"the targets of tile {tile} must be from {low:.6g} to {high:.6g} S, but go from {least:.6g} to {most:.6g} S")
        key = Key.of(seed=seed, tile=self._tile(tile), purpose="bare cells").at(trial)
        with one_thread():
            self._cells[tile] = (self.design.cell.program(values, key.fold("program")), key)
        self._ages[tile] = Fraction(0)
        self._standing.pop(tile, None)

    def pulse_cells(self, tile: int, pulses: Integers, step: int) -> None:
        """Send pulses to cells as they stand; what they leave counts as programmed at this moment."""
        law = self.design.pulses
        if law is None:
            raise DeviceError("the cells of this device must be programmed to targets: it states no law of pulses")
        standing = self._stand(tile)[0] * 1e-6
        counts = torch.from_numpy(np.array(pulses))
        if counts.shape != standing.shape or counts.dtype.is_floating_point or counts.dtype == torch.bool:
            raise DeviceError(f"the pulses of tile {tile} must be integers of shape {tuple(standing.shape)}, but are not")
        cells, key = self._cells[tile]
        moved = law.apply(standing, counts, key.fold("pulses", step), self.design.cell)
        self._cells[tile] = (ProgrammedCells(moved, cells.memory), key)
        self._ages[tile] = Fraction(0)
        self._standing.pop(tile, None)

    def read_cells(self, tile: int, volts: Floats, read: int) -> Floats:
        """Return the columns' currents, ampere, float32."""
        design = self.design
        values = torch.from_numpy(np.array(volts, dtype=np.float32))
        if values.dim() != 2 or values.shape[1] != design.rows or not bool(torch.isfinite(values).all()):
            raise DeviceError(f"the voltages must be finite, of shape (batch, {design.rows}), but are not: {tuple(values.shape)}")
        if values.numel() and float(values.abs().max()) > design.volts_max * (1 + 1e-6):
            raise DeviceError(f"the voltages must be at most {design.volts_max} V, but go to {float(values.abs().max()):.6g} V")
        with torch.no_grad(), one_thread():
            return self._read(tile, values, read).numpy()

    def age_cells(self, seconds: float) -> None:
        """Let time pass for all tiles."""
        for tile in self._cells:
            self._ages[tile] += Fraction(seconds)
        self._standing.clear()

    def reset(self) -> None:
        """Forget what was programmed."""
        self._cells.clear()
        self._standing.clear()
        self._ages.clear()

    def _read(self, tile: int, volts: Tensor, read: int) -> Tensor:
        design = self.design
        if design.dac is not None:
            step = design.dac.step(design.volts_max)
            volts = quantize(volts, step, -design.dac.limit, design.dac.limit)
        conductance, squared = self._stand(tile)
        currents = volts @ conductance
        variance = None if squared is None else volts**2 @ squared
        step, limit = 0.0, 0
        if design.adc is not None:
            full = design.full_scale_ampere * 1e6 if design.full_scale_ampere is not None else float(currents.abs().amax())
            step, limit = (design.adc.step(full), design.adc.limit) if full > 0 else (0.0, 0)
        key = self._cells[tile][1].fold("read", read)
        return 1e-6 * convert(currents, variance=variance, key=None if variance is None else key, step=step, limit=limit)

    def _stand(self, tile: int) -> tuple[Tensor, Tensor | None]:
        """Return a tile's conductances as they stand, microsiemens, and the variances of their read noise.

        In siemens the squares would be no float32 that noise could be drawn with.
        """
        if self._tile(tile) not in self._cells:
            raise DeviceError(f"tile {tile} must be programmed before it is read, but is not; program it")
        if tile not in self._standing:
            design, (cells, key) = self.design, self._cells[tile]
            conductance = design.cell.drift(cells, float(self._ages[tile]), key.fold("drift"))
            if design.stuck is not None:
                conductance = design.stuck.apply(conductance, key.fold("faults"), design.cell)
            sigma = design.cell.read_sigma(conductance, float(self._ages[tile]))
            self._standing[tile] = (conductance * 1e6, None if sigma is None else (sigma * 1e6) ** 2)
        return self._standing[tile]

    def _tile(self, tile: int) -> int:
        if tile >= self.design.tiles:
            raise DeviceError(f"the tile must be below {self.design.tiles}, but got {tile}")
        return tile


def cells_of(hardware: Hardware) -> CellArray | None:
    """Return access to one tile of a crossbar's cells, read by a meter that chooses its own range; None for other families.

    Examples
    --------
    >>> cells_of(RRAMCrossbar.preset("wan_nature_2022")).limits.rows
    256
    """
    if not isinstance(hardware, RRAMCrossbar):
        return None
    return CellArray(
        BareTiles(
            cell=hardware.cell,
            rows=hardware.rows,
            columns=hardware.columns,
            stuck=hardware.stuck,
            volts_max=hardware.read_voltage_volt or DEFAULT_VOLTS,
        )
    )
