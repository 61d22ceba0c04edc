"""Where a chip can be reached, and the keys that others than this machine need."""

import hashlib
import multiprocessing
import re
import socket
from dataclasses import dataclass
from pathlib import Path

_LOOPBACK = re.compile(r"tcp://(127(\.\d{1,3}){3}|localhost|\[::1\]):(\d+|\*)$")
_TCP = re.compile(r"tcp://(\[[0-9a-fA-F:]+\]|[^:/\s]+):(\d+|\*)$")
SERVER, CLIENTS = "server", "clients"


class LinkError(ConnectionError):
    """The chip elsewhere cannot be reached, refused, or went away; the message is one line that says what to do."""

    def __init__(self, text: str, code: str = "link") -> None:
        super().__init__(text)
        self.code = code

    def __reduce__(self) -> tuple[type["LinkError"], tuple[str, str]]:
        return type(self), (str(self), self.code)


class InputError(LinkError, ValueError):
    """The chip elsewhere refused what it was given, with the words that it would have said in this process."""


def process_holder() -> bytes:
    """Return what the sessions of this process, and of the workers that it starts, share a lease by: 16 bytes that others cannot guess.

    Examples
    --------
    >>> process_holder() == process_holder(), len(process_holder())
    (True, 16)
    """
    # Python's multiprocessing gives each process that a user starts a secret, and its children the same one.
    return hashlib.sha256(b"inloop link holder" + bytes(multiprocessing.current_process().authkey)).digest()[:16]


@dataclass(frozen=True)
class Certificate:
    """A pair of CURVE keys in Z85.

    Attributes
    ----------
    public, secret
        The keys.
    """

    public: bytes
    secret: bytes


def check_address(address: str, keys: Path | None) -> None:
    """Refuse an address that is none, or that others can reach without keys.

    Raises
    ------
    ValueError
        In one line.

    Examples
    --------
    >>> check_address("tcp://127.0.0.1:5555", None)
    >>> check_address("tcp://0.0.0.0:5555", None)
    Traceback (most recent call last):
    ValueError: Argument `address` must be on this machine unless there are keys, but got 'tcp://0.0.0.0:5555'; ...
    """
    if not isinstance(address, str):
        raise ValueError(f"Argument `address` must be tcp://HOST:PORT or ipc://PATH, but got {address!r}")
    local = _LOOPBACK.match(address) or re.match(r"(ipc|inproc)://.+", address)
    if not local and not _TCP.match(address):
        raise ValueError(f"Argument `address` must be tcp://HOST:PORT or ipc://PATH, but got {address!r}")
    port = address.rpartition(":")[2]
    if address.startswith("tcp:") and port.isdigit() and int(port) > 65535:
        raise ValueError(f"Argument `address` must have a port of at most 65535, but got {address!r}")
    if not local and keys is None:
        raise ValueError(
            f"Argument `address` must be on this machine unless there are keys, but got {address!r}; "
            "take tcp://127.0.0.1:PORT or ipc://PATH, or make keys with: inloop keys FOLDER"
        )


def make_keys(folder: Path, clients: list[str]) -> list[Path]:
    """Make CURVE keys: the server's, and those of clients that it will let in.

    ``folder/server.key_secret`` stays with the server; a client gets ``folder/server.key`` and its own ``clients/NAME.key_secret``.

    Parameters
    ----------
    folder
        Where they go; keys that exist stay.
    clients
        Names of clients.

    Returns
    -------
    list of Path
        The files made.

    Raises
    ------
    ValueError
        Where a name is not letters, digits, ``-`` and ``_``.

    Examples
    --------
    >>> import tempfile
    >>> [path.name for path in make_keys(Path(tempfile.mkdtemp()), ["alice"])]
    ['server.key', 'server.key_secret', 'alice.key', 'alice.key_secret']
    """
    import zmq.auth

    made: list[Path] = []
    for place, name in ((folder, SERVER), *((folder / CLIENTS, client) for client in clients)):
        if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
            raise ValueError(f"Argument `clients` must be names of letters, digits, - and _, but got {name!r}")
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not (place / f"{name}.key_secret").exists():
            public, secret = zmq.auth.create_certificates(place, name)
            Path(secret).chmod(0o600)
            made += [Path(public), Path(secret)]
    return made


def load_key(path: Path, what: str, *, secret: bool) -> Certificate:
    """Return the keys in a file.

    Raises
    ------
    ValueError
        Where there is no such file or no key in it.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = make_keys(folder, [])
    >>> len(load_key(folder / "server.key", "the server's key", secret=False).public)
    40
    """
    import zmq.auth

    try:
        public, private = zmq.auth.load_certificate(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"{what} must be a key file of inloop keys, but {str(path)!r} is not ({error})") from None
    if secret and private is None:
        raise ValueError(f"{what} must hold a secret key, but {str(path)!r} has the public one; give the file that ends in .key_secret")
    return Certificate(public, private or b"")


def require_free(address: str) -> None:
    """Refuse a path that somebody listens at: a second server would take it away without a word; a port is refused by the system.

    Raises
    ------
    ValueError
        Where there is a server already.

    Examples
    --------
    >>> require_free("ipc:///tmp/nobody_is_here")
    """
    if not address.startswith("ipc://") or not hasattr(socket, "AF_UNIX"):
        return
    path = address.removeprefix("ipc://")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(f"\0{path[1:]}" if path.startswith("@") else path)
        except OSError:  # nothing is there, or what a server left that is gone
            return
    raise ValueError(f"Argument `address` must be free, but somebody serves at {address!r} already; take another, or end that server")
