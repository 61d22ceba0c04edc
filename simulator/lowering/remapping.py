"""Which output lies in which columns of an array: stuck cells where they do the least harm."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import scipy  # its parts are loaded at their first use
import torch
from torch import Tensor

if TYPE_CHECKING:
    from simulator.lowering.crossbar import CrossbarLayer


@dataclass(frozen=True, eq=False)
class ColumnRemapping:
    """Outputs change places within a layer so that stuck cells hit the weights that they harm least.

    A test of the chip tells which cells are stuck; the assignment of outputs to places with the least sum of expected squared errors
    (weighted by how large the inputs of a row are) is found exactly, anew for each chip. All arrays of a layer that hold other rows of the
    same outputs take the same order. Outputs are put back in order digitally.

    Attributes
    ----------
    importance
        Mean square of the input of each row, (groups, rows); None where all count alike.
    """

    importance: Tensor | None = None

    def order(self, layer: "CrossbarLayer", seed: int, trial: int) -> Tensor | None:
        """Return which output lies at each place of an instance, int64 (outputs,); None where no cell is stuck."""
        costs = self.costs(layer, seed, trial)
        if costs is None:
            return None
        each = costs.shape[1]
        places = torch.empty(len(costs) * each, dtype=torch.int64)
        for group, cost in enumerate(costs):
            outputs, found = scipy.optimize.linear_sum_assignment(cost.cpu().numpy())
            places[group * each + torch.from_numpy(found)] = group * each + torch.from_numpy(outputs)
        return places.to(layer.weight.device)

    @torch.no_grad()
    def costs(self, layer: "CrossbarLayer", seed: int, trial: int) -> Tensor | None:
        """Return the expected squared error of each output at each place, float64 (groups, outputs, places); None without faults."""
        design, weight = layer.design, layer.weight.detach()
        stuck, groups = design.stuck, layer.operator.groups
        if stuck is None or not (stuck.stuck_on_rate or stuck.stuck_off_rate):
            return None
        outputs = len(weight)
        mapped = design.mapping.map(weight, design.cell, layer.references)
        faults = stuck.draw(tuple(mapped.targets_siemens.shape), layer.standing_key(seed, trial).fold("stuck"), weight.device)
        low = design.cell.g_min_siemens if stuck.off_siemens is None else stuck.off_siemens
        high = design.cell.g_max_siemens if stuck.on_siemens is None else stuck.on_siemens
        # (slices, crosspoints, groups, outputs, rows), without reference columns: they stay where they are.
        targets = mapped.targets_siemens[:, :, :outputs].double().flatten(3).unflatten(2, (groups, -1))
        states = faults[:, :, :outputs].flatten(3).unflatten(2, (groups, -1))
        there = None if mapped.present is None else mapped.present[:, :, :outputs].flatten(3).unflatten(2, (groups, -1))
        worth = mapped.codes_per_siemens.double() * torch.tensor(mapped.radix, dtype=torch.float64, device=weight.device)
        signs = torch.tensor([1.0, -1.0], dtype=torch.float64, device=weight.device)[: targets.shape[1]]
        factor = worth[:, None] * signs
        unit = mapped.unit.double().reshape(-1) if isinstance(mapped.unit, Tensor) else torch.full((1,), mapped.unit, dtype=torch.float64)
        unit = unit.to(weight.device).expand(outputs).reshape(groups, -1, 1)
        squares = torch.ones(groups, targets.shape[-1], dtype=torch.float64, device=weight.device)
        if self.importance is not None:
            squares = self.importance.to(squares)
        found = torch.zeros(groups, outputs // groups, outputs // groups, dtype=torch.float64, device=weight.device)
        for group in range(groups):
            for place in range(outputs // groups):
                state = states[:, :, group, place]
                rows = (state != 0).any(0).any(0).nonzero().flatten()
                if not len(rows):
                    continue
                state = state[..., rows].unsqueeze(2)
                wanted = targets[:, :, group][..., rows]
                moved = torch.where(state > 0, high, low) - wanted
                moved = moved * (state != 0)
                if there is not None:
                    moved = moved * there[:, :, group][..., rows]
                error = (moved * factor[..., None, None]).sum((0, 1)) * unit[group]
                found[group, :, place] = error.square() @ squares[group, rows]
        return found

    def to(self, change: Callable[[Tensor], Tensor]) -> "ColumnRemapping":
        """Return the same with its tensor moved."""
        return self if self.importance is None else ColumnRemapping(change(self.importance))

    def state(self) -> dict[str, Any]:
        """Return what `remapping_of` makes it from again."""
        return {"importance": self.importance}


def remapping_of(state: dict[str, Any] | None, device: torch.device) -> ColumnRemapping | None:
    """Return the remapping that `ColumnRemapping.state` described.

    Examples
    --------
    >>> remapping_of(None, torch.device("cpu")) is None
    True
    """
    if state is None:
        return None
    return ColumnRemapping(None if state["importance"] is None else state["importance"].to(device))
