"""What layers with integer operands share: how weights and inputs become integers, calibration of the range, and bookkeeping."""

from abc import abstractmethod
from dataclasses import asdict
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from devices.base import ComputeMacro, Hardware
from kernels.crossbar import quantize
from kernels.once import once_differentiable
from simulator.calibration import BINS, ConverterRange, RangeObserver
from simulator.hardware import HardwareLayer, Mode
from simulator.masters import WeightMark
from simulator.operators import LinearOperator, RowTile, row_tiles
from simulator.weight_layers import WeightLayer

RANGE_CANDIDATES = 64
Macro = TypeVar("Macro", bound=ComputeMacro)


class IntegerLayer(HardwareLayer):
    """A layer whose inputs and weights are integers on its hardware.

    Weights are rounded to ``-(2^(b-1) - 1) .. 2^(b-1) - 1`` with the largest magnitude of the layer or of each output at the end.
    Inputs are unsigned where calibration saw none below zero, else signed; their step has the least mean squared error on what
    calibration saw.

    Parameters
    ----------
    name, seed, layer
        See `HardwareLayer`.
    design
        What the layer lies on.
    input_bits, weight_bits
        Bits of an input and of a weight.
    weight_scaling
        ``layer`` or ``column``: what shares one step of the weights.
    """

    def __init__(
        self,
        name: str,
        seed: int,
        design: Hardware,
        layer: WeightLayer,
        input_bits: int,
        weight_bits: int,
        weight_scaling: Literal["layer", "column"],
    ) -> None:
        super().__init__(name, seed, layer)
        self.design = design
        self.input_bits, self.weight_bits, self.weight_scaling = input_bits, weight_bits, weight_scaling
        self.trial = 0
        self.seconds = 0.0
        self.reads = 0
        self.input_step: float | None = None
        self.signed = False
        self._programming_seed = seed
        self._mark: WeightMark | None = None
        self._loaded_mark: Tensor | None = None
        self._programmed = False
        self._observer = RangeObserver()
        self._lowest = 0.0

    @property
    def programmed(self) -> bool:
        """Whether an instance has been programmed."""
        return self._programmed

    @property
    def fingerprint(self) -> str:
        """Digits that identify the design that the layer lies on."""
        return self.design.fingerprint()

    def vectors(self, outputs: Tensor) -> int:
        """Return how many input vectors a call with these outputs drove: one for each position of each group."""
        return self.operator.positions(outputs) * self.operator.groups

    @property
    def formats(self) -> str:
        """Words for the formats of the operands."""
        sign = "signed" if self.signed else "unsigned"
        return f"{sign} inputs in {self.input_bits} bits, weights in {self.weight_bits} bits"

    @abstractmethod
    def forget(self) -> None:
        """Drop what was derived from the master weights."""

    def program(self, seed: int, trial: int) -> None:
        """Write the weights as they are now into the instance of this (seed, trial)."""
        self._programming_seed, self.trial, self.seconds, self.reads = seed, trial, 0.0, 0
        self._programmed, self._mark = True, WeightMark.of(self.weight)
        self.forget()

    @property
    def ages(self) -> bool:
        """Whether time since programming changes what is read: no."""
        return False

    def age(self, seconds: float) -> None:
        """Let time pass: a memory of digital levels keeps its weights."""
        self.require_current_masters()
        self.seconds += seconds

    def require_current_masters(self) -> None:
        """Raise RuntimeError where the master weights changed after programming."""
        if self._programmed and not self._masters_are_current():
            raise RuntimeError(
                f"Layer `{self.name}`: the master weights changed after programming; call program() before reading in eval mode"
            )

    # integers

    def weight_codes(self) -> tuple[Tensor, Tensor]:
        """Return the weights as integers in float32, of the weight's shape, and the value of one step for each output."""
        weight = self.weight.detach()
        largest = weight.abs().reshape(weight.shape[0], -1).amax(1)
        if self.weight_scaling == "layer":
            largest = largest.amax().expand_as(largest)
        unit = torch.where(largest > 0, largest, torch.ones_like(largest)) / ((1 << (self.weight_bits - 1)) - 1)
        return torch.round(weight / unit.reshape(-1, *[1] * (weight.dim() - 1))), unit

    @property
    def input_limits(self) -> tuple[int, int]:
        """Smallest and largest code of an input."""
        return limits(self.input_bits, self.signed)

    def input_codes(self, inputs: Tensor) -> tuple[Tensor, float]:
        """Return the inputs as integers in float32, and the value of one step: the calibrated one, or the batch's own."""
        inputs = inputs.contiguous()
        step = self.input_step
        if step is None:
            largest = float(inputs.abs().amax()) if inputs.numel() else 0.0
            step = largest / self.input_limits[1] or 1.0
        return quantize(inputs, step, *self.input_limits, unit=1.0), step

    # calibration

    def start_calibration(self) -> None:
        """Forget what was observed."""
        self._observer, self._lowest = RangeObserver(), 0.0

    def observe(self, inputs: Tensor) -> None:
        """Take note of the inputs of one call."""
        self._observer.add(inputs)
        if inputs.numel():
            self._lowest = min(self._lowest, float(inputs.min()))

    def finish_calibration(self, source: str) -> list[str]:
        """Set step and sign of the inputs; returns a warning where there was nothing to set them by."""
        policy, count = "least squares", self._observer.observations
        if self._observer.maximum == 0.0:
            # Without a sign to go by, take the one that loses nothing.
            self.input_step, self.signed = None, True
            self.ranges = (ConverterRange(self.name, "inputs", "per_batch", None, 0.0 if count else None, count),)
            return [f"Layer `{self.name}`: the range policy 'least squares' had no {source}; the range is each batch's own maximum"]
        self.signed = self._lowest < 0
        self.input_step = least_squares_step(self._observer, self.input_limits[1])
        full = self.input_step * self.input_limits[1]
        self.ranges = (ConverterRange(self.name, "inputs", policy, full, self._observer.share_above(full), count),)
        return []

    # reading

    def with_bias(self, outputs: Tensor) -> Tensor:
        """Return outputs with the bias added digitally."""
        bias: Tensor | None = self.bias
        return (
            outputs
            if bias is None
            else outputs + (bias if self.operator.dimensions == 0 else bias.reshape(-1, *[1] * self.operator.dimensions))
        )

    def check(self, inputs: Any) -> None:
        """Refuse inputs of another type or shape than the layer's, and those that have no code."""
        dimensions, channels = self.operator.dimensions, self.weight.shape[1] * self.operator.groups
        given = isinstance(inputs, Tensor) and inputs.dtype == torch.float32
        if dimensions == 0:
            if not given or inputs.dim() == 0 or inputs.shape[-1] != channels:
                self._refuse(inputs, f"float32 of shape (..., {channels})")
        elif not given or inputs.dim() not in (dimensions + 1, dimensions + 2) or inputs.shape[inputs.dim() - dimensions - 1] != channels:
            self._refuse(inputs, f"float32 of shape (batch, {channels}{', length' * dimensions}) or without the batch")
        if self.mode is Mode.HARDWARE:
            self.require_finite(inputs)

    def reference(self, surrounded: Tensor) -> Tensor | None:
        """Return the float layer's outputs in the modes FLOAT and CALIBRATE, or None where the hardware is to be read."""
        if self.mode is Mode.HARDWARE:
            return None
        if self.mode is Mode.CALIBRATE:
            self.observe(surrounded)
        return self.with_bias(self.operator(surrounded, self.weight))

    # state

    def get_extra_state(self) -> dict[str, Any]:
        """Return everything but the parameters: the instance is drawn again from its seed and trial."""
        return {
            "programmed": self._programmed,
            "mark": self._mark.elements if self._mark is not None and self._masters_are_current() else None,
            "programming_seed": self._programming_seed,
            "trial": self.trial,
            "seconds": self.seconds,
            "reads": self.reads,
            "training_reads": self.training_reads,
            "input_step": self.input_step,
            "signed": self.signed,
            "ranges": [asdict(one) for one in self.ranges],
            "design": self.fingerprint,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over what `get_extra_state` returned."""
        self.require_design(state, self.fingerprint)
        self.ranges = tuple(ConverterRange(**one) for one in state["ranges"])
        self._programmed, self._loaded_mark = bool(state["programmed"]), state["mark"]
        self._programming_seed, self.trial, self.seconds = state["programming_seed"], state["trial"], state["seconds"]
        self.reads, self.training_reads = state["reads"], state["training_reads"]
        self.input_step, self.signed = state["input_step"], state["signed"]
        self.forget()
        self.settle()

    def settle(self) -> None:
        """Look whether the master weights of a state just loaded are those that it was programmed from."""
        self._mark = WeightMark.stored(self.weight, self._loaded_mark)

    def _masters_are_current(self) -> bool:
        return self._programmed and self._mark is not None and self._mark.holds(self.weight)

    def _apply(self, fn: Any, recurse: bool = True) -> "IntegerLayer":
        current = self._masters_are_current()
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.forget()
        self._mark = WeightMark.of(self.weight) if current else None
        return self

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        state["_mark"] = self._masters_are_current()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._mark = WeightMark.of(self.weight) if state["_mark"] else None
        self.forget()

    def extra_repr(self) -> str:
        """Return the line that ``print(chip)`` shows."""
        placement = self.placement
        shape = " x ".join(str(size) for size in self.weight.shape)
        return f"{self.kind} {shape} on {placement.hardware}, {placement.arrays} arrays, utilization {placement.utilization:.0%}"


class MacroTiles(IntegerLayer, Generic[Macro]):
    """A layer whose matrix is cut into groups of rows, each on macros of its own.

    Parameters
    ----------
    name, seed, layer, weight_scaling
        See `IntegerLayer`.
    design
        The macro; the sign of its inputs is taken from calibration.
    """

    design: Macro

    def __init__(self, name: str, seed: int, design: Macro, layer: WeightLayer, weight_scaling: Literal["layer", "column"]) -> None:
        super().__init__(name, seed, design, layer, design.input_bits, design.weight_bits, weight_scaling)
        self.kernel = tuple(self.weight.shape[2:])
        self.tiles = row_tiles(self.weight.shape[1], self.weight[0, 0].numel(), design.rows)
        self.signed = design.signed_inputs

    @property
    def macro(self) -> Macro:
        """The design with the sign of this layer's inputs."""
        return self.design if self.design.signed_inputs == self.signed else self.design.replace(signed_inputs=self.signed)

    def padded(self, codes: Tensor) -> Tensor:
        """Return input codes as a batch with the zeros of a convolution's padding around them."""
        return pad_codes(self.operator, codes if self.operator.dimensions in (0, codes.dim() - 2) else codes.unsqueeze(0))

    def shaped(self, rows: Tensor, padded: Tensor, codes: Tensor) -> Tensor:
        """Return results (vectors, outputs) in the shape of the layer's outputs for these input codes."""
        outputs = shape_outputs(self.operator, rows, padded, self.kernel)
        return outputs if codes.dim() == padded.dim() else outputs.squeeze(0)


class IntegerRead(torch.autograd.Function):
    """An integer product whose gradient passes straight through rounding; inputs beyond the range get none.

    The layer has a method ``read(inputs, weights)`` that returns outputs without bias, input codes and the value of one input step;
    `weights` are what `IntegerLayer.weight_codes` returned.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, layer: Any, weights: tuple[Tensor, Tensor]) -> Tensor:
        """Return the outputs without bias."""
        output: Tensor
        output, codes, step = layer.read(inputs, weights)
        low, high = layer.input_limits
        ctx.layer, ctx.step = layer, step
        dense = weights[0] * weights[1].reshape(-1, *[1] * (weight.dim() - 1))
        ctx.save_for_backward(codes, (inputs >= low * step) & (inputs <= high * step), dense)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        """Return the gradients of the product of the rounded operands."""
        codes, inside, dense = ctx.saved_tensors
        needs = (ctx.needs_input_grad[0], ctx.needs_input_grad[1])
        for_inputs, for_weight = ctx.layer.operator.gradients(upstream[0].contiguous(), codes, dense, needs)
        if for_inputs is not None:
            for_inputs = for_inputs * inside
        return for_inputs, for_weight if for_weight is None else for_weight * ctx.step, None, None


def limits(bits: int, signed: bool) -> tuple[int, int]:
    """Return the smallest and largest code: symmetric where there is a sign, since weights of both signs must cancel.

    Examples
    --------
    >>> limits(4, True), limits(4, False)
    ((-7, 7), (0, 15))
    """
    top = (1 << (bits - 1)) - 1
    return (-max(top, 1), max(top, 1)) if signed else (0, (1 << bits) - 1)


def least_squares_step(observer: RangeObserver, top: int) -> float:
    """Return the step with the least mean squared error of rounding and clipping the magnitudes seen, to 64 candidates.

    Examples
    --------
    >>> observer = RangeObserver()
    >>> observer.add(torch.linspace(0.0, 1.0, 1000))
    >>> 0.9 < 15 * least_squares_step(observer, 15) <= 1.0
    True
    """
    counts = observer._counts.double()
    middles = (torch.arange(BINS, dtype=torch.float64) + 0.5) * (observer._limit / BINS)
    steps = observer.maximum / top * torch.arange(1, RANGE_CANDIDATES + 1, dtype=torch.float64) / RANGE_CANDIDATES
    codes = torch.round(middles / steps[:, None]).clamp(max=top)
    errors = (counts * (codes * steps[:, None] - middles) ** 2).sum(1)
    return float(steps[int(errors.argmin())])


def pad_codes(operator: LinearOperator, codes: Tensor) -> Tensor:
    """Lay the zeros of a convolution's padding around integer inputs.

    Examples
    --------
    >>> pad_codes(LinearOperator(1, (1,), (2,), (1,)), torch.ones(1, 1, 3)).shape
    torch.Size([1, 1, 7])
    """
    widths = [width for padding in reversed(operator.padding) for width in (padding, padding)]
    return functional.pad(codes, widths) if any(widths) else codes


def tile_rows(operator: LinearOperator, padded: Tensor, kernel: tuple[int, ...], tile: RowTile) -> Tensor:
    """Return what a tile's rows see of padded inputs: (groups, vectors, rows), a vector for each output position.

    Examples
    --------
    >>> tile = RowTile((0, 2), (0, 9), 18)
    >>> tile_rows(LinearOperator(2, (1, 1), (0, 0), (1, 1)), torch.ones(1, 2, 5, 5), (3, 3), tile).shape
    torch.Size([1, 9, 18])
    """
    start, stop = tile.channels
    if operator.dimensions == 0:
        return padded[..., start:stop].reshape(1, -1, stop - start)
    groups, dimensions = operator.groups, operator.dimensions
    rows: Tensor = padded.unflatten(1, (groups, -1))[:, :, start:stop]
    for axis, (size, stride, dilation) in enumerate(zip(kernel, operator.stride, operator.dilation, strict=True)):
        rows = rows.unfold(3 + axis, dilation * (size - 1) + 1, stride)[..., ::dilation]
    places = tuple(range(3, 3 + dimensions))
    taps = tuple(range(3 + dimensions, 3 + 2 * dimensions))
    # groups, batch, positions, channels, taps
    ordered = rows.permute(1, 0, *places, 2, *taps).flatten(2 + dimensions + 1)
    first, last = tile.kernel
    return ordered[..., first:last].reshape(groups, -1, tile.rows)


def tile_matrix(weight: Tensor, groups: int, tile: RowTile) -> Tensor:
    """Return the part of a weight (outputs, inputs, ...) that lies on a tile's rows: (groups, rows, outputs of a group).

    Examples
    --------
    >>> tile_matrix(torch.ones(6, 2, 3, 3), 3, RowTile((0, 2), (0, 9), 18)).shape
    torch.Size([3, 18, 2])
    """
    start, stop = tile.channels
    first, last = tile.kernel
    part = weight[:, start:stop].flatten(2)[..., first:last] if weight.dim() > 2 else weight[:, start:stop]
    return part.reshape(groups, weight.shape[0] // groups, tile.rows).transpose(1, 2).contiguous()


def untile_matrix(matrix: Tensor, total: Tensor, tile: RowTile) -> None:
    """Write what `tile_matrix` returned back into its place in `total`, of the weight's shape.

    Examples
    --------
    >>> total = torch.zeros(6, 2, 3, 3)
    >>> untile_matrix(torch.ones(3, 18, 2), total, RowTile((0, 2), (0, 9), 18))
    >>> total.sum().item()
    108.0
    """
    start, stop = tile.channels
    first, last = tile.kernel
    rows = matrix.transpose(1, 2).reshape(total.shape[0], stop - start, last - first)
    if total.dim() > 2:
        total.view(*total.shape[:2], -1)[:, start:stop, first:last] = rows
    else:
        total[:, start:stop] = rows.squeeze(-1)


def shape_outputs(operator: LinearOperator, rows: Tensor, padded: Tensor, kernel: tuple[int, ...]) -> Tensor:
    """Return results (vectors, outputs) in the shape that the layer gives for these padded inputs.

    Examples
    --------
    >>> shape_outputs(LinearOperator(1, (1,), (0,), (1,)), torch.ones(6, 4), torch.ones(2, 3, 5), (3,)).shape
    torch.Size([2, 4, 3])
    """
    if operator.dimensions == 0:
        return rows.reshape(*padded.shape[:-1], rows.shape[-1])
    sizes = zip(padded.shape[2:], kernel, operator.stride, operator.dilation, strict=True)
    places = [(length - dilation * (size - 1) - 1) // stride + 1 for length, size, stride, dilation in sizes]
    return rows.reshape(padded.shape[0], *places, rows.shape[-1]).movedim(-1, 1).contiguous()
