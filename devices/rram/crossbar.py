"""The design of an RRAM crossbar: cells, array, mapping and converters."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, SerializeAsAny, field_validator, model_validator

from devices.base import Hardware, ResistiveCell
from devices.converters import ADC, DAC
from devices.rram.current_voltage import CurrentLaw, CurrentVoltage
from devices.rram.differential_mapping import DifferentialMapping
from devices.rram.ideal import IdealCell
from devices.rram.mapping import WeightMapping
from devices.rram.polynomial_current import PolynomialCurrent
from devices.rram.sign_magnitude_mapping import SignMagnitudeMapping
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
        Cells of one array. A weight takes a column or a pair of them for each of its slices.
    mapping
        How weights become conductances; a dict without `type` is a `DifferentialMapping`.
    analog_weight_slices
        Whether the slices of a weight, each scaled by its radix, are added before one conversion; otherwise each is converted and they
        are shifted and added digitally.
    analog_input_slices
        The same for the slices of the inputs (`DAC.slice_bits`).
    noise_arithmetic
        Arithmetic of the product that gives the variance of a read. ``bfloat16`` is an approximation, two to four times faster than
        ``float32`` where the processor multiplies it: the standard deviation of every output is off by less than 0.6 % (three roundings
        of at most 2^-8 of the variance, whose terms are all positive), 0.08 % in the mean square for 300 rows and 0.12 % for 3.
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
    addition_j
        Energy of one digital shift-and-add of a conversion's code. None: not given.
    wire_farad
        Capacitance of one cell's segment of a row, charged to the row's voltage at each read. None: not given.
    static_watt
        Power of one array that is drawn whether or not it is read. None: not given.
    run_time_weights
        Whether a compiled model may write weights at every call. Cells endure few writes, so that this must be said.

    Examples
    --------
    >>> design = RRAMCrossbar.preset("wan_nature_2022", adc={"bits": 6})
    >>> design.adc.bits, design.rows, design.ideal().adc
    (6, 256, None)
    """

    cell: SerializeAsAny[ResistiveCell]
    rows: int = Field(default=256, ge=1, le=65536)
    columns: int = Field(default=256, ge=2, le=65536)
    mapping: SerializeAsAny[WeightMapping] = DifferentialMapping()
    analog_weight_slices: bool = False
    analog_input_slices: bool = False
    noise_arithmetic: Literal["float32", "bfloat16"] = "float32"
    wires: Wires | None = None
    stuck: StuckCells | None = None
    temperature: Temperature | None = None
    current_voltage: SerializeAsAny[CurrentLaw] | None = None
    dac: DAC | None = None
    adc: ADC | None = None
    read_voltage_volt: float | None = Field(default=None, gt=0)
    read_pulse_s: float | None = Field(default=None, gt=0)
    pulses_per_write: float | None = Field(default=None, ge=1)
    write_pulse_j: float | None = Field(default=None, gt=0)
    cell_area_m2: float | None = Field(default=None, gt=0)
    addition_j: float | None = Field(default=None, gt=0)
    wire_farad: float | None = Field(default=None, gt=0)
    static_watt: float | None = Field(default=None, ge=0)
    run_time_weights: bool = False

    @field_validator("mapping", mode="before")
    @classmethod
    def _pairs_unless_named(cls, value: Any) -> Any:
        return {"type": DifferentialMapping, **value} if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _a_weight_fits(self) -> Self:
        mapping = self.mapping
        least = (mapping.crosspoints + mapping.reference_columns) * mapping.slices
        if self.columns < least:
            each = "a pair" if mapping.crosspoints == 2 else "a column" if least == mapping.slices else "a column and its reference"
            raise ValueError(
                f"`columns` must be at least {least}, {each} for each slice, but got {self.columns}; "
                "widen the array or give cells more bits"
            )
        return self

    @field_validator("current_voltage", mode="before")
    @classmethod
    def _alike_unless_named(cls, value: Any) -> Any:
        return {"type": CurrentVoltage, **value} if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _cells_bend_without_wires(self) -> Self:
        if self.wires is not None and isinstance(self.current_voltage, PolynomialCurrent):
            raise ValueError(
                "`wires` must be None where cells bend each in its own way (`current_voltage` is a PolynomialCurrent), but are given; "
                "leave one of them out"
            )
        return self

    @model_validator(mode="after")
    def _slices_are_there(self) -> Self:
        if self.analog_input_slices and (self.dac is None or self.dac.slice_bits is None):
            raise ValueError("`analog_input_slices` must be False where inputs have no slices, but got True; give dac.slice_bits")
        if self.analog_weight_slices and self.mapping.slices == 1:
            raise ValueError("`analog_weight_slices` must be False where weights have one slice, but got True; give mapping.bits_per_cell")
        return self

    @property
    def weights_per_row(self) -> int:
        """Weights that fit side by side in one array: each takes its columns in each slice, and the array its reference columns."""
        mapping = self.mapping
        return (self.columns - mapping.reference_columns * mapping.slices) // (mapping.crosspoints * mapping.slices)

    @property
    def input_slices(self) -> int:
        """Slices of an input that rows carry one after the other."""
        return 1 if self.dac is None else self.dac.slices

    def ideal(self) -> Self:
        """Return the same array without errors, finite levels and converters: a compiled layer then equals float.

        Examples
        --------
        >>> type(RRAMCrossbar.preset("milo_irps_2021").ideal().cell).__name__
        'IdealCell'
        """
        # Magnitudes without a pair have no way below g_min.
        lowest = 0.0 if isinstance(self.mapping, SignMagnitudeMapping) else self.cell.g_min_siemens
        cell = IdealCell(g_min_siemens=lowest, g_max_siemens=self.cell.g_max_siemens)
        off: dict[str, Any] = dict.fromkeys(("wires", "stuck", "temperature", "current_voltage", "dac", "adc"))
        return self.replace(cell=cell, mapping=self.mapping.ideal(), analog_weight_slices=False, analog_input_slices=False, **off)
