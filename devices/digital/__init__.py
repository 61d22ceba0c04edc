"""Digital arrays and tiered memories: cycles, traffic, roofline, and the time to move experts."""

from devices.digital.collective import all_to_all_seconds
from devices.digital.cost import Product, product_cost
from devices.digital.formats import rounded
from devices.digital.socket import TieredSocket
from devices.digital.systolic import SystolicArray
from devices.digital.tiers import MemoryTier, TieredArray
from devices.digital.vector import VectorUnit

__all__ = [
    "MemoryTier",
    "Product",
    "SystolicArray",
    "TieredArray",
    "TieredSocket",
    "VectorUnit",
    "all_to_all_seconds",
    "product_cost",
    "rounded",
]
