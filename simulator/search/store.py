"""The journal of a sweep: one writer, a line for each evaluation, found again by the content of what was evaluated."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

FORMAT = 1
"""Of the journal; a journal of a later format is refused."""
JOURNAL, LOCK = "evaluations.jsonl", ".lock"
KIND = "inloop sweep"


class SweepError(ValueError):
    """A sweep that cannot be run; the message is one line."""


@dataclass(frozen=True, slots=True)
class Row:
    """An evaluation as the store remembers it.

    Attributes
    ----------
    start, stop
        Chips that were measured.
    values
        What was returned; None where it failed.
    error
        The failure in one line.
    seconds
        How long it took.
    offset
        Where its line begins in the journal, which also has the traceback and the configuration.
    """

    start: int
    stop: int
    values: dict[str, float | list[float]] | None
    error: str
    seconds: float
    offset: int


class Store:
    """A folder with the evaluations of one or several sweeps; made by `opened_store`.

    Parameters
    ----------
    path
        The folder; None keeps everything in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self._rows: dict[str, list[Row]] = {}
        self._asked: dict[tuple[str, int], list[dict[str, Any]]] = {}
        self._described: set[str] = set()
        self._dropped: set[tuple[str, str]] = set()
        self._failures: list[dict[str, Any]] = []
        self._file: IO[bytes] | None = None
        if path is not None:
            self._file = self._open(path / JOURNAL)

    def rows(self, key: str) -> list[Row]:
        """Return the evaluations under a key."""
        return self._rows.get(key, [])

    def __len__(self) -> int:
        return sum(len(rows) for rows in self._rows.values())

    def add(self, key: str, row: dict[str, Any]) -> Row:
        """Add an evaluation; it is on the disk when this returns."""
        return self._remember({"key": key, **row}, self._append({"key": key, **row}))

    def asked(self, sweep: str, batch: int) -> list[dict[str, Any]] | None:
        """Return the proposals of a batch of a sweep, None where it was not reached."""
        return self._asked.get((sweep, batch))

    def about(self, sweep: str, described: dict[str, Any]) -> None:
        """Keep what a sweep is for: its goals and its space, for those who read the journal later."""
        if sweep not in self._described:
            self._described.add(sweep)
            self._append({"sweep": sweep, "about": described})

    def drop(self, sweep: str, keys: list[str]) -> None:
        """Keep which designs a sweep measures no further, for those who read the journal."""
        new = [key for key in dict.fromkeys(keys) if (sweep, key) not in self._dropped]
        if new:
            self._dropped.update((sweep, key) for key in new)
            self._append({"of": sweep, "dropped": new})

    def ask(self, sweep: str, batch: int, proposals: list[dict[str, Any]]) -> None:
        """Keep the proposals of a batch, before any of them is evaluated."""
        self._append({"sweep": sweep, "batch": batch, "proposals": proposals})
        self._asked[sweep, batch] = proposals

    def line(self, offset: int) -> dict[str, Any]:
        """Return a whole line of the journal; in memory only failures are kept, with their tracebacks."""
        if self.path is None:
            return self._failures[-offset - 2] if offset < -1 else {}
        with (self.path / JOURNAL).open("rb") as file:
            file.seek(offset)
            found: dict[str, Any] = json.loads(file.readline())
        return found

    def close(self) -> None:
        """Close the journal."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self, path: Path) -> IO[bytes]:
        file = path.open("a+b")
        file.seek(0)
        offset = whole = 0
        first = True
        for line in file:
            if line.endswith(b"\n"):
                self._read(line, offset, first)
                whole = offset + len(line)
                first = False
            offset += len(line)
        if whole < offset:
            file.truncate(whole)  # a line that a kill tore is as if it were not there
        file.seek(0, os.SEEK_END)
        self._file = file
        if first:
            self._append({"kind": KIND, "format": FORMAT})
        return file

    def _read(self, line: bytes, offset: int, first: bool) -> None:
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if first:
            check_header(row, self.path)
        elif isinstance(row, dict) and "key" in row:
            self._remember(row, offset)
        elif isinstance(row, dict) and "about" in row:
            self._described.add(row["sweep"])
        elif isinstance(row, dict) and "dropped" in row:
            self._dropped.update((row["of"], key) for key in row["dropped"])
        elif isinstance(row, dict) and "sweep" in row:
            self._asked[row["sweep"], row["batch"]] = row["proposals"]

    def _remember(self, row: dict[str, Any], offset: int) -> Row:
        found = Row(row["chips"][0], row["chips"][1], row["values"], row.get("error", ""), row.get("seconds", 0.0), offset)
        if not row.get("lost"):
            self._rows.setdefault(row["key"], []).append(found)
        return found

    def _append(self, row: dict[str, Any]) -> int:
        if self._file is None:
            if row.get("values", {}) is not None:
                return -1
            self._failures.append(row)
            return -1 - len(self._failures)
        offset = self._file.seek(0, os.SEEK_END)
        try:
            self._file.write(json.dumps(row, separators=(",", ":")).encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            self._undo(offset)
            raise SweepError(
                f"Argument `store` must be on a disk with room, but {str(self.path)!r} cannot be written: {error.strerror}; "
                "make room and run the same sweep again: it goes on with what was finished"
            ) from error
        return offset

    def _undo(self, offset: int) -> None:
        """Take back a line of which only a part reached the disk, and the buffer with the rest of it."""
        assert self._file is not None and self.path is not None
        try:
            self._file.close()
        except OSError:
            pass
        self._file = None
        try:
            os.truncate(self.path / JOURNAL, offset)
        except OSError:
            pass  # the next one to open the store drops the torn line


def check_header(row: Any, folder: Path | None) -> None:
    """Raise SweepError where the first line of a journal is not that of a sweep which this inloop can read."""
    where = f"Argument `store` must be a folder of sweeps, but {str(folder)!r}"
    if not isinstance(row, dict) or row.get("kind") != KIND or not isinstance(row.get("format"), int):
        raise SweepError(f"{where} holds another kind of {JOURNAL}; choose another folder")
    if row["format"] > FORMAT:
        raise SweepError(f"{where} was written by a later inloop (format {row['format']}, this one reads {FORMAT}); update inloop")


@contextmanager
def opened_store(path: Path | str | None) -> Iterator[Store]:
    """Take a store for this process, making its folder where it is not there.

    Parameters
    ----------
    path
        The folder; None keeps everything in memory.

    Raises
    ------
    SweepError
        Where it cannot be written, another process has it, or a later inloop wrote it; one line.

    Examples
    --------
    >>> with opened_store(None) as store:
    ...     len(store)
    0
    """
    if path is None:
        yield Store(None)
        return
    from simulator.results import _lock
    from simulator.study import StudyError

    place = Path(path)
    try:
        if place.exists() and not place.is_dir():
            raise SweepError(f"Argument `store` must be a folder, but {str(place)!r} is a file; choose another")
        place.mkdir(parents=True, exist_ok=True)
        lock = _lock(place)
    except StudyError as error:
        owner = (place / LOCK).read_text().strip() or "unknown"
        raise SweepError(
            f"Argument `store` must be used by one sweep at a time, but process {owner} is writing to {str(place)!r}; "
            "wait for it, or choose another folder"
        ) from error
    except OSError as error:
        raise SweepError(f"Argument `store` must be a folder that can be written, but {str(place)!r}: {error.strerror}") from error
    store = None
    try:
        store = Store(place)
        yield store
    finally:
        if store is not None:
            store.close()
        (place / LOCK).unlink(missing_ok=True)
        lock.close()
