"""The objective that most sweeps have: compile a model onto a design, measure its chips, and add up what it costs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from torch import nn

from devices.base import Hardware
from devices.quantities import nearest
from simulator.batches import RepeatableBatches
from simulator.chip import Chip
from simulator.compiler import compile as compile_chip
from simulator.costing import Total, totals
from simulator.evaluation import measure_trials
from simulator.fingerprints import digest, digest_batches
from simulator.measuring import MetricLike, resolve_metrics
from simulator.preparing import first_sample
from simulator.search.identity import identify
from simulator.search.objective import Context
from simulator.selective_write_verify import WriteVerify, write_verify

COSTS = ("energy_j", "latency_s", "area_m2", "programming_energy_j", "programming_s")
PREFIX, COMPILED, VERIFIED = "design.", "compile.", "write_verify."
COMPILE_OPTIONS = ("timesteps", "method", "coding")
"""Arguments of `simulator.compile` that a configuration may name: those of one family's."""


class HardwareObjective:
    """Accuracy over chips, energy, latency, area, programming energy and programming time of a model on a design.

    Of a configuration, a parameter

    - ``design.FIELD.FIELD`` replaces that field of the design;
    - ``hardware`` names which of several designs it is;
    - ``compile.timesteps``, ``compile.method`` and ``compile.coding`` are arguments of `simulator.compile`;
    - ``write_verify.NAME`` is an argument of `simulator.write_verify`: the budget ``write_verify.fraction`` or ``write_verify.pulses``,
      or the ``ranking``. The pulses that it takes are the value ``verify_pulses``;
    - ``seconds`` is the age of the chips;

    and everything else goes to the function that makes the model. What a configuration names must exist on the design; a parameter of
    one family is put on the condition of its ``hardware``.

    Parameters
    ----------
    model
        A trained model, or a function that returns one for the parameters of a configuration that are not the hardware's.
    design
        The hardware that ``design.`` parameters change, or several by name.
    data
        What chips are measured on: a loader, data set, batches of (inputs, targets), or a pair of tensors.
    metrics
        As for `simulator.evaluate`.
    costs
        Costs that must be whole: a design with a term that has no constant fails, by the name of the term. Other costs are returned
        where they are whole.
    partial
        Take sums that leave terms without a constant out: lower bounds, not estimates.
    calibration
        Batches that converter ranges are chosen on; None: one sample of the data.
    training
        Batches of (inputs, targets) that `simulator.write_verify` ranks weights on; None: `data`.
    batch_size
        For a data set or a pair of tensors.

    Examples
    --------
    >>> import torch
    >>> from devices import RRAMCrossbar
    >>> model, x = torch.nn.Linear(4, 2), torch.rand(64, 4)
    >>> objective = HardwareObjective(model, RRAMCrossbar.preset("wan_nature_2022"), (x, model(x).argmax(1)), costs=())
    >>> sorted(objective({"design.adc.bits": 6}, Context(seed=0, chips=range(2))))[0]
    'accuracy'
    """

    def __init__(
        self,
        model: nn.Module | Callable[[dict[str, Any]], nn.Module],
        design: Hardware | Mapping[str, Hardware],
        data: Any,
        *,
        metrics: MetricLike | Sequence[MetricLike] = "accuracy",
        costs: Sequence[str] = ("energy_j",),
        partial: bool = False,
        calibration: Any = None,
        training: Any = None,
        batch_size: int = 256,
    ) -> None:
        for name in costs:
            if name not in COSTS:
                raise ValueError(f"Argument `costs` must hold names of {', '.join(COSTS)}, but got {name!r}")
        self._model, self._designs = model, dict(design) if isinstance(design, Mapping) else design
        self._metrics = resolve_metrics(metrics)
        self._passes = RepeatableBatches(data, batch_size=batch_size, seed=0)
        self._calibration = calibration
        self._training = self._passes if training is None else RepeatableBatches(training, batch_size=batch_size, seed=0)
        self._example = first_sample(next(iter(self._passes)))
        self._costs, self._partial = tuple(costs), partial
        self._made: tuple[str, nn.Module] | None = None

    @property
    def goals(self) -> dict[str, str]:
        """The first metric and the costs asked for; `simulator.sweep` takes them where it is given none."""
        first = next(iter(self._metrics.values()))
        return {first.name: "maximize" if first.higher_is_better else "minimize"} | dict.fromkeys(self._costs, "minimize")

    def fingerprint(self) -> str:
        """Return a digest of all that decides the values: model, designs, data, metrics and settings."""
        designs = self._designs if isinstance(self._designs, dict) else {"": self._designs}
        parts = {
            "model": identify(self._model), "designs": {name: design.fingerprint() for name, design in designs.items()},
            "data": digest_batches(self._passes), "calibration": identify(self._calibration), "costs": self._costs,
            "metrics": [identify(one) for one in self._metrics.values()], "partial": self._partial,
        }  # fmt: skip
        if self._training is not self._passes:
            parts["training"] = digest_batches(self._training)
        return digest(parts)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": None}

    def chip(self, configuration: Mapping[str, Any], seed: int = 0) -> Chip:
        """Return the chip of a configuration, with its selection of verified weights."""
        return self._chip(configuration, seed)[0]

    def __call__(self, configuration: Mapping[str, Any], context: Context) -> dict[str, Any]:
        """Compile and measure."""
        chip, verified = self._chip(configuration, context.seed)
        seconds = float(configuration.get("seconds", 0.0))
        trials = list(measure_trials(chip, self._passes, self._metrics, context.chips, seed=context.seed, seconds=seconds, workers=1))
        found: dict[str, Any] = {name: [trial.values[name] for trial in trials] for name in self._metrics}
        if verified is not None:
            found["verify_pulses"] = float(verified.pulses)
        frame = chip.cost(*self._example.inputs, **self._example.keywords)
        for name, total in (totals(frame) | {"programming_s": programming_time(frame)}).items():
            if total.value is not None and (self._partial or not total.partial):
                found[name] = total.value
            elif name in self._costs:
                missing = ", ".join(total.missing) or "every term"
                raise ValueError(
                    f"Design must have every constant of `{name}`, but has none for {missing}; give them, take another cost, "
                    "or set partial=True for a lower bound"
                )
        return found

    def _chip(self, configuration: Mapping[str, Any], seed: int) -> tuple[Chip, WriteVerify | None]:
        parts = _sorted(configuration)
        design = self._design(parts.design, parts.network)
        chip = compile_chip(
            self._network(parts.network), design, example_inputs=self._example.inputs, example_kwargs=self._example.keywords,
            calibration=self._calibration, seed=seed, **parts.compiled,
        )  # fmt: skip
        verified = write_verify(chip, self._training, seed=seed, progress=False, **parts.verified) if parts.verified else None
        return chip, verified

    def _design(self, changes: dict[str, Any], rest: dict[str, Any]) -> Hardware:
        base = self._designs
        if isinstance(base, dict):
            name = rest.pop("hardware", None)
            if name not in base:
                raise ValueError(f"Parameter `hardware` must be one of {', '.join(base)}, but got {name!r}")
            base = base[name]
        return base.replace(**changes) if changes else base

    def _network(self, parameters: dict[str, Any]) -> nn.Module:
        """Return the model of some parameters; the last one is kept, as designs that share a network often come in a row."""
        if isinstance(self._model, nn.Module):
            if parameters:
                raise ValueError(
                    f"Parameters {', '.join(parameters)} must mean something, but the model is fixed; give a function of them as `model`, "
                    f"or begin names of hardware fields with {PREFIX!r}"
                )
            return self._model
        key = digest(parameters)
        if self._made is None or self._made[0] != key:
            self._made = (key, self._model(parameters))
        return self._made[1]


@dataclass(frozen=True)
class _Parts:
    """What the parameters of a configuration are for: changes of the design, arguments of two functions, and the network's."""

    design: dict[str, Any]
    compiled: dict[str, Any]
    verified: dict[str, Any]
    network: dict[str, Any]


def _sorted(configuration: Mapping[str, Any]) -> _Parts:
    parts = _Parts({}, {}, {}, {})
    for name, value in configuration.items():
        if name.startswith(PREFIX):
            place, *path = parts.design, *name.removeprefix(PREFIX).split(".")
            for part in path[:-1]:
                place = place.setdefault(part, {})
            place[path[-1]] = value
        elif name.startswith(COMPILED):
            option = name.removeprefix(COMPILED)
            if option not in COMPILE_OPTIONS:
                allowed = [COMPILED + one for one in COMPILE_OPTIONS]
                raise ValueError(f"Parameter `{name}` must be an argument of `simulator.compile`, but is not; {nearest(name, allowed)}")
            parts.compiled[option] = value
        elif name.startswith(VERIFIED):
            parts.verified[name.removeprefix(VERIFIED)] = value
        elif name != "seconds":
            parts.network[name] = value
    return parts


def programming_time(frame: pd.DataFrame) -> Total:
    """Return the time that writing the weights takes, layer after layer; what has no constant is named, as in `simulator.totals`."""
    rows = frame[frame["once"]]
    missing = tuple(dict.fromkeys(rows.loc[rows["latency_s"].isna(), "term"]))
    return Total(None if rows["latency_s"].isna().all() else float(rows["latency_s"].sum()), missing)
