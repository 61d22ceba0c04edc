"""Schedules: what they hold, what they refuse, their JSON form, and the samples that reach the transmons."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from devices import Constant, DesignError, Drag, Gaussian, GaussianSquare, Sampled, Schedule, TransmonBackend, WaveformGenerator
from devices.quantum import Acquire, Play, SetFrequency, SetPhase, ShiftFrequency, ShiftPhase
from devices.quantum.model import model_of
from devices.quantum.playing import generate, phases_of, play
from devices.quantum.sequences import PulseBuilder, frame_turns

X = Drag(duration_samples=160, sigma_samples=40, beta_samples=-1.12, amplitude=0.168)
BACKEND = TransmonBackend.preset("jakarta_like")

waveforms = st.one_of(
    st.builds(Constant, duration_samples=st.integers(1, 50), amplitude=st.floats(-1, 1), angle_rad=st.floats(-4, 4)),
    st.builds(Gaussian, duration_samples=st.integers(2, 50), sigma_samples=st.floats(0.5, 20), amplitude=st.floats(-1, 1)),
    st.builds(
        GaussianSquare,
        duration_samples=st.just(64),
        sigma_samples=st.floats(1, 20),
        width_samples=st.floats(0, 64),
        amplitude=st.floats(0, 1),
    ),
    st.builds(
        Drag, duration_samples=st.just(64), sigma_samples=st.floats(4, 20), beta_samples=st.floats(-3, 3), amplitude=st.floats(0, 0.5)
    ),
    st.lists(st.complex_numbers(max_magnitude=1), min_size=1, max_size=20).map(Sampled.of),
)
channels = st.sampled_from(["d0", "d1", "u0", "m1"])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(channels, waveforms, st.integers(0, 40), st.floats(-7, 7)), max_size=6))
def test_json_brings_back_the_same_schedule(parts: list) -> None:
    schedule = Schedule(name="any")
    for channel, waveform, gap, phase in parts:
        schedule = schedule.delay(channel, gap).shift_phase(channel, phase).play(channel, waveform)
    text = schedule.to_json()
    assert json.loads(text)["version"] == 1
    again = Schedule.from_json(text)
    assert again == schedule and again.to_json() == text and hash(again) == hash(schedule)


def test_a_schedule_never_changes() -> None:
    empty = Schedule()
    longer = empty.play("d0", X)
    assert empty.instructions == () and longer.duration == 160 and longer.then(longer).duration == 320
    with pytest.raises(DesignError, match="frozen"):
        longer.name = "other"


def test_a_schedule_has_one_order_however_it_was_given() -> None:
    """At one time frames change before what starts then; SetPhase and ShiftPhase of one time stay in their order."""
    parts = [
        Play(channel="d1", start=0, waveform=X),
        Play(channel="d0", start=160, waveform=X),
        Play(channel="d0", start=0, waveform=X),
        SetPhase(channel="d0", start=160, phase_rad=0.5),
        ShiftPhase(channel="d0", start=160, phase_rad=0.25),
    ]
    schedule = Schedule(instructions=tuple(parts))
    assert [parts.index(one) for one in schedule.instructions] == [2, 0, 3, 4, 1]
    unsorted = json.loads(schedule.to_json())
    unsorted["instructions"] = [unsorted["instructions"][place] for place in (4, 1, 2, 3, 0)]
    assert Schedule.from_json(json.dumps(unsorted)) == schedule
    samples = play(model_of(BACKEND), schedule).samples
    np.testing.assert_allclose(samples[160:, 0], X.samples() * np.exp(0.75j), atol=1e-15)


def test_samples_in_single_precision_may_turn_at_full_amplitude() -> None:
    turning = np.exp(1j * np.linspace(0, 6, 640))
    found = Sampled.of(torch.from_numpy(turning.astype(np.complex64)).requires_grad_(True)).samples()
    np.testing.assert_allclose(found, turning, atol=1e-6)
    assert np.abs(found).max() <= 1 + 1e-12


def test_building_goes_on_where_a_channel_is_free() -> None:
    schedule = Schedule().play("d0", X).play("d1", X, start=320).barrier("d0", "d1").play("d0", X).acquire([1, 0], 1000)
    starts = {one.channel: one.start for one in schedule.instructions}
    assert (starts["d0"], starts["a0"], starts["a1"]) == (480, 640, 640)
    assert [one.transmon for one in schedule.acquisitions] == [1, 0]
    assert schedule.moved(16).duration == schedule.duration + 16


@pytest.mark.parametrize(
    ("build", "line"),
    [
        (lambda: Schedule().play("d0", X).play("d0", X, start=100), "must not overlap on a channel"),
        (lambda: Schedule().add(Play(channel="d0", start=-1, waveform=X)), "`start`"),
        (lambda: Schedule().play("q0", X), "`channel`"),
        (lambda: Schedule().then(3), "`other` must be a Schedule, but got a int"),
        (lambda: Constant(duration_samples=8, amplitude=1.2), "`amplitude`"),
        (lambda: Sampled.of([0.5, 1.1]), "magnitude of at most 1"),
        (lambda: Drag(duration_samples=16, sigma_samples=2, beta_samples=8, amplitude=0.9), "magnitude of at most 1"),
        (lambda: GaussianSquare(duration_samples=16, sigma_samples=2, width_samples=20), "`width_samples` must be at most"),
        (lambda: Sampled(duration_samples=3, real=(0.1, 0.2)), "must have `duration_samples` numbers"),
        (lambda: Schedule().acquire([0], 10).acquire([1], 10), "start all recordings together"),
        (lambda: Schedule().acquire([0], 10, start=0).add(Acquire(channel="a1", start=0, duration_samples=9, slot=0)), "different slots"),
        (lambda: Sampled.of(np.ones((2, 64))), "one row of numbers, but got float64 of shape (2, 64)"),
        (lambda: Sampled.of("abc"), "`samples` must be numbers"),
        (lambda: Drag(duration_samples=64, sigma_samples=1e300, beta_samples=0), "`sigma_samples` must be"),
        (lambda: Schedule.from_json("{"), "must be JSON"),
        (lambda: Schedule.from_json('{"version": true}'), "`version` must be 1, but got True"),
        (lambda: Schedule.from_json('{"version": 2}'), "`version` must be 1"),
    ],
)
def test_a_schedule_refuses_what_cannot_be_played(build, line: str) -> None:
    with pytest.raises(DesignError, match=r"^[^\n]*$") as error:
        build()
    assert line in str(error.value)


@pytest.mark.parametrize(
    ("schedule", "line"),
    [
        (Schedule().play("d7", X), "`channel` must be one of"),
        (Schedule().play("d0", X, start=8), "must be a multiple of 16"),
        (Schedule().play("d0", Constant(duration_samples=72)), "`duration_samples` must be a multiple of 16"),
        (Schedule().play("d0", Constant(duration_samples=48)), "at least 64"),
        (Schedule().acquire([0], 1600, start=0).play("d0", X, start=160), "measure last"),
        (
            Schedule().delay("d0", 16 * 10**14),
            "but 1600000000000000 on 0 channels need some 1.02e+17 bytes",
        ),
        (Schedule().play("d0", X).shift_frequency("d0", 2.3e9).play("d0", X), "must stay within 2.25e+09 Hz of its own"),
        (Schedule().shift_frequency("d0", -1e10).play("d0", X), "must stay within 2.25e+09 Hz of its own"),
        (Schedule().add(SetFrequency(channel="d0", start=0, frequency_hertz=5.2)).play("d0", X), "but goes to 5.2 Hz at 0"),
    ],
)
def test_a_backend_refuses_what_its_electronics_cannot_do(schedule: Schedule, line: str) -> None:
    with pytest.raises(DesignError) as error:
        BACKEND.unitary(schedule)
    assert line in str(error.value)


def test_frames_turn_what_is_played_after_them() -> None:
    schedule = (
        Schedule().play("d0", X).shift_phase("d0", 0.4).play("d0", X).add(SetPhase(channel="d0", start=320, phase_rad=-1.0)).play("d0", X)
    )
    samples = play(model_of(BACKEND), schedule).samples[:, 0]
    plain = X.samples()
    for part, phase in enumerate((0.0, 0.4, -1.0)):
        np.testing.assert_allclose(samples[160 * part : 160 * part + 160], plain * np.exp(1j * phase), atol=1e-15)
    assert set(phases_of(schedule, "d0").round(9)) == {0.0, 0.4, -1.0}


def test_a_change_of_frequency_keeps_the_carrier_continuous() -> None:
    """A channel moved by f and back for a time T plays on with the phase 2 pi f T."""
    shift, length = 31e6, 640
    schedule = (
        Schedule()
        .play("d0", X)
        .shift_frequency("d0", shift)
        .delay("d0", length)
        .add(ShiftFrequency(channel="d0", start=160 + length, frequency_hertz=-shift))
        .play("d0", X)
    )
    turned = Schedule().play("d0", X).delay("d0", length).shift_phase("d0", 2 * math.pi * shift * length * BACKEND.sample_seconds)
    expected = BACKEND.unitary(turned.play("d0", X))
    torch.testing.assert_close(BACKEND.unitary(schedule), expected, rtol=0, atol=1e-10)
    fixed = Schedule().add(SetFrequency(channel="d0", start=0, frequency_hertz=BACKEND.frame_hertz[0])).play("d0", X)
    torch.testing.assert_close(BACKEND.unitary(fixed), BACKEND.unitary(Schedule().play("d0", X)), rtol=0, atol=1e-12)


def test_virtual_z_turns_all_channels_in_a_transmons_frame() -> None:
    schedule = PulseBuilder(BACKEND).rz(1, 0.3).sx(1).schedule()
    shifted = {one.channel for one in schedule.instructions if isinstance(one, ShiftPhase)}
    assert shifted == {"d1", "u0"} and frame_turns(BACKEND, schedule) == [0.0, 0.3]


def test_rounding_and_low_pass_of_the_electronics() -> None:
    samples = torch.from_numpy(np.full((1, 40, 1), 0.3 - 0.6j))
    rounded = generate(WaveformGenerator(bits=4), samples, 1e-9)
    assert rounded[0, 0, 0] == complex(2 / 7, -4 / 7)
    bandwidth, dt = 100e6, 0.2e-9
    passed = generate(WaveformGenerator(bandwidth_hertz=bandwidth), samples, dt)[0, :, 0].numpy()
    rise = 1 - np.exp(-2 * np.pi * bandwidth * dt * np.arange(1, 41))
    np.testing.assert_allclose(passed, (0.3 - 0.6j) * rise, atol=1e-14)
    leaf = samples.clone().requires_grad_(True)
    generate(WaveformGenerator(bits=4), leaf, dt).real.sum().backward()
    assert torch.equal(leaf.grad, torch.ones_like(leaf))


def test_waveforms_equal_those_of_qiskit() -> None:
    pulse = pytest.importorskip("qiskit.pulse")
    pairs = [
        (Gaussian(duration_samples=160, sigma_samples=40, amplitude=0.3, angle_rad=0.4), pulse.Gaussian(160, 0.3, 40, angle=0.4)),
        (
            GaussianSquare(duration_samples=368, sigma_samples=64, width_samples=112, amplitude=0.7),
            pulse.GaussianSquare(368, 0.7, 64, width=112),
        ),
        (X, pulse.Drag(160, 0.168, 40, -1.12)),
        (Constant(duration_samples=64, amplitude=0.2), pulse.Constant(64, 0.2)),
    ]
    for ours, theirs in pairs:
        np.testing.assert_allclose(ours.samples(), theirs.get_waveform().samples, atol=1e-14)


def test_a_wide_gaussian_is_a_parabola() -> None:
    """Lifted by its value at 33 and scaled to 1 in the middle, a Gaussian that is hardly curved is 1 - (t / 33)^2."""
    times = np.arange(64) - 31.5
    found = Gaussian(duration_samples=64, sigma_samples=1e7).samples().real
    np.testing.assert_allclose(found, 1 - (times / 33) ** 2, atol=1e-10)


def test_a_figure_shows_every_channel() -> None:
    schedule = PulseBuilder(BACKEND).cx(0, 1).measure().schedule()
    axes = schedule.figure().axes
    assert [one.get_ylabel() for one in axes] == ["d0", "d1", "u0"] and axes[-1].get_xlabel() == "time, samples"
