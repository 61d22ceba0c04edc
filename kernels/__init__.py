"""Arrays in, arrays out: the loops that everything else is made of, each for the CPU (Numba) and for any device (torch)."""

from kernels.cells import NotConvergedWarning, Verified, redraw, write_verify
from kernels.crossbar import convert, quantize
from kernels.philox import fill_normal_chunk
from kernels.points import ball_query, farthest_points, group, interpolate_features
from kernels.random import Key, bits, normal, truncated_normal, uniform
from kernels.slices import shift_add
from kernels.threads import get_threads, set_threads
from kernels.wires import MeanField, effective_matrix, mean_field, output_variance
from kernels.wires_nonlinear import NonlinearSolution, sinh_law, solve_nonlinear

__all__ = [
    "Key",
    "MeanField",
    "NonlinearSolution",
    "NotConvergedWarning",
    "Verified",
    "ball_query",
    "bits",
    "convert",
    "effective_matrix",
    "farthest_points",
    "fill_normal_chunk",
    "get_threads",
    "group",
    "interpolate_features",
    "mean_field",
    "normal",
    "output_variance",
    "quantize",
    "redraw",
    "set_threads",
    "shift_add",
    "sinh_law",
    "solve_nonlinear",
    "truncated_normal",
    "uniform",
    "write_verify",
]
