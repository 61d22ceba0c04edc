"""Checks of shapes and dtypes that jaxtyping's import hook puts around functions; every other type is left to mypy."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import jaxtyping
from beartype import beartype
from jaxtyping import AbstractArray

_jaxtyped = jaxtyping.jaxtyped


def is_array(hint: Any) -> bool:
    if isinstance(hint, str):
        return "[" in hint  # it may be one
    return (inspect.isclass(hint) and issubclass(hint, AbstractArray)) or any(is_array(part) for part in get_args(hint))


def takes_arrays(function: Callable[..., Any]) -> bool:
    """Whether a function, or what makes a dataclass, has shapes to check."""
    return any(is_array(hint) for hint in getattr(function, "__annotations__", {}).values())


def check_shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    if not inspect.isfunction(function):
        return function
    function.__annotations__ = {name: hint for name, hint in function.__annotations__.items() if is_array(hint)}
    return beartype(function) if function.__annotations__ else function


def jaxtyped(function: Any = None, *, typechecker: Any) -> Any:
    """Wrap what has shapes to check and nothing else: the hook wraps every function, which took a third of the time of tests of layers."""
    if function is None:
        return partial(jaxtyped, typechecker=typechecker)
    return _jaxtyped(function, typechecker=typechecker) if takes_arrays(function) else function


def install(packages: list[str]) -> None:
    """Have the functions of some packages checked, which must not have been imported yet."""
    jaxtyping.jaxtyped = jaxtyped  # the name that the hook calls
    jaxtyping.install_import_hook(packages, f"{__name__}.check_shapes")
