"""Every notebook runs from a fresh kernel at its small size, and what is committed is a whole run with its outputs."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LONGEST_SECONDS = 120

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path: Path) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code" and "".join(cell["source"]).strip()]


def kinds(cell: dict[str, Any]) -> set[str]:
    """What a cell shows: the types of its outputs, as ``image/png``."""
    return {kind for output in cell["outputs"] for kind in output.get("data", {output["output_type"]: None})}


def executed(path: Path, out: Path) -> Path:
    """Run a copy of a notebook at its small size, as ``make notebooks`` runs the whole one."""
    copy = out / path.name
    copy.write_bytes(path.read_bytes())
    done = subprocess.run(
        [str(Path(sys.executable).parent / "jupyter-execute"), "--inplace", f"--timeout={LONGEST_SECONDS}", copy.name],
        cwd=out,
        env={**os.environ, "INLOOP_SMALL": "1", "PYTHONPATH": str(ROOT), "JUPYTER_PLATFORM_DIRS": "1"},
        capture_output=True,
        text=True,
        timeout=2 * LONGEST_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return copy


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@every_notebook
def test_a_notebook_runs_at_its_small_size_and_shows_what_the_committed_one_shows(path: Path, tmp_path: Path) -> None:
    committed, small = code_cells(path), code_cells(executed(path, tmp_path))
    assert "INLOOP_SMALL" in "".join(committed[0]["source"]), "the first code cell must read INLOOP_SMALL and choose the sizes"
    assert [kinds(cell) for cell in small] == [kinds(cell) for cell in committed]


@every_notebook
def test_what_is_committed_is_one_run_from_top_to_bottom(path: Path) -> None:
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1)), "run it with `make notebooks`"
    wrong = {"error", "stderr"} & {output.get("name", output["output_type"]) for cell in cells for output in cell["outputs"]}
    assert wrong == set()
    shown = json.dumps([cell["outputs"] for cell in cells])
    assert not re.search(r"/(home|root|work|Users|tmp)/", shown), "outputs must not name a folder of one machine"
    assert any("image/png" in kinds(cell) for cell in cells)


@every_notebook
def test_a_notebook_calls_public_names_only(path: Path) -> None:
    lines = [line for cell in code_cells(path) for line in "".join(cell["source"]).splitlines() if not line.startswith("%")]
    tree = ast.parse("\n".join(lines))
    imported = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names]
    modules = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    used = [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    private = [name for name in (*imported, *modules, *used) if re.search(r"(^|\.)_(?!_)", name)]
    assert private == []
