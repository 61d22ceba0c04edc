"""Functions and files that a study names by a string."""

import importlib
import re
import sys
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def import_function(spec: str, *, argument: str, folder: Path | None = None) -> Callable[..., Any]:
    """Import what ``package.module:function`` names.

    Parameters
    ----------
    spec
        The module and the function in it, joined by a colon.
    argument
        Name of the argument that holds `spec`, for the error.
    folder
        Where to look for the module before the installed packages: the study's own folder. None: the working directory.

    Returns
    -------
    Callable
        The function.

    Raises
    ------
    ValueError
        When the module or the function is not there, or when it cannot be called.

    Examples
    --------
    >>> import_function("math:hypot", argument="model")(3, 4)
    5.0
    """
    module_name, _, name = spec.partition(":")
    # Left on the path: what the module imports later, and spawned workers, need it too.
    place = str((folder or Path.cwd()).resolve())
    if place not in sys.path:
        sys.path.insert(0, place)
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise ValueError(
                f"Argument `{argument}` must name a module that can be imported, but {spec!r} needs {error.name!r}, "
                "which is not installed; install it"
            ) from error
        raise ValueError(
            f"Argument `{argument}` must name a module in {place} or an installed one, but got {spec!r} and there is no {error.name!r}; "
            "check the name, or run from the folder that holds it"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        near = get_close_matches(name, [other for other in vars(module) if callable(getattr(module, other))], n=1)
        hint = f"did you mean '{module_name}:{near[0]}'?" if near else f"define `def {name}(...)` there"
        state = "is not a function" if hasattr(module, name) else "is not there"
        raise ValueError(f"Argument `{argument}` must name a function in {module_name}, but got {spec!r} and {name!r} {state}; {hint}")
    return function  # type: ignore[no-any-return]
