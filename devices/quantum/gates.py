"""Calibrated gates: the pulses that make rotations and cross-resonance gates, and how good they are."""

from pydantic import Field, SerializeAsAny

from devices.design import Design
from devices.quantum.waveforms import Waveform


class CrossResonance(Design):
    """An echoed cross-resonance pulse: the control is driven at the target's frequency, flipped, driven with the other sign, flipped.

    Parameters
    ----------
    control, target
        The transmons.
    drive
        What the control channel plays.
    rotary
        What the target's own channel plays at the same time; None for nothing.
    control_phase_rad, target_phase_rad
        Virtual Z of each transmon after the gate.

    Examples
    --------
    >>> from devices.quantum.waveforms import GaussianSquare
    >>> drive = GaussianSquare(duration_samples=368, sigma_samples=64, width_samples=112, amplitude=0.5)
    >>> CrossResonance(control=0, target=1, drive=drive).rotary is None
    True
    """

    control: int = Field(ge=0)
    target: int = Field(ge=0)
    drive: SerializeAsAny[Waveform]
    rotary: SerializeAsAny[Waveform] | None = None
    control_phase_rad: float = 0.0
    target_phase_rad: float = 0.0


class GateSet(Design):
    """The gates of a chip.

    Parameters
    ----------
    frequencies_hertz
        Frequency that each transmon is driven at.
    x, sx
        Pulse of the half turn and of the quarter turn about x of each transmon; empty where they were not calibrated.
    cross_resonance
        One for each directed pair that has one.

    Examples
    --------
    >>> GateSet(frequencies_hertz=(5.2e9,)).x
    ()
    """

    frequencies_hertz: tuple[float, ...]
    x: tuple[SerializeAsAny[Waveform], ...] = ()
    sx: tuple[SerializeAsAny[Waveform], ...] = ()
    cross_resonance: tuple[CrossResonance, ...] = ()
