"""Presets: published designs as TOML files, each number with the source it was taken from.

A preset is a file ``presets/NAME.toml`` in any folder of the package, or any TOML file given by its path::

    type = "devices.rram.crossbar:RRAMCrossbar"
    description = "What was measured, in one line"

    [design]
    rows = 256
    cell = {type = "package.module:Class", g_min_siemens = "1 uS", g_max_siemens = "40 uS"}

    [sources]
    rows = {cite = "key2022word", where = "Table 1"}
    "cell.g_min_siemens" = "measured in our laboratory"
"""

import importlib.resources
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from devices.design import Design, DesignError
from devices.quantities import load_class, nearest, parse_quantity, shown, unit_of

D = TypeVar("D", bound=Design)

_KEYS = ("type", "description", "design", "sources")
_ENTRY = re.compile(r"@\s*(\w+)\s*\{\s*([^\s,{}]+)\s*,")


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a number was published.

    Parameters
    ----------
    cite
        Key of the publication in `bibliography`, or empty where `where` says it all.
    where
        The figure, table or page, or a free text.

    Examples
    --------
    >>> str(Source(cite="key2022word", where="Fig. 3"))
    'key2022word, Fig. 3'
    """

    cite: str = ""
    where: str = ""

    def __str__(self) -> str:
        return ", ".join(part for part in (self.cite, self.where) if part)


@dataclass(frozen=True, kw_only=True)
class PresetInfo:
    """What a preset says of itself.

    Parameters
    ----------
    name
        The name that ``Design.preset`` takes.
    type
        The class it describes, ``"package.module:Class"``.
    description
        One line.
    path
        The file.
    sources
        The source of each number, by the path of its field (``"cell.g_min_siemens"``); a path covers the fields below it.

    Examples
    --------
    >>> PresetInfo(name="mine", type="package.module:Class", description="", path=Path("mine.toml"), sources={}).name
    'mine'
    """

    name: str
    type: str
    description: str
    path: Path
    sources: dict[str, Source]


def presets(root: Path | None = None) -> list[PresetInfo]:
    """List the presets that the package brings, sorted by name.

    Parameters
    ----------
    root
        Folder to search for ``presets/*.toml`` at any depth; by default that of the package `devices`.

    Raises
    ------
    DesignError
        Where a file is no preset, or two presets have one name.

    Examples
    --------
    >>> "wan_nature_2022" in [info.name for info in presets()]
    True
    """
    return [_read(name, path)[0] for name, path in _files(root).items()]


def read_preset(name: str | Path, root: Path | None = None) -> tuple[PresetInfo, dict[str, Any]]:
    """Read a preset without building its design.

    Parameters
    ----------
    name
        Name of a preset, or else the path of a file that ends in ``.toml``.
    root
        As in `presets`.

    Returns
    -------
    tuple
        What the preset says of itself, and the fields of its design as they are written.

    Raises
    ------
    DesignError
        Where there is no such preset, or its file is not one.

    Examples
    --------
    >>> read_preset("wan_nature_2022")[0].type
    'devices.rram.crossbar:RRAMCrossbar'
    """
    files = _files(root)
    if str(name) in files:
        return _read(str(name), files[str(name)])
    if str(name).endswith(".toml"):
        path = Path(name).expanduser()
        if path.is_file():
            return _read(path.stem, path)
        raise DesignError(
            f"preset `{name}` must be a file that exists, but there is none; check the path, or list names with `inloop presets`"
        )
    guess = nearest(str(name), files)
    hint = f"{guess} List them with `inloop presets`" if guess.startswith("did") else "list them with `inloop presets`"
    raise DesignError(f"preset `{name}` must be one that exists or a path that ends in .toml, but is neither; {hint}")


def build_preset(cls: type[D], name: str | Path, overrides: Mapping[str, Any], root: Path | None = None) -> D:
    """Build a preset's design; see ``Design.preset``.

    Parameters
    ----------
    cls
        The class that the preset must describe.
    name, root
        As in `read_preset`.
    overrides
        Fields to change, as in ``Design.replace``.

    Raises
    ------
    DesignError
        Where there is no such preset, it describes another class, or a value is not allowed.

    Examples
    --------
    >>> build_preset(Design, "wan_nature_2022", {"rows": 128}).rows
    128
    """
    info, fields = read_preset(name, root)
    try:
        chosen = load_class(info.type, Design)
        if not issubclass(chosen, cls):
            raise DesignError(
                f"{cls.__name__}: preset `{info.name}` must describe a {cls.__name__}, but describes a {chosen.__name__}; "
                f"use {chosen.__name__}.preset({str(name)!r})"
            )
        design = chosen.from_dict(fields | {"type": chosen})
    except ValueError as error:
        raise DesignError(f"{error} (preset {info.path})") from None
    return design.replace(**overrides) if overrides else design


def sources_of(name: str | Path, root: Path | None = None) -> dict[str, Source]:
    """Return the sources of a preset's numbers, by the path of the field.

    Parameters
    ----------
    name, root
        As in `read_preset`.

    Raises
    ------
    DesignError
        Where there is no such preset, or its file is not one.

    Examples
    --------
    >>> all(isinstance(source, Source) for source in sources_of("wan_nature_2022").values())
    True
    """
    return read_preset(name, root)[0].sources


def unsourced_fields(name: str | Path, root: Path | None = None) -> list[str]:
    """Return the paths of the numbers and quantities in a preset that have no source.

    Parameters
    ----------
    name, root
        As in `read_preset`.

    Raises
    ------
    DesignError
        Where there is no such preset, or its file is not one.

    Examples
    --------
    >>> unsourced_fields("wan_nature_2022")
    []
    """
    info, fields = read_preset(name, root)
    return [path for path, value in _walk(fields) if _is_number(path, value) and not _covered(path, info.sources)]


def bibliography(path: Path | None = None) -> dict[str, str]:
    """Return the BibTeX entries that sources cite.

    Parameters
    ----------
    path
        A BibTeX file with entries in braces; by default ``references.bib`` of the package `devices`.

    Returns
    -------
    dict
        Each entry's text, from its ``@`` to its closing brace, by its key.

    Raises
    ------
    DesignError
        Where an entry is not closed, or a key occurs twice.

    Examples
    --------
    >>> all(text.startswith("@") for text in bibliography().values())
    True
    """
    path = path or _package() / "references.bib"
    text = path.read_text(encoding="utf-8")
    entries: dict[str, str] = {}
    for match in _ENTRY.finditer(text):
        kind, key = match[1].lower(), match[2]
        if kind in ("comment", "string", "preamble"):
            continue
        if key in entries:
            raise DesignError(f"bibliography {path}: key `{key}` must occur once, but occurs again; rename or remove one entry")
        entries[key] = text[match.start() : _closing_brace(text, match.start(), f"bibliography {path}: entry `{key}`")]
    return entries


def _package() -> Path:
    return Path(str(importlib.resources.files("devices")))


def _files(root: Path | None) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted((root or _package()).glob("**/presets/*.toml"), key=lambda path: (path.stem, path)):
        if path.stem in found:
            raise DesignError(f"preset name `{path.stem}` must be used once, but is that of {found[path.stem]} and {path}; rename one")
        found[path.stem] = path
    return found


def _read(name: str, path: Path) -> tuple[PresetInfo, dict[str, Any]]:
    def require(holds: bool, what: str) -> None:
        if not holds:
            raise DesignError(f"preset `{name}`: {what} (in {path})")

    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise DesignError(f"preset `{name}`: {path} must be a TOML file that can be read, but is not ({error}); correct it") from None
    for key in content:
        require(key in _KEYS, f"key `{key}` must be one of {', '.join(_KEYS)}, but is unknown; {nearest(key, _KEYS)}")
    kind, description = content.get("type"), content.get("description", "")
    fields, sources = content.get("design", {}), content.get("sources", {})
    require(isinstance(kind, str), f"`type` must be a text such as 'package.module:Class', but got {shown(kind)}; name the class")
    require(isinstance(description, str), f"`description` must be a text, but got {shown(description)}; write one line in quotes")
    require(isinstance(fields, dict), f"`design` must be a table, but got {shown(fields)}; write [design] and its fields")
    require("type" not in fields, "`design` must not contain `type`, but does; write it above [design]")
    require(isinstance(sources, dict), f"`sources` must be a table, but got {shown(sources)}; write [sources] and a line for each field")
    try:
        read = dict(_read_sources(sources))
    except DesignError as error:
        require(False, str(error))
    paths = [path for path, _ in _walk(fields)]
    for source in read:
        known = any(_covered(path, [source]) for path in paths)
        require(known, f"source of `{source}` must be that of a field in [design], but there is none; {nearest(source, paths)}")
    return PresetInfo(name=name, type=str(kind), description=description, path=path, sources=read), fields


def _read_sources(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Source]]:
    for key, value in table.items():
        path = above + key
        if isinstance(value, str) and value.strip():
            is_key = not re.search(r"\s", value)
            yield path, Source(cite=value) if is_key else Source(where=value)
        elif (
            isinstance(value, dict)
            and value
            and value.keys() <= {"cite", "where"}
            and all(isinstance(text, str) for text in value.values())
        ):
            yield path, Source(**value)
        elif isinstance(value, dict) and value and not value.keys() & {"cite", "where"}:
            yield from _read_sources(value, path + ".")
        else:
            raise DesignError(
                f'source of `{path}` must be a text or {{cite = "key", where = "Fig. 1"}}, but got {shown(value)}; correct it'
            )


def _walk(fields: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in fields.items():
        if isinstance(value, Mapping) and value:
            yield from _walk(value, f"{above}{key}.")
        else:
            yield above + key, value


def _covered(path: str, sources: Mapping[str, Source] | list[str]) -> bool:
    return any(path == source or path.startswith(source + ".") for source in sources)


def _is_number(path: str, value: object) -> bool:
    if isinstance(value, list):
        return any(_is_number(path, element) for element in value)
    unit = unit_of(path.rsplit(".", 1)[-1])
    if isinstance(value, str) and unit:
        try:
            parse_quantity(value, unit)
        except ValueError:
            return False
        return True
    return isinstance(value, int | float) and not isinstance(value, bool)


def _closing_brace(text: str, start: int, what: str) -> int:
    depth = 0
    for match in re.finditer(r"(?<!\\)[{}]", text[start:]):
        depth += 1 if match[0] == "{" else -1
        if depth == 0:
            return start + match.end()
    raise DesignError(f"{what} must end in a closing brace, but does not; add it")
