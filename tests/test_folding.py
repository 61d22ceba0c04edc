"""Batch norm in models that no graph can be traced of: folded where one recorded call shows that nothing else reads its input."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import simulator as sim
from devices import RRAMCrossbar
from tests.test_compile import relative_error, shaken

IDEAL = RRAMCrossbar.preset("wan_nature_2022").ideal()
X = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))


class Untraceable(nn.Module):
    """Looks at shapes, which a tracer of graphs refuses, and does what it is told with the convolution's output."""

    def __init__(self, use: Callable[["Untraceable", Tensor, Tensor], Tensor] = lambda model, y, z: z) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.use, self.kept = use, None

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] != 3:
            raise ValueError("three channels")
        y = self.convolution(x)
        return self.use(self, y, self.norm(y))


def folded(model: nn.Module, **options: object) -> tuple[sim.Chip, set[str]]:
    chip = sim.compile(model, IDEAL, example_inputs=(X,), **options)
    assert relative_error(chip(X), model(X)) < 1e-5
    table = chip.coverage
    return chip, set(table.loc[table["hardware"].str.startswith("folded into"), "layer"])


def after_the_norm(model: Untraceable, y: Tensor, z: Tensor) -> Tensor:
    return z


def keeping(model: Untraceable, y: Tensor, z: Tensor) -> Tensor:
    model.kept = y
    return z


USES = {
    "added": lambda model, y, z: z + y,
    "a part of it": lambda model, y, z: z + y[:, :1].mean(),
    "its shape alone": None,
    "kept for the next call": keeping,
    "normed twice": lambda model, y, z: model.norm(z),
    "convolved twice": lambda model, y, z: z + model.convolution(y[:, :3]).mean(),
    "weights": lambda model, y, z: z + model.convolution.weight.mean(),
    "statistics": lambda model, y, z: z * model.norm.running_var.mean(),
    "written in place": lambda model, y, z: z + y.relu_().mean(),
    "looked at": lambda model, y, z: z if float(z.mean()) > -1e9 else y,
    "looked at as a list": lambda model, y, z: z if z.flatten().tolist()[0] > -1e9 else y,
}


def test_what_alone_follows_is_folded_and_the_table_says_how_that_is_known() -> None:
    chip, names = folded(shaken(Untraceable()))
    assert names == {"norm"}
    row = chip.coverage.set_index("layer").loc["norm"]
    assert row["hardware"] == "folded into convolution"
    assert "nothing else read its input" in row["reason"] and "could not be captured" in row["reason"]


@pytest.mark.parametrize("name", USES)
def test_what_somebody_else_reads_is_not_folded(name: str) -> None:
    use = USES[name]
    if use is None:
        assert folded(shaken(Untraceable(lambda model, y, z: z * y.shape[1])))[1] == {"norm"}
        return
    chip, names = folded(shaken(Untraceable(use)))
    assert names == set()
    reason = chip.coverage.set_index("layer").loc["norm", "reason"]
    assert any(words in reason for words in ("elsewhere", "twice", "looks at values", "directly follow"))
    assert reason in chip.warnings


def test_an_output_that_the_model_returns_is_not_folded() -> None:
    model = shaken(Untraceable(lambda model, y, z: (z, {"features": [y]})))
    chip = sim.compile(model, IDEAL, example_inputs=(X,))
    assert torch.allclose(chip(X)[1]["features"][0], model(X)[1]["features"][0], atol=1e-5)
    assert "elsewhere" in chip.coverage.set_index("layer").loc["norm", "reason"]


class Branching(Untraceable):
    """Calls its batch norm for few samples only, or on something else for many: no one call shows that."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.convolution(x)
        return self.norm(y) if len(x) <= 2 else self.use(self, y, y)


@pytest.mark.parametrize("use", [lambda model, y, _: y, lambda model, y, _: model.norm(y + 1), lambda model, y, _: model.norm(y[:1])])
def test_a_branch_on_shapes_that_would_lose_the_norm_is_refused(use: Callable[[Branching, Tensor, Tensor], Tensor]) -> None:
    chip, names = folded(shaken(Branching(use)))
    assert names == {"norm"}
    many = X.repeat(2, 1, 1, 1)
    for one in (chip, copy.deepcopy(chip)):
        with pytest.raises(RuntimeError, match=r"^Batch norm `norm` must follow layer `convolution`[^\n]*takes another path[^\n]*$"):
            one(many)
        assert torch.equal(one(X), chip(X))  # and the next call is as good as ever


def test_without_a_call_nothing_is_folded() -> None:
    chip = sim.compile(shaken(Untraceable()), IDEAL)
    assert "no example_inputs to record a call with" in chip.coverage.set_index("layer").loc["norm", "reason"]


def test_a_chip_with_folded_batch_norms_is_pickled() -> None:
    chip, names = folded(shaken(Untraceable(after_the_norm)))
    assert names == {"norm"}
    assert torch.equal(pickle.loads(pickle.dumps(chip))(X), chip(X))
