"""Wide operands as digits of 4-bit macros: unsigned digits of inputs, sign-magnitude digits of weights."""

import torch
from torch import Tensor

INPUT_DIGIT_BITS = 4
"""Bits of an activation that one discharge takes (arXiv 2307.05944, abstract: 4 x 4 bit)."""
WEIGHT_DIGIT_BITS = 3
"""Bits of a 4-bit weight's magnitude; the fourth is its sign, which chooses the bit line."""
INPUT_RADIX = 1 << INPUT_DIGIT_BITS
WEIGHT_RADIX = 1 << WEIGHT_DIGIT_BITS


def input_digits(codes: Tensor, bits: int, signed: bool) -> list[Tensor]:
    """Cut integer activations into unsigned 4-bit digits, the lowest first; signed ones are offset by ``2^(bits - 1)`` before.

    Parameters
    ----------
    codes
        Integers of any shape, float32 or an integer dtype, within the range of `bits`.
    bits
        Bits of an activation.
    signed
        Whether the range is ``-2^(bits-1) .. 2^(bits-1) - 1`` instead of ``0 .. 2^bits - 1``.

    Returns
    -------
    list of Tensor
        Float32 digits 0 to 15 of the shape of `codes`.

    Examples
    --------
    >>> [digit.tolist() for digit in input_digits(torch.tensor([0, 200]), 8, False)]
    [[0.0, 8.0], [0.0, 12.0]]
    """
    # In 32 bits before the offset is added: an 8-bit tensor would wrap around.
    whole = codes if codes.is_floating_point() else codes.to(torch.int32)
    whole = whole + (1 << (bits - 1)) if signed else whole
    if bits <= INPUT_DIGIT_BITS:
        return [whole.to(torch.float32)]
    whole = whole.to(torch.int32)
    count = -(-bits // INPUT_DIGIT_BITS)
    return [((whole >> (INPUT_DIGIT_BITS * place)) & (INPUT_RADIX - 1)).to(torch.float32) for place in range(count)]


def weight_digits(codes: Tensor, bits: int) -> list[Tensor]:
    """Cut integer weights into signed digits of 3 bits of magnitude, the lowest first; every digit has its weight's sign.

    Parameters
    ----------
    codes
        Integers of any shape, float32 or an integer dtype, at most ``2^(bits - 1) - 1`` in magnitude.
    bits
        Bits of a weight with its sign.

    Returns
    -------
    list of Tensor
        Float32 digits -7 to 7 of the shape of `codes`.

    Examples
    --------
    >>> [digit.tolist() for digit in weight_digits(torch.tensor([-100, 5]), 8)]
    [[-4.0, 5.0], [-4.0, 0.0], [-1.0, 0.0]]
    """
    count = -(-(bits - 1) // WEIGHT_DIGIT_BITS)
    if count == 1:
        return [codes.to(torch.float32)]
    magnitude, sign = codes.abs().to(torch.int32), codes.sign().to(torch.float32)
    return [((magnitude >> (WEIGHT_DIGIT_BITS * place)) & (WEIGHT_RADIX - 1)).to(torch.float32) * sign for place in range(count)]
