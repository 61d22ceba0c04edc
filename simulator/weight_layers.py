"""A matrix of weights in a model: where it lies, and what it does to inputs."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from simulator.operators import LinearOperator


class NotMappedError(Exception):
    """Says why a layer stays digital; the message goes into the coverage table."""


MAPPABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers that are a matrix of weights; a subclass counts when it keeps their forward."""
COMPUTED = "its computed weight was taken as it is: training moves the result, not what it was computed from; no mask of pruning is kept"
"""What is said of a layer whose weight pruning, weight norm or a parametrization computes."""


def data_address(tensor: Tensor) -> int:
    """Return where a tensor's numbers lie, without causing a copy of storage that two tensors share until one is written.

    Examples
    --------
    >>> x = torch.zeros(3)
    >>> data_address(x[1:]) - data_address(x)
    4
    """
    storage: int = torch._C._data_address(tensor)  # type: ignore[attr-defined]
    return storage + int(tensor.storage_offset()) * tensor.element_size()


@dataclass(frozen=True, eq=False)
class WeightView:
    """A part of a parameter that a model uses as a matrix: one expert of several, or a transposed weight.

    Attributes
    ----------
    parameter
        The parameter of the model; it stays registered where it was.
    size, stride, offset
        The part as (outputs, inputs, ...), in elements from the parameter's first.
    """

    parameter: nn.Parameter
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int

    def tensor(self) -> Tensor:
        """Return the part; gradients flow back into the parameter.

        Examples
        --------
        >>> WeightView(nn.Parameter(torch.arange(6.0).reshape(2, 3)), (3, 2), (1, 3), 0).tensor().tolist()
        [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
        """
        return self.parameter.as_strided(self.size, self.stride, self.parameter.storage_offset() + self.offset)

    @property
    def place(self) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
        """Address, size and stride: what tells this part from every other tensor while the parameter lives."""
        return (data_address(self.parameter) + self.offset * self.parameter.element_size(), self.size, self.stride)


@dataclass(frozen=True, eq=False)
class WeightLayer:
    """What a lowering gets: weights, and the linear map that they are in.

    Attributes
    ----------
    kind
        What the layer is called in tables.
    operator
        The linear map.
    weight
        The master weight, or the part of a parameter that serves as one.
    bias
        Added digitally, or None.
    note
        What a reader of the coverage table should know.
    circuit
        The module whose numbers the weights are, where they are the angles of a quantum circuit rather than a matrix.
    """

    kind: str
    operator: LinearOperator
    weight: nn.Parameter | WeightView
    bias: nn.Parameter | None = None
    note: str = ""
    circuit: nn.Module | None = None


def is_weight_layer(module: nn.Module) -> bool:
    """Return whether a module is a linear layer or convolution with torch's own forward.

    Examples
    --------
    >>> is_weight_layer(nn.Linear(2, 2)), is_weight_layer(nn.Embedding(2, 2))
    (True, False)
    """
    own = "forward" in vars(module)
    return not own and any(isinstance(module, kind) and type(module).forward is kind.forward for kind in MAPPABLE)


def computes_weight(hook: object) -> bool:
    """Return whether a hook before the forward computes the layer's weight: weight norm, spectral norm, pruning.

    Examples
    --------
    >>> computes_weight(print)
    False
    """
    return hasattr(hook, "compute_weight") or isinstance(hook, prune.BasePruningMethod)


def weight_layer(layer: nn.Module) -> WeightLayer:
    """Return a torch layer as a matrix of weights, or raise `NotMappedError` with the reason why it is none.

    A weight that is computed at each call (parametrizations, weight norm) is computed once here.

    Examples
    --------
    >>> weight_layer(nn.Linear(3, 2)).kind
    'Linear'
    """
    describe: Callable[[], WeightLayer] | None = getattr(layer, "circuit_layer", None)
    if describe is not None:
        return describe()
    if not isinstance(layer, MAPPABLE):
        raise NotMappedError("")
    base = next(kind for kind in MAPPABLE if isinstance(layer, kind))
    if not is_weight_layer(layer):
        raise NotMappedError(f"{type(layer).__name__} has a forward of its own: digital")
    if layer.weight.numel() == 0:
        raise NotMappedError("a layer without weights: digital")
    operator = LinearOperator.of(layer)
    if isinstance(layer.weight, nn.Parameter) and not parametrize.is_parametrized(layer):
        bias = layer.bias if isinstance(layer.bias, nn.Parameter) else None
        return WeightLayer(type(layer).__name__, operator, layer.weight, bias)
    for hook in layer._forward_pre_hooks.values():
        if computes_weight(hook):
            hook(layer, ())
    bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone())
    return WeightLayer(base.__name__, operator, nn.Parameter(layer.weight.detach().clone()), bias, COMPUTED)
