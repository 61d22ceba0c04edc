"""Tables of a study: frames for files, text for the console, LaTeX for a paper."""

import math
from typing import Any

import pandas as pd

from simulator.costing import Total, totals
from simulator.figures import LABELS, label_of, text_of
from simulator.running import PLAIN, StudyResult
from simulator.statistics import Interval
from simulator.words import percent

PREFIXES = ((1e-15, "f"), (1e-12, "p"), (1e-9, "n"), (1e-6, "µ"), (1e-3, "m"), (1.0, ""))
UNITS = {"energy_j": "J", "static_energy_j": "J", "latency_s": "s", "interval_s": "s", "area_m2": "m²", "programming_energy_j": "J"}
TOTAL_NAMES = {
    "energy_j": "energy of one sample",
    "static_energy_j": "of it at rest",
    "latency_s": "latency of one sample",
    "interval_s": "time between samples",
    "area_m2": "area",
    "programming_energy_j": "programming all weights once",
}


def trial_frame(result: StudyResult) -> pd.DataFrame:
    """Return a row per trial of every arm and point.

    Columns: ``arm``; ``varied``, the path of the field that differs from the base (empty at the base); a column for each varied
    field with the value it has in this row, in SI units; ``trial``; ``seed``; and a column for each metric.
    """
    paths = list(result.varied())
    parts = []
    for (arm, index), evaluation in result.evaluations.items():
        point = result.points[index]
        part = evaluation.frame.copy()
        part.insert(0, "arm", arm)
        part.insert(1, "varied", point.varied)
        for place, path in enumerate(paths):
            value = point.at(path)
            part.insert(2 + place, path, pd.Series([value if _is_scalar(value) else type(value).__name__] * len(part), dtype=object))
        parts.append(part)
    frame = pd.concat(parts, ignore_index=True)
    return frame.assign(**{path: frame[path].infer_objects() for path in paths})


def arms_table(result: StudyResult, metric: str) -> pd.DataFrame:
    """Return a row per arm at the base: mean with interval, spreads, worst chip, 5th percentile, yield, and the float model."""
    rows = []
    for arm in result.arms:
        evaluation = result.evaluations[arm, 0]
        parts, spec = evaluation.components(metric), result.study.metrics.spec
        row = {
            "chips": LABELS[arm],
            f"{metric} (95%)": spread(evaluation.mean(metric)),
            "chip to chip": number(parts.chip_std),
            "test-set error": number(parts.test_error),
            "worst chip": number(evaluation.worst(metric), 4),
            "5th percentile": number(evaluation.percentile(5.0, metric), 4),
            "float": number(evaluation.reference[metric], 4),
        }
        if spec is not None and metric == result.study.metrics.names[0].rpartition(":")[2]:
            row[f"yield at {spec:g}"] = f"{evaluation.yield_at(spec, metric)}".replace(" (95 %)", "")
        rows.append(row)
    return pd.DataFrame(rows)


def varied_table(result: StudyResult, path: str, metric: str) -> pd.DataFrame:
    """Return a row per value of a varied field, with the mean and interval of each arm, and what noise-aware training changes."""
    rows = []
    for index in result.varied()[path]:
        row = {label_of(path): text_of(path, result.points[index].value)}
        for arm in result.arms:
            row[LABELS[arm]] = spread(result.evaluations[arm, index].mean(metric))
        comparison = result.comparison(metric, index)
        if comparison is not None:
            row["difference"] = spread(comparison.difference, signed=True)
        rows.append(row)
    return pd.DataFrame(rows)


def coverage_table(result: StudyResult) -> pd.DataFrame:
    """Return the coverage table with text for what is absent."""
    frame = result.coverage
    return pd.DataFrame(
        {
            "layer": frame["layer"],
            "kind": frame["kind"],
            "hardware": frame["hardware"],
            "MACs": ["?" if pd.isna(macs) else f"{macs:,}" for macs in frame["macs"]],
            "arrays": ["" if pd.isna(arrays) else str(arrays) for arrays in frame["arrays"]],
            "used": ["" if pd.isna(share) else percent(share) for share in frame["utilization"]],
            "note": frame["reason"],
        }
    )


def cost_table(result: StudyResult) -> pd.DataFrame:
    """Return the cost table of one sample with readable units; what has no constant says so."""
    frame = result.cost
    columns: dict[str, Any] = {"layer": frame["layer"], "hardware": frame["hardware"], "term": frame["term"]}
    for column, title in (("energy_j", "energy"), ("latency_s", "latency"), ("area_m2", "area")):
        columns[title] = [quantity(value, UNITS[column]) for value in frame[column]]
    columns["operations"] = ["" if pd.isna(count) else f"{count:,}" for count in frame["operations"]]
    columns["note"] = [note + ("; once, when weights are written" if once and note else "once" if once else "")
                       for note, once in zip(frame["note"], frame["once"], strict=True)]  # fmt: skip
    return pd.DataFrame(columns)


def totals_table(result: StudyResult) -> pd.DataFrame:
    """Return what the cost table adds up to, and what each sum leaves out."""
    rows = []
    for name, total in totals(result.cost).items():
        rows.append({"total": TOTAL_NAMES[name], "value": total_text(total, UNITS[name]), "left out (not given)": ", ".join(total.missing)})
    return pd.DataFrame(rows)


def total_text(total: Total, unit: str) -> str:
    """Return a sum with its unit, marked as partial where it leaves terms out.

    Examples
    --------
    >>> total_text(Total(1.5e-9, ("DAC",)), "J"), total_text(Total(None, ("DAC",)), "J")
    ('at least 1.5 nJ (partial)', 'not given')
    """
    text = quantity(total.value, unit)
    return f"at least {text} (partial)" if total.partial and total.value is not None else text


def quantity(value: float | None, unit: str) -> str:
    """Return a number with three digits, a prefix and its unit.

    Examples
    --------
    >>> quantity(2.345e-10, "J"), quantity(float("nan"), "J"), quantity(1.2e-9, "m²"), quantity(0.0, "s")
    ('235 pJ', 'not given', '1200 µm²', '0 s')
    """
    if value is None or math.isnan(value):
        return "not given"
    if value == 0:
        return f"0 {unit}"
    power = 2 if unit == "m²" else 1
    step, prefix = next(((step**power, prefix) for step, prefix in reversed(PREFIXES) if value >= step**power), PREFIXES[0])
    return f"{float(f'{value / step:.3g}'):g} {prefix}{unit}"


def number(value: float, digits: int = 2) -> str:
    """Return a number with some significant digits; "n/a" for NaN.

    Examples
    --------
    >>> number(0.01234), number(float("nan"))
    ('0.012', 'n/a')
    """
    return "n/a" if math.isnan(value) else f"{value:.{digits}g}"


def spread(interval: Interval, *, signed: bool = False) -> str:
    """Return a mean with its interval, without the words for its confidence.

    Examples
    --------
    >>> spread(Interval(0.953, 0.947, 0.959, 0.95, 25))
    '0.953 ± 0.006'
    """
    text = str(interval).replace(f" ({100 * interval.confidence:g} %)", "")
    return f"+{text}" if signed and interval.value > 0 else text


def latex(frame: pd.DataFrame) -> str:
    r"""Return a table as LaTeX's ``tabular``, for the package booktabs.

    Examples
    --------
    >>> print(latex(pd.DataFrame({"layer": ["features.0"], "used": ["14%"]})))
    \begin{tabular}{ll}
    \toprule
    layer & used \\
    \midrule
    features.0 & 14\% \\
    \bottomrule
    \end{tabular}
    """
    lines = [[escape(str(cell)) for cell in row] for row in (list(frame.columns), *frame.to_numpy().tolist())]
    head, *body = (" & ".join(line) + r" \\" for line in lines)
    return "\n".join(
        [rf"\begin{{tabular}}{{{'l' * len(frame.columns)}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule", r"\end{tabular}"]
    )


def escape(text: str) -> str:
    r"""Return text as LaTeX takes it.

    Examples
    --------
    >>> escape("a_b & 5 % ± 1 µm²")
    'a\\_b \\& 5 \\% $\\pm$ 1 $\\mu$m$^2$'
    """
    table = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "µ": r"$\mu$", "²": "$^2$"}
    return "".join(table.get(letter, f"\\{letter}" if letter in "_&%$#{}" else letter) for letter in text)


def headline(result: StudyResult) -> str:
    """Return the study in one sentence: what the chips reach, what the float model does, and what noise-aware training buys."""
    plain = result.evaluations[PLAIN, 0]
    name = next(iter(plain.metrics))
    design = result.study.design.get("preset", type(result.points[0].design).__name__)
    text = (
        f"{result.study.model.name.rpartition(':')[2]} has {name} {plain.mean(name)} on {_chips(result.study.trials)} of {design} "
        f"(worst {number(plain.worst(name), 4)}); the float model has {number(plain.reference[name], 4)}."
    )
    comparison = result.comparison(name)
    if comparison is None:
        return text
    trained = next(result.evaluations[arm, 0] for arm in result.arms if arm != PLAIN)
    change = f"{trained.mean(name)} (worst {number(trained.worst(name), 4)})"
    difference = spread(comparison.difference, signed=True)
    if comparison.better is None:
        return f"{text} Noise-aware training gives {change}: no difference shown ({difference})."
    return f"{text} Noise-aware training {'raises' if comparison.difference.value > 0 else 'lowers'} it to {change}: {difference}."


def _chips(count: int) -> str:
    return f"{count} chip{'s' if count != 1 else ''}"


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)
