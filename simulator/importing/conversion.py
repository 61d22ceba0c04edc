"""Configurations of other simulators as designs, with an account of every field."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import tomli_w

from devices import RRAMCrossbar
from devices.design import DesignError
from simulator.importing.aihwkit import from_aihwkit
from simulator.importing.crosssim import from_crosssim
from simulator.importing.ledger import TAKEN, Row
from simulator.importing.reading import read_configuration


@dataclass(frozen=True)
class Imported:
    """A design made of another simulator's configuration.

    Attributes
    ----------
    design
        The design.
    simulator
        Whose configuration it was.
    frame
        A row per field that is not off: ``field``, ``value``, ``outcome`` ("taken", "approximated", "no counterpart", or "elsewhere" for
        what belongs to a call) and ``note``: where it is in the design, or why it is not.
    source
        Name of the file.
    """

    design: RRAMCrossbar
    simulator: str
    frame: pd.DataFrame
    source: str

    def __str__(self) -> str:
        lines = [f"{self.source}: a configuration of {self.simulator}"]
        for outcome, part in self.frame.groupby("outcome", sort=False):
            lines.append(f"{outcome} ({len(part)})")
            lines += [f"  {row['field']} = {row['value']!s:.40}: {row['note']}" for row in part.to_dict(orient="records")]
        return "\n".join(lines)

    def to_toml(self) -> str:
        """Return the design as a preset: what ``RRAMCrossbar.preset(PATH)`` reads."""
        design = self.design.to_toml_dict()
        brief = _without_none(design)
        design = brief if RRAMCrossbar.from_dict(brief) == self.design else design
        source = f"imported from {self.source}, a configuration of {self.simulator}"
        preset: dict[str, Any] = {
            "type": design.pop("type"),
            "description": f"{source}; {int((self.frame['outcome'] != TAKEN).sum())} of its fields are not taken as they are",
            "design": design,
            "sources": {name: {"where": source} for name in design},
        }
        return tomli_w.dumps(preset)


def import_design(path: str | Path) -> Imported:
    r"""Make a crossbar's design of a configuration of aihwkit or CrossSim.

    Nothing of the file is executed. What has no counterpart is in the list that comes with the design, never dropped.

    Parameters
    ----------
    path
        Of aihwkit, an inference configuration: printed to a text file (``print(rpu_config)``), written as JSON by field names, or the
        Python that assigns it. Of CrossSim, the JSON of its parameters.

    Returns
    -------
    Imported
        Print it for the list; ``to_toml()`` is the preset.

    Raises
    ------
    ValueError
        If the file cannot be read, belongs to neither, or holds a value that is not allowed.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "rpu_config.py"
    ...     _ = path.write_text("rpu_config = InferenceRPUConfig()\nrpu_config.forward.out_res = 1 / (2**8 - 2)\n")
    ...     imported = import_design(path)
    >>> imported.design.adc.bits, imported.design.cell.g_max_siemens
    (8, 2.5e-05)
    """
    path = Path(path).expanduser()
    configuration = read_configuration(path)
    record = configuration.record
    if record.name.endswith("RPUConfig") or "forward" in record.fields or "noise_model" in record.fields:
        simulator, convert = "aihwkit", from_aihwkit
    elif "xbar" in record.fields and "core" in record.fields:
        simulator, convert = "CrossSim", from_crosssim
    else:
        raise ValueError(
            f"configuration `{path}` must be one of aihwkit (`forward`, `noise_model`) or CrossSim (`core`, `xbar`), "
            f"but has {', '.join(list(record.fields)[:6]) or 'no fields'}; check the file"
        )
    try:
        design, rows = convert(record)
    except DesignError as error:
        raise ValueError(f"configuration `{path}` must be a possible crossbar, but is not: {error}") from None
    except ValueError as error:
        raise ValueError(f"configuration `{path}`: {error}") from None
    rows += [Row(line, "", "no counterpart", "not an assignment of a field") for line in configuration.unread]
    columns = ["field", "value", "outcome", "note"]
    return Imported(design, simulator, pd.DataFrame([vars(row) for row in rows], columns=columns), path.name)


def _without_none(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: _without_none(value) if isinstance(value, dict) else value for name, value in fields.items() if value != "none"}
