"""What events on a neuromorphic core cost: marginal energy by event, static power apart."""

from collections.abc import Mapping

from pydantic import Field

from devices.base import Cost, missing
from devices.design import Design


class EventEnergy(Design):
    """Energy of one event of each kind, and power at rest. None: not given, which is not zero.

    Parameters
    ----------
    synapse_j
        One synaptic operation: a weight read and added.
    convolution_synapse_j
        One synaptic operation of a convolution, where a core reads its weights in another way; None: as `synapse_j`.
    update_j
        One update of one neuron in one time step.
    spike_j
        One spike of one neuron, on top of its update.
    message_j
        One spike sent to one core.
    hop_east_west_j, hop_north_south_j
        One message over one link of the mesh.
    static_watt
        Power of the whole chip whether or not anything spikes.
    running_watt
        Power of the whole chip at a published workload, that at rest in it: told beside the cost, never added to it.

    Examples
    --------
    >>> EventEnergy(synapse_j="24 pJ").synapse_j
    2.4e-11
    """

    synapse_j: float | None = Field(default=None, ge=0)
    convolution_synapse_j: float | None = Field(default=None, ge=0)
    update_j: float | None = Field(default=None, ge=0)
    spike_j: float | None = Field(default=None, ge=0)
    message_j: float | None = Field(default=None, ge=0)
    hop_east_west_j: float | None = Field(default=None, ge=0)
    hop_north_south_j: float | None = Field(default=None, ge=0)
    static_watt: float | None = Field(default=None, ge=0)
    running_watt: float | None = Field(default=None, ge=0)

    def costs(self, layer: str, hardware: str, counts: Mapping[str, int], node_m: float | None = None) -> list[Cost]:
        """Return a row for each kind of event of a layer; a kind whose energy was not given carries None and says so.

        Parameters
        ----------
        layer, hardware
            Names for the rows.
        counts
            Events by kind: ``synapse``, ``convolution_synapse``, ``update``, ``spike``, ``message``, ``hop_east_west`` and
            ``hop_north_south``.
        node_m
            Technology node of the constants.

        Examples
        --------
        >>> rows = EventEnergy(synapse_j="10 pJ").costs("fc", "chip", {"synapse": 100, "spike": 3})
        >>> [(row.term, row.operations, row.energy_j and round(row.energy_j * 1e12)) for row in rows]
        [('synapse', 100, 1000), ('spike', 3, None)]
        """
        rows = []
        for kind, count in counts.items():
            each = getattr(self, f"{kind}_j")
            energy = None if each is None else each * count
            note = missing(**{f"{kind}_j": each})
            rows.append(
                Cost(
                    layer=layer, hardware=hardware, term=kind.replace("_", " "), energy_j=energy, operations=count, note=note, node_m=node_m
                )
            )
        return rows
