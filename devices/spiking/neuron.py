"""The conventions of an integrate-and-fire neuron, on which simulators and chips disagree."""

from typing import Literal

from pydantic import Field

from devices.design import Design


class SpikingNeuron(Design):
    """An integrate-and-fire neuron: ``v = decay v + current``, a spike where v reaches the threshold, then a reset.

    Parameters
    ----------
    comparator
        ``">="`` or ``">"``. SNN calibration uses the first; NIR, Lava, TET and snnTorch use the second.
    reset
        ``"soft"`` takes the threshold off, ``"hard"`` sets the membrane to zero.
    reset_moment
        ``"same_step"``, or ``"next_step"``: a soft reset then comes after the next step's decay, as snnTorch does by default.
    decay
        Factor of the membrane at each step; 1 for a neuron that does not leak, 0 for one that forgets at once.

    Examples
    --------
    >>> SpikingNeuron(comparator=">", decay=0.5).reset
    'soft'
    """

    comparator: Literal[">=", ">"] = ">="
    reset: Literal["soft", "hard"] = "soft"
    reset_moment: Literal["same_step", "next_step"] = "same_step"
    decay: float = Field(default=1.0, ge=0, le=1)
