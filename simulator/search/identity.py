"""What an objective is, as a digest: its code and everything of the user's that the code refers to, and its data."""

import functools
import hashlib
import inspect
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import torch
from pydantic import BaseModel
from torch import nn

from devices.design import Design
from simulator.fingerprints import digest, digest_tensors

_LIBRARIES = ("site-packages", "dist-packages")


def identify(objective: Any) -> str:
    """Return 32 hexadecimal digits that stay the same while an objective computes the same, in this process or another.

    An objective with a method ``fingerprint()`` says itself what it is. Otherwise it is its code, with the functions, classes and
    values of the user's own that the code names, at any depth, its defaults, what it closes over, and its attributes. Code of
    installed packages counts by name, and code of inloop with inloop's version.

    Parameters
    ----------
    objective
        A function, a `functools.partial`, or an object that can be called.

    Examples
    --------
    >>> def scaled(configuration, context, scale):
    ...     return scale * configuration["x"]
    >>> identify(functools.partial(scaled, scale=2.0)) == identify(functools.partial(scaled, scale=3.0))
    False
    """
    return digest(_describe(objective, {}))


def _describe(value: Any, seen: dict[int, int]) -> Any:
    if value is None or isinstance(value, bool | int | float | complex | str | bytes | range | slice):
        return [type(value).__name__, repr(value)]
    if isinstance(value, Path):
        return ["path", str(value)]
    if isinstance(value, types.ModuleType):
        return ["module", value.__name__]
    if isinstance(value, types.CodeType):
        return _code(value, seen)
    if id(value) in seen:
        return ["again", seen[id(value)]]  # recursive functions and shared objects
    seen[id(value)] = len(seen)
    own = getattr(type(value), "fingerprint", None)
    if callable(own) and not isinstance(value, type):
        return ["fingerprint", type(value).__qualname__, value.fingerprint()]
    if isinstance(value, functools.partial):
        return ["partial", [_describe(part, seen) for part in (value.func, value.args, value.keywords)]]
    if isinstance(value, types.FunctionType):
        return _function(value, seen)
    if isinstance(value, types.MethodType):
        return ["method", _describe(value.__func__, seen), _describe(value.__self__, seen)]
    if isinstance(value, type):
        return _class(value, seen)
    if isinstance(value, torch.Tensor):
        return ["tensor", digest_tensors({"": value})]
    if isinstance(value, np.ndarray) and value.dtype != object:
        return ["array", str(value.dtype), value.shape, hashlib.blake2b(value.tobytes(), digest_size=16).hexdigest()]
    if isinstance(value, Mapping):
        return ["mapping", type(value).__name__, [[_describe(k, seen), _describe(v, seen)] for k, v in value.items()]]
    if isinstance(value, list | tuple):
        return [type(value).__name__, [_describe(item, seen) for item in value]]
    if isinstance(value, set | frozenset):
        return ["set", sorted(digest(_describe(item, {})) for item in value)]
    if isinstance(value, nn.Module):
        code = {name: _class(type(module), {}) for name, module in value.named_modules()}
        return ["network", repr(value), digest_tensors(value.state_dict()), value.training, code]
    if isinstance(value, Design | BaseModel):
        return ["model", _class(type(value), seen), value.model_dump_json()]
    return _object(value, seen)


def _object(value: Any, seen: dict[int, int]) -> Any:
    state = getattr(value, "__dict__", None)
    if state is None or isinstance(value, types.BuiltinFunctionType):
        if hasattr(value, "__qualname__"):
            return ["named", getattr(value, "__module__", ""), value.__qualname__]
        return ["pickled", digest(cloudpickle.dumps(value).hex())]
    return ["object", _class(type(value), seen), _describe(dict(state), seen)]


def _function(function: types.FunctionType, seen: dict[int, int]) -> Any:
    if _installed(function.__module__):
        return ["installed", function.__module__, function.__qualname__]
    closed = [_cell(cell, seen) for cell in function.__closure__ or ()]
    named = {name: _describe(function.__globals__[name], seen) for name in _names(function.__code__) if name in function.__globals__}
    defaults = _describe([function.__defaults__, function.__kwdefaults__], seen)
    return ["function", _code(function.__code__, seen), closed, named, defaults]


def _class(cls: type, seen: dict[int, int]) -> Any:
    if _installed(cls.__module__):
        return ["installed", cls.__module__, cls.__qualname__]
    body = {}
    for name, member in sorted(vars(cls).items()):
        function = inspect.unwrap(getattr(member, "__func__", getattr(member, "fget", member)) or member)
        if isinstance(function, types.FunctionType):
            body[name] = _describe(function, seen)
        elif not name.startswith("_") and isinstance(member, bool | int | float | str | tuple):
            body[name] = _describe(member, seen)
    return ["class", cls.__qualname__, [_describe(base, seen) for base in cls.__bases__ if base is not object], body]


def _code(code: types.CodeType, seen: dict[int, int]) -> Any:
    constants = [_describe(constant, seen) for constant in code.co_consts]
    if constants and isinstance(code.co_consts[0], str):
        constants = constants[1:]  # a docstring decides nothing
    return ["code", code.co_code.hex(), constants, code.co_names, code.co_varnames, code.co_freevars]


def _names(code: types.CodeType) -> list[str]:
    found = list(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found += _names(constant)
    return list(dict.fromkeys(found))


def _cell(cell: Any, seen: dict[int, int]) -> Any:
    try:
        return _describe(cell.cell_contents, seen)
    except ValueError:
        return "empty"


def _installed(module: str) -> bool:
    """Return whether a module is part of Python, of an installed package or of inloop: versions tell these apart."""
    if module.partition(".")[0] in ("simulator", "devices", "kernels", "builtins") or module.partition(".")[0] in sys.stdlib_module_names:
        return module != "__main__"
    file = getattr(sys.modules.get(module), "__file__", None)
    return file is not None and any(part in _LIBRARIES for part in Path(file).parts)
