"""Networks of spiking neurons: what spiked when on a chip, direct training, event data, and exchange with other tools."""

from simulator.spiking.activity import Activity, EarlyExit, TimeAccuracy, accuracy_over_time, activity, early_exit
from simulator.spiking.cores import CorePlacement
from simulator.spiking.errors import conversion_error
from simulator.spiking.events import moving_shapes, tonic_events
from simulator.spiking.inspection import cores, roundings
from simulator.spiking.interchange import ImportedGraph, from_nir, to_nir
from simulator.spiking.losses import Unrolled, mean_loss, tet_loss, train_spiking
from simulator.spiking.neurons import LIF, reset_states, unroll
from simulator.spiking.recipes import (
    AdvancedCalibration,
    LeastErrorThreshold,
    LightCalibration,
    MaximumThreshold,
    OptimalConversion,
    Recipe,
)
from simulator.spiking.tracing import NotConvertibleError

__all__ = [
    "LIF",
    "Activity",
    "AdvancedCalibration",
    "CorePlacement",
    "EarlyExit",
    "ImportedGraph",
    "LeastErrorThreshold",
    "LightCalibration",
    "MaximumThreshold",
    "NotConvertibleError",
    "OptimalConversion",
    "Recipe",
    "TimeAccuracy",
    "Unrolled",
    "accuracy_over_time",
    "activity",
    "conversion_error",
    "cores",
    "early_exit",
    "from_nir",
    "mean_loss",
    "moving_shapes",
    "reset_states",
    "roundings",
    "tet_loss",
    "to_nir",
    "tonic_events",
    "train_spiking",
    "unroll",
]
