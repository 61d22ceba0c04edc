"""Neurons to train directly: leaky integrate-and-fire with a surrogate gradient, one time step a call."""

import math
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn

from devices.spiking import SpikingNeuron


class LIF(nn.Module):
    """A population of leaky integrate-and-fire neurons, one time step a call: ``v = decay v + current``, a spike, a reset.

    The membrane is kept from call to call; `reset_state`, or `unroll` for a whole model, starts anew. Gradients pass through a spike as if
    its slope were ``max(0, width - abs(v - threshold)) / width^2``, and flow back through time. The defaults are those of TET.

    Parameters
    ----------
    threshold
        Membrane at which neurons fire, above 0.
    decay
        Factor of the membrane at each step, from 0 to 1.
    comparator, reset
        ``">"`` or ``">="``; ``"hard"`` or ``"soft"``.
    width
        Half width of the surrogate's triangle, above 0.
    initial
        Membrane before the first step: a number, or one for each neuron of a sample.

    Raises
    ------
    ValueError
        If a number is out of range.

    References
    ----------
    S. Deng et al., Temporal efficient training of spiking neural network via gradient re-weighting, ICLR 2022, arXiv:2202.11946.

    Examples
    --------
    >>> neurons = LIF()
    >>> [neurons(torch.tensor([[0.8]])).item() for _ in range(4)]
    [0.0, 1.0, 0.0, 1.0]
    """

    initial: Tensor

    def __init__(
        self,
        threshold: float = 1.0,
        decay: float = 0.5,
        *,
        comparator: Any = ">",
        reset: Any = "hard",
        width: float = 1.0,
        initial: float | Tensor = 0.0,
    ) -> None:
        super().__init__()
        for name, value in (("threshold", threshold), ("width", width)):
            if not isinstance(value, Real) or not (math.isfinite(value) and value > 0):
                shown = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
                raise ValueError(f"Argument `{name}` must be a finite number above 0, but got {shown}; use 1.0 or so")
        try:
            start = torch.as_tensor(initial, dtype=torch.float32)
        except (TypeError, ValueError, RuntimeError):
            raise ValueError(
                f"Argument `initial` must be a number, or a tensor with one for each neuron of a sample, but got {initial!r}; use 0.0"
            ) from None
        if not bool(start.isfinite().all()):
            raise ValueError(f"Argument `initial` must be finite, but got {initial!r}; use 0.0 for neurons that start at their reset")
        self.threshold, self.width = float(threshold), float(width)
        self.register_buffer("initial", start, persistent=False)
        self.convention = SpikingNeuron(comparator=comparator, reset=reset, decay=decay)
        self.membrane: Tensor | None = None

    def reset_state(self) -> None:
        """Forget the membrane: the next call is the first time step."""
        self.membrane = None

    def forward(self, current: Tensor) -> Tensor:
        """Return the spikes of one time step, 0 or 1, for a current of any shape."""
        if self.membrane is None:
            v = current + self.convention.decay * self.initial
        elif self.membrane.shape != current.shape:
            raise ValueError(
                f"Argument `current` must have the shape of the step before, {tuple(self.membrane.shape)}, but has {tuple(current.shape)}; "
                "call reset_states(model) before another batch, or use unroll"
            )
        else:
            v = self.convention.decay * self.membrane + current
        spikes: Tensor = _Spike.apply(v, self.threshold, self.convention.comparator == ">", self.width)  # type: ignore[no-untyped-call]
        self.membrane = v - self.threshold * spikes if self.convention.reset == "soft" else v * (1 - spikes)
        return spikes

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or a file holds: the membrane without the gradients that flow into it."""
        return {**self.__dict__, "membrane": None if self.membrane is None else self.membrane.detach()}

    def extra_repr(self) -> str:
        """Return the neuron's numbers."""
        c = self.convention
        return f"threshold={self.threshold:g}, decay={c.decay:g}, comparator={c.comparator!r}, reset={c.reset!r}"


class _Spike(torch.autograd.Function):
    """A step with the slope of a triangle."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, threshold: float, strict: bool, width: float) -> Tensor:
        ctx.save_for_backward(v)
        ctx.numbers = threshold, width
        return (v > threshold if strict else v >= threshold).to(v.dtype)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None]:
        (v,) = ctx.saved_tensors
        threshold, width = ctx.numbers
        return upstream[0] * (width - (v - threshold).abs()).clamp(min=0) / width**2, None, None, None


def reset_states(model: nn.Module) -> None:
    """Let every population of a model start anew.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(1, 1), LIF())
    >>> reset_states(model)
    """
    for module in model.modules():
        if isinstance(module, LIF):
            module.reset_state()


def unroll(model: nn.Module, inputs: Tensor, timesteps: int | None = None) -> Tensor:
    """Run a model of single-step neurons over time, from rest.

    Parameters
    ----------
    model
        With `LIF` neurons; it is called once a step.
    inputs
        A sample is a train of shape (batch, timesteps, ...) where `timesteps` is None, or else a constant input (batch, ...).
    timesteps
        Steps for which a constant input is shown.

    Returns
    -------
    Tensor
        The output of each step, shape (timesteps, batch, ...).

    Raises
    ------
    ValueError
        If there is no time step, or inputs are not finite.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(2, 3), LIF(), nn.Linear(3, 2))
    >>> unroll(model, torch.ones(5, 2), timesteps=4).shape
    torch.Size([4, 5, 2])
    """
    steps = inputs.shape[1] if timesteps is None and inputs.dim() > 1 else timesteps
    if not isinstance(steps, Integral) or steps < 1:
        raise ValueError(
            f"Argument `timesteps` must be at least 1, or None for inputs (batch, timesteps, ...), but got {timesteps!r} for inputs "
            f"of shape {tuple(inputs.shape)}; say for how many steps a constant input is shown"
        )
    if inputs.is_floating_point() and not bool(inputs.isfinite().all()):
        raise ValueError("Argument `inputs` must be finite, but holds NaN or infinity, at which neurons do not fire; clean the data")
    reset_states(model)
    try:
        outputs = [model(inputs[:, t] if timesteps is None else inputs) for t in range(steps)]
    except RuntimeError as error:
        if timesteps is not None or inputs.dim() > 2:
            raise
        raise ValueError(
            f"Argument `inputs` of shape {tuple(inputs.shape)} is read as (batch, timesteps), at which the model fails ({error}); pass "
            "`timesteps` for a constant input (batch, ...)"
        ) from error
    finally:
        reset_states(model)
    return torch.stack(outputs)
