"""Compensation on the chip: remapped columns against the best of all permutations, and batch norm against its own definition."""

import copy
import itertools
import pickle

import pytest
import torch
from torch import Tensor, nn

import simulator as sim
from devices import ADC, IdealCell, OffsetMapping, RRAMCrossbar, StuckCells
from simulator.lowering.remapping import ColumnRemapping
from simulator.lowering.treatment import FormedCells
from tests.networks import drawn, generator

LOW, HIGH = 1e-6, 40e-6
CELL = IdealCell(g_min_siemens=LOW, g_max_siemens=HIGH)
FAULTS = StuckCells(stuck_on_rate=0.06, stuck_off_rate=0.1)


def faulty(layer: nn.Module, x: Tensor, **fields: object) -> sim.Chip:
    return sim.compile(layer, RRAMCrossbar(**{"cell": CELL, "stuck": FAULTS, **fields}), example_inputs=(x,))


class TestRemapping:
    def test_it_is_the_best_of_all_permutations(self) -> None:
        """Of five outputs there are 120 orders: the chip's error is that of the best one, programmed and read each."""
        layer, x = drawn(nn.Linear(12, 5, bias=False)), torch.eye(12)
        # Conductances that no weight takes, so that every stuck cell shows.
        stuck = FAULTS.replace(on_siemens=42e-6, off_siemens=0.2e-6)
        chip = faulty(layer, x, stuck=stuck).program(seed=3)
        faults = (chip.tile("model").conductance - faulty(layer, x, stuck=None).program(seed=3).tile("model").conductance) != 0
        assert int(faults.sum()) > 5
        table = sim.remap(chip)
        weight = layer.weight.detach()
        found = float((chip(x).detach().T - weight).square().sum())
        errors = []
        stuck_cells = faulty(layer, x, stuck=stuck).program(seed=3).tile("model").conductance
        for order in itertools.permutations(range(5)):
            placed = faulty(drawn_like(layer, weight[list(order)]), x, stuck=None).program(seed=3).tile("model").conductance
            cells = torch.where(faults, stuck_cells, placed)
            read = (cells[:, 0::2] - cells[:, 1::2]).T / (HIGH - LOW) * weight.abs().max()
            errors.append(float((read - weight[list(order)]).square().sum()))
        assert found == pytest.approx(min(errors), rel=1e-3)
        assert float(table["error_after"].iloc[0]) == pytest.approx((found / float(weight.square().sum())) ** 0.5, rel=1e-3)
        assert float(table["error_after"].iloc[0]) < float(table["error_before"].iloc[0])

    @pytest.mark.parametrize(
        ("layer", "shape", "fields"),
        [
            (nn.Linear(30, 8), (6, 30), {"rows": 16, "columns": 8}),
            (nn.Linear(20, 6), (6, 20), {"mapping": {"weight_bits": 5, "bits_per_cell": 2, "scaling": "column"}}),
            (nn.Linear(20, 6), (6, 20), {"mapping": OffsetMapping(reference="converted")}),
            (nn.Conv2d(4, 8, 3, groups=2), (2, 4, 5, 5), {}),
        ],
        ids=["linear", "slices", "offset", "groups"],
    )
    def test_without_faults_nothing_changes_and_with_faults_the_error_is_the_one_stated(
        self, layer: nn.Module, shape: tuple[int, ...], fields: dict[str, object]
    ) -> None:
        drawn(layer)
        x = torch.randn(*shape, generator=generator(1))
        none = faulty(layer, x, stuck=StuckCells(), **fields).program(seed=1)
        before = none(x)
        sim.remap(none)
        assert torch.equal(none(x), before)
        chip = faulty(layer, x, **fields).program(seed=1)
        rough = float((chip(x) - none(x)).detach().square().mean())
        table = sim.remap(chip, x)
        assert float(table["error_after"].iloc[0]) < 0.95 * float(table["error_before"].iloc[0])
        assert float((chip(x) - none(x)).detach().square().mean()) < rough
        # Where float is read from the hardware, the order is not seen.
        with chip.reference():
            assert torch.allclose(chip(x), layer(x), atol=1e-5)

    def test_the_order_travels_with_the_chip_and_each_instance_has_its_own(self) -> None:
        layer, x = drawn(nn.Linear(20, 8)), torch.randn(4, 20, generator=generator(1))
        chip = faulty(layer, x).program(seed=1)
        sim.remap(chip, x)
        first, order = chip(x), chip.layers["model"].order
        fresh = faulty(layer, x)
        fresh.load_state_dict(chip.state_dict())
        assert torch.equal(fresh(x), chip.program(seed=1)(x)) or torch.equal(fresh(x), first)
        assert torch.equal(pickle.loads(pickle.dumps(chip)).layers["model"].order, order)
        chip.program(seed=1, trial=1)
        assert not torch.equal(chip.layers["model"].order, order)
        assert sorted(chip.layers["model"].order.tolist()) == list(range(8))
        assert {column.output for column in chip.tile("model").columns} == set(range(8))
        again = copy.deepcopy(chip).program(seed=1)
        assert torch.equal(again(x), first)

    def test_training_passes_gradients_through_the_order(self) -> None:
        layer, x = drawn(nn.Linear(6, 4, bias=False)), torch.randn(5, 6, generator=generator(1))
        chip = faulty(layer, x, stuck=StuckCells(stuck_on_rate=1e-9)).program(seed=1)
        sim.remap(chip)
        chip.layers["model"].order = torch.tensor([2, 0, 3, 1])
        chip.train()
        target = torch.randn(5, 4, generator=generator(2))
        (chip(x) - target).square().sum().backward()
        own = copy.deepcopy(layer)
        (own(x) - target).square().sum().backward()
        (parameter,) = chip.parameters()
        assert torch.allclose(parameter.grad, own.weight.grad, rtol=1e-4, atol=1e-5)

    def test_ranges_of_columns_move_with_their_outputs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        layer, x = drawn(nn.Linear(16, 6, bias=False)), torch.randn(64, 16, generator=generator(1))
        with torch.no_grad():
            layer.weight.mul_(torch.logspace(-2, 0, 6).unsqueeze(1))
        design = RRAMCrossbar(cell=CELL, stuck=StuckCells(stuck_on_rate=1e-9), adc=ADC(bits=8, range_scope="column"))
        chip = sim.compile(layer, design, example_inputs=(x,), calibration=[x])
        monkeypatch.setattr(ColumnRemapping, "order", lambda *_: torch.tensor([3, 5, 0, 2, 4, 1]))
        sim.remap(chip)
        # Half a step of each column's own range: with another column's the small outputs would all lie within one code.
        step = layer(x).abs().amax(0) / 127
        assert bool(((chip(x) - layer(x)).abs() <= 0.51 * step).all())

    def test_what_cannot_be_remapped_is_refused(self) -> None:
        layer, x = drawn(nn.Linear(6, 4)), torch.randn(5, 6, generator=generator(1))
        with pytest.raises(ValueError, match="must have crossbars with stuck cells, but has none"):
            sim.remap(faulty(layer, x, stuck=None))
        chip = faulty(layer, x)
        sim.remap(chip)
        chip.layers["model"].treatment = FormedCells(chip.layers["model"].conductance)
        with pytest.raises(ValueError, match="single cells must not be treated where outputs are remapped"):
            chip.program(seed=0)


def drawn_like(layer: nn.Linear, weight: Tensor) -> nn.Linear:
    other = nn.Linear(layer.in_features, layer.out_features, bias=False)
    with torch.no_grad():
        other.weight.copy_(weight)
    return other


class TestBatchNorm:
    def network(self) -> nn.Sequential:
        model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
        drawn(model).train()
        model(torch.randn(64, 2, 8, 8, generator=generator(1)))
        return model.eval()

    def test_means_and_deviations_are_those_of_float_again(self) -> None:
        model, x = self.network(), torch.randn(32, 2, 8, 8, generator=generator(2))
        design = RRAMCrossbar.preset("pcm_nandakumar_2019")
        chip = sim.compile(model, design, example_inputs=(x,), calibration=x).program(seed=0).age(1e7)
        drifted = channels(chip(x))
        table = sim.recalibrate_batch_norm(chip, x)
        assert table["layer"].tolist() == ["0", "3"]
        restored, wanted = channels(chip(x)), channels(model(x).detach())
        # What differs is only the noise of another read.
        assert torch.allclose(restored.mean(1), wanted.mean(1), atol=0.03 * float(wanted.std()))
        assert torch.allclose(restored.std(1), wanted.std(1), rtol=0.03)
        assert not torch.allclose(drifted.std(1), wanted.std(1), rtol=0.1)

    def test_a_chip_that_loses_a_factor_alike_is_float_again(self) -> None:
        """Half the conductance everywhere is what one scale for each output makes up for exactly."""
        model, x = self.network(), torch.randn(8, 2, 8, 8, generator=generator(2))
        chip = sim.compile(model, RRAMCrossbar(cell=CELL), example_inputs=(x,)).program(seed=0)
        for layer in chip.layers.values():
            cells = layer.conductance
            layer.adopt(cells / 2, seed=0, trial=0)
        assert not torch.allclose(chip(x), model(x), rtol=0.1)
        sim.recalibrate_batch_norm(chip, x)
        assert torch.allclose(chip(x), model(x), rtol=1e-3, atol=1e-3)

    def test_a_batch_norm_that_was_not_folded_takes_the_chips_own_statistics(self) -> None:
        model = nn.Sequential(nn.BatchNorm2d(2), nn.Conv2d(2, 4, 3), nn.ReLU(), nn.BatchNorm2d(4))
        drawn(model).train()
        model(torch.randn(64, 2, 6, 6, generator=generator(1)))
        model.eval()
        kept = copy.deepcopy(model[3].running_mean)
        x = torch.randn(32, 2, 6, 6, generator=generator(3))
        chip = sim.compile(model, RRAMCrossbar(cell=CELL), example_inputs=(x,)).program(seed=0)
        sim.recalibrate_batch_norm(chip, x)
        out = channels(chip(x))
        norm = model[3]
        assert torch.allclose(out.mean(1), norm.bias.detach(), atol=5e-3)
        assert torch.allclose(out.std(1, unbiased=False), norm.weight.detach().abs(), rtol=0.02)
        assert torch.equal(norm.running_mean, kept), "the caller's model must stay as it is"

    def test_the_correction_belongs_to_the_instance_and_travels_with_the_state(self) -> None:
        model, x = self.network(), torch.randn(16, 2, 8, 8, generator=generator(2))
        chip = sim.compile(model, RRAMCrossbar(cell=CELL), example_inputs=(x,)).program(seed=0)
        plain = chip(x)
        for layer in chip.layers.values():
            layer.correct(torch.stack((torch.full((len(layer.weight),), 2.0), torch.ones(len(layer.weight)))))
        corrected = chip(x)
        fresh = sim.compile(model, RRAMCrossbar(cell=CELL), example_inputs=(x,))
        fresh.load_state_dict(chip.state_dict())
        assert torch.equal(fresh(x), corrected)
        fresh.load_state_dict(sim.compile(model, RRAMCrossbar(cell=CELL), example_inputs=(x,)).program(seed=0).state_dict())
        assert torch.equal(fresh(x), plain)
        assert torch.equal(chip.program(seed=0)(x), plain)
        assert not torch.equal(corrected, plain)

    def test_every_chip_of_an_evaluation_is_recalibrated(self) -> None:
        model, x = self.network(), torch.randn(64, 2, 8, 8, generator=generator(2))
        targets = model(x).detach()
        design = RRAMCrossbar.preset("pcm_nandakumar_2019", adc={"range_policy": "per_batch"})
        chip = sim.compile(model, design, example_inputs=(x,), calibration=x)
        options = {"metrics": "mae", "trials": 3, "seconds": 1e7}
        drifted = sim.evaluate(chip, (x, targets), **options)
        restored = sim.evaluate(chip, (x, targets), prepare=lambda one: sim.recalibrate_batch_norm(one, x), **options)
        assert sim.compare(restored, drifted, names=("restored", "drifted")).better == "restored"
        assert restored.mean().value < 0.8 * drifted.mean().value
        assert all(layer.correction is None for layer in chip.layers.values())

    def test_a_model_without_batch_norm_is_refused(self) -> None:
        x = torch.rand(4, 6)
        with pytest.raises(ValueError, match="must have batch norm, folded or not, but has none"):
            sim.recalibrate_batch_norm(sim.compile(drawn(nn.Linear(6, 2)), RRAMCrossbar(cell=CELL), example_inputs=(x,)), x)
        with pytest.raises(ValueError, match="`prepare` must be a function of a chip"):
            sim.evaluate(sim.compile(drawn(nn.Linear(6, 2)), RRAMCrossbar(cell=CELL), example_inputs=(x,)), (x, x), prepare=3)


def channels(outputs: Tensor) -> Tensor:
    """Return the flattened outputs by channel, (channels, values): four channels of 4 x 4."""
    return outputs.detach().reshape(len(outputs), 4, -1).transpose(0, 1).flatten(1)
