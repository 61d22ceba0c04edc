"""The gradient of a read: straight through noise and rounding."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kernels.once import once_differentiable
from kernels.random import Key
from simulator.lowering.reading import Reading

if TYPE_CHECKING:
    from simulator.lowering.crossbar import CrossbarLayer


class StraightThroughRead(torch.autograd.Function):
    """A read whose gradient passes straight through noise and rounding; inputs beyond the DAC's range get none."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, layer: "CrossbarLayer", reading: Reading, key: Key) -> Tensor:
        """Read, and keep what the rows carried."""
        output, codes, unit = reading(inputs, key, keep=True)
        ctx.layer, ctx.arrays, ctx.unit = layer, reading.arrays, unit
        limit, dac, inside = layer.input_range, layer.design.dac, None
        if limit is not None and dac is not None:
            inside = (inputs <= limit) & (inputs >= (-limit if dac.signed else 0.0))
        ctx.save_for_backward(codes, inside)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        """Return the gradients of the products that were read."""
        codes, inside = ctx.saved_tensors
        weight = ctx.arrays.collapsed(ctx.layer.weight)
        needs = (ctx.needs_input_grad[0], ctx.needs_input_grad[1])
        for_inputs, for_weight = ctx.layer.operator.gradients(upstream[0].contiguous(), codes, weight, needs)
        if for_inputs is not None and inside is not None:
            for_inputs = for_inputs * inside
        return for_inputs, for_weight if for_weight is None else for_weight * ctx.unit, None, None, None
