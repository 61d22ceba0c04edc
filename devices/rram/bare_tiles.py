"""Tiles of cells that are reached one by one: what a probe station or a test chip offers, without mapping of weights."""

from pydantic import Field, SerializeAsAny

from devices.base import ResistiveCell
from devices.converters import ADC, DAC
from devices.design import Design
from devices.rram.pulse_update import PulseUpdate
from devices.rram.stuck import StuckCells


class BareTiles(Design):
    """Arrays whose cells are programmed to conductances, and whose columns' currents are read for row voltages.

    Parameters
    ----------
    cell
        The resistive cell.
    tiles, rows, columns
        How many arrays there are, and cells of each.
    volts_max
        Row voltage at full scale, and the largest that is taken.
    stuck
        Share of cells that are stuck at either end, drawn at fabrication.
    pulses
        What a pulse does to a cell; None: cells are programmed to targets only.
    dac, adc
        Converters on rows and columns; None is an ideal one.
    full_scale_ampere
        Full scale of the ADC; None follows each read's largest current, as a meter does that chooses its own range.

    Examples
    --------
    >>> from devices.rram.ideal import IdealCell
    >>> BareTiles(cell=IdealCell(g_min_siemens=1e-6, g_max_siemens=4e-5), rows=16, columns=8).volts_max
    0.2
    """

    cell: SerializeAsAny[ResistiveCell]
    tiles: int = Field(default=1, ge=1, le=1 << 20)
    rows: int = Field(default=64, ge=1, le=65536)
    columns: int = Field(default=64, ge=1, le=65536)
    volts_max: float = Field(default=0.2, gt=0)
    stuck: StuckCells | None = None
    pulses: PulseUpdate | None = None
    dac: DAC | None = None
    adc: ADC | None = None
    full_scale_ampere: float | None = Field(default=None, gt=0)
