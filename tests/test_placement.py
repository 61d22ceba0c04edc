"""Which layer lies on which hardware: patterns, types, functions, budgets, and what is refused."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import simulator as sim
from devices import DAC, Design, RRAMCrossbar
from simulator.costing import totals
from simulator.hardware import HardwareLayer
from simulator.lowering import CrossbarLayer, NotMappedError, WeightLayer, lower

LARGE = RRAMCrossbar.preset("wan_nature_2022")
SMALL = LARGE.replace(rows=16, columns=16)


class MatricesOnly(RRAMCrossbar):
    """Hardware that runs no convolution."""


@lower.register
def _(design: MatricesOnly, layer: WeightLayer, name: str, seed: int) -> HardwareLayer:
    if layer.operator.dimensions:
        raise NotMappedError("it has no convolutions")
    return CrossbarLayer(name, seed, design, layer)


MATRICES = MatricesOnly(**{name: getattr(LARGE, name) for name in RRAMCrossbar.model_fields})


class Owner(nn.Module):
    """A parameter that a function uses."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.full((10, 6), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10), Owner(), nn.Linear(6, 40), nn.Linear(40, 40))


X = torch.rand(3, 2, 6, 6, generator=torch.Generator().manual_seed(1))
MACS = {"0": 3 * 16 * 4 * 18, "3": 3 * 640, "4.matrix": 3 * 60, "5": 3 * 240, "6": 3 * 1600}


def placed(design: Any, model: nn.Module | None = None, inputs: Any = X) -> dict[str, Design]:
    chip = sim.compile(network() if model is None else model, design, example_inputs=inputs)
    return {name: layer.design for name, layer in chip.layers.items()}


def reasons(design: Any) -> dict[str, str]:
    table = sim.compile(network(), design, example_inputs=X).coverage
    return dict(zip(table["layer"], table["reason"], strict=True))


def test_types_place_layers_and_parameters_by_the_module_that_owns_them() -> None:
    assert placed({nn.Conv2d: SMALL, Owner: LARGE}) == {"0": SMALL, "4.matrix": LARGE}


def test_a_type_means_the_layer_as_the_user_wrote_it() -> None:
    model = nn.Sequential(nn.LSTM(4, 5, batch_first=True))
    x = torch.rand(2, 3, 4)
    assert placed({nn.LSTM: SMALL}, model, x) == {"0.ih_l0": SMALL, "0.hh_l0": SMALL}
    encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    found = placed({nn.MultiheadAttention: SMALL, nn.Linear: LARGE}, encoder, torch.rand(1, 3, 8))
    assert {name for name, part in found.items() if part == SMALL} == {f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")}
    assert {name for name, part in found.items() if part == LARGE} == {"linear1", "linear2"}
    assert set(placed({nn.LSTM: SMALL}, nn.LSTM(4, 5), torch.rand(2, 3, 4))) == {"ih_l0", "hh_l0"}


def test_a_function_of_name_and_weights_places_layers() -> None:
    def choose(name: str, layer: WeightLayer) -> Design | None:
        if layer.operator.dimensions:
            return SMALL
        return LARGE if name in ("3", "4.matrix") else None

    assert placed(choose) == {"0": SMALL, "3": LARGE, "4.matrix": LARGE}
    assert "function" in reasons(choose)["5"]


def test_hardware_that_cannot_run_some_layers_takes_the_others_and_says_why() -> None:
    assert set(placed(MATRICES)) == {"3", "4.matrix", "5", "6"}
    assert reasons(MATRICES)["0"] == "it has no convolutions"


def arrays_of(name: str, design: RRAMCrossbar) -> int:
    layer = sim.compile(network(), design, example_inputs=X).layers[name]
    return layer.placement.arrays


def test_a_budget_of_arrays_is_spent_on_the_most_macs_an_array() -> None:
    needs = {name: arrays_of(name, SMALL) for name in MACS}
    order = sorted(MACS, key=lambda name: -MACS[name] / needs[name])
    for budget in (1, 3, 12, 20, 40, 200):
        expected, left = set(), budget
        for name in order:
            if needs[name] <= left:
                expected.add(name)
                left -= needs[name]
        auto = sim.Auto(designs=(SMALL,), budget_arrays=budget)
        if not expected:
            with pytest.raises(ValueError, match=r"^Argument `design`: Auto must place at least one layer, but none fits[^\n]*$"):
                placed(auto)
            continue
        assert set(placed(auto)) == expected
        assert sum(needs[name] for name in expected) <= budget
    assert needs["0"] == 2
    reason = reasons(sim.Auto(designs=(SMALL,), budget_arrays=12))["6"]
    assert reason == f"budget of 12 arrays: needs {needs['6']} arrays on RRAMCrossbar, with 10 arrays left at its turn"


def test_a_layer_takes_the_design_that_uses_least_and_the_first_of_equals() -> None:
    found = placed(sim.Auto(designs=(SMALL, LARGE), budget_arrays=100))
    assert set(found) == set(MACS)
    for name, design in found.items():
        # One small array is as good as one large one, and came first.
        assert design == (SMALL if arrays_of(name, SMALL) == 1 else LARGE)


def test_a_budget_of_energy_is_what_the_cost_of_the_chip_then_is() -> None:
    whole = sim.compile(network(), LARGE, example_inputs=X)
    table = whole.cost(X)
    energy = {name: float(part["energy_j"].sum()) for name, part in table[~table["once"]].groupby("layer") if name in MACS}
    assert set(energy) == set(MACS)
    best = max(MACS, key=lambda name: MACS[name] / energy[name])
    auto = sim.Auto(designs=(LARGE,), budget_energy_j=energy[best] * 1.001)
    chip = sim.compile(network(), auto, example_inputs=X)
    assert set(chip.layers) == {best}
    assert totals(chip.cost(X))["energy_j"].value == pytest.approx(energy[best], rel=1e-5)
    (warning,) = [warning for warning in chip.warnings if "leaves out terms without a constant" in warning]
    assert "digital shift and add (RRAMCrossbar)" in warning
    everything = sim.Auto(designs=(LARGE,), budget_energy_j=math.fsum(energy.values()) * 1.001)
    assert set(placed(everything)) == set(MACS)


def test_what_has_no_constant_for_the_budget_cannot_be_chosen() -> None:
    free = LARGE.replace(cell_area_m2=None, dac=None, adc=None)
    with pytest.raises(ValueError, match="area_m2: not given for RRAMCrossbar"):
        placed(sim.Auto(designs=(free,), budget_area_m2="1 mm2"))
    given = free.replace(cell_area_m2=1e-13)
    assert set(placed(sim.Auto(designs=(free, given), budget_area_m2="1 mm2")).values()) == {given}


def test_a_shared_layer_spends_energy_at_each_call_and_arrays_once() -> None:
    shared = nn.Linear(8, 8)
    twice, once = nn.Sequential(shared, nn.ReLU(), shared), nn.Sequential(shared)
    x = torch.rand(4, 8)

    def need(model: nn.Module) -> float:
        low, high = 1e-15, 1e-3
        for _ in range(30):
            middle = math.sqrt(low * high)
            try:
                placed(sim.Auto(designs=(LARGE,), budget_energy_j=middle), model, x)
            except ValueError:
                low = middle
            else:
                high = middle
        return high

    spent = totals(sim.compile(twice, LARGE, example_inputs=x).cost(x))["energy_j"].value
    assert need(twice) == pytest.approx(spent, rel=0.01)
    assert need(twice) > 1.5 * need(once)
    assert len(placed(sim.Auto(designs=(LARGE,), budget_arrays=1), twice, x)) == 1


def test_a_layer_that_is_never_called_is_not_bought() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    chip = sim.compile(Idle(), sim.Auto(designs=(LARGE,), budget_arrays=9), example_inputs=torch.rand(2, 4))
    assert set(chip.layers) == {"used"}
    assert "never called" in chip.coverage.set_index("layer").loc["idle", "reason"]


@pytest.mark.parametrize(
    ("design", "message"),
    [
        ({"conv": LARGE}, r"pattern 'conv' must match a layer, but matches none of `0`, `3`, `5`, `6`, `4.matrix`"),
        ({"4.matrx": LARGE}, r"pattern '4.matrx' must match a layer, but matches none; the nearest are `4.matrix`"),
        ({"1": LARGE}, r"pattern '1' must match a layer, but matches only `1`, which no hardware takes: it holds no matrix of weights"),
        ({"[03]": LARGE, "3": SMALL}, r"layer `3` must match one pattern, but matches '\[03\]' and '3'"),
        ({nn.LSTM: LARGE}, r"type LSTM must be that of a layer with weights, but there are Conv2d, Linear, Owner"),
        ({nn.Linear: LARGE, nn.Module: SMALL}, r"layer `3` must match one type, but matches Linear and Module"),
        ({"0": LARGE, nn.Linear: LARGE}, r"only name patterns or only layer types"),
        ({}, r"must be a design, a mapping of name patterns"),
        ("auto", r"Auto\(designs=..., budget_arrays=...\), but got 'auto'"),
        (lambda name, layer: "RRAM", r"the function must return a design or None, but returned 'RRAM' for layer `0`"),
        (lambda name, layer: None, r"at least one layer that `design` places, but got none in Sequential"),
        ({"*": sim.Auto(designs=(LARGE,), budget_arrays=1)}, r"must be a design, a mapping"),
        (
            {"[0356]": MATRICES},
            r"layer `0` \(Conv2d\) must lie on hardware that can run it, but MatricesOnly cannot: it has no convolutions; "
            r"the nearest that can is RRAMCrossbar.preset\('\w+'\), or leave the layer out",
        ),
        (
            {nn.Conv2d: MATRICES, nn.Linear: SMALL},
            r"MatricesOnly cannot: it has no convolutions; the nearest that can is the RRAMCrossbar of",
        ),
        (
            DAC(),
            r"that DAC can take, but got none: layer `0`: layers cannot be lowered to a DAC; the nearest that can is \w+.preset",
        ),
    ],
)
def test_a_placement_that_cannot_be_is_one_line(design: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^[^\n]*{message}[^\n]*$"):
        placed(design)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sim.Auto(designs=(LARGE,)), "one of `budget_arrays`, .* must be given, but got none"),
        (lambda: sim.Auto(designs=(LARGE,), budget_arrays=1, budget_energy_j=1.0), "but got budget_arrays and budget_energy_j"),
        (lambda: sim.Auto(designs=(), budget_arrays=1), "designs"),
        (lambda: sim.Auto(designs=(LARGE,), budget_arrays=0), "budget_arrays"),
        (lambda: sim.compile(network(), sim.Auto(designs=(LARGE,), budget_arrays=9)), "Auto needs example_inputs"),
    ],
)
def test_a_budget_that_says_nothing_is_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^[^\n]*{message}[^\n]*$"):
        make()


def test_a_budget_is_a_design_that_a_file_can_hold() -> None:
    auto = sim.Auto(designs=(SMALL, LARGE), budget_energy_j="1 uJ")
    assert sim.Auto.from_dict(auto.to_toml_dict()) == auto
