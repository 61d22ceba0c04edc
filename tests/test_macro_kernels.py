"""The macro's readout: the same codes as its naive twin, whatever is in error, and the same bits in both backends."""

import math

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import Key, normal, uniform
from kernels.comparator import NEAR, candidates, error_probability
from kernels.macro import read_bit_lines, round_bit_lines
from kernels.threads import set_threads
from tests import naive, naive_macro

pytestmark = pytest.mark.kernels

COMPILED = not numba.config.DISABLE_JIT
large = pytest.mark.skipif(not COMPILED, reason="too large without the JIT")
KEY = Key.of(seed=4, purpose="macro", read=2**33)


def search_steps(columns: int, count: int = 8, spread: float = 0.0) -> torch.Tensor:
    nominal = 2.0 ** torch.arange(count - 1, -1, -1, dtype=torch.float32)
    return (nominal.reshape(1, -1, 1) * (1 + spread * normal(KEY.fold("steps"), (2, count, columns)))).contiguous()


def ramp_steps(columns: int, count: int = 7, spread: float = 0.0) -> torch.Tensor:
    return (1 + spread * normal(KEY.fold("ramp"), (2, count, columns))).contiguous()


@settings(max_examples=40 if COMPILED else 8, deadline=None)
@given(
    vectors=st.integers(0, 40),
    columns=st.integers(1, 40),
    ramp=st.booleans(),
    tread=st.booleans(),
    mismatch=st.booleans(),
    offset=st.booleans(),
    jitter=st.booleans(),
    rooms=st.booleans(),
    sampling=st.sampled_from([0.0, 0.4]),
    comparator=st.sampled_from([0.0, 0.02, 0.24, 1.5]),
    accumulate=st.booleans(),
)
def test_both_backends_equal_the_twin(
    vectors, columns, ramp, tread, mismatch, offset, jitter, rooms, sampling, comparator, accumulate
) -> None:
    spread = 0.05 if mismatch else 0.0
    steps = ramp_steps(columns, 7, spread) if ramp else search_steps(columns, 4, spread)
    count = steps.shape[1]
    shape = (vectors, columns)
    values = 6 * normal(KEY.fold("values"), shape)
    shift = normal(KEY.fold("offset"), columns) if offset else None
    longer = 0.1 * normal(KEY.fold("jitter"), (vectors, count)) if jitter else None
    room = (8 * uniform(KEY.fold("p"), shape), 8 * uniform(KEY.fold("n"), shape)) if rooms else None
    start = normal(KEY.fold("out"), shape)
    found = []
    for backend in ("numba", "torch"):
        out = start.clone()
        read_bit_lines(
            values,
            steps,
            gain=1.25,
            readout="ramp" if ramp else "binary_search",
            tread=tread,
            offset=shift,
            jitter=longer,
            rooms=room,
            sampling_sigma=sampling,
            comparator_sigma=comparator,
            key=KEY,
            scale=4.0,
            out=out,
            accumulate=accumulate,
            backend=backend,
        )
        found.append(out)
    assert torch.equal(*found)
    sampled = normal(KEY.fold("sampling"), shape).numpy()
    compared = KEY.fold("comparison")
    chosen = naive_macro.candidates(compared, -(-values.numel() // 1024), count + 1)
    if rooms:
        return  # compared with the twin in volts, where lines and their rooms agree, below
    for v, c in np.ndindex(shape):
        difference = values[v, c].item() * 1.25 + (0.0 if shift is None else shift[c].item()) + sampling * float(sampled[v, c])
        extra = [0.0] * count if longer is None else longer[v].tolist()
        noisy = {}
        if comparator:
            shared = naive_macro.NEAR * comparator <= 1 and longer is None
            kind = "ranks" if ramp else "shared" if shared else "each"
            noisy["decide"] = naive_macro.Comparator(kind, compared, v * columns + c, comparator, count + 1, chosen)
        code = naive.bit_lines(
            difference,
            0.0,
            above=[s + e for s, e in zip(steps[0, :, c].tolist(), extra, strict=True)],
            below=[s + e for s, e in zip(steps[1, :, c].tolist(), extra, strict=True)],
            half=0.5 if tread else 0.0,
            ramp=ramp,
            **noisy,
        )
        assert found[0][v, c].item() == np.float32(start[v, c].item() if accumulate else 0.0) + np.float32(4 * code)


def test_candidates_are_chosen_as_the_twin_chooses_them() -> None:
    key = Key(7, 9, 3)
    starts, lanes, levels = candidates(key, 150 if COMPILED else 30, 9)
    found = {
        divmod(pair, 9): dict(zip(lanes[starts[pair] : starts[pair + 1]], levels[starts[pair] : starts[pair + 1]], strict=True))
        for pair in range(starts.size - 1)
        if starts[pair + 1] > starts[pair]
    }
    assert found == naive_macro.candidates(key, 150 if COMPILED else 30, 9)
    assert error_probability(NEAR) == pytest.approx(2.0**-15, rel=1e-9) and pytest.approx(naive_macro.NEAR, abs=1e-5) == NEAR


@large
@pytest.mark.parametrize("margin", [0.5, 2.0, 3.9, 4.1, 4.4])
@pytest.mark.parametrize("ramp", [False, True])
def test_a_comparison_errs_as_often_as_the_normal_law_says(margin: float, ramp: bool) -> None:
    # One step, and only the first comparison is close to zero.
    rows, sigma = 16384, 0.01
    values = torch.full((rows, 256), margin * sigma)
    steps = torch.ones(2, 1, 256)
    key, wrong = Key.of(seed=8, purpose=f"{margin} {ramp}"), 0
    for read in range(4):
        codes = read_bit_lines(values, steps, readout="ramp" if ramp else "binary_search", comparator_sigma=sigma, key=key.at(read))
        wrong += int((codes < 0).sum())
    draws = 4 * values.numel()
    expected = draws * naive_macro.error_probability(margin)
    assert abs(wrong - expected) < 4 * math.sqrt(expected) + 1


@large
@pytest.mark.parametrize("sigma", [0.1, 0.249, 0.26, 1.5])
@pytest.mark.parametrize("spread", [0.0, 0.2])
def test_codes_have_the_law_of_a_fresh_draw_at_every_comparison(sigma: float, spread: float) -> None:
    vectors, columns, count = 40_000, 60, 3
    steps = search_steps(columns, count, spread)
    values = torch.linspace(-4.3, 4.1, columns)
    found = read_bit_lines(values.expand(vectors, columns).contiguous(), steps, comparator_sigma=sigma, key=KEY).numpy()
    statistic, cells = 0.0, 0
    for column, value in enumerate(values.tolist()):
        law = np.array(list(naive_macro.law(value, steps[:, :, column].tolist(), sigma).values())) * vectors
        counts = np.bincount(np.round(found[:, column] + 2**count - 0.5).astype(int), minlength=2 ** (count + 1))
        rare = law < 10
        law, counts = np.append(law[~rare], law[rare].sum()), np.append(counts[~rare], counts[rare].sum())
        statistic += float(((counts - law)[law > 0] ** 2 / np.maximum(law, 10)[law > 0]).sum())
        cells += int((law >= 10).sum()) - 1
    # All columns together: four of chi-square's standard deviations.
    assert statistic - cells < 4 * math.sqrt(2 * cells) + 8


@pytest.mark.parametrize(("sigma", "distance"), [(0.2, 1.4e-5), (0.3, 1.5e-3), (0.5, 0.02), (1.0, 0.09)])
def test_one_draw_a_conversion_is_as_far_from_the_law_as_the_macro_says(sigma: float, distance: float) -> None:
    steps = [[2.0**k for k in range(4, -1, -1)]] * 2
    found = []
    for value in np.random.default_rng(0).uniform(-20, 20, 200 if COMPILED else 60):
        exact = np.array(list(naive_macro.law(value, steps, sigma).values()))
        above = [0.5 * math.erfc((edge - value) / sigma / math.sqrt(2.0)) for edge in range(-31, 32)]
        found.append(np.abs(exact + np.diff([1.0, *above, 0.0])).sum() / 2)
    assert np.mean(found) == pytest.approx(distance, rel=0.25)


@pytest.mark.parametrize("ramp", [False, True])
def test_lines_stop_at_the_end_of_their_swing(ramp: bool) -> None:
    most = 6.0
    positive, negative = 10 * uniform(KEY.fold("a"), (30, 8)), 10 * uniform(KEY.fold("b"), (30, 8))
    lines = positive.clamp(max=most), negative.clamp(max=most)
    steps = ramp_steps(8) if ramp else search_steps(8, 3)
    rooms = tuple(most - line for line in lines)
    found = read_bit_lines(lines[0] - lines[1], steps, readout="ramp" if ramp else "binary_search", tread=True, rooms=rooms)
    for v, c in np.ndindex(30, 8):
        expected = naive.bit_lines(
            positive[v, c].item(), negative[v, c].item(), above=steps[0, :, c].tolist(), half=0.5, ramp=ramp, most=most
        )
        assert found[v, c].item() == expected


@given(
    st.lists(st.integers(-7000, 7000), min_size=1, max_size=50),
    st.integers(1, 30),
    st.integers(1, 7000),
    st.booleans(),
    st.sampled_from([1, 7, 255]),
)
@settings(max_examples=100 if COMPILED else 20, deadline=None)
def test_rounding_is_exact_for_integers(values: list[int], gain: int, unit: int, tread: bool, limit: int) -> None:
    tensor = torch.tensor([values], dtype=torch.float32)
    found = [round_bit_lines(tensor, unit, limit, gain=gain, tread=tread, backend=backend) for backend in ("numba", "torch")]
    assert torch.equal(*found)
    if tread:
        expected = [min(max((2 * x * gain + unit) // (2 * unit), -limit), limit) for x in values]
    else:
        expected = [min(max(x * gain // unit, -limit - 1), limit) + 0.5 for x in values]
    assert found[0][0].tolist() == expected


@pytest.mark.parametrize("tread", [False, True])
def test_rounding_equals_nominal_steps_and_shares_their_noise(tread: bool) -> None:
    values = 100 * normal(KEY, (9, 130))
    both = [
        (
            read_bit_lines(values, search_steps(130), tread=tread, sampling_sigma=sigma, key=KEY),
            round_bit_lines(values, 1.0, 255, tread=tread, sampling_sigma=sigma, key=KEY),
        )
        for sigma in (0.0, 0.5)
    ]
    assert all(float((a - b).abs().max()) <= 1 and float((a != b).float().mean()) < 0.01 for a, b in both)
    assert torch.equal(*(round_bit_lines(values, 1.0, 255, sampling_sigma=0.5, key=KEY, backend=b) for b in ("numba", "torch")))


@large
def test_bits_do_not_depend_on_threads() -> None:
    values = 100 * normal(KEY, (512, 257))
    options = {"sampling_sigma": 0.5, "comparator_sigma": 0.2, "key": KEY}
    one = read_bit_lines(values, search_steps(257, spread=0.01), **options)
    set_threads(2)
    try:
        assert torch.equal(one, read_bit_lines(values, search_steps(257, spread=0.01), **options))
    finally:
        set_threads(1)


GOOD = torch.zeros(2, 3)
STEPS = torch.ones(2, 8, 3)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"values": torch.zeros(3)}, "`values` must have shape"),
        ({"values": GOOD.double()}, "`values` must be contiguous float32"),
        ({"steps": torch.ones(2, 8, 4)}, "`steps` must be contiguous float32 of shape"),
        ({"steps": torch.ones(8, 3)}, "`steps` must have shape"),
        ({"readout": "ramp"}, "2^S - 1 steps in a ramp"),
        ({"readout": "flash"}, "`readout` must be"),
        ({"offset": torch.zeros(4)}, "`offset` must be"),
        ({"jitter": torch.zeros(2, 7)}, "`jitter` must be"),
        ({"sampling_sigma": -1.0, "key": KEY}, "`sampling_sigma` must be"),
        ({"comparator_sigma": 1.0}, "`key` must be given"),
        ({"accumulate": True}, "`out` must be given"),
        ({"gain": float("nan")}, "must be finite"),
        ({"backend": "cuda"}, "`backend` must be"),
    ],
)
def test_bad_arguments_are_refused_in_a_line(change: dict, line: str) -> None:
    arguments = {"values": GOOD, "steps": STEPS, **change}
    with pytest.raises(ValueError, match=r"^Arguments? [^\n]*$") as error:
        read_bit_lines(**arguments)
    assert line in str(error.value)
