"""Does the ranking of networks survive a move from a systolic array to a crossbar? Semi-decoupled co-design across families.

``inloop bench semi_decoupled`` prints published beside measured, and writes ``benchmarks/results/semi_decoupled.json`` and ``.png``.
Lu and others (arXiv 2203.13921) found it between dataflows of digital arrays; no paper has it for analog hardware.
"""

import itertools

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.codesign_digits import SUBSTITUTE, accelerators, accuracy_of, network_of, trained_family
from benchmarks.timing import RESULTS, save
from simulator.codesign import LayerCosts, cost_table, rank_correlations, semi_decoupled
from simulator.figures import encode

COMMAND = "inloop bench semi_decoupled"
PUBLISHED = {"latency_s": (0.9748, 0.9925), "energy_j": (0.9724, 0.9908)}
"""Least and mean Spearman correlation over three dataflows, 1,018 networks: a reference run of arXiv 2203.13921's tables."""
PUBLISHED_RATIO, PUBLISHED_EXACT = 15.9, "58 to 95 %"
ALIKE = 0.9
"""Rank correlation from which accelerators are said to rank networks alike; the paper's digital ones are at 0.97 and above."""
EVERY = 2
"""Every so many networks of the family: 324 of 648."""


def measure() -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame, list[str]]:
    """Return rank correlations by pair, those by kind of pair, regrets by proxy and accelerator, and what the costs leave out."""
    family = trained_family()
    build = network_of(family)
    configurations = list(itertools.islice(family.space, 0, None, EVERY))
    scores = [accuracy_of(build(configuration)) for configuration in configurations]
    networks = [family.layers(configuration) for configuration in configurations]
    cost, hardware = LayerCosts(partial=True), accelerators()
    tables = {name: cost_table(networks, design, cost, name) for name, design in hardware.items()}
    pairs = rank_correlations(tables)
    pairs["pair"] = [" - ".join(sorted({group(a), group(b)})) for a, b in zip(pairs["first"], pairs["second"], strict=True)]
    by_kind = pairs.groupby("pair")[["latency_s", "energy_j"]].agg(["min", "mean"])
    by_kind.columns = ["latency least", "latency mean", "energy least", "energy mean"]

    def known(network: int, name: str) -> dict[str, float]:
        return {"latency_s": float(tables[name][network, 0]), "energy_j": float(tables[name][network, 1])}

    regrets = []
    for proxy in ("digital WS 16x16", "SRAM macro 64 rows", "crossbar 128 rows"):
        found = semi_decoupled(range(len(networks)), {name: name for name in hardware}, known, scores, proxy=proxy)
        rows = found.by_accelerator.assign(proxy=proxy, kept=len(found.kept), ratio=found.exhaustive_evaluations / found.evaluations)
        regrets.append(
            rows.assign(overall_exact=found.exact, overall_loss=found.frame["loss"].mean(), overall_worst=found.frame["loss"].max())
        )
        print(f"proxy {proxy}: {found}", flush=True)
    missing = [f"{name}: {', '.join(terms)}" for name, terms in cost.missing.items()]
    return pairs, by_kind.reset_index(), pd.concat(regrets, ignore_index=True), missing


def answers(regrets: pd.DataFrame) -> pd.DataFrame:
    """Return, from kind of proxy to kind of accelerator: the least rank correlations, and what searching over the kept networks loses."""
    rows = regrets[regrets["proxy"] != regrets["accelerator"]]
    kinds = {"proxy": rows["proxy"].map(group), "on": rows["accelerator"].map(group)}
    found = rows.assign(**kinds).groupby(["proxy", "on"])
    return found.agg(
        latency_correlation=("latency_correlation", "min"), energy_correlation=("energy_correlation", "min"),
        mean_regret=("mean_regret", "mean"), largest_regret=("largest_regret", "max"), exact=("exact", "mean"), unmet=("unmet", "max"),
    ).reset_index()  # fmt: skip


def verdict(answer: pd.DataFrame) -> str:
    """Return in words whether the property holds between digital and analog hardware."""
    from_digital = answer["proxy"] == "digital"
    inside, across = answer[from_digital & (answer["on"] == "digital")], answer[from_digital & (answer["on"] != "digital")]
    back = answer[~from_digital & (answer["on"] == "digital")]
    ranks = []
    for cost in ("energy", "latency"):
        least, own = (float(rows[f"{cost}_correlation"].min()) for rows in (across, inside))
        holds = "yes" if least >= ALIKE else "no"
        ranks.append(f"for {cost} {holds}: ranks correlate at {least:.2f} or more ({own:.2f} among digital arrays)")
    lost, worst = 100 * float(across["mean_regret"].max()), 100 * float(across["largest_regret"].max())
    return (
        f"Does the property hold between digital and analog hardware? {'; '.join(ranks)}. Over networks kept on a digital proxy the "
        f"optimum on analog hardware is exact at {across['exact'].mean():.0%} of the limits ({inside['exact'].mean():.0%} on digital "
        f"arrays), with {lost:.2f} points of accuracy lost on average and {worst:.1f} at worst. "
        f"Kept on an analog proxy, no network meets up to {back['unmet'].max():.0%} of a digital array's limits."
    )


def group(name: str) -> str:
    """Return "digital", "SRAM macro" or "crossbar"."""
    return next(word for word in ("digital", "SRAM macro", "crossbar") if name.startswith(word))


def draw(pairs: pd.DataFrame, regrets: pd.DataFrame) -> Figure:
    """Draw the matrix of rank correlations, latency below and energy above the diagonal, and the regret at each optimum."""
    names = list(dict.fromkeys([*pairs["first"], *pairs["second"]]))
    matrix = np.eye(len(names))
    for row in pairs.to_dict("records"):
        i, j = names.index(row["first"]), names.index(row["second"])
        matrix[max(i, j), min(i, j)], matrix[min(i, j), max(i, j)] = row["latency_s"], row["energy_j"]
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    image = left.imshow(matrix, vmin=min(0.0, float(np.nanmin(matrix))), vmax=1, cmap="viridis")
    for (i, j), value in np.ndenumerate(matrix):
        left.annotate(f"{value:.2f}", (j, i), ha="center", va="center", fontsize=5.5, color="white" if value < 0.7 else "black")
    left.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=6)
    left.set_yticks(range(len(names)), names, fontsize=6)
    left.set_title("Spearman correlation: latency (below), energy (above)", fontsize=8)
    figure.colorbar(image, ax=left, shrink=0.8)
    proxies = list(dict.fromkeys(regrets["proxy"]))
    for place, proxy in enumerate(proxies):
        rows = regrets[regrets["proxy"] == proxy].set_index("accelerator").loc[names]
        places = np.arange(len(names)) + (place - 1) * 0.27
        right.barh(
            places, 100 * rows["mean_regret"], 0.25, label=f"proxy {proxy}, {rows['kept'].iloc[0]:.0f} networks kept", color=f"C{place}"
        )
        right.plot(100 * rows["largest_regret"], places, "|", color="#333333", markersize=5)
        for height, largest, unmet in zip(places, rows["largest_regret"], rows["unmet"], strict=True):
            if unmet > 0:
                right.annotate(
                    f"none at {unmet:.0%}", (100 * largest, height), xytext=(4, 0), textcoords="offset points", va="center", fontsize=5
                )
    right.set_yticks(range(len(names)), names, fontsize=6)
    right.invert_yaxis()
    right.tick_params(axis="x", labelsize=6)
    right.set_xlabel(
        "accuracy lost at a limit: mean (bar), largest (tick), percentage points\nin words: share of limits that no kept network keeps",
        fontsize=6,
    )
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower right", fontsize=6, ncols=3)
    return figure


def main() -> None:
    """Measure, print and save."""
    pairs, by_kind, regrets, missing = measure()
    print(f"{SUBSTITUTE}; family of {648 // EVERY} networks, 10 accelerators, our cost models")
    own = pairs[pairs["pair"] == "digital"]
    columns = ["digital dataflows", "published least", "measured least", "published mean", "measured mean"]
    rows = [[name, least, own[name].min(), mean, own[name].mean()] for name, (least, mean) in PUBLISHED.items()]
    print(pd.DataFrame(rows, columns=columns).round(4).to_string(index=False))
    low, high = regrets["overall_exact"].min(), regrets["overall_exact"].max()
    print(f"evaluations saved: published {PUBLISHED_RATIO}x (51 accelerators), measured {regrets['ratio'].max():.1f}x (10 accelerators)")
    print(f"exact optimum: published at {PUBLISHED_EXACT} of the limits, measured at {low:.0%} to {high:.0%}")
    print(by_kind.round(3).to_string(index=False))
    print(regrets.round(4).to_string(index=False))
    answer = answers(regrets)
    print(answer.round(4).to_string(index=False))
    print(verdict(answer))
    for line in missing:
        print(f"left out of sums, not given: {line}")
    figure = draw(pairs, regrets)
    (RESULTS / "semi_decoupled.png").write_bytes(encode(figure, "png"))
    told = pd.DataFrame([{"table": "verdict", "words": verdict(answer)}])
    tables = [
        told,
        answer.assign(table="answers"),
        pairs.assign(table="pairs"),
        by_kind.assign(table="kinds"),
        regrets.assign(table="regrets"),
    ]
    print(f"written to {save('semi_decoupled', COMMAND, pd.concat(tables, ignore_index=True))}")


if __name__ == "__main__":
    main()
