"""Cost rows as a table, and what they add up to: totals of a call by schedule, and operations per joule and area."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import pandas as pd

from devices.base import Cost

COLUMNS = tuple(field.name for field in fields(Cost))
"""Columns of a cost table, in order: the fields of `Cost`."""

NUMBERS = ("energy_j", "latency_s", "area_m2", "power_watt", "node_m")
COUNTS = ("bytes", "operations", "macs", "input_bits", "weight_bits")

Schedule = Literal["sequential", "pipelined"]
"""``sequential``: a layer starts when the one before it is done, a call when the last one is. ``pipelined``: every resource works on
another call, and the slowest sets the time between calls."""

COUNTED = (
    "two operations, a multiplication and an addition, for each multiply-accumulate of the model at its own operand widths; "
    "nothing else is counted. Normalized to 1 x 1 bit: times input bits times weight bits"
)


def cost_frame(rows: Iterable[Cost]) -> pd.DataFrame:
    """Return cost rows as a table, a row per layer and term; what has no constant is NaN, never zero.

    A static row whose energy is not given gets that of its power over the time of the whole call, layer after layer: hardware also leaks
    while another layer works.

    Examples
    --------
    >>> cost_frame([Cost(layer="fc", hardware="host", term="ReLU", operations=10)])[["layer", "energy_j", "operations"]]
      layer  energy_j  operations
    0    fc       NaN          10
    """
    frame = pd.DataFrame([vars(row) for row in rows], columns=list(COLUMNS))
    for column in NUMBERS:
        frame[column] = frame[column].astype("float64")
    for column in COUNTS:
        frame[column] = frame[column].astype("Int64")
    for column in ("static", "once"):
        frame[column] = frame[column].astype(bool)
    return _with_static_energy(frame)


def _with_static_energy(frame: pd.DataFrame) -> pd.DataFrame:
    """Spread the energy at rest of each resource over its rows, by the time that their layers take."""
    asked = frame["static"] & frame["energy_j"].isna() & frame["power_watt"].notna()
    if not asked.any():
        return frame
    call = _sum(_dynamic(frame), "latency_s")
    if call.value is None:
        return frame
    frame = frame.copy()
    static = frame[asked]
    times = _dynamic(frame).groupby("layer")["latency_s"].sum()
    weight = static["layer"].map(times).fillna(0.0) / static.groupby(["layer", "term"])["layer"].transform("size")
    groups = [static["resource"].where(static["resource"] != "", static["layer"]), static["term"]]
    whole = weight.groupby(groups).transform("sum")
    share = (weight / whole).where(whole > 0, 1.0 / weight.groupby(groups).transform("size"))
    frame.loc[asked, "energy_j"] = static["power_watt"].groupby(groups).transform("max") * share * call.value
    return frame


@dataclass(frozen=True)
class Total:
    """A sum over cost rows that knows what it leaves out.

    Attributes
    ----------
    value
        Sum over the rows that have a number, or None if none has.
    missing
        Terms without a number, each named once.
    """

    value: float | None
    missing: tuple[str, ...]

    @property
    def partial(self) -> bool:
        """Whether terms without a number were left out."""
        return bool(self.missing)


def totals(frame: pd.DataFrame, schedule: Schedule = "sequential") -> dict[str, Total]:
    """Add up a table of `cost_frame`.

    Parameters
    ----------
    frame
        From ``chip.cost``.
    schedule
        ``sequential``: layer after layer, call after call. ``pipelined``: resources work on different calls at a time.

    Returns
    -------
    dict of str to Total
        ``energy_j`` of one call, with what is spent at rest; ``static_energy_j``, that part alone; ``latency_s`` from a call's start to its
        end; ``interval_s`` between the starts of two calls; ``area_m2``, with what layers share once; and ``programming_energy_j``.

    Raises
    ------
    ValueError
        If the schedule is unknown.

    Examples
    --------
    >>> read, adc = (Cost(layer="fc", hardware="RRAM", term=term, energy_j=energy) for term, energy in (("read", 1e-12), ("ADC", None)))
    >>> total = totals(cost_frame([read, adc]))
    >>> total["energy_j"].value, total["energy_j"].missing
    (1e-12, ('ADC',))
    """
    if schedule not in ("sequential", "pipelined"):
        raise ValueError(f'Argument `schedule` must be "sequential" or "pipelined", but got {schedule!r}; do name one of them')
    dynamic, static = _dynamic(frame), frame[frame["static"] & ~frame["once"]]
    latency = _sum(dynamic, "latency_s")
    interval = latency
    if schedule == "pipelined" and latency.value is not None:
        interval = Total(float(dynamic.groupby(_resources(dynamic))["latency_s"].sum().max()), latency.missing)
    rest = _sum(static, "energy_j")
    if rest.value is not None and interval.value is not None and latency.value:
        rest = Total(rest.value * interval.value / latency.value, rest.missing)
    spent = _sum(dynamic, "energy_j")
    known = [part.value for part in (spent, rest) if part.value is not None]
    return {
        "energy_j": Total(float(np.sum(known)) if known else None, tuple(dict.fromkeys((*spent.missing, *rest.missing)))),
        "static_energy_j": rest,
        "latency_s": latency,
        "interval_s": interval,
        "area_m2": _area(frame),
        "programming_energy_j": _sum(frame[frame["once"]], "energy_j"),
    }


@dataclass(frozen=True)
class Efficiency:
    """Operations of a call against what it takes.

    Attributes
    ----------
    operations
        Operations of one call, two for each multiply-accumulate.
    tops, tops_per_watt, tops_per_mm2
        Tera-operations a second, a second and watt, a second and square millimeter. A partial one is an upper bound.
    normalized
        The same three normalized to 1 x 1 bit; None where a row's operand widths are not given.
    counted
        What an operation is.
    """

    operations: int
    tops: Total
    tops_per_watt: Total
    tops_per_mm2: Total
    normalized: tuple[Total, Total, Total] | None
    counted: str = COUNTED

    def __str__(self) -> str:
        """Return the three figures, raw and normalized, with what is left out and what an operation is."""
        names = ("TOPS", "TOPS/W", "TOPS/mm2")
        lines = []
        for title, values in (("raw", (self.tops, self.tops_per_watt, self.tops_per_mm2)), ("1 x 1 bit", self.normalized)):
            if values is None:
                lines.append(f"{title}: not given, a row without operand widths")
                continue
            lines.append(f"{title}: " + ", ".join(f"{name} {_shown(value)}" for name, value in zip(names, values, strict=True)))
        return "\n".join([*lines, f"an operation: {self.counted}"])


def efficiency(frame: pd.DataFrame, schedule: Schedule = "sequential") -> Efficiency:
    """Return the operations of a call per second, joule and area.

    Parameters
    ----------
    frame
        From ``chip.cost``.
    schedule
        See `totals`: its time between two calls is the time that counts.

    Raises
    ------
    ValueError
        If no row does a multiply-accumulate, or the schedule is unknown.

    Examples
    --------
    >>> row = Cost(layer="fc", hardware="A", term="MAC", energy_j=2e-12, latency_s=1e-9, macs=100, input_bits=4, weight_bits=4)
    >>> found = efficiency(cost_frame([row]))
    >>> round(found.tops_per_watt.value, 6), round(found.normalized[1].value, 6), found.tops_per_mm2.missing
    (100.0, 1600.0, ('MAC',))
    """
    total = totals(frame, schedule)
    work = frame[frame["macs"].notna() & ~frame["once"]]
    operations = 2 * int(work["macs"].sum())
    if not operations:
        raise ValueError("Argument `frame` must have a row with multiply-accumulates, but none has; do pass chip.cost of a call")

    def ratios(count: float) -> tuple[Total, Total, Total]:
        speed = _over(count, total["interval_s"])
        area = total["area_m2"]
        dense = Total(None, (*speed.missing, *area.missing))
        if speed.value is not None and area.value:
            dense = Total(speed.value / (area.value * 1e6), tuple(dict.fromkeys((*speed.missing, *area.missing))))
        return speed, _over(count, total["energy_j"]), dense

    normalized = None
    if work["input_bits"].notna().all() and work["weight_bits"].notna().all():
        normalized = ratios(2.0 * float((work["macs"] * work["input_bits"] * work["weight_bits"]).sum()))
    return Efficiency(operations, *ratios(operations), normalized)


def _over(count: float, total: Total) -> Total:
    """Return tera-counts per unit of a total."""
    return Total(count / total.value / 1e12 if total.value else None, total.missing)


def _shown(total: Total) -> str:
    if total.value is None:
        return "not given"
    return f"{total.value:.4g}" + (f" at most (without {', '.join(total.missing)})" if total.partial else "")


def _dynamic(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[~frame["static"] & ~frame["once"]]


def _resources(frame: pd.DataFrame) -> "pd.Series[str]":
    """Return what each row works on: what layers share, or the layer's own hardware."""
    return frame["resource"].where(frame["resource"] != "", frame["layer"])


def _area(frame: pd.DataFrame) -> Total:
    """Add up areas, once for each resource and term."""
    used = frame[~frame["once"]]
    found = _sum(used, "area_m2")
    if found.value is None:
        return found
    return Total(float(used.groupby([_resources(used), used["term"]])["area_m2"].max().sum()), found.missing)


def _sum(frame: pd.DataFrame, column: str) -> Total:
    absent = tuple(dict.fromkeys(frame.loc[frame[column].isna(), "term"]))
    known = float(frame[column].sum())
    # Rows that take none of it do not make a sum of what is not given.
    return Total(None if frame[column].isna().all() or (absent and known == 0) else known, absent)
