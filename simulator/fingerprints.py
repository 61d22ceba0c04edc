"""What decides the numbers of a study, as short digests: tensors, data, the user's own code, versions."""

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from torch import Tensor
from torch import uint8 as byte

from simulator.batches import Batch

PACKAGES = ("torch", "numpy", "numba", "scipy", "pandas", "scikit-learn", "pydantic")
DECISIVE = ("inloop", "torch", "numpy", "numba")
OWN = ("simulator", "devices", "kernels", "torch")


def digest(value: Any) -> str:
    """Return 32 hexadecimal digits of a value that JSON can hold.

    Examples
    --------
    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def digest_tensors(tensors: Mapping[str, Any]) -> str:
    """Return the digest of named tensors: names, shapes, types and bytes.

    Examples
    --------
    >>> import torch
    >>> digest_tensors({"a": torch.zeros(2)}) == digest_tensors({"a": torch.zeros(1, 2)})
    False
    """
    found = hashlib.blake2b(digest_size=16)
    for name, value in tensors.items():
        _update(found, name, value)
    return found.hexdigest()


def digest_batches(batches: Iterable[Batch]) -> str:
    """Return the digest of data: every batch's inputs and targets, in their order.

    Examples
    --------
    >>> import torch
    >>> digest_batches([Batch((torch.zeros(2),))]) == digest_batches([Batch((torch.ones(2),))])
    False
    """
    found = hashlib.blake2b(digest_size=16)
    for batch in batches:
        for index, value in enumerate(batch.inputs):
            _update(found, str(index), value)
        for name, value in batch.keywords.items():
            _update(found, name, value)
        _update(found, "targets", batch.targets)
    return found.hexdigest()


def digest_sources(specs: Iterable[str], designs: Iterable[BaseModel] = ()) -> dict[str, str]:
    """Return the digest of each file with the user's own code.

    Parameters
    ----------
    specs
        Names of functions, ``package.module:function``; a name without a colon is built in and is left out.
    designs
        Designs, whose classes may be the user's own at any depth.

    Examples
    --------
    >>> digest_sources(["digits_cnn"])
    {}
    """
    modules = {spec.partition(":")[0] for spec in specs if ":" in spec}
    for design in designs:
        modules |= _modules(design)
    files = {name: getattr(sys.modules.get(name), "__file__", None) for name in sorted(modules) if name.partition(".")[0] not in OWN}
    found = {name: Path(file).resolve() for name, file in files.items() if file}
    # What lies beside that code and was imported decides too: a helper of a cell, say.
    folders = {path.parent for path in found.values() if "site-packages" not in path.parts}
    for name, module in sorted(sys.modules.items()) if folders else ():
        path = Path(getattr(module, "__file__", None) or "/").resolve()
        if name.partition(".")[0] not in (*OWN, "__main__") and path.suffix == ".py" and any(path.is_relative_to(f) for f in folders):
            found.setdefault(name, path)
    return {name: hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest() for name, path in sorted(found.items())}


def versions(names: Iterable[str] = DECISIVE) -> dict[str, str]:
    """Return the versions of installed distributions; "unknown" for one that is not installed as such.

    Examples
    --------
    >>> versions(["no such distribution"])
    {'no such distribution': 'unknown'}
    """
    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "unknown"
    return found


def _modules(value: Any) -> set[str]:
    if isinstance(value, BaseModel):
        inner = (_modules(getattr(value, name)) for name in type(value).model_fields)
        return {type(value).__module__}.union(*inner)
    if isinstance(value, list | tuple):
        return set().union(*(_modules(item) for item in value))
    return set()


def _update(found: Any, name: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        found.update(f"{name} {value!r}".encode())
        return
    found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
    found.update(value.detach().cpu().contiguous().flatten().view(byte).numpy().data)
