"""What arguments of the chip's methods must be, each in one line that names the argument."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from devices.design import DesignError


def require_integer(owner: str, name: str, value: Any, least: int | None = None) -> int:
    """Return an integer, or raise DesignError where it is none or below `least`.

    Examples
    --------
    >>> require_integer("TransmonBackend", "seed", 1.5)
    Traceback (most recent call last):
    devices.design.DesignError: TransmonBackend: `seed` must be an integer, but got 1.5; give a whole number
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or (least is not None and value < least):
        allowed = "an integer" if least is None else f"an integer of at least {least}"
        raise DesignError(f"{owner}: `{name}` must be {allowed}, but got {value!r:.60}; give a whole number")
    return int(value)


def require_flag(owner: str, name: str, value: Any) -> bool:
    """Return a truth value, or raise DesignError where it is none.

    Examples
    --------
    >>> require_flag("TransmonBackend", "frames", "no")
    Traceback (most recent call last):
    devices.design.DesignError: TransmonBackend: `frames` must be True or False, but got 'no'; write one of them
    """
    if not isinstance(value, bool | np.bool_):
        raise DesignError(f"{owner}: `{name}` must be True or False, but got {value!r:.60}; write one of them")
    return bool(value)


def require_transmons(owner: str, given: Any) -> tuple[int, ...]:
    """Return the numbers of transmons, or raise DesignError where they are no list of integers from 0.

    Examples
    --------
    >>> require_transmons("Schedule", 0)
    Traceback (most recent call last):
    devices.design.DesignError: Schedule: `transmons` must be a list of numbers from 0, but got 0; write [0]
    """
    if not isinstance(given, Iterable) or isinstance(given, str | bytes):
        raise DesignError(f"{owner}: `transmons` must be a list of numbers from 0, but got {given!r:.60}; write [{given!r:.60}]")
    return tuple(require_integer(owner, "transmons", one, 0) for one in given)
