"""Quantum circuits on pulse backends: calibrated pulses, drift from trial to trial, relaxation, shots and errors of readout."""

from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from devices.base import Cost
from devices.design import DesignError
from devices.quantum import TransmonBackend
from devices.quantum.readout import multinomial_counts, read_probabilities
from kernels.random import Key, uniform
from simulator.calibration import ConverterRange
from simulator.hardware import HardwareLayer, Mode, Placement
from simulator.masters import WeightMark
from simulator.quantum.layers import QuantumModule
from simulator.weight_layers import NotMappedError, WeightLayer

SHOTS = 1024
"""Repetitions of each circuit, unless a layer's `shots` is set: those of the published experiments with variational quantum pulses."""
SHOTS_EACH = 1 << 14
"""Shots up to which each is drawn by itself; more are drawn as counts."""


class PulseLayer(HardwareLayer):
    """A quantum circuit on a chip of transmons.

    In eval mode the programmed instance is the chip with one draw of its drift, and each call draws new shots. In train mode drift and
    shots are drawn at every forward pass; gradients are those of the probabilities, exact, and pass straight through shots.

    Parameters
    ----------
    name, seed
        See `HardwareLayer`.
    design
        The chip; calibrated first where it has no gates. Its gates stay as they are when its frequencies drift.
    layer
        The trained numbers with the circuit they are in.

    Raises
    ------
    NotMappedError
        If the layer is no quantum circuit, or the chip cannot run it.
    """

    takes_circuits = True

    def __init__(self, name: str, seed: int, design: TransmonBackend, layer: WeightLayer) -> None:
        if not isinstance(layer.circuit, QuantumModule):
            raise NotMappedError("a pulse backend takes quantum circuits, not matrices of weights: digital")
        super().__init__(name, seed, layer)
        # In a tuple, so that torch does not see the module's own copy of the weights.
        self._circuit = (layer.circuit,)
        self._shots: int | None = SHOTS
        try:
            self.design = design.calibrated
            self._program = self.circuit.program(self.design)
        except (DesignError, ValueError) as error:
            raise NotMappedError(str(error)) from None
        self.trial = 0
        self.seconds = 0.0
        self._programming_seed = seed
        self._programmed = False
        self._mark: WeightMark | None = None
        self._loaded_mark: Tensor | None = None
        self._chip: TransmonBackend | None = None

    @property
    def circuit(self) -> QuantumModule:
        """The circuit that the weights are the numbers of."""
        return self._circuit[0]

    @property
    def shots(self) -> int | None:
        """Repetitions of each circuit; None for exact probabilities."""
        return self._shots

    @shots.setter
    def shots(self, value: int | None) -> None:
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise ValueError(f"Layer `{self.name}`: `shots` must be None or an integer of at least 1, but got {value!r}; ask for more")
        self._shots = value

    @property
    def noisy(self) -> bool:
        """Whether a chip differs from another one by its draw."""
        return any(one.frequency_drift_hertz for one in self.design.transmons)

    @property
    def placement(self) -> Placement:
        """The transmons that the circuit takes, and how long it is."""
        used = self.circuit.qubits
        seconds = self._program.duration * self.design.sample_seconds
        shots = "exact probabilities" if self.shots is None else f"{self.shots} shots"
        remark = self.circuit.remark(self.design)
        note = f"{used} of {self.design.count} transmons, pulses of {seconds * 1e6:.2f} us, {shots}" + (f"; {remark}" if remark else "")
        return Placement(type(self.design).__name__, 0, 1, used / self.design.count, note)

    @property
    def programmed(self) -> bool:
        """Whether a chip has been drawn."""
        return self._programmed

    def program(self, seed: int, trial: int) -> None:
        """Draw the frequencies that this trial finds."""
        self._programming_seed, self.trial, self.seconds, self.reads = seed, trial, 0.0, 0
        self._programmed, self._mark, self._chip = True, WeightMark.of(self.weight), None

    def age(self, seconds: float) -> None:
        """Let time pass: the chip is calibrated anew with time, so that only its drift from trial to trial counts."""
        self._require_current_masters()
        self.seconds += seconds

    # reading

    def forward(self, inputs: Tensor) -> Tensor:
        """Run the circuit for inputs ``(batch, inputs)`` float32; returns ``(batch, outputs)`` float32."""
        if not isinstance(inputs, Tensor) or inputs.dtype != torch.float32 or inputs.dim() != 2 or inputs.shape[1] != self.circuit.inputs:
            self._refuse(inputs, f"float32 of shape (batch, {self.circuit.inputs})")
        if self.mode is not Mode.HARDWARE:
            return self.circuit.decode(self.circuit.probabilities(inputs, self.weight))
        if self.training:
            number = self.training_read(inputs)
            key = Key.of(seed=self.seed, layer=self.name, purpose="training", read=number)
            chip = self.design.drifted(self.seed, number) if self.noisy else self.design
        else:
            if not self._programmed:
                self.program(self._programming_seed, self.trial)
            self._require_current_masters()
            self.reads += 1
            if self._chip is None:
                self._chip = self.design.drifted(self._programming_seed, self.trial) if self.noisy else self.design
            chip = self._chip
            key = Key.of(seed=self._programming_seed, trial=self.trial, layer=self.name, purpose="shots", read=self.reads)
        return self.circuit.decode(self.sample(self.read(inputs, chip), key))

    def read(self, inputs: Tensor, chip: TransmonBackend) -> Tensor:
        """Return the probabilities to read each bit string of the circuit's qubits on a chip: ``(batch, 2^qubits)`` float64."""
        rows = self.circuit.parameter_rows(inputs, self.weight)
        found = read_probabilities(chip, self._program.populations(rows, chip))
        # Qubits are the lowest bits; what the other transmons were read as does not matter.
        return found.reshape(len(found), 2 ** (chip.count - self.circuit.qubits), 2**self.circuit.qubits).sum(1)

    def sample(self, probabilities: Tensor, key: Key) -> Tensor:
        """Return the shares of bit strings in `shots` shots; the gradient is that of the probabilities."""
        if self.shots is None:
            return probabilities
        with torch.no_grad():
            if self.shots > SHOTS_EACH:
                counts = multinomial_counts(probabilities.numpy(), self.shots, key)
                shares = torch.from_numpy(counts).to(probabilities) / self.shots
            else:
                edges = torch.cumsum(probabilities.clamp(min=0.0), 1)
                edges = edges / edges[:, -1:]
                drawn = uniform(key, (len(edges), self.shots)).double()
                read = torch.searchsorted(edges.contiguous(), drawn, right=True).clamp(max=edges.shape[1] - 1)
                shares = torch.zeros_like(probabilities).scatter_add_(1, read, torch.ones_like(drawn)) / self.shots
        return probabilities + (shares - probabilities).detach()

    # what every layer has

    def start_calibration(self) -> None:
        """Do nothing: the chip's own calibration made its gates."""

    def finish_calibration(self, source: str) -> list[str]:
        """Return no warnings: there are no converter ranges."""
        self.ranges: tuple[ConverterRange, ...] = ()
        return []

    def vectors(self, outputs: Tensor) -> int:
        """Return how many circuits a call with these outputs ran."""
        return len(outputs)

    def cost(self, inputs: Tensor, outputs: Tensor) -> list[Cost]:
        """Return the time that the chip takes for one call; its energy is not given."""
        runs = len(inputs) * (self.shots or 1)
        note = (
            "of one shot each: exact probabilities were asked for"
            if self.shots is None
            else f"{self.shots} shots of {len(inputs)} circuits"
        )
        row = Cost(layer=self.name, hardware=type(self.design).__name__, term="pulses", operations=runs, note=note)
        pulses = self._program.duration * self.design.sample_seconds
        return [replace(row, latency_s=runs * pulses), replace(row, term="readout", latency_s=runs * self.design.readout_seconds)]

    def get_extra_state(self) -> dict[str, Any]:
        """Return everything but the parameters: the instance is drawn again from its seed and trial."""
        return {
            "programmed": self._programmed,
            "mark": self._mark.elements if self._mark is not None and self._masters_are_current() else None,
            "programming_seed": self._programming_seed,
            "trial": self.trial,
            "seconds": self.seconds,
            "reads": self.reads,
            "training_reads": self.training_reads,
            "shots": self.shots,
            "ranges": [asdict(one) for one in self.ranges],
            "design": self.design.fingerprint(),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over what `get_extra_state` returned."""
        self.require_design(state, self.design.fingerprint())
        self._programmed, self._loaded_mark = bool(state["programmed"]), state["mark"]
        self._programming_seed, self.trial, self.seconds = state["programming_seed"], state["trial"], state["seconds"]
        self.reads, self.training_reads, self.shots = state["reads"], state["training_reads"], state["shots"]
        self._chip = None
        self.settle()

    def settle(self) -> None:
        """Look whether the master weights of a state just loaded are those that it was programmed from."""
        self._mark = WeightMark.stored(self.weight, self._loaded_mark)

    def _masters_are_current(self) -> bool:
        return self._programmed and self._mark is not None and self._mark.holds(self.weight)

    def _require_current_masters(self) -> None:
        if self._programmed and not self._masters_are_current():
            raise RuntimeError(
                f"Layer `{self.name}`: the master weights changed after programming; call program() before reading in eval mode"
            )

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        state["_mark"] = self._masters_are_current()
        state["_chip"] = None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._mark = WeightMark.of(self.weight) if state["_mark"] else None

    def extra_repr(self) -> str:
        """Return the line that ``print(chip)`` shows."""
        return f"{self.kind} on {type(self.design).__name__}: {self.placement.note}"
