"""A chip elsewhere, as a design: where it is reached."""

from typing import NoReturn

from pydantic import Field

from devices.base import Hardware
from devices.design import DesignError


class RemoteChip(Hardware):
    """Hardware behind a link: a chip that another process serves, an instrument, or a recording of either.

    Layers are placed on it as on any design; what it can take it says itself when a model is compiled.

    Parameters
    ----------
    address
        ``tcp://HOST:PORT`` or ``ipc://PATH`` of what `simulator.serve` or ``inloop serve`` serves; ``replay:FILE`` reads a recording.
    keys
        Folder with the server's public key and this client's secret one; needed for addresses beyond this machine.
    timeout_seconds
        A request that is not answered for so long is an error.
    reconnect_seconds
        A connection that is gone for so long is an error; before that it is taken up again.
    record
        File to which every request and answer is written.
    shared_memory
        Whether long arrays pass through memory that both processes share, and short messages through pipes, where the chip is served on
        this machine by the same user and without keys; False sends all over the socket. The numbers are the same.

    Examples
    --------
    >>> RemoteChip(address="tcp://127.0.0.1:5555").timeout_seconds
    60.0
    """

    address: str = Field(min_length=1)
    keys: str | None = None
    timeout_seconds: float = Field(default=60.0, gt=0)
    reconnect_seconds: float = Field(default=3.0, gt=0)
    record: str | None = None
    shared_memory: bool = True

    def ideal(self) -> NoReturn:
        """Refuse: what is elsewhere cannot be made ideal from here."""
        raise DesignError(
            f"RemoteChip: an ideal twin must be made of a known design, but what {self.address} is made of is known there; "
            "compile onto the design's own ideal() instead"
        )
