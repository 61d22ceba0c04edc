"""Reading configurations of other simulators as plain data: JSON, printed objects, and Python that assigns fields; nothing is executed."""

import ast
import json
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LARGEST_BYTES = 1 << 20
_OBJECT = re.compile(r"<(?:class ')?(?:[\w.]*\.)?(\w+)(?:'| object at 0x[0-9a-fA-F]+)>")
_TYPE_KEYS = ("__class__", "class_name", "_type", "type_name")
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv, ast.Pow: operator.pow,
}  # fmt: skip


@dataclass
class Record:
    """An object as it was written: its class and its fields.

    Attributes
    ----------
    name
        Name of the class, without its module; empty where it is not said.
    fields
        Values by name: numbers, texts, True, False, None, lists, dicts and records. A member of an enumeration is the text of its name.
    """

    name: str = ""
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Configuration:
    """What a file holds.

    Attributes
    ----------
    record
        The configuration.
    unread
        Lines of a Python file that assign nothing to it.
    """

    record: Record
    unread: tuple[str, ...] = ()


def read_configuration(path: str | Path) -> Configuration:
    """Read a configuration: JSON (.json), a printed object (.txt, as ``print(rpu_config)`` writes it), or Python (.py).

    Of Python, the statements are read that make the configuration and assign its fields, at the top or in one function; values are
    numbers, texts, arithmetic on numbers, and calls of classes. Nothing is executed.

    Parameters
    ----------
    path
        The file, of at most 1 MiB.

    Raises
    ------
    ValueError
        If there is no such file, or it holds no configuration.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() not in (".json", ".txt", ".py"):
        raise ValueError(f"configuration `{path}` must end in .json, .txt or .py, but does not; rename it")
    if not path.is_file():
        raise ValueError(f"configuration `{path}` must be a file that exists, but there is none; check the path")
    if path.stat().st_size > LARGEST_BYTES:
        raise ValueError(
            f"configuration `{path}` must have at most {LARGEST_BYTES} bytes, but has {path.stat().st_size}; is it the right file?"
        )
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() == ".json":
            return Configuration(_from_json(path, json.loads(text)))
        tree = ast.parse(_OBJECT.sub(r"\1()", text))
    except (UnicodeDecodeError, json.JSONDecodeError, SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(
            f"configuration `{path}` must be {path.suffix[1:].upper()} that can be read, but is not ({error}); check it"
        ) from None
    if len(tree.body) == 1 and isinstance(tree.body[0], ast.Expr) and isinstance(tree.body[0].value, ast.Call):
        return Configuration(_record(path, tree.body[0].value))
    return _from_statements(path, tree)


def _from_json(path: Path, data: Any) -> Record:
    if not isinstance(data, dict):
        raise ValueError(f"configuration `{path}` must be a JSON object, but is a {type(data).__name__}; write the fields by name")
    made = _plain(path, data)
    assert isinstance(made, Record)
    return made


def _plain(path: Path, value: Any) -> Any:
    """Return JSON's values with records for objects; texts that are printed objects or members of enumerations are read as such."""
    if isinstance(value, dict):
        name = next((str(value[key]) for key in _TYPE_KEYS if isinstance(value.get(key), str)), "")
        return Record(name.rsplit(".", 1)[-1], {str(key): _plain(path, item) for key, item in value.items() if key not in _TYPE_KEYS})
    if isinstance(value, list):
        return [_plain(path, item) for item in value]
    if isinstance(value, str):
        if re.fullmatch(r"\w+Type\.\w+", value):
            return value.rsplit(".", 1)[1]
        text = _OBJECT.sub(r"\1()", value)
        if re.match(r"\w+\(", text):
            try:
                return _value(path, ast.parse(text, mode="eval").body)
            except (SyntaxError, ValueError):
                return value
    return value


def _from_statements(path: Path, tree: ast.Module) -> Configuration:
    bodies = [tree.body, *(node.body for node in tree.body if isinstance(node, ast.FunctionDef))]
    for body in bodies:
        for place, statement in enumerate(body):
            target = statement.targets[0] if isinstance(statement, ast.Assign) and len(statement.targets) == 1 else None
            value = statement.value if isinstance(statement, ast.Assign) else None
            if isinstance(target, ast.Name) and isinstance(value, ast.Call) and _last_name(value.func).endswith("RPUConfig"):
                return _with_assignments(path, target.id, _record(path, value), body[place + 1 :])
    raise ValueError(f"configuration `{path}` must assign a ...RPUConfig(...) to a name, or print one, but does not; check the file")


def _with_assignments(path: Path, name: str, record: Record, body: list[ast.stmt]) -> Configuration:
    unread = []
    for statement in body:
        if isinstance(statement, ast.Return) or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)):
            continue
        names = _attributes(statement.targets[0]) if isinstance(statement, ast.Assign) and len(statement.targets) == 1 else []
        if not isinstance(statement, ast.Assign) or len(names) < 2 or names[0] != name:
            unread.append(ast.unparse(statement).splitlines()[0])
            continue
        holder = record
        for part in names[1:-1]:
            inner = holder.fields.setdefault(part, Record())
            if not isinstance(inner, Record):
                raise ValueError(f"configuration `{path}`, line {statement.lineno}: `{part}` must be an object, but is {inner!r}")
            holder = inner
        holder.fields[names[-1]] = _value(path, statement.value)
    return Configuration(record, tuple(unread))


def _attributes(node: ast.expr) -> list[str]:
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return [node.id, *reversed(parts)] if isinstance(node, ast.Name) else []


def _last_name(node: ast.expr) -> str:
    names = _attributes(node)
    return names[-1] if names else ""


def _record(path: Path, call: ast.Call) -> Record:
    name = _last_name(call.func)
    if not name or any(keyword.arg is None for keyword in call.keywords):
        _refuse(path, call)
    fields = {str(keyword.arg): _value(path, keyword.value) for keyword in call.keywords}
    if call.args:
        fields["arguments"] = [_value(path, argument) for argument in call.args]
    return Record(name, fields)


def _value(path: Path, node: ast.expr) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float | str | None):
        return node.value
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(path, item) for item in node.elts]
    if isinstance(node, ast.Dict):
        return {_value(path, key): _value(path, item) for key, item in zip(node.keys, node.values, strict=True) if key is not None}
    if isinstance(node, ast.Call):
        return _record(path, node)
    if isinstance(node, ast.Name | ast.Attribute):
        name = _last_name(node)
        return {"inf": math.inf, "nan": math.nan}.get(name, name)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        number = _number(path, node.operand)
        return -number if isinstance(node.op, ast.USub) else number
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        left, right = _number(path, node.left), _number(path, node.right)
        if isinstance(node.op, ast.Pow) and (abs(left) > 1e6 or abs(right) > 64):
            _refuse(path, node)
        try:
            return _ARITHMETIC[type(node.op)](left, right)
        except ArithmeticError:
            _refuse(path, node)
    return _refuse(path, node)


def _number(path: Path, node: ast.expr) -> Any:
    value = _value(path, node)
    if isinstance(value, bool) or not isinstance(value, int | float):
        _refuse(path, node)
    return value


def _refuse(path: Path, node: ast.expr) -> Any:
    raise ValueError(
        f"configuration `{path}`, line {node.lineno}: values must be numbers, texts, lists or objects, but got `{ast.unparse(node):.60}`; "
        "write the value itself"
    )


def leaves(record: Record | Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return every value by its path, as ``forward.inp_res``; the class of a record under the record's own path."""
    found: dict[str, Any] = {}
    fields = record.fields if isinstance(record, Record) else record
    for name, value in fields.items():
        path = f"{above}.{name}" if above else str(name)
        if isinstance(value, Record):
            if value.name:
                found[path] = value.name
            found |= leaves(value, path)
        else:
            found[path] = value
    return found
