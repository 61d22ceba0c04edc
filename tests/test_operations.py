"""Operations that are no products: counted by hand, for every network of the zoo without exception, and priced by their unit."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import simulator as sim
from devices import DesignError, RRAMCrossbar, VectorUnit
from simulator.batches import Batch
from simulator.capture import capture, plain_kernels
from simulator.operations import PRODUCTS, base_name, is_free, term_name
from tests.test_zoo import ZOO, build

X = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)) - 0.5
N = X.numel()


class Apply(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs)


BY_HAND = {
    "relu": (torch.relu, (X,), "relu", N, 2 * N),
    "add": (torch.add, (X, X + 0), "add", N, 3 * N),
    # compare, subtract, exp, add, divide
    "softmax": (lambda x: F.softmax(x, -1), (X,), "softmax", 5 * N, 2 * N),
    "sum": (lambda x: x.sum(), (X,), "sum", N, N + 1),
    "concat": (lambda x: torch.cat((x, x), 1), (X,), "cat", 0, 4 * N),
    # nine comparisons for each of 2 x 3 x 2 x 2 results, which come with an index of eight bytes
    "max pooling": (lambda x: F.max_pool2d(x, 3, stride=1), (X,), "max_pool2d", 9 * 24, N + 24 + 2 * 24),
    "average pooling": (lambda x: F.avg_pool2d(x, 2), (X,), "avg_pool2d", 4 * 24, N + 24),
    "adaptive pooling": (lambda x: F.adaptive_avg_pool2d(x, 1), (X,), "mean", N, N + 6),
    "bilinear": (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), (X,), "upsample_bilinear2d", 2 * 4 * 4 * N, 5 * N),
    "nearest": (lambda x: F.interpolate(x, scale_factor=2), (X,), "upsample_nearest2d", 0, 5 * N),
    "embedding": (lambda i: F.embedding(i, torch.ones(7, 5)), (torch.tensor([1, 2, 6]),), "embedding", 0, 2 * 15 + 2 * 3),
    "gelu": (F.gelu, (X,), "gelu", 5 * N, 2 * N),
    "comparison": (lambda x: x > 0, (X,), "gt", N, N + N / 4),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_operations_and_bytes_equal_a_count_by_hand(name: str) -> None:
    function, inputs, term, operations, numbers = BY_HAND[name]
    found = {one.term: one for one in capture(Apply(function), Batch(inputs)).operations}
    assert found[term].operations == operations
    assert 4 * found[term].floats + found[term].others == 4 * numbers


def test_normalizations_by_hand() -> None:
    # sum, subtract, square, sum, scale; weight and bias
    (layer,) = capture(nn.LayerNorm(4), Batch((X,))).operations
    assert layer.operations == 7 * N
    (bare,) = capture(nn.LayerNorm(4, elementwise_affine=False), Batch((X,))).operations
    assert bare.operations == 5 * N
    # in eval mode the statistics are constants: one scale and one shift
    (batch,) = capture(nn.BatchNorm2d(3).eval(), Batch((X,))).operations
    assert batch.operations == 2 * N


def test_views_are_no_operations_and_what_has_no_formula_is_not_zero() -> None:
    assert capture(Apply(lambda x: x.permute(0, 2, 3, 1)[:, 1:].unsqueeze(0)), Batch((X,))).operations == ()
    found = {one.term: one for one in capture(Apply(torch.special.bessel_j0), Batch((X,))).operations}
    assert found["special_bessel_j0"].operations == N  # torch says that it is pointwise
    unknown = capture(Apply(lambda x: F.ctc_loss(x, *TARGETS)), Batch((torch.zeros(5, 2, 4),))).operations
    assert [one.term for one in unknown if one.operations is None] == ["ctc_loss"]
    model = nn.Sequential(nn.Linear(4, 4), Apply(lambda x: F.ctc_loss(x, *TARGETS)))
    table = sim.compile(model, RRAMCrossbar.preset("wan_nature_2022"), example_inputs=torch.rand(5, 2, 4)).cost(torch.rand(5, 2, 4))
    row = table[table["term"] == "ctc_loss"].iloc[0]
    assert row.isna()["operations"] and "no formula" in row["note"]


TARGETS = (torch.tensor([[1, 2], [3, 1]]), torch.tensor([5, 5]), torch.tensor([2, 2]))


class Everything(TorchDispatchMode):
    """Counts operators by name, without knowing what they do."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not is_free(func):
            self.seen[base_name(func)] += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.long
@pytest.mark.parametrize("name", ZOO)
def test_nothing_that_a_network_executes_is_missing(name: str) -> None:
    model, batch = build(name)
    counter = Everything()
    with torch.no_grad(), plain_kernels(), counter:
        model(*batch.inputs, **batch.keywords)
    found = capture(model, batch)
    expected: Counter[str] = Counter()
    for operator, count in counter.seen.items():
        expected["product" if operator in PRODUCTS else term_name(operator)] += count
    assert (
        Counter({"product": len(found.contractions)})
        + Counter({term: sum(one.calls for one in found.operations if one.term == term) for term in {one.term for one in found.operations}})
        == expected
    )
    assert not [one for one in found.operations if one.operations is None]
    assert all(one.macs for one in found.contractions)


def test_a_unit_prices_operations_and_bytes_and_says_what_it_leaves_out() -> None:
    unit = VectorUnit(lanes=8, frequency_hertz="1 GHz", joule_per_operation=2e-12, joule_per_byte=1e-12, bandwidth_bytes_per_s=1e9)
    row = unit.cost("a", "softmax", operations=100, moved_bytes=40)
    assert row.energy_j == pytest.approx(100 * 2e-12 + 40 * 1e-12)
    assert row.latency_s == pytest.approx(max(13e-9, 40e-9))
    assert row.note == "" and row.area_m2 == 0.0 and unit.area().note == "not given: area_m2"
    partial = unit.replace(joule_per_byte=None, bandwidth_bytes_per_s=None).cost("a", "softmax", operations=100, moved_bytes=40)
    assert partial.energy_j == pytest.approx(200e-12) and partial.latency_s == pytest.approx(13e-9)
    assert "joule_per_byte" in partial.note and "bandwidth_bytes_per_s" in partial.note
    moving = unit.cost("a", "cat", operations=0, moved_bytes=40)
    assert moving.energy_j == pytest.approx(40e-12) and moving.latency_s == pytest.approx(40e-9)
    unknown = unit.cost("a", "ctc_loss", operations=None, moved_bytes=40)
    assert unknown.energy_j is None and unknown.latency_s is None and "no formula" in unknown.note


def test_a_unit_of_a_format_that_is_none_is_refused() -> None:
    with pytest.raises(DesignError, match=r"^VectorUnit: `precision` must be [^\n]*'int8'[^\n]*$"):
        VectorUnit(precision="int7")
