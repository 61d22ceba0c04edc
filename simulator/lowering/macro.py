"""Linear layers and convolutions on SRAM compute-in-memory macros."""

from typing import Any

import torch
from torch import Tensor

from devices.base import Cost
from devices.sram import MacroActivity, MacroInstance, SRAMMacro, macro_cost, weight_digits
from devices.sram.operands import INPUT_RADIX, WEIGHT_RADIX, input_digits
from devices.sram.reading import fabricate_digits, read_digits
from kernels.once import once_differentiable
from kernels.random import Key
from simulator.calibration import ConverterRange
from simulator.hardware import Placement
from simulator.lowering.integer import MacroTiles, pad_codes, tile_matrix, tile_rows, untile_matrix
from simulator.weight_layers import WeightLayer

BOOSTS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 128, 160, 192, 256)
"""Gains that calibration tries."""
SAMPLES = 256
"""Input vectors that calibration keeps to choose the gain by."""

Arrays = list[list[MacroInstance]]
"""For each tile of rows and each digit of the weights, the fabricated macros."""


class MacroLayer(MacroTiles[SRAMMacro]):
    """A linear layer or convolution on SRAM macros: integers in groups of rows, each group converted on its own.

    Parameters
    ----------
    name, seed
        See `HardwareLayer`.
    design
        The macro; the sign of its inputs is taken from calibration.
    layer
        The master weights and the linear map that they are in.
    """

    def __init__(self, name: str, seed: int, design: SRAMMacro, layer: WeightLayer) -> None:
        super().__init__(name, seed, design, layer, design.weight_scaling)
        self.boost: int | None = design.boost
        self.clipped: float | None = None
        self._arrays: tuple[Arrays, Tensor, Tensor] | None = None
        self._samples: list[list[Tensor]] = []

    @property
    def placement(self) -> Placement:
        """Macros, cells used, and what calibration chose."""
        groups, design = self.operator.groups, self.design
        outputs = self.weight.shape[0] // groups * design.weight_places
        columns = -(-outputs // design.columns)
        # Groups lie on a macro's diagonal and are read together: a cell that holds zero has no branch.
        blocks = 1
        if groups > 1 and len(self.tiles) == 1 and columns == 1:
            blocks = max(1, min(groups, design.rows // self.tiles[0].rows, design.columns // outputs))
        macros = -(-groups // blocks) * len(self.tiles) * columns
        notes = [self.note] if self.note else []
        notes.append(self.formats)
        if design.input_places * design.weight_places > 1:
            notes.append(f"{design.input_places} x {design.weight_places} digits of 4 bits, shifted and added")
        if self.boost is not None:
            clipped = "" if self.clipped is None else f", {self.clipped:.2%} of calibration's conversions clip"
            notes.append(f"boost {self.boost}{clipped}")
        cells = self.weight.numel() * design.weight_places
        return Placement(
            type(design).__name__,
            self.weight.numel() // groups,
            macros,
            cells / (macros * design.rows * design.columns),
            "; ".join(notes),
        )

    def forget(self) -> None:
        """Drop the fabricated instance; the next read draws it again from its key."""
        self._arrays = None

    @torch.no_grad()
    def _fabricate(self, key: Key) -> tuple[Arrays, Tensor, Tensor]:
        """Return the instance, the value of a weight step for each output, and each output's sum of weights."""
        codes, unit = self.weight_codes()
        arrays = []
        for t, tile in enumerate(self.tiles):
            digits = weight_digits(tile_matrix(codes, self.operator.groups, tile), self.weight_bits)
            arrays.append(fabricate_digits(self.design, digits, key.fold(t)))
        return arrays, unit, codes.flatten(1).sum(1)

    def _instance(self) -> tuple[Arrays, Tensor, Tensor]:
        if not self._programmed:
            self.program(self._programming_seed, self.trial)
        self.require_current_masters()
        if self._arrays is None:
            self._arrays = self._fabricate(Key.of(seed=self._programming_seed, trial=self.trial, layer=self.name, purpose="program"))
        return self._arrays

    # reading

    def forward(self, inputs: Tensor) -> Tensor:
        """Read the layer for inputs of the torch layer's shape, float32; returns the torch layer's shape."""
        self.check(inputs)
        surrounded = self.operator.surround(inputs)
        reference = self.reference(surrounded)
        if reference is not None:
            return reference
        if self.training:
            number = self.training_read(surrounded)
            key = Key.of(seed=self.seed, layer=self.name, purpose="training")
            instance = self._fabricate(key.fold("program", number))
            key = key.fold("read").at(number)
        else:
            instance = self._instance()
            self.reads += 1
            key = Key.of(seed=self._programming_seed, trial=self.trial, layer=self.name, purpose="read", read=self.reads)
        if torch.is_grad_enabled() and (surrounded.requires_grad or self.weight.requires_grad):
            read: Tensor = _Read.apply(surrounded, self.weight, self, instance, key)  # type: ignore[no-untyped-call]
        else:
            read, _, _ = self.read(surrounded, instance, key)
        return self.with_bias(read)

    def read(self, inputs: Tensor, instance: tuple[Arrays, Tensor, Tensor], key: Key) -> tuple[Tensor, Tensor, float]:
        """Return the outputs without bias, the input codes, and the value of one input step."""
        arrays, unit, sums = instance
        codes, step = self.input_codes(inputs)
        padded = self.padded(codes)
        macro, boost, out, products = self.macro, self.boost or 1, None, None
        for t, tile in enumerate(self.tiles):
            digits = input_digits(tile_rows(self.operator, padded, self.kernel, tile), self.input_bits, self.signed)
            if products is None:
                products = digits[0].new_empty(*digits[0].shape[:2], arrays[t][0].weights.shape[2])
            out = read_digits(macro, digits, arrays[t], boost, key.fold(t), out, products)
        assert out is not None
        worth = unit * step
        out.mul_(worth * macro.step(boost))
        if macro.restoration:
            out.add_(sums * worth * macro.restoration)
        return self.shaped(out, padded, codes), codes, step

    def collapsed(self, instance: tuple[Arrays, Tensor, Tensor]) -> Tensor:
        """Return the effective weight of the layer's shape, in the weight's own unit."""
        total = torch.zeros_like(self.weight)
        for tile, places in zip(self.tiles, instance[0], strict=True):
            matrix = sum((part.weights * float(WEIGHT_RADIX**place) for place, part in enumerate(places)), torch.zeros(()))
            untile_matrix(matrix, total, tile)
        return total * instance[1].reshape(-1, *[1] * (total.dim() - 1))

    # calibration

    def start_calibration(self) -> None:
        """Forget what was observed, and the gain that was chosen by it."""
        super().start_calibration()
        self._samples, self.clipped = [], None
        self.boost = self.design.boost

    def observe(self, inputs: Tensor) -> None:
        """Take note of the inputs of one call, and keep some vectors of them to choose the gain by."""
        super().observe(inputs)
        if inputs.numel() == 0:
            return
        with torch.no_grad():
            batched = inputs if self.operator.dimensions in (0, inputs.dim() - 2) else inputs.unsqueeze(0)
            if self.operator.dimensions == 0:
                batched = batched.reshape(-1, batched.shape[-1])
            some = batched[:: max(1, len(batched) // 32)]
            rows = [tile_rows(self.operator, pad_codes(self.operator, some), self.kernel, tile) for tile in self.tiles]
            stride = max(1, rows[0].shape[1] // 64)
            self._samples.append([part[:, ::stride].clone() for part in rows])
            while sum(part[0].shape[1] for part in self._samples) > SAMPLES and len(self._samples) > 1:
                self._samples = self._samples[::2]

    @torch.no_grad()
    def finish_calibration(self, source: str) -> list[str]:
        """Set step and sign of the inputs and, where the design leaves it open, the gain of boosted clipping."""
        warnings = super().finish_calibration(source)
        samples, self._samples = self._samples, []
        if self.input_step is None or not samples:
            return warnings
        macro = self.macro
        counts, weights = self._products(macro, samples)
        products = torch.arange(-macro.full_scale, macro.full_scale + 1, dtype=torch.float64)
        noise = macro.noise_steps**2
        errors = {}
        for boost in BOOSTS if self.design.boost is None else (self.design.boost,):
            step = macro.step(boost)
            found = _codes(products / step, macro) * step
            errors[boost] = float((weights * ((found - products) ** 2 + noise * step**2)).sum())
        self.boost = min(errors, key=lambda boost: errors[boost])
        beyond = (products / macro.step(self.boost)).abs() > macro.limit + 1
        self.clipped = float(counts[beyond].sum() / counts.sum())
        policy = "least squares" if self.design.boost is None else "fixed"
        full = macro.step(self.boost) * macro.limit
        self.ranges = (*self.ranges, ConverterRange(self.name, "readout", policy, full, self.clipped, int(counts.sum())))
        return warnings

    def _products(self, macro: SRAMMacro, samples: list[list[Tensor]]) -> tuple[Tensor, Tensor]:
        """Return how often each sum of products occurs in the samples, and the same weighted by what its digits are worth squared."""
        codes, _ = self.weight_codes()
        size = 2 * macro.full_scale + 1
        counts, weights = torch.zeros(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
        for t, tile in enumerate(self.tiles):
            matrices = weight_digits(tile_matrix(codes, self.operator.groups, tile), self.weight_bits)
            rows = torch.cat([sample[t] for sample in samples], 1)
            for i, digit in enumerate(input_digits(self.input_codes(rows)[0], self.input_bits, self.signed)):
                drive = digit - INPUT_RADIX // 2 if macro.mac_folding else digit
                for j, matrix in enumerate(matrices):
                    sums = torch.bmm(drive, matrix).flatten().long() + macro.full_scale
                    found = torch.bincount(sums.cpu(), minlength=size).double()
                    counts += found
                    weights += found * float(INPUT_RADIX**i * WEIGHT_RADIX**j) ** 2
        return counts, weights

    # cost and state

    def cost(self, inputs: Tensor, outputs: Tensor) -> list[Cost]:
        """Return the cost rows of one read."""
        positions, design = self.operator.positions(outputs), self.design
        places = design.input_places * design.weight_places
        macs = positions * self.weight.numel()
        conversions = positions * self.weight.shape[0] * len(self.tiles) * places
        rows = positions * self.weight[0].numel() * self.operator.groups
        activity = MacroActivity(
            macros=self.placement.arrays,
            vectors=positions,
            macs=macs,
            conversions=conversions,
            cells=self.weight.numel() * design.weight_places,
            bytes_in=-(-rows * self.input_bits // 8),
            bytes_out=-(-conversions * design.output_bits // 8),
        )
        return macro_cost(design, self.name, activity)

    def get_extra_state(self) -> dict[str, Any]:
        """Return everything but the parameters."""
        return {**super().get_extra_state(), "boost": self.boost, "clipped": self.clipped}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over what `get_extra_state` returned."""
        super().set_extra_state(state)
        self.boost, self.clipped = state["boost"], state["clipped"]


def _codes(steps: Tensor, macro: SRAMMacro) -> Tensor:
    """Return the codes of sums in steps, without errors."""
    if macro.readout == "mid_tread":
        return torch.floor(steps + 0.5).clamp(-macro.limit, macro.limit)
    return (torch.floor(steps) + 0.5).clamp(-macro.limit - 0.5, macro.limit + 0.5)


class _Read(torch.autograd.Function):
    """A read whose gradient passes straight through noise and rounding; inputs beyond the range get none."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, layer: MacroLayer, instance: tuple[Arrays, Tensor, Tensor], key: Key) -> Tensor:
        output, codes, step = layer.read(inputs, instance, key)
        low, high = layer.input_limits
        ctx.layer, ctx.instance, ctx.step = layer, instance, step
        ctx.save_for_backward(codes, (inputs >= low * step) & (inputs <= high * step))
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        codes, inside = ctx.saved_tensors
        needs = (ctx.needs_input_grad[0], ctx.needs_input_grad[1])
        weight = ctx.layer.collapsed(ctx.instance)
        for_inputs, for_weight = ctx.layer.operator.gradients(upstream[0].contiguous(), codes, weight, needs)
        if for_inputs is not None:
            for_inputs = for_inputs * inside
        return for_inputs, for_weight if for_weight is None else for_weight * ctx.step, None, None, None
