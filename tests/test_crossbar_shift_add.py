"""Digitizing and adding stacked slices: twins, backends, tables, and bits that do not depend on threads."""

import numba
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from kernels import Key, normal
from kernels.slices import shift_add
from kernels.threads import set_threads
from tests import naive_crossbar as naive

pytestmark = pytest.mark.kernels

COMPILED = not numba.config.DISABLE_JIT
EXAMPLES = settings(max_examples=40 if COMPILED else 8, deadline=None)
KEY = Key.of(seed=31, purpose="shift-add")


def drawn(*shape: int, spread: float = 4.0) -> torch.Tensor:
    return spread * normal(KEY.fold(*shape), shape)


@EXAMPLES
@given(
    shape=st.tuples(*[st.integers(0 if k == 1 else 1, 3) for k in range(6)]),
    by_column=st.booleans(),
    tables=st.booleans(),
    accumulate=st.booleans(),
    unsigned=st.booleans(),
)
def test_equals_naive_on_both_backends(shape: tuple[int, ...], by_column: bool, tables: bool, accumulate: bool, unsigned: bool) -> None:
    inputs, vectors, groups, lines, columns, positions = shape
    values = drawn(*shape)
    steps = torch.linspace(0.0, 0.9, lines * (groups * columns if by_column else 1)).reshape(lines, -1).contiguous()
    factors = torch.tensor([[2.0**i * (-1.0) ** n for n in range(lines)] for i in range(inputs)])
    low, high = (0, 15) if unsigned else (-7, 7)
    given = {}
    if tables:
        # Some edges coincide and lie far from where they should: codes are missing, others wide.
        given["thresholds"] = (drawn(3, high - low, spread=1.5) + torch.arange(low, high) + 0.5).sort(1).values
        given["converter"] = torch.arange(lines * groups * columns).reshape(lines, -1) % 3
    start = drawn(vectors, groups, columns, positions)
    expected = naive.shift_add(
        values.numpy(),
        steps.numpy(),
        factors.numpy(),
        low,
        high,
        *(given[name].numpy() if tables else None for name in ("thresholds", "converter")),
        start.numpy() if accumulate else None,
    )
    for backend in ("numba", "torch"):
        out = start.clone()
        found = shift_add(values, steps, factors, low, high, **given, out=out, accumulate=accumulate, backend=backend)
        assert found is out
        assert np.array_equal(found.numpy(), expected)


def test_a_table_of_ideal_thresholds_rounds_and_breaks_ties_upward() -> None:
    values = torch.tensor([0.5, 1.49, 1.5, -0.5, -9.0, 9.0, float("nan")]).reshape(1, -1, 1, 1, 1, 1)
    table = (torch.arange(-3, 3) + 0.5)[None]
    where = torch.zeros(1, 1, dtype=torch.int64)
    for backend in ("numba", "torch"):
        found = shift_add(values, torch.ones(1, 1), torch.ones(1, 1), -3, 3, thresholds=table, converter=where, backend=backend).flatten()
        assert found[:-1].tolist() == [1, 1, 2, 0, -3, 3] and bool(found[-1].isnan())


@pytest.mark.skipif(not COMPILED, reason="too large without the JIT")
@pytest.mark.parametrize("positions", [1, 9])
def test_the_bits_do_not_depend_on_threads(positions: int) -> None:
    values, found = drawn(4, 60, 1, 4, 80, positions), []
    factors = torch.tensor([[2.0 ** (i + n) for n in range(4)] for i in range(4)])
    try:
        for count in (1, 2):
            set_threads(count)
            found.append(shift_add(values, torch.full((4, 1), 0.1), factors, -127, 127))
    finally:
        set_threads(1)
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": torch.ones(2, 5)}, r"`steps` must be contiguous float32 of shape \(2, 3\)"),
        ({"steps": -torch.ones(2, 1)}, "`steps` must be finite and at least 0"),
        ({"factors": torch.ones(1, 1)}, r"`factors` must be contiguous float32 of shape \(1, 2\)"),
        ({"low": 3, "high": 3}, "low = 3, high = 3"),
        ({"thresholds": torch.ones(1, 6)}, "only `thresholds`"),
        ({"thresholds": torch.ones(1, 5), "converter": torch.zeros(2, 3, dtype=torch.int64)}, r"`thresholds` must .* \(1, 6\)"),
        ({"thresholds": torch.ones(1, 6), "converter": torch.ones(2, 3, dtype=torch.int64)}, "`converter` must be from 0 to 0"),
        ({"accumulate": True}, "`out` must be given"),
        ({"backend": "cuda"}, "`backend` must"),
    ],
)
def test_refuses(changes: dict[str, object], message: str) -> None:
    arguments = {"steps": torch.ones(2, 1), "factors": torch.ones(1, 2), "low": -3, "high": 3} | changes
    low, high = arguments.pop("low"), arguments.pop("high")
    with pytest.raises((ValueError, TypeCheckError), match=message if COMPILED else f"{message}|Type-check error"):
        shift_add(torch.ones(1, 2, 1, 2, 3, 4), arguments.pop("steps"), arguments.pop("factors"), low, high, **arguments)
