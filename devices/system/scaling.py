"""Rules by which a constant of one technology node becomes one of another."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Final

from pydantic import Field

from devices.design import Design

NANOMETER: Final = 1e-9

ENERGY: Final = {
    180: (0.0, 24.64, -17.98),
    130: (7.171, -6.709, 2.904),
    90: (4.762, -4.781, 2.092),
    65: (3.755, -4.398, 1.975),
    45: (1.018, -0.3107, 0.1539),
    32: (0.8367, -0.4341, 0.1701),
    20: (0.373, -0.1582, 0.04104),
    16: (0.2958, -0.1241, 0.03024),
    14: (0.2363, -0.09675, 0.02239),
    10: (0.2068, -0.09311, 0.02375),
    7: (0.1776, -0.09097, 0.02447),
}
"""Energy factor a2 V^2 + a1 V + a0 by node in nm, V in volt; high-performance models from 45 nm on (Stillmaker and Baas 2017, Table 5)."""

DELAY: Final = {
    180: (0.0, 97.09, -356.7, 406.5),
    130: (-76.65, 334.9, -493.4, 275.8),
    90: (-60.34, 262.5, -384.2, 210.9),
    65: (-53.3, 230.4, -333.9, 178.6),
    45: (-501.6, 1567.0, -1619.0, 566.1),
    32: (-1047.0, 2982.0, -2797.0, 873.5),
    20: (0.0, 34.63, -66.37, 41.15),
    16: (0.0, 24.8, -47.52, 28.87),
    14: (-40.66, 109.2, -100.6, 35.92),
    10: (-34.95, 93.65, -85.99, 30.4),
    7: (-28.58, 76.6, -70.26, 24.69),
}
"""Delay factor a3 V^3 + a2 V^2 + a1 V + a0 by node in nm, of the same tables."""

POWER: Final = {
    180: (0.0, 101000.0, -79720.0),
    130: (27020.0, -15450.0, 5630.0),
    90: (17320.0, -11230.0, 4328.0),
    65: (12890.0, -10510.0, 4362.0),
    45: (5462.0, -1760.0, 522.4),
    32: (4001.0, -1733.0, 533.6),
    20: (2922.0, -1286.0, 299.9),
    16: (2133.0, -882.6, 197.7),
    14: (1675.0, -711.0, 159.0),
    10: (1456.0, -621.6, 143.8),
    7: (1179.0, -515.7, 123.4),
}
"""Power factor a2 V^2 + a1 V + a0 by node in nm, of the same tables."""

AREA: Final = {180: 1.0, 130: 2.9, 90: 6.6, 65: 12.0, 45: 19.0, 32: 40.0, 20: 88.0, 16: 99.0, 14: 110.0, 10: 180.0, 7: 320.0}
"""Circuits in the area of one at 180 nm, by node in nm (Stillmaker and Baas 2017, table of area factors)."""


@dataclass(frozen=True)
class NodeFactors:
    """What energy, delay, area and power are multiplied by from one node to another."""

    energy: float
    delay: float
    area: float
    power: float


class ScalingRule(Design):
    """Extension point: a rule with a name, from one technology node to another."""

    @abstractmethod
    def factors(self, start_m: float, end_m: float) -> NodeFactors:
        """Return the factors from a node of length `start_m` to one of `end_m`, meter."""


class AsGiven(ScalingRule):
    """No scaling: constants are compared as they were published, whatever their node.

    Examples
    --------
    >>> AsGiven().factors(130e-9, 45e-9).energy
    1.0
    """

    def factors(self, start_m: float, end_m: float) -> NodeFactors:
        """Return ones."""
        return NodeFactors(1.0, 1.0, 1.0, 1.0)


class ConstantField(ScalingRule):
    """Dennard's scaling (1974): with s the ratio of lengths, delay is times s, area and power s^2, and energy s^3.

    It needs the supply to fall with the length, which it has not done since about 2005: an optimistic bound on newer nodes.

    Examples
    --------
    >>> ConstantField().factors(90e-9, 45e-9)
    NodeFactors(energy=0.125, delay=0.5, area=0.25, power=0.25)
    """

    def factors(self, start_m: float, end_m: float) -> NodeFactors:
        """Return the powers of the ratio of lengths."""
        s = end_m / start_m
        return NodeFactors(s**3, s, s**2, s**2)


class NodeSupply(Design):
    """The supply that a node works at.

    Parameters
    ----------
    node_m
        The node.
    volt
        Its supply.
    """

    node_m: float = Field(gt=0)
    volt: float = Field(gt=0)


class PredictiveModel(ScalingRule):
    """Stillmaker and Baas (2017): polynomials in the supply that fit circuits simulated with predictive transistor models, 180 to 7 nm.

    Leakage has no fit of its own there: power at rest is scaled as power.

    Parameters
    ----------
    supplies
        Supply of each node that is scaled from or to; a fit holds from near threshold to somewhat above the nominal supply.

    Examples
    --------
    >>> rule = PredictiveModel(supplies=({"node_m": "65 nm", "volt": 1.3}, {"node_m": "32 nm", "volt": 0.9}))
    >>> round(rule.factors(65e-9, 32e-9).energy, 3)
    0.176
    """

    supplies: tuple[NodeSupply, ...]

    def factors(self, start_m: float, end_m: float) -> NodeFactors:
        """Return ratios of the fitted factors.

        Raises
        ------
        ValueError
            If a node has no fit or no supply.
        """
        (start, first), (end, second) = self._node(start_m), self._node(end_m)
        energy, delay, power = (_polynomial(table[end], second) / _polynomial(table[start], first) for table in (ENERGY, DELAY, POWER))
        return NodeFactors(energy, delay, AREA[start] / AREA[end], power)

    def _node(self, node_m: float) -> tuple[int, float]:
        node = round(node_m / NANOMETER)
        if node not in ENERGY:
            known = ", ".join(str(one) for one in ENERGY)
            raise ValueError(f"Technology node must be one of {known} nm to be scaled, but is {node_m / NANOMETER:g} nm; take another rule")
        for supply in self.supplies:
            if round(supply.node_m / NANOMETER) == node:
                return node, supply.volt
        raise ValueError(f"`supplies` must hold the supply of {node} nm, but does not; add {{'node_m': '{node} nm', 'volt': ...}}")


def _polynomial(coefficients: tuple[float, ...], volt: float) -> float:
    value = 0.0
    for coefficient in coefficients:
        value = value * volt + coefficient
    return value
