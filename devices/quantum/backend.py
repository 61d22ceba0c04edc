"""Transmons behind their electronics, driven by schedules of pulses: all sources of error in one model."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self, overload

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from devices.base import PulseBackend
from devices.design import DesignError
from devices.quantum.checks import require_flag, require_integer, require_transmons
from devices.quantum.gates import GateSet
from devices.quantum.model import SAMPLES_PER_CHANNEL, TransmonModel, model_of, require_memory
from devices.quantum.playing import check_schedule, play
from devices.quantum.readout import Counts, draw_counts, marginal, read_probabilities
from devices.quantum.schedule import Schedule
from devices.quantum.sequences import frame_turns
from devices.quantum.transmon import ControlChannel, Coupling, Transmon, WaveformGenerator
from kernels.random import Key, normal

if TYPE_CHECKING:
    from devices.quantum.calibration import CalibrationReport
    from devices.quantum.trajectory import Trajectory

STOCHASTIC_TOLERANCE = 1e-6
MOST_SHOTS = 10**15
"""Counts beyond it would be rounded, and say no more than `probabilities` does."""
FLOPS = 1e10
"""Operations a second that products of matrices are taken to run at where a long evolution is announced."""


class TransmonBackend(PulseBackend):
    """A chip of coupled transmons with 2 to 4 levels each, and the electronics that drive and read it.

    The Hamiltonian is ``sum w n + alpha / 2 n (n - 1) + sum J (a^dagger b + a b^dagger) + sum Omega / 2 (s a + s* a^dagger)`` in a frame
    that rotates with the drives (rotating-wave approximation); s are the samples of the channels. States are labeled little-endian:
    transmon 0 is the lowest digit, and the rightmost bit of a bit string. States that go in and come out are the dressed states of the
    coupled chip, in the frame of each transmon's own drive frequency, as gates are defined.

    Parameters
    ----------
    transmons, couplings
        What the chip is made of; any graph.
    controls
        Control channels ``u0``, ``u1``, ...; by default two for each coupling, ``u0`` driving its first transmon at the frequency of the
        second and ``u1`` the other way around.
    levels
        Levels of each transmon that are simulated, 2 to 4.
    sample_seconds
        Duration of a sample.
    granularity_samples, shortest_samples
        What the length of a pulse is a multiple of, and the shortest one.
    alignment_samples
        What the start of a pulse is a multiple of.
    readout_seconds
        Duration of a recording.
    generator
        Limits of the electronics; None where there are none.
    crosstalk
        Share of a drive meant for transmon k that reaches transmon q, ``crosstalk[q][k]``; the diagonal is not used. None for none.
    assignment
        Probability of each bit string read, given the one that is there, ``assignment[read][there]``, which errors may correlate; None
        where transmons are read independently, with their own error rates.
    gates
        Calibrated gates, as `calibrate` finds them; None before.

    Examples
    --------
    >>> from devices.quantum.waveforms import Drag
    >>> backend = TransmonBackend.preset("jakarta_like").ideal()
    >>> x = Drag(duration_samples=160, sigma_samples=40, beta_samples=-1.05, amplitude=0.168)
    >>> backend.run(Schedule().play("d0", x).acquire([0, 1], 1024), shots=100, seed=0)
    {'01': 100}
    """

    transmons: tuple[Transmon, ...] = Field(min_length=1)
    couplings: tuple[Coupling, ...] = ()
    controls: tuple[ControlChannel, ...] | None = None
    levels: int = Field(default=3, ge=2, le=4)
    sample_seconds: float = Field(default=2e-9 / 9, gt=0)
    granularity_samples: int = Field(default=16, ge=1)
    alignment_samples: int = Field(default=16, ge=1)
    shortest_samples: int = Field(default=64, ge=1)
    readout_seconds: float = Field(default=5.5e-6, gt=0)
    generator: WaveformGenerator | None = None
    crosstalk: tuple[tuple[float, ...], ...] | None = None
    assignment: tuple[tuple[float, ...], ...] | None = None
    gates: GateSet | None = None

    @model_validator(mode="after")
    def _parts_fit(self) -> Self:
        count = len(self.transmons)
        seen: set[frozenset[int]] = set()
        for one in self.couplings:
            if max(one.transmons) >= count or frozenset(one.transmons) in seen:
                raise ValueError(f"`couplings` must join two of the {count} transmons once, but got {one.transmons}; correct it")
            seen.add(frozenset(one.transmons))
        for control in self.controls or ():
            if max(control.driven, control.frame_of) >= count:
                raise ValueError(f"`controls` must name two of the {count} transmons, but got {control.driven} and {control.frame_of}")
        if self.crosstalk is not None and (len(self.crosstalk) != count or any(len(row) != count for row in self.crosstalk)):
            raise ValueError(f"`crosstalk` must have {count} rows of {count} numbers, but has another shape; give one for each pair")
        if self.assignment is not None:
            matrix = [list(row) for row in self.assignment]
            if len(matrix) != 2**count or any(len(row) != 2**count for row in matrix):
                raise ValueError(f"`assignment` must have {2**count} rows of {2**count} numbers, but has another shape; give all")
            sums = np.array(matrix).sum(0)
            if float(np.abs(sums - 1).max()) > STOCHASTIC_TOLERANCE or float(np.array(matrix).min()) < 0:
                raise ValueError("`assignment` must have columns of probabilities that add up to 1, but one does not; scale it")
        if self.gates is not None and len(self.gates.frequencies_hertz) != count:
            raise ValueError(f"`gates` must be those of {count} transmons, but are of {len(self.gates.frequencies_hertz)}; calibrate anew")
        return self

    # what there is

    @property
    def count(self) -> int:
        """Number of transmons."""
        return len(self.transmons)

    @property
    def dimension(self) -> int:
        """Number of states."""
        return int(self.levels**self.count)

    @property
    def control_channels(self) -> tuple[ControlChannel, ...]:
        """The control channels, in the order of their numbers."""
        if self.controls is not None:
            return self.controls
        ends = [one.transmons for one in self.couplings]
        both = [pair for a, b in ends for pair in ((a, b), (b, a))]
        return tuple(ControlChannel(driven=driven, frame_of=frame_of) for driven, frame_of in both)

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels."""
        own = [f"{kind}{q}" for kind in "dma" for q in range(self.count)]
        return (*own[: self.count], *(f"u{k}" for k in range(len(self.control_channels))), *own[self.count :])

    @property
    def frame_hertz(self) -> tuple[float, ...]:
        """Frequency that each transmon is driven at: the calibrated one, or its own."""
        return tuple(one.frequency_hertz for one in self.transmons) if self.gates is None else self.gates.frequencies_hertz

    @property
    def readout_samples(self) -> int:
        """Samples of a recording, a multiple of the granularity."""
        return -(-round(self.readout_seconds / self.sample_seconds) // self.granularity_samples) * self.granularity_samples

    @property
    def is_open(self) -> bool:
        """Whether a transmon relaxes or dephases."""
        return any(one.relaxation_hertz or one.dephasing_hertz for one in self.transmons)

    def control_channel(self, control: int, target: int) -> str:
        """Return the name of the channel that drives one transmon in the frame of another."""
        for number, one in enumerate(self.control_channels):
            if (one.driven, one.frame_of) == (control, target):
                return f"u{number}"
        raise DesignError(f"TransmonBackend: `controls` must have a channel for ({control}, {target}), but there is none; add one")

    def framed_channels(self, transmon: int) -> tuple[str, ...]:
        """Return the names of the channels that are in a transmon's frame: its own, and control channels at its frequency."""
        return (f"d{transmon}", *(f"u{k}" for k, one in enumerate(self.control_channels) if one.frame_of == transmon))

    def ideal(self) -> Self:
        """Return the same chip without decoherence, drift, errors of readout, crosstalk and limits of the electronics.

        Couplings and higher levels stay: they are what gates are made of.
        """
        bare = tuple(
            one.replace(t1_seconds=None, t2_seconds=None, read_0_given_1=0.0, read_1_given_0=0.0, frequency_drift_hertz=0.0)
            for one in self.transmons
        )
        return self.replace(transmons=bare, generator=None, crosstalk=None, assignment=None)

    def part(self, transmons: Sequence[int]) -> Self:
        """Return a chip of some of the transmons, numbered anew in the order given, with all that lies between them.

        Raises
        ------
        DesignError
            Where a transmon is not there or is named twice, or `assignment` is given, which is that of all.

        Examples
        --------
        >>> chip = TransmonBackend.preset("jakarta_seven_like").part([3, 5])
        >>> chip.count, chip.couplings[0].transmons, chip.channels[:4]
        (2, (0, 1), ('d0', 'd1', 'u0', 'u1'))
        """
        chosen = require_transmons("TransmonBackend", transmons)
        place = {q: k for k, q in enumerate(chosen)}
        if not place or len(place) != len(chosen) or not set(place) <= set(range(self.count)):
            raise DesignError(f"TransmonBackend: `transmons` must be different ones of 0 to {self.count - 1}, but got {list(chosen)}")
        if self.assignment is not None:
            raise DesignError("TransmonBackend: `assignment` must be None for a part of a chip, but is given for all of it; replace it")
        gates = self.gates
        if gates is not None:
            inside = [one for one in gates.cross_resonance if {one.control, one.target} <= set(place)]
            gates = gates.replace(
                frequencies_hertz=tuple(gates.frequencies_hertz[q] for q in place),
                x=tuple(gates.x[q] for q in place if gates.x),
                sx=tuple(gates.sx[q] for q in place if gates.sx),
                cross_resonance=tuple(one.replace(control=place[one.control], target=place[one.target]) for one in inside),
            )
        controls = [one for one in self.control_channels if {one.driven, one.frame_of} <= set(place)]
        return self.replace(
            transmons=tuple(self.transmons[q] for q in place),
            couplings=tuple(
                one.replace(transmons=(place[one.transmons[0]], place[one.transmons[1]]))
                for one in self.couplings
                if set(one.transmons) <= set(place)
            ),
            controls=tuple(one.replace(driven=place[one.driven], frame_of=place[one.frame_of]) for one in controls),
            crosstalk=None if self.crosstalk is None else tuple(tuple(self.crosstalk[q][p] for p in place) for q in place),
            gates=gates,
        )

    def closed(self) -> Self:
        """Return the same chip without relaxation and dephasing."""
        return self.replace(transmons=tuple(one.replace(t1_seconds=None, t2_seconds=None) for one in self.transmons))

    def drifted(self, seed: int, trial: int = 0) -> Self:
        """Return the chip as one trial finds it: every frequency moved by a draw of its drift, the drives where they were calibrated."""
        require_integer("TransmonBackend", "seed", seed)
        require_integer("TransmonBackend", "trial", trial)
        key = Key.of(seed=seed, trial=trial, purpose="frequency drift")
        draws = normal(key, self.count).double().tolist()
        moved = tuple(
            one.replace(frequency_hertz=one.frequency_hertz + draw * one.frequency_drift_hertz, frequency_drift_hertz=0.0)
            for one, draw in zip(self.transmons, draws, strict=True)
        )
        gates = GateSet(frequencies_hertz=self.frame_hertz) if self.gates is None else self.gates
        return self.replace(transmons=moved, gates=gates)

    # evolution

    @property
    def model(self) -> TransmonModel:
        """The Hamiltonian ready for evolution; equal designs share it."""
        return model_of(self)

    def hamiltonian(self) -> Tensor:
        """Return the Hamiltonian without pulses over the reduced Planck constant, rad/s, in the frame that rotates at `model.frame`."""
        static: Tensor = self.model.system.static.to_dense()
        return static

    def unitary(self, schedule: Schedule, *, frames: bool = False) -> Tensor:
        """Return the propagator of a schedule without relaxation and dephasing.

        Parameters
        ----------
        schedule
            The pulses; what comes after the start of recordings is left out.
        frames
            Let the virtual Z that the schedule turned its frames by act at its end. Turns of a frame move later pulses and no state, so
            that the propagator of ``PulseBuilder.cx`` is a controlled not only with them. Changes of frequency are not among them.

        Returns
        -------
        Tensor
            ``(dimension, dimension)`` complex128 between dressed states, in the frame of the transmons' own drive frequencies.

        Raises
        ------
        DesignError
            Where the backend cannot play the schedule, or `frames` is no truth value.

        Examples
        --------
        >>> backend = TransmonBackend.preset("jakarta_like")
        >>> torch.dist(backend.unitary(Schedule()), torch.eye(9)).item() < 1e-12
        True
        >>> turned = backend.unitary(Schedule().shift_phase("d0", 0.5), frames=True)
        >>> round(turned[1, 1].angle().item(), 9)
        0.5
        """
        turned = require_flag("TransmonBackend", "frames", frames)
        model = self.model
        played = play(model, schedule)
        start = model.to_bare(torch.eye(self.dimension, dtype=torch.complex128))
        end = model.evolve(torch.from_numpy(played.samples)[None], played.channels, played.carriers, start)
        propagator = model.to_dressed(end, played.duration).T
        if not turned:
            return propagator
        turns = np.array(frame_turns(self, schedule)) @ model.occupations
        return torch.from_numpy(np.exp(1j * turns))[:, None] * propagator

    def evolve(self, schedule: Schedule, state: Tensor | None = None) -> Tensor:
        """Return the state after a schedule.

        Parameters
        ----------
        schedule
            The pulses; what comes after the start of recordings is left out.
        state
            Amplitudes ``(dimension,)``, or a density matrix ``(dimension, dimension)``, of dressed states; the ground state by default.

        Returns
        -------
        Tensor
            Amplitudes for a closed system and a vector given; otherwise a density matrix.

        Raises
        ------
        DesignError
            Where the backend cannot play the schedule, or `state` has another shape.

        Examples
        --------
        >>> backend = TransmonBackend.preset("jakarta_like")
        >>> backend.evolve(Schedule().delay("d0", 10_000)).diagonal().real[0].item()
        1.0
        """
        if state is None:
            state = torch.zeros(self.dimension, dtype=torch.complex128)
            state[0] = 1.0
        size = self.dimension
        if not isinstance(state, Tensor) or tuple(state.shape) not in ((size,), (size, size)) or state.dtype != torch.complex128:
            given = f"{state.dtype} of shape {tuple(state.shape)}" if isinstance(state, Tensor) else f"a {type(state).__name__}"
            raise DesignError(
                f"TransmonBackend: `state` must be a complex128 tensor of shape ({size},) or ({size}, {size}), but got {given}; give "
                "amplitudes or a density matrix"
            )
        total = float((state.abs() ** 2).sum() if state.dim() == 1 else state.diagonal().sum().real)
        skew = 0.0 if state.dim() == 1 else float((state - state.mH).abs().max())
        if not abs(total - 1.0) <= STOCHASTIC_TOLERANCE or not skew <= STOCHASTIC_TOLERANCE:
            raise DesignError(
                f"TransmonBackend: `state` must have probabilities that add up to 1 and be Hermitian if it is a matrix, but they add up to "
                f"{total:.6g} and it differs from its adjoint by {skew:.2g}; normalize it"
            )
        model = self.model
        played = play(model, schedule)
        samples = torch.from_numpy(played.samples)[None]
        if not self.is_open:
            rows = state[None] if state.dim() == 1 else state.T
            end = model.to_dressed(model.evolve(samples, played.channels, played.carriers, model.to_bare(rows)), played.duration)
            if state.dim() == 1:
                return end[0]
            half = end.T
            again = model.to_dressed(model.evolve(samples, played.channels, played.carriers, model.to_bare(half.conj())), played.duration)
            return again.conj().resolve_conj()
        require_memory(self, 8 * self.dimension**2, "open evolution")
        minutes = 16 * self.dimension**3 * (played.duration / SAMPLES_PER_CHANNEL) / FLOPS / 60
        if minutes > 1:
            warnings.warn(
                f"open evolution of {self.count} transmons of {self.levels} levels over {played.duration} samples takes some {minutes:.0f} "
                "minutes or more; closed() leaves relaxation out, part([...]) takes fewer transmons, replace(levels=2) fewer states",
                stacklevel=2,
            )
        density = torch.outer(state, state.conj()) if state.dim() == 1 else state
        return model.open_evolution(samples, played.channels, played.carriers, density[None])[0]

    def follow(self, schedule: Schedule, points: int = 100) -> "Trajectory":
        """Return what the chip goes through while a schedule plays: populations and Bloch vectors over time, with figures. See `follow`."""
        from devices.quantum.trajectory import follow  # here, because that module draws figures

        return follow(self, schedule, points)

    def populations(self, schedule: Schedule, state: Tensor | None = None) -> Tensor:
        """Return the population of each dressed state after a schedule: ``(dimension,)`` float64."""
        end = self.evolve(schedule, state)
        return end.abs() ** 2 if end.dim() == 1 else end.diagonal().real

    def probabilities(self, schedule: Schedule, state: Tensor | None = None) -> Tensor:
        """Return the probability to read each bit string of the recorded slots (of all transmons, where nothing is recorded)."""
        read = read_probabilities(self, self.populations(schedule, state))
        recorded = [one.transmon for one in schedule.acquisitions]
        return marginal(read, recorded, self.count) if recorded else read

    @overload
    def run(self, schedule: Schedule, *, shots: int = 1024, seed: int = 0, trial: int = 0) -> Counts: ...

    @overload
    def run(self, schedule: Sequence[Schedule], *, shots: int = 1024, seed: int = 0, trial: int = 0) -> list[Counts]: ...

    def run(self, schedule: Schedule | Sequence[Schedule], *, shots: int = 1024, seed: int = 0, trial: int = 0) -> Counts | list[Counts]:
        """Play a schedule so many times and count what is read, or each of several schedules.

        Parameters
        ----------
        schedule
            Pulses and recordings. A list of them is played on the same draw of drift, with shots of their own.
        shots
            Repetitions, 1 to `MOST_SHOTS`.
        seed, trial
            Name the draws of drift and shots.

        Returns
        -------
        Counts
            How often each bit string was read: the recorded slots, the lowest one rightmost. A list of them for a list of schedules.

        Raises
        ------
        DesignError
            Where nothing is recorded, or `shots`, `seed` or `trial` is out of range.
        """
        listed: list[Any] = list(schedule) if isinstance(schedule, list | tuple) else [schedule]
        for one in listed:
            check_schedule(self, one)
        if not all(one.acquisitions for one in listed):
            raise DesignError("TransmonBackend: `schedule` must record at least one transmon, but records none; end it with acquire(...)")
        require_integer("TransmonBackend", "seed", seed)
        require_integer("TransmonBackend", "trial", trial)
        if not isinstance(shots, int | np.integer) or isinstance(shots, bool) or not 1 <= shots <= MOST_SHOTS:
            raise DesignError(f"TransmonBackend: `shots` must be an integer of at least 1 and at most {MOST_SHOTS:.0e}, but got {shots!r}")
        chip = self.drifted(seed, trial) if any(one.frequency_drift_hertz for one in self.transmons) else self
        counts = []
        for place, one in enumerate(listed):
            key = Key.of(seed=seed, trial=trial, tile=place, purpose="shots")
            counts.append(Counts.of(draw_counts(chip.probabilities(one).numpy(), int(shots), key), len(one.acquisitions)))
        return counts if isinstance(schedule, list | tuple) else counts[0]

    def calibrate(self, **options: object) -> "CalibrationReport":
        """Calibrate every gate on this chip; ``report.backend`` is the same chip with the gates found. See `calibrate`."""
        from devices.quantum.calibration import calibrate  # here, because that module needs this class

        return calibrate(self, **options)  # type: ignore[arg-type]

    @property
    def calibrated(self) -> "TransmonBackend":
        """The chip with gates: its own, or those that `calibrate` finds; equal designs are calibrated once."""
        from devices.quantum.calibration import calibrated  # here, because that module needs this class

        return self if self.gates is not None and self.gates.x else calibrated(self)
