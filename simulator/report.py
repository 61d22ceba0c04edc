"""Everything that a finished study leaves in its folder: tables, figures, and a report for a reader who was not there."""

import base64
import io
import json
import shlex
from importlib import resources
from typing import Any

import jinja2
import pandas as pd

from simulator.costing import totals
from simulator.figures import FORMATS, LABELS, draw, encode, label_of, text_of
from simulator.results import STUDY, ResultsFolder, plain
from simulator.running import PLAIN, StudyResult
from simulator.sources import bibtex, source_table
from simulator.tables import (
    arms_table,
    cost_table,
    coverage_table,
    headline,
    latex,
    spread,
    totals_table,
    trial_frame,
    varied_table,
)
from simulator.trained import NOISE_AWARE

REPORT = "report.html"


def write_report(result: StudyResult, folder: ResultsFolder, environment: dict[str, Any]) -> dict[str, Any]:
    """Write tables, figures, the summary and the report of a study.

    Parameters
    ----------
    result
        A study's result.
    folder
        Where to write; each file is whole or absent.
    environment
        From `simulator.environment.environment`.

    Returns
    -------
    dict
        The summary, as ``summary.json`` has it.
    """
    frame = trial_frame(result)
    folder.write("trials.csv", frame.to_csv(index=False, lineterminator="\n"))
    stream = io.BytesIO()
    frame.to_parquet(stream, index=False)
    folder.write("trials.parquet", stream.getvalue())
    folder.write("environment.json", json.dumps(plain(environment), indent=2) + "\n")
    images = {}
    for name, figure in draw(result).items():
        encoded = {kind: encode(figure, kind) for kind in FORMATS}
        for kind, content in encoded.items():
            folder.write(f"figures/{name}.{kind}", content)
        images[name] = "data:image/svg+xml;base64," + base64.b64encode(encoded["svg"]).decode()
    for name, table in _tables(result).items():
        folder.write(f"tables/{name}.tex", f"% needs \\usepackage{{booktabs}}\n{latex(table)}\n")
    folder.write("sources.bib", bibtex(result.study))
    found = summary(result)
    folder.write("summary.json", json.dumps(found, indent=2) + "\n")
    folder.write(REPORT, _html(result, environment, images))
    return found


def summary(result: StudyResult) -> dict[str, Any]:
    """Return a study's numbers as JSON holds them; what does not exist is None."""
    study = result.study
    arms = {arm: {name: _numbers(result, arm, 0, name) for name in evaluation.metrics} for (arm, index), evaluation in _base(result)}
    comparisons = {}
    for name in result.evaluations[PLAIN, 0].metrics:
        comparison = result.comparison(name)
        if comparison is not None:
            difference = comparison.difference
            comparisons[name] = {
                "difference": difference.value, "low": difference.low, "high": difference.high, "p_value": comparison.p_value,
                "wins": comparison.wins, "ties": comparison.ties, "better": comparison.better,
            }  # fmt: skip
    points = {
        path: [
            {"value": result.points[index].value}
            | {arm: {name: _numbers(result, arm, index, name) for name in result.evaluations[arm, index].metrics} for arm in result.arms}
            for index in places
        ]
        for path, places in result.varied().items()
    }
    summed = {name: {"value": total.value, "not_given": list(total.missing)} for name, total in totals(result.cost).items()}
    found: dict[str, Any] = plain(
        {
            "study": study.name, "headline": headline(result), "seed": study.seed, "trials": study.trials, "arms": arms,
            "noise_aware_minus_plain": comparisons, "varied": points, "cost_of_one_sample": summed, "warnings": result.warnings,
            "training_loss": {arm: list(losses) for arm, losses in result.losses.items()},
        }
    )  # fmt: skip
    return found


def _base(result: StudyResult) -> list[tuple[tuple[str, int], Any]]:
    return [(place, evaluation) for place, evaluation in result.evaluations.items() if place[1] == 0]


def _numbers(result: StudyResult, arm: str, index: int, name: str) -> dict[str, Any]:
    evaluation = result.evaluations[arm, index]
    mean, parts = evaluation.mean(name), evaluation.components(name)
    numbers = {
        "mean": mean.value, "low": mean.low, "high": mean.high, "confidence": mean.confidence, "chip_std": parts.chip_std,
        "test_error": parts.test_error, "worst": evaluation.worst(name), "percentile_5": evaluation.percentile(5.0, name),
        "float": evaluation.reference[name],
    }  # fmt: skip
    spec = result.study.metrics.spec
    if spec is not None and name == next(iter(evaluation.metrics)):
        met = evaluation.yield_at(spec, name)
        numbers["yield"] = {"spec": spec, "value": met.value, "low": met.low, "high": met.high}  # type: ignore[assignment]
    return numbers


def _tables(result: StudyResult) -> dict[str, pd.DataFrame]:
    found = {}
    for name in result.evaluations[PLAIN, 0].metrics:
        found[f"chips_{name}"] = arms_table(result, name)
        found |= {f"varied_{path.replace('.', '_')}_{name}": varied_table(result, path, name) for path in result.varied()}
    return found | {"coverage": coverage_table(result), "cost": cost_table(result), "totals": totals_table(result)}


def _html(result: StudyResult, environment: dict[str, Any], images: dict[str, str]) -> str:
    study = result.study
    names = list(result.evaluations[PLAIN, 0].metrics)
    spaces = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    template = spaces.from_string((resources.files("simulator") / "templates" / REPORT).read_text(encoding="utf-8"))
    comparison = result.comparison(names[0])
    varied = [
        {
            "label": label_of(path),
            "path": path,
            "base": text_of(path, result.points[0].at(path)),
            "image": images[f"varied_{path.replace('.', '_')}"],
            "tables": {name: _records(varied_table(result, path, name)) for name in names},
        }
        for path in result.varied()
    ]
    digital = result.coverage[result.coverage["hardware"] == "host"]["layer"]
    return template.render(
        study=study,
        headline=headline(result),
        environment=environment,
        images=images,
        metrics=names,
        arms={name: _records(arms_table(result, name)) for name in names},
        components={LABELS[arm]: str(result.evaluations[arm, 0].components(names[0])) for arm in result.arms},
        comparison=None if comparison is None else str(comparison),
        comparison_better=None if comparison is None else comparison.better,
        difference=None if comparison is None else spread(comparison.difference, signed=True),
        trained=NOISE_AWARE in result.arms,
        varied=varied,
        coverage=_records(coverage_table(result)),
        digital=list(digital),
        cost=_records(cost_table(result)),
        totals=_records(totals_table(result)),
        warnings=result.warnings,
        sources=_records(source_table(result)),
        bibtex=bibtex(study),
        design=type(result.points[0].design).__name__,
        design_name=study.design.get("preset", type(result.points[0].design).__name__),
        data=result.data,
        resolved=study.resolved(),
        again=shlex.join(["inloop", "run", STUDY, "--out", "again"]),
        losses={LABELS[arm]: values for arm, values in result.losses.items() if values},
    )


def _records(frame: pd.DataFrame) -> dict[str, Any]:
    return {"columns": list(frame.columns), "rows": frame.to_numpy().tolist()}
