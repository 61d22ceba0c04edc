"""Configurations of aihwkit and CrossSim become designs with the same laws, and a list of what does not."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import simulator as sim
from devices import RRAMCrossbar
from kernels import Key
from simulator.cli import main
from simulator.importing.reading import read_configuration

PRINTED = """InferenceRPUConfig(
    forward=IOParameters(
        inp_res=0.003937007874015748,
        out_bound=10.0,
        out_noise=0.04,
        out_res=0.003937007874015748,
        bound_management=BoundManagementType.NONE,
        noise_management=NoiseManagementType.NONE,
        w_noise=0.0175,
        w_noise_type=WeightNoiseType.ADDITIVE_CONSTANT
    ),
    backward=IOParameters(is_perfect=True),
    noise_model=PCMLikeNoiseModel(g_converter=SinglePairConductanceConverter(g_max=20.00, g_min=0.00), g_max=20.0, \
prog_coeff_g_max_reference=25.0, prog_coeff=[0.26348, 1.965, -1.1731], t_0=20.0, t_read=2.5e-07, prog_noise_scale=1.5, \
read_noise_scale=0.0, drift_scale=0.5),
    drift_compensation=<aihwkit.inference.compensation.drift.GlobalDriftCompensation object at 0x7f3c5a1b2c40>,
    modifier=WeightModifierParameter(std_dev=0.06, type=WeightModifierType.ADD_NORMAL),
    mapping=MappingParameter(weight_scaling_omega=1.0, weight_scaling_columnwise=True, max_input_size=256, max_output_size=128),
    tile_class=<class 'aihwkit.simulator.tiles.inference.InferenceTile'>
)"""

SCRIPT = '''from aihwkit.simulator.configs import InferenceRPUConfig
from aihwkit.inference import ReRamWan2022NoiseModel


def gen_rpu_config(noise=0.0):
    """Return the configuration."""
    rpu_config = InferenceRPUConfig()
    rpu_config.mapping.max_input_size = 256
    rpu_config.mapping.max_output_size = 256
    rpu_config.noise_model = ReRamWan2022NoiseModel(g_max=40.0, noise_scale=2.0)
    rpu_config.forward.inp_res = 1 / (2**8 - 2)
    rpu_config.forward.out_res = -1
    rpu_config.forward.ir_drop = 1.0
    rpu_config.forward.ir_drop_g_ratio = 1.0 / 0.5 / 40e-6
    print("made")
    return rpu_config
'''


def crosssim(**changes: Any) -> dict[str, Any]:
    """Parameters as CrossSim writes them; changes by dotted path."""
    off = {"enable": False, "model": "IdealDevice", "magnitude": 0}
    converter = {"bits": 0, "signed": True}
    adc = {
        "model": "IdealADC",
        **converter,
        "stochastic_rounding": False,
        "adc_per_ibit": False,
        "calibrated_range": [],
        "adc_range_option": 1,
    }
    dac = {"model": "IdealDAC", **converter, "input_bitslicing": False, "slice_size": 1}
    limits = {"clipping": False, "min": -1.5, "max": 1.5, "percentile": None}
    found: dict[str, Any] = {
        "core": {
            "style": 1, "rows_max": 128, "cols_max": 64, "weight_bits": 0, "complex_matrix": False,
            "balanced": {"style": 2, "interleaved_posneg": False, "subtract_current_in_xbar": True},
            "bit_sliced": {"style": 1, "num_slices": 2}, "offset": {"style": 1},
            "mapping": {
                "weights": {"clipping": True, "min": None, "max": None, "percentile": 0.999, "row_partition_strategy": 2},
                "inputs": {"_match": True, "mvm": dict(limits), "vmm": dict(limits)},
            },
        },
        "simulation": {"useGPU": False, "Niters_max_parasitics": 100, "relaxation_gamma": 0.9},
        "xbar": {
            "device": {
                "cell_bits": 0, "Rmin": 25e3, "Rmax": 1e6, "Vread": 0.2, "time": 0, "infinite_on_off_ratio": False,
                "read_noise": dict(off), "programming_error": dict(off), "drift_error": dict(off),
            },
            "array": {"Icol_max": 0, "parasitics": {"enable": False, "Rp_row": 1.0, "Rp_col": 1.0, "gate_input": False}},
            "adc": {"_match": True, "mvm": dict(adc), "vmm": dict(adc)},
            "dac": {"_match": True, "mvm": dict(dac), "vmm": dict(dac)},
        },
    }  # fmt: skip
    for path, value in changes.items():
        *above, last = path.split("__")
        holder = found
        for part in above:
            holder = holder[part]
        holder[last] = value
    return found


def imported(tmp_path: Path, content: str | dict[str, Any], name: str = "config.json") -> Any:
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return sim.import_design(path)


def outcome(found: Any, field: str) -> str:
    (row,) = found.frame[found.frame["field"] == field].to_dict(orient="records")
    return str(row["outcome"])


class TestAihwkit:
    def test_a_printed_configuration(self, tmp_path: Path) -> None:
        found = imported(tmp_path, PRINTED, "rpu_config.txt")
        design = found.design
        assert (design.rows, design.columns, design.mapping.scaling) == (256, 256, "column")
        assert (design.dac.bits, design.dac.range_policy, design.dac.fixed_range) == (8, "fixed", 1.0)
        assert (design.adc.bits, design.adc.range_policy, design.adc.fixed_range) == (8, "fixed", 10.0)
        assert outcome(found, "forward.out_noise") == "no counterpart"
        assert outcome(found, "drift_compensation") == outcome(found, "modifier.std_dev") == "elsewhere"
        assert outcome(found, "forward.inp_res") == "taken"

    def test_its_cell_has_the_laws_of_the_noise_model(self, tmp_path: Path) -> None:
        cell = imported(tmp_path, PRINTED, "rpu_config.txt").design.cell
        assert (cell.g_min_siemens, cell.g_max_siemens) == (0.0, 20e-6)
        target = torch.full((200_000,), 12e-6)
        cells = cell.program(target, Key.of(seed=0))
        relative = 12 / 20
        sigma = 1.5 * 20 / 25 * (0.26348 + 1.965 * relative - 1.1731 * relative**2)
        assert float(cells.conductance.std()) * 1e6 == pytest.approx(sigma, rel=0.01)
        # Drift at half its scale, without 1/f noise: the mean exponent is half of the law's.
        exponent = torch.log(cell.drift(cells, 1e6, Key.of(seed=1)) / cells.conductance) / -math.log((1e6 + 20) / 20)
        assert float(exponent.mean()) == pytest.approx(0.5 * max(0.049, -0.0155 * math.log(relative) + 0.0244), rel=0.02)
        # A weight of the largest magnitude 1 scatters by w_noise: two cells, in units of the range.
        read = cell.read_sigma(target[:1], 0.0)
        assert float(read) * math.sqrt(2) / 20e-6 == pytest.approx(0.0175, rel=1e-5)

    def test_python_that_assigns_fields(self, tmp_path: Path) -> None:
        found = imported(tmp_path, SCRIPT, "config.py")
        design = found.design
        assert (design.dac.bits, design.dac.range_policy, design.adc) == (8, "per_batch", None)
        assert design.wires.column_ohm == pytest.approx(0.5)
        cells = design.cell.program(torch.full((200_000,), 20e-6), Key.of(seed=0)).conductance
        # Published figure at half the range, in microsiemens, at twice the noise.
        half = 2 * sum(c * 0.5**i for i, c in enumerate([0.348, 16.030, -43.853, 45.393, -16.815]))
        assert float(cells.std()) * 1e6 == pytest.approx(half, rel=0.01)
        assert outcome(found, "print('made')") == "no counterpart"
        assert outcome(found, "forward.noise_management") == "approximated"

    def test_json_by_field_names_is_the_same_as_python(self, tmp_path: Path) -> None:
        content = {
            "forward": {"inp_res": 1 / (2**8 - 2), "out_res": -1, "ir_drop": 1.0, "ir_drop_g_ratio": 1 / 0.5 / 40e-6},
            "noise_model": "ReRamWan2022NoiseModel(g_max=40.0, noise_scale=2.0)",
            "mapping": {"max_input_size": 256, "max_output_size": 256},
        }
        assert imported(tmp_path, content).design == imported(tmp_path, SCRIPT, "config.py").design

    def test_a_perfect_forward_pass_leaves_programming_alone(self, tmp_path: Path) -> None:
        noise = "ReRamCMONoiseModel(g_max=88.19, g_min=9.0, acceptance_range=2)"
        text = f"InferenceRPUConfig(forward=IOParameters(is_perfect=True), noise_model={noise})"
        design = imported(tmp_path, text, "config.txt").design
        assert design.dac is design.adc is design.wires is None
        assert type(design.mapping).__name__ == "OffsetMapping"
        cells = design.cell.program(torch.full((100_000,), 50e-6), Key.of(seed=0)).conductance
        assert float(cells.std()) * 1e6 == pytest.approx(0.01121854 + 0.01129027 * 50, rel=0.01)

    def test_an_unknown_noise_model_is_listed(self, tmp_path: Path) -> None:
        found = imported(tmp_path, "InferenceRPUConfig(noise_model=FusionImportNoiseModel(file_name='chip.csv'))", "config.txt")
        assert outcome(found, "noise_model") == "no counterpart"
        assert type(found.design.cell).__name__ == "IdealCell"


class TestCrossSim:
    def test_balanced_cells_with_generic_errors(self, tmp_path: Path) -> None:
        error = {"enable": True, "model": "NormalIndependentDevice", "magnitude": 0.02}
        noise = {"enable": True, "model": "NormalProportionalDevice", "magnitude": 0.03}
        found = imported(tmp_path, crosssim(xbar__device__programming_error=error, xbar__device__read_noise=noise))
        design = found.design
        assert (design.rows, design.columns) == (128, 128)
        assert (design.mapping.sides, design.mapping.clip_percentile, design.mapping.weight_bits) == ("two", pytest.approx(99.9), None)
        assert design.dac is design.adc is design.wires is None
        assert design.read_voltage_volt == 0.2
        cells = design.cell.program(torch.full((200_000,), 20e-6), Key.of(seed=0)).conductance
        assert float(cells.std()) == pytest.approx(0.02 * 40e-6, rel=0.01)
        assert float(design.cell.read_sigma(torch.tensor(2e-5), 0.0)) == pytest.approx(0.03 * 2e-5)
        assert outcome(found, "simulation.relaxation_gamma") == "elsewhere"

    def test_bit_slices_converters_and_wires(self, tmp_path: Path) -> None:
        converter = {"model": "SarADC", "bits": 6, "signed": True, "adc_per_ibit": True, "adc_range_option": 2, "sigma_capacitor": 0.01,
                     "sigma_comparator": 0.001, "split_cdac": True, "group_size": 8}  # fmt: skip
        found = imported(
            tmp_path,
            crosssim(
                core__style=2, core__weight_bits=7, core__bit_sliced={"style": 1, "num_slices": 3}, xbar__device__cell_bits=2,
                xbar__adc__mvm=converter, xbar__array__parasitics={"enable": True, "Rp_row": 1.5, "Rp_col": 0.5},
                xbar__dac__mvm={"model": "SignMagnitudeDAC", "bits": 8, "signed": True, "input_bitslicing": True, "slice_size": 1},
            ),
        )  # fmt: skip
        design = found.design
        assert (design.mapping.weight_bits, design.mapping.slices, design.columns) == (7, 3, 64 * 6)
        assert (design.dac.slices, design.dac.fixed_range) == (7, 1.5)
        assert (design.adc.bits, design.adc.columns_per_adc, design.adc.architecture.unit_sigma) == (6, 8, 0.01)
        assert design.adc.architecture.offset_sigma_lsb == pytest.approx(0.001 * 32)
        assert (design.wires.row_ohm, design.wires.column_ohm) == (1.5, 0.5)
        assert outcome(found, "xbar.adc.mvm.split_cdac") == "no counterpart"

    def test_an_offset_with_its_column(self, tmp_path: Path) -> None:
        mapping = imported(tmp_path, crosssim(core__style=3, core__offset={"style": 2}, core__weight_bits=8)).design.mapping
        assert (type(mapping).__name__, mapping.reference, mapping.weight_bits) == ("OffsetMapping", "converted", 8)

    def test_the_cell_of_a_paper_and_what_it_lacks(self, tmp_path: Path) -> None:
        law = {"enable": True, "model": "SONOS", "magnitude": 0}
        found = imported(tmp_path, crosssim(xbar__device__programming_error=law, xbar__device__drift_error=law, xbar__device__Rmin=62.5e3,
                                            xbar__device__infinite_on_off_ratio=True))  # fmt: skip
        sonos = RRAMCrossbar.preset("sonos_iedm_2022").cell
        at = torch.tensor([1e-6, 8e-6])
        assert torch.equal(found.design.cell.cycle_spread.sigma(at), sonos.cycle_spread.sigma(at))
        assert outcome(found, "xbar.device.drift_error.model") == "no counterpart"


def test_the_published_currents_of_a_cell_come_with_it(tmp_path: Path) -> None:
    law = {"enable": True, "model": "RRAMMilo", "magnitude": 0}
    content = crosssim(xbar__device__nonlinear_IV=law, xbar__device__Rmin=1 / 225e-6, xbar__device__Rmax=1 / 50e-6)
    found = imported(tmp_path, content)
    shipped = RRAMCrossbar.preset("milo_irps_2021_nonlinear").current_voltage
    assert found.design.current_voltage == shipped.replace(full_scale_volt=0.2)
    assert outcome(found, "xbar.device.nonlinear_IV.model") == "taken"


def test_the_preset_is_read_back_and_compiles(tmp_path: Path) -> None:
    found = imported(tmp_path, PRINTED, "rpu_config.txt")
    preset = tmp_path / "mine.toml"
    preset.write_text(found.to_toml())
    design = RRAMCrossbar.preset(preset)
    assert design == found.design
    x = torch.rand(4, 8, generator=torch.Generator().manual_seed(0))
    assert sim.compile(torch.nn.Linear(8, 3), design, example_inputs=x)(x).shape == (4, 3)


def test_the_command_writes_the_preset_and_prints_the_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rpu_config.txt").write_text(PRINTED)
    command = ["import", str(tmp_path / "rpu_config.txt"), "--out", str(tmp_path / "a.toml"), "--json"]
    assert main(command) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["simulator"] == "aihwkit"
    (row,) = [row for row in printed["fields"] if row["field"] == "forward.out_noise"]
    assert (row["value"], row["outcome"]) == ("0.04", "no counterpart")
    assert RRAMCrossbar.preset(tmp_path / "a.toml") == RRAMCrossbar.from_dict(printed["design"])
    assert main(command) == 2
    assert "exists; choose another name" in capsys.readouterr().err
    assert main(command[:2]) == 0
    assert "no counterpart" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.yaml", "", "must end in .json, .txt or .py"),
        ("config.json", "{", "must be JSON that can be read"),
        ("config.json", "[1]", "must be a JSON object, but is a list"),
        ("config.json", '{"a": 1}', "must be one of aihwkit .* or CrossSim .* but has a"),
        ("config.py", "x = 1", "must assign a ...RPUConfig"),
        ("config.py", "r = InferenceRPUConfig()\nr.forward.inp_res = __import__('os').system('true')", "values must be numbers"),
        ("config.py", "r = InferenceRPUConfig()\nr.forward.inp_res = [n for n in range(3)]", "line 2: values must be numbers"),
        ("config.py", "r = InferenceRPUConfig()\nr.forward.inp_res = 9**9**9", "values must be numbers"),
        (
            "config.txt",
            "InferenceRPUConfig(forward=IOParameters(inp_res='fine'))",
            "field `forward.inp_res` must be a number, but is 'fine'",
        ),
        ("config.txt", "InferenceRPUConfig(noise_model=PCMLikeNoiseModel(g_max=-1.0))", "must be a possible crossbar"),
    ],
)
def test_what_is_no_configuration_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        imported(tmp_path, content, name)
    assert "\n" not in str(error.value)


def test_nothing_is_executed(tmp_path: Path) -> None:
    path = tmp_path / "config.py"
    path.write_text(f"open({str(tmp_path / 'made')!r}, 'w').close()\nr = InferenceRPUConfig()\nr.forward.inp_bound = 2.0\n")
    assert read_configuration(path).record.fields["forward"].fields == {"inp_bound": 2.0}
    assert not (tmp_path / "made").exists()
