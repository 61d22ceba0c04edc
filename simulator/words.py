"""Numbers as people read them."""

import math


def plural(count: int, word: str) -> str:
    """Return a number of things, its thousands apart.

    Examples
    --------
    >>> plural(1, "array"), plural(5100, "array")
    ('1 array', '5 100 arrays')
    """
    return f"{count:,} {word}{'s' if count != 1 else ''}".replace(",", " ")


def counted(number: int) -> str:
    """Return a number with three digits and a prefix.

    Examples
    --------
    >>> counted(12), counted(90300)
    ('12', '90.3 k')
    """
    for scale, prefix in ((10**12, "T"), (10**9, "G"), (10**6, "M"), (10**3, "k")):
        if number >= scale:
            return f"{number / scale:.3g} {prefix}"
    return str(number)


def cautious(share: float) -> str:
    """Return a share in percent that is 100% only where nothing is left out.

    Examples
    --------
    >>> cautious(0.9999), cautious(0.5)
    ('99.9%', '50%')
    """
    return f"{math.floor(1000 * share) / 10}%" if 0.99 < share < 1 else percent(share)


def percent(share: float) -> str:
    """Return a share in percent, with two digits where it is small.

    Examples
    --------
    >>> percent(0.0011), percent(0.25), percent(1.0)
    ('0.11%', '25%', '100%')
    """
    return f"{100 * share:.2g}%" if share < 0.1 else f"{share:.0%}"
