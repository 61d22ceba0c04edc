"""Transposed convolutions: every input position drives the rows once, and its columns are the taps of all outputs."""

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from simulator.operations import adding
from simulator.operators import TRANSPOSED, overlap_weight
from simulator.weight_layers import NotMappedError

POINTWISE = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class TransposedConvolution(nn.Module):
    """`nn.ConvTranspose1d/2d/3d` as a pointwise convolution to all taps of all outputs, whose overlaps add up digitally.

    Parameters
    ----------
    layer
        The torch layer; its weight is copied in the order of the taps.

    Raises
    ------
    NotMappedError
        If the layer's forward is not torch's.

    Examples
    --------
    >>> import torch
    >>> original = nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2)
    >>> x = torch.rand(1, 4, 5, 5)
    >>> bool(torch.allclose(TransposedConvolution(original)(x), original(x), atol=1e-6))
    True
    """

    overlap: Tensor

    def __init__(self, layer: nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d) -> None:
        super().__init__()
        kernel = tuple(layer.kernel_size)
        self.dimensions, self.kernel_size = len(kernel), list(kernel)
        base = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[self.dimensions]
        if type(layer).forward is not base.forward:
            raise NotMappedError(f"{type(layer).__name__} has a forward of its own: digital")
        names = ("stride", "padding", "output_padding", "dilation")
        self.settings = {name: getattr(layer, name) for name in names}
        groups, outputs = layer.groups, layer.out_channels
        taps = layer.weight[0, 0].numel()
        weight = layer.weight.detach().reshape(groups, layer.in_channels // groups, outputs // groups * taps)
        ordered = weight.transpose(1, 2).reshape(outputs * taps, layer.in_channels // groups, *[1] * self.dimensions)
        self.taps = POINTWISE[self.dimensions](layer.in_channels, outputs * taps, 1, groups=groups, bias=False, device="meta")
        self.taps.weight = nn.Parameter(ordered.clone(), layer.weight.requires_grad)
        self.bias = layer.bias
        self.outputs = outputs
        self.register_buffer("overlap", overlap_weight(outputs, kernel), persistent=False)
        self.training = layer.training

    def forward(self, inputs: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Transpose-convolve as the torch layer does."""
        settings = self.settings
        if output_size is not None:
            sizes: Any = _ConvTransposeNd._output_padding
            lists = [list(settings[name]) for name in ("stride", "padding")]
            padding = sizes(self, inputs, output_size, *lists, self.kernel_size, self.dimensions, list(settings["dilation"]))
            settings = {**settings, "output_padding": tuple(padding)}
        # Each group of taps lands on the positions that it overlaps: a transposed convolution with ones, digital additions only.
        products = self.taps(inputs)
        with adding():
            overlap = self.overlap.to(products.dtype)
            result: Tensor = TRANSPOSED[self.dimensions](products, overlap, self.bias, groups=self.outputs, **settings)
        return result
