"""Energy, latency and area of SRAM macros, each term from the design's own constants."""

from dataclasses import dataclass

from devices.base import Cost
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
    idle = None if design.leakage_watt is None or read_s is None else design.leakage_watt * activity.macros * activity.vectors * read_s
    return [
        Cost(
            layer=layer,
            hardware=hardware,
            term="MAC and readout",
            energy_j=None if energy is None else 2 * digit_macs * energy,
            latency_s=None if read_s is None else activity.vectors * design.input_places * read_s,
            area_m2=None if area is None else activity.macros * area,
            operations=2 * activity.macs,
            note=_missing(joule_per_operation=energy, read_s=read_s, area_m2=area),
        ),
        Cost(
            layer=layer,
            hardware=hardware,
            term="input and output codes",
            bytes=activity.bytes_in + activity.bytes_out,
            note="not given: no constant for buffers",
        ),
        Cost(
            layer=layer,
            hardware=hardware,
            term="digital shift, add and restore",
            operations=activity.conversions,
            note="not given: no constant for digital accumulation",
        ),
        Cost(
            layer=layer,
            hardware=hardware,
            term="leakage",
            energy_j=idle,
            static=True,
            note=_missing(leakage_watt=design.leakage_watt, read_s=read_s),
        ),
        Cost(
            layer=layer,
            hardware=hardware,
            term="writing weights",
            operations=activity.cells,
            once=True,
            note="not given: no constant for writing cells",
        ),
    ]


def _missing(**constants: float | None) -> str:
    absent = [name for name, value in constants.items() if value is None]
    return f"not given: {', '.join(absent)}" if absent else ""
