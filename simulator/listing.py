"""Presets as rows to print."""

from collections.abc import Iterator, Mapping
from typing import Any

from devices.catalog import presets, read_preset
from devices.design import Design
from devices.quantities import format_quantity, unit_of


def preset_list() -> list[dict[str, str]]:
    """Return a row per preset: name, class, description, and the publications that its numbers come from.

    Examples
    --------
    >>> "wan_nature_2022" in [row["preset"] for row in preset_list()]
    True
    """
    return [
        {
            "preset": info.name,
            "hardware": info.type.rpartition(":")[2],
            "description": info.description,
            "sources": ", ".join(dict.fromkeys(source.cite for source in info.sources.values() if source.cite)),
        }
        for info in presets()
    ]


def preset_fields(name: str) -> dict[str, Any]:
    """Return what a preset says of itself, and a row per field of its design: value, unit and source.

    Parameters
    ----------
    name
        Name of a preset, or the path of a TOML file.

    Raises
    ------
    DesignError
        Where there is no such preset; one line with the nearest name.

    Examples
    --------
    >>> "cell.type" in [row["field"] for row in preset_fields("wan_nature_2022")["fields"]]
    True
    """
    info, written = read_preset(name)
    design = Design.preset(name)
    given = {path for path, _ in _leaves(written)}
    rows = []
    for path, value in _leaves(design.model_dump(mode="json")):
        unit = unit_of(path.rpartition(".")[2]) if isinstance(value, float) else None
        source = next((str(info.sources[key]) for key in _parents(path) if key in info.sources), "")
        if not source and path not in given:
            source = "not given" if value is None else "default"
        text = format_quantity(value, unit) if unit is not None else "none" if value is None else str(value)
        rows.append({"field": path, "value": text, "unit": unit or "", "source": source})
    return {"name": info.name, "type": info.type, "description": info.description, "path": str(info.path), "fields": rows}


def _parents(path: str) -> Iterator[str]:
    while path:
        yield path
        path = path.rpartition(".")[0]


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}".lstrip("."))
    else:
        yield path, value
