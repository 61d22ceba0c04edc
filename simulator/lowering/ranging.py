"""Choosing the full scales of a crossbar layer's converters on calibration data."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from weakref import WeakSet

import torch
from torch import Tensor

from devices.converters import Converter
from devices.rram import RRAMCrossbar
from simulator.calibration import ColumnObserver, ConverterRange, RangeObserver, full_scale
from simulator.lowering.reading import Drive, Range, Reading

KEPT_BYTES = 1 << 28
"""Memory that the nominal arrays of all layers together may take while calibration runs; those beyond are built anew for each batch."""


class CrossbarRanges:
    """What calibration saw of a layer: the magnitudes of its inputs, and of the currents of each slice.

    Parameters
    ----------
    design
        The crossbar.
    """

    def __init__(self, design: RRAMCrossbar) -> None:
        self.design = design
        slices = 1 if design.adc is None or design.analog_weight_slices else design.mapping.slices
        self._inputs = RangeObserver()
        self._negative = 0
        by_column = design.adc is not None and design.adc.range_scope == "column"
        self._outputs: list[RangeObserver | ColumnObserver] = [ColumnObserver() if by_column else RangeObserver() for _ in range(slices)]
        self._pass = 0
        self._nominal: Reading | None = None
        self._kept_bytes = 0

    @property
    def passes(self) -> int:
        """Passes over the data: currents of input digits, and of voltages that bend them, are known only after the DAC's range is."""
        return 2 if self._digital_slices or (self.design.adc is not None and self.design.current_voltage is not None) else 1

    @property
    def _digital_slices(self) -> bool:
        design = self.design
        return design.adc is not None and design.input_slices > 1 and not design.analog_input_slices

    def start_pass(self, number: int) -> None:
        """Begin a pass over the data."""
        self._pass = number

    @torch.no_grad()
    def add(self, inputs: Tensor, nominal: Callable[[], Reading]) -> None:
        """Take note of the inputs of one call, and of the currents that cells at their targets give for them."""
        dac = self.design.dac
        if self._pass == 0:
            signed = dac is None or dac.signed
            self._inputs.add(inputs if signed else inputs.clamp(min=0.0))
            self._negative += 0 if signed else int((inputs < 0).sum())
        if self.design.adc is None or self._pass < self.passes - 1:
            return
        reading = self._nominal or self._keep(nominal())
        operator, arrays = reading.operator, reading.arrays
        for drive, unit in self._drives(inputs, reading):
            for line in arrays.lines:
                for tile, terms in zip(arrays.tiles, line.terms, strict=True):
                    currents = unit * reading.products(drive.part(operator, tile), terms)
                    observer = self._outputs[line.slice]
                    if not self.design.adc.signed:
                        currents = currents.clamp(min=0.0)
                    if isinstance(observer, RangeObserver):
                        observer.add(currents)
                    elif not line.references:
                        observer.add(currents.movedim(currents.dim() - 1 - operator.dimensions, 0))

    def _drives(self, inputs: Tensor, nominal: Reading) -> list[tuple[Drive, float]]:
        """Return what the rows carry at a time, and what one of its units is worth to the range of a conversion."""
        if self.passes == 1:
            return [(Drive([(1.0, inputs)], inputs), 1.0)]
        drive, unit = replace(nominal, input_range=self.input_range()).drive(inputs)
        if not self._digital_slices:
            return [(drive, unit)]
        return [(Drive([(1.0, digits)], drive.codes, drive.full), 1.0) for _, digits in drive.slices]

    def _keep(self, reading: Reading) -> Reading:
        """Keep nominal arrays for the next batch, if there is room beside those of other layers."""
        terms = [one for line in reading.arrays.lines for one in line.terms]
        size = sum(one.weight.numel() * one.weight.element_size() for one in terms)
        if size + sum(other._kept_bytes for other in _KEEPING) <= KEPT_BYTES:
            self._nominal, self._kept_bytes = reading, size
            _KEEPING.add(self)
        return reading

    def input_range(self) -> float | None:
        """Return the DAC's full scale, or None where each batch has its own."""
        return None if self.design.dac is None else full_scale(self.design.dac, self._inputs)

    def output_ranges(self) -> list[Range] | None:
        """Return the ADC's full scale for each slice, or None where each batch has its own."""
        adc = self.design.adc
        if adc is None:
            return None
        found: list[Range | None] = [
            full_scale(adc, observer) if isinstance(observer, RangeObserver) else observer.full_scales(adc) for observer in self._outputs
        ]
        given = [one for one in found if one is not None]
        if not given:
            return None
        # A slice that no weight reaches was never seen to carry a current: any range fits it.
        largest = max(float(torch.as_tensor(one).max()) for one in given)
        return [largest if one is None else one for one in found]

    def describe(self, layer: str) -> Iterator[ConverterRange]:
        """Yield what was chosen for each converter."""
        dac, adc, chosen = self.design.dac, self.design.adc, self.output_ranges()
        if dac is not None:
            yield ConverterRange.of(layer, "DAC", dac, self.input_range(), self._inputs)
        if adc is None:
            return
        for s, observer in enumerate(self._outputs):
            name = "ADC" if len(self._outputs) == 1 else f"ADC of slice {s}"
            # Networks of wires are solved when cells are programmed, which calibration does not wait for.
            name = name if self.design.wires is None else f"{name}, as without wires"
            own = None if chosen is None else chosen[s]
            if isinstance(observer, ColumnObserver):
                yield observer.describe(layer, f"{name}, by column", adc, own)
            else:
                yield ConverterRange.of(layer, name, adc, None if own is None else float(own), observer)

    def warnings(self, layer: str, source: str) -> list[str]:
        """Return what could not be done as asked."""
        found = []
        chosen: list[tuple[Converter | None, object, str]] = [
            (self.design.dac, self.input_range(), "DAC"),
            (self.design.adc, self.output_ranges(), "ADC"),
        ]
        for converter, full, label in chosen:
            if converter is not None and full is None and converter.range_policy != "per_batch":
                found.append(
                    f"Layer `{layer}`: {label} range policy '{converter.range_policy}' had no {source}; "
                    "the range is each batch's own maximum"
                )
        if self._negative:
            share = self._negative / self._inputs.observations
            found.append(
                f"Layer `{layer}`: no range policy of a DAC without a sign serves the {share:.1%} of its inputs below zero: they clip"
            )
        return found


_KEEPING: WeakSet[CrossbarRanges] = WeakSet()
"""Who keeps nominal arrays now: it bounds memory, and no number depends on it."""
