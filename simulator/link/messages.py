"""Messages on the wire: one small msgpack header, and the bytes of arrays behind it. No pickle, no code.

A message is a list of frames. The first is msgpack of ``[version, checksum, header]``, where ``header`` is msgpack of a map with the keys
``kind``, ``session``, ``number``, ``done``, ``body`` and ``arrays``; every further frame holds the bytes of one array, in the order of
``arrays``, which gives each its name, dtype and shape. The checksum is XXH3 of 64 bits over the header and all frames behind it: it
costs a twentieth of CRC-32, and four of them are on the way of each read.

Where both ends share memory (`simulator.link.shared_memory`), a layout may give an ``offset`` into it, and has no frame. What lies there
has passed no wire that could damage it, so the checksum is over the header, with its offsets, and the frames that there are.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from simulator.link.shared_memory import SharedMemory

if TYPE_CHECKING:
    from simulator.link.headers import ArrayLayout, Header

PROTOCOL = 1
"""Version of the protocol: another one is refused."""
HEADER_BYTES = 1 << 20
"""Longest header; arrays are not in it."""
ARRAYS = 64
"""Most arrays of one message."""
MESSAGE_BYTES = 1 << 30
"""Longest message, unless a server allows more or less."""
DTYPES = ("<f4", "<f8", "|i1", "<i2", "<i4", "<i8", "|u1", "<u2", "<u4", "<u8", "|b1")
"""Numbers that travel: little-endian, nothing that holds a Python object."""

LINE_LENGTH = 2000
"""Letters of a refusal."""

Array = npt.NDArray[Any]
Frame = bytes | memoryview


def one_line(text: str) -> str:
    r"""Return a text as a line that msgpack can hold, cut where it is very long.

    Examples
    --------
    >>> one_line("two\nlines, and half a \ud800 character")
    'two lines, and half a ? character'
    """
    return " ".join(text.split())[:LINE_LENGTH].encode("utf-8", "replace").decode("utf-8")


class MessageError(ValueError):
    """A message that cannot be taken; `code` says why in one word that a program understands, `session` and `number` whose it is."""

    def __init__(self, code: str, text: str, session: bytes = bytes(16), number: int = -1) -> None:
        # Some of it comes from the other end: a line in a log, and one that can be sent.
        super().__init__(one_line(text))
        self.code, self.session, self.number = code, session, number


@dataclass(frozen=True, eq=False)
class Message:
    """A message, decoded.

    Attributes
    ----------
    kind, session, number, done, body
        See `simulator.link.headers.Header`.
    arrays
        Arrays by name; read-only and without a copy where they came in frames, in memory of their own where they came through memory that
        both ends share, unless they are lent.
    """

    kind: str
    session: bytes
    number: int
    done: int = -1
    body: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Array] = field(default_factory=dict)


def encode(message: Message, memory: SharedMemory | None = None) -> list[Frame]:
    """Return a message's frames; arrays are not copied where they are contiguous.

    Parameters
    ----------
    message
        What is to be sent.
    memory
        Where long arrays are put that then need no frame, until the message's number is freed there.

    Raises
    ------
    MessageError
        Where an array is of a dtype that does not travel, or the message is too long for any server.

    Examples
    --------
    >>> frames = encode(Message("read_layer", bytes(16), 3, body={"layer": "head"}, arrays={"inputs": np.zeros((2, 3), np.float32)}))
    >>> len(frames), decode(frames).arrays["inputs"].shape
    (2, (2, 3))
    """
    from simulator.link.headers import pack  # here, as what it needs comes with the extra `link`

    layouts: list[dict[str, Any]] = []
    frames: list[Frame] = []
    for name, array in message.arrays.items():
        if array.dtype.str not in DTYPES:
            raise MessageError("malformed", f"array `{name}` must have one of the dtypes {', '.join(DTYPES)}, but got {array.dtype.str}")
        layouts.append({"name": name, "dtype": array.dtype.str, "shape": list(array.shape)})
        offset = None if memory is None else memory.put(message.number, array)
        if offset is not None:
            layouts[-1]["offset"] = offset
        else:
            frames.append(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data if array.size else b"")
    parts = {"kind": message.kind, "session": message.session, "number": message.number, "done": message.done}
    header = pack({**parts, "body": message.body, "arrays": layouts})
    length = len(header) + sum(map(len, frames))
    if len(header) > HEADER_BYTES - 64 or length > MESSAGE_BYTES or len(layouts) > ARRAYS:
        raise MessageError(
            "too_long",
            f"`{message.kind}` must have at most {MESSAGE_BYTES} bytes, {HEADER_BYTES} of them fields, and {ARRAYS} arrays, "
            f"but has {length}, {len(header)} and {len(layouts)}",
        )
    return [pack([PROTOCOL, checksum((header, *frames)), header]), *frames]


def decode(
    frames: Sequence[Frame],
    limit: int = MESSAGE_BYTES,
    memory_of: Callable[[bytes], SharedMemory | None] = lambda session: None,
    lent: frozenset[str] = frozenset(),
) -> Message:
    """Return the message in some frames; every fault of them is a `MessageError`.

    Nothing is allocated beyond the length of the frames that arrived, as arrays are views of them, and of what lies in shared memory.

    Parameters
    ----------
    frames
        The header's frame and those of the arrays.
    limit
        Most bytes of all frames and arrays together.
    memory_of
        Tells the memory that is shared with a session; by default there is none.
    lent
        Kinds of messages whose arrays stay in shared memory: they are the other end's again when it gets its answer.

    Raises
    ------
    MessageError
        With code "version", "corrupt", "too_long" or "malformed".

    Examples
    --------
    >>> decode([b"not a message"])
    Traceback (most recent call last):
    simulator.link.messages.MessageError: the first frame must be msgpack of [version, checksum, header], but is not
    """
    length = sum(len(frame) for frame in frames)
    if length > limit or (frames and len(frames[0]) > HEADER_BYTES):
        raise MessageError("too_long", f"a message must have at most {limit} bytes and a header of {HEADER_BYTES}, but got {length}")
    header = _read_header(frames)
    count = sum(layout.offset is None for layout in header.arrays)
    if count != len(frames) - 1:
        raise MessageError("malformed", f"a message must have a frame for each of its {count} arrays, but got {len(frames) - 1}")
    arrays: dict[str, Array] = {}
    left = iter(frames[1:])
    for layout in header.arrays:
        if layout.name in arrays:
            raise MessageError("malformed", f"array `{layout.name}` must be there once, but is there twice")
        if layout.offset is None:
            arrays[layout.name] = _framed(layout, next(left))
            continue
        length += math.prod(layout.shape) * np.dtype(layout.dtype).itemsize
        if length > limit:
            raise MessageError("too_long", f"a message must have at most {limit} bytes, but has {length} with what lies in shared memory")
        arrays[layout.name] = _shared(layout, layout.offset, header, memory_of(header.session), header.kind in lent)
    return Message(header.kind, header.session, header.number, header.done, header.body, arrays)


def _framed(layout: "ArrayLayout", frame: Frame) -> Array:
    """Return an array that has a frame, as a view of it."""
    dtype = np.dtype(layout.dtype)
    needed = math.prod(layout.shape) * dtype.itemsize
    if needed != len(frame):
        raise MessageError(
            "malformed", f"array `{layout.name}` of {layout.dtype} {layout.shape} must have {needed} bytes, but got {len(frame)}"
        )
    try:
        array = np.frombuffer(frame, dtype).reshape(layout.shape)
    except ValueError as error:  # a huge shape with a 0 in it has no numbers, but is no array's
        raise MessageError("malformed", f"array `{layout.name}` must have a shape that there is, but has {layout.shape}: {error}") from None
    return _of_truth(layout, array)


def _shared(layout: "ArrayLayout", offset: int, header: "Header", memory: SharedMemory | None, lent: bool) -> Array:
    """Return an array that lies in shared memory."""
    if memory is None:
        text = f"array `{layout.name}` must have a frame, as no memory is shared, but has none; begin a session anew"
        raise MessageError("no_session", text, header.session, header.number)
    try:
        return _of_truth(layout, memory.take(offset, np.dtype(layout.dtype), tuple(layout.shape), lent=lent))
    except ValueError as error:
        raise MessageError("malformed", f"array `{layout.name}` {error}") from None


def _of_truth(layout: "ArrayLayout", array: Array) -> Array:
    if layout.dtype == "|b1" and array.size and array.view(np.uint8).max() > 1:
        raise MessageError("malformed", f"array `{layout.name}` of truth values must hold 0 and 1 only, but holds others")
    return array


def checksum(frames: Sequence[Frame]) -> int:
    """Return XXH3 of 64 bits over all bytes of some frames.

    Examples
    --------
    >>> checksum([]) == 0x2D06800538D394C2  # of no bytes, as the definition of XXH3 gives it
    True
    """
    import xxhash

    state = xxhash.xxh3_64()
    for frame in frames:
        state.update(frame)
    return state.intdigest()


def _read_header(frames: Sequence[Frame]) -> "Header":
    from simulator.link.headers import read_header, unpack

    outer = unpack(frames[0]) if frames else None
    if not isinstance(outer, list) or len(outer) < 1 or type(outer[0]) is not int:
        raise MessageError("malformed", "the first frame must be msgpack of [version, checksum, header], but is not")
    if outer[0] != PROTOCOL:
        raise MessageError(
            "version", f"the protocol must be version {PROTOCOL}, but got version {outer[0]}; install the same inloop on both sides"
        )
    if len(outer) != 3 or type(outer[1]) is not int or not isinstance(outer[2], bytes):
        raise MessageError("malformed", "the first frame must be msgpack of [version, checksum, header], but is not")
    if checksum((outer[2], *frames[1:])) != outer[1]:
        raise MessageError("corrupt", "the checksum must be that of what arrived, but is not: the message was damaged on its way")
    try:
        return read_header(outer[2])
    except ValueError as error:
        raise MessageError("malformed", f"the header must have the fields of the protocol, but {error}") from None


def first_fault(error: ValidationError) -> str:
    """Return the first fault that pydantic found, as part of a sentence.

    Examples
    --------
    >>> from simulator.link.protocol import ProgramLayer
    >>> try:
    ...     ProgramLayer.model_validate({"layer": "1:head", "seed": 7, "trial": 0, "speed": 9})
    ... except ValidationError as error:
    ...     first_fault(error)
    '`speed`: Extra inputs are not permitted'
    """
    found = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in found["loc"])
    return f"`{place}`: {found['msg']}" if place else str(found["msg"])


def as_plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields as msgpack can hold them: NumPy scalars as Python's, tuples as lists.

    Examples
    --------
    >>> as_plain({"rows": np.int64(3), "shape": (1, 2)})
    {'rows': 3, 'shape': [1, 2]}
    """
    return {str(key): _plain(value) for key, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return as_plain(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value
