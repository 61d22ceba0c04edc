"""Kernels on clouds of points: twins, backends, and what must hold of any cloud."""

import math

import numba
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels import Key, normal, set_threads, uniform
from kernels.points import ball_query, farthest_points, group, interpolate_features
from tests import naive_points

pytestmark = pytest.mark.kernels

COMPILED = not numba.config.DISABLE_JIT
EXAMPLES = settings(max_examples=20 if COMPILED else 5, deadline=None)
KEY = Key.of(seed=5, purpose="points")


def cloud(batch: int, points: int, axes: int, grid: bool = False) -> torch.Tensor:
    drawn = uniform(KEY.fold(batch, points, axes), (batch, points, axes))
    return torch.round(drawn * 3) / 3 if grid else drawn  # a grid has ties


@EXAMPLES
@given(batch=st.integers(1, 3), points=st.integers(1, 40), axes=st.integers(1, 4), share=st.floats(0.01, 1.0), grid=st.booleans())
def test_farthest_points_equal_the_twin_and_both_backends(batch, points, axes, share, grid) -> None:
    clouds, count = cloud(batch, points, axes, grid), max(1, int(share * points))
    found = [farthest_points(clouds, count, backend=backend) for backend in ("numba", "torch")]
    assert torch.equal(*found)
    assert found[0].tolist() == [naive_points.farthest_points(one, count) for one in clouds.tolist()]


@EXAMPLES
@given(
    points=st.integers(1, 40), axes=st.integers(1, 4), radius=st.sampled_from([0.0, 0.2, 0.5, math.inf]), share=st.floats(0.01, 1.0),
    grid=st.booleans(),
)  # fmt: skip
def test_ball_query_equals_the_twin_and_both_backends(points, axes, radius, share, grid) -> None:
    clouds, centers, neighbors = cloud(2, points, axes, grid), cloud(2, 7, axes, grid), max(1, int(share * points))
    found = [ball_query(clouds, centers, radius, neighbors, backend=backend) for backend in ("numba", "torch")]
    assert torch.equal(*found)
    expected = [
        [naive_points.ball_query(one, center, radius, neighbors) for center in around]
        for one, around in zip(clouds.tolist(), centers.tolist(), strict=True)
    ]
    assert found[0].tolist() == expected


@EXAMPLES
@given(points=st.integers(1, 20), centers=st.integers(1, 9), axes=st.integers(1, 4))
def test_interpolation_equals_the_twin_and_both_backends(points, centers, axes) -> None:
    wanted, known = cloud(1, points, axes), cloud(1, centers, axes)
    features = normal(KEY.fold("features"), (1, centers, 2))
    found = [interpolate_features(wanted, known, features, backend=backend) for backend in ("numba", "torch")]
    expected = [naive_points.interpolate_features(one, known[0].tolist(), features[0].tolist()) for one in wanted[0].tolist()]
    for one in found:
        torch.testing.assert_close(one[0], torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_sampling_spreads_more_than_any_prefix_could() -> None:
    clouds = cloud(1, 200, 2)
    chosen = farthest_points(clouds, 20)
    assert len(set(chosen[0].tolist())) == 20

    def reach(indices: torch.Tensor) -> float:
        return float(torch.cdist(clouds[0], clouds[0][indices]).amin(1).max())

    # Greedy sampling is within a factor of 2 of the best possible cover (Gonzalez 1985); its own separation bounds it from below.
    picked = clouds[0][chosen[0]]
    separation = float((torch.cdist(picked, picked) + torch.eye(20) * 9).min())
    assert reach(chosen[0]) <= separation < 2 * reach(chosen[0]) + separation


def test_a_cloud_does_not_depend_on_those_beside_it_nor_on_threads() -> None:
    clouds = cloud(6, 64, 3)
    one = farthest_points(clouds, 16)
    set_threads(2)
    try:
        two = farthest_points(clouds, 16)
        near = ball_query(clouds, group(clouds, two), 0.3, 8)
    finally:
        set_threads(1)
    assert torch.equal(one, two)
    assert torch.equal(near, ball_query(clouds, group(clouds, one), 0.3, 8))
    assert torch.equal(one[2:3], farthest_points(clouds[2:3], 16))


def test_grouping_and_interpolation_pass_gradients() -> None:
    values = normal(KEY, (2, 5, 3)).requires_grad_()
    indices = torch.tensor([[[0, 1], [1, 4]], [[2, 2], [3, 0]]])
    group(values, indices).sum().backward()
    assert values.grad[:, :, 0].tolist() == [[1, 2, 0, 0, 1], [1, 0, 2, 1, 0]]
    features = normal(KEY, (1, 4, 2)).requires_grad_()
    interpolate_features(cloud(1, 6, 3), cloud(1, 4, 3), features).sum().backward()
    assert float(features.grad.sum()) == pytest.approx(12.0, rel=1e-5)  # weights of each point add up to 1


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda x: farthest_points(x[0], 2), "`points` must be float32 of shape"),
        (lambda x: farthest_points(x.double(), 2), "`points` must be float32 of shape"),
        (lambda x: farthest_points(x, 9), "`count` must be an integer from 1 to the number of points, 5"),
        (lambda x: farthest_points(x * math.nan, 2), "`points` must be finite"),
        (lambda x: ball_query(x, x[:, :, :2], 0.1, 2), "`centers` must have the batch, axes and device"),
        (lambda x: ball_query(x, x, -1.0, 2), "`radius` must be at least 0"),
        (lambda x: ball_query(x, x, 0.1, 6), "`neighbors` must be an integer from 1"),
        (lambda x: group(x, torch.zeros(1, 2, dtype=torch.long)), "`indices` must have one row for each"),
        (lambda x: interpolate_features(x, x, x[:, :2]), "`features` must have one row for each"),
    ],
)
def test_bad_arguments_are_refused_in_a_line(call, line: str) -> None:
    with pytest.raises(ValueError, match=r"^Argument [^\n]*$") as error:
        call(cloud(2, 5, 3))
    assert line in str(error.value)
