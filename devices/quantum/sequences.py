"""Native gates in time: a builder that puts calibrated pulses one after the other and turns frames for virtual Z."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from devices.design import DesignError
from devices.quantum.gates import CrossResonance, GateSet
from devices.quantum.schedule import Acquire, Delay, Instruction, Play, Schedule, ShiftPhase
from devices.quantum.waveforms import Waveform

if TYPE_CHECKING:
    from devices.quantum.backend import TransmonBackend


class PulseBuilder:
    """Collects native gates as early as the transmons are free; `schedule` returns what they are as pulses.

    A gate on two transmons waits for both. A rotation about z takes no time: it turns the frames of all channels that are in the
    transmon's frame.

    Parameters
    ----------
    backend
        The chip; its alignment is kept.
    gates
        Calibrated gates; by default those of the chip.
    name
        Name of the schedule.

    Examples
    --------
    >>> from devices import TransmonBackend
    >>> backend = TransmonBackend.preset("jakarta_like")
    >>> PulseBuilder(backend, backend.calibrated.gates).sx(0).rz(0, 0.5).sx(0).schedule().duration
    320
    """

    def __init__(self, backend: "TransmonBackend", gates: GateSet | None = None, name: str = "") -> None:
        chosen = backend.gates if gates is None else gates
        if chosen is None:
            raise DesignError("TransmonBackend: `gates` must be calibrated before they are played, but are none; call calibrate() first")
        self.backend, self.gates, self.name = backend, chosen, name
        self.clock = [0] * backend.count
        self.instructions: list[Instruction] = []
        self._framed = [
            [f"d{q}", *(f"u{k}" for k, one in enumerate(backend.control_channels) if one.frame_of == q)] for q in range(backend.count)
        ]

    def play(self, transmon: int, waveform: Waveform) -> "PulseBuilder":
        """Play a pulse on a transmon's own channel."""
        self._require(transmon)
        self._play(f"d{transmon}", self.clock[transmon], waveform)
        self.clock[transmon] += waveform.duration_samples
        return self

    def rz(self, transmon: int, angle_rad: float) -> "PulseBuilder":
        """Rotate about z by turning frames: a drive ``Omega / 2 (s a + s* a^dagger)`` turns about the axis at minus the phase of s."""
        self._require(transmon)
        at = self.clock[transmon]
        for channel in self._framed[transmon]:
            self.instructions.append(ShiftPhase(channel=channel, start=at, phase_rad=math.remainder(angle_rad, 2 * math.pi)))
        return self

    def x(self, transmon: int) -> "PulseBuilder":
        """Play the half turn about x."""
        return self.play(transmon, _of(self.gates.x, "x", transmon))

    def sx(self, transmon: int) -> "PulseBuilder":
        """Play the quarter turn about x."""
        return self.play(transmon, _of(self.gates.sx, "sx", transmon))

    def wait(self, transmon: int, samples: int) -> "PulseBuilder":
        """Leave a transmon alone for so many samples."""
        self._require(transmon)
        self.instructions.append(Delay(channel=f"d{transmon}", start=self.clock[transmon], duration_samples=samples))
        self.clock[transmon] += samples
        return self

    def barrier(self, *transmons: int) -> "PulseBuilder":
        """Let these transmons (all, where none is named) go on together."""
        named = transmons or range(self.backend.count)
        end = max(self.clock[q] for q in named)
        for q in named:
            self.clock[q] = end
        return self

    def zx(self, control: int, target: int) -> "PulseBuilder":
        """Play ``exp(-i pi / 4 Z X)``: the echoed cross-resonance pulse and its virtual Z."""
        one = self.cross_resonance(control, target)
        self.barrier(control, target)
        self.echo(one)
        return self.rz(control, one.control_phase_rad).rz(target, one.target_phase_rad)

    def echo(self, one: CrossResonance) -> "PulseBuilder":
        """Play an echoed cross-resonance pulse without its virtual Z."""
        self._half_echo(one, 1)
        self._half_echo(one, -1)
        return self

    def ecr(self, control: int, target: int) -> "PulseBuilder":
        """Play ``X exp(-i pi / 4 Z X)``, X on the control: the echoed pulse that leaves its closing half turn out.

        In the direction that is not calibrated it is made of the other one and quarter turns.
        """
        if not self.has_cross_resonance(control, target) and self.has_cross_resonance(target, control):
            for q in (control, target):
                self._hadamard(q)
            self.zx(target, control)
            for q in (control, target):
                self._hadamard(q)
            return self.x(control)
        one = self.cross_resonance(control, target)
        self.barrier(control, target)
        self._half_echo(one, 1)
        self._half_echo(one, -1, closing=False)
        # The virtual Z of the whole echo comes after a half turn of the control that is not played here: it changes its sign.
        return self.rz(control, -one.control_phase_rad).rz(target, one.target_phase_rad)

    def _half_echo(self, one: CrossResonance, sign: int, closing: bool = True) -> None:
        channel = self.backend.control_channel(one.control, one.target)
        at = self.clock[one.control]
        self._play(channel, at, _scaled(one.drive, sign))
        if one.rotary is not None:
            self._play(f"d{one.target}", at, _scaled(one.rotary, sign))
        self.clock[one.control] = self.clock[one.target] = at + one.drive.duration_samples
        if closing:
            self.x(one.control)
            self.clock[one.target] = self.clock[one.control]

    def cx(self, control: int, target: int) -> "PulseBuilder":
        """Play a controlled not in either direction, whichever is calibrated."""
        if not self.has_cross_resonance(control, target) and self.has_cross_resonance(target, control):
            for q in (control, target):
                self._hadamard(q)
            self.cx(target, control)
            for q in (control, target):
                self._hadamard(q)
            return self
        # CX = e^(i pi / 4) Rz(pi / 2) on the control, Rx(pi / 2) on the target, exp(i pi / 4 Z X); the sign by Z on the target around it.
        self.rz(target, math.pi).zx(control, target).rz(target, math.pi)
        return self.rz(control, math.pi / 2).sx(target)

    def has_cross_resonance(self, control: int, target: int) -> bool:
        """Return whether this direction is calibrated."""
        return any((one.control, one.target) == (control, target) for one in self.gates.cross_resonance)

    def cross_resonance(self, control: int, target: int) -> CrossResonance:
        """Return the calibrated pulse of this direction."""
        for one in self.gates.cross_resonance:
            if (one.control, one.target) == (control, target):
                return one
        known = ", ".join(f"({one.control}, {one.target})" for one in self.gates.cross_resonance) or "none"
        raise DesignError(f"GateSet: `cross_resonance` must have the pair ({control}, {target}), but has {known}; couple and calibrate it")

    def measure(self, transmons: Sequence[int] | None = None) -> "PulseBuilder":
        """Record transmons together, when all pulses are over."""
        self.barrier()
        at, length = max(self.clock), self.backend.readout_samples
        for slot, q in enumerate(range(self.backend.count) if transmons is None else transmons):
            self.instructions.append(Acquire(channel=f"a{q}", start=at, duration_samples=length, slot=slot))
        return self

    def schedule(self) -> Schedule:
        """Return the pulses; the schedule lasts as long as the gates."""
        end = max(self.clock)
        closing = [] if any(isinstance(one, Acquire) for one in self.instructions) else self._closing(end)
        return Schedule(name=self.name, instructions=(*self.instructions, *closing))

    def _closing(self, end: int) -> list[Instruction]:
        last = max((one.stop for one in self.instructions if one.channel == "d0"), default=0)
        return [Delay(channel="d0", start=last, duration_samples=end - last)] if last < end else []

    def _require(self, transmon: int) -> None:
        if not 0 <= transmon < self.backend.count:
            raise DesignError(f"PulseBuilder: `transmon` must be 0 to {self.backend.count - 1}, but got {transmon}; name one of the chip")

    def _hadamard(self, transmon: int) -> None:
        self.rz(transmon, math.pi / 2).sx(transmon).rz(transmon, math.pi / 2)

    def _play(self, channel: str, start: int, waveform: Waveform) -> None:
        self.instructions.append(Play(channel=channel, start=start, waveform=waveform))


def _of(pulses: Sequence[Waveform], name: str, transmon: int) -> Waveform:
    if transmon >= len(pulses):
        raise DesignError(f"GateSet: `{name}` must have a pulse for transmon {transmon}, but has {len(pulses)}; calibrate it")
    return pulses[transmon]


def _scaled(waveform: Waveform, sign: int) -> Waveform:
    return waveform if sign > 0 else waveform.replace(amplitude=-waveform.amplitude)


def frame_turns(backend: "TransmonBackend", schedule: Schedule) -> list[float]:
    """Return by which angle a schedule turned each transmon's frame in all: the virtual Z that has not been played out yet.

    Examples
    --------
    >>> from devices import TransmonBackend
    >>> backend = TransmonBackend.preset("jakarta_like")
    >>> frame_turns(backend, Schedule().shift_phase("d1", 0.5))
    [0.0, 0.5]
    """
    shifts = [one for one in schedule.instructions if isinstance(one, ShiftPhase)]
    return [sum((one.phase_rad for one in shifts if one.channel == f"d{q}"), 0.0) for q in range(backend.count)]
