"""The wire format: round trips, and that nothing which is no message does harm."""

import tracemalloc

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from simulator.link.messages import DTYPES, LINE_LENGTH, PROTOCOL, Frame, Message, MessageError, checksum, decode, encode
from simulator.link.protocol import KINDS, read_request

SESSION = bytes(range(16))
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
numbers = st.sampled_from(DTYPES).flatmap(
    lambda dtype: arrays.arrays(np.dtype(dtype), arrays.array_shapes(min_dims=0, max_dims=4, min_side=0))
)


def sealed(header: object, *frames: bytes, version: int = PROTOCOL) -> list[Frame]:
    """Frames with a right checksum around a header that may be anything."""
    packed = msgpack.packb(header)
    return [msgpack.packb([version, checksum((packed, *frames)), packed]), *frames]


@given(st.text(max_size=20), st.integers(-1, 2**40), st.dictionaries(st.text(max_size=8), plain, max_size=4), st.lists(numbers, max_size=3))
def test_a_message_comes_back_as_it_went(kind: str, number: int, body: dict[str, object], values: list[np.ndarray]) -> None:  # type: ignore[type-arg]
    sent = Message(kind, SESSION, number, number - 1 if number >= 0 else -1, body, {f"a{i}": value for i, value in enumerate(values)})
    found = decode([bytes(frame) for frame in encode(sent)])
    assert (found.kind, found.session, found.number, found.done, found.body) == (kind, SESSION, number, sent.done, body)
    for name, value in sent.arrays.items():
        assert found.arrays[name].dtype == value.dtype and found.arrays[name].shape == value.shape
        assert found.arrays[name].tobytes() == value.tobytes()


def test_an_array_that_is_not_contiguous_travels_by_value() -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4).T[::2]
    assert np.array_equal(decode(encode(Message("x", SESSION, 0, arrays={"v": values}))).arrays["v"], values)


@given(st.binary(max_size=200), st.lists(st.binary(max_size=50), max_size=3))
def test_bytes_that_are_no_message_are_refused(first: bytes, others: list[bytes]) -> None:
    with pytest.raises(MessageError):
        decode([first, *others])


@given(st.dictionaries(st.sampled_from(["kind", "session", "number", "done", "body", "arrays", "other"]), plain | st.binary(max_size=16)))
def test_a_header_of_other_fields_is_refused_with_its_first_fault(header: dict[str, object]) -> None:
    # A header of only these parts lacks the fields of an array's layout, so it is whole only where it is one without arrays.
    with pytest.raises(MessageError) as refusal:
        decode(sealed({**header, "other": 1}))
    assert refusal.value.code == "malformed"


LAYOUT = {"name": "v", "dtype": "<f4", "shape": [0]}


@pytest.mark.parametrize(
    ("part", "largest", "beyond"),
    [
        ("kind", "k" * 32, "k" * 33),
        ("session", SESSION, SESSION[1:]),
        ("session", SESSION, SESSION + b"0"),
        ("session", SESSION, SESSION.decode("ascii")),
        ("number", -1, -2),
        ("number", (1 << 62) - 1, 1 << 62),
        ("number", 7, 7.0),
        ("number", 1, True),
        ("done", -1, -2),
        ("body", {"a": 1}, {1: "a"}),
        ("body", {}, None),
        ("arrays", [LAYOUT], [LAYOUT | {"name": "v" * 65}]),
        ("arrays", [LAYOUT | {"shape": [0] * 8}], [LAYOUT | {"shape": [0] * 9}]),
        ("arrays", [LAYOUT], [LAYOUT | {"shape": [True]}]),
        ("arrays", [LAYOUT], [LAYOUT | {"shape": [1 << 40]}]),
        ("arrays", [LAYOUT], [LAYOUT | {"offset": -64}]),
        ("arrays", [LAYOUT], [LAYOUT | {"offset": "0"}]),
        ("arrays", [LAYOUT | {"name": f"v{n}"} for n in range(64)], [LAYOUT | {"name": f"v{n}"} for n in range(65)]),
    ],
)
def test_a_header_within_its_limits_is_taken_and_none_beyond_them(part: str, largest: object, beyond: object) -> None:
    header = {"kind": "x", "session": SESSION, "number": 0, "body": {}, "arrays": []}
    frames = [b""] * len(largest) if part == "arrays" and isinstance(largest, list) else []
    assert decode(sealed({**header, part: largest}, *frames)).kind
    frames = [b""] * len(beyond) if part == "arrays" and isinstance(beyond, list) else []
    with pytest.raises(MessageError, match="the header must have the fields of the protocol, but") as refusal:
        decode(sealed({**header, part: beyond}, *frames))
    assert refusal.value.code == "malformed"


@given(st.data())
@settings(max_examples=200)
def test_any_bit_that_changes_is_seen(data: st.DataObject) -> None:
    frames = [
        bytearray(frame) for frame in encode(Message("read_cells", SESSION, 7, 6, {"tile": 0}, {"volts": np.ones((3, 2), np.float32)}))
    ]
    frame = data.draw(st.sampled_from(range(len(frames))))
    place = data.draw(st.integers(0, len(frames[frame]) - 1))
    frames[frame][place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(MessageError):
        decode([bytes(part) for part in frames])


@pytest.mark.parametrize(
    ("layout", "frame"),
    [
        ({"name": "v", "dtype": "<f4", "shape": [1 << 39, 1 << 39]}, b""),
        ({"name": "v", "dtype": "<f4", "shape": [1 << 34]}, b"1234"),
        ({"name": "v", "dtype": "<f4", "shape": [0, 1 << 39, 1 << 39]}, b""),
        ({"name": "v", "dtype": "<f4", "shape": [1 << 39, 1 << 39, 0]}, b""),
        ({"name": "v", "dtype": "|O", "shape": [1]}, bytes(8)),
        ({"name": "v", "dtype": "<f4", "shape": [-1]}, bytes(4)),
        ({"name": "v", "dtype": "|b1", "shape": [2]}, b"\x01\x02"),
        ({"name": "v", "dtype": "<f4", "shape": [1], "order": "F"}, bytes(4)),
    ],
)
def test_a_layout_that_does_not_fit_its_bytes_is_refused_without_allocating(layout: dict[str, object], frame: bytes) -> None:
    frames = sealed({"kind": "x", "session": SESSION, "number": 0, "body": {}, "arrays": [layout]}, frame)
    tracemalloc.start()
    with pytest.raises(MessageError):
        decode(frames)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_claim_of_huge_length_within_msgpack_is_refused_without_allocating() -> None:
    claims = [b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\x91" * 100_000]
    tracemalloc.start()
    for claim in claims:
        with pytest.raises(MessageError):
            decode([claim])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 24


@pytest.mark.parametrize("opening", [b"\x91", b"\x81\xa1a"], ids=["lists", "maps"])
def test_a_body_that_is_nested_deeply_is_refused(opening: bytes) -> None:
    body = b"\x81\xa1a" + opening * 50_000 + b"\xc0"
    header = msgpack.packb({"kind": "x", "session": SESSION, "number": 0, "body": None, "arrays": []}).replace(
        b"\xa4body\xc0", b"\xa4body" + body
    )
    with pytest.raises(MessageError, match="the header must have the fields of the protocol") as refusal:
        decode([msgpack.packb([PROTOCOL, checksum((header,)), header])])
    assert refusal.value.code == "malformed"


def test_a_refusal_is_one_line_that_can_be_sent() -> None:
    with pytest.raises(MessageError) as refusal:
        decode(sealed({"kind": "x", "session": SESSION, "number": 0, "two\nlines" + "x" * 9000: 1}))
    text = str(refusal.value)
    assert "two lines" in text and "\n" not in text and len(text) <= LINE_LENGTH
    half = encode(Message("error", SESSION, 0, body={"text": str(MessageError("malformed", "half \ud800"))}))
    assert decode(half).body["text"] == "half ?"


def test_another_version_is_refused_as_such() -> None:
    with pytest.raises(MessageError, match="version 1, but got version 2") as refusal:
        decode(sealed({"kind": "ping"}, version=2))
    assert refusal.value.code == "version"


def test_a_message_longer_than_the_limit_is_refused() -> None:
    frames = encode(Message("ping", SESSION, 0, arrays={"v": np.zeros(1000)}))
    with pytest.raises(MessageError, match="at most 4000 bytes"):
        decode(frames, limit=4000)


@pytest.mark.parametrize("kind", KINDS)
def test_every_request_refuses_a_field_that_is_unknown(kind: str) -> None:
    with pytest.raises(MessageError):
        read_request(Message(kind, SESSION, 0, body={"unknown": 1}))


def test_a_request_refuses_arrays_that_are_not_its_own() -> None:
    body = {"tile": 0, "read": 1}
    with pytest.raises(MessageError, match="must have these arrays: volts, but got none"):
        read_request(Message("read_cells", SESSION, 0, body=body))
    with pytest.raises(MessageError, match="must be one of hello"):
        read_request(Message("format_disk", SESSION, 0))
