"""Energy, latency and area of SRAM macros, each term from the design's own constants."""

from dataclasses import dataclass
from typing import Any

from devices.base import Cost, missing
from devices.sram.macro import SRAMMacro


@dataclass(frozen=True)
class MacroActivity:
    """What one call made the macros of a layer do.

    Attributes
    ----------
    macros
        Macros that the layer occupies.
    vectors
        Input vectors that were read, one after the other.
    macs
        Multiply-accumulates of the layer, all vectors together.
    conversions
        Readouts, all digits, columns, macros and vectors together.
    cells
        4-bit cells that hold weights.
    bytes_in, bytes_out
        Input codes and output codes that cross the macros' edge.
    """

    macros: int
    vectors: int
    macs: int
    conversions: int
    cells: int
    bytes_in: int
    bytes_out: int


def macro_cost(design: SRAMMacro, layer: str, activity: MacroActivity) -> list[Cost]:
    """Return the cost rows of one call; a term whose constants were not given carries None and says which.

    Macros work side by side, digits of the inputs and vectors one after the other. An operation is half a multiply-accumulate of
    the layer; one of 4 x 4 bit for the published energy, of which a wider product takes several.
    """
    hardware = type(design).__name__
    digit_macs = activity.macs * design.input_places * design.weight_places
    energy, read_s, area = design.joule_per_operation, design.read_s, design.area_m2
    power = None if design.leakage_watt is None else design.leakage_watt * activity.macros
    cell_j, row_s = design.joule_per_written_cell, design.row_write_s

    def row(term: str, **values: Any) -> Cost:
        return Cost(layer=layer, hardware=hardware, term=term, node_m=design.node_m, **values)

    return [
        row(
            "MAC and readout",
            energy_j=None if energy is None else 2 * digit_macs * energy,
            latency_s=None if read_s is None else activity.vectors * design.input_places * read_s,
            area_m2=None if area is None else activity.macros * area,
            operations=2 * activity.macs,
            macs=activity.macs,
            input_bits=design.input_bits,
            weight_bits=design.weight_bits,
            note=missing(joule_per_operation=energy, read_s=read_s, area_m2=area),
        ),
        row(
            "input and output codes",
            bytes=activity.bytes_in + activity.bytes_out,
            work="buffer",
            note="not given: no constant for buffers",
        ),
        row(
            "digital shift, add and restore",
            operations=activity.conversions,
            work="addition",
            note="not given: no constant for digital accumulation",
        ),
        row("leakage", power_watt=power, static=True, latency_s=0.0, area_m2=0.0, note=missing(leakage_watt=power)),
        row(
            "writing weights",
            energy_j=None if cell_j is None else cell_j * activity.cells,
            # Macros are written side by side, the rows of one after each other.
            latency_s=None if row_s is None else row_s * design.rows,
            operations=activity.cells,
            once=True,
            note=missing(joule_per_written_cell=cell_j, row_write_s=row_s),
        ),
    ]
