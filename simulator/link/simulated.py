"""A simulated chip behind a link: the layers that clients open lie on a design, or in the place of a compiled chip's own."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from devices.base import Hardware
from simulator._isolation import one_thread
from simulator.chip import Chip
from simulator.environment import inloop_version
from simulator.hardware import HardwareLayer, Mode
from simulator.link.cells import CellArray, cells_of
from simulator.link.device import Description, Device, DeviceError, Floats, Integers, NoRoomError, NotTakenError
from simulator.link.messages import Array, MessageError
from simulator.link.protocol import OpenLayer
from simulator.link.trees import borrowed, join, split, tensor_of
from simulator.operators import LinearOperator
from simulator.weight_layers import NotMappedError, WeightLayer


class SimulatedDevice(Device):
    """Layers of clients on simulated hardware, by the code that computes them in this process: the bits are the same.

    Parameters
    ----------
    hardware
        A design, which takes any layer; or a compiled chip, whose layers keep their designs and converter ranges and take new weights
        of their own shapes.
    layers_max, bytes_max
        Most layers that clients may open, and most bytes of their weights together.

    Examples
    --------
    >>> from devices import RRAMCrossbar
    >>> SimulatedDevice(RRAMCrossbar.preset("wan_nature_2022")).describe().simulated
    True
    """

    is_trusted = True
    """They have the same bits as in the client's own process, whatever they are."""

    def __init__(self, hardware: Hardware | Chip, *, layers_max: int = 10_000, bytes_max: int = 8 << 30) -> None:
        if not isinstance(hardware, Hardware | Chip):
            raise ValueError(f"Argument `hardware` must be a design or a compiled chip, but got {type(hardware).__name__}")
        self._hardware = hardware
        self._layers: dict[str, HardwareLayer] = {}
        self._states: dict[str, str] = {}
        self._layers_max, self._bytes_max = layers_max, bytes_max
        cells = None if isinstance(hardware, Chip) else cells_of(hardware)
        self._cells: CellArray | None = cells

    def describe(self) -> Description:
        """Return designs, identity and limits."""
        hardware = self._hardware
        if isinstance(hardware, Chip):
            known = {name: layer.design for name, layer in hardware.layers.items()}
            designs = {name: design.to_toml_dict() for name, design in known.items() if isinstance(design, Hardware)}
            print_of = hashlib.sha256("".join(design.fingerprint() for design in known.values() if isinstance(design, Hardware)).encode())
            return Description(
                name="simulated chip",
                identity=print_of.hexdigest()[:16],
                firmware=f"inloop {inloop_version()}",
                simulated=True,
                designs=designs,
                layers={name: list(layer.weight.shape) for name, layer in hardware.layers.items()},
                ranges_given=True,
            )
        return Description(
            name=f"simulated {type(hardware).__name__}",
            identity=hardware.fingerprint(),
            firmware=f"inloop {inloop_version()}",
            simulated=True,
            designs={"*": hardware.to_toml_dict()},
            cells=None if self._cells is None else self._cells.limits,
        )

    def status(self) -> dict[str, Any]:
        """Return how many layers are open and programmed."""
        return {"open_layers": len(self._layers), "programmed_layers": len(self._states)}

    def open_layer(self, request: OpenLayer, weight: Floats) -> dict[str, Any]:
        """Lower a layer onto the design; or give an open one new weights."""
        values = tensor_of(weight)
        operator = request.operator
        axes = 2 if operator.dimensions == 0 else 2 + operator.dimensions
        if values.dtype != torch.float32 or values.dim() != axes or values.numel() == 0 or not bool(torch.isfinite(values).all()):
            raise DeviceError(
                f"the weights of layer `{request.name}` must be finite float32 of {axes} axes, but are {values.dtype} {tuple(values.shape)}"
            )
        if values.shape[0] % operator.groups:
            raise DeviceError(
                f"the {values.shape[0]} outputs of layer `{request.name}` must be in {operator.groups} equal groups, but cannot be"
            )
        present = self._layers.get(request.layer)
        if present is not None and present.weight.shape == values.shape:
            assert present.master is not None
            with torch.no_grad():
                present.master.copy_(values)
        else:
            self._require_room(request.layer, values)
            present = self._lowered(request, values)
        placement = asdict(present.placement)
        self._layers[request.layer] = present
        self._states.pop(request.layer, None)
        return placement

    def close_layer(self, layer: str) -> None:
        """Forget a layer."""
        self._layers.pop(layer, None)
        self._states.pop(layer, None)

    def close_client(self, client: str) -> None:
        """Forget the layers of a client."""
        for layer in [name for name in self._layers if name.startswith(f"{client}/")]:
            self.close_layer(layer)

    def observe_layer(self, layer: str, first: bool, inputs: Floats) -> None:
        """Observe inputs and what they lead to."""
        found = self._layer(layer)
        if first:
            found.start_calibration()
        self._run(found, inputs, Mode.CALIBRATE)

    def calibrate_layer(self, layer: str, source: str) -> tuple[list[str], list[dict[str, Any]]]:
        """Choose converter ranges; returns warnings, and a row per converter."""
        found = self._layer(layer)
        warnings = found.finish_calibration(source)
        return warnings, [asdict(one) for one in found.ranges]

    def program_layer(self, layer: str, seed: int, trial: int) -> str:
        """Program a layer; the state's name says of what weights, seed and trial it is."""
        found = self._layer(layer)
        with one_thread():
            found.program(seed, trial)
        digest = hashlib.sha256(found.weight.detach().contiguous().numpy().tobytes())
        digest.update(f"{found.name} {seed} {trial} {self.describe().identity}".encode())
        self._states[layer] = digest.hexdigest()[:16]
        return self._states[layer]

    def read_layer(self, layer: str, state: str, read: int, inputs: Floats) -> Floats:
        """Return the layer's outputs without its bias: the read's noise is that of its number."""
        found = self._in_state(layer, state)
        found.reads = read - 1
        return self._run(found, inputs, Mode.HARDWARE).numpy()

    def age_layer(self, layer: str, state: str, seconds: float) -> None:
        """Let simulated time pass for a layer."""
        self._in_state(layer, state).age(seconds)

    def nudge_layer(self, layer: str, state: str, step: int, most: int | None, change: Floats) -> tuple[int, Floats]:
        """Move a layer's cells by pulses; the state keeps its name, and counts the reads on."""
        from simulator.pulse_training import nudge  # here, because that module knows remote layers, which know this package

        with torch.no_grad(), one_thread():
            spent, left = nudge(self._in_state(layer, state), tensor_of(change), most, step)
        return spent, left.numpy()

    def cost_layer(self, layer: str, inputs: Floats, outputs: Floats) -> list[dict[str, Any]]:
        """Return the cost rows of one read."""
        found = self._layer(layer)
        with one_thread():
            return [asdict(row) for row in found.cost(tensor_of(inputs), tensor_of(outputs))]

    def save_layer(self, layer: str) -> tuple[dict[str, Any], dict[str, Array]]:
        """Return programmed cells, ranges, seed, age and counters."""
        tree, arrays = split({"state": self._states.get(layer), "extra": self._layer(layer).get_extra_state()})
        return tree, arrays

    def load_layer(self, layer: str, tree: dict[str, Any], arrays: dict[str, Array]) -> None:
        """Bring a layer into a state that `save_layer` returned."""
        found = self._layer(layer)
        state = join(tree, arrays)
        try:
            found.set_extra_state(state["extra"])
            name = state["state"]
        except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
            self.close_layer(layer)  # it may have taken over half of it
            raise DeviceError(f"the state of layer `{found.name}` must be one that this device saved, but is not ({error})") from None
        self._states.pop(layer, None)
        if isinstance(name, str) and found.programmed:
            self._states[layer] = name

    def program_cells(self, tile: int, targets: Floats, seed: int, trial: int) -> None:
        """Program a tile of bare cells."""
        self._bare().program_cells(tile, targets, seed, trial)

    def pulse_cells(self, tile: int, pulses: Integers, step: int) -> None:
        """Send pulses to a tile of bare cells."""
        self._bare().pulse_cells(tile, pulses, step)

    def read_cells(self, tile: int, volts: Floats, read: int) -> Floats:
        """Read a tile of bare cells."""
        return self._bare().read_cells(tile, volts, read)

    def age_cells(self, seconds: float) -> None:
        """Let simulated time pass for the bare cells."""
        self._bare().age_cells(seconds)

    def reset(self) -> None:
        """Forget all layers and bare cells."""
        self._layers.clear()
        self._states.clear()
        if self._cells is not None:
            self._cells.reset()

    def _lowered(self, request: OpenLayer, values: Tensor) -> HardwareLayer:
        from simulator.lowering import lower  # here, because lowering a remote layer imports this package

        given: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in request.operator.model_dump().items()}
        operator = LinearOperator(**given)
        layer = WeightLayer(request.kind, operator, nn.Parameter(values), note=request.note)
        hardware = self._hardware
        if not isinstance(hardware, Chip):
            return _taken(lambda: lower(hardware, layer, request.name, request.seed).eval())
        served = hardware.layers.get(request.name)
        if served is None or served.weight.shape != values.shape or served.operator != operator:
            names = ", ".join(f"{name} {tuple(one.weight.shape)}" for name, one in hardware.layers.items())
            raise NotTakenError(f"the served chip has no layer `{request.name}` of this kind and shape; it has {names}: digital")
        lowered = _taken(lambda: lower(served.design, layer, request.name, request.seed))  # type: ignore[arg-type]
        lowered.set_extra_state(served.get_extra_state())
        return lowered.eval()

    def _require_room(self, handle: str, values: Tensor) -> None:
        others = [layer for name, layer in self._layers.items() if name != handle]
        taken = sum(layer.weight.numel() * 4 for layer in others) + values.numel() * 4
        if len(others) >= self._layers_max or taken > self._bytes_max:
            raise NoRoomError(
                f"the layers that are open must be at most {self._layers_max} with {self._bytes_max} bytes of weights, "
                f"but this one would make {len(others) + 1} with {taken}; close some or reset the device"
            )

    def _layer(self, handle: str) -> HardwareLayer:
        if handle not in self._layers:
            raise MessageError(
                "not_open",
                f"layer {handle!r} must be open, but is not: the device was reset or restarted, or refused its state; program again",
            )
        return self._layers[handle]

    def _in_state(self, handle: str, state: str) -> HardwareLayer:
        found = self._layer(handle)
        if self._states.get(handle) != state:
            raise MessageError("not_programmed", f"layer `{found.name}` must be programmed as its client knows it, but is not; program it")
        return found

    def _run(self, layer: HardwareLayer, inputs: Floats, mode: Mode) -> Tensor:
        layer.mode = mode
        try:
            with torch.no_grad(), one_thread():
                result: Tensor = layer(borrowed(inputs))
                return result
        finally:
            layer.mode = Mode.HARDWARE

    def _bare(self) -> CellArray:
        if self._cells is None:
            raise self._cannot("give access to its cells")
        return self._cells


def _taken(lowered: Callable[[], HardwareLayer]) -> HardwareLayer:
    try:
        return lowered()
    except NotMappedError as error:
        raise NotTakenError(str(error)) from None
