"""What fabrication leaves in macros, and one read of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from devices.sram.operands import INPUT_RADIX, WEIGHT_RADIX
from kernels.macro import read_bit_lines, round_bit_lines
from kernels.random import Key, normal

if TYPE_CHECKING:
    from devices.sram.macro import SRAMMacro


@dataclass(frozen=True, eq=False)
class MacroInstance:
    """Fabricated macros that hold one digit of the weights of a group of rows.

    Attributes
    ----------
    weights
        Effective weights (blocks, rows, columns): branch currents with their mismatch, with the sign of the line. Blocks are read
        with different inputs, as the groups of a convolution.
    steps
        What each readout step takes off the difference, (2, steps, blocks * columns) in nominal steps; None where all are exact.
    offset
        Comparator offset of each column in steps, or None.
    """

    weights: Tensor
    steps: Tensor | None = None
    offset: Tensor | None = None

    def apply(self, function: Callable[[Tensor], Tensor]) -> "MacroInstance":
        """Return the instance with a function applied to each of its tensors."""
        parts = (None if part is None else function(part) for part in (self.steps, self.offset))
        return MacroInstance(function(self.weights), *parts)


def fabricate(design: "SRAMMacro", digits: Tensor, key: Key | None) -> MacroInstance:
    """Draw the static errors of macros that hold `digits`.

    The mismatch of a branch is the branch's own: a weight of w uses the first abs(w) branches of its cell, whatever its sign.

    Parameters
    ----------
    design
        The macro.
    digits
        Signed weight digits (blocks, rows, columns), float32.
    key
        Stream of this fabrication; None for a design without static errors.

    Examples
    --------
    >>> from devices import SRAMMacro
    >>> instance = fabricate(SRAMMacro(cell_sigma=0.1), torch.ones(1, 2, 3), Key.of(seed=0))
    >>> instance.weights.shape, instance.steps is None
    (torch.Size([1, 2, 3]), True)
    """
    weights = digits
    if design.branch_sigma and key is not None:
        magnitude = digits.abs()
        error = torch.zeros_like(digits)
        for branch in range(1, WEIGHT_RADIX):
            drawn = normal(key.fold("branch", branch), digits.shape, digits.device)
            error = error + torch.where(magnitude >= branch, drawn, torch.zeros_like(drawn))
        weights = weights + design.branch_sigma * digits.sign() * error
    if design.cell_sigma and key is not None:
        weights = weights * (1.0 + design.cell_sigma * normal(key.fold("cell"), digits.shape, digits.device))
    columns = digits.shape[0] * digits.shape[2]
    steps = offset = None
    if design.readout_sigma or design.charge_injection_volt or _searches(design):
        steps = _nominal_steps(design, digits.device).reshape(1, -1, 1).expand(2, -1, columns)
        if design.readout_sigma and key is not None:
            steps = steps * (1.0 + design.readout_sigma * normal(key.fold("steps"), steps.shape, digits.device))
        if design.charge_injection_volt and design.lines is not None:
            steps = steps - design.charge_injection_volt / design.lines.lsb_volt
        steps = steps.contiguous()
    if design.comparator_offset_volt and design.lines is not None and key is not None:
        offset = design.comparator_offset_volt / design.lines.lsb_volt * normal(key.fold("offset"), (columns,), digits.device)
    return MacroInstance(weights, steps, offset)


def _searches(design: "SRAMMacro") -> bool:
    """Return whether the readout has to be followed step by step, because one rounding would not give its codes."""
    each = design.comparator_noise_volt and design.comparator_noise_per == "comparison"
    return bool(each or design.jitter_s or design.headroom_volt is not None or design.comparator_offset_volt)


def _nominal_steps(design: "SRAMMacro", device: torch.device) -> Tensor:
    if design.search == "ramp":
        return torch.ones(design.limit, device=device)
    return 2.0 ** torch.arange(design.output_bits - 2, -1, -1, dtype=torch.float32, device=device)


def fabricate_digits(design: "SRAMMacro", digits: list[Tensor], key: Key | None) -> list[MacroInstance]:
    """Fabricate one set of macros for each digit of weights (rows, columns) or (blocks, rows, columns)."""
    found = []
    for place, digit in enumerate(digits):
        blocks = digit.unsqueeze(0) if digit.dim() == 2 else digit
        found.append(fabricate(design, blocks, None if key is None else key.fold(place)))
    return found


def read(
    design: "SRAMMacro",
    digits: Tensor,
    instance: MacroInstance,
    boost: int,
    key: Key | None,
    *,
    scale: float = 1.0,
    out: Tensor | None = None,
    products: Tensor | None = None,
) -> Tensor:
    """Discharge the lines for one digit of the inputs and convert: the codes times `scale`, added to `out` where there is one.

    Parameters
    ----------
    design
        The macro.
    digits
        Unsigned input digits (blocks, vectors, rows), float32.
    instance
        What `fabricate` returned.
    boost
        Gain of boosted clipping.
    key
        Stream of this read; None for a design without noise.
    scale
        Factor of the codes.
    out
        Codes to add to, (vectors, blocks * columns), contiguous.
    products
        Memory for the products (blocks, vectors, columns), which reads one after the other can share.

    Returns
    -------
    Tensor
        Float32 (vectors, blocks * columns), block by block.

    Examples
    --------
    >>> from devices import SRAMMacro
    >>> design = SRAMMacro(rows=4)
    >>> read(design, torch.full((1, 1, 4), 15.0), fabricate(design, torch.full((1, 4, 1), 7.0), None), 1, None)
    tensor([[255.]])
    """
    step, lines = design.step(boost), design.lines
    drive = digits - INPUT_RADIX // 2 if design.mac_folding else digits
    if lines is not None and design.charge_injection_volt:
        drive = drive - drive.sign() * (design.charge_injection_volt / lines.lsb_volt * step)
    if lines is not None and design.jitter_s and key is not None:
        longer = normal(key.fold("pulse"), drive.shape, drive.device) * (design.jitter_s / lines.lsb_pulse_s * step)
        drive = drive + drive.sign() * longer
    difference = _by_vector(torch.bmm(drive, instance.weights, out=products))
    lsb_volt = 1.0 if lines is None else lines.lsb_volt
    thermal = lines.thermal_noise_volt / lsb_volt if lines is not None and design.thermal_noise else 0.0
    comparator = design.comparator_noise_volt / lsb_volt
    if design.comparator_noise_per == "conversion":
        thermal, comparator = (thermal**2 + comparator**2) ** 0.5, 0.0
    tread = design.readout == "mid_tread"
    if instance.steps is None:
        return round_bit_lines(
            difference,
            design.full_scale,
            design.limit,
            gain=boost << (design.output_bits - 1),
            tread=tread,
            sampling_sigma=thermal,
            key=key,
            scale=scale,
            out=out,
            accumulate=out is not None,
        )
    rooms = None
    if design.headroom_volt is not None:
        total = _by_vector(torch.bmm(drive.abs(), instance.weights.abs()))
        most = design.headroom_volt / lsb_volt
        positive, negative = (total + difference) * (0.5 / step), (total - difference) * (0.5 / step)
        beyond = (positive - most).clamp(min=0) - (negative - most).clamp(min=0)
        difference = difference - beyond * step
        rooms = ((most - positive).clamp(min=0), (most - negative).clamp(min=0))
    jitter = None
    if lines is not None and design.jitter_s and key is not None:
        count = instance.steps.shape[1]
        jitter = normal(key.fold("steps"), (difference.shape[0], count), difference.device) * (design.jitter_s / lines.lsb_pulse_s)
    return read_bit_lines(
        difference,
        instance.steps,
        gain=1.0 / step,
        readout=design.search,
        tread=tread,
        offset=instance.offset,
        jitter=jitter,
        rooms=rooms,
        sampling_sigma=thermal,
        comparator_sigma=comparator,
        key=key,
        scale=scale,
        out=out,
        accumulate=out is not None,
    )


def _by_vector(products: Tensor) -> Tensor:
    if len(products) == 1:
        return products[0]
    return products.transpose(0, 1).flatten(1).contiguous()


def read_digits(
    design: "SRAMMacro",
    digits: list[Tensor],
    instances: list[MacroInstance],
    boost: int,
    key: Key | None,
    out: Tensor | None = None,
    products: Tensor | None = None,
) -> Tensor:
    """Read every digit of the inputs (blocks, vectors, rows) against every digit of the weights; shift and add the codes.

    Adds to `out` where there is one, and needs no memory of its own for products where `products` gives it; returns
    (vectors, blocks * columns) in units of one code.
    """
    for i, digit in enumerate(digits):
        for j, instance in enumerate(instances):
            own = None if key is None else key.fold("read", i, j)
            out = read(design, digit, instance, boost, own, scale=float(INPUT_RADIX**i * WEIGHT_RADIX**j), out=out, products=products)
    assert out is not None
    return out
