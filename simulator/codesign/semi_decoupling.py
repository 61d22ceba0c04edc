"""Semi-decoupled co-design: networks that are best on one accelerator are nearly best on all, if accelerators rank networks alike.

Lu, Zheng, Jiang and others, arXiv 2203.13921: for a proxy accelerator, keep the network of best accuracy under each of a grid of
limits; then search all accelerators over these few networks only. What that loses, and on how similar rankings it stands, is measured
here and not assumed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.stats import rankdata

Array = npt.NDArray[np.float64]
COSTS = ("latency_s", "energy_j")


@dataclass(frozen=True)
class SemiDecoupled:
    """Result of `semi_decoupled`.

    Attributes
    ----------
    kept
        Places of the networks that are best on the proxy under some limit: the set P.
    frame
        A row per pair of limits: ``latency_s`` and ``energy_j``, the ``network``, ``accelerator`` and ``accuracy`` that the search over P
        finds, those of the exhaustive search (``best_...``), and ``loss``, the accuracy given away: all of it
        where P has nothing. Without `exhaustive` no ``best_``.
    by_accelerator
        A row per accelerator, over its own grid of limits: mean and largest accuracy lost when its network comes from P (the regret at
        each optimum), ``unmet``, the share of limits that no network of P keeps though another does, ``exact``, the share at which
        nothing is lost, and the rank correlations with the proxy.
    evaluations, exhaustive_evaluations
        Costs of a network on an accelerator that each search needs: |A| + |P| (|H| - 1), and |A| |H|.
    proxy
        Name of the proxy.
    """

    kept: list[int]
    frame: pd.DataFrame
    by_accelerator: pd.DataFrame
    evaluations: int
    exhaustive_evaluations: int
    proxy: str

    @property
    def exact(self) -> float:
        """Share of the limits at which the semi-decoupled search finds an accuracy as high as the exhaustive one."""
        return float((self.frame["loss"] <= 0).mean())

    def __str__(self) -> str:
        found = self.frame.dropna(subset=["loss"])
        if not len(found):
            return f"{len(self.kept)} networks kept on {self.proxy}; {self.evaluations} evaluations of {self.exhaustive_evaluations}"
        return (
            f"{len(self.kept)} networks kept on {self.proxy}; {self.evaluations} evaluations in place of {self.exhaustive_evaluations}; "
            f"exact at {self.exact:.0%} of {len(found)} limits, "
            f"accuracy lost {found['loss'].mean():.4f} on average, {found['loss'].max():.4f} at worst"
        )


def semi_decoupled(
    networks: Sequence[Any],
    accelerators: Mapping[str, Any],
    cost: Callable[[Any, Any], Mapping[str, float]],
    accuracy: Sequence[float] | Callable[[Any], float],
    *,
    proxy: str | None = None,
    limits: int = 10,
    exhaustive: bool = True,
) -> SemiDecoupled:
    """Search networks and accelerators in two steps, and measure what that loses.

    Parameters
    ----------
    networks
        Candidates, of any kind.
    accelerators
        Hardware by name, of any kind.
    cost
        Any cost model: returns ``latency_s`` and ``energy_j`` of a network on an accelerator.
    accuracy
        Of each network, or a function of one: it does not depend on the accelerator here.
    proxy
        The accelerator of the first step; None: the first.
    limits
        Values of each limit: quantiles of the proxy's latencies and energies; the final limits are quantiles over all accelerators.
    exhaustive
        Evaluate everything, and compare. False evaluates what the method needs, and the losses are NaN.

    Returns
    -------
    SemiDecoupled
        Print it for the line that says it all.

    Raises
    ------
    ValueError
        If there is nothing to search, the proxy is unknown, or a cost is missing, not finite or not above 0.

    Examples
    --------
    >>> macs, speed = [1.0, 2.0, 4.0], {"slow": 1.0, "fast": 2.0}
    >>> def cost(network, accelerator):
    ...     return {"latency_s": network / accelerator, "energy_j": network}
    >>> found = semi_decoupled(macs, speed, cost, [0.8, 0.9, 0.95], limits=3)
    >>> found.kept, found.exact
    ([1, 2], 1.0)
    """
    names = list(accelerators)
    if not len(networks) or not names:
        raise ValueError("Arguments `networks` and `accelerators` must not be empty; give at least one of each")
    chosen = names[0] if proxy is None else proxy
    if chosen not in names:
        raise ValueError(f"Argument `proxy` must be one of {', '.join(names)}, but got {proxy!r}")
    if isinstance(limits, bool) or not isinstance(limits, int) or limits < 1:
        raise ValueError(f"Argument `limits` must be an integer of at least 1, but got {limits!r}")
    scores = np.array([accuracy(network) for network in networks] if callable(accuracy) else list(accuracy), dtype=np.float64)
    if scores.shape != (len(networks),):
        raise ValueError(f"Argument `accuracy` must have one value per network, {len(networks)}, but has {scores.shape}")
    everyone = list(range(len(networks)))
    tables = {chosen: _table(networks, everyone, accelerators[chosen], cost, chosen)}
    kept = _best_under_limits(scores, tables[chosen], _grid(tables[chosen], limits))
    for name in names:
        if name != chosen:
            tables[name] = _table(networks, everyone if exhaustive else kept, accelerators[name], cost, name)
    grid = _grid(np.concatenate([tables[name] for name in names]), limits)
    rows = []
    for latency, energy in grid:
        few = _search(scores, tables, names, kept, latency, energy)
        row: dict[str, Any] = {"latency_s": latency, "energy_j": energy, **_named(few, "")}
        if exhaustive:
            every = _search(scores, tables, names, everyone, latency, energy)
            row |= _named(every, "best_")
            row["loss"] = float("nan") if every is None else every[0] - (few[0] if few is not None else 0.0)
        else:
            row["loss"] = float("nan")
        rows.append(row)
    frame = pd.DataFrame(rows)
    if exhaustive:
        frame = frame.dropna(subset=["loss"]).reset_index(drop=True)
    regrets = [_regret(scores, tables[name], tables[chosen], kept, limits, name) for name in names] if exhaustive else []
    evaluations = len(networks) + len(kept) * (len(names) - 1)
    return SemiDecoupled(kept, frame, pd.DataFrame(regrets), evaluations, len(networks) * len(names), chosen)


def rank_correlations(tables: Mapping[str, Array]) -> pd.DataFrame:
    """Return Spearman's rank correlation between every two accelerators.

    Parameters
    ----------
    tables
        (networks, 2) latencies and energies, by the accelerator's name.

    Returns
    -------
    pandas.DataFrame
        ``first``, ``second``, ``latency_s`` and ``energy_j``, a row per pair.

    Examples
    --------
    >>> first, second = np.array([[1.0, 3.0], [2.0, 2.0]]), np.array([[5.0, 1.0], [7.0, 2.0]])
    >>> rank_correlations({"a": first, "b": second}).to_dict("records")
    [{'first': 'a', 'second': 'b', 'latency_s': 1.0, 'energy_j': -1.0}]
    """
    names = list(tables)
    rows = []
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            values = [spearman(tables[first][:, column], tables[second][:, column]) for column in range(len(COSTS))]
            rows.append({"first": first, "second": second, **dict(zip(COSTS, values, strict=True))})
    return pd.DataFrame(rows, columns=["first", "second", *COSTS])


def spearman(first: Array, second: Array) -> float:
    """Return Spearman's rank correlation, with ties at their mean rank; NaN where one side is constant.

    Examples
    --------
    >>> spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 4.0, 9.0]))
    1.0
    """
    ranks = [rankdata(side) - (len(side) + 1) / 2 for side in (first, second)]
    norm = float(np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
    return float((ranks[0] * ranks[1]).sum() / norm) if norm else float("nan")


def cost_table(networks: Sequence[Any], accelerator: Any, cost: Callable[[Any, Any], Mapping[str, float]], name: str = "") -> Array:
    """Return (networks, 2) latencies and energies of all networks on one accelerator."""
    return _table(networks, list(range(len(networks))), accelerator, cost, name)


def _table(
    networks: Sequence[Any], places: list[int], accelerator: Any, cost: Callable[[Any, Any], Mapping[str, float]], name: str
) -> Array:
    table = np.full((len(networks), len(COSTS)), np.nan)
    for place in places:
        found = cost(networks[place], accelerator)
        for column, kind in enumerate(COSTS):
            value = found.get(kind, float("nan"))
            if not 0 < value < float("inf"):
                raise ValueError(f"Argument `cost` must return `{kind}` above 0, but returned {value!r} for network {place} on {name!r}")
            table[place, column] = value
    return table


def _grid(table: Array, limits: int) -> list[tuple[float, float]]:
    """Return all pairs of limits, at even quantiles of both costs up to the largest."""
    shares = np.arange(1, limits + 1) / limits
    known = table[~np.isnan(table).any(axis=1)]
    latencies, energies = (np.unique(np.quantile(known[:, column], shares, method="higher")) for column in range(2))
    return [(float(latency), float(energy)) for latency in latencies for energy in energies]


def _best_under_limits(scores: Array, table: Array, grid: Sequence[tuple[float, float]]) -> list[int]:
    found = {_best(scores, table, list(range(len(scores))), latency, energy) for latency, energy in grid}
    return sorted(place for place in found if place is not None)


def _best(scores: Array, table: Array, places: Sequence[int], latency: float, energy: float) -> int | None:
    """Return the most accurate network within limits; among equals the one of least energy, then latency."""
    chosen = np.asarray(places)
    within = chosen[(table[chosen, 0] <= latency) & (table[chosen, 1] <= energy)]
    if not len(within):
        return None
    order = np.lexsort((table[within, 0], table[within, 1], -scores[within]))
    return int(within[order[0]])


def _search(
    scores: Array, tables: Mapping[str, Array], names: Sequence[str], places: Sequence[int], latency: float, energy: float
) -> tuple[float, int, str] | None:
    best: tuple[float, int, str] | None = None
    for name in names:
        place = _best(scores, tables[name], places, latency, energy)
        if place is not None and (best is None or scores[place] > best[0]):
            best = (float(scores[place]), place, name)
    return best


def _named(found: tuple[float, int, str] | None, prefix: str) -> dict[str, Any]:
    accuracy, network, accelerator = found if found is not None else (float("nan"), -1, "")
    return {f"{prefix}accuracy": accuracy, f"{prefix}network": network, f"{prefix}accelerator": accelerator}


def _regret(scores: Array, table: Array, proxy: Array, kept: list[int], limits: int, name: str) -> dict[str, Any]:
    losses, unmet = [], 0
    for latency, energy in _grid(table, limits):
        best = _best(scores, table, list(range(len(scores))), latency, energy)
        few = _best(scores, table, kept, latency, energy)
        if best is not None and few is not None:
            losses.append(scores[best] - scores[few])
        unmet += best is not None and few is None
    possible = max(1, len(losses) + unmet)
    return {
        "accelerator": name, "mean_regret": float(np.mean(losses or [0.0])), "largest_regret": float(np.max(losses or [0.0])),
        "unmet": unmet / possible, "exact": float(np.sum(np.array(losses) <= 0)) / possible,
        "latency_correlation": spearman(table[:, 0], proxy[:, 0]),
        "energy_correlation": spearman(table[:, 1], proxy[:, 1]),
    }  # fmt: skip
