"""Finding and reading studies: TOML files, and those that come with inloop."""

import tomllib
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from devices.quantities import one_line
from simulator.study import Study, StudyError


def load_study(source: str) -> tuple[Study, Path]:
    """Read a study.

    Parameters
    ----------
    source
        Path of a TOML file, or the name of a study that comes with inloop.

    Returns
    -------
    tuple
        The study, and the folder that its relative names belong to: the file's own, or for a packaged study the working directory.

    Raises
    ------
    StudyError
        Where the file is not there, is not TOML, or has a field or value that is not allowed; one line.

    Examples
    --------
    >>> load_study("quickstart")[0].model.name
    'digits_cnn'
    """
    packaged = packaged_studies()
    path = packaged.get(source, Path(source).expanduser())
    if not path.is_file():
        near = get_close_matches(source, packaged, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"check the path, or run one that comes with inloop: {', '.join(packaged)}"
        state = "it is a folder" if path.is_dir() else "there is no such file"
        raise StudyError(f"study {source!r} must be a TOML file, but {state}; {hint}")
    data = read_toml(path, source)
    folder = Path.cwd() if source in packaged else path.resolve().parent
    data.setdefault("name", path.stem)
    try:
        study = Study.model_validate(data)
    except ValidationError as error:
        raise StudyError(f"study {source!r}: {one_line(Study, error, data).removeprefix('Study: ')}") from error
    return _placed(study, folder), folder


def read_toml(path: Path, source: str) -> dict[str, Any]:
    """Read a study's file as it is, before it is checked.

    Parameters
    ----------
    path
        The file.
    source
        What the user called it, for errors.

    Raises
    ------
    StudyError
        Where it is not TOML, not UTF-8, or cannot be read; one line.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        lines = text.splitlines() or [""]
        end = f"at line {len(lines)}, column {len(lines[-1]) + 1}"
        said = str(error).replace("at end of document", end)
        raise StudyError(f"study {source!r} must be TOML, but is not: {said}; correct the file") from error
    except UnicodeDecodeError as error:
        raise StudyError(f"study {source!r} must be TOML in UTF-8, but is not: {error}; save it as text") from error
    except OSError as error:
        raise StudyError(f"study {source!r} must be a file that can be read, but: {error.strerror}; check its permissions") from error


def packaged_studies() -> dict[str, Path]:
    """Return the studies that come with inloop, by name.

    Examples
    --------
    >>> "quickstart" in packaged_studies()
    True
    """
    folder = Path(str(resources.files("simulator"))) / "studies"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def _placed(study: Study, folder: Path) -> Study:
    """Make names of files absolute, so that the resolved study can be run from anywhere."""
    changes: dict[str, Any] = {}
    place = folder / study.data.name
    if study.data.name != "digits" and ":" not in study.data.name and place.exists():
        changes["data"] = study.data.model_copy(update={"name": str(place.resolve())})
    preset = study.design.get("preset")
    if isinstance(preset, str) and preset.endswith(".toml") and (folder / preset).is_file():
        changes["design"] = {**study.design, "preset": str((folder / preset).resolve())}
    return study.model_copy(update=changes)
