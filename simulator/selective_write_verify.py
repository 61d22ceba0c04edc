"""Selective write-verify: the weights that matter most are programmed until they are right, the others once."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor

from devices.base import ProgrammedCells
from devices.rram import Verification
from kernels.cells import Verified
from simulator.batches import RepeatableBatches
from simulator.chip import Chip
from simulator.curvature import Curvature, LossName
from simulator.lowering.crossbar import CrossbarLayer
from simulator.lowering.treatment import VerifiedCells
from simulator.measuring import MetricLike, measure_reference, metric_rows, resolve_metrics
from simulator.metrics import Metric
from simulator.progress import track
from simulator.weight_ranking import DEFAULT_LOOP, Ranking, Weighting, of_weights, order_of, resistive_layers, weight_scores

DAY_SECONDS = 86_400.0


@dataclass(frozen=True)
class WriteVerify:
    """What `write_verify` did.

    Attributes
    ----------
    layers
        A row per layer on resistive cells: ``layer``, ``weights``, ``verified`` weights, ``pulses`` spent (with those of reference
        columns, which are verified as soon as any weight is), ``full_pulses`` that verifying every weight takes, ``unconverged`` cells
        among the verified ones (stuck ones too: they take every pulse in vain), and ``energy_j`` of the pulses (NaN where the energy of
        a pulse was not given).
    trace
        A row after each group of weights: ``fraction`` verified, ``pulses``, normalized write cycles ``nwc``, and the ``metric`` of the
        instance (NaN where it was not measured).
    ranking
        What the weights were ranked by.
    weight_pulses
        Pulses that the cells of each weight took, by layer and of the weight's shape; 0 where it was not verified.
    met
        Whether the limit on the accuracy drop was met; True without one.
    curvature
        The second derivatives behind the ranking, with their report; None for other rankings.
    """

    layers: pd.DataFrame
    trace: pd.DataFrame
    ranking: str
    weight_pulses: dict[str, Tensor]
    met: bool = True
    curvature: Curvature | None = None

    @property
    def pulses(self) -> int:
        """Write pulses spent on all cells."""
        return int(self.layers["pulses"].sum())

    @property
    def fraction(self) -> float:
        """Share of the weights that were verified."""
        return float(self.layers["verified"].sum() / self.layers["weights"].sum())

    @property
    def nwc(self) -> float:
        """Normalized write cycles: pulses spent over the pulses of verifying every weight."""
        full = int(self.layers["full_pulses"].sum())
        return self.pulses / full if full else 0.0

    @property
    def unconverged(self) -> int:
        """Cells that were still off their targets when their pulses ran out."""
        return int(self.layers["unconverged"].sum())

    @property
    def energy_j(self) -> float:
        """Energy of the pulses; NaN where the energy of a pulse was not given."""
        return float(self.layers["energy_j"].sum(skipna=False))

    def __str__(self) -> str:
        energy = f"{self.energy_j:.3g} J" if math.isfinite(self.energy_j) else "energy not given"
        lines = [
            f"{self.fraction:.1%} of {int(self.layers['weights'].sum())} weights verified by {self.ranking}: {self.pulses} pulses "
            f"({self.nwc:.1%} of all), {energy}"
        ]
        if self.unconverged:
            lines.append(f"{self.unconverged} cells did not converge within their pulses")
        if not self.met:
            lines.append("the limit on the accuracy drop was not met with every weight verified")
        return "\n".join(lines)


def write_verify(
    chip: Chip,
    loader: Any,
    *,
    fraction: float | None = None,
    accuracy_drop: float | None = None,
    pulses: int | None = None,
    ranking: Ranking = "second_derivative",
    weighting: Weighting = "gain_per_pulse",
    verification: Verification = DEFAULT_LOOP,
    group: float = 0.05,
    loss: LossName = "cross_entropy",
    metric: MetricLike = "accuracy",
    seed: int = 0,
    progress: bool | None = None,
) -> WriteVerify:
    """Verify the weights of a chip that matter most, up to one of three limits.

    The selection and the loop stay with the chip: every later ``program`` and every trial of `evaluate` programs all cells once and
    then verifies those of the selected weights. The instance at hand is programmed again, with the same draws. An earlier selection
    is replaced.

    Parameters
    ----------
    chip
        A chip with resistive cells. It is programmed if it was not.
    loader
        Data for sensitivities and for the accuracy drop.
    fraction
        Share of the weights to verify, 0 to 1.
    accuracy_drop
        Verify group by group until the metric of this instance is at most this much worse than that of the float model.
    pulses
        Pulses that this instance may take in all.
    ranking
        ``second_derivative`` (the rules of yan2022swim in the bibliography), ``fisher``, ``hutchinson``, ``magnitude``, ``random``, scores
        by layer, or a function of the chip that returns scores.
    weighting
        How sensitivities become scores: see `weight_scores`.
    verification
        The loop; incremental pulses by default.
    group
        Share of the weights verified at once where `accuracy_drop` is given.
    loss
        Of the sensitivities: ``cross_entropy``, ``mse`` or ``binary_cross_entropy``.
    metric
        What `accuracy_drop` limits.
    seed
        Seed of a random ranking and of drawn sensitivities.
    progress
        Show a progress bar; by default on a terminal.

    Returns
    -------
    WriteVerify
        Pulses, energy and cells that did not converge, by layer. Print it for a summary.

    Raises
    ------
    ValueError
        If not exactly one limit is given or it is out of range, the data are empty, the chip has no resistive cells that can be tuned,
        or it has aged.

    Examples
    --------
    >>> import simulator as sim
    >>> from devices import RRAMCrossbar
    >>> model, x = torch.nn.Linear(16, 4), torch.rand(64, 16)
    >>> chip = sim.compile(model, RRAMCrossbar.preset("wan_nature_2022"), example_inputs=x)
    >>> result = write_verify(chip, (x, model(x).argmax(1)), fraction=0.25)
    >>> result.fraction, result.unconverged
    (0.25, 0)
    """
    _check_limits(fraction, accuracy_drop, pulses, group)
    if not isinstance(verification, Verification):
        raise ValueError(
            f"Argument `verification` must be a loop, but got {verification!r}; use PulseVerification(), RedrawVerification() or your own"
        )
    layers = resistive_layers(chip)
    data = RepeatableBatches(loader, seed=seed, name="loader")
    if next(iter(data)).targets is None and accuracy_drop is not None:
        raise ValueError("Argument `loader` must yield (inputs, targets) where `accuracy_drop` is given, but its batches have no targets")
    _ready(chip, layers)
    scores = weight_scores(chip, data, ranking, weighting=weighting, verification=verification, loss=loss, seed=seed, progress=progress)
    order = order_of(scores, layers)
    spent = {name: _all_verified(layer, verification) for name, layer in layers.items()}
    per_weight = np.concatenate([one.pulses.flatten().cpu().numpy() for one in spent.values()])[order]
    # Reference columns, where a mapping has any, are verified with the first weight.
    references = sum(one.reference_pulses for one in spent.values())
    total = np.concatenate(([0], np.cumsum(per_weight) + references))
    count = len(order)
    rows: list[dict[str, float]] = []
    met = True

    def apply(verified: int) -> None:
        _select(layers, order[:verified], verification)

    def row(verified: int, value: float = math.nan) -> None:
        rows.append(
            {
                "fraction": verified / count,
                "pulses": float(total[verified]),
                "nwc": float(total[verified] / total[-1]) if total[-1] else 0.0,
                "metric": value,
            }
        )

    if accuracy_drop is None:
        verified = round(fraction * count) if fraction is not None else int(np.searchsorted(total, int(pulses or 0), side="right")) - 1
        apply(verified)
        row(verified)
    else:
        chosen = next(iter(resolve_metrics(metric).values()))
        reference = measure_reference(chip, data, {chosen.name: chosen})[chosen.name]
        steps = [min(count, round(k * group * count)) for k in range(math.ceil(1 / group) + 1)]
        met = False
        for verified in track(steps, len(steps), "groups of weights", progress):
            apply(verified)
            value = _measure(chip, data, chosen)
            row(verified, value)
            drop = reference - value if chosen.higher_is_better else value - reference
            if drop <= accuracy_drop:
                met = True
                break
        if not met:
            chip.warnings.append(f"With every weight verified {chosen.name} is {value:.4g}, {drop:.4g} worse than float: above the limit")
    for name, layer in layers.items():
        if _forgets(layer):
            chip.warnings.append(
                f"Layer `{name}`: a {type(layer.design.cell).__name__} drifts from its own past, not from what it was verified to: "
                "what verification gained is lost with time"
            )
    name = ranking if isinstance(ranking, str) else "the user's own ranking"
    by_weight = {name: spent[name].pulses * _selected(layer) for name, layer in layers.items()}
    return WriteVerify(_table(layers, spent), pd.DataFrame(rows), name, by_weight, met, scores.curvature)


@dataclass(frozen=True, eq=False)
class _Spent:
    """What verifying every weight of a layer takes: pulses and unconverged cells of each weight, and those of reference columns."""

    pulses: Tensor
    unconverged: Tensor
    reference_pulses: int
    reference_unconverged: int


def _all_verified(layer: CrossbarLayer, verification: Verification) -> _Spent:
    mapped, cell = layer._map(), layer.design.cell
    key = layer.programming_key(layer._programming_seed, layer.trial)
    reached = cell.program(mapped.targets_siemens, key)
    found = VerifiedCells(torch.ones_like(layer.weight, dtype=torch.bool), verification).verify(mapped, reached, cell, key)
    limit = verification.max_pulses
    if layer.design.stuck is not None:
        found = _with_stuck(found, layer, mapped.targets_siemens, verification)
    present = torch.ones_like(found.pulses) if mapped.present is None else mapped.present.to(found.pulses)
    per_cell = (found.pulses * present, (found.pulses >= limit) * present)
    outputs = len(layer.weight)
    pulses, given_up = (of_weights(layer, one[:, :, :outputs].sum((0, 1))) for one in per_cell)
    return _Spent(pulses, given_up, *(int(one[:, :, outputs:].sum()) for one in per_cell))


def _with_stuck(found: Verified, layer: CrossbarLayer, targets: Tensor, verification: Verification) -> Verified:
    """Return pulses as stuck cells take them: none where they happen to stand right, else all until they are given up."""
    cell, stuck = layer.design.cell, layer.design.stuck
    assert stuck is not None
    key = layer.standing_key(layer._programming_seed, layer.trial).fold("stuck")
    faults = stuck.draw(tuple(targets.shape), key, targets.device) != 0
    standing = stuck.apply(found.values, key, cell)
    off = (standing - targets).abs() > verification.tolerance * (cell.g_max_siemens - cell.g_min_siemens)
    in_vain = torch.where(off, verification.max_pulses, 0).to(found.pulses)
    return Verified(standing, torch.where(faults, in_vain, found.pulses))


def _ready(chip: Chip, layers: Mapping[str, CrossbarLayer]) -> None:
    """Program what was not, and refuse what cannot be verified."""
    for name, layer in layers.items():
        if not layer.programmed:
            layer.program(chip.seed, 0)
        layer._require_current_masters()
        if layer.seconds > 0:
            raise ValueError(
                f"Argument `chip` must be verified right after programming, but layer `{name}` has aged {layer.seconds:g} s; "
                "call program() first"
            )


def _forgets(layer: CrossbarLayer) -> bool:
    """Return whether a day after programming nothing is left of the conductances that the cells were given."""
    cells = layer.cells
    if cells is None or layer.treatment is None:
        return False
    key = layer.standing_key(layer._programming_seed, layer.trial)
    other = ProgrammedCells(1.1 * cells.conductance, cells.memory)
    return torch.equal(layer.design.cell.drift(cells, DAY_SECONDS, key), layer.design.cell.drift(other, DAY_SECONDS, key))


def _select(layers: Mapping[str, CrossbarLayer], places: npt.NDArray[np.int64], verification: Verification) -> None:
    """Give each layer its part of the selected places, and program it again."""
    chosen = np.zeros(sum(layer.weight.numel() for layer in layers.values()), np.bool_)
    begun = len(places) > 0
    chosen[places] = True
    start = 0
    for layer in layers.values():
        stop = start + layer.weight.numel()
        selected = torch.from_numpy(chosen[start:stop].copy()).reshape(layer.weight.shape).to(layer.weight.device)
        layer.treatment = VerifiedCells(selected, verification) if begun else None
        layer.program(layer._programming_seed, layer.trial)
        start = stop


def _measure(chip: Chip, data: RepeatableBatches, metric: Metric) -> float:
    training = chip.training
    chip.eval()
    try:
        return metric.compute(metric_rows(chip, data, {metric.name: metric})[metric.name])
    finally:
        chip.train(training)


def _selected(layer: CrossbarLayer) -> Tensor:
    treatment = layer.treatment
    return treatment.selected if isinstance(treatment, VerifiedCells) else torch.zeros_like(layer.weight, dtype=torch.bool)


def _table(layers: Mapping[str, CrossbarLayer], spent: Mapping[str, _Spent]) -> pd.DataFrame:
    rows = []
    for name, layer in layers.items():
        one, selected = spent[name], _selected(layer)
        begun = layer.treatment is not None
        pulses = int(one.pulses[selected].sum()) + begun * one.reference_pulses
        energy = layer.design.write_pulse_j
        rows.append(
            {
                "layer": name,
                "weights": selected.numel(),
                "verified": int(selected.sum()),
                "pulses": pulses,
                "full_pulses": int(one.pulses.sum()) + one.reference_pulses,
                "unconverged": int(one.unconverged[selected].sum()) + begun * one.reference_unconverged,
                "energy_j": math.nan if energy is None else pulses * energy,
            }
        )
    return pd.DataFrame(rows)


def _check_limits(fraction: float | None, accuracy_drop: float | None, pulses: int | None, group: float) -> None:
    given = [name for name, value in (("fraction", fraction), ("accuracy_drop", accuracy_drop), ("pulses", pulses)) if value is not None]
    if len(given) != 1:
        raise ValueError(
            f"Exactly one of `fraction`, `accuracy_drop` and `pulses` must be given, but got {', '.join(given) or 'none'}; choose a limit"
        )
    if fraction is not None and (isinstance(fraction, bool) or not isinstance(fraction, Real) or not 0 <= fraction <= 1):
        raise ValueError(f"Argument `fraction` must be a number from 0 to 1, but got {fraction!r}; 0.1 verifies a tenth of the weights")
    if accuracy_drop is not None and not (isinstance(accuracy_drop, Real) and 0 <= accuracy_drop < math.inf):
        raise ValueError(f"Argument `accuracy_drop` must be a number of at least 0, but got {accuracy_drop!r}; 0.01 is a percentage point")
    if pulses is not None and (not isinstance(pulses, Integral) or isinstance(pulses, bool) or pulses < 0):
        raise ValueError(f"Argument `pulses` must be an integer of at least 0, but got {pulses!r}; give the pulses of all cells together")
    if not (isinstance(group, int | float) and 0 < group <= 1):
        raise ValueError(f"Argument `group` must be above 0 and at most 1, but got {group!r}; 0.05 verifies a twentieth at a time")
