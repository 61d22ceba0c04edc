"""Reading a user's measurements of cells: columns of targets, times and conductances, with their units."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from devices.design import DesignError
from devices.quantities import parse_quantity, shown

Floats = npt.NDArray[np.float64]

MINIMUM_POINTS = 20
"""Fewest measurements of one target at one time: with 20 a Kolmogorov-Smirnov distance is known to about 0.3."""

_ROLES = {"target": ("target",), "seconds": ("seconds", "time"), "measured": ("measured",)}
_UNITS = {"target": "siemens", "seconds": "second", "measured": "siemens"}
_EXAMPLES = {"target": "target_uS", "seconds": "seconds", "measured": "measured_uS"}
_READERS = {".csv": "csv", ".txt": "csv", ".parquet": "parquet", ".pq": "parquet", ".h5": "hdf5", ".hdf5": "hdf5"}


@dataclass(frozen=True)
class Measurements:
    """Measured cells, grouped by target and time.

    Attributes
    ----------
    levels_siemens
        The targets, rising.
    times_seconds
        The times since programming, rising.
    groups
        The conductances measured, siemens, sorted: ``groups[time][level]``.
    """

    levels_siemens: tuple[float, ...]
    times_seconds: tuple[float, ...]
    groups: tuple[tuple[Floats, ...], ...]


def read_measurements(
    path: str | Path, *, columns: Mapping[str, str] | None = None, units: Mapping[str, str] | None = None, group: str = "/"
) -> Measurements:
    r"""Read a table of (target, time, measured conductance) and check it.

    Parameters
    ----------
    path
        A CSV (.csv, .txt), Parquet (.parquet, .pq) or HDF5 file (.h5, .hdf5). CSV files have a header; in an HDF5 file each column
        is a one-dimensional data set.
    columns
        Names of the columns by role: "target", "seconds", "measured". By default the columns so called, with or without a unit:
        ``target_uS``, ``measured (nS)``, ``time_h``, ``seconds``.
    units
        Units by role, for columns whose names say none: ``{"target": "uS", "seconds": "s", "measured": "uS"}``.
    group
        Group of an HDF5 file that holds the data sets.

    Returns
    -------
    Measurements
        The measurements in siemens and seconds, grouped.

    Raises
    ------
    DesignError
        Where the file cannot be read, a column or its unit is missing, a value is not a number, not finite or negative, or a target
        has fewer than 20 measurements at a time.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "cells.csv"
    ...     rows = "".join(f"{target},1,{target + n / 100}\n" for target in (10, 20) for n in range(20))
    ...     _ = path.write_text("target_uS,seconds,measured_uS\n" + rows)
    ...     read_measurements(path).levels_siemens
    (1e-05, 2e-05)
    """
    if not isinstance(path, str | PathLike):
        raise DesignError(f"Argument `path` must be the path of a file, but got {shown(path)}; give a text or a Path")
    path = Path(path).expanduser()
    for name, given in (("columns", columns), ("units", units)):
        unknown = set(given or ()) - set(_ROLES)
        if unknown:
            raise DesignError(f"Argument `{name}` must have keys among {', '.join(_ROLES)}, but got {sorted(unknown)}; rename them")
    table = _read_table(path, group)
    values = {role: _column(table, role, path.name, columns or {}, units or {}) for role in _ROLES}
    return _grouped(values["target"], values["seconds"], values["measured"], path.name)


def _read_table(path: Path, group: str) -> dict[str, npt.NDArray[np.generic]]:
    kind = _READERS.get(path.suffix.lower())
    if kind is None:
        raise DesignError(f"measurements `{path}` must end in one of {', '.join(_READERS)}, but do not; convert or rename the file")
    if not path.is_file():
        raise DesignError(f"measurements `{path}` must be a file that exists, but there is none; check the path")
    try:
        if kind == "hdf5":
            return _read_hdf5(path, group)
        frame = pd.read_csv(path, skipinitialspace=True) if kind == "csv" else pd.read_parquet(path)
    except DesignError:
        raise
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise DesignError(
            f"measurements `{path}` must be a {kind} file that can be read, but are not ({shown(str(error))}); check it"
        ) from None
    return {str(name).strip(): frame[name].to_numpy() for name in frame.columns}


def _read_hdf5(path: Path, group: str) -> dict[str, npt.NDArray[np.generic]]:
    try:
        import h5py
    except ImportError:
        raise DesignError(f"measurements `{path}` need the package h5py, but it is not installed; run pip install h5py") from None
    with h5py.File(path, "r") as file:
        if not isinstance(file.get(group), h5py.Group):
            raise DesignError(f"measurements `{path}` must have the group `{group}`, but have {shown(sorted(file))}; give group=")
        columns = {name: np.asarray(item) for name, item in file[group].items() if isinstance(item, h5py.Dataset) and item.ndim == 1}
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise DesignError(f"measurements `{path}` must have data sets of one length, but got {shown(lengths)}; cut or separate them")
    return columns


def _column(
    table: Mapping[str, npt.NDArray[np.generic]], role: str, file: str, columns: Mapping[str, str], units: Mapping[str, str]
) -> Floats:
    name, unit = _find(list(table), role, file, columns)
    given = units.get(role)
    factor = _factor(unit, role)
    if given is not None:
        asked = _factor(given, role)
        if asked is None or factor not in (None, asked):
            raise DesignError(
                f"Argument `units` must have a unit of {_UNITS[role]} for `{role}` that agrees with column `{name}`, "
                f"but got {shown(given)}; give uS, nS, s, h or another"
            )
        factor = asked
    if factor is None:
        raise DesignError(
            f"column `{name}` of {file} must say its unit, but does not; rename it as `{_EXAMPLES[role]}` or give units={{'{role}': ...}}"
        )
    numbers = pd.to_numeric(pd.Series(table[name]), errors="coerce").to_numpy(dtype=np.float64)
    for wrong, what in ((~np.isfinite(numbers), "a finite number"), (numbers < 0, "at least 0")):
        if wrong.any():
            row = int(np.argmax(wrong))
            value = table[name][row : row + 1].tolist()[0]
            raise DesignError(
                f"column `{name}` of {file} must be {what} in every row, but got {shown(value)} in data row {row + 1} "
                f"({int(wrong.sum())} in all); correct or drop these rows"
            )
    # Division by a whole number rounds once: 20 uS is then the float that "20 uS" is.
    return numbers * factor if factor >= 1 else numbers / round(1 / factor)


def _find(names: list[str], role: str, file: str, columns: Mapping[str, str]) -> tuple[str, str]:
    """Return the name of a role's column, and the unit that the name says, or an empty text."""
    words = "|".join(_ROLES[role])
    matches = []
    for name in [columns[role]] if role in columns else names:
        match = re.fullmatch(rf"(?:{words})[\s_]*[\[(]?\s*([^\])\s]*)\s*[\])]?", name)
        tail = re.search(r"[\s_]+[\[(]?\s*([^\])\s_]+)\s*[\])]?$", name) if role in columns else None
        unit = match[1] if match else tail[1] if tail else ""
        if role in columns or (match and (not unit or _factor(unit, role) is not None)):
            known = _factor(unit, role) is not None
            matches.append((name, unit if known else "seconds" if name == "seconds" else ""))
    matches = [match for match in matches if match[0] in names]
    if len(matches) != 1:
        found = f"several do: {[name for name, _ in matches]}" if matches else f"it has {shown(names)}"
        wanted = f"the column `{columns[role]}`" if role in columns else f"one column such as `{_EXAMPLES[role]}`"
        raise DesignError(f"measurements {file} must have {wanted}, but {found}; rename it or give columns={{'{role}': ...}}")
    return matches[0]


def _factor(unit: str, role: str) -> float | None:
    try:
        return parse_quantity(f"1 {unit}", _UNITS[role])
    except ValueError:
        return None


def _grouped(target: Floats, seconds: Floats, measured: Floats, file: str) -> Measurements:
    levels, times = np.unique(target), np.unique(seconds)
    if len(levels) < 2:
        raise DesignError(f"measurements {file} must have at least 2 targets, but have {len(levels)}; measure more levels")
    groups = tuple(tuple(np.sort(measured[(seconds == time) & (target == level)]) for level in levels) for time in times)
    for time, row in zip(times, groups, strict=True):
        for level, group in zip(levels, row, strict=True):
            if len(group) < MINIMUM_POINTS:
                raise DesignError(
                    f"measurements {file} must have at least {MINIMUM_POINTS} points for each target at each time, but have {len(group)} "
                    f"at {level * 1e6:g} uS and {time:g} s; measure more, or round targets and times to their nominal values"
                )
    return Measurements(tuple(levels.tolist()), tuple(times.tolist()), groups)
