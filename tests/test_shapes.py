"""The check of shapes that every test runs under."""

from typing import Self

import jaxtyping
import pytest
import torch
from jaxtyping import Float32, jaxtyped
from torch import Tensor

import simulator.metrics
from tests.shapes import check_shapes


class Scaled:
    @jaxtyped(typechecker=check_shapes)
    def product(
        self, a: Float32[Tensor, "rows inner"], b: Float32[Tensor, "inner columns"], wrong: int = 0
    ) -> Float32[Tensor, "rows columns"]:
        return (a @ b)[: len(a) - wrong]

    @jaxtyped(typechecker=check_shapes)
    def plain(self, number: int) -> Self:
        return self


def test_shapes_and_dtypes_are_checked_and_other_types_are_not() -> None:
    scaled, a, b = Scaled(), torch.zeros(2, 3), torch.zeros(3, 4)
    assert scaled.product(a, b).shape == (2, 4)
    assert scaled.plain("no number") is scaled
    for arguments in ((a, a), (a.double(), b), (a[0], b), (a, b, 1)):
        with pytest.raises(jaxtyping.TypeCheckError):
            scaled.product(*arguments)


def test_the_check_is_off_in_a_test_that_has_refuse_in_its_name() -> None:
    assert Scaled().product(torch.zeros(2, 3), torch.zeros(3, 4).float(), 1).shape == (1, 4)


def test_the_packages_are_under_the_check() -> None:
    source = simulator.metrics.Metric.rows
    assert hasattr(source, "__wrapped__")
