"""How both ends set their sockets."""

from importlib.util import find_spec

HEARTBEAT_MS, SILENCE_MS = 1000, 5000
"""How often each end says that it is there, and after what silence the other one takes the connection for lost."""
BUFFER_BYTES = 4 << 20
"""Buffers of the connection; shorter frames are copied, which costs less than keeping track of who still reads them."""


def require_packages() -> None:
    """Say what to install where a package is missing that comes with the extra ``link``.

    Raises
    ------
    ImportError
        Where one is.

    Examples
    --------
    >>> require_packages()
    """
    missing = [name for name in ("msgspec", "xxhash", "zmq") if find_spec(name) is None]
    if missing:
        raise ImportError(f"A chip elsewhere needs {', '.join(missing)}, which is not installed; run pip install 'inloop[link]'")
