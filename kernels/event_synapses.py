"""Synapses driven by events: only the weights of inputs that spiked are read, and added in a fixed order.

The order is that of the inputs (of a convolution the channels of a position first, then the positions column by column), so a dense sum in
that order, zeros included, has the same bits.
"""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kernels.event_loops import WIDEST, add_counts, add_spiking_rows, gather, gather_and_fire, scatter
from kernels.lanes import LANES, WORD
from kernels.spikes import Comparator, Reset

Pair = tuple[int, int]

LINEAR_CROSSOVER: Final = {torch.float32: 0.45, torch.int8: 0.75}
CONVOLUTION_CROSSOVER: Final = {torch.float32: 0.34, torch.int8: 0.37}
"""Share of inputs that spike below which events take less CPU time than torch's dense product of float32, by the weights' type: the lowest
crossing that ``inloop bench speed/spikes`` measured on one thread, with 784 inputs and 1000 outputs, and with the 3x3 kernels of ResNet-20
(``benchmarks/results/speed_spikes_rates.json``). Of int8 weights of a matrix events stayed faster up to 0.75, the largest share measured;
with dilation they are slower at every share, so they are never chosen there, nor with groups."""


SUMS: Final = 8192
"""Sums that stay in the first cache between the synapses and the neurons, beside the weights."""


@dataclass(frozen=True, eq=False)
class EventKernel:
    """The weights of a two-dimensional convolution, laid out for `event_convolution`.

    Attributes
    ----------
    rows
        Contiguous. Where `plain`, flat: for each place of an input column within a stride a table (kernel height, inputs, outputs of a row
        that the column reaches, from left to right, outputs filled up to a multiple of `LANES`); else (kernel height, kernel width, inputs,
        outputs of a group). Two rows `together` lie side by side, as twice the outputs of a kernel that is taller by a row of negative
        zeros.
    size
        Height and width of the kernel.
    inputs, outputs
        Channels.
    stride, padding, dilation
        As in torch, each for height and width.
    groups
        Groups of channels.
    plain
        Whether there is one group and no dilation.
    together
        Rows of outputs that are computed together, 1 or 2.
    """

    rows: Tensor
    size: Pair
    inputs: int
    outputs: int
    stride: Pair
    padding: Pair
    dilation: Pair
    groups: int
    plain: bool
    together: int

    @property
    def window(self) -> tuple[Pair, Pair, Pair]:
        """Size, stride and padding, as the loops take them: of the rows that are computed together."""
        return (self.size[0] + self.together - 1, self.size[1]), (self.stride[0] * self.together, self.stride[1]), self.padding

    def started(self, bias: Tensor, width: int, columns: int) -> Tensor:
        """Return what the sums of a row of `columns` outputs begin with, for inputs of that width: the bias of each output.

        The first inputs reach outputs before the first one, and the last ones may reach some after the last; they have room here.
        """
        before = -(-self.size[1] // self.stride[1]) - 1
        seen = (width - 1 + self.padding[1]) // self.stride[1] + 1
        return functional.pad(bias, (0, -self.outputs % LANES)).repeat(self.together * (before + max(columns, seen)))

    @classmethod
    def of(cls, weight: Tensor, stride: Pair = (1, 1), padding: Pair = (0, 0), dilation: Pair = (1, 1), groups: int = 1) -> "EventKernel":
        """Lay out weights of torch's shape (outputs, inputs of a group, kernel height, kernel width).

        Examples
        --------
        >>> EventKernel.of(torch.ones(4, 2, 3, 3), padding=(1, 1)).together
        2
        """
        if weight.dim() != 4 or groups < 1 or weight.shape[0] % groups:
            raise ValueError(
                f"Argument `weight` must have shape (outputs, inputs, height, width) with outputs a multiple of `groups` = {groups}, but "
                f"got {tuple(weight.shape)}; do reshape it."
            )
        tall, wide = weight.shape[2], weight.shape[3]
        plain = groups == 1 and dilation == (1, 1)
        held = weight.detach()
        share = weight.shape[0] // groups
        inputs = weight.shape[1] * groups
        # (groups, outputs of a group, inputs of a group, ...) -> inputs in torch's order, each with the outputs of its group
        rows = held.reshape(groups, share, *weight.shape[1:]).permute(0, 2, 3, 4, 1).reshape(-1, tall, wide, share)
        laid = rows.permute(1, 2, 0, 3)
        together = 1
        if plain:
            # A number to which a negative zero is added stays what it is, a negative zero too; there are no integers like it, nor needed.
            nothing = torch.tensor(-0.0).to(laid.dtype)
            filled = functional.pad(laid.transpose(1, 2), (0, -share % LANES))
            reached = -(-wide // stride[1]) * filled.shape[-1] // LANES
            if 1 < tall and stride[0] == 1 and inputs * (tall + 1) <= 2 * WORD and 2 * reached <= WIDEST:
                # Two rows of outputs see one more row of inputs, in a word or two: they are looked at once for both.
                together = 2
                none = nothing.expand(1, *filled.shape[1:])
                filled = torch.cat([torch.cat([filled, none]), torch.cat([none, filled])], -1)
            tables = [filled[:, :, place :: stride[1]].flip(2).flatten() for place in range(stride[1])]
            laid = torch.cat(tables)
        return cls(laid.contiguous(), (tall, wide), inputs, weight.shape[0], stride, padding, dilation, groups, plain, together)


def event_linear(spikes: Tensor, rows: Tensor, bias: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """Return the currents that spikes cause through a matrix: ``bias + sum of the rows whose input spiked``, in ascending order.

    Parameters
    ----------
    spikes
        Shape (vectors, inputs), uint8, contiguous: how often each input spiked, mostly 0 or 1.
    rows
        Weights of shape (inputs, outputs), float32 or int8, int16, int32, contiguous: torch's weight transposed.
    bias
        Shape (outputs,), of the type of the sums; None for zero.
    out
        Where the sums go; None for a new tensor of float32, or of int32 for integer weights.

    Returns
    -------
    Tensor
        Shape (vectors, outputs).

    Raises
    ------
    ValueError
        If a shape or dtype does not fit, or a tensor does not lie on the CPU.

    Examples
    --------
    >>> spikes = torch.tensor([[1, 0, 1]], dtype=torch.uint8)
    >>> event_linear(spikes, torch.tensor([[1.0, 10.0], [2.0, 20.0], [3.0, 30.0]]))
    tensor([[ 4., 40.]])
    """
    kind = _sum_type("rows", rows)
    if spikes.dim() != 2 or rows.dim() != 2 or spikes.shape[1] != rows.shape[0]:
        raise ValueError(
            f"Arguments `spikes` and `rows` must have shapes (vectors, inputs) and (inputs, outputs), but got {tuple(spikes.shape)} and "
            f"{tuple(rows.shape)}; do transpose the weight."
        )
    _check("spikes", spikes, torch.uint8)
    result = _out(out, (spikes.shape[0], rows.shape[1]), kind)
    result.copy_(_bias(bias, rows.shape[1], kind).expand_as(result))
    add_spiking_rows(spikes.numpy(), rows.detach().numpy(), result.numpy())
    return result


def event_convolution(spikes: Tensor, kernel: EventKernel, bias: Tensor | None = None) -> Tensor:
    """Return the currents that spikes cause through a convolution, position after position.

    Parameters
    ----------
    spikes
        Shape (vectors, channels, height, width), uint8: how often each input spiked, mostly 0 or 1. In torch's memory format
        ``channels_last`` nothing is copied.
    kernel
        From `EventKernel.of`.
    bias
        Shape (outputs,), of the type of the sums; None for zero.

    Returns
    -------
    Tensor
        Shape (vectors, outputs, out height, out width), as torch's convolution, float32 or int32, in the format ``channels_last``.

    Raises
    ------
    ValueError
        If a shape or dtype does not fit, or a tensor does not lie on the CPU.

    Examples
    --------
    >>> spikes = torch.zeros(1, 1, 3, 3, dtype=torch.uint8)
    >>> spikes[0, 0, 1, 1] = 1
    >>> event_convolution(spikes, EventKernel.of(torch.arange(9.0).reshape(1, 1, 3, 3), padding=(1, 1)))[0, 0]
    tensor([[8., 7., 6.],
            [5., 4., 3.],
            [2., 1., 0.]])
    """
    kind = _sum_type("kernel.rows", kernel.rows)
    last, size = _positions(spikes, kernel)
    result = torch.empty(spikes.shape[0], *size, kernel.outputs, dtype=kind)
    start = _bias(bias, kernel.outputs, kind).contiguous()
    if kernel.plain:
        begun = kernel.started(start, last.shape[2], size[1])
        memory = torch.empty(_rows(begun, size[0]) * len(begun), dtype=kind).numpy()
        gather(last.numpy(), kernel.rows.numpy(), begun.numpy(), memory, result.numpy(), kernel.window, kernel.together)
    else:
        stride, padding, dilation = (np.array(pair, np.int64) for pair in (kernel.stride, kernel.padding, kernel.dilation))
        scatter(last.numpy(), kernel.rows.numpy(), start.numpy(), result.numpy(), stride, padding, dilation, kernel.groups)
    return result.permute(0, 3, 1, 2)


def _positions(spikes: Tensor, kernel: EventKernel) -> tuple[Tensor, Pair]:
    """Return spikes with the channels last, and the height and width of what they are convolved to."""
    if spikes.dim() != 4 or spikes.shape[1] != kernel.inputs:
        raise ValueError(
            f"Argument `spikes` must have shape (vectors, {kernel.inputs}, height, width), but got {tuple(spikes.shape)}; do reshape it."
        )
    last = spikes.permute(0, 2, 3, 1).contiguous()
    _check("spikes", last, torch.uint8)
    height, width = (
        (spikes.shape[2 + i] + 2 * kernel.padding[i] - kernel.dilation[i] * (length - 1) - 1) // kernel.stride[i] + 1
        for i, length in enumerate(kernel.size)
    )
    if min(height, width) < 1:
        raise ValueError(f"Argument `spikes` must be as large as the kernel, but {tuple(spikes.shape)} leaves no output; do pad it.")
    return last, (height, width)


def _rows(begun: Tensor, rows: int) -> int:
    """Return for how many rows of sums there is room in the first cache, beside weights."""
    return max(1, min(rows, SUMS // len(begun)))


def convolve_and_fire(
    spikes: Tensor,
    kernel: EventKernel,
    threshold: Tensor,
    v0: Tensor,
    decay: float = 1.0,
    reset: Reset = "soft",
    comparator: Comparator = ">=",
    *,
    bias: Tensor | None = None,
    added: Tensor | None = None,
    counts: Tensor | None = None,
    worth: float = 0.0,
) -> Tensor:
    """Return the spikes of neurons that a convolution of spikes reaches, without storing their currents.

    The bits are those of `event_convolution`, `add_spikes`, a sum and `kernels.spikes.integrate_and_fire` one after the other.

    Parameters
    ----------
    spikes
        Shape (timesteps, batch, channels, height, width), uint8.
    kernel
        From `EventKernel.of`, of float32, `plain`.
    threshold
        A number, or one for each output, shape (outputs, 1, 1).
    v0
        Membrane before the first step, of a shape that broadcasts with (outputs, out height, out width).
    decay, reset, comparator
        As for `kernels.spikes.integrate_and_fire`; a hard reset is one to 0.
    bias
        Shape (outputs,); None for zero.
    added
        A current that reaches the same neurons, shape (timesteps, batch, outputs, out height, out width); None for none.
    counts, worth
        Spikes that reach them directly, uint8 of that shape, and what each adds; None for none.

    Returns
    -------
    Tensor
        uint8 of that shape, with the channels last in memory.

    Raises
    ------
    ValueError
        If a shape or dtype does not fit, or a tensor does not lie on the CPU.

    Examples
    --------
    >>> kernel = EventKernel.of(torch.full((1, 1, 1, 1), 0.5))
    >>> convolve_and_fire(torch.ones(4, 1, 1, 1, 1, dtype=torch.uint8), kernel, torch.tensor(1.0), torch.tensor(0.0)).flatten().tolist()
    [0, 1, 0, 1]
    """
    if not kernel.plain or kernel.rows.dtype != torch.float32 or spikes.dim() != 5:
        raise ValueError(
            f"Arguments `spikes` and `kernel` must have shape (timesteps, batch, channels, height, width) and be float32 without groups or "
            f"dilation, but got {tuple(spikes.shape)} and {kernel.rows.dtype} with {kernel.groups} groups; use event_convolution."
        )
    last, size = _positions(spikes.flatten(0, 1), kernel)
    shape = (*spikes.shape[:2], *size, kernel.outputs)
    empty = (0, *shape[1:])
    more, other = (
        torch.empty(empty, dtype=kind) if one is None else one.movedim(2, -1).contiguous()
        for one, kind in ((added, torch.float32), (counts, torch.uint8))
    )
    for name, one, kind in (("added", more, torch.float32), ("counts", other, torch.uint8)):
        if one.shape[0] and one.shape != shape:
            raise ValueError(f"Argument `{name}` must have one number for each of {shape}, channels last, but got {tuple(one.shape)}.")
        _check(name, one, kind)
    # All memory that vectors are read from and written to is torch's, which begins with a line of the cache: half of the time is in that.
    level = threshold.detach().float().reshape(-1).expand(kernel.outputs).repeat(size[1])
    mark = torch.nextafter(level, torch.full_like(level, math.inf)) if comparator == ">" else level
    keep, taken = (np.float32(1), level) if reset == "soft" else (np.float32(0), torch.zeros_like(level))
    initial = v0.detach().float().expand(kernel.outputs, *size).movedim(0, -1).reshape(size[0], -1).contiguous()
    begun = kernel.started(_bias(bias, kernel.outputs, torch.float32), last.shape[2], size[1])
    memory = torch.empty(_rows(begun, size[0]) * len(begun) + len(initial[0])).numpy(), torch.empty_like(initial).numpy()
    out = torch.empty(shape, dtype=torch.uint8)
    neurons = (mark.numpy(), taken.numpy(), initial.numpy(), np.float32(decay), keep)
    gather_and_fire(
        last.reshape(*spikes.shape[:2], *last.shape[1:]).numpy(), kernel.rows.numpy(), begun.numpy(), memory, more.numpy(), other.numpy(),
        np.full(1, worth, np.float32), neurons, out.numpy(), kernel.window, kernel.together,
    )  # fmt: skip
    return out.movedim(-1, 2)


def add_spikes(current: Tensor, counts: Tensor, worth: float) -> Tensor:
    """Return ``current + counts worth`` in one pass: spikes that reach neurons directly, as by the shortcut of a residual block.

    Parameters
    ----------
    current
        float32 or int32.
    counts
        uint8, of the same shape.
    worth
        What one spike adds, in the type of `current`.

    Returns
    -------
    Tensor
        A new tensor of the shape, type and memory format of `current`.

    Raises
    ------
    ValueError
        If the shapes or types do not fit.

    Examples
    --------
    >>> add_spikes(torch.tensor([0.5, 1.0]), torch.tensor([0, 2], dtype=torch.uint8), 0.25)
    tensor([0.5000, 1.5000])
    """
    if current.dtype not in (torch.float32, torch.int32) or counts.dtype != torch.uint8 or current.shape != counts.shape:
        raise ValueError(
            f"Arguments `current` and `counts` must be float32 or int32 and uint8 of one shape, but got {current.dtype} of "
            f"{tuple(current.shape)} and {counts.dtype} of {tuple(counts.shape)}; do convert them."
        )
    held = current.detach()
    # In the order in which the numbers lie in memory, all three are contiguous.
    axes = sorted(range(held.dim()), key=lambda axis: (held.shape[axis] > 1, held.stride(axis)), reverse=True)
    ordered, spikes = held.permute(axes), counts.permute(axes)
    if held.device.type != "cpu" or not (ordered.is_contiguous() and spikes.is_contiguous()):
        result: Tensor = torch.add(held, counts, alpha=worth)
        return result
    out = torch.empty_like(ordered)
    number = np.full(1, worth, np.float32 if held.is_floating_point() else np.int32)
    add_counts(ordered.numpy().reshape(-1), spikes.numpy().reshape(-1), number, out.numpy().reshape(-1))
    return out.permute([axes.index(axis) for axis in range(held.dim())])


def events_are_faster(rate: float, weight: Tensor, *, plain: bool = True) -> bool:
    """Return whether events take less CPU time than a dense product, from the share of inputs that spike and the kind of the weights.

    Parameters
    ----------
    rate
        Spikes an input and time step.
    weight
        In torch's layout: two dimensions of a linear layer, four of a convolution.
    plain
        Whether a convolution has one group and no dilation.

    Examples
    --------
    >>> events_are_faster(0.05, torch.ones(1000, 784)), events_are_faster(0.5, torch.ones(1000, 784))
    (True, False)
    """
    if weight.dim() > 2 and not plain:
        return False
    table = LINEAR_CROSSOVER if weight.dim() == 2 else CONVOLUTION_CROSSOVER
    return rate < table[torch.float32 if weight.is_floating_point() else torch.int8]


def _sum_type(name: str, weights: Tensor) -> torch.dtype:
    if weights.dtype not in (torch.float32, torch.int8, torch.int16, torch.int32):
        raise ValueError(f"Argument `{name}` must be float32, int8, int16 or int32, but got {weights.dtype}; do convert it.")
    _check(name, weights, weights.dtype)
    return torch.float32 if weights.is_floating_point() else torch.int32


def _check(name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    if tensor.dtype != dtype or tensor.device.type != "cpu" or not tensor.is_contiguous():
        raise ValueError(
            f"Argument `{name}` must be contiguous {str(dtype).removeprefix('torch.')} on the CPU, but got "
            f"{str(tensor.dtype).removeprefix('torch.')} with strides {tensor.stride()} on {tensor.device}; do convert it."
        )


def _bias(bias: Tensor | None, outputs: int, kind: torch.dtype) -> Tensor:
    if bias is None:
        return torch.zeros(outputs, dtype=kind)
    if tuple(bias.shape) != (outputs,) or bias.dtype != kind:
        raise ValueError(
            f"Argument `bias` must be {kind} of shape ({outputs},), but got {bias.dtype} of {tuple(bias.shape)}; do convert it."
        )
    return bias.detach()


def _out(out: Tensor | None, shape: tuple[int, ...], kind: torch.dtype) -> Tensor:
    if out is None:
        return torch.empty(shape, dtype=kind)
    if tuple(out.shape) != shape:
        raise ValueError(f"Argument `out` must have shape {shape}, but got {tuple(out.shape)}; do leave it out.")
    _check("out", out, kind)
    return out
