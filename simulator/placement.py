"""Which layer of a model lies on which hardware: by name, by type, by a function, or under a budget."""

import fnmatch
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Self

from pydantic import Field, SerializeAsAny, model_validator
from torch import nn

from devices.base import Hardware
from devices.catalog import presets
from devices.design import Design
from simulator.hardware import HardwareLayer
from simulator.lowering import lower
from simulator.weight_layers import NotMappedError, WeightLayer

FEW_NAMES = 8


class Auto(Design):
    """Let the compiler place layers under a budget.

    The rule is greedy. A layer takes the design that uses least of the budget (of equals, the first in `designs`); layers are placed
    by their multiply-accumulates per unit of budget, highest first (of equals, the first in the model); a layer that does not fit
    into what is left stays digital, and smaller ones after it are still tried. The coverage table says what a layer would have taken.

    Parameters
    ----------
    designs
        The hardware to choose from.
    budget_arrays
        Arrays of all layers together, of whatever size each design has them.
    budget_energy_j
        Energy of one call with the example inputs, joule. A term whose constant was not given counts as nothing, and a warning of the
        chip names it; a design none of whose terms are given cannot be chosen.
    budget_area_m2
        Area of all layers together, square meters, with the same rule for constants that were not given.

    Examples
    --------
    >>> from devices import RRAMCrossbar
    >>> Auto(designs=(RRAMCrossbar.preset("wan_nature_2022"),), budget_energy_j="20 nJ").budget
    2e-08
    """

    designs: tuple[SerializeAsAny[Hardware], ...] = Field(min_length=1)
    budget_arrays: int | None = Field(default=None, ge=1)
    budget_energy_j: float | None = Field(default=None, gt=0)
    budget_area_m2: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one_budget(self) -> Self:
        given = [name for name in ("budget_arrays", "budget_energy_j", "budget_area_m2") if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"one of `budget_arrays`, `budget_energy_j` and `budget_area_m2` must be given, but got {found}; give one")
        return self

    @property
    def quantity(self) -> str:
        """What the budget is of: ``arrays``, ``energy_j`` or ``area_m2``."""
        return next(name for name in ("arrays", "energy_j", "area_m2") if getattr(self, f"budget_{name}") is not None)

    @property
    def budget(self) -> float:
        """How much of it there is."""
        return float(getattr(self, f"budget_{self.quantity}"))


PlacementFunction = Callable[[str, WeightLayer], Design | None]
"""From a layer's qualified name and weights to the design that it shall lie on, or None to leave it digital."""

Placeable = Design | Mapping[str, Design] | Mapping[type[nn.Module], Design] | PlacementFunction
"""What `simulator.compile` takes for its `design`."""


@dataclass(frozen=True)
class Candidate:
    """Weights that can be placed.

    Attributes
    ----------
    weights
        The weights and their linear map.
    module
        The module that holds them, or None where functions of a custom module use them.
    kind
        Class of the layer as the user wrote it: that of the whole for the layers inside an LSTM or a multi-head attention.
    """

    weights: WeightLayer
    module: nn.Module | None
    kind: type[nn.Module]


@dataclass(frozen=True)
class Plan:
    """Where the layers of a model lie.

    Attributes
    ----------
    layers
        The layers on hardware, by name in the order of the model.
    reasons
        Why the others stay digital.
    warnings
        What a reader should know of the choice.
    """

    layers: dict[str, HardwareLayer]
    reasons: dict[str, str]
    warnings: list[str] = field(default_factory=list)


def place(
    design: Any,
    candidates: Mapping[str, Candidate],
    refusals: Mapping[str, str],
    seed: int,
    call: Callable[[], object] | None,
    products: Collection[str] = (),
) -> Plan:
    """Put the layers of a model onto hardware.

    Parameters
    ----------
    design
        A design for every layer that it can take, or who lies where: a mapping of name patterns or of layer types to designs, a
        function, or `Auto`. Where a layer was asked for by name, type or function, hardware that cannot run it is an error.
    candidates
        What can be placed, by name.
    refusals
        Why other layers with weights cannot be placed on any hardware.
    seed
        Seed of the chip.
    call
        Calls the model with its example inputs, in eval mode; None where there are none.
    products
        Names of products whose weights are made at run time: patterns may name them, too.

    Raises
    ------
    ValueError
        If a pattern or type matches nothing, a layer matches two, or its hardware cannot run it; or if `Auto` has no example inputs.

    Examples
    --------
    >>> from devices import RRAMCrossbar
    >>> from simulator.weight_layers import weight_layer
    >>> layer = nn.Linear(300, 10)
    >>> found = {"head": Candidate(weight_layer(layer), layer, nn.Linear)}
    >>> place({nn.Linear: RRAMCrossbar.preset("wan_nature_2022")}, found, {}, 0, None).layers["head"].placement.arrays
    2
    """
    if isinstance(design, Auto):
        from simulator.budget import place_under_budget  # which needs the classes of this file

        return place_under_budget(design, candidates, seed, call)
    if isinstance(design, Design):
        return _place_all(design, candidates, seed)
    if callable(design):
        chosen = _by_function(design, candidates)
        left = "the function given as `design` returned None"
    elif (
        isinstance(design, Mapping) and design and all(isinstance(part, Design) and not isinstance(part, Auto) for part in design.values())
    ):
        if all(isinstance(key, str) for key in design):
            chosen, left = _by_pattern(design, candidates, refusals, products), "no pattern of `design` names it"
        elif all(isinstance(key, type) and issubclass(key, nn.Module) for key in design):
            chosen, left = _by_type(design, candidates), "no type of `design` is its own"
        else:
            raise ValueError(f"Argument `design` must have only name patterns or only layer types for keys, but got {list(design)!r:.80}")
    else:
        raise ValueError(
            "Argument `design` must be a design, a mapping of name patterns or of layer types to designs, a function of name and layer, "
            f"or Auto(designs=..., budget_arrays=...), but got {design!r:.80}"
        )
    layers = {}
    for name, part in chosen.items():
        reason = why_not(part, candidates[name].weights, name, seed)
        if isinstance(reason, str):
            kind = candidates[name].kind.__name__
            nearest = nearest_hardware(part, candidates[name].weights, name, chosen.values())
            raise ValueError(
                f"Argument `design`: layer `{name}` ({kind}) must lie on hardware that can run it, but {type(part).__name__} cannot: "
                f"{reason}; {nearest}, or leave the layer out"
            )
        layers[name] = reason
    return Plan(layers, {name: left for name in candidates if name not in chosen})


def why_not(design: Design, layer: WeightLayer, name: str, seed: int) -> HardwareLayer | str:
    """Return a layer on a design, or the reason why it cannot lie there.

    Examples
    --------
    >>> from devices import DAC
    >>> from simulator.weight_layers import weight_layer
    >>> why_not(DAC(), weight_layer(nn.Linear(2, 2)), "0", 0)
    'layers cannot be lowered to a DAC'
    """
    if lower.dispatch(type(design)) is lower.dispatch(object):
        return f"layers cannot be lowered to a {type(design).__name__}"
    try:
        return lower(design, layer, name, seed)
    except NotMappedError as refusal:
        return str(refusal)


def nearest_hardware(design: Design, layer: WeightLayer, name: str, others: Iterable[Design] = ()) -> str:
    """Return words for the nearest hardware that can run a layer which `design` cannot.

    Nearest is another design of the same placement, then the preset whose class has most in common with the design's.

    Examples
    --------
    >>> from devices import DAC
    >>> from simulator.weight_layers import weight_layer
    >>> nearest_hardware(DAC(), weight_layer(nn.Linear(2, 2)), "0")[:24]
    'the nearest that can is '
    """
    for other in dict.fromkeys(others):
        if isinstance(why_not(other, layer, name, 0), HardwareLayer):
            return f"the nearest that can is the {type(other).__name__} of the same placement"
    known = [(info.name, Design.preset(info.name)) for info in presets()]
    family = set(type(design).__mro__)
    for preset_name, other in sorted(known, key=lambda one: (-len(family & set(type(one[1]).__mro__)), one[0])):
        if isinstance(other, Hardware) and isinstance(why_not(other, layer, name, 0), HardwareLayer):
            return f"the nearest that can is {type(other).__name__}.preset({preset_name!r})"
    return "no preset of any hardware can"


def _is_part(part: object) -> bool:
    return isinstance(part, Design) and not isinstance(part, Auto)


def _place_all(design: Design, candidates: Mapping[str, Candidate], seed: int) -> Plan:
    layers: dict[str, HardwareLayer] = {}
    reasons: dict[str, str] = {}
    for name, candidate in candidates.items():
        found = why_not(design, candidate.weights, name, seed)
        if isinstance(found, str):
            reasons[name] = found
        else:
            layers[name] = found
    if reasons and not layers:
        name, reason = next(iter(reasons.items()))
        nearest = nearest_hardware(design, candidates[name].weights, name)
        raise ValueError(
            f"Argument `model` must have at least one layer that {type(design).__name__} can take, but got none: layer `{name}`: {reason}; "
            f"{nearest}"
        )
    return Plan(layers, reasons)


def _by_function(function: PlacementFunction, candidates: Mapping[str, Candidate]) -> dict[str, Design]:
    chosen = {}
    for name, candidate in candidates.items():
        part = function(name, candidate.weights)
        if part is not None and not _is_part(part):
            raise ValueError(f"Argument `design`: the function must return a design or None, but returned {part!r:.80} for layer `{name}`")
        if part is not None:
            chosen[name] = part
    return chosen


def _by_pattern(
    design: Mapping[str, Design], candidates: Mapping[str, Candidate], refusals: Mapping[str, str], products: Collection[str]
) -> dict[str, Design]:
    claims: dict[str, list[tuple[str, Design]]] = {name: [] for name in candidates}
    for pattern, part in design.items():
        matched = [name for name in candidates if fnmatch.fnmatchcase(name, pattern)]
        if not matched and not any(fnmatch.fnmatchcase(name, pattern) for name in products):
            raise ValueError(f"Argument `design`: pattern {pattern!r} must match a layer, but {_instead(pattern, candidates, refusals)}")
        for name in matched:
            claims[name].append((repr(pattern), part))
    return _unique(claims, "pattern")


def _by_type(design: Mapping[type[nn.Module], Design], candidates: Mapping[str, Candidate]) -> dict[str, Design]:
    claims: dict[str, list[tuple[str, Design]]] = {name: [] for name in candidates}
    for kind, part in design.items():
        matched = [name for name, candidate in candidates.items() if issubclass(candidate.kind, kind)]
        if not matched:
            known = sorted({candidate.kind.__name__ for candidate in candidates.values()})
            raise ValueError(
                f"Argument `design`: type {kind.__name__} must be that of a layer with weights, but there are {', '.join(known) or 'none'}"
            )
        for name in matched:
            claims[name].append((kind.__name__, part))
    return _unique(claims, "type")


def _unique(claims: Mapping[str, list[tuple[str, Design]]], what: str) -> dict[str, Design]:
    for name, found in claims.items():
        if len(found) > 1:
            keys = " and ".join(key for key, _ in found)
            near = [f"`{other}`" for other in get_close_matches(name, claims, FEW_NAMES) if len(claims[other]) == 1]
            hint = f"; {', '.join(near[:3])} matches only one" if near else ""
            raise ValueError(f"Argument `design`: layer `{name}` must match one {what}, but matches {keys}{hint}")
    return {name: found[0][1] for name, found in claims.items() if found}


def _instead(pattern: str, candidates: Mapping[str, Candidate], refusals: Mapping[str, str]) -> str:
    """Return what a pattern that matches no layer matches or comes near to."""
    digital = [name for name in refusals if fnmatch.fnmatchcase(name, pattern)]
    if digital:
        return f"matches only `{digital[0]}`, which no hardware takes: {refusals[digital[0]] or 'it holds no matrix of weights'}"
    bare = pattern.strip("*.?")
    near = [name for name in candidates if bare and (bare in name or name in bare)]
    near = list(dict.fromkeys([*get_close_matches(pattern, candidates, FEW_NAMES, 0.5), *near]))[:FEW_NAMES]
    if near:
        return f"matches none; the nearest are {', '.join(f'`{name}`' for name in near)}"
    known = list(candidates)
    return f"matches none of {', '.join(f'`{name}`' for name in known[:FEW_NAMES])}{', ...' if len(known) > FEW_NAMES else ''}"
