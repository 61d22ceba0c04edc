"""Parameters of CrossSim (field names and units of its versions 3.0 and 3.1) as crossbar designs."""

from typing import Any

from devices import ADC, DAC, ComposedCell, DifferentialMapping, PolynomialCell, ResistiveCell, RRAMCrossbar, Wires
from devices.architectures import SAR
from devices.rram import ConstantSpread, OffsetMapping, PolynomialSpread, ProportionalSpread, SpreadLaw
from simulator.importing.ledger import Ledger, Row
from simulator.importing.reading import Record

BALANCED, BITSLICED, OFFSET = 1, 2, 3
CALIBRATED, MAXIMUM = 1, 2
CELLS = {"RRAMMilo": "milo_irps_2021", "RRAMWan": "wan_nature_2022", "SONOS": "sonos_iedm_2022"}
_OWN = "belongs to CrossSim's own solver and execution"
REASONS = (
    ("simulation", _OWN), ("core.output_dtype", _OWN), ("core.mapping.inputs._match", _OWN), ("xbar.adc._match", _OWN),
    ("xbar.dac._match", _OWN), ("xbar.adc.vmm", "arrays are read in one direction only"), ("core.mapping.weights.clipping", _OWN),
    ("xbar.dac.vmm", "arrays are read in one direction only"), ("core.mapping.inputs.vmm", "arrays are read in one direction only"),
    ("core.mapping.weights.row_partition_strategy", "rows are always spread evenly"),
    ("core.mapping.weights.col_partition_strategy", "columns always fill an array first"),
    ("core.mapping.weights", "rows are always spread evenly"),
    ("xbar.device.clip_conductance", "nothing is clipped to the conductance range"),
    ("xbar.device.time", "belongs to a measurement: chip.age(seconds)"),
    ("xbar.array.Icol_max", "column currents are limited by the ADC only"),
    ("xbar.array.parasitics.gate_input", "rows that drive gates have no voltage drop of their own"),
    ("xbar.adc.mvm.gain_db", "amplifiers have no finite gain"), ("xbar.adc.mvm.split_cdac", "capacitors are not split"),
    ("xbar.adc.mvm.stochastic_rounding", "converters round to the nearest code"), ("core.complex_matrix", "weights are real"),
    ("core.complex_input", "inputs are real"),
)  # fmt: skip


def from_crosssim(record: Record) -> tuple[RRAMCrossbar, list[Row]]:
    """Return the design of CrossSim's parameters, and what became of each field."""
    ledger = Ledger(record)
    for part in ("core.mapping.inputs", "xbar.adc", "xbar.dac"):
        if ledger.get(f"{part}._match"):
            ledger.forget(f"{part}.vmm.")
    cell = _cell(ledger)
    mapping = _mapping(ledger)
    fields: dict[str, Any] = {"cell": cell, "mapping": mapping, "dac": _dac(ledger), "adc": _adc(ledger), "wires": _wires(ledger)}
    for path, name in (("core.rows_max", "rows"), ("core.cols_max", "columns")):
        size = int(ledger.number(path))
        # CrossSim counts the columns of each of the arrays that hold plus cells, minus cells and slices.
        each = mapping.crosspoints * mapping.slices if name == "columns" else 1
        extra = mapping.reference_columns * mapping.slices if name == "columns" else 0
        fields[name] = min(65536, size * each + extra) if size > 0 else 65536
        ledger.take(path, f"{name} = {fields[name]}" + (", cells of all slices and signs side by side" if each > 1 else ""))
    volt = ledger.number("xbar.device.Vread")
    bent = RRAMCrossbar.preset("milo_irps_2021_nonlinear").current_voltage
    if ledger.get("xbar.device.nonlinear_IV.enable") and ledger.get("xbar.device.nonlinear_IV.model") == "RRAMMilo" and bent is not None:
        fields["current_voltage"] = bent.replace(full_scale_volt=volt) if volt > 0 else bent
        ledger.take([f"xbar.device.nonlinear_IV.{part}" for part in ("enable", "model")], "current_voltage of milo_irps_2021_nonlinear")
    if volt > 0:
        fields["read_voltage_volt"] = volt
        ledger.take("xbar.device.Vread", f"read_voltage_volt = {volt:g}")
    return RRAMCrossbar(**fields), ledger.close(REASONS)


def _mapping(ledger: Ledger) -> DifferentialMapping | OffsetMapping:
    style, bits = int(ledger.number("core.style")), int(ledger.number("core.weight_bits"))
    cell_bits = int(ledger.number("xbar.device.cell_bits"))
    inner = int(ledger.number("core.bit_sliced.style")) if style == BITSLICED else style
    fields: dict[str, Any] = {}
    percentile = ledger.number("core.mapping.weights.percentile")
    if percentile:
        if percentile < 1:
            fields["clip_percentile"] = 100 * percentile
        ledger.take("core.mapping.weights.percentile", "mapping.clip_percentile" if percentile < 1 else "no weight is clipped")
    if not bits and cell_bits > 0:
        bits = cell_bits + (inner == BALANCED)
    if bits:
        fields["weight_bits"] = bits
        ledger.take("core.weight_bits", f"mapping.weight_bits = {bits}")
        ledger.take("xbar.device.cell_bits", "mapping.bits_per_cell" if style == BITSLICED else f"mapping.weight_bits = {bits}")
    if style == BITSLICED and bits:
        slices = max(1, int(ledger.number("core.bit_sliced.num_slices")))
        held = bits - (inner == BALANCED)
        fields["bits_per_cell"] = cell_bits if cell_bits > 0 else -(-held // slices)
        made = -(-held // fields["bits_per_cell"])
        if made == slices:
            ledger.take("core.bit_sliced.num_slices", f"mapping.bits_per_cell = {fields['bits_per_cell']}")
        else:
            ledger.approximate("core.bit_sliced.num_slices", f"{made} slices of {fields['bits_per_cell']} bits")
    ledger.take("core.style", "the class of the mapping")
    if style == BITSLICED:
        ledger.take("core.bit_sliced.style", "the class of the mapping")
    else:
        ledger.forget("core.bit_sliced.")
    ledger.forget("core.balanced." if inner == OFFSET else "core.offset.")
    if inner == OFFSET:
        column = int(ledger.number("core.offset.style")) == 2
        ledger.take("core.offset.style", f"mapping.reference = '{'converted' if column else 'digital'}'")
        return OffsetMapping(reference="converted" if column else "digital", **fields)
    if style == BALANCED:
        sides = "two" if int(ledger.number("core.balanced.style")) == 2 else "one"
        ledger.take("core.balanced.style", f"mapping.sides = '{sides}'")
        fields["sides"] = sides
    analog = ledger.get("core.balanced.subtract_current_in_xbar") is not False
    ledger.take("core.balanced.subtract_current_in_xbar", f"mapping.subtraction = '{'analog' if analog else 'digital'}'")
    if ledger.get("core.balanced.interleaved_posneg"):
        ledger.approximate("core.balanced.interleaved_posneg", "plus and minus cells lie in neighboring columns")
    return DifferentialMapping(subtraction="analog" if analog else "digital", **fields)


def _cell(ledger: Ledger) -> ComposedCell:
    smallest, largest = ledger.number("xbar.device.Rmin"), ledger.number("xbar.device.Rmax")
    if not 0 < smallest < largest:
        raise ValueError(f"fields `xbar.device.Rmin` and `Rmax` must rise from above 0, but are {smallest:g} and {largest:g}")
    infinite = bool(ledger.get("xbar.device.infinite_on_off_ratio"))
    high, low = 1 / smallest, 0.0 if infinite else 1 / largest
    ledger.take("xbar.device.Rmin", f"cell.g_max_siemens = {high:g}")
    ledger.take("xbar.device.Rmax", f"cell.g_min_siemens = {low:g}")
    if infinite:
        ledger.take("xbar.device.infinite_on_off_ratio", "cell.g_min_siemens = 0")
    fields: dict[str, Any] = {"g_min_siemens": low, "g_max_siemens": high}
    for name, field in (("programming_error", "cycle_spread"), ("read_noise", "read_noise")):
        law = _spread(ledger, f"xbar.device.{name}", field, high)
        if law is not None:
            fields[field] = law
    for name in ("drift_error", "nonlinear_IV"):
        if ledger.get(f"xbar.device.{name}.enable"):
            model = ledger.get(f"xbar.device.{name}.model")
            hint = f"; the preset {CELLS[model]} has what was published" if model in CELLS else ""
            ledger.miss([f"xbar.device.{name}.{part}" for part in ("enable", "model", "magnitude")], f"this law of {model}{hint}")
        else:
            ledger.forget(f"xbar.device.{name}.")
    return ComposedCell(**fields)


def _spread(ledger: Ledger, path: str, field: str, high: float) -> SpreadLaw | None:
    paths = [f"{path}.{part}" for part in ("enable", "model", "magnitude", "lumped")]
    model, magnitude = ledger.get(f"{path}.model"), ledger.number(f"{path}.magnitude")
    if not ledger.get(f"{path}.enable") or model == "IdealDevice":
        ledger.forget(f"{path}.")
        return None
    if model == "NormalIndependentDevice":
        ledger.take(paths, f"cell.{field} = {magnitude * high * 1e6:.4g} uS")
        return ConstantSpread(sigma_siemens=magnitude * high)
    if model == "NormalProportionalDevice":
        ledger.take(paths, f"cell.{field} = {magnitude:.4g} of the conductance")
        return ProportionalSpread(fraction=magnitude)
    if model in CELLS:
        cell = RRAMCrossbar.preset(CELLS[model]).cell
        law = getattr(cell, field, None) if isinstance(cell, ComposedCell) else _of_polynomial(cell, field)
        if law is not None:
            ledger.approximate(paths, f"cell.{field} of {CELLS[model]}, by conductance; CrossSim stretches the law over the range given")
            return law
    ledger.miss(paths, f"a law as that of {model}")
    return None


def _of_polynomial(cell: ResistiveCell, field: str) -> SpreadLaw | None:
    if field != "cycle_spread" or not isinstance(cell, PolynomialCell):
        return None
    return PolynomialSpread(coefficients_microsiemens=cell.sigma_coefficients_microsiemens)


def _wires(ledger: Ledger) -> Wires | None:
    path = "xbar.array.parasitics"
    if not ledger.get(f"{path}.enable"):
        ledger.forget(f"{path}.")
        return None
    found = {}
    for name, field in (
        ("Rp_row", "row_ohm"),
        ("Rp_col", "column_ohm"),
        ("Rp_row_terminal", "source_ohm"),
        ("Rp_col_terminal", "sense_ohm"),
    ):
        found[field] = ledger.number(f"{path}.{name}")
        ledger.take(f"{path}.{name}", f"wires.{field} = {found[field]:g} ohm")
    ledger.approximate(f"{path}.enable", "solved exactly; there by iteration to a tolerance")
    return Wires(**found)


def _dac(ledger: Ledger) -> DAC | None:
    path = "xbar.dac.mvm"
    bits = int(ledger.number(f"{path}.bits"))
    if ledger.get(f"{path}.model") == "IdealDAC" or bits <= 0:
        ledger.forget(f"{path}.")
        ledger.forget("core.mapping.inputs.mvm.")
        return None
    fields: dict[str, Any] = {"bits": bits, "signed": ledger.get(f"{path}.signed") is not False}
    ledger.take([f"{path}.bits", f"{path}.signed", f"{path}.model"], f"dac.bits = {bits}, dac.signed = {fields['signed']}")
    if ledger.get(f"{path}.input_bitslicing"):
        fields["slice_bits"] = max(1, int(ledger.number(f"{path}.slice_size")))
        ledger.take([f"{path}.input_bitslicing", f"{path}.slice_size"], f"dac.slice_bits = {fields['slice_bits']}")
    else:
        ledger.values.pop(f"{path}.slice_size", None)
    bound = max(abs(ledger.number(f"core.mapping.inputs.mvm.{end}")) for end in ("min", "max"))
    if bound:
        fields |= {"range_policy": "fixed", "fixed_range": bound}
        ledger.take([f"core.mapping.inputs.mvm.{end}" for end in ("min", "max")], f"dac.fixed_range = {bound:g}")
    return DAC(**fields)


def _adc(ledger: Ledger) -> ADC | None:
    path = "xbar.adc.mvm"
    bits, model = int(ledger.number(f"{path}.bits")), ledger.get(f"{path}.model")
    if model == "IdealADC" or bits <= 0:
        ledger.forget(f"{path}.")
        return None
    fields: dict[str, Any] = {"bits": bits, "signed": ledger.get(f"{path}.signed") is not False}
    ledger.take([f"{path}.bits", f"{path}.signed"], f"adc.bits = {bits}, adc.signed = {fields['signed']}")
    capacitor, comparator = ledger.number(f"{path}.sigma_capacitor"), ledger.number(f"{path}.sigma_comparator")
    if model == "SarADC" and (capacitor or comparator):
        # The comparator's offset is given over the reference, which is half of the 2^bits codes.
        fields["architecture"] = SAR(unit_sigma=capacitor, offset_sigma_lsb=comparator * 2 ** (bits - 1))
        ledger.take([f"{path}.sigma_capacitor", f"{path}.sigma_comparator"], "adc.architecture = SAR")
    elif model in ("QuantizerADC", "SarADC", "RampADC"):
        ledger.miss(
            [f"{path}.{name}" for name in ("sigma_capacitor", "sigma_comparator") if ledger.number(f"{path}.{name}")], f"of {model}"
        )
    ledger.take(f"{path}.model", "adc.architecture" if "architecture" in fields else "a converter without errors of its own")
    group = int(ledger.number(f"{path}.group_size"))
    if group > 1:
        fields["columns_per_adc"] = group
        ledger.take(f"{path}.group_size", f"adc.columns_per_adc = {group}")
    ledger.take(f"{path}.adc_per_ibit", "one conversion for each slice of the inputs")
    _range(ledger, path, fields)
    return ADC(**fields)


def _range(ledger: Ledger, path: str, fields: dict[str, Any]) -> None:
    option, limits = int(ledger.number(f"{path}.adc_range_option")), ledger.get(f"{path}.calibrated_range")
    if option == CALIBRATED and limits:
        ledger.approximate(
            [f"{path}.adc_range_option", f"{path}.calibrated_range"],
            "adc.range_policy = 'maximum', calibrated on data: these limits are of one layer, in units of its largest input and weight",
        )
    elif option == MAXIMUM:
        ledger.approximate(f"{path}.adc_range_option", "adc.range_policy = 'maximum': the largest current seen, not the largest possible")
    else:
        ledger.approximate(f"{path}.adc_range_option", "adc.range_policy = 'maximum', calibrated on data")
