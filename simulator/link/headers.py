"""The header of a message: its fields, checked while they are read."""

from typing import Annotated, Any, Final, Literal

from msgspec import Meta, MsgspecError, Struct, ValidationError
from msgspec.msgpack import Decoder, Encoder

from simulator.link.messages import ARRAYS, DTYPES, Frame

Short = Annotated[str, Meta(max_length=64)]
Size = Annotated[int, Meta(ge=0, lt=1 << 40)]
Number = Annotated[int, Meta(ge=-1, lt=1 << 62)]


class ArrayLayout(Struct, frozen=True, forbid_unknown_fields=True):
    """How the bytes of one frame are read.

    Attributes
    ----------
    name
        What the array is called in its message.
    dtype
        One of `simulator.link.messages.DTYPES`.
    shape
        Its shape; the product times the item's size is the frame's length.
    offset
        Where it lies in the memory that both ends share; None where it has a frame.
    """

    name: Short
    dtype: Literal[DTYPES]  # type: ignore[valid-type]
    shape: Annotated[list[Size], Meta(max_length=8)]
    offset: Size | None = None


class Header(Struct, frozen=True, forbid_unknown_fields=True):
    """What a message says beside its arrays.

    Attributes
    ----------
    kind
        What is asked or answered; see `simulator.link.protocol`.
    session
        16 random bytes of the client.
    number
        Number of the request within its session; an answer bears that of its request, -1 where none could be read.
    done
        Answers of this session up to this number have arrived: the server may forget them.
    body
        Fields of the message.
    arrays
        Layouts of the frames that follow.
    """

    kind: Annotated[str, Meta(max_length=32)]
    session: Annotated[bytes, Meta(min_length=16, max_length=16)]
    number: Number
    done: Number = -1
    body: dict[str, Any] = {}
    arrays: Annotated[list[ArrayLayout], Meta(max_length=ARRAYS)] = []


_PLAIN: Final = Decoder()
_HEADER: Final = Decoder(Header)
pack: Final = Encoder().encode
"""Return plain values, or a header, as msgpack."""


def unpack(data: Frame) -> Any:
    """Return the plain values in msgpack; None where it is none.

    Examples
    --------
    >>> unpack(pack([1, b"two"])), unpack(b"")
    ([1, b'two'], None)
    """
    try:
        return _PLAIN.decode(data)
    except (ValueError, RecursionError, MsgspecError):
        return None


def read_header(data: Frame) -> Header:
    """Return the header in msgpack.

    Raises
    ------
    ValueError
        With the first fault, as part of a sentence.

    Examples
    --------
    >>> read_header(pack({"kind": "ping", "session": bytes(16), "number": 0, "speed": 9}))
    Traceback (most recent call last):
    ValueError: Object contains unknown field `speed`
    """
    try:
        return _HEADER.decode(data)
    except ValidationError as error:
        raise ValueError(str(error)) from None
    except (ValueError, RecursionError, MsgspecError):
        raise ValueError("it is not msgpack") from None
