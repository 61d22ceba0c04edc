"""The error of a weight as papers on write-verify state it: conventions by name, and a cell that has exactly that error."""

import math
from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from devices.base import ProgrammedCells, ResistiveCell
from kernels.random import Key, normal

WeightErrorConvention = Literal["device_range", "per_bit", "paper"]
LARGEST_NORMAL = 6.67
"""No draw of `kernels.normal` is larger in magnitude."""


def weight_error_std(
    sigma: float, convention: WeightErrorConvention = "device_range", *, weight_bits: int = 4, device_bits: int = 4
) -> float:
    """Return the standard deviation of a weight's programming error over the largest weight.

    A weight of M bits lies on devices of K bits each, device j at 2^(jK), and each is programmed with an error N(0, sigma^2).

    Parameters
    ----------
    sigma
        Standard deviation of one device's error; its unit is the convention's.
    convention
        ``device_range``: sigma in units of a device's full range, dW / W_max = sum_j 2^(jK) (2^K - 1) dg_j / (2^M - 1).
        ``paper``: sigma in units of a device's least significant bit, dW = sum_j 2^(jK) dg_j, and the full scale is 2^M.
        ``per_bit``: dW / W_max = sum_i 2^(-iK) dg_i, i = 1 .. M / K.
    weight_bits, device_bits
        M and K, bits.

    Returns
    -------
    float
        At M = K = 4: sigma for ``device_range``, 0.0625 sigma for ``paper``; at M = 8, K = 1: 0.577 sigma for ``per_bit``.

    Raises
    ------
    ValueError
        If an argument is out of range or the convention is unknown.

    References
    ----------
    The loops and names follow yan2022swim in the bibliography, whose formulas were known from memory only: ``paper`` is a convention,
    not a number that was published.

    Examples
    --------
    >>> weight_error_std(0.1), weight_error_std(0.1, "paper"), round(weight_error_std(0.3, "per_bit", weight_bits=8, device_bits=1), 4)
    (0.1, 0.00625, 0.1732)
    """
    if not (math.isfinite(sigma) and sigma >= 0):
        raise ValueError(f"Argument `sigma` must be finite and at least 0, but got {sigma}; give a standard deviation")
    for name, value in (("weight_bits", weight_bits), ("device_bits", device_bits)):
        if not 1 <= value <= 16:
            raise ValueError(f"Argument `{name}` must be from 1 to 16, but got {value}; give a number of bits")
    devices = -(-weight_bits // device_bits)
    if convention == "per_bit":
        return sigma * math.sqrt(math.fsum(4.0 ** (-i * device_bits) for i in range(1, devices + 1)))
    radix = math.sqrt(math.fsum(4.0 ** (j * device_bits) for j in range(devices)))
    if convention == "paper":
        return sigma * radix / 2.0**weight_bits
    if convention != "device_range":
        raise ValueError(f"Argument `convention` must be 'device_range', 'per_bit' or 'paper', but got {convention!r}")
    return sigma * radix * (2.0**device_bits - 1) / (2.0**weight_bits - 1)


class WeightErrorCell(ResistiveCell):
    """Resistive cell whose pairs have the weight error of a named convention: Gaussian, whatever the target.

    Each of the two cells of a pair takes half of the variance. Reads are exact and nothing drifts: what is left is what programming does.
    The range has to lie so high that no draw is cut off at zero.

    Parameters
    ----------
    sigma
        Standard deviation of one device's error, in the convention's unit.
    convention, weight_bits, device_bits
        See `weight_error_std`.

    Examples
    --------
    >>> import torch
    >>> cell = WeightErrorCell(g_min_siemens="30 uS", g_max_siemens="50 uS", sigma=0.1)
    >>> drawn = cell.program(torch.full((2, 100_000), 4e-5), Key.of(seed=0)).conductance
    >>> round(float((drawn[0] - drawn[1]).std() / 2e-5), 2)
    0.1
    """

    sigma: float = Field(ge=0)
    convention: WeightErrorConvention = "device_range"
    weight_bits: int = Field(default=4, ge=1, le=16)
    device_bits: int = Field(default=4, ge=1, le=16)

    @model_validator(mode="after")
    def _nothing_is_cut_off(self) -> Self:
        if self.g_min_siemens < LARGEST_NORMAL * self.sigma_siemens:
            raise ValueError(
                f"`g_min_siemens` must be at least {LARGEST_NORMAL} standard deviations, {LARGEST_NORMAL * self.sigma_siemens:.3g}, "
                f"so that no conductance falls below zero, but got {self.g_min_siemens}; move the range up"
            )
        return self

    @property
    def sigma_siemens(self) -> float:
        """Standard deviation of one cell's error, siemens."""
        share = weight_error_std(self.sigma, self.convention, weight_bits=self.weight_bits, device_bits=self.device_bits)
        return share * (self.g_max_siemens - self.g_min_siemens) / math.sqrt(2)

    def program(self, target: Tensor, key: Key) -> ProgrammedCells:
        """Draw the programmed conductances, siemens, for targets in siemens of any shape."""
        return ProgrammedCells(target + self.sigma_siemens * normal(key, target.shape, target.device))

    def read_sigma(self, conductance: Tensor, seconds: float) -> None:
        """Return None: reads are exact."""
        return

    def drift(self, programmed: ProgrammedCells, seconds: float, key: Key) -> Tensor:
        """Return the programmed conductance at any time."""
        return programmed.conductance
