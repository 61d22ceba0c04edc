"""The slow, obvious twins of the kernels of spiking neurons and synapses: Python numbers, one neuron and one weight at a time."""

from collections.abc import Sequence

import numpy as np
import torch


def neuron(
    currents: Sequence[float],
    threshold: float,
    v0: float = 0.0,
    decay: float = 1.0,
    reset: str = "soft",
    comparator: str = ">=",
    reset_potential: float = 0.0,
    reset_moment: str = "same_step",
    number: type = float,
) -> tuple[list[int], list[float]]:
    """One neuron: its spikes, and its membrane after each step. `number` rounds every result, as np.float32 does."""
    v, spikes, trace = number(v0), [], []
    waiting = False
    for current in currents:
        if waiting and reset == "hard":
            v = number(reset_potential)
        v = number(number(v * number(decay)) + number(current))
        if waiting and reset == "soft":
            v = number(v - number(threshold))
        fired = v > number(threshold) if comparator == ">" else v >= number(threshold)
        if fired and reset_moment == "same_step":
            v = number(v - number(threshold)) if reset == "soft" else number(reset_potential)
        waiting = bool(fired) and reset_moment == "next_step"
        spikes.append(int(fired))
        trace.append(v)
    return spikes, trace


def fixed_neuron(
    currents: Sequence[int],
    threshold: int,
    v0: int = 0,
    keep: int = 1,
    shift: int = 0,
    bits: int = 32,
    overflow: str = "saturate",
    reset: str = "soft",
    comparator: str = ">=",
) -> tuple[list[int], int, int]:
    """One neuron of Python integers, which have no width: its spikes, last membrane and overflows."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    v, spikes, beyond = v0, [], 0
    for current in currents:
        if shift:
            product = v * keep
            v = product // 2**shift if product >= 0 else -(-product // 2**shift)
        v += current
        if not low <= v <= high:
            beyond += 1
            v = max(low, min(high, v)) if overflow == "saturate" else (v - low) % 2**bits + low
        fired = v > threshold if comparator == ">" else v >= threshold
        if fired:
            v = v - threshold if reset == "soft" else 0
        spikes.append(int(fired))
    return spikes, v, beyond


def dense_linear(spikes: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Every input, whether it spiked or not, in ascending order."""
    kind = np.float32 if rows.is_floating_point() else np.int32
    out = np.zeros((len(spikes), rows.shape[1]), kind)
    for n, row in enumerate(spikes.numpy()):
        for j, count in enumerate(row):
            out[n] = out[n] + rows[j].numpy().astype(kind) * kind(count)
    return torch.from_numpy(out)


def dense_convolution(
    spikes: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> torch.Tensor:
    """Every input of every window: the channels of a position first, then the positions column by column."""
    kind = np.float32 if weight.is_floating_point() else np.int32
    w, x = weight.numpy().astype(kind), spikes.numpy()
    outputs, share, tall, wide = w.shape
    height = (x.shape[2] + 2 * padding[0] - dilation[0] * (tall - 1) - 1) // stride[0] + 1
    width = (x.shape[3] + 2 * padding[1] - dilation[1] * (wide - 1) - 1) // stride[1] + 1
    out = np.zeros((len(x), outputs, height, width), kind)
    for n, o, y, z in np.ndindex(out.shape):
        total = kind(bias[o].item())
        first = o // (outputs // groups) * share
        for kx in range(wide):
            for ky in range(tall):
                row, column = y * stride[0] - padding[0] + ky * dilation[0], z * stride[1] - padding[1] + kx * dilation[1]
                if 0 <= row < x.shape[2] and 0 <= column < x.shape[3]:
                    for c in range(share):
                        total = kind(total + kind(w[o, c, ky, kx] * kind(x[n, first + c, row, column])))
        out[n, o, y, z] = total
    return torch.from_numpy(out)
