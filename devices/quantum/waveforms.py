"""Envelopes of control pulses: what one sample of a channel is, from 0 to 1 in magnitude."""

import math
from abc import abstractmethod
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, model_validator
from torch import Tensor

from devices.design import Design, DesignError

Number = float | Tensor
"""A number, or a tensor of one for each pulse of a batch, which gradients flow back to."""

ROUNDING = 1e-9
"""Magnitude by which an envelope may exceed 1: rounding of a product of two numbers that are 1."""
SINGLE_ROUNDING = 2e-7
"""The same in single precision."""
SMALLEST_SIGMA, LARGEST_SIGMA = 1e-6, 1e12
"""Standard deviations, samples: beyond them a Gaussian is a single point or a parabola, and its numbers leave their range."""


def gaussian_envelope(duration: int, sigma: Number) -> Tensor:
    """Return a Gaussian about the middle of the pulse, lifted and scaled so that it is 0 one sample outside and 1 at the middle.

    Sample n is the value at time n + 1/2, as in the pulse libraries of qiskit.

    Parameters
    ----------
    duration
        Samples.
    sigma
        Standard deviation in samples; a number or a tensor of shape ``(...)``.

    Returns
    -------
    Tensor
        ``(..., duration)`` float64.

    Examples
    --------
    >>> gaussian_envelope(5, 1.0)[2].item()
    1.0
    """
    times = torch.arange(duration, dtype=torch.float64) + 0.5 - duration / 2
    return _lifted(times, _last(sigma), duration / 2 + 1)


def flat_top_envelope(duration: int, sigma: Number, width: Number) -> Tensor:
    """Return a flat top of `width` samples between the halves of a lifted Gaussian.

    Parameters
    ----------
    duration
        Samples.
    sigma, width
        Standard deviation of the edges and length of the top, in samples; numbers or tensors of shape ``(...)``.

    Returns
    -------
    Tensor
        ``(..., duration)`` float64.

    Examples
    --------
    >>> flat_top_envelope(8, 1.0, 4.0)[2:6].tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    times = torch.arange(duration, dtype=torch.float64) + 0.5 - duration / 2
    half = _last(width) / 2
    outside = torch.clamp(times.abs() - half, min=0.0)
    return _lifted(outside, _last(sigma), duration / 2 + 1 - half)


def drag_envelope(duration: int, sigma: Number, beta: Number) -> Tensor:
    """Return a lifted Gaussian plus i beta times its derivative by the sample.

    Parameters
    ----------
    duration
        Samples.
    sigma
        Standard deviation in samples; a number or a tensor of shape ``(...)``.
    beta
        Correction in samples. It scales the lifted Gaussian by -t / sigma^2, as qiskit's pulses do, which is less than the derivative near
        the ends: for sigma of a quarter of the duration the phase error of a transmon of anharmonicity alpha (rad/s) goes at about
        1.5 / (2 alpha dt) instead of 1 / (2 alpha dt), for a drive ``Omega / 2 (s a + s* a^dagger)``.

    Returns
    -------
    Tensor
        ``(..., duration)`` complex128.

    References
    ----------
    F. Motzoi, J. M. Gambetta, P. Rebentrost, F. K. Wilhelm, Phys. Rev. Lett. 103, 110501 (2009).

    Examples
    --------
    >>> drag_envelope(4, 1.0, 0.0).imag.abs().max().item()
    0.0
    """
    times = torch.arange(duration, dtype=torch.float64) + 0.5 - duration / 2
    envelope = gaussian_envelope(duration, sigma)
    return torch.complex(envelope, -_last(beta) * times / _last(sigma) ** 2 * envelope)


def _last(number: Number) -> Any:
    return number.unsqueeze(-1) if isinstance(number, Tensor) else number


def _lifted(times: Tensor, sigma: Any, zero: Any) -> Tensor:
    # exp(x) - 1 throughout: for a wide Gaussian what is lifted is a small difference of numbers near 1.
    exponent = -0.5 * (zero / sigma) ** 2
    floor = torch.expm1(exponent) if isinstance(exponent, Tensor) else math.expm1(exponent)
    lifted: Tensor = (torch.expm1(-0.5 * (times / sigma) ** 2) - floor) / -floor
    return lifted


class Waveform(Design):
    """A pulse of a whole number of samples: complex numbers of magnitude up to 1.

    A subclass gives `envelope`; the samples are it times ``amplitude * exp(i angle_rad)``.

    Parameters
    ----------
    duration_samples
        Samples.
    amplitude
        Factor of the envelope, -1 to 1.
    angle_rad
        Phase of the pulse against the channel's frame.
    """

    duration_samples: int = Field(gt=0)
    amplitude: float = Field(default=1.0, ge=-1, le=1)
    angle_rad: float = 0.0

    @abstractmethod
    def envelope(self) -> Tensor:
        """Return the pulse at amplitude 1 and phase 0: ``(duration_samples,)``, float64 or complex128."""

    def samples(self) -> npt.NDArray[np.complex128]:
        """Return the samples: ``(duration_samples,)`` complex128."""
        factor = self.amplitude * complex(math.cos(self.angle_rad), math.sin(self.angle_rad))
        return np.asarray(self.envelope().numpy() * factor, np.complex128)

    @model_validator(mode="after")
    def _magnitude_is_at_most_one(self) -> Self:
        largest = float(np.abs(self.samples()).max())
        if largest > 1 + ROUNDING:
            raise ValueError(f"`amplitude` must keep every sample at a magnitude of at most 1, but one has {largest:.4g}; lower it")
        return self


class Constant(Waveform):
    """A rectangle.

    Examples
    --------
    >>> Constant(duration_samples=2, amplitude=0.5).samples().tolist()
    [(0.5+0j), (0.5+0j)]
    """

    def envelope(self) -> Tensor:
        """Return ones."""
        return torch.ones(self.duration_samples, dtype=torch.float64)


class Gaussian(Waveform):
    """A lifted Gaussian; see `gaussian_envelope`.

    Parameters
    ----------
    sigma_samples
        Standard deviation.

    Examples
    --------
    >>> round(float(Gaussian(duration_samples=160, sigma_samples=40).samples().real.sum()), 3)
    86.207
    """

    sigma_samples: float = Field(ge=SMALLEST_SIGMA, le=LARGEST_SIGMA)

    def envelope(self) -> Tensor:
        """Return the Gaussian."""
        return gaussian_envelope(self.duration_samples, self.sigma_samples)


class GaussianSquare(Waveform):
    """A flat top with Gaussian edges; see `flat_top_envelope`.

    Parameters
    ----------
    sigma_samples
        Standard deviation of the edges.
    width_samples
        Length of the top, at most the duration.

    Examples
    --------
    >>> float(GaussianSquare(duration_samples=368, sigma_samples=64, width_samples=112, amplitude=0.729).samples()[184].real)
    0.729
    """

    sigma_samples: float = Field(ge=SMALLEST_SIGMA, le=LARGEST_SIGMA)
    width_samples: float = Field(ge=0)

    @model_validator(mode="after")
    def _top_fits(self) -> Self:
        if self.width_samples > self.duration_samples:
            raise ValueError(
                f"`width_samples` must be at most `duration_samples`, but got {self.width_samples} and {self.duration_samples}; shorten it"
            )
        return self

    def envelope(self) -> Tensor:
        """Return the flat top."""
        return flat_top_envelope(self.duration_samples, self.sigma_samples, self.width_samples)


class Drag(Waveform):
    """A lifted Gaussian with its derivative in the other quadrature; see `drag_envelope`.

    Parameters
    ----------
    sigma_samples
        Standard deviation.
    beta_samples
        Factor of the derivative.

    Examples
    --------
    >>> bool(Drag(duration_samples=160, sigma_samples=40, beta_samples=-1.12, amplitude=0.168).samples()[0].imag < 0)
    True
    """

    sigma_samples: float = Field(ge=SMALLEST_SIGMA, le=LARGEST_SIGMA)
    beta_samples: float

    def envelope(self) -> Tensor:
        """Return the Gaussian and its derivative."""
        return drag_envelope(self.duration_samples, self.sigma_samples, self.beta_samples)


class Sampled(Waveform):
    """A pulse given sample by sample.

    Parameters
    ----------
    real, imaginary
        Parts of the samples at amplitude 1; no imaginary part where it is left out.

    Examples
    --------
    >>> Sampled.of([0.5, 0.5j]).samples().tolist()
    [(0.5+0j), 0.5j]
    """

    duration_samples: int = Field(gt=0)
    real: tuple[float, ...]
    imaginary: tuple[float, ...] = ()

    @classmethod
    def of(cls, samples: Any) -> "Sampled":
        """Make a pulse of an array of complex numbers, one for each sample."""
        if isinstance(samples, str):
            raise DesignError(f"Sampled: `samples` must be numbers, but got {samples!r}; give an array of complex numbers")
        given = samples.detach().resolve_conj().cpu().numpy() if isinstance(samples, Tensor) else np.asarray(samples)
        if given.ndim != 1 or given.dtype.kind not in "biufc":
            raise DesignError(
                f"Sampled: `samples` must be one row of numbers, but got {given.dtype} of shape {given.shape}; take one pulse"
            )
        values = given.astype(np.complex128)
        if given.dtype in (np.float32, np.complex64):
            # In single precision a magnitude of 1 may lie above it by rounding.
            values /= np.where(np.abs(np.abs(values) - 1) < SINGLE_ROUNDING, np.abs(values), 1.0)
        imaginary = tuple(values.imag.tolist()) if bool(np.any(values.imag)) else ()
        return cls(duration_samples=len(values), real=tuple(values.real.tolist()), imaginary=imaginary)

    @model_validator(mode="before")
    @classmethod
    def _count(cls, values: Any) -> Any:
        if isinstance(values, dict) and "duration_samples" not in values and hasattr(values.get("real"), "__len__"):
            return {**values, "duration_samples": len(values["real"])}
        return values

    @model_validator(mode="after")
    def _lengths_agree(self) -> Self:
        if len(self.real) != self.duration_samples or len(self.imaginary) not in (0, self.duration_samples):
            raise ValueError(
                f"`real` and `imaginary` must have `duration_samples` numbers, but got {len(self.real)}, {len(self.imaginary)} and "
                f"{self.duration_samples}; give one for each sample"
            )
        return self

    def envelope(self) -> Tensor:
        """Return the numbers given."""
        real = torch.tensor(self.real, dtype=torch.float64)
        return torch.complex(real, torch.tensor(self.imaginary, dtype=torch.float64)) if self.imaginary else real
