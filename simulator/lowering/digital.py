"""Linear layers and convolutions on digital arrays: integers, exactly, or floating point."""

import dataclasses

import torch
from torch import Tensor

from devices.base import Cost, DigitalArray
from devices.digital import Product, SystolicArray, TieredArray, product_cost
from simulator.hardware import Placement
from simulator.lowering.integer import IntegerLayer, IntegerRead, pad_codes
from simulator.weight_layers import NotMappedError, WeightLayer


class DigitalLayer(IntegerLayer):
    """A linear layer or convolution on an array of digital multiply-accumulate units.

    Parameters
    ----------
    name, seed
        See `HardwareLayer`.
    design
        The array. With integer formats, sums of integer products are exact and wrap around at the accumulator's width; in floating
        point, and on an array that states no formats, the layer computes as torch does.
    layer
        The master weights and the linear map that they are in.

    Raises
    ------
    NotMappedError
        If the array's outermost memory cannot hold the weights.
    """

    design: DigitalArray

    def __init__(self, name: str, seed: int, design: DigitalArray, layer: WeightLayer) -> None:
        tiered = design if isinstance(design, TieredArray) else None
        input_bits, weight_bits = (None, None) if tiered is None else (tiered.input_bits, tiered.weight_bits)
        super().__init__(name, seed, design, layer, input_bits or 8, weight_bits or 8, "column")
        self.floating = input_bits is None
        self.accumulator_bits = 32 if tiered is None else tiered.accumulator_bits
        self._codes: tuple[Tensor, Tensor] | None = None
        if tiered is not None:
            try:
                tiered.require_capacity(round(self.weight.numel() * tiered.operand_bytes[1]), f"the weights of layer `{name}`")
            except ValueError as error:
                raise NotMappedError(str(error)) from None

    @property
    def placement(self) -> Placement:
        """Folds of the array that hold the weights, and the share of units that a fold keeps busy."""
        groups, design = self.operator.groups, self.design
        k, n = self.weight[0].numel(), self.weight.shape[0] // groups
        notes = [self.note] if self.note else []
        if self.floating:
            notes.append("floating point")
        else:
            notes.append(f"{self.formats}, exact integer sums")
        folds, share = 1, 1.0
        if isinstance(design, SystolicArray):
            folds = groups * -(-k // design.rows) * -(-n // design.columns)
            share = self.weight.numel() / (folds * design.rows * design.columns)
            notes.append(f"{folds} folds of the weights over one array")
        return Placement(type(design).__name__, self.weight.numel() // groups, 1, share, "; ".join(notes))

    def forget(self) -> None:
        """Drop the integer weights; they are rounded again at the next read."""
        self._codes = None

    def finish_calibration(self, source: str) -> list[str]:
        """Set step and sign of the inputs; floating point needs neither."""
        return [] if self.floating else super().finish_calibration(source)

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute the layer for inputs of the torch layer's shape, float32; returns the torch layer's shape."""
        self.check(inputs)
        surrounded = self.operator.surround(inputs)
        reference = self.reference(surrounded)
        if reference is not None:
            return reference
        if self.training:
            codes = None if self.floating else self.weight_codes()
        else:
            if not self._programmed:
                self.program(self._programming_seed, self.trial)
            self.require_current_masters()
            self.reads += 1
            if self._codes is None and not self.floating:
                self._codes = self.weight_codes()
            codes = self._codes
        if codes is None:
            return self.with_bias(self.operator(surrounded, self.weight))
        if torch.is_grad_enabled() and (surrounded.requires_grad or self.weight.requires_grad):
            read: Tensor = IntegerRead.apply(surrounded, self.weight, self, codes)  # type: ignore[no-untyped-call]
        else:
            read, _, _ = self.read(surrounded, codes)
        return self.with_bias(read)

    @torch.no_grad()
    def read(self, inputs: Tensor, weights: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, float]:
        """Return the outputs without bias, the input codes, and the value of one input step."""
        codes, step = self.input_codes(inputs)
        worth = (weights[1] * step).reshape(-1, *[1] * self.operator.dimensions)
        return self.sums(codes, weights[0]).to(torch.float32) * worth, codes, step

    def sums(self, codes: Tensor, weights: Tensor) -> Tensor:
        """Return the accumulators: exact sums of products of integers, wrapped to the accumulator's bits, as float64."""
        unpadded = dataclasses.replace(self.operator, padding=(0,) * self.operator.dimensions)
        # Below 2^53 every sum of integers is exact in float64, in any order; products have at most 32 bits.
        exact = unpadded(pad_codes(self.operator, codes).double(), weights.double())
        half = float(1 << (self.accumulator_bits - 1))
        return torch.remainder(exact + half, 2 * half) - half

    def cost(self, inputs: Tensor, outputs: Tensor) -> list[Cost]:
        """Return the cost rows of one call."""
        groups = self.operator.groups
        product = Product(self.operator.positions(outputs), self.weight[0].numel(), self.weight.shape[0] // groups, groups)
        return product_cost(self.design, self.name, product)
