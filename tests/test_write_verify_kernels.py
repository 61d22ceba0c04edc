"""The loops over cells: twins, backends, the numbers of the two loops, closed forms, and what happens to a cell that never converges."""

import math

import numba
import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import Key, NotConvergedWarning, normal, redraw, set_threads, uniform, write_verify
from tests import naive_cells

pytestmark = pytest.mark.kernels

COMPILED = not numba.config.DISABLE_JIT
large = pytest.mark.skipif(not COMPILED, reason="too large without the JIT")
EXAMPLES = settings(max_examples=25 if COMPILED else 5, deadline=None)
KEY = Key.of(seed=8, purpose="cells", read=3)
CELLS = 100_000


def targets(count: int) -> torch.Tensor:
    return uniform(KEY.fold("targets"), count)


@EXAMPLES
@given(
    count=st.integers(0, 1100),
    step=st.sampled_from([0.05, 0.02, 0.3]),
    sigma=st.sampled_from([0.0, 0.05, 0.01]),
    tolerance=st.sampled_from([0.06, 0.2]),
    most=st.sampled_from([1, 7, 60]),
    started=st.booleans(),
)
@pytest.mark.filterwarnings("ignore::kernels.cells.NotConvergedWarning")
def test_incremental_pulses_equal_the_twin_and_both_backends(count, step, sigma, tolerance, most, started) -> None:
    goal = targets(count)
    start = uniform(KEY.fold("start"), count) if started else 0.0
    found = [write_verify(goal, step, sigma, tolerance, KEY, start, most, backend=backend) for backend in ("numba", "torch")]
    assert torch.equal(found[0].values, found[1].values)
    assert torch.equal(found[0].pulses, found[1].pulses)
    stream = KEY.fold("pulse", KEY.read)
    noise = [normal(stream.at(pulse), count).numpy() for pulse in range(most)]
    begin = start.tolist() if started else [0.0] * count
    values, pulses = naive_cells.write_verify(list(goal.numpy()), step, sigma, tolerance, noise, begin, most)
    assert found[0].pulses.tolist() == pulses
    assert np.array_equal(found[0].values.numpy(), np.array(values, np.float32))


@EXAMPLES
@given(count=st.integers(0, 1100), sigma=st.sampled_from([0.0, 0.1, 0.5]), most=st.sampled_from([1, 5, 80]))
@pytest.mark.filterwarnings("ignore::kernels.cells.NotConvergedWarning")
def test_redraws_equal_the_twin_and_both_backends(count, sigma, most) -> None:
    goal = targets(count)
    found = [redraw(goal, sigma, 0.06, KEY, most, backend=backend) for backend in ("numba", "torch")]
    assert torch.equal(found[0].values, found[1].values)
    assert torch.equal(found[0].pulses, found[1].pulses)
    stream = KEY.fold("write", KEY.read)
    noise = [normal(stream.at(write), count).numpy() for write in range(most)]
    values, writes = naive_cells.redraw(list(goal.numpy()), sigma, 0.06, noise, most)
    assert found[0].pulses.tolist() == writes
    assert np.array_equal(found[0].values.numpy(), np.array(values, np.float32))


@large
def test_incremental_pulses_take_the_published_cycles() -> None:
    goal = targets(CELLS)
    values, pulses = write_verify(goal, 0.05, 0.05, 0.06, KEY)
    assert float(pulses.float().mean()) == pytest.approx(9.7, rel=0.03)
    assert float((values - goal).std()) == pytest.approx(0.029, rel=0.03)
    assert float(pulses[goal < 0.2].float().mean()) == pytest.approx(1.7, rel=0.03)
    assert float(pulses[goal > 0.8].float().mean()) == pytest.approx(17.7, rel=0.03)


@large
def test_gaussian_weights_take_fewer_pulses() -> None:
    weights = normal(KEY.fold("weights"), CELLS).abs().clamp(max=4) / 4
    _, pulses = write_verify(weights, 0.05, 0.05, 0.06, KEY)
    assert float(pulses.float().mean()) == pytest.approx(3.7, rel=0.03)


@large
def test_incremental_pulses_follow_the_density_of_the_error() -> None:
    pulses, residual = naive_cells.expected_course(0.05, 0.05, 0.06)
    goal = targets(CELLS)
    found = write_verify(goal, 0.05, 0.05, 0.06, KEY)
    spread = float(found.pulses.float().std()) / math.sqrt(CELLS)
    assert float(found.pulses.float().mean()) == pytest.approx(pulses, abs=4 * spread + 0.02)
    assert float((found.values - goal).square().mean().sqrt()) == pytest.approx(residual, rel=0.01)


@large
def test_redraws_are_geometric_and_leave_the_truncated_normal() -> None:
    goal = targets(CELLS)
    values, writes = redraw(goal, 0.1, 0.06, KEY)
    hit = math.erf(0.6 / math.sqrt(2))
    counts = np.bincount(writes.numpy(), minlength=9)[1:9]
    expected = CELLS * scipy.stats.geom.pmf(np.arange(1, 9), hit)
    assert scipy.stats.chisquare(np.append(counts, CELLS - counts.sum()), np.append(expected, CELLS - expected.sum())).pvalue > 1e-3
    assert float(writes.float().mean()) == pytest.approx(2.2, rel=0.03)
    errors = (values - goal).double().numpy()
    assert errors.std() == pytest.approx(0.034, rel=0.03)
    assert scipy.stats.kstest(errors[:20_000], scipy.stats.truncnorm(-0.6, 0.6, scale=0.1).cdf).pvalue > 1e-3


@pytest.mark.parametrize("sigma", [0.0])
def test_pulses_without_noise_are_counted_exactly(sigma: float) -> None:
    # 2^-5 is exact in float32, and so is every sum of it.
    step = 2.0**-5
    goal = torch.arange(0, 33) * step
    values, pulses = write_verify(goal, step, sigma, step / 2, KEY)
    assert pulses.tolist() == list(range(33))
    assert torch.equal(values, goal)


def test_a_cell_within_the_tolerance_takes_no_pulse() -> None:
    values, pulses = write_verify(torch.tensor([0.5, 0.5]), 0.05, 0.05, 0.06, KEY, torch.tensor([0.45, 0.2]))
    assert pulses[0] == 0 and pulses[1] > 0
    assert float(values[0]) == float(np.float32(0.45))


def test_a_cell_goes_its_own_way_whatever_is_beside_it() -> None:
    goal = targets(700)
    alone = write_verify(goal[:40].clone(), 0.05, 0.05, 0.06, KEY)
    beside = write_verify(goal, 0.05, 0.05, 0.06, KEY)
    assert torch.equal(alone.values, beside.values[:40])
    assert torch.equal(alone.pulses, beside.pulses[:40])


@pytest.mark.parametrize(
    "loop", [lambda goal: write_verify(goal, 0.05, 0.05, 0.06, KEY), lambda goal: redraw(goal, 0.1, 0.06, KEY)], ids=["pulses", "redraws"]
)
def test_targets_may_lie_in_any_order_in_memory(loop) -> None:
    goal = targets(30 * 40).reshape(40, 30)
    transposed = goal.t().contiguous().t()
    assert not transposed.is_contiguous()
    found, expected = loop(transposed), loop(goal)
    assert torch.equal(found.values, expected.values) and torch.equal(found.pulses, expected.pulses)


@large
def test_threads_do_not_change_a_bit() -> None:
    goal = targets(200_000)
    one = write_verify(goal, 0.05, 0.05, 0.06, KEY)
    set_threads(2)
    try:
        two = write_verify(goal, 0.05, 0.05, 0.06, KEY)
    finally:
        set_threads(1)
    assert torch.equal(one.values, two.values)


def test_a_tolerance_under_the_step_without_noise_does_not_converge_and_says_so() -> None:
    with pytest.warns(NotConvergedWarning, match=r"^2 of 3 cells did not converge to a tolerance of 0\.01 within 50 pulses; [^\n]*$"):
        pulses = write_verify(torch.tensor([0.03, 0.105, 0.32]), 0.1, 0.0, 0.01, KEY, max_pulses=50).pulses
    assert pulses.tolist() == [50, 1, 50]


def test_redraws_that_never_hit_say_so() -> None:
    with pytest.warns(NotConvergedWarning, match="within 3 writes"):
        _, writes = redraw(torch.full((50,), 0.5), 5.0, 1e-4, KEY, 3)
    assert int(writes.max()) == 3


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"target": torch.zeros(2, dtype=torch.float64)}, "`target` must be a tensor of torch.float32"),
        ({"target": torch.tensor([math.nan])}, "`target` must be finite"),
        ({"step": 0.0}, "`step` must be a finite number above 0"),
        ({"pulse_sigma": -1.0}, "`pulse_sigma` must be a finite number of at least 0"),
        ({"tolerance": math.inf}, "`tolerance` must be a finite number of at least 0"),
        ({"max_pulses": 0}, "`max_pulses` must be an integer from 1"),
        ({"start": torch.zeros(5)}, "`start` must be a number or have the shape"),
        ({"start": math.nan}, "`start` must be a finite number"),
    ],
)
def test_bad_arguments_are_refused_in_a_line(change: dict, line: str) -> None:
    arguments = {"target": torch.zeros(2), "step": 0.05, "pulse_sigma": 0.05, "tolerance": 0.06, "key": KEY, **change}
    with pytest.raises(ValueError, match=r"^Arguments? [^\n]*$") as error:
        write_verify(**arguments)
    assert line in str(error.value)
