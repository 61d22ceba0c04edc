# make demo: the quickstart, from nothing. make test: what CI runs.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := demo
.PHONY: demo test lint plain bench notebooks clean

PYTHON ?= $(firstword $(foreach name,python3.11 python3 python,$(shell $(name) -c 'import sys; sys.version_info[:2] == (3, 11) and print("$(name)")' 2>/dev/null)))
BIN := .venv/bin

# Numba does not notice that a callee in another file was edited: another set of sources has another cache.
export NUMBA_CACHE_DIR := $(CURDIR)/.cache/numba/$(shell cat kernels/*.py 2>/dev/null | cksum | tr ' ' '-')
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export HYPOTHESIS_STORAGE_DIRECTORY := $(CURDIR)/.cache/hypothesis
# Nothing was compiled at installation: where Python may not keep what it compiles, every process compiles all of it again (10 s).
unexport PYTHONDONTWRITEBYTECODE

demo: .venv/.installed
	@$(BIN)/inloop run quickstart

# The kernels run twice: compiled, and once more as plain Python, which is when coverage sees their lines. Each process gets tests that
# follow each other, until one of them runs out: they share their fixtures and what Numba compiled for them.
test: export OMP_NUM_THREADS := 1
test: .venv/.installed-test
	@rm -rf .cache/coverage && mkdir -p .cache/coverage
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint plain
	@$(BIN)/pytest -q -n 2 --dist worksteal --cov --cov-append --cov-report=term --cov-fail-under=90 --durations=10

plain: .venv/.installed-test
	@NUMBA_DISABLE_JIT=1 $(BIN)/pytest -q -n 2 --dist worksteal -m kernels --cov --cov-report= tests kernels

lint: .venv/.installed-test
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet . || { $(BIN)/ruff format --check .; exit 1; }
	@$(BIN)/mypy --no-error-summary

bench: .venv/.installed
	@$(BIN)/python -c "import importlib.metadata as m; print(*sorted(m.entry_points(group='inloop.benchmarks').names), sep='\n')" | \
		while read -r name; do echo "$$name"; $(BIN)/inloop bench "$$name" < /dev/null; done

notebooks: .venv/.installed-notebooks
	@shopt -s nullglob; for notebook in notebooks/*.ipynb; do echo "$$notebook"; $(BIN)/jupyter-execute --inplace "$$notebook"; done

clean:
	@rm -rf .venv .cache build dist .hypothesis *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.installed: EXTRA :=
.venv/.installed-test: EXTRA := [test]
.venv/.installed-notebooks: EXTRA := [notebooks]
.venv/.installed .venv/.installed-test .venv/.installed-notebooks: pyproject.toml constraints.txt
	@[ -n "$(PYTHON)" ] || { echo "Python 3.11 is needed, but none is on the PATH; install it, or run make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Installing inloop$(EXTRA) into .venv (minutes the first time)"
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	@$(BIN)/pip install -qq --constraint constraints.txt setuptools
	@# Python compiles what it imports; compiling all that was installed takes longer than installing it.
	@$(BIN)/pip install -qq --no-compile --constraint constraints.txt --no-build-isolation --editable ".$(EXTRA)"
	@touch $@
