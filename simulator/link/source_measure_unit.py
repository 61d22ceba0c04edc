"""The adapter of a source-measure unit with one cell on its probes: an example of what a laboratory's own adapter looks like."""

from typing import Any

import numpy as np

from devices.design import Design
from simulator.link.device import Cells, Description, Device, DeviceError, Floats


class SourceMeasureCommands(Design):
    """What the instrument is told; write down here what its manual says.

    Parameters
    ----------
    program
        Brings the cell to a conductance; ``{siemens}`` is the target.
    source
        Sets the voltage of the next measurement; ``{volts}`` is it.
    measure
        Asks for the conductance in siemens, measured at that voltage.
    error
        Asks for the oldest error; an answer that begins with 0 is none.

    Examples
    --------
    >>> SourceMeasureCommands().program.format(siemens=2e-5)
    'CELL:PROG 2.000000e-05'
    """

    program: str = "CELL:PROG {siemens:.6e}"
    source: str = "SOUR:VOLT {volts:.6e}"
    measure: str = "MEAS:COND?"
    error: str = "SYST:ERR?"


class SourceMeasureUnit(Device):
    """One cell, programmed and read through VISA.

    Parameters
    ----------
    resource
        VISA name of the instrument, as ``GPIB0::8::INSTR``.
    backend
        VISA library: empty for the installed one, ``@py`` for pyvisa-py, ``FILE@sim`` for pyvisa-sim.
    commands
        What the instrument understands.
    limits
        Range of the cell's conductance and of the voltage.

    Raises
    ------
    ValueError
        Where no such instrument answers.

    Examples
    --------
    >>> SourceMeasureUnit("GPIB0::8::INSTR", backend="smu.yaml@sim")  # doctest: +SKIP
    """

    def __init__(
        self,
        resource: str,
        *,
        backend: str = "",
        commands: SourceMeasureCommands | None = None,
        limits: Cells | None = None,
    ) -> None:
        try:
            import pyvisa
        except ImportError:
            raise ValueError("a source-measure unit needs the package pyvisa; run: pip install 'inloop[instrument]'") from None
        self.commands = commands or SourceMeasureCommands()
        self.limits = limits or Cells(tiles=1, rows=1, columns=1, g_min_siemens=1e-6, g_max_siemens=1e-4, volts_max=0.2)
        try:
            opened: Any = pyvisa.ResourceManager(backend).open_resource(resource, read_termination="\n", write_termination="\n")
            self._instrument = opened
            self._identity = str(self._instrument.query("*IDN?")).strip()
        except (pyvisa.Error, OSError, ValueError) as error:
            raise ValueError(f"Argument `resource` must be an instrument that answers, but {resource!r} does not ({error})") from None
        if self._identity.count(",") != 3:  # IEEE 488.2: maker, model, serial number, firmware
            self._instrument.close()
            raise ValueError(f"Argument `resource` must be an instrument that answers, but {resource!r} does not say what it is")

    def describe(self) -> Description:
        """Return what the instrument calls itself, and its limits."""
        maker, model, serial, firmware = [*self._identity.split(","), "", "", "", ""][:4]
        return Description(name=f"{maker} {model}".strip(), identity=serial or self._identity, firmware=firmware, cells=self.limits)

    def program_cells(self, tile: int, targets: Floats, seed: int, trial: int) -> None:
        """Bring the cell to its target."""
        target = self._number("targets", targets, (1, 1))
        if not self.limits.g_min_siemens <= target <= self.limits.g_max_siemens:
            raise DeviceError(
                f"the target must be from {self.limits.g_min_siemens} to {self.limits.g_max_siemens} siemens, but is {target:.4g}"
            )
        self._tell(self.commands.program.format(siemens=target))

    def read_cells(self, tile: int, volts: Floats, read: int) -> Floats:
        """Return the current at each voltage."""
        if volts.ndim != 2 or volts.shape[1] != 1 or float(np.abs(volts).max(initial=0.0)) > self.limits.volts_max * (1 + 1e-6):
            raise DeviceError(f"the voltages must be of shape (batch, 1) and at most {self.limits.volts_max} V, but are not")
        currents = np.empty(volts.shape, np.float32)
        for index, value in enumerate(volts[:, 0]):
            self._tell(self.commands.source.format(volts=float(value)))
            currents[index] = float(value) * float(self._instrument.query(self.commands.measure))
        return currents

    def close(self) -> None:
        """Let go of the instrument."""
        self._instrument.close()

    def _number(self, name: str, values: Floats, shape: tuple[int, ...]) -> float:
        if values.shape != shape or not np.isfinite(values).all():
            raise DeviceError(f"the {name} must be finite and of shape {shape}, but are not")
        return float(values.ravel()[0])

    def _tell(self, command: str) -> None:
        self._instrument.write(command)
        answer = str(self._instrument.query(self.commands.error)).strip()
        if not answer.startswith("0"):
            raise DeviceError(f"the instrument refused {command!r}: {answer}")
