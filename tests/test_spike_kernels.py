"""Kernels of spiking neurons and event-driven synapses: identities, naive twins and closed forms, bit by bit."""

import math

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import Key, normal, uniform
from kernels.event_synapses import EventKernel, add_spikes, convolve_and_fire, event_convolution, event_linear
from kernels.spikes import STREAM_BYTES, integrate_and_fire, integrate_and_fire_fixed
from kernels.threads import set_threads
from tests import naive_spikes

pytestmark = pytest.mark.kernels

COMPILED = not numba.config.DISABLE_JIT
large = pytest.mark.skipif(not COMPILED, reason="too large without the JIT")
KEY = Key.of(seed=5, purpose="spikes")
MANY = 5000 if COMPILED else 200


def draws(count: int, high: int, name: str, low: int = 0) -> torch.Tensor:
    return (uniform(KEY.fold(name), count) * (high - low)).long() + low


class TestIdentities:
    """Spike counts of constant integer inputs in closed form, for thousands of random integers."""

    def test_soft_reset_from_any_start_below_the_threshold(self) -> None:
        steps = 24
        z, level = draws(MANY, 200, "z"), draws(MANY, 150, "V", 1)
        v0 = (uniform(KEY.fold("v0"), MANY) * level).long().clamp(max=level - 1)
        spikes, _ = integrate_and_fire(z.expand(steps, -1), level, v0)
        assert torch.equal(spikes.sum(0, dtype=torch.int64), ((steps * z + v0) // level).clamp(0, steps))

    def test_soft_reset_above_the_threshold_only(self) -> None:
        steps = 24
        z, level = draws(MANY, 200, "z2"), draws(MANY, 150, "V2", 1)
        spikes, _ = integrate_and_fire(z.expand(steps, -1), level, comparator=">")
        assert torch.equal(spikes.sum(0, dtype=torch.int64), (-(-steps * z // level) - 1).clamp(0, steps))

    def test_hard_reset(self) -> None:
        steps = 40
        z, level = draws(MANY, 60, "z3", 1), draws(MANY, 150, "V3", 1)
        spikes, _ = integrate_and_fire(z.expand(steps, -1), level, reset="hard")
        assert torch.equal(spikes.sum(0, dtype=torch.int64), steps // -(-level // z))

    def test_leak_and_hard_reset(self) -> None:
        steps, level = 40, 100.0  # with more, rounding fires what only comes near
        for decay in (0.5, 0.9):
            z = draws(300, 140, f"leak{decay}", 1).double()
            spikes, _ = integrate_and_fire(z.expand(steps, -1), level, 0.0, decay, "hard")
            for current, count in zip(z.tolist(), spikes.sum(0).tolist(), strict=True):
                if current <= level * (1 - decay):
                    assert count == 0
                    continue
                between = math.log(1 - level * (1 - decay) / current) / math.log(decay)
                if abs(between - round(between)) > 1e-9:  # where rounding decides, the closed form does not
                    assert count == steps // math.ceil(between)

    def test_the_membrane_is_what_was_not_spent(self) -> None:
        current = draws(MANY * 8, 90, "sum", -40).reshape(8, MANY)
        spikes, membrane = integrate_and_fire(current, 50)
        assert torch.equal(membrane, current.sum(0) - 50 * spikes.sum(0, dtype=torch.int64))


@settings(max_examples=60 if COMPILED else 15, deadline=None)
@given(
    steps=st.integers(1, 9),
    shape=st.sampled_from([(1,), (7,), (2, 3), (2, 3, 5)]),
    decay=st.sampled_from([1.0, 0.5, 0.9]),
    reset=st.sampled_from(["soft", "hard"]),
    comparator=st.sampled_from([">=", ">"]),
    moment=st.sampled_from(["same_step", "next_step"]),
    by_neuron=st.booleans(),
    kind=st.sampled_from([torch.float32, torch.uint8]),
)
def test_both_backends_equal_the_twin(steps, shape, decay, reset, comparator, moment, by_neuron, kind) -> None:
    # Multiples of 1/8 meet the threshold exactly now and then.
    current = (uniform(KEY.fold("c", steps), (steps, *shape)) * 12).round() / 8
    level = (1 + uniform(KEY.fold("level"), shape[1:] or (1,)) * 8).round() / 8 if by_neuron else torch.tensor(1.0)
    v0 = uniform(KEY.fold("v0"), shape) - 0.5
    options = {"reset_potential": -0.25 if reset == "hard" else 0.0, "reset_moment": moment}
    found = []
    for backend in ("numba", "torch"):
        out = torch.empty(current.shape, dtype=kind)
        spikes, membrane = integrate_and_fire(current, level, v0, decay, reset, comparator, out, backend=backend, **options)
        assert spikes is out
        found.append((spikes, membrane))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    levels = level.expand(shape) if by_neuron and len(shape) > 1 else level.reshape(-1)[0].expand(shape)
    for place in np.ndindex(shape):
        expected, trace = naive_spikes.neuron(
            current[(slice(None), *place)].tolist(), levels[place].item(), v0[place].item(), decay, reset, comparator,
            options["reset_potential"], moment, np.float32,
        )  # fmt: skip
        assert found[0][0][(slice(None), *place)].tolist() == expected
        assert found[0][1][place].item() == trace[-1]


@settings(max_examples=80 if COMPILED else 20, deadline=None)
@given(
    currents=st.lists(st.integers(-(2**20), 2**20), min_size=1, max_size=12),
    threshold=st.integers(1, 4000),
    v0=st.integers(-100, 100),
    decay=st.sampled_from([(1, 0), (2048, 12), (4095, 12), (3, 2)]),
    bits=st.sampled_from([8, 13, 16, 24, 32]),
    overflow=st.sampled_from(["saturate", "wrap"]),
    reset=st.sampled_from(["soft", "hard"]),
    comparator=st.sampled_from([">=", ">"]),
)
def test_integers_equal_python_integers(currents, threshold, v0, decay, bits, overflow, reset, comparator) -> None:
    keep, shift = decay
    expected = naive_spikes.fixed_neuron(currents, threshold, v0, keep, shift, bits, overflow, reset, comparator)
    flow = torch.tensor(currents, dtype=torch.int32)[:, None].expand(-1, 3)
    for backend in ("numba", "torch"):
        spikes, membrane, beyond = integrate_and_fire_fixed(
            flow, threshold, v0, keep=keep, shift=shift, bits=bits, overflow=overflow, reset=reset, comparator=comparator, backend=backend
        )
        assert spikes[:, 1].tolist() == expected[0]
        assert membrane.tolist() == [expected[1]] * 3
        assert beyond.tolist() == [expected[2]] * 3


def test_a_leaking_membrane_is_a_geometric_sum() -> None:
    current, decay, steps = 0.3, 0.9, 50
    _, membrane = integrate_and_fire(torch.full((steps, 4), current, dtype=torch.float64), 100.0, 0.5, decay)
    closed = 0.5 * decay**steps + current * (1 - decay**steps) / (1 - decay)
    assert membrane.tolist() == pytest.approx([closed] * 4, rel=1e-13)


def test_a_reset_in_the_next_step_is_not_decayed() -> None:
    spikes, membrane = integrate_and_fire(torch.tensor([[1.5], [0.0]]), 1.0, decay=0.5, reset_moment="next_step")
    assert (spikes.flatten().tolist(), membrane.item()) == ([1.0, 0.0], 0.5 * 1.5 - 1.0)
    _, kept = integrate_and_fire(torch.tensor([[1.5], [0.25]]), 1.0, reset="hard", reset_moment="next_step")
    assert kept.item() == 0.25


def test_numpy_in_numpy_out_and_narrow_integers() -> None:
    spikes, membrane = integrate_and_fire(np.full((3, 2), 100, np.int8), 150)
    assert isinstance(spikes, np.ndarray) and spikes.tolist() == [[0, 0], [1, 1], [1, 1]] and membrane.tolist() == [0, 0]


def test_the_input_stays_as_it_is() -> None:
    current, v0 = torch.ones(4, 3), torch.zeros(3)
    integrate_and_fire(current, 0.7, v0)
    assert torch.equal(current, torch.ones(4, 3)) and not v0.any()


@pytest.mark.parametrize(("kind", "moment"), [(torch.float32, "same_step"), (torch.float32, "next_step"), (torch.int32, "same_step")])
def test_a_step_that_lasts_is_the_same_as_its_copies(kind: torch.dtype, moment: str) -> None:
    step = (normal(KEY.fold("lasts"), (1, 3, 21)) * 40).to(kind)
    lasting = step.expand(11, 3, 21)
    copied = lasting.clone()
    pairs = [(integrate_and_fire(lasting, 50, reset_moment=moment), integrate_and_fire(copied, 50, reset_moment=moment))]
    pairs.append((integrate_and_fire(lasting, 50, reset_moment=moment, backend="torch"), pairs[0][1]))
    if kind == torch.int32:
        pairs.append((integrate_and_fire_fixed(lasting, 50, bits=8), integrate_and_fire_fixed(copied, 50, bits=8)))
    for found, expected in pairs:
        assert found[0].any() and all(map(torch.equal, found, expected))


@large
def test_bits_do_not_depend_on_threads() -> None:
    current = normal(KEY, (6, 70, 8192))
    one = integrate_and_fire(current, 1.0, decay=0.9)
    set_threads(2)
    try:
        two = integrate_and_fire(current, 1.0, decay=0.9)
    finally:
        set_threads(1)
    assert torch.equal(one[0], two[0]) and torch.equal(one[1], two[1])


@settings(max_examples=40 if COMPILED else 8, deadline=None)
@given(
    vectors=st.integers(0, 5),
    inputs=st.integers(1, 40),
    outputs=st.integers(1, 20),
    kind=st.sampled_from([torch.float32, torch.int8, torch.int32]),
    most=st.sampled_from([1, 3]),
)
def test_events_equal_the_dense_sum_in_their_order(vectors, inputs, outputs, kind, most) -> None:
    spikes = (uniform(KEY.fold("s"), (vectors, inputs)) < 0.3).to(torch.uint8) * (1 + draws(inputs, most, "m")).to(torch.uint8)
    rows = (normal(KEY.fold("w"), (inputs, outputs)) * (30 if kind != torch.float32 else 1)).to(kind)
    assert torch.equal(event_linear(spikes, rows), naive_spikes.dense_linear(spikes, rows))


@settings(max_examples=30 if COMPILED else 6, deadline=None)
@given(
    size=st.tuples(st.integers(3, 6), st.integers(3, 6)),
    kernel=st.sampled_from([(1, 1), (3, 3), (2, 3)]),
    stride=st.sampled_from([(1, 1), (2, 1), (2, 2)]),
    padding=st.sampled_from([(0, 0), (1, 1), (2, 0)]),
    dilation=st.sampled_from([(1, 1), (1, 2)]),
    groups=st.sampled_from([1, 2]),
    kind=st.sampled_from([torch.float32, torch.int8]),
    most=st.sampled_from([1, 3]),
)
def test_convolution_by_events_equals_the_dense_one(size, kernel, stride, padding, dilation, groups, kind, most) -> None:
    if any(n + 2 * p < d * (k - 1) + 1 for n, p, d, k in zip(size, padding, dilation, kernel, strict=True)):
        return
    spikes = (uniform(KEY.fold("s2"), (2, 4, *size)) < 0.4).to(torch.uint8) * most
    weight = (normal(KEY.fold("w2"), (6, 4 // groups, *kernel)) * (30 if kind == torch.int8 else 1)).to(kind)
    bias = (normal(KEY.fold("b2"), 6) * 5).to(torch.float32 if kind == torch.float32 else torch.int32)
    laid = EventKernel.of(weight, stride, padding, dilation, groups)
    expected = naive_spikes.dense_convolution(spikes, weight, bias, stride, padding, dilation, groups)
    assert torch.equal(event_convolution(spikes, laid, bias), expected)


@pytest.mark.parametrize(
    ("weight", "padding", "together"),
    [
        ((64, 2, 3, 3), (1, 1), 1),  # three outputs of four vectors slide
        ((20, 5, 1, 3), (0, 2), 1),
        ((9, 70, 2, 3), (1, 1), 1),  # two words for each pixel
        ((20, 30, 3, 3), (1, 1), 2),  # two words for four pixels one above the other
        ((9, 17, 3, 3), (2, 3), 2),  # an output is left out on both sides
        ((3, 2, 3, 5), (1, 1), 2),
        ((100, 1, 2, 3), (1, 0), 1),  # more than stays in registers
    ],
)
@pytest.mark.parametrize("kind", [torch.float32, torch.int8])
def test_every_way_to_add_rows_is_the_dense_sum(weight, padding, together, kind) -> None:
    spikes = (uniform(KEY.fold("s5"), (2, weight[1], 3, 5)) < 0.3).to(torch.uint8)
    weights, bias = (normal(KEY.fold(name), shape) * 30 for name, shape in (("w5", weight), ("b5", weight[:1])))
    laid = EventKernel.of(weights.to(kind), padding=padding)
    bias = bias.to(kind if kind == torch.float32 else torch.int32)
    expected = naive_spikes.dense_convolution(spikes, weights.to(kind), bias, (1, 1), padding, (1, 1), 1)
    assert laid.together == together and torch.equal(event_convolution(spikes, laid, bias), expected)


@settings(max_examples=25 if COMPILED else 5, deadline=None)
@given(
    channels=st.sampled_from([(1, 1), (3, 20), (16, 16), (17, 70), (70, 3)]),
    stride=st.sampled_from([(1, 1), (2, 1), (1, 3)]),
    most=st.sampled_from([1, 3]),
    reset=st.sampled_from(["soft", "hard"]),
    comparator=st.sampled_from([">=", ">"]),
    more=st.sampled_from(["nothing", "current", "spikes"]),
)
def test_neurons_fired_by_a_convolution_are_those_fired_after_it(channels, stride, most, reset, comparator, more) -> None:
    inputs, outputs = channels
    # Multiples of 1/8 meet the threshold exactly now and then, and are summed without rounding.
    spikes = (uniform(KEY.fold("s3"), (3, 2, inputs, 5, 4)) < 0.3).to(torch.uint8) * most
    weight, bias = ((normal(KEY.fold(name), shape) * 4).round() / 8 for name, shape in (("w3", (outputs, inputs, 3, 2)), ("b3", outputs)))
    kernel = EventKernel.of(weight, stride, (1, 1))
    current = event_convolution(spikes.flatten(0, 1), kernel, bias).unflatten(0, (3, 2))
    level = (8 + draws(outputs, 9, "level3")).float().reshape(-1, 1, 1) / 8
    v0 = draws(current[0, 0].numel(), 8, "v3").float().reshape(current.shape[2:]) / 8
    added = (normal(KEY.fold("added"), current.shape) * 4).round() / 8 if more == "current" else None
    counts = (uniform(KEY.fold("counts"), current.shape) < 0.3).to(torch.uint8) if more == "spikes" else None
    found = convolve_and_fire(
        spikes, kernel, level, v0, 0.5, reset, comparator, bias=bias, added=added, counts=counts, worth=0.375
    )  # fmt: skip
    total = current if added is None else current + added
    total = total if counts is None else total + counts * 0.375
    expected, _ = integrate_and_fire(total, level, v0, 0.5, reset, comparator)
    assert found.dtype == torch.uint8 and torch.equal(found, expected.to(torch.uint8))


@pytest.mark.skipif(not COMPILED, reason="writes past the caches only where loops are compiled")
def test_spikes_written_past_the_caches_are_the_same() -> None:
    current = normal(KEY.fold("past"), (20, 1 << 18))
    assert current.numel() * 4 >= STREAM_BYTES
    spikes, membrane = integrate_and_fire(current, 1.0, decay=0.75)
    few, late = integrate_and_fire(current[:, -1024:].contiguous(), 1.0, decay=0.75)
    assert torch.equal(spikes[:, -1024:], few) and torch.equal(membrane[-1024:], late)


@pytest.mark.parametrize("kind", [torch.float32, torch.int32])
@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("mixed", [True, False])
def test_spikes_are_added_in_any_memory_format(kind: torch.dtype, last: bool, mixed: bool) -> None:
    current = (normal(KEY.fold("current"), (3, 1, 4, 5, 2)) * 8).round().to(kind)
    counts = draws(120, 4, "counts").to(torch.uint8).reshape(current.shape)
    if last:
        current = current.movedim(2, -1).contiguous().movedim(-1, 2)
        counts = counts if mixed else counts.movedim(2, -1).contiguous().movedim(-1, 2)
    found = add_spikes(current, counts, 3)
    assert found.dtype == kind and torch.equal(found, current + counts.to(kind) * 3)


GOOD = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"current": torch.ones(0, 3)}, "`current` must have shape (timesteps, ...) with at least one step"),
        ({"current": torch.ones(2, 3, dtype=torch.float16)}, "`current` must be float32"),
        ({"current": [1.0, 2.0]}, "`current` must be a tensor of shape (timesteps, ...), but got list"),
        ({"threshold": -1.0}, "`threshold` must be above 0, but got -1.0"),
        ({"threshold": torch.zeros(3)}, "`threshold` must be above 0"),
        ({"threshold": torch.ones(4)}, "`threshold` must fit one step of shape (3,)"),
        ({"v0": torch.ones(4)}, "`v0` must fit one step of shape (3,)"),
        ({"decay": 1.5}, "`decay` must be from 0 to 1"),
        ({"current": torch.ones(2, 3, dtype=torch.int32), "decay": 0.5}, "integrate_and_fire_fixed has their decay"),
        ({"current": torch.ones(2, 3, dtype=torch.int32), "threshold": 1.5}, "must be integers for integer currents"),
        ({"current": torch.ones(2, 3, dtype=torch.int32), "threshold": 2**32 + 5}, "`threshold` must lie in -2147483648 .. 2147483647"),
        ({"current": torch.ones(2, 3, dtype=torch.int32), "threshold": 5, "v0": -(2**31) - 1}, "`v0` must lie in -2147483648 .."),
        ({"reset": "none"}, "`reset` must be 'soft' or 'hard'"),
        ({"comparator": "<"}, "`comparator` must be '>=' or '>'"),
        ({"reset_moment": "later"}, "`reset_moment` must be"),
        ({"out": torch.ones(3, 3)}, "`out` must be contiguous, of shape (2, 3)"),
        ({"out": torch.ones(2, 3).numpy()}, "`out` must be of the kind of `current`, Tensor, but got ndarray"),
        ({"current": GOOD.numpy(), "out": torch.ones(2, 3)}, "`out` must be of the kind of `current`, ndarray, but got Tensor"),
        ({"threshold": "a"}, "`threshold` must be a number, or one for each neuron, but got 'a'"),
        ({"v0": [[1.0], 2.0]}, "`v0` must be a number, or one for each neuron"),
        ({"backend": "cuda"}, "`backend` must be"),
    ],
)
def test_bad_arguments_are_refused_in_a_line(change: dict, line: str) -> None:
    with pytest.raises(ValueError, match=r"^Arguments? [^\n]*$") as error:
        integrate_and_fire(**{"current": GOOD, "threshold": 1.0, **change})
    assert line in str(error.value)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"current": GOOD}, "`current` must be integers"),
        ({"bits": 40}, "`bits` must be an integer from 2 to 32"),
        ({"keep": 9, "shift": 3}, "`keep` must be an integer from 0 to 8"),
        ({"bits": 4, "v0": 100}, "`v0` and `reset_potential` must lie in -8 .. 7"),
        ({"overflow": "clip"}, "`overflow` must be"),
    ],
)
def test_bad_integers_are_refused_in_a_line(change: dict, line: str) -> None:
    with pytest.raises(ValueError, match=r"^Arguments? [^\n]*$") as error:
        integrate_and_fire_fixed(**{"current": GOOD.int(), "threshold": 2, **change})
    assert line in str(error.value)


def test_bad_events_are_refused_in_a_line() -> None:
    spikes = torch.ones(2, 3, dtype=torch.uint8)
    for call, line in (
        (lambda: event_linear(spikes, torch.ones(4, 5)), "must have shapes"),
        (lambda: event_linear(spikes.float(), torch.ones(3, 5)), "`spikes` must be contiguous uint8"),
        (lambda: event_linear(spikes, torch.ones(5, 3).t()), "`rows` must be contiguous"),
        (lambda: event_linear(spikes, torch.ones(3, 5), torch.ones(4)), "`bias` must be"),
        (lambda: EventKernel.of(torch.ones(3, 2, 1, 1), groups=2), "`weight` must have shape"),
        (lambda: convolve_and_fire(spikes, EventKernel.of(torch.ones(1, 1, 1, 1)), GOOD[0, 0], GOOD[0, 0]), "must have shape (timesteps"),
        (lambda: event_convolution(spikes, EventKernel.of(torch.ones(1, 1, 2, 2))), "`spikes` must have shape"),
        (lambda: add_spikes(torch.ones(2, 4), spikes, 1.0), "must be float32 or int32 and uint8 of one shape"),
        (lambda: add_spikes(torch.ones(2, 3).double(), spikes, 1.0), "must be float32 or int32 and uint8 of one shape"),
    ):
        with pytest.raises(ValueError, match=r"^Arguments? [^\n]*$") as error:
            call()
        assert line in str(error.value)
