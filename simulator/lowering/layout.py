"""How operands and results of products lie in memory: images with their channels last, all else as torch has it."""

import torch
from torch import Tensor

from kernels.crossbar import quantize
from kernels.layout import exchange
from simulator.operators import LinearOperator


def laid_out(operator: LinearOperator, values: Tensor) -> Tensor:
    """Return values as the products of an operator want them; values that lie so already are returned as they are.

    Convolutions whose channels lie side by side take a quarter less time in oneDNN, which would otherwise reorder both sides of each call.

    Examples
    --------
    >>> laid_out(LinearOperator(2), torch.zeros(1, 3, 4, 4)).stride()
    (48, 1, 12, 3)
    """
    if operator.dimensions != 2:
        return values.contiguous()
    if values.is_contiguous(memory_format=torch.channels_last):
        return values
    if values.dtype != torch.float32 or values.device.type != "cpu":
        return values.contiguous(memory_format=torch.channels_last)
    result = torch.empty_like(values, memory_format=torch.channels_last)
    exchange(values.contiguous().flatten(2), out=in_memory(operator, result).flatten(1, 2))
    return result


def in_memory(operator: LinearOperator, values: Tensor) -> Tensor:
    """Return a contiguous view of values that `laid_out` has laid out, for what looks at each element alone.

    Examples
    --------
    >>> in_memory(LinearOperator(2), laid_out(LinearOperator(2), torch.zeros(1, 3, 4, 5))).shape
    torch.Size([1, 4, 5, 3])
    """
    return values.permute(0, 2, 3, 1) if operator.dimensions == 2 else values


def codes_of(operator: LinearOperator, inputs: Tensor, step: float, low: int, high: int) -> Tensor:
    """Return the DAC codes of inputs, laid out; the inputs are left as they are.

    Examples
    --------
    >>> codes_of(LinearOperator(0), torch.tensor([[0.1, 0.6]]), 0.25, -3, 3)
    tensor([[0., 2.]])
    """
    if operator.dimensions == 2 and inputs.is_contiguous() and not inputs.is_contiguous(memory_format=torch.channels_last):
        codes = torch.empty_like(inputs, memory_format=torch.channels_last)
        exchange(inputs.flatten(2), step=step, low=low, high=high, unit=1.0, out=in_memory(operator, codes).flatten(1, 2))
        return codes
    inputs = laid_out(operator, inputs)
    codes = torch.empty_like(inputs)
    quantize(in_memory(operator, inputs), step, low, high, unit=1.0, out=in_memory(operator, codes))
    return codes


def channels_at_end(operator: LinearOperator, values: Tensor) -> Tensor:
    """Return values with their channels as the last axis, contiguous; a view where they are laid out so.

    Examples
    --------
    >>> channels_at_end(LinearOperator(1), torch.zeros(2, 3, 4)).shape
    torch.Size([2, 4, 3])
    """
    return values.movedim(values.dim() - 1 - operator.dimensions, -1).contiguous()


def channels_first(values: Tensor, out: Tensor, offset: Tensor | None = None) -> None:
    """Write images whose channels come last to where they come first, `offset` added to each channel; all float32, `out` contiguous.

    Examples
    --------
    >>> images, out = torch.rand(2, 3, 4, 5), torch.empty(2, 3, 4, 5)
    >>> channels_first(images.contiguous(memory_format=torch.channels_last), out)
    >>> torch.equal(images, out)
    True
    """
    exchange(values.permute(0, 2, 3, 1).flatten(1, 2), offset=offset, out=out.flatten(2))
