"""Schedules of control pulses: what every channel plays, when, and in which frame."""

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Final, Literal, Self

from pydantic import Field, SerializeAsAny, StringConstraints, field_validator, model_validator

from devices.design import Design, DesignError
from devices.quantum.checks import require_transmons
from devices.quantum.waveforms import Waveform

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VERSION: Final = 1
"""Version of the JSON form."""

ChannelName = Annotated[str, StringConstraints(pattern=r"^[duma]\d+$")]
"""``d0`` drives transmon 0, ``u0`` is control channel 0, ``m0`` and ``a0`` stimulate and record the readout of transmon 0.

What ``m0`` plays is kept and handed to other tools; a backend reads transmons by their error rates and does not evolve under it."""


class Instruction(Design):
    """Something that happens on one channel at one time.

    Parameters
    ----------
    channel
        Name of the channel.
    start
        Sample at whose beginning it happens.
    """

    channel: ChannelName
    start: int = Field(ge=0)

    @property
    def duration(self) -> int:
        """Samples that it takes."""
        return 0

    @property
    def stop(self) -> int:
        """Sample after its last one."""
        return self.start + self.duration


class Play(Instruction):
    """A pulse.

    Parameters
    ----------
    waveform
        Its samples.

    Examples
    --------
    >>> from devices.quantum.waveforms import Constant
    >>> Play(channel="d0", start=16, waveform=Constant(duration_samples=64)).stop
    80
    """

    waveform: SerializeAsAny[Waveform]

    @property
    def duration(self) -> int:
        """Samples of the waveform."""
        return self.waveform.duration_samples


class Delay(Instruction):
    """Nothing, for a number of samples: keeps a channel free, and makes a schedule last longer than its pulses.

    Parameters
    ----------
    duration_samples
        Samples.

    Examples
    --------
    >>> Delay(channel="d0", start=0, duration_samples=100).stop
    100
    """

    duration_samples: int = Field(ge=0)

    @property
    def duration(self) -> int:
        """Samples of the delay."""
        return self.duration_samples


class Acquire(Instruction):
    """A recording of the readout of one transmon into a slot of the result; all of a schedule start together.

    Parameters
    ----------
    duration_samples
        Samples.
    slot
        Classical bit that the outcome goes to.

    Examples
    --------
    >>> Acquire(channel="a1", start=160, duration_samples=1000, slot=0).transmon
    1
    """

    duration_samples: int = Field(gt=0)
    slot: int = Field(ge=0)

    @property
    def duration(self) -> int:
        """Samples of the recording."""
        return self.duration_samples

    @property
    def transmon(self) -> int:
        """Number of the transmon."""
        return int(self.channel[1:])


class ShiftPhase(Instruction):
    """Adds to the phase of everything that the channel plays from here on; a virtual Z by an angle is a shift by that angle.

    Parameters
    ----------
    phase_rad
        What is added.

    Examples
    --------
    >>> ShiftPhase(channel="d0", start=0, phase_rad=-1.5707963).duration
    0
    """

    phase_rad: float


class SetPhase(Instruction):
    """Sets the phase of everything that the channel plays from here on.

    Parameters
    ----------
    phase_rad
        The phase.

    Examples
    --------
    >>> SetPhase(channel="d0", start=0, phase_rad=0.0).stop
    0
    """

    phase_rad: float


class ShiftFrequency(Instruction):
    """Adds to the frequency of the channel's frame from here on; the phase of the carrier is continuous.

    Parameters
    ----------
    frequency_hertz
        What is added.

    Examples
    --------
    >>> ShiftFrequency(channel="d0", start=0, frequency_hertz="-340 MHz").frequency_hertz
    -340000000.0
    """

    frequency_hertz: float


class SetFrequency(Instruction):
    """Sets the frequency of the channel's frame from here on; the phase of the carrier is continuous.

    Parameters
    ----------
    frequency_hertz
        The frequency.

    Examples
    --------
    >>> SetFrequency(channel="d0", start=0, frequency_hertz="5.1 GHz").frequency_hertz
    5100000000.0
    """

    frequency_hertz: float = Field(ge=0)


AnyInstruction = Annotated[SerializeAsAny[Instruction], Field()]


class Schedule(Design):
    """What every channel plays, when, and in which frame. Immutable: every method returns another schedule.

    Times are whole samples. On one channel pulses, delays and recordings do not overlap. What a backend adds to that (which channels
    there are, granularity, alignment) is checked when a backend takes the schedule.

    Parameters
    ----------
    name
        For figures and tables.
    instructions
        In any order; they are kept sorted by time, at one time by channel, and on a channel changes of the frame before what starts then.

    Raises
    ------
    DesignError
        Where two instructions overlap on a channel, or recordings do not start together or share a slot.

    Examples
    --------
    >>> from devices.quantum.waveforms import Drag
    >>> x = Drag(duration_samples=160, sigma_samples=40, beta_samples=-1.12, amplitude=0.168)
    >>> schedule = Schedule(name="two pulses").play("d0", x).shift_phase("d0", 0.5).play("d0", x)
    >>> schedule.duration, schedule.channels
    (320, ('d0',))
    >>> Schedule.from_json(schedule.to_json()) == schedule
    True
    """

    version: Literal[1] = VERSION
    name: str = ""
    instructions: tuple[SerializeAsAny[Instruction], ...] = ()

    @field_validator("instructions", mode="after")
    @classmethod
    def _sort(cls, listed: tuple[Instruction, ...]) -> tuple[Instruction, ...]:
        # At one time frames change before a pulse starts, on each channel in the order given.
        return tuple(sorted(listed, key=lambda one: (one.start, _channel_order(one.channel), one.duration > 0)))

    @model_validator(mode="after")
    def _nothing_overlaps(self) -> Self:
        ends: dict[str, tuple[int, Instruction]] = {}
        for one in self.instructions:
            end, before = ends.get(one.channel, (0, one))
            if one.duration and one.start < end:
                raise ValueError(
                    f"`instructions` must not overlap on a channel, but on {one.channel} {type(one).__name__} at {one.start} starts before "
                    f"{type(before).__name__} at {before.start} ends at {end}; move one"
                )
            if one.stop > end:
                ends[one.channel] = one.stop, one
        recorded = self.acquisitions
        if len({one.start for one in recorded}) > 1:
            raise ValueError(
                f"`instructions` must start all recordings together, but they start at {sorted({one.start for one in recorded})}; "
                "measure once, at the end"
            )
        slots = [one.slot for one in recorded]
        if len(set(slots)) < len(slots):
            raise ValueError(f"`instructions` must record into different slots, but got {slots}; give each transmon its own")
        return self

    # what there is

    @property
    def duration(self) -> int:
        """Samples until the last instruction ends."""
        return max((one.stop for one in self.instructions), default=0)

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the channels, sorted."""
        return tuple(sorted({one.channel for one in self.instructions}, key=_channel_order))

    @property
    def acquisitions(self) -> tuple[Acquire, ...]:
        """The recordings, by slot."""
        found = [one for one in self.instructions if isinstance(one, Acquire)]
        return tuple(sorted(found, key=lambda one: one.slot))

    def end_of(self, *channels: str) -> int:
        """Return the sample after the last one that these channels use; of all channels where none is named."""
        return max((one.stop for one in self.instructions if not channels or one.channel in channels), default=0)

    # building

    def add(self, *instructions: Instruction) -> "Schedule":
        """Return the schedule with more instructions at the times that they have."""
        return Schedule(name=self.name, instructions=(*self.instructions, *instructions))

    def play(self, channel: str, waveform: Waveform, start: int | None = None) -> "Schedule":
        """Return the schedule with a pulse, by default as soon as the channel is free."""
        return self.add(Play(channel=channel, start=self.end_of(channel) if start is None else start, waveform=waveform))

    def delay(self, channel: str, duration_samples: int) -> "Schedule":
        """Return the schedule with a channel kept free for so many samples."""
        return self.add(Delay(channel=channel, start=self.end_of(channel), duration_samples=duration_samples))

    def shift_phase(self, channel: str, phase_rad: float) -> "Schedule":
        """Return the schedule with a shift of phase at the channel's end."""
        return self.add(ShiftPhase(channel=channel, start=self.end_of(channel), phase_rad=phase_rad))

    def shift_frequency(self, channel: str, frequency_hertz: float) -> "Schedule":
        """Return the schedule with a shift of frequency at the channel's end."""
        return self.add(ShiftFrequency(channel=channel, start=self.end_of(channel), frequency_hertz=frequency_hertz))

    def barrier(self, *channels: str) -> "Schedule":
        """Return the schedule with delays that let these channels (all that are used, where none is named) go on together."""
        named = channels or self.channels
        end = self.end_of(*named) if named else 0
        gaps = [(channel, self.end_of(channel)) for channel in named]
        return self.add(*(Delay(channel=channel, start=at, duration_samples=end - at) for channel, at in gaps if at < end))

    def acquire(self, transmons: Iterable[int], duration_samples: int, start: int | None = None) -> "Schedule":
        """Return the schedule with recordings of transmons into slots 0, 1, ..., by default after everything else."""
        at = self.duration if start is None else start
        recordings = (
            Acquire(channel=f"a{transmon}", start=at, duration_samples=duration_samples, slot=slot)
            for slot, transmon in enumerate(require_transmons("Schedule", transmons))
        )
        return self.add(*recordings)

    def moved(self, samples: int) -> "Schedule":
        """Return the schedule so many samples later."""
        return Schedule(name=self.name, instructions=tuple(one.replace(start=one.start + samples) for one in self.instructions))

    def then(self, other: "Schedule") -> "Schedule":
        """Return this schedule and, after all of it, another."""
        if not isinstance(other, Schedule):
            raise DesignError(f"Schedule: `other` must be a Schedule, but got a {type(other).__name__}; instructions come in by `add`")
        return self.add(*other.moved(self.duration).instructions)

    # forms

    def to_json(self) -> str:
        """Return the schedule as JSON, with the version of the form."""
        return json.dumps(self._content(), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Schedule":
        """Read a schedule from JSON.

        Raises
        ------
        DesignError
            Where the text is no JSON, of another version, or no valid schedule.
        """
        try:
            content = json.loads(text)
        except TypeError:
            raise DesignError(f"Schedule: `text` must be a text, but got a {type(text).__name__}; give what to_json() wrote") from None
        except json.JSONDecodeError as error:
            raise DesignError(f"Schedule: `text` must be JSON, but is not ({error}); give what to_json() wrote") from None
        if not isinstance(content, dict) or content.get("version") != VERSION or content["version"] is True:
            version = content.get("version") if isinstance(content, dict) else None
            raise DesignError(f"Schedule: `version` must be {VERSION}, but got {version!r}; write the schedule anew with this release")
        return cls.from_dict(content)

    def figure(self) -> "Figure":
        """Return a picture of what each channel plays over time."""
        from devices.quantum.schedule_figure import draw_schedule

        return draw_schedule(self)


def _channel_order(name: str) -> tuple[int, int]:
    match = re.fullmatch(r"([a-z])(\d+)", name)
    assert match is not None
    return "duma".index(match[1]), int(match[2])
