"""Built-in models: what they learn, how they begin; and models that a study names."""

import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from simulator.data import digits
from simulator.models import digits_cnn, digits_mlp, load_model
from simulator.training import fit


@pytest.mark.parametrize("seed", [0, 1])
def test_digits_cnn_learns_the_digits(seed: int) -> None:
    data, model = digits(), digits_cnn(seed=seed)
    fit(model, data.train_batches(seed=seed), epochs=15, seed=seed)
    inputs, targets = data.test.tensors
    assert (model(inputs).argmax(1) == targets).float().mean() >= 0.985


def test_digits_mlp_learns_the_digits() -> None:
    data, model = digits(), digits_mlp()
    fit(model, data.train_batches(), epochs=15)
    inputs, targets = data.test.tensors
    assert (model(inputs).argmax(1) == targets).float().mean() >= 0.95


@pytest.mark.parametrize("build", [digits_cnn, digits_mlp])
def test_initial_weights_follow_the_seed_and_no_global_generator(build) -> None:
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    first = build(seed=5).state_dict()
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1]) and states[2] == random.getstate()
    torch.manual_seed(1)
    again, other = build(seed=5).state_dict(), build(seed=6).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_initial_weights_are_uniform_with_variance_two_over_fan_in() -> None:
    for name, layer in digits_cnn(seed=0, width=32).named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            weights = layer.weight.detach().flatten().double().numpy()
            limit = np.sqrt(6 / layer.weight[0].numel())
            assert stats.kstest(weights, "uniform", args=(-limit, 2 * limit)).pvalue > 1e-3, name
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.weight.eq(1).all() and layer.bias.eq(0).all()
            assert layer.running_mean.eq(0).all() and layer.running_var.eq(1).all() and layer.num_batches_tracked == 0


def test_layers_of_one_model_begin_differently() -> None:
    model = digits_mlp(hidden=64)
    assert not torch.equal(model.features[1].weight, model.features[3].weight)


@pytest.mark.parametrize(("build", "name"), [(digits_cnn, "width"), (digits_mlp, "hidden")])
def test_sizes_below_one_are_refused(build, name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, but got 0"):
        build(**{name: 0})


USER_MODULE = """
from torch import nn

def plain(width=3): return nn.Linear(width, 2)
def seeded(seed): return nn.Linear(seed, 1)
def nothing(): return None
class Net(nn.Module): pass
"""


@pytest.fixture
def user(tmp_path: Path) -> Path:
    (tmp_path / "user_model_module.py").write_text(USER_MODULE)
    yield tmp_path
    sys.path[:] = [place for place in sys.path if place != str(tmp_path.resolve())]
    sys.modules.pop("user_model_module", None)


def test_models_of_the_user(user: Path) -> None:
    state = torch.get_rng_state()
    first = load_model("user_model_module:plain", {"width": 5}, seed=1, folder=user)
    torch.rand(7)
    again = load_model("user_model_module:plain", {"width": 5}, seed=1, folder=user)
    other = load_model("user_model_module:plain", {"width": 5}, seed=2, folder=user)
    assert first.weight.shape == (2, 5) and torch.equal(first.weight, again.weight) and not torch.equal(first.weight, other.weight)
    torch.set_rng_state(state)
    load_model("user_model_module:plain", folder=user)
    assert torch.equal(state, torch.get_rng_state())
    assert load_model("user_model_module:seeded", seed=4, folder=user).in_features == 4
    assert load_model("user_model_module:seeded", {"seed": 6}, seed=4, folder=user).in_features == 6
    assert type(load_model("user_model_module:Net", folder=user)).__name__ == "Net"


def test_built_in_models_by_name() -> None:
    by_name = load_model("digits_cnn", {"width": 4}, seed=3)
    assert torch.equal(by_name.head.weight, digits_cnn(seed=3, width=4).head.weight)


@pytest.mark.parametrize(
    ("spec", "arguments", "words"),
    [
        ("digit_cnn", {}, "got 'digit_cnn'; did you mean 'digits_cnn'?"),
        ("resnet", {}, "got 'resnet'; name one of these"),
        ("digits_cnn", {"widht": 3}, r"\(seed, width\), but got an unexpected keyword argument 'widht'"),
        ("user_model_module:plian", {}, "did you mean 'user_model_module:plain'"),
        ("user_model_module:nothing", {}, "returned NoneType; return one"),
        ("user_model_modul:plain", {}, "there is no 'user_model_modul'"),
    ],
)
def test_models_that_cannot_be_built(user: Path, spec: str, arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words) as error:
        load_model(spec, arguments, folder=user)
    assert "\n" not in str(error.value)
