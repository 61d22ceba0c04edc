"""The commands ``inloop sweep`` and ``inloop dashboard``."""

import json
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on the standard output.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
INTERRUPTED, NOTHING = 130, 1
"""Exit codes: stopped by Ctrl-C; every design failed."""


def register(application: typer.Typer) -> None:
    """Add the commands to the command line.

    Examples
    --------
    >>> application = typer.Typer()
    >>> register(application)
    >>> [command.name for command in application.registered_commands]
    ['sweep', 'dashboard']
    """
    for name, short, example, function in (
        ("sweep", "Search for the best hardware and write a report.", "sweep crossbar_sweep --workers 2", sweep_command),
        ("dashboard", "Show a sweep in the browser.", "dashboard results/crossbar_sweep", dashboard_command),
    ):
        application.command(name, short_help=short, epilog=f"Example: inloop {example}")(function)


def sweep_command(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="A sweep's TOML file, or crossbar_sweep, which comes with inloop.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the results. Default: results/NAME.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; the results are the same. Default: as the study says.")] = None,
    cluster: Annotated[str | None, typer.Option(help='Address of a Dask scheduler, or "local" to start one here.')] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="Designs. Default: as the study says.")] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Evaluate again what failed in an earlier run.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the file and do nothing: a beginning for one of your own.")] = False,
    json_only: Json = False,
    debug: Debug = False,
) -> None:
    """Search a space of designs and write a report; run it again to go on after an interruption, with more trials to extend it.

    The file has a section [sweep] with what to search for and how, [space] with what to vary (design.FIELD.FIELD, hardware, seconds,
    model.ARGUMENT, compile.timesteps, write_verify.fraction), and the sections of a study.
    """
    from simulator.cli import _command_line, _complain, _warn_of_other_owners
    from simulator.results import ResultsFolder
    from simulator.search.plans import load_sweep, sweep_file
    from simulator.search.reporting import REPORT, summary
    from simulator.search.store import opened_store
    from simulator.sweeping import sweep

    if show:
        print(sweep_file(study).read_text(encoding="utf-8"), end="")
        return
    _warn_of_other_owners()
    plan = load_sweep(study)
    place = out or Path("results") / plan.name
    options = plan.options() | ({"trials": trials} if trials is not None else {})
    try:
        found = sweep(
            plan.objective, plan.space, **options, workers=workers or plan.workers, cluster=cluster, store=place, retry_failed=retry_failed
        )
    except KeyboardInterrupt:
        with opened_store(place) as store:
            _complain(f"stopped; {len(store)} evaluations are saved, go on with: {_command_line()}")
        raise typer.Exit(INTERRUPTED) from None
    ResultsFolder(place).write("sweep.toml", plan.text)
    report = found.write_report(place, title=plan.description or plan.name, command=_command_line())
    if json_only:
        print(json.dumps(summary(found) | {"folder": str(place), "report": str(place / REPORT)}, indent=2))
    else:
        _show(found, report)
    if all(trial.error for trial in found.trials):
        raise typer.Exit(NOTHING)


def dashboard_command(
    folder: Annotated[Path, typer.Argument(help="Folder of a sweep: what its store is called.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where the browser finds it; 0 takes a free one.")] = 8080,
    host: Annotated[str, typer.Option(help="Address that it listens at.")] = "127.0.0.1",
    debug: Debug = False,
) -> None:
    """Show a sweep in the browser until Ctrl-C, and what is added while it runs."""
    from simulator.search.dashboard import dashboard_server

    with dashboard_server(folder, host, port) as server:
        print(f"http://{host}:{server.server_port}/ shows {folder}; Ctrl-C ends it", file=sys.stderr)
        with suppress(KeyboardInterrupt):
            server.serve_forever()


def _show(found: Any, report: Path) -> None:
    from simulator.cli import _console, _print_table
    from simulator.search.reporting import front_table

    if len(found.front()):
        _print_table(front_table(found).to_dict("records"), title="designs that no other beats")
    failed = [trial for trial in found.trials if trial.error]
    for line, count in _counted([trial.error for trial in failed]).items():
        _console().print(f"{count} failed: {line}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    _console().print(str(found), style="bold", highlight=False, markup=False, soft_wrap=True)
    _console().print(f"report: {report}", highlight=False, markup=False, soft_wrap=True)


def _counted(lines: list[str]) -> dict[str, int]:
    return {line: lines.count(line) for line in dict.fromkeys(lines)}
