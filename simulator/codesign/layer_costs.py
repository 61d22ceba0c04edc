"""A cost model for networks made of known layers: each layer shape is compiled once on each hardware, and its cost kept."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from devices.base import Hardware
from simulator.compiler import compile as compile_chip
from simulator.costing import totals

Shape = tuple[int, int, int, int]
"""Inputs, outputs, kernel, and height and width of the output."""


class LayerCosts:
    """Latency and energy of a network, layer after layer, by `Chip.cost` of each layer alone.

    Parameters
    ----------
    partial
        Take sums that leave terms without a constant out. Such sums compare networks on one hardware, and not one hardware with another.

    Examples
    --------
    >>> from devices import SystolicArray
    >>> array = SystolicArray(rows=8, columns=8, frequency_hertz="1 GHz", joule_per_mac="1 pJ", memories=())
    >>> layer = {"inputs": 4, "outputs": 8, "kernel": 3, "size": 8}
    >>> cost = LayerCosts(partial=True)([layer], array)
    >>> sorted(cost)
    ['energy_j', 'latency_s']
    """

    def __init__(self, *, partial: bool = False) -> None:
        self.partial = partial
        self.missing: dict[str, tuple[str, ...]] = {}
        self._known: dict[tuple[Shape, str], dict[str, float]] = {}

    def __call__(self, layers: Iterable[Mapping[str, int]], design: Hardware) -> dict[str, float]:
        """Return ``latency_s`` and ``energy_j`` of one sample.

        Parameters
        ----------
        layers
            Shapes as `NetworkFamily.layers` returns them.
        design
            The hardware of all of them.

        Raises
        ------
        ValueError
            If a term of a layer has no constant, unless `partial`.
        """
        name = design.fingerprint()
        found = [self._layer((one["inputs"], one["outputs"], one["kernel"], one["size"]), design, name) for one in layers]
        return {cost: sum(layer[cost] for layer in found) for cost in ("latency_s", "energy_j")}

    def _layer(self, shape: Shape, design: Hardware, name: str) -> dict[str, float]:
        if (shape, name) not in self._known:
            inputs, outputs, kernel, size = shape
            layer: nn.Module
            with torch.device("meta"):
                layer = nn.Linear(inputs, outputs) if size == 1 else nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
            layer = layer.to_empty(device="cpu")
            with torch.no_grad():
                for parameter in layer.parameters():
                    parameter.fill_(0.5)
            example = torch.full((1, inputs) if size == 1 else (1, inputs, size, size), 0.5)
            self._known[shape, name] = self._cost(compile_chip(layer, design, example_inputs=example).cost(example), design)
        return self._known[shape, name]

    def _cost(self, frame: Any, design: Hardware) -> dict[str, float]:
        found = {}
        for name, total in totals(frame).items():
            if name not in ("latency_s", "energy_j"):
                continue
            if total.value is None or not total.value or (total.partial and not self.partial):
                raise ValueError(
                    f"Design must have every constant of `{name}`, but {type(design).__name__} has none for {', '.join(total.missing)}; "
                    "give them, or take lower bounds with partial=True"
                )
            if total.partial:
                self.missing[f"{type(design).__name__} {name}"] = total.missing
            found[name] = total.value
        return found
