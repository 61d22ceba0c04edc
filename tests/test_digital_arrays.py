"""Systolic arrays against a simulation cycle by cycle; traffic, roofline, experts and presets against sums by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices import DesignError, MemoryTier, SystolicArray, TieredSocket, all_to_all_seconds, sources_of
from devices.digital import Product, product_cost
from simulator.costing import cost_frame

FLOWS = ("output_stationary", "weight_stationary", "input_stationary")
SIZES = st.integers(1, 7)


def grid_cycles(stationary: np.ndarray | None, rows: int, columns: int, left: np.ndarray, top: np.ndarray | None) -> tuple[int, np.ndarray]:
    """Run one fold of a grid cycle by cycle; returns the cycles and what left it.

    Operands move one unit to the right (`left`, a row for each step) and, where nothing is stationary, one down (`top`). With stationary
    operands, loaded from the top a row a cycle, sums move down and leave at the bottom; else sums stay and are shifted out at the end.
    """
    steps = left.shape[0]
    moving = np.zeros((rows, columns))
    cycles = 0
    if stationary is not None:
        cycles += rows
        sums = np.zeros((rows, columns))
        out = np.full((steps, columns), np.nan)
        while np.isnan(out).any():
            clock = cycles - rows
            moving[:, 1:] = moving[:, :-1].copy()
            moving[:, 0] = [left[clock - i, i] if 0 <= clock - i < steps else 0.0 for i in range(rows)]
            above = np.vstack((np.zeros(columns), sums[:-1]))
            sums = above + moving * stationary
            for j in range(columns):
                step = clock - (rows - 1) - j
                if 0 <= step < steps:
                    out[step, j] = sums[-1, j]
            cycles += 1
        return cycles, out
    assert top is not None
    falling, sums, done = np.zeros((rows, columns)), np.zeros((rows, columns)), np.zeros((rows, columns), int)
    while (done < steps).any():
        moving[:, 1:], falling[1:] = moving[:, :-1].copy(), falling[:-1].copy()
        moving[:, 0] = [left[cycles - i, i] if 0 <= cycles - i < steps else 0.0 for i in range(rows)]
        falling[0] = [top[cycles - j, j] if 0 <= cycles - j < steps else 0.0 for j in range(columns)]
        sums += moving * falling
        done += np.array([[0 <= cycles - i - j < steps for j in range(columns)] for i in range(rows)])
        cycles += 1
    return cycles + rows, sums


def padded(matrix: np.ndarray, rows: int, columns: int, place: tuple[int, int]) -> np.ndarray:
    part = matrix[place[0] * rows : (place[0] + 1) * rows, place[1] * columns : (place[1] + 1) * columns]
    return np.pad(part, ((0, rows - part.shape[0]), (0, columns - part.shape[1])))


def simulate(array: SystolicArray, a: np.ndarray, b: np.ndarray) -> tuple[int, np.ndarray]:
    """Return the cycles of all folds, one after the other, and the product that they leave."""
    rows, columns = array.rows, array.columns
    (m, k), n = a.shape, b.shape[1]
    cycles = 0
    if array.dataflow == "output_stationary":
        result = np.zeros((-(-m // rows) * rows, -(-n // columns) * columns))
        for i in range(-(-m // rows)):
            for j in range(-(-n // columns)):
                took, sums = grid_cycles(None, rows, columns, padded(a, rows, k, (i, 0)).T, padded(b, k, columns, (0, j)))
                result[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns] = sums
                cycles += took
        return cycles, result[:m, :n]
    held, moved = (b, a) if array.dataflow == "weight_stationary" else (a.T, b.T)
    result = np.zeros((moved.shape[0], -(-held.shape[1] // columns) * columns))
    for i in range(-(-k // rows)):
        for j in range(-(-held.shape[1] // columns)):
            left = padded(moved, moved.shape[0], rows, (0, i))
            took, sums = grid_cycles(padded(held, rows, columns, (i, j)), rows, columns, left, None)
            result[:, j * columns : (j + 1) * columns] += sums
            cycles += took
    result = result[:, : held.shape[1]]
    return cycles, result if array.dataflow == "weight_stationary" else result.T


@settings(max_examples=300, deadline=None)
@given(SIZES, SIZES, SIZES, SIZES, SIZES, st.sampled_from(FLOWS), st.integers(0, 99))
def test_every_cycle_is_counted(rows: int, columns: int, m: int, k: int, n: int, dataflow: str, seed: int) -> None:
    array = SystolicArray(rows=rows, columns=columns, dataflow=dataflow)
    source = np.random.default_rng(seed)
    a, b = source.integers(-9, 9, (m, k)).astype(float), source.integers(-9, 9, (k, n)).astype(float)
    cycles, product = simulate(array, a, b)
    assert np.array_equal(product, a @ b)
    assert array.cycles(m, k, n, drain=True) == cycles
    assert 0 < array.utilization(m, k, n) <= 1


@given(*[st.integers(1, 500)] * 5)
def test_the_other_convention_is_scale_sim(rows: int, columns: int, m: int, k: int, n: int) -> None:
    def up(a: int, b: int) -> int:
        return -(-a // b)

    expected = {
        "output_stationary": (rows + columns + k - 2) * up(m, rows) * up(n, columns) - 1,
        "weight_stationary": (2 * rows + columns + m - 2) * up(k, rows) * up(n, columns) - 1,
        "input_stationary": (2 * rows + columns + n - 2) * up(k, rows) * up(m, columns) - 1,
    }
    for dataflow, cycles in expected.items():
        assert SystolicArray(rows=rows, columns=columns, dataflow=dataflow).cycles(m, k, n) == cycles


@pytest.mark.parametrize(
    ("dataflow", "edge"),
    # Inputs 10 x 20, weights 20 x 30, outputs 10 x 30 of four bytes; a grid of 4 x 8.
    [
        ("output_stationary", 4 * 200 + 3 * 600 + 1200),
        ("weight_stationary", 4 * 200 + 600 + 9 * 1200),
        ("input_stationary", 200 + 2 * 600 + 9 * 1200),
    ],
)
def test_traffic_at_the_edge_and_behind_it(dataflow: str, edge: int) -> None:
    def traffic(capacity: int) -> dict[str, int]:
        tiers = (MemoryTier(name="SRAM", capacity_bytes=capacity), MemoryTier(name="DRAM"))
        return SystolicArray(rows=4, columns=8, dataflow=dataflow, memories=tiers).traffic(10, 20, 30)

    assert traffic(2000) == {"SRAM": edge, "DRAM": 2000}
    assert traffic(1999) == {"SRAM": edge, "DRAM": 2000}
    assert traffic(1) == {"SRAM": edge, "DRAM": edge}


def test_the_slowest_of_computing_and_moving_is_the_time() -> None:
    tiers = (
        MemoryTier(name="SRAM", bandwidth_bytes_per_s=1e9, joule_per_byte=1e-12),
        MemoryTier(name="DRAM", bandwidth_bytes_per_s=1e8, joule_per_byte=1e-10),
    )
    array = SystolicArray(rows=4, columns=8, memories=tiers, frequency_hertz="1 GHz", joule_per_mac=2e-13, leakage_watt=0.01)
    product = Product(10, 20, 30, times=3)
    rows = {row.term: row for row in product_cost(array, "fc", product)}
    compute, moved = 3 * 408e-9, {name: 3 * value for name, value in array.traffic(10, 20, 30).items()}
    assert rows["multiply-accumulate"].latency_s == pytest.approx(compute)
    assert rows["multiply-accumulate"].operations == 2 * product.macs == 36000
    assert rows["DRAM"].bytes == moved["DRAM"] and rows["DRAM"].energy_j == pytest.approx(moved["DRAM"] * 1e-10)
    total = sum(row.latency_s for row in rows.values())
    assert total == pytest.approx(max(compute, moved["SRAM"] / 1e9, moved["DRAM"] / 1e8))
    assert total == pytest.approx(array.roofline_seconds(compute, moved))
    assert rows["leakage"].power_watt == 0.01 and rows["leakage"].static
    frame = cost_frame(rows.values())
    assert frame.set_index("term").loc["leakage", "energy_j"] == pytest.approx(0.01 * total)


def test_what_is_not_given_is_not_zero() -> None:
    rows = product_cost(SystolicArray.preset("nvdla_like"), "fc", Product(4, 4, 4))
    assert all(row.energy_j is None and (row.latency_s is None or row.static) for row in rows)
    assert all("not given" in row.note for row in rows)
    with pytest.raises(ValueError, match="must have a bandwidth"):
        SystolicArray.preset("nvdla_like").roofline_seconds(1.0, {"DRAM": 10})


def test_experts_switch_from_ddr_in_a_hundredth_of_a_second() -> None:
    socket = TieredSocket.preset("sn40l_socket")
    assert socket.switch_seconds(8_000_000_000, "DDR", sockets=16) == pytest.approx(0.010)
    assert socket.switch_seconds(8_000_000_000, "DDR") == pytest.approx(0.16)
    assert socket.seconds(1000, 1000, 1000) == pytest.approx(2e9 / 638e12)
    with pytest.raises(ValueError, match=r"must hold the expert, 128000000000 bytes, but has 64000000000"):
        socket.switch_seconds(64_000_000_000, "DDR")
    with pytest.raises(ValueError, match="nearest"):
        socket.switch_seconds(1, "SRAM")
    with pytest.raises(ValueError, match="`frequency_hertz` must be given"):
        socket.cycles(1, 1, 1)


@pytest.mark.parametrize("counts", [{"parameters": -1}, {"bits": 0}, {"sockets": 0}])
def test_experts_of_no_size_are_refused(counts: dict[str, int]) -> None:
    (name,) = counts
    with pytest.raises(ValueError, match=f"^Argument `{name}` must be above 0"):
        TieredSocket.preset("sn40l_socket").switch_seconds(**{"parameters": 1, "source": "DDR", **counts})


def test_sizes_may_be_integers_of_numpy() -> None:
    array = SystolicArray(rows=4, columns=4)
    assert array.cycles(*np.array([300, 70_000, 300], np.int32)) == array.cycles(300, 70_000, 300)


def test_all_to_all() -> None:
    assert all_to_all_seconds(1e9, 1, 1e9) == 0.0
    assert all_to_all_seconds(1e9, 4, 1e9, latency_s=1e-3) == pytest.approx(0.753)
    for bad in ({"devices": 0}, {"devices": 1.5}, {"link_bytes_per_s": 0.0}, {"bytes_per_device": -1.0}):
        with pytest.raises(ValueError, match=r"^Argument [^\n]*$"):
            all_to_all_seconds(**{"bytes_per_device": 1.0, "devices": 2, "link_bytes_per_s": 1.0, **bad})


@pytest.mark.parametrize(
    ("name", "cls", "units", "capacity"),
    [
        ("tpu_v1_like", SystolicArray, 65536, 24 * 2**20),
        ("eyeriss_like", SystolicArray, 168, 108 * 1024),
        ("nvdla_like", SystolicArray, 1024, 512 * 1024),
        ("microcontroller_320kb", SystolicArray, 2, 320 * 1024),
        ("sn40l_socket", TieredSocket, None, 520_000_000),
    ],
)
def test_presets(name: str, cls: type, units: int | None, capacity: int) -> None:
    design = cls.preset(name)
    assert design.memories[0].capacity_bytes == capacity
    assert units is None or design.rows * design.columns == units
    assert any(source.cite for source in sources_of(name).values())
    assert design.ideal() == design


def test_the_tpu_reaches_its_published_peak() -> None:
    tpu = SystolicArray.preset("tpu_v1_like")
    assert 2 * tpu.rows * tpu.columns * tpu.frequency_hertz == pytest.approx(92e12, rel=0.01)


def test_a_memory_that_cannot_hold_a_product_is_refused_with_bytes() -> None:
    array = SystolicArray(rows=2, columns=2, memories=(MemoryTier(name="SRAM", capacity_bytes=100),))
    with pytest.raises(
        ValueError, match=r"Memory `SRAM` must hold the operands of a \(10, 10\) x \(10, 10\) product, 600 bytes, but has 100"
    ):
        array.traffic(10, 10, 10)
    with pytest.raises(ValueError, match="integers of at least 1"):
        array.cycles(0, 1, 1)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"rows": 0}, "`rows` must be"),
        ({"dataflow": "row_stationary"}, "`dataflow` must be"),
        ({"input_bits": None}, "`input_bits` must be an integer with `weight_bits`"),
        ({"memories": ({"name": "A"}, {"name": "A"})}, "must have different names"),
        ({"memories": ({"name": "A", "capacity_bytes": -1},)}, "capacity_bytes"),
    ],
)
def test_a_wrong_design_is_refused_in_a_line(change: dict, line: str) -> None:
    with pytest.raises(DesignError) as error:
        SystolicArray(**{"rows": 2, "columns": 2, **change})
    assert line in str(error.value) and "\n" not in str(error.value)
