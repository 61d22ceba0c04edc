"""What a server hands requests to: a simulated chip, or the adapter of an instrument."""

from abc import ABC, abstractmethod
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from simulator.link.messages import Array
from simulator.link.protocol import OpenLayer

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.signedinteger[Any]]


class DeviceError(RuntimeError):
    """A request that the device cannot do; the message is one line that the client sees."""


class NotTakenError(DeviceError):
    """A layer that the device cannot hold: it stays with the client, which computes it digitally."""


class NoRoomError(DeviceError):
    """A layer more than the device has room for; the server then forgets the layers of clients that fell silent, if there are some."""


class Cells(BaseModel):
    """The tiles of a device that gives access to its cells.

    Attributes
    ----------
    tiles, rows, columns
        How many tiles there are, and the shape of each.
    g_min_siemens, g_max_siemens
        Range of conductances that cells can be programmed to.
    volts_max
        Largest magnitude of a read voltage.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    tiles: Annotated[int, Field(ge=1)]
    rows: Annotated[int, Field(ge=1)]
    columns: Annotated[int, Field(ge=1)]
    g_min_siemens: Annotated[float, Field(ge=0)]
    g_max_siemens: Annotated[float, Field(gt=0)]
    volts_max: Annotated[float, Field(gt=0)]


class Description(BaseModel):
    """What a device says of itself.

    Attributes
    ----------
    name
        Its name.
    identity
        What tells this one device from others of its kind: a serial number, or the fingerprint of a simulated one.
    firmware
        Version of what runs on it.
    simulated
        Whether equal requests give equal bits, so that a state can be made again, and time can be let pass.
    designs
        Designs by pattern of layer names, each as `devices.Design.to_toml_dict` writes it; empty where none is known.
    layers
        Layers that it holds, with the shapes of their weights; None takes any layer.
    ranges_given
        Whether its converters' ranges are set already, so that a client does not calibrate them.
    cells
        Its tiles, where it gives access to cells; None where it does not.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str
    identity: str
    firmware: str = ""
    simulated: bool = False
    designs: dict[str, dict[str, Any]] = Field(default_factory=dict)
    layers: dict[str, list[int]] | None = None
    ranges_given: bool = False
    cells: Cells | None = None


class Device(ABC):
    """Extension point: what stands behind a link. An adapter of an instrument is one file with a subclass.

    Requests come one at a time, all but `status` in one thread. What a device does not define is refused, and the client is told so; an
    instrument that programs conductances and reads currents defines `describe`, `program_cells` and `read_cells`.

    Examples
    --------
    >>> class OneResistor(Device):
    ...     def describe(self):
    ...         cells = Cells(tiles=1, rows=1, columns=1, g_min_siemens=1e-6, g_max_siemens=1e-4, volts_max=0.2)
    ...         return Description(name="one resistor", identity="bench 3", cells=cells)
    ...     def read_cells(self, tile, volts, read):
    ...         return volts * 5e-5
    >>> OneResistor().read_cells(0, np.full((1, 1), 0.1), 0).tolist()
    [[5e-06]]
    """

    is_trusted = False
    """Whether its answers are passed on as they are, where those of others must be finite numbers of the right shape, and whether
    it reads inputs where a client on this machine has put them: it must not keep them."""

    @abstractmethod
    def describe(self) -> Description:
        """Return what the device is."""

    def status(self) -> dict[str, Any]:
        """Return what a person would like to know: temperatures, what is programmed."""
        return {}

    def open_layer(self, request: OpenLayer, weight: Floats) -> dict[str, Any]:
        """Take the weights of a layer, or new ones for a layer that is open; returns where it lies, as `simulator.hardware.Placement`."""
        raise self._cannot("hold layers")

    def close_layer(self, layer: str) -> None:
        """Forget a layer."""
        raise self._cannot("hold layers")

    def observe_layer(self, layer: str, first: bool, inputs: Floats) -> None:
        """Look at inputs on which converter ranges will be chosen; `first` forgets what was observed before."""
        raise self._cannot("calibrate converters")

    def calibrate_layer(self, layer: str, source: str) -> tuple[list[str], list[dict[str, Any]]]:
        """Choose converter ranges from what was observed; returns warnings, and what was chosen."""
        raise self._cannot("calibrate converters")

    def program_layer(self, layer: str, seed: int, trial: int) -> str:
        """Program a layer's weights; returns a name of the state that this leaves."""
        raise self._cannot("hold layers")

    def read_layer(self, layer: str, state: str, read: int, inputs: Floats) -> Floats:
        """Return the layer's outputs without its bias."""
        raise self._cannot("hold layers")

    def age_layer(self, layer: str, state: str, seconds: float) -> None:
        """Let simulated time pass for a layer."""
        raise self._cannot("let time pass: wait instead")

    def nudge_layer(self, layer: str, state: str, step: int, most: int | None, change: Floats) -> tuple[int, Floats]:
        """Move a layer's cells by the pulses that a change of its weights is worth; returns the pulses, and what is left of the change."""
        raise self._cannot("move weights by pulses")

    def cost_layer(self, layer: str, inputs: Floats, outputs: Floats) -> list[dict[str, Any]]:
        """Return the cost rows of one read, as fields of `devices.Cost`."""
        raise self._cannot("tell what a read costs")

    def save_layer(self, layer: str) -> tuple[dict[str, Any], dict[str, Array]]:
        """Return a layer's state but its weights: a tree, and the arrays that it names."""
        raise self._cannot("save a layer's state")

    def load_layer(self, layer: str, tree: dict[str, Any], arrays: dict[str, Array]) -> None:
        """Bring a layer into a state that `save_layer` returned."""
        raise self._cannot("load a layer's state")

    def program_cells(self, tile: int, targets: Floats, seed: int, trial: int) -> None:
        """Program a tile's cells to conductances in siemens, of shape (rows, columns)."""
        raise self._cannot("program cells")

    def pulse_cells(self, tile: int, pulses: Integers, step: int) -> None:
        """Send each cell pulses, potentiating above zero; of shape (rows, columns)."""
        raise self._cannot("send pulses to cells")

    def read_cells(self, tile: int, volts: Floats, read: int) -> Floats:
        """Return the columns' currents in ampere, (batch, columns), for row voltages of shape (batch, rows)."""
        raise self._cannot("read cells")

    def age_cells(self, seconds: float) -> None:
        """Let simulated time pass for all cells."""
        raise self._cannot("let time pass: wait instead")

    def close_client(self, client: str) -> None:
        """Forget the layers of a client that has gone: their handles begin with its name and a slash."""
        return None

    def reset(self) -> None:
        """Forget layers and return to how the device was found."""
        return None

    def close(self) -> None:
        """Let go of the instrument; called when the server stops."""
        return None

    def _cannot(self, what: str) -> DeviceError:
        return DeviceError(f"the device `{self.describe().name}` cannot {what}")
