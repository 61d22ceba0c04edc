"""The resistance of the wires between cells: voltages fall along rows and columns, and every cell sees the others."""

from pydantic import Field
from torch import Tensor

from devices.design import Design
from kernels.wires import MeanField, effective_matrix, mean_field


class Wires(Design):
    """Resistance of each wire segment, and of what drives and senses the array.

    Rows are driven at their first column, columns are sensed after their last row, and every segment counts, the first and the
    last included. Cells are linear and rows are ideal voltage sources behind `source_ohm`: the network is then solved once for each
    programmed array, exactly. Read noise inside the network is the approximation ``mean_field``: a cell's voltage is taken as a share
    of its own row's input and a share of the mean input of the array (0.4 % of the standard deviation on average and 2.2 % at the
    worst output of 256 x 256 cells of 1 to 40 uS at 1.86 ohm; ``inloop bench speed/wires`` measures it).

    Parameters
    ----------
    row_ohm, column_ohm
        Resistance of one segment of a row and of a column.
    source_ohm, sense_ohm
        In series with every row's driver and every column's sense node.

    Examples
    --------
    >>> import torch
    >>> wires = Wires(row_ohm=1.86, column_ohm=1.86)
    >>> cells = torch.full((64, 64), 4e-5)
    >>> bool((wires.effective(cells) < cells).all())
    True
    """

    row_ohm: float = Field(default=0.0, ge=0)
    column_ohm: float = Field(default=0.0, ge=0)
    source_ohm: float = Field(default=0.0, ge=0)
    sense_ohm: float = Field(default=0.0, ge=0)

    def effective(self, conductance: Tensor) -> Tensor:
        """Return the matrix from row voltages to column currents, siemens, of the shape (..., rows, columns) of the cells."""
        return effective_matrix(conductance, self.row_ohm, self.column_ohm, self.source_ohm, self.sense_ohm)

    def noise(self, conductance: Tensor, sigma: Tensor) -> MeanField:
        """Return the terms of the variance of the column currents for cells whose reads scatter by `sigma`, siemens."""
        return mean_field(conductance, sigma, self.row_ohm, self.column_ohm, self.source_ohm, self.sense_ohm)
