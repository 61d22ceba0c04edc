"""Weights edited behind the chip's back: seen at the next read, and only then."""

import copy
import pickle
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import simulator as sim
from devices import RRAMCrossbar, SRAMMacro
from simulator.hardware import HardwareLayer
from simulator.masters import SAMPLES, WeightMark

DESIGN = RRAMCrossbar.preset("wan_nature_2022")
X = torch.rand(4, 40, generator=torch.Generator().manual_seed(1))
MESSAGE = r"^Layer `[\w.]+`: the master weights changed after programming; call program\(\) before reading in eval mode$"


class Owner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.linspace(-1, 1, 1200).reshape(40, 30))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.matrix


def chip(design: object = DESIGN) -> sim.Chip:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(40, 40), nn.ReLU(), Owner())
    return sim.compile(model, design, example_inputs=X).program(seed=0)


EDITS: dict[str, Callable[[Tensor], object]] = {
    "scaled": lambda data: data.mul_(2),
    "shifted": lambda data: data.add_(1e-6),
    "zeroed": lambda data: data.zero_(),
    "a half": lambda data: data[: len(data) // 2].mul_(0.5),
    "every other column": lambda data: data[:, 1::2].neg_(),
    "copied": lambda data: data.copy_(torch.ones_like(data)),
}


@pytest.mark.parametrize("design", [DESIGN, SRAMMacro.preset("asscc_2023")])
@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("which", ["0.weight", "2.matrix"])
def test_an_edit_through_data_is_refused_until_programmed(design: object, edit: str, which: str) -> None:
    edited = chip(design)
    edited(X)
    parameter = edited.model.get_parameter(which)
    version = parameter._version
    EDITS[edit](parameter.data)
    assert parameter._version == version, "nothing but the elements tells"
    with pytest.raises(RuntimeError, match=MESSAGE):
        edited(X)
    with pytest.raises(RuntimeError, match=MESSAGE):
        edited.age(1.0)
    edited.program(seed=0)(X)


def test_data_that_is_exchanged_is_seen() -> None:
    edited = chip()
    edited.model[0].weight.data = torch.ones(40, 40)
    with pytest.raises(RuntimeError, match=MESSAGE):
        edited(X)


def test_an_edit_that_changes_nothing_is_no_edit() -> None:
    edited = chip()
    first = edited(X)
    edited.model[0].weight.data.mul_(1)
    edited(X)
    assert torch.equal(edited.program(seed=0)(X), first)


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one)), lambda one: one.to("cpu")])
def test_an_edit_is_seen_in_a_copy_and_travels_with_it(copier: Callable[[sim.Chip], sim.Chip]) -> None:
    fresh = copier(chip())
    fresh(X)
    fresh.model[0].weight.data.mul_(2)
    with pytest.raises(RuntimeError, match=MESSAGE):
        fresh(X)
    stale = chip()
    stale.model[0].weight.data.mul_(2)
    with pytest.raises(RuntimeError, match=MESSAGE):
        copier(stale)(X)


def test_a_state_knows_whether_its_weights_were_programmed() -> None:
    edited = chip()
    expected = edited.state_dict()
    other = chip()
    other.model[0].weight.data.mul_(2)
    other.load_state_dict(expected)
    assert torch.equal(other(X), edited(X))
    edited.model[0].weight.data.mul_(2)
    other.load_state_dict(edited.state_dict())
    with pytest.raises(RuntimeError, match=MESSAGE):
        other(X)


def test_the_callers_own_model_may_change() -> None:
    model = nn.Linear(40, 3)
    compiled = sim.compile(model, DESIGN, example_inputs=X).program(seed=0)
    model.weight.data.mul_(2)
    compiled(X)


@pytest.mark.parametrize("shape", [(3, 2), (64,), (512, 512), (64, 64, 3, 3), (17, 1009)])
def test_the_sample_is_spread_over_rows_and_columns(shape: tuple[int, ...]) -> None:
    weight = torch.zeros(shape)
    places = WeightMark.of(weight).places
    assert len(places) == min(SAMPLES, weight.numel()) == len(places.unique())
    assert 0 <= int(places.min()) and int(places.max()) < weight.numel()
    if weight.numel() > SAMPLES:
        gaps = places.sort().values.diff()
        assert int(gaps.max()) < 3 * weight.numel() / SAMPLES
        assert len((places % shape[-1]).unique()) > min(shape[-1], SAMPLES) / 2


def test_a_weight_that_is_not_contiguous_is_sampled_by_its_own_order() -> None:
    weight = torch.rand(30, 40).t()
    mark = WeightMark.of(weight)
    assert torch.equal(mark.elements, weight.reshape(-1)[mark.places])


def test_looking_takes_a_small_part_of_a_read() -> None:
    x = torch.rand(256, 512)
    compiled = sim.compile(nn.Linear(512, 512), DESIGN.ideal(), example_inputs=x).program(seed=0)
    layer: HardwareLayer = next(iter(compiled.layers.values()))
    mark = WeightMark.of(layer.weight)

    def fastest(call: Callable[[], object], times: int) -> float:
        best = float("inf")
        for _ in range(times):
            start = time.perf_counter()
            call()
            best = min(best, time.perf_counter() - start)
        return best

    with torch.no_grad():
        assert fastest(lambda: mark.holds(layer.weight), 300) < 0.02 * fastest(lambda: compiled(x), 10)
