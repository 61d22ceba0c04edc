"""Totals of the crossbar's cost model held against published chips: NeuRRAM by bit width, ISAAC, cells of NeuroSim, an SRAM macro.

``inloop bench rram_chips`` prints the table and writes it with a figure. Constants of a chip come from its own publication; where only a
breakdown at several widths was published, they are read off one width and the others are predictions. What a publication does not give is
"not given".
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import nn

import simulator as sim
from benchmarks.timing import RESULTS, save
from devices import ADC, DAC, DifferentialMapping, IdealCell, OffsetMapping, RRAMCrossbar, SRAMMacro
from simulator.costing import totals

COMMAND = "inloop bench rram_chips"

# NeuRRAM (wan2022compute), energy of the parts of one operation in fJ and TOPS/W, four-bit weights, two-phase operation: by (input bits,
# output bits) the switching of the word lines, the neurons with control, the input pulses, and the whole. From the figure on energy and
# throughput by bit width, as digitized in CIMLoop's tests of that chip.
NEURRAM = {
    (2, 4): (8.270951256, 12.38674172, 3.955661604, 40.33412834),
    (3, 5): (15.46307324, 20.11826462, 7.73153662, 23.09069279),
    (4, 6): (21.75617998, 29.1084171, 11.50740478, 15.95409517),
    (5, 7): (30.92613276, 44.21188287, 14.0246365, 11.03166076),
    (6, 8): (37.2192395, 52.48282041, 19.23892768, 8.257196816),
    (7, 9): (43.69214654, 61.83258722, 22.83498524, 7.750037817),
    (8, 10): (50.52466791, 75.85721686, 27.50986693, 6.437388185),
}
ANCHOR = (4, 6)
PARTS = ("row wires", "ADC", "cell read")
READ_VOLT = 0.5  # NeuRRAM's input pulses

# ISAAC (shafiee2016isaac), Table I: one in-situ multiply-accumulate unit of 8 arrays of 128 x 128 cells of 2 bits, 32 nm, at 100 ns a read.
# Held against an independent transcription of the table (CIMLoop's hwcomponents-library, isaac.py): ADC, adders; the parts add up to the
# unit's 24.08 mW. The table rounds the ADC's rate to 1.2 GS/s; the text's 1.28 GS/s is what 128 columns in 100 ns take.
ISAAC_ARRAYS, ISAAC_UNIT_WATT, ISAAC_UNIT_M2 = 8, 24.08e-3, 0.01312e-6
ISAAC_READ_S = 100e-9
ISAAC_ARRAY_WATT, ISAAC_ARRAY_M2 = 2.4e-3 / 8, 0.0002e-6 / 8
ISAAC_DAC_WATT, ISAAC_DAC_M2 = 4e-3 / 1024, 0.00017e-6 / 1024
ISAAC_ADC_WATT, ISAAC_ADC_HERTZ, ISAAC_ADC_M2 = 2e-3, 1.28e9, 1200e-12
ISAAC_ADDITION_WATT = 0.2e-3 / 4
# 168 tiles of 12 units on 85.4 mm2, and the published 478.95 GOPS/s/mm2 of ISAAC-CE.
ISAAC_UNITS, ISAAC_PEAK_TOPS = 168 * 12, 478.95e-3 * 85.4


@dataclass(frozen=True)
class Row:
    """One number of one chip, published and measured; None where it is not given."""

    chip: str
    quantity: str
    unit: str
    published: float | None
    measured: float | None
    note: str = ""

    @property
    def deviation(self) -> float | None:
        """Relative deviation of the measured from the published number."""
        return None if self.published is None or self.measured is None else self.measured / self.published - 1


def neurram() -> Iterator[Row]:
    """Yield energy and efficiency of NeuRRAM by bit width: constants at the anchor, predictions elsewhere."""
    shipped = RRAMCrossbar.preset("wan_nature_2022")
    for width in ((2, 4), (8, 10)):
        frame = _cost(_neurram(shipped, *width), rows=256, outputs=128)
        total = totals(frame)["energy_j"]
        yield Row(
            f"NeuRRAM, {width[0]} bits in, {width[1]} out: preset as shipped",
            "efficiency",
            "TOPS/W",
            NEURRAM[width][3],
            None if total.partial else _tops_per_watt(frame),
            f"without {', '.join(total.missing)}: constants of the chip's own parts were not published one by one",
        )
    own = _fitted(shipped)
    for width, (*parts, whole) in NEURRAM.items():
        frame = _cost(_neurram(own, *width), rows=256, outputs=128)
        label = f"NeuRRAM, {width[0]} bits in, {width[1]} out"
        source = "constants read off here" if width == ANCHOR else ""
        energies = [_energy(frame, term) * 1e15 / _operations(frame) for term in PARTS]
        for term, published, measured in zip(PARTS, parts, energies, strict=True):
            doubles = "a figure of merit doubles with each bit, this converter's energy does not" if term == "ADC" else ""
            yield Row(label, term, "fJ/operation", published, measured, source or doubles)
        yield Row(label, "efficiency", "TOPS/W", whole, 1e3 / sum(energies), source)


def _neurram(design: RRAMCrossbar, input_bits: int, output_bits: int) -> RRAMCrossbar:
    """Return the chip at a width: inputs bit by bit with their sign, four-bit weights in pairs of cells."""
    dac: dict[str, Any] = {"bits": input_bits, "slice_bits": 1, "joule_per_step": None}
    return design.replace(
        dac=dac,
        adc={"bits": output_bits, "columns_per_adc": 2, "range_policy": "per_batch"},
        analog_input_slices=True,
        mapping=DifferentialMapping(weight_bits=4),
        read_voltage_volt=READ_VOLT,
    )


def _fitted(design: RRAMCrossbar) -> RRAMCrossbar:
    """Return the design with the constants that the breakdown at the anchor has."""
    wanted = [part * 1e-15 for part in NEURRAM[ANCHOR][:3]]
    unit = design.replace(wire_farad=1e-15, read_pulse_s=1e-9, adc={"joule_per_step": 1e-15})
    frame = _cost(_neurram(unit, *ANCHOR), rows=256, outputs=128)
    factors = [want * _operations(frame) / _energy(frame, term) for want, term in zip(wanted, PARTS, strict=True)]
    return design.replace(wire_farad=factors[0] * 1e-15, adc={"joule_per_step": factors[1] * 1e-15}, read_pulse_s=factors[2] * 1e-9)


def isaac() -> Iterator[Row]:
    """Yield power, speed and area of one unit of ISAAC, from the constants of its parts."""
    read, steps = ISAAC_READ_S, 2**8
    design = RRAMCrossbar(
        cell=IdealCell(g_min_siemens=0.5e-6, g_max_siemens=500e-6),
        rows=128,
        columns=128,
        mapping=OffsetMapping(weight_bits=16, bits_per_cell=2, reference="digital"),
        dac=DAC(bits=16, signed=False, slice_bits=1, joule_per_step=ISAAC_DAC_WATT * read / 2, sample_rate_hertz=1 / read,
                area_m2=ISAAC_DAC_M2, published_bits=16),
        adc=ADC(bits=8, columns_per_adc=128, joule_per_step=ISAAC_ADC_WATT / ISAAC_ADC_HERTZ / steps, sample_rate_hertz=ISAAC_ADC_HERTZ,
                area_m2=ISAAC_ADC_M2, published_bits=8, range_policy="per_batch"),
        read_pulse_s=read,
        static_watt=ISAAC_ARRAY_WATT,
        addition_j=ISAAC_ADDITION_WATT / ISAAC_ADC_HERTZ * 2,
        cell_area_m2=ISAAC_ARRAY_M2 / 128**2,
        node_m=32e-9,
    )  # fmt: skip
    frame = _cost(design, rows=128, outputs=16 * ISAAC_ARRAYS)
    seconds = float(frame.loc[frame["term"] == "ADC", "latency_s"].iloc[0])
    energy = sum(_energy(frame, term) for term in ("DAC", "ADC", "digital shift and add")) + ISAAC_ARRAYS * ISAAC_ARRAY_WATT * seconds
    operations = _operations(frame)
    unit = "ISAAC, one unit of 8 arrays"
    buffers = "input and output registers (1.47 mW, 0.0029 mm2 published) and the area of adders are not given in the cost model"
    yield Row(unit, "power", "mW", ISAAC_UNIT_WATT * 1e3, energy / seconds * 1e3, buffers)
    yield Row(unit, "ADC power", "mW", 8 * ISAAC_ADC_WATT * 1e3, _energy(frame, "ADC") / seconds * 1e3)
    yield Row(
        unit, "time of a 16-bit vector", "ns", 16 * ISAAC_READ_S * 1e9, seconds * 1e9, "16 reads of 100 ns; here 128 conversions a read"
    )
    published = ISAAC_PEAK_TOPS / ISAAC_UNITS
    yield Row(unit, "speed", "GOPS", published * 1e3, operations / seconds / 1e9, "published: peak of the chip over its 2016 units")
    yield Row(unit, "efficiency", "GOPS/W", published * 1e3 / ISAAC_UNIT_WATT, operations / energy / 1e9, buffers)
    yield Row(unit, "area", "mm2", ISAAC_UNIT_M2 * 1e6, float(frame["area_m2"].sum()) * 1e6, buffers)
    yield Row("ISAAC, whole chip", "power", "W", 65.8, None, "not given: eDRAM, buses, routers and links")


def cells_and_macro() -> Iterator[Row]:
    """Yield the energies of single cells, and the SRAM macro's efficiency."""
    neurosim = RRAMCrossbar.preset("rram_22nm_neurosim").replace(
        cell=IdealCell(g_min_siemens=1 / 102e3, g_max_siemens=1 / 6e3), mapping=OffsetMapping(reference="digital"), dac=None, adc=None
    )
    layer = nn.Linear(1, 1, bias=False)
    nn.init.ones_(layer.weight)
    frame = sim.compile(layer, neurosim, example_inputs=torch.ones(1, 1)).cost(torch.ones(1, 1))
    published = "V^2 G t at 0.55 V, 10 ns, 6 kohm"
    yield Row("RRAM 22 nm (NeuroSim)", "read of a cell at g_max", "fJ", 504.0, _energy(frame, "cell read") * 1e15, published)
    wan = RRAMCrossbar.preset("wan_nature_2022")
    chip = sim.compile(nn.Linear(16, 8), wan, example_inputs=torch.ones(1, 16))
    frame = chip.cost(torch.ones(1, 16))
    write = float(frame.loc[frame["term"] == "programming", "energy_j"].sum()) / (2 * 16 * 8)
    yield Row("NeuRRAM", "write of a cell", "nJ", 0.5, write * 1e9, "8.5 pulses of 33 to 61 pJ; here the upper end")
    macro = SRAMMacro.preset("asscc_2023")
    layer = nn.Linear(macro.rows, 8, bias=False) if getattr(macro, "rows", None) else nn.Linear(64, 8, bias=False)
    x = torch.rand(4, layer.in_features, generator=torch.Generator().manual_seed(0))
    frame = sim.compile(layer, macro, example_inputs=x, calibration=x).cost(x)
    macs = frame[frame["macs"].notna()]
    measured = 2 * float(macs["macs"].sum()) / float(macs["energy_j"].sum()) / 1e12
    yield Row("SRAM macro (ASSCC 2023)", "efficiency", "TOPS/W", 137.5, measured, "the macro's one published constant, put back together")


def _cost(design: RRAMCrossbar, *, rows: int, outputs: int) -> pd.DataFrame:
    """Return the cost of one vector of uniform inputs on uniform weights that fill whole arrays."""
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(rows, outputs, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.rand(outputs, rows, generator=generator) * 2 - 1)
    low = 0.0 if design.dac is not None and not design.dac.signed else -1.0
    x = torch.rand(1, rows, generator=generator) * (1 - low) + low
    return sim.compile(layer, design, example_inputs=x, calibration=x).cost(x)


def _energy(frame: pd.DataFrame, term: str) -> float:
    return float(frame.loc[frame["term"] == term, "energy_j"].sum())


def _operations(frame: pd.DataFrame) -> int:
    return 2 * int(frame["macs"].dropna().sum())


def _tops_per_watt(frame: pd.DataFrame) -> float | None:
    return sim.efficiency(frame).tops_per_watt.value


def table() -> pd.DataFrame:
    """Return every row with published and measured numbers apart, and the relative deviation."""
    rows = [*neurram(), *isaac(), *cells_and_macro()]
    return pd.DataFrame([{**vars(row), "deviation": row.deviation} for row in rows])


def draw(frame: pd.DataFrame) -> Figure:
    """Return a figure: NeuRRAM's efficiency and energies by bit width, and the deviation of every other total."""
    made = Figure(figsize=(9.5, 3.6), layout="constrained")
    efficiency, parts, others = made.subplots(1, 3, width_ratios=(1, 1, 1.25))
    widths = [f"{bits}/{out}" for bits, out in NEURRAM]
    chips = frame["chip"].isin([f"NeuRRAM, {bits} bits in, {out} out" for bits, out in NEURRAM])
    for axis, quantities in ((efficiency, ("efficiency",)), (parts, PARTS)):
        for quantity in quantities:
            rows = frame[chips & (frame["quantity"] == quantity)]
            (line,) = axis.plot(widths, rows["published"], "o", label=f"{quantity}, published")
            axis.plot(widths, rows["measured"], "-", color=line.get_color(), label="cost model")
        axis.axvline(f"{ANCHOR[0]}/{ANCHOR[1]}", color="0.8", zorder=0, label="constants read off here")
        axis.set(yscale="log", xlabel="input / output bits", ylabel=str(rows["unit"].iloc[0]))
        axis.tick_params(labelsize=7, which="both")
        axis.legend(frameon=False, fontsize=6.5)
    efficiency.set_title("NeuRRAM: efficiency", fontsize=9)
    parts.set_title("NeuRRAM: energy of an operation", fontsize=9)
    rest = frame[~chips & frame["deviation"].notna()]
    names = [f"{chip.split(',')[0]}: {quantity}" for chip, quantity in zip(rest["chip"], rest["quantity"], strict=True)]
    bars = others.barh(names, 100 * rest["deviation"].astype(float))
    others.bar_label(bars, [f"{value:+.1%}" for value in rest["deviation"]], fontsize=6.5, padding=2)
    others.axvline(0, color="0.3", linewidth=0.8)
    others.margins(x=0.4)
    others.invert_yaxis()
    others.tick_params(labelsize=7)
    others.set_title("cost model over published, %", fontsize=9)
    return made


def main() -> None:
    """Measure, print and save."""
    frame = table()
    shown = frame.copy()
    for column in ("published", "measured"):
        shown[column] = [f"{value:.4g}" if pd.notna(value) else "not given" for value in frame[column]]
    shown["deviation"] = [f"{value:+.1%}" if pd.notna(value) else "-" for value in frame["deviation"]]
    print(shown[["chip", "quantity", "unit", "published", "measured", "deviation", "note"]].to_string(index=False, max_colwidth=70))
    constants = _fitted(RRAMCrossbar.preset("wan_nature_2022"))
    assert constants.adc is not None
    wire, pulse, step = constants.wire_farad or 0.0, constants.read_pulse_s or 0.0, constants.adc.joule_per_step or 0.0
    print(
        f"constants read off NeuRRAM at {ANCHOR[0]} bits in, {ANCHOR[1]} out, with uniform weights and inputs: "
        f"{wire * 1e15:.3g} fF a cell's row wire, {pulse * 1e9:.3g} ns of input pulse, {step * 1e15:.3g} fJ a converter step"
    )
    path = save("rram_chips", COMMAND, frame)
    picture = RESULTS / "rram_chips.png"
    draw(frame).savefig(picture.with_suffix(".part"), format="png", dpi=150)
    picture.with_suffix(".part").replace(picture)
    print(f"written to {path} and {picture.name}")


if __name__ == "__main__":
    main()
