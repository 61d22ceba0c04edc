"""The design of an SRAM macro whose cells' discharge branches do both the product and its conversion."""

import math
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from devices.base import ComputeMacro
from devices.sram import reading
from devices.sram.bit_lines import BitLines
from devices.sram.operands import INPUT_DIGIT_BITS, INPUT_RADIX, WEIGHT_DIGIT_BITS, WEIGHT_RADIX, input_digits, weight_digits
from kernels.random import Key

FOLD = INPUT_RADIX // 2
"""MAC-folding discharges for a - 8 instead of a: at most 8 unit times instead of 15 (arXiv 2307.05944)."""

NEED_LINES = (
    "comparator_offset_volt",
    "comparator_noise_volt",
    "thermal_noise",
    "jitter_s",
    "headroom_volt",
    "charge_injection_volt",
)
"""Errors in volts and seconds, which the bit lines turn into readout steps."""


class SRAMMacro(ComputeMacro):
    """An SRAM array that multiplies 4-bit activations by signed 4-bit weights on two bit lines and converts on the same lines.

    Each activation sets how long the branches of a row discharge, each weight how many there are and on which line. The readout then
    discharges the higher line in steps until the lines meet: with D the product in steps, `mid_rise` gives ``floor(D) + 1/2`` clipped to
    ``+-(2^(output_bits-1) - 1/2)``, and `mid_tread`, whose comparator is shifted by half a step, ``floor(D + 1/2)`` clipped to
    ``+-(2^(output_bits-1) - 1)``; lines that are equal count as a positive difference, so ties go up. One step is worth
    ``full_scale / 2^(output_bits-1) / boost``. Wider operands take several 4-bit digits, shifted and added digitally.

    Only 4 x 4 bit, nine output bits, MAC-folding, boosted clipping and 137.5 TOPS/W are published; rows, columns and the search are
    choices, and every error is zero unless it is given. An error in volts or seconds needs `lines`.

    Parameters
    ----------
    rows, columns
        Weights of one macro.
    output_bits
        Bits of one conversion with its sign.
    input_bits, signed_inputs
        Bits of an activation, and whether it has a sign. A compiled layer takes the sign from its calibration.
    weight_bits
        Bits of a weight with its sign; its magnitude is at most ``2^(weight_bits-1) - 1``.
    weight_scaling
        What uses the whole range of a weight in a compiled layer: the largest one of the ``layer``, or of each ``column`` (output).
    readout
        ``mid_rise`` or ``mid_tread``.
    search
        Steps of the readout: ``binary_search`` or ``ramp``.
    mac_folding
        Discharge for ``a - 8`` and restore ``8 sum(w)`` digitally.
    boost
        Gain of boosted clipping: the signal grows by it and clips at the last code; 1 turns it off. None: calibration chooses
        for each compiled layer, and a direct `mac` takes 1.
    lines
        The bit lines in volts and seconds. None: not given.
    branch_sigma
        Relative mismatch of the current of one branch, drawn at fabrication; a weight w has abs(w) of them.
    cell_sigma
        Relative mismatch of all branches of a cell together.
    readout_sigma
        Relative mismatch of the branch of each step of the readout, on each line of each column.
    comparator_offset_volt
        Standard deviation of the columns' comparator offsets, drawn at fabrication.
    comparator_noise_volt
        Standard deviation of the noise of a comparison.
    comparator_noise_per
        ``comparison`` draws it for each of the comparisons (exactly in law, to 2^-32); ``conversion`` once for all, an approximation that
        takes two thirds of the time. With 512 codes their laws differ by a total variation of 1.4e-5 where the noise is 0.2 readout
        steps, 1.5e-3 at 0.3, 0.02 at 0.5 and 0.09 at 1.
    thermal_noise
        Noise kT/C on both lines, at the corner's temperature.
    jitter_s
        Standard deviation of the length of a pulse: that of each driven row, and that of each readout step, shared by all columns.
    headroom_volt
        Largest discharge of a line; it stays there. None: no limit.
    charge_injection_volt
        Volts that the end of one branch's discharge puts back on its line.
    joule_per_operation
        Energy of one 4 x 4-bit operation, two for each multiply-accumulate, with its conversion. None: not given.
    read_s
        Duration of one discharge and its readout. None: not given.
    area_m2
        Area of one macro. None: not given.
    leakage_watt
        Power of one macro at rest. None: not given.
    run_time_weights
        Whether a compiled model may write weights at every call: products of activations and weights that another network makes.
    joule_per_written_cell, row_write_s
        Energy of writing one cell and time of writing one row of cells. None: not given.

    Examples
    --------
    >>> macro = SRAMMacro(rows=64, readout="mid_tread")
    >>> inputs, weights = torch.full((1, 64), 15), torch.full((64, 2), 3)
    >>> codes, scale = macro.mac(inputs, weights)
    >>> codes, scale
    (tensor([[110., 110.]]), 26.25)
    """

    rows: int = Field(default=64, ge=1, le=4096)
    columns: int = Field(default=256, ge=1, le=65536)
    output_bits: int = Field(default=9, ge=2, le=12)
    input_bits: int = Field(default=INPUT_DIGIT_BITS, ge=1, le=16)
    signed_inputs: bool = False
    weight_bits: int = Field(default=WEIGHT_DIGIT_BITS + 1, ge=2, le=16)
    weight_scaling: Literal["layer", "column"] = "column"
    readout: Literal["mid_rise", "mid_tread"] = "mid_tread"
    search: Literal["binary_search", "ramp"] = "binary_search"
    mac_folding: bool = False
    boost: int | None = Field(default=None, ge=1, le=256)
    lines: BitLines | None = None
    branch_sigma: float = Field(default=0.0, ge=0, le=1)
    cell_sigma: float = Field(default=0.0, ge=0, le=1)
    readout_sigma: float = Field(default=0.0, ge=0, le=1)
    comparator_offset_volt: float = Field(default=0.0, ge=0)
    comparator_noise_volt: float = Field(default=0.0, ge=0)
    comparator_noise_per: Literal["comparison", "conversion"] = "comparison"
    thermal_noise: bool = False
    jitter_s: float = Field(default=0.0, ge=0)
    headroom_volt: float | None = Field(default=None, gt=0)
    charge_injection_volt: float = Field(default=0.0, ge=0)
    joule_per_operation: float | None = Field(default=None, gt=0)
    read_s: float | None = Field(default=None, gt=0)
    area_m2: float | None = Field(default=None, gt=0)
    leakage_watt: float | None = Field(default=None, gt=0)
    run_time_weights: bool = False
    joule_per_written_cell: float | None = Field(default=None, gt=0)
    row_write_s: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _volts_have_lines(self) -> Self:
        if self.lines is None:
            for name in (
                "comparator_offset_volt",
                "comparator_noise_volt",
                "thermal_noise",
                "jitter_s",
                "headroom_volt",
                "charge_injection_volt",
            ):
                if getattr(self, name):
                    raise ValueError(
                        f"`lines` must be given with `{name}`, but got None and {getattr(self, name)}; "
                        "say what current, capacitance and pulse make a readout step"
                    )
        elif self.charge_injection_volt >= self.lines.lsb_volt:
            raise ValueError(
                f"`charge_injection_volt` must be below one readout step, {self.lines.lsb_volt:.3g} V, "
                f"but got {self.charge_injection_volt}; lower it"
            )
        return self

    @property
    def limit(self) -> int:
        """Largest code of a mid-tread conversion, 2^(output_bits - 1) - 1."""
        return (1 << (self.output_bits - 1)) - 1

    @property
    def input_places(self) -> int:
        """4-bit digits of an activation: discharges one after the other."""
        return -(-self.input_bits // INPUT_DIGIT_BITS)

    @property
    def weight_places(self) -> int:
        """4-bit digits of a weight: macros side by side."""
        return -(-(self.weight_bits - 1) // WEIGHT_DIGIT_BITS)

    @property
    def full_scale(self) -> int:
        """Largest sum of products of one macro, in units of one input code times one weight code."""
        return self.rows * (FOLD if self.mac_folding else INPUT_RADIX - 1) * (WEIGHT_RADIX - 1)

    @property
    def restoration(self) -> int:
        """What the digital side adds for each unit of a column's sum of weights: undoes folding and the offset of signed inputs."""
        folded = FOLD * sum(INPUT_RADIX**place for place in range(self.input_places)) if self.mac_folding else 0
        return folded - (1 << (self.input_bits - 1) if self.signed_inputs else 0)

    def step(self, boost: int | None = None) -> float:
        """Return the size of one readout step in units of one input code times one weight code.

        Raises
        ------
        ValueError
            If `boost` is below 1.

        Examples
        --------
        >>> SRAMMacro(rows=64).step(), SRAMMacro(rows=64, mac_folding=True).step(2)
        (26.25, 7.0)
        """
        gain = (self.boost or 1) if boost is None else boost
        if gain < 1:
            raise ValueError(f"Argument `boost` must be at least 1, but got {boost}; pass the gain of boosted clipping, 1 for none")
        return self.full_scale / (1 << (self.output_bits - 1)) / gain

    @property
    def random(self) -> bool:
        """Whether fabrication or reading draw anything, so that a key is needed."""
        return self.noisy or any((self.branch_sigma, self.cell_sigma, self.readout_sigma, self.comparator_offset_volt))

    @property
    def noisy(self) -> bool:
        """Whether two reads differ."""
        return self.thermal_noise or bool(self.comparator_noise_volt or self.jitter_s)

    @property
    def noise_steps(self) -> float:
        """Standard deviation of what thermal and comparator noise add to a conversion, in readout steps."""
        if self.lines is None:
            return 0.0
        thermal = self.lines.thermal_noise_volt if self.thermal_noise else 0.0
        return math.hypot(thermal, self.comparator_noise_volt) / self.lines.lsb_volt

    def ideal(self) -> Self:
        """Return the same macro without errors; its integer widths, its rounding and its clipping stay.

        Examples
        --------
        >>> SRAMMacro(branch_sigma=0.1, boost=4).ideal() == SRAMMacro(boost=4)
        True
        """
        return self.replace(
            lines=None,
            branch_sigma=0.0,
            cell_sigma=0.0,
            readout_sigma=0.0,
            comparator_offset_volt=0.0,
            comparator_noise_volt=0.0,
            thermal_noise=False,
            jitter_s=0.0,
            headroom_volt=None,
            charge_injection_volt=0.0,
        )

    def mac(self, inputs: Tensor, weights: Tensor, key: Key | None = None) -> tuple[Tensor, float]:
        """Multiply integers as one macro does, fabricated for this key and read once.

        Parameters
        ----------
        inputs
            Integers (batch, rows), ``0 .. 2^input_bits - 1``, or ``-2^(input_bits-1) .. 2^(input_bits-1) - 1`` if they are signed.
        weights
            Integers (rows, columns), at most ``2^(weight_bits-1) - 1`` in magnitude; no more rows and columns than the macro has.
        key
            Stream of mismatch and noise; keys that differ only in their read counter read the same macro. None for a macro without.

        Returns
        -------
        codes : Tensor
            Float32 (batch, columns): the readout's codes, with digits shifted and added, and with what folding and signs took restored
            in units of a code. ``codes * scale`` estimates ``inputs @ weights``.
        scale : float
            Value of one code in units of one input code times one weight code.

        Raises
        ------
        ValueError
            If an operand is not an integer tensor, out of range or too large for the macro, or a key is missing.

        Examples
        --------
        >>> codes, scale = SRAMMacro(rows=4, mac_folding=True).mac(torch.tensor([[15, 0, 3, 8]]), torch.tensor([[7], [-7], [1], [0]]))
        >>> (codes * scale).round().tolist()
        [[108.0]]
        """
        self._check(inputs, weights)
        if (key is None and self.random) or not isinstance(key, Key | None):
            raise ValueError(f"Argument `key` must be a Key for a macro with mismatch or noise, but got {key!r}; pass Key.of(seed=0)")
        chip = None if key is None else key.at(0).fold("fabrication")
        instances = reading.fabricate_digits(self, weight_digits(weights, self.weight_bits), chip)
        digits = input_digits(inputs, self.input_bits, self.signed_inputs)
        boost = self.boost or 1
        codes = reading.read_digits(self, [digit.unsqueeze(0) for digit in digits], instances, boost, key)
        scale = self.step(boost)
        if self.restoration:
            codes = codes + weights.sum(0).to(torch.float32) * (self.restoration / scale)
        return codes, scale

    def _check(self, inputs: Tensor, weights: Tensor) -> None:
        low = -(1 << (self.input_bits - 1)) if self.signed_inputs else 0
        high = low + (1 << self.input_bits) - 1
        top = (1 << (self.weight_bits - 1)) - 1
        for name, tensor, lowest, highest in (("inputs", inputs, low, high), ("weights", weights, -top, top)):
            if not isinstance(tensor, Tensor) or tensor.dim() != 2 or tensor.is_floating_point() or tensor.dtype == torch.bool:
                got = f"{tensor.dtype} of shape {tuple(tensor.shape)}" if isinstance(tensor, Tensor) else type(tensor).__name__
                raise ValueError(f"Argument `{name}` must be an integer tensor of two dimensions, but got {got}; convert it by `.long()`")
            if tensor.numel() and not lowest <= int(tensor.min()) <= int(tensor.max()) <= highest:
                found = f"{int(tensor.min())} to {int(tensor.max())}"
                raise ValueError(f"Argument `{name}` must hold {lowest} to {highest}, but got {found}; quantize it or change the bits")
        if inputs.shape[1] != weights.shape[0]:
            raise ValueError(
                f"Argument `weights` must have the {inputs.shape[1]} rows of `inputs`, but got {weights.shape[0]}; give equal lengths"
            )
        places = self.weight_places
        if weights.shape[0] > self.rows or weights.shape[1] * places > self.columns:
            raise ValueError(
                f"Argument `weights` must fit {self.rows} rows and {self.columns // places} columns of {self.weight_bits}-bit weights, "
                f"but got {tuple(weights.shape)}; cut it into tiles, as sim.compile does"
            )
