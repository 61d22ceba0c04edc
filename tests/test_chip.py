"""The life of a chip: programming, reading, saving, copying, and what must be the same bits."""

import copy
import io
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import simulator as sim
from devices import ProgrammedCells, ResistiveCell, RRAMCrossbar, SRAMMacro
from kernels.random import Key, normal

X = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(7))


def small_model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(216, 10)).eval()


def small_chip() -> sim.Chip:
    return sim.compile(small_model(), RRAMCrossbar.preset("wan_nature_2022"), example_inputs=(X,))


class DriftingCell(ResistiveCell):
    """Falls by a power law with an exponent of each cell's own, drawn at programming."""

    def program(self, target: Tensor, key: Key) -> ProgrammedCells:
        return ProgrammedCells(target, {"exponent": 0.05 + 0.01 * normal(key, target.shape)})

    def read_sigma(self, conductance: Tensor, seconds: float) -> None:
        return None

    def drift(self, programmed: ProgrammedCells, seconds: float, key: Key) -> Tensor:
        return programmed.conductance * (1 + seconds) ** -programmed.memory["exponent"]


def drifting_chip() -> sim.Chip:
    design = RRAMCrossbar(cell=DriftingCell(g_min_siemens=0.0, g_max_siemens=1e-5))
    return sim.compile(small_model(), design, example_inputs=(X,))


def test_the_same_seed_and_trial_give_the_same_bits_and_others_do_not() -> None:
    chip = small_chip()
    first = chip.program(seed=3, trial=1)(X)
    assert torch.equal(chip.program(seed=3, trial=1)(X), first)
    assert not torch.equal(chip.program(seed=3, trial=2)(X), first)
    assert not torch.equal(chip.program(seed=4, trial=1)(X), first)


def test_no_two_reads_repeat_their_noise_and_programming_starts_the_count_again() -> None:
    chip = small_chip().program(seed=0)
    reads = [chip(X) for _ in range(3)]
    assert not torch.equal(reads[0], reads[1])
    assert not torch.equal(reads[1], reads[2])
    chip.program(seed=0)
    assert torch.equal(chip(X), reads[0])


def test_draws_do_not_depend_on_other_layers() -> None:
    model = small_model()
    whole = sim.compile(model, RRAMCrossbar.preset("wan_nature_2022"), example_inputs=(X,)).program(seed=0)
    part = sim.compile(model, {"4": RRAMCrossbar.preset("wan_nature_2022")}, example_inputs=(X,)).program(seed=0)
    assert torch.equal(whole.layers["4"].cells.conductance, part.layers["4"].cells.conductance)


@pytest.mark.parametrize("programmed", [False, True])
def test_a_reloaded_state_is_bit_identical(programmed: bool) -> None:
    chip = small_chip()
    if programmed:
        chip.program(seed=5, trial=2)
        chip(X)
    stored = io.BytesIO()
    torch.save(chip.state_dict(), stored)
    stored.seek(0)
    other = small_chip()
    other.program(seed=9)
    other.load_state_dict(torch.load(stored, weights_only=True))
    assert torch.equal(other(X), chip(X))
    assert torch.equal(other(X), chip(X))


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda chip: pickle.loads(pickle.dumps(chip))])
def test_a_copy_reads_the_same_bits_and_lives_its_own_life(copier) -> None:  # type: ignore[no-untyped-def]
    chip = small_chip().program(seed=5)
    chip(X)
    other = copier(chip)
    expected = chip(X)
    assert torch.equal(other(X), expected)
    other.program(seed=6)
    assert torch.equal(chip(X), other.program(seed=5)(X)) is False
    assert chip.layers["0"].trial == 0


def test_a_state_for_another_mapping_is_refused_before_anything_changes() -> None:
    chip = small_chip().program(seed=1)
    sliced = sim.compile(
        small_model(), RRAMCrossbar.preset("wan_nature_2022", mapping={"weight_bits": 8, "bits_per_cell": 2}), example_inputs=(X,)
    )
    with pytest.raises(ValueError, match=r"Layer `0`: the stored state must be of the same design"):
        sliced.load_state_dict(chip.state_dict())


def test_eval_reads_refuse_masters_that_changed() -> None:
    chip = small_chip().program(seed=0)
    chip.train()
    optimizer = torch.optim.SGD(chip.parameters(), lr=0.1)
    chip(X).sum().backward()
    optimizer.step()
    chip.eval()
    with pytest.raises(RuntimeError, match=r"^Layer `0`: the master weights changed after programming; call program\(\)[^\n]*$"):
        chip(X)
    chip.program(seed=0)(X)


@pytest.mark.parametrize("design", [RRAMCrossbar.preset("wan_nature_2022"), SRAMMacro.preset("demonstrator")], ids=["crossbar", "macro"])
def test_eval_reads_refuse_a_state_whose_masters_are_not_those_programmed(design: RRAMCrossbar | SRAMMacro) -> None:
    chip = sim.compile(small_model(), design, example_inputs=(X,), calibration=X).program(seed=0)
    state = chip.state_dict()
    expected = chip(X)
    other = sim.compile(small_model(), design, example_inputs=(X,))
    other.load_state_dict({name: value + 0.1 if name.endswith("master") else value for name, value in state.items()})
    with pytest.raises(RuntimeError, match=r"^Layer `0`: the master weights changed after programming; call program\(\)[^\n]*$"):
        other(X)
    assert not other.ranges_are_current
    other.load_state_dict(state)
    assert other.ranges_are_current and other(X).shape == expected.shape


def test_age_adds_up_bit_for_bit_and_returns_to_the_start_when_programmed() -> None:
    chip = drifting_chip().program(seed=0)
    fresh = chip(X)
    chip.age(1000.0).age(86_400.0)
    aged = chip(X)
    assert not torch.equal(aged, fresh)
    assert torch.equal(drifting_chip().program(seed=0).age(87_400.0)(X), aged)
    assert torch.equal(chip.program(seed=0)(X), fresh)


def test_age_is_part_of_the_state() -> None:
    chip = drifting_chip().program(seed=0).age(1e6)
    other = drifting_chip()
    other.load_state_dict(chip.state_dict())
    assert torch.equal(other(X), chip(X))


def test_a_chip_on_which_time_changes_nothing_says_so() -> None:
    chip = small_chip().program(seed=0)
    before = chip.layers["0"].cells.conductance.clone()
    with pytest.warns(UserWarning, match=r"^Time changes nothing on this chip \(RRAMCrossbar\): no source of its cells gives a drift$"):
        chip.age(1e8)
    assert torch.equal(chip.layers["0"].cells.conductance, before)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chip.age(0)
        drifting_chip().program(seed=0).age(1e8)


def test_drift_follows_its_law() -> None:
    chip = drifting_chip().program(seed=0).age(999.0)
    layer = chip.layers["4"]
    exponent = layer.cells.memory["exponent"][0]
    weight = layer.weight.detach()
    span = float(weight.abs().max())
    kept = 1000.0**-exponent
    expected = weight.clamp(min=0) / span * kept[0] - (-weight).clamp(min=0) / span * kept[1]
    layer(torch.zeros(1, 216))
    assert torch.allclose(layer._arrays.arrays.terms[0][0].weight, expected, atol=1e-6)


def test_inference_mode_reads_the_same_bits_and_leaves_a_chip_that_can_train() -> None:
    expected = small_chip()(X)
    chip = small_chip()
    with torch.inference_mode():
        assert torch.equal(chip(X), expected)
    chip(X.clone().requires_grad_()).sum().backward()
    chip.train()
    chip(X).sum().backward()
    assert chip.layers["0"].weight.grad is not None


def test_what_is_made_in_inference_mode_reads_the_same_bits_and_can_train() -> None:
    expected = small_chip()(X)
    with torch.inference_mode():
        model = small_model()
        inside = small_chip()
        assert torch.equal(inside(X), expected)
    outside = sim.compile(model, RRAMCrossbar.preset("wan_nature_2022"), example_inputs=(X,))
    for chip in (inside, outside):
        assert torch.equal(chip.program(seed=0, trial=0)(X), small_chip().program(seed=0, trial=0)(X))
        chip.train()
        chip(X).sum().backward()
        assert chip.layers["0"].weight.grad is not None


def test_autocast_is_refused_with_the_reason() -> None:
    chip = small_chip()
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.raises(RuntimeError, match=r"^A chip must be called outside of torch.autocast[^\n]*$"),
    ):
        chip(X)


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf"), "day", True])
def test_a_time_that_cannot_pass_is_refused(seconds: object) -> None:
    with pytest.raises(ValueError, match=r"^Argument `seconds` must be a finite number of at least 0, but got [^\n]*$"):
        small_chip().age(seconds)  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [-1, 1.5, "0", True])
def test_a_seed_that_is_not_a_whole_number_is_refused(seed: object) -> None:
    with pytest.raises(ValueError, match=r"^Argument `seed` must be an integer of at least 0, but got [^\n]*$"):
        small_chip().program(seed)  # type: ignore[arg-type]


def test_the_reference_is_the_float_model_with_the_masters() -> None:
    model, chip = small_model(), small_chip()
    with chip.reference():
        assert torch.allclose(chip(X), model(X), atol=1e-5)


def test_cost_adds_up_by_hand() -> None:
    design = RRAMCrossbar.preset("wan_nature_2022", read_voltage_volt=0.2, read_pulse_s="10 ns", adc={"columns_per_adc": 4})
    model = nn.Linear(300, 6, bias=False)
    x = torch.rand(7, 300, generator=torch.Generator().manual_seed(0))
    chip = sim.compile(model, design, example_inputs=x)
    table = chip.cost(x).set_index("term")
    # 2 arrays of 150 rows, 6 pairs of columns, 7 vectors.
    assert table.loc["ADC", "energy_j"] == pytest.approx(7 * 6 * 2 * 6.1035e-15 * 256)
    assert table.loc["ADC", "latency_s"] == pytest.approx(7 * 2 / 1.28e9)
    assert table.loc["ADC", "area_m2"] == pytest.approx(2 * 64 * 1200e-12)
    assert table.loc["cell read", "latency_s"] == pytest.approx(7 * 10e-9)
    assert table.loc["programming", "energy_j"] == pytest.approx(300 * 6 * 2 * 8.5 * 61e-12)
    assert table.loc["cell read", "operations"] == 2 * 7 * 300 * 6
    weight = model.weight.detach().double()
    conductance = 2e-6 + 39e-6 * weight.abs() / float(weight.abs().max())
    volts = 0.2 * x.double() / float(x.max())
    energy = float((volts**2 @ conductance.sum(0)).sum()) * 10e-9
    assert table.loc["cell read", "energy_j"] == pytest.approx(energy, rel=1e-5)
    assert table.loc["DAC"].isna()["energy_j"]
    assert "not given" in table.loc["DAC", "note"]
    total = sim.totals(chip.cost(x))["energy_j"]
    assert total.partial
    assert "DAC" in total.missing


def test_cost_of_a_grouped_convolution_drives_each_block_alone() -> None:
    design = RRAMCrossbar.preset("wan_nature_2022", read_voltage_volt=1.0, read_pulse_s=1.0)
    model = nn.Conv2d(2, 4, 2, groups=2, bias=False)
    x = torch.rand(3, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    table = sim.compile(model, design, example_inputs=(x,)).cost(x).set_index("term")
    assert table.loc["cell read", "latency_s"] == pytest.approx(3 * 16 * 2)
    assert table.loc["cell read", "operations"] == 2 * 3 * 16 * 4 * 4
    weight = model.weight.detach()
    conductance = 2e-6 + 39e-6 * weight.abs() / float(weight.abs().max())
    volts = (x / float(x.max())) ** 2
    expected = float(nn.functional.conv2d(volts, conductance, groups=2).sum())
    assert table.loc["cell read", "energy_j"] == pytest.approx(expected, rel=1e-4)


SCRIPT = """
import sys, hashlib
import torch
from kernels import set_threads
torch.set_num_threads(int(sys.argv[1])); set_threads(int(sys.argv[1]))
from tests.test_chip import drifting_chip, small_chip
big = torch.rand(300, 1, 8, 8, generator=torch.Generator().manual_seed(1))
digest = hashlib.sha256()
for chip in (small_chip(), drifting_chip()):
    chip.program(seed=1).age(5.0)
    for _ in range(2):
        digest.update(chip(big).detach().numpy().tobytes())
print(digest.hexdigest())
"""


@pytest.mark.long
def test_the_bits_are_the_same_on_one_and_two_threads() -> None:
    root = Path(__file__).parent.parent
    found = [
        subprocess.run([sys.executable, "-c", SCRIPT, str(threads)], cwd=root, capture_output=True, text=True, check=True).stdout
        for threads in (1, 2)
    ]
    assert found[0] == found[1] != ""


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_chip_on_the_gpu_draws_the_same_conductances() -> None:
    here, there = small_chip().program(seed=1), small_chip().to("cuda").program(seed=1)
    assert torch.equal(there.layers["4"].cells.conductance.cpu(), here.layers["4"].cells.conductance)
    assert torch.allclose(there(X.cuda()).cpu(), here(X), atol=0.1)
    moved = small_chip().program(seed=1).to("cuda")
    assert torch.equal(moved(X.cuda()), there.program(seed=1)(X.cuda()))


def test_many_short_times_add_up_to_the_bits_of_one() -> None:
    short = drifting_chip().program(seed=0)
    for _ in range(10):
        short.age(0.1)
    assert torch.equal(short(X), drifting_chip().program(seed=0).age(1.0)(X))


def test_a_state_of_another_design_is_refused() -> None:
    chip = small_chip().program(seed=0)
    other = sim.compile(small_model(), RRAMCrossbar.preset("milo_irps_2021"), example_inputs=(X,))
    with pytest.raises(ValueError, match=r"^Layer `0`: the stored state must be of the same design, [^\n]*$"):
        other.load_state_dict(chip.state_dict())


def test_the_gradient_of_a_gradient_is_refused_rather_than_wrong() -> None:
    chip = small_chip().train()
    x = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(chip(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError):
        gradient.square().sum().backward()
