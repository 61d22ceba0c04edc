"""Where the numbers of a study's design come from."""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from devices.catalog import bibliography, read_preset
from devices.quantities import format_quantity, unit_of
from simulator.running import StudyResult
from simulator.study import Study


def source_table(result: StudyResult) -> pd.DataFrame:
    """Return a row per number of the base design: field, value, source; what the study changed names the study.

    Parameters
    ----------
    result
        A study's result.

    Returns
    -------
    pandas.DataFrame
        Columns ``field``, ``value``, ``source``.
    """
    info, preset = _preset(result.study)
    published = {} if info is None else dict(_leaves(info_design(result.study)))
    rows = []
    for path, value in _leaves(result.points[0].design.model_dump(mode="json")):
        if isinstance(value, bool | str) or value is None:
            continue
        source = "default of its class, not a published number" if info is not None else "this study"
        if path in published and published[path] != value:
            source = f"this study ({preset} has {_text(path, published[path])})"
        elif info is not None:
            source = next((str(info.sources[key]) for key in _parents(path) if key in info.sources), source)
        rows.append({"field": path, "value": _text(path, value), "source": source})
    return pd.DataFrame(rows, columns=["field", "value", "source"])


def bibtex(study: Study) -> str:
    """Return the BibTeX entries that the preset of a study cites.

    Examples
    --------
    >>> study = Study(name="s", model="digits_mlp", data="digits", design="wan_nature_2022")
    >>> "wan2022compute" in bibtex(study)
    True
    """
    info, _ = _preset(study)
    if info is None:
        return "% The design of this study is no preset: it cites nothing.\n"
    entries = bibliography()
    cited = dict.fromkeys(source.cite for source in info.sources.values() if source.cite)
    return "\n\n".join(entries.get(key, f"% no entry for {key}") for key in cited) + "\n"


def info_design(study: Study) -> dict[str, Any]:
    """Return the fields of the preset of a study, every default written out.

    Examples
    --------
    >>> info_design(Study(name="s", model="digits_mlp", data="digits", design="wan_nature_2022"))["rows"]
    256
    """
    alone = study.model_copy(update={"design": {"preset": study.design["preset"]}})
    fields: dict[str, Any] = alone.base().design.model_dump(mode="json")
    return fields


def _preset(study: Study) -> tuple[Any, str]:
    name = study.design.get("preset")
    return (None, "") if name is None else (read_preset(name)[0], str(name))


def _parents(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition(".")[0]


def _text(path: str, value: Any) -> str:
    unit = unit_of(path.rpartition(".")[2]) if isinstance(value, int | float) else None
    return f"{value:g}" if isinstance(value, float) and unit is None else str(value) if unit is None else format_quantity(value, unit)


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of nested tables by their dotted paths."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}".lstrip("."))
    else:
        yield path, value
