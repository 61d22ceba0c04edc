"""Effects one by one, layers one by one, and time: each against what must come out."""

import math
from typing import Any

import cloudpickle
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional

import simulator as sim
from devices import ADC, DAC, IdealCell, PolynomialCell, RRAMCrossbar, TransmonBackend
from devices.rram import (
    ComposedCell,
    ConstantSpread,
    CurrentVoltage,
    DifferentialMapping,
    PowerDrift,
    StuckCells,
    Temperature,
    Wires,
)
from kernels.random import Key
from simulator.batches import RepeatableBatches
from simulator.data import Batches
from simulator.diagnosis import EFFECTS, effects_of, with_effects
from simulator.metrics import metric
from simulator.quantum import VariationalCircuit
from tests.networks import generator

LOW, HIGH = 1e-6, 40e-6
LIMITS = {"g_min_siemens": LOW, "g_max_siemens": HIGH}
IDEAL = IdealCell(**LIMITS)


def drifting(sigma: float = 0.0, exponent: float = 0.05) -> ComposedCell:
    law = PowerDrift(start_seconds=20.0, mean_intercept=exponent, sigma_intercept=sigma)
    return ComposedCell(**LIMITS, retention=law)


ONE_EFFECT = {
    "programming": {"cell": PolynomialCell(**LIMITS, sigma_coefficients_microsiemens=(2.0,))},
    "drift": {"cell": drifting(0.01)},
    "read_noise": {"cell": PolynomialCell(**LIMITS, sigma_coefficients_microsiemens=(0.0,), read_noise_fraction=0.1)},
    "weight_levels": {"mapping": {"weight_bits": 5, "bits_per_cell": 2}},
    "stuck": {"stuck": StuckCells(stuck_on_rate=0.05)},
    "wires": {"wires": Wires(row_ohm=50.0, column_ohm=50.0)},
    "temperature": {"temperature": Temperature(temperature_kelvin=350.0, reference_kelvin=300.0, fraction_per_kelvin=-2e-3)},
    "current_voltage": {"current_voltage": CurrentVoltage(sinh_per_volt=4.0, full_scale_volt=0.5)},
    "dac": {"dac": DAC(bits=4)},
    "adc": {"adc": ADC(bits=5)},
}
EVERYTHING = RRAMCrossbar(
    **{"rows": 8}
    | {name: value for fields in ONE_EFFECT.values() for name, value in fields.items()}
    | {
        "cell": ComposedCell(
            **LIMITS,
            cycle_spread=ConstantSpread(sigma_siemens=2e-6),
            read_noise=ConstantSpread(sigma_siemens=1e-6),
            retention=drifting(0.01).retention,
        )
    }
)
AGE = 1e4


def network() -> nn.Sequential:
    model = nn.Sequential(nn.Conv1d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator(parameter.numel())))
    return model


X = torch.randn(60, 3, 10, generator=generator(0)).clamp(-2.5, 2.5)


def compiled(design: RRAMCrossbar) -> tuple[sim.Chip, tuple[Tensor, Tensor]]:
    model = network()
    return sim.compile(model, design, example_inputs=X), (X, model(X).detach())


# effects


@pytest.mark.parametrize("effect", EFFECTS)
def test_a_designs_only_effect_is_found_and_is_the_design_when_on_and_ideal_when_off(effect: str) -> None:
    design = RRAMCrossbar(**{"cell": IDEAL, "rows": 8, **ONE_EFFECT[effect]})
    assert effects_of(design, AGE) == (effect,)
    assert with_effects(design, {effect}).replace(cell=IDEAL) == design.replace(cell=IDEAL)
    chip, data = compiled(design)
    result = sim.attribute(chip, data, metrics="mae", trials=3, seconds=AGE)
    whole = sim.evaluate(chip, data, metrics="mae", trials=3, seconds=AGE).values()
    rows = result.frame.set_index("effect")
    assert rows.index.tolist() == ["all", effect]
    alone = result.values[(result.values["effect"] == effect) & (result.values["state"] == "on")]
    assert alone["mae"].tolist() == whole
    assert np.mean(whole) > 1e-3
    assert rows.loc[effect, "off_value"] < 2e-6
    assert rows.loc[effect, "off"] == pytest.approx(-np.mean(whole), abs=2e-6)
    assert rows.loc["all", "on"] == pytest.approx(np.mean(whole))


def test_all_effects_kept_is_the_design_itself_and_none_is_float() -> None:
    assert set(effects_of(EVERYTHING, AGE)) == set(EFFECTS)
    assert with_effects(EVERYTHING, EFFECTS) == EVERYTHING
    bare = with_effects(EVERYTHING, ())
    assert effects_of(bare, AGE) == ()
    chip, (x, y) = compiled(bare)
    assert torch.allclose(chip.age(AGE)(x), y, atol=1e-5)
    with pytest.raises(ValueError, match="'wire'"):
        with_effects(EVERYTHING, {"wire"})


def test_effects_are_taken_from_the_same_cells() -> None:
    cell, key, target = EVERYTHING.cell, Key.of(seed=3), torch.linspace(LOW, HIGH, 50)
    programmed = cell.program(target, key)
    assert torch.equal(with_effects(EVERYTHING, {"programming"}).cell.program(target, key).conductance, programmed.conductance)
    drifts = with_effects(EVERYTHING, {"drift"}).cell
    exponents = programmed.memory["drift_exponent"]
    expected = target * (AGE / 20.0 + 1) ** -exponents
    assert torch.allclose(drifts.drift(drifts.program(target, key), AGE, key), expected, rtol=1e-5)
    reads = with_effects(EVERYTHING, {"read_noise"}).cell
    assert torch.equal(reads.program(target, key).conductance, target)
    assert torch.equal(reads.drift(programmed, AGE, key), programmed.conductance)
    assert torch.equal(reads.read_sigma(target, 0.0), cell.read_sigma(target, 0.0))


@pytest.mark.parametrize("scaling", ["layer", "column"])
@pytest.mark.parametrize(("sides", "bits", "per_cell"), [("one", 5, 2), ("one", 3, None), ("two", 4, None), ("one", 6, 1)])
def test_weights_without_rounding_keep_slices_and_units(sides: str, bits: int, per_cell: int | None, scaling: str) -> None:
    weight = torch.randn(6, 4, 3, generator=generator(1))
    fields = {"sides": sides, "scaling": scaling, "weight_bits": bits, "bits_per_cell": per_cell}
    rounded, exact = (DifferentialMapping(**fields, rounded=rounding).map(weight, IDEAL) for rounding in (True, False))
    assert torch.equal(torch.as_tensor(exact.unit), torch.as_tensor(rounded.unit)) and exact.radix == rounded.radix
    assert torch.equal(exact.codes[1:], rounded.codes[1:])
    pairs = (exact.targets_siemens[:, 0] - exact.targets_siemens[:, 1]) * exact.codes_per_siemens.reshape(-1, 1, 1, 1)
    assert torch.allclose(pairs, exact.codes, atol=1e-4)
    total = exact.unit * sum(radix * code for radix, code in zip(exact.radix, exact.codes, strict=True))
    assert torch.allclose(total, weight, atol=1e-6)
    assert float((exact.codes - rounded.codes).abs().max()) <= 0.5 + 1e-4
    assert float((exact.targets_siemens - rounded.targets_siemens).abs().max()) > 0


# attribution


def test_attribution_is_paired_by_layer_and_leaves_the_chip_alone() -> None:
    chip, data = compiled(EVERYTHING)
    chip.program(seed=9)
    result = sim.attribute(chip, data, metrics=["mae"], trials=3, seed=4, by_layer=True, seconds=AGE)
    assert chip.layers["0"].design is EVERYTHING and chip.layers["0"]._programming_seed == 9 and chip.layers["0"].reads == 0
    whole = sim.evaluate(chip, data, metrics="mae", trials=3, seed=4, seconds=AGE).values()
    values = result.values.set_index(["layer", "effect", "state"]).sort_index()["mae"]
    assert values.loc["all", "all", "design"].tolist() == whole
    frame = result.frame.set_index(["layer", "effect"])
    assert set(frame.index) == {(layer, effect) for layer in ("all", "0", "3") for effect in ("all", *EFFECTS)}
    changes = values.loc["0", "stuck", "off"].to_numpy() - np.asarray(whole)
    assert frame.loc[("0", "stuck"), "off"] == pytest.approx(changes.mean())
    half = 4.3027 * changes.std(ddof=1) / math.sqrt(3)
    assert frame.loc[("0", "stuck"), "off_high"] - frame.loc[("0", "stuck"), "off"] == pytest.approx(half, rel=1e-3)
    # Wires draw nothing: all chips are equal, and the other layer computes in float.
    assert frame.loc[("0", "wires"), "on"] > 0 and frame.loc[("0", "wires"), "on_high"] == frame.loc[("0", "wires"), "on"]
    by_hand = sim.compile(network(), {"0": with_effects(EVERYTHING, {"wires"})}, example_inputs=X)
    by_hand.layers["0"].output_ranges = chip.layers["0"].output_ranges
    expected = float((by_hand(X).detach() - data[1]).abs().mean())
    assert frame.loc[("0", "wires"), "on"] == pytest.approx(expected, rel=1e-4)
    assert "0: wires" in str(result) and "float 0" in str(result)
    figure = result.figure(layer="0")
    assert isinstance(figure, Figure) and len(figure.axes[0].patches) == 2 * (1 + len(EFFECTS))
    with pytest.raises(ValueError, match="`layer` must be one of all, 0, 3"):
        result.figure(layer="1")


@pytest.mark.parametrize("measure", [sim.attribute, sim.retention])
def test_what_a_worker_gets_can_be_sent_and_gives_the_same_bits(measure: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    chip, data = compiled(RRAMCrossbar(cell=EVERYTHING.cell, adc=ADC(bits=6)))
    here = measure(chip, data, metrics="mae", trials=2).frame

    def elsewhere(task: Any, items: Any, workers: int) -> Any:
        # In any order, as several processes work.
        done = [(item, cloudpickle.loads(cloudpickle.dumps(task))(item)) for item in reversed(items)]
        return iter([value for _, value in reversed(done)])

    monkeypatch.setattr("simulator.measuring.work_through", elsewhere)
    assert measure(chip, data, metrics="mae", trials=2).frame.equals(here)


# probe


def linear_chip(design: RRAMCrossbar, weight: Tensor, x: Tensor, bias: Tensor | None = None) -> sim.Chip:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(weight)
        if bias is not None:
            layer.bias.copy_(bias)
    return sim.compile(layer, design, example_inputs=x)


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_an_adc_alone_gives_a_uniform_signal_six_decibels_a_bit(bits: int) -> None:
    # Signal R^2 / 3, error step^2 / 12 with step = R / (2^(bits - 1) - 1): 20 log10(2^bits - 2), whatever the bias.
    x = torch.rand(20_000, 1, generator=generator(0)) * 2 - 1
    design = RRAMCrossbar(cell=IDEAL, adc=ADC(bits=bits, range_policy="fixed", fixed_range=1.0))
    row = sim.probe(linear_chip(design, torch.ones(1, 1), x, torch.tensor([7.0])), x).frame.iloc[0]
    for stage in ("alone", "local", "total"):
        assert row[f"{stage}_snr_db"] == pytest.approx(20 * math.log10(2**bits - 2), abs=0.1)
        assert row[f"{stage}_error_std"] == pytest.approx(1 / (2 ** (bits - 1) - 1) / math.sqrt(12), rel=0.02)
        assert abs(row[f"{stage}_error_mean"]) < 5 * row[f"{stage}_error_std"] / math.sqrt(20_000)
    assert row["local_effective_bits"] == pytest.approx(bits - 0.29, abs=0.1 + 2 / 2**bits)


def test_clipped_conversions_and_currents_are_counted() -> None:
    # 15 codes up to 1.0 in steps of 1/7: beyond 7.5/7 they are clipped.
    values = torch.tensor([0.1, -0.5, 0.99, 1.05, 1.08, -1.5, 3.0, -1.0])
    design = RRAMCrossbar(cell=IDEAL, adc=ADC(bits=4, range_policy="fixed", fixed_range=1.0))
    result = sim.probe(linear_chip(design, torch.ones(1, 1), values[:, None]), values[:, None], batch_size=3)
    row = result.frame.iloc[0]
    assert row["clipped"] == 3 / 8
    assert row["current_max"] == pytest.approx(3.0)
    assert row["current_p50"] == pytest.approx(1.0, abs=2e-2)
    shares = result.currents.set_index("low")["share"]
    assert shares.sum() == pytest.approx(1.0)
    assert shares.iloc[0] == 1 / 8 and shares.iloc[-1] == 1 / 8  # what lies beyond the last bin is in it
    assert shares[(shares.index > -0.55) & (shares.index < -0.45)].sum() == 1 / 8
    bare = sim.probe(linear_chip(RRAMCrossbar(cell=IDEAL), torch.ones(1, 1), values[:, None]), values[:, None])
    assert math.isnan(bare.frame.loc[0, "clipped"]) and " - " in str(bare)


def test_read_noise_alone_has_the_ratio_of_its_variance() -> None:
    noisy = PolynomialCell(g_min_siemens=0.0, g_max_siemens=HIGH, sigma_coefficients_microsiemens=(0.0,), read_noise_fraction=0.1)
    weight, x = torch.randn(16, 40, generator=generator(1)), torch.randn(4000, 40, generator=generator(2))
    weight /= weight.abs().max()
    design = RRAMCrossbar(cell=noisy, adc=ADC(bits=16, range_policy="fixed", fixed_range=1.0))
    chip = linear_chip(design, weight, x)
    row = sim.probe(chip, x).frame.iloc[0]
    # With g_min of 0 a read errs by a tenth of each weight times its input.
    signal = float(functional.linear(x, weight).square().mean())
    noise = float(functional.linear(x.square(), (0.1 * weight).square()).mean())
    clip = sim.probe(linear_chip(design.replace(adc={"fixed_range": 100.0}), weight, x), x).frame.iloc[0]
    assert clip["alone_snr_db"] == pytest.approx(10 * math.log10(signal / noise), abs=0.1)
    # Clipping looks at what the converter gets, noise included: the sum is Gaussian with both variances.
    sums = (functional.linear(x, weight) + torch.randn(4000, 16, generator=generator(5)) * noise**0.5).abs()
    assert row["clipped"] == pytest.approx(float((sums > 1.0).float().mean()), abs=0.01)
    assert row["clipped"] > 0.3


def test_the_three_comparisons_differ_as_they_should() -> None:
    chip, (x, y) = compiled(RRAMCrossbar(cell=IDEAL, dac=DAC(bits=4), adc=ADC(bits=5)))
    rows = sim.probe(chip, (x, y), batch_size=17).frame.set_index("layer")
    assert rows.loc["0", "alone_snr_db"] == rows.loc["0", "local_snr_db"] == rows.loc["0", "total_snr_db"]
    first, second = chip.model[0], chip.model[3]
    with chip.reference():
        ideal = chip(x)
        between = functional.relu(first(x)).flatten(1)
    actual = chip(x)
    real = functional.relu(first(x)).flatten(1)
    bias = second.bias

    def decibels(error: Tensor, signal: Tensor) -> float:
        return 10 * math.log10(float(signal.detach().double().square().mean() / error.detach().double().square().mean()))

    linear = functional.linear(real, second.weight)
    assert rows.loc["3", "total_snr_db"] == pytest.approx(decibels(actual - ideal, ideal - bias), abs=1e-3)
    assert rows.loc["3", "local_snr_db"] == pytest.approx(decibels(second(real) - bias - linear, linear), abs=1e-3)
    assert rows.loc["3", "alone_snr_db"] == pytest.approx(decibels(second(between) - ideal, ideal - bias), abs=1e-3)
    assert rows.loc["3", "total_snr_db"] < rows.loc["3", "local_snr_db"]
    # Cut into other batches it is the same.
    assert np.allclose(sim.probe(chip, x).frame.iloc[:, 2:], sim.probe(chip, (x, y), batch_size=17).frame.iloc[:, 2:], atol=1e-3)


def test_probe_leaves_the_chip_alone_and_draws() -> None:
    chip, data = compiled(EVERYTHING)
    chip.program(seed=9)
    hooks = dict(chip.layers["0"]._forward_hooks)
    result = sim.probe(chip, data, seconds=AGE)
    assert chip.layers["0"].reads == 0 and chip.layers["0"].seconds == 0 and chip.layers["0"]._forward_hooks == hooks
    assert len(result.figure().axes) == 3 and len(str(result).splitlines()) == 3
    with pytest.raises(ValueError, match="must be a compiled chip"):
        sim.probe(network(), X)


# retention


def test_global_compensation_undoes_drift_of_equal_exponents_exactly() -> None:
    chip, data = compiled(RRAMCrossbar(cell=drifting()))
    ages = (1.0, 3600.0, 3.15e8)
    result = sim.retention(chip, data, metrics="mae", seconds=ages, compensation=(None, "global", "column"), trials=2)
    table = result.summary().set_index(["compensation", "seconds"])["mean"]
    assert table["none", 3.15e8] > 0.1
    assert max(table[kind, age] for kind in ("global", "column") for age in ages) < 3e-6
    factors = result.factors.groupby(["compensation", "seconds"])["factor"].agg(["min", "max"])
    for (_, age), row in factors.iterrows():
        assert row["min"] == pytest.approx((1 + age / 20.0) ** 0.05, rel=1e-5)
        assert row["max"] == pytest.approx((1 + age / 20.0) ** 0.05, rel=1e-5)


def test_without_compensation_it_is_evaluate_and_noise_does_not_bias_the_factor() -> None:
    cell = drifting(0.0).replace(read_noise=ConstantSpread(sigma_siemens=20e-6))
    chip, data = compiled(RRAMCrossbar(cell=cell))
    result = sim.retention(chip, data, metrics="mae", seconds=[1e6], trials=4, seed=2)
    alone = result.frame[result.frame["compensation"] == "none"]
    assert alone["mae"].tolist() == sim.evaluate(chip, data, metrics="mae", trials=4, seed=2, seconds=1e6).values()
    # Noise as large as the signal would bring <y, y> up by its own power, and the factor with it.
    factors = result.factors["factor"].to_numpy() / (1 + 1e6 / 20.0) ** 0.05
    assert factors.mean() == pytest.approx(1.0, abs=5 * factors.std() / math.sqrt(len(factors)) + 0.02)
    assert all(layer.correction is None for layer in chip.layers.values())


def test_a_factor_for_each_column_follows_columns() -> None:
    # Exponents depend on the target, and each column has weights of one size: columns drift apart, each as a whole.
    law = PowerDrift(start_seconds=20.0, mean_intercept=0.02, mean_slope=-0.03, sigma_intercept=0.0, reference_siemens=HIGH)
    cell = ComposedCell(g_min_siemens=0.0, g_max_siemens=HIGH, retention=law)
    weight = torch.tensor([1.0, 0.3, 0.1, 0.03])[:, None] * (torch.randint(0, 2, (4, 20), generator=generator(0)) * 2.0 - 1)
    x = torch.randn(50, 20, generator=generator(1))
    chip = linear_chip(RRAMCrossbar(cell=cell), weight, x)
    data = (x, functional.linear(x, weight))
    result = sim.retention(chip, data, metrics="mae", seconds=[1e6], compensation=["global", "column"], trials=1)
    left = result.summary().set_index("compensation")["mean"]
    assert left["column"] < 1e-5
    assert left["global"] > 1e-2


def test_retention_draws_and_refuses() -> None:
    chip, data = compiled(RRAMCrossbar(cell=drifting(0.02), adc=ADC(bits=8)))
    result = sim.retention(chip, data, metrics="mae", seconds=(1, 1e4), trials=2, calibration=X[:5])
    figure = result.figure()
    assert figure.axes[0].get_xscale() == "log" and len(str(result).splitlines()) == 4
    for wrong in ({"seconds": []}, {"seconds": [-1]}, {"compensation": ["row"]}, {"compensation": []}, {"trials": 0}):
        with pytest.raises(ValueError, match=f"Argument `{next(iter(wrong))}` must"):
            sim.retention(chip, data, metrics="mae", **wrong)


# training noise by test noise


def test_noise_matrix_is_training_and_evaluation_put_together() -> None:
    model = nn.Sequential(nn.Linear(6, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator(2)))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    x = torch.rand(96, 6, generator=generator(3))
    data = (x, x[:, :3].argmax(1))
    design = RRAMCrossbar(cell=ONE_EFFECT["programming"]["cell"], dac=DAC(bits=6), adc=ADC(bits=6))
    levels = {"float": None, "5 uS": {"cell": {"sigma_coefficients_microsiemens": (5.0,)}}}
    options = {"epochs": 3, "learning_rate": 0.05}
    result = sim.noise_matrix(model, design, data, data, train=levels, test={**levels, "own": design}, trials=3, seed=1, **options)
    assert result.matrix().index.tolist() == ["float", "5 uS"] and result.matrix().columns.tolist() == ["float", "5 uS", "own"]
    assert all(torch.equal(now, then) for now, then in zip(model.parameters(), before, strict=True))
    # By hand: the row of the noisy design in the column of the given one.
    noisy = design.replace(cell={"sigma_coefficients_microsiemens": (5.0,)})
    batches = Batches(*data, 64, seed=1)
    chip = sim.compile(model, noisy, calibration=RepeatableBatches(data, batch_size=64), seed=1).train()
    losses = sim.fit(chip, batches, seed=1, **options).losses
    assert result.losses["5 uS"] == losses
    tested = sim.compile(model, design, calibration=data[0])
    with torch.no_grad():
        for mine, theirs in zip(tested.parameters(), chip.parameters(), strict=True):
            mine.copy_(theirs)
    tested.calibrate(data[0])
    expected = sim.evaluate(tested, data, trials=3, seed=1)
    rows = result.frame[(result.frame["train"] == "5 uS") & (result.frame["test"] == "own")]
    assert rows["accuracy"].tolist() == expected.values()
    assert result.matrix().loc["5 uS", "own"] == pytest.approx(expected.mean().value)
    assert result.half_widths().loc["5 uS", "own"] == pytest.approx(expected.mean().half_width)
    # An ideal chip is the float model with the trained weights.
    ideal = result.frame[(result.frame["train"] == "5 uS") & (result.frame["test"] == "float")]["accuracy"]
    assert set(ideal) == {expected.reference["accuracy"]}
    assert len(result.figure().axes) == 2 and "trained (rows)" in str(result)
    with pytest.raises(ValueError, match="Argument `train` must map 'x'"):
        sim.noise_matrix(model, design, data, data, train={"x": 3})


def test_retention_leaves_expectations_of_circuits_as_they_are() -> None:
    x = torch.rand(8, 2, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(VariationalCircuit(inputs=2, qubits=2, layers=1, reads=[1]))
    chip = sim.compile(model, TransmonBackend.preset("jakarta_like").ideal(), example_inputs=x[:2])
    columns = metric(lambda outputs, targets: float(outputs.shape[1]), name="columns", higher_is_better=True)
    result = sim.retention(chip, (x, torch.zeros(8, 1)), metrics=columns, seconds=[1.0], trials=1)
    assert set(result.summary()["compensation"]) == {"none", "global"} and (result.frame["columns"] == 1.0).all()
