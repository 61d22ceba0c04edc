"""Training with a chip in the loop: layer by layer, and by pulses, on chips in this process and elsewhere."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import simulator as sim
from devices import IdealCell, PulseUpdate, RRAMCrossbar, StuckCells, SystolicArray
from simulator.data import Batches
from simulator.hardware import Mode
from simulator.link.addresses import LinkError
from simulator.link.client import disconnect
from simulator.pulse_training import nudge
from tests.link_devices import chip_at

generator = torch.Generator().manual_seed(0)
X = torch.randn(256, 8, generator=generator)
Y = (X @ torch.randn(8, 3, generator=generator)).argmax(1)
DATA = Batches(X, Y, 32, seed=0)
FAULTY = RRAMCrossbar.preset("wan_nature_2022", stuck=StuckCells(stuck_on_rate=0.05, stuck_off_rate=0.05))
LINEAR = PulseUpdate(potentiation_pulses=200, depression_pulses=200)


def trained() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3))
    sim.fit(model, DATA, epochs=25, learning_rate=1e-2)
    return model


MODEL = trained()


def accuracy(chip: nn.Module) -> float:
    with torch.no_grad():
        output: Tensor = chip(X)
    return float((output.argmax(1) == Y).float().mean())


def test_layers_behind_learn_what_those_before_them_do() -> None:
    gains = []
    for trial in range(4):
        chip = sim.compile(MODEL, FAULTY, example_inputs=X, calibration=X)
        before = accuracy(chip.program(seed=0, trial=trial))
        sim.fine_tune_progressively(chip, DATA, epochs=6, learning_rate=5e-3, seed=0, trial=trial)
        gains.append(accuracy(chip) - before)
    mean = sum(gains) / 4
    spread = (sum((gain - mean) ** 2 for gain in gains) / 3) ** 0.5
    assert mean > 2 * spread / 2 and mean > 0.02, gains


def test_each_layer_is_programmed_once_in_the_order_of_the_calls_and_stays() -> None:
    chip = sim.compile(MODEL, FAULTY, example_inputs=X, calibration=X)
    seen: list[tuple[str, dict[str, Tensor]]] = []

    def look(name: str) -> None:
        layers = chip.layers
        seen.append((name, {key: layers[key].cells.conductance.clone() for key in layers if layers[key].cells is not None}))  # type: ignore[attr-defined, union-attr]

    tuning = sim.fine_tune_progressively(chip, DATA, epochs=1, after_layer=look)
    assert tuning.order == ("0", "2", "4") and [name for name, _ in seen] == ["0", "2", "4"]
    assert [sorted(cells) for _, cells in seen] == [["0"], ["0", "2"], ["0", "2", "4"]]
    assert all(torch.equal(cells["0"], seen[0][1]["0"]) for _, cells in seen)
    assert all(parameter.requires_grad for parameter in chip.parameters())
    assert all(layer.mode is Mode.HARDWARE for layer in chip.layers.values()) and not chip.training
    before = MODEL.state_dict()
    assert torch.equal(chip.layers["0"].weight, before["0.weight"])  # the first is programmed before anything is trained
    assert not torch.equal(chip.layers["4"].weight, before["4.weight"])


def test_on_an_ideal_chip_the_first_programming_changes_nothing() -> None:
    chip = sim.compile(MODEL, FAULTY.ideal(), example_inputs=X)
    sim.fine_tune_progressively(chip, DATA, epochs=1, learning_rate=1e-12, weight_decay=0.0)
    with torch.no_grad():
        assert torch.allclose(chip(X), MODEL(X), atol=1e-4)


def test_a_chip_elsewhere_is_tuned_as_well() -> None:
    with sim.serve(FAULTY, "tcp://127.0.0.1:0", block=False) as server:
        remote = chip_at(server.address)
        chip = sim.compile(MODEL, remote, example_inputs=X, calibration=X)
        here = sim.compile(MODEL, FAULTY, example_inputs=X, calibration=X)
        plain = accuracy(chip.program(seed=0, trial=1))
        assert plain == accuracy(here.program(seed=0, trial=1))
        sim.fine_tune_progressively(chip, DATA, epochs=6, learning_rate=5e-3, seed=0, trial=1)
        assert accuracy(chip) > plain
        disconnect(remote)


# pulses

PULSED = RRAMCrossbar(cell=IdealCell(g_min_siemens=1e-6, g_max_siemens=4e-5, pulse_law=LINEAR), rows=64, columns=64)


def single() -> nn.Module:
    layer = nn.Linear(8, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.linspace(-1, 1, 24).reshape(3, 8))
        layer.bias.zero_()
    return layer


def test_with_small_linear_pulses_the_cells_follow_gradient_descent() -> None:
    fine = PULSED.replace(cell={"pulse_law": PulseUpdate(potentiation_pulses=100_000, depression_pulses=100_000)})
    chip = sim.compile(single(), fine, example_inputs=X)
    training = sim.train_with_pulses(chip, [(X, Y)], epochs=5, learning_rate=0.05)
    model = single()
    for _ in range(5):
        loss = nn.functional.cross_entropy(model(X), Y)
        weight, bias = torch.autograd.grad(loss, (model.weight, model.bias))
        with torch.no_grad():
            model.weight -= 0.05 * weight
            model.bias -= 0.05 * bias
    with torch.no_grad():
        assert torch.allclose(chip(X), model(X), atol=2e-3)
    assert not training.exhausted and training.losses[-1] < training.losses[0]


def test_a_change_below_one_pulse_is_kept_until_it_is_worth_one() -> None:
    coarse = PULSED.replace(cell={"pulse_law": PulseUpdate(potentiation_pulses=20, depression_pulses=20)})
    chip = sim.compile(single(), coarse, example_inputs=X)
    first = sim.train_with_pulses(chip, [(X, Y)], epochs=1, learning_rate=0.05)
    many = sim.train_with_pulses(chip, [(X, Y)], epochs=60, learning_rate=0.05)
    assert sum(first.pulses.values()) == 0 < sum(many.pulses.values())
    assert many.losses[-1] < 0.95 * many.losses[0]


def test_no_more_pulses_are_sent_than_the_budget_holds() -> None:
    chip = sim.compile(single(), PULSED, example_inputs=X)
    training = sim.train_with_pulses(chip, [(X, Y)], epochs=30, learning_rate=0.5, pulses=37)
    assert training.exhausted and sum(training.pulses.values()) <= 37
    moved = (
        chip.layers["model"].cells.conductance
        - sim.compile(single(), PULSED, example_inputs=X).program(0).layers["model"].cells.conductance
    )  # type: ignore[attr-defined, union-attr]
    step = (4e-5 - 1e-6) / 200
    assert round(float(moved.abs().sum()) / step) <= 37


def test_pulses_reach_a_chip_elsewhere_with_the_same_bits() -> None:
    noisy = PULSED.replace(cell={"pulse_law": PulseUpdate(potentiation_pulses=200, depression_pulses=100, cycle_fraction=0.01)})
    here = sim.compile(single(), noisy, example_inputs=X)
    with sim.serve(noisy, "tcp://127.0.0.1:0", block=False) as server:
        remote = chip_at(server.address)
        there = sim.compile(single(), remote, example_inputs=X)
        change = torch.linspace(-0.3, 0.3, 24).reshape(3, 8)
        results = []
        for chip in (here.program(seed=2), there.program(seed=2)):
            spent, left = nudge(chip.layers["model"], change, 500, 1)
            with torch.no_grad():
                results.append((spent, left, chip(X)))
        assert results[0][0] == results[1][0]
        assert torch.equal(results[0][1], results[1][1]) and torch.equal(results[0][2], results[1][2])
        disconnect(remote)


def test_gradients_of_a_chip_elsewhere_follow_the_pulses(tmp_path: Path) -> None:
    """Cells without noise that pulses move exactly: the model that gradients come from is then what the cells hold."""
    here = sim.compile(single(), PULSED, example_inputs=X).program(seed=0)
    with sim.serve(PULSED, "tcp://127.0.0.1:0", block=False) as server:
        remote = chip_at(server.address)
        there = sim.compile(single(), remote, example_inputs=X).program(seed=0)
        for step in (1, 2):
            found = []
            for chip in (here, there):
                nudge(chip.layers["model"], -0.2 * single().weight.detach(), None, step)  # away from the ends of the range
                x = X.clone().requires_grad_()
                found.append(torch.autograd.grad(chip(x).square().sum(), x)[0])
            assert torch.allclose(*found, rtol=1e-4, atol=1e-5)
        torch.save(there.state_dict(), tmp_path / "there.pt")
        again = sim.compile(single(), remote, example_inputs=X)
        again.load_state_dict(torch.load(tmp_path / "there.pt"))
        x = X.clone().requires_grad_()
        assert torch.allclose(torch.autograd.grad(again(x).square().sum(), x)[0], found[1])
        disconnect(remote)


@pytest.mark.parametrize("rate", [1e6, 1e12, 1e30])
def test_however_large_the_rate_no_count_overflows(rate: float) -> None:
    chip = sim.compile(single(), PULSED, example_inputs=X)
    training = sim.train_with_pulses(chip, [(X, Y)], epochs=1, learning_rate=rate)
    assert 0 < training.pulses["model"] <= 2 * 24 * 200  # no cell gets more than cross its range
    bounded = sim.train_with_pulses(chip, [(X, Y)], epochs=3, learning_rate=rate, pulses=50)
    assert bounded.exhausted and sum(bounded.pulses.values()) == 50


def test_a_loader_that_was_used_before_gives_the_same_training() -> None:
    loader = Batches(X, Y, 16, seed=0)

    def train() -> sim.PulseTraining:
        return sim.train_with_pulses(sim.compile(single(), PULSED, example_inputs=X), loader, epochs=2)

    first = train()
    assert loader.epoch == 0
    list(loader)
    assert train() == first and loader.epoch == 1
    assert sim.train_with_pulses(sim.compile(single(), PULSED, example_inputs=X), [(X, Y)], epochs=2) != first


def test_hardware_that_pulses_cannot_move_is_refused() -> None:
    for design, said in (
        (RRAMCrossbar.preset("wan_nature_2022"), "must have a `pulse_law`"),
        (PULSED.replace(mapping={"weight_bits": 4, "bits_per_cell": 1}), "must lie in analog pairs"),
        (SystolicArray.preset("eyeriss_like"), "must lie on a crossbar"),
    ):
        chip = sim.compile(single(), design, example_inputs=X)
        with pytest.raises(ValueError, match=said):
            sim.train_with_pulses(chip, [(X, Y)], epochs=1)
    with sim.serve("wan_nature_2022", "tcp://127.0.0.1:0", block=False) as server:
        remote = chip_at(server.address)
        chip = sim.compile(single(), remote, example_inputs=X)
        with pytest.raises(LinkError, match="must have a `pulse_law`"):
            sim.train_with_pulses(chip, [(X, Y)], epochs=1)
        disconnect(remote)


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"epochs": 1, "pulses": 0}, {"epochs": 1, "pulses": 10**30}, {"epochs": 1, "learning_rate": -1.0}]
)
def test_arguments_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="Argument `"):
        sim.train_with_pulses(sim.compile(single(), PULSED, example_inputs=X), [(X, Y)], **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("train", [sim.train_with_pulses, sim.fine_tune_progressively])
def test_a_model_that_is_no_chip_is_refused(train: Callable[..., object]) -> None:
    with pytest.raises(ValueError, match="Argument `chip` must be a compiled chip, but got Linear; call"):
        train(single(), DATA, epochs=1)
