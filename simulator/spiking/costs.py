"""What the events of a call cost, and what is spent at rest."""

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from devices.base import Cost, missing
from devices.spiking import EventEnergy, NeuromorphicChip
from simulator.spiking.activity import record
from simulator.spiking.boxes import indices
from simulator.spiking.cores import place_on_cores, sample_shapes, traffic
from simulator.spiking.synapses import Synapses
from simulator.spiking.tracing import INPUT

if TYPE_CHECKING:
    from simulator.spiking.network import SpikingNetwork


def network_costs(network: "SpikingNetwork", inputs: Tensor) -> list[Cost]:
    """Return the cost rows of one call: marginal energy of the events that were counted, power at rest apart.

    Synaptic operations are those of the spikes that really came; neurons are updated at every step; a message is a spike that reaches
    another core, and takes the links of the mesh between the two.

    Parameters
    ----------
    network
        The network.
    inputs
        Of the call.
    """
    activity = record(network, inputs)
    chip = network.core if isinstance(network.core, NeuromorphicChip) else NeuromorphicChip()
    energy: EventEnergy = chip.energy
    hardware = type(network.core).__name__
    sample = inputs[:1, 0].float() if network.coding == "events" else inputs[:1]
    placement = place_on_cores(network, sample)
    messages: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    totals = {name: counts.sum((0, 1)) for name, counts in activity.counts.items()}
    for layer, senders, sent, east_west, north_south in traffic(placement, network, sample):
        spikes = sum(int(totals[layer][np.ix_(*map(indices, one))].sum()) for one in senders.apart())
        for place, each in enumerate((sent, east_west, north_south)):
            messages[layer][place] += spikes * each
    copies = {row["layer"]: row["neuron_copies"] for row in placement.layers}
    samples, steps = len(inputs), activity.timesteps
    rows: list[Cost] = []
    for name, operations in activity.synops.items():
        step = network.named_steps()[name]
        shared = isinstance(step, Synapses) and step.operator.dimensions > 0 and energy.convolution_synapse_j is not None
        rows += energy.costs(name, hardware, {"convolution_synapse" if shared else "synapse": int(operations.sum())}, chip.node_m)
    for name, row in ((row["layer"], row) for row in placement.layers):
        counts = {"update": row["neurons"] * copies[name] * steps * samples}
        if name in totals:
            counts["spike"] = int(totals[name].sum()) * copies[name]
            counts |= dict(zip(("message", "hop_east_west", "hop_north_south"), messages[name], strict=True))
        rows += energy.costs(name, hardware, counts, chip.node_m)
    seconds = None if chip.tick_s is None else chip.tick_s * steps * samples
    at_rest = None if energy.static_watt is None or seconds is None else energy.static_watt * seconds
    published = "" if energy.running_watt is None else f"published while running, with that at rest: {1e3 * energy.running_watt:g} mW"
    rows.append(
        Cost(
            layer=network.name, hardware=hardware, term="power at rest", energy_j=at_rest, latency_s=seconds, static=True,
            power_watt=energy.static_watt, node_m=chip.node_m,
            note="; ".join(filter(None, (missing(static_watt=energy.static_watt, tick_s=chip.tick_s), published))),
        )
    )  # fmt: skip
    if network.coding == "direct":
        positions = {name: shape[1:] for name, shape in sample_shapes(network, sample).items()}
        for name, step in network.synapses.items():
            if network.layout.kinds[network.layout.inputs[network.layout.names.index(name)][0]] == INPUT:
                places = len(step.weight) * int(torch.tensor(positions[name]).prod())
                rows.append(
                    Cost(
                        layer=name, hardware="host", term="direct coding", macs=places * step.weight[0].numel() * samples,
                        note="not given: the host's constants; the current of the constant input, once a sample",
                    )
                )  # fmt: skip
    return [row if row.layer == network.name else replace(row, layer=f"{network.prefix}{row.layer}") for row in rows]
