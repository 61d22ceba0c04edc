"""Gradients that may be taken once: what is differentiated again is refused, and not left out in silence.

Torch's own decorator raises only where the whole graph is walked, as by ``backward()``: ``torch.autograd.grad(gradient, inputs)`` goes
past it, and second derivatives lack what they owe to the function.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate the ``backward`` of a `torch.autograd.Function` whose second derivatives are not known.

    What it returns may be used with ``create_graph=True``; to differentiate it raises, by whatever way the graph is walked: it is tied to
    the tensors that the function saved and to the gradient that came in.

    Raises
    ------
    RuntimeError
        Where the gradient is differentiated.

    Examples
    --------
    >>> class Square(torch.autograd.Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         ctx.save_for_backward(x)
    ...         return x * x
    ...     @staticmethod
    ...     @once_differentiable
    ...     def backward(ctx, upstream):
    ...         return 2 * ctx.saved_tensors[0] * upstream
    >>> x = torch.tensor(3.0, requires_grad=True)
    >>> gradient, = torch.autograd.grad(Square.apply(x), x, create_graph=True)
    >>> gradient.item()
    6.0
    >>> torch.autograd.grad(gradient, x)
    Traceback (most recent call last):
    RuntimeError: the gradient of Square must not be differentiated again, but was: its second derivatives are not known; take differences
    """

    @functools.wraps(backward)
    def guarded(ctx: Any, *upstream: Any) -> Any:
        with torch.no_grad():
            found = backward(ctx, *upstream)
        if not torch.is_grad_enabled():
            return found
        tied = [one for one in (*ctx.saved_tensors, *upstream) if isinstance(one, Tensor) and one.requires_grad]
        name = type(ctx).__name__.removesuffix("Backward").lstrip("_")
        outputs = found if isinstance(found, tuple) else (found,)
        held = tuple(one if one is None else _Held.apply(one, name, *tied) for one in outputs)  # type: ignore[no-untyped-call]
        return held if isinstance(found, tuple) else held[0]

    return guarded


class _Held(torch.autograd.Function):
    """A gradient that is tied to what it was computed from."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, name: str, *tied: Tensor) -> Tensor:
        ctx.name = name
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Any:
        raise RuntimeError(
            f"the gradient of {ctx.name} must not be differentiated again, but was: its second derivatives are not known; take differences"
        )
