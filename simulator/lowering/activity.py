"""What one call makes the arrays of a crossbar layer do, for its cost."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from devices.base import Cost
from devices.rram import CrossbarActivity, crossbar_cost
from simulator.lowering.reading import digits_of

if TYPE_CHECKING:
    from simulator.lowering.crossbar import CrossbarLayer


def layer_cost(layer: "CrossbarLayer", inputs: Tensor, outputs: Tensor) -> list[Cost]:
    """Return the cost rows of one read of these inputs, from the target conductances and the inputs' own voltages.

    Parameters
    ----------
    layer
        The layer.
    inputs, outputs
        Of the call.
    """
    design, operator, mapping = layer.design, layer.operator, layer.design.mapping
    groups, tiles = operator.groups, len(layer.tiles)
    mapped = layer._map()
    targets = mapped.targets_siemens if mapped.present is None else mapped.targets_siemens * mapped.present
    present = targets.numel() if mapped.present is None else int(mapped.present.sum())
    count = layer.weight.shape[0]
    # All cells of a row see the same voltage: sum their conductances first, and one output a group carries sum V^2 G.
    row_siemens = targets[:, :, :count].sum(dim=(0, 1)).unflatten(0, (groups, -1)).sum(1)
    if layer.references:
        row_siemens = row_siemens + targets[:, :, count:].sum(dim=(0, 1)).unflatten(0, (groups, -1)).sum(1)
    power = _relative_power(layer, operator.surround(inputs))
    siemens = float(operator(power, row_siemens).double().sum())
    vectors, slices = layer.vectors(outputs), mapping.slices
    columns, rows = count // groups, layer.weight[0].numel()
    blocks = -(-columns // design.weights_per_row)
    reads = design.input_slices
    # What is added in analog is converted once.
    each = (1 if design.analog_weight_slices else slices) * (1 if design.analog_input_slices else reads)
    per_output = mapping.conversions_per_slice
    references = blocks * mapping.reference_columns if mapping.separate else 0
    in_array = min(columns, design.weights_per_row)
    conversions = vectors * tiles * each * (columns * per_output + references)
    width = mapping.crosspoints * mapping.slices
    cells_wide = columns * width + blocks * mapping.reference_columns * mapping.slices
    activity = CrossbarActivity(
        arrays=layer.placement.arrays,
        cells=present,
        vectors=operator.positions(outputs) * layer.groups_per_array,
        row_conversions=vectors * rows * blocks * reads,
        column_conversions=conversions,
        columns_used=(in_array * per_output + (mapping.reference_columns if mapping.separate else 0))
        * (1 if design.analog_weight_slices else slices),
        relative_siemens=siemens,
        macs=vectors * rows * columns,
        bytes_in=-(-vectors * rows * (design.dac.bits if design.dac else 32) // 8),
        bytes_out=-(-conversions * (design.adc.bits if design.adc else 32) // 8),
        reads=reads,
        row_charges=float(operator(power, torch.ones_like(row_siemens)).double().sum()) * cells_wide,
    )
    return crossbar_cost(design, layer.name, activity)


def _relative_power(layer: "CrossbarLayer", inputs: Tensor) -> Tensor:
    """Return (V / V of full scale)^2 of each input, all its slices together."""
    dac = layer.design.dac
    scale = layer.input_range if layer.input_range is not None else float(inputs.abs().amax()) if inputs.numel() else 0.0
    if scale <= 0:
        return inputs
    if dac is None or dac.slice_bits is None:
        return (inputs / scale).clamp(-1 if dac is None or dac.signed else 0, 1) ** 2
    codes = (inputs / dac.step(scale)).round().clamp(dac.lowest, dac.limit)
    full = 2**dac.level_bits - 1
    return sum(((digit / full) ** 2 for _, digit in digits_of(codes, dac.slice_bits, dac.slices)), torch.zeros(()))
