"""The other side of a worker process: imports nothing heavy before the objective needs it, so that it is ready in tenths of a second."""

import os
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")}
"""What keeps each numerical library on one thread, where it is set before the library is loaded."""


def serve(connection: "Connection[Any, Any]", path: str) -> None:
    """Answer jobs until the connection ends.

    Parameters
    ----------
    connection
        Brings (ticket, configuration, context), takes (ticket, outcome); the first message says that this worker is ready.
    path
        File with the evaluator.
    """
    os.environ.update(ONE_THREAD)
    evaluate = load(Path(path).read_bytes())
    connection.send((None, None))
    while True:
        try:
            ticket, configuration, context = connection.recv()
        except (EOFError, OSError):  # the driver has ended, however that happened
            os._exit(0)
        connection.send((ticket, evaluate(configuration, context)))


def load(content: bytes) -> Any:
    """Return what cloudpickle wrote, with torch on one thread if that needs torch."""
    import sys

    import cloudpickle

    found = cloudpickle.loads(content)
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)
    return found
