"""The bare cells of a chip elsewhere, as a measurement in a laboratory sees them."""

import math
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from devices.remote import RemoteChip
from simulator.link.client import Connection
from simulator.link.device import Cells
from simulator.link.messages import Message


class RemoteCells:
    """Tiles of cells that are programmed to conductances and read as currents.

    Close it, or use it as a context: the chip is others' again then. `simulator.characterise` measures a tile through it.

    Parameters
    ----------
    chip
        Its address, or the `RemoteChip`.
    keys
        Folder of keys, where `chip` is an address that needs them.
    seed
        Which fabricated instance of a simulated chip it is; a real one is its own.

    Attributes
    ----------
    description
        What the chip says of itself.
    limits
        How many tiles there are, the rows and columns of each, and the conductances and voltages that they take.
    programmings, pulsings, reads
        How often cells were programmed, pulsed and read: a simulated chip draws new errors for each number.

    Raises
    ------
    ValueError
        Where the chip gives no access to its cells.
    LinkError
        Where it cannot be reached, or is held by another client.

    Examples
    --------
    >>> from devices import BareTiles, IdealCell
    >>> from simulator.link.serving import serve
    >>> tiles = BareTiles(cell=IdealCell(g_min_siemens=1e-6, g_max_siemens=1e-4), rows=2, columns=3)
    >>> with serve(tiles, "tcp://127.0.0.1:0", block=False) as server, RemoteCells(server.address) as cells:
    ...     cells.program([[1e-5, 2e-5, 3e-5], [4e-5, 5e-5, 6e-5]])
    ...     print((cells.read([[0.1, 0.0], [0.1, 0.1]]) * 1e6).round(3))
    [[1. 2. 3.]
     [5. 7. 9.]]
    """

    def __init__(self, chip: RemoteChip | str, *, keys: str | Path | None = None, seed: int = 0) -> None:
        remote = chip if isinstance(chip, RemoteChip) else RemoteChip(address=chip, keys=None if keys is None else str(keys))
        self.seed = _whole("seed", seed)
        self.programmings = self.pulsings = self.reads = 0
        self._connection, self._closed = Connection(remote), False
        try:
            self.description = self._connection.describe()
            if self.description.cells is None:
                raise ValueError(f"Argument `chip` must give access to its cells, but {self.description.name} at {remote.address} does not")
            self.limits: Cells = self.description.cells
        except BaseException:
            self.close()
            raise

    def program(self, targets: npt.ArrayLike, *, tile: int = 0) -> None:
        """Program a tile's cells to conductances in siemens, of shape (rows, columns)."""
        self._ask("program_cells", tile, {"seed": self.seed, "trial": self.programmings}, targets=_floats("targets", targets))
        self.programmings += 1

    def pulse(self, pulses: npt.ArrayLike, *, tile: int = 0) -> None:
        """Send each cell of a tile so many pulses, potentiating above zero: integers of shape (rows, columns)."""
        try:
            counts = np.asarray(pulses)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(f"Argument `pulses` must be integers of two axes, but cannot be read as such ({error})") from None
        if counts.dtype.kind not in "iu":
            raise ValueError(f"Argument `pulses` must be integers, but got {counts.dtype}; do round them")
        self._ask("pulse_cells", tile, {"step": self.pulsings}, pulses=counts.astype(np.int64))
        self.pulsings += 1

    def read(self, volts: npt.ArrayLike, *, tile: int = 0) -> npt.NDArray[np.float32]:
        """Drive a tile's rows with voltages, of shape (batch, rows); returns the columns' currents in ampere, (batch, columns)."""
        self.reads += 1
        return self._ask("read_cells", tile, {"read": self.reads}, volts=_floats("volts", volts))["amperes"]

    def age(self, seconds: float) -> None:
        """Let simulated time pass for all cells; a real chip is waited for instead."""
        if isinstance(seconds, bool) or not isinstance(seconds, Real) or not 0 <= seconds < math.inf:
            raise ValueError(f"Argument `seconds` must be a finite number of at least 0, but got {seconds!r}")
        self._request("age_cells", {"seconds": float(seconds)})

    def reset(self) -> None:
        """Have the chip forget what its cells, and layers on it, hold."""
        self._request("reset")

    def status(self) -> dict[str, Any]:
        """Return what the chip says of how it is, and who holds it."""
        return self._request("status").body

    def close(self) -> None:
        """Give the chip back; nothing can be asked of it by this object any more."""
        self._closed = True
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _ask(self, kind: str, tile: int, body: dict[str, Any], **arrays: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        if _whole("tile", tile) >= self.limits.tiles:
            raise ValueError(f"Argument `tile` must be from 0 to below {self.limits.tiles}, the chip's tiles, but got {tile}")
        return self._request(kind, {"tile": int(tile), **body}, arrays).arrays

    def _request(self, kind: str, body: dict[str, Any] | None = None, arrays: dict[str, npt.NDArray[Any]] | None = None) -> Message:
        if self._closed:  # a request would begin another session, which nobody closes
            raise ValueError(f"the cells of {self.description.name} were given back by close(); make another RemoteCells")
        return self._connection.request(kind, body, arrays)


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 0:
        raise ValueError(f"Argument `{name}` must be an integer of at least 0, but got {value!r}")
    return int(value)


def _floats(name: str, values: npt.ArrayLike) -> npt.NDArray[np.float32]:
    try:
        given = np.asarray(values)
        if given.dtype.kind not in "biuf":
            raise TypeError(f"{given.dtype} are no real numbers")
        found = given.astype(np.float32)
    except (TypeError, ValueError, RuntimeError) as error:  # torch's, of a tensor that requires a gradient
        raise ValueError(f"Argument `{name}` must be numbers of two axes, but cannot be read as such ({error})") from None
    if found.ndim != 2 or not np.isfinite(found).all():
        raise ValueError(f"Argument `{name}` must be finite numbers of two axes, but got shape {found.shape}, or nan or inf among them")
    return found
