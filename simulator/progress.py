"""Progress bars on long work, on a terminal only."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Item = TypeVar("Item")


def track(items: Iterable[Item], total: int, description: str, shown: bool | None = None) -> Iterator[Item]:
    """Yield items and show how many of `total` are done, on the error stream.

    Parameters
    ----------
    items
        What is worked through.
    total
        How many there will be.
    description
        Word before the bar.
    shown
        None shows the bar where the error stream is a terminal.

    Examples
    --------
    >>> list(track([1, 2], 2, "chips", shown=False))
    [1, 2]
    """
    visible = sys.stderr.isatty() if shown is None else shown
    if not visible:
        yield from items
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total)
        for item in items:
            yield item
            bar.advance(task)
