"""A type checker for jaxtyping's import hook that checks shapes and dtypes of arrays and leaves every other type to mypy."""

import inspect
from collections.abc import Callable
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray


def is_array(hint: Any) -> bool:
    return (inspect.isclass(hint) and issubclass(hint, AbstractArray)) or any(is_array(part) for part in get_args(hint))


def check_shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    if not inspect.isfunction(function):
        return function
    function.__annotations__ = {name: hint for name, hint in function.__annotations__.items() if is_array(hint)}
    return beartype(function) if function.__annotations__ else function
