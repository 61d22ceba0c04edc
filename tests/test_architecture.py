"""Rules of the layout: who imports whom, what is random, what is public, and what lies where."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("kernels", "devices", "simulator", "benchmarks")
MAY_IMPORT = {
    "kernels": {"kernels"},
    "devices": {"devices", "kernels"},
    "simulator": {"simulator", "devices", "kernels"},
    "benchmarks": {"benchmarks", "simulator", "devices", "kernels"},
}
PEERS = {"dynamiqs", "jax", "snntorch", "spikingjelly", "zigzag"}
"""What benchmarks compare with, in environments of their own."""
KERNELS_MAY_NEED = {"jaxtyping", "numpy", "numba", "torch"}
TOP_LEVEL = {
    ".ci", ".gitignore", "CHANGELOG.md", "LICENSE", "Makefile", "README.md", "benchmarks", "constraints.txt", "devices", "kernels",
    "notebooks", "pyproject.toml", "simulator", "tests",
}  # fmt: skip
LONGEST_FILE = 500

GLOBAL_TORCH = {
    "bernoulli", "default_generator", "fork_rng", "get_rng_state", "initial_seed", "manual_seed", "multinomial", "normal", "poisson",
    "rand", "rand_like", "randint", "randint_like", "randn", "randn_like", "randperm", "seed", "set_rng_state",
}  # fmt: skip
GLOBAL_TENSOR = {"bernoulli_", "cauchy_", "exponential_", "geometric_", "log_normal_", "normal_", "random_", "uniform_"}
OWN_NUMPY = {"BitGenerator", "Generator", "PCG64", "Philox", "SeedSequence", "default_rng"}
BORROWS_TORCH_GENERATOR = {
    "simulator/_isolation.py",  # code of a user draws from it: seeded for the length of a block and put back
    "simulator/batches.py",  # the same for a user's loader, batch by batch
}


@cache
def files() -> list[str]:
    """Files of the project, relative to its root: what git has or would take, or everything when there is no git."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode == 0:
        return sorted(name for name in listed.stdout.splitlines() if (ROOT / name).is_file())
    made = re.compile(r"(^|/)(\.venv|\.git|\.cache|\.hypothesis|build|dist|results|__pycache__|[^/]*\.egg-info)(/|$)")
    found = (path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if path.is_file())
    return sorted(name for name in found if not made.search(name) or name.startswith("benchmarks/results/"))


def sources(*packages: str) -> list[str]:
    return [name for name in files() if name.endswith(".py") and name.split("/")[0] in packages]


@cache
def tree(name: str) -> ast.Module:
    return ast.parse((ROOT / name).read_text(encoding="utf-8"), filename=name)


def imports(name: str) -> list[tuple[int, str]]:
    """Line and full name of each module that a file imports, also within functions."""
    found = []
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = Path(name).parts[: len(Path(name).parts) - node.level] if node.level else ()
            found.append((node.lineno, ".".join((*above, *filter(None, [node.module])))))
    return found


def dotted(node: ast.expr) -> str:
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join(reversed([*parts, node.id])) if isinstance(node, ast.Name) else ""


def draws_from_global_generators(name: str) -> list[str]:
    """What a file does with a generator that belongs to everybody."""
    found = []
    for line, module in imports(name):
        if module == "random" or module.startswith("numpy.random"):
            found.append(f"{name}:{line}: import {module}")
    nodes = list(ast.walk(tree(name)))
    own = {id(node.func) for node in nodes if isinstance(node, ast.Call) and any(keyword.arg == "generator" for keyword in node.keywords)}
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module in ("torch", "torch.random"):
            found += [f"{name}:{node.lineno}: {alias.name}" for alias in node.names if alias.name in GLOBAL_TORCH]
        if isinstance(node, ast.Attribute) and id(node) not in own:
            path = dotted(node)
            if path.startswith(("np.random.", "numpy.random.")) and path.split(".")[2] not in OWN_NUMPY:
                found.append(f"{name}:{node.lineno}: {path}")
            if re.fullmatch(r"torch(\.random|\.cuda|\.default_generator)?\.\w+", path) and node.attr in GLOBAL_TORCH:
                found.append(f"{name}:{node.lineno}: {path}")
        if (
            isinstance(node, ast.Call)
            and id(node.func) not in own
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in GLOBAL_TENSOR
        ):
            found.append(f"{name}:{node.lineno}: .{node.func.attr}()")
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_those_below_it(package: str) -> None:
    assert sources(package), f"{package} has no files"
    wrong = [
        f"{name}:{line}: {module}"
        for name in sources(package)
        for line, module in imports(name)
        if module.split(".")[0] in {*PACKAGES, "tests"} - MAY_IMPORT[package]
    ]
    assert wrong == []


def test_kernels_need_arrays_and_nothing_else() -> None:
    allowed = KERNELS_MAY_NEED | {"kernels"} | sys.stdlib_module_names
    assert [
        f"{name}:{line}: {module}" for name in sources("kernels") for line, module in imports(name) if module.split(".")[0] not in allowed
    ] == []


def test_what_is_imported_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = project["dependencies"] + [entry for extra in project["optional-dependencies"].values() for entry in extra]
    import_names = {"scikit-learn": "sklearn", "pillow": "PIL", "pyzmq": "zmq"}
    declared = {re.split(r"[^\w-]", entry)[0].lower() for entry in requirements}
    allowed = {import_names.get(entry, entry.replace("-", "_")) for entry in declared} | {*PACKAGES, "tests"} | sys.stdlib_module_names
    wrong = [
        f"{name}:{line}: {module}"
        for name in sources(*PACKAGES, "tests")
        for line, module in imports(name)
        if module.split(".")[0] not in (allowed | PEERS if name.startswith("benchmarks/") else allowed)
    ]
    assert wrong == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_global_generator_is_used(package: str) -> None:
    found = {name: draws_from_global_generators(name) for name in sources(package)}
    assert [line for name, lines in found.items() if name not in BORROWS_TORCH_GENERATOR for line in lines] == []
    unused = {name for name in BORROWS_TORCH_GENERATOR if name.startswith(f"{package}/") and not found.get(name)}
    assert unused == set(), "no exception is needed any more"


@pytest.mark.parametrize(
    ("line", "caught"),
    [
        ("import random", True),
        ("from numpy.random import rand", True),
        ("np.random.seed(0)", True),
        ("np.random.default_rng(0)", False),
        ("torch.randn(3)", True),
        ("torch.randn(3, generator=own)", False),
        ("torch.manual_seed(0)", True),
        ("from torch import randn", True),
        ("torch.Generator().manual_seed(0)", False),
        ("tensor.normal_()", True),
        ("tensor.normal_(generator=own)", False),
        ("torch.random.fork_rng()", True),
        ("torch.random.default_generator.manual_seed(0)", True),
        ("from kernels.random import normal", False),
    ],
)
def test_the_check_for_global_generators_sees(monkeypatch: pytest.MonkeyPatch, line: str, caught: bool) -> None:
    monkeypatch.setattr(sys.modules[__name__], "tree", lambda name: ast.parse(line))
    assert bool(draws_from_global_generators("some/file.py")) == caught


def public(package: str) -> tuple[ModuleType, list[str]]:
    module = importlib.import_module(package)
    return module, list(module.__all__)


@pytest.mark.parametrize("package", ["kernels", "devices", "simulator"])
def test_public_names_are_listed_sorted_and_there(package: str) -> None:
    module, names = public(package)
    assert len(names) == len(set(names)) and all(hasattr(module, name) for name in names)
    own = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "").split(".")[0] in PACKAGES
    }
    assert own - set(names) == set(), "re-exported but not in __all__"


@pytest.mark.parametrize("package", ["kernels", "devices", "simulator"])
def test_no_module_bears_the_name_of_a_public_function(package: str) -> None:
    module, names = public(package)
    modules = {Path(name).stem for name in sources(package) if name.count("/") == 1}
    assert {name for name in names if name in modules and not inspect.ismodule(getattr(module, name))} == set()


@pytest.mark.parametrize("package", ["kernels", "devices", "simulator"])
def test_public_names_are_documented_with_an_example(package: str) -> None:
    module, names = public(package)
    assert (module.__doc__ or "").strip()
    callables = {
        name: getattr(module, name) for name in names if callable(getattr(module, name)) and inspect.getmodule(getattr(module, name))
    }
    assert [name for name, value in callables.items() if not (inspect.getdoc(value) or "").strip()] == []
    functions = {name: value for name, value in callables.items() if inspect.isfunction(value)}
    assert [name for name, value in functions.items() if ">>>" not in (inspect.getdoc(value) or "")] == []
    for name, value in functions.items():
        text = inspect.getdoc(value) or ""
        missing = [argument for argument in inspect.signature(value).parameters if not re.search(rf"\b{argument}\b", text)]
        assert missing == [], f"{name} does not say what {missing} are"


def test_every_public_definition_of_a_module_is_documented() -> None:
    wrong = [
        f"{name}:{node.lineno}: {node.name}"
        for name in sources(*PACKAGES)
        for node in tree(name).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") and not ast.get_docstring(node)
    ]
    assert wrong == []


def test_no_file_is_too_long() -> None:
    lengths = {name: len((ROOT / name).read_text(encoding="utf-8").splitlines()) for name in sources(*PACKAGES, "tests")}
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def test_every_folder_of_code_says_what_belongs_there() -> None:
    folders = {Path(name).parent for name in sources(*PACKAGES, "tests")} | {Path("notebooks")}
    assert [str(folder) for folder in sorted(folders) if not (ROOT / folder / "README.md").is_file()] == []
    long = {name for name in files() if name.endswith("/README.md") and len((ROOT / name).read_text().splitlines()) > 20}
    assert long == set()


def test_every_folder_of_code_is_a_package() -> None:
    folders = {Path(name).parent for name in sources(*PACKAGES)}
    assert [str(folder) for folder in sorted(folders) if not (ROOT / folder / "__init__.py").is_file()] == []


def test_nothing_else_lies_at_the_top() -> None:
    found = {name.split("/")[0] for name in files()}
    assert found - TOP_LEVEL == set()
    assert TOP_LEVEL - found == set()


def test_tests_are_flat() -> None:
    assert [name for name in sources("tests") if name.count("/") != 1] == []
