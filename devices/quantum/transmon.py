"""What a chip of transmons is made of: the transmons, their couplings, and the electronics that drive them."""

from typing import Self

from pydantic import Field, model_validator

from devices.design import Design

Probability = float


class Transmon(Design):
    """An anharmonic oscillator: ``w n + alpha / 2 n (n - 1)``.

    Parameters
    ----------
    frequency_hertz
        From the ground to the first excited state.
    anharmonicity_hertz
        What the step to the second excited state differs by; negative for a transmon. Not used with two levels.
    drive_hertz
        Rabi frequency between the lowest two states under a resonant drive of amplitude 1.
    t1_seconds
        Relaxation time; None where the transmon does not relax.
    t2_seconds
        Coherence time, at most twice `t1_seconds`; None where only relaxation limits it.
    read_0_given_1, read_1_given_0
        Probability that a 1 is read as 0, and a 0 as 1. Higher states are read as a 1 is.
    frequency_drift_hertz
        Standard deviation of the frequency from one trial to the next.

    Examples
    --------
    >>> Transmon(frequency_hertz="5.2 GHz", anharmonicity_hertz="-340 MHz", drive_hertz="155 MHz").t1_seconds is None
    True
    """

    frequency_hertz: float = Field(gt=0)
    anharmonicity_hertz: float
    drive_hertz: float = Field(gt=0)
    t1_seconds: float | None = Field(default=None, gt=0)
    t2_seconds: float | None = Field(default=None, gt=0)
    read_0_given_1: float = Field(default=0.0, ge=0, le=1)
    read_1_given_0: float = Field(default=0.0, ge=0, le=1)
    frequency_drift_hertz: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _coherence_is_possible(self) -> Self:
        if self.t1_seconds is not None and self.t2_seconds is not None and self.t2_seconds > 2 * self.t1_seconds:
            raise ValueError(
                f"`t2_seconds` must be at most twice `t1_seconds`, but got {self.t2_seconds:g} and {self.t1_seconds:g}; "
                "check which is which"
            )
        return self

    @property
    def relaxation_hertz(self) -> float:
        """Rate of relaxation, 1/s."""
        return 0.0 if self.t1_seconds is None else 1.0 / self.t1_seconds

    @property
    def dephasing_hertz(self) -> float:
        """Rate of pure dephasing, ``1 / T2 - 1 / (2 T1)``, 1/s."""
        return 0.0 if self.t2_seconds is None else max(0.0, 1.0 / self.t2_seconds - 0.5 * self.relaxation_hertz)


class Coupling(Design):
    """An exchange ``J (a^dagger b + a b^dagger)`` between two transmons, and what else shifts their joint energy.

    Parameters
    ----------
    transmons
        The two.
    exchange_hertz
        J over 2 pi.
    zz_hertz
        Shift ``n_a n_b`` beyond the one that the exchange makes by itself through the higher levels.

    Examples
    --------
    >>> Coupling(transmons=(0, 1), exchange_hertz="1.955 MHz").zz_hertz
    0.0
    """

    transmons: tuple[int, int]
    exchange_hertz: float
    zz_hertz: float = 0.0

    @model_validator(mode="after")
    def _two_different(self) -> Self:
        if min(self.transmons) < 0 or self.transmons[0] == self.transmons[1]:
            raise ValueError(f"`transmons` must be two different numbers from 0, but got {self.transmons}; name both ends")
        return self


class ControlChannel(Design):
    """A channel that drives one transmon in the frame of another: the cross-resonance drive ``u0``, ``u1``, ...

    Parameters
    ----------
    driven
        The transmon whose drive line it uses.
    frame_of
        The transmon whose frequency it has.

    Examples
    --------
    >>> ControlChannel(driven=0, frame_of=1).driven
    0
    """

    driven: int = Field(ge=0)
    frame_of: int = Field(ge=0)


class WaveformGenerator(Design):
    """The limits of the electronics between the samples of a schedule and a transmon.

    Parameters
    ----------
    bits
        Of each quadrature, sign included; None where samples are not rounded.
    bandwidth_hertz
        Frequency, from the carrier, at which a single-pole low pass is down by 3 dB; None where there is none. What it still gives after
        the last sample of a schedule, or after recordings start, is cut off: end pulses that shall ring down with a delay of a few times
        1 / (2 pi bandwidth).

    Examples
    --------
    >>> WaveformGenerator(bits=14).bandwidth_hertz is None
    True
    """

    bits: int | None = Field(default=None, ge=2, le=24)
    bandwidth_hertz: float | None = Field(default=None, gt=0)
