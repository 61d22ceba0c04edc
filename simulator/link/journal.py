"""What a long measurement has read so far, on the disk."""

import json
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

NAME = "unfinished.npz"


class Journal:
    """Readings of the turns that are done, kept in a folder; a run that takes up where another ended finds them.

    Parameters
    ----------
    folder
        Where; None keeps nothing.
    what
        What is measured, as plain values: readings of anything else are refused.

    Raises
    ------
    ValueError
        Where the folder has readings of another run, or cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> Journal(folder, {"tile": 0}).add(np.zeros(3), np.ones(3))
    >>> again = Journal(folder, {"tile": 0})
    >>> [[part.tolist() for part in turn] for turn in again.turns]
    [[[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]]
    >>> again.close()
    >>> Journal(folder, {"tile": 1}).turns
    []
    """

    def __init__(self, folder: Path | None, what: dict[str, Any]) -> None:
        self._path = None if folder is None else folder / NAME
        self._what = json.dumps(what, sort_keys=True)
        self.turns: list[tuple[Array, Array]] = []
        if self._path is None:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"Argument `folder` must be one that can be written, but {str(folder)!r} is not ({error.strerror})") from None
        if self._path.exists():
            self.turns = self._read(self._path)

    def _read(self, path: Path) -> list[tuple[Array, Array]]:
        try:
            with np.load(path, allow_pickle=False) as stored:
                what, mean, variance = str(stored["what"]), stored["mean"], stored["variance"]
        except (OSError, EOFError, ValueError, KeyError, BadZipFile):
            what = "not readable"
        if what != self._what:
            raise ValueError(
                f"Argument `folder` must be empty or have readings of the same chip, tile, budget and seed, but {str(path)!r} has others: "
                f"{what}; take another folder, or remove that file"
            )
        return list(zip(mean, variance, strict=True))

    def add(self, mean: Array, variance: Array) -> None:
        """Keep one more turn; what is on the disk is whole whenever the run ends."""
        self.turns.append((mean, variance))
        if self._path is not None:
            means, variances = zip(*self.turns, strict=True)
            temporary = self._path.with_suffix(".tmp.npz")
            np.savez(temporary, what=self._what, mean=np.array(means), variance=np.array(variances))
            temporary.replace(self._path)

    def close(self) -> None:
        """Remove the readings: the run has ended well."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
