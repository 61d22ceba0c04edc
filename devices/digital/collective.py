"""Exchanges between devices."""

import math


def all_to_all_seconds(bytes_per_device: float, devices: int, link_bytes_per_s: float, latency_s: float = 0.0) -> float:
    """Return the time in which every device sends an equal part of its data to every other one.

    Each device keeps 1 / devices of its data and sends the rest over its own link, one message to each of the others:
    ``(devices - 1) * latency_s + bytes_per_device * (devices - 1) / devices / link_bytes_per_s``.

    Parameters
    ----------
    bytes_per_device
        Bytes that a device holds before the exchange.
    devices
        How many take part.
    link_bytes_per_s
        Bandwidth out of each device.
    latency_s
        Time of an empty message.

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> all_to_all_seconds(8e9, 8, 100e9)
    0.07
    """
    if not isinstance(devices, int) or isinstance(devices, bool) or devices < 1:
        raise ValueError(f"Argument `devices` must be an integer of at least 1, but got {devices!r}; do count the devices")
    for name, value in (("bytes_per_device", bytes_per_device), ("latency_s", latency_s)):
        if not 0 <= value < math.inf:
            raise ValueError(f"Argument `{name}` must be finite and at least 0, but got {value}; do pass what one device has")
    if not 0 < link_bytes_per_s < math.inf:
        raise ValueError(f"Argument `link_bytes_per_s` must be finite and above 0, but got {link_bytes_per_s}; do pass a bandwidth")
    return (devices - 1) * latency_s + bytes_per_device * (devices - 1) / devices / link_bytes_per_s
