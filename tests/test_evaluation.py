"""Evaluation: trials that can be replayed, numbers that add up, the same bits in any number of processes."""

import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import simulator as sim
from devices import IdealCell, RRAMCrossbar

X = torch.rand(120, 12, generator=torch.Generator().manual_seed(0))


def model_and_targets() -> tuple[nn.Module, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))
    with torch.no_grad():
        model[2].bias -= model(X).mean(0)
    return model, model(X).argmax(1)


def chip_and_targets() -> tuple[sim.Chip, Tensor]:
    model, targets = model_and_targets()
    return sim.compile(model, RRAMCrossbar.preset("wan_nature_2022"), example_inputs=X), targets


def share_within(outputs: Tensor, targets: Tensor) -> float:
    return float((outputs.gather(1, targets[:, None])[:, 0] > outputs.mean(1)).float().mean())


def test_each_trial_can_be_replayed_alone() -> None:
    chip, targets = chip_and_targets()
    result = sim.evaluate(chip, (X, targets), trials=4, seed=11)
    for trial in range(4):
        chip.program(seed=11, trial=trial)
        assert float((chip(X).argmax(1) == targets).float().mean()) == pytest.approx(result.frame.loc[trial, "accuracy"])


def test_more_trials_extend_fewer_and_the_chip_given_stays_as_it_is() -> None:
    chip, targets = chip_and_targets()
    chip.program(seed=1)
    before = chip.state_dict()["model.0._extra_state"]["reads"]
    few, many = (sim.evaluate(chip, (X, targets), trials=n) for n in (3, 5))
    assert many.frame.iloc[:3].equals(few.frame)
    assert chip.state_dict()["model.0._extra_state"]["reads"] == before
    assert chip.layers["0"]._programming_seed == 1


def test_summary_is_what_the_frame_says() -> None:
    chip, targets = chip_and_targets()
    result = sim.evaluate(chip, (X, targets), trials=6, metrics=["accuracy", share_within])
    values = result.frame["accuracy"].to_numpy()
    row = result.summary().set_index("metric").loc["accuracy"]
    assert row["mean"] == pytest.approx(values.mean())
    assert row["high"] - row["mean"] == pytest.approx(2.5706 * values.std(ddof=1) / math.sqrt(6), rel=1e-3)
    assert row["worst"] == values.min()
    assert result.yield_at(float(np.median(values))).value >= 0.5
    assert result.reference["accuracy"] == 1.0
    assert str(result).startswith(f"accuracy {result.mean()}, worst {values.min():.3f}, float 1.000\nshare_within ")


def test_the_test_sets_error_is_the_binomial_one() -> None:
    targets = chip_and_targets()[1]
    flipped = torch.where(torch.arange(120) % 4 == 0, (targets + 1) % 4, targets)
    ideal = sim.compile(model_and_targets()[0], RRAMCrossbar(cell=IdealCell(g_min_siemens=0, g_max_siemens=1e-5)), example_inputs=X)
    result = sim.evaluate(ideal, (X, flipped), trials=3)
    parts = result.components()
    assert parts.mean == pytest.approx(0.75)
    assert parts.chip_std == 0
    assert parts.test_error == pytest.approx(math.sqrt(0.75 * 0.25 / 120), rel=0.15)


def test_two_chips_on_common_random_numbers_differ_less_than_on_others() -> None:
    model, _ = model_and_targets()
    targets = model(X).detach()
    design = RRAMCrossbar.preset("wan_nature_2022")
    coarse = sim.compile(model, design, example_inputs=X)
    fine = sim.compile(model, design.replace(adc={"bits": 12}), example_inputs=X)
    first, second, other = (
        sim.evaluate(chip, (X, targets), trials=8, seed=seed, metrics="mae") for chip, seed in ((coarse, 0), (fine, 0), (fine, 1))
    )
    paired = sim.compare(first, second)
    unpaired = np.std(first.frame["mae"] - other.frame["mae"], ddof=1)
    assert paired.n == 8
    assert 0 < paired.difference.half_width < 0.5 * 2.365 * unpaired / math.sqrt(8)
    with pytest.raises(ValueError, match="same seed and trials, but got seeds 0 and 1"):
        sim.compare(first, other)


def test_two_processes_give_the_same_bits_as_one() -> None:
    chip, targets = chip_and_targets()

    class OfAScript(Dataset):  # type: ignore[type-arg]
        """What no other process can import, read by processes of the loader's own."""

        def __len__(self) -> int:
            return len(X)

        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            return X[index], targets[index]

    data = DataLoader(OfAScript(), batch_size=50, num_workers=1)
    alone = sim.evaluate(chip, data, trials=3, metrics=["accuracy", share_within])
    together = sim.evaluate(chip, data, trials=3, metrics=["accuracy", share_within], workers=2)
    pd.testing.assert_frame_equal(alone.frame, together.frame, check_exact=True)
    assert alone.test_errors == together.test_errors


def test_threads_that_evaluate_one_chip_get_the_bits_of_one() -> None:
    chip, targets = chip_and_targets()
    alone = sim.evaluate(chip, (X, targets), trials=2)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda _: sim.evaluate(chip, (X, targets), trials=2), range(12)))
    for found in together:
        pd.testing.assert_frame_equal(found.frame, alone.frame, check_exact=True)
        assert found.reference == alone.reference


@pytest.mark.parametrize("kind", ["pair", "loader", "dataset", "batches", "iterator", "mapping"])
def test_every_kind_of_data_gives_the_same_numbers(kind: str) -> None:
    chip, targets = chip_and_targets()
    batches = [(X[i : i + 50], targets[i : i + 50]) for i in (0, 50, 100)]

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model_and_targets()[0]

        def forward(self, pixels: Tensor) -> dict[str, Tensor]:
            return {"logits": self.inner(pixels)}

    data = {
        "pair": (X, targets),
        "loader": DataLoader(TensorDataset(X, targets), batch_size=50),
        "dataset": TensorDataset(X, targets),
        "batches": batches,
        "iterator": iter(batches),
        "mapping": [{"pixels": x, "labels": y} for x, y in batches],
    }[kind]
    if kind == "mapping":
        chip = sim.compile(Named(), {"inner.*": RRAMCrossbar.preset("wan_nature_2022").ideal()}, example_kwargs={"pixels": X})
        assert sim.evaluate(chip, data, trials=2).frame["accuracy"].tolist() == [1.0, 1.0]
        return
    expected = sim.evaluate(chip, batches, trials=2)
    assert sim.evaluate(chip, data, trials=2, batch_size=50).frame.equals(expected.frame)


def test_age_lowers_what_drifts_only() -> None:
    chip, targets = chip_and_targets()
    assert sim.evaluate(chip, (X, targets), trials=2, seconds=1e8).frame.equals(sim.evaluate(chip, (X, targets), trials=2).frame)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 0}, "`trials` must be an integer of at least 1, but got 0"),
        ({"seed": -2}, "`seed` must be an integer of at least 0, but got -2"),
        ({"workers": 0}, "`workers` must be an integer of at least 1, but got 0"),
        ({"metrics": []}, "`metrics` must hold metrics"),
        ({"metrics": ["accuracy", "accuracy"]}, "metrics of different names"),
        ({"data": []}, "`data` must hold at least one batch, but got none"),
        ({"data": 3}, "`data` must be a loader"),
        ({"data": (X, torch.zeros(3))}, "two tensors of one length, but got 120 inputs and 3 targets"),
        ({"data": [X]}, "no targets"),
        ({"chip": nn.Linear(12, 4)}, "must be a compiled chip, but got Linear"),
        ({"data": [(X[:, :5], torch.zeros(120))]}, r"Layer `0`: the input must be float32 of shape \(..., 12\)"),
    ],
)
def test_bad_input_is_one_line(options: dict[str, object], message: str) -> None:
    chip, targets = chip_and_targets()
    arguments = {"chip": chip, "data": (X, targets), **options}
    with pytest.raises(ValueError, match=f"^[^\n]*{message}[^\n]*$"):
        sim.evaluate(arguments.pop("chip"), arguments.pop("data"), **arguments)


def test_evaluations_of_other_metrics_or_data_are_not_compared() -> None:
    chip, targets = chip_and_targets()
    accuracy, error = (sim.evaluate(chip, (X, targets), trials=2, metrics=name) for name in ("accuracy", share_within))
    with pytest.raises(ValueError, match=r"^Arguments `first` and `second` must be of one metric, but got accuracy[^\n]*$"):
        sim.compare(accuracy, error)
    with pytest.raises(ValueError, match=r"^Arguments `first` and `second` must be measured on the same data[^\n]*$"):
        sim.compare(accuracy, sim.evaluate(chip, (X[:50], targets[:50]), trials=2))


UNGUARDED = """
import torch, simulator as sim
from devices import RRAMCrossbar
x = torch.rand(400, 300)
chip = sim.compile(torch.nn.Linear(300, 300), RRAMCrossbar.preset("wan_nature_2022"), example_inputs=x)
sim.evaluate(chip, (x, torch.zeros(400, dtype=torch.long)), trials=2, workers=2)
"""


def test_workers_in_a_script_without_a_main_guard_are_one_clear_error(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(UNGUARDED)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    assert 'must stand under `if __name__ == "__main__":`' in done.stderr.splitlines()[-1]
