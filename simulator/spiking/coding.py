"""How an input becomes what neurons take: a constant current, random spikes, one spike in time, or events as they are."""

from typing import Literal

import torch
from torch import Tensor

from kernels.random import Key, uniform
from simulator.spiking.signals import Part, Signal

Coding = Literal["direct", "rate", "latency", "events"]
CODINGS: tuple[Coding, ...] = ("direct", "rate", "latency", "events")


def encode(inputs: Tensor, coding: Coding, timesteps: int, key: Key) -> Signal:
    """Return an input as the signal that the first layer gets.

    Parameters
    ----------
    inputs
        Shape (batch, ...); for ``"events"`` (batch, timesteps, ...), whole numbers of events.
    coding
        ``"direct"``: the same analog values at every step. ``"rate"``: at each step a spike with the probability of the value, which is in
        0..1. ``"latency"``: one spike, the earlier the larger the value in 0..1; none for 0; only for trained neurons, as its mean does not
        depend on the value. ``"events"``: counts as they come.
    timesteps
        Steps.
    key
        Stream of random spikes.

    Raises
    ------
    ValueError
        If values are out of the coding's range.

    Examples
    --------
    >>> signal = encode(torch.tensor([[1.0, 0.5, 0.0]]), "latency", 5, Key.of(seed=0))
    >>> signal.parts[0].counts[:, 0].tolist()
    [[1, 0, 0], [0, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]]
    """
    if coding == "direct":
        return Signal(inputs.float()[None])
    one = torch.ones((), device=inputs.device)
    if coding == "events":
        whole = inputs.transpose(0, 1)
        if inputs.numel() and (float(inputs.min()) < 0 or float(inputs.max()) > 255 or bool((inputs != inputs.round()).any())):
            raise ValueError(
                'Argument `coding`: "events" needs whole numbers of events from 0 to 255 a step, but got others; bin them first'
            )
        return Signal(parts=(Part(whole.to(torch.uint8).contiguous(), one),))
    if inputs.numel() and not (float(inputs.min()) >= 0 and float(inputs.max()) <= 1):
        raise ValueError(
            f'Argument `coding`: "{coding}" needs inputs in 0..1, but got {float(inputs.min()):g}..{float(inputs.max()):g}; rescale them, '
            'or use "direct"'
        )
    if coding == "rate":
        drawn = uniform(key, (timesteps, *inputs.shape), inputs.device)
        return Signal(parts=(Part((drawn < inputs).to(torch.uint8), one),))
    moment = ((1 - inputs) * (timesteps - 1)).round().long()
    steps = torch.arange(timesteps, device=inputs.device).reshape(-1, *[1] * inputs.dim())
    return Signal(parts=(Part(((moment == steps) & (inputs > 0)).to(torch.uint8), one),))
