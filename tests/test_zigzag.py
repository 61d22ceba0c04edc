"""The cross-check with ZigZag, with a process in its place: what it is asked, what is kept, and what happens where it fails."""

import json
import os
import stat
from pathlib import Path

import pytest

from benchmarks.zigzag import ARRAY, ask, measure, question
from devices.digital import Product

STAND_IN = """#!/bin/sh
cat > "{folder}/question.json"
echo asked >> "{folder}/calls"
echo "ZigZag says many things"
{answer}
"""


def stand_in(folder: Path, answer: str) -> Path:
    path = folder / "python"
    path.write_text(STAND_IN.format(folder=folder, answer=answer))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_a_question_is_asked_once_and_kept_by_its_content(tmp_path: Path) -> None:
    python = stand_in(tmp_path, """echo 'RESULT {"energy_j": 2e-6, "cycles": 4096, "seconds": 1.5}'""")
    cache = tmp_path / "cache"
    task = question(ARRAY, Product(49, 64, 32))
    assert ask(python, task, cache) == ask(python, task, cache) == {"energy_j": 2e-6, "cycles": 4096, "seconds": 1.5}
    assert (tmp_path / "calls").read_text().count("asked") == 1
    assert json.loads((tmp_path / "question.json").read_text()) == task
    ask(python, question(ARRAY, Product(49, 64, 33)), cache)
    assert (tmp_path / "calls").read_text().count("asked") == 2 and len(list(cache.iterdir())) == 2
    assert not [name for name in os.listdir(cache) if not name.endswith(".json")]


def test_the_question_states_the_array() -> None:
    task = question(ARRAY, Product(49, 64, 16))
    assert task["accelerator"]["operational_array"] == {
        "unit_energy": pytest.approx(0.04),
        "unit_area": 1,
        "dimensions": ["D1", "D2"],
        "sizes": [32, 32],
    }
    memories = task["accelerator"]["memories"]
    assert memories["edge"]["size"] == 8 * 2**21 and memories["edge"]["r_cost"] == pytest.approx(416.16)
    assert memories["outer"]["r_cost"] == pytest.approx(700) and memories["outer"]["ports"][0]["bandwidth_max"] == 64
    assert task["workload"][0]["loop_sizes"] == [49, 16, 64] and task["mapping"][0]["spatial_mapping"]["D1"] == ["K, 16"]


def test_ratios_are_of_the_closed_forms_over_the_answer(tmp_path: Path) -> None:
    python = stand_in(tmp_path, """echo 'RESULT {"energy_j": 1e-6, "cycles": 1000, "seconds": 1}'""")
    frame = measure(python, tmp_path / "cache")
    assert (frame["cycles ratio"] == frame["cycles"] / 1000).all() and (frame["energy ratio"] * 1e-6).tolist() == pytest.approx(
        list(frame["energy_j"])
    )
    row = frame.set_index("layer").loc["ResNet-18 fc"]
    # 1 x 512 by 512 x 1000: weights, inputs and sums of four bytes come over 8 bytes a cycle.
    assert row["cycles"] == pytest.approx((512 + 512_000 + 4000) / 8)


def test_a_process_that_fails_is_refused_and_nothing_is_kept(tmp_path: Path) -> None:
    python = stand_in(tmp_path, "echo 'no module named zigzag' >&2; exit 3")
    with pytest.raises(RuntimeError, match=r"ended with status 3: no module named zigzag$"):
        ask(python, question(ARRAY, Product(1, 2, 3)), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
