"""What becomes of each field of a foreign configuration."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from simulator.importing.reading import Record, leaves

TAKEN, APPROXIMATED, ABSENT, ELSEWHERE = "taken", "approximated", "no counterpart", "elsewhere"
OFF: tuple[Any, ...] = (0, None, "NONE", "None", "", [])
"""Values of fields that turn something off; False is 0."""


@dataclass(frozen=True)
class Row:
    """One field: its path and value there, what became of it, and where it is or why not."""

    field: str
    value: Any
    outcome: str
    note: str


class Ledger:
    """Hands out the fields of a configuration and keeps account of them.

    Parameters
    ----------
    record
        The configuration.
    defaults
        Values that the other simulator takes where a field is not written, by path.
    """

    def __init__(self, record: Record, defaults: dict[str, Any] | None = None) -> None:
        self.values = leaves(record)
        self.defaults = defaults or {}
        self.rows: dict[str, Row] = {}

    def get(self, path: str) -> Any:
        """Return a value, or its default, or None."""
        return self.values.get(path, self.defaults.get(path))

    def number(self, path: str) -> float:
        """Return a value that must be a number; 0 where neither it nor a default is written."""
        value = self.get(path)
        if value is None:
            return 0.0
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"field `{path}` must be a number, but is {value!r:.60}; correct the configuration")
        return float(value)

    def take(self, paths: str | Sequence[str], into: str) -> None:
        """Note that fields are in the design, at `into`."""
        self._note(paths, TAKEN, into)

    def approximate(self, paths: str | Sequence[str], note: str) -> None:
        """Note that fields are in the design, but not exactly."""
        self._note(paths, APPROXIMATED, note)

    def miss(self, paths: str | Sequence[str], note: str) -> None:
        """Note that fields have no counterpart."""
        self._note(paths, ABSENT, note)

    def elsewhere(self, paths: str | Sequence[str], note: str) -> None:
        """Note that fields belong to a call, not to a design."""
        self._note(paths, ELSEWHERE, note)

    def _note(self, paths: str | Sequence[str], outcome: str, note: str) -> None:
        for path in [paths] if isinstance(paths, str) else paths:
            if self.get(path) is not None or path in self.values:
                shown = self.values.get(path, f"{self.get(path)!r} by default")
                self.rows[path] = Row(path, shown, outcome, note)

    def forget(self, prefix: str) -> None:
        """Drop fields that nothing of the other simulator reads: those of what is switched off there."""
        for name in [name for name in self.values if name.startswith(prefix) and name not in self.rows]:
            del self.values[name]

    def close(self, reasons: Sequence[tuple[str, str]]) -> list[Row]:
        """Return all rows: fields that nobody asked for have no counterpart, unless they are off; `reasons` are notes by prefix."""
        for path, value in self.values.items():
            holds_others = any(other.startswith(f"{path}.") for other in self.values)
            if path in self.rows or value in OFF or holds_others:
                continue
            note = next((words for prefix, words in reasons if path == prefix or path.startswith(f"{prefix}.")), "")
            outcome = ELSEWHERE if note.startswith("belongs to") else ABSENT
            self.rows[path] = Row(path, value, outcome, note or "no field of a crossbar's design")
        order = {path: place for place, path in enumerate(self.values)}
        return sorted(self.rows.values(), key=lambda row: order.get(row.field, -1))
