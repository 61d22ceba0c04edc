"""Products of inputs and weights, in float32, by whatever is fastest on this machine; and how a batch is cut for the caches."""

from typing import Final

import torch
from torch import Tensor

from simulator.operators import LinearOperator

WORTHWHILE: Final = 2**21
"""Multiply-accumulates from which oneDNN's product pays: below, the call takes longer."""
BLOCK: Final = 2**19
"""Inputs and outputs of a block together: 2 MB, so that what is done to them between two products stays near the core."""
LEAST_VECTORS: Final = 256
"""Vectors of a block at least: with fewer, reading the weights costs more than the caches save."""

_DNN: Final = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def multiply(operator: LinearOperator, inputs: Tensor, weight: Tensor) -> Tensor:
    """Apply a weight as `LinearOperator` does; large float32 matrices go through oneDNN, twice as fast as BLAS on some processors.

    The result is float32 and differs from torch's own product in the order of its sums only.

    Examples
    --------
    >>> multiply(LinearOperator(0), torch.ones(2, 3), torch.full((4, 3), 2.0))[0]
    tensor([6., 6., 6., 6.])
    """
    if _DNN and operator.dimensions == 0 and weight.device.type == "cpu" and inputs.dtype == weight.dtype == torch.float32:
        vectors = inputs.numel() // max(1, inputs.shape[-1])
        if vectors * weight.numel() >= WORTHWHILE and min(vectors, *weight.shape) > 1:
            result: Tensor = torch.ops.mkldnn._linear_pointwise(inputs.contiguous(), weight, None, "none", [], "")
            return result
    return operator(inputs, weight)


def vectors_at_once(inputs: int, outputs: int, positions: int) -> int:
    """Return how many samples of a batch to take together.

    Parameters
    ----------
    inputs, outputs
        Elements of one sample, with everything that is held for it at a time.
    positions
        Vectors that one sample is read as.

    Examples
    --------
    >>> vectors_at_once(64 * 1024, 64 * 1024, 1024)
    4
    >>> vectors_at_once(512, 512, 1)
    512
    """
    return max(1, BLOCK // max(1, inputs + outputs), -(-LEAST_VECTORS // max(1, positions)))
