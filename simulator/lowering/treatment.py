"""What is done to a layer's cells beyond programming each of them once: write-verify of some, or forming them at random for good."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from devices.base import ProgrammedCells, ResistiveCell
from devices.rram import MappedWeights, Verification
from kernels.cells import Verified
from kernels.random import Key


class CellTreatment(ABC):
    """What a layer's cells go through after they were programmed; it belongs to the layer, and every instance goes through it."""

    movable: ClassVar[bool] = True
    """Whether outputs may change places under it."""

    def map(self, mapped: MappedWeights, weight: Tensor, order: Tensor | None) -> MappedWeights:
        """Return the targets of a weight; by default those of the design's mapping. `order` says which output lies at each place."""
        return mapped

    @abstractmethod
    def program(
        self, mapped: MappedWeights, cells: ProgrammedCells, cell: ResistiveCell, key: Key, order: Tensor | None
    ) -> ProgrammedCells:
        """Return the cells as they are afterwards; `cells` is what programming left, `key` names this programming."""

    @abstractmethod
    def to(self, change: Callable[[Tensor], Tensor]) -> "CellTreatment":
        """Return the same with its tensors moved."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return what `treatment_of` makes it from again: tensors, numbers and text."""


@dataclass(frozen=True, eq=False)
class VerifiedCells(CellTreatment):
    """Write-verify of the cells of selected weights.

    Attributes
    ----------
    selected
        Which weights, bool of the weight's shape.
    verification
        The loop.
    """

    selected: Tensor
    verification: Verification

    def verify(self, mapped: MappedWeights, cells: ProgrammedCells, cell: ResistiveCell, key: Key) -> Verified:
        """Return what the loop makes of all cells of the layer, selected or not; a cell's course does not depend on the others."""
        return self.verification.apply(mapped.targets_siemens, cells.conductance, cell, key.fold("write-verify"))

    def program(
        self, mapped: MappedWeights, cells: ProgrammedCells, cell: ResistiveCell, key: Key, order: Tensor | None
    ) -> ProgrammedCells:
        """Return the cells with those of selected weights verified, and those of all reference columns: many weights share them."""
        verified = self.verify(mapped, cells, cell, key)
        chosen = self.selected if order is None else self.selected[order]
        references = cells.conductance.shape[2] - len(chosen)
        if references:
            chosen = torch.cat((chosen, chosen.new_ones(references, *chosen.shape[1:])))
        return ProgrammedCells(torch.where(chosen, verified.values, cells.conductance), cells.memory)

    def to(self, change: Callable[[Tensor], Tensor]) -> "VerifiedCells":
        """Return the same with the selection moved."""
        return VerifiedCells(change(self.selected), self.verification)

    def state(self) -> dict[str, Any]:
        """Return selection and loop."""
        return {"selected": self.selected, "verification": self.verification.to_toml_dict()}


@dataclass(frozen=True, eq=False)
class FormedCells(CellTreatment):
    """Cells that got a random conductance once and are not tuned: a weight is a pair's difference, up to one factor for each output.

    Attributes
    ----------
    conductance
        Siemens, shape (1, 2, *weight.shape): plus and minus cell of each pair as they stand.
    """

    conductance: Tensor
    movable: ClassVar[bool] = False

    @property
    def difference(self) -> Tensor:
        """Plus minus minus, siemens, of the weight's shape: what the weight is proportional to."""
        return self.conductance[0, 0] - self.conductance[0, 1]

    def map(self, mapped: MappedWeights, weight: Tensor, order: Tensor | None) -> MappedWeights:
        """Return the pairs as the targets, and the factor of each output that the weight asks for.

        Raises
        ------
        ValueError
            If the weight is not proportional to the pairs: cells like these cannot be tuned to it.
        """
        difference = self.difference
        largest = difference.abs().amax()
        largest = torch.where(largest > 0, largest, torch.ones_like(largest))
        codes = difference / largest
        flat, wanted = codes.flatten(1), weight.flatten(1)
        power = flat.square().sum(1)
        unit = (wanted * flat).sum(1) / torch.where(power > 0, power, torch.ones_like(power))
        left = float((wanted - unit[:, None] * flat).abs().amax()) if wanted.numel() else 0.0
        if left > 1e-3 * float(wanted.abs().amax()):
            raise ValueError(
                "A weight on cells that were formed at random must be their difference times a factor for each output, but it was changed "
                f"by up to {left:.3g}; scale whole outputs only, or form the cells anew"
            )
        shape = (-1, *[1] * (weight.dim() - 1))
        return replace(
            mapped,
            codes=codes[None],
            targets_siemens=self.conductance,
            radix=(1.0,),
            unit=unit.reshape(shape),
            codes_per_siemens=(1.0 / largest).reshape(1),
        )

    def program(
        self, mapped: MappedWeights, cells: ProgrammedCells, cell: ResistiveCell, key: Key, order: Tensor | None
    ) -> ProgrammedCells:
        """Return the cells as they were formed: there is one such array, whatever the seed and the trial."""
        return ProgrammedCells(self.conductance, cells.memory)

    def to(self, change: Callable[[Tensor], Tensor]) -> "FormedCells":
        """Return the same with its conductances moved."""
        return FormedCells(change(self.conductance))

    def state(self) -> dict[str, Any]:
        """Return the conductances."""
        return {"conductance": self.conductance}


def treatment_of(state: dict[str, Any] | None, device: torch.device) -> CellTreatment | None:
    """Return the treatment that `CellTreatment.state` described.

    Examples
    --------
    >>> treatment_of(None, torch.device("cpu")) is None
    True
    """
    if state is None:
        return None
    if "selected" in state:
        return VerifiedCells(state["selected"].to(device), Verification.from_dict(state["verification"]))
    return FormedCells(state["conductance"].to(device))
