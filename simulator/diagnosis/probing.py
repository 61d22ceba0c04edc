"""Ideal against actual output of every layer, and what its converters see."""

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from simulator._isolation import one_thread
from simulator.batches import Batch, RepeatableBatches
from simulator.calibration import RangeObserver
from simulator.chip import Chip
from simulator.hardware import HardwareLayer, Mode, in_mode
from simulator.lowering import CrossbarLayer
from simulator.measuring import checked_age, private_copy, require_chip, whole_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STAGES = ("alone", "local", "total")
PERCENTILES = (50.0, 99.0, 99.9)
EDGES = np.linspace(-1.25, 1.25, 101)
"""Bins of the histogram of currents over full scale; the outermost take what lies beyond."""


@dataclass(frozen=True)
class Probe:
    """Result of `probe`.

    Outputs are taken without the bias, which is added digitally. ``alone`` compares the layer on ideal inputs with float on the same;
    ``local`` does so on the inputs that it really gets; ``total`` compares what it really gives with what the float network has there.

    Attributes
    ----------
    frame
        A row per layer: for each of the three comparisons ``snr_db`` (mean square of the ideal output over that of the error),
        ``effective_bits`` ((snr_db - 1.76) / 6.02), ``error_mean`` and ``error_std`` in the output's unit; ``clipped``, the share of
        conversions beyond the ADC's last code; ``current_p50``, ``current_p99``, ``current_p99_9`` and ``current_max``, magnitudes of
        column currents (read noise included) over the ADC's full scale. NaN where a layer has no ADC.
    currents
        Histogram of column currents over full scale: ``layer``, ``low``, ``high`` and ``share`` of the conversions in each bin.
    seed, seconds
        As given.
    """

    frame: pd.DataFrame
    currents: pd.DataFrame
    seed: int
    seconds: float

    def __str__(self) -> str:
        rows = self.frame.to_dict(orient="records")
        width = max(5, *(len(str(row["layer"])) for row in rows))
        lines = [f"{'layer':{width}}  {'SNR alone':>10}  {'local':>8}  {'total':>8}  {'bits':>5}  {'clipped':>8}  {'p99/range':>9}"]
        for row in rows:
            snr = [f"{row[f'{stage}_snr_db']:.1f} dB" for stage in STAGES]
            clipped, high = (
                "-" if math.isnan(row[name]) else form.format(row[name])
                for name, form in (("clipped", "{:.2%}"), ("current_p99", "{:.2f}"))
            )
            bits = f"{row['local_effective_bits']:.1f}"
            lines.append(f"{row['layer']:{width}}  {snr[0]:>10}  {snr[1]:>8}  {snr[2]:>8}  {bits:>5}  {clipped:>8}  {high:>9}")
        return "\n".join(lines)

    def figure(self) -> "Figure":
        """Return a figure: signal-to-noise ratio by layer, and the histogram of currents over the ADC's full scale."""
        from simulator.diagnosis.figures import draw_probe  # matplotlib takes a second to import

        return draw_probe(self)


def probe(chip: Chip, data: Any, *, seed: int = 0, trial: int = 0, seconds: float = 0.0, batch_size: int = 256) -> Probe:
    """Compare every layer of one programmed instance with float, and look at its column currents.

    Each batch goes through the model in float and then on hardware; sums and histograms are kept, outputs only for the length of a
    batch. The chip given stays as it is.

    Parameters
    ----------
    chip
        From `simulator.compile`.
    data
        A loader, data set, batches, a pair of tensors or a tensor of inputs; targets are ignored.
    seed, trial
        The instance, as in ``chip.program(seed, trial)``.
    seconds
        Its age, in seconds since programming.
    batch_size
        Batch size for data that are not batched yet.

    Returns
    -------
    Probe
        Print it for a table; ``.figure()`` draws it.

    Raises
    ------
    ValueError
        If the data are empty or an argument is out of range.

    Examples
    --------
    >>> import torch
    >>> import simulator as sim
    >>> from devices import RRAMCrossbar
    >>> model, x = torch.nn.Linear(64, 32), torch.rand(256, 64)
    >>> chip = sim.compile(model, RRAMCrossbar.preset("wan_nature_2022"), example_inputs=x)
    >>> row = probe(chip, x).frame.iloc[0]
    >>> bool(10 < row["alone_snr_db"] < 50), bool(row["current_max"] <= 1.5)
    (True, True)
    """
    require_chip(chip)
    whole_number("seed", seed, 0)
    whole_number("trial", trial, 0)
    age = checked_age(seconds)
    private = private_copy(chip).program(seed, trial).age(age)
    device = next(private.parameters()).device
    records = {name: _Record() for name in private.layers}
    for name, layer in private.layers.items():
        if isinstance(layer, CrossbarLayer):
            _listen(layer, records[name])
    with torch.no_grad(), one_thread():
        for batch in inputs_of(data, batch_size, seed):
            _compare(private, batch.to(device), records)
    frame = pd.DataFrame(
        [{"layer": name, "hardware": private.layers[name].placement.hardware, **one.row()} for name, one in records.items()]
    )
    histograms = [pd.DataFrame({"layer": name, **one.histogram()}) for name, one in records.items()]
    return Probe(frame, pd.concat(histograms, ignore_index=True), seed, age)


def inputs_of(data: Any, batch_size: int, seed: int = 0) -> Iterable[Batch]:
    """Return batches of data whose targets do not matter; a tensor is cut into batches of inputs."""
    if isinstance(data, Tensor):
        return RepeatableBatches([Batch((part,)) for part in data.split(batch_size)], seed=seed)
    return RepeatableBatches(data, batch_size=batch_size, seed=seed)


def without_bias(layer: HardwareLayer, outputs: Tensor) -> Tensor:
    """Return a layer's outputs before the bias is added."""
    bias: Tensor | None = layer.bias
    return outputs if bias is None else outputs - bias.reshape(-1, *[1] * layer.operator.dimensions)


@contextmanager
def calls_heard(chip: Chip, hear: Any) -> Iterator[None]:
    """Call ``hear(layer, inputs, outputs)`` after every call of a layer on hardware; what it returns takes the outputs' place."""

    def hook(layer: nn.Module, arguments: tuple[Any, ...], outputs: Tensor) -> Any:
        return hear(layer, arguments[0], outputs)

    handles = [layer.register_forward_hook(hook) for layer in chip.layers.values()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def read_in(layer: HardwareLayer, mode: Mode, inputs: Tensor) -> Tensor:
    """Read a layer once in a mode, outside of the model's own calls: neither its hooks nor its read counter notice."""
    before = layer.mode
    reads = layer.reads if isinstance(layer, CrossbarLayer) else 0
    layer.mode = mode
    try:
        outputs: Tensor = layer.forward(inputs)
    finally:
        layer.mode = before
        if isinstance(layer, CrossbarLayer):
            layer.reads = reads
    return outputs


def _compare(chip: Chip, batch: Batch, records: dict[str, "_Record"]) -> None:
    ideals: dict[str, list[Tensor]] = defaultdict(list)

    def in_float(layer: HardwareLayer, inputs: Tensor, outputs: Tensor) -> None:
        ideal = without_bias(layer, outputs)
        ideals[layer.name].append(ideal)
        records[layer.name].sums["alone"].add(ideal, without_bias(layer, read_in(layer, Mode.HARDWARE, inputs)))

    def on_hardware(layer: HardwareLayer, inputs: Tensor, outputs: Tensor) -> None:
        record, actual = records[layer.name], without_bias(layer, outputs)
        record.sums["local"].add(without_bias(layer, read_in(layer, Mode.FLOAT, inputs)), actual)
        # A model whose calls depend on its data may call a layer at other times than in float: those have no counterpart.
        ideal = ideals[layer.name].pop(0) if ideals[layer.name] else None
        if ideal is not None and ideal.shape == actual.shape:
            record.sums["total"].add(ideal, actual)

    with in_mode(chip, Mode.FLOAT), calls_heard(chip, in_float):
        chip(*batch.inputs, **batch.keywords)
    for record in records.values():
        record.listening = True
    with calls_heard(chip, on_hardware):
        chip(*batch.inputs, **batch.keywords)
    for record in records.values():
        record.listening = False


@dataclass
class _Sums:
    """Sums of a comparison, in double precision."""

    count: int = 0
    signal: float = 0.0
    error: float = 0.0
    square: float = 0.0

    def add(self, ideal: Tensor, actual: Tensor) -> None:
        error = (actual - ideal).double()
        self.count += error.numel()
        self.signal += float(ideal.double().square().sum())
        self.error += float(error.sum())
        self.square += float(error.square().sum())

    def row(self) -> dict[str, float]:
        if not self.count:
            return dict.fromkeys(("snr_db", "effective_bits", "error_mean", "error_std"), math.nan)
        ratio = math.inf if self.square == 0 else self.signal / self.square
        snr = 10 * math.log10(ratio) if ratio > 0 else -math.inf
        mean = self.error / self.count
        spread = math.sqrt(max(0.0, self.square / self.count - mean * mean))
        return {"snr_db": snr, "effective_bits": (snr - 1.76) / 6.02, "error_mean": mean, "error_std": spread}


@dataclass
class _Record:
    """What is kept of a layer."""

    sums: dict[str, _Sums] = field(default_factory=lambda: {stage: _Sums() for stage in STAGES})
    listening: bool = False
    conversions: int = 0
    clipped: int = 0
    observer: RangeObserver = field(default_factory=RangeObserver)
    counts: Any = field(default_factory=lambda: np.zeros(len(EDGES) - 1, dtype=np.int64))

    def hear(self, steps: Tensor, low: int, high: int) -> None:
        """Take note of the currents of one array as its ADC gets them, in steps of it; its codes go from `low` to `high`."""
        relative = steps / high
        codes = steps.round()
        self.conversions += steps.numel()
        self.clipped += int(((codes < low) | (codes > high)).sum())
        self.observer.add(relative)
        width = float(EDGES[1] - EDGES[0])
        bins = ((relative.flatten() - float(EDGES[0])) / width).floor().clamp(0, len(self.counts) - 1).long()
        self.counts += torch.bincount(bins, minlength=len(self.counts)).cpu().numpy()

    def row(self) -> dict[str, float]:
        found = {f"{stage}_{name}": value for stage in STAGES for name, value in self.sums[stage].row().items()}
        seen = self.conversions > 0
        found["clipped"] = self.clipped / self.conversions if seen else math.nan
        for percent in PERCENTILES:
            found[f"current_p{percent:g}".replace(".", "_")] = self.observer.percentile(percent) if seen else math.nan
        found["current_max"] = self.observer.maximum if seen else math.nan
        return found

    def histogram(self) -> dict[str, Any]:
        return {"low": EDGES[:-1], "high": EDGES[1:], "share": self.counts / (self.conversions or math.nan)}


def _listen(layer: CrossbarLayer, record: _Record) -> None:
    """Let a record hear every array's column currents on their way to the ADC; for a private copy, which nobody reads afterwards."""

    def heard(steps: Tensor, low: int, high: int) -> None:
        if record.listening:
            record.hear(steps, low, high)

    layer.hear = heard
