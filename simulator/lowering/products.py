"""Products of inputs and weights, in float32, by whatever is fastest on this machine; and how a batch is cut for the caches."""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from simulator.operators import LinearOperator

WORTHWHILE: Final = 2**21
"""Multiply-accumulates from which oneDNN's product pays: below, the call takes longer."""
BLOCK: Final = 2**21
"""Inputs and outputs of a block together: 8 MB, so that what is done to them between two products stays in the last cache."""
LEAST_VECTORS: Final = 256
"""Vectors of a block at least: with fewer, reading the weights costs more than the caches save."""

_DNN: Final = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
_DNN_IMAGES: Final = _DNN and hasattr(torch.ops.mkldnn, "_convolution_pointwise") and hasattr(torch._C._nn, "mkldnn_reorder_conv2d_weight")
_PACKED: Final = WeakIdKeyDictionary()
"""Weights of convolutions as oneDNN wants them, with the operator that they were packed for, for as long as the weights live."""


def multiply(operator: LinearOperator, inputs: Tensor, weight: Tensor) -> Tensor:
    """Apply a weight as `LinearOperator` does; large float32 matrices go through oneDNN, twice as fast as BLAS on some processors.

    The weight of a convolution of images is brought into oneDNN's own order once, not in each call: it must not change afterwards.

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
    if _DNN_IMAGES and operator.dimensions == 2 and weight.device.type == "cpu" and inputs.dtype == weight.dtype and inputs.numel():
        if weight.dtype == torch.float32 or (weight.dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
            sizes = list(operator.padding), list(operator.stride), list(operator.dilation), operator.groups
            found: Tensor = torch.ops.mkldnn._convolution_pointwise(inputs, _packed(operator, inputs, weight), None, *sizes, "none", [], "")
            return found
    return operator(inputs, weight)


def _packed(operator: LinearOperator, inputs: Tensor, weight: Tensor) -> Tensor:
    known: tuple[LinearOperator, Tensor] | None = _PACKED.get(weight)
    if known is None or known[0] != operator:
        sizes = list(operator.padding), list(operator.stride), list(operator.dilation), operator.groups
        pack: Callable[..., Tensor] = torch._C._nn.mkldnn_reorder_conv2d_weight  # its stub has no shape of the inputs
        known = operator, pack(weight.detach().to_mkldnn(), *sizes, list(inputs.shape))
        _PACKED[weight] = known
    return known[1]


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
    16
    >>> vectors_at_once(512, 512, 1)
    2048
    """
    return max(1, BLOCK // max(1, inputs + outputs), -(-LEAST_VECTORS // max(1, positions)))
