"""Chips of many equal or unequal neuromorphic cores."""

from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from devices.base import SpikingCore
from devices.spiking.arithmetic import IntegerArithmetic
from devices.spiking.energy import EventEnergy
from devices.spiking.neuron import SpikingNeuron
from kernels.spikes import integrate_and_fire, integrate_and_fire_fixed

RESOURCES = ("neurons", "axons_in", "axons_out", "synapse_bits", "kernel_words", "bias_words", "fan_out")


class NeuromorphicChip(SpikingCore):
    """Cores with integrate-and-fire neurons, synapse memory and a mesh that carries spikes between them.

    A limit that is None does not bind. A limit with several numbers is that of each core, and then there are as many cores.

    Parameters
    ----------
    cores
        Cores of the chip.
    neurons
        Neurons of a core.
    axons_in, axons_out
        Sources whose spikes a core can take, and destinations (source neuron and core) that it can send to.
    axons_per_source
        Input axons that one source takes: several where a multi-valued weight is made of binary synapses of several axon types.
    synapse_bits
        Memory of a core for the weights of all its connections, in bits.
    kernel_words
        Memory of a core for weights that all positions of a convolution share, in weights; None where each connection has its own.
    bias_words
        Memory of a core for biases, one for each output channel of a convolution.
    address_fields
        Whether memories are addressed by bit fields, which takes powers of two: of neurons for height and for width, of kernel words for
        the positions of a kernel and for the outputs.
    fan_out
        Cores that a neuron can send its spikes to.
    replication
        Whether a neuron that must reach more cores is copied, which takes neurons.
    largest_kernel
        Largest height or width of a kernel.
    strides, pool_sizes
        Strides of convolutions, and sizes of windows that are pooled side by side, which a core can do; None for all.
    one_population
        Whether a core holds neurons of one population only.
    max_pooling
        Whether a core can take the maximum of spikes.
    neuron
        The neuron's conventions; converted networks use them as they are.
    resets
        Resets that a trained network may ask for.
    arithmetic
        The core's integers; None computes in float32.
    energy
        Energy of events.
    tick_s
        Time of a step where it is fixed; None where steps take as long as their events.
    mesh
        Rows and columns of routers; None where the chip has no mesh.
    cores_per_router
        Cores at one router.
    node_m
        Technology node.

    Examples
    --------
    >>> chip = SpikingCore.preset("loihi1")
    >>> chip.limits()["neurons"], chip.arithmetic.state_bits
    (1024, 24)
    """

    cores: int | None = Field(default=None, ge=1)
    neurons: int | tuple[int, ...] | None = None
    axons_in: int | None = Field(default=None, ge=1)
    axons_out: int | None = Field(default=None, ge=1)
    axons_per_source: int = Field(default=1, ge=1)
    synapse_bits: int | None = Field(default=None, ge=1)
    kernel_words: int | tuple[int, ...] | None = None
    bias_words: int | None = Field(default=None, ge=1)
    address_fields: bool = False
    fan_out: int | None = Field(default=None, ge=1)
    largest_kernel: int | None = Field(default=None, ge=1)
    strides: tuple[int, ...] | None = None
    pool_sizes: tuple[int, ...] | None = None
    replication: bool = False
    one_population: bool = False
    max_pooling: bool = False
    neuron: SpikingNeuron = SpikingNeuron()
    resets: tuple[str, ...] = ("soft", "hard")
    arithmetic: IntegerArithmetic | None = None
    energy: EventEnergy = EventEnergy()
    tick_s: float | None = Field(default=None, gt=0)
    mesh: tuple[int, int] | None = None
    cores_per_router: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for name in ("neurons", "kernel_words"):
            value = getattr(self, name)
            numbers = value if isinstance(value, tuple) else () if value is None else (value,)
            if any(number < 1 for number in numbers) or (isinstance(value, tuple) and len(value) != self.cores):
                raise ValueError(f"`{name}` must be above 0, one number or one for each of the `cores`, but got {value}; list {self.cores}")
        if self.neuron.reset not in self.resets or not set(self.resets) <= {"soft", "hard"}:
            raise ValueError(f"`resets` must hold that of `neuron`, {self.neuron.reset}, and soft or hard, but got {self.resets}; add it")
        if self.mesh is not None and (min(self.mesh) < 1 or self.mesh[0] * self.mesh[1] * self.cores_per_router < (self.cores or 1)):
            raise ValueError(f"`mesh` must have a place for each of the `cores`, but {self.mesh} does not hold {self.cores}; enlarge it")
        return self

    def ideal(self) -> Self:
        """Return the chip as it is: its arithmetic is exact and its integer widths are its nature."""
        return self

    def limits(self, core: int = 0) -> dict[str, int]:
        """Return how much of each resource a core has, by its name; what does not bind is left out."""
        found = {}
        for name in RESOURCES:
            value = getattr(self, name)
            if value is not None:
                found[name] = value[core % len(value)] if isinstance(value, tuple) else value
        return found

    def router(self, core: int) -> tuple[int, int]:
        """Return row and column of a core's router; cores fill the mesh row by row, back and forth, so that neighbors stay close.

        Examples
        --------
        >>> chip = NeuromorphicChip(mesh=(2, 2))
        >>> [chip.router(core) for core in range(4)]
        [(0, 0), (0, 1), (1, 1), (1, 0)]
        """
        columns = 1 if self.mesh is None else self.mesh[1]
        row, column = divmod(core // self.cores_per_router, columns)
        return row, columns - 1 - column if row % 2 else column

    def step(self, state: dict[str, Tensor], current: Tensor, threshold: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Advance every neuron by one time step; see `SpikingCore.step`.

        The state is ``membrane``, and with a reset in the next step ``fired``. Integer currents and thresholds are in the unit of the
        membrane.
        """
        neuron, membrane = self.neuron, state.get("membrane", torch.zeros_like(current))
        if self.arithmetic is not None:
            keep, shift = (1, 0) if neuron.decay == 1 else (self.arithmetic.keep(neuron.decay), self.arithmetic.decay_bits)
            fixed = integrate_and_fire_fixed(
                current[None], threshold, membrane, keep=keep, shift=shift, bits=self.arithmetic.state_bits,
                overflow=self.arithmetic.overflow, reset=neuron.reset, comparator=neuron.comparator,
            )  # fmt: skip
            return {"membrane": fixed[1]}, fixed[0][0]
        if neuron.reset_moment == "next_step":
            return _late_step(neuron, state, membrane, current, threshold)
        spikes, after = integrate_and_fire(current[None], threshold, membrane, neuron.decay, neuron.reset, neuron.comparator)
        return {"membrane": after}, spikes[0]


def _late_step(
    neuron: SpikingNeuron, state: dict[str, Tensor], membrane: Tensor, current: Tensor, threshold: Tensor
) -> tuple[dict[str, Tensor], Tensor]:
    """One step of a neuron whose reset waits for it; the spike of the step before is part of the state."""
    waiting = state.get("fired", torch.zeros_like(current)) > 0
    if neuron.reset == "hard":
        membrane = torch.where(waiting, torch.zeros_like(membrane), membrane)
    v = membrane * neuron.decay + current
    if neuron.reset == "soft":
        v = torch.where(waiting, v - threshold, v)
    fired = (v > threshold if neuron.comparator == ">" else v >= threshold).to(v.dtype)
    return {"membrane": v, "fired": fired}, fired
