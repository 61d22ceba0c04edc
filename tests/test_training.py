"""Training: the schedule, repeatability, and going on after a kill."""

import copy
import math
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from simulator.data import Batches, digits
from simulator.models import digits_cnn, digits_mlp
from simulator.training import WARM_UP, fit


def small_data(count: int = 24) -> Batches:
    generator = torch.Generator().manual_seed(0)
    return Batches(torch.rand(count, 4, generator=generator), torch.arange(count) % 3, 10, seed=1)


class Dropping(nn.Module):
    """Dropout and batch norm: draws from torch's generator, and state that is not a parameter."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.body = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))
        for parameter in self.parameters():
            parameter.data.copy_(torch.rand(parameter.shape, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Noisy(nn.Module):
    """As a chip: noise keyed by a read counter that is part of its state."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4, 3))
        self.register_buffer("reads", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.randn(self.weight.shape, generator=torch.Generator().manual_seed(int(self.reads)))
        self.reads += 1
        return x @ (self.weight + 0.1 * noise)


def same(first: nn.Module, second: nn.Module) -> bool:
    states = first.state_dict(), second.state_dict()
    return states[0].keys() == states[1].keys() and all(torch.equal(states[0][name], states[1][name]) for name in states[0])


class Killed(BaseException): ...


def stop_at(step: int):
    def progress(done: int, total: int, loss: float) -> None:
        if done == step:
            raise Killed

    return progress


@pytest.mark.parametrize("build", [Dropping, Noisy])
@pytest.mark.parametrize("step", [7, 9, 11])  # 3 batches an epoch: within the third epoch, at its end, within the fourth
def test_going_on_after_a_stop_is_bit_identical(tmp_path: Path, build, step: int) -> None:
    whole, stopped, resumed = build(), build(), build()
    losses = fit(whole, small_data(), epochs=6, learning_rate=0.05).losses
    path = tmp_path / "epochs.pt"
    with pytest.raises(Killed):
        fit(stopped, small_data(), epochs=6, learning_rate=0.05, checkpoint=path, progress=stop_at(step))
    torch.rand(3)  # what others draw in between must not matter
    training = fit(resumed, small_data(), epochs=6, learning_rate=0.05, checkpoint=path)
    assert training.resumed_at == (step - 1) // 3
    assert training.losses == losses and len(losses) == 6
    assert same(whole, resumed) and not same(whole, build())
    finished = build()
    assert fit(finished, small_data(), epochs=6, learning_rate=0.05, checkpoint=path).resumed_at == 6
    assert same(whole, finished) and not finished.training
    assert [file.name for file in tmp_path.iterdir()] == ["epochs.pt"]


def test_going_on_with_a_shuffling_data_loader(tmp_path: Path) -> None:
    data = small_data()

    def loader() -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(TensorDataset(data.inputs, data.targets), batch_size=10, shuffle=True)

    whole, stopped, resumed = Dropping(), Dropping(), Dropping()
    fit(whole, loader(), epochs=4)
    with pytest.raises(Killed):
        fit(stopped, loader(), epochs=4, checkpoint=tmp_path / "c.pt", progress=stop_at(8))
    fit(resumed, loader(), epochs=4, checkpoint=tmp_path / "c.pt")
    assert same(whole, resumed)


SCRIPT = """
import sys, time
from simulator.data import digits
from simulator.models import digits_mlp
from simulator.training import fit

fit(digits_mlp(hidden=8), digits().train_batches(1437), epochs=60, checkpoint=sys.argv[1], progress=lambda *state: time.sleep(0.02))
"""


def test_going_on_after_kill_minus_nine(tmp_path: Path) -> None:
    path = tmp_path / "epochs.pt"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(path)], cwd=Path(__file__).parents[1])
    deadline = time.monotonic() + 60
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    whole, resumed = digits_mlp(hidden=8), digits_mlp(hidden=8)
    losses = fit(whole, digits().train_batches(1437), epochs=60).losses
    training = fit(resumed, digits().train_batches(1437), epochs=60, checkpoint=path)
    assert 1 <= training.resumed_at < 60
    assert training.losses == losses and same(whole, resumed)


def test_equal_arguments_give_equal_bits_with_any_number_of_threads() -> None:
    models = [digits_cnn() for _ in range(3)]
    threads = torch.get_num_threads()
    try:
        for model, (count, seed) in zip(models, [(1, 0), (2, 0), (1, 1)], strict=True):
            torch.set_num_threads(count)
            fit(model, digits().train_batches(seed=seed), epochs=1)
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert same(models[0], models[1]) and not same(models[0], models[2])


def test_seed_reaches_dropout_and_no_global_generator_is_changed() -> None:
    models = [Dropping() for _ in range(3)]
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    for model, seed in zip(models, (0, 0, 1), strict=True):
        fit(model, small_data(), epochs=2, seed=seed)
    assert same(models[0], models[1]) and not same(models[0], models[2])
    assert torch.equal(states[0], torch.get_rng_state())
    assert np.array_equal(states[1], np.random.get_state()[1]) and states[2] == random.getstate()


def test_steps_are_adamw_with_warm_up_and_cosine() -> None:
    inputs, targets = torch.linspace(-1, 1, 12)[:, None], torch.linspace(2, 3, 12)[:, None]
    ours = nn.Linear(1, 1)
    theirs = copy.deepcopy(ours)
    fit(ours, Batches(inputs, targets, 4), epochs=10, learning_rate=0.1, weight_decay=0.3, loss=F.mse_loss)
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=0.1, weight_decay=0.3)
    for step in range(30):
        share = step / 30
        if share < WARM_UP:
            rate = 0.01 + 0.09 * share / WARM_UP
        else:
            rate = 0.1 * math.cos(math.pi / 2 * (share - WARM_UP) / (1 - WARM_UP)) ** 2
        optimizer.param_groups[0]["lr"] = rate
        rows = slice(4 * (step % 3), 4 * (step % 3) + 4)
        optimizer.zero_grad()
        F.mse_loss(theirs(inputs[rows]), targets[rows]).backward()
        optimizer.step()
    assert torch.allclose(ours.weight, theirs.weight, atol=1e-6) and torch.allclose(ours.bias, theirs.bias, atol=1e-6)


def test_loss_of_an_epoch_is_the_mean_over_samples_and_progress_counts_batches() -> None:
    inputs, targets = torch.zeros(5, 1), torch.tensor([0.0, 0.0, 0.0, 0.0, 10.0])[:, None]
    seen: list[tuple[int, int, float]] = []
    model = nn.Linear(1, 1)
    nn.init.zeros_(model.bias)
    training = fit(
        model,
        Batches(inputs, targets, 4),
        epochs=2,
        learning_rate=1e-12,
        loss=F.mse_loss,
        progress=lambda *state: seen.append(state),
    )
    assert training.losses == pytest.approx((20, 20)) and training.resumed_at == 0
    assert [state[:2] for state in seen] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [state[2] for state in seen] == pytest.approx([0, 100, 0, 100], abs=1e-6)


def test_frozen_parameters_stay_and_the_mode_is_training_within_and_evaluation_after() -> None:
    model = Dropping()
    frozen = model.body[0].requires_grad_(False).weight.clone()
    modes: list[bool] = []
    fit(model, small_data(), epochs=1, progress=lambda *state: modes.append(model.training))
    assert torch.equal(model.body[0].weight, frozen) and modes == [True] * 3 and not model.training


def test_models_with_several_inputs_and_mappings() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, left: Tensor, right: Tensor) -> Tensor:
            return self.scale * (left + right)

    ones = torch.ones(4)
    for batch in ((ones, ones, 6 * ones), {"left": ones, "right": ones, "labels": 6 * ones}):
        model = Sum()
        fit(model, [batch], epochs=100, learning_rate=0.2, weight_decay=0.0, loss=F.mse_loss)
        assert float(model.scale.detach()) == pytest.approx(3, abs=0.05)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 0}, "`epochs` must be positive, but got 0"),
        ({"learning_rate": -1.0}, "`learning_rate` must be positive, but got -1.0"),
        ({"learning_rate": math.nan}, "`learning_rate` must be positive, but got nan"),
        ({"loader": []}, "`loader` must have at least one batch"),
        ({"loader": iter([(torch.zeros(2, 4), torch.zeros(2))])}, "got a list_iterator, which ends after one"),
        ({"loader": [torch.zeros(2, 4)]}, "got inputs alone"),
        ({"loader": [(torch.full((2, 4), math.nan), torch.zeros(2).long())]}, "it is nan in epoch 1"),
        ({"model": nn.ReLU()}, "none requires a gradient"),
    ],
)
def test_bad_arguments_are_one_line(changes: dict[str, object], words: str) -> None:
    arguments = {"model": nn.Linear(4, 3), "loader": small_data(), "epochs": 1} | changes
    with pytest.raises(ValueError, match=words) as error:
        fit(**arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 3}, "has epochs 2 and this run has 3"),
        ({"seed": 5}, "has seed 0 and this run has 5"),
        ({"learning_rate": 0.5}, "has learning_rate 0.004 and this run has 0.5"),
        ({"loader": small_data(40)}, "has batches 3 and this run has 4"),
        ({"model": Noisy()}, "has initial weights"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    path = tmp_path / "c.pt"
    fit(Dropping(), small_data(), epochs=2, checkpoint=path)
    before = path.read_bytes()
    arguments = {"model": Dropping(), "loader": small_data(), "epochs": 2, "checkpoint": path} | changes
    with pytest.raises(ValueError, match=words) as error:
        fit(**arguments)
    assert "\n" not in str(error.value) and path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"not a checkpoint"])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "c.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"must be a file that `fit` wrote, but .* delete the file to start over") as error:
        fit(Dropping(), small_data(), epochs=1, checkpoint=path)
    assert "\n" not in str(error.value) and path.read_bytes() == content
