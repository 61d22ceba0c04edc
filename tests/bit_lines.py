"""The circuit behind the macro: two bit lines as differential equations, discharged pulse by pulse."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.integrate import solve_ivp


@dataclass(frozen=True)
class Circuit:
    """A branch draws ``current + conductance * v`` while its line is at v, so a line falls towards below zero, exponentially."""

    current: float = 2e-6
    conductance: float = 4e-7
    farad: float = 1e-13
    supply: float = 0.9

    def discharge(self, volt: float, branches: Sequence[float], seconds: Sequence[float]) -> float:
        """Return the line's voltage after several groups of branches were on, each for its own time from now."""
        edges = sorted({0.0, *(float(duration) for duration in seconds)})
        for start, stop in itertools.pairwise(edges):
            on = sum(n for n, duration in zip(branches, seconds, strict=True) if duration > start)
            if on:
                found = solve_ivp(
                    lambda t, v, on=on: -on * (self.current + self.conductance * v) / self.farad,
                    (start, stop),
                    [volt],
                    rtol=1e-9,
                    atol=1e-12,
                )
                volt = float(found.y[0, -1])
        return volt

    def code(self, inputs: np.ndarray, weights: np.ndarray, unit: float, lsb: float, bits: int, readout: str, search: str) -> float:
        """Return the code of one column: inputs set times in units of `unit`, weights the branches; `lsb` is the readout's unit time."""
        lines = []
        for sign in (1, -1):
            on = [(abs(w), abs(a) * unit) for a, w in zip(inputs, weights, strict=True) if a * w * sign > 0]
            lines.append(self.discharge(self.supply, [w for w, _ in on], [t for _, t in on]))
        if readout == "mid_tread":
            lines[0] = self.discharge(lines[0], [1], [lsb / 2])
        code = 0.0
        count = bits - 1
        if search == "binary_search":
            for k in range(count - 1, -2, -1):
                positive = lines[0] <= lines[1]
                code += (1 if positive else -1) * 2.0**k
                if k >= 0:
                    higher = 1 if positive else 0
                    lines[higher] = self.discharge(lines[higher], [1], [2**k * lsb])
        else:
            first = lines[0] <= lines[1]
            steps = 0
            while (lines[0] <= lines[1]) == first and steps < 2**count - 1:
                higher = 1 if first else 0
                lines[higher] = self.discharge(lines[higher], [1], [lsb])
                steps += 1
            flipped = (lines[0] <= lines[1]) != first
            code = (1 if first else -1) * (steps - 0.5 if flipped else 2**count - 0.5)
        if readout == "mid_tread":
            code = max(code - 0.5, 1.0 - 2**count)
        return code
