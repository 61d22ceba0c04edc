"""Wire resistance: the exact matrix of an array against SciPy's sparse LU and conjugate gradients, and what noise and nonlinear cells cost.

``inloop bench speed/wires`` prints the tables and writes them to ``benchmarks/results/speed_wires*.json``. CPU time on one thread; cells of
1 to 40 microsiemens, 1.86 ohm a segment (22 nm, 4F pitch).
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import scipy.sparse
import scipy.sparse.linalg
import torch

from benchmarks.timing import cpu_times, save
from kernels import effective_matrix, mean_field, output_variance, sinh_law, solve_nonlinear

COMMAND = "inloop bench speed/wires"
OHM = 1.86
SIZES = (64, 128, 256, 512)
LARGEST_REFERENCE = 256
Doubles = npt.NDArray[np.float64]


def cells(size: int) -> Doubles:
    """Return an array of cells, 1 to 40 microsiemens."""
    return np.random.default_rng(0).uniform(1e-6, 40e-6, (size, size))


def sparse_lu(conductance: Doubles, ohm: float) -> Doubles:
    """Return the effective matrix by SciPy's SuperLU: the full nodal matrix, and an adjoint solve for each column."""
    rows, columns = conductance.shape
    row_nodes = np.arange(rows * columns).reshape(rows, columns)
    column_nodes = row_nodes + rows * columns
    first = np.concatenate([row_nodes.ravel(), row_nodes[:, :-1].ravel(), column_nodes[:-1].ravel()])
    second = np.concatenate([column_nodes.ravel(), row_nodes[:, 1:].ravel(), column_nodes[1:].ravel()])
    siemens = np.concatenate([conductance.ravel(), np.full(rows * (columns - 1) + columns * (rows - 1), 1.0 / ohm)])
    grounded = np.concatenate([row_nodes[:, 0], column_nodes[-1]])
    entries = [(first, second, -siemens), (second, first, -siemens), (first, first, siemens), (second, second, siemens)]
    entries.append((grounded, grounded, np.full(rows + columns, 1.0 / ohm)))
    i, j, values = (np.concatenate(part) for part in zip(*entries, strict=True))
    factors = scipy.sparse.linalg.splu(scipy.sparse.csc_matrix((values, (i, j))))
    matrix = np.empty((rows, columns))
    for column in range(columns):
        right = np.zeros(2 * rows * columns)
        right[column_nodes[-1, column]] = 1.0 / ohm
        matrix[:, column] = factors.solve(right)[row_nodes[:, 0]] / ohm
    return matrix


def conjugate_gradients(conductance: Doubles, ohm: float) -> Doubles:
    """Return the effective matrix by solving for each row in turn, to 1e-10 of the driver voltage."""
    found: Doubles = solve_nonlinear(conductance, np.eye(len(conductance)), ohm, ohm, law=sinh_law(0.0)).currents
    return found


def relative(found: Doubles, expected: Doubles) -> float:
    """Return the largest error over the largest reference."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def matrices() -> pd.DataFrame:
    """Return a row per size and method: CPU time, its ratio to `effective_matrix`, and the error against the sparse LU."""
    frames = []
    for size in SIZES:
        conductance = cells(size)
        candidates: dict[str, Any] = {"effective_matrix": lambda g=conductance: effective_matrix(g, OHM, OHM)}
        if size <= LARGEST_REFERENCE:
            candidates["conjugate gradients"] = lambda g=conductance: conjugate_gradients(g, OHM)
            candidates["SciPy SuperLU"] = lambda g=conductance: sparse_lu(g, OHM)
        frame = cpu_times(candidates, repetitions=3)
        frame.insert(0, "size", size)
        if size <= LARGEST_REFERENCE:
            expected = candidates["SciPy SuperLU"]()
            frame["error"] = [relative(call(), expected) for call in candidates.values()]
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def noise(batch: int = 256) -> pd.DataFrame:
    """Return a row per size: CPU time of the exact variance and of `mean_field`, and how far the standard deviations are off."""
    rows = []
    for size in SIZES[:3]:
        conductance, inputs = cells(size), np.random.default_rng(1).uniform(0.0, 1.0, (batch, size))
        sigma = 0.02 * conductance
        field = mean_field(conductance, sigma, OHM, OHM)
        mean = inputs.mean(1, keepdims=True)

        def apply(x: Doubles = inputs, m: Doubles = mean, f: Any = field) -> Doubles:
            result: Doubles = x**2 @ f.square + (x * m) @ f.cross + m**2 * f.constant
            return result

        calls: dict[str, Any] = {
            "exact": lambda g=conductance, s=sigma, x=inputs: output_variance(g, s, x, OHM, OHM),
            "mean field, once": lambda g=conductance, s=sigma: mean_field(g, s, OHM, OHM),
            "mean field, each batch": apply,
        }
        exact = calls["exact"]()
        found = cpu_times(calls, repetitions=3).set_index("name")["seconds"]
        error = np.abs(np.sqrt(apply() / exact) - 1.0)
        squared = np.sqrt(inputs**2 @ (0.02 * effective_matrix(conductance, OHM, OHM)) ** 2 / exact)
        rows.append(
            {
                "size": size,
                **found.to_dict(),
                "error, mean": error.mean(),
                "error, worst column": error.mean(0).max(),
                "error, worst output": error.max(),
                "squared matrix, excess": squared.mean() - 1.0,
            }
        )
    return pd.DataFrame(rows)


def nonlinear(inputs: int = 4) -> pd.DataFrame:
    """Return a row per size and steepness of the cells: CPU time for one input, and Newton steps."""
    rows = []
    for size in SIZES[:3]:
        conductance, drivers = cells(size), np.random.default_rng(1).uniform(0.0, 1.0, (inputs, size))
        for per_volt in (0.0, 1.0, 5.0):

            def solve(g: Doubles = conductance, x: Doubles = drivers, k: float = per_volt) -> Any:
                return solve_nonlinear(g, x, OHM, OHM, law=sinh_law(k))

            seconds = cpu_times({"solve": solve}, repetitions=2)["seconds"].iloc[0] / inputs
            rows.append({"size": size, "per_volt": per_volt, "seconds": seconds, "steps": int(solve().iterations.max())})
    return pd.DataFrame(rows)


def main() -> None:
    """Measure, print and save."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for name, measure in (("wires", matrices), ("wires_noise", noise), ("wires_nonlinear", nonlinear)):
            frame = measure()
            print(frame.to_string(index=False, float_format=lambda value: f"{value:.3g}"))
            print(f"written to {save(f'speed_{name}', COMMAND, frame)}\n")
    finally:
        torch.set_num_threads(threads)
    print("CPU time in seconds on one thread, minimum; ratios are medians of interleaved rounds")


if __name__ == "__main__":
    main()
