"""Measuring an unknown chip cell by cell, and writing down what it is: the loop from measurement to model."""

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import tomli_w
from scipy import stats

from devices.remote import RemoteChip
from devices.rram import ComposedCell, StuckCells, TabulatedSpread
from simulator.link.device import Description
from simulator.link.estimating import Estimate, Readings, estimates, fitted_cell, lattice_step
from simulator.link.journal import Journal
from simulator.link.remote_cells import RemoteCells
from simulator.progress import track

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = npt.NDArray[np.float64]

REQUEST_NUMBERS = 1 << 22
"""Numbers of one request, so that a large tile is read in several."""
ROUNDING = 2.0**-21
"""Of numbers that travel in single precision and are added up."""
SWEEP = 1025
"""Voltages at which the converters' transfer is measured."""


@dataclass(frozen=True)
class Budget:
    """How much a chip is asked to do.

    Attributes
    ----------
    levels
        Conductances from the lowest to the highest that cells are programmed to; neighbors take different ones, and take turns.
    programs
        Times that each cell is programmed to each level; 2 or more tell the errors of the device and of the programming apart.
    reads
        Reads of each cell after each programming.
    seconds
        Times after the last programming at which all cells are read again, rising. A chip that is real is waited for.
    """

    levels: int = 9
    programs: int = 1
    reads: int = 16
    seconds: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for name, least in (("levels", 3), ("programs", 1), ("reads", 2)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"Argument `budget`: `{name}` must be an integer of at least {least}, but got {value!r}")
        times = self.seconds
        if any(not math.isfinite(one) or one <= 0 for one in times) or sorted(set(times)) != list(times):
            raise ValueError(f"Argument `budget`: `seconds` must be finite times above 0 that rise, but got {times!r}")

    @property
    def programmings(self) -> int:
        """How often the tile is programmed."""
        return self.levels * self.programs


@dataclass(frozen=True, eq=False)
class Characterization:
    """What a chip was found to be.

    Attributes
    ----------
    cell
        The cell, with tabulated spreads and read noise, and a law of drift where one was worth it.
    stuck
        Shares of stuck cells.
    frame
        A row per number: ``quantity``, ``value``, ``low``, ``high`` (95 %), ``unit``, ``count``, ``target_siemens``, ``seconds``. An
        end is infinite where the readings do not bound it.
    description
        What the chip said of itself.
    budget
        What it was asked to do.
    measurements
        Every reading: ``target_siemens``, ``seconds``, ``measured_siemens``; `devices.from_measurements` takes it.
    """

    cell: ComposedCell
    stuck: StuckCells
    frame: pd.DataFrame
    description: Description
    budget: Budget
    measurements: pd.DataFrame

    def summary(self) -> dict[str, Any]:
        """Return what was found as plain data."""
        known = self.frame.notna() & ~self.frame.isin([math.inf, -math.inf])
        rows = self.frame.astype(object).where(known, None).to_dict("records")
        return {"device": self.description.name, "identity": self.description.identity, "budget": asdict(self.budget), "estimates": rows}

    def figure(self) -> "Figure":
        """Return a picture: bias, spread and read noise over the target with intervals, and the mean's course in time."""
        from simulator.link.characterized_figure import draw

        return draw(self)

    def save(self, folder: str | Path) -> list[Path]:
        """Write the cell as a preset, the estimates, the readings and the figure; returns their paths."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        contents = {"cell.toml": tomli_w.dumps(self._preset()).encode(), "estimates.json": json.dumps(self.summary(), indent=2).encode()}
        contents["measurements.csv"] = self.measurements.to_csv(index=False).encode()
        paths = []
        for name, content in contents.items():
            paths.append(place / name)
            temporary = place / f"{name}.tmp"
            temporary.write_bytes(content)
            temporary.replace(paths[-1])
        paths.append(place / "characterization.png")
        self.figure().savefig(paths[-1], dpi=150)
        return paths

    def _preset(self) -> dict[str, Any]:
        content = self.cell.to_toml_dict()
        kind = content.pop("type")
        where = f"measured on {self.description.name} {self.description.identity} by inloop characterise"
        off = f"; stuck on {self.stuck.stuck_on_rate:.3g}, stuck off {self.stuck.stuck_off_rate:.3g} of the cells" if self.stuck else ""
        sources = {key: f"{where}; 95 % intervals in estimates.json" for key in content if key != "type"}
        return {"type": kind, "description": f"{where}{off}", "design": content, "sources": sources}

    def __str__(self) -> str:
        shown = self.frame.copy()
        micro = shown["unit"] == "S"
        for name in ("value", "low", "high"):
            shown[name] = [f"{1e6 * value:.4g} uS" if is_s else f"{value:.4g}" for value, is_s in zip(shown[name], micro, strict=True)]
        shown["target"] = [f"{1e6 * t:.3g} uS" if pd.notna(t) else "all" for t in shown["target_siemens"].astype(float)]
        text: str = shown[["quantity", "target", "value", "low", "high", "count"]].to_string(index=False)
        return f"{self.description.name} {self.description.identity}\n{text}"


def characterise(
    chip: RemoteChip | str,
    *,
    budget: Budget | None = None,
    tile: int = 0,
    keys: str | Path | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
) -> Characterization:
    """Measure the cells of a chip elsewhere: programming error, read noise, drift, faults, converters, each with its 95 % interval.

    On 200 simulated chips of known truth that drift with the logarithm of time the intervals held it this often, in percent: programming
    bias 94, spread 96, read noise 94, gain of the converters 97; mean shift 93, its spread 93, the start 94, spread at the start 94, each
    known to 2. The chips had 1024 cells, 5 levels, 8 reads and 3 times. On 100 of each kind, measured with plain percentiles: stuck shares
    95 to 98, nonlinearity of the converters 90 to 100; drift by a power law: mean exponent 91 to 95, its spread 92 to 96, the start 93
    to 100; those without noise and drift were told as such each time. Reads are taken to scatter independently: what persists between
    them counts as spread of the drift.

    Parameters
    ----------
    chip
        Its address, or the `RemoteChip`.
    budget
        How much it is asked to do.
    tile
        Which tile.
    keys
        Folder of keys, where `chip` is an address that needs them.
    seed
        Which fabricated instance of a simulated chip is measured; a real one has its own.
    folder
        Where readings are kept as they come: a run that was ended goes on from there, with the last programming anew. They are removed
        when the run has ended well; nothing is kept by default.

    Returns
    -------
    Characterization
        Has the cell, as a design, and ``save(folder)``.

    Raises
    ------
    ValueError
        Where the chip gives no access to its cells, or has no such tile, or too few cells for the levels; or `folder` has readings of
        another run.
    LinkError
        Where the chip cannot be reached.

    Examples
    --------
    >>> from devices import BareTiles, PolynomialCell
    >>> from simulator.link.serving import serve
    >>> cell = PolynomialCell(g_min_siemens=1e-6, g_max_siemens=4e-5, sigma_coefficients_microsiemens=(1.0,))
    >>> with serve(BareTiles(cell=cell, rows=32, columns=32), "tcp://127.0.0.1:0", block=False) as server:
    ...     found = characterise(server.address, budget=Budget(levels=3, reads=2))
    >>> spread = found.frame.query("quantity == 'programming spread' and target_siemens == 4e-5").iloc[0]
    >>> bool(spread["low"] < 1e-6 < spread["high"])
    True
    """
    plan = Budget() if budget is None else budget
    if not isinstance(plan, Budget):
        raise ValueError(f"Argument `budget` must be a Budget or None, but got a {type(plan).__name__}")
    if folder is not None and not isinstance(folder, str | Path):
        raise ValueError(f"Argument `folder` must be a path or None, but got a {type(folder).__name__}")
    with RemoteCells(chip, keys=keys, seed=seed) as cells:
        limits = cells.limits
        if not 0 <= tile < limits.tiles:
            raise ValueError(f"Argument `tile` must be below {limits.tiles}, the chip's tiles, but got {tile}")
        if limits.rows * limits.columns < 20 * plan.levels:
            raise ValueError(
                f"Argument `budget`: a tile must have at least 20 cells for each of {plan.levels} levels, but has "
                f"{limits.rows * limits.columns}; take fewer levels"
            )
        what = {"device": cells.description.identity, "cells": limits.model_dump(), "budget": asdict(plan), "tile": tile, "seed": seed}
        journal = Journal(None if folder is None else Path(folder), what)
        bench = _Bench(cells, tile)
        readings = bench.measure(plan, journal)
        found = [*estimates(readings), *bench.transfer(plan.reads)]
        journal.close()
    fitted, of_drift = fitted_cell(readings)
    frame = pd.DataFrame([asdict(one) for one in (*found, *of_drift)])
    frame["target_siemens"] = frame["target_siemens"].astype(float)
    return Characterization(_cell(fitted, found, readings), _stuck(found), frame, cells.description, plan, _table(readings))


class _Bench:
    """One tile of a chip, measured."""

    def __init__(self, remote: RemoteCells, tile: int) -> None:
        self.remote, self.cells, self.tile = remote, remote.limits, tile
        self._standing = self._uncertainty = np.zeros(self.cells.rows * self.cells.columns)

    def measure(self, budget: Budget, journal: Journal) -> Readings:
        cells = self.cells
        levels = np.linspace(cells.g_min_siemens, cells.g_max_siemens, budget.levels)
        index = np.arange(cells.rows * cells.columns)
        level = []
        # What ages and is swept is the last programming: that of a run that was ended may have been overwritten.
        known = journal.turns[: budget.programmings - 1]
        mean, variance = [list(one) for one in zip(*known, strict=True)] if known else ([], [])
        for turn in track(range(budget.programmings), budget.programmings, "programming and reading"):
            # The level rotates from cell to cell and from turn to turn: every cell takes every level, and neighbors differ.
            level.append((index + index // budget.levels + turn) % budget.levels)
            if turn < len(known):
                self.remote.programmings += 1
                self.remote.reads += self._requests(budget.reads)
                continue
            self.remote.program(levels[level[-1]].reshape(cells.rows, cells.columns), tile=self.tile)
            read = self._read_all(budget.reads)
            mean.append(read.mean(0))
            variance.append(read.var(0, ddof=1))
            journal.add(mean[-1], variance[-1])
        self._standing, self._uncertainty = mean[-1], variance[-1] / budget.reads
        aged, scatter, passed, started = [], [], 0.0, time.monotonic()
        for seconds in track(budget.seconds, len(budget.seconds), "waiting and reading"):
            if self.remote.description.simulated:
                self.remote.age(seconds - passed)
            else:
                time.sleep(max(0.0, started + seconds - time.monotonic()))
            passed = seconds
            read = self._read_all(budget.reads)
            aged.append(read.mean(0))
            scatter.append(read.var(0, ddof=1))
            self._standing, self._uncertainty = aged[-1], scatter[-1] / budget.reads
        shape = (len(aged), len(index))
        return Readings(
            levels,
            np.array(level),
            np.array(mean),
            np.array(variance),
            budget.reads,
            budget.seconds,
            np.array(aged).reshape(shape),
            np.array(scatter).reshape(shape),
        )

    def transfer(self, reads: int) -> Iterator[Estimate]:
        """Sweep one row's voltage and compare the currents with the cells' own conductances."""
        cells = self.cells
        grid = self._standing.reshape(cells.rows, cells.columns)
        row = int(grid.sum(1).argmax())
        sweep = np.linspace(-cells.volts_max, cells.volts_max, SWEEP)
        volts = np.zeros((SWEEP, cells.rows))
        volts[:, row] = sweep
        series = np.array([self._currents(volts) for _ in range(reads)])
        weight = grid[row] / (grid[row] ** 2).sum()
        seen = series @ weight
        gains, offsets = np.polyfit(sweep, seen.T, 1)
        gain, offset = float(gains.mean()), float(offsets.mean())
        # The gain is over conductances that were themselves read with noise.
        known = float((weight**2 * self._uncertainty.reshape(grid.shape)[row]).sum())
        reach = float(stats.t.ppf(0.975, reads - 1)) * math.sqrt(float(gains.var(ddof=1)) / reads + known) + ROUNDING
        yield Estimate("transfer gain", gain, gain - reach, gain + reach, "", cells.columns)
        # Noise is of the converters or of the cells, whose grows with the voltage: its variance is fitted as a + b V^2.
        square = sweep**2
        law = np.maximum(np.polyfit(square, seen.var(0, ddof=1), 1), 0.0)
        of_line = offsets.var(ddof=1) + gains.var(ddof=1) * square
        together = stats.norm.ppf(1 - 0.025 / SWEEP)
        spread = together * np.sqrt((np.polyval(law, square) + of_line) / reads) + ROUNDING * cells.volts_max
        off = np.abs(seen.mean(0) - gain * sweep - offset)
        low, value, high = (float(one.max()) / cells.volts_max for one in (np.maximum(off - spread, 0.0), off, off + spread))
        yield Estimate("integral nonlinearity over full scale", value, low, high, "", cells.columns)
        # One cell's currents are multiples of the sweep's step times its conductance: several are needed to tell a converter's.
        step = lattice_step(series.ravel().astype(np.float64)) if cells.columns > 1 else None
        if step is not None:
            yield Estimate("ADC step", step, step * (1 - 1e-5), step * (1 + 1e-5), "A", cells.columns)
        quiet = float(spread.max()) < 2 * ROUNDING * cells.volts_max
        plateaus = lattice_step(np.round(seen.mean(0) / max(gain, 1e-12), 12)) if step is None and quiet else None
        if plateaus is not None and plateaus > 1.5 * (sweep[1] - sweep[0]):  # else it is the sweep's own step
            yield Estimate("DAC step", plateaus, plateaus * (1 - 1e-2), plateaus * (1 + 1e-2), "V", cells.columns)

    def _read_all(self, reads: int) -> Array:
        """Return each cell's conductance of each read, shape (reads, cells): its row alone is driven, at full scale."""
        cells, per_request = self.cells, self._reads_at_once()
        taken = np.empty((reads, cells.rows, cells.columns))
        for start in range(0, reads, per_request):
            count = min(per_request, reads - start)
            volts = np.tile(np.eye(cells.rows) * cells.volts_max, (count, 1))
            taken[start : start + count] = self._currents(volts).reshape(count, cells.rows, cells.columns) / cells.volts_max
        return taken.reshape(reads, -1)

    def _reads_at_once(self) -> int:
        return max(1, REQUEST_NUMBERS // (self.cells.rows * max(self.cells.rows, self.cells.columns)))

    def _requests(self, reads: int) -> int:
        return -(-reads // self._reads_at_once())

    def _currents(self, volts: Array) -> Array:
        return self.remote.read(volts, tile=self.tile).astype(np.float64)


def _cell(fitted: ComposedCell, found: list[Estimate], readings: Readings) -> ComposedCell:
    at = tuple(readings.levels.tolist())

    def table(*names: str) -> TabulatedSpread | None:
        values = [one.value for one in found if one.quantity in names]
        return TabulatedSpread(at_siemens=at, sigma_siemens=tuple(values)) if len(values) == len(at) and max(values) > 0 else None

    return fitted.replace(
        cycle_spread=table("programming spread", "cycle spread"), device_spread=table("device spread"), read_noise=table("read noise")
    )


def _stuck(found: list[Estimate]) -> StuckCells:
    shares = {one.quantity: one.value for one in found if one.quantity.startswith("stuck")}
    return StuckCells(stuck_on_rate=shares["stuck on share"], stuck_off_rate=shares["stuck off share"])


def _table(readings: Readings) -> pd.DataFrame:
    targets = readings.levels[readings.level]
    parts = [(targets.ravel(), np.zeros(targets.size), readings.mean.ravel())]
    parts += [(targets[-1], np.full(targets.shape[1], t), aged) for t, aged in zip(readings.times, readings.aged, strict=True)]
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    return pd.DataFrame(dict(zip(("target_siemens", "seconds", "measured_siemens"), columns, strict=True)))
