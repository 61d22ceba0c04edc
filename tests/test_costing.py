"""The cost table: what adds up, what is shared, what is spent at rest, and what an operation is."""

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import simulator as sim
from devices import Cost, SRAMMacro, SystolicArray
from simulator.costing import COLUMNS, cost_frame


def row(layer: str, term: str = "MAC", **values) -> Cost:
    return Cost(layer=layer, hardware="A", term=term, **values)


def test_the_columns_are_the_fields_of_a_row() -> None:
    assert COLUMNS[:8] == ("layer", "hardware", "term", "energy_j", "latency_s", "area_m2", "bytes", "operations")
    frame = cost_frame([])
    assert list(frame.columns) == list(COLUMNS) and sim.totals(frame)["energy_j"].value is None


@settings(max_examples=40)
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(1e-9, 1), st.floats(0, 1)), min_size=1, max_size=8))
def test_totals_are_sums_and_a_pipeline_is_as_slow_as_its_slowest_layer(parts: list[tuple[float, float, float]]) -> None:
    rows = [row(str(i), energy_j=energy, latency_s=latency, area_m2=area) for i, (energy, latency, area) in enumerate(parts)]
    frame = cost_frame(rows)
    sequential, pipelined = sim.totals(frame), sim.totals(frame, "pipelined")
    for place, name in enumerate(("energy_j", "latency_s", "area_m2")):
        assert sequential[name].value == pytest.approx(sum(part[place] for part in parts)) == pytest.approx(pipelined[name].value)
    assert sequential["interval_s"] == sequential["latency_s"]
    assert pipelined["interval_s"].value == max(part[1] for part in parts)


def test_layers_on_one_array_wait_for_each_other_and_its_area_counts_once() -> None:
    rows = [row(name, latency_s=1.0, area_m2=3.0, resource="array") for name in "ab"] + [row("c", latency_s=1.5, area_m2=1.0)]
    rows += [row(name, "leakage", static=True, power_watt=2.0, latency_s=0.0, area_m2=0.0, resource="array") for name in "ab"]
    frame = cost_frame(rows)
    assert sim.totals(frame)["area_m2"].value == 4.0
    assert sim.totals(frame, "pipelined")["interval_s"].value == 2.0
    # The array leaks while c works, too: 2 W over 3.5 s, and over 2 s in a pipeline.
    assert sim.totals(frame)["static_energy_j"].value == pytest.approx(7.0)
    assert sim.totals(frame, "pipelined")["static_energy_j"].value == pytest.approx(4.0)
    assert list(frame.loc[frame["static"], "energy_j"]) == pytest.approx([3.5, 3.5])


def test_energy_at_rest_is_shared_by_time_and_apart() -> None:
    rows = [row("a", latency_s=3.0, energy_j=1.0, resource="array"), row("b", latency_s=1.0, energy_j=1.0, resource="array")]
    rows += [row(name, "leakage", static=True, power_watt=0.5, latency_s=0.0, area_m2=0.0, resource="array") for name in "ab"]
    frame = cost_frame(rows)
    assert list(frame.loc[frame["static"], "energy_j"]) == pytest.approx([1.5, 0.5])
    total = sim.totals(frame)
    assert total["energy_j"].value == pytest.approx(4.0) and total["static_energy_j"].value == pytest.approx(2.0)


def test_what_is_not_given_is_named_and_never_zero() -> None:
    frame = cost_frame([row("a", energy_j=1.0), row("a", "ADC"), row("a", "leakage", static=True, latency_s=0.0, area_m2=0.0)])
    total = sim.totals(frame)
    assert total["energy_j"].value == 1.0 and total["energy_j"].missing == ("ADC", "leakage")
    assert total["latency_s"].value is None and total["latency_s"].missing == ("MAC", "ADC")
    assert total["static_energy_j"].value is None
    # A pipeline of unknown speed has no energy at rest either.
    assert sim.totals(frame, "pipelined")["interval_s"].value is None


def test_the_published_macro_reaches_its_published_efficiency() -> None:
    macro = SRAMMacro.preset("asscc_2023")
    chip = sim.compile(nn.Linear(64, 16), macro, example_inputs=torch.rand(5, 64))
    found = sim.efficiency(chip.cost(torch.rand(5, 64)))
    assert found.operations == 2 * 5 * 64 * 16
    assert found.tops_per_watt.value == pytest.approx(137.5, rel=1e-4)
    assert found.normalized is not None and found.normalized[1].value == pytest.approx(16 * 137.5, rel=1e-4)
    assert found.tops_per_watt.partial and found.tops.value is None
    text = str(found)
    assert "TOPS/W 137.5 at most (without input and output codes" in text and "two operations" in text and "TOPS not given" in text


def test_the_tpu_comes_near_its_peak_on_a_large_product() -> None:
    tpu = SystolicArray.preset("tpu_v1_like", memories=())
    chip = sim.compile(nn.Linear(512, 512), tpu, example_inputs=torch.rand(4, 512))
    found = sim.efficiency(chip.cost(torch.rand(40000, 512)))
    # 91.75 at peak, and each fold of 40,000 vectors takes 766 cycles to fill and empty.
    assert found.tops.value == pytest.approx(2 * 65536 * 700e6 / 1e12 * 40000 / 40766)
    assert found.tops_per_watt.value is None and "multiply-accumulate" in found.tops_per_mm2.missing


def test_operations_that_are_no_multiply_accumulates_do_not_count() -> None:
    rows = [row("a", energy_j=1e-12, latency_s=1e-12, macs=5, area_m2=1e-6), row("a", "ReLU", energy_j=1e-12, operations=10**6)]
    found = sim.efficiency(cost_frame(rows))
    assert (found.operations, found.tops_per_watt.value) == (10, pytest.approx(5.0))
    assert found.normalized is None and "1 x 1 bit: not given" in str(found)
    assert found.tops.value == pytest.approx(10.0) and found.tops_per_mm2.value == pytest.approx(10.0)


def test_what_cannot_be_is_refused_in_a_line() -> None:
    frame = cost_frame([row("a", energy_j=1.0)])
    with pytest.raises(ValueError, match=r"^Argument `frame` must have a row with multiply-accumulates[^\n]*$"):
        sim.efficiency(frame)
    with pytest.raises(ValueError, match=r"^Argument `schedule` must be[^\n]*$"):
        sim.totals(frame, "parallel")
    with pytest.raises(ValueError, match="Argument `power_watt` must be finite"):
        row("a", power_watt=-1.0)
    assert isinstance(frame, pd.DataFrame)
