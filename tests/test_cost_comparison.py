"""Costs side by side: nodes and their rules, tiles around arrays, figures and files."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import simulator as sim
from devices import (
    Accumulator,
    AsGiven,
    Buffer,
    ConstantField,
    Cost,
    DesignError,
    PredictiveModel,
    Router,
    RRAMCrossbar,
    SRAMMacro,
    Surroundings,
    SystolicArray,
    TiledSystem,
    sources_of,
)
from simulator.cost_figures import pareto_front
from simulator.costing import cost_frame

SUPPLIES = tuple({"node_m": node * 1e-9, "volt": volt} for node, volt in ((130, 1.3), (65, 1.3), (45, 1.0), (32, 0.9), (7, 0.7)))
RULE = PredictiveModel(supplies=SUPPLIES)
MACRO = SRAMMacro(rows=64, columns=64, read_s="20 ns", joule_per_operation=7e-15, area_m2=1e-8, leakage_watt=1e-5, node_m="45 nm")


def test_the_published_example_of_scaling() -> None:
    # Stillmaker and Baas 2017, section 4.2.1, as corrected by its authors: 1 pJ at 65 nm and 1.3 V is 0.1755 pJ at 32 nm and 0.9 V.
    assert RULE.factors(65e-9, 32e-9).energy == pytest.approx(0.1755, abs=1e-4)
    assert RULE.factors(65e-9, 65e-9) == ConstantField().factors(1.0, 1.0)


def test_energy_at_180_nm_follows_the_square_of_the_supply() -> None:
    # A charged capacitance takes C V^2; the fit is linear at this node, and good near the nominal supply.
    def energy(volt: float) -> float:
        rule = PredictiveModel(supplies=({"node_m": 180e-9, "volt": volt}, {"node_m": 65e-9, "volt": 1.1}))
        return rule.factors(65e-9, 180e-9).energy

    assert energy(1.8) / energy(1.2) == pytest.approx((1.8 / 1.2) ** 2, rel=0.05)


@given(st.sampled_from([130, 65, 45, 32, 7]), st.sampled_from([130, 65, 45, 32, 7]))
def test_scaling_there_and_back_is_none(start: int, end: int) -> None:
    for rule in (RULE, ConstantField(), AsGiven()):
        there, back = rule.factors(start * 1e-9, end * 1e-9), rule.factors(end * 1e-9, start * 1e-9)
        for name in ("energy", "delay", "area", "power"):
            assert getattr(there, name) * getattr(back, name) == pytest.approx(1.0)
            assert getattr(there, name) > 0
            if start > end and not isinstance(rule, AsGiven):
                assert getattr(there, name) < 1


def test_dennard_scaling_is_powers_of_the_length() -> None:
    factors = ConstantField().factors(180e-9, 90e-9)
    assert (factors.energy, factors.delay, factors.area, factors.power) == pytest.approx((1 / 8, 1 / 2, 1 / 4, 1 / 4))
    assert factors.energy == pytest.approx(factors.power * factors.delay)


def tile_rows(system: TiledSystem, vectors: int = 5) -> pd.DataFrame:
    chip = sim.compile(nn.Linear(300, 100), system, example_inputs=torch.rand(vectors, 300))
    return chip.cost(torch.rand(vectors, 300)).set_index("term")


def test_tiles_price_what_arrays_leave_to_them() -> None:
    around = Surroundings(
        arrays_per_tile=4,
        buffer=Buffer(joule_per_byte=1e-12, bandwidth_bytes_per_s=1e9, area_m2=1e-9, leakage_watt=1e-6),
        accumulator=Accumulator(joule_per_addition=1e-13, additions_per_s=1e12, area_m2=1e-10, leakage_watt=0.0),
        router=Router(tiles=2, hops=3.0, joule_per_byte=2e-12, bandwidth_bytes_per_s=1e12, area_m2=4e-9, leakage_watt=2e-6),
        leakage_watt=1e-7,
        node_m="45 nm",
    )
    rows, bare = tile_rows(TiledSystem(arrays=MACRO, surroundings=around)), tile_rows(MACRO)
    # 300 rows in 5 groups, 100 columns in 2: 10 macros in 3 tiles, which share one and a half routers.
    moved, additions = 5 * 300 // 2 + 5 * 100 * 5 * 9 // 8 + 1, 5 * 100 * 5
    assert rows.loc["input and output codes", "bytes"] == moved and rows.loc["digital shift, add and restore", "operations"] == additions
    busy = 5 * 20e-9
    buffer = rows.loc["input and output codes"]
    assert buffer["energy_j"] == pytest.approx(moved * 1e-12) and buffer["area_m2"] == pytest.approx(3e-9)
    assert buffer["latency_s"] == pytest.approx(moved / 3e9 - busy)
    adders = rows.loc["digital shift, add and restore"]
    assert adders["energy_j"] == pytest.approx(additions * 1e-13) and adders["latency_s"] == 0.0
    router = rows.loc["router"]
    assert router["energy_j"] == pytest.approx(3 * moved * 2e-12) and router["area_m2"] == pytest.approx(6e-9)
    assert rows.loc["router leakage", "power_watt"] == pytest.approx(3e-6) and rows.loc["tile leakage", "power_watt"] == pytest.approx(3e-7)
    same = ["energy_j", "latency_s", "area_m2", "macs"]
    assert rows.loc["MAC and readout", same].equals(bare.loc["MAC and readout", same])
    call = sim.totals(rows.reset_index())["latency_s"].value
    assert rows.loc["router leakage", "energy_j"] == pytest.approx(3e-6 * call)


def test_published_powers_count_while_the_tile_works() -> None:
    rows = tile_rows(TiledSystem(arrays=MACRO.replace(node_m=None), surroundings=Surroundings.preset("isaac_tile", arrays_per_tile=4)))
    assert rows.loc["input and output codes", "energy_j"] == pytest.approx(3 * 20.7e-3 * 5 * 20e-9)
    assert rows.loc["router", "energy_j"] == pytest.approx(3 / 4 * 42e-3 * 5 * 20e-9)
    assert rows.loc["router", "area_m2"] == pytest.approx(3 / 4 * 0.151e-6)
    silent = tile_rows(TiledSystem(arrays=MACRO.replace(node_m=None, read_s=None), surroundings=Surroundings.preset("isaac_tile")))
    assert math.isnan(silent.loc["router", "energy_j"]) and "latency" in silent.loc["router", "note"]


def test_surroundings_come_to_the_arrays_node_by_a_rule_or_not_at_all() -> None:
    around = Surroundings.preset("isaac_tile", arrays_per_tile=4)
    with pytest.raises(DesignError, match="`scaling` must be given where arrays and surroundings are of different nodes"):
        TiledSystem(arrays=MACRO, surroundings=around)
    scaled = tile_rows(TiledSystem(arrays=MACRO, surroundings=around, scaling=ConstantField()))
    plain = tile_rows(TiledSystem(arrays=MACRO.replace(node_m="32 nm"), surroundings=around))
    ratio = 45 / 32
    assert scaled.loc["router", "area_m2"] == pytest.approx(plain.loc["router", "area_m2"] * ratio**2)
    assert scaled.loc["router", "energy_j"] == pytest.approx(plain.loc["router", "energy_j"] * ratio**3)
    assert scaled.loc["router", "node_m"] == 45e-9 and "ConstantField" in scaled.loc["router", "note"]
    with pytest.raises(DesignError, match="must be one of 180, 130, 90, 65, 45, 32, 20, 16, 14, 10, 7 nm"):
        TiledSystem(arrays=MACRO.replace(node_m="28 nm"), surroundings=around, scaling=RULE)


@pytest.mark.parametrize("arrays", [MACRO, RRAMCrossbar.preset("wan_nature_2022", node_m=None), SystolicArray(rows=8, columns=8)])
def test_tiles_change_cost_and_nothing_else(arrays) -> None:
    layer, x = nn.Linear(40, 6), torch.rand(7, 40)
    system = TiledSystem(arrays=arrays, surroundings=Surroundings.preset("horowitz_45nm"))
    chips = [sim.compile(layer, design, example_inputs=x).program(seed=3) for design in (system, arrays)]
    assert torch.equal(chips[0](x), chips[1](x))
    assert chips[0].coverage.equals(chips[1].coverage)
    terms = set(chips[0].cost(x)["term"]) - set(chips[1].cost(x)["term"])
    assert {"tile leakage", "buffer leakage", "accumulator leakage"} <= terms
    assert system.ideal().arrays == arrays.ideal()


def frames() -> dict[str, pd.DataFrame]:
    row = Cost(layer="fc", hardware="A", term="MAC", energy_j=8e-12, latency_s=2e-9, area_m2=4e-8, macs=100, node_m=90e-9)
    rest = Cost(layer="fc", hardware="A", term="leakage", static=True, power_watt=1e-3, latency_s=0.0, area_m2=0.0, node_m=90e-9)
    return {
        "new": cost_frame([dataclasses.replace(row, node_m=45e-9), dataclasses.replace(rest, node_m=45e-9)]),
        "old": cost_frame([row, rest]),
    }


def test_different_nodes_are_compared_by_a_rule_or_refused() -> None:
    both = frames()
    with pytest.raises(
        ValueError, match=r"^Argument `frames` must be of one technology node to be compared, but they are of 45 nm \(new\), 90 nm"
    ):
        sim.compare_costs(both)
    unknown = both["old"].assign(node_m=np.nan)
    with pytest.raises(ValueError, match=r"not given \(old\)"):
        sim.compare_costs({"new": both["new"], "old": unknown})
    with pytest.raises(ValueError, match=r"^Argument `frame` must state a technology node in every row"):
        sim.compare_costs({"old": unknown}, node_m=45e-9, rule=ConstantField())
    with pytest.raises(ValueError, match="`rule` must be given with `node_m`"):
        sim.compare_costs(both, node_m=45e-9)
    with pytest.raises(ValueError, match="`node_m` must be given with `rule`"):
        sim.compare_costs(both, rule=ConstantField())
    with pytest.raises(ValueError, match="must hold at least one"):
        sim.compare_costs({})
    table = sim.compare_costs(both, node_m=45e-9, rule=ConstantField()).set_index("design")
    assert table.loc["old", "latency_s"] == pytest.approx(1e-9) and table.loc["old", "area_m2"] == pytest.approx(1e-8)
    # An eighth of the energy of the MACs, and a quarter of the power over half the time.
    assert table.loc["old", "energy_j"] == pytest.approx(1e-12 + 1e-3 / 4 * 1e-9)
    assert table.loc["new", "energy_j"] == pytest.approx(8e-12 + 1e-3 * 2e-9)
    as_given = sim.compare_costs(both, rule=AsGiven()).set_index("design")
    assert as_given.loc["old", "energy_j"] == as_given.loc["new", "energy_j"]
    assert list(as_given["node_m"]) == [45e-9, 90e-9]


VALUES = st.one_of(st.none(), st.floats(0, 1e6, allow_subnormal=False))
COUNT = st.one_of(st.none(), st.integers(0, 2**53))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.builds(
            Cost,
            layer=st.text(alphabet="ab.,\"' é", min_size=1),
            hardware=st.sampled_from(["A", "NA", "nan"]),
            term=st.sampled_from(["MAC", "null", "ADC, column"]),
            energy_j=VALUES,
            latency_s=VALUES,
            area_m2=VALUES,
            bytes=COUNT,
            operations=COUNT,
            static=st.booleans(),
            once=st.booleans(),
            note=st.text(alphabet="not given:\n ;", max_size=9),
            macs=COUNT,
            node_m=VALUES,
        ),
        max_size=5,
    ),
    kind=st.sampled_from(["csv", "json"]),
)
def test_files_bring_the_table_back_bit_for_bit(tmp_path_factory, rows: list[Cost], kind: str) -> None:
    frame = cost_frame(rows)
    path = sim.save_cost(frame, tmp_path_factory.mktemp("cost") / f"cost.{kind}")
    pd.testing.assert_frame_equal(sim.load_cost(path), frame, check_exact=True)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in .csv or .json"):
        sim.save_cost(cost_frame([]), tmp_path / "cost.xlsx")
    with pytest.raises(ValueError, match=r"^Argument `path` must lie in a folder that exists"):
        sim.save_cost(cost_frame([]), tmp_path / "nowhere" / "cost.csv")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="has no column 'layer'"):
        sim.load_cost(tmp_path / "other.csv")


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=9), st.booleans(), st.booleans())
def test_the_front_is_what_nothing_beats(points: list[tuple[int, int]], more_x: bool, more_y: bool) -> None:
    def beats(a: tuple[int, int], b: tuple[int, int]) -> bool:
        x = (a[0] - b[0]) * (1 if more_x else -1)
        y = (a[1] - b[1]) * (1 if more_y else -1)
        return x >= 0 and y >= 0 and (x > 0 or y > 0)

    found = pareto_front(points, (more_x, more_y))
    assert found.tolist() == [not any(beats(other, point) for other in points) for point in points]
    assert not pareto_front([[math.nan, 0.0]])[0]


def test_figures_have_axes_with_units_and_say_what_is_missing() -> None:
    rows = [Cost(layer="fc", hardware="A", term=term, energy_j=energy, area_m2=1e-6) for term, energy in (("MAC", 3e-12), ("ADC", None))]
    figure = sim.cost_figure({"A": cost_frame(rows), "B": cost_frame(rows[1:])})
    axes = figure.axes[0]
    assert axes.get_xlabel() == "energy of one call (pJ)"
    assert [bar.get_width() for bar in axes.patches] == pytest.approx([3.0, 0.0])
    assert [text.get_text() for text in axes.texts] == ["+ 1 term not given", "not given"]
    assert sum(bar.get_width() for bar in sim.cost_figure({"A": cost_frame(rows)}, "area_m2").axes[0].patches) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="`quantity` must be"):
        sim.cost_figure({"A": cost_frame(rows)}, "mass_kg")
    with pytest.raises(ValueError, match="must hold a number for energy_j"):
        sim.cost_figure({"B": cost_frame(rows[1:])})
    table = pd.DataFrame({"design": ["A", "B", "C"], "energy_j": [1e-9, 2e-9, math.nan], "energy_j_without": ["", "ADC", "all"]})
    points = sim.pareto_figure(table.assign(accuracy=[0.9, 0.8, 0.99]), "energy_j", "accuracy").axes[0]
    assert points.get_xlabel() == "energy of one call (nJ)\nhollow: a bound, terms are not given\nwithout C"
    with pytest.raises(ValueError, match="must have a column 'speed'"):
        sim.pareto_figure(table, "energy_j", "speed")


@pytest.mark.parametrize(("energies", "named"), [((1.0, 1e-5, 2e-5), 1), ((1.0, 0.5, 1e-5), 3), ((1.0,) * 9, 9), ((1.0,) * 11, 8)])
def test_terms_that_cannot_be_seen_or_told_apart_share_a_bar(energies: tuple[float, ...], named: int) -> None:
    rows = [Cost(layer="fc", hardware="A", term=f"term {place}", energy_j=energy) for place, energy in enumerate(energies)]
    axes = sim.cost_figure({"A": cost_frame(rows)}).axes[0]
    words = [text.get_text() for text in axes.get_legend().get_texts()]
    assert words[:named] == [f"term {place}" for place in range(named)]
    assert words[named:] == (["other terms"] if named < len(energies) else [])
    assert sum(bar.get_width() for bar in axes.patches) == pytest.approx(sum(energies))


def test_presets_of_surroundings_state_node_and_sources() -> None:
    for name, node in (("horowitz_45nm", 45e-9), ("isaac_tile", 32e-9)):
        assert Surroundings.preset(name).node_m == pytest.approx(node)
        assert all(source.cite for source in sources_of(name).values())
    with pytest.raises(DesignError, match="`joule_per_byte` must be absent where `busy_watt`"):
        Buffer(joule_per_byte=1e-12, busy_watt=1.0)
    with pytest.raises(DesignError, match="`arrays` must be arrays"):
        inner = TiledSystem(arrays=MACRO, surroundings=Surroundings())
        TiledSystem(arrays=inner, surroundings=Surroundings())
