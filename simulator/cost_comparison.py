"""Costs of several designs side by side: at one technology node, or through a named rule; and cost tables as files."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from devices.system import AsGiven, ScalingRule
from simulator.costing import COLUMNS, COUNTS, NUMBERS, Schedule, Total, cost_frame, efficiency, totals

QUANTITIES = ("energy_j", "latency_s", "interval_s", "area_m2", "tops_per_watt", "tops_per_mm2")
"""What a comparison shows of each design, each with what it leaves out in a column ``..._without``."""


def scale_cost(frame: pd.DataFrame, node_m: float, rule: ScalingRule) -> pd.DataFrame:
    """Return a cost table brought to another technology node.

    Parameters
    ----------
    frame
        From ``chip.cost``.
    node_m
        The node to scale to, meter.
    rule
        By which rule: `ConstantField`, `PredictiveModel`, or one of your own.

    Returns
    -------
    pandas.DataFrame
        Energies, latencies, areas and powers times the rule's factors; the notes name the rule.

    Raises
    ------
    ValueError
        If a row has numbers but no node, or the rule does not know a node.

    Examples
    --------
    >>> from devices import ConstantField, Cost
    >>> from simulator.costing import cost_frame
    >>> frame = cost_frame([Cost(layer="fc", hardware="A", term="MAC", energy_j=8e-12, node_m=90e-9)])
    >>> float(scale_cost(frame, 45e-9, ConstantField())["energy_j"].iloc[0])
    1e-12
    """
    if isinstance(rule, AsGiven):
        return frame.copy()
    scaled = frame.copy()
    numbers = _with_numbers(frame)
    unknown = frame[numbers & frame["node_m"].isna()]
    if len(unknown):
        row = unknown.iloc[0]
        raise ValueError(
            f"Argument `frame` must state a technology node in every row with numbers, but term `{row['term']}` of {row['hardware']} "
            "has none; "
            "set node_m in its design, or compare by AsGiven()"
        )
    for start in frame.loc[numbers, "node_m"].unique():
        if math.isclose(start, node_m):
            continue
        factors, rows = rule.factors(float(start), node_m), numbers & (frame["node_m"] == start)
        for column, factor in zip(("energy_j", "latency_s", "area_m2", "power_watt"), _in_order(factors), strict=True):
            scaled.loc[rows, column] = frame.loc[rows, column] * factor
        note = f"from {start:g} m by {type(rule).__name__}"
        scaled.loc[rows, "note"] = [f"{old}; {note}" if old else note for old in frame.loc[rows, "note"]]
        scaled.loc[rows, "node_m"] = node_m
    # Energy at rest is power times the time of a call, and both were scaled.
    static = scaled["static"] & scaled["power_watt"].notna()
    if static.any():
        before, after = totals(frame)["latency_s"].value, totals(scaled)["latency_s"].value
        ratio = scaled["power_watt"] / frame["power_watt"].replace(0.0, np.nan) * ((after or 0.0) / before if before else 1.0)
        scaled.loc[static, "energy_j"] = (frame["energy_j"] * ratio.fillna(1.0))[static]
    return scaled


def compare_costs(
    frames: Mapping[str, pd.DataFrame], *, node_m: float | None = None, rule: ScalingRule | None = None, schedule: Schedule = "sequential"
) -> pd.DataFrame:
    """Put the totals of several designs side by side, at one technology node.

    Parameters
    ----------
    frames
        A cost table for each design, by the name to show.
    node_m
        The node to scale to, meter; needs `rule`.
    rule
        By which rule. None: every row of every table must be of one node. ``AsGiven()`` compares what was published at any node.
    schedule
        See `totals`.

    Returns
    -------
    pandas.DataFrame
        A row a design: ``design``, ``node_m`` (NaN for several), the `QUANTITIES`, and for each ``..._without``, the terms that it leaves
        out: where there are some, the number is a bound.

    Raises
    ------
    ValueError
        If there is no table, nodes differ or are not given without a rule, or the rule does not know one.

    Examples
    --------
    >>> from devices import Cost
    >>> from simulator.costing import cost_frame
    >>> row = Cost(layer="fc", hardware="A", term="MAC", energy_j=2e-12, macs=100, node_m=45e-9)
    >>> compare_costs({"A": cost_frame([row])})[["design", "energy_j", "tops_per_watt"]]
      design      energy_j  tops_per_watt
    0      A  2.000000e-12          100.0
    """
    if not frames:
        raise ValueError("Argument `frames` must hold at least one cost table, but is empty; do pass chip.cost of each design by its name")
    if node_m is not None and rule is None:
        raise ValueError(f"Argument `rule` must be given with `node_m`, but got None and {node_m}; do name a rule, as ConstantField()")
    if rule is None:
        _refuse_different_nodes(frames)
    elif node_m is None and not isinstance(rule, AsGiven):
        raise ValueError("Argument `node_m` must be given with `rule`, but got None; do say which node to scale to")
    rows = []
    for name, given in frames.items():
        frame = given if rule is None or node_m is None else scale_cost(given, node_m, rule)
        found: dict[str, Total] = dict(totals(frame, schedule))
        if frame["macs"].notna().any():
            ratio = efficiency(frame, schedule)
            found |= {"tops_per_watt": ratio.tops_per_watt, "tops_per_mm2": ratio.tops_per_mm2}
        nodes = frame.loc[_with_numbers(frame), "node_m"].unique()
        row: dict[str, Any] = {"design": name, "node_m": float(nodes[0]) if len(nodes) == 1 else math.nan}
        for quantity in QUANTITIES:
            total = found.get(quantity, Total(None, ()))
            row[quantity] = math.nan if total.value is None else total.value
            row[f"{quantity}_without"] = ", ".join(total.missing)
        rows.append(row)
    return pd.DataFrame(rows)


def save_cost(frame: pd.DataFrame, path: str | Path) -> Path:
    """Write a cost table as CSV or JSON, by the ending of the name; what is not given is an empty field, or null.

    Parameters
    ----------
    frame
        From ``chip.cost``.
    path
        A file name that ends in ``.csv`` or ``.json``.

    Returns
    -------
    Path
        The file, whole or not there: it is written under another name first.

    Raises
    ------
    ValueError
        If the ending is another one, or the folder does not exist.

    Examples
    --------
    >>> import tempfile
    >>> from devices import Cost
    >>> from simulator.costing import cost_frame
    >>> frame = cost_frame([Cost(layer="fc", hardware="A", term="MAC", energy_j=0.1)])
    >>> path = save_cost(frame, Path(tempfile.mkdtemp()) / "cost.csv")
    >>> load_cost(path).equals(frame)
    True
    """
    path = Path(path)
    kind = _kind(path)
    if not path.parent.is_dir():
        raise ValueError(f"Argument `path` must lie in a folder that exists, but got {str(path)!r}; do make {str(path.parent)!r} first")
    if kind == ".csv":
        content = frame.to_csv(index=False)
    else:
        rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
        content = json.dumps(rows, indent=1, allow_nan=False) + "\n"
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(content, encoding="utf-8")
    temporary.replace(path)
    return path


def load_cost(path: str | Path) -> pd.DataFrame:
    """Read a cost table that `save_cost` wrote: the same numbers, bit for bit.

    Parameters
    ----------
    path
        The file.

    Raises
    ------
    ValueError
        If the ending is neither ``.csv`` nor ``.json``, or columns are missing.

    Examples
    --------
    See `save_cost`.

    >>> load_cost("cost.txt")
    Traceback (most recent call last):
        ...
    ValueError: Argument `path` must end in .csv or .json, but got 'cost.txt'; do rename the file
    """
    path = Path(path)
    if _kind(path) == ".csv":
        # As text, because a reader that guesses turns "null" into nothing and large counts into floats.
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
        for name in frame.columns.intersection(list(NUMBERS)):
            frame[name] = [float(text) if text else math.nan for text in frame[name]]
        for name in frame.columns.intersection(list(COUNTS)):
            frame[name] = pd.Series([int(text) if text else None for text in frame[name]], dtype="Int64")
        for name in frame.columns.intersection(["static", "once"]):
            frame[name] = [text == "True" for text in frame[name]]
    else:
        frame = pd.DataFrame(json.loads(path.read_text(encoding="utf-8")), columns=list(COLUMNS))
    absent = [name for name in COLUMNS if name not in frame.columns]
    if absent:
        raise ValueError(f"Argument `path` must be a cost table, but {path.name} has no column {absent[0]!r}; do write it by save_cost")
    if frame.empty:
        return cost_frame([])
    frame = frame[list(COLUMNS)].copy()
    for column in NUMBERS:
        frame[column] = frame[column].astype("float64")
    for column in COUNTS:
        frame[column] = pd.array([None if pd.isna(count) else int(count) for count in frame[column]], dtype="Int64")
    for column in ("static", "once"):
        frame[column] = frame[column].astype(bool)
    return frame


def _kind(path: Path) -> str:
    if path.suffix not in (".csv", ".json"):
        raise ValueError(f"Argument `path` must end in .csv or .json, but got {path.name!r}; do rename the file")
    return path.suffix


def _with_numbers(frame: pd.DataFrame) -> "pd.Series[bool]":
    """Return which rows hold a number that a node decides; a zero is zero at any node."""
    return (frame[["energy_j", "latency_s", "area_m2", "power_watt"]].fillna(0.0) > 0).any(axis=1)


def _in_order(factors: Any) -> tuple[float, float, float, float]:
    return factors.energy, factors.delay, factors.area, factors.power


def _refuse_different_nodes(frames: Mapping[str, pd.DataFrame]) -> None:
    found: dict[str, str] = {}
    for name, frame in frames.items():
        for node in frame.loc[_with_numbers(frame), "node_m"].unique():
            found.setdefault("not given" if math.isnan(node) else f"{node * 1e9:g} nm", name)
    if len(frames) > 1 and (len(found) > 1 or "not given" in found):
        listed = ", ".join(f"{node} ({name})" for node, name in found.items())
        raise ValueError(
            f"Argument `frames` must be of one technology node to be compared, but they are of {listed}; "
            "do give node_m and a rule, as ConstantField(), or AsGiven() to compare what was published"
        )
