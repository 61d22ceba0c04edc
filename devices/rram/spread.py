"""How wide a conductance scatters: standard deviations as functions of the conductance, the parts that cells are composed of."""

from abc import abstractmethod
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from devices.design import Design, DesignError
from devices.rram.interpolation import interpolate, must_rise

MICROSIEMENS = 1e-6


class SpreadLaw(Design):
    """Extension point: the standard deviation of a conductance as a function of the conductance.

    Examples
    --------
    >>> import torch
    >>> class Halved(SpreadLaw):
    ...     def sigma(self, conductance):
    ...         return conductance / 2
    >>> Halved().sigma(torch.tensor([4.0]))
    tensor([2.])
    """

    @abstractmethod
    def sigma(self, conductance: Tensor) -> Tensor:
        """Return the standard deviation, siemens, for conductances in siemens of any shape."""


class ConstantSpread(SpreadLaw):
    """The same standard deviation at every conductance.

    Parameters
    ----------
    sigma_siemens
        The standard deviation.

    Examples
    --------
    >>> import torch
    >>> round(float(ConstantSpread(sigma_siemens="2 uS").sigma(torch.tensor(2e-5))) * 1e6, 6)
    2.0
    """

    sigma_siemens: float = Field(ge=0)

    def sigma(self, conductance: Tensor) -> Tensor:
        """Return the standard deviation, siemens, of the conductances' shape."""
        return torch.full_like(conductance, self.sigma_siemens)


class ProportionalSpread(SpreadLaw):
    """A standard deviation that is a fixed share of the conductance.

    Parameters
    ----------
    fraction
        Standard deviation over conductance.

    Examples
    --------
    >>> import torch
    >>> ProportionalSpread(fraction=0.5).sigma(torch.tensor([4.0, 8.0]))
    tensor([2., 4.])
    """

    fraction: float = Field(ge=0)

    def sigma(self, conductance: Tensor) -> Tensor:
        """Return the standard deviation, siemens, of the conductances' shape."""
        return self.fraction * conductance


class TabulatedSpread(SpreadLaw):
    """Standard deviations measured at some conductances; linear between them, and beyond them as at the nearest one.

    Parameters
    ----------
    at_siemens
        The conductances, rising; at least two.
    sigma_siemens
        The standard deviation at each of them.

    Examples
    --------
    >>> import torch
    >>> law = TabulatedSpread(at_siemens=("10 uS", "20 uS"), sigma_siemens=("1 uS", "3 uS"))
    >>> [round(1e6 * sigma, 3) for sigma in law.sigma(torch.tensor([5e-6, 15e-6, 30e-6])).tolist()]
    [1.0, 2.0, 3.0]
    """

    at_siemens: tuple[float, ...] = Field(min_length=2)
    sigma_siemens: tuple[float, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _is_a_table(self) -> Self:
        must_rise("at_siemens", self.at_siemens)
        if len(self.sigma_siemens) != len(self.at_siemens):
            raise ValueError(
                f"`sigma_siemens` must have one number for each of the {len(self.at_siemens)} in `at_siemens`, "
                f"but got {len(self.sigma_siemens)}; make them as long"
            )
        if min(self.sigma_siemens) < 0:
            raise ValueError(f"`sigma_siemens` must be at least 0, but got {min(self.sigma_siemens)}; give standard deviations")
        return self

    def sigma(self, conductance: Tensor) -> Tensor:
        """Return the standard deviation, siemens, of the conductances' shape."""
        return interpolate(conductance, self.at_siemens, self.sigma_siemens)


class PolynomialSpread(SpreadLaw):
    """A standard deviation that is a polynomial of the conductance, as fits of measured arrays are usually given.

    Parameters
    ----------
    coefficients_microsiemens
        c_0, c_1, ... of sigma = sum_k c_k (G / reference)^k, each in microsiemens.
    reference_siemens
        What the conductance is divided by: one microsiemens, or the largest conductance of the fit.

    Examples
    --------
    >>> import torch
    >>> law = PolynomialSpread(coefficients_microsiemens=(1.0, 2.0), reference_siemens="40 uS")
    >>> round(float(law.sigma(torch.tensor(20e-6))) * 1e6, 6)
    2.0
    """

    coefficients_microsiemens: tuple[float, ...] = Field(min_length=1)
    reference_siemens: float = Field(default=MICROSIEMENS, gt=0)

    def sigma(self, conductance: Tensor) -> Tensor:
        """Return the standard deviation, siemens, of the conductances' shape."""
        relative = conductance / self.reference_siemens
        sigma = torch.zeros_like(relative)
        for coefficient in reversed(self.coefficients_microsiemens):
            sigma = sigma * relative + coefficient
        return sigma * MICROSIEMENS


class SaturatingSpread(SpreadLaw):
    """A standard deviation of the cell's current that saturates: limit (1 - exp(-I / scale)).

    Parameters
    ----------
    limit_ampere
        Standard deviation of large currents.
    scale_ampere
        Current at which 63 % of the limit is reached.
    read_volt
        Voltage at which the currents were measured: I = G V.

    Examples
    --------
    >>> import torch
    >>> law = SaturatingSpread(limit_ampere="20 nA", scale_ampere="176 nA", read_volt=0.2)
    >>> round(float(law.sigma(torch.tensor(16e-6))) * 0.2 * 1e9, 3)
    20.0
    """

    limit_ampere: float = Field(ge=0)
    scale_ampere: float = Field(gt=0)
    read_volt: float = Field(gt=0)

    def sigma(self, conductance: Tensor) -> Tensor:
        """Return the standard deviation, siemens, of the conductances' shape."""
        return torch.expm1(conductance * (-self.read_volt / self.scale_ampere)) * (-self.limit_ampere / self.read_volt)


class PowerSpread(SpreadLaw):
    """A relative standard deviation that falls with a power of the conductance: sigma = G min(coefficient / r^exponent, limit).

    Parameters
    ----------
    coefficient
        Relative standard deviation at the reference.
    exponent
        Power of r = G / reference.
    limit
        Largest relative standard deviation.
    reference_siemens
        The reference.

    Examples
    --------
    >>> import torch
    >>> law = PowerSpread(coefficient=0.0088, exponent=0.65, limit=0.2, reference_siemens="25 uS")
    >>> [round(share, 4) for share in (law.sigma(torch.tensor([25e-6, 1e-9])) / torch.tensor([25e-6, 1e-9])).tolist()]
    [0.0088, 0.2]
    """

    coefficient: float = Field(ge=0)
    exponent: float = Field(ge=0)
    limit: float = Field(gt=0)
    reference_siemens: float = Field(gt=0)

    def sigma(self, conductance: Tensor) -> Tensor:
        """Return the standard deviation, siemens, of the conductances' shape."""
        relative = self.coefficient * (conductance / self.reference_siemens) ** -self.exponent
        return conductance * relative.clamp(max=self.limit)


class LogarithmicSpread(SpreadLaw):
    """A standard deviation that grows with the logarithm of the conductance: slope log10(G / reference), zero below the reference.

    Parameters
    ----------
    slope_siemens
        Growth in a decade of conductance.
    reference_siemens
        Conductance at which the law starts from zero.

    Examples
    --------
    >>> import torch
    >>> law = LogarithmicSpread(slope_siemens="0.0277 uS", reference_siemens="1 uS")
    >>> round(float(law.sigma(torch.tensor(1e-5))) * 1e6, 4)
    0.0277
    """

    slope_siemens: float = Field(ge=0)
    reference_siemens: float = Field(gt=0)

    def sigma(self, conductance: Tensor) -> Tensor:
        """Return the standard deviation, siemens, of the conductances' shape."""
        return self.slope_siemens * torch.log10((conductance / self.reference_siemens).clamp(min=1.0))


class SpreadToBeGiven(SpreadLaw):
    """A spread that exists but that its source leaves to the user: using it is an error that says what to give.

    Parameters
    ----------
    what
        What must be given.

    Examples
    --------
    >>> import torch
    >>> SpreadToBeGiven(what="a table of your own cells").sigma(torch.tensor(1e-5))
    Traceback (most recent call last):
    devices.design.DesignError: SpreadToBeGiven: the cell's spread must be given before use: a table of your own cells
    """

    what: str = Field(min_length=1)

    def sigma(self, conductance: Tensor) -> Tensor:
        """Raise a `DesignError` that says what must be given."""
        raise DesignError(f"{type(self).__name__}: the cell's spread must be given before use: {self.what}")
