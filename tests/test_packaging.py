"""The wheel: what is in it, and that it works away from the sources; the names that it shares with the world."""

import os
import shutil
import subprocess
import sys
import tomllib
import warnings
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from simulator._names import DISTRIBUTION, IMPORT_NAMES, other_owners, warn_of_other_owners

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

USE = """
import simulator, devices, kernels, benchmarks
from importlib import resources
for module in (simulator, devices, kernels, benchmarks):
    assert module.__file__.startswith({place!r}), module.__file__
names = [info.name for info in devices.presets()]
assert {{"wan_nature_2022", "milo_irps_2021"}} <= set(names), names
assert devices.RRAMCrossbar.preset("wan_nature_2022").replace(adc=None).adc is None
assert devices.bibliography()
print("works")
"""


def pip(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # A copy: building in place would leave a build folder, and take into the wheel what an earlier one left there.
    source = tmp_path_factory.mktemp("source") / "inloop"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    for name in IMPORT_NAMES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    built = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", str(built), str(source))
    (found,) = built.iterdir()
    return found


def test_wheel_holds_code_presets_templates_studies_and_benchmarks(wheel: Path) -> None:
    contents = set(zipfile.ZipFile(wheel).namelist())
    suffixes = {".py", ".bib", ".toml", ".html", ".css", ".j2", ".tex", ".typed"}
    expected = {
        path.relative_to(ROOT).as_posix()
        for name in IMPORT_NAMES
        for path in (ROOT / name).rglob("*")
        if path.suffix in suffixes and "results" not in path.parts and "__pycache__" not in path.parts
    }
    assert expected - contents == set()
    for pattern in ("devices/rram/presets/", "simulator/studies/", "simulator/templates/", "benchmarks/speed/"):
        assert any(name.startswith(pattern) for name in contents), pattern
    assert {name.split("/")[0] for name in contents if ".dist-info/" not in name} == set(IMPORT_NAMES)
    assert any(name.endswith("LICENSE") for name in contents)


def test_wheel_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        texts = {
            name.split("/")[1]: archive.read(name).decode() for name in archive.namelist() if ".dist-info/" in name and name.count("/") == 1
        }
    assert "Classifier: Private :: Do Not Upload" in texts["METADATA"]
    assert "License-Expression: Apache-2.0" in texts["METADATA"]
    for extra in ("quantum", "spiking", "cluster", "link", "data", "models", "test", "notebooks"):
        assert f"Provides-Extra: {extra}\n" in texts["METADATA"]
    assert "inloop = simulator.cli:app" in texts["entry_points.txt"]
    assert "\nspeed/crossbar = benchmarks.speed.crossbar:main\n" in texts["entry_points.txt"].partition("[inloop.benchmarks]")[2]


def test_wheel_works_away_from_the_sources(wheel: Path, tmp_path: Path) -> None:
    place = tmp_path / "installed"
    pip("install", "--no-deps", "--no-index", "--target", str(place), str(wheel))
    environment = {**os.environ, "PYTHONPATH": str(place)}
    done = subprocess.run(
        [sys.executable, "-c", USE.format(place=str(place))], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "works\n"), done.stderr


def test_entry_points_name_what_is_there() -> None:
    from importlib import import_module

    points = {**PROJECT["scripts"], **PROJECT["entry-points"]["inloop.benchmarks"]}
    for name, target in points.items():
        module, _, attribute = target.partition(":")
        assert callable(getattr(import_module(module), attribute)), name


def test_every_constraint_is_a_pin_without_a_local_version() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(line.count("==") == 1 and "+" not in line for line in lines)
    assert "torch==2.13.0" in lines
    assert sorted(lines, key=str.lower) == lines


def test_license_is_the_unmodified_text() -> None:
    import hashlib

    digest = hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest()
    assert digest == "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"  # www.apache.org/licenses/LICENSE-2.0.txt


def install(folder: Path, name: str, files: dict[str, str]) -> None:
    """Put a distribution into a folder: its metadata, and what tells its modules."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    for file, content in files.items():
        (info / file).write_text(content)


def test_another_owner_of_an_import_name_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "zeta", {"RECORD": "zeta/__init__.py,,\nkernels/__init__.py,sha256=a,1\nkernels/more.py,,\n"})
    install(tmp_path, "alpha", {"top_level.txt": "alpha\nkernels\n", "RECORD": "devices/in_no_top_level.py,,\n"})
    install(tmp_path, "other", {"RECORD": "other/kernels/__init__.py,,\nkernels_of_others.py,,\nsimulators/__init__.py,,\n"})
    install(tmp_path, DISTRIBUTION, {"top_level.txt": "kernels\n"})
    monkeypatch.syspath_prepend(tmp_path)
    assert other_owners() == {"kernels": ["alpha", "zeta"]}
    with pytest.warns(UserWarning, match="import name `kernels` must be inloop's alone, but alpha, zeta has it too") as caught:
        warn_of_other_owners()
    assert len(caught) == 1 and "\n" not in str(caught[0].message)


@pytest.mark.parametrize("file", ["devices.py", "devices.cpython-311-x86_64-linux-gnu.so", "devices/__init__.py"])
def test_a_module_of_that_name_is_an_owner_too(file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "rival", {"RECORD": f"{file},sha256=a,1\n"})
    monkeypatch.syspath_prepend(tmp_path)
    assert other_owners() == {"devices": ["rival"]}


def test_the_names_are_those_that_python_finds() -> None:
    owners = metadata.packages_distributions()
    expected = {name: sorted(set(owners.get(name, ())) - {DISTRIBUTION}) for name in IMPORT_NAMES}
    assert other_owners() == {name: found for name, found in expected.items() if found}


def test_no_warning_where_the_names_are_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "distributions", lambda: [metadata.distribution(DISTRIBUTION)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_other_owners()
