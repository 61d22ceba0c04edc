"""How layers become hardware: one file a family, dispatched on the type of the design.

Add a family by registering a function with `lower`: it gets the design, the layer's weights, its qualified name and the seed,
and returns a `HardwareLayer`, or raises `NotMappedError` with the reason why the layer stays digital.
"""

from functools import singledispatch

from devices.base import ComputeMacro, DigitalArray, SpikingCore
from devices.design import Design
from devices.quantum import TransmonBackend
from devices.remote import RemoteChip
from devices.rram import RRAMCrossbar
from devices.sram import SRAMMacro
from devices.system import TiledSystem
from simulator.hardware import HardwareLayer
from simulator.lowering.crossbar import CrossbarLayer
from simulator.lowering.digital import DigitalLayer
from simulator.lowering.integer_macro import IntegerMacroLayer
from simulator.lowering.macro import MacroLayer
from simulator.lowering.pulses import PulseLayer
from simulator.lowering.remote import RemoteLayer
from simulator.weight_layers import NotMappedError, WeightLayer, WeightView, weight_layer

__all__ = [
    "CrossbarLayer",
    "DigitalLayer",
    "IntegerMacroLayer",
    "MacroLayer",
    "NotMappedError",
    "PulseLayer",
    "RemoteLayer",
    "WeightLayer",
    "WeightView",
    "lower",
    "weight_layer",
]


@singledispatch
def lower(design: Design, layer: WeightLayer, name: str, seed: int) -> HardwareLayer:
    """Put a layer onto a design; dispatches on the design's family.

    Parameters
    ----------
    design
        The hardware.
    layer
        Master weights and the linear map that they are in; `weight_layer` makes it of a torch layer.
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

    Examples
    --------
    >>> from torch import nn
    >>> lower(RRAMCrossbar.preset("wan_nature_2022"), weight_layer(nn.Linear(300, 10)), "head", 0).placement.arrays
    2
    """
    raise TypeError(f"Argument `design` must be a design that layers can be lowered to, as RRAMCrossbar, but got {type(design).__name__}")


@lower.register
def _(design: RRAMCrossbar, layer: WeightLayer, name: str, seed: int) -> HardwareLayer:
    return CrossbarLayer(name, seed, design, layer)


@lower.register
def _(design: SRAMMacro, layer: WeightLayer, name: str, seed: int) -> HardwareLayer:
    return MacroLayer(name, seed, design, layer)


@lower.register
def _(design: ComputeMacro, layer: WeightLayer, name: str, seed: int) -> HardwareLayer:
    return IntegerMacroLayer(name, seed, design, layer)


@lower.register
def _(design: DigitalArray, layer: WeightLayer, name: str, seed: int) -> HardwareLayer:
    return DigitalLayer(name, seed, design, layer)


@lower.register
def _(design: TransmonBackend, layer: WeightLayer, name: str, seed: int) -> HardwareLayer:
    return PulseLayer(name, seed, design, layer)


@lower.register
def _(design: RemoteChip, layer: WeightLayer, name: str, seed: int) -> HardwareLayer:
    return RemoteLayer(name, seed, design, layer)


@lower.register
def _(design: TiledSystem, layer: WeightLayer, name: str, seed: int) -> HardwareLayer:
    lowered = lower(design.arrays, layer, name, seed)
    lowered.system = design
    return lowered


@lower.register
def _(design: SpikingCore, layer: WeightLayer, name: str, seed: int) -> HardwareLayer:
    raise NotMappedError("spiking cores take a whole model, whose spikes flow from layer to layer; pass the core itself as `design`")
