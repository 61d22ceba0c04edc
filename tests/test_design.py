"""Designs: validation in one line, changes, and every round trip."""

import copy
import json
import os
import pickle
import subprocess
import sys
import tomllib
from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

import numpy as np
import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, SerializeAsAny, TypeAdapter, ValidationError, field_validator
from torch import Tensor

from devices.base import Cost, Hardware, ProgrammedCells, ResistiveCell
from devices.design import Design, DesignError
from kernels.random import Key


class PlainCell(ResistiveCell):
    sigma_fraction: float = Field(default=0.0, ge=0, lt=1)

    def program(self, target: Tensor, key: Key) -> ProgrammedCells:
        return ProgrammedCells(target)

    def read_sigma(self, conductance: Tensor, seconds: float) -> Tensor | None:
        return None

    def drift(self, programmed: ProgrammedCells, seconds: float, key: Key) -> Tensor:
        return programmed.conductance


class LeakyCell(PlainCell):
    retention_s: float = Field(default=1.0, gt=0)


class UnfinishedCell(ResistiveCell):
    def program(self, target: Tensor, key: Key) -> ProgrammedCells:
        return ProgrammedCells(target)


class Converter(Design):
    bits: int = Field(default=8, ge=1, le=16)
    policy: Literal["fixed", "maximum"] = "maximum"
    even: int = 2

    @field_validator("even")
    @classmethod
    def _is_even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("must be even")
        return value


class Board(Hardware):
    cell: SerializeAsAny[ResistiveCell]
    spare: ResistiveCell | None = None  # without SerializeAsAny on purpose
    adc: Converter | None = Converter(bits=10)
    stages: tuple[Converter, ...] = ()
    by_name: dict[str, SerializeAsAny[Design]] = Field(default_factory=dict)
    rows: int = Field(default=256, ge=1)
    voltage_volt: float | None = Field(default=None, gt=0)
    levels_siemens: float | tuple[float, ...] = ()
    weights: dict[str, float] = Field(default_factory=dict)
    tags: frozenset[str] = frozenset()
    flag: bool = False
    gain: Annotated[float, Field(ge=-1, le=1)] | None = None

    def ideal(self) -> Self:
        return self.replace(adc=None)


PLAIN = {"type": "test_design:PlainCell", "g_min_siemens": 1e-6, "g_max_siemens": 4e-5}
CELL = PlainCell(g_min_siemens=1e-6, g_max_siemens=4e-5)
BOARD = Board(cell=CELL)

positive = st.floats(1e-12, 1e12)
cells = st.builds(
    lambda kind, low, span, sigma: kind(g_min_siemens=low, g_max_siemens=low + span, sigma_fraction=sigma),
    st.sampled_from([PlainCell, LeakyCell]),
    st.floats(0, 1),
    st.floats(0.1, 10),
    st.floats(0, 0.99),
)
converters = st.builds(Converter, bits=st.integers(1, 16), policy=st.sampled_from(["fixed", "maximum"]))
names = st.text(min_size=1, max_size=5)
boards = st.builds(
    Board,
    cell=cells,
    spare=st.none() | cells,
    adc=st.none() | converters,
    stages=st.lists(converters, max_size=2).map(tuple),
    by_name=st.dictionaries(names, converters | cells, max_size=2),
    rows=st.integers(1, 10**9),
    voltage_volt=st.none() | positive,
    levels_siemens=st.floats(-1e300, 1e300) | st.lists(st.floats(-1, 1), max_size=3).map(tuple),
    weights=st.dictionaries(names, st.floats(allow_nan=False, allow_infinity=False), max_size=3),
    tags=st.frozensets(names, max_size=3),
    flag=st.booleans(),
)


def error_of(build: Callable[[], object]) -> str:
    with pytest.raises(DesignError) as error:
        build()
    text = str(error.value)
    assert "\n" not in text
    return text


class TestErrors:
    def test_range_upside_down(self) -> None:
        line = error_of(lambda: Board(cell=PLAIN | {"g_min_siemens": "50 uS", "g_max_siemens": "40 uS"}))
        assert line == (
            "Board: `cell.g_min_siemens` must be below `cell.g_max_siemens`, but got 5e-05 and 4e-05; swap them or widen the range"
        )

    @pytest.mark.parametrize(
        ("fields", "line"),
        [
            ({"rowz": 1}, "`rowz` must be a field of Board, but is unknown; did you mean `rows`?"),
            ({"adc": {"bitz": 6}}, "`adc.bitz` must be a field of Converter, but is unknown; did you mean `bits`?"),
            ({"cell": PLAIN | {"sigma": 0}}, "`cell.sigma` must be a field of PlainCell, but is unknown; did you mean `sigma_fraction`?"),
            ({"rows": 0}, "`rows` must be at least 1, but got 0; choose a value in that range"),
            ({"adc": {"bits": 17}}, "`adc.bits` must be at least 1 and at most 16, but got 17; choose a value in that range"),
            ({"gain": 1.5}, "`gain` must be at most 1, but got 1.5; choose a value in that range"),
            ({"rows": True}, "`rows` must be a whole number, but got True; write it as a plain number"),
            ({"rows": "5"}, "`rows` must be a whole number, but got '5'; write it as a plain number"),
            ({"rows": 2.5}, "`rows` must be a whole number, but got 2.5; correct it"),
            ({"rows": None}, "`rows` must be a whole number, but got None; correct it"),
            ({"weights": {"a": True}}, "`weights` must be a number, but got True; write it as a plain number"),
            ({"weights": {"a": None}}, "`weights.a` must be a number, but got None; correct it"),
            ({"flag": 1}, "`flag` must be true or false, but got 1; write it without quotes"),
            ({"voltage_volt": float("nan")}, "`voltage_volt` must be a finite number, but got nan; correct it"),
            ({"voltage_volt": float("inf")}, "`voltage_volt` must be a finite number, but got inf; correct it"),
            (
                {"voltage_volt": "0.2 uS"},
                "`voltage_volt` must be a quantity in volt such as '0.2 V', but got '0.2 uS'; write a number and V",
            ),
            (
                {"adc": {"policy": "maximal"}},
                "`adc.policy` must be 'fixed' or 'maximum', but got 'maximal'; did you mean `maximum`?",
            ),
            ({"adc": {"even": 3}}, "`adc.even` must be even, but got 3; correct it"),
            ({"adc": 6}, "`adc` must be of class Converter or a dict of its fields, but got 6; give one of these"),
            ({"adc": CELL}, f"`adc` must be of class Converter or a dict of its fields, but got {CELL!r}; give one of these"),
            (
                {"cell": {"g_min_siemens": 0}},
                '`cell.type` must name a subclass of ResistiveCell, but is missing; add type = "package.module:Class"',
            ),
            (
                {"cell": {"type": "test_design:Converter"}},
                "`cell.type` must name a subclass of ResistiveCell, but got 'test_design:Converter'; choose from",
            ),
            (
                {"cell": {"type": "test_design:PlaneCell"}},
                "`cell.type` must name a subclass of ResistiveCell, but got 'test_design:PlaneCell'; did you mean `PlainCell`?",
            ),
            (
                {"cell": {"type": "test_design:UnfinishedCell"}},
                "`cell.type` must name a class with all its methods, but got test_design:UnfinishedCell; define drift, read_sigma",
            ),
            (
                {"cell": {"type": "no_such_module:Cell"}},
                "`cell.type` must name a module that can be imported, but got 'no_such_module:Cell' (No module named",
            ),
            (
                {"stages": [{}, {"bits": 0}]},
                "`stages[1].bits` must be at least 1 and at most 16, but got 0; choose a value in that range",
            ),
            ({"stages": [{}, {"bitz": 0}]}, "`stages[1].bitz` must be a field of Converter, but is unknown; did you mean `bits`?"),
            (
                {"by_name": {"left": PLAIN | {"g_max_siemens": 1e-7}}},
                "`by_name.left.g_min_siemens` must be below `by_name.left.g_max_siemens`, but got 1e-06 and 1e-07; swap them",
            ),
            ({"levels_siemens": (1.0, None)}, "`levels_siemens"),
            (
                {"rows": 0, "gain": 3, "adc": {"bitz": 1}},
                "`adc.bitz` must be a field of Converter, but is unknown; did you mean `bits`? (also",
            ),
        ],
    )
    def test_names_the_field_the_value_and_what_is_allowed(self, fields: dict[str, Any], line: str) -> None:
        for build in (
            lambda: Board(**({"cell": CELL} | fields)),
            lambda: Board.from_dict({"cell": CELL} | fields),
            lambda: Design.from_dict({"type": "test_design:Board", "cell": CELL} | fields),
        ):
            assert error_of(build).startswith(f"Board: {line}")

    @pytest.mark.parametrize("fields", [{"rowz": 1}, {"adc": {"bits": 0}}, {"cell": {"sigma_fraction": -1}}, {"cell": 3}])
    def test_replace_reports_the_whole_path_too(self, fields: dict[str, Any]) -> None:
        line = error_of(lambda: BOARD.replace(**fields))
        assert line.startswith(("Board: `rowz`", "Board: `adc.bits`", "Board: `cell.sigma_fraction`", "Board: `cell`"))

    def test_missing(self) -> None:
        assert error_of(lambda: Board.from_dict({})) == "Board: `cell` must be given, but is missing; add it, it has no default"
        line = error_of(lambda: Board(cell={"type": "test_design:PlainCell", "g_min_siemens": 0}))
        assert line.startswith("Board: `cell.g_max_siemens` must be given, but is missing")

    @pytest.mark.parametrize("data", [3, None, [], "text"])
    def test_not_a_dict(self, data: Any) -> None:
        assert error_of(lambda: Design.from_dict(data)).startswith("Design: must be of class Design or a dict of its fields, but got ")

    def test_another_class(self) -> None:
        assert "`type` must be 'test_design:Converter' or absent" in error_of(lambda: Converter(**{"type": "test_design:Board"}))
        assert "`type` must name a subclass of Converter" in error_of(lambda: Converter.from_dict({"type": "test_design:Board"}))
        assert Converter(**{"type": "test_design:Converter"}, bits=3) == Converter(bits=3)

    def test_an_extension_point_cannot_be_built(self) -> None:
        with pytest.raises(TypeError, match="abstract"):
            ResistiveCell(g_min_siemens=0, g_max_siemens=1)  # type: ignore[abstract]

    def test_a_field_cannot_be_called_type(self) -> None:
        with pytest.raises(TypeError, match="must not be called `type`"):
            type("Wrong", (Design,), {"__annotations__": {"type": str}, "__module__": __name__})

    def test_a_default_is_checked(self) -> None:
        class Wrong(Design):
            bits: int = Field(default=0, ge=1)

        assert error_of(Wrong) == "Wrong: `bits` must be at least 1, but got 0; choose a value in that range"

    def test_pydantic_itself_sees_a_validation_error(self) -> None:
        with pytest.raises(ValidationError):
            TypeAdapter(Converter).validate_python({"bits": 0})


class TestValues:
    def test_quantities(self) -> None:
        board = Board(
            cell=PLAIN | {"g_min_siemens": "1 uS", "g_max_siemens": "40 uS"}, voltage_volt="200 mV", levels_siemens=["1 uS", 2e-6]
        )
        assert board == Board(cell=CELL, voltage_volt=0.2, levels_siemens=(1e-6, 2e-6))

    @pytest.mark.parametrize("text", ["none", "None", "NONE"])
    def test_none_turns_off(self, text: str) -> None:
        board = Board(cell=CELL, adc=text, voltage_volt=text)
        assert board.adc is None
        assert board.voltage_volt is None

    def test_none_where_nothing_can_be_off(self) -> None:
        assert error_of(lambda: Board(cell="none")).startswith("Board: `cell` must be of class ResistiveCell")
        assert error_of(lambda: BOARD.replace(rows="none")).startswith("Board: `rows` must be a whole number, but got 'none'")

    def test_numpy_scalars(self) -> None:
        board = BOARD.replace(rows=np.int64(3), voltage_volt=np.float32(0.5), flag=np.True_)
        assert (board.rows, board.voltage_volt, board.flag) == (3, 0.5, True)
        assert type(board.rows) is int

    def test_whole_floats_are_integers(self) -> None:
        assert type(BOARD.replace(rows=3.0).rows) is int

    def test_the_given_dict_is_left_alone(self) -> None:
        given_cell = dict(PLAIN)
        weights = {"a": 1.0}
        board = Board(cell=given_cell, weights=weights)
        weights["a"] = 2.0
        assert given_cell == PLAIN
        assert board.weights == {"a": 1.0}


class TestChanges:
    def test_a_dict_merges(self) -> None:
        changed = BOARD.replace(adc={"policy": "fixed"}, cell={"sigma_fraction": 0.1})
        assert changed.adc == Converter(bits=10, policy="fixed")
        assert changed.cell == PlainCell(g_min_siemens=1e-6, g_max_siemens=4e-5, sigma_fraction=0.1)
        assert BOARD == Board(cell=CELL)

    def test_a_dict_of_numbers_merges(self) -> None:
        assert BOARD.replace(weights={"a": 1, "b": 2}).replace(weights={"b": 3}).weights == {"a": 1, "b": 3}

    def test_depth(self) -> None:
        board = BOARD.replace(by_name={"inner": BOARD, "other": CELL})
        changed = board.replace(by_name={"inner": {"adc": {"bits": 3}}})
        assert changed.by_name == {"inner": BOARD.replace(adc={"bits": 3}), "other": CELL}

    def test_an_instance_replaces(self) -> None:
        assert BOARD.replace(adc=Converter(policy="fixed")).adc == Converter(bits=8, policy="fixed")

    def test_another_type_replaces(self) -> None:
        leaky = {"type": "test_design:LeakyCell", "g_min_siemens": 0, "g_max_siemens": 1}
        assert BOARD.replace(cell=leaky).cell == LeakyCell(g_min_siemens=0, g_max_siemens=1)
        assert "`cell.g_max_siemens` must be given" in error_of(lambda: BOARD.replace(cell={"type": leaky["type"], "g_min_siemens": 0}))

    def test_the_same_type_merges(self) -> None:
        changed = BOARD.replace(cell={"type": "test_design:PlainCell", "sigma_fraction": 0.5})
        assert changed.cell == CELL.replace(sigma_fraction=0.5)

    def test_off_and_on_again(self) -> None:
        off = BOARD.replace(adc=None)
        assert off.adc is None
        assert off.replace(adc={"bits": 4}).adc == Converter(bits=4)
        assert BOARD.ideal() == off

    def test_copies_are_validated(self) -> None:
        assert "`rows` must be at least 1" in error_of(lambda: BOARD.model_copy(update={"rows": 0}))
        assert BOARD.model_copy() == BOARD
        assert BOARD.model_copy(update={"rows": 7}).rows == 7

    def test_frozen(self) -> None:
        line = error_of(lambda: setattr(BOARD, "rows", 3))
        assert line == "Board: `rows` must keep its value, but got 3; designs are frozen: use replace(rows=...)"
        assert "designs are frozen" in error_of(lambda: setattr(BOARD, "rowz", 3))
        assert BOARD.rows == 256


class TestRoundTrips:
    @settings(max_examples=40, deadline=None)
    @given(board=boards)
    def test_dict(self, board: Board) -> None:
        for mode in ("python", "json"):
            written = board.model_dump(mode=mode)
            assert Board.from_dict(written) == board
            assert Board(**written) == board
        assert Board.model_validate_json(board.model_dump_json()) == board
        assert Design.from_dict(json.loads(json.dumps(board.to_toml_dict()))) == board

    @settings(max_examples=40, deadline=None)
    @given(board=boards)
    def test_toml(self, board: Board) -> None:
        assert Design.from_dict(tomllib.loads(tomli_w.dumps(board.to_toml_dict()))) == board

    @settings(max_examples=40, deadline=None)
    @given(board=boards)
    def test_copies(self, board: Board) -> None:
        for twin in (pickle.loads(pickle.dumps(board)), copy.copy(board), copy.deepcopy(board), board.replace()):
            assert twin == board
            assert hash(twin) == hash(board)
            assert twin.fingerprint() == board.fingerprint()

    @settings(max_examples=40, deadline=None)
    @given(board=boards, other=boards)
    def test_equality_is_what_the_fingerprint_says(self, board: Board, other: Board) -> None:
        assert (board == other) == (board.fingerprint() == other.fingerprint())
        assert board != other or hash(board) == hash(other)

    def test_type_is_written_only_where_it_is_open(self) -> None:
        written = BOARD.replace(spare=LeakyCell(g_min_siemens=0, g_max_siemens=1), stages=[{}]).model_dump()
        assert written["cell"]["type"] == "test_design:PlainCell"
        assert written["spare"] == {
            "type": "test_design:LeakyCell", "g_min_siemens": 0.0, "g_max_siemens": 1.0, "sigma_fraction": 0.0, "retention_s": 1.0,
            "pulse_law": None,
        }  # fmt: skip
        assert "type" not in written["adc"]
        assert "type" not in written["stages"][0]
        assert "type" not in written

    def test_a_subclass_in_a_field_of_its_base(self) -> None:
        class Shelf(Design):
            cell: PlainCell

        shelf = Shelf(cell=LeakyCell(g_min_siemens=0, g_max_siemens=1, retention_s=5))
        assert Shelf.from_dict(shelf.model_dump(mode="json")) == shelf


class TestIdentity:
    def test_designs_are_keys(self) -> None:
        table = {BOARD: 1, BOARD.replace(rows=3): 2}
        assert table[Board(cell=CELL)] == 1
        assert len({BOARD.replace(weights={"a": 1, "b": 2}), BOARD.replace(weights={"b": 2, "a": 1})}) == 1

    def test_signed_zero(self) -> None:
        minus, plus = BOARD.replace(gain=-0.0), BOARD.replace(gain=0.0)
        assert minus == plus
        assert hash(minus) == hash(plus)
        assert minus.fingerprint() == plus.fingerprint()

    def test_class_counts(self) -> None:
        class Twin(Converter):
            pass

        assert Twin() != Converter()
        assert Twin().fingerprint() != Converter().fingerprint()

    def test_fingerprint_is_the_same_in_every_process(self) -> None:
        board = BOARD.replace(tags={"alpha", "beta", "gamma", "delta"})
        program = (
            "import test_design as t; board = t.BOARD.replace(tags={'delta', 'gamma', 'beta', 'alpha'});"
            "print(board.fingerprint(), t.Converter().fingerprint())"
        )
        environment = os.environ | {"PYTHONHASHSEED": "12345", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.split() == [board.fingerprint(), "403d6c044fa0a38b"]
        assert Converter().fingerprint() == "403d6c044fa0a38b"


class TestCost:
    def test_absent_is_not_zero(self) -> None:
        row = Cost(layer="head", hardware="Board", term="adc")
        assert (row.energy_j, row.latency_s, row.area_m2, row.bytes, row.operations, row.static) == (None, None, None, None, None, False)

    @pytest.mark.parametrize("value", [-1e-12, float("nan"), float("inf")])
    @pytest.mark.parametrize("name", ["energy_j", "latency_s", "area_m2", "bytes", "operations"])
    def test_refuses(self, name: str, value: float) -> None:
        with pytest.raises(ValueError, match=f"^Argument `{name}` must be finite and at least 0, but got {value}; give None"):
            Cost(layer="head", hardware="Board", term="adc", **{name: value})  # type: ignore[arg-type]
