"""A session with a chip in a file, and the file in the place of the chip."""

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from simulator.link.addresses import LinkError
from simulator.link.messages import Array, Frame, Message, MessageError, decode, encode

MAGIC = b"inloop recording 1\n"
"""First line of a recording."""
SCHEME = "replay:"
"""What an address begins with that names a recording."""
_COUNT, _LENGTH = 4, 8


class Recorder:
    """Writes every request and its answer to a file, in the protocol's own frames without the client's name.

    Each exchange is on the disk before the answer is used, so a recording of a session that broke off holds all until then.

    Parameters
    ----------
    path
        The file, which must not exist: what was measured is not to be lost to the next run.

    Raises
    ------
    ValueError
        Where it exists or cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "session.inloop"
    >>> recorder = Recorder(path)
    >>> recorder.add(Message("ping", bytes(16), 0), Message("answer", bytes(16), 0))
    >>> recorder.close()
    >>> Replay(path).request("ping", {}, {}).kind
    'answer'
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file: IO[bytes] = path.open("xb")
        except OSError as error:
            raise ValueError(
                f"Field `record` must be a file that can be written and does not exist yet, but {str(path)!r} is not ({error.strerror}); "
                "move it away or name another"
            ) from None
        self._file.write(MAGIC)

    def add(self, request: Message, answer: Message) -> None:
        """Write one exchange."""
        for message in (request, answer):
            frames = encode(message)
            self._file.write(len(frames).to_bytes(_COUNT, "little"))
            for frame in frames:
                self._file.write(len(frame).to_bytes(_LENGTH, "little"))
                self._file.write(frame)
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def anonymous(message: Message, number: int) -> Message:
    """Return a message as recordings hold it: without session, numbered within the recording.

    Examples
    --------
    >>> anonymous(Message("ping", b"0123456789abcdef", 88), 0).number
    0
    """
    return Message(message.kind, bytes(16), number, body=message.body, arrays=message.arrays)


class Replay:
    """A recording that answers in the place of its chip: the same requests in the same order get the same answers, bit for bit.

    Parameters
    ----------
    path
        A file that `Recorder` wrote.

    Raises
    ------
    LinkError
        Where the file is none, ends within an exchange, or another request is made than the one recorded.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._exchanges = self._read()
        self._count = 0

    def request(self, kind: str, body: dict[str, Any], arrays: dict[str, Array]) -> Message:
        """Return the recorded answer to a request, which must be the recorded one."""
        asked = encode(Message(kind, bytes(16), self._count, body=body, arrays=arrays))
        recorded, answer = next(self._exchanges, (None, None))
        if recorded is None or answer is None:
            raise LinkError(
                f"the recording {str(self.path)!r} must hold an answer to `{kind}`, but ends after {self._count} requests; "
                "sim.disconnect(chip) begins it anew",
                "replay",
            )
        if [bytes(frame) for frame in recorded] != [bytes(frame) for frame in asked]:
            expected = decode(recorded)
            raise LinkError(
                f"request {self._count} must be the one of the recording {str(self.path)!r}, `{expected.kind}` {_shown(expected.body)}, "
                f"but got `{kind}` {_shown(body)}; run what was recorded, with the same seeds and data",
                "replay",
            )
        self._count += 1
        return decode(answer)

    def _read(self) -> Iterator[tuple[list[Frame], list[Frame]]]:
        try:
            with self.path.open("rb") as file:
                if file.read(len(MAGIC)) != MAGIC:
                    raise LinkError(f"the recording {str(self.path)!r} must begin with {MAGIC.decode().strip()!r}, but does not", "replay")
                while (request := self._frames(file)) is not None:
                    answer = self._frames(file)
                    if answer is None:
                        raise LinkError(f"the recording {str(self.path)!r} must end with an answer, but breaks off", "replay")
                    yield request, answer
        except LinkError:
            raise
        except OSError as error:
            raise LinkError(
                f"the recording {str(self.path)!r} must be a file that can be read, but is not ({error.strerror})", "replay"
            ) from None

    def _frames(self, file: IO[bytes]) -> list[Frame] | None:
        head = file.read(_COUNT)
        if not head:
            return None
        frames: list[Frame] = []
        left = self.path.stat().st_size - file.tell()
        for _ in range(int.from_bytes(head, "little")):
            length = int.from_bytes(file.read(_LENGTH), "little")
            frame = file.read(length) if length <= left else b""
            if len(frame) != length:
                raise LinkError(f"the recording {str(self.path)!r} must end with an answer, but breaks off", "replay")
            frames.append(frame)
        try:
            decode(frames)
        except MessageError as error:
            raise LinkError(f"the recording {str(self.path)!r} must hold messages, but {error}", "replay") from None
        return frames


def _shown(body: dict[str, Any]) -> str:
    parts = (f"{key} {value!r}" for key, value in body.items() if isinstance(value, str | int | float))
    return ", ".join(parts) or "without fields"
