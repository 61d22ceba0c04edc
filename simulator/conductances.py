"""Conductance maps in and out: what a chip's cells hold as files, and measured maps as the state of a chip."""

import io
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import numpy.typing as npt
import torch

from devices.quantities import parse_quantity
from simulator.chip import Chip
from simulator.lowering import CrossbarLayer
from simulator.results import ResultsFolder
from simulator.tiles import Tile, crossbars, places, put, tiles_of

Floats = npt.NDArray[np.float32]
INDEX = "index.json"
_HDF5, _MATLAB = (".h5", ".hdf5"), (".mat",)
_FILE = re.compile(r"(?P<layer>.+)\.(?P<index>\d+)\.npy")
_FAR = 10.0
"""Times the largest conductance of the design beyond which a map cannot be in the unit that was said."""


@dataclass(frozen=True)
class _Map:
    """One tile as a file holds it."""

    layer: str
    index: int
    values: npt.NDArray[Any]
    about: Mapping[str, Any]


def save_conductances(chip: Chip, path: str | Path, *, layer: str | None = None) -> list[Path]:
    """Write the conductances of a chip's crossbars as they stand, tile by tile, with what each row and column is.

    Parameters
    ----------
    chip
        From `simulator.compile`; the first instance is programmed where there is none.
    path
        ``NAME.h5`` (one data set a tile, in a group for each layer), ``NAME.mat`` (a struct array ``tiles``), or a folder for one
        ``LAYER.INDEX.npy`` a tile and an ``index.json``.
    layer
        One layer only; by default all layers on crossbars.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    ValueError
        If the chip has no such layer, or the suffix is another one.

    Examples
    --------
    >>> import tempfile
    >>> import simulator as sim
    >>> from devices import RRAMCrossbar
    >>> chip = sim.compile(torch.nn.Linear(8, 4), RRAMCrossbar.preset("wan_nature_2022"), example_inputs=torch.rand(2, 8))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     [file.name for file in save_conductances(chip, Path(folder) / "chip")]
    ['model.0000.npy', 'index.json']
    """
    path = Path(path).expanduser()
    kind = _kind(path)
    tiles = list(tiles_of(chip, layer))
    if kind == "folder":
        folder = ResultsFolder(path)
        written = [folder.write(_name(tile), _npy(tile)) for tile in tiles]
        index = {_name(tile): _about(chip, tile) for tile in tiles}
        return [*written, folder.write(INDEX, json.dumps(index, indent=1))]
    content = _hdf5(chip, tiles) if kind == "hdf5" else _matlab(chip, tiles)
    return [ResultsFolder(path.parent).write(path.name, content)]


def load_conductances(chip: Chip, path: str | Path, *, unit: str | None = None) -> list[str]:
    """Put conductances from files, measured ones for example, into a chip as what programming reached.

    Every layer that the files have must be there whole; the other layers stay as they are. A map may be as large as the whole array: its
    first rows and columns count. What drift needs of each cell, as exponents, is drawn as at programming, and the age is 0; noise, wires
    and converters are those of the design. `save_conductances` and then this gives the same conductances.

    Parameters
    ----------
    chip
        From `simulator.compile`; changed in place.
    path
        As `save_conductances` writes it; of an .npy folder the ``index.json`` may be missing.
    unit
        Unit of the values: "S", "uS", "nS", ... By default what the files say, as those of `save_conductances` do, else siemens.

    Returns
    -------
    list of str
        The layers that took their conductances.

    Raises
    ------
    ValueError
        If the files cannot be read, a layer or tile is unknown or missing, a shape does not fit, the unit is another than a file says,
        or values are negative, not finite or beyond 10 times the cell's range.

    Examples
    --------
    >>> import tempfile
    >>> import simulator as sim
    >>> from devices import RRAMCrossbar
    >>> chip = sim.compile(torch.nn.Linear(8, 4), RRAMCrossbar.preset("wan_nature_2022"), example_inputs=torch.rand(2, 8))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     measured = np.full((8, 8), 20.0)
    ...     np.save(Path(folder) / "model.0000.npy", measured)
    ...     load_conductances(chip, folder, unit="uS")
    ['model']
    >>> round(1e6 * float(chip.tile("model").conductance.max()), 3)
    20.0
    """
    path = Path(path).expanduser()
    kind = _kind(path)
    if not path.exists():
        raise ValueError(f"conductances `{path}` must exist, but do not; check the path")
    asked = None if unit is None else _siemens(unit)
    if unit is not None and asked is None:
        raise ValueError(f"Argument `unit` must be a unit of conductance, but got {unit!r}; give S, mS, uS or nS")
    maps: dict[str, dict[int, _Map]] = {}
    for one in {"folder": _from_folder, "hdf5": _from_hdf5, "matlab": _from_matlab}[kind](path):
        maps.setdefault(one.layer, {})[one.index] = one
    if not maps:
        raise ValueError(f"conductances `{path}` must hold tiles, but hold none; name files LAYER.0000.npy")
    known = crossbars(chip)
    unknown = sorted(set(maps) - set(known))
    if unknown:
        raise ValueError(f"conductances `{path}` must be of layers on crossbars, {', '.join(known)}, but have {unknown[0]!r}; rename it")
    # All layers are checked before any is changed.
    ready = [_assembled(chip, name, found, asked, path) for name, found in maps.items()]
    for layer, cells, seed, trial in ready:
        layer.adopt(cells, seed, trial)
    return [layer.name for layer, *_ in ready]


def _siemens(unit: object) -> float | None:
    try:
        return parse_quantity(f"1 {unit}", "siemens")
    except ValueError:
        return None


def _kind(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix in _HDF5:
        return "hdf5"
    if suffix in _MATLAB:
        return "matlab"
    if suffix in (".npy", ".npz", ".csv", ".json"):
        raise ValueError(f"Argument `path` must be a folder, or end in .h5, .hdf5 or .mat, but got {path.name!r}; name the folder")
    return "folder"


def _name(tile: Tile) -> str:
    return f"{quote(tile.layer, safe='._-')}.{tile.index:04d}.npy"


def _npy(tile: Tile) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, tile.conductance.cpu().numpy(), allow_pickle=False)
    return buffer.getvalue()


def _about(chip: Chip, tile: Tile) -> dict[str, Any]:
    """Return what a reader of a map must know; plain numbers and texts."""
    layer = chip.layers[tile.layer]
    assert isinstance(layer, CrossbarLayer)
    seed, trial = layer.instance
    return {
        "layer": tile.layer,
        "index": tile.index,
        "unit": "S",
        "rows": [list(row) for row in tile.rows],
        "row_fields": ["input channel", "kernel position"],
        "columns": [[-1 if column.output is None else column.output, column.bit_slice, column.sign] for column in tile.columns],
        "column_fields": ["output (-1: reference)", "slice", "sign"],
        "seconds": tile.seconds,
        "seed": seed,
        "trial": trial,
        "design": tile.design.fingerprint(),
    }


def _hdf5(chip: Chip, tiles: list[Tile]) -> bytes:
    import h5py

    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for tile in tiles:
            made = file.create_dataset(f"{quote(tile.layer, safe='._-')}/{tile.index:04d}", data=tile.conductance.cpu().numpy())
            for name, value in _about(chip, tile).items():
                made.attrs[name] = value
    return buffer.getvalue()


def _matlab(chip: Chip, tiles: list[Tile]) -> bytes:
    from scipy.io import savemat

    rows = [{"conductance_siemens": tile.conductance.cpu().numpy(), **_about(chip, tile)} for tile in tiles]
    table = np.empty(len(rows), dtype=[(name, object) for name in rows[0]])
    for place, row in enumerate(rows):
        for name, value in row.items():
            table[place][name] = value
    buffer: Any = io.BytesIO()  # SciPy takes files, which its stubs do not know
    savemat(buffer, {"tiles": table}, do_compression=True)
    content: bytes = buffer.getvalue()
    return content


def _from_folder(path: Path) -> Iterator[_Map]:
    if not path.is_dir():
        raise ValueError(f"conductances `{path}` must be a folder, .h5 or .mat, but are a file of another kind; name the folder")
    index: dict[str, Any] = {}
    if (path / INDEX).is_file():
        try:
            index = dict(json.loads((path / INDEX).read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise ValueError(f"file `{path / INDEX}` must be as it was saved, but is not ({error}); save again or delete it") from None
    there = {file.name.rpartition(".")[0].rpartition(".")[0] for file in path.glob("*.npy")}
    lost = sorted(name for name in index if name.rpartition(".")[0].rpartition(".")[0] not in there)
    if lost:
        raise ValueError(f"conductances `{path}` must have {lost[0]}, which {INDEX} names, but have no tile of its layer; save again")
    for file in sorted(path.glob("*.npy")):
        match = _FILE.fullmatch(file.name)
        if match is None:
            raise ValueError(f"file `{file}` must be named LAYER.INDEX.npy, as conv1.0000.npy, but is not; rename it")
        try:
            values = np.load(file, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise ValueError(f"file `{file}` must be a NumPy array that can be read, but is not ({error})") from None
        yield _Map(unquote(match["layer"]), int(match["index"]), values, index.get(file.name, {}))


def _from_hdf5(path: Path) -> Iterator[_Map]:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            for layer, group in file.items():
                tiles = group.items() if isinstance(group, h5py.Group) else [("0", group)]
                for index, data in tiles:
                    if not str(index).isdigit() or not isinstance(data, h5py.Dataset):
                        raise ValueError(f"data set `{layer}/{index}` of {path} must be named by the tile's number; rename it")
                    yield _Map(unquote(str(layer)), int(index), np.asarray(data), dict(data.attrs))
    except OSError as error:
        raise ValueError(f"conductances `{path}` must be an HDF5 file that can be read, but are not ({error}); check it") from None


def _from_matlab(path: Path) -> Iterator[_Map]:
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        found = loadmat(path, simplify_cells=True)
    except (OSError, ValueError, TypeError, NotImplementedError, MatReadError) as error:
        raise ValueError(f"conductances `{path}` must be a MATLAB file up to version 7, but are not ({error}); save it with -v7") from None
    tiles = found.get("tiles")
    for one in [tiles] if isinstance(tiles, dict) else tiles if tiles is not None else []:
        missing = [name for name in ("layer", "index", "conductance_siemens") if not isinstance(one, dict) or name not in one]
        if missing:
            raise ValueError(f"struct `tiles` of {path} must have the fields layer, index and conductance_siemens, but lacks {missing[0]}")
        yield _Map(str(one["layer"]), int(one["index"]), np.atleast_2d(one["conductance_siemens"]), one)


def _assembled(
    chip: Chip, name: str, maps: Mapping[int, _Map], asked: float | None, path: Path
) -> tuple[CrossbarLayer, torch.Tensor, int, int]:
    """Return a layer, the cells that the maps give it, and the seed and trial that they say they come from."""
    layer = chip.layers[name]
    assert isinstance(layer, CrossbarLayer)
    wanted = places(layer)
    if set(maps) != set(range(len(wanted))):
        lacking = sorted(set(range(len(wanted))) ^ set(maps))
        raise ValueError(f"conductances `{path}` must have tiles 0 to {len(wanted) - 1} of layer `{name}`, but differ in {lacking[:5]}")
    first = next(iter(maps.values())).about
    seed, trial = int(first.get("seed", chip.seed)), int(first.get("trial", 0))
    cells = torch.zeros_like(layer.conductance).contiguous()
    stuck = layer.design.stuck
    limit = max(layer.design.cell.g_max_siemens, (stuck.on_siemens or 0.0) if stuck is not None else 0.0)
    for index, place in enumerate(wanted):
        rows = len(place.channels) * len(place.positions)
        columns = len(place.columns) * cells.shape[0] * cells.shape[1]
        values = maps[index].values
        whole = (layer.design.rows, layer.design.columns)
        where = f"tile {index} of layer `{name}` in {path}"
        if values.dtype.kind not in "fiu" or values.shape not in ((rows, columns), whole):
            raise ValueError(f"{where} must be numbers of shape {(rows, columns)} or {whole}, but is {values.dtype} of {values.shape}")
        said = maps[index].about.get("unit")
        own = None if said is None else _siemens(said)
        if (said is not None and own is None) or (asked is not None and own not in (None, asked)):
            raise ValueError(f"{where} must be in the unit that its file says, but that is {said!r}; leave out `unit`, or correct the file")
        siemens = values[:rows, :columns].astype(np.float64) * (asked or own or 1.0)
        if not np.isfinite(siemens).all() or (siemens < 0).any():
            raise ValueError(f"{where} must be finite and at least 0, but has {_worst(siemens):.4g} S; correct the map")
        if siemens.max() > _FAR * limit:
            raise ValueError(
                f"{where} must be within {_FAR:g} times {limit:.3g} S, but has {siemens.max():.3g} S; give unit='uS' or another"
            )
        put(layer, cells, place, torch.from_numpy(siemens.astype(np.float32)))
    return layer, cells, seed, trial


def _worst(siemens: npt.NDArray[np.float64]) -> float:
    wrong = siemens[~np.isfinite(siemens) | (siemens < 0)]
    return float(wrong[0])
