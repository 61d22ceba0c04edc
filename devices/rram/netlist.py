"""A crossbar as a circuit in SPICE's language: drivers, wires, cells, and the sense node of each column."""

import io
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from devices.rram.current_voltage import CurrentLaw
from devices.rram.wires import Wires


def spice_netlist(
    conductance: Tensor,
    voltages: Tensor | Sequence[float],
    *,
    wires: Wires | None = None,
    current_voltage: CurrentLaw | None = None,
    title: str = "crossbar",
) -> str:
    """Return the netlist of an array at one input; ``ngspice -b FILE`` solves it and prints the current of every column.

    Row i is driven by ``Vrow<i>`` on the left, column j ends in the ammeter ``Vsense<j>`` to ground behind its last row, and the current
    that flows into ground there is positive. A wire without resistance is one node, and a cell without conductance is left out. Noise of
    reads is not in the netlist.

    Parameters
    ----------
    conductance
        Siemens, shape (rows, columns), at least 0: the cells as they stand.
    voltages
        Volts, one for each row.
    wires
        Resistance of segments, drivers and sense nodes; None for ideal wires.
    current_voltage
        The law of nonlinear cells; None for resistors.
    title
        First line of the netlist, a comment in SPICE.

    Returns
    -------
    str
        The netlist, values in full float64 precision.

    Raises
    ------
    ValueError
        Where `conductance` is no matrix of finite numbers of at least 0, or `voltages` has another length than its rows.

    Examples
    --------
    >>> text = spice_netlist(torch.tensor([[2e-5]]), [0.5], wires=Wires(row_ohm=2.0, column_ohm=3.0, sense_ohm=100.0))
    >>> print("".join(line for line in text.splitlines(keepends=True) if line[0] in "RV"), end="")
    Vrow0 drive0 0 0.5
    Rin0 drive0 r0_0 2.0
    Rcell0_0 r0_0 c0_0 50000.0...
    Rout0 c0_0 sense0 103.0
    Vsense0 sense0 0 0
    """
    if conductance.dim() != 2 or not bool(torch.isfinite(conductance).all()) or bool((conductance < 0).any()):
        raise ValueError(
            f"Argument `conductance` must be a matrix of finite numbers of at least 0, but got {_described(conductance)}; give siemens"
        )
    volts = torch.as_tensor(voltages, dtype=torch.float64).flatten().tolist()
    rows, columns = conductance.shape
    if len(volts) != rows or not all(map(math.isfinite, volts)):
        raise ValueError(f"Argument `voltages` must hold {rows} finite numbers, one for each row, but got {len(volts)}")
    circuit = _Circuit(rows, wires or Wires())
    out = io.StringIO()
    print(f"* {' '.join(title.split())}: {rows} rows, {columns} columns, volts, ohms and siemens", file=out)
    for i, volt in enumerate(volts):
        print(f"Vrow{i} drive{i} 0 {volt!r}", file=out)
        circuit.resistor(out, f"Rin{i}", f"drive{i}", circuit.row(i, 0), circuit.input_ohm)
        for j in range(1, columns):
            circuit.resistor(out, f"Rrow{i}_{j}", circuit.row(i, j - 1), circuit.row(i, j), circuit.wires.row_ohm)
    for i, line in enumerate(conductance.double().tolist()):
        for j, siemens in enumerate(line):
            _cell(out, i, j, circuit, siemens, current_voltage)
    for j in range(columns):
        for i in range(1, rows):
            circuit.resistor(out, f"Rcolumn{i}_{j}", circuit.column(i - 1, j), circuit.column(i, j), circuit.wires.column_ohm)
        circuit.resistor(out, f"Rout{j}", circuit.column(rows - 1, j), f"sense{j}", circuit.output_ohm)
        print(f"Vsense{j} sense{j} 0 0", file=out)
    print(".options reltol=1e-9 abstol=1e-18 vntol=1e-12", file=out)
    print(".control\nset numdgt=16\nset noaskquit\nop", file=out)
    for j in range(columns):
        print(f"print i(Vsense{j})", file=out)
    print("quit\n.endc\n.end", file=out)
    return out.getvalue()


class _Circuit:
    """Names of nodes: those that a wire without resistance joins are one."""

    def __init__(self, rows: int, wires: Wires) -> None:
        self.rows, self.wires = rows, wires
        # The first segment lies between driver and first cell, the last one between last cell and sense node.
        self.input_ohm, self.output_ohm = wires.row_ohm + wires.source_ohm, wires.column_ohm + wires.sense_ohm

    def row(self, i: int, j: int) -> str:
        if not self.input_ohm:
            return f"drive{i}"
        return f"r{i}_{j if self.wires.row_ohm else 0}"

    def column(self, i: int, j: int) -> str:
        if not self.output_ohm:
            return f"sense{j}"
        return f"c{i if self.wires.column_ohm else self.rows - 1}_{j}"

    def resistor(self, out: io.StringIO, name: str, first: str, second: str, ohm: float) -> None:
        if first != second:
            print(f"{name} {first} {second} {ohm!r}", file=out)


def _cell(out: io.StringIO, i: int, j: int, circuit: _Circuit, siemens: float, law: CurrentLaw | None) -> None:
    row, column = circuit.row(i, j), circuit.column(i, j)
    if not siemens:
        return
    if law is None:
        print(f"Rcell{i}_{j} {row} {column} {1 / siemens!r}", file=out)
        return
    print(f"Bcell{i}_{j} {row} {column} I={law.spice(siemens, f'V({row},{column})')}", file=out)


def _described(conductance: Tensor) -> str:
    if conductance.dim() != 2:
        return f"shape {tuple(conductance.shape)}"
    return f"numbers from {float(conductance.min()):.4g} to {float(conductance.max()):.4g}"
