"""Native gates in time: a builder that puts calibrated pulses one after the other and turns frames for virtual Z."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from devices.design import DesignError
from devices.quantum.checks import require_integer, require_transmons
from devices.quantum.gates import CrossResonance, GateSet
from devices.quantum.schedule import Acquire, Delay, Instruction, Play, Schedule, SetPhase, ShiftPhase
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
        self._framed = [backend.framed_channels(q) for q in range(backend.count)]

    def play(self, transmon: int, waveform: Waveform) -> "PulseBuilder":
        """Play a pulse on a transmon's own channel."""
        self._require(transmon)
        self._play(f"d{transmon}", self.clock[transmon], waveform)
        self.clock[transmon] += waveform.duration_samples
        return self

    def rz(self, transmon: int, angle_rad: float) -> "PulseBuilder":
        """Rotate about z by turning frames: a drive ``Omega / 2 (s a + s* a^dagger)`` turns about the axis at minus the phase of s."""
        self._require(transmon)
        if isinstance(angle_rad, bool) or not isinstance(angle_rad, int | float) or not math.isfinite(angle_rad):
            raise DesignError(f"PulseBuilder: `angle_rad` must be a finite number, but got {angle_rad!r:.60}; give an angle in rad")
        at = self.clock[transmon]
        for channel in self._framed[transmon]:
            self.instructions.append(ShiftPhase(channel=channel, start=at, phase_rad=math.remainder(angle_rad, 2 * math.pi)))
        return self

    def x(self, transmon: int) -> "PulseBuilder":
        """Play the half turn about x."""
        self._require(transmon)
        return self.play(transmon, _of(self.gates.x, "x", transmon))

    def sx(self, transmon: int) -> "PulseBuilder":
        """Play the quarter turn about x."""
        self._require(transmon)
        return self.play(transmon, _of(self.gates.sx, "sx", transmon))

    def wait(self, transmon: int, samples: int) -> "PulseBuilder":
        """Leave a transmon alone for so many samples."""
        self._require(transmon)
        require_integer("PulseBuilder", "samples", samples, 0)
        self.instructions.append(Delay(channel=f"d{transmon}", start=self.clock[transmon], duration_samples=samples))
        self.clock[transmon] += samples
        return self

    def barrier(self, *transmons: int) -> "PulseBuilder":
        """Let these transmons (all, where none is named) go on together."""
        named = transmons or range(self.backend.count)
        for q in named:
            self._require(q)
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
        self._play(channel, at, signed(one.drive, sign))
        if one.rotary is not None:
            self._play(f"d{one.target}", at, signed(one.rotary, sign))
        self.clock[one.control] = self.clock[one.target] = at + one.drive.duration_samples
        if closing:
            self.x(one.control)
            self.clock[one.target] = self.clock[one.control]

    def cx(self, control: int, target: int) -> "PulseBuilder":
        """Play a controlled not in either direction, whichever is calibrated.

        The turns about Z at its end are virtual: they move the frames of the pulses that follow.
        """
        if control == target:
            raise DesignError(f"PulseBuilder: `target` must be another transmon than `control`, but both are {control}; name two")
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
        chosen = range(self.backend.count) if transmons is None else require_transmons("PulseBuilder", transmons)
        for q in chosen:
            self._require(q)
        self.barrier()
        at, length = max(self.clock), self.backend.readout_samples
        for slot, q in enumerate(chosen):
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
        require_integer("PulseBuilder", "transmon", transmon)
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


def signed(waveform: Waveform, sign: int) -> Waveform:
    """Return a pulse, or the opposite one for a negative sign.

    Examples
    --------
    >>> from devices.quantum.waveforms import Constant
    >>> signed(Constant(duration_samples=64, amplitude=0.5), -1).amplitude
    -0.5
    """
    return waveform if sign > 0 else waveform.replace(amplitude=-waveform.amplitude)


def frame_turns(backend: "TransmonBackend", schedule: Schedule) -> list[float]:
    """Return by which angle a schedule turned each transmon's frame in all: the virtual Z that has not been played out yet.

    Phases alone count; a frame whose frequency was changed keeps turning.

    Examples
    --------
    >>> from devices import TransmonBackend
    >>> backend = TransmonBackend.preset("jakarta_like")
    >>> frame_turns(backend, Schedule().shift_phase("d1", 0.5))
    [0.0, 0.5]
    """
    turns = {f"d{q}": 0.0 for q in range(backend.count)}
    for one in schedule.instructions:
        if isinstance(one, SetPhase) and one.channel in turns:
            turns[one.channel] = one.phase_rad
        elif isinstance(one, ShiftPhase) and one.channel in turns:
            turns[one.channel] += one.phase_rad
    return list(turns.values())
