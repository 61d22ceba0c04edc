"""The variance of a read through wires, of its three products, in one pass over the outputs."""

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float32
from numba import njit
from torch import Tensor

from kernels.crossbar import check_float32
from kernels.random import Backend, use_numba


def add_coupling(
    variance: Float32[Tensor, "rows columns"],
    cross: Float32[Tensor, "rows columns"],
    mean: Float32[Tensor, " rows"],
    constant: Float32[Tensor, "blocks columns"],
    *,
    backend: Backend | None = None,
) -> Float32[Tensor, "rows columns"]:
    """Add to a variance, in place, what cells see of the other rows' mean voltage: ``max(variance + mean (cross + mean constant), 0)``.

    Parameters
    ----------
    variance
        Of each output of each input vector, without the other rows, float32 of shape (rows, columns), contiguous; overwritten.
    cross
        What the inputs themselves give per unit of the mean, of that shape.
    mean
        Mean input of each row, (rows,).
    constant
        What the mean alone gives, in squares of it: row `r` takes line ``r % blocks``, (blocks, columns).
    backend
        ``"numba"`` (the default on the CPU) or ``"torch"`` (elsewhere); the bits are the same.

    Returns
    -------
    Tensor
        `variance`. See `kernels.wires.mean_field` for the terms and for the error of the approximation.

    Raises
    ------
    ValueError
        If a tensor is not float32 or not contiguous, shapes or devices do not fit, or `backend` is unknown or cannot serve the device.

    Examples
    --------
    >>> add_coupling(torch.ones(1, 2), torch.full((1, 2), 3.0), torch.tensor([2.0]), torch.tensor([[1.0, -5.0]]))
    tensor([[11.,  0.]])
    """
    rows, columns = variance.shape
    blocks = constant.shape[0]
    wanted = {"variance": (variance, (rows, columns)), "cross": (cross, (rows, columns)), "mean": (mean, (rows,))}
    for name, (tensor, shape) in (wanted | {"constant": (constant, (blocks, columns))}).items():
        check_float32(name, tensor)
        if tuple(tensor.shape) != shape or tensor.device != variance.device:
            raise ValueError(
                f"Argument `{name}` must have shape {shape} on {variance.device}, but got {tuple(tensor.shape)} on {tensor.device}; "
                "do match `variance`."
            )
    if blocks == 0 or rows % blocks:
        raise ValueError(
            f"Argument `constant` must have a number of lines that divides {rows} rows, but got {blocks}; do check the groups."
        )
    if use_numba(variance.device, backend):
        _add_coupling(variance.detach().numpy(), cross.detach().numpy(), mean.detach().numpy(), constant.detach().numpy())
        return variance
    with torch.no_grad():
        means = mean.view(-1, blocks, 1)
        added = (constant * means).add_(cross.view(-1, blocks, columns)).mul_(means)
        return variance.add_(added.view(rows, columns)).clamp_(min=0.0)


@njit(cache=True, nogil=True, error_model="numpy")
def _add_coupling(
    variance: npt.NDArray[np.float32], cross: npt.NDArray[np.float32], mean: npt.NDArray[np.float32], constant: npt.NDArray[np.float32]
) -> None:
    rows, columns = variance.shape
    nothing = np.float32(0.0)
    for row in range(rows):
        total = variance[row]
        other = cross[row]
        alone = constant[row % constant.shape[0]]
        level = mean[row]
        for column in range(columns):
            found = total[column] + (alone[column] * level + other[column]) * level
            total[column] = nothing if found < nothing else found
