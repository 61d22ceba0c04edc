"""Serving whatever a chip can be: a compiled chip, a design, a study's design, bare cells, an instrument."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from devices.base import Hardware, PulseBackend, SpikingCore
from devices.catalog import presets
from devices.remote import RemoteChip
from devices.rram import BareTiles
from simulator.chip import Chip
from simulator.link.cells import CellArray
from simulator.link.device import Device
from simulator.link.server import Server
from simulator.link.sessions import logger
from simulator.link.simulated import SimulatedDevice

WHOLE = (SpikingCore, PulseBackend, RemoteChip)
"""Designs that no single layer lies on: they take whole models, or are elsewhere themselves."""


def serve(
    served: Any,
    address: str = "tcp://127.0.0.1:5555",
    *,
    keys: str | Path | None = None,
    lease_seconds: float = 60.0,
    block: bool = True,
) -> Server:
    """Put a chip on an address, where `devices.RemoteChip` reaches it from other processes and machines.

    Parameters
    ----------
    served
        A compiled chip: its layers, with their designs and converter ranges, take new weights. A design: it takes any layer. `BareTiles`:
        cells that are programmed and read one by one. A `Device`, as the adapter of an instrument. A text: a study's file, whose design
        is served; the name of a preset; or ``module:Class`` of an adapter.
    address
        ``tcp://127.0.0.1:PORT`` or ``ipc://PATH`` for this machine; any other needs `keys`. Port 0 takes a free one.
    keys
        Folder of keys that ``inloop keys FOLDER`` made; clients whose keys lie in it are let in, others are not.
    lease_seconds
        How long a client that fell silent keeps others out.
    block
        Serve until Ctrl-C; False serves in a thread and returns at once.

    Returns
    -------
    Server
        Has the address, and ``close()``.

    Raises
    ------
    ValueError
        Where `served` is nothing that can be served, or the address is taken, or needs keys.

    Examples
    --------
    >>> from devices import RemoteChip, RRAMCrossbar
    >>> server = serve(RRAMCrossbar.preset("wan_nature_2022"), "tcp://127.0.0.1:0", block=False)
    >>> RemoteChip(address=server.address).timeout_seconds
    60.0
    >>> server.close()
    """
    if not (isinstance(lease_seconds, int | float) and lease_seconds > 0):
        raise ValueError(f"Argument `lease_seconds` must be above 0, but got {lease_seconds!r}")
    server = Server(device_of(served), address, keys=None if keys is None else Path(keys), lease_seconds=lease_seconds)
    if not block:
        return server.start()
    if not logging.getLogger().handlers and not logger.handlers:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logger.info("serving `%s` on %s; stop with Ctrl-C", server.device.describe().name, server.address)
    try:
        with _terminated_as_interrupted():
            server.start().wait()  # in a thread: Ctrl-C is not to end what the device does half-way
    except KeyboardInterrupt:
        logger.info("stopped")
    finally:
        server.close()
    return server


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that an instrument is let go of in either case."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may say what signals do
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def device_of(served: Any) -> Device:
    """Return the device that stands for what is to be served; see `serve`.

    Examples
    --------
    >>> device_of("wan_nature_2022").describe().name
    'simulated RRAMCrossbar'
    """
    if isinstance(served, str | Path):
        served = _named(str(served))
    if isinstance(served, Device):
        return served
    if isinstance(served, BareTiles):
        return CellArray(served)
    if isinstance(served, WHOLE):
        raise ValueError(
            f"Argument `served` must take single layers, but {type(served).__name__} does not; compile onto it where the model is"
        )
    if isinstance(served, Chip | Hardware):
        return SimulatedDevice(served)
    if isinstance(served, type) and issubclass(served, Device | Hardware):
        raise ValueError(f"Argument `served` must be an object, but got the class {served.__name__}; make one: {served.__name__}(...)")
    raise ValueError(f"Argument `served` must be a chip, a design, BareTiles, a Device or the name of one, but got {type(served).__name__}")


def _named(text: str) -> Any:
    if text in {info.name for info in presets()}:
        return Hardware.preset(text)
    if ":" in text and not text.endswith(".toml"):
        module, _, name = text.partition(":")
        try:
            found = getattr(import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ValueError(
                f"Argument `served` must be MODULE:CLASS of an adapter that can be imported, but {text!r} cannot ({error})"
            ) from None
        try:
            return found() if isinstance(found, type) else found
        except TypeError as error:
            raise ValueError(
                f"Argument `served` must be MODULE:NAME of an adapter that needs no arguments, or of one that is made, but {text!r} is not "
                f"({error}); write adapter = {name}(...) into a module of your own and serve that"
            ) from None
    if not text.endswith(".toml") and not Path(text).is_file():
        raise ValueError(
            f"Argument `served` must be a study's TOML file, a preset (inloop presets) or MODULE:NAME of an adapter, but got {text!r}"
        )
    from simulator.study_files import load_study

    study, _ = load_study(text)
    return study.points()[0].design
