"""A chip around arrays: tiles, buffers, accumulators, routers, leakage, and scaling between technology nodes."""

from devices.system.parts import Accumulator, Buffer, Router
from devices.system.scaling import AsGiven, ConstantField, NodeFactors, NodeSupply, PredictiveModel, ScalingRule
from devices.system.tiled import Surroundings, TiledSystem

__all__ = [
    "Accumulator",
    "AsGiven",
    "Buffer",
    "ConstantField",
    "NodeFactors",
    "NodeSupply",
    "PredictiveModel",
    "Router",
    "ScalingRule",
    "Surroundings",
    "TiledSystem",
]
