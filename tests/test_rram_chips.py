"""The cost model against published chips: what follows from their own constants must come near their published totals."""

import pandas as pd
import pytest

from benchmarks.rram_chips import ANCHOR, NEURRAM, table


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return table()


@pytest.mark.parametrize("width", [width for width in NEURRAM if width != ANCHOR])
@pytest.mark.parametrize("term", ["row wires", "cell read"])
def test_wires_and_cells_of_neurram_are_predicted_from_one_width(frame: pd.DataFrame, width: tuple[int, int], term: str) -> None:
    rows = frame[(frame["chip"] == f"NeuRRAM, {width[0]} bits in, {width[1]} out") & (frame["quantity"] == term)]
    assert abs(float(rows["deviation"].iloc[0])) < 0.12


@pytest.mark.parametrize(
    ("quantity", "most"), [("power", 0.05), ("ADC power", 1e-6), ("time of a 16-bit vector", 1e-6), ("speed", 0.02), ("efficiency", 0.06)]
)
def test_a_unit_of_isaac_is_the_sum_of_its_parts(frame: pd.DataFrame, quantity: str, most: float) -> None:
    rows = frame[(frame["chip"] == "ISAAC, one unit of 8 arrays") & (frame["quantity"] == quantity)]
    assert abs(float(rows["deviation"].iloc[0])) < most


def test_single_cells_and_the_macro_have_their_published_energies(frame: pd.DataFrame) -> None:
    rows = frame[frame["quantity"].isin(["read of a cell at g_max", "write of a cell"]) | (frame["chip"] == "SRAM macro (ASSCC 2023)")]
    assert len(rows) == 3
    assert rows["deviation"].abs().max() < 0.05


def test_what_was_not_published_is_not_given(frame: pd.DataFrame) -> None:
    missing = frame[frame["measured"].isna()]
    assert set(missing["chip"]) == {
        "NeuRRAM, 2 bits in, 4 out: preset as shipped",
        "NeuRRAM, 8 bits in, 10 out: preset as shipped",
        "ISAAC, whole chip",
    }
    assert missing["note"].str.len().min() > 20
