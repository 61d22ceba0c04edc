"""What can be asked of a chip over a link, and what each request carries.

| request | body | arrays | needs the lease | answer |
|---|---|---|---|---|
| ``hello`` | client, holder, replaces | | no | instance, message_bytes |
| ``goodbye`` | | | no | the same; the session and its layers are forgotten |
| ``share`` | | | no | a `SharedPlace`; nothing where the server shares nothing |
| ``shared`` | token | | no | shared: whether it lies in the memory; long arrays then pass by that, short messages by pipes |
| ``ping`` | | any | no | the same arrays |
| ``describe`` | | | no | a `Description` |
| ``status`` | | | no | what the device says of itself, the lease |
| ``acquire``, ``release`` | | | | the lease |
| ``open_layer`` | layer, name, seed, kind, operator, note | weight | yes | placement |
| ``observe_layer`` | layer, first | inputs | yes | |
| ``calibrate_layer`` | layer, source | | yes | warnings, ranges |
| ``program_layer`` | layer, seed, trial | | yes | state |
| ``read_layer`` | layer, state, read | inputs | yes | outputs |
| ``nudge_layer`` | layer, state, step, most | change | yes | spent; what is left of the change |
| ``age_layer`` | layer, state, seconds | | yes | |
| ``cost_layer`` | layer | inputs, outputs | yes | rows |
| ``save_layer`` | layer | | yes | everything but the weights, as a tree and arrays |
| ``load_layer`` | layer, tree | what ``save_layer`` gave | yes | |
| ``close_layer`` | layer | | yes | |
| ``program_cells`` | tile, seed, trial | targets (siemens) | yes | |
| ``pulse_cells`` | tile, step | pulses | yes | |
| ``read_cells`` | tile, read | volts | yes | amperes |
| ``age_cells`` | seconds | | yes | |
| ``reset`` | | | yes | |

Layers are weights in the unit of the model, which the device maps onto its arrays itself; cells are conductances of one tile, and
what a laboratory's array offers. A device may offer either or both. A request is done once however often it arrives: the server keeps
each answer until the client has said, in ``done``, that it got it.

A client in another language opens a ZeroMQ DEALER socket, chooses 16 random bytes as its ``session`` and counts its requests from 0 in
``number``; frames are those of `simulator.link.messages`, without an empty delimiter before them. The first request is ``hello``. What
is done comes back as kind ``answer`` with the fields and arrays of the table; what is refused as kind ``error`` with ``code`` and
``text``, under the request's number, or -1 where none could be read. Codes: ``version``, ``corrupt``, ``malformed``, ``too_long`` and
``unknown`` of messages that cannot be taken (one that was ``corrupt`` is sent again as it was); ``no_session``, ``too_many`` and
``reused`` of sessions and numbers; ``lease``; ``not_open``, ``not_programmed`` and ``not_mapped`` of layers; ``input`` and ``device`` of
what the device itself refuses. ``kind`` of a layer is text for people, as ``Linear``; a layer's handle is the client's own choice.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from simulator.link.messages import Message, MessageError, first_fault

Name = Annotated[str, Field(min_length=1, max_length=256)]
Count = Annotated[int, Field(ge=0, lt=1 << 62)]
Pipe = Annotated[list[Count], Field(min_length=2, max_length=2)]


class Request(BaseModel):
    """Fields of a request; what is not listed is refused.

    Attributes
    ----------
    arrays
        Names of the arrays that must come with it.
    needs_lease
        Whether only the client that holds the lease may ask.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Hello(Request):
    """The first request of a session, and the first after the connection was lost.

    ``holder`` is shared by sessions that share a lease, as those of one process and its workers do; ``replaces`` names one that failed,
    which it ends.
    """

    client: Annotated[str, Field(max_length=256)]
    holder: Annotated[bytes, Field(min_length=16, max_length=16)] | None = None
    replaces: Annotated[bytes, Field(min_length=16, max_length=16)] | None = None


class Nothing(Request):
    """A request without fields."""


class Shared(Request):
    """Say what lies at the place that ``share`` told, to show that it was found; nothing where it was not."""

    token: Annotated[bytes, Field(max_length=64)]


class SharedPlace(Request):
    """Where a server's memory and pipes are found by a client on the same machine.

    ``descriptor`` and ``name`` are of the memory (`simulator.link.shared_memory`), ``requests`` and ``answers`` the descriptor and the
    number of each pipe (`simulator.link.pipes`); a client that uses them gives its socket its session's name as identity, and
    writes each message to its pipe at once, as a packet (``O_DIRECT``).
    """

    process: Annotated[int, Field(ge=1, lt=1 << 31)]
    descriptor: Annotated[int, Field(ge=0, lt=1 << 31)]
    name: Name
    requests: Pipe
    answers: Pipe


Counts = Annotated[list[Annotated[int, Field(ge=0, lt=1 << 31)]], Field(max_length=6)]


class Operator(Request):
    """The linear map that weights are in, with torch's words; ``dimensions`` is 0 for a linear layer, which needs nothing else.

    A convolution of so many dimensions has as many ``stride``, ``padding`` and ``dilation``. What zeros cannot express is laid around the
    input first: ``padding_mode`` and the widths ``border``, last axis first.
    """

    dimensions: Annotated[int, Field(ge=0, le=3)]
    stride: Counts = []
    padding: Counts = []
    dilation: Counts = []
    groups: Annotated[int, Field(ge=1, lt=1 << 31)] = 1
    padding_mode: Literal["constant", "reflect", "replicate", "circular"] = "constant"
    border: Counts = []

    @model_validator(mode="after")
    def _has_a_number_for_each_dimension(self) -> Self:
        if not len(self.stride) == len(self.padding) == len(self.dilation) == self.dimensions or 0 in self.stride + self.dilation:
            raise ValueError(f"stride, padding and dilation must have {self.dimensions} numbers each, the first and last above 0")
        if len(self.border) not in (0, 2 * self.dimensions):
            raise ValueError(f"border must have {2 * self.dimensions} numbers or none")
        return self


class OpenLayer(Request):
    """Take the weights of a layer, or new weights for one that is open.

    ``layer`` is the client's handle, unique to one copy of a chip; ``name`` is the layer's name in the model, which keys its noise.
    """

    layer: Name
    name: Name
    seed: Count
    kind: Annotated[str, Field(max_length=64)]
    operator: Operator
    note: Annotated[str, Field(max_length=1024)] = ""


class OneLayer(Request):
    """A request about a layer that was opened."""

    layer: Name


class ObserveLayer(OneLayer):
    """Look at inputs on which converter ranges will be chosen; ``first`` forgets what was observed before."""

    first: bool


class LoadLayer(OneLayer):
    """Bring a layer into a state that was saved."""

    tree: dict[str, Any]


class CalibrateLayer(OneLayer):
    """Choose the layer's converter ranges from what was observed."""

    source: Annotated[str, Field(max_length=256)]


class ProgramLayer(OneLayer):
    """Program the layer's weights; equal seeds and trials give equal bits where the device is simulated."""

    seed: Count
    trial: Count


class ReadLayer(OneLayer):
    """Multiply inputs by the layer's weights; ``state`` is what programming answered, ``read`` counts the reads since then."""

    state: Name
    read: Count


class NudgeLayer(OneLayer):
    """Move the layer's cells by the whole pulses that a change of its weights is worth, ``most`` of them if that is not -1."""

    state: Name
    step: Count
    most: Annotated[int, Field(ge=-1, lt=1 << 62)]


class AgeLayer(OneLayer):
    """Let simulated time pass for a layer."""

    state: Name
    seconds: Annotated[float, Field(ge=0)]


class ProgramCells(Request):
    """Program the cells of a tile to conductances."""

    tile: Count
    seed: Count
    trial: Count


class PulseCells(Request):
    """Send each cell of a tile a number of pulses, potentiating above zero."""

    tile: Count
    step: Count


class ReadCells(Request):
    """Drive a tile's rows with voltages and read the columns' currents."""

    tile: Count
    read: Count


class AgeCells(Request):
    """Let simulated time pass for all cells."""

    seconds: Annotated[float, Field(ge=0)]


_KINDS: dict[str, tuple[type[Request], tuple[str, ...] | None, bool]] = {
    "hello": (Hello, (), False),
    "goodbye": (Nothing, (), False),
    "share": (Nothing, (), False),
    "shared": (Shared, (), False),
    "ping": (Nothing, None, False),
    "describe": (Nothing, (), False),
    "status": (Nothing, (), False),
    "acquire": (Nothing, (), True),
    "release": (Nothing, (), False),
    "open_layer": (OpenLayer, ("weight",), True),
    "observe_layer": (ObserveLayer, ("inputs",), True),
    "calibrate_layer": (CalibrateLayer, (), True),
    "program_layer": (ProgramLayer, (), True),
    "read_layer": (ReadLayer, ("inputs",), True),
    "nudge_layer": (NudgeLayer, ("change",), True),
    "age_layer": (AgeLayer, (), True),
    "cost_layer": (OneLayer, ("inputs", "outputs"), True),
    "save_layer": (OneLayer, (), True),
    "load_layer": (LoadLayer, None, True),
    "close_layer": (OneLayer, (), True),
    "program_cells": (ProgramCells, ("targets",), True),
    "pulse_cells": (PulseCells, ("pulses",), True),
    "read_cells": (ReadCells, ("volts",), True),
    "age_cells": (AgeCells, (), True),
    "reset": (Nothing, (), True),
}

KINDS = tuple(_KINDS)
"""Every request that there is."""


def needs_lease(kind: str) -> bool:
    """Return whether only the holder of the lease may ask this.

    Examples
    --------
    >>> needs_lease("read_layer"), needs_lease("status")
    (True, False)
    """
    return _KINDS[kind][2]


def read_request(message: Message) -> Request:
    """Return a message's fields, checked; the first fault is the error.

    Raises
    ------
    MessageError
        With code "unknown" where there is no such request, "malformed" where a field or an array is missing or not allowed.

    Examples
    --------
    >>> read_request(Message("program_layer", bytes(16), 1, body={"layer": "head", "seed": 7, "trial": 0})).seed
    7
    """
    if message.kind not in _KINDS:
        raise MessageError("unknown", f"a request must be one of {', '.join(KINDS)}, but got {message.kind!r}")
    fields, arrays, _ = _KINDS[message.kind]
    if arrays is not None and set(arrays) != set(message.arrays):
        needed = ", ".join(arrays) or "none"
        raise MessageError("malformed", f"`{message.kind}` must have these arrays: {needed}, but got {', '.join(message.arrays) or 'none'}")
    try:
        return fields.model_validate(message.body)
    except ValidationError as error:
        raise MessageError("malformed", f"`{message.kind}` must have its own fields, but {first_fault(error)}") from None
