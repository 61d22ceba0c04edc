"""An objective that only waits, in a file that imports nothing heavy: what a sweep's engine costs, without anyone's imports."""

import time
from typing import Any


class EmptyObjective:
    """Waits, and returns its parameter ``x``.

    Parameters
    ----------
    seconds
        How long it waits.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds

    def __call__(self, configuration: dict[str, Any], context: Any) -> float:
        """Wait."""
        time.sleep(self.seconds)
        return float(configuration["x"])
