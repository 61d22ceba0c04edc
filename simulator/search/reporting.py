"""What a sweep leaves in its folder: the table, the front, figures, and a report for a reader who was not there."""

import base64
import io
import json
import math
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from devices.quantities import format_quantity, unit_of
from simulator.environment import environment
from simulator.figures import FORMATS, encode
from simulator.results import ResultsFolder, plain
from simulator.search.figures import draw_sweep, label_of_parameter
from simulator.search.found import Sweep
from simulator.search.importance import importances
from simulator.statistics import Interval
from simulator.tables import spread

REPORT, TEMPLATE = "report.html", "sweep.html"
SHOWN_FAILURES = 5
BESTS = 40
SHOWN_DESIGNS = 500
"""Rows of the report's table of all designs."""


def write_sweep_report(sweep: Sweep, folder: Path, *, title: str = "Design sweep", command: str = "") -> Path:
    """Write ``designs.csv``, ``designs.parquet``, ``front.csv``, ``summary.json``, figures and ``report.html``.

    Parameters
    ----------
    sweep
        The sweep.
    folder
        Where to write; each file is whole or absent.
    title
        Heading of the report.
    command
        What made it; empty for a call from Python.

    Returns
    -------
    pathlib.Path
        Of the report.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = ResultsFolder(folder)
    frame, front = sweep.frame, sweep.front()
    files.write("designs.csv", frame.to_csv(index=False, lineterminator="\n"))
    stream = io.BytesIO()
    _uniform(frame).to_parquet(stream, index=False)
    files.write("designs.parquet", stream.getvalue())
    files.write("front.csv", front.to_csv(index=False, lineterminator="\n"))
    found = summary(sweep)
    files.write("summary.json", json.dumps(found, indent=2) + "\n")
    images = {}
    for name, figure in draw_sweep(sweep).items():
        encoded = {kind: encode(figure, kind) for kind in {*FORMATS, "svg"}}
        for kind in FORMATS:
            files.write(f"figures/{name}.{kind}", encoded[kind])
        images[name] = "data:image/svg+xml;base64," + base64.b64encode(encoded["svg"]).decode()
    spaces = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    template = spaces.from_string((resources.files("simulator") / "templates" / TEMPLATE).read_text(encoding="utf-8"))
    failed = [trial for trial in sweep.trials if trial.error]
    html = template.render(
        title=title, headline=str(sweep), summary=found, images=images, front=front_table(sweep), designs=design_table(sweep),
        parameters=_parameters(sweep),
        goals=_goals(sweep), failures=[(t.number, t.configuration, t.error, sweep.traceback(t.number)) for t in failed[:SHOWN_FAILURES]],
        failed=len(failed), dropped=sum(trial.dropped for trial in sweep.trials), chips=sweep.chips, seed=sweep.seed,
        importance=_importance(sweep), heats=[name for name in images if name.startswith("heat_")], command=command,
        environment=environment(Path.cwd(), 1, ["inloop", "sweep"]),
        noisy=any(isinstance(value, list) for trial in sweep.trials for value in (trial.values or {}).values()),
    )  # fmt: skip
    return files.write(REPORT, html)


def summary(sweep: Sweep) -> dict[str, Any]:
    """Return a sweep's numbers as JSON holds them; what does not exist is None."""
    frame, front = sweep.frame, sweep.front()
    columns = [name for name in front if name not in ("state", "feasible", "front", "failure", "elapsed_s")]
    rows = [{str(name): _cell(row[name]) for name in columns} for row in front.to_dict("records")]
    found: dict[str, Any] = plain(
        {
            "headline": str(sweep), "goals": dict(sweep.goals.directions),
            "limits": {limit.name: [limit.low, limit.high] for limit in sweep.goals.limits}, "designs": len(frame),
            "chips": int(frame["chips"].sum()), "failed": int((frame["state"] == "failed").sum()),
            "dropped": int((frame["state"] == "dropped").sum()), "seed": sweep.seed, "front": rows,
        }
    )  # fmt: skip
    return found


def front_table(sweep: Sweep) -> pd.DataFrame:
    """Return the front as a person reads it: values with units and intervals."""
    front = sweep.front().head(BESTS)
    table = _readable(sweep, front)
    table["sure"] = ["yes" if sure else "no" for sure in front["sure"]]
    return table


def design_table(sweep: Sweep) -> pd.DataFrame:
    """Return all designs as a person reads them, up to 500, with what became of each."""
    frame = sweep.frame.head(SHOWN_DESIGNS)
    table = _readable(sweep, frame)
    words = zip(frame["state"], frame["front"], frame["feasible"], strict=True)
    table["state"] = [
        "front" if front else "outside a limit" if state != "failed" and not feasible else str(state) for state, front, feasible in words
    ]
    return table


def _readable(sweep: Sweep, rows: pd.DataFrame) -> pd.DataFrame:
    table: dict[str, list[str]] = {"design": [str(number) for number in rows["trial"]]}
    for name in sweep.space.parameters:
        table[label_of_parameter(name)] = [_text(name, value) for value in rows[name]]
    for name in sweep.goals.names:
        cells = []
        for row in rows.to_dict("records"):
            low, high = row.get(f"{name}_low", math.nan), row.get(f"{name}_high", math.nan)
            interval = Interval(row[name], low, high, 0.95, int(row["chips"]))
            cells.append(spread(interval) if math.isfinite(low) else _text(name, row[name]))
        table[name] = cells
    table["chips"] = [str(count) for count in rows["chips"]]
    return pd.DataFrame(table)


def _text(name: str, value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    unit = unit_of(name.rsplit(".", 1)[-1])
    if isinstance(value, float):
        if unit == "square meter":
            return f"{value * 1e6:.3g} mm²"
        return format_quantity(float(f"{value:.3g}"), unit).replace(" u", " µ") if unit else f"{value:.4g}"
    return str(value)


def _uniform(frame: pd.DataFrame) -> pd.DataFrame:
    """Write columns that mix kinds as texts, as Parquet needs one kind a column."""
    mixed = [name for name in frame if frame[name].dtype == object]
    return frame.astype(dict.fromkeys(mixed, str))


def _cell(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _parameters(sweep: Sweep) -> list[dict[str, str]]:
    rows = []
    for name, kind in sweep.space.written().items():
        if "options" in kind:
            values = ", ".join(str(option) for option in kind["options"])
        else:
            scale = ", logarithmic" if kind["log"] else ""
            values = f"{kind['low']:g} to {kind['high']:g}{scale}"
        when = "; ".join(f"{other} is {' or '.join(map(str, given))}" for other, given in kind["when"].items())
        rows.append({"name": name, "values": values, "when": when})
    return rows


def _goals(sweep: Sweep) -> list[str]:
    lines = [f"{direction} {name}" for name, direction in sweep.goals.directions.items()]
    for limit in sweep.goals.limits:
        ends = [f"at least {limit.low:g}" if limit.low is not None else "", f"at most {limit.high:g}" if limit.high is not None else ""]
        lines.append(f"{limit.name} {' and '.join(end for end in ends if end)}")
    return lines


def _importance(sweep: Sweep) -> list[dict[str, str]]:
    return [
        {
            "goal": row["goal"], "parameter": row["parameter"], "importance": f"{row['importance']:.3f} ± {row['std']:.3f}",
            "explained": f"{row['oob_r2']:.2f}",
        }
        for row in importances(sweep).to_dict("records")
    ]  # fmt: skip
