"""From a schedule to the samples that reach the transmons: checks, frames, and the limits of the electronics."""

import math
import os
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from devices.design import DesignError
from devices.quantum.model import TWO_PI, Played, TransmonModel
from devices.quantum.schedule import Acquire, Play, Schedule, SetFrequency, SetPhase, ShiftFrequency, ShiftPhase
from devices.quantum.transmon import WaveformGenerator

if TYPE_CHECKING:
    from devices.quantum.backend import TransmonBackend


def check_schedule(backend: "TransmonBackend", schedule: Schedule) -> None:
    """Raise DesignError where a backend cannot play a schedule: a channel that is not there, times or lengths off the grid.

    Examples
    --------
    >>> from devices import TransmonBackend
    >>> check_schedule(TransmonBackend.preset("jakarta_like"), Schedule())
    """
    if not isinstance(schedule, Schedule):
        raise DesignError(
            f"TransmonBackend: `schedule` must be a Schedule, but got a {type(schedule).__name__}; Schedule.from_json "
            "reads JSON and PulseBuilder(...).schedule() makes one of gates"
        )
    known = backend.channels
    for one in schedule.instructions:
        where = f"{type(one).__name__} on {one.channel} at {one.start}"
        if one.channel not in known:
            raise DesignError(f"Schedule: `channel` must be one of {', '.join(known)}, but {where} is on another; check the backend")
        if isinstance(one, Play | Acquire) and one.start % backend.alignment_samples:
            raise DesignError(
                f"Schedule: `start` must be a multiple of {backend.alignment_samples} samples, but {where} is not; align it by a delay"
            )
        if isinstance(one, Play) and one.channel[0] == "a":
            raise DesignError(f"Schedule: `channel` of a pulse must be d, u or m, but {where} is for recordings; play it elsewhere")
        if isinstance(one, Play) and one.channel[0] in "du":
            if one.duration % backend.granularity_samples or one.duration < backend.shortest_samples:
                raise DesignError(
                    f"Schedule: `duration_samples` must be a multiple of {backend.granularity_samples} and at least "
                    f"{backend.shortest_samples}, but {where} has {one.duration}; lengthen it"
                )


BYTES_PER_SAMPLE = 64
"""Of each channel: its sample, frequency and phase, and the two averages of its carrier."""


def play(model: TransmonModel, schedule: Schedule) -> Played:
    """Return the samples of a schedule as the transmons see them.

    Examples
    --------
    >>> from devices import TransmonBackend
    >>> from devices.quantum.model import model_of
    >>> play(model_of(TransmonBackend.preset("jakarta_like")), Schedule()).duration
    0
    """
    check_schedule(model.backend, schedule)
    playing = {one.channel for one in schedule.instructions if isinstance(one, Play)}
    channels = tuple(name for name in schedule.channels if name in playing and name in model.lines)
    duration = unmeasured_duration(schedule)
    needed, there = BYTES_PER_SAMPLE * duration * (1 + len(channels)), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        raise DesignError(
            f"Schedule: its samples must fit into memory, but {duration} on {len(channels)} channels need some {needed:.3g} bytes of the "
            f"{there:.3g} that there are; make it shorter"
        )
    samples = np.zeros((duration, len(channels)), np.complex128)
    frequencies = np.zeros((duration, len(channels)))
    phases = np.zeros((duration, len(channels)))
    dt = model.backend.sample_seconds
    for c, name in enumerate(channels):
        frequency, phase, offset = model.lines[name].frequency, 0.0, 0.0
        frequencies[:, c] = frequency
        for one in schedule.instructions:
            if one.channel != name:
                continue
            if isinstance(one, ShiftPhase):
                phase += one.phase_rad
            elif isinstance(one, SetPhase):
                phase = one.phase_rad
            elif isinstance(one, ShiftFrequency | SetFrequency):
                change = TWO_PI * one.frequency_hertz
                new = frequency + change if isinstance(one, ShiftFrequency) else change
                if abs(new - model.lines[name].frequency) * dt > math.pi:
                    raise DesignError(
                        f"Schedule: the frequency of {name} must stay within {0.5 / dt:.4g} Hz of its own, half the rate of samples, but "
                        f"goes to {new / TWO_PI:.6g} Hz at {one.start}; play on another channel"
                    )
                # The carrier goes on from where it is: its phase at this time stays the same.
                offset += math.remainder((frequency - new) * one.start * dt, TWO_PI)
                frequency = new
                frequencies[one.start :, c] = frequency
                phases[one.start :, c] = offset
            elif isinstance(one, Play):
                samples[one.start : one.stop, c] = one.waveform.samples() * complex(math.cos(phase), math.sin(phase))
    if model.backend.generator is not None:
        samples = generate(model.backend.generator, torch.from_numpy(samples)[None], dt)[0].numpy()
    return Played(channels, samples, model.carriers(channels, frequencies, phases))


def unmeasured_duration(schedule: Schedule) -> int:
    """Return the samples before the recordings start: what the transmons do until then is what is read.

    Examples
    --------
    >>> unmeasured_duration(Schedule().delay("d0", 32).acquire([0], 1000))
    32
    """
    recorded = schedule.acquisitions
    if recorded:
        late = [one for one in schedule.instructions if isinstance(one, Play) and one.channel[0] in "du" and one.stop > recorded[0].start]
        if late:
            raise DesignError(
                f"Schedule: pulses must end before the recordings start at {recorded[0].start}, but one on {late[0].channel} ends at "
                f"{late[0].stop}; measure last"
            )
        return recorded[0].start
    return max((one.stop for one in schedule.instructions if one.channel[0] in "dua"), default=0)


def generate(generator: WaveformGenerator, samples: Tensor, sample_seconds: float) -> Tensor:
    """Return samples ``(batch, samples, channels)`` behind the generator's rounding and low pass; gradients pass rounding straight.

    Examples
    --------
    >>> generate(WaveformGenerator(bits=2), torch.full((1, 1, 1), 0.7 + 0.2j), 1e-9)
    tensor([[[1.+0.j]]])
    """
    if generator.bits is not None:
        steps = float((1 << (generator.bits - 1)) - 1)
        parts = torch.view_as_real(samples.detach())
        rounded = torch.view_as_complex(torch.round(parts * steps).clamp(-steps, steps) / steps)
        samples = samples + (rounded - samples.detach())
    if generator.bandwidth_hertz is not None:
        samples = _low_pass(samples, 1.0 - math.exp(-TWO_PI * generator.bandwidth_hertz * sample_seconds))
    return samples


def _low_pass(samples: Tensor, gain: float) -> Tensor:
    """Return ``y[n] = y[n-1] + gain (x[n] - y[n-1])``, by the impulse response as far as it matters."""
    if gain >= 1:
        return samples
    length = min(samples.shape[1], 1 + math.ceil(math.log(1e-16) / math.log1p(-gain)))
    response = gain * (1 - gain) ** torch.arange(length, dtype=torch.float64)
    padded = torch.nn.functional.pad(torch.view_as_real(samples).permute(0, 2, 3, 1).flatten(0, 2).unsqueeze(1), (length - 1, 0))
    filtered = torch.nn.functional.conv1d(padded, response.flip(0).reshape(1, 1, -1))
    parts = filtered.reshape(samples.shape[0], samples.shape[2], 2, samples.shape[1]).permute(0, 3, 1, 2)
    return torch.view_as_complex(parts.contiguous())


def phases_of(schedule: Schedule, channel: str) -> npt.NDArray[np.float64]:
    """Return the phase of a channel's frame at each sample, rad, as shifts and settings of the phase make it.

    Examples
    --------
    >>> phases_of(Schedule().delay("d0", 2).shift_phase("d0", 0.5).delay("d0", 1), "d0").tolist()
    [0.0, 0.0, 0.5]
    """
    found = np.zeros(schedule.duration)
    for one in schedule.instructions:
        if one.channel == channel and isinstance(one, ShiftPhase):
            found[one.start :] += one.phase_rad
        elif one.channel == channel and isinstance(one, SetPhase):
            found[one.start :] = one.phase_rad
    return found
