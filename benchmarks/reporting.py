"""What benchmarks with options share: their command line, and how a result becomes a table, a figure and a file."""

import argparse
import sys

import pandas as pd
from matplotlib.figure import Figure

from benchmarks.timing import RESULTS, save


def parse_counts(command: str, description: str | None, arguments: list[str] | None, **counts: tuple[int, int, str]) -> argparse.Namespace:
    """Return the numbers that a command line gives.

    Parameters
    ----------
    command
        The benchmark's command, as the help shows it.
    description
        The benchmark's docstring; the help shows its first line.
    arguments
        The command line without the command; that of the process by default.
    **counts
        Default, least value and help of each option.

    Returns
    -------
    argparse.Namespace
        The numbers by name, and ``json``: whether only JSON is wanted.

    Examples
    --------
    >>> parse_counts("inloop bench vqp", "Train.", ["--seeds", "3"], seeds=(5, 2, "splits of the data")).seeds
    3
    """
    parser = argparse.ArgumentParser(prog=command, description=(description or "").split("\n")[0])
    for name, (default, least, text) in counts.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text}, at least {least} (default: {default})")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON and nothing else")
    chosen = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    for name, (_, least, _) in counts.items():
        if getattr(chosen, name) < least:
            parser.error(f"argument --{name}: must be at least {least}, but got {getattr(chosen, name)}")
    return chosen


def report(name: str, command: str, frame: pd.DataFrame, table: pd.DataFrame, drawn: Figure, notes: list[str], *, json: bool) -> None:
    """Print a table with notes, or the rows as JSON, and write ``results/NAME.json`` and ``NAME.png``."""
    if json:
        print(frame.to_json(orient="records"))
    else:
        with pd.option_context("display.max_colwidth", 120, "display.width", 240):
            print(table.to_string(index=False))
        print("\n".join(notes))
    path = RESULTS / f"{name}.png"
    drawn.savefig(path.with_suffix(".part"), format="png", dpi=150, metadata={"Software": None})
    path.with_suffix(".part").replace(path)
    written = save(name, command, frame)
    if not json:
        print(f"written to {written} and {path.name}")
