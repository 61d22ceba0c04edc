"""Integer neurons: widths of weights, thresholds and membranes, and what happens beyond them."""

from typing import Literal, Self

from pydantic import Field, model_validator

from devices.design import Design


class IntegerArithmetic(Design):
    """The integers that a core computes with.

    A weight adds ``mantissa 2^(weight_shift + exponent)`` to the membrane, with one exponent for each population of neurons; a threshold
    is ``mantissa 2^threshold_shift``. A membrane that decays is multiplied and shifted, rounded toward zero.

    Parameters
    ----------
    weight_bits
        Width of a weight's mantissa with its sign; the mantissa is symmetric, ``+-(2^(weight_bits-1) - 1)``.
    weight_exponents
        Lowest and highest exponent.
    weight_shift
        Binary places of a weight of exponent 0 in the membrane.
    threshold_bits, threshold_shift
        Width of a threshold's mantissa (without sign), and its binary places in the membrane.
    state_bits
        Width of the membrane with its sign.
    decay_bits
        Width of the factor of the decay, ``keep / 2^decay_bits``; 0 where membranes cannot decay by a factor.
    overflow
        Whether a membrane stops at its ends (``"saturate"``) or goes around (``"wrap"``).

    Examples
    --------
    >>> IntegerArithmetic(weight_bits=8, state_bits=16, threshold_bits=15).largest_weight
    127
    """

    weight_bits: int = Field(ge=2, le=16)
    weight_exponents: tuple[int, int] = (0, 0)
    weight_shift: int = Field(default=0, ge=0, le=16)
    threshold_bits: int = Field(ge=1, le=31)
    threshold_shift: int = Field(default=0, ge=0, le=16)
    state_bits: int = Field(ge=4, le=32)
    decay_bits: int = Field(default=0, ge=0, le=16)
    overflow: Literal["saturate", "wrap"] = "saturate"

    @model_validator(mode="after")
    def _exponents_are_upright(self) -> Self:
        low, high = self.weight_exponents
        if low > high or self.weight_shift + high < 0:
            raise ValueError(
                f"`weight_exponents` must be a lowest and a highest one with `weight_shift` plus the highest at least 0, but got {low} and "
                f"{high} with {self.weight_shift}; swap them or raise the shift"
            )
        return self

    @property
    def largest_weight(self) -> int:
        """Largest mantissa of a weight."""
        return (1 << (self.weight_bits - 1)) - 1

    @property
    def largest_threshold(self) -> int:
        """Largest threshold in the unit of the membrane."""
        return min(((1 << self.threshold_bits) - 1) << self.threshold_shift, self.largest_state)

    @property
    def largest_state(self) -> int:
        """Largest membrane."""
        return (1 << (self.state_bits - 1)) - 1

    @property
    def shifts(self) -> list[int]:
        """Binary places that a weight can have in the membrane, smallest first: exponents that would cut bits off are left out."""
        low, high = self.weight_exponents
        return [self.weight_shift + exponent for exponent in range(low, high + 1) if self.weight_shift + exponent >= 0]

    def keep(self, decay: float) -> int:
        """Return the factor of the decay in units of ``2^-decay_bits``, rounded to the nearest below 1: a slow leak stays a leak.

        Raises
        ------
        ValueError
            If the membrane cannot decay, or would be lost at once though the decay is above 0.

        Examples
        --------
        >>> IntegerArithmetic(weight_bits=8, state_bits=24, threshold_bits=17, decay_bits=12).keep(0.5)
        2048
        """
        if decay == 1:
            return 1 << self.decay_bits
        kept = min(round(decay * (1 << self.decay_bits)), (1 << self.decay_bits) - 1)
        if not self.decay_bits or (kept < 1 and decay > 0):
            raise ValueError(
                f"`decay` must be 1 or a factor that {self.decay_bits} bits hold, but got {decay}; choose neurons that do not leak, or "
                "another core"
            )
        return kept

    def kept(self, decay: float) -> float:
        """Return the decay that a membrane really has.

        Examples
        --------
        >>> IntegerArithmetic(weight_bits=8, state_bits=24, threshold_bits=17, decay_bits=2).kept(0.95)
        0.75
        """
        return 1.0 if decay == 1 else self.keep(decay) / (1 << self.decay_bits)
