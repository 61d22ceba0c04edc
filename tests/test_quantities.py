"""Quantities against exact rational arithmetic, and the strict reading of values."""

from decimal import Decimal
from fractions import Fraction
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from devices.quantities import PREFIXES, format_quantity, kinds_of, load_class, nearest, parse_quantity, read_value, unit_of

SYMBOLS = {
    "siemens": "S", "second": "s", "ohm": "ohm", "volt": "V", "ampere": "A", "farad": "F", "watt": "W", "joule": "J", "kelvin": "K",
    "hertz": "Hz", "meter": "m", "square meter": "m2",
}  # fmt: skip
FLOAT = frozenset({"float"})


class TestParse:
    @pytest.mark.parametrize(
        ("text", "unit", "value"),
        [
            ("20 uS", "siemens", 20e-6),
            ("20uS", "siemens", 20e-6),
            (" 20 \u00b5S ", "siemens", 20e-6),
            ("20 \u03bcS", "siemens", 20e-6),
            ("5 ns", "second", 5e-9),
            ("2 h", "second", 7200.0),
            ("1.8 ohm", "ohm", 1.8),
            ("1.8 k\u03a9", "ohm", 1800.0),
            ("1.8k\u2126", "ohm", 1800.0),
            ("-.2 V", "volt", -0.2),
            ("6.1 fJ", "joule", 6.1e-15),
            ("40 nm", "meter", 40e-9),
            ("5 m", "meter", 5.0),
            ("2 um2", "square meter", 2e-12),
            ("2 mm^2", "square meter", 2e-6),
            ("1e-3 km\u00b2", "square meter", 1e3),
            ("1.28 GHz", "hertz", 1.28e9),
            ("300 kelvin", "kelvin", 300.0),
            ("3.E2 mA", "ampere", 0.3),
            ("2 aF", "farad", 2e-18),
            ("+1 TW", "watt", 1e12),
        ],
    )
    def test_is_the_literal(self, text: str, unit: str, value: float) -> None:
        assert parse_quantity(text, unit) == value

    @given(
        digits=st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**6), max_value=10**6, places=6),
        prefix=st.sampled_from(sorted(PREFIXES)),
        unit=st.sampled_from(sorted(SYMBOLS)),
    )
    def test_is_correctly_rounded(self, digits: Decimal, prefix: str, unit: str) -> None:
        power = PREFIXES[prefix] * (2 if unit == "square meter" else 1)
        assert parse_quantity(f"{digits:f} {prefix}{SYMBOLS[unit]}", unit) == float(Fraction(digits) * Fraction(10) ** power)

    @pytest.mark.parametrize(
        ("text", "unit"),
        [
            ("20", "siemens"),
            ("20 us", "siemens"),
            ("20 V", "siemens"),
            ("20 mS", "second"),
            ("5 nm", "square meter"),
            ("5 nm2", "meter"),
            ("", "volt"),
            ("V", "volt"),
            ("nan V", "volt"),
            ("inf V", "volt"),
            ("1e9999 V", "volt"),
            ("0x10 V", "volt"),
            ("1_0 V", "volt"),
            ("1,5 V", "volt"),
            ("\u0662 V", "volt"),
            ("1 V\n2 V", "volt"),
            ("1 xV", "volt"),
            ("1 kmin", "second"),
        ],
    )
    def test_refuses(self, text: str, unit: str) -> None:
        with pytest.raises(ValueError, match=rf"^must be a quantity in {unit} such as '.*', but got .*; write a number and \S+, ") as error:
            parse_quantity(text, unit)
        assert repr(text) in str(error.value)
        assert "\n" not in str(error.value)


class TestFormat:
    @given(value=st.floats(allow_nan=False, allow_infinity=False), unit=st.sampled_from(sorted(SYMBOLS)))
    def test_round_trip(self, value: float, unit: str) -> None:
        assert parse_quantity(format_quantity(value, unit), unit) == value

    @given(value=st.floats(1e-17, 9e14), unit=st.sampled_from(sorted(set(SYMBOLS) - {"square meter"})))
    def test_has_one_to_three_digits_before_the_point(self, value: float, unit: str) -> None:
        assert 1 <= float(format_quantity(value, unit).split()[0]) < 1000

    @pytest.mark.parametrize(
        ("value", "unit", "text"),
        [(225e-6, "siemens", "225 uS"), (-0.25, "volt", "-250 mV"), (1e3, "ohm", "1 kohm"), (1200e-12, "square meter", "1200 um2")],
    )
    def test_examples(self, value: float, unit: str, text: str) -> None:
        assert format_quantity(value, unit) == text

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_refuses(self, value: float) -> None:
        with pytest.raises(ValueError, match="must be finite"):
            format_quantity(value, "volt")


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("g_min_siemens", "siemens"),
        ("read_pulse_s", "second"),
        ("period_seconds", "second"),
        ("write_pulse_j", "joule"),
        ("joule_per_step", "joule"),
        ("pitch_m", "meter"),
        ("cell_area_m2", "square meter"),
        ("sample_rate_hertz", "hertz"),
        ("wire_ohm_per_m", None),
        ("volt_per_second", None),
        ("sigma_coefficients_microsiemens", None),
        ("rows", None),
        ("m", None),
        ("weights_per_row", None),
    ],
)
def test_unit_of(name: str, unit: str | None) -> None:
    assert unit_of(name) == unit


class TestReadValue:
    @pytest.mark.parametrize("value", [True, False, "1.0", "", b"1", np.True_, [True], ("1",), {"a": "2"}])
    @pytest.mark.parametrize("kind", ["float", "int"])
    def test_nothing_passes_for_a_number(self, value: object, kind: str) -> None:
        with pytest.raises(ValueError, match=r"must be a (whole )?number, but got"):
            read_value(value, frozenset({kind}), None)

    @pytest.mark.parametrize("value", [0, 1, "true", "no", 1.0])
    def test_nothing_passes_for_a_bool(self, value: object) -> None:
        with pytest.raises(ValueError, match="must be true or false, but got"):
            read_value(value, frozenset({"bool"}), None)

    @pytest.mark.parametrize(
        ("value", "kinds", "unit", "read"),
        [
            (np.float32(0.5), FLOAT, None, 0.5),
            (np.int64(3), frozenset({"int"}), None, 3),
            (np.True_, frozenset({"bool"}), None, True),
            (True, frozenset({"bool", "int"}), None, True),
            (("1 V", 2), FLOAT, "volt", (1.0, 2)),
            ({"a": "1 V"}, FLOAT, "volt", {"a": 1.0}),
            (" NONE ", frozenset({"float", "none"}), "volt", None),
            ("none", frozenset({"other"}), None, "none"),
            (None, FLOAT, None, None),
            ({"bits": True}, frozenset({"design", "float"}), None, {"bits": True}),
        ],
    )
    def test_reads(self, value: object, kinds: frozenset[str], unit: str | None, read: object) -> None:
        result = read_value(value, kinds, unit)
        assert result == read
        assert type(result) is type(read)

    def test_none_is_refused_where_none_is_not_allowed(self) -> None:
        with pytest.raises(ValueError, match="'none'"):
            read_value("none", FLOAT, "volt")


class Inner(BaseModel):
    pass


class Outer(BaseModel):
    number: float | tuple[float, ...] | None
    inner: dict[str, Inner] | None
    choice: Literal["a", 1]
    mapping: dict[str, int]


@pytest.mark.parametrize(
    ("name", "kinds"), [("number", {"float", "none"}), ("inner", {"design", "none"}), ("choice", {"other"}), ("mapping", {"int"})]
)
def test_kinds_of(name: str, kinds: set[str]) -> None:
    assert kinds_of(Outer, name) == kinds


def test_nearest() -> None:
    assert nearest("wan_natur_2022", ["milo_irps_2021", "wan_nature_2022"]) == "did you mean `wan_nature_2022`?"
    assert nearest("q", ["alpha", "beta"]) == "choose from alpha, beta"
    assert nearest("q", []) == "there is nothing to choose from"


@pytest.mark.parametrize("path", ["pydantic", "pydantic:", ":BaseModel", ".models:A", 3, None, "no_such_module:A", "math:pi", "math:tau.x"])
def test_load_class_refuses(path: object) -> None:
    with pytest.raises(ValueError, match=r"^`type` must .*, but got .*; ") as error:
        load_class(path, BaseModel)
    assert repr(path) in str(error.value)


def test_load_class_takes_a_class() -> None:
    assert load_class(Inner, BaseModel) is Inner
    with pytest.raises(ValueError, match="subclass of Inner"):
        load_class(Outer, Inner)
