"""Axes exchanged, with the rounding of a DAC and offsets on the way, and the variance through wires: twins, backends, bad input."""

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from kernels import Key, normal, uniform
from kernels.layout import exchange
from kernels.wire_noise import add_coupling
from tests import naive

pytestmark = pytest.mark.kernels

COMPILED = not numba.config.DISABLE_JIT
EXAMPLES = settings(max_examples=30 if COMPILED else 5, deadline=None)
KEY = Key.of(seed=31, purpose="layout")


@EXAMPLES
@given(
    shape=st.tuples(st.integers(0, 3), st.integers(0, 35), st.integers(0, 70)),
    step=st.just(0.0) | st.floats(2**-6, 8, width=32),
    low=st.integers(-9, 0),
    span=st.integers(0, 300),
    unit=st.none() | st.sampled_from([1.0, 0.1]),
    shifted=st.booleans(),
)
def test_an_exchange_rounds_and_adds_on_the_way(shape, step, low, span, unit, shifted) -> None:
    values = 4 * normal(KEY, shape)
    offset = normal(KEY.fold("offset"), shape[2]) if shifted else None
    expected = values.numpy()
    if step:
        expected = naive.quantize(expected, step, low, low + span)
        if unit is not None:
            expected = np.rint(expected / np.float32(step)) * np.float32(unit)
    if offset is not None:
        expected = expected + offset.numpy()
    expected = np.swapaxes(expected, 1, 2)
    for backend in ("numba", "torch"):
        out = torch.full((shape[0], shape[2], shape[1]), torch.nan)
        found = exchange(values, step=step, low=low, high=low + span, unit=unit, offset=offset, out=out, backend=backend)
        assert found is out
        assert np.array_equal(found.numpy(), expected)


def test_an_exchange_keeps_every_bit_of_what_it_does_not_round() -> None:
    values = torch.tensor([[[-0.0, torch.inf, -torch.inf], [1e-45, torch.nan, 3e38]]])
    for backend in ("numba", "torch"):
        assert torch.equal(exchange(values, backend=backend).view(torch.int32), values.transpose(1, 2).contiguous().view(torch.int32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"values": torch.ones(2, 3)}, "`values` must have three axes"),
        ({"values": torch.ones(1, 2, 3, dtype=torch.float64)}, "dtype torch.float32, but got torch.float64"),
        ({"values": torch.ones(1, 3, 2).transpose(1, 2)}, "`values` must be contiguous"),
        ({"out": torch.ones(1, 2, 3)}, r"`out` must have shape \(1, 3, 2\)"),
        ({"offset": torch.ones(2)}, r"`offset` must have shape \(3,\)"),
        ({"step": -1.0}, "`step` must be 0 or a positive"),
        ({"step": 1.0, "low": 3, "high": 0}, "low = 3, high = 0"),
        ({"backend": "cuda"}, "`backend` must"),
    ],
)
def test_an_exchange_refuses(changes, message) -> None:
    with pytest.raises((ValueError, TypeCheckError), match=message if COMPILED else f"{message}|Type-check error"):
        exchange(**{"values": torch.ones(1, 2, 3)} | changes)


@EXAMPLES
@given(vectors=st.integers(0, 9), blocks=st.integers(1, 3), columns=st.integers(1, 40))
def test_coupling_is_a_parabola_of_the_mean_without_negative_variances(vectors, blocks, columns) -> None:
    rows = vectors * blocks
    variance, cross = uniform(KEY, (rows, columns)), normal(KEY.fold("cross"), (rows, columns))
    mean, constant = normal(KEY.fold("mean"), rows), uniform(KEY.fold("constant"), (blocks, columns))
    expected = np.zeros((rows, columns))
    for r, c in np.ndindex(rows, columns):
        level = float(mean[r])
        expected[r, c] = max(float(variance[r, c]) + level * float(cross[r, c]) + level**2 * float(constant[r % blocks, c]), 0.0)
    results = []
    for backend in ("numba", "torch"):
        own = variance.clone()
        assert add_coupling(own, cross, mean, constant, backend=backend) is own
        results.append(own)
    assert torch.equal(*results)
    assert np.allclose(results[0].numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cross": torch.ones(4, 2)}, r"`cross` must have shape \(4, 3\)"),
        ({"mean": torch.ones(3)}, r"`mean` must have shape \(4,\)"),
        ({"constant": torch.ones(2, 2)}, r"`constant` must have shape \(2, 3\)"),
        ({"constant": torch.ones(3, 3)}, "`constant` must have a number of lines that divides 4 rows, but got 3"),
        ({"variance": torch.ones(4, 3, dtype=torch.float64)}, "dtype torch.float32, but got torch.float64"),
    ],
)
def test_coupling_refuses(changes, message) -> None:
    given_ = {"variance": torch.ones(4, 3), "cross": torch.ones(4, 3), "mean": torch.ones(4), "constant": torch.ones(2, 3)}
    with pytest.raises((ValueError, TypeCheckError), match=message if COMPILED else f"{message}|Type-check error"):
        add_coupling(**given_ | changes)
