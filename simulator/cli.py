"""The command line: ``inloop run``, ``inloop presets``, ``inloop bench``.

Nothing heavy is imported before a command needs it: help comes at once.
"""

import json
import os
import shlex
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from simulator.link.commands import register as register_link
from simulator.search.commands import register as register_search


def _examples(*commands: str) -> str:
    return "\n\n".join(f"Example: inloop {command}" for command in commands)


application = typer.Typer(
    name="inloop",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Compile PyTorch models onto simulated accelerators, and put the hardware in the loop.\n\nStart with: inloop run quickstart",
)
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on the standard output.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
REFUSED, FAILED, INTERRUPTED = 2, 1, 130


@application.callback()
def _all(debug: Debug = False) -> None:
    """Take the options that every command has."""


@application.command(
    "run",
    short_help="Run a study and write its report.",
    epilog=_examples("run quickstart", "run my_study.toml --out results/first --workers 2"),
)
def run_command(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="A study's TOML file, or the name of one that comes with inloop.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the results. Default: results/NAME.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; the results are the same. Default: as the study says.")] = None,
    json_only: Json = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Forget the trials and trained weights that the folder holds.")] = False,
    debug: Debug = False,
) -> None:
    """Run a study and write its report; run it again to go on after an interruption."""
    from simulator.environment import environment
    from simulator.preparing import prepare
    from simulator.report import REPORT, write_report
    from simulator.results import STUDY, opened
    from simulator.running import default_folder, run
    from simulator.study_files import load_study

    _warn_of_other_owners()
    parsed, home = load_study(study)
    place = out or default_folder(parsed)
    processes = workers or parsed.workers
    prepared = prepare(parsed, home)
    with opened(place, fresh=fresh) as folder:
        folder.write(STUDY, parsed.resolved())
        try:
            result = run(prepared, folder, workers=processes)
        except KeyboardInterrupt:
            count = sum(len(trials) for trials in folder.finished().values())
            _complain(f"stopped; {count} finished trials are saved, go on with: {_command_line(without='--fresh')}")
            raise typer.Exit(INTERRUPTED) from None
        found = write_report(result, folder, environment(home, processes, shlex.split(_command_line())))
    if json_only:
        extra = {"folder": str(place), "report": str(place / REPORT), "computed_trials": result.computed, "reused_trials": result.reused}
        print(json.dumps(found | extra, indent=2))
        return
    _show_result(result, place / REPORT)


@application.command("presets", short_help="List the published designs.", epilog=_examples("presets", "presets wan_nature_2022"))
def presets_command(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A preset to show in full.", show_default=False)] = None,
    json_only: Json = False,
    debug: Debug = False,
) -> None:
    """List the published designs that come with inloop, or show each number of one with its source."""
    from simulator.listing import preset_fields, preset_list

    if name is None:
        rows = preset_list()
        if json_only:
            print(json.dumps(rows, indent=2, ensure_ascii=False))
            return
        _print_table(rows, title=None)
        _console().print("Show one with: inloop presets NAME", style="dim", highlight=False)
        return
    found = preset_fields(name)
    if json_only:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        _console().print(f"[bold]{found['name']}[/]  {found['type']}\n{found['description']}", highlight=False)
        _print_table(found["fields"], title=None)


@application.command(
    "bench",
    short_help="Run a benchmark.",
    epilog=_examples("bench", "bench speed/crossbar"),
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def bench_command(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[NAME] [ARGUMENTS]...", help="A benchmark; without it they are listed.")] = None,
    json_only: Json = False,
    debug: Debug = False,
) -> None:
    """Run a benchmark, with what stands after its name as its arguments; without a name, list them."""
    from difflib import get_close_matches
    from importlib.metadata import entry_points

    found = {entry.name: entry for entry in entry_points(group="inloop.benchmarks")}
    if name is None:
        rows = [{"benchmark": entry.name, "function": entry.value} for entry in sorted(found.values(), key=lambda entry: entry.name)]
        if json_only:
            print(json.dumps(rows, indent=2))
        elif rows:
            _print_table(rows, title=None)
        else:
            _console().print("No benchmarks are installed.")
        return
    if name not in found:
        near = get_close_matches(name, found, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(sorted(found)) or 'none: none are installed'}"
        raise ValueError(f"benchmark {name!r} must be one that is installed, but is not; {hint}")
    function = found[name].load()
    sys.argv = [f"inloop bench {name}", *context.args, *(["--json"] if json_only else [])]
    function()


register_link(application)
register_search(application)


@application.command(
    "import",
    short_help="Make a preset of a configuration of aihwkit or CrossSim.",
    epilog=_examples("import rpu_config.txt --out mine.toml", "import crosssim_parameters.json --json"),
)
def import_command(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON, a printed rpu_config (.txt), or the Python that assigns it.")],
    out: Annotated[Path | None, typer.Option(help="Preset to write. Default: none, the list only.")] = None,
    json_only: Json = False,
    debug: Debug = False,
) -> None:
    """Make a preset of another simulator's configuration, and list what has no counterpart; nothing in the file is executed."""
    from simulator.importing import import_design
    from simulator.results import ResultsFolder

    if out is not None and out.exists():
        raise ValueError(f"preset {str(out)!r} must not be there yet, but exists; choose another name")
    found = import_design(file)
    if out is not None:
        ResultsFolder(out.parent).write(out.name, found.to_toml())
    rows = found.frame.astype({"value": str}).to_dict("records")
    if json_only:
        print(json.dumps({"simulator": found.simulator, "design": found.design.to_toml_dict(), "fields": rows}, indent=2))
        return
    _print_table(rows, title=f"{found.source}: a configuration of {found.simulator}")
    if out is not None:
        _console().print(f'preset: {out}; use it as RRAMCrossbar.preset("{out}")', highlight=False, markup=False, soft_wrap=True)


def app(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0, 1 after a fault of inloop's or of a user's function, 2 after bad input, 130 after Ctrl-C.

    Parameters
    ----------
    arguments
        What stands after ``inloop``; by default that of this process.

    Examples
    --------
    >>> app(["presets", "--json"])  # doctest: +SKIP
    """
    sys.exit(main(sys.argv[1:] if arguments is None else arguments))


def main(arguments: list[str]) -> int:
    """Run the command line and return its exit code; every error is one line on the error stream.

    Examples
    --------
    >>> main(["no-such-command"])
    2
    """
    try:
        code = application(args=arguments, prog_name="inloop", standalone_mode=False)
        sys.stdout.flush()
    except KeyboardInterrupt:
        _complain("stopped")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of the output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        return _refuse(error)
    return code if isinstance(code, int) else 0


def _refuse(error: Exception) -> int:
    """Say what is wrong in one line, and return the exit code."""
    if isinstance(error, typer.Abort):
        _complain("stopped")
        return INTERRUPTED
    usage = getattr(error, "format_message", None)  # what every usage error of the command line has
    if usage is not None:
        _complain(f"{usage() or 'name a command'} (inloop --help lists what there is)")
        return REFUSED
    message = str(error)
    if isinstance(error, ValueError | OSError) or message.startswith(("Argument", "A worker process")):
        _complain(message)
        return REFUSED
    _complain(f"{type(error).__name__}: {message}; run again with --debug for the traceback")
    return FAILED


def _complain(text: str) -> None:
    print(f"inloop: {' '.join(text.split())}", file=sys.stderr)


def _command_line(without: str = "") -> str:
    return shlex.join(["inloop", *(word for word in sys.argv[1:] if word != without)])


def _warn_of_other_owners() -> None:
    from simulator._names import other_owners

    for name, owners in other_owners().items():
        _complain(f"warning: the import name `{name}` is also that of {', '.join(owners)}; install inloop in an environment of its own")


def _show_result(result: Any, report: Path) -> None:
    from simulator.figures import label_of
    from simulator.tables import arms_table, headline, totals_table, varied_table

    for name in next(iter(result.evaluations.values())).metrics:
        _print_table(arms_table(result, name).to_dict("records"), title=f"{result.study.name}: {result.study.trials} chips")
        for path in result.varied():
            _print_table(varied_table(result, path, name).to_dict("records"), title=f"{name} against {label_of(path)}")
    _print_table(totals_table(result).to_dict("records"), title="cost")
    for warning in result.warnings:
        _console().print(f"warning: {warning}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    _console().print(headline(result), style="bold", highlight=False, markup=False, soft_wrap=True)
    computed = f"{result.computed} trials computed" + (f", {result.reused} from an earlier run" if result.reused else "")
    _console().print(f"{computed}; report: {report}", highlight=False, markup=False, soft_wrap=True)


def _print_table(rows: Sequence[Mapping[Any, Any]], title: str | None) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False, padding=(0, 1, 0, 0), show_edge=False
    )
    for column in rows[0] if rows else ():
        longest = max(len(text) for text in (*(str(row[column]) for row in rows), *str(column).split()))
        table.add_column(str(column), min_width=min(longest, 20))  # on a narrow terminal, headings and long texts wrap first
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row.values()))
    _console().print(table)
    _console().print()


def _console() -> Any:
    from rich.console import Console

    # Where nobody watches, lines do not wrap at the 80 columns that rich assumes.
    return Console(width=None if sys.stdout.isatty() else 160)


if __name__ == "__main__":
    app()
