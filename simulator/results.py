"""A results folder: one writer at a time, files that are whole or absent, and a journal of finished trials."""

import json
import math
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from simulator.study import MARK, StudyError

STUDY, JOURNAL, CHECKPOINTS, LOCK = "study.toml", "trials.jsonl", "checkpoints", ".lock"


class ResultsFolder:
    """A folder that one study writes to; made by `opened`.

    Parameters
    ----------
    path
        The folder, which exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._journal: IO[bytes] | None = None

    @property
    def checkpoints(self) -> Path:
        """Folder of trained weights."""
        return self.path / CHECKPOINTS

    def write(self, name: str, content: str | bytes) -> Path:
        """Write a file under a temporary name, rename it, and return its path; `name` may begin with a subfolder.

        Examples
        --------
        >>> import tempfile
        >>> ResultsFolder(Path(tempfile.mkdtemp())).write("tables/a.tex", "1").read_text()
        '1'
        """
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_bytes(content if isinstance(content, bytes) else content.encode())
            temporary.replace(path)
        except OSError as error:  # what was there before stays, and nothing else
            temporary.unlink(missing_ok=True)
            raise StudyError(
                f"results folder {str(self.path)!r} must be on a disk with room, but {name} cannot be written: {error.strerror}; "
                "make room and run the same again: it goes on with what was finished"
            ) from error
        return path

    def finished(self) -> dict[str, dict[int, dict[str, Any]]]:
        """Return the journal's rows by key and trial; a line that a kill tore is as if it were not there.

        Examples
        --------
        >>> import tempfile
        >>> folder = ResultsFolder(Path(tempfile.mkdtemp()))
        >>> folder.append("a", 0, {"values": {"accuracy": 0.5}})
        >>> folder.finished()["a"][0]["values"]
        {'accuracy': 0.5}
        """
        found: dict[str, dict[int, dict[str, Any]]] = {}
        path = self.path / JOURNAL
        for line in path.read_bytes().splitlines() if path.exists() else ():
            try:
                row = json.loads(line)
                found.setdefault(row["key"], {})[row["trial"]] = row
            except (ValueError, TypeError, KeyError):
                continue
        return found

    def append(self, key: str, trial: int, row: dict[str, Any]) -> None:
        """Add a finished trial to the journal; it is on the disk when this returns.

        Parameters
        ----------
        key
            Identifies everything that decides the trial's numbers.
        trial
            Number of the trial.
        row
            What was measured; floats come back bit for bit.
        """
        if self._journal is None:
            self._journal = (self.path / JOURNAL).open("a+b")
            end = self._journal.seek(0, os.SEEK_END)
            if end:
                self._journal.seek(end - 1)
                if self._journal.read(1) != b"\n":
                    self._journal.write(b"\n")  # ends a torn line, so that it does not spoil the next
        self._journal.write(json.dumps({"key": key, "trial": trial, **row}).encode() + b"\n")
        self._journal.flush()
        os.fsync(self._journal.fileno())

    def close(self) -> None:
        """Close the journal."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None


@contextmanager
def opened(path: Path, *, fresh: bool = False) -> Iterator[ResultsFolder]:
    """Take a results folder for this process, making it where it is not there.

    Where the block ends by a ValueError and had to make the folder, and nothing was finished in it, the folder is removed again.

    Parameters
    ----------
    path
        The folder.
    fresh
        Forget trials and trained weights of earlier runs.

    Raises
    ------
    StudyError
        Where it cannot be written, is in use by another run, or holds files but no results; one line.

    Examples
    --------
    >>> import tempfile
    >>> with opened(Path(tempfile.mkdtemp()) / "new") as folder:
    ...     folder.path.is_dir()
    True
    """
    made = not path.exists()
    try:
        if path.exists() and not path.is_dir():
            raise StudyError(f"results folder {str(path)!r} must be a folder, but is a file; choose another with --out")
        path.mkdir(parents=True, exist_ok=True)
        _check_owned(path)
        lock = _lock(path)
    except OSError as error:
        raise StudyError(
            f"results folder {str(path)!r} must be one that can be written, but: {error.strerror}; choose another with --out"
        ) from error
    folder = ResultsFolder(path)
    try:
        for leftover in (*path.glob("*.tmp"), *path.glob("*/*.tmp")):
            leftover.unlink(missing_ok=True)
        if fresh:
            (path / JOURNAL).unlink(missing_ok=True)
            shutil.rmtree(folder.checkpoints, ignore_errors=True)
        folder.checkpoints.mkdir(exist_ok=True)
        yield folder
    except ValueError:
        folder.close()
        if made and not (path / JOURNAL).exists() and not any(folder.checkpoints.iterdir()):
            shutil.rmtree(path, ignore_errors=True)
        raise
    finally:
        folder.close()
        (path / LOCK).unlink(missing_ok=True)
        lock.close()


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: NaN and infinity as None.

    Examples
    --------
    >>> plain({"a": [1.0, float("nan")]})
    {'a': [1.0, None]}
    """
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _check_owned(path: Path) -> None:
    names = [entry.name for entry in path.iterdir() if entry.name not in (LOCK, CHECKPOINTS) and not entry.name.endswith(".tmp")]
    if not names:
        return
    try:
        owned = (path / STUDY).read_text(encoding="utf-8").startswith(MARK)
    except (OSError, UnicodeDecodeError):
        owned = False
    if not owned:
        few = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
        raise StudyError(
            f"results folder {str(path)!r} must be empty or hold results of a study, but holds {few}; choose another with --out"
        )


def _lock(path: Path) -> IO[str]:
    """Take the lock file. The lock is the operating system's: it ends with the process that holds it, however that ends."""
    while True:
        file = (path / LOCK).open("a+")
        try:
            _take(file)
        except OSError:
            file.seek(0)
            owner = file.read().strip() or "unknown"
            file.close()
            raise StudyError(
                f"results folder {str(path)!r} must be used by one run at a time, but process {owner} is writing to it; "
                "wait for it, or choose another with --out"
            ) from None
        # Another process may have removed the file between the two calls: then the lock is on a file that nobody finds.
        if (path / LOCK).exists() and os.fstat(file.fileno()).st_ino == (path / LOCK).stat().st_ino:
            break
        file.close()
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


if sys.platform == "win32":
    import msvcrt

    def _take(file: IO[str]) -> None:
        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _take(file: IO[str]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
