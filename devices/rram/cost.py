"""Energy, latency and area of reading and programming crossbars, each term from the design's own constants."""

from dataclasses import dataclass
from typing import Literal

from devices.base import Cost, missing
from devices.rram.crossbar import RRAMCrossbar


@dataclass(frozen=True)
class CrossbarActivity:
    """What one call made the arrays of a layer do.

    Attributes
    ----------
    arrays
        Arrays that the layer occupies.
    cells
        Cells that hold weights.
    vectors
        Input vectors that one array reads one after the other; other arrays work at the same time.
    row_conversions
        Digital-to-analog conversions, all rows and vectors together.
    column_conversions
        Analog-to-digital conversions of all columns (pairs that are subtracted first count once), arrays, slices and vectors together.
    columns_used
        Conversions that the fullest array needs for one vector of input slices.
    relative_siemens
        Sum over vectors and cells of (V / V_full_scale)^2 G.
    macs
        Multiply-accumulates, all vectors together.
    bytes_in, bytes_out
        Input and output codes that cross the arrays' edge.
    reads
        Slices of the inputs, which an array reads one after the other.
    row_charges
        Sum over vectors, slices and cells of (V / V_full_scale)^2: how often a cell's segment of a row is charged, as energy counts it.
    """

    arrays: int
    cells: int
    vectors: int
    row_conversions: int
    column_conversions: int
    columns_used: int
    relative_siemens: float
    macs: int
    bytes_in: int
    bytes_out: int
    reads: int = 1
    row_charges: float = 0.0


def crossbar_cost(design: RRAMCrossbar, layer: str, activity: CrossbarActivity) -> list[Cost]:
    """Return the cost rows of one call; a term whose constants were not given carries None and says which.

    Arrays work side by side and vectors one after the other, so latency counts once for all arrays of a layer.
    """
    hardware = type(design).__name__
    rows: list[Cost] = []

    def add(
        term: str,
        energy: float | None,
        latency: float | None,
        area: float | None,
        *,
        note: str = "",
        operations: int | None = None,
        moved: int | None = None,
        macs: int | None = None,
        work: Literal["", "buffer", "addition"] = "",
        watt: float | None = None,
    ) -> None:
        rows.append(
            Cost(
                layer=layer,
                hardware=hardware,
                term=term,
                energy_j=energy,
                latency_s=latency,
                area_m2=area,
                bytes=moved,
                operations=operations,
                note=note,
                macs=macs,
                input_bits=None if macs is None or design.dac is None else design.dac.bits,
                weight_bits=None if macs is None else design.mapping.weight_bits,
                node_m=design.node_m,
                work=work,
                power_watt=watt,
                static=watt is not None,
            )
        )

    pulse, volt = design.read_pulse_s, design.read_voltage_volt
    add(
        "cell read",
        None if pulse is None or volt is None else volt**2 * activity.relative_siemens * pulse,
        None if pulse is None else activity.vectors * activity.reads * pulse,
        None if design.cell_area_m2 is None else design.cell_area_m2 * design.rows * design.columns * activity.arrays,
        note=missing(read_voltage_volt=volt, read_pulse_s=pulse, cell_area_m2=design.cell_area_m2),
        operations=2 * activity.macs,
        macs=activity.macs,
    )
    farad = design.wire_farad
    add(
        "row wires",
        None if farad is None or volt is None else farad * volt**2 * activity.row_charges,
        0.0,
        0.0,
        note=missing(wire_farad=farad, read_voltage_volt=volt)
        or "charged and discharged at each read; their delay is part of the read pulse",
    )
    if design.dac is not None:
        dac = design.dac
        energy, latency, area = dac.drive_energy_j, dac.conversion_latency_s, dac.converter_area_m2
        add(
            "DAC",
            None if energy is None else energy * activity.row_conversions,
            None if latency is None else latency * activity.vectors * activity.reads,
            None if area is None else area * design.rows * activity.arrays,
            note=missing(dac_joule_per_step=energy, dac_sample_rate_hertz=latency, dac_area_m2=area),
            moved=activity.bytes_in,
        )
    if design.adc is not None:
        adc = design.adc
        energy, latency, area = adc.conversion_energy_j, adc.conversion_latency_s, adc.converter_area_m2
        # One conversion serves a pair of columns that is subtracted before it, and the slices of a weight that are added before it.
        mapping, built = design.mapping, adc.architecture
        together = (1 if mapping.separate else mapping.crosspoints) * (mapping.slices if design.analog_weight_slices else 1)
        turns = min(-(-adc.columns_per_adc // together), activity.columns_used)
        if built is not None and built.common:
            turns = 1  # a ramp serves all columns at once
        turns *= 1 if design.analog_input_slices else activity.reads
        add(
            "ADC",
            None if energy is None else energy * activity.column_conversions,
            None if latency is None else latency * turns * activity.vectors,
            None if area is None else area * _converters(design) * activity.arrays,
            note=missing(adc_joule_per_step=energy, adc_sample_rate_hertz=latency, adc_area_m2=area),
            moved=activity.bytes_out,
        )
    for term, watt, count in (
        ("arrays at rest", design.static_watt, activity.arrays),
        ("DACs at rest", None if design.dac is None else design.dac.static_watt, design.rows * activity.arrays),
        ("ADCs at rest", None if design.adc is None else design.adc.static_watt, _converters(design) * activity.arrays),
    ):
        if watt is not None:
            add(term, None, 0.0, 0.0, watt=watt * count, note="power times the time of the whole call")
    addition = design.addition_j
    add(
        "digital shift and add",
        None if addition is None else addition * activity.column_conversions,
        None,
        None,
        note=missing(addition_j=addition, addition_time_s=None)
        if addition is not None
        else "not given: no constant for digital accumulation",
        operations=activity.column_conversions,
        work="addition",
    )
    add(
        "input and output codes",
        None,
        None,
        None,
        note="not given: no constant for buffers",
        moved=activity.bytes_in + activity.bytes_out,
        work="buffer",
    )
    pulses, write = design.pulses_per_write, design.write_pulse_j
    rows.append(
        Cost(
            layer=layer,
            hardware=hardware,
            term="programming",
            energy_j=None if pulses is None or write is None else activity.cells * pulses * write,
            operations=activity.cells,
            once=True,
            node_m=design.node_m,
            note=missing(pulses_per_write=pulses, write_pulse_j=write, write_time_s=None),
        )
    )
    return rows


def _converters(design: RRAMCrossbar) -> int:
    """Return the converters of one array's columns."""
    return 0 if design.adc is None else -(-design.columns // design.adc.columns_per_adc)
