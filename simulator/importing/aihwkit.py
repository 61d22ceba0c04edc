"""Inference configurations of aihwkit (field names, defaults and units of its version 0.9 and later) as crossbar designs."""

import math
from typing import Any

from devices import ADC, DAC, ComposedCell, DifferentialMapping, IdealCell, ResistiveCell, RRAMCrossbar, Wires
from devices.rram import ConstantSpread, OffsetMapping, PolynomialSpread, TabulatedRelaxation
from simulator.importing.ledger import Ledger, Row
from simulator.importing.reading import Record

DEFAULTS: dict[str, Any] = {
    "forward.inp_bound": 1.0, "forward.inp_res": 1 / (2**7 - 2), "forward.out_bound": 12.0, "forward.out_noise": 0.06,
    "forward.out_res": 1 / (2**9 - 2), "forward.bound_management": "ITERATIVE", "forward.noise_management": "ABS_MAX",
    "forward.ir_drop_g_ratio": 1 / 0.35 / 5e-6, "forward.ir_drop_rs": 0.15, "mapping.max_input_size": 512, "mapping.max_output_size": 512,
    "noise_model": "PCMLikeNoiseModel",
}  # fmt: skip
"""What aihwkit takes for a field that is not written: its printed configurations leave defaults out."""

_TRAINING = "belongs to training: see chip.train() and sim.fit"
REASONS = (
    ("backward", _TRAINING), ("update", _TRAINING), ("modifier", _TRAINING), ("clip", _TRAINING), ("remap", _TRAINING),
    ("pre_post", "belongs to calibration: see the converters' range_policy"), ("runtime", "belongs to aihwkit's own execution"),
    ("drift_compensation", "belongs to a measurement: sim.retention(..., compensation='global') "),
    ("tile_class", "belongs to aihwkit's own execution"), ("tile_array_class", "belongs to aihwkit's own execution"),
    ("forward.max_bm_factor", "reads are not repeated where the ADC clips"), ("forward.max_bm_res", "reads are not repeated"),
    ("forward.bm_test_negative_bound", "reads are not repeated"),
    ("mapping.learn_out_scaling", _TRAINING), ("mapping.out_scaling_columnwise", _TRAINING),
    ("mapping.digital_bias", "biases are always digital"),
)  # fmt: skip


def from_aihwkit(record: Record) -> tuple[RRAMCrossbar, list[Row]]:
    """Return the design of an inference configuration, and what became of each field."""
    ledger = Ledger(record, DEFAULTS)
    cell, mapping = _cell(ledger)
    fields: dict[str, Any] = {"cell": cell, "mapping": mapping, "dac": None, "adc": None}
    for side, name in (("input", "rows"), ("output", "columns")):
        path = f"mapping.max_{side}_size"
        size = int(ledger.number(path))
        each = 1 if side == "input" else mapping.crosspoints
        fields[name] = size * each if size > 0 else 65536
        ledger.take(path, f"{name} = {fields[name]}")
    if ledger.get("mapping.weight_scaling_columnwise"):
        fields["mapping"] = mapping.replace(scaling="column")
        ledger.take("mapping.weight_scaling_columnwise", "mapping.scaling = 'column'")
    if ledger.number("mapping.weight_scaling_omega"):
        ledger.take("mapping.weight_scaling_omega", "weights always use the whole conductance range")
    if ledger.get("forward.is_perfect"):
        ledger.take("forward.is_perfect", "dac = None, adc = None, no wires and no read noise")
        ledger.forget("forward.")
    else:
        if ledger.number("forward.out_noise") > 0:
            ledger.miss("forward.out_noise", "noise of the converter's input")
        if ledger.get("forward.bound_management") != "NONE":
            ledger.miss("forward.bound_management", "reads are not repeated where the ADC clips; choose its range_policy")
        fields |= {"dac": _dac(ledger), "adc": _adc(ledger), "wires": _wires(ledger, cell)}
        fields["cell"] = _with_read_noise(ledger, cell)
    return RRAMCrossbar(**fields), ledger.close(REASONS)


def _bits(ledger: Ledger, path: str, name: str) -> int | None:
    """Return the bits of a resolution: 1 / steps, or the steps; 2^b - 2 steps have the codes of b bits. None is no rounding."""
    resolution = ledger.number(path)
    if resolution <= 0:
        ledger.take(path, f"{name} = None: no rounding")
        return None
    steps = resolution if resolution > 1 else 1 / resolution
    exact = math.log2(steps + 2)
    bits = min(16, max(2, round(exact)))
    if abs(exact - bits) < 1e-6:
        ledger.take(path, f"{name}.bits = {bits}")
    else:
        ledger.approximate(path, f"{name}.bits = {bits}, which has {2**bits - 2} steps instead of {steps:g}")
    return bits


def _dac(ledger: Ledger) -> DAC | None:
    bits = _bits(ledger, "forward.inp_res", "dac")
    if bits is None:
        return None
    managed, learned = str(ledger.get("forward.noise_management")), bool(ledger.get("pre_post.input_range.enable"))
    if learned:
        ledger.approximate("pre_post.input_range.enable", "dac.range_policy = 'maximum', calibrated on data instead of learned")
        return DAC(bits=bits)
    if managed == "NONE":
        bound = ledger.number("forward.inp_bound")
        ledger.take("forward.noise_management", "dac.range_policy = 'fixed'")
        ledger.take("forward.inp_bound", f"dac.fixed_range = {bound:g}")
        return DAC(bits=bits, range_policy="fixed", fixed_range=bound)
    if managed == "ABS_MAX":
        ledger.approximate("forward.noise_management", "dac.range_policy = 'per_batch': the largest input of a batch, not of each vector")
        return DAC(bits=bits, range_policy="per_batch")
    ledger.miss("forward.noise_management", "dac.range_policy = 'maximum', calibrated on data, takes its place")
    return DAC(bits=bits)


def _adc(ledger: Ledger) -> ADC | None:
    bits = _bits(ledger, "forward.out_res", "adc")
    if bits is None:
        return None
    bound = ledger.number("forward.out_bound")
    if str(ledger.get("forward.noise_management")) == "NONE" and not ledger.get("pre_post.input_range.enable") and bound > 0:
        ledger.take("forward.out_bound", f"adc.fixed_range = {bound:g}, in inputs times the largest weight")
        return ADC(bits=bits, range_policy="fixed", fixed_range=bound)
    ledger.approximate("forward.out_bound", "adc.range_policy = 'maximum', calibrated on data: the bound is relative to a scaled input")
    return ADC(bits=bits)


def _wires(ledger: Ledger, cell: ResistiveCell) -> Wires | None:
    scale = ledger.number("forward.ir_drop")
    if scale <= 0:
        return None
    if "forward.ir_drop_rs" in ledger.values or ledger.values.get("forward") == "IOParametersIRDropT":
        ohm = scale * ledger.number("forward.ir_drop_rs")
        used = "forward.ir_drop_rs"
    else:
        # The ratio of a wire segment's conductance to the largest one of a cell.
        ohm = scale / (ledger.number("forward.ir_drop_g_ratio") * cell.g_max_siemens)
        used = "forward.ir_drop_g_ratio"
    ledger.approximate(
        ["forward.ir_drop", used], f"wires.column_ohm = {ohm:.4g}: solved exactly here, an estimate there; only output lines"
    )
    return Wires(column_ohm=ohm)


def _with_read_noise(ledger: Ledger, cell: ResistiveCell) -> ResistiveCell:
    strength, kind = ledger.number("forward.w_noise"), str(ledger.get("forward.w_noise_type") or "NONE")
    if strength <= 0 or kind == "NONE":
        return cell
    if kind != "ADDITIVE_CONSTANT" or not isinstance(cell, ComposedCell):
        ledger.miss(["forward.w_noise", "forward.w_noise_type"], "read noise of this type; see cell.read_noise and cell.flicker")
        return cell
    # A weight's standard deviation, the largest weight 1, is that of two cells.
    sigma = strength * (cell.g_max_siemens - cell.g_min_siemens) / math.sqrt(2)
    ledger.take(["forward.w_noise", "forward.w_noise_type"], f"cell.read_noise = {sigma * 1e6:.4g} uS a cell, two of which are a weight")
    return cell.replace(read_noise=ConstantSpread(sigma_siemens=sigma))


def _cell(ledger: Ledger) -> tuple[ResistiveCell, DifferentialMapping | OffsetMapping]:
    kind = str(ledger.get("noise_model"))
    if kind == "PCMLikeNoiseModel":
        return _pcm(ledger), DifferentialMapping()
    if kind == "ReRamWan2022NoiseModel":
        return _wan(ledger), DifferentialMapping()
    if kind == "ReRamCMONoiseModel":
        return _cmo(ledger), OffsetMapping(reference="digital")
    low, high = _range(ledger, 25.0)
    ledger.miss("noise_model", "no such cell: an ideal one takes its place; give measurements to ResistiveCell.from_measurements")
    return IdealCell(g_min_siemens=low, g_max_siemens=high), DifferentialMapping()


def _range(ledger: Ledger, default_high: float, default_low: float = 0.0) -> tuple[float, float]:
    """Return g_min and g_max in siemens: of the noise model, else of its converter, else the default, in microsiemens."""
    found = []
    for name, default in (("g_min", default_low), ("g_max", default_high)):
        paths = [path for path in (f"noise_model.g_converter.{name}", f"noise_model.{name}") if ledger.get(path) is not None]
        found.append(ledger.number(paths[0]) if paths else default)
        ledger.take(paths, f"cell.{name}_siemens = {found[-1] / 1e6:g}")
    ledger.take("noise_model.g_converter", "the range of the cell; weights are differences of two, or one with an offset")
    return found[0] / 1e6, found[1] / 1e6


def _scale(ledger: Ledger, path: str, what: str) -> float:
    scale = ledger.number(path) if ledger.get(path) is not None else 1.0
    ledger.take(path, f"{what} times {scale:g}")
    return scale


def _coefficients(ledger: Ledger, path: str, default: list[float]) -> list[float]:
    given = ledger.get(path)
    if given is None:
        return default
    if not isinstance(given, list) or not all(isinstance(one, int | float) for one in given):
        raise ValueError(f"field `{path}` must be a list of numbers, but is {given!r:.60}; correct the configuration")
    ledger.take(path, "cell.cycle_spread")
    return [float(one) for one in given]


def _pcm(ledger: Ledger) -> ComposedCell:
    cell = RRAMCrossbar.preset("pcm_nandakumar_2019").cell
    assert isinstance(cell, ComposedCell)
    low, high = _range(ledger, 25.0)
    spread = cell.cycle_spread
    assert isinstance(spread, PolynomialSpread)
    coefficients = _coefficients(ledger, "noise_model.prog_coeff", list(spread.coefficients_microsiemens))
    fitted = ledger.number("noise_model.prog_coeff_g_max_reference") or (high * 1e6 if "noise_model.prog_coeff" in ledger.values else 25.0)
    ledger.take("noise_model.prog_coeff_g_max_reference", "cell.cycle_spread, scaled to the range")
    scale = _scale(ledger, "noise_model.prog_noise_scale", "cell.cycle_spread") * high * 1e6 / fitted
    drift = _scale(ledger, "noise_model.drift_scale", "cell.retention")
    noise = _scale(ledger, "noise_model.read_noise_scale", "cell.flicker")
    start, read = (ledger.number(f"noise_model.{name}") or default for name, default in (("t_0", 20.0), ("t_read", 250e-9)))
    ledger.take("noise_model.t_0", "cell.retention.start_seconds")
    ledger.take("noise_model.t_read", "cell.flicker.read_seconds")
    retention, flicker = cell.retention, cell.flicker
    assert retention is not None and flicker is not None
    exponents = ("mean_slope", "mean_intercept", "mean_low", "mean_high", "sigma_slope", "sigma_intercept", "sigma_low", "sigma_high")
    changes: dict[str, Any] = {
        "g_min_siemens": low,
        "g_max_siemens": high,
        "cycle_spread": {"coefficients_microsiemens": [scale * one for one in coefficients], "reference_siemens": high},
        "retention": {name: drift * getattr(retention, name) for name in exponents} | {"start_seconds": start, "reference_siemens": high},
        "flicker": {
            "read_seconds": read,
            "amplitude": {"coefficient": 0.0088 * noise, "limit": 0.2 * noise, "reference_siemens": high},
        },
    }
    if not drift:
        changes["retention"] = None
    if not noise:
        changes["flicker"] = None
    ledger.approximate("noise_model", "the cell of pcm_nandakumar_2019: errors below zero are drawn again, not set to zero")
    return cell.replace(**changes)


def _wan(ledger: Ledger) -> ComposedCell:
    cell = RRAMCrossbar.preset("wan_nature_2022_aihwkit").cell
    assert isinstance(cell, ComposedCell)
    low, high = _range(ledger, 25.0)
    retention = cell.retention
    assert isinstance(retention, TabulatedRelaxation)
    table = {
        seconds: list(law.coefficients_microsiemens)
        for seconds, law in zip(retention.times_seconds, retention.spreads, strict=True)
        if isinstance(law, PolynomialSpread)
    }
    given = ledger.get("noise_model.coeff_dic")
    if given is not None:
        if not isinstance(given, dict) or not all(isinstance(one, list) for one in given.values()):
            raise ValueError(f"field `noise_model.coeff_dic` must map seconds to coefficients, but is {given!r:.60}; correct it")
        table = {float(seconds): [float(one) for one in coefficients] for seconds, coefficients in sorted(given.items())}
        ledger.take("noise_model.coeff_dic", "cell.cycle_spread and cell.retention")
    fitted = ledger.number("noise_model.coeff_g_max_reference") or high * 1e6
    scale = _scale(ledger, "noise_model.noise_scale", "cell.cycle_spread") * high * 1e6 / fitted
    ledger.take(["noise_model.coeff_g_max_reference", "noise_model.prog_coeff_g_max_reference"], "the polynomials are in G / g_max")
    laws = [
        PolynomialSpread(coefficients_microsiemens=[scale * one for one in coefficients], reference_siemens=high)
        for coefficients in table.values()
    ]
    ledger.approximate("noise_model", "the cell of wan_nature_2022_aihwkit: at any time, and errors below zero are drawn again")
    return cell.replace(
        g_min_siemens=low,
        g_max_siemens=high,
        cycle_spread=laws[0],
        retention=TabulatedRelaxation(times_seconds=tuple(table), spreads=tuple(laws)) if len(laws) > 1 else None,
        read_noise=None,
    )


def _cmo(ledger: Ledger) -> ResistiveCell:
    # aihwkit falls back to its narrowest acceptance range where the one asked for has no coefficients, also for its own default.
    wide = ledger.get("noise_model.acceptance_range") == 2
    name = "cmo_hfox_2025_acceptance_2" if wide else "cmo_hfox_2025_acceptance_0p2"
    cell = RRAMCrossbar.preset(name).cell
    low, high = _range(ledger, cell.g_max_siemens * 1e6, cell.g_min_siemens * 1e6)
    ledger.take("noise_model.acceptance_range", f"the cell of {name}")
    ledger.approximate("noise_model", f"the cell of {name}, one to a weight with a digital offset; nothing is clipped to the range")
    return cell.replace(g_min_siemens=low, g_max_siemens=high)
