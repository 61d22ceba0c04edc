"""Arrays in, arrays out: the loops that everything else is made of, each for the CPU (Numba) and for any device (torch)."""

from kernels.crossbar import convert, quantize
from kernels.philox import fill_normal_chunk
from kernels.random import Key, bits, normal, truncated_normal, uniform
from kernels.threads import get_threads, set_threads

__all__ = ["Key", "bits", "convert", "fill_normal_chunk", "get_threads", "normal", "quantize", "set_threads", "truncated_normal", "uniform"]
