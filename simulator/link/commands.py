"""The commands of a chip elsewhere: ``inloop serve``, ``inloop keys``, ``inloop link``, ``inloop characterise``."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

Address = Annotated[str, typer.Argument(metavar="ADDRESS", help="tcp://HOST:PORT or ipc://PATH of what is served.")]
Keys = Annotated[Path | None, typer.Option(help="Folder of keys; needed where others than this machine can reach the address.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on the standard output.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def register(application: typer.Typer) -> None:
    """Add the commands to the command line.

    Examples
    --------
    >>> application = typer.Typer()
    >>> register(application)
    >>> [command.name for command in application.registered_commands]
    ['serve', 'keys', 'link', 'characterise']
    """
    for name, short, example, function in (
        ("serve", "Serve a chip to other processes and machines.", "serve wan_nature_2022 --address tcp://127.0.0.1:5555", serve_command),
        ("keys", "Make keys for a chip that others may reach.", "keys my_keys alice bob", keys_command),
        ("link", "Ask a served chip what it is and who holds it.", "link tcp://127.0.0.1:5555", link_command),
        (
            "characterise",
            "Measure an unknown chip and write a cell preset.",
            "characterise tcp://127.0.0.1:5555 --out my_cell",
            characterise_command,
        ),
    ):
        application.command(name, short_help=short, epilog=f"Example: inloop {example}")(function)


def serve_command(
    served: Annotated[str, typer.Argument(metavar="WHAT", help="A study's TOML file, a preset, or MODULE:CLASS of an adapter.")],
    address: Annotated[str, typer.Option(help="Where; port 0 takes a free one.")] = "tcp://127.0.0.1:5555",
    keys: Keys = None,
    lease_seconds: Annotated[float, typer.Option(help="A client that is silent for so long no longer keeps others out.")] = 60.0,
    debug: Debug = False,
) -> None:
    """Serve a simulated chip or an instrument until Ctrl-C; RemoteChip(address=...) reaches it."""
    from simulator.link.serving import serve

    serve(served, address, keys=keys, lease_seconds=lease_seconds)


def keys_command(
    folder: Annotated[Path, typer.Argument(help="Folder of the keys; those that exist stay.")],
    clients: Annotated[list[str] | None, typer.Argument(help="Names of clients that may come in.", show_default=False)] = None,
    debug: Debug = False,
) -> None:
    """Make the server's keys and those of clients.

    A client needs a folder with server.key and its own file from clients/, the one that ends in key_secret.
    """
    from simulator.link.addresses import make_keys

    for path in make_keys(folder, clients or []):
        print(path)


def link_command(address: Address, keys: Keys = None, json_only: Json = False, debug: Debug = False) -> None:
    """Show what a served chip says of itself, and which client holds it for how long."""
    from devices.remote import RemoteChip
    from simulator.link.client import Connection

    connection = Connection(RemoteChip(address=address, keys=None if keys is None else str(keys), timeout_seconds=10.0))
    try:
        found: dict[str, Any] = connection.describe().model_dump() | connection.request("status").body
    finally:
        connection.close()
    if json_only:
        print(json.dumps(found, indent=2))
        return
    for key, value in found.items():
        print(f"{key:14} {json.dumps(value) if isinstance(value, dict | list) else value}")


def characterise_command(
    address: Address,
    out: Annotated[Path, typer.Option(help="Folder of the preset, the measurements and the figure.")] = Path("characterised"),
    tile: Annotated[int, typer.Option(min=0, help="Which tile is measured.")] = 0,
    levels: Annotated[int, typer.Option(min=3, help="Conductances that cells are programmed to.")] = 9,
    programs: Annotated[int, typer.Option(min=1, help="Times that the tile is programmed at each level.")] = 1,
    reads: Annotated[int, typer.Option(min=2, help="Reads of each cell.")] = 16,
    seconds: Annotated[list[float] | None, typer.Option(help="Times after programming at which drift is measured; once for each.")] = None,
    keys: Keys = None,
    json_only: Json = False,
    debug: Debug = False,
) -> None:
    """Measure programming error, read noise, drift, faults and converters of a chip; writes a preset, each number with its interval.

    Readings are kept in the folder as they come: the same command goes on where it was ended.
    """
    from simulator.link.characterising import Budget, characterise

    budget = Budget(levels=levels, programs=programs, reads=reads, seconds=tuple(seconds or ()))
    found = characterise(address, budget=budget, tile=tile, keys=keys, folder=out)
    files = found.save(out)
    if json_only:
        print(json.dumps(found.summary() | {"files": [str(path) for path in files]}, indent=2))
        return
    print(found)
    for path in files:
        print(path)
