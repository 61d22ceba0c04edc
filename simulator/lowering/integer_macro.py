"""Linear layers and convolutions on a macro of which only its product is known: a user's own."""

from typing import Any

import torch
from torch import Tensor

from devices.base import ComputeMacro, Cost
from kernels.random import Key
from simulator.hardware import Placement
from simulator.lowering.integer import IntegerRead, MacroTiles, tile_matrix, tile_rows
from simulator.weight_layers import WeightLayer


class IntegerMacroLayer(MacroTiles[ComputeMacro]):
    """A layer on any `ComputeMacro`: its matrix cut into macros, whose products are added digitally.

    Parameters
    ----------
    name, seed
        See `HardwareLayer`.
    design
        The macro; the sign of its inputs is taken from calibration.
    layer
        The master weights and the linear map that they are in.
    """

    def __init__(self, name: str, seed: int, design: ComputeMacro, layer: WeightLayer) -> None:
        super().__init__(name, seed, design, layer, "column")
        self._codes: tuple[Tensor, Tensor] | None = None
        self._training_key = Key.of(seed=seed, layer=name, purpose="training")

    @property
    def placement(self) -> Placement:
        """Macros and the share of their cells that hold a weight."""
        groups, design = self.operator.groups, self.design
        macros = groups * len(self.tiles) * -(-(self.weight.shape[0] // groups) // design.columns)
        notes = [self.note] if self.note else []
        notes.append(self.formats)
        share = self.weight.numel() / (macros * design.rows * design.columns)
        return Placement(type(design).__name__, self.weight.numel() // groups, macros, share, "; ".join(notes))

    def forget(self) -> None:
        """Drop the integer weights; they are rounded again at the next read."""
        self._codes = None

    def forward(self, inputs: Tensor) -> Tensor:
        """Read the layer for inputs of the torch layer's shape, float32; returns the torch layer's shape."""
        self.check(inputs)
        surrounded = self.operator.surround(inputs)
        reference = self.reference(surrounded)
        if reference is not None:
            return reference
        if self.training:
            number = self.training_read(surrounded)
            self._training_key = Key.of(seed=self.seed, layer=self.name, purpose="training").fold("program", number).at(number)
            codes = self.weight_codes()
        else:
            if not self._programmed:
                self.program(self._programming_seed, self.trial)
            self.require_current_masters()
            self.reads += 1
            if self._codes is None:
                self._codes = self.weight_codes()
            codes = self._codes
        if torch.is_grad_enabled() and (surrounded.requires_grad or self.weight.requires_grad):
            read: Tensor = IntegerRead.apply(surrounded, self.weight, self, codes)  # type: ignore[no-untyped-call]
        else:
            read, _, _ = self.read(surrounded, codes)
        return self.with_bias(read)

    @torch.no_grad()
    def read(self, inputs: Tensor, weights: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, float]:
        """Return the outputs without bias, the input codes, and the value of one input step."""
        codes, step = self.input_codes(inputs)
        padded, groups, macro = self.padded(codes), self.operator.groups, self.macro
        parts: list[Tensor] = []
        for g in range(groups):
            outputs = padded.new_zeros(())
            for t, tile in enumerate(self.tiles):
                rows = tile_rows(self.operator, padded, self.kernel, tile)[g].long()
                matrix = tile_matrix(weights[0], groups, tile)[g].long()
                blocks = [
                    self._product(macro, rows, matrix[:, start : start + macro.columns], (g, t, start))
                    for start in range(0, matrix.shape[1], macro.columns)
                ]
                outputs = outputs + torch.cat(blocks, 1)
            parts.append(outputs)
        total = torch.cat(parts, 1).mul_(weights[1] * step)
        return self.shaped(total, padded, codes), codes, step

    def _product(self, macro: ComputeMacro, rows: Tensor, matrix: Tensor, place: tuple[int, int, int]) -> Tensor:
        """Return one macro's estimate of a product; its errors belong to the trial and its noise to the read."""
        if self.training:
            key = self._training_key
        else:
            key = Key.of(seed=self._programming_seed, trial=self.trial, layer=self.name, purpose="program", read=self.reads)
        codes, value = macro.mac(rows, matrix.contiguous(), key.fold(*place))
        expected = (rows.shape[0], matrix.shape[1])
        if not isinstance(codes, Tensor) or tuple(codes.shape) != expected:
            got = tuple(codes.shape) if isinstance(codes, Tensor) else type(codes).__name__
            raise ValueError(f"Method `{type(macro).__name__}.mac` must return codes of shape {expected}, but returned {got}; do check it")
        return codes.to(torch.float32) * float(value)

    def cost(self, inputs: Tensor, outputs: Tensor) -> list[Cost]:
        """Return the cost rows of one call: counts alone, since the macro states no constants."""
        positions, design = self.operator.positions(outputs), self.design
        macs = positions * self.weight.numel()
        conversions = positions * self.weight.shape[0] * len(self.tiles)
        moved = -(-positions * self.weight[0].numel() * self.operator.groups * self.input_bits // 8)

        def row(term: str, note: str, **values: Any) -> Cost:
            return Cost(layer=self.name, hardware=type(design).__name__, node_m=design.node_m, term=term, note=note, **values)

        return [
            row(
                "product",
                "not given: the macro states no constants",
                macs=macs,
                operations=2 * macs,
                input_bits=self.input_bits,
                weight_bits=self.weight_bits,
            ),
            row("input codes", "not given: no constant for buffers", bytes=moved, work="buffer"),
            row("addition", "not given: no constant for digital accumulation", operations=conversions, work="addition"),
        ]
