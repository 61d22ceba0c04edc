"""Write-verify of resistive cells: which loop writes a cell and reads it back, and what it takes and leaves at each target."""

from abc import abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from devices.base import ResistiveCell
from devices.design import Design
from devices.rram.interpolation import interpolate
from kernels.cells import Verified, redraw, write_verify
from kernels.random import Key

_LEVELS, _DRAWS = 41, 2048


class Verification(Design):
    """Extension point: a loop that writes cells and reads them back until they are right.

    Its numbers are in units of a cell's full range, g_max - g_min.

    Parameters
    ----------
    max_pulses
        Pulses after which a cell is given up.
    tolerance
        Error that is accepted.

    Examples
    --------
    >>> class Exact(Verification):
    ...     def loop(self, target, start, key):
    ...         return Verified(target, torch.ones_like(target, dtype=torch.int32))
    >>> Exact().max_pulses
    1000
    """

    max_pulses: int = Field(default=1000, ge=1, le=2**20)
    tolerance: float = Field(default=0.06, gt=0)

    @abstractmethod
    def loop(self, target: Tensor, start: Tensor, key: Key) -> Verified:
        """Return what the cells reach and their pulses; `target` and `start`, where programming left them, are shares of the range."""

    def apply(self, target: Tensor, reached: Tensor, cell: ResistiveCell, key: Key) -> Verified:
        """Verify cells.

        Parameters
        ----------
        target
            Targets, siemens, any shape.
        reached
            Conductances that programming once left, siemens, of that shape.
        cell
            Whose range g_min to g_max the loop works in.
        key
            Stream of the pulses.

        Returns
        -------
        Verified
            Conductances, siemens, at least 0, and pulses.
        """
        span = cell.g_max_siemens - cell.g_min_siemens
        values, pulses = self.loop((target - cell.g_min_siemens) / span, (reached - cell.g_min_siemens) / span, key)
        return Verified((cell.g_min_siemens + span * values).clamp_(min=0.0), pulses)


class PulseVerification(Verification):
    """Incremental pulses: each moves a cell by a step towards its target, with a Gaussian error.

    Parameters
    ----------
    step, pulse_sigma
        Step of a pulse and its standard deviation, in units of the full range.
    start
        ``erased``: a cell is set to g_min first, and its target is reached from below: the error that is left is not centered, but has a
        mean of -0.019 of the range at the defaults and uniform targets, and targets below the tolerance stay at g_min. What all weights
        have in common, a network feels more than what scatters. ``programmed``: a cell goes on from where programming left it; the error
        is centered, and the pulses are fewer.

    References
    ----------
    The numbers reproduce what is said of yan2022swim in the bibliography: about 10 cycles a weight and a residual of 0.03 for uniform
    targets.

    Examples
    --------
    >>> targets = torch.linspace(0, 1, 100_001)
    >>> reached, pulses = PulseVerification().loop(targets, torch.zeros_like(targets), Key.of(seed=0))
    >>> round(float(pulses.float().mean()), 1), round(float((reached - targets).std()), 2), round(float((reached - targets).mean()), 3)
    (9.7, 0.03, -0.019)
    """

    step: float = Field(default=0.05, gt=0)
    pulse_sigma: float = Field(default=0.05, ge=0)
    start: Literal["erased", "programmed"] = "erased"

    def loop(self, target: Tensor, start: Tensor, key: Key) -> Verified:
        """Return shares of the range that are reached, and pulses."""
        begin = start if self.start == "programmed" else 0.0
        return write_verify(target.contiguous(), self.step, self.pulse_sigma, self.tolerance, key, begin, self.max_pulses)


class RedrawVerification(Verification):
    """Independent writes: each draws the conductance anew around the target until one falls within the tolerance.

    Parameters
    ----------
    sigma
        Standard deviation of one write, in units of the full range.

    Examples
    --------
    >>> targets = torch.full((100_000,), 0.5)
    >>> reached, writes = RedrawVerification().loop(targets, targets, Key.of(seed=0))
    >>> round(float(writes.float().mean()), 1), round(float((reached - targets).std()), 3)
    (2.2, 0.034)
    """

    sigma: float = Field(default=0.1, ge=0)

    def loop(self, target: Tensor, start: Tensor, key: Key) -> Verified:
        """Return shares of the range that are reached, and writes."""
        return redraw(target.contiguous(), self.sigma, self.tolerance, key, self.max_pulses)


@dataclass(frozen=True)
class VerificationProfile:
    """What programming leaves of a cell's error and what verification makes of it, over the range of targets.

    Attributes
    ----------
    levels_siemens
        Targets, from g_min to g_max.
    before, after
        Mean square error at each target, siemens squared, of programming once and of write-verify.
    pulses
        Mean pulses of write-verify at each target.
    """

    levels_siemens: tuple[float, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]
    pulses: tuple[float, ...]

    def gain(self, target: Tensor) -> Tensor:
        """Return how much of the mean square error verification takes away, siemens squared, for targets in siemens."""
        return interpolate(target, self.levels_siemens, tuple(b - a for b, a in zip(self.before, self.after, strict=True)))

    def expected_pulses(self, target: Tensor) -> Tensor:
        """Return the mean pulses of targets in siemens."""
        return interpolate(target, self.levels_siemens, self.pulses)


@lru_cache(maxsize=64)
def verification_profile(cell: ResistiveCell, verification: Verification) -> VerificationProfile:
    """Measure a cell and a loop at 41 targets over the range, by 2048 draws at each.

    Parameters
    ----------
    cell
        Any resistive cell.
    verification
        Any loop.

    Returns
    -------
    VerificationProfile
        The same at each call.

    Examples
    --------
    >>> from devices.rram.polynomial import PolynomialCell
    >>> cell = PolynomialCell(g_min_siemens=1e-5, g_max_siemens=3e-5, sigma_coefficients_microsiemens=(2.0,))
    >>> profile = verification_profile(cell, PulseVerification())
    >>> round(profile.before[20] ** 0.5 * 1e6, 1), round(profile.after[20] ** 0.5 * 1e6, 1), round(profile.pulses[20])
    (2.0, 0.7, 10)
    """
    levels = torch.linspace(cell.g_min_siemens, cell.g_max_siemens, _LEVELS)
    targets = levels[:, None].repeat(1, _DRAWS)
    key = Key.of(seed=0, purpose="verification profile")
    reached = cell.program(targets, key.fold("program")).conductance
    verified = verification.apply(targets, reached, cell, key.fold("verify"))

    def mean_square(values: Tensor) -> tuple[float, ...]:
        return tuple((values - targets).double().square().mean(1).tolist())

    pulses = tuple(verified.pulses.double().mean(1).tolist())
    return VerificationProfile(tuple(levels.double().tolist()), mean_square(reached), mean_square(verified.values), pulses)
