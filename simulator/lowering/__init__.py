"""How layers become hardware: one file a family, dispatched on the type of the design.

Add a family by registering a function with `lower`: it gets the design, the torch layer, its qualified name and the seed,
and returns a `HardwareLayer`, or raises `NotMappedError` with the reason why the layer stays digital.
"""

from functools import singledispatch

from torch import nn

from devices.base import Design
from devices.rram import RRAMCrossbar
from simulator.hardware import HardwareLayer
from simulator.lowering.crossbar import CrossbarLayer

MAPPABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Layers that are a matrix of weights; a subclass counts when it keeps their forward."""


class NotMappedError(Exception):
    """Says why a layer stays digital."""


@singledispatch
def lower(design: Design, layer: nn.Module, name: str, seed: int) -> HardwareLayer:
    """Put a layer onto a design; dispatches on the design's family.

    Parameters
    ----------
    design
        The hardware.
    layer
        The torch layer; its parameters become the master weights.
    name
        Qualified name of the layer in the model.
    seed
        Seed of the chip.

    Raises
    ------
    TypeError
        If no lowering exists for the design.
    NotMappedError
        If this layer cannot lie on this design; the message is the reason.
    """
    raise TypeError(f"Argument `design` must be a design that layers can be lowered to, as RRAMCrossbar, but got {type(design).__name__}")


@lower.register
def _(design: RRAMCrossbar, layer: nn.Module, name: str, seed: int) -> HardwareLayer:
    return CrossbarLayer(name, seed, design, weight_layer(layer))


def weight_layer(layer: nn.Module) -> nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d:
    """Return the layer as one that is a matrix of weights, or raise `NotMappedError` with the reason why it is none."""
    if not isinstance(layer, MAPPABLE):
        raise NotMappedError(f"{type(layer).__name__} is not a linear layer or convolution: digital")
    base = next(kind for kind in MAPPABLE if isinstance(layer, kind))
    if type(layer).forward is not base.forward:
        raise NotMappedError(f"{type(layer).__name__} has a forward of its own: digital")
    return layer
