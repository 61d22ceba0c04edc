"""Integrate-and-fire neurons over all time steps at once: float32 or integer membranes, spikes as float32 or uint8.

Numba for the CPU (zero-copy from torch and NumPy) and torch for any device, with the same bits.
"""

import math
from typing import Any, Final, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kernels.lanes import LINE_BYTES
from kernels.random import Backend, use_numba, worker_count
from kernels.spike_loops import BLOCK, fire_blocks, fire_fixed, fire_parallel

STREAM_BYTES: Final = 1 << 24
"""Spikes that are written past the caches, from this many bytes on: more than stays there until they are read, and what is not written
into a cache has not to be read into it first."""

Reset = Literal["soft", "hard"]
Comparator = Literal[">=", ">"]
Moment = Literal["same_step", "next_step"]
Overflow = Literal["saturate", "wrap"]
Data = TypeVar("Data", Tensor, npt.NDArray[Any])

_STATES: Final = (torch.float32, torch.float64, torch.int32, torch.int64)
_NARROW: Final = (torch.int8, torch.uint8, torch.int16)
_SPIKES: Final = (torch.float32, torch.float64, torch.uint8, torch.int8, torch.bool, torch.int32, torch.int64)


def integrate_and_fire(
    current: Data,
    threshold: Any,
    v0: Any = 0.0,
    decay: float = 1.0,
    reset: Reset = "soft",
    comparator: Comparator = ">=",
    out: Data | None = None,
    *,
    reset_potential: float = 0.0,
    reset_moment: Moment = "same_step",
    backend: Backend | None = None,
) -> tuple[Data, Data]:
    """Return the spikes of integrate-and-fire neurons, and their membranes after the last step.

    In each step ``v = decay v + current``, a neuron fires where ``v >= threshold`` (or ``>``), and where it fired ``v -= threshold``
    (soft reset) or ``v = reset_potential`` (hard reset). With ``reset_moment="next_step"`` the reset waits for the next step, as in
    some simulators: a soft one is taken off after that step's decay, a hard one replaces the membrane before it.

    Parameters
    ----------
    current
        Input of each step, shape (timesteps, ...), a tensor or a NumPy array, in the unit of the threshold. The membrane has its dtype:
        float32, float64, int32 or int64; int8, uint8 and int16 currents have int32 membranes. One step that is expanded over time
        (``step.expand(timesteps, ...)``) is kept once.
    threshold
        A number above 0, or one for each neuron: of a shape that broadcasts with that of one step.
    v0
        Membrane before the first step, of a shape that broadcasts with that of one step.
    decay
        Factor of the membrane at each step, 0 to 1; 1 for integers, whose decay is that of `integrate_and_fire_fixed`.
    reset
        ``"soft"`` or ``"hard"``.
    comparator
        ``">="`` or ``">"``.
    out
        Where the spikes go, of the shape of `current`, contiguous: float32, uint8 and other types that hold 0 and 1. None: a new one of
        the dtype of floating-point currents, and of uint8 for integers.
    reset_potential
        Membrane after a hard reset.
    reset_moment
        ``"same_step"`` or ``"next_step"``; the membrane that is returned is before a reset that is still to come.
    backend
        ``"numba"`` (the default on the CPU) or ``"torch"`` (elsewhere); the bits are the same.

    Returns
    -------
    tuple
        Spikes, 0 or 1, of the shape of `current`; the membranes, of the shape of one step. NumPy arrays where `current` is one.

    Raises
    ------
    ValueError
        If there is no time step, a threshold is not above 0, a number is out of range, or a shape or dtype does not fit.

    Examples
    --------
    >>> import torch
    >>> spikes, membrane = integrate_and_fire(torch.full((5, 1), 0.4), 1.0)
    >>> spikes.flatten().tolist(), round(membrane.item(), 4)
    ([0.0, 0.0, 1.0, 0.0, 1.0], 0.0)
    """
    if isinstance(current, np.ndarray):
        target = None if out is None else torch.from_numpy(_of_kind("out", out, np.ndarray))
        options: dict[str, Any] = {"reset_potential": reset_potential, "reset_moment": reset_moment, "backend": backend}
        pair = integrate_and_fire(
            torch.from_numpy(np.ascontiguousarray(current)), threshold, v0, decay, reset, comparator, target, **options
        )
        return pair[0].numpy(), pair[1].numpy()
    _choose("reset", reset, ("soft", "hard"))
    _choose("comparator", comparator, (">=", ">"))
    _choose("reset_moment", reset_moment, ("same_step", "next_step"))
    flow = _flow(current)
    integer = not flow.is_floating_point()
    if not (isinstance(decay, int | float) and 0 <= decay <= 1) or (integer and decay != 1):
        allowed = "1 for integers (integrate_and_fire_fixed has their decay)" if integer else "from 0 to 1"
        raise ValueError(f"Argument `decay` must be {allowed}, but got {decay!r}; do pass the factor of one step.")
    if not math.isfinite(reset_potential) or (integer and reset_potential != int(reset_potential)):
        raise ValueError(f"Argument `reset_potential` must be a finite number of the membrane's type, but got {reset_potential}.")
    shape = flow.shape[1:]
    level = _level(threshold, shape, flow)
    membrane = _start(v0, shape, flow)
    spikes = _target(out, flow)
    if not use_numba(flow.device, backend):
        _torch_steps(flow, level, membrane, spikes, decay, reset, comparator, reset_potential, reset_moment)
        return spikes, membrane
    steps, neurons = flow.shape[0], membrane.numel()
    kind = flow[0].numpy().dtype.type
    mark = level.numpy()
    if comparator == ">":  # above a level is at or above the next number
        mark = mark + kind(1) if integer else np.nextafter(mark, kind(np.inf))
    # After a spike v becomes v keep - taken: less the threshold, or 0 v + reset potential.
    keep, taken = (1, level.numpy()) if reset == "soft" else (0, np.full_like(level.numpy(), -reset_potential))
    row_bytes = neurons * spikes.element_size()
    past = steps * row_bytes >= STREAM_BYTES and row_bytes % LINE_BYTES == 0 and spikes.data_ptr() % LINE_BYTES == 0
    arguments = (
        _by_step(flow, neurons), mark, taken, membrane.numpy().reshape(-1), _numbers(spikes).reshape(steps, neurons),
        np.array([decay], kind), np.array([keep], kind), reset_moment == "next_step", past,
    )  # fmt: skip
    blocks = -(-neurons // BLOCK)
    workers = worker_count(blocks)
    if workers > 1:
        fire_parallel(*arguments, blocks, workers)
    elif blocks:
        fire_blocks(*arguments, 0, blocks)
    return spikes, membrane


def integrate_and_fire_fixed(
    current: Tensor,
    threshold: Any,
    v0: Any = 0,
    *,
    keep: int = 1,
    shift: int = 0,
    bits: int = 32,
    overflow: Overflow = "saturate",
    reset: Reset = "soft",
    comparator: Comparator = ">=",
    reset_potential: int = 0,
    out: Tensor | None = None,
    backend: Backend | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return spikes, last membranes and overflows of neurons with integer membranes of a given width, bit by bit.

    In each step ``v = trunc(v keep / 2^shift) + current``, computed exactly and then brought into ``-2^(bits-1) .. 2^(bits-1) - 1``: what
    lies outside goes to the nearest end (``"saturate"``) or around (``"wrap"``). Then the neuron fires and is reset as in
    `integrate_and_fire`.

    Parameters
    ----------
    current
        Integers of shape (timesteps, ...), at most 32 bits.
    threshold
        An integer above 0, or one for each neuron.
    v0
        Membrane before the first step, within the range.
    keep, shift
        Decay as a product and a shift, rounded toward zero: the factor is ``keep / 2^shift``, at most 1. A shift of 0 is no decay.
    bits
        Width of the membrane, 2 to 32.
    overflow
        ``"saturate"`` or ``"wrap"``.
    reset, comparator, reset_potential, backend
        As in `integrate_and_fire`.
    out
        Where the spikes go; None for a new uint8 tensor.

    Returns
    -------
    tuple of Tensor
        Spikes of the shape of `current`; membranes, int32, and how often each neuron's membrane overflowed, int32, of the shape of a step.

    Raises
    ------
    ValueError
        If a number is out of range, or a shape or dtype does not fit.

    Examples
    --------
    >>> import torch
    >>> spikes, membrane, beyond = integrate_and_fire_fixed(torch.full((4, 1), 100), 1000, bits=8)
    >>> spikes.sum().item(), membrane.item(), beyond.item()
    (0, 127, 3)
    """
    _choose("reset", reset, ("soft", "hard"))
    _choose("comparator", comparator, (">=", ">"))
    _choose("overflow", overflow, ("saturate", "wrap"))
    flow = _flow(current)
    if flow.is_floating_point():
        raise ValueError(f"Argument `current` must be integers, but got {flow.dtype}; do round it, or use integrate_and_fire.")
    for name, value, low, high in (("bits", bits, 2, 32), ("shift", shift, 0, 30), ("keep", keep, 0, 1 << min(shift, 30))):
        if not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"Argument `{name}` must be an integer from {low} to {high}, but got {value!r}; do pass the hardware's.")
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    shape = flow.shape[1:]
    level = _level(threshold, shape, flow)
    membrane = _start(v0, shape, flow)
    if membrane.numel() and (int(membrane.min()) < low or int(membrane.max()) > high or not low <= reset_potential <= high):
        raise ValueError(f"Arguments `v0` and `reset_potential` must lie in {low} .. {high} for {bits} bits, but do not; do clip them.")
    membrane = membrane.to(torch.int32)
    spikes = _target(out, flow)
    overflows = torch.zeros_like(membrane)
    if not use_numba(flow.device, backend):
        _torch_fixed(flow, level, membrane, spikes, overflows, (keep, shift, low, high, reset_potential), overflow, reset, comparator)
        return spikes, membrane, overflows
    steps, neurons = flow.shape[0], membrane.numel()
    fire_fixed(
        _by_step(flow, neurons), level.numpy(), membrane.numpy().reshape(-1), _numbers(spikes).reshape(steps, neurons), keep,
        shift, low, high, overflow == "wrap", reset == "soft", comparator == ">", reset_potential,
        overflows.numpy().reshape(-1), 0, neurons,
    )  # fmt: skip
    return spikes, membrane, overflows


def _flow(current: Tensor) -> Tensor:
    if not isinstance(current, Tensor):
        raise ValueError(
            f"Argument `current` must be a tensor of shape (timesteps, ...), but got {type(current).__name__}; do make it one with "
            "torch.as_tensor."
        )
    if current.dtype not in _STATES + _NARROW:
        raise ValueError(
            f"Argument `current` must be float32, float64 or integers, but got {str(current.dtype).removeprefix('torch.')}; do convert it."
        )
    if current.dim() < 1 or current.shape[0] == 0:
        raise ValueError(
            f"Argument `current` must have shape (timesteps, ...) with at least one step, but got {tuple(current.shape)}; do add steps."
        )
    held = current.detach()
    # What stays the same in all steps is kept once, however large one step is.
    flow = held[:1].contiguous().expand(held.shape) if _lasts(held) else held.contiguous()
    return flow.to(torch.int32) if flow.dtype in _NARROW else flow


def _lasts(current: Tensor) -> bool:
    return current.shape[0] > 1 and current.stride(0) == 0


def _by_step(flow: Tensor, neurons: int) -> npt.NDArray[Any]:
    """Return currents of shape (steps, neurons), or (1, neurons) of a current that lasts."""
    held = flow[:1] if _lasts(flow) else flow
    array: npt.NDArray[Any] = held.numpy().reshape(len(held), neurons)
    return array


def _of_kind(name: str, value: Any, kind: type) -> Any:
    """Return an array where the currents are of its kind, NumPy's or torch's."""
    if not isinstance(value, kind):
        raise ValueError(
            f"Argument `{name}` must be of the kind of `current`, {kind.__name__}, but got {type(value).__name__}; convert it."
        )
    return value


def _as_tensor(name: str, value: Any, like: Tensor) -> Tensor:
    try:
        return torch.as_tensor(value, device=like.device)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"Argument `{name}` must be a number, or one for each neuron, but got {value!r:.60}; do pass 1.0 or so.") from None


def _spread(name: str, value: Any, shape: torch.Size, like: Tensor) -> Tensor:
    tensor = _as_tensor(name, value, like)
    if tensor.is_floating_point() and not like.is_floating_point() and not torch.equal(tensor, tensor.trunc()):
        raise ValueError(f"Argument `{name}` must be integers for integer currents, but got {tensor.dtype} with fractions; do round it.")
    if not like.is_floating_point() and tensor.numel():
        low, high = torch.iinfo(like.dtype).min, torch.iinfo(like.dtype).max
        if int(tensor.min()) < low or int(tensor.max()) > high:
            raise ValueError(
                f"Argument `{name}` must lie in {low} .. {high} for {str(like.dtype).removeprefix('torch.')} membranes, but goes from "
                f"{int(tensor.min())} to {int(tensor.max())}; do scale it."
            )
    try:
        return tensor.detach().to(like.dtype).expand(shape).contiguous()
    except RuntimeError:
        raise ValueError(f"Argument `{name}` must fit one step of shape {tuple(shape)}, but got {tuple(tensor.shape)}.") from None


def _start(v0: Any, shape: torch.Size, like: Tensor) -> Tensor:
    """Return membranes before the first step, in memory of their own."""
    if isinstance(v0, int | float) and v0 == 0:
        return torch.zeros(shape, dtype=like.dtype, device=like.device)
    return _spread("v0", v0, shape, like).clone()


def _level(threshold: Any, shape: torch.Size, like: Tensor) -> Tensor:
    """Return thresholds, flat: one number, or one for each neuron of a sample where all samples have the same."""
    tensor = _as_tensor("threshold", threshold, like)
    if not (tensor.numel() and float(tensor.min()) > 0):
        lowest = tensor.min().item() if tensor.numel() else "none"
        raise ValueError(f"Argument `threshold` must be above 0, but got {lowest}; do pass the potential at which a neuron fires.")
    if tensor.numel() == 1:
        return _spread("threshold", tensor.reshape(()), torch.Size(), like).reshape(1)
    same = tensor.dim() < len(shape) or (tensor.dim() == len(shape) and tensor.shape[0] == 1)
    return _spread("threshold", tensor, shape[1:] if same and tensor.dim() == len(shape) - 1 else shape, like).reshape(-1)


def _target(out: Tensor | None, flow: Tensor) -> Tensor:
    if out is None:
        return torch.empty_like(flow, dtype=flow.dtype if flow.is_floating_point() else torch.uint8)
    _of_kind("out", out, Tensor)
    if out.shape != flow.shape or out.dtype not in _SPIKES or out.device != flow.device or not out.is_contiguous():
        raise ValueError(
            f"Argument `out` must be contiguous, of shape {tuple(flow.shape)} on {flow.device} and hold 0 and 1, but got {out.dtype} of "
            f"shape {tuple(out.shape)} on {out.device}; do pass torch.empty(..., dtype=torch.uint8)."
        )
    return out


def _numbers(spikes: Tensor) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = (spikes.view(torch.uint8) if spikes.dtype == torch.bool else spikes).numpy()
    return array


def _choose(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"Argument `{name}` must be {' or '.join(map(repr, allowed))}, but got {value!r}; do name one of them.")


@torch.no_grad()
def _torch_steps(
    flow: Tensor,
    level: Tensor,
    membrane: Tensor,
    spikes: Tensor,
    decay: float,
    reset: Reset,
    comparator: Comparator,
    reset_potential: float,
    moment: Moment,
) -> None:
    flat, v = flow.reshape(flow.shape[0], -1), membrane.reshape(-1)
    target = spikes.reshape(flow.shape[0], -1)
    threshold = level if level.numel() in (1, v.numel()) else level.repeat(v.numel() // level.numel())
    factor = torch.full((), decay, dtype=flow.dtype, device=flow.device)
    after = torch.full((), reset_potential, dtype=flow.dtype, device=flow.device)
    fired = torch.zeros_like(v, dtype=torch.bool)

    def put_back() -> None:
        v.copy_(torch.where(fired, v - threshold if reset == "soft" else after, v))

    for t in range(len(flat)):
        if moment == "next_step" and reset == "hard":
            put_back()
        v.mul_(factor).add_(flat[t])
        if moment == "next_step" and reset == "soft":
            put_back()
        fired = v > threshold if comparator == ">" else v >= threshold
        target[t] = fired
        if moment == "same_step":
            put_back()


@torch.no_grad()
def _torch_fixed(
    flow: Tensor,
    level: Tensor,
    membrane: Tensor,
    spikes: Tensor,
    overflows: Tensor,
    numbers: tuple[int, int, int, int, int],
    overflow: Overflow,
    reset: Reset,
    comparator: Comparator,
) -> None:
    keep, shift, low, high, after = numbers
    flat, target, beyond = flow.reshape(flow.shape[0], -1).long(), spikes.reshape(flow.shape[0], -1), overflows.reshape(-1)
    v = membrane.reshape(-1).long()
    threshold = (level if level.numel() in (1, v.numel()) else level.repeat(v.numel() // level.numel())).long()

    def bounded(values: Tensor) -> Tensor:
        beyond.add_(((values < low) | (values > high)).to(torch.int32))
        return torch.remainder(values - low, high - low + 1) + low if overflow == "wrap" else values.clamp(low, high)

    for t in range(len(flat)):
        if shift:
            product = v * keep
            v = torch.where(product >= 0, product >> shift, -((-product) >> shift))
        v = bounded(v + flat[t])
        fired = v > threshold if comparator == ">" else v >= threshold
        target[t] = fired
        v = torch.where(fired, v - threshold if reset == "soft" else torch.full_like(v, after), v)
    membrane.reshape(-1).copy_(v)
