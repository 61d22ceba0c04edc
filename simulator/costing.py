"""Cost rows as a table, and what they add up to."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import pandas as pd

from devices.base import Cost

COLUMNS = ("layer", "hardware", "term", "energy_j", "latency_s", "area_m2", "bytes", "operations", "static", "once", "note")


def cost_frame(rows: Iterable[Cost]) -> pd.DataFrame:
    """Return cost rows as a table, a row per layer and term; what has no constant is NaN, never zero.

    Examples
    --------
    >>> cost_frame([Cost(layer="fc", hardware="host", term="ReLU", operations=10)])[["layer", "energy_j", "operations"]]
      layer  energy_j  operations
    0    fc       NaN          10
    """
    frame = pd.DataFrame([asdict(row) for row in rows], columns=list(COLUMNS))
    for column in ("energy_j", "latency_s", "area_m2"):
        frame[column] = frame[column].astype("float64")
    for column in ("bytes", "operations"):
        frame[column] = frame[column].astype("Int64")
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


def totals(frame: pd.DataFrame) -> dict[str, Total]:
    """Add up a table of `cost_frame`: energy and latency of one call, area, and the energy of programming once.

    Latency adds layer after layer (sequential schedule).

    Parameters
    ----------
    frame
        From ``chip.cost``.

    Returns
    -------
    dict of str to Total
        ``energy_j``, ``latency_s``, ``area_m2`` and ``programming_energy_j``.

    Examples
    --------
    >>> read, adc = (Cost(layer="fc", hardware="RRAM", term=term, energy_j=energy) for term, energy in (("read", 1e-12), ("ADC", None)))
    >>> total = totals(cost_frame([read, adc]))
    >>> total["energy_j"].value, total["energy_j"].missing
    (1e-12, ('ADC',))
    """
    per_call, once = frame[~frame["once"].astype(bool)], frame[frame["once"].astype(bool)]
    return {
        "energy_j": _total(per_call, "energy_j"),
        "latency_s": _total(per_call, "latency_s"),
        "area_m2": _total(per_call, "area_m2"),
        "programming_energy_j": _total(once, "energy_j"),
    }


def _total(frame: pd.DataFrame, column: str) -> Total:
    missing = tuple(dict.fromkeys(frame.loc[frame[column].isna(), "term"]))
    return Total(None if frame[column].isna().all() else float(frame[column].sum()), missing)
