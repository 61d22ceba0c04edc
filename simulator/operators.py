"""The linear map inside a layer: what weights do to inputs, and how its rows are cut into arrays."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

CONVOLUTIONS: dict[int, Any] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}

TRANSPOSED: dict[int, Any] = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}


@dataclass(frozen=True)
class RowTile:
    """The rows of one array: a range of input channels (of each group) and of flattened kernel positions.

    Attributes
    ----------
    channels
        First and one past the last input channel within a group.
    kernel
        First and one past the last kernel position; the whole kernel unless one channel alone outgrows an array.
    rows
        Word lines that the tile drives.
    """

    channels: tuple[int, int]
    kernel: tuple[int, int]
    rows: int


@dataclass(frozen=True)
class LinearOperator:
    """Linear layers and convolutions in one to three dimensions with groups, behind one call.

    Attributes
    ----------
    dimensions
        0 for a linear layer, else the convolution's spatial dimensions.
    stride, padding, dilation
        As in torch, one number a dimension.
    groups
        Groups of a convolution, 1 for a linear layer.
    padding_mode, border
        A padding that zeros inside the convolution cannot express is laid around the input first: its torch mode and widths.
    """

    dimensions: int
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    padding_mode: str = "constant"
    border: tuple[int, ...] = ()

    @classmethod
    def of(cls, layer: nn.Module) -> "LinearOperator":
        """Return the operator of a torch layer.

        Examples
        --------
        >>> LinearOperator.of(nn.Conv2d(4, 8, 3, padding="same")).padding
        (1, 1)
        """
        if isinstance(layer, nn.Linear):
            return cls(0)
        if not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            raise TypeError(f"Argument `layer` must be a linear layer or a convolution, but got {type(layer).__name__}")
        dimensions = len(layer.kernel_size)
        padding, border = _padding(layer)
        return cls(
            dimensions,
            tuple(layer.stride),
            padding,
            tuple(layer.dilation),
            layer.groups,
            "constant" if layer.padding_mode == "zeros" else layer.padding_mode,
            border,
        )

    def surround(self, inputs: Tensor) -> Tensor:
        """Return the inputs with the border laid around them, where there is one."""
        return functional.pad(inputs, self.border, mode=self.padding_mode) if any(self.border) else inputs

    def __call__(self, inputs: Tensor, weight: Tensor) -> Tensor:
        """Apply a weight of the layer's shape (or a tile of it) to inputs that `surround` has prepared."""
        if self.dimensions == 0:
            return functional.linear(inputs, weight)
        result: Tensor = CONVOLUTIONS[self.dimensions](inputs, weight, None, self.stride, self.padding, self.dilation, self.groups)
        return result

    def gradients(self, upstream: Tensor, inputs: Tensor, weight: Tensor, needs: tuple[bool, bool]) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients with respect to inputs and weight, each None where `needs` says that nobody asks for it."""
        if self.dimensions == 0:
            for_inputs = upstream @ weight if needs[0] else None
            for_weight = upstream.reshape(-1, upstream.shape[-1]).t() @ inputs.reshape(-1, inputs.shape[-1]) if needs[1] else None
            return for_inputs, for_weight
        batched = inputs.dim() == self.dimensions + 2
        if not batched:
            upstream, inputs = upstream.unsqueeze(0), inputs.unsqueeze(0)
        for_inputs, for_weight, _ = torch.ops.aten.convolution_backward(
            upstream,
            inputs,
            weight,
            None,
            self.stride,
            self.padding,
            self.dilation,
            False,
            [0] * self.dimensions,
            self.groups,
            [needs[0], needs[1], False],
        )
        return for_inputs if batched or for_inputs is None else for_inputs.squeeze(0), for_weight

    def tile_inputs(self, inputs: Tensor, tile: RowTile) -> Tensor:
        """Return the channels of the inputs that a tile reads, of every group."""
        start, stop = tile.channels
        if self.dimensions == 0:
            return inputs[..., start:stop]
        axis = inputs.dim() - self.dimensions - 1
        channels = inputs.shape[axis]
        if stop - start == channels // self.groups:
            return inputs
        if self.groups == 1:
            return inputs.narrow(axis, start, stop - start)
        grouped: Tensor = inputs.unflatten(axis, (self.groups, channels // self.groups)).narrow(axis + 1, start, stop - start)
        selected: Tensor = grouped.flatten(axis, axis + 1)
        return selected

    def tile_weight(self, weight: Tensor, tile: RowTile) -> Tensor:
        """Return the part of a weight that lies in a tile; kernel positions of other tiles are zero."""
        start, stop = tile.channels
        part = weight[:, start:stop]
        first, last = tile.kernel
        kernel_size = weight[0, 0].numel()
        if (first, last) == (0, kernel_size):
            return part.contiguous()
        masked = torch.zeros_like(part).flatten(2)
        masked[..., first:last] = part.flatten(2)[..., first:last]
        return masked.reshape(part.shape)

    def positions(self, outputs: Tensor) -> int:
        """Return how many output vectors there are: every position of every sample is one."""
        axis = outputs.dim() - 1 - self.dimensions
        return outputs.numel() // max(1, outputs.shape[axis])


def overlap_weight(outputs: int, kernel: tuple[int, ...]) -> Tensor:
    """Return ones that put each tap of a transposed convolution onto the positions that it reaches: (outputs * taps, 1, *kernel).

    As the weight of a transposed convolution in `outputs` groups it adds up products that are there already.

    Examples
    --------
    >>> overlap_weight(1, (2,)).tolist()
    [[[1.0, 0.0]], [[0.0, 1.0]]]
    """
    taps = math.prod(kernel)
    return torch.eye(taps).reshape(taps, 1, *kernel).repeat(outputs, 1, *[1] * len(kernel))


def row_tiles(channels: int, kernel_size: int, rows: int) -> tuple[RowTile, ...]:
    """Cut the rows of a layer, ``channels * kernel_size`` for each group, into arrays of at most `rows` rows.

    Edges lie between channels, and the channels spread evenly over the arrays, so that a tile of a convolution is a convolution
    of fewer channels; only a channel whose kernel alone outgrows an array is cut inside.

    Examples
    --------
    >>> [tile.channels for tile in row_tiles(64, 9, 256)]
    [(0, 22), (22, 43), (43, 64)]
    >>> [tile.kernel for tile in row_tiles(1, 49, 25)]
    [(0, 25), (25, 49)]
    """
    if kernel_size > rows:
        pieces = _even(kernel_size, -(-kernel_size // rows))
        return tuple(RowTile((c, c + 1), piece, piece[1] - piece[0]) for c in range(channels) for piece in pieces)
    tiles = -(-channels // (rows // kernel_size))
    return tuple(RowTile(span, (0, kernel_size), (span[1] - span[0]) * kernel_size) for span in _even(channels, tiles))


def _even(length: int, pieces: int) -> list[tuple[int, int]]:
    base, longer = divmod(length, pieces)
    spans, start = [], 0
    for index in range(pieces):
        stop = start + base + (index < longer)
        spans.append((start, stop))
        start = stop
    return spans


def _padding(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the zero padding that the convolution does itself and the border to lay around its input, innermost dimension first."""
    asked = layer.padding if isinstance(layer.padding, str) else tuple(int(p) for p in layer.padding)
    zeros, border = zero_padding(asked, tuple(layer.dilation), tuple(layer.kernel_size))
    if layer.padding_mode == "zeros":
        return zeros, border
    return (0,) * len(zeros), border or tuple(width for p in reversed(zeros) for width in (p, p))


def zero_padding(
    padding: str | tuple[int, ...], dilation: tuple[int, ...], kernel: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the padding that a convolution does itself, and the border where that cannot be even on both sides, innermost first.

    Parameters
    ----------
    padding
        Widths, or what torch calls ``same`` or ``valid``.
    dilation, kernel
        Of the convolution, one number a dimension.

    Examples
    --------
    >>> zero_padding("same", (1, 1), (3, 3)), zero_padding("same", (1,), (4,))
    (((1, 1), ()), ((0,), (1, 2)))
    """
    if not isinstance(padding, str):
        return padding, ()
    if padding == "valid":
        return (0,) * len(kernel), ()
    total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    if all(t % 2 == 0 for t in total):
        return tuple(t // 2 for t in total), ()
    return (0,) * len(kernel), tuple(width for t in reversed(total) for width in (t // 2, t - t // 2))
