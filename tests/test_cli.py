"""The command line: quick help, lists, JSON alone where it is asked for, one line where something is wrong."""

import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from simulator import cli
from simulator.cli import main

ROOT = Path(__file__).parents[1]


def test_help_waits_for_nothing_heavy() -> None:
    heavy = "{'torch', 'numba', 'pandas'} & set(sys.modules)"
    code = f"import sys; from simulator.cli import main; main(['--help']); main(['run', '--help']); print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")
    assert all(word in done.stdout for word in ("run", "presets", "bench", "Example: inloop run quickstart", "--workers", "--fresh"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["runn"], "No such command 'runn'"),
        (["run"], "Missing argument 'STUDY'"),
        (["run", "quickstart", "--worker", "2"], "No such option"),
        (["run", "quickstart", "--workers", "0"], "'--workers'"),
        (["run", "quickstart", "--workers", "two"], "'--workers'"),
        (["presets", "wan_natur"], "did you mean `wan_nature_2022`?"),
        (["presets", "no/such.toml"], "must be a file that exists"),
        (["bench", "no such benchmark"], "benchmark 'no such benchmark' must be one that is installed"),
    ],
)
def test_wrong_commands_are_refused_in_one_line(arguments: list[str], said: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    out, errors = capfd.readouterr()
    assert out == "" and errors.startswith("inloop: ") and errors.count("\n") == 1
    assert said in errors


def test_presets_are_listed_with_their_sources(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    table = capfd.readouterr().out
    assert all(word in table for word in ("wan_nature_2022", "milo_irps_2021", "RRAMCrossbar", "wan2022compute"))
    assert main(["presets", "--json"]) == 0
    rows = json.loads(capfd.readouterr().out)
    assert {"wan_nature_2022", "milo_irps_2021"} <= {row["preset"] for row in rows}


def test_a_preset_shows_every_field_with_value_unit_and_source(capfd: pytest.CaptureFixture[str]) -> None:
    from devices import RRAMCrossbar

    assert main(["presets", "wan_nature_2022", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    fields = {row["field"]: row for row in found["fields"]}
    assert fields["cell.g_max_siemens"]["value"] == "40 uS"
    assert fields["cell.g_max_siemens"]["unit"] == "siemens"
    assert fields["cell.g_max_siemens"]["source"].startswith("wan2022compute")
    assert fields["read_voltage_volt"]["value"] == "none" and fields["read_voltage_volt"]["source"] == "not given"
    assert {name.split(".")[0] for name in fields} == set(RRAMCrossbar.model_fields)
    assert main(["presets", "wan_nature_2022"]) == 0
    printed = capfd.readouterr().out
    assert "1.28 GHz" in printed and "shafiee2016isaac" in printed


def benchmark_of_a_test() -> None:
    print(json.dumps(sys.argv))


def test_benchmarks_are_found_by_their_entry_points(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    entries = [EntryPoint("speed/mine", f"{__name__}:benchmark_of_a_test", "inloop.benchmarks")]
    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: entries if group == "inloop.benchmarks" else [])
    monkeypatch.setattr(sys, "argv", ["inloop"])
    assert main(["bench"]) == 0
    assert "speed/mine" in capfd.readouterr().out
    assert main(["bench", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)[0]["benchmark"] == "speed/mine"
    assert main(["bench", "speed/mine", "--size", "4"]) == 0
    assert json.loads(capfd.readouterr().out) == ["inloop bench speed/mine", "--size", "4"]
    assert main(["bench", "speed/mien"]) == 2
    assert "did you mean 'speed/mine'?" in capfd.readouterr().err


def test_a_fault_is_one_line_and_its_traceback_an_option(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise KeyError("something\nunforeseen")

    monkeypatch.setattr(cli, "application", fail)
    assert main(["run", "quickstart"]) == 1
    errors = capfd.readouterr().err
    assert errors == "inloop: KeyError: 'something\\nunforeseen'; run again with --debug for the traceback\n"
    assert main(["run", "quickstart", "--debug"]) == 1
    assert "Traceback" in capfd.readouterr().err


def test_ctrl_c_before_anything_is_computed_is_one_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def interrupt(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "application", interrupt)
    assert main(["run", "quickstart"]) == 130
    assert capfd.readouterr().err == "inloop: stopped\n"


def test_the_process_exits_with_the_code() -> None:
    with pytest.raises(SystemExit) as exit_:
        cli.app(["bench", "no such benchmark"])
    assert exit_.value.code == 2


def test_a_reader_that_leaves_early_sees_no_error() -> None:
    command = f"{sys.executable} -m simulator.cli presets wan_nature_2022 --json | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1) and done.stderr == ""


def test_the_import_names_of_others_are_told(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("simulator._names.other_owners", lambda: {"kernels": ["other"]})
    assert main(["run", "no-such-study"]) == 2
    warning, error = capfd.readouterr().err.splitlines()
    assert warning.startswith("inloop: warning: the import name `kernels` is also that of other")
    assert "must be a TOML file" in error
