"""What the README shows is what happens: its Python runs, block after block, and prints what stands below."""

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?![\w.]*\w)")


def blocks() -> list[tuple[str, str]]:
    """Return the Python blocks and what each prints, empty where nothing is shown."""
    found = re.findall(r"```python\n(.*?)```(?:\n\nprints\n\n```text\n(.*?)```)?", README, re.DOTALL)
    assert len(found) >= 4
    return found


@pytest.mark.long
def test_the_code_runs_and_prints_what_the_readme_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    namespace: dict[str, object] = {}
    shown = 0
    for code, expected in blocks():
        if code.startswith("# my_cell.py"):
            (tmp_path / "my_cell.py").write_text(code)
            lines = [line for line in code.splitlines() if line.strip() and not line.startswith("#")]
            assert len(lines) <= 15
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, "README.md", "exec"), namespace)
        if expected:
            shown += 1
            # Another processor multiplies with other last bits, and a digit or two of a trained network then fall differently.
            words, numbers = NUMBER.split(printed.getvalue()), [float(n) for n in NUMBER.findall(printed.getvalue())]
            assert [re.sub(r"\s+", " ", w) for w in words] == [re.sub(r"\s+", " ", w) for w in NUMBER.split(expected)]
            assert numbers == pytest.approx([float(n) for n in NUMBER.findall(expected)], rel=0.02, abs=0.02)
    assert shown == 5
    sys.modules.pop("my_cell", None)


def test_the_cell_of_the_readme_works_in_a_study(tmp_path: Path) -> None:
    code = next(code for code, _ in blocks() if code.startswith("# my_cell.py"))
    (tmp_path / "my_cell.py").write_text(code)
    study = tmp_path / "own.toml"
    study.write_text(
        'name = "own"\ntrials = 2\n[model]\nname = "digits_mlp"\n[data]\nname = "digits"\n[training]\nepochs = 1\n'
        '[design]\ntype = "devices:RRAMCrossbar"\n[design.cell]\ntype = "my_cell:MyCell"\ng_min_siemens = "1 uS"\ng_max_siemens = "50 uS"\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "simulator.cli", "run", str(study), "--out", str(tmp_path / "out")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "report.html").exists()
