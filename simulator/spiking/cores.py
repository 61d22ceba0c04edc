"""Which core holds which neurons, what that takes of each resource, and which resource binds."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from devices.spiking import NeuromorphicChip
from simulator.spiking.boxes import Block, Box, Region, Shape, block, indices, paths, sources, volume
from simulator.spiking.network import SpikingNetwork
from simulator.spiking.steps import Flatten, Pool, Population
from simulator.spiking.synapses import Synapses
from simulator.spiking.tiling import UNLIMITED, boxes_of, tile_size
from simulator.spiking.tracing import INPUT, NotConvertibleError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Tile:
    """Neurons of one population that lie on one core.

    Attributes
    ----------
    layer
        Name of the population, or of the output layer, whose neurons add up and never fire.
    box
        Which of its neurons.
    core
        Which core.
    used
        What the tile takes of each resource.
    """

    layer: str
    box: Box
    core: int
    used: dict[str, int]


@dataclass(frozen=True, eq=False)
class CorePlacement:
    """Where a network lies on the cores of its chip.

    Attributes
    ----------
    hardware
        Name of the design's class.
    tiles
        The tiles of all layers, from the input on.
    limits
        What a core has of each resource, by core; the last stands for all after it.
    cores
        Cores of the chip; None where there is no limit.
    layers
        A row for each layer: neurons, fan-in, tiles, copies of its weights and of its neurons, the resource that binds, and the delay.
    routes
        Row and column of each core's router, for the cores in use.
    warnings
        What a reader should know.
    """

    hardware: str
    tiles: tuple[Tile, ...]
    limits: tuple[dict[str, int], ...]
    cores: int | None
    layers: tuple[dict[str, Any], ...]
    routes: dict[int, tuple[int, int]]
    warnings: tuple[str, ...] = field(default=())

    def cores_of(self) -> dict[str, int]:
        """Return how many cores each layer lies on."""
        found: dict[str, set[int]] = defaultdict(set)
        for tile in self.tiles:
            found[tile.layer].add(tile.core)
        return {layer: len(cores) for layer, cores in found.items()}

    def limits_of(self, core: int) -> dict[str, int]:
        """Return what a core has."""
        return self.limits[min(core, len(self.limits) - 1)]

    def taken(self) -> tuple[int, float]:
        """Return how many cores are in use, and the share of their neurons; 1 where neurons do not bind."""
        cores = {tile.core for tile in self.tiles}
        available = sum(self.limits_of(core).get("neurons", 0) for core in cores)
        return max(1, len(cores)), sum(tile.used["neurons"] for tile in self.tiles) / available if available else 1.0

    def utilization_of(self) -> dict[str, float]:
        """Return the share of the neurons of its cores that each layer uses; 1 where neurons do not bind."""
        found = {}
        for layer in dict.fromkeys(tile.layer for tile in self.tiles):
            mine = [tile for tile in self.tiles if tile.layer == layer]
            available = sum(self.limits_of(core).get("neurons", 0) for core in {tile.core for tile in mine})
            found[layer] = sum(tile.used["neurons"] for tile in mine) / available if available else 1.0
        return found

    @property
    def frame(self) -> pd.DataFrame:
        """A row for each core in use and resource: ``core``, ``layers``, ``resource``, ``used``, ``available``, ``share``, ``binds``."""
        rows = []
        for core in sorted({tile.core for tile in self.tiles}):
            mine = [tile for tile in self.tiles if tile.core == core]
            limits = self.limits_of(core)
            used = {name: sum(tile.used.get(name, 0) for tile in mine) for name in sorted({name for tile in mine for name in tile.used})}
            shares = {name: used[name] / limits[name] for name in used if name in limits}
            most = max(shares, key=lambda name: shares[name]) if shares else None
            layers = ", ".join(dict.fromkeys(tile.layer for tile in mine))
            for name, count in used.items():
                rows.append(
                    {
                        "core": core, "layers": layers, "resource": name, "used": count, "available": limits.get(name),
                        "share": shares.get(name, math.nan), "binds": name == most,
                    }
                )  # fmt: skip
        frame = pd.DataFrame(rows)
        frame["available"] = frame["available"].astype("Int64")
        return frame

    @property
    def layer_frame(self) -> pd.DataFrame:
        """A row for each layer: ``neurons``, ``fan_in``, ``tiles``, ``weight_copies``, ``neuron_copies``, ``binds``, ``delay``, ``cores``.

        Here a spike passes all layers in one time step. On a chip where each layer takes a step of its own, spikes that come past fewer
        layers have to wait for the others by ``delay`` steps; how long a core can hold them is not given in any preset.
        """
        cores = self.cores_of()
        return pd.DataFrame([{**row, "cores": cores[row["layer"]]} for row in self.layers])

    @property
    def binding(self) -> str | None:
        """The resource that is used most on any core; None where nothing limits."""
        frame = self.frame.dropna(subset=["share"])
        return None if frame.empty else str(frame["resource"].iloc[int(frame["share"].to_numpy().argmax())])

    def __str__(self) -> str:
        used = len({tile.core for tile in self.tiles})
        room = "" if self.cores is None else f" of {self.cores}"
        lines = [f"{self.hardware}: {used}{room} cores, {len(self.tiles)} tiles; {self.binding or 'nothing'} binds"]
        return "\n".join([*lines, self.layer_frame.to_string(index=False)])

    def figure(self) -> "Figure":
        """Return a picture of the cores on their mesh, colored by layer, with how full each is."""
        from simulator.spiking.figures import placement_figure

        return placement_figure(self)


def place_on_cores(network: SpikingNetwork, sample: Tensor) -> CorePlacement:
    """Put the neurons of a network on the cores of its chip, from the output to the input.

    A population is cut into equal tiles, as few as its core's limits allow; neurons are never split, because parts of a sum would have to
    fire. Tiles are packed onto cores in the order of the layers.

    Parameters
    ----------
    network
        The network.
    sample
        One input of one time step, batch of one.

    Raises
    ------
    NotConvertibleError
        If a neuron, a tile or the network does not fit; the line names each layer that does not, the resource and what would help.
    """
    shapes = sample_shapes(network, sample)
    core = network.core
    _check_pools(network)
    layers = [name for name in network.layout.names if isinstance(network.named_steps()[name], Population)]
    if network.layout.kinds[network.layout.output] == "current":
        layers.append(network.layout.output)
    chip = core if isinstance(core, NeuromorphicChip) else None
    count = chip.cores if chip is not None else core.limits().get("cores")
    limits = tuple(core.limits(index) for index in range(count if chip is not None and isinstance(chip.neurons, tuple) and count else 1))
    cut: dict[str, list[tuple[Box, dict[str, int]]]] = {}
    rows: dict[str, dict[str, Any]] = {}
    delays = _delays(network)
    targets: list[dict[str, Region]] = []
    refused: list[str] = []
    for name in reversed(layers):
        try:
            cut[name], rows[name] = _cut(network, shapes, name, limits, targets)
        except NotConvertibleError as error:
            refused.insert(0, str(error))
            continue
        targets += [sources(network, shapes, name, box) for box, _ in cut[name]]
    if refused:
        raise NotConvertibleError("; and: ".join(refused))
    tiles = _pack(network, layers, cut, limits, count)
    routes = {tile.core: chip.router(tile.core) if chip is not None and chip.mesh else (0, 0) for tile in tiles}
    hardware = type(core).__name__
    return CorePlacement(hardware, tuple(tiles), limits, count, tuple({**rows[name], "delay": delays[name]} for name in layers), routes)


def traffic(placement: CorePlacement, network: SpikingNetwork, sample: Tensor) -> Iterator[tuple[str, Region, int, int, int]]:
    """Yield who sends spikes to which other core: population, which of its neurons, messages a spike, and its links east-west, north-south.

    Parameters
    ----------
    placement, network
        From `place_on_cores`.
    sample
        One input of one time step, batch of one.
    """
    shapes = sample_shapes(network, sample)
    homes: dict[str, list[Tile]] = defaultdict(list)
    for tile in placement.tiles:
        homes[tile.layer].append(tile)
    arriving: dict[tuple[str, int], list[Block]] = defaultdict(list)
    for tile in placement.tiles:
        for source, needed in sources(network, shapes, tile.layer, tile.box).items():
            if source != INPUT:
                arriving[source, tile.core] += needed.blocks
    for (source, target), blocks in arriving.items():
        # One message reaches all neurons of a core: what several tiles on one core need is sent once.
        joined = Region(blocks)
        for home in homes[source]:
            common = joined.overlap(home.box)
            if home.core != target and common.blocks:
                (row, column), (to_row, to_column) = placement.routes[home.core], placement.routes[target]
                yield source, common, 1, abs(column - to_column), abs(row - to_row)


@torch.no_grad()
def sample_shapes(network: SpikingNetwork, sample: Tensor) -> dict[str, Shape]:
    """Return the shape of a sample of each stage's output, and of the input."""
    shapes: dict[str, Shape] = {INPUT: tuple(sample.shape[1:])}
    values = {INPUT: sample}
    for (name, step), inputs in zip(network.named_steps().items(), network.layout.inputs, strict=True):
        values[name] = step.reference(*(values[source] for source in inputs))
        shapes[name] = tuple(values[name].shape[1:])
    return shapes


def _cut(
    network: SpikingNetwork,
    shapes: Mapping[str, Shape],
    name: str,
    limits: tuple[dict[str, int], ...],
    targets: list[dict[str, Region]],
) -> tuple[list[tuple[Box, dict[str, int]]], dict[str, Any]]:
    """Return a layer's tiles with what each takes, and its row of the table."""
    shape = shapes[name]
    demand = _Demand(network, shapes, name, targets)
    roomy = {key: max(one.get(key, UNLIMITED) for one in limits) for key in {key for one in limits for key in one}}
    middle: Box = tuple((size // 2, size // 2 + 1) for size in shape)
    fan_in = sum(needed.volume() for needed in sources(network, shapes, name, middle).values())
    one = demand(middle)
    for resource, need in one.items():
        if need > roomy.get(resource, UNLIMITED):
            if resource == "axons_in":
                raise NotConvertibleError(
                    f"Layer `{name}` does not fit: a neuron has {fan_in} inputs ({need} axons), but a core takes {roomy[resource]}; "
                    "splitting the sum would need partial sums to fire, which changes what is computed; prune inputs or use another core"
                )
            raise NotConvertibleError(
                f"Layer `{name}` does not fit: one neuron needs {need} {resource}, but a core has {roomy[resource]}; use another core"
            )
    _check_kernels(network, name)
    size = tile_size(shape, demand, roomy)
    boxes = [()] if not shape else boxes_of(shape, size)
    found = [(box, demand(box)) for box in boxes]
    places = math.prod(math.ceil(full / part) for full, part in zip(shape[1:], size[1:], strict=True))
    used = found[0][1]
    shares = {key: used[key] / roomy[key] for key in used if key in roomy}
    binds = max(shares, key=lambda key: shares[key]) if shares and (len(found) > 1 or max(shares.values()) > 0) else "-"
    return found, {
        "layer": name, "neurons": math.prod(shape), "fan_in": fan_in, "tiles": len(found), "weight_copies": places,
        "neuron_copies": demand.copies, "binds": binds,
    }  # fmt: skip


class _Demand:
    """What a tile takes of each resource."""

    def __init__(self, network: SpikingNetwork, shapes: Mapping[str, Shape], name: str, targets: list[dict[str, Region]]) -> None:
        self.network, self.shapes, self.name = network, shapes, name
        core = network.core
        self.chip = core if isinstance(core, NeuromorphicChip) else NeuromorphicChip()
        self.layers = _synapses_before(network, name)
        self.arriving = [needed[name] for needed in targets if name in needed]
        self.copies = 1
        fan_out = self.chip.fan_out
        most = self._most_targets(shapes[name])
        if fan_out is not None and most > fan_out:
            if not self.chip.replication:
                raise NotConvertibleError(
                    f"Layer `{name}` does not fit: its spikes go to {most} cores, but a core sends to {fan_out}; make the layers after it "
                    "narrower, or use another core"
                )
            self.copies = math.ceil(most / fan_out)

    def _most_targets(self, shape: Shape) -> int:
        if not self.arriving:
            return 0
        reached = torch.zeros(shape, dtype=torch.int32)
        for needed in self.arriving:
            for one in needed.apart():
                reached[np.ix_(*map(indices, one))] += 1
        return int(reached.max())

    def __call__(self, box: Box) -> dict[str, int]:
        neurons, channels = volume(box), box[0][1] - box[0][0] if box else 1
        needed = sources(self.network, self.shapes, self.name, box)
        each: Box = tuple((start, start + 1) for start, _ in box)
        places = math.prod(_address(stop - start) for start, stop in box[1:]) if self.chip.address_fields else neurons // max(1, channels)
        used = {
            "neurons": channels * places * self.copies,
            "axons_in": sum(one.volume() for one in needed.values()) * self.chip.axons_per_source,
        }
        mine = block(box)
        used["axons_out"] = sum(target.inside(mine) for target in self.arriving)
        if self.chip.kernel_words is not None:
            used["kernel_words"] = sum(self._kernel_words(layer, channels) for layer in self.layers)
            used["bias_words"] = channels if any(layer.total_bias() is not None for layer in self.layers) else 0
        elif self.chip.synapse_bits is not None and self.chip.arithmetic is not None:
            middle: Box = tuple((size // 2, size // 2 + 1) for size in self.shapes[self.name])
            synapses = sum(Region([one]).volume() for _, one in paths(self.network, self.shapes, self.name, middle)) * volume(box)
            bits = self.chip.arithmetic.weight_bits
            # A sparse row names the target of each weight; a dense one does not.
            index = math.ceil(math.log2(max(2, self.chip.limits().get("neurons", 2))))
            filled = _share_of_weights(self.layers)
            used["synapse_bits"] = math.ceil(synapses * min(bits, filled * (bits + index))) if each else 0
        return used

    def _kernel_words(self, layer: Synapses, outputs: int) -> int:
        """Return the words that the weights of some of a layer's outputs take; a matrix is a kernel as large as the image before it."""
        inputs, positions = layer.weight.shape[1], math.prod(layer.weight.shape[2:])
        if layer.operator.dimensions == 0:
            source = self.network.layout.inputs[self.network.layout.names.index(layer.name)][0]
            shape = self._image(source)
            inputs, positions = shape[0], math.prod(shape[1:])
        return inputs * _address(positions) * _address(outputs) if self.chip.address_fields else inputs * positions * outputs

    def _image(self, name: str) -> Shape:
        """Return the shape of what was flattened into the output of a stage, or of the output."""
        while name != INPUT and isinstance(self.network.named_steps()[name], Flatten):
            name = self.network.layout.inputs[self.network.layout.names.index(name)][0]
        return self.shapes[name]


def _address(count: int) -> int:
    """Return how many places a bit field for a number of things addresses."""
    return 1 << max(0, count - 1).bit_length()


def _share_of_weights(layers: list[Synapses]) -> float:
    total = sum(layer.weight.numel() for layer in layers)
    return sum(int(layer.weight.detach().count_nonzero()) for layer in layers) / total if total else 1.0


def _synapses_before(network: SpikingNetwork, name: str) -> list[Synapses]:
    """Return the layers with weights whose sums reach a population, but for those whose input is computed beside the cores."""
    found: list[Synapses] = []
    steps = network.named_steps()
    pending = [name] if network.layout.kinds[name] == "current" else list(network.layout.inputs[network.layout.names.index(name)])
    while pending:
        source = pending.pop()
        if source == INPUT or network.layout.kinds[source] != "current":
            continue
        inputs = network.layout.inputs[network.layout.names.index(source)]
        step = steps[source]
        if isinstance(step, Synapses):
            if network.layout.kinds[inputs[0]] != INPUT or network.coding != "direct":
                found.append(step)
            continue
        pending.extend(inputs)
    return found


def _delays(network: SpikingNetwork) -> dict[str, int]:
    """Return by how many populations the spikes that reach each stage differ."""
    spans: dict[str, tuple[int, int]] = {} if network.coding == "direct" else {INPUT: (0, 0)}
    waits: dict[str, int] = {}
    for name, inputs in zip(network.layout.names, network.layout.inputs, strict=True):
        before = [spans[one] for one in inputs if one in spans] or [(0, 0)]
        first, last = min(one for one, _ in before), max(one for _, one in before)
        waits[name] = last - first
        known = any(one in spans for one in inputs)
        if isinstance(network.named_steps()[name], Population):
            spans[name] = (last + 1, last + 1)
        elif known:
            spans[name] = first, last
    return waits


def _check_pools(network: SpikingNetwork) -> None:
    core = network.core
    if not isinstance(core, NeuromorphicChip) or core.pool_sizes is None:
        return
    for name, step in network.named_steps().items():
        if isinstance(step, Pool) and not (
            set(step.kernel) <= set(core.pool_sizes) and step.stride == step.kernel and not any(step.padding)
        ):
            raise NotConvertibleError(
                f"Layer `{name}` does not fit: windows of {', '.join(map(str, core.pool_sizes))} side by side can be pooled, but its are "
                f"{step.kernel} with stride {step.stride} and padding {step.padding}; pool in several steps"
            )


def _check_kernels(network: SpikingNetwork, name: str) -> None:
    core = network.core
    if not isinstance(core, NeuromorphicChip):
        return
    for layer in _synapses_before(network, name):
        if not layer.operator.dimensions:
            continue
        if core.largest_kernel is not None and max(layer.weight.shape[2:]) > core.largest_kernel:
            raise NotConvertibleError(
                f"Layer `{layer.name}` does not fit: kernels reach {core.largest_kernel}, but its are {tuple(layer.weight.shape[2:])}; use "
                "smaller ones"
            )
        if core.strides is not None and not set(layer.operator.stride) <= set(core.strides):
            raise NotConvertibleError(
                f"Layer `{layer.name}` does not fit: strides are {', '.join(map(str, core.strides))}, but its are {layer.operator.stride}; "
                "use one of them"
            )


def _pack(
    network: SpikingNetwork,
    layers: list[str],
    cut: Mapping[str, list[tuple[Box, dict[str, int]]]],
    limits: tuple[dict[str, int], ...],
    count: int | None,
) -> list[Tile]:
    """Give each tile a core: the one before it where there is room, else the next; of unequal cores the smallest that holds it."""
    core = network.core
    shared = not (isinstance(core, NeuromorphicChip) and core.one_population)
    tiles: list[Tile] = []
    free = list(range(count or 0)) if len(limits) > 1 else None
    filled: dict[str, int] = {}
    last = -1
    for name in layers:
        for box, used in cut[name]:
            if free is not None:
                fitting = [one for one in free if all(need <= limits[one].get(key, UNLIMITED) for key, need in used.items())]
                if not fitting:
                    raise NotConvertibleError(
                        f"Layer `{name}` does not fit: no core of {count} that is free holds {used['neurons']} neurons and "
                        f"{used.get('kernel_words', 0)} weights; use fewer or smaller layers"
                    )
                chosen = min(fitting, key=lambda one: sum(limits[one].values()))
                free.remove(chosen)
                tiles.append(Tile(name, box, chosen, used))
                continue
            together = {key: filled.get(key, 0) + need for key, need in used.items()}
            if last < 0 or not shared or any(need > limits[0].get(key, UNLIMITED) for key, need in together.items()):
                last, together = last + 1, dict(used)
            filled = together
            tiles.append(Tile(name, box, last, used))
    needed = len({tile.core for tile in tiles})
    if count is not None and needed > count:
        most = max(layers, key=lambda name: len(cut[name]))
        raise NotConvertibleError(
            f"Layer `{most}` does not fit: the network needs {needed} cores, most of them for this layer ({len(cut[most])}), but the chip "
            f"has {count}; use fewer channels, or several chips"
        )
    return tiles
