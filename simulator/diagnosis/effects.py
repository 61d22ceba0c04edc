"""The effects that a crossbar's design has, and the same design with only some of them."""

from collections.abc import Collection

import torch
from pydantic import SerializeAsAny
from torch import Tensor

from devices.base import ProgrammedCells, ResistiveCell
from devices.rram import RRAMCrossbar
from kernels.random import Key

PROGRAMMING, DRIFT, READ_NOISE, WEIGHT_LEVELS = "programming", "drift", "read_noise", "weight_levels"
OPTIONS = ("stuck", "wires", "temperature", "current_voltage", "dac", "adc")
"""Effects that are fields of `RRAMCrossbar` and off where these are None."""

EFFECTS = (PROGRAMMING, DRIFT, READ_NOISE, WEIGHT_LEVELS, *OPTIONS)
"""Effects in the order of tables and figures.

``programming`` is the difference between targets and what programming reaches: off, every cell takes its target exactly. ``drift`` is
whatever moves a conductance afterwards, noise that persists from read to read included: off, conductances stay as programmed; where
only programming is off, the cell's own law drifts from the exact target with the exponents that it drew (a cell of measured quantiles
has no such law: after its first measured time its drift is the measured distribution, programming errors included). ``read_noise`` is
what is drawn anew at every read. ``weight_levels`` is the rounding of weights to codes: off, the remainder is added to the cells of the
lowest slice, so that slices, conductance unit and converter ranges stay the same. The others are fields of the design.
"""

RANDOM = frozenset((PROGRAMMING, DRIFT, READ_NOISE, "stuck"))
"""Effects that differ from chip to chip."""

_CELLS = 4096


class PartialCell(ResistiveCell):
    """A cell with some of another cell's effects; its draws are the other's own, from the same keys.

    Parameters
    ----------
    cell
        The cell whose effects these are.
    programs, drifts, reads
        Whether programming errors, drift and read noise are those of `cell`, or absent.

    Examples
    --------
    >>> from devices import PolynomialCell
    >>> cell = PolynomialCell(g_min_siemens=0.0, g_max_siemens=4e-5, sigma_coefficients_microsiemens=(1.0,), read_noise_fraction=0.1)
    >>> exact = PartialCell(g_min_siemens=0.0, g_max_siemens=4e-5, cell=cell, programs=False, drifts=True, reads=True)
    >>> target = torch.tensor([1e-5])
    >>> bool(exact.program(target, Key.of(seed=0)).conductance == target), bool(exact.read_sigma(target, 0.0) > 0)
    (True, True)
    """

    cell: SerializeAsAny[ResistiveCell]
    programs: bool
    drifts: bool
    reads: bool

    def program(self, target: Tensor, key: Key) -> ProgrammedCells:
        """Draw the conductances, siemens, and what drift needs."""
        if not (self.programs or self.drifts):
            return ProgrammedCells(target)
        programmed = self.cell.program(target, key)
        return programmed if self.programs else ProgrammedCells(target, programmed.memory)

    def read_sigma(self, conductance: Tensor, seconds: float) -> Tensor | None:
        """Return the standard deviation of one read, siemens, or None."""
        return self.cell.read_sigma(conductance, seconds) if self.reads else None

    def drift(self, programmed: ProgrammedCells, seconds: float, key: Key) -> Tensor:
        """Return the conductances, siemens, `seconds` after programming."""
        return self.cell.drift(programmed, seconds, key) if self.drifts else programmed.conductance


def effects_of(design: RRAMCrossbar, seconds: float = 0.0) -> tuple[str, ...]:
    """Return the effects that a design has at an age, in the order of `EFFECTS`.

    What a cell does is found by trying it: any `ResistiveCell` will do.

    Parameters
    ----------
    design
        The crossbar.
    seconds
        Time since programming, in seconds: most cells drift only with time.

    Examples
    --------
    >>> effects_of(RRAMCrossbar.preset("wan_nature_2022", mapping={"weight_bits": 4}))
    ('programming', 'read_noise', 'weight_levels', 'dac', 'adc')
    >>> effects_of(RRAMCrossbar.preset("wan_nature_2022").ideal())
    ()
    """
    cell, key = design.cell, Key.of(seed=0, purpose="diagnosis")
    targets = torch.linspace(cell.g_min_siemens, cell.g_max_siemens, _CELLS)
    programmed = cell.program(targets, key)
    sigma = cell.read_sigma(programmed.conductance, seconds)
    has = {
        PROGRAMMING: not torch.equal(programmed.conductance, targets),
        DRIFT: not torch.equal(cell.drift(programmed, seconds, key), programmed.conductance),
        READ_NOISE: sigma is not None and bool((sigma > 0).any()),
        WEIGHT_LEVELS: design.mapping.weight_bits is not None and design.mapping.rounded,
    }
    return tuple(name for name in EFFECTS if (has[name] if name in has else getattr(design, name) is not None))


def with_effects(design: RRAMCrossbar, kept: Collection[str]) -> RRAMCrossbar:
    """Return the same crossbar with no effects but those given: same cells' draws, array, slices and converter ranges.

    Parameters
    ----------
    design
        The crossbar.
    kept
        Names from `EFFECTS`; one that the design does not have is allowed.

    Raises
    ------
    ValueError
        On another name.

    Examples
    --------
    >>> design = with_effects(RRAMCrossbar.preset("wan_nature_2022"), {"adc"})
    >>> effects_of(design)
    ('adc',)
    """
    unknown = sorted(set(kept) - set(EFFECTS))
    if unknown:
        raise ValueError(f"Argument `kept` must hold names of effects ({', '.join(EFFECTS)}), but got {unknown[0]!r}")
    changes: dict[str, object] = {name: None for name in OPTIONS if name not in kept}
    if not {PROGRAMMING, DRIFT, READ_NOISE} <= set(kept):
        limits = {"g_min_siemens": design.cell.g_min_siemens, "g_max_siemens": design.cell.g_max_siemens}
        flags = {"programs": PROGRAMMING in kept, "drifts": DRIFT in kept, "reads": READ_NOISE in kept}
        changes["cell"] = PartialCell(cell=design.cell, **limits, **flags)
    if WEIGHT_LEVELS not in kept and design.mapping.weight_bits is not None:
        changes["mapping"] = design.mapping.replace(rounded=False)
    return design.replace(**changes) if changes else design
