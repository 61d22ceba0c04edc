"""Studies: what a file says, what a run keeps, and that no interruption changes a bit of it."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from simulator.cli import main
from simulator.results import JOURNAL, opened
from simulator.study import Study, StudyError
from simulator.study_files import load_study, packaged_studies

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def one_format(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw each figure once: how they look in three formats is tested with the report."""
    monkeypatch.setattr("simulator.report.FORMATS", ("svg",))


TINY = """
trials = 2
[model]
name = "digits_mlp"
arguments = { hidden = 8 }
[data]
name = "digits"
[training]
epochs = 1
[design]
preset = "wan_nature_2022"
"""

OWN_CODE = '''
import torch
from devices import ProgrammedCells, ResistiveCell
from kernels.random import Key, normal


class UniformCell(ResistiveCell):
    """Every cell misses its target by the same standard deviation."""

    sigma_siemens: float

    def program(self, target, key):
        return ProgrammedCells((target + self.sigma_siemens * normal(key, tuple(target.shape))).clamp(min=0))

    def read_sigma(self, conductance, seconds):
        return None

    def drift(self, programmed, seconds, key):
        return programmed.conductance


def data():
    inputs = torch.linspace(-1, 1, 64)[:, None] * torch.tensor([1.0, -0.5, 0.25])
    targets = (inputs[:, 0] > 0).long()
    return (inputs, targets), (inputs, targets)


def model(width=4):
    return torch.nn.Sequential(torch.nn.Linear(3, width), torch.nn.ReLU(), torch.nn.Linear(width, 2))


def share_of_ones(outputs, targets):
    return float((outputs.argmax(1) == 1).double().mean())
'''


def write(folder: Path, text: str, name: str = "study.toml") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return str(folder / name)


def run(study: str, out: Path, *options: str) -> int:
    return main(["run", study, "--out", str(out), *options])


def rows(out: Path) -> int:
    journal = out / JOURNAL
    return len(journal.read_bytes().splitlines()) if journal.exists() else 0


def start(study: str, out: Path, *options: str) -> "subprocess.Popen[str]":
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "simulator.cli", "run", study, "--out", str(out), *options]

    def listen() -> None:
        # A job in the background of a script ignores Ctrl-C, and all that it starts does, too.
        signal.signal(signal.SIGINT, signal.default_int_handler)

    return subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=listen,  # noqa: PLW1509
    )


def group(leader: int) -> set[int]:
    """Living processes of a process group, zombies left out."""
    listed = subprocess.run(["ps", "-e", "-o", "pid=,pgid=,stat="], capture_output=True, text=True, check=True).stdout
    lines = [line.split() for line in listed.splitlines()]
    return {int(pid) for pid, pgid, state in lines if int(pgid) == leader and not state.startswith("Z")}


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, f"it ended too early: {process.communicate()}"
        assert time.monotonic() < end
        time.sleep(0.01)


# what a file says


def test_short_forms_dotted_keys_and_units_are_read(tmp_path: Path) -> None:
    text = """
    model = "digits_mlp"
    data = "digits"
    metrics = ["accuracy", "f1"]
    seconds = "2 min"
    [design]
    preset = "wan_nature_2022"
    cell.g_max_siemens = "38 uS"
    [vary]
    design.adc.bits = [4, 6]
    "design.cell.g_max_siemens" = ["30 uS", 35e-6]
    seconds = [0, "1 h"]
    "design.dac" = ["none"]
    """
    study, folder = load_study(write(tmp_path, text, "named.toml"))
    assert (study.name, folder, study.seconds, study.metrics.names) == ("named", tmp_path, 120.0, ["accuracy", "f1"])
    points = study.points()
    assert [(point.varied, point.value) for point in points] == [
        ("", None), ("design.adc.bits", 4), ("design.adc.bits", 6), ("design.cell.g_max_siemens", 3e-5),
        ("design.cell.g_max_siemens", 3.5e-5), ("seconds", 0.0), ("seconds", 3600.0), ("design.dac", None),
    ]  # fmt: skip
    assert points[0].design.cell.g_max_siemens == 38e-6  # type: ignore[attr-defined]
    assert points[-1].design == points[0].design.replace(dac=None)


def test_the_resolved_study_is_the_same_study(tmp_path: Path) -> None:
    study, _ = load_study(write(tmp_path, TINY + '[vary]\n"design.adc.bits" = [4]\n[metrics]\nspec = 0.5\n'))
    again, _ = load_study(write(tmp_path / "again", study.resolved()))
    assert again.points() == study.points()
    assert again.model_dump(exclude={"design"}) == study.model_dump(exclude={"design"})
    assert again.resolved() == study.resolved()
    assert again.design["cell"]["g_max_siemens"] == 40e-6


@pytest.mark.parametrize("name", packaged_studies())
def test_packaged_studies_are_valid(name: str) -> None:
    assert load_study(name)[0].points()


BAD = [
    ("trials = ", r"must be TOML.*line 1, column 10"),
    ("trials = 2\n[model\n", r"must be TOML.*line 2, column 7"),
    (TINY.replace("trials", "trails"), r"`trails` must be a field of Study, but is unknown; did you mean `trials`\?"),
    (TINY.replace("epochs", "epoch"), r"`training.epoch` must be a field of TrainingPlan, but is unknown; did you mean `epochs`\?"),
    (TINY.replace("trials = 2", "trials = 0"), r"`trials` must be at least 1, but got 0"),
    (TINY.replace("trials = 2", "trials = 2.5"), r"`trials` must be a whole number, but got 2.5"),
    (TINY.replace("trials = 2", 'trials = "2"'), r"`trials` must be a whole number, but got '2'"),
    (TINY.replace("trials = 2", "trials = true"), r"`trials` must be a whole number, but got True"),
    (TINY.replace("trials = 2", 'name = "a/b"'), r"`name` must be made of letters"),
    (TINY.replace("trials = 2", 'seconds = "3 volt"'), r"`seconds` must be a quantity in second"),
    (TINY.replace("wan_nature_2022", "wan_natur"), r"preset `wan_natur` must be one that exists.*did you mean `wan_nature_2022`\?"),
    (TINY.replace("preset", "presett"), r"`design` must have `preset"),
    (TINY + "adc.bitz = 4", r"RRAMCrossbar: `adc.bitz` must be a field of ADC.*did you mean `bits`\?"),
    (TINY + "adc.bits = 99", r"`adc.bits` must be at least 2 and at most 16, but got 99"),
    (TINY + 'cell.g_min_siemens = "50 uS"', r"`cell.g_min_siemens` must be below `cell.g_max_siemens`"),
    (TINY + "cell.read_noise_fraction = -0.1", r"`cell.read_noise_fraction` must be at least 0.*got -0.1"),
    (TINY + 'cell.type = "nowhere:Cell"', r"`cell.type` must name a module that can be imported"),
    (TINY + "[vary]\n'design.adc.bits' = []", r"`vary` must give each field at least one value"),
    (TINY + "[vary]\n'design.adc.bits' = [4, 4]", r"`vary` must give a field different values"),
    (
        TINY + "[vary]\n'adc.bits' = [4]",
        r"`vary` must name fields of the design.*but got 'adc.bits'; write \"design.adc.bits\"",
    ),
    (TINY + "[vary]\n'design.adc.bitz' = [4]", r"`adc.bitz` must be a field of ADC"),
    (TINY + "[vary]\nseconds = [-1]", r"`vary.seconds` must hold times of at least 0, but got -1"),
    (TINY + "[metrics]\nnames = ['acuracy']", r"did you mean 'accuracy'"),
    (TINY + "[metrics]\nnames = ['pearson']", r"`metrics` must fit outputs and targets"),
    (TINY.replace("epochs = 1", "epochs = 1\nloss = 'cross_entrop'"), r"`training.loss` must be one of.*did you mean 'cross_entropy'\?"),
    (TINY.replace("epochs = 1", "epochs = 1\nloss = 'mse_loss'"), r"`training.loss` 'mse_loss' must fit outputs and targets"),
    (TINY.replace("digits_mlp", "digits_mpl"), r"did you mean 'digits_mlp'\?"),
    (TINY.replace("hidden", "hiden"), r"must have the arguments of 'digits_mlp'"),
    (TINY.replace('"digits"', '"digit"'), r"did you mean 'digits'\?"),
    (TINY.replace('"digits"', '"hf:no/such"'), r"'hf:no/such'"),
    (TINY.replace('"digits"', '"nothing_here"'), r"there is no '.*nothing_here'"),
    (TINY.replace('"digits"', '"own_bad:empty"'), r"at least one of each"),
    (TINY.replace('"digits"', '"own_bad:empty_loader"'), r"must hold at least one batch"),
    (TINY.replace('"digits"', '"own_bad:wide"'), r"`model` must take the data's batches \(float32 \(4, 7\)\)"),
    (TINY.replace('"digits_mlp"\narguments = { hidden = 8 }', '"own_bad:nan"'), r"parameter `1.weight` must be finite"),
    (
        TINY.replace('"digits_mlp"\narguments = { hidden = 8 }', '"own_bad:nothing_to_map"'),
        r"must have at least one layer",
    ),
]
OWN_BAD = """
import torch
def empty():
    return (torch.zeros(0, 3), torch.zeros(0)), (torch.zeros(0, 3), torch.zeros(0))
def empty_loader():
    return [], []
def wide():
    part = torch.zeros(4, 7), torch.zeros(4).long()
    return part, part
def nan():
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    net[1].weight.data[0, 0] = float("nan")
    return net
def nothing_to_map():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LayerNorm(64))
"""


@pytest.mark.parametrize(("text", "said"), BAD, ids=range(len(BAD)))
def test_bad_studies_are_refused_in_one_line(text: str, said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, OWN_BAD, "own_bad.py")
    sys.modules.pop("own_bad", None)
    code = run(write(tmp_path, text), tmp_path / "out")
    out, errors = capfd.readouterr()
    assert (code, out) == (2, "")
    assert errors.startswith("inloop: ") and errors.count("\n") == 1
    assert re.search(said, errors), errors
    assert not (tmp_path / "out").exists()


def test_folders_that_cannot_be_used_are_refused_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    study = write(tmp_path, TINY)
    write(tmp_path / "taken", "mine", "notes.txt")
    write(tmp_path / "mine", TINY)  # a study of the user's own is no result either
    cases = [
        (tmp_path / "taken", "must be empty or hold results of a study, but holds notes.txt"),
        (tmp_path / "mine", "must be empty or hold results of a study, but holds study.toml"),
        (tmp_path / "study.toml", "must be a folder, but is a file"),
        (tmp_path / "study.toml" / "inside", "must be one that can be written, but: Not a directory"),
        (Path("/proc/nothing/here"), "must be one that can be written"),
    ]
    for out, said in cases:
        assert run(study, out) == 2
        printed = capfd.readouterr()
        assert said in printed.err and printed.err.count("\n") == 1 and printed.out == "", printed.err
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["notes.txt"]
    assert (tmp_path / "mine" / "study.toml").read_text() == TINY


def test_a_study_that_is_not_there_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, said in (("quickstrat", "did you mean 'quickstart'?"), (str(tmp_path), "it is a folder"), ("no.toml", "no such file")):
        assert run(name, tmp_path / "out") == 2
        errors = capfd.readouterr().err
        assert said in errors and errors.count("\n") == 1


# what a run keeps


def test_a_second_run_computes_nothing_and_an_extended_one_only_what_is_new(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"

    def computed(text: str) -> tuple[int, int]:
        assert run(write(tmp_path, text), out, "--json") == 0
        found = json.loads(capfd.readouterr().out)
        return found["computed_trials"], found["reused_trials"]

    varied = TINY + '[vary]\n"design.adc.bits" = [4, 8]\n'  # 8 is the base's: measured once
    assert computed(varied) == (4, 0)
    first = (out / "trials.csv").read_bytes()
    assert computed(varied) == (0, 4)
    assert (out / "trials.csv").read_bytes() == first
    assert computed(varied.replace("trials = 2", "trials = 3")) == (2, 4)
    assert computed(varied.replace("trials = 2", "trials = 3").replace("[4, 8]", "[4, 5, 8]")) == (3, 6)
    assert computed(varied) == (0, 4)
    assert (out / "trials.csv").read_bytes() == first
    assert computed(varied.replace("trials = 2", "trials = 2\nseed = 1")) == (4, 0)
    assert computed(varied.replace("epochs = 1", "epochs = 2")) == (4, 0)
    assert computed(varied) == (0, 4)
    assert run(write(tmp_path, varied), out, "--fresh", "--json") == 0
    assert json.loads(capfd.readouterr().out)["computed_trials"] == 4
    assert (out / "trials.csv").read_bytes() == first


def test_a_users_own_parts_work_and_an_edit_makes_rows_stale(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, OWN_CODE, "own_parts.py")
    text = """
    trials = 3
    [model]
    name = "own_parts:model"
    arguments = { width = 6 }
    [data]
    name = "own_parts:data"
    [training]
    epochs = 3
    [design]
    type = "devices:RRAMCrossbar"
    cell = { type = "own_parts:UniformCell", g_min_siemens = "1 uS", g_max_siemens = "40 uS", sigma_siemens = "2 uS" }
    [metrics]
    names = ["accuracy", "own_parts:share_of_ones"]
    [vary]
    "design.cell.sigma_siemens" = ["0 uS", "8 uS"]
    """
    out = tmp_path / "out"
    assert run(write(tmp_path, text), out, "--json") == 0
    found = json.loads(capfd.readouterr().out)
    exact = found["varied"]["design.cell.sigma_siemens"][0]["plain"]
    assert exact["accuracy"]["mean"] == exact["accuracy"]["float"] and exact["share_of_ones"]["chip_std"] == 0
    frame = pd.read_csv(out / "trials.csv")
    assert list(frame) == ["arm", "varied", "design.cell.sigma_siemens", "trial", "seed", "accuracy", "share_of_ones"]
    assert frame["design.cell.sigma_siemens"].tolist() == [2e-6] * 3 + [0.0] * 3 + [8e-6] * 3
    assert "is no preset" in (out / "sources.bib").read_text()
    write(tmp_path, OWN_CODE + "\n# edited\n", "own_parts.py")
    assert run(write(tmp_path, text), out, "--json") == 0
    assert json.loads(capfd.readouterr().out)["computed_trials"] == found["computed_trials"] == 9


def test_a_torn_line_of_the_journal_is_computed_again(tmp_path: Path) -> None:
    out, study = tmp_path / "out", write(tmp_path, TINY)
    assert run(study, out) == 0
    whole = (out / "trials.csv").read_bytes()
    journal = out / JOURNAL
    journal.write_bytes(journal.read_bytes()[:-9])
    assert run(study, out) == 0
    assert (out / "trials.csv").read_bytes() == whole
    lines = journal.read_bytes().splitlines()
    assert len(lines) == 3 and json.loads(lines[2])["trial"] == 1


def test_a_damaged_checkpoint_is_refused_with_a_remedy(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out, study = tmp_path / "out", write(tmp_path, TINY)
    assert run(study, out) == 0
    capfd.readouterr()
    [weights] = (out / "checkpoints").iterdir()
    weights.write_bytes(weights.read_bytes()[:100])
    assert run(study, out) == 2
    errors = capfd.readouterr().err
    assert "delete it to train again" in errors and errors.count("\n") == 1
    assert rows(out) == 2


def test_one_run_at_a_time_and_a_dead_runs_lock_does_not_count(tmp_path: Path) -> None:
    with opened(tmp_path / "out") as folder:
        folder.write("study.toml", load_study(write(tmp_path, TINY))[0].resolved())
        with pytest.raises(StudyError, match=rf"one run at a time, but process {os.getpid()} is writing"), opened(tmp_path / "out"):
            pass
    (tmp_path / "out" / ".lock").write_text("1")
    with opened(tmp_path / "out"):
        pass
    assert not (tmp_path / "out" / ".lock").exists()


def test_what_a_refused_run_made_is_removed_but_nothing_else(tmp_path: Path) -> None:
    for path in (tmp_path / "new", tmp_path / "old"):
        if path.name == "old":
            with opened(path) as folder:
                folder.append("key", 0, {})
                folder.write("study.toml", load_study(write(tmp_path, TINY))[0].resolved())
        with pytest.raises(ValueError, match="fault"), opened(path) as folder:
            folder.write("half.txt", "")
            raise ValueError("fault")
        assert path.exists() == (path.name == "old")


# interruptions


ROWS = 24
# So slow to program that no machine finishes the study between two looks at its journal, however busy it is.
SLOW_CELL = """
import time
from devices import PolynomialCell


class SlowCell(PolynomialCell):
    def program(self, target, key):
        time.sleep(0.06)
        return super().program(target, key)
"""
LONG = (
    TINY.replace("trials = 2", f"trials = {ROWS // 2}").replace("epochs = 1", "epochs = 6\n[training.noise_aware]\nepochs = 1")
    + """
[design.cell]
type = "slow_cell:SlowCell"
g_min_siemens = "1 uS"
g_max_siemens = "40 uS"
sigma_coefficients_microsiemens = [2.0]
"""
)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    folder = tmp_path_factory.mktemp("unbroken")
    write(folder, SLOW_CELL, "slow_cell.py")
    study = write(folder, LONG)
    assert run(study, folder / "out") == 0
    return study, (folder / "out" / "trials.csv").read_bytes()


def test_no_interruption_changes_a_bit(unbroken: tuple[str, bytes], tmp_path: Path) -> None:
    """Kill -9 in training, kill -9 with two workers at it, Ctrl-C with two workers, and a last run that comes through."""
    study, expected = unbroken
    out = tmp_path / "out"
    process = start(study, out)
    wait_for(lambda: any((out / "checkpoints").glob("float*.training.pt")), process)
    process.kill()
    process.communicate()
    assert rows(out) == 0 and not any((out / "checkpoints").glob("noise_aware*"))

    process = start(study, out, "--workers", "2")
    wait_for(lambda: rows(out) >= 3, process)
    assert len(group(process.pid) - {process.pid}) >= 2
    process.kill()
    process.communicate()
    killed = rows(out)
    assert 3 <= killed < ROWS and not (out / "trials.csv").exists()
    end = time.monotonic() + 30
    while group(process.pid) and time.monotonic() < end:
        time.sleep(0.05)
    left = group(process.pid)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert left == set(), "worker processes outlive a killed run"

    process = start(study, out, "--workers", "2")
    wait_for(lambda: rows(out) >= killed + 2, process)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does: every process of the group gets it
    printed, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and printed == "", errors
    assert re.fullmatch(rf"inloop: stopped; {rows(out)} finished trials are saved, go on with: inloop run .*--workers 2\n", errors)
    assert killed + 2 <= rows(out) < ROWS

    assert run(study, out) == 0
    assert (out / "trials.csv").read_bytes() == expected
    assert rows(out) == ROWS


def test_a_study_in_python_needs_no_file() -> None:
    study = Study(name="s", model="digits_mlp", data="digits", design="wan_nature_2022", vary={"seconds": ["1 day"]})  # type: ignore[arg-type]
    assert study.points()[1].seconds == 86400.0


def test_the_resolved_study_gives_the_same_bytes_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    import torch

    write(tmp_path, "", "unused.txt")
    torch.save((torch.rand(20, 3, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2), tmp_path / "set.pt")
    write(tmp_path, OWN_CODE, "own_again.py")
    text = 'trials = 2\ndata = "set.pt"\nmodel = "own_again:model"\ndesign = "milo_irps_2021"\n'
    assert run(write(tmp_path, text), tmp_path / "first") == 0
    shutil.move(tmp_path / "study.toml", tmp_path / "gone.toml")
    monkeypatch.chdir(tmp_path / "first")
    assert run("study.toml", tmp_path / "second") == 0
    assert (tmp_path / "second" / "trials.csv").read_bytes() == (tmp_path / "first" / "trials.csv").read_bytes()
