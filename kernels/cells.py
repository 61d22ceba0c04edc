"""Loops over cells that are written and read back until they are right: incremental pulses, and independent redraws.

Each has a Numba implementation (CPU) and a torch one (any device) with the same bits. The course of a cell depends on the key, on
its place and on its own target: never on other cells, on the number of threads, or on which cells are written beside it.
"""

import math
import warnings
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float32, Int32
from numba import njit, prange
from torch import Tensor

from kernels.philox import CHUNK, fill_normal_chunk
from kernels.random import Backend, Key, normal, use_numba, worker_count

Cells = Float32[Tensor, "*shape"]
Counts = Int32[Tensor, "*shape"]

_MOST_PULSES: Final = 2**20
_ONE: Final = np.int32(1)


class NotConvergedWarning(UserWarning):
    """Some cells were still off their target when the number of pulses ran out."""


class Verified(NamedTuple):
    """What a loop over cells reached.

    Attributes
    ----------
    values
        Value of each cell, in the unit of the targets.
    pulses
        Pulses, or writes, that each cell took, int32.
    """

    values: Cells
    pulses: Counts


def write_verify(
    target: Cells,
    step: float,
    pulse_sigma: float,
    tolerance: float,
    key: Key,
    start: Cells | float = 0.0,
    max_pulses: int = 1000,
    *,
    backend: Backend | None = None,
) -> Verified:
    """Pulse cells towards their targets, reading each after every pulse: incremental write-verify.

    While ``abs(target - g) > tolerance``, a pulse moves a cell by ``sign(target - g) step + pulse_sigma N(0, 1)``. A cell that starts
    within the tolerance takes no pulse. Nothing is clipped.

    Parameters
    ----------
    target
        Targets, float32 of any shape; usually in units of a cell's full range.
    step
        How far one pulse moves a cell, above 0, in the unit of the targets.
    pulse_sigma
        Standard deviation of one pulse, at least 0, in that unit.
    tolerance
        Largest error that is accepted, at least 0, in that unit.
    key
        Stream of the pulses: pulse n of cell i is element i of ``key.fold("pulse", key.read).at(n)``.
    start
        Where the cells stand at first: a number, or a tensor like `target`.
    max_pulses
        Pulses after which a cell is given up, 1 to 2^20.
    backend
        ``"numba"`` (the default on the CPU) or ``"torch"`` (elsewhere); the bits are the same.

    Returns
    -------
    Verified
        ``values`` reached and ``pulses`` spent, of the targets' shape. A cell did not converge if its error is above `tolerance`.

    Raises
    ------
    ValueError
        If a tensor is not float32 or not finite, a number is out of range, or `start` differs in shape or device.

    Warns
    -----
    NotConvergedWarning
        With the number of cells that are still off their targets after `max_pulses`.

    Examples
    --------
    >>> values, pulses = write_verify(torch.tensor([0.03, 0.52]), 0.05, 0.0, 0.06, Key.of(seed=0))
    >>> [round(value, 2) for value in values.tolist()], pulses.tolist()
    ([0.0, 0.5], [0, 10])
    """
    _check_cells("target", target)
    _check_number("step", step, above_zero=True)
    _check_number("pulse_sigma", pulse_sigma)
    _check_number("tolerance", tolerance)
    _check_count("max_pulses", max_pulses)
    values = _start(start, target)
    stream = key.fold("pulse", key.read).at(0)
    sizes = tuple(float(np.float32(size)) for size in (step, pulse_sigma, tolerance))
    result = _run(False, target, values, stream, (sizes[0], sizes[1], sizes[2]), max_pulses, backend)
    _warn(result, target, tolerance, max_pulses, "pulses")
    return result


def redraw(target: Cells, sigma: float, tolerance: float, key: Key, max_writes: int = 1000, *, backend: Backend | None = None) -> Verified:
    """Write cells anew until each falls within the tolerance: independent write-verify.

    Each write draws ``target + sigma N(0, 1)``; the writes a cell takes follow a geometric law, and what is left of the error is the
    normal law cut off at the tolerance.

    Parameters
    ----------
    target
        Targets, float32 of any shape; usually in units of a cell's full range.
    sigma
        Standard deviation of one write, at least 0, in the unit of the targets.
    tolerance
        Largest error that is accepted, at least 0, in that unit.
    key
        Stream of the writes: write n of cell i is element i of ``key.fold("write", key.read).at(n)``, n from 0.
    max_writes
        Writes after which a cell is given up, 1 to 2^20.
    backend
        ``"numba"`` (the default on the CPU) or ``"torch"`` (elsewhere); the bits are the same.

    Returns
    -------
    Verified
        ``values`` reached and writes spent (``pulses``, at least 1), of the targets' shape.

    Raises
    ------
    ValueError
        If `target` is not float32 or not finite, or a number is out of range.

    Warns
    -----
    NotConvergedWarning
        With the number of cells that are still off their targets after `max_writes`.

    Examples
    --------
    >>> values, writes = redraw(torch.full((100_000,), 0.5), 0.1, 0.06, Key.of(seed=0))
    >>> round(float(writes.float().mean()), 1), round(float((values - 0.5).std()), 3)
    (2.2, 0.034)
    """
    _check_cells("target", target)
    _check_number("sigma", sigma)
    _check_number("tolerance", tolerance)
    _check_count("max_writes", max_writes)
    stream = key.fold("write", key.read).at(0)
    sizes = (0.0, float(np.float32(sigma)), float(np.float32(tolerance)))
    values = torch.zeros_like(target, memory_format=torch.contiguous_format)
    result = _run(True, target, values, stream, sizes, max_writes, backend)
    _warn(result, target, tolerance, max_writes, "writes")
    return result


def _run(
    anew: bool, target: Tensor, values: Tensor, key: Key, sizes: tuple[float, float, float], most: int, backend: Backend | None
) -> Verified:
    if not use_numba(target.device, backend):
        return _loop_torch(anew, target, values, key, sizes, most)
    pulses = torch.zeros(target.shape, dtype=torch.int32)
    goal, value, spent = (tensor.detach().contiguous().view(-1).numpy() for tensor in (target, values, pulses))
    chunks = -(-target.numel() // CHUNK)
    if chunks:
        word0, word1, _, _ = key.words()
        step, sigma, tolerance = (np.float32(size) for size in sizes)
        workers = worker_count(chunks)
        if workers > 1:
            _loop_parallel(anew, goal, value, spent, word0, word1, step, sigma, tolerance, most, chunks, workers)
        else:
            _loop_chunks(anew, goal, value, spent, word0, word1, step, sigma, tolerance, most, 0, chunks)
    return Verified(values, pulses)


@njit(cache=True, nogil=True, error_model="numpy")
def _loop_chunks(
    anew: bool,
    target: npt.NDArray[np.float32],
    values: npt.NDArray[np.float32],
    pulses: npt.NDArray[np.int32],
    word0: int,
    word1: int,
    step: np.float32,
    sigma: np.float32,
    tolerance: np.float32,
    most: int,
    first: int,
    last: int,
) -> None:
    # The noise of a pulse is drawn for all 1024 cells of a chunk, used or not: a cell's course is its own, and drawing is SIMD code.
    noise = np.zeros(CHUNK, np.float32)
    for chunk in range(first, last):
        begin = chunk * CHUNK
        count = min(CHUNK, target.size - begin)
        goal = target[begin : begin + count]
        value = values[begin : begin + count]
        spent = pulses[begin : begin + count]
        for pulse in range(most):
            waiting = 0
            for lane in range(count):
                waiting += abs(goal[lane] - value[lane]) > tolerance or (anew and pulse == 0)
            if waiting == 0:
                break
            if sigma > 0:
                fill_normal_chunk(word0, word1, pulse, 0, chunk, noise)
            for lane in range(count):
                error = goal[lane] - value[lane]
                off = abs(error) > tolerance or (anew and pulse == 0)
                base = goal[lane] if anew else value[lane] + (step if error > 0 else -step)
                value[lane] = base + sigma * noise[lane] if off else value[lane]
                spent[lane] += _ONE if off else np.int32(0)


@njit(cache=True, nogil=True, parallel=True)
def _loop_parallel(
    anew: bool,
    target: npt.NDArray[np.float32],
    values: npt.NDArray[np.float32],
    pulses: npt.NDArray[np.int32],
    word0: int,
    word1: int,
    step: np.float32,
    sigma: np.float32,
    tolerance: np.float32,
    most: int,
    chunks: int,
    workers: int,
) -> None:
    for worker in prange(workers):
        first = worker * chunks // workers
        last = (worker + 1) * chunks // workers
        _loop_chunks(anew, target, values, pulses, word0, word1, step, sigma, tolerance, most, first, last)


@torch.no_grad()
def _loop_torch(anew: bool, target: Tensor, values: Tensor, key: Key, sizes: tuple[float, float, float], most: int) -> Verified:
    step, sigma, tolerance = sizes
    pulses = torch.zeros(target.shape, dtype=torch.int32, device=target.device)
    for pulse in range(most):
        error = target - values
        off = error.abs() > tolerance
        if anew and pulse == 0:
            off = torch.ones_like(off)
        if not bool(off.any()):
            break
        noise = normal(key.at(pulse), target.shape, target.device, backend="torch") * sigma if sigma else torch.zeros_like(target)
        moved = target + noise if anew else (values + torch.where(error > 0, step, -step)) + noise
        values = torch.where(off, moved, values)
        pulses += off
    return Verified(values, pulses)


def _start(start: Tensor | float, target: Tensor) -> Tensor:
    if not isinstance(start, Tensor):
        _check_number("start", start, signed=True)
        return torch.full_like(target, start, requires_grad=False, memory_format=torch.contiguous_format)
    _check_cells("start", start)
    if start.shape != target.shape or start.device != target.device:
        raise ValueError(
            f"Argument `start` must be a number or have the shape and device of `target`, {tuple(target.shape)} on {target.device}, "
            f"but got {tuple(start.shape)} on {start.device}; do expand or move it."
        )
    return start.detach().clone(memory_format=torch.contiguous_format)


def _warn(result: Verified, target: Tensor, tolerance: float, most: int, what: str) -> None:
    # In float32, as the loops compare.
    limit = float(np.float32(tolerance))
    left = int(((result.pulses >= most) & ((target - result.values).abs() > limit)).sum())
    if left:
        warnings.warn(
            f"{left} of {target.numel()} cells did not converge to a tolerance of {tolerance:g} within {most} {what}; "
            "widen the tolerance, or make the step smaller",
            NotConvergedWarning,
            stacklevel=3,
        )


def _check_cells(name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor) or tensor.dtype != torch.float32:
        got = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise ValueError(f"Argument `{name}` must be a tensor of torch.float32, but got {got}; do convert it by `.float()`.")
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError(f"Argument `{name}` must be finite, but got nan or inf; do check what it is computed from.")


def _check_number(name: str, value: float, *, above_zero: bool = False, signed: bool = False) -> None:
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not good or (not signed and value < 0) or (above_zero and np.float32(value) == 0):
        allowed = "a finite number" + ("" if signed else " above 0" if above_zero else " of at least 0")
        raise ValueError(f"Argument `{name}` must be {allowed}, but got {value!r}; do give it in the unit of `target`.")


def _check_count(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _MOST_PULSES:
        raise ValueError(f"Argument `{name}` must be an integer from 1 to 2**20, but got {value!r}; do use 1000 or so.")
