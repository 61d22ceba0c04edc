"""Which effect costs what: each one alone on, and alone off."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from devices.rram import RRAMCrossbar
from simulator.chip import Chip
from simulator.diagnosis.effects import EFFECTS, RANDOM, effects_of, with_effects
from simulator.hardware import Mode
from simulator.lowering import CrossbarLayer
from simulator.measuring import Bench, MetricLike, checked_age, work_off
from simulator.metrics import Metric
from simulator.statistics import Interval, mean_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALL = "all"
"""The row of all effects together, and the layer that stands for all layers."""

Label = tuple[str, str, str]
"""Layer, effect and state of a variant."""
Variant = dict[str, frozenset[str]]
"""The effects that each layer on hardware keeps; a layer that is not here computes in float."""


@dataclass(frozen=True)
class Attribution:
    """Result of `attribute`.

    Attributes
    ----------
    frame
        A row per metric, layer and effect. ``on`` is the change from the float model when this effect alone is on, ``off`` the change
        from the design when it alone is off, both means over chips of paired differences with their intervals (``on_low``, ``on_high``,
        ``off_low``, ``off_high``); ``on_value`` and ``off_value`` are the metric itself. Layer ``all`` is every layer together, effect
        ``all`` every effect.
    values
        Value of each trial: columns ``layer``, ``effect``, ``state`` ("on", "off" or "design"), ``trial`` and one per metric.
    reference
        Each metric's value for the float model.
    metrics
        The metrics, by name.
    trials, seed, seconds
        As given.
    confidence
        Of the intervals.
    """

    frame: pd.DataFrame
    values: pd.DataFrame
    reference: dict[str, float]
    metrics: dict[str, Metric]
    trials: int
    seed: int
    seconds: float
    confidence: float

    def designed(self, name: str | None = None) -> Interval:
        """Return the mean of a metric (the first by default) over chips as designed."""
        rows = self.values[self.values["state"] == "design"]
        return mean_interval([float(value) for value in rows[name or next(iter(self.metrics))]], self.confidence)

    def __str__(self) -> str:
        lines = []
        for name in self.metrics:
            lines.append(f"{name}: float {self.reference[name]:.4g}, as designed {self.designed(name)}, {self.trials} chips")
            rows = self.frame[self.frame["metric"] == name]
            labels = [
                row["effect"] if row["layer"] == ALL else f"{row['layer']}: {row['effect']}" for row in rows.to_dict(orient="records")
            ]
            width = max(map(len, labels))
            largest = float(rows[["on", "off"]].abs().to_numpy().max())
            digits = min(9, max(2, 3 - math.floor(math.log10(largest)))) if 0 < largest < math.inf else 2
            lines.append(f"  {'':{width}}  {'alone on':>24}  {'alone off':>24}")
            for label, row in zip(labels, rows.to_dict(orient="records"), strict=True):
                lines.append(f"  {label:{width}}  {_signed(row, 'on', digits):>24}  {_signed(row, 'off', digits):>24}")
        return "\n".join(lines)

    def figure(self, *, layer: str = ALL, metric: str | None = None) -> "Figure":
        """Return horizontal bars with intervals: what each effect costs alone, and what its absence brings back.

        Parameters
        ----------
        layer
            A layer where the attribution is by layer, or all of them together.
        metric
            Name of a metric; the first by default.
        """
        from simulator.diagnosis.figures import draw_attribution  # matplotlib takes a second to import

        return draw_attribution(self, layer, metric or next(iter(self.metrics)))


def attribute(
    chip: Chip,
    data: Any,
    *,
    metrics: MetricLike | Sequence[MetricLike] = "accuracy",
    trials: int = 10,
    seed: int = 0,
    by_layer: bool = False,
    seconds: float = 0.0,
    workers: int = 1,
    batch_size: int = 256,
    confidence: float = 0.95,
    progress: bool | None = None,
) -> Attribution:
    """Measure what each effect of a chip's design costs: alone on with all else ideal, and alone off with all else as designed.

    Only effects that a design has are listed (`EFFECTS` says what each is). Trial k of every variant draws from the same keys, so
    differences are paired: the same cells have the same errors, where they have any. Converters keep the ranges that the chip was
    calibrated to. Layers of other families than crossbars count as one effect, ``all``. The chip given stays as it is.

    Parameters
    ----------
    chip
        From `simulator.compile`.
    data
        A loader, data set, batches of (inputs, targets), or a pair of tensors.
    metrics
        As in `evaluate`.
    trials
        Programmed instances, at least 1; variants without randomness are measured once.
    seed
        Seed of all draws; trial k as designed is trial k of `evaluate` with it.
    by_layer
        Also each effect in each layer alone: on there with every other layer in float, off there with every other as designed; two
        more variants for each effect of each layer.
    seconds
        Age of the chips, in seconds since programming: most cells drift only with time.
    workers
        Processes; results are the same bits for any number.
    batch_size
        Batch size for a data set or a pair of tensors.
    confidence
        Of the intervals.
    progress
        Show a progress bar; by default on a terminal.

    Returns
    -------
    Attribution
        Print it for a table; ``.figure()`` draws it.

    Raises
    ------
    ValueError
        If the data are empty, an argument is out of range, or outputs and targets do not fit the metric.

    Examples
    --------
    >>> import torch
    >>> import simulator as sim
    >>> model, x = torch.nn.Linear(4, 2), torch.rand(64, 4)
    >>> chip = sim.compile(model, RRAMCrossbar.preset("wan_nature_2022"), example_inputs=x)
    >>> found = attribute(chip, (x, model(x).detach()), metrics="mae", trials=3)
    >>> found.frame["effect"].tolist()
    ['all', 'programming', 'read_noise', 'dac', 'adc']
    """
    bench, reference = Bench.of(chip, data, metrics, trials=trials, seed=seed, batch_size=batch_size)
    age = checked_age(seconds)
    designs = {name: layer.design if isinstance(layer, CrossbarLayer) else None for name, layer in chip.layers.items()}
    found_in = {id(design): effects_of(design, age) for design in designs.values() if design is not None}
    effects = {name: found_in.get(id(design), ()) for name, design in designs.items()}
    variants = _variants(effects, by_layer)
    always = {name for name, design in designs.items() if design is None}
    counts = {
        label: trials if always & variant.keys() or any(kept & RANDOM for kept in variant.values()) else 1
        for label, variant in variants.items()
    }
    items = [(label, trial) for label in variants for trial in range(counts[label])]
    found = work_off(_Measurement(bench, variants, designs, effects, age), items, workers, progress)
    values = pd.DataFrame(
        [
            {"layer": label[0], "effect": label[1], "state": label[2], "trial": trial, **found[label, min(trial, counts[label] - 1)]}
            for label in variants
            for trial in range(trials)
        ]
    )
    frame = _differences(values, reference, confidence)
    return Attribution(frame, values, reference, bench.metrics, trials, seed, age, confidence)


def _variants(effects: dict[str, tuple[str, ...]], by_layer: bool) -> dict[Label, Variant]:
    """Return every variant by (layer, effect, state), for the effects that each layer has."""
    whole = {name: frozenset(present) for name, present in effects.items()}

    def without(effect: str, names: Sequence[str]) -> Variant:
        return {name: kept - {effect} if name in names else kept for name, kept in whole.items()}

    found: dict[Label, Variant] = {(ALL, ALL, "design"): whole, (ALL, ALL, "on"): whole, (ALL, ALL, "off"): {}}
    for effect in EFFECTS:
        names = [name for name in whole if effect in whole[name]]
        if names:
            found[ALL, effect, "on"], found[ALL, effect, "off"] = dict.fromkeys(names, frozenset((effect,))), without(effect, names)
    for name in whole if by_layer else ():
        found[name, ALL, "on"] = {name: whole[name]}
        found[name, ALL, "off"] = {other: kept for other, kept in whole.items() if other != name}
        for effect in effects[name]:
            found[name, effect, "on"], found[name, effect, "off"] = {name: frozenset((effect,))}, without(effect, [name])
    return found


@dataclass(frozen=True)
class _Measurement:
    """Measure a variant of a trial on a bench."""

    bench: Bench
    variants: dict[Label, Variant]
    designs: dict[str, RRAMCrossbar | None]
    effects: dict[str, tuple[str, ...]]
    seconds: float

    def __call__(self, item: tuple[Label, int]) -> dict[str, float]:
        label, trial = item
        variant = self.variants[label]
        for name, layer in self.bench.chip.layers.items():
            layer.mode = Mode.HARDWARE if name in variant else Mode.FLOAT
            design = self.designs[name]
            if isinstance(layer, CrossbarLayer) and design is not None and name in variant:
                whole = variant[name] == frozenset(self.effects[name])
                layer.design = design if whole else with_effects(design, variant[name])  # programming builds all that depends on it
            if layer.mode is Mode.HARDWARE:
                layer.program(self.bench.seed, trial)
                layer.age(self.seconds)
        return self.bench.values()


def _differences(values: pd.DataFrame, reference: dict[str, float], confidence: float) -> pd.DataFrame:
    by_label = {
        (str(layer), str(effect), str(state)): part.sort_values("trial")
        for (layer, effect, state), part in values.groupby(["layer", "effect", "state"])
    }
    labels = list(dict.fromkeys((row["layer"], row["effect"]) for row in values.to_dict(orient="records")))
    rows = []
    for metric, ideal in reference.items():
        designed = by_label[ALL, ALL, "design"][metric].to_numpy(dtype=float)
        for layer, effect in labels:
            on = by_label[layer, effect, "on"][metric].to_numpy(dtype=float)
            off = by_label[layer, effect, "off"][metric].to_numpy(dtype=float)
            row: dict[str, Any] = {"metric": metric, "layer": layer, "effect": effect}
            for state, change in (("on", on - ideal), ("off", off - designed)):
                mean = mean_interval(change, confidence)
                row |= {state: mean.value, f"{state}_low": mean.low, f"{state}_high": mean.high}
            rows.append(row | {"on_value": on.mean(), "off_value": off.mean(), "trials": len(on)})
    return pd.DataFrame(rows)


def _signed(row: Any, state: str, digits: int) -> str:
    half = (row[f"{state}_high"] - row[f"{state}_low"]) / 2
    return f"{row[state]:+.{digits}f} ± " + (f"{half:.{digits}f}" if math.isfinite(half) else "n/a")
