"""The design of an RRAM crossbar: cells, array, mapping and converters."""

from typing import Self

from pydantic import Field, SerializeAsAny, model_validator

from devices.base import Hardware, ResistiveCell
from devices.converters import ADC, DAC
from devices.rram.current_voltage import CurrentVoltage
from devices.rram.ideal import IdealCell
from devices.rram.mapping import DifferentialMapping
from devices.rram.stuck import StuckCells
from devices.rram.temperature import Temperature
from devices.rram.wires import Wires


class RRAMCrossbar(Hardware):
    """Arrays of resistive cells that multiply a vector of row voltages by a matrix of conductances.

    Parameters
    ----------
    cell
        The resistive cell; any subclass of `ResistiveCell`.
    rows, columns
        Cells of one array. A weight takes two columns (a pair) for each of its slices.
    mapping
        How weights become conductances.
    wires
        Resistance of rows and columns; None is none. An array is wired as large as it is filled.
    stuck
        Share of cells that are stuck at either end, drawn at fabrication; None is none.
    temperature
        Temperature dependence of the conductances; None reads at the temperature of the measurements.
    current_voltage
        Nonlinearity of a cell's current in its voltage; None is linear. It acts on the row voltage, before any fall along wires.
    dac, adc
        Converters on the rows and on the columns; None is an ideal converter.
    read_voltage_volt, read_pulse_s
        Row voltage at full scale and its duration: a read dissipates V^2 G t in each cell. None: not given.
    pulses_per_write, write_pulse_j
        Programming pulses a cell takes on average, and the energy of one. None: not given.
    cell_area_m2
        Area of one cell. None: not given.

    Examples
    --------
    >>> design = RRAMCrossbar.preset("wan_nature_2022", adc={"bits": 6})
    >>> design.adc.bits, design.rows, design.ideal().adc
    (6, 256, None)
    """

    cell: SerializeAsAny[ResistiveCell]
    rows: int = Field(default=256, ge=1, le=65536)
    columns: int = Field(default=256, ge=2, le=65536)
    mapping: DifferentialMapping = DifferentialMapping()
    wires: Wires | None = None
    stuck: StuckCells | None = None
    temperature: Temperature | None = None
    current_voltage: CurrentVoltage | None = None
    dac: DAC | None = None
    adc: ADC | None = None
    read_voltage_volt: float | None = Field(default=None, gt=0)
    read_pulse_s: float | None = Field(default=None, gt=0)
    pulses_per_write: float | None = Field(default=None, ge=1)
    write_pulse_j: float | None = Field(default=None, gt=0)
    cell_area_m2: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _a_weight_fits(self) -> Self:
        if self.columns < 2 * self.mapping.slices:
            raise ValueError(
                f"`columns` must be at least {2 * self.mapping.slices}, a pair for each slice, but got {self.columns}; "
                "widen the array or give cells more bits"
            )
        return self

    @property
    def weights_per_row(self) -> int:
        """Weights that fit side by side in one array: each takes a pair of columns a slice."""
        return self.columns // (2 * self.mapping.slices)

    def ideal(self) -> Self:
        """Return the same array without errors, finite levels and converters: a compiled layer then equals float.

        Examples
        --------
        >>> type(RRAMCrossbar.preset("milo_irps_2021").ideal().cell).__name__
        'IdealCell'
        """
        cell = IdealCell(g_min_siemens=self.cell.g_min_siemens, g_max_siemens=self.cell.g_max_siemens)
        off = dict.fromkeys(("wires", "stuck", "temperature", "current_voltage", "dac", "adc"))
        return self.replace(cell=cell, mapping=self.mapping.ideal(), **off)
