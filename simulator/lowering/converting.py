"""The converters of a layer's arrays as fabrication left them: which output goes through which, and what errors each has."""

from dataclasses import dataclass

import torch
from torch import Tensor

from devices.rram import RRAMCrossbar
from kernels.random import Key
from simulator.lowering.arrays import Line, output_blocks
from simulator.operators import LinearOperator, RowTile


@dataclass(frozen=True)
class ConverterTables:
    """Transfers of the converters of all arrays.

    Attributes
    ----------
    thresholds
        For each tile the ADCs' thresholds in steps, (converters, edges), or None where they are uniform.
    levels
        For each tile what its DACs put out for each magnitude, or None where they are uniform.
    outputs, references
        Array of each output (of each reference column), and its first column there.
    converters
        Converters of an array.
    columns_per_adc
        Columns that share a converter; 0 where all of an array do.
    crosspoints
        Columns of a weight in each slice.
    """

    thresholds: list[Tensor] | None
    levels: list[Tensor] | None
    outputs: tuple[Tensor, Tensor]
    references: tuple[Tensor, Tensor]
    converters: int
    columns_per_adc: int
    crosspoints: int

    def driven(self, values: Tensor, t: int) -> Tensor:
        """Return what rows of a tile carry for digits: the level of each magnitude, with its sign."""
        assert self.levels is not None
        return self.levels[t][values.abs().long()] * values.sign()

    def index(self, lines: list[Line], references: bool) -> Tensor:
        """Return the converter of each line and column, (lines, all columns)."""
        arrays, columns = self.references if references else self.outputs
        found = []
        for line in lines:
            # Plus and minus column lie side by side; a pair that is subtracted first is converted once.
            place = columns + (line.slice if references else line.slice * self.crosspoints + (line.factor < 0))
            within = torch.zeros_like(place) if self.columns_per_adc == 0 else place // self.columns_per_adc
            found.append(arrays * self.converters + within)
        return torch.stack(found)


def converter_tables(
    design: RRAMCrossbar,
    operator: LinearOperator,
    tiles: tuple[RowTile, ...],
    outputs: int,
    groups_per_array: int,
    key: Key,
    device: torch.device,
) -> ConverterTables | None:
    """Draw the converters of all arrays of a layer, or return None where all are uniform.

    Parameters
    ----------
    design
        The crossbar.
    operator, tiles
        The linear map and its rows cut into arrays.
    outputs
        Of the layer.
    groups_per_array
        Groups that lie on an array's diagonal.
    key
        Stream of the fabrication.
    device
        Of the weights.
    """
    dac, adc, mapping = design.dac, design.adc, design.mapping
    uneven_dac = dac is not None and dac.architecture is not None
    uneven_adc = adc is not None and adc.architecture is not None
    if not (uneven_dac or uneven_adc):
        return None
    levels = None
    if dac is not None and uneven_dac:
        levels = [dac.transfer(key.fold("DAC", t)).edges[0].to(device) for t in range(len(tiles))]
    blocks = output_blocks(design, operator, outputs)
    each, per_array = outputs // operator.groups, design.weights_per_row
    position = torch.arange(outputs)
    group, within = position // each, position % each
    wide = mapping.crosspoints * mapping.slices
    arrays = group // groups_per_array * len(blocks) + within // per_array
    columns = (group % groups_per_array * each + within % per_array) * wide
    sides = torch.arange(operator.groups * len(blocks))
    reference_columns = torch.full_like(sides, design.columns - mapping.slices)
    thresholds, per_adc, converters = None, 0, 1
    if adc is not None and adc.architecture is not None:
        per_adc = 0 if adc.architecture.common and adc.architecture.offset_sigma_lsb == 0 else adc.columns_per_adc
        converters = 1 if per_adc == 0 else -(-design.columns // per_adc)
        count = int(arrays.max()) + 1
        thresholds = [
            torch.cat([adc.transfer(key.fold("ADC", t, array), converters).edges for array in range(count)]).to(device)
            for t in range(len(tiles))
        ]
    return ConverterTables(
        thresholds,
        levels,
        (arrays.to(device), columns.to(device)),
        ((sides // len(blocks) // groups_per_array * len(blocks) + sides % len(blocks)).to(device), reference_columns.to(device)),
        converters,
        per_adc,
        mapping.crosspoints,
    )
