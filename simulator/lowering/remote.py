"""Layers on a chip elsewhere: master weights here, the programmed instance there."""

import weakref
from dataclasses import asdict
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from devices.base import Cost
from devices.remote import RemoteChip
from kernels.once import once_differentiable
from simulator.calibration import ConverterRange
from simulator.hardware import HardwareLayer, Mode, Placement
from simulator.link.addresses import LinkError
from simulator.link.client import connect, forget
from simulator.link.messages import Array
from simulator.link.trees import borrowed, join, split, tensor_of
from simulator.masters import WeightMark
from simulator.weight_layers import NotMappedError, WeightLayer

TRAINING_TRIALS = 1 << 40
"""Training programs a simulated chip under trials from here on, which nobody evaluates."""

Saved = tuple[dict[str, Any], dict[str, Array]]
"""What a device saved of a layer."""


class RemoteLayer(HardwareLayer):
    """A linear layer or convolution that another process or an instrument holds.

    Inputs travel there and outputs come back; the bias is added here. In train mode a forward programs the chip where the masters have
    changed since it was programmed, each time with errors of its own, reads it, and lets gradients straight through to the masters:
    forward on the chip, backward on its model, which is the masters, moved by what pulses were worth. Reads of a chip that is simulated
    have the same bits as in this process; training has not, as gradients here are not those of the programmed instance.

    What the chip held is gone when its session ends: when the connection was lost, the chip was reset or restarted. It is then not
    programmed behind the user's back; `program` sends the weights again, and the converter ranges where the chip had let them be saved.

    Parameters
    ----------
    name, seed
        See `HardwareLayer`.
    design
        Where the chip is.
    layer
        The master weights and the linear map that they are in.

    Raises
    ------
    NotMappedError
        If the chip does not take the layer; with its words.
    LinkError
        If the chip cannot be reached.
    """

    def __init__(self, name: str, seed: int, design: RemoteChip, layer: WeightLayer) -> None:
        super().__init__(name, seed, layer)
        self.design = design
        self.trial = 0
        self._programming_seed = seed
        self._training_programs = 0
        self._shapes: tuple[torch.Size, torch.Size] | None = None
        self._age = Fraction(0)
        self._state: str | None = None
        self._lost = False
        self._mark: WeightMark | None = None
        self._loaded_mark: Tensor | None = None
        self._moved: Tensor | None = None
        self._observed = False
        self._saved: Saved | None = None
        self._ranges_saved: Saved | None = None
        self._ranges_gone = False
        self._description = connect(design).describe()
        self._begin()
        try:
            self._placement = self._open()
        except LinkError as error:
            if error.code == "not_mapped":
                raise NotMappedError(str(error)) from None
            raise

    def _begin(self) -> None:
        """Take a handle of its own at the chip: a copy of a layer is another layer there."""
        self._handle = connect(self.design).new_handle(self.name)
        self._opened: dict[str, bytes] = {}
        weakref.finalize(self, forget, self.design, self._opened)

    @property
    def _is_open(self) -> bool:
        return bool(self._opened) and self._opened.get(self._handle) == connect(self.design).session

    def _lose(self) -> None:
        """Take note that the chip no longer holds the layer."""
        self._opened.clear()
        if self._state is not None:
            self._state, self._lost = None, True

    def _ask(self, kind: str, body: dict[str, Any] | None = None, **tensors: Tensor) -> tuple[dict[str, Any], dict[str, Array]]:
        arrays = {name: _array_of(tensor) for name, tensor in tensors.items()}
        try:
            answer = connect(self.design).request(kind, {"layer": self._handle, **(body or {})}, arrays)
        except LinkError as error:
            if error.code in ("not_open", "not_programmed", "no_session") or not self._is_open:
                self._lose()
            raise
        return answer.body, answer.arrays

    def _open(self) -> Placement:
        operator = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self.operator).items()}
        fields = {"name": self.name, "seed": self.seed, "kind": self.kind, "operator": operator, "note": self.note}
        body, _ = self._ask("open_layer", fields, weight=self.weight)
        session = connect(self.design).session
        assert session is not None
        self._opened[self._handle] = session
        found = Placement(**body)
        there = f"at {self.design.address}"
        return Placement(
            found.hardware, found.macs_per_vector, found.arrays, found.utilization, f"{found.note}; {there}" if found.note else there
        )

    def _ready(self) -> None:
        """Open the layer where this is a copy, a state was loaded, or the session that it was open in has ended."""
        if not self._is_open:
            self._lose()
            self._open()
            if self._ranges_saved is not None:
                self._load(self._ranges_saved)
            else:
                self._ranges_gone = bool(self.ranges) and not self._description.ranges_given
        if self._saved is not None:
            self._open()  # with the masters that were loaded with it, which need not be those that it was opened with
            self._load(self._saved)
            state = self._saved[0].get("state")
            self._saved, self._ranges_gone = None, False
            if isinstance(state, str):
                self._state, self._lost = state, False

    def _load(self, saved: Saved) -> None:
        tree, arrays = saved
        try:
            connect(self.design).request("load_layer", {"layer": self._handle, "tree": tree}, arrays)
        except LinkError:
            self._opened.clear()
            raise

    def _require_programmed(self) -> None:
        """Program the first instance; refuse to put another in the place of one that was lost."""
        if self._lost:
            raise LinkError(
                f"Layer `{self.name}`: the chip at {self.design.address} no longer holds what was programmed; call program()", "lost"
            )
        if self._state is None:
            self.program(self._programming_seed, self.trial)

    @property
    def placement(self) -> Placement:
        """Where the layer lies, as the chip says."""
        return self._placement

    @property
    def programmed(self) -> bool:
        """Whether the chip holds a programmed instance."""
        return self._state is not None or (self._saved is not None and self._saved[0].get("state") is not None)

    @torch.inference_mode(False)
    @torch.no_grad()
    def program(self, seed: int, trial: int) -> None:
        """Send the master weights and have them programmed."""
        # Said first: where this fails, a read must not program what nobody asked for.
        self._programming_seed, self.trial = seed, trial
        self._write(seed, trial)

    def _write(self, seed: int, trial: int) -> None:
        self._ready()
        if self._ranges_gone:
            raise LinkError(
                f"Layer `{self.name}`: the chip has forgotten its converters' ranges; call calibrate(data), then program()", "lost"
            )
        self._open()
        self._state = str(self._ask("program_layer", {"seed": seed, "trial": trial})[0]["state"])
        self._lost = False
        self._age, self.reads = Fraction(0), 0
        self._mark, self._moved = WeightMark.of(self.weight), None

    def age(self, seconds: float) -> None:
        """Let simulated time pass there; an instrument ages by itself and says so."""
        self._ready()
        self._require_programmed()
        self._require_current_masters()
        if seconds == 0:
            return  # an instrument cannot let time pass, and need not
        self._ask("age_layer", {"state": self._state, "seconds": float(seconds)})
        self._age += Fraction(seconds)

    def settle(self) -> None:
        """Look whether the master weights of a state just loaded are those that it was programmed from."""
        self._mark = WeightMark.stored(self.weight, self._loaded_mark) if self.programmed else None

    def _require_current_masters(self) -> None:
        if self._state is not None and not self._masters_are_current():
            raise RuntimeError(
                f"Layer `{self.name}`: the master weights changed after programming; call program() before reading in eval mode"
            )

    def _masters_are_current(self) -> bool:
        return self._mark is not None and self._mark.holds(self.weight)

    def nudge(self, change: Tensor, most: int | None, step: int) -> tuple[int, Tensor]:
        """Have the cells moved by the whole pulses that a change of the weights is worth; returns them, and what is left of it."""
        self._ready()
        self._require_programmed()
        body, arrays = self._ask("nudge_layer", {"state": self._state, "step": step, "most": -1 if most is None else most}, change=change)
        left = tensor_of(arrays["left"]).to(change.device)
        self._moved = change - left if self._moved is None else self._moved + change - left
        return int(body["spent"]), left

    def modeled(self, weight: Tensor) -> Tensor:
        """Return the weights that the chip should have: those programmed, and what pulses should have changed since."""
        return weight if self._moved is None else weight + self._moved

    def vectors(self, outputs: Tensor) -> int:
        """Return how many input vectors a call with these outputs drove: one for each position of each group."""
        return self.operator.positions(outputs) * self.operator.groups

    def forward(self, inputs: Tensor) -> Tensor:
        """Read the layer for inputs of the torch layer's shape, float32; returns the torch layer's shape."""
        if not isinstance(inputs, Tensor) or inputs.dtype != torch.float32:
            self._refuse(inputs, "a float32 tensor")
        if self.mode is not Mode.HARDWARE:
            if self.mode is Mode.CALIBRATE and not self._description.ranges_given:
                self._ready()
                self._ask("observe_layer", {"first": not self._observed}, inputs=inputs)
                self._observed = True
            return self._with_bias(self.operator(self.operator.surround(inputs), self.weight))
        self._ready()
        if self.training:
            if self._state is None or not self._masters_are_current():
                with torch.inference_mode(False), torch.no_grad():
                    self._write(self._programming_seed, TRAINING_TRIALS + self._training_programs)
                self._training_programs += 1
        else:
            self._require_programmed()
            self._require_current_masters()
        if torch.is_grad_enabled() and (inputs.requires_grad or self.weight.requires_grad):
            surrounded = self.operator.surround(inputs)
            read: Tensor = _Read.apply(surrounded, self.weight, self, inputs.detach())  # type: ignore[no-untyped-call]
        else:
            read = self.read(inputs)
        return self._with_bias(read)

    def read(self, inputs: Tensor) -> Tensor:
        """Return the outputs without bias."""
        _, arrays = self._ask("read_layer", {"state": self._state, "read": self.reads + 1}, inputs=inputs)
        self.reads += 1  # a read that was refused is none, as in this process
        expected = self._shape_of_outputs(inputs.shape)
        if arrays["outputs"].shape != expected:
            raise LinkError(
                f"Layer `{self.name}`: the chip at {self.design.address} must answer with shape {tuple(expected)}, "
                f"but did with {arrays['outputs'].shape}",
                "device",
            )
        return borrowed(arrays["outputs"]).to(inputs.device)

    def _shape_of_outputs(self, shape: torch.Size) -> torch.Size:
        """Return the shape that inputs of some shape lead to; that of the last one is kept, as most reads are of one shape."""
        if self._shapes is None or self._shapes[0] != shape:
            with torch.no_grad():
                inputs = torch.empty(shape, device="meta")
                outputs = self.operator(self.operator.surround(inputs), self.weight.detach().to("meta"))
            self._shapes = shape, outputs.shape
        return self._shapes[1]

    def _with_bias(self, outputs: Tensor) -> Tensor:
        bias: Tensor | None = self.bias
        return outputs if bias is None else outputs + bias.reshape(-1, *[1] * self.operator.dimensions)

    def start_calibration(self) -> None:
        """Forget what was observed."""
        self._observed = self._ranges_gone = False

    def finish_calibration(self, source: str) -> list[str]:
        """Have the chip choose its ranges; one that has them keeps them."""
        if self._description.ranges_given:
            return []
        self._ready()
        body, _ = self._ask("calibrate_layer", {"source": source})
        self.ranges = tuple(ConverterRange(**row) for row in body["ranges"])
        self._ranges_saved = self._saved_there()
        return [str(warning) for warning in body["warnings"]]

    @torch.no_grad()
    def cost(self, inputs: Tensor, outputs: Tensor) -> list[Cost]:
        """Return the cost rows of one read, as the chip tells them."""
        self._ready()
        try:
            body, _ = self._ask("cost_layer", {}, inputs=inputs, outputs=outputs)
        except LinkError as error:
            if error.code != "device":
                raise
            hardware = self._placement.hardware
            return [
                Cost(
                    layer=self.name,
                    hardware=hardware,
                    term="read",
                    operations=2 * self.placement.macs_per_vector,
                    note=f"not given: {error}",
                )
            ]
        return [Cost(**row) for row in body["rows"]]

    def _export(self) -> Saved | None:
        """Return what the chip holds of the layer; None where it is no simulation and cannot be held twice."""
        if self._saved is not None:
            return self._saved
        return self._saved_there() if self._is_open and self._description.simulated else self._ranges_saved

    def _saved_there(self) -> Saved | None:
        """Have the chip save the layer; None where it cannot."""
        try:
            body, arrays = self._ask("save_layer")
        except LinkError as error:
            if error.code != "device":
                raise
            return None
        return body["tree"], {name: array.copy() for name, array in arrays.items()}

    def get_extra_state(self) -> dict[str, Any]:
        """Return everything but the parameters: what the chip holds, if it is simulated, and seed, trial, age and counter."""
        saved = self._export()
        return {
            "device": self._description.identity,
            "saved": None if saved is None else join(*saved),
            "programming_seed": self._programming_seed,
            "trial": self.trial,
            "moved": self._moved,
            "training_programs": self._training_programs,
            "age": str(self._age),
            "mark": self._mark.elements if self._mark is not None and self._masters_are_current() else None,
            "reads": self.reads,
            "ranges": [asdict(one) for one in self.ranges],
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over what `get_extra_state` returned; the chip gets it before the next read."""
        stored = state.get("device", "a design in this process")
        if stored != self._description.identity:
            raise ValueError(
                f"Layer `{self.name}`: the stored state must be of the chip at {self.design.address}, {self._description.identity}, "
                f"but is of {stored}; connect to that chip"
            )
        self._saved = None if state["saved"] is None else split(state["saved"])
        self._state, self._lost, self._ranges_saved = None, False, None
        self._programming_seed, self.trial, self._age = state["programming_seed"], state["trial"], Fraction(state["age"])
        self.reads, self._moved = state["reads"], state["moved"]
        self._training_programs = state["training_programs"]
        self.ranges = tuple(ConverterRange(**one) for one in state["ranges"])
        self._loaded_mark = state["mark"]
        self.settle()

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        state["_saved"] = self._export()
        state["_mark"] = self._masters_are_current()
        state["_state"] = None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._mark = WeightMark.of(self.weight) if state["_mark"] else None
        self._begin()

    def extra_repr(self) -> str:
        """Return the line that ``print(chip)`` shows."""
        shape = " x ".join(str(size) for size in self.weight.shape)
        return f"{self.kind} {shape} on {self._placement.hardware} at {self.design.address}"


class _Read(torch.autograd.Function):
    """A read whose gradient is that of the model's own layer: forward on the chip, backward on its model."""

    @staticmethod
    def forward(ctx: Any, surrounded: Tensor, weight: Tensor, layer: RemoteLayer, inputs: Tensor) -> Tensor:
        ctx.layer = layer
        ctx.save_for_backward(surrounded, layer.modeled(weight))
        return layer.read(inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        surrounded, weight = ctx.saved_tensors
        needs = (ctx.needs_input_grad[0], ctx.needs_input_grad[1])
        return *ctx.layer.operator.gradients(upstream[0].contiguous(), surrounded, weight, needs), None, None


def _array_of(tensor: Tensor) -> Array:
    found = tensor if tensor.dtype == torch.float32 else tensor.float()
    return np.asarray(found.numpy(force=True), order="C")
